"""What Shopify's answer means for the events that asked for it: pure, and the only place that says
when a hint is settled.

An id that is not found counts as gone at once where an event told of its end. After any other
event it may only not be there yet, so it is read again; and a read that is older than what the
event tells of is read again too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shopsync_pipeline.db.inbox import MISSING, Delay, Ending
from shopsync_pipeline.models import CustomerRow, WebhookEvent
from shopsync_pipeline.shopify.customers import updated_at
from shopsync_pipeline.shopify.webhooks import GONE, SCANNABLE, Hint

MISSING_WAITS = (timedelta(seconds=2), timedelta(seconds=30), timedelta(minutes=5))
"""Before an id that Shopify does not find counts as gone: it may only just have been made."""

STALE_WAITS = (*MISSING_WAITS[:2], timedelta(minutes=1), timedelta(minutes=5))
"""Before a read older than its event is taken for the truth: five reads within ten minutes."""

STALE = "read, not newer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """An event and the customers that it marks as dirty: one, and for a merge the kept one too."""

    event: WebhookEvent
    customer_id: int
    kept_id: int | None = None
    at: datetime | None = None
    """The customer's `updatedAt` that the event tells of, in whole seconds as Shopify reads it."""

    @classmethod
    def of(cls, event: WebhookEvent, customer_id: int, hint: Hint) -> "Marked":
        return cls(
            event=event,
            customer_id=customer_id,
            kept_id=hint.kept_id,
            at=hint.updated_at and hint.updated_at.replace(microsecond=0),
        )

    @property
    def tells_of_an_end(self) -> bool:
        return self.event.topic in GONE

    @property
    def needs_proof(self) -> bool:
        """Shopify's read may lag behind its webhook, and nothing in the row would tell: a customer
        who was deleted still stands, orders move no `updatedAt`."""
        if self.event.topic in GONE and self.event.reads:
            return False  # it is the second look
        told = self.event.topic in GONE or self.event.topic == "customers/purchasing_summary"
        return told and self.event.body is not None  # Shopsync's own rows have none, but for merges

    @property
    def scannable(self) -> bool:
        return self.event.topic in SCANNABLE and not self.event.attempts

    @property
    def ids(self) -> set[int]:
        return {self.customer_id} if self.kept_id is None else {self.customer_id, self.kept_id}


@dataclass(kw_only=True, slots=True)
class Verdict:
    """What one answer means for the events that asked for it; `graves` as customers.bury has it."""

    endings: list[Ending] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)
    """Settled events of which a read cannot show whether it is as new as they are: once more."""

    graves: dict[int, int | None] = field(default_factory=dict)
    in_doubt: list[Marked] = field(default_factory=list)
    """Known customers that three reads did not find, though no event told of their end."""


def judge(
    marked: Sequence[Marked], found: dict[int, CustomerRow], known: dict[int, bool]
) -> Verdict:
    """`known` tells of each id that has a row whether it says deleted."""
    verdict = Verdict()
    for each in marked:
        if each.tells_of_an_end and each.customer_id not in found:
            verdict.graves[each.customer_id] = each.kept_id or verdict.graves.get(each.customer_id)
    for each in marked:
        if each.customer_id in found:
            _judge_found(each, updated_at(found[each.customer_id]), verdict)
        else:
            _judge_missing(each, known.get(each.customer_id), verdict)
    return verdict


def _judge_found(each: Marked, shown: datetime, verdict: Verdict) -> None:
    newer = each.at is None or shown >= each.at
    if newer or each.event.reads >= len(STALE_WAITS):
        verdict.endings.append(ending(each, "unchanged", None if newer else STALE))
        if each.needs_proof:
            verdict.unproved.append(each.event.id)
    else:
        verdict.delays.append(_delay(each, STALE_WAITS[each.event.reads], STALE))


def _judge_missing(each: Marked, deleted_here: bool | None, verdict: Verdict) -> None:
    if each.customer_id in verdict.graves:
        verdict.endings.append(ending(each, "unchanged"))
    elif deleted_here:
        verdict.endings.append(ending(each, "unchanged", "deleted already"))
    elif each.event.reads < len(MISSING_WAITS):
        verdict.delays.append(_delay(each, MISSING_WAITS[each.event.reads], MISSING))
    elif deleted_here is None:
        verdict.endings.append(ending(each, "unknown", "never found in Shopify"))
    else:
        verdict.in_doubt.append(each)


def ending(each: Marked, outcome: str, note: str | None = None) -> Ending:
    return Ending(event_id=each.event.id, outcome=outcome, customer_id=each.customer_id, note=note)


def _delay(each: Marked, wait: timedelta, note: str) -> Delay:
    return Delay(event_id=each.event.id, customer_id=each.customer_id, wait=wait, note=note)
