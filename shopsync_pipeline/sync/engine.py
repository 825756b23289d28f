"""What every run works with: the Engine, its loop over the stores of organizations, and what it
tells and records of a store in trouble.
"""

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Semaphore
from typing import Generic, Protocol, TypeVar

from shopsync_pipeline.db import integrations, schema
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, Pool, clock, connect, open_pool, read, transact
from shopsync_pipeline.db.locks import IntegrationLocks
from shopsync_pipeline.errors import (
    DatabaseTrouble,
    ShopifyError,
    ShopsyncError,
    StoreTrouble,
    next_try,
)
from shopsync_pipeline.models import Integration
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.client import ShopClient, Timer, Waits
from shopsync_pipeline.sync.interleave import interleave
from shopsync_pipeline.sync.store import Store
from shopsync_pipeline.sync.tokens import Tokens

log = logging.getLogger(__name__)

WORKERS = 16
"""Threads of one run: its time goes into waiting for Shopify, not into computing."""

BULK_AT_ONCE = 4
"""Results of bulk operations that one run reads at once: each holds a worker, two connections and
some chunks of rows."""

LOCK_POLL_SECONDS = 1.0


class Ended(Protocol):
    """What became of one store."""

    @property
    def state(self) -> str: ...
    @property
    def error(self) -> str | None: ...


S = TypeVar("S", bound=Ended)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes(Generic[S]):
    """Of all active stores of one organization, possibly none."""

    organization_id: str
    stores: tuple[S, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        return self._told("put_off", "failed")

    @property
    def paused(self) -> tuple[str, ...]:
        """No failure, but a person who asked for these stores is told."""
        return self._told("paused")

    @property
    def running_elsewhere(self) -> bool:
        return any(store.state == "running" for store in self.stores)

    def _told(self, *states: str) -> tuple[str, ...]:
        return tuple(store.error or store.state for store in self.stores if store.state in states)


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


def told_of(integration: Integration, error: ShopsyncError) -> str:
    """Whom it concerns, what happened, what to do; a ShopifyError names its store itself."""
    shop = "" if isinstance(error, ShopifyError) else f"{integration.shop}: "
    return f"{integration.organization_id}: {shop}{error}"


def record_trouble(conn: Conn, integration_id: str, error: ShopsyncError) -> None:
    """What is wrong with the store, and when it may be tried again."""
    integrations.record_trouble(
        conn,
        integration_id,
        status=error.status if isinstance(error, StoreTrouble) else None,
        retry_at=next_try(error, clock(conn)),
        error=str(error),
    )


def record_fault(engine: Engine, integration_id: str, told: str) -> None:
    """What no store's trouble explains stands against the store too, so that it is seen."""
    fault = ShopsyncError(told)
    with suppress(DatabaseTrouble):  # which may be the fault itself
        transact(engine.pool, lambda conn: record_trouble(conn, integration_id, fault))


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
