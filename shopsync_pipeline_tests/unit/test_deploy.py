"""The files under `deploy/` agree with the project's own dagster.yaml, with each other and with the
schema of compose files. That they run is another test's promise, where there is one."""

import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from shopsync_pipeline import local, processes
from shopsync_pipeline.db.roles import DAGSTER_CONNECTIONS
from shopsync_pipeline.db.server import SETTINGS
from shopsync_pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
CELERY = ROOT / "deploy/celery"
ONE_SERVER = ROOT / "deploy/compose"
SYSTEMD = ROOT / "deploy/systemd"
INSTALLED = "/opt/shopsync"
by_compose_file = pytest.mark.parametrize("folder", [CELERY, ONE_SERVER], ids=lambda f: f.name)


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


@by_compose_file
def test_the_deployments_postgres_has_the_connections_of_the_embedded_one(folder: Path) -> None:
    command = loaded(folder / "compose.yaml")["services"]["postgres"]["command"]
    assert f"max_connections={SETTINGS['max_connections']}" in command.split()
    script = (ROOT / "deploy/dagster-database.sh").read_text()
    assert f"CONNECTION LIMIT {DAGSTER_CONNECTIONS};" in script


def snake_case(value: Any) -> Any:
    """The chart spells Dagster's settings in camelCase."""
    if isinstance(value, dict):
        return {
            re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", k): snake_case(v)
            for k, v in value.items()
        }
    return [snake_case(each) for each in value] if isinstance(value, list) else value


@by_compose_file
def test_the_compose_file_is_valid_by_the_schema_of_compose_files(folder: Path) -> None:
    command = ("check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_one_worker_alone_has_a_slot_for_every_run_that_may_be_at_work() -> None:
    limit = loaded(CELERY / "dagster.yaml")["run_coordinator"]["config"]["max_concurrent_runs"]
    worker = loaded(CELERY / "compose.yaml")["services"]["worker"]
    slots = re.search(r"--concurrency (\d+)", worker["command"])
    assert slots is not None
    assert int(slots[1]) >= limit
    assert worker["deploy"]["replicas"] >= 2


@by_compose_file
def test_every_secret_of_the_compose_file_is_in_the_example_and_none_has_a_value(
    folder: Path,
) -> None:
    wanted = set(re.findall(r"\$\{(\w+):\?}", (folder / "compose.yaml").read_text()))
    example = (folder / ".env.example").read_text()
    assert wanted <= set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    assert not re.search(r"^\w+=.+$", example, re.MULTILINE)


@by_compose_file
def test_only_the_receiver_and_the_ui_have_ports_and_those_on_loopback(folder: Path) -> None:
    services = loaded(folder / "compose.yaml")["services"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    receiver, ui = Settings(home=ROOT).receiver_port, Settings(home=ROOT).webserver_port
    assert ports == {
        "receiver": [f"127.0.0.1:{receiver}:{receiver}"],
        "webserver": [f"127.0.0.1:{ui}:{ui}"],
    }


def test_the_image_takes_all_that_it_copies_from_the_project_and_runs_as_no_root() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?:--chown\S+ )?(?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    names = [name for line in copied for name in line.split() if "$" not in name]
    names += ["dagster.yaml", "deploy/celery/dagster.yaml"]  # ${DAGSTER_YAML}
    assert len(names) >= 12
    for name in names:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignored, name
    (user,) = re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE)
    assert f"useradd --uid {user} " in dockerfile
    (instance,) = re.findall(r"^ARG DAGSTER_YAML=(.+)$", dockerfile, re.MULTILINE)
    assert instance == "dagster.yaml"
    build = loaded(CELERY / "compose.yaml")["x-shopsync"]["build"]
    assert build["args"] == {"DAGSTER_YAML": "deploy/celery/dagster.yaml"}


def test_from_the_receivers_container_nobody_reaches_dagster() -> None:
    services = loaded(ONE_SERVER / "compose.yaml")["services"]
    near = set(services["receiver"]["networks"])
    reached = {name for name, service in services.items() if near & set(service["networks"])}
    assert reached == {"receiver", "postgres"}


def started() -> dict[str, str]:
    """By unit, its ExecStart."""
    units = {path.stem: path.read_text() for path in SYSTEMD.glob("*.service")}
    return {
        name: re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)[0] for name, text in units.items()
    }


def here(text: str) -> str:
    """As installed, but from this project and its Python."""
    return text.replace(f"{INSTALLED}/.venv", sys.prefix).replace(INSTALLED, str(ROOT))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_itself_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    units = shutil.copytree(SYSTEMD, tmp_path / "units")
    for unit in units.glob("*.service"):
        unit.write_text(here(unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", *units.glob("*.service"), units / "shopsync.target"],
        env={"SYSTEMD_UNIT_PATH": f"{units}:"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_unit_starts_a_program_that_is_there_and_with_files_that_are_there() -> None:
    commands = started()
    assert len(commands) == 5
    for unit, command in commands.items():
        program, *arguments = shlex.split(here(command))
        assert Path(program).exists(), unit
        if "-m" in arguments:
            assert find_spec(arguments[arguments.index("-m") + 1]), unit
        for file in (each for each in arguments if each.startswith(str(ROOT))):
            assert Path(file).exists(), unit


def test_units_and_compose_file_start_the_code_server_as_up_does() -> None:
    socket = Path("/run/shopsync/code.sock")
    ours = processes._code_server(socket)
    assert started()["shopsync-code"].split(" -m ")[1].split() == list(ours)
    (served,) = loaded(SYSTEMD / "workspace.yaml")["load_from"]
    (contained,) = loaded(ONE_SERVER / "workspace.yaml")["load_from"]
    server, name = contained["grpc_server"], served["grpc_server"]["location_name"]
    assert served["grpc_server"]["socket"] == str(socket)
    assert name == server["location_name"] == ours[ours.index("--location-name") + 1]
    command = loaded(ONE_SERVER / "compose.yaml")["services"][server["host"]]["command"]
    listening = ["-h", "0.0.0.0", "-p", str(server["port"])]
    assert command.split()[2:] == [ours[0], *listening, *ours[3:]]


def test_the_receivers_unit_gets_no_more_than_up_gives_it(tmp_path: Path) -> None:
    secret = "x"
    settings = Settings(
        home=tmp_path,
        database_url=secret,
        receiver_database_url=secret,
        encryption_keys=(secret,),
    )
    kept = set(local.environment(settings)) - set(local.receiver_environment(settings))
    unit = (SYSTEMD / "shopsync-receiver.service").read_text()
    (unset,) = re.findall(r"^UnsetEnvironment=(.+)$", unit, re.MULTILINE)
    assert set(unset.split()) == kept


def test_the_example_of_an_env_file_names_every_setting_with_its_default() -> None:
    source = (ROOT / "shopsync_pipeline/settings.py").read_text()
    read = set(re.findall(r'"([A-Z]{2,}(?:_[A-Z]+)+)"', source)) - {"NEXT_PUBLIC_APP_URL"}
    text = (ROOT / ".env.example").read_text()
    given = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert set(given) == read
    assert Settings.from_env(given) == Settings.from_env({})
    optional = {name for name, default in given.items() if not default}
    assert optional == {name for name in read if not _has_default(name)}


def _has_default(variable: str) -> bool:
    """What it is for the settings whose field has the name of the variable."""
    field = variable.lower().removeprefix("dagster_").removeprefix("shopsync_")
    return getattr(Settings(home=ROOT), field, None) is not None
