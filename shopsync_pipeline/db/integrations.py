"""The table `integrations`: which stores there are, how they fare, and how far each was read."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import dict_row

from shopsync_pipeline.db import inbox
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.locks import HELD
from shopsync_pipeline.errors import IntegrationInactive, IntegrationPaused
from shopsync_pipeline.models import Integration, Window

FRESH_FOR = timedelta(minutes=30)

# A store is due when it is active, not paused by a person, was not synced within FRESH_FOR, is not
# put off, and no run holds its lock. Shopify's clock wrote lastSyncAt; a few seconds of difference
# do not matter here.
# Without a lastError only the drain gives the store a minute's rest: a pull need not wait for that.
DUE = """
  i."isActive" AND i."pausedAt" IS NULL
  AND (i."lastSyncAt" IS NULL OR i."lastSyncAt" <= %(now)s - %(fresh_for)s::interval)
  AND (i."retryAt" IS NULL OR i."retryAt" <= %(now)s OR i."lastError" IS NULL)
"""


def connect(conn: Conn, *, organization_id: str, shop: str, name: str, shop_id: int) -> Integration:
    """The integration of this store, made or made active again, to be tried at once. What troubled
    it last is told until a pull has ended well.

    One that was inactive may have missed deletions and changes for any time, so it starts
    with a full load, as does another shop that now owns the domain. A store that was renamed
    keeps its integration, told by `shop_id`.
    """
    same = 'i."isActive" AND i."shopId" = excluded."shopId"'
    conn.execute(
        """
        UPDATE integrations SET "shop" = %(shop)s
        WHERE "organizationId" = %(organization)s AND "shopId" = %(shop_id)s
          AND NOT EXISTS (SELECT FROM integrations
                          WHERE "organizationId" = %(organization)s AND "shop" = %(shop)s)
        """,
        {"shop": shop, "organization": organization_id, "shop_id": shop_id},
    )
    row = conn.execute(
        f"""
        INSERT INTO integrations AS i ("organizationId", "shop", "name", "shopId")
        VALUES (%s, %s, %s, %s)
        ON CONFLICT ON CONSTRAINT "organizationId_platform_shop" DO UPDATE SET
          "name" = excluded."name", "shopId" = excluded."shopId", "isActive" = true,
          "status" = 'ok', "retryAt" = NULL, "inactiveSince" = NULL,
          "lastError" = CASE WHEN i."isActive" THEN i."lastError" END,
          "watermark" = CASE WHEN {same} THEN i."watermark" END,
          "windowFrom" = CASE WHEN {same} THEN i."windowFrom" END,
          "windowTo" = CASE WHEN {same} THEN i."windowTo" END,
          "windowCursor" = CASE WHEN {same} THEN i."windowCursor" END,
          "windowReached" = CASE WHEN {same} THEN i."windowReached" END,
          "updatedAt" = clock_timestamp()
        RETURNING "id"
        """,  # noqa: S608
        [organization_id, shop, name, shop_id],
    ).fetchone()
    assert row is not None
    inbox.notify(conn, row[0])  # what waited for the store may be claimed again
    return get(conn, row[0])


def disconnect(conn: Conn, *, organization_id: str, shop: str) -> bool:
    """Stop syncing the store and forget its tokens; waits for a merge that is under way.

    Its customers and its row stay. False where there is no such active store.
    """
    found = conn.execute(
        """
        SELECT "id" FROM integrations
        WHERE "organizationId" = %s AND "shop" = %s AND "isActive" FOR UPDATE
        """,
        [organization_id, shop],
    ).fetchone()
    if found is not None:
        deactivate(conn, found[0])
    return found is not None


def deactivate(conn: Conn, integration_id: str) -> None:
    """Forget the tokens; what signs webhooks stays, since Shopify's redact webhooks are to come."""
    conn.execute("SELECT shopsync_deactivate(%s)", [integration_id])


