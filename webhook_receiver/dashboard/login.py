"""Login by the deployment's token, and logout."""

import logging

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from webhook_receiver.dashboard.doors import form_of, know, sessions_of
from webhook_receiver.dashboard.render import Pages
from webhook_receiver.dashboard.sessions import PATH, safe_next

log = logging.getLogger(__name__)


async def show_login(request: Request) -> Response:
    sessions = sessions_of(request)
    session = sessions.of(request)
    back = safe_next(request.query_params.get("next", ""))
    if session is not None and session.entered:
        return RedirectResponse(back, 303)
    session = session or sessions.begin(entered=False)
    know(request, session)
    response = _page(request, back)
    sessions.give(request, response, session)
    return response


async def log_in(request: Request) -> Response:
    """Nothing is compared once too many have failed, so that a guesser learns nothing more."""
    sessions = sessions_of(request)
    know(request, sessions.of(request) or sessions.begin(entered=False))
    form = await form_of(request)
    back = safe_next(form.get("next", ""))
    if not sessions.may_try():
        return _page(request, back, 429, "Too many logins failed. Wait a minute, and try again.")
    if not sessions.fits(form.get("token", "")):
        sessions.note_failure()
        request.app.state.failed_logins.tell("A login to the customers page failed.")
        return _page(
            request,
            back,
            401,
            "This is not the value of SHOPSYNC_API_TOKEN. Look it up, and try again.",
        )
    response = RedirectResponse(back, 303)
    sessions.give(request, response, sessions.begin(entered=True))
    return response


async def log_out(request: Request) -> Response:
    await form_of(request)
    sessions = sessions_of(request)
    response = RedirectResponse(f"{PATH}/login", 303)
    sessions.give(request, response, sessions.begin(entered=False))
    return response


def _page(request: Request, back: str, status: int = 200, error: str = "") -> Response:
    pages: Pages = request.app.state.pages
    return pages.whole(request, "login.html", status, back=back, error=error)
