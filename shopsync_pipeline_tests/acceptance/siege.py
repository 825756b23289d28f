"""A store under fire: it changes and sends its webhooks, while what works for it is killed.

Nothing here knows how the engine works. `Siege.assert_nothing_is_lost` says what must be true
whatever was killed.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from shopify_simulator.stores import Store
from shopsync_pipeline.db.customers import duplicate_keys
from shopsync_pipeline_tests.acceptance.background import Background
from shopsync_pipeline_tests.acceptance.child import READY, REPORT
from shopsync_pipeline_tests.world import World, differences

ORGANIZATION = "acme"
SHOP = "a.myshopify.com"
LEASE_SECONDS = 1
TOPICS = (
    "CUSTOMERS_CREATE",
    "CUSTOMERS_UPDATE",
    "CUSTOMERS_DELETE",
    "CUSTOMERS_PURCHASING_SUMMARY",
)
FREE = {"restore_rate": 1e6, "maximum_available": 1e6}
"""Points without end, for nobody waits here for Shopify's."""

STARTS_WITHIN = 30.0
ENDS_WITHIN = 60.0

_numbers = itertools.count(1)


def kills(default: int) -> int:
    """How many times, by KILLS; `default` makes a short run."""
    return int(os.environ.get("KILLS") or default)


def chances() -> random.Random:
    """Its seed is printed, so where a test fails; KILLS_SEED repeats it."""
    seed = int(os.environ.get("KILLS_SEED") or random.randrange(10**6))
    print(f"KILLS_SEED={seed}")
    return random.Random(seed)


def wait_for(look: Callable[[], Any], what: str, seconds: float = STARTS_WITHIN) -> Any:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"no {what} after {seconds} s"
        time.sleep(0.002)
    return found


class Child:
    """A process of `acceptance.child`; what it says stays after its death."""

    def __init__(self, environ: dict[str, str], home: Path, *arguments: str) -> None:
        self.stood_still = False
        self._said = home / f"child-{next(_numbers)}.out"
        home.mkdir(exist_ok=True)
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shopsync_pipeline_tests.acceptance.child", *arguments],
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def said(self) -> str:
        return self._said.read_text()

    @property
    def last_words(self) -> str:
        return self.said[-3000:]

    @property
    def reports(self) -> list[list[str]]:
        """The ids of the events of each report that it logged."""
        lines = self.said.splitlines()
        return [json.loads(x.removeprefix(REPORT)) for x in lines if x.startswith(REPORT)]

    @property
    def killed(self) -> bool:
        return self.process.returncode == -signal.SIGKILL

    def begun(self, text: str = READY) -> Self:
        """Once it has said so."""
        wait_for(lambda: text in self.said or self.process.poll() is not None, text)
        assert text in self.said, self.last_words
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stopped(self) -> Self:
        """Once it has come to its stop point."""
        signs = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        how = wait_for(lambda: os.waitid(os.P_PID, self.process.pid, signs), "stop", ENDS_WITHIN)
        assert how.si_code == os.CLD_STOPPED, self.last_words
        self.stood_still = True
        return self

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def ended(self) -> int:
        try:
            return self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self.last_words}") from None

    def ended_well(self) -> None:
        assert self.ended() == 0, self.last_words

    def died_there(self) -> None:
        """At its crash point; where it ended otherwise the point was not passed."""
        self.ended()
        assert self.killed, self.last_words


class Traffic(Background):
    """The store's customers change until the block ends: most are edited, some are new, few leave,
    and of some only the orders change, which moves no `updatedAt`."""

    def __init__(self, store: Store, chance: random.Random, pause: float = 0.02) -> None:
        super().__init__("traffic")
        self._store = store
        self._chance = random.Random(chance.random())
        self._pause = pause
        self.changes = 0

    def work(self) -> None:
        ids = [int(record["legacyResourceId"]) for record in self._store.customers()]
        while not self.over.wait(self._pause):
            self.change(ids)
            self.changes += 1

    def change(self, ids: list[int]) -> None:
        kind = self._chance.choices(("edit", "order", "create", "delete"), (6, 2, 2, 1))[0]
        place = self._chance.randrange(len(ids))
        if kind == "create":
            ids.append(int(self._store.create()["legacyResourceId"]))
        elif kind == "delete":
            self._store.delete(ids.pop(place))
        elif kind == "order":
            self._store.edit(ids[place], touch=False, numberOfOrders=self._chance.randrange(1000))
        else:
            self._store.edit(ids[place], note=f"edited {self._chance.random()}")


