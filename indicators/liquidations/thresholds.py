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


#: Bins of the ratio, each 0.001 wide.
_RATIOS = 1000

#: Bins of the total, 32 to each doubling (2.2 %), from 1 USD to 2**40 (10**12).
_PER_OCTAVE, _VOLUMES = 32, 40 * 32

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
    require("days", days, 1)
    for name, quantile in (("low", low), ("high", high), ("volume", volume)):
        require(name, quantile, 0, 1)
    names = "liq_imbalance_low", "liq_imbalance_high", "liq_total_high"
    bases = {"liq_base": "liq_{}", "liq_base_count": "liq_{}_count"}
    if not len(days_of) or not len(closes):
        return {name: np.full(len(days_of), np.nan) for name in (*names, *bases)}
    first = int(days_of[0]) - days
    # A candle belongs to the days from the first midnight at or after its close.
    day = -(-closes // DAY) - first - 1
    size = int(days_of[-1]) - first
    ratio, total = past["liq_imbalance"], past["liq_total"]
    counts = _Days(day, size, days)
    expected = counts.sums(np.ones(len(day)))
    observed = counts.sums(~np.isnan(total)) >= np.maximum(expected / 2, 1)
    enough = observed & (counts.sums(~np.isnan(ratio)) >= _LEAST)
    with np.errstate(divide="ignore", invalid="ignore"):
        octaves = np.log2(np.maximum(total, 1.0)) * _PER_OCTAVE
    bins = {
        # Mirrored, so that both sides are treated alike to the bit.
        names[0]: (counts.quantile((1 - ratio) * _RATIOS, _RATIOS, 1 - low), enough),
        names[1]: (counts.quantile(ratio * _RATIOS, _RATIOS, high), enough),
        names[2]: (counts.quantile(octaves, _VOLUMES, volume), observed),
    }
    values = {name: np.where(known, found, np.nan) for name, (found, known) in bins.items()}
    values[names[0]] = 1 - values[names[0]] / _RATIOS
    values[names[1]] = values[names[1]] / _RATIOS
    values[names[2]] = 2 ** (values[names[2]] / _PER_OCTAVE)
    for name, column in bases.items():
        sides = (
            counts.sums(np.nan_to_num(past[column.format(side)])) for side in ("long", "short")
        )
        values[name] = np.where(observed, imbalance(*sides), np.nan)
    rows = days_of - days_of[0]
    return {name: array[rows] for name, array in values.items()}


class _Days:
    """Add up candles by day, and days by window; the first window are the days from 0."""

    def __init__(self, day: Ints, size: int, window: int) -> None:
        inside = (day >= 0) & (day < size)
        self.inside = slice(None) if inside.all() else inside
        self.day, self.size, self.window = day[self.inside], size, window

    def sums(self, values: np.ndarray) -> Floats:
        """Sum values over the window before each day."""
        daily = np.bincount(self.day, values[self.inside], self.size).astype(np.float64)
        return window_sums(daily, self.window)[self.window - 1 :]

    def quantile(self, values: Floats, bins: int, share: float) -> Floats:
        """Find the bin within which the share of a window's values is reached; NaN is no value."""
        values = values[self.inside]
        known = ~np.isnan(values)
        column = np.minimum(values[known].astype(np.int64), bins - 1)
        flat = np.bincount(self.day[known] * bins + column, minlength=self.size * bins)
        # 32 bits are enough for candles, and half the work.
        within = np.cumsum(flat.reshape(self.size, bins), axis=1, dtype=np.int32)
        until = np.cumsum(within, axis=0, dtype=np.int32)
        until[self.window :] -= until[: -self.window].copy()
        until = until[self.window - 1 :]
        return np.sum(until < np.maximum(share * until[:, -1:], 1), axis=1).astype(np.float64)
