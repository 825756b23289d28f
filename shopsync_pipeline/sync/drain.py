"""The drain: the one run that works off the inbox, store by store, while it lives.

    NOTIFY ──► whose store ──► claim ─► read by id ─► merge and settle     (a pool of threads)
    every second ─► what became due                                        (one thread)
    every second ─► reports of what was settled                            (the caller's thread)

What is still claimed when a drain dies is free again when its lease ends; what it settled and did
not report is reported by the next. Nothing is remembered but in the inbox.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from queue import SimpleQueue
from typing import Self

from shopsync_pipeline.db import erasure, inbox, integrations, lineage
from shopsync_pipeline.db.engine import read, transact
from shopsync_pipeline.db.lineage import Report
from shopsync_pipeline.db.locks import DrainSession
from shopsync_pipeline.errors import DatabaseTrouble
from shopsync_pipeline.sync.desk import Desk
from shopsync_pipeline.sync.engine import WORKERS, Engine
from shopsync_pipeline.sync.interleave import Interleaver

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks for what became due: reads put off, leases that ended, stores to try again."""

REPORT_SECONDS = 1.0
POLL_SECONDS = 0.1
MOST_OPEN_STORES = 64

Crew = Interleaver[str, None]


@dataclass(frozen=True, kw_only=True, slots=True)
class DrainOrder:
    """`linger` is how many seconds an idle drain waits for more (None: as long as it lives),
    `most` how many it lives, `lease` how long its claims outlive it, `patience` how many seconds
    it waits for another drain to end."""

    run_id: str
    linger: float | None = 0.0
    most: float = 900.0
    lease: timedelta = timedelta(seconds=60)
    patience: float = 60.0


def drain(engine: Engine, order: DrainOrder) -> Generator[Report]:
    """Work off the inbox until there is nothing to do for `order.linger`, and yield what is to be
    logged; a report counts as logged when the next one is asked for.

    Ends at once where another drain lives longer than `order.patience`. Raises DatabaseTrouble
    when the lock is lost. Closing the generator ends the drain and gives back what it holds.
    """
    url = engine.settings.required_database_url()
    stop, locked = threading.Event(), threading.Event()
    with (
        DrainSession(url, order.run_id) as session,  # as long as it is there, the run is alive
        ThreadPoolExecutor(1, thread_name_prefix="drain") as thread,
    ):
        work = thread.submit(_live, engine, order, session, stop, locked)
        try:
            while not wait([work], timeout=REPORT_SECONDS).done:
                if locked.is_set():
                    yield from _unreported(engine)
            work.result()
            if locked.is_set():
                yield from _unreported(engine)
        finally:
            stop.set()


def _unreported(engine: Engine) -> Iterator[Report]:
    for report in read(engine.pool, lineage.unreported):
        yield report
        _mark_reported(engine, report)


def _mark_reported(engine: Engine, report: Report) -> None:
    transact(engine.pool, lambda conn: lineage.mark_reported(conn, report.event_ids))


def _live(
    engine: Engine,
    order: DrainOrder,
    session: DrainSession,
    stop: threading.Event,
    locked: threading.Event,
) -> None:
    """The next drain gets the lock as soon as no new work is begun, while our last steps end."""
    ends = time.monotonic() + order.most
    if not _locked(session, order.patience, stop):
        return
    locked.set()
    with _floor(engine, order) as floor:
        with _Ears(session, floor.crew) as ears:
            floor.work(ears, ends, stop)
        session.unlock()
    with _warning_of_trouble():
        transact(engine.pool, erasure.expire)
        transact(engine.pool, integrations.forget_signing_secrets)


def _locked(session: DrainSession, patience: float, stop: threading.Event) -> bool:
    deadline = time.monotonic() + patience
    while not session.try_lock():
        if stop.wait(POLL_SECONDS) or time.monotonic() > deadline:
            return False
    return True


