"""What `integrations` remembers of a store's bulk operation: asked for, used, or failed.

remember (before it is asked for) ─► remember (its id) ─► finish, or forget    fail: pages do
"""

from datetime import datetime

from shopsync_pipeline.db import integrations, windows
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import Integration


def held(conn: Conn, integration_id: str) -> tuple[str | None, datetime] | None:
    """The bulk operation that was asked for and whose result is not merged yet: its id, None where
    Shopify's answer was not heard, and the moment as of which its rows count as read."""
    row = conn.execute(
        'SELECT "bulkOperationId", "bulkReadAt" FROM integrations WHERE "id" = %s', [integration_id]
    ).fetchone()
    return None if row is None or row[1] is None else (row[0], row[1])


def remember(conn: Conn, integration_id: str, operation_id: str | None, read_at: datetime) -> None:
    """So that whoever comes after a crash takes it up."""
    conn.execute(
        """UPDATE integrations SET "bulkOperationId" = %s, "bulkReadAt" = %s WHERE "id" = %s""",
        [operation_id, read_at, integration_id],
    )


def forget(conn: Conn, integration_id: str, operation_id: str | None) -> None:
    """Its result is merged, or will never be; another operation is left alone."""
    conn.execute(
        """UPDATE integrations SET "bulkOperationId" = NULL, "bulkReadAt" = NULL
           WHERE "id" = %s AND "bulkOperationId" IS NOT DISTINCT FROM %s""",
        [integration_id, operation_id],
    )


def fail(conn: Conn, integration_id: str, operation_id: str) -> None:
    """It did not end well: pages do for a while."""
    forget(conn, integration_id, operation_id)
    conn.execute(
        'UPDATE integrations SET "bulkFailedAt" = clock_timestamp() WHERE "id" = %s',
        [integration_id],
    )


def failed_since(conn: Conn, integration_id: str, moment: datetime) -> bool:
    row = conn.execute(
        'SELECT "bulkFailedAt" > %s FROM integrations WHERE "id" = %s', [moment, integration_id]
    ).fetchone()
    return row is not None and bool(row[0])


def finish(
    conn: Conn,
    integration: Integration,
    operation_id: str,
    known: datetime | None,
    until: datetime,
) -> datetime:
    """The whole store was read at `until` or later, on Shopify's clock; before, up to `known`.
    Returns the watermark, the later of both.

    The store is not fresh by this: what changed since is still to be pulled. Raises
    IntegrationInactive where the store has left, SyncConflict where it was connected anew.
    """
    integrations.hold(conn, integration.id)
    row = conn.execute(
        """
        UPDATE integrations SET "watermark" = greatest(%(known)s, %(until)s),
          "windowFrom" = NULL, "windowTo" = NULL, "windowCursor" = NULL, "windowReached" = NULL,
          "updatedAt" = clock_timestamp()
        WHERE "id" = %(id)s AND "watermark" IS NOT DISTINCT FROM %(watermark)s
        RETURNING "watermark"
        """,
        {"known": known, "until": until, "id": integration.id, "watermark": integration.watermark},
    ).fetchone()
    windows.require_one(int(row is not None), integration)
    assert row is not None
    forget(conn, integration.id, operation_id)
    watermark: datetime = row[0]
    return watermark
