"""The GraphQL documents, each a file named as its operation or fragment; a test validates them
all against Shopify's schema."""

import re
from functools import cache
from importlib.resources import files

SPREAD = re.compile(r"\.\.\.\s*([A-Z]\w*)")


@cache
def document(operation: str) -> str:
    """The text of `documents/{operation}.graphql` with the fragments it spreads, spaces folded:
    it is sent with every page."""
    text = _file(operation)
    fragments = sorted(set(SPREAD.findall(text)))
    return " ".join([text, *(_file(name) for name in fragments)])


def _file(name: str) -> str:
    path = files("shopsync_pipeline.shopify") / "documents" / f"{name}.graphql"
    return " ".join(path.read_text(encoding="utf-8").split())
