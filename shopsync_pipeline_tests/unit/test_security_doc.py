"""Each test that the threat model names is there under that name."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`([a-z_]+/test_[a-z_]+\.py)::(test_\w+)`", TEXT)))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_what_covers_a_threat_is_there(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (TESTS / path).read_text(), re.MULTILINE)


def test_every_threat_names_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.count("|") == 4]
    threats = [row for row in rows if not row.startswith(("| threat", "|---"))]
    assert len(threats) > 30
    assert [row for row in threats if "::test_" not in row] == []
