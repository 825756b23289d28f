"""The stand-in for Shopify keeps what FACTS says of Shopify, seen through a real HTTP client."""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import graphql
import pytest
import requests

from shopify_simulator import document, trim_schema
from shopify_simulator.server import running_simulator
from shopify_simulator.simulator import Simulator
from shopify_simulator.stores import Store

PAGE = """
query Page($first: Int!, $after: String, $query: String, $reverse: Boolean) {
  customers(
    first: $first, after: $after, query: $query, sortKey: UPDATED_AT, reverse: $reverse
  ) { nodes { id updatedAt createdAt } pageInfo { hasNextPage endCursor } }
}
"""
PAGE_BY_ID = PAGE.replace("UPDATED_AT", "ID")
FULL_PAGE = """
query Full($first: Int!, $query: String) {
  customers(first: $first, query: $query, sortKey: UPDATED_AT) {
    nodes {
      id firstName lastName displayName tags note numberOfOrders email phone createdAt updatedAt
      amountSpent { amount currencyCode }
      defaultEmailAddress { emailAddress marketingState }
      defaultPhoneNumber { phoneNumber smsMarketingConsent { state } }
      defaultAddress { city countryCodeV2 }
    }
    pageInfo { hasNextPage endCursor }
  }
}
"""
BY_IDS = """
query ByIds($ids: [ID!]!) {
  nodes(ids: $ids) {
    __typename
    ... on Customer { id firstName updatedAt amountSpent { amount } defaultAddress { city } }
  }
}
"""
COUNT = "query Count($query: String) { customersCount(query: $query, limit: null) { count } }"
SHOP = "query Shop { shop { id myshopifyDomain } }"
NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)

Answer = dict[str, Any]


class Client:
    def __init__(self, simulator: Simulator, store: Store, session: requests.Session) -> None:
        self.store = store
        self.base = simulator.endpoint.format(shop=store.shop)
        self.session = session

    def post(
        self, text: str, /, *, token: str | None = "", version: str = "2026-10", **variables: Any
    ) -> requests.Response:
        return self.session.post(
            f"{self.base}/admin/api/{version}/graphql.json",
            json={"query": text, "variables": variables},
            headers={"X-Shopify-Access-Token": token or self.store.access_token or ""},
            timeout=5,
            allow_redirects=False,
        )

    def ask(self, text: str, /, **variables: Any) -> Answer:
        answer: Answer = self.post(text, **variables).json()
        return answer

    def matching(self, query: str | None) -> list[str]:
        page = self.ask(PAGE, first=250, query=query)
        return [node["updatedAt"] for node in page["data"]["customers"]["nodes"]]

    def oauth(self, **form: str) -> requests.Response:
        return self.session.post(f"{self.base}/admin/oauth/access_token", data=form, timeout=5)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        yield opened


shop_names = (f"store-{number}.myshopify.com" for number in itertools.count())


@pytest.fixture
def client(simulator: Simulator, session: requests.Session) -> Iterator[Client]:
    """Of an empty store at a standing noon."""
    simulator.clock.set(NOON)
    yield Client(simulator, simulator.add_store(next(shop_names), customers=0), session)
    simulator.clock.set(None)


def at(client: Client, *moments: str) -> None:
    for moment in moments:
        client.store.create(updatedAt=moment, createdAt=moment)


def codes(answer: Answer) -> list[str]:
    return [error["extensions"]["code"] for error in answer["errors"]]


