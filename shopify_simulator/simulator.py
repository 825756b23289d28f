"""All stores of one simulator, with the clock they share. Knows nothing of HTTP but its own URL."""

import threading
import zlib
from typing import Any

from shopify_simulator.bulk_files import BulkFiles
from shopify_simulator.clock import Clock
from shopify_simulator.credentials import Credentials
from shopify_simulator.sender import Sender
from shopify_simulator.stores import Store

SHOP_NUMBERS = 200_000


class Simulator:
    def __init__(self, url: str = "", latency_ms: float = 0) -> None:
        self.url = url
        self.clock = Clock()
        self._latency_ms = latency_ms
        self._sender = Sender()
        self._bulk_files = BulkFiles(url)
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """What SHOPIFY_ENDPOINT is set to; `{shop}` is for the client to fill in."""
        return self.url + "/{shop}"

    @property
    def stores(self) -> list[Store]:
        with self._lock:
            return list(self._stores.values())

    def store(self, shop: str) -> Store:
        """Raises KeyError."""
        with self._lock:
            return self._stores[shop]

    def add_store(
        self,
        shop: str,
        customers: int = 100,
        seed: int = 1,
        *,
        access_token: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        refresh_token: str | None = None,
        **settings: Any,
    ) -> Store:
        """Tokens not given are made up from the shop's name. A store of that name is replaced."""
        label = shop.removesuffix(".myshopify.com")
        credentials = Credentials(
            access_token=access_token or f"shpat_{label}",
            client_id=client_id or f"client-{label}",
            client_secret=client_secret or f"secret-{label}",
            refresh_token=refresh_token or f"shprt_{label}",
        )
        number = self._free_number(shop)
        store = Store(
            shop,
            number=number,
            clock=self.clock,
            credentials=credentials,
            sender=self._sender,
            bulk_files=self._bulk_files,
            seed=seed,
        )
        store.change(**{"latency_ms": self._latency_ms, **settings})
        store.fill(customers)
        with self._lock:
            replaced = self._stores.get(shop)
            self._stores[shop] = store
        if replaced is not None:
            replaced.bulk.stop()
        return store

    def stop(self) -> None:
        """Ends the threads that export and send webhooks; the exported files go."""
        for store in self.stores:
            store.bulk.stop()
        self._sender.stop()
        self._bulk_files.close()

    def _free_number(self, shop: str) -> int:
        """The same for the same name in every simulator, as long as no two names collide."""
        number = zlib.crc32(shop.encode()) % SHOP_NUMBERS
        taken = {store.number for store in self.stores if store.shop != shop}
        while number in taken:
            number = (number + 1) % SHOP_NUMBERS
        return number
