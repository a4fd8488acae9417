"""Candles: edges, holes and partial knowledge by hand; the rest against plain loops.

What could go wrong without a trace: an event in the neighbour's candle, a candle that nobody
observed read as quiet, two sources of one contract added, a ratio of ratios.
"""

from fractions import Fraction

import numpy as np
import pytest
from conftest import bars_of, events_of, spans, utc
from hypothesis import assume, given
from hypothesis import strategies as st

from liquidations.archives import ranks
from liquidations.candles import (
    Late,
    Source,
    add_bars,
    add_contracts,
    best_source,
    candle_closes,
    candle_opens,
    columns,
    format_period,
    parse_timeframe,
    source_candles,
    timeframe_ms,
    to_bars,
)
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Bars, merge_intervals


NAN = float("nan")
HOUR, DAY = 60 * MINUTE, 1440 * MINUTE
ALWAYS = spans(("2020-01-01", "2030-01-01"))


def table(source: Source, opens, closes, **options):
    return columns({"okx": source_candles(source, opens, closes)}, **options)


def equal(found, expected) -> None:
    np.testing.assert_array_equal(found, expected)


# --- timeframes ---------------------------------------------------------------------------------

# From 2024-02-28 12:34:56.789 (a Wednesday of a leap year): the first opens from then on, and the
# close of the last one named. From a calendar; those that are not on the hand:
# 3d: days since 1970 that 3 divides; 2024-02-28 is day 19,781 = 3 × 6,593 + 2, so 02-29 is one.
# 2w: every second Monday from 1970-01-05; 2024-03-04 is 2,826 weeks later, an even number.
TIMEFRAMES = {
    "1m": (["2024-02-28 12:35", "2024-02-28 12:36"], "2024-02-28 12:37"),
    "3m": (["2024-02-28 12:36", "2024-02-28 12:39"], "2024-02-28 12:42"),
    "5m": (["2024-02-28 12:35", "2024-02-28 12:40"], "2024-02-28 12:45"),
    "15m": (["2024-02-28 12:45", "2024-02-28 13:00"], "2024-02-28 13:15"),
    "30m": (["2024-02-28 13:00", "2024-02-28 13:30"], "2024-02-28 14:00"),
    "1h": (["2024-02-28 13:00", "2024-02-28 14:00"], "2024-02-28 15:00"),
    "2h": (["2024-02-28 14:00", "2024-02-28 16:00"], "2024-02-28 18:00"),
    "4h": (["2024-02-28 16:00", "2024-02-28 20:00"], "2024-02-29 00:00"),
    "6h": (["2024-02-28 18:00", "2024-02-29 00:00"], "2024-02-29 06:00"),
    "8h": (["2024-02-28 16:00", "2024-02-29 00:00"], "2024-02-29 08:00"),
    "12h": (["2024-02-29 00:00", "2024-02-29 12:00"], "2024-03-01 00:00"),
    "1d": (["2024-02-29", "2024-03-01"], "2024-03-02"),
    "3d": (["2024-02-29", "2024-03-03"], "2024-03-06"),
    "1w": (["2024-03-04", "2024-03-11"], "2024-03-18"),
    "2w": (["2024-03-04", "2024-03-18"], "2024-04-01"),
    "1M": (["2024-03-01", "2024-04-01"], "2024-05-01"),
    "3M": (["2024-04-01", "2024-07-01", "2024-10-01", "2025-01-01"], "2025-04-01"),
    "1y": (["2025-01-01", "2026-01-01"], "2027-01-01"),
}


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_opens_and_closes(timeframe):
    start = utc("2024-02-28 12:34:56.789")
    expected, close = TIMEFRAMES[timeframe]
    opens = [utc(one) for one in expected]
    assert candle_opens(start, utc(close), timeframe).tolist() == opens
    # An open itself belongs to the candles from it on, the end does not.
    assert candle_opens(opens[0], opens[-1], timeframe).tolist() == opens[:-1]
    assert candle_opens(opens[0], opens[-1] + 1, timeframe).tolist() == opens
    assert candle_closes(np.array(opens), timeframe).tolist() == [*opens[1:], utc(close)]
    assert candle_opens(opens[0], opens[0], timeframe).tolist() == []
    assert candle_opens(opens[1], opens[0], timeframe).tolist() == []


def test_every_week_opens_on_a_monday():
    opens = candle_opens(utc("2023-12-20"), utc("2024-03-20"), "1w")
    assert opens[0] == utc("2023-12-25")
    assert {str(np.datetime64(int(one), "ms").item().strftime("%A")) for one in opens} == {"Monday"}


