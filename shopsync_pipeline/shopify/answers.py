"""What an HTTP answer of the Admin API means: a whole answer, or one of the errors.

Pure functions over status, headers and body. The rule that matters: `data` beside `errors` is
never a complete answer, for Shopify nulls what it could not or would not read.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

import orjson

from shopsync_pipeline import errors
from shopsync_pipeline.shopify.ledger import ThrottleStatus

NUL = b"\\u0000"
SHAPE_ERRORS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What taking apart JSON of another shape raises."""

MESSAGE_LENGTH = 200
ECHOED = re.compile(r"[^\s@]+@[^\s@]+|\+[0-9](?:[-. ()]{0,2}[0-9]){7,14}|\bshp[a-z]{2,3}_\w+")

# HTTP statuses by what they say of the store. 423 is a locked store, 402 a frozen one.
STORE_TROUBLE: Mapping[int, tuple[type[errors.StoreTrouble], str]] = {
    401: (errors.NeedsReauth, "Shopify refused the access token (HTTP 401)"),
    402: (errors.StorePaused, "the store is frozen (HTTP 402)"),
    403: (errors.NeedsScope, "Shopify forbids the request (HTTP 403)"),
    404: (errors.StoreGone, "there is no such store (HTTP 404)"),
    423: (errors.StorePaused, "the store is locked (HTTP 423)"),
}

