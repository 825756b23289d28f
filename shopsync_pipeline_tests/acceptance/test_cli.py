"""The command line as a user calls it: each failure is one sentence and a non-zero exit."""

import json
import os
import subprocess
import sys
import time
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet
from rich.console import Console

from shopsync_pipeline import views
from shopsync_pipeline.db import data_requests, dead_letters, requests, status, watch
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.listing import Listing
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline_tests.world import World

pytestmark = pytest.mark.deployment

SHOP = "a.myshopify.com"


def shopsync(world: World, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shopsync_pipeline.cli", *arguments],
        env={**os.environ, **world.environ, "COLUMNS": "200", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("shopsync: ")
    assert "Traceback" not in done.stderr
    for text in told:
        assert text in done.stderr


def test_a_store_is_connected_shown_and_disconnected(world: World) -> None:
    store: Any = world.simulator.add_store(SHOP, customers=42)
    connected = shopsync(world, "connect", "acme", SHOP, SHOPIFY_ACCESS_TOKEN=store.access_token)
    assert connected.returncode == 0, connected.stderr
    assert "42 customers" in connected.stdout
    assert world.sync_one("acme").state == "synced"
    shown = shopsync(world, "status").stdout
    assert "acme" in shown
    assert SHOP in shown
    assert shopsync(world, "disconnect", "acme", SHOP).returncode == 0
    assert "left" in shopsync(world, "status").stdout
    refused(shopsync(world, "disconnect", "acme", SHOP), "no connected store")


def test_a_dev_dashboard_app_is_connected_by_its_client_credentials(world: World) -> None:
    store: Any = world.simulator.add_store(SHOP)
    secret = store.credentials.client_secret
    arguments = ("connect", "acme", SHOP, "--client-id", store.credentials.client_id)
    assert shopsync(world, *arguments, SHOPIFY_CLIENT_SECRET=secret).returncode == 0
    assert world.sync_one("acme").state == "synced"
    refused(shopsync(world, *arguments, SHOPIFY_CLIENT_SECRET="wrong"), "client id and secret")


def test_nothing_is_stored_of_a_store_that_refuses(world: World) -> None:
    world.simulator.add_store(SHOP)
    done = shopsync(world, "connect", "acme", SHOP, SHOPIFY_ACCESS_TOKEN="wrong")
    refused(done, SHOP, "refused the access token", "shopsync connect")
    assert SHOP not in shopsync(world, "status").stdout


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scopes": []}, "Grant the app read_customers"),
        ({"protected_data": "none"}, "protected customer data"),
    ],
)
def test_what_a_token_may_not_do_is_said_when_connecting(
    world: World, settings: dict[str, Any], told: str
) -> None:
    store: Any = world.simulator.add_store(SHOP, **settings)
    done = shopsync(world, "connect", "acme", SHOP, SHOPIFY_ACCESS_TOKEN=store.access_token)
    refused(done, SHOP, told)


def test_bad_input_is_named(world: World) -> None:
    token = {"SHOPIFY_ACCESS_TOKEN": "x"}
    refused(shopsync(world, "connect", "acme", "https://evil.com", **token), "evil.com")
    refused(shopsync(world, "connect", "a c", SHOP, **token), "organization id")
    refused(shopsync(world, "connect", "acme", SHOP), "Access token")
    refused(shopsync(world, "connect", "acme", "unknown.myshopify.com", **token), "404")
    refused(shopsync(world, "sync"), "No store is connected")
    refused(shopsync(world, "status", DATABASE_URL="mysql://h/d"), "DATABASE_URL")
    refused(shopsync(world, "status", DATABASE_URL="postgresql://u@127.0.0.1:1/d"), "reached")
    refused(shopsync(world, "status", ORGS_PER_RUN="many"), "ORGS_PER_RUN")


def test_a_database_that_is_behind_is_named_with_the_command_that_mends_it(world: World) -> None:
    with world.engine.pool.connection() as conn:
        conn.execute("DROP TABLE shopsync_schema_version")
    refused(shopsync(world, "status"), "shopsync db upgrade")
    refused(shopsync(world, "db", "upgrade"), "tables named integrations", "DATABASE_URL")


def test_without_the_right_to_make_roles_the_sql_for_an_administrator_is_printed(
    world: World,
) -> None:
    done = shopsync(world, "db", "roles")
    assert done.returncode == 0
    assert "CREATE DATABASE" in done.stdout


