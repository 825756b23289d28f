"""The door: what Dagster finds here is defined in `defs/`."""

from dagster import Definitions, in_process_executor

from shopsync_pipeline.defs import assets, jobs, resources, schedules, sensors

defs = Definitions(
    assets=[assets.shopify_customers, assets.webhook_events, assets.customers],
    jobs=[jobs.sync_customers],
    schedules=[schedules.hourly_customer_sync],
    sensors=[sensors.sync_request_sensor],
    resources={"shopsync": resources.ShopsyncResource()},
    executor=in_process_executor,  # one process a run; its threads serve the stores
)