# schema and documents


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "required: FULL.json.gz"), (["none.gz"], "there is no file none.gz")],
)
def test_the_schema_is_trimmed_of_a_file_that_is_there(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        trim_schema.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        trim_schema.main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m shopify_simulator.trim_schema")


@pytest.mark.parametrize("path", trim_schema.read_documents(), ids=lambda path: path.name)
def test_every_document_is_valid_against_the_trimmed_schema(path: Path) -> None:
    whole = trim_schema.read_documents([path.parent])[path]
    assert graphql.validate(document.schema(), whole) == []


@pytest.mark.skipif(not os.environ.get("ADMIN_SCHEMA"), reason="needs Shopify's full schema")
def test_the_trimmed_schema_is_what_the_documents_need_of_the_full_one() -> None:
    full = trim_schema.load_full_schema(Path(os.environ["ADMIN_SCHEMA"]))
    usage = trim_schema.usage_of(full, trim_schema.read_documents())
    assert trim_schema.trim(full, usage) == trim_schema.TRIMMED.read_text(encoding="utf-8")


def test_an_unknown_field_is_refused_with_status_200_and_no_data(client: Client) -> None:
    reply = client.post("query { shop { id colour } }")
    assert reply.status_code == 200
    assert "data" not in reply.json()
    assert reply.json()["errors"][0]["message"] == "Field 'colour' doesn't exist on type 'Shop'"
    assert codes(reply.json()) == ["undefinedField"]


def test_a_variable_of_the_wrong_type_is_refused(client: Client) -> None:
    assert codes(client.ask(PAGE, first="many")) == ["INVALID_VARIABLE"]


def test_fragments_aliases_and_typename_are_answered(client: Client) -> None:
    made = client.store.create(firstName="Ada", lastName=None)
    answer = client.ask(
        "query { __typename c: customers(first: 1) { edges { cursor node { ...F kind: __typename }"
        " } } } fragment F on Customer { forename: firstName ... { displayName } id }"
    )
    edge = answer["data"]["c"]["edges"][0]
    assert answer["data"]["__typename"] == "QueryRoot"
    assert edge["cursor"]
    assert edge["node"] == {
        "forename": "Ada",
        "displayName": "Ada",
        "id": made["id"],
        "kind": "Customer",
    }


# the filter language


@pytest.mark.parametrize(
    ("query", "hits"),
    [
        ("updated_at:>='2026-11-20T10:00:00Z'", [10, 11]),
        ("updated_at:>'2026-11-20T10:00:00Z'", [10, 11]),
        ("updated_at:<'2026-11-20T10:00:00Z'", [9, 10]),
        ("updated_at:<='2026-11-20T10:59:59Z'", [9, 10]),
        ("updated_at:>='2026-11-20T11:00:00+01:00' AND updated_at:<='2026-11-20T10:30:00Z'", [10]),
        ("updated_at:'2026-11-20T10:00:00Z'", [10]),
        ("created_at:>='2026-11-20T10:30:00Z'", [11]),
        ("created_at:>='2026-11-20T10:00:00Z' updated_at:<='2026-11-20T10:00:00Z'", [10]),
    ],
)
def test_a_quoted_timestamp_is_exact_and_every_bound_is_inclusive(
    client: Client, query: str, hits: list[int]
) -> None:
    at(client, *(f"2026-11-20T{hour:02}:00:00Z" for hour in (9, 10, 11)))
    assert client.matching(query) == [f"2026-11-20T{hour:02}:00:00Z" for hour in hits]


def test_a_timestamp_without_quotes_matches_its_whole_day(client: Client) -> None:
    at(client, "2026-11-19T23:59:59Z", "2026-11-20T00:00:00Z", "2026-11-20T23:59:59Z")
    assert len(client.matching("updated_at:>=2026-11-20T15:00:00Z")) == 2
    assert len(client.matching("updated_at:<=2026-11-19T01:00:00Z")) == 1
    assert len(client.matching("updated_at:2026-11-20")) == 2


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("updatd_at:>='2026-11-20T00:00:00Z'", "invalid_field"),
        ("updated_at:>='yesterday'", "invalid_value"),
        ("(oops", "invalid_term"),
    ],
)
def test_what_the_filter_does_not_understand_is_ignored_with_a_warning(
    client: Client, query: str, code: str
) -> None:
    at(client, "2020-01-01T00:00:00Z", "2026-11-20T00:00:00Z")
    answer = client.ask(PAGE, first=10, query=query)
    assert len(answer["data"]["customers"]["nodes"]) == 2
    note = answer["extensions"]["search"][0]
    assert (note["path"], note["query"]) == (["customers"], query)
    assert [warning["code"] for warning in note["warnings"]] == [code]


def test_ids_can_be_filtered_and_counted(client: Client) -> None:
    numbers = sorted(int(client.store.create()["legacyResourceId"]) for _ in range(5))
    query = f"id:>={numbers[2]}"
    assert client.ask(COUNT, query=query)["data"]["customersCount"]["count"] == 3
    page = client.ask(PAGE_BY_ID, first=10, query=query)["data"]["customers"]["nodes"]
    assert [int(node["id"].split("/")[-1]) for node in page] == numbers[2:]


