"""Which tables this release needs, and how a database gets them: Alembic, called from code.

It refuses to touch tables that it did not make, and needs no superuser.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from shopsync_pipeline.db.engine import Conn, scrubbed, sqlalchemy_url
from shopsync_pipeline.errors import ConfigurationError, SchemaMismatch

VERSION_TABLE = "shopsync_schema_version"
OURS = ("integrations", "customers", "webhook_events", "sync_requests")


def head() -> str:
    """The newest revision this release knows."""
    revision = _scripts().get_current_head()
    assert revision is not None
    return revision


def upgrade(url: str) -> None:
    """Bring the database to `head()`; two callers at once do it one after the other.

    Raises ConfigurationError where our names are taken, SchemaMismatch where it is ahead.
    """
    engine: Engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with _scrubbing(), engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('shopsync migrations'))"))
        _refuse_what_is_not_ours(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _scrubbing() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error):
            raise
        raise scrubbed(error.orig) from None


def check(conn: Conn) -> None:
    """Raises SchemaMismatch unless the database is exactly at `head()`."""
    found = _revision(conn)
    if found == head():
        return
    if found is None or _knows(found):
        raise SchemaMismatch(
            f"The database is at schema {found or 'none'}, this release needs {head()}. "
            "Run: shopsync db upgrade"
        )
    raise _ahead(found)


def _ahead(found: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"The database is at schema {found}, which this release does not know (it knows {head()}): "
        "a newer release migrated it. Install that release; there is no way down."
    )


def _refuse_what_is_not_ours(connection: Connection) -> None:
    exists = text("SELECT to_regclass(:name) IS NOT NULL")
    if connection.execute(exists, {"name": f"public.{VERSION_TABLE}"}).scalar():
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
        if found is not None and not _knows(str(found)):
            raise _ahead(str(found))
        return
    taken = [n for n in OURS if connection.execute(exists, {"name": f"public.{n}"}).scalar()]
    if taken:
        raise ConfigurationError(
            f"The database already has tables named {', '.join(taken)} that Shopsync did not make. "
            "Nothing was changed. Give Shopsync a database of its own in DATABASE_URL."
        )


def _revision(conn: Conn) -> str | None:
    row = conn.execute("SELECT to_regclass(%s)", [f"public.{VERSION_TABLE}"]).fetchone()
    if row is None or row[0] is None:
        return None
    found = conn.execute("SELECT version_num FROM shopsync_schema_version").fetchone()
    return None if found is None else str(found[0])


def _knows(revision: str) -> bool:
    return any(script.revision == revision for script in _scripts().walk_revisions())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
