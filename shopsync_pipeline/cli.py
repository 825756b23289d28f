"""The command line: reads arguments, calls the engine, prints; decides nothing.

Every failure is one sentence on stderr and exit code 1. Tokens are read from a prompt, from
standard input or from the environment, never from an argument, which others could see in the
process list.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shopsync_pipeline import demo as demo_round
from shopsync_pipeline import local, processes, views
from shopsync_pipeline.db import (
    credentials,
    data_requests,
    dead_letters,
    integrations,
    locks,
    reconciliations,
    requests,
    roles,
    rotation,
    schema,
)
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.db.reconciliations import Reconciliation
from shopsync_pipeline.errors import ConfigurationError, ShopsyncError
from shopsync_pipeline.faults import told
from shopsync_pipeline.models import Credentials, SyncRequest
from shopsync_pipeline.settings import Settings, checked_organization, checked_shop
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.doctor import Finding, examine
from shopsync_pipeline.sync.organizations import open_engine

app = typer.Typer(
    help="The customers of many Shopify stores in one Postgres table.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
db_app = typer.Typer(help="The tables and roles in Postgres.", no_args_is_help=True)
app.add_typer(db_app, name="db")
webhooks_app = typer.Typer(help="Real-time sync by Shopify's webhooks.", no_args_is_help=True)
app.add_typer(webhooks_app, name="webhooks")
requests_app = typer.Typer(
    help="What people ask a store for by law: the data that is held of them.", no_args_is_help=True
)
app.add_typer(requests_app, name="data-requests")

out = Console()
err = Console(stderr=True)

PICKED_UP_WITHIN = 60.0
"""Seconds in which a running daemon starts what was asked: its tick, and a run's process."""

Organization = Annotated[str, typer.Argument(help="The organizationId, such as acme.")]
Shop = Annotated[str, typer.Argument(help="The store's domain: name.myshopify.com.")]


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


@app.command()
def up() -> None:
    """Run the database, its migrations, the receiver, the Dagster UI and daemon, until Ctrl-C."""
    given = Settings.from_env()
    with local.databases(given, migrate=True) as settings:
        out.print("Starting the receiver and Dagster ...")
        with processes.deployment_running(settings) as running:
            out.print(f"Dagster UI   {local.ui_url(settings)}")
            out.print(f"Receiver     {local.receiver_url(settings)}")
            out.print(f"Secrets      {settings.secrets_file}, as far as none were given")
            out.print(f"Logs         {settings.home / 'logs'}")
            out.print("Ctrl-C stops all. Connect a store with: shopsync connect ORG SHOP")
            cluster = None if given.database_url else local.cluster(settings)
            with _until_interrupted():
                processes.keep_running(running, cluster, out.print)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="One round, then exit.")] = False,
) -> None:
    """Three simulated stores, synced by Dagster, with live traffic until Ctrl-C."""
    with _until_interrupted():
        demo_round.run(Settings.from_env(), out, once=once)


@app.command("connect")
def connect_(
    organization: Organization,
    shop: Shop,
    client_id: Annotated[
        str | None, typer.Option(help="Of a Dev Dashboard app; then its secret is asked for.")
    ] = None,
    expiring: Annotated[
        bool, typer.Option("--expiring", help="An expiring offline token: asks for all four.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Shown in tables; else the shop's own.")] = None,
) -> None:
    """Connect a store, once Shopify has accepted its credentials.

    They are asked for, or read from SHOPIFY_ACCESS_TOKEN, SHOPIFY_CLIENT_SECRET and
    SHOPIFY_REFRESH_TOKEN.
    """
    organization, shop = checked_organization(organization), checked_shop(shop)
    held = _asked_credentials(client_id, expiring)
    with local.databases(Settings.from_env()) as settings, open_engine(settings) as engine:
        stored = connect_store(
            engine, organization_id=organization, shop=shop, held=held, name=name
        )
    out.print(
        f"Connected {stored.shop} to {organization}: {stored.customers_count} customers. "
        f"The hourly sync reads them; now: shopsync sync {organization}"
    )


@app.command()
def disconnect(organization: Organization, shop: Shop) -> None:
    """Stop syncing a store and forget its tokens; its customers stay."""
    with _tables() as conn, conn.transaction():
        found = integrations.disconnect(
            conn, organization_id=checked_organization(organization), shop=checked_shop(shop)
        )
    if not found:
        raise ConfigurationError(f"{organization} has no connected store {shop}.")
    out.print(f"Disconnected {shop} from {organization}. Its customers stay in the table.")


@app.command()
def sync(
    organizations: Annotated[
        list[str] | None, typer.Argument(help="organizationIds; none for all.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Read the whole store again.")] = False,
) -> None:
    """Have Dagster sync organizations now, and wait for the result."""
    _ask_and_follow("sync", organizations, "full" if full else "incremental")


@app.command()
def reconcile(
    organizations: Annotated[
        list[str] | None, typer.Argument(help="organizationIds; none for all.")
    ] = None,
) -> None:
    """Have Dagster read whole stores again and mend every difference; prints what was found."""
    _ask_and_follow("reconcile", organizations)


