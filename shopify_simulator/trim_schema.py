"""Cuts Shopify's Admin schema down to what our documents ask for.

    python -m shopify_simulator.trim_schema FULL.json.gz

reads the published introspection result and writes ``admin_2026-10.graphql`` beside this file:
the fields and arguments that any document uses, the input types and enums those need, no
description texts. The simulator thus refuses a field that Shopify does not have, and one that
nobody has asked for yet; run this again after adding a document.

It knows nothing of stores or of HTTP.
"""

import gzip
import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from graphql import (
    DefinitionNode,
    DocumentNode,
    EnumTypeDefinitionNode,
    FieldDefinitionNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSchema,
    InputObjectTypeDefinitionNode,
    InputValueDefinitionNode,
    InterfaceTypeDefinitionNode,
    NamedTypeNode,
    Node,
    NonNullTypeNode,
    ObjectTypeDefinitionNode,
    ScalarTypeDefinitionNode,
    SchemaDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    UnionTypeDefinitionNode,
    VariableDefinitionNode,
    Visitor,
    build_client_schema,
    get_named_type,
    parse,
    print_ast,
    print_schema,
    validate,
    visit,
)

HERE = Path(__file__).parent
TRIMMED = HERE / "admin_2026-10.graphql"
DOCUMENT_FOLDERS = (
    HERE / "queries",
    HERE.parent / "shopsync_pipeline" / "shopify" / "documents",
)

Composite = ObjectTypeDefinitionNode | InterfaceTypeDefinitionNode
KeptInFull = EnumTypeDefinitionNode | InputObjectTypeDefinitionNode | ScalarTypeDefinitionNode
TYPE_DEFINITIONS = (
    ObjectTypeDefinitionNode,
    InterfaceTypeDefinitionNode,
    UnionTypeDefinitionNode,
    EnumTypeDefinitionNode,
    InputObjectTypeDefinitionNode,
    ScalarTypeDefinitionNode,
)


class Usage(Visitor):
    """Gathers the types, fields and arguments that documents name."""

    def __init__(self, type_info: TypeInfo) -> None:
        super().__init__()
        self.type_info = type_info
        self.types: set[str] = set()
        self.fields: set[tuple[str, str]] = set()
        self.arguments: set[tuple[str, str, str]] = set()

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        parent, kind = self.type_info.get_parent_type(), self.type_info.get_type()
        if parent is None or kind is None:
            return
        field = node.name.value
        self.types |= {parent.name, get_named_type(kind).name}
        self.fields.add((parent.name, field))
        self.arguments |= {(parent.name, field, given.name.value) for given in node.arguments}

    def enter_variable_definition(self, node: VariableDefinitionNode, *_: Any) -> None:
        self.types |= set(_named_types(node.type))


def load_full_schema(path: Path) -> GraphQLSchema:
    with gzip.open(path) as packed:
        introspection = json.load(packed)
    # Shopify's schema breaks a rule or two of the specification, so it is not validated itself.
    return build_client_schema(introspection.get("data", introspection), assume_valid=True)


def read_documents(folders: Iterable[Path] = DOCUMENT_FOLDERS) -> dict[Path, DocumentNode]:
    """Each file with an operation, joined with the fragments it spreads from files beside it."""
    return {path: document for folder in folders for path, document in _folder(folder).items()}


def _folder(folder: Path) -> dict[Path, DocumentNode]:
    files = {
        path: parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.graphql"))
    }
    operations = {path: each for path, each in files.items() if not _only_fragments(each)}
    shared = {
        fragment.name.value: fragment
        for path, each in files.items()
        if path not in operations
        for fragment in _fragments(each)
    }
    return {path: with_fragments(each, shared) for path, each in operations.items()}


def with_fragments(
    document: DocumentNode, shared: dict[str, FragmentDefinitionNode]
) -> DocumentNode:
    """And those that they spread in turn; a name not shared is left to the validation."""
    own = {fragment.name.value for fragment in _fragments(document)}
    added: dict[str, FragmentDefinitionNode] = {}
    wanted = _spreads(document)
    while wanted:
        name = wanted.pop()
        if name in shared and name not in own and name not in added:
            added[name] = shared[name]
            wanted |= _spreads(shared[name])
    behind = tuple(added[name] for name in sorted(added))
    return DocumentNode(definitions=(*document.definitions, *behind))


