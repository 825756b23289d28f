"""Getting an access token from a store's token endpoint, by either grant.

- client credentials: for an app in the merchant's own organization; lasts a day, no refresh.
- refresh token: expiring offline tokens of public apps; last an hour and rotate as a pair.
"""

import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from shopsync_pipeline import errors
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.shopify.answers import RawAnswer, quoted, too_many
from shopsync_pipeline.shopify.client import ShopClient

TOKEN = re.compile(r"[!-~]{1,4096}")
"""What a header can carry of a token; Shopify's are some dozens of letters and digits."""

LONGEST_LIFE = 10 * 365 * 24 * 3600
"""Seconds; a lifetime beyond is no lifetime."""

SPENT = "The refresh token is spent, expired or revoked: connect the store again: shopsync connect."
REFUSED = (
    "Check the app's client id and secret and that it is installed in this store; "
    "then connect the store again: shopsync connect."
)


def renew(client: ShopClient, held: Credentials, now: datetime) -> Credentials:
    """`held` with a fresh access token (and refresh token, where it rotates); sends one request.

    `now` is the clock on which expiries are kept; of a lifetime that is none nothing is kept, and
    the token is used until it is refused. Raises NeedsReauth where Shopify refuses the app or its
    refresh token, RetryableError where asking again may help: Shopify takes a refresh token until
    its successor is used, so an answer that was lost is asked for again.
    """
    assert held.client_id is not None
    assert held.client_secret is not None
    form = {"client_id": held.client_id, "client_secret": held.client_secret}
    if held.refresh_token is None:
        form["grant_type"] = "client_credentials"
    else:
        form |= {"grant_type": "refresh_token", "refresh_token": held.refresh_token}
    payload = _granted(client.shop, client.token_request(form))
    rotated = payload.get("refresh_token")
    return replace(
        held,
        access_token=payload["access_token"],
        expires_at=_after(now, payload.get("expires_in")),
        refresh_token=rotated if _is_token(rotated) else held.refresh_token,
        refresh_expires_at=_after(now, payload.get("refresh_token_expires_in"))
        or held.refresh_expires_at,
    )


def _granted(shop: str, raw: RawAnswer) -> dict[str, Any]:
    if raw.status in (400, 401):
        reason = _reason(raw)
        raise errors.NeedsReauth(
            shop,
            f"Shopify refused to issue a token: {reason} (HTTP {raw.status})",
            SPENT if reason == "invalid_grant" else REFUSED,
        )
    if raw.status == 403:
        raise errors.NeedsScope(
            shop, f"Shopify forbids this server to ask for a token: {_reason(raw)} (HTTP 403)"
        )
    if raw.status == 404 or 300 <= raw.status < 400:
        raise errors.StoreGone(shop, f"its token endpoint answered HTTP {raw.status}")
    if raw.status in (402, 423):
        raise errors.StorePaused(shop, f"its token endpoint answered HTTP {raw.status}")
    if raw.status == 429:
        raise errors.Throttled(shop, *too_many(raw))
    if raw.status != 200:
        raise errors.ServerTrouble(shop, f"its token endpoint answered HTTP {raw.status}")
    payload = _json(raw)
    if not _is_token(payload.get("access_token")):
        raise errors.BrokenAnswer(shop, "its token endpoint gave no access_token")
    return payload


def token_of(shop: str, held: Credentials) -> str:
    """The access token that is held. Raises NeedsReauth where there is none that can be sent."""
    if held.access_token is None:
        raise errors.NeedsReauth(shop, "no access token is stored")
    if not _is_token(held.access_token):
        raise errors.NeedsReauth(shop, "the stored access token holds what no token can hold")
    return held.access_token


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and TOKEN.fullmatch(value) is not None


def _reason(raw: RawAnswer) -> str:
    """OAuth's error code (RFC 6749, 5.2), never the rest of the body."""
    code = _json(raw).get("error")
    return quoted(code)[:100] if isinstance(code, str) else "no reason given"


def _json(raw: RawAnswer) -> dict[str, Any]:
    try:
        payload = orjson.loads(raw.body)
    except orjson.JSONDecodeError:
        return {}
    return payload if isinstance(payload, dict) else {}


def _after(now: datetime, seconds: Any) -> datetime | None:
    """None for what is no lifetime: to raise would lose a pair that was just rotated."""
    try:
        left = float(seconds)
    except (TypeError, ValueError):
        return None
    return now + timedelta(seconds=left) if 0 < left <= LONGEST_LIFE else None
