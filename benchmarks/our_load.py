"""Our engine reads a whole store, in a process of its own.

python -m benchmarks.our_load ORGANIZATION     settings from the environment
"""

import sys

from benchmarks.process import measured
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.engine import open_engine
from shopsync_pipeline.sync.organizations import SyncOrder, sync_organizations


def load() -> None:
    order = SyncOrder(run_id="bench", mode="full")
    with open_engine(Settings.from_env()) as engine:
        for organization in sync_organizations(engine, [sys.argv[1]], order):
            assert not organization.errors, organization.errors


if __name__ == "__main__":
    measured(load)
