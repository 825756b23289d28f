"""`shopsync rotate-keys`: every stored secret under the first key, whatever goes on meanwhile."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from shopsync_pipeline import local
from shopsync_pipeline.db import credentials, integrations, requests, rotation
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.db.requests import NewCredentials
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.acceptance.test_cli import refused, shopsync
from shopsync_pipeline_tests.world import World, free_port

pytestmark = pytest.mark.faults


SHOP = "a.myshopify.com"
HELD = Credentials(
    access_token="shpat_a",
    client_id="app",
    client_secret="shpss_a",
    refresh_token="shprt_a",
    webhook_secret="whsec_a",
)


@pytest.fixture
def keys(world: World) -> tuple[str, str]:
    """The new one and the old one; the latter encrypts at first."""
    return Fernet.generate_key().decode(), world.environ["SHOPSYNC_ENCRYPTION_KEY"]


def add_stores(conn: Conn, cipher: Cipher, count: int) -> list[str]:
    ids = []
    for number in range(count):
        organization, shop = f"org-{number}", f"s{number}.myshopify.com"
        store = integrations.connect(
            conn, organization_id=organization, shop=shop, name=shop, shop_id=number + 1
        )
        credentials.store(conn, cipher, store.id, HELD)
        ids.append(store.id)
    return ids


def bring(conn: Conn, cipher: Cipher, held: Credentials = HELD) -> str:
    new = NewCredentials(shop=SHOP, name=None, sealed=cipher.seal(held))
    return requests.file(conn, kind="sync", organization_id="waits", bring=new)


def brought(conn: Conn, cipher: Cipher, request_id: str) -> Credentials:
    ((_, _, new),) = requests.brought(conn, [request_id])
    return cipher.unseal(new.sealed)


def encrypted_anew(told: list[rotation.Rotation]) -> int:
    return sum(kind.reencrypted for kind in told)


def test_every_secret_is_read_by_the_first_key_alone_and_a_second_rotation_writes_nothing(
    world: World, conn: Conn, keys: tuple[str, str]
) -> None:
    ids = add_stores(conn, world.engine.cipher, 3)
    request = bring(conn, world.engine.cipher)
    integrations.disconnect(conn, organization_id="org-2", shop="s2.myshopify.com")
    before = conn.execute('SELECT "id", "updatedAt" FROM integrations ORDER BY 1').fetchall()
    both, new = Cipher(keys), Cipher(keys[:1])
    assert rotation.under_old_keys(conn, both) == 4 + 4 + 2 + 1
    assert encrypted_anew(rotation.rotate(conn, both)) == 4 + 4 + 2 + 1
    assert rotation.under_old_keys(conn, both) == 0
    assert credentials.load(conn, new, ids[0]) == HELD
    left = replace(HELD, access_token=None, refresh_token=None)
    assert credentials.load(conn, new, ids[2]) == left
    assert brought(conn, new, request) == HELD
    again = rotation.rotate(conn, both)
    assert (encrypted_anew(again), sum(kind.current for kind in again)) == (0, 11)
    after = conn.execute('SELECT "id", "updatedAt" FROM integrations ORDER BY 1').fetchall()
    assert after == before  # nothing about the stores changed


def test_everything_that_is_encrypted_is_rotated(conn: Conn) -> None:
    """A column of a later release must be named in SEALED too."""
    columns = conn.execute(
        """SELECT table_name, column_name FROM information_schema.columns
           WHERE table_schema = 'public' AND column_name ~ '(oken|ecret|redentials)$'"""
    ).fetchall()
    sealed = {(table, column) for table, all_ in rotation.SEALED.items() for column in all_}
    assert set(columns) == sealed


@contextmanager
def in_a_thread(work: Any) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def test_a_token_that_is_renewed_at_the_same_moment_is_never_written_over(
    world: World, conn: Conn, keys: tuple[str, str], database_url: str
) -> None:
    """The renewal holds the row while it asks Shopify; the rotation read the row before that."""
    (store,) = add_stores(conn, world.engine.cipher, 1)
    both = Cipher(keys)
    renewed = replace(HELD, access_token="shpat_b", refresh_token="shprt_b")

    def rotate() -> None:
        with connect(database_url) as other:
            rotation.rotate(other, both)

    with ExitStack() as stack, conn.transaction():
        integrations.hold(conn, store)
        with connect(database_url) as watching:
            waiting = stack.enter_context(in_a_thread(rotate))
            while not watching.execute(
                """SELECT 1 FROM pg_stat_activity
                   WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE "integrations"%'"""
            ).fetchone():
                assert waiting.is_alive()
        credentials.store(conn, world.engine.cipher, store, renewed)
    assert credentials.load(conn, Cipher(keys[:1]), store) == renewed


