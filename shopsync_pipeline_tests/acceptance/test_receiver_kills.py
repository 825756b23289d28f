"""The receiver's process killed by SIGKILL: what it answered is stored, once, and as it came."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest
import requests as http

from shopsync_pipeline_tests.acceptance.siege import (
    Child,
    Siege,
    Traffic,
    acknowledged,
    chances,
    kills,
)
from shopsync_pipeline_tests.world import World, free_port

pytestmark = pytest.mark.kills

RETRIES_FASTER = 200  # 10 s, 1, 3 and 10 min become 50 ms to 3 s
LISTENING = "receiver listening on"
MOST_SECONDS_ALIVE = 0.4


@contextmanager
def receiver(siege: Siege, port: int, crash: str | None = None) -> Iterator[Child]:
    with siege.child("receiver", crash=crash, RECEIVER_PORT=str(port)) as running:
        yield running.begun(LISTENING)


def test_a_receiver_killed_at_random_moments_has_stored_once_and_whole_what_it_answered(
    world: World,
) -> None:
    chance, times = chances(), kills(3)
    siege = Siege.laid(
        world, 200, webhook_copies=2, webhook_reorder=True, webhook_time_factor=RETRIES_FASTER
    )
    assert world.sync_one("acme").state == "synced"
    port = free_port()
    siege.subscribe(f"http://127.0.0.1:{port}")
    with Traffic(siege.store, chance, pause=0.03) as traffic:
        for _ in range(times):
            with receiver(siege, port) as running:
                time.sleep(chance.uniform(0, MOST_SECONDS_ALIVE))
                running.kill()
    with receiver(siege, port):
        siege.settle()
    assert_what_was_acknowledged_is_in_the_table(siege)
    # Shopify gives up what nobody has answered for long, so a pull and a reconcile bring the rest.
    assert world.sync_one("acme").state == "synced"
    assert [each.error for each in world.reconcile("acme")] == [None]
    siege.assert_nothing_is_lost()
    tries = [t.get("status") for each in siege.store.deliveries for t in each["attempts"]]
    cut = sum(status != 200 for status in tries)
    print(f"{times} kills, {traffic.changes} changes, {len(tries)} tries, {cut} cut off or refused")
    assert cut


def assert_what_was_acknowledged_is_in_the_table(siege: Siege) -> None:
    """At least as new as the delivery told."""
    rows, answered = siege.rows(), acknowledged(siege.store)
    told = [
        (each["topic"], json.loads(each["body"]))
        for each in siege.store.deliveries
        if each["webhookId"] in answered and each["topic"] != "customers/purchasing_summary"
    ]
    assert told
    there = {int(record["legacyResourceId"]) for record in siege.store.customers()}
    for topic, body in told:
        row = rows.get(int(body["id"]))
        if topic == "customers/delete":
            assert row, body
            assert row["deletedAt"], body
        elif row is None:  # deleted before it was read, which nobody could tell
            assert int(body["id"]) not in there, body
        elif not row["deletedAt"]:
            assert row["shopifyUpdatedAt"] >= datetime.fromisoformat(body["updated_at"]), body


@pytest.mark.parametrize(
    ("crash", "stored"),
    [
        pytest.param("before db.inbox:store", 0, id="before the insert"),
        pytest.param("after webhook_receiver.verify:Inbox.take", 1, id="after commit, no answer"),
    ],
)
def test_a_delivery_without_an_answer_comes_again_and_is_one_row(
    world: World, crash: str, stored: int
) -> None:
    siege = Siege.laid(world, 10)
    assert world.sync_one("acme").state == "synced"
    uri, port = "http://127.0.0.1:{}/api/webhooks/shopify", free_port()
    edited = siege.store.edit(siege.store.customers()[0]["id"], note="edited")
    body = {"id": int(edited["legacyResourceId"]), "updated_at": edited["updatedAt"]}

    def deliver() -> None:
        siege.store.send_webhook("customers/update", body, uri.format(port), webhook_id="same")
        assert siege.store.wait_for_deliveries()

    def answers() -> list[int | None]:
        return [t.get("status") for d in siege.store.deliveries for t in d["attempts"]]

    with receiver(siege, port, crash) as running:
        deliver()
        running.died_there()
    assert 200 not in answers()
    assert len(siege.sql("SELECT 1 FROM webhook_events")) == stored
    with receiver(siege, port):
        deliver()
        deliver()
        assert http.get(f"http://127.0.0.1:{port}/readyz", timeout=5).ok
    assert answers()[-2:] == [200, 200]
    assert len(siege.sql("SELECT 1 FROM webhook_events")) == 1
    siege.settle()
    siege.assert_nothing_is_lost()
