"""A whole store by one bulk operation: started or taken up again, waited for, merged as it comes.

    ours from before? ─► else start ─► poll ─► the file, chunk by chunk ─► merge
                              │                    read ahead by a thread
                              └─ Shopify will not: None, and the caller reads pages

That an operation is asked for is written down before, and its id after; both stay until its rows
are used, so that a run that was killed at any moment costs no second operation. Merging a chunk
twice changes nothing.
"""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from typing import TypeVar

from shopsync_pipeline.db import bulk_operations, customers, integrations, progress
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.errors import (
    CLOCKS_MAY_DIFFER,
    BulkFailed,
    BulkUnfinished,
    NeedsScope,
    QueryRefused,
    RetryableError,
    RowRefused,
    Unreachable,
)
from shopsync_pipeline.models import CustomerRow, MergeCounts, Read
from shopsync_pipeline.shopify.bulk import (
    ACCESS_DENIED,
    COMPLETED,
    UNDER_WAY,
    BulkFile,
    BulkOperation,
    asked_of,
    customers_query,
    ours_among,
    started_of,
)
from shopsync_pipeline.shopify.client import BACKOFF, Reply, Waits
from shopsync_pipeline.sync.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

BULK_ABOVE = 10_000
"""Customers, above which a whole store is read in bulk. So many are 40 pages, whose points a
standard store's bucket holds nearly at once; an operation takes longer to begin."""

CHUNK_ROWS = 5_000
"""Rows of one merge: few enough that some chunks are held at once."""

MERGES = 2
"""So many chunks are merged at once, each on a connection of its own: while Postgres writes one,
COPY brings it the other."""

CHUNKS_TO_A_GAP = 8
"""After so many chunks all merges end once. They hold the integration FOR SHARE, and Postgres lets
sharers pass whoever waits to disconnect the store or to move its window."""

FIRST_POLL_SECONDS = 1.0
POLLS_GROW_BY = 1.5
LAST_POLL_SECONDS = 20.0
PATIENCE_SECONDS = 3600.0
SLOT_POLL_SECONDS = 1.0

TAKEN_UP_FOR = timedelta(hours=2)
"""Since it ended. An older result is not what somebody asks for who wants the store read again, and
would bring back customers that were deleted since."""

PAGES_FOR = timedelta(days=7)
"""After an operation that did not end well."""

LISTED = 10

Count = Callable[[Reply], None]
Merge = Callable[[list[CustomerRow], datetime], T]
Tell = Callable[[T], None]
Ours = tuple[BulkOperation, datetime]
"""An operation, and the moment as of which its rows count as read; all such moments are on
Postgres's clock."""


def load(
    store: Store,
    run_id: str,
    known: datetime | None,
    count: Count,
    add: Callable[[MergeCounts], None],
) -> Waits[tuple[str, datetime] | None]:
    """Merge the whole store; the operation's id, and the watermark that is now stored: `known`,
    the one to be believed, or the later moment as of which the operation read.

    None where Shopify will not give an operation. Raises a ShopifyError, and then the watermark
    stays where it was.
    """
    integration = store.integration

    def merge(rows: list[CustomerRow], read_at: datetime) -> MergeCounts:
        how = Read(via="BULK", run_id=run_id, sent_at=read_at)

        def work(conn: Conn) -> MergeCounts:
            integrations.share(conn, integration.id)
            counts = customers.merge(conn, integration, rows, how).counts
            progress.add(conn, integration.id, kind="sync", run_id=run_id, rows=len(rows))
            return counts

        return transact(store.pool, work)

    operation = yield from read_in_bulk(store, count, merge, add)
    if operation is None:
        return None
    watermark = transact(
        store.pool,
        lambda conn: bulk_operations.finish(
            conn, integration, operation.id, known, operation.created_at
        ),
    )
    return operation.id, watermark


