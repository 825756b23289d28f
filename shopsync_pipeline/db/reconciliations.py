"""What a reconcile asks of `customers`, when a store is due for one, and what was found by it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.locks import HELD
from shopsync_pipeline.models import CUSTOMER_COLUMNS, Integration

OURS = ", ".join(f'c."{name}"' for name in CUSTOMER_COLUMNS)
THEIRS = ", ".join(f'incoming."{name}"' for name in CUSTOMER_COLUMNS)

IDS_FETCHED = 10_000
"""Rows of one fetch: a large store's ids never are in memory at once."""

# Each store has an hour of the week of its own, by a hash of its id, so that they are spread.
SLOT = """
  date_trunc('hour', %(now)s::timestamptz, 'UTC') - interval '1 hour' * mod(
    extract(epoch FROM date_trunc('hour', %(now)s::timestamptz, 'UTC'))::bigint / 3600
      - mod(hashtextextended(i."id", 0), 168), 168)
"""

# The store was not reconciled since its hour came last. One that is still being loaded is not
# overdue: all its rows would be missing.
OVERDUE = f"""
  (i."isActive" AND i."pausedAt" IS NULL AND i."watermark" IS NOT NULL
   AND coalesce(i."reconciledAt", i."createdAt") < {SLOT})
"""

# Without a lastError only the drain gives the store a minute's rest.
PUT_OFF = '(i."retryAt" > %(now)s AND i."lastError" IS NOT NULL) IS TRUE'

Finding = Literal["missing", "drifted", "revived", "deleted"]
FINDINGS: tuple[Finding, ...] = get_args(Finding)
"""What was wrong with a row: not here, other than in the store, deleted here only, there only."""


def lock_of(integration_id: str) -> str:
    """The name of the advisory lock under which a store is reconciled; not the pull's, so that
    pulls go on meanwhile."""
    return f"reconcile:{integration_id}"


def differing(conn: Conn, integration: Integration, sent_at: datetime) -> list[int]:
    """Of the rows that were just merged in this transaction, those that are still another here:
    deleted here only, or with a higher `updatedAt` than Shopify's. What was read after `sent_at`
    may differ rightly, and a redacted person stays gone."""
    rows = conn.execute(
        f"""
        SELECT c."shopifyId" FROM incoming JOIN customers c
          ON c."shopifyId" = incoming."shopifyId" AND c."organizationId" = %s
        WHERE c."lastSyncedAt" < %s AND c."redactedAt" IS NULL
          AND (c."deletedAt" IS NOT NULL OR ({OURS}) IS DISTINCT FROM ({THEIRS}))
        """,  # noqa: S608
        [integration.organization_id, sent_at],
        prepare=False,  # as the merge
    ).fetchall()
    return [row[0] for row in rows]


def living_before(conn: Conn, integration_id: str, moment: datetime) -> Iterator[int]:
    """Shopify's ids of the store's customers that are not deleted and were written by a read
    before `moment`. Within the caller's transaction, whose snapshot they are read from."""
    with conn.cursor("living") as cursor:
        cursor.itersize = IDS_FETCHED
        cursor.execute(
            """
            SELECT "shopifyId" FROM customers
            WHERE "integrationId" = %s AND "deletedAt" IS NULL AND "lastSyncedAt" < %s
            """,
            [integration_id, moment],
        )
        for row in cursor:
            yield row[0]


def record(
    conn: Conn,
    integration: Integration,
    *,
    run_id: str,
    way: str,
    started_at: datetime,
    rows_read: int,
    found: Mapping[Finding, int],
) -> None:
    """The reconcile has ended whole; the caller holds the integration (integrations.hold)."""
    conn.execute(
        """
        INSERT INTO reconciliations ("integrationId", "organizationId", "shop", "runId", "way",
          "startedAt", "rowsRead", "missing", "drifted", "revived", "deleted")
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            *(integration.id, integration.organization_id, integration.shop, run_id, way),
            *(started_at, rows_read),
            *(found.get(kind, 0) for kind in FINDINGS),
        ],
    )
    conn.execute(
        """
        UPDATE integrations SET "reconciledAt" = clock_timestamp(),
          "updatedAt" = clock_timestamp() WHERE "id" = %s
        """,
        [integration.id],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Whether a store waits for its weekly reconcile, and whether its trouble stands against it;
    `reconciled_at` is None before the first."""

    overdue: bool
    put_off: bool
    reconciled_at: datetime | None


def turn_of(conn: Conn, integration_id: str, now: datetime) -> Turn:
    with conn.cursor(row_factory=class_row(Turn)) as cursor:
        found = cursor.execute(
            f"""
            SELECT {OVERDUE} AS overdue, {PUT_OFF} AS put_off, i."reconciledAt" AS reconciled_at
            FROM integrations i WHERE i."id" = %(id)s
            """,  # noqa: S608
            {"id": integration_id, "now": now},
        ).fetchone()
    assert found is not None
    return found


def due_organizations(conn: Conn, now: datetime) -> list[str]:
    """Organizations with a store that is overdue, not put off, and not being reconciled."""
    rows = conn.execute(
        f"""
        SELECT DISTINCT i."organizationId" FROM integrations i
        WHERE {OVERDUE} AND NOT {PUT_OFF}
          AND hashtextextended(%(lock)s || i."id", 0) NOT IN ({HELD})
        ORDER BY 1
        """,  # noqa: S608
        {"now": now, "lock": lock_of("")},
    ).fetchall()
    return [row[0] for row in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciliation:
    """One reconcile that ended whole. `realtime` tells whether the store's webhooks are on."""

    organization_id: str
    shop: str
    run_id: str
    way: str
    finished_at: datetime
    rows_read: int
    missing: int
    drifted: int
    revived: int
    deleted: int
    realtime: bool

    @property
    def wrong(self) -> int:
        """Rows of the table that were not as in the store."""
        return self.missing + self.drifted + self.revived + self.deleted


READABLE = """
  r."organizationId" AS organization_id, r."shop" AS shop, r."runId" AS run_id, r."way" AS way,
  r."finishedAt" AS finished_at, r."rowsRead" AS rows_read, r."missing" AS missing,
  r."drifted" AS drifted, r."revived" AS revived, r."deleted" AS deleted,
  i."realtimeSince" IS NOT NULL AS realtime
"""


def latest(conn: Conn) -> list[Reconciliation]:
    """The last one of each active store."""
    with conn.cursor(row_factory=class_row(Reconciliation)) as cursor:
        return cursor.execute(
            f"""
            SELECT {READABLE} FROM integrations i, LATERAL (
              SELECT * FROM reconciliations r WHERE r."integrationId" = i."id"
              ORDER BY r."finishedAt" DESC LIMIT 1
            ) AS r
            WHERE i."isActive" ORDER BY r."organizationId", r."shop"
            """  # noqa: S608
        ).fetchall()


def of_runs(
    conn: Conn, run_ids: Sequence[str], organizations: Sequence[str]
) -> list[Reconciliation]:
    """What these runs found in the stores of these organizations."""
    with conn.cursor(row_factory=class_row(Reconciliation)) as cursor:
        return cursor.execute(
            f"""
            SELECT {READABLE} FROM reconciliations r
            JOIN integrations i ON i."id" = r."integrationId"
            WHERE r."runId" = ANY(%s) AND r."organizationId" = ANY(%s)
            ORDER BY r."organizationId", r."shop"
            """,  # noqa: S608
            [list(run_ids), list(organizations)],
        ).fetchall()
