"""The deployment watches itself: each minute its troubles are looked up, and who is to be told is.

A sensor cannot tell that the daemon is dead, which runs it; that is seen from outside, by the ages
of the ticks in the receiver's `/metrics`.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Thread
from typing import Any

import requests
import urllib3
from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunFailureSensorContext,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    asset_check,
    run_failure_sensor,
    sensor,
)

from shopsync_pipeline.db import alerts, watch
from shopsync_pipeline.db.alerts import Trouble
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.defs.checks import listed
from shopsync_pipeline.defs.partitions import names_stores
from shopsync_pipeline.defs.resources import ShopsyncResource
from shopsync_pipeline.settings import Settings
from shopsync_pipeline.sync.alerts import Post, remember, tell
from shopsync_pipeline.sync.watch import STOOD_STILL, run_failed, troubles

log = logging.getLogger(__name__)

POST_SECONDS = 5.0
"""To connect, and to send or receive a piece; a message in all has POST_WITHIN."""

POST_WITHIN = 10.0
ON_THEIR_WAY = BoundedSemaphore(4)
"""Messages that a hook still has, whose time is over: it drips its answer."""

FAILED_RUNS_OF = timedelta(days=1)
SEEN_LATE = timedelta(minutes=5)
"""A run that failed may be seen so much later than it did."""

SAID_AGAIN_AFTER = 86_400.0
"""Seconds after which a check is reported again though it says the same; each report is a row of
Dagster's event log."""

OF_THE_INBOX = ("inbox_late", "dead_letters")


@sensor(
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.RUNNING,
    description="Looks up what is wrong, posts it to ALERT_WEBHOOK_URL once, and reports the check "
    "of the inbox.",
)
def trouble_sensor(context: SensorEvaluationContext, shopsync: ShopsyncResource) -> SensorResult:
    settings = Settings.from_env()
    with shopsync.tick("trouble_sensor") as conn:
        watch.expect_anew(conn, "trouble_sensor", STOOD_STILL)
        found = troubles(conn)
        remember(conn, found)
        last = json.loads(context.cursor) if context.cursor else {}
        swept = _sweep_failed_runs(conn, context.instance, last.get("swept"))
        url = settings.alert_webhook_url
        told = tell(conn, poster(url)) if url else 0
        report, said = _report(conn, found, last)
    return SensorResult(
        asset_events=report,
        cursor=json.dumps({**said, "swept": swept}),
        skip_reason=None if report else f"{len(found)} troubles last; {told} messages were sent.",
    )


def poster(url: str) -> Post:
    """Posts to that address, of which nothing is told: whoever has it can post too."""

    def post(message: Mapping[str, Any]) -> bool:
        answer = _answer(url, message)
        if isinstance(answer, str):
            log.warning("ALERT_WEBHOOK_URL takes no message: %s", answer)
            return False
        if not 200 <= answer < 300:
            log.warning("ALERT_WEBHOOK_URL answered %d to a message", answer)
            return False
        return True

    return post


def _answer(url: str, message: Mapping[str, Any]) -> int | str:
    """The status, or why there is none. requests limits each piece of an answer and not the whole,
    so a thread waits for it, which is left to itself when the time is over."""
    if not ON_THEIR_WAY.acquire(blocking=False):
        return "it has not answered the ones before"
    answers: SimpleQueue[int | str] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_status(url, message))
        finally:
            ON_THEIR_WAY.release()

    Thread(target=ask, name="alert", daemon=True).start()
    try:
        return answers.get(timeout=POST_WITHIN)
    except Empty:
        return f"no answer within {POST_WITHIN:.0f} s"


def _status(url: str, message: Mapping[str, Any]) -> int | str:
    """Nothing of the body is read."""
    try:
        with requests.post(
            url, json=message, timeout=POST_SECONDS, allow_redirects=False, stream=True
        ) as answer:
            return answer.status_code
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        return type(error).__name__


def _report(
    conn: Conn, found: Sequence[Trouble], last: Mapping[str, Any]
) -> tuple[list[AssetCheckEvaluation], dict[str, Any]]:
    """The check of the inbox, where it says something new, or last spoke long ago; and what it
    said when."""
    keys = sorted(trouble.key for trouble in found if trouble.kind in OF_THE_INBOX)
    if last.get("keys") == keys and time.time() - last["at"] < SAID_AGAIN_AFTER:
        return [], dict(last)
    result = inbox_result(conn, found)
    evaluation = AssetCheckEvaluation(
        asset_key=AssetKey("webhook_events"),
        check_name="webhooks_are_processed",
        passed=result.passed,
        severity=result.severity,
        metadata=result.metadata,
    )
    return [evaluation], {"keys": keys, "at": time.time()}


@asset_check(
    asset="webhook_events",
    description="No event that could be worked on waits longer than ten minutes, and there are no "
    "dead letters. Reported by trouble_sensor as soon as that changes, and once a day.",
)
def webhooks_are_processed(shopsync: ShopsyncResource) -> AssetCheckResult:
    """For whoever executes it by hand."""
    with shopsync.connection() as conn:
        return inbox_result(conn, troubles(conn))


def inbox_result(conn: Conn, found: Sequence[Trouble]) -> AssetCheckResult:
    wrong = [each for each in found if each.kind in OF_THE_INBOX]
    inbox = watch.inbox(conn)
    late = any(each.kind == "inbox_late" for each in wrong)
    return AssetCheckResult(
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR if late else AssetCheckSeverity.WARN,
        metadata={
            "waiting": inbox.open,
            "oldest (s)": inbox.oldest(held_back=False).total_seconds(),
            "oldest of stores in trouble (s)": inbox.oldest(held_back=True).total_seconds(),
            "dead letters": inbox.events["dead"],
            "stores": listed([f"{each.told} {each.remedy}" for each in wrong]),
        },
    )


@run_failure_sensor(
    name="run_failure_sensor",
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Files an alert for each run that failed for another reason than its stores' own "
    "trouble, of which they are told by themselves.",
)
def run_failures(context: RunFailureSensorContext, shopsync: ShopsyncResource) -> None:
    """trouble_sensor sends it within a minute."""
    trouble = _of_run(context.dagster_run, context.get_step_failure_events())
    if trouble is not None:
        with shopsync.connection() as conn:
            alerts.file_event(conn, trouble)


def _sweep_failed_runs(conn: Conn, instance: DagsterInstance, since: float | None) -> float:
    """File those that failed `since`, a moment that this returned, or in the last day: Dagster
    calls run_failure_sensor once for each, also while our database is away. Seconds since 1970."""
    now = datetime.now(UTC)
    day_ago = now - FAILED_RUNS_OF
    after = day_ago if since is None else max(day_ago, datetime.fromtimestamp(since, UTC))
    failed = RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=after - SEEN_LATE)
    for run in instance.get_runs(failed):
        steps = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.STEP_FAILURE)
        events = [record.event_log_entry.dagster_event for record in steps.records]
        trouble = _of_run(run, [event for event in events if event is not None])
        if trouble is not None:
            alerts.file_event(conn, trouble)
    return now.timestamp()


def _names_stores(event: DagsterEvent) -> bool:
    given = event.step_failure_data.user_failure_data
    return given is not None and names_stores(given.metadata)


def _of_run(run: DagsterRun, steps: Sequence[DagsterEvent]) -> Trouble | None:
    """None where its stores alone are in trouble, of which they are told by themselves."""
    if steps and all(_names_stores(step) for step in steps):
        return None
    ui_url = Settings.from_env().ui_url
    return run_failed(run.run_id, run.job_name, [str(s.step_key) for s in steps], ui_url)
