"""The webhook subscriptions that the app made in one store, and why one is refused.

A subscription's row is `WebhookSubscription` as GraphQL shows it; a change makes a new row. The
filter and the metafields are kept and shown, but every delivery goes out as if there were none.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from shopify_simulator.sample import Row
from shopify_simulator.topics import header_of, may_subscribe

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")
GID = "gid://shopify/WebhookSubscription/"
BLANK: Row = {
    "name": None,
    "uri": "",
    "format": "JSON",
    "filter": None,
    "includeFields": [],
    "metafieldNamespaces": [],
    "metafields": [],
}


class UserError(Exception):
    """As in a mutation's `userErrors`."""

    def __init__(self, field: list[str], message: str) -> None:
        super().__init__(message)
        self.row = {"field": field, "message": message}


class Subscriptions:
    def __init__(self, first_number: int) -> None:
        self._rows: dict[int, Row] = {}
        self._numbers = itertools.count(first_number)

    def all(self, topics: Iterable[str] | None = None) -> list[Row]:
        """Oldest first."""
        wanted = None if topics is None else set(topics)
        return [row for row in self._rows.values() if wanted is None or row["topic"] in wanted]

    def of(self, header_topic: str) -> list[Row]:
        return [row for row in self._rows.values() if header_of(row["topic"]) == header_topic]

    def create(self, topic: str, given: Row, scopes: list[str], version: str, now: str) -> Row:
        """Raises UserError."""
        number = next(self._numbers)
        made = {"topic": topic, "apiVersion": {"handle": version}, "createdAt": now}
        row = BLANK | {"id": f"{GID}{number}"} | made | _changes(given, now)
        return self._put(number, row, scopes)

    def update(self, gid: str, given: Row, scopes: list[str], now: str) -> Row:
        """Raises UserError."""
        number = self._known(gid)
        return self._put(number, self._rows[number] | _changes(given, now), scopes)

    def delete(self, gid: str) -> str:
        """Raises UserError."""
        row: Row = self._rows.pop(self._known(gid))
        return str(row["id"])

    def clear(self) -> None:
        self._rows.clear()

    def _put(self, number: int, row: Row, scopes: list[str]) -> Row:
        topic, uri = row["topic"], row["uri"]
        at = ["webhookSubscription"]
        if not may_subscribe(topic, scopes):
            message = "You do not have permission to create or update webhooks with"
            raise UserError([*at, "topic"], f"{message} {header_of(topic)} topic.")
        if not _may_receive(uri):
            raise UserError([*at, "uri"], "Address is invalid")
        others = (each for each in self._rows.values() if each["id"] != row["id"])
        if any((each["topic"], each["uri"]) == (topic, uri) for each in others):
            raise UserError([*at, "uri"], "Address for this topic has already been taken")
        self._check_name(row)
        self._rows[number] = row
        return row

    def _check_name(self, row: Row) -> None:
        """Unique in the shop, short and plain (Shopify's developer changelog, 2026-02-11)."""
        name, at = row["name"], ["webhookSubscription", "name"]
        if name is None:
            return
        if not NAME.fullmatch(name):
            raise UserError(at, "Name is invalid")
        if any(each["name"] == name and each["id"] != row["id"] for each in self._rows.values()):
            raise UserError(at, "Name has already been taken")

    def _known(self, gid: str) -> int:
        number = str(gid).removeprefix(GID)
        if not number.isdecimal() or int(number) not in self._rows:
            raise UserError(["id"], "Webhook subscription does not exist")
        return int(number)


def _changes(given: Row, now: str) -> Row:
    """`callbackUrl` is the older name of `uri`; a null is a blank."""
    renamed = {"uri" if name == "callbackUrl" else name: value for name, value in given.items()}
    filled: dict[str, Any] = {
        name: BLANK[name] if value is None else value for name, value in renamed.items()
    }
    return filled | {"updatedAt": now}


def _may_receive(uri: str) -> bool:
    """https anywhere, http on this machine; no Pub/Sub and no EventBridge."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    secure = parts.scheme == "https" and bool(parts.hostname)
    return secure or (parts.scheme == "http" and parts.hostname in LOOPBACK)
