"""What the documents say is so: links, files, commands, settings, routes, names in Dagster."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from shopsync_pipeline.cli import app
from shopsync_pipeline.definitions import defs
from shopsync_pipeline_tests.documents import (
    DOCS,
    PAGES,
    ROOT,
    anchors,
    blocks,
    code,
    commands,
    inline,
    prose,
    rows,
)
from webhook_receiver.openapi import DESCRIPTION

REFERENCE = DOCS / "reference"
FOLDERS = "deploy docs benchmarks shopsync_pipeline webhook_receiver shopify_simulator .ci"
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
EVERY_COMMAND: Any = get_command(app)


@by_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@by_page
def test_every_file_that_is_named_is_there(page: Path) -> None:
    for text in inline(page):
        path = text.split("::")[0].split(":")[0]
        if path.split("/")[0] in FOLDERS.split() and "/" in path and " " not in path:
            assert [*ROOT.glob(path.rstrip("/"))], path


def test_every_page_is_found_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)\)", (DOCS / "README.md").read_text()))
    pages = {str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)}
    decisions = {page for page in pages if page.startswith("decisions/")}
    assert pages - decisions - {"README.md"} == linked - {"decisions/"}
    assert len(decisions) <= 10


@by_page
def test_every_command_that_is_mentioned_is_there_with_its_options(page: Path) -> None:
    told = [text for text in inline(page) if re.match(r"(\S+/bin/)?shopsync ", text)]
    for text in told:
        for words in commands(text):
            command, arguments = _resolved(words)
            context = command.make_context("shopsync", [], resilient_parsing=True)
            command.make_parser(context).parse_args(arguments)


def test_every_command_in_a_block_could_be_run_as_it_stands() -> None:
    found = [words for block in blocks("sh") for words in commands(block.text)]
    assert len(found) > 20
    for words in found:
        command, arguments = _resolved(words)
        command.make_context("shopsync", arguments)


def _resolved(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words name, and what is left for it."""
    command, left = EVERY_COMMAND, [word for word in words if word != "..."]
    while left and left[0] in getattr(command, "commands", {}):
        command, left = command.commands[left[0]], left[1:]
    named = [word for word in left if not word.startswith("-")]
    assert not (hasattr(command, "commands") and named), f"no such command: {' '.join(words)}"
    return command, left


def _leaves(command: Any, words: tuple[str, ...] = ("shopsync",)) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield " ".join(words)
        return
    for name, each in command.commands.items():
        yield from _leaves(each, (*words, name))


def test_the_page_of_the_command_has_every_command_and_no_other() -> None:
    told = [code(first)[0] for first, *_ in rows(REFERENCE / "cli.md", "command")]
    assert sorted(re.sub(r" [\[A-Z].*", "", each) for each in told) == sorted(
        _leaves(EVERY_COMMAND)
    )


def test_every_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([\w.$()/-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {target.replace("$(VENV)", ".venv") for target in targets}
    for page in PAGES:
        text = "\n".join([*inline(page), *(b.text for b in blocks("sh") if b.page == page)])
        named = re.findall(r"^(?:sudo )?make ([a-z./-]+)", text, re.MULTILINE)
        assert set(named) <= targets, page


def test_the_page_of_settings_has_those_of_the_example_with_their_defaults() -> None:
    example = (ROOT / ".env.example").read_text()
    wanted = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", example, re.MULTILINE))
    told = rows(REFERENCE / "settings.md", "variable")
    assert {code(name)[0]: default.strip("`") for name, default, _ in told} == wanted


def test_the_page_of_endpoints_has_every_route_and_its_login() -> None:
    told = {
        code(route)[0]: code(login) for route, login, _ in rows(REFERENCE / "endpoints.md", "route")
    }
    bearers = {"apiToken": ["SHOPSYNC_API_TOKEN"], "cronSecret": ["CRON_SECRET"]}
    wanted = {}
    for path, methods in DESCRIPTION["paths"].items():
        for method, operation in methods.items():
            asked = [name for each in operation.get("security", []) for name in each]
            bearer = [name for login in asked for name in bearers.get(login, [])]
            wanted[f"{method.upper()} {path}"] = bearer
    assert told == wanted


def test_the_page_of_dagster_has_every_name_and_no_other() -> None:
    repository = defs.get_repository_def()
    graph = repository.asset_graph
    page = REFERENCE / "dagster.md"
    assert _first(page, "asset") == {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert _first(page, "job") == {n for n in repository.job_names if not n.startswith("__")}
    assert {(code(name)[0], code(when)[0]) for name, when, _ in rows(page, "schedule")} == {
        (each.name, each.cron_schedule) for each in repository.schedule_defs
    }
    assert _first(page, "sensor") == {each.name for each in repository.sensor_defs}
    assert {(code(name)[0], code(of)[0]) for name, of, _ in rows(page, "check")} == {
        (key.name, key.asset_key.to_user_string()) for key in graph.asset_check_keys
    }


def test_the_page_of_dagster_says_which_assets_are_partitioned() -> None:
    graph = defs.get_repository_def().asset_graph
    told = rows(REFERENCE / "dagster.md", "asset")
    partitioned = {code(name)[0] for name, yes, _ in told if yes}
    keys = graph.get_all_asset_keys()
    assert partitioned == {k.to_user_string() for k in keys if graph.get(k).is_partitioned}


def _first(page: Path, heading: str) -> set[str]:
    return {code(first)[0] for first, *_ in rows(page, heading)}


def test_every_configuration_in_a_document_can_be_read() -> None:
    for block in blocks("yaml"):
        yaml.safe_load(block.text)
    for block in blocks("json"):
        json.loads(block.text)
