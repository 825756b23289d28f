"""What an HTTP answer of the Admin API means: a whole answer, or one of the errors.

Pure functions over status, headers and body. The rule that matters: `data` beside `errors` is
never a complete answer, for Shopify nulls what it could not or would not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

import orjson

from shopsync_pipeline import errors
from shopsync_pipeline.shopify.ledger import ThrottleStatus

NUL = b"\\u0000"
MESSAGE_LENGTH = 200

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
        payload = orjson.loads(raw.body)
    except orjson.JSONDecodeError:
        kind = raw.headers.get("content-type", "no content type").split(";")[0]
        raise errors.BrokenAnswer(
            shop, f"the answer is not whole JSON ({len(raw.body)} bytes of {kind})"
        ) from None
    if not isinstance(payload, dict):
        raise errors.BrokenAnswer(shop, "the answer is JSON, but no object")
    clean: dict[str, Any] = without_nul(payload, raw.body)
    return clean


def cost_of(payload: Mapping[str, Any]) -> Cost | None:
    """`extensions.cost`, present in throttled answers too; None where it is missing."""
    cost = (payload.get("extensions") or {}).get("cost")
    if not cost:
        return None
    status = cost["throttleStatus"]
    return Cost(
        requested=float(cost["requestedQueryCost"]),
        spent=float(cost.get("actualQueryCost") or 0),
        status=ThrottleStatus(
            maximum=float(status["maximumAvailable"]),
            available=float(status["currentlyAvailable"]),
            restore_rate=float(status["restoreRate"]),
        ),
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
    for search in (payload.get("extensions") or {}).get("search") or ():
        if search.get("warnings"):
            texts = "; ".join(str(w.get("message"))[:MESSAGE_LENGTH] for w in search["warnings"])
            raise errors.FilterIgnored(shop, f"Shopify ignored a part of the filter: {texts}")
    data = payload.get("data")
    if not isinstance(data, dict):
        raise errors.BrokenAnswer(shop, "the answer has neither data nor errors")
    return Answer(data=data, served_at=_date(raw.headers.get("date")), cost=cost_of(payload))


def _raise_for_status(shop: str, raw: RawAnswer) -> NoReturn:
    status = raw.status
    if status in STORE_TROUBLE:
        kind, what = STORE_TROUBLE[status]
        raise kind(shop, what)
    if 300 <= status < 400:
        host = urlsplit(raw.headers.get("location", "")).hostname or "another address"
        raise errors.StoreGone(shop, f"the store redirects to {host[:100]}: it was renamed")
    if status == 429:
        raise errors.Throttled(
            shop, "too many requests (HTTP 429)", _seconds(raw.headers.get("retry-after"))
        )
    if status >= 500 or status in (408, 430):
        raise errors.ServerTrouble(shop, f"Shopify answered HTTP {status}")
    raise errors.QueryRefused(shop, f"Shopify answered HTTP {status}")


def _raise_for_errors(shop: str, payload: Mapping[str, Any]) -> NoReturn:
    entries = [e for e in payload["errors"] if isinstance(e, dict)]
    codes = {(e.get("extensions") or {}).get("code") for e in entries}
    told = "; ".join(str(e.get("message"))[:MESSAGE_LENGTH] for e in entries) or "no message"
    for code, (kind, what) in CODES.items():
        if code in codes:
            raise kind(shop, f"{what}: {told}" if code == "ACCESS_DENIED" else what)
    if not entries or payload.get("data") is not None:
        raise errors.BrokenAnswer(shop, f"the answer holds errors beside data: {told}")
    if "cursor" in told.lower():
        raise errors.CursorRefused(shop, told)
    raise errors.QueryRefused(shop, f"Shopify refused the query: {told}")


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None


def _date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except ValueError:
        return None


def without_nul(value: Any, text: bytes) -> Any:
    """`value`, decoded from `text`, as Postgres's text can hold it: without NUL. The scan of the
    bytes spares nearly all the walk."""
    return _replaced(value) if NUL in text else value


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item) for key, item in value.items()}
    return value
