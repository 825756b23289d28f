"""What may happen in a history, with its beginning and its end."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.engine import Conn, transact
from shopsync_pipeline_tests.histories.oracle import Seen, differing
from shopsync_pipeline_tests.histories.outside import Outside, subscribe
from shopsync_pipeline_tests.histories.runs import Killed, Kind, Run, Runs
from shopsync_pipeline_tests.world import World
from webhook_receiver.verify import Inbox

LONGEST_WAIT = 300
"""Seconds between two reads of one event."""

LONGEST_LAG = 600
MOST_DRAINS = 12


class History(Outside):
    """One world from its beginning, in a database without a row."""

    def __init__(self, world: World, inbox: Inbox, conn: Conn, **beginning: Any) -> None:
        """`beginning` as of Outside."""
        super().__init__(world, inbox, conn, **beginning)
        self.runs = Runs(world)
        self._tokens = 0

    # runs

    def begin(self, kind: Kind, integration: int) -> None:
        self.runs.begin(kind, self.integration(integration))

    def run(self, kind: Kind, integration: int) -> Any:
        """From its beginning to its end."""
        return self.runs.finish(self.runs.begin(kind, self.integration(integration)))

    def hear(self, shop: int) -> None:
        """All that is on its way arrives and is read at once."""
        self.arrive(shop, len(self.shop(shop).mail), False, 1)
        for place, (_, of) in enumerate(self.connected):
            if self.shops[of] is self.shop(shop):
                self.run("drain", place)

    def go_on(self, run: int) -> None:
        """One step."""
        if self.runs.under_way:
            self.runs.step(self._run(run))

    def interrupt(self, run: int, meanwhile: Sequence[Any], after: int) -> None:
        """It goes on until it has used Postgres `after` times more; then all of `meanwhile`
        happens (names and arguments), in the middle of a step."""
        if self.runs.under_way:
            self.runs.interrupt(self._run(run), after_uses(after), lambda: self._do(meanwhile))

    def overtake(
        self,
        kind: Kind,
        integration: int,
        who: int,
        how: str,
        *,
        news: bool,
        answers: int,
        faster: Kind,
    ) -> None:
        """Between an answer that a run has got and what it writes of it, a customer changes, and
        another run hears of that and brings it. With `news` the answer tells of a change too."""
        place = integration % len(self.connected)
        shop = self.connected[place][1]
        if news:
            self.change(shop, who, "tags")
        faster_one = [("do", shop, who, how), ("arrive", shop, 1, True, 1), ("run", faster, place)]
        self._answered(kind, place, answers, faster_one)

    def disconnect_within(self, kind: Kind, integration: int, who: int, answers: int) -> None:
        """Between an answer that tells of a change and what is written of it, the store leaves."""
        place = integration % len(self.connected)
        shop = self.connected[place][1]
        self.change(shop, who, "tags")
        self.arrive(shop, 1, True, 1)
        self._answered(kind, place, answers, [("part", place, "disconnect")])

    def _answered(self, kind: Kind, place: int, answers: int, then: Sequence[Any]) -> None:
        store = self.shops[self.connected[place][1]].store
        wanted = len(store.requests) + answers
        run = self.runs.begin(kind, self.integration(place))
        self.runs.interrupt(run, lambda: len(store.requests) >= wanted, lambda: self._do(then))

    def kill(self, run: int, after: int | None = None) -> None:
        """Between two steps, or in the middle of one."""
        if not self.runs.under_way:
            return
        if after is None:
            self.runs.kill(self._run(run))
        else:
            self.runs.interrupt(self._run(run), after_uses(after), _die)

    def _do(self, what: Sequence[Any]) -> None:
        for name, *arguments in what:
            act: Callable[..., object] = getattr(self, name)
            act(*arguments)
            self.look()

    def _run(self, number: int) -> Run:
        return self.runs.under_way[number % len(self.runs.under_way)]

    def pass_waits(self) -> None:
        """Of events, of stores put off, of leases."""
        self.clock.advance(LONGEST_WAIT)
        self.world.pass_waits()
        self._conn.execute(
            """UPDATE webhook_events SET "leaseUntil" = now() - interval '1 s'
               WHERE "status" = 'claimed'"""
        )

    # operators

    def part(self, integration: int, how: str) -> None:
        organization, place = self.connected[integration % len(self.connected)]
        shop = self.shops[place]
        if how == "revoke":
            shop.store.credentials.replace_access_token(None)
        elif how == "uninstall" and shop.store.credentials.installed:
            with self._changing(shop) as store:
                store.uninstall()
        elif how == "disconnect":
            transact(
                self.world.engine.pool,
                lambda conn: integrations.disconnect(
                    conn, organization_id=organization, shop=shop.store.shop
                ),
            )

    def connect(self, integration: int) -> None:
        """With the token the store has now, and a new one where it has none."""
        organization, place = self.connected[integration % len(self.connected)]
        store = self.shops[place].store
        if store.access_token is None:
            self._tokens += 1
            store.credentials.replace_access_token(f"shpat_{self._tokens}")
        if not store.subscriptions:
            subscribe(store)
        self.world.join(organization, store)

    def redact_shop(self, shop: int) -> None:
        """As Shopify does two days after an uninstall."""
        if not self.shop(shop).store.credentials.installed:
            with self._changing(self.shop(shop)) as store:
                store.redact_shop()

    # the end

    def close(self) -> None:
        """Whatever became of it."""
        for run in [*self.runs.under_way]:
            self.runs.kill(run)

    def look(self) -> None:
        self.oracle.look(Seen.now(self._conn), self.clock.now())

    def end(self) -> None:
        """All comes to rest; then one pull and one reconcile make the table equal to the stores."""
        self._come_to_rest()
        organizations = sorted({organization for organization, _ in self.connected})
        troubles = [each.error for each in self.world.sync(*organizations) if each.error]
        troubles += [each.error for each in self.world.reconcile(*organizations) if each.error]
        assert not troubles
        self._drain_all()
        self.look()
        self.oracle.compare(Seen.now(self._conn))
        self._nothing_more_is_written(organizations)

    def _active(self) -> set[str]:
        rows = self._conn.execute('SELECT "id" FROM integrations WHERE "isActive"').fetchall()
        return {row[0] for row in rows}

    def _come_to_rest(self) -> None:
        """What a killed run began in bulk is too old by then to be taken up: it would tell of a
        store as it was."""
        for shop in self.shops:
            shop.store.clear_faults()
            shop.store.change(index_lag_seconds=0, replica_lag_seconds=0)
        self.clock.advance(LONGEST_LAG)
        for run in [*self.runs.under_way]:
            self.runs.finish(run)
        self._conn.execute('UPDATE integrations SET "bulkOperationId" = NULL, "bulkReadAt" = NULL')
        active = self._active()
        for place in range(len(self.connected)):
            if self.integration(place) in active:
                self.connect(place)
        for number, shop in enumerate(self.shops):
            self.arrive(number, len(shop.mail), False, 1)
        self.pass_waits()
        self._drain_all()

    def _drain_all(self) -> None:
        """What waits for a store that left goes on waiting."""
        for _ in range(MOST_DRAINS):
            waiting = self._waiting()
            for integration_id in waiting:
                self.runs.finish(self.runs.begin("drain", integration_id))
            if not waiting & self._active():
                return
            self.pass_waits()

    def _waiting(self) -> set[str]:
        rows = self._conn.execute(
            """SELECT DISTINCT "integrationId" FROM webhook_events
               WHERE "status" IN ('pending', 'claimed')"""
        ).fetchall()
        return {row[0] for row in rows}

    def _nothing_more_is_written(self, organizations: Sequence[str]) -> None:
        """Not by a second pull, and not by all that ever came; of a shop that was redacted nobody
        is known any more, so in its organization a deletion may be news, also one that was sent for
        the wrong shop."""
        before = Seen.now(self._conn)
        again = self.world.sync(*organizations)
        assert {each.state for each in again} <= {"synced"}
        counts = [each.result.counts for each in again if each.result]
        assert sum(each.inserted + each.updated for each in counts) == 0
        self._conn.execute(
            """UPDATE webhook_events SET "status" = 'pending', "attempts" = 0, "reads" = 0
               WHERE "status" IN ('done', 'dead') AND "organizationId" NOT IN (
                 SELECT "organizationId" FROM integrations WHERE "id" = ANY(%s))""",
            [self.oracle.forgotten],
        )
        self._drain_all()
        wrote = differing(before, Seen.now(self._conn))
        assert not wrote, f"the replay wrote {wrote}"


def after_uses(number: int) -> Callable[[], bool]:
    uses = itertools.count()
    return lambda: next(uses) >= number


def _die() -> None:
    raise Killed
