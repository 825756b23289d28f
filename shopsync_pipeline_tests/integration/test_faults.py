"""Each fault of a store in each way of reading it: what is asked, what is in the table, when it is
tried again, what the operator is told.

    pull           the incremental sync, at its second page
    drain          a webhook's read by id
    reconcile      the sweep, at its second page
    bulk           the first load of a large store, at the poll of its operation
    subscriptions  turning real-time sync on

None of them may end green with rows missing, and all of them end equal to the store once the fault
is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from shopsync_pipeline_tests.trials import A_PAGE, OPERATION, Way, trial
from shopsync_pipeline_tests.world import World

pytestmark = pytest.mark.faults


Wait = Literal["never", "a minute", "an hour", "a day"]

BEFORE: Mapping[Way, int] = {"pull": 1, "drain": 0, "reconcile": 1, "bulk": 0, "subscriptions": 0}
"""Requests of that operation that are answered before the fault."""

NEEDS_A_CURSOR = ("same_cursor", "cursor_refused")
"""Faults that let the first page pass of themselves."""

WRITTEN: Mapping[Way, int] = {
    "pull": A_PAGE,  # the first page is committed, and stays
    "drain": 0,
    "reconcile": 0,
    "bulk": 0,
    "subscriptions": 0,
}


@dataclass(frozen=True, kw_only=True)
class End:
    """`tries` requests that met the fault; then the store's status, and the wait until the schedule
    (of the drain: the drain) touches it again."""

    tries: int
    status: str = "ok"
    again: Wait


Ends = Mapping[Way, End]

MAY_PASS: Ends = {
    "pull": End(tries=4, again="an hour"),
    "drain": End(tries=4, again="a minute"),
    "reconcile": End(tries=4, again="never"),
    "bulk": End(tries=4, again="an hour"),
    "subscriptions": End(tries=4, again="never"),
}
MAY_PASS_BUT_NOT_NOW: Ends = {
    "pull": End(tries=1, again="an hour"),
    "drain": End(tries=1, again="a minute"),
    "reconcile": End(tries=1, again="never"),
    "bulk": End(tries=1, again="an hour"),
    "subscriptions": End(tries=1, again="never"),
}
TOKEN: Ends = {
    "pull": End(tries=1, status="needs_reauth", again="a day"),
    "drain": End(tries=1, status="needs_reauth", again="a day"),
    "reconcile": End(tries=1, status="needs_reauth", again="a day"),
    "bulk": End(tries=1, status="needs_reauth", again="a day"),
    "subscriptions": End(tries=1, status="needs_reauth", again="a day"),
}
SCOPE: Ends = {
    "pull": End(tries=1, status="needs_scope", again="an hour"),
    "drain": End(tries=1, status="needs_scope", again="an hour"),
    "reconcile": End(tries=1, status="needs_scope", again="an hour"),
    "bulk": End(tries=1, status="needs_scope", again="an hour"),
    "subscriptions": End(tries=1, status="needs_scope", again="an hour"),
}
PAUSED: Ends = {
    "pull": End(tries=1, status="paused", again="a day"),
    "drain": End(tries=1, status="paused", again="a day"),
    "reconcile": End(tries=1, status="paused", again="a day"),
    "bulk": End(tries=1, status="paused", again="a day"),
    "subscriptions": End(tries=1, status="paused", again="a day"),
}
GONE: Ends = {
    "pull": End(tries=1, status="gone", again="an hour"),
    "drain": End(tries=1, status="gone", again="an hour"),
    "reconcile": End(tries=1, status="gone", again="an hour"),
    "bulk": End(tries=1, status="gone", again="an hour"),
    "subscriptions": End(tries=1, status="gone", again="an hour"),
}
REFUSED: Ends = {
    "pull": End(tries=1, again="an hour"),
    "drain": End(tries=1, again="an hour"),
    "reconcile": End(tries=1, again="never"),
    "bulk": End(tries=1, again="an hour"),
    "subscriptions": End(tries=1, again="never"),
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the store does for ever, and what must come of it in each way of reading where it may
    happen; `told` is a part of the message."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    told: str
    ends: Ends

    @property
    def name(self) -> str:
        return "-".join([self.kind, *(str(value) for value in self.options.values())])[:60]


def status(code: int, told: str, ends: Ends, **more: Any) -> Fault:
    return Fault(kind="status", options={"status": code, **more}, told=told, ends=ends)


def coded(code: str, told: str, ends: Ends) -> Fault:
    return Fault(kind="error", options={"code": code}, told=told, ends=ends)


def beside_data(code: str, told: str, ends: Ends) -> Fault:
    return Fault(kind="data_with_errors", options={"code": code}, told=told, ends=ends)


def altered(at: list[Any], told: str, ends: Ends, **value: Any) -> Fault:
    return Fault(kind="altered", options={"at": at, **value}, told=told, ends=ends)


def endless(name: str, ends: Ends) -> Fault:
    """A number beyond all floats wherever the answer has `name`; what stood there goes on as
    another field. Of an amount it had become Infinity in the table."""
    options = {"text": f'"{name}":', "by": f'"{name}":1e999,"before":'}
    return Fault(kind="respelled", options=options, told="not whole JSON", ends=ends)


def only(ends: Ends, *ways: Way) -> Ends:
    return {way: ends[way] for way in ways}


FAULTS = [
    status(500, "HTTP 500", MAY_PASS),
    status(502, "HTTP 502", only(MAY_PASS, "pull")),
    status(503, "HTTP 503", only(MAY_PASS, "pull")),
    status(504, "HTTP 504", only(MAY_PASS, "pull")),
    status(408, "HTTP 408", only(MAY_PASS, "pull")),
    status(430, "HTTP 430", only(MAY_PASS, "pull")),
    status(429, "too many requests", MAY_PASS),
    status(429, "asked again in 86400 s", MAY_PASS_BUT_NOT_NOW, headers={"Retry-After": "86400"}),
    status(429, "too many", only(MAY_PASS, "pull"), headers={"Retry-After": "soon"}),
    status(429, "too many", only(MAY_PASS, "pull"), headers={"Retry-After": "-5"}),
    status(429, "too many", only(MAY_PASS, "pull"), headers={"Retry-After": "1e999"}),
    status(401, "refused the access token", TOKEN),
    status(402, "frozen", PAUSED),
    status(403, "IP allowlist", SCOPE),
    status(404, "no such store", GONE),
    status(423, "locked", PAUSED),
    status(400, "HTTP 400", REFUSED),
    status(200, "not documented", MAY_PASS, body={"errors": "Something"}),
    status(200, "not documented", only(MAY_PASS, "pull"), body={"errors": {"customers": ["no"]}}),
    status(200, "not documented", only(MAY_PASS, "pull"), body={"errors": 7}),
    status(200, "the query: odd", REFUSED, body={"errors": [{"message": "odd"}]}),
    status(
        200, "the query: odd", only(REFUSED, "pull"),
        body={"errors": [{"message": "odd", "extensions": [["x"]]}]},
    ),
    status(200, "neither data nor errors", MAY_PASS, body={"data": None}),
    status(200, "neither data nor errors", only(MAY_PASS, "pull"), body={}),
    status(200, "no object", only(MAY_PASS, "pull"), body=[]),
    Fault(kind="html", told="text/html", ends=MAY_PASS),
    Fault(kind="truncated", told="not whole JSON", ends=MAY_PASS),
    Fault(kind="short_body", told="no whole answer", ends=MAY_PASS),
    Fault(kind="chunk_cut", told="no whole answer", ends=only(MAY_PASS, "pull")),
    Fault(kind="gzip_broken", told="no whole answer", ends=only(MAY_PASS, "pull")),
    Fault(kind="gzip_cut", told="not whole JSON", ends=only(MAY_PASS, "pull")),
    Fault(kind="empty", told="0 bytes", ends=only(MAY_PASS, "pull")),
    Fault(kind="reset", told="no whole answer", ends=MAY_PASS),
    coded("INTERNAL_SERVER_ERROR", "failed inside", MAY_PASS),
    coded("SHOP_INACTIVE", "inactive", PAUSED),
    coded("ACCESS_DENIED", "read_customers", SCOPE),
    coded("undefinedField", "refused the query", REFUSED),
    beside_data("INTERNAL_SERVER_ERROR", "failed inside", MAY_PASS),
    beside_data("SOMETHING_NEW", "errors beside data", MAY_PASS),
    beside_data("ACCESS_DENIED", "protected customer data", SCOPE),
    Fault(
        kind="throttled", options={"currentlyAvailable": -1e6}, told="no points within 600 s",
        ends=MAY_PASS_BUT_NOT_NOW,
    ),
    Fault(
        kind="redirect", options={"location": "https://new.myshopify.com/admin"},
        told="new.myshopify.com", ends=GONE,
    ),
    Fault(
        kind="redirect", options={"location": "https://[/x"}, told="no whole answer",
        ends=only(MAY_PASS, "pull"),
    ),
    Fault(
        kind="version", options={"version": "2025-01"}, told="answered by 2025-01", ends=REFUSED
    ),
    Fault(kind="other_shop", told="renamed", ends=GONE),
    altered(["extensions", "cost", "throttleStatus", "restoreRate"], "extensions.cost", MAY_PASS,
            value=0),
    altered(["extensions", "cost"], "extensions.cost", only(MAY_PASS, "pull"), value="much"),
    altered(["extensions", "search"], "extensions.search", only(MAY_PASS, "pull"), value=[7]),
    altered(["data", "shop"], "the shop's id", MAY_PASS_BUT_NOT_NOW, value=None),
    altered(["data", "shop", "id"], "the shop's id", only(MAY_PASS_BUT_NOT_NOW, "pull")),
    # only where customers are read
    Fault(
        kind="max_cost_above", options={"first": 0}, told="costs more",
        ends={
            "pull": End(tries=4, again="an hour"),  # 10, 5, 2, 1
            "reconcile": End(tries=4, again="never"),
        },
    ),
    coded(
        "MAX_COST_EXCEEDED", "costs more",
        {"drain": End(tries=7, again="an hour")},  # at most 100 ids, 50, 25, 12, 6, 3, 1
    ),
    Fault(
        kind="ignored_filter", told="ignored a part of the filter", ends=only(REFUSED, "pull")
    ),
    Fault(
        kind="same_cursor", told="same end cursor",
        ends={
            "pull": End(tries=1, again="an hour"),
            "reconcile": End(tries=1, again="never"),
        },
    ),
    Fault(
        kind="cursor_refused", told="Invalid cursor",
        ends={
            "pull": End(tries=3, again="an hour"),  # begun anew once, where it had come to
            "reconcile": End(tries=3, again="never"),
        },
    ),
    altered(["data", "customers"], "a page of customers",
            only(MAY_PASS_BUT_NOT_NOW, "pull", "reconcile"), value=None),
    altered(["data", "customers", "nodes", 3], "a page of customers",
            only(MAY_PASS_BUT_NOT_NOW, "pull", "reconcile"), value=None),
    altered(["data", "customers", "nodes", 3, "tags"], "a page of customers",
            only(MAY_PASS_BUT_NOT_NOW, "pull", "reconcile")),
    altered(["data", "customers", "nodes", 3, "legacyResourceId"], "a page of customers",
            only(MAY_PASS_BUT_NOT_NOW, "pull", "reconcile"), value="many"),
    altered(["data", "customers", "nodes", 3, "updatedAt"], "a page of customers",
            only(MAY_PASS_BUT_NOT_NOW, "pull", "reconcile"), value="0000-01-01T00:00:00Z"),
    altered(["data", "customers", "nodes", 3, "updatedAt"], "a page of customers",
            only(MAY_PASS_BUT_NOT_NOW, "pull", "reconcile"), value="2026-01-01T00:00:00"),
    altered(["data", "customers", "pageInfo"], "a page of customers",
            only(MAY_PASS_BUT_NOT_NOW, "pull", "reconcile")),
    altered(["data", "customers", "pageInfo", "endCursor"], "no cursor",
            only(MAY_PASS_BUT_NOT_NOW, "pull", "reconcile"), value=None),
    altered(["data", "nodes"], "a read of customers by id", only(MAY_PASS_BUT_NOT_NOW, "drain"),
            value=None),
    altered(["data", "nodes", 0, "amountSpent"], "a read of customers by id",
            only(MAY_PASS_BUT_NOT_NOW, "drain"), value=None),
    altered(["data", "nodes", 0, "updatedAt"], "a read of customers by id",
            only(MAY_PASS_BUT_NOT_NOW, "drain"), value=None),
    altered(["data", "nodes", 0, "updatedAt"], "a read of customers by id",
            only(MAY_PASS_BUT_NOT_NOW, "drain"), value="2026-01-01T00:00:00"),
    endless("legacyResourceId", only(MAY_PASS, "drain")),
    endless("amount", only(MAY_PASS, "pull", "drain", "reconcile")),
    endless("restoreRate", only(MAY_PASS, "drain")),
    altered(["data", "nodes", 0, "legacyResourceId"], "other customers than those asked for",
            only(MAY_PASS_BUT_NOT_NOW, "drain"), value="7"),
    altered(["data", "nodes"], "other customers than those asked for",
            only(MAY_PASS_BUT_NOT_NOW, "drain"), value=[]),
    altered(["data", "bulkOperation"], "a bulk operation", only(MAY_PASS_BUT_NOT_NOW, "bulk")),
    altered(["data", "bulkOperation", "createdAt"], "a bulk operation",
            only(MAY_PASS_BUT_NOT_NOW, "bulk"), value="yesterday"),
    altered(["data", "bulkOperation", "rootObjectCount"], "a bulk operation",
            only(MAY_PASS_BUT_NOT_NOW, "bulk"), value="many"),
    altered(["data", "webhookSubscriptions", "nodes"], "the list of webhook subscriptions",
            only(MAY_PASS_BUT_NOT_NOW, "subscriptions"), value=[None]),
    altered(["data", "webhookSubscriptions", "pageInfo"], "the list of webhook subscriptions",
            only(MAY_PASS_BUT_NOT_NOW, "subscriptions"), value={"hasNextPage": True}),
    altered(["data", "currentAppInstallation"], "the list of the app's scopes",
            only(MAY_PASS_BUT_NOT_NOW, "subscriptions"), value=None),
]  # fmt: skip


def assert_put_off(world: World, organization: str, wait: Wait) -> None:
    """The schedule ticks on the hour: an hour and a day end a minute before a full hour, and an
    hour at least five minutes after the failure, in whichever minute that was. The row has both
    times, and a slow test changes neither."""
    with world.engine.pool.connection() as conn:
        row = conn.execute(
            """SELECT "retryAt" + interval '1 minute',
                      extract(epoch FROM "retryAt" - "updatedAt")
               FROM integrations WHERE "organizationId" = %s""",
            [organization],
        ).fetchone()
    assert row is not None
    tick, left = row
    if wait == "never":
        assert tick is None
    elif wait == "a minute":
        assert 50 < left <= 60
    else:
        assert (tick.minute, tick.second, tick.microsecond) == (0, 0, 0)
        least, most = (290, 3900) if wait == "an hour" else (82_730, 86_340)
        assert least < left <= most


CASES = [
    pytest.param(fault, way, end, id=f"{way}-{fault.name}")
    for fault in FAULTS
    for way, end in fault.ends.items()
]


@pytest.mark.parametrize(("fault", "way", "end"), CASES)
def test_a_fault_that_stays_is_told_and_nothing_counts_as_read(
    shared: World,
    fault: Fault,
    way: Way,
    end: End,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trial(shared, way, monkeypatch) as this:
        run = f"run-{shared.runs}"  # that of the sync before
        before = shared.integration(this.organization)
        skipped = 0 if fault.kind in NEEDS_A_CURSOR else BEFORE[way]
        this.store.fault(
            fault.kind, times=None, after=skipped, operation=OPERATION[way], **fault.options
        )

        told = this.read(caplog)

        assert told is not None
        assert told.startswith(f"{this.organization}: {this.shop}: ")
        assert fault.told in told
        assert told.endswith(".")  # what to do
        assert this.asked() - BEFORE[way] == end.tries
        assert sum(shared.time.slept) <= 15
        after = shared.integration(this.organization)
        assert after.status == end.status
        assert (after.watermark, after.last_sync_at) == (before.watermark, before.last_sync_at)
        assert this.written(since=run) == WRITTEN[way]
        this.assert_nothing_counts()
        assert_put_off(shared, this.organization, end.again)
        recorded = way in ("pull", "bulk") or end.status != "ok"
        if recorded or (way == "drain" and end.again != "a minute"):
            assert after.last_error is not None
            assert told == f"{this.organization}: {after.last_error}"
        else:
            assert after.last_error is None

        this.store.clear_faults()
        shared.pass_waits()
        assert this.read(caplog) is None
        assert this.differences() == []
        assert way not in ("pull", "bulk") or shared.integration(this.organization).status == "ok"


PASSING_ANYWHERE: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 500}),
    ("status", {"status": 429, "headers": {"Retry-After": "2"}}),
    ("throttled", {}),
    ("answer_lost", {}),
]
PASSING = [
    *PASSING_ANYWHERE,
    ("html", {}),
    ("truncated", {}),
    ("short_body", {}),
    ("chunk_cut", {}),
    ("gzip_broken", {}),
    ("gzip_cut", {}),
    ("empty", {}),
    ("data_with_errors", {}),
    ("reset", {}),
]
PASSING_PAGES: list[tuple[str, dict[str, Any]]] = [
    ("max_cost_above", {"first": 7}),
    ("cursor_refused", {}),
    ("repeated_row", {}),
]
PASSES = [
    *((kind, options, "pull", after) for kind, options in PASSING for after in (0, 1)),
    *((kind, options, "reconcile", 2) for kind, options in PASSING_ANYWHERE),
    *((kind, options, "drain", 0) for kind, options in PASSING_ANYWHERE),
    *((kind, options, "bulk", 1) for kind, options in PASSING_ANYWHERE),
    *((kind, options, "subscriptions", 0) for kind, options in PASSING_ANYWHERE),
    *((kind, options, "pull", after) for kind, options in PASSING_PAGES for after in (0, 1)),
    *((kind, options, "reconcile", after) for kind, options in PASSING_PAGES for after in (0, 1)),
]


@pytest.mark.parametrize(("kind", "options", "way", "after"), PASSES, ids=lambda v: str(v)[:40])
def test_a_fault_that_passes_costs_time_and_no_row(
    shared: World,
    kind: str,
    options: dict[str, Any],
    way: Way,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trial(shared, way, monkeypatch) as this:
        this.store.fault(kind, times=1, after=after, operation=OPERATION[way], **options)
        assert this.read(caplog) is None
        assert any(request["fault"] == kind for request in this.store.requests)
        assert this.differences() == []
        assert sum(shared.time.slept) < 15 + (60 if way == "bulk" else 0)
