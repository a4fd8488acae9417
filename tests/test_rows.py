"""Rows of live feeds: each candle holds what was known when it closed, whoever asks whenever.

The rule is worked out again in plain loops, for whatever order events, coverage and seals come in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from conftest import events_of, execute, same_bits, spans, utc
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidations.candles import candle_closes, candle_opens, source_candles, to_bars
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Events, make_events
from liquidations.reader import Reader, Series
from liquidations.rows import GONE, split
from liquidations.store import Store
from liquidations.writer import Inserted, Writer


START = utc("2024-08-05")
SPAN = 16 * MINUTE
FOREVER = (utc("2020-01-01"), utc("2030-01-01"))
PAIR = "BTC/USDT:USDT"
NOTHING = spans()


@pytest.fixture(scope="module")
def store(fresh: Callable[[], str]) -> Iterator[Store]:
    """Return one store for all: each example has an exchange's channel and a pair of its own."""
    with Store(fresh(), create=True) as one:
        yield one


_number = itertools.count()


def unused() -> tuple[str, str]:
    """Name a channel and a pair that nobody used."""
    number = next(_number)
    return f"channel {number}", f"C{number}/USDT:USDT"


def series_of(reader: Reader, pair: str) -> Series:
    (found,) = (series for series in reader.series() if series.pair == pair)
    return found


# --- what was known when --------------------------------------------------------------------------


@st.composite
def sessions(draw):
    """Draw what a feed does in the order of our time: how late it is, what it brings.

    :return: rows of (our time, seal up to, events as (time, side, USD), coverage or None)
    """
    now, covered, sealed, steps = START, START, START, []
    second = st.integers(0, 40_000)
    for _ in range(draw(st.integers(1, 12))):
        now += draw(second) + 1
        due = (now - draw(st.sampled_from([1_300, 0, 70_000]))) // MINUTE * MINUTE
        sealed = max(sealed, due)
        lag = st.one_of(st.integers(0, 2_000), st.integers(0, 200_000))
        events = [
            (max(START, now - draw(lag)), draw(st.sampled_from(["long", "short"])), float(usd))
            for usd in draw(st.lists(st.integers(1, 9_999), max_size=4))
        ]
        mark = max(covered, now - draw(lag))
        cover = (covered, mark) if draw(st.integers(0, 3)) else None
        covered = mark
        steps.append((now, sealed, events, cover))
    return steps


def write(writer: Writer, channel: str, pair: str, steps) -> None:
    """Write a session as the collector does."""
    feed = writer.feed("okx", channel, "okx")
    writer.join(feed, [pair], START)
    for now, sealed, events, cover in steps:
        feed = replace(feed, sealed=max(feed.sealed, sealed))
        known = feed.sealed + MINUTE
        if events:
            feed, _ = writer.append(feed, {pair: events_of(*events)}, known)
        if cover is not None:
            start, end = cover
            feed = writer.cover(feed, start, min(end, feed.sealed), known)
            feed = writer.cover(feed, max(start, feed.sealed), end)
        feed = writer.seal(feed, feed.sealed, now)


def by_hand(steps, opens, closes):
    """Work out each candle: what counts is in it, and was known when it closed."""
    events, covers, seen = [], [], set()
    for _, sealed, rows, cover in steps:
        for rank, (at, side, usd) in enumerate(rows):
            twins = rows[:rank].count((at, side, usd))
            if (at, side, usd, twins) not in seen:  # equals of another batch are a repetition
                seen.add((at, side, usd, twins))
                events.append((at, side, usd, sealed + MINUTE if at < sealed else 0))
        if cover is not None:
            start, end = cover
            covers.append((start, min(end, sealed), sealed + MINUTE))
            covers.append((max(start, sealed), end, 0))
    rows = []
    for open_, close in zip(opens.tolist(), closes.tolist(), strict=True):
        sums, counts = {"long": Fraction(0), "short": Fraction(0)}, {"long": 0, "short": 0}
        for at, side, usd, known in events:
            if open_ <= at < close and known <= close:
                sums[side] += Fraction(usd)
                counts[side] += 1
        listened = sum(
            max(0, min(end, close) - max(start, open_))
            for start, end, known in covers
            if known <= close
        )
        numbers = (*map(float, sums.values()), *map(float, counts.values()))
        nothing = (float("nan"),) * 4
        rows.append((*(numbers if listened else nothing), listened / (close - open_)))
    return np.array(rows).T


