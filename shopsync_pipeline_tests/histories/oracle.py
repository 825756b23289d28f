"""What must hold at every moment of a history and at its end; knows nothing of the engine's code.

It remembers everything that each customer ever was in its store, and reads the tables as anybody
may. A row is placed in its customer's past: it may only move forward there.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import dict_row

from shopify_simulator.sample import sample_customer
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline_tests.world import differences, expected

SAMPLE = sample_customer(random.Random(1), 1, 1, "USD")
CONTENT = tuple(n for n in expected(SAMPLE) if n not in ("deletedAt", "redactedAt", "source"))
"""Columns that Shopify fills."""

KEPT_OF_THE_REDACTED = {
    *("id", "organizationId", "integrationId", "shopifyId", "source", "deletedAt", "redactedAt"),
    *("mergedIntoId", "createdAt", "updatedAt", "lastSyncedAt", "lastSyncRunId", "lastSyncVia"),
}
ACCOUNTED = {"pending", "claimed", "done", "ignored", "dead"}

Row = dict[str, Any]
State = tuple[Any, ...] | None
"""What a customer is at a moment; None: not there."""


@dataclass
class Past:
    """What each customer of one store was, in order, and when its `updatedAt` moved last."""

    states: dict[int, list[State]] = field(default_factory=dict)
    records: dict[int, Row] = field(default_factory=dict)
    moved_at: dict[int, datetime] = field(default_factory=dict)
    begun: bool = False
    index_lag: timedelta = timedelta(0)
    """The most it ever was."""
    reads_lag: bool = False
    """Reads by id may show the past."""
    in_bulk: bool = False
    """What was read when is then known by Shopify's clock alone, and in whole seconds: under one
    `updatedAt` two states may change places until they are reconciled."""
    reads_lie: bool = False
    """They may also show nobody where somebody is."""

    def note(self, customers: Iterable[Row], now: datetime) -> None:
        """To be called after each single change of the store."""
        present = {int(record["legacyResourceId"]): record for record in customers}
        for number in self.records.keys() | present.keys():
            before, record = self.records.get(number), present.get(number)
            if before == record:
                continue
            states = self.states.setdefault(number, [])
            if self.begun and not states:
                states.append(None)  # was not there from the start
            states.append(state_of(record) if record else None)
            if record and (not before or before["updatedAt"] != record["updatedAt"]):
                self.moved_at[number] = now
        self.records, self.begun = present, True


def state_of(record: Row) -> State:
    wanted = expected(record)
    return tuple(wanted[name] for name in CONTENT)


def state_in(row: Row) -> State:
    return None if row["deletedAt"] else tuple(row[name] for name in CONTENT)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What an acknowledged delivery says; `ids` are all the numbers it may name."""

    topic: str
    ids: frozenset[int]
    updated_at: datetime | None

    @property
    def of_an_end(self) -> bool:
        return self.topic in ("customers/delete", "customers/merge")


@dataclass(kw_only=True)
class Seen:
    """The tables at one moment."""

    integrations: dict[str, Row]
    rows: dict[tuple[str, int], Row]
    """By organization and Shopify's id."""
    events: dict[tuple[str, str], Row]
    """By integration and webhook-id."""

    @classmethod
    def now(cls, conn: Conn) -> "Seen":
        with conn.cursor(row_factory=dict_row) as cursor:
            stores = cursor.execute("SELECT * FROM integrations").fetchall()
            rows = cursor.execute("SELECT * FROM customers").fetchall()
            events = cursor.execute("SELECT * FROM webhook_events").fetchall()
        return cls(
            integrations={each["id"]: each for each in stores},
            rows={(each["organizationId"], each["shopifyId"]): each for each in rows},
            events={(each["integrationId"], each["webhookId"]): each for each in events},
        )


