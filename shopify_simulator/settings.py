"""What can be turned at a store while it runs; the control API spells the names in camelCase."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

SUPPORTED_VERSIONS = ("2026-01", "2026-04", "2026-07", "2026-10")


@dataclass(kw_only=True)
class Settings:
    name: str = ""
    currency: str = "USD"
    plan: str = "Basic"
    scopes: list[str] = field(default_factory=lambda: ["read_customers"])
    latency_ms: float = 0
    index_lag_seconds: float = 0
    restore_rate: float = 100
    maximum_available: float = 2000
    protected_data: str = "level2"
    """`level2` shows everything, `level1` hides names and contacts, `none` refuses customers."""
    token_lifetime_seconds: int | None = None
    """None: as in Shopify, 86399 s by client credentials and 3600 s by refresh token."""
    supported_versions: list[str] = field(default_factory=lambda: list(SUPPORTED_VERSIONS))
    replica_lag_seconds: float = 0
    """Reads by id show the store as it was that long ago on the simulator's clock."""
    bulk_enabled: bool = True
    """False: the app may start no bulk operation."""
    bulk_limit: int = 5
    """So many bulk queries run at once."""
    bulk_seconds: float = 0
    """So long a bulk operation runs at least, on the simulator's clock."""
    bulk_snapshot: str = "created"
    """Which state of the store it exports: that when it was `created`, or when `completed`."""
    webhook_api_version: str = "2026-10"
    webhook_secret: str | None = None
    """None: the app's client secret signs."""
    compliance_uri: str | None = None
    merge_fires_delete: bool = False
    webhook_time_factor: float = 1
    """The gaps between the tries of one delivery are divided by it."""
    webhook_parallel: int = 16
    """So many deliveries of the store are on their way at once; 1 makes their order strict."""
    webhook_copies: int = 1
    webhook_delay_seconds: float = 0
    webhook_drop: float = 0
    """Probability, 0 to 1, that a delivery is never sent."""
    webhook_reorder: bool = False
    """What waits is sent in random order."""
    webhook_hold: bool = False
    """Nothing is sent: deliveries collect until this is false again, or until a release."""

    def change(self, given: Mapping[str, Any]) -> None:
        """Raises ValueError for a name that is no setting."""
        known = {each.name for each in fields(self)}
        changes = {snake_case(name): value for name, value in given.items()}
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"no such setting: {', '.join(unknown)}")
        for name, value in changes.items():
            setattr(self, name, value)

    def as_json(self) -> dict[str, Any]:
        return {camel_case(each.name): getattr(self, each.name) for each in fields(self)}


def snake_case(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)


def camel_case(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)
