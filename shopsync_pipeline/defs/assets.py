"""The assets: what Shopify holds, what the inbox holds, and the table `customers`.

`customers` speaks for each organization by itself: a materialization for every partition that
synced, as it ends, and in the end one failure that names the others. Dagster then shows
exactly those partitions as failed, whatever the range of the run.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from dagster import (
    AssetCheckResult,
    AssetDep,
    AssetExecutionContext,
    AssetMaterialization,
    AssetObservation,
    AssetSpec,
    BackfillPolicy,
    Config,
    MetadataValue,
    asset,
)
from pydantic import Field

from shopsync_pipeline.db import dictionary, lineage, requests
from shopsync_pipeline.db.engine import Conn, read, transact
from shopsync_pipeline.defs import catalog, checks
from shopsync_pipeline.defs.partitions import no_store, organizations, stores_failed
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import MergeCounts
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.connect import connect_brought
from shopsync_pipeline.sync.engine import Engine
from shopsync_pipeline.sync.organizations import OrganizationOutcome, SyncOrder, sync_organizations

Metadata = dict[str, MetadataValue | str | int | float]

shopify_customers = AssetSpec(
    "shopify_customers",
    group_name="customers",
    kinds={"shopify"},
    owners=catalog.OPERATORS,
    metadata=catalog.link(catalog.OF_CUSTOMER),
    description="The customers in the stores themselves, read over Shopify's Admin API.",
)

webhook_events = AssetSpec(
    "webhook_events",
    group_name="customers",
    kinds={"postgres"},
    owners=catalog.OPERATORS,
    metadata={"dagster/table_name": "public.webhook_events", **catalog.link(catalog.OF_WEBHOOKS)},
    description="The inbox of Shopify's webhooks, written as they arrive, outside of any run.",
)


class Mode(Enum):
    incremental = "incremental"
    full = "full"


class CustomersConfig(Config):
    """How to sync; the defaults are what a person means by "sync this organization now"."""

    mode: Mode = Field(
        default=Mode.incremental,
        description="incremental: what changed since the watermark. full: the whole store again.",
    )
    updated_since: str | None = Field(
        default=None,
        description="Read from here on, such as 2026-11-01T00:00:00Z; can only widen the window.",
    )
    only_due: bool = Field(
        default=False,
        description="Leave out stores that are fresh, put off, or being synced by another run.",
    )
    request_ids: list[str] = Field(
        default=[], description="Rows of sync_requests that this run answers."
    )


@asset(
    partitions_def=organizations,
    deps=[AssetDep(shopify_customers), AssetDep(webhook_events)],
    backfill_policy=BackfillPolicy.multi_run(Settings.from_env().orgs_per_run),
    output_required=False,  # the materializations below are the output, one per partition
    check_specs=checks.SPECS,
    group_name="customers",
    kinds={"postgres"},
    owners=catalog.OPERATORS,
    metadata=catalog.of_table("customers", dictionary.CUSTOMERS),
    description=dictionary.TABLES["customers"],
)
def customers(
    context: AssetExecutionContext, config: CustomersConfig, shopsync: ShopsyncResource
) -> Iterator[AssetMaterialization | AssetObservation | AssetCheckResult]:
    cost = Cost()
    order = SyncOrder(
        run_id=context.run.run_id,
        mode=config.mode.value,
        updated_since=_moment(config.updated_since),
        only_due=config.only_due,
    )
    errors: list[str] = []
    with shopsync.engine() as engine:
        transact(engine.pool, lambda conn: requests.begin(conn, config.request_ids, order.run_id))
        refused = connect_brought(engine, config.request_ids)
        for outcome in sync_organizations(engine, context.partition_keys, order):
            told = [*refused.get(outcome.organization_id, ()), *outcome.errors]
            errors.extend(told)
            cost.add(outcome, failed=bool(told))
            _answer(engine, config, outcome, told)
            if not told and not outcome.running_elsewhere:
                yield _told_of(engine, outcome)
        yield from read(engine.pool, lambda conn: list(checks.evaluate(conn)))
    yield AssetObservation("customers", metadata=cost.metadata())
    if errors:
        raise stores_failed(_told(errors))


def _told_of(
    engine: Engine, outcome: OrganizationOutcome
) -> AssetMaterialization | AssetObservation:
    """A store that is paused was not read, so a partition that is red, or was never whole, stays as
    it is. One that is green is materialized: else a range that fails would paint it red."""
    green = not outcome.paused or read(
        engine.pool, lambda conn: lineage.is_whole(conn, outcome.organization_id)
    )
    kind = AssetMaterialization if green else AssetObservation
    return kind("customers", partition=outcome.organization_id, metadata=metadata_of(outcome))


@dataclass
class Cost:
    """Of one run over all its organizations, since this was made: the start of the run's process
    is not in it."""

    organizations: int = 0
    synced: int = 0
    failed: int = 0
    points: float = 0.0
    began: float = field(default_factory=time.monotonic)
    cpu_before: float = field(default_factory=time.process_time)

    def add(self, outcome: OrganizationOutcome, *, failed: bool) -> None:
        results = [store.result for store in outcome.stores if store.result is not None]
        self.organizations += 1
        self.synced += outcome.synced and not failed
        self.failed += failed
        self.points += sum(result.points for result in results)

    def metadata(self) -> Metadata:
        cpu = time.process_time() - self.cpu_before
        return {
            "organizations": self.organizations,
            "synced": self.synced,
            "failed": self.failed,
            "seconds": round(time.monotonic() - self.began, 3),
            "CPU seconds": round(cpu, 3),
            "CPU ms per organization": round(cpu / max(self.organizations, 1) * 1e3, 1),
            "API points": self.points,
        }


def metadata_of(outcome: OrganizationOutcome) -> Metadata:
    """Of the organization's stores together; a store that was fresh says since when."""
    synced = [store.result for store in outcome.stores if store.result is not None]
    fresh = [s.integration.last_sync_at for s in outcome.stores if s.state == "fresh"]
    paused: Metadata = {"paused by hand": "; ".join(outcome.paused)} if outcome.paused else {}
    if not synced:
        since = min((moment for moment in fresh if moment), default=None)
        left: Metadata = {"fresh since": since.isoformat()} if since else {}
        return {**left, **paused} or {"note": "no active store"}
    counts = sum((result.counts for result in synced), MergeCounts())
    begins = [result.since for result in synced if result.since]
    ends = [result.until.isoformat() for result in synced if result.until]
    operations = [result.bulk_operation for result in synced if result.bulk_operation]
    told: Metadata = {
        "rows read": counts.rows,
        "inserted": counts.inserted,
        "updated": counts.updated,
        "unchanged": counts.unchanged,
        "pages": sum(result.pages for result in synced),
        "API requests": sum(result.requests for result in synced),
        "API points": sum(result.points for result in synced),
        "throttle wait (s)": round(sum(result.throttled for result in synced), 3),
        "seconds": round(max(result.seconds for result in synced), 3),
        "window from": min(begins).isoformat() if len(begins) == len(synced) else "the beginning",
        "window to": max(ends, default="not reached"),
    }
    if operations:
        told["bulk operation"] = ", ".join(operations)
    return {**told, **paused}


