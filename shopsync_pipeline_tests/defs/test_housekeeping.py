"""The nightly job against a real Dagster: what goes, what stays, and that nothing is told otherwise
by what the UI asks."""

import os
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    build_schedule_context,
)
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from shopsync_pipeline.db.engine import libpq_url
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.defs.checks import SPECS
from shopsync_pipeline.defs.housekeeping import nightly_housekeeping
from shopsync_pipeline.defs.partitions import organizations
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.defs.schedules import RANGE_END, RANGE_START
from shopsync_pipeline_tests.world import World

CUSTOMERS = AssetKey("customers")
NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def stores(
    world: World, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setenv("WEBHOOK_LINGER_SECONDS", "0")
    instance.add_dynamic_partitions("organizations", NAMES)
    return {name: world.connect(name, f"{name}.myshopify.com", customers=3) for name in NAMES}


def sync(instance: DagsterInstance, first: str, last: str) -> str:
    """A run over a range; its id."""
    return (
        defs.resolve_job_def("sync_customers")
        .execute_in_process(
            instance=instance,
            tags={RANGE_START: first, RANGE_END: last},
            raise_on_error=False,
        )
        .run_id
    )


def drain(world: World, instance: DagsterInstance, organization: str, customer: Any) -> str:
    """A run of the drain that has one event to report; its id."""
    number = int(customer["legacyResourceId"])
    world.hear(organization, "customers/update", {"id": number})
    job = defs.resolve_job_def("apply_webhooks")
    return job.execute_in_process(instance=instance).run_id


def keep_house(instance: DagsterInstance) -> dict[str, Any]:
    """A run of the job; its figures."""
    result = defs.resolve_job_def("housekeeping").execute_in_process(instance=instance)
    (output,) = [e for e in result.all_events if e.event_type is DagsterEventType.STEP_OUTPUT]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def in_dagster(statement: str, *arguments: Any) -> list[Any]:
    url = libpq_url(os.environ["DAGSTER_POSTGRES_URL"])
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(statement, arguments)
        return cursor.fetchall() if cursor.description else []


def days_pass(days: int) -> None:
    """All that Dagster has was that much earlier."""
    for table, column in [("runs", "update_timestamp"), ("event_logs", "timestamp")]:
        in_dagster(f"UPDATE {table} SET {column} = {column} - make_interval(days => %s)", days)


def told(instance: DagsterInstance) -> dict[str, Any]:
    """What the UI tells of `customers`, reckoned anew from what is stored."""
    in_dagster("UPDATE asset_keys SET cached_status_data = NULL")
    return {
        **statuses(instance),
        "latest of each": instance.event_log_storage.get_latest_storage_id_by_partition(
            CUSTOMERS, DagsterEventType.ASSET_MATERIALIZATION
        ),
        "latest": instance.get_latest_materialization_event(CUSTOMERS),
        "checks": instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [spec.key for spec in SPECS]
        ),
    }


def statuses(instance: DagsterInstance) -> dict[str, set[str]]:
    """The partitions by status, from Dagster's cache where it has one."""
    value = get_and_update_asset_status_cache_value(instance, CUSTOMERS, organizations)
    assert value is not None
    subsets = {
        "materialized": value.deserialize_materialized_partition_subsets(organizations),
        "failed": value.deserialize_failed_partition_subsets(organizations),
        "in progress": value.deserialize_in_progress_partition_subsets(organizations),
    }
    return {name: set(subset.get_partition_keys()) for name, subset in subsets.items()}


def runs(instance: DagsterInstance) -> set[str]:
    """All but those of the job itself."""
    return {run.run_id for run in instance.get_runs() if run.job_name != "housekeeping"}


def events(kind: str) -> list[str | None]:
    """The partitions of all events of this kind of `customers`."""
    rows = in_dagster(
        """SELECT partition FROM event_logs WHERE asset_key = '["customers"]'
           AND dagster_event_type = %s ORDER BY 1""",
        kind,
    )
    return [row[0] for row in rows]


