"""The one merge by which every road writes `customers`.

Which record is newer is decided in SQL, in the transaction that writes, so that two runs that
write in the wrong order still leave the newer record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import kwargs_row

from shopsync_pipeline.db import inbox
from shopsync_pipeline.db.engine import Conn, clock
from shopsync_pipeline.models import CUSTOMER_COLUMNS, CustomerRow, Integration, MergeCounts, Read

COLUMNS = ", ".join(f'"{name}"' for name in CUSTOMER_COLUMNS)
ASSIGNED = ", ".join(f'"{name}" = excluded."{name}"' for name in CUSTOMER_COLUMNS)

# Made once per session and emptied by each commit: no catalog churn per page.
CREATE_INCOMING = f"""
CREATE TEMP TABLE IF NOT EXISTS incoming ON COMMIT DELETE ROWS
AS SELECT {COLUMNS} FROM customers WITH NO DATA
"""  # noqa: S608

# What the row tells of itself is what replaced this. A first load writes none of it.
KEEP_HISTORY = """
"earlierSyncs" = jsonb_path_query_array(
  jsonb_build_array(jsonb_build_object('at', customers."lastSyncedAt",
    'via', customers."lastSyncVia", 'run', customers."lastSyncRunId"))
  || coalesce(customers."earlierSyncs", '[]'), '$[0 to 9]')
"""

COPY_INCOMING = f"COPY incoming ({COLUMNS}) FROM STDIN"


def _wins(new: str) -> str:
    """SQL: whether the record `new` replaces the one in `customers`.

    It does when (shopifyUpdatedAt, lastSyncedAt) is greater and the content differs. A deletion
    yields only to a read by id sent after it; a reconcile's read by id wins even with a lower
    updatedAt; a redaction is final.
    """
    ours = ", ".join(f'customers."{name}"' for name in CUSTOMER_COLUMNS)
    theirs = ", ".join(f'{new}."{name}"' for name in CUSTOMER_COLUMNS)
    return f"""
      customers."redactedAt" IS NULL
      AND (customers."deletedAt" IS NULL
           OR (%(by_id)s AND {new}."lastSyncedAt" > customers."deletedAt"))
      AND (({new}."shopifyUpdatedAt", {new}."lastSyncedAt")
             > (coalesce(customers."shopifyUpdatedAt", '-infinity'), customers."lastSyncedAt")
           OR (%(by_id)s AND {new}."lastSyncVia" = 'RECONCILE'
               AND {new}."lastSyncedAt" > customers."lastSyncedAt"))
      AND (customers."deletedAt" IS NOT NULL OR ({ours}) IS DISTINCT FROM ({theirs}))
    """


# Asked twice: first by a plain read, so that an unchanged row is neither locked nor written, and
# again under the row's lock, where another run may have been faster. Rows go in ordered by id, so
# that two merges never wait for each other in a circle.
MERGE = f"""
WITH read AS (
  SELECT DISTINCT ON ("shopifyId") incoming.*,
         %(organization)s AS "organizationId", %(sent_at)s::timestamptz(3) AS "lastSyncedAt",
         %(via)s AS "lastSyncVia"
  FROM incoming ORDER BY "shopifyId", "shopifyUpdatedAt" DESC
), merged AS (
  INSERT INTO customers ("organizationId", "integrationId", "lastSyncedAt", "lastSyncRunId",
                         "lastSyncVia", {COLUMNS})
  SELECT "organizationId", %(integration)s, "lastSyncedAt", %(run_id)s, "lastSyncVia", {COLUMNS}
  FROM read
  WHERE NOT EXISTS (
    SELECT FROM customers
    WHERE customers."shopifyId" = read."shopifyId"
      AND customers."organizationId" = read."organizationId" AND ({_wins("read")}) IS NOT TRUE
  )
  ORDER BY "shopifyId"
  ON CONFLICT ON CONSTRAINT "shopifyId_organizationId" DO UPDATE SET
    {ASSIGNED}, "integrationId" = excluded."integrationId",
    "lastSyncedAt" = excluded."lastSyncedAt", "lastSyncRunId" = excluded."lastSyncRunId",
    "lastSyncVia" = excluded."lastSyncVia", "deletedAt" = NULL, "mergedIntoId" = NULL,
    {KEEP_HISTORY}, "updatedAt" = clock_timestamp()
  WHERE {_wins("excluded")}
  RETURNING "shopifyId", xmax = 0 AS inserted
)
SELECT (SELECT count(*) FROM read),
       coalesce(array_agg("shopifyId") FILTER (WHERE inserted), '{{}}'),
       coalesce(array_agg("shopifyId") FILTER (WHERE NOT inserted), '{{}}')
