"""What a strategy asks for beside its own candles: higher timeframes, the market, the past."""

import numpy as np
import pandas as pd
import pytest
from conftest import bars_of, events_of, spans, utc
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.strategy import merge_informative_pair
from hypothesis import given
from hypothesis import strategies as st
from test_provider import HOUR, PAIR, candles, listed, strategy_of

from liquidations import strategy as door
from liquidations.event import DAY
from liquidations.provider import provider_of
from liquidations.store import Store
from liquidations.strategy import add_corrected, add_liquidations, add_thresholds
from liquidations.thresholds import past_thresholds


NAN = float("nan")
NONE = None


def write(db_url, pair, rows, coverage, exchange="binance"):
    with Store(db_url, create=True) as store, store.write() as writer:
        writer.insert(exchange, pair, "feed", rows, coverage)


@pytest.fixture
def random_days(db_url):
    """Store ten days of random minutes, unobserved for parts of the third."""
    random = np.random.default_rng(3)
    start = utc("2024-01-01")
    time = np.sort(random.choice(10 * 1440, 4000, replace=False)) * 60_000 + start
    time = time[(time < utc("2024-01-03 05:00")) | (time >= utc("2024-01-03 09:17"))]
    rows = [
        (int(at), "long" if random.random() < 0.6 else "short", float(usd))
        for at, usd in zip(time, np.floor(random.pareto(1, len(time)) * 100) + 1, strict=True)
    ]
    seen = spans(
        ("2024-01-01", "2024-01-03 05:00"),
        ("2024-01-03 09:17", "2024-01-11"),
    )
    write(db_url, PAIR, events_of(*rows), seen)
    door._warned.clear()
    return db_url


