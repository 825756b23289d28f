"""The threads that send webhooks, for all stores of a simulator.

Threads start when there is work and end with `stop`, which cuts the connections under way. All
outboxes share this one lock; stores take theirs first, if they need both. What is sent when is the
outboxes' to decide.
"""

import heapq
import itertools
import threading
import time
from collections import deque

from shopify_simulator.deliveries import Delivery
from shopify_simulator.posting import Courier, Line

MOST_THREADS = 16
IDLE_SECONDS = 1.0
"""Then a thread closes its connections, as their other ends may at any time."""


class Sender:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        """Told after every delivery, and at the end."""
        self.stopped = False
        self._work = threading.Condition(self.lock)
        self._lines: deque[Line] = deque()
        self._later: list[tuple[float, int, Line, Delivery]] = []
        self._numbers = itertools.count()
        self._couriers: list[Courier] = []
        self._idle = 0

    def wake(self, line: Line) -> None:
        """The line has something to send."""
        with self.lock:
            if not line.in_line:
                line.in_line = True
                self._lines.append(line)
            self._call_one()

    def later(self, seconds: float, line: Line, delivery: Delivery) -> None:
        with self.lock:
            when = time.monotonic() + seconds
            heapq.heappush(self._later, (when, next(self._numbers), line, delivery))
            self._call_one()

    def stop(self) -> None:
        """Returns when no thread is left; what was not sent stays waiting."""
        with self.lock:
            self.stopped = True
            self._work.notify_all()
            self.changed.notify_all()
            couriers = list(self._couriers)
        for courier in couriers:
            courier.cut()
        for courier in couriers:
            courier.join()

    def take(self, courier: Courier) -> tuple[Line, Delivery] | None:
        """Waits for the next delivery; None at the end."""
        with self.lock:
            while not self.stopped:
                if found := self._next():
                    return found
                self._idle += 1
                called = self._work.wait(self._pause(courier))
                self._idle -= 1
                if not called and not self._lines:
                    courier.hang_up()
            return None

    def _next(self) -> tuple[Line, Delivery] | None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, _, line, delivery = heapq.heappop(self._later)
            line.due(delivery)
        while self._lines:
            line = self._lines.popleft()
            if found := line.next():
                self._lines.append(line)
                return line, found
            line.in_line = False
        return None

    def _pause(self, courier: Courier) -> float | None:
        """Until the next one is due; no longer than connections may idle, if there are any."""
        limits = [IDLE_SECONDS] if courier.connections else []
        if self._later:
            limits.append(max(0.0, self._later[0][0] - time.monotonic()))
        return min(limits, default=None)

    def _call_one(self) -> None:
        if self._idle:
            self._work.notify()
        elif len(self._couriers) < MOST_THREADS and not self.stopped:
            courier = Courier(self)
            self._couriers.append(courier)
            courier.start()
