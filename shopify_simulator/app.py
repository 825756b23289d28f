"""The HTTP face of the simulator: Shopify's two endpoints for every store.

Routes, tokens, headers, the request log. What a document means is `graphql_api`'s, what happens to
the bytes `wire`'s, and the control API has its own module.
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from shopify_simulator.bulk_download import bulk_route
from shopify_simulator.clock import stamp
from shopify_simulator.control import control_routes
from shopify_simulator.credentials import GrantRefused
from shopify_simulator.faults import Fault, altered
from shopify_simulator.graphql_api import Call, answer, understand
from shopify_simulator.simulator import Simulator
from shopify_simulator.stores import Store
from shopify_simulator.wire import Reply, Waits, fault_reply, response, stamped

UNAUTHORIZED = {
    "errors": "[API] Invalid API key or access token (unrecognized login or wrong password)"
}
BAD_REQUEST = {"errors": {"query": "Required parameter missing or invalid"}}
NOT_FOUND = {"errors": "Not Found"}


def create_app(simulator: Simulator, waits: Waits) -> Starlette:
    api = ShopifyApi(simulator, waits)
    return Starlette(
        routes=[
            bulk_route(simulator, waits),
            Mount("/_control", routes=control_routes(simulator)),
            Route("/{shop}/admin/api/{version}/graphql.json", api.graphql, methods=["POST"]),
            Route("/{shop}/admin/oauth/access_token", api.access_token, methods=["POST"]),
        ]
    )


class ShopifyApi:
    def __init__(self, simulator: Simulator, waits: Waits) -> None:
        self.simulator = simulator
        self.waits = waits

    async def graphql(self, request: Request) -> Response:
        store = self._store(request)
        body = _json_object(await request.body())
        if store is None:
            return self._send(request, None, json_reply(NOT_FOUND, 404), None)
        await self.waits.pause(store.settings.latency_ms / 1000)
        call = body and _call(body)
        if not call:
            return self._send(request, store, json_reply(BAD_REQUEST, 400), None)
        if call.about_bulk:
            await asyncio.to_thread(store.bulk.settle)
        arguments = call.rows_arguments
        fault = store.next_fault(call.operation, arguments)
        reply, cost = self._answer(request, store, call, fault)
        _log(store, call.operation, reply, fault)(
            variables=dict(call.variables), first=arguments.get("first"), cost=cost
        )
        return self._send(request, store, reply, fault)

    async def access_token(self, request: Request) -> Response:
        store = self._store(request)
        form = _form(request, await request.body())
        if store is None:
            return self._send(request, None, json_reply(NOT_FOUND, 404), None)
        await self.waits.pause(store.settings.latency_ms / 1000)
        fault = store.next_fault("oauth", {})
        reply = fault_reply(fault) or self._grant(store, form, fault)
        variables = {"grant_type": form.get("grant_type")}
        _log(store, "oauth", reply, fault)(variables=variables, first=None, cost=None)
        return self._send(request, store, reply, fault)

    def _answer(
        self, request: Request, store: Store, call: Call, fault: Fault | None
    ) -> tuple[Reply, int | None]:
        if instead := fault_reply(fault):
            return instead, None
        token = request.headers.get("X-Shopify-Access-Token")
        if not store.credentials.accepts(token, self.simulator.clock.now()):
            return json_reply(UNAUTHORIZED, 401), None
        answered = answer(store, call, fault)
        return json_reply(altered(answered.body, fault)), answered.requested_cost

    def _grant(self, store: Store, form: Mapping[str, Any], fault: Fault | None) -> Reply:
        with store.lock:
            settings = store.settings
            try:
                granted = store.credentials.grant(
                    form, self.simulator.clock.now(), settings.token_lifetime_seconds
                )
            except GrantRefused as refusal:
                return json_reply(refusal.body, 400)
            whole = granted | {"scope": ",".join(settings.scopes)}
            return json_reply(altered(whole, fault))

    def _store(self, request: Request) -> Store | None:
        try:
            return self.simulator.store(request.path_params["shop"])
        except KeyError:
            return None

    def _send(
        self, request: Request, store: Store | None, reply: Reply, fault: Fault | None
    ) -> Response:
        asked = request.path_params.get("version", "")
        version = served_version(asked, store.settings.supported_versions if store else [asked])
        accepts_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        final = stamped(reply, self.simulator.clock, version, fault)
        return response(final, fault, self.waits, accepts_gzip)


def served_version(asked: str, supported: list[str]) -> str:
    """Shopify answers an unsupported version with the oldest supported one, without a word."""
    return asked if asked in (*supported, "unstable") else min(supported)


def json_reply(body: Any, status: int = 200) -> Reply:
    return Reply(status=status, content=orjson.dumps(body))


def _log(store: Store, operation: str | None, reply: Reply, fault: Fault | None) -> Any:
    def log(**more: Any) -> None:
        store.log(
            at=stamp(store.clock.now()),
            operation=operation,
            status=reply.status,
            fault=fault.kind if fault else None,
            **more,
        )

    return log


def _call(body: Mapping[str, Any]) -> Call | None:
    query, variables = body.get("query"), body.get("variables") or {}
    if not isinstance(query, str) or not isinstance(variables, dict):
        return None
    return understand(query, variables, body.get("operationName"))


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _form(request: Request, body: bytes) -> dict[str, Any]:
    """JSON or a form; neither leaves it empty."""
    if "json" in request.headers.get("Content-Type", ""):
        return _json_object(body) or {}
    return dict(parse_qsl(body.decode("utf-8", "replace")))
