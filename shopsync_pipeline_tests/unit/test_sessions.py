"""Sessions, CSRF tokens and cursors of the customers page."""

import pytest
from starlette.requests import Request
from starlette.responses import Response

from shopsync_pipeline.db.customer_list import Place
from shopsync_pipeline.settings import Settings
from webhook_receiver.dashboard.cursors import Cursors
from webhook_receiver.dashboard.sessions import (
    COOKIE,
    FAILURES,
    Session,
    Sessions,
    fernet_key,
    safe_next,
)

APP_URL = "https://sync.example.com"


def sessions(token: str = "tok", app_url: str | None = APP_URL) -> Sessions:
    environ = {"SHOPSYNC_API_TOKEN": token} | ({"APP_URL": app_url} if app_url else {})
    return Sessions(Settings.from_env(environ), token)


def request_with(**headers: str) -> Request:
    given = {"host": "127.0.0.1:3000", **{k.replace("_", "-"): v for k, v in headers.items()}}
    raw = [(k.encode(), v.encode()) for k, v in given.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw})


def cookie_for(by: Sessions, session: Session, **headers: str) -> str:
    response = Response()
    by.give(request_with(**headers), response, session)
    return response.headers["set-cookie"]


def value_of(cookie: str) -> str:
    return cookie.split(";")[0].removeprefix(f"{COOKIE}=")


def test_a_session_comes_back_by_its_cookie_which_no_script_and_no_foreign_site_may_use() -> None:
    by = sessions()
    session = by.begin(entered=True)
    cookie = cookie_for(by, session)
    assert by.of(request_with(cookie=f"{COOKIE}={value_of(cookie)}")) == session
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/dashboard", "Max-Age=43200"):
        assert attribute in cookie


def test_a_cookie_changed_by_one_letter_is_none() -> None:
    by = sessions()
    value = value_of(cookie_for(by, by.begin(entered=False)))
    for place in range(0, len(value), 7):
        other = "A" if value[place] != "A" else "B"
        changed = value[:place] + other + value[place + 1 :]
        assert by.of(request_with(cookie=f"{COOKIE}={changed}")) is None


def test_another_token_of_the_deployment_logs_everybody_out() -> None:
    before = sessions("old")
    cookie = f"{COOKIE}={value_of(cookie_for(before, before.begin(entered=True)))}"
    assert before.of(request_with(cookie=cookie)) is not None
    assert sessions("new").of(request_with(cookie=cookie)) is None


def test_the_cookie_is_secure_where_the_page_came_by_https_whatever_a_header_says() -> None:
    by = sessions()
    session = by.begin(entered=True)
    assert "Secure" in cookie_for(by, session, host="sync.example.com")
    assert "Secure" not in cookie_for(by, session)
    assert "Secure" not in cookie_for(by, session, x_forwarded_proto="https")
    assert "Secure" not in cookie_for(sessions(app_url=None), session, host="sync.example.com")


def test_a_form_counts_only_from_our_own_page_and_session() -> None:
    by = sessions()
    mine, other = by.begin(entered=True), by.begin(entered=True)
    csrf = by.csrf(mine)
    ours = {"origin": "http://127.0.0.1:3000", "sec_fetch_site": "same-origin"}
    assert by.is_ours(request_with(**ours), mine, csrf)
    assert by.is_ours(request_with(host="sync.example.com", origin=APP_URL), mine, csrf)
    assert not by.is_ours(request_with(**ours), other, csrf)
    assert not by.is_ours(request_with(**ours), mine, "")
    for foreign in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:3000"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ):
        assert not by.is_ours(request_with(**foreign), mine, csrf)


def test_after_ten_failed_logins_nobody_may_try_for_the_rest_of_the_minute() -> None:
    by = sessions()
    for _ in range(FAILURES):
        assert by.may_try()
        by.note_failure()
    assert not by.may_try()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://evil.example/dashboard/customers",
        "//evil.example/dashboard/customers",
        "/\\evil.example",
        "/dashboard/\\evil.example",
        "javascript:alert(1)",
        "/api/webhooks/shopify",
        "/dashboard/login?next=/dashboard/login",
        "/dashboard/customers\r\nSet-Cookie: a=b",
    ],
)
def test_the_login_leads_nowhere_but_to_our_own_pages(text: str) -> None:
    assert safe_next(text) == "/dashboard/customers"


def test_the_login_leads_back_to_the_page_that_was_asked_for() -> None:
    for text in ("/dashboard/customers?q=ann&sort=name", "/dashboard/connect"):
        assert safe_next(text) == text


def test_a_cursor_tells_nobody_where_it_stands_and_counts_for_its_own_order_alone() -> None:
    cursors = Cursors(fernet_key("tok"))
    place = Place(key="ann@example.com", id="1", backwards=True)
    text = cursors.write(place, "email")
    assert text is not None
    assert "ann" not in text
    assert cursors.read(text, "email") == place
    assert cursors.read(text, "name") is None
    assert Cursors(fernet_key("other")).read(text, "email") is None
    for no_cursor in ("", "x", "é", text[:-1]):
        assert cursors.read(no_cursor, "email") is None
    assert cursors.write(None, "email") is None
