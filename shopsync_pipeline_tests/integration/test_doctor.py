"""`shopsync doctor` on set-ups broken in one way each: it names the cause and the remedy."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.sync.subscriptions import settle_subscriptions
from shopsync_pipeline_tests import commands
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"
OTHER_KEY = "MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA="
APP_URL = "https://sync.example.com"


@pytest.fixture
def store(world: World) -> Any:
    made = world.connect("acme", SHOP)
    world.sync("acme")
    return made


def told(world: World, **environ: str) -> str:
    """Its findings, one after the other; it does not end well."""
    ours = {"RECEIVER_PORT": free_port(), "SHOPSYNC_API_TOKEN": "", "APP_URL": "", **environ}
    found = commands.told(world, "doctor", code=1, **ours)
    assert found["well"] is False
    return " | ".join(
        f"{each['what']} {'well' if each['well'] else 'trouble'} {each['told']}"
        for each in found["findings"]
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server on this machine that answers everything with `body`; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            thread.join()


def change(world: World, statement: str) -> None:
    with world.engine.pool.connection() as conn:
        conn.execute(statement)


def test_no_database_at_all(world: World) -> None:
    found = told(world, DATABASE_URL="")
    assert "There is no database here" in found
    assert "Start one: shopsync up, or set DATABASE_URL." in found


def test_a_database_that_cannot_be_reached(world: World) -> None:
    found = told(world, DATABASE_URL="postgresql://u@127.0.0.1:1/d")
    assert "database trouble" in found
    assert "reached" in found


def test_tables_of_another_release(world: World) -> None:
    change(world, "UPDATE shopsync_schema_version SET version_num = '0001'")
    found = told(world)
    assert "tables trouble The database is at schema 0001" in found
    assert "Run: shopsync db upgrade" in found


def test_no_encryption_key(world: World) -> None:
    found = told(world, SHOPSYNC_ENCRYPTION_KEY="")
    assert "SHOPSYNC_ENCRYPTION_KEY is not set. Set it, or start with `shopsync up`" in found


def test_an_encryption_key_that_is_none(world: World) -> None:
    found = told(world, SHOPSYNC_ENCRYPTION_KEY="short")
    assert "SHOPSYNC_ENCRYPTION_KEY trouble" in found


def test_another_encryption_key_than_the_stored_tokens_have(world: World, store: Any) -> None:
    found = told(world, SHOPSYNC_ENCRYPTION_KEY=OTHER_KEY)
    assert "keys trouble" in found
    assert "add the key that encrypted them behind it, or connect their stores again" in found


def test_no_store(world: World) -> None:
    assert "stores trouble none is connected; connect one: shopsync connect" in told(world)


def test_a_token_that_shopify_refuses(world: World, store: Any) -> None:
    store.credentials.replace_access_token(None)
    found = told(world)
    assert f"acme, {SHOP} trouble {SHOP}: " in found
    assert "Connect the store again with a valid token: shopsync connect." in found


def test_a_scope_that_is_gone(world: World, store: Any) -> None:
    store.change(scopes=[])
    found = told(world)
    assert f"acme, {SHOP} trouble" in found
    assert "Grant the app read_customers" in found


@pytest.mark.faults
def test_shopify_out_of_reach(world: World, store: Any) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}/{{shop}}"
    found = told(world, SHOPIFY_ENDPOINT=endpoint)
    assert f"acme, {SHOP} trouble {SHOP}: " in found
    assert "check https://www.shopifystatus.com" in found


def subscribed(world: World, app_url: str = APP_URL) -> None:
    settings = world.engine.settings
    world.engine = replace(world.engine, settings=replace(settings, app_url=app_url))
    (outcome,) = settle_subscriptions(world.engine, ["acme"], "enable")
    assert [each.state for each in outcome.stores] == ["on"]


def test_subscriptions_that_are_missing(world: World, store: Any) -> None:
    subscribed(world)
    store.unsubscribe(store.subscriptions[0]["id"])
    found = told(world, APP_URL=APP_URL)
    assert "Not subscribed: " in found
    assert "Mend them: shopsync webhooks enable acme" in found


def test_subscriptions_at_another_address(world: World, store: Any) -> None:
    """They were made by the same deployment, and somebody changed one by hand."""
    subscribed(world)
    one = store.subscriptions[0]["id"]
    store.change_subscription(one, uri="https://elsewhere.example.com/hook")
    found = told(world, APP_URL=APP_URL)
    assert "Another address, fields or filter: " in found
    assert "Mend them: shopsync webhooks enable acme" in found


def test_real_time_sync_without_an_address(world: World, store: Any) -> None:
    subscribed(world)
    found = told(world, APP_URL="")
    assert "real-time sync is on, but" in found
    assert "Set APP_URL to the https address" in found


def test_a_daemon_that_was_never_started(world: World, store: Any) -> None:
    assert "Dagster daemon trouble was never started here; start it: shopsync up" in told(world)


def test_no_receiver(world: World, store: Any) -> None:
    found = told(world)
    assert "receiver trouble nothing answers at http://127.0.0.1:" in found
    assert "; start it: shopsync up" in found


def test_a_port_that_another_program_has(world: World, store: Any) -> None:
    with answering(b"hello") as port:
        found = told(world, RECEIVER_PORT=port)
    assert f"another program answers at http://127.0.0.1:{port}" in found
    assert "stop it, or set RECEIVER_PORT" in found


def test_an_address_that_something_else_answers(world: World, store: Any) -> None:
    with answering(b'{"status": "alive"}') as port, answering(b"{}") as other:
        found = told(world, RECEIVER_PORT=port, APP_URL=f"http://127.0.0.1:{other}")
    assert f"APP_URL (http://127.0.0.1:{other}) is answered by something else" in found
    assert "set it to the receiver's public address" in found


def test_an_address_that_nothing_answers(world: World, store: Any) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with answering(b'{"status": "alive"}') as port:
        found = told(world, RECEIVER_PORT=port, APP_URL=nobody)
    assert f"nothing at APP_URL ({nobody}): is the tunnel or proxy running" in found


def test_a_paused_store_is_listed_and_no_trouble(world: World, store: Any) -> None:
    transact(
        world.engine.pool,
        lambda conn: integrations.pause(conn, organization_id="acme", shop=SHOP),
    )
    found = told(world)
    assert f"acme, {SHOP} well paused since " in found
    assert f"resume it: shopsync resume acme {SHOP}" in found


def test_what_was_found_stays_where_the_rest_cannot_be_read(world: World, store: Any) -> None:
    change(world, "ALTER TABLE heartbeats RENAME TO hidden")
    try:
        found = told(world)
    finally:
        change(world, "ALTER TABLE hidden RENAME TO heartbeats")
    assert "SHOPSYNC_API_TOKEN well" in found
    assert "database trouble " in found
    assert "Dagster daemon trouble was never started here" in found


def test_the_instance_that_dagster_home_names_is_asked_and_no_clone_is_needed(
    world: World, store: Any, tmp_path: Path
) -> None:
    (tmp_path / "dagster.yaml").touch()
    found = told(
        world,
        DAGSTER_HOME=str(tmp_path),
        DAGSTER_POSTGRES_URL=world.environ["DATABASE_URL"],
        SHOPSYNC_HOME=str(tmp_path / "home"),
    )
    assert "Dagster daemon trouble no heartbeat of " in found
    assert not (tmp_path / "home" / "dagster").exists()
