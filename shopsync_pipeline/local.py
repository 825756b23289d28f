"""This deployment on this machine: its folder, secrets, databases and environment.

For `shopsync up` and the other commands; what is deployed elsewhere gets all of it from the
environment and never comes here.
"""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from shopsync_pipeline import secrets_file
from shopsync_pipeline.db import credentials, roles, schema
from shopsync_pipeline.db.engine import connect, dagster_url, refuse_transaction_pooler
from shopsync_pipeline.db.flocks import open_lock, try_exclusive
from shopsync_pipeline.db.server import ServerAddress, embedded_server, running_port
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.settings import Settings

OWNER = "shopsync"
POLL_SECONDS = 0.2
PASSWORDS = {
    roles.RECEIVER_ROLE: "SHOPSYNC_RECEIVER_PASSWORD",
    roles.DAGSTER_ROLE: "SHOPSYNC_DAGSTER_PASSWORD",
}
"""Of the roles that we make, as the file of secrets names them."""

LOGINS = {
    roles.RECEIVER_ROLE: "RECEIVER_DATABASE_URL",
    roles.DAGSTER_ROLE: "DAGSTER_POSTGRES_URL",
}


@contextmanager
def databases(
    settings: Settings, *, migrate: bool = False, anew: bool = False
) -> Iterator[Settings]:
    """`settings` with a database, the embedded one where none is named, running meanwhile. Only
    with `migrate` is one made; raises ConfigurationError where there is none.

    With `migrate`, tables, roles and Dagster's database are brought up to this release; with
    `anew`, an embedded database forgets what it held.
    """
    if settings.database_url is not None:
        refuse_transaction_pooler(settings.database_url)
        yield _prepared(settings, settings.database_url, migrate)
        return
    if not migrate and not cluster(settings).exists():
        missing = cluster(settings) if settings.home.exists() else settings.home
        raise ConfigurationError(
            f"There is no database here: {_near(missing)} is missing. Start one: shopsync up, or "
            "set DATABASE_URL."
        )
    with embedded_server(cluster(settings)) as server:
        password = secrets_file.made(settings, "SHOPSYNC_DATABASE_PASSWORD", _token)
        with connect(server.url()) as conn:
            if anew:
                roles.drop_databases(conn, OWNER, roles.DAGSTER_DATABASE)
            roles.create_owner(conn, name=OWNER, password=password)
        owner = f"postgresql://{OWNER}:{password}@{server.host}:{server.port}/{OWNER}"
        settings = replace(settings, database_url=owner)
        yield _prepared(settings, server.url(OWNER), migrate)


def running_database(settings: Settings) -> str | None:
    """The URL of the database, where it can be had without starting anything."""
    if settings.database_url is not None:
        return settings.database_url
    port = running_port(cluster(settings))
    password = secrets_file.kept(settings, "SHOPSYNC_DATABASE_PASSWORD")
    if port is None or password is None:
        return None
    return f"postgresql://{OWNER}:{password}@127.0.0.1:{port}/{OWNER}"


