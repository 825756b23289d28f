"""Which webhooks a store must send us, and what is changed so that it does."""

import re
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, build_schema

from shopsync_pipeline.errors import NeedsScope, QueryRefused
from shopsync_pipeline.shopify.subscriptions import (
    SET_IN_THE_APP,
    TOPICS,
    Change,
    Receiver,
    Subscription,
    Wanted,
    cannot_reach,
    lacking,
    plan,
    refusal_of,
    subscriptions_of,
    wanted_of,
)
from shopsync_pipeline.shopify.webhooks import COMPLIANCE_TOPICS, HANDLED, SCANNABLE

PRODUCTION = Receiver.at("https://sync.example.com")
STAGING = Receiver.at("https://staging.example.com")
ALL_SCOPES = ["read_customers", "read_customer_merge"]
(UPDATE,) = [w for w in wanted_of(ALL_SCOPES, PRODUCTION) if w.topic == "CUSTOMERS_UPDATE"]


def found(wanted: Wanted = UPDATE, number: int = 1, **other: Any) -> Subscription:
    """As Shopify shows it when it is as wanted, but for what is given."""
    exact = Subscription(
        id=f"gid://shopify/WebhookSubscription/{number}",
        topic=wanted.topic,
        name=wanted.name,
        uri=wanted.uri,
        format="JSON",
        fields=frozenset(wanted.fields),
        filter=None,
    )
    return replace(exact, **other)


def kinds(*have: Subscription, wanted: list[Wanted] | None = None) -> list[str]:
    """What the plan does, as "kind number"."""
    changes = plan([UPDATE] if wanted is None else wanted, have, PRODUCTION)
    return [f"{c.kind} {c.id.rpartition('/')[2]}" if c.id else c.kind for c in changes]


