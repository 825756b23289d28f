"""A whole store by one bulk operation: what ends well, what ends badly, what is taken up again."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shopsync_pipeline.db import bulk_operations, customers, integrations
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.errors import (
    BrokenAnswer,
    BulkFailed,
    BulkUnfinished,
    IntegrationInactive,
    ShopifyError,
    Unreachable,
)
from shopsync_pipeline.models import Integration, MergeCounts, Read
from shopsync_pipeline.shopify.bulk import customers_query
from shopsync_pipeline.shopify.client import Waits, waited
from shopsync_pipeline.sync import bulk
from shopsync_pipeline.sync.engine import by_organization, open_store
from shopsync_pipeline.sync.pull import OVERLAP, PullResult
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"
LARGE = 1100


@pytest.fixture(autouse=True)
def _large_stores_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of LARGE customers counts as large, and its result is several chunks."""
    monkeypatch.setattr("shopsync_pipeline.sync.pull.BULK_ABOVE", LARGE - 1)
    monkeypatch.setattr("shopsync_pipeline.sync.bulk.CHUNK_ROWS", 500)


def operations(store: Any, name: str) -> list[Any]:
    return [r for r in store.requests if r["operation"] == name]


def load(world: World, organization: str = "acme") -> tuple[PullResult, Any]:
    """What `bulk.load` did and returned, of a store of any size."""
    result = PullResult()
    with open_store(world.engine, world.integration(organization)) as opened:
        steps = bulk.load(opened, "bulk-run", None, result.count, result.add)
        return result, waited(steps, world.time)


def held(world: World) -> Any:
    """The operation that is kept to be taken up."""
    store = world.integration("acme").id
    return read(world.engine.pool, lambda conn: bulk_operations.held(conn, store))


def assert_nothing_counts(world: World) -> None:
    integration = world.integration("acme")
    assert (integration.watermark, integration.last_sync_at) == (None, None)


def test_a_large_store_is_first_loaded_in_bulk_and_then_pulled_from_before_that(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=LARGE, bulk_seconds=100)
    started = world.simulator.clock.now().replace(microsecond=0)
    outcome = world.sync_one("acme")
    assert outcome.result is not None, outcome.error
    assert outcome.result.counts == MergeCounts(inserted=LARGE)
    assert outcome.result.bulk_operation is not None
    assert world.differences("acme", store) == []
    assert {row["lastSyncVia"] for row in world.rows("acme").values()} == {"BULK"}
    (page,) = operations(store, "CustomersPage")
    since = f"{started - OVERLAP:%Y-%m-%dT%H:%M:%SZ}"
    assert page["variables"]["query"].startswith(f"updated_at:>='{since}'")
    integration = world.integration("acme")
    assert integration.watermark == integration.last_sync_at == outcome.result.until
    assert held(world) is None


def test_a_small_store_is_read_by_pages(world: World) -> None:
    store = world.connect("acme", SHOP, customers=300)
    world.sync_one("acme", mode="full")
    assert not operations(store, "BulkOperationRun")


def test_a_full_sync_of_a_large_store_finds_in_bulk_what_moved_no_updated_at(world: World) -> None:
    store = world.connect("acme", SHOP, customers=LARGE)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    some = sorted(world.rows("acme"))[:3]
    for shopify_id in some:
        store.edit(shopify_id, touch=False, numberOfOrders=77)
    assert world.sync_one("acme").result.counts == MergeCounts()  # type: ignore[union-attr]
    outcome = world.sync_one("acme", mode="full")
    assert outcome.result is not None, outcome.error
    assert outcome.result.counts == MergeCounts(updated=3, unchanged=LARGE - 3)
    assert world.differences("acme", store) == []


