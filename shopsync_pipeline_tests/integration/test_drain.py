"""From the inbox to the row: what a drain makes of hints."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from shopsync_pipeline.db import dead_letters, erasure, inbox, integrations, locks
from shopsync_pipeline.db.locks import DrainSession
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline_tests.world import World, differences

SHOP = "a.myshopify.com"


@pytest.fixture
def store(world: World) -> Any:
    """Ten customers, all pulled already."""
    store = world.connect("acme", SHOP, customers=10)
    world.sync("acme")
    store.clear_requests()
    return store


def body_of(record: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": int(record["legacyResourceId"]),
        "admin_graphql_api_id": record["id"],
        "updated_at": record["updatedAt"],
        **more,
    }


def reads(store: Any) -> list[list[str]]:
    """The ids of each read by id."""
    found = [r for r in store.requests if r["operation"] == "CustomersById"]
    return [[gid.rsplit("/")[-1] for gid in r["variables"]["ids"]] for r in found]


def any_id(store: Any) -> int:
    return int(store.customers()[3]["legacyResourceId"])


def test_a_customer_that_was_created_and_edited_is_read_and_merged(
    world: World, store: Any
) -> None:
    made = store.create(note="new")
    edited = store.edit(any_id(store), note="edited")
    world.hear("acme", "customers/create", body_of(made))
    world.hear("acme", "customers/update", body_of(edited))
    (report,) = world.drain()
    assert world.differences("acme", store) == []
    assert [e["status"] for e in world.events("acme")] == ["done", "done"]
    assert [e["outcome"] for e in world.events("acme")] == ["created", "updated"]
    assert report.outcomes == {"created": 1, "updated": 1}
    assert len(reads(store)) == 1
    row = world.rows("acme")[int(made["legacyResourceId"])]
    assert (row["lastSyncVia"], row["lastSyncRunId"]) == ("WEBHOOK", report.run_id)


def test_a_burst_for_one_customer_is_one_read(world: World, store: Any) -> None:
    for note in range(30):
        world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note=str(note))))
    world.drain()
    assert reads(store) == [[str(any_id(store))]]
    assert world.differences("acme", store) == []
    assert {e["status"] for e in world.events("acme")} == {"done"}


def test_reads_by_id_ask_for_at_most_a_hundred(world: World) -> None:
    store = world.connect("acme", SHOP, customers=180)
    world.sync("acme")
    for record in store.customers():
        world.hear("acme", "customer.tags_added", {"customerId": record["id"]})
    store.clear_requests()
    world.drain()
    assert sorted(len(ids) for ids in reads(store)) == [80, 100]


def test_late_repeated_and_reordered_hints_leave_the_newest_record(
    world: World, store: Any
) -> None:
    bodies = [body_of(store.edit(any_id(store), note=str(n))) for n in range(3)]
    for body in (bodies[2], bodies[0], bodies[2], bodies[1], bodies[0]):
        world.hear("acme", "customers/update", body)
        world.drain()
    assert world.differences("acme", store) == []
    assert world.rows("acme")[any_id(store)]["note"] == "2"


def test_a_partial_or_forged_body_writes_nothing_of_its_own(world: World, store: Any) -> None:
    forged = {"id": any_id(store), "email": "forged@example.com", "tags": "", "note": "forged"}
    world.hear("acme", "customers/update", forged)
    world.hear("acme", "customers/delete", {"id": any_id(store)})
    world.drain()
    assert world.differences("acme", store) == []
    hints = [e for e in world.events("acme") if e["body"]]
    assert {(e["status"], e["outcome"]) for e in hints} == {("done", "unchanged")}


def test_a_repeated_delivery_is_one_row_and_changes_nothing(world: World, store: Any) -> None:
    body = body_of(store.edit(any_id(store), note="x"))
    for _ in range(2):
        world.hear("acme", "customers/update", body, webhook_id="same")
        world.drain()
    assert world.event("acme")["outcome"] == "updated"
    assert len(reads(store)) == 1


def test_a_deleted_customer_keeps_its_row_with_the_moment_of_the_read(
    world: World, store: Any
) -> None:
    gone = any_id(store)
    store.delete(gone)
    world.hear("acme", "customers/delete", {"id": gone})
    (report,) = world.drain()
    row = world.rows("acme")[gone]
    assert row["deletedAt"] == row["lastSyncedAt"]
    assert row["email"] is not None or row["name"] is not None
    assert (row["lastSyncRunId"], row["lastSyncVia"]) == (report.run_id, "WEBHOOK")
    assert report.outcomes == {"deleted": 1}


def test_a_delete_that_overtakes_the_create_leaves_a_tombstone(world: World, store: Any) -> None:
    made = store.create()
    number = int(made["legacyResourceId"])
    store.delete(number)
    world.hear("acme", "customers/delete", {"id": number})
    world.hear("acme", "customers/create", body_of(made))
    world.drain()
    row = world.rows("acme")[number]
    assert row["deletedAt"] is not None
    assert row["email"] is None
    assert {e["status"] for e in world.events("acme")} == {"done"}


def test_a_restored_customer_is_lifted_from_its_tombstone_by_a_read(
    world: World, store: Any
) -> None:
    made = store.create()
    number = int(made["legacyResourceId"])
    store.delete(number)
    world.hear("acme", "customers/delete", {"id": number})
    world.drain()
    store.create(id=number)
    world.sync("acme")  # a page meets the tombstone: the id is marked dirty
    assert world.rows("acme")[number]["deletedAt"] is not None
    world.drain()
    assert world.differences("acme", store) == []
    assert world.events("acme")[-1]["outcome"] == "updated"


def test_a_merge_buries_the_one_with_the_id_of_the_other_and_reads_that(
    world: World, store: Any
) -> None:
    lost, kept = (int(r["legacyResourceId"]) for r in store.customers()[:2])
    store.merge(lost, into=kept)
    body = {
        "admin_graphql_api_customer_kept_id": f"gid://shopify/Customer/{kept}",
        "admin_graphql_api_customer_deleted_id": f"gid://shopify/Customer/{lost}",
        "status": "completed",
    }
    world.hear("acme", "customers/delete", {"id": lost})
    world.drain()
    world.hear("acme", "customers/merge", body)  # late, when the deletion is known already
    world.drain()
    row = world.rows("acme")[lost]
    assert (row["deletedAt"] is not None, row["mergedIntoId"]) == (True, kept)
    assert world.rows("acme")[kept]["tags"] == store.customer(kept)["tags"]


def test_a_merge_that_failed_at_shopify_changes_nobody(world: World, store: Any) -> None:
    gid = "gid://shopify/Customer/"
    body = {
        "admin_graphql_api_customer_kept_id": f"{gid}{any_id(store)}",
        "admin_graphql_api_customer_deleted_id": f"{gid}2",
        "status": "failed",
    }
    world.hear("acme", "customers/merge", body)
    world.drain()
    assert (world.event("acme")["status"], world.event("acme")["error"]) == (
        "done",
        "not completed",
    )
    assert reads(store) == []


def test_a_customer_not_found_just_after_its_creation_is_read_again(
    world: World, store: Any
) -> None:
    store.change(replica_lag_seconds=5)
    made = store.create()
    world.hear("acme", "customers/create", body_of(made))
    world.drain()
    event = world.event("acme")
    assert (event["status"], event["reads"], event["attempts"]) == ("pending", 1, 0)
    assert world.drain() == []  # it is not due yet
    world.simulator.clock.advance(6)
    world.pass_waits()
    world.drain()
    assert world.differences("acme", store) == []
    assert world.event("acme")["outcome"] == "created"


def test_a_read_older_than_its_event_is_repeated(world: World, store: Any) -> None:
    store.change(replica_lag_seconds=5)
    world.simulator.clock.advance(10)
    edited = store.edit(any_id(store), note="new")
    world.hear("acme", "customers/update", body_of(edited))
    world.drain()
    assert world.event("acme")["status"] == "pending"
    world.simulator.clock.advance(6)
    world.pass_waits()
    world.drain()
    assert world.differences("acme", store) == []


def test_a_read_that_never_gets_newer_is_taken_after_five_with_a_note(
    world: World, store: Any
) -> None:
    body = body_of(store.customer(any_id(store))) | {"updated_at": "2099-01-01T00:00:00Z"}
    world.hear("acme", "customers/update", body)
    for _ in range(7):
        world.drain()
        world.pass_waits()
    assert (world.event("acme")["status"], world.event("acme")["error"]) == (
        "done",
        "read, not newer",
    )
    assert len(reads(store)) == 5


def test_an_id_that_never_was_leaves_no_row(world: World, store: Any) -> None:
    """The admin's test notification names such an id."""
    world.hear("acme", "customers/update", {"id": 706405506930370084, "updated_at": None})
    for _ in range(6):
        world.drain()
        world.pass_waits()
    assert len(reads(store)) == 4
    assert (world.event("acme")["status"], world.event("acme")["outcome"]) == ("done", "unknown")
    assert 706405506930370084 not in world.rows("acme")


