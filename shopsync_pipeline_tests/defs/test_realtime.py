"""Runs of the asset `webhook_subscriptions` in a real Dagster, and the schedule that mends them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DefaultScheduleStatus,
    Definitions,
    ExecuteInProcessResult,
    RunRequest,
    SkipReason,
    build_schedule_context,
    in_process_executor,
)
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from shopsync_pipeline.db import integrations, requests
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.defs import realtime
from shopsync_pipeline.defs.partitions import organizations
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import RANGE_END, RANGE_START
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.shopify.subscriptions import TOPICS
from shopsync_pipeline_tests.world import World

APP_URL = "https://sync.example.com"
NAMES = ["ant", "bee", "cat", "dog"]
SUBSCRIPTIONS = AssetKey("webhook_subscriptions")

defs = Definitions(
    assets=[realtime.webhook_subscriptions],
    jobs=[realtime.enable_realtime_sync],
    schedules=[realtime.hourly_subscription_check],
    resources={"shopsync": ShopsyncResource()},
    executor=in_process_executor,
)


@pytest.fixture
def stores(
    world: World, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setenv("APP_URL", APP_URL)
    instance.add_dynamic_partitions("organizations", NAMES)
    scopes = ["read_customers", "read_customer_merge"]
    return {n: world.connect(n, f"{n}.myshopify.com", customers=3, scopes=scopes) for n in NAMES}


def execute(instance: DagsterInstance, request: RunRequest) -> ExecuteInProcessResult:
    return defs.resolve_job_def("enable_realtime_sync").execute_in_process(
        instance=instance,
        tags=dict(request.tags),
        run_config=dict(request.run_config),
        raise_on_error=False,
    )


def run(instance: DagsterInstance, first: str, last: str, **config: Any) -> ExecuteInProcessResult:
    return execute(
        instance,
        RunRequest(
            tags={RANGE_START: first, RANGE_END: last},
            run_config={"ops": {"webhook_subscriptions": {"config": config}}},
        ),
    )


def said(result: ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """What this run materialized: metadata by partition."""
    events = [
        e for e in result.all_events if e.event_type is DagsterEventType.ASSET_MATERIALIZATION
    ]
    found = [event.step_materialization_data.materialization for event in events]
    return {str(m.partition): {k: v.value for k, v in m.metadata.items()} for m in found}


def red(instance: DagsterInstance) -> set[str]:
    """The failed partitions, as Dagster's UI shows them."""
    value = get_and_update_asset_status_cache_value(instance, SUBSCRIPTIONS, organizations)
    assert value is not None
    return set(value.deserialize_failed_partition_subsets(organizations).get_partition_keys())


def failure_text(result: ExecuteInProcessResult) -> str:
    (failure,) = [e for e in result.all_events if e.event_type is DagsterEventType.STEP_FAILURE]
    return str(failure.step_failure_data.user_failure_data)


def scheduled(instance: DagsterInstance) -> Any:
    context = build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 11, 24, 10, 30, tzinfo=UTC)
    )
    return realtime.hourly_subscription_check(context, shopsync=ShopsyncResource())


def spans(runs: Any) -> list[tuple[str, str]]:
    assert isinstance(runs, list)
    return [(each.tags[RANGE_START], each.tags[RANGE_END]) for each in runs]


def request_of(world: World, organization: str) -> str:
    return transact(
        world.engine.pool,
        lambda conn: requests.file(conn, kind="realtime", organization_id=organization),
    )


def answered(world: World, request_id: str) -> SyncRequest:
    request = transact(world.engine.pool, lambda conn: requests.get(conn, request_id))
    assert request is not None
    return request


def pause(world: World, organization: str) -> None:
    transact(
        world.engine.pool,
        lambda conn: integrations.pause(
            conn, organization_id=organization, shop=f"{organization}.myshopify.com"
        ),
    )


