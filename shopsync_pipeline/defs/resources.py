"""Configuration in, plain objects out: the engine never sees Dagster, and the UI no secret."""

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from logging.handlers import WatchedFileHandler

from dagster import ConfigurableResource, DagsterError, Failure, InitResourceContext
from pydantic import PrivateAttr

from shopsync_pipeline.db import locks, schema, watch
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.faults import ScrubbedFormatter, guarded, tell_of_threads
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.engine import Engine, open_engine


class ShopsyncResource(ConfigurableResource):  # type: ignore[type-arg]
    """Opens what a run or a tick needs, from the environment of its process.

    Both raise ConfigurationError for a setting that is missing or a database of another release.
    What a run opens comes with a session by its name, by which webhook_sensor knows that it lives.
    What goes wrong in their blocks Dagster keeps and shows, so its text must quote nobody's data.
    """

    _run_id: str | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: InitResourceContext) -> None:
        self._run_id = context.run.run_id if context.run else None

    def _presence(self, url: str) -> AbstractContextManager[None]:
        return locks.presence(url, self._run_id) if self._run_id else nullcontext()

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        settings = Settings.from_env()
        log_to_files(settings)
        with (
            guarded(Failure, DagsterError),
            open_engine(settings) as engine,
            self._presence(settings.required_database_url()),
        ):
            yield engine

    @contextmanager
    def connection(self) -> Iterator[Conn]:
        url = Settings.from_env().required_database_url()
        with guarded(Failure, DagsterError), connect(url) as conn, self._presence(url):
            schema.check(conn)
            yield conn

    @contextmanager
    def tick(self, name: str) -> Iterator[Conn]:
        """For one evaluation of the schedule or sensor `name`; one that ends well is its
        heartbeat, by which others know that it ticks."""
        with self.connection() as conn:
            yield conn
            watch.beat(conn, name)


def log_to_files(settings: Settings) -> None:
    """Send our log lines to stdout and to `logs/pipeline.log` in the home folder, once.

    Not through Dagster's `context.log`: there each line is a row of its event log.
    """
    logger = logging.getLogger("shopsync_pipeline")
    if logger.handlers:
        return
    folder = settings.home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stdout),
        WatchedFileHandler(folder / "pipeline.log"),
    ]
    for handler in handlers:
        handler.setFormatter(ScrubbedFormatter())
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    tell_of_threads(logger)
