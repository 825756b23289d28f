"""Figures by day for analysts, and what every column means, as comments."""

import re

from alembic import op

revision = "0007"
down_revision = "0006"

# One row for each organization, UTC day and currency. `measuredAt` is null where no run was made
# that day, and what only a look on that day would have known is null too.
CUSTOMER_METRICS_TABLE = """
CREATE TABLE customer_metrics (
  "organizationId" text NOT NULL,
  "day" date NOT NULL,
  "currency" text NOT NULL,
  "newCustomers" bigint NOT NULL,
  "changedCustomers" bigint,
  "deletedCustomers" bigint NOT NULL,
  "customers" bigint NOT NULL,
  "spend" numeric,
  "emailOptIns" bigint,
  "smsOptIns" bigint,
  "hoursSinceSync" double precision,
  "webhookLagSeconds" double precision,
  "pullLagSeconds" double precision,
  "measuredAt" timestamptz(3),
  PRIMARY KEY ("organizationId", "day", "currency")
);
CREATE INDEX "customer_metrics_day" ON customer_metrics ("day");
"""

VIEW = """
CREATE VIEW analytics.customer_metrics AS SELECT
  "organizationId" AS organization_id, "day" AS day, "currency" AS currency,
  "newCustomers" AS new_customers, "changedCustomers" AS changed_customers,
  "deletedCustomers" AS deleted_customers, "customers" AS customers, "spend" AS spend,
  "emailOptIns" AS email_opt_ins, "smsOptIns" AS sms_opt_ins,
  "hoursSinceSync" AS hours_since_sync, "webhookLagSeconds" AS webhook_lag_seconds,
  "pullLagSeconds" AS pull_lag_seconds, "measuredAt" AS measured_at,
  round("emailOptIns"::numeric / nullif("customers", 0), 4) AS email_opt_in_rate,
  round("smsOptIns"::numeric / nullif("customers", 0), 4) AS sms_opt_in_rate
FROM public.customer_metrics;
"""

# Columns are added at the end, so that what was granted on the view stays.
INTEGRATIONS_VIEW = """
CREATE OR REPLACE VIEW analytics.integrations AS SELECT
  "name" AS name, "shop" AS shop, "lastSyncAt" AS last_sync_at, "isActive" AS is_active,
  "status" AS status, "organizationId" AS organization_id, "id" AS integration_id,
  "realtimeSince" AS realtime_since, "pausedAt" AS paused_at
FROM public.integrations;
"""

TABLES = """
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
"""

VIEWS = """
customers: Every customer of every connected store, without deleted and redacted people. One row
  each; times with time zone.
integrations: The connected stores, and how fresh their customers are.
customer_metrics: Figures of each organization, UTC day and currency, written every hour. A row of
  a finished day stays as its last run left it, but for customers that were heard of late. Kept
  for ever.
"""