class Siege:
    """One store on real time, connected and loaded; what works for it runs as children."""

    def __init__(self, world: World, store: Store, environ: dict[str, str]) -> None:
        self.world = world
        self.store = store
        self.environ = environ
        self._home = Path(world.environ["SHOPSYNC_HOME"])
        self._drains: list[Child] = []
        self._told: list[Sequence[str]] = []

    @classmethod
    def laid(cls, world: World, customers: int, **settings: Any) -> Self:
        """The simulator signs with the app's client secret, which the receiver knows."""
        world.simulator.clock.set(None)
        world.engine = replace(world.engine, timer=time)
        store = world.connect(ORGANIZATION, SHOP, customers=customers, **FREE | settings)
        secret = {"SHOPIFY_WEBHOOK_SECRET": store.credentials.client_secret}
        lease = {"WEBHOOK_LEASE_SECONDS": str(LEASE_SECONDS)}
        return cls(world, store, {**world.environ, **secret, **lease})

    def child(self, work: str, *arguments: str, crash: str | None = None, **environ: str) -> Child:
        """Of a drain the argument is how long it lingers, else the organization."""
        given = arguments or (("1",) if work == "drain" else (ORGANIZATION,))
        point = {"CRASH_POINT": crash} if crash else {}
        made = Child({**self.environ, **point, **environ}, self._home, work, *given)
        if work == "drain":
            self._drains.append(made)
        return made

    @contextmanager
    def fallen(self, work: str, *arguments: str, crash: str, **environ: str) -> Iterator[Child]:
        """A child that has died at its crash point."""
        with self.child(work, *arguments, crash=crash, **environ) as child:
            child.died_there()
            yield child

    def subscribe(self, receiver: str) -> None:
        for topic in TOPICS:
            self.store.subscribe(topic, f"{receiver}/api/webhooks/shopify")

    def forget(self) -> None:
        """As if the store had just been connected."""
        self.sql('DELETE FROM customers WHERE "organizationId" = %s RETURNING 1', ORGANIZATION)
        self.sql(
            """UPDATE integrations SET "watermark" = NULL, "windowFrom" = NULL, "windowTo" = NULL,
               "windowCursor" = NULL, "windowReached" = NULL RETURNING 1"""
        )

    def sql(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with self.world.engine.pool.connection() as conn:
            return conn.execute(statement, arguments).fetchall()

    def open_events(self) -> int:
        ((count,),) = self.sql(
            """SELECT count(*) FROM webhook_events WHERE "status" IN ('pending', 'claimed')
               OR "status" = 'done' AND "reportedAt" IS NULL"""
        )
        return int(count)

    def settle(self) -> None:
        """Drain until nothing is open; what waits to be read again need wait no longer, but a lease
        has to end."""
        assert self.store.wait_for_deliveries(ENDS_WITHIN)
        for _ in range(20):
            self.world.pass_waits()
            self._told += [report.event_ids for report in self.world.drain()]
            if not self.open_events():
                return
            time.sleep(LEASE_SECONDS / 4)
        raise AssertionError(self.sql('SELECT "topic", "status", "error" FROM webhook_events'))

    def assert_nothing_is_lost(self) -> None:
        """Once everything was delivered and settled, and the store pulled to its end."""
        living = {n: row for n, row in self.rows().items() if row["deletedAt"] is None}
        assert list(differences(living, self.store.customers())) == []
        events = self.sql('SELECT "webhookId", "status", "attempts", "body" FROM webhook_events')
        stored = Counter(row[0] for row in events)
        assert {row[1:3] for row in events} <= {("done", 0)}
        assert acknowledged(self.store) <= stored.keys()
        assert set(stored.values()) <= {1}
        sent = {each["webhookId"]: each["body"].encode() for each in self.store.deliveries}
        assert all(row[3] == sent.get(row[0], row[3]) for row in events)
        with self.world.engine.pool.connection() as conn:
            assert duplicate_keys(conn) == 0
        integration = self.world.integration(ORGANIZATION)
        assert (integration.status, integration.last_error) == ("ok", None)
        self._assert_reported_once()

    def _assert_reported_once(self) -> None:
        """Dagster's database is another: what a drain had logged and could not mark any more, its
        last report, is logged again by the next; nothing else is."""
        logged = [*self._told, *(ids for drain in self._drains for ids in drain.reports)]
        told = Counter(event_id for ids in logged for event_id in ids)
        cut_off = [drain for drain in self._drains if drain.stood_still or drain.process.returncode]
        torn = {event_id for drain in cut_off for ids in drain.reports[-1:] for event_id in ids}
        assert {i for i, times in told.items() if times > 1} <= torn
        done = self.sql('SELECT "id" FROM webhook_events WHERE "reportedAt" IS NOT NULL')
        assert {row[0] for row in done} == told.keys()

    def rows(self) -> dict[int, dict[str, Any]]:
        return self.world.rows(ORGANIZATION)

    def table(self) -> Sequence[tuple[Any, ...]]:
        """All rows in all columns."""
        return self.sql('SELECT * FROM customers ORDER BY "organizationId", "shopifyId"')

    def asked(self, operation: str) -> int:
        """How many answers the store has given to this operation."""
        return sum(request["operation"] == operation for request in self.store.requests)


def acknowledged(store: Store) -> set[str]:
    """The webhook-ids of deliveries that were answered 200."""
    return {
        delivery["webhookId"]
        for delivery in store.deliveries
        if any(attempt.get("status") == 200 for attempt in delivery["attempts"])
    }