def pause(conn: Conn, *, organization_id: str, shop: str) -> bool:
    """Have the store left out of everything but erasures and its uninstall, until `resume`; waits
    for a merge that is under way, and what reads the store stops before its next one.

    False where there is no such active store. One that is paused stays so since then.
    """
    return (
        conn.execute(
            """
            UPDATE integrations SET "pausedAt" = coalesce("pausedAt", clock_timestamp()),
              "updatedAt" = clock_timestamp()
            WHERE "organizationId" = %s AND "shop" = %s AND "isActive"
            """,
            [organization_id, shop],
        ).rowcount
        == 1
    )


def resume(conn: Conn, *, organization_id: str, shop: str) -> bool:
    """Have the store synced again, from where it stopped; its webhooks that waited at once.

    False where there is no such active store. One that is not paused stays as it is.
    """
    resumed = conn.execute(
        """
        WITH resumed AS (
          UPDATE integrations SET "updatedAt" = clock_timestamp(), "pausedAt" = NULL,
            "resumedAt" = CASE WHEN "pausedAt" IS NULL THEN "resumedAt" ELSE clock_timestamp() END
          WHERE "organizationId" = %s AND "shop" = %s AND "isActive"
          RETURNING "id"
        )
        SELECT pg_notify(%s, "id") FROM resumed
        """,
        [organization_id, shop, inbox.CHANNEL],
    )
    return resumed.rowcount == 1


SIGNING_SECRETS_KEPT = timedelta(days=90)


def forget_signing_secrets(conn: Conn, integration_id: str | None = None) -> None:
    """Of this store that left, or of all that left SIGNING_SECRETS_KEPT ago."""
    conn.execute(
        """
        UPDATE integrations SET "clientSecret" = NULL, "webhookSecret" = NULL
        WHERE NOT "isActive" AND ("clientSecret" IS NOT NULL OR "webhookSecret" IS NOT NULL)
          AND ("id" = %s OR (%s::text IS NULL AND "inactiveSince" < clock_timestamp() - %s))
        """,
        [integration_id, integration_id, SIGNING_SECRETS_KEPT],
    )


def lock(conn: Conn, integration_id: str) -> Integration:
    """Keep every merge of this store out until the transaction ends; it may have left."""
    conn.execute('SELECT FROM integrations WHERE "id" = %s FOR UPDATE', [integration_id])
    return get(conn, integration_id)


def get(conn: Conn, integration_id: str) -> Integration:
    (integration,) = _select(conn, 'i."id" = %(id)s', {"id": integration_id})
    return integration


def everything(conn: Conn) -> list[Integration]:
    """All, also those that left, by organization and shop."""
    return _select(conn, "true", {})


def active_of(conn: Conn, organizations: Iterable[str]) -> list[Integration]:
    """The active stores of these organizations, by organization and shop."""
    return _select(
        conn,
        'i."isActive" AND i."organizationId" = ANY(%(organizations)s)',
        {"organizations": list(organizations)},
    )


def is_connected(conn: Conn, organization_id: str, shop: str | None) -> bool:
    """Whether the organization has this active store, or any where `shop` is None.

    Asked by columns, for the receiver's role may not read the tokens beside them.
    """
    row = conn.execute(
        """
        SELECT 1 FROM integrations
        WHERE "organizationId" = %(organization)s AND "isActive"
          AND (%(shop)s::text IS NULL OR "shop" = %(shop)s) LIMIT 1
        """,
        {"organization": organization_id, "shop": shop},
    ).fetchone()
    return row is not None


def organizations(conn: Conn) -> list[str]:
    """Every organization that ever connected a store, the oldest first."""
    rows = conn.execute(
        """SELECT "organizationId" FROM integrations GROUP BY 1 ORDER BY min("createdAt"), 1"""
    ).fetchall()
    return [row[0] for row in rows]


def is_due(conn: Conn, integration_id: str, now: datetime) -> bool:
    """Asked again under the lock: another run may have synced it meanwhile."""
    arguments = {"id": integration_id, "now": now, "fresh_for": FRESH_FOR}
    return bool(_select(conn, f'i."id" = %(id)s AND {DUE}', arguments))


