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
