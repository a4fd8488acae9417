"""What a bot reads minute by minute is what a backtest reads afterwards, to the bit."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import ONLY_SQLITE, events_of, same_bits, spans, utc
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidations.candles import Candles, Source, source_candles
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Events, make_events
from liquidations.provider import LiquidationProvider
from liquidations.rows import GONE, Feed
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.view import LiveView
from liquidations.writer import Writer


START = utc("2024-08-05")
END = START + 30 * MINUTE
#: pair → its feed's channel; the third is only imported at first.
PAIRS = {"BTC/USDT:USDT": "linear", "ETH/USDT:USDT": "linear", "BTC/USD:BTC": "inverse"}


@pytest.fixture
def store(any_url: str) -> Iterator[Store]:
    with Store(any_url, create=True) as one:
        yield one


def same_source(mine: Source, theirs: Source) -> None:
    """Assert that two sources are equal to the bit."""
    same_bits(mine.bars, theirs.bars)
    assert mine.coverage.tolist() == theirs.coverage.tolist()
    assert (mine.name, mine.period, mine.counted) == (theirs.name, theirs.period, theirs.counted)
    assert (mine.late is None) == (theirs.late is None)
    if mine.late is not None and theirs.late is not None:
        same_bits(mine.late.events, theirs.late.events)
        assert mine.late.known.tolist() == theirs.late.known.tolist()
        assert sorted(mine.late.coverage.tolist()) == sorted(theirs.late.coverage.tolist())


def same_candles(mine: Candles, theirs: Candles) -> None:
    for name in ("long", "short", "long_count", "short_count", "coverage", "squares"):
        one, other = getattr(mine, name), getattr(theirs, name)
        assert one.tobytes() == other.tobytes(), f"{name}: {one} and {other}"


@st.composite
def minutes(draw):
    """Draw what comes in each minute: (pair, what, ms before the minute's close, USD, side)."""
    step = st.tuples(
        st.sampled_from(list(PAIRS)),
        st.sampled_from(["event", "event", "event", "cover", "late cover", "import", "revoke"]),
        st.integers(-30_000, 200_000),
        st.floats(0.01, 10**6),
        st.sampled_from([0, 1]),
    )
    return draw(st.lists(st.lists(step, max_size=5), min_size=1, max_size=8))


def one_event(time_: int, side: int, usd: float, rank: int) -> Events:
    """Make an event that is unlike all others."""
    return make_events([time_], [side], [1.0], [usd], [usd], rank=[rank])


@settings(max_examples=30)
@given(minutes(), st.sampled_from([1, 3, 5]))
def test_a_bot_sees_what_a_backtest_sees_later(fresh, drawn, length):
    with Store(fresh(), create=True) as store:
        view = LiveView(lambda: store)
        seen: dict[tuple[str, int], Candles] = {}
        with store.write() as writer:
            feeds = {name: writer.feed("okx", name, "okx") for name in ("linear", "inverse")}
            for channel, feed in feeds.items():
                writer.join(feed, [pair for pair in PAIRS if PAIRS[pair] == channel], START)
            ids = {series.pair: series for series in writer.series()}
            covered = dict.fromkeys(feeds, START)
            sealed = dict.fromkeys(feeds, START)
        rank = itertools.count()
        for number, steps in enumerate(drawn, 1):
            close = START + number * MINUTE
            for pair, what, before, usd, side in steps:
                channel = PAIRS[pair]
                at = max(START, close - 1 - before)
                # Each in a transaction of its own, as the writer's batches are.
                with store.write() as writer:
                    feed = next(f for f in writer.feeds() if f.channel == channel)
                    feed = replace(feed, sealed=sealed[channel])
                    known = sealed[channel] + MINUTE
                    if what == "event":
                        events = one_event(at, side, usd, next(rank))
                        feed, _ = writer.append(feed, {pair: events}, known)
                    elif what == "import":
                        # Of the time before the feed, which no candle was read of.
                        events = one_event(at - 60 * MINUTE, side, usd, next(rank))
                        span = spans((at - 60 * MINUTE, at - 59 * MINUTE))
                        writer.insert("okx", pair, "okx", events, span)
                    elif what == "revoke":
                        # Of what no bot has read.
                        start = max(sealed[channel], covered[channel] - abs(before))
                        feed = writer.revoke(feed, start, covered[channel])
                    else:
                        mark = min(at, close) if what == "late cover" else close - 1
                        mark = max(covered[channel], mark)
                        start, covered[channel] = covered[channel], mark
                        feed = writer.cover(feed, start, min(mark, feed.sealed), known)
                        feed = writer.cover(feed, max(start, feed.sealed), mark)
                    writer.seal(feed, feed.sealed, 0)
            with store.write() as writer:
                for feed in writer.feeds():
                    writer.seal(feed, close, 0)
                    sealed[feed.channel] = close
            view.until(close, ("okx",), 1.5)
            opens = np.array([close - length * MINUTE])
            with store.read() as reader:
                told = [replace(one, live=None) for one in reader.series()]
                assert [replace(one, live=None) for one in view.series()] == told
                for series in view.series():
                    start = START - 90 * MINUTE
                    view.source(series, close - MINUTE, close)  # a shorter frame asks first
                    mine = view.source(series, start, close)
                    same_source(mine, reader.source(series, start, 2**62))
                    seen[series.pair, close] = source_candles(
                        mine, opens, opens + length * MINUTE, squares=True
                    )
        # Long afterwards, from the store, all candles at once or each alone.
        with store.read() as reader:
            for (pair, close), candles in seen.items():
                source = reader.source(ids[pair], START - 90 * MINUTE, END)
                opens = np.array([close - length * MINUTE])
                again = source_candles(source, opens, opens + length * MINUTE, squares=True)
                if opens[0] >= START:  # of the time before there may be news: it was imported
                    same_candles(candles, again)


def test_one_read_serves_all_pairs_and_only_what_is_new_is_read(store, monkeypatch):
    with store.write() as writer:
        feed = writer.feed("okx", "swap", "okx")
        writer.join(feed, list(PAIRS), START)
        feed = writer.cover(feed, START, START + MINUTE)
        writer.seal(feed, START + MINUTE, 0)
    opened = []
    view = LiveView(lambda: opened.append(1) or store)  # type: ignore[func-returns-value]
    for minute in (1, 2, 3):
        view.until(START + minute * MINUTE, ("okx",), 1.5)
        view.until(START + minute * MINUTE, ("okx",), 1.5)
        for series in view.series(base="BTC"):
            view.source(series, START, END)
        assert [series.pair for series in view.series(base="ETH")] == ["ETH/USDT:USDT"]
        with store.write() as writer:
            feed, _ = writer.append(
                feed, {"BTC/USD:BTC": events_of((START + minute * MINUTE, "long", 5.0))}, 0
            )
            feed = writer.seal(feed, START + (minute + 1) * MINUTE, 0)
    # Once a minute, and once for each of the two series that were asked for.
    assert len(opened) == 3 + 2


def wait(view: LiveView, close: int, settle: float, *exchanges: str) -> float:
    before = time.monotonic()
    view.until(close, exchanges, settle)
    return time.monotonic() - before


def test_a_bot_waits_until_the_minute_is_sealed_but_no_longer_than_settle(store):
    now = time.time_ns() // 1_000_000
    with store.write() as writer:
        okx = writer.seal(writer.feed("okx", "swap", "okx"), now - MINUTE, now)
        binance = writer.seal(writer.feed("binance", "linear", "binance"), now + MINUTE, now)
        writer.seal(writer.feed("bybit", "linear", "bybit"), 0, now - GONE - 1)
    # Sealed already; a collector that is gone; an exchange that nobody collects.
    assert wait(LiveView(lambda: store), now, 5.0, "binance", "bybit", "hyperliquid") < 0.3
    # A time that is long over.
    assert wait(LiveView(lambda: store), now - MINUTE + 1, 5.0, "okx") < 0.3
    view = LiveView(lambda: store)
    now = time.time_ns() // 1_000_000
    assert 0.4 < wait(view, now, 0.5, "okx") < 1.0
    assert wait(view, now, 0.5, "okx") < 0.1  # it is read only once

    def seal() -> None:
        time.sleep(0.3)
        with store.write() as writer:
            writer.seal(okx, now + 2 * MINUTE, now)

    thread = threading.Thread(target=seal)
    now = time.time_ns() // 1_000_000
    thread.start()
    assert 0.2 < wait(view, now, 5.0, "okx") < 2.0
    thread.join()
    assert binance.sealed > now


def test_each_exchange_is_waited_for_once(store):
    # A strategy that asks for OKX alone first must not make the others unread.
    now = time.time_ns() // 1_000_000
    with store.write() as writer:
        for name in ("okx", "bybit"):
            feed = writer.feed(name, "linear", name)
            writer.join(feed, ["BTC/USDT:USDT"], START)
            writer.seal(feed, now + MINUTE if name == "okx" else 0, now)
    view = LiveView(lambda: store)
    assert wait(view, now, 0.4, "okx") < 0.3
    with store.write() as writer:
        (feed,) = (one for one in writer.feeds() if one.exchange == "bybit")
        feed, _ = writer.append(feed, {"BTC/USDT:USDT": events_of((now - 10, "long", 5.0))}, 0)
    wait(view, now, 0.4, "okx", "bybit")
    (series,) = (one for one in view.series() if one.exchange == "bybit")
    assert view.source(series, now - MINUTE, now).bars.long.tolist() == [5.0]


def test_threads_that_ask_at_once_read_once(store):
    with store.write() as writer:
        feed = writer.feed("okx", "swap", "okx")
        writer.join(feed, list(PAIRS), START)
        feed, _ = writer.append(feed, {"BTC/USD:BTC": events_of((START, "long", 5.0))}, 0)
        writer.seal(feed, START + MINUTE, 0)
    opened = []
    view = LiveView(lambda: opened.append(1) or store)  # type: ignore[func-returns-value]
    threads = [
        threading.Thread(target=view.until, args=(START + MINUTE, ("okx",), 1.5)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


# --- who decides what was in time -----------------------------------------------------------------

PAIR = "BTC/USDT:USDT"
CLOSE = START + 10 * MINUTE
HOUR = 60 * MINUTE


class Clock:
    """Stand for the module ``time``, by which the minute before ``CLOSE`` has just ended."""

    def __init__(self) -> None:
        self._ahead = CLOSE * 1_000_000 - time.time_ns()

    def time_ns(self) -> int:
        return time.time_ns() + self._ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("liquidations.view.time", clock)
    return clock


def listening(store: Store, updated: int) -> Feed:
    """Make a feed that covered the minute before ``CLOSE``, and has not sealed it."""
    with store.write() as writer:
        feed = writer.feed("okx", "swap", "okx")
        writer.join(feed, [PAIR], START)
        feed = writer.cover(feed, START, CLOSE)
        return writer.seal(feed, CLOSE - MINUTE, updated)


def commit(writer: Writer, at: int, usd: float) -> None:
    """Write one order as the collector does."""
    feed = writer.feed("okx", "swap", "okx")
    events = events_of((at, "long", usd))
    feed, _ = writer.append(feed, {PAIR: events}, feed.sealed + MINUTE)
    writer.seal(feed, feed.sealed, feed.updated)


def last_minute(source: Source) -> Candles:
    opens = np.array([CLOSE - MINUTE])
    return source_candles(source, opens, opens + MINUTE, squares=True)


def long_of(view: LiveView, store: Store) -> float:
    """Return what a bot reads of the last minute, which is what a backtest reads."""
    (mine,) = view.series()
    with store.read() as reader:
        (series,) = reader.series()
        theirs = last_minute(reader.source(series, CLOSE - MINUTE, 2**62))
    candles = last_minute(view.source(mine, CLOSE - MINUTE, CLOSE))
    same_candles(candles, theirs)
    return float(candles.long[0])


def test_a_bot_closes_the_minute_of_a_writer_that_is_stuck(store, clock):
    listening(store, CLOSE - GONE - 1)
    with store.write() as writer:
        commit(writer, CLOSE - 10, 3.0)
    view = LiveView(lambda: store)
    assert wait(view, CLOSE, 5.0, "okx") < 0.5
    assert long_of(view, store) == 3.0
    with store.write() as writer:  # it goes on again
        commit(writer, CLOSE - 5, 4.0)
        assert writer.feeds()[0].sealed == CLOSE
    assert long_of(view, store) == 3.0
    with store.read() as reader:
        (series,) = reader.series()
        late = reader.source(series, CLOSE - MINUTE, CLOSE).late
    assert late.events.value_usd.tolist() == [4.0]
    assert late.known.tolist() == [CLOSE + MINUTE]


def test_what_is_being_written_at_the_deadline_is_in_time_once_it_is_committed(store, clock):
    listening(store, CLOSE)
    begun = threading.Event()

    def write() -> None:
        with Store(store.db_url) as other:
            with other.write() as writer:
                commit(writer, CLOSE - 10, 3.0)
                begun.set()
                time.sleep(1.0)  # a slow disk
            with other.write() as writer:
                commit(writer, CLOSE - 5, 4.0)

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(5)
    view = LiveView(lambda: store)
    assert clock.time_ns() // 1_000_000 < CLOSE + 300
    view.until(CLOSE, ("okx",), 0.3)
    assert clock.time_ns() // 1_000_000 >= CLOSE + 1_000
    thread.join()
    seen = long_of(view, store)
    # The second transaction and the bot's seal race for the lock; whoever wins, both agree.
    with store.read() as reader:
        (series,) = reader.series()
        late = reader.source(series, CLOSE - MINUTE, CLOSE).late
    assert seen == (7.0 if late is None else 3.0)


@ONLY_SQLITE
def test_a_lock_that_is_given_up_in_time_changes_nothing(store, clock, caplog):
    # Another program holds the store so long that its collector looks gone.
    listening(store, CLOSE - GONE - 1)
    path = store.db_url.removeprefix("sqlite:///")
    with Store(f"{store.db_url}?timeout=0.1") as impatient:
        view = LiveView(lambda: impatient)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            thread = threading.Thread(target=view.until, args=(CLOSE, ("okx",), 5.0))
            thread.start()
            time.sleep(0.5)
            assert thread.is_alive()
            other.execute("ROLLBACK")
        thread.join(2)
        assert not thread.is_alive()
        with store.write() as writer:
            assert writer.feeds()[0].sealed >= CLOSE
            commit(writer, CLOSE - 5, 4.0)
        assert long_of(view, store) == 0.0
    assert caplog.text.count("a candle that is not complete can't be closed") == 1


@ONLY_SQLITE
def test_a_bot_that_can_t_close_a_minute_reads_what_there_is(store, clock, caplog):
    listening(store, CLOSE)
    with store.write() as writer:
        commit(writer, CLOSE - 10, 3.0)
    path = store.db_url.removeprefix("sqlite:///")
    with (
        Store(f"{store.db_url}?timeout=0.1") as impatient,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        view = LiveView(lambda: impatient)
        assert 0.2 < wait(view, CLOSE, 0.3, "okx") < 1.5
        assert long_of(view, store) == 3.0
    assert caplog.text.count("a candle that is not complete can't be closed") == 1


def test_a_candle_that_nobody_could_close_stays_so_when_another_exchange_is_read(
    store, monkeypatch
):
    """Only a role that may read can't seal; here the sealing fails as theirs does."""
    pair = "BTC/USDT:USDT"
    with store.write() as writer:
        for exchange in ("binance", "okx"):
            feed = writer.feed(exchange, "swap", exchange)
            writer.join(feed, [pair], CLOSE - HOUR)
            rows = events_of((CLOSE - 90_000, "long", 3.0))
            feed, _ = writer.append(feed, {pair: rows}, 0)
            feed = writer.cover(feed, CLOSE - HOUR, CLOSE)
            sealed = CLOSE if exchange == "okx" else CLOSE - MINUTE
            writer.seal(feed, sealed, time.time_ns() // 1_000_000)
    monkeypatch.setattr(LiveView, "_seal", lambda self, feeds, close: False)
    provider, opens = LiquidationProvider(store.db_url), np.array([CLOSE - HOUR])

    def long(exchange: str) -> float:
        asked = Settings(store.db_url, (exchange,))
        return provider.columns(pair, opens, "1h", asked, live=True)[0]["liq_long"][0]

    assert np.isnan(long("binance"))
    assert long("okx") == 3.0
    assert np.isnan(long("binance"))  # not 3, of which a backtest may know more
    provider.close()


def test_eighty_pairs_wait_once_for_a_store_that_never_answered(monkeypatch):
    asked = []

    def opened() -> Store:
        asked.append(time.monotonic())
        time.sleep(0.2)
        raise LiquidationsError("it does not answer")

    monkeypatch.setattr("liquidations.view.SLOW", 0.1)
    view = LiveView(opened)
    for close, calls in ((CLOSE, 1), (CLOSE, 1), (CLOSE + MINUTE, 2)):
        with pytest.raises(LiquidationsError, match="it does not answer"):
            view.until(close, ("okx",), 0.5)
        assert len(asked) == calls
    monkeypatch.setattr("liquidations.view.SLOW", 60.0)  # what fails at once is asked again
    for calls in (3, 4):
        with pytest.raises(LiquidationsError, match="it does not answer"):
            view.until(CLOSE + 2 * MINUTE, ("okx",), 0.5)
        assert len(asked) == calls