# paging


def pages(client: Client, document_text: str, **variables: Any) -> Iterator[list[str]]:
    after = None
    while True:
        found = client.ask(document_text, after=after, **variables)["data"]["customers"]
        yield [node["id"] for node in found["nodes"]]
        after = found["pageInfo"]["endCursor"]
        if not found["pageInfo"]["hasNextPage"]:
            return


@pytest.mark.parametrize("reverse", [False, True])
def test_paging_over_equal_timestamps_shows_everybody_once_and_in_order(
    client: Client, reverse: bool
) -> None:
    client.store.fill(150)
    at(client, *["2026-11-20T10:00:00Z"] * 50)
    seen = [each for page in pages(client, PAGE, first=7, reverse=reverse) for each in page]
    rows = sorted(
        (row["updatedAt"], int(row["legacyResourceId"]), row["id"])
        for row in client.store.customers()
    )
    assert seen == [row[2] for row in (reversed(rows) if reverse else rows)]


def test_a_customer_edited_while_paging_moves_to_the_end(client: Client) -> None:
    client.store.fill(20)
    scan = pages(client, PAGE, first=5)
    first = next(scan)
    client.store.edit(first[0], note="moved")
    rest = [each for page in scan for each in page]
    assert rest[-1] == first[0]
    assert len(set(first + rest)) == 20


@pytest.mark.parametrize("cursor", ["nonsense", "bm9uc2Vuc2U=", "other sort key"])
def test_a_cursor_that_is_broken_or_of_another_order_is_refused(
    client: Client, cursor: str
) -> None:
    client.store.fill(3)
    if cursor == "other sort key":
        page = client.ask(PAGE_BY_ID, first=1)["data"]["customers"]["pageInfo"]
        cursor = page["endCursor"]
    answer = client.ask(PAGE, first=1, after=cursor)
    message = "Invalid cursor for current pagination sort."
    assert [error["message"] for error in answer["errors"]] == [message]
    assert "data" not in answer


# reading by id, editing, the index


def test_nodes_keep_the_order_asked_for_and_deleted_or_foreign_ids_are_null(
    client: Client,
) -> None:
    one, two, gone = (client.store.create()["id"] for _ in range(3))
    client.store.delete(gone)
    answer = client.ask(BY_IDS, ids=[two, gone, one, "gid://shopify/Order/1"])["data"]["nodes"]
    assert [node and node["id"] for node in answer] == [two, None, one, None]
    assert answer[0]["__typename"] == "Customer"


