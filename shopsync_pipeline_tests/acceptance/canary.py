"""Planted secrets and a planted person, for the search in `leaks`.

A store with canaries is connected and synced, and everything is done that may make an error quote
one.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import requests as http

from shopsync_pipeline.db import requests
from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.requests import NewCredentials
from shopsync_pipeline.models import Credentials
from shopsync_pipeline_tests.acceptance.deployment import (
    Deployment,
    SimulatedStore,
    wait_for,
)
from shopsync_pipeline_tests.integration.test_receiver import SYNC, signature

SETTLED_SECONDS = 120


def _mark() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """No two deployments have the same."""

    access_token: str = field(default_factory=lambda: f"shpat_canary{_mark()}")
    refused_token: str = field(default_factory=lambda: f"shpat_refused{_mark()}")
    sealed_token: str = field(default_factory=lambda: f"shpat_sealed{_mark()}")
    client_secret: str = field(default_factory=lambda: f"shpss_canary{_mark()}")
    refresh_token: str = field(default_factory=lambda: f"shprt_canary{_mark()}")
    webhook_secret: str = field(default_factory=lambda: f"whsec_canary{_mark()}")
    email: str = field(default_factory=lambda: f"canary+{_mark()}@example.com")
    phone: str = field(default_factory=lambda: f"+49151{secrets.randbelow(10**9):09}")
    first_name: str = field(default_factory=lambda: f"Kanaria{_mark()}")
    last_name: str = field(default_factory=lambda: f"Gelbfeder{_mark()}")
    note: str = field(default_factory=lambda: f'sings "{_mark()}" & <likes> 50% seeds')
    street: str = field(default_factory=lambda: f"Vogelweg {_mark()}/7")

    @property
    def secrets(self) -> Mapping[str, str]:
        return {name: text for name, text in asdict(self).items() if _is_secret(name)}

    @property
    def person(self) -> Mapping[str, str]:
        return {name: text for name, text in asdict(self).items() if not _is_secret(name)}


def _is_secret(name: str) -> bool:
    return name.endswith(("_token", "_secret"))


def plant(deployment: Deployment, canary: Canary) -> None:
    """Until every run has told what became of it, and every event is settled."""
    at = ["data", "customers", "nodes", 0]
    token = Credentials(access_token=canary.access_token, webhook_secret=canary.webhook_secret)
    well = _store(deployment, canary, "canary", token)
    echo = f"Variable $query: {canary.email} {canary.phone} {canary.access_token} is invalid"
    _broken(deployment, canary, "canary-echo", "error", message=echo, code="ARGUMENT_ERROR")
    # What Postgres refuses, and quotes as the context of a COPY; then what is no number.
    born, number = [*at, "createdAt"], [*at, "legacyResourceId"]
    _broken(deployment, canary, "canary-row", "altered", at=born, value=canary.email)
    _broken(deployment, canary, "canary-odd", "altered", at=number, value=canary.email)
    app = _store(deployment, canary, "canary-app")
    refused = _store(deployment, canary, "canary-refused")
    filed = [
        _bring(deployment, refused, accessToken=canary.refused_token),
        _bring(
            deployment,
            app,
            clientId=app.client_id,
            clientSecret=canary.client_secret,
            refreshToken=canary.refresh_token,
            webhookSecret=canary.webhook_secret,
        ),
        _bring_unfit(deployment, canary),
        *(deployment.file("sync", f"canary{kind}") for kind in ("", "-echo", "-row", "-odd")),
    ]
    _deliver(deployment, canary, well)
    ended = [deployment.ended(request, SETTLED_SECONDS) for request in filed]
    wanted = ["failed", "succeeded", "failed", "succeeded", "failed", "failed", "failed"]
    assert [request.status for request in ended] == wanted, [request.error for request in ended]
    wait_for(lambda: _settled(deployment), SETTLED_SECONDS, "all of the canary's events settled")


def _store(
    deployment: Deployment, canary: Canary, organization: str, held: Credentials | None = None
) -> SimulatedStore:
    """With the person as its customer; connected with `held`, if any."""
    store = deployment.add_store(
        organization,
        customers=2,
        accessToken=(held and held.access_token) or "shpat_unused",
        clientSecret=canary.client_secret,
        refreshToken=canary.refresh_token,
    )
    store.create(
        email=canary.email,
        phone=canary.phone,
        firstName=canary.first_name,
        lastName=canary.last_name,
        note=canary.note,
        defaultAddress={"address1": canary.street},
    )
    if held is not None:
        deployment.connect(store, held)
    return store


def _broken(
    deployment: Deployment, canary: Canary, organization: str, fault: str, **options: Any
) -> None:
    """A connected store whose pages show the fault for ever."""
    held = Credentials(access_token=f"shpat_{organization}")
    store = _store(deployment, canary, organization, held)
    given = {"kind": fault, "times": None, "operation": "CustomersPage", "options": options}
    store.ask("POST", "/faults", given)


def _bring(deployment: Deployment, store: SimulatedStore, **given: str) -> str:
    """By the route of the app; the credentials wait, sealed, for their run."""
    answer = http.post(
        deployment.receiver + SYNC,
        json={"organizationId": store.organization, "shop": store.shop, **given},
        headers={"Authorization": f"Bearer {deployment.settings.api_token}"},
        timeout=10,
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["requestId"])


def _bring_unfit(deployment: Deployment, canary: Canary) -> str:
    """What no receiver seals: the run fails by an exception that nobody expected and that quotes
    it. Of another mode, for it takes all of its run along."""
    cipher = Cipher(deployment.settings.required_encryption_keys())
    sealed = str(cipher.encrypt(json.dumps({"expires_at": canary.sealed_token})))
    return requests.file(
        deployment.conn,
        kind="sync",
        mode="full",
        organization_id="canary-unfit",
        bring=NewCredentials(shop="canary-unfit.myshopify.com", name=None, sealed=sealed),
    )


def _deliver(deployment: Deployment, canary: Canary, store: SimulatedStore) -> None:
    """A hint whose read Postgres refuses once, a forged one, two that are not what they should be,
    and a request for a person's data."""
    customer = int(store.ids()[-1])
    once = {"at": ["data", "nodes", 0, "createdAt"], "value": canary.email}
    fault = {"kind": "altered", "operation": "CustomersById", "options": once}
    store.ask("POST", "/faults", fault)
    whole = json.dumps({"id": customer, "email": canary.email, "note": canary.note})
    person = {"id": customer, "email": canary.email, "phone": canary.phone}
    asked = {"shop_domain": store.shop, "customer": person, "data_request": {"id": 1}}
    for topic, body, secret, status in (
        ("customers/update", whole, canary.webhook_secret, 200),
        ("customers/update", whole, "forged", 401),
        ("customers/update", whole[:-1], canary.webhook_secret, 200),
        ("customers/redact", json.dumps(asked), canary.webhook_secret, 200),
        ("customers/data_request", json.dumps(asked), canary.webhook_secret, 200),
    ):
        headers = {
            "X-Shopify-Topic": topic,
            "X-Shopify-Shop-Domain": store.shop,
            "X-Shopify-Hmac-Sha256": signature(body.encode(), secret),
        }
        sent = http.post(deployment.webhooks_uri, data=body.encode(), headers=headers, timeout=10)
        assert sent.status_code == status, (topic, sent.text)


def _settled(deployment: Deployment) -> bool:
    states = deployment.select(
        """SELECT "status" FROM webhook_events WHERE "organizationId" = 'canary' ORDER BY 1"""
    )
    return [state for (state,) in states] == ["dead", "dead", "done", "done"]
