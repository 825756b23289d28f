"""Which runs the hour needs: pure functions from what is due to ranges of partitions."""

from collections.abc import Sequence, Set


def contiguous_ranges(
    keys: Sequence[str], wanted: Set[str], *, limit: int, bridge: bool
) -> list[tuple[str, str]]:
    """Cover `wanted` by ranges (first, last) over the order of `keys`, at most `limit` long.

    With `bridge` a range may span keys that are not wanted, so that few runs suffice; without,
    it ends before the first such key. Wanted keys that are not in `keys` are left out: they
    are no partitions yet.
    """
    ranges: list[tuple[int, int]] = []
    for position in (p for p, key in enumerate(keys) if key in wanted):
        if ranges and _joins(ranges[-1], position, limit, bridge):
            ranges[-1] = (ranges[-1][0], position)
        else:
            ranges.append((position, position))
    return [(keys[first], keys[last]) for first, last in ranges]


def _joins(last_range: tuple[int, int], position: int, limit: int, bridge: bool) -> bool:
    first, last = last_range
    return position - first < limit and (bridge or position == last + 1)
