"""A whole store read once more: every customer merged, and what that leaves to be asked by id.

    bulk, or pages by ID ─► merge, a chunk a transaction ─► ids seen, ids that still differ

The sweep itself deletes nothing and lifts no deletion; both take a read by id (sync.reconcile).
"""

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Literal

from shopsync_pipeline.db import (
    bulk_operations,
    customers,
    integrations,
    progress,
    reconciliations,
)
from shopsync_pipeline.db.engine import Conn, transact
from shopsync_pipeline.db.reconciliations import Finding
from shopsync_pipeline.errors import BrokenAnswer
from shopsync_pipeline.models import UPDATED_AT, CustomerRow, Read, Window
from shopsync_pipeline.shopify.bulk import BulkOperation
from shopsync_pipeline.shopify.client import Reply, Waits
from shopsync_pipeline.shopify.customers import Page, iso
from shopsync_pipeline.sync.bulk import BULK_ABOVE, read_in_bulk
from shopsync_pipeline.sync.events import FEW_MISSING, SHARE_MISSING
from shopsync_pipeline.sync.pull import OVERLAP, PageReader, PullResult, probe
from shopsync_pipeline.sync.store import Store

SAMPLES = 25
"""Ids kept of each kind of finding; the others are found by their run."""


@dataclass(kw_only=True)
class ReconcileResult(PullResult):
    """What one reconcile did. `found` counts rows of the table that were not as in the store;
    `changed_meanwhile` those that a pull or a webhook is about to bring anyway."""

    way: Literal["bulk", "pages"] = "pages"
    rows_read: int = 0
    found: Counter[Finding] = field(default_factory=Counter)
    changed_meanwhile: int = 0
    samples: defaultdict[Finding, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def written(self) -> int:
        """Rows of `customers` that carry the run's id now."""
        return self.found.total() + self.changed_meanwhile

    def tell(self, kind: Finding, ids: Sequence[int]) -> None:
        self.found[kind] += len(ids)
        self.samples[kind] += ids[: SAMPLES - len(self.samples[kind])]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What the merge of a part of the store found; `ids` are those it met, in any order."""

    ids: Sequence[int]
    read_at: datetime
    merged: customers.Merged
    news: set[int]
    differing: list[int]


class Sweep:
    """One read of a whole store in the name of one run; the store was loaded to its end before."""

    def __init__(self, store: Store, run_id: str, result: ReconcileResult) -> None:
        assert store.integration.watermark is not None
        self._store = store
        self._run_id = run_id
        self._result = result
        self._news_after = iso(store.integration.watermark - OVERLAP)
        self._seen = array("q")  # 8 bytes a customer
        self.differing: set[int] = set()
        self.began: datetime | None = None
        """The moment, on Postgres's clock, as of which it counts as read."""
        self.operation: BulkOperation | None = None

    def read(self) -> Waits[None]:
        """Raises a ShopifyError where it is not whole; what was merged stays."""
        until = yield from probe(self._store, self._result)
        self._expect()
        if self._result.in_shopify > BULK_ABOVE:
            self.operation = yield from read_in_bulk(
                self._store, self._result.count, self.merge, self.tell
            )
        if self.operation is None:
            pages = _Pages(self._store, self._run_id, self._result, self)
            yield from pages.read(Window(since=None, until=until))
        else:
            self._result.way = "bulk"
        if any(a >= b for a, b in pairwise(self._seen)):  # seldom: it costs ten times the memory
            self._seen = array("q", sorted(set(self._seen)))
        self._result.rows_read = len(self._seen)
        self._refuse_short()

    def _expect(self) -> None:
        """Whoever waits for the reconcile sees from now on how far it has come."""
        integration, rows = self._store.integration, self._result.in_shopify
        transact(
            self._store.pool,
            lambda conn: progress.begin(
                conn, integration.id, kind="reconcile", run_id=self._run_id, expected=rows
            ),
        )

    def merge(self, rows: Sequence[CustomerRow], read_at: datetime) -> Part:
        """Merge a part of the store; safe on any thread."""
        integration = self._store.integration
        how = Read(via="RECONCILE", run_id=self._run_id, sent_at=read_at)

        def work(conn: Conn) -> tuple[customers.Merged, list[int]]:
            integrations.share(conn, integration.id)
            merged = customers.merge(conn, integration, rows, how)
            differing = []
            if merged.unchanged:
                differing = reconciliations.differing(conn, integration, read_at)
            count = len(rows)
            progress.add(conn, integration.id, kind="reconcile", run_id=self._run_id, rows=count)
            return merged, differing

        merged, differing = transact(self._store.pool, work)
        return Part(
            ids=array("q", (row[0] for row in rows)),
            read_at=read_at,
            merged=merged,
            news=self.news(merged, rows),
            differing=differing,
        )

    def tell(self, part: Part) -> None:
        """Count what the merge of a part found."""
        self.began = part.read_at if self.began is None else min(self.began, part.read_at)
        self._seen.extend(part.ids)
        self.differing.update(part.differing)
        self._result.add(part.merged.counts)
        self._result.changed_meanwhile += len(part.news)
        self._result.tell("missing", [n for n in part.merged.inserted if n not in part.news])
        self._result.tell("drifted", [n for n in part.merged.updated if n not in part.news])

    def news(self, merged: customers.Merged, rows: Iterable[CustomerRow]) -> set[int]:
        """Of the rows that were written, those that changed at Shopify since the last pull: the
        next one, or a webhook, would have brought them."""
        written = {*merged.inserted, *merged.updated}
        if not written:
            return set()
        return {r[0] for r in rows if r[0] in written and r[UPDATED_AT] > self._news_after}

    def unseen(self) -> list[int]:
        """Customers that are here, were so before the sweep, and that it has not met."""
        moment = self.began
        assert moment is not None  # an empty store has an empty page

        def work(conn: Conn) -> list[int]:
            living = reconciliations.living_before(conn, self._store.integration.id, moment)
            return [number for number in living if not self._saw(number)]

        return transact(self._store.pool, work)

    def _saw(self, number: int) -> bool:
        place = bisect_left(self._seen, number)
        return place < len(self._seen) and self._seen[place] == number

    def _refuse_short(self) -> None:
        """Shopify's count may lag, and customers may have been deleted meanwhile, but not many."""
        read, counted = self._result.rows_read, self._result.in_shopify
        if counted - read > max(FEW_MISSING, SHARE_MISSING * counted):
            self._forget_operation()
            raise BrokenAnswer(
                self._store.integration.shop,
                f"the sweep is incomplete: it met {read} customers, Shopify counts {counted}; "
                "nothing was deleted",
            )

    def _forget_operation(self) -> None:
        """Or the next reconcile would take up the same short result."""
        operation, integration = self.operation, self._store.integration
        if operation is not None:
            transact(
                self._store.pool,
                lambda conn: bulk_operations.forget(conn, integration.id, operation.id),
            )


class _Pages(PageReader):
    """The whole store by ID, past the search index; no window is stored or moved."""

    operation = "CustomersSweep"

    def __init__(self, store: Store, run_id: str, result: ReconcileResult, sweep: Sweep) -> None:
        super().__init__(store, run_id, result)
        self._sweep = sweep

    def after(self, window: Window, page: Page) -> Window:
        """By cursor alone: a scan by ID whose cursor is refused begins anew."""
        return replace(window, cursor=page.end_cursor)

    def filtered(self, since: datetime | None, until: datetime) -> dict[str, str]:
        return {}

    def _merge(self, before: Window, after: Window, page: Page, reply: Reply) -> None:
        self._sweep.tell(self._sweep.merge(page.rows, reply.sent_at))
