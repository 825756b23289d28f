"""A whole deployment under traffic whose processes are killed, stopped and cut off at random
moments, and whose Postgres goes away: it mends itself, no answered delivery is lost or done twice,
and the table ends equal to the stores.

KILLS: how often each kind; KILLS_SEED: the seed that a failure printed; DOWN_SECONDS: how long
Postgres is away.
"""

import fcntl
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests as http
from dagster import DagsterRun, DagsterRunStatus, RunsFilter

from shopsync_pipeline import local
from shopsync_pipeline.db.engine import libpq_url
from shopsync_pipeline.db.server import embedded_server
from shopsync_pipeline.processes import MOST_PAUSE
from shopsync_pipeline_tests.acceptance.background import Background
from shopsync_pipeline_tests.acceptance.deployment import (
    SECRET,
    LocalDeployment,
    SimulatedStore,
    Traffic,
    assert_all_is_as_in_the_stores,
    deployed,
    kill,
    parent_of,
    postgres_of,
    processes_of,
    wait_for,
)
from shopsync_pipeline_tests.integration.test_receiver import signature

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(sys.platform != "linux", reason="it finds processes in /proc"),
]

KILLS = int(os.environ.get("KILLS") or 1)
DOWN_SECONDS = int(os.environ.get("DOWN_SECONDS") or 10)
DELIVERIES_A_SECOND = 50
ANSWERED_SECONDS = 2
NORMAL_SECONDS = 5
LEASE_SECONDS = 5
WORKS_AGAIN_SECONDS = 40 + MOST_PAUSE
"""From a kill until a change that came after it is a row: the lease, a code server's start, which
waits the longer the oftener it was killed, the sensor's gap, a run's start."""

STOPPED_SECONDS = 10
ENDED_SECONDS = 30
STARTED_AT_MOST_SECONDS = 150
"""In which a run whose process is gone is finished for Dagster too: the sensor sees it at two looks
60 s apart, which are evaluations of up to 20 s."""

SETTLED_SECONDS = 60
RUN_SECONDS = 90
RETRIES_FASTER = 200  # 10 s, 1, 3 and 10 min become 50 ms to 3 s
PULLED = 1500

DAEMON, CODE_SERVER = "dagster._daemon", "shopsync_pipeline.defs.code_server"
WEBSERVER, RECEIVER = "dagster_webserver", "webhook_receiver"
BEGUN = [DagsterRunStatus.STARTED, DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]
UNFINISHED = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]

Strike = Callable[["Field", random.Random], None]


