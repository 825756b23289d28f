"""What each table and column means, for analysts: the comments in Postgres, the columns in
Dagster's catalog and the tables of `docs/analytics.md` say this. Migrations hold it frozen.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """`type` as information_schema's `udt_name` has it, an array with `[]`; `told` says meaning,
    unit, what null means, and where it is not plain the field of Shopify's `Customer`."""

    name: str
    type: str
    told: str


def _columns(text: str) -> tuple[Column, ...]:
    """Of lines `name type: what it means`; an indented line goes on with the one before."""
    lines = re.sub(r"\n +", " ", text.strip()).splitlines()
    found = [re.fullmatch(r"(\w+) (\S+): (.+)", line) for line in lines]
    return tuple(Column(name=m[1], type=m[2], told=m[3]) for m in found if m)


def _relations(text: str) -> dict[str, str]:
    """Of lines `name: what it is`, likewise."""
    lines = re.sub(r"\n +", " ", text.strip()).splitlines()
    return dict(line.split(": ", 1) for line in lines)


TABLES = _relations("""
customers: Every customer of every connected store, one row each, true to Shopify. Deleted
  customers keep their row, with deletedAt; redacted ones keep nothing but their ids.
integrations: One row for each store of each organization, with what it was read up to.
  Credentials are encrypted.
webhook_events: The inbox: one row for each webhook that was verified, kept for 90 days, its body
  for 7.
sync_requests: What the app, cron, the CLI or a person asked for, and what became of it; kept for
  90 days after its end.
customer_metrics: Figures of each organization, UTC day and currency, written every hour. A row of
  a finished day stays as its last run left it, but for customers that were heard of late. Kept
  for ever.
""")

VIEWS = _relations("""
customers: Every customer of every connected store, without deleted and redacted people. One row
  each; times with time zone.
integrations: The connected stores, and how fresh their customers are.
customer_metrics: Figures of each organization, UTC day and currency, written every hour. A row of
  a finished day stays as its last run left it, but for customers that were heard of late. Kept
  for ever.
""")

CUSTOMERS = _columns("""
id text: Our id of the row, a UUID of version 7. It never changes.
organizationId text: The organization that connected the store.
integrationId text: The store: id of integrations.
shopifyId int8: Shopify's id of the customer, unique in an organization. From Customer.id.
email text: E-mail address. Null: the customer has none. From defaultEmailAddress.emailAddress.
phone text: Phone number as +15551234567. Null: none. From defaultPhoneNumber.phoneNumber.
firstName text: First name. Null: not given.
lastName text: Last name. Null: not given.
name text: Name to show; the e-mail address or phone number where there is no name. From
  displayName.
totalSpent numeric: What the customer has spent in all, in currency. From amountSpent.amount. Add
  up only what has the same currency.
currency text: Currency of totalSpent, ISO 4217, which is the store's own. From
  amountSpent.currencyCode.
ordersCount int8: Orders the customer has made in all. From numberOfOrders.
emailMarketingState text: Consent to marketing by e-mail: SUBSCRIBED, NOT_SUBSCRIBED,
  UNSUBSCRIBED, PENDING or INVALID. Null: no e-mail address. From
  defaultEmailAddress.marketingState.
emailMarketingOptInLevel text: How that consent was given: SINGLE_OPT_IN, CONFIRMED_OPT_IN or
  UNKNOWN. Null: not told.
emailMarketingUpdatedAt timestamptz: When that consent was last changed. Null: never, or no e-mail
  address.
smsMarketingState text: Consent to marketing by SMS: SUBSCRIBED, NEVER_SUBSCRIBED, UNSUBSCRIBED,
  PENDING or REDACTED. Null: no phone number. From defaultPhoneNumber.smsMarketingConsent.state.
smsMarketingOptInLevel text: How that consent was given: SINGLE_OPT_IN, CONFIRMED_OPT_IN or
  UNKNOWN. Null: not told.
smsMarketingUpdatedAt timestamptz: When that consent was last changed. Null: never, or no phone
  number.
acceptsMarketing bool: Whether emailMarketingState is SUBSCRIBED.
company text: Company of the default address, as all columns up to zip. Null: not given.
address1 text: First line of the default address. Null: not given.
address2 text: Second line of the default address. Null: not given.
city text: City of the default address. Null: not given.
province text: Province or state of the default address. Null: not given.
provinceCode text: Code of that province, such as ON. Null: not given.
country text: Country of the default address, in English. Null: no default address.
countryCode text: Code of that country, ISO 3166-1 alpha-2. Null: no default address.
zip text: Postal code of the default address. Null: not given.
tags text[]: Tags that the merchant or an app has put on the customer. Empty: none.
note text: The merchant's note on the customer. Null: none.
state text: State of the customer's account with the store: DISABLED (none yet), INVITED, ENABLED
  or DECLINED.
locale text: Language in which the store writes to the customer, such as de-DE.
verifiedEmail bool: Whether the customer has confirmed the e-mail address.
taxExempt bool: Whether the customer pays no taxes.
source text: Where the customer comes from: always SHOPIFY.
shopifyCreatedAt timestamptz: When the customer was made in Shopify. From createdAt.
shopifyUpdatedAt timestamptz: When the customer was last changed in Shopify. From updatedAt, which
  orders and consent do not always move.
deletedAt timestamptz: When we found the customer deleted or merged in Shopify. Null: not deleted.
  Readers filter for null.
mergedIntoId int8: Shopify's id of the customer into which this one was merged, or null.
redactedAt timestamptz: When the person was erased by law; everything Shopify told is null then.
  Null: not erased.
createdAt timestamptz: When the row was first written here.
updatedAt timestamptz: When the row was last written here.
lastSyncedAt timestamptz: When the request was sent that read this content. A row that Shopify
  shows unchanged is not written, so this is not its freshness; see integrations.
lastSyncRunId text: Id of the Dagster run that wrote the row.
lastSyncVia text: The road it came by: PULL, WEBHOOK, BULK or RECONCILE.
earlierSyncs jsonb: The at, via and run that the last three columns had before, newest first, the
  newest ten. Null: written once, or the person was erased.
""")

