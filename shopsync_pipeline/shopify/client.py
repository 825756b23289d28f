"""One store's Admin API: when to send, when to wait, when to give up.

Nothing here sleeps. A call is a generator that yields the seconds to wait before it goes on,
so that one worker can serve many stores while some of them wait; `waited` is for callers that
have nothing else to do. One object per store; the token comes with each call and is not kept.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

import orjson

from shopsync_pipeline.errors import RetryableError, Throttled
from shopsync_pipeline.settings import checked_shop
from shopsync_pipeline.shopify.answers import (
    Answer,
    RawAnswer,
    answer_of,
    as_documented,
    cost_of,
    parse,
)
from shopsync_pipeline.shopify.bulk import BulkFile
from shopsync_pipeline.shopify.documents import document
from shopsync_pipeline.shopify.ledger import Ledger
from shopsync_pipeline.shopify.transport import new_session, post

T = TypeVar("T")


class Timer(Protocol):
    """What waits and measures waiting: the module `time`, or a test's own time."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


Waits = Generator[float, None, T]
"""Yields seconds to wait, returns T."""

BACKOFF = (1.0, 3.0, 9.0)
"""Seconds before the second, third and fourth try: with fast failures within 15 s in all."""

MOST_THROTTLED = 600.0
"""Seconds of waiting for points in one call, after which other apps own this store's bucket."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer and how it was come by. `sent_at` is the moment, on the caller's clock, just
    before the request that was answered was sent; `waited` the seconds spent on throttling."""

    answer: Answer
    sent_at: datetime
    waited: float
    tries: int


class ShopClient:
    """`endpoint` is a template with `{shop}`; `clock` gives `Reply.sent_at`."""

    def __init__(
        self,
        shop: str,
        *,
        endpoint: str,
        api_version: str,
        clock: Callable[[], datetime],
        timer: Timer = time,
    ) -> None:
        self.shop = checked_shop(shop)
        self._base = endpoint.format(shop=self.shop)
        self._version = api_version
        self._clock = clock
        self._session = new_session(self._base)
        self._ledger = Ledger(timer.monotonic)
        self._costs: dict[tuple[str, Any], float] = {}

    def close(self) -> None:
        self._session.close()

    def ask(
        self, operation: str, variables: dict[str, Any], *, token: str, once: bool = False
    ) -> Waits[Reply]:
        """Execute `documents/{operation}.graphql`; with `once` it is not sent again where it may
        have been executed.

        Raises a ShopifyError; a RetryableError only after four tries, Throttled only after
        MOST_THROTTLED seconds of waiting.
        """
        cost_key = (operation, variables.get("first") or len(variables.get("ids", ())))
        body = orjson.dumps({"query": document(operation), "variables": variables})
        patience = _Patience(0 if once else len(BACKOFF))
        while True:
            reserved = self._costs.get(cost_key, 0.0)
            wait = self._ledger.reserve(reserved)
            if wait:
                yield patience.throttled(self.shop, wait)
                continue
            sent_at = self._clock()
            try:
                answer = self._send(body, token, cost_key, reserved)
            except RetryableError as error:
                yield patience.failed(error, self._ledger.wait(self._costs.get(cost_key, 0.0)))
                continue
            return Reply(
                answer=answer, sent_at=sent_at, waited=patience.waited, tries=patience.tries
            )

    def token_request(self, form: dict[str, str]) -> RawAnswer:
        """POST to the store's OAuth token endpoint, once. Raises Unreachable."""
        url = f"{self._base}/admin/oauth/access_token"
        return post(self._session, self.shop, url, orjson.dumps(form), {})

    def bulk_file(self, url: str) -> BulkFile:
        """The result of a bulk operation, the caller's to close. Raises BulkFailed."""
        return BulkFile(self.shop, url, endpoint=self._base)

    def _send(self, body: bytes, token: str, cost_key: tuple[str, Any], reserved: float) -> Answer:
        """One request. Whatever becomes of it, the ledger learns the bucket's state."""
        cost = None
        try:
            url = f"{self._base}/admin/api/{self._version}/graphql.json"
            raw = post(self._session, self.shop, url, body, {"X-Shopify-Access-Token": token})
            payload = parse(self.shop, raw)
            with as_documented(self.shop, "extensions.cost"):
                cost = cost_of(payload)
            if cost is not None:
                self._costs[cost_key] = cost.requested
            return answer_of(self.shop, self._version, raw, payload)
        finally:
            if cost is None:
                self._ledger.release(reserved)
            else:
                self._ledger.settle(reserved, cost.status)


def waited(steps: Waits[T], timer: Timer = time) -> T:
    """Run a call to its end, sleeping where it waits."""
    while True:
        try:
            timer.sleep(next(steps))
        except StopIteration as stop:
            result: T = stop.value
            return result


class _Patience:
    """How often one call failed and how long it waited for points."""

    def __init__(self, again: int) -> None:
        self.tries = 1
        self.waited = 0.0
        self._again = again

    def throttled(self, shop: str, wait: float) -> float:
        """`wait`, as long as the call may still wait that long. Raises Throttled else."""
        self.waited += wait
        if self.waited > MOST_THROTTLED:
            raise Throttled(shop, f"no points within {MOST_THROTTLED:.0f} s: other apps use them")
        return wait

    def failed(self, error: RetryableError, points_in: float) -> float:
        """Seconds before the next try; raises `error` when there is none left.

        Being throttled is no failure where it is known how long: from Retry-After, or
        `points_in`, the seconds until the bucket holds the query's cost.
        """
        if error.wait is not None and error.wait > MOST_THROTTLED:
            raise error
        if isinstance(error, Throttled) and (error.wait or points_in):
            return self.throttled(error.shop, error.wait or points_in)
        if self.tries > self._again:
            raise error
        self.tries += 1
        return BACKOFF[self.tries - 2]