@pytest.mark.parametrize(("base", "higher"), [("5m", "4h"), ("1h", "1d"), ("15m", "15m")])
def test_a_higher_timeframe_is_what_freqtrade_would_merge(random_days, base, higher):
    """Ask for the higher candles directly, merge them as Freqtrade does: the same to the bit."""
    strategy = strategy_of(random_days)
    freq = {"5m": "5min", "15m": "15min", "1h": "1h", "4h": "4h", "1d": "1D"}
    frame = candles("2024-01-02 00:00", int(6 * 24 * 3.6e6 / (door_ms(base))), freq[base])
    got = add_liquidations(strategy, frame, {"pair": PAIR}, base, informative=higher)
    direct = candles("2024-01-01", int(9 * 24 * 3.6e6 / door_ms(higher)), freq[higher])
    direct = add_liquidations(strategy, direct, {"pair": PAIR}, higher)
    if base == higher:
        expected = frame.merge(direct.drop(columns="close"), on="date").add_suffix(f"_{higher}")
    else:
        expected = merge_informative_pair(frame, direct, base, higher, ffill=False)
        # Freqtrade's own ffill would carry a known candle over an unobserved one.
        columns = [name for name in expected if name.startswith("liq_")]
        step = door_ms(higher) // door_ms(base)
        marks = expected[f"date_{higher}"].notna().cumsum()
        expected[columns] = expected.groupby(marks)[columns].transform("first")
        assert step > 1
    for name in ("liq_long", "liq_total", "liq_imbalance", "liq_coverage", "liq_long_count"):
        mine = got[f"{name}_{higher}"].to_numpy()
        theirs = expected[f"{name}_{higher}"].to_numpy()
        known = slice(door_ms(higher) // door_ms(base), None)  # theirs begins with the frame
        np.testing.assert_array_equal(mine[known], theirs[known])
        assert np.isfinite(mine).sum() > 20
    assert "liq_long" not in got
    if higher == "4h":  # 04:00 … 08:00 of the third was observed for a quarter
        third = got.loc[got["date"] == "2024-01-03 08:00"]
        assert third["liq_total_4h"].isna().all()
        assert third["liq_coverage_4h"].tolist() == [0.25]


def door_ms(timeframe):
    return {"5m": 300_000, "15m": 900_000, "1h": HOUR, "4h": 4 * HOUR, "1d": DAY}[timeframe]


def test_a_higher_candle_is_published_at_its_close_and_not_before(db_url):
    rows = events_of(("2024-01-01 00:10", "long", 3.0), ("2024-01-01 03:59:59.999", "short", 1.0))
    write(db_url, PAIR, rows, spans(("2024-01-01 00:00", "2024-01-01 08:00")))
    frame = candles("2024-01-01 01:00", 6)
    got = add_liquidations(strategy_of(db_url), frame, {"pair": PAIR}, informative="4h")
    # The candle 03:00 closes at 04:00, as the one of four hours does.
    assert listed(got, "liq_total_4h") == [NONE, NONE, 4, 4, 4, 4]
    assert listed(got, "liq_imbalance_4h") == [NONE, NONE, 0.75, 0.75, 0.75, 0.75]
    both = add_liquidations(
        strategy_of(db_url), frame, {"pair": "ETH/USDT:USDT"}, informative="4h", pair=PAIR
    )
    assert listed(both, "liq_total_btc_4h") == listed(got, "liq_total_4h")


def test_a_lower_timeframe_is_refused(random_days):
    with pytest.raises(OperationalException, match=r"higher timeframe than 1h, got 5m"):
        add_liquidations(strategy_of(random_days), candles(), {"pair": PAIR}, informative="5m")


def test_effective_number_of_liquidations(db_url):
    rows = events_of(
        ("2024-01-01 00:10", "long", 3.0),
        ("2024-01-01 00:20", "short", 1.0),
        ("2024-01-01 01:20", "long", 5.0),
    )
    seen = spans(("2024-01-01 00:00", "2024-01-01 03:00"))
    write(db_url, PAIR, rows, seen)
    with Store(db_url) as store, store.write() as writer:
        writer.insert("okx", "BTC/USDT:USDT", "feed", rows, seen)
    both = strategy_of(db_url, exchanges=["binance", "okx"])
    frame = add_liquidations(both, candles(periods=4), {"pair": PAIR}, n_eff=True)
    # Two exchanges: (2 × 4)² / (2 × 10), (2 × 5)² / (2 × 25); of nothing, and unknown: NaN.
    assert listed(frame, "liq_n_eff") == [3.2, 2, NONE, NONE]
    frame = add_liquidations(
        both, candles(periods=4), {"pair": PAIR}, n_eff=True, per_exchange=True
    )
    assert listed(frame, "liq_n_eff_okx") == [1.6, 1, NONE, NONE]


def test_a_source_that_counts_nothing_has_no_effective_number(db_url):
    span = spans(("2024-01-01 00:00", "2024-01-01 02:00"))
    with Store(db_url, create=True) as store, store.write() as writer:
        bars = bars_of(("2024-01-01 00:00", 10.0, 30.0))
        writer.insert("binance", PAIR, "vendor", bars, span, period=HOUR)
    frame = add_liquidations(strategy_of(db_url), candles(periods=2), {"pair": PAIR}, n_eff=True)
    assert listed(frame, "liq_total") == [40, 0]
    assert listed(frame, "liq_n_eff") == [NONE, NONE]


# --- the market ----------------------------------------------------------------------------------


def three_pairs(db_url):
    """Store three pairs: the hour 1 of all, hour 2 of BTC and ETH, hour 3 of BTC alone."""
    ends = {"BTC": "04:00", "ETH": "03:00", "SOL": "02:00"}
    for number, (base, end) in enumerate(ends.items(), 1):
        rows = [("2024-01-01 01:10", "long", 10.0 * number), ("2024-01-01 01:20", "short", 1.0)]
        rows += [("2024-01-01 02:10", "long", 1.0)] if base != "SOL" else []
        rows += [("2024-01-01 03:10", "long", 1.0)] if base == "BTC" else []
        seen = spans(("2024-01-01 01:00", f"2024-01-01 {end}"))
        write(db_url, f"{base}/USDT:USDT", events_of(*rows), seen)


def test_the_market_is_all_pairs_and_unknown_where_fewer_than_half_are_known(db_url):
    three_pairs(db_url)
    strategy = strategy_of(db_url)
    frame = add_liquidations(strategy, candles(periods=5), {"pair": PAIR}, pair="market")
    assert listed(frame, "liq_long_market") == [NONE, 60, 2, NONE, NONE]
    assert listed(frame, "liq_short_market") == [NONE, 3, 0, NONE, NONE]
    coverage = [0, 1, 2 / 3, 1 / 3, 0]
    np.testing.assert_allclose(frame["liq_coverage_market"], coverage, rtol=1e-15)
    # All pairs ask for it: kept, and made anew when one of them gets more.
    kept = provider_of(db_url)._markets
    again = add_liquidations(strategy, candles(periods=5), {"pair": "ETH/USDT:USDT"}, pair="market")
    assert listed(again, "liq_long_market") == listed(frame, "liq_long_market")
    assert len(kept) == 1
    again["liq_long_market"] = -1.0
    write(db_url, "SOL/USDT:USDT", events_of(("2024-01-01 02:30", "long", 5.0)),
          spans(("2024-01-01 02:00", "2024-01-01 04:00")))  # fmt: skip
    frame = add_liquidations(strategy, candles(periods=5), {"pair": PAIR}, pair="market")
    assert listed(frame, "liq_long_market") == [NONE, 60, 7, 1, NONE]


def test_the_market_counts_each_base_once_and_no_other_exchange(db_url):
    three_pairs(db_url)
    seen = spans(("2024-01-01 01:00", "2024-01-01 04:00"))
    rows = events_of(("2024-01-01 01:30", "long", 1000.0))
    write(db_url, "BTC/USDC:USDC", rows, seen)
    write(db_url, PAIR, rows, seen, exchange="okx")
    frame = add_liquidations(strategy_of(db_url), candles(), {"pair": PAIR}, pair="market")
    assert listed(frame, "liq_long_market")[1] == 60
    frame = add_liquidations(
        strategy_of(db_url), candles(), {"pair": PAIR}, pair="market", exchanges="all"
    )
    assert listed(frame, "liq_long_market")[1] == 1060


def test_the_market_of_an_empty_store_is_an_error_in_a_backtest_and_nan_in_a_bot(db_url):
    with Store(db_url, create=True):
        pass
    with pytest.raises(OperationalException, match=r"no liquidations of market are stored"):
        add_liquidations(strategy_of(db_url), candles(), {"pair": PAIR}, pair="market")
    bot = strategy_of(db_url, RunMode.DRY_RUN)
    frame = add_liquidations(bot, candles(), {"pair": PAIR}, pair="market")
    assert frame["liq_total_market"].isna().all()
    with pytest.raises(OperationalException, match="leave out per_exchange"):
        add_liquidations(bot, candles(), {"pair": PAIR}, pair="market", per_exchange=True)


# --- thresholds ----------------------------------------------------------------------------------


def past_of(long, short):
    long, short = np.array(long, dtype=float), np.array(short, dtype=float)
    total = long + short
    with np.errstate(invalid="ignore"):
        ratio = long / np.where(total > 0, total, np.nan)
    day = np.arange(len(long)) // 24
    counts = {
        f"liq_{side}_count": np.where(day == 0, number, NAN)
        for side, number in (("long", 1.0), ("short", 3.0))
    }
    sides = {"liq_long": long, "liq_short": short}
    return sides | counts | {"liq_total": total, "liq_imbalance": ratio}


def test_thresholds_by_hand():
    # Two days of 24 hours; longs 0 … 23 of 24 USD on the first, twice that on the second day.
    long = np.tile(np.arange(24.0), 2) * np.repeat([1, 2], 24)
    short = np.repeat([24.0, 48.0], 24) - long
    closes = (np.arange(48) + 1) * HOUR
    found = past_thresholds(
        past_of(long, short), closes, np.array([1, 1, 2]), days=1, low=0.25, high=0.75, volume=0.5
    )
    # A quarter of the 24 ratios, six, are 18/24 = 0.75 or more, and six are 5/24 = 0.2083 or less;
    # in bins of 1/499, named by the edge that is nearer to a half: 374/499, 104/499.
    np.testing.assert_allclose(found["liq_imbalance_high"], 374 / 499, rtol=1e-15)
    np.testing.assert_allclose(found["liq_imbalance_low"], 104 / 499, rtol=1e-15)
    # The totals are 24 and 48, in bins of 4.4 %, named by their lower edge.
    for got, total in zip(found["liq_total_high"], (24, 24, 48), strict=True):
        assert total / 2 ** (1 / 16) < got <= total
    np.testing.assert_array_equal(found["liq_base"], [276 / 576] * 3)
    # One long and three shorts an hour on the first day; nobody counted on the second.
    np.testing.assert_array_equal(found["liq_base_count"], [0.25, 0.25, NAN])


def test_a_pair_that_is_always_extreme_can_still_be_beyond_its_threshold():
    past = past_of([5.0] * 24, [0.0] * 24)
    closes = (np.arange(24) + 1) * HOUR
    found = past_thresholds(past, closes, np.array([1]), days=1, low=0.1, high=0.9, volume=0.8)
    assert found["liq_imbalance_high"][0] == 498 / 499
    assert found["liq_imbalance_low"][0] == 0.5  # and what was always so is no extreme of shorts


def test_thresholds_of_what_is_hardly_known_are_unknown():
    long = np.array([5.0] * 19 + [NAN] * 5)
    closes = (np.arange(24) + 1) * HOUR
    found = past_thresholds(
        past_of(long, np.where(np.isnan(long), NAN, 1.0)),
        closes,
        np.array([1]),
        days=1,
        low=0.1,
        high=0.9,
        volume=0.8,
    )
    # 19 ratios are too few; 19 of 24 hours are enough for the rest.
    assert np.isnan(found["liq_imbalance_high"][0])
    assert found["liq_base"][0] == 95 / 114
    found = past_thresholds(
        past_of(long, np.where(np.isnan(long), NAN, 1.0)),
        closes,
        np.array([1]),
        days=2,
        low=0.1,
        high=0.9,
        volume=0.8,
    )
    assert np.isfinite(found["liq_base"][0])  # half of the candles that there are
    unknown = past_of([NAN] * 13 + [5.0] * 11, [1.0] * 24)
    found = past_thresholds(unknown, closes, np.array([1]), days=1, low=0.1, high=0.9, volume=0.8)
    assert all(np.isnan(array[0]) for array in found.values())


@given(st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_thresholds_agree_with_numpy(days, seed, share):
    random = np.random.default_rng(seed)
    long, short = np.floor(random.pareto(1, (2, 6 * 24)) * 50) + 1
    closes = (np.arange(len(long)) + 1) * HOUR
    wanted = np.arange(days, 7)
    past = past_of(long, short)
    found = past_thresholds(past, closes, wanted, days=days, low=share, high=share, volume=share)
    for row, day in enumerate(wanted):
        window = slice((day - days) * 24, day * 24)
        ratios, totals = np.sort(past["liq_imbalance"][window]), np.sort(past["liq_total"][window])
        # The share counted from the top, or from the bottom, rounded up to whole candles.
        top, bottom = (max(int(np.ceil(s * len(ratios) - 1e-9)), 1) for s in (1 - share, share))
        bin_ = 1 / 499 + 1e-12
        # Never across the middle.
        high, low = max(ratios[-top], 0.5), min(ratios[bottom - 1], 0.5)
        assert 0 <= high - found["liq_imbalance_high"][row] <= bin_
        assert 0 <= found["liq_imbalance_low"][row] - low <= bin_
        # Numbers on an edge may be rounded across it.
        low, high = totals[-top] / 2 ** (1 / 16) * (1 - 1e-12), totals[-top] * (1 + 1e-12)
        assert low < found["liq_total_high"][row] <= high
        sums = long[window].sum(), short[window].sum()
        assert found["liq_base"][row] == pytest.approx(sums[0] / sum(sums))


def test_thresholds_come_from_the_store_and_not_from_the_frame(random_days):
    """A bot's short frame and a backtest's long one say the same of the same candles."""
    strategy = strategy_of(random_days)
    long = add_thresholds(strategy, candles("2024-01-03", 7 * 24), {"pair": PAIR}, days=3)
    short = add_thresholds(strategy, candles("2024-01-09 20:00", 8), {"pair": PAIR}, days=3)
    names = [name for name in long if name.startswith("liq_")]
    overlap = long[names].iloc[-4:].reset_index(drop=True)
    pd.testing.assert_frame_equal(short[names].iloc[:4], overlap, check_exact=True)
    assert long["liq_imbalance_high"].notna().sum() > 100
    # They change at midnight, and the day itself is not in them.
    day = long["date"].dt.day
    assert (long.groupby(day)["liq_base"].nunique(dropna=False) == 1).all()


def test_the_present_day_never_changes_its_own_thresholds(random_days):
    strategy = strategy_of(random_days)
    frame = candles("2024-01-08", 24)
    before = add_thresholds(strategy, frame, {"pair": PAIR}, days=5)
    huge = events_of(("2024-01-08 00:00", "long", 1e9), ("2024-01-08 05:00", "short", 1e9))
    write(random_days, PAIR, huge, np.empty((0, 2), np.int64))
    after = add_thresholds(strategy, frame, {"pair": PAIR}, days=5)
    pd.testing.assert_frame_equal(after, before)
    following = add_thresholds(strategy, candles("2024-01-09", 24), {"pair": PAIR}, days=5)
    assert following["liq_base"].iloc[0] == pytest.approx(0.5, abs=0.01)


def test_a_past_before_the_store_is_unknown(random_days):
    frame = candles("2024-01-02", 3 * 24)
    got = add_thresholds(strategy_of(random_days), frame, {"pair": PAIR}, days=5)
    known = got["liq_base"].notna()
    # Half of five days is 60 hours: reached by 4 January (48 + 19.7 hours), not by the third.
    assert known.tolist() == [False] * 48 + [True] * 24
    with pytest.raises(OperationalException, match=r"high must be from 0 to 1, got 90"):
        add_thresholds(strategy_of(random_days), frame, {"pair": PAIR}, high=90)
    with pytest.raises(
        OperationalException, match=r"days must be a whole number from 1 to 100000, got 0"
    ):
        add_thresholds(strategy_of(random_days), frame, {"pair": PAIR}, days=0)


def test_no_candles_have_no_columns_to_fill(random_days):
    nothing = candles(periods=0)
    strategy = strategy_of(random_days)
    assert len(add_thresholds(strategy, nothing, {"pair": PAIR})) == 0
    assert len(add_liquidations(strategy, nothing, {"pair": PAIR}, informative="4h")) == 0


# --- sampled feeds -------------------------------------------------------------------------------


def test_a_complete_feed_needs_no_correction_and_a_partial_one_gets_none(db_url):
    """Hand over one hour of three exchanges, of each kind of feed one."""
    rows = [(f"2025-06-01 01:00:{second:02d}", "long", 1.0) for second in range(30)]
    rows += [("2025-06-01 01:30", "short", 10.0)]
    seen = spans(("2025-06-01 00:00", "2025-06-01 02:30"))
    for exchange in ("binance", "bybit", "okx"):
        write(db_url, PAIR, events_of(*rows), seen, exchange)
    strategy = strategy_of(db_url, exchanges=["binance", "bybit", "okx", "hyperliquid"])
    frame = add_corrected(strategy, candles("2025-06-01", 3), {"pair": PAIR})
    # As shown 30 of 40. Bybit publishes everything since February 2025.
    assert listed(frame, "liq_imbalance_corrected_bybit") == [NONE, 0.75, NONE]
    assert listed(frame, "liq_imbalance_lower_bybit") == [NONE, 0.75, NONE]
    assert listed(frame, "liq_imbalance_upper_bybit") == [NONE, 0.75, NONE]
    # OKX leaves out what it leaves out: the ratio as shown, and no bounds.
    assert listed(frame, "liq_imbalance_corrected_okx") == [NONE, 0.75, NONE]
    assert frame["liq_imbalance_lower_okx"].isna().all()
    # Binance showed one order a second: the half minute of longs hides more than the one short.
    _, corrected, _ = frame["liq_imbalance_corrected_binance"]
    assert corrected > 0.8
    assert frame["liq_imbalance_lower_binance"][1] < 0.75 < frame["liq_imbalance_upper_binance"][1]
    # The fullest minute had 30 orders; the third hour was observed for half of its time.
    assert listed(frame, "liq_saturation_binance") == [0, 0.5, NONE]
    assert frame.filter(like="hyperliquid").isna().all(axis=None)
    assert "liq_long" not in frame


def test_bars_without_single_orders_can_not_be_corrected(db_url):
    span = spans(("2024-01-01 00:00", "2024-01-01 02:00"))
    with Store(db_url, create=True) as store, store.write() as writer:
        bars = bars_of(("2024-01-01 00:00", 10.0, 30.0))
        writer.insert("binance", PAIR, "vendor", bars, span, period=HOUR)
    frame = add_corrected(strategy_of(db_url), candles(periods=2), {"pair": PAIR})
    assert frame.filter(like="binance").shape == (2, 4)
    assert frame.filter(like="binance").isna().all(axis=None)


def test_the_correction_of_a_short_frame_is_that_of_a_long_one(random_days):
    strategy = strategy_of(random_days)
    long = add_corrected(strategy, candles("2024-01-01", 10 * 24), {"pair": PAIR})
    short = add_corrected(strategy, candles("2024-01-10", 24), {"pair": PAIR})
    names = [name for name in long if name.startswith("liq_")]
    tail = long[names].iloc[-24:].reset_index(drop=True)
    pd.testing.assert_frame_equal(short[names], tail)
    assert (short["liq_imbalance_lower_binance"] < short["liq_imbalance_upper_binance"]).any()
    with pytest.raises(OperationalException, match="only those of a pair"):
        add_corrected(strategy, candles("2024-01-10", 24), {"pair": PAIR}, pair="market")
    with pytest.raises(OperationalException, match="no liquidations of ETH"):
        add_corrected(strategy, candles("2024-01-10", 24), {"pair": "ETH/USDT:USDT"})


# --- what an adversary found ---------------------------------------------------------------------


def months(db_url):
    """Store January, February and March with 1, 2 and 300 USD of longs."""
    rows = [("2024-01-15", "long", 1.0), ("2024-02-15", "long", 2.0), ("2024-03-15", "long", 300.0)]
    write(db_url, PAIR, events_of(*rows), spans(("2023-12-01", "2024-05-01")))
    return strategy_of(db_url)


@pytest.mark.parametrize("start", ["2024-01-02", "2024-01-30", "2024-01-31"])
def test_a_month_is_published_at_its_end_wherever_the_frame_begins(db_url, start):
    frame = add_liquidations(months(db_url), candles(start, 75 * 24), {"pair": PAIR},
                             informative="1M")  # fmt: skip
    month = (frame["date"] + pd.Timedelta("1h")).dt.strftime("%m")
    expected = month.map({"01": 0.0, "02": 1.0, "03": 2.0, "04": 300.0})
    assert frame["liq_long_1M"].tolist() == expected.tolist()
    short = add_liquidations(months(db_url), candles(start, 1), {"pair": PAIR}, informative="1M")
    assert short["liq_long_1M"].tolist() == expected.tolist()[:1]
    quarter = add_liquidations(months(db_url), candles(start, 9), {"pair": PAIR}, informative="3M")
    assert quarter["liq_coverage_3M"].between(0.3, 0.4).all()  # October to December
    weeks = add_liquidations(
        months(db_url), candles("2024-01-01", 16, "7D"), {"pair": PAIR}, "1w", informative="1M"
    )
    assert weeks["liq_long_1M"].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [300] * 4


def test_before_the_first_higher_candle_the_columns_are_unknown(random_days, caplog):
    """A cut frame of lookahead-analysis must not raise where the whole one has NaN."""
    frame = add_liquidations(
        strategy_of(random_days), candles(periods=5), {"pair": PAIR}, informative="1w"
    )
    assert frame["liq_total_1w"].isna().all()
    for hours in range(6, 12):  # a bot's frames move on; the message does not come again
        bot = strategy_of(random_days, RunMode.DRY_RUN)
        add_liquidations(bot, candles(periods=hours), {"pair": PAIR}, informative="1w")
    said = [one for one in caplog.records if "the columns of 1w are NaN" in one.getMessage()]
    assert len(said) == 1
    with pytest.raises(OperationalException, match="no liquidations of ETH"):
        add_liquidations(
            strategy_of(random_days), candles(), {"pair": "ETH/USDT:USDT"}, informative="4h"
        )


def test_what_is_recorded_later_leaves_the_past_of_the_market_as_it_was(db_url):
    seen = spans(("2024-01-01 00:00", "2024-01-01 06:00"))
    write(db_url, PAIR, events_of(("2024-01-01 00:10", "long", 60.0)), seen)
    strategy = strategy_of(db_url, inverse=True)
    options = [{"pair": "market"}, {"suffix": "own"}]

    def read():
        frames = [add_liquidations(strategy, candles(), {"pair": PAIR}, **one) for one in options]
        return pd.concat(frames, axis=1).filter(like="liq_")

    before = read()
    later = spans(("2024-01-01 03:00", "2024-01-01 06:00"))
    rows = events_of(("2024-01-01 04:10", "short", 7.0))
    for pair in ("ETH/USDT:USDT", "SOL/USDT:USDT", "BTC/USD:BTC"):
        write(db_url, pair, rows, later)
    after = read()
    pd.testing.assert_frame_equal(after[:3], before[:3])
    assert listed(after, "liq_short_market") == [0, 0, 0, 0, 21, 0]
    assert listed(after, "liq_short_own") == [0, 0, 0, 0, 7, 0]
    assert listed(after, "liq_coverage_market") == [1] * 6


def test_the_correction_does_not_depend_on_what_was_asked_before(db_url):
    first = events_of(*[(f"2024-01-01 00:{minute:02d}", "long", 1.0) for minute in range(50)])
    write(db_url, PAIR, first, spans(("2024-01-01", "2024-01-03")))
    strategy, quiet = strategy_of(db_url), candles("2024-01-02", 5)
    fresh = add_corrected(strategy, quiet, {"pair": PAIR})
    add_corrected(strategy, candles("2024-01-01", 48), {"pair": PAIR})
    pd.testing.assert_frame_equal(add_corrected(strategy, quiet, {"pair": PAIR}), fresh)
    assert listed(fresh, "liq_saturation_binance") == [0] * 5
    assert fresh["liq_imbalance_corrected_binance"].isna().all()


def test_thresholds_of_candles_that_straddle_midnights(random_days):
    strategy = strategy_of(random_days)
    long = add_thresholds(strategy, candles("2024-01-01", 4, "3D"), {"pair": PAIR}, "3d", days=6)
    short = add_thresholds(strategy, candles("2024-01-10", 1, "3D"), {"pair": PAIR}, "3d", days=6)
    assert short["liq_base"].tolist() == long["liq_base"].tolist()[-1:]
    assert long["liq_base"].notna().any()


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda s, f: add_liquidations(s, f.set_index("date"), {"pair": PAIR}), "no column 'date'"),
        (lambda s, f: add_liquidations(s, f, {"pair": PAIR}, informative=4), "4 is not a"),
        (lambda s, f: add_liquidations(s, f, {"pair": PAIR}, exchanges=5), "got 5, must be"),
        (lambda s, f: add_thresholds(s, f, {"pair": PAIR}, days=1.5), "whole number .*got 1.5"),
        (lambda s, f: add_thresholds(s, f, {"pair": PAIR}, days="30"), "whole number .*got '30'"),
        (lambda s, f: add_thresholds(s, f, {"pair": PAIR}, low=0.9, high=0.1), "high must be from"),
    ],
)  # fmt: skip
def test_plain_mistakes_end_in_one_line(random_days, mistake, says):
    with pytest.raises(OperationalException, match=says):
        mistake(strategy_of(random_days), candles())
