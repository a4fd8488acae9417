"""How much an extreme ratio is worth: a few liquidations make one by chance. Floor 1.

Five liquidations of log-normal size whose sides are thrown like coins give a ratio above 0.8 or
below 0.2 in half of all candles. The readings here keep an extreme only where its evidence
suffices, and say 0 elsewhere; NaN is unknown and never signals. No reading uses a later candle.

All of them take the sides of single liquidations for independent of each other. They are not: a
fall hits longs, and one position may be closed in many parts. In a recorded day of BTC on OKX, 71
of the 72 candles of 5 minutes with liquidations were extreme; 42 pass by numbers, 36 by sizes. So
what passes is more than the chance of a few orders, and still no rare event; whether it means
anything for the price is another question.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from liquidations.errors import require, require_whole
from liquidations.event import Floats, Ints
from liquidations.imbalance import Values, Weights, leave_one_out
from liquidations.series import array, bound, column, keep, series, signed
from liquidations.signals import extreme
from liquidations.windows import count_known, past_mean


#: Less than any liquidation is worth, in USD.
_DUST = 1e-9


def wilson(share: Values, count: Values, z: float = 1.645) -> tuple[Values, Values]:
    """Bound the true ratio behind an observed one by Wilson's score interval.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22 (1927). Unlike the normal interval it stays within
    0 and 1 and keeps a width where the ratio is 0 or 1.

    :param share: an observed ratio, 0 to 1: of USD (``liq_imbalance``) or of events
    :param count: of how many it is one: ``liq_n_eff``, or the number of events
    :param z: the quantile of the normal distribution, from 0.01 to 10; 1.645: 90 % of intervals
        hold the true ratio, 5 % lie above and 5 % below it
    :return: lower and upper bound, arrays or Series as the input; a share of 0 has exactly 0 as its
        lower, one of 1 exactly 1 as its upper bound; NaN where the share or the count is NaN

    >>> low, high = wilson(np.array([1.0, 1.0]), np.array([3.0, 30.0]))
    >>> low.round(3).tolist(), high.tolist()
    ([0.526, 0.917], [1.0, 1.0])
    """
    require("z", z, 0.01, 10)
    # Mirrored, so that both sides are treated alike.
    return _lower(share, count, z), 1 - _lower(1 - share, count, z)


def _lower(share: Values, count: Values, z: float) -> Values:
    # The textbook's (p + z²/2n - z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n), written without a
    # difference of two almost equal numbers.
    hits = share * count
    return 2 * hits * share / (2 * hits + z * z + z * np.sqrt(z * z + 4 * hits * (1 - share)))


def significant(
    imbalance: pd.Series,
    n_eff: pd.Series,
    threshold: float | pd.Series = 0.8,
    base: float | pd.Series = 0.5,
    z: float = 1.645,
    low: float | pd.Series | None = None,
) -> pd.Series:
    """Tell where an extreme is more than chance, by the sizes of its liquidations.

    It counts if Wilson's interval of the ratio, over the effective number of liquidations, lies
    beyond the base rate. Measured on simulated candles of n liquidations (log-normal sizes, sigma
    1.5, independent sides), share of candles in %:

    ===================== === === === === === ========= === ===
    true ratio            0.5                           0.9
    n                     3   5   10  20  50            20  50
    ===================== === === === === === ========= === ===
    ``extreme``           65  52  35  19  5   is right  84  87
    this reading          2   4   6   7   2   is right  72  85
    ===================== === === === === === ========= === ===

    :param imbalance: ``liq_imbalance``
    :param n_eff: ``liq_n_eff``, see ``liquidations.effective_count``
    :param threshold, low: of :func:`~liquidations.signals.extreme`, numbers or Series
    :param base: the ratio that is nothing special: 0.5, another number, or the pair's own past
        ``liq_base``
    :param z: of :func:`wilson`
    :return: +1, -1 or 0; 0 where the ratio, its number, the bound or the base is NaN

    >>> ratio, n_eff = pd.Series([1.0, 1.0, 0.85, 0.0]), pd.Series([2.0, 3.0, 3.0, None])
    >>> significant(ratio, n_eff).tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    side = array(extreme(imbalance, threshold, low))
    rows = np.flatnonzero(side)
    share, count = array(imbalance)[rows], array(n_eff)[rows]
    return _beyond(side, rows, share, count, base, z, imbalance)


