"""The bodies of webhooks about customers, as Shopify's reference and real deliveries show them.

They are shaped like the older REST API and not like GraphQL, but for the topics that are newer
than it (tags and purchases). Times carry the shop's UTC offset, as in every sample of a customer.
"""

from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

from shopify_simulator.clock import read_moment
from shopify_simulator.sample import Row

LAST_WITH_CONSENTS = "2024-10"
"""From the next version on a customer's body has no tags, consents and order totals."""
SHOP_TIME = timezone(timedelta(hours=-5))
NOT_SUBSCRIBED: Row = {
    "state": "not_subscribed",
    "opt_in_level": None,
    "consent_updated_at": None,
}
NO_PHONE: Row = NOT_SUBSCRIBED | {"consent_collected_from": "other"}


def customer_body(row: Row, version: str) -> Row:
    address = _address(row)
    return {
        "id": int(row["legacyResourceId"]),
        "created_at": local(row["createdAt"]),
        "updated_at": local(row["updatedAt"]),
        "first_name": row["firstName"],
        "last_name": row["lastName"],
        "state": row["state"].lower(),
        "note": row["note"],
        "verified_email": row["verifiedEmail"],
        "multipass_identifier": row.get("multipassIdentifier"),
        "tax_exempt": row["taxExempt"],
        "email": email_of(row),
        "phone": phone_of(row),
        "currency": row["amountSpent"]["currencyCode"],
        "addresses": [address] if address else [],
        "tax_exemptions": row["taxExemptions"],
        "admin_graphql_api_id": row["id"],
        "default_address": address,
        **(_older_part(row) if version <= LAST_WITH_CONSENTS else {}),
    }


def deleted_body(row: Row, version: str) -> Row:
    """Nearly empty, whatever the customer was like."""
    blank: Row = {
        "phone": None,
        "addresses": [],
        "email_marketing_consent": NOT_SUBSCRIBED,
        "sms_marketing_consent": None,
    }
    return {
        "id": int(row["legacyResourceId"]),
        "tax_exemptions": [],
        "admin_graphql_api_id": row["id"],
        **(blank if version <= LAST_WITH_CONSENTS else {}),
    }


def merged_body(kept: Row, lost: Row) -> Row:
    return {
        "admin_graphql_api_customer_kept_id": kept["id"],
        "admin_graphql_api_customer_deleted_id": lost["id"],
        "admin_graphql_api_job_id": None,
        "status": "completed",
        "errors": [],
    }


def tags_body(row: Row, tags: list[str], occurred_at: str) -> Row:
    return {"customerId": row["id"], "tags": tags, "occurredAt": occurred_at}


def purchases_body(row: Row, occurred_at: str) -> Row:
    return {
        "customerId": row["id"],
        "numberOfOrders": int(row["numberOfOrders"]),
        "amountSpent": row["amountSpent"] | {"amount": _total(row)},
        "lastOrderId": (row.get("lastOrder") or {}).get("id"),
        "occurredAt": occurred_at,
    }


def email_consent_body(row: Row) -> Row:
    return {
        "customer_id": int(row["legacyResourceId"]),
        "email_address": email_of(row),
        "email_marketing_consent": email_consent(row),
    }


def sms_consent_body(row: Row) -> Row:
    return {
        "id": int(row["legacyResourceId"]),
        "phone": phone_of(row),
        "sms_marketing_consent": sms_consent(row) or NO_PHONE | {"state": None},
    }


def email_consent(row: Row) -> Row:
    email = row["defaultEmailAddress"]
    if email is None:
        return NOT_SUBSCRIBED
    return {
        "state": email["marketingState"].lower(),
        "opt_in_level": _lower(email["marketingOptInLevel"]),
        "consent_updated_at": local(email["marketingUpdatedAt"]),
    }


def sms_consent(row: Row) -> Row | None:
    if row["defaultPhoneNumber"] is None:
        return None
    consent = row["defaultPhoneNumber"]["smsMarketingConsent"]
    # This shape is older than the state NEVER_SUBSCRIBED.
    state = "not_subscribed" if consent["state"] == "NEVER_SUBSCRIBED" else consent["state"].lower()
    return {
        "state": state,
        "opt_in_level": _lower(consent["optInLevel"]),
        "consent_updated_at": local(consent["updatedAt"]),
        "consent_collected_from": _lower(consent["collectedFrom"]) or "other",
    }


def email_of(row: Row) -> Any:
    return row["defaultEmailAddress"] and row["defaultEmailAddress"]["emailAddress"]


def phone_of(row: Row) -> Any:
    return row["defaultPhoneNumber"] and row["defaultPhoneNumber"]["phoneNumber"]


def local(stamped: str | None) -> str | None:
    if stamped is None:
        return None
    return read_moment(stamped).astimezone(SHOP_TIME).isoformat(timespec="seconds")


def _older_part(row: Row) -> Row:
    order = row.get("lastOrder") or {}
    return {
        "orders_count": int(row["numberOfOrders"]),
        "total_spent": _total(row),
        "last_order_id": int(order["id"].split("/")[-1]) if order.get("id") else None,
        "last_order_name": order.get("name"),
        "tags": ", ".join(row["tags"]),
        "email_marketing_consent": email_consent(row),
        "sms_marketing_consent": sms_consent(row),
    }


def _address(row: Row) -> Row | None:
    known = row["defaultAddress"]
    return known and {
        "id": _address_number(known["id"]),
        "customer_id": int(row["legacyResourceId"]),
        "first_name": known["firstName"],
        "last_name": known["lastName"],
        "company": known["company"],
        "address1": known["address1"],
        "address2": known["address2"],
        "city": known["city"],
        "province": known["province"],
        "country": known["country"],
        "zip": known["zip"],
        "phone": known["phone"],
        "name": known["name"],
        "province_code": known["provinceCode"],
        "country_code": known["countryCodeV2"],
        "country_name": known["country"],
        "default": True,
    }


def _address_number(gid: str) -> int:
    """From gid://shopify/MailingAddress/7?model_name=CustomerAddress."""
    return int(gid.split("/")[-1].partition("?")[0])


def _total(row: Row) -> str:
    return f"{Decimal(row['amountSpent']['amount']):.2f}"


def _lower(text: str | None) -> str | None:
    return text and text.lower()
