"""One store's webhook events, from hints to rows.

    claim ─► what they point at ─► read those customers again by id ─► merge and settle at once

Many events for one customer are one read. What the read says decides, never the event: one that
is late, repeated, forged or out of order can at most cost a read.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from shopsync_pipeline.db import alerts, customers, inbox, integrations, requests
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.db.inbox import Ending
from shopsync_pipeline.errors import CostTooHigh, QueryRefused, RowRefused
from shopsync_pipeline.models import CustomerRow, Read, Window
from shopsync_pipeline.shopify.client import Reply, Waits
from shopsync_pipeline.shopify.customers import IDS_AT_ONCE, Page, found_of, gid_of, updated_at
from shopsync_pipeline.sync.pull import PageReader, PullResult, probe
from shopsync_pipeline.sync.store import Store
from shopsync_pipeline.sync.verdict import Marked, Verdict, ending, judge
from shopsync_pipeline.sync.watch import event

log = logging.getLogger(__name__)

SCAN_ABOVE = 200
"""Customers hinted at by one claim, above which one scan is cheaper than reads by id."""

OLDEST_SCANNED = timedelta(days=1)
"""Shopify delivers up to a day late; an older hint would make the scan read half the store."""

PROOF_AFTER = timedelta(seconds=30)
"""A read by id lags behind by seconds at most, as far as anybody has seen."""

FEW_MISSING = 100
SHARE_MISSING = 0.05
"""More customers than both of these unexpectedly gone at once are no deletions but a fault."""

TOO_MANY_MISSING = (
    "Shopify did not find more customers than can have been deleted; nothing was deleted here, and "
    "a reconcile is filed."
)


class CustomerEvents:
    """Reads and settles the customer events of one store, in the name of one run.

    `at_work` is kept to the ids of the events that are worked on at the moment.
    """

    def __init__(self, store: Store, run_id: str, at_work: list[str]) -> None:
        self._store = store
        self._run_id = run_id
        self._at_once = IDS_AT_ONCE
        self._too_many_missing = False
        self._at_work = at_work

    def process(self, marked: Sequence[Marked]) -> Waits[None]:
        """Raises a ShopifyError or LeftOut; what was settled before stays so."""
        left = yield from self._scanned(marked)
        while left:
            batch, left = _first(left, self._at_once)
            self._at_work[:] = [each.event.id for each in batch]
            try:
                found, how = yield from self._read(batch)
            except CostTooHigh:
                if self._at_once == 1:
                    raise
                self._at_once //= 2
                left = [*batch, *left]
                continue
            self._settle(batch, found, how)
            yield 0.0  # let other stores have the worker

    def _scanned(self, marked: Sequence[Marked]) -> Waits[list[Marked]]:
        """Settle a mass edit by one scan; returns what must still be read by id."""
        oldest = read(self._store.pool, clock) - OLDEST_SCANNED
        many = {m.event.id: m for m in marked if m.at and m.at > oldest and m.scannable}
        if _customers(many) > SCAN_ABOVE:
            settled = transact(self._store.pool, lambda conn: self._end_read(conn, many))
            marked = [each for each in marked if each.event.id not in settled]
            many = {event_id: m for event_id, m in many.items() if event_id not in settled}
        if _customers(many) <= SCAN_ABOVE:
            return list(marked)
        until = yield from probe(self._store, PullResult())
        scan = _Scan(self._store, self._run_id, PullResult())
        since = min(each.at for each in many.values() if each.at)
        try:
            yield from scan.read(Window(since=since, until=until))
        except QueryRefused as refused:
            log.warning("[Shopify Customer Webhook] Read by id, not by a scan: %s", refused)
            return list(marked)
        self._tell(scan.written)
        settled = transact(self._store.pool, lambda conn: self._end_shown(conn, many, scan))
        return [each for each in marked if each.event.id not in settled]

    def _end_read(self, conn: Conn, many: Mapping[str, Marked]) -> set[str]:
        """Settle what an earlier scan has read since the event arrived: of one mass edit each
        claim would scan the same customers again."""
        wanted = list(many.values())
        rows = customers.read_since(
            conn,
            self._store.integration,
            [each.customer_id for each in wanted],
            [each.event.received_at for each in wanted],
        )
        ends = [
            ending(each, "unchanged", "read already")
            for each in wanted
            if each.at and each.customer_id in rows and rows[each.customer_id] >= each.at
        ]
        inbox.settle(conn, self._run_id, ends)
        return {end.event_id for end in ends}

    def _end_shown(self, conn: Conn, many: Mapping[str, Marked], scan: "_Scan") -> set[str]:
        """Settle what the scan has shown; whether a deletion is lifted only a read by id tells."""
        shown = [each for each in many.values() if scan.shows(each)]
        ids = [each.customer_id for each in shown]
        deleted = customers.known(conn, self._store.integration, ids)
        ends = [
            _told(ending(each, "unchanged"), scan.written)
            for each in shown
            if not deleted.get(each.customer_id, False)
        ]
        inbox.settle(conn, self._run_id, ends)
        return {end.event_id for end in ends}

    def _read(self, batch: Sequence[Marked]) -> Waits[tuple[dict[int, CustomerRow], Read]]:
        ids = sorted(set().union(*(each.ids for each in batch)))
        gids = [gid_of(number) for number in ids]
        reply = yield from self._store.ask("CustomersById", {"ids": gids})
        how = Read(via="WEBHOOK", run_id=self._run_id, sent_at=reply.sent_at, by_id=True)
        shop = self._store.integration.shop
        return found_of(shop, ids, reply.answer.data), how

    def _settle(self, batch: Sequence[Marked], found: dict[int, CustomerRow], how: Read) -> None:
        """Merge and settle in one transaction. A row that Postgres refuses is found by halving, so
        that it takes nobody with it."""
        try:
            written = transact(self._store.pool, lambda conn: self._merge(conn, batch, found, how))
        except RowRefused as refused:
            halves = _halves(batch)
            for half in halves:
                self._settle(half, found, how)
            if not halves:
                reasons = {each.event.id: str(refused) for each in batch}
                transact(self._store.pool, lambda conn: inbox.fail(conn, self._run_id, reasons))
            return
        self._tell(written)

    def _merge(
        self, conn: Conn, batch: Sequence[Marked], found: dict[int, CustomerRow], how: Read
    ) -> dict[int, str]:
        """What became of each customer that was written."""
        integration = self._store.integration
        integrations.share(conn, integration.id)
        still = inbox.held(conn, self._run_id, [each.event.id for each in batch])
        ours = [each for each in batch if each.event.id in still]
        ids = set().union(*(each.ids for each in ours))
        rows = [row for number, row in found.items() if number in ids]
        merged = customers.merge(conn, integration, rows, how)
        missing = [m.customer_id for m in ours if m.customer_id not in found]
        verdict = judge(ours, found, customers.known(conn, integration, missing))
        self._decide_doubts(conn, verdict)
        buried = customers.bury(conn, integration, verdict.graves, how)
        written = _written(merged) | dict.fromkeys(buried, "deleted")
        inbox.settle(conn, self._run_id, [_told(end, written) for end in verdict.endings])
        inbox.postpone(conn, self._run_id, verdict.delays)
        inbox.look_again(conn, verdict.unproved, PROOF_AFTER)
        return written

    def _decide_doubts(self, conn: Conn, verdict: Verdict) -> None:
        """Bury the customers nobody told of, unless they are so many that it must be a fault."""
        if not verdict.in_doubt:
            return
        if self._too_many_missing or self._are_too_many(conn):
            self._refuse_missing(conn, verdict)
            return
        for each in verdict.in_doubt:
            verdict.graves.setdefault(each.customer_id, None)
            verdict.endings.append(ending(each, "missing"))

    def _are_too_many(self, conn: Conn) -> bool:
        store = self._store.integration.id
        missing = inbox.missing(conn, store)
        if missing <= FEW_MISSING:
            return False
        return missing > SHARE_MISSING * (missing + customers.living(conn, store))

    def _refuse_missing(self, conn: Conn, verdict: Verdict) -> None:
        integration = self._store.integration
        self._too_many_missing = True
        verdict.endings += [ending(m, "refused", TOO_MANY_MISSING) for m in verdict.in_doubt]
        inbox.give_up_missing(conn, integration.id, TOO_MANY_MISSING)
        requests.file(conn, kind="reconcile", organization_id=integration.organization_id)
        remedy = "See what the reconcile of customer_reconciliation found in Dagster."
        today = f"{clock(conn):%Y-%m-%d}"
        alert = event("customers_missing", integration, TOO_MANY_MISSING, remedy, today)
        alerts.file_event(conn, alert)
        log.error(
            "[Shopify Customer Webhook] %s, %s: %s",
            integration.organization_id,
            integration.shop,
            TOO_MANY_MISSING,
        )

    def _tell(self, written: dict[int, str]) -> None:
        integration = self._store.integration
        for number, outcome in written.items():
            log.info(
                "[Shopify Customer Webhook] Customer %s: %s of %s (%s)",
                outcome,
                number,
                integration.organization_id,
                integration.shop,
            )


class _Scan(PageReader):
    """A window read for its customers; the stored window and the watermark stay as they are."""

    via = "WEBHOOK"

    def __init__(self, store: Store, run_id: str, result: PullResult) -> None:
        super().__init__(store, run_id, result)
        self.written: dict[int, str] = {}
        self._seen: dict[int, datetime] = {}

    def _merge(self, before: Window, after: Window, page: Page, reply: Reply) -> None:
        """A row that Postgres refuses is found by halving and left out: it counts as not shown."""
        try:
            super()._merge(before, after, page, reply)
        except RowRefused:
            middle = len(page.rows) // 2
            for rows in (page.rows[:middle], page.rows[middle:]) if middle else ():
                self._merge(before, after, replace(page, rows=rows), reply)

    def progress(
        self, conn: Conn, before: Window, after: Window, page: Page, merged: customers.Merged
    ) -> None:
        self._seen |= {row[0]: updated_at(row) for row in page.rows}
        self.written |= _written(merged)

    def shows(self, each: Marked) -> bool:
        """Whether a page had the customer as new as the event tells."""
        shown = self._seen.get(each.customer_id)
        return shown is not None and each.at is not None and shown >= each.at


def _customers(marked: Mapping[str, Marked]) -> int:
    return len({each.customer_id for each in marked.values()})


def _written(merged: customers.Merged) -> dict[int, str]:
    return {
        **dict.fromkeys(merged.inserted, "created"),
        **dict.fromkeys(merged.updated, "updated"),
    }


def _first(marked: Sequence[Marked], most: int) -> tuple[list[Marked], list[Marked]]:
    """The events of the first customers, at most `most` ids in all, and the rest. All events of
    one customer go together; one with a failed event goes alone."""
    ids: set[int] = set()
    for each in marked:
        if ids and (len(ids | each.ids) > most or each.event.attempts):
            break
        ids |= each.ids
        if each.event.attempts:
            break
    batch = [each for each in marked if each.ids <= ids]
    chosen = {each.event.id for each in batch}
    return batch, [each for each in marked if each.event.id not in chosen]


def _halves(batch: Sequence[Marked]) -> list[list[Marked]]:
    """Two parts by customer; none where there is only one customer."""
    ids = sorted({each.customer_id for each in batch})
    if len(ids) == 1:
        return []
    lower = set(ids[: len(ids) // 2])
    return [
        [each for each in batch if each.customer_id in lower],
        [each for each in batch if each.customer_id not in lower],
    ]


def _told(end: Ending, written: dict[int, str]) -> Ending:
    """With what the merge did of that customer; that nobody told of its end stays said."""
    if end.outcome == "missing":
        return end
    return replace(end, outcome=written.get(end.customer_id or 0, end.outcome))
