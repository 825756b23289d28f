"""`deploy/backup.sh` and `deploy/restore.sh` on an embedded Postgres, as an operator runs them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from shopify_simulator.server import Simulator
from shopsync_pipeline import local
from shopsync_pipeline.db.binaries import programs_for
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.acceptance.deployment import dagster_instance
from shopsync_pipeline_tests.acceptance.leaks import found_in
from shopsync_pipeline_tests.world import World, differences

pytestmark = pytest.mark.deployment

ROOT = Path(__file__).parents[2]
SHOP = "a.myshopify.com"


@pytest.fixture
def environ(simulator: Simulator) -> Iterator[Mapping[str, str]]:
    """Of a deployment without a DATABASE_URL; Postgres's own account may enter its home."""
    simulator.clock.set(datetime.now(UTC).replace(microsecond=0))
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield {
            "SHOPSYNC_HOME": str(Path(folder) / "home"),
            "SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "SHOPIFY_ENDPOINT": simulator.endpoint,
        }


@contextmanager
def opened(simulator: Simulator, environ: Mapping[str, str]) -> Iterator[tuple[World, Settings]]:
    """With the embedded Postgres, at this release, running meanwhile."""
    with local.databases(Settings.from_env(environ), migrate=True) as settings:
        url = settings.required_database_url()
        with World.opened(simulator, {**environ, "DATABASE_URL": url}) as world:
            yield world, settings


def script(name: str, environ: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "deploy" / name, folder],
        env={**os.environ, "PYTHON": sys.executable, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def shopsync(environ: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "shopsync_pipeline.cli", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def is_superuser(url: str) -> bool:
    with psycopg.connect(url) as conn:
        return conn.execute("SHOW is_superuser").fetchone() == ("on",)


def readable(dump: Path) -> bytes:
    restore = programs_for(None) / "pg_restore"
    return subprocess.run([restore, "--file=-", dump], capture_output=True, check=True).stdout


def living(world: World) -> dict[int, dict[str, Any]]:
    rows = world.rows("acme").items()
    return {shopify_id: row for shopify_id, row in rows if row["deletedAt"] is None}


def test_after_backup_wipe_restore_and_sync_the_table_equals_the_store(
    simulator: Simulator, environ: Mapping[str, str], tmp_path: Path
) -> None:
    home, backup = Path(environ["SHOPSYNC_HOME"]), tmp_path / "backup"
    with opened(simulator, environ) as (world, settings):
        store = world.connect("acme", SHOP, customers=300)
        assert world.sync_one("acme").state == "synced"
        partitions_added(settings)
        saved = script("backup.sh", environ, backup)
        assert saved.returncode == 0, saved.stderr
        assert "SHOPSYNC_ENCRYPTION_KEY" in saved.stdout
        secrets = {"token": store.access_token, "key": environ["SHOPSYNC_ENCRYPTION_KEY"]}
        for dump in backup.iterdir():
            assert [*found_in(readable(dump), secrets)] == []
            assert dump.stat().st_mode & 0o077 == 0
        again = script("backup.sh", environ, backup)
        assert (again.returncode, "is there already" in again.stderr) == (1, True)
        full = script("restore.sh", environ, backup)
        assert (full.returncode, "is not empty" in full.stderr) == (1, True)
        assert is_superuser(shopsync(environ, "db", "url", "--admin"))

    first, second, third, *_ = (int(each["legacyResourceId"]) for each in store.customers())
    simulator.clock.advance(timedelta(hours=3).total_seconds())
    store.edit(first, note="after the backup")
    store.create(firstName="New")
    store.delete(third)
    shutil.rmtree(home / "postgres")

    with local.alone(Settings.from_env(environ)):
        busy = script("restore.sh", environ, backup)
    assert (busy.returncode, "is at work" in busy.stderr) == (1, True)
    for name in ("shopsync", "dagster"):
        broken = script("restore.sh", environ, cut_short(backup, tmp_path / "broken", name))
        assert (broken.returncode, "Nothing was changed" in broken.stderr) == (1, True)
    restored = script("restore.sh", environ, backup)  # into what is empty still
    assert restored.returncode == 0, restored.stderr
    with opened(simulator, environ) as (world, settings):
        assert second in living(world)
        assert world.sync_one("acme").state == "synced"
        assert third in living(world)  # no pull is told of deletions, so a reconcile is advised
        world.reconcile("acme")
        assert [*differences(living(world), store.customers())] == []
        assert partitions(settings) == ["acme"]


def cut_short(backup: Path, copy: Path, name: str) -> Path:
    """The same, but one dump ends within its rows."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(backup, copy)
    dump = copy / f"{name}.dump"
    dump.write_bytes(dump.read_bytes()[:-100])
    return copy


def partitions_added(settings: Settings) -> None:
    with dagster_instance(local.environment(settings)) as instance:
        instance.add_dynamic_partitions("organizations", ["acme"])


def partitions(settings: Settings) -> list[str]:
    with dagster_instance(local.environment(settings)) as instance:
        return [*instance.get_dynamic_partitions("organizations")]
