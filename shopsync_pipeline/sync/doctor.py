"""Is this deployment well? Each finding says what was looked at, and a trouble its remedy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from shopsync_pipeline.db import (
    credentials,
    integrations,
    reconciliations,
    rotation,
    schema,
    watch,
)
from shopsync_pipeline.db.alerts import Trouble
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn, connect, read, refuse_transaction_pooler
from shopsync_pipeline.db.watch import Refused, Tick
from shopsync_pipeline.errors import DatabaseTrouble, NeedsScope, ShopsyncError
from shopsync_pipeline.models import Integration, paused_since
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.sync.connect import REQUIRED_SCOPES
from shopsync_pipeline.sync.engine import Engine, open_engine, open_store
from shopsync_pipeline.sync.store import Store, probed_of
from shopsync_pipeline.sync.subscriptions import receiver_of, wrong_subscriptions
from shopsync_pipeline.sync.watch import SILENT_AFTER, counted, is_silent, span, troubles


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    what: str
    well: bool
    told: str


OLDEST_POSTGRES, NEWEST_POSTGRES = 15, 18
"""The major versions that this release was tested with."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Database, tables and keys first; the stores only where those are well. What hinders it is
    the last finding, and takes none of those before it away."""
    checks = {"database": _database, "tables": _tables, "SHOPSYNC_ENCRYPTION_KEY": _keys_given}
    for what, check in checks.items():
        try:
            yield check(settings)
        except ShopsyncError as error:
            yield Finding(what=what, well=False, told=str(error))
            return
    try:
        with open_engine(settings) as engine:
            yield from _findings(engine)
    except ShopsyncError as error:
        what = "database" if isinstance(error, DatabaseTrouble) else "stores"
        yield Finding(what=what, well=False, told=str(error))


def _database(settings: Settings) -> Finding:
    url = settings.required_database_url()
    refuse_transaction_pooler(url)
    with connect(url) as conn:
        version = conn.info.server_version // 10_000
    if not OLDEST_POSTGRES <= version <= NEWEST_POSTGRES:
        told = f"Postgres {version}, but this release was tested with {OLDEST_POSTGRES} to "
        told += f"{NEWEST_POSTGRES}: move to one of those"
        return Finding(what="database", well=False, told=told)
    return Finding(what="database", well=True, told=f"Postgres {version}, reachable, direct")


def _tables(settings: Settings) -> Finding:
    with connect(settings.required_database_url()) as conn:
        schema.check(conn)
    return Finding(what="tables", well=True, told=f"at schema {schema.head()}")


def _keys_given(settings: Settings) -> Finding:
    """Raises ConfigurationError where there is none, or one that is no Fernet key."""
    keys = settings.required_encryption_keys()
    Cipher(keys)
    return Finding(what="SHOPSYNC_ENCRYPTION_KEY", well=True, told=f"{len(keys)} given")


def _findings(engine: Engine) -> Iterator[Finding]:
    yield _bearer(engine.settings)
    found = read(engine.pool, troubles)
    yield from read(engine.pool, lambda conn: [_keys(conn, engine), _inbox(conn, found)])
    yield from read(engine.pool, _ticks)
    yield read(engine.pool, lambda conn: _drift(conn, found))
    yield from _unsigned(engine)
    yield from map(_refused, read(engine.pool, watch.refused))
    yield from _stores(engine, found)


def _bearer(settings: Settings) -> Finding:
    """Nobody must have one; who looks for the page's login is told why it is shut."""
    told = "given"
    if not settings.api_token:
        told = "not set, so the sync route and the customers page are shut; set it to open them"
    return Finding(what="SHOPSYNC_API_TOKEN", well=True, told=told)


def _keys(conn: Conn, engine: Engine) -> Finding:
    left = rotation.under_old_keys(conn, engine.cipher)
    if not left:
        return Finding(what="keys", well=True, told="what is stored is under the first key")
    told = f"{left} stored secrets need another key than the first of SHOPSYNC_ENCRYPTION_KEY: "
    told += (
        "shopsync rotate-keys"
        if len(engine.settings.encryption_keys) > 1
        else "add the key that encrypted them behind it, or connect their stores again"
    )
    return Finding(what="keys", well=False, told=told)


def _inbox(conn: Conn, found: Sequence[Trouble]) -> Finding:
    inbox = watch.inbox(conn)
    waiting = "1 event waits" if inbox.open == 1 else f"{inbox.open} events wait"
    told = waiting if inbox.open else "nothing waits"
    if oldest := inbox.oldest(held_back=False):
        told += f", the oldest for {span(oldest)}"
    if held := inbox.oldest(held_back=True):
        told += f"; one of a store in trouble or paused is {span(held)} old"
    late = [each for each in found if each.kind == "inbox_late"]
    if dead := inbox.events["dead"]:
        told += f"; {counted(dead, 'dead letter')}: shopsync webhooks dead"
    if late:
        told += ": is the daemon running, and webhook_sensor on? shopsync up"
    return Finding(what="inbox", well=not dead and not late, told=told)


def _ticks(conn: Conn) -> list[Finding]:
    """Of each sensor and schedule; `cli` asks Dagster itself besides."""
    return [
        Finding(what=tick.name, well=not is_silent(tick), told=_ticked(tick))
        for tick in watch.ticks(conn)
        if tick.name in SILENT_AFTER
    ]


