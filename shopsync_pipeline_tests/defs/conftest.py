"""A Dagster instance of the project's own dagster.yaml, on a Postgres of its own."""

import gc
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
TEMPLATE = "dagster_template"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").symlink_to(PROJECT / "dagster.yaml")
    return home


@pytest.fixture(scope="session")
def dagster_template(server: ServerAddress, dagster_home: Path) -> str:
    """The name of a database with Dagster's tables, from which each test's is cloned."""
    with (
        psycopg.connect(server.url(), autocommit=True) as conn,
        pytest.MonkeyPatch.context() as env,
    ):
        conn.execute(f"CREATE DATABASE {TEMPLATE}")
        env.setenv("DAGSTER_HOME", str(dagster_home))
        env.setenv("DAGSTER_POSTGRES_URL", dagster_url(server.url(TEMPLATE)))
        with DagsterInstance.get() as instance:
            assert instance.get_runs() == []
    return TEMPLATE


@pytest.fixture
def instance(
    world: World,
    server: ServerAddress,
    dagster_home: Path,
    dagster_template: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[DagsterInstance]:
    """As in a deployment, with the world's environment; storage is dagster-postgres.

    A context of an evaluation, when it is collected, makes that instance's storage the current one
    again under which it was made. Those of earlier tests go now, not while this instance is open.
    """
    gc.collect()
    name = f"dagster_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {dagster_template}")
        for variable, value in world.environ.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", dagster_url(server.url(name)))
        with DagsterInstance.get() as opened:
            yield opened
        roles.drop_databases(conn, name)
