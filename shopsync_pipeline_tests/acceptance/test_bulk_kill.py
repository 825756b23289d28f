"""The process of a bulk load killed by SIGKILL at random moments, from its start to its end."""

import os
import random
import subprocess
import sys
import time

import pytest

from shopsync_pipeline.sync.bulk import BULK_ABOVE, CHUNK_ROWS
from shopsync_pipeline_tests.world import World

KILLS = int(os.environ.get("KILLS", "20"))
CUSTOMERS = BULK_ABOVE + 2 * CHUNK_ROWS

RUN = """
import sys
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.organizations import SyncOrder, open_engine, sync_organizations
with open_engine(Settings.from_env()) as engine:
    print("ready", flush=True)
    for outcome in sync_organizations(engine, [sys.argv[1]], SyncOrder(run_id="killed")):
        sys.exit(" ".join(outcome.errors) or None)
"""


def seconds_of_a_run(world: World, organization: str, kill_after: float | None) -> float:
    """From when the engine is open to its end, or to its death after `kill_after` seconds."""
    command = [sys.executable, "-c", RUN, organization]
    environ = {**os.environ, **world.environ}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        try:
            code = process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
        else:
            assert code == 0
        return time.monotonic() - began


@pytest.mark.deployment
def test_a_load_killed_anywhere_is_ended_by_the_next_run_with_the_table_equal_to_the_store(
    world: World,
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    shops = [f"store-{number}" for number in range(KILLS + 1)]
    stores = {
        name: world.connect(name, f"{name}.myshopify.com", customers=CUSTOMERS) for name in shops
    }
    whole = seconds_of_a_run(world, shops.pop(), None)
    states: list[str] = []
    for name in shops:
        store = stores[name]
        seconds_of_a_run(world, name, chance.uniform(0, whole))
        held = world.integration(name)
        begun = store.bulk.all()
        states.append("merged" if held.watermark else "begun" if begun else "nothing")
        outcome = world.sync_one(name)
        assert outcome.state == "synced", f"seed {seed}: {outcome.error}"
        assert world.differences(name, store) == [], f"seed {seed}"
        assert len(store.bulk.all()) == 1, f"seed {seed}: {states}"
        assert world.integration(name).watermark is not None
    print({state: states.count(state) for state in set(states)})
    assert "begun" in states
