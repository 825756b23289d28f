"""A whole deployment as an operator has it: `shopsync up` beside simulated stores.

Every part is a process of its own: the simulator, and below `shopsync up` Postgres, the receiver,
Dagster's webserver, daemon, code servers and runs. A test talks to them as people and Shopify do,
and looks into the tables, into Dagster and into /proc.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
import requests as http
from dagster import DagsterEventType, DagsterInstance
from dotenv import dotenv_values

from shopsync_pipeline import local
from shopsync_pipeline.db import locks, requests
from shopsync_pipeline.db.engine import Conn, open_connection
from shopsync_pipeline.db.locks import LiveDrain
from shopsync_pipeline.errors import DatabaseTrouble
from shopsync_pipeline.models import Credentials, Mode, SyncRequest
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.engine import open_engine
from shopsync_pipeline_tests.acceptance.background import Background
from shopsync_pipeline_tests.world import differences, free_port, rows_of_organization

READY_SECONDS = 120
ANSWER_SECONDS = 60
STOP_SECONDS = 30
REPORTED_SECONDS = 30
LOOK_SECONDS = 0.05
SECRET = "deployment-secret"

T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """What `condition` gives as soon as it gives anything true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last seen: {found!r}")
        time.sleep(LOOK_SECONDS)


@dataclass(frozen=True, kw_only=True)
class SimulatedStore:
    """One store, by the simulator's control interface; `uri` is where its webhooks go."""

    simulator: str
    organization: str
    shop: str
    uri: str
    access_token: str
    client_id: str
    client_secret: str

    def ask(self, method: str, path: str = "", body: dict[str, Any] | None = None) -> Any:
        address = f"{self.simulator}/_control/stores/{self.shop}{path}"
        answer = http.request(method, address, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def customers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", "/customers")
        return found

    def ids(self) -> list[str]:
        return [customer["legacyResourceId"] for customer in self.customers()]

    def create(self, **fields: Any) -> str:
        return str(self.ask("POST", "/customers", fields)["legacyResourceId"])

    def edit(self, customer: str, **fields: Any) -> None:
        self.ask("PATCH", f"/customers/{customer}", {"set": fields, "touch": True})

    def delete(self, customer: str) -> None:
        self.ask("DELETE", f"/customers/{customer}")

    def deliveries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", "/deliveries")
        return found

    def topics(self) -> set[str]:
        """Those that it sends to `uri`."""
        return {s["topic"] for s in self.ask("GET", "/subscriptions") if s["uri"] == self.uri}

    def subscribe(self, uri: str | None = None) -> None:
        """To the changes of customers, as an app that was set up elsewhere."""
        for topic in ("CUSTOMERS_CREATE", "CUSTOMERS_UPDATE", "CUSTOMERS_DELETE"):
            self.ask("POST", "/subscriptions", {"topic": topic, "uri": uri or self.uri})


class Up:
    """`shopsync up` in a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path, given: dict[str, str]) -> None:
        self._home = folder / "home"
        self._folder = folder
        self._given = given
        self._logs: list[Path] = []

    def start(self) -> None:
        """Until it is ready; fails with all that it printed where it ends before."""
        log = self._folder / f"up{len(self._logs)}.log"
        self._logs.append(log)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shopsync_pipeline.cli", "up"],
                env={**os.environ, **self._given},
                cwd=self._folder,  # where no .env is
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        wait_for(
            lambda: "Ctrl-C stops all" in log.read_text() or self.process.poll() is not None,
            READY_SECONDS,
            "shopsync up",
        )
        assert self.process.poll() is None, log.read_text()

    def stop(self) -> None:
        """By Ctrl-C, and with all that it started."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(STOP_SECONDS) == 0, self.told()
        assert processes_of(self._home) == {}

    def kill_all(self) -> None:
        """It, all that it started, and Postgres, at once."""
        self.process.kill()
        for pid in (*processes_of(self._home), *postgres_of(self._home)):
            with suppress(ProcessLookupError):  # it ended with one before
                kill(pid)
        self.process.wait()
        wait_for(lambda: not processes_of(self._home), STOP_SECONDS, "the end of all")

    def told(self) -> str:
        return "".join(log.read_text() for log in self._logs)


@dataclass(kw_only=True)
class Deployment:
    settings: Settings
    simulator: str
    conn: Conn
    instance: DagsterInstance
    stores: list[SimulatedStore] = field(default_factory=list)
    posted: set[str] = field(default_factory=set)
    """Webhook-ids that a test has sent itself and that were answered 200."""

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def receiver(self) -> str:
        return local.receiver_url(self.settings)

    @property
    def webhooks_uri(self) -> str:
        return f"{self.receiver}/api/webhooks/shopify"

    # stores

    def add_store(self, organization: str, customers: int = 20, **settings: Any) -> SimulatedStore:
        """A store that nobody connected yet; `settings` in camelCase."""
        shop = f"{organization}.myshopify.com"
        given = {"shop": shop, "customers": customers, "seed": len(self.stores) + 1, **settings}
        answer = http.post(f"{self.simulator}/_control/stores", json=given, timeout=30)
        answer.raise_for_status()
        made = answer.json()
        store = SimulatedStore(
            simulator=self.simulator,
            organization=organization,
            shop=shop,
            uri=self.webhooks_uri,
            access_token=made["accessToken"],
            client_id=made["clientId"],
            client_secret=made["clientSecret"],
        )
        self.stores.append(store)
        return store

    def connect(self, store: SimulatedStore, held: Credentials) -> None:
        with open_engine(self.settings) as engine:
            connect_store(engine, organization_id=store.organization, shop=store.shop, held=held)

    def add_token_store(self, organization: str, **settings: Any) -> SimulatedStore:
        """Connected by a bare token, so that the deployment's secret signs its webhooks."""
        store = self.add_store(organization, clientSecret=SECRET, **settings)
        self.connect(store, Credentials(access_token=store.access_token))
        return store

    def add_app_store(self, organization: str, **settings: Any) -> SimulatedStore:
        """Connected by an app's client credentials, whose secret signs its webhooks."""
        store = self.add_store(organization, **settings)
        app = Credentials(client_id=store.client_id, client_secret=store.client_secret)
        self.connect(store, app)
        return store

    def rows(self, store: SimulatedStore) -> dict[int, dict[str, Any]]:
        return rows_of_organization(self.conn, store.organization)

    def differences(self, store: SimulatedStore) -> list[str]:
        """Between the table and the store, field by field."""
        living = {n: row for n, row in self.rows(store).items() if row["deletedAt"] is None}
        return list(differences(living, store.customers()))

    # what people ask for

    def file(self, kind: str, organization: str, mode: Mode = "incremental") -> str:
        return requests.file(self.conn, kind=kind, organization_id=organization, mode=mode)

    def ended(self, request_id: str, seconds: float = ANSWER_SECONDS) -> SyncRequest:
        def look() -> SyncRequest | None:
            found = requests.get(self.conn, request_id)
            return found if found and found.finished_at else None

        return wait_for(look, seconds, f"the end of request {request_id}")

    def ask(self, kind: str, *stores: SimulatedStore) -> None:
        """For all of them at once, and until all have it."""
        for request_id in [self.file(kind, store.organization) for store in stores]:
            answered = self.ended(request_id)
            assert answered.status == "succeeded", answered.error

    # the inbox

    def select(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return self.conn.execute(query, arguments).fetchall()

    def clock(self) -> datetime:
        ((moment,),) = self.select("SELECT clock_timestamp()")
        assert isinstance(moment, datetime)
        return moment

    def open_events(self) -> list[tuple[Any, ...]]:
        return self.select(
            """SELECT "id", "topic", "status", "error" FROM webhook_events
               WHERE "status" IN ('pending', 'claimed')"""
        )

    def all_settled(self) -> bool:
        """Whether all that the stores sent has arrived and is done."""
        if self.open_events():
            return False
        sent = [delivery for store in self.stores for delivery in store.deliveries()]
        if any(delivery["state"] == "waiting" for delivery in sent) or self.open_events():
            return False
        return {delivery["webhookId"] for delivery in sent} <= self.webhook_ids()

    def webhook_ids(self) -> set[str]:
        return {row[0] for row in self.select('SELECT "webhookId" FROM webhook_events')}

    def unreported(self) -> int:
        ((count,),) = self.select(
            """SELECT count(*) FROM webhook_events
               WHERE "status" = 'done' AND "reportedAt" IS NULL"""
        )
        return int(count)

    # Dagster

    def graphql(self, query: str, **variables: Any) -> Any:
        answer = http.post(
            f"{self.settings.ui_here}/graphql",
            json={"query": query, "variables": variables},
            timeout=30,
        ).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def drains(self) -> list[LiveDrain]:
        return locks.live_drains(self.conn)

    def holder(self) -> LiveDrain | None:
        """The drain at work. Two at once would be a fault of the lock."""
        holders = [drain for drain in self.drains() if drain.holds_lock]
        assert len(holders) <= 1, holders
        return holders[0] if holders else None

    # processes

    def run_pid(self, run_id: str) -> int | None:
        """Of the process that executes a run, as that process itself has told Dagster; None once it
        has ended."""
        events = self.instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
        told = [re.search(r"Started process for run \(pid: (\d+)\)", e.message) for e in events]
        pids = {int(each[1]) for each in told if each}
        return next(iter(pids & self.processes().keys()), None)

    def processes(self) -> dict[int, str]:
        """Command lines of all that runs with this home in its environment."""
        return processes_of(self.home)

    def pid(self, module: str) -> int | None:
        """Of the process that runs `python -m MODULE`; None while there is none."""
        found = [pid for pid, line in self.processes().items() if f"-m {module} " in line]
        assert len(found) <= 1, found
        return found[0] if found else None

    def reconnect(self, seconds: float = READY_SECONDS) -> None:
        """As soon as Postgres can be reached again, to look into the tables."""

        def look() -> Conn | None:
            with suppress(DatabaseTrouble):
                return open_connection(self.settings.required_database_url())
            return None

        self.conn.close()
        self.conn = wait_for(look, seconds, "Postgres")


@dataclass(kw_only=True)
class LocalDeployment(Deployment):
    up: Up


def assert_all_is_as_in_the_stores(deployment: Deployment) -> None:
    """Once all is settled: every field, every delivery as one row, all of it reported."""
    for store in deployment.stores:
        assert deployment.differences(store) == []
    sent = {d["webhookId"] for store in deployment.stores for d in store.deliveries()}
    sent |= deployment.posted
    stored = deployment.select('SELECT "webhookId", "status" FROM webhook_events')
    assert len(stored) == len(sent)
    assert {row[0] for row in stored} == sent
    assert {row[1] for row in stored} == {"done"}
    wait_for(lambda: not deployment.unreported(), REPORTED_SECONDS, "all events reported")


def processes_of(home: Path) -> dict[int, str]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"SHOPSYNC_HOME={home}\0".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has just ended
            continue
    return found


def postgres_of(home: Path) -> list[int]:
    """The postmaster of the embedded server, first, and its children; none where it has ended."""
    pid_file = home / "postgres/cluster/data/postmaster.pid"
    try:
        postmaster = pid_file.read_text().split()[0]
        if str(home) not in Path(f"/proc/{postmaster}/cmdline").read_text():
            return []  # the number is another's by now
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in (postmaster, *children.split())]


def parent_of(pid: int) -> int:
    """Raises FileNotFoundError where the process has ended."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("PPid:", 1)[1].split()[0])


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def deployed(**environ: str) -> Iterator[LocalDeployment]:
    """A deployment without stores, ready. `environ` is what the operator sets besides."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="shopsync-")))
        folder.chmod(0o755)  # Postgres's own account must enter it
        simulator = stack.enter_context(simulator_running(folder))
        receiver_port = str(free_port())
        given = {
            "SHOPSYNC_HOME": str(folder / "home"),
            "DATABASE_URL": "",
            "SHOPIFY_ENDPOINT": f"{simulator}/{{shop}}",
            "SHOPIFY_WEBHOOK_SECRET": SECRET,
            "RECEIVER_PORT": receiver_port,
            "DAGSTER_WEBSERVER_PORT": str(free_port()),
            "APP_URL": f"http://127.0.0.1:{receiver_port}",
            **environ,
        }
        up = stack.enter_context(_up(folder, given))
        made = {k: v for k, v in dotenv_values(folder / "home/secrets.env").items() if v}
        settings = Settings.from_env({**made, **given})
        settings = stack.enter_context(local.databases(settings))  # shares the running server
        instance = stack.enter_context(dagster_instance(local.environment(settings)))
        deployment = LocalDeployment(
            settings=settings,
            simulator=simulator,
            up=up,
            conn=open_connection(settings.required_database_url()),
            instance=instance,
        )
        stack.callback(lambda: deployment.conn.close())  # the one that it has then
        yield deployment
        from shopsync_pipeline_tests.acceptance import leaks  # which knows this module

        leaks.nothing_leaked(deployment)


@contextmanager
def simulator_running(folder: Path) -> Iterator[str]:
    """The URL of a simulator in a process of its own."""
    log = folder / "simulator.log"
    command = (sys.executable, "-m", "shopify_simulator", "--port", "0", "--latency-ms", "20")
    said = "simulator listening on "
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            wait_for(lambda: said in log.read_text(), READY_SECONDS, "the simulator")
            yield log.read_text().split(said, 1)[1].split()[0]
        finally:
            process.terminate()


@contextmanager
def _up(folder: Path, given: dict[str, str]) -> Iterator[Up]:
    """A test that fails leaves nothing running either."""
    up = Up(folder, given)
    try:
        up.start()
        yield up
        up.stop()
    finally:
        up.kill_all()


@contextmanager
def dagster_instance(environ: Mapping[str, str]) -> Iterator[DagsterInstance]:
    """As a process sees it that has this environment."""
    with pytest.MonkeyPatch.context() as env:
        for name, value in environ.items():
            env.setenv(name, value)
        instance = DagsterInstance.get()
        assert instance.run_launcher  # which reads the environment when it is first wanted
    with instance:
        yield instance


class Traffic(Background):
    """Customers of all stores change until the block ends: most are edited, some are new, few
    leave; by chance, but the same for the same seed. Who leaves was not changed before: an edit
    whose customer is gone, before anything told so, is read again after 2 and 30 seconds."""

    def __init__(self, *stores: SimulatedStore, seed: int, pause: float = 0.05) -> None:
        super().__init__("traffic")
        self._stores = stores
        self._random = random.Random(seed)
        self._pause = pause
        ids = {store.shop: store.ids() for store in stores}
        self._staying = {shop: found[::2] for shop, found in ids.items()}
        self._leaving = {shop: found[1::2] for shop, found in ids.items()}
        self.changes = 0

    def goes_on(self, changes: int, seconds: float = 30) -> None:
        """Wait until there were so many more."""
        until = self.changes + changes
        wait_for(lambda: self.changes >= until or self.trouble, seconds, f"{changes} changes more")

    def work(self) -> None:
        while not self.over.wait(self._pause):
            self._change(self._random.choice(self._stores))
            self.changes += 1

    def _change(self, store: SimulatedStore) -> None:
        staying, leaving = self._staying[store.shop], self._leaving[store.shop]
        kind = self._random.choices(("edit", "create", "delete"), (7, 2, 1))[0]
        if kind == "create" or not staying:
            staying.append(store.create())
        elif kind == "delete" and leaving:
            store.delete(leaving.pop())
        else:
            store.edit(self._random.choice(staying), note=f"edited {self._random.random()}")