@settings(max_examples=60)
@given(sessions(), st.sampled_from(["1m", "3m", "5m", "15m"]))
def test_each_candle_holds_what_was_known_when_it_closed(store, steps, timeframe):
    channel, pair = unused()
    with store.write() as writer:
        write(writer, channel, pair, steps)
        opens = candle_opens(START - SPAN, START + SPAN, timeframe)
        closes = candle_closes(opens, timeframe)
        source = writer.source(series_of(writer, pair), *FOREVER)
        found = source_candles(source, opens, closes)
        everything = writer.events(series_of(writer, pair), *FOREVER)
    names = ("long", "short", "long_count", "short_count", "coverage")
    expected = by_hand(steps, opens, closes)
    np.testing.assert_array_equal(np.stack([getattr(found, name) for name in names]), expected)
    # Nobody asks as of then: what happened, of all that was ever told.
    if source.late is not None:
        known = replace(source, late=source.late.in_time())
        long = source_candles(known, opens, closes).long
        assert np.nansum(long) <= everything.value_usd[everything.side == 0].sum()


def test_a_late_event_by_hand(store):
    channel, pair = unused()
    noon = utc("2024-08-05 12:00")
    with store.write() as writer:
        feed = writer.feed("okx", channel, "okx")
        writer.join(feed, [pair], noon)
        feed = writer.cover(feed, noon, noon + 10 * MINUTE)
        feed, _ = writer.append(feed, {pair: events_of((noon + 1_000, "long", 10.0))}, 0)
        feed = writer.seal(feed, noon + 2 * MINUTE, noon + 2 * MINUTE)
        # Comes at 12:02:30: candles that close at 12:03 or later contain it.
        late = {pair: events_of((noon + 2_000, "long", 5.0), (noon + 2 * MINUTE, "short", 1.0))}
        feed, done = writer.append(feed, late, noon + 3 * MINUTE)
        assert done == Inserted(new=2)
        source = writer.source(series_of(writer, pair), *FOREVER)
        assert writer.bars(series_of(writer, pair), *FOREVER).long.tolist() == [10.0, 0.0]
    for minutes, long in ((1, 10.0), (2, 10.0), (3, 15.0), (5, 15.0)):
        candle = source_candles(source, np.array([noon]), np.array([noon + minutes * MINUTE]))
        assert candle.long.tolist() == [long], minutes


# --- nothing doubled ------------------------------------------------------------------------------

rows = st.lists(
    st.tuples(
        st.integers(START, START + 3 * MINUTE),
        st.sampled_from(["long", "short"]),
        st.floats(0.01, 10**7),
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def batches(draw, size: int) -> list[list[int]]:
    """Draw an order for so many rows, and where to cut it into batches; some come twice."""
    order = draw(st.permutations(range(size)))
    order = [*order, *draw(st.lists(st.sampled_from(order), max_size=3))]
    cuts = sorted(draw(st.sets(st.integers(1, len(order) - 1), max_size=4))) if size > 1 else []
    return [order[start:end] for start, end in itertools.pairwise([0, *cuts, len(order)])]


def unlike(drawn) -> Events:
    """Make events of which no two are equal, so that each is known wherever it comes again."""
    time, side, usd = zip(*drawn, strict=True)
    sides = [("long", "short").index(one) for one in side]
    return make_events(time, sides, [1.0] * len(usd), usd, usd, rank=range(len(usd)))


@settings(max_examples=40)
@given(rows, st.data())
def test_order_and_batches_never_change_a_bit(store, drawn, data):
    events = unlike(drawn)
    whole, pair = unused(), unused()
    with store.write() as writer:
        for (channel, name), order in (
            (whole, [range(len(events))]),
            (pair, data.draw(batches(len(events)))),
        ):
            feed = writer.feed("okx", channel, "okx")
            writer.join(feed, [name], START)
            new = 0
            for part in order:
                feed, done = writer.append(feed, {name: events.take(np.array(part))}, 0)
                new += done.new
            assert new == len(events)
            writer.seal(feed, 0, 0)
        one, other = (series_of(writer, name) for _, name in (whole, pair))
        mine, theirs = (writer.bars(series, *FOREVER) for series in (one, other))
        # Sums of squares may differ in their last bits.
        same_bits(mine, theirs, "timestamp", "long", "short", "long_count", "short_count")
        same_bits(writer.events(one, *FOREVER), writer.events(other, *FOREVER))
        same_bits(mine, to_bars(events), "timestamp", "long", "short", "long_count", "short_count")
        digests = {feed.channel: feed.digest for feed in writer.feeds()}
        assert digests[whole[0]] == digests[pair[0]]


@settings(max_examples=40)
@given(rows, st.data())
def test_what_is_imported_and_told_live_counts_once(store, drawn, data):
    events = unlike(drawn)
    channel, pair = unused()
    parts = data.draw(batches(len(events)))
    ways = data.draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))
    sealed = data.draw(st.sampled_from([0, START + MINUTE, START + 5 * MINUTE]))
    with store.write() as writer:
        feed = writer.seal(writer.feed("okx", channel, "okx"), sealed, 0)
        writer.join(feed, [pair], START)
        new = known = 0
        for part, live in zip(parts, ways, strict=True):
            own = events.take(np.sort(np.array(part)))
            if live:
                feed, done = writer.append(feed, {pair: own}, sealed + MINUTE)
            else:
                done = writer.insert("okx", pair, "okx", own, NOTHING)
            new, known = new + done.new, known + done.known
        feed = writer.cover(feed, START, START + 5 * MINUTE)
        writer.seal(feed, sealed, 0)
        series = series_of(writer, pair)
        assert (new, new + known) == (len(events), sum(map(len, parts)))
        assert sorted(writer.events(series, *FOREVER).key) == sorted(events.key)
        # A candle that closed long after all of it was known.
        source = writer.source(series, *FOREVER)
    day = source_candles(source, np.array([START]), np.array([START + 1440 * MINUTE]))
    bars = to_bars(events)
    assert day.long.tolist() == [bars.long.sum()]
    assert day.short.tolist() == [bars.short.sum()]
    assert day.long_count[0] + day.short_count[0] == len(events)


