"""`POST /api/webhooks/shopify`: verify, insert, commit, answer 200."""

from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shopsync_pipeline.errors import BadDelivery
from shopsync_pipeline.shopify.webhooks import delivery_of
from webhook_receiver.bodies import body_of
from webhook_receiver.lines import Lines
from webhook_receiver.verify import Inbox, Unreadable, Unverified

RETRY = {"Retry-After": "5"}


async def receive(request: Request) -> Response:
    """The checks, in the order in which a delivery may fail them; the method is the route's."""
    lines: Lines = request.app.state.lines
    inbox: Inbox = request.app.state.inbox
    body = await body_of(request)
    try:
        delivery = delivery_of(request.headers.raw, body)
        await lines.run(partial(inbox.take, delivery=delivery))
    except BadDelivery as error:
        raise HTTPException(400, str(error)) from None
    except Unverified:
        raise HTTPException(
            401, "The signature is not that of a connected store. Check its webhook secret."
        ) from None
    except Unreadable:
        raise HTTPException(
            503, "The store's secrets cannot be decrypted here. Send it again.", RETRY
        ) from None
    return JSONResponse({"status": "received"})
