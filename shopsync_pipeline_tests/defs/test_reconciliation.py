"""Runs of the asset `customer_reconciliation` in a real Dagster, and the schedule of its turns."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DefaultScheduleStatus,
    ExecuteInProcessResult,
    RunRequest,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
)
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from shopsync_pipeline.db import integrations, requests
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.defs import reconciliation
from shopsync_pipeline.defs.partitions import organizations
from shopsync_pipeline.defs.reconciliation import hourly_reconciliation
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import RANGE_END, RANGE_START
from shopsync_pipeline.defs.sensors import sync_request_sensor
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.sync.reconcile import OrganizationReconciliation, StoreReconciliation
from shopsync_pipeline.sync.sweep import ReconcileResult
from shopsync_pipeline_tests.world import World

NAMES = ["ant", "bee", "cat"]
RECONCILIATION = AssetKey("customer_reconciliation")
CUSTOMERS = AssetKey("customers")


@pytest.fixture
def stores(world: World, instance: DagsterInstance) -> dict[str, Any]:
    """Each in the table, synced by Dagster, a day ago on Shopify's clock."""
    instance.add_dynamic_partitions("organizations", NAMES)
    made = {n: world.connect(n, f"{n}.myshopify.com", customers=20) for n in NAMES}
    assert execute(instance, "sync_customers", "ant", "cat").success
    world.simulator.clock.advance(86400)
    return made


def execute(
    instance: DagsterInstance, job: str, first: str, last: str, **config: Any
) -> ExecuteInProcessResult:
    asset = {"sync_customers": "customers", "reconcile_customers": "customer_reconciliation"}[job]
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        tags={RANGE_START: first, RANGE_END: last},
        run_config={"ops": {asset: {"config": config}}},
        raise_on_error=False,
    )


def reconcile(instance: DagsterInstance, first: str, last: str, **config: Any) -> Any:
    return execute(instance, "reconcile_customers", first, last, **config)


def materialized(instance: DagsterInstance, asset: AssetKey, run_id: str) -> dict[str, Any]:
    """The metadata that this run gave to each partition."""
    records = instance.fetch_materializations(AssetRecordsFilter(asset_key=asset), limit=100)
    return {str(r.partition_key): metadata(r) for r in records.records if r.run_id == run_id}


def observed(instance: DagsterInstance, asset: AssetKey) -> dict[str, Any]:
    records = instance.fetch_observations(AssetRecordsFilter(asset_key=asset), limit=100)
    return {str(r.partition_key): metadata(r) for r in records.records}


def metadata(record: Any) -> dict[str, Any]:
    event = record.asset_materialization or record.event_log_entry.asset_observation
    return {name: value.value for name, value in event.metadata.items()}


def failed_partitions(instance: DagsterInstance, asset: AssetKey) -> set[str]:
    """As Dagster's UI shows them."""
    value = get_and_update_asset_status_cache_value(instance, asset, organizations)
    assert value is not None
    return set(value.deserialize_failed_partition_subsets(organizations).get_partition_keys())


def failure_text(result: ExecuteInProcessResult) -> str:
    (failure,) = [e for e in result.all_events if e.event_type is DagsterEventType.STEP_FAILURE]
    return str(failure.step_failure_data.user_failure_data)


def stale_status(instance: DagsterInstance, asset: AssetKey, partition: str) -> str:
    resolver = CachingStaleStatusResolver(
        instance=instance,
        asset_graph=defs.resolve_asset_graph(),
        loading_context=LoadingContextForTest(instance),
    )
    return resolver.get_status(asset, partition).value


def spoil(store: Any) -> tuple[int, int]:
    """Delete one customer and change another without a trace; their ids."""
    gone, changed = (int(r["legacyResourceId"]) for r in store.customers()[:2])
    store.delete(gone)
    store.edit(changed, touch=False, note="changed")
    return gone, changed