def _fragments(document: DocumentNode) -> list[FragmentDefinitionNode]:
    return [each for each in document.definitions if isinstance(each, FragmentDefinitionNode)]


def _only_fragments(document: DocumentNode) -> bool:
    return len(_fragments(document)) == len(document.definitions)


def _spreads(node: Node) -> set[str]:
    names: set[str] = set()

    class Spreads(Visitor):
        def enter_fragment_spread(self, spread: FragmentSpreadNode, *_: Any) -> None:
            names.add(spread.name.value)

    visit(node, Spreads())
    return names


def usage_of(schema: GraphQLSchema, documents: dict[Path, DocumentNode]) -> Usage:
    """Raises ValueError naming the file that is not valid against the full schema."""
    type_info = TypeInfo(schema)
    usage = Usage(type_info)
    for path, document in documents.items():
        if problems := validate(schema, document):
            raise ValueError(f"{path.name}: {problems[0].message}")
        visit(document, TypeInfoVisitor(type_info, usage))
    return usage


def trim(schema: GraphQLSchema, usage: Usage) -> str:
    whole = parse(print_schema(schema), no_location=True)
    by_name = {
        node.name.value: node for node in whole.definitions if isinstance(node, TYPE_DEFINITIONS)
    }
    schema_node = [node for node in whole.definitions if isinstance(node, SchemaDefinitionNode)]
    composites = [
        _trim_composite(node, usage)
        for name, node in by_name.items()
        if name in usage.types and isinstance(node, Composite)
    ]
    needed = _closure(by_name, usage.types | set(_all_named_types(composites)))
    definitions = [*schema_node, *composites, *(_bare(by_name[name]) for name in sorted(needed))]
    return "\n\n".join(print_ast(definition) for definition in definitions) + "\n"


def _trim_composite(node: Composite, usage: Usage) -> Composite:
    name = node.name.value
    interfaces = tuple(kept for kept in node.interfaces if kept.name.value in usage.types)
    owners = {name, *(kept.name.value for kept in interfaces)}
    fields = tuple(
        _trim_field(field, owners, usage)
        for field in node.fields
        if any((owner, field.name.value) in usage.fields for owner in owners)
    )
    node.description, node.interfaces, node.fields = None, interfaces, fields
    return node


def _trim_field(field: FieldDefinitionNode, owners: set[str], usage: Usage) -> FieldDefinitionNode:
    name = field.name.value
    field.description = None
    field.arguments = tuple(
        _without_description(argument)
        for argument in field.arguments
        if isinstance(argument.type, NonNullTypeNode)
        or any((owner, name, argument.name.value) in usage.arguments for owner in owners)
    )
    return field


def _without_description(value: InputValueDefinitionNode) -> InputValueDefinitionNode:
    value.description = None
    return value


def _closure(by_name: dict[str, Any], wanted: set[str]) -> set[str]:
    """The enums, input types and scalars behind these names, inputs within inputs included."""
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        node = by_name.get(name)
        if name in found or not isinstance(node, KeptInFull):
            continue
        found.add(name)
        wanted |= set(_named_types(node))
    return found


def _bare(node: Any) -> DefinitionNode:
    node.description = None
    parts: Iterable[Any] = ()
    if isinstance(node, EnumTypeDefinitionNode):
        parts = node.values
    elif isinstance(node, InputObjectTypeDefinitionNode):
        parts = node.fields
    for part in parts:
        part.description = None
    bare: DefinitionNode = node
    return bare


def _all_named_types(nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        yield from _named_types(node)


def _named_types(node: Node) -> list[str]:
    names: list[str] = []

    class Names(Visitor):
        def enter_named_type(self, named: NamedTypeNode, *_: Any) -> None:
            names.append(named.name.value)

    visit(node, Names())
    return names


def main(arguments: list[str]) -> int:
    parser = ArgumentParser(
        prog="python -m shopify_simulator.trim_schema",
        description="Cuts Shopify's Admin schema down to what our documents ask for.",
    )
    parser.add_argument("full", metavar="FULL.json.gz", type=Path, help="as Shopify publishes it")
    full = parser.parse_args(arguments).full
    if not full.is_file():
        parser.error(f"there is no file {full}")
    schema = load_full_schema(full)
    documents = read_documents()
    TRIMMED.write_text(trim(schema, usage_of(schema, documents)), encoding="utf-8")
    print(f"{TRIMMED.name}: {TRIMMED.stat().st_size} bytes for {len(documents)} documents")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
