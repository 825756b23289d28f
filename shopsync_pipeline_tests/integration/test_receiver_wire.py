"""HTTP as no client of Shopify's speaks it, byte by byte on the receiver's socket: never a 2xx for
what is not stored, never a row for what was not whole, and no connection left hanging."""

import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline_tests.integration.test_receiver import (
    BODY,
    SHOP,
    WEBHOOKS,
    Receiver,
    environ_of,
    receiver_for,
    signature,
)
from shopsync_pipeline_tests.integration.test_receiver_trouble import address_of, delivery

LENGTH = f"Content-Length: {len(BODY)}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
CHUNK = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n"


@pytest.fixture
def receiver(database_url: str, conn: Conn, tmp_path: Path) -> Iterator[Receiver]:
    with receiver_for(environ_of(database_url, tmp_path), conn) as running:
        running.connect_store()
        yield running


def head(more: str, version: str = "1.1") -> bytes:
    """Of a delivery that `BODY`'s signature fits, with these lines besides."""
    return (
        f"POST {WEBHOOKS} HTTP/{version}\r\nHost: x\r\nX-Shopify-Topic: customers/update\r\n"
        f"X-Shopify-Shop-Domain: {SHOP}\r\nX-Shopify-Hmac-Sha256: {signature(BODY)}\r\n"
        f"Connection: close\r\n{more}\r\n"
    ).encode()


def answers(receiver: Receiver, request: bytes, *, half_close: bool = False) -> list[int]:
    """The statuses of all answers until the receiver closes the connection."""
    with socket.create_connection(address_of(receiver), timeout=10) as client:
        client.sendall(request)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        came = b""
        try:
            while more := client.recv(4000):
                came += more
        except ConnectionResetError:  # it does not read what it has refused
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", came)]


def test_requests_that_do_not_wait_for_their_answers_are_all_answered_in_turn(
    receiver: Receiver,
) -> None:
    kept = [delivery().replace(b"Connection: close\r\n", b"") for _ in range(4)]
    assert answers(receiver, b"".join([*kept, delivery()])) == [200] * 5
    assert len(receiver.rows()) == 5


def test_http_1_0_is_served_and_closed(receiver: Receiver) -> None:
    assert answers(receiver, head(LENGTH, version="1.0") + BODY) == [200]
    assert len(receiver.rows()) == 1


def test_a_body_in_chunks_is_stored_as_one(receiver: Receiver) -> None:
    halves = b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in (BODY[:9], BODY[9:]))
    request = head(CHUNKED) + halves + b"0\r\n\r\n"
    assert answers(receiver, request) == [200]
    assert [row[3] for row in receiver.rows()] == [BODY]


@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        pytest.param(head(CHUNKED) + CHUNK + b"xyz\r\n", [400], id="a chunk's size is no number"),
        pytest.param(head(CHUNKED) + b"-1\r\n" + BODY, [400], id="a chunk's size is below zero"),
        pytest.param(
            head(CHUNKED) + CHUNK[:-2] + b"surplus\r\n0\r\n\r\n", [400], id="a chunk is longer"
        ),
        pytest.param(
            head(LENGTH + CHUNKED + "Transfer-Encoding: x\r\n") + BODY, [400], id="two encodings"
        ),
        pytest.param(head("Transfer-Encoding: gzip\r\n") + BODY, [400], id="an unknown encoding"),
        pytest.param(head(LENGTH + "Content-Length: 1\r\n") + BODY, [400], id="two lengths"),
        pytest.param(head("Content-Length: -1\r\n") + BODY, [400], id="a length below zero"),
        pytest.param(
            head("Content-Length: 1e3\r\n") + BODY, [400], id="a length that is no number"
        ),
        pytest.param(head("X: y\r\n" * 10_000 + LENGTH) + BODY, [400], id="ten thousand headers"),
        pytest.param(head("X: a\x00b\r\n" + LENGTH) + BODY, [400], id="a NUL in a header"),
        pytest.param(head("X : y\r\n" + LENGTH) + BODY, [400], id="a space before the colon"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9, [400], id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [404, 400], id="HTTP/2"),
        pytest.param(b"\r\n" * 20_000, [400], id="empty lines"),
    ],
)
def test_what_is_no_http_is_refused_and_stores_nothing(
    receiver: Receiver, request_: bytes, refused: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    assert answers(receiver, request_) == refused
    assert receiver.rows() == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("left_out", [1, len(BODY)])
@pytest.mark.parametrize("length", [LENGTH, CHUNKED])
def test_a_body_that_ends_before_its_promise_is_no_delivery(
    receiver: Receiver, length: str, left_out: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = BODY if length == LENGTH else CHUNK
    cut = head(length) + whole[: len(BODY) - left_out]
    assert answers(receiver, cut, half_close=True) in ([400], [])
    assert receiver.rows() == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_length_that_promises_less_delivers_what_its_signature_does_not_fit(
    receiver: Receiver,
) -> None:
    assert answers(receiver, head(f"Content-Length: {len(BODY) - 1}\r\n") + BODY)[0] == 401
    assert receiver.rows() == []


def test_a_client_that_closes_its_side_after_a_whole_delivery_gets_its_answer(
    receiver: Receiver,
) -> None:
    assert answers(receiver, delivery(), half_close=True) == [200]
    assert len(receiver.rows()) == 1
