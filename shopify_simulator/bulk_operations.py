"""The bulk operations of one store, from the mutation to the file and the webhook.

Each lives on a thread of its own, which waits on the simulator's clock and then writes the file,
so that the server goes on answering. States and counts change under the store's lock only.
"""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from shopify_simulator.access import missing_scopes, protected_errors
from shopify_simulator.bulk_files import BulkFile, BulkFiles, break_line, write_lines
from shopify_simulator.bulk_query import LIMIT_REACHED, BulkQuery, BulkRefused, read_bulk_query
from shopify_simulator.clock import Clock, stamp
from shopify_simulator.events import Message
from shopify_simulator.faults import BULK_END, Fault
from shopify_simulator.sample import Row
from shopify_simulator.settings import Settings
from shopify_simulator.shop_payloads import bulk_body

GID = "gid://shopify/BulkOperation/"
UNFINISHED = ("CREATED", "RUNNING", "CANCELING")
SUCCESSES = ("COMPLETED", "EXPIRED")
KEPT_FOR = timedelta(days=7)
SETTLE_SECONDS = 1.0

Snapshot = Callable[[Row], list[Row]]
"""From the arguments of `customers` to its rows, ordered by id."""
NextFault = Callable[[str, Row], Fault | None]
Tell = Callable[[list[Message]], None]


@dataclass(frozen=True, kw_only=True)
class State:
    status: str
    error_code: str | None = None
    roots: int = 0
    objects: int = 0
    file: BulkFile | None = None
    url: str | None = None
    partial_url: str | None = None


@dataclass(kw_only=True, eq=False)
class BulkOperation:
    number: int
    asked: BulkQuery
    created: datetime
    due: datetime
    rows: list[Row] | None
    """What is exported; None until it is read when due."""
    state: State = field(default_factory=lambda: State(status="CREATED"))
    completed: datetime | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def as_row(self) -> Row:
        state = self.state
        return {
            "id": f"{GID}{self.number}",
            "type": "QUERY",
            "status": state.status,
            "errorCode": state.error_code,
            "createdAt": stamp(self.created),
            "completedAt": self.completed and stamp(self.completed),
            "objectCount": str(state.objects),
            "rootObjectCount": str(state.roots),
            "fileSize": str(state.file.size) if state.url and state.file else None,
            "url": state.url,
            "partialDataUrl": state.partial_url,
            "query": self.asked.text,
        }