def test_what_changes_while_the_operation_runs_is_pulled_after_it(world: World) -> None:
    store = world.connect("acme", SHOP, customers=LARGE, bulk_seconds=30)
    first, second = (row["legacyResourceId"] for row in store.customers()[:2])

    def change() -> None:
        world.time.on_sleep = lambda: None
        store.edit(first, note="changed meanwhile")
        store.delete(second)
        store.create(firstName="Born meanwhile")

    world.time.on_sleep = change
    outcome = world.sync_one("acme")
    assert outcome.result is not None, outcome.error
    (ghost,) = world.differences("acme", store)  # the deletion is a webhook's, or the reconcile's
    assert ghost == f"{second} is only in the table"


def test_what_changes_during_a_load_is_pulled_also_where_the_clock_had_been_ahead(
    world: World,
) -> None:
    """The watermark of that clock had outlived the load, and the pull after it read nothing."""
    store = world.connect("acme", SHOP, customers=LARGE, bulk_seconds=3600)
    clock = world.simulator.clock
    clock.advance(5 * 3600)
    assert world.sync_one("acme").state == "synced"
    clock.set(datetime.now(UTC).replace(microsecond=0))
    edited = store.customers()[0]["legacyResourceId"]

    def change() -> None:
        world.time.on_sleep = lambda: None
        clock.advance(1000)
        store.edit(edited, note="changed meanwhile")

    world.time.on_sleep = change
    outcome = world.sync_one("acme")
    assert outcome.result is not None, outcome.error
    assert outcome.result.bulk_operation is not None
    assert world.differences("acme", store) == []
    assert world.integration("acme").watermark == outcome.result.until


def test_a_first_load_by_pages_that_was_cut_off_goes_on_by_pages(world: World) -> None:
    store = world.connect("acme", SHOP, customers=LARGE, bulk_enabled=False)
    store.fault("status", operation="CustomersPage", after=3, times=None, status=500)
    assert world.sync_one("acme").state == "failed"
    store.clear_faults()
    store.change(bulk_enabled=True)
    outcome = world.sync_one("acme")
    assert outcome.result is not None, outcome.error
    assert outcome.result.bulk_operation is None
    assert world.differences("acme", store) == []


def test_the_whole_store_is_merged_and_the_watermark_is_where_the_operation_began(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=700)
    result, (operation, watermark) = load(world)
    assert result.counts == MergeCounts(inserted=700)
    assert world.differences("acme", store) == []
    (known,) = store.bulk.all()
    assert operation == known["id"]
    assert f"{watermark:%Y-%m-%dT%H:%M:%SZ}" == known["createdAt"]
    assert world.integration("acme").last_sync_at is None  # what changed since is not here yet
    assert {row["lastSyncedAt"] for row in world.rows("acme").values()} == {watermark}


def test_a_store_without_customers_has_no_result_and_that_is_whole(world: World) -> None:
    world.connect("acme", SHOP, customers=0)
    result, loaded = load(world)
    assert loaded is not None
    assert result.counts == MergeCounts()


def test_no_token_goes_where_the_result_is(world: World) -> None:
    store = world.connect("acme", SHOP, customers=50)
    load(world)
    (request,) = operations(store, "bulk_file")
    assert not request["leaked"]


def test_polls_grow_rarer(world: World) -> None:
    store = world.connect("acme", SHOP, customers=5, bulk_seconds=300)
    load(world)
    waits = [wait for wait in world.time.slept if wait]
    assert waits[:3] == [1.0, 1.5, 2.25]
    assert max(waits) == bulk.LAST_POLL_SECONDS
    assert len(operations(store, "BulkOperationById")) < 30


class Died(Exception):
    """The process ended while it waited."""


def die() -> None:
    raise Died


