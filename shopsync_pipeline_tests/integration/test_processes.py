"""The programs of `shopsync up`, as processes that are ended."""

import os
from pathlib import Path

import pytest

from shopsync_pipeline.processes import Processes
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.acceptance.deployment import wait_for

pytestmark = pytest.mark.faults


LEADER = """
import signal, subprocess, sys
subprocess.Popen([sys.executable, "-m", "run"])
signal.pause()
"""
RUN = """
import signal, sys, time
from pathlib import Path

def end(*_):
    time.sleep(1)  # what a run needs to tell of its end
    Path(__file__).with_name("ended").touch()
    sys.exit()

signal.signal(signal.SIGTERM, end)
Path(__file__).with_name("begun").touch()
signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "leader.py").write_text(LEADER)
    (tmp_path / "run.py").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_that_ends_later_than_its_code_server_is_given_its_time(
    folder: Path,
) -> None:
    """It was killed as soon as that had ended."""
    processes = Processes(Settings.from_env({"SHOPSYNC_HOME": str(folder / "home")}))
    processes.start("leader", "leader", env={**os.environ, "PYTHONPATH": str(folder)})
    wait_for((folder / "begun").exists, 20, "the run")
    processes.stop()
    assert (folder / "ended").exists()


def test_what_a_program_said_before_the_last_start_is_kept(folder: Path) -> None:
    """The next `up` erased why the one before had crashed."""
    settings = Settings.from_env({"SHOPSYNC_HOME": str(folder / "home")})
    for said in ("crashed", "fine"):
        (folder / "says.py").write_text(f"print({said!r})")
        processes = Processes(settings)
        log = processes.start("says", "says", env={**os.environ, "PYTHONPATH": str(folder)})
        wait_for(log.read_text, 20, said)
        processes.stop()
    assert log.read_text() == "fine\n"
    assert log.with_name("says.log.1").read_text() == "crashed\n"
