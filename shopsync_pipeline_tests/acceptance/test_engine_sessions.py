"""The engine loses its connections to Postgres, or stands still while others go on: it ends, or
goes on, and neither undoes nor repeats what was done meanwhile."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from shopsync_pipeline_tests.acceptance.siege import (
    LEASE_SECONDS,
    ORGANIZATION,
    Child,
    Siege,
    wait_for,
)
from shopsync_pipeline_tests.world import World

pytestmark = pytest.mark.kills

CUSTOMERS = 1000
NAME = "under fire"
OURS = "(application_name = %s OR starts_with(application_name, 'shopsync drain child'))"
HOLDS_LOCK = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"


@pytest.fixture
def siege(world: World) -> Siege:
    siege = Siege.laid(world, CUSTOMERS, latency_ms=50)
    assert world.sync_one(ORGANIZATION).state == "synced"
    return siege


def ids_of(siege: Siege) -> list[int]:
    return [int(record["legacyResourceId"]) for record in siege.store.customers()]


def hear(siege: Siege, count: int, **more: Any) -> None:
    """Of so many customers that have changed; where the time is not told each is read by id."""
    for number in ids_of(siege)[:count]:
        record = siege.store.edit(number, note=f"edited {time.monotonic()}")
        told = {name: record[name_there] for name, name_there in more.items()}
        siege.world.hear(ORGANIZATION, "customers/update", {"id": number, **told})


def connections(siege: Siege, only: str = "true", place: int = 0) -> list[int]:
    """The pids of those of the child from that place on, the oldest first."""
    found = siege.sql(
        f"""SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND {OURS} AND {only} ORDER BY backend_start""",
        NAME,
    )
    return [pid for (pid,) in found[place:]]


def cut(siege: Siege, pids: Sequence[int]) -> None:
    """At least one, and each of them for sure."""
    assert pids
    for pid in pids:
        assert siege.sql("SELECT pg_terminate_backend(%s, 5000)", pid) == [(True,)]


def forget(siege: Siege) -> None:
    siege.forget()


def lose_webhooks(siege: Siege) -> None:
    for number in ids_of(siege)[:3]:
        siege.store.delete(number)


def go_on(siege: Siege, work: str) -> None:
    """By the next run of its kind; of those that need nothing else, here."""
    if work == "pull":
        assert siege.world.sync_one(ORGANIZATION).state == "synced"
    elif work == "drain":
        siege.settle()
    else:
        with siege.child(work) as heir:
            heir.ended_well()


WORKS: dict[str, tuple[Callable[[Siege], None], str, int]] = {
    "pull": (forget, "CustomersPage", 2),
    "bulk": (forget, "BulkOperationById", 1),
    "reconcile": (lose_webhooks, "CustomersSweep", 2),
    "drain": (lambda siege: hear(siege, 190), "CustomersById", 1),
}


@pytest.mark.parametrize("work", WORKS)
def test_whichever_connection_is_cut_in_the_middle_the_next_run_ends_it(
    siege: Siege, work: str
) -> None:
    before, operation, answers = WORKS[work]
    place, most = 0, 1
    while place < most:
        before(siege)
        siege.store.clear_requests()
        with siege.child(work, PGAPPNAME=NAME) as child:
            wait_for(lambda: siege.asked(operation) >= answers, operation)
            pids = wait_for(partial(connections, siege, place=place), f"connection {place}")
            most = max(most, place + len(pids))
            cut(siege, pids[:1])
            assert child.ended() == 0 or "Postgres" in child.last_words
        siege.world.pass_waits()
        go_on(siege, work)
        siege.settle()
        assert siege.world.sync_one(ORGANIZATION).state == "synced"
        siege.assert_nothing_is_lost()
        place += 1
    assert most >= 2
    print(f"{work}: each of {most} connections cut")


def everything(siege: Siege) -> list[Any]:
    """What an overtaken run must leave as it is."""
    tables = ("customers", "webhook_events", "integrations")
    return [siege.sql(f'SELECT to_jsonb(t) FROM {name} t ORDER BY "id"') for name in tables]


def changed(after: list[Any], before: list[Any]) -> list[Any]:
    """Of each table that is other than before, the columns and their values, then and now."""
    return [
        (name, was[name], now[name])
        for then_rows, now_rows in zip(before, after, strict=True)
        for (was,), (now,) in zip(then_rows, now_rows, strict=True)
        for name in was
        if was[name] != now[name]
    ]


def stopped(siege: Siege, work: str, point: str) -> Child:
    return siege.child(work, PGAPPNAME=NAME, STOP_POINT=point)


READ_BY_ID = "before sync.events:CustomerEvents._settle"
PAGE_READ = "before sync.pull:PageReader._merge"


def test_a_drain_that_stood_still_beyond_its_lease_still_has_the_lock_and_goes_on(
    siege: Siege,
) -> None:
    hear(siege, 5)
    with stopped(siege, "drain", READ_BY_ID) as child:
        child.stopped()
        time.sleep(2 * LEASE_SECONDS)
        assert siege.world.drain(patience=0.2) == []
        child.go_on()
        child.ended_well()
    assert {event["status"] for event in siege.world.events(ORGANIZATION)} == {"done"}
    siege.assert_nothing_is_lost()


@pytest.mark.parametrize(
    ("point", "events", "told"),
    [
        pytest.param(READ_BY_ID, 5, {}, id="read by id, not merged"),
        pytest.param(PAGE_READ, 300, {"updated_at": "updatedAt"}, id="scanned, not merged"),
        pytest.param("before db.inbox:renew", 5, {}, id="before it renews its lease"),
    ],
)
def test_a_drain_overtaken_while_it_stood_still_changes_nothing_when_it_wakes(
    siege: Siege, point: str, events: int, told: dict[str, str]
) -> None:
    """Postgres has given up its session, as after a failover, and its lease has ended."""
    hear(siege, events, **told)
    with stopped(siege, "drain", point) as child:
        child.stopped()
        cut(siege, connections(siege, "starts_with(application_name, 'shopsync drain')"))
        time.sleep(1.5 * LEASE_SECONDS)
        hear(siege, events, **told)
        siege.settle()
        after = everything(siege)
        child.go_on()
        child.ended()
    assert changed(everything(siege), after) == []
    assert siege.world.sync_one(ORGANIZATION).state == "synced"
    siege.assert_nothing_is_lost()


NO_WINDOW = "before db.windows:open_window"
NO_WATERMARK = "before db.bulk_operations:finish"
CONFIRMED = "before sync.reconcile:_Confirmation._settle"
OVERTAKEN = [
    pytest.param("pull", NO_WINDOW, HOLDS_LOCK, id="pull, no window yet, its lock lost"),
    pytest.param("pull", PAGE_READ, HOLDS_LOCK, id="pull, a page read, its lock lost"),
    pytest.param("bulk", NO_WATERMARK, HOLDS_LOCK, id="load, no watermark yet, its lock lost"),
    pytest.param("reconcile", CONFIRMED, HOLDS_LOCK, id="reconcile, its lock lost"),
    pytest.param("pull", PAGE_READ, "true", id="pull, a page read, all connections lost"),
    pytest.param("reconcile", CONFIRMED, "true", id="reconcile, all connections lost"),
]


@pytest.mark.parametrize(("work", "point", "lost"), OVERTAKEN)
def test_a_run_overtaken_while_it_stood_still_undoes_nothing_when_it_wakes(
    siege: Siege, work: str, point: str, lost: str
) -> None:
    WORKS[work][0](siege)
    gone = set(siege.rows()) - set(ids_of(siege))
    with stopped(siege, work, point) as child:
        child.stopped()
        cut(siege, connections(siege, lost))
        go_on(siege, work)
        for number in gone:  # the reconcile has seen that they are gone; now they are back
            back = siege.store.create(number, note="back")
            siege.world.hear(
                ORGANIZATION, "customers/create", {"id": int(back["legacyResourceId"])}
            )
        siege.store.edit(ids_of(siege)[5], note="edited meanwhile")
        siege.settle()
        assert siege.world.sync_one(ORGANIZATION).state == "synced"
        after = everything(siege)
        child.go_on()
        child.ended()
    found = changed(everything(siege), after)
    if work == "reconcile":  # where it can it ends well: it has read the store to its end
        found = [each for each in found if each[0] not in ("reconciledAt", "updatedAt")]
    assert found == []
    siege.assert_nothing_is_lost()


def test_a_pull_that_stands_still_in_a_transaction_does_not_hold_up_the_store_for_good(
    siege: Siege,
) -> None:
    """It held the integration's row: no pull and no drain of the store had gone on any more."""
    forget(siege)
    point = "after db.windows:advance_window"
    with siege.child("pull", PGAPPNAME=NAME, STOP_POINT=point, STANDS_STILL="500ms") as child:
        child.stopped()
        cut(siege, connections(siege, HOLDS_LOCK))
        assert siege.world.sync_one(ORGANIZATION).state == "synced"
        after = everything(siege)
        child.go_on()
        child.ended()
    assert changed(everything(siege), after) == []
    siege.assert_nothing_is_lost()
