"""All tables, their promises as constraints, and the views for analysts.

Columns are named as the app names them. Valid on Postgres 15 to 18, without extensions, for
an owner who is no superuser. There is no way down: a restore is the way back.
"""

from alembic import op

revision = "0001"
down_revision = None

# A time-ordered id (RFC 9562, version 7) as text; Postgres has uuidv7() only from 18 on.
UUID7 = """
CREATE FUNCTION shopsync_uuid7() RETURNS text LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
  SELECT encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        FROM 1 FOR 6),
      52, 1), 53, 1),
    'hex')::uuid::text
$$
"""

INTEGRATIONS = """
CREATE TABLE integrations (
  "id" text PRIMARY KEY DEFAULT shopsync_uuid7(),
  "organizationId" text NOT NULL CHECK ("organizationId" ~ '^[A-Za-z0-9_-]{1,64}$'),
  "platform" text NOT NULL DEFAULT 'SHOPIFY' CHECK ("platform" = 'SHOPIFY'),
  "name" text NOT NULL,
  "shop" text NOT NULL CHECK ("shop" ~ '^[a-z0-9][a-z0-9-]*\\.myshopify\\.com$'),
  "shopId" bigint,
  "accessToken" text,
  "accessTokenExpiresAt" timestamptz(3),
  "refreshToken" text,
  "refreshTokenExpiresAt" timestamptz(3),
  "clientId" text,
  "clientSecret" text,
  "webhookSecret" text,
  "scopes" text[] NOT NULL DEFAULT '{}',
  "isActive" boolean NOT NULL DEFAULT true,
  "status" text NOT NULL DEFAULT 'ok'
    CHECK ("status" IN ('ok', 'needs_reauth', 'needs_scope', 'paused', 'gone')),
  "retryAt" timestamptz(3),
  "lastSyncAt" timestamptz(3),
  "watermark" timestamptz(3),
  "windowFrom" timestamptz(3),
  "windowTo" timestamptz(3),
  "windowCursor" text,
  "windowReached" timestamptz(3),
  "customersCount" bigint,
  "customersCountAt" timestamptz(3),
  "lastError" text,
  "createdAt" timestamptz(3) NOT NULL DEFAULT now(),
  "updatedAt" timestamptz(3) NOT NULL DEFAULT now(),
  CONSTRAINT "organizationId_platform_shop" UNIQUE ("organizationId", "platform", "shop"),
  CONSTRAINT "window_is_whole" CHECK (
    "windowTo" IS NOT NULL
    OR ("windowFrom" IS NULL AND "windowCursor" IS NULL AND "windowReached" IS NULL)
  )
)
"""

CUSTOMERS = """
CREATE TABLE customers (
  "id" text PRIMARY KEY DEFAULT shopsync_uuid7(),
  "organizationId" text NOT NULL,
  "integrationId" text NOT NULL REFERENCES integrations ("id"),
  "shopifyId" bigint NOT NULL,
  "email" text,
  "phone" text,
  "firstName" text,
  "lastName" text,
  "name" text,
  "totalSpent" numeric,
  "currency" text,
  "ordersCount" bigint,
  "emailMarketingState" text,
  "emailMarketingOptInLevel" text,
  "emailMarketingUpdatedAt" timestamptz(3),
  "smsMarketingState" text,
  "smsMarketingOptInLevel" text,
  "smsMarketingUpdatedAt" timestamptz(3),
  "acceptsMarketing" boolean,
  "company" text,
  "address1" text,
  "address2" text,
  "city" text,
  "province" text,
  "provinceCode" text,
  "country" text,
  "countryCode" text,
  "zip" text,
  "tags" text[],
  "note" text,
  "state" text,
  "locale" text,
  "verifiedEmail" boolean,
  "taxExempt" boolean,
  "source" text NOT NULL DEFAULT 'SHOPIFY',
  "shopifyCreatedAt" timestamptz(3),
  "shopifyUpdatedAt" timestamptz(3),
  "deletedAt" timestamptz(3),
  "mergedIntoId" bigint,
  "redactedAt" timestamptz(3),
  "createdAt" timestamptz(3) NOT NULL DEFAULT now(),
  "updatedAt" timestamptz(3) NOT NULL DEFAULT now(),
  "lastSyncedAt" timestamptz(3) NOT NULL,
  "lastSyncRunId" text NOT NULL,
  "lastSyncVia" text NOT NULL CHECK ("lastSyncVia" IN ('PULL', 'WEBHOOK', 'BULK', 'RECONCILE')),
  CONSTRAINT "shopifyId_organizationId" UNIQUE ("shopifyId", "organizationId")
)
"""

