"""What all commands share: where they print, what they take, how they reach the tables."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from shopsync_pipeline import local
from shopsync_pipeline.db import integrations, schema
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.errors import ConfigurationError, ShopsyncError
from shopsync_pipeline.models import Integration
from shopsync_pipeline.settings import Settings, checked_organization, checked_shop

PIPED = 10_000
"""Characters of a line where no terminal says how many: a row is one line, for grep."""


def _console(stream: TextIO, *, stderr: bool) -> Console:
    told = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if told else PIPED)


out = _console(sys.stdout, stderr=False)
err = _console(sys.stderr, stderr=True)


def examples(*commands: str) -> str:
    """The end of a command's help; a test parses each of them."""
    return "\n\n".join(["Examples:", *(f"$ {command}" for command in commands)])


def group(told: str) -> typer.Typer:
    return typer.Typer(help=told, no_args_is_help=True)


@contextmanager
def tables() -> Iterator[Conn]:
    """A connection to tables of this release."""
    with (
        local.databases(Settings.from_env()) as settings,
        connect(settings.required_database_url()) as conn,
    ):
        schema.check(conn)
        yield conn


def stores_of(conn: Conn, organization: str, shop: str | None) -> list[Integration]:
    """The active store, or all of the organization. Raises ConfigurationError where none is."""
    organization = checked_organization(organization)
    wanted = checked_shop(shop) if shop is not None else None
    active = integrations.active_of(conn, [organization])
    found = [store for store in active if wanted in (None, store.shop)]
    if not found:
        whom = f"store {wanted}" if wanted else "store"
        raise ConfigurationError(
            f"{organization} has no connected {whom}. See which there are: shopsync status. "
            f"Connect one: shopsync connect {organization} {wanted or 'SHOP'}"
        )
    return found


def print_json(value: Any) -> None:
    """On standard output, and nothing else is."""
    print(json.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def camel(value: Any) -> dict[str, Any]:
    """A dataclass with the keys that JSON gives its fields."""
    assert is_dataclass(value)
    assert not isinstance(value, type)
    return {_camel(name): each for name, each in asdict(value).items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def _plain(value: Any) -> str | float:
    """Moments in ISO 8601, spans in seconds."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, timedelta):
        return round(value.total_seconds(), 3)
    return str(value)


def _known(context: typer.Context) -> Sequence[Integration]:
    """For completion: nothing is started for it, and trouble is silence."""
    try:
        url = local.running_database(Settings.from_env())
        if url is None:
            return ()
        with connect(url) as conn:
            return [store for store in integrations.everything(conn) if store.is_active]
    except (ShopsyncError, OSError, ValueError):
        return ()


def _organizations(context: typer.Context, incomplete: str) -> list[str]:
    known = dict.fromkeys(store.organization_id for store in _known(context))
    return [each for each in known if each.startswith(incomplete)]


def _shops(context: typer.Context, incomplete: str) -> list[str]:
    """Of the organization that was given before."""
    whose = context.params.get("organization")
    known = (s.shop for s in _known(context) if whose in (None, s.organization_id))
    return [shop for shop in dict.fromkeys(known) if shop.startswith(incomplete)]


Organization = Annotated[
    str,
    typer.Argument(help="The organizationId, such as acme.", autocompletion=_organizations),
]
Organizations = Annotated[
    list[str] | None,
    typer.Argument(help="organizationIds; none for all.", autocompletion=_organizations),
]
Shop = Annotated[
    str,
    typer.Argument(help="The store's domain: name.myshopify.com.", autocompletion=_shops),
]
MaybeShop = Annotated[
    str | None,
    typer.Argument(help="The store's domain; none for all of them.", autocompletion=_shops),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead, and nothing but JSON.")]
