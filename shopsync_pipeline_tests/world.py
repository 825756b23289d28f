"""Simulated stores, the engine and the table they end in, as one object for tests.

`differences` states independently of the engine what a row must hold.
"""

import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
from psycopg.rows import dict_row

from shopify_simulator.server import Simulator
from shopsync_pipeline.db import credentials, inbox, integrations
from shopsync_pipeline.db.engine import Conn, transact
from shopsync_pipeline.db.lineage import Report
from shopsync_pipeline.models import Credentials, Delivery, Integration
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline.sync.engine import Engine, open_engine
from shopsync_pipeline.sync.organizations import StoreOutcome, SyncOrder, sync_organizations
from shopsync_pipeline.sync.reconcile import (
    ReconcileOrder,
    StoreReconciliation,
    reconcile_organizations,
)

CLOCK_STEP = 1e-6
"""Seconds: less would not move the simulator's clock, and a wait for it would never end."""


class SimulatedTime:
    """Waiting is a step of the simulator's clock, on which its buckets fill too."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self._simulator.clock.now().timestamp()

    def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
        self._simulator.clock.advance(max(seconds, CLOCK_STEP))
        self.on_sleep()


class World:
    def __init__(self, simulator: Simulator, environ: dict[str, str], engine: Engine) -> None:
        self.simulator = simulator
        self.environ = environ
        self.time = SimulatedTime(simulator)
        self.engine = replace(engine, timer=self.time)
        self.runs = 0

    @classmethod
    @contextmanager
    def opened(cls, simulator: Simulator, environ: dict[str, str]) -> Iterator["World"]:
        with open_engine(Settings.from_env(environ)) as engine:
            yield cls(simulator, environ, engine)

    def connect(self, organization: str, shop: str, customers: int = 10, **options: Any) -> Any:
        """A store with customers, connected to an organization; returns the simulator's store."""
        store = self.simulator.add_store(shop, customers=customers, **options)
        self.join(organization, store)
        return store

    def join(self, organization: str, store: Any) -> None:
        """Connect a store that is there, with its token, to an organization."""
        held = Credentials(access_token=store.access_token)
        transact(
            self.engine.pool,
            lambda conn: credentials.store(
                conn,
                self.engine.cipher,
                integrations.connect(
                    conn,
                    organization_id=organization,
                    shop=store.shop,
                    name=organization.title(),
                    shop_id=store.shop_id,
                ).id,
                held,
            ),
        )

    @contextmanager
    def second_engine(self) -> Iterator[Engine]:
        """As another run at the same time has it."""
        with open_engine(self.engine.settings) as engine:
            yield engine

    def sync(self, *organizations: str, **order: Any) -> list[StoreOutcome]:
        """One run over these organizations; the outcome of each store."""
        self.runs += 1
        how = SyncOrder(run_id=f"run-{self.runs}", **order)
        outcomes = sync_organizations(self.engine, organizations, how)
        return [store for outcome in outcomes for store in outcome.stores]

    def sync_one(self, organization: str, **order: Any) -> StoreOutcome:
        (outcome,) = self.sync(organization, **order)
        return outcome

    def reconcile(self, *organizations: str, **order: Any) -> list[StoreReconciliation]:
        """One run over these organizations; the outcome of each store."""
        self.runs += 1
        how = ReconcileOrder(run_id=f"reconcile-{self.runs}", **order)
        outcomes = reconcile_organizations(self.engine, organizations, how)
        return [store for outcome in outcomes for store in outcome.stores]

    def hear(self, organization: str, topic: str, body: Any, webhook_id: str | None = None) -> str:
        """An inbox row as the receiver would store it; its webhook-id."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        integration = self.integration(organization)
        delivery = Delivery(
            shop=integration.shop,
            topic=topic,
            signature=b"",
            webhook_id=webhook_id or str(uuid.uuid4()),
            event_id=None,
            api_version="2026-10",
            triggered_at=None,
            body=raw,
        )
        transact(
            self.engine.pool,
            lambda conn: inbox.store(conn, delivery, [integration.id], "pending"),
        )
        return delivery.webhook_id

    def drain(self, **order: Any) -> list[Report]:
        """One drain, until there is nothing to do; what it reports."""
        self.runs += 1
        how = DrainOrder(run_id=order.pop("run_id", f"drain-{self.runs}"), **order)
        return list(drain(self.engine, how))

    def pass_waits(self) -> None:
        """What waits to be read again, or for a store, need wait no longer."""
        with self.engine.pool.connection() as conn:
            conn.execute('UPDATE webhook_events SET "notBefore" = NULL')
            conn.execute('UPDATE integrations SET "retryAt" = NULL')

    def events(self, organization: str) -> list[dict[str, Any]]:
        """Its inbox, in the order in which it came."""
        with self.engine.pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                """SELECT * FROM webhook_events WHERE "organizationId" = %s
                   ORDER BY "receivedAt", "id" """,
                [organization],
            ).fetchall()

    def event(self, organization: str) -> dict[str, Any]:
        (event,) = self.events(organization)
        return event

    def integration(self, organization: str) -> Integration:
        with self.engine.pool.connection() as conn:
            (found,) = integrations.active_of(conn, [organization])
        return found

    def rows(self, organization: str) -> dict[int, dict[str, Any]]:
        with self.engine.pool.connection() as conn:
            return rows_of_organization(conn, organization)

    def differences(self, organization: str, store: Any) -> list[str]:
        """Every difference between the table and the store, field by field."""
        return list(differences(self.rows(organization), store.customers()))


def rows_of_organization(conn: Conn, organization: str) -> dict[int, dict[str, Any]]:
    """Its rows in `customers`, by Shopify's id."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            'SELECT * FROM customers WHERE "organizationId" = %s', [organization]
        ).fetchall()
    return {row["shopifyId"]: row for row in found}


