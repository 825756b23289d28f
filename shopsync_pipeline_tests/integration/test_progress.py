"""How far a long run has come is told while it reads, in each way a store is read."""

from typing import Any

import pytest

from shopsync_pipeline.db import progress
from shopsync_pipeline.db.engine import read
from shopsync_pipeline.sync import pull, sweep
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"


def came(world: World, run_id: str) -> tuple[int, int | None]:
    (found,) = read(world.engine.pool, lambda conn: progress.of_runs(conn, [run_id]))
    assert (found.organization_id, found.shop) == ("acme", SHOP)
    return found.rows, found.expected


@pytest.mark.parametrize("way", ["pages", "bulk"])
def test_whole_reads_tell_rows_and_of_how_many(
    world: World, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pull, sweep):
        monkeypatch.setattr(module, "BULK_ABOVE", 10 if way == "bulk" else 10_000)
    world.connect("acme", SHOP, customers=600)
    world.sync("acme")
    assert came(world, "run-1") == (600, 600)
    world.reconcile("acme")
    assert came(world, "reconcile-2") == (600, 600)
    assert came(world, "run-1") == (600, 600)


def test_a_pull_of_what_changed_tells_rows_alone(world: World) -> None:
    store: Any = world.connect("acme", SHOP, customers=20)
    world.sync("acme")
    world.simulator.clock.advance(86400)
    store.edit(store.customers()[0]["legacyResourceId"], note="edited")
    world.sync("acme")
    assert came(world, "run-2") == (1, None)
