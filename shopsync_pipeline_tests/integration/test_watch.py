"""What is found wrong with a deployment: told once, and once more when it is over."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shopsync_pipeline.db import alerts, integrations, unheard, watch
from shopsync_pipeline.db.alerts import Trouble
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.sync.alerts import LISTED, remember, tell
from shopsync_pipeline.sync.watch import SILENT_AFTER, STOOD_STILL, troubles
from shopsync_pipeline_tests.world import World

SHOP = "acme.myshopify.com"


@pytest.fixture
def store(conn: Conn) -> str:
    """A store that is well: synced, reconciled, subscribed."""
    made = integrations.connect(conn, organization_id="acme", shop=SHOP, name="A", shop_id=1)
    conn.execute(
        """UPDATE integrations SET "lastSyncAt" = now(), "watermark" = now(),
           "reconciledAt" = now(), "realtimeSince" = now(), "subscribedAt" = now()"""
    )
    return made.id


def kinds(conn: Conn) -> list[str]:
    return [trouble.kind for trouble in troubles(conn)]


STATES = {
    "store_in_trouble": """UPDATE integrations SET "status" = 'needs_reauth'""",
    "store_late": """UPDATE integrations SET "lastSyncAt" = now() - interval '121 minutes'""",
    "reconcile_late": """UPDATE integrations SET "reconciledAt" = now() - interval '10 days'""",
    "subscriptions_late": """UPDATE integrations SET "realtimeSince" = now() - interval '1 day',
                             "subscribedAt" = now() - interval '181 minutes'""",
    "silent": """UPDATE heartbeats SET "at" = now() - interval '6 minutes', "since" = '2000-01-01'
                 WHERE "name" = 'webhook_sensor'""",
    "inbox_late": """INSERT INTO webhook_events ("integrationId", "organizationId", "shop",
                       "webhookId", "topic", "receivedAt")
                     SELECT "id", 'acme', "shop", '1', 'customers/update',
                            now() - interval '11 minutes' FROM integrations""",
    "dead_letters": """INSERT INTO webhook_events ("integrationId", "organizationId", "shop",
                         "webhookId", "topic", "status")
                       SELECT "id", 'acme', "shop", '1', 'customers/update', 'dead'
                       FROM integrations""",
    "drift": """INSERT INTO reconciliations ("integrationId", "organizationId", "shop", "runId",
                  "way", "startedAt", "rowsRead", "missing", "drifted", "revived", "deleted")
                SELECT "id", 'acme', "shop", 'r', 'pages', now(), 999, 1, 0, 0, 0
                FROM integrations""",
    "webhooks_lost": """INSERT INTO unheard_changes ("integrationId", "runId", "oldestAt",
                          "changes") SELECT "id", 'r', now(), 3 FROM integrations""",
}


@pytest.mark.parametrize("kind", STATES)
def test_each_trouble_is_found_and_names_its_store_and_a_remedy(
    conn: Conn, store: str, kind: str
) -> None:
    for name in SILENT_AFTER:
        watch.beat(conn, name)
    assert kinds(conn) == []
    conn.execute(STATES[kind].encode())
    (trouble,) = troubles(conn)
    assert trouble.kind == kind
    if kind != "silent":
        assert f"acme, {SHOP}" in trouble.told
    assert trouble.remedy
    assert troubles(conn)[0].key == trouble.key


def test_a_daemon_that_never_ran_is_silent_after_a_while(conn: Conn) -> None:
    assert kinds(conn) == []
    conn.execute("""UPDATE heartbeats SET "since" = now() - interval '2 days'""")
    assert kinds(conn) == ["silent"] * len(SILENT_AFTER)


def test_after_a_stop_of_everything_nothing_is_called_silent_before_its_time(conn: Conn) -> None:
    for name in SILENT_AFTER:
        watch.beat(conn, name)
    stopped = """UPDATE heartbeats SET "at" = now() - interval '3 hours', "since" = '2000-01-01'"""
    conn.execute(stopped.encode())
    assert len(kinds(conn)) == len(SILENT_AFTER) - 1  # doctor, while all stands still; not nightly
    watch.expect_anew(conn, "trouble_sensor", STOOD_STILL)
    assert kinds(conn) == []
    watch.beat(conn, "trouble_sensor")
    conn.execute("""UPDATE heartbeats SET "since" = now() - interval '6 minutes'""")
    watch.expect_anew(conn, "trouble_sensor", STOOD_STILL)
    assert {each.key for each in troubles(conn)} == {
        "silent:webhook_sensor",
        "silent:sync_request_sensor",
    }


def test_a_stop_of_everything_ends_no_silence_that_was_told(conn: Conn) -> None:
    watch.beat(conn, "webhook_sensor")
    conn.execute(STATES["silent"].encode())
    (silent,) = troubles(conn)
    remember(conn, [silent])
    watch.beat(conn, "trouble_sensor")
    conn.execute(
        """UPDATE heartbeats SET "at" = now() - interval '1 hour'
           WHERE "name" = 'trouble_sensor'"""
    )
    watch.expect_anew(conn, "trouble_sensor", STOOD_STILL)
    assert [each.key for each in troubles(conn)] == [silent.key]


def test_no_trouble_quotes_what_shopify_said_which_may_be_a_customers(
    conn: Conn, store: str
) -> None:
    conn.execute("""UPDATE integrations SET "lastError" = 'ada@example.com is no customer'""")
    for kind in ("store_late", "store_in_trouble"):
        conn.execute(STATES[kind].encode())
        (trouble,) = troubles(conn)
        assert trouble.kind == kind
        assert "ada@example.com" not in trouble.told + trouble.remedy


def test_what_pulls_found_in_stores_that_cannot_be_a_trouble_reads_no_events(
    conn: Conn, store: str
) -> None:
    conn.execute(STATES["webhooks_lost"].encode())
    assert [each.unheard for each in unheard.hearing(conn, at_least=3)] == [3]
    assert unheard.hearing(conn, at_least=4) == []


def test_a_store_that_left_holds_no_events_back(conn: Conn, store: str) -> None:
    conn.execute(STATES["inbox_late"].encode())
    conn.execute("""UPDATE integrations SET "retryAt" = now() + interval '1 hour'""")
    assert watch.inbox(conn).oldest(held_back=True) > timedelta(minutes=10)
    conn.execute('UPDATE integrations SET "isActive" = false')
    assert watch.inbox(conn).waiting == []


def test_a_store_that_left_is_no_trouble(conn: Conn, store: str) -> None:
    for kind, statement in STATES.items():
        if kind not in ("silent", "dead_letters", "inbox_late"):
            conn.execute(statement.encode())
    integrations.deactivate(conn, store)
    assert kinds(conn) == []


# Pulls and webhooks


def heard_nothing_of(world: World, minutes: int) -> Any:
    """A store with real-time sync whose customer changed so long ago, and the pull comes now."""
    now = datetime.now(UTC).replace(microsecond=0)
    world.simulator.clock.set(now - timedelta(hours=1))
    store = world.connect("acme", SHOP, customers=5)
    assert world.sync_one("acme").state == "synced"
    with world.engine.pool.connection() as conn:
        conn.execute("""UPDATE integrations SET "realtimeSince" = now() - interval '1 day'""")
    world.simulator.clock.set(now - timedelta(minutes=minutes))
    customer = store.customers()[0]["legacyResourceId"]
    store.edit(customer, note="changed")
    world.simulator.clock.set(now)
    return int(customer)


def compared(world: World) -> tuple[int, int]:
    with world.engine.pool.connection() as conn:
        (hearing,) = unheard.hearing(conn)
    return hearing.heard, hearing.unheard


def test_a_change_that_only_a_pull_brought_is_a_lost_webhook(world: World) -> None:
    heard_nothing_of(world, minutes=10)
    assert world.sync_one("acme").state == "synced"
    assert compared(world) == (0, 1)
    world.sync_one("acme")
    assert compared(world) == (0, 1)


def test_a_webhook_that_may_still_come_is_not_lost(world: World) -> None:
    heard_nothing_of(world, minutes=3)
    world.sync_one("acme")
    assert compared(world) == (0, 0)


def test_a_change_that_came_by_webhook_is_heard_with_its_lag(world: World) -> None:
    customer = heard_nothing_of(world, minutes=10)
    world.hear("acme", "customers/update", {"id": customer})
    world.drain()
    world.sync_one("acme")
    assert compared(world) == (1, 0)
    with world.engine.pool.connection() as conn:
        (hearing,) = unheard.hearing(conn)
        assert unheard.hearing(conn, at_least=1) == []
    assert 0 <= hearing.median <= hearing.slowest < 60


def test_while_events_wait_no_webhook_is_called_lost(world: World) -> None:
    """The store was put off: what the pull brings now, its events may have told long ago."""
    customer = heard_nothing_of(world, minutes=10)
    world.hear("acme", "customers/update", {"id": customer})
    world.sync_one("acme")
    assert compared(world) == (0, 0)


def test_without_real_time_sync_nothing_is_compared(world: World) -> None:
    heard_nothing_of(world, minutes=10)
    with world.engine.pool.connection() as conn:
        conn.execute('UPDATE integrations SET "realtimeSince" = NULL')
        world.sync_one("acme")
        assert unheard.hearing(conn) == []
        assert conn.execute("SELECT count(*) FROM unheard_changes").fetchone() == (0,)


# Telling


class Hook:
    """Takes messages, but for the kinds it refuses."""

    def __init__(self) -> None:
        self.taken: list[Mapping[str, Any]] = []
        self.refused: set[str] = set()

    def __call__(self, message: Mapping[str, Any]) -> bool:
        if message["kind"] in self.refused:
            return False
        self.taken.append(message)
        return True

    def new(self) -> list[tuple[str, str, int]]:
        found = [(each["state"], each["kind"], each["count"]) for each in self.taken]
        self.taken.clear()
        return found


@pytest.fixture
def hook() -> Hook:
    return Hook()


def trouble(kind: str, number: int = 1) -> Trouble:
    return Trouble(
        kind=kind, key=f"{kind}:{number}", told=f"{kind} {number}.", remedy="Mend <it> & be well."
    )


def ticked(database_url: str, hook: Hook, *found: Trouble) -> list[tuple[str, str, int]]:
    """One tick, on a session of its own as after a restart; what it told."""
    with connect(database_url) as conn:
        remember(conn, found)
        tell(conn, hook)
    return hook.new()


def test_a_trouble_is_told_once_and_its_end_once(database_url: str, hook: Hook) -> None:
    late = trouble("store_late")
    assert ticked(database_url, hook, late) == [("trouble", "store_late", 1)]
    for _ in range(3):
        assert ticked(database_url, hook, late) == []
    assert ticked(database_url, hook) == [("over", "store_late", 1)]
    assert ticked(database_url, hook) == []
    assert ticked(database_url, hook, late) == [("trouble", "store_late", 1)]


def test_a_message_that_is_not_taken_is_sent_again_and_keeps_back_no_other(
    database_url: str, hook: Hook
) -> None:
    found = [trouble("silent"), trouble("drift"), trouble("inbox_late")]
    hook.refused = {"silent"}
    assert sorted(ticked(database_url, hook, *found)) == [
        ("trouble", "drift", 1),
        ("trouble", "inbox_late", 1),
    ]
    assert ticked(database_url, hook, *found) == []
    hook.refused = set()
    assert ticked(database_url, hook, *found) == [("trouble", "silent", 1)]


def test_a_teller_that_is_done_keeps_no_other_from_telling_while_its_session_lives_on(
    database_url: str, hook: Hook
) -> None:
    with connect(database_url) as conn:
        remember(conn, [trouble("drift")])
        assert tell(conn, hook) == 1
        hook.new()
        assert ticked(database_url, hook, trouble("drift"), trouble("silent")) == [
            ("trouble", "silent", 1)
        ]


def test_what_was_over_before_anybody_could_be_told_is_not_told(
    database_url: str, hook: Hook
) -> None:
    hook.refused = {"drift"}
    ticked(database_url, hook, trouble("drift"))
    hook.refused = set()
    assert ticked(database_url, hook) == []


def test_a_teller_killed_after_its_message_was_taken_repeats_it_once(
    database_url: str, hook: Hook
) -> None:
    """At least once: what was sent is written down after it was taken."""

    class Killed(BaseException):
        pass

    def killed(message: Mapping[str, Any]) -> bool:
        hook(message)
        raise Killed

    with connect(database_url) as conn:
        remember(conn, [trouble("drift")])
        with pytest.raises(Killed):
            tell(conn, killed)
    assert hook.new() == [("trouble", "drift", 1)]
    assert ticked(database_url, hook, trouble("drift")) == [("trouble", "drift", 1)]
    assert ticked(database_url, hook, trouble("drift")) == []


def test_many_of_a_kind_are_one_message_that_lists_some(database_url: str, hook: Hook) -> None:
    found = [trouble("store_late", n) for n in range(LISTED + 5)]
    with connect(database_url) as conn:
        remember(conn, found)
        tell(conn, hook)
    (message,) = hook.taken
    assert message["count"] == LISTED + 5
    assert len(message["troubles"]) == LISTED
    assert "and 5 more" in message["text"]
    assert "Mend &lt;it&gt; &amp; be well." in message["text"]  # as Slack must be told
    assert message["troubles"][0]["remedy"] == "Mend <it> & be well."


def test_dead_letters_are_told_again_for_a_new_one_alone_and_over_when_none_is_left(
    database_url: str, conn: Conn, store: str, hook: Hook
) -> None:
    def died(webhook: str, day: int) -> None:
        conn.execute(
            """INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId",
                 "topic", "status", "processedAt")
               VALUES (%s, 'acme', %s, %s, 'customers/update', 'dead', %s)""",
            [store, SHOP, webhook, datetime(2026, 11, day, tzinfo=UTC)],
        )

    def replayed(webhook: str) -> None:
        conn.execute(
            """UPDATE webhook_events SET "status" = 'done' WHERE "webhookId" = %s""", [webhook]
        )

    def told() -> list[tuple[str, str, int]]:
        return ticked(database_url, hook, *troubles(conn))

    died("1", 1)
    assert told() == [("trouble", "dead_letters", 1)]
    died("2", 2)
    assert told() == [("trouble", "dead_letters", 1)]
    assert told() == []
    replayed("2")
    assert told() == []
    died("3", 3)
    assert told() == [("trouble", "dead_letters", 1)]
    replayed("1")
    replayed("3")
    assert told() == [("over", "dead_letters", 1)]
    assert told() == []


def test_drift_is_told_for_each_reconcile_that_finds_it_and_over_when_one_finds_none(
    database_url: str, conn: Conn, store: str, hook: Hook
) -> None:
    found = []
    for rows, drifted in ((999, 1), (999, 1), (999, 0)):
        conn.execute(
            """INSERT INTO reconciliations ("integrationId", "organizationId", "shop", "runId",
                 "way", "startedAt", "rowsRead", "missing", "drifted", "revived", "deleted")
               VALUES (%s, 'acme', %s, gen_random_uuid()::text, 'pages', now(), %s, 0, %s, 0, 0)""",
            [store, SHOP, rows, drifted],
        )
        found += ticked(database_url, hook, *troubles(conn))
    assert found == [("trouble", "drift", 1), ("trouble", "drift", 1), ("over", "drift", 1)]


def test_an_event_is_told_once_and_has_no_end(database_url: str, hook: Hook) -> None:
    with connect(database_url) as conn:
        alerts.file_event(conn, trouble("run_failed"))
    assert ticked(database_url, hook) == [("trouble", "run_failed", 1)]
    assert ticked(database_url, hook) == []
    with connect(database_url) as conn:
        alerts.file_event(conn, trouble("run_failed"))  # its sensor was killed and looks again
    assert ticked(database_url, hook) == []


def test_events_nobody_could_be_told_of_for_a_day_are_told_no_more(
    database_url: str, conn: Conn, hook: Hook
) -> None:
    """ALERT_WEBHOOK_URL was set long after: what lasts is told, not what was."""
    alerts.file(conn, [trouble("run_failed"), trouble("drift")])
    conn.execute("""UPDATE alerts SET "since" = now() - interval '2 days'""")
    assert ticked(database_url, hook, trouble("drift")) == [("trouble", "drift", 1)]


def test_two_tellers_at_once_do_not_both_tell(database_url: str, conn: Conn, hook: Hook) -> None:
    assert alerts.try_lock(conn)
    assert ticked(database_url, hook, trouble("drift")) == []


def test_alerts_that_were_over_long_ago_go(database_url: str, conn: Conn, hook: Hook) -> None:
    ticked(database_url, hook, trouble("drift"), trouble("silent"))
    ticked(database_url, hook, trouble("silent"))
    conn.execute(
        """UPDATE alerts SET "since" = "since" - interval '91 days',
           "endedAt" = "endedAt" - interval '91 days'"""
    )
    alerts.expire(conn)
    assert conn.execute('SELECT "kind" FROM alerts').fetchall() == [("silent",)]
