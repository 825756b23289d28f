"""The engine's process killed by SIGKILL at the places that matter, each by its name: what had been
committed there stays, what had not is done by whoever comes next, and nothing twice."""

import time
from datetime import timedelta
from typing import Any

import pytest

from shopsync_pipeline.db import credentials
from shopsync_pipeline.db.engine import read, transact
from shopsync_pipeline.models import Credentials
from shopsync_pipeline_tests.acceptance.siege import ORGANIZATION, SHOP, Siege
from shopsync_pipeline_tests.world import World, free_port

pytestmark = pytest.mark.kills

CUSTOMERS = 600
PAGE = 250


@pytest.fixture
def siege(world: World) -> Siege:
    return Siege.laid(world, CUSTOMERS)


@pytest.fixture
def loaded(siege: Siege) -> Siege:
    assert siege.world.sync_one(ORGANIZATION).state == "synced"
    return siege


def body_of(record: dict[str, Any]) -> dict[str, Any]:
    return {"id": int(record["legacyResourceId"]), "updated_at": record["updatedAt"]}


def ids_of(siege: Siege) -> list[int]:
    return [int(record["legacyResourceId"]) for record in siege.store.customers()]


def test_a_crash_point_whose_function_is_gone_fails_and_one_that_is_not_passed_too(
    siege: Siege,
) -> None:
    with siege.child("pull", crash="before db.customers:renamed") as child:
        assert child.ended() == 1
        assert "has no attribute 'renamed'" in child.last_words
    with siege.child("pull", crash="before db.customers:bury") as child:
        child.ended_well()
        with pytest.raises(AssertionError):
            child.died_there()


@pytest.mark.parametrize(
    ("crash", "rows"),
    [
        pytest.param("before db.windows:open_window", 0, id="probed, no window yet"),
        pytest.param("before db.customers:merge", 0, id="fetched, not merged"),
        pytest.param("after db.customers:merge", 0, id="merged, not committed"),
        pytest.param("after db.windows:advance_window", 0, id="moved on, not committed"),
        pytest.param("after sync.pull:PageReader._merge", PAGE, id="committed, next page to ask"),
        pytest.param("before db.windows:finish_window", 2 * PAGE, id="before the watermark"),
        pytest.param("after db.windows:finish_window", 2 * PAGE, id="watermark not committed"),
    ],
)
def test_a_pull_goes_on_behind_the_last_page_that_was_committed(
    siege: Siege, crash: str, rows: int
) -> None:
    with siege.fallen("pull", crash=crash):
        assert len(siege.rows()) == rows
        assert siege.world.integration(ORGANIZATION).watermark is None
    siege.store.clear_requests()
    assert siege.world.sync_one(ORGANIZATION).state == "synced"
    resumed = "open_window" not in crash  # and then the rest up to now, a page of the overlap
    assert siege.asked("CustomersPage") == 3 - rows // PAGE + resumed
    siege.assert_nothing_is_lost()


@pytest.mark.parametrize(
    "crash",
    [
        pytest.param("after sync.bulk:_remember", id="remembered, not asked"),
        pytest.param("before sync.bulk:_remembered", id="asked, the answer not remembered"),
        pytest.param("after sync.bulk:_remembered", id="remembered, not waited for"),
        pytest.param("before db.customers:merge", id="the first chunk not merged"),
        pytest.param("after db.customers:merge", id="the first chunk not committed"),
        pytest.param("before db.bulk_operations:finish", id="last chunk, no watermark"),
        pytest.param("after db.bulk_operations:finish", id="watermark not committed"),
        pytest.param("after sync.pull:load", id="watermark, no window for the rest"),
    ],
)
def test_a_load_is_ended_by_one_bulk_operation(siege: Siege, crash: str) -> None:
    with siege.fallen("bulk", crash=crash):
        pass
    with siege.child("bulk") as heir:
        heir.ended_well()
    assert len(siege.store.bulk.all()) == 1
    assert siege.world.integration(ORGANIZATION).watermark is not None
    siege.assert_nothing_is_lost()


@pytest.mark.parametrize(
    ("crash", "done"),
    [
        pytest.param("after db.inbox:claim", False, id="claim not committed"),
        pytest.param("before sync.desk:Desk._through", False, id="claimed, not read"),
        pytest.param("before db.customers:merge", False, id="read, not merged"),
        pytest.param("before db.inbox:settle", False, id="merged, not done"),
        pytest.param("after db.inbox:settle", False, id="done, not committed"),
        pytest.param("before sync.drain:_unreported", True, id="done, not reported"),
        pytest.param("before sync.drain:_mark_reported", True, id="logged, not marked"),
        pytest.param("after db.lineage:mark_reported", True, id="marked, not committed"),
    ],
)
def test_an_event_is_done_by_the_next_drain_and_told_of(
    loaded: Siege, crash: str, done: bool
) -> None:
    edited, gone = ids_of(loaded)[:2]
    record = loaded.store.edit(edited, note="edited")
    loaded.store.delete(gone)
    loaded.world.hear(ORGANIZATION, "customers/update", body_of(record))
    loaded.world.hear(ORGANIZATION, "customers/delete", {"id": gone})
    with loaded.fallen("drain", crash=crash):
        assert (loaded.rows()[edited]["note"] == "edited") is done
        assert (loaded.rows()[gone]["deletedAt"] is not None) is done
        table = loaded.table()
    loaded.settle()
    if done:
        assert loaded.table() == table
    assert loaded.rows()[gone]["deletedAt"] is not None
    loaded.assert_nothing_is_lost()


