"""The same store read by us and by dlt, each in a process of its own, in turn: CPU and seconds.

    python -m benchmarks.against_dlt [--customers 20000] [--pairs 3]

Both page through the same GraphQL query by 250 and merge into the same Postgres, first into empty
tables, then the same rows again; then every row of both tables is compared. CPU is that of the
process and its children, without the start of Python and its imports, which is told beside it;
Postgres and the simulator are other processes. We read such a store in bulk where Shopify lets
us, which dlt has no source for: that is told too.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.plot import Bar
from benchmarks.stage import (
    change_store,
    database,
    environment,
    folder,
    make_store,
    ratio_of,
    report,
    simulator,
)
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.customers import PAGE_SIZE
from shopsync_pipeline.shopify.documents import document
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.engine import open_engine

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".shopsync" / "bench" / "dlt"
PYTHON = VENV / "bin" / "python"
LOCK = Path(__file__).with_name("dlt_requirements.lock")
SHOP = "bench.myshopify.com"
AIM = 5.0

PAGES, BULK, DLT = WAYS = "ours, page by page", "ours, in bulk", "dlt"
LOADS = ("first load", "the same again")
MEDIAN = "ratio, median of pairs"

SAME_ROWS = """
WITH ours AS (
  SELECT "shopifyId", "email", "phone", "firstName", "lastName", "name", "totalSpent", "currency",
    "ordersCount", "emailMarketingState", "emailMarketingOptInLevel", "emailMarketingUpdatedAt",
    "smsMarketingState", "smsMarketingOptInLevel", "smsMarketingUpdatedAt", "company", "address1",
    "address2", "city", "province", "provinceCode", "country", "countryCode", "zip",
    to_jsonb("tags"), "note", "state", "locale", "verifiedEmail", "taxExempt", "shopifyCreatedAt",
    "shopifyUpdatedAt"
  FROM customers
), theirs AS (
  SELECT legacy_resource_id, default_email_address__email_address,
    default_phone_number__phone_number, first_name, last_name, display_name, amount_spent__amount,
    amount_spent__currency_code, number_of_orders, default_email_address__marketing_state,
    default_email_address__marketing_opt_in_level, default_email_address__marketing_updated_at,
    default_phone_number__sms_marketing_consent__state,
    default_phone_number__sms_marketing_consent__opt_in_level,
    default_phone_number__sms_marketing_consent__updated_at, default_address__company,
    default_address__address1, default_address__address2, default_address__city,
    default_address__province, default_address__province_code, default_address__country,
    default_address__country_code_v2, default_address__zip, tags::jsonb, note, state, locale,
    verified_email, tax_exempt, created_at, updated_at
  FROM dlt.customers
)
SELECT (SELECT count(*) FROM ours), (SELECT count(*) FROM theirs),
  (SELECT count(*) FROM (SELECT * FROM ours INTERSECT SELECT * FROM theirs) AS same)
