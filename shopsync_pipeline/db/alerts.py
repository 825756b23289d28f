"""The table `alerts`: each trouble from its begin to its end, and whether somebody was told of it.

A restart repeats nothing, for what was told stands here; a message that was sent and not written
down yet, because its sender was killed in between, is sent once more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shopsync_pipeline.db.engine import Conn

KEPT = timedelta(days=90)

STALE = timedelta(days=1)
"""An event that could not be told for so long is told no more."""

LOCK = "hashtextextended('alerts', 0)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What is wrong, with whom, and what to do. `key` stays as long as it is the same trouble;
    `kind` is what troubles of one cause have in common. `last_at`: when it last happened, of one
    that is to be told again when it does; no part of a trouble may quote a customer's data, for it
    leaves the house."""

    kind: str
    key: str
    told: str
    remedy: str
    organization_id: str | None = None
    shop: str | None = None
    last_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """A trouble to be told of: that it began or happened again, or its end where it is `over`."""

    id: str
    trouble: Trouble
    since: datetime
    over: bool


def file(conn: Conn, troubles: Iterable[Trouble]) -> None:
    """A trouble that is known already is left as it is, unless it happened again since."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO alerts AS a
              ("key", "kind", "organizationId", "shop", "told", "remedy", "lastAt")
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT ("key") WHERE "endedAt" IS NULL DO UPDATE SET
              "told" = excluded."told", "remedy" = excluded."remedy", "lastAt" = excluded."lastAt"
            WHERE a."lastAt" < excluded."lastAt"
            """,
            [
                (t.key, t.kind, t.organization_id, t.shop, t.told, t.remedy, t.last_at)
                for t in troubles
            ],
        )


def file_event(conn: Conn, event: Trouble) -> None:
    """Something that happened, once: also where it was told already."""
    known = conn.execute('SELECT FROM alerts WHERE "key" = %s LIMIT 1', [event.key]).fetchone()
    if known is None:
        file(conn, [event])


def end_all_but(conn: Conn, kinds: Iterable[str], keys: Iterable[str]) -> None:
    """The open troubles of these kinds that are not among `keys` are over. One that nobody was told
    of needs no end either."""
    conn.execute(
        """
        UPDATE alerts SET "endedAt" = clock_timestamp(),
          "endToldAt" = CASE WHEN "toldAt" IS NULL THEN clock_timestamp() END
        WHERE "endedAt" IS NULL AND "kind" = ANY(%s) AND NOT "key" = ANY(%s)
        """,
        [list(kinds), list(keys)],
    )


def untold(conn: Conn, lasting: Sequence[str]) -> list[Alert]:
    """What is still to be told, those first that were not tried lately. `lasting` are the kinds
    that end by themselves; the others are events."""
    rows = conn.execute(
        """
        SELECT "id", "kind", "key", "told", "remedy", "organizationId", "shop", "since",
               "endedAt" IS NOT NULL
        FROM alerts
        WHERE "endToldAt" IS NULL
          AND CASE WHEN "endedAt" IS NULL THEN "toldAt" IS NULL OR "lastAt" > "toldLastAt"
                   ELSE "toldAt" IS NOT NULL END
          AND ("kind" = ANY(%s) OR "since" > clock_timestamp() - %s)
        ORDER BY "triedAt" NULLS FIRST, "since", "id"
        """,
        [list(lasting), STALE],
    ).fetchall()
    return [_alert(*row) for row in rows]


def _alert(
    alert_id: str,
    kind: str,
    key: str,
    told: str,
    remedy: str,
    organization_id: str | None,
    shop: str | None,
    since: datetime,
    over: bool,
) -> Alert:
    trouble = Trouble(
        kind=kind, key=key, told=told, remedy=remedy, organization_id=organization_id, shop=shop
    )
    return Alert(id=alert_id, trouble=trouble, since=since, over=over)


def mark_tried(conn: Conn, alert_ids: Sequence[str]) -> None:
    conn.execute(
        'UPDATE alerts SET "triedAt" = clock_timestamp() WHERE "id" = ANY(%s)', [list(alert_ids)]
    )


def mark_told(conn: Conn, alert_ids: Sequence[str], lasting: Sequence[str]) -> None:
    """An event is over with that."""
    conn.execute(
        """
        UPDATE alerts SET
          "toldAt" = coalesce("toldAt", clock_timestamp()),
          "toldLastAt" = "lastAt",
          "endToldAt" = CASE WHEN "endedAt" IS NOT NULL OR NOT "kind" = ANY(%(lasting)s)
                             THEN clock_timestamp() END,
          "endedAt" = CASE WHEN NOT "kind" = ANY(%(lasting)s)
                           THEN coalesce("endedAt", clock_timestamp()) ELSE "endedAt" END
        WHERE "id" = ANY(%(ids)s)
        """,
        {"ids": list(alert_ids), "lasting": list(lasting)},
    )


def try_lock(conn: Conn) -> bool:
    """Whether this session alone tells now; until `unlock`, or its end."""
    row = conn.execute(f"SELECT pg_try_advisory_lock({LOCK})").fetchone()
    return row is not None and bool(row[0])


def unlock(conn: Conn) -> None:
    """For the next teller at once: a closed session lives on in Postgres for a moment."""
    conn.execute(f"SELECT pg_advisory_unlock({LOCK})")


def expire(conn: Conn) -> None:
    """Forget what was over, or an event nobody was told of, for KEPT."""
    conn.execute(
        """
        DELETE FROM alerts WHERE coalesce("endedAt", "since") < clock_timestamp() - %s
          AND ("endedAt" IS NOT NULL OR "toldAt" IS NULL)
        """,
        [KEPT],
    )
