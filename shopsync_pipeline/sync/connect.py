"""Connecting a store: nothing is stored before Shopify has accepted the credentials."""

from collections.abc import Sequence
from dataclasses import replace

from shopsync_pipeline.db import credentials as stored
from shopsync_pipeline.db import integrations, locks, requests
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.errors import (
    ConfigurationError,
    NeedsScope,
    ShopsyncError,
    StoreGone,
)
from shopsync_pipeline.models import Credentials, Integration
from shopsync_pipeline.settings import checked_organization
from shopsync_pipeline.shopify.auth import renew, token_of
from shopsync_pipeline.shopify.client import ShopClient, waited
from shopsync_pipeline.sync.engine import Engine
from shopsync_pipeline.sync.store import Probed, probed_of

REQUIRED_SCOPES = frozenset({"read_customers"})


def connect_store(
    engine: Engine, *, organization_id: str, shop: str, held: Credentials, name: str | None = None
) -> Integration:
    """Probe the store with `held`, then store both. An existing integration gets the new
    credentials; one whose store was renamed gets the new domain.

    Raises ConfigurationError for input that cannot be right, else what Shopify said.
    """
    organization_id = checked_organization(organization_id)
    client = engine.client(shop)
    try:
        if held.access_token is None and not held.renewable:
            raise ConfigurationError(
                f"{organization_id}, {client.shop}: give an access token, or a client id and "
                "client secret."
            )
        if held.access_token is None:
            held = transact(engine.pool, lambda conn: _granted(conn, client, held))
        found = _probed(client, held)
    finally:
        client.close()

    def work(conn: Conn) -> Integration:
        integration = integrations.connect(
            conn,
            organization_id=organization_id,
            shop=client.shop,
            name=name or found.name,
            shop_id=found.shop_id,
        )
        stored.store(conn, engine.cipher, integration.id, held)
        integrations.record_probe(
            conn,
            integration.id,
            shop_id=found.shop_id,
            customers_count=found.customers,
            scopes=found.scopes,
        )
        return replace(integration, customers_count=found.customers)

    return transact(engine.pool, work)


def connect_brought(engine: Engine, request_ids: Sequence[str]) -> dict[str, list[str]]:
    """Connect the stores whose credentials these requests bring; what was refused, by organization.

    The old credentials stay where the new ones are refused.
    """
    refused: dict[str, list[str]] = {}
    for _, organization, new in read(engine.pool, lambda c: requests.brought(c, request_ids)):
        try:
            connect_store(
                engine,
                organization_id=organization,
                shop=new.shop,
                held=engine.cipher.unseal(new.sealed),
                name=new.name,
            )
        except ShopsyncError as error:
            refused.setdefault(organization, []).append(f"{organization}: {error}")
    transact(engine.pool, lambda conn: requests.forget_credentials(conn, request_ids))
    return refused


def _granted(conn: Conn, client: ShopClient, held: Credentials) -> Credentials:
    locks.lock_renewal(conn, client.shop, held.client_id)
    return renew(client, held, clock(conn))


def _probed(client: ShopClient, held: Credentials) -> Probed:
    """What the store says of itself. Raises what is wrong with it or with the token."""
    reply = waited(client.ask("StoreProbe", {}, token=token_of(client.shop, held)))
    found = probed_of(client.shop, reply.answer.data)
    if found.domain != client.shop:
        now = found.domain
        raise StoreGone(client.shop, f"the store is now {now}", f"Connect it as {now}.")
    missing = sorted(REQUIRED_SCOPES - set(found.scopes))
    if missing:
        raise NeedsScope(client.shop, f"the token lacks the scope {', '.join(missing)}")
    return found