def test_a_known_customer_that_four_reads_do_not_find_is_deleted(world: World, store: Any) -> None:
    gone = any_id(store)
    store.delete(gone)
    world.hear("acme", "customer.tags_added", {"customerId": f"gid://shopify/Customer/{gone}"})
    for _ in range(3):
        world.drain()
        world.pass_waits()
        assert world.rows("acme")[gone]["deletedAt"] is None
    world.drain()
    assert world.rows("acme")[gone]["deletedAt"] is not None


def test_more_missing_than_can_be_deleted_buries_nobody_and_files_a_reconcile(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    store = world.connect("acme", SHOP, customers=150)
    world.sync("acme")
    store.fault("null_nodes", times=None)
    for record in store.customers():
        world.hear("acme", "customer.tags_added", {"customerId": record["id"]})
    for _ in range(5):
        world.drain()
        world.pass_waits()
    assert world.differences("acme", store) == []
    assert {e["outcome"] for e in world.events("acme")} == {"refused"}
    with world.engine.pool.connection() as conn:
        kinds = conn.execute("""SELECT "kind", "status" FROM sync_requests""").fetchall()
        told = conn.execute("""SELECT "kind", "shop", "told" FROM alerts""").fetchall()
    assert kinds == [("reconcile", "queued")]
    assert [alert[:2] for alert in told] == [("customers_missing", SHOP)]
    assert "nothing was deleted here" in caplog.text
    assert "nothing was deleted here" in told[0][2]


def test_a_mass_edit_is_one_scan_and_moves_no_watermark(world: World) -> None:
    store = world.connect("acme", SHOP, customers=600)
    world.sync("acme")
    watermark = world.integration("acme").watermark
    world.simulator.clock.advance(60)
    edited = [store.edit(int(r["legacyResourceId"]), note="mass") for r in store.customers()]
    for record in edited:
        world.hear("acme", "customers/update", body_of(record))
    tagged = edited[0]["id"]
    world.hear("acme", "customer.tags_added", {"customerId": tagged})
    world.simulator.clock.advance(5)
    store.clear_requests()
    world.drain()
    assert world.differences("acme", store) == []
    assert {e["status"] for e in world.events("acme")} == {"done"}
    assert reads(store) == [[tagged.rsplit("/")[-1]]]
    pages = [r for r in store.requests if r["operation"] == "CustomersPage"]
    assert len(pages) == 3
    assert world.integration("acme").watermark == watermark


def test_what_a_lagging_index_does_not_show_of_a_mass_edit_is_read_by_id(world: World) -> None:
    store = world.connect("acme", SHOP, customers=300)
    world.sync("acme")
    store.change(index_lag_seconds=3600)
    for record in store.customers():
        edited = store.edit(int(record["legacyResourceId"]), note="mass")
        world.hear("acme", "customers/update", body_of(edited))
    world.drain()
    assert world.differences("acme", store) == []
    assert {e["status"] for e in world.events("acme")} == {"done"}


HOSTILE = {
    "not json": b"{",
    "nan": b'{"id": NaN}',
    "array": b"[1]",
    "no id": b"{}",
    "text for id": b'{"id": "7"}',
    "truth for id": b'{"id": true}',
    "huge id": b'{"id": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "utf-16": '{"id": 1}'.encode("utf-16"),
    "lone surrogate": b'{"id": "\\ud800"}',
    "broken time": b'{"id": 1, "updated_at": "yesterday"}',
    "other gid": b'{"admin_graphql_api_id": "gid://shopify/Order/1"}',
}


def test_hostile_bodies_become_dead_letters_with_their_reason_and_disturb_nobody(
    world: World, store: Any
) -> None:
    for body in HOSTILE.values():
        world.hear("acme", "customers/update", body)
    edited = store.edit(any_id(store), note="honest")
    heard = world.hear("acme", "customers/update", body_of(edited))
    world.drain()
    events = {event["webhookId"]: event for event in world.events("acme")}
    honest = events.pop(heard)
    assert [(e["status"], bool(e["error"])) for e in events.values()] == [("dead", True)] * len(
        HOSTILE
    )
    assert honest["status"] == "done"
    assert world.differences("acme", store) == []


def test_dead_letters_are_listed_and_replayed(world: World, store: Any) -> None:
    world.hear("acme", "customers/update", b"{")
    world.drain()
    with world.engine.pool.connection() as conn:
        (letter,) = dead_letters.dead(conn)
        assert "not JSON" in letter.error
        conn.execute('UPDATE webhook_events SET "body" = %s', [b'{"id": %d}' % any_id(store)])
        assert dead_letters.replay(conn, [letter.id]) == 1
    world.drain()
    assert world.event("acme")["status"] == "done"


def test_an_event_that_cannot_be_processed_dies_after_five_tries_and_takes_nobody_along(
    world: World, store: Any
) -> None:
    """Postgres refuses a date that Shopify would have to invent; one of ten in the same read."""
    poison = any_id(store)
    store.edit(poison, createdAt="2026-99-99T00:00:00Z")
    records = store.customers()
    for record in records:
        number = int(record["legacyResourceId"])
        note = {} if number == poison else {"note": "honest"}
        world.hear("acme", "customers/update", body_of(store.edit(number, **note)))
    for _ in range(6):
        world.drain()
        world.pass_waits()
    states = {e["customerId"]: e for e in world.events("acme") if e["customerId"]}
    assert [e["status"] for e in world.events("acme")].count("dead") == 1
    (dead,) = (e for e in world.events("acme") if e["status"] == "dead")
    assert dead["attempts"] == 5
    assert "SQLSTATE 22" in dead["error"]
    assert {e["status"] for e in states.values() if e["id"] != dead["id"]} == {"done"}
    rows = {n: row for n, row in world.rows("acme").items() if n != poison}
    honest = [r for r in store.customers() if int(r["legacyResourceId"]) != poison]
    assert list(differences(rows, honest)) == []


@pytest.mark.parametrize("told", [True, False], ids=["scanned", "read by id"])
def test_a_poison_event_among_a_thousand_dies_alone_and_holds_up_none(
    world: World, told: bool
) -> None:
    store = world.connect("acme", SHOP, customers=1000, restore_rate=1e6, maximum_available=1e6)
    world.sync("acme")
    poison = any_id(store)
    store.edit(poison, createdAt="2026-99-99T00:00:00Z")
    for record in store.customers():
        number = int(record["legacyResourceId"])
        edited = record if number == poison else store.edit(number, note="honest")
        body = body_of(edited) if told else {"id": number}
        world.hear("acme", "customers/update", body)
    store.clear_requests()
    world.drain()
    assert len(reads(store)) == (1 if told else 10)  # of a mass edit the poisoned one alone
    events = world.events("acme")
    assert Counter((e["status"], e["attempts"]) for e in events) == {
        ("done", 0): 999,
        ("pending", 1): 1,
    }
    for _ in range(4):
        world.pass_waits()
        world.drain()
    (dead,) = (e for e in world.events("acme") if e["status"] != "done")
    assert (dead["status"], dead["attempts"], dead["customerId"]) == ("dead", 5, None)
    rows = {n: row for n, row in world.rows("acme").items() if n != poison}
    honest = [r for r in store.customers() if int(r["legacyResourceId"]) != poison]
    assert list(differences(rows, honest)) == []


@pytest.mark.parametrize("status", [401, 402, 403, 404, 500])
def test_a_stores_trouble_counts_as_no_attempt_and_its_events_wait(
    world: World, store: Any, status: int
) -> None:
    edited = store.edit(any_id(store), note="late")
    store.fault("status", status=status, times=None)
    for _ in range(7):
        world.hear("acme", "customers/update", body_of(edited))
        world.drain()
    assert {(e["status"], e["attempts"]) for e in world.events("acme")} == {("pending", 0)}
    assert world.integration("acme").retry_at is not None
    asked = len(store.requests)
    world.drain()
    assert len(store.requests) == asked  # it is left alone until then
    store.clear_faults()
    world.pass_waits()
    world.drain()
    assert world.differences("acme", store) == []


def test_reconnecting_frees_the_events_of_a_store_whose_token_was_revoked(
    world: World, store: Any
) -> None:
    store.credentials.replace_access_token("shpat_new")
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="late")))
    world.drain()
    assert world.integration("acme").status == "needs_reauth"
    connect_store(
        world.engine,
        organization_id="acme",
        shop=SHOP,
        held=Credentials(access_token="shpat_new"),
    )
    world.drain()
    assert world.event("acme")["status"] == "done"
    assert world.differences("acme", store) == []


