"""Figures by organization, UTC day and currency, added up in Postgres from what it holds.

Some are in the rows for ever: when a customer was made or found deleted. Others only a look on that
day knows: how many there are, what they have spent, who consents, how fresh it all is. So today's
rows are measured anew each time, and a finished day is left as its last look saw it, except that
customers heard of late are added: its counts only grow. A day without a look is reckoned from the
rows that tell their time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn

HISTORY = timedelta(days=90)
"""Days before today to which customers heard of late are added."""

NO_CURRENCY = "XXX"
"""ISO 4217's own code for that."""

ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('customer_metrics', 0))"

LIVING = '"deletedAt" IS NULL AND "redactedAt" IS NULL'

# A tombstone of an id that was never read is nobody's end. Who was deleted on an earlier day and is
# erased now was counted on that day, while the row still told the currency.
GONE = """("shopifyUpdatedAt" IS NOT NULL OR ("redactedAt" AT TIME ZONE 'UTC')::date
                                           = ("deletedAt" AT TIME ZONE 'UTC')::date)"""

ERASE_TODAY = 'DELETE FROM customer_metrics WHERE "day" = %(day)s'

MEASURE = f"""
WITH counted AS (
  SELECT "organizationId", coalesce("currency", '{NO_CURRENCY}') AS currency,
    count(*) FILTER (WHERE "shopifyCreatedAt" >= %(begin)s AND "shopifyCreatedAt" < %(end)s) AS new,
    count(*) FILTER (WHERE {LIVING} AND "shopifyCreatedAt" < %(begin)s
      AND "shopifyUpdatedAt" >= %(begin)s AND "shopifyUpdatedAt" < %(end)s) AS changed,
    count(*) FILTER (WHERE "deletedAt" >= %(begin)s AND "deletedAt" < %(end)s
      AND {GONE}) AS deleted,
    count(*) FILTER (WHERE {LIVING}) AS living,
    coalesce(sum("totalSpent") FILTER (WHERE {LIVING}), 0) AS spend,
    count(*) FILTER (WHERE {LIVING} AND "emailMarketingState" = 'SUBSCRIBED') AS by_email,
    count(*) FILTER (WHERE {LIVING} AND "smsMarketingState" = 'SUBSCRIBED') AS by_sms
  FROM customers GROUP BY 1, 2
), noted AS (
  SELECT * FROM counted WHERE new > 0 OR deleted > 0 OR living > 0
), pulled AS (
  SELECT c."organizationId", percentile_cont(0.5) WITHIN GROUP (ORDER BY greatest(0, extract(
    epoch FROM c."lastSyncedAt" - c."shopifyUpdatedAt"))::float8) AS lag
  FROM customers c JOIN integrations i ON i."id" = c."integrationId"
  WHERE c."lastSyncVia" = 'PULL' AND c."shopifyUpdatedAt" < %(end)s
    AND c."shopifyUpdatedAt" >= greatest(%(begin)s, i."createdAt")
  GROUP BY 1
), heard AS (
  SELECT "organizationId", percentile_cont(0.5) WITHIN GROUP (ORDER BY greatest(0, extract(
    epoch FROM "processedAt" - coalesce("triggeredAt", "receivedAt")))::float8) AS lag
  FROM webhook_events
  WHERE "body" IS NOT NULL AND "processedAt" >= %(begin)s AND "processedAt" < %(end)s
    AND "status" = 'done' AND "outcome" IN ('created', 'updated', 'deleted')
  GROUP BY 1
), organizations AS (
  SELECT "organizationId", bool_or("isActive") AS connected, (extract(
    epoch FROM %(now)s - min("lastSyncAt") FILTER (WHERE "isActive" AND "pausedAt" IS NULL)) / 3600
  )::float8 AS hours
  FROM integrations GROUP BY 1
)
INSERT INTO customer_metrics ("organizationId", "day", "currency", "newCustomers",
  "changedCustomers", "deletedCustomers", "customers", "spend", "emailOptIns", "smsOptIns",
  "hoursSinceSync", "webhookLagSeconds", "pullLagSeconds", "measuredAt")
SELECT o."organizationId", %(day)s, coalesce(n.currency, '{NO_CURRENCY}'), coalesce(n.new, 0),
  coalesce(n.changed, 0), coalesce(n.deleted, 0), coalesce(n.living, 0), coalesce(n.spend, 0),
  coalesce(n.by_email, 0), coalesce(n.by_sms, 0),
  CASE WHEN o.hours < 0 THEN 0 ELSE o.hours END, h.lag, p.lag, %(now)s
FROM organizations o
LEFT JOIN noted n USING ("organizationId") LEFT JOIN heard h USING ("organizationId")
LEFT JOIN pulled p USING ("organizationId")
WHERE o.connected OR n.currency IS NOT NULL
"""  # noqa: S608

