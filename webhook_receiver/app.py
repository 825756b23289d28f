"""The receiver's routes, and how each error is answered. It verifies and stores, and has the pages
for people (`dashboard`), nothing else.

Never does it call Shopify, and it knows neither Dagster nor pandas: it must answer while they are
down, and start in no time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shopsync_pipeline.db import schema
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import libpq_url
from shopsync_pipeline.errors import DatabaseTrouble, SchemaMismatch
from shopsync_pipeline.settings import Settings
from webhook_receiver import metrics, sync_requests, webhooks
from webhook_receiver.dashboard.app import create_dashboard
from webhook_receiver.lines import Lines
from webhook_receiver.metrics import Metrics
from webhook_receiver.openapi import DESCRIPTION
from webhook_receiver.refusals import Refusals
from webhook_receiver.seldom import Seldom
from webhook_receiver.verify import Inbox

log = logging.getLogger(__name__)

SENTENCES = {
    404: "There is no such route. See /openapi.json.",
    405: "This route has another method, named by the header Allow.",
}


def create_app(settings: Settings) -> Starlette:
    """Makes no connection. Raises ConfigurationError for a setting that is missing."""
    lines = Lines(libpq_url(database_url(settings)))
    refusals = Refusals(lines)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        writing = asyncio.create_task(refusals.keep_writing())
        yield
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        await refusals.write()
        lines.close()

    app = Starlette(
        routes=_routes(),
        lifespan=lifespan,
        exception_handlers={
            HTTPException: _refused,
            DatabaseTrouble: _unavailable,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )
    app.router.redirect_slashes = False  # Shopify counts a redirect as a failed delivery
    app.state.settings = settings
    app.state.lines = lines
    app.state.inbox = Inbox(settings)
    app.state.refusals = refusals
    app.state.metrics = Metrics(settings, lines)
    app.state.trouble = Seldom(log.error)
    app.state.cipher = Cipher(settings.required_encryption_keys())
    app.routes.append(create_dashboard(settings, app.state))
    return app


def database_url(settings: Settings) -> str:
    """The receiver's own narrower role where there is one."""
    return settings.receiver_database_url or settings.required_database_url()


def _routes() -> list[Route]:
    sync = sync_requests.SYNC_PATH
    return [
        Route("/api/webhooks/shopify", webhooks.receive, methods=["POST"]),
        Route(sync, sync_requests.file_sync, methods=["POST"]),
        Route(sync + "/{requestId}", sync_requests.show_sync, methods=["GET"]),
        Route("/api/cron/shopify-sync", sync_requests.file_cron, methods=["GET"]),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", metrics.show, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]


async def healthz(_: Request) -> Response:
    return JSONResponse({"status": "alive"})


async def readyz(request: Request) -> Response:
    """Says nothing of a backlog: that must not take receivers out of the balancer."""
    lines: Lines = request.app.state.lines
    try:
        await lines.run(schema.check)
    except SchemaMismatch as error:
        raise HTTPException(503, str(error)) from None
    return JSONResponse({"status": "ready"})


async def openapi(_: Request) -> Response:
    return JSONResponse(DESCRIPTION)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = error.detail
    if sentence == HTTPStatus(error.status_code).phrase:  # Starlette's own
        sentence = SENTENCES.get(error.status_code, sentence)
    return JSONResponse({"error": sentence}, error.status_code, error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    request.app.state.trouble.tell(f"{request.method} {request.url.path}: {error}")
    sentence = "The database cannot store this now. Send it again."
    return JSONResponse({"error": sentence}, 503, webhooks.RETRY)


async def _gone(_: Request, error: Exception) -> Response:
    """The client hung up before its body was whole: nobody reads this."""
    return Response(status_code=400)


async def _broken(_: Request, error: Exception) -> Response:
    sentence = "The receiver failed, and its log says where. Send it again."
    return JSONResponse({"error": sentence}, 500)
