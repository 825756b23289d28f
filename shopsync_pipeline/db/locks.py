"""One pull at a time per integration, one drain, and one renewal of a token, by advisory locks of
Postgres.

All pull locks of a run are held on one connection, so that a thousand stores do not need a
thousand connections. When that connection is lost, so are the locks: the merge's order rule
and the check on the window keep the data right all the same.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn, connect, open_connection, scrubbed
from shopsync_pipeline.db.inbox import CHANNEL
from shopsync_pipeline.errors import DatabaseTrouble

DRAIN_KEY = "hashtextextended('drain', 0)"
DRAIN_NAME = "shopsync drain "
RUN_NAME = "shopsync run "
PRESENCE_SECONDS = 5.0

HELD = """
SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""The keys (hashtextextended of a name) of all locks that somebody holds."""


class IntegrationLocks:
    """Safe to share between threads; opens a connection of its own, and another when it is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._conn = open_connection(url)
        self._mutex = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()

    def try_lock(self, integration_id: str) -> bool:
        """Whether it is held now, until `unlock` or the end of the session."""
        with self._mutex:
            try:
                return self._ask("pg_try_advisory_lock", integration_id)
            except psycopg.OperationalError:
                self._conn.close()
                self._conn = open_connection(self._url)
            try:
                return self._ask("pg_try_advisory_lock", integration_id)
            except psycopg.Error as error:
                raise scrubbed(error) from None

    def unlock(self, integration_id: str) -> None:
        """A session that is lost holds nothing, so there is nothing to say of it."""
        with self._mutex, suppress(psycopg.OperationalError):
            self._ask("pg_advisory_unlock", integration_id)

    def _ask(self, function: str, integration_id: str) -> bool:
        row = self._conn.execute(
            f"SELECT {function}(hashtextextended(%s, 0))",
            [integration_id],
        ).fetchone()
        return row is not None and bool(row[0])


def lock_renewal(conn: Conn, shop: str, client_id: str | None) -> None:
    """Until the transaction ends, nobody else renews this app's token for this store."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", [f"{shop} {client_id}"])


class DrainSession:
    """The session of one drain: its presence, the lock `drain`, and what it hears of the inbox.

    Its name in pg_stat_activity tells which run it belongs to: a run without a session is dead,
    whatever Dagster says of it. Postgres gives up a client whose machine is gone after half a
    minute, and with it the lock.
    """

    def __init__(self, url: str, run_id: str) -> None:
        self._conn = open_connection(url)
        self._conn.execute(
            """
            SELECT set_config('application_name', %s, false),
              set_config('tcp_keepalives_idle', '10', false),
              set_config('tcp_keepalives_interval', '5', false),
              set_config('tcp_keepalives_count', '4', false)
            """,
            [DRAIN_NAME + run_id],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()

    def try_lock(self) -> bool:
        """Whether this is the one live drain now; from then on it listens."""
        row = self._conn.execute(f"SELECT pg_try_advisory_lock({DRAIN_KEY})").fetchone()
        if row is None or not row[0]:
            return False
        listen(self._conn)
        return True

    def unlock(self) -> None:
        """Let the next drain begin; the session stays. One that is lost holds nothing."""
        with suppress(psycopg.OperationalError):
            self._conn.execute(f"SELECT pg_advisory_unlock({DRAIN_KEY})")

    def heard(self, seconds: float) -> list[str]:
        """The integrations of which something arrived, as soon as something does; empty after
        `seconds`. Raises DatabaseTrouble where the session is lost, and the lock with it."""
        return heard(self._conn, seconds)


def listen(conn: Conn) -> None:
    conn.execute(f"LISTEN {CHANNEL}")


def heard(conn: Conn, seconds: float) -> list[str]:
    """Of a connection that listens: whose NOTIFY came within `seconds`."""
    try:
        return [n.payload for n in conn.notifies(timeout=seconds, stop_after=1)]
    except psycopg.OperationalError as error:
        raise scrubbed(error) from None


@contextmanager
def presence(url: str, run_id: str) -> Iterator[None]:
    """Until the block ends, a session that tells `live_runs` of this run.

    A thread keeps it and opens it again when it is lost: a run that waits for Shopify asks
    Postgres nothing for an hour, and its pool would not notice.
    """
    over = threading.Event()
    thread = threading.Thread(target=_stay, args=(url, run_id, over), name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PRESENCE_SECONDS)  # it may be connecting, and need not be waited for longer


def _stay(url: str, run_id: str, over: threading.Event) -> None:
    while not over.is_set():
        with suppress(DatabaseTrouble), connect(url) as conn:
            while not over.is_set():
                # Said each time, not when connecting: a pooler may drop or take over a name.
                conn.execute(
                    "SELECT set_config('application_name', %s, false)", [RUN_NAME + run_id]
                )
                over.wait(PRESENCE_SECONDS)
        over.wait(PRESENCE_SECONDS)


def live_runs(conn: Conn) -> set[str]:
    """The runs that have a session by the name of RUN_NAME and their id."""
    rows = conn.execute(
        """
        SELECT DISTINCT substr(application_name, %s) FROM pg_stat_activity
        WHERE datname = current_database() AND starts_with(application_name, %s)
        """,
        [len(RUN_NAME) + 1, RUN_NAME],
    ).fetchall()
    return {run_id for (run_id,) in rows}


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveDrain:
    """A drain with a session; `age` is that session's, in seconds."""

    run_id: str
    holds_lock: bool
    age: float


def live_drains(conn: Conn) -> list[LiveDrain]:
    with conn.cursor(row_factory=class_row(LiveDrain)) as cursor:
        return cursor.execute(
            f"""
            SELECT substr(a.application_name, %s) AS run_id,
              extract(epoch FROM clock_timestamp() - a.backend_start)::float8 AS age,
              EXISTS (
                SELECT FROM pg_locks l
                WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
                  AND (l.classid::bigint << 32) | l.objid::bigint = {DRAIN_KEY}
              ) AS holds_lock
            FROM pg_stat_activity a
            WHERE a.datname = current_database() AND starts_with(a.application_name, %s)
            ORDER BY a.backend_start
            """,  # noqa: S608
            [len(DRAIN_NAME) + 1, DRAIN_NAME],
        ).fetchall()
