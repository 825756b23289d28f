"""The window of a pull in the integration's row: opened, moved along with each page, finished.

Each statement meets the row as the pull believes it to be, or raises SyncConflict.
"""

from datetime import datetime

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.errors import SyncConflict
from shopsync_pipeline.models import Integration, Window


def open_window(
    conn: Conn, integration: Integration, window: Window, watermark: datetime | None
) -> None:
    """Replaces an open one; the caller holds the integration's lock.

    Raises SyncConflict where the watermark from which the window was reckoned is no longer the
    stored one, or the store has left: it was connected anew and needs another window.
    """
    opened = conn.execute(
        """
        UPDATE integrations SET "windowFrom" = %s, "windowTo" = %s, "windowCursor" = NULL,
          "windowReached" = NULL, "updatedAt" = clock_timestamp()
        WHERE "id" = %s AND "isActive" AND "watermark" IS NOT DISTINCT FROM %s
        """,
        [window.since, window.until, integration.id, watermark],
    ).rowcount
    require_one(opened, integration)


def advance_window(conn: Conn, integration: Integration, before: Window, after: Window) -> None:
    """Record that the page from `before` to `after` is merged, in the transaction that merges it.

    Raises SyncConflict where another pull moved the window, so that this page is rolled back.
    """
    moved = conn.execute(
        """
        UPDATE integrations SET "windowCursor" = %s, "windowReached" = %s,
          "updatedAt" = clock_timestamp()
        WHERE "id" = %s AND "windowTo" = %s AND "windowCursor" IS NOT DISTINCT FROM %s
        """,
        [after.cursor, after.reached, integration.id, before.until, before.cursor],
    ).rowcount
    require_one(moved, integration)


def finish_window(conn: Conn, integration: Integration, window: Window) -> None:
    """The last page is merged: everything up to `window.until` is here, and the store is well."""
    moved = conn.execute(
        """
        UPDATE integrations SET "watermark" = %(until)s, "lastSyncAt" = %(until)s,
          "windowFrom" = NULL, "windowTo" = NULL, "windowCursor" = NULL, "windowReached" = NULL,
          "status" = 'ok', "retryAt" = NULL, "lastError" = NULL, "updatedAt" = clock_timestamp()
        WHERE "id" = %(id)s AND "windowTo" = %(until)s
          AND "windowCursor" IS NOT DISTINCT FROM %(cursor)s
        """,
        {"until": window.until, "id": integration.id, "cursor": window.cursor},
    ).rowcount
    require_one(moved, integration)


def require_one(count: int, integration: Integration) -> None:
    """Raises SyncConflict where a statement about this integration's window met another number."""
    if count != 1:
        raise SyncConflict(
            f"{integration.organization_id}, {integration.shop}: another pull moved the window "
            "or the store was connected anew; nothing was stored by this one. Sync again."
        )
