"""The state machine that chooses among a History's verbs, and looks after each of them."""

import sys
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from shopsync_pipeline.db.engine import Conn
from shopsync_pipeline_tests.histories.history import History
from shopsync_pipeline_tests.histories.outside import WAYS
from shopsync_pipeline_tests.histories.runs import small_numbers
from shopsync_pipeline_tests.world import World
from webhook_receiver.verify import Inbox

NEVER = 1_000_000

shops = st.integers(0, 2)
integrations = st.integers(0, 3)
whos = st.integers(0, 6)
ways = st.sampled_from([*WAYS])
kinds = st.sampled_from(["pull", "full pull", "drain", "reconcile"])
runs = st.integers(0, 3)
touches = st.integers(0, 14)
answers = st.integers(1, 3)
faster_kinds = st.sampled_from(["drain", "drain", "reconcile", "pull"])
seconds = st.sampled_from([1, 0.001, 20, 70, 400, 1000])
topics = st.sampled_from(
    [
        "customers/update",
        "customers/create",
        "customers/delete",
        "customers/purchasing_summary",
        "customers/email_marketing_consent_update",
        "customer.tags_added",
    ]
)
TROUBLES: list[tuple[str, dict[str, Any]]] = [
    ("throttled", {}),
    ("status", {"status": 500, "times": 2}),
    ("status", {"status": 500, "times": 6}),
    ("status", {"status": 401}),
    ("status", {"status": 402}),
    ("html", {}),
    ("reset", {}),
    ("truncated", {}),
    ("answer_lost", {}),
    ("data_with_errors", {}),
    ("error", {}),
    ("other_shop", {}),
    ("cursor_refused", {"times": 1}),
    ("cursor_refused", {"times": 4}),
    ("same_cursor", {}),
    ("ignored_filter", {}),
    ("ignored_filter", {"silent": True}),
    ("max_cost_above", {"first": 1, "times": 1}),
    ("null_nodes", {}),
    ("bulk_end", {"status": "FAILED"}),
    ("bulk_end", {"status": "CANCELED"}),
    ("bulk_short", {}),
    ("bulk_no_url", {}),
    ("status", {"status": 404, "operation": "bulk_file"}),
    ("reset", {"operation": "bulk_file", "bytes": 500}),
]


def act(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), *arguments)


MEANWHILE = st.lists(
    st.one_of(
        act("change", shops, whos, ways),
        act("delete", shops, whos),
        act("create", shops),
        act("merge", shops, whos, whos),
        act("ask_to_be_forgotten", shops, whos),
        act("arrive", shops, st.integers(1, 5), st.booleans(), st.just(1)),
        act("run", kinds, integrations),
        act("begin", kinds, integrations),
        act("go_on", runs),
        act("kill", runs),
        act("pass_time", seconds),
        act("part", integrations, st.just("disconnect")),
        act("connect", integrations),
    ),
    min_size=1,
    max_size=3,
)


class Stage:
    """What the histories of one shard share: a simulator, a database, an engine."""

    def __init__(self, world: World, conn: Conn) -> None:
        self.world = world
        self.conn = conn
        self.inbox = Inbox(world.engine.settings)
        self.done = 0


