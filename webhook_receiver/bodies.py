"""The body of a request: bounded in bytes and in time, whatever its headers promise."""

import asyncio
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request

BODY_BYTES = 1024 * 1024
BODY_SECONDS = 5.0
DISCARDED_BYTES = 8 * 1024 * 1024
"""Of a body that is too large so much is read and forgotten: most clients read no answer before
they have sent everything, and see a reset where the connection is closed under them."""

CLOSE = {"Connection": "close"}


async def body_of(request: Request) -> bytes:
    """The raw bytes. Raises HTTPException 413 or 408, after which the connection is closed."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read(request)
    except TimeoutError:
        raise HTTPException(
            408, "The body did not arrive within 5 s. Send it again.", CLOSE
        ) from None


async def json_object_of(request: Request) -> dict[str, Any]:
    """Raises HTTPException 400 for anything but one JSON object."""
    try:
        parsed = orjson.loads(await body_of(request))
    except orjson.JSONDecodeError:
        raise HTTPException(400, "The body is not JSON. Send one JSON object.") from None
    if not isinstance(parsed, dict):
        raise HTTPException(400, "The body is no JSON object. Send one.")
    return parsed


async def _read(request: Request) -> bytes:
    promised = int(request.headers.get("content-length", "0"))  # h11 refuses what is no number
    if promised > BODY_BYTES and "100-continue" in request.headers.get("expect", "").lower():
        raise _too_large()
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > DISCARDED_BYTES:
            break
        if size <= BODY_BYTES:
            body += chunk
    if size > BODY_BYTES:
        raise _too_large()
    return bytes(body)


def _too_large() -> HTTPException:
    return HTTPException(413, "The body is larger than 1 MiB. Send less.", CLOSE)
