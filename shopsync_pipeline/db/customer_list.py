"""The list of customers as the page shows it: a page of it at a time, found and put in order by
the indexes of v0006, so that a table of a million rows answers as fast as a small one.

A page begins at a row's value of the order and its id, not at a number of rows. A search takes at
most CANDIDATES of each kind of match, which is all that a person would look through.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn

PAGE_ROWS = 50
CANDIDATES = 500
LONGEST_QUERY = 200
PHONE = re.compile(r"\+?[0-9 ().-]{3,}")
SHOPIFY_ID = re.compile(r"[0-9]{1,18}")

NAME = """lower(coalesce("name", '~')) COLLATE "C" """
EMAIL = """lower(coalesce("email", '~')) COLLATE "C" """
LAST_NAME = 'lower("lastName") COLLATE "C"'
PHONE_DIGITS = """translate("phone", ' +-().', '') COLLATE "C" """

ORDERS = {
    "name": (NAME, "text"),
    "email": (EMAIL, "text"),
    "spent": ('coalesce("totalSpent", 0)', "numeric"),
    "orders": ('coalesce("ordersCount", 0)', "bigint"),
    "updated": ('"updatedAt"', "timestamptz"),
}
"""Each is an index, with its type in SQL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which customers, in which of ORDERS. `query` is the beginning of an email, a name or a phone
    number, or a whole Shopify id."""

    order: str = "updated"
    descending: bool = True
    integration_id: str | None = None
    with_deleted: bool = False
    query: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Between two rows: after the one with this value and id, or before it where `backwards`."""

    key: str
    id: str
    backwards: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One row of the list; `key` is its value of the order, as text. `crowded` says that a search
    found more than it takes."""

    id: str
    shopify_id: int
    organization_id: str
    shop: str
    store: str
    name: str | None
    email: str | None
    phone: str | None
    total_spent: Decimal | None
    currency: str | None
    orders_count: int | None
    updated_at: datetime
    deleted_at: datetime | None
    key: str
    crowded: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomersPage:
    """`before` and `after` are None where there is nothing more that way."""

    rows: Sequence[Listed]
    before: Place | None
    after: Place | None

    @property
    def crowded(self) -> bool:
        return any(row.crowded for row in self.rows)


def page(conn: Conn, wanted: Wanted, place: Place | None) -> CustomersPage:
    """Raises psycopg.DataError where the place is none of this order."""
    backwards = place is not None and place.backwards
    rows = _rows(conn, wanted, place, descending=wanted.descending is not backwards)
    more, rows = len(rows) > PAGE_ROWS, rows[:PAGE_ROWS]
    if backwards:
        rows.reverse()
    if not rows:
        return CustomersPage(rows=[], before=None, after=None)
    first = Place(key=rows[0].key, id=rows[0].id, backwards=True)
    last = Place(key=rows[-1].key, id=rows[-1].id)
    return CustomersPage(
        rows=rows,
        before=first if (more if backwards else place is not None) else None,
        after=last if (more or backwards) else None,
    )


def _rows(conn: Conn, wanted: Wanted, place: Place | None, *, descending: bool) -> list[Listed]:
    key, kind = ORDERS[wanted.order]
    way, beyond = ("DESC", "<") if descending else ("ASC", ">")
    candidates, crowded = (_candidates(wanted), CROWDED) if wanted.query else ("", "false")
    conditions = [_kept(wanted)]
    if candidates:
        conditions.append('"id" IN (SELECT "id" FROM candidates)')
    if place is not None:
        conditions.append(f'({key}, "id") {beyond} (%(key)s::{kind}, %(id)s)')
    statement = f"""
      {candidates}
      SELECT c."id", "shopifyId" AS shopify_id, c."organizationId" AS organization_id, i."shop",
        i."name" AS store, c."name", "email", "phone", "totalSpent" AS total_spent, "currency",
        "ordersCount" AS orders_count, c."updatedAt" AS updated_at, "deletedAt" AS deleted_at,
        c.sort::text AS key, {crowded} AS crowded
      FROM (
        SELECT "id", "shopifyId", "organizationId", "integrationId", "name", "email", "phone",
          "totalSpent", "currency", "ordersCount", "updatedAt", "deletedAt", {key} AS sort
        FROM customers WHERE {" AND ".join(conditions)}
        ORDER BY {key} {way}, "id" {way} LIMIT {PAGE_ROWS + 1}
      ) AS c JOIN integrations i ON i."id" = c."integrationId"
      ORDER BY c.sort {way}, c."id" {way}
    """  # noqa: S608
    arguments = _arguments(wanted) | ({} if place is None else {"key": place.key, "id": place.id})
    with conn.cursor(row_factory=class_row(Listed)) as cursor:
        # Planned for these very values: what is rare in the table is found by another index.
        return cursor.execute(statement.encode(), arguments, prepare=False).fetchall()


def _kept(wanted: Wanted) -> str:
    conditions = []
    if not wanted.with_deleted:
        conditions.append('"deletedAt" IS NULL')
    if wanted.integration_id is not None:
        conditions.append('"integrationId" = %(integration)s')
    return " AND ".join(conditions) or "true"


CROWDED = "(SELECT n FROM crowd) >= %(candidates)s"


def _candidates(wanted: Wanted) -> str:
    """The begin of a statement: CTEs `candidates` with ids and `crowd` with the number of matches
    of the kind that has most."""
    query = wanted.query or ""
    text = "lower(%(query)s)"
    ways = [_beginning(EMAIL, text), _beginning(NAME, text), _beginning(LAST_NAME, text)]
    if PHONE.fullmatch(query):
        ways.append(_beginning(PHONE_DIGITS, "%(digits)s"))
    if SHOPIFY_ID.fullmatch(query):
        ways.append('"shopifyId" = %(number)s')
    branches = " UNION ALL ".join(
        f"""(SELECT {nr} AS way, "id" FROM customers WHERE {way} AND {_kept(wanted)}
             LIMIT %(candidates)s)"""  # noqa: S608
        for nr, way in enumerate(ways)
    )
    return f"""
      WITH candidates AS MATERIALIZED ({branches}),
      crowd AS (SELECT max(n) AS n FROM (SELECT count(*) AS n FROM candidates GROUP BY way) AS w)
    """  # noqa: S608


def _beginning(expression: str, text: str) -> str:
    """By comparisons, which an index in byte order answers whatever the plan knows of `text`."""
    return f"({expression}) >= {text} AND ({expression}) < {text} || U&'\\+10FFFF'"


def _arguments(wanted: Wanted) -> dict[str, Any]:
    query = wanted.query or ""
    return {
        "integration": wanted.integration_id,
        "query": query,
        "digits": re.sub("[^0-9]", "", query),
        "number": int(query) if SHOPIFY_ID.fullmatch(query) else None,
        "candidates": CANDIDATES,
    }
