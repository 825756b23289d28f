"""An embedded Postgres for machines without a DATABASE_URL, shared by all commands running at once.

Its programs are those of `binaries`. The package's own get_server() is not used: it hands out dead
servers and opens the modes of parent directories. What is stored in the database is not
known here.

The directory holds `cluster/` (the data and the password), `port`, `server.log`, and locks of
flock(2), which the kernel drops however a process ends:
- `users.lock` is held shared by every command while it uses the server. The one that can make it
  exclusive on leaving was the last, and stops the server.
- `start.lock` lets one command at a time start or stop.
- `server.log` is locked by the processes of Postgres themselves, whose stdout it is: the lock is
  free exactly when none of them is left. A pid file cannot tell that, for pids are used again and
  zombies look alive.

Where the account that it runs under for root may not enter the parent directories, `cluster` is a
link to a directory below /var/lib/shopsync; no mode of a parent is ever changed.
"""

import fcntl
import hashlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import psycopg

from shopsync_pipeline.db.binaries import (
    MAJOR,
    Account,
    programs_for,
    roots_account,
    roots_place,
)
from shopsync_pipeline.db.flocks import lock, locked, open_lock, try_exclusive
from shopsync_pipeline.errors import ConfigurationError

HOST = "127.0.0.1"
USER = "postgres"
WAIT_SECONDS = 60
OWN_DATABASE = "Or set DATABASE_URL to a Postgres of your own."
TIMEOUT = f"--timeout={WAIT_SECONDS}"
OWN_FILES = ("users.lock", "start.lock", "server.log", "port", "cluster")
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    # Four pulls, two reconciles and two drains take at most 20 each, Dagster 80; the rest is for
    # the receiver, the sensors and people.
    "max_connections": "300",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    # A failed statement, the detail of an error and its very message ("invalid input syntax for
    # ...") quote rows and values, which are people's data. Of an error we tell the SQLSTATE.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """Of the superuser `postgres`; the server listens on loopback only."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    def url(self, database: str = "postgres") -> str:
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"postgresql://{login}@{self.host}:{self.port}/{quote(database, safe='')}"


@contextmanager
def embedded_server(
    directory: Path, *, options: Mapping[str, str] = NO_OPTIONS
) -> Iterator[ServerAddress]:
    """The server of this directory, made and started where need be, until the last user leaves.

    `options` are settings of Postgres; they count only when this call is the one that starts
    it. Raises ConfigurationError that names the directory and the end of the server's log.
    """
    server = _Server(directory.resolve())
    with server.explained():
        server.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        users = lock(server.directory / "users.lock", fcntl.LOCK_SH)
    try:
        with server.explained(), locked(server.directory / "start.lock"):
            address = server.join(options)
        yield address
    finally:
        try:
            with server.explained(), locked(server.directory / "start.lock"):
                if try_exclusive(users):
                    server.stop()
        finally:
            os.close(users)


def revive(directory: Path) -> bool:
    """Start a server again that ended while we use it, and say whether that was needed.

    On its old port, the only one that its users know: not while somebody else has that one, nor
    while another command starts or stops it. Raises ConfigurationError where it does not start.
    """
    server = _Server(directory.resolve())
    with server.explained(), open_lock(server.directory / "start.lock") as held:
        if not try_exclusive(held) or server.occupied():
            return False
        if _free_port(server.port()) != server.port():
            return False
        server.start(server.account(), NO_OPTIONS)
    return True


def running_port(directory: Path) -> int | None:
    """Of the server of this directory, where it runs; starts and makes nothing."""
    server = _Server(directory.resolve())
    return server.port() if server.answers() else None