class BulkOperations:
    def __init__(
        self,
        first_number: int,
        *,
        clock: Clock,
        settings: Settings,
        lock: threading.RLock,
        files: BulkFiles,
        snapshot: Snapshot,
        next_fault: NextFault,
        tell: Tell,
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._lock = lock
        self._files = files
        self._snapshot = snapshot
        self._next_fault = next_fault
        self._tell = tell
        self._numbers = itertools.count(first_number)
        self._known: dict[int, BulkOperation] = {}
        self._threads: list[threading.Thread] = []

    def all(self) -> list[Row]:
        """Oldest first."""
        with self._lock:
            return [self._shown(each) for each in self._known.values()]

    def get(self, gid: str) -> Row | None:
        with self._lock:
            known = self._find(gid)
            return None if known is None else self._shown(known)

    def file(self, name: str) -> BulkFile | None:
        with self._lock:
            files = (each.state.file for each in self._known.values())
            return next((file for file in files if file and file.name == name), None)

    def start(self, query: str) -> Row:
        """As the mutation shows it, CREATED; raises BulkRefused."""
        asked = read_bulk_query(query)
        with self._lock:
            unfinished = [each for each in self._known.values() if each.state.status in UNFINISHED]
            if len(unfinished) >= self._settings.bulk_limit:
                raise BulkRefused(LIMIT_REACHED, "LIMIT_REACHED")
            now = self._clock.now()
            at_once = self._settings.bulk_snapshot == "created"
            made = BulkOperation(
                number=next(self._numbers),
                asked=asked,
                created=now,
                due=now + timedelta(seconds=self._settings.bulk_seconds),
                rows=self._snapshot(asked.arguments) if at_once else None,
            )
            shown = made.as_row()
            made.state = State(status="RUNNING")
            self._known[made.number] = made
        thread = threading.Thread(
            target=self._live, args=[made], name="bulk-operation", daemon=True
        )
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()
        return shown

    def cancel(self, gid: str) -> Row:
        """CANCELING, and CANCELED soon after; raises BulkRefused."""
        with self._lock:
            known = self._find(gid)
            if known is None:
                raise BulkRefused("Bulk operation does not exist", None, ["id"])
            if known.state.status not in UNFINISHED:
                state = known.state.status.lower()
                message = f"A bulk operation cannot be canceled when it is {state}"
                raise BulkRefused(message, None)
            known.state = State(status="CANCELING")
            shown = known.as_row()
        self._stop(known)
        return shown

    def settle(self) -> None:
        """Gives what is due a moment to end, so that a poll of a small store shows it done.

        Not to be called under the store's lock.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        with self._lock:
            now = self._clock.now()
            ending = [e for e in self._known.values() if e.due <= now or e.stopped.is_set()]
        for each in ending:
            each.over.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Ends the threads; nothing is told of what they had not finished."""
        with self._lock:
            unfinished = [each for each in self._known.values() if not each.over.is_set()]
        for each in unfinished:
            self._stop(each)
        for thread in self._threads:
            thread.join()

    def _stop(self, known: BulkOperation) -> None:
        known.stopped.set()
        self._clock.wake()

    def _find(self, gid: str) -> BulkOperation | None:
        number = gid.removeprefix(GID)
        return self._known.get(int(number)) if number.isdecimal() else None

    def _shown(self, known: BulkOperation) -> Row:
        gone = known.completed and known.completed + KEPT_FOR <= self._clock.now()
        if gone and known.state.status == "COMPLETED":
            if known.state.file:
                known.state.file.remove()
            known.state = replace(known.state, status="EXPIRED", file=None, url=None)
        return known.as_row()

    # on the operation's own thread

    def _live(self, known: BulkOperation) -> None:
        self._clock.wait_until(known.due, known.stopped.is_set)
        state = self._outcome(known)
        with self._lock:
            if known.stopped.is_set():
                state = State(status="CANCELED")
                if known.state.status != "CANCELING":
                    return  # not canceled: the simulator stops
            if state.status in SUCCESSES:
                known.completed = self._clock.now()
            known.state, known.rows = state, []
            body = bulk_body(known.as_row())
            self._tell([Message(topic="bulk_operations/finish", body=lambda: body)])
            known.over.set()

    def _outcome(self, known: BulkOperation) -> State:
        if known.stopped.is_set():
            return State(status="CANCELED")
        fault = self._next_fault(BULK_END, {})
        if self._denied(known):
            return State(status="FAILED", error_code="ACCESS_DENIED")
        rows = known.rows
        if rows is None:
            with self._lock:
                rows = self._snapshot(known.asked.arguments)
        if fault is not None and fault.kind == "bulk_end":
            return self._forced(known, rows, fault)
        return self._completed(known, rows, fault)

    def _denied(self, known: BulkOperation) -> bool:
        """As BulkOperationErrorCode.ACCESS_DENIED describes it, after the mutation was accepted."""
        asked, settings = known.asked.plan, self._settings
        missing = missing_scopes(asked, settings.scopes)
        return bool(missing or protected_errors(asked, settings.protected_data))

    def _forced(self, known: BulkOperation, rows: list[Row], fault: Fault) -> State:
        """A failure leaves the first half of the rows as partial data."""
        status = fault.options["status"]
        if status != "FAILED":
            return State(status=status, error_code=fault.options.get("errorCode"))
        half = rows[: len(rows) // 2]
        file, lines = self._write(known, half)
        return State(
            status=status,
            error_code=fault.options.get("errorCode", "INTERNAL_SERVER_ERROR"),
            roots=len(half),
            objects=lines,
            file=file,
            partial_url=file.url if half else None,
        )

    def _completed(self, known: BulkOperation, rows: list[Row], fault: Fault | None) -> State:
        kind, options = (fault.kind, fault.options) if fault else (None, {})
        missing = int(options.get("lines", 1)) if kind == "bulk_short" else 0
        file, lines = self._write(known, rows[: len(rows) - missing])
        if kind == "bulk_broken_line":
            break_line(file.path, int(options.get("line", lines // 2)))
        url = file.url if rows and kind != "bulk_no_url" else None
        return State(
            status="COMPLETED",
            roots=len(rows),
            objects=lines + missing,
            file=file,
            url=options["url"] if kind == "bulk_url" else url,
        )

    def _write(self, known: BulkOperation, rows: list[Row]) -> tuple[BulkFile, int]:
        file = self._files.new()
        return file, write_lines(file.path, rows, known.asked.lines, known.stopped.is_set)
