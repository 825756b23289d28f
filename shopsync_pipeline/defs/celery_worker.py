"""The Celery app of a worker: `celery -A shopsync_pipeline.defs.celery_worker worker`.

Broker and settings are those of the launcher in `dagster.yaml`, so that both sides agree. The main
process of a worker imports the definitions (`include` there) and forks: each run finds them loaded.
"""

import ctypes
import gc
import signal
import sys

from celery.signals import task_postrun, worker_before_create_process, worker_process_init
from dagster import DagsterInstance
from dagster_celery.tasks import create_execute_job_task

from shopsync_pipeline.defs.celery_launcher import WarmWorkerLauncher

with DagsterInstance.get() as instance:
    launcher = instance.run_launcher
assert isinstance(launcher, WarmWorkerLauncher), "dagster.yaml names another run launcher"
app = launcher.celery
create_execute_job_task(app)


def share_what_is_loaded(**_: object) -> None:
    """Before a fork: the collector, which writes to all it looks at, leaves it alone in the child,
    whose memory then stays its parent's."""
    gc.collect()
    gc.freeze()


def die_with_the_worker(**_: object) -> None:
    """A run whose worker is gone is found dead and may be started anew: it must not go on
    (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def heed_sigterm_again(**_: object) -> None:
    """After a run Dagster leaves SIGTERM as it found SIGINT, which Celery's processes ignore."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


worker_before_create_process.connect(share_what_is_loaded)
worker_process_init.connect(die_with_the_worker)
task_postrun.connect(heed_sigterm_again)
