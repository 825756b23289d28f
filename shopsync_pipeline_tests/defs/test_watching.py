"""The sensors by which the deployment watches itself, against a local service that takes alerts."""

import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    ExecuteInProcessResult,
    SensorResult,
    build_run_status_sensor_context,
    build_schedule_context,
    build_sensor_context,
)

from shopsync_pipeline.db import watch
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.defs import (
    housekeeping,
    metrics,
    realtime,
    reconciliation,
    schedules,
    sensors,
    watching,
)
from shopsync_pipeline.defs.health import stopped
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import RANGE_END, RANGE_START
from shopsync_pipeline.defs.watching import run_failures, trouble_sensor
from shopsync_pipeline.errors import Fault
from shopsync_pipeline.sync.watch import SILENT_AFTER
from shopsync_pipeline_tests.world import World

SECRET_PATH = "/services/T0/hook-secret"


@dataclass
class Hook:
    url: str
    status: int = 200
    taken: list[dict[str, Any]] = field(default_factory=list)

    def told(self) -> list[tuple[str, str]]:
        return [(each["state"], each["kind"]) for each in self.taken]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """What ALERT_WEBHOOK_URL names."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if given.status == 200:
                given.taken.append({**json.loads(body), "path": self.path})
            self.send_response(given.status)
            if given.status == 302:
                self.send_header("Location", given.url + "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        given = Hook(f"http://127.0.0.1:{server.server_port}{SECRET_PATH}")
        monkeypatch.setenv("ALERT_WEBHOOK_URL", given.url)
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield given
        server.shutdown()
        thread.join()


def ticked(instance: DagsterInstance, cursor: str | None = None) -> SensorResult:
    result = trouble_sensor(
        build_sensor_context(instance=instance, cursor=cursor), shopsync=ShopsyncResource()
    )
    assert isinstance(result, SensorResult)
    return result


def synced(instance: DagsterInstance, *names: str, **config: Any) -> ExecuteInProcessResult:
    instance.add_dynamic_partitions("organizations", list(names))
    return defs.resolve_job_def("sync_customers").execute_in_process(
        instance=instance,
        tags={RANGE_START: names[0], RANGE_END: names[-1]},
        run_config={"ops": {"customers": {"config": config}}},
        raise_on_error=False,
    )


def failed(instance: DagsterInstance, result: ExecuteInProcessResult) -> None:
    """What Dagster does with a run that failed."""
    (event,) = [e for e in result.all_events if e.event_type is DagsterEventType.RUN_FAILURE]
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    context = build_run_status_sensor_context(
        sensor_name="run_failure_sensor",
        dagster_event=event,
        dagster_instance=instance,
        dagster_run=run,
    ).for_run_failure()
    run_failures(context, shopsync=ShopsyncResource())


def test_a_store_in_trouble_is_told_once_though_its_run_fails_every_hour(
    world: World, instance: DagsterInstance, hook: Hook
) -> None:
    store = world.connect("ant", "ant.myshopify.com")
    store.fault("status", status=401, times=None)
    for _ in range(2):
        result = synced(instance, "ant")
        assert not result.success
        failed(instance, result)
        ticked(instance)
    assert hook.told() == [("trouble", "store_in_trouble")]
    (message,) = hook.taken
    assert "ant, ant.myshopify.com is needs_reauth" in message["text"]
    assert "shopsync connect" in message["text"]
    assert message["troubles"][0]["organizationId"] == "ant"
    assert message["path"] == SECRET_PATH
    store.clear_faults()
    assert synced(instance, "ant").success
    ticked(instance)
    assert hook.told()[1:] == [("over", "store_in_trouble")]


def test_a_run_that_fails_for_another_reason_is_told_once_with_its_address(
    world: World, instance: DagsterInstance, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_WEBSERVER_URL", "https://dagster.example.com")
    world.connect("ant", "ant.myshopify.com")
    result = synced(instance, "ant", updated_since="yesterday")
    for _ in range(2):
        failed(instance, result)
        ticked(instance)
    (message,) = hook.taken
    assert message["kind"] == "run_failed"
    assert f"https://dagster.example.com/runs/{result.run_id}" in message["text"]
    assert "yesterday" not in message["text"]


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_hook_that_takes_nothing_is_tried_again_and_its_address_is_in_no_log(
    world: World,
    instance: DagsterInstance,
    hook: Hook,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    world.connect("ant", "ant.myshopify.com").fault("status", status=401, times=None)
    world.sync("ant")
    hook.status = status
    with caplog.at_level(logging.DEBUG, logger="shopsync_pipeline"):
        ticked(instance)
    assert hook.taken == []
    assert "ALERT_WEBHOOK_URL answered" in caplog.text
    assert "hook-secret" not in caplog.text
    hook.status = 200
    ticked(instance)
    assert hook.told() == [("trouble", "store_in_trouble")]


def test_a_hook_that_cannot_be_reached_fails_no_tick(
    world: World,
    instance: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.connect("ant", "ant.myshopify.com").fault("status", status=401, times=None)
    world.sync("ant")
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "http://127.0.0.1:1" + SECRET_PATH)
    with caplog.at_level(logging.DEBUG, logger="shopsync_pipeline"):
        ticked(instance)
    assert "ALERT_WEBHOOK_URL takes no message: ConnectionError" in caplog.text
    assert "hook-secret" not in caplog.text


def test_a_hook_that_drips_its_answer_holds_no_tick(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each piece of it comes in time."""
    monkeypatch.setattr(watching, "POST_WITHIN", 0.3)
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with server.accept()[0] as caller:
                caller.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not over.wait(0.05):
                    caller.sendall(b"x")

        thread = Thread(target=drip)
        thread.start()
        try:
            took = watching.poster(f"http://127.0.0.1:{server.getsockname()[1]}/")({})
        finally:
            over.set()
            thread.join()
    assert took is False
    assert "no answer within" in caplog.text


