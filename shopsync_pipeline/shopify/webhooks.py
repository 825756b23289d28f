"""What a webhook says, and whether it is Shopify's: pure functions over headers and raw bytes.

A webhook is a hint, not data. Of a body only ids, one time and, for the topics that destroy, the
shop's own domain are taken; what a customer holds is always read again. Headers are not signed,
so a topic that destroys counts only with a body of that topic's own shape.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime
from typing import Any

import orjson

from shopsync_pipeline.errors import BadBody, BadDelivery
from shopsync_pipeline.models import Delivery
from shopsync_pipeline.settings import SHOP

TOPIC = re.compile(r"[a-z0-9_]{1,60}(?:[./][a-z0-9_]{1,60}){1,3}")
API_VERSION = re.compile(r"[0-9a-z-]{1,20}")
CUSTOMER_GID = re.compile(r"gid://shopify/Customer/([0-9]{1,19})")
LONGEST_ID = 255
BIGGEST_ID = 2**63 - 1

SCANNABLE = frozenset(
    {"customers/create", "customers/update", "customers/enable", "customers/disable"}
)
"""Customer topics whose body tells `updated_at`: one scan from there on settles many of them."""

GONE = frozenset({"customers/delete", "customers/merge"})
"""After these an id that cannot be read is gone; after others it may only not be there yet."""

BY_ID = frozenset(
    {
        "customers/purchasing_summary",
        "customers/email_marketing_consent_update",
        "customers/marketing_consent_update",
        "customer.tags_added",
        "customer.tags_removed",
    }
)
CUSTOMER_TOPICS = SCANNABLE | GONE | BY_ID
STORE_TOPICS = frozenset({"app/uninstalled", "app/scopes_update", "shop/update"})
COMPLIANCE_TOPICS = frozenset({"customers/data_request", "customers/redact", "shop/redact"})
HANDLED = CUSTOMER_TOPICS | STORE_TOPICS | COMPLIANCE_TOPICS


@dataclass(frozen=True, kw_only=True, slots=True)
class Hint:
    """What a body of a handled topic points at.

    `customer_id` is None for topics about the store, and for a merge that was not completed.
    `kept_id` is the customer into which `customer_id` was merged; `request_id` the number of a
    data request.
    """

    customer_id: int | None = None
    kept_id: int | None = None
    updated_at: datetime | None = None
    request_id: int | None = None


def delivery_of(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Delivery:
    """A delivery whose shop and topic are well-formed; nothing is verified yet.

    `headers` are (name, value) as they arrived. Raises BadDelivery. A missing webhook-id becomes a
    digest of topic and body, so that an exact repetition is known as one.
    """
    given = _single(headers)
    shop = _text(given, "x-shopify-shop-domain").lower()
    topic = _text(given, "x-shopify-topic").lower()
    if not SHOP.fullmatch(shop):
        raise BadDelivery("X-Shopify-Shop-Domain is missing, doubled, or no shop's domain.")
    if not TOPIC.fullmatch(topic):
        raise BadDelivery("X-Shopify-Topic is missing, doubled, or no topic.")
    version = _text(given, "x-shopify-api-version")
    return Delivery(
        shop=shop,
        topic=topic,
        signature=given.get("x-shopify-hmac-sha256") or b"",
        webhook_id=_identifier(given, "x-shopify-webhook-id") or _digest(topic, body),
        event_id=_identifier(given, "x-shopify-event-id"),
        api_version=version if API_VERSION.fullmatch(version) else None,
        triggered_at=_moment_or_none(_text(given, "x-shopify-triggered-at")),
        body=body,
    )


def verified(delivery: Delivery, secrets: Sequence[str]) -> bool:
    """Whether one of `secrets` signed the body.

    The base64 text itself is compared, in constant time: after decoding, altered spellings of the
    same bytes would pass.
    """
    matches = [hmac.compare_digest(_signed(s, delivery.body), delivery.signature) for s in secrets]
    return any(matches)


def hint_of(topic: str, shop: str, body: bytes) -> Hint:
    """What a verified body points at. Raises BadBody, with a reason that quotes nothing of it."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadBody("the body is not JSON as RFC 8259 has it") from None
    if not isinstance(parsed, dict):
        raise BadBody("the body is no JSON object")
    return READERS[topic](parsed, shop)


def _single(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, bytes | None]:
    """By lower-case name; None for a header that came twice, which nobody can mean."""
    found: dict[str, bytes | None] = {}
    for name, value in headers:
        key = name.decode("latin-1").lower()
        found[key] = None if key in found else value
    return found


def _text(given: Mapping[str, bytes | None], name: str) -> str:
    return (given.get(name) or b"").decode("latin-1").strip()


def _identifier(given: Mapping[str, bytes | None], name: str) -> str | None:
    text = _text(given, name)
    fit = 0 < len(text) <= LONGEST_ID and text.isascii() and text.isprintable()
    return text if fit else None


