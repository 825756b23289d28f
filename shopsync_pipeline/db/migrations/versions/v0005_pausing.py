"""What a person pauses, real-time sync turned off by a request, and how far a long run has come."""

from alembic import op

revision = "0005"
down_revision = "0004"

# `pausedAt`: since when a person has the store left out, null where nobody has; that is not the
# `status` 'paused', which is Shopify's. `resumedAt`: from when on a sync of it is expected again.
INTEGRATIONS = """
ALTER TABLE integrations ADD COLUMN "pausedAt" timestamptz(3),
  ADD COLUMN "resumedAt" timestamptz(3);
"""

# `off`: turn real-time sync off.
SYNC_REQUESTS = """
ALTER TABLE sync_requests DROP CONSTRAINT "sync_requests_mode_check";
ALTER TABLE sync_requests ADD CONSTRAINT "sync_requests_mode_check"
  CHECK ("mode" IN ('incremental', 'full') OR "mode" = 'off' AND "kind" = 'realtime');
"""

# One row for each store and kind of run, of the last such run. `of`: how many rows it will be, null
# where nobody knows. A table of its own, since merges hold the integration's row as sharers.
SYNC_PROGRESS = """
CREATE TABLE sync_progress (
  "integrationId" text NOT NULL REFERENCES integrations ("id"),
  "kind" text NOT NULL CHECK ("kind" IN ('sync', 'reconcile')),
  "runId" text NOT NULL,
  "startedAt" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "rows" bigint NOT NULL DEFAULT 0,
  "of" bigint,
  PRIMARY KEY ("integrationId", "kind")
);
"""


def upgrade() -> None:
    """One transaction: a migration that stops leaves nothing behind."""
    for statement in (INTEGRATIONS, SYNC_REQUESTS, SYNC_PROGRESS):
        op.execute(statement)
