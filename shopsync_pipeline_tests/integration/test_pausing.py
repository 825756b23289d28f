"""A store that a person has paused: nothing reads it, nothing of it is lost, nobody is alarmed."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shopsync_pipeline.db import inbox, integrations, progress, reconciliations, watch
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.errors import IntegrationInactive, IntegrationPaused, LeftOut
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.sync.organizations import SyncOrder, sync_store
from shopsync_pipeline.sync.subscriptions import Action, settle_subscriptions
from shopsync_pipeline.sync.watch import troubles
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"


def pause(world: World, shop: str = SHOP) -> bool:
    return transact(
        world.engine.pool,
        lambda conn: integrations.pause(conn, organization_id="acme", shop=shop),
    )


def resume(world: World) -> bool:
    return transact(
        world.engine.pool,
        lambda conn: integrations.resume(conn, organization_id="acme", shop=SHOP),
    )


def asked(world: World, question: Any) -> Any:
    return read(world.engine.pool, question)


def edited(store: Any) -> dict[str, Any]:
    """A customer who has just changed, as the body of the webhook that says so."""
    customer = store.customers()[0]
    store.edit(customer["legacyResourceId"], note="edited")
    return {"id": int(customer["legacyResourceId"])}


def settled(world: World, action: Action) -> str:
    (outcome,) = settle_subscriptions(world.engine, ["acme"], action)
    (store,) = outcome.stores
    return store.state


def test_only_an_active_store_is_paused_and_resumed(world: World) -> None:
    world.connect("acme", SHOP)
    assert pause(world)
    since = world.integration("acme").paused_at
    assert since is not None
    assert pause(world)
    assert world.integration("acme").paused_at == since
    assert resume(world)
    assert world.integration("acme").paused_at is None
    assert resume(world)
    assert not pause(world, "b.myshopify.com")


def test_a_store_that_left_and_came_back_is_not_paused_and_one_connected_again_still_is(
    world: World,
) -> None:
    store = world.connect("acme", SHOP)
    pause(world)
    world.join("acme", store)
    assert world.integration("acme").paused_at is not None
    transact(
        world.engine.pool,
        lambda conn: integrations.disconnect(conn, organization_id="acme", shop=SHOP),
    )
    assert not pause(world)
    assert not resume(world)
    world.join("acme", store)
    assert world.integration("acme").paused_at is None


def test_nothing_is_due_of_a_paused_store_and_nobody_is_alarmed(world: World) -> None:
    world.connect("acme", SHOP)
    world.sync("acme")
    with world.engine.pool.connection() as conn:
        conn.execute(
            """UPDATE integrations SET "realtimeSince" = now() - interval '20 days',
               "createdAt" = now() - interval '20 days', "lastSyncAt" = now() - interval '20 days',
               "reconciledAt" = now() - interval '20 days', "subscribedAt" = NULL"""
        )
    world.hear("acme", "customers/update", {"id": 1})
    with world.engine.pool.connection() as conn:
        conn.execute("""UPDATE webhook_events SET "receivedAt" = now() - interval '1 day'""")
    assert due_and_troubled(world) == (
        ["acme"],
        ["acme"],
        ["acme"],
        ["inbox_late", "reconcile_late", "store_late", "subscriptions_late"],
    )
    pause(world)
    assert due_and_troubled(world) == ([], [], [], [])
    assert asked(world, lambda conn: integrations.late(conn, clock(conn))) == ([], [])
    (waiting,) = asked(world, watch.inbox).waiting
    assert waiting.held_back
    resume(world)
    assert due_and_troubled(world) == (["acme"], ["acme"], ["acme"], [])


OPEN = """
INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId", "topic",
                            "receivedAt")
SELECT "id", 'acme', "shop", %(topic)s || n, %(topic)s, now() - %(age)s::interval
FROM integrations, generate_series(1, %(n)s) n
"""


def test_an_erasure_that_waits_behind_the_events_of_a_paused_store_is_told(world: World) -> None:
    world.connect("acme", SHOP)
    pause(world)
    with world.engine.pool.connection() as conn:
        conn.execute(OPEN, {"topic": "customers/update", "age": "1 day", "n": 1})
        assert [trouble.kind for trouble in troubles(conn)] == []
        conn.execute(OPEN, {"topic": "customers/redact", "age": "11 minutes", "n": 1})
        assert [trouble.kind for trouble in troubles(conn)] == ["inbox_late"]
        state = watch.inbox(conn)
    assert state.oldest(held_back=True).total_seconds() == pytest.approx(86400, abs=60)
    assert state.oldest(held_back=False).total_seconds() == pytest.approx(660, abs=60)


def test_the_backlog_of_a_paused_store_is_not_looked_through(world: World) -> None:
    """Blocks of Postgres's that the two questions of the drain touch beside 20,000 events."""
    store = world.connect("acme", SHOP) and world.integration("acme")
    pause(world)
    with world.engine.pool.connection() as conn:
        conn.execute(OPEN, {"topic": "customers/update", "age": "1 day", "n": 20_000})
        conn.execute(OPEN, {"topic": "customers/redact", "age": "1 minute", "n": 1})
        conn.execute("ANALYZE webhook_events")
        before = blocks(conn)
        assert inbox.ready(conn, inbox.ALWAYS) == [store.id]
        (event,) = inbox.claim(
            conn, store.id, "run", always=inbox.ALWAYS, lease=timedelta(minutes=1), limit=10
        )
        assert event.topic == "customers/redact"
        assert blocks(conn) - before < 100