class _Ears(threading.Thread):
    """Listens while the floor works, and wakes it."""

    def __init__(self, session: DrainSession, crew: Crew) -> None:
        super().__init__(name="drain-ears")
        self._session = session
        self._crew = crew
        self._over = threading.Event()
        self._heard: SimpleQueue[str] = SimpleQueue()
        self.lost: DatabaseTrouble | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.is_set() and self.lost is None:
            try:
                for store in self._session.heard(POLL_SECONDS):
                    self._heard.put(store)
                    self._crew.wake()
            except DatabaseTrouble as trouble:
                self.lost = trouble
                self._crew.wake()

    def taken(self) -> set[str]:
        """Of which stores something came since the last call."""
        stores = set()
        while not self._heard.empty():
            stores.add(self._heard.get())
        return stores


class _Floor:
    """Which stores are being worked on, and which are to be looked at again after that."""

    def __init__(self, engine: Engine, order: DrainOrder, crew: Crew) -> None:
        self.crew = crew
        self._engine = engine
        self._order = order
        self._desks: OrderedDict[str, Desk] = OrderedDict()
        self._busy: set[str] = set()
        self._again: set[str] = set()

    def work(self, ears: _Ears, ends: float, stop: threading.Event) -> None:
        """Raises DatabaseTrouble when the session is lost, and the lock with it."""
        idle_since, next_look = time.monotonic(), 0.0
        next_renewal = time.monotonic() + self._order.lease.total_seconds() / 3
        while (now := time.monotonic()) < ends and not stop.is_set():
            if ears.lost:
                raise ears.lost
            if now >= next_renewal:
                self._renew()
                next_renewal = now + self._order.lease.total_seconds() / 3
            if now >= next_look:
                self._look()
                next_look = now + LOOK_SECONDS
            for store in ears.taken():
                self._begin(store)
            if self._busy:
                idle_since = now
            elif self._order.linger is not None and now - idle_since >= self._order.linger:
                return
            for store, outcome in self.crew.ended(max(0.0, next_look - time.monotonic())):
                self._after(store, outcome)

    def _renew(self) -> None:
        order, busy = self._order, set(self._busy)
        with _warning_of_trouble():
            transact(
                self._engine.pool,
                lambda conn: inbox.renew(conn, order.run_id, order.lease, busy),
            )

    def _look(self) -> None:
        """Trouble of the database passes, or ends the session and so the drain."""
        with _warning_of_trouble():
            for store in read(self._engine.pool, lambda conn: inbox.ready(conn, inbox.ALWAYS)):
                self._begin(store)

    def _begin(self, store: str) -> None:
        if store in self._busy:
            self._again.add(store)
            return
        desk = self._desks.pop(store, None)
        self._desks[store] = desk = desk or Desk(
            self._engine, store, self._order.run_id, self._order.lease
        )
        self._busy.add(store)
        self.crew.add(store, desk.work())
        self._close_some()

    def _close_some(self) -> None:
        """The connections of stores that were quiet for the longest."""
        quiet = [store for store in self._desks if store not in self._busy]
        for store in quiet[: max(0, len(self._desks) - MOST_OPEN_STORES)]:
            self._desks.pop(store).close()

    def _after(self, store: str, fault: BaseException | None) -> None:
        self._busy.discard(store)
        if fault is not None:
            with _warning_of_trouble():
                self._desks[store].fault(fault)
        elif store in self._again:
            self._begin(store)
        self._again.discard(store)

    def close(self) -> None:
        for desk in self._desks.values():
            desk.close()


@contextmanager
def _warning_of_trouble() -> Iterator[None]:
    try:
        yield
    except DatabaseTrouble as trouble:
        log.warning("[Shopify Customer Webhook] Events wait in the inbox: %s", trouble)


@contextmanager
def _floor(engine: Engine, order: DrainOrder) -> Iterator[_Floor]:
    """Once the last steps have ended, what is still claimed is given back."""
    crew = Crew(workers=WORKERS, timer=engine.timer, fair=True)
    floor = _Floor(engine, order, crew)
    try:
        with crew:
            yield floor
    finally:
        floor.close()
        with suppress(DatabaseTrouble):  # then the leases end
            transact(engine.pool, lambda conn: inbox.release(conn, order.run_id))
