"""The figures by day, on a real Postgres: what a look sees, what is heard late, what stays."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg.rows import dict_row

from shopsync_pipeline.db import integrations, metrics
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.models import Integration
from shopsync_pipeline.sync import plots
from shopsync_pipeline.sync.metrics import by_day, spend_by_currency

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TODAY = NOON.date()
DAY = timedelta(days=1)

OLD_ROW = 'DELETE FROM customers WHERE "organizationId" = %s AND "shopifyId" = %s'

Write = Callable[..., None]


@pytest.fixture
def write(conn: Conn) -> Write:
    """Writes a customer of Shopify's id `number`: made a year ago, consenting to nothing, but as
    told. Without currency it was never read."""
    stores: dict[tuple[str, str], Integration] = {}

    def write(organization: str, number: int, currency: str | None = "EUR", **told: Any) -> None:
        key = (organization, currency or "EUR")
        if key not in stores:
            shop = f"{organization}-{key[1].lower()}.myshopify.com"
            stores[key] = connected(conn, organization, shop)
        made = told.pop("made", NOON - 365 * DAY)
        row = {
            "organizationId": organization,
            "integrationId": stores[key].id,
            "shopifyId": number,
            "currency": currency,
            "totalSpent": 10,
            "shopifyCreatedAt": made,
            "shopifyUpdatedAt": made,
            "lastSyncedAt": NOON,
            "lastSyncRunId": "run",
            "lastSyncVia": "WEBHOOK",
            **told,
        }
        conn.execute(OLD_ROW, [organization, number])
        names = ", ".join(f'"{name}"' for name in row)
        values = ", ".join(f"%({name})s" for name in row)
        conn.execute(f"INSERT INTO customers ({names}) VALUES ({values})".encode(), row)

    return write


def connected(conn: Conn, organization: str, shop: str) -> Integration:
    store = integrations.connect(
        conn, organization_id=organization, shop=shop, name=organization, shop_id=hash(shop) % 2**40
    )
    conn.execute(
        """UPDATE integrations SET "createdAt" = %s, "lastSyncAt" = %s WHERE "id" = %s""",
        [NOON - 400 * DAY, NOON - timedelta(hours=1.5), store.id],
    )
    return store


def measure(conn: Conn, now: datetime = NOON) -> metrics.Measured:
    with conn.transaction():
        return metrics.measure(conn, now)


def table(conn: Conn) -> dict[tuple[str, date, str], dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute("SELECT * FROM customer_metrics").fetchall()
    return {(row["organizationId"], row["day"], row["currency"]): row for row in rows}


def some(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


COUNTS = ("newCustomers", "changedCustomers", "deletedCustomers", "customers")
ERASED = dict.fromkeys(["currency", "totalSpent", "shopifyCreatedAt", "shopifyUpdatedAt"])


def test_a_look_counts_each_organization_and_currency_for_itself(conn: Conn, write: Write) -> None:
    write("ant", 1, emailMarketingState="SUBSCRIBED", totalSpent=Decimal("0.10"))
    write("ant", 2, made=NOON, smsMarketingState="SUBSCRIBED", totalSpent=Decimal("0.20"))
    write("ant", 3, shopifyUpdatedAt=NOON - timedelta(hours=11))
    write("ant", 4, "JPY", totalSpent=5000)
    write("ant", 5, deletedAt=NOON, emailMarketingState="SUBSCRIBED")
    write("bee", 1)
    measure(conn)
    found = table(conn)
    euros = found["ant", TODAY, "EUR"]
    assert some(euros, *COUNTS) == (1, 1, 1, 3)
    assert some(euros, "spend", "emailOptIns", "smsOptIns") == (Decimal("10.30"), 1, 1)
    assert euros["hoursSinceSync"] == pytest.approx(1.5)
    assert euros["measuredAt"] == NOON
    assert some(found["ant", TODAY, "JPY"], "customers", "spend") == (1, 5000)
    assert some(found["bee", TODAY, "EUR"], *COUNTS) == (0, 0, 0, 1)
    assert len(found) == 3


def test_measured_twice_it_is_the_same(conn: Conn, write: Write) -> None:
    write("ant", 1, made=NOON - 3 * DAY)
    write("ant", 2, "JPY", deletedAt=NOON - 5 * DAY)
    measure(conn)
    before = table(conn)
    assert len(before) == 3  # no customer is left of the second, so it has no row today
    assert measure(conn).earlier == 0
    assert table(conn) == before


def test_nobody_connected_is_no_row(conn: Conn) -> None:
    assert measure(conn) == metrics.Measured(day=TODAY, today=0, earlier=0)
    assert metrics.of_the_largest(conn, TODAY, most=10) == []
    assert by_day([]).empty
    assert spend_by_currency([]).empty


def test_a_store_without_customers_has_a_row_that_tells_how_fresh_it_is(conn: Conn) -> None:
    connected(conn, "ant", "ant.myshopify.com")
    measure(conn)
    row = table(conn)["ant", TODAY, metrics.NO_CURRENCY]
    assert some(row, *COUNTS, "spend") == (0, 0, 0, 0, 0)
    assert row["hoursSinceSync"] == pytest.approx(1.5)


def test_an_organization_is_as_fresh_as_its_stalest_store_that_is_read(
    conn: Conn, write: Write
) -> None:
    write("ant", 1)
    stale, gone = (connected(conn, "ant", f"{name}.myshopify.com") for name in ("stale", "gone"))
    late = 'UPDATE integrations SET "lastSyncAt" = %s, "isActive" = %s WHERE "id" = %s'
    conn.execute(late, [NOON - timedelta(hours=30), True, stale.id])
    conn.execute(late, [NOON - timedelta(hours=99), False, gone.id])
    paused = connected(conn, "ant", "paused.myshopify.com")
    conn.execute(late, [NOON - timedelta(hours=77), True, paused.id])
    integrations.pause(conn, organization_id="ant", shop="paused.myshopify.com")
    measure(conn)
    assert table(conn)["ant", TODAY, "EUR"]["hoursSinceSync"] == pytest.approx(30)


def test_days_before_the_first_look_are_reckoned_from_what_tells_its_time(
    conn: Conn, write: Write
) -> None:
    write("ant", 1)
    write("ant", 2, made=NOON - 5 * DAY)
    write("ant", 3, made=NOON - 5 * DAY, deletedAt=NOON - 2 * DAY)
    write("ant", 4, made=NOON)
    measure(conn)
    found = table(conn)
    before = found["ant", TODAY - 5 * DAY, "EUR"]
    assert some(before, *COUNTS) == (2, None, 0, 3)
    assert some(before, "spend", "emailOptIns", "hoursSinceSync", "measuredAt") == (None,) * 4
    assert some(found["ant", TODAY - 2 * DAY, "EUR"], *COUNTS) == (0, None, 1, 2)
    assert found["ant", TODAY, "EUR"]["customers"] == 3
    assert len(found) == 3


def test_a_finished_day_stays_but_for_what_was_heard_late(conn: Conn, write: Write) -> None:
    write("ant", 1, totalSpent=10)
    measure(conn, NOON)
    seen = table(conn)["ant", TODAY, "EUR"]
    write("ant", 1, totalSpent=99, shopifyUpdatedAt=NOON + timedelta(hours=11))
    write("ant", 2, made=NOON + timedelta(hours=11.9))
    write("ant", 3, deletedAt=NOON + timedelta(hours=11.9))
    measure(conn, NOON + timedelta(hours=12))
    late = table(conn)["ant", TODAY, "EUR"]
    grown = {"newCustomers": 1, "deletedCustomers": 1, "changedCustomers": 1}
    assert late == {**seen, **grown}
    assert table(conn)["ant", TODAY + DAY, "EUR"]["spend"] == 109


def test_midnight_in_utc_parts_the_days(conn: Conn, write: Write) -> None:
    midnight = NOON.replace(hour=0)
    write("ant", 1, made=midnight - timedelta(milliseconds=1))
    write("ant", 2, made=midnight)
    conn.execute("SET TIME ZONE 'Asia/Tokyo'")
    measure(conn, midnight)
    found = table(conn)
    assert found["ant", TODAY, "EUR"]["newCustomers"] == 1
    assert some(found["ant", TODAY - DAY, "EUR"], "newCustomers", "customers") == (1, 1)
    assert found["ant", TODAY, "EUR"]["measuredAt"] == midnight


def test_the_deletion_of_who_is_erased_later_is_counted_once(conn: Conn, write: Write) -> None:
    write("ant", 1, deletedAt=NOON)
    write("ant", 2)
    measure(conn)
    write("ant", 1, deletedAt=NOON, redactedAt=NOON + DAY, **ERASED)
    measure(conn, NOON + DAY)
    deleted = [row["deletedCustomers"] for row in table(conn).values()]
    assert sorted(deleted) == [0, 1]


def test_who_is_erased_while_living_is_deleted_without_a_currency(conn: Conn, write: Write) -> None:
    write("ant", 1)
    write("ant", 2)
    measure(conn)
    write("ant", 1, deletedAt=NOON, redactedAt=NOON, **ERASED)
    measure(conn)
    found = table(conn)
    assert some(found["ant", TODAY, "EUR"], *COUNTS) == (0, 0, 0, 1)
    assert some(found["ant", TODAY, metrics.NO_CURRENCY], *COUNTS) == (0, 0, 1, 0)


def test_the_tombstone_of_who_was_never_read_counts_as_nobody(conn: Conn, write: Write) -> None:
    write("ant", 1)
    write("ant", 2, deletedAt=NOON, **ERASED)
    measure(conn)
    assert [row["deletedCustomers"] for row in table(conn).values()] == [0]


def test_a_store_that_was_erased_leaves_its_days(conn: Conn, write: Write) -> None:
    write("ant", 1)
    measure(conn)
    conn.execute("DELETE FROM customers")
    conn.execute('UPDATE integrations SET "isActive" = false')
    measure(conn, NOON + DAY)
    assert [(key, row["customers"]) for key, row in table(conn).items()] == [
        (("ant", TODAY, "EUR"), 1)
    ]


def test_lag_is_the_median_of_what_came_that_day_by_each_road(conn: Conn, write: Write) -> None:
    for number, (via, minutes) in enumerate(
        [("PULL", 10), ("PULL", 20), ("PULL", 60), ("BULK", 1)]
    ):
        changed = NOON - timedelta(minutes=minutes)
        write("ant", number, shopifyUpdatedAt=changed, lastSyncVia=via)
    for number, seconds in enumerate([0.1, 0.2, 90]):
        conn.execute(
            """INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId",
                 "topic", "body", "status", "outcome", "triggeredAt", "processedAt")
               SELECT "id", "organizationId", "shop", %s, 'customers/update', 'x', 'done',
                 'updated', %s, %s FROM integrations""",
            [str(number), NOON - timedelta(seconds=seconds), NOON],
        )
    measure(conn)
    row = table(conn)["ant", TODAY, "EUR"]
    assert row["pullLagSeconds"] == pytest.approx(1200)
    assert row["webhookLagSeconds"] == pytest.approx(0.2)


def test_a_first_load_is_no_lag(conn: Conn, write: Write) -> None:
    write("ant", 1, shopifyUpdatedAt=NOON - timedelta(hours=3), lastSyncVia="PULL")
    conn.execute('UPDATE integrations SET "createdAt" = %s', [NOON])
    measure(conn)
    assert table(conn)["ant", TODAY, "EUR"]["pullLagSeconds"] is None


def test_a_currency_that_is_left_no_longer_counts(conn: Conn, write: Write) -> None:
    write("ant", 1)
    write("ant", 2, "JPY")
    measure(conn)
    conn.execute("DELETE FROM customers WHERE currency = 'JPY'")
    measure(conn, NOON + 2 * DAY)
    frame = by_day(metrics.of_the_largest(conn, TODAY + 2 * DAY, most=10))
    assert frame["customers"].tolist() == [2, 2, 1]


def test_the_frame_adds_currencies_fills_days_and_has_rates(conn: Conn, write: Write) -> None:
    write("ant", 1, emailMarketingState="SUBSCRIBED")
    write("ant", 2, "JPY")
    write("ant", 3, made=NOON - 4 * DAY)
    write("bee", 1)
    for now in (NOON, NOON + 3 * DAY):
        measure(conn, now)
    frame = by_day(metrics.of_the_largest(conn, TODAY + 3 * DAY, most=10))
    assert list(frame.index.unique("organization")) == ["ant", "bee"]
    ant = frame.loc["ant"]
    assert len(ant) == 8
    assert ant["customers"].tolist() == [3] * 8
    assert ant["new"].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert ant["email_rate"].dropna().tolist() == pytest.approx([1 / 3, 1 / 3])
    assert ant["sms_rate"].dropna().tolist() == [0, 0]


def test_only_the_largest_are_read_and_spend_is_by_currency(conn: Conn, write: Write) -> None:
    for number in range(3):
        write("ant", number)
    write("bee", 1, "JPY", totalSpent=700)
    write("bee", 2)
    write("cat", 1)
    measure(conn)
    figures = metrics.of_the_largest(conn, TODAY, most=2)
    spend = spend_by_currency(figures)
    assert list(spend.index) == ["ant", "bee"]
    assert spend.loc["bee"].to_dict() == {"EUR": 10, "JPY": 700}
    assert spend.loc["ant"].dropna().to_dict() == {"EUR": 30}


WHITE, DARK = "#ffffff", "#0f1117"


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of #rrggbb."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [plots.FIRST, plots.SECOND, plots.WORDS])
@pytest.mark.parametrize("ground", [WHITE, DARK])
def test_lines_and_words_of_a_plot_can_be_read_on_white_and_on_dark(
    colour: str, ground: str
) -> None:
    brighter, darker = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (brighter + 0.05) / (darker + 0.05) > 3.9
