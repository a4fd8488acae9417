"""Liquidation levels: where open positions would be forced to close, estimated. Floor 1.

No exchange publishes its traders' positions. What is known is how many contracts are open, and what
the price was when they became more. The rest is assumed: how new positions are spread over
leverages, and how long they are kept (:class:`Assumptions`). An isolated position is liquidated at

    long   entry × (1 - 1 / leverage + maintenance margin rate)
    short  entry × (1 + 1 / leverage - maintenance margin rate)

(source: Bybit, "Liquidation Price (USDT Contract)", isolated margin; a long of 50 x from 20,000 at
0.5 % is liquidated at 19,700. Binance's formula, "How to Calculate Liquidation Price of USDⓈ-M
Futures Contracts", divides by 1 - rate, or 1 + rate, instead: the same but for rate / leverage).

How good is it? Nobody can tell on a real market. On the simulated one, whose true positions are
known (seeds 11 to 18, 60 days each, candles of five minutes, a snapshot an hour), in the mean:

================================================== ======== ===== ====================
rank correlation with the truth                    defaults truth to compare with
================================================== ======== ===== ====================
``liq_ahead_imbalance``, over time                 0.90     0.96  0.79 (1)
USD in 1 % of price, up to 10 % away, over time    0.66     0.85
the same over distances, at one moment             0.69     0.88  0.60 (2)
nearest level hits a large concentration (share)   0.56     0.44  0.26 (3), 0.65 (4)
================================================== ======== ===== ====================

The defaults know nothing of the simulation; *truth* has its leverages, shares and half-life. A hit
lies within 0.5 % of one of the five largest concentrations (of 0.2 %) up to 10 % away. Beside it:
(1) the return of the last 24 hours, its sign turned; (2) the distance alone; (3) the estimated
distances, shuffled over time; (4) always the same distance, the best in hindsight, some 9 %, where
the simulated market has most of its positions. So the side that lies ahead is estimated well, and
much of it is the last move of the price; the price of a single level is hardly known. A real market
is worse: cross margin, added margin, hedges and market makers have no such levels, and the leverage
that traders choose changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from liquidations.errors import LiquidationsError, require, require_whole
from liquidations.event import LONG, MINUTE, SHORT, Floats, Ints
from liquidations.imbalance import imbalance
from liquidations.series import array, column


HOUR = 60 * MINUTE

#: Hours that are worked out at once, so that memory does not grow with the frame.
_BLOCK = 1000
#: Hours that are accumulated at once.
_PIECE = 32
#: More buckets than lie between any two prices.
_FAR = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Assume what no exchange tells: leverages, and how long positions are kept.

    The defaults are round numbers and fitted to nothing: little is opened at high leverage, both
    sides alike, and half of what is open is closed and opened anew within two days.
    """

    leverages: tuple[float, ...] = (5.0, 10.0, 25.0, 50.0, 100.0)
    #: share of the newly opened contracts at each leverage; the rest is never liquidated
    long_shares: tuple[float, ...] = (0.2, 0.2, 0.1, 0.05, 0.02)
    short_shares: tuple[float, ...] = (0.2, 0.2, 0.1, 0.05, 0.02)
    maintenance: float = 0.005  #: maintenance margin rate
    #: hours in which half of the positions are closed voluntarily; infinite: only when open
    #: interest falls
    half_life: float = 48.0

    def __post_init__(self) -> None:
        require("maintenance", self.maintenance, 0, 0.5)
        require("half_life", self.half_life, 4)
        for leverage in self.leverages:
            # Else a position is never liquidated, or at once.
            if not 1 < leverage <= 1 / max(self.maintenance, 1e-3):
                raise LiquidationsError(
                    "each of leverages must be above 1 and at most 1 / maintenance (at most 1000), "
                    f"got {leverage!r}"
                )
        for name in ("long_shares", "short_shares"):
            shares = getattr(self, name)
            if len(shares) != len(self.leverages) or not all(share >= 0 for share in shares):
                raise LiquidationsError(
                    f"{name} must be one share, 0 or more, for each of {len(self.leverages)} "
                    f"leverages, got {shares!r}"
                )
            require(f"the sum of {name}", sum(shares), 0, 1 + 1e-9)


