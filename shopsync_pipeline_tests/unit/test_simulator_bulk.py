"""The stand-in for Shopify runs bulk operations as FACTS says Shopify does, over real HTTP."""

import itertools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import graphql
import pytest
import requests

from shopify_simulator import trim_schema
from shopify_simulator.server import running_simulator
from shopify_simulator.simulator import Simulator
from shopify_simulator.stores import Store

DOCUMENTS = trim_schema.HERE / "queries" / "bulk.graphql"
NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
FIELDS = "id firstName tags amountSpent { amount } defaultAddress { city } updatedAt"
INNER = f"# somebody's own mark\n{{ customers {{ edges {{ node {{ {FIELDS} }} }} }} }}\n"
PAGE = f"query Page {{ customers(first: 250, sortKey: ID) {{ nodes {{ {FIELDS} }} }} }}"

Answer = dict[str, Any]


class Client:
    def __init__(self, simulator: Simulator, store: Store, session: requests.Session) -> None:
        self.simulator = simulator
        self.store = store
        self.session = session

    def ask(self, operation: str, /, **variables: Any) -> Answer:
        """A document, or the name of an operation in DOCUMENTS."""
        text = _with_its_fragments(operation) if operation.isidentifier() else operation
        reply = self.session.post(
            f"{self.simulator.endpoint.format(shop=self.store.shop)}/admin/api/2026-10/graphql.json",
            json={"query": text, "variables": variables},
            headers={"X-Shopify-Access-Token": self.store.access_token or ""},
            timeout=5,
        )
        answer: Answer = reply.json()
        return answer

    def run(self, inner: str = INNER) -> Answer:
        answer = self.ask("RunBulk", query=inner, groupObjects=False)
        payload: Answer = answer["data"]["bulkOperationRunQuery"]
        return payload

    def start(self, inner: str = INNER) -> str:
        started = self.run(inner)
        assert started["userErrors"] == []
        return str(started["bulkOperation"]["id"])

    def poll(self, gid: str) -> Answer:
        operation: Answer = self.ask("PollBulk", id=gid)["data"]["bulkOperation"]
        return operation

    def done(self, inner: str = INNER) -> Answer:
        """An operation that was started and polled once."""
        return self.poll(self.start(inner))

    def listed(self, query: str | None = None, **more: Any) -> list[str]:
        found = self.ask("ListBulk", query=query, **more)["data"]["bulkOperations"]["nodes"]
        return [each["id"] for each in found]

    def get(self, url: str, **headers: str) -> requests.Response:
        return self.session.get(url, headers=headers, timeout=5, allow_redirects=False)

    def lines(self, operation: Answer) -> list[Answer]:
        return [json.loads(line) for line in self.get(operation["url"]).text.splitlines()]

    def downloads(self) -> list[Answer]:
        return [each for each in self.store.requests if each["operation"] == "bulk_file"]


def _with_its_fragments(operation: str) -> str:
    definitions = graphql.parse(DOCUMENTS.read_text(encoding="utf-8")).definitions
    named = {each.name.value: each for each in definitions if getattr(each, "name", None)}  # type: ignore[attr-defined]
    return graphql.print_ast(named[operation]) + graphql.print_ast(named["Operation"])


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator() as running:
        yield running


shop_names = (f"bulky-{number}.myshopify.com" for number in itertools.count())


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Client]:
    """Of a store of 120 customers at a standing noon."""
    simulator.clock.set(NOON)
    with requests.Session() as session:
        yield Client(simulator, simulator.add_store(next(shop_names), customers=120), session)
    simulator.clock.set(None)


# the life of an operation


def test_an_operation_is_created_then_completed_with_every_customer_as_in_a_page(
    client: Client,
) -> None:
    started = client.run()
    created = started["bulkOperation"]
    assert started["userErrors"] == []
    assert created["id"].startswith("gid://shopify/BulkOperation/")
    assert created == {
        "id": created["id"],
        "type": "QUERY",
        "status": "CREATED",
        "errorCode": None,
        "createdAt": "2026-11-24T12:00:00Z",
        "completedAt": None,
        "objectCount": "0",
        "rootObjectCount": "0",
        "fileSize": None,
        "url": None,
        "partialDataUrl": None,
        "query": INNER,
    }
    ended = client.poll(created["id"])
    reply = client.get(ended["url"])
    assert ended == created | {
        "status": "COMPLETED",
        "completedAt": "2026-11-24T12:00:00Z",
        "objectCount": "120",
        "rootObjectCount": "120",
        "fileSize": str(len(reply.content)),
        "url": ended["url"],
    }
    assert reply.content.endswith(b"\n")
    page = client.ask(PAGE)["data"]["customers"]["nodes"]
    assert [json.loads(line) for line in reply.content.splitlines()] == page


