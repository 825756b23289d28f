"""Webhook topics: their two spellings, and the scope that subscribing to one needs."""

from collections.abc import Iterable

from shopify_simulator.access import with_implied

DOTTED = ("CUSTOMER_TAGS_ADDED", "CUSTOMER_TAGS_REMOVED")
OTHER_HEADERS = {"BULK_OPERATIONS_FINISH": "bulk_operations/finish"}
OTHER_SCOPES = {"CUSTOMERS_MERGE": "read_customer_merge"}


def header_of(topic: str) -> str:
    """The `X-Shopify-Topic` of a WebhookSubscriptionTopic: CUSTOMERS_CREATE, customers/create."""
    if topic in OTHER_HEADERS:
        return OTHER_HEADERS[topic]
    head, _, rest = topic.lower().partition("_")
    return f"{head}.{rest}" if topic in DOTTED else f"{head}/{rest}"


def may_subscribe(topic: str, scopes: Iterable[str]) -> bool:
    default = "read_customers" if topic.startswith("CUSTOMER") else None
    needed = OTHER_SCOPES.get(topic, default)
    return needed is None or needed in with_implied(scopes)
