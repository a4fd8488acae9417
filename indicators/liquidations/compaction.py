"""Old live rows become segments, and very old events make room. Floor 2.

What arrives is a row first, because rows can be added one by one; a day later nothing is added any
more, and a segment takes a tenth of the room. Moving is invisible: who reads sees rows and segments
as one, and no digest changes. Each step is one transaction: a process that is killed has moved
what it finished. It packs before it locks, so that a collector which writes at the same time waits
for milliseconds only; what somebody else changed meanwhile is left for the next time.

Late events stay rows: each reader asks when they were known, and they are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations.candles import add_bars
from liquidations.database import insert_new
from liquidations.event import DAY, MINUTE, Bars, Events, digest_of
from liquidations.reader import stretch
from liquidations.rows import bars_of, once, young_events
from liquidations.segments import pack_bars, pack_events, unpack_bars, unpack_events
from liquidations.store import Store
from liquidations.tables import BAR, EVENT, EVENTS, META, SEGMENT, SERIES
from liquidations.writer import added_digest, by_segment


#: Hours after which live rows are packed, and the fewest: a bot reads the last minutes as rows.
OLD, YOUNGEST = 24.0, 1.0

#: Events that one step moves.
STEP = 20_000

#: A segment with fewer events gets the next ones too; larger ones are left as they are.
FULL = 4_096


@dataclass(frozen=True, slots=True)
class Moved:
    """Count what was moved: events and bars, and events that were dropped."""

    events: int = 0
    bars: int = 0
    dropped: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(
            self.events + other.events, self.bars + other.bars, self.dropped + other.dropped
        )


def compact(
    store: Store, before: int, *, keep: int | None = None, most: int = STEP
) -> Iterator[Moved]:
    """Move live rows that are older than ``before`` (ms) into segments, a transaction a step.

    Bars go by whole days, as each move writes a long segment anew.

    :param keep: drop single events before this time (ms, rounded down to a day); bars stay
    :param most: events that a step moves, or a few more
    :return: what each step did, after it was committed
    """
    since: int | None = 0
    while since is not None:
        with store.transaction(write=False) as connection:
            step, first, since = _read_events(connection, since, before, most)
        if step:
            with store.transaction(write=True) as connection:
                within = EVENT.c.known == 0, EVENT.c.timestamp.between(first, (since or before) - 1)
                moved = _write(connection, step, EVENT, *within)
                _note_packed(connection, since or before)
            yield Moved(events=moved)
    day = before // DAY * DAY
    with store.transaction(write=False) as connection:
        ids = connection.scalars(sa.select(BAR.c.series_id).where(BAR.c.timestamp < day).distinct())
        left = sorted(ids)
    for series in left:
        with store.transaction(write=False) as connection:
            bars = _read_bars(connection, series, day)
        with store.transaction(write=True) as connection:
            moved = _write(connection, bars, BAR, BAR.c.timestamp < day)
        yield Moved(bars=moved)
    if keep is not None:
        yield from _drop(store, keep // DAY * DAY)


@dataclass(frozen=True, slots=True)
class _Part:
    """Hold what is to be written of a series: segments, those in whose place, and of how many rows.

    It holds as long as the series has this digest.
    """

    series: int
    digest: int
    period: int
    rows: int
    #: (start, rows) of segments, and (start, rows, data).
    old: list[tuple[int, int]]
    new: list[tuple[int, int, bytes | memoryview]]


def _read_events(
    connection: Connection, since: int, before: int, most: int
) -> tuple[list[_Part], int, int | None]:
    """Pack the oldest events in time of ``[since, before)``, some ``most`` of them.

    :return: what to write, from where on it was read, and from where to go on; None at the end
    """
    young = EVENT.c.known == 0, EVENT.c.timestamp >= since, EVENT.c.timestamp < before
    times = sa.select(EVENT.c.timestamp).where(*young).order_by(EVENT.c.timestamp)
    first = connection.scalar(times.limit(1))
    if first is None:
        return [], since, None
    end = connection.scalar(times.offset(most).limit(1))
    # What happened in one millisecond stays together.
    end = before if end is None else max(end, first + 1)
    series, events = young_events(connection, first, end)
    digests = _digests(connection, np.unique(series).tolist())
    parts = []
    for one, digest in digests.items():
        own = events.take(slice(*np.searchsorted(series, (one, one + 1))))
        part = _Part(one, digest, EVENTS, len(own), [], [])
        for day, some in by_segment(own, EVENTS):
            _append(connection, part, day, some)
        parts.append(part)
    return parts, first, end if end < before else None


def _digests(connection: Connection, series: Sequence[int]) -> dict[int, int]:
    question = sa.select(SERIES.c.id, SERIES.c.digest).where(SERIES.c.id.in_(series))
    return {one: digest for one, digest in connection.execute(question)}


def _append(connection: Connection, part: _Part, day: int, events: Events) -> None:
    """Add events to the segments of their day: to the last one, or after it if it is full."""
    question = (
        sa.select(SEGMENT.c.start, SEGMENT.c.rows)
        .filter_by(series_id=part.series, period=EVENTS)
        .where(SEGMENT.c.start.between(day, day + stretch(EVENTS) - 1))
        .order_by(SEGMENT.c.start)
    )
    held = list(connection.execute(question))
    old: list[tuple[int, int]] = []
    while held:
        start, rows = held.pop()
        of_time = rows < FULL or start >= events.timestamp[0]
        segment = unpack_events(_data(connection, part.series, EVENTS, start))
        if not of_time and (not rows or segment.timestamp[-1] < events.timestamp[0]):
            break
        events = once(Events.concat([segment, events]))
        old.append((start, rows))
    part.old.extend(old)
    part.new.append((int(events.timestamp[0]), len(events), pack_events(events)))


def _data(connection: Connection, series: int, period: int, start: int) -> bytes:
    names = {"series_id": series, "period": period, "start": start}
    data = connection.scalar(sa.select(SEGMENT.c.data).filter_by(**names))
    assert data is not None
    return data


def _read_bars(connection: Connection, series: int, before: int) -> list[_Part]:
    """Pack a series' live bars before a time (ms)."""
    bars = bars_of(connection, series, 0, before)
    parts = [
        _Part(series, digest, MINUTE, len(bars), [], [])
        for digest in _digests(connection, [series]).values()
    ]
    held = sa.select(SEGMENT.c.start, SEGMENT.c.rows).filter_by(series_id=series, period=MINUTE)
    sizes = dict(map(tuple, connection.execute(held)))
    for part in parts:
        for start, some in by_segment(bars, MINUTE):
            merged: Bars = some
            if start in sizes:
                part.old.append((start, sizes[start]))
                merged = add_bars([unpack_bars(_data(connection, series, MINUTE, start)), some])
            part.new.append((start, len(merged), pack_bars(merged)))
    return parts


