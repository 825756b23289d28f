"""What the schedule and the sensor ask Dagster for."""

from datetime import UTC, datetime
from typing import Any

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    RunsFilter,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
)

from shopsync_pipeline.db import integrations, requests
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.db.requests import NewCredentials
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import RANGE_END, RANGE_START, hourly_customer_sync
from shopsync_pipeline.defs.sensors import sync_request_sensor
from shopsync_pipeline.models import Credentials, SyncRequest
from shopsync_pipeline_tests.world import World

NAMES = ["ant", "bee", "cat", "dog", "eel"]


@pytest.fixture
def stores(world: World) -> dict[str, Any]:
    return {name: world.connect(name, f"{name}.myshopify.com", customers=3) for name in NAMES}


def scheduled(instance: DagsterInstance) -> Any:
    context = build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 11, 24, 10, tzinfo=UTC)
    )
    return hourly_customer_sync(context, shopsync=ShopsyncResource())


def sensed(instance: DagsterInstance) -> SensorResult:
    """One tick, with what Dagster does of it: new partitions are added."""
    result = sync_request_sensor(
        build_sensor_context(instance=instance), shopsync=ShopsyncResource()
    )
    assert isinstance(result, SensorResult)
    for request in result.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions("organizations", list(request.partition_keys))
    return result


def spans(runs: Any) -> list[tuple[str, str]]:
    assert isinstance(runs, list)
    return [(run.tags[RANGE_START], run.tags[RANGE_END]) for run in runs]


def execute(instance: DagsterInstance, request: RunRequest) -> None:
    defs.resolve_job_def("sync_customers").execute_in_process(
        instance=instance,
        tags=dict(request.tags),
        run_config=dict(request.run_config),
        raise_on_error=False,
    )


def filed(world: World, **request: Any) -> str:
    return transact(world.engine.pool, lambda conn: requests.file(conn, **request))


def found(world: World, request_id: str) -> SyncRequest:
    request = transact(world.engine.pool, lambda conn: requests.get(conn, request_id))
    assert request is not None
    return request