def test_more_than_250_ids_are_refused(client: Client) -> None:
    too_many = [f"gid://shopify/Customer/{number}" for number in range(251)]
    answer = client.ask("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=too_many)
    assert codes(answer) == ["MAX_INPUT_SIZE_EXCEEDED"]


def test_an_edit_without_touch_leaves_updated_at_alone(client: Client) -> None:
    made = client.store.create(updatedAt="2026-01-01T00:00:00Z")
    ordered = client.store.edit(made["id"], touch=False, amountSpent={"amount": "19.90"})
    assert ordered["updatedAt"] == made["updatedAt"]
    assert ordered["amountSpent"] == {"amount": "19.90", "currencyCode": "USD"}
    assert client.store.edit(made["id"], email="new@example.com")["updatedAt"] == (
        "2026-11-24T12:00:00Z"
    )
    assert client.store.customer(made["id"])["defaultEmailAddress"]["emailAddress"] == (
        "new@example.com"
    )
    with pytest.raises(ValueError, match="fristName"):
        client.store.edit(made["id"], fristName="typo")


def test_a_merge_keeps_one_customer_with_the_orders_of_both(client: Client) -> None:
    kept = client.store.create(numberOfOrders=1, amountSpent={"amount": "1.50"}, tags=["a"])
    lost = client.store.create(numberOfOrders=2, amountSpent={"amount": "2.25"}, tags=["b"])
    merged = client.store.merge(lost["id"], into=kept["id"])
    assert (merged["numberOfOrders"], merged["amountSpent"]["amount"]) == ("3", "3.75")
    assert merged["tags"] == ["a", "b"]
    assert [row["id"] for row in client.store.customers()] == [kept["id"]]


def test_the_search_lags_behind_but_shows_fresh_rows_and_nodes_see_all_at_once(
    client: Client, simulator: Simulator
) -> None:
    old = client.store.create(updatedAt="2026-11-01T00:00:00Z", firstName="Old")["id"]
    client.ask(PAGE, first=1)  # indexed before the lag begins
    client.store.change(indexLagSeconds=60)
    client.store.edit(old, firstName="Fresh")
    new = client.store.create()["id"]
    since = "updated_at:>='2026-11-20T00:00:00Z'"
    assert client.matching(since) == []
    before = client.ask(FULL_PAGE, first=5, query="updated_at:<='2026-11-02T00:00:00Z'")
    assert [n["firstName"] for n in before["data"]["customers"]["nodes"]] == ["Fresh"]
    assert all(client.ask(BY_IDS, ids=[old, new])["data"]["nodes"])
    simulator.clock.advance(60)
    assert len(client.matching(since)) == 2


# cost and throttling


@pytest.mark.parametrize(("first", "cost"), [(50, 37), (100, 47), (250, 57)])
def test_a_page_of_customers_costs_what_it_costs_at_shopify(
    client: Client, first: int, cost: int
) -> None:
    assert client.ask(FULL_PAGE, first=first)["extensions"]["cost"]["requestedQueryCost"] == cost


def test_a_list_of_ids_costs_for_every_id_and_too_many_are_too_costly(client: Client) -> None:
    ids = [client.store.create()["id"] for _ in range(3)]
    cost = client.ask(BY_IDS, ids=[*ids, "gid://shopify/Customer/1"])["extensions"]["cost"]
    assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == (8, 6)
    wide = BY_IDS.replace("id firstName", "id addressesV2(first: 250) { nodes { id } } firstName")
    assert codes(client.ask(wide, ids=ids * 30)) == ["MAX_COST_EXCEEDED"]


def test_a_short_bucket_throttles_and_the_exact_wait_refills_it(
    client: Client, simulator: Simulator
) -> None:
    client.store.fill(250)
    client.store.change(maximumAvailable=80, restoreRate=10)
    assert client.ask(FULL_PAGE, first=250)["extensions"]["cost"]["actualQueryCost"] == 57
    throttled = client.ask(FULL_PAGE, first=250)
    cost = throttled["extensions"]["cost"]
    assert codes(throttled) == ["THROTTLED"]
    assert "data" not in throttled
    assert cost["actualQueryCost"] is None
    assert cost["throttleStatus"] == {
        "maximumAvailable": 80.0,
        "currentlyAvailable": 23.0,
        "restoreRate": 10.0,
    }
    wait = (cost["requestedQueryCost"] - cost["throttleStatus"]["currentlyAvailable"]) / 10
    simulator.clock.advance(wait - 0.1)
    assert codes(client.ask(FULL_PAGE, first=250)) == ["THROTTLED"]
    simulator.clock.advance(0.1)
    assert "errors" not in client.ask(FULL_PAGE, first=250)


def test_the_bucket_runs_on_real_time_while_the_clock_is_not_set(
    client: Client, simulator: Simulator
) -> None:
    simulator.clock.set(None)
    client.store.change(maximumAvailable=57, restoreRate=1000)
    client.ask(SHOP)  # the bucket has seen the clock go back
    client.store.bucket.available = 0
    time.sleep(0.06)
    assert "errors" not in client.ask(FULL_PAGE, first=250)


# access


@pytest.mark.parametrize(
    ("field", "scope"),
    [
        ("lastOrder { id }", "read_orders"),
        ("mergeable { isMergeable }", "read_customer_merge"),
        ("companyContactProfiles { id }", "read_companies"),
        ("defaultEmailAddress { marketingUnsubscribeUrl }", "write_customers"),
        ("defaultEmailAddress { openTrackingUrl }", "write_customers"),
    ],
)
def test_a_field_behind_a_scope_denies_the_query_until_it_is_granted(
    client: Client, field: str, scope: str
) -> None:
    query = f"query {{ customers(first: 1) {{ nodes {{ id {field} }} }} }}"
    client.store.create()
    denied = client.ask(query)
    assert codes(denied) == ["ACCESS_DENIED"]
    assert denied["data"] is None
    assert scope in denied["errors"][0]["message"]
    client.store.change(scopes=["read_customers", scope])
    assert "errors" not in client.ask(query)


def test_customers_need_read_customers_and_the_shop_does_not(client: Client) -> None:
    client.store.change(scopes=[])
    assert set(codes(client.ask(PAGE, first=1))) == {"ACCESS_DENIED"}
    scopes = client.ask("query { currentAppInstallation { accessScopes { handle } } shop { id } }")
    assert scopes["data"]["currentAppInstallation"]["accessScopes"] == []


def test_level_1_nulls_protected_fields_and_says_so_beside_the_data(client: Client) -> None:
    client.store.create(email="a@example.com")
    client.store.change(protectedData="level1")
    answer = client.ask(FULL_PAGE, first=1)
    row = answer["data"]["customers"]["nodes"][0]
    hidden = ("firstName", "displayName", "email", "phone", "defaultEmailAddress", "defaultAddress")
    assert [row[name] for name in hidden] == [None] * len(hidden)
    assert row["amountSpent"]["currencyCode"] == "USD"
    assert set(codes(answer)) == {"ACCESS_DENIED"}
    client.store.change(protectedData="none")
    assert client.ask(FULL_PAGE, first=1)["data"] is None


def test_a_wrong_or_revoked_token_is_401_with_a_plain_string(client: Client) -> None:
    assert client.post(SHOP).status_code == 200
    refused = client.post(SHOP, token="shpat_wrong")
    assert refused.status_code == 401
    assert isinstance(refused.json()["errors"], str)
    revoked = client.store.access_token
    client.store.credentials.replace_access_token(None)
    assert client.post(SHOP, token=revoked).status_code == 401


def test_client_credentials_give_a_token_that_ends(client: Client, simulator: Simulator) -> None:
    known = client.store.credentials
    pair = {"client_id": known.client_id or "", "client_secret": known.client_secret or ""}
    client.store.change(tokenLifetimeSeconds=100)
    granted = client.oauth(grant_type="client_credentials", **pair).json()
    assert (granted["scope"], granted["expires_in"]) == ("read_customers", 100)
    assert client.post(SHOP, token=granted["access_token"]).status_code == 200
    simulator.clock.advance(100)
    assert client.post(SHOP, token=granted["access_token"]).status_code == 401
    refused = client.oauth(grant_type="client_credentials", client_id="x", client_secret="y")
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_client")


def test_a_refresh_token_is_taken_again_until_its_replacement_is_used(
    client: Client, simulator: Simulator
) -> None:
    known, old_token = client.store.credentials, client.store.access_token
    form = {
        "grant_type": "refresh_token",
        "client_id": known.client_id or "",
        "client_secret": known.client_secret or "",
        "refresh_token": known.refresh_token or "",
    }
    granted = client.oauth(**form).json()
    assert granted["expires_in"] == 3600
    assert client.post(SHOP, token=granted["access_token"]).status_code == 200
    assert client.post(SHOP, token=old_token).status_code == 401
    second = client.oauth(**form).json()  # as if the first answer had been lost
    assert client.post(SHOP, token=granted["access_token"]).status_code == 401
    third = client.oauth(**{**form, "refresh_token": second["refresh_token"]}).json()
    assert client.oauth(**form).json()["error"] == "invalid_grant"
    spent = {**form, "refresh_token": second["refresh_token"]}
    simulator.clock.advance(31 * 24 * 3600)
    assert client.oauth(**spent).json()["error"] == "invalid_grant"
    assert client.oauth(**{**form, "refresh_token": third["refresh_token"]}).status_code == 200


# headers


def test_the_date_header_is_the_simulators_clock_and_stands_once(client: Client) -> None:
    reply = client.post(SHOP)
    assert reply.raw.headers.getlist("Date") == ["Tue, 24 Nov 2026 12:00:00 GMT"]
    assert reply.headers["X-Request-Id"]


def test_an_expired_version_is_served_as_the_oldest_supported_one(client: Client) -> None:
    assert client.post(SHOP).headers["X-Shopify-API-Version"] == "2026-10"
    assert client.post(SHOP, version="2020-01").headers["X-Shopify-API-Version"] == "2026-01"


def test_an_unknown_shop_is_404(simulator: Simulator, session: requests.Session) -> None:
    url = f"{simulator.endpoint.format(shop='nobody.myshopify.com')}/admin/api/2026-10/graphql.json"
    assert session.post(url, json={"query": SHOP}, timeout=5).status_code == 404


# faults


@pytest.mark.parametrize("status", [401, 402, 403, 404, 423, 429, 430, 500, 502, 503, 504])
def test_a_status_fault_answers_once_with_its_headers(client: Client, status: int) -> None:
    client.store.fault("status", status=status, headers={"Retry-After": "2.0"})
    reply = client.post(SHOP)
    assert (reply.status_code, reply.headers["Retry-After"]) == (status, "2.0")
    assert client.post(SHOP).status_code == 200


def test_faults_skip_count_and_pick_their_operation(client: Client) -> None:
    client.store.fault("status", status=500, after=1, times=2, operation="Count")
    statuses = [client.post(query).status_code for query in (COUNT, SHOP, COUNT, COUNT, COUNT)]
    assert statuses == [200, 200, 500, 500, 200]
    client.store.fault("status", status=502, times=None, operation="oauth")
    assert [client.oauth().status_code for _ in range(2)] == [502, 502]
    client.store.clear_faults()
    assert client.oauth().status_code == 400
    with pytest.raises(ValueError, match="no fault of kind"):
        client.store.fault("gremlin")


def test_a_throttled_fault_asks_for_a_short_wait(client: Client) -> None:
    client.store.fault("throttled")
    answer = client.ask(FULL_PAGE, first=250)
    assert codes(answer) == ["THROTTLED"]
    status = answer["extensions"]["cost"]["throttleStatus"]
    assert answer["extensions"]["cost"]["requestedQueryCost"] - status["currentlyAvailable"] == 1


def test_html_empty_and_truncated_bodies_come_with_status_200(client: Client) -> None:
    client.store.fill(50)
    for kind in ("html", "empty", "truncated"):
        client.store.fault(kind)
        reply = client.post(FULL_PAGE, first=50)
        assert reply.status_code == 200
        with pytest.raises(requests.exceptions.JSONDecodeError):
            reply.json()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("short_body", requests.exceptions.ChunkedEncodingError),
        ("reset", requests.exceptions.ConnectionError),
        ("hang", requests.exceptions.ReadTimeout),
        ("drip_headers", requests.exceptions.ReadTimeout),
    ],
)
def test_a_broken_connection_is_broken_for_the_http_client(
    client: Client, kind: str, error: type[Exception]
) -> None:
    client.store.fault(kind, seconds=30)
    with pytest.raises(error):
        client.session.post(
            f"{client.base}/admin/api/2026-10/graphql.json",
            json={"query": SHOP},
            headers={"X-Shopify-Access-Token": client.store.access_token},
            timeout=0.2,
        )
    assert client.post(SHOP).status_code == 200


