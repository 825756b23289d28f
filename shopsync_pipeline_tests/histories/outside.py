"""The world outside: shops, what merchants and Shopify do there, and the webhooks that tell of it.

Numbers of shops, customers and integrations are taken modulo how many there are, so that any
number names one. All that happens is told to the oracle.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from shopify_simulator.deliveries import signature
from shopify_simulator.stores import Store
from shopsync_pipeline.db.engine import Conn, transact
from shopsync_pipeline.shopify.webhooks import delivery_of
from shopsync_pipeline_tests.histories.oracle import Oracle, Past, Told
from shopsync_pipeline_tests.world import World
from webhook_receiver.verify import Inbox, Unverified

SHOPS = tuple(f"{letter}.myshopify.com" for letter in "abc")
CONNECTED = (("acme", 0), ("bell", 0), ("bell", 1), ("cole", 2))
"""Organization and shop: one shop in two organizations, one organization with two shops. The third
shop has the ids of the first."""

SECRET = "signs everything"
NOWHERE = "https://receiver.example/hook"
SCOPES = ["read_customers", "read_customer_merge"]
TOPICS = (
    *("CUSTOMERS_CREATE", "CUSTOMERS_UPDATE", "CUSTOMERS_DELETE", "CUSTOMERS_ENABLE"),
    *("CUSTOMERS_DISABLE", "CUSTOMERS_MERGE", "CUSTOMERS_PURCHASING_SUMMARY"),
    *("CUSTOMERS_EMAIL_MARKETING_CONSENT_UPDATE", "CUSTOMERS_MARKETING_CONSENT_UPDATE"),
    *("CUSTOMER_TAGS_ADDED", "CUSTOMER_TAGS_REMOVED", "APP_UNINSTALLED", "SHOP_UPDATE"),
)
WAYS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "note": lambda was: {"note": "b" if was["note"] == "a" else "a"},
    "tags": lambda was: {"tags": [] if was["tags"] else ["vip", "new"]},
    "consent": lambda was: {"defaultEmailAddress": {"marketingState": other_consent(was)}},
    "state": lambda was: {"state": "DISABLED" if was["state"] == "ENABLED" else "ENABLED"},
    "order": lambda was: {
        "touch": False,
        "numberOfOrders": 1 + int(was["numberOfOrders"]) % 2,
        "amountSpent": {"amount": "7.50"},
    },
    "silently": lambda was: {"touch": False, "locale": "fr" if was["locale"] == "en" else "en"},
}
"""What may change of a customer; without `touch` no `updatedAt` moves, and of the last nothing is
told."""

LEGAL = ("customers/redact", "shop/redact")
TELL_A_TIME = ("customers/create", "customers/update", "customers/enable", "customers/disable")

Mail = dict[str, Any]


@dataclass(kw_only=True)
class Shop:
    """`mail` are deliveries on their way, `sent` those that arrived once."""

    store: Store
    past: Past
    mail: list[Mail] = field(default_factory=list)
    sent: list[Mail] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)

    def customer(self, who: int) -> int | None:
        ids = sorted(self.past.records)
        return ids[who % len(ids)] if ids else None


class Outside:
    """The shops and who is connected with them."""

    def __init__(
        self,
        world: World,
        inbox: Inbox,
        conn: Conn,
        *,
        shops: int,
        customers: int,
        ahead: float,
    ) -> None:
        """`conn` is the oracle's; `ahead` seconds Shopify's clock goes before Postgres's."""
        self.world = world
        self.clock = world.simulator.clock
        self.oracle = Oracle()
        self._inbox = inbox
        self._conn = conn
        self._forged = 0
        clear(conn)
        self.clock.set(datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=ahead - 3600))
        self.shops = [self._opened(place, customers) for place in range(shops)]
        self.clock.advance(3600)  # so all is indexed
        self.connected = [each for each in CONNECTED if each[1] < shops]
        for organization, place in self.connected:
            world.join(organization, self.shops[place].store)
        found = conn.execute('SELECT "organizationId", "shop", "id" FROM integrations').fetchall()
        ids: dict[tuple[str, str], str] = {(each[0], each[1]): each[2] for each in found}
        self._ids = [ids[organization, SHOPS[place]] for organization, place in self.connected]

    def _opened(self, place: int, customers: int) -> Shop:
        store = self.world.simulator.add_store(
            SHOPS[place],
            customers=0 if place == 2 else customers,
            seed=place,
            scopes=SCOPES,
            webhook_secret=SECRET,
            webhook_hold=True,
            compliance_uri=NOWHERE,
        )
        for record in self.world.simulator.store(SHOPS[0]).customers() if place == 2 else ():
            same = {name: record[name] for name in ("createdAt", "updatedAt")}
            store.create(id=record["legacyResourceId"], firstName="Of the third", **same)
        past = self.oracle.watch(store.shop, store.customers(), self.clock.now())
        subscribe(store)
        return Shop(store=store, past=past)

    # whom a number means

    def shop(self, number: int) -> Shop:
        return self.shops[number % len(self.shops)]

    def integration(self, number: int) -> str:
        return self._ids[number % len(self._ids)]

    @contextmanager
    def _changing(self, shop: Shop) -> Iterator[Store]:
        yield shop.store
        shop.past.note(shop.store.customers(), self.clock.now())
        shop.mail += shop.store.deliveries
        shop.store.clear_deliveries()

    # merchants

    def create(self, shop: int) -> None:
        with self._changing(self.shop(shop)) as store:
            store.create(note="new")

    def change(self, shop: int, who: int, how: str) -> None:
        """To the other of two states."""
        number = self.shop(shop).customer(who)
        if number is not None:
            with self._changing(self.shop(shop)) as store:
                store.edit(number, **WAYS[how](store.customer(number)))

    def do(self, shop: int, who: int, how: str) -> None:
        """A change, a deletion, or a creation."""
        if how == "create":
            self.create(shop)
        elif how == "delete":
            self.delete(shop, who)
        else:
            self.change(shop, who, how)

    def change_all(self, shop: int, how: str) -> None:
        for who in range(len(self.shop(shop).past.records)):
            self.change(shop, who, how)

    def delete(self, shop: int, who: int) -> None:
        number = self.shop(shop).customer(who)
        if number is not None:
            with self._changing(self.shop(shop)) as store:
                store.delete(number)
            self.shop(shop).deleted.append(number)

    def merge(self, shop: int, who: int, into: int) -> None:
        lost, kept = self.shop(shop).customer(who), self.shop(shop).customer(into)
        if lost is not None and kept is not None and lost != kept:
            with self._changing(self.shop(shop)) as store:
                store.merge(lost, into=kept)

    def restore(self, shop: int) -> None:
        """Who was deleted or redacted last is there again, under the same id."""
        deleted = self.shop(shop).deleted
        if deleted:
            with self._changing(self.shop(shop)) as store:
                store.create(id=deleted.pop(), note="restored")

    def ask_to_be_forgotten(self, shop: int, who: int) -> None:
        number = self.shop(shop).customer(who)
        if number is not None:
            with self._changing(self.shop(shop)) as store:
                store.request_redaction(number)
            self.shop(shop).deleted.append(number)

    # Shopify

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def lag(self, shop: int, index: float) -> None:
        past = self.shop(shop).past
        past.index_lag = max(past.index_lag, timedelta(seconds=index))
        self.shop(shop).store.change(index_lag_seconds=index)

    def lag_behind(self, seconds: float) -> None:
        """Reads by id come from a replica from now on, in all shops."""
        for shop in self.shops:
            shop.past.reads_lag = shop.past.reads_lag or seconds > 0
            shop.store.change(replica_lag_seconds=seconds)

    def trouble(self, shop: int, kind: str, **options: Any) -> None:
        past = self.shop(shop).past
        past.reads_lie = past.reads_lie or kind == "null_nodes"
        self.shop(shop).store.fault(kind, **options)

    # webhooks

    def arrive(self, shop: int, count: int, backwards: bool, copies: int) -> None:
        """The first or the last of what is on its way."""
        mail = self.shop(shop).mail
        chosen = mail[-count:][::-1] if backwards else mail[:count]
        for each in chosen:
            mail.remove(each)
            for _ in range(copies):
                self._deliver(self.shop(shop), each)

    def lose(self, shop: int, which: int) -> None:
        """What the law asks for is sent again until it arrives."""
        mail = [each for each in self.shop(shop).mail if each["topic"] not in LEGAL]
        if mail:
            self.shop(shop).mail.remove(mail[which % len(mail)])

    def arrive_again(self, shop: int, which: int, webhook_id: str | None, at: int) -> None:
        """What came once comes again, perhaps under another id, or at another shop: its headers
        are not signed."""
        sent = self.shop(shop).sent
        if sent:
            mail = sent[which % len(sent)]
            self._deliver(self.shop(at), mail | {"webhookId": webhook_id or mail["webhookId"]})

    def forge(self, shop: int, topic: str, owner: int, who: int, ahead: float | None) -> None:
        """A hint about a customer of `owner`, whose `updated_at` is `ahead` of now."""
        number = self.shop(owner).customer(who) or 17
        body: dict[str, Any] = {"id": number, "customer_id": number}
        body["customerId"] = f"gid://shopify/Customer/{number}"
        if ahead is not None:
            moment = self.clock.now() + timedelta(seconds=ahead)
            body["updated_at"] = moment.isoformat(timespec="seconds")
        self._forged += 1
        mail = {"topic": topic, "webhookId": f"forged {self._forged}"}
        self._deliver(self.shop(shop), mail | {"body": orjson.dumps(body).decode()})

    def _deliver(self, shop: Shop, mail: Mail) -> None:
        body = mail["body"].encode()
        headers = {
            "X-Shopify-Topic": mail["topic"],
            "X-Shopify-Shop-Domain": shop.store.shop,
            "X-Shopify-Webhook-Id": mail["webhookId"],
            "X-Shopify-Hmac-Sha256": signature(SECRET, body),
        }
        delivery = delivery_of([(k.encode(), v.encode()) for k, v in headers.items()], body)
        heard = self._who_hears(shop.store.shop, mail["topic"] in LEGAL)
        try:
            transact(self.world.engine.pool, lambda conn: self._inbox.take(conn, delivery))
        except Unverified:
            assert not heard
            return
        shop.sent.append(mail)
        for integration_id in heard:
            self.oracle.acknowledged.setdefault((integration_id, mail["webhookId"]), told_by(mail))

    def _who_hears(self, shop: str, left_ones_too: bool) -> list[str]:
        rows = self._conn.execute(
            'SELECT "id" FROM integrations WHERE "shop" = %s AND ("isActive" OR %s)',
            [shop, left_ones_too],
        ).fetchall()
        return [row[0] for row in rows]


def other_consent(record: dict[str, Any]) -> str:
    email = record["defaultEmailAddress"] or {}
    return "UNSUBSCRIBED" if email.get("marketingState") == "SUBSCRIBED" else "SUBSCRIBED"


def told_by(mail: Mail) -> Told:
    body = orjson.loads(mail["body"])
    at = body.get("updated_at") if mail["topic"] in TELL_A_TIME else None
    found = re.findall(r'(?:Customer/|"(?:id|customer_id)":)([0-9]+)', mail["body"])
    return Told(
        topic=mail["topic"],
        ids=frozenset(map(int, found)),
        updated_at=datetime.fromisoformat(at).replace(microsecond=0) if at else None,
    )


def subscribe(store: Store) -> None:
    for topic in TOPICS:
        store.subscribe(topic, NOWHERE)


def clear(conn: Conn) -> None:
    """Deleting a handful of rows is cheaper than truncating a dozen tables."""
    tables = conn.execute(
        """SELECT quote_ident(tablename) FROM pg_tables
           WHERE schemaname = 'public' AND tablename <> 'shopsync_schema_version'
           ORDER BY tablename = 'integrations'"""
    ).fetchall()
    conn.execute("; ".join(f"DELETE FROM {name}" for (name,) in tables))