CUSTOMERS = """
id: Our id of the row, a UUID of version 7. It never changes.
organizationId: The organization that connected the store.
integrationId: The store: id of integrations.
shopifyId: Shopify's id of the customer, unique in an organization. From Customer.id.
email: E-mail address. Null: the customer has none. From defaultEmailAddress.emailAddress.
phone: Phone number as +15551234567. Null: none. From defaultPhoneNumber.phoneNumber.
firstName: First name. Null: not given.
lastName: Last name. Null: not given.
name: Name to show; the e-mail address or phone number where there is no name. From displayName.
totalSpent: What the customer has spent in all, in currency. From amountSpent.amount. Add up only
  what has the same currency.
currency: Currency of totalSpent, ISO 4217, which is the store's own. From
  amountSpent.currencyCode.
ordersCount: Orders the customer has made in all. From numberOfOrders.
emailMarketingState: Consent to marketing by e-mail: SUBSCRIBED, NOT_SUBSCRIBED, UNSUBSCRIBED,
  PENDING or INVALID. Null: no e-mail address. From defaultEmailAddress.marketingState.
emailMarketingOptInLevel: How that consent was given: SINGLE_OPT_IN, CONFIRMED_OPT_IN or UNKNOWN.
  Null: not told.
emailMarketingUpdatedAt: When that consent was last changed. Null: never, or no e-mail address.
smsMarketingState: Consent to marketing by SMS: SUBSCRIBED, NEVER_SUBSCRIBED, UNSUBSCRIBED,
  PENDING or REDACTED. Null: no phone number. From defaultPhoneNumber.smsMarketingConsent.state.
smsMarketingOptInLevel: How that consent was given: SINGLE_OPT_IN, CONFIRMED_OPT_IN or UNKNOWN.
  Null: not told.
smsMarketingUpdatedAt: When that consent was last changed. Null: never, or no phone number.
acceptsMarketing: Whether emailMarketingState is SUBSCRIBED.
company: Company of the default address, as all columns up to zip. Null: not given.
address1: First line of the default address. Null: not given.
address2: Second line of the default address. Null: not given.
city: City of the default address. Null: not given.
province: Province or state of the default address. Null: not given.
provinceCode: Code of that province, such as ON. Null: not given.
country: Country of the default address, in English. Null: no default address.
countryCode: Code of that country, ISO 3166-1 alpha-2. Null: no default address.
zip: Postal code of the default address. Null: not given.
tags: Tags that the merchant or an app has put on the customer. Empty: none.
note: The merchant's note on the customer. Null: none.
state: State of the customer's account with the store: DISABLED (none yet), INVITED, ENABLED or
  DECLINED.
locale: Language in which the store writes to the customer, such as de-DE.
verifiedEmail: Whether the customer has confirmed the e-mail address.
taxExempt: Whether the customer pays no taxes.
source: Where the customer comes from: always SHOPIFY.
shopifyCreatedAt: When the customer was made in Shopify. From createdAt.
shopifyUpdatedAt: When the customer was last changed in Shopify. From updatedAt, which orders and
  consent do not always move.
deletedAt: When we found the customer deleted or merged in Shopify. Null: not deleted. Readers
  filter for null.
mergedIntoId: Shopify's id of the customer into which this one was merged, or null.
redactedAt: When the person was erased by law; everything Shopify told is null then. Null: not
  erased.
createdAt: When the row was first written here.
updatedAt: When the row was last written here.
lastSyncedAt: When the request was sent that read this content. A row that Shopify shows unchanged
  is not written, so this is not its freshness; see integrations.
lastSyncRunId: Id of the Dagster run that wrote the row.
lastSyncVia: The road it came by: PULL, WEBHOOK, BULK or RECONCILE.
earlierSyncs: The at, via and run that the last three columns had before, newest first, the newest
  ten. Null: written once, or the person was erased.
"""

CUSTOMER_METRICS = """
organizationId: The organization.
day: The day, in UTC.
currency: ISO 4217. Each customer counts in one currency, that of totalSpent, so the counts of an
  organization's currencies add up. XXX: no currency, of people erased that day and of
  organizations without customers.
newCustomers: Customers made in Shopify that day, deleted ones included.
changedCustomers: Customers made earlier whose last change in Shopify was that day; at least so
  many, for a later change hides an earlier one. Null: nothing was measured that day.
deletedCustomers: Customers found deleted, merged or erased that day. Those we had never read do
  not count.
customers: Customers at measuredAt, without deleted ones; where that is null, reckoned for the end
  of the day from what is known of new and deleted ones.
spend: What those customers had spent in all until measuredAt, in currency. Null: nothing was
  measured that day.
emailOptIns: Of those customers, those who consent to marketing by e-mail. Null: nothing was
  measured that day.
smsOptIns: Of those customers, those who consent to marketing by SMS. Null: nothing was measured
  that day.
hoursSinceSync: Hours at measuredAt since the last complete sync of the organization's
  stalest active store that nobody has paused; the same in each currency. Null: no such store, or
  none was synced yet.
webhookLagSeconds: Median seconds from a change in Shopify to the row, of changes that came by
  webhook that day until measuredAt; the same in each currency. Null: none came.
pullLagSeconds: Median seconds from a change of that day in Shopify to its being read, of
  customers whose content came by a pull; the same in each currency. Null: none did.
measuredAt: When the day's figures were last measured. Null: reckoned later, for no run was made
  that day.
"""

