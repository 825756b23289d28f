"""What root fields are answered with at hand: store, document, and the fault whose turn it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

from shopify_simulator.access import HIDDEN
from shopify_simulator.document import Field, Plan
from shopify_simulator.faults import Fault
from shopify_simulator.sample import Row
from shopify_simulator.stores import Store

MAX_PAGE = 250
BAD_CURSOR = "Invalid cursor for current pagination sort."


class Refused(Exception):
    """The whole answer is `errors`, without data."""

    def __init__(self, at: Field, message: str, code: str) -> None:
        super().__init__(message)
        entry = {"message": message, "locations": [at.location], "path": list(at.path)}
        self.errors = [entry | {"extensions": {"code": code}}]


def connection(
    page: list[Row], cursor: Callable[[Row], str], *, after: str | None, has_next: bool
) -> Row:
    return {
        "nodes": page,
        "edges": [{"cursor": cursor(row), "node": row} for row in page],
        "pageInfo": {
            "hasNextPage": has_next,
            "hasPreviousPage": after is not None,
            "startCursor": cursor(page[0]) if page else None,
            "endCursor": cursor(page[-1]) if page else None,
        },
    }


@dataclass(kw_only=True)
class Execution:
    store: Store
    plan: Plan
    fault: Fault | None
    search_notes: list[Row] = field(default_factory=list)

    def shows(self, kind: str) -> bool:
        return self.fault is not None and self.fault.kind == kind

    def visible(self, row: Row | None) -> Row | None:
        hidden = row is not None and self.store.settings.protected_data == "level1"
        return row | HIDDEN if row is not None and hidden else row
