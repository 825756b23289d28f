"""The stores' part of the page, and what a person does with a store."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shopsync_pipeline.db import customers, dashboard, integrations, requests
from shopsync_pipeline.db.dashboard import Asked, Store
from shopsync_pipeline.db.engine import Conn
from webhook_receiver.dashboard.doors import ask, form_of, wants_part
from webhook_receiver.dashboard.render import Pages
from webhook_receiver.dashboard.sessions import PATH
from webhook_receiver.sync_requests import REQUEST_ID

COUNTED_SECONDS = 60.0
DOING = {"sync": "Sync", "reconcile": "Reconcile", "realtime": "Real-time sync"}


class Counts:
    """How many customers each store has here: counted anew once it has synced, or after a minute,
    for a count reads the store's whole index."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[datetime | None, float, int]] = {}

    def of(self, conn: Conn, stores: list[Store]) -> dict[str, int]:
        return {store.id: self._one(conn, store) for store in stores}

    def _one(self, conn: Conn, store: Store) -> int:
        synced, counted_at, count = self._known.get(store.id, (None, -COUNTED_SECONDS, 0))
        if synced == store.last_sync_at and monotonic() - counted_at < COUNTED_SECONDS:
            return count
        count = customers.living(conn, store.id)
        self._known[store.id] = (store.last_sync_at, monotonic(), count)
        return count


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    stores: list[Store]
    here: Mapping[str, int]


async def look(request: Request) -> Shown:
    counts: Counts = request.app.state.counts

    def work(conn: Conn) -> Shown:
        found = dashboard.stores(conn)
        return Shown(stores=found, here=counts.of(conn, found))

    return await ask(request, work)


def text_of(request: Request, shown: Shown) -> str:
    pages: Pages = request.app.state.pages
    return pages.text(
        "stores.html",
        shown=shown,
        told=told,
        most=dashboard.STORES_SHOWN,
        csrf=request.state.csrf,
        runs=request.app.state.runs,
    )


async def part(request: Request) -> Response:
    """The stores alone, with what has just begun or ended said to a screen reader."""
    shown = await look(request)
    said = [f"{s.organization_id}, {s.shop}: {told(s.asked)}" for s in shown.stores if s.asked]
    pages: Pages = request.app.state.pages
    return pages.fragment(request, text_of(request, shown), " ".join(said))


def told(asked: Asked) -> str:
    """A request in words."""
    what = DOING[asked.kind]
    if asked.status == "queued":
        return f"{what} queued."
    if asked.status == "running":
        done = "" if asked.rows is None else f": {asked.rows:,} customers so far"
        return f"{what} running{done}."
    if asked.status == "failed":
        return f"{what} failed: {asked.error}"
    if asked.kind == "realtime":
        return f"Real-time sync turned {'off' if asked.mode == 'off' else 'on'}."
    counts = ", ".join(f"{asked.counts.get(n, 0):,} {n}" for n in ("inserted", "updated"))
    return f"{what} succeeded: {counts}, {asked.counts.get('unchanged', 0):,} unchanged."


# What a person does


async def act(request: Request) -> Response:
    """By htmx the stores' part is the answer; else the page, or the request's own."""
    await form_of(request)
    action = ACTIONS.get(request.path_params["action"])
    if action is None:
        raise HTTPException(404, "There is no such action. Go back to the customers page.")
    store_id = request.path_params["id"]
    request_id = await ask(request, lambda conn: action(conn, _store(conn, store_id)))
    if wants_part(request, "stores"):
        return await part(request)
    where = f"requests/{request_id}" if request_id else "customers"
    return RedirectResponse(f"{PATH}/{where}", 303)


async def confirm_disconnect(request: Request) -> Response:
    store = await ask(request, lambda conn: _store(conn, request.path_params["id"]))
    pages: Pages = request.app.state.pages
    return pages.whole(request, "disconnect.html", store=store)


async def show_request(request: Request) -> Response:
    """What became of a request, told until it has ended."""
    request_id = request.path_params["id"]
    asked = None
    if REQUEST_ID.fullmatch(request_id):
        asked = await ask(request, lambda conn: dashboard.asked(conn, request_id))
    if asked is None:
        raise HTTPException(404, "There is no such request. It may be older than 90 days.")
    pages: Pages = request.app.state.pages
    values = {"asked": asked, "told": told(asked), "runs": request.app.state.runs}
    text = pages.text("request.html", **values)
    if wants_part(request, "request"):
        return pages.fragment(request, text, told(asked))
    return pages.whole(request, "request_page.html", text=text, **values)


def _store(conn: Conn, store_id: str) -> Store:
    found = dashboard.store(conn, store_id)
    if found is None:
        raise HTTPException(404, "There is no such store. Go back to the customers page.")
    return found


def _file(kind: str, mode: str = "incremental") -> Callable[[Conn, Store], str | None]:
    def work(conn: Conn, store: Store) -> str:
        return requests.file(conn, kind=kind, organization_id=store.organization_id, mode=mode)

    return work


def _pause(conn: Conn, store: Store) -> None:
    integrations.pause(conn, organization_id=store.organization_id, shop=store.shop)


def _resume(conn: Conn, store: Store) -> None:
    integrations.resume(conn, organization_id=store.organization_id, shop=store.shop)


def _disconnect(conn: Conn, store: Store) -> None:
    with conn.transaction():
        integrations.disconnect(conn, organization_id=store.organization_id, shop=store.shop)


ACTIONS: dict[str, Callable[[Conn, Store], str | None]] = {
    "sync": _file("sync"),
    "realtime-on": _file("realtime"),
    "realtime-off": _file("realtime", "off"),
    "pause": _pause,
    "resume": _resume,
    "disconnect": _disconnect,
}