def test_another_shops_answer_settles_nothing(world: World, store: Any) -> None:
    """A null of another shop would have deleted a customer of this one."""
    store.fault("other_shop", times=None)
    world.hear("acme", "customers/delete", {"id": any_id(store)})
    world.drain()
    assert world.event("acme")["status"] == "pending"
    assert world.rows("acme")[any_id(store)]["deletedAt"] is None
    assert world.integration("acme").status == "gone"


def test_one_store_in_two_organizations_is_merged_in_each(world: World, store: Any) -> None:
    world.connect("other", SHOP, customers=0)  # the same domain, for another tenant
    fresh = world.simulator.store(SHOP)
    made = fresh.create()
    for organization in ("acme", "other"):
        world.hear(organization, "customers/create", body_of(made))
    world.drain()
    number = int(made["legacyResourceId"])
    for organization in ("acme", "other"):
        assert world.rows(organization)[number]["note"] == made["note"]
        assert world.event(organization)["status"] == "done"


def test_a_drain_that_is_closed_holds_nothing_any_more(world: World, store: Any) -> None:
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="1")))
    reports = drain(world.engine, DrainOrder(run_id="closed", linger=None))
    next(reports)
    store.change(latency_ms=500)
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="2")))
    while world.events("acme")[1]["status"] == "pending":
        pass
    reports.close()
    assert world.events("acme")[1]["status"] in ("pending", "done")
    world.drain()
    assert world.differences("acme", store) == []


