"""Tables for a terminal; nothing is read or decided here."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from rich import box
from rich.markup import escape
from rich.table import Column, Table

from shopsync_pipeline.db.data_requests import DataRequest
from shopsync_pipeline.db.dead_letters import DeadLetter
from shopsync_pipeline.db.reconciliations import Reconciliation
from shopsync_pipeline.models import Integration, SyncRequest
from shopsync_pipeline.sync.doctor import Finding

STYLES = {"ok": "green", "succeeded": "green", "failed": "red", "left": "dim"}


def stores_table(stores: Sequence[Integration]) -> Table:
    """One line a store; what troubles them is told below the table, at its full length."""
    store_column = Column("Store", no_wrap=True)
    table = Table(
        "Organization", store_column, "Status", "Last sync (UTC)", "Customers", box=box.SIMPLE_HEAD
    )
    for store in stores:
        status = store.status if store.is_active else "left"
        table.add_row(
            store.organization_id,
            store.shop,
            f"[{STYLES.get(status, 'yellow')}]{status}[/]",
            moment(store.last_sync_at),
            "" if store.customers_count is None else str(store.customers_count),
        )
    return table


def requests_table(requests: Sequence[SyncRequest]) -> Table:
    table = Table(
        *("Organization", "Result", "Inserted", "Updated", "Unchanged"),
        Column("Run", no_wrap=True),
        box=box.SIMPLE_HEAD,
    )
    for request in requests:
        counts = [str(request.counts.get(n, 0)) for n in ("inserted", "updated", "unchanged")]
        table.add_row(
            request.organization_id or "all that are due",
            f"[{STYLES.get(request.status, 'yellow')}]{request.status}[/]",
            *counts,
            _short(request.run_id or ""),
        )
    return table


def reconciliations_table(ended: Sequence[Reconciliation]) -> Table:
    """One line a store; those that failed are told of below the table."""
    table = Table(
        *(Column(name, overflow="fold") for name in ("Organization", "Store")),
        *(Column(name, no_wrap=True) for name in ("Read", "Missing", "Drifted", "Revived")),
        *(Column(name, no_wrap=True) for name in ("Deleted", "Run")),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for each in ended:
        found = (each.rows_read, each.missing, each.drifted, each.revived, each.deleted)
        store = each.shop.removesuffix(".myshopify.com")  # eight columns have 80 characters
        table.add_row(each.organization_id, store, *map(str, found), _short(each.run_id))
    return table


def _short(run_id: str) -> str:
    """As Dagster's UI shows it."""
    return run_id.split("-")[0]


def findings_table(findings: Sequence[Finding]) -> Table:
    table = Table("Check", "", "Finding", box=box.SIMPLE_HEAD)
    for finding in findings:
        mark = "[green]well[/]" if finding.well else "[red]trouble[/]"
        table.add_row(finding.what, mark, escape(finding.told))
    return table


def dead_letters_table(letters: Sequence[DeadLetter]) -> Table:
    table = Table(
        Column("Event", no_wrap=True),
        *("Organization", "Store", "Topic", "Received (UTC)", "Why"),
        box=box.SIMPLE_HEAD,
    )
    for letter in letters:
        table.add_row(
            letter.id,
            letter.organization_id,
            letter.shop,
            letter.topic,
            moment(letter.received_at),
            escape(letter.error),
        )
    return table


def data_requests_table(filed: Sequence[DataRequest]) -> Table:
    table = Table(
        Column("Request", no_wrap=True),
        *("Organization", "Store", "Customer", "Asked (UTC)", "Exported (UTC)"),
        box=box.SIMPLE_HEAD,
    )
    for request in filed:
        table.add_row(
            request.id,
            request.organization_id,
            request.shop,
            str(request.customer_id),
            moment(request.requested_at),
            moment(request.exported_at),
        )
    return table


def progress_text(states: Sequence[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(Counter(states).items()))


def moment(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M}"