def blocks(conn: Conn) -> int:
    """Of the inbox and its indexes, read by whomever."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    row = conn.execute(
        """SELECT heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit
           FROM pg_statio_user_tables WHERE relname = 'webhook_events'"""
    ).fetchone()
    assert row is not None
    return int(row[0])


def due_and_troubled(world: World) -> tuple[list[str], ...]:
    def work(conn: Conn) -> tuple[list[str], ...]:
        now = clock(conn)
        return (
            integrations.due_organizations(conn, now)[0],
            reconciliations.due_organizations(conn, now),
            integrations.realtime_organizations(conn, now),
            sorted(trouble.kind for trouble in troubles(conn)),
        )

    return transact(world.engine.pool, work)


@pytest.mark.parametrize("only_due", [False, True])
def test_a_pull_and_a_reconcile_leave_it_out_and_say_how_it_is_resumed(
    world: World, only_due: bool
) -> None:
    world.connect("acme", SHOP)
    world.sync("acme")
    pause(world)
    before = world.rows("acme")
    for outcome in (
        world.sync_one("acme", only_due=only_due),
        world.reconcile("acme", only_due=only_due)[0],
    ):
        assert outcome.state == "paused"
        assert outcome.error is not None
        assert outcome.error.startswith(f"acme, {SHOP}: paused since ")
        assert outcome.error.endswith(f"; resume it: shopsync resume acme {SHOP}")
    assert world.rows("acme") == before
    assert world.integration("acme").last_error is None


def test_a_pull_under_way_stops_at_the_next_page_and_the_next_one_goes_on_there(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=600)
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="run"))
    next(steps)
    pause(world)
    stopped = waited(steps, world.time)
    assert stopped.state == "paused"
    assert stopped.result is not None
    assert (stopped.result.counts.inserted, stopped.result.until) == (250, None)
    assert len(world.rows("acme")) == 250
    (came,) = asked(world, lambda conn: progress.of_runs(conn, ["run"]))
    assert (came.rows, came.expected) == (250, 600)
    resume(world)
    outcome = world.sync_one("acme")
    assert outcome.result is not None
    assert outcome.result.counts.inserted == 350
    assert not world.differences("acme", store)


def test_webhooks_are_kept_until_it_is_resumed_and_count_no_try(world: World) -> None:
    store = world.connect("acme", SHOP)
    world.sync("acme")
    pause(world)
    world.hear("acme", "customers/update", edited(store))
    world.drain()
    event = world.event("acme")
    assert (event["status"], event["attempts"], event["reads"]) == ("pending", 0, 0)
    assert world.differences("acme", store)
    resume(world)
    world.drain()
    assert world.event("acme")["status"] == "done"
    assert not world.differences("acme", store)


def test_a_drain_that_had_claimed_its_events_gives_them_back(world: World) -> None:
    """It is paused while the drain waits to ask again."""
    store = world.connect("acme", SHOP)
    world.sync("acme")
    world.hear("acme", "customers/update", edited(store))
    store.fault("status", status=500, times=1)
    claimed: list[str] = []

    def pause_now() -> None:
        claimed.append(world.event("acme")["status"])
        pause(world)

    world.time.on_sleep = pause_now
    world.drain()
    assert claimed[0] == "claimed"
    event = world.event("acme")
    assert (event["status"], event["attempts"], event["reads"]) == ("pending", 0, 0)
    assert world.differences("acme", store)


def test_erasures_and_the_uninstall_are_obeyed_while_it_is_paused(world: World) -> None:
    store = world.connect("acme", SHOP)
    world.sync("acme")
    pause(world)
    person = int(store.customers()[0]["legacyResourceId"])
    world.hear(
        "acme",
        "customers/redact",
        {"shop_domain": SHOP, "customer": {"id": person}, "orders_to_redact": []},
    )
    world.drain()
    assert world.event("acme")["status"] == "done"
    assert world.rows("acme")[person]["redactedAt"] is not None


def test_its_subscriptions_are_left_alone_but_can_be_turned_off(world: World) -> None:
    world.connect("acme", SHOP)
    pause(world)
    assert settled(world, "enable") == "paused"
    assert settled(world, "check") == "paused"
    settings = replace(world.engine.settings, app_url="https://sync.example.com")
    world.engine = replace(world.engine, settings=settings)
    assert settled(world, "disable") == "off"


def test_a_pause_is_never_read_as_a_store_that_left() -> None:
    assert not issubclass(IntegrationPaused, IntegrationInactive)
    assert issubclass(IntegrationPaused, LeftOut)


def test_a_load_that_waits_for_shopify_stops_at_the_next_poll_and_is_taken_up_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shopsync_pipeline.sync.pull.BULK_ABOVE", 500)
    store = world.connect("acme", SHOP, customers=600, bulk_seconds=1000)
    began = world.simulator.clock.now()

    def pause_now() -> None:
        if store.bulk.all():
            pause(world)

    world.time.on_sleep = pause_now
    assert world.sync_one("acme").state == "paused"
    assert (world.simulator.clock.now() - began).total_seconds() < 60
    world.time.on_sleep = lambda: None
    resume(world)
    assert world.sync_one("acme").state == "synced"
    assert len(store.bulk.all()) == 1
    assert not world.differences("acme", store)
