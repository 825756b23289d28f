"""The demonstration: three simulated stores, synced by a real Dagster into a real Postgres.

Everything it shows is asked of the parts themselves: customers of the store's Admin API
(the simulator's control interface), rows of Postgres, figures of Dagster's materializations.
It always begins anew, for the simulated stores do too.
"""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import requests as http
from rich import box
from rich.console import Console
from rich.table import Column, Table

from shopsync_pipeline import local
from shopsync_pipeline.db import requests
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.errors import ConfigurationError, ShopsyncError
from shopsync_pipeline.models import Credentials, SyncRequest
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.organizations import Engine, open_engine

LATENCY_MS = 50
EDITED = 7
CREATED = 3
SYNC_SECONDS = 120
PAUSE_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class DemoStore:
    organization: str
    shop: str
    customers: int
    kind: str


STORES = (
    DemoStore(
        organization="aurora", shop="aurora-outdoor.myshopify.com", customers=1200, kind="token"
    ),
    DemoStore(
        organization="bergamot", shop="bergamot-beauty.myshopify.com", customers=700, kind="client"
    ),
    DemoStore(
        organization="cobalt", shop="cobalt-cycles.myshopify.com", customers=300, kind="refresh"
    ),
)

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


def run(settings: Settings, out: Console, *, once: bool) -> None:
    """Raises DemoFailed where what is shown is not what must be."""
    settings = _own(settings)
    with _alone(settings), _simulator(settings) as url:
        settings = replace(settings, shopify_endpoint=f"{url}/{{shop}}")
        with local.databases(settings, migrate=True, anew=True) as settings, ExitStack() as stack:
            out.print("Postgres and the simulated stores run. Starting Dagster ...")
            engine = stack.enter_context(open_engine(settings))
            for store in STORES:
                _connect(engine, url, store)
            stack.enter_context(local.dagster_running(settings))
            conn = stack.enter_context(connect(settings.required_database_url()))
            out.print(f"Dagster UI: {local.ui_url(settings)}   Logs: {settings.home / 'logs'}")
            demo = Round(settings, out, conn, url)
            demo.play()
            if not once:
                demo.go_on()


def _own(settings: Settings) -> Settings:
    """The demo's own folder, database and keys, whatever the environment says."""
    home = settings.home / "demo"
    return Settings(home=home, webserver_port=_free(settings.webserver_port))


def _free(port: int) -> int:
    """`port`, or any other where it is taken: the demo must not fail for that."""
    for candidate in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigurationError("No port is free on 127.0.0.1.")


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One demo at a time, and nothing left of the last one's data."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"A demo is running already ({settings.home}). Stop it with Ctrl-C."
            ) from None
        shutil.rmtree(settings.home / "dagster", ignore_errors=True)
        yield


@contextmanager
def _simulator(settings: Settings) -> Iterator[str]:
    """The URL of a simulator in a process of its own."""
    processes = local.Processes(settings)
    try:
        log = processes.start(
            "simulator",
            "shopify_simulator",
            "--port",
            "0",
            "--latency-ms",
            str(LATENCY_MS),
            env=dict(os.environ),
        )
        said = "simulator listening on "
        processes.wait_until(lambda: said in log.read_text(), "The simulator")
        yield log.read_text().split(said, 1)[1].split()[0]
    finally:
        processes.stop()


def _connect(engine: Engine, url: str, store: DemoStore) -> None:
    """Make the simulated store and connect it, each by another kind of credentials."""
    made = http.post(
        f"{url}/_control/stores",
        json={
            "shop": store.shop,
            "customers": store.customers,
            "seed": len(store.shop),
            "refreshToken": "shprt_demo",
        },
        timeout=30,
    )
    made.raise_for_status()
    given = made.json()
    app = {"client_id": given["clientId"], "client_secret": given["clientSecret"]}
    held = {
        "token": Credentials(access_token=given["accessToken"]),
        "client": Credentials(**app),
        "refresh": Credentials(**app, refresh_token="shprt_demo"),  # noqa: S106
    }[store.kind]
    connect_store(engine, organization_id=store.organization, shop=store.shop, held=held)


class Round:
    """Syncs, edits, syncs again, and says what came of it."""

    def __init__(self, settings: Settings, out: Console, conn: Conn, url: str) -> None:
        self._settings = settings
        self._out = out
        self._conn = conn
        self._url = url
        self.figures: dict[str, dict[str, float]] = {}

    def play(self) -> None:
        self._out.print("there: customers in the store; here: rows in Postgres; points: API cost")
        self._show("1. The hourly sync, first time", self._sync_all_due())
        self._expect(inserted=[store.customers for store in STORES], updated=[0, 0, 0])
        for store in STORES:
            self._edit(store)
        self._show(f"2. After {EDITED} edits and {CREATED} new customers a store", self._sync())
        self._expect(inserted=[CREATED] * 3, updated=[EDITED] * 3)
        self._show("3. With nothing changed", self._sync())
        self._expect(inserted=[0, 0, 0], updated=[0, 0, 0])
        self._out.print("[green]Every customer is in the table, and nothing was written twice.[/]")

    def go_on(self) -> None:
        """Customers change and are synced until somebody presses Ctrl-C."""
        self._out.print(f"Customers go on changing every {PAUSE_SECONDS} s. Ctrl-C stops all.")
        while True:
            time.sleep(PAUSE_SECONDS)
            for store in STORES:
                self._edit(store)
            self._show(time.strftime("%H:%M:%S"), self._sync())

    def _sync_all_due(self) -> list[SyncRequest]:
        """The same as the schedule on the hour: one request for all that are due."""
        return self._ended([requests.file(self._conn, kind="cron", organization_id=None)])

    def _sync(self) -> list[SyncRequest]:
        organizations = [store.organization for store in STORES]
        return self._ended(
            [requests.file(self._conn, kind="sync", organization_id=o) for o in organizations]
        )

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
        self._out.print(
            "  ".join(f"Run {local.ui_url(self._settings)}/runs/{run}" for run in runs), style="dim"
        )

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
        url = f"{self._url}/_control/stores/{store.shop}{path}"
        answer = http.request(method, url, json=body, timeout=30)
        answer.raise_for_status()
        return answer

    def _figures(self, store: DemoStore) -> dict[str, float]:
        """Of the organization's latest materialization, as Dagster's UI shows them."""
        answer = http.post(
            f"{local.ui_url(self._settings)}/graphql",
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