def read_in_bulk(
    store: Store, count: Count, merge: Merge[T], tell: Tell[T]
) -> Waits[BulkOperation | None]:
    """Give all customers of the store to `merge`, a chunk at a time, with the moment as of which
    they count as read, and what it returns to `tell`. `count` is told each answer of Shopify.

    `merge` runs on threads, MERGES at a time; the others are called by the caller's own.

    Returns the operation once every row it counted was merged; the caller then forgets it
    (bulk_operations.forget) with what it made of the rows. None, and nothing merged, where
    Shopify will not start or execute one for this app, or one failed lately. Raises BulkFailed
    where it ended badly or its result is not whole, BulkUnfinished after PATIENCE_SECONDS, and
    LeftOut as soon as the store has left or is paused: the next load takes the operation up.
    """
    if read(store.pool, lambda conn: _failed_lately(conn, store)):
        log.info("%s: reading pages, for a bulk operation failed lately", store.integration.shop)
        return None
    try:
        ours = yield from _under_way_or_started(store, count)
    except (NeedsScope, QueryRefused) as refused:
        ours = None
        _forget(store, None)
        log.warning("%s: reading pages, for no bulk operation: %s", refused.shop, refused.what)
    if ours is None:
        return None
    operation, read_at = ours
    try:
        operation = yield from _ended(store, count, operation)
        if operation.error_code == ACCESS_DENIED:
            log.warning("%s: reading pages, for the bulk operation was denied", operation.id)
            _forget(store, operation.id)
            return None
        yield from _taken(store, operation, lambda rows: merge(rows, read_at), tell)
    except RowRefused:
        _forget(store, operation.id)  # once the row is mended, its result still has it as it was
        raise
    except BulkFailed:
        transact(
            store.pool,
            lambda conn: bulk_operations.fail(conn, store.integration.id, operation.id),
        )
        raise
    return operation


def _failed_lately(conn: Conn, store: Store) -> bool:
    since = clock(conn) - PAGES_FOR
    return bulk_operations.failed_since(conn, store.integration.id, since)


def _under_way_or_started(store: Store, count: Count) -> Waits[Ours | None]:
    found = yield from _left_behind(store, count)
    if found is not None:
        return found
    asked_at = read(store.pool, clock)
    _remember(store, None, asked_at)
    try:
        found, refusal = yield from _started(store, count, asked_at)
    except RetryableError:
        found = yield from _listed(store, count, asked_at)  # the answer may have been lost
        if found is None:
            raise
        return found
    if refusal is not None:
        found = yield from _listed(store, count, asked_at)  # it may be ours that is in the way
    if found is None:
        _forget(store, None)
        shop = store.integration.shop
        log.warning("%s: reading pages, for a bulk operation was refused (%s)", shop, refusal)
    return found


def _left_behind(store: Store, count: Count) -> Waits[Ours | None]:
    """An operation that an earlier run asked for and did not use."""
    held = read(store.pool, lambda conn: bulk_operations.held(conn, store.integration.id))
    if held is None:
        return None
    operation_id, read_at = held
    if operation_id is None:  # that run did not hear Shopify's answer
        return (yield from _listed(store, count, read_at))
    operation = yield from _asked(store, count, operation_id)
    if operation is None or not _good(operation, read(store.pool, clock)):
        _forget(store, operation_id)
        return None
    log.info("%s: taking up bulk operation %s", store.integration.shop, operation_id)
    return operation, read_at


def _good(operation: BulkOperation, now: datetime) -> bool:
    """Whether it is under way, or ended well and not too long ago."""
    if operation.status == COMPLETED:
        return now - (operation.completed_at or operation.created_at) < TAKEN_UP_FOR
    return operation.status in UNDER_WAY


def _listed(store: Store, count: Count, asked_at: datetime) -> Waits[Ours | None]:
    """The operation that was asked for then, if Shopify began it."""
    integration = store.integration
    reply = yield from store.ask("BulkOperations", {"first": LISTED})
    count(reply)
    now = read(store.pool, clock)
    for operation in ours_among(integration.shop, reply.answer.data, integration.id):
        under_way = operation.status in UNDER_WAY
        if under_way or (
            operation.created_at > asked_at - CLOCKS_MAY_DIFFER and _good(operation, now)
        ):
            return _remembered(store, operation, asked_at)
    return None


def _started(
    store: Store, count: Count, asked_at: datetime
) -> Waits[tuple[Ours | None, str | None]]:
    """The new operation, or why there is none."""
    integration = store.integration
    query = customers_query(integration.id)
    reply = yield from store.change("BulkOperationRun", {"query": query}, once=True)
    count(reply)
    operation = started_of(integration.shop, reply.answer.data)
    if isinstance(operation, str):
        return None, operation
    log.info("%s: started bulk operation %s", integration.shop, operation.id)
    return _remembered(store, operation, asked_at), None


