"""A store's tokens: the one made by hand, and those that the two OAuth grants give."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

CLIENT_CREDENTIALS_SECONDS = 86399
REFRESHED_SECONDS = 3600
REFRESH_TOKEN_SECONDS = 90 * 24 * 3600
SPENT_TAKEN_FOR = timedelta(days=30)
"""A refresh token that was used is taken again as long as its replacement was not, since the answer
may have been lost (Shopify's changelog of 2026-08-28)."""


class GrantRefused(Exception):
    """The token endpoint answers 400; `error` is OAuth's code."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.body = {"error": error, "error_description": description}


@dataclass(kw_only=True)
class Credentials:
    access_token: str | None
    client_id: str | None = None
    client_secret: str | None = None
    refresh_token: str | None = None
    installed: bool = True
    _issued: dict[str, datetime] = field(default_factory=dict)
    _spent: tuple[str, datetime] | None = None
    """The refresh token before this one, and until when it is still taken."""

    def accepts(self, token: str | None, now: datetime) -> bool:
        if token is None:
            return False
        expiry = self._issued.get(token)
        return token == self.access_token or (expiry is not None and now < expiry)

    def replace_access_token(self, token: str | None) -> None:
        """None revokes: nothing that was issued is accepted any longer. A token reinstalls."""
        self.access_token = token
        self.installed = self.installed or token is not None
        self._issued.clear()

    def uninstall(self) -> None:
        """All tokens are revoked, and neither grant gives a new one."""
        self.replace_access_token(None)
        self.installed = False

    def grant(self, form: Mapping[str, Any], now: datetime, lifetime: int | None) -> dict[str, Any]:
        """The token endpoint's answer without the scope; raises GrantRefused."""
        known = (self.client_id, self.client_secret)
        if None in known or known != (form.get("client_id"), form.get("client_secret")):
            raise GrantRefused("invalid_client", "The client id or secret is wrong.")
        if not self.installed:
            raise GrantRefused("app_not_installed", "The app is not installed in this store.")
        match form.get("grant_type"):
            case "client_credentials":
                return self._issue(now, lifetime or CLIENT_CREDENTIALS_SECONDS)
            case "refresh_token":
                return self._refresh(form.get("refresh_token"), now, lifetime)
            case other:
                raise GrantRefused("unsupported_grant_type", f"The grant {other} is not known.")

    def _refresh(self, given: Any, now: datetime, lifetime: int | None) -> dict[str, Any]:
        """The pair is replaced and older access tokens end."""
        if self.refresh_token is not None and given == self.refresh_token:
            self._spent = self.refresh_token, now + SPENT_TAKEN_FOR
        elif self._spent is None or given != self._spent[0] or now >= self._spent[1]:
            raise GrantRefused("invalid_grant", "This refresh token is not valid.")
        self.replace_access_token(None)
        self.refresh_token = "shprt_" + secrets.token_hex(16)
        return self._issue(now, lifetime or REFRESHED_SECONDS) | {
            "refresh_token": self.refresh_token,
            "refresh_token_expires_in": REFRESH_TOKEN_SECONDS,
        }

    def _issue(self, now: datetime, seconds: int) -> dict[str, Any]:
        token = "shpat_" + secrets.token_hex(16)
        self._issued[token] = now + timedelta(seconds=seconds)
        return {"access_token": token, "expires_in": seconds}
