"""The table `data_requests`: who asked through a store what is held of them (30 days to answer).

Only ids are kept; an export reads what is held at that moment.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, dict_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import CUSTOMER_COLUMNS, WebhookEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRequest:
    """`request_id` and `customer_id` are Shopify's numbers."""

    id: str
    organization_id: str
    shop: str
    request_id: int
    customer_id: int
    requested_at: datetime
    exported_at: datetime | None


def file(conn: Conn, event: WebhookEvent, request_id: int, customer_id: int) -> None:
    """Once for each integration and number, however often it is delivered."""
    conn.execute(
        """
        INSERT INTO data_requests
          ("integrationId", "organizationId", "shop", "requestId", "customerId", "requestedAt")
        VALUES (%s, %s, %s, %s, %s, %s)
        ON CONFLICT ON CONSTRAINT "integrationId_requestId" DO NOTHING
        """,
        [
            event.integration_id,
            event.organization_id,
            event.shop,
            request_id,
            customer_id,
            event.received_at,
        ],
    )


def everything(conn: Conn) -> list[DataRequest]:
    """The oldest first."""
    with conn.cursor(row_factory=class_row(DataRequest)) as cursor:
        return cursor.execute(
            """
            SELECT "id", "organizationId" AS organization_id, "shop", "requestId" AS request_id,
                   "customerId" AS customer_id, "requestedAt" AS requested_at,
                   "exportedAt" AS exported_at
            FROM data_requests ORDER BY "requestedAt", "id"
            """
        ).fetchall()


def export(conn: Conn, data_request_id: str) -> dict[str, Any] | None:
    """What is held of the person: the row of `customers`, or None where there is no such request;
    an empty object where nothing is held (or no longer)."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            """
            UPDATE data_requests SET "exportedAt" = coalesce("exportedAt", clock_timestamp())
            WHERE "id" = %s RETURNING "integrationId", "customerId"
            """,
            [data_request_id],
        ).fetchone()
        if found is None:
            return None
        held = cursor.execute(
            """
            SELECT * FROM customers
            WHERE "integrationId" = %(integrationId)s AND "shopifyId" = %(customerId)s
            """,
            found,
        ).fetchone()
    return {name: held[name] for name in (*CUSTOMER_COLUMNS, "deletedAt")} if held else {}


def remove(conn: Conn, integration_id: str) -> None:
    conn.execute('DELETE FROM data_requests WHERE "integrationId" = %s', [integration_id])
