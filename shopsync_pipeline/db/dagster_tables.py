"""Dagster's own tables, for the housekeeping that its API has no words for.

Only what its API would not miss goes: nothing of a run that is not finished, and never the last
event of its kind of an asset's partition. Ids grow with time, so "last" is the highest; times are
UTC without a zone (`dagster/_core/storage/event_log/schema.py`, Dagster 1.13).
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from shopsync_pipeline.db.engine import Conn

BATCH = 5000
"""Events in one transaction, or one look."""

FINISHED = "('SUCCESS', 'FAILURE', 'CANCELED')"

# What Dagster tells of a partition: materialized, red, in progress, observed, checked. A run is
# kept with the last of each; of a red partition only the plan to materialize it says so.
SPEAKING = """
SELECT DISTINCT run_id FROM (
  SELECT DISTINCT ON (asset_key, partition, dagster_event_type) run_id FROM event_logs
  WHERE asset_key IS NOT NULL AND dagster_event_type IN (
    'ASSET_MATERIALIZATION', 'ASSET_MATERIALIZATION_PLANNED', 'ASSET_OBSERVATION')
  ORDER BY asset_key, partition, dagster_event_type, id DESC
) AS of_assets
UNION
SELECT run_id FROM (
  SELECT DISTINCT ON (asset_key, check_name, partition) run_id FROM asset_check_executions
  ORDER BY asset_key, check_name, partition, id DESC
) AS of_checks
"""

# By pages of the primary key, so that each event is looked at once.
PAGE = """
SELECT max(id) FROM (
  SELECT id FROM event_logs WHERE id > %s AND timestamp < %s ORDER BY id LIMIT %s
) AS page
"""

LATER = """
SELECT FROM event_logs later
WHERE later.asset_key = e.asset_key AND later.dagster_event_type = e.dagster_event_type
  AND later.id > e.id AND later.partition
"""

SUPERSEDED = f"""
DELETE FROM event_logs e USING runs r
WHERE e.id > %(after)s AND e.id <= %(upto)s AND e.timestamp < %(before)s
  AND r.run_id = e.run_id AND r.status IN {FINISHED}
  AND (e.dagster_event_type IN ('ASSET_MATERIALIZATION_PLANNED', 'ASSET_OBSERVATION')
       OR e.dagster_event_type = 'ASSET_MATERIALIZATION' AND r.pipeline_name = ANY(%(chatty)s))
  AND CASE WHEN e.partition IS NULL THEN EXISTS ({LATER} IS NULL)
           ELSE EXISTS ({LATER} = e.partition) END
RETURNING e.id
"""  # noqa: S608


def speaking_runs(conn: Conn) -> set[str]:
    """The runs without which Dagster would tell something else of a partition or a check."""
    return {row[0] for row in conn.execute(SPEAKING).fetchall()}


def delete_superseded(conn: Conn, before: datetime, chatty_jobs: list[str]) -> Iterator[int]:
    """Delete plans and observations from before that moment that a later one of the same partition
    has replaced, and the materializations of `chatty_jobs` likewise; yields how many, by batch."""
    moment, after = _naive(before), 0
    while True:
        row = conn.execute(PAGE, [after, moment, BATCH]).fetchone()
        if row is None or row[0] is None:
            return
        arguments = {"after": after, "upto": row[0], "before": moment, "chatty": chatty_jobs}
        with conn.transaction():
            gone = [r[0] for r in conn.execute(SUPERSEDED, arguments).fetchall()]
            conn.execute("DELETE FROM asset_event_tags WHERE event_id = ANY(%s)", [gone])
        yield len(gone)
        after = row[0]


def delete_check_executions(conn: Conn, run_id: str) -> None:
    """Those of one run, which Dagster leaves behind when it deletes the run."""
    conn.execute("DELETE FROM asset_check_executions WHERE run_id = %s", [run_id])


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
