"""How near the pull comes to what the machine can do: ratios, taken alternately in one run.

1. The merge of full customer records against a bare COPY of the same rows into the same table
   with its indexes.
2. CPU of a whole pull (HTTP, JSON, shaping, COPY, merge) in its own process, per row; the
   simulator and Postgres are other processes and are not counted.
"""

import json
import os
import resource
import statistics
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import requests as http
from cryptography.fernet import Fernet

from benchmarks.stage import database, machine, make_store, simulator
from shopsync_pipeline.db import customers, integrations
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.models import CUSTOMER_COLUMNS, Credentials, CustomerRow, Integration, Read
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.shopify.customers import rows_of
from shopsync_pipeline.shopify.documents import document
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.organizations import open_engine, open_store
from shopsync_pipeline.sync.pull import pull

SHOP = "bench.myshopify.com"
ROWS = 20_000
PAIRS = 5
AIM_MICROSECONDS = 80.0


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        folder.chmod(0o755)
        url = stack.enter_context(database(folder))
        simulated = stack.enter_context(simulator())
        token = str(make_store(simulated, SHOP, ROWS)["accessToken"])
        os.environ |= {
            "SHOPSYNC_HOME": str(folder),
            "DATABASE_URL": url,
            "SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "SHOPIFY_ENDPOINT": f"{simulated}/{{shop}}",
        }
        print(machine())
        rows = rows_of(_records(simulated, token))
        print(json.dumps(_merge_against_copy(url, rows)))
        print(json.dumps(_pull_cpu(token)))


def _merge_against_copy(url: str, rows: list[CustomerRow]) -> dict[str, Any]:
    """Both fill the same empty table; the page size is that of the pull."""
    pages = [rows[n : n + 250] for n in range(0, len(rows), 250)]
    with connect(url) as conn:
        store = integrations.connect(
            conn, organization_id="copy", shop=SHOP, name="Bench", shop_id=1
        )
        ratios, merged, copied, again = [], [], [], []
        for _ in range(PAIRS):
            merged.append(_timed(lambda: _merge(conn, store, pages)))
            again.append(_timed(lambda: _merge(conn, store, pages)))
            conn.execute("TRUNCATE customers")
            copied.append(_timed(lambda: _copy(conn, store, rows)))
            conn.execute("TRUNCATE customers")
            ratios.append(merged[-1] / copied[-1])
    return {
        "what": f"merge of {len(rows)} new rows by pages of 250 / one bare COPY of them",
        "ratio, median of pairs": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "unchanged rows / new rows": round(statistics.median(again) / statistics.median(merged), 2),
    }


def _merge(conn: Conn, store: Integration, pages: list[list[CustomerRow]]) -> None:
    for page in pages:
        with conn.transaction():
            integrations.share(conn, store.id)
            how = Read(via="PULL", run_id="bench", sent_at=datetime.now(UTC))
            customers.merge(conn, store, page, how)


def _copy(conn: Conn, store: Integration, rows: list[CustomerRow]) -> None:
    ours = '"organizationId", "integrationId", "lastSyncedAt", "lastSyncRunId", "lastSyncVia"'
    columns = ", ".join(f'"{name}"' for name in CUSTOMER_COLUMNS)
    fixed = (store.organization_id, store.id, datetime.now(UTC), "bench", "PULL")
    with (
        conn.transaction(),
        conn.cursor() as cursor,
        cursor.copy(f"COPY customers ({ours}, {columns}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(fixed + row)


def _pull_cpu(token: str) -> dict[str, Any]:
    """First a load of all rows, then the same again, where every row is unchanged."""
    settings = Settings.from_env()
    with open_engine(settings) as engine:
        held = Credentials(access_token=token)
        store = connect_store(engine, organization_id="pull", shop=SHOP, held=held)
        figures = {}
        for name in ("new", "unchanged"):
            with engine.pool.connection() as conn:
                store = integrations.get(conn, store.id)
            with open_store(engine, store) as opened:
                before, began = _cpu(), time.perf_counter()
                result = waited(pull(opened, run_id="bench", mode="full"))
                cpu, wall = _cpu() - before, time.perf_counter() - began
            assert result.counts.rows == ROWS, result
            figures[f"{name} rows, CPU microseconds a row"] = round(cpu / ROWS * 1e6, 1)
            figures[f"{name} rows, CPU / wall"] = round(cpu / wall, 2)
    worst = max(value for name, value in figures.items() if "microseconds" in name)
    return {
        "what": f"pull of {ROWS} customers, CPU of its own process",
        **figures,
        "worst / aim": round(worst / AIM_MICROSECONDS, 2),
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


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