def significant_by_count(
    imbalance: pd.Series,
    long_count: pd.Series,
    short_count: pd.Series,
    threshold: float | pd.Series = 0.8,
    base: float | pd.Series = 0.5,
    z: float = 2.24,
    low: float | pd.Series | None = None,
) -> pd.Series:
    """Tell where an extreme in USD is more than chance, by the numbers of both sides.

    The ratio of the USD must be extreme, and Wilson's interval of the share of the longs among the
    liquidations lie beyond the base rate. Sizes are left out of the test, and with them most of
    its noise: candles and columns as in :func:`significant`, in %:

    ===================== === === === === === ========= === ===
    true ratio            0.5                           0.9
    n                     3   5   10  20  50            20  50
    ===================== === === === === === ========= === ===
    this reading          0   0   2   1   1   is right  82  87
    ===================== === === === === === ========= === ===

    It needs at least six liquidations, where :func:`significant` needs three. It says nothing where
    USD and numbers disagree: a few large longs among many small shorts.

    :param imbalance: ``liq_imbalance``
    :param long_count, short_count: ``liq_long_count`` and ``liq_short_count``
    :param threshold, low: of :func:`~liquidations.signals.extreme`, numbers or Series
    :param base: the share of the longs among liquidations that is nothing special, a number or a
        Series. A share of USD such as ``liq_base`` stands for it only if both sides are of one size
    :param z: of :func:`wilson`; 2.24: 97.5 %
    :return: +1, -1 or 0; 0 where the ratio, a count, the bound or the base is NaN

    >>> ratio, shorts = pd.Series([1.0, 1.0, 1.0]), pd.Series([0.0, 0.0, 0.0])
    >>> significant_by_count(ratio, pd.Series([5.0, 6.0, None]), shorts).tolist()
    [0.0, 1.0, 0.0]
    """
    side = array(extreme(imbalance, threshold, low))
    rows = np.flatnonzero(side)
    longs = array(long_count)[rows]
    count = longs + array(short_count)[rows]
    share = longs / np.where(count > 0, count, np.nan)
    return _beyond(side, rows, share, count, base, z, imbalance)


def _beyond(
    side: Floats,
    rows: Ints,
    share: Floats,
    count: Floats,
    base: float | pd.Series,
    z: float,
    like: pd.Series,
) -> pd.Series:
    """Keep a side where the interval of the share lies beyond the base rate on that side.

    ``share`` and ``count`` are those of ``rows``, in which there is a side: most candles have none.
    """
    _check_base(base)
    lower, upper = wilson(share, count, z)
    rate = bound("base", base, like)
    rate = rate if isinstance(rate, float) else rate[rows]
    kept = np.zeros(len(side))
    kept[rows] = keep(side[rows], np.where(side[rows] > 0, lower > rate, upper < rate))
    return series(kept, like)


def _check_base(base: float | pd.Series) -> None:
    if not isinstance(base, pd.Series):
        require("base", base, 0, 1)


