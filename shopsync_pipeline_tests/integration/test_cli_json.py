"""What programs read of the commands: JSON alone on standard output, and the same exit codes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from typer.testing import Result

from shopsync_pipeline.commands import stores
from shopsync_pipeline.db import integrations
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline_tests.commands import run, told
from shopsync_pipeline_tests.integration.test_doctor import APP_URL, SHOP, subscribed
from shopsync_pipeline_tests.world import World


def refused(done: Result, text: str) -> None:
    assert isinstance(done.exception, ConfigurationError), done.output
    assert text in str(done.exception)


def test_a_store_is_paused_shown_and_resumed(world: World) -> None:
    world.connect("acme", SHOP)
    world.sync("acme")
    (paused,) = told(world, "pause", "acme")["stores"]
    assert (paused["organizationId"], paused["shop"]) == ("acme", SHOP)
    assert paused["pausedAt"]
    (shown,) = told(world, "status")["stores"]
    assert shown["state"] == "paused by hand"
    assert (shown["customers"], shown["inShopify"], shown["deadLetters"]) == (10, 10, 0)
    assert shown["lastSyncAge"] >= 0
    assert f"resume it: shopsync resume acme {SHOP}" in run(world, "status").stdout
    refused(run(world, "sync"), "Every store is paused by hand. Resume one: shopsync resume ORG.")
    (resumed,) = told(world, "resume", "acme", SHOP)["stores"]
    assert resumed["pausedAt"] is None
    refused(run(world, "pause", "nobody"), "nobody has no connected store.")
    refused(run(world, "resume", "nobody"), "Connect one: shopsync connect nobody SHOP")
    refused(run(world, "status", "--watch"), "status --watch needs a terminal")


def test_disconnecting_removes_the_subscriptions_and_says_which(world: World) -> None:
    store = world.connect("acme", SHOP)
    subscribed(world)
    done = told(world, "disconnect", "acme", SHOP, APP_URL=APP_URL)
    assert "CUSTOMERS_UPDATE" in done["removedTopics"]
    assert store.subscriptions == []


def test_a_store_whose_token_is_refused_is_disconnected_all_the_same(world: World) -> None:
    store = world.connect("acme", SHOP)
    subscribed(world)
    store.credentials.replace_access_token(None)
    done = run(world, "disconnect", "acme", SHOP, APP_URL=APP_URL)
    assert done.exit_code == 0, done.stderr
    assert "Shopify drops them by itself" in done.stderr
    with world.engine.pool.connection() as conn:
        assert integrations.active_of(conn, ["acme"]) == []


def test_a_paused_store_that_is_connected_again_is_told_to_be_paused(world: World) -> None:
    store = world.connect("acme", SHOP)
    run(world, "pause", "acme")
    done = run(world, "connect", "acme", SHOP, SHOPIFY_ACCESS_TOKEN=store.access_token)
    assert f"resume it: shopsync resume acme {SHOP}" in done.stdout
    assert "shopsync sync" not in done.stdout


def test_without_the_key_a_store_is_disconnected_and_its_webhooks_are_told_of(world: World) -> None:
    world.connect("acme", SHOP)
    subscribed(world)
    done = run(world, "disconnect", "acme", SHOP, APP_URL=APP_URL, SHOPSYNC_ENCRYPTION_KEY="")
    assert done.exit_code == 0, done.stderr
    assert "SHOPSYNC_ENCRYPTION_KEY is not set" in done.stderr
    assert "Shopify drops them by itself" in done.stderr
    with world.engine.pool.connection() as conn:
        assert integrations.active_of(conn, ["acme"]) == []


def test_a_run_at_its_webhooks_holds_a_disconnect_up_for_a_time_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "UNSUBSCRIBED_WITHIN", 0.5)
    world.connect("acme", SHOP)
    subscribed(world)
    lock = f"webhook subscriptions of {SHOP}"
    assert world.engine.locks.try_lock(lock)
    done = run(world, "disconnect", "acme", SHOP, APP_URL=APP_URL)
    world.engine.locks.unlock(lock)
    assert done.exit_code == 0, done.stderr
    assert "its webhook subscriptions were not removed within" in done.stderr
    with world.engine.pool.connection() as conn:
        assert integrations.active_of(conn, ["acme"]) == []


def test_nobody_subscribes_a_store_anew_that_is_being_disconnected(world: World) -> None:
    store = world.connect("acme", SHOP)
    subscribed(world)
    lock = f"webhook subscriptions of {SHOP}"
    assert world.engine.locks.try_lock(lock)
    with ThreadPoolExecutor(max_workers=1) as another:
        done = another.submit(run, world, "disconnect", "acme", SHOP, APP_URL=APP_URL)
        while world.integration("acme").paused_at is None:
            assert not done.done()
        world.engine.locks.unlock(lock)
        assert done.result().exit_code == 0
    assert store.subscriptions == []


def test_what_was_found_is_told_as_json(world: World) -> None:
    connected: Any = world.simulator.add_store(SHOP, customers=3)
    token = {"SHOPIFY_ACCESS_TOKEN": connected.access_token}
    assert told(world, "connect", "acme", SHOP, **token)["inShopify"] == 3
    world.hear("acme", "customers/update", b"{")
    world.drain()
    (letter,) = told(world, "webhooks", "dead")["deadLetters"]
    assert letter["topic"] == "customers/update"
    assert told(world, "webhooks", "replay", "--all") == {"replayed": 1}
    assert told(world, "data-requests", "list") == {"dataRequests": []}
    assert told(world, "db", "upgrade")["schema"]
    assert told(world, "db", "url") == {"url": world.environ["DATABASE_URL"], "running": True}
    refused(run(world, "db", "url", "--admin"), "ask who runs that server")
    assert {"what", "well", "told"} == set(told(world, "doctor", code=1)["findings"][0])
