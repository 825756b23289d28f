"""A large store's first load: a bulk operation through a Dagster run, against what the machine can.

    python -m benchmarks.bulk [--customers 200000] [--pairs 2]      with 1000000: its memory

The run is a process of its own on a Dagster instance in Postgres. The limit is one process that
decodes the same JSON lines from a local file, shapes them with the project's own function and
COPYs them into the same table with its indexes. The load is timed from the request for the file
to the commit that ends it, as the store and the database show; CPU and memory are those of the
run's whole process, with its start, which a run that finds nothing to do tells alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import requests as http
from dagster import DagsterInstance

from benchmarks.deployed import deployment
from benchmarks.plot import Bar
from benchmarks.process import children_cpu
from benchmarks.stage import bare_copy, folder, make_store, ratio_of, report, simulator
from shopsync_pipeline.db.engine import connect
from shopsync_pipeline.defs.partitions import organizations
from shopsync_pipeline.local import environment
from shopsync_pipeline.models import Credentials, CustomerRow, Integration
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.customers import rows_of
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.engine import open_engine

SHOP = "bench.myshopify.com"
ORGANIZATION = "bench"
CUSTOMERS = 200_000
AIM_OF_LIMIT = 0.6
AIM_MICROSECONDS = 40.0
AIM_MEBIBYTES = 300.0
LOOK_SECONDS = 0.02
MEBIBYTE = 2**20

RUN = (
    "-m",
    "dagster",
    "asset",
    "materialize",
    "--module-name=shopsync_pipeline.definitions",
    "--select=customers",
    f"--partition={ORGANIZATION}",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process: `load` are the seconds of the load itself, `seconds` those of the process."""

    load: float
    seconds: float
    cpu: float
    peak: float


class Stage:
    def __init__(self, stack: ExitStack, customers: int) -> None:
        home = stack.enter_context(folder())
        simulated = stack.enter_context(simulator())
        self.settings = stack.enter_context(deployment(home, simulated))
        self.store = f"{simulated}/_control/stores/{SHOP}"
        self.file = home / "bulk.jsonl"
        self.rows = customers
        token = str(make_store(simulated, SHOP, customers)["accessToken"])
        self.integration = _connected(self.settings, token)
        self.conn = stack.enter_context(connect(self.settings.required_database_url()))
        os.environ |= environment(self.settings)
        with DagsterInstance.get() as instance:
            instance.add_dynamic_partitions(str(organizations.name), [ORGANIZATION])

    def asked(self, path: str) -> Any:
        return http.get(f"{self.store}/{path}", timeout=60).json()

    def loaded(self) -> bool:
        """Whether the operation's rows are all committed."""
        row = self.conn.execute('SELECT "watermark" IS NOT NULL FROM integrations').fetchone()
        return row == (True,)

    def emptied(self) -> None:
        """As before the first load; the store forgets what it was asked."""
        self.conn.execute("TRUNCATE customers")
        self.conn.execute('UPDATE integrations SET "watermark" = NULL, "lastSyncAt" = NULL')
        http.delete(f"{self.store}/requests", timeout=60).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.bulk")
    parser.add_argument("--customers", type=int, default=CUSTOMERS)
    parser.add_argument("--pairs", type=int, default=2)
    options = parser.parse_args()
    with ExitStack() as stack:
        stage = Stage(stack, options.customers)
        first = _loaded(stage)
        idle = _ran(stage)
        pairs = [(first, _limit(stage))]
        pairs += [(_loaded(stage), _limit(stage)) for _ in range(options.pairs - 1)]
    figures = _figures(pairs, idle, options.customers)
    name = "bulk" if options.customers == CUSTOMERS else f"bulk_{options.customers}"
    report(name, figures, _plot(figures, options.customers))


def _connected(settings: Settings, token: str) -> Integration:
    with open_engine(settings) as engine:
        held = Credentials(access_token=token)
        return connect_store(engine, organization_id=ORGANIZATION, shop=SHOP, held=held)


def _loaded(stage: Stage) -> Run:
    stage.emptied()
    run = _ran(stage, load=True)
    count = stage.conn.execute("""SELECT count(*) FROM customers WHERE "lastSyncVia" = 'BULK'""")
    assert count.fetchone() == (stage.rows,)
    return run