BAD_ENDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "failed": ("bulk_end", {"status": "FAILED", "errorCode": "TIMEOUT"}, "ended as FAILED TIMEOUT"),
    "failed inside": (
        "bulk_end",
        {"status": "FAILED", "errorCode": "INTERNAL_SERVER_ERROR"},
        "ended as FAILED INTERNAL_SERVER_ERROR",
    ),
    "canceling": ("bulk_end", {"status": "CANCELING"}, "ended as CANCELING"),
    "a status of tomorrow": ("bulk_end", {"status": "PAUSED"}, "ended as PAUSED"),
    "unknown": (
        "altered",
        {"operation": "BulkOperationById", "at": ["data", "bulkOperation"], "value": None},
        "does not know bulk operation",
    ),
    "more rows than counted": (
        "altered",
        {
            "operation": "BulkOperationById",
            "at": ["data", "bulkOperation", "rootObjectCount"],
            "value": "599",
            "after": 1,
        },
        "has 599 rows, its result 600",
    ),
    "a line of another kind": (
        "respelled",
        {"operation": "bulk_file", "text": '"tags"', "by": '"labels"'},
        "is broken near byte 0",
    ),
    "nothing at the url": ("empty", {"operation": "bulk_file"}, "has 600 rows, its result 0"),
    "canceled": ("bulk_end", {"status": "CANCELED"}, "ended as CANCELED"),
    "expired": ("bulk_end", {"status": "EXPIRED"}, "ended as EXPIRED"),
    "short": ("bulk_short", {}, "has 600 rows, its result "),
    "broken line": ("bulk_broken_line", {}, "is broken near byte"),
    "no result": ("bulk_no_url", {}, "has rows, but no result"),
    "plain http": ("bulk_url", {"url": "http://storage.example/x"}, "is not on https"),
    "another port": ("bulk_url", {"url": "http://127.0.0.1:9/x"}, "is not on https"),
    "a file": ("bulk_url", {"url": "file:///etc/passwd"}, "no valid URL"),
    "ftp": ("bulk_url", {"url": "ftp://storage.example/x"}, "is not on https"),
    "a login": ("bulk_url", {"url": "https://u:p@storage.example/x"}, "no valid URL"),
    "another host": ("bulk_url", {"url": "https://127.0.0.1@storage.example/x"}, "no valid URL"),
    "no host": ("bulk_url", {"url": "https:///x"}, "no valid URL"),
    "gone": ("status", {"operation": "bulk_file", "status": 404}, "is not served (HTTP 404)"),
    "forbidden": ("status", {"operation": "bulk_file", "status": 403}, "is not served (HTTP 403)"),
    "redirect": (
        "redirect",
        {"operation": "bulk_file", "location": "https://storage.example/x"},
        "is not served (HTTP 301)",
    ),
}


@pytest.mark.parametrize("end", BAD_ENDS)
def test_a_bad_end_raises_counts_for_nothing_and_pages_do_for_a_week(
    world: World, end: str
) -> None:
    kind, options, told = BAD_ENDS[end]
    store = world.connect("acme", SHOP, customers=600, bulk_seconds=2)
    store.fault(kind, **options)
    with pytest.raises(BulkFailed) as caught:
        load(world)
    assert told in str(caught.value)
    assert SHOP in str(caught.value)
    assert_nothing_counts(world)
    assert held(world) is None
    assert world.integration("acme").retry_at is None

    assert load(world)[1] is None
    assert len(store.bulk.all()) == 1
    with world.engine.pool.connection() as conn:
        conn.execute("""UPDATE integrations SET "bulkFailedAt" = now() - interval '8 days'""")
    load(world)
    assert len(store.bulk.all()) == 2
    assert world.differences("acme", store) == []


def test_a_load_that_fails_is_told_and_the_next_sync_reads_pages(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=LARGE)
    store.fault("bulk_short")
    outcome = world.sync_one("acme")
    assert outcome.state == "failed"
    assert outcome.error is not None
    assert "its result" in outcome.error
    assert_nothing_counts(world)
    assert world.integration("acme").retry_at is None  # the drain and the next tick go on
    assert world.sync_one("acme").state == "synced"
    assert world.differences("acme", store) == []


@pytest.mark.parametrize(
    ("kind", "size", "cut"),
    [("reset", 15_000, 8_000_000), ("short_body", 1_500, 800_000)],  # a reset drops what waits
)
def test_a_result_that_breaks_off_is_read_on_from_where_it_broke(
    world: World, kind: str, size: int, cut: int
) -> None:
    store = world.connect("acme", SHOP, customers=size)
    store.fault(kind, operation="bulk_file", bytes=cut)
    result, _ = load(world)
    assert result.counts.rows == size
    assert world.differences("acme", store) == []
    first, second = operations(store, "bulk_file")
    assert first["variables"]["range"] is None
    assert second["variables"]["range"].startswith("bytes=")


