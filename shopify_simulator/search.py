"""The filter language of a `query:` argument, as far as customers are read by it.

Known here: `updated_at`, `created_at` and `id` with `>=`, `<=`, `>`, `<` or nothing, joined by
AND. As in Shopify `>` and `<` include the bound; a timestamp in quotes is exact, without quotes
it stands for its whole day; and what cannot be read is left out, with a warning, so that more
rows match and not fewer.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any

from shopify_simulator.clock import read_moment, stamp
from shopify_simulator.sample import Row

EVERYTHING: dict[str, tuple[Any, Any]] = {
    "updated_at": ("", "~"),  # timestamps are compared as text
    "created_at": ("", "~"),
    "id": (0, 2**64),
}
TERM = re.compile(r"""(\w+):(>=|<=|>|<|)('[^']*'|"[^"]*"|[^\s'"()]+)""")
CHUNK = re.compile(r"""(?:'[^']*'|"[^"]*"|\S)+""")


@dataclass(kw_only=True)
class Filter:
    """Ranges by field, both ends included."""

    ranges: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    warnings: list[Row] = field(default_factory=list)

    def narrow(self, name: str, low: Any, high: Any) -> None:
        known_low, known_high = self.range(name)
        self.ranges[name] = (max(low, known_low), min(high, known_high))

    def range(self, name: str) -> tuple[Any, Any]:
        return self.ranges.get(name, EVERYTHING[name])

    def warn(self, name: str, message: str, code: str) -> None:
        self.warnings.append({"field": name, "message": message, "code": code})

    @property
    def parsed(self) -> Row:
        return {"and": [{"field": name, "range": both} for name, both in self.ranges.items()]}


def read_filter(query: str | None) -> Filter:
    found = Filter()
    for chunk in CHUNK.findall(query or ""):
        if chunk != "AND":
            _read_term(found, chunk)
    return found


def _read_term(found: Filter, chunk: str) -> None:
    term = TERM.fullmatch(chunk)
    if term is None:
        found.warn("", f"The term {chunk} is not understood.", "invalid_term")
        return
    name, operator, value = term.groups()
    if name not in EVERYTHING:
        found.warn(name, "Invalid search field for this query.", "invalid_field")
        return
    try:
        first, last = _ids(value) if name == "id" else _moments(value)
    except ValueError:
        found.warn(name, f"Input {value} is not an accepted value.", "invalid_value")
        return
    lowest, highest = EVERYTHING[name]
    found.narrow(
        name,
        lowest if operator.startswith("<") else first,
        highest if operator.startswith(">") else last,
    )


def _ids(value: str) -> tuple[int, int]:
    number = int(value.strip("'\""))
    return number, number


def _moments(value: str) -> tuple[str, str]:
    """First and last second that the value names."""
    text = value.strip("'\"")
    moment = read_moment(text)
    if text != value and "T" in text:
        return stamp(moment), stamp(moment)
    midnight = datetime.combine(moment.date(), time(), moment.tzinfo)
    return stamp(midnight), stamp(midnight + timedelta(days=1, seconds=-1))
