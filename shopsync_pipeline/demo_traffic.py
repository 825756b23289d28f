"""The simulated stores and their customers' traffic, and how long each change took to its row."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests as http
from psycopg.rows import class_row

from shopsync_pipeline.db.engine import Conn


@dataclass(frozen=True, kw_only=True)
class DemoStore:
    """`kind` is how it is connected: by a token, client credentials, or a refresh token."""

    organization: str
    shop: str
    customers: int
    kind: str


STORES = (
    DemoStore(
        organization="aurora", shop="aurora-outdoor.myshopify.com", customers=1200, kind="token"
    ),
    DemoStore(
        organization="bergamot", shop="bergamot-beauty.myshopify.com", customers=700, kind="client"
    ),
    DemoStore(
        organization="cobalt", shop="cobalt-cycles.myshopify.com", customers=300, kind="refresh"
    ),
)


def control(
    url: str, method: str, store: DemoStore, path: str, body: dict[str, Any] | None = None
) -> http.Response:
    """Of the simulator's control interface for one store."""
    address = f"{url}/_control/stores/{store.shop}{path}"
    answer = http.request(method, address, json=body, timeout=30)
    answer.raise_for_status()
    return answer


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A webhook that became a row: `seconds` from Shopify's sending to the merge."""

    organization: str
    topic: str
    outcome: str
    run_id: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Settled:
    """An inbox row that is done."""

    webhook_id: str
    organization: str
    topic: str
    outcome: str
    run_id: str
    processed_at: datetime


EVER = datetime(2026, 1, 1, tzinfo=UTC)


class Traffic:
    """Three stores' customers: most changes are edits, some are new, few leave."""

    def __init__(self, conn: Conn, url: str) -> None:
        self._conn = conn
        self._url = url
        self._random = random.Random(1)  # noqa: S311
        self._sent: dict[str, float] = {}
        self._ids = {store: self._customer_ids(store) for store in STORES}

    def change(self) -> None:
        """One customer of one store."""
        store = self._random.choice(STORES)
        kind = self._random.choices(("edit", "create", "delete"), (7, 2, 1))[0]
        ids = self._ids[store]
        if kind == "create":
            made = control(self._url, "POST", store, "/customers", {}).json()
            ids.append(made["legacyResourceId"])
        elif kind == "delete":
            gone = ids.pop(self._random.randrange(len(ids)))
            control(self._url, "DELETE", store, f"/customers/{gone}")
        else:
            note = f"edited {self._random.random()}"
            path = f"/customers/{self._random.choice(ids)}"
            control(self._url, "PATCH", store, path, {"set": {"note": note}, "touch": True})

    def clear(self) -> datetime:
        """Forget what was sent so far; Postgres's time now."""
        for store in STORES:
            control(self._url, "DELETE", store, "/deliveries")
        self._sent.clear()
        row = self._conn.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        moment: datetime = row[0]
        return moment

    def arrivals(self, since: datetime) -> list[Arrival] | None:
        """All that was sent since, or None while a part of it is no row yet."""
        self._look()
        settled = {each.webhook_id: each for each in self._settled(since, 10_000)}
        if not self._sent or self._sent.keys() - settled.keys():
            return None
        return [self._arrival(settled[webhook_id]) for webhook_id in self._sent]

    def latest(self, count: int) -> list[Arrival]:
        """The last ones that became rows, the newest first."""
        self._look()
        found = self._settled(EVER, count)
        return [self._arrival(each) for each in found if each.webhook_id in self._sent]

    def _customer_ids(self, store: DemoStore) -> list[str]:
        customers = control(self._url, "GET", store, "/customers").json()
        return [customer["legacyResourceId"] for customer in customers]

    def _look(self) -> None:
        """When each delivery was first sent, by its webhook-id."""
        for store in STORES:
            for delivery in control(self._url, "GET", store, "/deliveries").json():
                sent = [attempt["sentAt"] for attempt in delivery["attempts"]]
                self._sent[delivery["webhookId"]] = sent[0] if sent else delivery["madeAt"]

    def _settled(self, since: datetime, most: int) -> list[Settled]:
        with self._conn.cursor(row_factory=class_row(Settled)) as cursor:
            return cursor.execute(
                """
                SELECT "webhookId" AS webhook_id, "organizationId" AS organization,
                       "topic", "outcome", "runId" AS run_id, "processedAt" AS processed_at
                FROM webhook_events WHERE "status" = 'done' AND "receivedAt" >= %s
                ORDER BY "processedAt" DESC LIMIT %s
                """,
                [since, most],
            ).fetchall()

    def _arrival(self, settled: Settled) -> Arrival:
        return Arrival(
            organization=settled.organization,
            topic=settled.topic,
            outcome=settled.outcome,
            run_id=settled.run_id,
            seconds=settled.processed_at.timestamp() - self._sent[settled.webhook_id],
        )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in ascending order; the nearest one that stands there."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
