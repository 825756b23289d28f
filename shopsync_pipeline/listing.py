"""Rows for a terminal of any width; what the facts mean is not known here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from rich import box
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Column, Table

EDGE, BETWEEN = 1, 2
"""Characters that box and padding take before the first column, and after each."""

Group = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """In the first of three forms that has room: a column for each fact; one for each group, its
    facts under one another; a line for each fact.

    A row has each fact, as rich's markup, under its heading. Only `prose` is broken, at its words;
    it is the last of its group.
    """

    groups: Sequence[Group]
    rows: Sequence[Mapping[str, str]]
    prose: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        apart = [(name,) for name in self._names()]
        for groups in (apart, self.groups):
            needed = sum(self._needed(group, console, options) + BETWEEN for group in groups)
            if needed + EDGE <= options.max_width:
                yield self._table(groups)
                return
        yield self._lines()

    def _names(self) -> list[str]:
        return list(chain(*self.groups))

    def _needed(self, group: Group, console: Console, options: ConsoleOptions) -> int:
        """Characters in which nothing of the group is cut."""
        widths = [Measurement.get(console, options, _heading(group)).maximum]
        for name in group:
            facts = [Measurement.get(console, options, row[name]) for row in self.rows]
            widths += [each.minimum if name == self.prose else each.maximum for each in facts]
        return max(widths)

    def _table(self, groups: Sequence[Group]) -> Table:
        columns = (Column(_heading(group), no_wrap=self.prose not in group) for group in groups)
        stacked = max(map(len, groups)) > 1
        table = Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), leading=int(stacked))
        for row in self.rows:
            table.add_row(*("\n".join(row[name] for name in group) for group in groups))
        return table

    def _lines(self) -> Table:
        table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
        for row in self.rows:
            for name in self._names():
                table.add_row(name, row[name])
            table.add_row()
        return table


def _heading(group: Group) -> str:
    """Of one fact in short lines, as a number below it is short; of several as they stand."""
    return "\n".join(group) if len(group) > 1 else group[0].replace(" ", "\n")
