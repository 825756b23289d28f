"""Real-time sync of many stores: turned on, kept on, turned off, against the simulator."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shopsync_pipeline.db import integrations, requests
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.subscriptions import TOPICS, Receiver
from shopsync_pipeline.sync.subscriptions import (
    Action,
    OrganizationSubscriptions,
    StoreSubscriptions,
    settle_subscriptions,
)
from shopsync_pipeline_tests.world import World

APP_URL = "https://sync.example.com"
HERE = Receiver.at(APP_URL)
SCOPES = ["read_customers", "read_customer_merge"]
MUTATIONS = ["WebhookSubscriptionCreate", "WebhookSubscriptionUpdate", "WebhookSubscriptionDelete"]


def settled(
    world: World, action: Action, *organizations: str, app_url: str | None = APP_URL
) -> list[OrganizationSubscriptions]:
    settings = replace(world.engine.settings, app_url=app_url)
    engine = replace(world.engine, settings=settings)
    return list(settle_subscriptions(engine, organizations, action))


def settle(world: World, action: Action, organization: str, **more: Any) -> StoreSubscriptions:
    (outcome,) = settled(world, action, organization, **more)
    (store,) = outcome.stores
    return store


def asked(store: Any) -> list[str]:
    """The operations since it was last asked what was asked."""
    operations = [request["operation"] for request in store.requests]
    store.clear_requests()
    return operations


def since(world: World, organization: str) -> Any:
    with world.engine.pool.connection() as conn:
        return integrations.realtime_since(conn, world.integration(organization).id)


def filed(world: World) -> list[SyncRequest]:
    with world.engine.pool.connection() as conn:
        return requests.unfinished(conn)


def topics(store: Any) -> set[str]:
    return {row["topic"] for row in store.subscriptions}


def drop(store: Any, *gone: str) -> None:
    """As Shopify does after eight failed deliveries."""
    for row in store.subscriptions:
        if row["topic"] in gone:
            store.unsubscribe(row["id"])


@pytest.fixture
def acme(world: World) -> Any:
    return world.connect("acme", "acme.myshopify.com", customers=3, scopes=SCOPES)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Our log lines, also after another test has sent them to files."""
    logger = logging.getLogger("shopsync_pipeline.sync.subscriptions")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


def test_a_store_is_subscribed_to_everything_its_scopes_allow(world: World, acme: Any) -> None:
    outcome = settle(world, "enable", "acme")
    assert outcome.state == "on"
    assert set(outcome.result.topics) == topics(acme) == TOPICS.keys()
    assert {row["uri"] for row in acme.subscriptions} == {f"{APP_URL}/api/webhooks/shopify"}
    assert all(row["name"] == HERE.name(row["topic"]) for row in acme.subscriptions)
    fields = {row["topic"]: row["includeFields"] for row in acme.subscriptions}
    assert fields["CUSTOMERS_UPDATE"] == ["id", "admin_graphql_api_id", "updated_at"]
    assert fields["CUSTOMERS_DELETE"] == []
    assert since(world, "acme") is not None
    assert filed(world) == []


def test_to_turn_it_on_again_is_one_question_and_no_change(world: World, acme: Any) -> None:
    settle(world, "enable", "acme")
    began = since(world, "acme")
    asked(acme)
    outcome = settle(world, "enable", "acme")
    assert outcome.result.done == []
    assert asked(acme) == ["WebhookSubscriptions"]
    assert since(world, "acme") == began


def test_a_check_that_finds_all_well_is_one_question(world: World, acme: Any) -> None:
    settle(world, "enable", "acme")
    asked(acme)
    (outcome,) = settled(world, "check", "acme")
    assert not outcome.changed
    assert outcome.stores[0].state == "on"
    assert outcome.stores[0].result.requests == 1
    assert asked(acme) == ["WebhookSubscriptions"]


def test_without_the_scope_of_merges_the_others_are_subscribed(world: World) -> None:
    store = world.connect("acme", "acme.myshopify.com", scopes=["read_customers"])
    outcome = settle(world, "enable", "acme")
    assert topics(store) == TOPICS.keys() - {"CUSTOMERS_MERGE"}
    assert outcome.result.lacking == {"CUSTOMERS_MERGE": "read_customer_merge"}
    store.change(scopes=SCOPES)
    assert settle(world, "check", "acme").result.topics_of("create") == ["CUSTOMERS_MERGE"]


