"""The root fields about webhook subscriptions: the list, and mutations with their userErrors."""

import base64
import binascii
from collections.abc import Callable

from shopify_simulator.document import Field
from shopify_simulator.execution import BAD_CURSOR, MAX_PAGE, Execution, Refused, connection
from shopify_simulator.sample import Row
from shopify_simulator.subscriptions import UserError


def webhook_subscriptions(run: Execution, at: Field, given: Row) -> Row:
    first, after = given.get("first"), given.get("after")
    if first is None or not 0 <= first <= MAX_PAGE:
        raise Refused(at, f"`first` must be given, from 0 to {MAX_PAGE}.", "BAD_USER_INPUT")
    topics = given.get("topics")
    rows = [row for row in run.store.subscriptions if topics is None or row["topic"] in topics]
    # Numbers ascend, so a page goes on though the one before it lost its last row.
    behind = [row for row in rows if after is None or _number(row["id"]) > _position(at, after)]
    page = behind[:first]
    return connection(page, _cursor, after=after, has_next=len(behind) > len(page))


def create(run: Execution, at: Field, given: Row) -> Row:
    sub = dict(given["webhookSubscription"])
    uri = sub.pop("uri", None) or sub.get("callbackUrl") or ""
    sub.pop("callbackUrl", None)
    return _changed(lambda: run.store.subscribe(given["topic"], uri, **sub))


def update(run: Execution, at: Field, given: Row) -> Row:
    sub = given["webhookSubscription"]
    return _changed(lambda: run.store.change_subscription(given["id"], **sub))


def delete(run: Execution, at: Field, given: Row) -> Row:
    try:
        deleted = run.store.unsubscribe(given["id"])
    except UserError as refusal:
        return {"deletedWebhookSubscriptionId": None, "userErrors": [refusal.row]}
    return {"deletedWebhookSubscriptionId": deleted, "userErrors": []}


WEBHOOK_ROOTS: dict[str, Callable[[Execution, Field, Row], Row]] = {
    "webhookSubscriptions": webhook_subscriptions,
    "webhookSubscriptionCreate": create,
    "webhookSubscriptionUpdate": update,
    "webhookSubscriptionDelete": delete,
}


def _changed(change: Callable[[], Row]) -> Row:
    try:
        return {"webhookSubscription": change(), "userErrors": []}
    except UserError as refusal:
        return {"webhookSubscription": None, "userErrors": [refusal.row]}


def _number(gid: str) -> int:
    return int(gid.split("/")[-1])


def _cursor(row: Row) -> str:
    return base64.b64encode(str(_number(row["id"])).encode()).decode()


def _position(at: Field, cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor, validate=True))
    except (binascii.Error, ValueError):
        raise Refused(at, BAD_CURSOR, "BAD_USER_INPUT") from None
