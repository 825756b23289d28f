"""Many stores, few threads: a task that waits holds no worker.

A task is a generator that yields the seconds it wants to wait (see shopify.client.Waits). It
runs one step at a time, on any thread; tasks that have begun go before those that have not,
so that no more stores are open than there is work for.
"""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, Self, TypeVar

from shopsync_pipeline.shopify.client import Timer, Waits

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A task's return value."""

    value: T


class Interleaver(Generic[K, T]):
    """Tasks may be added at any time, by the thread that asks which have `ended`.

    Leaving the block lets running steps finish and closes the other tasks. `timer` is the module
    `time`, whose waits are cut short by `wake`, or a test's own, which is slept on. A `fair` one
    begins new tasks in their turn, also while others that have begun could go on.
    """

    def __init__(self, *, workers: int, timer: Timer = time, fair: bool = False) -> None:
        self._workers = workers
        self._fair = fair
        self._timer = timer
        self._turn = itertools.count()
        self._unbegun: deque[tuple[K, Waits[T]]] = deque()
        self._waiting: list[tuple[float, int, K, Waits[T]]] = []
        self._running: dict[Future[float | Done[T]], tuple[K, Waits[T]]] = {}
        self._happened: SimpleQueue[Future[float | Done[T]] | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="store")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        begun = [
            *(task[3] for task in self._waiting),
            *(task[1] for task in self._running.values()),
        ]
        for steps in (*begun, *(task[1] for task in self._unbegun)):
            steps.close()

    def __bool__(self) -> bool:
        """Whether any task is left."""
        return bool(self._unbegun or self._waiting or self._running)

    def add(self, key: K, steps: Waits[T]) -> None:
        if self._fair:
            self._queue(0.0, key, steps)
        else:
            self._unbegun.append((key, steps))

    def _queue(self, wait: float, key: K, steps: Waits[T]) -> None:
        ready = self._timer.monotonic() + wait
        heapq.heappush(self._waiting, (ready, next(self._turn), key, steps))

    def wake(self) -> None:
        """From any thread: `ended` returns now, with what there is."""
        self._happened.put(None)

    def ended(self, timeout: float | None = None) -> list[tuple[K, T | BaseException]]:
        """Each task that ended, with its result or the exception that ended it; empty after
        `timeout` seconds, or when woken."""
        deadline = None if timeout is None else self._timer.monotonic() + timeout
        while True:
            self._begin_what_is_ready()
            happened = self._wait(deadline)
            found = [end for future in happened if future for end in self._after(future)]
            if found or None in happened or self._late(deadline):
                return found

    def _begin_what_is_ready(self) -> None:
        while len(self._running) < self._workers and (task := self._next_ready()):
            future = self._pool.submit(_step, task[1])
            self._running[future] = task
            future.add_done_callback(self._happened.put)

    def _next_ready(self) -> tuple[K, Waits[T]] | None:
        if self._waiting and self._waiting[0][0] <= self._timer.monotonic():
            _, _, key, steps = heapq.heappop(self._waiting)
            return key, steps
        return self._unbegun.popleft() if self._unbegun else None

    def _wait(self, deadline: float | None) -> list[Future[float | Done[T]] | None]:
        """What happened until the deadline, at the latest until the next waiting task is ready
        for a worker that is free."""
        free = len(self._running) < self._workers
        until = [self._waiting[0][0]] if self._waiting and free else []
        until += [] if deadline is None else [deadline]
        seconds = max(0.0, min(until) - self._timer.monotonic()) if until else None
        if not self._running and self._timer is not time:
            self._timer.sleep(seconds or 0.0)  # every task waits, and only time can end that
            seconds = 0.0
        return self._taken(seconds)

    def _taken(self, seconds: float | None) -> list[Future[float | Done[T]] | None]:
        try:
            taken = [self._happened.get(timeout=seconds)]
        except Empty:
            return []
        while not self._happened.empty():
            taken.append(self._happened.get())
        return taken

    def _after(self, future: Future[float | Done[T]]) -> list[tuple[K, T | BaseException]]:
        """The end of a task, or none where it only wants to wait."""
        key, steps = self._running.pop(future)
        error = future.exception()
        if error is not None:
            return [(key, error)]
        outcome = future.result()
        if isinstance(outcome, Done):
            return [(key, outcome.value)]
        self._queue(outcome, key, steps)
        return []

    def _late(self, deadline: float | None) -> bool:
        return deadline is not None and self._timer.monotonic() >= deadline


def interleave(
    tasks: Mapping[K, Waits[T]], *, workers: int, timer: Timer = time
) -> Generator[tuple[K, T | BaseException]]:
    """Run all tasks on `workers` threads; yield each key with its result, or the exception that
    ended it, as it ends. Leaving early lets running steps finish and closes the rest."""
    with Interleaver[K, T](workers=workers, timer=timer) as crew:
        for key, steps in tasks.items():
            crew.add(key, steps)
        while crew:
            yield from crew.ended()


def _step(steps: Waits[T]) -> float | Done[T]:
    try:
        return next(steps)
    except StopIteration as stop:
        return Done(stop.value)
