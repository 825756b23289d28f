"""Manual and scheduled syncs: a request is filed here, a sensor has it run."""

import re
from datetime import datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shopsync_pipeline.db import integrations, requests
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, clock
from shopsync_pipeline.db.requests import NewCredentials
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.settings import Settings
from webhook_receiver.bodies import json_object_of
from webhook_receiver.guards import require_bearer
from webhook_receiver.lines import Lines
from webhook_receiver.sync_orders import SyncOrder, order_of

SYNC_PATH = "/api/integrations/shopify/sync"
REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def file_sync(request: Request) -> Response:
    settings, lines = _parts(request)
    require_bearer(request, settings.api_token, "SHOPSYNC_API_TOKEN")
    order = order_of(await json_object_of(request))
    cipher: Cipher = request.app.state.cipher
    request_id = await lines.run(lambda conn: file_order(conn, cipher, order))
    status_url = f"{SYNC_PATH}/{request_id}"
    answer = {"requestId": request_id, "status": "queued", "statusUrl": status_url}
    return JSONResponse(answer, 202, {"Location": status_url})


async def show_sync(request: Request) -> Response:
    settings, lines = _parts(request)
    require_bearer(request, settings.api_token, "SHOPSYNC_API_TOKEN")
    request_id = request.path_params["requestId"]
    found = None
    if REQUEST_ID.fullmatch(request_id):
        found = await lines.run(lambda conn: requests.get(conn, request_id))
    if found is None:
        raise HTTPException(404, "There is no such request. Use the statusUrl that a sync gave.")
    return JSONResponse(_shown(found))


async def file_cron(request: Request) -> Response:
    settings, lines = _parts(request)
    require_bearer(request, settings.cron_secret, "CRON_SECRET")
    return JSONResponse(await lines.run(_file_cron), 202)


def _parts(request: Request) -> tuple[Settings, Lines]:
    return request.app.state.settings, request.app.state.lines


def file_order(conn: Conn, cipher: Cipher, order: SyncOrder) -> str:
    """The request's id. Raises HTTPException 404 where there is nothing to sync and nothing to
    connect it with."""
    bring = None
    if order.credentials is not None:
        assert order.shop is not None
        sealed = cipher.seal(order.credentials)
        bring = NewCredentials(shop=order.shop, name=order.name, sealed=sealed)
    elif not integrations.is_connected(conn, order.organization_id, order.shop):
        whom = f"{order.organization_id}{f', {order.shop}' if order.shop else ''}"
        raise HTTPException(
            404,
            f"{whom}: no store is connected. Send accessToken, or clientId and clientSecret, "
            "with shop.",
        )
    return requests.file(
        conn, kind="sync", organization_id=order.organization_id, mode=order.mode, bring=bring
    )


def _file_cron(conn: Conn) -> dict[str, Any]:
    due, skipped = integrations.due_organizations(conn, clock(conn))
    request_id = requests.file(conn, kind="cron", organization_id=None)
    return {"requestId": request_id, "organizations": len(due), "skipped": skipped}


def _shown(found: SyncRequest) -> dict[str, Any]:
    return {
        "requestId": found.id,
        "status": found.status,
        "kind": found.kind,
        "organizationId": found.organization_id,
        "mode": found.mode,
        "counts": dict(found.counts),
        "error": found.error,
        "runId": found.run_id,
        "requestedAt": _iso(found.requested_at),
        "finishedAt": _iso(found.finished_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
