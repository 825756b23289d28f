"""Every error Shopsync raises on purpose, as one tree; a class's docstring is its meaning.

ShopsyncError
├── ConfigurationError          a setting, a file or a database is not as it must be
│   └── SchemaMismatch          the database is ahead of or behind this release
├── LeftOut                     nothing more is done of the store for now
│   ├── IntegrationInactive     it was disconnected while it was being synced
│   └── IntegrationPaused       a person has paused it
├── SyncConflict                two pulls met in one window
├── BadDelivery                 an HTTP request that is no webhook
├── BadBody                     a signed webhook that is not what its topic says: a dead letter
├── Fault                       an exception nobody expected, told without its text
├── DatabaseTrouble             Postgres did not do what was asked
│   └── RowRefused              for what a row holds: the same row would be refused again
└── ShopifyError                Shopify did not give what was asked; names the store
    ├── RetryableError          the same request may succeed later
    │   ├── Unreachable         no whole answer: refused, reset, timed out
    │   ├── Throttled           the cost bucket is too low, or HTTP 429
    │   ├── ServerTrouble       HTTP 5xx, INTERNAL_SERVER_ERROR
    │   ├── BrokenAnswer        truncated, not JSON, or data together with errors
    │   ├── BulkFailed          a bulk operation that did not end well, or a result not whole
    │   └── BulkUnfinished      Shopify is still at work on a bulk operation
    ├── StoreTrouble            this store must be mended by a person; others go on
    │   ├── NeedsReauth         401: the token is refused
    │   ├── NeedsScope          403, ACCESS_DENIED: the app may not read this
    │   ├── StorePaused         402, 423, SHOP_INACTIVE: frozen, unpaid or locked
    │   └── StoreGone           404, a redirect, another shop's id: closed or renamed
    └── QueryRefused            permanent: asking again gives the same answer
        ├── CostTooHigh         MAX_COST_EXCEEDED: ask for smaller pages
        ├── CursorRefused       the cursor is no longer accepted
        ├── FilterIgnored       Shopify answered a wider question than the one asked
        ├── PagingStuck         the same end cursor came twice
        └── WrongApiVersion     another API version answered than the one asked

Whether to try again is decided here, by type, and nowhere else. No message carries a token,
a customer's data or a response body.
"""

from datetime import datetime, timedelta


class ShopsyncError(Exception):
    """The message says what happened, to whom, and what to do."""


class ConfigurationError(ShopsyncError):
    """Nothing can start until the named setting, file or database is mended."""


class SchemaMismatch(ConfigurationError):
    """The tables are not those of this release."""


class LeftOut(ShopsyncError):
    """The work on the store stopped, through no trouble of it. Whoever must know whether it left
    catches IntegrationInactive, which a pause is not."""


class IntegrationInactive(LeftOut):
    """The merge stopped because the integration is no longer active."""


class IntegrationPaused(LeftOut):
    """A person has paused the store; the message says since when, and how to resume it."""


class SyncConflict(ShopsyncError):
    """Another pull moved this integration's window; nothing of this page was stored."""


class BadDelivery(ShopsyncError):
    """The message names the header that is missing or malformed; answered 400."""


class BadBody(ShopsyncError):
    """The message says what is wrong with the body and quotes nothing of it."""


class Fault(ShopsyncError):
    """What `faults.guarded` makes of an exception that is none of these: its own text may quote
    data."""


class DatabaseTrouble(ShopsyncError):
    """Carries the SQLSTATE and never a value: Postgres quotes rows in its own messages."""


class RowRefused(DatabaseTrouble):
    """A value or a row broke a rule of its table or type (SQLSTATE classes 22 and 23)."""


class ShopifyError(ShopsyncError):
    """`shop` is the store's myshopify domain; `remedy` is the sentence for the operator."""

    remedy = "Try again; if it stays, check https://www.shopifystatus.com."

    def __init__(self, shop: str, what: str, remedy: str | None = None) -> None:
        self.shop = shop
        self.what = what.rstrip(".")  # where Shopify's own words end it
        self.remedy = remedy or self.remedy
        super().__init__(f"{shop}: {self.what}. {self.remedy}")


