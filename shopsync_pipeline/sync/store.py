"""One store as a run works on it: its integration, its client, its token, the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Semaphore
from typing import Any

from shopsync_pipeline.db.engine import Pool
from shopsync_pipeline.errors import NeedsReauth, StoreGone
from shopsync_pipeline.models import Integration
from shopsync_pipeline.shopify.answers import as_documented
from shopsync_pipeline.shopify.client import Reply, ShopClient, Waits
from shopsync_pipeline.sync.tokens import Tokens

GID = "gid://shopify/Shop/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """`bulk` lets only so many stores read the result of a bulk operation at once."""

    integration: Integration
    pool: Pool
    client: ShopClient
    tokens: Tokens
    bulk: Semaphore

    def ask(self, operation: str, variables: dict[str, Any]) -> Waits[Reply]:
        """The answer of the expected shop; a refused token that can be renewed is, once.

        Raises StoreGone where another shop answers: the domain was given away, or renamed.
        """
        reply = yield from self._answer(operation, variables)
        self._refuse_another_shop(reply)
        return reply

    def change(
        self, operation: str, variables: dict[str, Any], *, once: bool = False
    ) -> Waits[Reply]:
        """The answer to a mutation, which cannot name its shop: `ask` for what it changes just
        before. It may have been executed twice where an answer was lost, but not with `once`,
        which raises a RetryableError then."""
        return (yield from self._answer(operation, variables, once=once))

    def _answer(
        self, operation: str, variables: dict[str, Any], *, once: bool = False
    ) -> Waits[Reply]:
        token = yield from self.tokens.current()
        try:
            return (yield from self.client.ask(operation, variables, token=token, once=once))
        except NeedsReauth:
            other = yield from self.tokens.after_refusal(token)
            if other is None:
                raise
            return (yield from self.client.ask(operation, variables, token=other, once=once))

    def _refuse_another_shop(self, reply: Reply) -> None:
        answered = shop_id_of(self.integration.shop, reply.answer.data)
        expected = self.integration.shop_id
        if expected is not None and answered != expected:
            raise StoreGone(
                self.integration.shop,
                f"shop {answered} answers where shop {expected} was connected: it was renamed "
                "or the domain has another owner",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What a store says of itself: `domain` is its myshopify domain of now."""

    shop_id: int
    name: str
    domain: str
    customers: int
    scopes: list[str]


def probed_of(shop: str, data: Mapping[str, Any]) -> Probed:
    """From the data of StoreProbe.graphql. Raises BrokenAnswer where it is not as documented."""
    with as_documented(shop, "what the store says of itself"):
        return Probed(
            shop_id=shop_id_of(shop, data),
            name=str(data["shop"]["name"]),
            domain=data["shop"]["myshopifyDomain"].lower(),
            customers=int(data["customersCount"]["count"]),
            scopes=scopes_of(shop, data),
        )


def shop_id_of(shop: str, data: Mapping[str, Any]) -> int:
    """The number in `shop { id }`, which every query of ours asks for. Raises BrokenAnswer."""
    with as_documented(shop, "the shop's id"):
        return int(str(data["shop"]["id"]).removeprefix(GID))


def scopes_of(shop: str, data: Mapping[str, Any]) -> list[str]:
    """The granted scopes from StoreProbe.graphql and WebhookSubscriptions.graphql. Raises
    BrokenAnswer."""
    with as_documented(shop, "the list of the app's scopes"):
        return [scope["handle"] for scope in data["currentAppInstallation"]["accessScopes"]]
