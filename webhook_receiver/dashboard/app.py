"""The pages under /dashboard, as an app of their own: routes, headers, and errors for people.

They know what the receiver knows, Postgres and no more: neither Shopify nor Dagster is asked.
"""

import logging

from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shopsync_pipeline.errors import DatabaseTrouble
from shopsync_pipeline.settings import Settings
from webhook_receiver.dashboard import connect, customers, login, stores
from webhook_receiver.dashboard.cursors import Cursors
from webhook_receiver.dashboard.doors import NarrowRole, behind_login
from webhook_receiver.dashboard.render import Pages
from webhook_receiver.dashboard.sessions import PATH, Sessions, fernet_key
from webhook_receiver.seldom import Seldom

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-frame-options": b"DENY",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}


class Guarded:
    """Sets the headers of every answer, a failed one's too. Pages show people: none is kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_file = str(scope.get("path", "")).startswith(f"{PATH}/static/")
        cache = b"no-cache" if is_file else b"no-store"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [*HEADERS.items(), (b"cache-control", cache)]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, sending)


def create_dashboard(settings: Settings, state: State) -> Mount:
    """`state` is the receiver's, to which the pages add their own."""
    app = Starlette(
        routes=_routes(),
        exception_handlers={
            HTTPException: _refused,
            DatabaseTrouble: _unavailable,
            NarrowRole: _narrow,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )
    app.router.redirect_slashes = False
    token = settings.api_token
    state.pages = Pages()
    state.counts = stores.Counts()
    state.failed_logins = Seldom(log.warning)
    state.sessions = None if token is None else Sessions(settings, token)
    state.cursors = None if token is None else Cursors(fernet_key(token))
    state.runs = f"{settings.ui_url}/runs"
    app.state = state
    return Mount(PATH, Guarded(app))


def _routes() -> list[Route | Mount]:
    return [
        Route("/login", login.show_login, methods=["GET"]),
        Route("/login", login.log_in, methods=["POST"]),
        Route("/logout", behind_login(login.log_out), methods=["POST"]),
        Route("/customers", behind_login(customers.show), methods=["GET"]),
        Route("/customers/{id}", behind_login(customers.show_one), methods=["GET"]),
        Route("/connect", behind_login(connect.show_form), methods=["GET"]),
        Route("/connect", behind_login(connect.connect), methods=["POST"]),
        Route("/requests/{id}", behind_login(stores.show_request), methods=["GET"]),
        Route("/stores/{id}/disconnect", behind_login(stores.confirm_disconnect), methods=["GET"]),
        Route("/stores/{id}/{action}", behind_login(stores.act), methods=["POST"]),
        Mount("/static", StaticFiles(packages=[("webhook_receiver", "static")])),
    ]


SENTENCES = {
    404: "There is no such page.",
    405: "This page cannot be asked for that way.",
}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    own = "Not Found", "Method Not Allowed"  # Starlette's
    sentence = SENTENCES[error.status_code] if error.detail in own else error.detail
    return _told(request, error.status_code, sentence)


async def _unavailable(request: Request, error: Exception) -> Response:
    request.app.state.trouble.tell(f"{request.method} {request.url.path}: {error}")
    return _told(
        request,
        503,
        "The database does not answer in time, or a merge holds the store. Nothing "
        "was changed. Try again in a moment.",
    )


async def _narrow(request: Request, error: Exception) -> Response:
    return _told(request, 503, str(error))


async def _gone(_: Request, error: Exception) -> Response:
    """The browser hung up before its form was whole: nobody reads this."""
    return Response(status_code=400)


async def _broken(request: Request, error: Exception) -> Response:
    return _told(request, 500, "This page failed, and the receiver's log says where.")


def _told(request: Request, status: int, sentence: str) -> Response:
    """By htmx into the page that is open; else as a page."""
    pages: Pages = request.app.state.pages
    if "hx-request" in request.headers:
        return Response(pages.text("alert.html", sentence=sentence), status, media_type="text/html")
    values = {"csrf": getattr(request.state, "csrf", ""), "sentence": sentence, "status": status}
    entered = getattr(request.state, "entered", False)
    page = pages.text("error.html", entered=entered, **values)
    return Response(page, status, media_type="text/html")
