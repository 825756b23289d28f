"""What one store's bucket of cost points holds, kept from Shopify's own reports.

Every response tells the bucket's size, its level and its restore rate; no number is assumed.
One ledger serves all threads that speak to a store, so that together they ask for no more
than there is.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

NOTHING = 0.01
"""Points. Less than this is the rounding of floats, and a wait for it might never end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThrottleStatus:
    """`extensions.cost.throttleStatus`: points, points, points per second."""

    maximum: float
    available: float
    restore_rate: float


class Ledger:
    """`monotonic` is a clock in seconds; waiting is the caller's."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._mutex = threading.Lock()
        self._status: ThrottleStatus | None = None
        self._as_of = 0.0
        self._in_flight = 0.0

    def reserve(self, cost: float) -> float:
        """0.0 when `cost` points are now set aside (give them back by `settle` or `release`);
        else the seconds until the bucket will hold them, and nothing is set aside."""
        with self._mutex:
            wait = self._wait(cost)
            self._in_flight += 0.0 if wait else cost
            return wait

    def wait(self, cost: float) -> float:
        """The seconds until the bucket will hold `cost` points; nothing is set aside."""
        with self._mutex:
            return self._wait(cost)

    def settle(self, reserved: float, status: ThrottleStatus) -> None:
        """The request that reserved is answered, and this is the bucket after it."""
        with self._mutex:
            self._in_flight -= reserved
            self._status = status
            self._as_of = self._monotonic()

    def release(self, reserved: float) -> None:
        """The request that reserved ended without a report."""
        with self._mutex:
            self._in_flight -= reserved

    def _wait(self, cost: float) -> float:
        if self._status is None:  # nothing is known before the first answer
            return 0.0
        restored = (self._monotonic() - self._as_of) * self._status.restore_rate
        level = min(self._status.maximum, self._status.available + restored) - self._in_flight
        short = cost - level
        return short / self._status.restore_rate if short > NOTHING else 0.0