def _write(
    connection: Connection, parts: Sequence[_Part], table: sa.Table, *rows: sa.ColumnElement[bool]
) -> int:
    """Put packed segments in the place of these rows of a table; return how many these were.

    What others are writing to, or have changed since it was packed, stays as it is.
    """
    known = sa.select(SERIES.c.id, SERIES.c.digest).where(
        SERIES.c.id.in_([p.series for p in parts])
    )
    locked = known.order_by(SERIES.c.id).with_for_update(skip_locked=True)
    digests = {one: digest for one, digest in connection.execute(locked)}
    parts = [part for part in parts if digests.get(part.series) == part.digest]
    if not parts:
        return 0
    moved = sum(part.rows for part in parts)
    gone = sa.delete(table).where(*rows, table.c.series_id.in_([part.series for part in parts]))
    if connection.execute(gone).rowcount != moved:  # another process has moved some
        connection.rollback()
        return 0
    old = [
        {"of_id": p.series, "of_period": p.period, "at": at, "size": size}
        for p in parts
        for at, size in p.old
    ]
    if old and connection.execute(_REPLACED, old).rowcount != len(old):  # or added to them
        connection.rollback()
        return 0
    new = [
        {"series_id": p.series, "period": p.period, "start": start, "rows": size, "data": data}
        for p in parts
        for start, size, data in p.new
    ]
    if new:
        connection.execute(sa.insert(SEGMENT), new)
    return moved


_REPLACED = sa.delete(SEGMENT).where(
    SEGMENT.c.series_id == sa.bindparam("of_id"),
    SEGMENT.c.period == sa.bindparam("of_period"),
    SEGMENT.c.start == sa.bindparam("at"),
    SEGMENT.c.rows == sa.bindparam("size"),
)


def _note_packed(connection: Connection, end: int) -> None:
    """Note before when events may lie in segments."""
    connection.execute(insert_new(connection, META).values(name="packed", value=0))
    row = META.c.name == "packed", META.c.value < end
    connection.execute(sa.update(META).where(*row).values(value=end))


def _drop(store: Store, before: int) -> Iterator[Moved]:
    """Drop the packed events before a time (ms, a day's begin), and remember it."""
    old = SEGMENT.c.period == EVENTS, SEGMENT.c.start < before
    with store.transaction(write=False) as connection:
        ids = connection.scalars(sa.select(SEGMENT.c.series_id).where(*old).distinct())
        left = sorted(ids)
    for series in left:
        with store.transaction(write=True) as connection:
            row = sa.select(SERIES.c.digest).where(SERIES.c.id == series)
            digest = connection.scalar(row.with_for_update())
            own = *old, SEGMENT.c.series_id == series
            dropped = connection.scalar(sa.select(sa.func.sum(SEGMENT.c.rows)).where(*own))
            if digest is None or not dropped:
                continue
            connection.execute(sa.delete(SEGMENT).where(*own))
            # Readings of single events say something else from now on.
            change = digest_of(np.array([before]), np.array([series]))
            connection.execute(
                sa.update(SERIES)
                .where(SERIES.c.id == series)
                .values(kept=before, digest=added_digest(digest, change))
            )
        yield Moved(dropped=int(dropped))