def test_a_store_whose_customers_may_not_be_read_is_in_trouble_and_keeps_what_it_has(
    world: World, acme: Any
) -> None:
    settle(world, "enable", "acme")
    acme.change(scopes=["read_products"])
    asked(acme)
    outcome = settle(world, "check", "acme")
    assert outcome.state == "failed"
    assert "the app lacks read_customers" in str(outcome.note)
    assert asked(acme) == ["WebhookSubscriptions"]
    assert world.integration("acme").status == "needs_scope"


def test_what_shopify_dropped_is_made_again_and_the_gap_is_pulled_once(
    world: World, acme: Any, told: pytest.LogCaptureFixture
) -> None:
    settle(world, "enable", "acme")
    drop(acme, "CUSTOMERS_UPDATE", "CUSTOMERS_CREATE")
    outcome = settle(world, "check", "acme")
    assert sorted(outcome.result.topics_of("create")) == ["CUSTOMERS_CREATE", "CUSTOMERS_UPDATE"]
    assert topics(acme) == TOPICS.keys()
    (request,) = filed(world)
    assert (request.kind, request.organization_id, request.mode) == ("sync", "acme", "incremental")
    assert "Webhooks of acme.myshopify.com were missing" in told.text
    settle(world, "check", "acme")
    assert filed(world) == [request]
    with world.engine.pool.connection() as conn:
        alerts = conn.execute("""SELECT "kind", "organizationId" FROM alerts""").fetchall()
    assert alerts == [("subscriptions_lost", "acme")]


def test_what_was_changed_by_another_hand_is_put_right_and_nothing_is_pulled(
    world: World, acme: Any
) -> None:
    settle(world, "enable", "acme")
    (row,) = [r for r in acme.subscriptions if r["topic"] == "CUSTOMERS_UPDATE"]
    acme.change_subscription(
        row["id"], uri=f"{APP_URL}/old", format="XML", filter="id:1", includeFields=["id"]
    )
    outcome = settle(world, "check", "acme")
    assert outcome.result.topics_of("update") == ["CUSTOMERS_UPDATE"]
    (mended,) = [r for r in acme.subscriptions if r["topic"] == "CUSTOMERS_UPDATE"]
    assert {k: v for k, v in mended.items() if k != "updatedAt"} == {
        k: v for k, v in row.items() if k != "updatedAt"
    }
    assert filed(world) == []
    assert settle(world, "check", "acme").result.done == []


def test_a_nameless_subscription_to_our_address_is_taken_over(world: World, acme: Any) -> None:
    acme.subscribe("CUSTOMERS_UPDATE", HERE.uri)
    outcome = settle(world, "enable", "acme")
    assert outcome.result.topics_of("update") == ["CUSTOMERS_UPDATE"]
    assert len(acme.subscriptions) == len(TOPICS)


def test_a_staging_copy_touches_nothing_of_productions(world: World, acme: Any) -> None:
    """It holds production's tokens and rows, so all that keeps it apart is its own APP_URL."""
    settle(world, "enable", "acme")
    production = acme.subscriptions
    staging = "https://staging.example.com"
    for action in ("check", "enable", "disable"):
        settle(world, action, "acme", app_url=staging)
        assert [row for row in acme.subscriptions if row["uri"] == HERE.uri] == production
    assert acme.subscriptions == production


def test_more_than_a_page_of_foreign_subscriptions_is_read_to_the_end_and_left_alone(
    world: World, acme: Any
) -> None:
    for number in range(520):
        acme.subscribe("CUSTOMERS_UPDATE", f"https://other.example.com/{number}", name=f"o{number}")
    foreign = acme.subscriptions
    settle(world, "enable", "acme")
    assert asked(acme).count("WebhookSubscriptions") == 3
    assert settle(world, "check", "acme").result.done == []
    settle(world, "disable", "acme")
    assert acme.subscriptions == foreign


def test_to_turn_off_removes_ours_and_is_not_put_back(world: World, acme: Any) -> None:
    acme.subscribe("SHOP_UPDATE", "https://other.example.com", name="theirs")
    settle(world, "enable", "acme")
    outcome = settle(world, "disable", "acme")
    assert (outcome.state, len(outcome.result.topics_of("remove"))) == ("off", len(TOPICS))
    assert [row["name"] for row in acme.subscriptions] == ["theirs"]
    assert since(world, "acme") is None
    asked(acme)
    assert settle(world, "check", "acme").state == "off"
    assert asked(acme) == []


def test_a_store_that_cannot_be_reached_is_off_all_the_same(world: World, acme: Any) -> None:
    """Were it still on, the next check would put back what was removed."""
    settle(world, "enable", "acme")
    acme.fault("status", status=401, times=None)
    assert settle(world, "disable", "acme").state == "failed"
    assert since(world, "acme") is None


