"""Readings of open interest beside liquidations: Series in, Series of the same index out. Floor 1.

Open interest comes late. There is a row an hour, and a candle has the one that a bot is sure to
know at its close: of more than an hour before, until the next. So what happens in a candle of one
hour is seen two candles later; what happens in a candle of five minutes 13 to 24 candles later.
``window`` must be longer than that delay: the defaults are for candles of five minutes; for candles
of one hour take some 3 (and ``lag=2``).

Changes are read from the amount in base units, ``liq_open_interest_amount``. The value in USD falls
with the price alone, although nobody closed a position.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from liquidations.errors import require, require_whole
from liquidations.event import Floats
from liquidations.series import array, column, keep, series, shift, signed
from liquidations.signals import extreme
from liquidations.windows import window_sums


def open_interest_change(open_interest: pd.Series, window: int = 1) -> pd.Series:
    """Measure how much open interest changed over a window of candles.

    :param open_interest: ``liq_open_interest_amount``, or ``liq_open_interest`` for the change in
        USD, that of the price included
    :param window: in candles
    :return: last value / value ``window`` candles before - 1, above -1; NaN where either is unknown
        (0 and less count as unknown)

    >>> open_interest_change(pd.Series([100.0, 100.0, 90.0, 0.0]), 2).round(3).tolist()
    [nan, nan, -0.1, nan]
    """
    require_whole("window", window, 1)
    known = _positive(open_interest)
    return series(known / shift(known, window) - 1, open_interest)


def flush(
    dataframe: pd.DataFrame, threshold: float = 0.8, drop: float = 0.03, window: int = 30
) -> pd.Series:
    """Tell where one side was flushed out: an extreme, and open interest fell.

    It says so on each candle for which both hold; its first candle is the news. As open interest
    comes late, that is up to two hours after the extreme.

    :param dataframe: candles with ``liq_total``, ``liq_imbalance`` and
        ``liq_open_interest_amount``
    :param threshold: of :func:`~liquidations.signals.extreme`; of several extremes in the window
        the one of the largest ``liq_total`` counts
    :param drop: the least share of open interest that was closed over the window
    :param window: in candles, for the extreme and the fall
    :return: +1 where longs were flushed, -1 shorts, else 0; 0 where the candle was not observed or
        the change of open interest is unknown

    >>> candles = pd.DataFrame({"liq_total": 9.0, "liq_imbalance": [0.5, 0.9, 0.5, 0.5]}).assign(
    ...     liq_open_interest_amount=[100.0, 100.0, 95.0, 95.0]
    ... )
    >>> flush(candles, window=2).tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    require("drop", drop, 0, 1)
    side = _largest_extreme(dataframe, threshold, 0, window)
    change = open_interest_change(column(dataframe, "liq_open_interest_amount"), window)
    return series(keep(side, array(change) <= -drop), dataframe)


def isolated(
    dataframe: pd.DataFrame,
    threshold: float = 0.8,
    tolerance: float = 0.01,
    window: int = 48,
    lag: int = 24,
) -> pd.Series:
    """Tell where an extreme left open interest as it was: some were liquidated, others came.

    An extreme counts only when open interest had the time to show it: a younger one looks isolated
    because nothing is known yet.

    :param dataframe: as for :func:`flush`
    :param threshold: of :func:`~liquidations.signals.extreme`; of several extremes that are old
        enough the one of the largest ``liq_total`` counts
    :param tolerance: how far open interest may have moved over the window, as a share
    :param window: in candles; the extreme is younger
    :param lag: in candles; the extreme is so old at least: 24 candles of five minutes, 2 of an hour
    :return: +1 where longs were hit, -1 shorts, else 0; 0 where the candle was not observed or the
        change of open interest is unknown
    """
    require("tolerance", tolerance, 0)
    require_whole("window", window, 1)
    require_whole("lag", lag, 0, window - 1)
    side = _largest_extreme(dataframe, threshold, lag, window)
    change = open_interest_change(column(dataframe, "liq_open_interest_amount"), window)
    return series(keep(side, np.abs(array(change)) < tolerance), dataframe)


