"""Faults that a store shows on demand: which kinds there are, and whose turn it is.

A fault skips the first `after` requests that it matches, then acts `times` times (None: for
ever). Of several, those with an end act first, in the order they were added. What a kind does is
written where it happens: in `graphql_api` for answers, in `wire` for bytes and waits, in
`bulk_operations` for the end of a bulk operation, in `bulk_download` for its file. Here only what
makes an answer another one: `altered`.
"""

import copy
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
    "chunk_cut",
    "gzip_broken",
    "gzip_cut",
    "respelled",
    "version",
    "date",
    "no_date",
    "answer_lost",
)
"""`respelled`: in the bytes of the answer `text` stands as `by`. `date`: the Date header says
`text`. `chunk_cut`: of a chunked body half comes. `gzip_broken`, `gzip_cut`: what is sent as gzip
is none, or only half of it."""
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
    "repeated_row",
    "altered",
)
"""`altered`: the place that the keys and numbers of `at` lead to holds `value`, or is not there, in
the token endpoint's answer too. `repeated_row`: the first customer of a page is its last, too."""
AT_THE_END_OF_BULK = (
    "bulk_end",
    "bulk_short",
    "bulk_broken_line",
    "bulk_no_url",
    "bulk_url",
)
"""`bulk_end`: it ends with `status` (and `errorCode`); of a FAILED one half the rows are partial
data. `bulk_short`: the file lacks its last `lines` (1). `bulk_broken_line`: of `line` (the middle
one) half is left. `bulk_no_url`: as if there were no rows. `bulk_url`: the file is said to be at
`url`."""
KINDS = frozenset((*INSTEAD, *ON_THE_WIRE, *IN_THE_ANSWER, *AT_THE_END_OF_BULK))
BULK_END, BULK_FILE = "bulk_end", "bulk_file"
"""No operations of a document: where a bulk operation ends, and where its file is read. There only
those faults act that name it; of the file `reset` and `short_body` act after `bytes` (half)."""
NEEDED_OPTIONS = {
    "status": ("status",),
    "redirect": ("location",),
    "max_cost_above": ("first",),
    "version": ("version",),
    "altered": ("at",),
    "respelled": ("text", "by"),
    "date": ("text",),
    "bulk_end": ("status",),
    "bulk_url": ("url",),
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
        if self.kind in AT_THE_END_OF_BULK:
            self.operation = BULK_END

    def matches(self, operation: str | None, arguments: Arguments) -> bool:
        """`arguments` are those of `customers` or `nodes`, empty for any other request."""
        anywhere = self.operation is None and operation not in (BULK_END, BULK_FILE)
        if self.operation != operation and not anywhere:
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


def altered(answer: Any, fault: Fault | None) -> Any:
    """`answer`, or what the fault makes of it. A place that is not there is an IndexError or
    KeyError."""
    if fault is None or fault.kind != "altered":
        return answer
    steps: list[Any] = ["answer", *fault.options["at"]]
    last = steps.pop()
    whole = {"answer": copy.deepcopy(answer)}
    place: Any = whole
    for step in steps:
        place = place[step]
    if "value" in fault.options:
        place[last] = fault.options["value"]
    else:
        del place[last]
    return whole["answer"]


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