@pytest.mark.parametrize(
    ("timeframe", "opened", "closes"),
    [
        ("1M", "2023-02-01", "2023-03-01"),
        ("1M", "2024-02-01", "2024-03-01"),
        ("1M", "2024-12-01", "2025-01-01"),
        ("3M", "2023-10-01", "2024-01-01"),
        ("1w", "2024-12-30", "2025-01-06"),
        ("1y", "2024-01-01", "2025-01-01"),
    ],
)
def test_closes_at_the_end_of_february_and_of_the_year(timeframe, opened, closes):
    assert candle_closes(np.array([utc(opened)]), timeframe).tolist() == [utc(closes)]


@pytest.mark.parametrize("timeframe", ["30s", "1s", "0m", "05m", "m", "1", "1H", "1.5h", "-1m", ""])
def test_what_is_no_timeframe_of_a_minute_or_more_is_refused(timeframe):
    with pytest.raises(LiquidationsError, match="not a timeframe of one minute or more"):
        parse_timeframe(timeframe)


def test_lengths_are_written_as_they_are_read():
    lengths = {"1m": MINUTE, "5m": 5 * MINUTE, "4h": 4 * HOUR, "1d": DAY, "3d": 3 * DAY}
    lengths["1w"] = 7 * DAY
    assert {name: timeframe_ms(name) for name in lengths} == lengths
    assert [format_period(length) for length in lengths.values()] == list(lengths)
    assert timeframe_ms("1M") is timeframe_ms("1y") is None


# --- one source by hand -------------------------------------------------------------------------

FIVE = candle_opens(utc("2024-08-05 00:00"), utc("2024-08-05 00:20"), "5m")
FIVE_CLOSES = candle_closes(FIVE, "5m")

#: candle   00:00          00:05        00:10         00:15
#: long     100            10           –             0
#: short    50             20 + 5       –             7
EDGES = events_of(
    ("2024-08-04 23:59:59.999", "long", 1_000.0),
    ("2024-08-05 00:00:00.000", "long", 100.0),
    ("2024-08-05 00:04:59.999", "short", 50.0),
    ("2024-08-05 00:05:00.000", "long", 10.0),
    ("2024-08-05 00:05:00.000", "short", 20.0),
    ("2024-08-05 00:09:59.999", "short", 5.0),
    ("2024-08-05 00:19:59.999", "short", 7.0),
    ("2024-08-05 00:20:00.000", "short", 2_000.0),
)


def test_a_candle_is_from_its_open_to_just_before_its_close():
    found = table(Source("okx", MINUTE, to_bars(EDGES), ALWAYS), FIVE, FIVE_CLOSES)
    assert list(found) == [
        "liq_long",
        "liq_short",
        "liq_total",
        "liq_long_count",
        "liq_short_count",
        "liq_imbalance",
        "liq_coverage",
    ]
    assert {array.dtype for array in found.values()} == {np.dtype("float64")}
    equal(found["liq_long"], [100.0, 10.0, 0.0, 0.0])
    equal(found["liq_short"], [50.0, 25.0, 0.0, 7.0])
    equal(found["liq_total"], [150.0, 35.0, 0.0, 7.0])
    equal(found["liq_long_count"], [1, 1, 0, 0])
    equal(found["liq_short_count"], [1, 2, 0, 1])
    # 100 / 150, 10 / 35, 0 / 0 is not 0.5, 0 / 7
    equal(found["liq_imbalance"], [100 / 150, 10 / 35, NAN, 0.0])
    equal(found["liq_coverage"], [1.0] * 4)


def test_what_lies_in_a_hole_of_the_candles_is_in_no_candle():
    # 00:05 is missing among the candles: its 10 long and 25 short must not slip into 00:00.
    opens, closes = FIVE[[0, 2, 3]], FIVE_CLOSES[[0, 2, 3]]
    found = table(Source("okx", MINUTE, to_bars(EDGES), ALWAYS), opens, closes)
    equal(found["liq_long"], [100.0, 0.0, 0.0])
    equal(found["liq_short"], [50.0, 0.0, 7.0])
    equal(found["liq_coverage"], [1.0] * 3)


