"""The webhooks of one store: recorded, held, sent in the order that the settings ask for.

Every part of it is under the sender's lock.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

from shopify_simulator.deliveries import Delivery, State
from shopify_simulator.sample import Row
from shopify_simulator.sender import Sender
from shopify_simulator.settings import Settings

KEPT_DELIVERIES = 200_000
Order = Literal["fifo", "random", "reversed"]


class Outbox:
    def __init__(
        self,
        sender: Sender,
        settings: Settings,
        rng: random.Random,
        on_exhausted: Callable[[str], None],
    ) -> None:
        """`on_exhausted` is given the subscription of a delivery that used all its tries."""
        self.in_line = False
        self._sender = sender
        self._settings = settings
        self._random = rng
        self._on_exhausted = on_exhausted
        self._records: deque[Delivery] = deque(maxlen=KEPT_DELIVERIES)
        self._held: list[Delivery] = []
        self._ready: deque[Delivery] = deque()
        self._waiting = 0
        self._under_way = 0

    # what a store asks of it

    def put(self, deliveries: Iterable[Delivery]) -> None:
        settings = self._settings
        with self._sender.lock:
            for delivery in deliveries:
                for copy in _copies(delivery, settings.webhook_copies):
                    self._put_one(copy, settings)

    def put_by_hand(self, delivery: Delivery) -> None:
        """Past all settings, at once."""
        with self._sender.lock:
            delivery.released = True
            self._records.append(delivery)
            self._waiting += 1
            self._send([delivery])

    def settings_changed(self) -> None:
        """A store that holds no longer lets all go at once; one that now does keeps what waits."""
        with self._sender.lock:
            if not self._settings.webhook_hold:
                self._let_go(self._held)
                return
            kept = [each for each in self._ready if each.released]
            for each in self._ready:
                if not each.released:
                    self._hold(each)
            self._ready = deque(kept)

    def release(self, order: Order = "fifo", copies: int = 1) -> int:
        """Sends what is held, though the store goes on holding; returns how many were sent."""
        if order not in ("fifo", "random", "reversed"):
            raise ValueError(f"no such order: {order}")
        with self._sender.lock:
            sent = [each for held in self._held for each in self._recorded(held, copies)]
            if order == "reversed":
                sent.reverse()
            elif order == "random":
                self._random.shuffle(sent)
            self._let_go(sent)
            return len(sent)

    @property
    def records(self) -> list[Row]:
        with self._sender.lock:
            known = list(self._records)
        return [each.as_json() for each in known]

    def clear(self) -> None:
        """Forgets what was recorded; what waits is sent all the same."""
        with self._sender.lock:
            self._records.clear()

    def wait(self, timeout: float) -> bool:
        """Until nothing waits, held ones aside; False when the time is up or the sender ended."""
        with self._sender.lock:
            done = self._sender.changed.wait_for(
                lambda: self._waiting == 0 or self._sender.stopped, timeout
            )
            return done and self._waiting == 0

    # what the sender asks of it

    def next(self) -> Delivery | None:
        if not self._ready or self._under_way >= self._settings.webhook_parallel:
            return None
        self._under_way += 1
        if self._settings.webhook_reorder:
            place = self._random.randrange(len(self._ready))
            self._ready[0], self._ready[place] = self._ready[place], self._ready[0]
        return self._ready.popleft()

    def due(self, delivery: Delivery) -> None:
        if self._settings.webhook_hold and not delivery.released:
            self._hold(delivery)
        else:
            self._send([delivery])

    def finished(self, delivery: Delivery, attempt: Row) -> None:
        delivered = 200 <= attempt.get("status", 0) < 300
        exhausted = not delivered and delivery.tries_left <= 1
        if exhausted and delivery.subscription_id is not None:
            self._on_exhausted(delivery.subscription_id)  # takes the store's lock, so not in ours
        with self._sender.lock:
            self._under_way -= 1
            delivery.attempts.append(attempt)
            if delivered or exhausted:
                self._turn(delivery, "delivered" if delivered else "failed")
            else:
                gap = delivery.gaps[len(delivery.attempts) - 1]
                self._sender.later(gap / self._settings.webhook_time_factor, self, delivery)
            if self._ready:
                self._sender.wake(self)

    # states

    def _put_one(self, delivery: Delivery, settings: Settings) -> None:
        self._records.append(delivery)
        self._waiting += 1
        if settings.webhook_drop and self._random.random() < settings.webhook_drop:
            self._turn(delivery, "dropped")
        elif settings.webhook_hold:
            self._hold(delivery)
        elif settings.webhook_delay_seconds > 0:
            self._sender.later(settings.webhook_delay_seconds, self, delivery)
        else:
            self._send([delivery])

    def _recorded(self, held: Delivery, copies: int) -> list[Delivery]:
        held.released = True
        same = _copies(held, copies)
        self._records.extend(same[1:])
        return same

    def _let_go(self, deliveries: list[Delivery]) -> None:
        for each in deliveries:
            self._turn(each, "waiting")
        self._held = []
        self._send(deliveries)

    def _send(self, deliveries: list[Delivery]) -> None:
        self._ready.extend(deliveries)
        for _ in deliveries:
            self._sender.wake(self)

    def _hold(self, delivery: Delivery) -> None:
        self._turn(delivery, "held")
        self._held.append(delivery)

    def _turn(self, delivery: Delivery, state: State) -> None:
        self._waiting += (state == "waiting") - (delivery.state == "waiting")
        delivery.state = state
        if self._waiting == 0:
            self._sender.changed.notify_all()


def _copies(delivery: Delivery, count: int) -> list[Delivery]:
    """The delivery itself first; all have one webhook id."""
    return [delivery, *(replace(delivery, attempts=[]) for _ in range(count - 1))]