def test_a_result_that_always_breaks_off_raises_and_the_next_load_takes_the_operation_up(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=600)
    store.fault("status", operation="bulk_file", status=503, times=None)
    with pytest.raises(Unreachable):
        load(world)
    assert_nothing_counts(world)
    assert world.time.slept[-3:] == [1.0, 3.0, 9.0]
    store.clear_faults()
    load(world)
    assert len(store.bulk.all()) == 1
    assert world.differences("acme", store) == []


def user_error(code: str) -> dict[str, Any]:
    refused = {"bulkOperation": None, "userErrors": [{"field": None, "message": "", "code": code}]}
    body = {"data": {"bulkOperationRunQuery": refused}}
    return {"kind": "status", "status": 200, "body": body}


# What begins no operation: whether pages are read instead, or the sync fails and how it is told.
NO_BEGINNING: dict[str, tuple[dict[str, Any], str | None]] = {
    "not enabled for the app": ({"kind": "error", "code": "ACCESS_DENIED"}, None),
    "403": ({"kind": "status", "status": 403}, None),
    "a field that is not known": ({"kind": "error", "code": "undefinedField"}, None),
    "400": ({"kind": "status", "status": 400}, None),
    "INVALID": (user_error("INVALID"), None),
    "LIMIT_REACHED": (user_error("LIMIT_REACHED"), None),
    "OPERATION_IN_PROGRESS": (user_error("OPERATION_IN_PROGRESS"), None),
    "a reason of tomorrow": (user_error("SOMETHING_NEW"), None),
    "500": ({"kind": "status", "status": 500}, "HTTP 500"),
    "throttled for a day": (
        {"kind": "status", "status": 429, "headers": {"Retry-After": "86400"}}, "86400 s",
    ),
    "401": ({"kind": "status", "status": 401}, "refused the access token"),
    "402": ({"kind": "status", "status": 402}, "frozen"),
    "404": ({"kind": "status", "status": 404}, "no such store"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_BEGINNING)
def test_where_no_operation_can_be_had_pages_are_read_unless_they_could_not_be_read_either(
    world: World, case: str
) -> None:
    fault, told = NO_BEGINNING[case]
    store = world.connect("acme", SHOP, customers=LARGE)
    store.fault(operation="BulkOperationRun", times=None, **fault)
    outcome = world.sync_one("acme")
    if told is not None:
        assert told in str(outcome.error)
        assert_nothing_counts(world)
        assert len(operations(store, "BulkOperationRun")) == 1  # it may have begun
        store.clear_faults()
        assert world.sync_one("acme").state == "synced"
    else:
        assert outcome.result is not None, outcome.error
        assert outcome.result.bulk_operation is None
        assert outcome.result.counts == MergeCounts(inserted=LARGE)
    assert held(world) is None
    assert world.differences("acme", store) == []


@pytest.mark.parametrize(
    "settings", [{"bulk_enabled": False}, {"bulk_limit": 0}], ids=["denied", "limit reached"]
)
def test_a_store_that_gives_no_operation_is_loaded_by_pages(
    world: World, settings: dict[str, Any]
) -> None:
    store = world.connect("acme", SHOP, customers=LARGE, **settings)
    outcome = world.sync_one("acme")
    assert outcome.result is not None, outcome.error
    assert outcome.result.bulk_operation is None
    assert world.differences("acme", store) == []


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (["data", "bulkOperationRunQuery"], None),
        (["data", "bulkOperationRunQuery", "bulkOperation"], {"id": 7}),
        (["data", "bulkOperationRunQuery", "userErrors"], None),
    ],
)
def test_an_operation_whose_beginning_is_told_in_another_form_is_found_in_the_list(
    world: World, at: list[str], value: Any
) -> None:
    store = world.connect("acme", SHOP, customers=60)
    store.fault("altered", operation="BulkOperationRun", at=at, value=value)
    load(world)
    assert len(store.bulk.all()) == 1
    assert world.differences("acme", store) == []


