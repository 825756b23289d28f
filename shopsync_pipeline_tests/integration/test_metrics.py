"""`GET /metrics` over real HTTP and a real Postgres, read by Prometheus's own parser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests as http
import yaml
from prometheus_client.parser import text_string_to_metric_families

from shopsync_pipeline.db import integrations, watch
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.integration.test_receiver import (
    SHOP,
    TOKEN,
    Receiver,
    environ_of,
    error_of,
    receiver_for,
)
from webhook_receiver.server import running_receiver

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def receiver(database_url: str, conn: Conn, tmp_path: Path) -> Iterator[Receiver]:
    with receiver_for(environ_of(database_url, tmp_path), conn) as running:
        yield running


def figures(text: str) -> Figures:
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def told(receiver: Receiver, token: str | None = None) -> Figures:
    answer = receiver.ask("GET", "/metrics", token)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return figures(answer.text)


def figure(found: Figures, name: str, /, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def wait_in_inbox(receiver: Receiver, store: str, minutes: int, status: str = "pending") -> None:
    receiver.conn.execute(
        """
        INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId", "topic",
                                    "status", "receivedAt")
        SELECT "id", "organizationId", "shop", gen_random_uuid()::text, 'customers/update', %s,
               now() - interval '1 minute' * %s
        FROM integrations WHERE "id" = %s
        """,
        [status, minutes, store],
    )


def test_each_delivery_is_counted_once_by_what_became_of_it(receiver: Receiver) -> None:
    receiver.connect_store()
    for webhook_id in ("1", "1", "2"):
        receiver.deliver(webhook_id=webhook_id)
    receiver.deliver(webhook_id="3", secret="forged")
    receiver.deliver(topic=None)
    found = told(receiver)
    outcomes = {
        outcome: figure(found, "shopsync_webhook_deliveries_total", outcome=outcome)
        for outcome in ("received", "duplicate", "refused", "malformed", "unavailable", "failed")
    }
    assert outcomes == {
        "received": 2,
        "duplicate": 1,
        "refused": 1,
        "malformed": 1,
        "unavailable": 0,
        "failed": 0,
    }
    assert figure(found, "shopsync_webhook_answer_seconds_count") == 5


def test_organizations_and_shops_are_told_to_the_bearer_alone(receiver: Receiver) -> None:
    store = receiver.connect_store()
    receiver.conn.execute(
        """UPDATE integrations SET "lastSyncAt" = now() - interval '1 hour' WHERE "id" = %s""",
        [store],
    )
    bare = receiver.ask("GET", "/metrics", None).text
    assert SHOP not in bare
    assert "acme" not in bare
    assert figure(figures(bare), "shopsync_oldest_sync_seconds") == pytest.approx(3600, abs=60)
    whom = {"organization": "acme", "shop": SHOP}
    found = told(receiver, TOKEN)
    assert figure(found, "shopsync_store_last_sync_seconds", **whom) == pytest.approx(3600, abs=60)
    assert figure(found, "shopsync_store_status", status="ok", **whom) == 1
    for wrong in ("wrong", TOKEN + "x"):
        assert receiver.ask("GET", "/metrics", wrong).status_code == 401


def test_without_a_token_there_is_none_that_could_be_right(
    database_url: str, tmp_path: Path
) -> None:
    environ = environ_of(database_url, tmp_path)
    del environ["SHOPSYNC_API_TOKEN"]
    with running_receiver(Settings.from_env(environ)) as url:
        assert http.get(f"{url}/metrics", timeout=10).status_code == 200
        answer = http.get(f"{url}/metrics", headers={"Authorization": "Bearer x"}, timeout=10)
        assert answer.status_code == 503
        assert "SHOPSYNC_API_TOKEN" in error_of(answer)


def test_what_could_be_worked_on_is_told_apart_from_what_waits_for_a_store_in_trouble(
    receiver: Receiver,
) -> None:
    well = receiver.connect_store()
    ill = receiver.connect_store("ill", "ill.myshopify.com")
    receiver.conn.execute(
        """UPDATE integrations SET "status" = 'paused', "retryAt" = now() + interval '1 day'
           WHERE "id" = %s""",
        [ill],
    )
    wait_in_inbox(receiver, well, 20)
    wait_in_inbox(receiver, ill, 300)
    wait_in_inbox(receiver, ill, 600, "dead")
    found = told(receiver)
    assert figure(found, "shopsync_inbox_oldest_seconds") == pytest.approx(1200, abs=60)
    assert figure(found, "shopsync_inbox_held_back_oldest_seconds") == pytest.approx(18000, abs=60)
    assert figure(found, "shopsync_inbox_events", status="pending") == 2
    assert figure(found, "shopsync_inbox_events", status="dead") == 1
    assert figure(found, "shopsync_stores", status="ok") == 1
    assert figure(found, "shopsync_stores", status="paused") == 1


def test_an_event_is_late_only_from_when_its_store_may_be_asked_again(conn: Conn) -> None:
    """Of a store that was put off until now, the events are as old as its trouble."""
    store = integrations.connect(conn, organization_id="o", shop=SHOP, name="A", shop_id=1)
    conn.execute(
        """
        INSERT INTO webhook_events ("integrationId", "organizationId", "shop", "webhookId", "topic",
                                    "receivedAt")
        VALUES (%s, 'o', %s, '1', 'customers/update', now() - interval '1 hour')
        """,
        [store.id, SHOP],
    )
    for column, table in (("retryAt", "integrations"), ("notBefore", "webhook_events")):
        conn.execute(f"""UPDATE {table} SET "{column}" = now() - interval '1 second'""")
        assert watch.inbox(conn).oldest(held_back=False).total_seconds() < 60
        conn.execute(f'UPDATE {table} SET "{column}" = NULL')
    conn.execute("""UPDATE webhook_events SET "notBefore" = now() + interval '5 minutes'""")
    assert watch.inbox(conn).waiting == []


def test_the_ages_of_ticks_and_what_reconciles_found_are_told(receiver: Receiver) -> None:
    store = receiver.connect_store()
    watch.beat(receiver.conn, "webhook_sensor")
    receiver.conn.execute("""UPDATE heartbeats SET "at" = "at" - interval '1 hour'""")
    receiver.conn.execute(
        """
        INSERT INTO reconciliations ("integrationId", "organizationId", "shop", "runId", "way",
          "startedAt", "rowsRead", "missing", "drifted", "revived", "deleted")
        VALUES (%s, 'acme', %s, 'run', 'pages', now(), 100, 1, 2, 3, 4)
        """,
        [store, SHOP],
    )
    found = told(receiver, TOKEN)
    age = figure(found, "shopsync_tick_age_seconds", name="webhook_sensor")
    assert age == pytest.approx(3600, abs=60)
    assert figure(found, "shopsync_drift_rows", finding="drifted") == 2
    assert figure(found, "shopsync_store_drift_rows", organization="acme", shop=SHOP) == 10


def test_while_postgres_is_away_the_process_tells_of_itself(tmp_path: Path) -> None:
    environ = environ_of("postgresql://u@127.0.0.1:1/d", tmp_path)
    with running_receiver(Settings.from_env(environ)) as url:
        found = figures(http.get(f"{url}/metrics", timeout=10).text)
    assert figure(found, "shopsync_database_up") == 0
    assert ("shopsync_inbox_oldest_seconds", frozenset[tuple[str, str]]()) not in found
    assert figure(found, "shopsync_webhook_deliveries_total", outcome="received") == 0
    assert any(name == "shopsync_build_info" for name, _ in found)


def test_a_role_that_lacks_a_right_is_told_apart_from_a_postgres_that_is_away(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """After an upgrade that could grant nothing."""
    receiver.conn.execute("ALTER TABLE heartbeats RENAME TO hidden")
    found = told(receiver)
    assert figure(found, "shopsync_database_up") == 1
    assert figure(found, "shopsync_database_refuses") == 1
    assert "shopsync db roles" in caplog.text


def test_the_rules_for_prometheus_ask_for_figures_that_are_told(receiver: Receiver) -> None:
    watch.beat(receiver.conn, "webhook_sensor")
    path = Path(__file__).parents[2] / "deploy/prometheus/shopsync.rules.yaml"
    (group,) = yaml.safe_load(path.read_text())["groups"]
    wanted = {n for rule in group["rules"] for n in re.findall(r"shopsync_\w+", rule["expr"])}
    assert len(wanted) >= 5
    assert wanted <= {name for name, _ in told(receiver)}


def test_refused_deliveries_are_kept_for_stores_that_are_known_and_for_no_others(
    database_url: str, conn: Conn, tmp_path: Path
) -> None:
    with receiver_for(environ_of(database_url, tmp_path), conn) as receiver:
        store = receiver.connect_store()
        for _ in range(3):
            receiver.deliver(secret="forged")
            receiver.deliver(secret="forged", shop_domain="stranger.myshopify.com")
    (refused,) = watch.refused(conn)
    assert (refused.id, refused.count, refused.heard) == (store, 3, False)
    with receiver_for(environ_of(database_url, tmp_path), conn) as receiver:
        receiver.deliver(secret="forged")
        assert receiver.deliver().status_code == 200
    (refused,) = watch.refused(conn)
    assert (refused.count, refused.heard) == (4, True)
