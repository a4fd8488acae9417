"""Readings of the columns: Series in, Series of the same index out. Floor 1."""

from __future__ import annotations

import pandas as pd

from liquidations.errors import LiquidationsError


def high_volume(total: pd.Series, window: int = 48, threshold: float = 0.8) -> pd.Series:
    """Tell where a candle's liquidations are high against its own past.

    :param total: ``liq_total`` in USD
    :param window: in candles; the current one is not part of its own measure
    :param threshold: quantile of the window, 0 to 1, that must be exceeded
    :return: bool Series; False where the candle, or half of its window, was not observed

    >>> high_volume(pd.Series([1.0, 2.0, 3.0, 9.0, 2.0]), window=3, threshold=0.5).tolist()
    [False, False, True, True, False]
    """
    if window < 2 or not 0 <= threshold <= 1:
        raise LiquidationsError(
            f"window must be 2 candles or more and threshold 0 to 1, got {window} and {threshold}"
        )
    past = total.shift(1).rolling(window, min_periods=(window + 1) // 2)
    return total > past.quantile(threshold)
