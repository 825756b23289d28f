"""Exceptions nobody expected: their kind and place are told, their text never is."""

import logging
import traceback
from io import StringIO

import pytest
from dagster_shared.error import SerializableErrorInfo

from shopsync_pipeline.errors import Fault, ShopifyError
from shopsync_pipeline.faults import ScrubbedFormatter, guarded, trace
from shopsync_pipeline.settings import checked_shop

SECRET = "ada@example.com"


def raising(error: Exception) -> None:
    """`error`, raised from one that quotes."""
    try:
        int(SECRET)
    except ValueError as cause:
        raise error from cause


def misusing() -> None:
    """An exception nobody expected, while another one is handled."""
    try:
        int(SECRET)
    except ValueError:
        checked_shop(None)  # type: ignore[arg-type]


def as_dagster_keeps_it(error: Exception) -> str:
    """Chained causes and contexts included."""
    seen = traceback.TracebackException.from_exception(error)
    return str(SerializableErrorInfo.from_traceback(seen))


def test_a_fault_names_kind_and_line_and_drags_nothing_along() -> None:
    with pytest.raises(Fault) as got, guarded():
        misusing()
    told = as_dagster_keeps_it(got.value)
    assert "AttributeError at shopsync_pipeline/settings.py:" in told
    assert "in checked_shop" in told
    assert SECRET not in told
    assert "ValueError" not in told


@pytest.mark.parametrize(
    "error", [ShopifyError("a.myshopify.com", "no answer"), KeyError("no answer")]
)
def test_what_may_pass_the_door_is_cut_off_from_what_it_was_raised_from(error: Exception) -> None:
    with pytest.raises(type(error)) as got, guarded(KeyError):
        raising(error)
    assert "no answer" in as_dagster_keeps_it(got.value)
    assert SECRET not in as_dagster_keeps_it(got.value)


@pytest.fixture
def logged() -> tuple[logging.Logger, StringIO]:
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(ScrubbedFormatter())
    logger = logging.Logger("a library")
    logger.addHandler(handler)
    return logger, out


def test_a_log_has_the_lines_of_code_and_every_kind_of_a_chain_but_no_text(
    logged: tuple[logging.Logger, StringIO],
) -> None:
    logger, out = logged
    try:
        try:
            int(SECRET)
        except ValueError as cause:
            raise KeyError(SECRET) from cause
    except KeyError:
        logger.exception("Exception in ASGI application")
    text = out.getvalue()
    assert text.index("ValueError") < text.index("KeyError")
    assert "int(SECRET)" in text  # the line, not what it met
    assert SECRET not in text


def test_asyncios_word_on_a_forgotten_task_ends_before_its_exception(
    logged: tuple[logging.Logger, StringIO],
) -> None:
    logger, out = logged
    logger.name = "asyncio"
    error = ValueError(SECRET)
    logger.error("Task exception was never retrieved\nfuture: %r", error, exc_info=error)
    assert "never retrieved" in out.getvalue()
    assert SECRET not in out.getvalue()


def test_the_message_of_an_error_of_ours_is_told_for_it_quotes_nothing() -> None:
    assert "Fault: a fault" in trace(Fault("a fault"))
