"""What a feed of one order a second hides, and what can still be said about the ratio. Floor 1.

Binance shows at most one liquidation of a symbol a second, and Bybit did until February 2025 (see
``REGIMES`` in :mod:`liquidations.exchanges`). Such a feed drags the ratio too: a cascade hides more
than a calm minute does, so the calm weighs too much. In a cascade of 30 s and 100 orders a second,
97 % long, within a calm 5m candle (0.2 orders a second, half of them long) the true ratio is 0.96;
a feed of the latest order of each second shows 0.70, one of the largest 0.93.

What is shown is certain. What is hidden is estimated here by stretches of time: a burst is a run of
at least ``BURST`` orders less than two seconds apart; the rest of a candle is one calm stretch.

- Count: if orders come by chance at a constant rate, a share q of occupied seconds means
  -ln(1 - q) orders a second (the zero class of Poisson's law). A full stretch has no upper limit.
- Size: if F is the distribution of single sizes, the largest of N has F**N, so the median m of the
  maxima of a burst gives N = ln 2 / -ln F(m). F is log-normal, fitted to the pair's own calm orders
  before the candle.

Both are models. Real orders come in clumps, many in one second of a calm hour, which leave no
trace: on recorded OKX orders that were thinned the same way the estimates gained little or nothing
(see :func:`unsample`). So look at the bounds, not at the estimate alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from liquidations.candles import Source, serves
from liquidations.errors import LiquidationsError, require
from liquidations.event import DAY, LONG, USD_QUANTUM, Events, Floats, Ints, covered_share
from liquidations.exchanges import KINDS
from liquidations.imbalance import effective_count, imbalance, window_imbalance
from liquidations.series import array, series
from liquidations.significance import wilson


SECOND = 1000

#: Orders of a burst, each less than two seconds after the one before: whatever the second in which
#: the venue's window begins, the orders of two neighbouring windows are no further apart.
BURST = 5
JOINED = 2 * SECOND

#: The distribution of sizes is fitted on so many calm orders at most, and at least, none of them
#: older than a month: so a bot's short frame, with a month before it, says what a long one says.
PAST, FEWEST = 2000, 50
MONTH = 30 * DAY

#: Orders a second of one pair beyond which no bound goes.
MOST = 1000.0

#: What was hidden behind an order shown is never bounded below this: on 2025-02-03 Bybit's true
#: total was 6.3 times what the feeds showed.
CLUMP = 6.3

#: Of the normal distribution: 90 % lie within.
_Z = 1.645


def saturation(count: pd.Series, seconds: float | pd.Series) -> pd.Series:
    """Measure which share of the seconds showed an order.

    Of a feed of one order a second, at a constant rate, a share of 0.2 hides a tenth of all
    orders, 0.5 hides 28 %, 0.8 hides half, 1.0 an unknown part. The mean of a candle says little
    of a cascade within it (30 s are 0.1 of a 5m candle): measure one-minute candles, or take
    :func:`peak_saturation`.

    :param count: ``liq_long_count + liq_short_count`` of ONE exchange
    :param seconds: that were observed: the candle's, times ``liq_coverage``
    :return: Series in [0, 1]; NaN where the count is unknown or nothing was observed

    >>> saturation(pd.Series([0.0, 15.0, 60.0, None]), 60).tolist()
    [0.0, 0.25, 1.0, nan]
    """
    if not isinstance(seconds, pd.Series):
        require("seconds", seconds, 1)
    divisor = array(seconds) if isinstance(seconds, pd.Series) else seconds
    with np.errstate(divide="ignore", invalid="ignore"):
        share = array(count) / divisor
    # A minute has room for 61 windows of a second that overlap its edges.
    return series(np.where(np.isfinite(share), np.minimum(share, 1.0), np.nan), count)


def saturated(count: pd.Series, seconds: float | pd.Series, threshold: float = 0.5) -> pd.Series:
    """Tell where a feed of one order a second was so full that it hid a good part.

    :param count, seconds: of :func:`saturation`
    :param threshold: the share of occupied seconds above which it says so, 0 to 1
    :return: bool Series; False where the share is unknown

    >>> saturated(pd.Series([15.0, 60.0, None]), 60).tolist()
    [False, True, False]
    """
    require("threshold", threshold, 0, 1)
    return saturation(count, seconds) > threshold


def peak_saturation(source: Source, opens: Ints, closes: Ints) -> Floats:
    """Measure the fullest bar of each candle: of one-minute bars, the fullest minute.

    A candle's mean would show a cascade of 30 s as 0.1 of a 5m candle and 0.01 of an hour; its
    minute shows 0.5 in both.

    :param source: bars of one exchange and pair, and their coverage
    :param opens, closes: int64 ms, increasing, the candles not overlapping
    :return: per candle in [0, 1]; 0 where nothing was shown; NaN where nothing was observed, the
        source does not count, or its bars do not fit into the candles
    """
    size = len(opens)
    if not size or not source.counted or not serves(source.period, opens, closes):
        return np.full(size, np.nan)
    rows, candle = _within(source.bars.timestamp, opens, closes)
    count = (source.bars.long_count + source.bars.short_count)[rows]
    peak = np.zeros(size)
    np.maximum.at(peak, candle, count)
    known = covered_share(source.coverage, opens, closes) > 0
    return np.where(known, np.minimum(peak * SECOND / source.period, 1.0), np.nan)


def corrected_imbalance(
    long: pd.Series, short: pd.Series, count: pd.Series, seconds: float | pd.Series, window: int
) -> pd.Series:
    """Divide the sums over a window in which fuller candles weigh more, for a sampled feed.

    For those who have columns only. Each candle is weighted with the orders behind one shown,
    -ln(1 - q) / q of its share q of occupied seconds (Poisson's zero class). Within a candle the
    ratio stays as it is, so short candles and longer windows are needed: minutes in an hour. A
    full candle has no upper limit; it is taken as ``seconds`` out of ``seconds + 1``, 4.2 times
    for a minute.

    Measured over simulated markets (hours of minutes, a feed of the latest or the largest order of
    each second) the mean error fell by 3 to 14 %; in a cascade of two minutes in a window of five
    it was halved for the latest and unchanged for the largest order. With single events
    :func:`unsample` does better.

    :param long, short: ``liq_long`` and ``liq_short`` of ONE exchange
    :param count: ``liq_long_count + liq_short_count`` of it
    :param seconds: that were observed in a candle
    :param window: in candles, all of which must have been observed
    :return: Series in [0, 1]; NaN where a candle of the window or its count is unknown, or nothing
        was liquidated in the window

    >>> long, short, count = pd.Series([9.0, 1.0]), pd.Series([1.0, 9.0]), pd.Series([45.0, 2.0])
    >>> corrected_imbalance(long, short, count, 60, 2).round(3).tolist()
    [nan, 0.613]
    """
    shown = saturation(count, seconds) * seconds
    weight = _behind((shown / (seconds + 1)).to_numpy(dtype=np.float64))
    return window_imbalance(long * weight, short * weight, window)


def unsample(
    events: Events,
    opens: Ints,
    closes: Ints,
    kind: str | np.ndarray,
    coverage: Ints | None = None,
) -> pd.DataFrame:
    """Estimate what a feed of one order a second hid, and bound each candle's ratio.

    The estimate adds to what was shown the hidden volume of each burst and of the calm rest, with
    the sides as they were shown there. Its bounds let the side and the number of hidden orders
    vary: 90 % intervals of both, the number of the calm orders up to 6.3 times those shown, and
    without limit in a full burst of a feed that shows the latest. They bound the ratio of what
    happened; whether three orders mean anything is another question.

    Measured against a known truth, the orders of each calendar second thinned to one: the mean
    error of the ratio as shown → as estimated, and how often the bounds hold the truth:

    ==================================== ===================== =====================
    feed                                 latest                largest
    ==================================== ===================== =====================
    5m, cascade of 30 s, 100 orders/s    0.258 → 0.142, 92 %   0.030 → 0.021, 96 %
    the same, 10 orders/s                0.218 → 0.103, 99 %   0.051 → 0.020, 94 %
    the same, 8 s of 100 orders/s        0.381 → 0.323, 83 %   0.094 → 0.050, 89 %
    1h, simulated market, with bursts    0.009 → 0.005, 100 %  0.003 → 0.001, 100 %
    1h, simulated market, without        0.002 → 0.002, 100 %  0.001 → 0.001, 100 %
    1h, recorded OKX orders              0.044 → 0.039, 88 %   0.008 → 0.008, 80 %
    ==================================== ===================== =====================

    (100 seeds of the module's cascade; six of 20 simulated days; one day of five pairs.) In
    simulated 5m candles nearly all orders are of one side and there is nothing to correct.

    When it lies: orders that come in clumps of one second are hidden without a trace; sizes that
    differ between the sides, or between calm and cascade, bias it; seconds that the listener lost
    look calm. Where all orders are of one side the bounds are wider than needed.

    :param events: as shown, of ONE exchange and pair
    :param opens, closes: int64 ms, increasing, the candles not overlapping
    :param kind: of the feed, one for all candles or one for each, such as
        ``regime("binance", opens)``: with "complete" nothing is hidden; with "partial" nothing can
        be said, the ratio stays as shown and its bounds are NaN; with "largest" and fewer than
        ``FEWEST`` calm orders in the candles of the month before, it stays as shown within wide
        bounds
    :param coverage: intervals in which somebody listened; default: all the time
    :return: a row for each candle, float64: ``long`` and ``short``, USD estimated, 0.0 where
        nothing was shown; ``imbalance``, their ratio, NaN then; ``lower`` and ``upper`` around it;
        ``saturation``, which part of the USD shown came in bursts. All NaN where nothing was
        observed. A candle's row depends on nothing after its close
    :raises LiquidationsError: on a kind that is none

    >>> from liquidations.event import make_events
    >>> opens, ones = np.array([1_700_000_100_000]), np.ones(8)
    >>> time = opens + np.array([0, 1000, 2000, 3000, 4000, 5000, 60_000, 90_000])
    >>> shown = make_events(time, [0, 0, 0, 0, 0, 0, 1, 1], ones, ones, ones)
    >>> unsample(shown, opens, opens + 300_000, "latest").round(2).iloc[0].tolist()
    [13.62, 2.01, 0.87, 0.26, 1.0, 0.75]
    """
    size = len(opens)
    kinds = np.broadcast_to(np.asarray(kind), size)
    if unknown := sorted(set(kinds.tolist()) - set(KINDS)):
        raise LiquidationsError(f"kind must be of {', '.join(KINDS)}, got {', '.join(unknown)}")
    heard = np.ones(size) if coverage is None else covered_share(coverage, opens, closes)
    if (np.diff(events.timestamp) < 0).any():
        events = events.take(np.argsort(events.timestamp, kind="stable"))
    rows, candle = _within(events.timestamp, opens, closes)
    time, value = events.timestamp[rows], events.value_usd[rows]
    is_long = events.side[rows] == LONG
    stretch, home, seconds = _stretches(time, candle, heard * (closes - opens) / SECOND)
    is_burst = np.arange(len(home)) >= size

    def add(of_order: np.ndarray | None) -> Floats:
        return np.bincount(stretch, of_order, len(home)).astype(np.float64, copy=False)

    def per_candle(of_stretch: Floats) -> Floats:
        return np.bincount(home, of_stretch, size).astype(np.float64, copy=False)

    shown, usd = add(None), add(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        # How many orders stand behind one that was shown (estimate, least, most), and what as many
        # hidden ones as were shown would be worth.
        behind, worth = _by_count(shown, seconds, is_burst), usd
        if (kinds == "largest").any():
            largest = (kinds == "largest")[home]
            above, smaller, fitted = _sizes(value, stretch < size, candle, time, opens)
            fit = largest & fitted[home]
            worth = np.where(fit, add(smaller), worth)
            inside = stretch >= size
            by_size = _by_size(stretch[inside] - size, above[inside])
            by_size = np.maximum(by_size, behind[1, size:])  # no less than the count says
            behind[:, size:] = np.where(fit[size:], by_size, behind[:, size:])
            behind[:2, largest & ~fit] = 1  # the estimate stays as shown
        hides = (shown > 0) & np.isin(kinds, ("latest", "largest"))[home]
        hidden = np.where(hides, (behind - 1) * worth, 0)
        # Few hidden orders of unequal size are together worth less or more than expected.
        equal = np.where(hides, (behind - 1) * effective_count(usd, add(value * value)), 0)
        least = hidden[1] * np.maximum(1 - _Z / np.sqrt(np.maximum(equal[1], 1e-9)), 0)
        most = hidden[2] * (1 + _Z / np.sqrt(np.maximum(equal[2], 1e-9)))
        share = np.nan_to_num(add(is_long) / shown)
        rare, often = wilson(share, 1 / (1 / shown + 1 / equal[2]), _Z)
    rare, often = np.where(hides, rare, 0), np.where(hides, often, 0)

    long_usd = per_candle(add(value * is_long))
    short_usd = per_candle(add(value * ~is_long))
    long = long_usd + per_candle(hidden[0] * share)
    short = short_usd + per_candle(hidden[0] * (1 - share))
    ratio = imbalance(long, short)

    def highest(seen: Floats, other: Floats, chance: Floats, ratio: Floats) -> Floats:
        """Let each stretch hide as much as raises the ratio (Dinkelbach's iteration)."""
        for _ in range(4):
            volume = np.where(chance > ratio[home], most, least)
            more, less = per_candle(volume * chance), per_candle(volume * (1 - chance))
            ratio = np.fmax(ratio, imbalance(seen + more, other + less))
        return ratio

    blind = kinds == "partial"
    upper = np.where(blind, np.nan, highest(long_usd, short_usd, often, ratio))
    lower = 1 - highest(short_usd, long_usd, 1 - rare, imbalance(short, long))
    lower = np.where(blind, np.nan, np.minimum(lower, ratio))  # 1 - x may round beyond it
    in_bursts = per_candle(np.where(is_burst, usd, 0))
    columns = {
        "long": long,
        "short": short,
        "imbalance": ratio,
        "lower": lower,
        "upper": upper,
        "saturation": imbalance(in_bursts, per_candle(usd) - in_bursts),
    }
    return pd.DataFrame({name: np.where(heard > 0, x, np.nan) for name, x in columns.items()})


def _within(time: Ints, opens: Ints, closes: Ints) -> tuple[Ints, Ints]:
    """Return the rows that lie in a candle, in order, and the candle of each."""
    first, end = np.searchsorted(time, opens), np.searchsorted(time, closes)
    count = end - first
    candle = np.repeat(np.arange(len(opens)), count)
    return np.arange(len(candle)) + np.repeat(first - np.cumsum(count) + count, count), candle


def _stretches(time: Ints, candle: Ints, listened: Floats) -> tuple[Ints, Ints, Floats]:
    """Divide the orders into the bursts and the calm rest of each candle.

    :return: the stretch of each order; the candle of each stretch, first the calm ones, as many as
        there are candles, then the bursts; the seconds of each
    """
    # A candle's close ends a burst: what comes after it is not known yet.
    apart = (np.diff(time) >= JOINED) | (np.diff(candle) > 0)
    first = np.flatnonzero(np.concatenate((np.ones(min(len(time), 1), bool), apart)))
    length = np.diff(first, append=len(time))
    burst = np.flatnonzero(length >= BURST)
    number = np.full(len(first), -1)
    number[burst] = len(listened) + np.arange(len(burst))
    stretch = np.repeat(number, length)
    stretch = np.where(stretch < 0, candle, stretch)
    begin, end = time[first[burst]], time[first[burst] + length[burst] - 1]
    lasted = np.maximum((end - begin) / SECOND + 1, length[burst])
    home = np.concatenate((np.arange(len(listened)), candle[first[burst]]))
    rest = listened - np.bincount(candle[first[burst]], lasted, len(listened))
    calm = np.bincount(candle[stretch < len(listened)], minlength=len(listened))
    return stretch, home, np.concatenate((np.maximum(rest, np.maximum(calm, 1)), lasted))


def _behind(share: Floats) -> Floats:
    """Return how many orders stand behind one shown, by the share of occupied seconds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share == 0, 1.0, -np.log1p(-share) / share)


def _by_count(shown: Floats, seconds: Floats, is_burst: np.ndarray) -> Floats:
    """Return estimate, least and most of the orders behind one shown, by the seconds occupied."""
    sparse, dense = wilson(np.minimum(shown / seconds, 1), seconds, _Z)
    # Where an order begins the window that hides others, as Binance's frames of 2026 suggest (they
    # were sent a second after their order), it hides what comes in a second: 1 / (1 - q) in all.
    most = np.clip(1 / (1 - dense), CLUMP, MOST)
    least = np.where(is_burst, _behind(sparse), 1.0)
    return np.stack((np.minimum(_behind(shown / (seconds + 1)), most), least, most))


def _by_size(burst: Ints, above: Floats) -> Floats:
    """Return estimate, least and most of the orders behind one shown, by the sizes of each burst.

    :param burst: the number of each order's burst, increasing
    :param above: which share of single sizes is above it; its median is 1 - 2**(-1/N)
    """
    # Sorted within each burst: shares are below 1, the numbers whole.
    ordered = np.sort(burst + np.minimum(above, 1 - 1e-9))
    length = np.bincount(burst)
    first = np.cumsum(length) - length
    # The median's interval by order statistics, W. J. Conover, Practical Nonparametric Statistics:
    # a few calm orders that touch a burst would ruin a mean.
    reach = _Z * np.sqrt(length) / 2
    low = np.maximum(np.floor((length - 1) / 2 - reach), 0).astype(np.int64)
    ranks = np.stack(((length - 1) // 2, length // 2, length - 1 - low, low))
    share = ordered[first + ranks] - np.arange(len(length))
    share = np.stack(((share[0] + share[1]) / 2, share[2], share[3]))
    return np.clip(-np.log(2) / np.log1p(-share), 1.0, MOST)


def _sizes(
    value: Floats, calm: np.ndarray, candle: Ints, time: Ints, opens: Ints
) -> tuple[Floats, Floats, np.ndarray]:
    """Judge sizes by the log-normal distribution of the calm orders of earlier candles.

    :return: for each order the share of sizes above its own, and the mean of those below; for each
        candle whether there were enough to fit it on
    """
    logs = np.log(np.maximum(value, USD_QUANTUM))
    past = logs[calm]
    end = np.searchsorted(candle[calm], np.arange(len(opens)))
    begin = np.maximum(end - PAST, np.searchsorted(time[calm], opens - MONTH))
    count = end - begin
    sums, squares = (np.concatenate(([0.0], np.cumsum(x))) for x in (past, past * past))
    mean = (sums[end] - sums[begin]) / count
    variance = (squares[end] - squares[begin]) / count - mean * mean
    fitted = (count >= FEWEST) & (variance > 1e-3)
    mean, deviation = np.where(fitted, mean, 0), np.sqrt(np.where(fitted, variance, 1))
    middle, spread = mean[candle], deviation[candle]
    place = (logs - middle) / spread
    above, under = _tail(place), _tail(-place)
    # The mean of a log-normal size that is known to be below x.
    below = np.exp(middle + spread * spread / 2) * _tail(spread - place) / under
    return above, np.minimum(below, value), fitted


def _tail(place: Floats) -> Floats:
    """Return the share of the normal distribution above a place, to 1e-7.

    M. Abramowitz and I. Stegun, Handbook of Mathematical Functions (1964), 26.2.17.
    """
    t = 1 / (1 + 0.2316419 * np.abs(place))
    series = t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))
    series = t * (0.319381530 + t * (-0.356563782 + series))
    tail = np.exp(-place * place / 2) / np.sqrt(2 * np.pi) * series
    return np.where(place > 0, tail, 1 - tail)
