"""How Dagster's database grows: 100 organizations synced every hour of a simulated day, and their
webhooks, before and after the nightly housekeeping.

    python -m benchmarks.dagster_growth [--organizations 100] [--ticks 24]

Sizes are pg_total_relation_size (with indexes and TOAST) of all tables after VACUUM FULL, but for
the ticks of sensors, which come by the clock and not by the hour simulated: they are counted by
their own rate, and Dagster keeps the skipped ones for a day. What a day leaves is measured when it
is fresh, when it is 8 days old, and 31 days.
"""

import argparse
import os
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import orjson
import psutil  # type: ignore[import-untyped]
from dagster import DagsterInstance

from benchmarks.deployed import Stores, daemon, deployment, in_dagster, runs_ended, tick, wait_until
from benchmarks.plot import Bar
from benchmarks.stage import folder, report, simulator
from shopsync_pipeline.db import inbox, integrations
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline.definitions import defs
from shopsync_pipeline.local import environment
from shopsync_pipeline.models import Delivery
from shopsync_pipeline.settings import Settings

AIM_MEGABYTES = 20.0
DAY = 86_400
WAVES = 3
WEBHOOKS_A_DAY = 50
"""Of each organization, each reported alone."""

TABLES = """
SELECT relname, pg_total_relation_size(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 2 DESC
"""
EVENTS = """
SELECT dagster_event_type, count(*), round(avg(length(event))) FROM event_logs
GROUP BY 1 ORDER BY sum(length(event)) DESC LIMIT 4
"""


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        url = stack.enter_context(simulator())
        settings = stack.enter_context(
            deployment(stack.enter_context(folder()), url, webhook_linger_seconds=5)
        )
        stores = Stores(settings, url, options.organizations, latency_ms=0)
        os.environ.update(environment(settings))
        with daemon(settings, stores) as process:
            _hours(stores, process, 1)
            sizes = [_size(settings)]
            _hours(stores, process, options.ticks)
            sizes.append(_size(settings))
            reports = _webhooks(stores, process)
            sizes.append(_size(settings))
            ticks = _ticks_a_day(settings)
            spoken = _events(settings)
        aged = [_aged(settings, 8), _aged(settings, 23)]
    report_kilobytes = (sizes[2] - sizes[1]) / reports / 1e3
    day = (sizes[1] - sizes[0]) * 24 / options.ticks / 1e6
    figures = {
        "what": f"Dagster's database, {options.organizations} organizations synced hourly",
        "MB a day": round(day, 2),
        "MB a day / aim": round(day / AIM_MEGABYTES, 2),
        "KB a report of the drain": round(report_kilobytes, 2),
        f"MB a day of {WEBHOOKS_A_DAY} reports for each organization": round(
            report_kilobytes * WEBHOOKS_A_DAY * options.organizations / 1e3, 2
        ),
        "MB of both, fresh": round((sizes[2] - sizes[0]) / 1e6, 2),
        "MB of both, after 8 days": round((aged[0] - sizes[0]) / 1e6, 2),
        "MB of both, after 31 days": round((aged[1] - sizes[0]) / 1e6, 2),
        "MB of skipped ticks, kept for a day": round(ticks / 1e6, 2),
        "what most is": spoken,
    }
    report("dagster_growth", [figures], _plot(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.dagster_growth")
    parser.add_argument("--organizations", type=int, default=100)
    parser.add_argument("--ticks", type=int, default=24)
    return parser.parse_args()


def _hours(stores: Stores, process: psutil.Process, count: int) -> None:
    for _ in range(count):
        stores.an_hour_passes(stores.organizations)
        tick(stores, process, stores.organizations)


def _webhooks(stores: Stores, process: psutil.Process) -> int:
    """Let each organization have some, far enough apart that each is reported by itself; how many
    were."""
    settings = stores.settings
    before = _observations(settings)
    with connect(settings.required_database_url()) as conn:
        for wave in range(WAVES):
            _deliver(conn, stores.changed(wave))
            reported = before + (wave + 1) * len(stores.organizations)
            wait_until(lambda: _observations(settings) >= reported, "all reported")  # noqa: B023
    wait_until(lambda: runs_ended(settings, process), "the end of the drain")
    return _observations(settings) - before


def _deliver(conn: Conn, customers: Sequence[tuple[str, str]]) -> None:
    for organization, number in customers:
        (integration,) = integrations.active_of(conn, [organization])
        delivery = Delivery(
            shop=integration.shop,
            topic="customers/update",
            signature=b"",
            webhook_id=str(uuid.uuid4()),
            event_id=None,
            api_version="2026-10",
            triggered_at=None,
            body=orjson.dumps({"id": int(number)}),
        )
        with conn.transaction():
            inbox.store(conn, delivery, [integration.id], "pending")


def _observations(settings: Settings) -> int:
    ((count,),) = in_dagster(
        settings,
        """SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_OBSERVATION'
           AND asset_key = '["webhook_events"]'""",
    )
    return int(count)


def _size(settings: Settings) -> int:
    """Bytes of all tables but the ticks'."""
    in_dagster(settings, "VACUUM FULL")
    return sum(size for name, size in in_dagster(settings, TABLES) if name != "job_ticks")


def _ticks_a_day(settings: Settings) -> float:
    """Bytes of the skipped ticks of a day, at the rate of the last minutes."""
    ((seconds,),) = in_dagster(
        settings,
        """SELECT extract(epoch FROM now() AT TIME ZONE 'UTC' - min(timestamp))::float8
           FROM job_ticks""",
    )
    return float(dict(in_dagster(settings, TABLES))["job_ticks"] / seconds * DAY)


def _events(settings: Settings) -> str:
    return "; ".join(
        f"{n} {kind} of {size} bytes" for kind, n, size in in_dagster(settings, EVENTS)
    )


def _aged(settings: Settings, days: int) -> int:
    """The size when all is that many days older, after the housekeeping."""
    for table, column in [("runs", "update_timestamp"), ("event_logs", "timestamp")]:
        age = f"UPDATE {table} SET {column} = {column} - make_interval(days => %s)"
        in_dagster(settings, age, days)
    with DagsterInstance.get() as instance:
        assert defs.resolve_job_def("housekeeping").execute_in_process(instance=instance).success
    return _size(settings)


def _plot(figures: dict[str, Any]) -> dict[str, list[Bar]]:
    bars = [Bar(label="24 ticks", value=figures["MB a day"], aim=AIM_MEGABYTES)]
    of_both = [
        Bar(label=age, value=figures[f"MB of both, {age}"])
        for age in ("fresh", "after 8 days", "after 31 days")
    ]
    return {"MB a day": bars, "MB left of a day's ticks and some webhooks": of_both}


if __name__ == "__main__":
    main()
