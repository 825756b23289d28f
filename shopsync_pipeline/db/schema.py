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

from shopsync_pipeline.db import roles
from shopsync_pipeline.db.engine import Conn, scrubbed, sqlalchemy_url
from shopsync_pipeline.errors import ConfigurationError, DatabaseTrouble, SchemaMismatch

VERSION_TABLE = "shopsync_schema_version"
MADE_BY = {
    "0001": ("integrations", "customers", "webhook_events", "sync_requests"),
    "0002": ("data_requests",),
    "0003": ("reconciliations",),
    "0004": ("heartbeats", "alerts", "refused_deliveries", "unheard_changes"),
    "0005": ("sync_progress",),
    "0007": ("customer_metrics",),
}
"""Our tables, by the revision that makes them."""


LOCK_TIMEOUT = "10s"
"""Whoever waits for a table has all others wait behind."""

TABLE_IS_HELD = (
    f"The upgrade waited {LOCK_TIMEOUT} for a table that another transaction holds, and gave up so "
    "that nobody has to wait behind it. What was migrated before stays. Stop what runs on this "
    "database (pg_stat_activity shows it), then run again: shopsync db upgrade"
)


def head() -> str:
    """The newest revision this release knows."""
    revision = _scripts().get_current_head()
    assert revision is not None
    return revision


def upgrade(url: str) -> None:
    """Bring the database to `head()`; two callers at once do it one after the other.

    Each revision is a transaction: where one stops, those before it stay and the next upgrade goes
    on from there.
    The receiver's role and the analysts', where they were let in before, get the rights that this
    release needs.
    Raises ConfigurationError where our names are taken, SchemaMismatch where it is ahead,
    DatabaseTrouble where a table was not to be had for LOCK_TIMEOUT.
    """
    engine: Engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with _scrubbing(), engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(hashtext('shopsync migrations'))"))
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        _refuse_what_is_not_ours(connection)
        connection.commit()
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        _let_in_again(connection)
        connection.commit()


def _let_in_again(connection: Connection) -> None:
    """The owner of the tables may do that; another deployment's role stays outside."""
    was_let_in = text(roles.RECEIVER_WAS_LET_IN)
    if connection.execute(was_let_in, {"role": roles.RECEIVER_ROLE}).scalar():
        for step in roles.receiver_grants():
            connection.exec_driver_sql(step.statement.as_string(None))
    was_let_in = text(roles.ANALYST_WAS_LET_IN)
    if connection.execute(was_let_in, {"role": roles.ANALYST_ROLE}).scalar():
        connection.exec_driver_sql(roles.analyst_grant().statement.as_string(None))


@contextmanager
def _scrubbing() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error):
            raise
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise DatabaseTrouble(TABLE_IS_HELD) from None
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
    """Of the tables that the revisions still to be run will make, none may be there."""
    exists = text("SELECT to_regclass(:name) IS NOT NULL")
    at = ""
    if connection.execute(exists, {"name": f"public.{VERSION_TABLE}"}).scalar():
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
        if found is not None and not _knows(str(found)):
            raise _ahead(str(found))
        at = str(found or "")
    pending = [name for revision, names in MADE_BY.items() if revision > at for name in names]
    taken = [n for n in pending if connection.execute(exists, {"name": f"public.{n}"}).scalar()]
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
