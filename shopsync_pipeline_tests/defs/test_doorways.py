"""What Dagster keeps of an exception that nobody expected: its kind and place, and no data."""

import json

import psycopg
import pytest
from dagster import DagsterEventType, DagsterInstance

from shopsync_pipeline.db import requests
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.requests import NewCredentials
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.errors import DatabaseTrouble, Fault
from shopsync_pipeline_tests.defs.test_customers_asset import run
from shopsync_pipeline_tests.world import World

SECRET = "shpat_canary"


def everything_kept(instance: DagsterInstance, run_id: str) -> str:
    return " ".join(str(entry) for entry in instance.all_logs(run_id))


def test_a_run_that_fails_by_what_nobody_expected_tells_kind_and_place_and_no_text(
    world: World, instance: DagsterInstance, conn: Conn, capfd: pytest.CaptureFixture[str]
) -> None:
    """`datetime.fromisoformat` quotes what it was given, here a part of sealed credentials."""
    instance.add_dynamic_partitions("organizations", ["acme"])
    sealed = world.engine.cipher.encrypt(json.dumps({"expires_at": SECRET}))
    bring = NewCredentials(shop="a.myshopify.com", name=None, sealed=str(sealed))
    request = requests.file(conn, kind="sync", organization_id="acme", bring=bring)
    result = run(instance, "acme", "acme", request_ids=[request])
    (failure,) = [e for e in result.all_events if e.event_type is DagsterEventType.STEP_FAILURE]
    told = str(failure.event_specific_data)
    assert "ValueError at shopsync_pipeline/db/credentials.py:" in told
    assert "in unseal" in told
    assert SECRET not in told
    assert SECRET not in everything_kept(instance, result.run_id)
    assert SECRET not in "".join(capfd.readouterr())


def test_a_tick_that_fails_tells_no_text_either(world: World, instance: DagsterInstance) -> None:
    with pytest.raises(Fault) as got, ShopsyncResource().connection():
        int(SECRET)
    assert SECRET not in str(got.value)
    assert got.value.__suppress_context__


def test_what_postgres_quotes_of_a_row_is_not_told(world: World, instance: DagsterInstance) -> None:
    with pytest.raises(DatabaseTrouble) as got, ShopsyncResource().connection() as conn:
        conn.execute("SELECT %s::bigint", [SECRET])
    assert isinstance(got.value.__context__, psycopg.DataError)
    assert SECRET in str(got.value.__context__)
    assert SECRET not in str(got.value)
    assert got.value.__suppress_context__