@pytest.mark.parametrize("operation", MUTATIONS)
def test_a_mutation_whose_answer_was_lost_was_executed_and_counts_once(
    world: World, acme: Any, operation: str
) -> None:
    """It is sent again, and Shopify says that the address is taken or the id is not known."""
    if operation != "WebhookSubscriptionCreate":
        settle(world, "enable", "acme")
        for row in acme.subscriptions:
            acme.change_subscription(row["id"], format="XML")
    acme.fault("truncated", operation=operation, times=3)
    action: Action = "disable" if operation == "WebhookSubscriptionDelete" else "enable"
    outcome = settle(world, action, "acme")
    assert outcome.state == ("off" if action == "disable" else "on")
    assert sorted(change.topic for change in outcome.result.done) == sorted(TOPICS)
    assert topics(acme) == (set() if action == "disable" else TOPICS.keys())
    assert len(acme.subscriptions) == len(topics(acme))


def test_what_shopify_refuses_for_good_is_told_and_keeps_back_no_other(
    world: World, acme: Any
) -> None:
    """An address that is taken by a subscription that is not ours to change."""
    acme.subscribe("SHOP_UPDATE", HERE.uri, name="theirs")
    outcome = settle(world, "enable", "acme")
    assert outcome.state == "failed"
    assert "acme: acme.myshopify.com: Shopify refused to create" in str(outcome.note)
    assert "SHOP_UPDATE: Address for this topic has already been taken" in str(outcome.note)
    assert topics(acme) == TOPICS.keys()
    assert since(world, "acme") is None
    assert world.integration("acme").status == "ok"


def test_one_broken_store_among_several_stays_alone(world: World) -> None:
    names = ["ant", "bee", "cat"]
    stores = {n: world.connect(n, f"{n}.myshopify.com", customers=3, scopes=SCOPES) for n in names}
    stores["bee"].fault("status", status=401, times=None)
    outcomes = {o.organization_id: o for o in settled(world, "enable", *names, "nobody")}
    assert {name for name, o in outcomes.items() if o.errors} == {"bee"}
    assert "bee: bee.myshopify.com: Shopify refused the access token" in outcomes["bee"].errors[0]
    assert topics(stores["ant"]) == topics(stores["cat"]) == TOPICS.keys()
    assert outcomes["nobody"].stores == ()
    assert world.integration("bee").status == "needs_reauth"
    assert since(world, "bee") is None


def test_two_stores_of_one_organization_share_nothing(world: World) -> None:
    good = world.connect("acme", "good.myshopify.com", customers=3, scopes=SCOPES)
    bad = world.connect("acme", "bad.myshopify.com", customers=3, scopes=SCOPES)
    bad.fault("status", status=404, times=None)
    (outcome,) = settled(world, "enable", "acme")
    states = {store.integration.shop: store.state for store in outcome.stores}
    assert states == {"good.myshopify.com": "on", "bad.myshopify.com": "failed"}
    assert topics(good) == TOPICS.keys()


def test_a_store_that_left_and_came_back_is_off_until_it_is_turned_on(
    world: World, acme: Any
) -> None:
    settle(world, "enable", "acme")
    transact(
        world.engine.pool,
        lambda c: integrations.disconnect(c, organization_id="acme", shop="acme.myshopify.com"),
    )
    back = world.connect("acme", "acme.myshopify.com", customers=3, scopes=SCOPES)
    assert settle(world, "check", "acme").state == "off"
    assert settle(world, "enable", "acme").state == "on"
    assert topics(back) == TOPICS.keys()


def test_a_store_in_trouble_is_left_alone_by_checks_until_it_may_be_tried(
    world: World, acme: Any
) -> None:
    settle(world, "enable", "acme")
    acme.fault("status", status=401, times=None)
    settle(world, "check", "acme")
    asked(acme)
    outcome = settle(world, "check", "acme")
    assert outcome.state == "put_off"
    assert "refused the access token" in str(outcome.note)
    assert asked(acme) == []
    acme.clear_faults()
    assert settle(world, "enable", "acme").state == "on"


def test_trouble_that_may_pass_does_not_put_the_stores_pull_off(world: World, acme: Any) -> None:
    settle(world, "enable", "acme")
    acme.fault("status", status=500, times=None)
    assert settle(world, "check", "acme").state == "failed"
    assert world.integration("acme").retry_at is None