class RetryableError(ShopifyError):
    """`wait` is the number of seconds Shopify asked for, or None where it said nothing."""

    def __init__(self, shop: str, what: str, wait: float | None = None) -> None:
        self.wait = wait
        super().__init__(shop, what)


class Unreachable(RetryableError):
    """No whole HTTP answer arrived."""


class Throttled(RetryableError):
    """Refused for now by the rate limit; nothing was executed."""


class ServerTrouble(RetryableError):
    """Shopify failed to execute the request."""


class BrokenAnswer(RetryableError):
    """An answer arrived that cannot be trusted as complete."""


class BulkFailed(RetryableError):
    """Nothing of the operation counts; the next sync reads pages."""

    remedy = "For a week the store is read by pages instead; nothing that was merged is lost."


class BulkUnfinished(RetryableError):
    """The operation stays; the next sync takes it up."""

    remedy = "The next sync takes it up again; large stores may take hours at Shopify."


class StoreTrouble(ShopifyError):
    """`status` is what integrations.status becomes."""

    status = "ok"


class NeedsReauth(StoreTrouble):
    """The access token is refused."""

    status = "needs_reauth"
    remedy = "Connect the store again with a valid token: shopsync connect."


class NeedsScope(StoreTrouble):
    """The app lacks a scope, the approval for protected customer data, or an allowed address."""

    status = "needs_scope"
    remedy = (
        "Grant the app read_customers and access to protected customer data, and check "
        "whether an IP allowlist of the app shuts this server out; then sync again."
    )


class StorePaused(StoreTrouble):
    """The store is frozen, unpaid or locked."""

    status = "paused"
    remedy = "The merchant must reactivate the store in Shopify; then sync again."


class StoreGone(StoreTrouble):
    """The store is closed, or now answers under another name or id."""

    status = "gone"
    remedy = "If the store was renamed, connect it under its new name; else disconnect it."


class QueryRefused(ShopifyError):
    """Shopify understood the request and will not answer it."""

    remedy = "This is a fault of Shopsync or of its API version; no data was skipped."


class CostTooHigh(QueryRefused):
    """One query may cost at most 1,000 points."""


class CursorRefused(QueryRefused):
    """Read on from the last updatedAt that was reached instead."""


class FilterIgnored(QueryRefused):
    """Rows outside the window, or a search warning: the filter was not applied."""


class PagingStuck(QueryRefused):
    """A page ended where it began, so the scan would never end."""


class WrongApiVersion(QueryRefused):
    """Shopify serves the oldest supported version in place of an expired one."""

    remedy = "Set SHOPIFY_API_VERSION to a supported version that this release was tested with."


CLOCKS_MAY_DIFFER = timedelta(minutes=1)
"""The schedule's clock and Postgres's, at the most."""


LEAST_REST = timedelta(minutes=5)
"""Of a store in trouble that a person, or an hour, must mend."""


def next_try(error: Exception, now: datetime) -> datetime | None:
    """When the schedule may touch this store again, or None where it need not wait.

    `now` is aware. The hourly schedule ticks on the hour, so a wait ends just before one: an
    hour counted from the failure itself would skip every second tick. A tick that is nearer than
    LEAST_REST is skipped, for the drain would be back at the store within seconds.
    """
    this_tick = now.replace(minute=0, second=0, microsecond=0) - CLOCKS_MAY_DIFFER
    if isinstance(error, (NeedsReauth, StorePaused)):
        return this_tick + timedelta(days=1)
    if not isinstance(error, ShopifyError) or isinstance(error, (BulkFailed, BulkUnfinished)):
        return None  # no trouble of the store: its webhooks go on
    hours = 1 if this_tick + timedelta(hours=1) > now + LEAST_REST else 2
    return this_tick + timedelta(hours=hours)