@pytest.mark.parametrize(
    "nodes", [None, [None], [{"query": None}], [{"query": "{MARK}"}]], ids=lambda value: str(value)
)
def test_a_list_of_operations_in_another_form_begins_none(world: World, nodes: Any) -> None:
    """Whether ours is among them is not known, so a second one might be begun."""
    store = world.connect("acme", SHOP, customers=60, bulk_seconds=60)
    store.fault("answer_lost", operation="BulkOperationRun")
    if nodes == [{"query": "{MARK}"}]:
        nodes = [{"query": customers_query(world.integration("acme").id)}]
    place = ["data", "bulkOperations", "nodes"]
    store.fault("altered", operation="BulkOperations", at=place, value=nodes, times=None)
    if nodes == [{"query": None}]:  # no one's that we know
        with pytest.raises(Unreachable):
            load(world)
    else:
        with pytest.raises(BrokenAnswer, match="not as documented"):
            load(world)
    store.clear_faults()
    load(world)
    assert len(store.bulk.all()) == 1
    assert world.differences("acme", store) == []


def test_an_operation_that_ends_as_denied_is_no_reason_not_to_read_pages(world: World) -> None:
    store = world.connect("acme", SHOP, customers=10)
    store.fault("bulk_end", status="FAILED", errorCode="ACCESS_DENIED")
    assert load(world)[1] is None
    assert held(world) is None


@pytest.mark.parametrize("seconds", [60, 0], ids=["still at work", "done meanwhile"])
def test_an_operation_whose_answer_was_lost_is_found_and_never_asked_for_twice(
    world: World, seconds: int
) -> None:
    store = world.connect("acme", SHOP, customers=60, bulk_seconds=seconds)
    store.fault("answer_lost", operation="BulkOperationRun")
    load(world)
    assert len(store.bulk.all()) == 1
    assert world.differences("acme", store) == []


@pytest.mark.parametrize("seconds", [60, 0], ids=["still at work", "done meanwhile"])
def test_an_operation_of_a_run_that_died_before_it_heard_the_answer_is_taken_up(
    world: World, seconds: int
) -> None:
    store = world.connect("acme", SHOP, customers=60, bulk_seconds=seconds)
    store.fault("answer_lost", operation="BulkOperationRun")
    store.fault("reset", operation="BulkOperations")
    world.time.on_sleep = die
    with pytest.raises(Died):
        load(world)
    world.time.on_sleep = lambda: None
    load(world)
    assert len(store.bulk.all()) == 1
    assert world.differences("acme", store) == []


def test_an_operation_of_another_tool_is_left_alone(world: World) -> None:
    store = world.connect("acme", SHOP, customers=60, bulk_seconds=60)
    store.bulk.start("{ customers { edges { node { id } } } }")
    load(world)
    assert len(store.bulk.all()) == 2
    assert world.differences("acme", store) == []


def test_an_operation_that_takes_hours_is_waited_for_by_one_run_after_the_other(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=60, bulk_seconds=2.5 * 3600)
    with pytest.raises(BulkUnfinished) as caught:
        load(world)
    assert "is not done" in str(caught.value)
    assert_nothing_counts(world)
    with pytest.raises(BulkUnfinished):
        load(world)
    load(world)
    assert len(store.bulk.all()) == 1
    assert world.differences("acme", store) == []


def test_a_result_of_hours_ago_is_not_taken_up_for_it_may_hold_who_was_deleted_since(
    world: World,
) -> None:
    world.simulator.clock.set(datetime.now(UTC) - timedelta(hours=3))
    store = world.connect("acme", SHOP, customers=60)
    store.fault("status", operation="bulk_file", status=503, times=None)
    with pytest.raises(ShopifyError):
        load(world)
    store.clear_faults()
    store.delete(store.customers()[0]["legacyResourceId"])
    world.simulator.clock.set(None)
    load(world)
    assert len(store.bulk.all()) == 2
    assert world.differences("acme", store) == []


