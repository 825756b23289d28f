"""Real-time sync while one drain follows another, killed or at the end of its time: no answered
delivery is lost, and the table ends equal to the stores."""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from shopsync_pipeline.db.locks import LiveDrain
from shopsync_pipeline_tests.acceptance.deployment import (
    Deployment,
    SimulatedStore,
    Traffic,
    assert_all_is_as_in_the_stores,
    deployed,
    kill,
    wait_for,
)

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(sys.platform != "linux", reason="it finds processes in /proc"),
]

LEASE_SECONDS = 5
DRAIN_MAX_SECONDS = 40  # twice the 20 s before its end in which the successor must start
TAKEN_OVER_SECONDS = LEASE_SECONDS + 20
HANDOVER_GAP_SECONDS = 2
SETTLED_SECONDS = 30
KILLS = 3


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """Two stores with real-time sync, whose drain lives for less than a minute."""
    with deployed(
        WEBHOOK_LEASE_SECONDS=str(LEASE_SECONDS),
        WEBHOOK_LINGER_SECONDS="-1",
        WEBHOOK_DRAIN_MAX_SECONDS=str(DRAIN_MAX_SECONDS),
    ) as deployment:
        stores = [deployment.add_token_store("ant"), deployment.add_app_store("bee")]
        deployment.ask("sync", *stores)
        for store in stores:
            store.subscribe()
        yield deployment


@pytest.fixture
def stores(deployment: Deployment) -> list[SimulatedStore]:
    return deployment.stores[:2]


@pytest.fixture
def seed() -> int:
    """Printed where a test fails."""
    chosen = random.randrange(10**6)
    print(f"seed {chosen}")
    return chosen


def working(deployment: Deployment) -> LiveDrain:
    """The drain at work, which will not end by itself within the next seconds."""

    def look() -> LiveDrain | None:
        holder = deployment.holder()
        return holder if holder and holder.age < DRAIN_MAX_SECONDS - 3 else None

    return wait_for(look, SETTLED_SECONDS, "a drain at work")


def seconds_since(deployment: Deployment, moment: float) -> float:
    return deployment.clock().timestamp() - moment


def test_a_drain_killed_again_and_again_in_traffic_loses_nothing_and_repeats_nothing(
    deployment: Deployment, stores: list[SimulatedStore], seed: int
) -> None:
    chance = random.Random(seed)
    unreported: Counter[tuple[str, str]] = Counter()
    with Traffic(*stores, seed=seed) as traffic:
        for _ in range(KILLS):
            victim = working(deployment)
            traffic.goes_on(chance.randrange(60))
            victim = working(deployment)  # it may have handed over meanwhile
            pid = deployment.run_pid(victim.run_id)
            assert pid
            kill(pid)
            killed_at = deployment.clock()
            unreported += unreported_of(deployment, victim.run_id)
    wait_for(deployment.all_settled, TAKEN_OVER_SECONDS, "all events done")
    took = seconds_since(deployment, killed_at.timestamp())
    print(f"all done {took:.1f} s after the last of {KILLS} kills")
    assert took < TAKEN_OVER_SECONDS
    assert_all_is_as_in_the_stores(deployment)
    print(f"{unreported.total()} events were merged by killed runs and logged by the next")
    assert unreported <= reported_for_others(deployment)


def unreported_of(deployment: Deployment, run_id: str) -> Counter[tuple[str, str]]:
    """How many events a run settled and did not log, for each organization."""
    rows = deployment.select(
        """SELECT "organizationId" FROM webhook_events
           WHERE "runId" = %s AND "status" = 'done' AND "reportedAt" IS NULL""",
        run_id,
    )
    return Counter((run_id, organization) for (organization,) in rows)


def reported_for_others(deployment: Deployment) -> Counter[tuple[str, str]]:
    """How many events were logged by another run than the one that had merged them, for each of
    these and each organization."""
    found: Counter[tuple[str, str]] = Counter()
    for run in deployment.instance.get_runs(RunsFilter(job_name="apply_webhooks")):
        kind = DagsterEventType.ASSET_MATERIALIZATION
        for entry in deployment.instance.all_logs(run.run_id, of_type=kind):
            assert entry.dagster_event
            told = entry.dagster_event.step_materialization_data.materialization
            if "merged by run" in told.metadata:
                merged_by = str(told.metadata["merged by run"].value)
                found[merged_by, str(told.partition)] += int(str(told.metadata["events"].value))
    return found


def another_at_work(deployment: Deployment, than: LiveDrain) -> LiveDrain | None:
    holder = deployment.holder()
    return holder if holder and holder.run_id != than.run_id else None


def status_of(deployment: Deployment, drain: LiveDrain) -> DagsterRunStatus:
    run = deployment.instance.get_run_by_id(drain.run_id)
    assert run is not None
    return run.status


def test_a_drain_hands_over_to_its_successor_without_a_gap(
    deployment: Deployment, stores: list[SimulatedStore], seed: int
) -> None:
    with Traffic(*stores, seed=seed) as traffic:
        first = working(deployment)
        second = wait_for(
            lambda: successor_of(deployment, first), DRAIN_MAX_SECONDS + 10, "a successor waiting"
        )
        wait_for(
            lambda: another_at_work(deployment, first), DRAIN_MAX_SECONDS, "the successor at work"
        )
        handed_over = deployment.clock()
        holder = deployment.holder()
        assert holder is not None
        assert holder.run_id == second.run_id
        traffic.goes_on(40)
    wait_for(deployment.all_settled, SETTLED_SECONDS, "all events done")
    lags = deployment.select(
        """SELECT extract(epoch FROM "processedAt" - "receivedAt")::float8, "runId"
           FROM webhook_events WHERE "reads" = 0 AND "receivedAt" BETWEEN %s AND %s
           ORDER BY 1""",
        handed_over - timedelta(seconds=5),
        handed_over + timedelta(seconds=5),
    )
    print(f"{len(lags)} events around the handover, the slowest took {lags[-1][0]:.3f} s")
    assert {run_id for _, run_id in lags} == {first.run_id, second.run_id}
    assert lags[-1][0] < HANDOVER_GAP_SECONDS
    wait_for(
        lambda: status_of(deployment, first) is DagsterRunStatus.SUCCESS, 30, "the end of the first"
    )


def successor_of(deployment: Deployment, first: LiveDrain) -> LiveDrain | None:
    """The one that waits while the first still works. Fails where nobody waited for it."""
    others = [drain for drain in deployment.drains() if drain.run_id != first.run_id]
    holder = deployment.holder()
    assert holder is not None, "nobody works"
    if not others:
        assert holder.run_id == first.run_id
    return others[0] if others and holder.run_id == first.run_id else None