PLANS: dict[str, tuple[list[Subscription], list[str]]] = {
    "nothing there": ([], ["create"]),
    "as wanted": ([found()], []),
    "fields in another order": ([found(fields=frozenset(reversed(UPDATE.fields)))], []),
    "another path": ([found(uri="https://sync.example.com/old")], ["update 1"]),
    "the whole body": ([found(fields=frozenset())], ["update 1"]),
    "without updated_at": ([found(fields=frozenset({"id"}))], ["update 1"]),
    "as XML": ([found(format="XML")], ["update 1"]),
    "filtered": ([found(filter="id:1")], ["update 1"]),
    "our address, no name": ([found(name=None)], ["update 1"]),
    "our address, an empty name": ([found(name="")], ["update 1"]),
    "our address, another's name": ([found(name="theirs")], ["create"]),
    "our address with http, no name": (
        [found(name=None, uri=UPDATE.uri.replace("https", "http"))],
        ["create"],
    ),
    "another address, no name": (
        [found(name=None, uri="https://elsewhere.example.com/x")],
        ["create"],
    ),
    "another deployment's": (
        [found(name=STAGING.name("CUSTOMERS_UPDATE"), uri=STAGING.uri)],
        ["create"],
    ),
    "ours, of a topic that nobody wants": (
        [found(), found(number=2, topic="ORDERS_CREATE", name=PRODUCTION.name("ORDERS_CREATE"))],
        ["remove 2"],
    ),
    "our address, of a topic that nobody wants": (
        [found(), found(number=2, topic="ORDERS_CREATE", name=None)],
        [],
    ),
    "two of ours": (
        [found(uri="https://sync.example.com/old"), found(number=2)],
        ["remove 1"],
    ),
    "two of ours, neither right": (
        [found(format="XML", uri="https://sync.example.com/old"), found(number=2, format="XML")],
        ["remove 1", "update 2"],
    ),
    "ours elsewhere, a nameless one here": (
        [found(uri="https://sync.example.com/old"), found(number=2, name=None)],
        ["remove 1", "update 2"],
    ),
    "ours, and a nameless one that is filtered": (
        [found(), found(number=2, name=None, filter="id:1")],
        [],
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_the_plan_does_what_must_be_done_and_no_more(case: str) -> None:
    have, expected = PLANS[case]
    assert kinds(*have) == expected


def test_to_turn_off_removes_ours_and_nothing_else() -> None:
    have = [found(), found(number=2, name=None), found(number=3, name="theirs")]
    assert kinds(*have, wanted=[]) == ["remove 1"]


def test_a_staging_copy_touches_nothing_of_productions() -> None:
    """A copy of the database holds production's tokens, so it lists production's subscriptions."""
    production = [
        found(want, number) for number, want in enumerate(wanted_of(ALL_SCOPES, PRODUCTION))
    ]
    staging = wanted_of(ALL_SCOPES, STAGING)
    assert {c.kind for c in plan(staging, production, STAGING)} == {"create"}
    assert plan([], production, STAGING) == []
    assert {w.name for w in staging}.isdisjoint(s.name for s in production)


@pytest.mark.parametrize(
    "same",
    [
        "https://SYNC.example.com",
        "https://sync.example.com/",
        "http://sync.example.com",
    ],
)
def test_a_deployment_is_its_host_and_path(same: str) -> None:
    assert Receiver.at(same).deployment == PRODUCTION.deployment
    assert re.fullmatch(r"shopsync-[0-9a-f]{12}", PRODUCTION.deployment)


@pytest.mark.parametrize("other", ["https://sync.example.com/b", "https://sync.example.com:8443"])
def test_another_path_or_port_is_another_deployment(other: str) -> None:
    assert Receiver.at(other).deployment != PRODUCTION.deployment


def test_webhooks_go_to_the_receivers_endpoint() -> None:
    assert PRODUCTION.uri == "https://sync.example.com/api/webhooks/shopify"
    assert Receiver.at("https://Example.com/Sync").uri == (
        "https://example.com/Sync/api/webhooks/shopify"
    )


def test_every_name_is_one_that_shopify_takes_and_no_two_are_alike() -> None:
    """Names are unique in a store, have at most 50 characters, and no others than these."""
    names = [want.name for want in wanted_of(ALL_SCOPES, PRODUCTION)]
    assert len(set(names)) == len(TOPICS)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,50}", name) for name in names)
    assert all(name.startswith(PRODUCTION.deployment) for name in names)


def test_every_topic_that_is_handled_is_wanted_or_set_in_the_app() -> None:
    dotted = {"customer.tags_added", "customer.tags_removed"}
    headers = {t.lower().replace("_", "/", 1) for t in TOPICS if not t.startswith("CUSTOMER_")}
    assert headers | dotted | set(SET_IN_THE_APP) == HANDLED
    assert set(SET_IN_THE_APP) == COMPLIANCE_TOPICS


def test_only_topics_that_tell_when_are_cut_to_a_hint() -> None:
    for want in wanted_of(ALL_SCOPES, PRODUCTION):
        cut = want.topic.lower().replace("_", "/", 1) in SCANNABLE
        assert bool(want.fields) == cut
        assert want.as_input()["includeFields"] == (
            ["id", "admin_graphql_api_id", "updated_at"] if cut else None
        )


def test_topics_and_inputs_are_shopifys() -> None:
    text = (files("shopify_simulator") / "admin_2026-10.graphql").read_text(encoding="utf-8")
    types = build_schema(text, assume_valid=True).type_map
    topic, given = types["WebhookSubscriptionTopic"], types["WebhookSubscriptionInput"]
    assert isinstance(topic, GraphQLEnumType)
    assert isinstance(given, GraphQLInputObjectType)
    assert set(TOPICS) <= set(topic.values)
    assert set(UPDATE.as_input()) <= set(given.fields)


def test_a_topic_is_wanted_only_where_its_scope_is_granted() -> None:
    def topics(*scopes: str) -> set[str]:
        wanted = {want.topic for want in wanted_of(scopes, PRODUCTION)}
        assert wanted | lacking(scopes).keys() == TOPICS.keys()
        return wanted

    assert topics() == {"APP_UNINSTALLED", "APP_SCOPES_UPDATE", "SHOP_UPDATE"}
    assert topics("read_customers") == TOPICS.keys() - {"CUSTOMERS_MERGE"}
    assert topics(*ALL_SCOPES) == topics("write_customers", "write_customer_merge")
    assert lacking(["read_customers"]) == {"CUSTOMERS_MERGE": "read_customer_merge"}


@pytest.mark.parametrize(
    "app_url",
    [
        None,
        "http://sync.example.com",
        "https://localhost",
        "https://receiver",
        "https://mac.local",
        "https://127.0.0.1:3000",
        "https://10.1.2.3",
        "https://192.168.0.7",
        "https://[::1]",
    ],
)
def test_an_address_that_shopify_cannot_reach_is_told_with_what_to_set(app_url: str | None) -> None:
    told = cannot_reach(app_url, simulated=False)
    assert told is not None
    assert told.startswith("APP_URL is ")
    assert "Set APP_URL to the https address" in told
    assert (cannot_reach(app_url, simulated=True) is None) == (app_url is not None)


@pytest.mark.parametrize("app_url", ["https://sync.example.com", "https://a1b2.ngrok-free.app/x"])
def test_a_public_address_may_do(app_url: str) -> None:
    assert cannot_reach(app_url, simulated=False) is None


def test_nodes_are_read_as_shopify_writes_them() -> None:
    node: dict[str, Any] = {
        "id": "gid://shopify/WebhookSubscription/7",
        "name": None,
        "topic": "SHOP_UPDATE",
        "uri": "pubsub://project:topic",
        "format": "JSON",
        "filter": None,
        "includeFields": [],
    }
    more = {"hasNextPage": True, "endCursor": "next"}
    page = {"webhookSubscriptions": {"nodes": [node], "pageInfo": more}}
    (read,), cursor = subscriptions_of("a.myshopify.com", page)
    assert cursor == "next"
    assert (read.topic, read.name, read.fields) == ("SHOP_UPDATE", None, frozenset())


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("You cannot create a webhook subscription with the specified topic", NeedsScope),
        ("You do not have permission to create webhooks with shop/update topic.", NeedsScope),
        ("Address is invalid", QueryRefused),
    ],
)
def test_a_refusal_names_the_topic_and_what_shopify_said(
    message: str, kind: type[Exception]
) -> None:
    change = Change(kind="create", topic="SHOP_UPDATE", wanted=UPDATE)
    payload = {"webhookSubscription": None, "userErrors": [{"field": None, "message": message}]}
    refusal = refusal_of("a.myshopify.com", change, {"webhookSubscriptionCreate": payload})
    assert type(refusal) is kind
    assert f"refused to create the webhook subscription SHOP_UPDATE: {message}" in str(refusal)
    done = {"webhookSubscriptionCreate": payload | {"userErrors": []}}
    assert refusal_of("a.myshopify.com", change, done) is None
