"""Signals: the current candle is no part of its own measure, the future of none."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liquidations.errors import LiquidationsError
from liquidations.signals import high_volume


NAN = float("nan")


def test_hand_values():
    # The median of up to three candles before; two must be known.
    #  total  before        median  higher?
    rows = [
        (4.0, False),  # –            –
        (9.0, False),  # 4            – (one known)
        (7.0, True),  #  4 9          6.5
        (7.0, False),  # 4 9 7        7, not exceeded
        (8.0, True),  #  9 7 7        7
        (7.0, False),  # 7 7 8        7
    ]
    total = pd.Series([value for value, _ in rows])
    assert high_volume(total, window=3, threshold=0.5).tolist() == [high for _, high in rows]


def test_the_current_candle_is_no_part_of_its_own_measure():
    # With itself in the window, a maximum could never exceed the 1.0 quantile.
    total = pd.Series([1.0, 2.0, 3.0, 4.0])
    assert high_volume(total, window=2, threshold=1.0).tolist() == [False, True, True, True]


def test_unknown_candles_are_never_high_and_never_count_as_zero():
    # If the NaN were zeros, the median before the last candle would be 0 and 5 would be high.
    total = pd.Series([6.0, 6.0, NAN, NAN, NAN, 5.0])
    assert not high_volume(total, window=5, threshold=0.5).any()
    # Two of the five before are known, less than half (2.5 → 3): not told.
    assert not high_volume(total.replace(5.0, 7.0), window=5, threshold=0.5).any()
    # Three of six are half: 7 > 6.
    half = pd.Series([6.0, 6.0, 6.0, NAN, NAN, NAN, 7.0])
    assert high_volume(half, window=6, threshold=0.5).tolist() == [False] * 6 + [True]


def test_the_index_is_kept_and_the_input_is_not_changed():
    index = pd.date_range("2024-08-05", periods=4, freq="5min", tz="UTC")
    total = pd.Series([1.0, NAN, 3.0, 4.0], index=index, name="liq_total")
    before = total.copy()
    result = high_volume(total, window=2)
    pd.testing.assert_index_equal(result.index, index)
    assert result.dtype == bool
    pd.testing.assert_series_equal(total, before)


@given(
    st.lists(st.one_of(st.just(NAN), st.floats(0, 1e9)), min_size=1, max_size=40),
    st.integers(2, 8),
    st.floats(0, 1),
    st.data(),
)
def test_future_candles_never_change_the_past(values, window, threshold, data):
    cut = data.draw(st.integers(1, len(values)))
    total = pd.Series(values)
    full = high_volume(total, window, threshold)
    np.testing.assert_array_equal(high_volume(total[:cut], window, threshold), full[:cut])


def test_no_candles_give_no_signals():
    assert len(high_volume(pd.Series([], dtype=np.float64))) == 0


@pytest.mark.parametrize(
    ("window", "threshold"), [(1, 0.5), (0, 0.5), (5, -0.1), (5, 80), (5, NAN)]
)
def test_bad_arguments_are_named(window, threshold):
    with pytest.raises(LiquidationsError, match=f"window must be.*got {window} and {threshold}"):
        high_volume(pd.Series([1.0]), window, threshold)
