"""The inbox once more: whatever comes again, by whichever road, changes no row."""

from collections.abc import Iterator
from typing import Any

import pytest

from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.world import World
from webhook_receiver.server import running_receiver

SHOP = "a.myshopify.com"
TOPICS = (
    "CUSTOMERS_CREATE",
    "CUSTOMERS_UPDATE",
    "CUSTOMERS_DELETE",
    "CUSTOMERS_ENABLE",
    "CUSTOMERS_DISABLE",
    "CUSTOMERS_MERGE",
    "CUSTOMERS_PURCHASING_SUMMARY",
    "CUSTOMERS_EMAIL_MARKETING_CONSENT_UPDATE",
    "CUSTOMERS_MARKETING_CONSENT_UPDATE",
    "CUSTOMER_TAGS_ADDED",
    "CUSTOMER_TAGS_REMOVED",
)


@pytest.fixture
def receiver(world: World) -> Iterator[str]:
    secret = {"SHOPIFY_WEBHOOK_SECRET": "secret-a"}  # the simulator's, of the app
    with running_receiver(Settings.from_env(world.environ | secret)) as url:
        yield f"{url}/api/webhooks/shopify"


@pytest.fixture
def store(world: World, receiver: str) -> Any:
    """Forty customers and what became of some of them, told and settled."""
    scopes = ["read_customers", "read_customer_merge"]
    store = world.connect("acme", SHOP, customers=40, scopes=scopes, compliance_uri=receiver)
    world.sync("acme")
    for topic in TOPICS:
        store.subscribe(topic, receiver)
    ids = [int(record["legacyResourceId"]) for record in store.customers()]
    world.simulator.clock.advance(60)
    made = int(store.create()["legacyResourceId"])
    for note in ("1", "2", "3"):
        store.edit(ids[0], note=note)
    store.edit(ids[1], tags=["new"])
    store.edit(ids[2], state="ENABLED")
    store.edit(ids[2], state="DISABLED")
    store.edit(ids[3], touch=False, numberOfOrders=7)
    store.edit(ids[4], note="and gone")
    store.delete(ids[4])
    store.merge(ids[5], into=ids[6])
    store.edit(ids[7], note="and redacted")
    store.request_redaction(ids[7])
    store.request_redaction(12345)
    store.request_data(ids[8])
    store.delete(made)
    settle(world, store)
    return store


def settle(world: World, store: Any) -> None:
    assert store.wait_for_deliveries()
    for _ in range(6):
        world.drain()
        world.pass_waits()
    assert {event["status"] for event in world.events("acme")} == {"done"}


def table(world: World) -> Any:
    """All rows of customers, in all columns."""
    with world.engine.pool.connection() as conn:
        return conn.execute('SELECT to_jsonb(c) FROM customers c ORDER BY "id"').fetchall()


def ids(world: World) -> list[str]:
    """Of what was delivered; the rest Shopsync has filed itself."""
    events = world.events("acme")
    return sorted(e["webhookId"] for e in events if ":" not in e["webhookId"])


def test_the_whole_inbox_replayed_twice_changes_no_row(world: World, store: Any) -> None:
    before = table(world)
    for _ in range(2):
        world.simulator.clock.advance(3600)
        with world.engine.pool.connection() as conn:
            conn.execute(
                """UPDATE webhook_events SET "status" = 'pending', "attempts" = 0, "reads" = 0,
                   "notBefore" = NULL, "processedAt" = NULL"""
            )
        settle(world, store)
        assert table(world) == before


def test_the_same_bodies_under_new_ids_twice_change_no_row(
    world: World, store: Any, receiver: str
) -> None:
    before, came = table(world), list(store.deliveries)
    for _ in range(2):
        world.simulator.clock.advance(3600)
        for delivery in came:
            store.send_webhook(delivery["topic"], delivery["body"].encode(), receiver)
        settle(world, store)
        assert table(world) == before
    assert len(ids(world)) == 3 * len(came)


def test_the_same_deliveries_again_stay_one_row_each_and_change_no_row(
    world: World, store: Any, receiver: str
) -> None:
    before, came, known = table(world), list(store.deliveries), ids(world)
    for _ in range(2):
        for delivery in came:
            again, body = delivery["webhookId"], delivery["body"].encode()
            store.send_webhook(delivery["topic"], body, receiver, webhook_id=again)
        settle(world, store)
    assert ids(world) == known
    assert len(known) == len(set(known)) == len(came)
    assert table(world) == before
    tries = [attempt.get("status") for each in store.deliveries for attempt in each["attempts"]]
    assert set(tries) == {200}