FROM merged
"""  # noqa: S608

# A deletion is a record too: it replaces what was read before it. `keepers` are the ids of those
# into which customers were merged.
BURY = f"""
INSERT INTO customers ("organizationId", "integrationId", "shopifyId", "deletedAt", "mergedIntoId",
                       "lastSyncedAt", "lastSyncRunId", "lastSyncVia")
SELECT %(organization)s, %(integration)s, d.gone, %(sent_at)s, d.keeper, %(sent_at)s, %(run_id)s,
       %(via)s
FROM unnest(%(gone)s::bigint[], %(keepers)s::bigint[]) AS d (gone, keeper)
ORDER BY d.gone
ON CONFLICT ON CONSTRAINT "shopifyId_organizationId" DO UPDATE SET
  "deletedAt" = coalesce(customers."deletedAt", excluded."deletedAt"),
  "mergedIntoId" = coalesce(excluded."mergedIntoId", customers."mergedIntoId"),
  "lastSyncedAt" = excluded."lastSyncedAt", "lastSyncRunId" = excluded."lastSyncRunId",
  "lastSyncVia" = excluded."lastSyncVia", {KEEP_HISTORY}, "updatedAt" = clock_timestamp()
WHERE customers."integrationId" = excluded."integrationId"  -- another store's null says nothing
  AND customers."redactedAt" IS NULL AND customers."lastSyncedAt" <= excluded."lastSyncedAt"
  AND (customers."deletedAt" IS NULL
       OR (excluded."mergedIntoId" IS NOT NULL
           AND excluded."mergedIntoId" IS DISTINCT FROM customers."mergedIntoId"))
RETURNING "shopifyId"
"""  # noqa: S608

PERSONAL = ", ".join(f'"{name}" = NULL' for name in CUSTOMER_COLUMNS if name != "shopifyId")

# Final: no road writes a row with redactedAt. Ids stay, so that nobody takes the person for new. A
# tombstone of an id that was never read may be another store's, who was asked for it by mistake.
REDACT = f"""
INSERT INTO customers ("organizationId", "integrationId", "shopifyId", "deletedAt", "redactedAt",
                       "lastSyncedAt", "lastSyncRunId", "lastSyncVia")
VALUES (%(organization)s, %(integration)s, %(customer)s, %(at)s, %(at)s, %(at)s, %(run_id)s,
        'WEBHOOK')
ON CONFLICT ON CONSTRAINT "shopifyId_organizationId" DO UPDATE SET {PERSONAL},
  "integrationId" = excluded."integrationId",
  "deletedAt" = coalesce(customers."deletedAt", excluded."deletedAt"),
  "redactedAt" = excluded."redactedAt",
  "lastSyncedAt" = excluded."lastSyncedAt", "lastSyncRunId" = excluded."lastSyncRunId",
  "lastSyncVia" = excluded."lastSyncVia", "earlierSyncs" = NULL,
  "updatedAt" = clock_timestamp()
WHERE customers."redactedAt" IS NULL
  AND (customers."integrationId" = excluded."integrationId" OR customers."shopifyUpdatedAt" IS NULL)
"""  # noqa: S608


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Shopify's ids of the rows a merge wrote, and how many were as they were."""

    inserted: Sequence[int]
    updated: Sequence[int]
    unchanged: int

    @property
    def counts(self) -> MergeCounts:
        return MergeCounts(
            inserted=len(self.inserted), updated=len(self.updated), unchanged=self.unchanged
        )


def merge(conn: Conn, integration: Integration, rows: Iterable[CustomerRow], read: Read) -> Merged:
    """Merge within the caller's transaction, which must have called `integrations.share`."""
    conn.execute(CREATE_INCOMING)
    with conn.cursor() as cursor, cursor.copy(COPY_INCOMING) as copy:
        for row in rows:
            copy.write_row(row)
    if not read.by_id and read.via != "RECONCILE":  # which reads them by id itself
        inbox.mark_revenants(conn, integration.id)
    counted = conn.execute(
        MERGE,
        {
            "organization": integration.organization_id,
            "integration": integration.id,
            "sent_at": read.sent_at,
            "run_id": read.run_id,
            "via": read.via,
            "by_id": read.by_id,
        },
        prepare=False,  # a plan kept from when the table was small would scan it for each page
    ).fetchone()
    assert counted is not None
    total, inserted, updated = counted
    return Merged(
        inserted=inserted, updated=updated, unchanged=total - len(inserted) - len(updated)
    )


