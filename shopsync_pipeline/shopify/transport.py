"""HTTP sessions whose answers have a deadline as a whole, not only a pause between two bytes.

`requests` times out when nothing arrives for a while; a server that sends one byte a second
would hold a worker for hours. Here all reads of the socket, for headers and body alike, share a
time that grows only with what they bring; what the caller does in between does not count. TLS is
always verified; redirects are never followed, since `requests` would carry the token's header to
the new host.

Reading the file of trusted authorities takes 20 ms of CPU, so all stores share it, read once.
"""

import http.client
import io
import os
import socket
import ssl
import time
from functools import cache
from pathlib import Path
from typing import Any

import requests
import urllib3
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from shopsync_pipeline.errors import Unreachable
from shopsync_pipeline.shopify.answers import RawAnswer

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
TOTAL_DEADLINE = 30.0
SLOWEST = 1 << 14
"""Bytes a second, for which the deadline of a large answer grows."""


NO_ANSWER = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
"""What a request may raise; ValueError for a Location that is none, which `requests` reads also
where it does not follow."""


class _DeadlineFile(io.RawIOBase):
    """A socket's bytes, or TimeoutError when they took too long."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # counts as a user of the socket
        self._left = TOTAL_DEADLINE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left <= 0:
            raise TimeoutError(f"no whole answer within {TOTAL_DEADLINE:.0f} s")
        self._sock.settimeout(min(self._left, READ_TIMEOUT))
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._left += (count or 0) / SLOWEST - (time.monotonic() - began)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineSocket:
    """What http.client needs of a socket to read one response."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineFile(self._sock), buffer_size=65536)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_DeadlineSocket(sock), *args, **kwargs)  # type: ignore[arg-type]


class _HTTPConnection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _HTTPSConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


@cache
def _trusting(bundle: str) -> ssl.SSLContext:
    """The TLS settings that accept whom the authorities in this file or folder vouch for."""
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    folder = Path(bundle).is_dir()
    context.load_verify_locations(None if folder else bundle, bundle if folder else None)
    return context


class _DeadlineAdapter(HTTPAdapter):
    """Gives urllib3 its TLS settings whole, where `requests` has it read the bundle again for each
    connection."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] != "https":
            return host, {}
        bundle = DEFAULT_CA_BUNDLE_PATH if verify is True else verify
        return host, {"cert_reqs": "CERT_REQUIRED", "ssl_context": _trusting(bundle)}

    def cert_verify(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing: the settings above say it all, and this would name the bundle again."""


def new_session(url: str) -> requests.Session:
    """One per store: cookies and connections of two stores never meet.

    The environment's proxy and CA bundle are looked up once, not with every request, and never
    its netrc.
    """
    session = requests.Session()
    session.trust_env = False
    if url.startswith("https://"):
        session.proxies.update(requests.utils.get_environ_proxies(url))
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
    session.mount("https://", _DeadlineAdapter())
    session.mount("http://", _DeadlineAdapter())
    return session


def post(
    session: requests.Session, shop: str, url: str, body: bytes, headers: dict[str, str]
) -> RawAnswer:
    """Send once. Raises Unreachable unless a whole answer, of any status, arrived."""
    try:
        response = session.post(
            url,
            data=body,
            headers={"Content-Type": "application/json", "Accept": "application/json", **headers},
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
        )
    except NO_ANSWER as error:
        # Only the kind is told: the text of some of these errors quotes headers.
        raise Unreachable(shop, f"no whole answer ({type(error).__name__})") from None
    names = {name.lower(): value for name, value in response.headers.items()}
    return RawAnswer(status=response.status_code, headers=names, body=response.content)
