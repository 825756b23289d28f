"""Runs of the asset `customer_metrics` in a real Dagster, and what the catalog tells of all."""

import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DefaultScheduleStatus,
    RunRequest,
    build_schedule_context,
    serialize_value,
)

from shopsync_pipeline.db import dictionary
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.defs.jobs import LANE
from shopsync_pipeline.defs.metrics import MOST_DRAWN, hourly_customer_metrics, measure_customers
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline_tests.world import World

METRICS = AssetKey("customer_metrics")
PLOTS = ("growth", "opt-in", "sync latency")
MOST_BYTES = 60_000


def measure(instance: DagsterInstance) -> dict[str, Any]:
    """A run of the job; the metadata it materialized with."""
    job = defs.resolve_job_def("measure_customers")
    assert job.execute_in_process(instance=instance).success
    event = instance.get_latest_materialization_event(METRICS)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: each.value for name, each in event.asset_materialization.metadata.items()}


def picture(markdown: str) -> ET.Element:
    found = re.match(r"!\[[^\]]+\]\(data:image/svg\+xml,([^\s()]+)\)", markdown)
    assert found is not None
    return ET.fromstring(unquote(found[1]))


def words(svg: ET.Element) -> list[str]:
    return [
        "".join(each.itertext()).strip() for each in svg.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_a_run_shows_growth_opt_in_and_latency_of_each_organization(
    world: World, instance: DagsterInstance
) -> None:
    for name, customers in [("ant", 20), ("bee", 30)]:
        world.connect(name, f"{name}.myshopify.com", customers=customers)
    world.sync("ant", "bee")
    world.connect("cat", "cat.myshopify.com")  # not synced yet
    told = measure(instance)
    assert (told["organizations"], told["rows of today"]) == (3, 3)
    for name in PLOTS:
        drawn = words(picture(told[name]))
        assert drawn.index("bee") < drawn.index("ant")  # the larger first
        assert len(told[name]) < MOST_BYTES
    assert any(word.startswith("30") for word in words(picture(told["growth"])))
    assert any(re.fullmatch(r"e-mail \d+\.\d%", w) for w in words(picture(told["opt-in"])))
    first, _, last = (each.data for each in told["largest organizations"].records)
    assert (first["organization"], first["customers"]) == ("bee", "30")
    assert re.fullmatch(r"[\d,]+\.\d\d USD", first["spend"])
    assert (last["organization"], last["spend"], last["hours since sync"]) == ("cat", "", "never")


def test_a_run_over_an_empty_database_succeeds_and_says_so(
    world: World, instance: DagsterInstance
) -> None:
    told = measure(instance)
    assert told["dagster/row_count"] == 0
    assert told["largest organizations"] == "no store is connected"


def test_a_store_that_was_never_synced_has_a_row_and_no_line(
    world: World, instance: DagsterInstance
) -> None:
    world.connect("ant", "ant.myshopify.com")
    told = measure(instance)
    assert "nothing measured yet" in words(picture(told["sync latency"]))
    assert told["largest organizations"].records[0].data["hours since sync"] == "never"


def test_of_many_organizations_the_ten_largest_are_drawn_and_the_event_stays_small(
    world: World, instance: DagsterInstance
) -> None:
    with world.engine.pool.connection() as conn:
        conn.execute(
            """INSERT INTO integrations ("organizationId", "name", "shop")
               SELECT 'org' || n, 'n', 'org' || n || '.myshopify.com'
               FROM generate_series(1, 12) n;
               INSERT INTO customer_metrics ("organizationId", "day", "currency", "newCustomers",
                 "changedCustomers", "deletedCustomers", "customers", "spend", "emailOptIns",
                 "smsOptIns", "hoursSinceSync", "webhookLagSeconds", "pullLagSeconds", "measuredAt")
               SELECT 'org' || o, current_date - d, 'EUR', d % 7, 5, d % 3, 1000 * o - 7 * d, 10,
                 400 * o + d % 9, 100 * o, 0.3, 0.05 + d % 5 / 50.0, 900 + 40 * (d % 11), now()
               FROM generate_series(1, 12) o, generate_series(1, 89) d"""
        )
    told = measure(instance)
    assert told["organizations"] == 12
    for name in PLOTS:
        assert "2 smaller organizations are not drawn." in told[name]
        assert sum(word.startswith("org") for word in words(picture(told[name]))) == MOST_DRAWN
        assert len(told[name]) < MOST_BYTES
    event = instance.get_latest_materialization_event(METRICS)
    assert event is not None
    assert len(serialize_value(event)) < 2 * MOST_BYTES


def test_every_hour_after_the_sync_has_one_run_that_takes_no_lane(
    world: World, instance: DagsterInstance
) -> None:
    assert hourly_customer_metrics.default_status is DefaultScheduleStatus.RUNNING
    assert hourly_customer_metrics.cron_schedule == "15 * * * *"
    at = datetime(2026, 11, 24, 10, 15, tzinfo=UTC)
    context = build_schedule_context(instance=instance, scheduled_execution_time=at)
    request = hourly_customer_metrics(context, shopsync=ShopsyncResource())
    assert isinstance(request, RunRequest)
    assert request.run_key == "2026-11-24T10:15"
    assert LANE not in {**request.tags, **(measure_customers.tags or {})}


def test_whoever_loads_the_code_location_needs_neither_pandas_nor_matplotlib() -> None:
    """A process of every run does that, also of those that wait for a webhook."""
    loaded = "{'pandas', 'matplotlib'} & {*sys.modules}"
    code = f"import sys, shopsync_pipeline.definitions; print({loaded})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("key", sorted(defs.resolve_asset_graph().get_all_asset_keys()))
def test_every_asset_has_an_owner_a_kind_a_description_and_a_link_or_a_table(key: AssetKey) -> None:
    node = defs.resolve_asset_graph().get(key)
    assert all(re.fullmatch(r"team:\w+", owner) for owner in node.owners)
    assert node.owners
    assert node.kinds
    assert node.description
    assert {"at Shopify", "dagster/table_name"} & set(node.metadata)


@pytest.mark.parametrize(
    ("name", "columns"),
    [("customers", dictionary.CUSTOMERS), ("customer_metrics", dictionary.CUSTOMER_METRICS)],
)
def test_dagsters_catalog_tells_of_each_column_what_the_dictionary_does(
    name: str, columns: tuple[dictionary.Column, ...]
) -> None:
    metadata = defs.resolve_asset_graph().get(AssetKey(name)).metadata
    schema = metadata["dagster/column_schema"]
    assert [(c.name, c.type, c.description) for c in schema.columns] == [
        (c.name, c.type, c.told) for c in columns
    ]
