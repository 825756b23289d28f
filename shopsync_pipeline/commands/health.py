"""`shopsync doctor`: what the engine finds wrong, and what only this machine can tell."""

import os
from collections.abc import Iterator
from pathlib import Path

import typer

from shopsync_pipeline import local, processes, views
from shopsync_pipeline.commands.shared import Json, camel, examples, out, print_json
from shopsync_pipeline.errors import ConfigurationError, ShopsyncError
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.doctor import Finding, examine


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("shopsync doctor", "shopsync doctor --json"))(doctor)


def doctor(as_json: Json = False) -> None:
    """Check database, keys, stores, webhooks, daemon and receiver; each trouble with its remedy."""
    findings = list(_found(Settings.from_env()))
    if as_json:
        well = all(finding.well for finding in findings)
        print_json({"well": well, "findings": [camel(finding) for finding in findings]})
    else:
        out.print(views.findings_table(findings))
    if any(not finding.well for finding in findings):
        raise typer.Exit(1)


def _found(settings: Settings) -> Iterator[Finding]:
    try:
        with local.databases(settings) as prepared:
            yield from examine(prepared)
            yield _daemon(prepared)
    except ShopsyncError as error:
        yield Finding(what="database", well=False, told=str(error))
    yield _receiver(settings)


def _receiver(settings: Settings) -> Finding:
    """Where Shopify looks for it, or on this machine."""
    near = local.receiver_url(settings)
    here = processes.who_answers(near)
    there = processes.who_answers(settings.app_url) if settings.app_url else None
    if here == "other":
        told = f"another program answers at {near}: stop it, or set RECEIVER_PORT"
    elif there == "receiver":
        return Finding(what="receiver", well=True, told=f"answers at {settings.app_url}")
    elif there == "other":
        told = f"APP_URL ({settings.app_url}) is answered by something else: set it to the "
        told += "receiver's public address, and look at the proxy or tunnel before it"
    elif here == "nobody":
        told = f"nothing answers at {near}; start it: shopsync up"
    elif there == "nobody":
        told = f"answers at {near}, but nothing at APP_URL ({settings.app_url}): is the tunnel or "
        told += "proxy running, and the address right?"
    else:
        told = f"answers at {near}; for real-time sync set APP_URL to its public address"
        return Finding(what="receiver", well=True, told=told)
    return Finding(what="receiver", well=False, told=told)


def _daemon(settings: Settings) -> Finding:
    """Dagster is imported only here: it takes seconds, and no other command needs it."""
    from shopsync_pipeline.defs.health import silent_daemons, stopped

    if settings.dagster_postgres_url is None:
        told = "was never started here; start it: shopsync up"
        return Finding(what="Dagster daemon", well=False, told=told)
    try:
        os.environ["DAGSTER_POSTGRES_URL"] = settings.dagster_postgres_url
        os.environ["DAGSTER_HOME"] = str(_dagster_home(settings))
        silent, off = silent_daemons(), stopped()
    except ConfigurationError as error:
        return Finding(what="Dagster daemon", well=False, told=str(error))
    told = f"no heartbeat of {', '.join(silent)}; start it: shopsync up" if silent else "runs"
    if off:
        told += f"; stopped in the UI, under Automation, where they are started: {', '.join(off)}"
    return Finding(what="Dagster daemon", well=not silent and not off, told=told)


def _dagster_home(settings: Settings) -> Path:
    """The one that is given, as in a container, where no clone is; else that of `shopsync up`."""
    given = Path(os.environ.get("DAGSTER_HOME") or settings.home / "dagster")
    return given if (given / "dagster.yaml").exists() else local.dagster_home(settings)
