"""The roles beside the owner: who may read what, and Dagster's own database.

`shopsync_analyst` reads our views in the schema `analytics` and nothing else; grant it to people.
`shopsync_dagster` owns the database `dagster`, with a limit of connections, so that a storm of
runs cannot take those the sync needs, and no right to any table of ours.
`shopsync_receiver` is what faces the internet: it adds events and requests, reads what verifies a
delivery and what `/metrics` and the customers page tell, customers too, and changes of a store only
whether it is paused or connected. It can neither read nor write a token, nor write a customer.
"""

from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from shopsync_pipeline.db.dashboard import FIELDS
from shopsync_pipeline.db.dictionary import ANALYTICS
from shopsync_pipeline.db.engine import Conn, connect, scrubbed

DAGSTER_DATABASE = "dagster"
DAGSTER_ROLE = "shopsync_dagster"
DAGSTER_CONNECTIONS = 80
ANALYST_ROLE = "shopsync_analyst"
RECEIVER_ROLE = "shopsync_receiver"

# By table and right, the columns; what ON CONFLICT and RETURNING look at must be readable too.
RECEIVER_MAY = {
    ("integrations", "SELECT"): (
        "id organizationId shop isActive clientSecret webhookSecret lastSyncAt retryAt lastError "
        "status createdAt reconciledAt realtimeSince subscribedAt pausedAt resumedAt name "
        "customersCount inactiveSince"
    ),
    ("integrations", "UPDATE"): "pausedAt resumedAt updatedAt",
    ("customers", "SELECT"): " ".join(FIELDS),
    ("sync_progress", "SELECT"): "integrationId kind runId startedAt rows of",
    ("webhook_events", "SELECT"): (
        "id integrationId webhookId topic triggeredAt status receivedAt notBefore processedAt "
        "customerId outcome error runId"
    ),
    ("webhook_events", "INSERT"): (
        "integrationId organizationId shop webhookId eventId topic apiVersion triggeredAt body "
        "status processedAt"
    ),
    ("sync_requests", "SELECT"): (
        "id kind organizationId mode status requestedAt shop name finishedAt runId counts error"
    ),
    ("sync_requests", "INSERT"): "kind organizationId mode shop name credentials",
    ("sync_requests", "UPDATE"): "mode name credentials requestedAt",
    ("heartbeats", "SELECT"): "name since at",
    ("reconciliations", "SELECT"): (
        "id integrationId organizationId shop runId way startedAt finishedAt rowsRead missing "
        "drifted revived deleted"
    ),
    ("refused_deliveries", "SELECT"): "integrationId since lastAt count",
    ("refused_deliveries", "INSERT"): "integrationId count",
    ("refused_deliveries", "UPDATE"): "since lastAt count",
    ("shopsync_schema_version", "SELECT"): "version_num",
}
DATABASE_EXISTS = "SELECT 1 FROM pg_database WHERE datname = %s"
DATABASE_IS_SHUT = f"{DATABASE_EXISTS} AND NOT has_database_privilege('public', oid, 'CONNECT')"
RECEIVER_WAS_LET_IN = """
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role
                 AND has_any_column_privilege(oid, 'public.webhook_events', 'INSERT'))
"""
ANALYST_WAS_LET_IN = """
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role
                 AND has_table_privilege(oid, 'analytics.customers', 'SELECT'))
"""
ROLE_EXISTS = "SELECT 1 FROM pg_roles WHERE rolname = %s"

# For the passwords set next; Postgres 15 has no such setting, and keeps its 4096.
SCRAM_ITERATIONS = """
SELECT set_config('scram_iterations', {}, false) FROM pg_settings WHERE name = 'scram_iterations'
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One statement, and a query that says whether it was done already."""

    statement: sql.SQL | sql.Composed
    done: str | None = None
    arguments: tuple[str, ...] = field(default=())


def analyst_steps() -> list[Step]:
    role = sql.Identifier(ANALYST_ROLE)
    return [
        _create_role(sql.SQL("CREATE ROLE {} NOLOGIN").format(role), ANALYST_ROLE),
        _may_connect(ANALYST_ROLE),
        Step(statement=sql.SQL("GRANT USAGE ON SCHEMA analytics TO {}").format(role)),
        analyst_grant(),
    ]


def analyst_grant() -> Step:
    """The owner of our views may do it, again too. Others' in that schema are theirs to grant."""
    views = sql.SQL(", ").join(sql.Identifier("analytics", name) for name in ANALYTICS)
    grant = sql.SQL("GRANT SELECT ON {} TO {}")
    return Step(statement=grant.format(views, sql.Identifier(ANALYST_ROLE)))


