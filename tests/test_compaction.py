"""Compaction: what moves from rows into segments reads the same, whenever, whoever else writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import bars_of, events_of, execute, same_bits, spans, utc
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidations import compaction
from liquidations.cli import run
from liquidations.compaction import FULL, Moved, compact
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE, Events, make_events
from liquidations.integrity import Seen, find_problems
from liquidations.provider import LiquidationProvider
from liquidations.reader import Reader
from liquidations.recording import export
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.tables import EVENT
from liquidations.view import LiveView


NAMES = "okx", "linear", "okx"
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
DAY_5, DAY_6, DAY_7 = (utc(f"2024-08-0{day}") for day in (5, 6, 7))
FOREVER = utc("2020-01-01"), utc("2030-01-01")
LATE = DAY_5 + 10 * MINUTE


@pytest.fixture
def db_url(any_url: str) -> str:
    """Run each test on both databases."""
    return any_url


@pytest.fixture
def store(db_url: str):
    with Store(db_url, create=True) as opened:
        yield opened


def live(store: Store, events: dict[str, Events], *, sealed: int = 0, known: int = 0) -> int:
    """Write live events as a collector does; return how many were new."""
    with store.write() as writer:
        feed = writer.feed(*NAMES)
        writer.join(feed, [BTC, ETH], DAY_5)
        feed = writer.seal(feed, sealed, 0) if sealed else feed
        feed, done = writer.append(feed, events, known)
        feed = writer.cover(feed, DAY_5, DAY_7)
        writer.seal(feed, feed.sealed, 0)
        return done.new


def packed(store: Store, before: int = DAY_7, **options: Any) -> Moved:
    total = Moved()
    for moved in compact(store, before, **options):
        total += moved
    return total


def content(reader: Reader) -> list:
    """Return all that readers can see."""
    found: list = []
    for series in reader.series():
        source = reader.source(series, *FOREVER)
        late = [] if source.late is None else [*source.late.events.arrays().values()]
        found += [series, source.bars, reader.events(series, *FOREVER), source.coverage.tolist()]
        found += [[array.tolist() for array in late], reader.bars(series, *FOREVER)]
    return found


def same(before: list, after: list) -> None:
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        if hasattr(one, "arrays"):
            same_bits(one, other)
        else:
            assert one == other


def all_of(store: Store) -> list:
    with store.read() as reader:
        return content(reader)


def in_rows(db_url: str) -> tuple[int, int]:
    ((events,),) = execute(db_url, "SELECT count(*) FROM liq_event")
    ((bars,),) = execute(db_url, "SELECT count(*) FROM liq_bar")
    return events, bars


EVENTS = events_of(
    (DAY_5 + 5, "long", 100.0),
    (DAY_5 + 5, "long", 100.0),  # a twin
    (DAY_5 + 59_999, "short", 30.0),
    (DAY_6, "short", 9.0),
    (DAY_6 + MINUTE, "long", 8.0),
)
OTHERS = events_of((DAY_5 + 7, "short", 50.0), (DAY_6 + 7, "long", 3.0))


def test_nothing_that_is_read_changes_and_the_rows_are_gone(store, db_url):
    live(store, {BTC: EVENTS, ETH: OTHERS})
    live(store, {BTC: events_of((DAY_5 + 9, "long", 77.0))}, sealed=LATE, known=LATE + MINUTE)
    before, print_ = all_of(store), store.fingerprint()
    assert in_rows(db_url) == (8, 5)
    assert packed(store) == Moved(events=7, bars=5)
    assert in_rows(db_url) == (1, 0)  # the late one stays a row
    same(before, all_of(store))
    assert store.fingerprint() == print_
    assert packed(store) == Moved()


def test_what_is_younger_stays_and_bars_go_by_whole_days(store, db_url):
    live(store, {BTC: EVENTS})
    before = all_of(store)
    assert packed(store, DAY_6 + MINUTE) == Moved(events=4, bars=1)
    assert in_rows(db_url) == (1, 2)
    same(before, all_of(store))
    # The next ones join the segment of their day.
    assert packed(store) == Moved(events=1, bars=2)
    same(before, all_of(store))
    assert execute(db_url, "SELECT rows FROM liq_segment WHERE period = 0 ORDER BY start") == [
        (3,),
        (2,),
    ]


def test_a_step_moves_some_and_leaves_all_else_as_it_was(store):
    live(store, {BTC: EVENTS, ETH: OTHERS})
    before, steps = all_of(store), []
    for moved in compact(store, DAY_7, most=2):
        steps.append(moved)
        same(before, all_of(store))
    # Two of one millisecond go together.
    assert [moved.events for moved in steps if moved.events] == [2, 2, 2, 1]


def test_a_segment_that_is_full_is_not_written_again(store, db_url):
    def many(start: int) -> Events:
        time = start + np.arange(FULL)
        ones = np.ones(FULL)
        return make_events(time, np.zeros(FULL, int), ones, ones + np.arange(FULL) % 7, ones)

    for hour in range(3):
        live(store, {BTC: many(DAY_5 + hour * 60 * MINUTE)})
        packed(store)
    live(store, {BTC: events_of((DAY_5 + 30 * MINUTE, "long", 1.0))})  # between two of them
    before = all_of(store)
    packed(store)
    same(before, all_of(store))
    starts = execute(db_url, "SELECT start, rows FROM liq_segment WHERE period = 0 ORDER BY start")
    assert [start - DAY_5 for start, _ in starts] == [0, 30 * MINUTE]
    assert [rows for _, rows in starts] == [FULL, 2 * FULL + 1]


def test_what_comes_again_is_known(store):
    live(store, {BTC: EVENTS})
    packed(store)
    before = all_of(store)
    assert live(store, {BTC: EVENTS}) == 0
    assert live(store, {BTC: events_of((DAY_5 + 5, "long", 100.0), (DAY_5 + 6, "long", 1.0))}) == 1
    with store.write() as writer:
        done = writer.insert("okx", BTC, "okx", EVENTS, spans())
        assert (done.new, done.known) == (0, 5)
    after = all_of(store)
    assert after[1].long.sum() == before[1].long.sum() + 1.0


def test_an_import_of_a_packed_day_joins_it(store):
    live(store, {BTC: EVENTS})
    packed(store)
    live(store, {BTC: events_of((DAY_5 + 2 * MINUTE, "long", 5.0))})
    more = events_of((DAY_5 + 1, "long", 40.0), (DAY_5 + 23 * 60 * MINUTE, "short", 2.0))
    with store.write() as writer:
        assert writer.insert("okx", BTC, "okx", more, spans((DAY_5, DAY_6))).new == 2
    before = all_of(store)
    assert before[1].long.sum() == 100 + 100 + 8 + 5 + 40
    assert packed(store).events == 1
    same(before, all_of(store))
    assert packed(store) == Moved()


def test_what_came_late_moves_once_an_import_has_covered_it(store, db_url):
    live(store, {BTC: events_of((DAY_5 + 9, "long", 77.0))}, sealed=LATE, known=LATE + MINUTE)
    assert packed(store) == Moved()
    with store.write() as writer:
        writer.insert("okx", BTC, "okx", Events.concat([]), spans((DAY_5, DAY_6)))
    before = all_of(store)
    assert packed(store) == Moved(events=1, bars=1)
    same(before, all_of(store))
    assert in_rows(db_url) == (0, 0)


def test_two_at_once_move_each_event_once(store, db_url):
    live(store, {BTC: EVENTS, ETH: OTHERS})
    before, done, failed = all_of(store), [], []

    def run() -> None:
        try:
            with Store(db_url) as own:
                done.extend(compact(own, DAY_7, most=1))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    packed(store)  # what one left to another that left it too
    same(before, all_of(store))
    assert in_rows(db_url) == (0, 0)


def test_what_somebody_else_changed_meanwhile_is_left(store, monkeypatch):
    live(store, {BTC: EVENTS})
    read = compaction._read_events

    def slow(*asked: Any) -> Any:
        found = read(*asked)
        with Store(store.db_url) as other, other.write() as writer:
            writer.insert("okx", BTC, "okx", events_of((DAY_5 + 1, "long", 40.0)), spans())
        return found

    monkeypatch.setattr(compaction, "_read_events", slow)
    assert packed(store, most=100).events == 0
    monkeypatch.undo()
    before = all_of(store)
    assert before[1].long.sum() == 248.0
    assert packed(store).events == 5
    same(before, all_of(store))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("live"), st.integers(0, 40), st.integers(0, 3)),
            st.tuples(st.just("import"), st.integers(0, 40), st.integers(0, 3)),
            st.tuples(st.just("late"), st.integers(0, 40), st.integers(0, 3)),
            st.tuples(st.just("pack"), st.integers(0, 40), st.integers(1, 3)),
        ),
        max_size=12,
    )
)
@settings(max_examples=40)
def test_packing_at_any_time_changes_nothing(fresh: Callable[[], str], drawn):
    """The same is written to two stores, one of which is packed now and then."""
    with Store(fresh(), create=True) as plain, Store(fresh(), create=True) as moved:
        for what, place, number in drawn:
            at = DAY_5 + place * DAY // 20
            rows = events_of(*((at + 7 * one, "long", 1.0 + one) for one in range(number)))
            if what == "pack":
                packed(moved, at, most=number)
                continue
            for store in (plain, moved):
                if what == "import":
                    with store.write() as writer:
                        writer.insert("okx", BTC, "okx", rows, spans((at, at + MINUTE)))
                else:
                    late = {"sealed": at + MINUTE, "known": at + 2 * MINUTE}
                    live(store, {BTC: rows}, **(late if what == "late" else {}))
        first, second = all_of(plain), all_of(moved)
        same(first, second)


# --- dropping old events ---


def dropped(store: Store) -> None:
    live(store, {BTC: EVENTS})
    assert packed(store, keep=DAY_6 + 5) == Moved(events=5, bars=3, dropped=3)


def test_bars_stay_when_their_events_are_dropped(store):
    live(store, {BTC: EVENTS})
    before = all_of(store)
    packed(store)
    print_ = store.fingerprint()
    assert packed(store, keep=DAY_6) == Moved(dropped=3)
    after = all_of(store)
    same_bits(before[1], after[1])
    assert before[3] == after[3]
    same_bits(after[2], EVENTS.take(EVENTS.timestamp >= DAY_6))
    assert store.fingerprint() != print_  # what reads single orders says something else
    assert packed(store, keep=DAY_6) == Moved()


def test_what_was_dropped_is_not_counted_again(store):
    dropped(store)
    before = all_of(store)
    assert live(store, {BTC: EVENTS}) == 0
    with store.write() as writer:
        # Nobody can tell whether the store had it: its time has bars, and they are final.
        more = Events.concat([EVENTS, events_of((DAY_5 + 3, "long", 1.0))])
        done = writer.insert("okx", BTC, "okx", more, spans((DAY_5 - DAY, DAY_6 + 1)))
        assert (done.new, done.known, done.expired) == (0, 2, 4)
    same_bits(before[1], all_of(store)[1])
    with store.read() as reader:
        assert reader.coverage(reader.series()[0]).tolist() == [[DAY_5, DAY_7]]


def test_erasing_leaves_what_could_not_be_told_again(store):
    dropped(store)
    with store.write() as writer:
        more = events_of((DAY_7 + 5, "long", 3.0))
        writer.insert("okx", BTC, "okx", more, spans((DAY_6, DAY_7 + DAY)))
        writer.remove("okx", BTC, "okx", spans=spans((DAY_5, DAY_7 + DAY)))
    with store.read() as reader:
        (series, *_) = reader.series()
        # Nor what a feed has told: packed, it lies among what was imported.
        assert reader.bars(series, *FOREVER).long.tolist() == [200.0, 0.0, 8.0]
        assert len(reader.events(series, *FOREVER)) == 2


def test_a_recording_claims_nothing_of_what_was_dropped(store, tmp_path, capsys):
    dropped(store)
    assert run(["export-data", str(tmp_path / "told"), "--db-url", store.db_url]) == 0
    assert "BTC/USDT:USDT of okx, before 2024-08-06 00:00: left out" in capsys.readouterr().err
    one, other = export(store, tmp_path / "out")
    assert other.coverage.tolist() == [[DAY_5, DAY_7]]  # of the other pair nothing was dropped
    assert one.coverage.tolist() == [[DAY_6, DAY_7]]


# --- who reads meanwhile ---


def test_a_bot_that_looked_before_sees_the_same_afterwards(store, db_url):
    live(store, {BTC: EVENTS})
    with store.write() as writer:
        writer.seal(writer.feed(*NAMES), DAY_7, 0)
    opens = np.arange(DAY_5, DAY_7, 60 * MINUTE)
    asked = Settings(db_url, ("okx",))
    bot = LiquidationProvider(db_url)
    before, _ = bot.columns(BTC, opens[:-1], "1h", asked, live=True)
    packed(store)
    after, _ = bot.columns(BTC, opens, "1h", asked, live=True)
    backtest, _ = bot.columns(BTC, opens, "1h", asked)
    assert before["liq_long"].sum() == 208.0
    for name, values in backtest.items():
        assert np.array_equal(after[name], values, equal_nan=True), name
        assert np.array_equal(before[name], values[:-1], equal_nan=True), name
    bot.close()


def test_two_that_fill_the_same_segment_lose_nothing(store):
    """One packs what came later while the other fills the segment that it would fill."""
    live(store, {BTC: events_of((DAY_5, "long", 1.0))})
    packed(store)
    live(store, {BTC: events_of((DAY_5 + 5, "long", 2.0), (DAY_5 + 9, "long", 4.0))})
    before = all_of(store)
    with store.transaction(write=False) as connection:
        parts, first, _ = compaction._read_events(connection, DAY_5 + 7, DAY_6, 100)
    assert packed(store, DAY_5 + 7).events == 1
    later = EVENT.c.known == 0, EVENT.c.timestamp.between(first, DAY_6 - 1)
    with store.transaction(write=True) as connection:
        assert compaction._write(connection, parts, EVENT, *later) == 0
    same(before, all_of(store))
    assert packed(store).events == 1
    same(before, all_of(store))


def told(store: Store, minute: int, usd: float) -> None:
    with store.write() as writer:
        feed = writer.feed(*NAMES)
        writer.join(feed, [BTC, ETH], DAY_5)
        own = {BTC: events_of((DAY_5 + minute * MINUTE + 5, "long", usd))}
        feed, _ = writer.append(feed, own, 0)
        feed = writer.cover(feed, DAY_5 + minute * MINUTE, DAY_5 + (minute + 1) * MINUTE)
        writer.seal(feed, DAY_5 + (minute + 1) * MINUTE, 0)


def test_a_bot_that_was_away_while_its_minutes_were_packed_reads_them(store, db_url):
    bot, asked = LiquidationProvider(db_url), Settings(db_url, ("okx",))
    told(store, 0, 1.0)
    opens = DAY_5 + np.arange(4) * MINUTE
    assert bot.columns(BTC, opens[:1], "1m", asked, live=True)[0]["liq_long"].tolist() == [1.0]
    for minute in (1, 2, 3):
        told(store, minute, 2.0**minute)
    packed(store)
    found, _ = bot.columns(BTC, opens, "1m", asked, live=True)
    assert found["liq_long"].tolist() == [1.0, 2.0, 4.0, 8.0]
    bot.close()


def test_what_a_bot_could_not_read_is_unknown_when_another_pair_is_asked_for_first(store):
    broken = False

    def opened() -> Store:
        if broken:
            raise LiquidationsError("the store is away")
        return store

    view = LiveView(opened)
    told(store, 0, 1.0)
    view.until(DAY_5 + MINUTE, ("okx",), 0.5)
    btc, eth = view.series()
    assert (btc.pair, eth.pair) == (BTC, ETH)
    assert view.source(btc, DAY_5, DAY_7).coverage.tolist() == [[DAY_5, DAY_5 + MINUTE]]
    told(store, 1, 2.0)
    broken = True
    view.until(DAY_5 + 2 * MINUTE, ("okx",), 0.5)
    broken = False
    view.source(eth, DAY_5 - MINUTE, DAY_7)  # reads what is covered anew
    source = view.source(btc, DAY_5, DAY_7)
    assert source.bars.long.tolist() == [1.0]
    assert source.coverage.tolist() == [[DAY_5, DAY_5 + MINUTE]]  # not 0 in the second minute
    view.until(DAY_5 + 2 * MINUTE + 1, ("okx",), 0.5)
    assert view.source(btc, DAY_5, DAY_7).bars.long.tolist() == [1.0, 2.0]


def test_bars_that_were_imported_before_a_feed_told_events_stay_bars_without_events(
    store, tmp_path
):
    vendor = bars_of((DAY_5, 5.0, 1.0), (DAY_5 + MINUTE, 0.0, 2.0), counts=True)
    with store.write() as writer:
        writer.insert("okx", BTC, "okx", vendor, spans((DAY_5, DAY_5 + 2 * MINUTE)))
    told(store, 5, 8.0)
    with store.read() as reader:
        btc = reader.series()[0]
        assert btc.kept == DAY_5 + 2 * MINUTE
        assert reader.bars(btc, *FOREVER).long.tolist() == [5.0, 0.0, 8.0]
    assert list(find_problems(store, Seen())) == []
    # A recording of its events claims nothing of the time of which there are only bars.
    coverage = [one.coverage.tolist() for one in export(store, tmp_path / "out") if one.rows]
    assert coverage == [[[DAY_5 + 5 * MINUTE, DAY_5 + 6 * MINUTE]]]
