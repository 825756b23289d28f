"""Credentials at rest, and tokens that are renewed before they end."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet

from shopsync_pipeline.db import credentials, integrations
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import clock, read, transact
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.sync.organizations import open_store
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"


def hold(world: World, **fields: Any) -> None:
    integration = world.integration("acme")
    transact(
        world.engine.pool,
        lambda conn: credentials.store(
            conn, world.engine.cipher, integration.id, Credentials(**fields)
        ),
    )


def held(world: World) -> Credentials:
    integration = world.integration("acme")
    return read(
        world.engine.pool, lambda conn: credentials.load(conn, world.engine.cipher, integration.id)
    )


def renewals(store: Any) -> int:
    return sum(request["operation"] == "oauth" for request in store.requests)


def app(store: Any) -> dict[str, str]:
    return {
        "client_id": store.credentials.client_id,
        "client_secret": store.credentials.client_secret,
    }


def ends_in(world: World, **duration: float) -> Any:
    return read(world.engine.pool, clock) + timedelta(**duration)


def test_no_token_can_be_read_in_the_database(world: World) -> None:
    store = world.connect("acme", SHOP)
    hold(world, access_token="shpat_secret", refresh_token="shprt_secret", **app(store))
    with world.engine.pool.connection() as conn:
        row = str(conn.execute("SELECT i::text FROM integrations i").fetchone())
    assert "secret" not in row.replace("clientSecret", "")
    assert store.credentials.client_secret not in row
    assert held(world).access_token == "shpat_secret"


def test_the_first_key_encrypts_and_the_others_still_decrypt() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    text = Cipher((old,)).encrypt("shpat_secret")
    assert Cipher((new, old)).decrypt(text) == "shpat_secret"
    with pytest.raises(ConfigurationError, match="SHOPSYNC_ENCRYPTION_KEY lacks the key"):
        Cipher((new,)).decrypt(text)
    with pytest.raises(ConfigurationError, match="no Fernet key"):
        Cipher(("short",))


def test_credentials_show_no_secret() -> None:
    shown = repr(Credentials(access_token="hunter2", client_secret="hunter2", client_id="id"))
    assert "hunter2" not in shown


def test_a_client_credentials_token_is_granted_once_and_kept(world: World) -> None:
    store = world.connect("acme", SHOP)
    hold(world, **app(store))
    for _ in range(2):
        assert world.sync_one("acme").state == "synced"
    assert renewals(store) == 1
    lasts = held(world)
    assert lasts.lasts(ends_in(world, hours=23))
    assert not lasts.lasts(ends_in(world, hours=24))


def test_a_token_is_renewed_before_it_ends(world: World) -> None:
    store = world.connect("acme", SHOP)
    hold(world, access_token=store.access_token, expires_at=ends_in(world, minutes=4), **app(store))
    assert world.sync_one("acme").state == "synced"
    assert renewals(store) == 1


def test_a_renewal_that_fails_leaves_the_old_token_in_use_while_it_lasts(world: World) -> None:
    store = world.connect("acme", SHOP)
    hold(world, access_token=store.access_token, expires_at=ends_in(world, minutes=4), **app(store))
    store.fault("status", status=500, times=None, operation="oauth")
    assert world.sync_one("acme").state == "synced"
    hold(
        world, access_token=store.access_token, expires_at=ends_in(world, minutes=-1), **app(store)
    )
    outcome = world.sync_one("acme")
    assert "token endpoint answered HTTP 500" in str(outcome.error)


def test_a_refused_app_is_told_with_the_oauth_error(world: World) -> None:
    store = world.connect("acme", SHOP)
    hold(world, client_id=store.credentials.client_id, client_secret="wrong")
    outcome = world.sync_one("acme")
    assert "invalid_client" in str(outcome.error) or "refused to issue" in str(outcome.error)
    assert world.integration("acme").status == "needs_reauth"


def test_a_rotating_pair_is_stored_as_a_pair(world: World) -> None:
    store = world.connect("acme", SHOP, refresh_token="shprt_first")
    hold(world, refresh_token="shprt_first", **app(store))
    assert world.sync_one("acme").state == "synced"
    pair = held(world)
    assert pair.refresh_token not in (None, "shprt_first")
    assert not pair.lasts(ends_in(world, minutes=61))
    hold(
        world,
        access_token="shpat_old",
        expires_at=ends_in(world, minutes=-1),
        refresh_token=pair.refresh_token,
        **app(store),
    )
    assert world.sync_one("acme").state == "synced"


def test_a_cached_token_that_shopify_refuses_is_renewed_once(world: World) -> None:
    store = world.connect("acme", SHOP)
    hold(world, access_token="revoked", expires_at=ends_in(world, hours=20), **app(store))
    assert world.sync_one("acme").state == "synced"
    assert renewals(store) == 1


def test_a_token_endpoint_that_fails_after_a_refusal_is_no_verdict_on_the_token(
    world: World,
) -> None:
    """One 503 had put the store off for a day as needs_reauth."""
    store = world.connect("acme", SHOP)
    hold(world, access_token="revoked", expires_at=ends_in(world, hours=20), **app(store))
    store.fault("status", status=503, times=None, operation="oauth")
    assert "token endpoint answered HTTP 503" in str(world.sync_one("acme").error)
    assert world.integration("acme").status == "ok"
    store.clear_faults()
    assert world.sync_one("acme").state == "synced"


def test_a_renewal_writes_over_no_credentials_stored_meanwhile(world: World) -> None:
    """The app's old credentials had come back over those of a reconnect during the request."""
    store = world.connect("acme", SHOP)
    hold(world, access_token="old", expires_at=ends_in(world, hours=-1), **app(store))
    store.settings.latency_ms = 300
    integration = world.integration("acme")
    with open_store(world.engine, integration) as opened:
        renewing = threading.Thread(target=waited, args=(opened.tokens.current(), world.time))
        renewing.start()
        while not renewals(store):
            renewing.join(0.01)
        hold(world, access_token="new")
        renewing.join()
    assert held(world) == Credentials(access_token="new")


def test_threads_of_one_store_renew_one_token_once(world: World) -> None:
    store = world.connect("acme", SHOP, refresh_token="shprt_first")
    hold(world, refresh_token="shprt_first", **app(store))
    integration = world.integration("acme")
    got: list[str] = []

    def work() -> None:
        with open_store(world.engine, integration) as opened:
            got.append(waited(opened.tokens.current(), world.time))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert len(set(got)) == 1
    assert renewals(store) == 1


def test_an_integration_without_any_token_says_to_connect(world: World) -> None:
    world.connect("acme", SHOP)
    hold(world)
    assert "no access token is stored" in str(world.sync_one("acme").error)


def test_disconnecting_forgets_the_tokens(world: World) -> None:
    world.connect("acme", SHOP)
    transact(
        world.engine.pool,
        lambda conn: integrations.disconnect(conn, organization_id="acme", shop=SHOP),
    )
    with world.engine.pool.connection() as conn:
        assert not credentials.any_stored(conn)
