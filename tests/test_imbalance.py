"""The ratio: 0/0 is not 0.5, unknown is not zero, and a window is the ratio of sums."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liquidations.errors import LiquidationsError
from liquidations.imbalance import imbalance, window_imbalance


NAN = float("nan")


def test_hand_values():
    #  long  short  long / (long + short)
    rows = [
        (30.0, 10.0, 0.75),
        (0.0, 5.0, 0.0),
        (5.0, 0.0, 1.0),
        (0.0, 0.0, NAN),
        (NAN, 1.0, NAN),
        (1.0, NAN, NAN),
    ]
    long, short, expected = np.array(rows).T
    np.testing.assert_array_equal(imbalance(long, short), expected)


amounts = st.one_of(st.just(NAN), st.just(0.0), st.floats(2.0**-24, 1e9))


@given(st.lists(st.tuples(amounts, amounts), min_size=1))
def test_the_ratio_is_within_0_and_1_and_mirrored_by_swapping_the_sides(rows):
    long, short = np.array(rows).T
    ratio, mirrored = imbalance(long, short), imbalance(short, long)
    known = ~np.isnan(ratio)
    np.testing.assert_array_equal(known, [a + b > 0 for a, b in rows])
    assert np.all((ratio[known] >= 0) & (ratio[known] <= 1))
    np.testing.assert_allclose(ratio[known], 1 - mirrored[known], rtol=0, atol=1e-15)


def test_a_window_is_the_ratio_of_sums_and_not_the_mean_of_ratios():
    # design.md: 12 bars with one cascade are 0.94 against 0.48. Eleven quiet bars of 9 long, 11
    # short (0.45 each) and one of 1,900 long, 4 short:
    # sums 99 + 1,900 = 1,999 long, 121 + 4 = 125 short → 1,999 / 2,124 = 0.94115;
    # mean of ratios (11 × 0.45 + 0.9979) / 12 = 0.4957.
    long = pd.Series([9.0] * 11 + [1_900.0])
    short = pd.Series([11.0] * 11 + [4.0])
    result = window_imbalance(long, short, 12)
    assert result.iloc[:-1].isna().all()
    assert result.iloc[-1] == 1_999 / 2_124


def test_a_window_with_an_unobserved_candle_is_unknown_and_recovers():
    long = pd.Series([1.0, NAN, 3.0, 1.0, 0.0, 0.0])
    short = pd.Series([1.0, 2.0, 1.0, 3.0, 0.0, 0.0])
    # windows of 2: – ; NaN; NaN; 4 / 8; 1 / 4; 0 / 0
    expected = [NAN, NAN, NAN, 0.5, 0.25, NAN]
    np.testing.assert_array_equal(window_imbalance(long, short, 2), expected)


def test_after_a_cascade_an_exact_zero_is_due():
    # A running sum would leave a residue of 1e16 − 1e16 and tell a ratio of nothing.
    long, short = pd.Series([1e16, 0.1, 0.0, 0.0]), pd.Series([1.0, 0.3, 0.0, 0.0])
    assert np.isnan(window_imbalance(long, short, 2).iloc[-1])


def test_the_index_is_kept_and_the_inputs_are_not_changed():
    index = pd.date_range("2024-08-05", periods=3, freq="5min", tz="UTC")
    long = pd.Series([1.0, 2.0, NAN], index=index, name="liq_long")
    short = pd.Series([3.0, 2.0, 1.0], index=index, name="liq_short")
    before = long.copy(), short.copy()
    result = window_imbalance(long, short, 2)
    pd.testing.assert_index_equal(result.index, index)
    assert result.dtype == np.float64
    pd.testing.assert_series_equal(long, before[0])
    pd.testing.assert_series_equal(short, before[1])


@given(st.lists(st.tuples(amounts, amounts), min_size=2, max_size=30), st.integers(1, 6), st.data())
def test_future_candles_never_change_the_past(rows, window, data):
    cut = data.draw(st.integers(1, len(rows)))
    long, short = (pd.Series(column) for column in np.array(rows).T)
    full = window_imbalance(long, short, window)
    np.testing.assert_array_equal(window_imbalance(long[:cut], short[:cut], window), full[:cut])


@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_frame_shorter_than_the_window_is_unknown(size):
    some = pd.Series([1.0] * size, dtype=np.float64)
    result = window_imbalance(some, some, 3)
    assert len(result) == size
    assert result.isna().all()


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_of_no_candle_is_refused(window):
    with pytest.raises(
        LiquidationsError, match=f"window must be a whole number from 1 to 100000, got {window}"
    ):
        window_imbalance(pd.Series([1.0]), pd.Series([1.0]), window)
