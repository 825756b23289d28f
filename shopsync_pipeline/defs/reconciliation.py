"""The weekly reconcile as an asset: a partition is right when its stores were read again whole.

What it found is its metadata. What it wrote is told of `customers`, as the drain does.
"""

import json
from collections.abc import Iterator

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetDep,
    AssetExecutionContext,
    AssetMaterialization,
    AssetObservation,
    AssetSelection,
    BackfillPolicy,
    Config,
    DefaultScheduleStatus,
    MetadataValue,
    RunRequest,
    ScheduleEvaluationContext,
    SkipReason,
    TableRecord,
    asset,
    define_asset_job,
    schedule,
)
from pydantic import Field

from shopsync_pipeline.db import lineage, reconciliations, requests
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.db.reconciliations import FINDINGS, Reconciliation
from shopsync_pipeline.defs import catalog
from shopsync_pipeline.defs.assets import Metadata
from shopsync_pipeline.defs.checks import listed
from shopsync_pipeline.defs.jobs import LANE
from shopsync_pipeline.defs.partitions import no_store, organizations, stores_failed
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import runs_over
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.engine import Engine
from shopsync_pipeline.sync.reconcile import (
    OrganizationReconciliation,
    ReconcileOrder,
    StoreReconciliation,
    reconcile_organizations,
)
from shopsync_pipeline.sync.watch import has_drifted

MOST_IDS_TOLD = 100
"""Ids of customers in one materialization; the others are found by their run."""

DRIFT_IS_RARE = AssetCheckSpec(
    "drift_is_rare",
    asset="customer_reconciliation",
    description="In the last reconcile of each store at most one row in a thousand was missing, "
    "deleted unseen, or other than in the store.",
)


class ReconcileConfig(Config):
    """The defaults are what a person means by "reconcile this organization now"."""

    only_due: bool = Field(
        default=False,
        description="Leave out stores whose weekly turn it is not, that are put off, or that "
        "another run reconciles.",
    )
    request_ids: list[str] = Field(
        default=[], description="Rows of sync_requests that this run answers."
    )


@asset(
    partitions_def=organizations,
    deps=[AssetDep("shopify_customers")],
    backfill_policy=BackfillPolicy.multi_run(Settings.from_env().orgs_per_run),
    output_required=False,  # the materializations below are the output, one per partition
    check_specs=[DRIFT_IS_RARE],
    group_name="customers",
    kinds={"postgres"},
    owners=catalog.OPERATORS,
    metadata={"dagster/table_name": "public.reconciliations"},
    description="Each store read again whole and compared, and every difference mended.",
)
def customer_reconciliation(
    context: AssetExecutionContext, config: ReconcileConfig, shopsync: ShopsyncResource
) -> Iterator[AssetMaterialization | AssetObservation | AssetCheckResult]:
    order = ReconcileOrder(run_id=context.run.run_id, only_due=config.only_due)
    errors: list[str] = []
    with shopsync.engine() as engine:
        transact(engine.pool, lambda conn: requests.begin(conn, config.request_ids, order.run_id))
        for outcome in reconcile_organizations(engine, context.partition_keys, order):
            errors.extend(outcome.errors)
            _answer(engine, config.request_ids, outcome)
            yield from _lineage_of(engine, outcome)
            if not outcome.errors and not outcome.running_elsewhere:
                yield _told_of(outcome)
        yield read(engine.pool, _drift_is_rare)
    if errors:
        raise stores_failed(_told(errors))


def _told_of(outcome: OrganizationReconciliation) -> AssetMaterialization | AssetObservation:
    """Materialized is what was read whole: no store that was paused in mid-sweep, and none where
    all that there was to reconcile is paused."""
    cut_off = any(store.state == "paused" and store.result for store in outcome.stores)
    fresh = any(store.reconciled_at for store in outcome.stores)
    nothing = bool(outcome.paused) and not outcome.reconciled and not fresh
    kind = AssetObservation if cut_off or nothing else AssetMaterialization
    return kind(
        "customer_reconciliation",
        partition=outcome.organization_id,
        metadata=metadata_of(outcome),
    )


def _lineage_of(
    engine: Engine, outcome: OrganizationReconciliation
) -> Iterator[AssetMaterialization | AssetObservation]:
    """That the organization's customers were written, where they were; also by one that failed."""
    if not any(result.written for result in outcome.results):
        return
    whole = read(engine.pool, lambda conn: lineage.is_whole(conn, outcome.organization_id))
    kind = AssetMaterialization if whole else AssetObservation
    yield kind("customers", partition=outcome.organization_id, metadata=_sums(outcome))


