"""Migrations, roles and what start-up refuses, on a real Postgres."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from shopsync_pipeline.db import integrations, roles, schema, watch
from shopsync_pipeline.db.engine import Conn, connect, sqlalchemy_url
from shopsync_pipeline.db.server import ServerAddress
from shopsync_pipeline.errors import ConfigurationError, DatabaseTrouble, SchemaMismatch
from shopsync_pipeline_tests.conftest import OWNER, owner_url


@pytest.fixture
def empty(server: ServerAddress, migrated: str) -> Iterator[str]:
    """A database without tables, as an owner who is no superuser."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE empty OWNER {OWNER}")
        yield owner_url(server, "empty")
        roles.drop_databases(conn, "empty")


def test_migrations_run_once_and_again_change_nothing(empty: str) -> None:
    for _ in range(2):
        schema.upgrade(empty)
        with connect(empty) as conn:
            schema.check(conn)


def test_a_database_that_is_behind_is_refused_with_the_command(empty: str) -> None:
    with connect(empty) as conn, pytest.raises(SchemaMismatch, match="shopsync db upgrade"):
        schema.check(conn)


def test_a_database_that_is_ahead_is_refused_by_check_and_upgrade(
    conn: Conn, database_url: str
) -> None:
    conn.execute("UPDATE shopsync_schema_version SET version_num = '9999'")
    with pytest.raises(SchemaMismatch, match="9999"):
        schema.check(conn)
    with pytest.raises(SchemaMismatch, match="9999"):
        schema.upgrade(database_url)


def test_tables_of_somebody_else_are_not_touched(empty: str) -> None:
    with connect(empty) as conn:
        conn.execute("CREATE TABLE customers (id int)")
        with pytest.raises(ConfigurationError, match="customers"):
            schema.upgrade(empty)
        left = conn.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert left == (1,)


def at_revision(url: str, revision: str) -> None:
    """Bring an empty database there, as an earlier release did."""
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with engine.begin() as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_an_upgrade_names_a_table_of_somebody_else_that_only_a_later_release_has(
    empty: str,
) -> None:
    at_revision(empty, "0003")
    with connect(empty) as conn:
        conn.execute("CREATE TABLE alerts (id int)")
        with pytest.raises(ConfigurationError, match="named alerts that Shopsync did not make"):
            schema.upgrade(empty)
        conn.execute("DROP TABLE alerts")
        schema.upgrade(empty)


def test_each_table_has_the_revision_that_makes_it(conn: Conn) -> None:
    rows = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    made = [name for names in schema.MADE_BY.values() for name in names]
    assert sorted(made) == sorted({row[0] for row in rows} - {schema.VERSION_TABLE})


def test_after_the_upgrade_no_real_time_store_is_late_with_its_subscriptions(empty: str) -> None:
    at_revision(empty, "0003")
    with connect(empty) as conn:
        conn.execute(
            """INSERT INTO integrations ("organizationId", "shop", "name", "realtimeSince")
               VALUES ('o', 'a.myshopify.com', 'A', now() - interval '30 days')"""
        )
        schema.upgrade(empty)
        (store,) = watch.stores(conn)
        assert store.subscribed is not None
        assert store.subscribed.total_seconds() < 60


def test_an_upgrade_gives_a_receiver_that_was_let_in_its_new_rights(
    empty: str, server: ServerAddress
) -> None:
    at_revision(empty, "0003")
    mine = "SELECT has_column_privilege(%s, 'public.heartbeats', 'at', 'SELECT')"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        if admin.execute(roles.ROLE_EXISTS, [roles.RECEIVER_ROLE]).fetchone() is None:
            admin.execute(f"CREATE ROLE {roles.RECEIVER_ROLE} LOGIN PASSWORD 'pw'")
    with connect(empty) as conn:
        conn.execute(f'GRANT INSERT ("body") ON webhook_events TO {roles.RECEIVER_ROLE}')
        schema.upgrade(empty)
        assert conn.execute(mine, [roles.RECEIVER_ROLE]).fetchone() == (True,)


def test_an_upgrade_shows_its_new_views_to_analysts_who_were_let_in(
    empty: str, server: ServerAddress
) -> None:
    """And neither trips over another owner's view there nor shows it to them."""
    at_revision(empty, "0004")
    with psycopg.connect(server.url(empty.rsplit("/", 1)[1]), autocommit=True) as admin:
        if admin.execute(roles.ROLE_EXISTS, [roles.ANALYST_ROLE]).fetchone() is None:
            admin.execute(f"CREATE ROLE {roles.ANALYST_ROLE} NOLOGIN")
        admin.execute(f"GRANT SELECT ON analytics.customers TO {roles.ANALYST_ROLE}")
        admin.execute("CREATE VIEW analytics.foreign_view AS SELECT 1 AS one")
        schema.upgrade(empty)
        assert roles.apply(server.url(empty.rsplit("/", 1)[1]), roles.analyst_steps()) == []
        may = "SELECT has_table_privilege(%s, 'analytics.' || %s, 'SELECT')"
        for view, shown in (("customer_metrics", True), ("foreign_view", False)):
            assert admin.execute(may, [roles.ANALYST_ROLE, view]).fetchone() == (shown,)


HELD = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'customers'::regclass"
DELIVERY = """
INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId", "topic")
SELECT "id", 'o', "shop", '1', 'customers/update' FROM integrations
"""


