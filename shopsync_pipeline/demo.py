"""The demonstration's set-up: three simulated stores, and the whole deployment beside them.

It always begins anew, for the simulated stores do too. What is played then: demo_round.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import requests as http
from rich.console import Console

from shopsync_pipeline import local, processes, secrets_file
from shopsync_pipeline.db.engine import connect
from shopsync_pipeline.demo_round import Round
from shopsync_pipeline.demo_traffic import STORES, DemoStore
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.engine import Engine, open_engine

LATENCY_MS = 50
REFRESH_TOKEN = "shprt_demo"  # noqa: S105


def run(settings: Settings, out: Console, *, once: bool) -> None:
    """Raises DemoFailed where what is shown is not what must be."""
    settings = _own(settings)
    with local.alone(settings), _simulator(settings) as url, ExitStack() as stack:
        shutil.rmtree(settings.home / "dagster", ignore_errors=True)  # of the last demo
        apps = {store.shop: _make(url, store) for store in STORES}
        settings = replace(
            settings,
            shopify_endpoint=f"{url}/{{shop}}",
            # A store connected by a bare token has no secret of its own: the deployment's signs.
            webhook_secrets=(apps[STORES[0].shop]["clientSecret"],),
        )
        secrets_file.keep(settings, _kept(settings))
        settings = stack.enter_context(local.databases(settings, migrate=True, anew=True))
        engine = stack.enter_context(open_engine(settings))
        for store in STORES:
            _connect(engine, store, apps[store.shop])
        out.print("Postgres and the simulated stores run. Starting the receiver and Dagster ...")
        stack.enter_context(processes.deployment_running(settings))
        conn = stack.enter_context(connect(settings.required_database_url()))
        out.print(f"Dagster UI  {settings.ui_here}")
        out.print(f"Receiver    {local.receiver_url(settings)}")
        page = f"{local.receiver_url(settings)}/dashboard/customers"
        out.print(f"Customers page {page}", soft_wrap=True)
        out.print(f"Its login   SHOPSYNC_API_TOKEN in {settings.secrets_file}", soft_wrap=True)
        out.print(f"Logs        {settings.home / 'logs'}")
        demo = Round(settings, out, conn, url)
        demo.play()
        if not once:
            demo.go_on()


def _own(settings: Settings) -> Settings:
    """The demo's own folder, database, keys and ports, whatever the environment says."""
    own = Settings(
        home=settings.home / "demo",
        webserver_port=_free(settings.webserver_port),
        receiver_port=_free(settings.receiver_port),
    )
    return replace(own, app_url=local.receiver_url(own))


def _kept(settings: Settings) -> dict[str, str]:
    """What makes the other commands, in the demo's home, ask the demo's stores."""
    return {
        "SHOPIFY_ENDPOINT": settings.shopify_endpoint,
        "SHOPIFY_WEBHOOK_SECRET": ",".join(settings.webhook_secrets),
        "APP_URL": str(settings.app_url),
        "RECEIVER_PORT": str(settings.receiver_port),
        "DAGSTER_WEBSERVER_PORT": str(settings.webserver_port),
    }


def _free(port: int) -> int:
    """`port`, or any other where it is taken: the demo must not fail for that."""
    for candidate in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigurationError("No port is free on 127.0.0.1.")


@contextmanager
def _simulator(settings: Settings) -> Iterator[str]:
    """The URL of a simulator in a process of its own."""
    started = processes.Processes(settings)
    try:
        log = started.start(
            "simulator",
            "shopify_simulator",
            "--port",
            "0",
            "--latency-ms",
            str(LATENCY_MS),
            env=dict(os.environ),
        )
        said = "simulator listening on "
        started.wait_until(lambda: said in log.read_text(), "The simulator")
        yield log.read_text().split(said, 1)[1].split()[0]
    finally:
        started.stop()


def _make(url: str, store: DemoStore) -> dict[str, Any]:
    """The simulated store; its app's credentials."""
    made = http.post(
        f"{url}/_control/stores",
        json={
            "shop": store.shop,
            "customers": store.customers,
            "seed": len(store.shop),
            "refreshToken": REFRESH_TOKEN,
        },
        timeout=30,
    )
    made.raise_for_status()
    app: dict[str, Any] = made.json()
    return app


def _connect(engine: Engine, store: DemoStore, given: dict[str, Any]) -> None:
    """Each store by another kind of credentials."""
    app = {"client_id": given["clientId"], "client_secret": given["clientSecret"]}
    held = {
        "token": Credentials(access_token=given["accessToken"]),
        "client": Credentials(**app),
        "refresh": Credentials(**app, refresh_token=REFRESH_TOKEN),
    }[store.kind]
    connect_store(engine, organization_id=store.organization, shop=store.shop, held=held)
