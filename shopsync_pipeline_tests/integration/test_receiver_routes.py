"""The receiver's other routes, its role and its imports, over real HTTP and a real Postgres."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests as http
from starlette.routing import Route

from shopsync_pipeline.db import integrations, roles, watch
from shopsync_pipeline.db import requests as sync_requests
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.db.server import ServerAddress
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.integration.test_receiver import (
    CRON,
    SHOP,
    SYNC,
    TOKEN,
    WEBHOOKS,
    Receiver,
    environ_of,
    error_of,
    receiver_for,
)
from webhook_receiver.app import create_app
from webhook_receiver.openapi import DESCRIPTION
from webhook_receiver.server import running_receiver


@pytest.fixture
def receiver(database_url: str, conn: Conn, tmp_path: Path) -> Iterator[Receiver]:
    with receiver_for(environ_of(database_url, tmp_path), conn) as running:
        yield running


def test_a_sync_with_a_token_is_filed_with_sealed_credentials(receiver: Receiver) -> None:
    answer = receiver.sync(
        organizationId="new",
        shop="New.myshopify.com",
        accessToken="shpat_1",
        name="New",
        mode="full",
    )
    assert answer.status_code == 202
    given = answer.json()
    assert given == {
        "requestId": given["requestId"],
        "status": "queued",
        "statusUrl": f"{SYNC}/{given['requestId']}",
    }
    ((_, organization, brought),) = sync_requests.brought(receiver.conn, [given["requestId"]])
    assert (organization, brought.shop, brought.name) == ("new", "new.myshopify.com", "New")
    assert receiver.cipher.unseal(brought.sealed) == Credentials(access_token="shpat_1")
    assert "shpat_1" not in brought.sealed


def test_a_request_repeated_while_it_is_queued_is_the_same_with_the_newer_credentials(
    receiver: Receiver,
) -> None:
    pair = {"clientId": "id", "clientSecret": "s", "refreshToken": "r", "webhookSecret": "w"}
    first = receiver.sync(organizationId="new", shop=SHOP, clientId="id", clientSecret="old")
    second = receiver.sync(organizationId="new", shop=SHOP, **pair)
    assert first.json() == second.json()
    ((_, _, brought),) = sync_requests.brought(receiver.conn, [first.json()["requestId"]])
    assert receiver.cipher.unseal(brought.sealed) == Credentials(
        client_id="id", client_secret="s", refresh_token="r", webhook_secret="w"
    )
    assert receiver.ask("GET", first.json()["statusUrl"]).json()["status"] == "queued"


def test_credentials_may_be_left_out_once_the_store_is_connected(receiver: Receiver) -> None:
    assert receiver.sync(organizationId="acme").status_code == 404
    receiver.connect_store()
    assert receiver.sync(organizationId="acme").status_code == 202
    assert receiver.sync(organizationId="acme", shop=SHOP).status_code == 202
    missing = receiver.sync(organizationId="acme", shop="other.myshopify.com")
    assert missing.status_code == 404
    assert "acme, other.myshopify.com: no store is connected" in error_of(missing)
    integrations.disconnect(receiver.conn, organization_id="acme", shop=SHOP)
    assert receiver.sync(organizationId="acme").status_code == 404


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "organizationId"),
        ({"organizationId": 7}, "organizationId"),
        ({"organizationId": "a b"}, "'a b'"),
        ({"organizationId": "a", "shop": "https://acme.myshopify.com"}, "myshopify.com"),
        ({"organizationId": "a", "accessToken": "t"}, "shop"),
        ({"organizationId": "a", "shop": SHOP, "accessToken": "t t"}, "accessToken"),
        ({"organizationId": "a", "shop": SHOP, "accessToken": "té"}, "accessToken"),
        ({"organizationId": "a", "shop": SHOP, "accessToken": ""}, "accessToken"),
        ({"organizationId": "a", "shop": SHOP, "clientId": "1"}, "clientSecret"),
        ({"organizationId": "a", "shop": SHOP, "webhookSecret": "1"}, "webhookSecret"),
        ({"organizationId": "a", "mode": "fast"}, "mode"),
        ({"organizationId": "a", "name": "\x00"}, "name"),
        ({"organizationId": "a", "acessToken": "x"}, "acessToken"),
    ],
)
def test_a_sync_order_with_a_wrong_field_is_422_and_names_it(
    receiver: Receiver, body: dict[str, Any], named: str
) -> None:
    answer = receiver.sync(**body)
    assert answer.status_code == 422
    assert named in error_of(answer)


def test_a_sync_order_that_is_no_json_object_is_400(receiver: Receiver) -> None:
    for body in (b"", b"{", b"[]", b"null", b'"\xff"', b"[" * 100_000):
        assert receiver.ask("POST", SYNC, data=body).status_code == 400
    assert receiver.ask("POST", SYNC, data=b" " * (1024 * 1024 + 1)).status_code == 413


def test_the_state_of_a_request_is_told(receiver: Receiver) -> None:
    receiver.connect_store()
    request_id = receiver.sync(organizationId="acme").json()["requestId"]
    sync_requests.begin(receiver.conn, [request_id], "run-1")
    sync_requests.finish(receiver.conn, request_id, error="acme: refused")
    given = receiver.ask("GET", f"{SYNC}/{request_id}").json()
    assert given.pop("requestedAt") < given.pop("finishedAt")
    assert given == {
        "requestId": request_id,
        "status": "failed",
        "kind": "sync",
        "organizationId": "acme",
        "mode": "incremental",
        "counts": {},
        "error": "acme: refused",
        "runId": "run-1",
    }


def test_a_request_that_is_not_there_is_404(receiver: Receiver) -> None:
    for name in ("0" * 36, "x", "%00", "00000000-0000-7000-8000-000000000000", "%ff"):
        assert receiver.ask("GET", f"{SYNC}/{name}").status_code == 404


def test_cron_files_one_request_for_all_that_are_due(receiver: Receiver) -> None:
    fresh = receiver.connect_store("fresh", "fresh.myshopify.com")
    receiver.conn.execute('UPDATE integrations SET "lastSyncAt" = now() WHERE "id" = %s', [fresh])
    receiver.connect_store()
    first, again = (receiver.ask("GET", "/api/cron/shopify-sync", CRON) for _ in range(2))
    assert first.status_code == 202
    assert first.json() == again.json()
    assert (first.json()["organizations"], first.json()["skipped"]) == (1, 1)
    (filed,) = sync_requests.unfinished(receiver.conn)
    assert (filed.kind, filed.organization_id) == ("cron", None)


BEARERS = [
    ("POST", SYNC, "SHOPSYNC_API_TOKEN"),
    ("GET", f"{SYNC}/x", "SHOPSYNC_API_TOKEN"),
    ("GET", "/api/cron/shopify-sync", "CRON_SECRET"),
]


@pytest.mark.parametrize(("method", "path", "variable"), BEARERS)
def test_without_the_right_bearer_nothing_is_told(
    receiver: Receiver, method: str, path: str, variable: str
) -> None:
    wrong: list[Any] = [None, "", "wrong", TOKEN + "x", "é"]
    wrong.append(TOKEN if variable == "CRON_SECRET" else CRON)
    for token in wrong:
        header = {"Authorization": f"Bearer {token}".encode("latin-1")} if token else {}
        answer = http.request(method, receiver.url + path, headers=header, timeout=10)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    basic = {"Authorization": f"Basic {TOKEN if method == 'POST' else CRON}"}
    assert http.request(method, receiver.url + path, headers=basic, timeout=9).status_code == 401


def test_a_bearer_that_is_not_set_shuts_its_route_and_is_named(
    database_url: str, tmp_path: Path
) -> None:
    environ = environ_of(database_url, tmp_path)
    del environ["SHOPSYNC_API_TOKEN"], environ["CRON_SECRET"]
    with running_receiver(Settings.from_env(environ)) as url:
        for method, path, variable in BEARERS:
            answer = http.request(method, url + path, timeout=10)
            assert answer.status_code == 503
            assert variable in error_of(answer)


def test_alive_ready_and_described(receiver: Receiver) -> None:
    assert receiver.ask("GET", "/healthz", None).json() == {"status": "alive"}
    assert receiver.ask("GET", "/readyz", None).json() == {"status": "ready"}
    assert receiver.ask("GET", "/openapi.json", None).json() == DESCRIPTION
    assert receiver.ask("GET", "/metrics", None).status_code == 200
    receiver.conn.execute("UPDATE shopsync_schema_version SET version_num = '0001'")
    behind = receiver.ask("GET", "/readyz", None)
    assert behind.status_code == 503
    assert "shopsync db upgrade" in error_of(behind)
    assert receiver.ask("GET", "/healthz", None).status_code == 200


def test_paths_that_are_none_are_404_and_never_a_redirect(receiver: Receiver) -> None:
    for path in ("/", WEBHOOKS + "/", "/metric", "/%00"):
        answer = receiver.ask("POST", path, allow_redirects=False)
        assert (answer.status_code, "error" in answer.json()) == (404, True)


def test_every_route_is_described(database_url: str, tmp_path: Path) -> None:
    routes = create_app(Settings.from_env(environ_of(database_url, tmp_path))).routes
    described = [route.path for route in routes if isinstance(route, Route)]
    assert described == list(DESCRIPTION["paths"])  # what is for people is pages


def test_generated_requests_get_the_answers_that_are_described(
    receiver: Receiver, tmp_path: Path
) -> None:
    """schemathesis, as its command: every operation, with the bearers and a store."""
    receiver.connect_store()
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        "\n".join(
            f'[auth.openapi.{name}]\nbearer = "{token}"\n'
            for name, token in (("apiToken", TOKEN), ("cronSecret", CRON))
        )
    )
    run = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", config, "run", receiver.url + "/openapi.json"),
            *("--checks", "not_a_server_error,status_code_conformance,response_schema_conformance"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "30"),
            *("--seed", "7", "--generation-database", "none", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    filed = {request.kind for request in sync_requests.unfinished(receiver.conn)}
    assert filed == {"sync", "cron"}  # so the bearers were used


# The role, the process


def test_the_receivers_role_serves_every_route_and_reads_no_token(
    database_url: str, server: ServerAddress, conn: Conn, tmp_path: Path
) -> None:
    name = database_url.rsplit("/", 1)[1]
    for _ in range(2):
        assert roles.apply(server.url(name), roles.receiver_steps("pw")) == []
    narrow = f"postgresql://shopsync_receiver:pw@{server.host}:{server.port}/{name}"
    environ = environ_of(database_url, tmp_path) | {"RECEIVER_DATABASE_URL": narrow}
    with receiver_for(environ, conn) as it:
        it.connect_store(webhook_secret="own")
        for topic in ("customers/update", "orders/create", "shop/redact"):
            assert it.deliver(topic=topic, secret="own").status_code == 200
        assert it.deliver(webhook_id="1", secret="own").status_code == 200
        assert it.deliver(webhook_id="1", secret="own").status_code == 200
        for _ in range(2):
            filed = it.sync(organizationId="acme", shop=SHOP, accessToken="shpat_2")
            assert filed.status_code == 202
            assert it.sync(organizationId="acme").status_code == 202
            assert it.ask("GET", "/api/cron/shopify-sync", CRON).status_code == 202
        assert it.ask("GET", filed.json()["statusUrl"]).status_code == 200
        assert it.ask("GET", "/readyz").status_code == 200
        assert "shopsync_database_up 1.0" in it.ask("GET", "/metrics").text
        assert it.deliver(secret="forged").status_code == 401
        assert len(it.rows()) == 4
    assert [each.count for each in watch.refused(conn)] == [1]
    refused_to_the_role(narrow)


def refused_to_the_role(url: str) -> None:
    with connect(url) as conn:
        for statement in (
            'SELECT "accessToken" FROM integrations',
            'SELECT "refreshToken" FROM integrations',
            "SELECT * FROM integrations",
            'UPDATE integrations SET "isActive" = false',
            'SELECT "credentials" FROM sync_requests',
            "UPDATE sync_requests SET credentials = NULL RETURNING credentials",
            """UPDATE sync_requests SET "status" = 'succeeded'""",
            'SELECT "body" FROM webhook_events',
            "DELETE FROM webhook_events",
            """UPDATE customers SET "name" = ''""",
            "SELECT 1 FROM data_requests",
            "SELECT 1 FROM analytics.customers",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


FORBIDDEN = {"dagster", "pandas", "requests", "shopsync_pipeline.sync", "shopify_simulator"}


def test_importing_it_brings_neither_dagster_nor_a_client_of_shopify() -> None:
    command = "import sys, webhook_receiver.__main__; print(*sys.modules, sep='\\n')"
    listed = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "webhook_receiver.app" in listed
    assert FORBIDDEN & set(listed) == set()
    ours = {name for name in listed if name.startswith("shopsync_pipeline.shopify")}
    assert ours == {"shopsync_pipeline.shopify", "shopsync_pipeline.shopify.webhooks"}
