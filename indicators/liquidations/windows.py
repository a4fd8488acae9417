"""Windows of candles, exact and fast. Floor 0: numpy only.

Each window is worked out afresh, by one pass over all candles for each of its places: a running sum
leaves residues where an exact 0 is due, and depends on where the frame begins. That costs a pass a
place, so windows of some hundreds of candles are what these are for.
"""

from __future__ import annotations

import numpy as np

from liquidations.errors import require
from liquidations.event import Floats, Ints


def window_sums(values: Floats, window: int) -> Floats:
    """Sum each candle and the ``window - 1`` before it; NaN where any of them is NaN or missing.

    >>> window_sums(np.array([1.0, 2.0, np.nan, 4.0, 5.0]), 2).tolist()
    [nan, 3.0, nan, nan, 9.0]
    """
    require("window", window, 1)
    size = len(values)
    padded = np.concatenate((np.full(window - 1, np.nan), values))
    total = padded[:size].copy()
    for place in range(1, window):
        total += padded[place : place + size]
    return total


def count_below(values: Floats, window: int) -> Ints:
    """Count, among the ``window`` candles before each one, those with a smaller value.

    >>> count_below(np.array([3.0, 1.0, np.nan, 2.0, 9.0]), 3).tolist()
    [0, 0, 0, 1, 2]
    """
    require("window", window, 1)
    count = np.zeros(len(values), np.int64)
    for age in range(1, min(window, len(values) - 1) + 1):
        count[age:] += values[:-age] < values[age:]
    return count


def count_known(values: Floats, window: int) -> Ints:
    """Count, among the ``window`` candles before each one, those that are not NaN.

    >>> count_known(np.array([3.0, 1.0, np.nan, 2.0, 9.0]), 3).tolist()
    [0, 1, 2, 2, 2]
    """
    require("window", window, 1)
    before = np.concatenate(([0], np.cumsum(~np.isnan(values))))[:-1]
    first = np.maximum(np.arange(len(values)) - window, 0)
    return before - before[first]
