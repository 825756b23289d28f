"""The load of `receiver_load`: signed deliveries as Shopify sends them, over connections of their
own or kept ones, with the time of each counted from when it was due."""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Who sends, of whom, and to which port of this machine."""

    domain: str
    secret: str = field(repr=False)
    customers: Sequence[dict[str, Any]]
    port: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`seconds` from when the delivery was due to its whole answer; `status` 0: there was none."""

    webhook_id: str
    status: int
    seconds: float


async def steady(shop: Shop, name: str, *, rate: int, seconds: int) -> list[Answer]:
    """Deliveries that are due in equal steps, whatever became of those before."""
    idle: list[Line] = []
    began = time.perf_counter()
    sent = []
    for number in range(rate * seconds):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(_deliver(shop, idle, f"{name}-{number}", due)))
    answers = await asyncio.gather(*sent)
    for _, writer in idle:
        writer.close()
    return answers


async def burst(shop: Shop, name: str, count: int) -> list[Answer]:
    due = time.perf_counter()
    return await asyncio.gather(
        *(_deliver(shop, [], f"{name}-{number}", due) for number in range(count))
    )


Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _deliver(shop: Shop, idle: list[Line], webhook_id: str, due: float) -> Answer:
    """Over a connection that is idle, or a new one; it is kept for the next."""
    status = 0
    try:
        line = await _line(shop, idle)
        line[1].write(_request(shop, webhook_id))
        head = await line[0].readuntil(b"\r\n\r\n")
        await line[0].readuntil(b"}")
        status = int(head.split()[1])
        idle.append(line)
    except (OSError, asyncio.IncompleteReadError) as error:
        print(f"{webhook_id}: {error!r}", file=sys.stderr)
    return Answer(webhook_id=webhook_id, status=status, seconds=time.perf_counter() - due)


async def _line(shop: Shop, idle: list[Line]) -> Line:
    while idle:
        line = idle.pop()
        if not line[0].at_eof():  # else the receiver closed what was idle for long
            return line
        line[1].close()
    return await asyncio.open_connection("127.0.0.1", shop.port)


def body_of(shop: Shop, webhook_id: str) -> bytes:
    """As Shopify sends it with the subscription's includeFields, about one of its customers."""
    digest = hashlib.sha256(webhook_id.encode()).digest()
    customer = shop.customers[int.from_bytes(digest[:4], "big") % len(shop.customers)]
    return json.dumps(
        {
            "id": int(customer["legacyResourceId"]),
            "admin_graphql_api_id": customer["id"],
            "updated_at": customer["updatedAt"],
        }
    ).encode()


def headers_of(shop: Shop, webhook_id: str, body: bytes) -> dict[str, str]:
    signature = hmac.digest(shop.secret.encode(), body, "sha256")
    return {
        "Host": "127.0.0.1",
        "X-Shopify-Topic": "customers/update",
        "X-Shopify-Shop-Domain": shop.domain,
        "X-Shopify-Hmac-Sha256": base64.b64encode(signature).decode(),
        "X-Shopify-Webhook-Id": webhook_id,
        "X-Shopify-API-Version": "2026-10",
        "X-Shopify-Triggered-At": datetime.now(UTC).isoformat(),
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }


def _request(shop: Shop, webhook_id: str) -> bytes:
    body = body_of(shop, webhook_id)
    lines = [f"{name}: {value}" for name, value in headers_of(shop, webhook_id, body).items()]
    head = "\r\n".join(["POST /api/webhooks/shopify HTTP/1.1", *lines, "", ""])
    return head.encode() + body
