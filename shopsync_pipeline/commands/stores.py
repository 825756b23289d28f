"""`connect`, `disconnect`, `pause`, `resume`, `status`: which stores there are, how they fare."""

import itertools
import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from shopsync_pipeline import local, views
from shopsync_pipeline.commands.shared import (
    Json,
    MaybeShop,
    Organization,
    Shop,
    camel,
    err,
    examples,
    out,
    print_json,
    stores_of,
    tables,
)
from shopsync_pipeline.db import integrations, schema, status
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.engine import connect as connection
from shopsync_pipeline.db.status import StoreStatus
from shopsync_pipeline.errors import ConfigurationError, ShopsyncError
from shopsync_pipeline.models import Credentials, Integration
from shopsync_pipeline.settings import Settings, checked_organization, checked_shop
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.engine import open_engine
from shopsync_pipeline.sync.subscriptions import unsubscribe

WATCH_SECONDS = 1.0
COUNT_EVERY = 30
"""Screens of `--watch` from one count of all customers to the next."""
UNSUBSCRIBED_WITHIN = 20.0
"""Seconds that a person who disconnects a store waits for Shopify, or for a run at its webhooks."""


def add_to(app: typer.Typer) -> None:
    app.command(
        "connect",
        epilog=examples(
            "shopsync connect acme my-store.myshopify.com",
            "shopsync connect acme my-store.myshopify.com --client-id 8d1f --expiring",
        ),
    )(connect)
    app.command(epilog=examples("shopsync disconnect acme my-store.myshopify.com"))(disconnect)
    app.command(
        epilog=examples("shopsync pause acme", "shopsync pause acme my-store.myshopify.com")
    )(pause)
    app.command(
        epilog=examples("shopsync resume acme", "shopsync resume acme my-store.myshopify.com")
    )(resume)
    app.command(
        "status",
        epilog=examples("shopsync status", "shopsync status --watch", "shopsync status --json"),
    )(status_)


def connect(
    organization: Organization,
    shop: Shop,
    client_id: Annotated[
        str | None, typer.Option(help="Of a Dev Dashboard app; then its secret is asked for.")
    ] = None,
    expiring: Annotated[
        bool, typer.Option("--expiring", help="An expiring offline token: asks for all four.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Shown in tables; else the shop's own.")] = None,
    as_json: Json = False,
) -> None:
    """Connect a store, once Shopify has accepted its credentials.

    They are asked for, or read from SHOPIFY_ACCESS_TOKEN, SHOPIFY_CLIENT_SECRET and
    SHOPIFY_REFRESH_TOKEN.
    """
    organization, shop = checked_organization(organization), checked_shop(shop)
    held = _asked_credentials(client_id, expiring)
    with local.databases(Settings.from_env()) as settings, open_engine(settings) as engine:
        stored = connect_store(
            engine, organization_id=organization, shop=shop, held=held, name=name
        )
    if as_json:
        print_json({**_named(stored), "name": stored.name, "inShopify": stored.customers_count})
        return
    next_ = f"The hourly sync reads them; now: shopsync sync {organization}"
    out.print(
        f"Connected {stored.shop} to {organization}: {stored.customers_count} customers. "
        f"{stored.paused_told or next_}",
        markup=False,
        soft_wrap=True,
    )


def disconnect(organization: Organization, shop: Shop, as_json: Json = False) -> None:
    """Stop syncing a store, have it send no more webhooks, and forget its tokens.

    Its customers stay. What hinders it from sending no more webhooks is told, and hinders no more.
    """
    with (
        local.databases(Settings.from_env()) as settings,
        connection(settings.required_database_url()) as conn,
    ):
        schema.check(conn)
        (store,) = stores_of(conn, organization, checked_shop(shop))
        try:
            removed = _unsubscribed(settings, conn, store)
        finally:
            with conn.transaction():
                integrations.disconnect(conn, organization_id=organization, shop=store.shop)
    if as_json:
        print_json({**_named(store), "removedTopics": removed})
        return
    if removed:
        out.print(f"Shopify sends no more webhooks: {', '.join(removed)}.", markup=False)
    out.print(f"Disconnected {store.shop} from {organization}. Its customers stay in the table.")


