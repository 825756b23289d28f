"""One store's place in the drain: claims its events, has them settled, answers for its trouble.

Trouble of the store is nobody's fault: it is put off, and its events wait untouched. Only an event
that itself cannot be processed counts its tries and dies.
"""

import logging
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

from shopsync_pipeline.db import inbox, integrations
from shopsync_pipeline.db.engine import Conn, read, transact
from shopsync_pipeline.errors import (
    BadBody,
    DatabaseTrouble,
    LeftOut,
    RetryableError,
    ShopifyError,
    ShopsyncError,
)
from shopsync_pipeline.models import WebhookEvent
from shopsync_pipeline.shopify.client import Waits
from shopsync_pipeline.shopify.webhooks import CUSTOMER_TOPICS, Hint, hint_of
from shopsync_pipeline.sync.engine import Engine, open_store, record_trouble
from shopsync_pipeline.sync.events import CustomerEvents
from shopsync_pipeline.sync.store import Store
from shopsync_pipeline.sync.storewide import StoreEvents, in_order
from shopsync_pipeline.sync.verdict import Marked

log = logging.getLogger(__name__)

CLAIMED_AT_ONCE = 1000

DATABASE_REST = timedelta(seconds=5)
REST = timedelta(minutes=1)
"""How long a store rests whose trouble may pass, after four tries within 15 seconds."""


class Desk:
    """Used by one thread at a time; keeps the store's connection and cost ledger."""

    def __init__(self, engine: Engine, integration_id: str, run_id: str, lease: timedelta) -> None:
        self._engine = engine
        self._id = integration_id
        self._run_id = run_id
        self._lease = lease
        self._open = ExitStack()
        self._store: Store | None = None
        self._at_work: list[str] = []

    def close(self) -> None:
        self._open.close()
        self._store = None

    def work(self) -> Waits[None]:
        """Settle everything of the store that may be claimed now."""
        while events := transact(self._engine.pool, self._claim):
            try:
                yield from self._through(events)
            except LeftOut:
                break
            except ShopifyError as error:
                self._put_off(error)
                break
            yield 0.0  # let other stores have the worker
        self._give_back()

    def fault(self, error: BaseException) -> None:
        """After `work` ended by what no store's trouble explains. Only its kind is told: its text
        may quote data. It counts as a try of the events it was met with, and of no others."""
        what = str(error) if isinstance(error, ShopsyncError) else type(error).__name__
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("[Shopify Customer Webhook] %s: %s at\n%s", self._id, what, frames)
        reason = f"a fault of Shopsync ({what}); the log has the place. Please report it."
        if isinstance(error, ShopsyncError):  # of the database, or a setting: it may pass
            rest = DATABASE_REST if isinstance(error, DatabaseTrouble) else REST
            transact(self._engine.pool, lambda conn: integrations.put_off(conn, self._id, rest))
        else:
            reasons = dict.fromkeys(self._at_work, reason)
            transact(self._engine.pool, lambda conn: inbox.fail(conn, self._run_id, reasons))
        self._give_back()

    def _claim(self, conn: Conn) -> list[WebhookEvent]:
        return inbox.claim(
            conn,
            self._id,
            self._run_id,
            always=inbox.ALWAYS,
            lease=self._lease,
            limit=CLAIMED_AT_ONCE,
        )

    def _give_back(self) -> None:
        transact(
            self._engine.pool,
            lambda conn: inbox.release(conn, self._run_id, integration_id=self._id),
        )

    def _through(self, events: Sequence[WebhookEvent]) -> Waits[None]:
        """What is about the store first: it may have left."""
        self._at_work[:] = [event.id for event in events]
        store = self._opened()
        hints = self._hints(events)
        about_store = StoreEvents(store, self._run_id)
        for event, hint in in_order([each for each in hints if _is_about_store(each[0])]):
            self._at_work[:] = [event.id]
            yield from about_store.process(event, hint)
        marked = [m for e, h in hints if not _is_about_store(e) for m in self._marked(e, h)]
        if marked:
            yield from CustomerEvents(store, self._run_id, self._at_work).process(marked)

    def _hints(self, events: Sequence[WebhookEvent]) -> list[tuple[WebhookEvent, Hint]]:
        """What they point at, the bodies let go; one that is not what its topic says makes a dead
        letter."""
        hints = []
        reasons = {}
        for event in events:
            try:
                hints.append((replace(event, body=event.body and b""), _hint(event)))
            except BadBody as bad:
                reasons[event.id] = str(bad)
                log.warning(
                    "[Shopify Customer Webhook] Dead letter %s of %s (%s, %s): %s. See: "
                    "shopsync webhooks dead",
                    *(event.id, event.organization_id, event.shop, event.topic, bad),
                )
        if reasons:
            transact(
                self._engine.pool,
                lambda conn: inbox.fail(conn, self._run_id, reasons, for_good=True),
            )
        return hints

    def _marked(self, event: WebhookEvent, hint: Hint) -> list[Marked]:
        """None for a merge that was not completed: nobody changed."""
        if hint.customer_id is not None:
            return [Marked.of(event, hint.customer_id, hint)]
        end = inbox.Ending(event_id=event.id, outcome="unchanged", note="not completed")
        transact(self._engine.pool, lambda conn: inbox.settle(conn, self._run_id, [end]))
        return []

    def _opened(self) -> Store:
        """With the integration as it is now; its domain or token may have changed."""
        fresh = read(self._engine.pool, lambda conn: integrations.get(conn, self._id))
        if self._store is None or self._store.integration.shop != fresh.shop:
            self.close()
            self._store = self._open.enter_context(open_store(self._engine, fresh))
        self._store = replace(self._store, integration=fresh)
        return self._store

    def _put_off(self, error: ShopifyError) -> None:
        """Until a person mends it, or for a while where it may pass by itself."""
        assert self._store is not None
        whom = self._store.integration.organization_id
        log.warning("[Shopify Customer Webhook] Put off %s: %s", whom, error)
        if isinstance(error, RetryableError):
            transact(self._engine.pool, lambda conn: integrations.put_off(conn, self._id, REST))
            return
        transact(self._engine.pool, lambda conn: record_trouble(conn, self._id, error))


def _is_about_store(event: WebhookEvent) -> bool:
    return event.topic not in CUSTOMER_TOPICS


def _hint(event: WebhookEvent) -> Hint:
    """Rows that Shopsync filed itself, and those whose body was erased, name their customer."""
    if event.body is None:
        return Hint(customer_id=event.customer_id)
    return hint_of(event.topic, event.shop, event.body)