GENERIC = Assumptions()


def liquidation_levels(
    dataframe: pd.DataFrame,
    assumptions: Assumptions = GENERIC,
    *,
    window: int = 168,
    reach: float = 0.05,
    threshold: float = 0.04,
    bucket: float = 0.01,
) -> pd.DataFrame:
    """Estimate which positions would be liquidated ahead of the price, above and below.

    What was opened between two hourly updates of open interest, its growth and what replaced the
    positions that were closed, entered at the mean price of the candles in between, longs and
    shorts alike. Where open interest falls, all levels shrink alike. The liquidation prices are
    rounded to the middle of buckets of log price. A level is gone as soon as the price has touched
    it: a long's when a low is at it or below, a short's when a high is at it or above, from that
    candle on.

    Open interest is known an hour late, and shows what happened up to then: what was opened in a
    candle becomes a level one to two hours later.

    :param dataframe: candles of one length, at most an hour, with ``date``, ``high``, ``low``,
        ``close`` and ``liq_open_interest_amount`` (base units; a value in USD moves with the price
        although nobody opens or closes anything)
    :param window: in hours; nothing that was opened, and no candle, before the last ``window``
        hours counts. So a frame that holds so many hours before its first useful candle (Freqtrade:
        ``startup_candle_count``) gives what a longer one gives, up to the last bits
    :param reach: how far from the close ``liq_ahead_…`` look, as a share of the close
    :param threshold: a level matters if it is at least this share of all open interest; the
        default belongs to the default bucket and was chosen on simulated markets, seeds 1 to 4
    :param bucket: width of a bucket of log price; levels in one bucket are one level
    :return: frame of float64 columns, all NaN where open interest is unknown or had no update that
        counts within the window

        - ``liq_level_below``, ``liq_level_above``: price of the nearest level that matters: of
          longs below, of shorts above; NaN where there is none
        - ``liq_level_below_usd``, ``liq_level_above_usd``: its size; 0.0 where there is none
        - ``liq_ahead_below``, ``liq_ahead_above``: USD of all levels within reach; 0.0 = none
        - ``liq_ahead_imbalance``: below / (below + above) in [0, 1]: above 0.5 more longs than
          shorts lie ahead; NaN where nothing does

    :raises LiquidationsError: on an argument out of range

    >>> hours = pd.DataFrame({"date": pd.date_range("2024-08-05", periods=4, freq="h", tz="UTC")})
    >>> hours[["high", "low", "close"]] = 20_000.0
    >>> hours["liq_open_interest_amount"] = [100.0, 100.0, 106.0, 106.0]
    >>> half = Assumptions(leverages=(50.0,), long_shares=(0.5,), short_shares=(0.5,))
    >>> levels = liquidation_levels(hours, half, bucket=0.0001)
    >>> levels[["liq_level_below", "liq_level_above"]].round(-2).iloc[-1].tolist()
    [19700.0, 20300.0]
    """
    require_whole("window", window, 3)
    require("reach", reach, 0, 0.9)
    require("threshold", threshold, 0, 1)
    require("bucket", bucket, 1e-4, 0.1)
    if len(dataframe) < 2:
        nothing = dict.fromkeys(_COLUMNS, np.full(len(dataframe), np.nan))
        return pd.DataFrame(nothing, index=dataframe.index)
    frame = _Frame(dataframe, assumptions, window)
    sides = [_levels(frame, side, assumptions, reach, threshold, bucket) for side in (LONG, SHORT)]
    arrays = [one for both in zip(*sides, strict=True) for one in both]
    for one in arrays:
        np.copyto(one, np.nan, where=~frame.known)
    arrays.append(imbalance(*arrays[-2:]))
    named = dict(zip(_COLUMNS, arrays, strict=True))
    return pd.DataFrame(named, index=dataframe.index, copy=False)


_COLUMNS = (
    "liq_level_below",
    "liq_level_above",
    "liq_level_below_usd",
    "liq_level_above_usd",
    "liq_ahead_below",
    "liq_ahead_above",
    "liq_ahead_imbalance",
)


