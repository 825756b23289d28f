"""The hourly tick over many organizations with a few changes each, at 300 ms to every answer.

    python -m benchmarks.tick [--organizations 1000] [--single 50]

Dagster's daemon and its code server start the runs as in a deployment. Counted is the CPU of all of
them and of the runs' processes, not that of Postgres and of the simulator; the seconds are from the
moment the sync is asked for until the last store is synced. Then the same with one run for each
organization, on fewer of them.
"""

import argparse
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from benchmarks.deployed import CHANGES, Stores, daemon, deployment, tick
from benchmarks.plot import Bar
from benchmarks.stage import folder, report, simulator
from shopsync_pipeline.settings import Settings

LATENCY_MS = 300
AIM_SECONDS = 90.0
AIM_CPU_MS = 80.0
AIM_TIMES = 10.0
CPU = "CPU ms an organization"


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        url = stack.enter_context(simulator())
        settings = stack.enter_context(deployment(stack.enter_context(folder()), url))
        stores = Stores(settings, url, options.organizations, LATENCY_MS)
        together = _measured(stores, settings, options.organizations)
        each = _measured(stores, replace(settings, orgs_per_run=1), options.single)
    times = round(each[CPU] / together[CPU], 1)
    together |= {
        "seconds / aim": round(together["seconds"] / AIM_SECONDS, 2),
        f"{CPU} / aim": round(together[CPU] / AIM_CPU_MS, 2),
    }
    less = {
        "what": "CPU of a run for each organization / of runs over many",
        "times": times,
        "times / aim (at least 1)": round(times / AIM_TIMES, 2),
    }
    report("tick", [together, each, less], _plot(together, each))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.tick")
    parser.add_argument("--organizations", type=int, default=1000)
    parser.add_argument("--single", type=int, default=50)
    return parser.parse_args()


def _measured(stores: Stores, settings: Settings, count: int) -> dict[str, Any]:
    """One tick over the first `count` organizations, after one that warmed the daemon up."""
    organizations = stores.organizations[:count]
    with daemon(settings, stores) as process:
        stores.an_hour_passes(organizations[:1])
        tick(stores, process, organizations[:1])
        stores.an_hour_passes(organizations)
        figures = tick(stores, process, organizations)
    what = f"tick, {CHANGES} changes each, at most {settings.orgs_per_run} organizations in a run"
    return {"what": what, **figures}


def _plot(together: dict[str, Any], each: dict[str, Any]) -> dict[str, list[Bar]]:
    label = f"{together['organizations']} organizations"
    return {
        "seconds until the last store is synced": [
            Bar(label=label, value=together["seconds"], aim=AIM_SECONDS)
        ],
        CPU: [
            Bar(label=f"{together['runs']} runs", value=together[CPU], aim=AIM_CPU_MS),
            Bar(
                label="a run for each",
                value=each[CPU],
                aim=AIM_TIMES * together[CPU],
                at_least=True,
            ),
        ],
    }


if __name__ == "__main__":
    main()
