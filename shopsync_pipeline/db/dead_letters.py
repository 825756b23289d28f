"""What could not be processed: for operators to look at, and put back."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.inbox import notify


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """An event that could not be processed, and why."""

    id: str
    organization_id: str
    shop: str
    topic: str
    received_at: datetime
    error: str


def dead(conn: Conn) -> list[DeadLetter]:
    """The oldest first."""
    with conn.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return cursor.execute(
            """
            SELECT "id", "organizationId" AS organization_id, "shop", "topic",
                   "receivedAt" AS received_at, coalesce("error", '') AS error
            FROM webhook_events WHERE "status" = 'dead' ORDER BY "receivedAt", "id"
            """
        ).fetchall()


def replay(conn: Conn, event_ids: Iterable[str] | None) -> int:
    """Put dead letters back, these or all; how many. One whose body was erased stays dead."""
    found = conn.execute(
        """
        UPDATE webhook_events SET "status" = 'pending', "attempts" = 0, "reads" = 0,
          "notBefore" = NULL, "processedAt" = NULL, "error" = NULL
        WHERE "status" = 'dead' AND (%(ids)s::text[] IS NULL OR "id" = ANY(%(ids)s))
          AND ("body" IS NOT NULL OR "customerId" IS NOT NULL)
        RETURNING "integrationId"
        """,
        {"ids": None if event_ids is None else list(event_ids)},
    ).fetchall()
    for integration_id in {row[0] for row in found}:
        notify(conn, integration_id)
    return len(found)
