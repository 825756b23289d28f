"""What every benchmark plays on (a Postgres, a simulator, a machine) and how it tells its results:
a line of JSON for each figure, and both a JSON and a plot under `benchmarks/results/`."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import requests as http
from cryptography.fernet import Fernet

from benchmarks.plot import Bar, draw
from shopsync_pipeline.db import roles, schema
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.server import embedded_server
from shopsync_pipeline.models import CUSTOMER_COLUMNS, CustomerRow, Integration

FREE = {"restoreRate": 1_000_000.0, "maximumAvailable": 1_000_000.0}
"""Points without end: what is measured is the machine, not Shopify's patience."""

STANDARD = {"restoreRate": 100.0, "maximumAvailable": 2000.0}
"""The bucket of Shopify's standard plans."""

RESULTS = Path(__file__).parent / "results"


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder in which Postgres may run as another user."""
    with TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """The URL of a migrated database in a server of its own, with the settings it has in use."""
    with embedded_server(folder / "postgres") as server:
        with psycopg.connect(server.url(), autocommit=True) as conn:
            roles.create_owner(conn, name="shopsync", password="bench")
        url = f"postgresql://shopsync:bench@{server.host}:{server.port}/shopsync"
        schema.upgrade(url)
        yield url


@contextmanager
def simulator(latency_ms: float = 0) -> Iterator[str]:
    """The URL of a simulator in a process of its own."""
    command = ["-m", "shopify_simulator", "--port", "0", "--latency-ms", str(latency_ms)]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def environment(folder: Path, database_url: str, simulated: str) -> dict[str, str]:
    """The settings of a deployment that reads the simulator's stores into the database."""
    return {
        "SHOPSYNC_HOME": str(folder),
        "DATABASE_URL": database_url,
        "SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "SHOPIFY_ENDPOINT": f"{simulated}/{{shop}}",
    }


def make_store(url: str, shop: str, customers: int, **settings: Any) -> dict[str, Any]:
    """A simulated store; its credentials and settings, as the control API tells them."""
    made = http.post(
        f"{url}/_control/stores",
        json={"shop": shop, "customers": customers, "seed": 1, "settings": FREE | settings},
        timeout=300,
    )
    made.raise_for_status()
    store: dict[str, Any] = made.json()
    return store


def change_store(url: str, shop: str, **settings: Any) -> None:
    http.patch(f"{url}/_control/stores/{shop}", json=settings, timeout=60).raise_for_status()


def customers_of(url: str, shop: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(
        f"{url}/_control/stores/{shop}/customers", timeout=60
    ).json()
    return found


def bare_copy(conn: Conn, store: Integration, rows: Iterable[CustomerRow]) -> None:
    """The least that a database must do for new rows: COPY them into `customers` itself."""
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


def ratio_of(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """What was measured in turn, first / second."""
    ratios = sorted(first / second for first, second in pairs)
    return {
        "ratio, median of pairs": round(statistics.median(ratios), 2),
        "lowest": round(ratios[0], 2),
        "highest": round(ratios[-1], 2),
    }


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}"
    )


def report(
    name: str, figures: Sequence[Mapping[str, Any]], plot: Mapping[str, Sequence[Bar]]
) -> None:
    """Print the figures of the benchmark `name`; keep them, and `plot`'s bars by their unit."""
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    print(f"{name}: {machine()}, {date}")
    for figure in figures:
        print(json.dumps(figure))
    RESULTS.mkdir(exist_ok=True)
    kept = {"benchmark": name, "date": date, "machine": machine(), "figures": figures}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=2) + "\n")
    draw(RESULTS / f"{name}.svg", f"{machine()}, {date}", plot)
