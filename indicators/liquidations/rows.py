"""Rows of what arrives live, one by one, in front of the segments. Floor 2.

A minute is *sealed* once its bots may have read it. From then on its bar does not change: what
arrives later is kept apart with ``known``, the first minute's close at which it was known. A candle
that closes at or after ``known`` contains it, an earlier one never does. So a backtest sees in each
candle what a bot saw when it closed, on any timeframe, however late it is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations.candles import to_bars
from liquidations.database import insert_arrays, insert_new, rows_of
from liquidations.errors import LiquidationsError
from liquidations.event import (
    MINUTE,
    Bars,
    Events,
    Ints,
    digest_of,
    is_within,
    merge_intervals,
    order_of,
    repeats,
)
from liquidations.tables import BAR, EVENT, EVENTS, FEED, FEED_COVERAGE, GAP, LATE, MEMBER, SERIES


#: The end of a membership that goes on.
FOREVER = 2**62

#: A feed writes at least each ``BEAT`` ms; one that has not for ``GONE`` ms has ended.
BEAT, GONE = 5_000, 15_000

#: Tables whose rows belong to one series.
OF_SERIES = (EVENT, BAR, MEMBER)

# What a feed of this store's own tells has no other origin.
_EVENT_COLUMNS = [
    sa.literal_column("0") if name == "origin" else EVENT.c[name] for name in Events.names()
]
_BAR_COLUMNS = [BAR.c[name] for name in Bars.names()]
_SUMS = [name for name in Bars.names() if name != "timestamp"]

_BARS_OF = (
    sa.select(*_BAR_COLUMNS)
    .where(
        BAR.c.series_id == sa.bindparam("of_id"),
        BAR.c.timestamp >= sa.bindparam("first"),
        BAR.c.timestamp < sa.bindparam("last"),
    )
    .order_by(BAR.c.timestamp)
)
_EVENTS_OF = (
    sa.select(*_EVENT_COLUMNS, EVENT.c.known)
    .where(
        EVENT.c.series_id == sa.bindparam("of_id"),
        EVENT.c.timestamp >= sa.bindparam("first"),
        EVENT.c.timestamp < sa.bindparam("last"),
    )
    .order_by(EVENT.c.timestamp, EVENT.c.key)
)
# Late events are few. SQLite would read all events of the time to find them in order; what is no
# plain column has no order, and leaves it the index of the late ones.
_at = EVENT.c.timestamp + 0
_LATE_OF = (
    sa.select(*_EVENT_COLUMNS, EVENT.c.known)
    .where(
        LATE,
        EVENT.c.series_id == sa.bindparam("of_id"),
        _at >= sa.bindparam("first"),
        _at < sa.bindparam("last"),
    )
    .order_by(_at, EVENT.c.key)
)
_MEMBERS_OF = sa.select(MEMBER.c.feed_id, MEMBER.c.start, MEMBER.c.end).where(
    MEMBER.c.series_id == sa.bindparam("of_id")
)
_COVERAGE = sa.select(FEED_COVERAGE.c.start, FEED_COVERAGE.c.end, FEED_COVERAGE.c.known).order_by(
    FEED_COVERAGE.c.start
)
_COVERAGE_OF = _COVERAGE.where(FEED_COVERAGE.c.feed_id == sa.bindparam("of_feed"))


_FEED_OF = (
    sa.select(FEED)
    .where(
        FEED.c.exchange == sa.bindparam("of_exchange"),
        FEED.c.channel == sa.bindparam("of_channel"),
        FEED.c.source == sa.bindparam("of_source"),
        FEED.c.number == sa.bindparam("of_number"),
    )
    .with_for_update()
)
_SAVE_FEED = (
    sa.update(FEED)
    .where(FEED.c.id == sa.bindparam("of_feed"))
    .values({name: sa.bindparam(name) for name in ("holder", "sealed", "updated", "digest")})
)


class Told(NamedTuple):
    """Say from when to when (ms) a feed tells a series."""

    feed: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Feed:
    """Name one live channel of an exchange as one collector (the ``holder``) tells it.

    ``sealed`` and ``updated`` are ms UTC.
    """

    id: int
    exchange: str
    channel: str
    source: str
    number: int
    holder: str
    sealed: int
    updated: int
    digest: int

    def changed(self, digest: int) -> Feed:
        """Return the feed with a digest to which something was added."""
        return replace(self, digest=(self.digest + digest + 2**63) % 2**64 - 2**63)

    def at(self, sealed: int, updated: int) -> Feed:
        """Return the feed sealed up to a minute; it never goes back."""
        return replace(self, sealed=max(self.sealed, sealed), updated=updated)


def feeds(connection: Connection) -> list[Feed]:
    """List all feeds."""
    rows = connection.execute(
        sa.select(FEED).order_by(FEED.c.exchange, FEED.c.channel, FEED.c.number)
    )
    return [Feed(*row) for row in rows]


def find_feed(
    connection: Connection, exchange: str, channel: str, source: str, number: int
) -> Feed | None:
    """Find a feed and lock its row."""
    names = {
        "of_exchange": exchange, "of_channel": channel, "of_source": source, "of_number": number
    }  # fmt: skip
    row = connection.execute(_FEED_OF, names).one_or_none()
    return None if row is None else Feed(*row)


def make_feed(
    connection: Connection, exchange: str, channel: str, source: str, number: int
) -> Feed:
    """Make a feed that has not listened yet, unless another writer just did."""
    names = {"exchange": exchange, "channel": channel, "source": source, "number": number}
    connection.execute(
        insert_new(connection, FEED).values(holder="", sealed=0, updated=0, digest=0, **names)
    )
    found = find_feed(connection, exchange, channel, source, number)
    assert found is not None
    return found


def save_feed(connection: Connection, feed: Feed) -> Feed:
    """Write what changes in the row of a feed."""
    changing = {name: getattr(feed, name) for name in ("holder", "sealed", "updated", "digest")}
    connection.execute(_SAVE_FEED, {"of_feed": feed.id, **changing})
    return feed


def members(connection: Connection, feed: Feed) -> set[int]:
    """List the ids of the series that a feed tells now."""
    told = sa.select(MEMBER.c.series_id).filter_by(feed_id=feed.id, end=FOREVER)
    return set(connection.scalars(told))


def join(connection: Connection, feed: Feed, series: set[int], time: int) -> None:
    """Let a feed tell these series from ``time`` on, and no others."""
    told = members(connection, feed)
    if gone := told - series:
        connection.execute(
            sa.update(MEMBER)
            .where(
                MEMBER.c.series_id.in_(gone), MEMBER.c.feed_id == feed.id, MEMBER.c.end == FOREVER
            )
            .values(end=int(time))
        )
    if new := series - told:
        rows = [
            {"series_id": one, "feed_id": feed.id, "start": int(time), "end": FOREVER}
            for one in sorted(new)
        ]
        connection.execute(insert_new(connection, MEMBER), rows)


def _columns(rows: Sequence[Sequence[float]], dtypes: Iterable[type]) -> list[np.ndarray]:
    columns: Iterable[Sequence[float]] = zip(*rows, strict=True) if rows else ((),) * 99
    return [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=False)]


def bars_of(connection: Connection, series: int, start: int, end: int) -> Bars:
    """Return a series' bars of ``[start, end)`` ms, without what came late."""
    rows = connection.execute(_BARS_OF, {"of_id": series, "first": start, "last": end}).all()
    return Bars(*_columns(rows, Bars.dtypes().values()))


