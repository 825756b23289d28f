"""What the receiver takes: signed deliveries at a steady rate, then many at once, over loopback,
with the drain working beside it.

    python -m benchmarks.receiver_load [--seconds 60] [--rate 200] [--burst 1000]

The receiver, the drain, the simulated store (which answers in 50 ms) and Postgres are processes of
their own, with the settings they have in use; the load comes from this one. A delivery's time is
counted from the moment it was due, so that a receiver that falls behind cannot hide it. Ends with
an error where an answer was not 2xx, a row is lost, or an event is not done in the end.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.deliveries import Answer, Shop, body_of, burst, headers_of, steady
from benchmarks.plot import Bar
from benchmarks.stage import (
    customers_of,
    database,
    environment,
    folder,
    make_store,
    report,
    simulator,
)
from shopsync_pipeline.db import inbox
from shopsync_pipeline.db.engine import connect
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.webhooks import delivery_of
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.engine import open_engine

SHOP = "bench.myshopify.com"
SECRET = "bench-secret"
PORT = 3999
AIM_P99_MILLISECONDS = 100.0
AIM_BURST_SECONDS = 5.0
BARE_ROWS = 1000
CUSTOMERS = 2000
PLUS = {"restoreRate": 2000.0, "maximumAvailable": 40_000.0}
"""Shopify Plus: reading 200 customers a second by id takes 1,000 points a second."""

DRAIN_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What runs: `database_url` is the owner's, `receiver_pid` the process that is measured."""

    database_url: str
    integration_id: str
    shop: Shop
    receiver_pid: int
    drain_pid: int


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        stage = stack.enter_context(staged(stack.enter_context(folder())))
        bare = _bare_inserts(stage)
        asyncio.run(steady(stage.shop, "warm", rate=50, seconds=1))
        figures = [
            _measured(stage, "steady", options.rate, options.seconds, bare),
            _measured_burst(stage, options.burst, bare),
        ]
        left = _drained(stage)
    report("receiver_load", figures, _plot(*figures))
    if left or any(figure["not 2xx"] or figure["rows lost"] for figure in figures):
        sys.exit(f"An answer was not 2xx, a row is lost, or not done ({left}).")


def _plot(flow: dict[str, Any], flood: dict[str, Any]) -> dict[str, list[Bar]]:
    return {
        f"milliseconds, {flow['what']}": [
            Bar(label="to the answer, median", value=flow["ms p50"]),
            Bar(label="to the answer, 99 %", value=flow["ms p99"], aim=AIM_P99_MILLISECONDS),
            Bar(label="to the row, median", value=flow["to the row, ms p50"]),
            Bar(label="to the row, 99 %", value=flow["to the row, ms p99"]),
        ],
        f"milliseconds, {flood['what']}": [
            Bar(label="until all are answered", value=flood["ms max"], aim=AIM_BURST_SECONDS * 1e3)
        ],
    }


def _drained(stage: Stage) -> int:
    """How many events are not done, once the drain had the time."""
    deadline = time.monotonic() + DRAIN_SECONDS
    with connect(stage.database_url) as conn:
        while True:
            row = conn.execute(
                """SELECT count(*) FILTER (WHERE "status" <> 'done') FROM webhook_events"""
            ).fetchone()
            left = int(row[0]) if row else 0
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.receiver_load")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--burst", type=int, default=1000)
    return parser.parse_args()


