"""How each store fares, for `shopsync status`: one row a store, also of those that left."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from shopsync_pipeline.db.engine import Conn


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreStatus:
    """`customers` are those here that are not deleted, `in_shopify` as the store last said.

    Ages are Postgres's; `last_sync_age` is None before the first sync, `oldest_event_age` where no
    event is open.
    """

    organization_id: str
    shop: str
    name: str
    is_active: bool
    status: str
    paused_at: datetime | None
    last_sync_at: datetime | None
    last_sync_age: timedelta | None
    retry_at: datetime | None
    last_error: str | None
    customers: int
    in_shopify: int | None
    realtime_since: datetime | None
    oldest_event_age: timedelta | None
    dead_letters: int

    @property
    def state(self) -> str:
        """`status`, unless the store has left or a person has paused it."""
        if not self.is_active:
            return "left"
        return self.status if self.paused_at is None else "paused by hand"


def stores(conn: Conn, counted: Iterable[StoreStatus] = ()) -> list[StoreStatus]:
    """By organization and shop. The customers of `counted` stores are not counted again, which is
    what takes long."""
    known = {f"{store.organization_id} {store.shop}": store.customers for store in counted}
    with conn.cursor(row_factory=class_row(StoreStatus)) as cursor:
        return cursor.execute(
            """
            SELECT i."organizationId" AS organization_id, i."shop", i."name",
              i."isActive" AS is_active, i."status", i."pausedAt" AS paused_at,
              i."lastSyncAt" AS last_sync_at,
              greatest(clock_timestamp() - i."lastSyncAt", '0') AS last_sync_age,
              i."retryAt" AS retry_at, i."lastError" AS last_error,
              coalesce(
                (%s::jsonb ->> (i."organizationId" || ' ' || i."shop"))::bigint,
                (SELECT count(*) FROM customers c
                 WHERE c."integrationId" = i."id" AND c."deletedAt" IS NULL)) AS customers,
              i."customersCount" AS in_shopify, i."realtimeSince" AS realtime_since,
              (SELECT greatest(clock_timestamp() - min(e."receivedAt"), '0') FROM webhook_events e
               WHERE e."integrationId" = i."id" AND e."status" IN ('pending', 'claimed')
              ) AS oldest_event_age,
              (SELECT count(*) FROM webhook_events e
               WHERE e."integrationId" = i."id" AND e."status" = 'dead') AS dead_letters
            FROM integrations i ORDER BY 1, 2
            """,
            [Jsonb(known)],
        ).fetchall()
