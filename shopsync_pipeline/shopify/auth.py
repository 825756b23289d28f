"""Getting an access token from a store's token endpoint, by either grant.

- client credentials: for an app in the merchant's own organization; lasts a day, no refresh.
- refresh token: expiring offline tokens of public apps; last an hour and rotate as a pair.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from shopsync_pipeline import errors
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.shopify.answers import RawAnswer
from shopsync_pipeline.shopify.client import ShopClient


def renew(client: ShopClient, held: Credentials, now: datetime) -> Credentials:
    """`held` with a fresh access token (and refresh token, where it rotates); sends one request.

    `now` is the clock on which expiries are kept. Raises NeedsReauth where Shopify refuses the
    app or its refresh token, RetryableError where asking again may help.
    """
    assert held.client_id is not None
    assert held.client_secret is not None
    form = {"client_id": held.client_id, "client_secret": held.client_secret}
    if held.refresh_token is None:
        form["grant_type"] = "client_credentials"
    else:
        form |= {"grant_type": "refresh_token", "refresh_token": held.refresh_token}
    payload = _granted(client.shop, client.token_request(form))
    return replace(
        held,
        access_token=payload["access_token"],
        expires_at=_after(now, payload.get("expires_in")),
        refresh_token=payload.get("refresh_token", held.refresh_token),
        refresh_expires_at=_after(now, payload.get("refresh_token_expires_in"))
        or held.refresh_expires_at,
    )


def _granted(shop: str, raw: RawAnswer) -> dict[str, Any]:
    if raw.status in (400, 401, 403):
        raise errors.NeedsReauth(
            shop,
            f"Shopify refused to issue a token: {_reason(raw)} (HTTP {raw.status})",
            "Check the app's client id and secret and that it is installed in this store; "
            "then connect the store again: shopsync connect.",
        )
    if raw.status == 404 or 300 <= raw.status < 400:
        raise errors.StoreGone(shop, f"its token endpoint answered HTTP {raw.status}")
    if raw.status in (402, 423):
        raise errors.StorePaused(shop, f"its token endpoint answered HTTP {raw.status}")
    if raw.status != 200:
        raise errors.ServerTrouble(shop, f"its token endpoint answered HTTP {raw.status}")
    payload = _json(raw)
    if not isinstance(payload.get("access_token"), str):
        raise errors.BrokenAnswer(shop, "its token endpoint gave no access_token")
    return payload


def _reason(raw: RawAnswer) -> str:
    """OAuth's error code (RFC 6749, 5.2), never the rest of the body."""
    code = _json(raw).get("error")
    return code[:100] if isinstance(code, str) else "no reason given"


def _json(raw: RawAnswer) -> dict[str, Any]:
    try:
        payload = orjson.loads(raw.body)
    except orjson.JSONDecodeError:
        return {}
    return payload if isinstance(payload, dict) else {}


def _after(now: datetime, seconds: Any) -> datetime | None:
    return now + timedelta(seconds=float(seconds)) if seconds else None
