"""The inbox `webhook_events`: from the stored delivery to the row that says what became of it.

    pending ──claim──► claimed ──settle──► done          postpone: read again later
       ▲                  │                dead          fail: after five tries, or no such body
       └──release─────────┘                ignored       a topic that is not handled

A claim is a lease. Whoever still holds an event may end it, so a drain that was overtaken while it
waited changes nothing: `held` is asked in the transaction that merges.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import Delivery, WebhookEvent

CHANNEL = "webhook_events"
"""NOTIFY channel; the payload is the integration's id."""

MOST_ATTEMPTS = 5

MISSING = "not found in Shopify, read again"

EVENT_COLUMNS = """
  e."id", e."integrationId" AS integration_id, e."organizationId" AS organization_id, e."shop",
  e."topic", e."receivedAt" AS received_at, e."body", e."customerId" AS customer_id,
  e."attempts", e."reads"
"""

ALWAYS = frozenset(
    {
        *("app/scopes_update", "app/uninstalled"),
        *("customers/data_request", "customers/redact", "shop/redact"),
    }
)
"""Topics that are worked on also while the store is inactive, paused or put off."""

# Of a store that may be asked all events are worked on, of any other only those of ALWAYS. It is
# decided once for a store: the backlog of a paused one is not looked through, its few events of
# ALWAYS have an index.
MAY_BE_ASKED = """
  (i."isActive" AND i."pausedAt" IS NULL
   AND (i."retryAt" IS NULL OR i."retryAt" <= clock_timestamp()))
"""

# Waiting and due, or held by a drain that no longer renews its lease.
CLAIMABLE = """
  e."status" IN ('pending', 'claimed')
  AND (e."status" = 'pending' AND (e."notBefore" IS NULL OR e."notBefore" <= clock_timestamp())
       OR e."status" = 'claimed' AND e."leaseUntil" < clock_timestamp())
"""


def store(conn: Conn, delivery: Delivery, integration_ids: Sequence[str], status: str) -> int:
    """One row for each of these integrations, and a NOTIFY with the same commit; how many are new.

    A delivery that an integration has already is left as it is. `status` is `pending`, or
    `ignored` for a topic that nobody handles.
    """
    return conn.execute(
        """
        WITH stored AS (
          INSERT INTO webhook_events
            ("integrationId", "organizationId", "shop", "webhookId", "eventId", "topic",
             "apiVersion", "triggeredAt", "body", "status", "processedAt")
          SELECT i."id", i."organizationId", i."shop", %(webhook_id)s, %(event_id)s, %(topic)s,
                 %(api_version)s, %(triggered_at)s, %(body)s, %(status)s,
                 CASE WHEN %(status)s = 'ignored' THEN clock_timestamp() END
          FROM integrations i WHERE i."id" = ANY(%(integrations)s)
          ON CONFLICT ON CONSTRAINT "integrationId_webhookId" DO NOTHING
          RETURNING "integrationId", "status"
        )
        SELECT CASE WHEN "status" = 'pending' THEN pg_notify(%(channel)s, "integrationId") END
        FROM stored
        """,
        {
            "webhook_id": delivery.webhook_id,
            "event_id": delivery.event_id,
            "topic": delivery.topic,
            "api_version": delivery.api_version,
            "triggered_at": delivery.triggered_at,
            "body": delivery.body,
            "status": status,
            "integrations": list(integration_ids),
            "channel": CHANNEL,
        },
    ).rowcount


def notify(conn: Conn, integration_id: str) -> None:
    """Tell whoever drains that something of this store may be claimed now."""
    conn.execute("SELECT pg_notify(%s, %s)", [CHANNEL, integration_id])


def mark_revenants(conn: Conn, integration_id: str) -> int:
    """File each incoming row that met a deleted one as dirty, once per deletion.

    A page may show a customer that was deleted after it was read, or one that was restored:
    only a read by id tells. Called inside a merge, where `incoming` is filled; returns how
    many were filed.
    """
    return conn.execute(
        """
        INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId",
                                    "topic", "customerId")
        SELECT i."id", i."organizationId", i."shop",
               'deleted:' || c."shopifyId" || ':' || extract(epoch FROM c."deletedAt"),
               'customers/update', c."shopifyId"
        FROM integrations i
        CROSS JOIN incoming
        CROSS JOIN LATERAL (
          SELECT * FROM customers
          WHERE "shopifyId" = incoming."shopifyId" AND "organizationId" = i."organizationId"
          LIMIT 1  -- one look-up by key for each row, whatever the planner thinks of the table
        ) AS c
        WHERE i."id" = %s AND c."deletedAt" IS NOT NULL AND c."redactedAt" IS NULL
        ON CONFLICT ON CONSTRAINT "integrationId_webhookId" DO NOTHING
        """,
        [integration_id],
        prepare=False,  # a plan kept from when the table was small would scan it for each page
    ).rowcount


