"""Dagster's code server, made to end soon after it is told to.

Dagster's own waits until each evaluation of a sensor and each run has come to its end by itself,
and for ever where a run ended while its database was away.

    python -m shopsync_pipeline.defs.code_server --module-name ...    as `dagster api grpc`
"""

import os
import signal
import threading
from types import FrameType

from dagster._cli.api import grpc_command

from shopsync_pipeline.defs.webhooks import ENDING

LAST_SECONDS = 15.0
"""Until it is killed with its runs, which lose nothing."""

PARENT = os.getppid()


def end(number: int, frame: FrameType | None) -> None:
    if not ENDING.is_set() and os.getpgrp() == os.getpid():
        last = threading.Timer(LAST_SECONDS, os.killpg, (os.getpid(), signal.SIGKILL))
        last.daemon = True
        last.start()
        if os.getppid() != PARENT:  # killed, so nobody else tells the runs; once, for they mind
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(os.getpid(), signal.SIGTERM)
    ENDING.set()
    signal.default_int_handler(number, frame)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, end)  # Dagster gives SIGTERM the same handler
    grpc_command()
