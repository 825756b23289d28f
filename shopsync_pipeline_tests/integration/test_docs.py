"""What the documents say of the tables is so, and what they say to run runs."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from shopsync_pipeline.db.binaries import programs_for
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.server import ServerAddress
from shopsync_pipeline_tests.conftest import fresh_database
from shopsync_pipeline_tests.documents import DOCS, ROOT, Block, blocks, blocks_of, code, rows
from shopsync_pipeline_tests.integration.test_receiver import TOKEN, environ_of, receiver_for
from shopsync_pipeline_tests.world import World

TABLES = DOCS / "reference/tables.md"
COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
  AND a.attnum > 0 AND NOT a.attisdropped
"""
SHORT = {"timestamp(3) with time zone": "timestamptz(3)", "character varying(32)": "varchar(32)"}
PRISMA = {
    "text": "String",
    "bigint": "BigInt",
    "integer": "Int",
    "numeric": "Decimal @db.Decimal",
    "boolean": "Boolean",
    "timestamptz(3)": "DateTime @db.Timestamptz(3)",
    "text[]": "String[]",
    "jsonb": "Json",
}
KEPT_FROM_THE_APP = {
    *("accessToken", "accessTokenExpiresAt", "refreshToken", "refreshTokenExpiresAt"),
    *("clientId", "clientSecret", "webhookSecret", "credentials", "body"),
}


def columns(conn: Conn) -> dict[str, dict[str, tuple[str, bool]]]:
    """By table and column, its type and whether it may be null."""
    found: dict[str, dict[str, tuple[str, bool]]] = defaultdict(dict)
    for table, column, kind, null in conn.execute(COLUMNS):
        found[str(table)][str(column)] = (SHORT.get(str(kind), str(kind)), bool(null))
    return found


def test_the_page_of_tables_has_every_column_with_its_type(conn: Conn) -> None:
    found = columns(conn)
    told: dict[str, dict[str, tuple[str, bool]]] = {}
    for part in re.split(r"^## ", TABLES.read_text(), flags=re.MULTILINE)[1:]:
        if name := re.match(r"`(\w+)`", part):
            cells = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (yes)? ?\|", part, re.MULTILINE)
            told[name[1]] = {column: (kind, null == "yes") for column, kind, null in cells}
    assert told == {name: found[name] for name in told}
    assert len(told) == 4
    others = {code(table)[0]: set(code(names)) for table, _, names in rows(TABLES, "table")}
    assert others == {name: set(found[name]) for name in found.keys() - told.keys()}


def test_each_model_of_the_prisma_schema_is_as_its_table(conn: Conn) -> None:
    found = columns(conn)
    text = (ROOT / "deploy/prisma/shopsync.prisma").read_text()
    models = re.findall(r"^model (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert len(models) == 4
    for name, body in models:
        (table,) = re.findall(r'@@map\("(\w+)"\)', body)
        fields = re.findall(r"^  (\w+) +(\w+(?:\[\])?)(\?)? ?(.*)$", body, re.MULTILINE)
        of_table = {f: v for f, v in found[table].items() if f not in KEPT_FROM_THE_APP}
        told = {
            field: (f"{kind} {rest.removeprefix('@id')}".strip(), null == "?")
            for field, kind, null, rest in fields
            if kind.rstrip("[]") not in dict(models)
        }
        assert told == {f: _in_prisma(*v) for f, v in of_table.items()}, name


def _in_prisma(kind: str, null: bool) -> tuple[str, bool]:
    """A list has no null there: it reads as an empty one."""
    return PRISMA[kind], null and not kind.endswith("[]")


@pytest.mark.parametrize(
    "block", blocks("sql"), ids=lambda block: f"{block.page.stem}: {block.text.split(chr(10))[0]}"
)
def test_every_statement_in_the_documents_runs(
    server: ServerAddress, migrated: str, block: Block
) -> None:
    with fresh_database(server, migrated) as url:
        admin = server.url(str(conninfo_to_dict(url)["dbname"]))
        with psycopg.connect(admin) as conn:  # never committed: roles are the whole server's
            conn.execute(block.text.encode())
            conn.rollback()


def test_the_page_of_metrics_has_every_name_and_label(
    database_url: str, conn: Conn, tmp_path: Path
) -> None:
    with receiver_for(environ_of(database_url, tmp_path), conn) as receiver:
        receiver.connect_store()
        receiver.deliver()
        text = receiver.ask("GET", "/metrics", TOKEN).text
    served = set(re.findall(r"^# TYPE (shopsync_\w+)", text, re.MULTILINE))
    page = rows(DOCS / "reference/metrics.md", "name")
    assert {code(name)[0] for name, *_ in page} == served
    labels: dict[str, set[str]] = defaultdict(set)
    for name, inside in re.findall(r"^(shopsync_\w+)\{(.*)\} ", text, re.MULTILINE):
        labels[name.removesuffix("_bucket")] |= set(re.findall(r'(\w+)="', inside))
    for name, of, _ in page:
        if seen := labels.get(code(name)[0]):
            assert set(code(of)) == seen - {"organization", "shop"}, name


def test_the_apps_stores_are_imported_as_written(
    world: World, server: ServerAddress, migrated: str
) -> None:
    (script,) = blocks_of(DOCS / "how-to/import-integrations.md")
    stores: list[Any] = [world.simulator.add_store(f"{name}.myshopify.com") for name in "abc"]
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE app")
    try:
        with psycopg.connect(server.url("app"), autocommit=True) as app:
            app.execute(
                """CREATE TABLE integrations ("organizationId" text, shop text, platform text,
                   "accessToken" text, "isActive" boolean)"""
            )
            for n, store in enumerate(stores):
                app.execute(
                    "INSERT INTO integrations VALUES (%s, %s, 'SHOPIFY', %s, true)",
                    [f"org{n}", store.shop, store.access_token if n != 1 else "refused"],
                )
        done = _run(script.text, world, server)
    finally:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("DROP DATABASE app WITH (FORCE)")
    assert "not connected: org1 b.myshopify.com" in done.stderr
    with world.engine.pool.connection() as conn:
        connected = conn.execute('SELECT "organizationId" FROM integrations ORDER BY 1').fetchall()
    assert connected == [("org0",), ("org2",)]


def _run(script: str, world: World, server: ServerAddress) -> subprocess.CompletedProcess[str]:
    """With the app's database and the project's Python in place of the examples."""
    given = script.replace("db.example.com", server.host).replace("PGUSER=app", "PGUSER=postgres")
    given = given.replace(".venv/bin/shopsync", f"{sys.executable} -m shopsync_pipeline.cli")
    return subprocess.run(
        ["/bin/sh", "-c", given],
        env={
            **os.environ,
            **world.environ,
            "PATH": f"{programs_for(None)}:{os.environ['PATH']}",
            "PGPORT": str(server.port),
            "PGPASSWORD": server.password,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
