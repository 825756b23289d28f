"""What the sensor asks for, and what a drain tells Dagster."""

import json
import os
import threading
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRunStatus,
    SensorResult,
    build_sensor_context,
)
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.db.locks import DrainSession, LiveDrain
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.webhooks import (
    StartedRun,
    apply_webhooks,
    successor_wanted,
    watch,
    webhook_sensor,
    without_session,
)
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"
MOST = 900.0


@pytest.fixture
def store(world: World, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pulled, a partition, and a drain that does not wait for more."""
    monkeypatch.setenv("WEBHOOK_LINGER_SECONDS", "0")
    store = world.connect("acme", SHOP, customers=5)
    world.sync("acme")
    instance.add_dynamic_partitions("organizations", ["acme"])
    return store


def hear_an_edit(world: World, store: Any, note: str = "edited") -> int:
    record = store.edit(store.customers()[0]["legacyResourceId"], note=note)
    world.hear("acme", "customers/update", {"id": int(record["legacyResourceId"])})
    return int(record["legacyResourceId"])


def drained(instance: DagsterInstance) -> str:
    """The id of the run."""
    return defs.resolve_job_def("apply_webhooks").execute_in_process(instance=instance).run_id


def materializations(instance: DagsterInstance, asset: str) -> list[Any]:
    filtered = AssetRecordsFilter(asset_key=AssetKey(asset))
    return [r.asset_event for r in instance.fetch_materializations(filtered, limit=10).records]


def observations(instance: DagsterInstance, asset: str) -> list[Any]:
    filtered = AssetRecordsFilter(asset_key=AssetKey(asset))
    return [r.asset_event for r in instance.fetch_observations(filtered, limit=10).records]


def live(run_id: str = "a", *, holds_lock: bool = True, age: float = 100) -> LiveDrain:
    return LiveDrain(run_id=run_id, holds_lock=holds_lock, age=age)


def run(run_id: str, status: str = "STARTED", age: float = 100) -> StartedRun:
    return StartedRun(run_id=run_id, status=DagsterRunStatus(status), age=age)


@pytest.mark.parametrize(
    ("drains", "runs", "work", "wanted"),
    [
        ([], [], True, True),
        ([], [], False, False),
        ([live()], [run("a")], True, False),
        ([], [run("a", "QUEUED", 500)], True, False),
        ([], [run("a", "STARTING", 10)], True, False),
        ([], [run("a", "STARTED", 10)], True, False),
        ([], [run("a", "STARTING", 31)], True, True),
        ([], [run("dead", "STARTED", 31)], True, True),
        ([live(age=881)], [run("a")], False, True),
        ([live(age=879)], [run("a")], True, False),
        ([live(age=890), live("b", holds_lock=False, age=5)], [run("a"), run("b")], True, False),
        ([live(age=890)], [run("a"), run("b", "QUEUED", 3)], True, False),
        ([live(age=890)], [run("a"), run("dead", "STARTED", 60)], True, True),
    ],
)
def test_a_drain_is_asked_for_when_none_is_there_coming_or_staying(
    drains: list[LiveDrain], runs: list[StartedRun], work: bool, wanted: bool
) -> None:
    assert successor_wanted(drains, runs, work=work, most=MOST) == wanted


def test_a_run_is_dead_when_it_had_the_time_for_a_session_and_has_none() -> None:
    runs = [run("a"), run("b"), run("young", age=20), run("late", "STARTING"), run("q", "QUEUED")]
    assert without_session([live("a", holds_lock=False)], runs) == {"b"}


@pytest.fixture
def watched(world: World, instance: DagsterInstance, conn: Conn) -> Any:
    """Whether a look at the inbox wants a drain."""
    return lambda seconds=0.0, suspects=None: watch(conn, instance, suspects or {}, seconds=seconds)


def test_the_sensor_asks_for_one_run_and_for_no_second_while_that_is_coming(
    world: World, instance: DagsterInstance, store: Any
) -> None:
    hear_an_edit(world, store)
    context = build_sensor_context(instance=instance)
    result = webhook_sensor(context, shopsync=ShopsyncResource())
    assert isinstance(result, SensorResult)
    (request,) = result.run_requests or []
    assert request.run_key is None  # a key would be spent even if the run failed
    instance.create_run_for_job(
        defs.resolve_job_def("apply_webhooks"), tags=dict(request.tags), run_config={}
    )
    with world.engine.pool.connection() as conn:
        assert watch(conn, instance, {}, seconds=0) == (False, {})


def test_the_sensor_hears_an_event_within_its_evaluation(
    world: World, store: Any, watched: Any
) -> None:
    timer = threading.Timer(0.3, hear_an_edit, (world, store))
    timer.start()
    assert watched(seconds=20) == (True, {})
    timer.join()


def test_a_started_run_without_a_session_is_cancelled_at_the_second_look(
    world: World, instance: DagsterInstance, store: Any, watched: Any
) -> None:
    """Its process and its code server were killed together: Dagster says STARTED for ever."""
    dead = instance.create_run_for_job(apply_webhooks, status=DagsterRunStatus.STARTED)
    living = instance.create_run_for_job(apply_webhooks, status=DagsterRunStatus.STARTED)
    with connect(os.environ["DAGSTER_POSTGRES_URL"]) as dagster:
        dagster.execute("UPDATE runs SET create_timestamp = create_timestamp - interval '1 minute'")
    with DrainSession(world.environ["DATABASE_URL"], living.run_id):
        _, suspects = watched()
        assert list(suspects) == [dead.run_id]
        _, suspects = watched(suspects={dead.run_id: suspects[dead.run_id] - 11})
        assert suspects == {}
    statuses = {r.run_id: r.status for r in instance.get_runs()}
    assert statuses == {
        dead.run_id: DagsterRunStatus.CANCELED,
        living.run_id: DagsterRunStatus.STARTED,
    }


def test_a_drain_tells_of_the_inbox_and_of_each_organization_it_wrote(
    world: World, instance: DagsterInstance, store: Any
) -> None:
    customer = hear_an_edit(world, store)
    run_id = drained(instance)
    assert world.rows("acme")[customer]["lastSyncRunId"] == run_id
    event = world.event("acme")
    assert (event["runId"], event["reportedAt"] is not None) == (run_id, True)
    (seen,) = observations(instance, "webhook_events")
    (made,) = materializations(instance, "customers")
    assert made.partition == "acme"
    for told in (seen, made):
        assert json.loads(told.metadata["event ids"].value) == [event["id"]]
        assert told.metadata["updated"].value == 1
        assert told.metadata["slowest lag (s)"].value >= 0


def test_a_red_partition_does_not_turn_green_by_a_webhook(
    world: World, instance: DagsterInstance, store: Any
) -> None:
    store.fault("status", status=500, times=4)
    assert world.sync_one("acme").state == "failed"
    world.pass_waits()
    hear_an_edit(world, store)
    drained(instance)
    assert world.differences("acme", store) == []
    assert materializations(instance, "customers") == []
    (seen,) = observations(instance, "customers")
    assert seen.partition == "acme"


def test_what_a_killed_run_merged_is_told_under_its_name(
    world: World, instance: DagsterInstance, store: Any
) -> None:
    hear_an_edit(world, store)
    world.drain(run_id="killed")
    with world.engine.pool.connection() as conn:
        conn.execute('UPDATE webhook_events SET "reportedAt" = NULL')
    drained(instance)
    (made,) = materializations(instance, "customers")
    assert made.metadata["merged by run"].value == "killed"


def test_an_organization_that_is_no_partition_yet_becomes_one(
    world: World, instance: DagsterInstance, store: Any
) -> None:
    instance.delete_dynamic_partition("organizations", "acme")
    hear_an_edit(world, store)
    drained(instance)
    assert instance.has_dynamic_partition("organizations", "acme")


def test_no_partition_is_stale_after_a_drain(
    world: World, instance: DagsterInstance, store: Any
) -> None:
    defs.resolve_job_def("sync_customers").execute_in_process(
        instance=instance, partition_key="acme"
    )
    hear_an_edit(world, store)
    drained(instance)
    assert materializations(instance, "webhook_events") == []  # it would make all of them stale
    resolver = CachingStaleStatusResolver(
        instance=instance,
        asset_graph=defs.resolve_asset_graph(),
        loading_context=LoadingContextForTest(instance),
    )
    assert resolver.get_status(AssetKey("customers"), "acme").value == "FRESH"
