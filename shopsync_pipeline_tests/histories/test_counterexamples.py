"""What histories have found, as short as it became."""

import pytest

from shopsync_pipeline_tests.histories.history import History
from shopsync_pipeline_tests.histories.machine import Stage


@pytest.fixture
def history(stage: Stage) -> History:
    return History(stage.world, stage.inbox, stage.conn, shops=2, customers=4, ahead=0)


def test_a_deletion_told_to_the_organizations_other_shop_keeps_no_redaction_out(
    history: History,
) -> None:
    """The other shop's tombstone of an id it never had was in the way, and the person came back."""
    history.forge(shop=1, topic="customers/delete", owner=0, who=0, ahead=None)
    history.hear(1)
    history.ask_to_be_forgotten(shop=0, who=0)
    history.hear(0)
    history.look()
    history.restore(0)
    history.end()


def test_who_was_found_deleted_by_a_hint_dated_ahead_may_come_back_with_an_earlier_date(
    history: History,
) -> None:
    """The oracle wanted the hint's date of a row that a later read by id had revived."""
    history.forge(shop=0, topic="customers/update", owner=0, who=0, ahead=60)
    history.delete(0, 0)
    history.hear(0)
    history.look()
    history.restore(0)
    history.hear(0)
    history.end()


def test_what_one_store_is_told_of_another_stores_customer_leaves_that_row_as_it_is(
    history: History,
) -> None:
    """The oracle wanted the hint's date of the other store's row, where a deletion was told too."""
    for place in range(len(history.connected)):
        history.run("pull", place)
    history.forge(shop=1, topic="customers/create", owner=0, who=1, ahead=-90_000)
    history.forge(shop=1, topic="customers/delete", owner=0, who=1, ahead=None)
    history.end()