def test_pulls_and_drains_whose_tokens_are_renewed_all_the_time_never_fail_while_keys_rotate(
    world: World, keys: tuple[str, str], database_url: str
) -> None:
    store = world.connect("acme", SHOP, refresh_token="shprt_first", token_lifetime_seconds=60)
    world.engine = replace(world.engine, cipher=Cipher(keys))
    app = store.credentials
    held = Credentials(
        client_id=app.client_id, client_secret=app.client_secret, refresh_token="shprt_first"
    )
    with connect(database_url) as conn:
        credentials.store(conn, world.engine.cipher, world.integration("acme").id, held)
    over, rotated = threading.Event(), []

    def rotate() -> None:
        """To and fro, as if each run were the first after a new key."""
        with connect(database_url) as other:
            ciphers = itertools.cycle([Cipher(keys), Cipher(keys[::-1])])
            while not over.is_set():
                rotated.append(encrypted_anew(rotation.rotate(other, next(ciphers))))

    with in_a_thread(rotate):
        try:
            for number in range(25):
                customer = store.customers()[number % 10]
                store.edit(customer["id"], note=f"edit {number}")
                world.hear("acme", "customers/update", {"id": int(customer["legacyResourceId"])})
                world.drain()
                assert world.sync_one("acme").state == "synced"
        finally:
            over.set()
    assert {event["status"] for event in world.events("acme")} == {"done"}
    assert world.differences("acme", store) == []
    assert sum(request["operation"] == "oauth" for request in store.requests) >= 25
    assert sum(rotated) > 50
    assert world.integration("acme").last_error is None


def test_a_rotation_is_no_sign_that_a_store_was_connected_anew(
    world: World, keys: tuple[str, str], database_url: str
) -> None:
    """An uninstall was put off for five minutes since the encrypted token had become another
    text while Shopify was asked."""
    store = world.connect("acme", SHOP)
    world.engine = replace(world.engine, cipher=Cipher(keys))
    body = {"id": store.shop_id, "myshopify_domain": SHOP}
    world.hear("acme", "app/uninstalled", body)
    store.uninstall()
    store.fault("status", status=500)  # so that the probe waits before it is refused
    rotated = []

    def rotate() -> None:
        with connect(database_url) as conn:
            rotated.append(encrypted_anew(rotation.rotate(conn, Cipher(keys))))

    world.time.on_sleep = rotate
    world.drain()
    assert rotated[0] == 1
    assert world.event("acme")["outcome"] == "uninstalled"


def test_a_rotation_that_is_killed_is_ended_by_the_next(
    world: World, conn: Conn, keys: tuple[str, str]
) -> None:
    count = 1500
    add_stores(conn, world.engine.cipher, count)
    new = Cipher(keys[:1])
    environ = {**os.environ, **world.environ, "SHOPSYNC_ENCRYPTION_KEY": ",".join(keys)}
    command = [sys.executable, "-m", "shopsync_pipeline.cli", "rotate-keys"]
    first = 'SELECT "accessToken" FROM integrations ORDER BY "id" LIMIT 1'
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        old = conn.execute(first).fetchone()
        while conn.execute(first).fetchone() == old:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    left = rotation.under_old_keys(conn, new)
    assert 0 < left < 4 * count
    assert encrypted_anew(rotation.rotate(conn, Cipher(keys))) == left
    assert rotation.under_old_keys(conn, new) == 0


def test_what_no_key_decrypts_is_named_and_the_others_are_encrypted_anew(
    world: World, conn: Conn, keys: tuple[str, str]
) -> None:
    mine, _theirs = add_stores(conn, world.engine.cipher, 2)
    lost = Cipher((Fernet.generate_key().decode(),))
    conn.execute(
        'UPDATE integrations SET "accessToken" = %s WHERE "organizationId" = %s',
        [lost.encrypt("shpat_lost"), "org-1"],
    )
    done = shopsync(world, "rotate-keys", "--json", SHOPSYNC_ENCRYPTION_KEY=",".join(keys))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["left"] == 1
    assert told["kinds"][0] == {
        "kind": "integrations.accessToken",
        "reencrypted": 1,
        "current": 0,
        "unreadable": ["org-1, s1.myshopify.com"],
    }
    assert [kind["reencrypted"] for kind in told["kinds"]] == [1, 2, 2, 2, 0]
    assert "org-1, s1.myshopify.com: no key" in done.stderr
    assert "shopsync connect" in done.stderr
    assert credentials.load(conn, Cipher(keys[:1]), mine) == HELD


