"""Whether what is broken slows the webhooks beside it: ratios of alternating pairs in one run.

A store: ten have events to be read by id; every second time an eleventh, whose token is revoked,
has a thousand more. An event: a store has a thousand; every second time Postgres refuses the
customer of one of them. The aim is that the others take at most 1.2 times as long.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import requests as http

from benchmarks.plot import Bar
from benchmarks.stage import (
    customers_of,
    database,
    environment,
    folder,
    make_store,
    ratio_of,
    report,
    simulator,
)
from shopsync_pipeline.db.engine import Conn, transact
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline.sync.engine import Engine, open_engine

HEALTHY = [f"store-{number}" for number in range(10)]
EVENTS = 200
BROKEN = "broken"
CROWD = "crowd"
CROWD_EVENTS = 1000
NO_DATE = "2026-99-99T00:00:00Z"
WARM, PAIRS = 3, 9
AIM_RATIO = 1.2

FILE_EVENT = """
INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId", "topic", "body")
SELECT i."id", i."organizationId", i."shop", gen_random_uuid()::text, %s, %s
FROM integrations i WHERE i."organizationId" = %s
"""

SETTLED = """
SELECT extract(epoch FROM max("processedAt"))::float8, count(*) FROM webhook_events
WHERE "status" = 'done'
"""

Event = tuple[str, bytes]
"""Topic and body."""


def main() -> None:
    with ExitStack() as stack:
        home = stack.enter_context(folder())
        url = stack.enter_context(simulator(latency_ms=50))
        environ = environment(home, stack.enter_context(database(home)), url)
        engine = stack.enter_context(open_engine(Settings.from_env(environ)))
        figures = {"a store": _broken_store(engine, url)} | _poison_event(engine, url)
    bars = [
        Bar(label=label, value=figure["ratio, median of pairs"], aim=AIM_RATIO)
        for label, figure in figures.items()
    ]
    report("drain", [*figures.values()], {"time beside what is broken / without it": bars})


def _broken_store(engine: Engine, url: str) -> dict[str, Any]:
    events = {name: by_id(_connected(engine, url, name, EVENTS)) for name in [*HEALTHY, BROKEN]}
    _revoke(engine)
    events[BROKEN] *= 5
    alone = {name: events[name] for name in HEALTHY}
    count = sum(map(len, alone.values()))
    pairs = _pairs(
        lambda: _seconds(engine, events, count),
        lambda: _seconds(engine, alone, count),
    )
    return _figure(
        f"{len(HEALTHY)} stores with {EVENTS} events each, beside one with a revoked token and "
        f"{len(events[BROKEN])} events / alone",
        pairs,
    )


def _poison_event(engine: Engine, url: str) -> dict[str, dict[str, Any]]:
    """Both ways of the drain: customers read by their ids, and a mass edit that is scanned."""
    customers = [
        _edited(url, c, note="edited") for c in _connected(engine, url, CROWD, CROWD_EVENTS)
    ]
    poison = customers[CROWD_EVENTS // 2]

    def seconds(events: list[Event], created_at: str, done: int) -> float:
        _edited(url, poison, touch=False, createdAt=created_at)
        return _seconds(engine, {CROWD: events}, done)

    def figure(events: list[Event], what: str) -> dict[str, Any]:
        pairs = _pairs(
            lambda: seconds(events, NO_DATE, CROWD_EVENTS - 1),
            lambda: seconds(events, poison["createdAt"], CROWD_EVENTS),
        )
        return _figure(f"{what}, one of which Postgres refuses / none", pairs)

    return {
        "an event": figure(by_id(customers), f"{CROWD_EVENTS} events"),
        "an event of a mass edit": figure(
            edits(customers), f"a mass edit of {CROWD_EVENTS} customers"
        ),
    }


def by_id(customers: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Events that are settled by reads by id."""
    return [("customer.tags_added", b'{"customerId": "%s"}' % c["id"].encode()) for c in customers]


def edits(customers: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Events that are settled by a scan where they are many."""
    body = '{{"id": {legacyResourceId}, "updated_at": "{updatedAt}"}}'
    return [("customers/update", body.format(**c).encode()) for c in customers]


def _pairs(beside: Callable[[], float], alone: Callable[[], float]) -> list[tuple[float, float]]:
    pairs = [(beside(), alone()) for _ in range(WARM + PAIRS)]
    return pairs[WARM:]


def _figure(what: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratio = ratio_of(pairs)
    return {
        "what": what,
        **ratio,
        "median / aim": round(ratio["ratio, median of pairs"] / AIM_RATIO, 2),
    }


def _connected(engine: Engine, url: str, name: str, customers: int) -> list[dict[str, Any]]:
    """Its customers."""
    shop = f"{name}.myshopify.com"
    store = make_store(url, shop, customers)
    held = Credentials(access_token=store["accessToken"])
    connect_store(engine, organization_id=name, shop=shop, held=held)
    return customers_of(url, shop)


def _edited(url: str, customer: Mapping[str, Any], touch: bool = True, **change: Any) -> Any:
    """The customer of the crowd as it is then."""
    answer = http.patch(
        f"{url}/_control/stores/{CROWD}.myshopify.com/customers/{customer['legacyResourceId']}",
        json={"touch": touch, "set": change},
        timeout=60,
    )
    answer.raise_for_status()
    return answer.json()


def _revoke(engine: Engine) -> None:
    transact(
        engine.pool,
        lambda conn: conn.execute(
            'UPDATE integrations SET "accessToken" = %s WHERE "organizationId" = %s',
            [engine.cipher.encrypt("shpat_revoked"), BROKEN],
        ),
    )


def _seconds(engine: Engine, events: Mapping[str, list[Event]], done: int) -> float:
    """Until the last event that can be settled is; exits where those are not `done`."""

    def file(conn: Conn) -> None:
        conn.execute("TRUNCATE webhook_events")
        conn.execute('UPDATE integrations SET "retryAt" = NULL, "status" = %s', ["ok"])
        filed = [[*event, name] for name, each in events.items() for event in each]
        conn.cursor().executemany(FILE_EVENT, filed)
        conn.execute("ANALYZE webhook_events")  # else plans change with what autovacuum last saw

    transact(engine.pool, file)
    began = time.time()
    for _ in drain(engine, DrainOrder(run_id="bench")):
        pass
    row = transact(engine.pool, lambda conn: conn.execute(SETTLED).fetchone())
    assert row is not None
    if row[1] != done:
        sys.exit(f"{row[1]} events were settled, not {done}.")
    return float(row[0]) - began


if __name__ == "__main__":
    main()
