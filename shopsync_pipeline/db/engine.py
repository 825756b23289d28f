"""Connections, transactions and Postgres's clock; what is said over them is said elsewhere.

Every connection is in autocommit: a transaction is always an explicit block. An error of
Postgres leaves this module only as DatabaseTrouble, for Postgres quotes values and rows in
its messages and those are people's data.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg_pool import ConnectionPool

from shopsync_pipeline.errors import ConfigurationError, DatabaseTrouble, RowRefused

T = TypeVar("T")
Conn = psycopg.Connection[tuple[Any, ...]]
Pool = ConnectionPool[Conn]

SCHEMES = {"postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"}
PRISMA_ONLY = {"schema", "pgbouncer", "connection_limit", "pool_timeout", "sslaccept"}
NETLOC = re.compile(r"([^@]*@)?((\[[0-9a-fA-F:.%]+\]|[^:@\[\]]*)(:[0-9]*)?(,|$))*")
TRANSACTION_TRIES = 5
STANDS_STILL = "5min"
"""Then a transaction is over whose process does nothing, and the rows it holds are free: it was
stopped, or its machine is gone. A token's renewal, which asks Shopify meanwhile, is quicker."""

ROW_ERRORS = (psycopg.DataError, psycopg.IntegrityError)


def libpq_url(url: str) -> str:
    """For psycopg 3 and libpq, from any spelling a user may have (the app's, with Prisma's
    own parameters, included). Raises ConfigurationError for another kind of database."""
    return _with_scheme(url, "postgresql")


def sqlalchemy_url(url: str) -> str:
    return _with_scheme(url, "postgresql+psycopg")


def dagster_url(url: str) -> str:
    """dagster-postgres needs psycopg 2, which a bare URL no longer means in SQLAlchemy 2.1.

    Dagster keeps times without a zone as the session has them and reads them as UTC.
    """
    parts = urlsplit(_with_scheme(url, "postgresql+psycopg2"))
    query = dict(parse_qsl(parts.query))
    if "timezone" not in query.get("options", "").lower():
        query["options"] = f"{query.get('options', '')} -c timezone=UTC".strip()
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def _with_scheme(url: str, scheme: str) -> str:
    try:
        parts = urlsplit(url)
        whole = NETLOC.fullmatch(parts.netloc) and "@" not in parts.path
    except ValueError:
        whole = None
    if not whole:  # libpq would take a part of the password for a host, and say so
        raise ConfigurationError(
            "DATABASE_URL cannot be read: special characters of its password must be "
            "percent-encoded."
        )
    if parts.scheme not in SCHEMES:
        raise ConfigurationError("DATABASE_URL must begin with postgresql://.")
    kept = [(k, v) for k, v in parse_qsl(parts.query) if k not in PRISMA_ONLY]
    return urlunsplit(parts._replace(scheme=scheme, query=urlencode(kept, quote_via=quote)))


def open_connection(url: str) -> Conn:
    """One connection, the caller's to close. Raises DatabaseTrouble where it cannot be had."""
    try:
        conn = psycopg.connect(libpq_url(url), autocommit=True, connect_timeout=10)
        _use_utc(conn)
    except psycopg.Error as error:
        raise scrubbed(error) from None
    return conn


def _use_utc(conn: Conn) -> None:
    conn.execute("SET TIME ZONE 'UTC'")


def _configure(conn: Conn) -> None:
    _use_utc(conn)
    conn.execute(
        "SELECT set_config('idle_in_transaction_session_timeout', %s, false)", [STANDS_STILL]
    )


@contextmanager
def connect(url: str) -> Iterator[Conn]:
    """One connection for a block; an error of Postgres leaves the block as DatabaseTrouble."""
    try:
        with closing(open_connection(url)) as conn:
            yield conn
    except psycopg.Error as error:
        raise scrubbed(error) from None


@contextmanager
def open_pool(url: str, *, size: int) -> Iterator[Pool]:
    """At most `size` connections, opened as they are needed and closed at the end."""
    pool: Pool = ConnectionPool(
        libpq_url(url),
        min_size=1,
        max_size=size,
        open=False,
        kwargs={"autocommit": True},
        configure=_configure,
        check=ConnectionPool.check_connection,  # Postgres may have been restarted meanwhile
        name="shopsync",
    )
    with pool:
        yield pool


def read(pool: Pool, work: Callable[[Conn], T]) -> T:
    """Run `work`, which reads, without a transaction around it. Raises DatabaseTrouble."""
    try:
        with pool.connection() as conn:
            return work(conn)
    except psycopg.Error as error:
        raise scrubbed(error) from None


def transact(pool: Pool, work: Callable[[Conn], T]) -> T:
    """Run `work` in one transaction; a deadlock or a serialization failure runs it again.

    Raises DatabaseTrouble after five of them, or at once for any other error of Postgres.
    """
    for left in reversed(range(TRANSACTION_TRIES)):
        try:
            with pool.connection() as conn, conn.transaction():
                return work(conn)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
            if not left:
                raise scrubbed(error) from None
        except psycopg.Error as error:
            raise scrubbed(error) from None
    raise AssertionError("unreachable")


def scrubbed(error: psycopg.Error) -> DatabaseTrouble:
    """What may be told of an error: class and SQLSTATE; the message only where no row or
    value can stand in it (connection trouble)."""
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return DatabaseTrouble(
            f"Postgres cannot be reached: {str(error).strip()}. Check DATABASE_URL and the server."
        )
    told = RowRefused if isinstance(error, ROW_ERRORS) else DatabaseTrouble
    return told(f"Postgres refused with {type(error).__name__} (SQLSTATE {error.sqlstate}).")


def clock(conn: Conn) -> datetime:
    """Now, on Postgres's clock, cut to the milliseconds that `timestamptz(3)` keeps."""
    row = conn.execute("SELECT date_trunc('milliseconds', clock_timestamp())").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def refuse_transaction_pooler(url: str) -> None:
    """Raises ConfigurationError behind a transaction pooler, which breaks LISTEN and session locks.

    A setting of the session is made, then another client takes the server connection: behind
    such a pooler the first client goes on with a different one, where the setting is unknown.
    """
    with connect(url) as first, connect(url) as second:
        first.execute("SELECT set_config('shopsync.session', 'kept', false)")
        with second.transaction():
            second.execute("SELECT 1")
            row = first.execute("SELECT current_setting('shopsync.session', true)").fetchone()
    if row is None or row[0] != "kept":
        raise ConfigurationError(
            "DATABASE_URL goes through a transaction pooler, which breaks LISTEN and session "
            "locks. Give the direct connection (often port 5432 in place of 6543)."
        )
