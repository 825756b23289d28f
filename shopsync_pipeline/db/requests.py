"""The table `sync_requests`: what people and the app asked for, and what became of it."""

from collections.abc import Sequence
from typing import Any

from psycopg.rows import dict_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import MergeCounts, SyncRequest


def file(conn: Conn, *, kind: str, organization_id: str | None, mode: str = "incremental") -> str:
    """The id of the request; the one that is queued already where the same was asked before."""
    arguments = {"kind": kind, "organization": organization_id, "mode": mode}
    row = conn.execute(
        """
        INSERT INTO sync_requests ("kind", "organizationId", "mode")
        VALUES (%(kind)s, %(organization)s, %(mode)s)
        ON CONFLICT ("kind", coalesce("organizationId", ''), "mode") WHERE "status" = 'queued'
          DO UPDATE SET "mode" = excluded."mode"
        RETURNING "id"
        """,
        arguments,
    ).fetchone()
    assert row is not None
    return str(row[0])


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
        UPDATE sync_requests SET "finishedAt" = clock_timestamp(),
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
          "finishedAt" = clock_timestamp(),
          "status" = CASE WHEN coalesce("error", %(error)s) IS NULL
                          THEN 'succeeded' ELSE 'failed' END
        WHERE "id" = %(id)s AND "status" IN ('queued', 'running')
        """,
        {"error": error, "id": request_id},
    )


def _select(conn: Conn, condition: str, arguments: list[Any]) -> list[SyncRequest]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"SELECT * FROM sync_requests WHERE {condition}",  # noqa: S608
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
            finished_at=row["finishedAt"],
            run_id=row["runId"],
            counts=row["counts"],
            error=row["error"],
        )
        for row in rows
    ]
