"""What an HTTP answer means, without a network."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from shopsync_pipeline import errors
from shopsync_pipeline.shopify.answers import RawAnswer, answer_of, cost_of, parse

SHOP = "a.myshopify.com"
VERSION = "2026-10"
DATE = "Tue, 24 Nov 2026 10:00:00 GMT"


def raw(body: Any, status: int = 200, **headers: str) -> RawAnswer:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return RawAnswer(status=status, headers={"date": DATE} | names, body=content)


def read(answer: RawAnswer) -> Any:
    return answer_of(SHOP, VERSION, answer, parse(SHOP, answer))


def coded(code: str, message: str = "told", data: Any = None) -> dict[str, Any]:
    return {"data": data, "errors": [{"message": message, "extensions": {"code": code}}]}


def test_a_whole_answer_gives_data_and_shopifys_clock() -> None:
    answer = read(raw({"data": {"x": 1}}, x_shopify_api_version=VERSION))
    assert answer.data == {"x": 1}
    assert answer.served_at == datetime(2026, 11, 24, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.NeedsReauth),
        (402, errors.StorePaused),
        (403, errors.NeedsScope),
        (404, errors.StoreGone),
        (423, errors.StorePaused),
        (301, errors.StoreGone),
        (429, errors.Throttled),
        (430, errors.ServerTrouble),
        (500, errors.ServerTrouble),
        (503, errors.ServerTrouble),
        (400, errors.QueryRefused),
        (405, errors.QueryRefused),
    ],
)
def test_each_status_is_its_error(status: int, kind: type[errors.ShopifyError]) -> None:
    with pytest.raises(kind) as caught:
        read(raw({"errors": "any text"}, status))
    assert SHOP in str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("THROTTLED", errors.Throttled),
        ("ACCESS_DENIED", errors.NeedsScope),
        ("SHOP_INACTIVE", errors.StorePaused),
        ("MAX_COST_EXCEEDED", errors.CostTooHigh),
        ("INTERNAL_SERVER_ERROR", errors.ServerTrouble),
        ("undefinedField", errors.QueryRefused),
    ],
)
def test_each_code_is_its_error(code: str, kind: type[errors.ShopifyError]) -> None:
    with pytest.raises(kind):
        read(raw(coded(code)))


def test_data_beside_errors_is_never_an_answer() -> None:
    with pytest.raises(errors.BrokenAnswer):
        read(raw(coded("ANY", data={"customers": {"nodes": []}})))
    with pytest.raises(errors.NeedsScope):
        read(raw(coded("ACCESS_DENIED", data={"customers": {"nodes": []}})))


def test_a_denial_decides_over_other_errors_of_the_same_answer() -> None:
    both = coded("INTERNAL_SERVER_ERROR")
    both["errors"] += coded("ACCESS_DENIED")["errors"]
    with pytest.raises(errors.NeedsScope):
        read(raw(both))


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"data": {"x"', b"[1]", b"null", b'{"a": NaN}'])
def test_what_is_not_a_json_object_is_a_broken_answer(body: bytes) -> None:
    with pytest.raises(errors.BrokenAnswer):
        read(raw(body))


@pytest.mark.parametrize("payload", [{}, {"data": None}, {"data": []}])
def test_an_answer_without_data_is_broken(payload: Any) -> None:
    with pytest.raises(errors.BrokenAnswer):
        read(raw(payload))


def test_a_search_warning_says_that_the_filter_was_ignored() -> None:
    search = [{"path": ["customers"], "warnings": [{"message": "Input not a date"}]}]
    with pytest.raises(errors.FilterIgnored, match="Input not a date"):
        read(raw({"data": {}, "extensions": {"search": search}}))
    read(raw({"data": {}, "extensions": {"search": [{"warnings": []}]}}))


def test_another_api_version_is_refused_and_named() -> None:
    with pytest.raises(errors.WrongApiVersion, match="2026-10, answered by 2026-01"):
        read(raw({"data": {}}, x_shopify_api_version="2026-01"))


def test_a_redirect_names_only_the_other_host() -> None:
    with pytest.raises(errors.StoreGone, match=r"new\.myshopify\.com") as caught:
        read(raw(b"", 302, location="https://new.myshopify.com/admin?token=secret"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("7", 7.0),
        ("2.5", 2.5),
        ("-3", 0.0),
        ("86400", 86400.0),
        ("Tue, 24 Nov 2026 10:01:30 GMT", 90.0),  # on the clock of the answer's own Date
        ("Tue, 24 Nov 2026 09:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("1e999", None),
        ("", None),
    ],
)
def test_retry_after_is_the_wait_and_nonsense_is_none(text: str, wait: float | None) -> None:
    with pytest.raises(errors.Throttled) as caught:
        read(raw(b"", 429, retry_after=text))
    assert caught.value.wait == wait


@pytest.mark.parametrize("given", ["[API] Invalid API key", 7, True, {"a": []}, ["x"], [None]])
def test_errors_of_another_form_are_a_broken_answer(given: Any) -> None:
    """A number, or an extension that was a list, had ended the sync as a fault of Shopsync."""
    with pytest.raises(errors.BrokenAnswer, match="not documented"):
        read(raw({"errors": given}))


@pytest.mark.parametrize("extensions", [None, [], "x", {"code": ["THROTTLED"]}, {"code": {}}])
def test_an_error_with_other_extensions_is_a_refusal(extensions: Any) -> None:
    with pytest.raises(errors.QueryRefused, match="the query: told"):
        read(raw({"errors": [{"message": "told", "extensions": extensions}]}))


def test_shopifys_own_full_stop_is_not_doubled() -> None:
    with pytest.raises(errors.QueryRefused) as caught:
        read(raw({"errors": [{"message": "Odd."}]}))
    assert "query: Odd. This is" in str(caught.value)


@pytest.mark.parametrize("place", ["https://[", "", "/admin", "https://"])
def test_a_redirect_to_no_host_is_told_without_it(place: str) -> None:
    with pytest.raises(errors.StoreGone, match="redirects to another address"):
        read(raw(b"", 301, location=place))


@pytest.mark.parametrize("date", ["", "yesterday", "Tue, 24 Nov 2026", "Tue, 24 Nov 9999 10 +9999"])
def test_a_date_that_is_none_is_no_clock(date: str) -> None:
    assert (
        read(RawAnswer(status=200, headers={"date": date}, body=b'{"data": {}}')).served_at is None
    )


def test_a_nul_character_becomes_one_that_postgres_can_keep() -> None:
    answer = read(raw(b'{"data": {"a": ["x\\u0000y", {"b": "\\u0000"}]}}'))
    assert answer.data == {"a": ["x\ufffdy", {"b": "\ufffd"}]}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'"x \\ud83d y"', "x \ufffd y"),
        (b'"\\ude00\\ud83d"', "\ufffd\ufffd"),
        (b'"\\ud83d\\ude00 \\ud83d"', "\U0001f600 \ufffd"),
        (b'"\\\\ud83d"', "\\ud83d"),
        (b'"\xff \\u0000"', "\ufffd \ufffd"),
    ],
)
def test_half_a_character_becomes_one_that_postgres_can_keep(sent: bytes, kept: str) -> None:
    """One customer's note with half an emoji had made every answer that held it a broken one."""
    assert read(raw(b'{"data": {"note": ' + sent + b"}}")).data == {"note": kept}


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": "\\ud83d',
        b"[" * 100_000,
        b'{"data": NaN, "a": "\xff"}',
        b'{"data": ' + b"[" * 1000 + b'"\\u0000"' + b"]" * 1000 + b"}",
    ],
)
def test_what_is_no_json_stays_broken_however_odd_its_text(body: bytes) -> None:
    with pytest.raises(errors.BrokenAnswer):
        read(raw(body))


