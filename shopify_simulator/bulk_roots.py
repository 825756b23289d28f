"""The root fields about bulk operations: start and cancel, one by id, and the list."""

import base64
from collections.abc import Callable

from shopify_simulator.bulk_operations import GID
from shopify_simulator.bulk_query import BulkRefused
from shopify_simulator.document import Field
from shopify_simulator.execution import BAD_CURSOR, MAX_PAGE, Execution, Refused, connection
from shopify_simulator.sample import Row
from shopify_simulator.search import CHUNK, Filter, read_filter

EXACT = {"status": "status", "operation_type": "type"}
"""Filters by a word, and the field that has it."""


def run_query(run: Execution, at: Field, given: Row) -> Row:
    try:
        return {"bulkOperation": run.store.bulk.start(given["query"]), "userErrors": []}
    except BulkRefused as refusal:
        return {"bulkOperation": None, "userErrors": [refusal.row]}


def cancel(run: Execution, at: Field, given: Row) -> Row:
    bulk = run.store.bulk
    try:
        return {"bulkOperation": bulk.cancel(given["id"]), "userErrors": []}
    except BulkRefused as refusal:
        return {"bulkOperation": bulk.get(given["id"]), "userErrors": [refusal.row]}


def bulk_operation(run: Execution, at: Field, given: Row) -> Row | None:
    gid = given["id"]
    if not gid.startswith("gid://shopify/"):
        raise Refused(at, f"Invalid global id '{gid}'", "argumentLiteralsIncompatible")
    return run.store.bulk.get(gid)


def bulk_operations(run: Execution, at: Field, given: Row) -> Row:
    """Newest first unless reversed."""
    first, after = given.get("first"), given.get("after")
    if first is None or not 0 <= first <= MAX_PAGE:
        raise Refused(at, f"`first` must be given, from 0 to {MAX_PAGE}.", "BAD_REQUEST")
    rows = _matching(run, at, given.get("query"))
    by = "completedAt" if given.get("sortKey") == "COMPLETED_AT" else "createdAt"
    rows.sort(key=lambda row: (row[by] or "", _number(row)), reverse=not given.get("reverse"))
    cursors = [_cursor(row) for row in rows]
    if after is not None and after not in cursors:
        raise Refused(at, BAD_CURSOR, "BAD_USER_INPUT")
    start = 0 if after is None else cursors.index(after) + 1
    page = rows[start : start + first]
    return connection(page, _cursor, after=after, has_next=start + first < len(rows))


BULK_ROOTS: dict[str, Callable[[Execution, Field, Row], Row | None]] = {
    "bulkOperationRunQuery": run_query,
    "bulkOperationCancel": cancel,
    "bulkOperation": bulk_operation,
    "bulkOperations": bulk_operations,
}


def _matching(run: Execution, at: Field, query: str | None) -> list[Row]:
    """By status, operation_type, created_at and id, joined by AND; the rest is left out, noted."""
    words: dict[str, str] = {}
    others = []
    for chunk in CHUNK.findall(query or ""):
        name, _, value = chunk.partition(":")
        if name in EXACT:
            words[EXACT[name]] = value.strip("'\"").upper()
        else:
            others.append(chunk)
    found = read_filter(" ".join(others))
    if found.warnings:
        note = {"path": list(at.path), "query": query, "parsed": found.parsed}
        run.search_notes.append(note | {"warnings": found.warnings})
    return [row for row in run.store.bulk.all() if _matches(row, words, found)]


def _matches(row: Row, words: dict[str, str], found: Filter) -> bool:
    known = {"created_at": row["createdAt"], "id": _number(row)}
    ranges = ((found.range(name), value) for name, value in known.items())
    return all(row[name] == word for name, word in words.items()) and all(
        low <= value <= high for (low, high), value in ranges
    )


def _number(row: Row) -> int:
    return int(row["id"].removeprefix(GID))


def _cursor(row: Row) -> str:
    return base64.b64encode(str(_number(row)).encode()).decode()