def events_of(
    connection: Connection, series: int, start: int, end: int, *, late: bool = False
) -> tuple[Events, Ints]:
    """Return a series' events of ``[start, end)`` ms, or the late ones, and when known."""
    question = _LATE_OF if late else _EVENTS_OF
    rows = connection.execute(question, {"of_id": series, "first": start, "last": end}).all()
    *columns, known = _columns(rows, (*Events.dtypes().values(), np.int64))
    return Events(*columns), known


def young_events(connection: Connection, start: int, end: int) -> tuple[Ints, Events]:
    """Return all events in time of ``[start, end)`` ms, by series, and in order within one."""
    rows = connection.execute(
        sa.select(EVENT.c.series_id, *_EVENT_COLUMNS)
        .where(EVENT.c.known == 0, EVENT.c.timestamp >= start, EVENT.c.timestamp < end)
        .order_by(EVENT.c.series_id, EVENT.c.timestamp, EVENT.c.key)
    ).all()
    series, *columns = _columns(rows, (np.int64, *Events.dtypes().values()))
    return series, Events(*columns)


def coverage_of(connection: Connection, series: int) -> Ints:
    """Return when the feed of a series listened to it: rows of (start, end, known)."""
    found = []
    for feed, start, end in connection.execute(_MEMBERS_OF, {"of_id": series}).all():
        rows = connection.execute(_COVERAGE_OF, {"of_feed": feed}).all()
        found.append(clip(_intervals(rows), start, end))
    return np.concatenate([*found, _intervals(())])