def test_of_a_hooks_answer_only_the_status_is_waited_for() -> None:
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            with server.accept()[0] as caller:
                caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
                over.wait(30)

        thread = Thread(target=take)
        thread.start()
        try:
            assert watching.poster(f"http://127.0.0.1:{server.getsockname()[1]}/")({}) is True
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("url", ["https://hooks..example.com/", f"https://{'a' * 64}.invalid/"])
def test_a_host_that_cannot_be_one_takes_no_message_and_fails_no_tick(url: str) -> None:
    assert watching.poster(url)({}) is False


def test_a_run_that_failed_while_our_database_was_away_is_told_later(
    world: World, instance: DagsterInstance, hook: Hook
) -> None:
    """run_failure_sensor was called and could file nothing; Dagster does not call it again."""
    world.connect("ant", "ant.myshopify.com").fault("status", status=401, times=None)
    assert not synced(instance, "ant").success  # told as its store's trouble
    result = synced(instance, "ant", updated_since="yesterday")
    cursor = ticked(instance).cursor
    ticked(instance, cursor)
    told = [each["text"] for each in hook.taken if each["kind"] == "run_failed"]
    assert len(told) == 1
    assert result.run_id in told[0]


def test_the_check_of_the_inbox_is_reported_when_it_changes_and_shows_in_the_ui(
    world: World, instance: DagsterInstance
) -> None:
    world.connect("ant", "ant.myshopify.com")
    first = ticked(instance)
    (report,) = first.asset_events
    assert (report.asset_key, report.passed) == (AssetKey("webhook_events"), True)  # type: ignore[union-attr]
    assert ticked(instance, first.cursor).asset_events == []
    world.hear("ant", "customers/update", b"{")
    world.drain()
    second = ticked(instance, first.cursor)
    (report,) = second.asset_events
    assert report.passed is False  # type: ignore[union-attr]
    assert report.metadata["dead letters"].value == 1
    assert "ant.myshopify.com" in str(report.metadata["stores"].value)
    assert ticked(instance, second.cursor).asset_events == []
    instance.report_runless_asset_event(report)
    key = AssetCheckKey(AssetKey("webhook_events"), "webhooks_are_processed")
    assert key in defs.resolve_asset_graph().asset_check_keys
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.status.value == "FAILED"


def test_the_run_of_a_store_that_loses_webhooks_warns_and_names_it(
    world: World, instance: DagsterInstance
) -> None:
    world.connect("ant", "ant.myshopify.com")
    with world.engine.pool.connection() as conn:
        conn.execute("""UPDATE integrations SET "realtimeSince" = now()""")
        conn.execute(
            """INSERT INTO unheard_changes ("integrationId", "runId", "oldestAt", "changes")
               SELECT "id", 'r', now(), 3 FROM integrations"""
        )
    result = synced(instance, "ant")
    checks = {e.check_name: e for e in result.get_asset_check_evaluations()}
    found = checks["pulls_match_webhooks"]
    assert (found.passed, found.severity.value) == (False, "WARN")
    assert found.metadata["share by webhook"].value == 0.0
    assert "ant, ant.myshopify.com: 3 changes" in str(found.metadata["losing webhooks"].value)
    assert result.success


def test_everything_that_ticks_is_listened_for_and_is_heard(
    world: World, instance: DagsterInstance
) -> None:
    ours = {each.name for each in [*(defs.schedules or []), *(defs.sensors or [])]}
    assert ours - {"run_failure_sensor"} == set(SILENT_AFTER)  # it is called when a run fails
    at = build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 11, 24, 10, tzinfo=UTC)
    )
    shopsync = ShopsyncResource()
    schedules.hourly_customer_sync(at, shopsync=shopsync)
    realtime.hourly_subscription_check(at, shopsync=shopsync)
    reconciliation.hourly_reconciliation(at, shopsync=shopsync)
    metrics.hourly_customer_metrics(at, shopsync=shopsync)
    housekeeping.nightly_housekeeping(at, shopsync=shopsync)
    sensors.sync_request_sensor(build_sensor_context(instance=instance), shopsync=shopsync)
    ticked(instance)
    with world.engine.pool.connection() as conn:
        heard = {tick.name for tick in watch.ticks(conn) if tick.ever}
    assert heard == set(SILENT_AFTER) - {"webhook_sensor"}  # which listens for 20 s


def test_a_tick_that_fails_is_no_heartbeat(world: World, instance: DagsterInstance) -> None:
    with pytest.raises(Fault), ShopsyncResource().tick("webhook_sensor"):
        raise ZeroDivisionError
    with world.engine.pool.connection() as conn:
        assert watch.ticks(conn) == []


def test_nothing_is_stopped_where_nobody_stopped_it(instance: DagsterInstance) -> None:
    assert stopped() == []
