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


def test_retry_after_is_the_wait_and_nonsense_is_none() -> None:
    for text, wait in {"7": 7.0, "2.5": 2.5, "soon": None}.items():
        with pytest.raises(errors.Throttled) as caught:
            read(raw(b"", 429, retry_after=text))
        assert caught.value.wait == wait


def test_a_nul_character_becomes_one_that_postgres_can_keep() -> None:
    answer = read(raw(b'{"data": {"a": ["x\\u0000y", {"b": "\\u0000"}]}}'))
    assert answer.data == {"a": ["x\ufffdy", {"b": "\ufffd"}]}


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
