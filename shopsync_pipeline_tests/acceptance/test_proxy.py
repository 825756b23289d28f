"""deploy/nginx/shopsync.conf by a real nginx, before a whole deployment.

Only what a test must change of the file is changed: ports, paths and, with the port, the origin.
"""

import base64
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import psutil  # type: ignore[import-untyped]
import pytest
import urllib3
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from shopsync_pipeline.local import project_file
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.acceptance.deployment import (
    SECRET,
    Deployment,
    SimulatedStore,
    deployed,
    wait_for,
)
from shopsync_pipeline_tests.certificates import self_signed
from shopsync_pipeline_tests.integration.test_receiver import WEBHOOKS, signature
from shopsync_pipeline_tests.world import free_port

pytestmark = pytest.mark.proxy

UI, RECEIVER = "dagster.example.com", "sync.example.com"
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"operator:pass phrase").decode()}
MEBIBYTE = 1024 * 1024
BODY = '{"id": 7,\r\n "note": "\\u00e9 \U0001f600"}\n'.encode()
VERSION = {"query": "{ version }"}
REGISTER = """mutation { addDynamicPartition(
  partitionsDefName: "organizations", partitionKey: "%s", repositorySelector: {
    repositoryName: "__repository__", repositoryLocationName: "shopsync_pipeline"
  }) { __typename } }"""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """nginx before `behind`; it listens on loopback, and its names are known to nobody else."""

    behind: Deployment
    store: SimulatedStore
    plain: int
    tls: int
    certificate: Path

    @property
    def origin(self) -> str:
        return f"https://{UI}:{self.tls}"

    def ask(
        self,
        method: str,
        path: str,
        *,
        name: str = UI,
        headers: dict[str, str] | None = None,
        body: Any = None,
    ) -> urllib3.BaseHTTPResponse:
        with urllib3.HTTPSConnectionPool(
            "127.0.0.1",
            self.tls,
            server_hostname=name,
            assert_hostname=name,
            ca_certs=str(self.certificate),
            timeout=20,
            retries=False,
        ) as pool:
            given = {"Host": name, **(headers or {})}
            return pool.request(method, path, headers=given, body=body, redirect=False)

    def graphql(self, query: dict[str, str], **headers: str) -> urllib3.BaseHTTPResponse:
        given = {**LOGIN, "Content-Type": "application/json", **headers}
        return self.ask("POST", "/graphql", headers=given, body=json.dumps(query))

    def websocket(self, **headers: str) -> ClientConnection:
        context = ssl.create_default_context(cafile=str(self.certificate))
        return connect(
            f"wss://{UI}:{self.tls}/graphql",
            sock=socket.create_connection(("127.0.0.1", self.tls), timeout=10),
            ssl=context,
            subprotocols=["graphql-ws"],  # type: ignore[list-item]
            additional_headers=headers,
            proxy=None,
        )

    @contextmanager
    def socket(self, name: str) -> Iterator[ssl.SSLSocket]:
        context = ssl.create_default_context(cafile=str(self.certificate))
        with (
            socket.create_connection(("127.0.0.1", self.tls), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            yield connection

    def deliver(self, body: Any = BODY, **headers: str) -> urllib3.BaseHTTPResponse:
        return self.ask(
            "POST",
            WEBHOOKS,
            name=RECEIVER,
            headers={**signed(self.store, body), **headers},
            body=body,
        )

    def organizations(self) -> list[str]:
        return list(self.behind.instance.get_dynamic_partitions("organizations"))

    def stored(self) -> list[bytes]:
        return [
            row[0] for row in self.behind.select("SELECT body FROM webhook_events ORDER BY ctid")
        ]


def signed(store: SimulatedStore, body: Any) -> dict[str, str]:
    signature_ = signature(body, SECRET) if isinstance(body, bytes) else "none"
    return {
        "Content-Type": "application/json",
        "X-Shopify-Shop-Domain": store.shop,
        "X-Shopify-Topic": "shop/update",
        "X-Shopify-Hmac-Sha256": signature_,
    }


def certificate_in(folder: Path) -> Path:
    """One for both names that vouches for itself."""
    certificate, key = self_signed(hosts=[UI, RECEIVER])
    (folder / "shopsync.key").write_bytes(key)
    (folder / "shopsync.crt").write_bytes(certificate)
    return folder / "shopsync.crt"


def login_in(folder: Path) -> None:
    salted = hashlib.sha1(b"pass phrase" + b"salt").digest() + b"salt"
    line = "operator:{SSHA}" + base64.b64encode(salted).decode()
    (folder / "shopsync.htpasswd").write_text(line + "\n")


def configuration_in(folder: Path, proxied: dict[str, str]) -> Path:
    """What nginx is started with: the project's file inside of the least that nginx needs."""
    text = project_file("deploy/nginx/shopsync.conf").read_text()
    for old, new in proxied.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "shopsync.conf").write_text(text)
    of_root = "user root;" if os.geteuid() == 0 else ""  # nobody else may enter the folder
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"{of_root} daemon off; pid {folder}/nginx.pid; worker_processes 1;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{ access_log {folder}/access.log; {places} include {folder}/shopsync.conf; }}\n"
    )
    return folder / "nginx.conf"


