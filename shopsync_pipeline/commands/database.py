"""`shopsync db` and `shopsync rotate-keys`: tables, roles, keys."""

from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from typing import Annotated

import typer

from shopsync_pipeline import local, secrets_file
from shopsync_pipeline.commands.shared import Json, err, examples, group, out, print_json
from shopsync_pipeline.db import locks, roles, rotation, schema
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, connect, libpq_url
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.settings import Settings

db_app = group("The tables and roles in Postgres.")


@db_app.command(epilog=examples("shopsync db upgrade"))
def upgrade(as_json: Json = False) -> None:
    """Bring the tables to this release."""
    settings = Settings.from_env()
    if settings.database_url is not None:
        schema.upgrade(settings.database_url)
    else:
        with local.databases(settings, migrate=True):
            pass
    if as_json:
        print_json({"schema": schema.head()})
    else:
        out.print(f"The tables are at schema {schema.head()}.")


@db_app.command("roles", epilog=examples("shopsync db roles", "shopsync db roles --json"))
def roles_(as_json: Json = False) -> None:
    """Create the roles and Dagster's database, or print the SQL for an administrator."""
    settings = Settings.from_env()
    left: list[str] = []
    if settings.database_url is None:
        with local.databases(settings, migrate=True):
            done = "The embedded database has its roles."
    else:
        left, done = _roles_left(settings, settings.database_url), "The roles are there."
    if as_json:
        print_json({"left": left})
        return
    if left:
        err.print("The user of DATABASE_URL may not create roles. As an administrator, run:")
    out.print("\n".join(left) if left else done, markup=False, soft_wrap=True)


def _roles_left(settings: Settings, url: str) -> list[str]:
    with connect(url) as conn:
        schema.check(conn)  # rights on tables that are not there cannot be given
    receiver = local.role_password(settings, url, roles.RECEIVER_ROLE)
    dagster = local.role_password(settings, url, roles.DAGSTER_ROLE)
    for role, password, given in (
        (roles.RECEIVER_ROLE, receiver, settings.receiver_database_url),
        (roles.DAGSTER_ROLE, dagster, settings.dagster_postgres_url),
    ):
        if password is None and given is None:
            lost = local.password_lost(settings, role)
            err.print(lost, style="yellow", markup=False, soft_wrap=True)
    steps = [
        *roles.analyst_steps(),
        *roles.receiver_steps(receiver),
        *roles.dagster_steps(dagster),
    ]
    return roles.apply(url, steps)


@db_app.command(
    "url", epilog=examples("shopsync db url", "shopsync db url --admin", "shopsync db url --json")
)
def url_(
    dagster: Annotated[bool, typer.Option("--dagster", help="Of Dagster's own database.")] = False,
    admin: Annotated[
        bool, typer.Option("--admin", help="As the embedded database's administrator.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the URL to connect to the database with, such as by psql.

    It holds a password: no other command prints one. The embedded database can be reached while
    `shopsync up` runs.
    """
    settings = Settings.from_env()
    running = local.running_database(settings) is not None
    with ExitStack() as stack:
        server = stack.enter_context(local.embedded_admin(settings)) if admin else None
        prepared = stack.enter_context(local.databases(settings))
        found = prepared.dagster_postgres_url if dagster else prepared.database_url
        if found and server:
            found = server.url(roles.DAGSTER_DATABASE if dagster else local.OWNER)
    if found is None:
        raise ConfigurationError("Dagster was never started here; start it: shopsync up")
    if not running:
        err.print("The embedded database does not run now; start it: shopsync up", style="yellow")
    plain = libpq_url(found.replace("postgresql+psycopg2://", "postgresql://"))
    if as_json:
        print_json({"url": plain, "running": running})
    else:
        print(plain)


def add_to(app: typer.Typer) -> None:
    app.add_typer(db_app, name="db")
    app.command(
        "rotate-keys", epilog=examples("shopsync rotate-keys", "shopsync rotate-keys --new")
    )(rotate_keys)


def rotate_keys(
    new: Annotated[
        bool,
        typer.Option("--new", help="Make a new key first; the one that `up` made is forgotten."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Encrypt every stored secret anew with the first key of SHOPSYNC_ENCRYPTION_KEY.

    While everything runs, once all processes know the new key besides the old one. With --new,
    for the key that `shopsync up` made and keeps, while `up` is stopped.
    """
    given = Settings.from_env()
    with (
        local.alone(given) if new else nullcontext(),
        local.databases(given) as settings,
        connect(settings.required_database_url()) as conn,
    ):
        schema.check(conn)
        if new:
            local.refuse_running(settings)
            _refuse_at_work(conn)
            settings = secrets_file.with_new_key(settings)
        cipher = Cipher(settings.required_encryption_keys())
        kinds = rotation.rotate(conn, cipher)
        left = rotation.under_old_keys(conn, cipher)
        if new and not left:
            secrets_file.without_old_keys(settings)
    if as_json:
        print_json({"kinds": [asdict(kind) for kind in kinds], "left": left})
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