@pytest.mark.parametrize(
    ("crash", "drifted"),
    [
        pytest.param("before sync.sweep:Sweep._refuse_short", 0, id="swept, not weighed"),
        pytest.param("before sync.reconcile:_Confirmation.read", 0, id="swept, none asked by id"),
        pytest.param("before db.customers:bury", 0, id="asked by id, not buried"),
        pytest.param("after db.customers:bury", 0, id="buried, not committed"),
        pytest.param("before db.reconciliations:record", 5, id="buried, not recorded"),
        pytest.param("after db.reconciliations:record", 5, id="recorded, not committed"),
    ],
)
def test_a_reconcile_buries_only_behind_a_whole_sweep_and_the_next_ends_it(
    loaded: Siege, crash: str, drifted: int
) -> None:
    numbers = ids_of(loaded)
    for number in numbers[:5]:
        loaded.store.delete(number)
    loaded.store.edit(numbers[9], touch=False, note="drifted")
    time.sleep(0.005)  # the sweep's rows are those written before it, by the millisecond

    def buried() -> int:
        return sum(row["deletedAt"] is not None for row in loaded.rows().values())

    with loaded.fallen("reconcile", crash=crash):
        assert buried() == drifted
        assert loaded.sql("SELECT 1 FROM reconciliations") == []
    (outcome,) = loaded.world.reconcile(ORGANIZATION)
    assert outcome.state == "reconciled"
    assert buried() == 5
    assert len(loaded.sql("SELECT 1 FROM reconciliations")) == 1
    loaded.assert_nothing_is_lost()


def holding(siege: Siege, **more: str) -> None:
    """An app that has to get its token first."""
    app = siege.store.credentials
    held = Credentials(client_id=app.client_id, client_secret=app.client_secret, **more)  # type: ignore[arg-type]
    store(siege, held)


def store(siege: Siege, held: Credentials) -> None:
    engine, integration = siege.world.engine, siege.world.integration(ORGANIZATION)
    transact(engine.pool, lambda conn: credentials.store(conn, engine.cipher, integration.id, held))


def held(siege: Siege) -> Credentials:
    engine, integration = siege.world.engine, siege.world.integration(ORGANIZATION)
    return read(engine.pool, lambda conn: credentials.load(conn, engine.cipher, integration.id))


GRANTS = {"client credentials": {}, "refresh token": {"refresh_token": "shprt_first"}}
ANSWERED = "after sync.tokens:renew"


@pytest.mark.parametrize(
    ("grant", "crash", "stored"),
    [
        pytest.param("client credentials", ANSWERED, False, id="no pair, answered, not stored"),
        pytest.param("refresh token", "before sync.tokens:renew", False, id="not asked"),
        pytest.param("refresh token", ANSWERED, False, id="answered, not stored"),
        pytest.param(
            "refresh token", "after db.credentials:store", False, id="stored, not committed"
        ),
        pytest.param("refresh token", "after sync.tokens:transact", True, id="stored, not used"),
    ],
)
def test_a_renewal_is_had_again_and_its_pair_kept(
    siege: Siege, grant: str, crash: str, stored: bool
) -> None:
    """Shopify takes a refresh token that it has replaced as long as the replacement is not used."""
    siege.store.credentials.refresh_token = "shprt_first"
    holding(siege, **GRANTS[grant])
    before = held(siege)
    with siege.fallen("pull", crash=crash):
        assert (held(siege) != before) is stored
    grants = siege.asked("oauth")
    assert siege.world.sync_one(ORGANIZATION).state == "synced"
    assert siege.asked("oauth") == grants + (not stored)
    if grant == "refresh token":
        assert held(siege).refresh_token == siege.store.credentials.refresh_token
    siege.assert_nothing_is_lost()


def test_a_pair_lost_for_longer_than_shopify_keeps_it_needs_a_person_and_loses_nothing_else(
    loaded: Siege,
) -> None:
    loaded.store.credentials.refresh_token = "shprt_first"
    holding(loaded, refresh_token="shprt_first")
    with loaded.fallen("pull", crash="after sync.tokens:renew"):
        table = loaded.table()
    edited = loaded.store.edit(ids_of(loaded)[0], note="edited")
    loaded.world.hear(ORGANIZATION, "customers/update", body_of(edited))
    clock = loaded.world.simulator.clock
    clock.set(clock.now() + timedelta(days=31))
    outcome = loaded.world.sync_one(ORGANIZATION)
    assert outcome.state == "failed"
    assert "invalid_grant" in str(outcome.error)
    assert "shopsync connect" in str(outcome.error)
    assert loaded.world.integration(ORGANIZATION).status == "needs_reauth"
    loaded.world.drain()
    assert loaded.world.event(ORGANIZATION)["status"] == "pending"
    assert loaded.table() == table
    given = {
        "SHOPIFY_CLIENT_SECRET": str(loaded.store.credentials.client_secret),
        "SHOPIFY_REFRESH_TOKEN": str(loaded.store.credentials.refresh_token),
    }
    with connecting(loaded, None, **given) as again:
        again.ended_well()
    loaded.settle()
    assert loaded.world.sync_one(ORGANIZATION).state == "synced"
    loaded.assert_nothing_is_lost()


