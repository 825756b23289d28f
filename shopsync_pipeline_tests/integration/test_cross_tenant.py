"""One tenant tries to reach another's rows, secrets and token, at every way in.

Two organizations with a store each; a real receiver in front of the inbox that the drain works off.
What only one function decides (the spelling of a shop, the shape of a body) is tried in full in
`unit/test_settings.py` and `unit/test_webhooks.py`; here it is tried that they are asked.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import orjson
import pytest

from shopsync_pipeline.db import credentials, requests
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.sync.connect import connect_brought, connect_store
from shopsync_pipeline_tests.integration.test_receiver import (
    SECRET,
    TOKEN,
    Receiver,
    receiver_for,
)
from shopsync_pipeline_tests.unit.test_settings import HOSTILE_SHOPS
from shopsync_pipeline_tests.world import World, differences

OURS, THEIRS = "ours.myshopify.com", "theirs.myshopify.com"


@pytest.fixture
def theirs(world: World) -> Any:
    """The victim's store, synced; the attacker owns `OURS`."""
    world.connect("ours", OURS)
    store = world.connect("theirs", THEIRS)
    world.sync("ours", "theirs")
    return store


@pytest.fixture
def receiver(world: World, conn: Conn) -> Iterator[Receiver]:
    more = {"SHOPIFY_WEBHOOK_SECRET": SECRET, "SHOPSYNC_API_TOKEN": TOKEN}
    with receiver_for(world.environ | more, conn) as running:
        yield running


def own_secret(receiver: Receiver, organization: str, secret: str) -> None:
    receiver.conn.execute(
        'UPDATE integrations SET "webhookSecret" = %s WHERE "organizationId" = %s',
        [receiver.cipher.encrypt(secret), organization],
    )


def destructive(shop: str, shop_id: int, customer: int) -> dict[str, bytes]:
    """By topic, the body with which Shopify tells it of a shop."""
    person = {"shop_id": shop_id, "shop_domain": shop, "customer": {"id": customer}}
    bodies: dict[str, Any] = {
        "app/uninstalled": {"id": shop_id, "myshopify_domain": shop},
        "customers/redact": {**person, "orders_to_redact": []},
        "customers/data_request": {**person, "data_request": {"id": 1}, "orders_requested": []},
        "shop/redact": {"shop_id": shop_id, "shop_domain": shop},
    }
    return {topic: orjson.dumps(body) for topic, body in bodies.items()}


def untouched(world: World, store: Any) -> None:
    assert world.integration("theirs").is_active
    living = {n: row for n, row in world.rows("theirs").items() if row["deletedAt"] is None}
    assert list(differences(living, store.customers())) == []
    with world.engine.pool.connection() as conn:
        assert conn.execute("SELECT 1 FROM data_requests").fetchall() == []


def test_a_body_signed_by_one_store_is_refused_for_another(
    world: World, theirs: Any, receiver: Receiver
) -> None:
    """Where each has a secret of its own; the header that names the store is not signed."""
    own_secret(receiver, "ours", "our-own")
    own_secret(receiver, "theirs", "their-own")
    for topic, body in destructive(THEIRS, theirs.shop_id, number(theirs)).items():
        sent = receiver.deliver(body, secret="our-own", shop_domain=THEIRS, topic=topic)
        assert sent.status_code == 401
    hint = receiver.deliver(secret="our-own", shop_domain=THEIRS)
    assert hint.status_code == 401
    assert receiver.rows() == []


def test_a_body_of_one_store_resent_for_another_with_the_same_app_destroys_nothing(
    world: World, theirs: Any, receiver: Receiver
) -> None:
    """One app's secret signs for all of its stores: what destroys must name its shop itself."""
    for topic, body in destructive(OURS, 1, number(theirs)).items():
        assert receiver.deliver(body, shop_domain=THEIRS, topic=topic).status_code == 200
    world.drain()
    assert {event["status"] for event in world.events("theirs")} == {"dead"}
    untouched(world, theirs)


def test_a_body_captured_under_one_topic_and_resent_under_a_destructive_one_destroys_nothing(
    world: World, theirs: Any, receiver: Receiver
) -> None:
    """The topic is not signed either; all of these bodies truly were theirs."""
    bodies = destructive(THEIRS, theirs.shop_id, number(theirs))
    customer = orjson.dumps({"id": number(theirs), "updated_at": "2026-11-24T10:00:00Z"})
    bodies |= {"customers/update": customer, "shop/update": bodies["app/uninstalled"]}
    for body in (customer, bodies["shop/update"], bodies["customers/data_request"]):
        for topic in ("app/uninstalled", "customers/redact", "shop/redact", "customers/delete"):
            sent = receiver.deliver(body, shop_domain=THEIRS, topic=topic)
            assert sent.status_code == 200
    for _ in range(2):
        world.drain()
        world.pass_waits()
    untouched(world, theirs)


