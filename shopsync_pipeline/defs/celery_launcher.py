"""Where more than one machine works: runs go to warm Celery workers.

dagster-celery's launcher, mended where a worker dies with all its processes (the task's result then
says STARTED for ever) and where a person terminates a run (which ended as a failure).
"""

import time
from typing import Any

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

ANSWER_SECONDS = 3.0
"""A worker's main process answers at once, however busy its runs are."""

SILENT_SECONDS = 20.0
"""Longer than a worker needs to find a broker again that was restarted."""


class WarmWorkerLauncher(CeleryRunLauncher):
    """A run is a Celery task of the same id, executed at most once."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._silent_since: dict[str, float] = {}

    @property
    def supports_resume_run(self) -> bool:
        """No: a run whose worker is lost fails, and the next one goes on where it stopped."""
        return False

    def _launch_celery_task_run(
        self, run: DagsterRun, task_signature: Any, routing_key: str
    ) -> None:
        """The id is known and kept before anything is sent, so that no kill of the daemon leaves
        a task that nobody can ask for."""
        self._instance.add_run_tags(run.run_id, {DAGSTER_CELERY_TASK_ID_TAG: run.run_id})
        super()._launch_celery_task_run(run, task_signature.set(task_id=run.run_id), routing_key)

    def terminate(self, run_id: str) -> bool:
        """Tell Dagster first: the run reads there why it is interrupted, and ends as canceled."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        self._interrupt(run_id)
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Lost is a run that Dagster takes for started and that no worker had for SILENT_SECONDS:
        its worker died, or its process ended and could not tell Dagster.

        Raises what the broker's client raises while the broker is away: then nothing is known.
        """
        told = super().check_run_worker_health(run)
        if told.status is WorkerStatus.FAILED:
            return told
        if self._is_at_work(run):
            self._silent_since.pop(run.run_id, None)
            return RUNNING
        since = self._silent_since.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < SILENT_SECONDS:
            return RUNNING
        del self._silent_since[run.run_id]
        self._interrupt(run.run_id)  # where the worker was only cut off, it must not go on
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "No Celery worker has this run.")

    def _is_at_work(self, run: DagsterRun) -> bool:
        """Whether the worker that took the run says that it still has it; where that is unknown,
        whether any worker does."""
        taken = self.celery.AsyncResult(run.run_id).info
        workers = [taken["hostname"]] if isinstance(taken, dict) else None
        asked = self.celery.control.inspect(destination=workers, timeout=ANSWER_SECONDS)
        answers: dict[str, dict[str, Any]] = asked.query_task(run.run_id) or {}
        return any(run.run_id in tasks for tasks in answers.values())

    def _interrupt(self, run_id: str) -> None:
        """SIGTERM to the run's process, which Dagster takes for an interrupt."""
        self.celery.control.revoke(run_id, terminate=True)


RUNNING = CheckRunHealthResult(WorkerStatus.RUNNING)
