"""What each role may do, asked of a real Postgres as that role: everything else is refused.

On a database as `shopsync up` makes it: its own, shut to all who were not let in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from shopsync_pipeline import local
from shopsync_pipeline.db import roles, schema
from shopsync_pipeline.db.server import ServerAddress
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.settings import Settings

NAME, PASSWORD = "house", "pw"
REFUSED = psycopg.errors.InsufficientPrivilege


@dataclass(frozen=True)
class House:
    """`tables` are all in `public`."""

    server: ServerAddress
    tables: list[str]

    def as_(self, role: str) -> psycopg.Connection[tuple[object, ...]]:
        url = f"postgresql://{role}:{PASSWORD}@{self.server.host}:{self.server.port}/{NAME}"
        return psycopg.connect(url, autocommit=True)


@pytest.fixture
def house(server: ServerAddress) -> Iterator[House]:
    """`ada` is a person who was given the analysts' role, `eve` has an account and no role."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for name in (roles.DAGSTER_ROLE, roles.RECEIVER_ROLE):  # other tests' have other passwords
            if admin.execute(roles.ROLE_EXISTS, [name]).fetchone():
                admin.execute(f"ALTER ROLE {name} PASSWORD '{PASSWORD}'")
        roles.create_owner(admin, name=NAME, password=PASSWORD)
        schema.upgrade(f"postgresql://{NAME}:{PASSWORD}@{server.host}:{server.port}/{NAME}")
        for steps in (
            roles.analyst_steps(),
            roles.receiver_steps(PASSWORD),
            roles.dagster_steps(PASSWORD),
        ):
            assert roles.apply(server.url(NAME), steps) == []
        admin.execute(f"CREATE ROLE eve LOGIN PASSWORD '{PASSWORD}'")
        admin.execute(f"CREATE ROLE ada LOGIN PASSWORD '{PASSWORD}' IN ROLE shopsync_analyst")
        with psycopg.connect(server.url(NAME)) as inside:
            found = inside.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            yield House(server, [row[0] for row in found])
        roles.drop_databases(admin, NAME, roles.DAGSTER_DATABASE)
        admin.execute(f"DROP ROLE ada, eve, {NAME}")


CREATIONS = (
    "CREATE TABLE public.mine (n int)",
    "CREATE TABLE analytics.mine (n int)",
    "CREATE TEMPORARY TABLE mine (n int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
)


def test_an_analyst_reads_the_views_and_can_neither_read_nor_make_anything_else(
    house: House,
) -> None:
    with house.as_("ada") as ada:
        for view in ("customers", "integrations"):
            ada.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier("analytics", view)))
            for statement in ("DELETE FROM {}", "UPDATE {} SET name = ''", "TRUNCATE {}"):
                with pytest.raises((REFUSED, psycopg.errors.WrongObjectType)):
                    ada.execute(sql.SQL(statement).format(sql.Identifier("analytics", view)))
        ada.execute("SELECT * FROM analytics.customer_metrics")
        assert len(house.tables) > 5
        for table in house.tables:
            for statement in (
                "SELECT 1 FROM {}",
                "DELETE FROM {}",
                "INSERT INTO {} DEFAULT VALUES",
            ):
                with pytest.raises(REFUSED):
                    ada.execute(sql.SQL(statement).format(sql.Identifier("public", table)))
        for creation in CREATIONS:
            with pytest.raises(REFUSED):
                ada.execute(creation.encode())


RECEIVER_NEVER = (
    *(f'SELECT "{name}" FROM integrations' for name in ("accessToken", "refreshToken", "clientId")),
    "SELECT * FROM integrations",
    "SELECT i::text FROM integrations i",
    "INSERT INTO integrations DEFAULT VALUES",
    'UPDATE integrations SET "clientSecret" = NULL',
    'UPDATE integrations SET "accessToken" = NULL',
    'UPDATE integrations SET "isActive" = false',
    "DELETE FROM integrations",
    'SELECT "body" FROM webhook_events',
    """UPDATE webhook_events SET "status" = 'done'""",
    "DELETE FROM webhook_events",
    "TRUNCATE webhook_events",
    'SELECT "credentials" FROM sync_requests',
    """UPDATE sync_requests SET "status" = 'succeeded'""",
    """UPDATE sync_requests SET "organizationId" = 'mine'""",
    "DELETE FROM sync_requests",
    "UPDATE shopsync_schema_version SET version_num = ''",
    "SELECT * FROM data_requests",
    """UPDATE customers SET "name" = ''""",
    "DELETE FROM customers",
    "INSERT INTO customers DEFAULT VALUES",
    "SELECT 1 FROM data_requests",
    "DELETE FROM reconciliations",
    "SELECT 1 FROM alerts",
    'UPDATE heartbeats SET "at" = now()',
    "SELECT 1 FROM analytics.customers",
)


def test_the_receiver_can_neither_read_or_write_a_token_nor_change_a_customer_or_what_it_stored(
    house: House,
) -> None:
    with house.as_(roles.RECEIVER_ROLE) as receiver:
        for statement in (*RECEIVER_NEVER, *CREATIONS):
            with pytest.raises(REFUSED):
                receiver.execute(statement.encode())


def test_dagsters_role_and_strangers_do_not_even_get_into_our_database(house: House) -> None:
    for role in (roles.DAGSTER_ROLE, "eve"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            house.as_(role)


def test_nobody_of_ours_gets_into_dagsters_database(house: House) -> None:
    for role in (roles.RECEIVER_ROLE, "ada", "eve", NAME):
        url = f"postgresql://{role}:{PASSWORD}@{house.server.host}:{house.server.port}/dagster"
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(url)


def test_no_role_is_a_superuser_or_may_make_roles_or_databases(house: House) -> None:
    with psycopg.connect(house.server.url()) as admin:
        found = admin.execute(
            """SELECT rolname FROM pg_roles
               WHERE (rolname LIKE 'shopsync%%' OR rolname = %s) AND (rolsuper OR rolcreaterole
                      OR rolcreatedb OR rolbypassrls OR rolreplication)""",
            [NAME],
        ).fetchall()
    assert found == []


def test_no_password_is_made_up_for_a_role_that_is_there(house: House, tmp_path: Path) -> None:
    """One was written down, which let nobody in."""
    url = house.server.url(NAME)
    given = {"SHOPSYNC_HOME": str(tmp_path), "DATABASE_URL": url}
    settings = Settings.from_env(given)
    made = f"ALTER ROLE {roles.RECEIVER_ROLE} PASSWORD"
    with pytest.raises(ConfigurationError, match=made), local.databases(settings, migrate=True):
        pass
    assert "PASSWORD" not in settings.secrets_file.read_text()
    other = Settings.from_env({**given, "RECEIVER_DATABASE_URL": "postgresql://r:p@h/d"})
    made = f"ALTER ROLE {roles.DAGSTER_ROLE} PASSWORD"
    with pytest.raises(ConfigurationError, match=made), local.databases(other, migrate=True):
        pass
    settings.secrets_file.write_text(
        "".join(f"{name}={PASSWORD}\n" for name in local.PASSWORDS.values())
    )
    with (
        local.databases(settings, migrate=True) as prepared,
        psycopg.connect(str(prepared.receiver_database_url)) as conn,
    ):
        assert conn.execute("SELECT current_user").fetchone() == (roles.RECEIVER_ROLE,)
