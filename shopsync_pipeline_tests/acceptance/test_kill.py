"""A run's process killed by SIGKILL, at every page of a window."""

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from shopsync_pipeline_tests.world import World

CUSTOMERS = 2000
PAGES = 8

RUN = """
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.organizations import SyncOrder, open_engine, sync_organizations
with open_engine(Settings.from_env()) as engine:
    list(sync_organizations(engine, ["acme"], SyncOrder(run_id="killed")))
"""


def pages(store: Any) -> list[Any]:
    return [r for r in store.requests if r["operation"] == "CustomersPage"]


def run_until(world: World, store: Any, requests: int) -> None:
    """Start a run in a process of its own and kill it when the store has been asked for the
    `requests`-th page; where in fetch, merge or commit that is, is chance."""
    process = subprocess.Popen([sys.executable, "-c", RUN], env={**os.environ, **world.environ})
    try:
        while len(pages(store)) < requests and process.poll() is None:
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()


def wait_for_locks_to_go(world: World) -> None:
    """Postgres notices a dead client when it next reads from it."""
    integration = world.integration("acme")
    while not world.engine.locks.try_lock(integration.id):
        time.sleep(0.01)
    world.engine.locks.unlock(integration.id)


@pytest.mark.deployment
@pytest.mark.parametrize("page", range(1, PAGES + 1))
def test_a_run_killed_at_any_page_loses_nothing_and_reads_no_committed_page_again(
    world: World, page: int
) -> None:
    store = world.connect("acme", "a.myshopify.com", customers=CUSTOMERS, latency_ms=20)
    run_until(world, store, page)
    wait_for_locks_to_go(world)
    committed = len(world.rows("acme"))
    assert committed % 250 == 0
    asked = len(pages(store))

    assert world.sync_one("acme").state == "synced"

    window = world.integration("acme")
    assert window.window is None
    assert world.differences("acme", store) == []
    cursors = [request["variables"]["after"] for request in pages(store)]
    before, after = cursors[:asked], cursors[asked:]
    done = committed // 250
    assert not set(before[:done]) & {cursor for cursor in after if cursor is not None}
    if 0 < done < PAGES:
        assert after[0] is not None  # it goes on by cursor, not from the beginning