def due_organizations(conn: Conn, now: datetime) -> tuple[list[str], int]:
    """Organizations with a store that is due and that no run is syncing, and the number of
    those with active stores of which none is."""
    rows = conn.execute(
        f"""
        SELECT i."organizationId", bool_or({DUE} AND hashtextextended(i."id", 0) NOT IN ({HELD}))
        FROM integrations i WHERE i."isActive" GROUP BY 1 ORDER BY 1
        """,  # noqa: S608
        {"now": now, "fresh_for": FRESH_FOR},
    ).fetchall()
    due = [organization for organization, is_due in rows if is_due]
    return due, len(rows) - len(due)


def realtime_since(conn: Conn, integration_id: str) -> datetime | None:
    """Since when webhooks are subscribed and repaired; None where real-time sync is off."""
    row = conn.execute(
        'SELECT "realtimeSince" FROM integrations WHERE "id" = %s', [integration_id]
    ).fetchone()
    return None if row is None else row[0]


def begin_realtime(conn: Conn, integration_id: str) -> None:
    """From now on; where it is on already, since when it was. Its subscriptions are whole now."""
    conn.execute(
        """
        UPDATE integrations SET "realtimeSince" = coalesce("realtimeSince", clock_timestamp()),
          "subscribedAt" = clock_timestamp(), "updatedAt" = clock_timestamp()
        WHERE "id" = %s AND "isActive"
        """,
        [integration_id],
    )


def end_realtime(conn: Conn, integration_id: str) -> None:
    conn.execute(
        """
        UPDATE integrations SET "realtimeSince" = NULL, "updatedAt" = clock_timestamp()
        WHERE "id" = %s AND "realtimeSince" IS NOT NULL
        """,
        [integration_id],
    )


def realtime_organizations(conn: Conn, now: datetime) -> list[str]:
    """Organizations with an active store whose real-time sync is on and that is neither put off nor
    paused."""
    rows = conn.execute(
        """
        SELECT DISTINCT "organizationId" FROM integrations
        WHERE "isActive" AND "realtimeSince" IS NOT NULL AND "pausedAt" IS NULL
          AND ("retryAt" IS NULL OR "retryAt" <= %s)
        ORDER BY 1
        """,
        [now],
    ).fetchall()
    return [row[0] for row in rows]


def realtime_scopes(conn: Conn, organizations: Iterable[str]) -> list[tuple[str, str, list[str]]]:
    """Organization, shop and granted scopes of these organizations' stores with real-time sync."""
    return conn.execute(
        """
        SELECT "organizationId", "shop", coalesce("scopes", '{}') FROM integrations
        WHERE "organizationId" = ANY(%s) AND "isActive" AND "realtimeSince" IS NOT NULL
        ORDER BY 1, 2
        """,
        [list(organizations)],
    ).fetchall()


def sharing_subscriptions(conn: Conn, integration_id: str) -> list[str]:
    """Organizations whose real-time sync lives on the same subscriptions as this integration's,
    with its own where that is on: Shopify keeps them per store and app, not per organization."""
    rows = conn.execute(
        """
        SELECT DISTINCT other."organizationId" FROM integrations own JOIN integrations other
          ON other."shop" = own."shop" AND other."clientId" IS NOT DISTINCT FROM own."clientId"
        WHERE own."id" = %s AND other."isActive" AND other."realtimeSince" IS NOT NULL
        ORDER BY 1
        """,
        [integration_id],
    ).fetchall()
    return [row[0] for row in rows]


def late(conn: Conn, since: datetime) -> tuple[list[str], list[str]]:
    """Active stores not synced since then, in words: those that are well, and those in trouble.
    Paused ones are neither."""
    rows = conn.execute(
        """
        SELECT "status" = 'ok',
               format('%%s, %%s: %%s, last synced %%s', "organizationId", "shop", "status",
                      coalesce(to_char("lastSyncAt", 'YYYY-MM-DD HH24:MI'), 'never'))
        FROM integrations
        WHERE "isActive" AND "pausedAt" IS NULL
          AND ("status" <> 'ok'
               OR greatest(coalesce("lastSyncAt", "createdAt"), "resumedAt") < %s)
        ORDER BY "organizationId", "shop"
        """,
        [since],
    ).fetchall()
    return [line for ok, line in rows if ok], [line for ok, line in rows if not ok]


