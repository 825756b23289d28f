"""Tables for a terminal; nothing is read or decided here."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from shopsync_pipeline.models import Integration, SyncRequest
from shopsync_pipeline.sync.doctor import Finding

STYLES = {"ok": "green", "succeeded": "green", "failed": "red", "left": "dim"}


def stores_table(stores: Sequence[Integration]) -> Table:
    table = Table("Organization", "Store", "Status", "Last sync", "Customers", "Trouble")
    for store in stores:
        status = store.status if store.is_active else "left"
        table.add_row(
            store.organization_id,
            store.shop,
            f"[{STYLES.get(status, 'yellow')}]{status}[/]",
            moment(store.last_sync_at),
            "" if store.customers_count is None else str(store.customers_count),
            store.last_error or "",
        )
    return table


def requests_table(requests: Sequence[SyncRequest]) -> Table:
    table = Table("Organization", "Result", "Inserted", "Updated", "Unchanged", "Run")
    for request in requests:
        counts = [str(request.counts.get(n, 0)) for n in ("inserted", "updated", "unchanged")]
        table.add_row(
            request.organization_id or "all that are due",
            f"[{STYLES.get(request.status, 'yellow')}]{request.status}[/]",
            *counts,
            request.run_id or "",
        )
    return table


def findings_table(findings: Sequence[Finding]) -> Table:
    table = Table("Check", "", "Finding")
    for finding in findings:
        mark = "[green]well[/]" if finding.well else "[red]trouble[/]"
        table.add_row(finding.what, mark, finding.told)
    return table


def progress_text(states: Sequence[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(Counter(states).items()))


def moment(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"
