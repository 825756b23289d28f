"""The command line's door: which commands there are, and how each ends.

Every failure is one sentence on stderr and exit code 1. Tokens are read from a prompt, from
standard input or from the environment, never from an argument, which others could see in the
process list. The commands themselves: commands/.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from shopsync_pipeline import demo as demo_round
from shopsync_pipeline import local, processes
from shopsync_pipeline.commands import database, follow, health, stores
from shopsync_pipeline.commands.shared import err, examples, out
from shopsync_pipeline.commands.webhooks import requests_app, webhooks_app
from shopsync_pipeline.errors import ShopsyncError
from shopsync_pipeline.faults import told
from shopsync_pipeline.settings import Settings

app = typer.Typer(
    help="The customers of many Shopify stores in one Postgres table.",
    epilog=examples("shopsync up", "shopsync status", "shopsync --install-completion"),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=True,
)


def main() -> None:
    """The console script `shopsync`."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that what was started is stopped
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    try:
        app()
    except ShopsyncError as error:
        _fail(str(error))
    except OSError as error:  # a folder that cannot be made, a disk that is full
        _fail(f"{error.filename or 'The system'}: {error.strerror}.")
    except Exception as error:  # noqa: BLE001  # its text may quote data or a token
        _fail(told(error))


def _version(asked: bool) -> None:
    if asked:
        print(f"shopsync {version('shopsync')}")
        raise typer.Exit


@app.callback()
def every_command(
    _: Annotated[
        bool, typer.Option("--version", help="This release.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The customers of many Shopify stores in one Postgres table."""


@app.command(epilog=examples("shopsync up"))
def up() -> None:
    """Run the database, its migrations, the receiver, the Dagster UI and daemon, until Ctrl-C."""
    given = Settings.from_env()
    with local.alone(given), local.databases(given, migrate=True) as settings:
        out.print("Starting the receiver and Dagster ...")
        with processes.deployment_running(settings) as running:
            receiver = local.receiver_url(settings)
            out.print(f"Dagster UI   {settings.ui_here}")
            out.print(f"Receiver     {receiver}")
            out.print(f"Customers page {receiver}/dashboard/customers", soft_wrap=True)
            out.print(f"Secrets      {settings.secrets_file}, as far as none were given")
            out.print(f"Logs         {settings.home / 'logs'}")
            out.print("Ctrl-C stops all. Connect a store with: shopsync connect ORG SHOP")
            cluster = None if given.database_url else local.cluster(settings)
            with _until_interrupted():
                processes.keep_running(running, cluster, out.print)


@app.command(epilog=examples("shopsync demo", "shopsync demo --once"))
def demo(
    once: Annotated[bool, typer.Option("--once", help="One round, then exit.")] = False,
) -> None:
    """Three simulated stores, synced by Dagster, with live traffic until Ctrl-C."""
    with _until_interrupted():
        demo_round.run(Settings.from_env(), out, once=once)


stores.add_to(app)
follow.add_to(app)
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(requests_app, name="data-requests")
health.add_to(app)
database.add_to(app)


@contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        out.print("Stopping ...")


def _fail(message: str) -> NoReturn:
    err.print(f"shopsync: {message}", style="red", markup=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
