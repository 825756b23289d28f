"""What the drain and a customer's page ask of the inbox, which cannot be written to meanwhile."""

from alembic import op

revision = "0008"
down_revision = "0007"

# Of a paused store the drain works on a few topics; its other events, which may be many, are not
# looked through for them.
INDEXES = """
CREATE INDEX "webhook_events_open_topic"
  ON webhook_events ("integrationId", "topic", "receivedAt")
  WHERE "status" IN ('pending', 'claimed');
CREATE INDEX "webhook_events_of_customer" ON webhook_events ("customerId", "receivedAt")
  WHERE "customerId" IS NOT NULL;
"""


def upgrade() -> None:
    """A transaction of its own that locks no other table, so that it and a delivery cannot wait
    for each other."""
    op.execute(INDEXES)
