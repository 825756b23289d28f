"""What the deployment must know of itself to say when something is wrong, and once only."""

from alembic import op

revision = "0004"
down_revision = "0003"

# So that what is looked at every few seconds never reads the settled events, which may be millions.
WEBHOOK_EVENTS = """
CREATE INDEX "webhook_events_dead" ON webhook_events ("integrationId") WHERE "status" = 'dead';
"""

# `subscribedAt`: when the store's webhook subscriptions were last found or made whole. Nobody wrote
# down when that was before; the next check, within the hour, will tell.
INTEGRATIONS = """
ALTER TABLE integrations ADD COLUMN "subscribedAt" timestamptz(3);
UPDATE integrations SET "subscribedAt" = clock_timestamp() WHERE "realtimeSince" IS NOT NULL;
"""

# `at`: the last good tick of a schedule or sensor of ours. `since`: from when on one is expected;
# after a stop of the whole deployment it begins anew.
HEARTBEATS = """
CREATE TABLE heartbeats (
  "name" text PRIMARY KEY,
  "since" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "at" timestamptz(3)
);
"""

# One row for each trouble, from its begin to its end. `toldAt` and `endToldAt`: when
# ALERT_WEBHOOK_URL took the message; `triedAt`: when it was last sent one. `lastAt`: of a trouble
# that can happen again while it lasts, when it last did, and `toldLastAt` what was told of that. A
# trouble that is an event, such as a run that failed, ends when it is told.
ALERTS = """
CREATE TABLE alerts (
  "id" text PRIMARY KEY DEFAULT shopsync_uuid7(),
  "key" text NOT NULL,
  "kind" text NOT NULL,
  "organizationId" text,
  "shop" text,
  "told" text NOT NULL,
  "remedy" text NOT NULL,
  "since" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "lastAt" timestamptz(3),
  "toldLastAt" timestamptz(3),
  "triedAt" timestamptz(3),
  "toldAt" timestamptz(3),
  "endedAt" timestamptz(3),
  "endToldAt" timestamptz(3)
);
CREATE UNIQUE INDEX "alerts_open" ON alerts ("key") WHERE "endedAt" IS NULL;
CREATE INDEX "alerts_key" ON alerts ("key");
"""

# Deliveries in a known store's name that none of its secrets had signed, written once a minute.
REFUSED_DELIVERIES = """
CREATE TABLE refused_deliveries (
  "integrationId" text PRIMARY KEY REFERENCES integrations ("id"),
  "since" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "lastAt" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "count" bigint NOT NULL
);
"""

# Changes that a pull was the first to bring though webhooks should have: one row for each run and
# store that found some. `oldestAt` is the `updatedAt` of the oldest.
UNHEARD_CHANGES = """
CREATE TABLE unheard_changes (
  "integrationId" text NOT NULL REFERENCES integrations ("id"),
  "runId" text NOT NULL,
  "foundAt" timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  "oldestAt" timestamptz(3) NOT NULL,
  "changes" bigint NOT NULL,
  PRIMARY KEY ("integrationId", "runId")
);
CREATE INDEX "unheard_changes_foundAt" ON unheard_changes ("foundAt");
"""


def upgrade() -> None:
    """One transaction: a migration that stops leaves nothing behind."""
    for statement in (
        WEBHOOK_EVENTS,
        INTEGRATIONS,
        HEARTBEATS,
        ALERTS,
        REFUSED_DELIVERIES,
        UNHEARD_CHANGES,
    ):
        op.execute(statement)
