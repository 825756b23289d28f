"""Each fault of a store: what the pull does, what is in the table, what the operator is told.

None of them may end green with rows missing.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest

from shopsync_pipeline.sync.organizations import StoreOutcome
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"
CUSTOMERS = 600


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault for ever on pages, and what must come of it; `tries` are the page requests."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    tries: int
    told: str
    status: str = "ok"
    retry_hours: int = 1


def status(code: int, **more: Any) -> dict[str, Any]:
    return {"status": code, **more}


FAULTS = [
    Fault(kind="status", options=status(500), tries=4, told="HTTP 500"),
    Fault(kind="status", options=status(502), tries=4, told="HTTP 502"),
    Fault(kind="status", options=status(503), tries=4, told="HTTP 503"),
    Fault(kind="status", options=status(504), tries=4, told="HTTP 504"),
    Fault(kind="status", options=status(430), tries=4, told="HTTP 430"),
    Fault(kind="status", options=status(429), tries=4, told="HTTP 429"),
    Fault(
        kind="status", options=status(401), tries=1, told="token", status="needs_reauth",
        retry_hours=24,
    ),
    Fault(
        kind="status", options=status(402), tries=1, told="frozen", status="paused", retry_hours=24
    ),
    Fault(kind="status", options=status(403), tries=1, told="allowlist", status="needs_scope"),
    Fault(kind="status", options=status(404), tries=1, told="no such store", status="gone"),
    Fault(
        kind="status", options=status(423), tries=1, told="locked", status="paused", retry_hours=24
    ),
    Fault(kind="status", options=status(400), tries=1, told="HTTP 400"),
    Fault(kind="html", tries=4, told="text/html"),
    Fault(kind="truncated", tries=4, told="not whole JSON"),
    Fault(kind="short_body", tries=4, told="no whole answer"),
    Fault(kind="empty", tries=4, told="0 bytes"),
    Fault(kind="data_with_errors", tries=4, told="failed inside"),
    Fault(
        kind="data_with_errors", options={"code": "SOMETHING_NEW"}, tries=4,
        told="errors beside data",
    ),
    Fault(
        kind="data_with_errors", options={"code": "ACCESS_DENIED"}, tries=1,
        told="protected customer data", status="needs_scope",
    ),
    Fault(kind="error", options={"code": "INTERNAL_SERVER_ERROR"}, tries=4, told="failed inside"),
    Fault(
        kind="error", options={"code": "SHOP_INACTIVE"}, tries=1, told="inactive", status="paused",
        retry_hours=24,
    ),
    Fault(
        kind="error", options={"code": "ACCESS_DENIED"}, tries=1, told="denied",
        status="needs_scope",
    ),
    Fault(kind="reset", tries=4, told="no whole answer"),
    Fault(
        kind="redirect", options={"location": "https://new.myshopify.com/admin"}, tries=1,
        told="new.myshopify.com", status="gone",
    ),
    Fault(kind="version", options={"version": "2025-01"}, tries=1, told="answered by 2025-01"),
    Fault(kind="other_shop", tries=1, told="renamed", status="gone"),
    Fault(kind="ignored_filter", tries=1, told="ignored a part of the filter"),
    Fault(kind="max_cost_above", options={"first": 0}, tries=8, told="costs more"),
]  # fmt: skip


def synced_then_changed(world: World) -> Any:
    """A store that is in the table, and a third of which has changed since."""
    store = world.connect("acme", SHOP, customers=CUSTOMERS)
    assert world.sync_one("acme").state == "synced"
    world.simulator.clock.advance(3600)
    for customer in store.customers()[::3]:
        store.edit(int(customer["legacyResourceId"]), note="changed")
    world.simulator.clock.advance(60)
    return store


def requests_of(store: Any) -> int:
    return sum(request["operation"] == "CustomersPage" for request in store.requests)


def name_of(fault: Fault) -> str:
    return "-".join([fault.kind, *(str(value) for value in fault.options.values())])[:40]


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_a_fault_that_stays_is_told_and_moves_no_watermark(world: World, fault: Fault) -> None:
    store = synced_then_changed(world)
    before, asked = world.integration("acme"), requests_of(store)
    store.fault(fault.kind, times=None, operation="CustomersPage", **fault.options)

    outcome = world.sync_one("acme")

    assert outcome.state == "failed"
    assert outcome.error is not None
    assert outcome.error.startswith(f"acme: {SHOP}: ")
    assert fault.told in outcome.error
    assert requests_of(store) - asked == fault.tries
    assert sum(world.time.slept) <= 15
    after = world.integration("acme")
    assert after.status == fault.status
    assert (after.watermark, after.last_sync_at) == (before.watermark, before.last_sync_at)
    assert after.last_error is not None
    assert after.last_error in outcome.error
    assert_put_off(world, fault.retry_hours)

    store.clear_faults()
    assert world.sync_one("acme").state == "synced"
    assert world.differences("acme", store) == []
    assert world.integration("acme").status == "ok"


def assert_put_off(world: World, hours: int) -> None:
    """Until a minute before a full hour, the schedule's tick, at most `hours` after the failure.

    Whichever minute it is: in the last one of an hour the coming tick is too near to count.
    """
    with world.engine.pool.connection() as conn:
        row = conn.execute(
            """SELECT "retryAt" + interval '1 minute', "retryAt" - now() FROM integrations"""
        ).fetchone()
    assert row is not None
    tick, left = row
    assert (tick.minute, tick.second, tick.microsecond) == (0, 0, 0)
    assert 3600 * (hours - 1) - 120 < left.total_seconds() <= 3600 * hours


PASSING = [
    ("status", {"status": 500}),
    ("status", {"status": 429, "headers": {"Retry-After": "2"}}),
    ("throttled", {}),
    ("html", {}),
    ("truncated", {}),
    ("short_body", {}),
    ("empty", {}),
    ("data_with_errors", {}),
    ("reset", {}),
    ("max_cost_above", {"first": 100}),
    ("cursor_refused", {}),
]


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize(("kind", "options"), PASSING, ids=lambda v: str(v)[:40])
def test_a_fault_that_passes_costs_time_and_no_row(
    world: World, kind: str, options: dict[str, Any], after: int
) -> None:
    store = world.connect("acme", SHOP, customers=CUSTOMERS)
    store.fault(kind, times=1, after=after, operation="CustomersPage", **options)
    assert world.sync_one("acme").state == "synced"
    assert world.differences("acme", store) == []


def test_a_retry_after_is_waited_for_exactly(world: World) -> None:
    store = world.connect("acme", SHOP, customers=10)
    store.fault("status", status=429, headers={"Retry-After": "17"}, operation="CustomersPage")
    world.sync_one("acme")
    assert 17.0 in world.time.slept


def test_a_filter_that_shopify_ignores_silently_is_noticed_by_the_rows(world: World) -> None:
    store = synced_then_changed(world)
    store.fault("ignored_filter", times=None, silent=True, operation="CustomersPage")
    outcome = world.sync_one("acme")
    assert outcome.state == "failed"
    assert "from before the window" in str(outcome.error)


def test_a_page_that_ends_where_it_began_ends_the_pull(world: World) -> None:
    store = world.connect("acme", SHOP, customers=CUSTOMERS)
    store.fault("same_cursor", times=None, after=1, operation="CustomersPage")
    outcome = world.sync_one("acme")
    assert "same end cursor" in str(outcome.error)
    assert world.integration("acme").watermark is None


def test_a_cursor_that_is_always_refused_ends_the_pull_where_nothing_says_how_far_it_came(
    world: World,
) -> None:
    """All customers are newer than the index's lag, so no row tells a place to go on from; the
    pull had begun again for ever."""
    store = world.connect("acme", SHOP, customers=0)
    for number in range(CUSTOMERS):
        store.create(firstName=str(number))
    store.fault("cursor_refused", times=None, operation="CustomersPage")
    outcome = world.sync_one("acme")
    assert "Invalid cursor" in str(outcome.error)
    assert world.integration("acme").watermark is None


def test_a_bucket_that_others_keep_empty_is_given_up_after_ten_minutes(world: World) -> None:
    store = synced_then_changed(world)
    store.fault("throttled", times=None, operation="CustomersPage", currentlyAvailable=-6000)
    outcome = world.sync_one("acme")
    assert "no points within 600 s" in str(outcome.error)
    assert 500 < sum(world.time.slept) <= 600
    store.clear_faults()
    assert world.sync_one("acme").state == "synced"
    assert world.differences("acme", store) == []


def test_an_answer_without_a_date_ends_no_window(world: World) -> None:
    store = world.connect("acme", SHOP, customers=10)
    store.fault("no_date", times=None)
    assert "no Date" in str(world.sync_one("acme").error)
    assert world.rows("acme") == {}


def test_names_that_protected_data_hides_are_never_written_over_known_ones(world: World) -> None:
    store = world.connect("acme", SHOP, customers=30)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    known = world.rows("acme")
    store.edit(min(known), note="changed")
    store.settings.protected_data = "level1"
    outcome = world.sync_one("acme")
    assert outcome.state == "failed"
    assert world.rows("acme") == known
    assert world.integration("acme").status == "needs_scope"


def test_points_that_are_short_are_waited_for_exactly_and_are_no_failure(world: World) -> None:
    store = world.connect("acme", SHOP, customers=2500)
    store.settings.maximum_available = 100.0
    store.settings.restore_rate = 10.0
    outcome = world.sync_one("acme")
    assert outcome.result is not None
    assert outcome.result.throttled > 0
    page_requests = requests_of(store)
    assert page_requests - outcome.result.pages <= 1  # only the first page's cost is not known
    assert world.differences("acme", store) == []


def outcome_text(outcome: StoreOutcome) -> str:
    return str(outcome.error)


@pytest.mark.parametrize("kind", ["drip", "drip_headers", "hang"])
def test_an_answer_that_never_ends_is_given_up_at_the_deadline(
    world: World, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shopsync_pipeline.shopify.transport.TOTAL_DEADLINE", 0.3)
    monkeypatch.setattr("shopsync_pipeline.shopify.transport.READ_TIMEOUT", 0.2)
    store = synced_then_changed(world)
    store.fault(kind, times=None, seconds=0.05 if kind != "hang" else 5, operation="CustomersPage")
    outcome = world.sync_one("acme")
    assert "no whole answer" in outcome_text(outcome)
    store.clear_faults()
    assert world.sync_one("acme").state == "synced"
