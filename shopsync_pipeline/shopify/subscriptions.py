"""Which webhooks a store must send us, and what to change so that it does: pure functions.

Shopify keeps subscriptions per app and store; one may be ours, an operator's, another
deployment's. Only those that carry this deployment's name are ever changed or removed.
"""

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from shopsync_pipeline.errors import NeedsScope, QueryRefused
from shopsync_pipeline.shopify.answers import as_documented, quoted
from shopsync_pipeline.shopify.webhooks import COMPLIANCE_TOPICS

PATH = "/api/webhooks/shopify"
FORMAT = "JSON"
LONGEST_NAME = 50
"""Letters, digits, '_' and '-', unique in the store: https://shopify.dev/changelog/
webhook-subscriptions-now-support-a-name-field-for-identification"""

HINT_FIELDS = ("id", "admin_graphql_api_id", "updated_at")
"""All of the body that a hint needs. Without `updated_at` two edits would have equal bodies, of
which Shopify sends one."""

WHOLE_BODY: tuple[str, ...] = ()

# Topic: the scope that it needs, and the fields of its body that are sent.
TOPICS: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
    "CUSTOMERS_CREATE": ("read_customers", HINT_FIELDS),
    "CUSTOMERS_UPDATE": ("read_customers", HINT_FIELDS),
    "CUSTOMERS_ENABLE": ("read_customers", HINT_FIELDS),
    "CUSTOMERS_DISABLE": ("read_customers", HINT_FIELDS),
    "CUSTOMERS_DELETE": ("read_customers", WHOLE_BODY),
    "CUSTOMERS_PURCHASING_SUMMARY": ("read_customers", WHOLE_BODY),
    "CUSTOMERS_EMAIL_MARKETING_CONSENT_UPDATE": ("read_customers", WHOLE_BODY),
    "CUSTOMERS_MARKETING_CONSENT_UPDATE": ("read_customers", WHOLE_BODY),
    "CUSTOMER_TAGS_ADDED": ("read_customers", WHOLE_BODY),
    "CUSTOMER_TAGS_REMOVED": ("read_customers", WHOLE_BODY),
    "CUSTOMERS_MERGE": ("read_customer_merge", WHOLE_BODY),
    "APP_UNINSTALLED": (None, WHOLE_BODY),
    "APP_SCOPES_UPDATE": (None, WHOLE_BODY),
    "SHOP_UPDATE": (None, WHOLE_BODY),
}

SET_IN_THE_APP = tuple(sorted(COMPLIANCE_TOPICS))
"""Topics that cannot be subscribed here: they are no members of Shopify's enum, and are given one
address for all stores in the app's own configuration."""

ORDER = ("remove", "update", "create")
"""A name and an address must be free before another subscription can have them."""

OPERATIONS = {
    "create": "WebhookSubscriptionCreate",
    "update": "WebhookSubscriptionUpdate",
    "remove": "WebhookSubscriptionDelete",
}

NOT_GRANTED = ("scope", "permission", "access", "approved", "specified topic")
"""In the text of a refusal: the app may not have this topic ("You cannot create a webhook
subscription with the specified topic")."""

REFUSED_REMEDY = (
    "The hourly pull goes on without it; check APP_URL and the app's settings, then turn "
    "real-time sync on again."
)

