"""What a query costs, and the bucket it is paid from.

Every object costs one point, money and page information nothing; a connection costs two points
and floor(2 ln n) times its node, n being `first` for the requested cost and the number of rows for
the actual one; a list read by ids costs its node for each id; a mutation costs ten points. So a
full page of customers costs 37, 47 or 57 points for 50, 100 or 250 rows, as in Shopify.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from shopify_simulator.document import Field

FREE_TYPES = {"MoneyV2", "PageInfo"}
MAX_QUERY_COST = 1000
MUTATION_COST = 10

SizeOf = Callable[[Field], int]


def selection_cost(fields: Iterable[Field], size_of: SizeOf) -> int:
    return sum(_field_cost(field, size_of) for field in fields)


def _field_cost(field: Field, size_of: SizeOf) -> int:
    if field.owner == "Mutation":
        return MUTATION_COST
    if not field.selections or field.type_name in FREE_TYPES:
        return 0
    inside = max(selection_cost(each, size_of) for each in field.selections.values())
    if field.type_name.endswith("Connection"):
        size = size_of(field)
        return 2 + (math.floor(2 * math.log(size)) * inside if size > 0 else 0)
    if field.name == "nodes" and field.owner == "QueryRoot":
        return size_of(field) * (1 + inside)
    # edges and nodes of a connection are counted above: what costs is the object in them
    return inside if field.type_name.endswith("Edge") else 1 + inside


@dataclass(kw_only=True)
class Bucket:
    """Points refill with the simulator's clock."""

    available: float
    filled_at: datetime

    def refill(self, now: datetime, *, maximum: float, rate: float) -> float:
        elapsed = max(0.0, (now - self.filled_at).total_seconds())
        self.available = min(maximum, self.available + elapsed * rate)
        self.filled_at = now
        return self.available

    def take(self, points: float) -> None:
        self.available -= points