def dagster_steps(password: str | None) -> list[Step]:
    """The password may be None where the role is there already; else it must be long and random.
    Dagster logs in anew for every event it writes, and the iterations that slow down the guessing
    of weak passwords would be a fifth of its CPU."""
    role = sql.Identifier(DAGSTER_ROLE)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT {}").format(
        role, sql.Literal(password), sql.Literal(DAGSTER_CONNECTIONS)
    )
    database = sql.Identifier(DAGSTER_DATABASE)
    return [
        _for_dagsters_role(sql.SQL(SCRAM_ITERATIONS).format(sql.Literal("1"))),
        _for_dagsters_role(create),
        _for_dagsters_role(sql.SQL(SCRAM_ITERATIONS).format(sql.SQL("reset_val"))),
        # Only a member of a role may give it a database; needed where the caller is no superuser.
        _for_database(sql.SQL("GRANT {} TO CURRENT_USER").format(role), DATABASE_EXISTS),
        _for_database(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role), DATABASE_EXISTS
        ),
        _for_database(
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database), DATABASE_IS_SHUT
        ),
    ]


def receiver_steps(password: str | None) -> list[Step]:
    """Run them after the migrations: they grant what the tables of this release have. The password
    may be None where the role is there already."""
    role = sql.Identifier(RECEIVER_ROLE)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password))
    return [
        _create_role(create, RECEIVER_ROLE),
        _may_connect(RECEIVER_ROLE),
        Step(statement=sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(role)),
        *receiver_grants(),
    ]


def receiver_grants() -> list[Step]:
    """The owner of the tables may make them, again too."""
    grant = sql.SQL("GRANT EXECUTE ON FUNCTION public.shopsync_deactivate(text) TO {}")
    return [
        *(_grant(right, columns, table) for (table, right), columns in RECEIVER_MAY.items()),
        Step(statement=grant.format(sql.Identifier(RECEIVER_ROLE))),
    ]


def _may_connect(role: str) -> Step:
    """To this database, which may be shut to everybody else."""
    grant = "EXECUTE format('GRANT CONNECT ON DATABASE %I TO {}', current_database())"
    block = sql.SQL(f"DO $$ BEGIN {grant}; END $$")
    return Step(statement=block.format(sql.Identifier(role)))


def _grant(right: str, columns: str, table: str) -> Step:
    return Step(
        statement=sql.SQL("GRANT {} ({}) ON {} TO {}").format(
            sql.SQL(right),
            sql.SQL(", ").join(map(sql.Identifier, columns.split())),
            sql.Identifier("public", table),
            sql.Identifier(RECEIVER_ROLE),
        )
    )


def _for_dagsters_role(statement: sql.Composed) -> Step:
    return _create_role(statement, DAGSTER_ROLE)


def _for_database(statement: sql.Composed, done: str) -> Step:
    return Step(statement=statement, done=done, arguments=(DAGSTER_DATABASE,))


def missing(conn: Conn, steps: list[Step]) -> list[Step]:
    """The steps that are still to be done, in order; those without a query always are."""
    return [
        step
        for step in steps
        if step.done is None or conn.execute(step.done, step.arguments).fetchone() is None
    ]


def apply(url: str, steps: list[Step]) -> list[str]:
    """Do what is missing. Where the user of `url` has not the right, return the SQL that an
    administrator must run instead, and an empty list otherwise."""
    with connect(url) as conn:
        left = missing(conn, steps)
        for position, step in enumerate(left):
            try:
                conn.execute(step.statement)
            except psycopg.errors.InsufficientPrivilege:
                return [step.statement.as_string(conn) + ";" for step in left[position:]]
            except psycopg.Error as error:
                raise scrubbed(error) from None
    return []


def exists(conn: Conn, role: str) -> bool:
    return conn.execute(ROLE_EXISTS, [role]).fetchone() is not None


def create_owner(conn: Conn, *, name: str, password: str) -> None:
    """The owner of our tables, no superuser, and a database of the same name, shut to others."""
    role = sql.Identifier(name)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password))
    steps = [
        _create_role(create, name),
        Step(
            statement=sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role),
            done=DATABASE_EXISTS,
            arguments=(name,),
        ),
        Step(
            statement=sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role),
            done=DATABASE_IS_SHUT,
            arguments=(name,),
        ),
    ]
    for step in missing(conn, steps):
        conn.execute(step.statement)


def drop_databases(conn: Conn, *names: str) -> None:
    """Whoever is still connected is cut off."""
    for name in names:
        database = sql.Identifier(name)
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))


def _create_role(statement: sql.SQL | sql.Composed, name: str) -> Step:
    return Step(statement=statement, done=ROLE_EXISTS, arguments=(name,))
