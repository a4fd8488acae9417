"""Windows of candles, exact and fast. Floor 0: numpy only.

No running sums: they leave residues where an exact 0 is due, and depend on where the frame begins.
Here a candle's result depends on nothing but its own window, to the bit.
"""

from __future__ import annotations

import numpy as np

from liquidations.errors import require_whole
from liquidations.event import Floats, Ints


def window_sums(values: Floats, window: int) -> Floats:
    """Sum each candle and the ``window - 1`` before it; NaN where any of them is NaN or missing.

    >>> window_sums(np.array([1.0, 2.0, np.nan, 4.0, 5.0]), 2).tolist()
    [nan, 3.0, nan, nan, 9.0]
    """
    require_whole("window", window, 1)
    size = len(values)
    # Sums of 1, 2, 4, … neighbours; those that make up the window are added.
    block = np.concatenate((np.full(window - 1, np.nan), values))
    total = np.zeros(size)
    begin, width = 0, 1
    while width <= window:
        if window & width:
            total += block[begin : begin + size]
            begin += width
        if 2 * width <= window:
            block = block[:-width] + block[width:]
        width *= 2
    return total


def count_below(values: Floats, window: int) -> Ints:
    """Count, among the ``window`` candles before each one, those with a smaller value.

    It takes a pass over all candles for each place of the window.

    >>> count_below(np.array([3.0, 1.0, np.nan, 2.0, 9.0]), 3).tolist()
    [0, 0, 0, 1, 2]
    """
    require_whole("window", window, 1)
    # Small numbers are counted in half the time.
    count: Ints = np.zeros(len(values), np.int16 if window < 2**15 else np.int64)
    for age in range(1, min(window, len(values) - 1) + 1):
        count[age:] += values[:-age] < values[age:]
    return count.astype(np.int64)


def count_known(values: Floats, window: int) -> Ints:
    """Count, among the ``window`` candles before each one, those that are not NaN.

    >>> count_known(np.array([3.0, 1.0, np.nan, 2.0, 9.0]), 3).tolist()
    [0, 1, 2, 2, 2]
    """
    require_whole("window", window, 1)
    before = np.concatenate(([0], np.cumsum(~np.isnan(values))))[:-1]
    count = before.copy()
    count[window:] -= before[:-window]
    return count


def past_mean(values: Floats, window: int) -> Floats:
    """Average the known values among the ``window`` before each one; NaN where none is known.

    >>> past_mean(np.array([1.0, 3.0, np.nan, 5.0]), 2).tolist()
    [nan, 1.0, 2.0, 3.0]
    """
    known = count_known(values, window)
    padded = np.concatenate((np.zeros(window), np.nan_to_num(values)))
    sums = window_sums(padded, window)[window - 1 : -1]
    return sums / np.where(known > 0, known, np.nan)
