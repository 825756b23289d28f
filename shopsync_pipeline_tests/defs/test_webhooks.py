"""What the sensor asks for, and what a drain tells Dagster."""

import asyncio
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    SensorResult,
    build_sensor_context,
    job,
    op,
)
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from shopsync_pipeline.db import locks
from shopsync_pipeline.db.engine import Conn, connect, read
from shopsync_pipeline.db.locks import DrainSession, LiveDrain, live_runs, presence
from shopsync_pipeline.db.server import ServerAddress
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.defs import checks
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.webhooks import (
    ENDING,
    StartedRun,
    apply_webhooks,
    fail_lost,
    successor_wanted,
    watch,
    webhook_sensor,
    without_session,
)
from shopsync_pipeline_tests.acceptance.deployment import wait_for
from shopsync_pipeline_tests.acceptance.test_cli import refused, shopsync
from shopsync_pipeline_tests.world import World, free_port

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
        ([], [run("a", "STARTED", 9)], True, False),
        ([], [run("a", "STARTING", 31)], True, True),
        ([], [run("dead", "STARTED", 11)], True, True),
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


def test_the_sensor_stops_listening_when_its_code_server_is_told_to_end(
    store: Any, watched: Any
) -> None:
    """Ctrl-C of a deployment had taken 18 s."""
    began = time.monotonic()
    timer = threading.Timer(0.3, ENDING.set)
    timer.start()
    try:
        assert watched(seconds=20) == (False, {})
        assert time.monotonic() - began < 10
    finally:
        timer.join()
        ENDING.clear()


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


def test_a_started_pull_without_a_connection_fails_at_the_second_look_and_frees_its_slot(
    world: World, instance: DagsterInstance, store: Any, conn: Conn
) -> None:
    """It died while Postgres was away: Dagster said STARTED for two hours, with its slot taken."""
    dead, living = (started_pull(instance, "ours") for _ in range(2))
    with presence(world.environ["DATABASE_URL"], living.run_id):
        assert seen_live(conn) == {living.run_id}
        suspects = fail_lost(conn, instance, {}, location="ours")
        assert list(suspects) == [dead.run_id]
        long_ago = {dead.run_id: suspects[dead.run_id] - 61}
        assert fail_lost(conn, instance, long_ago, location="ours") == {}
    statuses = {r.run_id: r.status for r in instance.get_runs()}
    assert statuses == {
        dead.run_id: DagsterRunStatus.FAILURE,
        living.run_id: DagsterRunStatus.STARTED,
    }


def test_a_run_of_another_code_location_of_the_same_dagster_is_nobody_to_fail(
    instance: DagsterInstance, conn: Conn
) -> None:
    """It has no session in our Postgres, and was failed after a minute."""
    foreign = started_pull(instance, "theirs")
    assert fail_lost(conn, instance, {foreign.run_id: 0.0}, location="ours") == {}
    (run_,) = instance.get_runs()
    assert run_.status == DagsterRunStatus.STARTED


def started_pull(instance: DagsterInstance, location: str) -> DagsterRun:
    pull = defs.resolve_job_def("sync_customers")
    where = GrpcServerCodeLocationOrigin(host="localhost", port=4000, location_name=location)
    repository = RemoteRepositoryOrigin(where, "__repository__")
    return instance.create_run_for_job(
        pull,
        status=DagsterRunStatus.STARTED,
        remote_job_origin=repository.get_job_origin(pull.name),
    )


def seen_live(conn: Conn) -> set[str]:
    """As soon as there is any: the session of a run is opened by a thread."""
    return wait_for(lambda: live_runs(conn), 10, "the session of a run")


def test_a_run_whose_session_was_cut_while_it_waits_for_shopify_is_seen_again(
    world: World, server: ServerAddress, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pool stayed without connections until it was used again, and it was failed alive."""
    monkeypatch.setattr(locks, "PRESENCE_SECONDS", 0.2)
    with presence(world.environ["DATABASE_URL"], "waits"):
        assert seen_live(conn) == {"waits"}
        with connect(server.url()) as superuser:
            superuser.execute(
                """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                   WHERE application_name = 'shopsync run waits'"""
            )
        assert seen_live(conn) == {"waits"}
    wait_for(lambda: not live_runs(conn), 10, "the end of its session")


def test_keys_are_not_made_new_while_a_run_lives_that_knows_the_old_ones_only(
    world: World, conn: Conn
) -> None:
    """It may outlive an `up` that was killed, whose ports are free."""
    ports = {"RECEIVER_PORT": str(free_port()), "DAGSTER_WEBSERVER_PORT": str(free_port())}
    with DrainSession(world.environ["DATABASE_URL"], "outlives"):
        refused(shopsync(world, "rotate-keys", "--new", **ports), "at work (outlives)")


def test_what_a_run_opens_has_its_name_and_what_a_tick_opens_has_none(
    world: World, instance: DagsterInstance, conn: Conn
) -> None:
    @op
    def look(shopsync: ShopsyncResource) -> list[str]:
        with shopsync.engine() as engine:
            by_engine = wait_for(lambda: read(engine.pool, live_runs), 10, "its session")
        with shopsync.connection() as own:
            return [*by_engine, *seen_live(own)]

    @job(resource_defs={"shopsync": ShopsyncResource()})
    def looking() -> None:
        look()

    ended = looking.execute_in_process(instance=instance)
    assert ended.output_for_node("look") == [ended.run_id] * 2
    with ShopsyncResource().connection() as unnamed:
        assert live_runs(unnamed) == set()


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


def test_the_checks_speak_of_what_a_drain_wrote_too(
    world: World, instance: DagsterInstance, store: Any
) -> None:
    """Dagster's UI called them not evaluated from the first webhook to the next pull. Who was made
    or deleted since is in no count of Shopify's yet."""
    defs.resolve_job_def("sync_customers").execute_in_process(
        instance=instance, partition_key="acme"
    )
    world.simulator.clock.set(datetime.now(UTC) + timedelta(seconds=10))
    made = store.create(firstName="New")
    world.hear("acme", "customers/create", {"id": int(made["legacyResourceId"])})
    gone = hear_an_edit(world, store)
    store.delete(gone)
    world.hear("acme", "customers/delete", {"id": gone})
    run_id = drained(instance)
    keys = [spec.key for spec in checks.SPECS]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    context = LoadingContextForTest(instance)
    for key in keys:
        assert latest[key].run_id == run_id
        assert latest[key].status is AssetCheckExecutionRecordStatus.SUCCEEDED
        assert asyncio.run(latest[key].targets_latest_materialization(context))


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
