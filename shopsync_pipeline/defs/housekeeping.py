"""Every night, what nobody needs any longer goes, so that the databases grow with the stores and
not with time. Dagster itself keeps runs and events for ever.
"""

from datetime import UTC, datetime, timedelta

from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    OpExecutionContext,
    RunRequest,
    RunsFilter,
    ScheduleEvaluationContext,
    job,
    op,
    schedule,
)

from shopsync_pipeline.db import alerts, dagster_tables, requests, unheard
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.defs.metrics import measure_customers
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.webhooks import apply_webhooks
from shopsync_pipeline.settings import Settings

RUNS_KEPT = timedelta(days=30)

REPORTS_KEPT = timedelta(days=7)
"""Superseded plans and observations, the drain's materializations, which may be thousands an hour,
and those of the figures, which hold pictures. As long as the webhooks' bodies."""

FINISHED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


@op(description="Deletes old runs and superseded events of Dagster, and old sync requests.")
def tidy_up(context: OpExecutionContext, shopsync: ShopsyncResource) -> None:
    now = datetime.now(UTC)
    url = Settings.from_env().dagster_postgres_url
    assert url is not None, "dagster.yaml cannot be read without it"
    with shopsync.connection() as conn, connect(url) as dagster:
        answered = requests.expire(conn)
        alerts.expire(conn)
        unheard.expire(conn)
        runs = delete_old_runs(context.instance, dagster, now - RUNS_KEPT)
        chatty = [apply_webhooks.name, measure_customers.name]
        events = sum(dagster_tables.delete_superseded(dagster, now - REPORTS_KEPT, chatty))
    context.add_output_metadata(
        {"runs deleted": runs, "superseded events deleted": events, "requests deleted": answered}
    )


def delete_old_runs(instance: DagsterInstance, conn: Conn, before: datetime) -> int:
    """Delete runs that were finished before that moment; `conn` is to Dagster's own database.

    A run by which Dagster knows the state of a partition or of a check is kept until a later one
    has taken its place: its events would go with it. Returns how many were deleted.
    """
    speaking = dagster_tables.speaking_runs(conn)
    old = instance.get_run_ids(RunsFilter(statuses=FINISHED, updated_before=before))
    gone = [run_id for run_id in old if run_id not in speaking]
    for run_id in gone:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        dagster_tables.delete_check_executions(conn, run_id)
        # Before the run itself: whoever is killed in between finds the run again the next night.
        instance.event_log_storage.delete_events(run_id)
        instance.delete_run(run_id)
    return len(gone)


@job(description="Keeps Dagster's database small, and the table of sync requests.")
def housekeeping() -> None:
    tidy_up()


@schedule(
    job=housekeeping,
    cron_schedule="17 3 * * *",
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Every night, runs older than 30 days and events that newer ones have replaced.",
)
def nightly_housekeeping(
    context: ScheduleEvaluationContext, shopsync: ShopsyncResource
) -> RunRequest:
    with shopsync.tick("nightly_housekeeping"):
        pass
    return RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}")