@dataclass
class Field:
    """The deployment, its stores with traffic, and the one that is pulled again and again."""

    deployment: LocalDeployment
    stores: list[SimulatedStore]
    pulled: SimulatedStore
    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def pids(self, *modules: str) -> list[int]:
        return [self.pid(module) for module in modules]

    def pid(self, module: str) -> int:
        return wait_for(lambda: self.deployment.pid(module), WORKS_AGAIN_SECONDS, module)

    def drain_pid(self) -> int:
        """Of a drain at work."""
        return wait_for(self._drain_pid, WORKS_AGAIN_SECONDS, "a drain")

    def _drain_pid(self) -> int | None:
        drain = self.deployment.holder()
        return self.deployment.run_pid(drain.run_id) if drain else None

    def pull_pid(self) -> int:
        """Of a pull of a whole store, which a person has just asked for; asked again where it has
        ended already."""
        while True:
            request = self.deployment.file("sync", self.pulled.organization, "full")
            if pid := self.deployment.run_pid(self.begun(request).run_id):
                return pid
            self.deployment.ended(request, STARTED_AT_MOST_SECONDS)  # until then it is not repeated

    def begun(self, request: str) -> DagsterRun:
        tags, instance = {f"shopsync_request/{request}": "true"}, self.deployment.instance
        (run,) = wait_for(
            lambda: instance.get_runs(RunsFilter(tags=tags, statuses=BEGUN)), RUN_SECONDS, "a pull"
        )
        return run

    @contextmanager
    def superuser(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        with (
            embedded_server(local.cluster(self.deployment.settings)) as address,  # shares it
            psycopg.connect(address.url(), autocommit=True) as conn,
        ):
            yield conn

    def works_again(self, kind: str) -> None:
        """A change that comes now becomes a row; remembers how long that took."""
        began = time.monotonic()
        self.deployment.reconnect(WORKS_AGAIN_SECONDS)
        new = {int(store.create()): store for store in self.stores}
        for customer, store in new.items():
            wait_for(
                lambda c=customer, s=store: c in self.deployment.rows(s),  # type: ignore[misc]
                WORKS_AGAIN_SECONDS,
                f"the row of a customer that was made after {kind}",
            )
        self.took[kind].append(time.monotonic() - began)

    def tell(self) -> None:
        for kind, took in sorted(self.took.items()):
            middle, most = statistics.median(took), max(took)
            print(
                f"{kind}: {len(took)} times, works again after {middle:.1f} s, {most:.1f} s at most"
            )


def ends(*modules: str) -> Strike:
    return lambda field, chance: kill(*field.pids(*modules))


def stops(*pids: int) -> None:
    for pid in pids:
        signal_to(pid, signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)  # what is tested: nobody moves for so long
    for pid in pids:
        signal_to(pid, signal.SIGCONT)


def signal_to(pid: int, number: int) -> None:
    """A backend may have left; one that did while its postmaster stood still is gone once that
    goes on."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_a_pull(field: Field, chance: random.Random, *others: str) -> None:
    pid = field.pull_pid()
    time.sleep(chance.uniform(0, 1.5))
    kill(*field.pids(*others))
    with suppress(ProcessLookupError):  # it was faster
        kill(pid)


def kill_a_backend(field: Field, chance: random.Random) -> None:
    """Of any client; Postgres then ends all of them, since memory may be damaged."""
    with field.superuser() as conn:
        clients = conn.execute(
            """SELECT pid FROM pg_stat_activity
               WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
                 AND backend_start < clock_timestamp() - interval '2 s'"""
        ).fetchall()
    with suppress(ProcessLookupError):  # that client has just left
        kill(chance.choice(clients)[0])


def cut_all_connections(field: Field, chance: random.Random) -> None:
    with field.superuser() as conn:
        conn.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
        )


def kill_up(field: Field, chance: random.Random) -> None:
    """What it started ends, a drain that lingers for ever too, and leaves its ports to the next.

    A run whose code server was killed before is nobody's child: it works on, and is ended here.
    """
    up, home = field.deployment.up, field.deployment.home
    orphans = orphaned_runs(home)
    up.process.kill()
    for pid in orphans:
        with suppress(ProcessLookupError):  # it has just ended
            kill(pid)
    up.process.wait()
    wait_for(lambda: not processes_of(home), ENDED_SECONDS, "the end of what it started")
    up.start()


def orphaned_runs(home: Path) -> list[int]:
    found = processes_of(home)
    orphans = []
    for pid, command in found.items():
        with suppress(FileNotFoundError):  # it has just ended
            if "multiprocessing" in command and parent_of(pid) not in found:
                orphans.append(pid)
    return orphans


def kill_up_and_postgres(field: Field, chance: random.Random) -> None:
    """Dagster's code server cannot end by itself then: what watches its runs dies of it."""
    field.deployment.up.process.kill()
    kill(postgres_of(field.deployment.home)[0])
    kill_up(field, chance)


KINDS: dict[str, Strike] = {
    "kill of shopsync up": kill_up,
    "kill of shopsync up and Postgres": kill_up_and_postgres,
    "kill of the daemon": ends(DAEMON),
    "kill of the code server": ends(CODE_SERVER),
    "kill of the webserver": ends(WEBSERVER),
    "kill of the receiver": ends(RECEIVER),
    "kill of the drain": lambda field, _: kill(field.drain_pid()),
    "kill of the drain and the code server": lambda field, _: kill(
        *field.pids(CODE_SERVER), field.drain_pid()
    ),
    "kill of a pull": kill_a_pull,
    "kill of a pull and the code server": lambda field, chance: kill_a_pull(
        field, chance, CODE_SERVER
    ),
    "kill of Postgres": lambda field, _: kill(postgres_of(field.deployment.home)[0]),
    "kill of a backend of Postgres": kill_a_backend,
    "end of all connections": cut_all_connections,
    "stop of the daemon": lambda field, _: stops(field.pid(DAEMON)),
    "stop of the code server": lambda field, _: stops(field.pid(CODE_SERVER)),
    "stop of the receiver": lambda field, _: stops(field.pid(RECEIVER)),
    "stop of the drain": lambda field, _: stops(field.drain_pid()),
    "stop of Postgres": lambda field, _: stops(*postgres_of(field.deployment.home)),
}


@pytest.fixture(scope="module")
def field_() -> Iterator[Field]:
    with deployed(
        WEBHOOK_LEASE_SECONDS=str(LEASE_SECONDS), WEBHOOK_LINGER_SECONDS="-1"
    ) as deployment:
        faster = {"webhookTimeFactor": RETRIES_FASTER}
        stores = [
            deployment.add_token_store("ant", **faster),
            deployment.add_app_store("bee", **faster),
        ]
        pulled = deployment.add_token_store("cow", customers=PULLED, **faster)
        deployment.ask("sync", *stores, pulled)
        for store in stores:
            store.subscribe()
        yield Field(deployment, stores, pulled)


@pytest.fixture
def chance() -> random.Random:
    """Its seed is printed where a test fails."""
    seed = int(os.environ.get("KILLS_SEED") or random.randrange(10**6))
    print(f"KILLS_SEED={seed}")
    return random.Random(seed)


def test_whatever_is_killed_or_stopped_under_traffic_the_deployment_mends_itself(
    field_: Field, chance: random.Random
) -> None:
    deployment = field_.deployment
    kinds = [*KINDS] * KILLS
    chance.shuffle(kinds)
    with Traffic(*field_.stores, seed=chance.randrange(10**6)) as traffic:
        for kind in kinds:
            traffic.goes_on(chance.randrange(5, 40))
            print(kind)
            KINDS[kind](field_, chance)
            field_.works_again(kind)
    assert_settled(deployment)
    field_.tell()


def orphans(deployment: LocalDeployment) -> list[str]:
    """Runs that Dagster takes for running, when nobody but the drain is at work."""
    at_work = {drain.run_id for drain in deployment.drains()}
    unfinished = deployment.instance.get_runs(RunsFilter(statuses=UNFINISHED))
    return [run.run_id for run in unfinished if run.run_id not in at_work]


def assert_settled(deployment: LocalDeployment) -> None:
    """Nothing is lost, repeated or different, and no dead run holds the slots of all syncs."""
    wait_for(deployment.all_settled, SETTLED_SECONDS, "all events done")
    assert_all_is_as_in_the_stores(deployment)
    deployment.ask("sync", *deployment.stores)
    assert_all_is_as_in_the_stores(deployment)


def test_a_deployment_killed_with_postgres_and_all_comes_up_again_on_the_same_home(
    field_: Field, chance: random.Random
) -> None:
    deployment = field_.deployment
    for _ in range(KILLS):
        with Traffic(*field_.stores, seed=chance.randrange(10**6)) as traffic:
            traffic.goes_on(chance.randrange(5, 40))
            field_.pull_pid()
            deployment.up.kill_all()
            traffic.goes_on(10)  # nobody takes these
            deployment.up.start()
            field_.works_again("kill of all at once")
        assert_settled(deployment)
    field_.tell()


# Postgres is away


@dataclass(frozen=True)
class Answer:
    """Of the receiver to one delivery; moments on the monotonic clock, from the send: what two
    hundred clients need to get that far is not the receiver's."""

    webhook_id: str
    sent: float
    answered: float
    status: int


class Stream(Background):
    """Signed deliveries at DELIVERIES_A_SECOND, whatever becomes of them, until the block ends."""

    def __init__(self, field: Field) -> None:
        super().__init__("stream")
        self._uri = field.deployment.webhooks_uri
        self._store = field.stores[0]
        self._ids = self._store.ids()
        self.answers: list[Answer] = []

    def work(self) -> None:
        with ThreadPoolExecutor(4 * DELIVERIES_A_SECOND) as pool:
            began = time.monotonic()
            posted: list[Future[Answer]] = []
            while not self.over.wait(max(0.0, began - time.monotonic())):
                posted.append(pool.submit(self._post, self._ids[len(posted) % len(self._ids)]))
                began += 1 / DELIVERIES_A_SECOND
            self.answers = [each.result() for each in posted]

    def _post(self, customer: str) -> Answer:
        body = json.dumps({"id": int(customer)}).encode()
        webhook_id = str(uuid4())
        headers = {
            "X-Shopify-Topic": "customers/update",
            "X-Shopify-Hmac-Sha256": signature(body, SECRET),
            "X-Shopify-Shop-Domain": self._store.shop,
            "X-Shopify-Webhook-Id": webhook_id,
        }
        answer = http.post(self._uri, data=body, headers=headers, timeout=60)
        answered, took = time.monotonic(), answer.elapsed.total_seconds()
        return Answer(webhook_id, answered - took, answered, answer.status_code)


@contextmanager
def postgres_away(field: Field) -> Iterator[None]:
    """Killed, and not to be started before the block ends."""
    with (local.cluster(field.deployment.settings) / "start.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = postgres_of(field.deployment.home)
        kill(processes[0])
        wait_for(lambda: not any(map(is_alive, processes)), SETTLED_SECONDS, "Postgres's end")
        yield


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_while_postgres_is_away_deliveries_get_503_within_two_seconds_and_soon_after_200(
    field_: Field,
) -> None:
    deployment = field_.deployment
    with Stream(field_) as stream:
        time.sleep(3)
        with postgres_away(field_):
            gone = time.monotonic()
            time.sleep(DOWN_SECONDS)
            returns = time.monotonic()
        deployment.reconnect()
        back = time.monotonic()
        time.sleep(NORMAL_SECONDS + 5)
    answers = stream.answers
    deployment.posted |= {a.webhook_id for a in answers if a.status == 200}
    away = [a for a in answers if a.sent > gone and a.answered < returns]
    slowest = max(a.answered - a.sent for a in answers)
    late = [a.sent - back for a in answers if a.status != 200 and a.sent > back]
    print(f"{len(answers)} deliveries, {len(away)} while Postgres was away for {DOWN_SECONDS} s")
    print(
        f"slowest answer {slowest:.2f} s; 200 again {max(late, default=0):.1f} s after its return"
    )
    assert len(away) > DELIVERIES_A_SECOND * DOWN_SECONDS * 0.9
    assert {a.status for a in away} == {503}
    assert {a.status for a in answers} == {200, 503}
    assert slowest < ANSWERED_SECONDS
    assert max(late, default=0) < NORMAL_SECONDS
    field_.works_again("Postgres away")
    assert_settled(deployment)


# Dagster takes all its connections


def test_dagster_without_a_connection_left_stops_neither_the_receiver_nor_the_drain(
    field_: Field,
) -> None:
    deployment = field_.deployment
    field_.works_again("nothing")
    drain = wait_for(deployment.holder, WORKS_AGAIN_SECONDS, "a drain")
    before = {delivery["webhookId"] for delivery in sent(field_)}
    with all_connections_of_dagster(field_):
        with Traffic(*field_.stores, seed=1) as traffic:
            time.sleep(STOPPED_SECONDS)  # longer than Dagster tries to connect
            traffic.goes_on(20)
        wait_for(deployment.all_settled, SETTLED_SECONDS, "all events done")
        assert deployment.unreported()
        holder = deployment.holder()
        assert holder is not None
        assert holder.run_id == drain.run_id
    tries = [
        attempt.get("status")
        for delivery in sent(field_)
        for attempt in delivery["attempts"]
        if delivery["webhookId"] not in before
    ]
    assert set(tries) == {200}
    assert_settled(deployment)


def sent(field: Field) -> list[dict[str, Any]]:
    return [delivery for store in field.stores for delivery in store.deliveries()]


@contextmanager
def all_connections_of_dagster(field: Field) -> Iterator[None]:
    """Taken by us, one by one as Dagster gives them back."""
    url = libpq_url(field.deployment.settings.dagster_postgres_url or "")
    with ExitStack() as held:
        refused = 0
        while refused < 20:  # in a row, over a second: nothing comes back any more
            try:
                held.enter_context(closing(psycopg.connect(url)))
                refused = 0
            except psycopg.OperationalError:
                refused += 1
                time.sleep(0.05)
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            psycopg.connect(url)
        yield


def test_no_run_that_was_killed_by_all_these_stays_started(field_: Field) -> None:
    """The last, so that they were given their time meanwhile."""
    deployment = field_.deployment
    wait_for(lambda: not orphans(deployment), STARTED_AT_MOST_SECONDS, "an end of all dead runs")
