"""TLS to a store: whom `requests` would trust, with the authorities read once for all stores."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shopsync_pipeline.errors import Unreachable
from shopsync_pipeline.shopify.transport import new_session, post
from shopsync_pipeline_tests.certificates import self_signed
from shopsync_pipeline_tests.world import free_port

SHOP = "acme.myshopify.com"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A certificate for the address 127.0.0.1 alone that vouches for itself, and its key."""
    path = tmp_path / "authority.pem"
    path.write_bytes(b"".join(self_signed(addresses=["127.0.0.1"])))
    return path


@pytest.fixture
def port(bundle: Path) -> Iterator[int]:
    """A server that answers over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(url: str) -> int:
    with new_session(url) as session:
        return post(session, SHOP, url, b"{}", {}).status


def test_a_store_that_no_known_authority_vouches_for_gets_no_request(port: int) -> None:
    with pytest.raises(Unreachable, match="SSLError"):
        ask(f"https://127.0.0.1:{port}/")


def test_the_environments_bundle_is_trusted_for_the_names_it_vouches_for(
    port: int, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    assert ask(f"https://127.0.0.1:{port}/") == 200
    with pytest.raises(Unreachable, match="SSLError"):
        ask(f"https://localhost:{port}/")


def test_a_server_that_is_not_there_or_has_no_name_is_told_by_its_kind_alone() -> None:
    for url in (f"http://127.0.0.1:{free_port()}/", "http://no-such-host.invalid/"):
        with pytest.raises(Unreachable, match=r"no whole answer \(ConnectionError\)"):
            ask(url)


def test_a_server_that_speaks_no_tls_is_told(bundle: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(Unreachable, match="SSLError"):
            ask(f"https://127.0.0.1:{server.server_address[1]}/")
        server.shutdown()
        thread.join()


def test_the_authorities_are_read_once_for_all_stores(
    port: int, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second store is asked when the bundle is no longer there to be read."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    url = f"https://127.0.0.1:{port}/"
    assert ask(url) == 200
    bundle.unlink()
    assert ask(url) == 200
