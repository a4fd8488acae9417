"""Write into a store within one transaction. Floor 2.

Events are rolled up into one-minute bars in the transaction that inserts them, from those that were
really new. Inserting is idempotent: what is there already is recognised and left alone.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sqlalchemy as sa

from liquidations import rows as live_rows
from liquidations.candles import Source, add_bars, to_bars
from liquidations.database import limit_waiting
from liquidations.errors import LiquidationsError
from liquidations.event import (
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
from liquidations.pairs import base_of
from liquidations.reader import (
    COVERAGE_OF,
    PACKED,
    REVISIONS_OF,
    Reader,
    Rows,
    Series,
    between,
    intervals_of,
    stretch,
)
from liquidations.rows import Feed
from liquidations.segments import pack_bars, pack_events
from liquidations.tables import COVERAGE, EVENTS, MEMBER, META, ORIGIN, REVISION, SEGMENT, SERIES


logger = logging.getLogger(__name__)

_LIVE_SERIES_OF = sa.select(
    SERIES,
    # Whether a feed tells it, or has told it.
    sa.select(sa.func.min(MEMBER.c.feed_id))
    .where(MEMBER.c.series_id == SERIES.c.id)
    .scalar_subquery()
    .label("live"),
    PACKED.scalar_subquery().label("packed"),
).where(
    SERIES.c.exchange == sa.bindparam("of_exchange"),
    SERIES.c.source == sa.bindparam("of_source"),
    SERIES.c.period == MINUTE,
)


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
            rows = self._connection.execute(REVISIONS_OF, within).all()
            digest += _digest_of_revisions(
                *(np.array([tuple(row) for row in rows]).reshape(-1, 4).T[:3])
            )
            told = of_series & (REVISION.c.timestamp >= start) & (REVISION.c.timestamp < end)
            self._connection.execute(sa.delete(REVISION).where(told))
        held = intervals_of(self._connection.execute(COVERAGE_OF, {"of_id": series.id}))
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
            bars = Bars.concat([kept, between(right, start, end)])
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
