"""GraphQL documents: checked against the trimmed schema once, then known as a plan.

A plan is the document with its fragments resolved: for every field its response key, its type and
what is selected below it, by concrete type. Costs, access checks and the projector all read plans;
none of them sees GraphQL syntax. This module knows no store and no customer.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLAbstractType,
    GraphQLError,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    build_schema,
    get_named_type,
    parse,
    validate,
)
from graphql.execution.values import get_argument_values, get_variable_values

SCHEMA_FILE = Path(__file__).parent / "admin_2026-10.graphql"
ERROR_CODES = (
    (r"Cannot query field", "undefinedField"),
    (r"Unknown argument", "argumentNotAccepted"),
    (r"Unknown type", "undefinedType"),
    (r"Variable .* of type .* used in position", "variableMismatch"),
    (r"Variable .* is not defined", "variableNotDefined"),
    (r"Variable .* is never used", "variableNotUsed"),
    (r".*argument .* is required", "missingRequiredArguments"),
    (r"Unknown fragment", "undefinedFragment"),
    (r"Field .* must have a selection", "selectionMismatch"),
)

Variables = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    key: str
    name: str
    owner: str
    type_name: str
    path: tuple[str, ...]
    definition: GraphQLField | None  # None: __typename
    node: FieldNode
    selections: Mapping[str, tuple["Field", ...]]
    """What is selected below, by the name of the concrete type; empty for a leaf."""

    def arguments(self, variables: Variables) -> dict[str, Any]:
        if self.definition is None or not self.definition.args:
            return {}
        return get_argument_values(self.definition, self.node, dict(variables))

    @property
    def location(self) -> dict[str, int] | None:
        if self.node.loc is None:
            return None
        token = self.node.loc.start_token
        return {"line": token.line, "column": token.column}


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    operation: OperationDefinitionNode
    fields: tuple[Field, ...]

    @property
    def name(self) -> str | None:
        return self.operation.name.value if self.operation.name else None

    def walk(self) -> Iterator[Field]:
        yield from _walk(self.fields)

    def variables(self, given: Variables) -> dict[str, Any]:
        """Raises InvalidDocument when a value does not fit its variable's type."""
        definitions = self.operation.variable_definitions
        values = get_variable_values(schema(), definitions, dict(given))
        if isinstance(values, list):
            raise InvalidDocument([describe(error, "INVALID_VARIABLE") for error in values])
        return values


class InvalidDocument(Exception):
    """The document, its operation name or its variables are refused, with Shopify's `errors`."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors[0]["message"])
        self.errors = errors


@cache
def schema() -> GraphQLSchema:
    return build_schema(SCHEMA_FILE.read_text(encoding="utf-8"), assume_valid=True)


@lru_cache(maxsize=512)
def plan(text: str, operation_name: str | None = None) -> Plan:
    """Raises InvalidDocument."""
    try:
        document = parse(text)
    except GraphQLError as problem:
        raise InvalidDocument([describe(problem)]) from None
    if problems := validate(schema(), document):
        raise InvalidDocument([describe(problem) for problem in problems])
    definitions = document.definitions
    operations = [node for node in definitions if isinstance(node, OperationDefinitionNode)]
    fragments = {
        node.name.value: node for node in definitions if isinstance(node, FragmentDefinitionNode)
    }
    operation = _choose(operations, operation_name)
    root = schema().get_root_type(operation.operation)
    if root is None:
        raise InvalidDocument([{"message": f"No {operation.operation.value} in this schema."}])
    planner = _Planner(fragments)
    return Plan(operation=operation, fields=planner.fields(root, [operation.selection_set], ()))


def describe(problem: GraphQLError, code: str | None = None) -> dict[str, Any]:
    """The entry in `errors`, with the code that Shopify gives."""
    message = problem.message
    for pattern, known in ERROR_CODES:
        if code is None and re.match(pattern, message):
            code = known
    if field := re.match(r"Cannot query field '(\w+)' on type '(\w+)'", message):
        message = f"Field '{field[1]}' doesn't exist on type '{field[2]}'"
    entry: dict[str, Any] = {"message": message}
    if problem.locations:
        entry["locations"] = [{"line": at.line, "column": at.column} for at in problem.locations]
    return entry | ({"extensions": {"code": code}} if code else {})


def _choose(operations: list[OperationDefinitionNode], name: str | None) -> OperationDefinitionNode:
    for operation in operations:
        if len(operations) == 1 and name is None:
            return operation
        if operation.name and operation.name.value == name:
            return operation
    message = f'No operation named "{name}"' if name else "An operation name is required"
    raise InvalidDocument([{"message": message}])


def _walk(fields: tuple[Field, ...]) -> Iterator[Field]:
    for field in fields:
        yield field
        for below in field.selections.values():
            yield from _walk(below)


class _Planner:
    def __init__(self, fragments: dict[str, FragmentDefinitionNode]) -> None:
        self.fragments = fragments

    def fields(
        self, parent: GraphQLObjectType, sets: list[SelectionSetNode], path: tuple[str, ...]
    ) -> tuple[Field, ...]:
        by_key: dict[str, list[FieldNode]] = {}
        for node in (node for each in sets for node in self._collect(parent, each)):
            by_key.setdefault(node.alias.value if node.alias else node.name.value, []).append(node)
        return tuple(self._field(parent, key, nodes, path) for key, nodes in by_key.items())

    def _field(
        self, parent: GraphQLObjectType, key: str, nodes: list[FieldNode], path: tuple[str, ...]
    ) -> Field:
        name, path = nodes[0].name.value, (*path, key)
        definition = parent.fields.get(name)
        kind = get_named_type(definition.type) if definition else None
        sets = [node.selection_set for node in nodes if node.selection_set]
        return Field(
            key=key,
            name=name,
            owner=parent.name,
            type_name=kind.name if kind else "String",
            path=path,
            definition=definition,
            node=nodes[0],
            selections={
                concrete.name: self.fields(concrete, sets, path) for concrete in _concrete(kind)
            },
        )

    def _collect(
        self, parent: GraphQLObjectType, selection_set: SelectionSetNode
    ) -> Iterator[FieldNode]:
        for selection in selection_set.selections:
            if isinstance(selection, FieldNode):
                yield selection
                continue
            fragment = self._fragment(selection)
            condition = fragment.type_condition
            if condition is None or _applies(parent, condition.name.value):
                yield from self._collect(parent, fragment.selection_set)

    def _fragment(self, selection: SelectionNode) -> FragmentDefinitionNode | InlineFragmentNode:
        if isinstance(selection, FragmentSpreadNode):
            return self.fragments[selection.name.value]
        return cast(InlineFragmentNode, selection)


def _concrete(kind: Any) -> list[GraphQLObjectType]:
    if isinstance(kind, GraphQLInterfaceType | GraphQLUnionType):
        return list(schema().get_possible_types(kind))
    return [kind] if isinstance(kind, GraphQLObjectType) else []


def _applies(parent: GraphQLObjectType, condition: str) -> bool:
    named = schema().get_type(condition)
    if isinstance(named, GraphQLInterfaceType | GraphQLUnionType):
        abstract: GraphQLAbstractType = named
        return schema().is_sub_type(abstract, parent)
    return parent.name == condition
