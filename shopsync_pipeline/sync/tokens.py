"""The access token of one store: stored, cached, renewed before it ends.

One renewal at a time per store and app: an advisory lock of Postgres is held from reading the
stored token to storing the new one, so that two runs never spend one refresh token twice.
"""

from datetime import timedelta

from shopsync_pipeline.db import credentials as stored
from shopsync_pipeline.db import integrations, locks
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, Pool, clock, transact
from shopsync_pipeline.errors import RetryableError, ShopifyError
from shopsync_pipeline.models import Credentials, Integration
from shopsync_pipeline.shopify.auth import renew, token_of
from shopsync_pipeline.shopify.client import (
    BACKOFF,
    MOST_THROTTLED,
    ShopClient,
    Timer,
    Waits,
)

MARGIN = timedelta(minutes=5)
"""A token is renewed this long before it ends: longer than any request with its retries."""

CACHE_SECONDS = 60.0


class Tokens:
    def __init__(
        self,
        *,
        pool: Pool,
        cipher: Cipher,
        client: ShopClient,
        integration: Integration,
        timer: Timer,
    ) -> None:
        self._pool = pool
        self._cipher = cipher
        self._client = client
        self._integration = integration
        self._timer = timer
        self._cached: tuple[str, float] | None = None

    def current(self) -> Waits[str]:
        """A token that lasts. Raises NeedsReauth where none is stored or can be had."""
        if self._cached is None or self._cached[1] < self._timer.monotonic():
            token = yield from self._usable(refused=None)
            self._cached = (token, self._timer.monotonic() + CACHE_SECONDS)
        return self._cached[0]

    def after_refusal(self, refused: str) -> Waits[str | None]:
        """Another token than the one Shopify refused, or None where none can be had."""
        self._cached = None
        token = yield from self._usable(refused=refused)
        return None if token == refused else token

    def fingerprint(self, conn: Conn) -> str | None:
        """Another text whenever another token is stored, for comparing only."""
        return stored.fingerprint(conn, self._cipher, self._integration.id)

    def _usable(self, refused: str | None) -> Waits[str]:
        for wait in (*BACKOFF, None):
            try:
                return transact(self._pool, lambda conn: self._locked(conn, refused))
            except RetryableError as error:
                if wait is None or (error.wait or 0.0) > MOST_THROTTLED:
                    raise
                yield max(wait, error.wait or 0.0)
        raise AssertionError("unreachable")

    def _locked(self, conn: Conn, refused: str | None) -> str:
        integrations.require_active(conn, self._integration.id)
        held = stored.load(conn, self._cipher, self._integration.id)
        if not held.renewable:
            return self._token_of(held)
        if not self._due(conn, held, refused):
            return self._token_of(held)
        locks.lock_renewal(conn, self._client.shop, held.client_id)
        integrations.hold(conn, self._integration.id, paused_too=True)
        held = stored.load(conn, self._cipher, self._integration.id)  # renewed by another?
        if not self._due(conn, held, refused):
            return self._token_of(held)
        return self._renewed(conn, held, still_good=refused is None)

    def _renewed(self, conn: Conn, held: Credentials, *, still_good: bool) -> str:
        """The row is held meanwhile, so that nobody's new credentials are written over."""
        now = clock(conn)
        try:
            fresh = renew(self._client, held, now)
        except ShopifyError:
            if still_good and held.lasts(now):
                return self._token_of(held)
            raise
        stored.store(conn, self._cipher, self._integration.id, fresh)
        return self._token_of(fresh)

    def _due(self, conn: Conn, held: Credentials, refused: str | None) -> bool:
        if refused is not None:
            return held.access_token == refused
        return not held.lasts(clock(conn), MARGIN)

    def _token_of(self, held: Credentials) -> str:
        return token_of(self._client.shop, held)