class _Frame:
    """Hold what both sides share: the updates of open interest, one for each hour UTC.

    An update belongs to the candles that close after the full hour, up to the next one, as
    ``add_context`` publishes them; it tells what was open an hour before that. So its positions
    were opened in the candles that closed until then, and after the same of the last one.
    """

    def __init__(self, dataframe: pd.DataFrame, assumptions: Assumptions, window: int) -> None:
        date = pd.DatetimeIndex(column(dataframe, "date")).as_unit("ms").asi8
        amount = array(column(dataframe, "liq_open_interest_amount"))
        self.high, self.low, self.close = (
            array(column(dataframe, name)) for name in ("high", "low", "close")
        )
        closing = date + np.diff(date).min()
        hour = (closing - 1) // HOUR
        #: where the rows of each update begin, and where the last ones end
        self.edges = np.flatnonzero(np.diff(hour, prepend=hour[0] - 1, append=hour[-1] + 1))
        first = self.edges[:-1]
        #: the update of each row
        self.update = np.repeat(np.arange(len(first)), np.diff(self.edges))
        hours = hour[first]
        #: the row after the last one in which the positions of each update were opened
        self.opened_until = np.searchsorted(closing, (hours - 1) * HOUR, side="right")

        count = np.diff(self.opened_until)
        total = np.add.reduceat((self.high + self.low + self.close) / 3, self.opened_until)[:-1]
        self.price = np.append(np.nan, total / np.where(count > 0, count, np.nan))
        self.interest = np.where(amount[first] > 0, amount[first], np.nan)
        before = np.append(np.nan, self.interest[:-1])
        kept = 0.5 ** (np.diff(hours, prepend=hours[0]) / assumptions.half_life)
        #: the share of the older positions that is left at each update, the contracts it added
        self.left = np.fmin(kept, self.interest / before)
        opened = np.maximum(self.interest - before * kept, 0.0)
        seen = ~np.isnan(opened + self.price)
        self.opened = np.where(seen, opened, 0.0)

        #: the oldest update that counts at each one
        self.oldest = np.searchsorted(hours, hours + 2 - window) + 1
        so_far = np.append(0, np.cumsum(seen))
        number = np.arange(len(hours)) + 1
        counted = so_far[number] > so_far[np.minimum(self.oldest, number)]
        self.known = (counted & ~np.isnan(self.interest))[self.update] & (amount > 0)