# What is living at the end of an earlier day: today's, less who came after it, and who went.
ADD_LATE_ONES = f"""
WITH dated AS (
  SELECT "organizationId", coalesce("currency", '{NO_CURRENCY}') AS currency, e.day,
    sum(e.new) AS new, sum(e.gone) AS gone
  FROM customers CROSS JOIN LATERAL (VALUES
    (("shopifyCreatedAt" AT TIME ZONE 'UTC')::date, 1, 0),
    (CASE WHEN {GONE} THEN ("deletedAt" AT TIME ZONE 'UTC')::date END, 0, 1)
  ) AS e (day, new, gone)
  WHERE ("shopifyCreatedAt" >= %(since)s OR "deletedAt" >= %(since)s)
    AND e.day >= %(first)s AND e.day <= %(day)s
  GROUP BY 1, 2, 3
), reckoned AS (
  SELECT d.*, coalesce(t."customers", 0) + coalesce(sum(d.gone - d.new) OVER later, 0) AS living
  FROM dated d LEFT JOIN customer_metrics t ON t."organizationId" = d."organizationId"
    AND t."currency" = d.currency AND t."day" = %(day)s
  WINDOW later AS (PARTITION BY d."organizationId", d.currency ORDER BY d.day DESC
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
INSERT INTO customer_metrics AS m
  ("organizationId", "day", "currency", "newCustomers", "deletedCustomers", "customers")
SELECT "organizationId", day, currency, new, gone, greatest(0, living) FROM reckoned
WHERE day < %(day)s
ON CONFLICT ("organizationId", "day", "currency") DO UPDATE SET
  "newCustomers" = greatest(m."newCustomers", excluded."newCustomers"),
  "deletedCustomers" = greatest(m."deletedCustomers", excluded."deletedCustomers"),
  "customers" = CASE WHEN m."measuredAt" IS NULL THEN excluded."customers" ELSE m."customers" END
WHERE excluded."newCustomers" > m."newCustomers"
  OR excluded."deletedCustomers" > m."deletedCustomers"
"""  # noqa: S608

# The last look of yesterday was before its end.
ADD_LATE_CHANGES = f"""
UPDATE customer_metrics m SET "changedCustomers" = c.changed FROM (
  SELECT "organizationId", "currency", count(*) AS changed FROM customers
  WHERE {LIVING} AND "shopifyCreatedAt" < %(begin)s - interval '1 day'
    AND "shopifyUpdatedAt" >= %(begin)s - interval '1 day' AND "shopifyUpdatedAt" < %(begin)s
  GROUP BY 1, 2
) AS c
WHERE m."organizationId" = c."organizationId" AND m."currency" = c."currency"
  AND m."day" = %(day)s - 1 AND m."changedCustomers" < c.changed
"""  # noqa: S608


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Rows of today, and of earlier days that were new or grew."""

    day: date
    today: int
    earlier: int


def measure(conn: Conn, now: datetime) -> Measured:
    """Write today's rows anew and add to earlier ones what was heard late, within the caller's
    transaction. Two at once do it one after the other."""
    begin = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    arguments = {
        "now": now,
        "day": begin.date(),
        "begin": begin,
        "end": begin + timedelta(days=1),
        "first": (begin - HISTORY).date(),
        "since": begin - HISTORY,
    }
    conn.execute(ONE_AT_A_TIME)
    conn.execute(ERASE_TODAY, arguments)
    today = conn.execute(MEASURE, arguments).rowcount
    earlier = conn.execute(ADD_LATE_ONES, arguments).rowcount
    earlier += conn.execute(ADD_LATE_CHANGES, arguments).rowcount
    return Measured(day=begin.date(), today=today, earlier=earlier)


@dataclass(frozen=True, kw_only=True, slots=True)
class DayFigures:
    """A row of `customer_metrics`; None as its columns tell."""

    organization: str
    day: date
    currency: str
    new: int
    changed: int | None
    deleted: int
    customers: int
    spend: Decimal | None
    email: int | None
    sms: int | None
    hours: float | None
    webhook_lag: float | None
    pull_lag: float | None


def of_the_largest(conn: Conn, today: date, *, most: int) -> Sequence[DayFigures]:
    """All rows of HISTORY, of the organizations that have the most customers today; the largest
    first, each by day."""
    with conn.cursor(row_factory=class_row(DayFigures)) as cursor:
        return cursor.execute(
            """
            WITH largest AS (
              SELECT "organizationId", sum("customers") AS n FROM customer_metrics
              WHERE "day" = %(today)s GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(most)s
            )
            SELECT "organizationId" AS organization, "day", "currency", "newCustomers" AS new,
              "changedCustomers" AS changed, "deletedCustomers" AS deleted, "customers", "spend",
              "emailOptIns" AS email, "smsOptIns" AS sms, "hoursSinceSync" AS hours,
              "webhookLagSeconds" AS webhook_lag, "pullLagSeconds" AS pull_lag
            FROM customer_metrics JOIN largest l USING ("organizationId")
            WHERE "day" > %(today)s - %(days)s AND "day" <= %(today)s
            ORDER BY l.n DESC, "organizationId", "day", "currency"
            """,
            {"today": today, "most": most, "days": HISTORY.days},
        ).fetchall()


def counts(conn: Conn, today: date) -> tuple[int, int]:
    """Rows in all, and organizations that have one today."""
    row = conn.execute(
        """SELECT count(*), count(DISTINCT "organizationId") FILTER (WHERE "day" = %s)
           FROM customer_metrics""",
        [today],
    ).fetchone()
    assert row is not None
    return row[0], row[1]
