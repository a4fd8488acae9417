"""The store: events, bars and coverage in SQLite or PostgreSQL, through SQLAlchemy Core. Floor 2.

Tables (the prefix lets a store live in a database with others, such as Freqtrade's trades):

- ``liq_meta``: the schema's version.
- ``liq_series``: one row for each exchange, pair and source. ``digest`` is a hash of all it holds
  that does not depend on the order of the inserts: equal data, equal digest.
- ``liq_segment``: columns packed into compressed bytes (``segments.py``), one row per series,
  period and stretch of time. Period 0 are events, a day a row; else bars, 131,072 periods a row.
- ``liq_coverage``: disjoint intervals in which somebody listened or an archive answered.

Events are rolled up into one-minute bars in the transaction that inserts them, from those that were
really new. Inserting is idempotent: what is there already is recognised and left alone.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations.candles import add_bars, to_bars
from liquidations.database import explain, file_of, no_store, open_engine
from liquidations.errors import LiquidationsError
from liquidations.event import (
    DAY,
    MINUTE,
    SIMULATED,
    Bars,
    Events,
    Ints,
    hash_rows,
    merge_intervals,
)
from liquidations.pairs import base_of
from liquidations.segments import pack_bars, pack_events, unpack_bars, unpack_events


logger = logging.getLogger(__name__)

Rows = TypeVar("Rows", Events, Bars)

SCHEMA_VERSION = 1

#: The period that stands for single events in ``liq_segment``.
EVENTS = 0

metadata = sa.MetaData()

META = sa.Table(
    "liq_meta",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
SERIES = sa.Table(
    "liq_series",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("base", sa.String(32), nullable=False, index=True),
    sa.Column("exchange", sa.String(32), nullable=False),
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("source", sa.String(32), nullable=False),
    sa.Column("period", sa.BigInteger, nullable=False),
    sa.Column("counted", sa.Boolean, nullable=False),
    sa.Column("digest", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("exchange", "pair", "source", "period"),
)
SEGMENT = sa.Table(
    "liq_segment",
    metadata,
    sa.Column("series_id", sa.ForeignKey(SERIES.c.id), primary_key=True),
    sa.Column("period", sa.BigInteger, primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
COVERAGE = sa.Table(
    "liq_coverage",
    metadata,
    sa.Column("series_id", sa.ForeignKey(SERIES.c.id), primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("end", sa.BigInteger, nullable=False),
)


# Written once, so that SQLAlchemy does not build and compile them again for each pair.
_VERSION = sa.select(META.c.value).where(META.c.name == "schema")
_ALL_SERIES = sa.select(SERIES)
_SERIES_OF = _ALL_SERIES.where(SERIES.c.base == sa.bindparam("of_base"))
_COVERAGE_OF = (
    sa.select(COVERAGE.c.start, COVERAGE.c.end)
    .where(COVERAGE.c.series_id == sa.bindparam("of_id"))
    .order_by(COVERAGE.c.start)
)
_SEGMENTS_OF = (
    sa.select(SEGMENT.c.data)
    .where(
        SEGMENT.c.series_id == sa.bindparam("of_id"),
        SEGMENT.c.period == sa.bindparam("of_period"),
        SEGMENT.c.start > sa.bindparam("after"),
        SEGMENT.c.start < sa.bindparam("before"),
    )
    .order_by(SEGMENT.c.start)
)
# Rows of both kinds: a segment has data, an interval has an end.
_SEGMENTS_AND_COVERAGE_OF = sa.union_all(
    _SEGMENTS_OF.order_by(None).with_only_columns(
        SEGMENT.c.start, sa.null().label("end"), SEGMENT.c.data
    ),
    _COVERAGE_OF.order_by(None).add_columns(sa.null()),
).order_by("start")


@dataclass(frozen=True, slots=True)
class Series:
    """Name one contract of one exchange as one source tells it, in bars of ``period`` ms.

    Sources of single events have one-minute bars. ``counted`` tells whether the source says how
    many events a bar has.
    """

    id: int
    base: str
    exchange: str
    pair: str
    source: str
    period: int
    counted: bool
    digest: int


@dataclass(slots=True)
class Inserted:
    """Count what an insert did: rows that were new, known already, or known with other values."""

    new: int = 0
    known: int = 0
    revised: int = 0

    def __add__(self, other: Inserted) -> Inserted:
        return Inserted(
            self.new + other.new, self.known + other.known, self.revised + other.revised
        )


def _span(period: int) -> int:
    """Return the stretch of time (ms) that one segment of this period holds."""
    return DAY if period == EVENTS else period * 131_072


class Store:
    """Open the store behind a database URL.

    :param db_url: as SQLAlchemy writes it; ``sqlite:///user_data/liquidations.sqlite``
    :param create: make the store if there is none; else that is an error, because a reader that
        creates an empty store would hide a wrong path
    :raises LiquidationsError: no store there, not a store, or one of a newer program
    """

    def __init__(self, db_url: str, *, create: bool = False) -> None:
        self.db_url = db_url
        try:
            url = sa.make_url(db_url)
        except (sa.exc.ArgumentError, ValueError) as error:
            raise LiquidationsError(
                f"{db_url!r} is not a database URL; "
                "write for example sqlite:///user_data/liquidations.sqlite"
            ) from error
        #: The URL without its password, for messages.
        self.shown = url.render_as_string(hide_password=True)
        self._engine = open_engine(url, self.shown, create)
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise
        self._file = file_of(url)

    def _open(self, create: bool) -> None:
        if create:
            with self._transaction(write=True) as connection:
                self._create(connection)
        with self._transaction(write=False) as connection:
            version = self._version(connection)
        if not 1 <= version <= SCHEMA_VERSION:
            raise LiquidationsError(
                f"the store {self.shown} has schema version {version}, this program knows "
                f"{SCHEMA_VERSION}: it was written by a newer freqtrade-liquidations. "
                "Run: pip install --upgrade freqtrade-liquidations"
            )

    def _create(self, connection: Connection) -> None:
        if not sa.inspect(connection).has_table(META.name):
            metadata.create_all(connection)
            connection.execute(sa.insert(META).values(name="schema", value=SCHEMA_VERSION))

    def _version(self, connection: Connection) -> int:
        try:
            return connection.scalar(_VERSION) or 0
        except (sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
            if META.name in str(error.orig):  # "no such table" or "does not exist"
                raise LiquidationsError(no_store(self.shown)) from error
            raise

    def replaced(self) -> bool:
        """Tell whether the file was deleted or made anew since it was opened."""
        return self._file is not None and file_of(self._engine.url) != self._file

    def close(self) -> None:
        """Close all connections; the store opens them again when it is used."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                if write:
                    connection.execution_options(liquidations_write=True)
                # The first statement begins; closing rolls back what was not committed.
                yield connection
                if write:
                    connection.commit()
        except sa.exc.DBAPIError as error:
            raise LiquidationsError(explain(error.orig, self.shown)) from error
        except sqlite3.Error as error:
            raise LiquidationsError(explain(error, self.shown)) from error

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """Open a transaction that writes; an exception leaves the store as it was."""
        with self._transaction(write=True) as connection:
            yield Writer(connection)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Open a transaction that reads one consistent state of the store."""
        with self._transaction(write=False) as connection:
            yield Reader(connection)

    def fingerprint(self) -> str:
        """Return a text that changes when anything in the store changes."""
        with self.read() as reader:
            digests = [
                (one.exchange, one.pair, one.source, one.period, one.digest)
                for one in reader.series()
            ]
        return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]


class Reader:
    """Read within one transaction, so that nothing moves between two questions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def series(self, *, base: str | None = None) -> list[Series]:
        """List the series, of one base asset if it is named, in a fixed order."""
        found = (
            self._connection.execute(_ALL_SERIES)
            if base is None
            else self._connection.execute(_SERIES_OF, {"of_base": base})
        )
        rows = [Series(*row) for row in found]
        return sorted(rows, key=lambda one: (one.pair, one.exchange, one.source, one.period))

    def coverage(self, series: Series) -> Ints:
        """Return the intervals in which the series was observed."""
        return _intervals(self._connection.execute(_COVERAGE_OF, {"of_id": series.id}))

    def bars(self, series: Series, start: int, end: int) -> Bars:
        """Return the bars that begin in ``[start, end)`` ms, in order of time."""
        found = self._connection.execute(_SEGMENTS_OF, _within(series, series.period, start, end))
        return _between(unpack_bars(*found.scalars()), start, end)

    def bars_and_coverage(self, series: Series, start: int, end: int) -> tuple[Bars, Ints]:
        """Return both by one statement, which costs a good deal less than two."""
        rows = self._connection.execute(
            _SEGMENTS_AND_COVERAGE_OF, _within(series, series.period, start, end)
        ).all()
        bars = unpack_bars(*(row.data for row in rows if row.end is None))
        coverage = _intervals(row[:2] for row in rows if row.end is not None)
        return _between(bars, start, end), coverage

    def events(self, series: Series, start: int, end: int) -> Events:
        """Return the single events of ``[start, end)`` ms, in order of time and key."""
        found = self._connection.execute(_SEGMENTS_OF, _within(series, EVENTS, start, end))
        events = Events.concat([unpack_events(data) for data in found.scalars()])
        return _between(events, start, end)

    def counts(self) -> dict[tuple[int, int], int]:
        """Count what is stored, by series id and period (0 = events)."""
        rows = self._connection.execute(
            sa.select(SEGMENT.c.series_id, SEGMENT.c.period, sa.func.sum(SEGMENT.c.rows)).group_by(
                SEGMENT.c.series_id, SEGMENT.c.period
            )
        )
        return {(series, period): int(count) for series, period, count in rows}


