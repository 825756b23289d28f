"""How the deployment fares, as plain facts: what waits, how old it is, who has not been heard of.

What is asked here every few seconds goes by indexes of open events and by the store, never by the
settled events. The receiver's role may ask `inbox`, `stores` and `ticks`, which know no token.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.inbox import ALWAYS, MAY_BE_ASKED

BEAT_EVERY = timedelta(seconds=10)


def beat(conn: Conn, name: str) -> None:
    """A schedule or sensor has ticked; written at most every BEAT_EVERY."""
    conn.execute(
        """
        INSERT INTO heartbeats AS h ("name", "at") VALUES (%s, clock_timestamp())
        ON CONFLICT ("name") DO UPDATE SET "at" = excluded."at"
        WHERE h."at" IS NULL OR h."at" < excluded."at" - %s::interval
        """,
        [name, BEAT_EVERY],
    )


def expect_beats(conn: Conn, names: Iterable[str]) -> None:
    """From now on, of those that were never heard of."""
    conn.execute(
        """
        INSERT INTO heartbeats ("name") SELECT unnest(%s::text[])
        ON CONFLICT ("name") DO NOTHING
        """,
        [list(names)],
    )


def expect_anew(conn: Conn, listener: str, gap: timedelta) -> None:
    """Where `listener` itself has not ticked for `gap`, all stood still, and a tick of the others
    is expected from now on; but of those not that were found silent before."""
    conn.execute(
        """
        UPDATE heartbeats h SET "since" = clock_timestamp()
        WHERE EXISTS (SELECT FROM heartbeats WHERE "name" = %s AND "at" < clock_timestamp() - %s)
          AND NOT EXISTS (
            SELECT FROM alerts WHERE "key" = 'silent:' || h."name" AND "endedAt" IS NULL)
        """,
        [listener, gap],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """The last of a schedule or sensor: how long ago, or for how long it is looked for where there
    was none (`ever` is False). `missed`: the same, but not longer than one is expected."""

    name: str
    age: timedelta
    missed: timedelta
    ever: bool


def ticks(conn: Conn) -> list[Tick]:
    with conn.cursor(row_factory=class_row(Tick)) as cursor:
        return cursor.execute(
            """
            SELECT "name", greatest(clock_timestamp() - coalesce("at", "since"), '0') AS age,
              greatest(clock_timestamp() - greatest("at", "since"), '0') AS missed,
              "at" IS NOT NULL AS ever
            FROM heartbeats ORDER BY 1
            """
        ).fetchall()


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreState:
    """An active store that no person has paused. Ages: of the last sync, or of the integration
    where none ended yet; of the last reconcile likewise, None before the first load has ended; of
    the last moment at which its webhook subscriptions were whole, None where real-time sync is off.
    None is older than the store's last `resume`."""

    id: str
    organization_id: str
    shop: str
    status: str
    synced: timedelta
    reconciled: timedelta | None
    subscribed: timedelta | None


def stores(conn: Conn) -> list[StoreState]:
    with conn.cursor(row_factory=class_row(StoreState)) as cursor:
        return cursor.execute(
            """
            SELECT "id", "organizationId" AS organization_id, "shop", "status",
              greatest(clock_timestamp() - greatest(coalesce("lastSyncAt", "createdAt"),
                                                    "resumedAt"), '0') AS synced,
              CASE WHEN "lastSyncAt" IS NOT NULL
                   THEN clock_timestamp() - greatest(coalesce("reconciledAt", "createdAt"),
                                                     "resumedAt")
              END AS reconciled,
              clock_timestamp() - CASE WHEN "realtimeSince" IS NOT NULL
                THEN greatest("subscribedAt", "realtimeSince", "resumedAt")
              END AS subscribed
            FROM integrations WHERE "isActive" AND "pausedAt" IS NULL
            ORDER BY "organizationId", "shop"
            """
        ).fetchall()


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Open events of an active store. `age` is for how long the oldest could have been worked on;
    of those that the store's own trouble or a person's pause holds back, how old it is. Such a
    store has a second one where events wait that are worked on all the same."""

    id: str
    organization_id: str
    shop: str
    held_back: bool
    age: timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class InboxState:
    """`events` counts by status: pending, claimed and dead exactly, and as `done` all that are
    settled, the ignored too, by the planner's estimate of the table."""

    waiting: Sequence[Waiting]
    events: Mapping[str, int]

    @property
    def open(self) -> int:
        return self.events["pending"] + self.events["claimed"]

    def oldest(self, *, held_back: bool) -> timedelta:
        ages = (each.age for each in self.waiting if each.held_back is held_back)
        return max(ages, default=timedelta(0))


