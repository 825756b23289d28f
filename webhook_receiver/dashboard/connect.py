"""The form that connects a store: what it files is what the sync endpoint files."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from webhook_receiver.dashboard.doors import ask, form_of
from webhook_receiver.dashboard.render import Pages
from webhook_receiver.dashboard.sessions import PATH
from webhook_receiver.sync_orders import WrongOrder, order_of
from webhook_receiver.sync_requests import file_order

KEPT = ("organizationId", "shop", "name")
"""Shown again in a form that was refused; a secret is typed again."""


async def show_form(request: Request) -> Response:
    return _page(request, request.query_params, {})


async def connect(request: Request) -> Response:
    form = {name: text.strip() for name, text in (await form_of(request)).items()}
    form = {name: text for name, text in form.items() if text}
    try:
        order = order_of(form)
        if order.shop is None:
            raise WrongOrder("shop", "shop is missing.")
        if order.credentials is None:
            raise WrongOrder("accessToken", "Give an access token, or a client id and its secret.")
    except WrongOrder as wrong:
        return _page(request, form, {wrong.field: str(wrong.detail)}, 422)
    cipher = request.app.state.cipher
    request_id = await ask(request, lambda conn: file_order(conn, cipher, order))
    return RedirectResponse(f"{PATH}/requests/{request_id}", 303)


def _page(
    request: Request, given: Mapping[str, str], errors: Mapping[str, str], status: int = 200
) -> Response:
    pages: Pages = request.app.state.pages
    kept = {name: given.get(name, "") for name in KEPT}
    return pages.whole(request, "connect.html", status, kept=kept, errors=errors)
