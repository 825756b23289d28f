"""The customers page: stores above, the list of customers below; and the page of one customer."""

import re
from urllib.parse import urlencode

import psycopg
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shopsync_pipeline.db import customer_list, dashboard
from shopsync_pipeline.db.customer_list import CustomersPage, Place, Wanted
from shopsync_pipeline.db.engine import Conn
from webhook_receiver.dashboard import stores
from webhook_receiver.dashboard.cursors import Cursors
from webhook_receiver.dashboard.doors import ask, wants_part
from webhook_receiver.dashboard.render import Pages, version_of
from webhook_receiver.dashboard.sessions import PATH

COLUMNS = (
    ("name", "Name"),
    ("email", "Email"),
    ("spent", "Total spent"),
    ("orders", "Orders"),
    ("updated", "Updated"),
)
DESCENDING_FIRST = {"spent", "orders", "updated"}
SPACE = re.compile(r"\s+")


async def show(request: Request) -> Response:
    """By htmx one of its two parts, else the whole."""
    pages: Pages = request.app.state.pages
    if wants_part(request, "stores"):
        return await stores.part(request)
    wanted = wanted_of(request)
    listed = await _listed(request, wanted)
    if wants_part(request, "customers"):
        return pages.fragment(request, listed)
    of_stores = stores.text_of(request, await stores.look(request))
    names = await ask(request, dashboard.store_names)
    return pages.whole(
        request,
        "customers.html",
        wanted=wanted,
        names=names,
        listed=_part(listed),
        stores=_part(of_stores),
    )


def _part(text: str) -> tuple[Markup, str]:
    """Rendered and escaped by us, with its version."""
    return Markup(text), version_of(text)  # noqa: S704


def wanted_of(request: Request) -> Wanted:
    """What cannot be meant counts as not given: an address may be old, or typed."""
    given = request.query_params
    order = given.get("sort", "")
    order = order if order in customer_list.ORDERS else "updated"
    query = SPACE.sub(" ", given.get("q", "").replace("\0", "")).strip()
    return Wanted(
        order=order,
        descending=given.get("dir", "desc" if order in DESCENDING_FIRST else "asc") == "desc",
        integration_id=given.get("store", "").replace("\0", "") or None,
        with_deleted=given.get("deleted") == "1",
        query=query[: customer_list.LONGEST_QUERY] or None,
    )


async def _listed(request: Request, wanted: Wanted) -> str:
    cursors: Cursors = request.app.state.cursors
    pages: Pages = request.app.state.pages
    given = request.query_params.get("cursor", "")
    place = cursors.read(given, wanted.order)
    found = await ask(request, lambda conn: _page(conn, wanted, place))
    return pages.text(
        "list.html",
        found=found,
        wanted=wanted,
        cursor=given if place else "",
        columns=COLUMNS,
        candidates=customer_list.CANDIDATES,
        address=lambda **changed: _address(wanted, **changed),
        before=cursors.write(found.before, wanted.order),
        after=cursors.write(found.after, wanted.order),
    )


def _page(conn: Conn, wanted: Wanted, place: Place | None) -> CustomersPage:
    """From the beginning where a place is no more one of this order."""
    try:
        return customer_list.page(conn, wanted, place)
    except psycopg.DataError:
        return customer_list.page(conn, wanted, None)


def _address(wanted: Wanted, **changed: str | None) -> str:
    """Of the list with these parameters changed; a cursor is not kept."""
    parameters = {
        "q": wanted.query,
        "store": wanted.integration_id,
        "sort": wanted.order,
        "dir": "desc" if wanted.descending else "asc",
        "deleted": "1" if wanted.with_deleted else None,
        **changed,
    }
    return f"{PATH}/customers?" + urlencode({k: v for k, v in parameters.items() if v})


async def show_one(request: Request) -> Response:
    customer_id = request.path_params["id"].replace("\0", "")
    found = await ask(request, lambda conn: dashboard.customer(conn, customer_id))
    if found is None:
        raise HTTPException(404, "There is no such customer here. A redaction may have removed it.")
    pages: Pages = request.app.state.pages
    text = pages.text("customer.html", customer=found, runs=request.app.state.runs)
    if wants_part(request, "customer"):
        return pages.fragment(request, text, "The customer has changed.")
    return pages.whole(request, "customer_page.html", customer=found, part=_part(text))
