"""Webhooks over real HTTP and a real Postgres: every answer, and what is stored by it."""

import base64
import hashlib
import hmac
import itertools
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests as http
from cryptography.fernet import Fernet

from shopsync_pipeline.db import credentials, integrations
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from webhook_receiver.seldom import LINES
from webhook_receiver.server import running_receiver

SHOP = "acme.myshopify.com"
BODY = b'{"id": 7, "updated_at": "2026-11-24T10:00:00Z"}'
SECRET = "deployment-secret"
TOKEN = "api-token"
CRON = "cron-secret"
WEBHOOKS = "/api/webhooks/shopify"
SYNC = "/api/integrations/shopify/sync"
_ids = itertools.count()


def signature(body: bytes, secret: str = SECRET) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), body, hashlib.sha256)).decode()


@dataclass
class Receiver:
    url: str
    conn: Conn
    cipher: Cipher

    def connect_store(self, organization: str = "acme", shop: str = SHOP, **held: str) -> str:
        store = integrations.connect(
            self.conn, organization_id=organization, shop=shop, name="Acme", shop_id=1
        )
        given = Credentials(access_token="shpat_x", **held)  # type: ignore[arg-type]
        credentials.store(self.conn, self.cipher, store.id, given)
        return store.id

    def deliver(
        self, body: bytes = BODY, *, secret: str = SECRET, **headers: str | None
    ) -> http.Response:
        """A delivery as Shopify makes it; a header is changed or, by None, left out."""
        all_headers: dict[str, str | None] = {
            "shop_domain": SHOP,
            "topic": "customers/update",
            "hmac_sha256": signature(body, secret),
            "webhook_id": f"delivery-{next(_ids)}",
            "api_version": "2026-10",
            "triggered_at": "2026-11-24T10:00:00.123456789Z",
            **headers,
        }
        named = {f"X-Shopify-{k.replace('_', '-')}": v for k, v in all_headers.items() if v}
        return http.post(self.url + WEBHOOKS, data=body, headers=named, timeout=10)

    def ask(self, method: str, path: str, token: str | None = TOKEN, **how: Any) -> http.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return http.request(method, self.url + path, headers=headers, timeout=10, **how)

    def sync(self, **body: Any) -> http.Response:
        return self.ask("POST", SYNC, json=body)

    def rows(self) -> list[tuple[Any, ...]]:
        """In the order in which they were stored."""
        return self.conn.execute(
            'SELECT "organizationId", "topic", "status", "body" FROM webhook_events ORDER BY ctid'
        ).fetchall()


def environ_of(url: str, home: Path) -> dict[str, str]:
    return {
        "SHOPSYNC_HOME": str(home),
        "DATABASE_URL": url,
        "SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "SHOPIFY_WEBHOOK_SECRET": f"{SECRET},the-next-secret",
        "SHOPSYNC_API_TOKEN": TOKEN,
        "CRON_SECRET": CRON,
    }


@contextmanager
def receiver_for(environ: dict[str, str], conn: Conn) -> Iterator[Receiver]:
    """`conn` is the owner's, to look behind it."""
    settings = Settings.from_env(environ)
    with running_receiver(settings) as url:
        yield Receiver(url, conn, Cipher(settings.required_encryption_keys()))


@pytest.fixture
def receiver(database_url: str, conn: Conn, tmp_path: Path) -> Iterator[Receiver]:
    with receiver_for(environ_of(database_url, tmp_path), conn) as running:
        yield running


def error_of(answer: http.Response) -> str:
    given = answer.json()
    assert list(given) == ["error"]
    return str(given["error"])


def test_a_signed_delivery_is_stored_as_it_came(receiver: Receiver) -> None:
    receiver.connect_store()
    assert receiver.deliver().status_code == 200
    assert receiver.deliver(secret="the-next-secret").status_code == 200
    assert receiver.rows() == [("acme", "customers/update", "pending", BODY)] * 2


def test_a_repeated_delivery_is_one_row(receiver: Receiver) -> None:
    receiver.connect_store()
    answers = [receiver.deliver(webhook_id="one").status_code for _ in range(3)]
    answers += [receiver.deliver(webhook_id=None).status_code for _ in range(3)]
    assert answers == [200] * 6
    assert len(receiver.rows()) == 2


