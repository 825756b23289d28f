"""Where the receiver's log lines go: stdout, and `logs/receiver.log` in the home folder."""

import logging
import sys
from logging.handlers import WatchedFileHandler

from shopsync_pipeline.settings import Settings

LOGGERS = ("webhook_receiver", "uvicorn.error")


def log_to_files(settings: Settings) -> None:
    folder = settings.home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stdout),
        WatchedFileHandler(folder / "receiver.log"),
    ]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = handlers
        logger.propagate = False
    logging.getLogger("webhook_receiver").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
