"""Webhooks about the store and about people's rights: what counts, and what is final."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from shopsync_pipeline.db import data_requests, dead_letters, integrations
from shopsync_pipeline.db.engine import transact
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline_tests.unit.test_webhooks import PAYLOADS, topic_of
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"
UNINSTALLED = {"id": 1, "name": "A", "myshopify_domain": SHOP}


@pytest.fixture
def store(world: World) -> Any:
    store = world.connect("acme", SHOP, customers=10)
    world.sync("acme")
    return store


def number(store: Any, place: int = 3) -> int:
    return int(store.customers()[place]["legacyResourceId"])


def redact(customer_id: int, shop: str = SHOP) -> dict[str, Any]:
    return {
        "shop_id": 954889,
        "shop_domain": shop,
        "customer": {"id": customer_id, "email": "canary@example.com", "phone": "555-625-1199"},
        "orders_to_redact": [1],
    }


def data_request(customer_id: int) -> dict[str, Any]:
    body = redact(customer_id) | {"orders_requested": [1], "data_request": {"id": 9999}}
    del body["orders_to_redact"]
    return body


def stored(world: World, sql: str, *arguments: Any) -> Any:
    with world.engine.pool.connection() as conn:
        return conn.execute(sql, arguments).fetchall()


def replay_everything(world: World) -> None:
    """As if the whole inbox came anew."""
    stored(
        world,
        """UPDATE webhook_events SET "status" = 'pending', "attempts" = 0, "reads" = 0
           RETURNING 1""",
    )
    for _ in range(4):
        world.drain()
        world.pass_waits()


def disconnect(world: World) -> None:
    transact(
        world.engine.pool,
        lambda conn: integrations.disconnect(conn, organization_id="acme", shop=SHOP),
    )


def test_an_uninstalled_app_leaves_no_token_and_keeps_what_signs(world: World, store: Any) -> None:
    app = store.credentials
    connect_store(
        world.engine,
        organization_id="acme",
        shop=SHOP,
        held=Credentials(client_id=app.client_id, client_secret=app.client_secret),
    )
    world.hear("acme", "app/uninstalled", UNINSTALLED)
    store.uninstall()
    world.drain()
    (row,) = stored(
        world,
        """SELECT "isActive", "accessToken", "refreshToken", "clientSecret" IS NOT NULL,
           "inactiveSince" IS NOT NULL FROM integrations""",
    )
    assert row == (False, None, None, True, True)
    assert world.event("acme")["outcome"] == "uninstalled"
    assert len(world.rows("acme")) == 10


def test_an_uninstall_that_the_token_denies_is_a_dead_letter_and_told(
    world: World, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world.hear("acme", "app/uninstalled", UNINSTALLED)
    world.drain()
    assert world.event("acme")["status"] == "dead"
    assert "still accepts the token" in world.event("acme")["error"]
    assert "Refused for acme" in caplog.text
    assert world.integration("acme").is_active


def test_an_uninstall_is_asked_again_while_the_store_gives_no_answer(
    world: World, store: Any
) -> None:
    store.fault("status", status=500, times=None)
    world.hear("acme", "app/uninstalled", UNINSTALLED)
    world.drain()
    assert (world.event("acme")["status"], world.event("acme")["attempts"]) == ("pending", 0)
    store.clear_faults()
    store.uninstall()
    world.pass_waits()
    world.drain()
    assert world.event("acme")["outcome"] == "uninstalled"


def test_a_store_that_comes_back_starts_with_a_full_load(world: World, store: Any) -> None:
    world.hear("acme", "app/uninstalled", UNINSTALLED)
    store.uninstall()
    world.drain()
    store.delete(number(store))
    store.credentials.replace_access_token("shpat_again")
    held = Credentials(access_token="shpat_again")
    connect_store(world.engine, organization_id="acme", shop=SHOP, held=held)
    outcome = world.sync_one("acme")
    assert outcome.result is not None
    assert (outcome.result.since, outcome.result.counts.unchanged) == (None, 9)


def test_a_redacted_person_is_gone_from_rows_and_bodies_and_nothing_brings_them_back(
    world: World, store: Any
) -> None:
    person = number(store)
    record = store.customer(person)
    body = {"id": person, "admin_graphql_api_id": record["id"], "email": "canary@example.com"}
    world.hear("acme", "customers/update", body)
    world.drain()
    world.hear("acme", "customers/update", body)  # still pending when the redaction is read
    world.hear("acme", "customers/redact", redact(person))
    world.hear("acme", "customers/update", body)  # a retry that comes after it
    for _ in range(4):
        world.drain()
        world.pass_waits()
    row = world.rows("acme")[person]
    kept = {name for name, value in row.items() if value is not None}
    assert kept == {
        *("id", "organizationId", "integrationId", "shopifyId", "source", "deletedAt"),
        *("redactedAt", "createdAt", "updatedAt", "lastSyncedAt", "lastSyncRunId", "lastSyncVia"),
    }
    assert not [e for e in world.events("acme") if e["body"] and b"canary" in e["body"]]
    assert {e["status"] for e in world.events("acme")} == {"done"}

    replay_everything(world)
    world.sync("acme", mode="full")
    world.drain()
    assert world.rows("acme")[person]["redactedAt"] == row["redactedAt"]
    assert world.rows("acme")[person]["name"] is None


def test_a_redaction_that_comes_again_leaves_the_row_as_it_was(world: World, store: Any) -> None:
    """A replay of the inbox gave it a later read and another run."""
    person = number(store)
    store.request_redaction(person)
    world.hear("acme", "customers/redact", redact(person))
    world.drain()
    before = world.rows("acme")
    world.hear("acme", "customers/redact", redact(person))
    replay_everything(world)
    assert world.rows("acme") == before


def test_a_redacted_person_who_was_not_known_stays_unknown(world: World, store: Any) -> None:
    """The redaction overtakes the first load."""
    made = store.create()
    person = int(made["legacyResourceId"])
    world.hear("acme", "customers/redact", redact(person))
    world.drain()
    world.sync("acme")
    world.drain()
    row = world.rows("acme")[person]
    assert (row["redactedAt"] is not None, row["email"], row["name"]) == (True, None, None)


def test_a_redaction_reaches_every_organization_of_the_shop_that_it_was_signed_for(
    world: World, store: Any
) -> None:
    world.connect("other", SHOP, customers=10, seed=1)
    world.sync("other")
    person = number(world.simulator.store(SHOP))
    for organization in ("acme", "other"):  # as the receiver files it: one row for each
        world.hear(organization, "customers/redact", redact(person))
    world.drain()
    assert all(world.rows(o)[person]["redactedAt"] for o in ("acme", "other"))


def test_another_customers_event_keeps_its_body_when_a_number_in_it_is_the_same(
    world: World, store: Any
) -> None:
    """An order's or an address's number may be another person's customer id."""
    person, other = number(store, 3), number(store, 4)
    store.change(replica_lag_seconds=0)
    made = store.edit(other, note="waits")
    body = {"id": other, "admin_graphql_api_id": made["id"], "default_address": {"id": person}}
    store.fault("status", status=401, times=None)
    world.hear("acme", "customers/update", body)
    world.hear("acme", "customers/redact", redact(person))
    world.drain()
    assert world.rows("acme")[person]["redactedAt"] is not None
    waiting, _ = world.events("acme")
    assert (waiting["status"], waiting["body"] is not None) == ("pending", True)


