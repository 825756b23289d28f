"""What root fields are answered with at hand: store, document, and the fault whose turn it is."""

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