def metadata_of(outcome: OrganizationReconciliation) -> Metadata:
    """What was found in all stores together and in each, with some ids to look at."""
    paused: Metadata = {"paused by hand": "; ".join(outcome.paused)} if outcome.paused else {}
    if not outcome.results:
        moments = [store.reconciled_at for store in outcome.stores if store.reconciled_at]
        since = min(moments, default=None)
        before: Metadata = {"reconciled before": since.isoformat()} if since else {}
        return {**before, **paused} or {"note": "nothing to do"}
    ids = {
        kind: [number for result in outcome.results for number in result.samples[kind]]
        for kind in FINDINGS
    }
    most = MOST_IDS_TOLD // len(FINDINGS)
    told: Metadata = {
        **_sums(outcome),
        **paused,
        "stores": MetadataValue.table([_record(s) for s in outcome.stores if s.result]),
    }
    if any(ids.values()):
        told["sample ids"] = json.dumps({kind: some[:most] for kind, some in ids.items() if some})
    return told


def _sums(outcome: OrganizationReconciliation) -> Metadata:
    results = outcome.results
    return {
        "rows read": sum(result.rows_read for result in results),
        **{kind: sum(result.found[kind] for result in results) for kind in FINDINGS},
        "changed meanwhile": sum(result.changed_meanwhile for result in results),
    }


def _record(store: StoreReconciliation) -> TableRecord:
    result = store.result
    assert result is not None
    return TableRecord(
        {
            "store": store.integration.shop,
            "way": result.way,
            "state": store.state,
            "rows read": result.rows_read,
            **{kind: result.found[kind] for kind in FINDINGS},
            "changed meanwhile": result.changed_meanwhile,
            "seconds": round(result.seconds, 3),
            "API points": result.points,
        }
    )


def _drift_is_rare(conn: Conn) -> AssetCheckResult:
    stores = reconciliations.latest(conn)
    drifting = [_line(store) for store in stores if has_drifted(store)]
    return AssetCheckResult(
        check_name="drift_is_rare",
        passed=not drifting,
        severity=AssetCheckSeverity.WARN,
        metadata={"stores": len(stores), "drifting": listed(drifting)},
    )


def _line(store: Reconciliation) -> str:
    """Without webhooks nothing but a reconcile hears of deletions, so that is said along."""
    return (
        f"{store.organization_id}, {store.shop}: of {store.rows_read} customers {store.missing} "
        f"were missing, {store.drifted} drifted, {store.revived} deleted only here, "
        f"{store.deleted} deleted unseen, at {store.finished_at:%Y-%m-%d %H:%M} UTC"
        + ("" if store.realtime else "; its real-time sync is off")
    )


def _answer(engine: Engine, request_ids: list[str], outcome: OrganizationReconciliation) -> None:
    """Tell the requests of this organization what became of it. That a store is paused fails them
    only where no other was reconciled."""
    if not request_ids:
        return
    paused = () if outcome.reconciled else outcome.paused
    error = " ".join((*outcome.errors, *paused)) or None
    if not outcome.stores:
        error = no_store(outcome.organization_id)
    transact(
        engine.pool,
        lambda conn: requests.answer(
            conn, request_ids, outcome.organization_id, counts=outcome.counts, error=error
        ),
    )


def _told(errors: list[str]) -> str:
    return f"{len(errors)} not reconciled, all others are. " + " | ".join(errors)


reconcile_customers = define_asset_job(
    "reconcile_customers",
    selection=AssetSelection.assets("customer_reconciliation"),
    description="Read the stores of one organization or a range of them again whole, and mend "
    "what differs.",
    tags={LANE: "reconcile"},
)


@schedule(
    job=reconcile_customers,
    cron_schedule="30 * * * *",
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Every hour, the stores whose weekly turn has come; each has an hour of its own.",
)
def hourly_reconciliation(
    context: ScheduleEvaluationContext, shopsync: ShopsyncResource
) -> list[RunRequest] | SkipReason:
    """A range spans no organization whose turn it is not: a failed run would show it as failed."""
    with shopsync.tick("hourly_reconciliation") as conn:
        due = set(reconciliations.due_organizations(conn, clock(conn)))
    if not due:
        return SkipReason("It is no store's turn.")
    return runs_over(
        context,
        due,
        {"only_due": True},
        bridge=False,
        job_name=reconcile_customers.name,
        asset_name="customer_reconciliation",
    )
