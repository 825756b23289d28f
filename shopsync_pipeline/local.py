"""This deployment on this machine: its folder, secrets, databases and processes.

For `shopsync up` and the other commands; what is deployed elsewhere gets all of it from the
environment and never comes here.
"""

import ctypes
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests
from cryptography.fernet import Fernet
from dotenv import dotenv_values

from shopsync_pipeline.db import credentials, roles, schema
from shopsync_pipeline.db.engine import connect, dagster_url, refuse_transaction_pooler
from shopsync_pipeline.db.server import embedded_server
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.settings import Settings

OWNER = "shopsync"
READY_SECONDS = 120
STOP_SECONDS = 20
POLL_SECONDS = 0.2


@contextmanager
def databases(
    settings: Settings, *, migrate: bool = False, anew: bool = False
) -> Iterator[Settings]:
    """`settings` with a database, the embedded one where none is named, running meanwhile.

    With `migrate`, tables, roles and Dagster's database are brought up to this release; with
    `anew`, an embedded database forgets what it held.
    """
    if settings.database_url is not None:
        refuse_transaction_pooler(settings.database_url)
        yield _prepared(settings, settings.database_url, migrate)
        return
    with embedded_server(settings.home / "postgres") as server:
        password = _secret(settings, "SHOPSYNC_DATABASE_PASSWORD", _token)
        with connect(server.url()) as conn:
            if anew:
                roles.drop_databases(conn, OWNER, roles.DAGSTER_DATABASE)
            roles.create_owner(conn, name=OWNER, password=password)
        owner = f"postgresql://{OWNER}:{password}@{server.host}:{server.port}/{OWNER}"
        settings = replace(settings, database_url=owner)
        yield _prepared(settings, server.url(OWNER), migrate)


def _prepared(settings: Settings, admin_url: str, migrate: bool) -> Settings:
    """`admin_url` is the same database as someone who may create roles, where we have one."""
    if migrate:
        settings = _migrated(settings, admin_url)
    if settings.dagster_postgres_url is not None:
        return replace(settings, dagster_postgres_url=dagster_url(settings.dagster_postgres_url))
    if not migrate and not _kept(settings, "SHOPSYNC_DAGSTER_PASSWORD"):
        return settings  # no Dagster was started here yet
    password = dagster_password(settings)
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
    password = receiver_password(settings)
    denied = roles.apply(admin_url, roles.receiver_steps(password))
    if settings.receiver_database_url is None and not denied:
        narrower = _on_same_server(settings, roles.RECEIVER_ROLE, password)
        settings = replace(settings, receiver_database_url=narrower)
    return replace(
        settings,
        cron_secret=settings.cron_secret or _secret(settings, "CRON_SECRET", _token),
        api_token=settings.api_token or _secret(settings, "SHOPSYNC_API_TOKEN", _token),
    )


def dagster_password(settings: Settings) -> str:
    """Of Dagster's role on our own server; made at the first need."""
    return _secret(settings, "SHOPSYNC_DAGSTER_PASSWORD", _token)


def receiver_password(settings: Settings) -> str:
    """Of the receiver's role on our own server; made at the first need."""
    return _secret(settings, "SHOPSYNC_RECEIVER_PASSWORD", _token)


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
    return _secret(settings, "SHOPSYNC_ENCRYPTION_KEY", lambda: Fernet.generate_key().decode())


def _secret(settings: Settings, name: str, make: Callable[[], str]) -> str:
    """The secret of this deployment by that name, made and kept at the first need."""
    settings.home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(settings.secrets_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two first starts at once must agree
        kept = _kept(settings, name)
        if kept:
            return kept
        value = make()
        file.write(f"{name}={value}\n")
    return value


def _kept(settings: Settings, name: str) -> str | None:
    return dotenv_values(settings.secrets_file).get(name) or None


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
    del given["DAGSTER_POSTGRES_URL"]
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


class Processes:
    """Programs that belong to one command: none outlives it, and it does not outlive one.

    Where the command is killed by SIGKILL, Linux ends them; elsewhere they stay and hold their
    port until somebody ends them.
    """

    def __init__(self, settings: Settings) -> None:
        self._logs = settings.home / "logs"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, env: dict[str, str]) -> Path:
        """Run a module's command in a session of its own; its output goes to the log returned."""
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f"{name}.log"
        with path.open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        return path

    def check(self) -> None:
        """Raises ConfigurationError that names a process which has ended, and its log."""
        for name, process in self._running.items():
            if process.poll() is not None:
                log = self._logs / f"{name}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise ConfigurationError(
                    f"The {name} ended with code {process.returncode}: {' '.join(last)} (see {log})"
                )

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Raises ConfigurationError when `what` is not ready in time, or a process ends."""
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ConfigurationError(f"{what} is not ready after {READY_SECONDS} s.")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """SIGTERM to each, and SIGKILL to what is left of its session after STOP_SECONDS."""
        for process in self._running.values():
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()


def _end_with_parent() -> None:
    """In the child, before its program starts: have the kernel send SIGTERM when we die
    (prctl(2), PR_SET_PDEATHSIG)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the whole session: Dagster's processes have children of their own."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


@contextmanager
def deployment_running(settings: Settings) -> Iterator[Processes]:
    """The receiver and Dagster's UI and daemon, ready; all stop at the end."""
    _refuse_taken(settings.webserver_port, "DAGSTER_WEBSERVER_PORT")
    _refuse_taken(settings.receiver_port, "RECEIVER_PORT")
    processes = Processes(settings)
    env = environment(settings)
    workspace = str(project_file("workspace.yaml"))
    try:
        processes.start("webhook_receiver", "webhook_receiver", env=receiver_environment(settings))
        address = ("-h", "127.0.0.1", "-p", str(settings.webserver_port))
        processes.start("webserver", "dagster_webserver", "-w", workspace, *address, env=env)
        processes.wait_until(lambda: _answers(f"{receiver_url(settings)}/readyz"), "The receiver")
        processes.wait_until(lambda: _answers(f"{ui_url(settings)}/server_info"), "The Dagster UI")
        processes.start("daemon", "dagster._daemon", "run", "-w", workspace, env=env)
        yield processes
    finally:
        processes.stop()


def receiver_url(settings: Settings) -> str:
    host = settings.receiver_host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.receiver_port}"


def ui_url(settings: Settings) -> str:
    return f"http://127.0.0.1:{settings.webserver_port}"


def _answers(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the environment knows no loopback
            return session.get(url, timeout=2).ok
    except requests.RequestException:
        return False


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
