"""The plain values that cross the rooms of the house; no I/O, no SQL, no Shopify, no Dagster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

Via = Literal["PULL", "WEBHOOK", "BULK", "RECONCILE"]
Mode = Literal["incremental", "full"]

# The columns of `customers` that Shopify fills, in the order of a CustomerRow. What is here is
# read, merged and compared; `integrationId`, ids and sync marks are ours and are not.
CUSTOMER_COLUMNS: tuple[str, ...] = (
    "shopifyId",
    "email",
    "phone",
    "firstName",
    "lastName",
    "name",
    "totalSpent",
    "currency",
    "ordersCount",
    "emailMarketingState",
    "emailMarketingOptInLevel",
    "emailMarketingUpdatedAt",
    "smsMarketingState",
    "smsMarketingOptInLevel",
    "smsMarketingUpdatedAt",
    "acceptsMarketing",
    "company",
    "address1",
    "address2",
    "city",
    "province",
    "provinceCode",
    "country",
    "countryCode",
    "zip",
    "tags",
    "note",
    "state",
    "locale",
    "verifiedEmail",
    "taxExempt",
    "shopifyCreatedAt",
    "shopifyUpdatedAt",
)

CustomerRow = tuple[Any, ...]
"""One customer in the order of CUSTOMER_COLUMNS: int id first, amounts as decimal text,
timestamps as Shopify's ISO text or None, tags as the text of a Postgres array, the last two never
None."""

UPDATED_AT = CUSTOMER_COLUMNS.index("shopifyUpdatedAt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A pull that is under way: `[since, until]` on Shopify's clock, whole seconds, inclusive.

    `since` is None for a full load. `cursor` and `reached` (the last `updatedAt` that was
    committed) are None until the first page is.
    """

    since: datetime | None
    until: datetime
    cursor: str | None = None
    reached: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """How to reach one store; exactly one of three kinds, all in the clear.

    - `access_token` alone: it does not expire.
    - `client_id` and `client_secret`: the client credentials grant gives `access_token`.
    - `refresh_token` besides both: an expiring offline token, renewed by rotation.

    `webhook_secret` signs the webhooks that were made by hand in the store's settings.
    """

    access_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    refresh_expires_at: datetime | None = None
    webhook_secret: str | None = field(default=None, repr=False)

    @property
    def renewable(self) -> bool:
        return self.client_id is not None and self.client_secret is not None

    def lasts(self, now: datetime, margin: timedelta = timedelta(0)) -> bool:
        """Whether the token that is held can be used at `now` + `margin`."""
        if self.access_token is None:
            return False
        return self.expires_at is None or self.expires_at > now + margin


def paused_since(organization_id: str, shop: str, at: datetime) -> str:
    """What a person is told of a store that was paused by one, with the remedy."""
    resume = f"shopsync resume {organization_id} {shop}"
    return f"paused since {at:%Y-%m-%d %H:%M} UTC; resume it: {resume}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Integration:
    """One store in one organization, without its credentials.

    `shop_id` is Shopify's numeric shop id, None until the first probe; `watermark` is the
    moment on Shopify's clock up to which everything was read; `realtime_since` is None while its
    webhooks are not subscribed; `paused_at` is None unless a person has paused it.
    """

    id: str
    organization_id: str
    shop: str
    name: str
    shop_id: int | None = None
    is_active: bool = True
    status: str = "ok"
    retry_at: datetime | None = None
    last_sync_at: datetime | None = None
    watermark: datetime | None = None
    window: Window | None = None
    last_error: str | None = None
    customers_count: int | None = None
    realtime_since: datetime | None = None
    paused_at: datetime | None = None

    @property
    def paused_told(self) -> str | None:
        """Since when it is paused by a person, and the remedy; None where it is not."""
        if self.paused_at is None:
            return None
        since = paused_since(self.organization_id, self.shop, self.paused_at)
        return f"{self.organization_id}, {self.shop}: {since}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Where rows come from, as the merge must know it.

    `sent_at` is the moment, on Postgres's clock, just before the request that read them was
    sent. `by_id` is True for reads by id, which alone may lift a deletion.
    """

    via: Via
    run_id: str
    sent_at: datetime
    by_id: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeCounts:
    """Rows by what the merge did with them."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0

    def __add__(self, other: "MergeCounts") -> "MergeCounts":
        return MergeCounts(
            inserted=self.inserted + other.inserted,
            updated=self.updated + other.updated,
            unchanged=self.unchanged + other.unchanged,
        )

    @property
    def rows(self) -> int:
        return self.inserted + self.updated + self.unchanged


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One HTTP delivery of a webhook, not yet verified: `shop`, `topic` and the ids are what its
    unsigned headers say, `signature` is the base64 text of the HMAC, `body` the raw bytes."""

    shop: str
    topic: str
    signature: bytes = field(repr=False)
    webhook_id: str
    event_id: str | None
    api_version: str | None
    triggered_at: datetime | None
    body: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookEvent:
    """A claimed row of `webhook_events`.

    `body` is None where Shopsync itself filed the row, whose `customer_id` says what to read.
    `attempts` counts failures of the event itself, `reads` those answers of Shopify that did not
    show yet what the event tells of.
    """

    id: str
    integration_id: str
    organization_id: str
    shop: str
    topic: str
    received_at: datetime
    body: bytes | None = field(repr=False)
    customer_id: int | None
    attempts: int
    reads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncRequest:
    """A row of `sync_requests`; `organization_id` is None for kind `cron` (all that are due), and
    `mode` is `off` only to turn real-time sync off.

    `shop` names the store whose new credentials the request brings, or None.
    """

    id: str
    kind: Literal["sync", "cron", "realtime", "reconcile"]
    organization_id: str | None
    mode: Mode | Literal["off"]
    status: Literal["queued", "running", "succeeded", "failed"]
    requested_at: datetime
    shop: str | None = None
    finished_at: datetime | None = None
    run_id: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
