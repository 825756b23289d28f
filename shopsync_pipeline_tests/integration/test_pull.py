"""The pull of one store, from its Admin API over HTTP into Postgres."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shopsync_pipeline.db import credentials, integrations
from shopsync_pipeline.db.engine import Conn, transact
from shopsync_pipeline.errors import SyncConflict
from shopsync_pipeline.models import Credentials, MergeCounts, Window
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.sync.engine import open_store
from shopsync_pipeline.sync.organizations import StoreOutcome, SyncOrder, sync_store
from shopsync_pipeline.sync.pull import OVERLAP, PullResult, pull
from shopsync_pipeline_tests.world import World

SHOP = "a.myshopify.com"


def counts(outcome: StoreOutcome) -> MergeCounts:
    assert outcome.result is not None, outcome.error
    return outcome.result.counts


def pages(store: Any) -> list[Any]:
    return [r for r in store.requests if r["operation"] == "CustomersPage"]


def test_a_first_pull_makes_the_table_equal_the_store_in_every_field(world: World) -> None:
    store = world.connect("acme", SHOP, customers=700)
    outcome = world.sync_one("acme")
    assert counts(outcome) == MergeCounts(inserted=700)
    assert world.differences("acme", store) == []
    assert {row["lastSyncRunId"] for row in world.rows("acme").values()} == {"run-1"}
    assert {row["lastSyncVia"] for row in world.rows("acme").values()} == {"PULL"}


def test_a_second_pull_writes_nothing(world: World) -> None:
    world.connect("acme", SHOP, customers=30)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    assert counts(world.sync_one("acme")) == MergeCounts()


def test_only_what_changed_is_read_and_written(world: World) -> None:
    store = world.connect("acme", SHOP, customers=400)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    ids = sorted(world.rows("acme"))[:5]
    for shopify_id in ids:
        store.edit(shopify_id, note="seen again")
    store.create(firstName="New")
    world.simulator.clock.advance(60)
    outcome = world.sync_one("acme")
    assert counts(outcome) == MergeCounts(inserted=1, updated=5)
    assert outcome.result is not None
    assert outcome.result.pages == 1
    assert world.differences("acme", store) == []


def test_last_sync_is_shopifys_now_at_the_first_answer(world: World) -> None:
    world.connect("acme", SHOP)
    now = world.simulator.clock.now()
    world.sync_one("acme")
    integration = world.integration("acme")
    assert integration.last_sync_at == integration.watermark == now
    assert (integration.status, integration.window) == ("ok", None)


def test_the_window_begins_a_quarter_of_an_hour_before_the_watermark(world: World) -> None:
    store = world.connect("acme", SHOP)
    world.sync_one("acme")
    before = world.integration("acme").watermark
    assert before is not None
    world.simulator.clock.advance(3600)
    world.sync_one("acme")
    asked = pages(store)[-1]["variables"]["query"]
    now = world.simulator.clock.now()
    assert asked == (
        f"updated_at:>='{before - OVERLAP:%Y-%m-%dT%H:%M:%SZ}' AND "
        f"updated_at:<='{now:%Y-%m-%dT%H:%M:%SZ}'"
    )


def test_what_the_index_showed_late_is_found_by_the_next_pull(world: World) -> None:
    store = world.connect("acme", SHOP, customers=20)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    store.settings.index_lag_seconds = 600
    store.create(firstName="Late")
    world.simulator.clock.advance(60)
    assert counts(world.sync_one("acme")) == MergeCounts()
    world.simulator.clock.advance(3600)
    assert counts(world.sync_one("acme")) == MergeCounts(inserted=1)


def test_an_order_that_moves_no_updated_at_is_written_by_a_full_sync(world: World) -> None:
    store = world.connect("acme", SHOP, customers=20)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    shopify_id = min(world.rows("acme"))
    store.edit(shopify_id, touch=False, numberOfOrders="77")
    assert counts(world.sync_one("acme", mode="full")) == MergeCounts(updated=1, unchanged=19)
    assert world.differences("acme", store) == []


def test_updated_since_widens_the_window_and_never_narrows_it(world: World) -> None:
    store = world.connect("acme", SHOP, customers=20)
    world.sync_one("acme")
    world.simulator.clock.advance(7200)
    store.edit(min(world.rows("acme")), note="x")
    world.simulator.clock.advance(3600)
    narrow = world.sync_one("acme", updated_since=world.simulator.clock.now())
    assert counts(narrow) == MergeCounts(updated=1)
    wide = world.sync_one("acme", updated_since=datetime(2000, 1, 1, tzinfo=UTC))
    assert counts(wide).rows == 20


def test_customers_of_one_second_on_several_pages_are_all_read(world: World) -> None:
    store = world.connect("acme", SHOP, customers=0)
    for number in range(620):
        store.create(firstName=str(number))
    world.simulator.clock.advance(3600)
    assert counts(world.sync_one("acme")).inserted == 620
    assert world.differences("acme", store) == []


def test_a_customer_changed_while_pages_are_read_is_merged_in_its_newest_form(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=600)
    integration = world.integration("acme")
    steps = sync_store(world.engine, integration, SyncOrder(run_id="run"))
    assert next(steps) == 0.0  # the first page is merged
    world.simulator.clock.advance(30)
    changed = max(store.customers(), key=lambda c: (c["updatedAt"], c["legacyResourceId"]))
    store.edit(int(changed["legacyResourceId"]), note="changed meanwhile")
    waited(steps, world.time)
    world.simulator.clock.advance(3600)
    world.sync_one("acme")
    assert world.differences("acme", store) == []


def test_a_kill_between_pages_loses_nothing_and_no_committed_page_is_read_again(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=1100)
    for committed in range(1, 5):
        steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="killed"))
        assert next(steps) == 0.0
        steps.close()  # as a kill leaves it: committed pages, an open window
        assert len(world.rows("acme")) == 250 * committed
    world.sync_one("acme")
    read = [request["variables"]["after"] for request in pages(store)]
    assert len(read[:5]) == len(set(read[:5]))
    assert read[0] is None
    assert world.differences("acme", store) == []
    assert world.integration("acme").window is None


def test_a_resumed_pull_also_reads_the_rest_up_to_now(world: World) -> None:
    store = world.connect("acme", SHOP, customers=600)
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="killed"))
    next(steps)
    steps.close()
    world.simulator.clock.advance(7200)
    store.create(firstName="Afterwards")
    world.simulator.clock.advance(60)
    world.sync_one("acme")
    assert world.integration("acme").watermark == world.simulator.clock.now()
    assert world.differences("acme", store) == []


def test_what_stops_a_pull_behind_a_resumed_window_is_recorded(world: World) -> None:
    """The window that it had just ended itself had been taken for another run's success."""
    store = world.connect("acme", SHOP, customers=600)
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="killed"))
    next(steps)
    steps.close()
    world.simulator.clock.advance(7200)
    store.fault("status", operation="CustomersPage", after=2, times=None, status=401)
    assert world.sync_one("acme").state == "failed"
    after = world.integration("acme")
    assert len(world.rows("acme")) == 600
    assert (after.status, after.retry_at is None) == ("needs_reauth", False)
    assert world.sync_one("acme", only_due=True).state == "put_off"


