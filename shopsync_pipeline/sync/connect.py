"""Connecting a store: nothing is stored before Shopify has accepted the credentials."""

from dataclasses import replace

from shopsync_pipeline.db import credentials as stored
from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import Conn, clock, read, transact
from shopsync_pipeline.errors import ConfigurationError, NeedsScope, StoreGone
from shopsync_pipeline.models import Credentials, Integration
from shopsync_pipeline.settings import checked_organization
from shopsync_pipeline.shopify.auth import renew
from shopsync_pipeline.shopify.client import waited
from shopsync_pipeline.sync.organizations import Engine
from shopsync_pipeline.sync.store import scopes_of, shop_id_of

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
            held = renew(client, held, read(engine.pool, clock))
        assert held.access_token is not None
        data = waited(client.ask("StoreProbe", {}, token=held.access_token)).answer.data
    finally:
        client.close()
    _refuse_a_former_name(client.shop, data["shop"]["myshopifyDomain"])
    missing = sorted(REQUIRED_SCOPES - set(scopes_of(data)))
    if missing:
        raise NeedsScope(client.shop, f"the token lacks the scope {', '.join(missing)}")

    def work(conn: Conn) -> Integration:
        integration = integrations.connect(
            conn,
            organization_id=organization_id,
            shop=client.shop,
            name=name or data["shop"]["name"],
            shop_id=shop_id_of(data),
        )
        stored.store(conn, engine.cipher, integration.id, held)
        integrations.record_probe(
            conn,
            integration.id,
            shop_id=shop_id_of(data),
            customers_count=data["customersCount"]["count"],
            scopes=scopes_of(data),
        )
        return replace(integration, customers_count=data["customersCount"]["count"])

    return transact(engine.pool, work)


def _refuse_a_former_name(shop: str, current: str) -> None:
    if current.lower() != shop:
        raise StoreGone(shop, f"the store is now {current}", f"Connect it as {current}.")