class Oracle:
    def __init__(self) -> None:
        self.pasts: dict[str, Past] = {}
        """By shop."""
        self.acknowledged: dict[tuple[str, str], Told] = {}
        """By integration and webhook-id; what comes again under the same id says nothing new."""
        self._places: dict[tuple[str, int], int] = {}
        self._before = Seen(integrations={}, rows={}, events={})

    def watch(self, shop: str, customers: list[Row], now: datetime) -> Past:
        self.pasts[shop] = past = Past()
        past.note(customers, now)
        return past

    # at every moment

    def look(self, seen: Seen, now: datetime) -> None:
        """`now` on the simulator's clock."""
        before = self._before
        for key, row in seen.rows.items():
            self._check_place(seen.integrations[row["integrationId"]]["shop"], row)
            if key in before.rows:
                check_order(before.rows[key], row)
            if row["redactedAt"]:
                assert not (left := personal(row)), f"{key} was redacted and still holds {left}"
        for key in before.rows.keys() - seen.rows.keys():
            self._check_removal(before.rows[key])
        self._check_events(seen)
        self._check_who_left(before, seen)
        for integration in seen.integrations.values():
            if integration["isActive"] and integration["watermark"]:
                self._check_watermark(integration, seen, now)
        self._before = seen

    def _check_place(self, shop: str, row: Row) -> None:
        """What stands in the row was that customer of that store, and nothing older than before."""
        if row["redactedAt"]:
            return
        past, key = self.pasts[shop], (row["integrationId"], row["shopifyId"])
        states = past.states.get(row["shopifyId"], [None])
        state = state_in(row)
        places = [place for place, was in enumerate(states) if was == state]
        if state is None and (past.reads_lie or (past.reads_lag and self._told_of_an_end(row))):
            return
        assert places, f"{key} never was so in {shop}: {state}"
        place = next((p for p in places if p >= self._places.get(key, 0)), None)
        if (
            place is None
            and state is not None
            and (past.reads_lie or past.reads_lag or past.in_bulk)
        ):
            return
        assert place is not None, f"{key} went back to {places} of {self._places[key]}: {state}"
        self._places[key] = place

    def _told_of_an_end(self, row: Row) -> bool:
        """A reconcile is told so by its sweep."""
        return row["lastSyncVia"] == "RECONCILE" or any(
            told.of_an_end and row["shopifyId"] in told.ids
            for (integration_id, _), told in self.acknowledged.items()
            if integration_id == row["integrationId"]
        )

    def _check_removal(self, row: Row) -> None:
        assert row["integrationId"] in self.forgotten, f"{row['shopifyId']} was removed"
        assert not row["redactedAt"], f"the redaction of {row['shopifyId']} was forgotten"

    @property
    def forgotten(self) -> list[str]:
        """Integrations whose rows a shop/redact may remove."""
        return [key[0] for key, told in self.acknowledged.items() if told.topic == "shop/redact"]

    def _check_events(self, seen: Seen) -> None:
        for key, told in self.acknowledged.items():
            assert key in seen.events, f"the {told} was acknowledged and is lost"
            event = seen.events[key]
            assert event["status"] in ACCOUNTED
            if event["status"] == "done" and told.ids:
                self._check_settled(told, event, seen)

    def _check_settled(self, told: Told, event: Row, seen: Seen) -> None:
        """What is done says what became of it; without a note it has brought what it told of."""
        assert event["outcome"], f"{told} is done, and nothing became of it"
        shop = seen.integrations[event["integrationId"]]["shop"]
        if event["outcome"] == "unknown" and not self.pasts[shop].reads_lie:
            states = self.pasts[shop].states.get(event["customerId"], [None])
            assert None in (*states[1:], states[-1]), f"{told} found nobody, who was there"
        row = seen.rows.get((event["organizationId"], event["customerId"]))
        if told.topic == "customers/redact":
            assert row, "a redaction left no row"
            assert row["redactedAt"], f"{row['shopifyId']} was redacted and is back"
        if told.updated_at is None or event["error"] or event["integrationId"] in self.forgotten:
            return
        assert row, f"{told} is done and brought nobody"
        set_back = (
            row["lastSyncVia"] == "RECONCILE"
            or row["redactedAt"]
            or row["deletedAt"]
            or row["lastSyncedAt"] > event["processedAt"]  # who was deleted then came back
            or self._is_nobody_of(shop, event, row)
        )
        assert set_back or row["shopifyUpdatedAt"] >= told.updated_at, (
            f"{told} is done, the row is of {row['shopifyUpdatedAt']}"
        )

    def _is_nobody_of(self, shop: str, event: Row, row: Row) -> bool:
        """Its store never had that customer; the row is another store's."""
        had = self.pasts[shop].states.get(event["customerId"])
        return not had and row["integrationId"] != event["integrationId"]

    def _check_who_left(self, before: Seen, seen: Seen) -> None:
        """Of a store that left nothing is written but what the law asks."""
        for key, row in seen.rows.items():
            was = before.integrations.get(row["integrationId"], {})
            same = (
                was.get("inactiveSince") == seen.integrations[row["integrationId"]]["inactiveSince"]
            )
            if was and not was["isActive"] and same and not row["redactedAt"]:
                assert row == before.rows.get(key), f"{key} was written after the store left"

    def _check_watermark(self, integration: Row, seen: Seen, now: datetime) -> None:
        """Everything that the index must have shown by then is here, at least that new."""
        past, watermark = self.pasts[integration["shop"]], integration["watermark"]
        assert watermark <= now, f"the watermark {watermark} is in the future"
        for number, record in past.records.items():
            if past.moved_at[number] >= watermark - past.index_lag:  # perhaps after the answer
                continue
            row = seen.rows.get((integration["organizationId"], number))
            assert row, f"{number} is not here, the watermark {watermark} is past it"
            new = datetime.fromisoformat(record["updatedAt"])
            gone = row["deletedAt"] or row["redactedAt"]
            assert gone or row["shopifyUpdatedAt"] >= new, (
                f"{number} is of {row['shopifyUpdatedAt']}, not {new}, under {watermark}"
            )

    # at the end

    def compare(self, seen: Seen) -> None:
        """Field by field, all stores that are connected; who is not there is deleted here."""
        for integration in seen.integrations.values():
            if not integration["isActive"]:
                continue
            here = {
                number: row
                for (_, number), row in seen.rows.items()
                if row["integrationId"] == integration["id"]
            }
            redacted = {number for number, row in here.items() if row["redactedAt"]}
            records = {
                number: record
                for number, record in self.pasts[integration["shop"]].records.items()
                if number not in redacted
            }
            living = {n: row for n, row in here.items() if not row["deletedAt"]}
            found = list(differences(living, [*records.values()]))
            assert not found, f"{integration['organizationId']}: {found}"
            for number in here.keys() - records.keys():
                assert here[number]["deletedAt"], f"{number} is gone in the store"
        for event in seen.events.values():
            open_ = event["status"] in ("pending", "claimed")
            active = seen.integrations[event["integrationId"]]["isActive"]
            assert not (open_ and active), f"{event['topic']} of {event['customerId']} stays open"
        self._check_bodies(seen)

    def _check_bodies(self, seen: Seen) -> None:
        """No body is kept of a redacted person."""
        redacted = {key for key, row in seen.rows.items() if row["redactedAt"]}
        for event in seen.events.values():
            about = (event["organizationId"], event["customerId"])
            if about in redacted and event["status"] == "done":
                owner = seen.rows[about]["integrationId"]
                kept = event["body"] is not None and event["integrationId"] == owner
                assert not kept, f"a {event['topic']} of {about} keeps its body"


