"""What the customers page shows of stores and of one customer; no token and no body is read.

It is asked every second by each page that is open, so that nothing here counts a whole table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import class_row, dict_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import CUSTOMER_COLUMNS

STORES_SHOWN = 100
ENDED_SHOWN = timedelta(minutes=2)
"""So long the page tells how a request ended."""

EVENTS_SHOWN = 50
RECENT_EVENTS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The last request for a store's organization that is under way or has just ended. `rows` are
    merged so far, of `expected`; each is None where nobody knows."""

    id: str
    kind: str
    mode: str
    status: str
    error: str | None
    counts: dict[str, int]
    rows: int | None
    expected: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """`waiting_since`: of its oldest webhook that is not worked off. `last_lag`: how long the last
    one took, where it is among the last of all stores."""

    id: str
    organization_id: str
    shop: str
    name: str
    is_active: bool
    status: str
    last_error: str | None
    last_sync_at: datetime | None
    in_shopify: int | None
    realtime_since: datetime | None
    paused_at: datetime | None
    inactive_since: datetime | None
    waiting_since: datetime | None
    last_lag: timedelta | None
    asked: Asked | None = field(default=None)


STORES = f"""
WITH recent AS (
  SELECT DISTINCT ON ("integrationId") "integrationId", "processedAt" - "receivedAt" AS lag
  FROM (SELECT "integrationId", "processedAt", "receivedAt" FROM webhook_events
        WHERE "receivedAt" > clock_timestamp() - interval '7 days'
        ORDER BY "receivedAt" DESC LIMIT {RECENT_EVENTS}) AS e
  WHERE "processedAt" IS NOT NULL ORDER BY "integrationId", "processedAt" DESC
)
SELECT i."id", i."organizationId" AS organization_id, i."shop", i."name",
  i."isActive" AS is_active, i."status", i."lastError" AS last_error,
  i."lastSyncAt" AS last_sync_at, i."customersCount" AS in_shopify,
  i."realtimeSince" AS realtime_since, i."pausedAt" AS paused_at,
  i."inactiveSince" AS inactive_since, r.lag AS last_lag,
  (SELECT "receivedAt" FROM webhook_events e
   WHERE e."integrationId" = i."id" AND e."status" IN ('pending', 'claimed')
   ORDER BY "receivedAt" LIMIT 1) AS waiting_since
FROM integrations i LEFT JOIN recent r ON r."integrationId" = i."id"
WHERE %(id)s::text IS NULL OR i."id" = %(id)s
ORDER BY i."isActive" DESC, i."status" = 'ok', i."organizationId", i."shop"
LIMIT {STORES_SHOWN}
"""  # noqa: S608

ASKED = """
SELECT DISTINCT ON (i."id") i."id" AS integration, s."id", s."kind", s."mode", s."status",
  s."error", s."counts", p."rows", p."of" AS expected
FROM integrations i
JOIN sync_requests s ON s."organizationId" = i."organizationId"
LEFT JOIN sync_progress p ON p."integrationId" = i."id" AND p."runId" = s."runId"
WHERE i."id" = ANY(%s) AND s."kind" IN ('sync', 'realtime', 'reconcile')
  AND (s."shop" IS NULL OR s."shop" = i."shop")
  AND (s."finishedAt" IS NULL OR s."finishedAt" > clock_timestamp() - %s)
ORDER BY i."id", s."requestedAt" DESC
"""


def stores(conn: Conn) -> list[Store]:
    """STORES_SHOWN of them: those in trouble first, those that left last."""
    return _stores(conn, None)


def store(conn: Conn, integration_id: str) -> Store | None:
    found = _stores(conn, integration_id)
    return found[0] if found else None


def _stores(conn: Conn, integration_id: str | None) -> list[Store]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(STORES.encode(), {"id": integration_id}).fetchall()
        asked = cursor.execute(ASKED, [[row["id"] for row in rows], ENDED_SHOWN]).fetchall()
    by_store = {row.pop("integration"): Asked(**row) for row in asked}
    return [Store(**row, asked=by_store.get(row["id"])) for row in rows]


def asked(conn: Conn, request_id: str) -> Asked | None:
    """One request, whenever it was; `rows` are those of all stores of its run."""
    with conn.cursor(row_factory=class_row(Asked)) as cursor:
        return cursor.execute(
            """
            SELECT s."id", s."kind", s."mode", s."status", s."error", s."counts", p.rows, p.expected
            FROM sync_requests s LEFT JOIN LATERAL (
              SELECT sum("rows")::bigint AS rows, sum("of")::bigint AS expected FROM sync_progress
              WHERE "runId" = s."runId") AS p ON true
            WHERE s."id" = %s AND s."kind" <> 'cron'
            """,
            [request_id],
        ).fetchone()


def store_names(conn: Conn) -> list[tuple[str, str]]:
    """Id and "organization, shop" of those whose customers can be asked for."""
    return conn.execute(
        """SELECT "id", "organizationId" || ', ' || "shop" FROM integrations
           ORDER BY "organizationId", "shop" LIMIT 500"""
    ).fetchall()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sync:
    """Which run wrote the row, when it had read it, and by which way."""

    at: datetime
    via: str
    run: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A webhook about the customer. `error` is the note of one that is done, too."""

    id: str
    topic: str
    triggered_at: datetime | None
    received_at: datetime
    processed_at: datetime | None
    status: str
    outcome: str | None
    error: str | None
    run_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Customer:
    """`fields` are the row as it is, by column. `syncs`: the present one first."""

    id: str
    shop: str
    store: str
    fields: dict[str, Any]
    syncs: Sequence[Sync]
    events: Sequence[Event]


OURS = (
    *("id", "organizationId", "integrationId", "source", "deletedAt", "mergedIntoId", "redactedAt"),
    *("createdAt", "updatedAt", "lastSyncedAt", "lastSyncRunId", "lastSyncVia", "earlierSyncs"),
)
FIELDS = (*CUSTOMER_COLUMNS, *OURS)
CUSTOMER = f"""
SELECT {", ".join(f'c."{name}"' for name in FIELDS)}, i."shop" AS shop, i."name" AS store
FROM customers c JOIN integrations i ON i."id" = c."integrationId" WHERE c."id" = %s
"""  # noqa: S608


def customer(conn: Conn, customer_id: str) -> Customer | None:
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(CUSTOMER.encode(), [customer_id]).fetchone()
    if row is None:
        return None
    shop, store_name = row.pop("shop"), row.pop("store")
    present = Sync(at=row["lastSyncedAt"], via=row["lastSyncVia"], run=row["lastSyncRunId"])
    earlier = [
        Sync(at=datetime.fromisoformat(each["at"]), via=each["via"], run=each["run"])
        for each in row.pop("earlierSyncs") or ()
    ]
    return Customer(
        id=customer_id,
        shop=shop,
        store=store_name,
        fields=row,
        syncs=[present, *earlier],
        events=_events(conn, row["integrationId"], row["shopifyId"]),
    )


def _events(conn: Conn, integration_id: str, shopify_id: int) -> list[Event]:
    """The newest first, EVENTS_SHOWN of them."""
    with conn.cursor(row_factory=class_row(Event)) as cursor:
        return cursor.execute(
            """
            SELECT "id", "topic", "triggeredAt" AS triggered_at, "receivedAt" AS received_at,
              "processedAt" AS processed_at, "status", "outcome", "error", "runId" AS run_id
            FROM webhook_events WHERE "customerId" = %s AND "integrationId" = %s
            ORDER BY "receivedAt" DESC LIMIT %s
            """,
            [shopify_id, integration_id, EVENTS_SHOWN],
        ).fetchall()
