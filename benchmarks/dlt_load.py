"""dlt reads a whole store into Postgres, as its documentation advises, in a process of its own.

python -m benchmarks.dlt_load CONFIG.json      in the venv of benchmarks/dlt_requirements.lock

CONFIG holds `url`, `token` and `body` of the request for the first page, `database` and `dataset`
to load into, and `folder`, where the pipeline keeps its files and its state.

dlt's RESTClient with the cursor in the GraphQL variables; a merge by the primary key, which is
unique, so by upsert; hints for the columns whose type JSON does not tell. Files are Parquet, which
dlt gives to Postgres by ADBC: less CPU than its INSERT statements, and its CSV turns empty texts
into NULL. Tags stay one column, as with us; as a nested list they would become a second table.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt  # type: ignore[import-not-found]
from dlt.sources.helpers.rest_client import RESTClient  # type: ignore[import-not-found]
from dlt.sources.helpers.rest_client.paginators import (  # type: ignore[import-not-found]
    JSONResponseCursorPaginator,
)

from benchmarks.process import measured

NUMBERS = ("legacy_resource_id", "number_of_orders")
MOMENTS = (
    "created_at",
    "updated_at",
    "default_email_address__marketing_updated_at",
    "default_phone_number__sms_marketing_consent__updated_at",
)
HINTS: dict[str, dict[str, Any]] = {
    **{name: {"data_type": "bigint"} for name in NUMBERS},
    **{name: {"data_type": "timestamp"} for name in MOMENTS},
    "amount_spent__amount": {"data_type": "decimal"},
    "tags": {"data_type": "json"},
}


def load() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    pipeline = dlt.pipeline(
        pipeline_name="customers",
        pipelines_dir=config["folder"],
        destination=dlt.destinations.postgres(config["database"]),
        dataset_name=config["dataset"],
    )
    customers = dlt.resource(
        _pages(config),
        name="customers",
        primary_key="legacy_resource_id",
        write_disposition={"disposition": "merge", "strategy": "upsert"},
        columns=HINTS,
    )
    pipeline.run(customers, loader_file_format="parquet").raise_on_failed_jobs()


def _pages(config: dict[str, Any]) -> Iterator[Any]:
    client = RESTClient(
        base_url=config["url"],
        headers={"X-Shopify-Access-Token": config["token"]},
        data_selector="data.customers.nodes",
        paginator=JSONResponseCursorPaginator(
            cursor_path="data.customers.pageInfo.endCursor",
            cursor_body_path="variables.after",
            has_more_path="data.customers.pageInfo.hasNextPage",
        ),
    )
    yield from client.paginate(method="POST", json=config["body"])


if __name__ == "__main__":
    measured(load)