# By store: the oldest event where it may be asked, the oldest that waits for that where not, and
# then the oldest of each topic of ALWAYS too.
WAITING = f"""
WITH store AS (
  SELECT "id", "organizationId", "shop", "retryAt", "resumedAt", {MAY_BE_ASKED} AS asked
  FROM integrations i WHERE "isActive"
), due AS (
  SELECT s."id", NOT s.asked AS held_back, e.since
  FROM store s, LATERAL (
    SELECT CASE WHEN s.asked
      THEN greatest("receivedAt", "notBefore", s."retryAt", s."resumedAt") ELSE "receivedAt"
    END AS since
    FROM webhook_events
    WHERE "integrationId" = s."id" AND "status" IN ('pending', 'claimed')
      AND ("notBefore" IS NULL OR "notBefore" <= clock_timestamp())
      AND (s.asked OR "topic" <> ALL(%(always)s))
    ORDER BY "receivedAt" LIMIT 1
  ) AS e
  UNION ALL
  SELECT s."id", false, greatest(e."receivedAt", e."notBefore")
  FROM store s CROSS JOIN unnest(%(always)s::text[]) AS t (topic), LATERAL (
    SELECT "receivedAt", "notBefore" FROM webhook_events
    WHERE "integrationId" = s."id" AND "topic" = t.topic AND "status" IN ('pending', 'claimed')
      AND ("notBefore" IS NULL OR "notBefore" <= clock_timestamp())
    ORDER BY "receivedAt" LIMIT 1
  ) AS e
  WHERE NOT s.asked
)
SELECT s."id", s."organizationId" AS organization_id, s."shop", d.held_back,
  clock_timestamp() - min(d.since) AS age
FROM due d JOIN store s USING ("id") GROUP BY 1, 2, 3, 4 ORDER BY 2, 3, 4
"""  # noqa: S608


def inbox(conn: Conn) -> InboxState:
    with conn.cursor(row_factory=class_row(Waiting)) as cursor:
        waiting = cursor.execute(WAITING, {"always": list(ALWAYS)}, prepare=False).fetchall()
    counted = conn.execute(
        """
        SELECT "status", count(*) FROM webhook_events
        WHERE "status" IN ('pending', 'claimed') GROUP BY 1
        UNION ALL SELECT 'dead', count(*) FROM webhook_events WHERE "status" = 'dead'
        """
    ).fetchall()
    open_or_dead = {"pending": 0, "claimed": 0, **dict(counted)}
    row = conn.execute(
        "SELECT reltuples::bigint FROM pg_class WHERE oid = 'webhook_events'::regclass"
    ).fetchone()
    settled = max(0, (row[0] if row else 0) - sum(open_or_dead.values()))
    return InboxState(waiting=waiting, events={**open_or_dead, "done": settled})


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetters:
    """Of one store; `last` is when the last died."""

    id: str
    organization_id: str
    shop: str
    count: int
    last: datetime


def dead_letters(conn: Conn) -> list[DeadLetters]:
    with conn.cursor(row_factory=class_row(DeadLetters)) as cursor:
        return cursor.execute(
            """
            SELECT i."id", i."organizationId" AS organization_id, i."shop", count(*) AS count,
                   max(coalesce(e."processedAt", e."receivedAt")) AS last
            FROM webhook_events e JOIN integrations i ON i."id" = e."integrationId"
            WHERE e."status" = 'dead' GROUP BY 1, 2, 3 ORDER BY 2, 3
            """
        ).fetchall()


def count_refused(conn: Conn, refused: Mapping[str, int]) -> None:
    """Deliveries, by integration, that none of its secrets had signed; after a day without any,
    the count begins anew."""
    conn.execute(
        """
        INSERT INTO refused_deliveries AS r ("integrationId", "count")
        SELECT * FROM unnest(%s::text[], %s::bigint[])
        ON CONFLICT ("integrationId") DO UPDATE SET
          "count" = excluded."count"
            + CASE WHEN r."lastAt" > excluded."lastAt" - interval '1 day' THEN r."count" ELSE 0 END,
          "since" = CASE WHEN r."lastAt" > excluded."lastAt" - interval '1 day'
                         THEN r."since" ELSE excluded."since" END,
          "lastAt" = excluded."lastAt"
        """,
        [list(refused), list(refused.values())],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Deliveries in a store's name that were refused within the last day. `heard`: others were
    verified within ten minutes of the last of them."""

    id: str
    organization_id: str
    shop: str
    count: int
    since: datetime
    last: datetime
    heard: bool


def refused(conn: Conn) -> list[Refused]:
    with conn.cursor(row_factory=class_row(Refused)) as cursor:
        return cursor.execute(
            """
            SELECT i."id", i."organizationId" AS organization_id, i."shop", r."count", r."since",
              r."lastAt" AS last, EXISTS (
                SELECT FROM webhook_events e
                WHERE e."integrationId" = i."id" AND e."body" IS NOT NULL
                  AND e."receivedAt" BETWEEN r."lastAt" - interval '10 minutes'
                                         AND r."lastAt" + interval '10 minutes'
              ) AS heard
            FROM refused_deliveries r JOIN integrations i ON i."id" = r."integrationId"
            WHERE i."isActive" AND r."lastAt" > clock_timestamp() - interval '1 day'
            ORDER BY 2, 3
            """
        ).fetchall()
