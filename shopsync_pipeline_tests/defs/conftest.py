"""A Dagster instance of the project's own dagster.yaml, on a Postgres of its own."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from dagster import DagsterInstance

from shopsync_pipeline.db import roles
from shopsync_pipeline.db.engine import dagster_url
from shopsync_pipeline.db.server import ServerAddress
from shopsync_pipeline_tests.world import World

PROJECT = Path(__file__).parents[2]
_numbers = itertools.count(1)


@pytest.fixture
def instance(
    world: World, server: ServerAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DagsterInstance]:
    """As in a deployment, with the world's environment; storage is dagster-postgres."""
    name = f"dagster_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
        home = tmp_path / "dagster"
        home.mkdir()
        (home / "dagster.yaml").symlink_to(PROJECT / "dagster.yaml")
        for variable, value in world.environ.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_url(server.url(name)))
        with DagsterInstance.get() as opened:
            yield opened
        roles.drop_databases(conn, name)