def test_another_method_is_told_which_one_to_use(receiver: Receiver) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
        answer = receiver.ask(method, WEBHOOKS)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert "Allow" in error_of(receiver.ask("GET", WEBHOOKS))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_one_mebibyte_is_refused_however_it_comes(
    receiver: Receiver, chunked: bool
) -> None:
    receiver.connect_store()
    large = b"x" * (1024 * 1024 + 1)
    sent: Any = iter([large[:700_000], large[700_000:]]) if chunked else large
    answer = http.post(receiver.url + WEBHOOKS, data=sent, timeout=10)
    assert answer.status_code == 413
    assert answer.headers["Connection"] == "close"
    assert "1 MiB" in error_of(answer)
    assert receiver.deliver(large[:-1]).status_code == 200


def test_a_client_that_asks_first_need_not_send_a_body_that_is_too_large(
    receiver: Receiver,
) -> None:
    host, port = receiver.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(
            f"POST {WEBHOOKS} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "headers",
    [
        {"shop_domain": None},
        {"shop_domain": "acme.myshopify.com.evil.example"},
        {"shop_domain": "acme.myshopify.com/"},
        {"topic": None},
        {"topic": "customers update"},
        {"topic": "é/é"},
    ],
)
def test_a_delivery_without_a_well_formed_shop_and_topic_is_400(
    receiver: Receiver, headers: dict[str, Any]
) -> None:
    receiver.connect_store()
    answer = receiver.deliver(**headers)
    assert answer.status_code == 400
    assert "X-Shopify" in error_of(answer)
    assert receiver.rows() == []