CUSTOMER_METRICS = _columns("""
organizationId text: The organization.
day date: The day, in UTC.
currency text: ISO 4217. Each customer counts in one currency, that of totalSpent, so the counts
  of an organization's currencies add up. XXX: no currency, of people erased that day and of
  organizations without customers.
newCustomers int8: Customers made in Shopify that day, deleted ones included.
changedCustomers int8: Customers made earlier whose last change in Shopify was that day; at least
  so many, for a later change hides an earlier one. Null: nothing was measured that day.
deletedCustomers int8: Customers found deleted, merged or erased that day. Those we had never read
  do not count.
customers int8: Customers at measuredAt, without deleted ones; where that is null, reckoned for
  the end of the day from what is known of new and deleted ones.
spend numeric: What those customers had spent in all until measuredAt, in currency. Null: nothing
  was measured that day.
emailOptIns int8: Of those customers, those who consent to marketing by e-mail. Null: nothing was
  measured that day.
smsOptIns int8: Of those customers, those who consent to marketing by SMS. Null: nothing was
  measured that day.
hoursSinceSync float8: Hours at measuredAt since the last complete sync of the organization's
  stalest active store that nobody has paused; the same in each currency. Null: no such store, or
  none was synced yet.
webhookLagSeconds float8: Median seconds from a change in Shopify to the row, of changes that came
  by webhook that day until measuredAt; the same in each currency. Null: none came.
pullLagSeconds float8: Median seconds from a change of that day in Shopify to its being read, of
  customers whose content came by a pull; the same in each currency. Null: none did.
measuredAt timestamptz: When the day's figures were last measured. Null: reckoned later, for no
  run was made that day.
""")

RATES = _columns("""
email_opt_in_rate numeric: Share of customers, from 0 to 1: email_opt_ins by customers. Null: no
  customers.
sms_opt_in_rate numeric: Share of customers, from 0 to 1: sms_opt_ins by customers. Null: no
  customers.
""")

INTEGRATIONS_VIEW = _columns("""
name text: Name of the store, as it was connected.
shop text: The store's domain at Shopify, such as my-store.myshopify.com.
last_sync_at timestamptz: Up to this moment, on Shopify's clock, everything was read. Null: never
  synced to the end.
is_active bool: Whether the store is connected. Customers of one that left stay as read.
status text: ok, needs_reauth (connect it again), needs_scope, paused (frozen by Shopify) or gone.
organization_id text: The organization that connected the store.
integration_id text: Id of the store; customers.integration_id.
realtime_since timestamptz: Since when Shopify tells of changes at once. Null: real-time sync is
  off, changes come by the hourly sync.
paused_at timestamptz: Since when a person has paused the store, of which nothing is read meanwhile.
  Null: not paused.
""")

NEVER_SHOWN = ("deletedAt", "mergedIntoId", "redactedAt", "earlierSyncs")
"""Columns of `customers` that the view has not: nobody it shows has them, or operators do."""


def snake_case(name: str) -> str:
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)


def _as_shown(column: Column) -> Column:
    return Column(name=snake_case(column.name), type=column.type, told=_spelled(column.told))


def _spelled(told: str) -> str:
    """The columns that a text names are named as the view has them; after `From`, fields of
    Shopify's keep their name."""
    names = {c.name for c in (*CUSTOMERS, *CUSTOMER_METRICS) if c.name != c.name.lower()}
    return re.sub(
        r"(?<!From )\b\w+", lambda word: snake_case(word[0]) if word[0] in names else word[0], told
    )


ANALYTICS = {
    "customers": tuple(_as_shown(c) for c in CUSTOMERS if c.name not in NEVER_SHOWN),
    "integrations": INTEGRATIONS_VIEW,
    "customer_metrics": (*(_as_shown(c) for c in CUSTOMER_METRICS), *RATES),
}
"""The columns of each view in the schema `analytics`."""
