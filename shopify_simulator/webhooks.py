"""The webhooks of one store: messages become deliveries for the subscriptions that match.

The caller holds the store's lock wherever subscriptions are read or changed.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import orjson

from shopify_simulator.clock import Clock, stamp_ms
from shopify_simulator.credentials import Credentials
from shopify_simulator.deliveries import RETRY_GAPS, Delivery
from shopify_simulator.events import MakeBody, Message
from shopify_simulator.outbox import Outbox
from shopify_simulator.sample import Row
from shopify_simulator.settings import Settings
from shopify_simulator.subscriptions import Subscriptions


class Webhooks:
    def __init__(
        self,
        shop: str,
        *,
        clock: Clock,
        settings: Settings,
        credentials: Credentials,
        subscriptions: Subscriptions,
        outbox: Outbox,
    ) -> None:
        self.shop = shop
        self.clock = clock
        self.settings = settings
        self.credentials = credentials
        self.subscriptions = subscriptions
        self.outbox = outbox

    def tell(self, messages: Iterable[Message]) -> None:
        """Of one action: its deliveries share the event id."""
        event_id = str(uuid.uuid4())
        self.outbox.put(
            self._for_subscription(message, row, event_id)
            for message in messages
            for row in self.subscriptions.of(message.topic)
        )

    def tell_compliance(self, message: Message) -> None:
        """To the one address of the app, if it has one."""
        if self.settings.compliance_uri is not None:
            made = self._delivery(
                message.topic,
                self.settings.compliance_uri,
                partial(_json, message.body, ()),
                customer_id=message.customer_id,
            )
            self.outbox.put([made])

    def send_by_hand(
        self,
        topic: str,
        body: Row | bytes,
        uri: str,
        *,
        webhook_id: str | None,
        event_id: str | None,
        secret: str | None,
        headers: Mapping[str, str | None] | None,
    ) -> Delivery:
        """Sent once, whatever becomes of it; a header of None is left out."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        made = self._delivery(
            topic,
            uri,
            lambda: content,
            webhook_id=webhook_id,
            event_id=event_id,
            secret=secret,
            headers=headers or {},
            gaps=(),
        )
        self.outbox.put_by_hand(made)
        return made

    def _for_subscription(self, message: Message, row: Row, event_id: str) -> Delivery:
        return self._delivery(
            message.topic,
            row["uri"],
            partial(_json, message.body, tuple(row["includeFields"])),
            event_id=event_id,
            customer_id=message.customer_id,
            subscription_id=row["id"],
            headers={"X-Shopify-Name": row["name"]},
        )

    def _delivery(
        self,
        topic: str,
        uri: str,
        body: Callable[[], bytes],
        *,
        webhook_id: str | None = None,
        event_id: str | None = None,
        secret: str | None = None,
        headers: Mapping[str, str | None] | None = None,
        customer_id: int | None = None,
        subscription_id: str | None = None,
        gaps: tuple[float, ...] = RETRY_GAPS,
    ) -> Delivery:
        webhook_id = webhook_id or str(uuid.uuid4())
        event_id, now = event_id or str(uuid.uuid4()), stamp_ms(self.clock.now())
        usual = {
            "Content-Type": "application/json",
            "X-Shopify-Topic": topic,
            "X-Shopify-Shop-Domain": self.shop,
            "X-Shopify-API-Version": self.settings.webhook_api_version,
            "X-Shopify-Webhook-Id": webhook_id,
            "X-Shopify-Event-Id": event_id,
            "X-Shopify-Triggered-At": now,
        }
        return Delivery(
            webhook_id=webhook_id,
            event_id=event_id,
            topic=topic,
            uri=uri,
            body=body,
            headers=usual | dict(headers or {}),
            secret=self._secret() if secret is None else secret,
            triggered_at=now,
            made_at=time.time(),
            subscription_id=subscription_id,
            customer_id=customer_id,
            gaps=gaps,
        )

    def _secret(self) -> str:
        return self.settings.webhook_secret or self.credentials.client_secret or ""


def _json(make: MakeBody, include: tuple[str, ...]) -> bytes:
    """`include` names what stays of the body's top level; empty: all of it."""
    body = make()
    if include:
        body = {name: value for name, value in body.items() if name in include}
    return orjson.dumps(body)
