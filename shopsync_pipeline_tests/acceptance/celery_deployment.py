"""A deployment as `deploy/celery/` has it: Redis, two Celery workers, the daemon, the UI, the
receiver and the stores are processes of their own."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import requests as http
import yaml
from dagster import DagsterRun

from shopsync_pipeline import local
from shopsync_pipeline.db.engine import connect
from shopsync_pipeline.defs.celery_launcher import WarmWorkerLauncher
from shopsync_pipeline.processes import Processes
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.acceptance import leaks
from shopsync_pipeline_tests.acceptance.deployment import (
    SECRET,
    Deployment,
    dagster_instance,
    kill,
    simulator_running,
    wait_for,
)
from shopsync_pipeline_tests.world import free_port

DEPLOY = Path(__file__).parents[2] / "deploy/celery"
MONITORING = {"poll_interval_seconds": 2, "start_timeout_seconds": 60}


class CeleryDeployment(Deployment):
    def launcher(self) -> WarmWorkerLauncher:
        launcher = self.instance.run_launcher
        assert isinstance(launcher, WarmWorkerLauncher)
        return launcher

    def worker_of(self, run_id: str) -> str | None:
        """The Celery node that executes a run."""
        told = self.launcher().celery.AsyncResult(run_id).info
        return str(told["hostname"]) if isinstance(told, dict) else None

    def kill_worker(self, node: str) -> int:
        """SIGKILL to a worker with all its processes, as when its machine loses power."""
        name = node.split("@")[0]
        pids = [pid for pid, line in self.processes().items() if f" {name}@" in line]
        kill(*pids)
        return len(pids)

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def cron(self) -> str:
        """What the app's cron job does every hour; returns the request."""
        secret = self.settings.cron_secret
        headers = {"Authorization": f"Bearer {secret}"}
        answer = http.get(f"{self.receiver}/api/cron/shopify-sync", headers=headers, timeout=30)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["requestId"])


@contextmanager
def redis_running(folder: Path) -> Iterator[str]:
    """The URL of a Redis of our own."""
    program = shutil.which("redis-server")
    assert program, "no redis-server here: install the package redis-server (macOS: redis)"
    port, password = free_port(), "redis-password"
    config = f"port {port}\nbind 127.0.0.1\nrequirepass {password}\nsave ''\nappendonly no\n"
    (folder / "redis.conf").write_text(config)
    with (
        (folder / "redis.log").open("wb") as out,
        subprocess.Popen([program, str(folder / "redis.conf")], cwd=folder, stdout=out) as process,
    ):
        try:
            ready = "Ready to accept connections"
            wait_for(lambda: ready in (folder / "redis.log").read_text(), 30, "Redis")
            yield f"redis://:{password}@127.0.0.1:{port}/0"
        finally:
            process.terminate()


def dagster_home(folder: Path) -> Path:
    """With the deployment's own dagster.yaml, whose run monitoring looks more often."""
    home = folder / "celery"
    home.mkdir()
    config = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    config["run_monitoring"] |= MONITORING
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    return home


def compose_command(service: str) -> list[str]:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    command: str = compose["services"][service]["command"]
    return command.split()


@contextmanager
def deployed_with_celery(**environ: str) -> Iterator[CeleryDeployment]:
    """Two workers, started as compose.yaml says. `environ` is what the operator sets besides."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="shopsync-")))
        folder.chmod(0o755)  # Postgres's own account must enter it
        simulator = stack.enter_context(simulator_running(folder))
        receiver_port = str(free_port())
        given = {
            "SHOPSYNC_HOME": str(folder / "home"),
            "SHOPIFY_ENDPOINT": f"{simulator}/{{shop}}",
            "SHOPIFY_WEBHOOK_SECRET": SECRET,
            "RECEIVER_PORT": receiver_port,
            "DAGSTER_WEBSERVER_PORT": str(free_port()),
            "APP_URL": f"http://127.0.0.1:{receiver_port}",
            **environ,
        }
        settings = stack.enter_context(
            local.databases(Settings.from_env(given), migrate=True),
        )
        env = {
            **local.environment(settings),
            "DAGSTER_HOME": str(dagster_home(settings.home)),
            "CELERY_REDIS_URL": stack.enter_context(redis_running(settings.home)),
        }
        started = Processes(settings)
        stack.callback(started.stop)
        receiver = local.receiver_environment(settings)
        workspace = str(local.project_file("workspace.yaml"))
        port = str(settings.webserver_port)
        started.start("receiver", "webhook_receiver", env=receiver)
        started.start("webserver", "dagster_webserver", "-w", workspace, "-p", port, env=env)
        workers = [
            started.start(name, *compose_command("worker"), "-n", f"{name}@%h", env=env)
            for name in ("one", "two")
        ]
        started.wait_until(lambda: answers(f"{settings.ui_here}/server_info"), "The UI")
        started.wait_until(lambda: all(" ready." in log.read_text() for log in workers), "A worker")
        started.start("daemon", "dagster._daemon", "run", "-w", workspace, env=env)
        deployment = CeleryDeployment(
            settings=settings,
            simulator=simulator,
            conn=stack.enter_context(connect(settings.required_database_url())),
            instance=stack.enter_context(dagster_instance(env)),
        )
        yield deployment
        leaks.nothing_leaked(deployment)


def answers(url: str) -> bool:
    try:
        return http.get(url, timeout=2).ok
    except http.RequestException:
        return False
