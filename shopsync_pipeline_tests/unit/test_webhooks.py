"""What a webhook says and whether it is Shopify's: every header rule, every hostile spelling."""

import base64
import hashlib
import hmac
import json
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import configuration, given, settings
from hypothesis import strategies as st

from shopsync_pipeline.errors import BadBody, BadDelivery
from shopsync_pipeline.models import Delivery
from shopsync_pipeline.shopify.webhooks import (
    HANDLED,
    READERS,
    Hint,
    delivery_of,
    hint_of,
    verified,
)

configuration.set_hypothesis_home_dir(tempfile.gettempdir())

SHOP = "acme.myshopify.com"
BODY = b'{"id": 7}'
PAYLOADS = Path(__file__).parent.parent / "payloads"
HEADERS = {
    "X-Shopify-Shop-Domain": SHOP,
    "X-Shopify-Topic": "customers/update",
    "X-Shopify-Hmac-Sha256": "c2lnbmF0dXJl",
    "X-Shopify-Webhook-Id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
    "X-Shopify-Event-Id": "98880550-7158-44d4-b7cd-2c97c8a091b5",
    "X-Shopify-API-Version": "2026-10",
    "X-Shopify-Triggered-At": "2026-11-24T10:00:00.123456789Z",
}


def delivery(body: bytes = BODY, **changed: str | None) -> Delivery:
    """Headers by the last words of their names, `None` leaves one out."""
    named = {f"x-shopify-{name.replace('_', '-')}": value for name, value in changed.items()}
    headers = {name.lower(): value for name, value in HEADERS.items()} | named
    return delivery_of(
        [(k.encode(), v.encode("latin-1")) for k, v in headers.items() if v is not None], body
    )


def signed(body: bytes, secret: str) -> bytes:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest())


def test_a_whole_delivery_is_read() -> None:
    assert delivery() == Delivery(
        shop=SHOP,
        topic="customers/update",
        signature=b"c2lnbmF0dXJl",
        webhook_id="b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
        event_id="98880550-7158-44d4-b7cd-2c97c8a091b5",
        api_version="2026-10",
        triggered_at=datetime(2026, 11, 24, 10, 0, 0, 123456, UTC),
        body=BODY,
    )


def test_shop_and_topic_are_read_in_any_case_and_with_spaces_around() -> None:
    read = delivery(shop_domain=" ACME.myshopify.com ", topic="Customers/Update")
    assert (read.shop, read.topic) == (SHOP, "customers/update")


@pytest.mark.parametrize(
    "shop",
    [
        None,
        "",
        "acme",
        "acme.myshopify.com.evil.example",
        "evil.example/acme.myshopify.com",
        "acme.myshopify.com:443",
        "https://acme.myshopify.com",
        "-acme.myshopify.com",
        "a_b.myshopify.com",
        "acme.myshopify.com\x00",
        "acme\n.myshopify.com",
        "é.myshopify.com",
        "a.b.myshopify.com",
        ".myshopify.com",
    ],
)
def test_what_is_no_shop_is_refused(shop: str | None) -> None:
    with pytest.raises(BadDelivery, match="X-Shopify-Shop-Domain"):
        delivery(shop_domain=shop)


@pytest.mark.parametrize(
    "topic",
    [
        None,
        "",
        "customers",
        "customers/",
        "/update",
        "a b/c",
        "a/b/c/d/e",
        "a/b\x00",
        "é/b",
        "a/../b",
    ],
)
def test_what_is_no_topic_is_refused(topic: str | None) -> None:
    with pytest.raises(BadDelivery, match="X-Shopify-Topic"):
        delivery(topic=topic)


@pytest.mark.parametrize("name", ["X-Shopify-Shop-Domain", "X-Shopify-Topic"])
def test_a_doubled_header_means_nothing(name: str) -> None:
    headers = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
    with pytest.raises(BadDelivery, match=f"{name} is missing, doubled"):
        delivery_of([*headers, (name.encode(), HEADERS[name].encode())], BODY)


