"""Schedules: ask what is due, turn it into few runs."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    RunRequest,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)

from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import clock
from shopsync_pipeline.defs.jobs import sync_customers
from shopsync_pipeline.defs.partitions import organizations
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.due import contiguous_ranges

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


@schedule(
    job=sync_customers,
    cron_schedule="0 * * * *",
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.RUNNING,
    description="Every hour, the stores that were not synced in the last 30 minutes.",
)
def hourly_customer_sync(
    context: ScheduleEvaluationContext, shopsync: ShopsyncResource
) -> list[RunRequest] | SkipReason:
    with shopsync.tick("hourly_customer_sync") as conn:
        due, skipped = integrations.due_organizations(conn, clock(conn))
    runs = runs_for_due(
        known_organizations(context.instance),
        due,
        run_key=f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}",
        tags={},
        request_ids=[],
    )
    return runs or SkipReason(
        f"No organization is due; {skipped} are fresh, put off, paused by hand or running."
    )


def known_organizations(instance: DagsterInstance) -> Sequence[str]:
    """The partition keys in the order in which ranges run over them."""
    name = organizations.name
    assert name is not None
    return instance.get_dynamic_partitions(name)


def runs_for_due(
    keys: Sequence[str],
    due: Iterable[str],
    *,
    run_key: str,
    tags: dict[str, str],
    request_ids: list[str],
) -> list[RunRequest]:
    """One run for each range; a range may span organizations that are not due, which the run
    then leaves alone."""
    limit = Settings.from_env().orgs_per_run
    config = {"only_due": True, "request_ids": request_ids}
    return [
        range_run(span, f"{run_key}:{span[0]}", config, tags)
        for span in contiguous_ranges(keys, set(due), limit=limit, bridge=True)
    ]


def range_run(
    span: tuple[str, str],
    run_key: str,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    *,
    job_name: str = sync_customers.name,
    asset_name: str = "customers",
) -> RunRequest:
    """A run of an asset over the partitions from `span[0]` to `span[1]`."""
    return RunRequest(
        run_key=run_key,
        job_name=job_name,
        run_config={"ops": {asset_name: {"config": dict(config)}}},
        tags={RANGE_START: span[0], RANGE_END: span[1], **tags},
    )


def runs_over(
    context: ScheduleEvaluationContext,
    wanted: Set[str],
    config: Mapping[str, Any],
    *,
    bridge: bool,
    job_name: str,
    asset_name: str,
) -> list[RunRequest] | SkipReason:
    """Runs of an asset over the `wanted` organizations; with `bridge` also over those between."""
    limit = Settings.from_env().orgs_per_run
    keys = known_organizations(context.instance)
    at = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
    target = {"job_name": job_name, "asset_name": asset_name}
    spans = contiguous_ranges(keys, wanted, limit=limit, bridge=bridge)
    runs = [range_run(span, f"{at}:{span[0]}", config, {}, **target) for span in spans]
    return runs or SkipReason(
        "The organizations are no partitions yet; sync_request_sensor registers them."
    )
