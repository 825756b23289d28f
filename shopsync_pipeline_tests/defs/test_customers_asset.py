"""Runs of the asset `customers` in a real Dagster: what is materialized, what failed, and why."""

from typing import Any

import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    ExecuteInProcessResult,
)
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.defs.partitions import organizations
from shopsync_pipeline.defs.schedules import RANGE_END, RANGE_START
from shopsync_pipeline.sync.bulk import BULK_ABOVE
from shopsync_pipeline_tests.world import World

CUSTOMERS = AssetKey("customers")


def run(instance: DagsterInstance, first: str, last: str, **config: Any) -> ExecuteInProcessResult:
    return defs.resolve_job_def("sync_customers").execute_in_process(
        instance=instance,
        tags={RANGE_START: first, RANGE_END: last},
        run_config={"ops": {"customers": {"config": config}}},
        raise_on_error=False,
    )


def materialized(instance: DagsterInstance) -> dict[str, dict[str, Any]]:
    """The latest materialization's metadata of each partition."""
    records = instance.fetch_materializations(CUSTOMERS, limit=100, ascending=True).records
    found = {}
    for record in records:
        event = record.asset_materialization
        assert event is not None
        assert event.partition is not None
        found[event.partition] = {name: value.value for name, value in event.metadata.items()}
    return found


def failed_partitions(instance: DagsterInstance) -> set[str]:
    """As Dagster's UI shows them."""
    value = get_and_update_asset_status_cache_value(instance, CUSTOMERS, organizations)
    assert value is not None
    return set(value.deserialize_failed_partition_subsets(organizations).get_partition_keys())


def failure_text(result: ExecuteInProcessResult) -> str:
    """What the operator reads at the failed step."""
    (failure,) = [e for e in result.all_events if e.event_type is DagsterEventType.STEP_FAILURE]
    return str(failure.step_failure_data.user_failure_data)


@pytest.fixture
def three(world: World, instance: DagsterInstance) -> list[Any]:
    names = ["ant", "bee", "cat"]
    instance.add_dynamic_partitions("organizations", names)
    return [world.connect(name, f"{name}.myshopify.com", customers=20) for name in names]


