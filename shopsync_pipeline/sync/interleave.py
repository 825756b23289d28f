"""Many stores, few threads: a task that waits holds no worker.

A task is a generator that yields the seconds it wants to wait (see shopify.client.Waits). It
runs one step at a time, on any thread; tasks that have begun go before those that have not,
so that no more stores are open than there is work for.
"""

import heapq
import itertools
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from shopsync_pipeline.shopify.client import Timer, Waits

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A task's return value."""

    value: T


def interleave(
    tasks: Mapping[K, Waits[T]], *, workers: int, timer: Timer = time
) -> Generator[tuple[K, T | BaseException]]:
    """Run all tasks on `workers` threads; yield each key with its result, or the exception that
    ended it, as it ends. Leaving early lets running steps finish and closes the rest."""
    turn = itertools.count()
    unbegun = iter(tasks.items())
    waiting: list[tuple[float, int, K, Waits[T]]] = []
    running: dict[Future[float | Done[T]], tuple[K, Waits[T]]] = {}
    with (
        _closing_what_waits(waiting),
        ThreadPoolExecutor(workers, thread_name_prefix="store") as pool,
    ):
        while True:
            while len(running) < workers and (task := _next_ready(waiting, unbegun, timer)):
                running[pool.submit(_step, task[1])] = task
            if not running and not waiting:
                return
            for future in _finished(running, waiting if len(running) < workers else [], timer):
                key, steps = running.pop(future)
                error = future.exception()
                if error is not None:
                    yield key, error
                    continue
                outcome = future.result()
                if isinstance(outcome, Done):
                    yield key, outcome.value
                else:
                    heapq.heappush(waiting, (timer.monotonic() + outcome, next(turn), key, steps))


@contextmanager
def _closing_what_waits(waiting: list[tuple[float, int, K, Waits[T]]]) -> Iterator[None]:
    try:
        yield
    finally:
        for _, _, _, steps in waiting:
            steps.close()


def _next_ready(
    waiting: list[tuple[float, int, K, Waits[T]]],
    unbegun: Iterator[tuple[K, Waits[T]]],
    timer: Timer,
) -> tuple[K, Waits[T]] | None:
    if waiting and waiting[0][0] <= timer.monotonic():
        _, _, key, steps = heapq.heappop(waiting)
        return key, steps
    return next(unbegun, None)


def _finished(
    running: Mapping[Future[float | Done[T]], object],
    waiting: list[tuple[float, int, K, Waits[T]]],
    timer: Timer,
) -> set[Future[float | Done[T]]]:
    """Those that ended, at the latest when the next of `waiting` is ready."""
    timeout = max(0.0, waiting[0][0] - timer.monotonic()) if waiting else None
    if not running:
        timer.sleep(timeout or 0.0)  # every task waits, and only time can end that
        return set()
    return wait(running, timeout, FIRST_COMPLETED).done


def _step(steps: Waits[T]) -> float | Done[T]:
    try:
        return next(steps)
    except StopIteration as stop:
        return Done(stop.value)
