"""The door: what Dagster finds here is defined in `defs/`."""

from dagster import Definitions, in_process_executor

from shopsync_pipeline.defs import (
    assets,
    housekeeping,
    jobs,
    metrics,
    realtime,
    reconciliation,
    resources,
    schedules,
    sensors,
    watching,
    webhooks,
)

defs = Definitions(
    assets=[
        assets.shopify_customers,
        assets.webhook_events,
        assets.customers,
        realtime.webhook_subscriptions,
        reconciliation.customer_reconciliation,
        metrics.customer_metrics,
    ],
    jobs=[
        jobs.sync_customers,
        realtime.enable_realtime_sync,
        reconciliation.reconcile_customers,
        webhooks.apply_webhooks,
        metrics.measure_customers,
        housekeeping.housekeeping,
    ],
    schedules=[
        schedules.hourly_customer_sync,
        realtime.hourly_subscription_check,
        reconciliation.hourly_reconciliation,
        metrics.hourly_customer_metrics,
        housekeeping.nightly_housekeeping,
    ],
    sensors=[
        sensors.sync_request_sensor,
        webhooks.webhook_sensor,
        watching.trouble_sensor,
        watching.run_failures,
    ],
    asset_checks=[watching.webhooks_are_processed],
    resources={"shopsync": resources.ShopsyncResource()},
    executor=in_process_executor,  # one process a run; its threads serve the stores
)
