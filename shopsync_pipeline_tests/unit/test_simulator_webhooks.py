"""The stand-in for Shopify sends webhooks as FACTS says Shopify does, to a real HTTP receiver."""

import base64
import hashlib
import hmac
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import graphql
import pytest
import requests

from shopify_simulator import trim_schema
from shopify_simulator.server import running_simulator
from shopify_simulator.simulator import Simulator
from shopify_simulator.stores import Store
from shopify_simulator.subscriptions import UserError

DOCUMENTS = trim_schema.HERE / "queries" / "webhooks.graphql"
NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
SCOPES = ["read_customers", "read_customer_merge"]
GIVE_UP_SECONDS = 10.0

Answer = dict[str, Any]


def keys(text: str) -> set[str]:
    return set(text.split())


# The keys of the samples in Shopify's webhook reference, 2026-04 and 2024-10.
CUSTOMER_KEYS = keys(
    """
    id created_at updated_at first_name last_name state note verified_email
    multipass_identifier tax_exempt email phone currency addresses tax_exemptions
    admin_graphql_api_id default_address
    """
)
KEYS_UNTIL_2024_10 = CUSTOMER_KEYS | keys(
    """
    orders_count total_spent last_order_id last_order_name tags email_marketing_consent
    sms_marketing_consent
    """
)
ADDRESS_KEYS = keys(
    """
    id customer_id first_name last_name company address1 address2 city province country zip
    phone name province_code country_code country_name default
    """
)
SHOP_KEYS = keys(
    """
    id name email domain province country address1 zip city source phone latitude longitude
    primary_locale address2 created_at updated_at country_code country_name currency
    customer_email timezone iana_timezone shop_owner money_format money_with_currency_format
    weight_unit province_code taxes_included auto_configure_tax_inclusivity tax_shipping
    county_taxes plan_display_name plan_name has_discounts has_gift_cards myshopify_domain
    google_apps_domain google_apps_login_enabled money_in_emails_format
    money_with_currency_in_emails_format eligible_for_payments
    requires_extra_payments_agreement password_enabled has_storefront finances
    primary_location_id checkout_api_supported multi_location_enabled setup_required
    pre_launch_enabled enabled_presentment_currencies
    marketing_sms_consent_enabled_at_checkout transactional_sms_disabled
    """
)
EMAIL_CONSENT_KEYS = {"state", "opt_in_level", "consent_updated_at"}

TOPICS = {
    "customers/create": "CUSTOMERS_CREATE",
    "customers/update": "CUSTOMERS_UPDATE",
    "customers/delete": "CUSTOMERS_DELETE",
    "customers/enable": "CUSTOMERS_ENABLE",
    "customers/disable": "CUSTOMERS_DISABLE",
    "customers/purchasing_summary": "CUSTOMERS_PURCHASING_SUMMARY",
    "customers/email_marketing_consent_update": "CUSTOMERS_EMAIL_MARKETING_CONSENT_UPDATE",
    "customers/marketing_consent_update": "CUSTOMERS_MARKETING_CONSENT_UPDATE",
    "customers/merge": "CUSTOMERS_MERGE",
    "customer.tags_added": "CUSTOMER_TAGS_ADDED",
    "customer.tags_removed": "CUSTOMER_TAGS_REMOVED",
    "shop/update": "SHOP_UPDATE",
    "app/scopes_update": "APP_SCOPES_UPDATE",
    "app/uninstalled": "APP_UNINSTALLED",
}


@dataclass(frozen=True, kw_only=True)
class Received:
    headers: dict[str, str]
    raw: bytes

    @property
    def topic(self) -> str:
        return self.headers["x-shopify-topic"]

    @property
    def webhook_id(self) -> str:
        return self.headers["x-shopify-webhook-id"]

    @property
    def body(self) -> Answer:
        value: Answer = json.loads(self.raw)
        return value