def test_a_whole_read_after_a_clock_that_was_ahead_goes_on_where_it_was_cut_off(
    world: World,
) -> None:
    """Each run had begun it anew, so that a store too large for one of them never ended."""
    store = world.connect("acme", SHOP, customers=1100)
    clock = world.simulator.clock
    now = clock.now()
    clock.advance(5 * 3600)
    world.sync_one("acme")
    clock.set(now)
    store.clear_requests()
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="killed"))
    assert [next(steps), next(steps)] == [0.0, 0.0]
    steps.close()
    assert world.sync_one("acme").state == "synced"
    read = [r["variables"]["after"] for r in pages(store) if "updated_at:>=" not in str(r)]
    assert len(read) == len(set(read)) == 5
    assert world.integration("acme").watermark == clock.now().replace(microsecond=0)


def test_a_full_sync_does_not_go_on_in_a_narrower_window(world: World) -> None:
    store = world.connect("acme", SHOP, customers=600)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    for customer in store.customers():
        store.edit(int(customer["legacyResourceId"]), note="all")
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="killed"))
    next(steps)
    steps.close()
    assert counts(world.sync_one("acme", mode="full")).rows == 600


def test_where_shopify_refuses_the_cursor_the_window_goes_on_from_what_was_reached(
    world: World,
) -> None:
    store = world.connect("acme", SHOP, customers=1100)
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="killed"))
    next(steps)
    next(steps)
    steps.close()
    reached = world.integration("acme").window
    assert reached is not None
    assert reached.reached is not None
    store.fault("cursor_refused", times=1)
    world.sync_one("acme")
    again = pages(store)[3]["variables"]
    assert again["after"] is None
    assert f"updated_at:>='{reached.reached:%Y-%m-%dT%H:%M:%SZ}'" in again["query"]
    assert world.differences("acme", store) == []


def test_two_pulls_in_one_window_cannot_both_move_it(world: World) -> None:
    world.connect("acme", SHOP, customers=600)
    integration = world.integration("acme")
    with open_store(world.engine, integration) as store:
        first = pull(store, PullResult(), run_id="one")
        second = pull(store, PullResult(), run_id="two")
        next(first)
        world.simulator.clock.advance(1)
        next(second)  # as if the lock had been lost with its connection
        with pytest.raises(SyncConflict, match="another pull moved the window"):
            next(first)