def share(conn: Conn, integration_id: str) -> None:
    """Hold the row against a disconnect and a pause until the transaction ends.

    Raises IntegrationInactive where the store has left, IntegrationPaused where it is paused.
    """
    _active(conn, integration_id, "FOR SHARE")


def require_active(conn: Conn, integration_id: str) -> None:
    """Raises IntegrationInactive where the store has left; holds nothing."""
    _active(conn, integration_id, "", paused_too=True)


def _active(conn: Conn, integration_id: str, hold: str, *, paused_too: bool = False) -> None:
    found = _select(conn, 'i."id" = %(id)s', {"id": integration_id}, hold)
    if not found or not found[0].is_active:
        whom = f"{found[0].organization_id}, {found[0].shop}" if found else integration_id
        raise IntegrationInactive(
            f"{whom}: the store was disconnected while it was being synced; nothing more of it "
            "is written."
        )
    if found[0].paused_told and not paused_too:
        raise IntegrationPaused(found[0].paused_told)


def hold(conn: Conn, integration_id: str, *, paused_too: bool = False) -> None:
    """Keep everybody else from changing the row until the transaction ends.

    Raises IntegrationInactive where the store has left, IntegrationPaused where it is paused.
    """
    _active(conn, integration_id, "FOR NO KEY UPDATE", paused_too=paused_too)


def record_probe(
    conn: Conn, integration_id: str, *, shop_id: int, customers_count: int, scopes: Sequence[str]
) -> None:
    """What Shopify said of the store itself at the start of a pull."""
    conn.execute(
        """
        UPDATE integrations SET "shopId" = %s, "customersCount" = %s, "scopes" = %s,
          "customersCountAt" = clock_timestamp(), "updatedAt" = clock_timestamp()
        WHERE "id" = %s
        """,
        [shop_id, customers_count, list(scopes), integration_id],
    )


def record_trouble(
    conn: Conn, integration_id: str, *, status: str | None, retry_at: datetime | None, error: str
) -> None:
    """Put the store off until `retry_at`; `status` None leaves it (trouble that may pass)."""
    conn.execute(
        """
        UPDATE integrations SET "status" = coalesce(%s, "status"), "retryAt" = %s,
          "lastError" = %s, "updatedAt" = clock_timestamp() WHERE "id" = %s AND "isActive"
        """,
        [status, retry_at, error, integration_id],
    )


def put_off(conn: Conn, integration_id: str, wait: timedelta) -> None:
    """Leave the store alone for a while; no trouble of its own is recorded."""
    conn.execute(
        """
        UPDATE integrations SET "retryAt" = greatest("retryAt", clock_timestamp() + %s),
          "updatedAt" = clock_timestamp() WHERE "id" = %s AND "isActive"
        """,
        [wait, integration_id],
    )


def free(conn: Conn, integration_id: str) -> None:
    """Try the store again at once: what troubled it may be mended."""
    conn.execute(
        """UPDATE integrations SET "retryAt" = NULL, "updatedAt" = clock_timestamp()
           WHERE "id" = %s AND "isActive" """,
        [integration_id],
    )


def _select(
    conn: Conn, condition: str, arguments: dict[str, Any], hold: str = ""
) -> list[Integration]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"""SELECT i.* FROM integrations i WHERE {condition}
                ORDER BY "organizationId", "shop" {hold}""",  # noqa: S608
            arguments,
        ).fetchall()
    return [_integration(row) for row in rows]


def _integration(row: dict[str, Any]) -> Integration:
    window = None
    if row["windowTo"] is not None:
        window = Window(
            since=row["windowFrom"],
            until=row["windowTo"],
            cursor=row["windowCursor"],
            reached=row["windowReached"],
        )
    return Integration(
        id=row["id"],
        organization_id=row["organizationId"],
        shop=row["shop"],
        name=row["name"],
        shop_id=row["shopId"],
        is_active=row["isActive"],
        status=row["status"],
        retry_at=row["retryAt"],
        last_sync_at=row["lastSyncAt"],
        watermark=row["watermark"],
        window=window,
        last_error=row["lastError"],
        customers_count=row["customersCount"],
        realtime_since=row["realtimeSince"],
        paused_at=row["pausedAt"],
    )