def test_a_range_materializes_each_organization_with_its_own_figures(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    result = run(instance, "ant", "cat")
    assert result.success
    found = materialized(instance)
    assert set(found) == {"ant", "bee", "cat"}
    assert found["bee"]["inserted"] == 20
    assert found["bee"]["window from"] == "the beginning"
    assert found["bee"]["API points"] > 0
    for name, store in zip(("ant", "bee", "cat"), three, strict=True):
        assert world.differences(name, store) == []
    assert {row["lastSyncRunId"] for row in world.rows("ant").values()} == {result.run_id}


def test_the_load_of_a_large_store_names_its_bulk_operation(
    world: World, instance: DagsterInstance
) -> None:
    instance.add_dynamic_partitions("organizations", ["ant"])
    store = world.connect("ant", "ant.myshopify.com", customers=BULK_ABOVE + 1)
    assert run(instance, "ant", "ant").success
    (operation,) = store.bulk.all()
    found = materialized(instance)["ant"]
    assert found["bulk operation"] == operation["id"]
    assert (found["inserted"], found["window from"]) == (BULK_ABOVE + 1, "the beginning")


def test_a_run_tells_once_what_it_has_cost(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    three[1].fault("status", status=401, times=None)
    run(instance, "ant", "cat")
    (record,) = instance.fetch_observations(CUSTOMERS, limit=10).records
    observation = record.asset_observation
    assert observation is not None
    assert observation.partition is None
    told: dict[str, Any] = {name: each.value for name, each in observation.metadata.items()}
    assert (told["organizations"], told["synced"], told["failed"]) == (3, 2, 1)
    points = sum(found["API points"] for found in materialized(instance).values())
    assert told["API points"] == points > 0
    assert 0 < told["CPU seconds"] == pytest.approx(told["CPU ms per organization"] * 3e-3, 0.1)
    assert told["seconds"] > 0
    assert failed_partitions(instance) == {"bee"}


def test_exactly_the_partitions_of_broken_stores_fail(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    three[1].fault("status", status=401, times=None)
    result = run(instance, "ant", "cat")
    assert not result.success
    assert set(materialized(instance)) == {"ant", "cat"}
    assert failed_partitions(instance) == {"bee"}
    told = failure_text(result)
    assert "bee: bee.myshopify.com: Shopify refused the access token" in told
    assert "shopsync connect" in told
    three[1].clear_faults()
    assert run(instance, "bee", "bee").success
    assert failed_partitions(instance) == set()


def test_of_sixty_organizations_exactly_the_three_broken_ones_fail(
    world: World, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shopsync_pipeline.shopify.client.BACKOFF", (0.01, 0.01, 0.01))
    names = [f"org{number:02}" for number in range(60)]
    instance.add_dynamic_partitions("organizations", names)
    stores = {name: world.connect(name, f"{name}.myshopify.com", customers=3) for name in names}
    broken = {"org07": 401, "org23": 402, "org41": 500}
    for name, status in broken.items():
        stores[name].fault("status", status=status, times=None)

    result = run(instance, "org00", "org59", only_due=True)

    assert not result.success
    assert set(materialized(instance)) == set(names) - set(broken)
    assert failed_partitions(instance) == set(broken)
    told = failure_text(result)
    for name, what in [("org07", "connect the store again"), ("org23", "frozen"), ("org41", "500")]:
        assert f"{name}: {name}.myshopify.com: " in told
        assert what in told.lower()


def test_a_red_partition_does_not_turn_green_by_being_left_alone(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    three[1].fault("status", status=401, times=None)
    run(instance, "ant", "cat", only_due=True)
    asked = len(three[1].requests)
    world.simulator.clock.advance(3600)
    assert not run(instance, "ant", "cat", only_due=True).success
    assert len(three[1].requests) == asked  # needs_reauth is tried once a day
    assert failed_partitions(instance) == {"bee"}


def test_a_fresh_organization_in_the_range_says_since_when(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    run(instance, "bee", "bee")
    run(instance, "ant", "cat", only_due=True)
    found = materialized(instance)
    assert "fresh since" in found["bee"]
    assert found["ant"]["inserted"] == 20


def test_a_person_who_asks_is_not_held_back(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    run(instance, "ant", "ant")
    three[0].create(firstName="New")
    world.simulator.clock.advance(60)
    run(instance, "ant", "ant")
    assert materialized(instance)["ant"]["inserted"] == 1


def test_an_organization_whose_stores_have_left_does_not_fail(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    instance.add_dynamic_partitions("organizations", ["gone"])
    assert run(instance, "cat", "gone").success
    assert materialized(instance)["gone"] == {"note": "no active store"}


def test_the_mode_and_the_start_come_from_the_launch_config(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    run(instance, "ant", "ant")
    world.simulator.clock.advance(7200)
    run(instance, "ant", "ant", mode="full")
    assert materialized(instance)["ant"]["unchanged"] == 20
    run(instance, "ant", "ant", updated_since="2000-01-01")
    assert materialized(instance)["ant"]["unchanged"] == 20
    failed = run(instance, "ant", "ant", updated_since="yesterday")
    assert not failed.success
    assert "updated_since is 'yesterday'" in str(failed.all_events)


def test_the_checks_pass_on_a_synced_table_and_name_what_differs(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    result = run(instance, "ant", "cat")
    passed = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert passed == {
        "no_duplicate_customers": True,
        "stores_are_fresh": True,
        "counts_match_shopify": True,
        "pulls_match_webhooks": True,
    }
    with world.engine.pool.connection() as conn:
        conn.execute("""DELETE FROM customers WHERE "organizationId" = 'bee'""")
        conn.execute(
            """UPDATE integrations SET "lastSyncAt" = now() - interval '3 hours'
               WHERE "organizationId" = 'cat'"""
        )
    three[0].fault("status", status=401, times=None)
    failed = run(instance, "ant", "ant")
    checks = {e.check_name: e for e in failed.get_asset_check_evaluations()}
    assert not failed.success
    assert not checks["counts_match_shopify"].passed
    assert "bee.myshopify.com: 0 here, 20 in Shopify" in str(
        checks["counts_match_shopify"].metadata
    )
    assert not checks["stores_are_fresh"].passed
    assert "cat.myshopify.com" in str(checks["stores_are_fresh"].metadata["late"])


def pause(world: World, organization: str) -> None:
    transact(
        world.engine.pool,
        lambda conn: integrations.pause(
            conn, organization_id=organization, shop=f"{organization}.myshopify.com"
        ),
    )


def test_a_pause_turns_no_red_partition_green_and_no_green_one_red(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    three[0].fault("status", status=401, times=None)
    run(instance, "ant", "bee")
    assert failed_partitions(instance) == {"ant"}
    pause(world, "ant")
    pause(world, "bee")
    assert run(instance, "ant", "bee").success
    assert failed_partitions(instance) == {"ant"}
    assert set(materialized(instance)) == {"bee"}
    assert "paused by hand" in materialized(instance)["bee"]
    three[2].fault("status", status=401, times=None)
    assert not run(instance, "ant", "cat").success
    assert failed_partitions(instance) == {"ant", "cat"}


def test_a_store_that_was_never_loaded_is_not_green_for_being_paused(
    world: World, instance: DagsterInstance, three: list[Any]
) -> None:
    pause(world, "ant")
    assert run(instance, "ant", "ant").success
    assert materialized(instance) == {}