ANALYTICS_CUSTOMERS = """
id: Our id of the row, a UUID of version 7. It never changes.
organization_id: The organization that connected the store.
integration_id: The store: id of integrations.
shopify_id: Shopify's id of the customer, unique in an organization. From Customer.id.
email: E-mail address. Null: the customer has none. From defaultEmailAddress.emailAddress.
phone: Phone number as +15551234567. Null: none. From defaultPhoneNumber.phoneNumber.
first_name: First name. Null: not given.
last_name: Last name. Null: not given.
name: Name to show; the e-mail address or phone number where there is no name. From displayName.
total_spent: What the customer has spent in all, in currency. From amountSpent.amount. Add up only
  what has the same currency.
currency: Currency of total_spent, ISO 4217, which is the store's own. From
  amountSpent.currencyCode.
orders_count: Orders the customer has made in all. From numberOfOrders.
email_marketing_state: Consent to marketing by e-mail: SUBSCRIBED, NOT_SUBSCRIBED, UNSUBSCRIBED,
  PENDING or INVALID. Null: no e-mail address. From defaultEmailAddress.marketingState.
email_marketing_opt_in_level: How that consent was given: SINGLE_OPT_IN, CONFIRMED_OPT_IN or
  UNKNOWN. Null: not told.
email_marketing_updated_at: When that consent was last changed. Null: never, or no e-mail address.
sms_marketing_state: Consent to marketing by SMS: SUBSCRIBED, NEVER_SUBSCRIBED, UNSUBSCRIBED,
  PENDING or REDACTED. Null: no phone number. From defaultPhoneNumber.smsMarketingConsent.state.
sms_marketing_opt_in_level: How that consent was given: SINGLE_OPT_IN, CONFIRMED_OPT_IN or
  UNKNOWN. Null: not told.
sms_marketing_updated_at: When that consent was last changed. Null: never, or no phone number.
accepts_marketing: Whether email_marketing_state is SUBSCRIBED.
company: Company of the default address, as all columns up to zip. Null: not given.
address1: First line of the default address. Null: not given.
address2: Second line of the default address. Null: not given.
city: City of the default address. Null: not given.
province: Province or state of the default address. Null: not given.
province_code: Code of that province, such as ON. Null: not given.
country: Country of the default address, in English. Null: no default address.
country_code: Code of that country, ISO 3166-1 alpha-2. Null: no default address.
zip: Postal code of the default address. Null: not given.
tags: Tags that the merchant or an app has put on the customer. Empty: none.
note: The merchant's note on the customer. Null: none.
state: State of the customer's account with the store: DISABLED (none yet), INVITED, ENABLED or
  DECLINED.
locale: Language in which the store writes to the customer, such as de-DE.
verified_email: Whether the customer has confirmed the e-mail address.
tax_exempt: Whether the customer pays no taxes.
source: Where the customer comes from: always SHOPIFY.
shopify_created_at: When the customer was made in Shopify. From createdAt.
shopify_updated_at: When the customer was last changed in Shopify. From updatedAt, which orders
  and consent do not always move.
created_at: When the row was first written here.
updated_at: When the row was last written here.
last_synced_at: When the request was sent that read this content. A row that Shopify shows
  unchanged is not written, so this is not its freshness; see integrations.
last_sync_run_id: Id of the Dagster run that wrote the row.
last_sync_via: The road it came by: PULL, WEBHOOK, BULK or RECONCILE.
"""

