"""What Dagster itself says of its daemon, for `shopsync doctor`."""

from dagster import DagsterInstance
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from shopsync_pipeline.errors import ConfigurationError


def silent_daemons() -> list[str]:
    """The parts of the daemon without a recent heartbeat; all of them when it does not run.

    Asks the instance that DAGSTER_HOME and DAGSTER_POSTGRES_URL name. Raises ConfigurationError
    where its database cannot be used.
    """
    try:
        with DagsterInstance.get() as instance:
            statuses = instance.get_daemon_statuses()
    except (DagsterPostgresException, SQLAlchemyError):
        raise ConfigurationError(
            "Dagster's own database cannot be used; `shopsync up` makes it, or check "
            "DAGSTER_POSTGRES_URL."
        ) from None
    return sorted(name for name, status in statuses.items() if not status.healthy)
