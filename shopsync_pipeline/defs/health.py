"""What Dagster itself says of its daemon, for `shopsync doctor`."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import DagsterInstance
from dagster._core.scheduler.instigation import InstigatorStatus
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from shopsync_pipeline.errors import ConfigurationError


def silent_daemons() -> list[str]:
    """The parts of the daemon without a recent heartbeat; all of them when it does not run.

    Asks the instance that DAGSTER_HOME and DAGSTER_POSTGRES_URL name. Raises ConfigurationError
    where its database cannot be used.
    """
    with _instance() as instance:
        statuses = instance.get_daemon_statuses()
    return sorted(name for name, status in statuses.items() if not status.healthy)


def stopped() -> list[str]:
    """Sensors and schedules that somebody has stopped in the UI. Raises ConfigurationError."""
    with _instance() as instance:
        states = instance.all_instigator_state()
    return sorted(s.instigator_name for s in states if s.status is InstigatorStatus.STOPPED)


@contextmanager
def _instance() -> Iterator[DagsterInstance]:
    try:
        with DagsterInstance.get() as instance:
            yield instance
    except (DagsterPostgresException, SQLAlchemyError):
        raise ConfigurationError(
            "Dagster's own database cannot be used; `shopsync up` makes it, or check "
            "DAGSTER_POSTGRES_URL."
        ) from None
