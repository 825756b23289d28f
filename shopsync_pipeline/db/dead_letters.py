"""What operators look at in the inbox: how much waits, what could not be processed, and back."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.inbox import notify


@dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """What is not settled; `oldest` is how long the oldest waits that a store's trouble does not
    hold back."""

    waiting: int
    oldest: timedelta | None
    dead: int


def backlog(conn: Conn) -> Backlog:
    with conn.cursor(row_factory=class_row(Backlog)) as cursor:
        found = cursor.execute(
            """
            SELECT count(*) FILTER (WHERE e."status" <> 'dead') AS waiting,
                   count(*) FILTER (WHERE e."status" = 'dead') AS dead,
                   max(date_trunc('second', clock_timestamp() - e."receivedAt")) FILTER (
                     WHERE e."status" <> 'dead' AND e."reads" = 0 AND i."isActive"
                       AND i."retryAt" IS NULL) AS oldest
            FROM webhook_events e JOIN integrations i ON i."id" = e."integrationId"
            WHERE e."status" IN ('pending', 'claimed', 'dead')
            """
        ).fetchone()
    assert found is not None
    return found


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
