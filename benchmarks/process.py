"""What a process has used. Imports nothing, so that it can be asked in any."""

import json
import resource
import time
from collections.abc import Callable


def cpu() -> float:
    """Seconds of CPU of this process and of its children that have ended."""
    return _used(resource.RUSAGE_SELF) + children_cpu()


def children_cpu() -> float:
    return _used(resource.RUSAGE_CHILDREN)


def _used(by: int) -> float:
    used = resource.getrusage(by)
    return used.ru_utime + used.ru_stime


def measured(work: Callable[[], None]) -> None:
    """Do it, and print what it took as JSON; `start` is what was used before, for imports."""
    start, began = cpu(), time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    print(json.dumps({"start": start, "cpu": cpu() - start, "seconds": seconds}))
