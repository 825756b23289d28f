"""Log lines that anybody can cause, so that a flood of forged deliveries does not fill the disk."""

import threading
from collections.abc import Callable
from time import monotonic

MINUTE = 60.0
LINES = 20


class Seldom:
    """Of each text one line a minute, and of all together LINES; the next minute's first line says
    how many were left out. `write` is a method of a logger."""

    def __init__(
        self, write: Callable[[str, str], None], clock: Callable[[], float] = monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._written: set[str] = set()
        self._left_out = 0
        self._until = clock() + MINUTE

    def tell(self, text: str) -> None:
        with self._lock:
            before = self._of_the_last_minute()
            if text in self._written or len(self._written) == LINES:
                self._left_out += 1
                return
            self._written.add(text)
        self._write("%s", f"{text} (and {before:,} more in the minute before)" if before else text)

    def _of_the_last_minute(self) -> int:
        """How many were left out, told once and as soon as it is over."""
        if self._clock() < self._until:
            return 0
        before, self._left_out = self._left_out, 0
        self._written.clear()
        self._until = self._clock() + MINUTE
        return before