@pytest.mark.parametrize(
    ("timeframe", "start", "end", "last_days"),
    [
        # 30 + 31 + 31 + 28 = 120 days, as four months of 30 would have
        (
            "1M",
            "2022-11-01",
            "2023-03-01",
            ["2022-11-30", "2022-12-31", "2023-01-31", "2023-02-28"],
        ),
        (
            "1M",
            "2023-11-01",
            "2024-03-01",
            ["2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29"],
        ),
        (
            "3M",
            "2023-07-01",
            "2024-07-01",
            ["2023-09-30", "2023-12-31", "2024-03-31", "2024-06-30"],
        ),
        # 61 + 62 + 61 + 61 + 60 + 61 = 366 days, as six times 61 would have
        (
            "2M",
            "2023-05-01",
            "2024-05-01",
            ["2023-06-30", "2023-08-31", "2023-10-31", "2023-12-31", "2024-02-29", "2024-04-30"],
        ),
    ],
    ids=["February of 28 days", "of 29 days", "quarters", "pairs of months"],
)
def test_months_of_different_lengths(timeframe, start, end, last_days):
    # One dollar on the last day of the first candle, two on that of the second …
    events = events_of(*((day, "long", 1.0 + number) for number, day in enumerate(last_days)))
    opens = candle_opens(utc(start), utc(end), timeframe)
    closes = candle_closes(opens, timeframe)
    found = table(Source("okx", MINUTE, to_bars(events), ALWAYS), opens, closes)
    equal(found["liq_long"], [1.0 + number for number in range(len(last_days))])


def test_columns_are_float64_also_where_nothing_happened():
    # Freqtrade's tools handle float64 only; numpy sums nothing to whole numbers.
    quiet = Source("okx", MINUTE, bars_of(), ALWAYS)
    for least in (0.9, 0):
        found = table(quiet, FIVE, FIVE_CLOSES, min_coverage=least, per_exchange=True)
        assert {name: array.dtype for name, array in found.items()} == dict.fromkeys(
            found, np.dtype("float64")
        )
        equal(found["liq_total"], [0.0] * 4)


@pytest.mark.parametrize("rows", [[], [("2024-08-05", "long", 5.0)]], ids=["none", "long only"])
def test_bars_of_events_of_one_side_have_the_right_types(rows):
    bars = to_bars(events_of(*rows))
    assert {name: array.dtype for name, array in bars.arrays().items()} == Bars.dtypes()


def test_one_candle_and_none():
    source = Source("okx", MINUTE, to_bars(EDGES), ALWAYS)
    equal(table(source, FIVE[1:2], FIVE_CLOSES[1:2])["liq_short"], [25.0])
    assert [len(array) for array in table(source, FIVE[:0], FIVE_CLOSES[:0]).values()] == [0] * 7


def test_a_source_that_knows_of_no_event_tells_zero_where_it_was_listening():
    nothing = Source("okx", MINUTE, bars_of(), spans(("2024-08-05 00:05", "2024-08-05 00:15")))
    found = table(nothing, FIVE, FIVE_CLOSES)
    equal(found["liq_total"], [NAN, 0.0, 0.0, NAN])
    equal(found["liq_long_count"], [NAN, 0.0, 0.0, NAN])
    equal(found["liq_imbalance"], [NAN] * 4)
    equal(found["liq_coverage"], [0.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("period", "timeframe", "serving"),
    [
        (HOUR, "5m", False),
        (HOUR, "30m", False),
        (HOUR, "1h", True),
        (HOUR, "4h", True),
        (HOUR, "1M", True),
        (4 * HOUR, "6h", False),
        (4 * HOUR, "12h", True),
        (DAY, "1w", True),
        (DAY, "12h", False),
    ],
)
def test_only_bars_that_fit_into_a_candle_serve_it(period, timeframe, serving):
    day = utc("2024-08-05")  # a Monday
    source = Source("coinalyze", period, bars_of((day, 3.0, 1.0)), ALWAYS)
    opens = candle_opens(utc("2024-08-01"), utc("2024-09-01"), timeframe)
    found = table(source, opens, candle_closes(opens, timeframe), min_coverage=0)
    assert set(found["liq_coverage"]) == ({1.0} if serving else {0.0})
    if serving:
        assert np.nansum(found["liq_total"]) == 4.0
    else:
        assert np.isnan(found["liq_total"]).all()


def test_candles_off_the_periods_grid_are_not_served():
    # Hourly candles that open at half past, as some resampling makes them.
    opens = candle_opens(utc("2024-08-05"), utc("2024-08-06"), "1h") + 30 * MINUTE
    source = Source("coinalyze", HOUR, bars_of(("2024-08-05 03:00", 3.0, 1.0)), ALWAYS)
    assert np.isnan(table(source, opens, opens + HOUR)["liq_long"]).all()


# --- partly observed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "min_coverage", "known"),
    [
        # of 300,000 ms from 00:10: 270,000 are exactly 0.9
        ("2024-08-05 00:14:30.000", 0.9, True),
        ("2024-08-05 00:14:29.999", 0.9, False),
        ("2024-08-05 00:14:29.999", 0.89, True),
        ("2024-08-05 00:14:59.999", 1.0, False),
        ("2024-08-05 00:15:00.000", 1.0, True),
        ("2024-08-05 00:10:00.001", 0, True),
        ("2024-08-05 00:10:00.000", 0, False),
    ],
)
def test_a_candle_counts_from_min_coverage_on_and_never_unobserved(end, min_coverage, known):
    events = events_of(("2024-08-05 00:10", "long", 5.0))
    source = Source("okx", MINUTE, to_bars(events), spans(("2024-08-05", end)))
    found = table(source, FIVE, FIVE_CLOSES, min_coverage=min_coverage)
    equal(found["liq_long"], [0.0, 0.0, 5.0 if known else NAN, NAN])
    equal(found["liq_short_count"], [0.0, 0.0, 0.0 if known else NAN, NAN])
    # What was observed is told, whether it sufficed or not.
    share = (utc(end) - utc("2024-08-05 00:10")) / 300_000
    equal(found["liq_coverage"], [1.0, 1.0, share, 0.0])


