"""Tables for a terminal; nothing is read or decided here."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Column, Table

from shopsync_pipeline.db.data_requests import DataRequest
from shopsync_pipeline.db.dead_letters import DeadLetter
from shopsync_pipeline.db.reconciliations import Reconciliation
from shopsync_pipeline.db.status import StoreStatus
from shopsync_pipeline.models import SyncRequest, paused_since
from shopsync_pipeline.sync.doctor import Finding
from shopsync_pipeline.sync.watch import REMEDIES, span

ROOMY = 130
"""Characters, from which on the suffix that all stores share is worth its room."""

STYLES = {"ok": "green", "succeeded": "green", "failed": "red", "left": "dim"}


def stores_table(stores: Sequence[StoreStatus], *, width: int) -> Table:
    """One line a store, in so many characters; what troubles them is told below the table, at its
    full length."""
    table = Table(
        *(Column(name, overflow="fold") for name in ("Organization", "Store")),
        Column("Status", no_wrap=True),
        *("Last sync", "Here"),
        Column("In\nShopify", no_wrap=True),
        Column("Real-time\nsince", no_wrap=True),
        *("Oldest\nevent", "Dead"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for store in stores:
        age, waits = store.last_sync_age, store.oldest_event_age
        table.add_row(
            store.organization_id,
            store.shop.removesuffix(".myshopify.com") if width < ROOMY else store.shop,
            f"[{STYLES.get(store.state, 'yellow')}]{store.state}[/]",
            "never" if age is None else f"{span(age)} ago",
            str(store.customers),
            "" if store.in_shopify is None else str(store.in_shopify),
            f"{store.realtime_since:%Y-%m-%d}" if store.realtime_since else "off",
            "" if waits is None else span(waits),
            f"[red]{store.dead_letters}[/]" if store.dead_letters else "",
        )
    return table


def remedies(stores: Sequence[StoreStatus]) -> list[str]:
    """What to do about each store that is not well, at its full length."""
    told = []
    for store in stores:
        whom = f"{store.organization_id}, {store.shop}"
        if not store.is_active:
            continue
        if store.paused_at is not None:
            since = paused_since(store.organization_id, store.shop, store.paused_at)
            told.append(f"{whom}: {since}")
        elif store.status != "ok" or store.last_error:
            remedy = REMEDIES.get(store.status, "")
            error = store.last_error or f"is {store.status}."
            told.append(f"{whom}: {error}" + ("" if remedy in error else f" {remedy}"))
        if store.dead_letters:
            told.append(f"{whom}: {store.dead_letters} dead letters: shopsync webhooks dead")
    return told


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


def reconciliation_of(each: Reconciliation) -> dict[str, Any]:
    """As JSON tells it."""
    return {
        "organizationId": each.organization_id,
        "shop": each.shop,
        "runId": each.run_id,
        "way": each.way,
        "finishedAt": each.finished_at,
        "rowsRead": each.rows_read,
        "missing": each.missing,
        "drifted": each.drifted,
        "revived": each.revived,
        "deleted": each.deleted,
    }


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


def moment(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M}"