def check_order(before: Row, row: Row) -> None:
    """Neither of two rows of one customer is older than the one before it; see DESIGN's rule."""
    who = row["shopifyId"]
    if before["redactedAt"]:
        assert row["redactedAt"] == before["redactedAt"], f"the redaction of {who} was lifted"
        return
    assert (
        row["lastSyncedAt"] >= before["lastSyncedAt"] or row["redactedAt"] or (newer(before, row))
    ), f"{who} of {before['lastSyncedAt']} was read before, at {row['lastSyncedAt']}"
    if row["redactedAt"] or row["integrationId"] != before["integrationId"]:
        return
    set_back = row["lastSyncVia"] == "RECONCILE" and row["lastSyncedAt"] > before["lastSyncedAt"]
    old, new = before["shopifyUpdatedAt"], row["shopifyUpdatedAt"]
    assert set_back or old is None or new >= old, f"{who} of {old} became that of {new}"
    if before["deletedAt"] and not row["deletedAt"]:
        assert row["lastSyncedAt"] > before["deletedAt"], f"{who} was lifted by an older read"


def newer(before: Row, row: Row) -> bool:
    old, new = before["shopifyUpdatedAt"], row["shopifyUpdatedAt"]
    return new is not None and (old is None or new > old)


def personal(row: Row) -> set[str]:
    return {n for n, value in row.items() if value is not None} - KEPT_OF_THE_REDACTED


def differing(before: Seen, after: Seen) -> list[str]:
    """Columns of `customers` that are not as they were; a row that is new or gone as a whole."""
    found = []
    for key in before.rows.keys() | after.rows.keys():
        was, now = before.rows.get(key, {}), after.rows.get(key, {})
        columns = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
        found += [f"{key}.{name}: {was.get(name)} to {now.get(name)}" for name in columns]
    return found
