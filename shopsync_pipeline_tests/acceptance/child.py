"""What tests run in a process of its own, to kill it there.

    python -m shopsync_pipeline_tests.acceptance.child WORK [ARGUMENT ...]

With CRASH_POINT in the environment, `before module:name` or `after module:name`, the process kills
itself by SIGKILL when it first calls that function of shopsync_pipeline (or of webhook_receiver,
where that is named). It is looked up by its name, so that one which was renamed makes the process
fail at its start. The code itself knows nothing of it. At a STOP_POINT it is stopped by SIGSTOP;
STANDS_STILL is after how long Postgres gives up its transaction.
"""

import functools
import importlib
import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any

from shopsync_pipeline.db import engine as db_engine
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync import bulk, pull, sweep
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline.sync.engine import Engine, open_engine
from shopsync_pipeline.sync.organizations import SyncOrder, sync_organizations
from shopsync_pipeline.sync.reconcile import ReconcileOrder, reconcile_organizations
from shopsync_pipeline.sync.subscriptions import settle_subscriptions

READY = "ready"
REPORT = "report "
CHUNK_ROWS = 250
RUN_ID = f"child-{uuid.uuid4()}"


def arm(point: str, number: signal.Signals) -> None:
    when, name = point.split()
    module, path = name.split(":")
    below = "" if module.startswith("webhook_receiver") else "shopsync_pipeline."
    owner: Any = importlib.import_module(below + module)
    *outer, last = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    function = getattr(owner, last)
    left = [number]

    def hit() -> None:
        if left:  # by its own thread, which cannot go on a little then
            signal.pthread_kill(threading.get_ident(), left.pop())

    def steps(begun: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        result = yield from begun
        hit()
        return result

    @functools.wraps(function)
    def armed(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            hit()
        result = function(*args, **kwargs)
        if isinstance(result, Generator):
            return steps(result)
        hit()
        return result

    setattr(owner, last, armed)


def told(line: str) -> None:
    """By one call of the system, so that it is there as a whole or not at all."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def synced(engine: Engine, organization: str) -> None:
    for outcome in sync_organizations(engine, [organization], SyncOrder(run_id=RUN_ID)):
        sys.exit(" ".join(outcome.errors) or None)


def loaded(engine: Engine, organization: str) -> None:
    """By a bulk operation, in chunks that make it a small load of many."""
    for module, name in ((pull, "BULK_ABOVE"), (sweep, "BULK_ABOVE"), (bulk, "CHUNK_ROWS")):
        assert hasattr(module, name)
        setattr(module, name, CHUNK_ROWS)
    synced(engine, organization)


def reconciled(engine: Engine, organization: str) -> None:
    order = ReconcileOrder(run_id=RUN_ID)
    for outcome in reconcile_organizations(engine, [organization], order):
        sys.exit(" ".join(outcome.errors) or None)


def subscribed(engine: Engine, organization: str) -> None:
    for outcome in settle_subscriptions(engine, [organization], "enable"):
        sys.exit(" ".join(outcome.errors) or None)


def drained(engine: Engine, linger: str) -> None:
    """What it reports is logged by a line on stdout."""
    lease = timedelta(seconds=engine.settings.webhook_lease_seconds)
    for report in drain(engine, DrainOrder(run_id=RUN_ID, linger=float(linger), lease=lease)):
        told(REPORT + json.dumps(list(report.event_ids)))


OF_THE_ENGINE: dict[str, Callable[[Engine, str], None]] = {
    "pull": synced,
    "bulk": loaded,
    "reconcile": reconciled,
    "subscriptions": subscribed,
    "drain": drained,
}


def main(work: str, *arguments: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    if given := os.environ.get("STANDS_STILL"):
        assert hasattr(db_engine, "STANDS_STILL")
        db_engine.STANDS_STILL = given
    for variable, number in (("CRASH_POINT", signal.SIGKILL), ("STOP_POINT", signal.SIGSTOP)):
        if point := os.environ.get(variable):
            arm(point, number)
    if work == "receiver":
        from webhook_receiver import __main__ as receiver  # imported where needed, for the start

        receiver.main()
    elif work == "shopsync":
        from shopsync_pipeline import cli

        sys.argv[:] = [work, *arguments]
        cli.main()
    else:
        with open_engine(Settings.from_env()) as opened:
            told(READY)
            OF_THE_ENGINE[work](opened, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
