"""Where the receiver's log lines go: stdout, and `logs/receiver.log` in the home folder."""

import logging
import sys
from logging.handlers import WatchedFileHandler

from shopsync_pipeline.faults import ScrubbedFormatter, tell_of_threads
from shopsync_pipeline.settings import Settings


class LogFile(WatchedFileHandler):
    """What cannot be written is lost, and no delivery fails for it: opening the file anew, after
    somebody moved it away, is not guarded by logging itself."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


def log_to_files(settings: Settings) -> None:
    folder = settings.home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stdout),
        LogFile(folder / "receiver.log"),
    ]
    for handler in handlers:
        handler.setFormatter(ScrubbedFormatter())
    # All loggers: what a library says of an exception is said without its text too.
    logging.basicConfig(handlers=handlers, level=logging.WARNING)
    logging.getLogger("webhook_receiver").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # anybody can cause its warnings
    logging.raiseExceptions = False  # no trace of each line that a full disk does not take
    tell_of_threads(logging.getLogger("webhook_receiver"))
