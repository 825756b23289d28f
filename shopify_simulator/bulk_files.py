"""The result files of bulk operations: written once, then served as they are, until the end.

One folder of a simulator, which goes when it stops. Knows no operations.
"""

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from shopify_simulator.sample import Row

ROWS_A_LOOK = 500
"""So often a writer asks whether it is still wanted."""
NEWLINE = orjson.OPT_APPEND_NEWLINE

Lines = Callable[[Row], list[Row]]


@dataclass(frozen=True, kw_only=True)
class BulkFile:
    name: str
    """Cannot be guessed: whoever knows it may read the file."""
    path: Path
    url: str

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class BulkFiles:
    def __init__(self, url: str) -> None:
        self._url = url
        self._folder: TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def new(self) -> BulkFile:
        """The folder comes with the first one: most simulators never export."""
        with self._lock:
            self._folder = self._folder or TemporaryDirectory(prefix="shopify-simulator-")
            folder = Path(self._folder.name)
        name = secrets.token_urlsafe(24)
        return BulkFile(name=name, path=folder / name, url=f"{self._url}/_bulk/{name}/bulk.jsonl")

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def write_lines(path: Path, rows: Sequence[Row], lines: Lines, given_up: Callable[[], bool]) -> int:
    """How many lines were written: fewer than there are once `given_up()`."""
    count = 0
    with path.open("wb") as file:
        for start in range(0, len(rows), ROWS_A_LOOK):
            if given_up():
                break
            for row in rows[start : start + ROWS_A_LOOK]:
                shown = lines(row)
                file.writelines(orjson.dumps(each, option=NEWLINE) for each in shown)
                count += len(shown)
    return count


def break_line(path: Path, number: int) -> None:
    """Leaves half of the line of that number, counted from 0."""
    broken = path.with_suffix(".broken")
    with path.open("rb") as whole, broken.open("wb") as file:
        for place, line in enumerate(whole):
            file.write(line[: len(line) // 2] + b"\n" if place == number else line)
    broken.replace(path)
