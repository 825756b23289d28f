"""Which record replaces which: DESIGN's order of records, on a real Postgres."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shopsync_pipeline.db import customers, integrations
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import (
    CUSTOMER_COLUMNS,
    CustomerRow,
    Integration,
    MergeCounts,
    Read,
    Via,
)

T0 = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
BIG_ID = 2**53 + 1


def row(**fields: Any) -> CustomerRow:
    base: dict[str, Any] = {
        "shopifyId": BIG_ID,
        "name": "Ada",
        "totalSpent": "10.00",
        "tags": ["a"],
        "shopifyCreatedAt": "2026-01-01T00:00:00Z",
        "shopifyUpdatedAt": "2026-11-01T10:00:00Z",
    }
    values = base | fields
    return tuple(values.get(column) for column in CUSTOMER_COLUMNS)


def read(minutes: int = 0, *, by_id: bool = False, via: Via = "PULL", run: str = "run") -> Read:
    return Read(via=via, run_id=run, sent_at=T0 + timedelta(minutes=minutes), by_id=by_id)


@pytest.fixture
def store(conn: Conn) -> Integration:
    return integrations.connect(
        conn, organization_id="org", shop="a.myshopify.com", name="A", shop_id=1
    )


def merge(conn: Conn, store: Integration, record: CustomerRow, how: Read) -> MergeCounts:
    with conn.transaction():
        return customers.merge(conn, store, [record], how).counts


def stored(conn: Conn, column: str) -> Any:
    found = conn.execute(f'SELECT "{column}" FROM customers').fetchone()
    assert found is not None
    return found[0]


def delete(conn: Conn, at: datetime) -> None:
    conn.execute('UPDATE customers SET "deletedAt" = %s', [at])


def test_a_new_row_is_inserted_and_the_same_again_is_unchanged(
    conn: Conn, store: Integration
) -> None:
    assert merge(conn, store, row(), read()) == MergeCounts(inserted=1)
    assert merge(conn, store, row(totalSpent="10.0"), read(1, run="later")) == MergeCounts(
        unchanged=1
    )
    assert stored(conn, "lastSyncRunId") == "run"


def test_a_higher_updated_at_wins_even_when_it_was_read_earlier(
    conn: Conn, store: Integration
) -> None:
    merge(conn, store, row(), read(5))
    newer = row(name="Grace", shopifyUpdatedAt="2026-11-01T10:00:01Z")
    assert merge(conn, store, newer, read(1)) == MergeCounts(updated=1)
    assert stored(conn, "name") == "Grace"


def test_equal_updated_at_goes_to_the_later_read_in_either_order_of_writing(
    conn: Conn, store: Integration
) -> None:
    merge(conn, store, row(ordersCount=1), read(0))
    assert merge(conn, store, row(ordersCount=3), read(2)) == MergeCounts(updated=1)
    assert merge(conn, store, row(ordersCount=2), read(1)) == MergeCounts(unchanged=1)
    assert stored(conn, "ordersCount") == 3


def test_an_older_updated_at_changes_nothing_however_late_it_is_read(
    conn: Conn, store: Integration
) -> None:
    merge(conn, store, row(), read(0))
    stale = row(name="Old", shopifyUpdatedAt="2026-11-01T09:59:59Z")
    assert merge(conn, store, stale, read(60)) == MergeCounts(unchanged=1)
    assert merge(conn, store, stale, read(60, by_id=True, via="WEBHOOK")) == MergeCounts(
        unchanged=1
    )


def test_a_reconciles_read_by_id_wins_with_a_lower_updated_at(
    conn: Conn, store: Integration
) -> None:
    merge(conn, store, row(), read(0))
    restored = row(name="Back", shopifyUpdatedAt="2026-10-01T00:00:00Z")
    how = read(1, by_id=True, via="RECONCILE")
    assert merge(conn, store, restored, how) == MergeCounts(updated=1)
    assert stored(conn, "name") == "Back"


def test_a_page_revives_no_deleted_customer_but_marks_it_to_be_read_once(
    conn: Conn, store: Integration
) -> None:
    merge(conn, store, row(), read(0))
    delete(conn, T0 + timedelta(minutes=1))
    newer = row(shopifyUpdatedAt="2026-11-01T11:00:00Z")
    for minutes in (2, 3):
        assert merge(conn, store, newer, read(minutes)) == MergeCounts(unchanged=1)
    assert stored(conn, "deletedAt") is not None
    filed = conn.execute('SELECT "customerId", "status", "topic" FROM webhook_events').fetchall()
    assert filed == [(BIG_ID, "pending", "customers/update")]


def test_a_deletion_is_lifted_by_a_read_by_id_sent_after_it_and_by_no_earlier_one(
    conn: Conn, store: Integration
) -> None:
    merge(conn, store, row(), read(0))
    delete(conn, T0 + timedelta(minutes=5))
    early, late = (read(m, by_id=True, via="WEBHOOK") for m in (4, 6))
    assert merge(conn, store, row(), early) == MergeCounts(unchanged=1)
    assert merge(conn, store, row(), late) == MergeCounts(updated=1)
    assert stored(conn, "deletedAt") is None


def test_a_redaction_is_final_for_every_kind_of_read(conn: Conn, store: Integration) -> None:
    merge(conn, store, row(), read(0))
    conn.execute('UPDATE customers SET "redactedAt" = %s, "name" = NULL', [T0])
    newest = row(shopifyUpdatedAt="2026-11-09T00:00:00Z")
    for how in (read(9), read(9, by_id=True), read(9, by_id=True, via="RECONCILE")):
        assert merge(conn, store, newest, how) == MergeCounts(unchanged=1)
    assert stored(conn, "name") is None
    assert conn.execute("SELECT count(*) FROM webhook_events").fetchone() == (0,)


def test_a_customer_twice_in_one_page_is_merged_once_with_its_newer_record(
    conn: Conn, store: Integration
) -> None:
    newer = row(name="New", shopifyUpdatedAt="2026-11-01T10:00:09Z")
    with conn.transaction():
        counts = customers.merge(conn, store, [newer, row()], read()).counts
    assert (counts, stored(conn, "name")) == (MergeCounts(inserted=1), "New")


def test_the_same_customer_in_two_organizations_is_two_rows(conn: Conn, store: Integration) -> None:
    other = integrations.connect(
        conn, organization_id="other", shop="a.myshopify.com", name="A", shop_id=1
    )
    merge(conn, store, row(), read())
    assert merge(conn, other, row(), read()) == MergeCounts(inserted=1)


def test_text_ids_amounts_and_times_are_stored_as_they_were(conn: Conn, store: Integration) -> None:
    name = "Zoë \N{FAMILY} عائشة 李 \\ \"'\n\t"
    record = row(name=name, totalSpent="1234567.89", tags=["a,b", 'c"d', "", "{x}", "NULL"])
    merge(conn, store, record, read())
    assert stored(conn, "name") == name
    assert str(stored(conn, "totalSpent")) == "1234567.89"
    assert stored(conn, "tags") == ["a,b", 'c"d', "", "{x}", "NULL"]
    assert stored(conn, "shopifyId") == BIG_ID
    assert stored(conn, "shopifyUpdatedAt") == datetime(2026, 11, 1, 10, tzinfo=UTC)
    assert stored(conn, "email") is None


def history(conn: Conn) -> list[tuple[str, str, str]]:
    earlier = stored(conn, "earlierSyncs") or []
    return [(each["run"], each["via"], each["at"]) for each in earlier]


def test_a_row_remembers_who_wrote_what_is_replaced(conn: Conn, store: Integration) -> None:
    merge(conn, store, row(), read(0, via="BULK", run="first"))
    assert stored(conn, "earlierSyncs") is None
    merge(conn, store, row(note="x"), read(1, by_id=True, via="WEBHOOK", run="second"))
    merge(conn, store, row(note="x"), read(2, run="found it unchanged"))
    with conn.transaction():
        customers.bury(conn, store, {BIG_ID: None}, read(3, via="RECONCILE", run="third"))
    moments = [(T0 + timedelta(minutes=m)).isoformat() for m in (1, 0)]
    assert history(conn) == [("second", "WEBHOOK", moments[0]), ("first", "BULK", moments[1])]
    assert stored(conn, "lastSyncRunId") == "third"


def test_a_row_remembers_no_more_than_ten_earlier_writers(conn: Conn, store: Integration) -> None:
    for minute in range(13):
        merge(conn, store, row(ordersCount=minute), read(minute, run=f"run {minute}"))
    assert [run for run, _, _ in history(conn)] == [f"run {minute}" for minute in range(11, 1, -1)]