def test_two_equal_ones_of_a_millisecond_stay_two_and_a_repetition_adds_none(store):
    channel, pair = unused()
    twins = events_of((START, "long", 5.0), (START, "long", 5.0))
    with store.write() as writer:
        feed = writer.feed("okx", channel, "okx")
        writer.join(feed, [pair], START)
        feed, done = writer.append(feed, {pair: twins}, 0)
        assert done == Inserted(new=2)
        before = feed.digest
        for again in (twins, twins.take(np.array([0])), twins.take(np.array([1, 0, 1]))):
            feed, done = writer.append(feed, {pair: again}, 0)
            assert done == Inserted(new=0, known=len(again))
        assert feed.digest == before
        assert writer.bars(series_of(writer, pair), *FOREVER).long.tolist() == [10.0]


def test_invented_and_real_feeds_never_mix(store):
    with pytest.raises(LiquidationsError, match="must never mix"), store.write() as writer:
        writer.feed("okx", "swap", "simulated")


# --- coverage, gaps, membership -------------------------------------------------------------------

piece = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda p: (p[0], p[0] + p[1]))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), piece), min_size=1, max_size=8), piece)
def test_coverage_is_what_was_added_and_not_taken_back(store, steps, told):
    channel, pair = unused()
    observed: set[int] = set()
    with store.write() as writer:
        feed = writer.feed("okx", channel, "okx")
        writer.join(feed, [pair], START + told[0])
        digest = feed.digest
        for add, (start, end) in steps:
            # A feed adds only what it has not yet.
            if add and not observed & set(range(start, end)):
                feed = writer.cover(feed, START + start, START + end)
                observed |= set(range(start, end))
            elif not add:
                feed = writer.revoke(feed, START + start, START + end)
                observed -= set(range(start, end))
        writer.join(feed, [], START + told[1])
        found = writer.coverage(series_of(writer, pair)) - START
        covered_until = writer.covered_until(feed)
    expected = observed & set(range(*told))
    assert [ms for start, end in found.tolist() for ms in range(start, end)] == sorted(expected)
    assert covered_until == (START + max(observed) + 1 if observed else None)
    assert steps[0][0] is False or feed.digest != digest  # whoever caches sees the change


@given(st.lists(st.tuples(piece, st.sampled_from([0, 0, 41, 50, 60])), max_size=8))
def test_each_ms_counts_once_as_it_was_first_known(told):
    drawn = [(start, end, known) for (start, end), known in told]
    first: dict[int, int] = {}
    for start, end, known in drawn:
        for ms in range(start, end):
            first[ms] = min(first.get(ms, known), known)
    on_time, late = split(np.array(drawn, np.int64).reshape(-1, 3))
    found = [(ms, 0) for start, end in on_time.tolist() for ms in range(start, end)]
    found += [(ms, known) for start, end, known in late.tolist() for ms in range(start, end)]
    assert sorted(found) == sorted(first.items())