@dataclass(frozen=True)
class _Server:
    """`directory` is resolved; `join` and `stop` are called under start.lock only."""

    directory: Path

    @property
    def cluster(self) -> Path:
        return self.directory / "cluster"

    @property
    def data(self) -> Path:
        return self.cluster.resolve() / "data"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def join(self, options: Mapping[str, str]) -> ServerAddress:
        if self.alive():
            return self.address()
        account = self.account()
        if not self.cluster.exists():
            self.create(account)
        self.check_version()
        return self.start(account, options)

    def alive(self) -> bool:
        """Decided by talking to it; False only when no process is left. Those that live and do not
        answer are starting, stopping, or outlive a killed postmaster or initdb: waited for."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.answers():
            if not self.occupied():
                return False
            if time.monotonic() > deadline:
                raise self.trouble(
                    f"Postgres processes run here, but none answered within {WAIT_SECONDS} s: the "
                    "server is stuck or full, or they outlived a killed one. Wait, or end them"
                )
            time.sleep(0.02)
        return True

    def address(self) -> ServerAddress:
        password = (self.cluster / "password").read_text()
        return ServerAddress(host=HOST, port=self.port(), user=USER, password=password)

    def port(self) -> int:
        """0 where none is remembered."""
        file = self.directory / "port"
        text = file.read_text().strip() if file.exists() else ""
        return int(text) if text.isascii() and text.isdigit() else 0

    def answers(self) -> bool:
        """A copied directory has the same password and port, so the data's path counts too."""
        if not (self.data / "postmaster.pid").exists() or not self.port():
            return False
        try:
            with psycopg.connect(
                self.address().url(),
                connect_timeout=2,
                sslmode="disable",
                gssencmode="disable",
                # Whoever took the port in the meantime must not be handed the password.
                require_auth="scram-sha-256",
            ) as conn:
                row = conn.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError:
            return False
        return row == (str(self.data),)

    def occupied(self) -> bool:
        """Whether any process of Postgres, a lone backend or an initdb too, is left."""
        log = self.open_log()
        try:
            return not try_exclusive(log)
        finally:
            os.close(log)

    def account(self) -> Account | None:
        """Whom Postgres runs as: for root the data's owner, or who is to own it."""
        if os.geteuid() != 0:
            return None
        if self.cluster.exists():
            status = self.cluster.stat()
            return Account(status.st_uid, status.st_gid)
        account = roots_account()
        if account is None:
            raise self.trouble(
                "Postgres refuses to run as root, and there is no account 'postgres' or "
                "'nobody' to run it under. Create one, or run as another user"
            )
        return account

    def create(self, account: Account | None) -> None:
        """All or nothing: initdb works under another name, which is then given up for the right
        one, so an interrupted one is never taken for complete."""
        if self.cluster.is_symlink():
            raise self.trouble(
                f"Its data was in {self.cluster.readlink()}, which is gone. Put it back, or "
                f"remove {self.cluster} to begin with an empty database"
            )
        parent, name = self.place(account)
        for stale in parent.glob(f"{name}-*.new"):
            shutil.rmtree(stale)
        fresh = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".new", dir=parent))
        self.initdb(account, fresh)
        if parent == self.directory:
            fresh.rename(self.cluster)
        else:
            self.cluster.symlink_to(fresh.rename(fresh.with_suffix("")))

    def place(self, account: Account | None) -> tuple[Path, str]:
        """Where the cluster may lie, and how its name begins."""
        others = [e.name for e in self.directory.iterdir() if not e.name.startswith(OWN_FILES)]
        if others:
            raise self.trouble(f"The directory holds other things ({others[0]}). Name an empty one")
        self.directory.chmod(0o700)
        if account is None:
            return self.directory, "cluster"
        if account.can_enter(self.directory.parent):
            os.chown(self.directory, -1, account.gid)
            self.directory.chmod(0o710)
            return self.directory, "cluster"
        return roots_place(), hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]

    def initdb(self, account: Account | None, fresh: Path) -> None:
        password = fresh / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        if account:
            os.chown(fresh, account.uid, account.gid)
            os.chown(password, account.uid, account.gid)
        arguments = ["--username", USER, "--pwfile", str(password), "--auth=scram-sha-256"]
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        arguments += [*locale, "--locale=C", "--no-instructions"]
        if self.run(account, fresh / "data", "initdb", *arguments) != 0:
            raise self.trouble("The database could not be created. Mend what its log says")

    def check_version(self) -> None:
        file = self.data / "PG_VERSION"
        found = file.read_text().strip() if file.exists() else "an unknown version"
        if found != MAJOR:
            raise self.trouble(
                f"The data is of Postgres {found}, this release brings Postgres {MAJOR}. Dump it "
                f"with the release of Shopsync that made it, move {self.cluster} away, and "
                "restore the dump into the new one"
            )

    def start(self, account: Account | None, options: Mapping[str, str]) -> ServerAddress:
        # None of its processes is left, so a pid in it is dead or another program's by now;
        # Postgres would refuse to start beside a living one.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        port = _free_port(self.port())
        (self.directory / "port").write_text(f"{port}\n")
        settings = {**SETTINGS, **options, "port": str(port)}
        # In quotes of ours: pg_ctl hands all of this to a shell.
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        line = shlex.join(["-D", str(self.data), *flags])
        code = self.run(account, self.data, "pg_ctl", "start", TIMEOUT, "-o", line)
        if code != 0 or not self.alive():
            raise self.trouble("The server did not start. Mend what its log says")
        return self.address()

    def stop(self) -> None:
        """Only a server that answers is signalled: only then is the pid in its file its own."""
        if self.alive():
            self.run(self.account(), self.data, "pg_ctl", "stop", "--mode=fast", TIMEOUT)
            if self.alive():
                raise self.trouble("The server did not stop. End its postgres processes")

    def run(self, account: Account | None, data: Path, program: str, *arguments: str) -> int:
        """The exit code. A session of its own, since Ctrl-C in the terminal is not for Postgres;
        an empty environment, since PG* variables would interfere and secrets are not for it."""
        log = self.open_log()
        try:
            # Passed on to what is started here; refused to a stop, which does not need it.
            try_exclusive(log)
            return subprocess.run(
                [programs_for(account) / program, *arguments],
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "PGDATA": str(data)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=False,
            ).returncode
        finally:
            os.close(log)

    def open_log(self) -> int:
        return os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def trouble(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"Embedded Postgres in {self.directory}: {what}. {OWN_DATABASE} "
            f"The end of {self.log}:\n{_tail(self.log)}"
        )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Rights and full disks, met by our own hands instead of Postgres's."""
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"Embedded Postgres in {self.directory}: {error}. Give this user the rights and "
                f"the disk the room, or remove what is in the way. {OWN_DATABASE}"
            ) from error


def _tail(log: Path) -> str:
    if not log.exists():
        return "(there is none yet)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-12:])


def _free_port(wanted: int) -> int:
    """`wanted` if nobody else has it, else (and for 0) any that is free now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