def _ran(stage: Stage, *, load: bool = False) -> Run:
    """Start a run and look on until it has ended; with `load` it has a file to read."""
    before, began = children_cpu(), time.perf_counter()
    with (
        (stage.settings.home / "run.log").open("w+") as log,
        subprocess.Popen([sys.executable, *RUN], stdout=log, stderr=log) as process,
    ):
        look = _Look(stage, process.pid)
        while process.poll() is None:
            look.on(load=load)
            time.sleep(LOOK_SECONDS)
        if process.returncode:
            log.seek(0)
            sys.exit(f"The run failed:\n{log.read()}")
    return Run(
        load=look.ended - look.began,
        seconds=time.perf_counter() - began,
        cpu=children_cpu() - before,
        peak=look.peak,
    )


class _Look:
    """What is seen of a run: when it asked for the file and when the load was done (moments of
    perf_counter), and the most memory it ever held, as proc(5) tells."""

    def __init__(self, stage: Stage, pid: int) -> None:
        self.began = self.ended = 0.0
        self.peak = 0.0
        self._stage = stage
        self._status = Path(f"/proc/{pid}/status")

    def on(self, *, load: bool) -> None:
        for line in self._told():
            if line.startswith("VmHWM"):
                self.peak = int(line.split()[1]) / 1024
        if not load or self.ended:
            return
        if not self.began:
            asked = self._stage.asked("requests")
            if any(each["operation"] == "bulk_file" for each in asked):
                self.began = time.perf_counter()
        elif self._stage.loaded():
            self.ended = time.perf_counter()

    def _told(self) -> list[str]:
        try:
            return self._status.read_text().splitlines()
        except OSError:  # it has just ended, or this is no Linux
            return []


def _limit(stage: Stage) -> float:
    """Seconds to decode, shape and COPY the file of the last run."""
    if not stage.file.exists():
        url = stage.asked("bulk-operations")[-1]["url"]
        with http.get(url, stream=True, timeout=60) as answer, stage.file.open("wb") as file:
            for block in answer.iter_content(MEBIBYTE):
                file.write(block)
    stage.emptied()
    began = time.perf_counter()
    bare_copy(stage.conn, stage.integration, _shaped(stage.file))
    return time.perf_counter() - began


def _shaped(path: Path) -> Iterator[CustomerRow]:
    with path.open("rb") as lines:
        for line in lines:
            yield from rows_of([orjson.loads(line)])


def _figures(pairs: Sequence[tuple[Run, float]], idle: Run, rows: int) -> list[dict[str, Any]]:
    runs = [run for run, _ in pairs]
    ratio = ratio_of([(limit, run.load) for run, limit in pairs])
    cpu = statistics.median(run.cpu for run in runs) / rows * 1e6
    peak = max(run.peak for run in runs)
    return [
        {
            "what": f"bulk load of {rows} customers in a run, rows a second / the limit",
            **ratio,
            "aim / median": round(AIM_OF_LIMIT / ratio["ratio, median of pairs"], 2),
            "rows a second": round(rows / statistics.median(run.load for run in runs)),
            "seconds of the whole process": round(statistics.median(r.seconds for r in runs), 1),
        },
        {
            "what": "the run's process, with its start",
            "CPU microseconds a row": round(cpu, 1),
            "CPU / aim": round(cpu / AIM_MICROSECONDS, 2),
            "CPU seconds of a run with nothing to do": round(idle.cpu, 1),
            "peak memory, MiB": round(peak),
            "peak / aim": round(peak / AIM_MEBIBYTES, 2),
            "peak of a run with nothing to do, MiB": round(idle.peak),
        },
    ]


def _plot(figures: Sequence[dict[str, Any]], rows: int) -> dict[str, list[Bar]]:
    load, process = figures
    ratio, cpu = load["ratio, median of pairs"], process["CPU microseconds a row"]
    return {
        f"rows a second / decode, shape and COPY alone, {rows:,} customers": [
            Bar(label="bulk load in a run", value=ratio, aim=AIM_OF_LIMIT, at_least=True)
        ],
        "CPU of the run's process, microseconds a customer": [
            Bar(label="with its start", value=cpu, aim=AIM_MICROSECONDS)
        ],
        "peak memory of the run's process, MiB": [
            Bar(label="of the load", value=process["peak memory, MiB"], aim=AIM_MEBIBYTES),
            Bar(label="of nothing to do", value=process["peak of a run with nothing to do, MiB"]),
        ],
    }


if __name__ == "__main__":
    main()
