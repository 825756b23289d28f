"""Customers as Shopify gives them, into rows as `customers` keeps them; pure functions.

The path of every row: one pass, nothing decoded that is not stored. Amounts and times stay the
text Shopify sent and are parsed once, by Postgres.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shopsync_pipeline.errors import BrokenAnswer
from shopsync_pipeline.models import UPDATED_AT, CustomerRow
from shopsync_pipeline.shopify.answers import as_documented

PAGE_SIZE = 250
"""Shopify's most. Cost grows with the logarithm of the size, so the largest page is cheapest."""

IDS_AT_ONCE = 100
"""Most ids in one read by id: each costs, and one query may cost 1,000 points."""

NOTHING: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """`end_cursor` is None on the last page."""

    rows: Sequence[CustomerRow]
    has_next: bool
    end_cursor: str | None

    def first_updated(self) -> datetime | None:
        """The lowest `updatedAt` of the rows, None when there are none."""
        lowest = min((row[UPDATED_AT] for row in self.rows), default=None)
        return datetime.fromisoformat(lowest) if lowest else None

    def last_updated(self, before: datetime) -> datetime | None:
        """The highest `updatedAt` up to `before`; None where no row is as old."""
        most = iso(before)  # the same format as Shopify's, so text sorts as time
        highest = max((t for row in self.rows if (t := row[UPDATED_AT]) <= most), default=None)
        return datetime.fromisoformat(highest) if highest else None


def window_filter(since: datetime | None, until: datetime) -> str:
    """The `query:` argument for `[since, until]`: whole seconds, UTC, in quotes.

    Unquoted timestamps would match whole days.
    """
    upper = f"updated_at:<='{iso(until)}'"
    return upper if since is None else f"updated_at:>='{iso(since)}' AND {upper}"


def page_of(shop: str, data: Mapping[str, Any]) -> Page:
    """From the data of CustomersPage.graphql and its like. Raises BrokenAnswer where a customer is
    null, or anything else is not as documented: it would be left out."""
    with as_documented(shop, "a page of customers"):
        connection = data["customers"]
        info = connection["pageInfo"]
        has_next = bool(info["hasNextPage"])
        rows = rows_of(connection["nodes"])
        end_cursor = info["endCursor"] if has_next else None
        return Page(rows=rows, has_next=has_next, end_cursor=end_cursor)


def gid_of(customer_id: int) -> str:
    return f"gid://shopify/Customer/{customer_id}"


def found_of(shop: str, ids: Sequence[int], data: Mapping[str, Any]) -> dict[int, CustomerRow]:
    """Rows by id from the data of CustomersById.graphql for `ids`; those it holds as null are
    left out. Raises BrokenAnswer where it answers something else than was asked."""
    with as_documented(shop, "a read of customers by id"):
        nodes = data["nodes"]
        rows = rows_of(node for node in nodes if node is not None)
    found = {row[0]: row for row in rows}
    if len(nodes) != len(ids) or len(found) != len(rows) or not found.keys() <= set(ids):
        raise BrokenAnswer(shop, "the answer holds other customers than those asked for")
    return found


def rows_of(nodes: Iterable[dict[str, Any]]) -> list[CustomerRow]:
    """Rows in the order of models.CUSTOMER_COLUMNS. Raises ValueError or its like for a record
    that is not as documented; `updatedAt`, by which records are ordered, has a zone."""
    rows = [_row(node) for node in nodes]
    if any(updated_at(row).tzinfo is None for row in rows):
        raise ValueError("a time without a zone")
    return rows


def _row(node: dict[str, Any]) -> CustomerRow:
    email = node["defaultEmailAddress"] or NOTHING
    phone = node["defaultPhoneNumber"] or NOTHING
    sms = phone.get("smsMarketingConsent") or NOTHING
    address = node["defaultAddress"] or NOTHING
    spent = node["amountSpent"]
    email_state = email.get("marketingState")
    return (
        int(node["legacyResourceId"]),
        email.get("emailAddress"),
        phone.get("phoneNumber"),
        node["firstName"],
        node["lastName"],
        node["displayName"],
        spent["amount"],
        spent["currencyCode"],
        node["numberOfOrders"],
        email_state,
        email.get("marketingOptInLevel"),
        email.get("marketingUpdatedAt"),
        sms.get("state"),
        sms.get("optInLevel"),
        sms.get("updatedAt"),
        email_state == "SUBSCRIBED",
        address.get("company"),
        address.get("address1"),
        address.get("address2"),
        address.get("city"),
        address.get("province"),
        address.get("provinceCode"),
        address.get("country"),
        address.get("countryCodeV2"),
        address.get("zip"),
        _array(node["tags"]),
        node["note"],
        node["state"],
        node["locale"],
        node["verifiedEmail"],
        node["taxExempt"],
        node["createdAt"],
        node["updatedAt"],
    )


def _array(texts: list[str]) -> str:
    """A Postgres array as text: of every value in a row, a list would cost psycopg the most."""
    if not texts:
        return "{}"
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return '{"' + '","'.join(quoted) + '"}'


def updated_at(row: CustomerRow) -> datetime:
    return datetime.fromisoformat(row[UPDATED_AT])


def iso(moment: datetime) -> str:
    """Whole seconds, as Shopify writes and reads them."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