def ready(conn: Conn, always: Iterable[str]) -> list[str]:
    """The integrations with something to claim; `always` are the topics that need no store."""
    rows = conn.execute(
        f"""
        SELECT i."id" FROM integrations i WHERE CASE WHEN {MAY_BE_ASKED}
          THEN EXISTS (SELECT FROM webhook_events e
                       WHERE e."integrationId" = i."id" AND {CLAIMABLE} OFFSET 0)
          ELSE EXISTS (SELECT FROM webhook_events e
                       WHERE e."integrationId" = i."id" AND {CLAIMABLE}
                         AND e."topic" = ANY(%(always)s) OFFSET 0)
        END
        """,  # noqa: S608 - OFFSET 0: each store is looked up, never all open events gathered
        {"always": list(always)},
        prepare=False,  # a plan that does not know the topics may not see how few they are
    ).fetchall()
    return [row[0] for row in rows]


def claim(
    conn: Conn,
    integration_id: str,
    run_id: str,
    *,
    always: Iterable[str],
    lease: timedelta,
    limit: int,
) -> list[WebhookEvent]:
    """At most `limit` events of one store, the oldest first, held for `lease`."""
    with conn.cursor(row_factory=class_row(WebhookEvent)) as cursor:
        found = cursor.execute(
            f"""
            WITH store AS MATERIALIZED (
              SELECT {MAY_BE_ASKED} AS asked FROM integrations i
              WHERE i."id" = %(integration)s
            ), every_topic AS MATERIALIZED (
              SELECT e."id" FROM webhook_events e
              WHERE (SELECT asked FROM store) AND e."integrationId" = %(integration)s
                AND {CLAIMABLE}
              ORDER BY e."receivedAt", e."id" LIMIT %(limit)s
              FOR UPDATE SKIP LOCKED
            ), always AS MATERIALIZED (
              SELECT e."id" FROM webhook_events e
              WHERE (SELECT NOT asked FROM store) AND e."integrationId" = %(integration)s
                AND {CLAIMABLE}
                AND e."topic" = ANY(%(always)s)
              ORDER BY e."receivedAt", e."id" LIMIT %(limit)s
              FOR UPDATE SKIP LOCKED
            )
            UPDATE webhook_events e SET "status" = 'claimed', "runId" = %(run)s,
              "leaseUntil" = clock_timestamp() + %(lease)s
            WHERE e."id" = ANY(
              ARRAY(SELECT "id" FROM every_topic UNION ALL SELECT "id" FROM always))
            RETURNING {EVENT_COLUMNS}
            """,  # noqa: S608
            {
                "integration": integration_id,
                "run": run_id,
                "always": list(always),
                "lease": lease,
                "limit": limit,
            },
            prepare=False,  # as in `ready`
        ).fetchall()
    return sorted(found, key=lambda event: (event.received_at, event.id))


def renew(conn: Conn, run_id: str, lease: timedelta, integration_ids: Iterable[str]) -> None:
    """What this run holds of these stores is held for another `lease`; what is being settled at
    this moment is left alone."""
    conn.execute(
        """
        WITH held AS MATERIALIZED (
          SELECT "id" AS held_id, clock_timestamp() + %s AS until FROM webhook_events
          WHERE "status" = 'claimed' AND "runId" = %s AND "integrationId" = ANY(%s)
          ORDER BY "id" FOR UPDATE SKIP LOCKED
        )
        UPDATE webhook_events SET "leaseUntil" = until FROM held WHERE "id" = held_id
        """,
        [lease, run_id, list(integration_ids)],
    )


def release(conn: Conn, run_id: str, integration_id: str | None = None) -> None:
    """Give back what this run holds, of one store or of all; nothing counts as a try."""
    conn.execute(
        """
        UPDATE webhook_events SET "status" = 'pending', "leaseUntil" = NULL
        WHERE "status" = 'claimed' AND "runId" = %(run)s
          AND (%(store)s::text IS NULL OR "integrationId" = %(store)s)
        """,
        {"run": run_id, "store": integration_id},
    )


def held(conn: Conn, run_id: str, event_ids: Iterable[str]) -> set[str]:
    """Which of these the run still holds; nobody else gets them before the transaction ends."""
    rows = conn.execute(
        """
        SELECT "id" FROM webhook_events
        WHERE "id" = ANY(%s) AND "status" = 'claimed' AND "runId" = %s
        ORDER BY "id" FOR UPDATE
        """,
        [list(event_ids), run_id],
    ).fetchall()
    return {row[0] for row in rows}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """What becomes of one event. `outcome` is created, updated, unchanged, deleted or what was done
    of a topic about the store; `note` says what a reader of the row should know."""

    event_id: str
    outcome: str
    customer_id: int | None = None
    note: str | None = None