def test_deliveries_are_stored_while_an_upgrade_waits_for_the_customers(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up in time, what was done before stays, and the next goes on from there."""
    at_revision(empty, "0004")
    monkeypatch.setattr(schema, "LOCK_TIMEOUT", "3s")
    with connect(empty) as conn, connect(empty) as reader, ThreadPoolExecutor() as pool:
        conn.execute(
            """INSERT INTO integrations ("organizationId", "shop", "name")
               VALUES ('o', 'a.myshopify.com', 'A')"""
        )
        with reader.transaction():
            reader.execute("LOCK TABLE customers IN ROW EXCLUSIVE MODE")
            upgrade = pool.submit(schema.upgrade, empty)
            while not conn.execute(HELD).fetchall():
                assert not upgrade.done()
            conn.execute("SET statement_timeout = '1s'")
            conn.execute(DELIVERY)
            with pytest.raises(DatabaseTrouble, match="another transaction holds"):
                upgrade.result()
        assert schema._revision(conn) == "0005"
        schema.upgrade(empty)
        schema.check(conn)


def test_an_upgrade_lets_no_receiver_in_that_was_not(empty: str, server: ServerAddress) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        if admin.execute(roles.ROLE_EXISTS, [roles.RECEIVER_ROLE]).fetchone() is None:
            admin.execute(f"CREATE ROLE {roles.RECEIVER_ROLE} LOGIN PASSWORD 'pw'")
    schema.upgrade(empty)
    with connect(empty) as conn:
        assert conn.execute(
            "SELECT has_column_privilege(%s, 'public.heartbeats', 'at', 'SELECT')",
            [roles.RECEIVER_ROLE],
        ).fetchone() == (False,)


def test_the_guides_sql_runs_as_it_stands(conn: Conn) -> None:
    integrations.connect(conn, organization_id="o", shop="a.myshopify.com", name="A", shop_id=1)
    rows = conn.execute(
        """SELECT name, platform, "lastSyncAt", "isActive" FROM integrations
        WHERE platform = 'SHOPIFY';"""
    ).fetchall()
    assert rows == [("A", "SHOPIFY", None, True)]


def test_ids_are_uuids_of_version_7_and_sort_by_time(conn: Conn) -> None:
    ids = [row[0] for row in conn.execute("SELECT shopsync_uuid7() FROM generate_series(1, 50)")]
    later = conn.execute("SELECT pg_sleep(0.002), shopsync_uuid7()").fetchone()
    assert all(len(i) == 36 and i[14] == "7" and i[19] in "89ab" for i in ids)
    assert len(set(ids)) == 50
    assert later is not None
    assert max(ids)[:13] < later[1][:13]


def test_the_analyst_reads_analytics_and_nothing_else(
    conn: Conn, database_url: str, server: ServerAddress
) -> None:
    name = database_url.rsplit("/", 1)[1]
    assert roles.apply(server.url(name), roles.analyst_steps()) == []
    with connect(server.url(name)) as analyst:
        analyst.execute("SET ROLE shopsync_analyst")
        analyst.execute("SELECT * FROM analytics.customers, analytics.integrations")
        for table in ("customers", "integrations", "webhook_events", "sync_requests"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                analyst.execute(f"SELECT 1 FROM {table}")
        with pytest.raises(psycopg.Error):
            analyst.execute("DELETE FROM analytics.integrations")


def test_dagsters_role_has_a_limit_and_no_right_to_customers(
    database_url: str, server: ServerAddress
) -> None:
    name = database_url.rsplit("/", 1)[1]
    assert roles.apply(server.url(name), roles.dagster_steps("pw")) == []
    with psycopg.connect(server.url(), autocommit=True) as admin:
        limit = admin.execute(
            "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'shopsync_dagster'"
        ).fetchone()
        assert limit == (roles.DAGSTER_CONNECTIONS,)
        theirs = f"postgresql://shopsync_dagster:pw@{server.host}:{server.port}/{name}"
        with connect(theirs) as dagster, pytest.raises(psycopg.errors.InsufficientPrivilege):
            dagster.execute("SELECT 1 FROM customers")
        roles.drop_databases(admin, "dagster")


def test_without_the_right_to_create_roles_the_sql_for_an_administrator_is_told(
    database_url: str, server: ServerAddress
) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS shopsync_dagster")
        left = roles.apply(database_url, roles.dagster_steps("pw"))
        assert left[0].startswith("CREATE ROLE")
        for statement in left:
            admin.execute(statement.encode())
        assert roles.apply(database_url, roles.dagster_steps("pw")) == []
        roles.drop_databases(admin, "dagster")


def test_analysts_see_no_deleted_and_no_redacted_people(conn: Conn) -> None:
    store = integrations.connect(
        conn, organization_id="o", shop="a.myshopify.com", name="A", shop_id=1
    )
    for shopify_id, mark in [(1, None), (2, "deletedAt"), (3, "redactedAt")]:
        conn.execute(
            """INSERT INTO customers ("organizationId", "integrationId", "shopifyId",
               "lastSyncedAt", "lastSyncRunId", "lastSyncVia")
               VALUES ('o', %s, %s, now(), 'run', 'PULL')""",
            [store.id, shopify_id],
        )
        if mark:
            conn.execute(
                f'UPDATE customers SET "{mark}" = now() WHERE "shopifyId" = %s', [shopify_id]
            )
    assert conn.execute("SELECT shopify_id FROM analytics.customers").fetchall() == [(1,)]


def test_a_renamed_store_keeps_its_integration(conn: Conn) -> None:
    old = integrations.connect(
        conn, organization_id="o", shop="old.myshopify.com", name="S", shop_id=7
    )
    new = integrations.connect(
        conn, organization_id="o", shop="new.myshopify.com", name="S", shop_id=7
    )
    assert (new.id, new.shop) == (old.id, "new.myshopify.com")
