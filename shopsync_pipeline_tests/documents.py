"""The project's documents as tests read them: blocks of code, tables, headings, links."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ENDS = {"|", "||", "&&", ";", "<", ">", ">>", "&"}


@dataclass(frozen=True, kw_only=True)
class Block:
    """Of code, in the language that is named behind its fence."""

    page: Path
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]


def blocks_of(page: Path) -> Iterator[Block]:
    for _, language, text in FENCE.findall(page.read_text()):
        yield Block(page=page, language=language, text=textwrap.dedent(text))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    """What stands between backticks, outside of blocks."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose(page))]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `shopsync` in a piece of shell, without redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        if "shopsync" not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        words = list(lexer)
        for at, word in enumerate(words):
            if word.endswith("/bin/shopsync") or (word == "shopsync" and at == 0):
                rest = words[at + 1 :]
                stop = next((n for n, each in enumerate(rest) if each in ENDS), len(rest))
                yield rest[:stop]


def rows(page: Path, first: str) -> list[list[str]]:
    """The cells of each table of a page whose first column has this heading, headings left out."""
    found, inside = [], False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and set(cells[0]) != {"-"}:
            found.append(cells)
    return found


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
