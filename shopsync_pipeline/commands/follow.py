"""`sync`, `reconcile` and real-time sync: file requests, follow them, tell what became of them."""

import time
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from shopsync_pipeline import local, views
from shopsync_pipeline.commands.shared import Json, Organizations, err, examples, out, print_json
from shopsync_pipeline.commands.shared import tables as open_tables
from shopsync_pipeline.db import integrations, progress, reconciliations, requests
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.reconciliations import Reconciliation
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.models import SyncRequest
from shopsync_pipeline.settings import checked_organization

PICKED_UP_WITHIN = 60.0
"""Seconds in which a running daemon starts what was asked: its tick, and a run's process."""

ENDED = ("succeeded", "failed")


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("shopsync sync", "shopsync sync acme --full"))(sync)
    app.command(epilog=examples("shopsync reconcile acme", "shopsync reconcile acme --json"))(
        reconcile
    )


def sync(
    organizations: Organizations = None,
    full: bool = typer.Option(False, "--full", help="Read the whole store again."),
    as_json: Json = False,
) -> None:
    """Have Dagster sync organizations now, and wait for the result."""
    ended = asked("sync", organizations, "full" if full else "incremental", as_json=as_json)
    if as_json:
        print_json({"requests": [shown(request) for request in ended]})
    else:
        tell_what_was_done(ended)
    fail_where_one_did(ended)


def reconcile(organizations: Organizations = None, as_json: Json = False) -> None:
    """Have Dagster read whole stores again and mend every difference; prints what was found."""
    ended = asked("reconcile", organizations, as_json=as_json)
    with open_tables() as conn:
        found = _found(conn, ended)
    if as_json:
        told = [views.reconciliation_of(each) for each in found]
        print_json({"requests": [shown(request) for request in ended], "reconciliations": told})
    elif found:
        out.print(views.reconciliations_table(found))
    else:
        tell_what_was_done(ended)
    fail_where_one_did(ended)


def asked(
    kind: str, organizations: list[str] | None, mode: str = "incremental", *, as_json: bool
) -> list[SyncRequest]:
    """File one request for each organization and wait; without names, for all but those whose
    stores are all paused."""
    with open_tables() as conn:
        wanted = [checked_organization(o) for o in organizations or _all(conn, mode)]
        if not wanted:
            raise ConfigurationError("No store is connected. Connect one: shopsync connect.")
        filed = [requests.file(conn, kind=kind, organization_id=each, mode=mode) for each in wanted]
        return _followed(conn, filed, as_json=as_json)


def shown(request: SyncRequest) -> dict[str, Any]:
    return {
        "requestId": request.id,
        "organizationId": request.organization_id,
        "status": request.status,
        "counts": dict(request.counts),
        "error": request.error,
        "runId": request.run_id,
    }


def tell_what_was_done(ended: Sequence[SyncRequest]) -> None:
    """Nothing was, where a request was refused before it had a run."""
    done = [request for request in ended if request.run_id or request.status != "failed"]
    if done:
        out.print(views.requests_table(done))


def fail_where_one_did(ended: Sequence[SyncRequest]) -> None:
    failed = [request for request in ended if request.status == "failed"]
    for request in failed:
        err.print(f"{request.error}", style="red", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _all(conn: Conn, mode: str) -> list[str]:
    stores = integrations.active_of(conn, integrations.organizations(conn))
    awake = {s.organization_id for s in stores if s.paused_at is None or mode == "off"}
    if stores and not awake:
        raise ConfigurationError("Every store is paused by hand. Resume one: shopsync resume ORG.")
    for told in (s.paused_told for s in stores if s.organization_id not in awake):
        err.print(f"Left out {told}", style="yellow", markup=False, soft_wrap=True)
    return sorted(awake)


def _found(conn: Conn, ended: list[SyncRequest]) -> list[Reconciliation]:
    runs = [request.run_id for request in ended if request.run_id]
    organizations = [request.organization_id for request in ended if request.organization_id]
    return reconciliations.of_runs(conn, runs, organizations)


def _followed(conn: Conn, request_ids: list[str], *, as_json: bool) -> list[SyncRequest]:
    """Wait for the requests to end. Raises ConfigurationError where nobody takes them up."""
    began = time.monotonic()
    with Bars(err if as_json else out, shown=out.is_terminal) as bars:
        while True:
            every = (requests.get(conn, request_id) for request_id in request_ids)
            found = [request for request in every if request is not None]
            runs = [request.run_id for request in found if request.run_id]
            bars.show(found, progress.of_runs(conn, runs))
            if all(request.status in ENDED for request in found):
                return found
            waiting = time.monotonic() - began
            if waiting > PICKED_UP_WITHIN and all(each.status == "queued" for each in found):
                raise ConfigurationError(
                    "Nothing has taken the request up. It stays queued; start the Dagster daemon: "
                    "shopsync up."
                )
            time.sleep(local.POLL_SECONDS)


class Left(TimeRemainingColumn):
    """Nothing where it cannot be told; and never a second time without a word beside the first."""

    def render(self, task: Task) -> Text:
        known = task.time_remaining and not task.finished
        return super().render(task).append(" left") if known else Text()


class Bars:
    """One line an organization: what it does, rows so far, how much of it, and for how long.

    Those that ended make room where the screen has not enough.
    """

    def __init__(self, console: Console, *, shown: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            Left(),
            console=console,
            disable=not shown,
            transient=True,  # what is printed at the end says the same
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, found: Sequence[SyncRequest], came: Sequence[progress.Progress]) -> None:
        for request in found:
            name = request.organization_id or "all that are due"
            if request.id not in self._tasks:
                self._tasks[request.id] = self._progress.add_task(name, total=None, told="")
            stores = [each for each in came if each.organization_id == request.organization_id]
            shown = request.status not in ENDED or len(found) < self._progress.console.height
            task = self._tasks[request.id]
            self._progress.update(task, visible=shown, **bar_of(request, stores))


def bar_of(request: SyncRequest, stores: Sequence[progress.Progress]) -> dict[str, Any]:
    """How its bar stands: of how many rows, where every store's number is known."""
    rows = sum(store.rows for store in stores)
    known = [store.expected for store in stores if store.expected is not None]
    total = sum(known) if stores and len(known) == len(stores) else None
    if request.status in ENDED:
        return {"completed": 1, "total": 1, "told": request.status}
    told = f"{rows:,}{f' of {total:,}' if total else ''} rows" if stores else request.status
    return {"completed": rows, "total": total, "told": told}