@webhooks_app.command()
def enable(
    organizations: Annotated[
        list[str] | None, typer.Argument(help="organizationIds; none for all.")
    ] = None,
) -> None:
    """Turn real-time sync on: subscribe to the webhooks of the organizations' stores."""
    _ask_and_follow("realtime", organizations)
    if Settings.from_env().webhook_secrets:
        return
    with _tables() as conn:
        unsigned = credentials.without_secret(conn)
    for organization, shop in unsigned:
        err.print(
            f"{organization}, {shop}: its webhooks cannot be verified yet and are refused. Set "
            "SHOPIFY_WEBHOOK_SECRET, its app's client secret, and start shopsync up again.",
            style="yellow",
            markup=False,
        )


@webhooks_app.command()
def dead() -> None:
    """List what could not be processed, each with its reason."""
    with _tables() as conn:
        letters = dead_letters.dead(conn)
    out.print(views.dead_letters_table(letters) if letters else "There are no dead letters.")


@webhooks_app.command()
def replay(
    events: Annotated[list[str] | None, typer.Argument(help="Ids, as `dead` lists them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> None:
    """Put dead letters back into the inbox, to be processed anew."""
    if bool(events) == every:
        raise ConfigurationError("Give the ids of dead letters, or --all.")
    with _tables() as conn, conn.transaction():
        count = dead_letters.replay(conn, events)
    if not count:
        raise ConfigurationError("There is no such dead letter. See: shopsync webhooks dead.")
    out.print(f"{count} put back. What still fails is listed again by: shopsync webhooks dead")


@requests_app.command("list")
def list_() -> None:
    """Who asked, through which store, and whether it was exported."""
    with _tables() as conn:
        filed = data_requests.everything(conn)
    out.print(views.data_requests_table(filed) if filed else "Nobody asked for their data.")


@requests_app.command()
def export(request: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")]) -> None:
    """Print as JSON what is held of the person, to be handed to the merchant."""
    with _tables() as conn:
        held = data_requests.export(conn, request)
    if held is None:
        raise ConfigurationError(
            f"There is no data request {request}. See: shopsync data-requests list."
        )
    print(json.dumps(held, indent=2, default=str, ensure_ascii=False))


@app.command()
def status() -> None:
    """How each store fares."""
    with _tables() as conn:
        stores = integrations.everything(conn)
    out.print(views.stores_table(stores))
    for store in stores:
        if store.is_active and store.last_error:
            out.print(f"{store.organization_id}: {store.last_error}", markup=False)


@app.command()
def doctor() -> None:
    """Check settings, database, keys, stores and daemon; each trouble with its remedy."""
    with local.databases(Settings.from_env()) as settings:
        findings = [*examine(settings), _daemon(settings)]
    out.print(views.findings_table(findings))
    if any(not finding.well for finding in findings):
        raise typer.Exit(1)


@app.command("rotate-keys")
def rotate_keys(
    new: Annotated[
        bool,
        typer.Option("--new", help="Make a new key first; the one that `up` made is forgotten."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Encrypt every stored secret anew with the first key of SHOPSYNC_ENCRYPTION_KEY.

    While everything runs, once all processes know the new key besides the old one. With --new,
    for the key that `shopsync up` made and keeps, while `up` is stopped.
    """
    with (
        local.databases(Settings.from_env()) as settings,
        connect(settings.required_database_url()) as conn,
    ):
        schema.check(conn)
        if new:
            processes.refuse_running(settings)
            _refuse_at_work(conn)
            settings = local.with_new_key(settings)
        cipher = Cipher(settings.required_encryption_keys())
        kinds = rotation.rotate(conn, cipher)
        left = rotation.under_old_keys(conn, cipher)
        if new and not left:
            local.without_old_keys(settings)
    if as_json:
        print(json.dumps({"kinds": [asdict(kind) for kind in kinds], "left": left}))
    else:
        out.print("\n".join(map(_rotated, kinds)), markup=False, soft_wrap=True)
    for trouble in rotation.troubles(kinds, left):
        err.print(trouble, style="red", markup=False, soft_wrap=True)
    if left:
        raise typer.Exit(1)


def _refuse_at_work(conn: Conn) -> None:
    """Raises ConfigurationError while a run lives that knows the old key only: one may outlive an
    `up` that was killed."""
    at_work = {drain.run_id for drain in locks.live_drains(conn)} | locks.live_runs(conn)
    if at_work:
        raise ConfigurationError(
            f"Runs are still at work ({', '.join(sorted(at_work))}). Wait until they have ended."
        )


def _rotated(kind: rotation.Rotation) -> str:
    return (
        f"{kind.kind}: {kind.reencrypted} encrypted anew, {kind.current} were under the first key"
        + (f", {len(kind.unreadable)} unreadable" if kind.unreadable else "")
    )


@db_app.command()
def upgrade() -> None:
    """Bring the tables to this release."""
    settings = Settings.from_env()
    if settings.database_url is not None:
        schema.upgrade(settings.database_url)
    else:
        with local.databases(settings, migrate=True):
            pass
    out.print(f"The tables are at schema {schema.head()}.")


@db_app.command("roles")
def roles_() -> None:
    """Create the roles and Dagster's database, or print the SQL for an administrator."""
    settings = Settings.from_env()
    if settings.database_url is None:
        with local.databases(settings, migrate=True):
            out.print("The embedded database has its roles.")
            return
    with connect(settings.database_url) as conn:
        schema.check(conn)  # rights on tables that are not there cannot be given
    steps = [
        *roles.analyst_steps(),
        *roles.receiver_steps(local.receiver_password(settings)),
        *roles.dagster_steps(local.dagster_password(settings)),
    ]
    left = roles.apply(settings.database_url, steps)
    if left:
        err.print("The user of DATABASE_URL may not create roles. As an administrator, run:")
    out.print("\n".join(left) if left else "The roles are there.", markup=False, soft_wrap=True)


def _daemon(settings: Settings) -> Finding:
    """Dagster is imported only here: it takes seconds, and no other command needs it."""
    from shopsync_pipeline.defs.health import silent_daemons, stopped

    if settings.dagster_postgres_url is None:
        told = "was never started here; start it: shopsync up"
        return Finding(what="Dagster daemon", well=False, told=told)
    os.environ.update(local.environment(settings))
    try:
        silent, off = silent_daemons(), stopped()
    except ConfigurationError as error:
        return Finding(what="Dagster daemon", well=False, told=str(error))
    told = f"no heartbeat of {', '.join(silent)}; start it: shopsync up" if silent else "runs"
    if off:
        told += f"; stopped in the UI, under Automation, where they are started: {', '.join(off)}"
    return Finding(what="Dagster daemon", well=not silent and not off, told=told)


def _asked_credentials(client_id: str | None, expiring: bool) -> Credentials:
    if client_id is None and not expiring:
        return Credentials(access_token=_secret("Access token", "SHOPIFY_ACCESS_TOKEN"))
    if client_id is None:
        raise ConfigurationError("An expiring token is renewed by its app: give --client-id too.")
    secret = _secret("Client secret", "SHOPIFY_CLIENT_SECRET")
    if not expiring:
        return Credentials(client_id=client_id, client_secret=secret)
    refresh = _secret("Refresh token", "SHOPIFY_REFRESH_TOKEN")
    return Credentials(client_id=client_id, client_secret=secret, refresh_token=refresh)


def _secret(label: str, variable: str) -> str:
    """From the environment, a prompt, or standard input where that is no terminal."""
    text = os.environ.get(variable)
    if text is None and sys.stdin.isatty():
        text = typer.prompt(label, hide_input=True)
    if text is None:
        text = sys.stdin.readline()
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError(f"{label}: empty, or with characters no token has.")
    return text


def _ask_and_follow(kind: str, organizations: list[str] | None, mode: str = "incremental") -> None:
    """File one request for each organization, wait, show; exit code 1 where one failed."""
    with _tables() as conn:
        wanted = organizations or integrations.organizations(conn)
        if not wanted:
            raise ConfigurationError("No store is connected. Connect one: shopsync connect.")
        filed = [
            requests.file(conn, kind=kind, organization_id=checked_organization(o), mode=mode)
            for o in wanted
        ]
        ended = _followed(conn, filed)
        found = _found(conn, ended) if kind == "reconcile" else []
    out.print(views.reconciliations_table(found) if found else views.requests_table(ended))
    failed = [request for request in ended if request.status == "failed"]
    for request in failed:
        err.print(f"{request.error}", style="red", markup=False)
    if failed:
        raise typer.Exit(1)


def _found(conn: Conn, ended: list[SyncRequest]) -> list[Reconciliation]:
    runs = [request.run_id for request in ended if request.run_id]
    organizations = [request.organization_id for request in ended if request.organization_id]
    return reconciliations.of_runs(conn, runs, organizations)


def _followed(conn: Conn, request_ids: list[str]) -> list[SyncRequest]:
    """Wait for the requests to end. Raises ConfigurationError where nobody takes them up."""
    began = time.monotonic()
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=out
    ) as progress:
        task = progress.add_task("queued")
        while True:
            found = [requests.get(conn, request_id) for request_id in request_ids]
            states = [request.status for request in found if request is not None]
            progress.update(task, description=views.progress_text(states))
            if all(state in ("succeeded", "failed") for state in states):
                return [request for request in found if request is not None]
            waiting = time.monotonic() - began
            if waiting > PICKED_UP_WITHIN and all(state == "queued" for state in states):
                raise ConfigurationError(
                    "Nothing has taken the request up. It stays queued; start the Dagster daemon: "
                    "shopsync up."
                )
            time.sleep(local.POLL_SECONDS)


@contextmanager
def _tables() -> Iterator[Conn]:
    """A connection to tables of this release."""
    with (
        local.databases(Settings.from_env()) as settings,
        connect(settings.required_database_url()) as conn,
    ):
        schema.check(conn)
        yield conn


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
