"""Every GraphQL document is valid for Shopify, and asks for no more than it must."""

import gzip
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLSchema,
    build_client_schema,
    build_schema,
    parse,
    validate,
)

from shopsync_pipeline.models import CUSTOMER_COLUMNS
from shopsync_pipeline.shopify.bulk import customers_query
from shopsync_pipeline.shopify.customers import rows_of
from shopsync_pipeline.shopify.documents import document

FILES = sorted(
    Path(str(path)).stem
    for path in (files("shopsync_pipeline.shopify") / "documents").iterdir()
    if path.name.endswith(".graphql")
)
FRAGMENTS = [name for name in FILES if document(name).startswith("fragment ")]
DOCUMENTS = [name for name in FILES if name not in FRAGMENTS]
QUERIES = [name for name in DOCUMENTS if document(name).startswith("query ")]

# Fields that need more than read_customers: one that is not granted fails the whole query.
UNGRANTED = [
    "marketingUnsubscribeUrl",
    "openTrackingUrl",
    "mergeable",
    "companyContactProfiles",
    "lastOrder",
]


@pytest.fixture(scope="module")
def trimmed() -> GraphQLSchema:
    text = (files("shopify_simulator") / "admin_2026-10.graphql").read_text(encoding="utf-8")
    return build_schema(text, assume_valid=True)


@pytest.fixture(scope="module")
def published() -> GraphQLSchema:
    """Shopify's own, where ADMIN_SCHEMA names the file."""
    path = os.environ.get("ADMIN_SCHEMA")
    if not path:
        pytest.skip("ADMIN_SCHEMA names no file: make test ADMIN_SCHEMA=admin_2026-10.json.gz")
    introspection = json.loads(gzip.decompress(Path(path).read_bytes()))
    return build_client_schema(introspection.get("data", introspection), assume_valid=True)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_valid_against_the_trimmed_schema(trimmed: GraphQLSchema, name: str) -> None:
    assert validate(trimmed, parse(document(name))) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_valid_against_shopifys_schema(published: GraphQLSchema, name: str) -> None:
    assert validate(published, parse(document(name))) == []


def test_what_a_bulk_operation_executes_is_valid_and_asks_for_the_same_fields_as_a_page(
    trimmed: GraphQLSchema,
) -> None:
    query = customers_query("an-integration")
    assert validate(trimmed, parse(query)) == []
    _, _, fields = document("CustomerFields").partition("{")
    assert fields in query


def test_what_a_bulk_operation_executes_is_valid_against_shopifys_schema(
    published: GraphQLSchema,
) -> None:
    assert validate(published, parse(customers_query("an-integration"))) == []


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_asks_for_the_shop(name: str) -> None:
    assert "shop { id" in document(name)


@pytest.mark.parametrize("name", sorted({*DOCUMENTS} - {*QUERIES}))
def test_what_is_no_query_is_a_mutation_that_asks_what_was_refused(name: str) -> None:
    """A mutation cannot ask for the shop; Store.change says what is done instead."""
    assert document(name).startswith(f"mutation {name}(")
    assert "userErrors { field message" in document(name)


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_fragment_is_used(name: str) -> None:
    assert any(f"...{name}" in document(each) for each in DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_asks_for_nothing_that_needs_another_scope(name: str) -> None:
    assert not [field for field in UNGRANTED if field in document(name)]


def test_a_row_has_every_column_and_nothing_made_up_for_a_bare_customer() -> None:
    bare: dict[str, Any] = {
        "legacyResourceId": "9007199254740993",
        **dict.fromkeys(["firstName", "lastName", "displayName", "note", "state", "locale"]),
        "numberOfOrders": "0",
        "amountSpent": {"amount": "0.0", "currencyCode": "EUR"},
        **dict.fromkeys(["defaultEmailAddress", "defaultPhoneNumber", "defaultAddress"]),
        "tags": [],
        "verifiedEmail": False,
        "taxExempt": False,
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-02T00:00:00Z",
    }
    (row,) = rows_of([bare])
    given = {k: v for k, v in zip(CUSTOMER_COLUMNS, row, strict=True) if v is not None}
    assert given == {
        "shopifyId": 2**53 + 1,
        "totalSpent": "0.0",
        "currency": "EUR",
        "ordersCount": "0",
        "acceptsMarketing": False,
        "tags": "{}",
        "verifiedEmail": False,
        "taxExempt": False,
        "shopifyCreatedAt": "2026-01-01T00:00:00Z",
        "shopifyUpdatedAt": "2026-01-02T00:00:00Z",
    }
