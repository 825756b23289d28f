"""A store's customers as its API reads them: the primary, the search index and the replicas.

Searches are found by the index, which follows late, and loaded from the primary. Reads by id go
to a replica, which may show the past: for that the rows that were replaced are kept a while, under
the moment they ended. Nothing here takes a lock; the store does.
"""

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from shopify_simulator.sample import Row
from shopify_simulator.search import Filter
from shopify_simulator.search_index import Change, Key, SearchIndex, SortKey, Stamps


@dataclass(frozen=True, kw_only=True)
class Page:
    rows: list[Row]
    keys: list[Key]
    has_next: bool
    has_previous: bool


class CustomerTable:
    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._index = SearchIndex()
        self._ended: deque[tuple[datetime, int, Row | None]] = deque()
        """What a customer was until that moment, None before its creation; oldest first."""

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    def __getitem__(self, number: int) -> Row:
        return self._rows[number]

    def all(self) -> list[Row]:
        return list(self._rows.values())

    def load(self, rows: dict[int, Row]) -> None:
        """Many at once, long since indexed and replicated."""
        self._rows |= rows
        self._index.load({number: _stamps(row) for number, row in rows.items()})

    def put(self, number: int, row: Row, now: datetime, shown_from: datetime) -> None:
        """`shown_from`: what ended before it, no replica shows any longer."""
        before = self._rows.get(number)
        self._remember(number, before, now, shown_from)
        self._rows[number] = row
        if before is None or _stamps(before) != _stamps(row):
            self._index.tell(Change(at=now, number=number, stamps=_stamps(row)))

    def remove(self, number: int, now: datetime, shown_from: datetime) -> Row:
        """Returns the last row; raises KeyError."""
        row = self._rows.pop(number)
        self._remember(number, row, now, shown_from)
        self._index.tell(Change(at=now, number=number, stamps=None))
        return row

    def as_of(self, moment: datetime | None, numbers: Iterable[int | None]) -> list[Row | None]:
        """None where there was no such customer; a moment of None reads the present."""
        past: dict[int, Row | None] = {}
        if moment is not None:
            for ended, number, row in reversed(self._ended):
                if ended <= moment:
                    break
                past[number] = row
        present = self._rows
        return [
            None if each is None else past[each] if each in past else present.get(each)
            for each in numbers
        ]

    def count(self, found: Filter, indexed_until: datetime | None) -> int:
        self._index.catch_up(indexed_until)
        return self._index.count(found)

    def page(
        self,
        found: Filter,
        order: SortKey,
        indexed_until: datetime | None,
        *,
        first: int,
        after: Key | None,
        reverse: bool,
    ) -> Page:
        """A hit that is gone from the primary is left out."""
        self._index.catch_up(indexed_until)
        keys = self._index.keys(found, order, after=after, reverse=reverse)
        hits = list(itertools.islice((k for k in keys if k[1] in self._rows), first + 1))
        return Page(
            rows=[self._rows[key[1]] for key in hits[:first]],
            keys=hits[:first],
            has_next=len(hits) > first,
            has_previous=after is not None,
        )

    def snapshot(self, found: Filter, indexed_until: datetime | None) -> list[Row]:
        """Every row that matches, by id; without a filter all that the primary has."""
        if not found.ranges:
            return [self._rows[number] for number in sorted(self._rows)]
        self._index.catch_up(indexed_until)
        keys = self._index.keys(found, "ID", after=None, reverse=False)
        return [self._rows[number] for _, number in keys if number in self._rows]

    def _remember(self, number: int, row: Row | None, now: datetime, shown_from: datetime) -> None:
        while self._ended and self._ended[0][0] <= shown_from:
            self._ended.popleft()
        if now > shown_from:
            self._ended.append((now, number, row))


def customer_number(customer_id: int | str) -> int:
    """From 7, "7" or "gid://shopify/Customer/7"."""
    return int(str(customer_id).removeprefix("gid://shopify/Customer/"))


def _stamps(row: Row) -> Stamps:
    return Stamps(updated_at=row["updatedAt"], created_at=row["createdAt"])