def test_a_store_that_leaves_forgets_its_operation(world: World) -> None:
    store = world.connect("acme", SHOP, customers=60)
    store.fault("status", operation="bulk_file", status=503, times=None)
    with pytest.raises(ShopifyError):
        load(world)
    assert held(world) is not None
    integration = world.integration("acme")

    def leave(conn: Conn) -> Any:
        integrations.disconnect(conn, organization_id="acme", shop=SHOP)
        return bulk_operations.held(conn, integration.id)

    assert transact(world.engine.pool, leave) is None


def test_a_row_that_was_read_after_the_operation_began_stays(world: World) -> None:
    """Orders move no updatedAt: of two contents with one updatedAt, the later read counts."""
    store = world.connect("acme", SHOP, customers=3, bulk_seconds=60)
    shopify_id = int(store.customers()[0]["legacyResourceId"])

    def order() -> None:
        world.time.on_sleep = lambda: None
        store.edit(shopify_id, touch=False, numberOfOrders=99)
        world.hear("acme", "customers/update", {"id": shopify_id})
        world.drain()

    world.time.on_sleep = order
    load(world)
    assert world.rows("acme")[shopify_id]["ordersCount"] == 99
    assert world.rows("acme")[shopify_id]["lastSyncVia"] == "WEBHOOK"
    assert world.differences("acme", store) == []


def test_a_row_that_meets_a_deleted_one_revives_nobody_but_has_it_read_by_id(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=3)
    integration = world.integration("acme")
    shopify_id = int(store.customers()[0]["legacyResourceId"])
    now = read(world.engine.pool, clock)
    how = Read(via="WEBHOOK", run_id="r", sent_at=now - timedelta(minutes=1), by_id=True)
    transact(
        world.engine.pool,
        lambda conn: customers.bury(conn, integration, {shopify_id: None}, how),
    )
    load(world)
    assert world.rows("acme")[shopify_id]["deletedAt"] is not None
    world.drain()
    assert world.differences("acme", store) == []


def test_a_disconnect_gets_in_between_the_merges_of_a_large_store(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two merges at once never leave the integration free by themselves."""
    chunk = 2000
    monkeypatch.setattr("shopsync_pipeline.sync.bulk.CHUNK_ROWS", chunk)
    world.connect("acme", SHOP, customers=16 * chunk)
    integration = world.integration("acme")
    result = PullResult()
    left: list[int] = []

    def leave() -> None:
        transact(
            other.pool,
            lambda conn: integrations.disconnect(conn, organization_id="acme", shop=SHOP),
        )
        left.append(result.counts.rows)

    with world.second_engine() as other, open_store(world.engine, integration) as opened:
        steps = bulk.load(opened, "bulk-run", None, result.count, result.add)
        while not result.counts.rows:
            next(steps)
        leaver = threading.Thread(target=leave)
        leaver.start()
        with pytest.raises(IntegrationInactive):
            waited(steps, world.time)
        leaver.join()
    assert left[0] < 14 * chunk


def test_many_loads_at_once_share_few_connections_and_all_end(world: World) -> None:
    stores = {
        f"org-{number}": world.connect(f"org-{number}", f"s{number}.myshopify.com", customers=300)
        for number in range(24)
    }

    def loaded(integration: Integration) -> Waits[Any]:
        result = PullResult()
        with open_store(world.engine, integration) as opened:
            return (yield from bulk.load(opened, "bulk-run", None, result.count, result.add))

    ended = dict(by_organization(world.engine, stores, loaded, lambda _, told: told))
    assert [told for (told,) in ended.values() if isinstance(told, str)] == []
    assert all(world.differences(name, store) == [] for name, store in stores.items())
    assert world.engine.pool.get_stats().get("requests_errors", 0) == 0
