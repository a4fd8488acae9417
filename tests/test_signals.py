"""Signals: the current candle is no part of its own measure, the future of none."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liquidations import signals
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
    with pytest.raises(LiquidationsError, match=r"(window|threshold) must be .*, got "):
        high_volume(pd.Series([1.0]), window, threshold)


# --- the readings that have a side ---------------------------------------------------------------
#
# One drawn example. "." is a candle without a ratio (nothing liquidated, or not observed).
#
#  candle          0     1     2     3     4     5     6     7     8     9    10    11
RATIO = [float(x) if x != "." else NAN for x in
        [".50", ".90", ".", ".30", ".10", ".10", ".50", ".", ".95", ".", ".05", ".60"]]  # fmt: skip
HAND = {
    #  above .8, below .2
    "extreme": [0, 1, 0, 0, -1, -1, 0, 0, 1, 0, -1, 0],
    #  clear of .45 … .55: 1 long, 3 short, 8 long, 10 short, 11 long
    "shift": [0, 0, 0, -1, 0, 0, 0, 0, 1, 0, -1, 1],
    #  1 → 4 is three candles, 5 → 8 three, 8 → 10 two
    "flip": [0, 0, 0, 0, -1, 0, 0, 0, 1, 0, -1, 0],
    #  within .4 … .6: 0 (after nothing), 6 after the shorts' extreme 5, 11 after the shorts' 10
    "return_to_balance": [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1],
}


@pytest.mark.parametrize("name", HAND)
def test_readings_of_the_drawn_example(name):
    assert getattr(signals, name)(pd.Series(RATIO)).tolist() == HAND[name]


def test_the_age_of_what_came_before_is_bounded():
    ratio = pd.Series([0.9, NAN, NAN, 0.1])
    assert signals.flip(ratio, max_age=3).tolist() == [0, 0, 0, -1]
    assert signals.flip(ratio, max_age=2).tolist() == [0, 0, 0, 0]
    assert signals.shift(pd.Series([0.9, 0.1]), max_age=1).tolist() == [0, -1]
    balanced = pd.Series([0.9, NAN, 0.5])
    assert signals.return_to_balance(balanced, max_age=2).tolist() == [0, 0, 1]
    assert signals.return_to_balance(balanced, max_age=1).tolist() == [0, 0, 0]


def crash() -> pd.DataFrame:
    """Draw 20 quiet candles of a true range of 2, a fall of 5, and a rise of 5."""
    close = [100.0] * 20 + [95.0, 100.0]
    frame = pd.DataFrame({"close": close})
    frame["open"] = frame["close"].shift(1, fill_value=100.0)
    frame["high"] = frame[["open", "close"]].max(axis=1) + 1
    frame["low"] = frame[["open", "close"]].min(axis=1) - 1
    frame["liq_long"] = [10.0] * 20 + [99.0, 1.0]
    frame["liq_short"] = [10.0] * 20 + [1.0, 99.0]
    return with_ratio(frame)


def with_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    frame["liq_total"] = frame["liq_long"] + frame["liq_short"]
    frame["liq_imbalance"] = frame["liq_long"] / frame["liq_total"].where(frame["liq_total"] > 0)
    return frame


def test_capitulation_needs_the_extreme_the_volume_and_the_move():
    frame = crash()
    # The range before the fall is 2, so 5 are 2.5 ranges; after it (13 × 2 + 7) / 14 = 2.357: 2.12.
    prices = frame["high"], frame["low"], frame["close"]
    assert signals.sharp_move(*prices, threshold=2.4).tolist() == [0.0] * 20 + [1, 0]
    assert signals.sharp_move(*prices, threshold=2.1).tolist() == [0.0] * 20 + [1, -1]
    assert signals.capitulation(frame, volume_window=10).tolist() == [0.0] * 20 + [1, -1]
    for change in (
        {"liq_imbalance": 0.7},  # no extreme
        {"liq_total": 20.0},  # no more than usual
        {"close": 100.0},  # no move
        {"liq_imbalance": 0.1},  # the move is in favour of those who were hit
        {"liq_total": NAN},  # not observed
    ):
        changed = frame.copy()
        for column, value in change.items():
            changed.loc[20, column] = value
        assert signals.capitulation(changed, volume_window=10)[20] == 0, change


def test_fragile_is_an_extreme_without_a_new_price_extreme():
    frame = pd.DataFrame(
        {
            "low": [10.0, 9.0, 9.5, 8.0, 8.5],
            "high": [12.0, 11.0, 11.5, 10.0, 12.5],
            "liq_imbalance": [0.5, 0.9, 0.9, 0.9, 0.05],
        }
    )
    # Over two candles: 2 keeps above 9, 3 falls below 9, 4's high exceeds 11.5 and 10.
    assert signals.fragile(frame, window=2).tolist() == [0, 0, 1, 0, 0]
    frame.loc[4, "high"] = 11.0
    assert signals.fragile(frame, window=2).tolist() == [0, 0, 1, 0, -1]


def test_consistency_counts_candles_and_not_dollars():
    # Of the last three: long, none, short, short → candle 4 has two of three, both short.
    ratio = pd.Series([0.9, 0.6, NAN, 0.4, 0.1])
    expected = [NAN, 1.0, 1.0, 0.0, -1.0]
    np.testing.assert_array_equal(signals.consistency(ratio, window=3), expected)


def test_volatility_against_the_stretch_before():
    # Log returns: –, ln 2, ln 2, 0, ln 2: of the last two against the two before: √(½ / 1).
    close = pd.Series([1.0, 2.0, 4.0, 4.0, 8.0])
    regime = signals.volatility_regime(close, window=2, baseline=2)
    np.testing.assert_allclose(regime, [NAN] * 4 + [0.5**0.5])
    still = pd.Series([1.0, 1.0, 1.0, 2.0])  # as usual means nothing where nothing moved
    assert signals.volatility_regime(still, window=1, baseline=1).isna().tolist() == [True] * 4


def test_quiet_follows_a_signal_once_the_price_has_calmed_down():
    #  candle    0    1    2    3    4    5    6    7    8
    #  return         10%  10%  10%  1%   1%   1%   1%   1%
    close = np.cumprod([1.0, *[1.1] * 3, *[1.01] * 5])
    frame = pd.DataFrame({"close": close, "liq_total": 1.0})
    signal = pd.Series([0.0, 0, 0, -1, 0, 0, 0, 0, 0])

    def read(**arguments):
        options = {"max_age": 4, "threshold": 0.5, "window": 1, "baseline": 2, **arguments}
        return signals.quiet(frame, signal, **options).tolist()

    # Against the two candles before: 4 is 0.10 of them, 5 0.14, 6 and later as usual.
    assert read() == [0, 0, 0, 0, -1, -1, 0, 0, 0]
    assert read(threshold=2.0) == [0, 0, 0, 0, -1, -1, -1, -1, 0]  # 8 is five candles after
    assert read(max_age=1) == [0, 0, 0, 0, -1, 0, 0, 0, 0]
    frame.loc[5, "liq_total"] = NAN
    assert read() == [0, 0, 0, 0, -1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f: signals.extreme(f["liq_imbalance"], 0.4),
        lambda f: signals.shift(f["liq_imbalance"], hysteresis=0.6),
        lambda f: signals.flip(f["liq_imbalance"], max_age=0),
        lambda f: signals.return_to_balance(f["liq_imbalance"], band=-0.1),
        lambda f: signals.pressure(f["liq_long"], f["liq_short"], window=0),
        lambda f: signals.fragile(f, window=0),
        lambda f: signals.sharp_move(f["high"], f["low"], f["close"], threshold=-1),
        lambda f: signals.consistency(f["liq_imbalance"], window=0),
    ],
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(LiquidationsError, match=r"must be .*got"):
        wrong(crash())
