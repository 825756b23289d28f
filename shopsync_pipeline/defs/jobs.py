"""Jobs: what schedules, sensors and people launch by name."""

from dagster import AssetSelection, define_asset_job

LANE = "shopsync/lane"
"""The tag by which dagster.yaml limits how many runs of a kind go at once."""

sync_customers = define_asset_job(
    "sync_customers",
    selection=AssetSelection.assets("customers"),
    description="Pull what changed in the stores of one organization or a range of them.",
    tags={LANE: "pull"},
)
