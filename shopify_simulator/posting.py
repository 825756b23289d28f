"""One thread that posts webhooks: deadlines, redirects, and connections that a stop can cut."""

import contextlib
import socket
import threading
import time
import weakref
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from shopify_simulator.deliveries import Delivery
from shopify_simulator.sample import Row

CONNECT_SECONDS = 1.0
ALL_SECONDS = 5.0


class Line(Protocol):
    """An outbox, as the sender sees it; called under the sender's lock but for `finished`."""

    in_line: bool

    def next(self) -> Delivery | None: ...
    def due(self, delivery: Delivery) -> None: ...
    def finished(self, delivery: Delivery, attempt: dict[str, object]) -> None: ...


class Work(Protocol):
    """The sender, as its threads see it."""

    stopped: bool

    def take(self, courier: "Courier") -> tuple[Line, Delivery] | None: ...


class Courier(threading.Thread):
    def __init__(self, work: Work) -> None:
        super().__init__(name="shopify-webhooks", daemon=True)
        self.connections: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._work = work
        self._adapter = _Adapter()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", self._adapter)
        self._session.mount("https://", self._adapter)

    def run(self) -> None:
        with self._session:
            while task := self._work.take(self):
                line, delivery = task
                line.finished(delivery, self._post(delivery))

    def enter(self, connection: HTTPConnection) -> None:
        """Of a connection just made, which the stop may have missed."""
        self.connections.add(connection)
        if self._work.stopped:
            _cut(connection)

    def cut(self) -> None:
        """From another thread: whatever this one waits for ends."""
        for connection in list(self.connections):
            _cut(connection)

    def hang_up(self) -> None:
        self._adapter.poolmanager.clear()
        self.connections.clear()

    def _post(self, delivery: Delivery) -> Row:
        body, sent_at = delivery.body(), time.time()
        try:
            request = requests.Request(
                "POST", delivery.uri, data=body, headers=delivery.signed_headers(body)
            ).prepare()
            reply = self._session.send(
                request, timeout=(CONNECT_SECONDS, ALL_SECONDS), allow_redirects=False
            )
        except requests.RequestException as trouble:
            result: Row = {"error": type(trouble).__name__}
        else:
            result = {"status": reply.status_code}
        answered_at = time.time()
        if answered_at - sent_at > ALL_SECONDS:
            result = {"error": "Timeout"}  # an answer that dripped in
        return {"sentAt": sent_at, "answeredAt": answered_at} | result


def _cut(connection: HTTPConnection) -> None:
    if isinstance(connection.sock, socket.socket):
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


class _Entered(HTTPConnection):
    """Makes itself known to the thread that it is opened in."""

    def connect(self) -> None:
        super().connect()
        courier = threading.current_thread()
        if isinstance(courier, Courier):
            courier.enter(self)


class _EnteredSecure(_Entered, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Entered


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _EnteredSecure


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *given: Any, **more: Any) -> None:
        super().init_poolmanager(*given, **more)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