def test_a_shop_is_redacted_only_once_it_has_left(world: World, store: Any) -> None:
    body = {"shop_id": 954889, "shop_domain": SHOP}
    world.hear("acme", "customers/redact", redact(number(store)))
    world.hear("acme", "shop/redact", body)
    world.drain()
    assert [e["status"] for e in world.events("acme")] == ["done", "dead"]
    assert len(world.rows("acme")) == 10

    integration = world.integration("acme")
    disconnect(world)
    with world.engine.pool.connection() as conn:
        dead_letters.replay(conn, None)
    world.drain()
    assert list(world.rows("acme")) == [number(store)]  # the redacted one's ids, for good
    assert {e["body"] for e in world.events("acme")} == {None}
    secrets = """SELECT "clientSecret", "webhookSecret" FROM integrations WHERE "id" = %s"""
    assert stored(world, secrets, integration.id) == [(None, None)]


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("customers/redact", data_request(7)),
        ("shop/redact", data_request(7)),
        ("shop/redact", redact(7)),
        ("customers/redact", {"shop_id": 1, "shop_domain": SHOP}),
        ("customers/data_request", redact(7)),
        ("app/uninstalled", {"id": 7, "updated_at": None}),
        ("app/uninstalled", UNINSTALLED | {"myshopify_domain": "b.myshopify.com"}),
        ("customers/redact", redact(7, "b.myshopify.com")),
    ],
)
def test_a_captured_body_under_a_destructive_topic_destroys_nothing(
    world: World, store: Any, topic: str, body: dict[str, Any]
) -> None:
    """Headers are unsigned: any body that Shopify once signed can be sent under any topic."""
    world.hear("acme", topic, body)
    world.drain()
    assert (world.event("acme")["status"], world.integration("acme").is_active) == ("dead", True)
    assert world.differences("acme", store) == []


