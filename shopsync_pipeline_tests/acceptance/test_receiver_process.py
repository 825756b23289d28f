"""`python -m webhook_receiver` as a process: how it starts, ends, and what survives its death."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests as http
from cryptography.fernet import Fernet

from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline_tests.integration.test_receiver import (
    BODY,
    SHOP,
    WEBHOOKS,
    Receiver,
    environ_of,
    signature,
)
from shopsync_pipeline_tests.world import free_port

pytestmark = pytest.mark.faults


def started(environ: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "webhook_receiver"],
        env={**kept, **environ},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(environ: dict[str, str], cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL."""
    with started(environ, cwd) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                found = re.fullmatch(r"receiver listening on (http://\S+)\n", line)
                if found:
                    yield process, found[1]
                    return
            raise AssertionError(process.stderr and process.stderr.read())
        finally:
            process.kill()


@pytest.fixture
def environ(database_url: str, tmp_path: Path) -> dict[str, str]:
    return environ_of(database_url, tmp_path / "home") | {"RECEIVER_PORT": str(free_port())}


def receiver_at(url: str, conn: Conn, environ: dict[str, str]) -> Receiver:
    return Receiver(url, conn, Cipher((environ["SHOPSYNC_ENCRYPTION_KEY"],)))


def test_it_serves_logs_and_ends_on_sigterm(
    environ: dict[str, str], conn: Conn, tmp_path: Path
) -> None:
    with running(environ, tmp_path) as (process, url):
        it = receiver_at(url, conn, environ)
        it.connect_store()
        assert it.deliver(topic="customers/create").status_code == 200
        process.terminate()
        assert process.wait(5) == 0
    log = (tmp_path / "home/logs/receiver.log").read_text()
    assert f"[Shopify Customer Webhook] Received customers/create from {SHOP}" in log


def test_what_is_in_flight_is_finished_before_it_ends(
    environ: dict[str, str], conn: Conn, tmp_path: Path
) -> None:
    with running(environ, tmp_path) as (process, url):
        it = receiver_at(url, conn, environ)
        it.connect_store()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(
                f"POST {WEBHOOKS} HTTP/1.1\r\nHost: x\r\nX-Shopify-Topic: customers/update\r\n"
                f"X-Shopify-Shop-Domain: {SHOP}\r\nX-Shopify-Hmac-Sha256: {signature(BODY)}\r\n"
                f"Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            assert client.recv(100).startswith(b"HTTP/1.1 100")  # so the request is under way
            process.terminate()
            wait_until_refused(host, int(port))
            client.sendall(BODY)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert process.wait(5) == 0
        assert len(it.rows()) == 1


def wait_until_refused(host: str, port: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except ConnectionRefusedError:
            return
        except OSError:
            continue  # on the edge: neither taken nor refused
    raise AssertionError("it still listens")


def test_what_was_answered_200_is_there_after_it_is_killed(
    environ: dict[str, str], conn: Conn, tmp_path: Path
) -> None:
    with running(environ, tmp_path) as (process, url):
        it = receiver_at(url, conn, environ)
        it.connect_store()

        def deliver(number: int) -> str | None:
            """The id, where the delivery was answered 200; the hundredth kills the receiver."""
            if number == 100:
                process.kill()
            try:
                answer = it.deliver(webhook_id=f"id-{number}")
            except http.RequestException:  # cut off, before its head or after
                return None
            return f"id-{number}" if answer.status_code == 200 else None

        with ThreadPoolExecutor(8) as threads:
            answered = {found for found in threads.map(deliver, range(120)) if found}
    stored = {row[0] for row in conn.execute('SELECT "webhookId" FROM webhook_events')}
    assert len(answered) >= 90
    assert answered <= stored


def test_a_fault_is_logged_with_its_place_and_without_its_text(
    environ: dict[str, str], conn: Conn, tmp_path: Path
) -> None:
    """uvicorn logs the traceback of what no handler knows, and its text may quote a body."""
    undecodable = Fernet(environ["SHOPSYNC_ENCRYPTION_KEY"]).encrypt(b"secret \xff").decode()
    with running(environ, tmp_path) as (process, url):
        it = receiver_at(url, conn, environ)
        it.connect_store()
        conn.execute('UPDATE integrations SET "clientSecret" = %s', [undecodable])
        answer = it.deliver()
        assert answer.status_code == 500
        assert list(answer.json()) == ["error"]
        process.terminate()
        assert process.wait(5) == 0
        assert process.stderr
        assert process.stderr.read() == ""
    log = (tmp_path / "home/logs/receiver.log").read_text()
    assert "UnicodeDecodeError" in log
    assert "credentials.py" in log
    assert "invalid start byte" not in log


def test_it_starts_without_its_database_and_answers_503(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ["DATABASE_URL"] = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    with running(environ, tmp_path) as (_, url):
        answer = http.post(
            url + WEBHOOKS,
            data=BODY,
            headers={"X-Shopify-Topic": "customers/update", "X-Shopify-Shop-Domain": SHOP},
            timeout=5,
        )
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert http.get(url + "/healthz", timeout=5).status_code == 200


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"SHOPSYNC_ENCRYPTION_KEY": ""}, "SHOPSYNC_ENCRYPTION_KEY"),
        ({"SHOPSYNC_ENCRYPTION_KEY": "short"}, "SHOPSYNC_ENCRYPTION_KEY"),
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL"),
        ({"RECEIVER_PORT": "0"}, "RECEIVER_PORT"),
        ({"RECEIVER_HOST": "192.0.2.1"}, "RECEIVER_HOST"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_sentence(
    environ: dict[str, str], tmp_path: Path, change: dict[str, str], named: str
) -> None:
    with started(environ | change, tmp_path) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert named in errors
    assert len(errors.splitlines()) == 1


def test_tables_of_another_release_are_a_refusal(
    environ: dict[str, str], conn: Conn, tmp_path: Path
) -> None:
    conn.execute("UPDATE shopsync_schema_version SET version_num = '0001'")
    with started(environ, tmp_path) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "shopsync db upgrade" in errors


def test_a_port_that_is_taken_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(environ["RECEIVER_PORT"])))
        taken.listen()
        with started(environ, tmp_path) as process:
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"port {environ['RECEIVER_PORT']}" in errors
