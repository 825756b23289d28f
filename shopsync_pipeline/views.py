"""What a terminal shows of stores, runs and findings; nothing is read or decided here."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.markup import escape

from shopsync_pipeline.db.data_requests import DataRequest
from shopsync_pipeline.db.dead_letters import DeadLetter
from shopsync_pipeline.db.reconciliations import Reconciliation
from shopsync_pipeline.db.status import StoreStatus
from shopsync_pipeline.listing import Listing
from shopsync_pipeline.models import SyncRequest, paused_since
from shopsync_pipeline.sync.doctor import Finding
from shopsync_pipeline.sync.watch import REMEDIES, counted, span

STYLES = {"ok": "green", "succeeded": "green", "failed": "red", "left": "dim"}

COUNTS = ("Inserted", "Updated", "Unchanged")


def stores_table(stores: Sequence[StoreStatus]) -> Listing:
    """What troubles them is told below the table, at its full length."""
    return Listing(
        groups=(
            ("Organization", "Store"),
            ("Status", "Last sync", "Real-time since"),
            ("Here", "In Shopify"),
            ("Oldest event", "Dead"),
        ),
        rows=[_store_row(store) for store in stores],
    )


def _store_row(store: StoreStatus) -> dict[str, str]:
    age, waits = store.last_sync_age, store.oldest_event_age
    return {
        "Organization": store.organization_id,
        "Store": store.shop,
        "Status": _styled(store.state),
        "Last sync": "never" if age is None else f"{span(age)} ago",
        "Real-time since": f"{store.realtime_since:%Y-%m-%d}" if store.realtime_since else "off",
        "Here": str(store.customers),
        "In Shopify": "" if store.in_shopify is None else str(store.in_shopify),
        "Oldest event": "" if waits is None else span(waits),
        "Dead": f"[red]{store.dead_letters}[/]" if store.dead_letters else "",
    }


def _styled(state: str) -> str:
    return f"[{STYLES.get(state, 'yellow')}]{state}[/]"


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
            dead = counted(store.dead_letters, "dead letter")
            told.append(f"{whom}: {dead}: shopsync webhooks dead")
    return told


def requests_table(requests: Sequence[SyncRequest]) -> Listing:
    """Why one failed is told below the table."""
    counts = () if all(each.kind == "realtime" for each in requests) else COUNTS
    return Listing(
        groups=(("Organization", "Run"), ("Result",), *((name,) for name in counts)),
        rows=[
            {
                "Organization": request.organization_id or "all that are due",
                "Run": _short(request.run_id or ""),
                "Result": _styled(request.status),
                **{name: str(request.counts.get(name.lower(), 0)) for name in counts},
            }
            for request in requests
        ],
    )


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


def reconciliations_table(ended: Sequence[Reconciliation]) -> Listing:
    """Those that failed are told of below the table."""
    counts = ("Read", "Missing", "Drifted", "Revived", "Deleted")
    return Listing(
        groups=(("Organization", "Store", "Run"), *((name,) for name in counts)),
        rows=[
            {
                "Organization": each.organization_id,
                "Store": each.shop,
                "Read": str(each.rows_read),
                "Missing": str(each.missing),
                "Drifted": str(each.drifted),
                "Revived": str(each.revived),
                "Deleted": str(each.deleted),
                "Run": _short(each.run_id),
            }
            for each in ended
        ],
    )


def _short(run_id: str) -> str:
    """As Dagster's UI shows it."""
    return run_id.split("-")[0]


def findings_table(findings: Sequence[Finding]) -> Listing:
    return Listing(
        groups=(("",), ("Finding",)),
        rows=[
            {
                "": "[green]well[/]" if finding.well else "[red]trouble[/]",
                "Finding": f"[bold]{finding.what}[/]: {escape(finding.told)}",
            }
            for finding in findings
        ],
        prose="Finding",
    )


def dead_letters_table(letters: Sequence[DeadLetter]) -> Listing:
    return Listing(
        groups=(("Event", "Organization", "Store"), ("Received (UTC)", "Topic", "Why")),
        rows=[
            {
                "Event": letter.id,
                "Organization": letter.organization_id,
                "Store": letter.shop,
                "Received (UTC)": moment(letter.received_at),
                "Topic": escape(letter.topic),
                "Why": escape(letter.error),
            }
            for letter in letters
        ],
        prose="Why",
    )


def data_requests_table(filed: Sequence[DataRequest]) -> Listing:
    return Listing(
        groups=(
            ("Request", "Organization", "Store"),
            ("Customer", "Asked (UTC)", "Exported (UTC)"),
        ),
        rows=[
            {
                "Request": request.id,
                "Organization": request.organization_id,
                "Store": request.shop,
                "Customer": str(request.customer_id),
                "Asked (UTC)": moment(request.requested_at),
                "Exported (UTC)": moment(request.exported_at),
            }
            for request in filed
        ],
    )


def moment(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M}"
