"""One pull at a time per integration, and one renewal of a token, by advisory locks of Postgres.

All pull locks of a run are held on one connection, so that a thousand stores do not need a
thousand connections. When that connection is lost, so are the locks: the merge's order rule
and the check on the window keep the data right all the same.
"""

import threading
from contextlib import suppress
from typing import Self

import psycopg

from shopsync_pipeline.db.engine import Conn, open_connection, scrubbed


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