def test_it_runs_for_bulk_seconds_of_the_simulators_clock(client: Client) -> None:
    client.store.change(bulkSeconds=60)
    gid = client.start()
    assert client.poll(gid)["status"] == "RUNNING"
    client.simulator.clock.advance(59)
    assert client.poll(gid)["status"] == "RUNNING"
    client.simulator.clock.advance(1)
    ended = client.poll(gid)
    assert (ended["status"], ended["createdAt"], ended["completedAt"]) == (
        "COMPLETED",
        "2026-11-24T12:00:00Z",
        "2026-11-24T12:01:00Z",
    )


@pytest.mark.parametrize(("snapshot", "name"), [("created", "Before"), ("completed", "After")])
def test_the_rows_are_those_of_its_creation_or_of_its_completion(
    client: Client, snapshot: str, name: str
) -> None:
    made = client.store.create(firstName="Before")
    gone = client.store.create()
    client.store.change(bulkSeconds=60, bulkSnapshot=snapshot)
    gid = client.start()
    client.store.edit(made["id"], firstName="After")
    client.store.delete(gone["id"])
    client.simulator.clock.advance(60)
    found = {line["id"]: line["firstName"] for line in client.lines(client.poll(gid))}
    assert found[made["id"]] == name
    assert (gone["id"] in found) is (snapshot == "created")


def test_a_store_without_customers_completes_without_a_url(client: Client) -> None:
    client.store = client.simulator.add_store(next(shop_names), customers=0)
    ended = client.done()
    assert (ended["status"], ended["rootObjectCount"]) == ("COMPLETED", "0")
    assert (ended["url"], ended["fileSize"]) == (None, None)


def test_the_result_expires_after_seven_days(client: Client) -> None:
    ended = client.done()
    client.simulator.clock.advance(7 * 86400 - 1)
    assert client.poll(ended["id"])["url"] == ended["url"]
    client.simulator.clock.advance(1)
    expired = client.poll(ended["id"])
    assert (expired["status"], expired["url"]) == ("EXPIRED", None)
    assert client.get(ended["url"]).status_code == 404


def test_a_running_operation_can_be_canceled_and_an_ended_one_not(client: Client) -> None:
    client.store.change(bulkSeconds=60)
    gid = client.start()
    canceled = client.ask("CancelBulk", id=gid)["data"]["bulkOperationCancel"]
    assert (canceled["bulkOperation"]["status"], canceled["userErrors"]) == ("CANCELING", [])
    assert client.poll(gid)["status"] == "CANCELED"
    again = client.ask("CancelBulk", id=gid)["data"]["bulkOperationCancel"]
    assert again["bulkOperation"]["status"] == "CANCELED"
    message = "A bulk operation cannot be canceled when it is canceled"
    assert again["userErrors"] == [{"field": None, "message": message}]
    unknown = client.ask("CancelBulk", id="gid://shopify/BulkOperation/1")
    assert unknown["data"]["bulkOperationCancel"] == {
        "bulkOperation": None,
        "userErrors": [{"field": ["id"], "message": "Bulk operation does not exist"}],
    }


def test_an_unknown_operation_is_null_and_what_is_no_id_is_refused(client: Client) -> None:
    assert client.poll("gid://shopify/BulkOperation/0") is None
    assert "Invalid global id" in client.ask("PollBulk", id="seven")["errors"][0]["message"]


# the inner query


def test_a_filter_is_read_as_for_pages_and_orders_by_id(client: Client) -> None:
    moments = sorted(row["updatedAt"] for row in client.store.customers())
    inner = INNER.replace("customers", f"customers(query: \"updated_at:>='{moments[60]}'\")")
    lines = client.lines(client.done(inner))
    assert sorted(line["updatedAt"] for line in lines) == [m for m in moments if m >= moments[60]]
    numbers = [int(line["id"].split("/")[-1]) for line in lines]
    assert numbers == sorted(numbers)


def test_a_sort_key_beside_a_filter_by_updated_at_silently_loses_rows(client: Client) -> None:
    query = "query: \"updated_at:>='2000-01-01T00:00:00Z'\""
    lossy = client.done(INNER.replace("customers", f"customers({query}, sortKey: UPDATED_AT)"))
    assert (lossy["status"], lossy["rootObjectCount"]) == ("COMPLETED", "108")
    for whole in (f"({query})", "(sortKey: UPDATED_AT)"):
        assert client.done(INNER.replace("customers", "customers" + whole))["objectCount"] == "120"


