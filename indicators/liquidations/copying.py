"""Move a store from one database to another: SQLite or PostgreSQL, either way. Floor 3.

The source is read as it was at one moment; others may go on writing to it. Each table is gone
through in the order of its keys, a batch at a time: the destination gets what it lacks or has
otherwise, and loses what the source has not, in one transaction a batch. So a copy that was killed
goes on when it is run again, and one that is run later tops up. Until it is done the destination
says so (``COPYING``), and nobody else opens it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations.database import file_of, insert_arrays
from liquidations.errors import LiquidationsError
from liquidations.store import Store
from liquidations.tables import COPYING, FEED, META, SERIES, metadata


#: A batch has at most so many rows, or so many segments of so many bytes together (or one).
BATCH_ROWS, BATCH_SEGMENTS, BATCH_BYTES = 20_000, 500, 16_000_000

#: What a finished copy remembers: its state, by which it is known that nobody wrote to it since.
COPIED = "copied"

#: Rows of the destination's own in ``liq_meta``.
_OWN = ("schema", COPYING, COPIED)

#: By which column the rows of other tables belong to one of these.
_CHILDREN = {SERIES.name: "series_id", FEED.name: "feed_id"}

Row = tuple[Any, ...]


@dataclass(slots=True)
class Copied:
    """Count what was done to a table: rows gone through of how many, and what was not there yet.

    ``size`` is what was written in columns of bytes.
    """

    table: str
    total: int
    done: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    size: int = 0


def copy_store(
    source: str, destination: str, tell: Callable[[Copied], None] = lambda _: None
) -> list[Copied]:
    """Make a store the copy of another, row by row.

    :param source: the URL of a store; it is brought to this program's schema
    :param destination: the URL of a database without a store, or of an unfinished or unchanged copy
    :param tell: is called after each batch with the counts of its table so far
    :return: the counts of each table
    :raises LiquidationsError: if the destination holds something else, or can't be written.
    """
    with Store(source) as giver, Store(destination, create=True, unfinished=True) as taker:
        if _place(giver) == _place(taker):
            raise LiquidationsError(
                f"{giver.shown} and {taker.shown} are one store; name another place to copy it to"
            )
        with giver.transaction(write=False) as given:
            _begin(given, giver, taker)
            _forget(given, taker)
            tables = [table for table in metadata.sorted_tables if table is not META]
            done = [_copy_table(given, taker, table, tell) for table in tables]
            with taker.transaction(write=True) as taken:
                _finish(given, taken)
    return done


def _place(store: Store) -> object:
    url = sa.make_url(store.db_url)
    return file_of(url) or (url.get_backend_name(), url.host, url.port, url.database, url.query)


def _meta(connection: Connection) -> dict[str, int]:
    return {name: value for name, value in connection.execute(sa.select(META))}


def _state(connection: Connection) -> int:
    """Hash what changes whenever something is written to a store."""
    held = [
        connection.execute(sa.select(*columns).order_by(columns[0])).all()
        for columns in (
            (SERIES.c.id, SERIES.c.digest, SERIES.c.kept),
            (FEED.c.id, FEED.c.updated, FEED.c.digest),
        )
    ]
    told = sorted((name, at) for name, at in _meta(connection).items() if name not in _OWN)
    text = repr(([list(map(tuple, rows)) for rows in held], told))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def _begin(given: Connection, giver: Store, taker: Store) -> None:
    """Mark the destination as unfinished, unless it holds what must not be lost."""
    number = _meta(given)["store"]
    with taker.transaction(write=True) as taken:
        meta = _meta(taken)
        empty = not any(taken.scalar(sa.select(table.c.id).limit(1)) for table in (SERIES, FEED))
        if not empty and meta["store"] != number:
            raise LiquidationsError(
                f"{taker.shown} holds another store than {giver.shown}; name an empty database, "
                "or a file that does not exist"
            )
        if not empty and COPYING not in meta and meta.get(COPIED) != _state(taken):
            raise LiquidationsError(
                f"{taker.shown} was written to since it was copied, or is what {giver.shown} was "
                "copied from; copying would delete that. Name an empty database, or a file that "
                "does not exist"
            )
        # Who may not do this, as only the owner may, is told before anything is changed.
        _continue_all_numbers(taken)
        taken.execute(sa.delete(META).where(META.c.name.in_((COPYING, COPIED, "store"))))
        taken.execute(
            sa.insert(META), [{"name": COPYING, "value": 1}, {"name": "store", "value": number}]
        )


def _forget(given: Connection, taker: Store) -> None:
    """Remove the series and the like whose number is another one's in the source, and their rows.

    What is left has the same names, so that no batch runs into a name that is taken.
    """
    for table in metadata.sorted_tables:
        for unique in table.constraints:
            if isinstance(unique, sa.UniqueConstraint):
                named = sa.select(table.c.id, *unique.columns)
                mine = set(map(tuple, given.execute(named)))
                with taker.transaction(write=False) as taken:
                    gone = [row[0] for row in taken.execute(named) if tuple(row) not in mine]
                for one in gone:
                    with taker.transaction(write=True) as taken:
                        _remove(taken, table, one)


def _remove(taken: Connection, table: sa.Table, number: int) -> None:
    column = _CHILDREN.get(table.name, "")
    for child in metadata.sorted_tables:
        if column in child.c:
            taken.execute(sa.delete(child).where(child.c[column] == number))
    taken.execute(sa.delete(table).where(table.c.id == number))


def _copy_table(
    given: Connection, taker: Store, table: sa.Table, tell: Callable[[Copied], None]
) -> Copied:
    counts = Copied(table.name, given.scalar(sa.select(sa.func.count()).select_from(table)) or 0)
    width = len(table.primary_key.columns)
    after: Row | None = None
    while True:
        mine, full = _batch(given, table, after)
        with taker.transaction(write=True) as taken:
            theirs, more = _batch(taken, table, after)
            # Up to where both sides are known.
            ends = [rows[-1][:width] for rows, cut in ((mine, full), (theirs, more)) if cut]
            until = min(ends, default=None)
            if until is not None:
                mine, theirs = (
                    rows[: bisect_right(rows, until, key=lambda row: row[:width])]
                    for rows in (mine, theirs)
                )
            if mine != theirs:
                _change(taken, table, mine, theirs, counts)
        counts.done += len(mine)
        tell(counts)
        if until is None:
            return counts
        after = until


@cache
def _questions(table: sa.Table) -> tuple[sa.Select[Any], sa.Select[Any] | None]:
    """Return what asks for a table's rows in the order of their keys, and for their sizes."""
    key = list(table.primary_key.columns)
    after = sa.tuple_(*(sa.bindparam(f"after_{one.name}", type_=one.type) for one in key))
    rows = sa.select(*key, *_others(table)).order_by(*key).limit(sa.bindparam("most"))
    rows = rows.where(sa.tuple_(*key) > after)
    heavy = _heavy(table)
    return rows, None if heavy is None else rows.with_only_columns(sa.func.length(heavy))


