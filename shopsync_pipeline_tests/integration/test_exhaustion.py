"""The receiver while something runs out: descriptors, connections of Postgres, room on a disk.

Here it is a process of its own, with limits of its own; small disks are tmpfs mounts, for which
one must be root on Linux.
"""

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from shopsync_pipeline.db import schema
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.db.server import revive
from shopsync_pipeline.errors import DatabaseTrouble
from shopsync_pipeline_tests.acceptance.deployment import wait_for
from shopsync_pipeline_tests.integration.test_receiver import (
    SHOP,
    Receiver,
    environ_of,
    receiver_for,
)
from shopsync_pipeline_tests.integration.test_receiver_trouble import (
    CUT_OFF,
    Server,
    address_of,
    delivery,
    is_well_again,
    statuses,
)
from shopsync_pipeline_tests.world import free_port
from webhook_receiver.lines import once

pytestmark = pytest.mark.faults


MEBIBYTE = 1024 * 1024
FILL_WAL = "SELECT pg_logical_emit_message(true, 'x', repeat('x', 1000000), true)"
RECEIVED = f"Received customers/update from {SHOP}"


def started(environ: dict[str, str], output: Path, ulimit: str) -> subprocess.Popen[bytes]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with output.open("wb") as out:
        return subprocess.Popen(
            ["/bin/sh", "-c", f'ulimit {ulimit} && exec "$0" -m webhook_receiver', sys.executable],
            env={**kept, **environ},
            stdout=out,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def process_of(
    environ: dict[str, str], conn: Conn, output: Path, ulimit: str = "-Sn 1024"
) -> Iterator[Receiver]:
    """The receiver as a process below the shell's `ulimit`, with a store; `conn` is the owner's."""
    port = free_port()
    with started(environ | {"RECEIVER_PORT": str(port)}, output, ulimit) as process:
        it = Receiver(
            f"http://127.0.0.1:{port}", conn, Cipher((environ["SHOPSYNC_ENCRYPTION_KEY"],))
        )
        try:
            wait_for(lambda: listens(it), 60, f"a receiver; see {output}")
            it.connect_store()
            yield it
            assert process.poll() is None
        finally:
            process.kill()


def listens(receiver: Receiver) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address_of(receiver)) == 0


# Descriptors


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """For this process, whose connections are counted too."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_idle_connections_below_a_shells_limit_of_256_hold_up_nobody(
    database_url: str, conn: Conn, tmp_path: Path
) -> None:
    environ = environ_of(database_url, tmp_path)
    with (
        process_of(environ, conn, tmp_path / "out", "-Sn 256") as receiver,
        ExitStack() as stack,
    ):
        for _ in range(1000):
            client = stack.enter_context(socket.create_connection(address_of(receiver)))
            assert is_alive(client)
        for _ in range(20):
            assert statuses(receiver, 1) == {200}


def test_connections_above_what_descriptors_allow_are_503_and_those_before_them_are_served(
    database_url: str, conn: Conn, tmp_path: Path
) -> None:
    """asyncio's own loop would log thousands of lines a second where it can accept no more."""
    environ = environ_of(database_url, tmp_path)
    with process_of(environ, conn, tmp_path / "out", "-n 256") as receiver:
        with ExitStack() as stack:

            def connected() -> socket.socket:
                address = address_of(receiver)
                return stack.enter_context(socket.create_connection(address, timeout=10))

            served = []
            while is_alive(client := connected()):
                served.append(client)
            assert 100 < len(served) < 200
            refused = [connected() for _ in range(50)]  # in one go, as asyncio accepts them
            for client in refused:
                answer = b"".join(iter(lambda client=client: client.recv(4000), b""))  # type: ignore[misc]
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: 5" in answer
            for client in served[:20]:
                client.sendall(delivery())
                assert client.recv(4000).startswith(b"HTTP/1.1 200 ")
        assert is_well_again(receiver)
    assert (tmp_path / "out").read_text().count("\n") == 1 + len(receiver.rows())


def is_alive(client: socket.socket) -> bool:
    """Whether the receiver serves this connection; it stays open."""
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = client.recv(4000)
    while answer and b"}" not in answer:
        answer += client.recv(4000)
    return answer.startswith(b"HTTP/1.1 200")


