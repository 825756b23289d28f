"""Turns values into the answer's JSON, by functions made once for each document.

graphql-core's own executor resolves and checks every field of every row on its own and takes some
100 ms for a page of 250 customers; a test or a demo asks for thousands of pages. Here a plan
becomes nested closures over plain dicts.
"""

from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any

from graphql import is_list_type, is_non_null_type

from shopify_simulator.customer_fields import DERIVED
from shopify_simulator.document import Field

Project = Callable[[Any], Any]


@lru_cache(maxsize=4096)
def projection(field: Field) -> Project:
    """From the value of the field to what the answer shows of it."""
    if not field.selections:
        return _unchanged
    by_type = {name: _object(below) for name, below in field.selections.items()}
    one = next(iter(by_type.values())) if len(by_type) == 1 else _by_type(by_type)
    if _is_list(field):
        return lambda values: [value if value is None else one(value) for value in values]
    return lambda value: value if value is None else one(value)


def _is_list(field: Field) -> bool:
    if field.definition is None:
        return False
    kind: Any = field.definition.type
    return is_list_type(kind.of_type if is_non_null_type(kind) else kind)


def _unchanged(value: Any) -> Any:
    return value


def _object(fields: tuple[Field, ...]) -> Project:
    readers = [(field.key, _reader(field)) for field in fields]

    def project(value: Any) -> dict[str, Any]:
        return {key: read(value) for key, read in readers}

    return project


def _reader(field: Field) -> Project:
    """From the value of the object that has the field."""
    if field.definition is None:
        return lambda value: field.owner  # __typename
    read: Project = DERIVED.get((field.owner, field.name)) or itemgetter(field.name)
    if not field.selections:
        return read
    below = projection(field)
    return lambda value: below(read(value))


def _by_type(by_type: dict[str, Project]) -> Project:
    """For interfaces: the type stands in the value's id, gid://shopify/Customer/1."""
    return lambda value: by_type[value["id"].split("/")[3]](value)