def test_a_filter_sees_the_lagging_index_and_no_filter_the_primary(client: Client) -> None:
    client.store.change(indexLagSeconds=60)
    client.store.create()
    with_filter = INNER.replace("customers", "customers(query: \"created_at:>='2000-01-01'\")")
    assert client.done(with_filter)["objectCount"] == "120"
    assert client.done()["objectCount"] == "121"


def test_nodes_of_a_nested_connection_are_lines_of_their_own(client: Client) -> None:
    inner = "{ customers { edges { node { id addressesV2 { edges { node { city } } } } } } }"
    ended = client.done(inner)
    expected: list[Answer] = []
    for row in client.ask(PAGE)["data"]["customers"]["nodes"]:
        expected.append({"id": row["id"]})
        if row["defaultAddress"]:
            expected.append({"city": row["defaultAddress"]["city"], "__parentId": row["id"]})
    assert client.lines(ended) == expected
    assert (ended["rootObjectCount"], ended["objectCount"]) == ("120", str(len(expected)))


SIX = " ".join(f"a{n}: addressesV2 {{ edges {{ node {{ id }} }} }}" for n in range(5))


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("", "Invalid bulk query"),
        ("{ customers { edges { node { colour } } } }", "Invalid bulk query: Field 'colour'"),
        ("{ shop { id } }", "must contain at least one connection"),
        ('{ node(id: "gid://shopify/Customer/1") { id } }', "cannot contain a top level `node`"),
        ("{ customers { nodes { id } } }", "Selecting via 'nodes' is not supported"),
        (f"{{ customers {{ edges {{ node {{ id {SIX} }} }} }} }}", "more than 5 connections"),
        (
            "{ customers { edges { node { addressesV2 { edges { node { id } } } } } } }",
            "Connection fields without 'id': customers",
        ),
        (
            'mutation { bulkOperationCancel(id: "gid://x") { userErrors { message } } }',
            "Only `query` operations are supported",
        ),
        (
            "query Q($q: String) { customers(query: $q) { edges { node { id } } } }",
            "cannot use variables",
        ),
        ("{ shop { id } customers { edges { node { id } } } }", "exactly one top level field"),
    ],
)
def test_a_query_that_shopify_would_refuse_is_invalid(
    client: Client, inner: str, message: str
) -> None:
    refused = client.run(inner)
    assert refused["bulkOperation"] is None
    (error,) = refused["userErrors"]
    assert (error["code"], error["field"]) == ("INVALID", ["query"])
    assert message in error["message"]
    assert client.listed() == []


# who may, how many, what it costs


def test_no_more_than_five_run_at_once(client: Client) -> None:
    client.store.change(bulkSeconds=60)
    running = [client.start() for _ in range(5)]
    refused = client.run()
    assert refused["bulkOperation"] is None
    assert [error["code"] for error in refused["userErrors"]] == ["LIMIT_REACHED"]
    client.ask("CancelBulk", id=running[0])
    assert client.run()["userErrors"] == []
    client.store.change(bulkLimit=6)
    assert client.run()["userErrors"] == []


def test_without_bulk_operations_enabled_the_mutation_alone_is_denied(client: Client) -> None:
    earlier = client.done()
    client.store.change(bulkEnabled=False)
    denied = client.ask("RunBulk", query=INNER, groupObjects=False)
    assert denied["data"] is None
    assert [error["extensions"]["code"] for error in denied["errors"]] == ["ACCESS_DENIED"]
    assert client.poll(earlier["id"]) == earlier


@pytest.mark.parametrize(
    "settings", [{"scopes": []}, {"protectedData": "level1"}, {"protectedData": "none"}]
)
def test_an_operation_that_may_not_read_customers_fails(client: Client, settings: Answer) -> None:
    client.store.change(**settings)
    ended = client.done()
    assert (ended["status"], ended["errorCode"]) == ("FAILED", "ACCESS_DENIED")
    assert (ended["url"], ended["completedAt"]) == (None, None)


def test_the_mutation_costs_ten_points_and_a_poll_one(client: Client) -> None:
    started = client.ask("RunBulk", query=INNER, groupObjects=False)
    gid = started["data"]["bulkOperationRunQuery"]["bulkOperation"]["id"]
    assert started["extensions"]["cost"]["actualQueryCost"] == 10
    assert client.ask("PollBulk", id=gid)["extensions"]["cost"]["actualQueryCost"] == 1
    listed = client.ask("{ bulkOperations(first: 10) { nodes { id status query } } }")
    assert listed["extensions"]["cost"]["requestedQueryCost"] == 6


