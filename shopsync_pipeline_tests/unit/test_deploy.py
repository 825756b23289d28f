"""The files under `deploy/` agree with the project's own dagster.yaml, with each other and with the
schema of compose files. That they run is another test's promise, where there is one."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from shopsync_pipeline.db.roles import DAGSTER_CONNECTIONS
from shopsync_pipeline.db.server import SETTINGS
from shopsync_pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
CELERY = ROOT / "deploy/celery"


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_celery_instance_is_the_projects_own_but_for_launcher_and_compute_logs() -> None:
    ours = loaded(ROOT / "dagster.yaml")
    theirs = loaded(CELERY / "dagster.yaml")
    assert set(theirs) - set(ours) == {"run_launcher", "compute_logs"}
    assert {name: theirs[name] for name in ours} == ours


def test_the_charts_values_say_what_the_projects_dagster_yaml_says() -> None:
    ours = loaded(ROOT / "dagster.yaml")
    values = loaded(ROOT / "deploy/helm/values.yaml")
    daemon = values["dagsterDaemon"]
    coordinator = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    limits = ours["run_coordinator"]["config"]
    # Kubernetes starts a run without a code server, so the chart knows no waiting for one.
    del limits["max_user_code_failure_retries"], limits["user_code_failure_retry_delay"]
    assert snake_case(coordinator) == limits
    monitoring = snake_case(daemon["runMonitoring"])
    assert monitoring.pop("max_resume_run_attempts") == 0
    assert monitoring == ours["run_monitoring"]
    assert snake_case(daemon["runRetries"]) == ours["run_retries"]
    assert snake_case(daemon["sensors"]) == ours["sensors"]
    assert snake_case(daemon["schedules"]) == ours["schedules"]
    retention = snake_case(values["retention"])
    assert retention["enabled"] is True
    assert retention["sensor"] == ours["retention"]["sensor"]
    each = set(retention["schedule"]["purge_after_days"].values())
    assert each == {ours["retention"]["schedule"]["purge_after_days"]}


def test_the_deployments_postgres_has_the_connections_of_the_embedded_one() -> None:
    command = loaded(CELERY / "compose.yaml")["services"]["postgres"]["command"]
    assert f"max_connections={SETTINGS['max_connections']} " in command
    script = (CELERY / "dagster-database.sh").read_text()
    assert f"CONNECTION LIMIT {DAGSTER_CONNECTIONS};" in script


def snake_case(value: Any) -> Any:
    """The chart spells Dagster's settings in camelCase."""
    if isinstance(value, dict):
        return {
            re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", k): snake_case(v)
            for k, v in value.items()
        }
    return [snake_case(each) for each in value] if isinstance(value, list) else value


def test_the_compose_file_is_valid_by_the_schema_of_compose_files() -> None:
    command = ("check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=CELERY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_one_worker_alone_has_a_slot_for_every_run_that_may_be_at_work() -> None:
    limit = loaded(CELERY / "dagster.yaml")["run_coordinator"]["config"]["max_concurrent_runs"]
    worker = loaded(CELERY / "compose.yaml")["services"]["worker"]
    slots = re.search(r"--concurrency (\d+)", worker["command"])
    assert slots is not None
    assert int(slots[1]) >= limit
    assert worker["deploy"]["replicas"] >= 2


def test_every_secret_of_the_compose_file_is_in_the_example_and_none_has_a_value() -> None:
    wanted = set(re.findall(r"\$\{(\w+):\?}", (CELERY / "compose.yaml").read_text()))
    example = (CELERY / ".env.example").read_text()
    assert wanted <= set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    assert not re.search(r"^\w+=.+$", example, re.MULTILINE)


def test_only_the_receiver_and_the_ui_have_ports_and_those_on_loopback() -> None:
    services = loaded(CELERY / "compose.yaml")["services"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    receiver, ui = Settings(home=ROOT).receiver_port, Settings(home=ROOT).webserver_port
    assert ports == {
        "receiver": [f"127.0.0.1:{receiver}:{receiver}"],
        "webserver": [f"127.0.0.1:{ui}:{ui}"],
    }


def test_the_image_takes_all_that_it_copies_from_the_project_and_runs_as_no_root() -> None:
    dockerfile = (CELERY / "Dockerfile").read_text()
    ignored = (CELERY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?:--chown\S+ )?(?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert len(names) >= 8
    for name in names:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name
    (user,) = re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE)
    assert f"useradd --uid {user} " in dockerfile
