"""Waiting for points: exactly as long as the bucket needs, shared by all who ask."""

from shopsync_pipeline.shopify.ledger import Ledger, ThrottleStatus


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def status(available: float) -> ThrottleStatus:
    return ThrottleStatus(maximum=2000.0, available=available, restore_rate=100.0)


def test_before_the_first_answer_nothing_waits() -> None:
    assert Ledger(Clock()).reserve(500.0) == 0.0


def test_the_wait_is_what_is_short_by_the_restore_rate() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.settle(0.0, status(7.0))
    assert ledger.reserve(57.0) == 0.5
    clock.now += 0.25
    assert ledger.reserve(57.0) == 0.25
    clock.now += 0.25
    assert ledger.reserve(57.0) == 0.0


def test_what_one_thread_has_set_aside_another_must_wait_for() -> None:
    ledger = Ledger(Clock())
    ledger.settle(0.0, status(100.0))
    assert ledger.reserve(60.0) == 0.0
    assert ledger.reserve(60.0) == 0.2
    ledger.release(60.0)
    assert ledger.reserve(60.0) == 0.0


def test_a_report_counts_what_is_still_under_way() -> None:
    ledger = Ledger(Clock())
    ledger.settle(0.0, status(200.0))
    ledger.reserve(50.0)
    ledger.reserve(50.0)
    ledger.settle(50.0, status(150.0))  # the other 50 are not in this report yet
    assert ledger.wait(100.0) == 0.0
    assert ledger.wait(110.0) == 0.1


def test_the_bucket_never_holds_more_than_its_maximum() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.settle(0.0, status(1900.0))
    clock.now += 3600
    assert ledger.wait(2000.0) == 0.0
    assert ledger.wait(2001.0) == 0.01