def bury(
    conn: Conn, integration: Integration, gone: Mapping[int, int | None], read: Read
) -> list[int]:
    """Mark as deleted the customers that the read by id did not find, also those that were never
    known; returns those it changed.

    `gone` tells for each id into which it was merged, if it was. What was read after `read` stays.
    Within the caller's transaction, as `merge`.
    """
    rows = conn.execute(
        BURY,
        {
            "organization": integration.organization_id,
            "integration": integration.id,
            "gone": list(gone),
            "keepers": list(gone.values()),
            "sent_at": read.sent_at,
            "run_id": read.run_id,
            "via": read.via,
        },
    ).fetchall()
    return [row[0] for row in rows]


def redact(conn: Conn, integration: Integration, customer_id: int, run_id: str) -> None:
    """Erase the person for good, also one that was not known; the caller holds the integration."""
    conn.execute(
        REDACT,
        {
            "organization": integration.organization_id,
            "integration": integration.id,
            "customer": customer_id,
            "at": clock(conn),
            "run_id": run_id,
        },
    )


def remove_store(conn: Conn, integration: Integration) -> int:
    """Remove the store's rows; the ids of redacted people stay, so that nothing revives them."""
    return conn.execute(
        'DELETE FROM customers WHERE "integrationId" = %s AND "redactedAt" IS NULL',
        [integration.id],
    ).rowcount


def known(conn: Conn, integration: Integration, ids: Iterable[int]) -> dict[int, bool]:
    """Those of these ids that this store has a row of, and whether that says they are deleted."""
    rows = conn.execute(
        """
        SELECT "shopifyId", "deletedAt" IS NOT NULL FROM customers
        WHERE "shopifyId" = ANY(%s) AND "organizationId" = %s AND "integrationId" = %s
        """,
        [list(ids), integration.organization_id, integration.id],
    ).fetchall()
    return dict(rows)


def read_since(
    conn: Conn, integration: Integration, ids: Sequence[int], since: Sequence[datetime]
) -> dict[int, datetime]:
    """`shopifyUpdatedAt` of those of these customers whose row was read after `since`, on
    Postgres's clock, and that are not deleted."""
    rows = conn.execute(
        """
        SELECT c."shopifyId", c."shopifyUpdatedAt"
        FROM unnest(%(ids)s::bigint[], %(since)s::timestamptz[]) AS d (id, since)
        JOIN customers c ON c."shopifyId" = d.id AND c."organizationId" = %(organization)s
        WHERE c."integrationId" = %(integration)s AND c."deletedAt" IS NULL
          AND c."lastSyncedAt" > d.since
        """,
        {
            "ids": list(ids),
            "since": list(since),
            "organization": integration.organization_id,
            "integration": integration.id,
        },
    ).fetchall()
    return dict(rows)


def living(conn: Conn, integration_id: str) -> int:
    """Customers of one store that are not deleted."""
    row = conn.execute(
        'SELECT count(*) FROM customers WHERE "integrationId" = %s AND "deletedAt" IS NULL',
        [integration_id],
    ).fetchone()
    return int(row[0]) if row else 0


def duplicate_keys(conn: Conn) -> int:
    """Keys that stand in more than one row; the constraint holds it at 0, an index can break."""
    row = conn.execute(
        """
        SELECT count(*) FROM (
          SELECT FROM customers GROUP BY "shopifyId", "organizationId" HAVING count(*) > 1
        ) AS twice
        """
    ).fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCount:
    """Customers of one store that are not deleted, and how many Shopify said at `asked_at`."""

    organization_id: str
    shop: str
    here: int
    in_shopify: int
    asked_at: datetime


def counts_by_store(conn: Conn) -> list[StoreCount]:
    """Active stores that were read to the end; one in the middle of a window has no count yet. Who
    was made or found deleted since Shopify was asked is left as it was then."""
    with conn.cursor(row_factory=kwargs_row(StoreCount)) as cursor:
        return cursor.execute(
            """
            SELECT i."organizationId" AS organization_id, i."shop" AS shop,
                   count(*) FILTER (
                     WHERE c."shopifyCreatedAt" <= i."customersCountAt"
                       AND (c."deletedAt" IS NULL OR c."deletedAt" > i."customersCountAt")
                   ) AS here, i."customersCount" AS in_shopify,
                   i."customersCountAt" AS asked_at
            FROM integrations i
            LEFT JOIN customers c ON c."integrationId" = i."id"
            WHERE i."isActive" AND i."watermark" IS NOT NULL AND i."windowTo" IS NULL
              AND i."customersCount" IS NOT NULL
            GROUP BY i."id" ORDER BY i."organizationId", i."shop"
            """
        ).fetchall()
