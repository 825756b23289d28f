"""Sample customers: the same ones for the same seed, and as awkward as real ones.

Rows are Shopify's `Customer` as GraphQL shows it. A field that has the same value for every
sample customer, or that follows from another one, is not stored; `customer_fields` answers it.
Rows are never changed in place: an edit makes a new one, so parts may be shared.
"""

import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from shopify_simulator.clock import stamp

Row = dict[str, Any]

BEYOND_DOUBLES = 2**53 + 1
"""From here on a JavaScript client rounds ids."""
OLDEST = datetime(2021, 1, 1, tzinfo=UTC)
SPAN_SECONDS = 4 * 365 * 24 * 3600
IMPORTED_AT = "2023-05-17T09:30:00Z"

NAMES = [
    ("Ada", "Lovelace"),
    ("José", "Nuñez"),
    ("Jose\u0301", "Nun\u0303ez"),
    ("小明", "王"),
    ("さくら", "田中"),
    ("محمد", "الأحمد"),
    ("आरव", "शर्मा"),
    ("Zoë", "O'Brien-Smith"),
    ("Łukasz", "Żółć"),
    ("🦄 Uni", "Corn 🌈"),
    ("Nguyễn", "Thị Hương"),
    ("Мария", "Иванова"),
    ("Anna-Karin", "von der Ähe"),
    ('Bobby "Tables"', "'; DROP TABLE customers;--"),
    ("Kim", None),
    (None, "Mononym"),
    (None, None),
    ("  padded  ", "Name\\Backslash"),
]
PLACES = [
    ("1 Main St", "Springfield", "Illinois", "IL", "United States", "US", "62701"),
    ("12 Rue de l'Été", "Québec", "Quebec", "QC", "Canada", "CA", "G1R 2B5"),
    ("Müllerstraße 5", "Köln", None, None, "Germany", "DE", "50667"),
    ("建国路 88 号", "北京", "Beijing", "BJ", "China", "CN", "100022"),
    ("شارع الملك فهد ٧", "الرياض", None, None, "Saudi Arabia", "SA", "12211"),
    ("42 MG Road", "बेंगलुरु", "Karnataka", "KA", "India", "IN", "560001"),
    ("Apt 3\tRear", "Dublin", "Dublin", "D", "Ireland", "IE", None),
]
NOTES = [
    None,
    None,
    None,
    "VIP",
    "Line one\nLine two\r\nLine three",
    "Tab\there, \"quoted\", 'single', back\\slash, comma",
    "Prefers e-mail 📧, not phone ☎️",
    "",
    "{not: json} <b>html</b> & ;",
]
TAGS = ["vip", "wholesale", "newsletter", "söndag", "has, comma?", "日本", "tier:gold", 'say "hi"']
COMPANIES = [None, None, "Acme, Inc.", "Überholz GmbH & Co. KG", "株式会社サンプル"]
AMOUNTS = ["0.0", "0.0", "19.90", "5.0", "249.99", "1999.5", "1234567.89"]
STATES = ["DISABLED", "DISABLED", "ENABLED", "INVITED", "DECLINED"]
LOCALES = ["en", "en", "fr", "de-DE", "zh-CN", "pt-BR"]
EMAIL_STATES = ["SUBSCRIBED", "NOT_SUBSCRIBED", "UNSUBSCRIBED", "PENDING", "INVALID"]
SMS_STATES = ["NEVER_SUBSCRIBED", "NEVER_SUBSCRIBED", "SUBSCRIBED", "UNSUBSCRIBED", "PENDING"]
OPT_IN_LEVELS = ["SINGLE_OPT_IN", "CONFIRMED_OPT_IN", "UNKNOWN", None]
NEVER_ASKED: Row = {"state": "NEVER_SUBSCRIBED", "optInLevel": None} | {
    "updatedAt": None,
    "collectedFrom": None,
}


def sample_customers(
    rng: random.Random, numbered: Iterable[tuple[int, int]], currency: str
) -> Iterator[Row]:
    """For each place in the store and its id. One in twenty came by one import, all at once."""
    for place, number in numbered:
        row = sample_customer(rng, number, place, currency)
        if place % 20 == 7:
            row["updatedAt"] = max(IMPORTED_AT, row["createdAt"])
        yield row


