"""Whole answers with odd contents: rows, clocks, waits. What can be kept is kept as it is; what
cannot is told, and nothing counts as read."""

import json
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from shopsync_pipeline_tests.trials import Trial, Way, trial
from shopsync_pipeline_tests.world import World

pytestmark = pytest.mark.faults


SHOP = "a.myshopify.com"


def synced_then_changed(world: World) -> Any:
    """A store that is in the table, and a third of which has changed since."""
    store = world.connect("acme", SHOP, customers=60)
    assert world.sync_one("acme").state == "synced"
    world.simulator.clock.advance(3600)
    for customer in store.customers()[::3]:
        store.edit(int(customer["legacyResourceId"]), note="changed")
    world.simulator.clock.advance(60)
    return store


def pages_asked(store: Any) -> int:
    return sum(request["operation"] == "CustomersPage" for request in store.requests)


# Rows

KEPT: dict[str, dict[str, Any]] = {
    "an unknown state": {"state": "FROZEN_SOLID"},
    "the year 9999": {"createdAt": "9999-12-31T23:59:59Z"},
    "the year 1": {"createdAt": "0001-01-01T00:00:00Z"},
    "a fortune": {"amountSpent": {"amount": "9" * 200 + ".99", "currencyCode": "XXX"}},
    "less than nothing": {"amountSpent": {"amount": "-0.01", "currencyCode": "USD"}},
    "as many orders as a bigint": {"numberOfOrders": str(2**63 - 1)},
    "a note of a megabyte": {"note": "n" * (1 << 20)},
    "a name of spaces": {"firstName": "  ", "displayName": ""},
    "quotes and braces": {"tags": ['{"', "}", "\\", "NULL"], "note": "\\N\t\r\n\\."},
    "hundreds of tags": {"tags": [f"tag {n}" for n in range(250)]},
    "scripts of the world": {"firstName": "Zoë 李 😀 ‮", "lastName": "ﷺ"},
}
REFUSED: dict[str, dict[str, Any]] = {
    "orders in words": {"numberOfOrders": "many"},
    "more orders than a bigint": {"numberOfOrders": str(2**63)},
    "a comma in an amount": {"amountSpent": {"amount": "12,50", "currencyCode": "USD"}},
    "an amount beyond numeric": {"amountSpent": {"amount": "9" * 131073, "currencyCode": "USD"}},
    "the year 0": {"createdAt": "0000-01-01T00:00:00Z"},
    "no month": {"createdAt": "2026-99-99T00:00:00Z"},
}
ROWS: tuple[Way, ...] = ("pull", "reconcile", "bulk")


def made_odd(this: Trial, fields: dict[str, Any]) -> int:
    """The customer of the store who has them now."""
    number = max(int(customer["legacyResourceId"]) for customer in this.store.customers())
    this.store.edit(number, **fields)
    this.world.simulator.clock.advance(60)
    return number