ANALYTICS_INTEGRATIONS = """
name: Name of the store, as it was connected.
shop: The store's domain at Shopify, such as my-store.myshopify.com.
last_sync_at: Up to this moment, on Shopify's clock, everything was read. Null: never synced to
  the end.
is_active: Whether the store is connected. Customers of one that left stay as read.
status: ok, needs_reauth (connect it again), needs_scope, paused (frozen by Shopify) or gone.
organization_id: The organization that connected the store.
integration_id: Id of the store; customers.integration_id.
realtime_since: Since when Shopify tells of changes at once. Null: real-time sync is off, changes
  come by the hourly sync.
paused_at: Since when a person has paused the store, of which nothing is read meanwhile. Null: not
  paused.
"""

ANALYTICS_CUSTOMER_METRICS = """
organization_id: The organization.
day: The day, in UTC.
currency: ISO 4217. Each customer counts in one currency, that of total_spent, so the counts of an
  organization's currencies add up. XXX: no currency, of people erased that day and of
  organizations without customers.
new_customers: Customers made in Shopify that day, deleted ones included.
changed_customers: Customers made earlier whose last change in Shopify was that day; at least so
  many, for a later change hides an earlier one. Null: nothing was measured that day.
deleted_customers: Customers found deleted, merged or erased that day. Those we had never read do
  not count.
customers: Customers at measured_at, without deleted ones; where that is null, reckoned for the
  end of the day from what is known of new and deleted ones.
spend: What those customers had spent in all until measured_at, in currency. Null: nothing was
  measured that day.
email_opt_ins: Of those customers, those who consent to marketing by e-mail. Null: nothing was
  measured that day.
sms_opt_ins: Of those customers, those who consent to marketing by SMS. Null: nothing was measured
  that day.
hours_since_sync: Hours at measured_at since the last complete sync of the organization's
  stalest active store that nobody has paused; the same in each currency. Null: no such store, or
  none was synced yet.
webhook_lag_seconds: Median seconds from a change in Shopify to the row, of changes that came by
  webhook that day until measured_at; the same in each currency. Null: none came.
pull_lag_seconds: Median seconds from a change of that day in Shopify to its being read, of
  customers whose content came by a pull; the same in each currency. Null: none did.
measured_at: When the day's figures were last measured. Null: reckoned later, for no run was made
  that day.
email_opt_in_rate: Share of customers, from 0 to 1: email_opt_ins by customers. Null: no
  customers.
sms_opt_in_rate: Share of customers, from 0 to 1: sms_opt_ins by customers. Null: no customers.
"""

COLUMNS = {
    "public.customers": CUSTOMERS,
    "public.customer_metrics": CUSTOMER_METRICS,
    "analytics.customers": ANALYTICS_CUSTOMERS,
    "analytics.integrations": ANALYTICS_INTEGRATIONS,
    "analytics.customer_metrics": ANALYTICS_CUSTOMER_METRICS,
}


def upgrade() -> None:
    """One transaction: a migration that stops leaves nothing behind."""
    for statement in (CUSTOMER_METRICS_TABLE, VIEW, INTEGRATIONS_VIEW):
        op.execute(statement)
    for name, told in _lines(TABLES):
        op.execute(f"COMMENT ON TABLE public.{name} IS {told}")
    for name, told in _lines(VIEWS):
        op.execute(f"COMMENT ON VIEW analytics.{name} IS {told}")
    for relation, columns in COLUMNS.items():
        for name, told in _lines(columns):
            op.execute(f'COMMENT ON COLUMN {relation}."{name}" IS {told}')


def _lines(text: str) -> list[tuple[str, str]]:
    """Name and SQL literal, COMMENT takes no parameters; an indented line goes on with the one
    before."""
    lines = re.sub(r"\n +", " ", text.strip()).replace("'", "''").splitlines()
    return [(name, f"'{told}'") for name, told in (line.split(": ", 1) for line in lines)]
