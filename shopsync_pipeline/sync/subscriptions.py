"""Turn real-time sync of stores on, keep it on, turn it off: their webhook subscriptions.

Each store is listed, planned and changed under a lock of its shop, so that two runs never do it at
once. Whatever Shopify refused is looked at again before it counts: a mutation whose answer was
lost is sent twice, and the second is refused for what the first has done.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from shopsync_pipeline.db import alerts, integrations, requests
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.errors import (
    ConfigurationError,
    IntegrationInactive,
    NeedsScope,
    PagingStuck,
    ShopifyError,
    ShopsyncError,
    StoreTrouble,
)
from shopsync_pipeline.models import Integration
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.client import Reply, Waits, waited
from shopsync_pipeline.shopify.subscriptions import (
    Change,
    Receiver,
    Subscription,
    cannot_reach,
    lacking,
    plan,
    refusal_of,
    subscriptions_of,
    wanted_of,
)
from shopsync_pipeline.sync.connect import REQUIRED_SCOPES
from shopsync_pipeline.sync.engine import (
    LOCK_POLL_SECONDS,
    Engine,
    by_organization,
    open_store,
    record_trouble,
    told_of,
)
from shopsync_pipeline.sync.store import Store, scopes_of
from shopsync_pipeline.sync.watch import event

log = logging.getLogger(__name__)

PAGE_SIZE = 250

Action = Literal["enable", "check", "disable"]


@dataclass(kw_only=True)
class Settlement:
    """What was found and done in one store. `topics` are those that are subscribed in the end;
    `lacking` those for which the app has not the scope that is named."""

    topics: list[str] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    done: list[Change] = field(default_factory=list)
    requests: int = 0

    def topics_of(self, kind: str) -> list[str]:
        """The topics whose subscriptions were changed: `create`, `update` or `remove`."""
        return [change.topic for change in self.done if change.kind == kind]

    def count(self, reply: Reply) -> Reply:
        self.requests += reply.tries
        return reply


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSubscriptions:
    """`off` has no real-time sync, or none any more; `paused` is left out by a person, as `note`
    tells; `put_off` is in the trouble that `note` tells; `no_address` would not get webhooks, since
    APP_URL is not public; `left` was disconnected meanwhile."""

    integration: Integration
    state: Literal["on", "off", "paused", "put_off", "no_address", "left", "failed"]
    result: Settlement = field(default_factory=Settlement)
    note: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OrganizationSubscriptions:
    """All active stores of one organization, possibly none."""

    organization_id: str
    stores: tuple[StoreSubscriptions, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        return self.notes("failed")

    @property
    def changed(self) -> bool:
        return any(store.result.done for store in self.stores)

    def notes(self, state: str) -> tuple[str, ...]:
        return tuple(s.note or s.state for s in self.stores if s.state == state)


def receiver_of(settings: Settings) -> Receiver | str:
    """Where webhooks shall go, or why they cannot."""
    simulated = settings.shopify_endpoint != Settings.shopify_endpoint
    problem = cannot_reach(settings.app_url, simulated=simulated)
    return problem or Receiver.at(str(settings.app_url))


def settle_subscriptions(
    engine: Engine, organizations: Iterable[str], action: Action
) -> Iterator[OrganizationSubscriptions]:
    """Yield each organization once, as its last store ends.

    `enable` makes what is missing, and so does `check`, but only where real-time sync is on and
    the store is not put off. `disable` removes what is ours, also of a paused store, which the
    others leave alone.
    """
    for organization, stores in by_organization(
        engine, organizations, lambda store: _one_at_a_time(engine, store, action), _faulty
    ):
        yield OrganizationSubscriptions(organization_id=organization, stores=stores)


def unsubscribe(engine: Engine, integration: Integration, *, within: float) -> StoreSubscriptions:
    """Remove what is ours of one store; what hinders that is in the outcome's `note`.

    After `within` seconds it waits no more, neither for Shopify nor for another run.
    """
    until = engine.timer.monotonic() + within
    late = ShopsyncError(f"its webhook subscriptions were not removed within {within:.0f} s.")
    steps = _one_at_a_time(engine, integration, "disable")
    try:
        while True:
            wait = next(steps)
            if engine.timer.monotonic() + wait > until:
                steps.throw(late)
            engine.timer.sleep(wait)
    except StopIteration as stop:
        outcome: StoreSubscriptions = stop.value
        return outcome
    except ShopsyncError as error:
        return _faulty(integration, told_of(integration, error))


def wrong_subscriptions(store: Store, receiver: Receiver) -> list[Change]:
    """What `check` would change of a store, whose webhooks do not arrive for it."""
    found, scopes = waited(_listed(store, Settlement()))
    return plan(wanted_of(scopes, receiver), found, receiver)


def _faulty(integration: Integration, told: str) -> StoreSubscriptions:
    return StoreSubscriptions(integration=integration, state="failed", note=told)


def _one_at_a_time(
    engine: Engine, integration: Integration, action: Action
) -> Waits[StoreSubscriptions]:
    """Under a lock of the shop, which is not the pull's: a long pull holds up no webhook."""
    lock = f"webhook subscriptions of {integration.shop}"
    while not engine.locks.try_lock(lock):
        yield LOCK_POLL_SECONDS
    try:
        return (yield from _store(engine, integration.id, action))
    finally:
        engine.locks.unlock(lock)


