"""Faults that a store shows on demand: which kinds there are, and whose turn it is.

A fault skips the first `after` requests that it matches, then acts `times` times (None: for
ever). Of several, those with an end act first, in the order they were added. What a kind does is
written where it happens: in `graphql_api` for answers, in `wire` for bytes and waits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

INSTEAD = ("status", "html", "empty", "hang", "reset", "redirect")
"""Nothing is executed: these answer alone, before the token is looked at."""
ON_THE_WIRE = (
    "truncated",
    "short_body",
    "drip",
    "drip_headers",
    "version",
    "no_date",
)
IN_THE_ANSWER = (
    "throttled",
    "error",
    "data_with_errors",
    "other_shop",
    "ignored_filter",
    "same_cursor",
    "cursor_refused",
    "max_cost_above",
    "null_nodes",
)
KINDS = frozenset((*INSTEAD, *ON_THE_WIRE, *IN_THE_ANSWER))
NEEDED_OPTIONS = {
    "status": ("status",),
    "redirect": ("location",),
    "max_cost_above": ("first",),
    "version": ("version",),
}

Arguments = Mapping[str, Any]


@dataclass(kw_only=True)
class Fault:
    kind: str
    times: int | None = 1
    after: int = 0
    operation: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault of kind {self.kind!r}; there are {sorted(KINDS)}")
        missing = [o for o in NEEDED_OPTIONS.get(self.kind, ()) if o not in self.options]
        if missing:
            raise ValueError(f"the fault {self.kind} needs {', '.join(missing)}")

    def matches(self, operation: str | None, arguments: Arguments) -> bool:
        """`arguments` are those of `customers` or `nodes`, empty for any other request."""
        if self.operation is not None and self.operation != operation:
            return False
        condition = CONDITIONS.get(self.kind)
        return condition is None or condition(self, arguments)


CONDITIONS: dict[str, Callable[[Fault, Arguments], bool]] = {
    "same_cursor": lambda fault, given: given.get("after") is not None,
    "cursor_refused": lambda fault, given: given.get("after") is not None,
    "ignored_filter": lambda fault, given: bool(given.get("query")),
    "max_cost_above": lambda fault, given: (given.get("first") or 0) > fault.options["first"],
    "null_nodes": lambda fault, given: "ids" in given,
}


def next_fault(faults: list[Fault], operation: str | None, arguments: Arguments) -> Fault | None:
    """Whose turn it is for this request; counts the request on every fault it matches."""
    ready = []
    for fault in faults:
        if not fault.matches(operation, arguments):
            continue
        if fault.after > 0:
            fault.after -= 1
        elif fault.times != 0:
            ready.append(fault)
    chosen = min(ready, key=lambda fault: fault.times is None, default=None)
    if chosen is not None and chosen.times is not None:
        chosen.times -= 1
    return chosen