def test_coverage_in_pieces_adds_up():
    pieces = spans(
        ("2024-08-05 00:00", "2024-08-05 00:01"), ("2024-08-05 00:03", "2024-08-05 00:06")
    )
    found = table(Source("okx", MINUTE, bars_of(), pieces), FIVE, FIVE_CLOSES)
    equal(found["liq_coverage"], [0.6, 0.2, 0.0, 0.0])


# --- exchanges ----------------------------------------------------------------------------------


def two_exchanges(**options):
    """Combine okx (events, from 00:05 on) and binance (vendor's bars, until 00:15).

    candle         00:00    00:05      00:10      00:15
    okx            –        10 / 25    0 / 0      0 / 7
    binance        1 / 3    2 / 0      0 / 0      –
    """
    okx = Source("okx", MINUTE, to_bars(EDGES), spans(("2024-08-05 00:05", "2024-08-06")))
    bars = bars_of(("2024-08-05 00:00", 1.0, 3.0), ("2024-08-05 00:05", 2.0, 0.0))
    binance = Source("coinalyze", 5 * MINUTE, bars, spans(("2024-08-05 00:00", "2024-08-05 00:15")))
    parts = {
        "okx": source_candles(okx, FIVE, FIVE_CLOSES),
        "binance": source_candles(binance, FIVE, FIVE_CLOSES),
    }
    return columns(parts, **options)


def test_exchanges_are_added_where_they_were_observed():
    found = two_exchanges()
    equal(found["liq_long"], [1.0, 12.0, 0.0, 0.0])
    equal(found["liq_short"], [3.0, 25.0, 0.0, 7.0])
    equal(found["liq_total"], [4.0, 37.0, 0.0, 7.0])
    # The ratio of sums: 12 / 37. The mean of ratios would be (10 / 35 + 2 / 2) / 2 = 0.64.
    equal(found["liq_imbalance"], [0.25, 12 / 37, NAN, 0.0])
    # The mean over both, so that a strategy sees that one is missing.
    equal(found["liq_coverage"], [0.5, 1.0, 1.0, 0.5])


def test_a_count_that_one_exchange_does_not_give_is_unknown():
    found = two_exchanges()
    # The vendor gives none for 00:05; at 00:15 only okx counts: its own numbers stand.
    assert np.isnan(found["liq_long_count"][[0, 1]]).all()
    equal(found["liq_long_count"][3:], [0.0])
    equal(found["liq_short_count"][3:], [1.0])


def test_where_fewer_exchanges_than_demanded_remain_the_candle_is_unknown():
    found = two_exchanges(min_exchanges=2)
    equal(found["liq_long"], [NAN, 12.0, 0.0, NAN])
    equal(found["liq_imbalance"], [NAN, 12 / 37, NAN, NAN])
    equal(found["liq_coverage"], [0.5, 1.0, 1.0, 0.5])


def test_each_exchange_on_request():
    found = two_exchanges(per_exchange=True, min_exchanges=2)
    assert len(found) == 7 * 3
    equal(found["liq_long_okx"], [NAN, 10.0, 0.0, 0.0])
    equal(found["liq_short_binance"], [3.0, 0.0, 0.0, NAN])
    equal(found["liq_imbalance_okx"], [NAN, 10 / 35, NAN, 0.0])
    equal(found["liq_coverage_okx"], [0.0, 1.0, 1.0, 1.0])
    equal(found["liq_coverage_binance"], [1.0, 1.0, 1.0, 0.0])


def test_an_exchange_below_the_minimum_is_left_out_of_its_own_columns_too():
    half = Source("okx", MINUTE, to_bars(EDGES), spans(("2024-08-05", "2024-08-05 00:02:30")))
    found = table(half, FIVE, FIVE_CLOSES, per_exchange=True)
    assert np.isnan(found["liq_long_okx"]).all()
    equal(found["liq_coverage_okx"], [0.5, 0.0, 0.0, 0.0])