def _intervals(rows: Iterable[Sequence[int]]) -> Ints:
    return np.array([tuple(row) for row in rows], np.int64).reshape(-1, 3)


def clip(rows: Ints, start: int, end: int) -> Ints:
    """Cut rows of (start, end, known) to ``[start, end)``."""
    begin, stop = np.maximum(rows[:, 0], start), np.minimum(rows[:, 1], end)
    return np.column_stack((begin, stop, rows[:, 2]))[stop > begin]


def with_own(own: Ints, live: Ints) -> Ints:
    """Put intervals of imported coverage, which count as known in time, before live rows."""
    return np.concatenate((np.pad(own, ((0, 0), (0, 1))), live))


def split(rows: Ints) -> tuple[Ints, Ints]:
    """Split coverage into what was known in time, and the rest, each ms as it was first known.

    :param rows: (start, end, known), which may overlap: several collectors may have listened
    :return: disjoint intervals, and disjoint late rows

    >>> on_time, late = split(np.array([[0, 10, 0], [5, 20, 90], [15, 30, 60]]))
    >>> on_time.tolist(), late.tolist()
    ([[0, 10]], [[10, 15, 90], [15, 20, 60], [20, 30, 60]])
    """
    late = rows[:, 2] > 0
    on_time = merge_intervals(rows[~late, :2])
    if not late.any():
        return on_time, rows[late]
    points = np.unique(rows[:, :2])
    first, last = np.searchsorted(points, rows[:, :2].T)
    known = np.full(len(points) - 1, FOREVER)
    for row in np.argsort(-rows[:, 2], kind="stable"):
        known[first[row] : last[row]] = rows[row, 2]
    after = (known > 0) & (known < FOREVER)
    return on_time, np.column_stack((points[:-1], points[1:], known))[after]


def listened(connection: Connection, since: int) -> dict[int, Ints]:
    """Return when each feed listened beyond ``since`` (ms): rows of (start, end, known)."""
    return _by_feed(connection.execute(_LISTENED, {"beyond": since}))


def _by_feed(rows: Iterable[Sequence[int]]) -> dict[int, Ints]:
    by_feed: dict[int, list[Sequence[int]]] = {}
    for feed, *row in rows:
        by_feed.setdefault(feed, []).append(row)
    return {feed: _intervals(found) for feed, found in by_feed.items()}


def told(connection: Connection) -> dict[int, list[Told]]:
    """Return which feeds tell each series, and when."""
    by_series: dict[int, list[Told]] = {}
    columns = MEMBER.c.series_id, MEMBER.c.feed_id, MEMBER.c.start, MEMBER.c.end
    for series, feed, start, end in connection.execute(sa.select(*columns)):
        by_series.setdefault(series, []).append(Told(feed, start, end))
    return by_series


_LISTENED = sa.select(
    FEED_COVERAGE.c.feed_id, FEED_COVERAGE.c.start, FEED_COVERAGE.c.end, FEED_COVERAGE.c.known
).where(FEED_COVERAGE.c.end > sa.bindparam("beyond"))
# Rows of -1 are series that got late events; no feed listened before 1970. Not DISTINCT: for that
# PostgreSQL starts processes, which takes longer than all else.
_LISTENED_AND_LATE = _LISTENED.union_all(
    sa.select(EVENT.c.series_id, *(sa.literal_column("-1") for _ in range(3))).where(
        LATE, EVENT.c.known >= sa.bindparam("since")
    )
)
_BARS_SINCE = (
    sa.select(BAR.c.series_id, *_BAR_COLUMNS)
    .where(BAR.c.timestamp >= sa.bindparam("since"))
    # As the index has them, so that no database reads all bars to find them in order.
    .order_by(BAR.c.timestamp, BAR.c.series_id)
)


def listened_and_late(
    connection: Connection, beyond: int, since: int
) -> tuple[dict[int, Ints], set[int]]:
    """Return what :func:`listened` does, and which series got events known from ``since`` on.

    Both by one statement: it takes as long to ask a database as to answer.
    """
    rows = connection.execute(_LISTENED_AND_LATE, {"beyond": beyond, "since": since}).all()
    listened_ = _by_feed(row for row in rows if row[1] >= 0)
    return listened_, {series for series, start, *_ in rows if start < 0}