def command(configuration: Path, *more: str) -> list[str]:
    program = shutil.which("nginx")
    assert program, "nginx is not on the PATH: install the package nginx"
    folder = str(configuration.parent)
    return [program, "-p", folder, "-e", f"{folder}/error.log", "-c", str(configuration), *more]


@contextmanager
def nginx(configuration: Path, port: int) -> Iterator[None]:
    tried = subprocess.run(
        command(configuration, "-t"), check=False, capture_output=True, text=True
    )
    assert tried.returncode == 0, tried.stderr
    assert "warn" not in tried.stderr
    with subprocess.Popen(command(configuration)) as process:
        try:
            wait_for(lambda: takes(port) or process.poll() is not None, 10, "nginx")
            yield
        finally:
            process.terminate()
    errors = (configuration.parent / "error.log").read_text()
    assert not [line for line in errors.splitlines() if "[crit]" in line or "[alert]" in line]


def takes(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with ExitStack() as stack:
        deployment = stack.enter_context(deployed())
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="nginx-")))
        plain, tls = free_port(), free_port()
        certificate = certificate_in(folder)
        login_in(folder)
        given = deployment.settings
        proxied = {
            "listen 80": f"listen 127.0.0.1:{plain}",
            "listen 443": f"listen 127.0.0.1:{tls}",
            f"https://{UI}": f"https://{UI}:{tls}",
            "/etc/nginx/shopsync": f"{folder}/shopsync",
            f"127.0.0.1:{Settings.webserver_port};": f"127.0.0.1:{given.webserver_port};",
            f"127.0.0.1:{Settings.receiver_port};": f"127.0.0.1:{given.receiver_port};",
        }
        stack.enter_context(nginx(configuration_in(folder, proxied), tls))
        yield Proxy(
            behind=deployment,
            store=deployment.add_token_store("acme", customers=1),
            plain=plain,
            tls=tls,
            certificate=certificate,
        )


# Dagster's UI


