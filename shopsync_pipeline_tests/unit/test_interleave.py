"""Many tasks on few threads."""

import threading
import time
from collections.abc import Generator

import pytest

from shopsync_pipeline.sync.interleave import Interleaver, interleave


def stepping(*waits: float, result: str) -> Generator[float, None, str]:
    yield from waits
    return result


def failing() -> Generator[float, None, str]:
    yield 0.0
    raise LookupError("broken")


def test_each_task_ends_once_with_its_result_or_its_error() -> None:
    tasks = {"a": stepping(0, 0, result="A"), "b": failing(), "c": stepping(result="C")}
    ended = dict(interleave(tasks, workers=2))
    assert (ended["a"], ended["c"]) == ("A", "C")
    assert isinstance(ended["b"], LookupError)


def test_a_task_that_waits_holds_no_worker() -> None:
    tasks = {"slow": stepping(0.2, result="slow"), "quick": stepping(0, 0, 0, result="quick")}
    assert [key for key, _ in interleave(tasks, workers=1)] == ["quick", "slow"]


def test_tasks_that_wait_all_at_once_wait_together() -> None:
    tasks = {n: stepping(0.1, result=str(n)) for n in range(50)}
    assert len(dict(interleave(tasks, workers=2))) == 50


def test_no_more_tasks_are_begun_than_there_is_work_for() -> None:
    begun: list[int] = []

    def task(number: int) -> Generator[float, None, int]:
        begun.append(number)
        for _ in range(3):
            yield 0.0
        return len(begun)

    most = max(
        value if isinstance(value, int) else 0
        for _, value in interleave({n: task(n) for n in range(20)}, workers=1)
    )
    first = next(iter(interleave({n: task(n) for n in range(20)}, workers=1)))
    assert (most, first[0]) == (20, 0)


def test_a_task_is_never_run_by_two_threads_at_once() -> None:
    inside = threading.Lock()

    def task() -> Generator[float, None, bool]:
        alone = True
        for _ in range(100):
            alone &= inside.acquire(blocking=False)
            inside.release()
            yield 0.0
        return alone

    assert dict(interleave({"only": task()}, workers=8)) == {"only": True}


def test_leaving_early_closes_what_was_not_done() -> None:
    closed = threading.Event()

    def endless() -> Generator[float, None, None]:
        try:
            while True:
                yield 0.0
        finally:
            closed.set()

    running = interleave({"quick": stepping(result="x"), "endless": endless()}, workers=2)
    assert next(running) == ("quick", "x")
    running.close()
    assert closed.wait(5)


def test_a_task_that_is_ready_while_all_workers_are_busy_costs_no_cpu() -> None:
    """The loop had asked again and again, at full speed, whether a worker was free."""

    def busy() -> Generator[float, None, str]:
        yield 0.0
        time.sleep(0.5)
        return "done"

    tasks = {"a": busy(), "b": busy(), "c": stepping(0.01, result="c")}
    before = time.process_time()
    assert len(dict(interleave(tasks, workers=2))) == 3
    assert time.process_time() - before < 0.25


@pytest.mark.parametrize("workers", [1, 16])
def test_nothing_to_do_ends_at_once(workers: int) -> None:
    assert list(interleave({}, workers=workers)) == []


def test_in_a_fair_one_a_new_task_does_not_wait_for_those_that_have_begun_to_end() -> None:
    """Sixteen stores with a backlog had kept the seventeenth waiting until they were through."""
    with Interleaver[str, str](workers=1, timer=time, fair=True) as crew:
        crew.add("long", stepping(*[0.0] * 100, result="long"))
        crew.add("short", stepping(result="short"))
        assert crew.ended() == [("short", "short")]
