"""The weekly reconcile: the whole store is read again, so that the table is true to it also where
webhooks were lost, or Shopify changed customers without moving their `updatedAt`.

    sweep ─► ids that differ, ids not seen ─► read by id ─► merged, lifted or buried ─► recorded

Only a complete sweep leads to reads by id, and only both together delete: a customer whom the
sweep met is none that Shopify lacks. What a killed run had merged stays; the next begins anew.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shopsync_pipeline.db import bulk_operations, customers, integrations, reconciliations
from shopsync_pipeline.db.engine import Conn, clock, transact
from shopsync_pipeline.db.reconciliations import Turn
from shopsync_pipeline.errors import (
    CostTooHigh,
    IntegrationInactive,
    IntegrationPaused,
    ShopsyncError,
    StoreTrouble,
)
from shopsync_pipeline.models import CustomerRow, Integration, MergeCounts, Read
from shopsync_pipeline.shopify.client import Waits
from shopsync_pipeline.shopify.customers import IDS_AT_ONCE, found_of, gid_of
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
from shopsync_pipeline.sync.store import Store
from shopsync_pipeline.sync.sweep import ReconcileResult, Sweep

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcileOrder:
    """What is asked of a run. With `only_due` (the schedule) stores whose turn it is not, or that
    another run reconciles, are left alone; without (a person) none is."""

    run_id: str
    only_due: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreReconciliation:
    """`fresh` had its turn at `reconciled_at`, if it ever had one; `running` is being reconciled by
    another run; `left` was disconnected meanwhile; `paused` is left out by a person, as `error`
    tells; `put_off` is still in the trouble that `error` tells. `result` is of one that failed or
    was paused, too: what it wrote stays."""

    integration: Integration
    state: Literal["reconciled", "fresh", "running", "left", "paused", "put_off", "failed"]
    result: ReconcileResult | None = None
    reconciled_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OrganizationReconciliation(Outcomes[StoreReconciliation]):
    @property
    def reconciled(self) -> bool:
        """Whether at least one store was reconciled to the end."""
        return any(store.state == "reconciled" for store in self.stores)

    @property
    def results(self) -> tuple[ReconcileResult, ...]:
        return tuple(store.result for store in self.stores if store.result is not None)

    @property
    def counts(self) -> MergeCounts:
        return sum((result.counts for result in self.results), MergeCounts())


def reconcile_organizations(
    engine: Engine, organizations: Iterable[str], order: ReconcileOrder
) -> Iterator[OrganizationReconciliation]:
    """Yield each organization once, as its last store ends."""
    for organization, stores in by_organization(
        engine,
        organizations,
        lambda store: reconcile_store(engine, store, order),
        lambda store, told: _faulty(engine, store, told),
    ):
        yield OrganizationReconciliation(organization_id=organization, stores=stores)


def reconcile_store(
    engine: Engine, integration: Integration, order: ReconcileOrder
) -> Waits[StoreReconciliation]:
    """One store under its lock; an expected trouble is recorded and returned, not raised."""
    lock = reconciliations.lock_of(integration.id)
    while not engine.locks.try_lock(lock):
        if order.only_due:
            return StoreReconciliation(integration=integration, state="running")
        yield LOCK_POLL_SECONDS
    try:
        integration, turn, now = transact(engine.pool, lambda conn: _again(conn, integration.id))
        return _left_alone(integration, turn, order) or (
            yield from _reconciled(engine, integration, order.run_id, now)
        )
    finally:
        engine.locks.unlock(lock)


def _again(conn: Conn, integration_id: str) -> tuple[Integration, Turn, datetime]:
    """The integration and its turn, as they are under the lock now."""
    now = clock(conn)
    turn = reconciliations.turn_of(conn, integration_id, now)
    return integrations.get(conn, integration_id), turn, now


def _left_alone(
    integration: Integration, turn: Turn, order: ReconcileOrder
) -> StoreReconciliation | None:
    """Why nothing is to be done of the store, or None."""
    organization, at = integration.organization_id, turn.reconciled_at
    if not integration.is_active:
        return StoreReconciliation(integration=integration, state="left")
    if integration.paused_told:
        paused = integration.paused_told
        return StoreReconciliation(integration=integration, state="paused", error=paused)
    if order.only_due and not turn.overdue:
        return StoreReconciliation(integration=integration, state="fresh", reconciled_at=at)
    if order.only_due and turn.put_off:
        told = f"{organization}: {integration.last_error}; not tried before "
        told += f"{integration.retry_at:%Y-%m-%d %H:%M} UTC"
        return StoreReconciliation(integration=integration, state="put_off", error=told)
    if integration.watermark is None:
        told = (
            f"{organization}: {integration.shop} was not loaded to its end yet, so there is "
            f"nothing to reconcile. Load it first: shopsync sync {organization}"
        )
        return StoreReconciliation(integration=integration, state="failed", error=told)
    return None


def _reconciled(
    engine: Engine, integration: Integration, run_id: str, now: datetime
) -> Waits[StoreReconciliation]:
    result = ReconcileResult()
    try:
        with open_store(engine, integration) as store:
            yield from reconcile(store, run_id, now, result)
    except IntegrationPaused as paused:
        return StoreReconciliation(
            integration=integration, state="paused", result=result, error=str(paused)
        )
    except IntegrationInactive:
        return StoreReconciliation(integration=integration, state="left", result=result)
    except ShopsyncError as error:
        return _failed(engine, integration, result, error)
    return StoreReconciliation(integration=integration, state="reconciled", result=result)


def _failed(
    engine: Engine, integration: Integration, result: ReconcileResult, error: ShopsyncError
) -> StoreReconciliation:
    """Only what a person must mend at the store puts it off: all else stands against no pull and no
    webhook."""
    told = told_of(integration, error)
    log.error("Reconcile failed for %s", told)
    if isinstance(error, StoreTrouble):
        transact(engine.pool, lambda conn: record_trouble(conn, integration.id, error))
    return StoreReconciliation(integration=integration, state="failed", result=result, error=told)


def _faulty(engine: Engine, integration: Integration, told: str) -> StoreReconciliation:
    record_fault(engine, integration.id, told)
    return StoreReconciliation(integration=integration, state="failed", error=told)


def reconcile(
    store: Store, run_id: str, started_at: datetime, result: ReconcileResult
) -> Waits[None]:
    """Make the table equal to the store, and record what was wrong; the caller holds the lock.

    Raises a ShopsyncError, with what was merged committed and nothing recorded.
    """
    began = time.monotonic()
    integration = store.integration
    log.info("Reconciling %s (%s)", integration.organization_id, integration.shop)
    sweep = Sweep(store, run_id, result)
    yield from sweep.read()
    yield from _Confirmation(store, run_id, sweep, result).read([*sweep.differing, *sweep.unseen()])

    def work(conn: Conn) -> None:
        integrations.hold(conn, integration.id)
        reconciliations.record(
            conn,
            integration,
            run_id=run_id,
            way=result.way,
            started_at=started_at,
            rows_read=result.rows_read,
            found=result.found,
        )
        if sweep.operation is not None:
            bulk_operations.forget(conn, integration.id, sweep.operation.id)

    transact(store.pool, work)
    result.seconds = time.monotonic() - began
    found = ", ".join(f"{count} {kind}" for kind, count in result.found.items() if count)
    log.info(
        "Reconciled %s (%s): %d customers, %s",
        *(integration.organization_id, integration.shop, result.rows_read, found or "none wrong"),
    )


class _Confirmation:
    """Reads customers of one store by their ids, and does what only such a read may."""

    def __init__(self, store: Store, run_id: str, sweep: Sweep, result: ReconcileResult) -> None:
        self._store = store
        self._run_id = run_id
        self._sweep = sweep
        self._result = result

    def read(self, ids: Sequence[int]) -> Waits[None]:
        at_once, position = IDS_AT_ONCE, 0
        while position < len(ids):
            batch = ids[position : position + at_once]
            variables = {"ids": [gid_of(number) for number in batch]}
            try:
                reply = yield from self._store.ask("CustomersById", variables)
            except CostTooHigh:
                if at_once == 1:
                    raise
                at_once //= 2
                continue
            self._result.count(reply)
            found = found_of(self._store.integration.shop, batch, reply.answer.data)
            how = Read(via="RECONCILE", run_id=self._run_id, sent_at=reply.sent_at, by_id=True)
            self._settle(batch, found, how)
            position += len(batch)
            yield 0.0  # let other stores have the worker

    def _settle(self, batch: Sequence[int], found: Mapping[int, CustomerRow], how: Read) -> None:
        integration = self._store.integration
        met = self._sweep.differing
        gone = {n: None for n in batch if n not in found and n not in met}

        def work(conn: Conn) -> tuple[customers.Merged, dict[int, bool], list[int]]:
            integrations.share(conn, integration.id)
            before = customers.known(conn, integration, batch)
            merged = customers.merge(conn, integration, found.values(), how)
            return merged, before, customers.bury(conn, integration, gone, how)

        merged, before, buried = transact(self._store.pool, work)
        self._result.add(MergeCounts(inserted=len(merged.inserted), updated=len(merged.updated)))
        news = self._sweep.news(merged, found.values())
        self._result.changed_meanwhile += len(news)
        self._result.tell("missing", [n for n in merged.inserted if n not in news])
        old = [n for n in merged.updated if n not in news]
        self._result.tell("revived", [n for n in old if before.get(n)])
        self._result.tell("drifted", [n for n in old if not before.get(n)])
        self._result.tell("deleted", buried)