def test_each_organization_of_a_range_is_materialized_with_what_was_done(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    stores["bee"].change(scopes=["read_customers"])
    result = run(instance, "ant", "dog")
    assert result.success
    found = said(result)
    assert set(found) == set(NAMES)
    assert found["ant"]["topics on"] == found["ant"]["created"] == len(TOPICS)
    assert found["ant"]["updated"] == found["ant"]["removed"] == 0
    assert found["bee"]["stores"] == (
        "- bee.myshopify.com: on; not subscribed: CUSTOMERS_MERGE needs read_customer_merge"
    )
    assert "customers/redact" in found["ant"]["set in the app's own configuration"]
    assert len(stores["cat"].subscriptions) == len(TOPICS)


def test_a_second_run_changes_nothing_and_says_so(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    run(instance, "ant", "ant")
    metadata = said(run(instance, "ant", "ant"))["ant"]
    assert (metadata["created"], metadata["updated"], metadata["removed"]) == (0, 0, 0)
    assert (metadata["topics on"], metadata["API requests"]) == (len(TOPICS), 1)


def test_exactly_the_organizations_of_broken_stores_fail(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    stores["bee"].fault("status", status=401, times=None)
    result = run(instance, "ant", "dog")
    assert not result.success
    assert set(said(result)) == {"ant", "cat", "dog"}
    assert red(instance) == {"bee"}
    assert "1 without the webhooks" in failure_text(result)
    assert "bee: bee.myshopify.com: Shopify refused the access token" in failure_text(result)
    stores["bee"].clear_faults()
    assert run(instance, "bee", "bee").success
    assert red(instance) == set()


def test_a_check_says_only_what_it_changed(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    run(instance, "ant", "cat")
    dropped = stores["bee"].subscriptions[0]
    stores["bee"].unsubscribe(dropped["id"])
    found = said(run(instance, "ant", "dog", action="check"))
    assert set(found) == {"bee"}
    assert (found["bee"]["created"], found["bee"]["topics on"]) == (1, len(TOPICS))
    assert stores["dog"].subscriptions == []
    assert said(run(instance, "ant", "dog", action="check")) == {}
    assert red(instance) == set()


def test_a_check_that_fails_for_one_store_paints_no_other_red(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    """A failed run shows all of its range as failed that it did not materialize."""
    run(instance, "ant", "cat")
    stores["bee"].fault("status", status=401, times=None)
    assert not run(instance, "ant", "dog", action="check").success
    assert red(instance) == {"bee"}
    again = run(instance, "ant", "dog", action="check")
    assert again.success  # put off, as its pull is
    assert said(again) == {}
    assert red(instance) == {"bee"}


def test_a_paused_store_is_not_told_as_one_whose_webhooks_were_turned_on(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    run(instance, "ant", "ant")
    for name in ("ant", "bee"):
        pause(world, name)
    second = world.connect("bee", "second.myshopify.com", scopes=["read_customers"])
    request = request_of(world, "bee")
    result = run(instance, "ant", "bee", request_ids=[request])
    assert result.success
    assert set(said(result)) == {"ant"}
    assert second.subscriptions
    assert answered(world, request).status == "succeeded"


def test_turned_off_is_materialized_too(instance: DagsterInstance, stores: dict[str, Any]) -> None:
    run(instance, "ant", "ant")
    found = said(run(instance, "ant", "ant", action="disable"))["ant"]
    assert (found["removed"], found["topics on"]) == (len(TOPICS), 0)
    assert found["stores"] == "- ant.myshopify.com: off"
    assert stores["ant"].subscriptions == []


def test_a_request_is_answered_by_the_run(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    stores["bee"].fault("status", status=402, times=None)
    asked = {name: request_of(world, name) for name in ("ant", "bee")}
    result = run(instance, "ant", "bee", request_ids=list(asked.values()))
    good, bad = answered(world, asked["ant"]), answered(world, asked["bee"])
    assert (good.status, good.error, good.run_id) == ("succeeded", None, result.run_id)
    assert bad.status == "failed"
    assert "bee.myshopify.com: the store is frozen" in str(bad.error)


def test_a_request_for_an_organization_without_stores_says_so(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    instance.add_dynamic_partitions("organizations", ["gone"])
    request = request_of(world, "gone")
    assert run(instance, "gone", "gone", request_ids=[request]).success
    assert "gone: no active store" in str(answered(world, request).error)


def test_without_an_address_the_run_succeeds_and_the_request_names_the_setting(
    world: World,
    instance: DagsterInstance,
    stores: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(instance, "ant", "ant")
    monkeypatch.setenv("APP_URL", "")
    request = request_of(world, "bee")
    result = run(instance, "bee", "bee", request_ids=[request])
    assert result.success
    assert "APP_URL is not set" in said(result)["bee"]["stores"]
    failed = answered(world, request)
    assert failed.status == "failed"
    assert "APP_URL is not set" in str(failed.error)
    skipped = scheduled(instance)
    assert isinstance(skipped, SkipReason)
    assert "APP_URL is not set" in str(skipped.skip_message)


def test_the_hour_checks_ranges_of_those_that_have_real_time_sync(
    instance: DagsterInstance, stores: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(scheduled(instance), SkipReason)
    run(instance, "ant", "ant")
    run(instance, "cat", "dog")
    runs = scheduled(instance)
    assert spans(runs) == [("ant", "dog")]
    stores["cat"].unsubscribe(stores["cat"].subscriptions[0]["id"])
    assert set(said(execute(instance, runs[0]))) == {"cat"}
    assert stores["bee"].subscriptions == []
    monkeypatch.setenv("ORGS_PER_RUN", "2")
    assert spans(scheduled(instance)) == [("ant", "ant"), ("cat", "dog")]


def test_stores_that_are_put_off_are_no_reason_for_a_run(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    run(instance, "ant", "bee")
    stores["ant"].fault("status", status=401, times=None)
    run(instance, "ant", "ant", action="check")
    assert spans(scheduled(instance)) == [("bee", "bee")]


def test_the_schedule_runs_by_default_and_in_the_lane_of_pulls() -> None:
    assert realtime.hourly_subscription_check.default_status is DefaultScheduleStatus.RUNNING
    assert realtime.hourly_subscription_check.cron_schedule == "30 * * * *"
    assert defs.resolve_job_def("enable_realtime_sync").tags["shopsync/lane"] == "pull"
