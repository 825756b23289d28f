"""Sync many organizations in one run; one store's trouble stays its own.

What a run needs is opened once, as an Engine; what became of each organization is told as it
ends, so that the caller can record it while others are still being read.
"""

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from threading import Semaphore
from typing import Literal, TypeVar

from shopsync_pipeline.db import integrations, schema
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, Pool, clock, connect, open_pool, read, transact
from shopsync_pipeline.db.locks import IntegrationLocks
from shopsync_pipeline.errors import (
    DatabaseTrouble,
    IntegrationInactive,
    IntegrationPaused,
    ShopifyError,
    ShopsyncError,
    StoreTrouble,
    next_try,
)
from shopsync_pipeline.models import Integration, Mode
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.client import ShopClient, Timer, Waits
from shopsync_pipeline.sync.interleave import interleave
from shopsync_pipeline.sync.pull import PullResult, pull
from shopsync_pipeline.sync.store import Store
from shopsync_pipeline.sync.tokens import Tokens

T = TypeVar("T")

log = logging.getLogger(__name__)

WORKERS = 16
"""Threads of one run: its time goes into waiting for Shopify, not into computing."""

BULK_AT_ONCE = 4
"""Results of bulk operations that one run reads at once: each holds a worker, two connections and
some chunks of rows."""

