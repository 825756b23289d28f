"""A world that many short tests share."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shopify_simulator.server import running_simulator
from shopsync_pipeline.db.server import ServerAddress
from shopsync_pipeline_tests.conftest import fresh_database, fresh_world
from shopsync_pipeline_tests.world import World


@pytest.fixture(scope="module")
def shared(
    server: ServerAddress, migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One world for all: each trial has a store and an organization of its own."""
    folder: Path = tmp_path_factory.mktemp("faults")
    with (
        running_simulator() as simulator,
        fresh_database(server, migrated) as url,
        fresh_world(simulator, url, folder) as world,
    ):
        world.engine = replace(
            world.engine, settings=replace(world.engine.settings, app_url="https://sync.example")
        )
        yield world