@dataclass(kw_only=True)
class Receiver:
    uri: str = ""
    answers: Iterator[int] = field(default_factory=lambda: itertools.repeat(200))
    got: list[Received] = field(default_factory=list)
    silence: threading.Event | None = None
    """Answers wait for it."""

    def topics(self) -> list[str]:
        return sorted(each.topic for each in self.got)

    def only(self, topic: str) -> Received:
        (found,) = (each for each in self.got if each.topic == topic)
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    known, lock = Receiver(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                known.got.append(Received(headers=headers, raw=raw))
                status = next(known.answers)
            if known.silence is not None:
                known.silence.wait(GIVE_UP_SECONDS)
            self.send_response(status)
            self.send_header("Location", known.uri)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known.uri = f"http://127.0.0.1:{server.server_port}/webhooks"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield known
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator() as running:
        yield running


shop_names = (f"hooked-{number}.myshopify.com" for number in itertools.count())


@pytest.fixture
def store(simulator: Simulator) -> Iterator[Store]:
    """Empty, at a standing noon, with retries that follow at once."""
    simulator.clock.set(NOON)
    options: Answer = {"scopes": SCOPES, "webhook_time_factor": 1e9}
    yield simulator.add_store(next(shop_names), customers=0, **options)
    simulator.clock.set(None)


@pytest.fixture
def hooked(store: Store, receiver: Receiver) -> Store:
    """Subscribed to everything."""
    for topic in TOPICS.values():
        store.subscribe(topic, receiver.uri)
    return store


def ask(simulator: Simulator, store: Store, operation: str, **variables: Any) -> Answer:
    """One operation of the document."""
    text = _with_its_fragments(operation) if operation.isidentifier() else operation
    reply = requests.post(
        f"{simulator.endpoint.format(shop=store.shop)}/admin/api/2026-10/graphql.json",
        json={"query": text, "variables": variables},
        headers={"X-Shopify-Access-Token": store.access_token},
        timeout=5,
    )
    answer: Answer = reply.json()
    return answer


def _with_its_fragments(operation: str) -> str:
    definitions = graphql.parse(DOCUMENTS.read_text(encoding="utf-8")).definitions
    named = {each.name.value: each for each in definitions if getattr(each, "name", None)}  # type: ignore[attr-defined]
    text = graphql.print_ast(named[operation])
    return text + graphql.print_ast(named["Subscription"]) if "...Subscription" in text else text


def settle(store: Store) -> None:
    assert store.wait_for_deliveries(GIVE_UP_SECONDS)


def states(store: Store) -> list[str]:
    return [each["state"] for each in store.deliveries]


def customer(store: Store, **fields: Any) -> Answer:
    """Somebody with all there is, whose creation is no longer spoken of."""
    plain: Answer = {
        "email": "ada@example.com",
        "phone": "+15551234567",
        "defaultAddress": {"city": "Köln", "countryCodeV2": "DE", "country": "Germany"},
        "state": "INVITED",
        "tags": ["old", "vip"],
    }
    made = store.create(**(plain | fields))
    settle(store)
    return made


# subscriptions through the API


def test_a_subscription_is_made_changed_shown_and_removed_through_the_api(
    simulator: Simulator, store: Store
) -> None:
    sub = {"uri": "https://example.com/hooks", "includeFields": ["id", "updated_at"], "name": "n"}
    answer = ask(simulator, store, "CreateWebhook", topic="CUSTOMERS_UPDATE", sub=sub)
    created = answer["data"]["webhookSubscriptionCreate"]
    made = created["webhookSubscription"]
    assert created["userErrors"] == []
    assert made["id"].startswith("gid://shopify/WebhookSubscription/")
    assert made == {
        "id": made["id"],
        "name": "n",
        "topic": "CUSTOMERS_UPDATE",
        "uri": "https://example.com/hooks",
        "format": "JSON",
        "filter": None,
        "includeFields": ["id", "updated_at"],
        "metafieldNamespaces": [],
        "metafields": [],
        "apiVersion": {"handle": "2026-10"},
        "createdAt": "2026-11-24T12:00:00Z",
        "updatedAt": "2026-11-24T12:00:00Z",
    }
    cost = answer["extensions"]["cost"]
    assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == (10, 10)
    simulator.clock.advance(5)
    moved = {"uri": "https://example.com/new"}
    updated = ask(simulator, store, "UpdateWebhook", id=made["id"], sub=moved)["data"]
    shown = updated["webhookSubscriptionUpdate"]["webhookSubscription"]
    assert shown == made | moved | {"updatedAt": "2026-11-24T12:00:05Z"}
    listed = ask(simulator, store, "WebhookSubscriptions", first=10)["data"]
    assert listed["webhookSubscriptions"]["nodes"] == [shown]
    deleted = ask(simulator, store, "DeleteWebhook", id=made["id"])["data"]
    assert deleted["webhookSubscriptionDelete"] == {
        "deletedWebhookSubscriptionId": made["id"],
        "userErrors": [],
    }
    assert store.subscriptions == []


@pytest.mark.parametrize(
    ("topic", "uri", "message"),
    [
        ("CUSTOMERS_UPDATE", "http://example.com/hooks", "Address is invalid"),
        ("CUSTOMERS_UPDATE", "pubsub://project:topic", "Address is invalid"),
        ("CUSTOMERS_UPDATE", "https://", "Address is invalid"),
        (
            "CUSTOMERS_CREATE",
            "https://example.com/hooks",
            "Address for this topic has already been taken",
        ),
        (
            "CUSTOMERS_MERGE",
            "https://example.com/hooks",
            "You do not have permission to create or update webhooks with customers/merge topic.",
        ),
    ],
)
def test_a_refused_subscription_says_why(
    simulator: Simulator, store: Store, topic: str, uri: str, message: str
) -> None:
    store.change(scopes=["read_customers"])
    store.subscribe("CUSTOMERS_CREATE", "https://example.com/hooks")
    answer = ask(simulator, store, "CreateWebhook", topic=topic, sub={"uri": uri})
    refused = answer["data"]["webhookSubscriptionCreate"]
    assert refused["webhookSubscription"] is None
    assert [each["message"] for each in refused["userErrors"]] == [message]
    assert len(store.subscriptions) == 1


def test_app_and_shop_topics_need_no_scope_and_customer_topics_do(store: Store) -> None:
    store.change(scopes=[])
    for topic in ("APP_UNINSTALLED", "APP_SCOPES_UPDATE", "SHOP_UPDATE"):
        store.subscribe(topic, "http://localhost:1/hooks")
    for topic in ("CUSTOMERS_CREATE", "CUSTOMER_TAGS_ADDED", "CUSTOMERS_MERGE"):
        with pytest.raises(UserError, match="permission"):
            store.subscribe(topic, "http://localhost:1/hooks")
    store.change(scopes=["write_customers"])
    store.subscribe("CUSTOMERS_CREATE", "http://localhost:1/hooks")


def test_an_unknown_subscription_is_a_user_error(simulator: Simulator, store: Store) -> None:
    gid = "gid://shopify/WebhookSubscription/1"
    sub = {"uri": "https://example.com"}
    updated = ask(simulator, store, "UpdateWebhook", id=gid, sub=sub)["data"]
    deleted = ask(simulator, store, "DeleteWebhook", id=gid)["data"]
    errors = [{"field": ["id"], "message": "Webhook subscription does not exist"}]
    assert updated["webhookSubscriptionUpdate"]["userErrors"] == errors
    assert deleted["webhookSubscriptionDelete"]["userErrors"] == errors


def test_subscriptions_are_paged_and_picked_by_topic(simulator: Simulator, store: Store) -> None:
    made = [store.subscribe("CUSTOMERS_CREATE", f"https://example.com/{n}")["id"] for n in range(7)]
    other = store.subscribe("SHOP_UPDATE", "https://example.com/")["id"]
    seen: list[str] = []
    variables: Answer = {"first": 3}
    while True:
        page = ask(simulator, store, "WebhookSubscriptions", **variables)["data"]
        seen += [node["id"] for node in page["webhookSubscriptions"]["nodes"]]
        variables["after"] = page["webhookSubscriptions"]["pageInfo"]["endCursor"]
        if not page["webhookSubscriptions"]["pageInfo"]["hasNextPage"]:
            break
    assert seen == [*made, other]
    picked = ask(simulator, store, "WebhookSubscriptions", first=9, topics=["SHOP_UPDATE"])
    assert [node["id"] for node in picked["data"]["webhookSubscriptions"]["nodes"]] == [other]


# what a change tells


def test_a_creation_tells_the_row_in_the_shape_of_the_older_api(
    hooked: Store, receiver: Receiver
) -> None:
    made = customer(hooked, id=2**53 + 1, firstName="Ada", lastName=None, note="né")
    assert receiver.topics() == ["customers/create"]
    body = receiver.got[0].body
    assert set(body) == CUSTOMER_KEYS
    assert set(body["default_address"]) == ADDRESS_KEYS
    assert body["addresses"] == [body["default_address"]]
    assert (body["id"], body["admin_graphql_api_id"]) == (2**53 + 1, made["id"])
    assert (body["first_name"], body["last_name"], body["note"]) == ("Ada", None, "né")
    assert (body["email"], body["phone"]) == ("ada@example.com", "+15551234567")
    assert (body["state"], body["currency"]) == ("invited", "USD")
    assert body["default_address"]["country_code"] == "DE"
    assert body["updated_at"] == "2026-11-24T07:00:00-05:00"


def test_before_2025_01_a_body_has_tags_totals_and_consents(
    hooked: Store, receiver: Receiver
) -> None:
    hooked.change(webhook_api_version="2024-10")
    made = customer(hooked, numberOfOrders=3, amountSpent={"amount": "5.5"})
    hooked.delete(made["id"])
    settle(hooked)
    body = receiver.only("customers/create").body
    assert set(body) == KEYS_UNTIL_2024_10
    assert (body["tags"], body["orders_count"], body["total_spent"]) == ("old, vip", 3, "5.50")
    assert set(body["email_marketing_consent"]) == EMAIL_CONSENT_KEYS
    assert receiver.got[0].headers["x-shopify-api-version"] == "2024-10"
    assert set(receiver.only("customers/delete").body) == keys(
        """
    id phone addresses tax_exemptions email_marketing_consent sms_marketing_consent
    admin_graphql_api_id
    """
    )


def test_an_edit_tells_each_thing_that_changed(hooked: Store, receiver: Receiver) -> None:
    made = customer(hooked)
    number = int(made["legacyResourceId"])
    receiver.got.clear()
    hooked.edit(
        made["id"],
        tags=["vip", "new"],
        state="ENABLED",
        defaultEmailAddress={"marketingState": "PENDING", "marketingOptInLevel": "UNKNOWN"},
        defaultPhoneNumber={
            "smsMarketingConsent": {
                "state": "SUBSCRIBED",
                "optInLevel": "SINGLE_OPT_IN",
                "updatedAt": "2026-11-24T12:00:00Z",
                "collectedFrom": "OTHER",
            }
        },
    )
    settle(hooked)
    assert receiver.topics() == [
        "customer.tags_added",
        "customer.tags_removed",
        "customers/email_marketing_consent_update",
        "customers/enable",
        "customers/marketing_consent_update",
        "customers/update",
    ]
    moment = "2026-11-24T12:00:00.000Z"
    for topic, tag in (("customer.tags_added", "new"), ("customer.tags_removed", "old")):
        assert receiver.only(topic).body == {
            "customerId": made["id"],
            "tags": [tag],
            "occurredAt": moment,
        }
    email = receiver.only("customers/email_marketing_consent_update").body
    assert (email["customer_id"], email["email_address"]) == (number, "ada@example.com")
    assert set(email) == {"customer_id", "email_address", "email_marketing_consent"}
    assert set(email["email_marketing_consent"]) == EMAIL_CONSENT_KEYS
    assert email["email_marketing_consent"]["state"] == "pending"
    assert receiver.only("customers/marketing_consent_update").body == {
        "id": number,
        "phone": "+15551234567",
        "sms_marketing_consent": {
            "state": "subscribed",
            "opt_in_level": "single_opt_in",
            "consent_updated_at": "2026-11-24T07:00:00-05:00",
            "consent_collected_from": "other",
        },
    }
    assert set(receiver.only("customers/enable").body) == CUSTOMER_KEYS
    assert len({each.headers["x-shopify-event-id"] for each in receiver.got}) == 1
    assert len({each.webhook_id for each in receiver.got}) == 6


def test_a_plain_edit_tells_of_itself_only_and_a_disabling_of_both(
    hooked: Store, receiver: Receiver
) -> None:
    made = customer(hooked, phone=None)
    receiver.got.clear()
    hooked.edit(made["id"], note="x", phone="+15550000009")
    settle(hooked)
    assert receiver.topics() == ["customers/update"]
    hooked.edit(made["id"], state="DISABLED")
    settle(hooked)
    assert receiver.topics() == ["customers/disable", "customers/update", "customers/update"]


def test_an_order_tells_of_its_sums_only_and_a_silent_change_of_nothing(
    hooked: Store, receiver: Receiver
) -> None:
    made = customer(hooked, numberOfOrders=1, state="DISABLED")
    receiver.got.clear()
    hooked.edit(made["id"], touch=False, state="ENABLED", tags=[])
    hooked.edit(made["id"], touch=False, numberOfOrders=2, amountSpent={"amount": "7"})
    settle(hooked)
    assert receiver.topics() == ["customers/purchasing_summary"]
    assert receiver.got[0].body == {
        "customerId": made["id"],
        "numberOfOrders": 2,
        "amountSpent": {"amount": "7.00", "currencyCode": "USD"},
        "lastOrderId": None,
        "occurredAt": "2026-11-24T12:00:00.000Z",
    }


def test_a_deletion_tells_hardly_more_than_the_id(hooked: Store, receiver: Receiver) -> None:
    made = customer(hooked)
    receiver.got.clear()
    hooked.delete(made["id"])
    settle(hooked)
    assert receiver.only("customers/delete").body == {
        "id": int(made["legacyResourceId"]),
        "tax_exemptions": [],
        "admin_graphql_api_id": made["id"],
    }


@pytest.mark.parametrize("with_delete", [False, True])
def test_a_merge_tells_of_the_kept_one_and_of_the_merge(
    hooked: Store, receiver: Receiver, with_delete: bool
) -> None:
    hooked.change(merge_fires_delete=with_delete)
    kept, lost = customer(hooked), customer(hooked)
    receiver.got.clear()
    hooked.merge(lost["id"], into=kept["id"])
    settle(hooked)
    told = {"customers/merge", "customers/update"} | (
        {"customers/delete"} if with_delete else set()
    )
    assert receiver.topics() == sorted(told)
    assert receiver.only("customers/update").body["admin_graphql_api_id"] == kept["id"]
    assert receiver.only("customers/merge").body == {
        "admin_graphql_api_customer_kept_id": kept["id"],
        "admin_graphql_api_customer_deleted_id": lost["id"],
        "admin_graphql_api_job_id": None,
        "status": "completed",
        "errors": [],
    }


def test_a_renamed_shop_and_changed_scopes_are_told(hooked: Store, receiver: Receiver) -> None:
    hooked.change(name="New name", latency_ms=0)
    hooked.change(scopes=[*SCOPES, "read_orders"])
    hooked.change(index_lag_seconds=1)
    settle(hooked)
    assert receiver.topics() == ["app/scopes_update", "shop/update"]
    shop = receiver.only("shop/update").body
    assert set(shop) == SHOP_KEYS
    assert (shop["id"], shop["name"], shop["myshopify_domain"]) == (
        hooked.shop_id,
        "New name",
        hooked.shop,
    )
    assert receiver.only("app/scopes_update").body == {
        "id": 1,
        "shop_id": hooked.gid,
        "previous": SCOPES,
        "current": [*SCOPES, "read_orders"],
        "updated_at": "2026-11-24T12:00:00.000Z",
    }


def test_an_uninstall_ends_tokens_and_subscriptions_and_is_told(
    simulator: Simulator, hooked: Store, receiver: Receiver
) -> None:
    hooked.uninstall()
    settle(hooked)
    assert receiver.topics() == ["app/uninstalled"]
    assert set(receiver.got[0].body) == SHOP_KEYS
    assert hooked.subscriptions == []
    assert "errors" in ask(simulator, hooked, "query { shop { id } }")
    form = {"grant_type": "client_credentials"} | {
        "client_id": hooked.credentials.client_id,
        "client_secret": hooked.credentials.client_secret,
    }
    url = f"{simulator.endpoint.format(shop=hooked.shop)}/admin/oauth/access_token"
    assert requests.post(url, data=form, timeout=5).status_code == 400
    hooked.create()
    settle(hooked)
    assert receiver.topics() == ["app/uninstalled"]


def test_compliance_topics_go_to_their_own_address_without_a_subscription(
    hooked: Store, receiver: Receiver
) -> None:
    made = customer(hooked)
    number = int(made["legacyResourceId"])
    receiver.got.clear()
    hooked.request_data(number)
    assert hooked.deliveries[-1]["topic"] == "customers/create"
    hooked.change(compliance_uri=receiver.uri)
    hooked.request_data(number)
    hooked.request_redaction(number)
    hooked.request_redaction(number)
    hooked.redact_shop()
    settle(hooked)
    shop = {"shop_id": hooked.shop_id, "shop_domain": hooked.shop}
    known = {"id": number, "email": "ada@example.com", "phone": "+15551234567"}
    gone = {"id": number, "email": None, "phone": None}
    sent: dict[str, list[Answer]] = {topic: [] for topic in receiver.topics()}
    for each in receiver.got:
        sent[each.topic].append(each.body)
    (request,) = sent["customers/data_request"]
    assert request == shop | {
        "customer": known,
        "orders_requested": [],
        "data_request": {"id": request["data_request"]["id"]},
    }
    assert sorted(sent["customers/redact"], key=str) == sorted(
        [shop | {"customer": each, "orders_to_redact": []} for each in (known, gone)], key=str
    )
    assert sent["shop/redact"] == [shop]
    assert set(sent) == {"customers/data_request", "customers/redact", "shop/redact"}
    assert hooked.size == 0


# how it is sent


def test_a_delivery_is_signed_and_named_by_its_headers(store: Store, receiver: Receiver) -> None:
    store.subscribe("CUSTOMERS_CREATE", receiver.uri, name="main")
    store.create()
    store.change(webhook_secret="rotated")
    store.create()
    settle(store)
    records = {each["webhookId"]: each for each in store.deliveries}
    keys = {store.deliveries[0]["webhookId"]: f"secret-{store.shop.split('.')[0]}"}
    for got in receiver.got:
        key = keys.get(got.webhook_id, "rotated")
        digest = hmac.digest(key.encode(), got.raw, hashlib.sha256)
        assert got.headers["x-shopify-hmac-sha256"] == base64.b64encode(digest).decode()
        record = records[got.webhook_id]
        assert {
            "content-type": "application/json",
            "x-shopify-topic": "customers/create",
            "x-shopify-shop-domain": store.shop,
            "x-shopify-api-version": "2026-10",
            "x-shopify-event-id": record["eventId"],
            "x-shopify-triggered-at": "2026-11-24T12:00:00.000Z",
            "x-shopify-name": "main",
        }.items() <= got.headers.items()
        assert record["body"].encode() == got.raw


def test_a_record_tells_what_was_sent_and_what_came_of_it(store: Store, receiver: Receiver) -> None:
    subscription = store.subscribe("CUSTOMERS_CREATE", receiver.uri)
    before = time.time()
    made = store.create()
    settle(store)
    (record,) = store.deliveries
    (attempt,) = record["attempts"]
    assert record["subscriptionId"] == subscription["id"]
    assert record["customerId"] == int(made["legacyResourceId"])
    assert (record["uri"], record["state"]) == (receiver.uri, "delivered")
    assert record["triggeredAt"] == "2026-11-24T12:00:00.000Z"
    assert attempt["status"] == 200
    assert before <= record["madeAt"] <= attempt["sentAt"] <= attempt["answeredAt"]
    store.clear_deliveries()
    assert store.deliveries == []


def test_fields_can_be_picked(store: Store, receiver: Receiver) -> None:
    fields = ["id", "admin_graphql_api_id", "updated_at"]
    store.subscribe("CUSTOMERS_CREATE", receiver.uri, includeFields=fields)
    store.create()
    settle(store)
    assert set(receiver.got[0].body) == set(fields)


@pytest.mark.parametrize("status", [301, 404, 500])
def test_only_2xx_counts_and_a_retry_is_the_same_again(
    store: Store, receiver: Receiver, status: int
) -> None:
    store.subscribe("CUSTOMERS_UPDATE", receiver.uri)
    receiver.answers = itertools.chain([status, status], itertools.repeat(202))
    made = customer(store)
    store.edit(made["id"], note="first")
    settle(store)
    store.edit(made["id"], note="second")
    settle(store)
    same, other = receiver.got[:3], receiver.got[3:]
    assert {(each.raw, each.webhook_id) for each in same} == {(same[0].raw, same[0].webhook_id)}
    assert [each.body["note"] for each in other] == ["second"]
    tries = [attempt["status"] for attempt in store.deliveries[0]["attempts"]]
    assert tries == [status, status, 202]
    assert states(store) == ["delivered", "delivered"]


def test_after_8_failed_retries_the_subscription_is_removed(
    store: Store, receiver: Receiver
) -> None:
    store.subscribe("CUSTOMERS_CREATE", receiver.uri)
    store.subscribe("SHOP_UPDATE", receiver.uri)
    receiver.answers = itertools.repeat(503)
    store.create()
    settle(store)
    assert len(receiver.got) == 9
    assert states(store) == ["failed"]
    assert [each["topic"] for each in store.subscriptions] == ["SHOP_UPDATE"]
    store.create()
    assert len(store.deliveries) == 1


def test_a_receiver_that_is_not_there_is_an_error_of_the_attempt(store: Store) -> None:
    store.subscribe("CUSTOMERS_CREATE", "http://127.0.0.1:1/hooks")
    store.create()
    settle(store)
    assert {each["error"] for each in store.deliveries[0]["attempts"]} == {"ConnectionError"}


# on demand


def test_copies_share_their_webhook_id(store: Store, receiver: Receiver) -> None:
    store.subscribe("CUSTOMERS_CREATE", receiver.uri)
    store.change(webhook_copies=3)
    store.create()
    settle(store)
    assert len(receiver.got) == 3
    assert len({each.webhook_id for each in receiver.got}) == 1


def test_dropped_ones_are_recorded_and_never_sent(store: Store, receiver: Receiver) -> None:
    store.subscribe("CUSTOMERS_CREATE", receiver.uri)
    store.change(webhook_drop=0.5)
    for _ in range(40):
        store.create()
    settle(store)
    assert 5 < states(store).count("dropped") < 35
    assert len(receiver.got) == states(store).count("delivered")


def test_a_delay_is_waited(store: Store, receiver: Receiver) -> None:
    store.subscribe("CUSTOMERS_CREATE", receiver.uri)
    store.change(webhook_delay_seconds=0.1)
    store.create()
    settle(store)
    (record,) = store.deliveries
    assert record["attempts"][0]["sentAt"] - record["madeAt"] >= 0.099


def sent_order(store: Store, receiver: Receiver) -> list[int]:
    places = {each["webhookId"]: place for place, each in enumerate(store.deliveries)}
    return [places[each.webhook_id] for each in receiver.got]


@pytest.mark.parametrize("order", ["fifo", "reversed", "random"])
def test_held_deliveries_are_released_in_the_order_asked_for(
    store: Store, receiver: Receiver, order: Any
) -> None:
    store.subscribe("CUSTOMERS_CREATE", receiver.uri)
    store.change(webhook_hold=True, webhook_parallel=1)
    for _ in range(20):
        store.create()
    settle(store)
    assert receiver.got == []
    assert states(store) == ["held"] * 20
    assert store.release(order) == 20
    store.create()
    settle(store)
    seen = sent_order(store, receiver)
    assert sorted(seen) == list(range(20))
    assert (seen == list(range(20))) is (order == "fifo")
    assert (seen == list(reversed(range(20)))) is (order == "reversed")
    assert states(store) == [*["delivered"] * 20, "held"]


def test_the_end_of_holding_is_a_burst_and_copies_can_be_released(
    store: Store, receiver: Receiver
) -> None:
    store.subscribe("CUSTOMERS_CREATE", receiver.uri)
    store.change(webhook_hold=True)
    store.create()
    assert store.release(copies=2) == 2
    settle(store)
    assert len(receiver.got) == 2
    assert len({each.webhook_id for each in receiver.got}) == 1
    store.create()
    store.create()
    store.change(webhook_hold=False)
    settle(store)
    assert len(receiver.got) == 4


def test_a_reordering_store_sends_at_random(store: Store, receiver: Receiver) -> None:
    store.subscribe("CUSTOMERS_CREATE", receiver.uri)
    store.change(webhook_hold=True, webhook_parallel=1, webhook_reorder=True)
    for _ in range(20):
        store.create()
    store.change(webhook_hold=False)
    settle(store)
    seen = sent_order(store, receiver)
    assert seen != sorted(seen)
    assert sorted(seen) == list(range(20))


def test_a_webhook_can_be_made_by_hand_and_is_sent_once(store: Store, receiver: Receiver) -> None:
    receiver.answers = itertools.repeat(401)
    store.change(webhook_hold=True, webhook_copies=5)
    made = store.send_webhook(
        "customers/update",
        b"no json \xff",
        receiver.uri,
        webhook_id="mine",
        event_id="ours",
        secret="wrong",
        headers={"X-Shopify-Hmac-Sha256": "ünsigned", "X-Shopify-Triggered-At": None},
    )
    settle(store)
    (got,) = receiver.got
    assert (made["webhookId"], got.webhook_id) == ("mine", "mine")
    assert got.raw == b"no json \xff"
    assert got.headers["x-shopify-hmac-sha256"].encode("latin-1") == "ünsigned".encode()
    assert "x-shopify-triggered-at" not in got.headers
    assert states(store) == ["failed"]


# ends


def test_a_receiver_that_hangs_does_not_hold_up_the_stop(receiver: Receiver) -> None:
    receiver.silence = threading.Event()
    others = set(threading.enumerate())
    with running_simulator() as simulator:
        store = simulator.add_store("slow.myshopify.com", customers=0)
        store.subscribe("CUSTOMERS_CREATE", receiver.uri)
        for _ in range(4):
            store.create()
        _until(lambda: len(receiver.got) == 4)
        couriers = [each for each in threading.enumerate() if each.name == "shopify-webhooks"]
        began = time.monotonic()
    assert time.monotonic() - began < 1
    receiver.silence.set()
    assert {each for each in couriers if each.is_alive()} <= others
    assert set(couriers) - others
    assert not store.wait_for_deliveries(0)


def _until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GIVE_UP_SECONDS
    pause = threading.Event()
    while not true() and time.monotonic() < give_up:
        pause.wait(0.005)
    assert true()


# reads by id that lag


BY_IDS = "query ByIds($ids: [ID!]!) { nodes(ids: $ids) { ... on Customer { id note } } }"
BY_ID = "query ById($id: ID!) { customer(id: $id) { note } node(id: $id) { id } }"


def notes(simulator: Simulator, store: Store, *ids: str) -> list[str | None]:
    found = ask(simulator, store, BY_IDS, ids=list(ids))["data"]["nodes"]
    return [node and node["note"] for node in found]


def test_reads_by_id_can_show_the_past(simulator: Simulator, store: Store) -> None:
    old = store.create(note="old")["id"]
    store.change(replica_lag_seconds=10)
    simulator.clock.advance(60)
    new = store.create(note="new")["id"]
    store.edit(old, note="edited")
    assert notes(simulator, store, old, new) == ["old", None]
    simulator.clock.advance(5)
    store.edit(old, note="edited again")
    simulator.clock.advance(5)
    assert notes(simulator, store, old, new) == ["edited", "new"]
    store.delete(old)
    simulator.clock.advance(9)
    assert notes(simulator, store, old) == ["edited again"]
    simulator.clock.advance(1)
    assert notes(simulator, store, old) == [None]
    store.edit(new, note="newer")
    late = ask(simulator, store, BY_ID, id=new)["data"]
    assert late == {"customer": {"note": "new"}, "node": {"id": new}}
    store.change(replica_lag_seconds=0)
    assert notes(simulator, store, old, new) == [None, "newer"]


def test_nodes_can_be_null_altogether(simulator: Simulator, store: Store) -> None:
    gid = store.create(note="here")["id"]
    store.fault("null_nodes", after=1)
    ask(simulator, store, BY_ID, id=gid)
    assert [notes(simulator, store, gid, gid) for _ in range(3)] == [
        ["here", "here"],
        [None, None],
        ["here", "here"],
    ]


# control and documents


def test_the_control_api_offers_webhooks_too(
    simulator: Simulator, store: Store, receiver: Receiver
) -> None:
    below = f"{simulator.url}/_control/stores/{store.shop}"

    def call(method: str, path: str, status: int = 200, body: Any = None) -> Any:
        reply = requests.request(method, below + path, json=body, timeout=5)
        assert reply.status_code == status, reply.text
        return reply.json()

    hook = {"topic": "CUSTOMERS_CREATE", "uri": receiver.uri}
    made = call("POST", "/subscriptions", 201, hook)
    assert "taken" in call("POST", "/subscriptions", 400, hook)["error"]
    assert call("GET", "/subscriptions") == [made]
    call("PATCH", "", 200, {"webhookHold": True, "complianceUri": receiver.uri})
    customer_id = call("POST", "/customers", 201, {})["legacyResourceId"]
    assert call("POST", "/release", 200, {"order": "random", "copies": 2}) == {"released": 2}
    call("POST", "/release", 400, {"order": "sideways"})
    call("PATCH", "", 200, {"webhookHold": False})
    call("POST", f"/customers/{customer_id}/data-request")
    call("POST", f"/customers/{customer_id}/redaction")
    call("POST", "/redact-shop")
    text = {"topic": "odd", "body": "{", "uri": receiver.uri, "headers": {"X-Odd": "1"}}
    assert call("POST", "/webhooks", 201, text)["body"] == "{"
    call("POST", "/webhooks", 201, text | {"body": {"a": 1}})
    call("POST", "/uninstall")
    settle(store)
    assert len(call("GET", "/deliveries")) == len(receiver.got) == 7
    call("DELETE", "/deliveries")
    assert call("GET", "/deliveries") == []
    call("PATCH", "", 200, {"accessToken": "back"})
    again = call("POST", "/subscriptions", 201, hook)["id"]
    call("DELETE", f"/subscriptions/{again}")
    call("DELETE", f"/subscriptions/{again.split('/')[-1]}", 404)


def test_documents_are_read_with_the_fragments_beside_them(tmp_path: Path) -> None:
    parts = {
        "Operation": "query Operation { shop { ...Outer } }",
        "Outer": "fragment Outer on Shop { id ...Inner }",
        "Inner": "fragment Inner on Shop { name }",
        "Unused": "fragment Unused on Shop { email }",
    }
    for name, text in parts.items():
        (tmp_path / f"{name}.graphql").write_text(text, encoding="utf-8")
    ((path, whole),) = trim_schema.read_documents([tmp_path]).items()
    schema = graphql.build_schema(
        "schema { query: Q } type Q { shop: Shop } type Shop { id: ID name: String email: String }"
    )
    usage = trim_schema.usage_of(schema, {path: whole})
    assert usage.fields == {("Q", "shop"), ("Shop", "id"), ("Shop", "name")}