def settle(conn: Conn, run_id: str, endings: Sequence[Ending]) -> None:
    """Mark as done what the run still holds, in the transaction that merged it.

    The body of an event about a redacted person goes with it.
    """
    conn.execute(
        """
        UPDATE webhook_events e SET "status" = 'done', "processedAt" = clock_timestamp(),
          "leaseUntil" = NULL, "notBefore" = NULL, "outcome" = d.outcome, "error" = d.note,
          "customerId" = coalesce(d.customer, e."customerId"),
          "body" = CASE WHEN NOT EXISTS (
            SELECT FROM customers c
            WHERE c."shopifyId" = coalesce(d.customer, e."customerId")
              AND c."organizationId" = e."organizationId" AND c."redactedAt" IS NOT NULL
          ) THEN e."body" END
        FROM unnest(%(ids)s::text[], %(outcomes)s::text[], %(notes)s::text[],
                    %(customers)s::bigint[]) AS d (id, outcome, note, customer)
        WHERE e."id" = d.id AND e."status" = 'claimed' AND e."runId" = %(run)s
        """,
        {
            "ids": [ending.event_id for ending in endings],
            "outcomes": [ending.outcome for ending in endings],
            "notes": [ending.note for ending in endings],
            "customers": [ending.customer_id for ending in endings],
            "run": run_id,
        },
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """An event to be read again `wait` from now."""

    event_id: str
    customer_id: int | None
    wait: timedelta
    note: str


def postpone(conn: Conn, run_id: str, delays: Sequence[Delay]) -> None:
    """Shopify's answer does not show yet what these tell of; no failure of theirs."""
    conn.execute(
        """
        UPDATE webhook_events e SET "status" = 'pending', "leaseUntil" = NULL,
          "reads" = e."reads" + 1, "notBefore" = clock_timestamp() + d.wait, "error" = d.note,
          "customerId" = coalesce(d.customer, e."customerId")
        FROM unnest(%(ids)s::text[], %(customers)s::bigint[], %(waits)s::interval[],
                    %(notes)s::text[]) AS d (id, customer, wait, note)
        WHERE e."id" = d.id AND e."status" = 'claimed' AND e."runId" = %(run)s
        """,
        {
            "ids": [delay.event_id for delay in delays],
            "customers": [delay.customer_id for delay in delays],
            "waits": [delay.wait for delay in delays],
            "notes": [delay.note for delay in delays],
            "run": run_id,
        },
    )


def fail(conn: Conn, run_id: str, reasons: Mapping[str, str], *, for_good: bool = False) -> None:
    """Events that cannot be processed, with the reason of each: tried again after 2, 4, 8 and 16
    seconds, or dead at once where trying again is no use."""
    over = '(%(for_good)s OR e."attempts" + 1 >= %(most)s)'
    conn.execute(
        f"""
        UPDATE webhook_events e SET "attempts" = e."attempts" + 1, "error" = d.reason,
          "leaseUntil" = NULL,
          "status" = CASE WHEN {over} THEN 'dead' ELSE 'pending' END,
          "processedAt" = CASE WHEN {over} THEN clock_timestamp() END,
          "notBefore" = clock_timestamp() + interval '1 s' * 2 ^ (e."attempts" + 1)
        FROM unnest(%(ids)s::text[], %(reasons)s::text[]) AS d (id, reason)
        WHERE e."id" = d.id AND e."status" = 'claimed' AND e."runId" = %(run)s
        """,  # noqa: S608
        {
            "ids": list(reasons),
            "reasons": list(reasons.values()),
            "for_good": for_good,
            "most": MOST_ATTEMPTS,
            "run": run_id,
        },
    )


def missing(conn: Conn, integration_id: str) -> int:
    """Customers of one store that Shopify did not find though no event told of their end: those
    that wait to be read again, and those that were buried for it within a day."""
    row = conn.execute(
        """
        SELECT count(DISTINCT e."customerId") FROM webhook_events e
        JOIN customers c ON c."shopifyId" = e."customerId"
          AND c."organizationId" = e."organizationId" AND c."integrationId" = e."integrationId"
        WHERE e."integrationId" = %(store)s AND (
          e."status" IN ('pending', 'claimed') AND e."error" = %(note)s AND c."deletedAt" IS NULL
          OR e."outcome" = 'missing' AND e."processedAt" > clock_timestamp() - interval '1 day')
        """,
        {"store": integration_id, "note": MISSING},
    ).fetchone()
    return int(row[0]) if row else 0


def give_up_missing(conn: Conn, integration_id: str, note: str) -> None:
    """End everything of one store that waits to be read again because Shopify did not find it."""
    conn.execute(
        """
        UPDATE webhook_events SET "status" = 'done', "processedAt" = clock_timestamp(),
          "outcome" = 'refused', "error" = %s
        WHERE "integrationId" = %s AND "status" = 'pending' AND "error" = %s
        """,
        [note, integration_id, MISSING],
    )


def look_again(conn: Conn, event_ids: Sequence[str], wait: timedelta) -> None:
    """File for each of these settled events one row more that has its customer read again. Of a
    merge only the body tells into whom."""
    conn.execute(
        """
        INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId",
                                    "topic", "customerId", "reads", "notBefore", "body")
        SELECT "integrationId", "organizationId", "shop", 'again:' || "id", "topic", "customerId",
               1, clock_timestamp() + %s, CASE WHEN "topic" = 'customers/merge' THEN "body" END
        FROM webhook_events WHERE "id" = ANY(%s)
        ON CONFLICT ON CONSTRAINT "integrationId_webhookId" DO NOTHING
        """,
        [wait, list(event_ids)],
    )