WEBHOOK_EVENTS = """
CREATE TABLE webhook_events (
  "id" text PRIMARY KEY DEFAULT shopsync_uuid7(),
  "integrationId" text NOT NULL REFERENCES integrations ("id"),
  "organizationId" text NOT NULL,
  "shop" text NOT NULL,
  "webhookId" text NOT NULL,
  "eventId" text,
  "topic" text NOT NULL,
  "apiVersion" text,
  "triggeredAt" timestamptz(3),
  "receivedAt" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "body" bytea,
  "customerId" bigint,
  "status" text NOT NULL DEFAULT 'pending'
    CHECK ("status" IN ('pending', 'claimed', 'done', 'ignored', 'dead')),
  "attempts" integer NOT NULL DEFAULT 0,
  "error" text,
  "leaseUntil" timestamptz(3),
  "processedAt" timestamptz(3),
  "runId" text,
  "reportedAt" timestamptz(3),
  CONSTRAINT "integrationId_webhookId" UNIQUE ("integrationId", "webhookId")
)
"""

SYNC_REQUESTS = """
CREATE TABLE sync_requests (
  "id" text PRIMARY KEY DEFAULT shopsync_uuid7(),
  "kind" text NOT NULL CHECK ("kind" IN ('sync', 'cron', 'realtime', 'reconcile')),
  "organizationId" text CHECK (("organizationId" IS NULL) = ("kind" = 'cron')),
  "mode" text NOT NULL DEFAULT 'incremental' CHECK ("mode" IN ('incremental', 'full')),
  "status" text NOT NULL DEFAULT 'queued'
    CHECK ("status" IN ('queued', 'running', 'succeeded', 'failed')),
  "requestedAt" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "finishedAt" timestamptz(3),
  "runId" text,
  "counts" jsonb NOT NULL DEFAULT '{}',
  "error" text
)
"""

INDEXES = """
CREATE INDEX "customers_integrationId" ON customers ("integrationId") WHERE "deletedAt" IS NULL;
CREATE INDEX "webhook_events_open" ON webhook_events ("integrationId", "receivedAt")
  WHERE "status" IN ('pending', 'claimed');
CREATE UNIQUE INDEX "sync_requests_one_queued" ON sync_requests
  ("kind", coalesce("organizationId", ''), "mode") WHERE "status" = 'queued';
"""

ANALYTICS = """
CREATE SCHEMA analytics;
CREATE VIEW analytics.customers AS SELECT
  "id" AS id, "organizationId" AS organization_id, "integrationId" AS integration_id,
  "shopifyId" AS shopify_id, "email" AS email, "phone" AS phone,
  "firstName" AS first_name, "lastName" AS last_name, "name" AS name,
  "totalSpent" AS total_spent, "currency" AS currency, "ordersCount" AS orders_count,
  "emailMarketingState" AS email_marketing_state,
  "emailMarketingOptInLevel" AS email_marketing_opt_in_level,
  "emailMarketingUpdatedAt" AS email_marketing_updated_at,
  "smsMarketingState" AS sms_marketing_state,
  "smsMarketingOptInLevel" AS sms_marketing_opt_in_level,
  "smsMarketingUpdatedAt" AS sms_marketing_updated_at,
  "acceptsMarketing" AS accepts_marketing, "company" AS company,
  "address1" AS address1, "address2" AS address2, "city" AS city,
  "province" AS province, "provinceCode" AS province_code,
  "country" AS country, "countryCode" AS country_code, "zip" AS zip,
  "tags" AS tags, "note" AS note, "state" AS state, "locale" AS locale,
  "verifiedEmail" AS verified_email, "taxExempt" AS tax_exempt, "source" AS source,
  "shopifyCreatedAt" AS shopify_created_at, "shopifyUpdatedAt" AS shopify_updated_at,
  "createdAt" AS created_at, "updatedAt" AS updated_at,
  "lastSyncedAt" AS last_synced_at, "lastSyncRunId" AS last_sync_run_id,
  "lastSyncVia" AS last_sync_via
FROM public.customers WHERE "deletedAt" IS NULL AND "redactedAt" IS NULL;
CREATE VIEW analytics.integrations AS SELECT
  "name" AS name, "shop" AS shop, "lastSyncAt" AS last_sync_at, "isActive" AS is_active,
  "status" AS status
FROM public.integrations;
"""


def upgrade() -> None:
    """One transaction: a migration that stops leaves nothing behind."""
    tables = (UUID7, INTEGRATIONS, CUSTOMERS, WEBHOOK_EVENTS, SYNC_REQUESTS)
    for statement in (*tables, INDEXES, ANALYTICS):
        op.execute(statement)
