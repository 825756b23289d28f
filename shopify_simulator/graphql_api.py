"""Answers one GraphQL request for one store, as Shopify would: data, errors and extensions.

Here the order of the checks is decided: document, cost, access, bucket, then the root fields of
`roots`. HTTP, tokens and whatever happens to bytes are no concern of this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shopify_simulator.access import bulk_disabled_errors, missing_scopes, protected_errors
from shopify_simulator.bulk_roots import BULK_ROOTS
from shopify_simulator.cost import MAX_QUERY_COST, selection_cost
from shopify_simulator.document import Field, InvalidDocument, Plan, plan
from shopify_simulator.execution import Execution, Refused
from shopify_simulator.faults import Fault
from shopify_simulator.projector import projection
from shopify_simulator.roots import ROOTS
from shopify_simulator.sample import Row
from shopify_simulator.stores import Store


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request as far as it is understood without a store."""

    plan: Plan | None
    variables: Mapping[str, Any]
    refusal: list[Row] = field(default_factory=list)

    @property
    def operation(self) -> str | None:
        return self.plan.name if self.plan else None

    @property
    def about_bulk(self) -> bool:
        return self.plan is not None and any(each.name in BULK_ROOTS for each in self.plan.fields)

    @property
    def rows_arguments(self) -> Row:
        """What `customers` or `nodes` is called with, if it is; faults look at it."""
        if self.plan is None or self.refusal:
            return {}
        calls = [each for each in self.plan.fields if each.name in ("customers", "nodes")]
        return calls[0].arguments(self.variables) if calls else {}


@dataclass(frozen=True, kw_only=True)
class Answer:
    body: Row
    requested_cost: int | None = None


def understand(query: str, variables: Mapping[str, Any], operation_name: str | None) -> Call:
    known = None
    try:
        known = plan(query, operation_name)
        return Call(plan=known, variables=known.variables(variables))
    except InvalidDocument as refusal:
        return Call(plan=known, variables=variables, refusal=refusal.errors)


def answer(store: Store, call: Call, fault: Fault | None = None) -> Answer:
    if call.plan is None or call.refusal:
        return Answer(body={"errors": call.refusal})
    with store.lock:
        return _Answering(store, call.plan, call.variables, fault).answer()


class _Answering:
    def __init__(
        self, store: Store, known: Plan, variables: Mapping[str, Any], fault: Fault | None
    ) -> None:
        self.store = store
        self.plan = known
        self.variables = variables
        self.fault = fault
        self.requested = selection_cost(known.fields, self._requested_size)

    def answer(self) -> Answer:
        refusal = self._fault_error() or self._too_costly() or self._denied() or self._throttled()
        body = refusal or self._execute()
        return Answer(body=body, requested_cost=self.requested)

    # refusals, each a body or None

    def _fault_error(self) -> Row | None:
        if self.fault is None or self.fault.kind != "error":
            return None
        return self._refuse(_error(self.fault.options, "Something went wrong on our side."))

    def _too_costly(self) -> Row | None:
        forced = self.fault is not None and self.fault.kind == "max_cost_above"
        if self.requested <= MAX_QUERY_COST and not forced:
            return None
        cost = max(self.requested, MAX_QUERY_COST + 1)
        message = f"Query cost is {cost}, which exceeds the single query limit ({MAX_QUERY_COST})."
        extensions = {"code": "MAX_COST_EXCEEDED", "cost": cost, "maxCost": MAX_QUERY_COST}
        return self._refuse({"message": message, "extensions": extensions})

    def _denied(self) -> Row | None:
        errors = missing_scopes(self.plan, self.store.settings.scopes)
        if not self.store.settings.bulk_enabled:
            errors += bulk_disabled_errors(self.plan)
        if not errors and self.store.settings.protected_data == "none":
            errors = protected_errors(self.plan, "none")
        if not errors:
            return None
        return {"data": None, "errors": errors, "extensions": {"cost": self._cost(0)}}

    def _throttled(self) -> Row | None:
        settings = self.store.settings
        available = self.store.bucket.refill(
            self.store.clock.now(), maximum=settings.maximum_available, rate=settings.restore_rate
        )
        forced = self.fault is not None and self.fault.kind == "throttled"
        if available >= self.requested and not forced:
            return None
        if forced and self.fault:
            # Short by one point unless told otherwise, so that a client waits a moment only.
            available = self.fault.options.get("currentlyAvailable", self.requested - 1)
        throttled = {"message": "Throttled", "extensions": {"code": "THROTTLED"}}
        return self._refuse(throttled, available=available)

    def _refuse(self, *errors: Row, available: float | None = None) -> Row:
        cost = self._cost(None, available=available)
        return {"errors": list(errors), "extensions": {"cost": cost}}

    # the answer itself

    def _execute(self) -> Row:
        execution = Execution(store=self.store, plan=self.plan, fault=self.fault)
        try:
            values = {each.key: self._value(execution, each) for each in self.plan.fields}
        except Refused as refusal:
            return {"errors": refusal.errors, "extensions": {"cost": self._cost(0)}}
        data = {each.key: projection(each)(values[each.key]) for each in self.plan.fields}
        actual = min(
            self.requested, selection_cost(self.plan.fields, lambda f: self._size(f, values))
        )
        self.store.bucket.take(actual)
        extensions: Row = {"cost": self._cost(actual)}
        if execution.search_notes:
            extensions["search"] = execution.search_notes
        errors = self._errors_beside_data()
        return {"data": data, **({"errors": errors} if errors else {}), "extensions": extensions}

    def _value(self, execution: Execution, root: Field) -> Any:
        if root.definition is None:
            return root.owner
        resolve = ROOTS.get(root.name)
        if resolve is None:
            message = f"The simulator does not answer {root.name}."
            raise Refused(root, message, "INTERNAL_SERVER_ERROR")
        return resolve(execution, root, root.arguments(self.variables))

    def _errors_beside_data(self) -> list[Row]:
        errors = protected_errors(self.plan, self.store.settings.protected_data)
        if self.fault is not None and self.fault.kind == "data_with_errors":
            errors.append(_error(self.fault.options, "Internal error. Looks like a bug."))
        return errors

    # costs

    def _requested_size(self, of: Field) -> int:
        arguments = of.arguments(self.variables)
        return len(arguments["ids"]) if "ids" in arguments else int(arguments.get("first") or 0)

    def _size(self, of: Field, values: Row) -> int:
        """How many rows came, for a root field; below it what was asked for."""
        if len(of.path) > 1:
            return self._requested_size(of)
        value = values[of.key]
        rows = value["nodes"] if isinstance(value, dict) else value
        return sum(row is not None for row in rows)

    def _cost(self, actual: float | None, *, available: float | None = None) -> Row:
        settings = self.store.settings
        left = self.store.bucket.available if available is None else available
        return {
            "requestedQueryCost": self.requested,
            "actualQueryCost": actual,
            "throttleStatus": {
                "maximumAvailable": float(settings.maximum_available),
                "currentlyAvailable": float(left),
                "restoreRate": float(settings.restore_rate),
            },
        }


def _error(options: Row, message: str) -> Row:
    code = options.get("code", "INTERNAL_SERVER_ERROR")
    return {"message": options.get("message", message), "extensions": {"code": code}}