@pytest.mark.parametrize("kind", ["drip", "drip_headers"])
def test_a_dripping_answer_is_whole_in_the_end(client: Client, kind: str) -> None:
    client.store.fault(kind, seconds=0.001)
    began = time.monotonic()
    assert client.ask(SHOP)["data"]["shop"]["id"] == client.store.gid
    assert time.monotonic() - began > 0.1


def test_errors_can_come_with_data_or_without(client: Client) -> None:
    client.store.fault("data_with_errors", code="TIMEOUT")
    both = client.ask(SHOP)
    assert both["data"]["shop"]["id"] == client.store.gid
    assert codes(both) == ["TIMEOUT"]
    client.store.fault("error", code="SHOP_INACTIVE", message="closed")
    alone = client.ask(SHOP)
    assert "data" not in alone
    assert codes(alone) == ["SHOP_INACTIVE"]


def test_a_redirect_another_version_and_no_date_are_shown(client: Client) -> None:
    client.store.fault("redirect", location="https://renamed.myshopify.com/x")
    moved = client.post(SHOP)
    assert (moved.status_code, moved.headers["Location"]) == (
        301,
        "https://renamed.myshopify.com/x",
    )
    client.store.fault("version", version="2026-01")
    assert client.post(SHOP).headers["X-Shopify-API-Version"] == "2026-01"
    client.store.fault("no_date")
    assert "Date" not in client.post(SHOP).headers


