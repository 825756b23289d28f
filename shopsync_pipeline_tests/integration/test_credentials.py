"""Credentials at rest, and tokens that are renewed before they end."""

import threading
from dataclasses import dataclass, replace
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
from shopsync_pipeline.sync.engine import Engine, open_store
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


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What the token endpoint does for ever, and what must come of a store whose token has ended:
    `tries` requests for a token, the integration's status, the hours until the next try."""

    fault: dict[str, Any]
    told: str
    tries: int = 1
    status: str = "ok"
    hours: int = 1


def answers(code: int, **more: Any) -> dict[str, Any]:
    return {"kind": "status", "status": code, **more}


def oauth(code: int, error: str) -> dict[str, Any]:
    return answers(code, body={"error": error, "error_description": "shprt_first is odd"})


REFUSALS = {
    "wrong app": Refusal(
        fault=oauth(400, "invalid_client"), told="invalid_client (HTTP 400). Check the app's",
        status="needs_reauth", hours=24,
    ),
    "spent": Refusal(
        fault=oauth(400, "invalid_grant"), told="invalid_grant (HTTP 400). The refresh token",
        status="needs_reauth", hours=24,
    ),
    "other organization": Refusal(
        fault=oauth(400, "shop_not_permitted"), told="shop_not_permitted",
        status="needs_reauth", hours=24,
    ),
    "no reason": Refusal(
        fault=answers(400, body="<html>"), told="no reason given (HTTP 400)",
        status="needs_reauth", hours=24,
    ),
    "401": Refusal(fault=answers(401), told="HTTP 401", status="needs_reauth", hours=24),
    "403": Refusal(fault=answers(403), told="IP allowlist", status="needs_scope"),
    "404": Refusal(fault=answers(404), told="HTTP 404", status="gone"),
    "redirect": Refusal(
        fault={"kind": "redirect", "location": "https://b.myshopify.com"}, told="HTTP 301",
        status="gone",
    ),
    "402": Refusal(fault=answers(402), told="HTTP 402", status="paused", hours=24),
    "423": Refusal(fault=answers(423), told="HTTP 423", status="paused", hours=24),
    "500": Refusal(fault=answers(500), told="HTTP 500", tries=4),
    "503": Refusal(fault=answers(503), told="HTTP 503", tries=4),
    "429": Refusal(fault=answers(429), told="too many requests (HTTP 429)", tries=4),
    "429 until tomorrow": Refusal(
        fault=answers(429, headers={"Retry-After": "86400"}), told="to be asked again in 86400 s",
    ),
    "reset": Refusal(fault={"kind": "reset"}, told="no whole answer", tries=4),
    "html": Refusal(fault={"kind": "html"}, told="gave no access_token", tries=4),
    "truncated": Refusal(fault={"kind": "truncated"}, told="gave no access_token", tries=4),
    "no token": Refusal(
        fault={"kind": "altered", "at": ["access_token"]}, told="gave no access_token", tries=4
    ),
    "empty token": Refusal(
        fault={"kind": "altered", "at": ["access_token"], "value": ""},
        told="gave no access_token", tries=4,
    ),
    "no header's text": Refusal(
        fault={"kind": "altered", "at": ["access_token"], "value": "shpat_\u2026\n"},
        told="gave no access_token", tries=4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_token_endpoint_refuses_is_told_and_nothing_else_is_asked(
    world: World, case: str
) -> None:
    wanted = REFUSALS[case]
    store = world.connect("acme", SHOP, refresh_token="shprt_first")
    hold(
        world, access_token="old", expires_at=ends_in(world, minutes=-1),
        refresh_token="shprt_first", **app(store),
    )  # fmt: skip
    store.fault(operation="oauth", times=None, **wanted.fault)
    outcome = world.sync_one("acme")
    assert outcome.error is not None
    assert outcome.error.startswith(f"acme: {SHOP}: ")
    assert wanted.told in outcome.error
    assert "shprt_" not in outcome.error
    assert [request["operation"] for request in store.requests] == ["oauth"] * wanted.tries
    assert sum(world.time.slept) <= 13
    integration = world.integration("acme")
    assert (integration.status, integration.watermark) == (wanted.status, None)
    assert integration.retry_at is not None
    minutes = (integration.retry_at - ends_in(world)).total_seconds() / 60
    least, most = (4, 65) if wanted.hours == 1 else (23 * 60 - 2, 24 * 60)
    assert least < minutes <= most
    assert held(world).refresh_token == "shprt_first"
    store.clear_faults()
    assert world.sync_one("acme").state == "synced"
    assert world.integration("acme").status == "ok"


@pytest.mark.parametrize("seconds", [None, 0, -5, "soon", "NaN", "1e999", 1e300, [], True])
def test_a_lifetime_that_is_none_loses_no_pair_and_the_token_is_used_until_it_is_refused(
    world: World, seconds: Any
) -> None:
    """An odd `expires_in` had thrown the new pair away, of which Shopify knows alone."""
    store = world.connect("acme", SHOP, refresh_token="shprt_first")
    hold(world, refresh_token="shprt_first", **app(store))
    store.fault("altered", operation="oauth", at=["expires_in"], value=seconds)
    assert world.sync_one("acme").state == "synced"
    pair = held(world)
    assert pair.refresh_token not in (None, "shprt_first")
    assert world.sync_one("acme").state == "synced"
    store.credentials.replace_access_token(None)
    store.credentials.replace_access_token("by hand")  # what was issued has ended
    assert world.sync_one("acme").state == "synced"
    assert held(world).refresh_token != pair.refresh_token


@pytest.mark.parametrize("value", [None, "", 7, "shprt_\u2026"])
def test_a_refresh_token_that_is_none_replaces_none(world: World, value: Any) -> None:
    """With null the next renewal had asked for another kind of grant."""
    store = world.connect("acme", SHOP, refresh_token="shprt_first")
    hold(world, refresh_token="shprt_first", **app(store))
    store.fault("altered", operation="oauth", at=["refresh_token"], value=value)
    assert world.sync_one("acme").state == "synced"
    assert held(world).refresh_token == "shprt_first"


def test_a_pair_whose_answer_was_lost_is_asked_for_again_with_the_same_refresh_token(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, refresh_token="shprt_first")
    hold(world, refresh_token="shprt_first", **app(store))
    store.fault("answer_lost", operation="oauth", times=2)
    assert world.sync_one("acme").state == "synced"
    assert renewals(store) == 3
    assert held(world).refresh_token == store.credentials.refresh_token


def test_a_retry_after_of_the_token_endpoint_is_waited_for(world: World) -> None:
    store = world.connect("acme", SHOP)
    hold(world, **app(store))
    store.fault("status", status=429, headers={"Retry-After": "40"}, operation="oauth")
    assert world.sync_one("acme").state == "synced"
    assert [wait for wait in world.time.slept if wait] == [40.0]


def test_a_token_that_another_run_has_renewed_meanwhile_is_taken_over(world: World) -> None:
    """Both had seen the ended one; the refresh token that the first one spent is not sent again."""
    store = world.connect("acme", SHOP, refresh_token="shprt_first")
    hold(world, refresh_token="shprt_first", **app(store))
    store.settings.latency_ms = 200
    integration = world.integration("acme")
    got: list[str] = []

    def renew(engine: Engine) -> None:
        with open_store(engine, integration) as opened:
            got.append(waited(opened.tokens.current()))

    with world.second_engine() as other:
        other = replace(other, cipher=world.engine.cipher)
        threads = [threading.Thread(target=renew, args=(e,)) for e in (world.engine, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(got)) == 1
    assert renewals(store) == 1


def test_a_stored_token_that_no_header_can_carry_is_told_and_not_sent(world: World) -> None:
    """Pasted with an ellipsis, it had ended the sync as a fault of Shopsync."""
    store = world.connect("acme", SHOP)
    hold(world, access_token="shpat_12\u2026ab")
    outcome = world.sync_one("acme")
    assert "the stored access token holds what no token can hold" in str(outcome.error)
    assert "shpat_" not in str(outcome.error)
    assert world.integration("acme").status == "needs_reauth"
    assert store.requests == []


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
