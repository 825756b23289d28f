"""Is this deployment well? Each finding says what was looked at, and a trouble its remedy."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from shopsync_pipeline.db import credentials, dead_letters, integrations
from shopsync_pipeline.db.engine import read, refuse_transaction_pooler
from shopsync_pipeline.errors import ShopsyncError
from shopsync_pipeline.models import Integration
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.sync.organizations import Engine, open_engine, open_store

LATE = timedelta(minutes=10)
"""Of an event that may be claimed: a drain is there within seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    what: str
    well: bool
    told: str


def examine(settings: Settings) -> list[Finding]:
    """Database and keys first; the stores only where those are well."""
    try:
        refuse_transaction_pooler(settings.required_database_url())
        with open_engine(settings) as engine:
            database = Finding(what="database", well=True, told="reachable, direct, migrated")
            return [database, _inbox(engine), *_unsigned(engine), *_stores(engine)]
    except ShopsyncError as error:
        return [Finding(what="database", well=False, told=str(error))]


def _inbox(engine: Engine) -> Finding:
    backlog = read(engine.pool, dead_letters.backlog)
    told = f"{backlog.waiting} events wait" if backlog.waiting else "nothing waits"
    if backlog.dead:
        told += f"; {backlog.dead} dead letters: shopsync webhooks dead"
    late = backlog.oldest is not None and backlog.oldest > LATE
    if late:
        told += f"; the oldest for {backlog.oldest}: is the daemon running? shopsync up"
    return Finding(what="inbox", well=not backlog.dead and not late, told=told)


def _unsigned(engine: Engine) -> Iterator[Finding]:
    """Stores whose webhooks nobody could verify."""
    if engine.settings.webhook_secrets:
        return
    for organization, shop in read(engine.pool, credentials.without_secret):
        told = "no secret to verify its webhooks with: set SHOPIFY_WEBHOOK_SECRET, its app's secret"
        yield Finding(what=f"{organization}, {shop}", well=False, told=told)


def _stores(engine: Engine) -> Iterator[Finding]:
    stores = [s for s in read(engine.pool, integrations.everything) if s.is_active]
    if not stores:
        yield Finding(
            what="stores", well=False, told="none is connected; connect one: shopsync connect"
        )
    for store in stores:
        yield _probed(engine, store)


def _probed(engine: Engine, integration: Integration) -> Finding:
    what = f"{integration.organization_id}, {integration.shop}"
    try:
        with open_store(engine, integration) as store:
            reply = waited(store.ask("StoreProbe", {}))
    except ShopsyncError as error:
        return Finding(what=what, well=False, told=str(error))
    count = reply.answer.data["customersCount"]["count"]
    return Finding(what=what, well=True, told=f"answers, {count} customers")
