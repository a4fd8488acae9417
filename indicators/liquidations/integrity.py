"""Whether a store is sound: nothing damaged, torn, doubled or pointing nowhere. Floor 3.

Whether what it holds can be true is another question (``check.py``).

Segments are unpacked one by one, a series in one transaction. Bars must be the sums of their
events, packed and as rows alike: of days with live rows all series are compared at one moment,
because a collector moves rows into segments meanwhile. What is damaged is said once, and nothing
is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations.candles import add_bars, format_period, format_time, to_bars
from liquidations.errors import LiquidationsError
from liquidations.event import (
    DAY,
    LONG,
    MINUTE,
    USD_QUANTUM,
    Bars,
    Ints,
    digest_of,
    is_within,
    merge_intervals,
)
from liquidations.reader import Reader, Rows, Series, stretch
from liquidations.rows import events_of, same
from liquidations.segments import unpack_bars, unpack_events
from liquidations.store import Store
from liquidations.tables import (
    BAR,
    COVERAGE,
    EVENT,
    EVENTS,
    FEED,
    FEED_COVERAGE,
    GAP,
    LATE,
    MEMBER,
    REVISION,
    SEGMENT,
    SERIES,
    metadata,
)


#: Volumes are equal to the bit up to 537 million USD a minute; sums of squares never were.
_CLOSE = 1e-9

_RESTORE = (
    "restore a copy of the store; or export what is before and after it (liquidations export-data "
    "with --timerange) and import that into a new store"
)
_AGAIN = "download that time again: liquidations download-data with --erase and --timerange"
_REPORT = "restore a copy of the store, and report it: no version of the program should do that"


@dataclass(frozen=True, slots=True)
class Problem:
    """Say what is wrong, where, and what to do."""

    where: str
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. Do: {self.do}."


@dataclass(slots=True)
class Seen:
    """Count what was looked at; ``notes`` say what could not be."""

    series: int = 0
    segments: int = 0
    packed: int = 0
    rows: int = 0
    notes: list[str] = field(default_factory=list)


#: Is told what is being looked at, how much of it is done, and how much there is.
Tell = Callable[[str, int, int], None]


def find_problems(
    store: Store, seen: Seen, tell: Tell = lambda what, done, total: None
) -> Iterator[Problem]:
    """Look at all that a store holds, and say what is wrong with it.

    :param seen: is filled with counts while it goes on
    :param tell: is called with what is looked at, how much of it is done, and the total
    :raises LiquidationsError: if the store can't be read at all.
    """
    tell("the database", 0, 1)
    damage = list(_database(store, seen))
    yield from damage
    if damage:
        seen.notes.append("the rest was not read, because the file itself is damaged")
        return
    tell("links", 0, 1)
    with store.transaction(write=False) as connection:
        missing = [
            table.name
            for table in metadata.sorted_tables
            if not sa.inspect(connection).has_table(table.name)
        ]
        if missing:
            yield Problem("the store", f"it lacks the tables {', '.join(missing)}", _RESTORE)
            return
        yield from _links(connection)
        ids = list(connection.scalars(sa.select(SERIES.c.id).order_by(SERIES.c.pair, SERIES.c.id)))
        live = _live_since(connection)
    for done, one in enumerate(ids):
        tell("series", done, len(ids))
        with store.transaction(write=False) as connection:
            problems = _series(connection, one, seen, live)
        yield from problems
    yield from _live_days(store, seen, live, tell)


def _series(connection: Connection, series_id: int, seen: Seen, live: int) -> list[Problem]:
    found = [one for one in Reader(connection).series() if one.id == series_id]
    if not found:  # it has been removed meanwhile
        return []
    look = _Packed(connection, found[0], seen)
    look.compare_coverage()
    look.sums(live)
    look.compare_digest()
    seen.series += 1
    return look.problems


# --- the database itself --------------------------------------------------------------------------


def _database(store: Store, seen: Seen) -> Iterator[Problem]:
    with store.transaction(write=False) as connection:
        if connection.dialect.name == "sqlite":
            said = connection.scalars(sa.text("PRAGMA quick_check(10)")).all()
            for lines in said if list(said) != ["ok"] else ():
                what = "; ".join(line for line in lines.splitlines() if line.strip(" *"))
                yield Problem("the file", f"SQLite says: {what}", _RESTORE)
        else:
            seen.notes.append(
                "PostgreSQL's own pages were not examined, only what they hold was read; its "
                "program pg_amcheck examines them"
            )


def _links(connection: Connection) -> Iterator[Problem]:
    """Look for rows that belong to nothing."""
    for parent, column in ((SERIES, "series_id"), (FEED, "feed_id")):
        for table in metadata.sorted_tables:
            if column in table.c:
                lost = ~sa.exists().where(parent.c.id == table.c[column])
                number = connection.scalar(
                    sa.select(sa.func.count()).where(lost).select_from(table)
                )
                if number:
                    yield Problem(
                        table.name, f"{number:,} rows belong to no row of {parent.name}", _REPORT
                    )
    wrong = sa.select(EVENT.c.series_id, EVENT.c.timestamp).where(
        LATE, (EVENT.c.known % MINUTE != 0) | (EVENT.c.known <= EVENT.c.timestamp)
    )
    names = {one: pair for one, pair in connection.execute(sa.select(SERIES.c.id, SERIES.c.pair))}
    days = {(one, _day(at)) for one, at in connection.execute(wrong)}
    for one, day in sorted(days):
        what = "late events are not known at a minute's close after they happened"
        yield Problem(f"{names.get(one, one)}, {day}", what, _REPORT)
    for table, least in ((FEED_COVERAGE, 1), (GAP, 1), (MEMBER, 0)):
        turned = table.c.end < table.c.start + least
        number = connection.scalar(sa.select(sa.func.count()).where(turned).select_from(table))
        if number:
            yield Problem(table.name, f"{number:,} intervals end before they begin", _REPORT)


def _live_since(connection: Connection) -> int:
    """Return the day (ms) of the first live row whose sum is live or packed."""
    event = sa.select(EVENT.c.timestamp).where(EVENT.c.known == 0).order_by(EVENT.c.timestamp)
    bar = sa.select(sa.func.min(BAR.c.timestamp))
    times = connection.scalar(event.limit(1)), connection.scalar(bar)
    return min((at for at in times if at is not None), default=2**62) // DAY * DAY


# --- what is packed -------------------------------------------------------------------------------


class _Packed:
    """Look at what a series has packed, within one transaction."""

    def __init__(self, connection: Connection, series: Series, seen: Seen) -> None:
        self._connection = connection
        self._seen = seen
        self.series = series
        self.problems: list[Problem] = []
        #: Intervals (ms) in which something can't be read.
        self.unread: list[tuple[int, int]] = []
        self.digest = 0
        rows = connection.execute(
            sa.select(SEGMENT.c.period, SEGMENT.c.start, SEGMENT.c.rows)
            .where(SEGMENT.c.series_id == series.id)
            .order_by(SEGMENT.c.period, SEGMENT.c.start)
        )
        #: Start and rows of each segment, by period.
        self.parts: dict[int, list[tuple[int, int]]] = {}
        for period, start, number in rows:
            self.parts.setdefault(period, []).append((start, number))
        #: The bars of such a series are the sums of its events.
        self.of_events = EVENTS in self.parts or series.live is not None or series.kept > 0

    def sums(self, live: int) -> None:
        """Read all segments, and compare bars with events before a time (ms)."""
        series, span = self.series, stretch(self.series.period)
        for period in self.parts.keys() - {EVENTS, series.period}:
            self.say(None, f"it holds bars of {period:,} ms, which are not its own", _REPORT)
        starts = [start for start, _ in self.parts.get(series.period, [])]
        starts += [one for at, _ in self.parts.get(EVENTS, []) for one in (at, at + DAY - 1)]
        for begin in sorted({start // span * span for start in starts}):
            end = begin + span
            events = [
                self._bars_of(*part, begin, end) for part in self._from(EVENTS, begin - DAY, end)
            ]
            bars = [self._bars(*part) for part in self._from(series.period, begin, end)]
            if self.of_events:
                minutes = _differing(events, bars)
                minutes = minutes[(minutes < live) & (minutes >= series.kept)]
                unread = merge_intervals(np.array(self.unread, np.int64))
                minutes = minutes[~is_within(unread, minutes)]
                self.problems += _not_sums(series, minutes)

    def _from(self, period: int, begin: int, end: int) -> list[tuple[int, int]]:
        return [part for part in self.parts.get(period, []) if begin <= part[0] < end]

    def _bars_of(self, start: int, rows: int, begin: int, end: int) -> Bars:
        """Sum the events of a segment that lie in ``[begin, end)``."""
        events = self._read(EVENTS, start, rows, unpack_events, again=start < begin)
        if events is None:
            return Bars.concat([])
        if start >= begin:
            self.digest += digest_of(events.timestamp, events.key)
        bars = to_bars(events)
        return bars.take((bars.timestamp >= begin) & (bars.timestamp < end))

    def _bars(self, start: int, rows: int) -> Bars:
        bars = self._read(self.series.period, start, rows, unpack_bars)
        if bars is None:
            return Bars.concat([])
        if not self.of_events:
            self.digest += digest_of(bars.timestamp, bars.long, bars.short)
        return bars

    def _read(
        self,
        period: int,
        start: int,
        rows: int,
        unpack: Callable[[bytes], Rows],
        again: bool = False,
    ) -> Rows | None:
        """Unpack a segment; None, which was said, if that can't be done.

        :param again: it was looked at before
        """
        names = {"series_id": self.series.id, "period": period, "start": start}
        data = self._connection.scalars(sa.select(SEGMENT.c.data).filter_by(**names)).one()
        last = start // stretch(period) * stretch(period) + stretch(period)
        try:
            found = unpack(data)
        except LiquidationsError as error:
            if not again:
                self.unread.append((start // MINUTE * MINUTE, last))
                self.say(start, str(error).partition(";")[0], _RESTORE)
            return None
        if again:
            return found
        self._seen.segments += 1
        self._seen.packed += len(found)
        following = [one for one, _ in self.parts[period] if one > start]
        if len(found) != rows:
            self.say(
                start, f"a segment should hold {rows:,} rows, and holds {len(found):,}", _RESTORE
            )
        if not _in_order(found):
            self.say(start, "a segment is not in order, or holds a row twice", _RESTORE)
        elif len(found) and not start <= found.timestamp[0] <= found.timestamp[-1] < last:
            self.say(start, "a segment holds rows of another time than its own", _RESTORE)
        elif len(found) and following and found.timestamp[-1] >= following[0]:
            self.say(start, "two segments overlap", _RESTORE)
        elif period and (found.timestamp % period).any():
            self.say(start, "bars do not begin where their periods do", _RESTORE)
        return found

    def compare_digest(self) -> None:
        """Compare the hash of all that was inserted with that of what is there."""
        # A feed hashes what it tells itself, and what was dropped stays hashed.
        if self.series.live is not None or self.series.kept or self.problems:
            return
        own = REVISION.c.series_id == self.series.id
        columns = REVISION.c.timestamp, REVISION.c.long, REVISION.c.short
        rows = self._connection.execute(sa.select(*columns).where(own)).all()
        time, long, short = np.array(rows, np.float64).reshape(-1, 3).T
        revised = digest_of(time.astype(np.int64), long, short, np.full(len(time), np.nan))
        covered = digest_of(*self.coverage().T)
        if (self.series.digest - self.digest - revised - covered) % 2**64:
            self.say(None, "it does not hold what was written: its hash is another one", _AGAIN)

    def coverage(self) -> Ints:
        """Return the intervals in which it was imported, as they are stored."""
        rows = self._connection.execute(
            sa.select(COVERAGE.c.start, COVERAGE.c.end)
            .where(COVERAGE.c.series_id == self.series.id)
            .order_by(COVERAGE.c.start)
        )
        return np.array(rows.all(), np.int64).reshape(-1, 2)

    def compare_coverage(self) -> None:
        """Look for intervals of coverage that overlap or end before they begin."""
        coverage = self.coverage()
        if not np.array_equal(coverage, merge_intervals(coverage)):
            self.say(None, "its intervals of coverage overlap, or end before they begin", _AGAIN)

    def say(self, time: int | None, what: str, do: str) -> None:
        """Note a problem of the series, or of a day of it (ms)."""
        self.problems.append(_problem(self.series, time, what, do))


def _problem(series: Series, time: int | None, what: str, do: str) -> Problem:
    name = f"{series.exchange} {series.pair} ({series.source}, {format_period(series.period)})"
    return Problem(name if time is None else f"{name}, {_day(time)}", what, do)


def _day(time: int) -> str:
    return format_time(time)[:10]


def _in_order(rows: Rows) -> bool:
    """Tell whether rows are in order, and none is there twice."""
    step = np.diff(rows.timestamp)
    if isinstance(rows, Bars):
        return bool((step > 0).all())
    ordered = (step > 0) | ((step == 0) & (rows.key[1:] > rows.key[:-1]))
    return bool(ordered.all())


def _differing(one: Sequence[Bars], other: Sequence[Bars]) -> Ints:
    """Return the minutes (ms) in which the sums of some bars are not those of others."""
    sums = add_bars(one), add_bars(other)
    time = np.union1d(*(bars.timestamp for bars in sums))
    equal = np.ones(len(time), bool)
    for name in Bars.names()[1:]:
        mine, theirs = np.zeros((2, len(time)))
        for column, bars in zip((mine, theirs), sums, strict=True):
            column[np.searchsorted(time, bars.timestamp)] = getattr(bars, name)
        equal &= np.isclose(mine, theirs, rtol=_CLOSE, atol=USD_QUANTUM)
    return time[~equal]


def _not_sums(series: Series, minutes: Ints) -> Iterator[Problem]:
    """Say of each day in which minutes bars are not the sums of their events."""
    day = minutes // DAY
    for one in np.unique(day).tolist():
        of_day = minutes[day == one]
        what = (
            f"{len(of_day):,} one-minute bars are not the sums of their events, the first that of "
            f"{format_time(of_day[0])[11:16]}"
        )
        yield _problem(series, one * DAY, what, _RESTORE if series.live is not None else _AGAIN)


# --- what is live ---------------------------------------------------------------------------------


def _live_days(store: Store, seen: Seen, live: int, tell: Tell) -> Iterator[Problem]:
    """Compare bars with events of all series, of each day that has live rows."""
    with store.transaction(write=False) as connection:
        ends = [
            connection.scalar(sa.select(sa.func.max(table.c.timestamp))) for table in (EVENT, BAR)
        ]
    last = max((end for end in ends if end is not None), default=live - 1)
    days = range(live, last + 1, DAY)
    for done, day in enumerate(days):
        tell("days with live rows", done, len(days))
        with store.transaction(write=False) as connection:
            found = list(_live_day(connection, day, seen))
        yield from found


def _live_day(connection: Connection, day: int, seen: Seen) -> Iterator[Problem]:
    reader = Reader(connection)
    within = {"first": day, "last": day + DAY}
    told = connection.execute(_SUMS_OF_EVENTS, within).all()
    held = connection.execute(_BARS, within).all()
    seen.rows += int(sum(row[3] for row in told)) + len(held)
    events = np.array(told, np.float64).reshape(-1, 6)
    bars = np.array(held, np.float64).reshape(-1, 8)
    packed = set(connection.scalars(_PACKED, within))
    concerned = packed | set(events[:, 0].tolist()) | set(bars[:, 0].tolist())
    for series in reader.series():
        if series.id not in concerned:
            continue
        own = replace(series, live=None)  # what is packed of it
        try:
            old = reader.events(own, day, day + DAY)
            packed_bars = reader.bars(own, day, day + DAY)
        except LiquidationsError:
            continue  # it was said that this can't be read
        rows = events[events[:, 0] == series.id]
        _, minute, side, count, usd, squares = rows.T
        sides = [np.where(side == LONG, one, 0.0) for one in (usd, count, squares)]
        others = [np.where(side == LONG, 0.0, one) for one in (usd, count, squares)]
        pairs = [one for two in zip(sides, others, strict=True) for one in two]
        sums = Bars(minute.astype(np.int64), *pairs)
        _, at, *columns = bars[bars[:, 0] == series.id].T
        minutes = _differing(
            [to_bars(old), sums], [packed_bars, Bars(at.astype(np.int64), *columns)]
        )
        yield from _not_sums(series, minutes[minutes >= series.kept])
        if len(old) and len(rows):
            first, last = int(old.timestamp[0]), int(old.timestamp[-1]) + 1
            again, _ = events_of(connection, series.id, first, last)
            if number := int(same(again, old.timestamp, old.key).sum()):
                what = f"{number:,} events are there twice, as rows and in a segment"
                yield _problem(series, day, what, _REPORT)


_minute = EVENT.c.timestamp - EVENT.c.timestamp % MINUTE
_SUMS_OF_EVENTS = (
    sa.select(
        EVENT.c.series_id,
        _minute,
        EVENT.c.side,
        sa.func.count(),
        sa.func.sum(EVENT.c.value_usd),
        sa.func.sum(EVENT.c.value_usd * EVENT.c.value_usd),
    )
    .where(
        EVENT.c.known == 0,
        EVENT.c.timestamp >= sa.bindparam("first"),
        EVENT.c.timestamp < sa.bindparam("last"),
    )
    .group_by(EVENT.c.series_id, _minute, EVENT.c.side)
)
_BARS = sa.select(BAR.c.series_id, *(BAR.c[name] for name in Bars.names())).where(
    BAR.c.timestamp >= sa.bindparam("first"), BAR.c.timestamp < sa.bindparam("last")
)
_PACKED = (
    sa.select(SEGMENT.c.series_id)
    .where(
        SEGMENT.c.period == EVENTS,
        SEGMENT.c.start >= sa.bindparam("first"),
        SEGMENT.c.start < sa.bindparam("last"),
    )
    .distinct()
)
