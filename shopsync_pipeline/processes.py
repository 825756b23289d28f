"""The processes of this deployment: started together, kept running, and stopped together.

For `shopsync up` and the demo; elsewhere systemd, compose or Kubernetes does this.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NoReturn
from urllib.parse import urlsplit

import requests

from shopsync_pipeline import local
from shopsync_pipeline.db import server
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.settings import LOOPBACK, Settings

READY_SECONDS = 120
STOP_SECONDS = 20
LOOK_SECONDS = 0.5

CALM_SECONDS = 60.0
"""A program that ran so long may be started again at once; one that ends sooner waits twice as long
each time, at most MOST_PAUSE."""

MOST_PAUSE = 10.0

ALIVE = {"status": "alive"}
"""What a receiver's /healthz answers."""


@dataclass(kw_only=True)
class _Program:
    """`pause` is how many seconds it waits before it is started again, `again` when that is."""

    command: tuple[str, ...]
    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    started: float
    pause: float = 0.0
    again: float | None = None


class Processes:
    """Programs that belong to one command: none outlives it.

    Where the command is killed by SIGKILL, Linux ends them; elsewhere they stay and hold their
    port until somebody ends them.
    """

    def __init__(self, settings: Settings) -> None:
        self._logs = settings.home / "logs"
        self._programs: dict[str, _Program] = {}
        self._orphaned: set[int] = set()

    def start(self, name: str, *command: str, env: dict[str, str]) -> Path:
        """Run a module's command in a session of its own; its output goes to the log returned."""
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        if log.exists():  # it tells of the crash before
            log.replace(log.with_name(f"{name}.log.1"))
        self._programs[name] = _Program(
            command=command,
            env=env,
            log=log,
            process=_run(command, env, log),
            started=time.monotonic(),
        )
        return log

    def check(self) -> None:
        """Raises ConfigurationError that names a process which has ended, and its log."""
        for name, program in self._programs.items():
            if program.process.poll() is not None:
                raise ConfigurationError(_end_told(name, program))

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Raises ConfigurationError when `what` is not ready in time, or a process ends."""
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ConfigurationError(f"{what} is not ready after {READY_SECONDS} s.")
            time.sleep(local.POLL_SECONDS)

    def restart_ended(self) -> Iterator[str]:
        """Start again what has ended, and tell of each end. A run outlives its code server; its
        session is remembered for `stop`, as long as it has processes: its number is not used
        again before."""
        self._orphaned = {group for group in self._orphaned if _signal(group, 0)}
        for name, program in self._programs.items():
            now = time.monotonic()
            if program.process.poll() is None:
                continue
            if program.again is None:
                calm = now - program.started > CALM_SECONDS
                program.pause = 0.0 if calm else _next_pause(program.pause)
                program.again = now + program.pause
                self._orphaned.add(program.process.pid)
                code = program.process.returncode
                yield f"The {name} ended with code {code} and is started again (see {program.log})."
            if now >= program.again:
                program.process = _run(program.command, program.env, program.log)
                program.started, program.again = time.monotonic(), None

    def stop(self) -> None:
        """SIGTERM to each, and SIGKILL to what is left of its session after STOP_SECONDS: runs may
        take longer to end than the code server that leads them."""
        running = [program.process for program in self._programs.values()]
        groups = {*self._orphaned, *(process.pid for process in running)}
        left = {group for group in groups if _signal(group, signal.SIGTERM)}
        deadline = time.monotonic() + STOP_SECONDS
        while left and time.monotonic() < deadline:
            time.sleep(local.POLL_SECONDS)
            for process in running:
                process.poll()  # else it stays a zombie, which counts
            left = {group for group in left if _signal(group, 0)}
        for group in left:
            _signal(group, signal.SIGKILL)
        for process in running:
            process.wait()


def _next_pause(pause: float) -> float:
    return min(2 * pause or 1.0, MOST_PAUSE)


def _run(command: tuple[str, ...], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=env,
            cwd=log.parent,  # where no .env is: Dagster lets that file win over what we give
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    """In the child, before its program starts: have the kernel send SIGTERM when we die
    (prctl(2), PR_SET_PDEATHSIG)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _end_told(name: str, program: _Program) -> str:
    last = program.log.read_text(errors="replace").strip().splitlines()[-1:]
    code = program.process.returncode
    return f"The {name} ended with code {code}: {' '.join(last)} (see {program.log})"