def test_events_of_a_drain_that_died_are_taken_over_when_their_lease_ends(
    world: World, store: Any
) -> None:
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="x")))
    integration = world.integration("acme")
    lease = timedelta(milliseconds=300)
    with world.engine.pool.connection() as conn:
        claimed = inbox.claim(conn, integration.id, "dead", always=(), lease=lease, limit=10)
        assert len(claimed) == 1
        assert inbox.ready(conn, ()) == []
    world.drain(run_id="next", linger=1.5)
    assert (world.event("acme")["status"], world.event("acme")["runId"]) == ("done", "next")


def test_a_drain_that_was_overtaken_settles_nothing_more(world: World, store: Any) -> None:
    """Two drains by accident: the first one's lease ended while Shopify did not answer."""
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="x")))
    integration = world.integration("acme")
    with world.engine.pool.connection() as conn:
        (event,) = inbox.claim(
            conn, integration.id, "slow", always=(), lease=timedelta(0), limit=10
        )
    world.drain(run_id="fast")
    with world.engine.pool.connection() as conn, conn.transaction():
        assert inbox.held(conn, "slow", [event.id]) == set()
        inbox.settle(conn, "slow", [inbox.Ending(event_id=event.id, outcome="unchanged")])
        inbox.postpone(
            conn,
            "slow",
            [inbox.Delay(event_id=event.id, customer_id=1, wait=timedelta(0), note="x")],
        )
        inbox.fail(conn, "slow", {event.id: "x"})
    after = world.event("acme")
    assert (after["status"], after["runId"], after["outcome"]) == ("done", "fast", "updated")


