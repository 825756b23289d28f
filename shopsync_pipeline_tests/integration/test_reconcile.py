"""The reconcile: whatever is wrong in the table is found by reading the whole store, and mended."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shopsync_pipeline.db import bulk_operations, customers, integrations, reconciliations
from shopsync_pipeline.db.engine import Conn, transact
from shopsync_pipeline.db.reconciliations import Reconciliation
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.sync.reconcile import (
    ReconcileOrder,
    StoreReconciliation,
    reconcile_store,
)
from shopsync_pipeline.sync.sweep import ReconcileResult
from shopsync_pipeline_tests.world import World, differences

SHOP = "a.myshopify.com"
WEEK = timedelta(days=7)


def connected(world: World, count: int, shop: str = SHOP, **settings: Any) -> Any:
    """A store whose customers all are in the table, long before now."""
    store = world.connect("acme", shop, customers=count, **settings)
    assert {outcome.state for outcome in world.sync("acme")} == {"synced"}
    world.simulator.clock.advance(86400)
    store.clear_requests()
    return store


def reconciled(world: World) -> ReconcileResult:
    (outcome,) = world.reconcile("acme")
    assert outcome.state == "reconciled", outcome.error
    assert outcome.result is not None
    return outcome.result


def failed(world: World, told: str) -> StoreReconciliation:
    (outcome,) = world.reconcile("acme")
    assert outcome.state == "failed"
    assert told in str(outcome.error)
    return outcome


def ids_of(store: Any) -> list[int]:
    return sorted(int(record["legacyResourceId"]) for record in store.customers())


def asked(store: Any) -> Counter[str]:
    return Counter(request["operation"] for request in store.requests)


def kept(world: World) -> list[Reconciliation]:
    return transact(world.engine.pool, reconciliations.latest)


def execute(world: World, sql: str, *arguments: Any) -> None:
    with world.engine.pool.connection() as conn:
        conn.execute(sql, arguments)


def living(world: World, store: Any) -> list[str]:
    """Every difference between the store and the rows that are not deleted."""
    rows = {n: row for n, row in world.rows("acme").items() if row["deletedAt"] is None}
    return list(differences(rows, store.customers()))


def test_a_store_as_it_is_here_costs_its_pages_and_a_probe_and_writes_nothing(
    world: World,
) -> None:
    store = connected(world, 1000)
    before = world.rows("acme")
    result = reconciled(world)
    assert asked(store) == {"StoreProbe": 1, "CustomersSweep": 4}
    assert result.points <= 4 * 57 + 20
    assert (result.way, result.rows_read, result.written) == ("pages", 1000, 0)
    assert world.rows("acme") == before
    (last,) = kept(world)
    assert (last.rows_read, last.wrong) == (1000, 0)


def test_of_500_deletions_and_500_changes_without_a_webhook_each_is_found_and_mended(
    world: World,
) -> None:
    store = connected(world, 3000)
    numbers = ids_of(store)
    lost, changed, touched = numbers[:500], numbers[500:900], numbers[900:1000]
    for number in lost:
        store.delete(number)
    for number in changed:  # as Shopify did of `state` in October 2026
        store.edit(number, touch=False, state="DISABLED", note="changed")
    for number in touched:
        store.edit(number, note="a pull would have brought this one")

    result = reconciled(world)

    assert result.found == {"deleted": 500, "drifted": 400, "missing": 0, "revived": 0}
    assert result.changed_meanwhile == 100
    assert living(world, store) == []
    rows = world.rows("acme")
    assert {n for n, row in rows.items() if row["deletedAt"]} == set(lost)
    written = [rows[n] for n in (*lost, *changed, *touched)]
    assert {(r["lastSyncVia"], r["lastSyncRunId"]) for r in written} == {
        ("RECONCILE", "reconcile-2")
    }
    assert asked(store)["CustomersById"] == 5  # of those that were not met, and of nobody else
    (last,) = kept(world)
    assert (last.deleted, last.drifted, last.missing, last.revived) == (500, 400, 0, 0)
    assert reconciled(world).written == 0


def test_rows_that_were_lost_here_are_read_again(world: World) -> None:
    store = connected(world, 300)
    execute(world, 'DELETE FROM customers WHERE "shopifyId" = ANY(%s)', ids_of(store)[:7])
    result = reconciled(world)
    assert result.found["missing"] == 7
    assert result.samples["missing"] == ids_of(store)[:7]
    assert world.differences("acme", store) == []


def test_a_row_that_is_ahead_of_shopify_is_read_by_id_and_set_back(world: World) -> None:
    store = connected(world, 300)
    ahead = ids_of(store)[3]
    execute(
        world,
        """UPDATE customers SET "shopifyUpdatedAt" = '2100-01-01', "note" = 'from nowhere'
           WHERE "shopifyId" = %s""",
        ahead,
    )
    assert reconciled(world).found["drifted"] == 1
    assert world.differences("acme", store) == []
    assert asked(store)["CustomersById"] == 1


def test_a_deletion_that_is_none_is_lifted_at_once_and_no_webhook_event_is_filed(
    world: World,
) -> None:
    store = connected(world, 300)
    execute(
        world,
        'UPDATE customers SET "deletedAt" = now(), "mergedIntoId" = 1 WHERE "shopifyId" = %s',
        ids_of(store)[3],
    )
    assert reconciled(world).found["revived"] == 1
    assert world.differences("acme", store) == []
    assert world.events("acme") == []


def test_redacted_people_stay_gone(world: World) -> None:
    store = connected(world, 10)
    person = ids_of(store)[0]
    integration = world.integration("acme")
    transact(
        world.engine.pool, lambda conn: customers.redact(conn, integration, person, "redaction")
    )
    assert reconciled(world).written == 0
    row = world.rows("acme")[person]
    assert (row["email"], row["lastSyncRunId"]) == (None, "redaction")
    assert row["redactedAt"] is not None


def test_a_customer_created_during_the_sweep_stays_and_one_deleted_is_buried(
    world: World,
) -> None:
    store = connected(world, 600)
    steps = reconcile_store(world.engine, world.integration("acme"), ReconcileOrder(run_id="run"))
    assert next(steps) == 0.0  # a page of three is merged
    first, last = ids_of(store)[0], ids_of(store)[-1]
    store.create(id=first - 1)  # behind the sweep, and brought by a webhook meanwhile
    world.hear("acme", "customers/create", {"id": first - 1})
    world.drain()
    store.delete(last)
    outcome = waited(steps, world.time)
    assert outcome.state == "reconciled"
    assert living(world, store) == []
    assert world.rows("acme")[last]["deletedAt"] is not None


def test_a_deletion_heard_of_during_the_sweep_is_not_read_again(world: World) -> None:
    store = connected(world, 600)
    steps = reconcile_store(world.engine, world.integration("acme"), ReconcileOrder(run_id="run"))
    gone = ids_of(store)[0]
    next(steps)
    store.delete(gone)
    world.hear("acme", "customers/delete", {"id": gone})
    world.drain()
    buried = world.rows("acme")[gone]
    store.clear_requests()
    assert waited(steps, world.time).state == "reconciled"
    assert world.rows("acme")[gone] == buried
    assert asked(store)["CustomersById"] == 0


def test_a_customer_whom_the_sweep_has_met_is_not_deleted_by_a_null(world: World) -> None:
    store = connected(world, 10)
    execute(world, """UPDATE customers SET "shopifyUpdatedAt" = '2100-01-01', "note" = 'ahead'""")
    store.fault("null_nodes", times=None)
    assert reconciled(world).found["deleted"] == 0
    store.clear_faults()
    reconciled(world)
    assert world.differences("acme", store) == []


def test_what_the_sweep_missed_but_shopify_has_is_not_deleted(world: World) -> None:
    """An index that lags far behind does not know these customers yet."""
    store = connected(world, 20)
    store.settings.index_lag_seconds = 7200
    number = int(store.create()["legacyResourceId"])
    world.hear("acme", "customers/create", {"id": number})
    world.drain()
    result = reconciled(world)
    assert (result.rows_read, result.written) == (20, 0)
    assert world.differences("acme", store) == []


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("status", {"status": 500, "after": 3}, "HTTP 500"),
        ("truncated", {"after": 3}, "not whole JSON"),
        ("same_cursor", {}, "the same end cursor"),
        ("data_with_errors", {"after": 2}, "Shopify failed inside"),
        ("other_shop", {"after": 2}, "renamed"),
    ],
)
def test_a_sweep_without_its_end_deletes_nothing_and_is_not_recorded(
    world: World, kind: str, options: dict[str, Any], told: str
) -> None:
    store = connected(world, 1100)
    for number in ids_of(store)[:30]:
        store.delete(number)
    store.fault(kind, operation="CustomersSweep", times=None, **options)
    failed(world, told)
    assert not [row for row in world.rows("acme").values() if row["deletedAt"]]
    assert kept(world) == []
    integration = world.integration("acme")
    of_the_store = kind == "other_shop"  # all else stands in the way of no pull and no webhook
    assert (integration.last_error is not None) == of_the_store
    assert (integration.retry_at is not None) == of_the_store
    store.clear_faults()
    assert reconciled(world).found["deleted"] == 30


@pytest.mark.parametrize("after", [0, 2])
def test_a_sweep_whose_cursor_is_refused_begins_anew(world: World, after: int) -> None:
    store = connected(world, 1100)
    for number in ids_of(store)[:30]:
        store.delete(number)
    store.fault("cursor_refused", operation="CustomersSweep", after=after)
    result = reconciled(world)
    assert (result.found["deleted"], result.rows_read) == (30, 1070)


@pytest.mark.parametrize(("counted", "whole"), [(2100, True), (2250, False)])
def test_a_sweep_far_short_of_shopifys_count_deletes_nothing(
    world: World, counted: int, whole: bool
) -> None:
    """The index has customers whom the pages leave out, as if a page were missing."""
    store = connected(world, counted)
    store.settings.index_lag_seconds = 7200
    for number in ids_of(store)[: counted - 2000]:
        store.delete(number)
    if whole:
        assert reconciled(world).found["deleted"] == 100
        return
    failed(world, "the sweep is incomplete: it met 2000 customers, Shopify counts 2250")
    assert not [row for row in world.rows("acme").values() if row["deletedAt"]]
    assert kept(world) == []


def test_a_page_that_costs_too_much_is_halved_and_so_are_reads_by_id(world: World) -> None:
    store = connected(world, 300)
    execute(world, """UPDATE customers SET "shopifyUpdatedAt" = '2100-01-01', "note" = 'ahead'""")
    store.fault("max_cost_above", first=100, times=None, operation="CustomersSweep")
    store.fault("error", code="MAX_COST_EXCEEDED", times=1, operation="CustomersById")
    assert reconciled(world).found["drifted"] == 300
    assert world.differences("acme", store) == []
    sizes = [len(r["variables"].get("ids", ())) for r in store.requests]
    assert sorted(size for size in sizes if size) == [50] * 6 + [100]


def test_two_stores_of_one_organization_do_not_touch_each_other(world: World) -> None:
    first = connected(world, 300)
    second = world.connect("acme", "b.myshopify.com", customers=300)
    world.sync("acme")
    world.simulator.clock.advance(86400)
    gone, lost = ids_of(first)[0], ids_of(second)[0]
    first.delete(gone)
    second.delete(lost)
    second.fault("status", status=401, times=None)
    outcomes = {o.integration.shop: o for o in world.reconcile("acme")}
    assert {shop: o.state for shop, o in outcomes.items()} == {
        SHOP: "reconciled",
        "b.myshopify.com": "failed",
    }
    assert "shopsync connect" in str(outcomes["b.myshopify.com"].error)
    assert [n for n, row in world.rows("acme").items() if row["deletedAt"]] == [gone]
    assert [each.shop for each in kept(world)] == [SHOP]


def test_a_store_disconnected_meanwhile_is_left(world: World) -> None:
    connected(world, 600)
    steps = reconcile_store(world.engine, world.integration("acme"), ReconcileOrder(run_id="run"))
    next(steps)
    transact(
        world.engine.pool,
        lambda conn: integrations.disconnect(conn, organization_id="acme", shop=SHOP),
    )
    assert waited(steps, world.time).state == "left"
    assert kept(world) == []


def test_a_store_that_is_still_being_loaded_fails_and_says_so(world: World) -> None:
    store = world.connect("acme", SHOP, customers=10)
    failed(world, "shopsync sync acme")
    assert store.requests == []
    assert world.integration("acme").last_error is None
    assert [o.state for o in world.reconcile("acme", only_due=True)] == ["fresh"]


@pytest.mark.parametrize("only_due", [True, False])
def test_a_store_that_another_run_reconciles_is_left_to_it_or_waited_for(
    world: World, only_due: bool
) -> None:
    connected(world, 10)
    lock = reconciliations.lock_of(world.integration("acme").id)
    with world.second_engine() as other:
        assert other.locks.try_lock(lock)
        assert world.sync_one("acme").state == "synced"  # no pull waits for a reconcile
        world.time.on_sleep = lambda: other.locks.unlock(lock)
        (outcome,) = world.reconcile("acme", only_due=only_due)
    assert outcome.state == ("running" if only_due else "reconciled")


def test_large_stores_are_swept_in_bulk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shopsync_pipeline.sync.sweep.BULK_ABOVE", 400)
    store = connected(world, 500)
    numbers = ids_of(store)
    for number in numbers[:20]:
        store.delete(number)
    store.edit(numbers[30], touch=False, note="changed")
    result = reconciled(world)
    assert result.way == "bulk"
    assert result.found == {"deleted": 20, "drifted": 1, "missing": 0, "revived": 0}
    assert living(world, store) == []
    assert asked(store)["CustomersSweep"] == 0
    with world.engine.pool.connection() as conn:
        assert bulk_operations.held(conn, world.integration("acme").id) is None


def test_a_bulk_result_far_short_of_shopifys_count_deletes_nothing_and_is_not_taken_up_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shopsync_pipeline.sync.sweep.BULK_ABOVE", 200)
    store = connected(world, 500)
    store.settings.index_lag_seconds = 7200  # its count lags
    for number in ids_of(store)[:200]:
        store.delete(number)
    failed(world, "the sweep is incomplete: it met 300 customers, Shopify counts 500")
    assert not [row for row in world.rows("acme").values() if row["deletedAt"]]
    store.settings.index_lag_seconds = 0
    assert reconciled(world).found["deleted"] == 200
    assert asked(store)["BulkOperationRun"] == 2


def test_where_no_bulk_operation_can_be_had_pages_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shopsync_pipeline.sync.sweep.BULK_ABOVE", 400)
    store = connected(world, 500)
    store.fault("error", code="ACCESS_DENIED", times=None, operation="BulkOperationRun")
    result = reconciled(world)
    assert (result.way, result.rows_read) == ("pages", 500)


# When it is a store's turn.

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def many(conn: Conn) -> dict[str, str]:
    """Integration ids by organization: connected long ago, loaded, never reconciled."""
    found = {
        f"org{n}": integrations.connect(
            conn, organization_id=f"org{n}", shop=f"s{n}.myshopify.com", name="S", shop_id=n
        ).id
        for n in range(400)
    }
    conn.execute('UPDATE integrations SET "watermark" = now(), "createdAt" = %s', [MONDAY - WEEK])
    return found


def reconcile_all(conn: Conn, organizations: list[str], at: datetime) -> None:
    conn.execute(
        'UPDATE integrations SET "reconciledAt" = %s WHERE "organizationId" = ANY(%s)',
        [at, organizations],
    )


def test_each_store_has_one_turn_a_week_at_an_hour_of_its_own_and_they_are_spread(
    conn: Conn, many: dict[str, str]
) -> None:
    reconcile_all(conn, list(many), MONDAY - timedelta(minutes=1))
    turns: dict[str, list[int]] = {organization: [] for organization in many}
    for hour in range(2 * 168):
        now = MONDAY + timedelta(hours=hour, minutes=30)
        due = reconciliations.due_organizations(conn, now)
        for organization in due:
            turns[organization].append(hour)
        reconcile_all(conn, due, now)
    assert {len(hours) for hours in turns.values()} == {2}
    assert {second - first for first, second in turns.values()} == {168}
    a_day = Counter(first // 24 for first, _ in turns.values())
    assert len(a_day) == 7
    assert max(a_day.values()) < 2 * min(a_day.values())


def test_turns_that_passed_while_nothing_ran_are_caught_up_once(
    conn: Conn, many: dict[str, str]
) -> None:
    reconcile_all(conn, list(many), MONDAY)
    now = MONDAY + 3 * WEEK
    assert set(reconciliations.due_organizations(conn, now)) == set(many)
    reconcile_all(conn, list(many), now)
    assert reconciliations.due_organizations(conn, now) == []


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ('"watermark" = now()', True),
        ('"watermark" = NULL', False),
        ('"isActive" = false', False),
        (""""lastError" = 'x', "retryAt" = '2100-01-01'""", False),
        (""""lastError" = 'x', "retryAt" = '2000-01-01'""", True),
        (""""retryAt" = '2100-01-01'""", True),  # the drain's rest holds up nobody else
        (""""createdAt" = '2100-01-01'""", False),
    ],
)
def test_what_keeps_a_store_from_its_turn(
    conn: Conn, many: dict[str, str], change: str, due: bool
) -> None:
    conn.execute(f"UPDATE integrations SET {change} WHERE \"organizationId\" = 'org7'")
    assert ("org7" in reconciliations.due_organizations(conn, MONDAY + WEEK)) == due


def test_a_store_that_is_being_reconciled_is_not_asked_for_again(
    conn: Conn, many: dict[str, str]
) -> None:
    conn.execute(
        "SELECT pg_advisory_lock(hashtextextended(%s, 0))",
        [reconciliations.lock_of(many["org7"])],
    )
    due = reconciliations.due_organizations(conn, MONDAY + WEEK)
    assert set(many) - set(due) == {"org7"}