def test_a_key_that_cannot_decrypt_is_said_and_no_new_one_is_made(world: World) -> None:
    world.connect("acme", SHOP)
    refused(shopsync(world, "up", SHOPSYNC_ENCRYPTION_KEY=""), "Give the key that encrypted")
    other = "MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA="
    done = shopsync(world, "doctor", SHOPSYNC_ENCRYPTION_KEY=other)
    assert done.returncode == 1
    assert "lacks the key" in done.stdout


def test_a_fault_is_one_sentence_with_its_place_and_without_its_text(world: World) -> None:
    """A traceback ends with the exception's own text, which may quote a row or a token."""
    world.connect("acme", SHOP)
    undecodable = Fernet(world.environ["SHOPSYNC_ENCRYPTION_KEY"]).encrypt(b"secret \xff").decode()
    with world.engine.pool.connection() as conn:
        conn.execute('UPDATE integrations SET "accessToken" = %s', [undecodable])
    done = shopsync(world, "doctor")
    refused(done, "UnicodeDecodeError at shopsync_pipeline/db/credentials.py")
    assert "invalid start byte" not in done.stderr


def test_dead_letters_are_listed_with_their_reason_and_put_back(world: World) -> None:
    world.connect("acme", SHOP)
    assert "no dead letters" in shopsync(world, "webhooks", "dead").stdout
    world.hear("acme", "customers/update", b"{")
    world.drain()
    listed = shopsync(world, "webhooks", "dead").stdout
    event = world.event("acme")["id"]
    assert event in listed
    assert "not JSON" in listed
    assert "1 dead letter:" in shopsync(world, "doctor").stdout
    refused(shopsync(world, "webhooks", "replay"), "--all")
    assert "1 put back" in shopsync(world, "webhooks", "replay", event).stdout
    assert world.event("acme")["status"] == "pending"


def test_a_data_request_is_exported_as_json(world: World) -> None:
    store: Any = world.connect("acme", SHOP)
    world.sync("acme")
    person = store.customers()[0]
    body = {
        "shop_domain": SHOP,
        "customer": {"id": int(person["legacyResourceId"])},
        "data_request": {"id": 7},
    }
    world.hear("acme", "customers/data_request", body)
    world.drain()
    listed = shopsync(world, "data-requests", "list").stdout
    assert person["legacyResourceId"] in listed
    request = next(word for word in listed.split() if word.count("-") == 4)
    held = json.loads(shopsync(world, "data-requests", "export", request).stdout)
    assert held["name"] == person["displayName"]
    refused(shopsync(world, "data-requests", "export", "none"), "no data request")


LONG = ("northern-lights-trading", "northern-lights-outdoor-and-garden.myshopify.com")
LONGEST = ("o" * 64, f"{'s' * 50}.myshopify.com")


@pytest.mark.parametrize(
    ("organization", "shop"), [("acme", SHOP), LONG, LONGEST], ids=["short", "long", "longest"]
)
def test_every_id_and_shop_stands_whole_at_any_width(
    world: World, organization: str, shop: str
) -> None:
    world.connect(organization, shop)
    world.hear(organization, "customers/update", b"{")
    body = {"customer": {"id": 7767510000123}, "data_request": {"id": 7}, "shop_domain": shop}
    world.hear(organization, "customers/data_request", body)
    world.drain()
    with world.engine.pool.connection() as conn:
        stores, letters = status.stores(conn), dead_letters.dead(conn)
        (asked,) = filed = data_requests.everything(conn)
    store = {organization, shop}
    for width in (80, 110, 200):
        assert store <= whole(views.stores_table(stores), width)
        event = {letters[0].id, "customers/update"}
        assert store | event <= whole(views.dead_letters_table(letters), width)
        person = {asked.id, "7767510000123"}
        assert store | person <= whole(views.data_requests_table(filed), width)


def whole(listing: Listing, width: int) -> set[str]:
    """Its words, in lines of so many characters."""
    shown = StringIO()
    Console(file=shown, width=width).print(listing)
    assert "…" not in shown.getvalue()
    assert all(len(line) <= width for line in shown.getvalue().splitlines())
    return set(shown.getvalue().split())


def test_doctor_breaks_no_address(world: World) -> None:
    address = f"{world.simulator.url}/behind/a/proxy/with/a/rather/long/path"
    told = shopsync(world, "doctor", COLUMNS="80", APP_URL=address, RECEIVER_PORT="1").stdout
    assert f"({address})" in told.split()
    assert "…" not in told