def _ticked(tick: Tick) -> str:
    told = f"ticked {span(tick.age)} ago" if tick.ever else "has not ticked yet"
    if is_silent(tick):
        told += ": is the daemon running, or was it stopped in the UI? shopsync up"
    return told


def _drift(conn: Conn, found: Sequence[Trouble]) -> Finding:
    drifting = [each for each in found if each.kind == "drift"]
    if drifting:
        told = " ".join(f"{each.told} {each.remedy}" for each in drifting)
        return Finding(what="drift", well=False, told=told)
    latest = reconciliations.latest(conn)
    wrong, rows = sum(each.wrong for each in latest), sum(each.rows_read for each in latest)
    told = f"{wrong} of {rows} customers were not as in their store, at the last reconciles"
    return Finding(what="drift", well=True, told=told if latest else "no reconcile has ended yet")


def _unsigned(engine: Engine) -> Iterator[Finding]:
    """Stores whose webhooks nobody could verify."""
    if engine.settings.webhook_secrets:
        return
    for organization, shop in read(engine.pool, credentials.without_secret):
        told = "no secret to verify its webhooks with: set SHOPIFY_WEBHOOK_SECRET, its app's secret"
        yield Finding(what=f"{organization}, {shop}", well=False, told=told)


def _refused(refused: Refused) -> Finding:
    """Anybody can send forged ones, so they are a trouble only where no others came."""
    told = (
        f"{refused.count} deliveries failed verification since {refused.since:%Y-%m-%d %H:%M}, the "
        f"last at {refused.last:%Y-%m-%d %H:%M}"
    )
    told += (
        "; others were verified, so these may be forged"
        if refused.heard
        else ": is its secret (clientSecret, webhookSecret or SHOPIFY_WEBHOOK_SECRET) the app's? "
        "shopsync connect"
    )
    what = f"{refused.organization_id}, {refused.shop}"
    return Finding(what=what, well=refused.heard, told=told)


OF_A_STORE = (
    "store_in_trouble",
    "store_late",
    "reconcile_late",
    "webhooks_lost",
    "subscriptions_late",
)


def _stores(engine: Engine, found: Sequence[Trouble]) -> Iterator[Finding]:
    stores = [s for s in read(engine.pool, integrations.everything) if s.is_active]
    if not stores:
        yield Finding(
            what="stores", well=False, told="none is connected; connect one: shopsync connect"
        )
    ages = {state.id: state.synced for state in read(engine.pool, watch.stores)}
    errors = {(store.organization_id, store.shop): store.last_error for store in stores}
    for store in stores:
        if store.paused_at is None:
            yield from _probed(engine, store, ages)
        else:
            told = paused_since(store.organization_id, store.shop, store.paused_at)
            what = f"{store.organization_id}, {store.shop}"
            yield Finding(what=what, well=True, told=told)
    for each in found:
        if each.kind in OF_A_STORE:
            what = f"{each.organization_id}, {each.shop}"
            told = f"{each.told} {each.remedy}"
            error = errors.get((str(each.organization_id), str(each.shop)))
            if error and each.kind in ("store_in_trouble", "store_late"):
                told += f" Its last error: {error}"
            yield Finding(what=what, well=False, told=told)


def _probed(
    engine: Engine, integration: Integration, ages: Mapping[str, timedelta]
) -> Iterator[Finding]:
    """What the store itself answers: its scopes, its customers, and its webhook subscriptions."""
    what = f"{integration.organization_id}, {integration.shop}"
    try:
        with open_store(engine, integration) as store:
            reply = waited(store.ask("StoreProbe", {}))
            found = probed_of(integration.shop, reply.answer.data)
            lacking = sorted(REQUIRED_SCOPES - set(found.scopes))
            if lacking:
                raise NeedsScope(integration.shop, f"the app lacks {', '.join(lacking)}")
            synced = "never synced"
            if integration.last_sync_at and integration.id in ages:
                synced = f"synced {span(ages[integration.id])} ago"
            told = f"answers, {found.customers} customers, {synced}"
            yield Finding(what=what, well=True, told=told)
            if integration.realtime_since is not None:
                yield _subscriptions(engine, store)
    except ShopsyncError as error:
        yield Finding(what=what, well=False, told=str(error))


def _subscriptions(engine: Engine, store: Store) -> Finding:
    """Raises a ShopifyError where the store does not tell."""
    whom = store.integration
    what = f"{whom.organization_id}, {whom.shop}"
    remedy = f"shopsync webhooks enable {whom.organization_id}"
    receiver = receiver_of(engine.settings)
    if isinstance(receiver, str):
        return Finding(what=what, well=False, told=f"real-time sync is on, but {receiver}")
    wrong = wrong_subscriptions(store, receiver)
    if not wrong:
        return Finding(what=what, well=True, told=f"sends its webhooks to {receiver.uri}")
    missing = [change.topic for change in wrong if change.kind == "create"]
    others = [change.topic for change in wrong if change.kind != "create"]
    told = f"its webhooks do not come to {receiver.uri} as they should."
    if missing:
        told += f" Not subscribed: {', '.join(missing)}."
    if others:
        told += f" Another address, fields or filter: {', '.join(others)}."
    return Finding(what=what, well=False, told=f"{told} Mend them: {remedy}")
