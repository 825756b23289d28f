"""What the command line says of itself."""

import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from shopsync_pipeline.cli import app
from shopsync_pipeline.commands.follow import bar_of
from shopsync_pipeline.db.progress import Progress
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import SyncRequest

NOW = datetime(2026, 11, 27, tzinfo=UTC)
ROOT: Any = typer.main.get_command(app)


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


LEAVES = dict(leaves(ROOT))


def given_in(command: Any) -> list[list[str]]:
    return [line.split()[1:] for line in re.findall(r"^\$ (.+)$", command.epilog or "", re.M)]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_each_command_has_examples_that_parse(path: tuple[str, ...]) -> None:
    examples = given_in(LEAVES[path])
    assert examples
    for words in examples:
        assert tuple(words[: len(path)]) == path
        LEAVES[path].make_context(" ".join(path), words[len(path) :])


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_shows_the_examples(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for words in given_in(LEAVES[path]):
        assert f"$ shopsync {' '.join(words)}" in shown.output


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_breaks_a_sentence_only_where_the_terminal_ends(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "400"}).output
    for paragraph in inspect.cleandoc(LEAVES[path].help).split("\n\n"):
        assert " ".join(paragraph.replace("`", "").split()) in shown


def test_the_version_is_told() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert shown.exit_code == 0
    assert re.fullmatch(r"shopsync \d+\.\d+\.\d+\n", shown.output)


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["status", "--json"],
        ["webhooks", "dead"],
        ["data-requests", "list"],
        ["db", "url"],
        ["sync"],
        ["pause", "acme"],
    ],
    ids=" ".join,
)
def test_a_command_that_reads_makes_no_database(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "SHOPSYNC_HOME"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigurationError)
    assert str(done.exception) == (
        "There is no database here: .shopsync is missing. Start one: shopsync up, or set "
        "DATABASE_URL."
    )
    assert not list(tmp_path.iterdir())


def request(status: Any) -> SyncRequest:
    return SyncRequest(
        id="r",
        kind="sync",
        organization_id="acme",
        mode="full",
        status=status,
        requested_at=NOW,
    )


def came(rows: int, expected: int | None) -> Progress:
    return Progress(
        organization_id="acme",
        shop="a.myshopify.com",
        run_id="run",
        started_at=NOW,
        rows=rows,
        expected=expected,
    )


@pytest.mark.parametrize(
    ("status", "stores", "bar"),
    [
        ("queued", [], {"completed": 0, "total": None, "told": "queued"}),
        ("running", [], {"completed": 0, "total": None, "told": "running"}),
        ("running", [came(250, None)], {"completed": 250, "total": None, "told": "250 rows"}),
        (
            "running",
            [came(250, 800), came(1000, 1200)],
            {"completed": 1250, "total": 2000, "told": "1,250 of 2,000 rows"},
        ),
        (
            "running",
            [came(250, 800), came(9, None)],
            {"completed": 259, "total": None, "told": "259 rows"},
        ),
        ("succeeded", [came(800, 800)], {"completed": 1, "total": 1, "told": "succeeded"}),
    ],
)
def test_a_bar_shows_rows_and_a_share_only_where_every_number_is_known(
    status: str, stores: list[Progress], bar: dict[str, Any]
) -> None:
    assert bar_of(request(status), stores) == bar
