"""Work beside a test, until its block ends."""

import threading
from typing import Self


class Background(threading.Thread):
    """Runs `work`, which looks at `over`, as long as the block lasts; what it raises is raised
    again where the block ends."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.over = threading.Event()
        self.trouble: Exception | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()
        if self.trouble:
            raise self.trouble

    def run(self) -> None:
        try:
            self.work()
        except Exception as trouble:  # noqa: BLE001  # raised again where the block ends
            self.trouble = trouble

    def work(self) -> None:
        raise AssertionError("each kind of background has its own work")
