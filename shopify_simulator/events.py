"""What one action of a merchant tells: the topics and the bodies that go with a change.

An action becomes messages, each a topic and a way to make its body; whoever sends makes it then,
so a change of a store stays cheap. Rows are never changed in place, so a later body is the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from shopify_simulator.payloads import (
    NO_PHONE,
    customer_body,
    deleted_body,
    email_consent,
    email_consent_body,
    merged_body,
    purchases_body,
    sms_consent,
    sms_consent_body,
    tags_body,
)
from shopify_simulator.sample import Row

STATE_TOPICS = {"ENABLED": "customers/enable", "DISABLED": "customers/disable"}
PURCHASES = ("numberOfOrders", "amountSpent")

MakeBody = Callable[[], Row]


@dataclass(frozen=True, kw_only=True)
class Message:
    topic: str
    body: MakeBody
    customer_id: int | None = None


def created(row: Row, version: str) -> list[Message]:
    return [_about(row, "customers/create", partial(customer_body, row, version))]


def deleted(row: Row, version: str) -> list[Message]:
    return [_about(row, "customers/delete", partial(deleted_body, row, version))]


def edited(before: Row, row: Row, version: str, moment: str) -> list[Message]:
    """Of an edit that moved updatedAt. `moment` is `occurredAt` in the bodies that have one."""
    whole = partial(customer_body, row, version)
    told = [_about(row, "customers/update", whole)]
    told += [_about(row, topic, body) for topic, body in _tag_changes(before, row, moment)]
    if email_consent(before) != email_consent(row):
        body = partial(email_consent_body, row)
        told.append(_about(row, "customers/email_marketing_consent_update", body))
    if (sms_consent(before) or NO_PHONE) != (sms_consent(row) or NO_PHONE):
        body = partial(sms_consent_body, row)
        told.append(_about(row, "customers/marketing_consent_update", body))
    if before["state"] != row["state"] and row["state"] in STATE_TOPICS:
        told.append(_about(row, STATE_TOPICS[row["state"]], whole))
    return told


def edited_untouched(before: Row, row: Row, moment: str) -> list[Message]:
    """Of an edit that left updatedAt alone: only an order is told of, and only by its sums."""
    if all(before[name] == row[name] for name in PURCHASES):
        return []
    return [_about(row, "customers/purchasing_summary", partial(purchases_body, row, moment))]


def merged(kept: Row, lost: Row, version: str, with_delete: bool) -> list[Message]:
    """Whether Shopify also tells of the lost one's deletion is not documented."""
    told = [
        _about(kept, "customers/update", partial(customer_body, kept, version)),
        _about(kept, "customers/merge", partial(merged_body, kept, lost)),
    ]
    return told + (deleted(lost, version) if with_delete else [])


def _tag_changes(before: Row, row: Row, moment: str) -> Iterator[tuple[str, MakeBody]]:
    added = [tag for tag in row["tags"] if tag not in before["tags"]]
    removed = [tag for tag in before["tags"] if tag not in row["tags"]]
    for topic, tags in (("customer.tags_added", added), ("customer.tags_removed", removed)):
        if tags:
            yield topic, partial(tags_body, row, tags, moment)


def _about(row: Row, topic: str, body: MakeBody) -> Message:
    return Message(topic=topic, body=body, customer_id=int(row["legacyResourceId"]))
