"""Generated histories: whatever happens in whatever order, the table ends equal to the stores.

HISTORIES: how many, in all shards. HISTORIES_SECONDS: begin none after so many seconds.
HISTORIES_SEED: the same ones again.
"""

import faulthandler
import os
import sys
import time
import zlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from shopsync_pipeline_tests.histories.machine import NEVER, LaggingMachine, Machine, Stage

pytestmark = pytest.mark.histories

SHARDS = 4
DEFAULT = 60
AT_ONCE = 10
"""Examples of one call of hypothesis; between two the clock is looked at."""

STEPS = 30
PHASES = (Phase.generate, Phase.shrink)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_table_ends_equal_to_the_stores(
    stage: Stage,
    shard: int,
    testrun_uid: str,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = int(os.environ.get("HISTORIES_SEED") or zlib.crc32(testrun_uid.encode()) % 1_000_000)
    with capsys.disabled():  # at once, for one that hangs comes to no end that could tell it
        print(f"HISTORIES_SEED={base}, shard {shard}", file=sys.stderr, flush=True)
    budget = os.environ.get("HISTORIES_SECONDS")
    wanted = -(-int(os.environ.get("HISTORIES") or (NEVER if budget else DEFAULT)) // SHARDS)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    ends = time.monotonic() + float(budget or "inf") * workers / SHARDS
    machine = type("Machine", (LaggingMachine if shard == 3 else Machine,), {"stage": stage})
    place = 0
    faulthandler.cancel_dump_traceback_later()  # its limit is for one test's work, not for hundreds
    try:
        while stage.done < wanted and time.monotonic() < ends:
            run_state_machine_as_test(
                seed(base * 1000 + shard * 100_000_007 + place)(machine),
                settings=settings(
                    max_examples=min(AT_ONCE, wanted - stage.done),
                    stateful_step_count=STEPS,
                    deadline=None,
                    database=None,
                    derandomize=False,
                    print_blob=True,
                    report_multiple_bugs=False,
                    phases=PHASES,
                    suppress_health_check=list(HealthCheck),
                ),
            )
            place += 1
    finally:
        record_property("histories", (stage.done, base))
    assert stage.done
