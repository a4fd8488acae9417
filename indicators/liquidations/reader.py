"""Read a store: series, bars, events and coverage within one transaction. Floor 2.

Imported data lie in segments, live ones in rows in front of them (``rows.py``); who reads sees both
as one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations import rows as live_rows
from liquidations.candles import Late, Source, add_bars
from liquidations.event import DAY, Bars, Events, Ints, merge_intervals
from liquidations.rows import Feed, Told
from liquidations.segments import unpack_bars, unpack_events
from liquidations.tables import (
    COVERAGE,
    EVENTS,
    FEED,
    MEMBER,
    META,
    ORIGIN,
    REVISION,
    SEGMENT,
    SERIES,
)


Rows = TypeVar("Rows", Events, Bars)

# Written once, so that SQLAlchemy does not build and compile them again for each pair.

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
COVERAGE_OF = (
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
REVISIONS_OF = (
    sa.select(REVISION.c.timestamp, REVISION.c.long, REVISION.c.short, REVISION.c.recorded)
    .where(
        REVISION.c.series_id == sa.bindparam("of_id"),
        REVISION.c.timestamp >= sa.bindparam("first"),
        REVISION.c.timestamp < sa.bindparam("last"),
    )
    .order_by(REVISION.c.timestamp, REVISION.c.recorded)
)
PACKED = sa.select(META.c.value).where(META.c.name == "packed")
_numbers = sa.select(
    PACKED.scalar_subquery().label("packed"),
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
# Rows of both kinds: a segment has data, an interval has an end.
_SEGMENTS_AND_COVERAGE_OF = sa.union_all(
    _SEGMENTS_OF.order_by(None).with_only_columns(
        SEGMENT.c.start, sa.null().label("end"), SEGMENT.c.data
    ),
    COVERAGE_OF.order_by(None).add_columns(sa.null()),
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


class State(NamedTuple):
    """Say what a reader has to know before it asks for more.

    ``packed``: before when (ms) what came live may lie in segments; ``series``: numbers that change
    when a series, or who tells it, does, and not by live rows; ``feeds``: in a fixed order.
    """

    packed: int
    series: tuple[int, ...]
    feeds: list[Feed]


def stretch(period: int) -> int:
    """Return the stretch of time (ms) that the segments of this period do not cross."""
    return DAY if period == EVENTS else period * 131_072


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
        own = intervals_of(self._connection.execute(COVERAGE_OF, {"of_id": series.id}))
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
        rows = self._connection.execute(REVISIONS_OF, within).all()
        last = {row.timestamp: (row.long, row.short) for row in rows}
        time = np.array(list(last), dtype=np.int64)
        long, short = np.array(list(last.values()), dtype=np.float64).reshape(-1, 2).T
        unknown = np.full(len(time), np.nan)
        return Bars(time, long, short, unknown, unknown, unknown, unknown) if len(time) else None

    def revisions(self, series: Series) -> list[Revision]:
        """List what the vendor revised, in order of the bars."""
        within = {"of_id": series.id, "first": 0, "last": 2**62}
        rows = self._connection.execute(REVISIONS_OF, within).all()
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
        return self._connection.scalar(PACKED) or 0

    def minutes(self, feed: Feed, since: int) -> list[tuple[int, int]]:
        """List the minutes from ``since`` (ms) on in which a feed listened, and their events."""
        packed = self.packed()
        told = live_rows.members(self._connection, feed) if packed > since else ()
        bars = [self._packed_bars(one, since, packed) for one in self.series() if one.id in told]
        return live_rows.minutes(self._connection, feed, since, add_bars(bars))

    def _packed_bars(self, series: Series, start: int, end: int) -> Bars:
        found = self._connection.execute(_SEGMENTS_OF, _within(series, series.period, start, end))
        return between(unpack_bars(*found.scalars()), start, end)

    def _packed_events(self, series: Series, start: int, end: int) -> Events:
        found = self._connection.execute(_SEGMENTS_OF, _within(series, EVENTS, start, end))
        events = Events.concat([unpack_events(data) for data in found.scalars()])
        return between(events, start, end)

    def _packed(self, series: Series, start: int, end: int) -> tuple[Bars, Ints]:
        # Both by one statement, which costs a good deal less than two.
        rows = self._connection.execute(
            _SEGMENTS_AND_COVERAGE_OF, _within(series, series.period, start, end)
        ).all()
        bars = unpack_bars(*(row.data for row in rows if row.end is None))
        coverage = intervals_of(row[:2] for row in rows if row.end is not None)
        return between(bars, start, end), coverage

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


def between(rows: Rows, start: int, end: int) -> Rows:
    """Cut rows, which are in order of time, to ``[start, end)``."""
    return rows.take(slice(*np.searchsorted(rows.timestamp, (start, end))))


def joined(packed: Bars, rows: Bars) -> Bars:
    """Join imported and live bars, which share a minute at most where an import met the feed."""
    if not len(packed) or not len(rows):
        return packed if len(packed) else rows
    return add_bars([packed, rows])


def intervals_of(rows: Iterable[Sequence[int]]) -> Ints:
    """Make intervals of rows of (start, end)."""
    return np.array([tuple(row) for row in rows], dtype=np.int64).reshape(-1, 2)