def shrunk_imbalance(
    long: pd.Series,
    short: pd.Series,
    base: float | pd.Series = 0.5,
    window: int = 48,
    weight: float = 1.0,
) -> pd.Series:
    """Pull the ratio to the base rate, the more so the less was liquidated.

    (long + k·base) / (long + short + k), as if ``weight`` typical candles at the base rate were
    added; k = ``weight`` times the geometric mean of the past candles that had liquidations. One
    cascade of a thousand times the usual volume moves that mean by 15 % over 48 candles, where it
    moves the plain mean to 22 times the usual and would silence two days of hours.

    A STAND-IN for sources without counts, no test: it takes a dollar for evidence, whether it
    comes from one order or from a hundred. On simulated candles (sizes as in :func:`significant`,
    a rate that wanders log-normally, sigma 1.2, around 3, 10 or 50 liquidations a candle) the raw
    ratio is extreme in 71, 51 and 21 % of candles at a true 0.5, this one in 21, 11 and 2 %; at a
    true 0.9 it is in 35, 32 and 25 % instead of 86, 85 and 86 %: above 0.8 are only candles of more
    than one and a half times the typical volume.

    :param long, short: ``liq_long`` and ``liq_short``
    :param base: pulled to this, 0 to 1, a number or a Series such as ``liq_base``
    :param window: in candles; the current one is not part of its own measure
    :param weight: in typical candles, 0 or more; 0 leaves the ratio as it is
    :return: Series in [0, 1]; NaN where nothing was liquidated (no evidence is not balance), the
        candle or half of its window was not observed, or its window had no liquidation

    >>> long, short = pd.Series([30.0, 10.0, 100.0, 0.0]), pd.Series([10.0, 30.0, 0.0, 0.0])
    >>> shrunk_imbalance(long, short, window=2).round(3).tolist()
    [nan, 0.375, 0.857, nan]
    """
    require_whole("window", window, 1)
    require("weight", weight, 0)
    _check_base(base)
    longs = array(long)
    total = longs + array(short)
    some = total > 0
    logarithms = np.where(some, np.log(np.maximum(total, _DUST)), np.nan)
    typical = np.exp(past_mean(logarithms, window))
    enough = some & (count_known(total, window) >= (window + 1) // 2)
    pull = np.where(enough, weight * typical, np.nan)
    rate = bound("base", base, long)
    return series((longs + pull * rate) / (total + pull), long)


def gated_extreme(
    dataframe: pd.DataFrame,
    threshold: float | pd.Series = 0.8,
    base: float | pd.Series = 0.5,
    z: float = 2.24,
    window: int = 48,
    low: float | pd.Series | None = None,
) -> pd.Series:
    """Tell where an extreme has evidence behind it, whatever the source gives.

    Candle by candle: where the liquidations were counted, :func:`significant_by_count`. Where they
    were not, a stand-in: :func:`shrunk_imbalance`, pulled to 0.5, must be beyond the threshold, and
    the ratio beyond the base rate. :func:`gated_by_volume` tells which candles took the stand-in.

    :param dataframe: candles with ``liq_long``, ``liq_short``, ``liq_imbalance``,
        ``liq_long_count`` and ``liq_short_count``
    :param threshold, low: of :func:`~liquidations.signals.extreme`, numbers or Series
    :param base, z: of :func:`significant_by_count`
    :param window: of :func:`shrunk_imbalance`
    :return: +1, -1 or 0; 0 where the evidence is missing or unknown
    """
    ratio = column(dataframe, "liq_imbalance")
    counts = column(dataframe, "liq_long_count"), column(dataframe, "liq_short_count")
    side = significant_by_count(ratio, *counts, threshold, base, z, low)
    uncounted = gated_by_volume(dataframe)
    if not uncounted.any():
        return side
    shrunk = shrunk_imbalance(
        column(dataframe, "liq_long"), column(dataframe, "liq_short"), window=window
    )
    volume, raw = array(extreme(shrunk, threshold, low)), array(ratio)
    rate = bound("base", base, ratio)
    volume = keep(volume, (volume > 0) & (raw > rate) | (volume < 0) & (raw < rate))
    return series(np.where(array(uncounted), volume, array(side)), dataframe)


def gated_by_volume(dataframe: pd.DataFrame) -> pd.Series:
    """Tell where :func:`gated_extreme` had no counts and took its stand-in.

    :param dataframe: candles with ``liq_imbalance``, ``liq_long_count`` and ``liq_short_count``
    :return: bool Series; False also where there is no ratio to gate
    """
    count = array(column(dataframe, "liq_long_count")) + array(column(dataframe, "liq_short_count"))
    return series(np.isnan(count) & ~np.isnan(array(column(dataframe, "liq_imbalance"))), dataframe)


def robust_extreme(
    dataframe: pd.DataFrame,
    threshold: float | pd.Series = 0.8,
    weights: Weights = "equal",
    exchanges: Sequence[str] | None = None,
    window: int = 48,
    low: float | pd.Series | None = None,
) -> pd.Series:
    """Tell where the ratio over exchanges is extreme whichever single exchange is left out.

    So no exchange makes it alone, and at least two must have liquidated something. Exchanges that
    copy each other's price agree for that reason alone.

    :param dataframe: candles with ``liq_imbalance_binance`` and so on
    :param threshold, low: of :func:`~liquidations.signals.extreme`, numbers or Series
    :param weights, exchanges, window: of :func:`~liquidations.imbalance.exchange_imbalance`
    :return: +1, -1 or 0

    >>> frame = pd.DataFrame({"liq_imbalance_okx": [0.9, 0.9, 0.9],
    ...                       "liq_imbalance_bybit": [0.95, 0.3, None]})
    >>> robust_extreme(frame).tolist()
    [1.0, 0.0, 0.0]
    """
    without = leave_one_out(dataframe, weights, exchanges, window)
    ratios = [array(without[name]) for name in without]
    least, most = (
        array(extreme(series(edge.reduce(ratios), dataframe), threshold, low))
        for edge in (np.minimum, np.maximum)
    )
    return series(signed(least > 0, most < 0), dataframe)
