"""The incremental pull of one store: a window on Shopify's clock, read page by page.

    since = watermark - OVERLAP     covers the lag of Shopify's search index
    until = Shopify's own "now" at the first answer, frozen, so that the scan ends

Rows and progress commit together, one transaction a page. After a kill at any moment the next
pull goes on by cursor in the same window, or from `reached` if Shopify refuses the cursor,
and then reads the rest up to now. The watermark moves only with the last page.

A large store that is to be read whole is loaded by a bulk operation first (sync.bulk); a window
from just before the operation began then brings what changed since.
"""

import logging
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from shopsync_pipeline.db import customers, integrations, progress, unheard, windows
from shopsync_pipeline.db.engine import Conn, transact
from shopsync_pipeline.errors import (
    BrokenAnswer,
    CostTooHigh,
    CursorRefused,
    FilterIgnored,
    PagingStuck,
)
from shopsync_pipeline.models import Integration, MergeCounts, Mode, Read, Via, Window
from shopsync_pipeline.shopify.client import Reply, Waits
from shopsync_pipeline.shopify.customers import PAGE_SIZE, Page, page_of, window_filter
from shopsync_pipeline.sync.bulk import BULK_ABOVE, load
from shopsync_pipeline.sync.store import Store, probed_of

log = logging.getLogger(__name__)

OVERLAP = timedelta(minutes=15)

CLOCKS_APART = timedelta(minutes=5)
"""Shopify's servers from each other, at the most: of OVERLAP enough is left for its index."""


@dataclass(kw_only=True)
class PullResult:
    """What one pull did. `points` are API cost points, `throttled` and `seconds` are seconds;
    `since` None means from the beginning. `in_shopify` is how many customers the store has."""

    since: datetime | None = None
    until: datetime | None = None
    in_shopify: int = 0
    bulk_operation: str | None = None
    counts: MergeCounts = field(default_factory=MergeCounts)
    pages: int = 0
    requests: int = 0
    points: float = 0.0
    throttled: float = 0.0
    seconds: float = 0.0

    def add(self, counts: MergeCounts) -> None:
        self.counts += counts

    def count(self, reply: Reply) -> None:
        self.requests += reply.tries
        self.throttled += reply.waited
        self.points += reply.answer.cost.spent if reply.answer.cost else 0.0


def pull(
    store: Store,
    result: PullResult,
    *,
    run_id: str,
    mode: Mode = "incremental",
    updated_since: datetime | None = None,
) -> Waits[None]:
    """Read what changed and merge it; the caller holds the integration's lock.

    `full` reads everything; `updated_since` can only widen the window, since a watermark never
    moves past what was not read. Raises a ShopsyncError, with all earlier pages committed and
    counted in `result`, whose `until` is then None.
    """
    began = time.monotonic()
    log.info(
        "[SHOPIFY CRON] Syncing customers for %s (%s)",
        store.integration.organization_id,
        store.integration.shop,
    )
    try:
        result.until = yield from _pulled(store, result, run_id, mode, updated_since)
    finally:
        result.seconds = time.monotonic() - began


def _pulled(
    store: Store,
    result: PullResult,
    run_id: str,
    mode: Mode,
    updated_since: datetime | None,
) -> Waits[datetime]:
    """The end of the last window that was read, on Shopify's clock."""
    now = yield from probe(store, result)
    known = believed(store.integration, now)
    since = wanted_since(known, mode, updated_since)
    result.since = since
    reader = PageReader(store, run_id, result)
    watermark = store.integration.watermark
    window = resumable(known, mode, since)
    _expect(store, run_id, result.in_shopify if since is None and window is None else None)
    if window is not None:
        yield from reader.read(window)
        watermark, since = window.until, window.until - OVERLAP
        now = yield from probe(store, result)  # the resumed window may have taken hours
        result.since = window.since
    elif since is None and result.in_shopify > BULK_ABOVE:
        loaded = yield from load(store, run_id, known.watermark, result.count, result.add)
        if loaded is not None:
            result.bulk_operation, watermark = loaded
            since = watermark - OVERLAP
            now = yield from probe(store, result)
    window = Window(since=since, until=now)
    transact(
        store.pool,
        lambda conn: windows.open_window(conn, store.integration, window, watermark),
    )
    yield from reader.read(window)
    return now


def _expect(store: Store, run_id: str, rows: int | None) -> None:
    """Whoever waits for the pull sees from now on how far it has come; of how many rows, where it
    reads the whole store."""
    transact(
        store.pool,
        lambda conn: progress.begin(
            conn, store.integration.id, kind="sync", run_id=run_id, expected=rows
        ),
    )


def believed(integration: Integration, now: datetime) -> Integration:
    """Without what ends after Shopify's `now`: its clock was ahead then, or is behind now, so that
    nobody knows since when nothing was read. Without a watermark the whole store is."""
    latest = now + CLOCKS_APART
    if integration.window is not None and integration.window.until > latest:
        integration = replace(integration, window=None)
    if integration.watermark is not None and integration.watermark > latest:
        log.warning(
            "%s (%s): reading the whole store: it was read up to %s, and Shopify's clock says %s",
            *(integration.organization_id, integration.shop, integration.watermark, now),
        )
        return replace(integration, watermark=None)
    return integration


def wanted_since(
    integration: Integration, mode: Mode, updated_since: datetime | None
) -> datetime | None:
    """Where the window must begin; None for the beginning of the store."""
    if mode == "full" or integration.watermark is None:
        return None
    since = integration.watermark - OVERLAP
    return since if updated_since is None else min(since, updated_since)


