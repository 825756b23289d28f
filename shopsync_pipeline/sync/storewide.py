"""Webhooks about the store itself and about people's rights: one handler a topic.

Those that destroy are no hints: nothing can be read again to confirm a redaction. So besides the
body's own shape and shop (shopify.webhooks) each has a condition of its own, and one that does not
hold makes a dead letter and tells the operator.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from shopsync_pipeline.db import customers, data_requests, erasure, inbox, integrations
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.db.inbox import Delay, Ending
from shopsync_pipeline.errors import (
    BadBody,
    IntegrationInactive,
    NeedsReauth,
    ShopifyError,
    StoreGone,
    StorePaused,
)
from shopsync_pipeline.models import Integration, WebhookEvent
from shopsync_pipeline.shopify.client import Waits
from shopsync_pipeline.shopify.webhooks import COMPLIANCE_TOPICS, Hint, hint_of
from shopsync_pipeline.sync.pull import PullResult, probe
from shopsync_pipeline.sync.store import Store

log = logging.getLogger(__name__)

PROBE_AGAIN = timedelta(minutes=5)
MOST_PROBES = 5
CLOSED_FOR = timedelta(days=1)
"""Shopify's shop/redact comes two days after an uninstall, and counts only once the store left."""


class StoreEvents:
    """Settles what is not about one customer's content, in the name of one run."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id

    def process(self, event: WebhookEvent, hint: Hint) -> Waits[None]:
        """Where the store must be asked and does not answer, the event waits; nothing else does."""
        if event.topic in COMPLIANCE_TOPICS:
            obey = OBEYED[event.topic]
            self._transact(lambda conn: obey(self, conn, event, hint))
        elif event.topic == "app/uninstalled":
            yield from self._uninstalled(event)
        else:
            yield from self._refreshed(event)

    def _uninstalled(self, event: WebhookEvent) -> Waits[None]:
        """It counts only when the token is refused: the headers are unsigned, and the app may have
        been installed again since. A store that is closed or frozen for a day has left too."""
        pool = self._store.pool
        held = read(pool, self._store.tokens.fingerprint)
        try:
            yield from self._store.ask("StoreProbe", {})
        except (NeedsReauth, IntegrationInactive):
            self._transact(lambda conn: self._deactivate(conn, event, held))
        except (StoreGone, StorePaused) as trouble:
            if read(pool, clock) - event.received_at < CLOSED_FOR:
                self._postpone(event, trouble)
            else:
                self._transact(lambda conn: self._deactivate(conn, event, held))
        except ShopifyError as trouble:
            self._postpone(event, trouble)
        else:
            why = "app/uninstalled, but the store still accepts the token"
            self._transact(lambda conn: self._refuse(conn, event, why))

    def _deactivate(self, conn: Conn, event: WebhookEvent, held: str | None) -> None:
        """Unless the store was connected anew meanwhile: then its new token is asked."""
        integrations.lock(conn, event.integration_id)
        if self._store.tokens.fingerprint(conn) != held:
            inbox.postpone(conn, self._run_id, [_later(event, "connected anew")])
            return
        integrations.deactivate(conn, event.integration_id)
        self._end(conn, event, "uninstalled")

    def _refreshed(self, event: WebhookEvent) -> Waits[None]:
        """What the store says of itself now; new scopes may have mended its trouble. Asked also
        while a person has paused it: none of its customers is read, and once resumed it need not
        wait for what was mended meanwhile."""
        try:
            yield from probe(self._store, PullResult())
        except IntegrationInactive:
            self._transact(lambda conn: self._end(conn, event, "unchanged"))
        except ShopifyError as trouble:
            if event.reads < MOST_PROBES:
                self._postpone(event, trouble)
            else:
                self._transact(lambda conn: self._end(conn, event, "unchanged"))
        else:
            self._transact(lambda conn: self._refresh(conn, event))

    def _refresh(self, conn: Conn, event: WebhookEvent) -> None:
        integrations.free(conn, event.integration_id)
        inbox.notify(conn, event.integration_id)
        self._end(conn, event, "refreshed")

    def _postpone(self, event: WebhookEvent, trouble: ShopifyError) -> None:
        again = _later(event, str(trouble))
        self._transact(lambda conn: inbox.postpone(conn, self._run_id, [again]))

    def _requested(self, conn: Conn, event: WebhookEvent, hint: Hint) -> None:
        if hint.customer_id is not None and hint.request_id is not None:  # else filed long ago
            data_requests.file(conn, event, hint.request_id, hint.customer_id)
        self._end(conn, event, "filed", hint.customer_id)

    def _redacted(self, conn: Conn, event: WebhookEvent, hint: Hint) -> None:
        assert hint.customer_id is not None
        integration = integrations.lock(conn, event.integration_id)
        customers.redact(conn, integration, hint.customer_id, self._run_id)
        self._erase_bodies(conn, integration, hint.customer_id)
        self._end(conn, event, "redacted", hint.customer_id)

    def _erase_bodies(self, conn: Conn, integration: Integration, customer_id: int) -> None:
        """A body that holds the number and is still to be worked on goes only where it is about
        this person; then the person is read by id."""
        named = [
            event_id
            for event_id, status, topic, body in erasure.naming(conn, integration.id, customer_id)
            if status not in ("pending", "claimed")
            or _is_about(topic, integration.shop, body, customer_id)
        ]
        erasure.erase_bodies(conn, named, customer_id)

    def _shop_redacted(self, conn: Conn, event: WebhookEvent, hint: Hint) -> None:
        integration = integrations.lock(conn, event.integration_id)
        if integration.is_active:
            self._refuse(conn, event, "shop/redact, but the store is connected")
            return
        customers.remove_store(conn, integration)
        erasure.erase_all_bodies(conn, integration.id)
        data_requests.remove(conn, integration.id)
        integrations.forget_signing_secrets(conn, integration.id)
        self._end(conn, event, "redacted")

    def _refuse(self, conn: Conn, event: WebhookEvent, why: str) -> None:
        """A dead letter, and the operator is told."""
        inbox.fail(conn, self._run_id, {event.id: why}, for_good=True)
        log.error(
            "[Shopify Customer Webhook] Refused for %s (%s): %s. See: shopsync webhooks dead",
            event.organization_id,
            event.shop,
            why,
        )

    def _end(
        self, conn: Conn, event: WebhookEvent, outcome: str, customer_id: int | None = None
    ) -> None:
        end = Ending(event_id=event.id, outcome=outcome, customer_id=customer_id)
        inbox.settle(conn, self._run_id, [end])

    def _transact(self, work: Callable[[Conn], None]) -> None:
        transact(self._store.pool, work)


Obey = Callable[[StoreEvents, Conn, WebhookEvent, Hint], None]
OBEYED: Mapping[str, Obey] = {
    "customers/data_request": StoreEvents._requested,
    "customers/redact": StoreEvents._redacted,
    "shop/redact": StoreEvents._shop_redacted,
}


def in_order(about_store: Sequence[tuple[WebhookEvent, Hint]]) -> list[tuple[WebhookEvent, Hint]]:
    """What the law asks first: it needs no answer of the store."""
    return sorted(about_store, key=lambda each: each[0].topic not in COMPLIANCE_TOPICS)


def _later(event: WebhookEvent, note: str) -> Delay:
    return Delay(event_id=event.id, customer_id=None, wait=PROBE_AGAIN, note=note)


def _is_about(topic: str, shop: str, body: bytes, customer_id: int) -> bool:
    try:
        hint = hint_of(topic, shop, body)
    except BadBody:
        return True  # it becomes a dead letter; what it holds of the person goes now
    return customer_id in (hint.customer_id, hint.kept_id)