def test_a_doubled_signature_verifies_nothing() -> None:
    right = signed(BODY, "secret")
    headers = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items() if "Hmac" not in k]
    doubled = delivery_of([*headers, *[(b"x-shopify-hmac-sha256", right)] * 2], BODY)
    assert not verified(doubled, ["secret"])


def test_every_topic_that_is_handled_is_well_formed_and_has_a_reader() -> None:
    assert set(READERS) == HANDLED
    for topic in HANDLED:
        assert delivery(topic=topic).topic == topic


def test_without_a_webhook_id_the_same_body_of_the_same_topic_is_the_same_delivery() -> None:
    digest = hashlib.sha256(b"customers/update\n" + BODY).hexdigest()
    assert delivery(webhook_id=None).webhook_id == f"sha256:{digest}"
    assert delivery(webhook_id="x" * 256).webhook_id == f"sha256:{digest}"
    assert delivery(webhook_id="é").webhook_id == f"sha256:{digest}"
    assert delivery(webhook_id=None, topic="customers/create").webhook_id != f"sha256:{digest}"
    assert delivery(b"{}", webhook_id=None).webhook_id != f"sha256:{digest}"


def test_headers_that_only_inform_are_left_out_where_they_are_odd() -> None:
    for odd in ("yesterday", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.9999Z", "é", "\x00"):
        read = delivery(triggered_at=odd, api_version="2026 10", event_id="a\x00b")
        assert (read.triggered_at, read.api_version, read.event_id) == (None, None, None)


def test_any_of_several_secrets_signs() -> None:
    signature = signed(BODY, "old").decode()
    assert verified(delivery(hmac_sha256=signature), ["new", "old"])
    assert not verified(delivery(hmac_sha256=signature), ["new"])
    assert not verified(delivery(hmac_sha256=signature), [])
    assert not verified(delivery(b'{"id": 8}', hmac_sha256=signature), ["old"])


RIGHT = signed(BODY, "secret").decode()


@pytest.mark.parametrize(
    "spelling",
    [
        None,
        "",
        RIGHT[:-1],
        RIGHT + "=",
        RIGHT + "====",
        RIGHT[:-1] + "\t=",
        RIGHT[:22] + "\n" + RIGHT[22:],
        RIGHT + "\n",
        " " + RIGHT,
        RIGHT + RIGHT,
        RIGHT + ", " + RIGHT,
        RIGHT.lower(),
        RIGHT.swapcase(),
        RIGHT.translate(str.maketrans("+/", "-_")) + "_",
        base64.b64decode(RIGHT).hex(),
        "sha256=" + RIGHT,
        "é" * 44,
        "ÿ" + RIGHT[1:],
        RIGHT[:-2] + chr(ord(RIGHT[-2]) ^ 1) + "=",
    ],
)
def test_no_other_spelling_of_a_signature_passes(spelling: str | None) -> None:
    assert verified(delivery(hmac_sha256=RIGHT), ["secret"])
    assert not verified(delivery(hmac_sha256=spelling), ["secret"])


def test_two_base64_texts_of_the_same_bytes_are_not_the_same_signature() -> None:
    """Of the last letter before the padding only four bits count; decoders drop the others."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = RIGHT[:-2] + letters[letters.index(RIGHT[-2]) ^ 1] + "="
    assert base64.b64decode(twin) == base64.b64decode(RIGHT)
    assert not verified(delivery(hmac_sha256=twin), ["secret"])


def test_neither_signature_nor_body_shows_in_a_repr() -> None:
    shown = repr(delivery(b"person@example.com", hmac_sha256=RIGHT))
    assert RIGHT not in shown
    assert "person@" not in shown


# Bodies


def topic_of(payload: Path) -> str:
    """From the file's name: version, then the topic with `_` for its `/`."""
    name = payload.stem.split("__")[1]
    if name.startswith("customers_email"):
        return "customers/email_marketing_consent_update"
    known = {topic.replace("/", "_"): topic for topic in HANDLED}
    fitting = [known[start] for start in known if name.startswith(start)]
    return max(fitting, key=len, default="customers/update")


NO_HINT = {
    "2026-04__bulk_operations_finish": "a topic of its own, which nobody handles",
    "2026-04__app_uninstalled": "a placeholder: its myshopify_domain is null",
}
ABOUT_NO_CUSTOMER = {"app/uninstalled", "app/scopes_update", "shop/update", "shop/redact"}


@pytest.mark.parametrize("payload", sorted(PAYLOADS.glob("*.json")), ids=lambda path: path.stem)
def test_the_sample_bodies_are_understood(payload: Path) -> None:
    body, topic = payload.read_bytes(), topic_of(payload)
    parsed = json.loads(body)
    shop = parsed.get("shop_domain", SHOP)
    if payload.stem in NO_HINT:
        with pytest.raises(BadBody):
            hint_of(topic, shop, body)
        return
    told = hint_of(topic, shop, body)
    nobody = topic in ABOUT_NO_CUSTOMER or parsed.get("status") == "failed"
    assert (told.customer_id is None) == nobody
    assert (told.updated_at is None) == (nobody or parsed.get("updated_at") is None)


def test_the_readme_of_the_samples_tells_of_all_of_them() -> None:
    assert (PAYLOADS / "README.md").exists()
    assert len(list(PAYLOADS.glob("*.json"))) >= 27


def hint(topic: str, **body: Any) -> Hint:
    return hint_of(topic, SHOP, json.dumps(body).encode())


def gid(number: int) -> str:
    return f"gid://shopify/Customer/{number}"


def test_the_gid_is_trusted_where_a_number_was_rounded() -> None:
    rounded = hint("customers/update", id=706405506930370000, admin_graphql_api_id=gid(7))
    assert rounded.customer_id == 7
    assert hint("customers/delete", id=2**63 - 1).customer_id == 2**63 - 1


def test_updated_at_is_read_in_utc() -> None:
    told = hint("customers/create", id=1, updated_at="2026-11-24T05:00:00-05:00")
    assert told.updated_at == datetime(2026, 11, 24, 10, tzinfo=UTC)
    assert told.updated_at.astimezone(timezone(timedelta(hours=1))).hour == 11
    assert hint("customers/create", id=1, updated_at=None).updated_at is None


def test_a_merge_counts_when_it_is_completed() -> None:
    ids = {
        "admin_graphql_api_customer_deleted_id": gid(2),
        "admin_graphql_api_customer_kept_id": gid(1),
    }
    assert hint("customers/merge", **ids, status="completed") == Hint(customer_id=2, kept_id=1)
    assert hint("customers/merge", **ids, status="failed") == Hint()


def test_what_destroys_must_name_its_own_shop_and_have_its_own_shape() -> None:
    redact = {"shop_domain": SHOP, "customer": {"id": 5}, "orders_to_redact": []}
    request = {"shop_domain": SHOP, "customer": {"id": 5}, "data_request": {"id": 9}}
    gone = {"shop_domain": SHOP, "shop_id": 1}
    assert hint("customers/redact", **redact).customer_id == 5
    assert hint("customers/data_request", **request) == Hint(customer_id=5, request_id=9)
    assert hint("shop/redact", **gone) == Hint()
    assert hint("app/uninstalled", id=1, myshopify_domain=SHOP) == Hint()
    swapped: list[tuple[str, dict[str, Any]]] = [
        ("customers/redact", request),
        ("customers/data_request", redact),
        ("shop/redact", redact),
        ("shop/redact", request),
        ("app/uninstalled", gone),
        ("customers/redact", redact | {"shop_domain": "other.myshopify.com"}),
        ("customers/data_request", request | {"shop_domain": None}),
        ("shop/redact", gone | {"shop_domain": [SHOP]}),
        ("app/uninstalled", {"id": 1, "myshopify_domain": "other.myshopify.com"}),
    ]
    for topic, body in swapped:
        with pytest.raises(BadBody):
            hint(topic, **body)


HOSTILE = [
    b"",
    b"   ",
    b"\x00",
    b"null",
    b"true",
    b"7",
    b'"customers"',
    b"[]",
    b'[{"id": 7}]',
    b"{}",
    b'{"id": NaN}',
    b'{"id": Infinity}',
    b'{"id": -7}',
    b'{"id": 0}',
    b'{"id": true}',
    b'{"id": 7.0}',
    b'{"id": 1e3}',
    b'{"id": "7"}',
    b'{"id": [7]}',
    b'{"id": 9223372036854775808}',
    b'{"id": 18446744073709551616}',
    b'{"id": ' + b"9" * 5000 + b"}",
    b'{"id": "\\u0000"}',
    b'{"id": 7, "updated_at": "\\u0000"}',
    b'{"id": 7, "updated_at": 7}',
    b'{"id": 7, "updated_at": "0001-01-01T00:00:00+23:59"}',
    b'{"id": 7, "updated_at": "9999-12-31T23:59:59.9999Z"}',
    b'{"id": 7, "note": "\\ud800"}',
    b'{"id": 7, "note": "\xed\xa0\x80"}',
    b'{"id": 7, "admin_graphql_api_id": "gid://shopify/Order/7"}',
    b'{"id": 7, "admin_graphql_api_id": "gid://shopify/Customer/99999999999999999999"}',
    b'{"id": 7, "admin_graphql_api_id": "gid://shopify/Customer/7\\n"}',
    '{"admin_graphql_api_id": "gid://shopify/Customer/٧"}'.encode(),
    b"[" * 100_000,
    b'{"id": 7, "note": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a":' * 100_000 + b"7" + b"}" * 100_000,
    b'\xef\xbb\xbf{"id": 7}',
    '{"id": 7}'.encode("utf-16"),
    '{"id": 7}'.encode("utf-32"),
    b'{"id": 7',
    b'{"id": 7}}',
    b"{'id': 7}",
    b'{"id": 7} // seven',
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:24]))
def test_a_hostile_body_is_a_bad_body_that_quotes_nothing(body: bytes) -> None:
    for topic in HANDLED - {"shop/update"}:  # of which nothing but the topic is used
        with pytest.raises(BadBody) as caught:
            hint_of(topic, SHOP, body)
        assert len(str(caught.value)) < 80


