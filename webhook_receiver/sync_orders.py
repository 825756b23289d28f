"""What a person or the app may ask for in the body of the sync endpoint: checked, or refused."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.exceptions import HTTPException

from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import Credentials, Mode
from shopsync_pipeline.settings import checked_organization, checked_shop

SECRET = re.compile(r"[!-~]{1,1024}")
LONGEST_NAME = 200
SECRETS = ("accessToken", "clientId", "clientSecret", "refreshToken", "webhookSecret")
FIELDS = ("organizationId", "shop", "name", "mode", *SECRETS)
MODES = ("incremental", "full")


class WrongOrder(HTTPException):
    """422. `field` is where the fault is, for a form that shows it there."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(422, sentence)
        self.field = field


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncOrder:
    """`credentials` are given together with `shop`; without a shop it is for the organization."""

    organization_id: str
    shop: str | None
    name: str | None
    mode: Mode
    credentials: Credentials | None = field(repr=False)


def order_of(given: dict[str, Any]) -> SyncOrder:
    """Raises WrongOrder, which names the field; no secret is quoted."""
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        known = ", ".join(FIELDS)
        raise _wrong("", f"Unknown fields: {', '.join(map(repr, unknown))}. Known: {known}")
    texts = {name: _text(given, name) for name in FIELDS}
    if texts["organizationId"] is None:
        raise _wrong("organizationId", "organizationId is missing")
    credentials = _credentials(texts)
    if credentials is not None and texts["shop"] is None:
        raise _wrong("shop", "shop is missing: credentials are one store's")
    return SyncOrder(
        organization_id=_checked("organizationId", checked_organization, texts),
        shop=None if texts["shop"] is None else _checked("shop", checked_shop, texts),
        name=_name(texts["name"]),
        mode=_mode(texts["mode"]),
        credentials=credentials,
    )


def _credentials(texts: dict[str, str | None]) -> Credentials | None:
    given = {name for name in SECRETS if texts[name] is not None}
    for name in given:
        if not SECRET.fullmatch(texts[name] or ""):
            raise _wrong(
                name, f"{name} must be 1 to 1024 printable ASCII characters without spaces"
            )
    if not given:
        return None
    if given - {"webhookSecret"} not in (
        {"accessToken"},
        {"clientId", "clientSecret"},
        {"clientId", "clientSecret", "refreshToken"},
    ):
        raise _wrong(
            "accessToken",
            "Give accessToken alone, or clientId and clientSecret, with refreshToken where the app "
            "has one; webhookSecret comes besides one of these",
        )
    return Credentials(
        access_token=texts["accessToken"],
        client_id=texts["clientId"],
        client_secret=texts["clientSecret"],
        refresh_token=texts["refreshToken"],
        webhook_secret=texts["webhookSecret"],
    )


def _text(given: dict[str, Any], name: str) -> str | None:
    """null counts as left out."""
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, f"{name} must be a text")
    return value


def _name(name: str | None) -> str | None:
    if name is not None and not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise _wrong("name", f"name must be 1 to {LONGEST_NAME} printable characters")
    return name


def _mode(mode: str | None) -> Mode:
    if mode is None:
        return "incremental"
    if mode not in MODES:
        raise _wrong("mode", f"mode must be one of {', '.join(MODES)}")
    return cast(Mode, mode)


def _checked(field: str, check: Callable[[str], str], texts: dict[str, str | None]) -> str:
    try:
        return check(texts[field] or "")
    except ConfigurationError as error:
        raise WrongOrder(field, str(error)) from None


def _wrong(field: str, what: str) -> WrongOrder:
    return WrongOrder(field, f"{what}.")