def test_each_organization_tells_what_was_found_in_its_stores(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    gone, changed = spoil(stores["bee"])
    result = reconcile(instance, "ant", "cat")
    assert result.success
    found = materialized(instance, RECONCILIATION, result.run_id)
    assert set(found) == set(NAMES)
    assert {name: found["bee"][name] for name in ("rows read", "drifted", "deleted")} == {
        "rows read": 19,
        "drifted": 1,
        "deleted": 1,
    }
    assert json.loads(found["bee"]["sample ids"]) == {"drifted": [changed], "deleted": [gone]}
    (line,) = found["bee"]["stores"].records
    assert line.data["store"] == "bee.myshopify.com"
    assert (line.data["way"], line.data["deleted"]) == ("pages", 1)
    assert line.data["API points"] > 0
    assert found["ant"]["drifted"] == found["ant"]["deleted"] == 0


def test_rows_it_wrote_are_traced_by_the_customers_partition_and_no_partition_is_stale(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    _, changed = spoil(stores["bee"])
    result = reconcile(instance, "ant", "cat")
    assert world.rows("bee")[changed]["lastSyncRunId"] == result.run_id
    assert set(materialized(instance, CUSTOMERS, result.run_id)) == {"bee"}
    for name in NAMES:
        assert stale_status(instance, CUSTOMERS, name) == "FRESH"
        assert stale_status(instance, RECONCILIATION, name) == "FRESH"


def test_a_red_partition_of_customers_does_not_turn_green_by_a_reconcile(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    stores["bee"].fault("status", status=402, times=None)
    assert not execute(instance, "sync_customers", "ant", "cat").success
    stores["bee"].clear_faults()
    spoil(stores["bee"])
    result = reconcile(instance, "bee", "bee")
    assert result.success
    assert failed_partitions(instance, CUSTOMERS) == {"bee"}
    assert materialized(instance, CUSTOMERS, result.run_id) == {}
    assert observed(instance, CUSTOMERS)["bee"]["drifted"] == 1


def test_exactly_the_partitions_of_broken_stores_fail(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    stores["bee"].fault("status", status=401, times=None)
    result = reconcile(instance, "ant", "cat")
    assert not result.success
    assert "bee: bee.myshopify.com: Shopify refused the access token" in failure_text(result)
    assert failed_partitions(instance, RECONCILIATION) == {"bee"}
    assert failed_partitions(instance, CUSTOMERS) == set()
    stores["bee"].clear_faults()
    assert reconcile(instance, "bee", "bee").success
    assert failed_partitions(instance, RECONCILIATION) == set()


def test_an_organization_without_a_store_does_not_fail(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    instance.add_dynamic_partitions("organizations", ["gone"])
    result = reconcile(instance, "gone", "gone")
    assert result.success
    found = materialized(instance, RECONCILIATION, result.run_id)
    assert found == {"gone": {"note": "nothing to do"}}


@pytest.mark.parametrize(("wrong", "passed"), [(2, True), (3, False)])
def test_the_check_fails_above_one_row_in_a_thousand_and_names_the_store(
    world: World, instance: DagsterInstance, stores: dict[str, Any], wrong: int, passed: bool
) -> None:
    large = world.connect("ant", "large.myshopify.com", customers=2500)
    world.sync("ant")
    world.simulator.clock.advance(86400)
    for record in large.customers()[:wrong]:
        large.edit(record["legacyResourceId"], touch=False, note="changed")
    (check,) = reconcile(instance, "ant", "ant").get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("drift_is_rare", passed)
    told = str(check.metadata["drifting"].value)
    assert ("ant, large.myshopify.com: of 2500 customers" in told) == (not passed)
    assert ("real-time sync is off" in told) == (not passed)
    assert "ant.myshopify.com" not in told


def make_overdue(world: World, *names: str) -> None:
    with world.engine.pool.connection() as conn:
        conn.execute(
            """UPDATE integrations SET "createdAt" = now() - interval '8 days'
               WHERE "organizationId" = ANY(%s)""",
            [list(names)],
        )


def scheduled(instance: DagsterInstance) -> Any:
    context = build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
    )
    return hourly_reconciliation(context, shopsync=ShopsyncResource())


def run(instance: DagsterInstance, request: RunRequest) -> ExecuteInProcessResult:
    return defs.resolve_job_def(str(request.job_name)).execute_in_process(
        instance=instance,
        tags=dict(request.tags),
        run_config=dict(request.run_config),
        raise_on_error=False,
    )


def test_the_hour_asks_for_those_whose_turn_it_is_and_touches_nobody_else(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    make_overdue(world, "ant", "cat")
    runs = scheduled(instance)
    spans = [(each.tags[RANGE_START], each.tags[RANGE_END]) for each in runs]
    assert spans == [("ant", "ant"), ("cat", "cat")]
    for store in stores.values():
        store.clear_requests()
    for request in runs:
        assert run(instance, request).success
    assert [name for name in NAMES if stores[name].requests] == ["ant", "cat"]
    assert isinstance(scheduled(instance), SkipReason)
    for request in runs:  # as if it had waited in the queue while a person was faster
        again = run(instance, request)
        (told,) = materialized(instance, RECONCILIATION, again.run_id).values()
        assert "reconciled before" in told


def test_a_store_that_is_put_off_stays_red_until_it_may_be_tried_again(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    make_overdue(world, "ant")
    (request,) = scheduled(instance)
    stores["ant"].fault("status", status=401, times=None)
    assert not run(instance, request).success
    stores["ant"].clear_faults()
    assert isinstance(scheduled(instance), SkipReason)
    result = run(instance, request)
    assert "not tried before" in failure_text(result)
    assert failed_partitions(instance, RECONCILIATION) == {"ant"}


def test_the_schedule_runs_by_default_in_a_lane_of_its_own() -> None:
    assert hourly_reconciliation.default_status is DefaultScheduleStatus.RUNNING
    assert hourly_reconciliation.cron_schedule == "30 * * * *"
    assert defs.resolve_job_def("reconcile_customers").tags["shopsync/lane"] == "reconcile"


def sensed(instance: DagsterInstance) -> list[RunRequest]:
    context = build_sensor_context(instance=instance)
    result = sync_request_sensor(context, shopsync=ShopsyncResource())
    assert isinstance(result, SensorResult)
    return list(result.run_requests or [])


def filed(world: World, name: str) -> str:
    return transact(
        world.engine.pool,
        lambda conn: requests.file(conn, kind="reconcile", organization_id=name),
    )


def answered(world: World, request_id: str) -> SyncRequest:
    found = transact(world.engine.pool, lambda conn: requests.get(conn, request_id))
    assert found is not None
    return found


def test_a_request_becomes_a_run_that_answers_it_with_counts(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    spoil(stores["bee"])
    request = filed(world, "bee")
    (asked,) = sensed(instance)
    assert asked.job_name == "reconcile_customers"
    result = run(instance, asked)
    found = answered(world, request)
    assert (found.status, found.run_id, found.counts["updated"]) == ("succeeded", result.run_id, 1)
    assert sensed(instance) == []


def test_a_request_for_a_store_that_is_still_being_loaded_fails_and_says_so(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    with world.engine.pool.connection() as conn:
        conn.execute(
            """UPDATE integrations SET "watermark" = NULL WHERE "organizationId" = 'bee'"""
        )
    request = filed(world, "bee")
    (asked,) = sensed(instance)
    assert not run(instance, asked).success
    assert "shopsync sync bee" in str(answered(world, request).error)


def pause(conn: Any) -> None:
    integrations.pause(conn, organization_id="ant", shop="ant.myshopify.com")


def test_a_store_paused_before_its_reconcile_is_told_as_that_and_not_as_reconciled(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    transact(world.engine.pool, pause)
    result = reconcile(instance, "ant", "ant")
    assert result.success
    assert materialized(instance, RECONCILIATION, result.run_id) == {}
    assert "paused since" in observed(instance, RECONCILIATION)["ant"]["paused by hand"]


def test_a_reconcile_cut_off_by_a_pause_is_not_told_as_a_whole_one(world: World) -> None:
    world.connect("ant", "ant.myshopify.com")
    store = world.integration("ant")
    found = StoreReconciliation(
        integration=store, state="paused", result=ReconcileResult(), error="paused since now"
    )
    outcome = OrganizationReconciliation(organization_id="ant", stores=(found,))
    told = reconciliation._told_of(outcome)
    assert isinstance(told, AssetObservation)
    assert told.metadata["paused by hand"].value == "paused since now"


def test_of_two_stores_the_paused_one_fails_no_request(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    world.connect("ant", "second.myshopify.com", customers=3)
    execute(instance, "sync_customers", "ant", "ant")
    transact(world.engine.pool, pause)
    request = transact(
        world.engine.pool,
        lambda conn: requests.file(conn, kind="reconcile", organization_id="ant"),
    )
    result = reconcile(instance, "ant", "ant", request_ids=[request])
    answered = transact(world.engine.pool, lambda conn: requests.get(conn, request))
    assert answered is not None
    assert (answered.status, answered.error) == ("succeeded", None)
    assert "paused by hand" in materialized(instance, RECONCILIATION, result.run_id)["ant"]