def _store(engine: Engine, integration_id: str, action: Action) -> Waits[StoreSubscriptions]:
    """As it is now, under the lock: it may have left, or been turned off meanwhile."""
    integration, since, now = transact(engine.pool, lambda conn: _again(conn, integration_id))
    if not integration.is_active:
        return StoreSubscriptions(integration=integration, state="left")
    if integration.paused_told and action != "disable":
        paused = integration.paused_told
        return StoreSubscriptions(integration=integration, state="paused", note=paused)
    if action == "check" and since is None:
        return StoreSubscriptions(integration=integration, state="off")
    if action == "check" and integration.retry_at is not None and integration.retry_at > now:
        told = f"{integration.organization_id}: {integration.last_error}"
        return StoreSubscriptions(integration=integration, state="put_off", note=told)
    if action == "disable":
        # First, so that no check puts back what a disable that fails half way has removed.
        transact(engine.pool, lambda conn: integrations.end_realtime(conn, integration_id))
    receiver = receiver_of(engine.settings)
    if isinstance(receiver, Receiver):
        return (yield from _attempted(engine, integration, receiver, action))
    if action == "disable":
        unnamed = ConfigurationError(_left_behind(integration, "APP_URL does not say which"))
        return _failed(engine, integration, Settlement(), unnamed)
    told = f"{integration.organization_id}, {integration.shop}: {receiver}"
    log.warning("[Shopify Customer Webhook] %s", told)
    return StoreSubscriptions(integration=integration, state="no_address", note=told)


def _again(conn: Conn, integration_id: str) -> tuple[Integration, datetime | None, datetime]:
    since = integrations.realtime_since(conn, integration_id)
    return integrations.get(conn, integration_id), since, clock(conn)


def _attempted(
    engine: Engine, integration: Integration, receiver: Receiver, action: Action
) -> Waits[StoreSubscriptions]:
    """An expected trouble is recorded and returned, not raised."""
    result = Settlement()
    turn = _turned_off if action == "disable" else _turned_on
    try:
        with open_store(engine, integration) as store:
            yield from turn(store, receiver, result)
    except IntegrationInactive:
        return StoreSubscriptions(integration=integration, state="left", result=result)
    except ShopsyncError as error:
        return _failed(engine, integration, result, error)
    finally:
        _tell(engine, integration, result)
    if action == "disable":
        return StoreSubscriptions(integration=integration, state="off", result=result)
    transact(engine.pool, lambda conn: integrations.begin_realtime(conn, integration.id))
    return StoreSubscriptions(integration=integration, state="on", result=result)


def _turned_on(store: Store, receiver: Receiver, result: Settlement) -> Waits[None]:
    """Raises NeedsScope where customers may not be read: Shopify has then dropped their topics."""

    def planned(found: list[Subscription], scopes: list[str]) -> list[Change]:
        result.lacking = lacking(scopes)
        missing = sorted(REQUIRED_SCOPES & set(result.lacking.values()))
        if missing:
            raise NeedsScope(store.integration.shop, f"the app lacks {', '.join(missing)}")
        wanted = wanted_of(scopes, receiver)
        result.topics = [want.topic for want in wanted]
        return plan(wanted, found, receiver)

    yield from _settled(store, planned, result)


def _turned_off(store: Store, receiver: Receiver, result: Settlement) -> Waits[None]:
    """Leaves them where another organization's real-time sync of the store lives on them. Raises
    ConfigurationError where real-time sync was on and nothing is there under our address."""
    others = read(
        store.pool, lambda conn: integrations.sharing_subscriptions(conn, store.integration.id)
    )
    if not others:
        yield from _settled(store, lambda found, _: plan([], found, receiver), result)
        if store.integration.realtime_since is not None and not result.done:
            why = f"none of them goes to {receiver.uri}"
            raise ConfigurationError(_left_behind(store.integration, why))