def reported_share(
    total: pd.Series, amount: pd.Series, close: pd.Series, window: int = 288, lag: int = 13
) -> pd.Series:
    """Divide the liquidations reported over a window by the fall of open interest over it.

    An estimate of how much of the forced closing a feed shows, and a rough one. Below 1 the feed
    leaves orders out (it shows one order a second, say), or traders closed of their own accord:
    which of the two it can't tell, nor what was opened anew meanwhile. Above 1 much was opened
    anew, or the liquidations are of more exchanges than the open interest: compare like with like,
    such as ``liq_total_binance`` with the open interest of Binance. Read it over cascades, where
    forced closing is most of the fall, and compare it with itself over time.

    :param total: USD liquidated, of the exchange that ``amount`` is of
    :param amount: ``liq_open_interest_amount``
    :param close: values the fall, at its mean over the window
    :param window: in candles, all of which must have been observed; many times the delay of open
        interest, as its edges don't fit to the candle
    :param lag: how many candles ago the window of the liquidations ended: 13 candles of five
        minutes, 2 of an hour, as open interest is that old when it is known
    :return: 0 and more; NaN where open interest did not fall or anything is unknown

    >>> amount = pd.Series([100.0, 100.0, 96.0])
    >>> reported_share(pd.Series([0.0, 6.0, 0.0]), amount, pd.Series([3.0] * 3), 1, 1).tolist()
    [nan, nan, 0.5]
    """
    require_whole("window", window, 1)
    require_whole("lag", lag, 0)
    liquidated = shift(window_sums(array(total), window), lag)
    price = shift(window_sums(array(close), window), lag) / window
    known = _positive(amount)
    closed = (shift(known, window) - known) * price
    return series(liquidated / np.where(closed > 0, closed, np.nan), total)


def intensity(total: pd.Series, size: pd.Series) -> pd.Series:
    """Divide what was liquidated by the size of the market, so that pairs and years compare.

    :param total: ``liq_total`` in USD
    :param size: USD, either traded in the candle, ``volume * close``, or open,
        ``liq_open_interest``
    :return: 0 and more; of the volume of the same exchanges at most about 1, of one exchange's
        possibly above; NaN where either is unknown, or ``size`` is 0

    >>> intensity(pd.Series([5.0, 0.0, 5.0]), pd.Series([100.0, 100.0, 0.0])).tolist()
    [0.05, 0.0, nan]
    """
    return series(array(total) / _positive(size), total)


def _positive(values: pd.Series) -> Floats:
    """Return the values, NaN where they are 0 or less."""
    numbers = array(values)
    return np.where(numbers > 0, numbers, np.nan)


def _largest_extreme(dataframe: pd.DataFrame, threshold: float, lag: int, window: int) -> Floats:
    """Return the side of the largest extreme ``lag`` to ``window - 1`` candles ago, else 0.

    The latest one would be a small one of either side, as quiet candles often are extreme. Where
    both sides had one of the same size there is no side.
    """
    require_whole("window", window, 1)
    total = array(column(dataframe, "liq_total"))
    side = array(extreme(column(dataframe, "liq_imbalance"), threshold))
    observed = ~np.isnan(total)
    total = np.where(observed, total, 0.0)
    long, short = (_largest(total * sign, lag, window) for sign in (side > 0, side < 0))
    return signed(observed & (long > short), observed & (short > long))


def _largest(values: Floats, lag: int, window: int) -> Floats:
    """Return the largest value ``lag`` to ``window - 1`` candles ago; 0 before the first."""
    import talib

    padded = np.concatenate((np.zeros(window - 1), values))[: len(values) + window - 1 - lag]
    places = window - lag
    # TA-Lib knows windows of two and more.
    return padded if places == 1 else talib.MAX(padded, places)[places - 1 :]
