"""A flood of repeated deliveries through the receiver, the drain working beside it."""

import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest

from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.drain import DrainOrder, drain
from shopsync_pipeline_tests.integration.test_receiver import (
    SECRET,
    SHOP,
    WEBHOOKS,
    signature,
)
from shopsync_pipeline_tests.world import World
from webhook_receiver.server import running_receiver

CUSTOMERS = 1000
COPIES = 10
SENDERS = 16
FREE = {"restore_rate": 1e6, "maximum_available": 1e6}


@pytest.fixture
def store(world: World) -> Any:
    store = world.connect("acme", SHOP, customers=CUSTOMERS, **FREE)
    world.sync("acme")
    for record in store.customers():
        store.edit(int(record["legacyResourceId"]), tags=["flood"])
    store.clear_requests()
    return store


def pipelined(url: str, records: list[dict[str, Any]]) -> int:
    """How many of these deliveries, one after the other on one connection, are answered 200."""
    host, port = url.removeprefix("http://").split(":")
    ok = 0
    with socket.create_connection((host, int(port)), timeout=30) as client:
        for record in records:
            client.sendall(request(record))
            answer = b""
            while not answer.endswith(b"}"):
                answer += client.recv(4096)
            ok += answer.startswith(b"HTTP/1.1 200")
    return ok


def request(record: dict[str, Any]) -> bytes:
    body = orjson.dumps({"customerId": record["id"], "tags": ["flood"]})
    head = (
        f"POST {WEBHOOKS} HTTP/1.1\r\nHost: x\r\nX-Shopify-Topic: customer.tags_added\r\n"
        f"X-Shopify-Shop-Domain: {SHOP}\r\n"
        f"X-Shopify-Hmac-Sha256: {signature(body, SECRET)}\r\n"
        f"X-Shopify-Webhook-Id: tags of {record['id']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def test_a_thousand_changes_told_ten_times_each_are_a_thousand_rows_and_as_many_reads(
    world: World, store: Any
) -> None:
    records = store.customers() * COPIES
    settings = Settings.from_env(world.environ | {"SHOPIFY_WEBHOOK_SECRET": SECRET})
    order = DrainOrder(run_id="flood", linger=3.0)
    with (
        running_receiver(settings) as url,
        world.second_engine() as engine,
        ThreadPoolExecutor(SENDERS) as senders,
        ThreadPoolExecutor(1) as other,
    ):
        drained = other.submit(lambda: list(drain(engine, order)))
        parts = [records[n::SENDERS] for n in range(SENDERS)]
        taken = sum(senders.map(lambda part: pipelined(url, part), parts))
        assert drained.result(60)
    assert taken == CUSTOMERS * COPIES
    events = world.events("acme")
    assert Counter(e["status"] for e in events) == {"done": CUSTOMERS}
    reads = Counter(
        gid
        for request in store.requests
        if request["operation"] == "CustomersById"
        for gid in request["variables"]["ids"]
    )
    assert (len(reads), max(reads.values())) == (CUSTOMERS, 1)
    assert world.differences("acme", store) == []