def test_an_answer_can_be_another_one_in_one_place(client: Client) -> None:
    client.store.fault("altered", at=["data", "shop", "id"], value=None)
    client.store.fault("altered", at=["data", "shop", "id"])
    assert client.ask(SHOP)["data"]["shop"]["id"] is None
    assert "id" not in client.ask(SHOP)["data"]["shop"]
    assert client.ask(SHOP)["data"]["shop"]["id"] == client.store.gid
    client.store.fault("altered", operation="oauth", at=["expires_in"], value="soon")
    known = client.store.credentials
    form = {"client_id": str(known.client_id), "client_secret": str(known.client_secret)}
    answer = client.oauth(grant_type="client_credentials", **form).json()
    assert answer["expires_in"] == "soon"
    assert answer["access_token"].startswith("shpat_")


def test_a_text_can_be_spelled_otherwise_and_a_row_repeated(client: Client) -> None:
    client.store.fill(3)
    client.store.fault("respelled", text=client.store.gid, by="\\ud83d")
    assert client.ask(SHOP)["data"]["shop"]["id"] == "\ud83d"
    client.store.fault("repeated_row")
    nodes = client.ask(PAGE, first=5)["data"]["customers"]["nodes"]
    assert (len(nodes), nodes[0]) == (4, nodes[-1])