def test_too_few_descriptors_for_any_service_are_a_refusal_to_start(
    database_url: str, tmp_path: Path
) -> None:
    with started(environ_of(database_url, tmp_path), tmp_path / "out", "-n 128") as process:
        assert process.wait(60) == 1
    assert "(ulimit -n)" in (tmp_path / "out").read_text()


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """To this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", [0, 1])
def test_no_descriptor_for_a_connection_to_postgres_is_trouble_of_the_database(
    database_url: str, count: int
) -> None:
    """A connection needs one, and one more to be cut off by."""
    with descriptors_left(count), pytest.raises(DatabaseTrouble):
        once(database_url, schema.check)


# Postgres


@pytest.fixture
def folder() -> Iterator[Path]:
    """Which Postgres's own account may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def postgres(directory: Path, **options: str) -> Iterator[Server]:
    server = Server(directory, **options)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def small_disk(mebibytes: int) -> Iterator[Path]:
    """A file system of its own, of that size."""
    with tempfile.TemporaryDirectory() as name:
        size = f"size={mebibytes}m,mode=0755"
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", size, "tmpfs", name], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a small disk cannot be mounted here: {error}")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """To the last byte, until the block ends."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (MEBIBYTE, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        filler.unlink()


def test_a_postgres_full_of_others_connections_is_503_and_then_well_again(folder: Path) -> None:
    with (
        postgres(folder / "postgres", max_connections="16", fsync="off") as server,
        connect(server.owner) as conn,
        receiver_for(environ_of(server.owner, folder), conn) as receiver,
    ):
        receiver.connect_store()
        assert statuses(receiver, 16) == {200}
        with ExitStack() as others:
            server.admin(CUT_OFF)
            with suppress(psycopg.OperationalError):
                while True:
                    others.enter_context(psycopg.connect(server.owner))
            assert statuses(receiver, 16) == {503}
            assert receiver.ask("GET", "/healthz").status_code == 200
        assert is_well_again(receiver)


def test_what_was_answered_before_and_while_the_disk_of_postgres_is_full_is_there_afterwards(
    folder: Path,
) -> None:
    with (
        small_disk(150) as disk,
        postgres(disk / "postgres", max_wal_size="32MB") as server,
        connect(server.owner) as conn,
        receiver_for(environ_of(server.owner, folder), conn) as receiver,
    ):
        receiver.connect_store()
        answers = [receiver.deliver(os.urandom(200_000)).status_code for _ in range(5)]
        with filled(disk):
            answers += [receiver.deliver(os.urandom(200_000)).status_code for _ in range(20)]
            assert set(answers[5:]) <= {200, 503}
            assert answers[-1] == 503
        assert len(receiver.rows()) == answers.count(200)
        assert is_well_again(receiver)


def test_a_postgres_that_died_of_a_full_disk_lost_nothing_and_the_receiver_finds_it_again(
    folder: Path,
) -> None:
    """It panics where no new file of its write-ahead log can be begun, and ends where it cannot
    recover either."""
    with (
        small_disk(150) as disk,
        postgres(disk / "postgres", max_wal_size="32MB", min_wal_size="32MB") as server,
        ExitStack() as before,
        receiver_for(
            environ_of(server.owner, folder), before.enter_context(connect(server.owner))
        ) as receiver,
    ):
        receiver.connect_store()
        answers = [receiver.deliver().status_code for _ in range(5)]
        with filled(disk):
            with pytest.raises(psycopg.OperationalError, match="No space left"):
                server.admin(*[FILL_WAL] * 100)
            answers += [receiver.deliver().status_code for _ in range(5)]
            assert answers == [200] * 5 + [503] * 5
        wait_for(lambda: revive(server.directory) or is_up(receiver), 30, "Postgres again")
        assert is_well_again(receiver)
        with connect(server.owner) as conn:
            ((stored,),) = conn.execute("SELECT count(*) FROM webhook_events").fetchall()
        assert stored >= 5


def is_up(receiver: Receiver) -> bool:
    return receiver.deliver().status_code == 200


# The disk of the logs


def test_a_full_disk_of_the_logs_loses_lines_and_no_delivery(
    database_url: str, conn: Conn, tmp_path: Path
) -> None:
    with small_disk(1) as disk:
        environ, log = environ_of(database_url, disk), disk / "logs" / "receiver.log"
        with process_of(environ, conn, disk / "out") as receiver:
            with filled(disk):
                assert [receiver.deliver().status_code for _ in range(100)] == [200] * 100
            full = log.read_text().count(RECEIVED)
            assert full < 100
            assert receiver.deliver().status_code == 200
            assert log.read_text().count(RECEIVED) > full
        with filled(disk), process_of(environ, conn, tmp_path / "out") as receiver:
            assert receiver.deliver().status_code == 200
        assert len(receiver.rows()) == 102


def test_a_folder_of_logs_that_was_moved_away_fails_no_delivery(
    database_url: str, conn: Conn, tmp_path: Path
) -> None:
    with process_of(environ_of(database_url, tmp_path), conn, tmp_path / "out") as receiver:
        shutil.rmtree(tmp_path / "logs")
        assert statuses(receiver, 16) == {200}
        (tmp_path / "logs").mkdir()
        assert receiver.deliver().status_code == 200
    assert RECEIVED in (tmp_path / "logs" / "receiver.log").read_text()
