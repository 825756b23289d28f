"""`GET /metrics`: what this process answered, and how the deployment fares, for Prometheus.

Without the bearer only sums, since the receiver faces the internet; with it organizations and
shops. Postgres is asked at most every CACHED_SECONDS, by one request at a time, over the same lines
as deliveries with their time limit; while it does not answer, the process's own figures are told.
"""

import asyncio
import logging
from collections import Counter as Counted
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from time import monotonic

import psycopg
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from shopsync_pipeline.db import reconciliations, schema, watch
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.reconciliations import FINDINGS, Reconciliation
from shopsync_pipeline.db.watch import InboxState, StoreState, Tick
from shopsync_pipeline.errors import DatabaseTrouble, StoreTrouble
from shopsync_pipeline.settings import Settings
from webhook_receiver.guards import require_bearer
from webhook_receiver.lines import Lines
from webhook_receiver.seldom import Seldom

log = logging.getLogger(__name__)

CACHED_SECONDS = 5.0
STATUSES = ("ok", *(trouble.status for trouble in StoreTrouble.__subclasses__()))
OUTCOMES = ("received", "duplicate", "refused", "malformed", "unavailable", "failed", "gone")
"""Of a delivery: stored, stored before, not verified, no delivery, answered 503, answered 500, hung
up on."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What Postgres says of the deployment."""

    inbox: InboxState
    stores: Sequence[StoreState]
    ticks: Sequence[Tick]
    reconciled: Sequence[Reconciliation]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Postgres is there and does not tell: the receiver's role lacks a right, or the tables are
    not those of this release."""

    sqlstate: str


def look(conn: Conn) -> Snapshot | Refused:
    try:
        return _snapshot(conn)
    except psycopg.ProgrammingError as error:
        return Refused(sqlstate=str(error.sqlstate))


def _snapshot(conn: Conn) -> Snapshot:
    return Snapshot(
        inbox=watch.inbox(conn),
        stores=watch.stores(conn),
        ticks=watch.ticks(conn),
        reconciled=reconciliations.latest(conn),
    )


class Metrics:
    """Of one process, since its start."""

    def __init__(self, settings: Settings, lines: Lines) -> None:
        self._lines = lines
        self._asking = asyncio.Lock()
        self._snapshot: Snapshot | Refused | None = None
        self._refusals = Seldom(log.error)
        self._asked: float | None = None
        self._registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        build = Gauge(
            "shopsync_build_info",
            "1; this release, the schema it needs, and the API version it asks for.",
            ("version", "schema", "api_version"),
            registry=registry,
        )
        build.labels(version("shopsync"), schema.head(), settings.shopify_api_version).set(1)
        self._deliveries = Counter(
            "shopsync_webhook_deliveries",
            "Webhook deliveries that were answered, by outcome.",
            ("outcome",),
            registry=registry,
        )
        for outcome in OUTCOMES:
            self._deliveries.labels(outcome)
        self._seconds = Histogram(
            "shopsync_webhook_answer_seconds",
            "From the head of a delivery to its answer.",
            buckets=BUCKETS,
            registry=registry,
        )

    def answered(self, outcome: str, seconds: float) -> None:
        """A delivery was; `outcome` is one of OUTCOMES."""
        self._deliveries.labels(outcome).inc()
        self._seconds.observe(seconds)

    async def text(self, *, detailed: bool) -> bytes:
        """In Prometheus's text format."""
        snapshot = await self._looked()
        own = generate_latest(self._registry)
        return own + await asyncio.to_thread(_told, snapshot, detailed)

    async def _looked(self) -> Snapshot | Refused | None:
        """None while Postgres does not answer."""
        async with self._asking:
            if self._asked is None or monotonic() - self._asked >= CACHED_SECONDS:
                try:
                    self._snapshot = await self._lines.run(look)
                except DatabaseTrouble:
                    self._snapshot = None
                self._asked = monotonic()
                if isinstance(self._snapshot, Refused):
                    self._refusals.tell(
                        f"Postgres refuses what /metrics asks (SQLSTATE {self._snapshot.sqlstate})."
                        " Run: shopsync db upgrade, then: shopsync db roles"
                    )
            return self._snapshot


