"""A store's customers, its settings, its faults and what was asked of it.

Every method takes the store's lock, so that tests may change a store while a server thread reads
it. Rows are GraphQL-shaped and never changed in place. Whom a change is told to is for `stores`.
"""

import gc
import itertools
import random
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from shopify_simulator import events
from shopify_simulator.clock import Clock, stamp, stamp_ms
from shopify_simulator.cost import Bucket
from shopify_simulator.credentials import Credentials
from shopify_simulator.customer_fields import with_changes
from shopify_simulator.customer_table import CustomerTable, Page, customer_number
from shopify_simulator.faults import Fault, next_fault
from shopify_simulator.sample import BEYOND_DOUBLES, Row, sample_customer, sample_customers
from shopify_simulator.search import Filter, read_filter
from shopify_simulator.search_index import Key, SortKey
from shopify_simulator.settings import Settings

IDS_PER_STORE = 10_000_000
FIRST_ID = 7_000_000_000_000
KEPT_REQUESTS = 50_000
MANY = 50_000


class CustomerStore(ABC):
    def __init__(
        self, shop: str, *, number: int, clock: Clock, credentials: Credentials, seed: int
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
        self._table = CustomerTable()
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

    @abstractmethod
    def _tell(self, messages: list[events.Message]) -> None: ...

    # customers

    @property
    def size(self) -> int:
        return len(self._table)

    def customers(self) -> list[Row]:
        with self.lock:
            return [dict(row) for row in self._table.all()]

    def customer(self, customer_id: int | str) -> Row:
        """Raises KeyError."""
        with self.lock:
            return dict(self._table[customer_number(customer_id)])

    def fill(self, count: int) -> None:
        """Sample customers, long since indexed."""
        with self.lock:
            places = itertools.islice(self._places, count)
            numbered = ((place, self._id(place)) for place in places)
            samples = sample_customers(self._random, numbered, self.settings.currency)
            with _no_garbage(count):
                self._table.load({int(row["legacyResourceId"]): row for row in samples})

    def create(self, id: int | str | None = None, **fields: Any) -> Row:  # noqa: A002
        """The fields not given are sampled."""
        with self.lock:
            now, place = self.clock.now(), next(self._places)
            number = self._id(place) if id is None else customer_number(id)
            if number in self._table:
                raise ValueError(f"there is a customer {number} already")
            sample = sample_customer(self._random, number, place, self.settings.currency)
            made = {"createdAt": stamp(now), "updatedAt": stamp(now)} | fields
            row = self._put(number, with_changes(sample, made), now)
            self._tell(events.created(row, self.settings.webhook_api_version))
            return dict(row)

    def edit(self, customer_id: int | str, touch: bool = True, **fields: Any) -> Row:
        """touch=False leaves updatedAt alone, as Shopify does when an order is placed."""
        with self.lock:
            now = self.clock.now()
            before, row = self._edit(customer_id, now, touch, fields)
            version, moment = self.settings.webhook_api_version, stamp_ms(now)
            self._tell(
                events.edited(before, row, version, moment)
                if touch
                else events.edited_untouched(before, row, moment)
            )
            return dict(row)

    def delete(self, customer_id: int | str) -> None:
        with self.lock:
            lost = self._remove(customer_number(customer_id))
            self._tell(events.deleted(lost, self.settings.webhook_api_version))

    def merge(self, customer_id: int | str, into: int | str) -> Row:
        """The kept customer takes over orders, tags and note; the other one is gone."""
        with self.lock:
            kept, lost = self.customer(into), self.customer(customer_id)
            if kept["id"] == lost["id"]:
                raise ValueError("a customer cannot be merged into itself")
            self._remove(customer_number(customer_id))
            _, row = self._edit(into, self.clock.now(), True, _merged_fields(kept, lost))
            settings = self.settings
            version, with_delete = settings.webhook_api_version, settings.merge_fires_delete
            self._tell(events.merged(row, lost, version, with_delete))
            return dict(row)

    def _edit(
        self, customer_id: int | str, now: datetime, touch: bool, fields: Row
    ) -> tuple[Row, Row]:
        """The rows before and after."""
        number = customer_number(customer_id)
        before = self._table[number]
        touched = {"updatedAt": stamp(now)} if touch else {}
        return before, self._put(number, with_changes(before, touched | fields), now)

    def _put(self, number: int, row: Row, now: datetime) -> Row:
        self._table.put(number, row, now, self._replicated(now))
        return row

    def _remove(self, number: int) -> Row:
        now = self.clock.now()
        return self._table.remove(number, now, self._replicated(now))

    def _id(self, place: int) -> int:
        """Mostly 13 digits with gaps between them; each fiftieth is too large for a double."""
        first = BEYOND_DOUBLES if place % 50 == 49 else FIRST_ID
        return first + self.number * IDS_PER_STORE + place * 3

    # what the API reads

    def rows(self, numbers: Iterable[int | None]) -> list[Row | None]:
        """From a replica: None where there is no such customer."""
        with self.lock:
            lag = self.settings.replica_lag_seconds
            return self._table.as_of(self._replicated(self.clock.now()) if lag else None, numbers)

    def count(self, found: Filter) -> int:
        with self.lock:
            return self._table.count(found, self._indexed_until())

    def page(
        self, found: Filter, order: SortKey, *, first: int, after: Key | None, reverse: bool
    ) -> Page:
        with self.lock:
            until = self._indexed_until()
            return self._table.page(found, order, until, first=first, after=after, reverse=reverse)

    def snapshot(self, arguments: Row) -> list[Row]:
        """What a bulk query exports, by the arguments of its `customers`.

        With a sortKey beside a filter by updated_at rows are silently left out, as in Shopify
        (here one in ten).
        """
        with self.lock:
            found = read_filter(arguments.get("query"))
            rows = self._table.snapshot(found, self._indexed_until())
        if arguments.get("sortKey") and "updated_at" in found.ranges:
            return [row for place, row in enumerate(rows) if place % 10]
        return rows

    def _indexed_until(self) -> datetime | None:
        lag = self.settings.index_lag_seconds
        return self.clock.now() - timedelta(seconds=lag) if lag else None

    def _replicated(self, now: datetime) -> datetime:
        """Replicas know what happened up to then."""
        return now - timedelta(seconds=self.settings.replica_lag_seconds)

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


@contextmanager
def _no_garbage(count: int) -> Iterator[None]:
    """Many rows that stay are not looked through for garbage, then or later: it costs seconds."""
    if count < MANY:
        yield
        return
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _merged_fields(kept: Row, lost: Row) -> Row:
    spent = Decimal(kept["amountSpent"]["amount"]) + Decimal(lost["amountSpent"]["amount"])
    return {
        "tags": sorted({*kept["tags"], *lost["tags"]}),
        "note": "\n".join(note for note in (kept["note"], lost["note"]) if note) or None,
        "numberOfOrders": int(kept["numberOfOrders"]) + int(lost["numberOfOrders"]),
        "amountSpent": {"amount": str(spent)},
    }
