"""The receiver while Postgres or its clients misbehave: in time, never a false 200, and well again.

The Postgres is one of its own, for it is stopped and halted here.
"""

import asyncio
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from shopsync_pipeline.db import roles, schema
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.db.server import ServerAddress, embedded_server
from shopsync_pipeline_tests.integration.test_receiver import (
    BODY,
    SHOP,
    WEBHOOKS,
    Receiver,
    environ_of,
    receiver_for,
    signature,
)
from webhook_receiver.lines import LINES, Lines
from webhook_receiver.verify import Unverified

pytestmark = pytest.mark.faults


FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
IN_TIME = 2.0
WELL_AGAIN = 5.0


class Server:
    """A Postgres of its own, that can be halted, stopped and started."""

    def __init__(self, directory: Path, **options: str) -> None:
        """`options` are settings of Postgres; where none is given, fast ones that are not safe."""
        self.directory = directory
        self._options = options or FAST
        self._running = ExitStack()
        self.address = self.start()
        with psycopg.connect(self.address.url(), autocommit=True) as conn:
            roles.create_owner(conn, name="shopsync", password="owner")
        schema.upgrade(self.owner)

    @property
    def owner(self) -> str:
        return f"postgresql://shopsync:owner@127.0.0.1:{self.address.port}/shopsync"

    def start(self) -> ServerAddress:
        return self._running.enter_context(embedded_server(self.directory, options=self._options))

    def stop(self) -> None:
        self._running.close()

    def admin(self, *statements: str) -> None:
        with psycopg.connect(self.address.url("shopsync"), autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    @contextmanager
    def halted(self) -> Iterator[None]:
        """No process of it does anything, but the kernel still takes in what is sent to it."""
        master = int((self.directory / "cluster/data/postmaster.pid").read_text().split()[0])
        listed = subprocess.run(["pgrep", "-P", str(master)], capture_output=True, check=True)
        processes = [master, *map(int, listed.stdout.split())]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)


CUT_OFF = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'shopsync receiver'"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        own = Server(Path(name) / "postgres")
        yield own
        own.stop()


@pytest.fixture
def conn(server: Server) -> Iterator[Conn]:
    with connect(server.owner) as opened:
        opened.execute("TRUNCATE webhook_events, integrations CASCADE")
        yield opened


@pytest.fixture
def receiver(server: Server, conn: Conn, tmp_path: Path) -> Iterator[Receiver]:
    """With a store, and with all its connections open."""
    with receiver_for(environ_of(server.owner, tmp_path), conn) as it:
        it.connect_store()
        assert statuses(it, 24) == {200}
        yield it


@dataclass(frozen=True)
class Sent:
    """A delivery on a connection of its own, that waits for its answer."""

    client: socket.socket
    at: float


def statuses(receiver: Receiver, count: int) -> set[int]:
    """Of so many deliveries at once, each of which is answered in time."""
    return answered(sent(receiver, count))


def sent(receiver: Receiver, count: int) -> list[Sent]:
    address = address_of(receiver)
    clients = [socket.create_connection(address) for _ in range(count)]
    waiting = []
    for client, request in [(client, delivery()) for client in clients]:
        waiting.append(Sent(client, time.monotonic()))
        client.sendall(request)
    return waiting


def answered(waiting: list[Sent]) -> set[int]:
    """By one thread for all of them: what waits for its turn among many sees the answer late."""
    answers: dict[Sent, bytes] = dict.fromkeys(waiting, b"")
    with selectors.DefaultSelector() as selector:
        for each in waiting:
            selector.register(each.client, selectors.EVENT_READ, each)
        while selector.get_map():
            for key, _ in selector.select():
                came = key.data.client.recv(4000)
                answers[key.data] += came
                if not came:
                    assert time.monotonic() - key.data.at < IN_TIME
                    selector.unregister(key.fileobj)
                    key.data.client.close()
    for answer in answers.values():
        assert b" 503 " not in answer or b"\r\nretry-after: " in answer
    return {int(answer.split()[1]) for answer in answers.values()}


