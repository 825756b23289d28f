"""The demo as a user runs it: its own process, its own Postgres, a real Dagster."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
import requests

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.demo_traffic import STORES, DemoStore
from shopsync_pipeline.local import databases
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.world import differences, free_port, rows_of_organization

pytestmark = pytest.mark.deployment

ROUND_SECONDS = 170
EQUAL_SECONDS = 30


@pytest.fixture
def home() -> Iterator[Path]:
    """Below a folder that Postgres's own account may enter."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "home"


ELSEWHERE = """
DATABASE_URL=postgresql://nowhere/x
DAGSTER_POSTGRES_URL=postgresql+psycopg2://nowhere/x
SHOPIFY_ENDPOINT=http://127.0.0.1:9/{shop}
"""


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """On ports of its own: another test may run a demo at the same time. Beside the `.env` of a
    deployment, which it must not touch."""
    (home.parent / ".env").write_text(ELSEWHERE)
    environ = {
        **os.environ,
        "SHOPSYNC_HOME": str(home),
        "RECEIVER_PORT": str(free_port()),
        "DAGSTER_WEBSERVER_PORT": str(free_port()),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "shopsync_pipeline.cli", "demo", *arguments],
        env=environ,
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], line: str) -> str:
    """What it printed up to `line`; fails with all of it when the process ends before."""
    guard = threading.Timer(ROUND_SECONDS, process.kill)
    guard.start()
    printed = ""
    assert process.stdout is not None
    for text in process.stdout:
        printed += text
        if line in text:
            guard.cancel()
            return printed
    guard.cancel()
    raise AssertionError(printed)


def processes_below(home: Path) -> list[str]:
    """Command lines of what still runs with this home in its environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"SHOPSYNC_HOME={home}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def soon_equal(conn: Conn, store: DemoStore, simulator: str) -> bool:
    """Whether the table is seen equal to the store, which changes every second or two."""
    url = f"{simulator}/_control/stores/{store.shop}/customers"
    deadline = time.monotonic() + EQUAL_SECONDS
    while time.monotonic() < deadline:
        records = requests.get(url, timeout=30).json()
        rows = rows_of_organization(conn, store.organization)
        living = {number: row for number, row in rows.items() if row["deletedAt"] is None}
        found = list(differences(living, records))
        if not found:
            return True
    raise AssertionError(found)


def test_the_table_equals_the_stores_field_by_field_and_ctrl_c_stops_all(home: Path) -> None:
    demo = start(home)
    try:
        printed = read_until(demo, "Customers go on changing")
        assert printed.count("aurora-outdoor") == 3
        simulator = (home / "demo/logs/simulator.log").read_text().split("listening on ")[1].split()
        with databases(Settings(home=home / "demo")) as settings:  # shares the running server
            with psycopg.connect(settings.required_database_url(), autocommit=True) as conn:
                for store in STORES:
                    assert soon_equal(conn, store, simulator[0])
            demo.send_signal(signal.SIGINT)
            demo.wait(60)
    finally:
        demo.kill()
        demo.communicate()
    assert demo.returncode == 0
    assert processes_below(home / "demo") == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans only on Linux")
def test_a_demo_that_is_killed_leaves_no_dagster_behind(home: Path) -> None:
    """An orphaned webserver had held port 3001, and its daemon went on working, for hours."""
    demo = start(home)
    try:
        read_until(demo, "Receiver  ")
        assert processes_below(home / "demo")
    finally:
        demo.kill()
        demo.communicate()
    deadline = time.monotonic() + 60
    while processes_below(home / "demo") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_below(home / "demo") == []
    with databases(Settings(home=home / "demo")) as settings:  # takes its Postgres over, ends it
        assert settings.database_url is not None


def test_a_round_that_ends_wrong_exits_non_zero_with_the_reason(home: Path) -> None:
    home.mkdir()
    (home / "demo").write_text("not a folder")
    demo = start(home, "--once")
    printed, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "shopsync: " in printed
    assert str(home / "demo") in printed