@pytest.mark.parametrize(
    "crash",
    [
        pytest.param("after sync.connect:renew", id="granted, not probed"),
        pytest.param("after sync.connect:_probed", id="probed, not stored"),
        pytest.param("after db.integrations:connect", id="made, without credentials"),
        pytest.param("after db.credentials:store", id="stored, not committed"),
    ],
)
def test_a_connect_leaves_nothing_and_can_be_repeated_with_the_same_credentials(
    siege: Siege, crash: str
) -> None:
    siege.sql("DELETE FROM integrations RETURNING 1")
    siege.store.credentials.refresh_token = "shprt_first"
    given = {
        "SHOPIFY_CLIENT_SECRET": str(siege.store.credentials.client_secret),
        "SHOPIFY_REFRESH_TOKEN": "shprt_first",
    }
    with connecting(siege, crash, **given) as fallen:
        fallen.died_there()
        assert siege.sql("SELECT 1 FROM integrations") == []
    with connecting(siege, None, **given) as again:
        again.ended_well()
    assert siege.world.sync_one(ORGANIZATION).state == "synced"
    siege.assert_nothing_is_lost()


def connecting(siege: Siege, crash: str | None, **secrets: str) -> Any:
    app = str(siege.store.credentials.client_id)
    arguments = ("connect", ORGANIZATION, SHOP, "--client-id", app, "--expiring")
    return siege.child("shopsync", *arguments, crash=crash, **secrets)


DISCONNECTED = [
    pytest.param("before db.integrations:deactivate", id="held, still active"),
    pytest.param("after db.integrations:deactivate", id="inactive, not committed"),
]


@pytest.mark.parametrize("crash", DISCONNECTED)
def test_a_disconnect_is_whole_or_was_not(loaded: Siege, crash: str) -> None:
    with loaded.fallen("shopsync", "disconnect", ORGANIZATION, SHOP, crash=crash):
        assert loaded.world.sync_one(ORGANIZATION).state == "synced"
        assert held(loaded).access_token is not None
    with loaded.child("shopsync", "disconnect", ORGANIZATION, SHOP) as again:
        again.ended_well()
    assert_left(loaded)


@pytest.mark.parametrize(
    "crash", [*DISCONNECTED, pytest.param("before db.inbox:settle", id="inactive, event not done")]
)
def test_an_uninstall_is_whole_or_was_not(loaded: Siege, crash: str) -> None:
    domain = {"id": loaded.store.shop_id, "domain": SHOP, "myshopify_domain": SHOP}
    loaded.world.hear(ORGANIZATION, "app/uninstalled", domain)
    loaded.store.uninstall()
    with loaded.fallen("drain", crash=crash):
        assert held(loaded).access_token is not None
    loaded.settle()
    assert loaded.world.event(ORGANIZATION)["outcome"] == "uninstalled"
    assert_left(loaded)


def assert_left(siege: Siege) -> None:
    ((active, *tokens),) = siege.sql(
        'SELECT "isActive", "accessToken", "refreshToken" FROM integrations'
    )
    assert not active
    assert tokens == [None, None]
    assert len(siege.rows()) == CUSTOMERS


@pytest.mark.parametrize(
    ("crash", "made"),
    [
        pytest.param("after sync.store:Store.change", 1, id="the first made, nothing stored"),
        pytest.param("before db.integrations:begin_realtime", None, id="all made, nothing stored"),
        pytest.param("after db.integrations:begin_realtime", None, id="stored, not committed"),
    ],
)
def test_subscriptions_that_were_made_are_found_and_not_made_again(
    loaded: Siege, crash: str, made: int | None
) -> None:
    loaded.environ["APP_URL"] = f"http://127.0.0.1:{free_port()}"

    def topics() -> list[str]:
        return sorted(each["topic"] for each in loaded.store.subscriptions)

    def on() -> bool:
        return bool(loaded.sql('SELECT 1 FROM integrations WHERE "realtimeSince" IS NOT NULL'))

    with loaded.fallen("subscriptions", crash=crash):
        left = topics()
        assert not on()
    assert made is None or len(left) == made
    loaded.store.clear_requests()
    with loaded.child("subscriptions") as again:
        again.ended_well()
    assert on()
    assert (
        len(topics()) == len(set(topics())) == len(left) + loaded.asked("WebhookSubscriptionCreate")
    )
    if made is None:
        assert topics() == left
