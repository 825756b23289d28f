"""A deployment as `shopsync up` has it, without receiver and UI: its databases, Dagster's daemon
and the runs that it starts, over stores of a simulator; and what its processes cost."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
import requests as http

from benchmarks.stage import FREE
from shopsync_pipeline.db import credentials, integrations, requests
from shopsync_pipeline.db.engine import Conn, clock, connect, libpq_url, transact
from shopsync_pipeline.local import databases, environment, project_file
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.engine import Engine, open_engine
from shopsync_pipeline.sync.organizations import SyncOrder, sync_organizations

CHANGES = 5
CUSTOMERS = 50
TICK_SECONDS = 900
READY_SECONDS = 120
POLL_SECONDS = 0.1
UNFINISHED = "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"


@contextmanager
def deployment(home: Path, simulated: str, **settings: Any) -> Iterator[Settings]:
    """Its databases, migrated, and the settings with which its processes run."""
    given = Settings.from_env(
        {"SHOPSYNC_HOME": str(home), "SHOPIFY_ENDPOINT": f"{simulated}/{{shop}}"}
    )
    with databases(replace(given, **settings), migrate=True) as prepared:
        yield prepared


@contextmanager
def daemon(settings: Settings, stores: "Stores") -> Iterator[psutil.Process]:
    """Dagster's daemon with its code server, which know all the stores' organizations."""
    workspace = str(project_file("workspace.yaml"))
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", workspace]
    # Where Python may write no bytecode, each start would compile all of Dagster again.
    env = environment(settings) | {"PYTHONPYCACHEPREFIX": str(settings.home / "bytecode")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    with (
        (settings.home / "daemon.log").open("ab") as log,
        subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            count = len(stores.organizations)
            wait_until(lambda: _registered(settings, count), "all organizations as partitions")
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def cpu_of(root: psutil.Process) -> float:
    """Seconds of CPU of a process and of all that descend from it, those that have ended too."""
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def wait_until(done: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} not within {seconds} s")
        time.sleep(POLL_SECONDS)


def in_dagster(settings: Settings, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Rows of Dagster's own database."""
    assert settings.dagster_postgres_url is not None
    with psycopg.connect(libpq_url(settings.dagster_postgres_url), autocommit=True) as conn:
        cursor = conn.execute(statement, arguments)
        return cursor.fetchall() if cursor.description else []


class Stores:
    """One simulated store for each organization, synced once; every hour some customers change."""

    def __init__(self, settings: Settings, simulated: str, count: int, latency_ms: float) -> None:
        self.settings = settings
        self.organizations = [f"org{number:05}" for number in range(count)]
        self._simulated = simulated
        self._latency = {"latencyMs": latency_ms}
        self._ids: dict[str, list[str]] = {}
        with open_engine(settings) as engine, ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda name: self._connect(engine, name), self.organizations))
            order = SyncOrder(run_id="bench")
            ended = list(sync_organizations(engine, self.organizations, order))
        assert not any(outcome.errors for outcome in ended), ended
        self._each(self.organizations, lambda session, name: self._slow_down(session, name))

    def an_hour_passes(self, organizations: Sequence[str]) -> None:
        """CHANGES customers of each store change, and its last sync was an hour earlier."""
        self._each(organizations, self._edit)
        with connect(self.settings.required_database_url()) as conn:
            conn.execute(
                """
                UPDATE integrations SET "lastSyncAt" = "lastSyncAt" - interval '1 hour',
                  "watermark" = "watermark" - interval '1 hour'
                WHERE "organizationId" = ANY(%s)
                """,
                [list(organizations)],
            )

    def changed(self, which: int) -> list[tuple[str, str]]:
        """One of the customers of each organization that change, by Shopify's id."""
        return [(name, self._ids[name][which]) for name in self.organizations]

    def _connect(self, engine: Engine, name: str) -> None:
        shop = f"{name}.myshopify.com"
        given = {"shop": shop, "customers": CUSTOMERS, "seed": 1, "settings": FREE}
        with http.Session() as session:
            made = session.post(f"{self._simulated}/_control/stores", json=given, timeout=60).json()
            url = f"{self._simulated}/_control/stores/{shop}/customers"
            customers = session.get(url, timeout=60).json()
        self._ids[name] = [each["legacyResourceId"] for each in customers[:CHANGES]]

        def store(conn: Conn) -> None:
            integration = integrations.connect(
                conn, organization_id=name, shop=shop, name=name, shop_id=made["shopId"]
            )
            held = Credentials(access_token=made["accessToken"])
            credentials.store(conn, engine.cipher, integration.id, held)

        transact(engine.pool, store)

    def _slow_down(self, session: http.Session, name: str) -> None:
        url = f"{self._simulated}/_control/stores/{name}.myshopify.com"
        session.patch(url, json=self._latency, timeout=60).raise_for_status()

    def _edit(self, session: http.Session, name: str) -> None:
        url = f"{self._simulated}/_control/stores/{name}.myshopify.com/customers"
        for number in self._ids[name]:
            change = {"set": {"note": f"seen {time.time_ns()}"}}
            session.patch(f"{url}/{number}", json=change, timeout=60).raise_for_status()

    def _each(
        self, organizations: Sequence[str], work: Callable[[http.Session, str], None]
    ) -> None:
        def some(names: Sequence[str]) -> None:
            with http.Session() as session:
                for name in names:
                    work(session, name)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(some, [organizations[start::4] for start in range(4)]))


