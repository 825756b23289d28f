"""Sensors: new organizations become partitions, filed requests become runs."""

from collections.abc import Iterator, Mapping, Sequence, Set

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
from shopsync_pipeline.defs.realtime import Action, enable_realtime_sync
from shopsync_pipeline.defs.reconciliation import reconcile_customers
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import known_organizations, range_run, runs_for_due
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.due import contiguous_ranges


@sensor(
    jobs=[sync_customers, enable_realtime_sync, reconcile_customers],
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Registers new organizations and starts the runs that people and the app ask for.",
)
def sync_request_sensor(
    context: SensorEvaluationContext, shopsync: ShopsyncResource
) -> SensorResult:
    known = known_organizations(context.instance)
    registered = set(known)
    with shopsync.tick("sync_request_sensor") as conn:
        open_requests = requests.unfinished(conn)
        new = [key for key in _organizations(conn, open_requests) if key not in registered]
        keys = [*known, *new]
        queued = [r for r in open_requests if not _ended(conn, context.instance, r)]
        ready = _without_contradictions(conn, open_requests, queued)
        runs = [*_runs_for_people(conn, keys, ready), *_runs_for_cron(conn, keys, ready)]
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


def _organizations(conn: Conn, open_requests: Sequence[SyncRequest]) -> list[str]:
    """Those with a store, and those whose first store a request brings."""
    brought = [r.organization_id for r in open_requests if r.shop and r.organization_id]
    return list(dict.fromkeys([*integrations.organizations(conn), *brought]))


SUBSCRIPTIONS = (enable_realtime_sync.name, "webhook_subscriptions")

KINDS: Sequence[tuple[str, Set[str], tuple[str, str], dict[str, str]]] = (
    ("sync", {"incremental"}, (sync_customers.name, "customers"), {"mode": "incremental"}),
    ("sync", {"full"}, (sync_customers.name, "customers"), {"mode": "full"}),
    ("realtime", {"incremental", "full"}, SUBSCRIPTIONS, {"action": Action.enable.value}),
    ("realtime", {"off"}, SUBSCRIPTIONS, {"action": Action.disable.value}),
    (
        "reconcile",
        {"incremental", "full"},
        (reconcile_customers.name, "customer_reconciliation"),
        {},
    ),
)
"""Kind and modes of requests, the job and the asset that answer them, and the run's config."""


def _without_contradictions(
    conn: Conn, open_requests: Sequence[SyncRequest], queued: Sequence[SyncRequest]
) -> list[SyncRequest]:
    """Of an organization's requests to turn real-time sync on and off the newest counts, and waits
    for runs that earlier ones have: two at once would leave the store as the slower one wants it.
    Those it contradicts fail: whoever waits for one must not take it for done."""
    busy = {r.organization_id for r in open_requests if r.kind == "realtime" and r not in queued}
    newest = {r.organization_id: r for r in queued if r.kind == "realtime"}
    kept = []
    for request in queued:
        last = newest[request.organization_id] if request.kind == "realtime" else request
        if (request.mode == "off") != (last.mode == "off"):
            error = f"{request.organization_id}: replaced by a later request, {last.id}."
            requests.finish(conn, request.id, error=error)
        elif request.kind != "realtime" or request.organization_id not in busy:
            kept.append(request)
    return kept


def _runs_for_people(
    conn: Conn, keys: Sequence[str], queued: Sequence[SyncRequest]
) -> Iterator[RunRequest]:
    """Neighbours who ask for the same share a run; nobody else is pulled in."""
    limit = Settings.from_env().orgs_per_run
    for kind, modes, (job_name, asset_name), how in KINDS:
        asked: dict[str | None, list[SyncRequest]] = {}
        for request in queued:
            if request.kind == kind and request.mode in modes:
                asked.setdefault(request.organization_id, []).append(request)
        _refuse_unknown(conn, keys, asked)
        if "off" not in modes:
            _refuse_paused(conn, asked)
        wanted = {key for key in asked if key is not None}
        for first, last in contiguous_ranges(keys, wanted, limit=limit, bridge=False):
            span = keys[keys.index(first) : keys.index(last) + 1]
            shared = [request for key in span for request in asked[key]]
            yield range_run(
                (first, last),
                "+".join(request.id for request in shared),
                {**how, "request_ids": [request.id for request in shared]},
                {_tag(request): "true" for request in shared},
                job_name=job_name,
                asset_name=asset_name,
            )


def _refuse_unknown(
    conn: Conn, keys: Sequence[str], asked: Mapping[str | None, Sequence[SyncRequest]]
) -> None:
    for unknown in asked.keys() - set(keys):
        for request in asked[unknown]:
            error = f"{unknown}: no such organization. Connect a store: shopsync connect."
            requests.finish(conn, request.id, error=error)


def _refuse_paused(conn: Conn, asked: dict[str | None, list[SyncRequest]]) -> None:
    """Where every store of an organization is paused no run is started, unless for one to be
    connected."""
    stores = integrations.active_of(conn, [each for each in asked if each is not None])
    awake = {store.organization_id for store in stores if store.paused_at is None}
    told: dict[str, list[str]] = {}
    for store in stores:
        told.setdefault(store.organization_id, []).append(store.paused_told or "")
    for organization in told.keys() - awake:
        if any(request.shop for request in asked[organization]):
            continue
        for request in asked.pop(organization):
            requests.finish(conn, request.id, error=" ".join(told[organization]))


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