# the list


def test_operations_are_listed_newest_first_by_pages_and_filters(client: Client) -> None:
    gids = []
    client.store.change(bulkSeconds=60, bulkLimit=20)
    for _ in range(11):
        gids.append(client.start())
        client.simulator.clock.advance(10)
    newest = list(reversed(gids))
    first = client.ask("ListBulk")["data"]["bulkOperations"]
    assert [each["id"] for each in first["nodes"]] == newest[:10]
    assert first["pageInfo"]["hasNextPage"]
    assert client.listed(after=first["pageInfo"]["endCursor"]) == newest[10:]
    assert client.listed(reverse=True) == gids[:10]
    assert client.listed("operation_type:query status:running") == newest[:5]
    assert client.listed("status:completed") == newest[5:]
    assert client.listed("operation_type:mutation") == []
    assert client.listed("created_at:>='2026-11-24T12:01:30Z'") == newest[:2]
    noted = client.ask("ListBulk", query="colour:red")
    assert noted["extensions"]["search"][0]["warnings"][0]["code"] == "invalid_field"


# the file


def test_the_file_can_be_read_on_from_any_byte(client: Client) -> None:
    url = client.done()["url"]
    whole = client.get(url)
    rest = client.get(url, Range="bytes=1000-", **{"If-Range": whole.headers["ETag"]})
    assert (rest.status_code, rest.content) == (206, whole.content[1000:])
    size = len(whole.content)
    assert rest.headers["Content-Range"] == f"bytes 1000-{size - 1}/{size}"
    other = client.get(url, Range="bytes=1000-", **{"If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, whole.content)
    assert client.get(url, Range=f"bytes={size}-").status_code == 416


@pytest.mark.parametrize("header", ["X-Shopify-Access-Token", "Authorization"])
def test_a_credential_sent_to_the_file_is_refused_and_remembered(
    client: Client, header: str
) -> None:
    url = client.done()["url"]
    assert client.get(url).status_code == 200
    assert client.get(url, **{header: "shpat_secret"}).status_code == 400
    assert [(each["status"], each["leaked"]) for each in client.downloads()] == [
        (200, False),
        (400, True),
    ]
    assert "shpat_secret" not in json.dumps(client.store.requests)


def test_nobody_finds_a_file_without_its_url(client: Client) -> None:
    url = client.done()["url"]
    assert client.get(url.replace("/bulk.jsonl", "x/bulk.jsonl")).status_code == 404
    assert client.done()["url"] != url


def test_the_files_go_when_the_simulator_stops() -> None:
    with running_simulator() as simulator, requests.Session() as session:
        client = Client(simulator, simulator.add_store(next(shop_names), customers=3), session)
        name = urlsplit(client.done()["url"]).path.split("/")[2]
        file = client.store.bulk.file(name)
        assert file is not None
        assert file.path.exists()
        client.store.change(bulkSeconds=3600)
        client.start()
    assert not Path(file.path).exists()
    assert not file.path.parent.exists()


# faults


@pytest.mark.parametrize(
    ("status", "given", "shown"),
    [
        ("FAILED", {}, "INTERNAL_SERVER_ERROR"),
        ("FAILED", {"errorCode": "TIMEOUT"}, "TIMEOUT"),
        ("CANCELED", {}, None),
        ("EXPIRED", {}, None),
    ],
)
def test_an_operation_can_end_without_success(
    client: Client, status: str, given: Answer, shown: str | None
) -> None:
    client.store.fault("bulk_end", status=status, **given)
    ended = client.done()
    assert (ended["status"], ended["errorCode"], ended["url"]) == (status, shown, None)
    if status == "FAILED":
        assert len(client.get(ended["partialDataUrl"]).content.splitlines()) == 60
    assert client.done()["status"] == "COMPLETED"


def test_a_file_can_be_short_at_the_end_of_a_line(client: Client) -> None:
    client.store.fault("bulk_short", lines=7)
    ended = client.done()
    assert (ended["status"], ended["rootObjectCount"]) == ("COMPLETED", "120")
    assert len(client.lines(ended)) == 113


def test_a_line_can_be_broken(client: Client) -> None:
    client.store.fault("bulk_broken_line", line=3)
    lines = client.get(client.done()["url"]).content.splitlines()
    assert len(lines) == 120
    assert json.loads(lines[2])
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[3])


def test_the_url_can_be_missing_or_lead_elsewhere(client: Client) -> None:
    client.store.fault("bulk_no_url")
    missing = client.done()
    assert (missing["status"], missing["rootObjectCount"]) == ("COMPLETED", "120")
    assert missing["url"] is None
    client.store.fault("bulk_url", url="http://example.invalid/bulk.jsonl")
    assert client.done()["url"] == "http://example.invalid/bulk.jsonl"


def test_the_connection_can_break_once_in_the_middle_of_the_file(client: Client) -> None:
    url = client.done()["url"]
    whole = client.get(url).content
    client.store.fault("reset", operation="bulk_file", bytes=5000)
    got = b""
    with client.session.get(url, stream=True, timeout=5) as reply:
        assert reply.status_code == 200
        with pytest.raises(requests.RequestException):  # noqa: PT012
            for part in reply.iter_content(1000):
                got += part
    assert got == whole[: len(got)]
    assert len(got) <= 5000
    rest = client.get(url, Range=f"bytes={len(got)}-")
    assert got + rest.content == whole


@pytest.mark.parametrize("kind", ["reset", "short_body"])
def test_the_connection_can_break_for_ever(client: Client, kind: str) -> None:
    url = client.done()["url"]
    client.store.fault(kind, operation="bulk_file", times=None, bytes=0)
    for _ in range(3):
        with pytest.raises(requests.RequestException):
            client.get(url)
    client.store.clear_faults()
    assert client.get(url).status_code == 200


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_the_file_can_be_refused(client: Client, status: int) -> None:
    url = client.done()["url"]
    client.store.fault("status", operation="bulk_file", status=status)
    assert client.get(url).status_code == status
    assert client.get(url).status_code == 200


def test_the_file_can_be_redirected(client: Client) -> None:
    url = client.done()["url"]
    client.store.fault("redirect", operation="bulk_file", location="http://example.invalid/x")
    moved = client.get(url)
    assert (moved.status_code, moved.headers["Location"]) == (301, "http://example.invalid/x")


def test_faults_of_requests_and_of_bulk_operations_keep_apart(client: Client) -> None:
    client.store.fault("bulk_short")
    client.store.fault("status", status=500, times=None, after=2)
    ended = client.done()
    assert len(client.lines(ended)) == 119
    assert client.ask(PAGE) == {"errors": "HTTP 500"}


def test_a_lost_answer_leaves_an_operation_that_its_query_tells_apart(client: Client) -> None:
    client.store.change(bulkSeconds=60)
    client.start(INNER.replace("somebody's own", "another tool's"))
    client.store.fault("answer_lost", operation="RunBulk")
    with pytest.raises(requests.ConnectionError):
        client.run()
    found = client.ask("ListBulk", query="status:running")["data"]["bulkOperations"]["nodes"]
    assert [each["query"] == INNER for each in found] == [True, False]


# the webhook and the control API


def test_the_end_of_an_operation_is_told_to_a_subscription(client: Client) -> None:
    told: list[tuple[str, Answer]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.headers["X-Shopify-Topic"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    client.store.change(bulkSeconds=60)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}/"
        client.store.subscribe("BULK_OPERATIONS_FINISH", uri)
        gid = client.start()
        client.simulator.clock.advance(60)
        assert client.poll(gid)["status"] == "COMPLETED"
        client.store.fault("bulk_end", status="FAILED", errorCode="TIMEOUT")
        failing = client.start()
        client.simulator.clock.advance(60)
        client.poll(failing)
        assert client.store.wait_for_deliveries(10)
        server.shutdown()
        thread.join()
    assert {topic for topic, _ in told} == {"bulk_operations/finish"}
    bodies = {body["admin_graphql_api_id"]: body for _, body in told}
    assert bodies[gid] == {
        "admin_graphql_api_id": gid,
        "completed_at": "2026-11-24T07:01:00-05:00",
        "created_at": "2026-11-24T07:00:00-05:00",
        "error_code": None,
        "status": "completed",
        "type": "query",
    }
    ended = bodies[failing]
    assert (ended["status"], ended["error_code"], ended["completed_at"]) == (
        "failed",
        "timeout",
        None,
    )


def test_the_control_api_lists_operations_and_adds_their_faults(client: Client) -> None:
    shop = f"{client.simulator.url}/_control/stores/{client.store.shop}"
    fault = {"kind": "bulk_end", "options": {"status": "FAILED"}}
    assert client.session.post(f"{shop}/faults", json=fault, timeout=5).status_code == 201
    assert (
        client.session.post(f"{shop}/faults", json={"kind": "bulk_end"}, timeout=5).status_code
        == 400
    )
    gid = client.start()
    listed = client.session.get(f"{shop}/bulk-operations", timeout=5).json()
    assert [(each["id"], each["status"]) for each in listed] == [(gid, "FAILED")]