@pytest.mark.parametrize("way", ROWS)
@pytest.mark.parametrize("odd", KEPT)
def test_what_the_table_can_hold_is_kept_as_it_is(
    shared: World,
    odd: str,
    way: Way,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trial(shared, way, monkeypatch) as this:
        made_odd(this, KEPT[odd])
        assert this.read(caplog) is None
        assert this.differences() == []


@pytest.mark.parametrize("way", ROWS)
@pytest.mark.parametrize("odd", REFUSED)
def test_a_row_that_postgres_refuses_is_told_and_nothing_counts_as_read(
    shared: World,
    odd: str,
    way: Way,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trial(shared, way, monkeypatch) as this:
        before = shared.integration(this.organization)
        number = made_odd(this, REFUSED[odd])
        told = this.read(caplog)
        assert told is not None
        assert told.startswith(f"{this.organization}: {this.shop}: Postgres refused")
        assert "SQLSTATE 22" in told
        after = shared.integration(this.organization)
        assert (after.watermark, after.last_sync_at) == (before.watermark, before.last_sync_at)
        assert (after.status, after.retry_at) == ("ok", None)  # no trouble of the store
        this.assert_nothing_counts()
        this.store.edit(
            number,
            numberOfOrders="1",
            createdAt="2020-01-01T00:00:00Z",
            amountSpent={"amount": "1.0", "currencyCode": "USD"},
        )
        shared.simulator.clock.advance(60)
        assert this.read(caplog) is None
        assert this.differences() == []


@pytest.mark.parametrize("way", ["pull", "drain", "reconcile", "bulk"])
@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00\\ud83d", "\\u0000"])
def test_half_an_emoji_and_nul_become_a_character_that_postgres_can_keep(
    shared: World,
    half: str,
    way: Way,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The whole store had stood still for one customer's note."""
    with trial(shared, way, monkeypatch) as this:
        note = "here: a-half-emoji"
        for customer in this.store.customers():
            edited = this.store.edit(int(customer["legacyResourceId"]), note=note)
        number = int(edited["legacyResourceId"])
        if way == "drain":
            body = {"id": number, "updated_at": edited["updatedAt"]}
            shared.hear(this.organization, "customers/update", body)
        shared.simulator.clock.advance(60)
        for place in ("bulk_file", None):  # in its file, and in all other answers
            this.store.fault("respelled", times=None, text="a-half-emoji", by=half, operation=place)
        assert this.read(caplog) is None
        kept = shared.rows(this.organization)[number]["note"]
        assert kept == "here: " + "\N{REPLACEMENT CHARACTER}" * (half.count("\\u"))


def test_one_customer_twice_in_the_place_of_another_buries_nobody(
    shared: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other had been taken for deleted."""
    with trial(shared, "drain", monkeypatch) as this:
        before = shared.rows(this.organization)
        other = max(before)
        shared.hear(this.organization, "customers/update", {"id": other})
        told = [json.loads(event["body"])["id"] for event in shared.events(this.organization)]
        first, second = sorted(told)
        assert second == other
        at = ["data", "nodes", 1, "legacyResourceId"]
        this.store.fault("altered", times=None, operation="CustomersById", at=at, value=str(first))
        assert "other customers than those asked for" in str(this.read(caplog))
        assert shared.rows(this.organization) == before
        this.assert_nothing_counts()
        this.store.clear_faults()
        shared.pass_waits()
        assert this.read(caplog) is None
        assert this.differences() == []


@pytest.mark.parametrize(
    ("text", "by"),
    [
        pytest.param('"updatedAt":"', '"updatedAt":null,"before":"', id="no time"),
        pytest.param('Z"', '"', id="no zone"),
        pytest.param('"amount":', '"amount":1e999,"before":', id="an amount without end"),
    ],
)
def test_a_load_whose_rows_cannot_be_ordered_or_weighed_fails_as_a_whole(
    shared: World,
    text: str,
    by: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trial(shared, "bulk", monkeypatch) as this:
        this.store.fault("respelled", times=None, text=text, by=by, operation="bulk_file")
        assert "the result of the bulk operation is broken" in str(this.read(caplog))
        this.assert_nothing_counts()
        assert shared.integration(this.organization).watermark is None
        this.store.clear_faults()
        shared.pass_waits()
        assert this.read(caplog) is None
        assert this.differences() == []


# Clocks


@pytest.mark.parametrize("text", ["", "yesterday", "Mon, 32 Jan 2026 00:00:00 GMT"])
def test_an_answer_without_a_date_ends_no_window(
    shared: World, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with trial(shared, "pull", monkeypatch) as this:
        before = shared.rows(this.organization)
        fault: dict[str, Any] = {"kind": "date", "text": text} if text else {"kind": "no_date"}
        this.store.fault(times=None, **fault)
        assert "no Date" in str(this.read(caplog))
        assert shared.rows(this.organization) == before
        assert shared.integration(this.organization).window is None


def dated(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


@pytest.mark.parametrize(
    ("hours", "times", "told"),
    [
        (-5, None, None),
        (-5, 1, None),
        (-0.5, None, None),
        (5, None, None),
        (5, 1, "Shopify's clock went back"),
        (0.5, 1, "Shopify's clock went back"),
    ],
)
def test_a_date_that_is_hours_off_hides_nothing_once_it_is_right_again(
    shared: World,
    hours: float,
    times: int | None,
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The watermark had moved ahead, and whatever changed until then was never read."""
    with trial(shared, "pull", monkeypatch) as this:
        clock = shared.simulator.clock
        this.store.fault("date", times=times, text=dated(clock.now() + timedelta(hours=hours)))
        answer = this.read(caplog)
        assert answer is None if told is None else told in str(answer)
        this.store.clear_faults()
        clock.advance(600)
        made_odd(this, {"note": "in between"})
        this.store.create(firstName="In between")
        clock.advance(3000)
        assert this.read(caplog) is None
        clock.advance(6 * 3600)
        assert this.read(caplog) is None
        assert this.differences() == []
        now = clock.now().replace(microsecond=0)
        assert shared.integration(this.organization).watermark == now


# How long is waited


@pytest.mark.parametrize(
    ("text", "waits"), [("17", 17.0), ("2.5", 2.5), ("599", 599.0), (timedelta(seconds=42), 42.0)]
)
def test_a_retry_after_is_waited_for_exactly_as_seconds_and_as_a_date(
    shared: World,
    text: str | timedelta,
    waits: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The date had been taken for nothing, and Shopify asked again at once."""
    with trial(shared, "pull", monkeypatch) as this:
        if isinstance(text, timedelta):
            text = format_datetime(shared.simulator.clock.now() + text, usegmt=True)
        this.store.fault(
            "status", status=429, headers={"Retry-After": text}, operation="CustomersPage"
        )
        assert this.read(caplog) is None
        assert [wait for wait in shared.time.slept if wait] == [waits]


def test_a_bucket_that_others_keep_empty_is_given_up_after_ten_minutes(world: World) -> None:
    store = synced_then_changed(world)
    store.fault("throttled", times=None, operation="CustomersPage", currentlyAvailable=-6000)
    outcome = world.sync_one("acme")
    assert "no points within 600 s" in str(outcome.error)
    assert 500 < sum(world.time.slept) <= 600
    store.clear_faults()
    assert world.sync_one("acme").state == "synced"
    assert world.differences("acme", store) == []


def test_points_that_are_short_are_waited_for_exactly_and_are_no_failure(world: World) -> None:
    store = world.connect("acme", SHOP, customers=2500)
    store.settings.maximum_available = 100.0
    store.settings.restore_rate = 10.0
    outcome = world.sync_one("acme")
    assert outcome.result is not None
    assert outcome.result.throttled > 0
    assert pages_asked(store) - outcome.result.pages <= 1  # only the first page's cost is not known
    assert world.differences("acme", store) == []


@pytest.mark.parametrize("kind", ["drip", "drip_headers", "hang"])
def test_an_answer_that_never_ends_is_given_up_at_the_deadline(
    shared: World, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shopsync_pipeline.shopify.transport.TOTAL_DEADLINE", 0.3)
    monkeypatch.setattr("shopsync_pipeline.shopify.transport.READ_TIMEOUT", 0.2)
    with trial(shared, "pull", monkeypatch) as this:
        seconds = 0.05 if kind != "hang" else 5
        this.store.fault(kind, times=None, seconds=seconds, operation="CustomersPage")
        assert "no whole answer" in str(this.read(caplog))
        this.store.clear_faults()
        assert this.read(caplog) is None


# Windows


def test_a_filter_that_shopify_ignores_silently_is_noticed_by_the_rows(world: World) -> None:
    store = synced_then_changed(world)
    store.fault("ignored_filter", times=None, silent=True, operation="CustomersPage")
    outcome = world.sync_one("acme")
    assert outcome.state == "failed"
    assert "from before the window" in str(outcome.error)


def test_a_cursor_that_is_always_refused_ends_the_pull_where_nothing_says_how_far_it_came(
    world: World,
) -> None:
    """All customers are newer than the index's lag, so no row tells a place to go on from; the
    pull had begun again for ever."""
    store = world.connect("acme", SHOP, customers=0)
    for number in range(600):
        store.create(firstName=str(number))
    store.fault("cursor_refused", times=None, operation="CustomersPage")
    outcome = world.sync_one("acme")
    assert "Invalid cursor" in str(outcome.error)
    assert world.integration("acme").watermark is None


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
