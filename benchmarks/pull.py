"""How near the pull comes to what the machine can do: ratios, taken alternately in one run.

1. The merge of full customer records against a bare COPY of the same rows into the same table
   with its indexes.
2. CPU of a whole pull (HTTP, JSON, shaping, COPY, merge) in its own process, per row; the
   simulator and Postgres are other processes and are not counted.
"""

import statistics
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import orjson
import requests as http

from benchmarks.plot import Bar
from benchmarks.process import cpu
from benchmarks.stage import (
    bare_copy,
    database,
    environment,
    folder,
    make_store,
    ratio_of,
    report,
    simulator,
)
from shopsync_pipeline.db import customers, integrations
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.models import Credentials, CustomerRow, Integration, Read
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.shopify.customers import rows_of
from shopsync_pipeline.shopify.documents import document
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.engine import open_engine, open_store
from shopsync_pipeline.sync.pull import PullResult, pull

SHOP = "bench.myshopify.com"
ROWS = 20_000
PAIRS = 5
AIM_MICROSECONDS = 80.0
PULLS = ("new customers", "unchanged customers")


def main() -> None:
    with ExitStack() as stack:
        home = stack.enter_context(folder())
        url = stack.enter_context(database(home))
        simulated = stack.enter_context(simulator())
        token = str(make_store(simulated, SHOP, ROWS, bulkEnabled=False)["accessToken"])
        settings = Settings.from_env(environment(home, url, simulated))
        merge = _merge_against_copy(url, rows_of(_records(simulated, token)))
        pulled = _pull_cpu(settings, token)
    report(
        "pull",
        [merge, pulled],
        {
            "CPU of a pull's process, microseconds a customer": [
                Bar(label=name, value=pulled[_of(name)], aim=AIM_MICROSECONDS) for name in PULLS
            ],
            "time of the merge / a bare COPY of the same rows": [
                Bar(label="new customers", value=merge["ratio, median of pairs"])
            ],
        },
    )


def _of(name: str) -> str:
    return f"{name}, CPU microseconds a row"


def _merge_against_copy(url: str, rows: list[CustomerRow]) -> dict[str, Any]:
    """Both fill the same empty table; the page size is that of the pull."""
    pages = [rows[n : n + 250] for n in range(0, len(rows), 250)]
    with connect(url) as conn:
        store = integrations.connect(
            conn, organization_id="copy", shop=SHOP, name="Bench", shop_id=1
        )
        merged, copied, again = [], [], []
        for _ in range(PAIRS):
            merged.append(_timed(lambda: _merge(conn, store, pages)))
            again.append(_timed(lambda: _merge(conn, store, pages)))
            conn.execute("TRUNCATE customers")
            copied.append(_timed(lambda: bare_copy(conn, store, rows)))
            conn.execute("TRUNCATE customers")
    return {
        "what": f"merge of {len(rows)} new rows by pages of 250 / one bare COPY of them",
        **ratio_of(list(zip(merged, copied, strict=True))),
        "unchanged rows / new rows": round(statistics.median(again) / statistics.median(merged), 2),
    }


def _merge(conn: Conn, store: Integration, pages: list[list[CustomerRow]]) -> None:
    for page in pages:
        with conn.transaction():
            integrations.share(conn, store.id)
            how = Read(via="PULL", run_id="bench", sent_at=datetime.now(UTC))
            customers.merge(conn, store, page, how)


def _pull_cpu(settings: Settings, token: str) -> dict[str, Any]:
    """First a load of all rows, then the same again, where every row is unchanged."""
    with open_engine(settings) as engine:
        held = Credentials(access_token=token)
        store = connect_store(engine, organization_id="pull", shop=SHOP, held=held)
        figures = {}
        for name in PULLS:
            with engine.pool.connection() as conn:
                store = integrations.get(conn, store.id)
            with open_store(engine, store) as opened:
                before, began = cpu(), time.perf_counter()
                result = PullResult()
                waited(pull(opened, result, run_id="bench", mode="full"))
                used, wall = cpu() - before, time.perf_counter() - began
            assert result.counts.rows == ROWS, result
            figures[_of(name)] = round(used / ROWS * 1e6, 1)
            figures[f"{name}, CPU / wall"] = round(used / wall, 2)
    worst = max(figures[_of(name)] for name in PULLS)
    return {
        "what": f"pull of {ROWS} customers, CPU of its own process",
        **figures,
        "worst / aim": round(worst / AIM_MICROSECONDS, 2),
    }


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _records(simulated: str, token: str) -> list[dict[str, Any]]:
    """All customers, as the page document gives them."""
    url = f"{simulated}/{SHOP}/admin/api/2026-10/graphql.json"
    found: list[dict[str, Any]] = []
    after = None
    while True:
        variables = {"first": 250, "after": after, "query": "updated_at:<='2100-01-01T00:00:00Z'"}
        body = {"query": document("CustomersPage"), "variables": variables}
        answer = http.post(url, json=body, headers={"X-Shopify-Access-Token": token}, timeout=60)
        page = orjson.loads(answer.content)["data"]["customers"]
        found += page["nodes"]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            return found


if __name__ == "__main__":
    main()