def test_whatever_listens_of_a_deployment_listens_on_loopback(proxy: Proxy) -> None:
    listening = [
        connection.laddr
        for pid in proxy.behind.processes()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    settings = proxy.behind.settings
    assert {settings.receiver_port, settings.webserver_port} <= {at.port for at in listening}
    assert {at.ip for at in listening} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("path", ["/", "/runs", "/server_info", "/logs/x/y.out", "/graphql"])
@pytest.mark.parametrize("login", [{}, {"Authorization": "Basic b3BlcmF0b3I6d3Jvbmc="}])
def test_without_a_login_nothing_of_the_ui_is_seen(
    proxy: Proxy, path: str, login: dict[str, str]
) -> None:
    method = "POST" if path == "/graphql" else "GET"
    answer = proxy.ask(method, path, headers=login, body=None)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert b"agster" not in answer.data


def test_the_page_and_its_scripts_load_and_may_be_framed_by_nobody(proxy: Proxy) -> None:
    page = proxy.ask("GET", "/", headers=LOGIN)
    assert page.status == 200
    policies = page.headers.getlist("Content-Security-Policy")
    assert any("frame-ancestors 'none'" in policy for policy in policies)
    assert any("script-src 'nonce-" in policy for policy in policies)
    assert page.headers.getlist("X-Content-Type-Options") == ["nosniff"]
    assert "max-age=" in page.headers["Strict-Transport-Security"]
    assert "nginx/" not in page.headers["Server"]
    scripts = [part.split('"')[0] for part in page.data.decode().split('src="')[1:]]
    assert scripts
    for script in scripts:
        assert proxy.ask("GET", script, headers=LOGIN).status == 200


def test_its_own_page_may_ask_and_listen(proxy: Proxy) -> None:
    assert proxy.graphql(VERSION, Origin=proxy.origin).status == 200
    assert proxy.graphql(VERSION).status == 200  # a script, which has no Origin
    with proxy.websocket(Origin=proxy.origin, **LOGIN) as websocket:
        websocket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(websocket.recv(timeout=10)) == {"type": "connection_ack"}


FOREIGN = [
    "https://evil.example",
    "null",
    "http://{origin}",
    "https://evil.{origin}",
    "https://{origin}.evil.example",
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_foreign_page_can_neither_ask_nor_listen(proxy: Proxy, foreign: str) -> None:
    origin = foreign.format(origin=proxy.origin.removeprefix("https://"))
    steal = {"query": REGISTER % "foreign-page"}
    assert proxy.graphql(steal, Origin=origin).status == 403
    with pytest.raises(InvalidStatus) as refused:
        proxy.websocket(Origin=origin, **LOGIN)
    assert refused.value.response.status_code == 403
    assert "foreign-page" not in proxy.organizations()


def test_a_websocket_without_an_origin_or_a_login_is_refused(proxy: Proxy) -> None:
    with pytest.raises(InvalidStatus) as refused:
        proxy.websocket(**LOGIN)
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        proxy.websocket(Origin=proxy.origin)
    assert refused.value.response.status_code == 401


def test_a_picture_on_a_foreign_page_changes_nothing_though_dagster_itself_would_obey(
    proxy: Proxy,
) -> None:
    """A browser sends the login with it, and no Origin."""
    dagster = f"http://127.0.0.1:{proxy.behind.settings.webserver_port}/graphql"
    alone = urllib3.request("GET", dagster, fields={"query": REGISTER % "obeyed"})
    assert (alone.status, "obeyed" in proxy.organizations()) == (200, True)
    picture = urlencode({"query": REGISTER % "picture"})
    for path in ("/graphql", "//graphql", "/%67raphql", "/x/../graphql", "/./graphql"):
        assert proxy.ask("GET", f"{path}?{picture}", headers=LOGIN).status == 403
    for path in ("/graphql/", "/graphql%2F", "/GraphQL", "/graphql;x", "/x/..%2Fgraphql"):
        proxy.ask("GET", f"{path}?{picture}", headers=LOGIN)
    assert "picture" not in proxy.organizations()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
def test_pages_take_no_other_method(proxy: Proxy, method: str) -> None:
    for path in ("/", "/report_asset_materialization/customers", "/graphql/"):
        assert proxy.ask(method, path, headers=LOGIN).status == 405


def test_another_name_is_refused_before_anything_is_told(proxy: Proxy) -> None:
    for name in ("evil.example", f"{UI}.evil.example", "127.0.0.1", "localhost"):
        assert proxy.ask("GET", "/", headers={**LOGIN, "Host": name}).status == 421
        with pytest.raises(urllib3.exceptions.SSLError):  # not even a certificate
            proxy.ask("GET", "/", name=name)
    with urllib3.HTTPConnectionPool("127.0.0.1", proxy.plain, retries=False) as pool:
        for name in ("evil.example", "127.0.0.1", RECEIVER):
            answer = pool.request("GET", "/", headers={"Host": name}, redirect=False)
            assert answer.status == 421


def test_plain_http_leads_to_tls(proxy: Proxy) -> None:
    with urllib3.HTTPConnectionPool("127.0.0.1", proxy.plain, retries=False) as pool:
        answer = pool.request("GET", "/runs?x=1", headers={"Host": UI}, redirect=False)
    assert (answer.status, answer.headers["Location"]) == (301, f"{proxy.origin}/runs?x=1")


def test_a_question_of_more_than_four_mebibytes_is_413(proxy: Proxy) -> None:
    assert proxy.graphql({"query": "x" * 4 * MEBIBYTE}).status == 413


# The receiver


def test_a_signed_delivery_passes_byte_for_byte(proxy: Proxy) -> None:
    answer = proxy.deliver(**{"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "http"})
    assert (answer.status, answer.json()) == (200, {"status": "received"})
    assert proxy.stored()[-1] == BODY
    assert proxy.deliver(**{"X-Shopify-Hmac-Sha256": signature(BODY, "forged")}).status == 401
    assert proxy.stored()[-1] == BODY


def test_the_limit_of_a_body_is_the_receivers(proxy: Proxy) -> None:
    before = len(proxy.stored())
    assert proxy.deliver(b"x" * MEBIBYTE).status == 200
    assert proxy.deliver(b"x" * (MEBIBYTE + 1)).status == 413
    assert proxy.deliver(iter([b"x" * MEBIBYTE, b"x"])).status == 413  # its length is not told
    assert [len(body) for body in proxy.stored()[before:]] == [MEBIBYTE]


def dripped(proxy: Proxy, head: str) -> tuple[bytes, float]:
    """The answer to a client that sends a byte every half second after `head`, and when it came."""
    with proxy.socket(RECEIVER) as client:
        began = time.monotonic()
        client.sendall(head.encode())
        client.settimeout(0.5)
        while time.monotonic() - began < 20:
            try:
                return client.recv(1000), time.monotonic() - began
            except TimeoutError:
                client.sendall(b"x")
    raise AssertionError("no answer")


def test_a_slow_body_is_cut_off_by_the_receiver_after_five_seconds(proxy: Proxy) -> None:
    answer, seconds = dripped(
        proxy, f"POST {WEBHOOKS} HTTP/1.1\r\nHost: {RECEIVER}\r\nContent-Length: 1000\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 408")
    assert 4.5 < seconds < 7


def test_a_slow_head_is_cut_off_after_five_seconds(proxy: Proxy) -> None:
    answer, seconds = dripped(proxy, f"POST {WEBHOOKS} HTTP/1.1\r\nHost: {RECEIVER}\r\nX-Slow: ")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
    assert 4.5 < seconds < 7


@pytest.mark.parametrize(
    "path", ["/metrics", "/dashboard/customers", "/readyz", "/openapi.json", "/", "/graphql"]
)
def test_what_is_for_the_house_is_not_for_the_world(proxy: Proxy, path: str) -> None:
    bearer = {"Authorization": f"Bearer {proxy.behind.settings.api_token}"}
    assert proxy.ask("GET", path, name=RECEIVER, headers=bearer).status == 404


def test_the_apps_requests_reach_the_receiver_with_their_bearer(proxy: Proxy) -> None:
    state = "/api/integrations/shopify/sync/none"
    bearer = {"Authorization": f"Bearer {proxy.behind.settings.api_token}"}
    assert proxy.ask("GET", "/healthz", name=RECEIVER).json() == {"status": "alive"}
    assert proxy.ask("GET", state, name=RECEIVER).status == 401
    assert "error" in proxy.ask("GET", state, name=RECEIVER, headers=bearer).json()
    assert proxy.ask("GET", state, name=RECEIVER, headers=bearer).status == 404