def _digest(topic: str, body: bytes) -> str:
    return "sha256:" + hashlib.sha256(topic.encode() + b"\n" + body).hexdigest()


def _signed(secret: str, body: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256"))


def _moment_or_none(text: str) -> datetime | None:
    try:
        return _moment(text)
    except BadBody:
        return None


# One reader a topic: from the parsed body and the header's shop to a Hint, or BadBody.


def _customer(body: dict[str, Any], shop: str) -> Hint:
    """GraphQL's id where there is one: the number may have been rounded by a JavaScript client."""
    gid = body.get("admin_graphql_api_id")
    named = isinstance(gid, str) and gid.startswith("gid://")
    number = _from_gid(gid) if named else _number(body.get("id"), "id")
    return Hint(customer_id=number, updated_at=_updated_at(body))


def _customer_of_gid(body: dict[str, Any], shop: str) -> Hint:
    return Hint(customer_id=_from_gid(body.get("customerId")))


def _email_consent(body: dict[str, Any], shop: str) -> Hint:
    return Hint(customer_id=_number(body.get("customer_id"), "customer_id"))


def _merge(body: dict[str, Any], shop: str) -> Hint:
    if not isinstance(body.get("status"), str):
        raise BadBody("it tells no status of a merge")
    if body["status"] != "completed":
        return Hint()
    return Hint(
        customer_id=_from_gid(body.get("admin_graphql_api_customer_deleted_id")),
        kept_id=_from_gid(body.get("admin_graphql_api_customer_kept_id")),
    )


def _uninstalled(body: dict[str, Any], shop: str) -> Hint:
    _number(body.get("id"), "id")
    _same_shop(body.get("myshopify_domain"), shop)
    return Hint()


def _store(body: dict[str, Any], shop: str) -> Hint:
    """It destroys nothing: the store is asked, whatever the body holds."""
    _number(body.get("id"), "id")
    return Hint()


def _scopes(body: dict[str, Any], shop: str) -> Hint:
    if not isinstance(body.get("current"), list):
        raise BadBody("it lists no current scopes")
    return Hint()


def _data_request(body: dict[str, Any], shop: str) -> Hint:
    _same_shop(body.get("shop_domain"), shop)
    request = body.get("data_request")
    if not isinstance(request, dict):
        raise BadBody("it holds no data_request")
    number = _number(request.get("id"), "data_request.id")
    return Hint(customer_id=_compliance_customer(body), request_id=number)


def _redact(body: dict[str, Any], shop: str) -> Hint:
    _same_shop(body.get("shop_domain"), shop)
    if "orders_to_redact" not in body or "data_request" in body:
        raise BadBody("it is no body of customers/redact")
    return Hint(customer_id=_compliance_customer(body))


def _shop_redact(body: dict[str, Any], shop: str) -> Hint:
    _same_shop(body.get("shop_domain"), shop)
    if set(body) - {"shop_id", "shop_domain"}:
        raise BadBody("it is no body of shop/redact")
    return Hint()


READERS: Mapping[str, Callable[[dict[str, Any], str], Hint]] = {
    **dict.fromkeys(SCANNABLE, _customer),
    "customers/delete": _customer,
    "customers/merge": _merge,
    "customers/marketing_consent_update": _customer,
    "customers/email_marketing_consent_update": _email_consent,
    "customers/purchasing_summary": _customer_of_gid,
    "customer.tags_added": _customer_of_gid,
    "customer.tags_removed": _customer_of_gid,
    "app/uninstalled": _uninstalled,
    "shop/update": _store,
    "app/scopes_update": _scopes,
    "customers/data_request": _data_request,
    "customers/redact": _redact,
    "shop/redact": _shop_redact,
}


def _compliance_customer(body: dict[str, Any]) -> int:
    customer = body.get("customer")
    if not isinstance(customer, dict):
        raise BadBody("it names no customer")
    return _number(customer.get("id"), "customer.id")


def _same_shop(named: object, shop: str) -> None:
    if not isinstance(named, str) or named.lower() != shop:
        raise BadBody("it names another shop than its header")


def _number(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= BIGGEST_ID:
        raise BadBody(f"{name} is no id")
    return value


def _from_gid(value: object) -> int:
    found = CUSTOMER_GID.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise BadBody("it names no customer's id")
    return _number(int(found[1]), "the customer's id")


def _updated_at(body: dict[str, Any]) -> datetime | None:
    value = body.get("updated_at")
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadBody("updated_at is no time")
    return _moment(value)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # in UTC it may be before year 1 or after 9999
        raise BadBody("updated_at is no time") from None
    if moment.year == MAXYEAR:  # rounded by Postgres it may be one that no datetime holds
        raise BadBody("updated_at is no time")
    return moment
