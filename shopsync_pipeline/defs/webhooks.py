"""From the inbox to a run: the sensor that keeps one drain alive, and the job that is the drain.

Never Dagster's word alone that a run lives: when a run and its code server are killed together,
or a run dies while Postgres is away, the run stays STARTED. A drain lives as long as its session in
Postgres does, any other run as long as its presence has one there.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from dagster import (
    AssetCheckEvaluation,
    AssetMaterialization,
    AssetObservation,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    OpExecutionContext,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    job,
    op,
    sensor,
)
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from shopsync_pipeline.db import inbox, locks
from shopsync_pipeline.db.engine import Conn, clock, read
from shopsync_pipeline.db.lineage import MOST_IDS_TOLD, Report
from shopsync_pipeline.db.locks import LiveDrain
from shopsync_pipeline.defs import checks
from shopsync_pipeline.defs.assets import Metadata
from shopsync_pipeline.defs.jobs import LANE
from shopsync_pipeline.defs.partitions import organizations
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import known_organizations
from shopsync_pipeline.errors import DatabaseTrouble
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline.sync.engine import Engine

log = logging.getLogger(__name__)

LISTEN_SECONDS = 20.0
"""Well under the 60 s after which Dagster gives up an evaluation."""

LOOK_SECONDS = 1.0
HANDOVER_SECONDS = 20.0
STARTS_WITHIN = 30.0
"""Seconds from the request of a run to its start."""

OPENS_WITHIN = 10.0
"""Seconds from the start of a run to the session of its drain."""

DEAD_AFTER = 10.0
"""Seconds between the two looks that find a started run without a session."""

LOST_AFTER = 60.0
"""The same of a run that is no drain: nobody waits for its successor, and one that only has to find
Postgres again must not be failed."""

PATIENCE = 60.0
LOG_AGAIN_SECONDS = 1.0

ENDING = threading.Event()
"""Set when this process, a code server, was told to end."""

SETTINGS = Settings.from_env()


@op(description="Works off the inbox until it was idle for WEBHOOK_LINGER_SECONDS.")
def drain_inbox(context: OpExecutionContext, shopsync: ShopsyncResource) -> None:
    """Dagster calls a check not evaluated that the run of the last materialization has not. So a
    drain that writes evaluates them once."""
    settings = Settings.from_env()
    linger = settings.webhook_linger_seconds
    order = DrainOrder(
        run_id=context.run_id,
        linger=None if linger < 0 else linger,
        most=settings.webhook_drain_max_seconds,
        lease=timedelta(seconds=settings.webhook_lease_seconds),
        patience=PATIENCE,
    )
    until = time.monotonic() + order.most + order.patience
    known = set(known_organizations(context.instance))
    checked = False
    with shopsync.engine() as engine:
        for report in drain(engine, order):
            if report.organization_id not in known:
                context.instance.add_dynamic_partitions(
                    str(organizations.name), [report.organization_id]
                )
                known.add(report.organization_id)
            for event in lineage_of(report, context.run_id):
                _log(context, event, until)
            if not checked:
                _log_checks(context, engine, until)
                checked = True


@job(
    tags={
        LANE: "drain",
        "dagster/priority": "10",
        "dagster/max_runtime": str(int(SETTINGS.webhook_drain_max_seconds + 2 * PATIENCE)),
    },
    description="The one live drain: reads again what webhooks point at, and merges it.",
)
def apply_webhooks() -> None:
    drain_inbox()


def _log_checks(context: OpExecutionContext, engine: Engine, until: float) -> None:
    """That they cannot be evaluated stops no drain."""
    try:
        evaluations = read(engine.pool, lambda conn: list(checks.evaluations(conn)))
    except DatabaseTrouble as trouble:
        log.warning("The checks of customers were not evaluated: %s", trouble)
        return
    for evaluation in evaluations:
        _log(context, evaluation, until)


def _log(
    context: OpExecutionContext,
    event: AssetObservation | AssetMaterialization | AssetCheckEvaluation,
    until: float,
) -> None:
    """As soon as Dagster's database can be had: the drain works on meanwhile, and what it settles
    waits to be reported. Raises DatabaseTrouble when this drain should have ended, at `until` on
    the monotonic clock; the next one reports it then."""
    while True:
        try:
            context.log_event(event)  # type: ignore[arg-type]  # it takes evaluations too
        except (DagsterPostgresException, OperationalError) as trouble:
            log.warning("Dagster's database cannot be had (%s).", type(trouble).__name__)
        else:
            return
        if time.monotonic() > until:
            raise DatabaseTrouble("Dagster's database cannot be had, and the drain is to end.")
        time.sleep(LOG_AGAIN_SECONDS)  # a full disk refuses at once


def lineage_of(report: Report, run_id: str) -> Iterator[AssetObservation | AssetMaterialization]:
    """The inbox was read, and the organization's customers were written. Where its last pull
    failed, or none was whole yet, an observation: a red partition must not turn green."""
    metadata = metadata_of(report, run_id)
    yield AssetObservation("webhook_events", metadata=metadata)
    kind = AssetMaterialization if report.whole else AssetObservation
    yield kind("customers", partition=report.organization_id, metadata=metadata)


def metadata_of(report: Report, run_id: str) -> Metadata:
    count = report.outcomes.get
    told: Metadata = {
        "organization": report.organization_id,
        "events": len(report.event_ids),
        "inserted": count("created", 0),
        "updated": count("updated", 0),
        "deleted": count("deleted", 0) + count("missing", 0),
        "unchanged": count("unchanged", 0),
        "median lag (s)": round(report.median, 3),
        "slowest lag (s)": round(report.slowest, 3),
        "event ids": json.dumps(list(report.event_ids[:MOST_IDS_TOLD])),
    }
    if report.run_id != run_id:
        told["merged by run"] = report.run_id
    return told


@dataclass(frozen=True, kw_only=True)
class StartedRun:
    """A run of the drain's job that Dagster does not call finished; `age` in seconds since its
    start, or since its request where it has not started."""

    run_id: str
    status: DagsterRunStatus
    age: float


def successor_wanted(
    live: Sequence[LiveDrain], runs: Sequence[StartedRun], *, work: bool, most: float
) -> bool:
    """Whether a drain must be requested now.

    One is coming that is queued, or was requested or started a moment ago; one is there that has a
    session, and is replaced from shortly before its end.
    """
    sessions = {each.run_id for each in live}
    coming = [run for run in runs if run.run_id not in sessions and _is_coming(run)]
    handover = most - min(HANDOVER_SECONDS, most / 2)
    staying = [each for each in live if each.age < handover]
    return not coming and not staying and (work or bool(live))


def _is_coming(run: StartedRun) -> bool:
    if run.status in WAITING_STATUSES:
        return True
    return run.age < (OPENS_WITHIN if run.status in RUNNING_STATUSES else STARTS_WITHIN)


WAITING_STATUSES = (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED)
RUNNING_STATUSES = (DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)
NO_SESSION = "It has no session in Postgres: its process died."


def without_session(live: Sequence[LiveDrain], runs: Sequence[StartedRun]) -> set[str]:
    """Runs that Dagster takes for running and that have no session, though they had the time."""
    sessions = {each.run_id for each in live}
    return {
        run.run_id
        for run in runs
        if run.status in RUNNING_STATUSES
        and run.age >= STARTS_WITHIN
        and run.run_id not in sessions
    }


@sensor(
    job=apply_webhooks,
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Listens to the inbox and keeps one drain alive while there is something to do.",
)
def webhook_sensor(context: SensorEvaluationContext, shopsync: ShopsyncResource) -> SensorResult:
    suspects = json.loads(context.cursor or "{}")
    origin = context.code_location_origin
    with shopsync.tick("webhook_sensor") as conn:
        lost = fail_lost(
            conn, context.instance, suspects, location=origin.location_name if origin else None
        )
        wanted, dead = watch(conn, context.instance, suspects, seconds=LISTEN_SECONDS)
    return SensorResult(
        run_requests=[RunRequest()] if wanted else [],
        skip_reason=None if wanted else "Nothing to do, or a drain is at it.",
        cursor=json.dumps({**lost, **dead}),
    )


def watch(
    conn: Conn, instance: DagsterInstance, suspects: Mapping[str, float], *, seconds: float
) -> tuple[bool, dict[str, float]]:
    """Whether a drain is wanted, as soon as one is, at the latest after `seconds`; and the runs
    that look dead, with the moment (seconds since the epoch) at which each was first seen so."""
    locks.listen(conn)
    most = Settings.from_env().webhook_drain_max_seconds
    deadline = time.monotonic() + seconds
    while True:
        live = locks.live_drains(conn)
        runs = _started_runs(conn, instance)
        suspects = _cancel_dead(instance, without_session(live, runs), suspects)
        work = bool(inbox.ready(conn, inbox.ALWAYS))
        if successor_wanted(live, runs, work=work, most=most):
            return True, dict(suspects)
        left = deadline - time.monotonic()
        if left <= 0 or ENDING.is_set():
            return False, dict(suspects)
        if live:
            ENDING.wait(min(left, LOOK_SECONDS))  # its own NOTIFYs need nobody else
        else:
            locks.heard(conn, min(left, LOOK_SECONDS))


def _started_runs(conn: Conn, instance: DagsterInstance) -> list[StartedRun]:
    now = clock(conn)
    unfinished = [*WAITING_STATUSES, DagsterRunStatus.STARTING, *RUNNING_STATUSES]
    records = instance.get_run_records(
        RunsFilter(job_name=apply_webhooks.name, statuses=unfinished)
    )
    return [
        StartedRun(
            run_id=record.dagster_run.run_id,
            status=record.dagster_run.status,
            age=now.timestamp() - (record.start_time or record.create_timestamp.timestamp()),
        )
        for record in records
    ]


def _cancel_dead(
    instance: DagsterInstance, dead: set[str], suspects: Mapping[str, float]
) -> Mapping[str, float]:
    """Free the slot of a drain that is seen dead twice; its claims end with their lease."""
    gone, kept = _seen_twice(dead, suspects, DEAD_AFTER)
    for run_id in gone:
        run = instance.get_run_by_id(run_id)
        if run is not None:
            instance.report_run_canceled(run, NO_SESSION)
    return kept


def fail_lost(
    conn: Conn, instance: DagsterInstance, suspects: Mapping[str, float], *, location: str | None
) -> Mapping[str, float]:
    """Fail the other runs that Dagster takes for running and that are seen twice without a
    session: their slots and their requests are free then. Returns the suspects.

    Only runs of this code location: others may share the Dagster, and have no sessions here.
    """
    started = instance.get_runs(RunsFilter(statuses=list(RUNNING_STATUSES)))
    others = {
        run.run_id: run
        for run in started
        if run.job_name != apply_webhooks.name
        and run.remote_job_origin is not None
        and run.remote_job_origin.location_name == location
    }
    gone, kept = _seen_twice(others.keys() - locks.live_runs(conn), suspects, LOST_AFTER)
    for run_id in gone:
        instance.report_run_failed(others[run_id], NO_SESSION)
    return kept


def _seen_twice(
    dead: set[str], suspects: Mapping[str, float], after: float
) -> tuple[list[str], dict[str, float]]:
    """Who was seen dead so many seconds ago too, and the others with the moment of the first."""
    now = time.time()
    kept = {run_id: suspects.get(run_id, now) for run_id in dead}
    gone = [run_id for run_id, since in kept.items() if now - since >= after]
    return gone, {run_id: since for run_id, since in kept.items() if run_id not in gone}
