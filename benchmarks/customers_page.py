"""How fast the customers page's list answers on a table of a million rows: the queries as the
receiver asks them, over its own kind of connection, against the limit of 200 ms.

ROWS as an argument takes another number of rows.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.plot import Bar
from benchmarks.stage import database, folder, report
from shopsync_pipeline.db import customer_list, integrations
from shopsync_pipeline.db.customer_list import ORDERS, Place, Wanted
from shopsync_pipeline.db.engine import Conn, connect

ROWS = 1_000_000
STORES = 40
TIMES = 15
PAGES_DEEP = 10
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
        url = stack.enter_context(database(stack.enter_context(folder())))
        conn = stack.enter_context(connect(url))
        stores = [
            integrations.connect(
                conn, organization_id=f"org{n}", shop=f"s{n}.myshopify.com", name=f"S{n}", shop_id=n
            ).id
            for n in range(STORES)
        ]
        conn.execute(FILL, {"rows": rows, "stores": STORES})
        conn.execute("VACUUM ANALYZE customers")
        figures = [_figure(rows, name, work) for name, work in _looks(conn, stores)]
    bars = [Bar(label=f["what"], value=f["median, ms"], aim=LIMIT_MS) for f in figures]
    report("customers_page", figures, {f"the list of {rows:,} customers, milliseconds": bars})


def _figure(rows: int, name: str, work: Callable[[], object]) -> dict[str, Any]:
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    median = statistics.median(taken)
    return {
        "what": name,
        "rows": rows,
        "median, ms": round(median, 1),
        "highest, ms": round(max(taken), 1),
        "median / limit": round(median / LIMIT_MS, 3),
    }


def _looks(conn: Conn, stores: list[str]) -> list[tuple[str, Callable[[], object]]]:
    def look(wanted: Wanted, place: Place | None = None) -> Callable[[], object]:
        return lambda: customer_list.page(conn, wanted, place)

    looks = []
    for order in ORDERS:
        wanted = Wanted(order=order)
        looks += [
            (f"list by {order}", look(wanted)),
            (f"page {PAGES_DEEP} by {order}", look(wanted, _deep(conn, wanted))),
        ]
    looks += [
        ("list of the largest store by name", look(Wanted(order="name", integration_id=stores[0]))),
        ("list of a small store by spent", look(Wanted(order="spent", integration_id=stores[7]))),
    ]
    searches = {
        "one letter": "a",
        "a first name": "Anna",
        "a name and surname": "Ida1f0 E",
        "an email": "bo.c.",
        "a phone": "+45 2345",
        "an id": "7000000500001",
        "nothing": "zzzz",
    }
    looks += [(f"search: {what}", look(Wanted(query=text))) for what, text in searches.items()]
    small = Wanted(query="a", integration_id=stores[7])
    looks.append(("search: one letter in a small store", look(small)))
    return looks


def _deep(conn: Conn, wanted: Wanted) -> Place | None:
    place = None
    for _ in range(PAGES_DEEP - 1):
        place = customer_list.page(conn, wanted, place).after
    return place


if __name__ == "__main__":
    main()