def test_the_date_can_be_any_text(client: Client) -> None:
    client.store.fault("date", text="yesterday")
    assert client.post(SHOP).headers["Date"] == "yesterday"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("gzip_broken", requests.exceptions.ContentDecodingError),
        ("chunk_cut", requests.exceptions.ChunkedEncodingError),
    ],
)
def test_what_is_sent_packed_or_in_chunks_can_be_broken(
    client: Client, kind: str, error: type[Exception]
) -> None:
    client.store.fault(kind)
    with pytest.raises(error):
        client.post(SHOP)
    assert client.post(SHOP).status_code == 200


def test_of_what_is_packed_half_can_come(client: Client) -> None:
    client.store.fault("gzip_cut")
    reply = client.post(SHOP)
    assert reply.headers["Content-Encoding"] == "gzip"
    with pytest.raises(requests.exceptions.JSONDecodeError):
        reply.json()


def test_another_shop_can_answer(client: Client) -> None:
    client.store.fault("other_shop")
    assert client.ask(SHOP)["data"]["shop"]["id"] != client.store.gid
    assert client.ask(SHOP)["data"]["shop"]["id"] == client.store.gid


@pytest.mark.parametrize("silent", [False, True])
def test_a_filter_can_be_ignored_with_or_without_a_warning(client: Client, silent: bool) -> None:
    at(client, "2020-01-01T00:00:00Z")
    client.store.fault("ignored_filter", silent=silent)
    answer = client.ask(PAGE, first=5, query="updated_at:>='2026-01-01T00:00:00Z'")
    assert len(answer["data"]["customers"]["nodes"]) == 1
    assert ("search" in answer["extensions"]) is not silent


def test_cursors_can_stand_still_or_be_refused_but_only_where_one_is_given(
    client: Client,
) -> None:
    client.store.fill(10)
    client.store.fault("same_cursor", after=1)
    cursor = client.ask(PAGE, first=2)["data"]["customers"]["pageInfo"]["endCursor"]
    moved = client.ask(PAGE, first=2, after=cursor)["data"]["customers"]["pageInfo"]
    stuck = client.ask(PAGE, first=2, after=cursor)["data"]["customers"]["pageInfo"]
    assert moved["endCursor"] != cursor
    assert stuck == {"hasNextPage": True, "endCursor": cursor}
    client.store.fault("cursor_refused", times=None)
    assert "errors" not in client.ask(PAGE, first=2)
    assert "Invalid cursor" in client.ask(PAGE, first=2, after=cursor)["errors"][0]["message"]


def test_pages_above_a_size_can_be_too_costly(client: Client) -> None:
    client.store.fault("max_cost_above", times=None, first=100)
    assert codes(client.ask(PAGE, first=101)) == ["MAX_COST_EXCEEDED"]
    assert "errors" not in client.ask(PAGE, first=100)


# samples, log, control, running


def test_the_same_seed_makes_the_same_awkward_customers(simulator: Simulator) -> None:
    first = simulator.add_store("seeded.myshopify.com", customers=400, seed=7).customers()
    assert simulator.add_store("seeded.myshopify.com", customers=400, seed=7).customers() == first
    assert simulator.add_store("seeded.myshopify.com", customers=400, seed=8).customers() != first
    text = json.dumps(first, ensure_ascii=False)
    assert all(part in text for part in ("🦄", "王", "محمد", "आरव", "e\u0301", "1234567.89"))
    assert any(int(row["legacyResourceId"]) > 2**53 for row in first)
    assert len({row["updatedAt"] for row in first}) < 390
    for name in ("firstName", "defaultEmailAddress", "defaultPhoneNumber", "defaultAddress"):
        assert any(row[name] is None for row in first)