def test_coverage_by_several_collectors_is_never_more_than_all(store):
    channel, pair = unused()
    noon = utc("2024-08-05 12:00")
    with store.write() as writer:
        for number, (start, end, known) in enumerate(
            [
                (0, 10 * MINUTE, 0),
                (10_000, 50_000, 2 * MINUTE),  # filled in later, and heard already
                (9 * MINUTE, 12 * MINUTE, 13 * MINUTE),
            ]
        ):
            feed = writer.feed("okx", channel, "okx", number)
            writer.join(feed, [pair], noon)
            feed = writer.cover(feed, noon + start, noon + end, known and noon + known)
            writer.seal(feed, noon, 0)
        source = writer.source(series_of(writer, pair), *FOREVER)
    happened = replace(source, late=source.late.in_time())
    for first, length, seen, was in (
        (0, 1, 1.0, 1.0),
        (5, 5, 1.0, 1.0),
        (10, 1, 0.0, 1.0),  # heard by the third, after it had closed
        (0, 15, 12 / 15, 12 / 15),
    ):
        opens = np.array([noon + first * MINUTE])
        closes = opens + length * MINUTE
        assert source_candles(source, opens, closes).coverage.tolist() == [seen]
        assert source_candles(happened, opens, closes).coverage.tolist() == [was]


def test_a_collector_keeps_its_row_and_a_new_one_takes_what_is_free(store):
    channel, _ = unused()
    names = "okx", channel, "okx"
    with store.write() as writer:

        def claim(holders: str, now: int) -> list[int]:
            return [writer.claim(*names, holder, START + now).number for holder in holders]

        assert claim("AABAB", 0) == [0, 0, 1, 0, 1]
        assert claim("BC", GONE - 1) == [1, 2]
        # A has ended or was killed: who has a row stays in it.
        assert claim("BCDAC", GONE) == [1, 2, 0, 3, 2]
        (ended,) = (one for one in writer.feeds() if (one.channel, one.number) == (channel, 1))
        writer.seal(replace(ended, holder=""), 0, 0)
        assert claim("CDAE", GONE) == [2, 0, 3, 1]


def test_a_pair_is_told_from_when_it_joined_until_it_left(store):
    channel, pair = unused()
    other = unused()[1]
    with store.write() as writer:
        feed = writer.feed("okx", channel, "okx")
        writer.join(feed, [pair], START)
        feed = writer.cover(feed, START, START + 100)
        writer.join(feed, [pair, other], START + 40)
        writer.join(feed, [other], START + 70)
        writer.join(feed, [other, pair], START + 90)
        assert (writer.coverage(series_of(writer, pair)) - START).tolist() == [[0, 70], [90, 100]]
        assert (writer.coverage(series_of(writer, other)) - START).tolist() == [[40, 100]]
        # What was imported stands beside it.
        writer.insert("okx", other, "okx", events_of(), spans((START - 50, START + 10)))
        own = writer.coverage(series_of(writer, other)) - START
        assert own.tolist() == [[-50, 10], [40, 100]]


