"""What may be told of an exception that nobody expected: its kind and its place, never its text.

The text may quote what it met: Postgres's DETAIL a row, `int()` its argument, a header parser a
token. Whatever leaves a process goes through one of these doors: the runs and ticks of Dagster
(`guarded`), the log files (`ScrubbedFormatter`), the commands (`told`).
"""

import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from shopsync_pipeline.errors import Fault, ShopsyncError

OURS = ("shopsync_pipeline", "webhook_receiver")
HERE = Path(__file__).parent.parent


def told(error: BaseException) -> str:
    """The message of an error of ours; of any other its kind and the line of ours it came from."""
    if isinstance(error, ShopsyncError):
        return str(error)
    return f"a fault of Shopsync: {_kind(error)}{_place(error.__traceback__)}. Please report it."


def trace(error: BaseException) -> str:
    """All of its lines of code and its kind, with what it was raised from, the first first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = "".join(traceback.format_tb(error.__traceback__))
    what = f"{_kind(error)}: {error}" if isinstance(error, ShopsyncError) else _kind(error)
    earlier = f"{trace(before)}\nthen\n" if before is not None else ""
    return f"{earlier}{lines}{what}"


@contextmanager
def guarded(*passing: type[Exception]) -> Iterator[None]:
    """Out of this block comes an error of ours, one of the kinds `passing`, or else a Fault; none
    drags along what it was raised from."""
    kinds: tuple[type[Exception], ...] = (ShopsyncError, *passing)
    try:
        yield
    except kinds as error:
        raise error from None
    except Exception as error:  # noqa: BLE001  # this is the door
        raise Fault(told(error)) from None


class ScrubbedFormatter(logging.Formatter):
    """For every log file: exceptions without their texts."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        return trace(ei[1])

    def format(self, record: logging.LogRecord) -> str:
        """What asyncio says of a forgotten task ends with the repr of its exception. What another
        formatter has kept of the exception (logging's cache) is neither used nor left."""
        record.exc_text = None
        text = super().format(record)
        record.exc_text = None
        return text.partition("\n")[0] if record.name == "asyncio" else text


def tell_of_threads(log: logging.Logger) -> None:
    """Through `log` of what ends a thread, in place of Python's own word on stderr; not where
    somebody else listens to that (a test)."""

    def hook(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is not None:
            log.error("A thread ended by\n%s", trace(ended.exc_value))

    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = hook


def _kind(error: BaseException) -> str:
    return type(error).__name__


def _place(tb: TracebackType | None) -> str:
    """The innermost line of our own code, or nothing where it met none."""
    ours = [frame for frame in traceback.extract_tb(tb) if _is_ours(frame.filename)]
    if not ours:
        return ""
    last = ours[-1]
    return f" at {Path(last.filename).relative_to(HERE)}:{last.lineno} in {last.name}"


def _is_ours(filename: str) -> bool:
    return any(Path(filename).is_relative_to(HERE / package) for package in OURS)
