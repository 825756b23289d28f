"""The stage of histories."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from shopify_simulator.server import Simulator
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline_tests.histories.machine import Stage
from shopsync_pipeline_tests.histories.outside import SECRET
from shopsync_pipeline_tests.world import World


@pytest.fixture
def stage(simulator: Simulator, database_url: str, conn: Conn, tmp_path: Path) -> Iterator[Stage]:
    environ = {
        "SHOPSYNC_HOME": str(tmp_path),
        "DATABASE_URL": database_url,
        "SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "SHOPIFY_ENDPOINT": simulator.endpoint,
        "SHOPIFY_WEBHOOK_SECRET": SECRET,
    }
    logging.disable(logging.CRITICAL)  # trouble is what histories are made of
    try:
        with World.opened(simulator, environ) as world:
            yield Stage(world, conn)
    finally:
        logging.disable(logging.NOTSET)
