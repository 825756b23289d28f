"""What the inbox may no longer keep: bodies of redacted people, and everything after its time."""

from collections.abc import Iterable
from datetime import timedelta

from shopsync_pipeline.db.engine import Conn

BODY_KEPT = timedelta(days=7)
DEAD_BODY_KEPT = timedelta(days=30)
ROW_KEPT = timedelta(days=90)


def naming(conn: Conn, integration_id: str, number: int) -> list[tuple[str, str, str, bytes]]:
    """Id, status, topic and body of the events about this customer; of those whose customer is not
    known yet, the ones whose body holds the number as a number."""
    return conn.execute(
        """
        SELECT "id", "status", "topic", "body" FROM webhook_events
        WHERE "integrationId" = %(store)s AND "body" IS NOT NULL AND (
          "customerId" = %(number)s OR "customerId" IS NULL
          AND encode("body", 'escape') ~ ('(^|[^0-9])' || %(number)s::text || '([^0-9]|$)'))
        """,
        {"store": integration_id, "number": number},
    ).fetchall()


def erase_bodies(conn: Conn, event_ids: Iterable[str], customer_id: int) -> None:
    """Forget these bodies; what is still to be read is read by `customer_id`."""
    conn.execute(
        """
        UPDATE webhook_events SET "body" = NULL, "customerId" = coalesce("customerId", %s)
        WHERE "id" = ANY(%s)
        """,
        [customer_id, list(event_ids)],
    )


def erase_all_bodies(conn: Conn, integration_id: str) -> None:
    conn.execute(
        'UPDATE webhook_events SET "body" = NULL WHERE "integrationId" = %s', [integration_id]
    )


def expire(conn: Conn) -> None:
    """Erase bodies a week after they were processed (dead: 30 days), and rows after 90 days.

    What still waits for a store that left a week ago is ignored: it starts with a full load when
    it comes back.
    """
    conn.execute(
        """
        UPDATE webhook_events e SET "status" = 'ignored', "error" = 'the store left',
          "processedAt" = clock_timestamp(), "body" = NULL
        FROM integrations i
        WHERE i."id" = e."integrationId" AND e."status" = 'pending' AND NOT i."isActive"
          AND i."inactiveSince" < clock_timestamp() - %(kept)s
          AND e."receivedAt" < clock_timestamp() - %(kept)s
        """,
        {"kept": BODY_KEPT},
    )
    for kept, dead_ones in ((BODY_KEPT, False), (DEAD_BODY_KEPT, True)):
        conn.execute(
            """
            UPDATE webhook_events SET "body" = NULL
            WHERE "body" IS NOT NULL AND "processedAt" < clock_timestamp() - %s
              AND ("status" = 'dead') = %s
            """,
            [kept, dead_ones],
        )
    conn.execute(
        """
        DELETE FROM webhook_events WHERE "receivedAt" < clock_timestamp() - %s
          AND "status" NOT IN ('pending', 'claimed')
        """,
        [ROW_KEPT],
    )