def _within(series: Series, period: int, start: int, end: int) -> dict[str, int]:
    """Name the segments that reach into ``[start, end)``, as the parameters of a statement."""
    # int(): the driver would bind a numpy integer as bytes, which match nothing.
    after, before = int(start) - _span(period), int(end)
    return {"of_id": series.id, "of_period": period, "after": after, "before": before}


def _between(rows: Rows, start: int, end: int) -> Rows:
    """Cut rows, which are in order of time, to ``[start, end)``."""
    return rows.take(slice(*np.searchsorted(rows.timestamp, (start, end))))


def _intervals(rows: Iterable[Sequence[int]]) -> Ints:
    return np.array([tuple(row) for row in rows], dtype=np.int64).reshape(-1, 2)


class Writer(Reader):
    """Write within one transaction: all of it, or nothing."""

    def insert(
        self,
        exchange: str,
        pair: str,
        source: str,
        rows: Events | Bars,
        coverage: Ints,
        *,
        period: int = MINUTE,
    ) -> Inserted:
        """Add events, or a vendor's bars of ``period`` ms, and when they were observed.

        Events that are stored already are left alone; so are a vendor's bars, also where the vendor
        says something else now (``revised`` counts them).
        """
        counted = isinstance(rows, Events) or not np.isnan(rows.long_count).all()
        series = self._series(exchange, pair, source, int(period), counted)
        if isinstance(rows, Events):
            done, digest = self._insert_events(series, rows)
        else:
            done, digest = self._insert_bars(series, rows)
        digest += self._cover(series, coverage)
        total = (series.digest + digest + 2**63) % 2**64 - 2**63
        if total != series.digest:
            self._connection.execute(
                sa.update(SERIES).where(SERIES.c.id == series.id).values(digest=total)
            )
        return done

    def _series(self, exchange: str, pair: str, source: str, period: int, counted: bool) -> Series:
        """Find or make the series, and lock it against other writers until the end."""
        names = {"exchange": exchange, "pair": pair, "source": source, "period": period}
        question = sa.select(SERIES).filter_by(**names).with_for_update()
        row = self._connection.execute(question).one_or_none()
        if row is None:
            self._refuse_mixture(source)
            try:
                with self._connection.begin_nested():
                    self._connection.execute(
                        sa.insert(SERIES).values(
                            base=base_of(pair), counted=counted, digest=0, **names
                        )
                    )
            except sa.exc.IntegrityError:
                logger.debug("another writer made the series %s first", names)
            row = self._connection.execute(question).one()
        return Series(*row)

    def remove(self, exchange: str, pair: str, source: str) -> None:
        """Remove all that a source told of a contract."""
        names = {"exchange": exchange, "pair": pair, "source": source}
        known = sa.select(SERIES.c.id).filter_by(**names)
        for table in (SEGMENT, COVERAGE):
            self._connection.execute(sa.delete(table).where(table.c.series_id.in_(known)))
        self._connection.execute(sa.delete(SERIES).filter_by(**names))

    def _refuse_mixture(self, source: str) -> None:
        invented = source == SIMULATED
        other = SERIES.c.source != SIMULATED if invented else SERIES.c.source == SIMULATED
        if self._connection.scalar(sa.select(SERIES.c.id).where(other).limit(1)) is not None:
            have, come = ("real", "simulated") if invented else ("simulated", "real")
            raise LiquidationsError(
                f"this store holds {have} liquidations, and {come} ones must never mix with them; "
                "name another store with --db-url"
            )

    def _insert_events(self, series: Series, events: Events) -> tuple[Inserted, int]:
        events = events.take(np.lexsort((events.key, events.timestamp)))
        fresh: list[Events] = []
        for start, part in _by_segment(events, EVENTS):
            old = self.events(series, start, start + _span(EVENTS))
            merged = Events.concat([old, part])
            # Stable, so that of two equal rows the stored one comes first.
            order = np.lexsort((merged.key, merged.timestamp))
            first = np.ones(len(order), dtype=bool)
            time, key = merged.timestamp[order], merged.key[order]
            first[1:] = (time[1:] != time[:-1]) | (key[1:] != key[:-1])
            kept = order[first]
            if len(kept) > len(old):
                fresh.append(merged.take(kept[kept >= len(old)]))
                self._put(series, EVENTS, start, len(kept), pack_events(merged.take(kept)))
        new = Events.concat(fresh)
        for start, added in _by_segment(to_bars(new), series.period):
            old_bars = self.bars(series, start, start + _span(series.period))
            bars = add_bars([old_bars, added])
            self._put(series, series.period, start, len(bars), pack_bars(bars))
        return Inserted(len(new), len(events) - len(new)), _digest(new.timestamp, new.key)

    def _insert_bars(self, series: Series, bars: Bars) -> tuple[Inserted, int]:
        done, digest = Inserted(), 0
        for start, part in _by_segment(bars, series.period):
            old = self.bars(series, start, start + _span(series.period))
            known = np.isin(part.timestamp, old.timestamp)
            new, same = part.take(~known), part.take(known)
            stored = old.take(np.isin(old.timestamp, same.timestamp))
            other = (stored.long != same.long) | (stored.short != same.short)
            done += Inserted(len(new), int((~other).sum()), int(other.sum()))
            if len(new):
                merged = Bars.concat([old, new])
                merged = merged.take(np.argsort(merged.timestamp))
                self._put(series, series.period, start, len(merged), pack_bars(merged))
                digest += _digest(new.timestamp, new.long, new.short)
        return done, digest

    def _put(self, series: Series, period: int, start: int, rows: int, data: bytes) -> None:
        names = {"series_id": series.id, "period": period, "start": start}
        self._connection.execute(sa.delete(SEGMENT).filter_by(**names))
        self._connection.execute(sa.insert(SEGMENT).values(rows=rows, data=data, **names))

    def _cover(self, series: Series, coverage: Ints) -> int:
        """Add intervals, merging them with those that they touch; return the change of digest."""
        new = merge_intervals(coverage)
        if not len(new):
            return 0
        touching = (
            COVERAGE.c.series_id == series.id,
            COVERAGE.c.end >= int(new[0, 0]),
            COVERAGE.c.start <= int(new[-1, 1]),
        )
        rows = self._connection.execute(
            sa.select(COVERAGE.c.start, COVERAGE.c.end).where(*touching)
        ).all()
        old = np.array([tuple(row) for row in rows], dtype=np.int64).reshape(-1, 2)
        merged = merge_intervals(np.concatenate((old, new)))
        self._connection.execute(sa.delete(COVERAGE).where(*touching))
        self._connection.execute(
            sa.insert(COVERAGE),
            [
                {"series_id": series.id, "start": int(start), "end": int(end)}
                for start, end in merged
            ],
        )
        return _digest(merged[:, 0], merged[:, 1]) - _digest(old[:, 0], old[:, 1])


def _by_segment(rows: Rows, period: int) -> Iterator[tuple[int, Rows]]:
    """Cut rows, which are in order of time, into those of each segment."""
    starts, first = np.unique(rows.timestamp // _span(period), return_index=True)
    for start, begin, end in zip(starts, first, np.append(first, len(rows))[1:], strict=True):
        yield int(start) * _span(period), rows.take(slice(begin, end))


def _digest(*columns: np.ndarray) -> int:
    """Hash rows such that their order does not matter."""
    return int(hash_rows(*columns).sum(dtype=np.uint64))