def sample_customer(rng: random.Random, number: int, place: int, currency: str) -> Row:
    """`place` counts the store's customers, so that e-mail addresses differ."""
    first, last = rng.choice(NAMES)
    created, updated = _two_moments(rng)
    email = _email(rng, place, updated)
    phone = _phone(rng, place, updated)
    orders = rng.choice((0, 0, 1, 2, 17))
    return {
        "id": f"gid://shopify/Customer/{number}",
        "legacyResourceId": str(number),
        "firstName": first,
        "lastName": last,
        "displayName": display_name(first, last, email, phone),
        "state": rng.choice(STATES),
        "locale": rng.choice(LOCALES),
        "note": rng.choice(NOTES),
        "tags": sorted(rng.sample(TAGS, rng.choice((0, 0, 1, 3)))),
        "verifiedEmail": rng.random() < 0.8,
        "taxExempt": rng.random() < 0.05,
        "taxExemptions": ["CA_STATUS_CARD_EXEMPTION"] if rng.random() < 0.02 else [],
        "dataSaleOptOut": rng.random() < 0.03,
        "numberOfOrders": str(orders),
        "amountSpent": {
            "amount": rng.choice(AMOUNTS) if orders else "0.0",
            "currencyCode": currency,
        },
        "createdAt": created,
        "updatedAt": updated,
        "defaultEmailAddress": email,
        "defaultPhoneNumber": phone,
        "defaultAddress": _address(rng, number, first, last) if rng.random() < 0.8 else None,
    }


def display_name(first: str | None, last: str | None, email: Row | None, phone: Row | None) -> str:
    """The full name, else what else is known; never null."""
    whole = " ".join(part for part in (first, last) if part)
    return whole or (email or {}).get("emailAddress") or (phone or {}).get("phoneNumber") or ""


def _two_moments(rng: random.Random) -> tuple[str, str]:
    """One in ten was last touched at a full hour, so that even small stores share some seconds."""
    first, second = sorted((rng.randrange(SPAN_SECONDS), rng.randrange(SPAN_SECONDS)))
    if rng.random() < 0.1:
        second = max(first, second // 3_600_000 * 3_600_000)
    return stamp(OLDEST + timedelta(seconds=first)), stamp(OLDEST + timedelta(seconds=second))


def _email(rng: random.Random, place: int, moment: str) -> Row | None:
    if rng.random() < 0.1:
        return None
    state = rng.choice(EMAIL_STATES)
    return {
        "emailAddress": f"customer.{place}+{rng.randrange(1000)}@example.com",
        "validFormat": state != "INVALID",
        "marketingState": state,
        "marketingOptInLevel": None if state == "NOT_SUBSCRIBED" else rng.choice(OPT_IN_LEVELS),
        "marketingUpdatedAt": None if state == "NOT_SUBSCRIBED" else moment,
    }


def _phone(rng: random.Random, place: int, moment: str) -> Row | None:
    if rng.random() < 0.5:
        return None
    state = rng.choice(SMS_STATES)
    consent = {"state": state, "optInLevel": rng.choice(OPT_IN_LEVELS)} | {
        "updatedAt": moment,
        "collectedFrom": rng.choice(("SHOPIFY", "OTHER")),
    }
    return {
        "phoneNumber": f"+1555{place:07d}",
        "smsMarketingConsent": NEVER_ASKED if state == "NEVER_SUBSCRIBED" else consent,
    }


def _address(rng: random.Random, number: int, first: str | None, last: str | None) -> Row:
    street, city, province, province_code, country, country_code, postal_code = rng.choice(PLACES)
    return {
        "id": f"gid://shopify/MailingAddress/{number}?model_name=CustomerAddress",
        "firstName": first,
        "lastName": last,
        "name": " ".join(part for part in (first, last) if part) or None,
        "company": rng.choice(COMPANIES),
        "address1": street,
        "address2": rng.choice((None, None, "Floor 2", "c/o 山田")),
        "city": city,
        "province": province,
        "provinceCode": province_code,
        "country": country,
        "countryCodeV2": country_code,
        "zip": postal_code,
        "phone": rng.choice((None, None, "+49 221 12345", "00 44 20 7946 0000")),
    }