def _signal(group: int, number: int) -> bool:
    """To a whole session, for Dagster's processes have children; whether anything of it is left.
    A number that is refused to us is another's by now, or (macOS) of zombies only."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextmanager
def deployment_running(settings: Settings) -> Iterator[Processes]:
    """The receiver and Dagster's code server, UI and daemon, ready; all stop at the end."""
    local.refuse_running(settings)
    processes = Processes(settings)
    env = local.environment(settings)
    with TemporaryDirectory(prefix="shopsync-") as folder:  # a socket's path must be short
        code = Path(folder) / "code.sock"
        workspace = str(_workspace(settings, code))
        try:
            given = local.receiver_environment(settings)
            processes.start("webhook_receiver", "webhook_receiver", env=given)
            processes.start("code_server", *_code_server(code), env=env)
            processes.wait_until(lambda: _listens(code), "Dagster's code server")
            processes.start("daemon", "dagster._daemon", "run", "-w", workspace, env=env)
            address = ("-h", "127.0.0.1", "-p", str(settings.webserver_port))
            processes.start("webserver", "dagster_webserver", "-w", workspace, *address, env=env)
            ready, ui = f"{local.receiver_url(settings)}/readyz", settings.ui_here
            processes.wait_until(lambda: _answers(ready), "The receiver")
            processes.wait_until(lambda: _answers(f"{ui}/server_info"), "The Dagster UI")
            yield processes
        finally:
            processes.stop()


def _code_server(code: Path) -> tuple[str, ...]:
    """One for daemon and UI, and ours to start again: the daemon replaces its own every minute, and
    misses one that dies until then."""
    where = ("--socket", str(code), "--location-name", "shopsync_pipeline")
    what = ("--module-name", "shopsync_pipeline.definitions", "--empty-working-directory")
    return ("shopsync_pipeline.defs.code_server", *where, *what)


def _workspace(settings: Settings, code: Path) -> Path:
    """What the project's workspace.yaml says, served by our code server."""
    served = {"host": "localhost", "socket": str(code), "location_name": "shopsync_pipeline"}
    path = local.dagster_home(settings) / "workspace.yaml"
    path.write_text(json.dumps({"load_from": [{"grpc_server": served}]}))
    return path


def keep_running(
    processes: Processes, cluster: Path | None, tell: Callable[[str], None]
) -> NoReturn:
    """Until it is interrupted, start again what ends; the Postgres in `cluster` too, if any."""
    postgres = Postgres(cluster) if cluster is not None else None
    while True:
        for told in postgres.revive() if postgres else ():
            tell(told)
        for told in processes.restart_ended():
            tell(told)
        time.sleep(LOOK_SECONDS)


@dataclass
class Postgres:
    """The embedded one, started again like a program: what hinders it (a full disk) may pass."""

    cluster: Path
    pause: float = 0.0
    again: float = 0.0

    def revive(self) -> Iterator[str]:
        """Tells when it runs again, and once why it cannot."""
        if time.monotonic() < self.again:
            return
        try:
            if server.revive(self.cluster):
                yield f"Postgres in {self.cluster} had ended and runs again."
            self.pause = 0.0
        except ConfigurationError as trouble:
            if not self.pause:
                yield f"{trouble}\nIt is tried again."
            self.pause = _next_pause(self.pause)
            self.again = time.monotonic() + self.pause


def _answers(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the environment knows no loopback
            return session.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def who_answers(url: str) -> Literal["receiver", "other", "nobody"]:
    """At a receiver's address: a receiver, something else, or nothing."""
    try:
        with requests.Session() as session:
            session.trust_env = urlsplit(url).hostname not in LOOPBACK
            answer = session.get(f"{url}/healthz", timeout=5, allow_redirects=False)
            return "receiver" if answer.json() == ALIVE else "other"
    except requests.exceptions.JSONDecodeError:
        return "other"
    except requests.RequestException:
        return "nobody"


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