def differences(rows: dict[int, dict[str, Any]], records: list[dict[str, Any]]) -> Iterator[str]:
    wanted = {int(record["legacyResourceId"]): expected(record) for record in records}
    for shopify_id in wanted.keys() ^ rows.keys():
        yield f"{shopify_id} is only in the {'store' if shopify_id in wanted else 'table'}"
    for shopify_id in wanted.keys() & rows.keys():
        for column, value in wanted[shopify_id].items():
            if rows[shopify_id][column] != value:
                yield f"{shopify_id}.{column}: {rows[shopify_id][column]!r}, not {value!r}"


def expected(record: dict[str, Any]) -> dict[str, Any]:
    """What the table must hold for a customer of the store."""
    email = record["defaultEmailAddress"] or {}
    phone = record["defaultPhoneNumber"] or {}
    sms = phone.get("smsMarketingConsent") or {}
    address = record["defaultAddress"] or {}
    return {
        "email": email.get("emailAddress"),
        "phone": phone.get("phoneNumber"),
        "firstName": record["firstName"],
        "lastName": record["lastName"],
        "name": record["displayName"],
        "totalSpent": Decimal(record["amountSpent"]["amount"]),
        "currency": record["amountSpent"]["currencyCode"],
        "ordersCount": int(record["numberOfOrders"]),
        "emailMarketingState": email.get("marketingState"),
        "emailMarketingOptInLevel": email.get("marketingOptInLevel"),
        "emailMarketingUpdatedAt": _time(email.get("marketingUpdatedAt")),
        "smsMarketingState": sms.get("state"),
        "smsMarketingOptInLevel": sms.get("optInLevel"),
        "smsMarketingUpdatedAt": _time(sms.get("updatedAt")),
        "acceptsMarketing": email.get("marketingState") == "SUBSCRIBED",
        **{name: address.get(name) for name in ("company", "address1", "address2", "city")},
        "province": address.get("province"),
        "provinceCode": address.get("provinceCode"),
        "country": address.get("country"),
        "countryCode": address.get("countryCodeV2"),
        "zip": address.get("zip"),
        **{name: record[name] for name in ("tags", "note", "state", "locale")},
        "verifiedEmail": record["verifiedEmail"],
        "taxExempt": record["taxExempt"],
        "source": "SHOPIFY",
        "shopifyCreatedAt": _time(record["createdAt"]),
        "shopifyUpdatedAt": _time(record["updatedAt"]),
        "deletedAt": None,
        "redactedAt": None,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
