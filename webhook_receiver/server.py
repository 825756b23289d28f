"""Runs the receiver's app: as a process, or in a thread of a test.

In a test::

    with running_receiver(settings) as url:
        requests.post(f"{url}/api/webhooks/shopify", ...)
"""

import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import uvicorn

from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.settings import Settings
from webhook_receiver.app import create_app
from webhook_receiver.wire import HEAD_BYTES, BoundedProtocol

START_SECONDS = 10
IDLE_SECONDS = 75
"""For a connection between two requests: longer than proxies keep theirs to us (60 s in nginx and
AWS), for one that sends a POST while we close cannot know whether to send it again."""

FINISH_SECONDS = 8
BACKLOG = 2048
DESCRIPTORS = 10_240
"""At most; macOS allows a process no more."""

FEWEST_DESCRIPTORS = 256
RESERVED = 64
"""Descriptors for Postgres, the logs, and what libraries open for a moment."""


class ReceiverServer(uvicorn.Server):
    def __init__(self, settings: Settings, on_start: Callable[[], None]) -> None:
        descriptors = _allowed_descriptors()
        # asyncio takes in so many connections before any of them is looked at. Were it to run out
        # of descriptors meanwhile, it would go on and log a line for each.
        backlog = min(BACKLOG, descriptors // 4)
        most = descriptors - backlog - RESERVED
        config = uvicorn.Config(
            create_app(settings),
            http=partial(BoundedProtocol, most_connections=most),  # type: ignore[arg-type]
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=backlog,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=FINISH_SECONDS,
        )
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    def stop(self) -> None:
        """From any thread, or a signal handler: finish what was begun, and end."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: object) -> None:
        self.stop()


@contextmanager
def running_receiver(settings: Settings) -> Iterator[str]:
    """Its URL, on a free loopback port, until the block ends."""
    started = threading.Event()
    with _listening("127.0.0.1", 0) as listener:
        server = ReceiverServer(settings, started.set)
        thread = threading.Thread(target=server.run, args=([listener],), name="receiver")
        thread.start()
        try:
            if not started.wait(START_SECONDS):
                raise RuntimeError("the receiver did not start")
            yield _url(listener)
        finally:
            server.stop()
            thread.join()


def serve(settings: Settings) -> None:
    """In this thread, until a signal comes. Raises ConfigurationError where it cannot listen."""
    _allow_many_connections()
    with _listening(settings.receiver_host, settings.receiver_port) as listener:
        url = _url(listener)
        server = ReceiverServer(settings, partial(_tell, f"receiver listening on {url}"))
        server.run([listener])


def _tell(line: str) -> None:
    """On stdout; a full disk behind it is no reason not to serve."""
    with suppress(OSError):
        print(line, flush=True)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's delay of 40 ms on.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"The receiver cannot listen on {host}, port {port}: {error.strerror}. Stop what does, "
            "or set RECEIVER_HOST and RECEIVER_PORT."
        ) from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _allow_many_connections() -> None:
    """A thousand slow clients must not use up the descriptors of a shell's default.

    Raises ConfigurationError where the hard limit is too low for any service.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < FEWEST_DESCRIPTORS:
        raise ConfigurationError(
            f"The receiver may open {wanted} files only. Allow it {FEWEST_DESCRIPTORS} or more "
            "(ulimit -n)."
        )


def _allowed_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else min(DESCRIPTORS, soft)
