"""What was settled and is still to be told to Dagster, from the inbox itself: so a run that was
killed in between is told of by the next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn

MOST_REPORTED = 10_000
"""Events in one look; the next look finds the others."""

MOST_IDS_TOLD = 100
"""Event ids in one report; the others are found by their run."""


# No pull of the organization has failed or is still to come.
WHOLE = """
  NOT EXISTS (
    SELECT FROM integrations i
    WHERE i."organizationId" = s."organizationId" AND i."isActive"
      AND (i."watermark" IS NULL OR i."lastError" IS NOT NULL)
  )
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one run settled for one organization and nobody logged yet.

    `outcomes` counts events by outcome; `slowest` and `median` are seconds from the receiver to the
    row. `whole` is False while a pull of the organization has failed or is still to come.
    """

    organization_id: str
    run_id: str
    event_ids: Sequence[str]
    outcomes: Mapping[str, int]
    median: float
    slowest: float
    whole: bool


def unreported(conn: Conn) -> list[Report]:
    """For each organization and run, one report; those of killed runs too."""
    with conn.cursor(row_factory=class_row(Report)) as cursor:
        return cursor.execute(
            f"""
            WITH settled AS (
              SELECT "id", "organizationId", "runId", coalesce("outcome", 'unchanged') AS "outcome",
                     extract(epoch FROM "processedAt" - "receivedAt") AS lag
              FROM webhook_events WHERE "status" = 'done' AND "reportedAt" IS NULL
              LIMIT %s
            ), counted AS (
              SELECT "organizationId", "runId", jsonb_object_agg("outcome", n) AS outcomes FROM (
                SELECT "organizationId", "runId", "outcome", count(*) AS n
                FROM settled GROUP BY 1, 2, 3
              ) AS each GROUP BY 1, 2
            )
            SELECT s."organizationId" AS organization_id, s."runId" AS run_id,
              array_agg(s."id" ORDER BY s."id") AS event_ids, c.outcomes,
              percentile_cont(0.5) WITHIN GROUP (ORDER BY s.lag) AS median,
              max(s.lag)::float8 AS slowest,
              {WHOLE} AS whole
            FROM settled s JOIN counted c USING ("organizationId", "runId")
            GROUP BY 1, 2, 4
            """,  # noqa: S608
            [MOST_REPORTED],
        ).fetchall()


def mark_reported(conn: Conn, event_ids: Sequence[str]) -> None:
    """As of now; what another drain has marked before stays as it is."""
    conn.execute(
        """UPDATE webhook_events SET "reportedAt" = clock_timestamp()
           WHERE "id" = ANY(%s) AND "reportedAt" IS NULL""",
        [list(event_ids)],
    )


def is_whole(conn: Conn, organization_id: str) -> bool:
    """Whether what was written for the organization may be told as a materialization: of one whose
    pull has failed, or was never whole, it would turn a red partition green."""
    row = conn.execute(
        f'SELECT {WHOLE} FROM (SELECT %s::text) AS s ("organizationId")',  # noqa: S608
        [organization_id],
    ).fetchone()
    return row is not None and bool(row[0])
