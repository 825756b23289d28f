"""How fast the customers page answers on a table of a million rows: whole pages, and the list alone
as htmx asks for it, from a receiver over HTTP, against the limit of 200 ms.

ROWS as an argument takes another number of rows.
"""

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests as http

from benchmarks.plot import Bar
from benchmarks.stage import database, environment, folder, report
from shopsync_pipeline.db import integrations
from shopsync_pipeline.db.customer_list import ORDERS
from shopsync_pipeline.db.engine import connect
from shopsync_pipeline.settings import Settings
from webhook_receiver.server import running_receiver

ROWS = 1_000_000
STORES = 40
TIMES = 15
PAGES_DEEP = 10
TOKEN = "bench"
NO_STORES = "http://127.0.0.1:9"
LIST_ALONE = {"HX-Request": "true", "HX-Target": "customers"}
LIMIT_MS = 200.0

# Names repeat as people's do; a third has no phone, a tenth no email; 1 of 50 is deleted. The first
# store has half of all customers, the others share the rest.
FILL = """
INSERT INTO customers ("organizationId", "integrationId", "shopifyId", "email", "phone",
  "firstName", "lastName", "name", "totalSpent", "currency", "ordersCount", "shopifyUpdatedAt",
  "updatedAt", "deletedAt", "lastSyncedAt", "lastSyncRunId", "lastSyncVia")
SELECT 'org' || s, i."id", 7000000000000 + g,
  CASE WHEN g %% 10 > 0 THEN lower(first || '.' || last || g || '@example.com') END,
  CASE WHEN g %% 3 > 0 THEN '+45' || (20000000 + (g * 7919::bigint) %% 79999999) END,
  first, last, first || ' ' || last, (g * 37 %% 100000) / 100.0, 'EUR', g %% 40,
  now() - g * interval '1 s', now() - (g * 7919::bigint %% %(rows)s) * interval '1 s',
  CASE WHEN g %% 50 = 0 THEN now() END, now(), 'bench', 'BULK'
FROM (
  SELECT g, CASE WHEN g %% 2 = 0 THEN 0 ELSE g / 2 %% %(stores)s END AS s,
    (ARRAY['Anna','Bo','Carl','Dina','Eva','Finn','Gry','Hans','Ida','Jens'])[1 + g / 3 %% 10]
      || left(md5((g %% 500)::text), 3) AS first,
    initcap(translate(left(md5((g %% 20000)::text), 7), '0123456789', 'ghijklmnop')) AS last
  FROM generate_series(1, %(rows)s) AS g
) AS people JOIN integrations i ON i."organizationId" = 'org' || s
"""


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with ExitStack() as stack:
        home = stack.enter_context(folder())
        url = stack.enter_context(database(home))
        stores = _filled(url, rows)
        given = {**environment(home, url, NO_STORES), "SHOPSYNC_API_TOKEN": TOKEN}
        receiver = stack.enter_context(running_receiver(Settings.from_env(given)))
        page = Page(receiver)
        figures = [_figure(rows, *look) for look in page.looks(stores)]
    bars = [Bar(label=f["what"], value=f["median, ms"], aim=LIMIT_MS) for f in figures]
    report("customers_page", figures, {f"the page of {rows:,} customers, milliseconds": bars})


def _filled(url: str, rows: int) -> list[str]:
    """The stores' ids."""
    with connect(url) as conn:
        stores = [
            integrations.connect(
                conn, organization_id=f"org{n}", shop=f"s{n}.myshopify.com", name=f"S{n}", shop_id=n
            ).id
            for n in range(STORES)
        ]
        conn.execute(FILL, {"rows": rows, "stores": STORES})
        conn.execute("VACUUM ANALYZE customers")
    return stores


def _figure(rows: int, name: str, ask: Callable[[], str]) -> dict[str, Any]:
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - began) * 1000)
    median = statistics.median(taken)
    return {
        "what": name,
        "rows": rows,
        "median, ms": round(median, 1),
        "highest, ms": round(max(taken), 1),
        "median / limit": round(median / LIMIT_MS, 3),
    }


class Page:
    """As a person who has logged in asks for it."""

    def __init__(self, receiver: str) -> None:
        self._address = f"{receiver}/dashboard/customers"
        self._session = http.Session()
        login = f"{receiver}/dashboard/login"
        (csrf,) = re.findall('name="csrf" value="([^"]+)"', self._session.get(login).text)
        self._session.post(login, data={"csrf": csrf, "token": TOKEN}).raise_for_status()

    def ask(self, parameters: Mapping[str, str], headers: Mapping[str, str] = LIST_ALONE) -> str:
        address = f"{self._address}?{urlencode(parameters)}"
        answer = self._session.get(address, headers=headers)
        answer.raise_for_status()
        return answer.text

    def looks(self, stores: list[str]) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "the whole page", partial(self.ask, {}, {})
        yield "the whole page, searched", partial(self.ask, {"q": "Ida1f0 E"}, {})
        for order in ORDERS:
            wanted = {"sort": order}
            yield f"list by {order}", partial(self.ask, wanted)
            yield f"page {PAGES_DEEP} by {order}", partial(self.ask, self._deep(wanted))
        largest, small = {"store": stores[0]}, {"store": stores[7]}
        yield "list of the largest store by name", partial(self.ask, {"sort": "name", **largest})
        yield "list of a small store by spent", partial(self.ask, {"sort": "spent", **small})
        for what, text in SEARCHES.items():
            yield f"search: {what}", partial(self.ask, {"q": text})
        yield "search: one letter in a small store", partial(self.ask, {"q": "a", **small})

    def _deep(self, wanted: Mapping[str, str]) -> Mapping[str, str]:
        """The parameters of the page to which so many clicks on Next lead."""
        for _ in range(PAGES_DEEP - 1):
            (link,) = re.findall('id="next-page"[^>]*href="([^"]+)"', self.ask(wanted))
            wanted = dict(parse_qsl(urlsplit(unescape(link)).query))
        return wanted


SEARCHES = {
    "one letter": "a",
    "a first name": "Anna",
    "a name and surname": "Ida1f0 E",
    "an email": "bo.c.",
    "a phone": "+45 2345",
    "an id": "7000000500001",
    "nothing": "zzzz",
}


if __name__ == "__main__":
    main()