class Machine(RuleBasedStateMachine):
    """Only names the verbs of a History and chooses among them; bound to a stage by a shard."""

    stage: Stage
    history: History
    reads_lag = False

    @initialize(
        count=st.integers(1, 3),
        customers=st.sampled_from([4, 2, 8, 0]),
        ahead=st.sampled_from([0, -300, 300]),
        bulk=st.sampled_from([False, False, True]),
        bulk_seconds=st.sampled_from([0, 30]),
        snapshot=st.sampled_from(["created", "completed"]),
        lag=st.sampled_from([0, 0, 60, 600]),
        loaded=st.booleans(),
    )
    def there_are_some_shops(
        self,
        count: int,
        customers: int,
        ahead: int,
        bulk: bool,
        bulk_seconds: int,
        snapshot: str,
        lag: float,
        loaded: bool,
    ) -> None:
        self.numbers = small_numbers(bulk_above=4 if bulk else NEVER)
        self.numbers.__enter__()
        self.history = History(
            self.stage.world,
            self.stage.inbox,
            self.stage.conn,
            shops=count,
            customers=customers,
            ahead=ahead,
        )
        for shop in self.history.shops:
            shop.store.change(bulk_seconds=bulk_seconds, bulk_snapshot=snapshot)
            shop.past.in_bulk = bulk
        for place in range(count):
            self.history.lag(place, lag)
        if self.reads_lag:
            self.history.lag_behind(5)
        for place in range(len(self.history.connected)) if loaded else ():
            self.history.run("pull", place)

    # merchants

    @rule(shop=shops)
    def a_customer_is_created(self, shop: int) -> None:
        self.history.create(shop)

    @rule(shop=shops, who=whos, how=ways)
    def a_customer_changes(self, shop: int, who: int, how: str) -> None:
        self.history.change(shop, who, how)

    @rule(shop=shops, how=ways)
    def all_customers_change(self, shop: int, how: str) -> None:
        self.history.change_all(shop, how)

    @rule(shop=shops, who=whos)
    def a_customer_is_deleted(self, shop: int, who: int) -> None:
        self.history.delete(shop, who)

    @rule(shop=shops, who=whos, into=whos)
    def a_customer_is_merged(self, shop: int, who: int, into: int) -> None:
        self.history.merge(shop, who, into)

    @rule(shop=shops)
    def a_deleted_customer_is_restored(self, shop: int) -> None:
        self.history.restore(shop)

    @rule(shop=shops, who=whos)
    def a_person_asks_to_be_forgotten(self, shop: int, who: int) -> None:
        self.history.ask_to_be_forgotten(shop, who)

    # Shopify and time

    @rule(much=seconds)
    def time_passes(self, much: float) -> None:
        self.history.pass_time(much)

    @rule(shop=shops, lag=st.sampled_from([600, 60, 5, 0]))
    def the_index_lags(self, shop: int, lag: float) -> None:
        self.history.lag(shop, lag)

    @rule(shop=shops, trouble=st.sampled_from(TROUBLES), after=st.integers(0, 2))
    def a_store_has_trouble(
        self, shop: int, trouble: tuple[str, dict[str, Any]], after: int
    ) -> None:
        kind, options = trouble
        self.history.trouble(shop, kind, after=after, **options)

    # webhooks

    @rule(shop=shops, count=st.integers(1, 20), backwards=st.booleans(), copies=st.integers(1, 2))
    def webhooks_arrive(self, shop: int, count: int, backwards: bool, copies: int) -> None:
        self.history.arrive(shop, count, backwards, copies)

    @rule(shop=shops, who=whos, how=ways | st.sampled_from(["create", "delete"]))
    def something_is_heard_of_at_once(self, shop: int, who: int, how: str) -> None:
        self.history.do(shop, who, how)
        self.history.hear(shop)

    @rule(shop=shops, which=whos)
    def a_webhook_is_lost(self, shop: int, which: int) -> None:
        self.history.lose(shop, which)

    @rule(shop=shops, which=whos, new=st.sampled_from([None, "late", "later"]), at=shops)
    def an_old_webhook_comes_again(self, shop: int, which: int, new: str | None, at: int) -> None:
        self.history.arrive_again(shop, which, new, at)

    @rule(
        shop=shops,
        topic=topics,
        owner=shops,
        who=whos,
        ahead=st.sampled_from([None, -90_000, -60, 0, 60, 90_000]),
    )
    def a_forged_hint_arrives(
        self, shop: int, topic: str, owner: int, who: int, ahead: float | None
    ) -> None:
        self.history.forge(shop, topic, owner, who, ahead)

    # runs

    @rule(kind=kinds, integration=integrations)
    def a_run_does_its_work(self, kind: Any, integration: int) -> None:
        self.history.run(kind, integration)

    @precondition(lambda self: len(self.history.runs.under_way) < 3)
    @rule(kind=kinds, integration=integrations, steps=st.integers(0, 2))
    def a_run_begins(self, kind: Any, integration: int, steps: int) -> None:
        self.history.begin(kind, integration)
        for _ in range(steps):
            self.history.go_on(-1)

    @precondition(lambda self: self.history.runs.under_way)
    @rule(run=runs, steps=st.integers(1, 4))
    def a_run_goes_on(self, run: int, steps: int) -> None:
        for _ in range(steps):
            self.history.go_on(run)

    @rule(
        kind=kinds,
        integration=integrations,
        who=whos,
        how=ways,
        news=st.booleans(),
        answers=answers,
        faster=faster_kinds,
    )
    def a_run_is_overtaken_by_a_change(
        self, kind: Any, integration: int, who: int, how: str, **more: Any
    ) -> None:
        self.history.overtake(kind, integration, who, how, **more)

    @rule(
        kind=kinds,
        integration=integrations,
        who=whos,
        news=st.booleans(),
        answers=answers,
        faster=faster_kinds,
    )
    def a_run_is_overtaken_by_a_deletion(
        self, kind: Any, integration: int, who: int, **more: Any
    ) -> None:
        self.history.overtake(kind, integration, who, "delete", **more)

    @rule(kind=kinds, integration=integrations, who=whos, answers=answers)
    def a_run_is_overtaken_by_a_disconnection(
        self, kind: Any, integration: int, who: int, answers: int
    ) -> None:
        self.history.disconnect_within(kind, integration, who, answers)

    @precondition(lambda self: self.history.runs.under_way)
    @rule(run=runs, meanwhile=MEANWHILE, after=touches)
    def in_the_middle_of_a_run(self, run: int, meanwhile: list[Any], after: int) -> None:
        self.history.interrupt(run, meanwhile, after)

    @precondition(lambda self: self.history.runs.under_way)
    @rule(run=runs, after=st.none() | touches)
    def a_run_is_killed(self, run: int, after: int | None) -> None:
        self.history.kill(run, after)

    @rule()
    def waits_and_leases_end(self) -> None:
        self.history.pass_waits()

    # operators

    @rule(integration=integrations, how=st.sampled_from(["disconnect", "uninstall", "revoke"]))
    def a_store_is_lost(self, integration: int, how: str) -> None:
        self.history.part(integration, how)

    @rule()
    def all_stores_are_connected(self) -> None:
        for place in range(len(self.history.connected)):
            self.history.connect(place)

    @rule(shop=shops)
    def two_days_after_an_uninstall_the_shop_is_redacted(self, shop: int) -> None:
        self.history.redact_shop(shop)

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        self.history.look()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and hasattr(self, "history"):
                self.history.end()
                self.stage.done += 1
        finally:
            self.close()

    def close(self) -> None:
        if hasattr(self, "history"):
            self.history.close()
        if hasattr(self, "numbers"):
            self.numbers.__exit__(None, None, None)


class LaggingMachine(Machine):
    """Reads by id come from a replica that may be some seconds behind."""

    reads_lag = True

    @rule(lag=st.sampled_from([5, 0]))
    def reads_by_id_lag(self, lag: float) -> None:
        self.history.lag_behind(lag)
