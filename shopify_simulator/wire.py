"""What is done to an answer on its way to the socket: headers, gzip, waits, and broken bytes.

A fault of the wire has to be real for the client's HTTP library, so some write to the transport
itself, past the server; `TransportProtocol` puts it within reach. Every wait ends when the server
stops.
"""

import asyncio
import gzip
import socket
import struct
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from shopify_simulator.clock import Clock
from shopify_simulator.faults import INSTEAD, Fault

GZIP_FROM_BYTES = 1000
DRIP_SECONDS = 0.05
HTML = b"<!DOCTYPE html><html><head><title>Something went wrong</title></head></html>"
JSON = "application/json; charset=utf-8"


class TransportProtocol(H11Protocol):
    """uvicorn's own, but each request finds its connection's transport in scope["state"]."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Waits:
    """Waits that the server's stop cuts short."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def pause(self, seconds: float | None) -> bool:
        """False when the server stopped meanwhile; None waits for that."""
        if seconds is not None and seconds <= 0:
            return not self._stopping.is_set()
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def head(self, length: int | None) -> bytes:
        """Status line and headers, as they go over the wire; the body comes in chunks where its
        length is None."""
        phrase = next((s.phrase for s in HTTPStatus if s == self.status), "")
        lines = [f"HTTP/1.1 {self.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        body = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        return "\r\n".join([*lines, body, "", ""]).encode()


def stamped(reply: Reply, clock: Clock, version: str, fault: Fault | None) -> Reply:
    """With the headers that Shopify sets on every answer."""
    headers = {
        "Content-Type": JSON,
        "Date": format_datetime(clock.now(), usegmt=True),
        "X-Shopify-API-Version": version,
        "X-Request-Id": str(uuid.uuid4()),
        **reply.headers,
    }
    if fault and fault.kind == "version":
        headers["X-Shopify-API-Version"] = fault.options["version"]
    if fault and fault.kind == "date":
        headers["Date"] = fault.options["text"]
    if fault and fault.kind == "no_date":
        del headers["Date"]
    return replace(reply, headers=headers)


def fault_reply(fault: Fault | None) -> Reply | None:
    """The answer of a fault that stands instead of ours."""
    if fault is None or fault.kind not in INSTEAD:
        return None
    options = fault.options
    match fault.kind:
        case "status":
            body = options.get("body", {"errors": f"HTTP {options['status']}"})
            content = body.encode() if isinstance(body, str) else orjson.dumps(body)
            headers = {k: str(v) for k, v in options.get("headers", {}).items()}
            return Reply(status=options["status"], content=content, headers=headers)
        case "redirect":
            return Reply(status=301, headers={"Location": options["location"]})
        case "html":
            return Reply(content=HTML, headers={"Content-Type": "text/html; charset=utf-8"})
        case _:  # empty; reset and hang never come to answer
            return Reply()


def response(reply: Reply, fault: Fault | None, waits: Waits, accepts_gzip: bool) -> Response:
    if fault is not None and fault.kind in RAW:
        return RAW[fault.kind](reply, fault, waits)
    if fault is not None and fault.kind == "truncated":
        reply = replace(reply, content=reply.content[: len(reply.content) // 2])
    if fault is not None and fault.kind == "respelled":
        reply = replace(reply, content=respelled(reply.content, fault))
    kind = fault.kind if fault is not None else None
    if (accepts_gzip and len(reply.content) >= GZIP_FROM_BYTES) or kind in BAD_GZIP:
        packed = gzip.compress(reply.content, compresslevel=1)
        packed = BAD_GZIP[kind](packed) if kind in BAD_GZIP else packed
        headers = {**reply.headers, "Content-Encoding": "gzip"}
        reply = replace(reply, content=packed, headers=headers)
    return Response(reply.content, reply.status, dict(reply.headers))


def respelled(content: bytes, fault: Fault) -> bytes:
    return content.replace(fault.options["text"].encode(), fault.options["by"].encode())


BAD_GZIP: Mapping[str | None, Callable[[bytes], bytes]] = {
    "gzip_broken": lambda packed: packed[:20] + bytes(len(packed) - 20),
    "gzip_cut": lambda packed: packed[: len(packed) // 2],
}


class RawResponse(Response, ABC):
    """Writes to the connection itself and closes it."""

    def __init__(self, reply: Reply, fault: Fault, waits: Waits) -> None:
        super().__init__(reply.content, reply.status)
        self.reply = reply
        self.seconds: float | None = fault.options.get("seconds")
        self.waits = waits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport: Any = scope["state"]["transport"]
        await self.write(transport)
        transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass

    @abstractmethod
    async def write(self, transport: Any) -> None: ...

    async def drip(self, transport: Any, content: bytes) -> None:
        step = DRIP_SECONDS if self.seconds is None else self.seconds
        for byte in content:
            if transport.is_closing() or not await self.waits.pause(step):
                return
            transport.write(bytes([byte]))


class ShortBody(RawResponse):
    async def write(self, transport: Any) -> None:
        content = self.reply.content
        transport.write(self.reply.head(len(content) + 100) + content)


class ChunkCut(RawResponse):
    async def write(self, transport: Any) -> None:
        half = self.reply.content[: len(self.reply.content) // 2]
        transport.write(self.reply.head(None) + b"%x\r\n" % len(half) + half + b"\r\n")


class Drip(RawResponse):
    async def write(self, transport: Any) -> None:
        transport.write(self.reply.head(len(self.reply.content)))
        await self.drip(transport, self.reply.content)


class DripHeaders(RawResponse):
    async def write(self, transport: Any) -> None:
        await self.drip(transport, self.reply.head(len(self.reply.content)))
        transport.write(self.reply.content)


class Reset(RawResponse):
    async def write(self, transport: Any) -> None:
        reset(transport)


def reset(transport: Any) -> None:
    # Lingering for zero seconds turns the close into an RST.
    no_linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
    transport.abort()


class Hang(RawResponse):
    async def write(self, transport: Any) -> None:
        await self.waits.pause(self.seconds)


RAW: dict[str, type[RawResponse]] = {
    "short_body": ShortBody,
    "chunk_cut": ChunkCut,
    "drip": Drip,
    "drip_headers": DripHeaders,
    "reset": Reset,
    "answer_lost": Reset,
    "hang": Hang,
}