@pytest.mark.parametrize("topic", ["customers/update", "customers/delete", "customers/redact"])
def test_the_id_of_another_tenants_customer_changes_nobody_there(
    world: World, theirs: Any, receiver: Receiver, topic: str
) -> None:
    before = world.rows("theirs")
    body = destructive(OURS, 1, number(theirs)).get(topic, b'{"id": %d}' % number(theirs))
    assert receiver.deliver(body, shop_domain=OURS, topic=topic).status_code == 200
    for _ in range(5):
        world.drain()
        world.pass_waits()
    assert world.rows("theirs") == before
    assert {event["organizationId"] for event in world.events("ours")} == {"ours"}


def number(store: Any) -> int:
    return int(store.customers()[0]["legacyResourceId"])


@pytest.mark.parametrize("shop", HOSTILE_SHOPS)
def test_no_spelling_of_a_host_passes_for_a_shop_in_a_sync_request(
    receiver: Receiver, shop: str
) -> None:
    answer = receiver.sync(organizationId="ours", shop=shop, accessToken="shpat_x")
    assert answer.status_code == 422
    assert requests.unfinished(receiver.conn) == []


@pytest.mark.parametrize("shop", ["evil.com", "a.myshopify.com@evil.com", "a.myshopify.com/x"])
def test_nothing_is_sent_to_a_host_that_is_no_shop(world: World, shop: str) -> None:
    """Had one got past the routes: the client itself makes no address of it."""
    with pytest.raises(ConfigurationError, match="is not a shop"):
        connect_store(
            world.engine, organization_id="ours", shop=shop, held=Credentials(access_token="t")
        )


class Listener(threading.Thread):
    """Another host, which writes down whatever reaches it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/x"
        self.got: list[bytes] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer:
                self.got.append(peer.recv(65536))

    def close(self) -> None:
        """Whoever has connected until now was written down."""
        with suppress(OSError):  # closed already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.join()


@pytest.fixture
def elsewhere() -> Iterator[Listener]:
    with closing(Listener()) as listener:
        yield listener


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_token_and_no_secret_follows_a_redirect(
    world: World, theirs: Any, elsewhere: Listener, status: int
) -> None:
    app = theirs.credentials
    for held in (
        Credentials(access_token=theirs.access_token),
        Credentials(client_id=app.client_id, client_secret=app.client_secret),
    ):
        with world.engine.pool.connection() as conn:
            credentials.store(conn, world.engine.cipher, world.integration("theirs").id, held)
        theirs.fault("redirect", times=None, location=elsewhere.url, status=status)
        outcome = world.sync_one("theirs")
        assert outcome.state == "failed"
        theirs.clear_faults()
    elsewhere.close()
    assert elsewhere.got == []


def ask_for(world: World, receiver: Receiver, **given: Any) -> dict[str, list[str]]:
    """What is refused by the run of a sync that brings these credentials."""
    filed = receiver.sync(shop=THEIRS, **given)
    assert filed.status_code == 202
    return connect_brought(world.engine, [filed.json()["requestId"]])


def test_credentials_for_another_tenants_shop_need_that_shops_own_consent(
    world: World, theirs: Any, receiver: Receiver
) -> None:
    """A token of a store of one's own, or none that is any, connects nothing and changes nothing
    of the one that is connected, whichever organization asks."""
    ours = world.simulator.store(OURS)
    held = world.integration("theirs")
    for organization in ("ours", "theirs"):
        for token in (ours.access_token, "shpat_made_up"):
            refused = ask_for(world, receiver, organizationId=organization, accessToken=token)
            assert "refused the access token" in refused[organization][0]
    app = ours.credentials
    refused = ask_for(
        world,
        receiver,
        organizationId="ours",
        clientId=app.client_id,
        clientSecret=app.client_secret,
        webhookSecret="mine",
    )
    assert "ours" in refused
    with world.engine.pool.connection() as conn:
        (signer,) = credentials.signers(conn, THEIRS)
        kept = credentials.load(conn, world.engine.cipher, held.id)
    assert (signer.integration_id, list(signer.secrets)) == (held.id, [])
    assert kept == Credentials(access_token=theirs.access_token)
    assert world.sync_one("theirs").state == "synced"


def test_a_shop_in_two_organizations_has_rows_and_a_secret_for_each_and_shares_none(
    world: World, theirs: Any, receiver: Receiver
) -> None:
    """The second has its own consent; what its secret signs wakes nobody else."""
    connect_store(
        world.engine,
        organization_id="partner",
        shop=THEIRS,
        held=Credentials(access_token=theirs.access_token, webhook_secret="partners-own"),
    )
    own_secret(receiver, "theirs", "their-own")
    body = destructive(THEIRS, theirs.shop_id, number(theirs))["customers/redact"]
    sent = receiver.deliver(
        body, secret="partners-own", shop_domain=THEIRS, topic="customers/redact"
    )
    assert sent.status_code == 200
    assert [row[0] for row in receiver.rows()] == ["partner"]
    world.drain()
    assert world.differences("theirs", theirs) == []
