"""Postgres for a receiver that must answer in time: a few threads, a connection each.

psycopg_pool is not used here: after an outage it waits up to minutes before it connects again, and
a thread that waits for a server which hangs cannot be freed. Here an errand that takes too long has
its connection cut off from outside, and any error is answered by a fresh connection for the next.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import psycopg

from shopsync_pipeline.db.engine import Conn, libpq_url, scrubbed
from shopsync_pipeline.errors import DatabaseTrouble

T = TypeVar("T")

LINES = 8
ERRAND_SECONDS = 1.5
"""For one errand at Postgres, and for a waiting one while Postgres ends no other."""

WAIT_SECONDS = 4.0
"""In all, however well Postgres works: Shopify hangs up after 5 s."""

OPTIONS: dict[str, Any] = {
    "connect_timeout": 2,  # the least that libpq knows
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 5000,  # a host that is gone: its kernel acknowledges nothing
    "application_name": "shopsync receiver",
}
SESSION = f"""
  SET TIME ZONE 'UTC';
  SET statement_timeout = {int(ERRAND_SECONDS * 1000)} -- where a disconnect holds the row, say
""".encode()


class Line:
    """A connection, and a second handle on its socket by which another thread can cut it off."""

    def __init__(self, url: str) -> None:
        try:
            self.conn: Conn = psycopg.connect(libpq_url(url), autocommit=True, **OPTIONS)
            self._socket = _second_handle(self.conn)
        except OSError as error:  # no descriptor is left, say
            raise psycopg.OperationalError(str(error)) from None
        self._ready = False

    def make_ready(self) -> None:
        if not self._ready:
            self.conn.execute(SESSION)
            self._ready = True

    def cut(self) -> None:
        """Whoever waits for an answer on it gets an error at once."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.conn.close()
        self._socket.close()


def _second_handle(conn: Conn) -> socket.socket:
    try:
        return socket.socket(fileno=os.dup(conn.fileno()))
    except OSError:
        conn.close()
        raise


def once(url: str, work: Callable[[Conn], T]) -> T:
    """`work` on a connection that is closed then. Raises DatabaseTrouble."""
    try:
        line = Line(url)
        try:
            line.make_ready()
            return work(line.conn)
        finally:
            line.close()
    except psycopg.Error as error:
        raise scrubbed(error) from None


class Errand:
    """What one request wants of Postgres, seen by its thread and by the event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: Line | None = None
        self.late = False
        self.started: float | None = None

    def take(self, line: Line | None) -> bool:
        """Say which line is used from now on; False where it is too late for any."""
        with self._lock:
            self._line = line
            return not self.late

    def give_up(self) -> None:
        with self._lock:
            self.late = True
            if self._line is not None:
                self._line.cut()


class Lines:
    """At most LINES connections, opened as they are needed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._threads = ThreadPoolExecutor(LINES, thread_name_prefix="receiver-postgres")
        self._of_thread = threading.local()
        self._open: set[Line] = set()
        self._ended = monotonic()  # when Postgres last did what an errand wanted

    async def run(self, work: Callable[[Conn], T]) -> T:
        """`work` in one of the threads; it may run twice, on another connection.

        Raises DatabaseTrouble, in time whatever Postgres does.
        """
        errand, begun = Errand(), monotonic()
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, partial(self._do, errand, work)
        )
        try:
            while (left := self._deadline(errand, begun) - monotonic()) > 0:
                if (await asyncio.wait([future], timeout=left))[0]:
                    return future.result()
        finally:
            future.cancel()
        errand.give_up()
        raise DatabaseTrouble("Postgres does not answer in time. Check the server and its load.")

    def _deadline(self, errand: Errand, begun: float) -> float:
        patient_until = max(begun, self._ended) + ERRAND_SECONDS
        if errand.started is not None:
            patient_until = min(patient_until, errand.started + ERRAND_SECONDS)
        return min(patient_until, begun + WAIT_SECONDS)

    def close(self) -> None:
        """What is still at work is cut off."""
        for line in list(self._open):
            line.cut()
        self._threads.shutdown(cancel_futures=True)
        for line in self._open:
            line.close()
        self._open.clear()

    def _do(self, errand: Errand, work: Callable[[Conn], T]) -> T:
        errand.started = monotonic()
        used_before = self._line() is not None
        try:
            return self._attempt(errand, work)
        except DatabaseTrouble:
            if errand.late or not used_before:
                raise
            # Postgres was restarted, failed over or made writable again: a new session knows.
            return self._attempt(errand, work)

    def _attempt(self, errand: Errand, work: Callable[[Conn], T]) -> T:
        answered = True
        try:
            line = self._line() or self._connected()
            answered = errand.take(line)
            if not answered:
                raise DatabaseTrouble("The request was given up before its turn came.")
            line.make_ready()
            return work(line.conn)
        except psycopg.Error as error:
            answered = False
            errand.take(None)
            self._drop()
            raise scrubbed(error) from None
        finally:
            errand.take(None)
            if answered:
                self._ended = monotonic()

    def _line(self) -> Line | None:
        return getattr(self._of_thread, "line", None)

    def _connected(self) -> Line:
        line = Line(self._url)
        self._open.add(line)
        self._of_thread.line = line
        return line

    def _drop(self) -> None:
        line = self._line()
        self._of_thread.line = None
        if line is not None:
            self._open.discard(line)
            line.close()