def bars_since(connection: Connection, time: int) -> tuple[Bars, dict[int, slice]]:
    """Return all bars from ``time`` (ms) on, and where among them those of each series are."""
    rows = connection.execute(_BARS_SINCE, {"since": time}).all()
    series, *columns = _columns(rows, (np.int64, *Bars.dtypes().values()))
    order = np.argsort(series, kind="stable")
    names, first = np.unique(series[order], return_index=True)
    ends = np.append(first, len(series))[1:]
    of = {
        name: slice(begin, end)
        for name, begin, end in zip(names.tolist(), first.tolist(), ends.tolist(), strict=True)
    }
    return Bars(*columns).take(order), of


def covered_until(connection: Connection, feed: Feed) -> int | None:
    """Return until when a feed listened; None if it never did."""
    last = sa.select(sa.func.max(FEED_COVERAGE.c.end)).where(FEED_COVERAGE.c.feed_id == feed.id)
    return connection.scalar(last)


def listened_until(connection: Connection, feed: Feed) -> int | None:
    """Return until when any collector listened to the channel of a feed; None if none ever did."""
    last = (
        sa.select(sa.func.max(FEED_COVERAGE.c.end))
        .join(FEED, FEED.c.id == FEED_COVERAGE.c.feed_id)
        .where(
            FEED.c.exchange == feed.exchange,
            FEED.c.channel == feed.channel,
            FEED.c.source == feed.source,
        )
    )
    return connection.scalar(last)


