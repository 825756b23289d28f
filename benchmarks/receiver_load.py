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
import base64
import hashlib
import hmac
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.fernet import Fernet

from benchmarks.stage import customers_of, database, machine, make_store, simulator
from shopsync_pipeline.db import inbox
from shopsync_pipeline.db.engine import connect
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.webhooks import delivery_of
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.organizations import open_engine

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
    receiver_port: int
    receiver_pid: int
    drain_pid: int
    customers: Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`seconds` from when the delivery was due to its whole answer; `status` 0: there was none."""

    webhook_id: str
    status: int
    seconds: float


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        folder.chmod(0o755)
        stage = stack.enter_context(staged(folder))
        print(machine())
        bare = _bare_inserts(stage)
        asyncio.run(steady(stage, "warm", rate=50, seconds=1))
        figures = [
            _measured(stage, "steady", options.rate, options.seconds, bare),
            _measured_burst(stage, options.burst, bare),
        ]
        left = _drained(stage)
    for figure in figures:
        print(json.dumps(figure))
    if left or any(figure["not 2xx"] or figure["rows lost"] for figure in figures):
        sys.exit(f"An answer was not 2xx, a row is lost, or not done ({left}).")


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
    answers = asyncio.run(steady(stage, name, rate=rate, seconds=seconds))
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
    answers = asyncio.run(burst(stage, "burst", count))
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


# The load


async def steady(stage: Stage, name: str, *, rate: int, seconds: int) -> list[Answer]:
    """Deliveries that are due in equal steps, whatever became of those before."""
    idle: list[Line] = []
    began = time.perf_counter()
    sent = []
    for number in range(rate * seconds):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(_deliver(stage, idle, f"{name}-{number}", due)))
    answers = await asyncio.gather(*sent)
    for _, writer in idle:
        writer.close()
    return answers


async def burst(stage: Stage, name: str, count: int) -> list[Answer]:
    due = time.perf_counter()
    return await asyncio.gather(
        *(_deliver(stage, [], f"{name}-{number}", due) for number in range(count))
    )


Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _deliver(stage: Stage, idle: list[Line], webhook_id: str, due: float) -> Answer:
    """Over a connection that is idle, or a new one; it is kept for the next."""
    status = 0
    try:
        line = await _line(stage, idle)
        line[1].write(_request(stage, webhook_id))
        head = await line[0].readuntil(b"\r\n\r\n")
        await line[0].readuntil(b"}")
        status = int(head.split()[1])
        idle.append(line)
    except (OSError, asyncio.IncompleteReadError) as error:
        print(f"{webhook_id}: {error!r}", file=sys.stderr)
    return Answer(webhook_id=webhook_id, status=status, seconds=time.perf_counter() - due)


async def _line(stage: Stage, idle: list[Line]) -> Line:
    while idle:
        line = idle.pop()
        if not line[0].at_eof():  # else the receiver closed what was idle for long
            return line
        line[1].close()
    return await asyncio.open_connection("127.0.0.1", stage.receiver_port)


def _body(stage: Stage, webhook_id: str) -> bytes:
    """As Shopify sends it with the subscription's includeFields, about one of its customers."""
    digest = hashlib.sha256(webhook_id.encode()).digest()
    customer = stage.customers[int.from_bytes(digest[:4], "big") % len(stage.customers)]
    return json.dumps(
        {
            "id": int(customer["legacyResourceId"]),
            "admin_graphql_api_id": customer["id"],
            "updated_at": customer["updatedAt"],
        }
    ).encode()


def _headers(webhook_id: str, body: bytes) -> dict[str, str]:
    signature = hmac.digest(SECRET.encode(), body, "sha256")
    return {
        "Host": "127.0.0.1",
        "X-Shopify-Topic": "customers/update",
        "X-Shopify-Shop-Domain": SHOP,
        "X-Shopify-Hmac-Sha256": base64.b64encode(signature).decode(),
        "X-Shopify-Webhook-Id": webhook_id,
        "X-Shopify-API-Version": "2026-10",
        "X-Shopify-Triggered-At": datetime.now(UTC).isoformat(),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }


def _request(stage: Stage, webhook_id: str) -> bytes:
    body = _body(stage, webhook_id)
    lines = [f"{name}: {value}" for name, value in _headers(webhook_id, body).items()]
    head = "\r\n".join(["POST /api/webhooks/shopify HTTP/1.1", *lines, "", ""])
    return head.encode() + body


# What it is measured against, and on


def _bare_inserts(stage: Stage) -> float:
    """Milliseconds, in the median, that one connection needs to insert and commit such a row."""
    times = []
    with connect(stage.database_url) as conn:
        for number in range(BARE_ROWS):
            body = _body(stage, f"bare-{number}")
            headers = _headers(f"bare-{number}", body).items()
            delivery = delivery_of([(k.encode(), v.encode()) for k, v in headers], body)
            began = time.perf_counter()
            inbox.store(conn, delivery, [stage.integration_id], "pending")
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        url = stack.enter_context(database(folder))
        simulated = stack.enter_context(simulator(latency_ms=50))
        store = make_store(simulated, SHOP, CUSTOMERS, **PLUS)
        environ = {
            "SHOPSYNC_HOME": str(folder),
            "DATABASE_URL": url,
            "SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode(),
            "SHOPIFY_WEBHOOK_SECRET": SECRET,
            "SHOPIFY_ENDPOINT": f"{simulated}/{{shop}}",
            "RECEIVER_PORT": str(PORT),
        }
        integration_id = _connected(Settings.from_env(environ), store)
        receiver = stack.enter_context(_process(folder, RECEIVER, environ, "listening on"))
        drains = stack.enter_context(_process(folder, DRAIN, environ, "draining"))
        yield Stage(
            database_url=url,
            integration_id=integration_id,
            receiver_port=PORT,
            receiver_pid=receiver,
            drain_pid=drains,
            customers=customers_of(simulated, SHOP),
        )


RECEIVER = ("-m", "webhook_receiver")
DRAIN = (
    "-c",
    """
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline.sync.organizations import open_engine
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
    folder: Path, arguments: Sequence[str], environ: dict[str, str], ready: str
) -> Iterator[int]:
    """The pid of a process that has printed `ready`."""
    path = folder / f"{len(list(folder.glob('*.out')))}.out"
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
