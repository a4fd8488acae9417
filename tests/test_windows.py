"""Windows: exact, equal to the plain definition, and independent of where the frame begins."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liquidations.errors import LiquidationsError
from liquidations.windows import count_below, count_known, past_mean, window_sums


NAN = float("nan")
VALUES = st.lists(
    st.one_of(st.just(NAN), st.just(0.0), st.floats(0, 1e6)), min_size=0, max_size=40
).map(np.array)


def test_sums_by_hand():
    values = np.array([0.1, 0.2, NAN, 0.0, 0.0, 7.0])
    expected = [NAN, 0.1 + 0.2, NAN, NAN, 0.0, 7.0]
    np.testing.assert_array_equal(window_sums(values, 2), expected)


def test_a_large_value_leaves_no_residue():
    # A running sum would answer 1e17 + 1 - 1e17 = 0 or 16 here.
    assert window_sums(np.array([1e17, 1.0, 1.0]), 2)[-1] == 2.0


def test_past_mean_by_hand():
    values = np.array([4.0, NAN, 8.0, 0.0, 1e17, 3.0, 5.0])
    #  of two before: – ; 4 ; 4 ; 8 ; (8 + 0) / 2 ; … ; (1e17 + 3) / 2
    expected = [NAN, 4.0, 4.0, 8.0, 4.0, 5e16, (1e17 + 3) / 2]
    np.testing.assert_array_equal(past_mean(values, 2), expected)
    # A running sum would answer 0 or 16 after the 1e17.
    assert past_mean(np.append(values, 0.0), 2)[-1] == 4.0
    assert past_mean(np.array([]), 3).tolist() == []


@given(VALUES, st.integers(1, 50))
def test_counts_are_those_of_the_plain_definition(values, window):
    for row, value in enumerate(values):
        past = values[max(row - window, 0) : row]
        assert count_below(values, window)[row] == np.sum(past < value)
        assert count_known(values, window)[row] == np.sum(~np.isnan(past))


@given(VALUES, st.integers(1, 8), st.integers(0, 30))
def test_where_the_frame_begins_changes_no_bit(values, window, cut):
    np.testing.assert_array_equal(
        window_sums(values, window)[cut:][window - 1 :],
        window_sums(values[cut:], window)[window - 1 :],
    )


@given(VALUES, st.integers(1, 8))
def test_sums_agree_with_pandas(values, window):
    theirs = pd.Series(values, dtype=np.float64).rolling(window).sum().to_numpy()
    np.testing.assert_allclose(window_sums(values, window), theirs, rtol=1e-9, atol=1e-4)


@pytest.mark.parametrize("function", [window_sums, count_below, count_known])
def test_a_window_of_no_candle_is_refused(function):
    with pytest.raises(
        LiquidationsError, match="window must be a whole number from 1 to 100000, got 0"
    ):
        function(np.array([1.0]), 0)