def test_what_a_body_holds_beside_its_hint_is_harmless() -> None:
    twice = b'{"id": 8, "id": 7, "note": "\\u0000", "n": ' + b"9" * 25 + b"}"
    assert hint_of("customers/update", SHOP, twice) == Hint(customer_id=7)


KEYS = [
    "id",
    "updated_at",
    "admin_graphql_api_id",
    "customerId",
    "customer_id",
    "customer",
    "data_request",
    "shop_domain",
    "myshopify_domain",
    "orders_to_redact",
    "current",
    "status",
    "admin_graphql_api_customer_deleted_id",
    "admin_graphql_api_customer_kept_id",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from([SHOP, gid(7), "completed", "2026-11-24T10:00:00Z"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, database=None, deadline=None)
@given(
    topic=st.sampled_from(sorted(HANDLED)),
    body=st.binary(max_size=80)
    | st.dictionaries(st.sampled_from(KEYS), VALUES).map(lambda value: json.dumps(value).encode()),
)
def test_whatever_a_body_holds_it_is_a_hint_or_a_bad_body(topic: str, body: bytes) -> None:
    try:
        told = hint_of(topic, SHOP, body)
    except BadBody:
        return
    assert told.customer_id is None or 0 < told.customer_id < 2**63
    assert told.updated_at is None or told.updated_at.tzinfo is UTC


@settings(max_examples=300, database=None, deadline=None)
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([name.lower().encode() for name in HEADERS]) | st.binary(max_size=9),
            st.sampled_from([value.encode() for value in HEADERS.values()])
            | st.binary(max_size=50),
        ),
        max_size=12,
    ),
    secret=st.text(max_size=10).filter(lambda text: text.isprintable()),
)
def test_whatever_the_headers_hold_it_is_a_delivery_or_a_bad_one(
    headers: list[tuple[bytes, bytes]], secret: str
) -> None:
    try:
        read = delivery_of(headers, BODY)
    except BadDelivery:
        return
    assert 0 < len(read.webhook_id) <= 255
    assert read.webhook_id.isascii()
    assert not verified(read, [secret])