def minutes(connection: Connection, feed: Feed, since: int, packed: Bars) -> list[tuple[int, int]]:
    """List the minutes since ``since`` in which a feed listened, and how many events they had.

    :param packed: bars of its series that are no rows any more
    """
    counted = (
        sa.select(BAR.c.timestamp, sa.func.sum(BAR.c.long_count + BAR.c.short_count))
        .join(MEMBER, MEMBER.c.series_id == BAR.c.series_id)
        .where(MEMBER.c.feed_id == feed.id, MEMBER.c.end == FOREVER, BAR.c.timestamp >= since)
        .group_by(BAR.c.timestamp)
    )
    events = dict(zip(packed.timestamp.tolist(), _count(packed), strict=True))
    for time, number in connection.execute(counted):
        events[time] = events.get(time, 0) + int(number)
    spans = connection.execute(
        sa.select(FEED_COVERAGE.c.start, FEED_COVERAGE.c.end)
        .where(FEED_COVERAGE.c.feed_id == feed.id, FEED_COVERAGE.c.end > since)
        .order_by(FEED_COVERAGE.c.start)
    )
    full = merge_intervals(np.array([tuple(span) for span in spans], np.int64).reshape(-1, 2))
    return [
        (int(minute), events.get(int(minute), 0))
        for start, end in full
        for minute in range(
            int(max(-(-start // MINUTE) * MINUTE, since)), int(end) - MINUTE + 1, MINUTE
        )
    ]


def _count(bars: Bars) -> list[int]:
    return (bars.long_count + bars.short_count).astype(np.int64).tolist()


def gaps(connection: Connection, feed: Feed, since: int = 0) -> list[tuple[int, int, str]]:
    """List when a feed did not listen, and why, as far as it lasted beyond ``since`` (ms)."""
    rows = connection.execute(
        sa.select(GAP.c.start, GAP.c.end, GAP.c.reason)
        .where(GAP.c.feed_id == feed.id, GAP.c.end > since)
        .order_by(GAP.c.start)
    )
    return [(start, end, reason) for start, end, reason in rows]


def counts(connection: Connection) -> dict[tuple[int, int], int]:
    """Count rows by series id and period (0 = events)."""
    found: dict[tuple[int, int], int] = {}
    for period, table in ((EVENTS, EVENT), (MINUTE, BAR)):
        rows = connection.execute(
            sa.select(table.c.series_id, sa.func.count()).group_by(table.c.series_id)
        )
        found |= {(series, period): count for series, count in rows}
    return found


def same(events: Events, timestamp: Ints, key: Ints) -> np.ndarray:
    """Tell which events are among those of the given times and keys."""
    if not len(timestamp):
        return np.zeros(len(events), dtype=bool)
    time = np.concatenate((events.timestamp, timestamp))
    number = np.concatenate((events.key, key))
    order = order_of(time, number)
    group = np.cumsum(~repeats(time[order], number[order])) - 1
    known = np.zeros(len(order), dtype=bool)
    known[group[order >= len(events)]] = True
    found = np.empty(len(order), dtype=bool)
    found[order] = known[group]
    return found[: len(events)]


# SQLite takes 32,766 parameters a statement, older ones 999.
_AT_ONCE = 900


def stored(connection: Connection, series: int, events: Events) -> np.ndarray:
    """Tell which events are among the rows of a series."""
    if not len(events):
        return np.zeros(0, dtype=bool)
    if not connection.scalar(sa.select(MEMBER.c.series_id).filter_by(series_id=series)):
        return np.zeros(len(events), dtype=bool)
    times = np.unique(events.timestamp)
    if len(times) <= _AT_ONCE:
        at = EVENT.c.timestamp.in_(times.tolist())
    else:
        at = EVENT.c.timestamp.between(int(times[0]), int(times[-1]))
    question = sa.select(EVENT.c.timestamp, EVENT.c.key).where(at, EVENT.c.series_id == series)
    rows = [tuple(row) for row in connection.execute(question)]
    time, key = np.array(rows, np.int64).reshape(-1, 2).T
    return same(events, time, key)


def last_events(
    connection: Connection, series: Collection[int], since: int, most: int
) -> list[tuple[int, int, int, float]]:
    """List the last events of some series since ``since`` (ms), the newest first.

    :return: rows of (series id, timestamp, side, USD)
    """
    columns = EVENT.c.series_id, EVENT.c.timestamp, EVENT.c.side, EVENT.c.value_usd
    question = (
        sa.select(*columns)
        .where(EVENT.c.timestamp >= since, EVENT.c.series_id.in_(series))
        .order_by(EVENT.c.timestamp.desc(), EVENT.c.series_id, EVENT.c.key)
        .limit(most)
    )
    return [(one, at, side, usd) for one, at, side, usd in connection.execute(question)]


def accept(connection: Connection, series: int, spans: Ints) -> Events:
    """Let what came late within some intervals count as in time; return those events.

    Somebody else has told of that time: who reads it as observed must not miss what is stored.
    """
    if not len(spans):
        return Events.concat([])
    within = {"of_id": series, "first": int(spans[0, 0]), "last": int(spans[-1, 1])}
    rows = connection.execute(_LATE_OF, within).all()
    *columns, _ = _columns(rows, (*Events.dtypes().values(), np.int64))
    events = Events(*columns)
    events = events.take(is_within(spans, events.timestamp))
    if len(events):
        own = EVENT.c.series_id == series
        at = (EVENT.c.timestamp == sa.bindparam("of_time")) & (
            EVENT.c.key == sa.bindparam("of_key")
        )
        keys = rows_of({"of_time": events.timestamp, "of_key": events.key})
        connection.execute(sa.update(EVENT).where(own & at).values(known=0), keys)
        _add_to_bars(connection, np.full(len(events), series), events)
    return events


def lock_series(connection: Connection, series: Collection[int]) -> bool:
    """Keep imports and removals off some series (by id) until the end of the transaction.

    :return: whether others may have changed them before; SQLite has one writer at a time
    :raises LiquidationsError: if one has been removed meanwhile.
    """
    if connection.dialect.name == "sqlite":
        return False
    locked = sa.select(SERIES.c.id).where(SERIES.c.id.in_(series)).order_by(SERIES.c.id)
    if len(connection.execute(locked.with_for_update(read=True)).all()) < len(set(series)):
        raise LiquidationsError("a contract was removed from the store while it is being collected")
    return True


def insert_events(
    connection: Connection, parts: Sequence[tuple[int, Events]], sealed: int, known: int
) -> tuple[int, int]:
    """Insert those events that are new, by series id, and add those in time to their bars.

    :return: how many were new, and a hash of them that does not depend on their order
    """
    series, events = _one_batch([(one, once(own)) for one, own in parts])
    if not len(events):
        return 0, 0
    new = _insert(connection, series, events, np.where(events.timestamp < sealed, known, 0))
    if not new.all():
        series, events = series[new], events.take(new)
    in_time = events.timestamp >= sealed
    _add_to_bars(connection, series[in_time], events.take(in_time))
    return len(events), digest_of(events.timestamp, events.key)


def _insert(connection: Connection, series: Ints, events: Events, late: Ints) -> np.ndarray:
    """Insert events that are not stored yet, and tell which ones they were."""
    # Always in one order, so that two collectors do not wait for each other.
    order = np.lexsort((events.key, series, events.timestamp))
    arrays = {"series_id": series, **events.arrays(), "known": late}
    del arrays["origin"]
    arrays = {name: array[order] for name, array in arrays.items()}
    new = np.ones(len(events), dtype=bool)
    if connection.dialect.name == "postgresql":
        # Another collector may insert the same ones at this moment: the statement itself tells.
        inserted = insert_arrays(connection, EVENT, arrays)
        if inserted.rowcount < len(events):
            new = _among(series, events, inserted.all())
        return new
    with connection.begin_nested() as attempt:
        if insert_arrays(connection, EVENT, arrays).rowcount == len(events):
            return new
        attempt.rollback()
    # Only now is it worth asking which ones are known.
    rows: list[Sequence[int]] = []
    times = np.unique(events.timestamp).tolist()
    question = sa.select(*EVENT.primary_key.columns)
    for first in range(0, len(times), _AT_ONCE):
        at = EVENT.c.timestamp.in_(times[first : first + _AT_ONCE])
        rows += connection.execute(question.where(at)).all()
    new = ~_among(series, events, rows)
    if new.any():
        insert_arrays(
            connection, EVENT, {name: array[new[order]] for name, array in arrays.items()}
        )
    return new


def _among(series: Ints, events: Events, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Tell which events of several series are among rows of (timestamp, series id, key)."""
    time, of, key = _columns(rows, [np.int64] * 3)
    found = np.empty(len(events), bool)
    for one in np.unique(series):
        mine, told = series == one, of == one
        found[mine] = same(events.take(mine), time[told], key[told])
    return found


def _add_to_bars(connection: Connection, series: Ints, events: Events) -> None:
    """Add events to the bars of each series' minutes."""
    if not len(events):
        return
    names, code = np.unique(series, return_inverse=True)
    # One bar for each series and minute, found by a number that stands for both.
    minute = events.timestamp // MINUTE
    apart = replace(events, timestamp=(code * FAR + minute) * MINUTE)
    bars = to_bars(apart)
    code, minute = np.divmod(bars.timestamp // MINUTE, FAR)
    arrays = {"series_id": names[code], **bars.arrays(), "timestamp": minute * MINUTE}
    insert_arrays(connection, BAR, arrays, add=tuple(_SUMS))


def _one_batch(parts: Sequence[tuple[int, Events]]) -> tuple[Ints, Events]:
    """Join the events of all series, so that what follows costs the same for one and for many."""
    series = [np.full(len(own), one) for one, own in parts]
    return np.concatenate([*series, np.empty(0, np.int64)]), Events.concat(
        [own for _, own in parts]
    )


def once(events: Events) -> Events:
    """Put events in order of time and key, and drop what stands twice."""
    order = order_of(events.timestamp, events.key)
    if np.any(order[1:] < order[:-1]):
        events = events.take(order)
    again = repeats(events.timestamp, events.key)
    return events.take(~again) if again.any() else events


#: More minutes than there are from 1970 to 2100.
FAR = 100_000_000


def cover(connection: Connection, feed: Feed, start: int, end: int, known: int) -> None:
    """Add an interval of coverage, or prolong the one that ends where it begins."""
    if end <= start:
        return
    prolonged = connection.execute(
        sa.update(FEED_COVERAGE).filter_by(feed_id=feed.id, end=start, known=known).values(end=end)
    )
    if not prolonged.rowcount:
        connection.execute(
            insert_new(connection, FEED_COVERAGE).values(
                feed_id=feed.id, start=start, end=end, known=known
            )
        )


def revoke(connection: Connection, feed: Feed, start: int, end: int) -> None:
    """Cut an interval out of a feed's coverage."""
    inside = (
        FEED_COVERAGE.c.feed_id == feed.id,
        FEED_COVERAGE.c.end > start,
        FEED_COVERAGE.c.start < end,
    )
    rows = connection.execute(sa.select(FEED_COVERAGE).where(*inside)).mappings().all()
    connection.execute(sa.delete(FEED_COVERAGE).where(*inside))
    for row in rows:
        for first, last in ((row["start"], start), (end, row["end"])):
            if last > first:
                connection.execute(
                    sa.insert(FEED_COVERAGE).values({**row, "start": first, "end": last})
                )


def gap(connection: Connection, feed: Feed, start: int, end: int, reason: str) -> None:
    """Note an interval in which a feed did not listen."""
    if end > start:
        # Of one that began at the same time nothing was covered in between.
        shorter = sa.delete(GAP).filter_by(feed_id=feed.id, start=start)
        connection.execute(shorter.where(GAP.c.end < end))
        connection.execute(
            insert_new(connection, GAP).values(feed_id=feed.id, start=start, end=end, reason=reason)
        )
