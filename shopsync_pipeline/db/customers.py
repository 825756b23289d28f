"""The one merge by which every road writes `customers`.

Which record is newer is decided in SQL, in the transaction that writes, so that two runs that
write in the wrong order still leave the newer record.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import kwargs_row

from shopsync_pipeline.db import inbox
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import CUSTOMER_COLUMNS, CustomerRow, Integration, MergeCounts, Read

COLUMNS = ", ".join(f'"{name}"' for name in CUSTOMER_COLUMNS)
ASSIGNED = ", ".join(f'"{name}" = excluded."{name}"' for name in CUSTOMER_COLUMNS)

# Made once per session and emptied by each commit: no catalog churn per page.
CREATE_INCOMING = f"""
CREATE TEMP TABLE IF NOT EXISTS incoming ON COMMIT DELETE ROWS
AS SELECT {COLUMNS} FROM customers WITH NO DATA
"""  # noqa: S608

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
    "updatedAt" = clock_timestamp()
  WHERE {_wins("excluded")}
  RETURNING xmax = 0 AS inserted
)
SELECT (SELECT count(*) FROM read),
       count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted)
FROM merged
"""  # noqa: S608


def merge(
    conn: Conn, integration: Integration, rows: Iterable[CustomerRow], read: Read
) -> MergeCounts:
    """Merge within the caller's transaction, which must have called `integrations.share`."""
    conn.execute(CREATE_INCOMING)
    with conn.cursor() as cursor, cursor.copy(COPY_INCOMING) as copy:
        for row in rows:
            copy.write_row(row)
    if not read.by_id:
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
    return MergeCounts(inserted=inserted, updated=updated, unchanged=total - inserted - updated)


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
    """Active stores that were read to the end; one in the middle of a window has no count yet."""
    with conn.cursor(row_factory=kwargs_row(StoreCount)) as cursor:
        return cursor.execute(
            """
            SELECT i."organizationId" AS organization_id, i."shop" AS shop,
                   count(c."id") AS here, i."customersCount" AS in_shopify,
                   i."customersCountAt" AS asked_at
            FROM integrations i
            LEFT JOIN customers c ON c."integrationId" = i."id" AND c."deletedAt" IS NULL
            WHERE i."isActive" AND i."watermark" IS NOT NULL AND i."windowTo" IS NULL
              AND i."customersCount" IS NOT NULL
            GROUP BY i."id" ORDER BY i."organizationId", i."shop"
            """
        ).fetchall()