async def show(request: Request) -> Response:
    """A bearer that is wrong is refused, not taken for none."""
    detailed = "authorization" in request.headers
    if detailed:
        token = request.app.state.settings.api_token
        require_bearer(request, token, "SHOPSYNC_API_TOKEN")
    metrics: Metrics = request.app.state.metrics
    told = await metrics.text(detailed=detailed)
    return Response(told, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def _told(snapshot: Snapshot | Refused | None, detailed: bool) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Deployment(snapshot, detailed))
    return generate_latest(registry)


class _Deployment(Collector):
    def __init__(self, snapshot: Snapshot | Refused | None, detailed: bool) -> None:
        self._snapshot = snapshot
        self._detailed = detailed

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = self._snapshot is not None
        yield _gauge("shopsync_database_up", "Whether Postgres answers this receiver.", float(up))
        yield _gauge(
            "shopsync_database_refuses",
            "1 where it answers and refuses these figures: shopsync db upgrade, shopsync db roles.",
            float(isinstance(self._snapshot, Refused)),
        )
        if isinstance(self._snapshot, Snapshot):
            yield from _inbox(self._snapshot.inbox)
            yield from _deployment(self._snapshot)
            if self._detailed:
                yield from _stores(self._snapshot)


def _inbox(inbox: InboxState) -> Iterator[GaugeMetricFamily]:
    yield _gauge(
        "shopsync_inbox_oldest_seconds",
        "For how long the oldest event waits that could be worked on; 0 where none does.",
        inbox.oldest(held_back=False).total_seconds(),
    )
    yield _gauge(
        "shopsync_inbox_held_back_oldest_seconds",
        "How old the oldest event is that waits for a store in trouble.",
        inbox.oldest(held_back=True).total_seconds(),
    )
    yield _labelled(
        "shopsync_inbox_events",
        "Events by status; dead ones are dead letters, and done is the planner's estimate of all "
        "that are settled.",
        "status",
        inbox.events.items(),
    )


def _deployment(snapshot: Snapshot) -> Iterator[GaugeMetricFamily]:
    counted = Counted(store.status for store in snapshot.stores)
    yield _labelled(
        "shopsync_stores",
        "Active stores by status.",
        "status",
        ((status, counted[status]) for status in STATUSES),
    )
    well = [store.synced.total_seconds() for store in snapshot.stores if store.status == "ok"]
    yield _gauge(
        "shopsync_oldest_sync_seconds",
        "Age of the last sync of the store that waits for the longest of those that are well.",
        max(well, default=0.0),
    )
    yield _labelled(
        "shopsync_tick_age_seconds",
        "Since the last tick of each sensor and schedule.",
        "name",
        ((tick.name, tick.age.total_seconds()) for tick in snapshot.ticks),
    )
    yield _labelled(
        "shopsync_drift_rows",
        "Rows that were not as in the store at each store's last reconcile, by what was wrong.",
        "finding",
        ((f, sum(getattr(each, f) for each in snapshot.reconciled)) for f in FINDINGS),
    )


def _stores(snapshot: Snapshot) -> Iterator[GaugeMetricFamily]:
    labels = ("organization", "shop")
    synced = GaugeMetricFamily(
        "shopsync_store_last_sync_seconds",
        "Age of the store's last sync, or of the store where none ended yet.",
        labels=labels,
    )
    status = GaugeMetricFamily(
        "shopsync_store_status", "1; the store's status.", labels=(*labels, "status")
    )
    for store in snapshot.stores:
        whom = [store.organization_id, store.shop]
        synced.add_metric(whom, store.synced.total_seconds())
        status.add_metric([*whom, store.status], 1)
    oldest = GaugeMetricFamily(
        "shopsync_store_oldest_event_seconds",
        "For how long the store's oldest open event waits.",
        labels=(*labels, "held_back"),
    )
    for each in snapshot.inbox.waiting:
        whom = [each.organization_id, each.shop, str(each.held_back).lower()]
        oldest.add_metric(whom, each.age.total_seconds())
    drift = GaugeMetricFamily(
        "shopsync_store_drift_rows",
        "Rows that were not as in the store at its last reconcile.",
        labels=labels,
    )
    for found in snapshot.reconciled:
        drift.add_metric([found.organization_id, found.shop], found.wrong)
    yield from (synced, status, oldest, drift)


def _gauge(name: str, told: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, told, value=value)


def _labelled(
    name: str, told: str, label: str, values: Iterable[tuple[str, float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, told, labels=(label,))
    for key, value in values:
        family.add_metric([key], value)
    return family
