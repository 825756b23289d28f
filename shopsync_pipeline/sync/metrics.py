"""Figures by day as a data frame: currencies put together, days without a row filled, rates.

Only a run of `customer_metrics` imports this, for pandas takes long to import.
"""

from collections.abc import Sequence
from dataclasses import fields

import pandas as pd

from shopsync_pipeline.db.metrics import NO_CURRENCY, DayFigures

COUNTS = ["new", "changed", "deleted", "customers", "email", "sms"]
OF_ALL_CURRENCIES = ["hours", "webhook_lag", "pull_lag"]


def by_day(figures: Sequence[DayFigures]) -> pd.DataFrame:
    """One row for each organization and day, from its first day here to the last of all, without
    gaps; the organizations in the order in which they come.

    Of a day that has no row, nobody was new or deleted, and there were as many customers as the day
    before; what nobody measured is NaN. Columns: COUNTS, OF_ALL_CURRENCIES, `email_rate` and
    `sms_rate` from 0 to 1, NaN without customers.
    """
    rows = _frame(figures)
    rows["day"] = pd.to_datetime(rows["day"])
    rows = rows.astype(dict.fromkeys([*COUNTS, *OF_ALL_CURRENCIES], float))
    if rows.empty:
        return rows.set_index(["organization", "day"]).assign(email_rate=0.0, sms_rate=0.0)
    each = rows.groupby("organization", sort=False)
    filled = {name: _of_one(group, rows["day"].max()) for name, group in each}
    table = pd.concat(filled, names=["organization"])
    living = table["customers"].where(table["customers"] > 0)
    return table.assign(email_rate=table["email"] / living, sms_rate=table["sms"] / living)


def _frame(figures: Sequence[DayFigures]) -> pd.DataFrame:
    return pd.DataFrame(figures, columns=[each.name for each in fields(DayFigures)])


def _of_one(rows: pd.DataFrame, last: pd.Timestamp) -> pd.DataFrame:
    """The days of one organization, its currencies added."""
    days = pd.date_range(rows["day"].min(), last, name="day")
    measured = days.to_series().isin(rows.loc[rows["changed"].notna(), "day"])
    currencies = rows.set_index("day").groupby("currency")[COUNTS]
    filled = [_without_gaps(group, days, measured) for _, group in currencies]
    summed = pd.concat(filled).groupby("day").sum(min_count=1)
    return summed.join(rows.groupby("day")[OF_ALL_CURRENCIES].max())


def _without_gaps(
    rows: pd.DataFrame, days: pd.DatetimeIndex, measured: "pd.Series[bool]"
) -> pd.DataFrame:
    """One currency's days. Where others were measured and this was not, it had no customers."""
    first = rows.iloc[0]
    whole = rows.reindex(days)
    customers = whole["customers"].mask(whole["customers"].isna() & measured, 0.0).ffill()
    before = first["customers"] - first["new"] + first["deleted"]
    return whole.fillna({"new": 0.0, "deleted": 0.0}).assign(customers=customers.fillna(before))


def spend_by_currency(figures: Sequence[DayFigures]) -> pd.DataFrame:
    """The last day's spend, an organization a row and a currency a column, as Decimal; NaN where an
    organization has no customers of that currency."""
    last = max((each.day for each in figures), default=None)
    rows = [each for each in figures if each.day == last and each.currency != NO_CURRENCY]
    return _frame(rows).pivot(index="organization", columns="currency", values="spend")
