"""An hour's changes of a large store on a standard plan: 1,000 of 100,000 customers, with 300 ms
to every answer.

    python -m benchmarks.incremental [--customers 100000] [--changed 1000]

Another quarter of that many changed in the overlap before the last sync's end, so are read again.
The least possible is one probe and full pages over the window: their points are what the store
itself charges for them; the least time is their latency and the waiting that the bucket's
arithmetic demands of a client that needs no time of its own. Once the bucket is full at the
start, once other work has just emptied it.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import requests as http

from benchmarks.plot import Bar
from benchmarks.stage import (
    FREE,
    STANDARD,
    change_store,
    database,
    environment,
    folder,
    make_store,
    report,
    simulator,
)
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.shopify.customers import PAGE_SIZE, gid_of, window_filter
from shopsync_pipeline.shopify.documents import document
from shopsync_pipeline.sync.connect import connect_store
from shopsync_pipeline.sync.engine import Engine, open_engine
from shopsync_pipeline.sync.organizations import SyncOrder, sync_organizations
from shopsync_pipeline.sync.pull import PullResult

LATENCY = 0.3
AIM_POINTS = 1.1
AIM_WAIT = 1.0
IDS_AT_ONCE = 199
"""So many read by id cost just under the 1,000 points that one query may cost."""

STARTS = {"full": "a full bucket", "empty": "an empty bucket"}


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A simulated store, asked without our engine."""

    url: str
    domain: str
    token: str

    def ask(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        answer = http.post(
            f"{self.url}/{self.domain}/admin/api/2026-10/graphql.json",
            json={"query": document(operation), "variables": variables},
            headers={"X-Shopify-Access-Token": self.token},
            timeout=60,
        )
        body: dict[str, Any] = answer.json()
        return body

    def pages(self, query: str) -> Iterator[dict[str, Any]]:
        """The answers that hold the customers whom `query` finds, in full pages."""
        after = None
        while True:
            variables = {"first": PAGE_SIZE, "after": after, "query": query}
            answer = self.ask("CustomersPage", variables)
            yield answer
            info = answer["data"]["customers"]["pageInfo"]
            after = info["endCursor"]
            if not info["hasNextPage"]:
                return

    def touch(self, customers: Sequence[dict[str, Any]]) -> None:
        def edit(customer: dict[str, Any]) -> None:
            path = f"stores/{self.domain}/customers/{customer['legacyResourceId']}"
            change = {"set": {"note": f"seen {customer['updatedAt']}"}}
            http.patch(f"{self.url}/_control/{path}", json=change, timeout=60).raise_for_status()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(edit, customers))


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        home = stack.enter_context(folder())
        url = stack.enter_context(simulator())
        environ = environment(home, stack.enter_context(database(home)), url)
        engine = stack.enter_context(open_engine(Settings.from_env(environ)))
        figures = [
            _measured(engine, url, start, options.customers, options.changed) for start in STARTS
        ]
    report("incremental", figures, _plot(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.incremental")
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--changed", type=int, default=1000)
    return parser.parse_args()


def _measured(engine: Engine, url: str, start: str, count: int, changed: int) -> dict[str, Any]:
    domain = f"{start}.myshopify.com"
    made = make_store(url, domain, count)
    shop = Shop(url=url, domain=domain, token=str(made["accessToken"]))
    held = Credentials(access_token=shop.token)
    connect_store(engine, organization_id=start, shop=domain, held=held)
    _synced(engine, start)
    before, now = changed // 4, changed
    customers = _customers(shop, before + now)
    shop.touch(customers[:before])
    _synced(engine, start)
    shop.touch(customers[before:])
    change_store(url, domain, **STANDARD, latencyMs=LATENCY * 1e3)
    level = _emptied(shop, customers) if start == "empty" else STANDARD["maximumAvailable"]
    result = _synced(engine, start)
    assert (result.counts.updated, result.counts.unchanged) == (now, before), result
    change_store(url, domain, **FREE, latencyMs=0)
    return {
        "what": f"{changed} changed of {count} customers, from {STARTS[start]}",
        **_against_the_least(result, level, _charges(shop, result)),
    }


def _against_the_least(
    result: PullResult, level: float, charges: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    costs = [charge["requestedQueryCost"] for charge in charges]
    points = sum(charge["actualQueryCost"] for charge in charges)
    demanded = least_wait(level, costs)
    least = LATENCY * len(costs) + demanded
    return {
        "rows read": result.counts.rows,
        "requests": result.requests,
        "points": result.points,
        "points / the least": round(result.points / points, 3),
        "points / the least / aim": round(result.points / points / AIM_POINTS, 2),
        "seconds": round(result.seconds, 2),
        "seconds / the least": round(result.seconds / least, 2),
        "seconds waited for points": round(result.throttled, 2),
        "seconds the bucket demanded": round(demanded, 2),
        "waited / demanded": round(result.throttled / demanded, 3) if demanded else None,
    }


def _customers(shop: Shop, count: int) -> list[dict[str, Any]]:
    """Some of the store's, all of them long unchanged."""
    found: list[dict[str, Any]] = []
    for page in shop.pages("updated_at:<='2100-01-01T00:00:00Z'"):
        found += page["data"]["customers"]["nodes"]
        if len(found) >= count:
            break
    return found[:count]


def _synced(engine: Engine, organization: str) -> PullResult:
    """One incremental sync of the store, as a run does it."""
    order = SyncOrder(run_id="bench")
    ((store,),) = (each.stores for each in sync_organizations(engine, [organization], order))
    assert store.result is not None, store.error
    return store.result


def _emptied(shop: Shop, customers: Sequence[dict[str, Any]]) -> float:
    """The points left after as many reads by id as the bucket bears."""
    ids = [gid_of(customer["legacyResourceId"]) for customer in customers[:IDS_AT_ONCE]]
    while True:
        cost = shop.ask("CustomersById", {"ids": ids})["extensions"]["cost"]
        left = float(cost["throttleStatus"]["currentlyAvailable"])
        if left < cost["requestedQueryCost"]:
            return left


def _charges(shop: Shop, result: PullResult) -> list[dict[str, Any]]:
    """`extensions.cost` of one probe and of full pages over the window that was read."""
    assert result.since is not None
    assert result.until is not None
    window = window_filter(result.since, result.until)
    answers = [shop.ask("StoreProbe", {}), *shop.pages(window)]
    return [answer["extensions"]["cost"] for answer in answers]


def least_wait(level: float, costs: Sequence[float]) -> float:
    """Seconds that a client must wait which needs no time of its own: so that the bucket, with
    `level` points now, holds each of `costs` when it is asked for, one after the other."""
    rate, maximum = STANDARD["restoreRate"], STANDARD["maximumAvailable"]
    waited = 0.0
    for cost in costs:
        wait = max(0.0, (cost - level) / rate)
        waited += wait
        level = min(maximum, level + (wait + LATENCY) * rate - cost)
    return waited


def _plot(figures: Sequence[dict[str, Any]]) -> dict[str, list[Bar]]:
    def bars(name: str, aim: float | None) -> list[Bar]:
        told = zip(STARTS.values(), figures, strict=True)
        return [Bar(label=start, value=each[name], aim=aim) for start, each in told if each[name]]

    return {
        "API points / the least possible": bars("points / the least", AIM_POINTS),
        "seconds / the least possible": bars("seconds / the least", None),
        "waiting for points / what the bucket demands": bars("waited / demanded", AIM_WAIT),
    }


if __name__ == "__main__":
    main()
