"""The search for canaries finds what is planted in each place; that it finds nothing else is looked
at when a deployment ends, this one and every other."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import Conn, connect
from shopsync_pipeline_tests.acceptance.canary import Canary
from shopsync_pipeline_tests.acceptance.deployment import Deployment, deployed, wait_for
from shopsync_pipeline_tests.acceptance.leaks import by_table, found_in, leaks, spellings

TEXT = 'ada+b@example.com says "50% & more"/'


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz"])
@pytest.mark.parametrize("after", ["", "x", "xy", "xyz"])
def test_a_text_is_found_within_a_longer_one_in_base64(before: str, after: str) -> None:
    longer = f"{before}{TEXT}{after}".encode()
    for coded in (base64.b64encode(longer), base64.urlsafe_b64encode(longer)):
        assert [*found_in(coded, {"a text": TEXT})] == ["a text"]


@pytest.mark.parametrize(
    "spelled",
    [
        TEXT.encode(),
        quote(TEXT, safe="").encode(),
        TEXT.replace('"', '\\"').encode(),
        TEXT.replace('"', '\\\\\\"').encode(),
        TEXT.encode().hex().encode(),
    ],
)
def test_a_text_is_found_as_urls_and_json_and_postgres_spell_it(spelled: bytes) -> None:
    assert [*found_in(b"before " + spelled + b" after", {"a text": TEXT})] == ["a text"]


def test_no_spelling_is_so_short_that_it_stands_everywhere() -> None:
    for text in (*Canary().secrets.values(), *Canary().person.values()):
        assert min(map(len, spellings(text))) > 10


def test_a_dump_is_told_apart_by_tables() -> None:
    dump = b"SET x;\nCOPY public.a (n) FROM stdin;\n1\n2\n\\.\n\nCOPY b.c (n) FROM stdin;\n\\.\nEND"
    found = dict(by_table(dump))
    assert b"1\n2" in found["public.a"]
    assert found["b.c"].endswith(b"stdin;")
    assert found["after b.c"] == b"END"


@pytest.mark.deployment
def test_what_leaks_is_found_in_every_place() -> None:
    with deployed() as deployment:
        canary = Canary()
        with planted(deployment, canary):
            found = leaks(deployment, canary)
        assert {place for place in found if not place.endswith("of Postgres: sealed_token")} == {
            "cmdline of a process: note",
            "environ of a process: refresh_token",
            "home/dagster/history/a.txt: last_name",
            "home/logs/daemon.log: client_secret",
            "public.integrations: email",
            "public.kvs: access_token",
            "public.sync_requests: sealed_token",
        }
        assert len(found) > 7  # in the files of Postgres
        assert [place for place in leaks(deployment, canary) if "of Postgres:" not in place] == []


@contextmanager
def planted(deployment: Deployment, canary: Canary) -> Iterator[None]:
    """One leak in each place, each in another spelling."""
    settings, conn = deployment.settings, deployment.conn
    log = settings.home / "logs/daemon.log"
    kept = log.read_bytes()
    log.write_bytes(kept + base64.b64encode(b"x" + canary.client_secret.encode()))
    history = settings.home / "dagster/history/a.txt"
    history.parent.mkdir(exist_ok=True)
    history.write_text(canary.last_name)
    store = integrations.connect(
        conn, organization_id="leaky", shop="leaky.myshopify.com", name="L", shop_id=1
    )
    integrations.record_trouble(conn, store.id, status=None, retry_at=None, error=canary.email)
    conn.execute(
        """INSERT INTO sync_requests ("kind", "status", "error") VALUES ('cron', 'failed', %s)""",
        [canary.sealed_token],
    )
    with dagsters(deployment) as dagster, talkative(deployment, canary):
        hexed = canary.access_token.encode().hex()
        dagster.execute("INSERT INTO kvs (key, value) VALUES ('canary', %s)", [hexed])
        yield
        dagster.execute("DELETE FROM kvs WHERE key = 'canary'")
    conn.execute("DELETE FROM sync_requests")
    conn.execute("DELETE FROM integrations")
    log.write_bytes(kept)
    history.unlink()


@contextmanager
def dagsters(deployment: Deployment) -> Iterator[Conn]:
    url = deployment.settings.dagster_postgres_url
    assert url is not None
    with connect(url) as conn:
        yield conn


@contextmanager
def talkative(deployment: Deployment, canary: Canary) -> Iterator[None]:
    """A process of the deployment that shows what it should not."""
    command = [sys.executable, "-c", "import time; time.sleep(600)", canary.note]
    environ = {
        **os.environ,
        "SHOPSYNC_HOME": str(deployment.home),
        "LEAK": quote(canary.refresh_token),
    }
    with subprocess.Popen(command, env=environ) as process:
        try:
            wait_for(lambda: process.pid in deployment.processes(), 10, "the process")
            yield
        finally:
            process.kill()
