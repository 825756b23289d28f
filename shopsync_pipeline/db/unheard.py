"""Pulls compared with webhooks: in a store with real-time sync a pull should find nothing new."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import Integration

GRACE = timedelta(minutes=5)
"""A change that a pull meets earlier may still be told of by its webhook."""

LOOK_BACK = timedelta(days=1)
LATELY = timedelta(hours=1)
"""Of the comparison of pulls and webhooks, in stores that lose some, and in all: the events of a
day may be a million."""

KEPT = timedelta(days=30)


def record(conn: Conn, integration: Integration, run_id: str, written: Sequence[int]) -> None:
    """Of the customers that a pull has just written, count those that a webhook should have told
    of: changed since real-time sync is on, longer than GRACE ago, and no event came for them since.

    While events of the store wait, nobody knows for whom they came, and nothing is counted.
    """
    conn.execute(
        """
        INSERT INTO unheard_changes AS u ("integrationId", "runId", "oldestAt", "changes")
        SELECT %(store)s, %(run)s, min(c."shopifyUpdatedAt"), count(*) FROM customers c
        WHERE c."organizationId" = %(organization)s AND c."shopifyId" = ANY(%(written)s)
          AND c."shopifyUpdatedAt" >= greatest(%(realtime)s::timestamptz,
                                               clock_timestamp() - %(back)s::interval)
          AND c."shopifyUpdatedAt" < clock_timestamp() - %(grace)s::interval
          AND NOT EXISTS (
            SELECT FROM webhook_events e
            WHERE e."integrationId" = %(store)s AND e."customerId" = c."shopifyId"
              AND e."body" IS NOT NULL
              AND e."receivedAt" >= c."shopifyUpdatedAt" - interval '1 minute')
          AND NOT EXISTS (
            SELECT FROM webhook_events e
            WHERE e."integrationId" = %(store)s AND e."status" IN ('pending', 'claimed'))
        HAVING count(*) > 0
        ON CONFLICT ("integrationId", "runId") DO UPDATE SET
          "changes" = u."changes" + excluded."changes",
          "oldestAt" = least(u."oldestAt", excluded."oldestAt")
        """,
        {
            "store": integration.id,
            "run": run_id,
            "organization": integration.organization_id,
            "written": list(written),
            "realtime": integration.realtime_since,
            "back": LOOK_BACK,
            "grace": GRACE,
        },
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Hearing:
    """Of one store with real-time sync: changes that webhooks brought, those that a pull had to
    find, and the lag in seconds from Shopify to the row."""

    id: str
    organization_id: str
    shop: str
    heard: int
    unheard: int
    median: float
    slowest: float

    @property
    def share(self) -> float:
        return self.heard / max(1, self.heard + self.unheard)


def hearing(conn: Conn, *, at_least: int = 0) -> list[Hearing]:
    """Of every store in LATELY; or in LOOK_BACK, of those alone in which pulls found `at_least`
    so many changes, which reads no events where there are none."""
    those, kept = "true", "true"
    if at_least:
        those = 'EXISTS (SELECT FROM unheard) AND "integrationId" IN (SELECT store FROM unheard)'
        kept = "unheard.n IS NOT NULL"
    with conn.cursor(row_factory=class_row(Hearing)) as cursor:
        return cursor.execute(
            f"""
            WITH unheard AS MATERIALIZED (
              SELECT "integrationId" AS store, sum("changes")::bigint AS n FROM unheard_changes
              WHERE "foundAt" > clock_timestamp() - %(back)s::interval GROUP BY 1
              HAVING sum("changes") >= %(least)s
            ), heard AS (
              SELECT "integrationId" AS store, count(*) AS n,
                percentile_cont(0.5) WITHIN GROUP (ORDER BY lag) AS median, max(lag) AS slowest
              FROM (
                SELECT "integrationId", greatest(0, extract(
                  epoch FROM "processedAt" - coalesce("triggeredAt", "receivedAt")))::float8 AS lag
                FROM webhook_events
                WHERE "body" IS NOT NULL AND "processedAt" > clock_timestamp() - %(back)s::interval
                  AND "status" = 'done' AND "outcome" IN ('created', 'updated', 'deleted')
                  AND {those}
              ) AS each GROUP BY 1
            )
            SELECT i."id", i."organizationId" AS organization_id, i."shop",
              coalesce(heard.n, 0) AS heard, coalesce(unheard.n, 0) AS unheard,
              coalesce(heard.median, 0) AS median, coalesce(heard.slowest, 0) AS slowest
            FROM integrations i LEFT JOIN heard ON heard.store = i."id"
              LEFT JOIN unheard ON unheard.store = i."id"
            WHERE i."isActive" AND i."realtimeSince" IS NOT NULL AND {kept} ORDER BY 2, 3
            """,  # noqa: S608
            {"back": LOOK_BACK if at_least else LATELY, "least": at_least},
        ).fetchall()


def expire(conn: Conn) -> None:
    """Forget what pulls found KEPT ago."""
    conn.execute(
        'DELETE FROM unheard_changes WHERE "foundAt" < clock_timestamp() - %s::interval', [KEPT]
    )
