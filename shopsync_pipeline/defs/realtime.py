"""Real-time sync as an asset: a partition is right when its stores send us their webhooks.

Materializing one turns real-time sync on or mends it; the schedule mends those where it is on.
"""

from collections.abc import Iterator
from enum import Enum

from dagster import (
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
    asset,
    define_asset_job,
    schedule,
)
from pydantic import Field

from shopsync_pipeline.db import integrations, requests
from shopsync_pipeline.db.engine import clock, transact
from shopsync_pipeline.defs import catalog
from shopsync_pipeline.defs.assets import Metadata
from shopsync_pipeline.defs.jobs import LANE
from shopsync_pipeline.defs.partitions import no_store, organizations, stores_failed
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import runs_over
from shopsync_pipeline.models import MergeCounts
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.subscriptions import SET_IN_THE_APP
from shopsync_pipeline.sync.engine import Engine
from shopsync_pipeline.sync.subscriptions import (
    OrganizationSubscriptions,
    StoreSubscriptions,
    receiver_of,
    settle_subscriptions,
)


class Action(Enum):
    enable = "enable"
    check = "check"
    disable = "disable"


class RealtimeConfig(Config):
    """What to do; the default is what a person means by "turn real-time sync on"."""

    action: Action = Field(
        default=Action.enable,
        description="enable: subscribe to the webhooks and keep them. check: mend them, where "
        "real-time sync is on. disable: remove them.",
    )
    request_ids: list[str] = Field(
        default=[], description="Rows of sync_requests that this run answers."
    )


@asset(
    partitions_def=organizations,
    backfill_policy=BackfillPolicy.multi_run(Settings.from_env().orgs_per_run),
    output_required=False,  # the materializations below are the output, one per partition
    group_name="customers",
    kinds={"shopify"},
    owners=catalog.OPERATORS,
    metadata=catalog.link(catalog.OF_WEBHOOKS),
    description="The webhooks that each organization's stores send us, as Shopify keeps them. "
    "Materialize to turn real-time sync on and to mend it.",
)
def webhook_subscriptions(
    context: AssetExecutionContext, config: RealtimeConfig, shopsync: ShopsyncResource
) -> Iterator[AssetMaterialization | AssetObservation]:
    """A failed run shows all of its range as failed that it did not materialize. So what a check
    found unchanged, and would leave unsaid, is materialized where others failed. What is red stays
    so while its store is put off or paused: nobody looked."""
    failed: list[str] = []
    unsaid: list[AssetMaterialization] = []
    with shopsync.engine() as engine:
        transact(
            engine.pool,
            lambda conn: requests.begin(conn, config.request_ids, context.run.run_id),
        )
        for outcome in settle_subscriptions(engine, context.partition_keys, config.action.value):
            _answer(engine, config.request_ids, outcome)
            failed.extend(outcome.errors)
            if outcome.errors or outcome.notes("put_off"):
                continue
            if config.action is Action.check and not outcome.changed:
                unsaid.extend([] if _paused_in_trouble(outcome) else [_materialization(outcome)])
            elif config.action is Action.enable and _paused_and_off(outcome):
                yield AssetObservation(
                    "webhook_subscriptions",
                    partition=outcome.organization_id,
                    metadata=_metadata_of(outcome),
                )
            else:
                yield _materialization(outcome)
    if failed:
        yield from unsaid
        raise stores_failed(_told(failed))


def _paused_in_trouble(outcome: OrganizationSubscriptions) -> bool:
    stores = [s.integration for s in outcome.stores if s.state == "paused"]
    return any(store.last_error is not None for store in stores)


def _paused_and_off(outcome: OrganizationSubscriptions) -> bool:
    """Whether a store that is paused has not what `enable` would have given it, as far as known."""
    stores = [s.integration for s in outcome.stores if s.state == "paused"]
    return _paused_in_trouble(outcome) or any(store.realtime_since is None for store in stores)


def _materialization(outcome: OrganizationSubscriptions) -> AssetMaterialization:
    return AssetMaterialization(
        "webhook_subscriptions",
        partition=outcome.organization_id,
        metadata=_metadata_of(outcome),
    )


def _metadata_of(outcome: OrganizationSubscriptions) -> Metadata:
    results = [store.result for store in outcome.stores]
    lines = [_line(store) for store in outcome.stores] or ["no active store"]
    return {
        "topics on": sum(len(result.topics) for result in results),
        "created": sum(len(result.topics_of("create")) for result in results),
        "updated": sum(len(result.topics_of("update")) for result in results),
        "removed": sum(len(result.topics_of("remove")) for result in results),
        "API requests": sum(result.requests for result in results),
        "stores": MetadataValue.md("\n".join(f"- {line}" for line in lines)),
        "set in the app's own configuration": ", ".join(SET_IN_THE_APP),
    }


def _line(store: StoreSubscriptions) -> str:
    """What an operator wants to know of one store."""
    missing = [f"{topic} needs {scope}" for topic, scope in store.result.lacking.items()]
    notes = [store.note] if store.note else []
    if missing:
        notes.append(f"not subscribed: {', '.join(missing)}")
    return f"{store.integration.shop}: {store.state}" + "".join(f"; {note}" for note in notes)


def _answer(engine: Engine, request_ids: list[str], outcome: OrganizationSubscriptions) -> None:
    """Tell the requests of this organization whether its real-time sync is as they asked. That a
    store is paused fails them only where no other has it now."""
    if not request_ids:
        return
    paused = () if outcome.notes("on") else outcome.notes("paused")
    told = (*outcome.errors, *outcome.notes("no_address"), *paused)
    error = " ".join(told) or None
    if not outcome.stores:
        error = no_store(outcome.organization_id)
    transact(
        engine.pool,
        lambda conn: requests.answer(
            conn, request_ids, outcome.organization_id, counts=MergeCounts(), error=error
        ),
    )


def _told(failed: list[str]) -> str:
    return f"{len(failed)} without the webhooks they should have. " + " | ".join(failed)


enable_realtime_sync = define_asset_job(
    "enable_realtime_sync",
    selection=AssetSelection.assets("webhook_subscriptions"),
    description="Turn real-time sync on for one organization or a range of them, or mend it.",
    tags={LANE: "pull"},
)


@schedule(
    job=enable_realtime_sync,
    cron_schedule="30 * * * *",
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Every hour, the webhooks of all stores with real-time sync; what Shopify has "
    "dropped is subscribed again.",
)
def hourly_subscription_check(
    context: ScheduleEvaluationContext, shopsync: ShopsyncResource
) -> list[RunRequest] | SkipReason:
    """A range may span organizations without real-time sync, which a check leaves alone."""
    settings = Settings.from_env()
    with shopsync.tick("hourly_subscription_check") as conn:
        wanted = set(integrations.realtime_organizations(conn, clock(conn)))
    if not wanted:
        return SkipReason("No store that is well has real-time sync.")
    receiver = receiver_of(settings)
    if isinstance(receiver, str):
        return SkipReason(receiver)
    return runs_over(
        context,
        wanted,
        {"action": Action.check.value},
        bridge=True,
        job_name=enable_realtime_sync.name,
        asset_name="webhook_subscriptions",
    )