def test_only_one_drain_works_and_the_next_begins_when_it_ends(world: World, store: Any) -> None:
    with DrainSession(world.environ["DATABASE_URL"], "first") as first:
        assert first.try_lock()
        world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="x")))
        assert world.drain(patience=0.2) == []
        assert world.event("acme")["status"] == "pending"
        with world.engine.pool.connection() as conn:
            assert [(d.run_id, d.holds_lock) for d in locks.live_drains(conn)] == [("first", True)]
    world.drain(patience=30)
    assert world.event("acme")["status"] == "done"


def test_what_a_killed_drain_settled_and_did_not_report_is_reported_by_the_next(
    world: World, store: Any
) -> None:
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="x")))
    world.drain(run_id="killed")
    with world.engine.pool.connection() as conn:
        conn.execute('UPDATE webhook_events SET "reportedAt" = NULL')
    (report,) = world.drain(run_id="next")
    assert (report.run_id, report.event_ids) == ("killed", [world.event("acme")["id"]])
    assert world.drain() == []


def test_a_report_is_whole_only_while_the_last_pull_was(world: World, store: Any) -> None:
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="1")))
    assert [report.whole for report in world.drain()] == [True]
    store.fault("status", status=500, times=4)
    assert world.sync_one("acme").state == "failed"
    world.pass_waits()
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="2")))
    assert [report.whole for report in world.drain()] == [False]


