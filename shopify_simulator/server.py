"""Runs the simulator's app: in a thread of a test, or as a process of its own.

In a test::

    with running_simulator() as simulator:
        store = simulator.add_store("acme.myshopify.com", customers=100)
        requests.post(f"{simulator.url}/{store.shop}/admin/api/2026-10/graphql.json", ...)

As a process: ``python -m shopify_simulator --port 0 [--host 127.0.0.1] [--latency-ms N]`` prints
``simulator listening on http://127.0.0.1:PORT`` once it accepts, and ends on SIGTERM or SIGINT.
Either way open answers do not hold up the end: waits stop and their connections are closed.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from shopify_simulator.app import create_app
from shopify_simulator.simulator import Simulator
from shopify_simulator.wire import TransportProtocol, Waits

__all__ = ["Simulator", "running_simulator", "serve"]

START_SECONDS = 10


class SimulatorServer(uvicorn.Server):
    """uvicorn's server, told when to stop by an event instead of by looking now and then."""

    def __init__(self, simulator: Simulator, on_start: Callable[[], None]) -> None:
        waits = Waits()
        config = uvicorn.Config(
            create_app(simulator, waits),
            http=TransportProtocol,
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,  # the app sets the simulator's own
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self._waits = waits
        self._on_start = on_start
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_start()
        if not self.should_exit:
            await self._stop.wait()
        self._waits.stop()

    def stop(self) -> None:
        """From any thread, or a signal handler."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    def handle_exit(self, sig: int, frame: object) -> None:
        self.stop()


def listening_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's delay of 40 ms on.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def running_simulator(latency_ms: float = 0) -> Iterator[Simulator]:
    """A simulator on a free loopback port, until the block ends."""
    started = threading.Event()
    with listening_socket("127.0.0.1", 0) as listener:
        simulator = Simulator(url_of(listener), latency_ms)
        server = SimulatorServer(simulator, started.set)
        thread = threading.Thread(
            target=server.run, args=([listener],), name="shopify-simulator", daemon=True
        )
        thread.start()
        if not started.wait(START_SECONDS):
            raise RuntimeError("the simulator did not start")
        try:
            yield simulator
        finally:
            server.stop()
            thread.join()
            simulator.stop()


def serve(host: str, port: int, latency_ms: float) -> None:
    """In this thread, until a signal comes."""
    with listening_socket(host, port) as listener:
        simulator = Simulator(url_of(listener), latency_ms)
        server = SimulatorServer(
            simulator, lambda: print(f"simulator listening on {simulator.url}", flush=True)
        )
        try:
            server.run([listener])
        finally:
            simulator.stop()