def _registered(settings: Settings, count: int) -> bool:
    """Whether the sensor has made a partition of each organization, in the daemon's tables."""
    if in_dagster(settings, "SELECT to_regclass('dynamic_partitions')") == [(None,)]:
        return False
    return in_dagster(settings, "SELECT count(*) FROM dynamic_partitions") == [(count,)]


def tick(stores: Stores, process: psutil.Process, organizations: Sequence[str]) -> dict[str, Any]:
    """The sync of all that are due, asked for as cron does; what it took until all were synced."""
    settings = stores.settings
    runs = _count_of_runs(settings)
    with connect(settings.required_database_url()) as conn:
        began = clock(conn)
        before = cpu_of(process)
        requests.file(conn, kind="cron", organization_id=None)
        wait_until(lambda: _all_synced(conn, organizations, began), "all synced", TICK_SECONDS)
        ended = conn.execute(
            """SELECT max("updatedAt") FROM integrations WHERE "organizationId" = ANY(%s)""",
            [list(organizations)],
        ).fetchone()
        assert ended is not None
        wait_until(lambda: runs_ended(settings, process), "the end of the runs")
        used = cpu_of(process) - before
    return {
        "organizations": len(organizations),
        "runs": _count_of_runs(settings) - runs,
        "seconds": round((ended[0] - began).total_seconds(), 1),
        "CPU seconds": round(used, 1),
        "CPU ms an organization": round(used / len(organizations) * 1e3, 1),
    }


def _all_synced(conn: Conn, organizations: Sequence[str], since: datetime) -> bool:
    """The simulator's clock is this machine's, and tells whole seconds."""
    row = conn.execute(
        """
        SELECT count(*) FROM integrations WHERE "organizationId" = ANY(%s)
          AND "lastSyncAt" < %s::timestamptz - interval '1 second'
        """,
        [list(organizations), since],
    ).fetchone()
    return row == (0,)


def runs_ended(settings: Settings, process: psutil.Process) -> bool:
    """Also their processes, whose CPU is the code server's as it takes note of their end."""
    if in_dagster(settings, UNFINISHED) != [(0,)]:
        return False
    return not any(_is_run(child) for child in process.children(recursive=True))


def _is_run(process: psutil.Process) -> bool:
    try:
        return any("spawn_main" in part for part in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def _count_of_runs(settings: Settings) -> int:
    ((count,),) = in_dagster(settings, "SELECT count(*) FROM runs")
    return int(count)