def test_unknown_inactive_and_forged_get_the_same_answer(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.connect_store()
    receiver.connect_store("gone", "gone.myshopify.com")
    integrations.disconnect(receiver.conn, organization_id="gone", shop="gone.myshopify.com")
    answers = [
        receiver.deliver(secret="wrong"),
        receiver.deliver(shop_domain="unknown.myshopify.com"),
        receiver.deliver(shop_domain="gone.myshopify.com"),
        receiver.deliver(hmac_sha256=None),
    ]
    assert [answer.status_code for answer in answers] == [401] * 4
    assert len({answer.content for answer in answers}) == 1
    assert receiver.rows() == []
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "SHOPIFY_WEBHOOK_SECRET does not fit" in warned[0]
    assert "unknown.myshopify.com: it has no active integration" in warned[1]
    assert SECRET not in caplog.text


RIGHT = signature(BODY)


@pytest.mark.parametrize(
    "spelling",
    [
        RIGHT.rstrip("="),
        RIGHT + "=",
        RIGHT[:-1] + "==",
        RIGHT[:20] + "\t" + RIGHT[20:],
        RIGHT + "," + RIGHT,
        RIGHT.swapcase(),
        base64.b64decode(RIGHT).hex(),
        "é" * 44,
        "=" * 44,
        "sha256=" + RIGHT,
    ],
)
def test_another_spelling_of_the_signature_is_401(receiver: Receiver, spelling: str) -> None:
    receiver.connect_store()
    answer = receiver.deliver(hmac_sha256=spelling)
    assert answer.status_code == 401
    assert receiver.rows() == []


def test_a_doubled_signature_is_401_and_a_folded_one_is_no_http(receiver: Receiver) -> None:
    receiver.connect_store()
    head = (
        f"POST {WEBHOOKS} HTTP/1.1\r\nHost: x\r\nX-Shopify-Topic: customers/update\r\n"
        f"X-Shopify-Shop-Domain: {SHOP}\r\nContent-Length: {len(BODY)}\r\n"
    )
    doubled = f"X-Shopify-Hmac-Sha256: {RIGHT}\r\n" * 2
    broken = f"X-Shopify-Hmac-Sha256: {RIGHT[:20]}\n{RIGHT[20:]}\r\n"
    assert raw(receiver, head + doubled) == b"401"
    assert raw(receiver, head + broken) == b"400"
    assert raw(receiver, head + f"X-Shopify-Hmac-Sha256: {RIGHT}\r\n") == b"200"


def raw(receiver: Receiver, head: str, body: bytes = BODY) -> bytes:
    """The status of an answer to bytes that no HTTP library would send."""
    host, port = receiver.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(head.encode() + b"\r\n" + body)
        return client.recv(1000).split()[1]


def test_two_organizations_with_one_shop_each_get_what_their_own_secret_signed(
    receiver: Receiver,
) -> None:
    receiver.connect_store("a", client_id="1", client_secret="secret-of-a")
    receiver.connect_store("b", webhook_secret="secret-of-b")
    receiver.connect_store("c")
    for secret in ("secret-of-a", "secret-of-b", SECRET):
        assert receiver.deliver(secret=secret).status_code == 200
    assert [row[0] for row in receiver.rows()] == ["a", "b", "c"]


def test_stores_that_share_a_secret_get_a_row_each(receiver: Receiver) -> None:
    for organization in ("a", "b"):
        receiver.connect_store(organization)
    assert [receiver.deliver(webhook_id="same").status_code for _ in range(2)] == [200, 200]
    assert sorted(row[0] for row in receiver.rows()) == ["a", "b"]


def test_a_store_with_secrets_of_its_own_does_not_hear_the_deployments(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.connect_store(webhook_secret="own")
    assert receiver.deliver().status_code == 401
    assert "the store's own secrets do not fit" in caplog.text
    assert receiver.deliver(secret="own").status_code == 200


def test_a_store_that_left_still_hears_the_compliance_topics(receiver: Receiver) -> None:
    receiver.connect_store(client_id="1", client_secret="own")
    integrations.disconnect(receiver.conn, organization_id="acme", shop=SHOP)
    for topic in ("customers/data_request", "customers/redact", "shop/redact"):
        assert receiver.deliver(topic=topic, secret="own").status_code == 200
        assert receiver.deliver(topic=topic).status_code == 401
    assert receiver.deliver(secret="own").status_code == 401
    assert len(receiver.rows()) == 3


def test_topics_that_nobody_handles_are_kept_as_ignored(receiver: Receiver) -> None:
    receiver.connect_store()
    assert receiver.deliver(topic="orders/create").status_code == 200
    assert [row[1:3] for row in receiver.rows()] == [("orders/create", "ignored")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff not JSON",
        b'{"id": "\\u0000"}',
        b'{"id": "\\ud800"}',
        b"[" * 100_000,
        b"\xef\xbb\xbf{}",
        '{"id": 1}'.encode("utf-16"),
        b'{"id": ' + b"9" * 5000 + b"}",
        b'{"id": NaN}',
    ],
    ids=["empty", "bytes", "nul", "surrogate", "deep", "bom", "utf-16", "long", "nan"],
)
def test_a_signed_body_is_stored_whatever_it_holds(receiver: Receiver, body: bytes) -> None:
    receiver.connect_store()
    assert receiver.deliver(body).status_code == 200
    assert receiver.rows()[0][3] == body


def test_headers_that_only_inform_are_dropped_where_they_are_odd(receiver: Receiver) -> None:
    receiver.connect_store()
    odd: dict[str, Any] = {
        "triggered_at": "0001-01-01T00:00:00+23:59",
        "api_version": "é",
        "event_id": "x" * 999,
    }
    assert receiver.deliver(**odd).status_code == 200
    row = receiver.conn.execute(
        'SELECT "triggeredAt", "apiVersion", "eventId" FROM webhook_events'
    ).fetchone()
    assert row == (None, None, None)


def test_secrets_that_cannot_be_decrypted_are_503_and_hold_up_nobody_else(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    store = receiver.connect_store("lost")
    other = Cipher((Fernet.generate_key().decode(),))
    credentials.store(
        receiver.conn, other, store, Credentials(access_token="x", webhook_secret="own")
    )
    answer = receiver.deliver()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "SHOPSYNC_ENCRYPTION_KEY" in caplog.text
    receiver.connect_store("well")
    assert receiver.deliver().status_code == 200
    assert [row[0] for row in receiver.rows()] == ["well"]


def test_the_log_names_topic_and_shop_and_nothing_of_the_body(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    receiver.connect_store()
    receiver.deliver(b'{"email": "person@example.com"}', topic="customers/create")
    assert f"[Shopify Customer Webhook] Received customers/create from {SHOP}" in caplog.text
    for secret in ("person@", SECRET, signature(b'{"email": "person@example.com"}')):
        assert secret not in caplog.text


def test_a_flood_of_forged_deliveries_is_a_few_lines_of_log_and_hides_no_store(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Every refused delivery was a line once: whoever sent many could fill the disk."""
    receiver.connect_store()
    for number in range(100):
        assert receiver.deliver(shop_domain=f"s{number}.myshopify.com").status_code == 401
        assert receiver.deliver(secret="forged").status_code == 401
    told = [line for line in caplog.messages if "Verification failed" in line]
    assert len(told) == LINES + 1
    assert sum(f"failed for {SHOP}: " in line for line in told) == 1
