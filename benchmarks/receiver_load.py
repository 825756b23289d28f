"""What the receiver takes: signed deliveries at a steady rate, then many at once, over loopback.

    python -m benchmarks.receiver_load [--seconds 60] [--rate 200] [--burst 1000]

The receiver and Postgres are processes of their own, with the settings they have in use; the load
comes from this one. A delivery's time is counted from the moment it was due, so that a receiver
that falls behind cannot hide it. Ends with an error where an answer was not 2xx or a row is lost.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import os
import platform
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

import psycopg
from cryptography.fernet import Fernet

from shopsync_pipeline.db import inbox, integrations, roles, schema
from shopsync_pipeline.db.engine import connect
from shopsync_pipeline.db.server import embedded_server
from shopsync_pipeline.shopify.webhooks import delivery_of

SHOP = "bench.myshopify.com"
SECRET = "bench-secret"
PORT = 3999
AIM_P99_MILLISECONDS = 100.0
AIM_BURST_SECONDS = 5.0
BARE_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What runs: `database_url` is the owner's, `receiver_pid` the process that is measured."""

    database_url: str
    integration_id: str
    receiver_port: int
    receiver_pid: int


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
        print(_machine())
        bare = _bare_inserts(stage)
        asyncio.run(steady(stage, "warm", rate=50, seconds=1))
        figures = [
            _measured(stage, "steady", options.rate, options.seconds, bare),
            _measured_burst(stage, options.burst, bare),
        ]
    for figure in figures:
        print(json.dumps(figure))
    if any(figure["not 2xx"] or figure["rows lost"] for figure in figures):
        sys.exit("An answer was not 2xx, or a row is lost.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.receiver_load")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--burst", type=int, default=1000)
    return parser.parse_args()


def _measured(stage: Stage, name: str, rate: int, seconds: int, bare: float) -> dict[str, Any]:
    before = _cpu(stage.receiver_pid)
    answers = asyncio.run(steady(stage, name, rate=rate, seconds=seconds))
    used = (_cpu(stage.receiver_pid) - before) / len(answers)
    times = _milliseconds(answers)
    return {
        "what": f"{rate} deliveries a second for {seconds} s",
        **_outcome(stage, answers),
        "CPU of the receiver, ms a delivery": round(used * 1e3, 2),
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
        line[1].write(_request(webhook_id))
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


def _body(webhook_id: str) -> bytes:
    """As Shopify sends it with the subscription's includeFields."""
    number = int(hashlib.sha256(webhook_id.encode()).hexdigest()[:12], 16)
    return json.dumps(
        {
            "id": number,
            "admin_graphql_api_id": f"gid://shopify/Customer/{number}",
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
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


def _request(webhook_id: str) -> bytes:
    body = _body(webhook_id)
    lines = [f"{name}: {value}" for name, value in _headers(webhook_id, body).items()]
    head = "\r\n".join(["POST /api/webhooks/shopify HTTP/1.1", *lines, "", ""])
    return head.encode() + body


# What it is measured against, and on


def _bare_inserts(stage: Stage) -> float:
    """Milliseconds, in the median, that one connection needs to insert and commit such a row."""
    times = []
    with connect(stage.database_url) as conn:
        for number in range(BARE_ROWS):
            body = _body(f"bare-{number}")
            headers = _headers(f"bare-{number}", body).items()
            delivery = delivery_of([(k.encode(), v.encode()) for k, v in headers], body)
            began = time.perf_counter()
            inbox.store(conn, delivery, [stage.integration_id], "pending")
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    with embedded_server(folder / "postgres") as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            roles.create_owner(admin, name="shopsync", password="bench")
        url = f"postgresql://shopsync:bench@{server.host}:{server.port}/shopsync"
        schema.upgrade(url)
        with connect(url) as conn:
            store = integrations.connect(
                conn, organization_id="bench", shop=SHOP, name="Bench", shop_id=1
            )
        with _receiver(folder, url) as process:
            yield Stage(
                database_url=url,
                integration_id=store.id,
                receiver_port=PORT,
                receiver_pid=process.pid,
            )


@contextmanager
def _receiver(folder: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    environ = os.environ | {
        "SHOPSYNC_HOME": str(folder),
        "DATABASE_URL": url,
        "RECEIVER_DATABASE_URL": "",
        "SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "SHOPIFY_WEBHOOK_SECRET": SECRET,
        "RECEIVER_PORT": str(PORT),
    }
    with (
        (folder / "receiver.out").open("w+") as out,
        subprocess.Popen(
            [sys.executable, "-m", "webhook_receiver"], env=environ, stdout=out, text=True
        ) as process,
    ):
        try:
            _wait_for(folder / "receiver.out", process)
            yield process
        finally:
            process.terminate()


def _wait_for(out: Path, process: subprocess.Popen[str]) -> None:
    while "receiver listening on" not in out.read_text():
        if process.poll() is not None:
            sys.exit(f"The receiver ended with code {process.returncode}.")
        time.sleep(0.05)


def _cpu(pid: int) -> float:
    """Seconds of CPU a process has used, from proc(5); 0 where there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _machine() -> str:
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    )


if __name__ == "__main__":
    main()
