"""Sensors: new organizations become partitions, filed requests become runs."""

from collections.abc import Iterator, Sequence

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)

from shopsync_pipeline.db import integrations, requests
from shopsync_pipeline.db.engine import Conn, clock
from shopsync_pipeline.defs.jobs import sync_customers
from shopsync_pipeline.defs.partitions import organizations
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import known_organizations, range_run, runs_for_due
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.due import contiguous_ranges


@sensor(
    job=sync_customers,
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Registers new organizations and starts the runs that people and the app ask for.",
)
def sync_request_sensor(
    context: SensorEvaluationContext, shopsync: ShopsyncResource
) -> SensorResult:
    known = known_organizations(context.instance)
    registered = set(known)
    with shopsync.connection() as conn:
        new = [key for key in integrations.organizations(conn) if key not in registered]
        keys = [*known, *new]
        queued = [r for r in requests.unfinished(conn) if not _ended(conn, context.instance, r)]
        runs = [*_runs_for_people(conn, keys, queued), *_runs_for_cron(conn, keys, queued)]
    return SensorResult(
        run_requests=runs,
        dynamic_partitions_requests=[organizations.build_add_request(new)] if new else [],
        skip_reason=None if runs else "Nothing is asked for.",
    )


def _ended(conn: Conn, instance: DagsterInstance, request: SyncRequest) -> bool:
    """Whether runs were started for it already; it is closed when all of them are over.

    A run answers a request itself. What is still open after its runs was cut off, or is a
    request for all that are due, which no single run can close.
    """
    runs = _runs_of(instance, request)
    if not runs:
        return False
    if all(run.is_finished for run in runs):
        cut_off = [run for run in runs if run.status is not DagsterRunStatus.SUCCESS]
        requests.finish(conn, request.id, error=_cut_off(cut_off[0]) if cut_off else None)
    return True


def _cut_off(run: DagsterRun) -> str:
    return (
        f"Run {run.run_id} ended as {run.status.value} without an answer; see it in Dagster, then "
        "ask again."
    )


def _runs_of(instance: DagsterInstance, request: SyncRequest) -> Sequence[DagsterRun]:
    return instance.get_runs(RunsFilter(tags={_tag(request): "true"}))


def _tag(request: SyncRequest) -> str:
    return f"shopsync_request/{request.id}"


def _runs_for_people(
    conn: Conn, keys: Sequence[str], queued: Sequence[SyncRequest]
) -> Iterator[RunRequest]:
    """Neighbours who ask for the same mode share a run; nobody else is pulled in."""
    for mode in ("incremental", "full"):
        asked = {r.organization_id: r for r in queued if r.kind == "sync" and r.mode == mode}
        for unknown in set(asked) - set(keys):
            requests.finish(
                conn,
                asked[unknown].id,
                error=f"{unknown}: no such organization. Connect a store: shopsync connect.",
            )
        wanted = {key for key in asked if key is not None}
        limit = Settings.from_env().orgs_per_run
        for first, last in contiguous_ranges(keys, wanted, limit=limit, bridge=False):
            shared = [asked[key] for key in keys[keys.index(first) : keys.index(last) + 1]]
            yield range_run(
                (first, last),
                "+".join(request.id for request in shared),
                {"mode": mode, "request_ids": [request.id for request in shared]},
                {_tag(request): "true" for request in shared},
            )


def _runs_for_cron(
    conn: Conn, keys: Sequence[str], queued: Sequence[SyncRequest]
) -> Iterator[RunRequest]:
    for request in queued:
        if request.kind != "cron":
            continue
        due, _ = integrations.due_organizations(conn, clock(conn))
        runs = runs_for_due(
            keys, due, run_key=request.id, tags={_tag(request): "true"}, request_ids=[request.id]
        )
        if not runs:
            requests.finish(conn, request.id, error=None)
        yield from runs