# Codes of GraphQL errors, in the order in which they decide when several came.
CODES: Mapping[str, tuple[type[errors.ShopifyError], str]] = {
    "ACCESS_DENIED": (errors.NeedsScope, "Shopify denied access"),
    "SHOP_INACTIVE": (errors.StorePaused, "the store is inactive"),
    "THROTTLED": (errors.Throttled, "Shopify throttled the request"),
    "MAX_COST_EXCEEDED": (errors.CostTooHigh, "the query costs more than one query may"),
    "INTERNAL_SERVER_ERROR": (errors.ServerTrouble, "Shopify failed inside"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RawAnswer:
    """An HTTP answer that arrived whole; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Points asked for and spent; `spent` is 0 for a throttled request."""

    requested: float
    spent: float
    status: ThrottleStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A complete GraphQL answer. `served_at` is Shopify's clock (the Date header)."""

    data: dict[str, Any]
    served_at: datetime | None
    cost: Cost | None


def parse(shop: str, raw: RawAnswer) -> dict[str, Any]:
    """The JSON object of an answer with status 200. Raises the error another status means."""
    if raw.status != 200:
        _raise_for_status(shop, raw)
    try:
        payload = decoded(raw.body)
    except ValueError:
        kind = raw.headers.get("content-type", "no content type").split(";")[0]
        raise errors.BrokenAnswer(
            shop, f"the answer is not whole JSON ({len(raw.body)} bytes of {kind})"
        ) from None
    if not isinstance(payload, dict):
        raise errors.BrokenAnswer(shop, "the answer is JSON, but no object")
    return payload


@contextmanager
def as_documented(shop: str, what: str) -> Iterator[None]:
    """A block that takes an answer apart. Raises BrokenAnswer where `what` has another shape than
    Shopify's schema gives it: that is no fault of whoever asked, nor of an event."""
    try:
        yield
    except SHAPE_ERRORS:
        raise errors.BrokenAnswer(shop, f"{what} is not as documented") from None


def cost_of(payload: Mapping[str, Any]) -> Cost | None:
    """`extensions.cost`, present in throttled answers too; None where it is missing."""
    cost = (payload.get("extensions") or {}).get("cost")
    if not cost:
        return None
    bucket = cost["throttleStatus"]
    status = ThrottleStatus(
        maximum=float(bucket["maximumAvailable"]),
        available=float(bucket["currentlyAvailable"]),
        restore_rate=float(bucket["restoreRate"]),
    )
    if not status.restore_rate > 0:  # nor does NaN fill
        raise ValueError("a bucket that never fills")
    return Cost(
        requested=float(cost["requestedQueryCost"]),
        spent=float(cost.get("actualQueryCost") or 0),
        status=status,
    )


def answer_of(shop: str, asked_version: str, raw: RawAnswer, payload: dict[str, Any]) -> Answer:
    """The answer, if it is complete and of the version asked for.

    Raises what its `errors` mean, FilterIgnored for a search warning, WrongApiVersion.
    """
    if payload.get("errors"):
        _raise_for_errors(shop, payload)
    served = raw.headers.get("x-shopify-api-version", asked_version)
    if served != asked_version:
        raise errors.WrongApiVersion(shop, f"asked for API {asked_version}, answered by {served}")
    with as_documented(shop, "extensions.search"):
        texts = _search_warnings(payload)
    if texts:
        raise errors.FilterIgnored(shop, f"Shopify ignored a part of the filter: {texts}")
    data = payload.get("data")
    if not isinstance(data, dict):
        raise errors.BrokenAnswer(shop, "the answer has neither data nor errors")
    return Answer(data=data, served_at=date_of(raw), cost=cost_of(payload))


def _search_warnings(payload: Mapping[str, Any]) -> str:
    searches = (payload.get("extensions") or {}).get("search") or ()
    warnings = [warning for search in searches for warning in search.get("warnings") or ()]
    return "; ".join(quoted(w.get("message")) for w in warnings)


def _raise_for_status(shop: str, raw: RawAnswer) -> NoReturn:
    status = raw.status
    if status in STORE_TROUBLE:
        kind, what = STORE_TROUBLE[status]
        raise kind(shop, what)
    if 300 <= status < 400:
        host = _host(raw.headers.get("location", ""))
        raise errors.StoreGone(shop, f"the store redirects to {host[:100]}: it was renamed")
    if status == 429:
        raise errors.Throttled(shop, *too_many(raw))
    if status >= 500 or status in (408, 430):
        raise errors.ServerTrouble(shop, f"Shopify answered HTTP {status}")
    raise errors.QueryRefused(shop, f"Shopify answered HTTP {status}")


def _raise_for_errors(shop: str, payload: Mapping[str, Any]) -> NoReturn:
    given = payload["errors"]
    entries = [e for e in given if isinstance(e, dict)] if isinstance(given, list) else []
    codes = [e["extensions"].get("code") for e in entries if isinstance(e.get("extensions"), dict)]
    told = "; ".join(quoted(e.get("message")) for e in entries) or "no message"
    for code, (kind, what) in CODES.items():
        if code in codes:
            raise kind(shop, f"{what}: {told}" if code == "ACCESS_DENIED" else what)
    if not entries:
        raise errors.BrokenAnswer(shop, "the answer holds errors in a form that is not documented")
    if payload.get("data") is not None:
        raise errors.BrokenAnswer(shop, f"the answer holds errors beside data: {told}")
    if "cursor" in told.lower():
        raise errors.CursorRefused(shop, told)
    raise errors.QueryRefused(shop, f"Shopify refused the query: {told}")


def quoted(message: object) -> str:
    """Shopify's own words, cut short. They may echo what they are about: what looks like a person's
    address or number, or a token, is left out."""
    few = str(message)[: 10 * MESSAGE_LENGTH]
    return ECHOED.sub("[...]", few)[:MESSAGE_LENGTH]


def _host(location: str) -> str:
    try:
        return urlsplit(location).hostname or "another address"
    except ValueError:
        return "another address"


def too_many(raw: RawAnswer) -> tuple[str, float | None]:
    """What an answer with status 429 says, and the seconds to wait."""
    wait = retry_after(raw)
    asked = "" if wait is None else f", to be asked again in {wait:.0f} s"
    return f"too many requests (HTTP 429){asked}", wait


def retry_after(raw: RawAnswer) -> float | None:
    """The seconds that `Retry-After` asks for, as a number or as a date (RFC 9110, 10.2.3) on the
    clock of the answer; None where it says nothing that can be waited for."""
    text = raw.headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        until, now = _moment(text), date_of(raw)
        return max(0.0, (until - now).total_seconds()) if until and now else None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def date_of(raw: RawAnswer) -> datetime | None:
    """Shopify's clock when it answered; None where the header is missing or is no date."""
    return _moment(raw.headers.get("date", ""))


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)  # "-0000"


def decoded(text: bytes) -> Any:
    """JSON as Postgres's text can hold it: what is no character becomes U+FFFD, for a customer
    whose note has half an emoji must not hold up the store. Raises ValueError for what is no whole
    JSON.

    The scan of the bytes spares nearly all answers the walk.
    """
    try:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return _replaced(_leniently(text), _well_formed)
        return _replaced(value, _without_nul) if NUL in text else value
    except RecursionError:
        raise ValueError("nested too deep") from None


def _leniently(text: bytes) -> Any:
    """JSON in which a string may hold half a surrogate pair, or bytes that are no UTF-8."""
    return json.loads(text.decode("utf-8", "replace"), parse_constant=_refuse, parse_float=_finite)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(number: str) -> float:
    """As orjson has it: Postgres would keep an infinite amount."""
    if math.isinf(value := float(number)):
        raise ValueError("a number beyond all floats")
    return value


def _without_nul(text: str) -> str:
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _well_formed(text: str) -> str:
    return _without_nul(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _replaced(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_replaced(item, clean) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, clean) for key, item in value.items()}
    return value