def _others(table: sa.Table) -> list[sa.Column[Any]]:
    return [one for one in table.c if not one.primary_key]


def _heavy(table: sa.Table) -> sa.Column[Any] | None:
    """Return the column of a table whose values are long."""
    return next((one for one in table.c if isinstance(one.type, sa.LargeBinary)), None)


def _batch(connection: Connection, table: sa.Table, after: Row | None) -> tuple[list[Row], bool]:
    """Return the next rows behind a key, in order, and whether there may be more."""
    key = list(table.primary_key.columns)
    start = after or (-1,) * len(key)  # keys begin with the number of a row, or a time
    within = {f"after_{one.name}": at for one, at in zip(key, start, strict=True)}
    rows, sizes = _questions(table)
    most = BATCH_ROWS
    if sizes is not None:
        found = connection.scalars(sizes, {**within, "most": BATCH_SEGMENTS}).all()
        most = max(1, int(np.searchsorted(np.cumsum(found), BATCH_BYTES, side="right")))
    got = [tuple(row) for row in connection.execute(rows, {**within, "most": most})]
    return got, len(got) == most


def _change(
    taken: Connection, table: sa.Table, mine: list[Row], theirs: list[Row], counts: Copied
) -> None:
    """Make some rows of the destination those of the source."""
    keys = [one.name for one in table.primary_key.columns]
    rest = [one.name for one in _others(table)]
    cut = len(keys)
    wanted, held = ({row[:cut]: row for row in rows} for rows in (mine, theirs))
    gone = [key for key in held if key not in wanted]
    new = [row for row in mine if row[:cut] not in held] if theirs else mine
    other = [row for row in mine if held.get(row[:cut], row) != row]
    at = sa.and_(*(table.c[name] == sa.bindparam(f"at_{name}") for name in keys))
    ats = [f"at_{name}" for name in keys]
    if gone:
        taken.execute(sa.delete(table).where(at), _named(ats, gone))
    if other:
        values: dict[str, Any] = {name: sa.bindparam(name) for name in rest}
        taken.execute(sa.update(table).where(at).values(values), _named([*ats, *rest], other))
    if new:
        _insert(taken, table, [*keys, *rest], new)
    if (heavy := _heavy(table)) is not None:
        place = [*keys, *rest].index(heavy.name)
        counts.size += sum(len(row[place]) for row in (*new, *other))
    counts.inserted += len(new)
    counts.updated += len(other)
    counts.deleted += len(gone)


def _named(names: Sequence[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def _insert(taken: Connection, table: sa.Table, names: Sequence[str], rows: list[Row]) -> None:
    if _heavy(table) is not None or taken.dialect.name == "sqlite":
        taken.execute(sa.insert(table), _named(names, rows))
        return
    columns = zip(*rows, strict=True)
    arrays = {name: np.array(one, object) for name, one in zip(names, columns, strict=True)}
    insert_arrays(taken, table, arrays)


def _finish(given: Connection, taken: Connection) -> None:
    """Let the destination be a store of its own."""
    own = META.c.name.in_(_OWN)
    taken.execute(sa.delete(META).where(~own | (META.c.name == COPYING)))
    told = [{"name": name, "value": at} for name, at in _meta(given).items() if name not in _OWN]
    taken.execute(sa.insert(META), told)
    _continue_all_numbers(taken)
    taken.execute(sa.insert(META).values(name=COPIED, value=_state(taken)))


def _continue_all_numbers(taken: Connection) -> None:
    if taken.dialect.name == "postgresql":
        for table in metadata.sorted_tables:
            _continue_numbers(taken, table)


def _continue_numbers(taken: Connection, table: sa.Table) -> None:
    """Let a table's next number be one that is free: PostgreSQL counts only those it gave."""
    column = table.autoincrement_column
    if column is not None:
        numbers = sa.func.pg_get_serial_sequence(table.name, column.name)
        last = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
        taken.execute(sa.select(sa.func.setval(numbers, last, False)))
