"""Configuration in, plain objects out: the engine never sees Dagster, and the UI no secret."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler

from dagster import ConfigurableResource

from shopsync_pipeline.db import schema
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.organizations import Engine, open_engine


class ShopsyncResource(ConfigurableResource):  # type: ignore[type-arg]
    """Opens what a run or a tick needs, from the environment of its process.

    Both raise ConfigurationError for a setting that is missing or a database of another release.
    """

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        settings = Settings.from_env()
        log_to_files(settings)
        with open_engine(settings) as engine:
            yield engine

    @contextmanager
    def connection(self) -> Iterator[Conn]:
        with connect(Settings.from_env().required_database_url()) as conn:
            schema.check(conn)
            yield conn


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
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
