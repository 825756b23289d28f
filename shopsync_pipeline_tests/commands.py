"""A command of `shopsync` in this process, in the environment of a World."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from shopsync_pipeline.cli import app
from shopsync_pipeline_tests.world import World


def run(world: World, *arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={**world.environ, **environ})


def told(world: World, *arguments: str, code: int = 0, **environ: str) -> Any:
    """The JSON that it prints, which is all of its standard output."""
    done = run(world, *arguments, "--json", **environ)
    assert done.exit_code == code, (done.stderr, done.exception)
    return json.loads(done.stdout)