def test_what_a_process_with_the_old_setting_stores_meanwhile_is_told_with_the_remedy() -> None:
    (told,) = rotation.troubles([rotation.Rotation(kind="integrations.accessToken")], left=2)
    assert "2 were stored meanwhile" in told
    assert "Restart" in told


def test_a_key_that_is_none_changes_nothing(
    world: World, conn: Conn, keys: tuple[str, str]
) -> None:
    add_stores(conn, world.engine.cipher, 1)
    wrong = f"not-a-key,{keys[1]}"
    refused(shopsync(world, "rotate-keys", SHOPSYNC_ENCRYPTION_KEY=wrong), "no Fernet key")
    done = shopsync(world, "rotate-keys")
    assert done.returncode == 0
    assert "0 encrypted anew, 1 were under the first key" in done.stdout


# The key that `shopsync up` made and keeps


def kept_in_a_file(world: World) -> tuple[Path, dict[str, str]]:
    """As `shopsync up` leaves it, which the environment does not set."""
    secrets = Path(world.environ["SHOPSYNC_HOME"]) / "secrets.env"
    key = world.environ.pop("SHOPSYNC_ENCRYPTION_KEY")
    secrets.write_text(f"CRON_SECRET=c\nSHOPSYNC_ENCRYPTION_KEY={key}\nSHOPSYNC_API_TOKEN=a\n")
    secrets.chmod(0o600)
    return secrets, {
        "RECEIVER_PORT": str(free_port()),
        "DAGSTER_WEBSERVER_PORT": str(free_port()),
    }


def key_in(secrets: Path) -> str:
    (key,) = re.findall(r"^SHOPSYNC_ENCRYPTION_KEY=(.*)$", secrets.read_text(), re.M)
    return str(key)


def test_a_key_of_our_own_making_is_replaced_and_forgotten_in_one_go(
    world: World, conn: Conn
) -> None:
    (store,) = add_stores(conn, world.engine.cipher, 1)
    secrets, environ = kept_in_a_file(world)
    old = key_in(secrets)
    assert shopsync(world, "rotate-keys", "--new", **environ).returncode == 0
    new = key_in(secrets)
    assert new != old
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert sorted(secrets.read_text().splitlines()) == [
        "CRON_SECRET=c",
        "SHOPSYNC_API_TOKEN=a",
        f"SHOPSYNC_ENCRYPTION_KEY={new}",
    ]
    assert credentials.load(conn, Cipher((new,)), store) == HELD


def test_no_key_is_forgotten_while_something_is_unreadable(world: World, conn: Conn) -> None:
    add_stores(conn, Cipher((Fernet.generate_key().decode(),)), 1)
    secrets, environ = kept_in_a_file(world)
    old = key_in(secrets)
    assert shopsync(world, "rotate-keys", "--new", **environ).returncode == 1
    assert key_in(secrets).split(",")[1:] == [old]


def test_no_new_key_is_made_while_the_deployment_runs_nor_for_a_key_set_elsewhere(
    world: World, conn: Conn
) -> None:
    add_stores(conn, world.engine.cipher, 1)
    secrets, environ = kept_in_a_file(world)
    before = secrets.read_text()
    with socket.create_server(("127.0.0.1", int(environ["RECEIVER_PORT"]))):
        refused(shopsync(world, "rotate-keys", "--new", **environ), "RECEIVER_PORT")
    with local.alone(Settings.from_env(world.environ)):  # on other ports
        refused(shopsync(world, "rotate-keys", "--new", **environ), "is at work in")
    elsewhere = environ | {"SHOPSYNC_ENCRYPTION_KEY": Fernet.generate_key().decode()}
    refused(shopsync(world, "rotate-keys", "--new", **elsewhere), "docs/security.md")
    assert secrets.read_text() == before
    assert rotation.under_old_keys(conn, world.engine.cipher) == 0


def test_credentials_that_wait_in_a_request_forbid_a_fresh_key_too(
    world: World, conn: Conn
) -> None:
    """A fresh one had been made for a database whose only secrets waited for their run."""
    assert not credentials.any_stored(conn)
    bring(conn, world.engine.cipher)
    assert credentials.any_stored(conn)
    other = Cipher((Fernet.generate_key().decode(),))
    with pytest.raises(ConfigurationError):
        brought(conn, other, requests.unfinished(conn)[0].id)