def test_a_run_stays_while_it_has_a_partitions_last_word_and_then_goes(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    whole = sync(instance, "ant", "cat")
    stores["bee"].fault("status", status=401, times=None)
    red = sync(instance, "ant", "cat")  # the last word of bee, which is red, and of cat
    ant = sync(instance, "ant", "ant")  # and of the checks
    days_pass(40)
    before = told(instance)
    assert before["failed"] == {"bee"}
    assert keep_house(instance)["runs deleted"] == 0
    assert told(instance) == before

    stores["bee"].clear_faults()
    bee = sync(instance, "bee", "bee")
    before, cached = told(instance), statuses(instance)
    assert keep_house(instance)["runs deleted"] == 1  # whole
    assert statuses(instance) == cached
    assert told(instance) == before
    assert before["failed"] == set()
    assert runs(instance) == {red, ant, bee}
    assert in_dagster("SELECT FROM event_logs WHERE run_id = %s", whole) == []
    assert in_dagster("SELECT FROM asset_check_executions WHERE run_id = %s", whole) == []


def test_young_runs_stay_though_others_have_replaced_them(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    several = {sync(instance, "ant", "cat") for _ in range(3)}
    days_pass(29)
    keep_house(instance)
    assert runs(instance) == several


def test_an_old_run_that_is_not_finished_keeps_all_it_has(
    instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    active = sync(instance, "ant", "cat")
    in_dagster("UPDATE runs SET status = 'STARTED' WHERE run_id = %s", active)
    sync(instance, "ant", "cat")
    sync(instance, "ant", "cat")
    days_pass(40)
    before = in_dagster("SELECT id FROM event_logs WHERE run_id = %s ORDER BY id", active)
    assert keep_house(instance)["runs deleted"] == 1
    assert active in runs(instance)
    after = in_dagster("SELECT id FROM event_logs WHERE run_id = %s ORDER BY id", active)
    assert after == before


def test_of_superseded_plans_and_reports_of_a_week_ago_the_last_is_left(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    for _ in range(3):
        sync(instance, "ant", "cat")
    customer = stores["ant"].customers()[0]
    drains = [drain(world, instance, "ant", customer) for _ in range(3)]
    last = sync(instance, "ant", "cat")
    before, several = told(instance), runs(instance)
    keep_house(instance)
    assert len(events("ASSET_MATERIALIZATION_PLANNED")) == 12

    days_pass(8)
    keep_house(instance)
    assert told(instance) == before
    assert runs(instance) == several
    assert events("ASSET_MATERIALIZATION_PLANNED") == NAMES
    assert events("ASSET_OBSERVATION") == [None]  # what the last run has cost
    assert events("ASSET_MATERIALIZATION") == sorted(NAMES * 4)  # of the pulls: their history
    observed = in_dagster(
        """SELECT run_id FROM event_logs WHERE dagster_event_type = 'ASSET_OBSERVATION'
           AND asset_key = '["webhook_events"]'"""
    )
    assert observed == [(drains[-1],)]
    assert {run.run_id: run.status for run in instance.get_runs()}[last] is DagsterRunStatus.SUCCESS


def test_the_drains_last_materialization_of_a_partition_stays(
    world: World, instance: DagsterInstance, stores: dict[str, Any]
) -> None:
    sync(instance, "ant", "cat")
    customer = stores["ant"].customers()[0]
    for _ in range(3):
        drain(world, instance, "ant", customer)
    days_pass(40)
    before = told(instance)
    keep_house(instance)
    assert told(instance) == before
    assert events("ASSET_MATERIALIZATION") == ["ant", "ant", "bee", "cat"]


def test_requests_answered_long_ago_go_and_open_ones_stay(
    world: World, instance: DagsterInstance
) -> None:
    with world.engine.pool.connection() as conn:
        conn.execute(
            """
            INSERT INTO sync_requests ("kind", "organizationId", "status", "requestedAt",
                                       "finishedAt")
            VALUES ('sync', 'old', 'succeeded', now() - interval '92 days',
                    now() - interval '91 days'),
                   ('sync', 'young', 'failed', now() - interval '92 days',
                    now() - interval '89 days'),
                   ('sync', 'open', 'queued', now() - interval '92 days', NULL)
            """
        )
    assert keep_house(instance)["requests deleted"] == 1
    with world.engine.pool.connection() as conn:
        rows = conn.execute('SELECT "organizationId" FROM sync_requests ORDER BY 1').fetchall()
    assert rows == [("open",), ("young",)]


def test_every_night_has_one_run(instance: DagsterInstance) -> None:
    context = build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 11, 24, 3, 17, tzinfo=UTC)
    )
    request = nightly_housekeeping(context, shopsync=ShopsyncResource())
    assert isinstance(request, RunRequest)
    assert request.run_key == "2026-11-24"
