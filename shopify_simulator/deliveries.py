"""One webhook on its way to one address: what is sent, what became of it, when it is retried."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from shopify_simulator.sample import Row

RETRY_GAPS = (10, 60, 180, 600, 1200, 2400, 3600, 6000)
"""Seconds. Documented are only their number, 8, and that they span 4 hours."""

State = Literal["held", "waiting", "delivered", "failed", "dropped"]


@dataclass(kw_only=True, slots=True, eq=False)
class Delivery:
    webhook_id: str
    event_id: str
    topic: str
    uri: str
    body: Callable[[], bytes]
    """Called for each try, with the same result: it costs less than to keep the bytes."""
    headers: Mapping[str, str | None]
    """Beside the signature, or in its place where they name it; None: not sent."""
    secret: str
    triggered_at: str
    made_at: float  # seconds since the epoch, real time
    subscription_id: str | None = None
    customer_id: int | None = None
    gaps: tuple[float, ...] = RETRY_GAPS
    state: State = "waiting"
    released: bool = False
    """It goes on though the store holds."""
    attempts: list[Row] = field(default_factory=list)

    @property
    def tries_left(self) -> int:
        return 1 + len(self.gaps) - len(self.attempts)

    def signed_headers(self, body: bytes) -> dict[str, bytes]:
        """As bytes, since HTTP clients refuse other scripts in text."""
        signed = {"X-Shopify-Hmac-Sha256": signature(self.secret, body), **self.headers}
        return {name: value.encode() for name, value in signed.items() if value is not None}

    def as_json(self) -> Row:
        return {
            "webhookId": self.webhook_id,
            "eventId": self.event_id,
            "topic": self.topic,
            "uri": self.uri,
            "subscriptionId": self.subscription_id,
            "customerId": self.customer_id,
            "body": self.body().decode("utf-8", "replace"),
            "triggeredAt": self.triggered_at,
            "madeAt": self.made_at,
            "attempts": list(self.attempts),
            "state": self.state,
        }


def signature(secret: str, body: bytes) -> str:
    digest = hmac.digest(secret.encode(), body, hashlib.sha256)
    return base64.b64encode(digest).decode()