@pytest.mark.parametrize(
    ("command", "kind"),
    [(["sync"], "sync"), (["reconcile"], "reconcile"), (["webhooks", "enable"], "realtime")],
    ids=" ".join,
)
def test_no_table_is_shown_where_nothing_was_done(
    world: World, command: list[str], kind: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "shopsync_pipeline.cli", *command, "nosuch"],
        env={**os.environ, **world.environ, "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        with world.engine.pool.connection() as conn:
            (filed,) = filed_for(conn, waiting)
            assert filed.kind == kind
            requests.finish(conn, filed.id, error="nosuch: not known.")
        shown, told = waiting.communicate(timeout=60)
    assert (waiting.returncode, shown, told) == (1, "", "nosuch: not known.\n")


def test_a_reconcile_is_asked_for_and_what_it_found_is_shown(world: World) -> None:
    store: Any = world.connect("acme", SHOP, customers=20)
    world.sync("acme")
    world.simulator.clock.advance(86400)
    store.delete(store.customers()[0]["legacyResourceId"])
    command = [sys.executable, "-m", "shopsync_pipeline.cli", "reconcile", "acme"]
    with subprocess.Popen(
        command,
        env={**os.environ, **world.environ, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as waiting:
        answer_as_dagster_does(world, waiting)
        shown, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    (line,) = [line.split() for line in shown.splitlines() if "acme" in line]
    assert line == ["acme", SHOP, "reconcile", "19", "0", "0", "0", "1"]


def answer_as_dagster_does(world: World, waiting: subprocess.Popen[str]) -> None:
    """Reconcile as soon as a request is filed, under the run's id that World gives."""
    with world.engine.pool.connection() as conn:
        filed = filed_for(conn, waiting)
        assert [(each.kind, each.organization_id) for each in filed] == [("reconcile", "acme")]
        ids = [each.id for each in filed]
        requests.begin(conn, ids, f"reconcile-{world.runs + 1}")
        (outcome,) = world.reconcile("acme")
        assert outcome.result is not None
        requests.answer(conn, ids, "acme", counts=outcome.result.counts, error=None)


def filed_for(conn: Conn, waiting: subprocess.Popen[str]) -> list[SyncRequest]:
    while not (filed := requests.unfinished(conn)):
        assert waiting.poll() is None
        time.sleep(0.01)
    return filed


def test_doctor_names_a_store_whose_webhooks_nobody_can_verify(world: World) -> None:
    world.connect("acme", SHOP)
    with world.engine.pool.connection() as conn:
        conn.execute('UPDATE integrations SET "realtimeSince" = now()')
    assert "SHOPIFY_WEBHOOK_SECRET" in shopsync(world, "doctor").stdout
    told = shopsync(world, "doctor", SHOPIFY_WEBHOOK_SECRET="secret").stdout
    assert "SHOPIFY_WEBHOOK_SECRET" not in told


def test_doctor_tells_the_ages_and_names_what_is_late_silent_or_refused(world: World) -> None:
    world.connect("acme", SHOP)
    world.sync("acme")
    with world.engine.pool.connection() as conn:
        watch.beat(conn, "webhook_sensor")
        watch.count_refused(conn, {world.integration("acme").id: 7})
        conn.execute(
            """UPDATE heartbeats SET "at" = now() - interval '3 hours', "since" = '2000-01-01'"""
        )
        conn.execute("""UPDATE integrations SET "lastSyncAt" = now() - interval '4 hours'""")
    told = " ".join(shopsync(world, "doctor", COLUMNS="400").stdout.split())
    assert "trouble webhook_sensor: ticked 3 h ago: is the daemon running" in told
    assert "well sync_request_sensor: has not ticked yet" in told
    assert "7 deliveries failed verification" in told
    assert "10 customers, synced 4 h ago" in told
    assert f"acme, {SHOP} was last synced 4 h ago." in told
    assert "well keys:" in told
    newer = f"{Fernet.generate_key().decode()},{world.environ['SHOPSYNC_ENCRYPTION_KEY']}"
    told = shopsync(world, "doctor", COLUMNS="400", SHOPSYNC_ENCRYPTION_KEY=newer).stdout
    assert "shopsync rotate-keys" in told
