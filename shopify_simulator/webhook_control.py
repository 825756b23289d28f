"""The part of the control API about webhooks: subscriptions, deliveries, and the app's end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request

from shopify_simulator.simulator import Simulator
from shopify_simulator.stores import Store
from shopify_simulator.subscriptions import UserError

Handle = Callable[[Request], Awaitable[Any]]
Handles = list[tuple[str, str, Handle, int]]


def webhook_handles(simulator: Simulator) -> Handles:
    """Method, path below /stores/{shop}, handler and status of success."""
    control = WebhookControl(simulator)
    return [
        ("GET", "/subscriptions", control.list_subscriptions, 200),
        ("POST", "/subscriptions", control.subscribe, 201),
        ("DELETE", "/subscriptions/{id:path}", control.unsubscribe, 200),
        ("GET", "/deliveries", control.list_deliveries, 200),
        ("DELETE", "/deliveries", control.clear_deliveries, 200),
        ("POST", "/webhooks", control.send_webhook, 201),
        ("POST", "/release", control.release, 200),
        ("POST", "/uninstall", control.uninstall, 200),
        ("POST", "/customers/{id}/redaction", control.request_redaction, 200),
        ("POST", "/customers/{id}/data-request", control.request_data, 200),
        ("POST", "/redact-shop", control.redact_shop, 200),
    ]


async def json_object(request: Request) -> dict[str, Any]:
    """The body; none at all is an empty one."""
    value = orjson.loads(await request.body() or b"{}")
    if not isinstance(value, dict):
        raise TypeError("the body must be a JSON object")
    return value


class WebhookControl:
    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def list_subscriptions(self, request: Request) -> Any:
        return self._store(request).subscriptions

    async def subscribe(self, request: Request) -> Any:
        """topic and uri, and what else WebhookSubscriptionInput has."""
        given = await json_object(request)
        try:
            return self._store(request).subscribe(given.pop("topic"), given.pop("uri"), **given)
        except UserError as refusal:
            raise ValueError(str(refusal)) from None

    async def unsubscribe(self, request: Request) -> Any:
        """By number or gid."""
        try:
            return {"deleted": self._store(request).unsubscribe(request.path_params["id"])}
        except UserError as refusal:
            raise KeyError(str(refusal)) from None

    async def list_deliveries(self, request: Request) -> Any:
        """In a thread: a body is made for each of them."""
        store = self._store(request)
        return await asyncio.to_thread(lambda: store.deliveries)

    async def clear_deliveries(self, request: Request) -> Any:
        self._store(request).clear_deliveries()
        return {}

    async def send_webhook(self, request: Request) -> Any:
        """A body given as text goes out as those bytes, any other as JSON."""
        given = await json_object(request)
        topic, body, uri = (given.pop(name) for name in ("topic", "body", "uri"))
        return self._store(request).send_webhook(
            topic,
            body.encode() if isinstance(body, str) else body,
            uri,
            webhook_id=given.get("webhookId"),
            event_id=given.get("eventId"),
            secret=given.get("secret"),
            headers=given.get("headers"),
        )

    async def release(self, request: Request) -> Any:
        given = await json_object(request)
        return {"released": self._store(request).release(**given)}

    async def uninstall(self, request: Request) -> Any:
        self._store(request).uninstall()
        return {}

    async def request_redaction(self, request: Request) -> Any:
        self._store(request).request_redaction(request.path_params["id"])
        return {}

    async def request_data(self, request: Request) -> Any:
        self._store(request).request_data(request.path_params["id"])
        return {}

    async def redact_shop(self, request: Request) -> Any:
        self._store(request).redact_shop()
        return {}

    def _store(self, request: Request) -> Store:
        return self.simulator.store(request.path_params["shop"])
