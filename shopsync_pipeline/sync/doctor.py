"""Is this deployment well? Each finding says what was looked at, and a trouble its remedy."""

from collections.abc import Iterator
from dataclasses import dataclass

from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import read, refuse_transaction_pooler
from shopsync_pipeline.errors import ShopsyncError
from shopsync_pipeline.models import Integration
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.sync.organizations import Engine, open_engine, open_store


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
            return [database, *_stores(engine)]
    except ShopsyncError as error:
        return [Finding(what="database", well=False, told=str(error))]


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
