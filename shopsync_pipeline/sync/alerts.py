"""Who is told of troubles: one message when one begins, one when it is over.

Several of one kind at the same moment are one message. What was sent is written down after it was
taken, so a sender that is killed in between repeats that message once. Told no more is a state that
was over, and an event that was a day old, before a message could be delivered.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shopsync_pipeline.db import alerts
from shopsync_pipeline.db.alerts import Alert, Trouble
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.sync.watch import EVENTS, LASTING

log = logging.getLogger(__name__)

Post = Callable[[Mapping[str, Any]], bool]
"""Sends one message; whether it was taken. It raises nothing and ends within seconds."""

LISTED = 20
"""Troubles that one message tells of; the others are counted."""

LONGEST = 400
"""Characters of one trouble in a message."""

TELL_SECONDS = 25.0
"""For all messages of one tick; the rest waits for the next."""


def remember(conn: Conn, found: Sequence[Trouble]) -> None:
    """`found` are all troubles that last now: the new ones are to be told, and so is the end of
    those that are not among them."""
    with conn.transaction():
        alerts.file(conn, found)
        alerts.end_all_but(conn, LASTING, [trouble.key for trouble in found])


def tell(conn: Conn, post: Post, seconds: float = TELL_SECONDS) -> int:
    """Send what is untold; how many messages were taken. One that is not taken waits for the next
    time, behind those that were not tried."""
    if not alerts.try_lock(conn):
        return 0
    try:
        return _told(conn, post, seconds)
    finally:
        alerts.unlock(conn)


def _told(conn: Conn, post: Post, seconds: float) -> int:
    lasting, taken = list(LASTING), 0
    deadline = time.monotonic() + seconds
    for group in grouped(alerts.untold(conn, lasting)):
        if time.monotonic() > deadline:
            break
        ids = [each.id for each in group]
        alerts.mark_tried(conn, ids)
        if post(message_of(group)):
            alerts.mark_told(conn, ids, lasting)
            taken += 1
    return taken


def grouped(untold: Sequence[Alert]) -> Iterator[list[Alert]]:
    groups: dict[tuple[str, bool], list[Alert]] = {}
    for alert in untold:
        groups.setdefault((alert.trouble.kind, alert.over), []).append(alert)
    yield from groups.values()


def message_of(group: Sequence[Alert]) -> dict[str, Any]:
    """`text` is for people, as Slack takes it; the rest for programs."""
    first = group[0]
    listed = group[:LISTED]
    return {
        "text": _text(group),
        "state": "over" if first.over else "trouble",
        "kind": first.trouble.kind,
        "count": len(group),
        "troubles": [
            {
                "key": each.trouble.key,
                "organizationId": each.trouble.organization_id,
                "shop": each.trouble.shop,
                "told": each.trouble.told,
                "remedy": each.trouble.remedy,
                "since": each.since.isoformat(),
            }
            for each in listed
        ],
    }


def _text(group: Sequence[Alert]) -> str:
    over = group[0].over
    lines = [_line(each.trouble, over) for each in group[:LISTED]]
    head = "Shopsync, over" if over else "Shopsync"
    if len(group) == 1:
        return f"{head}: {lines[0]}"
    kind = group[0].trouble.kind
    what = {**LASTING, **EVENTS}.get(kind, kind)
    if len(group) > LISTED:
        lines.append(f"and {len(group) - LISTED} more. See: shopsync doctor.")
    return "\n".join([f"{head}: {len(group)} {what}", *(f"• {line}" for line in lines)])


def _line(trouble: Trouble, over: bool) -> str:
    """Slack reads <, > and & as commands to itself."""
    line = trouble.told if over else f"{trouble.told} {trouble.remedy}".strip()
    line = line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
