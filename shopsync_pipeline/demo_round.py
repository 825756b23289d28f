"""What the demonstration plays, and how it looks whether it went as it must.

Everything it shows is asked of the parts themselves: customers of the store's Admin API
(the simulator's control interface), rows of Postgres, figures of Dagster's materializations.
"""

import time
from typing import Any

import requests as http
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from shopsync_pipeline import local
from shopsync_pipeline.db import requests
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.demo_traffic import STORES, Arrival, DemoStore, Traffic, control, quantile
from shopsync_pipeline.errors import ShopsyncError
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.settings import Settings

EDITED = 7
CREATED = 3
CHANGES = 200
SYNC_SECONDS = 120
ARRIVAL_SECONDS = 60
BETWEEN_SECONDS = 0.05
PAUSE_SECONDS = 1.0
SHOWN = 15

FIGURES = {
    "inserted": "inserted",
    "updated": "updated",
    "unchanged": "unchanged",
    "seconds": "seconds",
    "API points": "points",
}
"""Metadata of a materialization, and the heading it gets here."""


class DemoFailed(ShopsyncError):
    """The round did not end as it must; the message says where."""


class Round:
    """Syncs, edits, syncs again, and says what came of it."""

    def __init__(self, settings: Settings, out: Console, conn: Conn, url: str) -> None:
        self._settings = settings
        self._out = out
        self._conn = conn
        self._url = url
        self._traffic = Traffic(conn, url)
        self.figures: dict[str, dict[str, float]] = {}

    def play(self) -> None:
        """Raises DemoFailed where what is shown is not what must be."""
        self._out.print("there: customers in the store; here: rows in Postgres; points: API cost")
        self._show("1. The hourly sync, first time", self._sync_all_due())
        self._expect(inserted=[store.customers for store in STORES], updated=[0, 0, 0])
        for store in STORES:
            self._edit(store)
        self._show(f"2. After {EDITED} edits and {CREATED} new customers a store", self._sync())
        self._expect(inserted=[CREATED] * 3, updated=[EDITED] * 3)
        self._show("3. With nothing changed", self._sync())
        self._expect(inserted=[0, 0, 0], updated=[0, 0, 0])
        self._ended(self._file("realtime"))
        self._out.print("4. Real-time sync is on: each store sends its changes to the receiver.")
        self._show_traffic("First webhook, from idle", self._played(1))
        self._show_traffic(f"{CHANGES} more", self._played(CHANGES))
        self._expect_equal()
        self._out.print("[green]Every customer is in the table, and nothing was written twice.[/]")

    def go_on(self) -> None:
        """Customers change, and the table of what arrives is kept, until Ctrl-C."""
        self._out.print("Customers go on changing. Ctrl-C stops all.")
        with Live(console=self._out, refresh_per_second=4) as live:
            while True:
                self._traffic.change()
                live.update(self._arrivals_table(self._traffic.latest(SHOWN)))
                time.sleep(PAUSE_SECONDS)

    def _played(self, count: int) -> list[Arrival]:
        """What became of `count` changes, once all of them have arrived."""
        began = self._traffic.clear()
        for _ in range(count):
            self._traffic.change()
            time.sleep(BETWEEN_SECONDS)
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while time.monotonic() < deadline:
            arrivals = self._traffic.arrivals(began)
            if arrivals is not None:
                return arrivals
            time.sleep(local.POLL_SECONDS)
        raise DemoFailed(
            f"Not every webhook became a row within {ARRIVAL_SECONDS} s; see "
            f"{self._settings.home / 'logs'} and: shopsync webhooks dead."
        )

    def _show_traffic(self, title: str, arrivals: list[Arrival]) -> None:
        seconds = sorted(arrival.seconds for arrival in arrivals)
        middle, high = quantile(seconds, 0.5), quantile(seconds, 0.99)
        spread = f" in the median, 99 % in {high:.3f} s" if len(arrivals) > 1 else ""
        self._out.print(f"   {title}: from the store to the row {middle:.3f} s{spread}")
        for run in sorted({arrival.run_id for arrival in arrivals}):
            self._out.print(f"   Run {self._settings.ui_here}/runs/{run}", style="dim")

    def _arrivals_table(self, arrivals: list[Arrival]) -> Table:
        table = Table("Organization", "Topic", "Became", "ms", "Run", box=box.SIMPLE_HEAD)
        for arrival in arrivals:
            milliseconds = f"{arrival.seconds * 1000:.0f}"
            run = arrival.run_id.split("-")[0]
            table.add_row(arrival.organization, arrival.topic, arrival.outcome, milliseconds, run)
        return table

    def _expect_equal(self) -> None:
        for store in STORES:
            here, there = self._rows(store), len(self._control("GET", store, "/customers").json())
            if here != there:
                raise DemoFailed(f"{store.shop} has {there} customers, the table {here}.")

    def _sync_all_due(self) -> list[SyncRequest]:
        """The same as the schedule on the hour: one request for all that are due."""
        return self._ended([requests.file(self._conn, kind="cron", organization_id=None)])

    def _sync(self) -> list[SyncRequest]:
        return self._ended(self._file("sync"))

    def _file(self, kind: str) -> list[str]:
        organizations = [store.organization for store in STORES]
        return [requests.file(self._conn, kind=kind, organization_id=o) for o in organizations]

    def _ended(self, request_ids: list[str]) -> list[SyncRequest]:
        deadline = time.monotonic() + SYNC_SECONDS
        while time.monotonic() < deadline:
            found = [requests.get(self._conn, request_id) for request_id in request_ids]
            ended = [r for r in found if r is not None and r.finished_at is not None]
            for request in ended:
                if request.error:
                    raise DemoFailed(f"The sync failed: {request.error}")
            if len(ended) == len(request_ids):
                return ended
            time.sleep(local.POLL_SECONDS)
        raise DemoFailed(f"No sync within {SYNC_SECONDS} s; see {self._settings.home / 'logs'}.")

    def _show(self, title: str, ended: list[SyncRequest]) -> None:
        table = Table(
            Column("store", no_wrap=True),
            *("there", "here", *FIGURES.values()),
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),  # all headings within 80 columns
        )
        self.figures = {}
        runs = {request.run_id for request in ended}
        for store in STORES:
            here = self._rows(store)
            there = len(self._control("GET", store, "/customers").json())
            figures = self._figures(store)
            self.figures[store.organization] = {**figures, "here": here, "there": there}
            table.add_row(
                store.shop.removesuffix(".myshopify.com"),
                str(there),
                str(here),
                *(f"{figures[name]:g}" for name in FIGURES),
            )
        self._out.print(table)
        for run in runs:
            self._out.print(f"Run {self._settings.ui_here}/runs/{run}", style="dim")

    def _expect(self, *, inserted: list[int], updated: list[int]) -> None:
        for position, store in enumerate(STORES):
            seen = self.figures[store.organization]
            wanted = {"inserted": inserted[position], "updated": updated[position]}
            wrong = {name: seen[name] for name, count in wanted.items() if seen[name] != count}
            if wrong or seen["here"] != seen["there"]:
                raise DemoFailed(
                    f"{store.shop}: expected {wanted} and {seen['there']} rows, but there are "
                    f"{seen['here']} rows and {wrong or 'the right counts'}."
                )

    def _rows(self, store: DemoStore) -> int:
        row = self._conn.execute(
            'SELECT count(*) FROM customers WHERE "organizationId" = %s AND "deletedAt" IS NULL',
            [store.organization],
        ).fetchone()
        return int(row[0]) if row else 0

    def _edit(self, store: DemoStore) -> None:
        ids = self._control("GET", store, "/customers").json()
        for customer in ids[:: len(ids) // EDITED][:EDITED]:
            path = f"/customers/{customer['legacyResourceId']}"
            note = f"edited at {time.time()}"
            self._control("PATCH", store, path, {"set": {"note": note}, "touch": True})
        for _ in range(CREATED):
            self._control("POST", store, "/customers", {})

    def _control(
        self, method: str, store: DemoStore, path: str, body: dict[str, Any] | None = None
    ) -> http.Response:
        return control(self._url, method, store, path, body)

    def _figures(self, store: DemoStore) -> dict[str, float]:
        """Of the organization's latest materialization, as Dagster's UI shows them."""
        answer = http.post(
            f"{self._settings.ui_here}/graphql",
            json={"query": MATERIALIZATION, "variables": {"key": store.organization}},
            timeout=30,
        ).json()
        (latest,) = answer["data"]["assetOrError"]["assetMaterializations"]
        return {
            entry["label"]: entry.get("intValue", entry.get("floatValue"))
            for entry in latest["metadataEntries"]
            if "intValue" in entry or "floatValue" in entry
        }


MATERIALIZATION = """
query Latest($key: String!) {
  assetOrError(assetKey: {path: ["customers"]}) {
    ... on Asset {
      assetMaterializations(partitions: [$key], limit: 1) {
        metadataEntries {
          label
          ... on IntMetadataEntry { intValue }
          ... on FloatMetadataEntry { floatValue }
        }
      }
    }
  }
}
"""
