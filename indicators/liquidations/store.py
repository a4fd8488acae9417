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
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations import rows as live_rows
from liquidations.candles import Late, Source, add_bars, to_bars
from liquidations.database import (
    explain,
    file_of,
    limit_waiting,
    lock_schema,
    no_store,
    open_engine,
    reading,
    used_bytes,
)
from liquidations.errors import LiquidationsError, mask
from liquidations.event import (
    DAY,
    MINUTE,
    SIMULATED,
    Bars,
    Events,
    Floats,
    Ints,
    common_intervals,
    covered_ms,
    digest_of,
    is_within,
    merge_intervals,
    without_intervals,
)
from liquidations.migrations import migrate
from liquidations.pairs import base_of
from liquidations.rows import Feed, Told
from liquidations.segments import pack_bars, pack_events, unpack_bars, unpack_events
from liquidations.tables import (
    COPYING,
    COVERAGE,
    EVENTS,
    FEED,
    MEMBER,
    META,
    ORIGIN,
    REVISION,
    SCHEMA_VERSION,
    SEGMENT,
    SERIES,
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
    sa.exists().where(REVISION.c.series_id == SERIES.c.id).label("revised"),
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
# In order of time as told, so that the last vintage of a bar comes last.
_REVISIONS_OF = (
    sa.select(REVISION.c.timestamp, REVISION.c.long, REVISION.c.short, REVISION.c.recorded)
    .where(
        REVISION.c.series_id == sa.bindparam("of_id"),
        REVISION.c.timestamp >= sa.bindparam("first"),
        REVISION.c.timestamp < sa.bindparam("last"),
    )
    .order_by(REVISION.c.timestamp, REVISION.c.recorded)
)
_PACKED = sa.select(META.c.value).where(META.c.name == "packed")
_numbers = sa.select(
    _PACKED.scalar_subquery().label("packed"),
    sa.select(sa.func.count()).select_from(SERIES).scalar_subquery().label("series"),
    sa.select(sa.cast(sa.func.sum(SERIES.c.digest // 65536), sa.BigInteger))
    .scalar_subquery()
    .label("digest"),
    sa.select(sa.func.count()).select_from(MEMBER).scalar_subquery().label("members"),
    sa.select(sa.func.count())
    .where(MEMBER.c.end == live_rows.FOREVER)
    .scalar_subquery()
    .label("joined"),
).subquery()
_STATE = (
    sa.select(_numbers, FEED)
    .select_from(_numbers.outerjoin(FEED, sa.true()))
    .order_by(FEED.c.exchange, FEED.c.channel, FEED.c.number)
)
_LIVE_SERIES_OF = sa.select(
    SERIES,
    # Whether a feed tells it, or has told it.
    sa.select(sa.func.min(MEMBER.c.feed_id))
    .where(MEMBER.c.series_id == SERIES.c.id)
    .scalar_subquery()
    .label("live"),
    _PACKED.scalar_subquery().label("packed"),
).where(
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
    many events a bar has. Events before ``kept`` (ms) were dropped for their age. ``live`` is the
    digest of the feed that tells it, if one does; ``revised`` tells whether the vendor has said
    something else of a bar since.
    """

    id: int
    base: str
    exchange: str
    pair: str
    source: str
    period: int
    counted: bool
    digest: int
    kept: int = 0
    live: int | None = None
    revised: bool = False


class Revision(NamedTuple):
    """Hold what a vendor said of a bar at ``timestamp`` (ms), when that was stored, and before."""

    timestamp: int
    recorded: int
    old: tuple[float, float]
    new: tuple[float, float]


@dataclass(slots=True)
class Inserted:
    """Count what an insert did: rows that were new, known already, or known with other values.

    ``conflicts`` are events that either the store or what was inserted lacks, of a time that both
    say they observed. ``expired`` were left out: of their time only bars were kept, which may count
    them already.
    """

    new: int = 0
    known: int = 0
    revised: int = 0
    conflicts: int = 0
    expired: int = 0

    def __add__(self, other: Inserted) -> Inserted:
        return Inserted(
            self.new + other.new,
            self.known + other.known,
            self.revised + other.revised,
            self.conflicts + other.conflicts,
            self.expired + other.expired,
        )


def stretch(period: int) -> int:
    """Return the stretch of time (ms) that the segments of this period do not cross."""
    return DAY if period == EVENTS else period * 131_072


class Store:
    """Open the store behind a database URL.

    :param db_url: as SQLAlchemy writes it; ``sqlite:///user_data/liquidations.sqlite``
    :param create: make the store if there is none; else that is an error, because a reader that
        creates an empty store would hide a wrong path
    :param patience: PostgreSQL that does not answer a statement in so many seconds has failed;
        default: wait
    :param unfinished: open what ``liquidations db copy`` has not finished, too
    :raises LiquidationsError: no store there, not a store, or one of a newer program
    """

    def __init__(
        self,
        db_url: str,
        *,
        create: bool = False,
        patience: float | None = None,
        unfinished: bool = False,
    ) -> None:
        self.db_url = db_url
        try:
            url = sa.make_url(db_url)
        except (sa.exc.ArgumentError, ValueError):
            raise LiquidationsError(
                f"{mask(db_url)!r} is not a database URL; "
                "write for example sqlite:///user_data/liquidations.sqlite"
            ) from None  # it may quote what stands in the URL
        #: The URL without its password, for messages.
        self.shown = mask(url.render_as_string(hide_password=True))
        if url.get_backend_name() == "postgresql" and "@" in f"{url.host}{url.database}":
            # A part of the password would be taken for the host, and shown.
            raise LiquidationsError(
                f"{mask(db_url)} has more than one @; write one that belongs to the password as "
                "%40, and a / as %2F"
            )
        self._engine = open_engine(url, self.shown, create, patience)
        self._reading = reading(self._engine)
        try:
            self._open(create)
            if not unfinished:
                self._refuse_unfinished()
        except BaseException:
            self.close()
            raise
        self._file = file_of(url)

    def _open(self, create: bool) -> None:
        #: The version of the schema that it had when it was opened; 0: none.
        self.found_version = version = self._version(create)
        if version < SCHEMA_VERSION:
            try:
                with self.transaction(write=True) as connection:
                    lock_schema(connection)
                    if (again := _version(connection)) < SCHEMA_VERSION:  # else another was faster
                        migrate(connection, again)
            except LiquidationsError as error:
                if not version:
                    raise
                raise LiquidationsError(
                    f"the store {self.shown} has schema version {version} and must be brought to "
                    f"{SCHEMA_VERSION}, which failed here ({error}). "
                    "Run as its owner: liquidations db migrate"
                ) from error
        elif version > SCHEMA_VERSION:
            raise LiquidationsError(
                f"the store {self.shown} has schema version {version}, this program knows "
                f"{SCHEMA_VERSION}: it was written by a newer freqtrade-liquidations. "
                "Run: pip install --upgrade freqtrade-liquidations"
            )

    def _version(self, create: bool) -> int:
        """Return the version of the schema; 0 if there is none, and one is to be made."""
        with self.transaction(write=False) as connection:
            version = _version(connection)
        if version or create:
            return version
        raise LiquidationsError(no_store(self.shown))

    def _refuse_unfinished(self) -> None:
        with self.transaction(write=False) as connection:
            unfinished = connection.scalar(sa.select(META.c.value).where(META.c.name == COPYING))
        if unfinished is not None:
            raise LiquidationsError(
                f"the store {self.shown} is a copy that is not finished. Run the same command "
                "again, which goes on where it ended: liquidations db copy"
            )

    @property
    def name(self) -> str:
        """Return what this store is called in its recordings, such as store-5f3a9c21."""
        with self.transaction(write=False) as connection:
            number = connection.scalar(sa.select(META.c.value).where(META.c.name == "store"))
        return f"store-{number:08x}"

    def replaced(self) -> bool:
        """Tell whether the file was deleted or made anew since it was opened."""
        return self._file is not None and file_of(self._engine.url) != self._file

    def size(self) -> int:
        """Return how many bytes the store takes on the disk, without the free room in it."""
        with self.transaction(write=False) as connection:
            return used_bytes(connection, META.metadata)

    def vacuum(self) -> None:
        """Give the free room in a SQLite file back to the disk; nobody can write meanwhile.

        :raises LiquidationsError: if the store is no file, somebody else uses it, or room is short.
        """
        if self._engine.dialect.name != "sqlite":
            raise LiquidationsError(
                f"{self.shown} is no SQLite file; PostgreSQL's autovacuum does that by itself"
            )
        try:
            with closing(self._engine.raw_connection()) as connection:  # outside of a transaction
                cursor = connection.cursor()
                cursor.execute("VACUUM")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise LiquidationsError(explain(error, self.shown)) from error

    def close(self) -> None:
        """Close all connections; the store opens them again when it is used."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[Connection]:
        """Open a transaction for those who know the tables; others :meth:`read` and :meth:`write`.

        One that reads sees one state of the store; one that writes is undone by an exception.
        """
        try:
            with (self._engine if write else self._reading).connect() as connection:
                if write:
                    connection.execution_options(liquidations_write=True)
                # The first statement begins; closing rolls back what was not committed.
                yield connection
                if write:
                    connection.commit()
        except (sa.exc.TimeoutError, sa.exc.PendingRollbackError) as error:
            raise LiquidationsError(explain(error, self.shown)) from error
        except sa.exc.DBAPIError as error:
            if "readonly" in str(error.orig):  # a connection stays so, whatever its file becomes
                self.close()
            raise LiquidationsError(explain(error.orig, self.shown)) from error
        except sqlite3.Error as error:
            raise LiquidationsError(explain(error, self.shown)) from error

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """Open a transaction that writes; an exception leaves the store as it was."""
        with self.transaction(write=True) as connection:
            yield Writer(connection)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Open a transaction that reads one consistent state of the store."""
        with self.transaction(write=False) as connection:
            yield Reader(connection)

    def fingerprint(self) -> str:
        """Return a text that changes when anything in the store changes."""
        with self.read() as reader:
            digests = [
                (one.exchange, one.pair, one.source, one.period, one.digest, one.live)
                for one in reader.series()
            ]
        return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]


class State(NamedTuple):
    """Say what a reader has to know before it asks for more.

    ``packed``: before when (ms) what came live may lie in segments; ``series``: numbers that change
    when a series, or who tells it, does, and not by live rows; ``feeds``: in a fixed order.
    """

    packed: int
    series: tuple[int, ...]
    feeds: list[Feed]


def _version(connection: Connection) -> int:
    if not sa.inspect(connection).has_table(META.name):
        return 0
    return connection.scalar(_VERSION) or 0


class Reader:
    """Read within one transaction, so that nothing moves between two questions."""

    #: It sees one state only, which is final; see ``provider.Reads``.
    version = 0
    unsealed: Mapping[str, int] = {}

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
        revised = self._revised(series, start, end)
        return Source(series.source, series.period, bars, coverage, series.counted, late, revised)

    def parts(
        self, series: Series, start: int, end: int
    ) -> tuple[Bars, Ints, Bars, tuple[Events, Ints], Bars | None]:
        """Return what :meth:`source` joins: imported bars and coverage, live bars, late events.

        The last are the revised bars.
        """
        return (
            *self._packed(series, start, end),
            *self._rows(series, start, end),
            self._revised(series, start, end),
        )

    def _revised(self, series: Series, start: int, end: int) -> Bars | None:
        """Return the last vintage of the bars that were revised; None if none was."""
        if not series.revised:
            return None
        within = {"of_id": series.id, "first": int(start), "last": int(end)}
        rows = self._connection.execute(_REVISIONS_OF, within).all()
        last = {row.timestamp: (row.long, row.short) for row in rows}
        time = np.array(list(last), dtype=np.int64)
        long, short = np.array(list(last.values()), dtype=np.float64).reshape(-1, 2).T
        unknown = np.full(len(time), np.nan)
        return Bars(time, long, short, unknown, unknown, unknown, unknown) if len(time) else None

    def revisions(self, series: Series) -> list[Revision]:
        """List what the vendor revised, in order of the bars."""
        within = {"of_id": series.id, "first": 0, "last": 2**62}
        rows = self._connection.execute(_REVISIONS_OF, within).all()
        if not rows:
            return []
        first = self._packed_bars(series, rows[0].timestamp, rows[-1].timestamp + 1)
        before = {
            time: (long, short)
            for time, long, short in zip(
                first.timestamp.tolist(), first.long.tolist(), first.short.tolist(), strict=True
            )
        }
        found = []
        for time_, long, short, recorded in rows:
            old = before.get(time_, (0.0, 0.0))
            found.append(Revision(time_, recorded, old, (long, short)))
            before[time_] = long, short
        return found

    def origins(self) -> dict[int, str]:
        """Return whose recordings events came in, by the number in their column ``origin``."""
        rows = self._connection.execute(sa.select(ORIGIN.c.id, ORIGIN.c.name))
        return {one: name for one, name in rows}

    def listened(self, since: int = 0) -> dict[int, Ints]:
        """Return when each feed (by id) listened beyond ``since`` (ms): (start, end, known)."""
        return live_rows.listened(self._connection, int(since))

    def told(self) -> dict[int, list[Told]]:
        """Return which feeds tell each series (by id), and when."""
        return live_rows.told(self._connection)

    def state(self) -> State:
        """Tell what has changed since a reader last asked, by one statement."""
        rows = self._connection.execute(_STATE).all()
        packed, *series = rows[0][: len(_numbers.c)]
        feeds = [row[len(_numbers.c) :] for row in rows]
        return State(packed or 0, tuple(series), [Feed(*row) for row in feeds if row[0]])

    def listened_and_late(self, beyond: int, since: int) -> tuple[dict[int, Ints], set[int]]:
        """Return :meth:`listened` beyond a time, and which series got events since one (ms)."""
        return live_rows.listened_and_late(self._connection, int(beyond), int(since))

    def bars_since(self, time: int) -> tuple[Bars, dict[int, slice]]:
        """Return all live bars from ``time`` (ms) on, and where those of each series (id) are."""
        return live_rows.bars_since(self._connection, int(time))

    def events(self, series: Series, start: int, end: int) -> Events:
        """Return the single events of ``[start, end)`` ms, in order of time and key."""
        events = self._packed_events(series, start, end)
        if series.live is None:
            return events
        own, _ = live_rows.events_of(self._connection, series.id, int(start), int(end))
        return live_rows.once(Events.concat([events, own]))

    def feeds(self) -> list[Feed]:
        """List the live feeds in a fixed order."""
        return live_rows.feeds(self._connection)

    def gaps(self, feed: Feed, since: int = 0) -> list[tuple[int, int, str]]:
        """List when a feed did not listen beyond ``since`` (ms), and why: (start, end, reason)."""
        return live_rows.gaps(self._connection, feed, since)

    def last_events(
        self, series: Collection[int], since: int, most: int
    ) -> list[tuple[int, int, int, float]]:
        """List the last live events of some series (by id), the newest first.

        :param since: none that is older (ms UTC)
        :return: rows of (series id, timestamp, side, USD)
        """
        return live_rows.last_events(self._connection, series, since, most)

    def covered_until(self, feed: Feed) -> int | None:
        """Return until when (ms) a feed listened; None if it never did."""
        return live_rows.covered_until(self._connection, feed)

    def listened_until(self, feed: Feed) -> int | None:
        """Return until when (ms) any collector listened to the channel of a feed."""
        return live_rows.listened_until(self._connection, feed)

    def packed(self) -> int:
        """Return before when (ms) what came live may lie in segments."""
        return self._connection.scalar(_PACKED) or 0

    def minutes(self, feed: Feed, since: int) -> list[tuple[int, int]]:
        """List the minutes from ``since`` (ms) on in which a feed listened, and their events."""
        packed = self.packed()
        told = live_rows.members(self._connection, feed) if packed > since else ()
        bars = [self._packed_bars(one, since, packed) for one in self.series() if one.id in told]
        return live_rows.minutes(self._connection, feed, since, add_bars(bars))

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
    after, before = int(start) - stretch(period), int(end)
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

    def hurry(self, seconds: float) -> None:
        """Wait for what others have locked so long only; what SQLite locks, it has by now."""
        limit_waiting(self._connection, seconds)

    def insert(
        self,
        exchange: str,
        pair: str,
        source: str,
        rows: Events | Bars,
        coverage: Ints,
        *,
        period: int = MINUTE,
        origins: Sequence[str] = (),
        recorded: int | None = None,
    ) -> Inserted:
        """Add events, or a vendor's bars of ``period`` ms, and when they were observed.

        Events that are stored already are left alone; so is the first vintage of a vendor's bars.
        What the vendor says otherwise now, also by leaving a bar out of what it covers, is kept
        beside it (``revised`` counts them).

        :param origins: whose recordings events came in: 1 in their column is the first of them;
            this store's own name stands for itself
        :param recorded: when (ms) the vendor said so; default now
        """
        counted = isinstance(rows, Events) or not np.isnan(rows.long_count).all()
        series = self._series(exchange, pair, source, int(period), counted)
        coverage = merge_intervals(coverage)
        if isinstance(rows, Events) != self._single_events(series, rows):
            raise LiquidationsError(
                f"the source {source} tells {pair} of {exchange} in "
                f"{'single events' if series.counted else 'bars'} already; what is told otherwise "
                "needs another source's name, else it would be added"
            )
        if isinstance(rows, Events):
            expired = int(np.count_nonzero(rows.timestamp < series.kept))
            if series.kept:
                rows = rows.take(rows.timestamp >= series.kept)
                coverage = without_intervals(coverage, _before(series.kept))
            if rows.origin.any():
                rows = self._with_origins(rows, origins)
            conflicts = self._conflicts(series, rows, coverage)
            done, digest = self._insert_events(series, rows)
            done.conflicts = conflicts
            done.expired = expired
            late = live_rows.accept(self._connection, series.id, coverage)
            digest += digest_of(late.timestamp, late.key)
        else:
            now = time.time_ns() // 1_000_000 if recorded is None else recorded
            done, digest = self._insert_bars(series, rows, coverage, now)
        digest += self._cover(series, coverage)
        self._save_digest(series, digest)
        return done

    def _save_digest(self, series: Series, change: int) -> None:
        total = added_digest(series.digest, change)
        if total != series.digest:
            self._connection.execute(
                sa.update(SERIES).where(SERIES.c.id == series.id).values(digest=total)
            )

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

    def remove(
        self,
        exchange: str,
        pair: str,
        source: str,
        *,
        period: int | None = None,
        spans: Ints | None = None,
    ) -> None:
        """Remove what a source told of a contract.

        :param period: of the bars (ms); default all
        :param spans: intervals (ms) of which only what was imported is removed: events, bars that
            begin in them, revisions and coverage; default all there is, live rows too
        """
        names: dict[str, str | int] = {"exchange": exchange, "pair": pair, "source": source}
        if period is not None:
            names["period"] = int(period)
        known = sa.select(SERIES).filter_by(**names)
        if spans is not None:
            for row in self._connection.execute(known.with_for_update()).all():
                series = Series(*row)
                # What has no events any more could not be told again, nor what a feed has told:
                # packed, it lies among what was imported.
                live = live_rows.coverage_of(self._connection, series.id)[:, :2]
                held = merge_intervals(np.concatenate((live, _before(series.kept))))
                self._clear(series, without_intervals(merge_intervals(spans), held))
            return
        ids = self._connection.scalars(known.with_only_columns(SERIES.c.id).with_for_update()).all()
        for table in (SEGMENT, COVERAGE, REVISION, *live_rows.OF_SERIES):
            self._connection.execute(sa.delete(table).where(table.c.series_id.in_(ids)))
        self._connection.execute(sa.delete(SERIES).filter_by(**names))

    def _clear(self, series: Series, spans: Ints) -> None:
        """Remove from the segments, revisions and coverage of a series what lies in the spans."""
        if not len(spans):
            return
        first, last = int(spans[0, 0]), int(spans[-1, 1])
        gone = self._packed_events(series, first, last)
        gone = gone.take(is_within(spans, gone.timestamp))
        if self._single_events(series, gone):
            if len(gone):
                self._drop_events(series, gone)
            digest = digest_of(gone.timestamp, gone.key)
        else:
            bars = self._packed_bars(series, first, last)
            bars = bars.take(is_within(spans, bars.timestamp))
            self._replace_bars(series, bars, Bars.concat([]))
            digest = digest_of(bars.timestamp, bars.long, bars.short)
        of_series = REVISION.c.series_id == series.id
        for start, end in spans.tolist():
            within = {"of_id": series.id, "first": start, "last": end}
            rows = self._connection.execute(_REVISIONS_OF, within).all()
            digest += _digest_of_revisions(
                *(np.array([tuple(row) for row in rows]).reshape(-1, 4).T[:3])
            )
            told = of_series & (REVISION.c.timestamp >= start) & (REVISION.c.timestamp < end)
            self._connection.execute(sa.delete(REVISION).where(told))
        held = _intervals(self._connection.execute(_COVERAGE_OF, {"of_id": series.id}))
        left = without_intervals(held, spans)
        self._connection.execute(sa.delete(COVERAGE).where(COVERAGE.c.series_id == series.id))
        digest += digest_of(held[:, 0], held[:, 1])
        self._save_digest(series, self._cover(replace(series, digest=0), left) - digest)

    def _drop_events(self, series: Series, gone: Events) -> None:
        for start, part in by_segment(gone, EVENTS):
            held = self._packed_events(series, start, start + stretch(EVENTS))
            kept = held.take(~live_rows.same(held, part.timestamp, part.key))
            self._put(series, EVENTS, start, len(kept), pack_events(kept))
        # Of a minute that is cut in two some events are left.
        wrong = to_bars(gone, series.period)
        first, last = wrong.timestamp[0], wrong.timestamp[-1] + series.period
        right = to_bars(self._packed_events(series, first, last), series.period)
        self._replace_bars(series, wrong, right.take(np.isin(right.timestamp, wrong.timestamp)))

    def _replace_bars(self, series: Series, wrong: Bars, right: Bars) -> None:
        for start, _ in by_segment(wrong, series.period):
            end = start + stretch(series.period)
            old = self._packed_bars(series, start, end)
            kept = old.take(~np.isin(old.timestamp, wrong.timestamp))
            bars = Bars.concat([kept, _between(right, start, end)])
            bars = bars.take(np.argsort(bars.timestamp))
            self._put(series, series.period, start, len(bars), pack_bars(bars))

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
        wanted, (known, _) = set(pairs), self._series_of(feed)
        for pair in sorted(wanted - known.keys()):
            known[pair] = self._series(feed.exchange, pair, feed.source, MINUTE, True)
        # In the order in which :meth:`append` locks them.
        ids = {known[pair].id for pair in wanted}
        live_rows.lock_series(self._connection, ids)
        for pair in sorted(wanted):
            if known[pair].live is None and not known[pair].kept:
                self._keep_bars(known[pair])
        live_rows.join(self._connection, feed, ids, time)

    def _keep_bars(self, series: Series) -> None:
        """Note of a series that will have events until when it has only their bars."""
        kinds = sa.select(SEGMENT.c.period).where(SEGMENT.c.series_id == series.id).distinct()
        if set(self._connection.scalars(kinds)) == {MINUTE}:
            ends = [*self._packed_bars(series, 0, 2**62).timestamp[-1:] + MINUTE]
            ends += [*self.coverage(series)[-1:, 1]]
            kept = sa.update(SERIES).where(SERIES.c.id == series.id)
            self._connection.execute(kept.values(kept=int(max(ends))))

    def append(self, feed: Feed, events: Mapping[str, Events], known: int) -> tuple[Feed, Inserted]:
        """Add live events by pair; those of the sealed past are late, and ``known`` from then on.

        :param known: the close of a minute, at which what is late is known
        :return: the feed with its new digest, to be handed to :meth:`seal`, and what was new
        """
        known_series, packed = self._series_of(feed)
        for pair in sorted(events.keys() - known_series.keys()):
            known_series[pair] = self._series(feed.exchange, pair, feed.source, MINUTE, True)
        if live_rows.lock_series(self._connection, [known_series[pair].id for pair in events]):
            known_series, packed = self._series_of(feed)  # as they are now that nobody changes them
        parts = []
        for pair, own in events.items():
            series = known_series[pair]
            own = own.take(own.timestamp >= series.kept) if series.kept else own
            if series.digest or (len(own) and own.timestamp.min() < packed):
                own = own.take(~self._packed_already(series, own))
            parts.append((series.id, own))
        new, digest = live_rows.insert_events(self._connection, parts, feed.sealed, known)
        asked = sum(map(len, events.values()))
        return feed.changed(digest), Inserted(new, asked - new)

    def _series_of(self, feed: Feed) -> tuple[dict[str, Series], int]:
        """Return the series of a feed by pair, and before when (ms) events may be packed."""
        names = {"of_exchange": feed.exchange, "of_source": feed.source}
        rows = self._connection.execute(_LIVE_SERIES_OF, names).all()
        packed = rows[0].packed or 0 if rows else 0
        return {one.pair: one for one in (Series(*row[:-1]) for row in rows)}, packed

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
        asked = len(events)
        events = live_rows.once(events)
        if (known := live_rows.stored(self._connection, series.id, events)).any():
            events = events.take(~known)
        fresh: list[Events] = []
        for start, part in by_segment(events, EVENTS):
            old = self._packed_events(series, start, start + stretch(EVENTS))
            if len(old):
                part = part.take(~live_rows.same(part, old.timestamp, old.key))
            if len(part):
                fresh.append(part)
                merged = live_rows.once(Events.concat([old, part])) if len(old) else part
                self._put(series, EVENTS, start, len(merged), pack_events(merged))
        new = Events.concat(fresh)
        for start, added in by_segment(to_bars(new), series.period):
            old_bars = self._packed_bars(series, start, start + stretch(series.period))
            bars = add_bars([old_bars, added])
            self._put(series, series.period, start, len(bars), pack_bars(bars))
        return Inserted(len(new), asked - len(new)), digest_of(new.timestamp, new.key)

    def _single_events(self, series: Series, rows: Events | Bars) -> bool:
        """Tell whether a series is made of events, or may be, if these rows are its first ones."""
        if not series.counted:
            return False
        if series.period != MINUTE:
            return isinstance(rows, Events)
        if series.kept:
            return True
        packed = sa.select(SEGMENT.c.period).where(SEGMENT.c.series_id == series.id)
        kinds = set(self._connection.scalars(packed.distinct()))
        told = sa.select(MEMBER.c.series_id).where(MEMBER.c.series_id == series.id).limit(1)
        if EVENTS in kinds or self._connection.scalar(told) is not None:
            return True
        return isinstance(rows, Events) and MINUTE not in kinds

    def _conflicts(self, series: Series, events: Events, coverage: Ints) -> int:
        """Count the events that one side lacks of the time that both observed."""
        series = replace(series, live=0)  # in case that a feed tells it too
        both = common_intervals(self.coverage(series), coverage)
        if not len(both):
            return 0
        stored = self.events(series, both[0, 0], both[-1, 1])
        mine, theirs = (one.take(is_within(both, one.timestamp)) for one in (stored, events))
        known = int(live_rows.same(theirs, mine.timestamp, mine.key).sum())
        return len(mine) + len(theirs) - 2 * known

    def _with_origins(self, events: Events, origins: Sequence[str]) -> Events:
        """Replace the numbers of a recording's origins by those of this store."""
        own = self._connection.scalar(sa.select(META.c.value).where(META.c.name == "store"))
        known = {name: one for one, name in self.origins().items()}
        known[f"store-{own:08x}"] = 0
        for name in origins:
            if name not in known:
                known[name] = max(known.values()) + 1
                if known[name] > np.iinfo(np.int16).max:
                    raise LiquidationsError(
                        f"this store knows {known[name] - 1:,} recorders already, and can't tell "
                        "more apart; import this recording into a store of its own"
                    )
                self._connection.execute(sa.insert(ORIGIN).values(id=known[name], name=name))
        numbers = np.array([0, *(known[name] for name in origins)], dtype=np.int16)
        return replace(events, origin=numbers[events.origin])

    def _insert_bars(
        self, series: Series, bars: Bars, coverage: Ints, now: int
    ) -> tuple[Inserted, int]:
        period = series.period
        told = merge_intervals(np.concatenate((coverage, _spans(bars, period))))
        if not len(told):
            return Inserted(), 0
        stored = self._packed_bars(series, told[0, 0], told[-1, 1])
        spans = np.concatenate((self.coverage(series), _spans(stored, period)))
        observed = merge_intervals(spans)
        digest = 0
        known = _whole(observed, bars.timestamp, period)
        for start, part in by_segment(bars.take(~known), period):
            old = self._packed_bars(series, start, start + stretch(period))
            merged = Bars.concat([old, part])
            merged = merged.take(np.argsort(merged.timestamp))
            self._put(series, period, start, len(merged), pack_bars(merged))
            digest += digest_of(part.timestamp, part.long, part.short)
        changed = self._changed(series, stored, bars, common_intervals(observed, told))
        self._revise(series, changed, now)
        digest += _digest_of_revisions(changed.timestamp, changed.long, changed.short)
        again = int(known.sum()) - int(np.isin(bars.timestamp, changed.timestamp).sum())
        return Inserted(len(bars) - int(known.sum()), again, len(changed)), digest

    def _changed(self, series: Series, stored: Bars, bars: Bars, both: Ints) -> Bars:
        """Return what a vendor says otherwise now of the bars of ``both``, told before and now."""
        if not len(both):
            return Bars.concat([])
        revised = self._revised(replace(series, revised=True), both[0, 0], both[-1, 1])
        last = Source(series.source, series.period, stored, both, revised=revised).latest().bars
        time = np.unique(np.concatenate((last.timestamp, bars.timestamp)))
        time = time[_whole(both, time, series.period)]
        long, short = _at(bars, time)
        old_long, old_short = _at(last, time)
        other = (old_long != long) | (old_short != short)
        unknown = np.full(int(other.sum()), np.nan)
        return Bars(time[other], long[other], short[other], *(unknown,) * 4)

    def _revise(self, series: Series, bars: Bars, now: int) -> None:
        if not len(bars):
            return
        of_series = REVISION.c.series_id == series.id
        last = self._connection.scalar(sa.select(sa.func.max(REVISION.c.recorded)).where(of_series))
        names = ("series_id", "recorded", "timestamp", "long", "short")
        told = series.id, max(now, (last or 0) + 1)  # one bar may be revised twice in a ms
        columns = (bars.timestamp.tolist(), bars.long.tolist(), bars.short.tolist())
        self._connection.execute(
            sa.insert(REVISION),
            [dict(zip(names, (*told, *row), strict=True)) for row in zip(*columns, strict=True)],
        )

    def _put(
        self, series: Series, period: int, start: int, rows: int, data: bytes | memoryview
    ) -> None:
        """Put one segment in the place of all that there are of the stretch from ``start`` on."""
        within = SEGMENT.c.start.between(start, start + stretch(period) - 1)
        names = {"series_id": series.id, "period": period}
        self._connection.execute(sa.delete(SEGMENT).filter_by(**names).where(within))
        segment = {"start": start, "rows": rows, "data": data}
        self._connection.execute(sa.insert(SEGMENT).values(**names, **segment))

    def _cover(self, series: Series, coverage: Ints) -> int:
        """Add intervals, merging them with those that they touch; return the change of digest."""
        new = coverage
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


def added_digest(digest: int, change: int) -> int:
    """Add to a digest; it stays within 64 bits."""
    return (digest + change + 2**63) % 2**64 - 2**63


def _digest_of_revisions(time: np.ndarray, long: Floats, short: Floats) -> int:
    """Hash revisions, of which one must not look like a bar."""
    return digest_of(time.astype(np.int64), long, short, np.full(len(time), np.nan))


def _before(time: int) -> Ints:
    return np.array([[0, time]], dtype=np.int64)


def _spans(bars: Bars, period: int) -> Ints:
    return np.column_stack((bars.timestamp, bars.timestamp + period))


def _at(bars: Bars, time: Ints) -> tuple[Floats, Floats]:
    """Return the volumes of the bars of some times, 0 where there is none."""
    at = np.searchsorted(bars.timestamp, time)
    there = np.append(bars.timestamp, -1)[at] == time
    long, short = (np.where(there, np.append(v, 0.0)[at], 0.0) for v in (bars.long, bars.short))
    return long, short


def _whole(intervals: Ints, starts: Ints, period: int) -> np.ndarray:
    """Tell which periods (ms) lie within the intervals as a whole."""
    return covered_ms(intervals, starts, starts + period) == period


def by_segment(rows: Rows, period: int) -> Iterator[tuple[int, Rows]]:
    """Cut rows, which are in order of time, into those of each stretch, named by its start."""
    number = rows.timestamp // stretch(period)
    first = np.flatnonzero(np.append(True, number[1:] != number[:-1])[: len(number)])
    starts = number[first]
    for start, begin, end in zip(starts, first, np.append(first, len(rows))[1:], strict=True):
        yield int(start) * stretch(period), rows.take(slice(begin, end))