LOCK_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncOrder:
    """What is asked of a run. With `only_due` (the schedule) stores that are fresh, put off or
    being synced by another run are left alone; without (a person) none is held back."""

    run_id: str
    mode: Mode = "incremental"
    updated_since: datetime | None = None
    only_due: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreOutcome:
    """`fresh` was synced less than half an hour ago, `running` is being synced by another run,
    `left` was disconnected meanwhile; `paused` is left out by a person, as `error` tells, and has
    a `result` where it was paused in mid-pull; `put_off` is still in the trouble that `error`
    tells."""

    integration: Integration
    state: Literal["synced", "fresh", "running", "left", "paused", "put_off", "failed"]
    result: PullResult | None = None
    error: str | None = None

    @property
    def bad(self) -> bool:
        return self.state in ("put_off", "failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class OrganizationOutcome:
    """All active stores of one organization, possibly none."""

    organization_id: str
    stores: tuple[StoreOutcome, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(s.error or s.state for s in self.stores if s.bad)

    @property
    def paused(self) -> tuple[str, ...]:
        """No failure, but a person who asked for these stores is told."""
        return tuple(s.error or s.state for s in self.stores if s.state == "paused")

    @property
    def synced(self) -> bool:
        """Whether at least one store was synced to the end."""
        return any(store.state == "synced" for store in self.stores)

    @property
    def running_elsewhere(self) -> bool:
        return any(store.state == "running" for store in self.stores)


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """Connections and keys of one run; holds no store's token."""

    settings: Settings
    pool: Pool
    cipher: Cipher
    locks: IntegrationLocks
    bulk: Semaphore = field(default_factory=lambda: Semaphore(BULK_AT_ONCE))
    timer: Timer = time

    def client(self, shop: str) -> ShopClient:
        return ShopClient(
            shop,
            endpoint=self.settings.shopify_endpoint,
            api_version=self.settings.shopify_api_version,
            clock=lambda: read(self.pool, clock),
            timer=self.timer,
        )


@contextmanager
def open_engine(settings: Settings) -> Iterator[Engine]:
    """Raises ConfigurationError for a missing setting or a database of another release."""
    url = settings.required_database_url()
    cipher = Cipher(settings.required_encryption_keys())
    with ExitStack() as stack:
        with connect(url) as conn:
            schema.check(conn)
        locks = stack.enter_context(IntegrationLocks(url))
        pool = stack.enter_context(open_pool(url, size=WORKERS + 2))
        yield Engine(settings=settings, pool=pool, cipher=cipher, locks=locks)


def sync_organizations(
    engine: Engine, organizations: Iterable[str], order: SyncOrder
) -> Iterator[OrganizationOutcome]:
    """Yield each organization once, as its last store ends."""
    for organization, stores in by_organization(
        engine,
        organizations,
        lambda store: sync_store(engine, store, order),
        lambda store, told: _faulty(engine, store, told),
    ):
        yield OrganizationOutcome(organization_id=organization, stores=stores)


def by_organization(
    engine: Engine,
    organizations: Iterable[str],
    task: Callable[[Integration], Waits[T]],
    faulty: Callable[[Integration, str], T],
) -> Iterator[tuple[str, tuple[T, ...]]]:
    """Run `task` for every active store; yield each organization with the outcomes of its stores,
    possibly none, as the last of them ends. `faulty` makes an outcome of what no store's trouble
    explains."""
    wanted = list(organizations)
    active = read(engine.pool, lambda conn: integrations.active_of(conn, wanted))
    stores = {store.id: store for store in active}
    left = Counter(store.organization_id for store in active)
    ended: dict[str, list[T]] = {organization: [] for organization in wanted}
    yield from ((organization, ()) for organization in wanted if not left[organization])
    tasks = {store.id: task(store) for store in active}
    for store_id, outcome in interleave(tasks, workers=WORKERS, timer=engine.timer):
        store = stores[store_id]
        if isinstance(outcome, BaseException):
            outcome = faulty(store, _fault_told(store, outcome))
        ended[store.organization_id].append(outcome)
        left[store.organization_id] -= 1
        if not left[store.organization_id]:
            yield store.organization_id, tuple(ended[store.organization_id])


def sync_store(engine: Engine, integration: Integration, order: SyncOrder) -> Waits[StoreOutcome]:
    """One store under its lock; an expected trouble is recorded and returned, not raised."""
    while not engine.locks.try_lock(integration.id):
        if order.only_due:
            return StoreOutcome(integration=integration, state="running")
        yield LOCK_POLL_SECONDS
    try:
        integration, due, now = read(engine.pool, lambda conn: _again(conn, integration.id))
        if not integration.is_active:
            return StoreOutcome(integration=integration, state="left")
        if integration.paused_told:
            return _paused(integration, integration.paused_told)
        if order.only_due and not due:
            return _left_alone(integration, now)
        return (yield from _pulled(engine, integration, order))
    finally:
        engine.locks.unlock(integration.id)


def _again(conn: Conn, integration_id: str) -> tuple[Integration, bool, datetime]:
    """The integration and whether it is due, as they are under the lock now."""
    now = clock(conn)
    due = integrations.is_due(conn, integration_id, now)
    return integrations.get(conn, integration_id), due, now


@contextmanager
def open_store(engine: Engine, integration: Integration) -> Iterator[Store]:
    """One store with a client of its own, closed at the end."""
    client = engine.client(integration.shop)
    tokens = Tokens(
        pool=engine.pool,
        cipher=engine.cipher,
        client=client,
        integration=integration,
        timer=engine.timer,
    )
    try:
        yield Store(
            integration=integration,
            pool=engine.pool,
            client=client,
            tokens=tokens,
            bulk=engine.bulk,
        )
    finally:
        client.close()


def _pulled(engine: Engine, integration: Integration, order: SyncOrder) -> Waits[StoreOutcome]:
    result = PullResult()
    try:
        with open_store(engine, integration) as store:
            yield from pull(
                store,
                result,
                run_id=order.run_id,
                mode=order.mode,
                updated_since=order.updated_since,
            )
    except IntegrationPaused as paused:
        return _paused(integration, str(paused), result)
    except IntegrationInactive:
        return StoreOutcome(integration=integration, state="left")
    except ShopsyncError as error:
        return _failed(engine, integration, error)
    return StoreOutcome(integration=integration, state="synced", result=result)


def _failed(engine: Engine, integration: Integration, error: ShopsyncError) -> StoreOutcome:
    """Put the store off as its trouble deserves. Trouble of our own (a setting, the database)
    says nothing of the store, which then stays due."""
    told = told_of(integration, error)
    log.error("[SHOPIFY CRON] Sync failed for %s", told)

    def work(conn: Conn) -> None:
        """Unless another run has synced it meanwhile: then it is well, whatever kept this one,
        which may itself have finished the window that an earlier one left open."""
        ours = {integration.last_sync_at, integration.window and integration.window.until}
        if integrations.lock(conn, integration.id).last_sync_at in ours:
            _record(conn, integration.id, error)

    transact(engine.pool, work)
    return StoreOutcome(integration=integration, state="failed", error=told)


def told_of(integration: Integration, error: ShopsyncError) -> str:
    """Whom it concerns, what happened, what to do; a ShopifyError names its store itself."""
    shop = "" if isinstance(error, ShopifyError) else f"{integration.shop}: "
    return f"{integration.organization_id}: {shop}{error}"


def record_trouble(engine: Engine, integration_id: str, error: ShopsyncError) -> None:
    """What is wrong with the store, and when it may be tried again."""
    transact(engine.pool, lambda conn: _record(conn, integration_id, error))


def _record(conn: Conn, integration_id: str, error: ShopsyncError) -> None:
    integrations.record_trouble(
        conn,
        integration_id,
        status=error.status if isinstance(error, StoreTrouble) else None,
        retry_at=next_try(error, clock(conn)),
        error=str(error),
    )


def _fault_told(integration: Integration, error: BaseException) -> str:
    """The text of an error that is not of our own making may quote data, so only its kind is
    told."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s at\n%s", integration.shop, type(error).__name__, frames)
    if not isinstance(error, ShopsyncError):
        error = ShopsyncError(
            f"a fault of Shopsync ({type(error).__name__}); the log of the run has the place. "
            "Please report it."
        )
    return told_of(integration, error)


def _faulty(engine: Engine, integration: Integration, told: str) -> StoreOutcome:
    with suppress(DatabaseTrouble):  # which may be the fault itself
        record_trouble(engine, integration.id, ShopsyncError(told))
    return StoreOutcome(integration=integration, state="failed", error=told)


def _paused(integration: Integration, told: str, result: PullResult | None = None) -> StoreOutcome:
    log.info("[SHOPIFY CRON] Left out %s", told)
    return StoreOutcome(integration=integration, state="paused", result=result, error=told)


def _left_alone(integration: Integration, now: datetime) -> StoreOutcome:
    rests = integration.last_error is None  # for the drain's sake, not a pull's
    if rests or integration.retry_at is None or integration.retry_at <= now:
        return StoreOutcome(integration=integration, state="fresh")
    until = f"; not tried before {integration.retry_at:%Y-%m-%d %H:%M} UTC"
    told = f"{integration.organization_id}: {integration.last_error}{until}"
    return StoreOutcome(integration=integration, state="put_off", error=told)
