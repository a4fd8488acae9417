"""The store: events, bars and coverage in SQLite or PostgreSQL, through SQLAlchemy Core. Floor 2.

The tables are in ``tables.py``. Imported data lie in segments, live ones in rows in front of them
(``rows.py``); who reads sees both as one.

Events are rolled up into one-minute bars in the transaction that inserts them, from those that were
really new. Inserting is idempotent: what is there already is recognised and left alone.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations import rows as live_rows
from liquidations.candles import Late, Source, add_bars, to_bars
from liquidations.database import explain, file_of, no_store, open_engine
from liquidations.errors import LiquidationsError, mask
from liquidations.event import (
    DAY,
    MINUTE,
    SIMULATED,
    Bars,
    Events,
    Ints,
    digest_of,
    merge_intervals,
)
from liquidations.pairs import base_of
from liquidations.rows import Feed, Told
from liquidations.segments import pack_bars, pack_events, unpack_bars, unpack_events
from liquidations.tables import (
    COVERAGE,
    EVENTS,
    FEED,
    MEMBER,
    META,
    SCHEMA_VERSION,
    SEGMENT,
    SERIES,
    metadata,
)


logger = logging.getLogger(__name__)

Rows = TypeVar("Rows", Events, Bars)

# Written once, so that SQLAlchemy does not build and compile them again for each pair.
_VERSION = sa.select(META.c.value).where(META.c.name == "schema")
# Of a series that a feed tells, the feed's digest says whether anything came.
_ALL_SERIES = sa.select(
    SERIES,
    # Without their last bits the digests of several feeds can be added and do not overflow.
    sa.select(sa.cast(sa.func.sum(FEED.c.digest // 65536), sa.BigInteger))
    .join(MEMBER, MEMBER.c.feed_id == FEED.c.id)
    .where(MEMBER.c.series_id == SERIES.c.id)
    .scalar_subquery()
    .label("live"),
)
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
_LIVE_SERIES_OF = sa.select(SERIES).where(
    SERIES.c.exchange == sa.bindparam("of_exchange"),
    SERIES.c.source == sa.bindparam("of_source"),
    SERIES.c.period == MINUTE,
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
    many events a bar has. ``live`` is the digest of the feed that tells it, if one does.
    """

    id: int
    base: str
    exchange: str
    pair: str
    source: str
    period: int
    counted: bool
    digest: int
    live: int | None = None


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
                f"{mask(db_url)!r} is not a database URL; "
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
        if version == 1:  # the tables of live feeds are new, and all that changed
            with self._transaction(write=True) as connection:
                metadata.create_all(connection)
                connection.execute(sa.update(META).values(value=2).where(META.c.name == "schema"))
        elif not 1 <= version <= SCHEMA_VERSION:
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
                (one.exchange, one.pair, one.source, one.period, one.digest, one.live)
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
        """Return the intervals in which the series was observed, however late that was known."""
        own = _intervals(self._connection.execute(_COVERAGE_OF, {"of_id": series.id}))
        if series.live is None:
            return own
        live = live_rows.coverage_of(self._connection, series.id)
        return merge_intervals(np.concatenate((own, live[:, :2])))

    def bars(self, series: Series, start: int, end: int) -> Bars:
        """Return the bars that begin in ``[start, end)`` ms, in order of time; none are late."""
        bars = self._packed_bars(series, start, end)
        return bars if series.live is None else joined(bars, self._rows(series, start, end)[0])

    def source(self, series: Series, start: int, end: int) -> Source:
        """Return all that a series holds of ``[start, end)`` ms, to be summed over candles."""
        bars, coverage = self._packed(series, start, end)
        late = None
        if series.live is not None:
            rows, events = self._rows(series, start, end)
            bars = joined(bars, rows)
            live = live_rows.coverage_of(self._connection, series.id)
            coverage, after = live_rows.split(live_rows.with_own(coverage, live))
            if len(after) or len(events[1]):
                late = Late(*events, after)
        return Source(series.source, series.period, bars, coverage, series.counted, late)

    def parts(
        self, series: Series, start: int, end: int
    ) -> tuple[Bars, Ints, Bars, tuple[Events, Ints]]:
        """Return what :meth:`source` joins: imported bars and coverage, live bars, late events."""
        return *self._packed(series, start, end), *self._rows(series, start, end)

    def told(self) -> tuple[dict[int, Ints], dict[int, list[Told]]]:
        """Return when each feed listened, rows of (start, end, known), and what it tells."""
        return live_rows.told(self._connection)

    def since(self, time: int) -> tuple[dict[int, Bars], set[int]]:
        """Return the live bars from ``time`` (ms) on, and which series got late events."""
        bars = live_rows.bars_since(self._connection, time)
        return bars, live_rows.late_since(self._connection, time)

    def events(self, series: Series, start: int, end: int) -> Events:
        """Return the single events of ``[start, end)`` ms, in order of time and key."""
        events = self._packed_events(series, start, end)
        if series.live is None:
            return events
        own, _ = live_rows.events_of(self._connection, series.id, int(start), int(end))
        events = Events.concat([events, own])
        return events.take(np.lexsort((events.key, events.timestamp)))

    def feeds(self) -> list[Feed]:
        """List the live feeds in a fixed order."""
        return live_rows.feeds(self._connection)

    def gaps(self, feed: Feed) -> list[tuple[int, int, str]]:
        """List when a feed did not listen, and why: (start, end, reason)."""
        return live_rows.gaps(self._connection, feed)

    def covered_until(self, feed: Feed) -> int | None:
        """Return until when (ms) a feed listened; None if it never did."""
        return live_rows.covered_until(self._connection, feed)

    def listened_until(self, feed: Feed) -> int | None:
        """Return until when (ms) any collector listened to the channel of a feed."""
        return live_rows.listened_until(self._connection, feed)

    def minutes(self, feed: Feed, since: int) -> list[tuple[int, int]]:
        """List the minutes from ``since`` (ms) on in which a feed listened, and their events."""
        return live_rows.minutes(self._connection, feed, since)

    def _packed_bars(self, series: Series, start: int, end: int) -> Bars:
        found = self._connection.execute(_SEGMENTS_OF, _within(series, series.period, start, end))
        return _between(unpack_bars(*found.scalars()), start, end)

    def _packed_events(self, series: Series, start: int, end: int) -> Events:
        found = self._connection.execute(_SEGMENTS_OF, _within(series, EVENTS, start, end))
        events = Events.concat([unpack_events(data) for data in found.scalars()])
        return _between(events, start, end)

    def _packed(self, series: Series, start: int, end: int) -> tuple[Bars, Ints]:
        # Both by one statement, which costs a good deal less than two.
        rows = self._connection.execute(
            _SEGMENTS_AND_COVERAGE_OF, _within(series, series.period, start, end)
        ).all()
        bars = unpack_bars(*(row.data for row in rows if row.end is None))
        coverage = _intervals(row[:2] for row in rows if row.end is not None)
        return _between(bars, start, end), coverage

    def _rows(self, series: Series, start: int, end: int) -> tuple[Bars, tuple[Events, Ints]]:
        span = int(start), int(end)
        return live_rows.bars_of(self._connection, series.id, *span), live_rows.events_of(
            self._connection, series.id, *span, late=True
        )

    def counts(self) -> dict[tuple[int, int], int]:
        """Count what is stored, by series id and period (0 = events)."""
        rows = self._connection.execute(
            sa.select(SEGMENT.c.series_id, SEGMENT.c.period, sa.func.sum(SEGMENT.c.rows)).group_by(
                SEGMENT.c.series_id, SEGMENT.c.period
            )
        )
        counts = {(series, period): int(count) for series, period, count in rows}
        for key, count in live_rows.counts(self._connection).items():
            counts[key] = counts.get(key, 0) + count
        return counts