def test_contracts_of_one_exchange_are_added_and_observed_as_far_as_each_was():
    # linear: everything; inverse: 3 of the 5 minutes of 00:05, then all of 00:10, then nothing.
    linear = Source("okx", MINUTE, to_bars(EDGES), ALWAYS)
    inverse = Source(
        "okx",
        MINUTE,
        to_bars(events_of(("2024-08-05 00:07", "long", 4.0))),
        spans(("2024-08-05 00:07", "2024-08-05 00:15")),
    )
    parts = [source_candles(one, FIVE, FIVE_CLOSES) for one in (linear, inverse)]
    always = np.ones(len(FIVE), bool)
    both = add_contracts([(part, always) for part in parts])
    equal(both.coverage, [0.0, 0.6, 1.0, 0.0])
    equal(both.long, [NAN, 14.0, 0.0, NAN])
    equal(columns({"okx": both}, min_coverage=0.5)["liq_long"], [NAN, 14.0, 0.0, NAN])
    equal(columns({"okx": both})["liq_long"], [NAN, NAN, 0.0, NAN])
    # The second one is recorded from the second candle on, the first one from the third.
    begun = np.arange(4)
    both = add_contracts([(parts[0], begun >= 2), (parts[1], begun >= 1)])
    equal(both.coverage, [0.0, parts[1].coverage[1], 1.0, 0.0])
    equal(both.long, [NAN, parts[1].long[1], 0.0, NAN])


# --- several sources of one contract ------------------------------------------------------------

HOURS = candle_opens(utc("2024-08-05 00:00"), utc("2024-08-05 04:00"), "1h")
HOURS_CLOSES = HOURS + HOUR


def sources() -> list[Source]:
    """Draw two sources of one contract, in long USD.

    hour                  00:00    01:00          02:00         03:00
    coinalyze, hourly     100      200            300           –
    okx, events           11       22 (0.95)      33 (0.5)      –
    """
    vendor = bars_of(
        ("2024-08-05 00:00", 100.0, 0.0),
        ("2024-08-05 01:00", 200.0, 0.0),
        ("2024-08-05 02:00", 300.0, 0.0),
    )
    events = events_of(
        ("2024-08-05 00:30", "long", 11.0),
        ("2024-08-05 01:30", "long", 22.0),
        ("2024-08-05 02:15", "long", 33.0),
    )
    heard = spans(
        ("2024-08-05 00:00", "2024-08-05 01:57"), ("2024-08-05 02:00", "2024-08-05 02:30")
    )
    return [
        Source("coinalyze", HOUR, vendor, spans(("2024-08-05 00:00", "2024-08-05 03:00"))),
        Source("okx", MINUTE, to_bars(events), heard),
    ]


def test_the_finer_source_wins_where_it_observed_enough_and_nothing_is_added():
    taken, which = best_source(sources(), HOURS, HOURS_CLOSES, 0.9)
    equal(taken.long, [11.0, 22.0, 300.0, NAN])
    equal(taken.long_count, [1.0, 1.0, NAN, NAN])
    equal(taken.coverage, [1.0, 0.95, 1.0, 0.0])
    assert which.tolist() == [1, 1, 0, -1]


def test_the_order_of_the_sources_does_not_matter():
    taken, which = best_source(sources()[::-1], HOURS, HOURS_CLOSES, 0.9)
    equal(taken.long, [11.0, 22.0, 300.0, NAN])
    assert which.tolist() == [0, 0, 1, -1]


def test_a_higher_minimum_falls_back_to_the_coarser_source():
    taken, _ = best_source(sources(), HOURS, HOURS_CLOSES, 0.96)
    equal(taken.long, [11.0, 200.0, 300.0, NAN])


def test_where_none_observed_enough_the_best_covered_stands():
    vendor, heard = sources()
    short = Source("coinalyze", HOUR, vendor.bars, spans(("2024-08-05", "2024-08-05 02:15")))
    taken, which = best_source([short, heard], HOURS, HOURS_CLOSES, 0.9)
    # 02:00: a quarter of the hour against a half
    equal(taken.long, [11.0, 22.0, 33.0, NAN])
    equal(taken.coverage, [1.0, 0.95, 0.5, 0.0])
    assert which.tolist() == [1, 1, 1, -1]


def test_of_equally_fine_sources_the_better_covered_wins_then_the_alphabet():
    one = Source(
        "b", HOUR, bars_of((int(HOURS[0]), 1.0, 0.0)), spans((int(HOURS[0]), "2024-08-06"))
    )
    two = Source("a", HOUR, bars_of((int(HOURS[0]), 2.0, 0.0)), one.coverage)
    less = Source(
        "0", HOUR, bars_of((int(HOURS[0]), 3.0, 0.0)), spans(("2024-08-05 00:03", "2025"))
    )
    taken, which = best_source([one, two, less], HOURS[:1], HOURS_CLOSES[:1], 0.9)
    assert (taken.long.tolist(), which.tolist()) == ([2.0], [1])


