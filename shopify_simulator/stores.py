"""A store: `CustomerStore` and whom it tells of its changes.

The methods here and there are what the control API offers over HTTP.
"""

import itertools
import random
from collections.abc import Mapping
from functools import partial
from typing import Any

from shopify_simulator.bulk_files import BulkFiles
from shopify_simulator.bulk_operations import BulkOperations
from shopify_simulator.clock import Clock, stamp, stamp_ms
from shopify_simulator.credentials import Credentials
from shopify_simulator.customer_store import IDS_PER_STORE, CustomerStore
from shopify_simulator.customer_table import customer_number
from shopify_simulator.events import Message
from shopify_simulator.outbox import Order, Outbox
from shopify_simulator.payloads import local
from shopify_simulator.sample import Row
from shopify_simulator.sender import Sender
from shopify_simulator.shop_payloads import (
    data_request_body,
    redact_body,
    scopes_body,
    shop_body,
    shop_redact_body,
)
from shopify_simulator.subscriptions import Subscriptions
from shopify_simulator.webhooks import Webhooks

TOLD_SETTINGS = ("name", "currency", "plan")
"""A change of these is one of the shop."""


class Store(CustomerStore):
    def __init__(
        self,
        shop: str,
        *,
        number: int,
        clock: Clock,
        credentials: Credentials,
        sender: Sender,
        bulk_files: BulkFiles,
        seed: int = 1,
    ) -> None:
        super().__init__(shop, number=number, clock=clock, credentials=credentials, seed=seed)
        self._subscriptions = Subscriptions(number * IDS_PER_STORE + 1)
        # A randomness of its own, or webhooks would change which customers a seed makes.
        chances = random.Random(f"webhooks {seed}")
        self._outbox = Outbox(sender, self.settings, chances, self._exhausted)
        self._webhooks = Webhooks(
            shop,
            clock=clock,
            settings=self.settings,
            credentials=credentials,
            subscriptions=self._subscriptions,
            outbox=self._outbox,
        )
        self._data_requests = itertools.count(1)
        self.bulk = BulkOperations(
            number * IDS_PER_STORE + 1,
            clock=clock,
            settings=self.settings,
            lock=self.lock,
            files=bulk_files,
            snapshot=self.snapshot,
            next_fault=self.next_fault,
            tell=self._tell,
        )

    def change(self, **settings: Any) -> None:
        """Settings in snake_case or camelCase; the shop's and the scopes are told of."""
        with self.lock:
            shop, scopes = self._told(), self.settings.scopes
            super().change(**settings)
            self._outbox.settings_changed()
            if shop != self._told():
                self._tell([self._shop_message("shop/update")])
            if set(scopes) != set(self.settings.scopes):
                moment = stamp_ms(self.clock.now())
                body = partial(scopes_body, self.gid, scopes, self.settings.scopes, moment)
                self._tell([Message(topic="app/scopes_update", body=body)])

    # the app

    def uninstall(self) -> None:
        """The app's tokens and subscriptions end; a new access token installs it again."""
        with self.lock:
            self.credentials.uninstall()
            self._tell([self._shop_message("app/uninstalled")])
            self._subscriptions.clear()

    @property
    def subscriptions(self) -> list[Row]:
        with self.lock:
            return self._subscriptions.all()

    def subscribe(self, topic: str, uri: str, **more: Any) -> Row:
        """As the app does by mutation; `topic` as in CUSTOMERS_CREATE. Raises UserError."""
        with self.lock:
            settings = self.settings
            version, now = settings.webhook_api_version, stamp(self.clock.now())
            given = {"uri": uri, **more}
            return self._subscriptions.create(topic, given, settings.scopes, version, now)

    def change_subscription(self, subscription_id: str, **given: Any) -> Row:
        """Raises UserError."""
        with self.lock:
            now = stamp(self.clock.now())
            return self._subscriptions.update(subscription_id, given, self.settings.scopes, now)

    def unsubscribe(self, subscription_id: int | str) -> str:
        """Returns the gid; raises UserError."""
        with self.lock:
            return self._subscriptions.delete(str(subscription_id))

    # the compliance topics

    def request_redaction(self, customer_id: int | str) -> None:
        """The customer, if still there, is then deleted, of which nothing else is told."""
        with self.lock:
            number = customer_number(customer_id)
            (row,) = self._table.as_of(None, [number])
            body = partial(redact_body, self.shop, self.shop_id, number, row)
            self._comply("customers/redact", body, number)
            if row is not None:
                self._remove(number)

    def request_data(self, customer_id: int | str) -> None:
        with self.lock:
            number, request = customer_number(customer_id), next(self._data_requests)
            (row,) = self._table.as_of(None, [number])
            body = partial(data_request_body, self.shop, self.shop_id, number, row, request)
            self._comply("customers/data_request", body, number)

    def redact_shop(self) -> None:
        """Shopify sends it 48 h after the app was uninstalled."""
        with self.lock:
            self._comply("shop/redact", partial(shop_redact_body, self.shop, self.shop_id), None)

    # deliveries

    @property
    def deliveries(self) -> list[Row]:
        """The last 200,000, oldest first."""
        return self._outbox.records

    def clear_deliveries(self) -> None:
        self._outbox.clear()

    def wait_for_deliveries(self, timeout: float = 10) -> bool:
        """Until none waits, held ones aside; False when some still do."""
        return self._outbox.wait(timeout)

    def release(self, order: Order = "fifo", copies: int = 1) -> int:
        """Sends what is held, though the store goes on holding; returns how many were sent."""
        return self._outbox.release(order, copies)

    def send_webhook(
        self,
        topic: str,
        body: Row | bytes,
        uri: str,
        *,
        webhook_id: str | None = None,
        event_id: str | None = None,
        secret: str | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Row:
        """Once and at once, past subscriptions, settings and retries.

        `headers` replace those that Shopify would send; None leaves one out.
        """
        made = self._webhooks.send_by_hand(
            topic,
            body,
            uri,
            webhook_id=webhook_id,
            event_id=event_id,
            secret=secret,
            headers=headers,
        )
        return made.as_json()

    # how it is told

    def _tell(self, messages: list[Message]) -> None:
        self._webhooks.tell(messages)

    def _comply(self, topic: str, body: Any, customer_id: int | None) -> None:
        self._webhooks.tell_compliance(Message(topic=topic, body=body, customer_id=customer_id))

    def _exhausted(self, subscription_id: str) -> None:
        """As Shopify does with the subscription after the last retry failed too."""
        with self.lock:
            if any(row["id"] == subscription_id for row in self._subscriptions.all()):
                self._subscriptions.delete(subscription_id)

    def _told(self) -> list[Any]:
        return [getattr(self.settings, name) for name in TOLD_SETTINGS]

    def _shop_message(self, topic: str) -> Message:
        body = shop_body(
            self.shop,
            self.shop_id,
            self.settings,
            created_at=local(self.created_at),
            updated_at=local(stamp(self.clock.now())),
        )
        return Message(topic=topic, body=lambda: body)
