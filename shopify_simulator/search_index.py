"""The index that customer searches go through: sorted, and as late as the store says.

Shopify answers `customers` and `customersCount` from a search index that follows the data with
some delay. So this keeps the ids under the `updatedAt` and `createdAt` it last heard of, and takes
in a change once it is older than the lag. It knows no contents: whoever searches loads the rows by
id and so gets fresh ones.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from shopify_simulator.search import Filter

SortKey = Literal["UPDATED_AT", "ID"]
Key = tuple[str, int] | tuple[int, int]
"""(sort value, id): what both orders are sorted by, and what a cursor names."""
LOWEST_ID, HIGHEST_ID = -1, 2**64


@dataclass(frozen=True, kw_only=True)
class Stamps:
    updated_at: str
    created_at: str


@dataclass(frozen=True, kw_only=True)
class Change:
    at: datetime
    number: int
    stamps: Stamps | None  # None: the customer is gone


class SearchIndex:
    def __init__(self) -> None:
        self._stamps: dict[int, Stamps] = {}
        self._orders: dict[SortKey, list[Any]] = {"UPDATED_AT": [], "ID": []}
        self._waiting: deque[Change] = deque()

    def load(self, customers: dict[int, Stamps]) -> None:
        """Takes in many at once, without any lag."""
        self._stamps |= customers
        self._orders["UPDATED_AT"] = sorted((s.updated_at, n) for n, s in self._stamps.items())
        self._orders["ID"] = sorted((n, n) for n in self._stamps)

    def tell(self, change: Change) -> None:
        self._waiting.append(change)

    def catch_up(self, until: datetime | None) -> None:
        """Takes in what was told up to that moment; None: all of it."""
        while self._waiting and (until is None or self._waiting[0].at <= until):
            change = self._waiting.popleft()
            self._remove(change.number)
            if change.stamps is not None:
                self._add(change.number, change.stamps)

    def count(self, found: Filter) -> int:
        return self._count(found, "ID" if "id" in found.ranges else "UPDATED_AT")

    def keys(
        self, found: Filter, order: SortKey, *, after: Key | None, reverse: bool
    ) -> Iterator[Key]:
        """The matching keys behind `after`, in order, lazily."""
        keys = self._orders[order]
        start, stop = self._slice(found, order)
        if after is not None and reverse:
            stop = min(stop, bisect_left(keys, after))
        elif after is not None:
            start = max(start, bisect_right(keys, after))
        places = range(stop - 1, start - 1, -1) if reverse else range(start, stop)
        matches = self._matcher(found, order)
        return (keys[place] for place in places if matches is None or matches(keys[place][1]))

    def _count(self, found: Filter, order: SortKey) -> int:
        if self._matcher(found, order) is None:
            start, stop = self._slice(found, order)
            return max(0, stop - start)
        return sum(1 for _ in self.keys(found, order, after=None, reverse=False))

    def _slice(self, found: Filter, order: SortKey) -> tuple[int, int]:
        low, high = found.range("updated_at" if order == "UPDATED_AT" else "id")
        keys = self._orders[order]
        return bisect_left(keys, (low, LOWEST_ID)), bisect_right(keys, (high, HIGHEST_ID))

    def _matcher(self, found: Filter, order: SortKey) -> Callable[[int], bool] | None:
        """A test for the filters that the order itself does not settle, if any."""
        settled = "updated_at" if order == "UPDATED_AT" else "id"
        rest = {name: both for name, both in found.ranges.items() if name != settled}
        if not rest:
            return None

        def matches(number: int) -> bool:
            stamps = self._stamps[number]
            known = {
                "id": number,
                "updated_at": stamps.updated_at,
                "created_at": stamps.created_at,
            }
            return all(low <= known[name] <= high for name, (low, high) in rest.items())

        return matches

    def _remove(self, number: int) -> None:
        stamps = self._stamps.pop(number, None)
        if stamps is not None:
            _discard(self._orders["UPDATED_AT"], (stamps.updated_at, number))
            _discard(self._orders["ID"], (number, number))

    def _add(self, number: int, stamps: Stamps) -> None:
        self._stamps[number] = stamps
        insort(self._orders["UPDATED_AT"], (stamps.updated_at, number))
        insort(self._orders["ID"], (number, number))


def _discard(keys: list[Any], key: Key) -> None:
    place = bisect_left(keys, key)
    if place < len(keys) and keys[place] == key:
        del keys[place]
