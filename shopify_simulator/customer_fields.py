"""What a customer row answers beyond what is stored in it, and which fields an edit may set.

Three kinds of field are not stored by the samples: those with one value for nearly everybody
(`FIXED`), those that follow from others (`DERIVED`: the deprecated ones, and lists made of the
default address), and the blanks that a partly given address, e-mail or phone is filled up from.
"""

from collections.abc import Callable
from typing import Any

from shopify_simulator.sample import NEVER_ASKED, Row, display_name

Read = Callable[[Any], Any]

STORED = (
    *("firstName", "lastName", "displayName", "state", "locale", "note", "tags"),
    *("verifiedEmail", "taxExempt", "taxExemptions", "dataSaleOptOut"),
    *("numberOfOrders", "amountSpent", "createdAt", "updatedAt"),
    *("defaultEmailAddress", "defaultPhoneNumber", "defaultAddress"),
)
NOBODY_MERGES: Row = {"isMergeable": True, "reason": None, "errorFields": []}
FIXED: dict[str, Any] = {
    "multipassIdentifier": None,
    "lifetimeDuration": "about 2 years",
    "productSubscriberStatus": "NEVER_SUBSCRIBED",
    "statistics": {"predictedSpendTier": None},
    "companyContactProfiles": [],
    "lastOrder": None,
    "mergeable": NOBODY_MERGES | {"mergeInProgress": None},
    "canDelete": True,
}
BLANKS: dict[str, Row] = {
    "defaultEmailAddress": {
        "emailAddress": "somebody@example.com",
        "validFormat": True,
        "marketingState": "NOT_SUBSCRIBED",
        "marketingOptInLevel": None,
        "marketingUpdatedAt": None,
    },
    "defaultPhoneNumber": {"phoneNumber": "+15550000000", "smsMarketingConsent": NEVER_ASKED},
    "defaultAddress": dict.fromkeys(
        (
            *("id", "firstName", "lastName", "name", "company", "address1", "address2", "city"),
            *("province", "provinceCode", "country", "countryCodeV2", "zip", "phone"),
        )
    ),
}
SHORTHANDS = {
    "email": ("defaultEmailAddress", "emailAddress"),
    "phone": ("defaultPhoneNumber", "phoneNumber"),
}


def with_changes(row: Row, fields: Row) -> Row:
    """A new row; parts given as objects are merged into what is there.

    `email` and `phone` stand for the default address and number. The display name follows the
    names unless it is given. Raises ValueError for a field that cannot be set.
    """
    changes = {name: value for name, value in fields.items() if name not in SHORTHANDS}
    for name, (part, inner) in SHORTHANDS.items():
        if name in fields:
            changes[part] = None if fields[name] is None else {inner: fields[name]}
    if unknown := sorted(set(changes) - {*STORED, *FIXED}):
        raise ValueError(f"a customer has no field {', '.join(unknown)} that can be set")
    new = row | {name: _merged(row, name, value) for name, value in changes.items()}
    if "displayName" not in fields:
        names = (new["firstName"], new["lastName"])
        known = (new["defaultEmailAddress"], new["defaultPhoneNumber"])
        new["displayName"] = display_name(*names, *known)
    return new | {"numberOfOrders": str(new["numberOfOrders"])}


def _merged(row: Row, name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    known = row.get(name) or BLANKS.get(name, {})
    if name == "defaultAddress" and known.get("id") is None:
        known = known | {"id": _address_id(row)}
    return known | {part: _merged(known, part, inner) for part, inner in value.items()}


def _address_id(row: Row) -> str:
    return f"gid://shopify/MailingAddress/{row['legacyResourceId']}?model_name=CustomerAddress"


def _fixed(name: str, default: Any) -> Read:
    return lambda row: row.get(name, default)


def _inner(part: str, name: str) -> Read:
    return lambda row: row[part] and row[part][name]


def _addresses(row: Row) -> list[Row]:
    return [row["defaultAddress"]] if row["defaultAddress"] else []


def _whole_connection(rows: list[Row]) -> Row:
    """A connection that fits on one page."""
    return {
        "nodes": rows,
        "edges": [{"cursor": row["id"], "node": row} for row in rows],
        "pageInfo": {
            "hasNextPage": False,
            "hasPreviousPage": False,
            "startCursor": rows[0]["id"] if rows else None,
            "endCursor": rows[-1]["id"] if rows else None,
        },
    }


def _email_consent(row: Row) -> Row | None:
    email = row["defaultEmailAddress"]
    return email and {
        "marketingState": email["marketingState"],
        "marketingOptInLevel": email["marketingOptInLevel"],
        "consentUpdatedAt": email["marketingUpdatedAt"],
    }


def _older_sms_state(phone: Row) -> str:
    """Before 2026-10 the SMS consent knew no NEVER_SUBSCRIBED."""
    state = str(phone["smsMarketingConsent"]["state"])
    return "NOT_SUBSCRIBED" if state == "NEVER_SUBSCRIBED" else state


def _sms_consent(row: Row) -> Row | None:
    phone = row["defaultPhoneNumber"]
    return phone and {
        "marketingState": _older_sms_state(phone),
        "marketingOptInLevel": phone["smsMarketingConsent"]["optInLevel"] or "UNKNOWN",
        "consentUpdatedAt": phone["smsMarketingConsent"]["updatedAt"],
        "consentCollectedFrom": phone["smsMarketingConsent"]["collectedFrom"],
    }


def _of_consent(name: str) -> Read:
    return lambda phone: phone["smsMarketingConsent"][name]


DERIVED: dict[tuple[str, str], Read] = {
    **{("Customer", name): _fixed(name, default) for name, default in FIXED.items()},
    ("Customer", "canDelete"): lambda row: row.get("canDelete", row["numberOfOrders"] == "0"),
    ("Customer", "email"): _inner("defaultEmailAddress", "emailAddress"),
    ("Customer", "phone"): _inner("defaultPhoneNumber", "phoneNumber"),
    ("Customer", "validEmailAddress"): lambda row: bool(
        row["defaultEmailAddress"] and row["defaultEmailAddress"]["validFormat"]
    ),
    ("Customer", "unsubscribeUrl"): lambda row: "https://example.com/unsubscribe",
    ("Customer", "addresses"): _addresses,
    ("Customer", "addressesV2"): lambda row: _whole_connection(_addresses(row)),
    ("Customer", "metafields"): lambda row: _whole_connection(row.get("metafields", [])),
    ("Customer", "emailMarketingConsent"): _email_consent,
    ("Customer", "smsMarketingConsent"): _sms_consent,
    ("CustomerEmailAddress", "openTrackingLevel"): lambda email: "UNKNOWN",
    ("CustomerEmailAddress", "openTrackingUrl"): lambda email: "https://example.com/open",
    ("CustomerEmailAddress", "marketingUnsubscribeUrl"): lambda email: "https://example.com/out",
    ("CustomerPhoneNumber", "marketingState"): _older_sms_state,
    ("CustomerPhoneNumber", "marketingOptInLevel"): _of_consent("optInLevel"),
    ("CustomerPhoneNumber", "marketingUpdatedAt"): _of_consent("updatedAt"),
    ("CustomerPhoneNumber", "marketingCollectedFrom"): _of_consent("collectedFrom"),
    ("CustomerPhoneNumber", "whatsAppMarketingConsent"): lambda phone: NEVER_ASKED,
    ("MailingAddress", "countryCode"): lambda address: address["countryCodeV2"],
}
