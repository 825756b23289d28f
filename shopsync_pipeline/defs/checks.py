"""What must hold of `customers`, asked of the whole table: a range run has no single partition
that a check could speak of, so stores are named in the metadata.

The asset's own step evaluates them, also when stores failed: that is when they matter. So does each
drain that writes, which is no step of the asset.
"""

from collections.abc import Iterator, Sequence

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    MetadataValue,
)

from shopsync_pipeline.db import customers as table
from shopsync_pipeline.db import integrations, unheard
from shopsync_pipeline.db.engine import Conn, clock
from shopsync_pipeline.db.unheard import Hearing
from shopsync_pipeline.sync.watch import FEW_UNHEARD, SYNC_LATE, loses_webhooks

COUNT_TOLERANCE = 1000
"""One customer in this many may differ: the count was asked before the window was read."""

SPECS = [
    AssetCheckSpec(
        "no_duplicate_customers",
        asset="customers",
        description="One row for each Shopify id and organization.",
    ),
    AssetCheckSpec(
        "stores_are_fresh",
        asset="customers",
        description="Every store that is well was synced within two hours. Stores in trouble are "
        "named as a warning.",
    ),
    AssetCheckSpec(
        "counts_match_shopify",
        asset="customers",
        description="Each store has as many customers here as Shopify last said it has.",
    ),
    AssetCheckSpec(
        "pulls_match_webhooks",
        asset="customers",
        description="Of the changes of the last day in stores with real-time sync, pulls were the "
        "first to bring less than one in twenty: those that were older than five minutes and of "
        "which no webhook had told.",
    ),
]


def evaluate(conn: Conn) -> Iterator[AssetCheckResult]:
    """One result for each of SPECS."""
    twice = table.duplicate_keys(conn)
    yield AssetCheckResult(
        check_name="no_duplicate_customers", passed=twice == 0, metadata={"duplicate keys": twice}
    )
    late, troubled = integrations.late(conn, clock(conn) - SYNC_LATE)
    yield AssetCheckResult(
        check_name="stores_are_fresh",
        passed=not late and not troubled,
        severity=AssetCheckSeverity.ERROR if late else AssetCheckSeverity.WARN,
        metadata={"late": listed(late), "in trouble": listed(troubled)},
    )
    stores = table.counts_by_store(conn)
    differing = list(_differing(stores))
    yield AssetCheckResult(
        check_name="counts_match_shopify",
        passed=not differing,
        severity=AssetCheckSeverity.WARN,
        metadata={"stores": len(stores), "differing": listed(differing)},
    )
    yield _pulls_match_webhooks(conn)


def evaluations(conn: Conn) -> Iterator[AssetCheckEvaluation]:
    """The same, to be logged by a run that is not the asset's."""
    for result in evaluate(conn):
        yield AssetCheckEvaluation(
            asset_key=AssetKey("customers"),
            check_name=str(result.check_name),
            passed=result.passed,
            severity=result.severity,
            metadata=result.metadata,
        )


def _pulls_match_webhooks(conn: Conn) -> AssetCheckResult:
    a_day = unheard.hearing(conn, at_least=FEW_UNHEARD)
    deaf = [_lost(store) for store in a_day if loses_webhooks(store)]
    stores = unheard.hearing(conn)
    heard = sum(store.heard for store in stores)
    missed = sum(store.unheard for store in stores)
    return AssetCheckResult(
        check_name="pulls_match_webhooks",
        passed=not deaf,
        severity=AssetCheckSeverity.WARN,
        metadata={
            "stores": len(stores),
            "changes by webhook, last hour": heard,
            "changes found by a pull, last hour": missed,
            "share by webhook": round(heard / (heard + missed), 4) if heard + missed else 1.0,
            "highest median lag of a store (s)": max((s.median for s in stores), default=0.0),
            "highest lag (s)": max((s.slowest for s in stores), default=0.0),
            "losing webhooks": listed(deaf),
        },
    )


def _lost(store: Hearing) -> str:
    return (
        f"{store.organization_id}, {store.shop}: {store.unheard} changes came by a pull, "
        f"{store.heard} by webhook, after {store.median:.1f} s in the median; see: shopsync doctor"
    )


def _differing(stores: Sequence[table.StoreCount]) -> Iterator[str]:
    for store in stores:
        if abs(store.here - store.in_shopify) * COUNT_TOLERANCE > store.in_shopify:
            yield (
                f"{store.organization_id}, {store.shop}: {store.here} here, {store.in_shopify} in "
                f"Shopify at {store.asked_at:%Y-%m-%d %H:%M} UTC"
            )


def listed(lines: list[str]) -> MetadataValue:
    if not lines:
        return MetadataValue.text("none")
    return MetadataValue.md("\n".join(f"- {line}" for line in lines[:100]))