def test_a_check_that_fails_half_way_still_has_the_gap_pulled(world: World, acme: Any) -> None:
    settle(world, "enable", "acme")
    drop(acme, "CUSTOMERS_UPDATE", "CUSTOMERS_CREATE")
    acme.fault("status", operation="WebhookSubscriptionCreate", status=402, after=1, times=None)
    assert settle(world, "check", "acme").state == "failed"
    assert [request.organization_id for request in filed(world)] == ["acme"]


@pytest.mark.parametrize("app_url", [None, "http://localhost:3000", "https://10.0.0.8"])
def test_without_a_public_address_nothing_is_asked_and_the_setting_is_named(
    world: World, acme: Any, app_url: str | None
) -> None:
    real = replace(world.engine.settings, shopify_endpoint=Settings.shopify_endpoint)
    world.engine = replace(world.engine, settings=real)
    outcome = settle(world, "enable", "acme", app_url=app_url)
    assert outcome.state == "no_address"
    assert str(outcome.note).startswith("acme, acme.myshopify.com: APP_URL is ")
    assert asked(acme) == []
    assert since(world, "acme") is None


def test_what_is_turned_off_without_an_address_stays_off_when_there_is_one(
    world: World, acme: Any
) -> None:
    settle(world, "enable", "acme")
    outcome = settle(world, "disable", "acme", app_url=None)
    assert outcome.state == "failed"
    assert "real-time sync is off here, but its subscriptions at Shopify stay" in str(outcome.note)
    assert "disable again: shopsync webhooks disable acme" in str(outcome.note)
    assert topics(acme) == TOPICS.keys()
    assert settle(world, "check", "acme").state == "off"
    assert settle(world, "disable", "acme").state == "off"
    assert acme.subscriptions == []


def test_what_is_turned_off_under_another_address_is_told_to_stay_at_shopify(
    world: World, acme: Any
) -> None:
    settle(world, "enable", "acme")
    outcome = settle(world, "disable", "acme", app_url="https://moved.example.com")
    assert outcome.state == "failed"
    assert "none of them goes to https://moved.example.com" in str(outcome.note)
    assert "set APP_URL to what it was" in str(outcome.note)
    assert settle(world, "disable", "acme").state == "off"
    assert acme.subscriptions == []


def test_a_simulator_delivers_to_this_machine(world: World, acme: Any) -> None:
    assert settle(world, "enable", "acme", app_url="http://127.0.0.1:3000").state == "on"
    assert topics(acme) == TOPICS.keys()


def test_two_organizations_that_share_an_app_share_its_subscriptions(world: World) -> None:
    """Shopify keeps them per store and app: neither may take them away from the other, and what
    was dropped was dropped for both."""
    store = world.connect("ant", "a.myshopify.com", customers=3, scopes=SCOPES)
    store = world.connect("bee", "a.myshopify.com", customers=3, scopes=SCOPES)
    settled(world, "enable", "ant", "bee")
    assert len(store.subscriptions) == len(TOPICS)
    drop(store, "CUSTOMERS_UPDATE")
    settle(world, "check", "bee")
    assert {request.organization_id for request in filed(world)} == {"ant", "bee"}
    assert settle(world, "disable", "ant").state == "off"
    assert len(store.subscriptions) == len(TOPICS)
    settle(world, "disable", "bee")
    assert store.subscriptions == []


def test_a_store_that_left_is_not_asked(world: World, acme: Any) -> None:
    transact(
        world.engine.pool,
        lambda c: integrations.disconnect(c, organization_id="acme", shop="acme.myshopify.com"),
    )
    (outcome,) = settled(world, "enable", "acme")
    assert outcome.stores == ()
    assert asked(acme) == []


def test_only_organizations_that_a_check_concerns_are_found(world: World, acme: Any) -> None:
    def found() -> list[str]:
        with world.engine.pool.connection() as conn:
            return integrations.realtime_organizations(conn, world.simulator.clock.now())

    assert found() == []
    settle(world, "enable", "acme")
    assert found() == ["acme"]
    acme.fault("status", status=401, times=None)
    settle(world, "check", "acme")
    assert found() == []


def test_another_run_that_is_at_it_is_waited_for(world: World, acme: Any) -> None:
    lock = "webhook subscriptions of acme.myshopify.com"
    with world.second_engine() as other:
        assert other.locks.try_lock(lock)
        world.time.on_sleep = lambda: other.locks.unlock(lock)
        assert settle(world, "enable", "acme").state == "on"
        assert world.time.slept
