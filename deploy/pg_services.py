"""Run a command that speaks to both databases: `python deploy/pg_services.py [--alone] COMMAND`.

It finds the services `shopsync` and `dagster` in its PGSERVICEFILE, so that no password is an
argument, and the programs of Postgres 18 on its PATH, which read servers from 9.2 on. Where no
DATABASE_URL is set the embedded Postgres runs meanwhile. Databases are made, tables are not: a
restore brings them. With --alone it refuses while `shopsync up` or the like works in this home.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from psycopg.conninfo import conninfo_to_dict

from shopsync_pipeline import local
from shopsync_pipeline.db import roles
from shopsync_pipeline.db.binaries import programs_for
from shopsync_pipeline.db.engine import libpq_url
from shopsync_pipeline.db.server import embedded_server
from shopsync_pipeline.errors import ConfigurationError, ShopsyncError
from shopsync_pipeline.settings import Settings


@contextmanager
def both_databases(given: Settings) -> Iterator[Settings]:
    if given.database_url is not None:
        _make_dagsters(given, given.database_url)
        with local.databases(given) as settings:
            yield settings
        return
    with embedded_server(local.cluster(given)) as server:
        _make_dagsters(given, server.url())
        with local.databases(given) as settings:
            yield settings


def _make_dagsters(settings: Settings, admin_url: str) -> None:
    """Where it is not one of another address."""
    if settings.dagster_postgres_url is not None:
        return
    password = local.needed_password(settings, admin_url, roles.DAGSTER_ROLE)
    left = roles.apply(admin_url, roles.dagster_steps(password))
    if left:
        told = "As an administrator, run this first, or set DAGSTER_POSTGRES_URL:"
        raise ConfigurationError("\n".join([told, *left]))


def service(name: str, url: str) -> str:
    values = conninfo_to_dict(libpq_url(url))
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in values.items()), ""])


def main() -> int:
    given = Settings.from_env()
    alone = sys.argv[1] == "--alone"
    with (
        local.alone(given) if alone else nullcontext(),
        both_databases(given) as settings,
        TemporaryDirectory() as folder,
    ):
        assert settings.dagster_postgres_url is not None
        services = Path(folder) / "services"
        services.touch(mode=0o600)
        services.write_text(
            service("shopsync", settings.required_database_url())
            + service("dagster", settings.dagster_postgres_url)
        )
        path = f"{programs_for(None)}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PGSERVICEFILE": str(services), "PATH": path}
        return subprocess.run(sys.argv[1 + alone :], env=env, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ShopsyncError as error:
        sys.exit(str(error))
