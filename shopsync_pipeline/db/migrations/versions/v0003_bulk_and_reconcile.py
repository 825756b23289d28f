"""What bulk operations and reconciles must remember."""

from alembic import op

revision = "0003"
down_revision = "0002"

# `bulkReadAt`: a bulk operation of ours was asked for at this moment, as of which its rows count as
# read, and its result is not merged yet. `bulkOperationId`: its id, once Shopify has told it.
# `bulkFailedAt`: the last one did not end well. `reconciledAt`: the last whole reconcile.
INTEGRATIONS = """
ALTER TABLE integrations
  ADD COLUMN "bulkOperationId" text,
  ADD COLUMN "bulkReadAt" timestamptz(3),
  ADD COLUMN "bulkFailedAt" timestamptz(3),
  ADD COLUMN "reconciledAt" timestamptz(3),
  ADD CONSTRAINT "bulk_is_whole" CHECK ("bulkOperationId" IS NULL OR "bulkReadAt" IS NOT NULL);
"""

# One row for each reconcile that ended whole. `rowsRead` of Shopify; `missing` were not here,
# `drifted` differed, `revived` were deleted here, `deleted` only here.
RECONCILIATIONS = """
CREATE TABLE reconciliations (
  "id" text PRIMARY KEY DEFAULT shopsync_uuid7(),
  "integrationId" text NOT NULL REFERENCES integrations ("id"),
  "organizationId" text NOT NULL,
  "shop" text NOT NULL,
  "runId" text NOT NULL,
  "way" text NOT NULL CHECK ("way" IN ('bulk', 'pages')),
  "startedAt" timestamptz(3) NOT NULL,
  "finishedAt" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "rowsRead" bigint NOT NULL,
  "missing" bigint NOT NULL,
  "drifted" bigint NOT NULL,
  "revived" bigint NOT NULL,
  "deleted" bigint NOT NULL
);
CREATE INDEX "reconciliations_last" ON reconciliations ("integrationId", "finishedAt");
"""


def upgrade() -> None:
    """One transaction: a migration that stops leaves nothing behind."""
    for statement in (INTEGRATIONS, RECONCILIATIONS):
        op.execute(statement)
