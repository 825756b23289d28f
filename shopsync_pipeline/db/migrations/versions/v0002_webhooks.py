"""What real-time sync needs beside the inbox: reads put off, requests with credentials, reports."""

from alembic import op

revision = "0002"
down_revision = "0001"

# `notBefore`: not to be claimed earlier. `reads`: answers of Shopify that did not show yet what the
# event tells of. `outcome`: what became of the customer by it.
WEBHOOK_EVENTS = """
ALTER TABLE webhook_events
  ADD COLUMN "notBefore" timestamptz(3),
  ADD COLUMN "reads" integer NOT NULL DEFAULT 0,
  ADD COLUMN "outcome" text;
CREATE INDEX "webhook_events_unreported" ON webhook_events ("organizationId", "runId")
  WHERE "status" = 'done' AND "reportedAt" IS NULL;
CREATE INDEX "webhook_events_with_body" ON webhook_events ("processedAt") WHERE "body" IS NOT NULL;
CREATE INDEX "webhook_events_customer" ON webhook_events ("integrationId", "customerId")
  WHERE "body" IS NOT NULL;
CREATE INDEX "webhook_events_missing" ON webhook_events ("integrationId", "processedAt")
  WHERE "outcome" = 'missing';
CREATE INDEX "webhook_events_receivedAt" ON webhook_events ("receivedAt");
"""

# `realtimeSince`: webhooks are subscribed and are repaired when Shopify drops them.
# `inactiveSince`: signing secrets are kept for 90 days from here, for Shopify's redact webhooks.
INTEGRATIONS = """
ALTER TABLE integrations
  ADD COLUMN "realtimeSince" timestamptz(3),
  ADD COLUMN "inactiveSince" timestamptz(3);
UPDATE integrations SET "inactiveSince" = "updatedAt" WHERE NOT "isActive";
CREATE INDEX "integrations_shop" ON integrations ("shop");
"""

# New credentials wait in the request, encrypted, until the run's probe has succeeded.
SYNC_REQUESTS = """
ALTER TABLE sync_requests
  ADD COLUMN "shop" text,
  ADD COLUMN "name" text,
  ADD COLUMN "credentials" text;
DROP INDEX "sync_requests_one_queued";
CREATE UNIQUE INDEX "sync_requests_one_queued" ON sync_requests
  ("kind", coalesce("organizationId", ''), "mode", coalesce("shop", ''))
  WHERE "status" = 'queued';
"""

DATA_REQUESTS = """
CREATE TABLE data_requests (
  "id" text PRIMARY KEY DEFAULT shopsync_uuid7(),
  "integrationId" text NOT NULL REFERENCES integrations ("id"),
  "organizationId" text NOT NULL,
  "shop" text NOT NULL,
  "requestId" bigint NOT NULL,
  "customerId" bigint NOT NULL,
  "requestedAt" timestamptz(3) NOT NULL,
  "exportedAt" timestamptz(3),
  CONSTRAINT "integrationId_requestId" UNIQUE ("integrationId", "requestId")
)
"""


def upgrade() -> None:
    """One transaction: a migration that stops leaves nothing behind."""
    for statement in (WEBHOOK_EVENTS, INTEGRATIONS, SYNC_REQUESTS, DATA_REQUESTS):
        op.execute(statement)
