"""What `docs/analytics.md` tells analysts: its queries, run as the role shopsync_analyst over real
rows, and its columns, which the database, the dictionary and the page tell alike."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from shopsync_pipeline.db import dictionary, integrations, metrics, roles
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.server import ServerAddress

PAGE = (Path(__file__).parents[2] / "docs/analytics.md").read_text()
QUERIES = dict(re.findall(r"^```sql ([^\n]+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)

Rows = list[dict[str, Any]]


class Analyst:
    """Reads as `shopsync_analyst`; what is written is written as the owner."""

    def __init__(self, owner: Conn, reader: psycopg.Connection[Any]) -> None:
        self.owner = owner
        self._reader = reader
        self._stores: dict[str, str] = {}

    def ask(self, title: str) -> Rows:
        with self._reader.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(QUERIES[title].encode()).fetchall()

    def customer(self, number: int, store: str = "one", **told: Any) -> None:
        """Of organization `ant`; made and changed a thousand days ago in EUR, but as told."""
        if store not in self._stores:
            self._stores[store] = integrations.connect(
                self.owner,
                organization_id="ant",
                shop=f"{store}.myshopify.com",
                name=store,
                shop_id=len(self._stores) + 1,
            ).id
        made = told.pop("shopifyCreatedAt", NOW - 1000 * DAY)
        row = {
            "organizationId": "ant",
            "integrationId": self._stores[store],
            "shopifyId": number,
            "currency": "EUR",
            "totalSpent": 0,
            "ordersCount": 0,
            "shopifyCreatedAt": made,
            "shopifyUpdatedAt": made,
            "lastSyncedAt": NOW,
            "lastSyncRunId": "run",
            "lastSyncVia": "PULL",
            **told,
        }
        names = ", ".join(f'"{name}"' for name in row)
        values = ", ".join(f"%({name})s" for name in row)
        self.owner.execute(f"INSERT INTO customers ({names}) VALUES ({values})".encode(), row)


@pytest.fixture
def analyst(conn: Conn, database_url: str, server: ServerAddress) -> Iterator[Analyst]:
    name = database_url.rsplit("/", 1)[1]
    assert roles.apply(server.url(name), roles.analyst_steps()) == []
    with psycopg.connect(server.url(name), autocommit=True) as reader:
        reader.execute("SET ROLE shopsync_analyst")
        yield Analyst(conn, reader)


def picked(rows: Rows, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_the_page_has_ten_queries_and_each_has_a_test_here() -> None:
    asked = set(re.findall(r'\.ask\("([^"]+)"\)', Path(__file__).read_text()))
    assert len(QUERIES) == 10
    assert asked == set(QUERIES)


def test_new_customers_per_week(analyst: Analyst) -> None:
    week = (NOW - timedelta(days=NOW.weekday())).replace(hour=0, minute=0, second=0) - 14 * DAY
    analyst.customer(1, shopifyCreatedAt=week)
    analyst.customer(2, shopifyCreatedAt=week + 6.9 * DAY)
    analyst.customer(3, shopifyCreatedAt=week + 7 * DAY)
    analyst.customer(4)
    analyst.customer(5, shopifyCreatedAt=week, deletedAt=NOW)
    found = picked(analyst.ask("new customers per week"), "week", "new_customers")
    assert found == [(week.date(), 2), ((week + 7 * DAY).date(), 1)]


def test_opt_in_rate_by_store(analyst: Analyst) -> None:
    analyst.customer(1, emailMarketingState="SUBSCRIBED", smsMarketingState="SUBSCRIBED")
    analyst.customer(2, emailMarketingState="UNSUBSCRIBED")
    analyst.customer(3, store="two")
    found = picked(analyst.ask("opt-in rate by store"), "shop", "customers", "by_email", "by_sms")
    assert found == [
        ("one.myshopify.com", 2, Decimal("0.5"), 1),
        ("two.myshopify.com", 1, None, None),
    ]


def test_top_spenders_per_currency(analyst: Analyst) -> None:
    for number in range(12):
        analyst.customer(number, totalSpent=number)
    analyst.customer(100, currency="JPY", totalSpent=5000)
    analyst.customer(101, currency="JPY", totalSpent=9000, deletedAt=NOW)
    found = picked(analyst.ask("top spenders per currency"), "currency", "shopify_id")
    assert found == [*[("EUR", number) for number in range(11, 1, -1)], ("JPY", 100)]


def test_dormant_customers(analyst: Analyst) -> None:
    analyst.customer(1, ordersCount=2)
    analyst.customer(2, ordersCount=2, shopifyUpdatedAt=NOW - 300 * DAY)
    analyst.customer(3)
    assert picked(analyst.ask("dormant customers"), "shopify_id") == [(1,)]


def test_consent_changed_lately(analyst: Analyst) -> None:
    analyst.customer(1, emailMarketingState="UNSUBSCRIBED", emailMarketingUpdatedAt=NOW - 2 * DAY)
    analyst.customer(2, smsMarketingState="SUBSCRIBED", smsMarketingUpdatedAt=NOW - DAY)
    analyst.customer(3, smsMarketingState="SUBSCRIBED", smsMarketingUpdatedAt=NOW - 8 * DAY)
    found = picked(analyst.ask("consent changed lately"), "shopify_id", "way", "state")
    assert found == [(2, "SMS", "SUBSCRIBED"), (1, "e-mail", "UNSUBSCRIBED")]


def test_customers_by_country(analyst: Analyst) -> None:
    for number, code in enumerate(["CA", "DE", "CA", None]):
        analyst.customer(number, countryCode=code)
    found = picked(analyst.ask("customers by country"), "country", "customers")
    assert found == [("CA", 2), ("DE", 1), ("unknown", 1)]


def test_duplicates_by_email_across_stores(analyst: Analyst) -> None:
    analyst.customer(1, email="ada@example.com")
    analyst.customer(2, store="two", email="Ada@example.com")
    analyst.customer(3, email="bob@example.com")
    (found,) = analyst.ask("duplicates by email across stores")
    assert (found["email"], found["stores"], found["shopify_ids"]) == ("ada@example.com", 2, [1, 2])


def test_growth(analyst: Analyst) -> None:
    analyst.customer(1, totalSpent=1)
    metrics.measure(analyst.owner, NOW - DAY)
    analyst.customer(2, shopifyCreatedAt=NOW, currency="JPY")
    metrics.measure(analyst.owner, NOW)
    found = picked(analyst.ask("growth"), "day", "customers", "new", "grown_by")
    assert found == [((NOW - DAY).date(), 1, 0, None), (NOW.date(), 2, 1, 1)]


def test_freshness_of_each_store(analyst: Analyst) -> None:
    for number, store in enumerate(["one", "two", "gone"]):
        analyst.customer(number, store=store)
    sync = """UPDATE integrations SET "lastSyncAt" = now() - interval '90 minutes',
              "isActive" = "name" <> 'gone' WHERE "name" <> 'two'"""
    analyst.owner.execute(sync)
    found = picked(analyst.ask("freshness of each store"), "shop", "real_time", "hours_since_sync")
    assert found == [
        ("two.myshopify.com", False, None),
        ("one.myshopify.com", False, Decimal("1.5")),
    ]


def test_spend_deciles(analyst: Analyst) -> None:
    for number in range(1, 21):
        analyst.customer(number, totalSpent=number)
    found = analyst.ask("spend deciles")
    assert [row["customers"] for row in found] == [2] * 10
    assert picked(found[:1], "currency", "decile", "spend") == [("EUR", 1, 39)]
    assert sum(row["share"] for row in found) == pytest.approx(1, abs=Decimal("0.01"))


def test_over_an_empty_database_every_query_answers_nothing(analyst: Analyst) -> None:
    assert {title: analyst.ask(title) for title in list(QUERIES)} == {t: [] for t in QUERIES}


RELATIONS = {
    ("public", "customers"): dictionary.CUSTOMERS,
    ("public", "customer_metrics"): dictionary.CUSTOMER_METRICS,
    **{("analytics", name): columns for name, columns in dictionary.ANALYTICS.items()},
}


@pytest.mark.parametrize(("schema", "relation"), RELATIONS)
def test_the_comment_of_every_column_says_what_the_dictionary_does(
    conn: Conn, schema: str, relation: str
) -> None:
    found = conn.execute(
        """
        SELECT a.attname, CASE t.typname WHEN '_text' THEN 'text[]' ELSE t.typname END,
               col_description(a.attrelid, a.attnum)
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
        """,
        [f"{schema}.{relation}"],
    ).fetchall()
    wanted = [(each.name, each.type, each.told) for each in RELATIONS[schema, relation]]
    assert sorted(found) == sorted(wanted)


def test_the_comments_of_tables_and_views_say_what_the_dictionary_does(conn: Conn) -> None:
    for schema, told in (("public", dictionary.TABLES), ("analytics", dictionary.VIEWS)):
        for name, text in told.items():
            found = conn.execute(
                "SELECT obj_description(to_regclass(%s), 'pg_class')", [f"{schema}.{name}"]
            ).fetchone()
            assert found == (text,)


@pytest.mark.parametrize("view", dictionary.ANALYTICS)
def test_the_page_lists_every_column_as_the_dictionary_has_it(view: str) -> None:
    section = PAGE.split(f"### analytics.{view}\n", 1)[1].split("\n### ", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.+) \|$", section, re.MULTILINE)
    assert rows == [(c.name, c.type, c.told) for c in dictionary.ANALYTICS[view]]
    assert dictionary.VIEWS[view] in section
