"""The customers page without a browser: each page and action over HTTP and a real Postgres."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests as http

from shopsync_pipeline.db import customer_list, integrations, roles
from shopsync_pipeline.db import requests as sync_requests
from shopsync_pipeline.db.customer_list import ORDERS, PAGE_ROWS, Wanted
from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline.db.server import ServerAddress
from shopsync_pipeline.models import Credentials
from shopsync_pipeline.settings import Settings
from shopsync_pipeline_tests.integration.test_receiver import (
    SHOP,
    TOKEN,
    Receiver,
    environ_of,
    receiver_for,
)
from webhook_receiver.dashboard.sessions import FAILURES
from webhook_receiver.server import running_receiver

CUSTOMERS = "/dashboard/customers"
PEOPLE = 120


@pytest.fixture
def receiver(database_url: str, conn: Conn, tmp_path: Path) -> Iterator[Receiver]:
    with receiver_for(environ_of(database_url, tmp_path), conn) as running:
        yield running


@dataclass
class Browser:
    """Keeps cookies, and sends forms as the page has them."""

    receiver: Receiver

    def __post_init__(self) -> None:
        self.session = http.Session()

    def get(self, path: str, **headers: str) -> http.Response:
        return self.session.get(
            self.receiver.url + path, headers=headers, timeout=10, allow_redirects=False
        )

    def post(self, path: str, form: dict[str, str], **headers: str) -> http.Response:
        return self.session.post(
            self.receiver.url + path, form, headers=headers, timeout=10, allow_redirects=False
        )

    def csrf(self, path: str = "/dashboard/connect") -> str:
        found = re.search(r'name="csrf" value="(\w+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def log_in(self, token: str = TOKEN, back: str = CUSTOMERS) -> http.Response:
        form = {"csrf": self.csrf("/dashboard/login"), "token": token, "next": back}
        return self.post("/dashboard/login", form)

    def act(self, store: str, action: str) -> http.Response:
        return self.post(f"/dashboard/stores/{store}/{action}", {"csrf": self.csrf()})


@pytest.fixture
def browser(receiver: Receiver) -> Browser:
    browser = Browser(receiver)
    assert browser.log_in().status_code == 303
    return browser


def add_people(conn: Conn, store: str, count: int = PEOPLE, organization: str = "acme") -> None:
    """Number g is "First<g> Last<g>"; values repeat in each order, and are missing for some."""
    conn.execute(
        """
        INSERT INTO customers ("organizationId", "integrationId", "shopifyId", "email", "phone",
          "firstName", "lastName", "name", "totalSpent", "ordersCount", "shopifyUpdatedAt",
          "lastSyncedAt", "lastSyncRunId", "lastSyncVia", "updatedAt")
        SELECT %s, %s, 1000 + g, CASE WHEN g %% 7 > 0 THEN format('P%%s@Example.com', g) END,
          '+45 20-' || lpad(g::text, 4, '0'), 'First' || g, 'Last' || g,
          CASE WHEN g %% 5 > 0 THEN format('First%%s Last%%s', g, g) END, g %% 9, g %% 4, now(),
          now(), 'run-1', 'PULL', now() - (g / 3) * interval '1 s'
        FROM generate_series(1, %s) AS g
        """,
        [organization, store, count],
    )


# The list


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("descending", [True, False])
def test_paging_shows_every_customer_once_in_order_and_the_same_way_back(
    conn: Conn, order: str, descending: bool
) -> None:
    add_people(conn, store_in(conn))
    wanted = Wanted(order=order, descending=descending)
    pages, place = [], None
    while True:
        found = customer_list.page(conn, wanted, place)
        pages.append([row.id for row in found.rows])
        if found.after is None:
            break
        place = found.after
    key, way = ORDERS[order][0], "DESC" if descending else "ASC"
    expected = conn.execute(
        f'SELECT "id" FROM customers ORDER BY {key} {way}, "id" {way}'.encode()
    ).fetchall()
    assert [id_ for page in pages for id_ in page] == [row[0] for row in expected]
    assert [len(page) for page in pages] == [PAGE_ROWS, PAGE_ROWS, PEOPLE - 2 * PAGE_ROWS]
    for earlier in reversed(pages[:-1]):
        assert found.before is not None
        found = customer_list.page(conn, wanted, found.before)
        assert [row.id for row in found.rows] == earlier
    assert found.before is None


def store_in(conn: Conn, organization: str = "acme", shop: str = SHOP) -> str:
    return integrations.connect(
        conn, organization_id=organization, shop=shop, name="Acme", shop_id=1
    ).id


def test_a_page_stays_where_it_is_while_customers_come_and_change_before_it(conn: Conn) -> None:
    store = store_in(conn)
    add_people(conn, store)
    wanted = Wanted(order="email", descending=False)
    first = customer_list.page(conn, wanted, None)
    second = customer_list.page(conn, wanted, first.after)
    conn.execute("""UPDATE customers SET "email" = 'aaa@example.com' WHERE "email" LIKE 'P1%'""")
    again = customer_list.page(conn, wanted, first.after)
    kept = {row.id for row in again.rows}
    assert {row.id for row in second.rows if not (row.email or "").startswith("P1")} <= kept


def found_by(conn: Conn, query: str, **wanted: Any) -> set[int]:
    page = customer_list.page(conn, Wanted(query=query, **wanted), None)
    return {row.shopify_id - 1000 for row in page.rows}


def test_a_search_finds_the_beginning_of_an_email_a_name_and_a_phone_and_a_whole_id(
    conn: Conn,
) -> None:
    add_people(conn, store_in(conn))
    assert found_by(conn, "p12@EXAMPLE") == {12}
    assert found_by(conn, "first3 ") == {3}
    assert found_by(conn, "LAST11") == {11, *range(110, 120)}
    assert found_by(conn, "first2 last2") == {2}
    assert found_by(conn, "+45 20-001") == set(range(10, 20))
    assert found_by(conn, "45200017") == {17}
    assert found_by(conn, "1007") == {7}
    for nothing in ("xample.com", "100", "%", "_", "p1_", "\\", "'", "~~"):
        assert found_by(conn, nothing) == set()


def test_a_search_knows_letters_of_any_script(conn: Conn) -> None:
    store = store_in(conn)
    add_people(conn, store, 3)
    names = ["Østergård Åse", "Γιώργος", "王芳"]
    for number, name in enumerate(names, 1):
        conn.execute(
            'UPDATE customers SET "name" = %s WHERE "shopifyId" = %s', [name, 1000 + number]
        )
    assert [found_by(conn, text) for text in ("østerGÅRD", "γιώ", "王")] == [{1}, {2}, {3}]


def test_deleted_customers_and_other_stores_are_shown_only_where_asked_for(conn: Conn) -> None:
    store = store_in(conn)
    other = store_in(conn, "bee", "bee.myshopify.com")
    add_people(conn, store, 6)
    add_people(conn, other, 2, "bee")
    conn.execute('UPDATE customers SET "deletedAt" = now() WHERE "shopifyId" = 1001')

    def ids(**wanted: Any) -> list[tuple[str, int]]:
        rows = customer_list.page(conn, Wanted(**wanted), None).rows
        return sorted((row.organization_id, row.shopify_id - 1000) for row in rows)

    assert ids(integration_id=other) == [("bee", 2)]
    assert ids(integration_id=other, with_deleted=True) == [("bee", 1), ("bee", 2)]
    assert ids(query="last1") == []
    assert ids(query="last1", with_deleted=True) == [("acme", 1), ("bee", 1)]
    assert len(ids()) == 6
    assert ids(integration_id="nobody's") == []


def test_a_search_that_finds_too_many_says_so(conn: Conn) -> None:
    add_people(conn, store_in(conn), customer_list.CANDIDATES + 50)
    assert customer_list.page(conn, Wanted(query="last"), None).crowded
    assert not customer_list.page(conn, Wanted(query="last1"), None).crowded
    assert not customer_list.page(conn, Wanted(), None).crowded


def test_an_address_that_means_nothing_shows_the_lists_beginning(
    browser: Browser, conn: Conn
) -> None:
    add_people(conn, browser.receiver.connect_store(), 3)
    for query in ("sort=x", "dir=x", "cursor=x", "q=%00", "cursor=%00", "deleted=x", "sort=%ff"):
        answer = browser.get(f"{CUSTOMERS}?{query}")
        assert answer.status_code == 200
        assert "First1 Last1" in answer.text
    assert "No customer begins with" in browser.get(f"{CUSTOMERS}?q=zz").text
    assert browser.get(f"{CUSTOMERS}?store=%00x").status_code == 200
    beginning = customer_list.page(conn, Wanted(order="spent"), None)
    assert len(beginning.rows) == 3


def test_what_a_store_says_of_a_person_is_text_and_never_markup(
    browser: Browser, conn: Conn
) -> None:
    add_people(conn, browser.receiver.connect_store(), 1)
    bad = "<script>alert(1)</script>\"'><img src=x>"
    conn.execute('UPDATE customers SET "name" = %s, "note" = %s, "tags" = %s', [bad, bad, [bad]])
    ((customer,),) = conn.execute('SELECT "id" FROM customers').fetchall()
    for path in (CUSTOMERS, f"{CUSTOMERS}/{customer}", f"{CUSTOMERS}?q=%3Cimg%3E%22"):
        text = browser.get(path).text
        assert "<img" not in text
        assert "<script>" not in text


# One customer


def test_a_customers_page_tells_its_fields_its_syncs_and_its_webhooks_with_their_runs(
    browser: Browser, conn: Conn
) -> None:
    store = browser.receiver.connect_store()
    add_people(conn, store, 1)
    ((customer,),) = conn.execute('SELECT "id" FROM customers').fetchall()
    conn.execute(
        """UPDATE customers SET "note" = 'Likes blue', "earlierSyncs" =
             '[{"at": "2026-11-01T10:00:00.5+00:00", "via": "BULK", "run": "run-0"}]'"""
    )
    assert browser.receiver.deliver(triggered_at="2026-11-24T10:00:00Z").status_code == 200
    conn.execute(
        """UPDATE webhook_events SET "customerId" = 1001, "status" = 'done', "runId" = 'run-2',
             "error" = 'read, not newer', "processedAt" = now()"""
    )
    text = browser.get(f"{CUSTOMERS}/{customer}").text
    runs = "http://127.0.0.1:3001/runs"
    for told in (
        *("P1@Example.com", "Likes blue", "2026-11-01 10:00:00", "Bulk", "customers/update"),
        *("read, not newer", f"{runs}/run-0", f"{runs}/run-1", f"{runs}/run-2"),
    ):
        assert told in text
    assert browser.get(f"{CUSTOMERS}/nobody").status_code == 404


def test_a_part_is_sent_again_only_when_it_has_changed(browser: Browser, conn: Conn) -> None:
    add_people(conn, browser.receiver.connect_store(), 1)
    ((customer,),) = conn.execute('SELECT "id" FROM customers').fetchall()
    for part, path in (
        ("customers", f"{CUSTOMERS}?sort=name"),
        ("stores", f"{CUSTOMERS}?"),
        ("customer", f"{CUSTOMERS}/{customer}?"),
    ):
        htmx = {"HX-Request": "true", "HX-Target": part}
        first = browser.get(path, **htmx)
        assert "<html" not in first.text
        version = re.search(r'name="v" value="(\w+)"', first.text)
        assert version is not None
        assert browser.get(f"{path}&v={version[1]}", **htmx).status_code == 204
        conn.execute("""UPDATE customers SET "name" = "name" || '!'""")
        conn.execute("""UPDATE integrations SET "name" = "name" || '!'""")
        assert browser.get(f"{path}&v={version[1]}", **htmx).status_code == 200


# The login


PAGES = (CUSTOMERS, f"{CUSTOMERS}/x", "/dashboard/connect", "/dashboard/requests/x")


def test_nothing_is_shown_and_nothing_done_without_a_login(receiver: Receiver) -> None:
    store = receiver.connect_store()
    browser = Browser(receiver)
    for path in (*PAGES, f"/dashboard/stores/{store}/disconnect"):
        answer = browser.get(path)
        assert answer.status_code == 303
        assert answer.headers["Location"] == f"/dashboard/login?next={path}"
        assert browser.get(path, **{"HX-Request": "true"}).status_code == 401
    browser.get("/dashboard/login")  # whose session is none yet
    for path in ("connect", "logout", f"stores/{store}/pause", f"stores/{store}/disconnect"):
        assert browser.post(f"/dashboard/{path}", {}).status_code == 303
    assert not integrations.get(receiver.conn, store).paused_told
    assert integrations.get(receiver.conn, store).is_active


def test_a_login_has_a_new_session_and_a_logout_ends_it(receiver: Receiver) -> None:
    browser = Browser(receiver)
    browser.get("/dashboard/login")
    before = browser.session.cookies["shopsync_session"]
    answer = browser.log_in(back=f"{CUSTOMERS}?q=ann")
    assert answer.headers["Location"] == f"{CUSTOMERS}?q=ann"
    assert browser.session.cookies["shopsync_session"] != before
    assert browser.get(CUSTOMERS).status_code == 200
    assert browser.post("/dashboard/logout", {"csrf": "0" * 64}).status_code == 403
    assert browser.post("/dashboard/logout", {"csrf": browser.csrf()}).status_code == 303
    assert browser.get(CUSTOMERS).status_code == 303


def test_a_wrong_token_is_401_and_too_many_of_them_shut_the_login(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    browser = Browser(receiver)
    for _ in range(FAILURES):
        answer = browser.log_in("shop-wrong-é")
        assert (answer.status_code, "SHOPSYNC_API_TOKEN" in answer.text) == (401, True)
    assert browser.log_in().status_code == 429
    assert browser.get(CUSTOMERS).status_code == 303
    assert "A login to the customers page failed." in caplog.text
    assert "shop-wrong" not in caplog.text


def test_without_a_token_of_the_deployment_nobody_can_log_in(
    database_url: str, tmp_path: Path
) -> None:
    environ = environ_of(database_url, tmp_path)
    del environ["SHOPSYNC_API_TOKEN"]
    with running_receiver(Settings.from_env(environ)) as url:
        for path in ("/dashboard/login", *PAGES):
            answer = http.get(url + path, timeout=10)
            assert answer.status_code == 503
            assert "SHOPSYNC_API_TOKEN is not set" in answer.text


def test_a_form_from_elsewhere_or_of_another_session_does_nothing(browser: Browser) -> None:
    store = browser.receiver.connect_store()
    path, csrf = f"/dashboard/stores/{store}/pause", browser.csrf()
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert browser.post(path, {"csrf": csrf}, **headers).status_code == 403
    assert browser.post(path, {"csrf": csrf[:-1]}).status_code == 403
    assert browser.post(path, {}).status_code == 403
    assert browser.post("/dashboard/login", {"token": TOKEN, "csrf": "x"}).status_code == 403
    assert integrations.get(browser.receiver.conn, store).paused_at is None


def test_every_answer_forbids_frames_foreign_scripts_and_caches(browser: Browser) -> None:
    for path in ("/dashboard/login", *PAGES, "/dashboard/nowhere", "/dashboard/static/page.js"):
        headers = browser.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; ")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        shown = "no-cache" if "static" in path else "no-store"
        assert headers["Cache-Control"] == shown
    assert browser.get("/dashboard/static/htmx.min.js").status_code == 200
    assert browser.get("/dashboard/static/../app.py").status_code == 404
    assert browser.get("/dashboard/static/%2e%2e/app.py").status_code == 404


# What a person does with a store


def test_the_buttons_file_requests_and_pause_resume_and_disconnect_a_store(
    browser: Browser,
) -> None:
    conn, store = browser.receiver.conn, browser.receiver.connect_store()
    for action in ("sync", "realtime-on", "realtime-off"):
        answer = browser.act(store, action)
        assert answer.headers["Location"].startswith("/dashboard/requests/")
        assert "queued" in browser.get(answer.headers["Location"]).text
    filed = [(r.kind, r.mode, r.organization_id) for r in sync_requests.unfinished(conn)]
    assert filed == [
        ("sync", "incremental", "acme"),
        ("realtime", "incremental", "acme"),
        ("realtime", "off", "acme"),
    ]
    assert browser.act(store, "pause").status_code == 303
    assert integrations.get(conn, store).paused_at is not None
    assert "Paused by hand" in browser.get(CUSTOMERS).text
    assert browser.act(store, "resume").status_code == 303
    assert integrations.get(conn, store).paused_at is None
    assert "tokens are forgotten" in browser.get(f"/dashboard/stores/{store}/disconnect").text
    assert "Disable it first" not in browser.get(f"/dashboard/stores/{store}/disconnect").text
    integrations.begin_realtime(conn, store)
    assert "Disable it first" in browser.get(f"/dashboard/stores/{store}/disconnect").text
    assert browser.act(store, "disconnect").status_code == 303
    assert not integrations.get(conn, store).is_active
    ((token,),) = conn.execute('SELECT "accessToken" FROM integrations').fetchall()
    assert token is None
    assert "Disconnected" in browser.get(CUSTOMERS).text
    for path in (f"{store}/explode", "nobody/sync"):
        form = {"csrf": browser.csrf()}
        assert browser.post(f"/dashboard/stores/{path}", form).status_code == 404


def test_the_progress_of_a_request_is_told_until_it_has_ended(browser: Browser) -> None:
    conn, store = browser.receiver.conn, browser.receiver.connect_store()
    where = browser.act(store, "sync").headers["Location"]
    request_id = where.rsplit("/", 1)[1]
    sync_requests.begin(conn, [request_id], "run-1")
    conn.execute(
        """INSERT INTO sync_progress ("integrationId", "kind", "runId", "rows", "of")
           VALUES (%s, 'sync', 'run-1', 1250, 5000)""",
        [store],
    )
    for path in (where, CUSTOMERS):
        text = browser.get(path).text
        assert "Sync running: 1,250 customers so far." in text
        assert 'value="1250" max="5000"' in text
    sync_requests.finish(conn, request_id, error="acme: Shopify refused the token.")
    for path in (where, CUSTOMERS):
        assert "Sync failed: acme: Shopify refused the token." in browser.get(path).text


def test_the_form_connects_a_store_with_sealed_credentials(browser: Browser) -> None:
    form = {"organizationId": "new", "shop": "New.myshopify.com", "accessToken": "shpat_1"}
    form |= {"name": "", "clientId": " ", "clientSecret": "", "csrf": browser.csrf()}
    answer = browser.post("/dashboard/connect", form)
    assert answer.status_code == 303
    request_id = answer.headers["Location"].rsplit("/", 1)[1]
    ((_, organization, brought),) = sync_requests.brought(browser.receiver.conn, [request_id])
    assert (organization, brought.shop) == ("new", "new.myshopify.com")
    held = browser.receiver.cipher.unseal(brought.sealed)
    assert held == Credentials(access_token="shpat_1")


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({}, "organizationId"),
        ({"organizationId": "a b", "shop": SHOP, "accessToken": "t"}, "organizationId"),
        ({"organizationId": "a"}, "shop"),
        ({"organizationId": "a", "shop": "evil.example", "accessToken": "t"}, "shop"),
        ({"organizationId": "a", "shop": SHOP}, "accessToken"),
        ({"organizationId": "a", "shop": SHOP, "accessToken": "secret word"}, "accessToken"),
        ({"organizationId": "a", "shop": SHOP, "clientId": "1"}, "accessToken"),
        ({"organizationId": "a", "shop": SHOP, "accessToken": "t", "name": "\x07"}, "name"),
    ],
)
def test_a_fault_in_the_form_is_told_at_its_field_and_no_secret_comes_back(
    browser: Browser, form: dict[str, str], field: str
) -> None:
    answer = browser.post("/dashboard/connect", form | {"csrf": browser.csrf()})
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert answer.text.count('aria-invalid="true"') == 1
    assert "secret word" not in answer.text
    assert sync_requests.unfinished(browser.receiver.conn) == []


# The role


def role_url(server: ServerAddress, database_url: str) -> str:
    name = database_url.rsplit("/", 1)[1]
    assert roles.apply(server.url(name), roles.receiver_steps("pw")) == []
    return f"postgresql://shopsync_receiver:pw@{server.host}:{server.port}/{name}"


def test_the_receivers_role_suffices_for_every_page_and_action(
    database_url: str, server: ServerAddress, conn: Conn, tmp_path: Path
) -> None:
    narrow = role_url(server, database_url)
    environ = environ_of(database_url, tmp_path) | {"RECEIVER_DATABASE_URL": narrow}
    with receiver_for(environ, conn) as it:
        store = it.connect_store()
        add_people(conn, store, 1)
        ((customer,),) = conn.execute('SELECT "id" FROM customers').fetchall()
        browser = Browser(it)
        browser.log_in()
        for path in (CUSTOMERS, f"{CUSTOMERS}?q=last", f"{CUSTOMERS}/{customer}"):
            assert browser.get(path).status_code == 200
        for action in ("sync", "realtime-on", "realtime-off", "pause", "resume", "disconnect"):
            answer = browser.act(store, action)
            assert answer.status_code == 303, answer.text
            assert browser.get(answer.headers["Location"]).status_code == 200
    assert not integrations.get(conn, store).is_active


def test_a_role_with_the_rights_of_before_takes_webhooks_in_and_the_page_says_what_mends_it(
    database_url: str, server: ServerAddress, conn: Conn, tmp_path: Path
) -> None:
    narrow = role_url(server, database_url)
    conn.execute("REVOKE ALL ON customers FROM shopsync_receiver")
    columns = ", ".join(f'"{name}"' for name in customer_list_columns(conn))
    conn.execute(f"REVOKE SELECT ({columns}) ON customers FROM shopsync_receiver".encode())
    environ = environ_of(database_url, tmp_path) | {"RECEIVER_DATABASE_URL": narrow}
    with receiver_for(environ, conn) as it:
        it.connect_store()
        assert it.deliver().status_code == 200
        browser = Browser(it)
        browser.log_in()
        answer = browser.get(CUSTOMERS)
        assert answer.status_code == 503
        assert "shopsync db roles" in answer.text
        part = browser.get(CUSTOMERS, **{"HX-Request": "true", "HX-Target": "customers"})
        assert (part.status_code, "<html" in part.text) == (503, False)
        assert it.deliver().status_code == 200


def customer_list_columns(conn: Conn) -> list[str]:
    rows = conn.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'customers' "
        "AND table_schema = 'public'"
    ).fetchall()
    return [row[0] for row in rows]
