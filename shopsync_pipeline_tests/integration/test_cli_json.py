"""What programs read of the commands: JSON alone on standard output, and the same exit codes."""

from typing import Any

from typer.testing import Result

from shopsync_pipeline.db import integrations
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline_tests.commands import run, told
from shopsync_pipeline_tests.integration.test_doctor import SHOP, subscribed
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
    refused(run(world, "sync"), "Every store is paused by hand")
    (resumed,) = told(world, "resume", "acme", SHOP)["stores"]
    assert resumed["pausedAt"] is None
    refused(run(world, "pause", "nobody"), "nobody has no connected store.")
    refused(run(world, "status", "--watch"), "status --watch needs a terminal")


def test_disconnecting_removes_the_subscriptions_and_says_which(world: World) -> None:
    store = world.connect("acme", SHOP)
    subscribed(world)
    done = told(world, "disconnect", "acme", SHOP, APP_URL="https://sync.example.com")
    assert "CUSTOMERS_UPDATE" in done["removedTopics"]
    assert store.subscriptions == []


def test_a_store_whose_token_is_refused_is_disconnected_all_the_same(world: World) -> None:
    store = world.connect("acme", SHOP)
    subscribed(world)
    store.credentials.replace_access_token(None)
    done = run(world, "disconnect", "acme", SHOP, APP_URL="https://sync.example.com")
    assert done.exit_code == 0, done.stderr
    assert "Shopify drops them by itself" in done.stderr
    with world.engine.pool.connection() as conn:
        assert integrations.active_of(conn, ["acme"]) == []


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
    assert {"what", "well", "told"} == set(told(world, "doctor", code=1)["findings"][0])
