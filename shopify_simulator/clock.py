"""The simulator's time: real until somebody sets it, then standing still until it is moved.

Shopify's timestamps are UTC in whole seconds; `stamp` writes them so, and as such they sort as
text.
"""

import threading
from datetime import UTC, datetime, timedelta


class Clock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._standing: datetime | None = None

    def now(self) -> datetime:
        with self._lock:
            return self._standing or datetime.now(UTC)

    def set(self, moment: datetime | None) -> None:
        """None: real time again. A moment without a time zone is taken as UTC."""
        with self._lock:
            self._standing = moment and as_utc(moment)

    def advance(self, seconds: float) -> None:
        """On real time the clock first stops where it is."""
        with self._lock:
            self._standing = (self._standing or datetime.now(UTC)) + timedelta(seconds=seconds)


def as_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp_ms(moment: datetime) -> str:
    """As the webhooks' X-Shopify-Triggered-At and occurredAt write it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def read_moment(text: str) -> datetime:
    """Raises ValueError when the text is no ISO 8601 timestamp."""
    return as_utc(datetime.fromisoformat(text))
