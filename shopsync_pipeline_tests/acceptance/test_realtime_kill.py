"""Real-time sync while its processes are killed by SIGKILL, and while one drain follows another: no
answered delivery is lost, and the table ends equal to the stores."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import requests as http
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from shopsync_pipeline import local
from shopsync_pipeline.db.locks import LiveDrain
from shopsync_pipeline_tests.acceptance.deployment import (
    Deployment,
    SimulatedStore,
    Traffic,
    deployed,
    kill,
    parent_of,
    wait_for,
)
from shopsync_pipeline_tests.world import free_port

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(sys.platform != "linux", reason="it finds processes in /proc"),
]

LEASE_SECONDS = 5
DRAIN_MAX_SECONDS = 40  # twice the 20 s before its end in which the successor must start
TAKEN_OVER_SECONDS = LEASE_SECONDS + 20
CODE_SERVER_SECONDS = 60  # Dagster's daemon starts a dead code server anew so often
TAKEN_OVER_FROM_DAGSTER_SECONDS = LEASE_SECONDS + CODE_SERVER_SECONDS + 20
CANCELLED_SECONDS = 90
HANDOVER_GAP_SECONDS = 2
SETTLED_SECONDS = 30
KILLS = 3
RETRIES_FASTER = 200  # 10 s, 1, 3 and 10 min become 50 ms to 3 s


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


def assert_all_is_as_in_the_stores(deployment: Deployment) -> None:
    """Once all is settled: every field, every delivery as one row, all of it reported."""
    for store in deployment.stores:
        assert deployment.differences(store) == []
    sent = {d["webhookId"] for store in deployment.stores for d in store.deliveries()}
    stored = deployment.select('SELECT "webhookId", "status" FROM webhook_events')
    assert len(stored) == len(sent)
    assert {row[0] for row in stored} == sent
    assert {row[1] for row in stored} == {"done"}
    wait_for(lambda: not deployment.unreported(), SETTLED_SECONDS, "all events reported")


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
            kill(deployment.run_pid(victim.run_id))
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


def test_a_drain_killed_with_its_code_server_is_replaced_and_its_slot_freed(
    deployment: Deployment, stores: list[SimulatedStore], seed: int
) -> None:
    with Traffic(*stores, seed=seed):
        victim = wait_for(lambda: alone(deployment), 2 * DRAIN_MAX_SECONDS, "no successor yet")
        process = deployment.run_pid(victim.run_id)
        kill(parent_of(process), process)
        killed_at = deployment.clock().timestamp()
        heir = wait_for(
            lambda: another_at_work(deployment, victim), TAKEN_OVER_FROM_DAGSTER_SECONDS, "an heir"
        )
        print(f"the next drain works {seconds_since(deployment, killed_at):.1f} s after the kill")
    wait_for(deployment.all_settled, TAKEN_OVER_FROM_DAGSTER_SECONDS, "all events done")
    took = seconds_since(deployment, killed_at)
    print(f"all done {took:.1f} s after the kill")
    assert took < TAKEN_OVER_FROM_DAGSTER_SECONDS
    assert_all_is_as_in_the_stores(deployment)
    wait_for(
        lambda: status_of(deployment, victim) is DagsterRunStatus.CANCELED,
        CANCELLED_SECONDS,
        "the dead run's cancellation",
    )
    print(f"cancelled {seconds_since(deployment, killed_at):.1f} s after the kill")
    dead, next_ = (deployment.instance.get_run_record_by_id(d.run_id) for d in (victim, heir))
    assert dead is not None
    assert dead.end_time is not None
    assert next_ is not None
    assert next_.create_timestamp.timestamp() < dead.end_time  # Dagster still took it for alive


def alone(deployment: Deployment) -> LiveDrain | None:
    """The drain at work, while none was requested after it."""
    holder = deployment.holder()
    newest = deployment.instance.get_runs(RunsFilter(job_name="apply_webhooks"), limit=1)
    return holder if holder and newest[0].run_id == holder.run_id else None


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


def test_a_receiver_killed_under_deliveries_has_stored_all_that_it_answered(
    deployment: Deployment, seed: int
) -> None:
    """One more receiver beside the deployment's own, as behind a balancer."""
    store = deployment.add_token_store("cow", customers=0, webhookTimeFactor=RETRIES_FASTER)
    port, chance = free_port(), random.Random(seed)
    store.subscribe(f"http://127.0.0.1:{port}/api/webhooks/shopify")
    with Traffic(store, seed=seed, pause=0.005) as traffic:
        for _ in range(KILLS):
            with receiver_running(deployment, port) as receiver:
                traffic.goes_on(40 + chance.randrange(40))
                receiver.kill()
    with receiver_running(deployment, port):
        wait_for(deployment.all_settled, SETTLED_SECONDS, "all deliveries stored and done")
    attempts = [
        (delivery["webhookId"], attempt.get("status"))
        for delivery in store.deliveries()
        for attempt in delivery["attempts"]
    ]
    refused = [webhook_id for webhook_id, status in attempts if status != 200]
    print(f"{len(attempts)} tries, {len(refused)} cut off or refused")
    assert refused
    assert {webhook_id for webhook_id, status in attempts if status == 200} <= (
        deployment.webhook_ids()
    )
    assert_all_is_as_in_the_stores(deployment)


@contextmanager
def receiver_running(deployment: Deployment, port: int) -> Iterator[subprocess.Popen[bytes]]:
    environ = local.receiver_environment(deployment.settings) | {"RECEIVER_PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "-m", "webhook_receiver"],
        env=environ,
        cwd=deployment.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(lambda: is_ready(port), SETTLED_SECONDS, "the receiver")
            yield process
        finally:
            process.kill()


def is_ready(port: int) -> bool:
    try:
        return http.get(f"http://127.0.0.1:{port}/readyz", timeout=2).ok
    except http.RequestException:
        return False