def test_a_preferred_source_wins_where_it_observed_enough():
    taken, which = best_source(sources(), HOURS, HOURS_CLOSES, 0.9, ranks=[0, 1])
    equal(taken.long, [100.0, 200.0, 300.0, NAN])
    assert which.tolist() == [0, 0, 0, -1]
    vendor, heard = sources()
    short = Source("coinalyze", HOUR, vendor.bars, spans(("2024-08-05", "2024-08-05 01:00")))
    taken, which = best_source([heard, short], HOURS, HOURS_CLOSES, 0.9, ranks=[1, 0])
    equal(taken.long, [100.0, 22.0, 33.0, NAN])  # a preferred one that did not observe is no bar
    assert which.tolist() == [1, 0, 0, -1]


def test_ranks_put_the_preferred_first_and_a_full_record_before_what_an_exchange_publishes():
    assert ranks(["okx", "coinalyze", "plain"]) == [1, 1, 1]
    assert ranks(["okx", "coinalyze", "plain"], ["plain", "okx"]) == [1, 3, 0]
    assert ranks(["hyperliquid", "node_fills"]) == [1, 0]
    assert ranks(["hyperliquid", "node_fills"], ["hyperliquid"]) == [0, 1]


def test_a_source_that_is_too_coarse_for_the_candle_is_never_taken():
    taken, which = best_source(sources(), FIVE, FIVE_CLOSES, 0.9)
    equal(taken.long, [0.0] * 4)
    assert which.tolist() == [1] * 4
    taken, which = best_source(sources()[:1], FIVE, FIVE_CLOSES, 0.9)
    equal(taken.long, [NAN] * 4)
    assert which.tolist() == [-1] * 4


def test_no_source_is_unknown():
    taken, which = best_source([], FIVE, FIVE_CLOSES, 0.9)
    equal(taken.long, [NAN] * 4)
    equal(taken.coverage, [0.0] * 4)
    assert which.tolist() == [-1] * 4


# --- bars ---------------------------------------------------------------------------------------


