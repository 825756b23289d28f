"""Sync many organizations in one run; one store's trouble stays its own.

What became of each organization is told as it ends, so that the caller can record it while others
are still being read.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.errors import IntegrationInactive, IntegrationPaused, ShopsyncError
from shopsync_pipeline.models import Integration, Mode
from shopsync_pipeline.shopify.client import Waits
from shopsync_pipeline.sync.engine import (
    LOCK_POLL_SECONDS,
    Engine,
    Outcomes,
    by_organization,
    open_store,
    record_fault,
    record_trouble,
    told_of,
)
from shopsync_pipeline.sync.pull import PullResult, pull

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class OrganizationOutcome(Outcomes[StoreOutcome]):
    @property
    def synced(self) -> bool:
        """Whether at least one store was synced to the end."""
        return any(store.state == "synced" for store in self.stores)


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
            record_trouble(conn, integration.id, error)

    transact(engine.pool, work)
    return StoreOutcome(integration=integration, state="failed", error=told)


def _faulty(engine: Engine, integration: Integration, told: str) -> StoreOutcome:
    record_fault(engine, integration.id, told)
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