def _answer(
    engine: Engine, config: CustomersConfig, outcome: OrganizationOutcome, told: list[str]
) -> None:
    """Tell the requests of this organization what became of it; the sensor closes the others.

    That a store is paused fails who asked for that very store, and who asked for its organization
    where nothing of it was synced; never the schedule's.
    """
    if not config.request_ids:
        return
    counts = sum((s.result.counts for s in outcome.stores if s.result is not None), MergeCounts())
    paused = {s.integration.shop: s.error for s in outcome.stores if s.state == "paused"}
    errors = told if config.only_due or outcome.synced else [*told, *outcome.paused]
    if not outcome.stores and not errors:
        errors = [no_store(outcome.organization_id)]

    def end(conn: Conn, ids: list[str], error: str | None) -> None:
        requests.answer(conn, ids, outcome.organization_id, counts=counts, error=error)

    def work(conn: Conn) -> None:
        for request_id in config.request_ids if paused else ():
            request = requests.get(conn, request_id)
            if request and request.organization_id == outcome.organization_id:
                error = paused.get(request.shop or "") or " ".join(errors) or None
                end(conn, [request_id], error)
        end(conn, config.request_ids, " ".join(errors) or None)

    transact(engine.pool, work)


def _told(errors: list[str]) -> str:
    return f"{len(errors)} not synced, all others are. " + " | ".join(errors)


def _moment(text: str | None) -> datetime | None:
    """Raises ConfigurationError for a text that is no time; one without a zone is UTC."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"updated_since is {text!r}, but must be a time such as 2026-11-01T00:00:00Z."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
