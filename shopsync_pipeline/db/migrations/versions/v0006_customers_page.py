"""What the customers page lists and searches by, a row's history, and how a store is left."""

from alembic import op

revision = "0006"
down_revision = "0005"

# The last moments at which the row was written before: [{"at", "via", "run"}], the newest first.
EARLIER_SYNCS = 'ALTER TABLE customers ADD COLUMN "earlierSyncs" jsonb'

# A page of the list begins where the one before ended, in each of its orders, so that each is an
# index whose last column is unique. In byte order an index serves a prefix as well as the order:
# by `name`, which is Shopify's displayName, those of first names too, for it begins with them.
# A customer without the value comes last.
INDEXES = """
CREATE INDEX "customers_by_name" ON customers ((lower(coalesce("name", '~')) COLLATE "C"), "id");
CREATE INDEX "customers_by_email" ON customers ((lower(coalesce("email", '~')) COLLATE "C"), "id");
CREATE INDEX "customers_by_spent" ON customers ((coalesce("totalSpent", 0)), "id");
CREATE INDEX "customers_by_orders" ON customers ((coalesce("ordersCount", 0)), "id");
CREATE INDEX "customers_by_updated" ON customers ("updatedAt", "id");
CREATE INDEX "customers_lastName" ON customers ((lower("lastName") COLLATE "C"))
  WHERE "lastName" IS NOT NULL;
CREATE INDEX "customers_phone" ON customers ((translate("phone", ' +-().', '') COLLATE "C"))
  WHERE "phone" IS NOT NULL;
"""

# A store is left by this alone, for whoever may call it may forget its tokens and not write them.
# What signs webhooks stays, since Shopify's redact webhooks are to come.
DEACTIVATE = """
CREATE FUNCTION shopsync_deactivate(integration text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE integrations SET "isActive" = false, "accessToken" = NULL, "refreshToken" = NULL,
    "accessTokenExpiresAt" = NULL, "refreshTokenExpiresAt" = NULL,
    "windowFrom" = NULL, "windowTo" = NULL, "windowCursor" = NULL, "windowReached" = NULL,
    "bulkOperationId" = NULL, "bulkReadAt" = NULL, "realtimeSince" = NULL,
    "pausedAt" = NULL, "resumedAt" = NULL,
    "inactiveSince" = clock_timestamp(), "updatedAt" = clock_timestamp()
  WHERE "id" = integration AND "isActive"
$$;
REVOKE ALL ON FUNCTION shopsync_deactivate(text) FROM PUBLIC;
"""


def upgrade() -> None:
    """Customers can be read while their indexes are built, and deliveries stored: what shuts the
    table comes last."""
    for statement in (INDEXES, EARLIER_SYNCS, DEACTIVATE):
        op.execute(statement)