def test_bodies_and_rows_are_kept_as_long_as_promised_and_no_longer(
    world: World, store: Any
) -> None:
    for name, topic in (("done", "customers/update"), ("dead", "customers/update")):
        world.hear("acme", topic, {"id": any_id(store)} if name == "done" else b"{", name)
    world.drain()

    def kept(days: int) -> dict[str, bool]:
        with world.engine.pool.connection() as conn:
            conn.execute(
                """UPDATE webhook_events SET "processedAt" = clock_timestamp() - %(age)s,
                   "receivedAt" = clock_timestamp() - %(age)s""",
                {"age": timedelta(days=days)},
            )
            erasure.expire(conn)
        return {e["webhookId"]: e["body"] is not None for e in world.events("acme")}

    assert kept(6) == {"done": True, "dead": True}
    assert kept(8) == {"done": False, "dead": True}
    assert kept(31) == {"done": False, "dead": False}
    assert kept(91) == {}


def test_a_delete_whose_read_still_shows_the_customer_is_looked_at_again(
    world: World, store: Any
) -> None:
    """Read within milliseconds from a replica that lagged, the deletion was lost for a week."""
    store.change(replica_lag_seconds=5)
    world.simulator.clock.advance(10)
    gone = any_id(store)
    store.delete(gone)
    world.hear("acme", "customers/delete", {"id": gone})
    world.drain()
    told, again = world.events("acme")
    assert (told["status"], again["status"]) == ("done", "pending")
    world.simulator.clock.advance(6)
    world.pass_waits()
    world.drain()
    assert world.rows("acme")[gone]["deletedAt"] is not None
    assert len(world.events("acme")) == 2


def test_a_merge_whose_read_still_shows_the_lost_customer_tells_into_whom_all_the_same(
    world: World, store: Any
) -> None:
    """The second look knew only that somebody was gone, and `mergedIntoId` stayed empty."""
    store.change(replica_lag_seconds=5)
    world.simulator.clock.advance(10)
    lost, kept = (int(record["legacyResourceId"]) for record in store.customers()[:2])
    store.merge(lost, into=kept)
    body = {
        "admin_graphql_api_customer_kept_id": f"gid://shopify/Customer/{kept}",
        "admin_graphql_api_customer_deleted_id": f"gid://shopify/Customer/{lost}",
        "status": "completed",
    }
    world.hear("acme", "customers/merge", body)
    world.drain()
    assert world.rows("acme")[lost]["deletedAt"] is None
    world.simulator.clock.advance(6)
    world.pass_waits()
    world.drain()
    row = world.rows("acme")[lost]
    assert (row["deletedAt"] is not None, row["mergedIntoId"]) == (True, kept)
    assert len(world.events("acme")) == 2


def test_orders_that_a_lagging_read_does_not_show_yet_are_read_again(
    world: World, store: Any
) -> None:
    store.change(replica_lag_seconds=5)
    world.simulator.clock.advance(10)
    record = store.edit(any_id(store), touch=False, numberOfOrders=99)
    body = {"customerId": record["id"], "numberOfOrders": 99}
    world.hear("acme", "customers/purchasing_summary", body)
    world.drain()
    world.simulator.clock.advance(6)
    world.pass_waits()
    world.drain()
    assert world.rows("acme")[any_id(store)]["ordersCount"] == 99