def test_bars_by_hand():
    bars = to_bars(EDGES, 5 * MINUTE)
    first = utc("2024-08-04 23:55")
    minutes = ((bars.timestamp - first) // MINUTE).tolist()
    #            23:55    00:00   00:05   00:15   00:20; 00:10 has no event and so no bar
    assert minutes == [0, 5, 10, 20, 25]
    equal(bars.long, [1_000.0, 100.0, 10.0, 0.0, 0.0])
    equal(bars.short, [0.0, 50.0, 25.0, 7.0, 2_000.0])
    equal(bars.long_count, [1, 1, 1, 0, 0])
    equal(bars.short_count, [0, 1, 2, 1, 1])
    # squares: 20² + 5² = 425
    equal(bars.long_squares, [1e6, 1e4, 100.0, 0.0, 0.0])
    equal(bars.short_squares, [0.0, 2_500.0, 425.0, 49.0, 4e6])


def test_bars_of_the_same_period_are_added_in_order_of_time():
    early, late = utc("2024-08-05 00:00"), utc("2024-08-05 00:01")
    total = add_bars(
        [
            bars_of((late, 1.0, 2.0), counts=True),
            bars_of((early, 3.0, 4.0), (late, 5.0, 6.0), counts=True),
        ]
    )
    assert total.timestamp.tolist() == [early, late]
    equal(total.long, [3.0, 6.0])
    equal(total.short, [4.0, 8.0])
    equal(total.long_count, [1.0, 2.0])


# --- what came late -----------------------------------------------------------------------------

NOON = utc("2024-08-05 12:00")


def late_source() -> Source:
    """Build an hour that was observed but for ten minutes, of which was known too late.

    In time: 100 USD long at 12:01. Late: 10 short at 12:01, known at 12:05; 1 long at 12:03, known
    at 12:04; 12:10 … 12:20 was observed, which was known at 12:30, and 12:20 … 12:21 at 12:21.
    """
    late = events_of(("2024-08-05 12:01", "short", 10.0), ("2024-08-05 12:03", "long", 1.0))
    minutes = np.array([[10, 20, 30], [20, 21, 21]])
    return Source(
        "okx",
        MINUTE,
        to_bars(events_of(("2024-08-05 12:01", "long", 100.0))),
        spans(
            ("2024-08-05 12:00", "2024-08-05 12:10"),
            ("2024-08-05 12:21", "2024-08-05 13:00"),
        ),
        late=Late(late, NOON + np.array([5, 4]) * MINUTE, NOON + minutes * MINUTE),
    )


@pytest.mark.parametrize(
    ("start", "end", "long", "short", "coverage"),
    [
        (0, 2, 100.0, 0.0, 1.0),  # closed before anything late was known
        (0, 4, 101.0, 0.0, 1.0),  # 12:04, when the second was
        (0, 5, 101.0, 10.0, 1.0),
        (3, 4, 1.0, 0.0, 1.0),
        (1, 2, 100.0, 0.0, 1.0),  # its own minute never learns of it
        (10, 20, NAN, NAN, 0.0),  # closed ten minutes before it was known
        (10, 29, 0.0, 0.0, 9 / 19),  # 12:20 … 12:29 is known by then
        (10, 30, 0.0, 0.0, 1.0),
        (15, 30, 0.0, 0.0, 1.0),  # the half of it
        (20, 21, 0.0, 0.0, 1.0),  # known just when it closed
        (0, 60, 101.0, 10.0, 1.0),
        (-60, 60, 101.0, 10.0, 0.5),
    ],
)
def test_a_candle_holds_what_was_known_when_it_closed(start, end, long, short, coverage):
    opens, closes = (np.array([NOON + minutes * MINUTE]) for minutes in (start, end))
    found = source_candles(late_source(), opens, closes, squares=True)
    equal([found.long[0], found.short[0], found.coverage[0]], [long, short, coverage])
    counts = [NAN] * 2 if np.isnan(long) else [(long >= 100) + long % 2, short / 10]
    equal([found.long_count[0], found.short_count[0]], counts)
    squares = NAN if np.isnan(long) else (long >= 100) * 1e4 + long % 2 + short**2
    equal(found.squares, [squares])


def test_all_candles_at_once_are_those_one_by_one():
    for timeframe in ("1m", "3m", "5m", "15m", "1h"):
        opens = candle_opens(NOON - HOUR, NOON + 2 * HOUR, timeframe)
        for some in (opens, opens[::2]):  # with holes too
            closes = candle_closes(some, timeframe)
            whole = source_candles(late_source(), some, closes)
            for i in range(len(some)):
                alone = source_candles(late_source(), some[i : i + 1], closes[i : i + 1])
                for name in ("long", "short", "long_count", "short_count", "coverage"):
                    equal(getattr(whole, name)[i], getattr(alone, name)[0])


def test_what_happened_holds_all_of_it_whenever_it_was_known():
    source = late_source()
    source = Source("okx", MINUTE, source.bars, source.coverage, late=source.late.in_time())
    opens = NOON + np.arange(60) * MINUTE
    found = source_candles(source, opens, opens + MINUTE)
    equal(found.coverage, np.ones(60))
    equal(found.long[[0, 1, 2, 3]], [0.0, 100.0, 0.0, 1.0])
    equal(found.short[[0, 1, 2]], [0.0, 10.0, 0.0])


# --- properties ---------------------------------------------------------------------------------

START = utc("2024-08-05")  # a Monday, so that all candles of a day or less begin there
SPAN = 2 * DAY
TIMEFRAME = st.sampled_from(["1m", "5m", "15m", "1h", "4h", "1d"])


@st.composite
def histories(draw, size=25):
    """Draw coverage, and events within it at times that like the edges of candles."""
    edge = st.integers(0, SPAN // (15 * MINUTE)).map(lambda n: n * 15 * MINUTE)
    moment = st.one_of(edge, st.integers(0, SPAN))
    pieces = draw(st.lists(st.tuples(moment, moment), min_size=1, max_size=5))
    coverage = merge_intervals(START + np.sort(np.array(pieces), axis=1))
    assume(len(coverage))
    rows = []
    for begin, end in coverage.tolist():
        near = st.one_of(
            st.integers(begin, end - 1), st.sampled_from([begin, end - 1, (begin + end) // 2])
        )
        for at in draw(st.lists(near, max_size=size)):
            usd = draw(st.one_of(st.integers(1, 10**6), st.floats(0.01, 10**6)))
            rows.append((at, draw(st.sampled_from(["long", "short"])), float(usd)))
    return events_of(*rows), coverage


def loop(events, coverage, opens, closes, min_coverage):
    """Work the columns of one exchange in plain loops over exact fractions."""
    rows = []
    for begin, end in zip(opens.tolist(), closes.tolist(), strict=True):
        seen = sum(max(0, min(end, stop) - max(begin, start)) for start, stop in coverage.tolist())
        sums, counts = [Fraction(0)] * 2, [0, 0]
        for at, side, usd in zip(events.timestamp, events.side, events.value_usd, strict=True):
            if begin <= at < end:
                sums[side] += Fraction(float(usd))
                counts[side] += 1
        share = seen / (end - begin)
        total = sum(sums)
        if seen and share >= min_coverage:
            ratio = float(sums[0]) / float(total) if total else NAN
            rows.append((*map(float, sums), float(total), *counts, ratio, share))
        else:
            rows.append((*[NAN] * 6, share))
    return np.array(rows, dtype=np.float64).T


@given(histories(), TIMEFRAME, st.sampled_from([0, 0.5, 0.9, 1.0]), st.data())
def test_columns_are_those_of_plain_loops(history, timeframe, min_coverage, data):
    events, coverage = history
    opens = candle_opens(START, START + SPAN, timeframe)
    # At most 60 candles, from anywhere, with holes between them.
    first = data.draw(st.integers(0, max(0, len(opens) - 60)))
    opens = opens[first : first + 60]
    holes = data.draw(st.sets(st.integers(0, len(opens) - 1), max_size=len(opens) - 1))
    opens = np.delete(opens, list(holes))
    closes = candle_closes(opens, timeframe)
    found = table(
        Source("okx", MINUTE, to_bars(events), coverage), opens, closes, min_coverage=min_coverage
    )
    expected = loop(events, coverage, opens, closes, min_coverage)
    np.testing.assert_array_equal(np.stack(list(found.values())), expected)
    assert {array.dtype for array in found.values()} == {np.dtype("float64")}


@given(histories(), st.sampled_from([("1h", "4h"), ("1m", "1h"), ("1h", "1d"), ("15m", "1d")]))
def test_finer_candles_add_up_to_coarser_ones_to_the_bit(history, timeframes):
    events, _ = history
    source = Source("okx", MINUTE, to_bars(events), ALWAYS)
    fine, coarse = (
        table(source, opens, candle_closes(opens, timeframe))
        for timeframe in timeframes
        for opens in [candle_opens(START, START + SPAN, timeframe)]
    )
    for name in ("liq_long", "liq_short", "liq_total", "liq_long_count", "liq_short_count"):
        blocks = fine[name].reshape(len(coarse[name]), -1)
        assert blocks.sum(axis=1).tobytes() == coarse[name].tobytes(), name


@given(histories(), TIMEFRAME, st.integers(0, SPAN))
def test_later_events_never_change_earlier_candles(history, timeframe, cut):
    events, coverage = history
    known = events.take(events.timestamp < START + cut)
    heard = np.minimum(coverage, START + cut)
    opens = candle_opens(START, START + SPAN, timeframe)
    closes = candle_closes(opens, timeframe)
    then = table(Source("okx", MINUTE, to_bars(known), merge_intervals(heard)), opens, closes)
    now = table(Source("okx", MINUTE, to_bars(events), coverage), opens, closes)
    past = closes <= START + cut
    for name in now:
        assert now[name][past].tobytes() == then[name][past].tobytes(), name


@given(histories(), TIMEFRAME)
def test_swapping_long_and_short_mirrors_the_ratio(history, timeframe):
    events, coverage = history
    swapped = type(events)(**{**events.arrays(), "side": (1 - events.side).astype(np.int8)})
    opens = candle_opens(START, START + SPAN, timeframe)
    closes = candle_closes(opens, timeframe)
    one, other = (
        table(Source("okx", MINUTE, to_bars(rows), coverage), opens, closes)
        for rows in (events, swapped)
    )
    assert one["liq_long"].tobytes() == other["liq_short"].tobytes()
    assert one["liq_total"].tobytes() == other["liq_total"].tobytes()
    assert one["liq_long_count"].tobytes() == other["liq_short_count"].tobytes()
    np.testing.assert_allclose(
        one["liq_imbalance"], 1 - other["liq_imbalance"], rtol=0, atol=1e-15, equal_nan=True
    )


@given(histories(), histories(), TIMEFRAME, st.sampled_from([0, 0.9]), st.integers(1, 2))
def test_the_unobserved_never_becomes_a_number(one, other, timeframe, min_coverage, min_exchanges):
    opens = candle_opens(START, START + SPAN, timeframe)
    closes = candle_closes(opens, timeframe)
    parts = {
        name: source_candles(Source(name, MINUTE, to_bars(events), coverage), opens, closes)
        for name, (events, coverage) in (("okx", one), ("bybit", other))
    }
    found = columns(
        parts, min_coverage=min_coverage, min_exchanges=min_exchanges, per_exchange=True
    )
    seen = np.stack([part.coverage for part in parts.values()]) > 0
    unknown = seen.sum(axis=0) < min_exchanges
    for name, array in found.items():
        if "coverage" in name:
            assert not np.isnan(array).any()
            continue
        own = [~seen[row] for row, part in enumerate(parts) if name.endswith(f"_{part}")]
        where = own[0] if own else unknown
        assert np.isnan(array[where]).all(), name
    # And what is known adds up.
    np.testing.assert_array_equal(found["liq_total"], found["liq_long"] + found["liq_short"])