def resumable(integration: Integration, mode: Mode, since: datetime | None) -> Window | None:
    """The open window, if finishing it reads everything from `since` on.

    Who asks for a full sync of a store that is here already wants every row read again, also
    those that an open window has behind it.
    """
    window = integration.window
    if window is None or (mode == "full" and integration.watermark is not None):
        return None
    covers = window.since is None or (since is not None and window.since <= since)
    return window if covers else None


def probe(store: Store, result: PullResult) -> Waits[datetime]:
    """Check token, scopes and shop before anything is read; one customer is read along, for only
    that shows whether Shopify hides names. Returns Shopify's "now"."""
    reply = yield from store.ask("StoreProbe", {})
    result.count(reply)
    found = probed_of(store.integration.shop, reply.answer.data)
    result.in_shopify = found.customers
    transact(
        store.pool,
        lambda conn: integrations.record_probe(
            conn,
            store.integration.id,
            shop_id=found.shop_id,
            customers_count=found.customers,
            scopes=found.scopes,
        ),
    )
    if reply.answer.served_at is None:
        raise BrokenAnswer(store.integration.shop, "the answer has no Date to end the window at")
    return reply.answer.served_at


class PageReader:
    """Reads windows of one store into `customers`; keeps the page size that Shopify has accepted.

    Each page is one transaction with `progress`, which moves the stored window along.
    """

    via: Via = "PULL"
    operation = "CustomersPage"

    def __init__(self, store: Store, run_id: str, result: PullResult) -> None:
        self._store = store
        self._run_id = run_id
        self._result = result
        self._page_size = PAGE_SIZE

    def read(self, window: Window) -> Waits[None]:
        """Read from `window`'s position, which is the stored one, to its end."""
        cursor, base = window.cursor, window.since
        restarted_at: set[datetime | None] = set()
        seen: set[str | None] = {cursor}
        while True:
            since = base if cursor else window.reached or window.since
            try:
                reply = yield from self._ask(cursor, since, window.until)
            except CursorRefused:
                if cursor is None or window.reached in restarted_at:
                    raise  # no cursor was sent, or starting again here led nowhere
                restarted_at.add(window.reached)
                cursor, base, seen = None, window.reached or window.since, set()
                continue
            self._check_clock(window, reply)
            page = page_of(self._store.integration.shop, reply.answer.data)
            self._check(page, since, seen)
            position = self.after(window, page)
            self._merge(window, position, page, reply)
            self._result.pages += 1
            self._result.count(reply)
            if page.end_cursor is None:
                return
            window, cursor = position, page.end_cursor
            yield 0.0  # let other stores have the worker

    def after(self, window: Window, page: Page) -> Window:
        """The position behind `page`.

        A row shows its newest `updatedAt` even where a stale index still sorts it lower. Such a
        row is at most as old as the index's lag, and says nothing of how far the scan is:
        restarting there would skip all between.
        """
        reached = page.last_updated(window.until - OVERLAP)
        if reached is None or (window.reached is not None and reached < window.reached):
            reached = window.reached
        return replace(window, cursor=page.end_cursor, reached=reached)

    def _ask(self, cursor: str | None, since: datetime | None, until: datetime) -> Waits[Reply]:
        while True:
            variables = {"first": self._page_size, "after": cursor, **self.filtered(since, until)}
            try:
                return (yield from self._store.ask(self.operation, variables))
            except CostTooHigh:
                if self._page_size == 1:
                    raise
                self._page_size //= 2

    def filtered(self, since: datetime | None, until: datetime) -> dict[str, str]:
        """The variables of `operation` beside `first` and `after`."""
        return {"query": window_filter(since, until)}

    def _check_clock(self, window: Window, reply: Reply) -> None:
        """The window's end is a moment of the past, or what happens until then would be skipped."""
        served = reply.answer.served_at
        if served is not None and served < window.until - CLOCKS_APART:
            what = f"Shopify's clock went back from {window.until} to {served}"
            raise BrokenAnswer(self._store.integration.shop, what)

    def _check(self, page: Page, since: datetime | None, seen: set[str | None]) -> None:
        """A row above the window is newer data met through a stale index, and welcome."""
        shop = self._store.integration.shop
        first = page.first_updated()
        if since and first and first < since.replace(microsecond=0):
            raise FilterIgnored(shop, "Shopify gave customers from before the window asked for")
        if page.has_next and page.end_cursor is None:
            raise BrokenAnswer(shop, "there are more pages, but no cursor to them")
        if page.end_cursor is not None:
            if page.end_cursor in seen:
                raise PagingStuck(shop, "the same end cursor came twice")
            seen.add(page.end_cursor)

    def _merge(self, before: Window, after: Window, page: Page, reply: Reply) -> None:
        integration = self._store.integration
        read = Read(via=self.via, run_id=self._run_id, sent_at=reply.sent_at)

        def work(conn: Conn) -> MergeCounts:
            integrations.hold(conn, integration.id)  # it is written below, after the customers
            merged = customers.merge(conn, integration, page.rows, read)
            self.progress(conn, before, after, page, merged)
            rows = merged.counts.rows
            progress.add(conn, integration.id, kind="sync", run_id=self._run_id, rows=rows)
            return merged.counts

        self._result.add(transact(self._store.pool, work))

    def progress(
        self, conn: Conn, before: Window, after: Window, page: Page, merged: customers.Merged
    ) -> None:
        """Record that `page` is merged, and what webhooks should have told of. Raises SyncConflict
        where another pull moved the window."""
        written = [*merged.inserted, *merged.updated]
        if written and self._store.integration.realtime_since is not None:
            unheard.record(conn, self._store.integration, self._run_id, written)
        if page.end_cursor is None:
            windows.finish_window(conn, self._store.integration, before)
        else:
            windows.advance_window(conn, self._store.integration, before, after)
