"""Significance: few liquidations make no extreme, and what is kept is kept for a stated reason."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from liquidations.errors import LiquidationsError
from liquidations.event import Floats
from liquidations.imbalance import effective_count
from liquidations.signals import extreme
from liquidations.significance import (
    gated_by_volume,
    gated_extreme,
    shrunk_imbalance,
    significant,
    significant_by_count,
    wilson,
)


NAN = float("nan")


# --- the effective number and the interval --------------------------------------------------------


def test_effective_count_by_hand():
    #  values       sum   squares   sum² / squares
    rows = [
        ([7.0], 1.0),  # 49 / 49
        ([5.0] * 8, 8.0),  # 1600 / 200
        ([3.0, 1.0], 1.6),  # 16 / 10
        ([96.0, 1.0, 1.0, 1.0, 1.0], 100**2 / 9220),  # hardly more than one
    ]
    for values, expected in rows:
        array = np.array(values)
        assert effective_count(array.sum(), (array**2).sum()) == expected
    nothing = effective_count(pd.Series([0.0, NAN, 5.0]), pd.Series([0.0, NAN, NAN]))
    assert nothing.isna().all()


# R. G. Newcombe, "Two-sided confidence intervals for the single proportion: comparison of seven
# methods", Statistics in Medicine 17 (1998), table I, method 3, at 95 %.
NEWCOMBE = [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0000, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("hits", "count", "lower", "upper"), NEWCOMBE)
def test_wilson_as_published(hits, count, lower, upper):
    found = wilson(np.array([hits / count]), np.array([float(count)]), z=1.959964)
    assert [round(bound[0], 4) for bound in found] == [lower, upper]


@given(st.integers(1, 10_000), st.data())
def test_wilson_as_scipy_has_it(count, data):
    hits = data.draw(st.integers(0, count))
    theirs = binomtest(hits, count).proportion_ci(0.9, method="wilson")
    ours = wilson(np.array([hits / count]), np.array([float(count)]), z=1.6448536269514722)
    np.testing.assert_allclose(np.ravel(ours), theirs, rtol=1e-9, atol=1e-12)


@given(st.floats(0, 1), st.floats(1, 1e6), st.floats(0.01, 10))
def test_wilson_is_where_the_share_lies_z_standard_errors_away(share, count, z):
    lower, upper = (bound[0] for bound in wilson(np.array([share]), np.array([count]), z))
    assert 0 <= lower <= share + 1e-12
    assert share - 1e-12 <= upper <= 1
    for bound in (lower, upper):
        distance, error = share - bound, z * np.sqrt(bound * (1 - bound) / count)
        assert abs(distance) == pytest.approx(error, rel=1e-5, abs=1e-7)


@given(st.floats(1, 1e9), st.floats(0.01, 10))
def test_wilson_is_exact_at_the_borders(count, z):
    low, high = wilson(np.array([0.0, 1.0]), np.array([count, count]), z)
    assert low[0] == 0
    assert high[1] == 1
    # Everything on one side: n / (n + z²).
    assert low[1] == pytest.approx(count / (count + z * z), rel=1e-12)
    assert high[0] == pytest.approx(1 - count / (count + z * z), rel=1e-9, abs=1e-15)


def test_wilson_keeps_the_index_and_what_is_unknown():
    index = pd.Index([3, 1, 2])
    low, high = wilson(pd.Series([NAN, 0.5, 0.5], index), pd.Series([9.0, NAN, 9.0], index))
    for bound in (low, high):
        pd.testing.assert_index_equal(bound.index, index)
        assert bound.isna().tolist() == [True, True, False]


# --- extremes that are more than chance -----------------------------------------------------------


def test_significant_at_its_border():
    # All on one side: the lower bound n / (n + z²) exceeds 0.5 from n > z² = 2.706 on.
    n_eff = pd.Series([2.70, 2.71, 2.70, 2.71, NAN, 50.0, 50.0])
    ratio = pd.Series([1.0, 1.0, 0.0, 0.0, 1.0, NAN, 0.7])
    assert significant(ratio, n_eff).tolist() == [0, 1, 0, -1, 0, 0, 0]


def test_what_is_usual_for_the_pair_is_not_significant():
    # 0.9 of 50: Wilson's interval at 90 % is 0.806 to 0.951 (scipy 1.17).
    ratio, n_eff = pd.Series([0.9] * 4), pd.Series([50.0] * 4)
    base = pd.Series([0.80, 0.81, 0.95, NAN])
    assert significant(ratio, n_eff, base=base).tolist() == [1, 0, 0, 0]
    assert significant(ratio, n_eff, base=0.80).tolist() == [1] * 4
    # An extreme of the shorts must lie below the base, whatever it is.
    assert significant(1 - ratio, n_eff, base=1 - base).tolist() == [-1, 0, 0, 0]
    assert significant(ratio, n_eff, low=0.5, threshold=0.95, base=0.99).tolist() == [0] * 4


def test_bounds_may_be_series():
    ratio, n_eff = pd.Series([0.9, 0.9, 0.9, 0.1]), pd.Series([50.0] * 4)
    threshold = pd.Series([0.85, 0.95, NAN, 0.8])
    assert significant(ratio, n_eff, threshold).tolist() == [1, 0, 0, -1]
    counts = pd.Series([45.0, 45.0, 45.0, 5.0]), pd.Series([5.0, 5.0, 5.0, 45.0])
    assert significant_by_count(ratio, *counts, threshold).tolist() == [1, 0, 0, -1]


def test_numbers_and_dollars_must_agree():
    #  USD    longs shorts
    rows = [
        (0.95, 5.0, 0.0, 0),  # five are too few: 5 / (5 + 2.24²) = 0.499
        (0.95, 6.0, 0.0, 1),  # 6 / 11.02 = 0.545
        (0.95, 0.0, 6.0, 0),  # against each other
        (0.95, 10.0, 10.0, 0),  # large longs, small shorts
        (0.05, 0.0, 6.0, -1),
        (0.70, 60.0, 0.0, 0),  # no extreme
        (NAN, 0.0, 0.0, 0),  # nothing liquidated
        (0.95, NAN, NAN, 0),  # not counted
    ]
    ratio, longs, shorts, expected = (pd.Series(column) for column in zip(*rows, strict=True))
    assert significant_by_count(ratio, longs, shorts).tolist() == expected.tolist()


DRAWS = 20_000  # a standard error of at most 0.35 %


def candles(number: int, true: float, seed: int) -> pd.DataFrame:
    """Draw candles of ``number`` liquidations of log-normal size and independent sides."""
    random = np.random.default_rng(seed)
    size = np.exp(random.normal(0, 1.5, (DRAWS, number)))
    is_long = random.random((DRAWS, number)) < true
    total, squares = size.sum(axis=1), (size**2).sum(axis=1)
    counts = is_long.sum(axis=1).astype(np.float64)
    return pd.DataFrame(
        {
            "ratio": (size * is_long).sum(axis=1) / total,
            "n_eff": effective_count(total, squares),
            "longs": counts,
            "shorts": number - counts,
        }
    )


def shares(number: int, true: float) -> list[float]:
    """Measure in % where each gate signals: falsely at 0.5, rightly above."""
    frame = candles(number, true, seed=number)
    signs = (
        extreme(frame["ratio"]),
        significant(frame["ratio"], frame["n_eff"]),
        significant_by_count(frame["ratio"], frame["longs"], frame["shorts"]),
    )
    return [100 * float((sign.ne(0) if true == 0.5 else sign.eq(1)).mean()) for sign in signs]


@pytest.mark.parametrize(
    ("number", "true", "raw", "gated", "by_count"),
    # Raw and gated at 3, 10, 20 and 50 are the figures of the docstring; 1 % is rounding and error.
    [
        (3, 0.5, 65, 2, 0),
        (10, 0.5, 35, 7, 2),
        (20, 0.9, 84, 72, 82),
        (50, 0.9, 87, 85, 87),
    ],
)
def test_the_table_of_false_and_right_signals(number, true, raw, gated, by_count):
    assert shares(number, true) == pytest.approx([raw, gated, by_count], abs=1.0)


@pytest.mark.parametrize("number", [6, 10, 12, 20, 50])
def test_numbers_beat_sizes_in_false_and_in_right_signals(number):
    _, false, false_by_count = shares(number, 0.5)
    _, right, right_by_count = shares(number, 0.9)
    assert false_by_count < false - 1
    assert right_by_count > right + 1


# --- the stand-in ---------------------------------------------------------------------------------


def plain_shrunk(
    long: Floats, short: Floats, base: float, window: int, weight: float
) -> list[float]:
    """Work out the shrunken ratio candle by candle, from its definition."""
    result = []
    for row, total in enumerate(long + short):
        past = (long + short)[max(row - window, 0) : row]
        past = past[~np.isnan(past)]
        some = past[past > 0]
        if not total > 0 or 2 * len(past) < window or not len(some):
            result.append(NAN)
            continue
        pull = weight * np.prod(some ** (1 / len(some)))
        result.append((long[row] + pull * base) / (total + pull))
    return result


USD = st.one_of(st.just(NAN), st.just(0.0), st.floats(2.0**-24, 1e9))
ROWS = st.lists(st.tuples(USD, USD), max_size=40).map(lambda rows: np.array(rows).reshape(-1, 2).T)


@given(ROWS, st.floats(0, 1), st.integers(1, 12), st.floats(0, 10))
def test_shrinking_is_that_of_the_plain_definition(rows, base, window, weight):
    long, short = rows
    found = shrunk_imbalance(pd.Series(long), pd.Series(short), base, window, weight)
    expected = plain_shrunk(long, short, base, window, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_shrinking_by_hand():
    # Typical: √(10 × 40) = 20. All long: (20 + 20 × 0.5) / 40; ten times that: (200 + 10) / 220.
    past = [10.0, 40.0]
    for now, expected in ((20.0, 0.75), (200.0, 210 / 220), (0.0, NAN), (NAN, NAN)):
        long = pd.Series([*past, now])
        found = shrunk_imbalance(long, long * 0, window=2)
        np.testing.assert_allclose(found.iloc[2], expected)
    # The base rate may differ by candle.
    base = pd.Series([NAN, NAN, 0.3])
    found = shrunk_imbalance(pd.Series([*past, 20.0]), pd.Series([0.0] * 3), base, window=2)
    np.testing.assert_allclose(found.iloc[2], (20 + 20 * 0.3) / 40)


def test_nothing_is_told_without_a_past():
    some = pd.Series([5.0, 5.0, NAN, NAN, 5.0, 5.0])
    # Of three candles before, two must have been observed: only candle 2 has them, itself unknown.
    assert shrunk_imbalance(some, some, window=3).isna().all()
    quiet = pd.Series([0.0, 0.0, 5.0, 5.0])
    assert shrunk_imbalance(quiet, quiet, window=2).isna().tolist() == [True] * 3 + [False]


def test_one_cascade_does_not_silence_what_follows():
    # 1000 ** (1 / 48) = 1.155: 100 became 115.5, so (300 + 57.7) / 415.5 = 0.861. The plain mean
    # would be 2181 and the ratio 0.56.
    long = pd.Series([100.0] * 47 + [100_000.0, 300.0])
    found = shrunk_imbalance(long, long * 0).iloc[-1]
    assert found == pytest.approx((300 + 57.74) / 415.48, abs=1e-4)


def wandering(true: float, rate: float) -> tuple[pd.Series, pd.Series]:
    """Draw candles whose number of liquidations wanders around a rate; USD of both sides."""
    random = np.random.default_rng(2)
    steps = pd.Series(random.normal(0, 1, 60_000)).ewm(alpha=0.05, adjust=False).mean()
    level = 1.2 * steps / steps.std()
    number = random.poisson(rate * np.exp(level - 0.72))
    candle = np.repeat(np.arange(len(number)), number)
    size = np.exp(random.normal(0, 1.5, len(candle)))
    is_long = random.random(len(candle)) < true
    long, short = (
        pd.Series(np.bincount(candle, size * on_side, len(number)))
        for on_side in (is_long, ~is_long)
    )
    return long, short


@pytest.mark.parametrize(
    ("rate", "raw_false", "false", "raw_right", "right"),
    [(3, 71, 21, 86, 35), (10, 51, 11, 85, 32), (50, 21, 2, 86, 25)],
)
def test_what_the_stand_in_is_worth(rate, raw_false, false, raw_right, right):
    found = []
    for true in (0.5, 0.9):
        long, short = wandering(true, rate)
        some = long + short > 0
        for ratio in (long / (long + short), shrunk_imbalance(long, short)):
            side = extreme(ratio)[some]
            found.append(100 * (side.ne(0) if true == 0.5 else side.eq(1)).mean())
    assert found == pytest.approx([raw_false, false, raw_right, right], abs=3)


# --- the gate -------------------------------------------------------------------------------------


def frame_of(rows: list[tuple[float, float, float, float]]) -> pd.DataFrame:
    names = ["liq_long", "liq_short", "liq_long_count", "liq_short_count"]
    frame = pd.DataFrame(rows, columns=names, dtype=np.float64)
    total = frame["liq_long"] + frame["liq_short"]
    return frame.assign(liq_imbalance=frame["liq_long"] / total.where(total > 0))


def test_each_candle_is_gated_by_what_its_source_gives():
    frame = frame_of(
        [
            (5.0, 5.0, 1, 1),
            (20.0, 20.0, 1, 1),  # typical from here on: √(10 × 40) = 20
            (99.0, 0.0, 3, 0),  # counted, too few
            (9.0, 0.0, 9, 0),  # counted, enough
            (99.0, 0.0, NAN, NAN),  # typical of 99 and 9: 29.8 → (99 + 14.9) / 128.8 = 0.884
            (9.0, 0.0, NAN, NAN),  # 29.8 again → (9 + 14.9) / 38.8 = 0.616
            (0.0, 0.0, NAN, NAN),
            (NAN, NAN, NAN, NAN),
        ]
    )
    assert gated_extreme(frame, window=2).tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    expected = [False] * 4 + [True] * 2 + [False] * 2
    assert gated_by_volume(frame).tolist() == expected
    # A ratio of 1 is beyond every base but 1 itself, or one that is unknown.
    for base, kept in ((0.95, 1), (1.0, 0), (pd.Series([NAN] * 8), 0)):
        assert gated_extreme(frame, base=base, window=2)[4] == kept


def test_a_high_base_rate_does_not_stand_in_for_evidence():
    # Pulled to a base of 0.85 a candle of hardly any volume would be extreme.
    frame = frame_of([(5.0, 5.0, NAN, NAN), (5.0, 5.0, NAN, NAN), (0.1, 0.0, NAN, NAN)])
    assert gated_extreme(frame, base=0.85, window=2).tolist() == [0, 0, 0]


def test_recorded_orders_by_another_definition(recorded):
    # One day of HYPE on OKX: 48 of the 50 candles of 5 minutes with liquidations are extreme.
    path = recorded / "data/okx/HYPE-USDT-SWAP-liquidation-orders.json"
    pages = json.loads(path.read_text())
    names = ("bkPx", "side", "sz", "ts")
    orders = {
        tuple(order[name] for name in names)
        for page in pages
        for group in page["data"]
        for order in group["details"]
    }
    candles: dict[int, list[tuple[bool, float]]] = {}
    for price, side, size, time in orders:
        value = float(price) * float(size)
        candles.setdefault(int(time) // 300_000, []).append((side == "sell", value))
    rows, expected = [], []
    for events in candles.values():
        long = sum(value for is_long, value in events if is_long)
        short = sum(value for is_long, value in events if not is_long)
        longs, ratio = sum(is_long for is_long, _ in events), long / (long + short)
        test = binomtest(longs, len(events)).proportion_ci(0.974909, method="wilson")  # z = 2.24
        rows.append((long, short, longs, len(events) - longs))
        is_high, is_low = ratio > 0.8 and test.low > 0.5, ratio < 0.2 and test.high < 0.5
        expected.append(int(is_high) - int(is_low))
    frame = frame_of(rows)
    assert len(frame) == 50
    assert extreme(frame["liq_imbalance"]).ne(0).sum() == 48
    assert gated_extreme(frame).tolist() == expected
    assert np.count_nonzero(expected) == 2


def drawn(data) -> pd.DataFrame:
    """Draw candles, some without liquidations, some not counted, some not observed."""
    size = data.draw(st.integers(1, 50))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    counts = random.poisson(random.choice([1, 8], (size, 2)) * random.random((size, 1)) * 2)
    # Whole dollars, so that long / total and 1 - short / total lie on the same side of a bound.
    usd = counts * np.floor(1 + random.pareto(0.7, (size, 2)) * 3)
    rows = np.hstack((usd, counts)).astype(np.float64)
    rows[random.random(size) < 0.3, 2:] = NAN
    rows[random.random(size) < 0.2] = NAN
    frame = frame_of(rows.tolist())
    frame["liq_n_eff"] = (frame["liq_long_count"] + frame["liq_short_count"]) * 0.7
    for exchange in ("binance", "okx", "bybit"):
        ratio = random.integers(0, 64, size) / 64
        frame[f"liq_imbalance_{exchange}"] = np.where(random.random(size) < 0.2, NAN, ratio)
    frame.loc[frame["liq_long"].isna(), frame.columns] = NAN
    return frame


@given(st.data())
def test_gates_only_take_extremes_away(data):
    frame = drawn(data)
    raw = extreme(frame["liq_imbalance"], 0.77)
    ratio, counts = frame["liq_imbalance"], (frame["liq_long_count"], frame["liq_short_count"])
    for kept in (
        significant(ratio, frame["liq_n_eff"], 0.77, 0.53),
        significant_by_count(ratio, *counts, 0.77, 0.53),
        gated_extreme(frame, 0.77, 0.53, window=4),
    ):
        assert ((kept == raw) | (kept == 0)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one: wilson(one, one, z=0),
        lambda one: significant(one, one, threshold=0.4),
        lambda one: significant(one, one, base=1.5),
        lambda one: significant(one, one, z=NAN),
        lambda one: significant_by_count(one, one, one, base=-0.1),
        lambda one: shrunk_imbalance(one, one, base=2),
        lambda one: shrunk_imbalance(one, one, window=0),
        lambda one: shrunk_imbalance(one, one, weight=-1),
        lambda one: gated_extreme(frame_of([(1.0, 0.0, NAN, NAN)]), base=2),
        lambda one: gated_extreme(frame_of([(1.0, 0.0, NAN, NAN)]), window=0),
    ],
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(LiquidationsError, match=r"must be .*got"):
        wrong(pd.Series([1.0]))
