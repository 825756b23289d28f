"""The root fields that the simulator answers: each from arguments to values, rows and dicts.

`ROOTS` is the list. A root field that the schema has but this list lacks is refused by name.
"""

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, cast

from shopify_simulator.bulk_roots import BULK_ROOTS
from shopify_simulator.customer_table import Page, customer_number
from shopify_simulator.document import Field
from shopify_simulator.execution import BAD_CURSOR, MAX_PAGE, Execution, Refused
from shopify_simulator.sample import Row
from shopify_simulator.search import Filter, read_filter
from shopify_simulator.search_index import Key, SortKey
from shopify_simulator.webhook_roots import WEBHOOK_ROOTS

MAX_IDS = 250
CUSTOMER_GID = "gid://shopify/Customer/"


def customers(run: Execution, at: Field, given: Row) -> Row:
    order = _order(at, given)
    first = given.get("first")
    if first is None or not 0 <= first <= MAX_PAGE:
        raise Refused(at, f"`first` must be given, from 0 to {MAX_PAGE}.", "BAD_USER_INPUT")
    if run.shows("cursor_refused"):
        raise Refused(at, BAD_CURSOR, "BAD_USER_INPUT")
    after = given.get("after")
    page = run.store.page(
        _filter(run, at, given),
        order,
        first=first,
        after=None if after is None else read_cursor(at, after, order),
        reverse=bool(given.get("reverse")),
    )
    return _connection(run, page, order, after)


def customers_count(run: Execution, at: Field, given: Row) -> Row:
    count = run.store.count(_filter(run, at, given))
    limit = given.get("limit")
    if limit is not None and count > limit:
        return {"count": limit, "precision": "AT_LEAST"}
    return {"count": count, "precision": "EXACT"}


def nodes(run: Execution, at: Field, given: Row) -> list[Row | None]:
    ids = given["ids"]
    if len(ids) > MAX_IDS:
        message = f"The input array size of {len(ids)} is greater than the maximum of {MAX_IDS}."
        raise Refused(at, message, "MAX_INPUT_SIZE_EXCEEDED")
    if run.shows("null_nodes"):
        return [None] * len(ids)
    return [run.visible(row) for row in run.store.rows(_number(at, each) for each in ids)]


def node(run: Execution, at: Field, given: Row) -> Row | None:
    return nodes(run, at, {"ids": [given["id"]]})[0]


def shop(run: Execution, at: Field, given: Row) -> Row:
    store, other = run.store, run.shows("other_shop")
    domain = "another-shop.myshopify.com" if other else store.shop
    return {
        "id": "gid://shopify/Shop/1" if other else store.gid,
        "name": store.settings.name,
        "email": f"owner@{domain}",
        "myshopifyDomain": domain,
        "currencyCode": store.settings.currency,
        "ianaTimezone": "Etc/UTC",
        "plan": {
            "publicDisplayName": store.settings.plan,
            "shopifyPlus": "Plus" in store.settings.plan,
            "partnerDevelopment": False,
        },
        "primaryDomain": {"host": domain},
        "createdAt": store.created_at,
        "updatedAt": store.created_at,
    }


def current_app_installation(run: Execution, at: Field, given: Row) -> Row:
    return {
        "id": f"gid://shopify/AppInstallation/{run.store.number + 1}",
        "app": {"id": "gid://shopify/App/1", "title": "Shopsync", "handle": "shopsync"},
        "accessScopes": [{"handle": scope} for scope in run.store.settings.scopes],
    }


def public_api_versions(run: Execution, at: Field, given: Row) -> list[Row]:
    stable = [
        {"handle": version, "displayName": version, "supported": True}
        for version in run.store.settings.supported_versions
    ]
    return [*stable, {"handle": "unstable", "displayName": "unstable", "supported": False}]


ROOTS: dict[str, Callable[[Execution, Field, Row], Any]] = {
    "customers": customers,
    "customersCount": customers_count,
    "customer": node,
    "node": node,
    "nodes": nodes,
    "shop": shop,
    "currentAppInstallation": current_app_installation,
    "publicApiVersions": public_api_versions,
    **BULK_ROOTS,
    **WEBHOOK_ROOTS,
}


def write_cursor(key: Key, order: SortKey) -> str:
    named = {"last_id": key[1], "last_value": key[0], "sort_key": order}
    return base64.b64encode(json.dumps(named).encode()).decode()


def read_cursor(at: Field, cursor: str, order: SortKey) -> Key:
    """Raises Refused for a cursor that is broken or of another order."""
    try:
        named = json.loads(base64.b64decode(cursor, validate=True))
        value, number, wrote = named["last_value"], named["last_id"], named["sort_key"]
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise Refused(at, BAD_CURSOR, "BAD_USER_INPUT") from None
    if wrote != order or not isinstance(number, int):
        raise Refused(at, BAD_CURSOR, "BAD_USER_INPUT")
    return (str(value), number) if order == "UPDATED_AT" else (number, number)


def _order(at: Field, given: Row) -> SortKey:
    order = given.get("sortKey") or "ID"
    if order not in ("UPDATED_AT", "ID"):
        raise Refused(at, f"The simulator does not sort by {order}.", "INTERNAL_SERVER_ERROR")
    return cast(SortKey, order)


def _filter(run: Execution, at: Field, given: Row) -> Filter:
    """Notes what could not be read; the fault may drop the filter, with or without a word."""
    query = given.get("query")
    found = read_filter(query)
    if run.shows("ignored_filter") and run.fault:
        found = Filter()
        if not run.fault.options.get("silent"):
            found.warn("query", "Invalid search field for this query.", "invalid_field")
    if found.warnings:
        note = {"path": list(at.path), "query": query, "parsed": found.parsed}
        run.search_notes.append(note | {"warnings": found.warnings})
    return found


def _connection(run: Execution, page: Page, order: SortKey, after: str | None) -> Row:
    cursors = [write_cursor(key, order) for key in page.keys]
    rows = [run.visible(row) for row in page.rows]
    if run.shows("repeated_row") and rows:
        rows, cursors = [*rows, rows[0]], [*cursors, cursors[-1]]
    stuck = run.shows("same_cursor")
    return {
        "nodes": rows,
        "edges": [{"node": r, "cursor": c} for r, c in zip(rows, cursors, strict=True)],
        "pageInfo": {
            "hasNextPage": page.has_next or stuck,
            "hasPreviousPage": page.has_previous,
            "startCursor": cursors[0] if cursors else None,
            "endCursor": after if stuck else cursors[-1] if cursors else None,
        },
    }


def _number(at: Field, gid: str) -> int | None:
    """None for an id of another type; raises Refused for what is no id at all."""
    if not gid.startswith("gid://shopify/"):
        raise Refused(at, f"Invalid global id '{gid}'", "argumentLiteralsIncompatible")
    if not gid.startswith(CUSTOMER_GID):
        return None
    try:
        return customer_number(gid)
    except ValueError:
        raise Refused(at, f"Invalid global id '{gid}'", "argumentLiteralsIncompatible") from None
