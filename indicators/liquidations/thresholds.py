"""Thresholds that adapt: quantiles of a pair's own past, a day at a time. Floor 1.

Candles are counted in bins, a histogram a day, and the days of a window are added up. Counts are
whole numbers, so the result does not depend, to the bit, on where the data begin; a rolling
quantile takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from liquidations.errors import require
from liquidations.event import DAY, Floats, Ints
from liquidations.imbalance import imbalance
from liquidations.windows import window_sums


#: Bins of the ratio, each 0.002 wide. A prime: no simple fraction but 0 and 1 lies on an edge, so
#: a ratio and its mirror image fall into bins that are mirror images.
_RATIOS = 499

#: Bins of the total, 16 to each doubling (4.4 %), from 1 USD to 2**40 (10**12).
_PER_OCTAVE, _VOLUMES = 16, 40 * 16

#: A share times a count is a whole number or not; rounding must not decide.
_HAIR = 1e-9

THRESHOLDS = (
    "liq_imbalance_low",
    "liq_imbalance_high",
    "liq_total_high",
    "liq_base",
    "liq_base_count",
)

#: A quantile of fewer ratios says nothing.
_LEAST = 20


def past_thresholds(
    past: Mapping[str, Floats],
    closes: Ints,
    days_of: Ints,
    *,
    days: int,
    low: float,
    high: float,
    volume: float,
) -> dict[str, Floats]:
    """Work out the thresholds of each candle from the days before its own.

    :param past: the columns (table 2) of candles without holes, from ``days`` before the first day
    :param closes: when those candles close, int64 ms
    :param days_of: the UTC day, counted from 1970, in which each wanted candle opens
    :return: ``liq_imbalance_low``, ``liq_imbalance_high``, ``liq_total_high``, ``liq_base``,
        ``liq_base_count``, of the length of ``days_of``; NaN where half of the days was not
        observed, the ratio's also where fewer than 20 candles had one, the last also where the
        source counts nothing
    """
    for name, quantile in (("low", low), ("high", high), ("volume", volume)):
        require(name, quantile, 0, 1)
    require("high", high, low, 1)
    if not len(days_of) or not len(closes):
        return {name: np.full(len(days_of), np.nan) for name in THRESHOLDS}
    first = int(days_of[0]) - days
    # A candle belongs to the days from the first midnight at or after its close.
    day = -(-closes // DAY) - first - 1
    size = int(days_of[-1]) - first
    ratio, total = past["liq_imbalance"], past["liq_total"]
    counts = _Days(day, size, days)
    known = ~np.isnan(total)
    names = [f"liq_{side}{end}" for end in ("", "_count") for side in ("long", "short")]
    sides = (np.nan_to_num(past[name]) for name in names)
    candles, seen, rated, *sums = counts.sums(np.ones(len(day)), known, ~np.isnan(ratio), *sides)
    observed = seen >= np.maximum(candles / 2, 1)
    lowest, highest = counts.quantiles(ratio * _RATIOS, _RATIOS, low, high)
    octaves = np.log2(np.fmax(total, 1.0)) * _PER_OCTAVE
    _, volumes = counts.quantiles(np.where(known, octaves, np.nan), _VOLUMES, volume, volume)
    enough = np.where(observed & (rated >= _LEAST), 1.0, np.nan)
    observed = np.where(observed, 1.0, np.nan)
    values = {
        # Never across the middle: where all was of one side, the other bound is 0.5.
        "liq_imbalance_low": np.minimum((lowest + 1) / _RATIOS, 0.5) * enough,
        "liq_imbalance_high": np.maximum(highest / _RATIOS, 0.5) * enough,
        "liq_total_high": 2 ** (volumes / _PER_OCTAVE) * observed,
        "liq_base": imbalance(sums[0], sums[1]) * observed,
        "liq_base_count": imbalance(sums[2], sums[3]) * observed,
    }
    rows = days_of - days_of[0]
    return {name: array[rows] for name, array in values.items()}


class _Days:
    """Add up candles, which are in order, by day, and days by window.

    The first result is of the days 0 to window - 1.
    """

    def __init__(self, day: Ints, size: int, window: int) -> None:
        self.rows = slice(*np.searchsorted(day, (0, size)))
        self.day, self.size, self.window = day[self.rows], size, window
        self.edges = np.searchsorted(self.day, np.arange(size + 1))

    def sums(self, *values: np.ndarray) -> list[Floats]:
        """Sum values over the window before each day."""
        return [self._sum(array[self.rows]) for array in values]

    def _sum(self, values: np.ndarray) -> Floats:
        if not len(values):
            return np.zeros(self.size - self.window + 1)
        # reduceat wants a value at each edge, and returns it for a day without candles.
        edges = np.minimum(self.edges, len(values) - 1)
        daily = np.add.reduceat(values, edges[:-1], dtype=np.float64) * (np.diff(self.edges) > 0)
        return window_sums(daily, self.window)[self.window - 1 :]

    def quantiles(self, values: Floats, bins: int, low: float, high: float) -> tuple[Floats, ...]:
        """Find the bins that hold a window's low and high quantile; NaN is no value.

        At least a share ``low`` lies in the bin ``low`` or below, and ``1 - high`` in the bin
        ``high`` or above.
        """
        values = values[self.rows]
        known = np.flatnonzero(~np.isnan(values))
        column = np.minimum(values[known].astype(np.int64), bins - 1)
        flat = np.bincount(self.day[known] * bins + column, minlength=self.size * bins)
        # 32 bits are enough for candles, and half the work.
        within = np.cumsum(flat.reshape(self.size, bins), axis=1, dtype=np.int32)
        until = np.cumsum(within, axis=0, dtype=np.int32)
        until[self.window :] -= until[: -self.window].copy()
        until = until[self.window - 1 :]
        count = until[:, -1:]
        # Counted from either end, so that both sides are treated alike.
        below = np.maximum(np.ceil(low * count - _HAIR), 1)
        above = count - np.maximum(np.ceil((1 - high) * count - _HAIR), 1)
        return np.sum(until < below, axis=1), np.sum(until <= above, axis=1)
