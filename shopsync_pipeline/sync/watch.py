"""What is wrong with this deployment now: one list, by which `shopsync doctor`, the alerts and the
asset checks speak.

A trouble is a state that ends by itself or by a person's hand (LASTING), or an event that is told
once (EVENTS) and filed where it happens.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta

from shopsync_pipeline.db import reconciliations, unheard, watch
from shopsync_pipeline.db.alerts import Trouble
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.reconciliations import Reconciliation
from shopsync_pipeline.db.unheard import Hearing
from shopsync_pipeline.db.watch import DeadLetters, StoreState, Tick, Waiting
from shopsync_pipeline.errors import StoreTrouble
from shopsync_pipeline.models import Integration

SYNC_LATE = timedelta(hours=2)
RECONCILE_LATE = timedelta(days=9)
SUBSCRIPTIONS_LATE = timedelta(hours=3)
EVENT_LATE = timedelta(minutes=10)
"""Of an event that may be claimed: a drain is there within seconds."""

ONE_IN = 1000
"""More than one row in this many that was not as in the store is no chance."""

SHARE_HEARD = 0.95
FEW_UNHEARD = 3
"""Less than that share, and at least so many changes that no webhook told of, are no chance."""

SILENT_AFTER = {
    "webhook_sensor": timedelta(minutes=5),
    "sync_request_sensor": timedelta(minutes=5),
    "trouble_sensor": timedelta(minutes=10),
    "hourly_customer_sync": timedelta(minutes=75),
    "hourly_subscription_check": timedelta(minutes=75),
    "hourly_reconciliation": timedelta(minutes=75),
    "hourly_customer_metrics": timedelta(minutes=75),
    "nightly_housekeeping": timedelta(hours=25),
}
"""Longer than the time between two ticks of each, and than a restart of the daemon takes."""

STOOD_STILL = timedelta(minutes=5)
"""Where trouble_sensor, which ticks each minute, did not for so long, all was stopped."""

REMEDIES = {trouble.status: trouble.remedy for trouble in StoreTrouble.__subclasses__()}

LASTING = {
    "store_in_trouble": "stores that need a person",
    "store_late": "stores not synced in time",
    "inbox_late": "stores whose events wait",
    "dead_letters": "stores with dead letters",
    "drift": "stores that had drifted",
    "reconcile_late": "stores not reconciled in time",
    "webhooks_lost": "stores whose webhooks were lost",
    "subscriptions_late": "stores whose webhook subscriptions could not be checked",
    "silent": "sensors and schedules that are silent",
}
"""Kinds of states, each with what several of them are called."""

EVENTS = {
    "run_failed": "runs that failed",
    "customers_missing": "stores that lacked too many customers at once",
    "subscriptions_lost": "stores whose webhooks had been dropped",
}
"""Kinds of events."""


def troubles(conn: Conn) -> list[Trouble]:
    """All that last at this moment; cheap enough for every minute."""
    watch.expect_beats(conn, SILENT_AFTER)
    heard = unheard.hearing(conn, at_least=FEW_UNHEARD)
    return [
        *(trouble for store in watch.stores(conn) for trouble in _of_store(store)),
        *(_waits(each) for each in watch.inbox(conn).waiting if is_late(each)),
        *(_dead(each) for each in watch.dead_letters(conn)),
        *(_drifted(each) for each in reconciliations.latest(conn) if has_drifted(each)),
        *(_lost(each) for each in heard if loses_webhooks(each)),
        *(_silent(tick) for tick in watch.ticks(conn) if is_silent(tick)),
    ]


def _of_store(store: StoreState) -> Iterator[Trouble]:
    """A store in trouble is late for that, and only its trouble is told. Never `lastError`: it
    quotes Shopify, who may quote a customer."""
    if store.status != "ok":
        remedy = REMEDIES.get(store.status, StoreTrouble.remedy)
        yield _about(store, "store_in_trouble", f"is {store.status}.", remedy, store.status)
        return
    if store.synced > SYNC_LATE:
        yield _about(
            store,
            "store_late",
            f"was last synced {span(store.synced)} ago.",
            "See: shopsync doctor, and the runs of sync_customers in Dagster.",
        )
    if store.reconciled is not None and store.reconciled > RECONCILE_LATE:
        yield _about(
            store,
            "reconcile_late",
            f"was last reconciled {store.reconciled.days} days ago.",
            "Look at the runs of reconcile_customers in Dagster.",
        )
    if store.subscribed is not None and store.subscribed > SUBSCRIPTIONS_LATE:
        yield _about(
            store,
            "subscriptions_late",
            f"had its webhook subscriptions checked last {span(store.subscribed)} ago.",
            "Check APP_URL, and look at the runs of enable_realtime_sync in Dagster.",
        )


def is_late(waiting: Waiting) -> bool:
    return not waiting.held_back and waiting.age > EVENT_LATE


def _waits(waiting: Waiting) -> Trouble:
    return _about(
        waiting,
        "inbox_late",
        f"has a webhook event that waits for {span(waiting.age)}.",
        "Is the daemon running, and webhook_sensor on? See: shopsync doctor.",
    )


def _dead(letters: DeadLetters) -> Trouble:
    """A new one is told, and of what is left when others were replayed nothing."""
    found = _about(
        letters,
        "dead_letters",
        f"has {counted(letters.count, 'dead letter')}, the last from {letters.last:%Y-%m-%d}.",
        "See: shopsync webhooks dead.",
    )
    return replace(found, last_at=letters.last)


def has_drifted(found: Reconciliation) -> bool:
    return found.wrong * ONE_IN > found.rows_read


def _drifted(found: Reconciliation) -> Trouble:
    """Each reconcile that found it is told of; one that found none is the end."""
    return Trouble(
        kind="drift",
        key=f"drift:{found.organization_id}:{found.shop}",
        told=f"{found.organization_id}, {found.shop}: of {found.rows_read} customers "
        f"{found.missing} were missing, {found.drifted} drifted, {found.revived} deleted only "
        f"here, {found.deleted} deleted unseen; all are mended.",
        remedy="Turn real-time sync on: shopsync webhooks enable."
        if not found.realtime
        else "Were its webhooks lost? See: shopsync doctor.",
        organization_id=found.organization_id,
        shop=found.shop,
        last_at=found.finished_at,
    )


def loses_webhooks(hearing: Hearing) -> bool:
    return hearing.unheard >= FEW_UNHEARD and hearing.share < SHARE_HEARD


def _lost(hearing: Hearing) -> Trouble:
    return _about(
        hearing,
        "webhooks_lost",
        f"had {hearing.unheard} changes in the last day that no webhook told of; "
        f"{hearing.share:.0%} came by webhook.",
        "Does APP_URL reach the receiver? See its log for refused deliveries, and subscribe anew: "
        f"shopsync webhooks enable {hearing.organization_id}.",
    )


def is_silent(tick: Tick) -> bool:
    return tick.name in SILENT_AFTER and tick.missed > SILENT_AFTER[tick.name]


def _silent(tick: Tick) -> Trouble:
    return Trouble(
        kind="silent",
        key=f"silent:{tick.name}",
        told=f"{tick.name} has not ticked for {span(tick.age)}.",
        remedy="Is the daemon running (shopsync doctor), or was it stopped in the UI?",
    )


def _about(
    whom: StoreState | Waiting | DeadLetters | Hearing,
    kind: str,
    told: str,
    remedy: str,
    detail: str = "",
) -> Trouble:
    return Trouble(
        kind=kind,
        key=":".join(filter(None, (kind, whom.id, detail))),
        told=f"{whom.organization_id}, {whom.shop} {told}",
        remedy=remedy,
        organization_id=whom.organization_id,
        shop=whom.shop,
    )


def event(kind: str, integration: Integration, what: str, remedy: str, of: str) -> Trouble:
    """Something that happened to a store; `of` tells two of a kind apart."""
    return Trouble(
        kind=kind,
        key=f"{kind}:{integration.id}:{of}",
        told=f"{integration.organization_id}, {integration.shop}: {what}",
        remedy=remedy,
        organization_id=integration.organization_id,
        shop=integration.shop,
    )


def run_failed(run_id: str, job: str, steps: Iterable[str], ui_url: str) -> Trouble:
    """Nothing of the error itself: its text is for whoever may see the UI."""
    where = ", ".join(steps)
    return Trouble(
        kind="run_failed",
        key=f"run_failed:{run_id}",
        told=f"Run {run_id} of {job} failed" + (f" in {where}." if where else "."),
        remedy=f"See {ui_url}/runs/{run_id}",
    )


def span(age: timedelta) -> str:
    """In the largest unit of which there are two: 95 s, 25 min, 3 h, 4 days."""
    seconds = int(age.total_seconds())
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
