"""Figures by organization and day, measured every hour after the sync, with plots to look at.

pandas and matplotlib are imported inside the run: whoever loads the code location needs neither.
"""

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

from dagster import (
    AssetDep,
    AssetExecutionContext,
    AssetSelection,
    DefaultScheduleStatus,
    MaterializeResult,
    MetadataValue,
    RunRequest,
    ScheduleEvaluationContext,
    TableRecord,
    asset,
    define_asset_job,
    schedule,
)

from shopsync_pipeline.db import dictionary, metrics
from shopsync_pipeline.db.engine import clock
from shopsync_pipeline.db.metrics import DayFigures
from shopsync_pipeline.defs import catalog
from shopsync_pipeline.defs.assets import Metadata
from shopsync_pipeline.defs.resources import ShopsyncResource

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_DRAWN = 10
"""Organizations in one plot."""


@asset(
    deps=[AssetDep("customers")],
    group_name="customers",
    kinds={"postgres", "pandas", "matplotlib"},
    owners=catalog.ANALYSTS,
    metadata=catalog.of_table("customer_metrics", dictionary.CUSTOMER_METRICS),
    description=dictionary.TABLES["customer_metrics"],
)
def customer_metrics(
    context: AssetExecutionContext, shopsync: ShopsyncResource
) -> MaterializeResult[None]:
    with shopsync.connection() as conn:
        with conn.transaction():
            measured = metrics.measure(conn, clock(conn))
        rows, organizations = metrics.counts(conn, measured.day)
        figures = metrics.of_the_largest(conn, measured.day, most=MOST_DRAWN)
    told: Metadata = {
        "dagster/row_count": rows,
        "day": measured.day.isoformat(),
        "organizations": organizations,
        "rows of today": measured.today,
        "earlier rows that grew": measured.earlier,
    }
    return MaterializeResult(metadata={**told, **_shown(figures, organizations)})


def _shown(figures: Sequence[DayFigures], organizations: int) -> Metadata:
    """Plots of growth, opt-in and latency of the largest organizations, and their figures today."""
    if not figures:
        return {"largest organizations": "no store is connected"}
    from shopsync_pipeline.sync import plots
    from shopsync_pipeline.sync.metrics import by_day, spend_by_currency

    frame = by_day(figures)
    records = frame.groupby("organization", sort=False).tail(1).reset_index("day", drop=True)
    left = organizations - len(records)
    note = f"\n\n{left} smaller organizations are not drawn." if left else ""
    return {
        "growth": MetadataValue.md(plots.growth(frame) + note),
        "opt-in": MetadataValue.md(plots.opt_in(frame) + note),
        "sync latency": MetadataValue.md(plots.latency(frame) + note),
        "largest organizations": MetadataValue.table(_records(records, spend_by_currency(figures))),
    }


def _records(today: "DataFrame", spend: "DataFrame") -> list[TableRecord]:
    """One for each organization; texts, for a table has one type a column."""
    return [
        TableRecord(
            {
                "organization": str(name),
                **{each: _number(row[each]) for each in ("customers", "new", "changed", "deleted")},
                "e-mail opt-in": _share(row["email_rate"]),
                "SMS opt-in": _share(row["sms_rate"]),
                "hours since sync": "never" if isnan(row["hours"]) else f"{row['hours']:.1f}",
                "spend": _spent(spend, str(name)),
            }
        )
        for name, row in today.iterrows()
    ]


def _spent(spend: "DataFrame", name: str) -> str:
    of_it = spend.reindex([name]).T.dropna()
    return ", ".join(f"{amount:,.2f} {currency}" for currency, (amount,) in of_it.iterrows())


def _number(value: float) -> str:
    return "" if isnan(value) else f"{value:,.0f}"


def _share(value: float) -> str:
    return "" if isnan(value) else f"{value:.1%}"


measure_customers = define_asset_job(
    "measure_customers",
    selection=AssetSelection.assets("customer_metrics"),
    description="Today's figures of all organizations, and what was heard late of earlier days.",
)


@schedule(
    job=measure_customers,
    cron_schedule="15 * * * *",
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Every hour, a quarter of an hour after the sync has begun, the day's figures.",
)
def hourly_customer_metrics(
    context: ScheduleEvaluationContext, shopsync: ShopsyncResource
) -> RunRequest:
    with shopsync.tick("hourly_customer_metrics"):
        pass
    return RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}")
