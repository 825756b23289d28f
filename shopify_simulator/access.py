"""Who may read what: the scopes that fields need, and protected customer data.

Decided from a plan and the granted scopes alone; no store, no rows.
"""

from collections.abc import Iterable
from typing import Any

from shopify_simulator.document import Field, Plan
from shopify_simulator.sample import Row

TYPE_SCOPES = {"Customer": "read_customers"}
FIELD_SCOPES = {
    ("QueryRoot", "customers"): "read_customers",
    ("QueryRoot", "customersCount"): "read_customers",
    ("QueryRoot", "customer"): "read_customers",
    ("Customer", "lastOrder"): "read_orders",
    ("Customer", "mergeable"): "read_customer_merge",
    ("Customer", "companyContactProfiles"): "read_companies",
    ("Customer", "unsubscribeUrl"): "write_customers",
    ("CustomerEmailAddress", "marketingUnsubscribeUrl"): "write_customers",
    ("CustomerEmailAddress", "openTrackingUrl"): "write_customers",
}
PROTECTED = {
    "firstName",
    "lastName",
    "displayName",
    "email",
    "phone",
    "defaultEmailAddress",
    "defaultPhoneNumber",
    "defaultAddress",
    "addresses",
    "addressesV2",
}
HIDDEN: Row = dict.fromkeys(
    (
        "firstName",
        "lastName",
        "displayName",
        "defaultEmailAddress",
        "defaultPhoneNumber",
        "defaultAddress",
    )
)
"""What a level 1 app sees in a row instead; the other protected fields follow from these."""
PROTECTED_DATA_DOCS = "https://shopify.dev/docs/apps/launch/protected-customer-data"


def with_implied(scopes: Iterable[str]) -> frozenset[str]:
    """A write scope includes the read scope of the same name."""
    granted = set(scopes)
    implied = {"read_" + s.removeprefix("write_") for s in granted if s.startswith("write_")}
    return frozenset(granted | implied)


def missing_scopes(plan: Plan, scopes: Iterable[str]) -> list[dict[str, Any]]:
    """One error for each field that needs a scope not granted."""
    granted = with_implied(scopes)
    needed = ((field, _scope_of(field)) for field in plan.walk())
    return [
        _denied(field, f"`{scope}` access scope.")
        for field, scope in needed
        if scope and scope not in granted
    ]


def protected_errors(plan: Plan, level: str) -> list[dict[str, Any]]:
    """For `level1` the protected fields that were asked for, for `none` the customers."""
    if level == "none":
        denied = [field for field in plan.walk() if field.type_name == "Customer"]
        return [_not_approved(field, "Customer object") for field in denied]
    if level == "level1":
        fields = {f.name: f for f in plan.walk() if f.owner == "Customer" and f.name in PROTECTED}
        return [_not_approved(field, f"{name} field") for name, field in fields.items()]
    return []


def bulk_disabled_errors(plan: Plan) -> list[dict[str, Any]]:
    """Apps must be enabled for bulk operations; the others may not start one."""
    starts = [field for field in plan.fields if field.name == "bulkOperationRunQuery"]
    return [_denied(field, "bulk operations to be enabled for the app.") for field in starts]


def _scope_of(field: Field) -> str | None:
    if field.name == "__typename":
        return None
    special = FIELD_SCOPES.get((field.owner, field.name))
    return special or (TYPE_SCOPES.get(field.owner) if field.name != "id" else None)


def _denied(field: Field, access: str) -> dict[str, Any]:
    return {
        "message": f"Access denied for {field.name} field. Required access: {access}",
        "locations": [field.location],
        "path": list(field.path),
        "extensions": {
            "code": "ACCESS_DENIED",
            "documentation": "https://shopify.dev/api/usage/access-scopes",
            "requiredAccess": access,
        },
    }


def _not_approved(field: Field, what: str) -> dict[str, Any]:
    return {
        "message": f"This app is not approved to access the {what}. See {PROTECTED_DATA_DOCS}",
        "locations": [field.location],
        "path": list(field.path),
        "extensions": {"code": "ACCESS_DENIED", "documentation": PROTECTED_DATA_DOCS},
    }