def test_gaps_and_busy_minutes_are_listed(store):
    channel, pair = unused()
    noon = utc("2024-08-05 12:00")
    with store.write() as writer:
        feed = writer.feed("okx", channel, "okx")
        writer.gap(feed, 30, 40, "silence")
        writer.gap(feed, 10, 20, "start")
        writer.gap(feed, 50, 50, "error")  # nothing was missed
        assert writer.gaps(feed) == [(10, 20, "start"), (30, 40, "silence")]
        writer.join(feed, [pair], noon)
        events = events_of((noon + 70_000, "long", 1.0), (noon + 80_000, "short", 1.0))
        feed, _ = writer.append(feed, {pair: events}, 0)
        feed = writer.cover(feed, noon + 1, noon + 3 * MINUTE)
        feed = writer.cover(feed, noon + 4 * MINUTE, noon + 5 * MINUTE)
        # Minutes that were observed from end to end only.
        listed = [((at - noon) // MINUTE, number) for at, number in writer.minutes(feed, 0)]
        assert listed == [(1, 2), (2, 0), (4, 0)]
        later = writer.minutes(feed, noon + 2 * MINUTE)
        assert [at for at, _ in later] == [noon + 2 * MINUTE, noon + 4 * MINUTE]


def test_a_removed_series_leaves_the_feed_alone(store):
    channel, pair = unused()
    other = unused()[1]
    with store.write() as writer:
        feed = writer.feed("okx", channel, "okx")
        writer.join(feed, [pair, other], START)
        events = events_of((START, "long", 1.0))
        feed, _ = writer.append(feed, {pair: events, other: events}, 0)
        writer.remove("okx", pair, "okx")
        assert len(writer.events(series_of(writer, other), *FOREVER)) == 1
        feed, done = writer.append(feed, {pair: events}, 0)
        assert done == Inserted(new=1)


told = st.lists(
    st.tuples(st.integers(0, 8 * MINUTE - 1), st.sampled_from(["long", "short"]), st.booleans()),
    max_size=10,
)


@settings(max_examples=50)
@given(told, st.integers(0, 8), st.integers(1, 8), st.booleans())
def test_what_is_imported_over_a_feed_leaves_no_liquidation_out_of_what_it_covers(
    store, rows, first, length, repeats
):
    """An import fills gaps as if it had been heard in time; what came late comes in time then."""
    channel, pair = unused()
    end = START + 8 * MINUTE
    span = spans((START + first * MINUTE, START + (first + length) * MINUTE))
    early, late = (
        events_of(*((START + at, side, 1.0 + at) for at, side, was in rows if was is late))
        for late in (False, True)
    )
    with store.write() as writer:
        feed = writer.feed("okx", channel, "okx")
        writer.join(feed, [pair], START)
        feed, _ = writer.append(feed, {pair: early}, 0)
        feed = writer.seal(writer.cover(feed, START, START + 2 * MINUTE), end, end)
        feed, _ = writer.append(feed, {pair: late}, end + MINUTE)
        feed = writer.seal(writer.cover(feed, START, end, end + MINUTE), end, end)
        known = writer.events(series_of(writer, pair), *FOREVER)
        before = series_of(writer, pair)
        writer.insert("okx", pair, "okx", known if repeats else known.take(slice(0, 0)), span)
        series = series_of(writer, pair)
        source = writer.source(series, START, START + SPAN)
        same_bits(writer.events(series, *FOREVER), known)  # nothing doubled, nothing lost
    assert (series.digest, series.live) != (before.digest, before.live)
    opens = np.arange(span[0, 0], span[0, 1], MINUTE)
    candles = source_candles(source, opens, opens + MINUTE)
    assert candles.coverage.tolist() == [1.0] * length
    for at, open_ in enumerate(opens.tolist()):
        inside = known.take((known.timestamp >= open_) & (known.timestamp < open_ + MINUTE))
        assert candles.long[at] == inside.value_usd[inside.side == 0].sum()
        assert candles.short[at] == inside.value_usd[inside.side == 1].sum()
        assert candles.long_count[at] == (inside.side == 0).sum()


def test_events_and_bars_of_one_source_are_never_added(store):
    _, pair = unused()
    events = events_of(("2024-08-05 03:00", "long", 10.0))
    bar = to_bars(events)
    vendor = replace(bar, **{name: bar.long * np.nan for name in bar.names() if "_" in name})
    day = spans(("2024-08-05", "2024-08-06"))
    for first, second in ((vendor, events), (events, vendor), (events, bar), (bar, events)):
        _, pair = unused()
        with store.write() as writer:
            writer.insert("binance", pair, "coinalyze", first, day)
        refused = pytest.raises(LiquidationsError, match="needs another source's name")
        with refused, store.write() as writer:
            writer.insert("binance", pair, "coinalyze", second, day)


# --- an older store -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("create", [True, False], ids=["collector", "reader"])
def test_a_store_of_an_older_version_is_opened_and_extended(any_url: str, create, version):
    events = events_of(("2024-08-05 03:00", "long", 100.0))
    with Store(any_url, create=True) as store, store.write() as writer:
        writer.insert("okx", PAIR, "okx", events, spans(("2024-08-05", "2024-08-06")))
    newer = ("event", "bar", "member", "feed_coverage", "gap", "feed", "revision", "origin")
    gone = {1: newer, 2: newer[-2:], 3: ()}[version]
    execute(
        any_url,
        *(f"DROP TABLE liq_{table}" for table in gone),
        "ALTER TABLE liq_series DROP COLUMN kept",
        "DELETE FROM liq_meta WHERE name != 'schema'",
        f"UPDATE liq_meta SET value = {version}",
    )
    with Store(any_url, create=create) as store:
        with store.read() as reader:
            (series,) = reader.series()
            same_bits(reader.events(series, *FOREVER), events)
            assert reader.coverage(series).tolist() == spans(("2024-08-05", "2024-08-06")).tolist()
            assert reader.feeds() == []
        with store.write() as writer:
            feed = writer.feed("okx", "swap", "okx")
            writer.join(feed, [PAIR], START)
            feed, done = writer.append(feed, {PAIR: events}, 0)
            assert done == Inserted(new=0, known=1)
        assert store.name.startswith("store-")
    assert execute(any_url, "SELECT value FROM liq_meta WHERE name = 'schema'") == [(4,)]
