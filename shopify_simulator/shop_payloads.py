"""The bodies of webhooks about a shop, its app, its bulk operations and the compliance topics."""

from typing import Any

from shopify_simulator.payloads import email_of, local, phone_of
from shopify_simulator.sample import Row
from shopify_simulator.settings import Settings

UNTOLD: Row = dict.fromkeys(
    (
        *("source", "latitude", "longitude", "address2", "taxes_included", "tax_shipping"),
        *("auto_configure_tax_inclusivity", "county_taxes", "google_apps_domain"),
        *("google_apps_login_enabled", "password_enabled"),
    )
)
"""Null in the reference's samples."""
USUAL: Row = {
    "province": "Tennessee",
    "country": "US",
    "address1": "190 MacLaren Street",
    "zip": "37178",
    "city": "Houston",
    "phone": "3213213210",
    "primary_locale": "en",
    "country_code": "US",
    "country_name": "United States",
    "timezone": "(GMT-05:00) Eastern Time (US & Canada)",
    "iana_timezone": "Etc/UTC",
    "shop_owner": "John Smith",
    "weight_unit": "kg",
    "province_code": "TN",
    "has_discounts": False,
    "has_gift_cards": True,
    "eligible_for_payments": True,
    "requires_extra_payments_agreement": False,
    "has_storefront": True,
    "finances": True,
    "primary_location_id": 655441491,
    "checkout_api_supported": True,
    "multi_location_enabled": True,
    "setup_required": False,
    "pre_launch_enabled": False,
    "marketing_sms_consent_enabled_at_checkout": False,
    "transactional_sms_disabled": False,
}


def shop_body(
    shop: str, shop_id: int, told: Settings, *, created_at: str | None, updated_at: str | None
) -> Row:
    """For shop/update and app/uninstalled alike."""
    email, money = f"owner@{shop}", "${{amount}}"
    with_currency = f"{money} {told.currency}"
    return {
        **UNTOLD,
        **USUAL,
        "id": shop_id,
        "name": told.name,
        "email": email,
        "customer_email": email,
        "domain": shop,
        "myshopify_domain": shop,
        "created_at": created_at,
        "updated_at": updated_at,
        "currency": told.currency,
        "enabled_presentment_currencies": [told.currency],
        "money_format": money,
        "money_in_emails_format": money,
        "money_with_currency_format": with_currency,
        "money_with_currency_in_emails_format": with_currency,
        "plan_display_name": told.plan,
        "plan_name": told.plan.lower().replace(" ", "_"),
    }


def scopes_body(shop_gid: str, previous: list[str], current: list[str], updated_at: str) -> Row:
    return {
        "id": 1,
        "shop_id": shop_gid,
        "previous": previous,
        "current": current,
        "updated_at": updated_at,
    }


def bulk_body(operation: Row) -> Row:
    """Of bulk_operations/finish; `operation` is a BulkOperation as GraphQL shows it."""
    code = operation["errorCode"]
    return {
        "admin_graphql_api_id": operation["id"],
        "completed_at": local(operation["completedAt"]),
        "created_at": local(operation["createdAt"]),
        "error_code": code and code.lower(),
        "status": operation["status"].lower(),
        "type": operation["type"].lower(),
    }


def shop_redact_body(shop: str, shop_id: int) -> Row:
    return {"shop_id": shop_id, "shop_domain": shop}


def redact_body(shop: str, shop_id: int, number: int, row: Row | None) -> Row:
    return _about(shop, shop_id, number, row) | {"orders_to_redact": []}


def data_request_body(shop: str, shop_id: int, number: int, row: Row | None, request: int) -> Row:
    asked = {"orders_requested": [], "data_request": {"id": request}}
    return _about(shop, shop_id, number, row) | asked


def _about(shop: str, shop_id: int, number: int, row: Row | None) -> dict[str, Any]:
    """`row` is None for a customer that is no longer there."""
    who = {"id": number, "email": row and email_of(row), "phone": row and phone_of(row)}
    return shop_redact_body(shop, shop_id) | {"customer": who}
