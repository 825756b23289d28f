"""One store read in one way, for tests of what a store may answer: each way by the same handles."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from shopsync_pipeline.db import integrations, reconciliations
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.sync.subscriptions import settle_subscriptions
from shopsync_pipeline_tests.world import World, differences

Way = Literal["pull", "drain", "reconcile", "bulk", "subscriptions"]

CUSTOMERS = 30
A_PAGE = 10
OPERATION: Mapping[Way, str] = {
    "pull": "CustomersPage",
    "drain": "CustomersById",
    "reconcile": "CustomersSweep",
    "bulk": "BulkOperationById",
    "subscriptions": "WebhookSubscriptions",
}


@dataclass(kw_only=True)
class Trial:
    """One store in one organization, read in one way."""

    world: World
    organization: str
    shop: str
    store: Any
    way: Way

    def read(self, log: pytest.LogCaptureFixture) -> str | None:
        """Once; what the operator is told, None where all went well."""
        return {
            "pull": self._pull,
            "bulk": self._pull,
            "drain": lambda: self._drain(log),
            "reconcile": self._reconcile,
            "subscriptions": self._subscribe,
        }[self.way]()

    def _pull(self) -> str | None:
        outcome = self.world.sync_one(self.organization)
        assert (outcome.state == "synced") == (outcome.error is None)
        return outcome.error

    def _drain(self, log: pytest.LogCaptureFixture) -> str | None:
        """What became of a store is no outcome of a drain, only a line of its log."""
        log.clear()
        self.world.drain()
        lines = [r.getMessage() for r in log.records if r.levelname in ("WARNING", "ERROR")]
        assert len(lines) < 2
        return lines[0].removeprefix("[Shopify Customer Webhook] Put off ") if lines else None

    def _reconcile(self) -> str | None:
        (outcome,) = self.world.reconcile(self.organization)
        assert (outcome.state == "reconciled") == (outcome.error is None)
        return outcome.error

    def _subscribe(self) -> str | None:
        (outcome,) = settle_subscriptions(self.world.engine, [self.organization], "enable")
        (store,) = outcome.stores
        assert (store.state == "on") == (store.note is None)
        return store.note

    def asked(self) -> int:
        return sum(r["operation"] == OPERATION[self.way] for r in self.store.requests)

    def written(self, since: str) -> int:
        rows = self.world.rows(self.organization).values()
        return sum(row["lastSyncRunId"] != since or bool(row["deletedAt"]) for row in rows)

    def assert_nothing_counts(self) -> None:
        """Beside what the table and the watermark say: what is to be done is still to be done."""
        world, organization = self.world, self.organization
        if self.way == "drain":
            states = {(e["status"], e["attempts"]) for e in world.events(organization)}
            assert states == {("pending", 0)}
        if self.way == "reconcile":
            found = transact(world.engine.pool, reconciliations.latest)
            assert organization not in {each.organization_id for each in found}
        if self.way == "subscriptions":
            assert self.store.subscriptions == []
        if self.way == "bulk":
            assert world.rows(organization) == {}

    def differences(self) -> list[str]:
        """Between the store and the rows that are not deleted."""
        rows = self.world.rows(self.organization)
        living = {number: row for number, row in rows.items() if row["deletedAt"] is None}
        return list(differences(living, self.store.customers()))


_numbers = itertools.count(1)


@contextmanager
def trial(world: World, way: Way, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """A store of which something is to be read in this way."""
    monkeypatch.setattr("shopsync_pipeline.sync.pull.PAGE_SIZE", A_PAGE)
    world.simulator.clock.set(datetime.now(UTC).replace(microsecond=0))
    number = next(_numbers)
    organization, shop = f"org-{number}", f"s{number}.myshopify.com"
    seconds = 60 if way == "bulk" else 0
    store = world.connect(organization, shop, customers=CUSTOMERS, bulk_seconds=seconds)
    if way == "bulk":
        monkeypatch.setattr("shopsync_pipeline.sync.pull.BULK_ABOVE", CUSTOMERS - 1)
    else:
        assert world.sync_one(organization).state == "synced"
    world.simulator.clock.advance(86400)
    numbers = [int(customer["legacyResourceId"]) for customer in store.customers()]
    if way == "pull":
        for each in numbers[:25]:
            store.edit(each, note="changed")
    if way == "drain":
        edited = store.edit(numbers[0], note="changed")
        world.hear(
            organization, "customers/update",
            {"id": numbers[0], "updated_at": edited["updatedAt"]},
        )  # fmt: skip
    if way == "reconcile":
        store.delete(numbers[0])
    world.simulator.clock.advance(60)
    store.clear_requests()
    world.time.slept.clear()
    try:
        yield Trial(world=world, organization=organization, shop=shop, store=store, way=way)
    finally:
        transact(
            world.engine.pool,
            lambda conn: integrations.disconnect(conn, organization_id=organization, shop=shop),
        )