def _left_behind(integration: Integration, why: str) -> str:
    return (
        "real-time sync is off here, but its subscriptions at Shopify stay until eight deliveries "
        f"to them have failed: {why}. To remove them now, set APP_URL to what it was, restart, and "
        f"disable again: shopsync webhooks disable {integration.organization_id}."
    )


def _settled(
    store: Store,
    planned: Callable[[list[Subscription], list[str]], list[Change]],
    result: Settlement,
) -> Waits[None]:
    """Raises the first refusal that stands after all has been listed and planned again."""
    refused: dict[Change, ShopifyError] = {}
    for last in (False, True):
        changes = planned(*(yield from _listed(store, result)))
        result.done += [change for change in refused if change not in changes]
        refused = yield from _carried_out(store, changes, result)
        if not refused:
            return
        if last:
            raise next(iter(refused.values()))


def _listed(store: Store, result: Settlement) -> Waits[tuple[list[Subscription], list[str]]]:
    """All subscriptions that this app has in the store, and the scopes that it is granted."""
    found: list[Subscription] = []
    seen: set[str | None] = {None}
    cursor: str | None = None
    while True:
        variables = {"first": PAGE_SIZE, "after": cursor}
        reply = result.count((yield from store.ask("WebhookSubscriptions", variables)))
        page, cursor = subscriptions_of(store.integration.shop, reply.answer.data)
        found += page
        if cursor is None:
            return found, scopes_of(store.integration.shop, reply.answer.data)
        if cursor in seen:
            raise PagingStuck(store.integration.shop, "the webhook subscriptions do not end")
        seen.add(cursor)


def _carried_out(
    store: Store, changes: Iterable[Change], result: Settlement
) -> Waits[dict[Change, ShopifyError]]:
    """What Shopify refused; one topic that it refuses keeps back no other."""
    refused: dict[Change, ShopifyError] = {}
    for change in changes:
        reply = result.count((yield from store.change(change.operation, change.variables)))
        refusal = refusal_of(store.integration.shop, change, reply.answer.data)
        if refusal is None:
            result.done.append(change)
        else:
            refused[change] = refusal
        yield 0.0  # let other stores have the worker
    return refused


def _tell(engine: Engine, integration: Integration, result: Settlement) -> None:
    """Log what was done. Where webhooks were on already and were made again, they were missing
    for a time: what happened in it is pulled at once, for everybody who lives on them."""
    if not result.done:
        return
    whom = f"{integration.organization_id} ({integration.shop})"
    did = ", ".join(f"{change.kind} {change.topic}" for change in result.done)
    log.info("[Shopify Customer Webhook] Subscriptions of %s: %s", whom, did)
    if result.topics_of("create"):
        for organization in transact(engine.pool, lambda conn: _filed(conn, integration)):
            log.warning(
                "[Shopify Customer Webhook] Webhooks of %s were missing and are made again; a sync "
                "of %s is filed for what they did not tell",
                integration.shop,
                organization,
            )


def _filed(conn: Conn, integration: Integration) -> list[str]:
    """Paused ones are pulled when they are resumed."""
    organizations = integrations.sharing_subscriptions(conn, integration.id)
    awake = {
        store.organization_id
        for store in integrations.active_of(conn, organizations)
        if store.shop == integration.shop and store.paused_at is None
    }
    organizations = [each for each in organizations if each in awake]
    for organization in organizations:
        requests.file(conn, kind="sync", organization_id=organization)
    if organizations:
        what = "its webhooks were missing and are made again."
        remedy = "Was the receiver down, or APP_URL wrong? Shopify drops them after failures."
        lost = event("subscriptions_lost", integration, what, remedy, f"{clock(conn):%Y-%m-%dT%H}")
        alerts.file_event(conn, lost)
    return organizations


def _failed(
    engine: Engine, integration: Integration, result: Settlement, error: ShopsyncError
) -> StoreSubscriptions:
    """Only what a person must mend at the store puts it off: anything else is no reason to hold
    back its pull, and the next check tries again."""
    told = told_of(integration, error)
    log.error("[Shopify Customer Webhook] Subscriptions failed for %s", told)
    if isinstance(error, StoreTrouble):
        transact(engine.pool, lambda conn: record_trouble(conn, integration.id, error))
    return StoreSubscriptions(integration=integration, state="failed", result=result, note=told)