def _remembered(store: Store, operation: BulkOperation, asked_at: datetime) -> Ours:
    """The clocks of Shopify and of Postgres differ; too early only lets other reads win."""
    read_at = min(operation.created_at, asked_at)
    _remember(store, operation.id, read_at)
    return operation, read_at


def _remember(store: Store, operation_id: str | None, read_at: datetime) -> None:
    transact(
        store.pool,
        lambda conn: bulk_operations.remember(conn, store.integration.id, operation_id, read_at),
    )


def _forget(store: Store, operation_id: str | None) -> None:
    transact(
        store.pool,
        lambda conn: bulk_operations.forget(conn, store.integration.id, operation_id),
    )


def _ended(store: Store, count: Count, operation: BulkOperation) -> Waits[BulkOperation]:
    """The operation as COMPLETED, or denied."""
    shop = store.integration.shop
    wait, patience = FIRST_POLL_SECONDS, PATIENCE_SECONDS
    while operation.status in UNDER_WAY:
        if patience <= 0:
            raise BulkUnfinished(
                shop, f"bulk operation {operation.id} is not done ({operation.rows} rows so far)"
            )
        yield wait
        _require_wanted(store)
        patience -= wait
        wait = min(wait * POLLS_GROW_BY, LAST_POLL_SECONDS)
        asked = yield from _asked(store, count, operation.id)
        if asked is None:
            raise BulkFailed(shop, f"Shopify does not know bulk operation {operation.id} any more")
        operation = asked
    if operation.error_code == ACCESS_DENIED:
        return operation
    if operation.status != COMPLETED:
        why = f"{operation.status} {operation.error_code or ''}".strip()
        raise BulkFailed(shop, f"bulk operation {operation.id} ended as {why}")
    if operation.url is None and operation.rows:
        raise BulkFailed(shop, f"bulk operation {operation.id} has rows, but no result")
    return operation


def _require_wanted(store: Store) -> None:
    """Raises LeftOut where the store has left or is paused: nobody waits for its rows then."""
    transact(store.pool, lambda conn: integrations.share(conn, store.integration.id))


def _asked(store: Store, count: Count, operation_id: str) -> Waits[BulkOperation | None]:
    reply = yield from store.ask("BulkOperationById", {"id": operation_id})
    count(reply)
    return asked_of(store.integration.shop, reply.answer.data)


def _taken(
    store: Store, operation: BulkOperation, merge: Callable[[list[CustomerRow]], T], tell: Tell[T]
) -> Waits[None]:
    shop, taken = store.integration.shop, 0
    if operation.url is not None:
        while not store.bulk.acquire(blocking=False):
            yield SLOT_POLL_SECONDS
            _require_wanted(store)
        try:
            with closing(store.client.bulk_file(operation.url)) as file:
                taken = yield from _all_taken(file, merge, tell)
        finally:
            store.bulk.release()
    if taken != operation.rows:
        raise BulkFailed(
            shop, f"bulk operation {operation.id} has {operation.rows} rows, its result {taken}"
        )
    log.info("%s: merged the %d rows of bulk operation %s", shop, taken, operation.id)


def _all_taken(
    file: BulkFile, merge: Callable[[list[CustomerRow]], T], tell: Tell[T]
) -> Waits[int]:
    """How many rows there were. While Postgres merges some, the next are read."""
    taken, tries, position, chunks = 0, 0, 0, 0
    merging: deque[Future[T]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="bulk-read") as reader,
        ThreadPoolExecutor(MERGES, thread_name_prefix="bulk-merge") as mergers,
    ):
        ahead = reader.submit(file.rows, CHUNK_ROWS)
        while True:
            try:
                rows = ahead.result()
            except Unreachable:
                tries = 0 if file.position > position else tries
                position = file.position
                if tries == len(BACKOFF):
                    raise
                yield BACKOFF[tries]
                tries += 1
                ahead = reader.submit(file.rows, CHUNK_ROWS)
                continue
            if not rows:
                break
            ahead = reader.submit(file.rows, CHUNK_ROWS)
            chunks += 1
            left = 0 if chunks % CHUNKS_TO_A_GAP == 0 else MERGES - 1
            while len(merging) > left:
                tell(merging.popleft().result())
            merging.append(mergers.submit(merge, rows))
            taken += len(rows)
            yield 0.0  # let other stores have the worker
        while merging:
            tell(merging.popleft().result())
    return taken