@pytest.mark.parametrize("rate", [0, -1, "nan"])
def test_a_bucket_that_never_fills_is_not_believed(rate: Any) -> None:
    status = {"maximumAvailable": 2000.0, "currentlyAvailable": 3.0, "restoreRate": rate}
    with pytest.raises(ValueError, match="never fills"):
        cost_of({"extensions": {"cost": {"requestedQueryCost": 1, "throttleStatus": status}}})


def test_the_cost_of_a_throttled_answer_is_read_too() -> None:
    status = {"maximumAvailable": 2000.0, "currentlyAvailable": 3.0, "restoreRate": 100.0}
    payload = {
        "extensions": {
            "cost": {"requestedQueryCost": 57, "actualQueryCost": None, "throttleStatus": status}
        }
    }
    cost = cost_of(payload)
    assert cost is not None
    assert (cost.requested, cost.spent, cost.status.available) == (57.0, 0.0, 3.0)


def test_what_shopify_echoes_of_people_and_tokens_is_not_told() -> None:
    echo = (
        "Variable $q of type String: 'ada@example.com', +4915112345678, +49 151 12345678, "
        "shpat_0123abc is invalid"
    )
    with pytest.raises(errors.QueryRefused) as refused:
        read(raw({"errors": [{"message": echo}]}))
    told = str(refused.value)
    assert "Variable $q of type String" in told
    assert "is invalid" in told
    for secret in ("ada", "example", "4915", "1234", "shpat"):
        assert secret not in told


def test_an_address_at_the_end_of_what_is_told_is_left_out_too() -> None:
    """It had been cut in two before it was looked for."""
    with pytest.raises(errors.QueryRefused) as refused:
        read(raw({"errors": [{"message": "x" * 189 + " ada.lovelace@example.com"}]}))
    assert "ada" not in str(refused.value)