def _measured(stage: Stage, name: str, rate: int, seconds: int, bare: float) -> dict[str, Any]:
    before = _cpu(stage.receiver_pid), _cpu(stage.drain_pid)
    answers = asyncio.run(steady(stage.shop, name, rate=rate, seconds=seconds))
    used = (_cpu(stage.receiver_pid) - before[0]) / len(answers)
    drained = (_cpu(stage.drain_pid) - before[1]) / len(answers)
    times = _milliseconds(answers)
    return {
        "what": f"{rate} deliveries a second for {seconds} s",
        **_outcome(stage, answers),
        **_lag(stage, name),
        "CPU of the receiver, ms a delivery": round(used * 1e3, 2),
        "CPU of the drain, ms a delivery": round(drained * 1e3, 2),
        "p50 / a bare INSERT": round(times[len(times) // 2] / bare, 1),
        "p99 / aim": round(_quantile(times, 0.99) / AIM_P99_MILLISECONDS, 2),
    }


def _measured_burst(stage: Stage, count: int, bare: float) -> dict[str, Any]:
    began = time.perf_counter()
    answers = asyncio.run(burst(stage.shop, "burst", count))
    wall = time.perf_counter() - began
    return {
        "what": f"{count} deliveries at once, a connection each",
        **_outcome(stage, answers),
        "all / the same bare INSERTs one by one": round(wall * 1e3 / (bare * count), 1),
        "all / aim": round(wall / AIM_BURST_SECONDS, 2),
    }


def _outcome(stage: Stage, answers: Sequence[Answer]) -> dict[str, Any]:
    times = _milliseconds(answers)
    taken = {answer.webhook_id for answer in answers if 200 <= answer.status < 300}
    with connect(stage.database_url) as conn:
        found = {row[0] for row in conn.execute('SELECT "webhookId" FROM webhook_events')}
    return {
        "sent": len(answers),
        "not 2xx": len(answers) - len(taken),
        "statuses": dict(Counter(answer.status for answer in answers)),
        "rows lost": len(taken - found),
        "ms p50": round(times[len(times) // 2], 1),
        "ms p99": round(_quantile(times, 0.99), 1),
        "ms max": round(times[-1], 1),
    }


def _lag(stage: Stage, name: str) -> dict[str, Any]:
    """From the stored delivery to its row, in ms, of those that are done."""
    with connect(stage.database_url) as conn:
        row = conn.execute(
            """
            SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (
              ORDER BY extract(epoch FROM "processedAt" - "receivedAt") * 1000)
            FROM webhook_events WHERE "status" = 'done' AND starts_with("webhookId", %s)
            """,
            [name],
        ).fetchone()
    middle, high = row[0] if row and row[0] else (0.0, 0.0)
    return {"to the row, ms p50": round(middle), "to the row, ms p99": round(high)}


def _milliseconds(answers: Sequence[Answer]) -> list[float]:
    return sorted(answer.seconds * 1e3 for answer in answers)


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


# What it is measured against, and on


def _bare_inserts(stage: Stage) -> float:
    """Milliseconds, in the median, that one connection needs to insert and commit such a row."""
    times = []
    with connect(stage.database_url) as conn:
        for number in range(BARE_ROWS):
            body = body_of(stage.shop, f"bare-{number}")
            headers = headers_of(stage.shop, f"bare-{number}", body).items()
            delivery = delivery_of([(k.encode(), v.encode()) for k, v in headers], body)
            began = time.perf_counter()
            inbox.store(conn, delivery, [stage.integration_id], "pending")
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


@contextmanager
def staged(home: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        url = stack.enter_context(database(home))
        simulated = stack.enter_context(simulator(latency_ms=50))
        store = make_store(simulated, SHOP, CUSTOMERS, **PLUS)
        environ = environment(home, url, simulated) | {
            "SHOPIFY_WEBHOOK_SECRET": SECRET,
            "RECEIVER_PORT": str(PORT),
        }
        integration_id = _connected(Settings.from_env(environ), store)
        receiver = stack.enter_context(_process(home, RECEIVER, environ, "listening on"))
        drains = stack.enter_context(_process(home, DRAIN, environ, "draining"))
        yield Stage(
            database_url=url,
            integration_id=integration_id,
            receiver_pid=receiver,
            drain_pid=drains,
            shop=Shop(
                domain=SHOP,
                secret=SECRET,
                customers=customers_of(simulated, SHOP),
                port=PORT,
            ),
        )


RECEIVER = ("-m", "webhook_receiver")
DRAIN = (
    "-c",
    """
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline.sync.engine import open_engine
print("draining", flush=True)
with open_engine(Settings.from_env()) as engine:
    for _ in drain(engine, DrainOrder(run_id="bench", linger=None, most=1e6)):
        pass
""",
)


def _connected(settings: Settings, store: dict[str, Any]) -> str:
    with open_engine(settings) as engine:
        held = Credentials(access_token=store["accessToken"])
        return connect_store(engine, organization_id="bench", shop=SHOP, held=held).id


@contextmanager
def _process(
    home: Path, arguments: Sequence[str], environ: dict[str, str], ready: str
) -> Iterator[int]:
    """The pid of a process that has printed `ready`."""
    path = home / f"{len(list(home.glob('*.out')))}.out"
    with (
        path.open("w+") as out,
        subprocess.Popen([sys.executable, *arguments], env=os.environ | environ, stdout=out) as it,
    ):
        try:
            while ready not in path.read_text():
                if it.poll() is not None:
                    sys.exit(f"{arguments} ended with code {it.returncode}.")
                time.sleep(0.05)
            yield it.pid
        finally:
            it.terminate()


def _cpu(pid: int) -> float:
    """Seconds of CPU a process has used, from proc(5); 0 where there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
