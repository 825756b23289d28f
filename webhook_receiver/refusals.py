"""Deliveries in a known store's name that its secrets had not signed, counted for `doctor`.

Nothing is written while a delivery is answered: that would tell a known shop from others by its
time, and let a flood of forged deliveries write as fast as it comes. Once a minute one statement
adds what was counted, by integration, of which there are only as many as there are.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial

from shopsync_pipeline.db import watch
from shopsync_pipeline.errors import DatabaseTrouble
from webhook_receiver.lines import Lines

WRITTEN_EVERY = 60.0


class Refusals:
    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._counted: Counter[str] = Counter()

    def note(self, integration_ids: Iterable[str]) -> None:
        self._counted.update(integration_ids)

    async def keep_writing(self) -> None:
        while True:
            await asyncio.sleep(WRITTEN_EVERY)
            await self.write()

    async def write(self) -> None:
        """What cannot be written now is kept for the next time."""
        counted, self._counted = self._counted, Counter()
        if not counted:
            return
        try:
            await self._lines.run(partial(watch.count_refused, refused=counted))
        except DatabaseTrouble:
            self._counted.update(counted)
