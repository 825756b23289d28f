"""Many stores in one run: one store's trouble stays its own."""

from typing import Any

import pytest

from shopsync_pipeline.sync.engine import WORKERS
from shopsync_pipeline_tests.world import World


def connect_many(world: World, count: int) -> dict[str, Any]:
    names = [f"org{number:02}" for number in range(count)]
    return {name: world.connect(name, f"{name}.myshopify.com", customers=5) for name in names}


def test_of_sixty_stores_with_three_broken_ones_fifty_seven_sync(world: World) -> None:
    stores = connect_many(world, 60)
    broken = {"org07": 401, "org23": 402, "org41": 500}
    for name, status in broken.items():
        stores[name].fault("status", status=status, times=None)
    outcomes = {o.integration.organization_id: o for o in world.sync(*stores)}
    assert {name for name, o in outcomes.items() if o.error} == set(broken)
    assert sum(o.state == "synced" for o in outcomes.values()) == 57
    for name, remedy in [("org07", "shopsync connect"), ("org23", "reactivate"), ("org41", "500")]:
        assert str(outcomes[name].error).startswith(f"{name}: {name}.myshopify.com: ")
        assert remedy in str(outcomes[name].error)
    for name in stores.keys() - broken.keys():
        assert world.differences(name, stores[name]) == []
    assert len(stores["org41"].requests) == 4
    assert sum(world.time.slept) <= 15


def test_the_next_tick_does_not_touch_stores_that_a_person_must_mend(world: World) -> None:
    stores = connect_many(world, 4)
    stores["org01"].fault("status", status=401, times=None)
    stores["org02"].fault("status", status=402, times=None)
    world.sync(*stores)
    asked = {name: len(store.requests) for name, store in stores.items()}
    outcomes = {o.integration.organization_id: o for o in world.sync(*stores, only_due=True)}
    assert {name: len(store.requests) for name, store in stores.items()} == asked
    assert outcomes["org01"].state == outcomes["org02"].state == "put_off"
    assert outcomes["org00"].state == outcomes["org03"].state == "fresh"
    assert "not tried before" in str(outcomes["org01"].error)


def test_more_broken_stores_than_workers_hold_up_no_healthy_one(world: World) -> None:
    """Were a worker held while a store waits for its next try, the healthy ones, which come
    last, would be asked only after the first tries had been given up."""
    stores = connect_many(world, WORKERS + 4)
    names = list(stores)
    for name in names[:WORKERS]:
        stores[name].fault("status", status=500, times=None)
    ended = [o.integration.organization_id for o in world.sync(*stores)]
    assert set(ended[:4]) == set(names[WORKERS:])


def test_two_stores_of_one_organization_share_nothing(world: World) -> None:
    good = world.connect("acme", "good.myshopify.com", customers=10)
    bad = world.connect("acme", "bad.myshopify.com", customers=10)
    bad.fault("status", status=401, times=None)
    states = {o.integration.shop: o.state for o in world.sync("acme")}
    assert states == {"good.myshopify.com": "synced", "bad.myshopify.com": "failed"}
    assert len(world.rows("acme")) == len(good.customers())


@pytest.mark.parametrize("only_due", [True, False])
def test_a_store_that_another_run_holds_is_left_to_it_or_waited_for(
    world: World, only_due: bool
) -> None:
    world.connect("acme", "a.myshopify.com")
    with world.second_engine() as other:
        integration = world.integration("acme")
        assert other.locks.try_lock(integration.id)
        if only_due:
            assert world.sync_one("acme", only_due=True).state == "running"
            return
        world.time.on_sleep = lambda: other.locks.unlock(integration.id)
        assert world.sync_one("acme").state == "synced"
        assert world.time.slept


def test_a_lost_lock_connection_is_opened_again_and_fails_no_store(world: World) -> None:
    stores = connect_many(world, 20)
    with world.engine.pool.connection() as conn:
        world.engine.locks.try_lock("somebody")
        conn.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_locks
               WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"""
        )
    assert {o.state for o in world.sync(*stores)} == {"synced"}


def test_connections_that_a_restart_has_killed_are_replaced(world: World) -> None:
    stores = connect_many(world, 4)
    with world.engine.pool.connection() as conn:
        conn.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )
    assert {o.state for o in world.sync(*stores)} == {"synced"}


def test_a_store_synced_lately_is_fresh_also_after_a_later_try_failed(world: World) -> None:
    stores = connect_many(world, 1)
    world.sync(*stores)
    with world.engine.pool.connection() as conn:
        conn.execute(
            """UPDATE integrations SET "lastError" = 'x', "retryAt" = now() - interval '1 min'"""
        )
    assert world.sync_one("org00", only_due=True).state == "fresh"


def test_a_fault_of_ours_fails_one_store_and_quotes_no_data(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = connect_many(world, 3)
    shopify_id = int(stores["org01"].customers()[0]["legacyResourceId"])
    stores["org01"].edit(
        shopify_id, amountSpent={"amount": "canary@example.com", "currencyCode": "EUR"}
    )
    outcomes = {o.integration.organization_id: o for o in world.sync(*stores)}
    assert {name for name, o in outcomes.items() if o.error} == {"org01"}
    assert "canary" not in str(outcomes["org01"].error)
    assert "SQLSTATE" in str(outcomes["org01"].error)
