"""The simulator's time: real until somebody sets it, then standing still until it is moved.

Shopify's timestamps are UTC in whole seconds; `stamp` writes them so, and as such they sort as
text.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._standing: datetime | None = None

    def now(self) -> datetime:
        with self._changed:
            return self._standing or datetime.now(UTC)

    def set(self, moment: datetime | None) -> None:
        """None: real time again. A moment without a time zone is taken as UTC."""
        with self._changed:
            self._standing = moment and as_utc(moment)
            self._changed.notify_all()

    def advance(self, seconds: float) -> None:
        """On real time the clock first stops where it is."""
        with self._changed:
            self._standing = self.now() + timedelta(seconds=seconds)
            self._changed.notify_all()

    def wait_until(self, moment: datetime, given_up: Callable[[], bool]) -> None:
        """Until it is that late on this clock; `given_up` is asked again on each `wake`."""
        with self._changed:
            while not given_up() and (left := (moment - self.now()).total_seconds()) > 0:
                self._changed.wait(left if self._standing is None else None)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def as_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()[:19] + "Z"


def stamp_ms(moment: datetime) -> str:
    """As the webhooks' X-Shopify-Triggered-At and occurredAt write it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def read_moment(text: str) -> datetime:
    """Raises ValueError when the text is no ISO 8601 timestamp."""
    return as_utc(datetime.fromisoformat(text))