def _within(series: Series, period: int, start: int, end: int) -> dict[str, int]:
    """Name the segments that reach into ``[start, end)``, as the parameters of a statement."""
    # int(): the driver would bind a numpy integer as bytes, which match nothing.
    after, before = int(start) - _span(period), int(end)
    return {"of_id": series.id, "of_period": period, "after": after, "before": before}


def _between(rows: Rows, start: int, end: int) -> Rows:
    """Cut rows, which are in order of time, to ``[start, end)``."""
    return rows.take(slice(*np.searchsorted(rows.timestamp, (start, end))))


def joined(packed: Bars, rows: Bars) -> Bars:
    """Join imported and live bars, which share a minute at most where an import met the feed."""
    if not len(packed) or not len(rows):
        return packed if len(packed) else rows
    return add_bars([packed, rows])


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
        for table in (SEGMENT, COVERAGE, *live_rows.OF_SERIES):
            self._connection.execute(sa.delete(table).where(table.c.series_id.in_(known)))
        self._connection.execute(sa.delete(SERIES).filter_by(**names))

    # --- live feeds ---

    def feed(self, exchange: str, channel: str, source: str, number: int = 0) -> Feed:
        """Find or make a live feed, and lock it against other writers until the end."""
        found = live_rows.find_feed(self._connection, exchange, channel, source, number)
        if found is None:
            self._refuse_mixture(source)
            found = live_rows.make_feed(self._connection, exchange, channel, source, number)
        return found

    def claim(self, exchange: str, channel: str, source: str, holder: str, now: int) -> Feed:
        """Take the feed that is the holder's already, or the first that nobody writes now (ms)."""
        names = exchange, channel, source
        known = [one for one in self.feeds() if (one.exchange, one.channel, one.source) == names]
        own = [one.number for one in known if one.holder == holder]
        for number in itertools.chain(own, itertools.count()):
            found = self.feed(*names, number)
            if found.holder == holder or now - found.updated >= live_rows.GONE:
                mine = replace(found, holder=holder, updated=now)
                return live_rows.save_feed(self._connection, mine)
        raise AssertionError("numbers do not end")

    def join(self, feed: Feed, pairs: Iterable[str], time: int) -> None:
        """Let a feed tell these pairs from ``time`` (ms) on, and no others any longer."""
        ids = {
            self._series(feed.exchange, pair, feed.source, MINUTE, True).id for pair in set(pairs)
        }
        live_rows.join(self._connection, feed, ids, time)

    def append(self, feed: Feed, events: Mapping[str, Events], known: int) -> tuple[Feed, Inserted]:
        """Add live events by pair; those of the sealed past are late, and ``known`` from then on.

        :param known: the close of a minute, at which what is late is known
        :return: the feed with its new digest, to be handed to :meth:`seal`, and what was new
        """
        known_series = self._series_of(feed)
        for pair in events.keys() - known_series.keys():
            known_series[pair] = self._series(feed.exchange, pair, feed.source, MINUTE, True)
        parts = []
        for pair, own in events.items():
            series = known_series[pair]
            if series.digest:
                own = own.take(~self._packed_already(series, own))
            parts.append((series.id, own))
        new, digest = live_rows.insert_events(self._connection, parts, feed.sealed, known)
        asked = sum(map(len, events.values()))
        return feed.changed(digest), Inserted(new, asked - new)

    def _series_of(self, feed: Feed) -> dict[str, Series]:
        names = {"of_exchange": feed.exchange, "of_source": feed.source}
        rows = self._connection.execute(_LIVE_SERIES_OF, names)
        return {one.pair: one for one in (Series(*row) for row in rows)}

    def cover(self, feed: Feed, start: int, end: int, known: int = 0) -> Feed:
        """Add an interval in which a feed listened; ``known`` as in :meth:`append`, 0 = in time."""
        live_rows.cover(self._connection, feed, int(start), int(end), known)
        return feed.changed(digest_of(np.array([start]), np.array([end])))

    def revoke(self, feed: Feed, start: int, end: int) -> Feed:
        """Take back that a feed listened, because it turned out to have been dead."""
        live_rows.revoke(self._connection, feed, int(start), int(end))
        return feed.changed(digest_of(np.array([end]), np.array([start])))

    def gap(self, feed: Feed, start: int, end: int, reason: str) -> None:
        """Note why a feed did not listen."""
        live_rows.gap(self._connection, feed, int(start), int(end), reason)

    def seal(self, feed: Feed, sealed: int, updated: int) -> Feed:
        """Close the minutes before ``sealed``: what comes of them from now on is late.

        :param updated: our time, by which others see that the feed is alive
        """
        return live_rows.save_feed(self._connection, feed.at(sealed, updated))

    def _packed_already(self, series: Series, events: Events) -> np.ndarray:
        """Tell which events were imported before they came live."""
        if not len(events):
            return np.zeros(0, dtype=bool)
        first, last = int(events.timestamp.min()), int(events.timestamp.max())
        packed = self._packed_events(series, first, last + 1)
        return live_rows.same(events, packed.timestamp, packed.key)

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
        asked = len(events)
        events = events.take(~live_rows.stored(self._connection, series.id, events))
        fresh: list[Events] = []
        for start, part in _by_segment(events, EVENTS):
            old = self._packed_events(series, start, start + _span(EVENTS))
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
            old_bars = self._packed_bars(series, start, start + _span(series.period))
            bars = add_bars([old_bars, added])
            self._put(series, series.period, start, len(bars), pack_bars(bars))
        return Inserted(len(new), asked - len(new)), digest_of(new.timestamp, new.key)

    def _insert_bars(self, series: Series, bars: Bars) -> tuple[Inserted, int]:
        done, digest = Inserted(), 0
        for start, part in _by_segment(bars, series.period):
            old = self._packed_bars(series, start, start + _span(series.period))
            known = np.isin(part.timestamp, old.timestamp)
            new, same = part.take(~known), part.take(known)
            stored = old.take(np.isin(old.timestamp, same.timestamp))
            other = (stored.long != same.long) | (stored.short != same.short)
            done += Inserted(len(new), int((~other).sum()), int(other.sum()))
            if len(new):
                merged = Bars.concat([old, new])
                merged = merged.take(np.argsort(merged.timestamp))
                self._put(series, series.period, start, len(merged), pack_bars(merged))
                digest += digest_of(new.timestamp, new.long, new.short)
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
        return digest_of(merged[:, 0], merged[:, 1]) - digest_of(old[:, 0], old[:, 1])


def _by_segment(rows: Rows, period: int) -> Iterator[tuple[int, Rows]]:
    """Cut rows, which are in order of time, into those of each segment."""
    starts, first = np.unique(rows.timestamp // _span(period), return_index=True)
    for start, begin, end in zip(starts, first, np.append(first, len(rows))[1:], strict=True):
        yield int(start) * _span(period), rows.take(slice(begin, end))