def test_a_store_disconnected_while_it_is_pulled_gets_no_more_rows(world: World) -> None:
    world.connect("acme", SHOP, customers=600)
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="run"))
    next(steps)
    transact(
        world.engine.pool,
        lambda conn: integrations.disconnect(conn, organization_id="acme", shop=SHOP),
    )
    assert waited(steps, world.time).state == "left"
    assert len(world.rows("acme")) == 250


def test_a_store_that_reconnects_starts_with_a_full_load(world: World) -> None:
    store = world.connect("acme", SHOP, customers=30)
    world.sync_one("acme")
    transact(
        world.engine.pool,
        lambda conn: integrations.disconnect(conn, organization_id="acme", shop=SHOP),
    )
    transact(
        world.engine.pool,
        lambda conn: integrations.connect(
            conn, organization_id="acme", shop=SHOP, name="Acme", shop_id=store.shop_id
        ),
    )
    assert world.integration("acme").watermark is None


def test_what_is_reached_is_not_past_what_a_stale_index_may_hide(world: World) -> None:
    """A row shows its newest updatedAt even where the index still sorts it lower: restarting
    there would have skipped all rows in between."""
    store = world.connect("acme", SHOP, customers=600)
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="killed"))
    store.settings.index_lag_seconds = 900
    oldest = sorted(store.customers(), key=lambda c: (c["updatedAt"], c["legacyResourceId"]))
    store.edit(int(oldest[249]["legacyResourceId"]), note="newest, but still sorted as before")
    next(steps)
    steps.close()
    window = world.integration("acme").window
    assert isinstance(window, Window)
    assert window.reached is not None
    assert window.reached <= window.until - OVERLAP
    store.fault("cursor_refused", times=1)
    world.simulator.clock.advance(1)
    world.sync_one("acme")
    assert world.differences("acme", store) == []


def test_clocks_of_shopify_and_postgres_may_differ(world: World) -> None:
    world.simulator.clock.set(datetime.now(UTC).replace(microsecond=0) - timedelta(days=30))
    store = world.connect("acme", SHOP, customers=30)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    store.create(firstName="New")
    world.simulator.clock.advance(60)
    assert counts(world.sync_one("acme")) == MergeCounts(inserted=1)


def test_a_full_sync_reads_again_what_an_old_open_window_has_behind_it(world: World) -> None:
    """It had gone on in a three days old window, and orders on the first pages stayed unseen."""
    store = world.connect("acme", SHOP, customers=600)
    world.sync_one("acme")
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="a", mode="full"))
    next(steps)
    next(steps)
    steps.close()
    world.simulator.clock.advance(3 * 86400)
    for customer in store.customers():
        store.edit(int(customer["legacyResourceId"]), touch=False, numberOfOrders="99")
    assert counts(world.sync_one("acme", mode="full")) == MergeCounts(updated=600)


def test_a_store_connected_anew_during_a_pull_still_gets_its_full_load(world: World) -> None:
    """The pull had opened its old window on the row that was to start from the beginning."""
    store = world.connect("acme", SHOP, customers=30)
    world.sync_one("acme")
    world.simulator.clock.advance(3600)
    stale = world.integration("acme")
    again(world, store)
    with open_store(world.engine, stale) as opened, pytest.raises(SyncConflict):
        waited(pull(opened, PullResult(), run_id="run"), world.time)
    assert world.integration("acme").watermark is None
    assert world.sync_one("acme").state == "synced"


def test_another_shop_under_the_same_domain_starts_from_the_beginning(world: World) -> None:
    store = world.connect("acme", SHOP, customers=600)
    world.sync_one("acme")
    steps = sync_store(world.engine, world.integration("acme"), SyncOrder(run_id="a", mode="full"))
    next(steps)
    steps.close()
    transact(
        world.engine.pool,
        lambda conn: integrations.connect(
            conn, organization_id="acme", shop=SHOP, name="New", shop_id=store.shop_id + 1
        ),
    )
    integration = world.integration("acme")
    assert (integration.watermark, integration.window) == (None, None)


def again(world: World, store: Any) -> None:
    """Disconnect and connect the store."""

    def work(conn: Conn) -> None:
        integrations.disconnect(conn, organization_id="acme", shop=SHOP)
        anew = integrations.connect(
            conn, organization_id="acme", shop=SHOP, name="Acme", shop_id=store.shop_id
        )
        held = Credentials(access_token=store.access_token)
        credentials.store(conn, world.engine.cipher, anew.id, held)

    transact(world.engine.pool, work)


def test_tags_of_any_text_arrive_as_they_are(world: World) -> None:
    store = world.connect("acme", SHOP, customers=0)
    store.create(
        tags=["a,b", 'c"d', "", "{x}", "NULL", "\\", '\\"', " blank ", "new\nline", "Zoë 李"]
    )
    store.create(tags=[])
    world.sync_one("acme")
    assert world.differences("acme", store) == []
    assert sorted(len(row["tags"]) for row in world.rows("acme").values()) == [0, 10]
