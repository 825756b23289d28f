"""What all tests share: one embedded Postgres a session, a database a test, a store over HTTP."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from cryptography.fernet import Fernet

from shopify_simulator.server import Simulator, running_simulator
from shopsync_pipeline.db import roles, schema
from shopsync_pipeline.db.engine import Conn, Pool, connect, open_pool
from shopsync_pipeline.db.server import ServerAddress, embedded_server
from shopsync_pipeline_tests.world import World

OWNER = "shopsync"
PASSWORD = "owner"
UNSAFE_BUT_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def server() -> Iterator[ServerAddress]:
    """Below a folder that Postgres's own account may enter, which pytest's is not for root."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with embedded_server(Path(folder) / "postgres", options=UNSAFE_BUT_FAST) as address:
            yield address


@pytest.fixture(scope="session")
def migrated(server: ServerAddress) -> str:
    """The name of a database with all tables, from which each test's is cloned."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        roles.create_owner(conn, name=OWNER, password=PASSWORD)
    schema.upgrade(owner_url(server, OWNER))
    return OWNER


@pytest.fixture
def database_url(server: ServerAddress, migrated: str) -> Iterator[str]:
    """A fresh database with all tables, as their owner, who is no superuser."""
    with fresh_database(server, migrated) as url:
        yield url


@contextmanager
def fresh_database(server: ServerAddress, migrated: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as conn:
        # Files are copied: without fsync the checkpoint for it costs less than logging every page.
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {migrated} OWNER {OWNER} STRATEGY FILE_COPY")
        yield owner_url(server, name)
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


_numbers = itertools.count(1)


def owner_url(server: ServerAddress, database: str) -> str:
    return f"postgresql://{OWNER}:{PASSWORD}@{server.host}:{server.port}/{database}"


@pytest.fixture
def conn(database_url: str) -> Iterator[Conn]:
    with connect(database_url) as connection:
        yield connection


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with open_pool(database_url, size=8) as opened:
        yield opened


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def world(simulator: Simulator, database_url: str, tmp_path: Path) -> Iterator[World]:
    """Stores, a database and the engine between them; time stands at NOW until it is moved."""
    with fresh_world(simulator, database_url, tmp_path) as opened:
        yield opened


@contextmanager
def fresh_world(simulator: Simulator, database_url: str, folder: Path) -> Iterator[World]:
    simulator.clock.set(datetime.now(UTC).replace(microsecond=0))
    environ = {
        "SHOPSYNC_HOME": str(folder),
        "DATABASE_URL": database_url,
        "SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "SHOPIFY_ENDPOINT": simulator.endpoint,
    }
    with World.opened(simulator, environ) as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many histories there were, from which seed, and how many shards of them ended wrong."""
    passed, failed = (terminalreporter.getreports(end) for end in ("passed", "failed"))
    told = [
        value
        for report in (*passed, *failed)
        for name, value in report.user_properties
        if name == "histories"
    ]
    if told:
        count, seed = sum(done for done, _ in told), told[0][1]
        wrong = sum("test_histories.py" in report.nodeid for report in failed)
        terminalreporter.write_line(f"{count:,} histories, seed {seed}, {wrong} differences")