def _unsubscribed(settings: Settings, conn: Conn, store: Integration) -> list[str]:
    """The topics that are no longer sent. Directly, as `connect` asks Shopify: after it the token
    is forgotten, and no run could do it."""
    if store.realtime_since is None:
        return []
    # Until it has left, so that no run that waits for the store subscribes anew.
    integrations.pause(conn, organization_id=store.organization_id, shop=store.shop)
    removed: list[str] = []
    try:
        with open_engine(settings) as engine:
            outcome = unsubscribe(engine, store, within=UNSUBSCRIBED_WITHIN)
        note, removed = outcome.note, outcome.result.topics_of("remove")
    except ShopsyncError as error:
        note = f"{store.organization_id}, {store.shop}: {error}"
    if note:
        told = f"{note} Its webhooks are refused from now on; Shopify drops them by itself."
        err.print(told, style="yellow", markup=False, soft_wrap=True)
    return removed


def pause(organization: Organization, shop: MaybeShop = None, as_json: Json = False) -> None:
    """Leave a store, or all of an organization, out of every sync until it is resumed.

    Its webhooks are kept meanwhile. Requests to erase a person are obeyed all the same.
    """
    with tables() as conn:
        for store in stores_of(conn, organization, shop):
            integrations.pause(conn, organization_id=organization, shop=store.shop)
        stores = stores_of(conn, organization, shop)
    _tell(stores, as_json, "Paused {shop} of {organization}.")


def resume(organization: Organization, shop: MaybeShop = None, as_json: Json = False) -> None:
    """Sync a paused store, or all of an organization, again; from where it stopped."""
    with tables() as conn:
        for store in stores_of(conn, organization, shop):
            integrations.resume(conn, organization_id=organization, shop=store.shop)
        stores = stores_of(conn, organization, shop)
    _tell(
        stores,
        as_json,
        "Resumed {shop} of {organization}. The hourly sync reads it; now: shopsync sync "
        "{organization}",
    )


def _tell(stores: Sequence[Integration], as_json: bool, told: str) -> None:
    if as_json:
        print_json({"stores": [{**_named(s), "pausedAt": s.paused_at} for s in stores]})
        return
    for store in stores:
        line = told.format(shop=store.shop, organization=store.organization_id)
        out.print(line, markup=False, soft_wrap=True)


def status_(
    watch: Annotated[bool, typer.Option("--watch", help="Keep it on the screen.")] = False,
    as_json: Json = False,
) -> None:
    """How each store fares, and what to do where one is not well."""
    if watch and (as_json or not out.is_terminal):
        raise ConfigurationError("status --watch needs a terminal; without it: shopsync status")
    with tables() as conn:
        if watch:
            _watch(conn)
            return
        stores = status.stores(conn)
    if as_json:
        print_json({"stores": [{**camel(store), "state": store.state} for store in stores]})
        return
    out.print(views.stores_table(stores))
    for line in views.remedies(stores):
        out.print(line, markup=False, soft_wrap=True)


def _watch(conn: Conn) -> None:
    """Until Ctrl-C."""
    try:
        with Live(console=out, auto_refresh=False) as live:
            stores: list[StoreStatus] = []
            for screen in itertools.count():
                stores = status.stores(conn, counted=stores if screen % COUNT_EVERY else ())
                live.update(_screen(stores), refresh=True)
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return


def _screen(stores: Sequence[StoreStatus]) -> Group:
    return Group(views.stores_table(stores), *map(Text, views.remedies(stores)))


def _named(store: Integration) -> dict[str, Any]:
    return {"organizationId": store.organization_id, "shop": store.shop}


def _asked_credentials(client_id: str | None, expiring: bool) -> Credentials:
    if client_id is None and not expiring:
        return Credentials(access_token=_secret("Access token", "SHOPIFY_ACCESS_TOKEN"))
    if client_id is None:
        raise ConfigurationError("An expiring token is renewed by its app: give --client-id too.")
    secret = _secret("Client secret", "SHOPIFY_CLIENT_SECRET")
    if not expiring:
        return Credentials(client_id=client_id, client_secret=secret)
    refresh = _secret("Refresh token", "SHOPIFY_REFRESH_TOKEN")
    return Credentials(client_id=client_id, client_secret=secret, refresh_token=refresh)


def _secret(label: str, variable: str) -> str:
    """From the environment, a prompt, or standard input where that is no terminal."""
    text = os.environ.get(variable)
    if text is None and sys.stdin.isatty():
        text = typer.prompt(label, hide_input=True, err=True)
    if text is None:
        text = sys.stdin.readline()
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError(f"{label}: empty, or with characters no token has.")
    return text
