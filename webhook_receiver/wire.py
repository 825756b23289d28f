"""HTTP/1.1 on the socket: what the app cannot limit, since it is asked only when a head is whole.

uvicorn's own protocol waits for ever for a client that sends its head byte by byte, or that goes on
with a body nobody reads any more. Here every connection that owes us bytes has a timer.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 5.0
"""For a whole head from the connection or the request's first byte, and for what is left of a body
after its answer."""

HEAD_BYTES = 16 * 1024
"""More is refused where it does not come with the same 16 KiB."""


class BoundedProtocol(H11Protocol):
    """A connection above `most_connections` is answered 503, so that those which are served have
    the descriptors they need."""

    _timer: asyncio.TimerHandle | None = None
    _half_closed = False

    def __init__(self, *, most_connections: int, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._most_connections = most_connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections. Send it again.")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """In portions: h11 asks for the size of a head only where it did not come as a whole."""
        for start in range(0, len(data), HEAD_BYTES):
            if not self.transport.is_closing():
                super().data_received(data[start : start + HEAD_BYTES])
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether it stays open: a client may close its own side and wait for its answer."""
        self._half_closed = True
        return self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._half_closed:
            self.transport.close()
        self._watch()

    def shutdown(self) -> None:
        """A connection that was refused and waits for its close cannot be told of the end."""
        if self.conn.our_state is h11.ERROR or self.transport.is_closing():
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, f"{msg} Send HTTP/1.1 with a head below 16 KiB.")

    def _watch(self) -> None:
        """The timer runs while the client owes us bytes; each of them does not start it anew."""
        if self.transport.is_closing() or not self._client_owes():
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def _client_owes(self) -> bool:
        if self.conn.their_state is h11.IDLE:
            return self.cycle is None or bool(self.conn.trailing_data[0])
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive within 5 s.")

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        """Answer without the app, where no answer was begun, and close."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = [self.conn.send(event) or b"" for event in _refusal(status, sentence)]
            self.transport.write(b"".join(answer))
        self.transport.close()


def _refusal(status: HTTPStatus, sentence: str) -> tuple[h11.Event, ...]:
    body = orjson.dumps({"error": sentence})
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", "5"))
    response = h11.Response(status_code=status, headers=headers, reason=status.phrase)
    return response, h11.Data(data=body), h11.EndOfMessage()
