"""What each page asks before it answers: who looks, whether a form is ours, and Postgres."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import parse_qsl, quote

import psycopg
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from shopsync_pipeline.db.engine import Conn
from webhook_receiver.bodies import body_of
from webhook_receiver.dashboard.sessions import PATH, Session, Sessions
from webhook_receiver.lines import Lines

log = logging.getLogger(__name__)

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]
FORM_FIELDS = 50


class NarrowRole(Exception):
    """The receiver's role has the rights of an older release; deliveries it takes in all the same.
    Its text is for a person."""

    def __init__(self) -> None:
        super().__init__(
            "The database does not let this receiver show customers or change stores. Give its "
            "role the rights of this release: shopsync db roles. Webhooks are taken in meanwhile."
        )


def sessions_of(request: Request) -> Sessions:
    """Raises HTTPException 503 where there is no token to log in with."""
    sessions: Sessions | None = request.app.state.sessions
    if sessions is None:
        raise HTTPException(
            503,
            "SHOPSYNC_API_TOKEN is not set, so nobody can log in. Set it and restart the receiver.",
        )
    return sessions


def know(request: Request, session: Session) -> None:
    """For the templates: their forms bring the token of this session."""
    request.state.session = session
    request.state.csrf = sessions_of(request).csrf(session)
    request.state.entered = session.entered


def behind_login(endpoint: Endpoint) -> Endpoint:
    """Whoever is not logged in is led to the login, and comes back from there."""

    async def guarded(request: Request) -> Response:
        session = sessions_of(request).of(request)
        if session is None or not session.entered:
            return _to_login(request)
        know(request, session)
        return await endpoint(request)

    return guarded


def _to_login(request: Request) -> Response:
    if "hx-request" in request.headers:  # a part of a page: the whole page must go
        return Response(status_code=401, headers={"HX-Redirect": f"{PATH}/login"})
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    back = here if request.method == "GET" else f"{PATH}/customers"
    return RedirectResponse(f"{PATH}/login?next={quote(back)}", 303)


async def form_of(request: Request) -> dict[str, str]:
    """Of a form of ours, without the empty fields. Raises HTTPException 403 for another's."""
    body = await body_of(request)
    try:
        pairs = parse_qsl(body.decode(), max_num_fields=FORM_FIELDS, errors="strict")
    except ValueError:
        raise HTTPException(400, "This is no form of this page. Load the page again.") from None
    given = dict(pairs)
    csrf = given.pop("csrf", request.headers.get("x-csrf-token", ""))
    if not sessions_of(request).is_ours(request, request.state.session, csrf):
        raise HTTPException(
            403,
            "This form was not sent by this page, or you logged in anew meanwhile. Load the "
            "page again, and send it again.",
        )
    return given


async def ask(request: Request, work: Callable[[Conn], T]) -> T:
    """What Postgres says. Raises DatabaseTrouble, or NarrowRole where the role may not."""

    def errand(conn: Conn) -> T:
        try:
            return work(conn)
        except psycopg.errors.InsufficientPrivilege:
            raise NarrowRole from None

    lines: Lines = request.app.state.lines
    return await lines.run(errand)


def wants_part(request: Request, name: str) -> bool:
    """Whether htmx asks for this part alone; a page restored from history it asks for whole."""
    return request.headers.get("hx-target") == name
