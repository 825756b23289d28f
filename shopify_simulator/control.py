"""The control API under /_control: everything a test or the demo does to a simulator over HTTP.

A thin layer over `Simulator` and `Store`. It asks for no token; a wrong name, field or value is
answered 400 with the reason, an unknown store or customer 404.
"""

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shopify_simulator.clock import Clock, read_moment, stamp
from shopify_simulator.settings import snake_case
from shopify_simulator.simulator import Simulator
from shopify_simulator.stores import Store
from shopify_simulator.webhook_control import Handle, json_object, webhook_handles

CREDENTIALS = ("accessToken", "clientId", "clientSecret", "refreshToken")
FAULT_PARTS = ("kind", "times", "after", "operation")

Body = dict[str, Any]


def control_routes(simulator: Simulator) -> list[Route]:
    control = Control(simulator)
    customers = "/stores/{shop}/customers"
    return [
        _route("GET", "/healthz", control.healthz),
        _route("GET", "/clock", control.read_clock),
        _route("POST", "/clock", control.set_clock),
        _route("GET", "/stores", control.list_stores),
        _route("POST", "/stores", control.add_store, 201),
        _route("GET", "/stores/{shop}", control.read_store),
        _route("PATCH", "/stores/{shop}", control.change_store),
        _route("GET", customers, control.list_customers),
        _route("POST", customers, control.create_customer, 201),
        _route("GET", customers + "/{id}", control.read_customer),
        _route("PATCH", customers + "/{id}", control.edit_customer),
        _route("DELETE", customers + "/{id}", control.delete_customer),
        _route("POST", customers + "/{id}/merge", control.merge_customer),
        _route("POST", "/stores/{shop}/faults", control.add_fault, 201),
        _route("DELETE", "/stores/{shop}/faults", control.clear_faults),
        _route("GET", "/stores/{shop}/bulk-operations", control.list_bulk_operations),
        _route("GET", "/stores/{shop}/requests", control.list_requests),
        _route("DELETE", "/stores/{shop}/requests", control.clear_requests),
        *(
            _route(method, "/stores/{shop}" + path, handle, status)
            for method, path, handle, status in webhook_handles(simulator)
        ),
    ]


def _route(method: str, path: str, handle: Handle, status: int = 200) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            body, code = await handle(request), status
        except KeyError as unknown:
            body, code = {"error": f"unknown or missing: {unknown}"}, 404
        except (ValueError, TypeError) as wrong:
            body, code = {"error": str(wrong)}, 400
        return Response(orjson.dumps(body), code, media_type="application/json")

    return Route(path, endpoint, methods=[method])


class Control:
    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def healthz(self, request: Request) -> Body:
        return {"ok": True}

    # the clock

    async def read_clock(self, request: Request) -> Body:
        return {"now": stamp(self.clock.now())}

    async def set_clock(self, request: Request) -> Body:
        given = await json_object(request)
        if "advanceSeconds" in given:
            self.clock.advance(given["advanceSeconds"])
        else:
            self.clock.set(None if given["now"] is None else read_moment(given["now"]))
        return {"now": stamp(self.clock.now())}

    @property
    def clock(self) -> Clock:
        return self.simulator.clock

    # stores

    async def list_stores(self, request: Request) -> Any:
        return [_describe(store) for store in self.simulator.stores]

    async def add_store(self, request: Request) -> Body:
        """In a thread: many customers take a second or two."""
        given = await json_object(request)
        settings = given.pop("settings", {})
        more = {snake_case(name): value for name, value in (given | settings).items()}
        return _describe(await asyncio.to_thread(lambda: self.simulator.add_store(**more)))

    async def read_store(self, request: Request) -> Body:
        return _describe(self._store(request))

    async def change_store(self, request: Request) -> Body:
        """Credentials beside settings; an accessToken of null revokes all tokens."""
        store, given = self._store(request), await json_object(request)
        given |= given.pop("settings", {})
        secrets = {name: given.pop(name) for name in CREDENTIALS if name in given}
        store.change(**given)
        with store.lock:
            if "accessToken" in secrets:
                store.credentials.replace_access_token(secrets.pop("accessToken"))
            for name, value in secrets.items():
                setattr(store.credentials, snake_case(name), value)
        return _describe(store)

    # customers

    async def list_customers(self, request: Request) -> Any:
        return self._store(request).customers()

    async def read_customer(self, request: Request) -> Body:
        return self._store(request).customer(request.path_params["id"])

    async def create_customer(self, request: Request) -> Body:
        return self._store(request).create(**await json_object(request))

    async def edit_customer(self, request: Request) -> Body:
        given = await json_object(request)
        store, touch = self._store(request), given.get("touch", True)
        return store.edit(request.path_params["id"], touch, **given.get("set", {}))

    async def delete_customer(self, request: Request) -> Body:
        self._store(request).delete(request.path_params["id"])
        return {"deleted": request.path_params["id"]}

    async def merge_customer(self, request: Request) -> Body:
        given = await json_object(request)
        return self._store(request).merge(request.path_params["id"], into=given["into"])

    # bulk operations, faults and the log

    async def list_bulk_operations(self, request: Request) -> Any:
        bulk = self._store(request).bulk
        await asyncio.to_thread(bulk.settle)
        return bulk.all()

    async def add_fault(self, request: Request) -> Body:
        given = await json_object(request)
        parts = {name: given.pop(name) for name in FAULT_PARTS if name in given}
        options = given.pop("options", {})
        self._store(request).fault(**parts, **options, **given)
        return parts | {"options": options | given}

    async def clear_faults(self, request: Request) -> Body:
        self._store(request).clear_faults()
        return {}

    async def list_requests(self, request: Request) -> Any:
        return self._store(request).requests

    async def clear_requests(self, request: Request) -> Body:
        self._store(request).clear_requests()
        return {}

    def _store(self, request: Request) -> Store:
        return self.simulator.store(request.path_params["shop"])


def _describe(store: Store) -> Body:
    credentials = store.credentials
    return {
        "shop": store.shop,
        "shopId": store.shop_id,
        "shopGid": store.gid,
        "customers": store.size,
        **{name: getattr(credentials, snake_case(name)) for name in CREDENTIALS},
        "settings": store.settings.as_json(),
    }
