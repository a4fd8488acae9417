"""The ratio itself. Floor 1: numpy and pandas only, usable in a notebook."""

from __future__ import annotations

import numpy as np
import pandas as pd

from liquidations.event import Floats
from liquidations.windows import window_sums


def imbalance(long: Floats, short: Floats) -> Floats:
    """Divide the long liquidations by all liquidations.

    :param long: USD of long positions liquidated; NaN = not observed
    :param short: the same of short positions, of the same shape
    :return: long / (long + short) in [0, 1]; 0.5 is balance, above, longs are being punished;
        NaN where nothing was liquidated (0/0 is not 0.5) or nothing was observed
    """
    total = long + short
    return long / np.where(total > 0, total, np.nan)


def window_imbalance(long: pd.Series, short: pd.Series, window: int) -> pd.Series:
    """Divide the sums over a window: the ratio of the sums, never the mean of the ratios.

    Twelve quiet bars and one cascade read 0.94 this way and 0.48 as a mean of ratios.

    :param long: ``liq_long``
    :param short: ``liq_short``, of the same index
    :param window: in candles, the current one included
    :return: Series in [0, 1]; NaN where any candle of the window was not observed, or nothing was
        liquidated in it

    >>> long, short = pd.Series([0.0, 90.0, 1.0]), pd.Series([10.0, 0.0, 9.0])
    >>> window_imbalance(long, short, 2).round(2).tolist()
    [nan, 0.9, 0.91]
    """
    sums = (window_sums(side.to_numpy(dtype=np.float64), window) for side in (long, short))
    return pd.Series(imbalance(*sums), index=long.index)
