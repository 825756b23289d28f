"""The inbox `webhook_events`: what is known to have changed and is still to be read by id."""

from shopsync_pipeline.db.engine import Conn


def mark_revenants(conn: Conn, integration_id: str) -> int:
    """File each incoming row that met a deleted one as dirty, once per deletion.

    A page may show a customer that was deleted after it was read, or one that was restored:
    only a read by id tells. Called inside a merge, where `incoming` is filled; returns how
    many were filed.
    """
    return conn.execute(
        """
        INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId",
                                    "topic", "customerId")
        SELECT i."id", i."organizationId", i."shop",
               'deleted:' || c."shopifyId" || ':' || extract(epoch FROM c."deletedAt"),
               'customers/update', c."shopifyId"
        FROM integrations i
        CROSS JOIN incoming
        CROSS JOIN LATERAL (
          SELECT * FROM customers
          WHERE "shopifyId" = incoming."shopifyId" AND "organizationId" = i."organizationId"
          LIMIT 1  -- one look-up by key for each row, whatever the planner thinks of the table
        ) AS c
        WHERE i."id" = %s AND c."deletedAt" IS NOT NULL AND c."redactedAt" IS NULL
        ON CONFLICT ON CONSTRAINT "integrationId_webhookId" DO NOTHING
        """,
        [integration_id],
        prepare=False,  # a plan kept from when the table was small would scan it for each page
    ).rowcount
