"""One pull at a time per integration, by session advisory locks of Postgres.

All locks of a run are held on one connection, so that a thousand stores do not need a
thousand connections. When that connection is lost, so are the locks: the merge's order rule
and the check on the window keep the data right all the same.
"""

import threading

import psycopg

from shopsync_pipeline.db.engine import Conn, scrubbed


class IntegrationLocks:
    """Safe to share between threads; the connection must be this object's own."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn
        self._mutex = threading.Lock()

    def try_lock(self, integration_id: str) -> bool:
        """Whether it is held now, until `unlock` or the end of the session."""
        return self._call("pg_try_advisory_lock", integration_id)

    def unlock(self, integration_id: str) -> None:
        self._call("pg_advisory_unlock", integration_id)

    def _call(self, function: str, integration_id: str) -> bool:
        try:
            with self._mutex:
                row = self._conn.execute(
                    f"SELECT {function}(hashtextextended(%s, 0))",
                    [integration_id],
                ).fetchone()
        except psycopg.Error as error:
            raise scrubbed(error) from None
        return row is not None and bool(row[0])
