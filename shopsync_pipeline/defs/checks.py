"""What must hold of `customers`, asked of the whole table: a range run has no single partition
that a check could speak of, so stores are named in the metadata.

The asset's own step evaluates them, also when stores failed: that is when they matter.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec, MetadataValue

from shopsync_pipeline.db import customers as table
from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import Conn, clock

LATE_AFTER = timedelta(hours=2)

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
]


def evaluate(conn: Conn) -> Iterator[AssetCheckResult]:
    """One result for each of SPECS."""
    twice = table.duplicate_keys(conn)
    yield AssetCheckResult(
        check_name="no_duplicate_customers", passed=twice == 0, metadata={"duplicate keys": twice}
    )
    late, troubled = integrations.late(conn, clock(conn) - LATE_AFTER)
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