def _levels(
    frame: _Frame,
    side: int,
    assumptions: Assumptions,
    reach: float,
    threshold: float,
    bucket: float,
) -> tuple[Floats, Floats, Floats]:
    """Return a side's nearest level, its USD and the USD within reach.

    Shorts are mirrored (``-log(price)``), so that both sides are liquidated by a falling number.
    """
    margin = 1 / np.array(assumptions.leverages) - assumptions.maintenance
    if side == LONG:
        sign, lows, shares = 1, frame.low, assumptions.long_shares
        offset, ahead = np.log1p(-margin), np.log1p(-reach)
    else:
        sign, lows, shares = -1, frame.high, assumptions.short_shares
        offset, ahead = -np.log1p(margin), -np.log1p(reach)

    def lowest_bucket(number: Floats) -> Ints:
        """Find the lowest bucket whose middle is at a mirrored log price or above."""
        return np.ceil(number / bucket - 0.5).astype(np.int64)

    # All buckets from here upwards are touched.
    touched = lowest_bucket(sign * np.log(lows))
    within = lowest_bucket(sign * np.log(frame.close) + ahead)
    touched_in_hour = np.minimum.reduceat(touched, frame.edges[:-1])
    # Candles between the opening and its update.
    pairs = np.column_stack((frame.opened_until, frame.edges[:-1]))
    early = np.minimum.reduceat(touched, pairs.ravel())[::2]
    early[pairs[:, 0] == pairs[:, 1]] = _FAR
    # The lowest since the update: each update starts below all that came before.
    depth = frame.update * _FAR
    touched = np.minimum.accumulate(touched - depth) + depth

    place = np.floor((sign * np.log(frame.price)[:, None] + offset) / bucket)
    place = np.where(np.isfinite(place), place, 0).astype(np.int64)
    usd = frame.opened[:, None] * np.array(shares) * np.exp(sign * bucket * (place + 0.5))
    usd[place >= early[:, None]] = 0.0
    matters = threshold * frame.interest * frame.close[frame.edges[:-1]]

    rows_in_all = len(frame.close)
    level, size, total = np.full(rows_in_all, np.nan), np.zeros(rows_in_all), np.zeros(rows_in_all)
    for begin in range(0, len(usd), _BLOCK):
        end = min(begin + _BLOCK, len(usd))
        start = min(int(frame.oldest[begin]), begin)
        opened, cells = usd[start:end], place[start:end]
        count, skip, some = end - start, begin - start, opened > 0
        if not some.any():
            continue
        lowest = int(cells[some].min())
        width = int(cells[some].max()) - lowest + 2  # an empty one at the top

        # Sizes are kept in a unit that shrinks as positions are closed, so that all which was
        # opened in a bucket is a sum that only grows, and what is alive is a difference of two.
        unit = np.cumprod(np.append(1.0, frame.left[start + 1 : end]))
        unit = np.maximum(unit, 1e-200)
        cell = (np.arange(1, count + 1)[:, None] * width + cells - lowest)[some]
        padded = -(-(count + 1) // _PIECE) * _PIECE
        grown = (opened / unit[:, None])[some]
        sums = np.bincount(cell, grown, padded * width).reshape(padded, width)
        _accumulate(np.add, sums)
        touches = touched_in_hour[start:end] - lowest
        free = int(np.clip(touches.min(), 0, width))  # no candle reaches the buckets below
        gone = np.zeros((padded, width - free))
        over = np.arange(free, width) >= touches[:, None]
        np.multiply(sums[1 : count + 1, free:], over, out=gone[1 : count + 1])
        _accumulate(np.maximum, gone)
        closed = sums[frame.oldest[begin:end] - start]  # opened before the window
        np.maximum(closed[:, free:], gone[skip:count], out=closed[:, free:])
        alive = sums[skip + 1 : count + 1] - closed

        rows = slice(frame.edges[begin], frame.edges[end])
        update = frame.update[rows] - begin
        unit = unit[skip:]
        until = np.clip(touched[rows] - lowest, 0, width - 1)
        since = np.clip(within[rows] - lowest, 0, until)
        first = int(since.min())
        above = np.cumsum(
            np.ascontiguousarray(alive[:, : first - 1 if first else None : -1]), axis=1
        )
        row = update * above.shape[1] + width - 1
        total[rows] = (above.take(row - since) - above.take(row - until)) * unit[update]

        # The nearest large level is looked for once for all rows that see the same buckets.
        least = np.maximum(matters[begin:end] / unit, np.finfo(np.float64).tiny)
        large = np.append(-1, np.flatnonzero(alive >= least[:, None]))
        seen = update * width + until
        new = np.flatnonzero(np.diff(seen, prepend=-1))
        times = np.diff(new, append=len(seen))
        update = update[new]
        nearest = large[np.searchsorted(large, seen[new]) - 1]
        found = nearest >= update * width
        usd_there = np.where(found, alive.take(nearest) * unit[update], 0.0)
        price = np.exp(sign * bucket * (nearest - update * width + lowest + 0.5))
        size[rows] = np.repeat(usd_there, times)
        level[rows] = np.repeat(np.where(found, price, np.nan), times)
    return level, size, total


def _accumulate(function: np.ufunc, values: np.ndarray) -> None:
    """Accumulate down the columns in place, whole rows at a time: three times as fast as numpy.

    The pieces are of one size, so that a row is the same to the bit whatever follows it.
    """
    pieces = values.reshape(len(values) // _PIECE, _PIECE, values.shape[1])
    for place in range(1, _PIECE):
        function(pieces[:, place], pieces[:, place - 1], out=pieces[:, place])
    for piece in range(1, len(pieces)):
        function(pieces[piece], pieces[piece - 1, -1], out=pieces[piece])