APP_URL_REMEDY = (
    "Set APP_URL to the https address at which the receiver is reached from the internet (for a "
    "trial that of a tunnel, such as ngrok gives), restart, and turn real-time sync on again."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Receiver:
    """Where webhooks go, and under which name they are subscribed.

    `deployment` is made from the address: a staging copy of the database has another APP_URL, so
    it finds nothing of production's to be its own, though it holds the same tokens. What an
    address that is no longer used leaves behind is removed by Shopify after eight failures.
    """

    uri: str
    deployment: str

    @classmethod
    def at(cls, app_url: str) -> Self:
        """The scheme is no part of the name: moving to https changes a subscription in place."""
        parts = urlsplit(app_url)
        place = parts.netloc.lower() + parts.path.rstrip("/")
        digest = hashlib.sha256(place.encode()).hexdigest()
        return cls(uri=f"{parts.scheme}://{place}{PATH}", deployment=f"shopsync-{digest[:12]}")

    def name(self, topic: str) -> str:
        """Cut to what Shopify takes, behind which no two of TOPICS are alike."""
        return f"{self.deployment}-{topic.lower()}"[:LONGEST_NAME]

    def owns(self, found: "Subscription") -> bool:
        return found.name is not None and found.name.startswith(f"{self.deployment}-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscription:
    """One that Shopify has; no `fields` means the whole body."""

    id: str
    topic: str
    name: str | None
    uri: str
    format: str
    fields: frozenset[str]
    filter: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One that Shopify should have; no `fields` means the whole body."""

    topic: str
    name: str
    uri: str
    fields: tuple[str, ...]

    def is_met_by(self, found: Subscription) -> bool:
        """A filter keeps events from us, so none may be set."""
        return (
            (found.topic, found.name, found.uri) == (self.topic, self.name, self.uri)
            and found.fields == frozenset(self.fields)
            and found.format == FORMAT
            and not found.filter
        )

    def as_input(self) -> dict[str, Any]:
        """A WebhookSubscriptionInput that says everything, so that it also undoes changes."""
        return {
            "name": self.name,
            "uri": self.uri,
            "format": FORMAT,
            "includeFields": list(self.fields) or None,
            "filter": None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One mutation; `id` is None only to create, `wanted` only to remove."""

    kind: Literal["remove", "update", "create"]
    topic: str
    id: str | None = None
    wanted: Wanted | None = None

    @property
    def operation(self) -> str:
        return OPERATIONS[self.kind]

    @property
    def variables(self) -> dict[str, Any]:
        which = {"topic": self.topic} if self.id is None else {"id": self.id}
        return which | ({"subscription": self.wanted.as_input()} if self.wanted else {})


def cannot_reach(app_url: str | None, *, simulated: bool) -> str | None:
    """Why Shopify could not deliver there, and what to do; None for an address that may do.

    `simulated` is True where a simulator on this machine stands for Shopify, which reaches all.
    """
    if not app_url:
        return f"APP_URL is not set, so Shopify has no address for webhooks. {APP_URL_REMEDY}"
    parts = urlsplit(app_url)
    if simulated or (parts.scheme == "https" and _is_public(parts.hostname or "")):
        return None
    return f"APP_URL is {app_url}, where Shopify cannot deliver webhooks. {APP_URL_REMEDY}"


def wanted_of(scopes: Collection[str], receiver: Receiver) -> list[Wanted]:
    """What a store that grants these scopes should send to `receiver`."""
    return [
        Wanted(topic=topic, name=receiver.name(topic), uri=receiver.uri, fields=fields)
        for topic, (scope, fields) in TOPICS.items()
        if _granted(scope, scopes)
    ]


def lacking(scopes: Collection[str]) -> dict[str, str]:
    """The topics that cannot be subscribed, each with the scope that is not granted."""
    return {
        topic: scope
        for topic, (scope, _) in TOPICS.items()
        if scope is not None and not _granted(scope, scopes)
    }


def subscriptions_of(shop: str, data: Mapping[str, Any]) -> tuple[list[Subscription], str | None]:
    """From the data of WebhookSubscriptions.graphql, with the cursor to the next ones. Raises
    BrokenAnswer where it is not as documented, or there are more and no cursor."""
    with as_documented(shop, "the list of webhook subscriptions"):
        page = data["webhookSubscriptions"]
        found = [_subscription(node) for node in page["nodes"]]
        if not page["pageInfo"]["hasNextPage"]:
            return found, None
        if not (cursor := page["pageInfo"]["endCursor"]):
            raise ValueError("more of them, but no cursor")
        return found, str(cursor)


def _subscription(node: Mapping[str, Any]) -> Subscription:
    return Subscription(
        id=node["id"],
        topic=node["topic"],
        name=node["name"],
        uri=node["uri"],
        format=node["format"],
        fields=frozenset(node["includeFields"] or ()),
        filter=node["filter"],
    )


def plan(
    wanted: Sequence[Wanted], found: Sequence[Subscription], receiver: Receiver
) -> list[Change]:
    """What turns `found` into `wanted`, in the order in which it must be done.

    One without a name that delivers a wanted topic to exactly our address is taken over; any
    other that does not carry our name is left alone.
    """
    changes: list[Change] = []
    kept: set[str] = set()
    for want in wanted:
        have = _closest(want, found, receiver)
        if have is None:
            changes.append(Change(kind="create", topic=want.topic, wanted=want))
            continue
        kept.add(have.id)
        if not want.is_met_by(have):
            changes.append(Change(kind="update", topic=want.topic, id=have.id, wanted=want))
    changes.extend(
        Change(kind="remove", topic=each.topic, id=each.id)
        for each in found
        if receiver.owns(each) and each.id not in kept
    )
    return sorted(changes, key=lambda change: ORDER.index(change.kind))


def refusal_of(
    shop: str, change: Change, data: Mapping[str, Any]
) -> NeedsScope | QueryRefused | None:
    """What the `userErrors` in the data of a mutation's answer mean; None where it was done."""
    with as_documented(shop, "the answer to a change of webhook subscriptions"):
        (payload,) = data.values()
        told = "; ".join(quoted(e["message"]) for e in payload["userErrors"])
    if not told:
        return None
    what = f"Shopify refused to {change.kind} the webhook subscription {change.topic}: {told}"
    if any(word in told.lower() for word in NOT_GRANTED):
        return NeedsScope(shop, what)
    return QueryRefused(shop, what, REFUSED_REMEDY)


def _closest(
    want: Wanted, found: Iterable[Subscription], receiver: Receiver
) -> Subscription | None:
    candidates = [
        each
        for each in found
        if each.topic == want.topic
        and (receiver.owns(each) or (not each.name and each.uri == want.uri))
    ]
    return min(
        candidates,
        key=lambda each: (not want.is_met_by(each), each.uri != want.uri, each.id),
        default=None,
    )


def _granted(scope: str | None, scopes: Collection[str]) -> bool:
    """Who may write may read, also where Shopify lists the writing scope alone."""
    return scope is None or scope in scopes or scope.replace("read_", "write_") in scopes


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        private = (".localhost", ".local", ".internal", ".test")
        return "." in host and not host.endswith(private)