def _near(path: Path) -> Path:
    """As one would write it from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


@contextmanager
def embedded_admin(settings: Settings) -> Iterator[ServerAddress]:
    """The embedded server, to be entered as its administrator. Raises ConfigurationError for any
    other, whose administrator we do not know."""
    if settings.database_url is not None:
        raise ConfigurationError(
            "DATABASE_URL is set. Its administrator is not ours: ask who runs that server."
        )
    with databases(settings), embedded_server(cluster(settings)) as server:
        yield server


def cluster(settings: Settings) -> Path:
    """The directory of the embedded database, where no other is named."""
    return settings.home / "postgres"


def _prepared(settings: Settings, admin_url: str, migrate: bool) -> Settings:
    """`admin_url` is the same database as someone who may create roles, where we have one."""
    if migrate:
        settings = _migrated(settings, admin_url)
    if settings.dagster_postgres_url is not None:
        return replace(settings, dagster_postgres_url=dagster_url(settings.dagster_postgres_url))
    if not migrate and not secrets_file.kept(settings, PASSWORDS[roles.DAGSTER_ROLE]):
        return settings  # no Dagster was started here yet
    password = needed_password(settings, admin_url, roles.DAGSTER_ROLE)
    if migrate and roles.apply(admin_url, roles.dagster_steps(password)):
        raise ConfigurationError(
            "The user of DATABASE_URL may not create Dagster's role and database. Have an "
            "administrator run what `shopsync db roles` prints, then set DAGSTER_POSTGRES_URL."
        )
    url = _on_same_server(settings, roles.DAGSTER_ROLE, password, roles.DAGSTER_DATABASE)
    return replace(settings, dagster_postgres_url=dagster_url(url))


def _migrated(settings: Settings, admin_url: str) -> Settings:
    """With the tables of this release, the roles, and the secrets that nobody gave."""
    url = settings.required_database_url()
    schema.upgrade(url)
    if settings.encryption_keys == ():
        settings = replace(settings, encryption_keys=(_encryption_key(settings, url),))
    roles.apply(admin_url, roles.analyst_steps())
    password = role_password(settings, admin_url, roles.RECEIVER_ROLE)
    denied = roles.apply(admin_url, roles.receiver_steps(password))
    if settings.receiver_database_url is None and not denied:
        if password is None:
            raise ConfigurationError(password_lost(settings, roles.RECEIVER_ROLE))
        narrower = _on_same_server(settings, roles.RECEIVER_ROLE, password)
        settings = replace(settings, receiver_database_url=narrower)
    return replace(
        settings,
        cron_secret=settings.cron_secret or secrets_file.made(settings, "CRON_SECRET", _token),
        api_token=settings.api_token or secrets_file.made(settings, "SHOPSYNC_API_TOKEN", _token),
    )


def role_password(settings: Settings, url: str, role: str) -> str | None:
    """The one that is kept, or a fresh one for a role that is yet to be made on the server of
    `url`. None where the role is there and its password is not kept: nobody can ask for it."""
    kept = secrets_file.kept(settings, PASSWORDS[role])
    if kept:
        return kept
    with connect(url) as conn:
        there = roles.exists(conn, role)
    return None if there else secrets_file.made(settings, PASSWORDS[role], _token)


def needed_password(settings: Settings, url: str, role: str) -> str:
    """The same; raises ConfigurationError in place of None."""
    password = role_password(settings, url, role)
    if password is None:
        raise ConfigurationError(password_lost(settings, role))
    return password


def password_lost(settings: Settings, role: str) -> str:
    return (
        f"The role {role} is there already, and its password is not in {settings.secrets_file}. "
        f"Bring that file back, or set {LOGINS[role]} to the address with it. If it is lost, have "
        f"an administrator run ALTER ROLE {role} PASSWORD '...', and put {PASSWORDS[role]}=... "
        "into the file. Other deployments on that server may use the role too."
    )


def _on_same_server(
    settings: Settings, role: str, password: str, database: str | None = None
) -> str:
    """The URL of our database, or of another on its server, for another role."""
    parts = urlsplit(settings.required_database_url())
    address = f"{role}:{password}@{parts.hostname}:{parts.port or 5432}"
    path = parts.path if database is None else f"/{database}"
    return urlunsplit(parts._replace(netloc=address, path=path))


def _token() -> str:
    return secrets.token_urlsafe()


def _encryption_key(settings: Settings, url: str) -> str:
    """A fresh key, but never for a database whose credentials another key has encrypted."""
    with connect(url) as conn:
        if credentials.any_stored(conn):
            raise ConfigurationError(
                "The database holds encrypted credentials, but SHOPSYNC_ENCRYPTION_KEY is not "
                f"set and {settings.secrets_file} has none. Give the key that encrypted them."
            )
    return secrets_file.made(settings, secrets_file.ENCRYPTION_KEY, secrets_file.fresh_key)


def environment(settings: Settings) -> dict[str, str]:
    """What every process of the deployment gets; secrets go this way and never as arguments."""
    return {
        **os.environ,
        "SHOPSYNC_HOME": str(settings.home),
        "DAGSTER_HOME": str(dagster_home(settings)),
        "DATABASE_URL": settings.required_database_url(),
        "DAGSTER_POSTGRES_URL": settings.dagster_postgres_url or "",
        "SHOPSYNC_ENCRYPTION_KEY": ",".join(settings.required_encryption_keys()),
        "SHOPIFY_ENDPOINT": settings.shopify_endpoint,
        "SHOPIFY_API_VERSION": settings.shopify_api_version,
        "ORGS_PER_RUN": str(settings.orgs_per_run),
        "APP_URL": settings.app_url or "",
        "DAGSTER_WEBSERVER_URL": settings.ui_url,
        "ALERT_WEBHOOK_URL": settings.alert_webhook_url or "",
        "WEBHOOK_LINGER_SECONDS": str(settings.webhook_linger_seconds),
        "WEBHOOK_DRAIN_MAX_SECONDS": str(settings.webhook_drain_max_seconds),
        "WEBHOOK_LEASE_SECONDS": str(settings.webhook_lease_seconds),
    }


def receiver_environment(settings: Settings) -> dict[str, str]:
    """What the receiver gets besides: its secrets, and its own role in place of the owner's."""
    given = {
        **environment(settings),
        "SHOPIFY_WEBHOOK_SECRET": ",".join(settings.webhook_secrets),
        "CRON_SECRET": settings.cron_secret or "",
        "SHOPSYNC_API_TOKEN": settings.api_token or "",
        "RECEIVER_HOST": settings.receiver_host,
        "RECEIVER_PORT": str(settings.receiver_port),
        "RECEIVER_DATABASE_URL": settings.receiver_database_url or "",
    }
    del given["DAGSTER_POSTGRES_URL"], given["ALERT_WEBHOOK_URL"]
    if settings.receiver_database_url is not None:
        del given["DATABASE_URL"]
    return given


def dagster_home(settings: Settings) -> Path:
    """The folder of Dagster's instance, with the project's dagster.yaml linked into it."""
    home = settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    link = home / "dagster.yaml"
    target = project_file("dagster.yaml")
    if not link.is_symlink() or link.readlink() != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return home


def project_file(name: str) -> Path:
    """A file at the top of the project. Raises ConfigurationError where it is not there."""
    path = Path(__file__).parent.parent / name
    if not path.exists():
        raise ConfigurationError(f"{path} is missing: run from a clone of the project.")
    return path


def receiver_url(settings: Settings) -> str:
    host = settings.receiver_host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.receiver_port}"


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """For `shopsync up`, the demo, a restore and new keys: one of them in a home at a time.

    Raises ConfigurationError where another is at work.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with open_lock(settings.home / "running.lock") as lock:
        if not try_exclusive(lock):
            raise ConfigurationError(
                f"Shopsync is at work in {_near(settings.home)}: `shopsync up`, a demo, a restore "
                "or new keys. Stop it, or wait for its end."
            )
        yield


def refuse_running(settings: Settings) -> None:
    """Raises ConfigurationError where a port of the deployment is taken."""
    _refuse_taken(settings.webserver_port, "DAGSTER_WEBSERVER_PORT")
    _refuse_taken(settings.receiver_port, "RECEIVER_PORT")


def _refuse_taken(port: int, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ConfigurationError(
                f"Port {port} is taken, by another `shopsync up` perhaps. Stop it, or set "
                f"{variable}."
            ) from None
