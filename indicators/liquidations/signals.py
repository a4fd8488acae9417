"""Readings of the columns: Series in, Series of the same index out. Floor 1.

A reading that has a side is a float Series of

    +1.0  long positions were hit        -1.0  short positions were hit        0.0  nothing to say

so swapping long and short negates it. A candle that was not observed says nothing, and so does one
in which nothing was liquidated; where a reading looks back, it looks back to the last candle that
did say something, at most ``max_age`` candles. No reading uses a later candle.

TA-Lib is imported where it is used: it takes as long as all of this package.

The ratio and how it is read come from the description of the Liquidation Imbalance that this
project implements: above 0.8 or below 0.2 is extreme, 0.5 is balance.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from liquidations.errors import require, require_whole
from liquidations.event import Floats
from liquidations.imbalance import window_imbalance
from liquidations.series import array, before, bound, column, keep, last_known, series, signed
from liquidations.series import shift as moved
from liquidations.windows import count_below, count_known, past_mean, window_sums


def extreme(
    imbalance: pd.Series,
    threshold: float | pd.Series = 0.8,
    low: float | pd.Series | None = None,
) -> pd.Series:
    """Tell where nearly all liquidations hit one side.

    :param imbalance: ``liq_imbalance``
    :param threshold: +1 above it; a number from 0.5 to 1, or a Series of a bound for each candle,
        such as ``liq_imbalance_high`` of ``add_thresholds``
    :param low: -1 below it; default 1 - threshold; a number from 0 to 0.5, or a Series
    :return: +1, -1 or 0; 0 where the ratio or the bound is NaN

    >>> extreme(pd.Series([0.9, 0.8, 0.1, None])).tolist()
    [1.0, 0.0, -1.0, 0.0]
    """
    if not isinstance(threshold, pd.Series):
        require("threshold", threshold, 0.5, 1)
    above = bound("threshold", threshold, imbalance)
    if not isinstance(low, pd.Series | None):
        require("low", low, 0, 0.5)
    below = 1 - above if low is None else bound("low", low, imbalance)
    ratio = array(imbalance)
    return series(signed(ratio > above, ratio < below), imbalance)


def shift(imbalance: pd.Series, hysteresis: float = 0.05, max_age: int = 12) -> pd.Series:
    """Tell where the imbalance crosses 0.5.

    The last side is remembered from the last candle that was clear of the middle.

    :param imbalance: ``liq_imbalance``
    :param hysteresis: how far beyond 0.5 the ratio must be to count as on a side
    :param max_age: how many candles back the other side may lie
    :return: +1 where it crosses to the longs, -1 to the shorts, else 0

    >>> shift(pd.Series([0.3, None, 0.52, 0.7, 0.6, 0.2])).tolist()
    [0.0, 0.0, 0.0, 1.0, 0.0, -1.0]
    """
    require("hysteresis", hysteresis, 0, 0.5)
    ratio = array(imbalance)
    side = signed(ratio > 0.5 + hysteresis, ratio < 0.5 - hysteresis)
    return series(_turn(side, max_age), imbalance)


def flip(imbalance: pd.Series, threshold: float = 0.8, max_age: int = 6) -> pd.Series:
    """Tell where one extreme follows the other within a few candles.

    :param imbalance: ``liq_imbalance``
    :param threshold: of :func:`extreme`
    :param max_age: how many candles back the other extreme may lie
    :return: +1 where the longs are hit after the shorts, -1 after the longs the shorts, else 0

    >>> flip(pd.Series([0.1, 0.5, None, 0.9, 0.95, 0.05])).tolist()
    [0.0, 0.0, 0.0, 1.0, 0.0, -1.0]
    """
    return series(_turn(array(extreme(imbalance, threshold)), max_age), imbalance)


def return_to_balance(
    imbalance: pd.Series, threshold: float = 0.8, band: float = 0.1, max_age: int = 12
) -> pd.Series:
    """Tell where the imbalance comes back to the middle from an extreme.

    :param imbalance: ``liq_imbalance``
    :param threshold: of :func:`extreme`
    :param band: how far from 0.5 the middle reaches
    :param max_age: how many candles back the extreme may lie; the last one counts, once
    :return: +1 after an extreme of the longs, -1 of the shorts, else 0

    >>> return_to_balance(pd.Series([0.9, 0.7, None, 0.45, 0.5, 0.1, 0.6])).tolist()
    [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, -1.0]
    """
    require("band", band, 0, 0.5)
    side = array(extreme(imbalance, threshold))
    balanced = np.abs(array(imbalance) - 0.5) <= band
    rows = np.flatnonzero((side != 0) | balanced)
    back = np.zeros(len(side))
    back[rows] = keep(before(side, rows, max_age), balanced[rows])
    return series(back, imbalance)


def high_volume(total: pd.Series, window: int = 48, threshold: float = 0.8) -> pd.Series:
    """Tell where a candle's liquidations are high against its own past.

    :param total: ``liq_total`` in USD
    :param window: in candles; the current one is not part of its own measure
    :param threshold: the share of the window's observed candles, 0 to 1, that had less
    :return: bool Series; False where the candle, or half of its window, was not observed

    >>> high_volume(pd.Series([1.0, 2.0, 3.0, 9.0, 2.0]), window=3, threshold=0.6).tolist()
    [False, False, True, True, False]
    """
    require_whole("window", window, 2)
    require("threshold", threshold, 0, 1)
    values = array(total)
    known = count_known(values, window)
    high = count_below(values, window) >= threshold * known
    return series(high & (known >= (window + 1) // 2) & ~np.isnan(values), total)


def sharp_move(
    high: pd.Series, low: pd.Series, close: pd.Series, threshold: float = 1.0, window: int = 14
) -> pd.Series:
    """Tell where the close moved far against the average true range before it (TA-Lib's ATR).

    :param threshold: the move from the last close, in units of the range
    :param window: of the range, in candles; the current one is not part of it
    :return: +1 where the price fell (forced sales of longs push it down), -1 where it rose, else 0
    """
    import talib

    require("threshold", threshold, 0)
    require_whole("window", window, 1)
    closes = array(close)
    far = threshold * moved(talib.ATR(array(high), array(low), closes, timeperiod=window))
    move = closes - moved(closes)
    return series(signed(move < -far, move > far), close)


def capitulation(
    dataframe: pd.DataFrame,
    threshold: float = 0.8,
    volume_window: int = 48,
    volume_threshold: float = 0.8,
    move_threshold: float = 1.0,
    move_window: int = 14,
) -> pd.Series:
    """Tell where one side gives up: extreme, on high volume, in a sharp move against that side.

    :param dataframe: candles with ``liq_imbalance`` and ``liq_total``
    :param threshold: of :func:`extreme`
    :param volume_window, volume_threshold: of :func:`high_volume`
    :param move_threshold, move_window: of :func:`sharp_move`
    :return: +1 where longs capitulate in a fall, -1 shorts in a rise, else 0
    """
    side = extreme(column(dataframe, "liq_imbalance"), threshold)
    high = high_volume(column(dataframe, "liq_total"), volume_window, volume_threshold)
    move = sharp_move(
        column(dataframe, "high"),
        column(dataframe, "low"),
        column(dataframe, "close"),
        move_threshold,
        move_window,
    )
    return series(keep(array(side), array(high) & (array(side) == array(move))), side)


def volatility_regime(close: pd.Series, window: int = 6, baseline: int = 96) -> pd.Series:
    """Measure how much the price moves lately against the stretch before.

    :param window: the latest candles
    :param baseline: the candles before them that they are compared with
    :return: root mean square of the log returns of the window over that of the baseline: 1 is as
        usual, below is quieter; NaN where candles are missing or the baseline did not move

    >>> volatility_regime(pd.Series([1.0, 2.0, 4.0, 4.0, 8.0]), 2, 2).round(3).tolist()[-1]
    0.707
    """
    require_whole("window", window, 1)
    require_whole("baseline", baseline, 1)
    squares = np.diff(np.log(array(close)), prepend=np.nan) ** 2
    lately = window_sums(squares, window) / window
    usual = moved(window_sums(squares, baseline) / baseline, window)
    return series(np.sqrt(lately / np.where(usual > 0, usual, np.nan)), close)


def quiet(
    dataframe: pd.DataFrame,
    signal: pd.Series,
    max_age: int = 24,
    threshold: float = 1.0,
    window: int = 6,
    baseline: int = 96,
) -> pd.Series:
    """Tell where the price has calmed down after a capitulation: a filter for entries.

    :param dataframe: candles with ``close`` and ``liq_total``
    :param signal: of :func:`capitulation`, or another reading with a side
    :param max_age: how many candles back the signal may lie; the last one counts
    :param threshold: what :func:`volatility_regime` may be at most
    :param window, baseline: of :func:`volatility_regime`; the baseline comes to hold the
        capitulation itself, so quiet means quieter than that
    :return: +1 after longs capitulated, -1 after shorts did, else 0
    """
    require("threshold", threshold, 0)
    side = np.nan_to_num(array(signal))
    last = last_known(side, np.flatnonzero(side), max_age)
    calm = array(volatility_regime(column(dataframe, "close"), window, baseline)) <= threshold
    over = (side == 0) & ~np.isnan(array(column(dataframe, "liq_total")))
    return series(keep(last, calm & over), signal)


def fragile(dataframe: pd.DataFrame, threshold: float = 0.8, window: int = 48) -> pd.Series:
    """Tell where positions break without a price extreme: an extreme ratio and no new low or high.

    :param dataframe: candles with ``liq_imbalance``
    :param threshold: of :func:`extreme`
    :param window: the candles before this one whose lowest low, or highest high, still stands
    :return: +1 where longs are hit above the lowest low, -1 shorts below the highest high, else 0
    """
    require_whole("window", window, 1)
    side = array(extreme(column(dataframe, "liq_imbalance"), threshold))
    low, high = array(column(dataframe, "low")), array(column(dataframe, "high"))
    above = low > moved(_extremum("MIN", low, window))
    below = high < moved(_extremum("MAX", high, window))
    return series(keep(side, (side > 0) & above | (side < 0) & below), dataframe)


def pressure(
    long: pd.Series, short: pd.Series, window: int = 12, threshold: float = 0.6
) -> pd.Series:
    """Tell where one side is hit persistently: the ratio of a window's sums beyond a threshold.

    Above 0.6 over a window a falling trend still has fuel; it is not yet a reversal.

    :param long, short: ``liq_long`` and ``liq_short``
    :param window: in candles, all of which must have been observed
    :param threshold: +1 above it, -1 below 1 - threshold; from 0.5 to 1
    :return: +1, -1 or 0

    >>> pressure(pd.Series([5.0, 9.0, 0.0]), pd.Series([5.0, 1.0, 0.0]), window=2).tolist()
    [0.0, 1.0, 1.0]
    """
    return extreme(window_imbalance(long, short, window), threshold)


def consistency(imbalance: pd.Series, window: int = 24) -> pd.Series:
    """Measure how consistently one side is hit, whatever the volumes.

    :param imbalance: ``liq_imbalance``
    :param window: in candles; those without a ratio are passed over
    :return: share of candles in which longs had the larger part minus the share of the shorts, in
        [-1, 1]; NaN where fewer than half of the window's candles have a ratio

    >>> consistency(pd.Series([0.9, 0.7, None, 0.2]), window=4).tolist()[-1].__round__(3)
    0.333
    """
    require_whole("window", window, 1)
    side = np.sign(array(imbalance) - 0.5)
    padded = np.append(side, np.nan)  # counts and means are of the candles before one
    enough = count_known(padded, window)[1:] >= (window + 1) // 2
    return series(np.where(enough, past_mean(padded, window)[1:], np.nan), imbalance)


def _turn(side: Floats, max_age: int) -> Floats:
    """Return the side where it is the opposite of the last one that was not 0."""
    rows = np.flatnonzero(side)
    turned = np.zeros(len(side))
    turned[rows] = keep(side[rows], side[rows] == -before(side, rows, max_age))
    return turned


def _extremum(name: str, values: Floats, window: int) -> Floats:
    """Return the lowest or highest value (``MIN`` or ``MAX``) of each window."""
    import talib

    # TA-Lib knows windows of two and more.
    return values if window == 1 else getattr(talib, name)(values, window)
