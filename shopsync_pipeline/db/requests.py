"""The table `sync_requests`: what people and the app asked for, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from psycopg.rows import dict_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import MergeCounts, SyncRequest

READABLE = """
  "id", "kind", "organizationId", "mode", "status", "requestedAt", "shop", "finishedAt", "runId",
  "counts", "error"
"""
"""All but the credentials, which the receiver's role may write and not read."""

KEPT = timedelta(days=90)
"""As long as the rows of the inbox."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewCredentials:
    """What a request brings to connect a store with; `sealed` is encrypted (db.credentials)."""

    shop: str
    name: str | None
    sealed: str = field(repr=False)


def file(
    conn: Conn,
    *,
    kind: str,
    organization_id: str | None,
    mode: str = "incremental",
    bring: NewCredentials | None = None,
) -> str:
    """The id of the request; the one that is queued already where the same was asked before, which
    then has the newer credentials."""
    if bring:
        renewed = '"name" = %(name)s, "credentials" = %(sealed)s'
    elif kind == "realtime":  # on and off contradict each other: the last one said counts
        renewed = '"requestedAt" = clock_timestamp()'
    else:
        renewed = '"mode" = excluded."mode"'
    row = conn.execute(
        f"""
        INSERT INTO sync_requests ("kind", "organizationId", "mode", "shop", "name", "credentials")
        VALUES (%(kind)s, %(organization)s, %(mode)s, %(shop)s, %(name)s, %(sealed)s)
        ON CONFLICT ("kind", coalesce("organizationId", ''), "mode", coalesce("shop", ''))
          WHERE "status" = 'queued'
          DO UPDATE SET {renewed}
        RETURNING "id"
        """,  # noqa: S608
        {
            "kind": kind,
            "organization": organization_id,
            "mode": mode,
            "shop": bring.shop if bring else None,
            "name": bring.name if bring else None,
            "sealed": bring.sealed if bring else None,
        },
    ).fetchone()
    assert row is not None
    return str(row[0])


def brought(conn: Conn, request_ids: Sequence[str]) -> list[tuple[str, str, NewCredentials]]:
    """Request, organization and credentials, of those of these requests that bring some."""
    rows = conn.execute(
        """
        SELECT "id", "organizationId", "shop", "name", "credentials" FROM sync_requests
        WHERE "id" = ANY(%s) AND "credentials" IS NOT NULL AND "status" IN ('queued', 'running')
        ORDER BY "requestedAt", "id"
        """,
        [list(request_ids)],
    ).fetchall()
    return [
        (request, organization, NewCredentials(shop=shop, name=name, sealed=sealed))
        for request, organization, shop, name, sealed in rows
    ]


def forget_credentials(conn: Conn, request_ids: Sequence[str]) -> None:
    """They are stored with the integration now, or were refused."""
    conn.execute(
        'UPDATE sync_requests SET "credentials" = NULL WHERE "id" = ANY(%s)', [list(request_ids)]
    )


def unfinished(conn: Conn) -> list[SyncRequest]:
    """Those that are queued or running, the oldest first."""
    return _select(conn, """"status" IN ('queued', 'running') ORDER BY "requestedAt" """, [])


def get(conn: Conn, request_id: str) -> SyncRequest | None:
    found = _select(conn, '"id" = %s', [request_id])
    return found[0] if found else None


def begin(conn: Conn, request_ids: Sequence[str], run_id: str) -> None:
    conn.execute(
        """
        UPDATE sync_requests SET "status" = 'running', "runId" = %s
        WHERE "id" = ANY(%s) AND "status" IN ('queued', 'running')
        """,
        [run_id, list(request_ids)],
    )


def answer(
    conn: Conn,
    request_ids: Sequence[str],
    organization_id: str,
    *,
    counts: MergeCounts,
    error: str | None,
) -> None:
    """Say what was merged for one organization. A request for that organization alone ends by
    this; one for all that are due collects the counts and the first error and stays open."""
    ids = list(request_ids)
    conn.execute(
        """
        UPDATE sync_requests SET "error" = coalesce("error", %s), "counts" = jsonb_build_object(
          'inserted', coalesce(("counts"->>'inserted')::bigint, 0) + %s,
          'updated', coalesce(("counts"->>'updated')::bigint, 0) + %s,
          'unchanged', coalesce(("counts"->>'unchanged')::bigint, 0) + %s)
        WHERE "id" = ANY(%s) AND "status" = 'running'
          AND ("organizationId" = %s OR "organizationId" IS NULL)
        """,
        [error, counts.inserted, counts.updated, counts.unchanged, ids, organization_id],
    )
    conn.execute(
        """
        UPDATE sync_requests SET "finishedAt" = clock_timestamp(), "credentials" = NULL,
          "status" = CASE WHEN "error" IS NULL THEN 'succeeded' ELSE 'failed' END
        WHERE "id" = ANY(%s) AND "organizationId" = %s AND "status" = 'running'
        """,
        [ids, organization_id],
    )


def finish(conn: Conn, request_id: str, *, error: str | None) -> None:
    """End a request that no run ends any more; an error that a run told already stays."""
    conn.execute(
        """
        UPDATE sync_requests SET "error" = coalesce("error", %(error)s),
          "finishedAt" = clock_timestamp(), "credentials" = NULL,
          "status" = CASE WHEN coalesce("error", %(error)s) IS NULL
                          THEN 'succeeded' ELSE 'failed' END
        WHERE "id" = %(id)s AND "status" IN ('queued', 'running')
        """,
        {"error": error, "id": request_id},
    )


def expire(conn: Conn) -> int:
    """Forget those that were answered long ago; how many."""
    return conn.execute(
        'DELETE FROM sync_requests WHERE "finishedAt" < clock_timestamp() - %s', [KEPT]
    ).rowcount


def _select(conn: Conn, condition: str, arguments: list[Any]) -> list[SyncRequest]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"SELECT {READABLE} FROM sync_requests WHERE {condition}",  # noqa: S608
            arguments,
        ).fetchall()
    return [
        SyncRequest(
            id=row["id"],
            kind=row["kind"],
            organization_id=row["organizationId"],
            mode=row["mode"],
            status=row["status"],
            requested_at=row["requestedAt"],
            shop=row["shop"],
            finished_at=row["finishedAt"],
            run_id=row["runId"],
            counts=row["counts"],
            error=row["error"],
        )
        for row in rows
    ]
