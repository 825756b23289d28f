"""`POST /api/webhooks/shopify`: verify, insert, commit, answer 200."""

from functools import partial
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from shopsync_pipeline.errors import BadDelivery, DatabaseTrouble
from shopsync_pipeline.shopify.webhooks import delivery_of
from webhook_receiver.bodies import body_of
from webhook_receiver.lines import Lines
from webhook_receiver.metrics import Metrics
from webhook_receiver.refusals import Refusals
from webhook_receiver.verify import Inbox, Unreadable, Unverified

RETRY = {"Retry-After": "5"}
OUTCOMES = {401: "refused", 503: "unavailable"}


async def receive(request: Request) -> Response:
    """Counted by what became of it; an answer that is none of these is a fault, and one too."""
    metrics: Metrics = request.app.state.metrics
    begun, outcome = monotonic(), "failed"
    try:
        outcome = "received" if await _take(request) else "duplicate"
    except HTTPException as refused:
        outcome = OUTCOMES.get(refused.status_code, "malformed")
        raise
    except DatabaseTrouble:
        outcome = "unavailable"
        raise
    except ClientDisconnect:
        outcome = "gone"
        raise
    finally:
        metrics.answered(outcome, monotonic() - begun)
    return JSONResponse({"status": "received"})


async def _take(request: Request) -> bool:
    """The checks, in the order in which a delivery may fail them; the method is the route's.
    Whether what is stored now was new."""
    lines: Lines = request.app.state.lines
    refusals: Refusals = request.app.state.refusals
    inbox: Inbox = request.app.state.inbox
    body = await body_of(request)
    try:
        delivery = delivery_of(request.headers.raw, body)
        return await lines.run(partial(inbox.take, delivery=delivery))
    except BadDelivery as error:
        raise HTTPException(400, str(error)) from None
    except Unverified as refused:
        refusals.note(refused.tried)
        raise HTTPException(
            401, "The signature is not that of a connected store. Check its webhook secret."
        ) from None
    except Unreadable:
        raise HTTPException(
            503, "The store's secrets cannot be decrypted here. Send it again.", RETRY
        ) from None
