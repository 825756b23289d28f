"""The GraphQL documents, each a file named as its operation; a test validates them all
against Shopify's schema."""

from functools import cache
from importlib.resources import files


@cache
def document(operation: str) -> str:
    """The text of `documents/{operation}.graphql`, spaces folded: it is sent with every page."""
    path = files("shopsync_pipeline.shopify") / "documents" / f"{operation}.graphql"
    return " ".join(path.read_text(encoding="utf-8").split())