def delivery(body: bytes = BODY) -> bytes:
    """A signed request, after whose answer the connection is closed."""
    return (
        f"POST {WEBHOOKS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"X-Shopify-Topic: customers/update\r\nX-Shopify-Shop-Domain: {SHOP}\r\n"
        f"X-Shopify-Webhook-Id: {uuid.uuid4()}\r\nX-Shopify-Hmac-Sha256: {signature(body)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def address_of(receiver: Receiver) -> tuple[str, int]:
    host, port = receiver.url.removeprefix("http://").split(":")
    return host, int(port)


def is_well_again(receiver: Receiver) -> bool:
    deadline = time.monotonic() + WELL_AGAIN
    while receiver.deliver().status_code != 200:
        if time.monotonic() > deadline:
            return False
    return statuses(receiver, 16) == {200}


def test_a_postgres_that_hangs_is_503_in_time_and_nobody_waits_for_it(
    receiver: Receiver, server: Server
) -> None:
    with server.halted():
        for _ in range(3):
            assert statuses(receiver, 24) == {503}
        began = time.monotonic()
        assert receiver.ask("GET", "/healthz").status_code == 200
        assert time.monotonic() - began < 0.5
        assert receiver.ask("GET", "/readyz").status_code == 503
    assert is_well_again(receiver)


def test_a_postgres_that_stopped_is_503_and_comes_back_without_a_restart_of_the_receiver(
    receiver: Receiver, server: Server
) -> None:
    receiver.conn.close()
    server.stop()
    for _ in range(10):
        assert statuses(receiver, 8) == {503}
    server.start()
    assert is_well_again(receiver)


def test_a_restart_between_two_deliveries_is_not_seen(receiver: Receiver, server: Server) -> None:
    receiver.conn.close()
    server.stop()
    server.start()
    assert statuses(receiver, 16) == {200}


def test_connections_that_were_cut_off_are_not_seen(receiver: Receiver, server: Server) -> None:
    for _ in range(3):
        server.admin(CUT_OFF)
        assert statuses(receiver, 16) == {200}


def test_a_read_only_database_is_503_until_it_may_be_written_again(
    receiver: Receiver, server: Server
) -> None:
    before = len(receiver.rows())
    try:
        server.admin("ALTER DATABASE shopsync SET default_transaction_read_only = on", CUT_OFF)
        assert statuses(receiver, 16) == {503}
    finally:
        server.admin(
            "SET default_transaction_read_only = off",
            "ALTER DATABASE shopsync RESET default_transaction_read_only",
        )
    assert len(receiver.rows()) == before
    assert is_well_again(receiver)


def test_no_connection_left_is_503(receiver: Receiver, server: Server) -> None:
    try:
        server.admin("ALTER ROLE shopsync CONNECTION LIMIT 0", CUT_OFF)
        assert statuses(receiver, 16) == {503}
    finally:
        server.admin("ALTER ROLE shopsync CONNECTION LIMIT -1")
    assert is_well_again(receiver)


@contextmanager
def full_disk(server: Server) -> Iterator[None]:
    """As far as a client can tell: Postgres answers SQLSTATE 53100."""
    server.admin(
        """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$""",
        """CREATE TRIGGER full_disk BEFORE INSERT ON webhook_events
             FOR EACH ROW EXECUTE FUNCTION full_disk()""",
    )
    yield
    server.admin("DROP FUNCTION full_disk CASCADE")


def test_a_full_disk_is_503(receiver: Receiver, server: Server) -> None:
    before = len(receiver.rows())
    with full_disk(server):
        assert statuses(receiver, 16) == {503}
    assert len(receiver.rows()) == before
    assert is_well_again(receiver)


def test_a_row_that_somebody_holds_is_503_and_other_stores_are_served(
    receiver: Receiver, server: Server
) -> None:
    receiver.connect_store("other", "other.myshopify.com")
    with ThreadPoolExecutor(1) as thread, connect(server.owner) as holder, holder.transaction():
        holder.execute("SELECT 1 FROM integrations WHERE shop = %s FOR UPDATE", [SHOP])
        waiting = thread.submit(answered, sent(receiver, 4))
        for _ in range(20):
            assert receiver.deliver(shop_domain="other.myshopify.com").status_code == 200
        assert waiting.result() == {503}
    assert is_well_again(receiver)


def test_while_postgres_works_those_who_wait_are_not_refused(server: Server) -> None:
    """Five rounds of 0.4 s for the last: longer than one that hangs is waited for."""

    def work(conn: Conn) -> int:
        conn.execute("SELECT pg_sleep(0.4)")
        raise Unverified

    async def all_at_once() -> list[BaseException | int]:
        lines = Lines(server.owner)
        try:
            errands = (lines.run(work) for _ in range(5 * LINES))
            return await asyncio.gather(*errands, return_exceptions=True)
        finally:
            lines.close()

    assert {type(found) for found in asyncio.run(all_at_once())} == {Unverified}


# Slow clients

HEAD = f"POST {WEBHOOKS} HTTP/1.1\r\nHost: x\r\n"
SLOW = {
    "head": HEAD,
    "body": HEAD + "Content-Length: 1000\r\n\r\n{",
    "body nobody reads": "POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
    "nothing": "",
}


def test_slow_clients_are_cut_off_and_hold_up_nobody(receiver: Receiver) -> None:
    address = address_of(receiver)
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        began = time.monotonic()
        for kind, start in SLOW.items():
            for _ in range(50):
                client = stack.enter_context(socket.create_connection(address))
                client.sendall(start.encode())
                selector.register(client, selectors.EVENT_READ, kind)
        slowest = 0.0
        answers: dict[str, set[bytes]] = {kind: set() for kind in SLOW}
        while selector.get_map():
            drip(selector, answers)
            sent = time.monotonic()
            assert receiver.deliver().status_code == 200
            slowest = max(slowest, time.monotonic() - sent)
            assert time.monotonic() - began < 8
    assert time.monotonic() - began > 4.5
    assert slowest < 1
    assert answers == {
        "head": {b"408"},
        "body": {b"408"},
        "body nobody reads": {b"404"},
        "nothing": {b"408"},
    }


def drip(selector: selectors.BaseSelector, answers: dict[str, set[bytes]]) -> None:
    """What has come is noted, and a byte sent to each that still listens; one that is closed is
    forgotten."""
    for key, _ in selector.select(0.1):
        assert isinstance(key.fileobj, socket.socket)
        try:
            came = key.fileobj.recv(1000)
        except ConnectionResetError:
            came = b""
        if came.startswith(b"HTTP/1.1"):
            answers[key.data].add(came.split()[1])
        if not came:
            selector.unregister(key.fileobj)
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        try:
            key.fileobj.send(b"" if key.data == "nothing" else b"x")
        except OSError:
            continue  # closed meanwhile; the selector tells


def test_a_head_that_does_not_end_within_sixteen_kibibytes_is_refused(receiver: Receiver) -> None:
    address = address_of(receiver)
    with socket.create_connection(address, timeout=2) as client:
        client.sendall((HEAD + "X-Long: " + "x" * 17_000).encode())
        answer = client.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"16 KiB" in answer


def test_a_client_that_hangs_up_leaves_no_trace(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    address = address_of(receiver)
    for start in SLOW.values():
        with socket.create_connection(address) as client:
            client.sendall(start.encode())
    assert receiver.deliver().status_code == 200
    assert "Exception" not in caplog.text
