"""What Dagster's catalog tells of an asset besides its description: columns, owners, links.

All of it is part of the definition, so it costs no event.
"""

from collections.abc import Sequence
from typing import Any

from dagster import MetadataValue, TableColumn, TableSchema

from shopsync_pipeline.db.dictionary import Column
from shopsync_pipeline.settings import Settings

OPERATORS = ["team:operators"]
ANALYSTS = ["team:analysts"]

OF_CUSTOMER = "https://shopify.dev/docs/api/admin-graphql/latest/objects/Customer"
OF_WEBHOOKS = "https://shopify.dev/docs/apps/build/webhooks"


def of_table(name: str, columns: Sequence[Column]) -> dict[str, Any]:
    """For the asset that is the table `name`, which analysts know by a view of the same name."""
    return {
        "dagster/table_name": f"public.{name}",
        "dagster/column_schema": TableSchema(
            columns=[TableColumn(c.name, c.type, description=c.told) for c in columns]
        ),
        "for analysts": MetadataValue.md(
            f"`analytics.{name}` has these columns in snake_case; see `docs/analytics.md`."
        ),
        "customers page": customers_page(),
    }


def customers_page() -> MetadataValue:
    settings = Settings.from_env()
    base = settings.app_url or f"http://127.0.0.1:{settings.receiver_port}"
    return MetadataValue.url(f"{base.rstrip('/')}/dashboard/customers")


def link(url: str) -> dict[str, Any]:
    return {"at Shopify": MetadataValue.url(url)}
