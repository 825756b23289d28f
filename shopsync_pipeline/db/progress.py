"""How far long runs have come, for whoever waits for them: the table `sync_progress`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn

Kind = Literal["sync", "reconcile"]


def begin(
    conn: Conn, integration_id: str, *, kind: Kind, run_id: str, expected: int | None
) -> None:
    """The run reads this store from now on; `expected` is how many rows, None where nobody knows.
    It replaces what the store's last run of the kind had told."""
    conn.execute(
        """
        INSERT INTO sync_progress ("integrationId", "kind", "runId", "of") VALUES (%s, %s, %s, %s)
        ON CONFLICT ("integrationId", "kind") DO UPDATE SET "runId" = excluded."runId",
          "startedAt" = excluded."startedAt", "rows" = 0, "of" = excluded."of"
        """,
        [integration_id, kind, run_id, expected],
    )


def add(conn: Conn, integration_id: str, *, kind: Kind, run_id: str, rows: int) -> None:
    """So many more are merged, by the transaction that merges them; the last thing it does, for
    others that merge into the same store wait for it."""
    conn.execute(
        """
        UPDATE sync_progress SET "rows" = "rows" + %s
        WHERE "integrationId" = %s AND "kind" = %s AND "runId" = %s
        """,
        [rows, integration_id, kind, run_id],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Of one store in one run: rows merged so far, and of how many (`expected`)."""

    organization_id: str
    shop: str
    run_id: str
    started_at: datetime
    rows: int
    expected: int | None


def of_runs(conn: Conn, run_ids: Sequence[str]) -> list[Progress]:
    """Of the stores that these runs were the last to read, by organization and shop."""
    with conn.cursor(row_factory=class_row(Progress)) as cursor:
        return cursor.execute(
            """
            SELECT i."organizationId" AS organization_id, i."shop", p."runId" AS run_id,
              p."startedAt" AS started_at, p."rows", p."of" AS expected
            FROM sync_progress p JOIN integrations i ON i."id" = p."integrationId"
            WHERE p."runId" = ANY(%s) ORDER BY 1, 2
            """,
            [list(run_ids)],
        ).fetchall()
