"""The partitions: one per organization, its key the organizationId, never deleted; and how a run
fails for some of them."""

from collections.abc import Mapping
from typing import Any

from dagster import DynamicPartitionsDefinition, Failure

organizations = DynamicPartitionsDefinition(name="organizations")

CAUSE = "cause"
STORES = "trouble of the stores that are named"


def stores_failed(told: str) -> Failure:
    """The run did all it had to do but for the stores that `told` names. Each store's trouble is
    recorded with it, so the run itself is no alert."""
    return Failure(told, metadata={CAUSE: STORES}, allow_retries=False)


def no_store(organization_id: str) -> str:
    """Why nothing was done for an organization that somebody asked for."""
    return f"{organization_id}: no active store. Connect one: shopsync connect."


def names_stores(metadata: Mapping[str, Any]) -> bool:
    """Whether a failure with this metadata was made by `stores_failed`."""
    return CAUSE in metadata and metadata[CAUSE].value == STORES
