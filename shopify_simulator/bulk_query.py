"""What a bulk query asks for, or why Shopify refuses it. Knows documents; no store and no rows.

The rules and their messages are Shopify's (2026-04 and later): one level of lines for the root
connection, a line of its own with `__parentId` for each node of a nested one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from shopify_simulator.document import Field, InvalidDocument, Plan, plan
from shopify_simulator.projector import projection
from shopify_simulator.sample import Row

MAX_CONNECTIONS = 5
MAX_NESTING = 2
LIMIT_REACHED = "Bulk operations limit reached. Please try again later."


class BulkRefused(Exception):
    """As in the mutation's `userErrors`."""

    def __init__(self, message: str, code: str | None, field: list[str] | None = None) -> None:
        super().__init__(message)
        self.row: Row = {"field": field, "message": message, "code": code}


@dataclass(frozen=True, kw_only=True)
class BulkQuery:
    text: str
    plan: Plan
    arguments: Row
    """Those written at `customers`, no defaults; the paging ones mean nothing here."""
    lines: Callable[[Row], list[Row]]
    """From a customer's row to what the file says of it, one dict for each line."""


def read_bulk_query(text: str) -> BulkQuery:
    """Raises BulkRefused."""
    try:
        known = plan(text)
    except InvalidDocument as problem:
        raise _invalid(f"Invalid bulk query: {problem}") from None
    for wrong in _problems(known):
        raise _invalid(wrong)
    (root,) = known.fields
    written = {each.name.value for each in root.node.arguments}
    arguments = {name: value for name, value in root.arguments({}).items() if name in written}
    return BulkQuery(text=text, plan=known, arguments=arguments, lines=_lines_of(_node(root)))


def _invalid(message: str) -> BulkRefused:
    return BulkRefused(message, "INVALID", ["query"])


def _problems(known: Plan) -> Iterator[str]:
    """The first one counts."""
    if known.operation.operation.value != "query":
        yield "Invalid operation type. Only `query` operations are supported."
    if known.operation.variable_definitions:
        yield "Bulk queries cannot use variables."
    if len(known.fields) != 1:
        yield "Bulk queries must have exactly one top level field."
    (root,) = known.fields
    if root.name in ("node", "nodes"):
        yield f"Bulk queries cannot contain a top level `{root.name}` field."
    yield from _connection_problems(list(_connections(root, 0)))
    if root.name != "customers":
        yield f"The simulator exports no {root.name}."


def _connection_problems(found: list[tuple[Field, int]]) -> Iterator[str]:
    if not found:
        yield "Bulk queries must contain at least one connection."
    if len(found) > MAX_CONNECTIONS:
        yield f"Bulk queries cannot contain more than {MAX_CONNECTIONS} connections."
    if any(depth > MAX_NESTING for _, depth in found):
        yield (
            "Bulk queries cannot contain connections with a nesting depth greater than "
            f"{MAX_NESTING}."
        )
    if by_nodes := [each.name for each, _ in found if not _selects_edges(each)]:
        yield (
            "All connection fields in a bulk query must select their contents using "
            "'edges' > 'node', e.g: 'products { edges { node {'. Selecting via 'nodes' is not "
            f"supported. Invalid connection fields: '{', '.join(by_nodes)}'."
        )
    if without_id := [each.name for each, _ in found if _nests(each) and not _has_id(each)]:
        yield (
            "The parent 'node' field for a nested connection must select the 'id' field without "
            "an alias and must be of 'ID' return type. Connection fields without 'id': "
            f"{', '.join(without_id)}."
        )


def _connections(field: Field, depth: int) -> Iterator[tuple[Field, int]]:
    """With how deep each is nested in others."""
    inside = depth
    if _is_connection(field):
        yield field, depth
        inside += 1
    for below in _below(field):
        yield from _connections(below, inside)


def _is_connection(field: Field) -> bool:
    return field.type_name.endswith("Connection")


def _below(field: Field) -> Iterator[Field]:
    return (each for fields in field.selections.values() for each in fields)


def _selects_edges(connection: Field) -> bool:
    names = {each.name for each in _below(connection)}
    edges = [each for each in _below(connection) if each.name == "edges"]
    return "nodes" not in names and any(
        below.name == "node" for each in edges for below in _below(each)
    )


def _node(connection: Field) -> Field:
    (edges,) = (each for each in _below(connection) if each.name == "edges")
    (node,) = (each for each in _below(edges) if each.name == "node")
    return node


def _nests(connection: Field) -> bool:
    return any(_is_connection(each) for each in _below(_node(connection)))


def _has_id(connection: Field) -> bool:
    return any(each.key == each.name == "id" for each in _below(_node(connection)))


def _lines_of(node: Field) -> Callable[[Row], list[Row]]:
    project = projection(node)
    if not any(_is_connection(each) for each in _below(node)):
        return lambda row: [project(row)]
    return lambda row: list(_unfolded(node, project(row), {}))


def _unfolded(node: Field, shown: Row, parent: Row) -> Iterator[Row]:
    """The node's own line, then those of its nested connections."""
    nested = [each for each in _below(node) if _is_connection(each)]
    below: list[tuple[Field, Any]] = [(each, shown.pop(each.key)) for each in nested]
    yield shown | parent
    for connection, value in below:
        inner = _node(connection)
        (edges,) = (each for each in _below(connection) if each.name == "edges")
        for edge in value[edges.key]:
            yield from _unfolded(inner, edge[inner.key], {"__parentId": shown["id"]})
