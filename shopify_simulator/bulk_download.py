"""Serves the result files of bulk operations, as a storage host of its own would.

No token belongs here: a request that carries one is refused, and the store's request log says so
(`operation` "bulk_file", `leaked` true). `Range` and `If-Range` are answered.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from shopify_simulator.clock import stamp
from shopify_simulator.faults import BULK_FILE, Fault
from shopify_simulator.simulator import Simulator
from shopify_simulator.wire import RAW, Reply, Waits, fault_reply, reset, respelled

CREDENTIALS = ("X-Shopify-Access-Token", "Authorization")
CUTS = ("reset", "short_body")
MEDIA_TYPE = "application/jsonl"


class StoredFile(FileResponse):
    chunk_size = 1024 * 1024


class CutFile(StoredFile):
    """The connection ends after so many bytes of the body, by a reset or as if it were whole."""

    def __init__(self, path: Path, fault: Fault) -> None:
        super().__init__(path, media_type=MEDIA_TYPE)
        self.left = int(fault.options.get("bytes", path.stat().st_size // 2))
        self.kind = fault.kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["state"]["transport"]

        async def send_some(message: Message) -> None:
            body = message.get("body", b"")
            if message["type"] == "http.response.start" or len(body) < self.left:
                self.left -= len(body)
                await send(message)
                return
            if not transport.is_closing():
                await send({**message, "body": body[: self.left], "more_body": True})
                reset(transport) if self.kind == "reset" else transport.close()

        await super().__call__(scope, receive, send_some)
        while (await receive())["type"] != "http.disconnect":
            pass


def bulk_route(simulator: Simulator, waits: Waits) -> Route:
    async def download(request: Request) -> Response:
        name = request.path_params["name"]
        for store in simulator.stores:
            if file := store.bulk.file(name):
                break
        else:
            return Response("NoSuchKey", 404)
        leaked = any(header in request.headers for header in CREDENTIALS)
        fault = None if leaked else store.next_fault(BULK_FILE, {})
        reply = Response("AuthorizationHeaderMalformed", 400) if leaked else None
        reply = reply or _reply(file.path, fault, waits)
        store.log(
            at=stamp(store.clock.now()),
            operation=BULK_FILE,
            status=reply.status_code,
            fault=fault.kind if fault else None,
            variables={"range": request.headers.get("Range")},
            first=None,
            cost=None,
            leaked=leaked,
        )
        return reply

    return Route("/_bulk/{name}/bulk.jsonl", download, methods=["GET"])


def _reply(path: Path, fault: Fault | None, waits: Waits) -> Response:
    if fault is not None and fault.kind in CUTS:
        return CutFile(path, fault)
    if fault is not None and fault.kind in RAW:
        return RAW[fault.kind](Reply(content=path.read_bytes()), fault, waits)
    if fault is not None and fault.kind == "respelled":
        return Response(respelled(path.read_bytes(), fault), media_type=MEDIA_TYPE)
    if instead := fault_reply(fault):
        return Response(instead.content, instead.status, dict(instead.headers))
    return StoredFile(path, media_type=MEDIA_TYPE)
