"""The engine's process killed by SIGKILL at random moments, while the store changes and sends its
webhooks: the next run goes on, and nothing is lost, doubled or other than in the store."""

import random
import time
from collections.abc import Callable, Iterator

import pytest

from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.acceptance.siege import (
    ORGANIZATION,
    Siege,
    Traffic,
    chances,
    kills,
)
from shopsync_pipeline_tests.world import World
from webhook_receiver.server import running_receiver

pytestmark = pytest.mark.kills

CUSTOMERS = 1500
LATENCY_MS = 10
PILED_UP = 400


@pytest.fixture
def siege(world: World) -> Iterator[Siege]:
    """Loaded, and every delivery comes twice."""
    siege = Siege.laid(world, CUSTOMERS, latency_ms=LATENCY_MS, webhook_copies=2)
    with running_receiver(Settings.from_env(siege.environ)) as url:
        siege.subscribe(url)
        assert world.sync_one(ORGANIZATION).state == "synced"
        yield siege


def drift(siege: Siege, chance: random.Random) -> None:
    """What no webhook tells of and no `updatedAt` shows."""
    ids = [int(record["legacyResourceId"]) for record in siege.store.customers()]
    siege.store.change(webhook_drop=1.0)
    for number in chance.sample(ids, 40):
        if chance.random() < 0.5:
            siege.store.edit(number, touch=False, note=f"drifted {chance.random()}")
        else:
            siege.store.edit(number, touch=False, state=chance.choice(["ENABLED", "DISABLED"]))
    for number in chance.sample(ids, 5):
        siege.store.delete(number)
    siege.store.change(webhook_drop=0.0)


def pile_up(siege: Siege, chance: random.Random) -> None:
    """So that the drain is killed at work, and not while it waits."""
    records = siege.store.customers()
    for record in chance.sample(records, PILED_UP):
        siege.store.edit(record["id"], note=f"piled up {chance.random()}")
    assert siege.store.wait_for_deliveries()


Before = Callable[[Siege, random.Random], None]
WORKS: dict[str, Before] = {
    "pull": lambda siege, _: siege.forget(),
    "bulk": lambda siege, _: siege.forget(),
    "reconcile": drift,
    "drain": pile_up,
}


@pytest.mark.parametrize("work", WORKS)
def test_killed_at_random_moments_the_engine_goes_on_with_nothing_lost_or_done_twice(
    siege: Siege, work: str
) -> None:
    """A round whose child had ended before its moment came is no kill, and one more is made."""
    chance, before = chances(), WORKS[work]
    times = -(-kills(4) // len(WORKS))
    before(siege, chance)
    whole = seconds_of(siege, work)
    operations = len(siege.store.bulk.all())
    rounds = hits = 0
    while hits < times:
        rounds += 1
        before(siege, chance)
        with Traffic(siege.store, chance):
            with siege.child(work) as child:
                child.begun()
                time.sleep(chance.uniform(0, whole))
                child.kill()
                assert child.killed or child.process.returncode == 0, child.last_words
                hits += child.killed
            heir = siege.child(work).begun()
        with heir:  # a drain ends only where nothing comes any more
            heir.ended_well()
        siege.settle()
        assert siege.world.sync_one(ORGANIZATION).state == "synced"
        siege.assert_nothing_is_lost()
        assert rounds - hits <= times + 2, f"most kills come too late: {whole} s are no measure"
    print(f"{work}: {hits} of {rounds} killed at work, which takes {whole:.1f} s")
    if work == "bulk":
        assert len(siege.store.bulk.all()) == operations + rounds  # no second one for one load


def seconds_of(siege: Siege, work: str) -> float:
    with siege.child(work) as child:
        child.begun()
        began = time.monotonic()
        child.ended_well()
        return time.monotonic() - began
