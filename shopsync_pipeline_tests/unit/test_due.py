"""From what is due to ranges of partitions, and when a store in trouble is due again."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from shopsync_pipeline.errors import NeedsScope, next_try
from shopsync_pipeline.sync.due import contiguous_ranges

KEYS = ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    ("wanted", "limit", "bridge", "ranges"),
    [
        ("", 3, True, []),
        ("c", 3, True, [("c", "c")]),
        ("abcdef", 3, True, [("a", "c"), ("d", "f")]),
        ("ac", 3, True, [("a", "c")]),
        ("ac", 3, False, [("a", "a"), ("c", "c")]),
        ("ad", 3, True, [("a", "a"), ("d", "d")]),
        ("abde", 9, False, [("a", "b"), ("d", "e")]),
        ("az", 3, True, [("a", "a")]),
    ],
)
def test_ranges(wanted: str, limit: int, bridge: bool, ranges: list[tuple[str, str]]) -> None:
    assert contiguous_ranges(KEYS, set(wanted), limit=limit, bridge=bridge) == ranges


def test_every_wanted_key_is_covered_once_and_no_range_is_too_long() -> None:
    for choice in product([False, True], repeat=len(KEYS)):
        wanted = {key for key, chosen in zip(KEYS, choice, strict=True) if chosen}
        for limit, bridge in product((1, 2, 4), (False, True)):
            ranges = contiguous_ranges(KEYS, wanted, limit=limit, bridge=bridge)
            spans = [KEYS[KEYS.index(a) : KEYS.index(b) + 1] for a, b in ranges]
            covered = [key for span in spans for key in span]
            assert wanted <= set(covered)
            assert len(covered) == len(set(covered))
            assert all(len(span) <= limit for span in spans)
            assert bridge or set(covered) == wanted


@pytest.mark.parametrize(
    ("minute", "second", "again"), [(0, 0, 1), (30, 0, 1), (53, 59, 1), (54, 0, 2), (59, 59, 2)]
)
def test_a_store_in_trouble_is_tried_before_the_next_tick_and_never_at_once(
    minute: int, second: int, again: int
) -> None:
    """In the last minute of the hour the moment had passed already, and each second had its try; in
    the minutes before, the drain was back at the store within seconds."""
    now = datetime(2026, 11, 24, 10, minute, second, tzinfo=UTC)
    retry = next_try(NeedsScope("a.myshopify.com", "no scope"), now)
    assert retry == datetime(2026, 11, 24, 10 + again, tzinfo=UTC) - timedelta(minutes=1)