def test_a_mass_edit_with_one_row_that_postgres_refuses_goes_on_by_id(world: World) -> None:
    """The scan had been tried again and again, for ever, and nobody was merged."""
    store = world.connect("acme", SHOP, customers=250)
    world.sync("acme")
    poison = any_id(store)
    for record in store.customers():
        number = int(record["legacyResourceId"])
        bad = {"createdAt": "2026-99-99T00:00:00Z"} if number == poison else {}
        edited = store.edit(number, note="mass", **bad)
        world.hear("acme", "customers/update", body_of(edited))
    for _ in range(6):
        world.drain()
        world.pass_waits()
    assert sorted({e["status"] for e in world.events("acme")}) == ["dead", "done"]
    assert [e["customerId"] for e in world.events("acme") if e["status"] == "dead"] in (
        [None],
        [poison],
    )
    notes = {row["note"] for n, row in world.rows("acme").items() if n != poison}
    assert notes == {"mass"}


def test_of_a_mass_edit_the_second_claim_does_not_read_again_what_the_first_has_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shopsync_pipeline.sync.desk.CLAIMED_AT_ONCE", 300)
    store = world.connect("acme", SHOP, customers=600)
    world.sync("acme")
    world.simulator.clock.advance(60)
    for record in store.customers():
        edited = store.edit(int(record["legacyResourceId"]), note="mass")
        world.hear("acme", "customers/update", body_of(edited))
    world.simulator.clock.advance(5)
    store.clear_requests()
    world.drain()
    assert world.differences("acme", store) == []
    pages = [r for r in store.requests if r["operation"] == "CustomersPage"]
    assert (len(pages), reads(store)) == (3, [])


def test_a_pull_that_failed_for_a_row_is_not_whole_either(world: World, store: Any) -> None:
    store.edit(any_id(store), createdAt="2026-99-99T00:00:00Z")
    assert world.sync_one("acme").state == "failed"
    honest = int(store.customers()[5]["legacyResourceId"])
    world.hear("acme", "customers/update", body_of(store.edit(honest, note="x")))
    assert [report.whole for report in world.drain()] == [False]


def test_a_hint_for_one_store_buries_nobody_of_another_store_of_the_organization(
    world: World, store: Any
) -> None:
    """Its token does not see the other store's customers, so a read by id gives null."""
    other = world.connect("acme", "b.myshopify.com", customers=5)
    world.sync("acme")
    foreign = int(other.customers()[0]["legacyResourceId"])
    with world.engine.pool.connection() as conn:
        (own,) = [i for i in integrations.active_of(conn, ["acme"]) if i.shop == SHOP]
        conn.execute(
            """INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId",
                 "topic", "body") VALUES (%s, 'acme', %s, 'forged', 'customers/delete', %s)""",
            [own.id, SHOP, b'{"id": %d}' % foreign],
        )
    world.drain()
    assert world.event("acme")["status"] == "done"
    assert world.rows("acme")[foreign]["deletedAt"] is None


def test_customers_missing_a_few_at_a_time_are_counted_together(world: World) -> None:
    """A store that answered null for everybody had been emptied in waves of eighty."""
    store = world.connect("acme", SHOP, customers=400)
    world.sync("acme")
    store.fault("null_nodes", times=None)
    records = store.customers()
    for start in range(0, 400, 80):
        for record in records[start : start + 80]:
            world.hear("acme", "customer.tags_added", {"customerId": record["id"]})
        for _ in range(5):
            world.drain()
            world.pass_waits()
    buried = [row for row in world.rows("acme").values() if row["deletedAt"]]
    assert len(buried) == 80
    assert {e["outcome"] for e in world.events("acme")} == {"missing", "refused"}


def test_a_drain_that_only_waits_for_the_lock_reports_nothing(world: World, store: Any) -> None:
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="x")))
    world.drain()
    with DrainSession(world.environ["DATABASE_URL"], "first") as first:
        assert first.try_lock()
        with world.engine.pool.connection() as conn:
            conn.execute('UPDATE webhook_events SET "reportedAt" = NULL')
        assert world.drain(patience=1.5) == []


def test_trouble_of_the_settings_rests_the_store_and_counts_as_no_attempt(
    world: World, store: Any
) -> None:
    world.hear("acme", "customers/update", body_of(store.edit(any_id(store), note="x")))
    with world.engine.pool.connection() as conn:
        conn.execute("""UPDATE integrations SET "accessToken" = 'not encrypted'""")
    world.drain()
    event = world.event("acme")
    assert (event["status"], event["attempts"]) == ("pending", 0)
    assert world.integration("acme").retry_at is not None