"""


@dataclass(frozen=True, kw_only=True)
class Stage:
    home: Path
    database: str
    simulated: str
    token: str
    environ: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Of a load: seconds, seconds of CPU, and seconds of CPU before it began."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)

    @property
    def whole(self) -> list[float]:
        return [sum(both) for both in zip(self.start, self.cpu, strict=True)]


Loads = dict[tuple[str, str], Taken]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.against_dlt")
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    _install()
    with ExitStack() as stack:
        stage = _staged(stack, options.customers)
        taken = {(way, load): Taken() for way in WAYS for load in LOADS}
        for pair in range(options.pairs):
            for way in WAYS[:: -1 if pair % 2 else 1]:
                _emptied(stage, way)
                for load in LOADS:
                    _add(taken[way, load], _loaded(stage, way))
        counts = _compared(stage)
    rows = options.customers
    figures = [_figure(taken, load, rows) for load in LOADS]
    report("against_dlt", [*figures, counts], _plot(figures))
    if set(counts.values()) != {rows}:
        sys.exit("The tables do not hold the same rows.")


def _install() -> None:
    """dlt in a venv of its own, once for each lock."""
    installed = VENV / "installed.lock"
    if installed.exists() and installed.read_bytes() == LOCK.read_bytes():
        return
    shutil.rmtree(VENV, ignore_errors=True)
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(VENV)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(PYTHON)]
    subprocess.run([*install, "--require-hashes", "-r", str(LOCK)], check=True)
    shutil.copy(LOCK, installed)


def _staged(stack: ExitStack, customers: int) -> Stage:
    home = stack.enter_context(folder())
    url = stack.enter_context(database(home))
    simulated = stack.enter_context(simulator())
    token = str(make_store(simulated, SHOP, customers)["accessToken"])
    environ = environment(home, url, simulated)
    with open_engine(Settings.from_env(environ)) as engine:
        held = Credentials(access_token=token)
        connect_store(engine, organization_id="bench", shop=SHOP, held=held)
    return Stage(home=home, database=url, simulated=simulated, token=token, environ=environ)


def _emptied(stage: Stage, way: str) -> None:
    with psycopg.connect(stage.database) as conn:
        if way == DLT:
            conn.execute("DROP SCHEMA IF EXISTS dlt, dlt_staging CASCADE")
        else:
            conn.execute("TRUNCATE customers")
            conn.execute('UPDATE integrations SET "watermark" = NULL')
    shutil.rmtree(stage.home / "dlt", ignore_errors=True)
    change_store(stage.simulated, SHOP, bulkEnabled=way == BULK)


def _loaded(stage: Stage, way: str) -> dict[str, float]:
    if way == DLT:
        config = stage.home / "dlt.json"
        config.write_text(json.dumps(_dlt_config(stage)))
        command = [str(PYTHON), "-m", "benchmarks.dlt_load", str(config)]
        more = {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
    else:
        command = [sys.executable, "-m", "benchmarks.our_load", "bench"]
        more = stage.environ
    log = (stage.home / "loads.log").open("a+")
    with log:
        ended = subprocess.run(
            command, cwd=ROOT, env=os.environ | more, stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.seek(0)
        if ended.returncode:
            sys.exit(f"{way} failed:\n{log.read()}")
    used: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return used


def _dlt_config(stage: Stage) -> dict[str, Any]:
    everything = "updated_at:<='2100-01-01T00:00:00Z'"
    variables = {"first": PAGE_SIZE, "after": None, "query": everything}
    return {
        "url": f"{stage.simulated}/{SHOP}/admin/api/2026-10/graphql.json",
        "token": stage.token,
        "body": {"query": document("CustomersPage"), "variables": variables},
        "database": stage.database,
        "dataset": "dlt",
        "folder": str(stage.home / "dlt"),
    }


def _add(taken: Taken, used: dict[str, float]) -> None:
    taken.seconds.append(used["seconds"])
    taken.cpu.append(used["cpu"])
    taken.start.append(used["start"])


def _compared(stage: Stage) -> dict[str, int]:
    with psycopg.connect(stage.database) as conn:
        row = conn.execute(SAME_ROWS).fetchone()
    assert row is not None
    return {"rows of ours": row[0], "rows of dlt": row[1], "the same in every field": row[2]}


def _figure(taken: Loads, load: str, rows: int) -> dict[str, Any]:
    def ratio(way: str, of: Callable[[Taken], list[float]]) -> dict[str, Any]:
        return ratio_of(list(zip(of(taken[DLT, load]), of(taken[way, load]), strict=True)))

    def a_row(of: Callable[[Taken], list[float]]) -> dict[str, float]:
        return {way: round(statistics.median(of(taken[way, load])) / rows * 1e6, 1) for way in WAYS}

    by_pages = ratio(PAGES, lambda each: each.cpu)
    return {
        "what": f"CPU of dlt / ours page by page, {load} of {rows} customers",
        **by_pages,
        "aim / median": round(AIM / by_pages[MEDIAN], 2),
        "dlt / ours in bulk": ratio(BULK, lambda each: each.cpu),
        "dlt / ours page by page, with the start of Python": ratio(PAGES, lambda each: each.whole),
        "seconds, dlt / ours page by page": ratio(PAGES, lambda each: each.seconds),
        "CPU microseconds a row": a_row(lambda each: each.cpu),
        "wall microseconds a row": a_row(lambda each: each.seconds),
    }


def _plot(figures: Sequence[dict[str, Any]]) -> dict[str, list[Bar]]:
    def bars(way: str, of: Callable[[dict[str, Any]], float]) -> list[Bar]:
        return [
            Bar(label=f"{way}, {load}", value=of(figure), aim=AIM, at_least=True)
            for load, figure in zip(LOADS, figures, strict=True)
        ]

    first = figures[0]["CPU microseconds a row"]
    return {
        "CPU of dlt / ours": [
            *bars("page by page", lambda figure: figure[MEDIAN]),
            *bars("ours in bulk", lambda figure: figure["dlt / ours in bulk"][MEDIAN]),
        ],
        f"CPU microseconds a customer, {LOADS[0]}": [
            Bar(label=way, value=first[way]) for way in WAYS
        ],
    }


if __name__ == "__main__":
    main()
