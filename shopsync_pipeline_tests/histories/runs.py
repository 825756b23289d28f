"""Shopsync's runs, stepped by hand: between two steps, and within one, anything may happen."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, cast

import pytest

from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import Pool
from shopsync_pipeline.models import Mode
from shopsync_pipeline.shopify.client import Waits
from shopsync_pipeline.sync import bulk, desk, events, pull, reconcile, sweep
from shopsync_pipeline.sync.desk import Desk
from shopsync_pipeline.sync.organizations import SyncOrder, sync_store
from shopsync_pipeline.sync.reconcile import ReconcileOrder, reconcile_store
from shopsync_pipeline_tests.world import World

SMALL: dict[Any, dict[str, int]] = {
    pull: {"PAGE_SIZE": 3},
    events: {"SCAN_ABOVE": 4, "IDS_AT_ONCE": 3, "FEW_MISSING": 4},
    reconcile: {"IDS_AT_ONCE": 3},
    sweep: {"FEW_MISSING": 4},
    desk: {"CLAIMED_AT_ONCE": 7},
    bulk: {"CHUNK_ROWS": 2},
}
"""What is a matter of hundreds is one of a handful, so that stores of a dozen customers have pages,
batches, chunks and mass edits."""

LEASE = timedelta(seconds=60)

LONGEST_SECONDS = 60
"""A run that works longer goes round in circles. Its steps say nothing: while a thread merges, it
takes as many as the clock of the simulator is moved."""

MOST_AT_ONCE = 1000

Kind = Literal["pull", "full pull", "reconcile", "drain"]


@contextmanager
def small_numbers(bulk_above: int) -> Iterator[None]:
    """`bulk_above` customers a store is read in bulk."""
    with pytest.MonkeyPatch.context() as patch:
        for module, numbers in SMALL.items():
            for name, number in numbers.items():
                patch.setattr(module, name, number)
        for module in (pull, sweep):
            patch.setattr(module, "BULK_ABOVE", bulk_above)
        yield


class Killed(BaseException):
    """The run's process is gone."""


class Touches:
    """A pool of connections; once, before a use of it, something else happens."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._thread = threading.get_ident()
        self._due: Callable[[], bool] = lambda: False
        self._what: Callable[[], object] | None = None

    def before(self, due: Callable[[], bool], what: Callable[[], object]) -> Callable[[], bool]:
        """`what` is to happen at the first use at which it is `due`; returns whether it did."""
        self._due, self._what = due, what
        return lambda: self._what is not what

    def forget(self) -> None:
        self._what = None

    def connection(self) -> Any:
        mine = threading.get_ident() == self._thread
        if mine and self._what is not None and self._due():
            what, self._what = self._what, None
            what()
        return self._pool.connection()


@dataclass(kw_only=True, eq=False)
class Run:
    kind: Kind
    integration_id: str
    steps: Waits[Any]
    desk: Desk | None = None
    wake: datetime | None = None
    busy: bool = False

    def close(self) -> None:
        self.steps.close()
        if self.desk is not None:
            self.desk.close()


class Runs:
    """What is under way. No lock keeps two of a kind apart, as when its session was lost."""

    def __init__(self, world: World) -> None:
        self._clock = world.simulator.clock
        self._touches = Touches(world.engine.pool)
        # Runs that are stopped midway hold their place, so that others would wait for ever.
        places = threading.Semaphore(MOST_AT_ONCE)
        self._engine = replace(world.engine, pool=cast(Pool, self._touches), bulk=places)
        self._pool = world.engine.pool
        self._number = 0
        self.under_way: list[Run] = []

    def begin(self, kind: Kind, integration_id: str) -> Run:
        self._number += 1
        run = self._new(kind, integration_id, f"{kind} {self._number}")
        self.under_way.append(run)
        return run

    def _new(self, kind: Kind, integration_id: str, run_id: str) -> Run:
        if kind == "drain":
            desk = Desk(self._engine, integration_id, run_id, LEASE)
            return Run(kind=kind, integration_id=integration_id, steps=desk.work(), desk=desk)
        with self._pool.connection() as conn:
            store = integrations.get(conn, integration_id)
        steps: Waits[Any]
        if kind == "reconcile":
            steps = reconcile_store(self._engine, store, ReconcileOrder(run_id=run_id))
        else:
            mode: Mode = "full" if kind == "full pull" else "incremental"
            steps = sync_store(self._engine, store, SyncOrder(run_id=run_id, mode=mode))
        return Run(kind=kind, integration_id=integration_id, steps=steps)

    def step(self, run: Run) -> Any:
        """One step; None where it is in the middle of one. Returns what the run returned at its
        end."""
        if run.busy:
            return None
        if run.wake is not None and run.wake > self._clock.now():
            self._clock.set(run.wake)
        run.busy = True
        try:
            run.wake = self._clock.now() + timedelta(seconds=next(run.steps))
        except StopIteration as end:
            self._end(run)
            return end.value
        except Killed:
            self._end(run)
        finally:
            run.busy = False
        return None

    def interrupt(self, run: Run, due: Callable[[], bool], what: Callable[[], object]) -> None:
        """Step until `what` happened, before the first use of Postgres at which it was `due`, or
        the run ended."""
        happened = self._touches.before(due, what)
        ends = time.monotonic() + LONGEST_SECONDS
        while not (happened() or run.busy or run not in self.under_way):
            assert time.monotonic() < ends, f"a {run.kind} without an end"
            self.step(run)
        self._touches.forget()

    def finish(self, run: Run) -> Any:
        outcome = None
        ends = time.monotonic() + LONGEST_SECONDS
        while not run.busy and run in self.under_way:
            assert time.monotonic() < ends, f"a {run.kind} without an end"
            outcome = self.step(run)
        return outcome

    def kill(self, run: Run) -> None:
        if not run.busy:
            self._end(run)

    def _end(self, run: Run) -> None:
        """An exception that is no trouble of a store leaves its run here, and fails the history."""
        self.under_way.remove(run)
        run.close()
