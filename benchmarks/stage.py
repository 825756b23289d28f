"""What every benchmark plays on: a Postgres, a simulator and a machine, each told of in a line."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import requests as http

from shopsync_pipeline.db import roles, schema
from shopsync_pipeline.db.server import embedded_server

FREE = {"restoreRate": 1_000_000.0, "maximumAvailable": 1_000_000.0}
"""Points without end: what is measured is the machine, not Shopify's patience."""


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


def make_store(url: str, shop: str, customers: int, **settings: Any) -> dict[str, Any]:
    """A simulated store; its credentials and settings, as the control API tells them."""
    made = http.post(
        f"{url}/_control/stores",
        json={"shop": shop, "customers": customers, "seed": 1, "settings": FREE | settings},
        timeout=60,
    )
    made.raise_for_status()
    store: dict[str, Any] = made.json()
    return store


def customers_of(url: str, shop: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(
        f"{url}/_control/stores/{shop}/customers", timeout=60
    ).json()
    return found


def machine() -> str:
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    )
