"""Every stored secret again under the first key of SHOPSYNC_ENCRYPTION_KEY, while all goes on.

One short statement for each row, which writes only where the row still holds what was read: a
token that is renewed, replaced or forgotten at the same moment stays as that left it. Whoever is
killed in between is run again: what is under the first key already is left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from psycopg import sql

from shopsync_pipeline.db.credentials import Cipher
from shopsync_pipeline.db.engine import Conn

SEALED = {
    "integrations": ("accessToken", "refreshToken", "clientSecret", "webhookSecret"),
    "sync_requests": ("credentials",),
}
"""All that the Cipher encrypts, by table."""


@dataclass(kw_only=True, slots=True)
class Rotation:
    """What became of one kind of secret; `unreadable` names organization and shop of those that no
    key decrypts, which are left as they are."""

    kind: str
    reencrypted: int = 0
    current: int = 0
    unreadable: list[str] = field(default_factory=list)


def rotate(conn: Conn, cipher: Cipher) -> list[Rotation]:
    """Re-encrypt everything that is not under the first key."""
    told = []
    for table, columns in SEALED.items():
        kinds = [Rotation(kind=f"{table}.{column}") for column in columns]
        for row_id, *_ in _sealed(conn, table):
            _rotate_row(conn, cipher, table, row_id, kinds)
        told += kinds
    return told


def under_old_keys(conn: Conn, cipher: Cipher) -> int:
    """How many stored secrets still need another key than the first; what no key decrypts counts
    too."""
    return sum(
        cipher.renewed(text) != text
        for table in SEALED
        for _, *texts in _sealed(conn, table)
        for text in texts
        if text is not None
    )


def troubles(kinds: Sequence[Rotation], left: int) -> list[str]:
    """What is not done yet, each with its remedy; `left` are still under another key than the
    first."""
    told = [
        f"{whose}: no key of SHOPSYNC_ENCRYPTION_KEY decrypts its {kind.kind}. Add the key that "
        "does and run this again, or bring the credentials again: shopsync connect."
        for kind in kinds
        for whose in kind.unreadable
    ]
    meanwhile = left - len(told)
    if meanwhile > 0:
        told.append(
            f"{meanwhile} were stored meanwhile by a process that has an old key in front. Restart "
            "it with the new setting, then run this again."
        )
    return told


def _rotate_row(
    conn: Conn, cipher: Cipher, table: str, row_id: str, kinds: Sequence[Rotation]
) -> None:
    """Read again as often as somebody else was faster: each time the row holds something newer."""
    while True:
        before = _texts(conn, table, row_id)
        after = [None if text is None else cipher.renewed(text) for text in before]
        wanted = [new if new is not None else old for new, old in zip(after, before, strict=True)]
        if wanted == list(before) or _replaced(conn, table, row_id, before, wanted):
            break
    whose = None
    for kind, old, new in zip(kinds, before, after, strict=True):
        if old is None:
            continue
        if new is None:
            whose = whose or _whose(conn, table, row_id)
            kind.unreadable.append(whose)
        elif new == old:
            kind.current += 1
        else:
            kind.reencrypted += 1


def _columns(table: str) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, SEALED[table]))


def _sealed(conn: Conn, table: str) -> list[tuple[str, ...]]:
    """The id of each row that holds something, and what it holds."""
    query = sql.SQL('SELECT "id", {0} FROM {1} WHERE coalesce({0}) IS NOT NULL ORDER BY "id"')
    return conn.execute(query.format(_columns(table), sql.Identifier(table))).fetchall()


def _texts(conn: Conn, table: str, row_id: str) -> tuple[str | None, ...]:
    """None for all where the row is gone."""
    query = sql.SQL('SELECT {} FROM {} WHERE "id" = %s')
    row = conn.execute(query.format(_columns(table), sql.Identifier(table)), [row_id]).fetchone()
    return cast(tuple[str | None, ...], row) if row else (None,) * len(SEALED[table])


def _replaced(
    conn: Conn,
    table: str,
    row_id: str,
    before: Sequence[str | None],
    after: Sequence[str | None],
) -> bool:
    """Whether the row still held `before`; it waits for a renewal that holds the row."""

    def each(template: str, joiner: str) -> sql.Composed:
        made = (sql.SQL(template).format(sql.Identifier(column)) for column in SEALED[table])
        return sql.SQL(joiner).join(made)

    statement = sql.SQL('UPDATE {} SET {} WHERE "id" = %s AND {}').format(
        sql.Identifier(table),
        each("{} = %s", ", "),
        each("{} IS NOT DISTINCT FROM %s", " AND "),
    )
    return conn.execute(statement, [*after, row_id, *before]).rowcount == 1


def _whose(conn: Conn, table: str, row_id: str) -> str:
    query = sql.SQL('SELECT "organizationId", "shop" FROM {} WHERE "id" = %s')
    row = conn.execute(query.format(sql.Identifier(table)), [row_id]).fetchone()
    return f"{row[0]}, {row[1]}" if row else "a row that has gone meanwhile"