def test_the_log_tells_what_was_asked_and_what_it_cost(client: Client) -> None:
    client.store.fault("status", status=503, after=1)
    client.post(PAGE, first=10)
    client.post(SHOP)
    client.post(SHOP)
    log = client.store.requests
    assert [(each["operation"], each["first"], each["status"], each["fault"]) for each in log] == [
        ("Page", 10, 200, None),
        ("Shop", None, 503, "status"),
        ("Shop", None, 200, None),
    ]
    assert (log[0]["variables"], log[0]["cost"]) == ({"first": 10}, 6)


def test_the_control_api_does_what_the_store_does(
    simulator: Simulator, session: requests.Session
) -> None:
    control = f"{simulator.url}/_control"

    def call(method: str, path: str, status: int = 200, body: Any = None) -> Any:
        reply = session.request(method, control + path, json=body, timeout=5)
        assert reply.status_code == status, reply.text
        return reply.json()

    made = call("POST", "/stores", 201, {"shop": "by-http.myshopify.com", "customers": 3})
    shop = f"/stores/{made['shop']}"
    assert made["accessToken"] == simulator.store(made["shop"]).access_token
    customer = call("POST", shop + "/customers", 201, {"firstName": "Ada"})
    path = f"{shop}/customers/{customer['legacyResourceId']}"
    assert call("PATCH", path, 200, {"set": {"note": "x"}, "touch": False})["note"] == "x"
    assert call("GET", path)["firstName"] == "Ada"
    other = call("GET", shop + "/customers")[0]["legacyResourceId"]
    assert call("POST", path + "/merge", 200, {"into": other})["legacyResourceId"] == other
    call("DELETE", path, 404)
    call("DELETE", f"{shop}/customers/{other}")
    assert call("GET", "/stores")[-1]["customers"] == 2
    call("PATCH", shop, 200, {"latencyMs": 1, "accessToken": None})
    call("PATCH", shop, 400, {"latency": 1})
    call("POST", shop + "/faults", 201, {"kind": "status", "status": 500})
    call("DELETE", shop + "/faults")
    assert call("GET", shop + "/requests") == []
    assert call("POST", "/clock", 200, {"now": "2026-11-24T12:00:00Z"}) == call("GET", "/clock")
    assert call("POST", "/clock", 200, {"advanceSeconds": 5})["now"] == "2026-11-24T12:00:05Z"
    call("POST", "/clock", 200, {"now": None})
    assert call("GET", "/healthz")["ok"]


def test_latency_is_waited_before_the_answer(client: Client) -> None:
    client.store.change(latencyMs=80)
    began = time.monotonic()
    client.post(SHOP)
    assert time.monotonic() - began >= 0.08


def test_an_answer_that_hangs_does_not_hold_up_the_stop() -> None:
    with running_simulator() as simulator:
        store = simulator.add_store("slow.myshopify.com", customers=0)
        store.fault("hang")
        url = f"{simulator.url}/{store.shop}/admin/api/2026-10/graphql.json"
        ended: list[type[Exception]] = []

        def ask() -> None:
            try:
                requests.post(url, json={"query": SHOP}, timeout=30)
            except requests.exceptions.ConnectionError as error:
                ended.append(type(error))

        waiting = threading.Thread(target=ask)
        waiting.start()
        give_up = time.monotonic() + 5
        while not store.requests and time.monotonic() < give_up:
            time.sleep(0.005)
        began = time.monotonic()
    waiting.join(2)
    assert time.monotonic() - began < 1
    assert ended == [requests.exceptions.ConnectionError]


def test_as_a_process_it_names_its_address_and_ends_on_sigterm() -> None:
    command = [sys.executable, "-m", "shopify_simulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 10)[0]
        line = process.stdout.readline().strip()
        assert line.startswith("simulator listening on http://127.0.0.1:")
        assert requests.get(line.split()[-1] + "/_control/healthz", timeout=5).ok
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
