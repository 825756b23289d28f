"""Whether one broken store slows the others' webhooks: ratios of alternating pairs in one run.

Ten stores have events to be read by id. Every second time an eleventh, whose token is revoked, has
a thousand more. The aim is that the ten take at most 1.2 times as long.
"""

import sys
import time
from contextlib import ExitStack
from typing import Any

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
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline.sync.organizations import Engine, open_engine

HEALTHY = 10
EVENTS = 200
BROKEN_EVENTS = 1000
PAIRS = 5
AIM_RATIO = 1.2
BROKEN = "broken"

FILE_EVENTS = """
INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId", "topic", "body")
SELECT i."id", i."organizationId", i."shop", gen_random_uuid()::text, 'customer.tags_added',
       convert_to('{"customerId": "gid://shopify/Customer/' || (%s::text[])[n] || '"}', 'UTF8')
FROM integrations i, generate_series(1, %s) AS n WHERE i."organizationId" = %s
"""

LAST_OF_THE_OTHERS = """
SELECT extract(epoch FROM max("processedAt"))::float8 FROM webhook_events
WHERE "organizationId" <> %s
"""


def main() -> None:
    with ExitStack() as stack:
        home = stack.enter_context(folder())
        url = stack.enter_context(simulator(latency_ms=50))
        environ = environment(home, stack.enter_context(database(home)), url)
        engine = stack.enter_context(open_engine(Settings.from_env(environ)))
        ids = {name: _connected(engine, url, name) for name in _names()}
        _seconds(engine, ids, broken=False)  # warm
        pairs = [
            (_seconds(engine, ids, broken=True), _seconds(engine, ids, broken=False))
            for _ in range(PAIRS)
        ]
        figure = _figure(pairs) | {"events that died": _count(engine, "dead")}
    bar = Bar(label="ten stores' webhooks", value=figure["ratio, median of pairs"], aim=AIM_RATIO)
    report("drain", [figure], {"time beside a broken store / alone": [bar]})
    if figure["events that died"]:
        sys.exit("An event died for its store's trouble.")


def _names() -> list[str]:
    return [f"store-{number}" for number in range(HEALTHY)] + [BROKEN]


def _figure(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratio = ratio_of(pairs)
    return {
        "what": f"{HEALTHY} stores with {EVENTS} events each, beside one with a revoked token and "
        f"{BROKEN_EVENTS} events / alone",
        **ratio,
        "median / aim": round(ratio["ratio, median of pairs"] / AIM_RATIO, 2),
    }


def _connected(engine: Engine, url: str, name: str) -> list[str]:
    """The ids of the store's customers; the broken one is given a token that is then revoked."""
    shop = f"{name}.myshopify.com"
    store = make_store(url, shop, EVENTS)
    held = Credentials(access_token=store["accessToken"])
    connect_store(engine, organization_id=name, shop=shop, held=held)
    if name == BROKEN:
        make_store(url, shop, EVENTS, name="revoked")
        transact(
            engine.pool,
            lambda conn: conn.execute(
                'UPDATE integrations SET "accessToken" = %s WHERE "organizationId" = %s',
                [engine.cipher.encrypt("shpat_revoked"), BROKEN],
            ),
        )
    return [customer["legacyResourceId"] for customer in customers_of(url, shop)]


def _seconds(engine: Engine, ids: dict[str, list[str]], *, broken: bool) -> float:
    """Until the last event of the healthy stores is settled."""

    def file(conn: Any) -> None:
        conn.execute("TRUNCATE webhook_events")
        conn.execute('UPDATE integrations SET "retryAt" = NULL, "status" = %s', ["ok"])
        for name in _names():
            count = BROKEN_EVENTS if name == BROKEN else EVENTS
            if name != BROKEN or broken:
                numbers = (ids[name] * (count // EVENTS))[:count]
                conn.execute(FILE_EVENTS, [numbers, count, name])

    transact(engine.pool, file)
    began = time.time()
    for _ in drain(engine, DrainOrder(run_id="bench")):
        pass
    ended = transact(
        engine.pool, lambda conn: conn.execute(LAST_OF_THE_OTHERS, [BROKEN]).fetchone()
    )
    assert ended is not None
    return float(ended[0]) - began


def _count(engine: Engine, status: str) -> int:
    row = transact(
        engine.pool,
        lambda conn: conn.execute(
            'SELECT count(*) FROM webhook_events WHERE "status" = %s', [status]
        ).fetchone(),
    )
    return int(row[0]) if row else 0


if __name__ == "__main__":
    main()