def test_a_data_request_is_filed_once_and_exports_what_is_held(world: World, store: Any) -> None:
    for _ in range(2):
        world.hear("acme", "customers/data_request", data_request(number(store)))
    world.drain()
    with world.engine.pool.connection() as conn:
        (filed,) = data_requests.everything(conn)
        assert (filed.customer_id, filed.request_id) == (number(store), 9999)
        held = data_requests.export(conn, filed.id)
        assert held is not None
        assert held["name"] == store.customer(number(store))["displayName"]
        assert data_requests.export(conn, "none") is None
        (filed,) = data_requests.everything(conn)
        assert filed.exported_at is not None


def test_new_scopes_free_a_store_that_lacked_them(world: World, store: Any) -> None:
    store.change(scopes=[])
    assert world.sync_one("acme").state == "failed"
    assert world.integration("acme").status == "needs_scope"
    world.hear("acme", "customers/update", {"id": number(store)})
    store.change(scopes=["read_customers", "read_customer_merge"])
    world.hear("acme", "app/scopes_update", {"id": 1, "previous": [], "current": ["x"]})
    world.drain()
    assert {e["status"] for e in world.events("acme")} == {"done"}
    assert stored(world, 'SELECT "scopes" FROM integrations') == [
        (["read_customers", "read_customer_merge"],)
    ]


@pytest.mark.parametrize("path", sorted(PAYLOADS.glob("*.json")), ids=lambda path: path.stem)
def test_every_real_body_is_handled_as_its_topic_deserves(
    world: World, store: Any, path: Path
) -> None:
    """Read by id, filed, redacted or refused; never a fault, and never a row of its content."""
    topic = topic_of(path)
    if "bulk_operations" in path.stem:
        return  # a topic that nobody handles: the receiver keeps it as ignored
    body = orjson.loads(path.read_bytes())
    body |= {"shop_domain": SHOP} if "shop_domain" in body else {}
    world.hear("acme", topic, body)
    for _ in range(6):
        world.drain()
        world.pass_waits()
    event = world.event("acme")
    expected = {
        "app/uninstalled": "dead",  # the sample names no shop, and the token is good
        "shop/redact": "dead",  # the store is connected
    }
    assert (topic, event["status"]) == (topic, expected.get(topic, "done"))
    living = {n: r for n, r in world.rows("acme").items() if r["deletedAt"] is None}
    assert len(living) == 10
    if "delete" in topic or "redact" in topic:
        assert event["status"] == "dead" or event["customerId"] in world.rows("acme")


def test_what_the_law_asks_waits_for_no_answer_of_the_store(world: World, store: Any) -> None:
    """A scopes update of a store whose token was revoked had held up all that came with it."""
    person = number(store)
    store.credentials.replace_access_token(None)
    world.hear("acme", "app/scopes_update", {"id": 1, "previous": [], "current": []})
    world.hear("acme", "app/uninstalled", UNINSTALLED)
    world.hear("acme", "customers/redact", redact(person))
    world.drain()
    assert {e["status"] for e in world.events("acme")} <= {"done", "pending"}
    assert world.rows("acme")[person]["redactedAt"] is not None
    outcomes = {e["topic"]: e["outcome"] for e in world.events("acme")}
    assert outcomes["app/uninstalled"] == "uninstalled"
    world.pass_waits()
    world.drain()
    assert {e["status"] for e in world.events("acme")} == {"done"}


def test_a_store_that_is_closed_for_a_day_has_left(world: World, store: Any) -> None:
    store.fault("status", status=404, times=None)
    world.hear("acme", "app/uninstalled", UNINSTALLED)
    world.drain()
    assert world.event("acme")["status"] == "pending"
    stored(
        world,
        """UPDATE webhook_events SET "receivedAt" = "receivedAt" - interval '25 hours'
           RETURNING 1""",
    )
    world.pass_waits()
    world.drain()
    assert world.event("acme")["outcome"] == "uninstalled"


def test_what_waits_for_a_store_that_left_long_ago_is_let_go(world: World, store: Any) -> None:
    store.fault("status", status=401, times=None)
    world.hear("acme", "customers/update", {"id": number(store), "email": "canary@example.com"})
    world.drain()
    disconnect(world)
    long_ago = """UPDATE webhook_events SET "receivedAt" = now() - interval '8 days' RETURNING 1"""
    stored(world, long_ago)
    stored(
        world,
        """UPDATE integrations SET "inactiveSince" = now() - interval '8 days'
           RETURNING 1""",
    )
    world.drain()
    assert (world.event("acme")["status"], world.event("acme")["body"]) == ("ignored", None)