def test_the_sensor_registers_organizations_in_the_order_in_which_they_came(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    sensed(instance)
    assert list(instance.get_dynamic_partitions("organizations")) == NAMES
    assert not sensed(instance).dynamic_partitions_requests


def test_the_hour_is_covered_by_ranges_that_may_bridge_what_is_fresh(
    world: World,
    instance: DagsterInstance,
    stores: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sensed(instance)
    world.sync("bee")
    assert spans(scheduled(instance)) == [("ant", "eel")]
    monkeypatch.setenv("ORGS_PER_RUN", "2")
    assert spans(scheduled(instance)) == [("ant", "ant"), ("cat", "dog"), ("eel", "eel")]


def test_no_run_is_asked_for_when_all_are_fresh(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    sensed(instance)
    world.sync(*NAMES)
    skipped = scheduled(instance)
    assert isinstance(skipped, SkipReason)
    assert "5 are fresh, put off, paused by hand or running" in str(skipped.skip_message)


def test_stores_in_trouble_are_left_out_as_long_as_they_are_put_off(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    for name, status in zip(NAMES, (401, 402, 500, 200, 200), strict=True):
        if status != 200:
            stores[name].fault("status", status=status, times=None)
    sensed(instance)
    world.sync(*NAMES)
    with world.engine.pool.connection() as conn:
        conn.execute(
            """UPDATE integrations SET "lastSyncAt" = "lastSyncAt" - interval '1 hour',
               "retryAt" = "retryAt" - interval '2 hours'"""
        )
    assert spans(scheduled(instance)) == [("cat", "eel")]


def test_what_another_run_is_syncing_is_left_out(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    sensed(instance)
    world.engine.locks.try_lock(world.integration("eel").id)
    assert spans(scheduled(instance)) == [("ant", "dog")]


def test_a_persons_request_becomes_one_run_that_answers_it(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    first = filed(world, kind="sync", organization_id="bee")
    assert filed(world, kind="sync", organization_id="bee") == first
    result = sensed(instance)
    assert spans(result.run_requests) == [("bee", "bee")]
    execute(instance, (result.run_requests or [])[0])
    answered = found(world, first)
    assert (answered.status, answered.counts["inserted"]) == ("succeeded", 3)
    assert answered.run_id is not None
    assert not sensed(instance).run_requests


def test_neighbours_share_a_run_and_pull_nobody_else_in(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    for name in ("ant", "bee", "dog"):
        filed(world, kind="sync", organization_id=name)
    assert spans(sensed(instance).run_requests) == [("ant", "bee"), ("dog", "dog")]


def test_a_request_for_a_broken_store_fails_with_what_shopify_said(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    stores["bee"].fault("status", status=402, times=None)
    request = filed(world, kind="sync", organization_id="bee")
    execute(instance, (sensed(instance).run_requests or [])[0])
    answered = found(world, request)
    assert answered.status == "failed"
    assert "bee.myshopify.com: the store is frozen" in str(answered.error)


def test_a_request_for_an_organization_whose_stores_have_left_fails_and_says_so(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    request = filed(world, kind="sync", organization_id="bee")
    (run,) = sensed(instance).run_requests or []
    transact(
        world.engine.pool,
        lambda conn: integrations.disconnect(conn, organization_id="bee", shop="bee.myshopify.com"),
    )
    execute(instance, run)
    answered = found(world, request)
    assert "no active store" in str(answered.error)
    execute(instance, run)  # an operator's "re-execute" changes no answer
    assert found(world, request) == answered


def test_a_request_for_a_store_that_a_person_paused_fails_without_a_run(
    instance: DagsterInstance, world: World, stores: dict[str, Any]
) -> None:
    """A run that failed would be an alert."""
    sensed(instance)
    transact(
        world.engine.pool,
        lambda conn: integrations.pause(conn, organization_id="bee", shop="bee.myshopify.com"),
    )
    asked = [filed(world, kind=kind, organization_id="bee") for kind in ("sync", "reconcile")]
    assert sensed(instance).run_requests == []
    for request in asked:
        told = found(world, request).error or ""
        assert told.startswith("bee, bee.myshopify.com: paused since ")
        assert told.endswith("; resume it: shopsync resume bee bee.myshopify.com")


def test_of_two_stores_the_paused_one_fails_only_the_request_that_names_it(
    instance: DagsterInstance, world: World, stores: dict[str, Any]
) -> None:
    world.connect("bee", "second.myshopify.com", customers=3)
    sensed(instance)
    transact(
        world.engine.pool,
        lambda conn: integrations.pause(conn, organization_id="bee", shop="bee.myshopify.com"),
    )
    held = Credentials(access_token=stores["bee"].access_token)
    sealed = world.engine.cipher.seal(held)
    brought = NewCredentials(shop="bee.myshopify.com", name=None, sealed=sealed)
    whole = filed(world, kind="sync", organization_id="bee")
    named = filed(world, kind="sync", organization_id="bee", bring=brought)
    (run,) = sensed(instance).run_requests or []
    execute(instance, run)
    answered, refused = found(world, whole), found(world, named)
    assert (answered.status, answered.error) == ("succeeded", None)
    assert answered.counts["inserted"] == 3
    assert refused.status == "failed"
    assert "bee, bee.myshopify.com: paused since " in (refused.error or "")
    assert not instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))


def test_real_time_sync_is_turned_off_by_a_request_also_where_the_store_is_paused(
    instance: DagsterInstance, world: World, stores: dict[str, Any]
) -> None:
    sensed(instance)
    transact(
        world.engine.pool,
        lambda conn: integrations.pause(conn, organization_id="cat", shop="cat.myshopify.com"),
    )
    for organization in ("bee", "cat"):
        filed(world, kind="realtime", organization_id=organization, mode="off")
    (run,) = sensed(instance).run_requests or []
    assert run.job_name == "enable_realtime_sync"
    config = run.run_config["ops"]["webhook_subscriptions"]["config"]
    assert config["action"] == "disable"
    assert spans([run]) == [("bee", "cat")]


def test_of_requests_to_turn_real_time_sync_on_and_off_the_last_one_counts(
    instance: DagsterInstance, world: World, stores: dict[str, Any]
) -> None:
    sensed(instance)
    on = filed(world, kind="realtime", organization_id="bee")
    off = filed(world, kind="realtime", organization_id="bee", mode="off")
    assert filed(world, kind="realtime", organization_id="bee") == on
    (run,) = sensed(instance).run_requests or []
    assert run.run_config["ops"]["webhook_subscriptions"]["config"] == {
        "action": "enable",
        "request_ids": [on],
    }
    replaced = found(world, off)
    assert (replaced.status, replaced.error) == (
        "failed",
        f"bee: replaced by a later request, {on}.",
    )


def test_real_time_sync_is_not_turned_off_while_a_run_turns_it_on(
    instance: DagsterInstance, world: World, stores: dict[str, Any]
) -> None:
    sensed(instance)
    filed(world, kind="realtime", organization_id="bee")
    (run,) = sensed(instance).run_requests or []
    job = defs.resolve_job_def("enable_realtime_sync")
    started = instance.create_run_for_job(job, tags=dict(run.tags), status=DagsterRunStatus.STARTED)
    off = filed(world, kind="realtime", organization_id="bee", mode="off")
    assert not sensed(instance).run_requests
    assert found(world, off).status == "queued"
    instance.report_run_canceled(started)
    sensed(instance)
    (later,) = sensed(instance).run_requests or []
    assert later.run_config["ops"]["webhook_subscriptions"]["config"]["action"] == "disable"


def test_a_request_for_nobody_fails_at_once(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    request = filed(world, kind="sync", organization_id="nobody")
    assert not sensed(instance).run_requests
    assert "no such organization" in str(found(world, request).error)


def test_a_request_for_all_that_are_due_ends_with_the_last_of_its_runs(
    world: World,
    instance: DagsterInstance,
    stores: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORGS_PER_RUN", "3")
    request = filed(world, kind="cron", organization_id=None)
    runs = sensed(instance).run_requests or []
    assert spans(runs) == [("ant", "cat"), ("dog", "eel")]
    for run in runs:
        assert found(world, request).status in ("queued", "running")
        execute(instance, run)
    sensed(instance)
    answered = found(world, request)
    assert (answered.status, answered.counts["inserted"]) == ("succeeded", 15)


def test_a_run_that_died_before_it_answered_fails_the_request_and_is_named(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    request = filed(world, kind="sync", organization_id="ant")
    (run,) = sensed(instance).run_requests or []
    killed = instance.create_run_for_job(
        defs.resolve_job_def("sync_customers"),
        tags=dict(run.tags),
        status=DagsterRunStatus.FAILURE,
    )
    assert not sensed(instance).run_requests
    assert killed.run_id in str(found(world, request).error)
