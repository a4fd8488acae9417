"""What a bot reads: the store as of the last closed candle, refreshed once for all pairs. Floor 4.

A bot asks for the same some hundred candles of each pair, again and again. What was imported does
not change, and of the rows only the last minutes do, so they are asked for once, for all series
together: eighty pairs cost little more than one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from liquidations.candles import Late, Source
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE, Bars, Events, Ints
from liquidations.reader import Reader, Series, State, joined
from liquidations.rows import GONE, Feed, Told, clip, split, with_own
from liquidations.store import Store


logger = logging.getLogger(__name__)


_NEVER = 2**62

#: A feed that has not written for so long (ms) will not do so of a candle that closes now.
ENDED = 3_600_000

#: What a feed that writes may be behind with its seals (ms), and still change.
SLACK = 10 * MINUTE

#: How long (s) a bot waits for others to let it seal a minute; of SQLite it is the driver's rule.
HURRY = 5.0

#: A reading that failed after so long (s) is not tried again for the same candle.
SLOW = 1.0

#: How often (s) the store is asked whether a minute is sealed.
POLL = 0.01


@dataclass(slots=True)
class _Held:
    """Hold what was read of a series from ``start`` on; ``asked`` is what the last candle needs."""

    start: int
    asked: int
    packed: Bars
    own: Ints
    rows: Bars
    late: tuple[Events, Ints]
    revised: Bars | None
    #: From when (ms) on its rows are to be replaced when they are asked for, and by which of all.
    news: tuple[int, Bars, slice] | None = None

    def renew(self) -> None:
        """Take what is new into the rows."""
        if self.news is not None:
            since, bars, new = self.news
            final = self.rows.take(slice(0, np.searchsorted(self.rows.timestamp, since)))
            self.rows, self.news = Bars.concat([final, bars.take(new)]), None

    def forget(self) -> None:
        """Drop what lies before what was asked for."""
        self.start = self.asked
        self.packed, self.rows = (
            bars.take(slice(np.searchsorted(bars.timestamp, self.start), None))
            for bars in (self.packed, self.rows)
        )
        events, known = self.late
        young = events.timestamp >= self.start
        self.late = events.take(young), known[young]


class LiveView:
    """Answer a bot's questions about closed candles, as ``reader.Reader`` answers a backtest's.

    :param store: returns the open store
    """

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._lock = threading.Lock()
        #: Counts what was read.
        self.version = 0
        self._close = 0
        #: Before this minute nothing changes any more: all feeds have sealed it.
        self._final = 0
        #: Until when each exchange was waited for.
        self._waited: dict[str, int] = {}
        self._said: set[str] = set()
        #: The first reading that took long to fail, and of which candle.
        self._failed: tuple[int, LiquidationsError] | None = None
        self._numbers: tuple[int, ...] = ()
        self._series: list[Series] = []
        self._bases: dict[str, list[Series]] = {}
        self._told: Mapping[int, list[Told]] = {}
        self._held: dict[tuple[int, int], _Held] = {}
        self._split: dict[tuple[Told, ...], tuple[Ints, Ints]] = {}
        #: When the feeds listened, as far as it is later than ``_from``.
        self._coverage: Mapping[int, Ints] = {}
        self._from = _NEVER
        #: Exchanges whose last minutes nobody could seal, and until when what they tell is final.
        self.unsealed: dict[str, int] = {}
        #: What :meth:`look` saw last: how far each feed was sealed, and its digest.
        self._seen: dict[int, tuple[int, int]] = {}

    def look(self, now: int) -> None:
        """Read the store as it is, waiting for nobody and sealing nothing: who looks never writes.

        :param now: ms UTC
        """
        with self._lock, self._store().read() as reader:
            state = reader.state()
            # Nobody may have sealed the minutes of a feed that comes back after an hour.
            before = [self._seen.get(feed.id, (0, 0)) for feed in state.feeds]
            if any(
                feed.digest != digest and sealed < self._final
                for feed, (sealed, digest) in zip(state.feeds, before, strict=True)
            ):
                self._held.clear()
            self._read(reader, state, now)
            self._seen = {feed.id: (feed.sealed, feed.digest) for feed in state.feeds}

    def until(self, close: int, exchanges: tuple[str, ...], settle: float) -> None:
        """Wait until the feeds have sealed the minute that ends at ``close``, and read it.

        Waits until ``settle`` seconds after the close at most; what is not sealed then, and can't
        be by who may only read, was not observed. A feed that does not write any more is not
        waited for. If the store can't be read, what was read before is all that is known: the new
        candles were not observed.

        :raises LiquidationsError: if the store can't be read, and never was.
        """
        with self._lock:
            if all(self._waited.get(exchange, 0) >= close for exchange in exchanges):
                return
            if self._failed is not None and self._failed[0] == close:
                raise self._failed[1]
            begin = time.monotonic()
            try:
                self._wait(close, exchanges, settle)
            except LiquidationsError as error:
                if not self.version:
                    # Eighty pairs must not wait one after the other for what does not answer.
                    if time.monotonic() - begin > SLOW:
                        self._failed = close, error
                    raise
                self._say("read", f"liquidations can't be read, new candles are NaN: {error}")
            else:
                if "read" in self._said:
                    self._said.clear()
                    logger.info("liquidations can be read again")
            # Once a candle, not once a pair.
            self._waited |= dict.fromkeys(exchanges, close)

    def _wait(self, close: int, exchanges: tuple[str, ...], settle: float) -> None:
        while True:
            now = time.time_ns() // 1_000_000
            with self._store().read() as reader:
                state = reader.state()
                # One that ended lately may still be writing.
                open_ = [
                    feed
                    for feed in state.feeds
                    if feed.exchange in exchanges
                    and feed.sealed < close
                    and now - feed.updated < ENDED
                ]
                waiting = any(now - feed.updated < GONE for feed in open_)
                if not open_:
                    return self._read(reader, state, close)
            due = now >= close + settle * 1000
            if waiting and not due:
                time.sleep(POLL)
            elif not self._seal(open_, close):
                if not due:  # what is committed until then is still in time
                    time.sleep(POLL)
                    continue
                with self._store().read() as reader:
                    self._read(reader, reader.state(), close)
                for feed in open_:
                    final = min(feed.sealed, self.unsealed.get(feed.exchange, close))
                    self.unsealed[feed.exchange] = final
                return

    def _seal(self, feeds: list[Feed], close: int) -> bool:
        """Seal a minute that its feeds have not, so that what is being written now comes late.

        The lock of writing decides: what is committed before is seen by this bot and by every
        backtest, what comes after by neither. Who may only read can't decide it.
        """
        try:
            with self._store().write() as writer:
                writer.hurry(HURRY)
                for feed in feeds:
                    row = writer.feed(feed.exchange, feed.channel, feed.source, feed.number)
                    writer.seal(row, close, row.updated)
        except LiquidationsError as error:
            self._say("seal", f"a candle that is not complete can't be closed: {error}")
            return False
        return True

    def _say(self, trouble: str, text: str) -> None:
        """Log a trouble once, until it is over."""
        if trouble not in self._said:
            self._said.add(trouble)
            logger.warning(text)

    def _read(self, reader: Reader, state: State, close: int) -> None:
        if state.series != self._numbers:
            self._numbers = state.series
            self._series, self._told = reader.series(), reader.told()
            self._bases = {}
            for one in self._series:
                self._bases.setdefault(one.base, []).append(one)
        since = self._final
        if state.packed > since:  # what was not read for so long may lie in segments now
            self._held.clear()
        if self._held:  # who holds nothing has nothing to renew
            self._renew(reader, since)
        else:
            self._from, self._coverage, self._split = _NEVER, {}, {}
        if close > self._close:
            self.unsealed = {}
        self._close = max(close, self._close)
        # A feed that lives and seals nothing has nothing to tell; one that lags has.
        open_ = (
            max(feed.sealed, feed.updated - SLACK)
            for feed in state.feeds
            if close - feed.updated < ENDED
        )
        self._final = min(self._close, *open_, self._close)
        self.version += 1

    def _renew(self, reader: Reader, since: int) -> None:
        start = min(held.start for held in self._held.values())
        coverage, late = reader.listened_and_late(start, since)
        bars, of = reader.bars_since(since)
        self._from, self._coverage, self._split = start, coverage, {}
        # Late events are few: their series are read anew.
        known = {(one.id, one.digest) for one in self._series if one.id not in late}
        # What nobody has asked for since the last candle is dropped, and so is what lies before it.
        self._held = {
            key: held for key, held in self._held.items() if key in known and held.asked < _NEVER
        }
        for (series, _), held in self._held.items():
            if held.asked - held.start > DAY:
                held.forget()
            held.asked = _NEVER
            held.news = since, bars, of.get(series, _NONE)

    def series(self, *, base: str | None = None) -> list[Series]:
        """List the series, of one base asset if it is named."""
        return self._series if base is None else self._bases.get(base, [])

    def source(self, series: Series, start: int, end: int) -> Source:
        """Return what a series holds from ``start`` (ms) on, to be summed over candles."""
        held = self._held.get((series.id, series.digest))
        if held is None or held.start > start:
            with self._store().read() as reader:
                held = _Held(int(start), int(start), *reader.parts(series, start, 2**62))
                if start < self._from:
                    self._from, self._split = int(start), {}
                    self._coverage = reader.listened(self._from)
            self._held[series.id, series.digest] = held
        held.asked = min(held.asked, int(start))
        held.renew()
        bars = joined(held.packed, held.rows)
        on_time, late = self._coverage_of(series, held.own)
        some = Late(*held.late, late) if len(late) or len(held.late[1]) else None
        return Source(
            series.source, series.period, bars, on_time, series.counted, some, held.revised
        )

    def _coverage_of(self, series: Series, own: Ints) -> tuple[Ints, Ints]:
        """Return when a series was observed: intervals known in time, and late ones."""
        told = tuple(self._told.get(series.id, ()))
        if len(own):
            return split(with_own(own, self._live_coverage(told)))
        if told not in self._split:  # most series were joined at the same time
            self._split[told] = split(self._live_coverage(told))
        return self._split[told]

    def _live_coverage(self, told: Iterable[Told]) -> Ints:
        # What was covered after the last candle may have been read later than the rows.
        parts = [
            clip(self._coverage.get(one.feed, _NOTHING), one.start, min(one.end, self._close))
            for one in told
        ]
        return np.concatenate([_NOTHING, *parts])


_NONE = slice(0, 0)
_NOTHING = np.empty((0, 3), np.int64)
