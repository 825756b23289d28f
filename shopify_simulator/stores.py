"""A store: its customers, its settings, its faults and what was asked of it.

The methods here are what the control API offers over HTTP. Every one takes the store's lock, so
that tests may change a store while a server thread reads it. Rows are GraphQL-shaped and never
changed in place.
"""

import itertools
import random
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from shopify_simulator.clock import Clock, stamp
from shopify_simulator.cost import Bucket
from shopify_simulator.credentials import Credentials
from shopify_simulator.customer_fields import with_changes
from shopify_simulator.faults import Fault, next_fault
from shopify_simulator.sample import BEYOND_DOUBLES, Row, sample_customer, sample_customers
from shopify_simulator.search import Filter
from shopify_simulator.search_index import Change, Key, SearchIndex, SortKey, Stamps
from shopify_simulator.settings import Settings

IDS_PER_STORE = 10_000_000
FIRST_ID = 7_000_000_000_000
KEPT_REQUESTS = 50_000


@dataclass(frozen=True, kw_only=True)
class Page:
    rows: list[Row]
    keys: list[Key]
    has_next: bool
    has_previous: bool


class Store:
    def __init__(
        self, shop: str, *, number: int, clock: Clock, credentials: Credentials, seed: int = 1
    ) -> None:
        """`number` keeps ids apart: in Shopify no two stores share a customer id."""
        self.shop = shop
        self.number = number
        self.shop_id = 60_000_000_000 + number
        self.clock = clock
        self.credentials = credentials
        self.settings = Settings(name=shop.removesuffix(".myshopify.com").replace("-", " "))
        self.created_at = stamp(clock.now())
        self.lock = threading.RLock()
        self.bucket = Bucket(available=self.settings.maximum_available, filled_at=clock.now())
        self._rows: dict[int, Row] = {}
        self._index = SearchIndex()
        self._faults: list[Fault] = []
        self._requests: deque[Row] = deque(maxlen=KEPT_REQUESTS)
        self._random = random.Random(seed)
        self._places = itertools.count()

    @property
    def gid(self) -> str:
        return f"gid://shopify/Shop/{self.shop_id}"

    @property
    def access_token(self) -> str | None:
        return self.credentials.access_token

    def change(self, **settings: Any) -> None:
        """Settings in snake_case or camelCase; a bucket that was made larger is full."""
        with self.lock:
            self.settings.change(settings)
            if {"maximum_available", "maximumAvailable"} & set(settings):
                self.bucket.available = self.settings.maximum_available

    # customers

    @property
    def size(self) -> int:
        return len(self._rows)

    def customers(self) -> list[Row]:
        with self.lock:
            return [dict(row) for row in self._rows.values()]

    def customer(self, customer_id: int | str) -> Row:
        """Raises KeyError."""
        with self.lock:
            return dict(self._rows[customer_number(customer_id)])

    def fill(self, count: int) -> None:
        """Sample customers, long since indexed."""
        with self.lock:
            places = itertools.islice(self._places, count)
            numbered = ((place, self._id(place)) for place in places)
            samples = sample_customers(self._random, numbered, self.settings.currency)
            rows = {int(row["legacyResourceId"]): row for row in samples}
            self._rows |= rows
            self._index.load({number: _stamps(row) for number, row in rows.items()})

    def create(self, id: int | str | None = None, **fields: Any) -> Row:  # noqa: A002
        """The fields not given are sampled."""
        with self.lock:
            now, place = self.clock.now(), next(self._places)
            number = self._id(place) if id is None else customer_number(id)
            if number in self._rows:
                raise ValueError(f"there is a customer {number} already")
            sample = sample_customer(self._random, number, place, self.settings.currency)
            made = {"createdAt": stamp(now), "updatedAt": stamp(now)} | fields
            return dict(self._put(number, with_changes(sample, made), now))

    def edit(self, customer_id: int | str, touch: bool = True, **fields: Any) -> Row:
        """touch=False leaves updatedAt alone, as Shopify does when an order is placed."""
        with self.lock:
            number, now = customer_number(customer_id), self.clock.now()
            touched = {"updatedAt": stamp(now)} if touch else {}
            row = with_changes(self._rows[number], touched | fields)
            return dict(self._put(number, row, now))

    def delete(self, customer_id: int | str) -> None:
        with self.lock:
            number = customer_number(customer_id)
            del self._rows[number]
            self._index.tell(Change(at=self.clock.now(), number=number, stamps=None))

    def merge(self, customer_id: int | str, into: int | str) -> Row:
        """The kept customer takes over orders, tags and note; the other one is gone."""
        with self.lock:
            kept, lost = self.customer(into), self.customer(customer_id)
            if kept["id"] == lost["id"]:
                raise ValueError("a customer cannot be merged into itself")
            self.delete(customer_id)
            return self.edit(into, **_merged_fields(kept, lost))

    def _put(self, number: int, row: Row, now: datetime) -> Row:
        before = self._rows.get(number)
        self._rows[number] = row
        if before is None or _stamps(before) != _stamps(row):
            self._index.tell(Change(at=now, number=number, stamps=_stamps(row)))
        return row

    def _id(self, place: int) -> int:
        """Mostly 13 digits with gaps between them; each fiftieth is too large for a double."""
        first = BEYOND_DOUBLES if place % 50 == 49 else FIRST_ID
        return first + self.number * IDS_PER_STORE + place * 3

    # what the API reads

    def rows(self, numbers: Iterable[int | None]) -> list[Row | None]:
        """From the primary: None where there is no such customer."""
        with self.lock:
            return [None if number is None else self._rows.get(number) for number in numbers]

    def count(self, found: Filter) -> int:
        with self.lock:
            self._catch_up()
            return self._index.count(found)

    def page(
        self, found: Filter, order: SortKey, *, first: int, after: Key | None, reverse: bool
    ) -> Page:
        """Found by the index, loaded from the primary: a hit that is gone there is left out."""
        with self.lock:
            self._catch_up()
            keys = self._index.keys(found, order, after=after, reverse=reverse)
            hits = list(itertools.islice((k for k in keys if k[1] in self._rows), first + 1))
            return Page(
                rows=[self._rows[key[1]] for key in hits[:first]],
                keys=hits[:first],
                has_next=len(hits) > first,
                has_previous=after is not None,
            )

    def _catch_up(self) -> None:
        lag = self.settings.index_lag_seconds
        self._index.catch_up(self.clock.now() - timedelta(seconds=lag) if lag else None)

    # faults and the log

    def fault(
        self,
        kind: str,
        times: int | None = 1,
        after: int = 0,
        operation: str | None = None,
        **options: Any,
    ) -> None:
        """Raises ValueError for an unknown kind or a missing option."""
        new = Fault(kind=kind, times=times, after=after, operation=operation, options=options)
        with self.lock:
            self._faults.append(new)

    def clear_faults(self) -> None:
        with self.lock:
            self._faults.clear()

    def next_fault(self, operation: str | None, arguments: Row) -> Fault | None:
        with self.lock:
            return next_fault(self._faults, operation, arguments)

    @property
    def requests(self) -> list[Row]:
        with self.lock:
            return list(self._requests)

    def log(self, **entry: Any) -> None:
        with self.lock:
            self._requests.append(entry)

    def clear_requests(self) -> None:
        with self.lock:
            self._requests.clear()


def customer_number(customer_id: int | str) -> int:
    """From 7, "7" or "gid://shopify/Customer/7"."""
    return int(str(customer_id).removeprefix("gid://shopify/Customer/"))


def _stamps(row: Row) -> Stamps:
    return Stamps(updated_at=row["updatedAt"], created_at=row["createdAt"])


def _merged_fields(kept: Row, lost: Row) -> Row:
    spent = Decimal(kept["amountSpent"]["amount"]) + Decimal(lost["amountSpent"]["amount"])
    return {
        "tags": sorted({*kept["tags"], *lost["tags"]}),
        "note": "\n".join(note for note in (kept["note"], lost["note"]) if note) or None,
        "numberOfOrders": int(kept["numberOfOrders"]) + int(lost["numberOfOrders"]),
        "amountSpent": {"amount": str(spent)},
    }
