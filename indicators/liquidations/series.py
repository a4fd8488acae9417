"""What readings begin and end with: Series in, Series of the same index out. Floor 1.

In between they work on arrays, which takes a fraction of the time of the same on Series.
"""

from __future__ import annotations

from numbers import Real

import numpy as np
import pandas as pd

from liquidations.errors import LiquidationsError, require_whole
from liquidations.event import Floats, Ints


def array(values: pd.Series) -> np.ndarray:
    """Return the values of a Series, as float64 unless they are bool."""
    return values.to_numpy(dtype=None if values.dtype == bool else np.float64)


def column(dataframe: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of the candles, or say how to get it."""
    if name in dataframe.columns:
        return dataframe[name]
    cure = "they must be Freqtrade's candles"
    if name.startswith("liq_"):
        what = "context" if "interest" in name or "funding" in name else "liquidations"
        cure = f"add it first: dataframe = add_{what}(self, dataframe, metadata)"
    raise LiquidationsError(f"the candles have no column {name!r}; {cure}")


def bound(name: str, value: float | pd.Series, like: pd.Series) -> float | Floats:
    """Return a bound, one for all candles or one for each; its range is the caller's to check."""
    if isinstance(value, Real):
        return float(value)
    if not isinstance(value, pd.Series):
        raise LiquidationsError(f"{name} must be a number or a Series, got {value!r}")
    if not value.index.equals(like.index):
        raise LiquidationsError(
            f"{name} must have the index of the candles; take it from the same frame"
        )
    return array(value)


def series(values: np.ndarray, like: pd.Series | pd.DataFrame) -> pd.Series:
    """Return values as a Series with the index of the input."""
    return pd.Series(values, index=like.index, copy=False)


def signed(longs: np.ndarray, shorts: np.ndarray) -> Floats:
    """Return +1.0 where the longs, -1.0 where the shorts are meant, else 0.0."""
    return np.subtract(longs, shorts, dtype=np.float64)


def keep(side: Floats, where: np.ndarray) -> Floats:
    """Return the side where it is to be kept, else 0.0."""
    return side * where + 0.0  # -1.0 × False is -0.0


def shift(values: Floats, places: int = 1) -> Floats:
    """Move values to later candles; NaN comes in front."""
    return np.concatenate((np.full(places, np.nan), values))[: len(values)]


def before(values: Floats, rows: Ints, max_age: int) -> Floats:
    """Return, for each of the rows, the value in the row before it of the same list.

    0 for the first one, and where that row lies more than ``max_age`` candles back.

    >>> before(np.array([7.0, 0, 8.0, 0, 0, 9.0]), np.array([0, 2, 5]), 2).tolist()
    [0.0, 7.0, 0.0]
    """
    require_whole("max_age", max_age, 1)
    found = np.zeros(len(rows))
    found[1:] = np.where(np.diff(rows) <= max_age, values[rows[:-1]], 0.0)
    return found


def last_known(values: Floats, rows: Ints, max_age: int) -> Floats:
    """Return the value in the last of the rows that lies 1 to ``max_age`` candles back, else 0.

    >>> last_known(np.array([7.0, 0, 0, 0, 9.0, 0]), np.array([0, 4]), 2).tolist()
    [0.0, 7.0, 7.0, 0.0, 0.0, 9.0]
    """
    require_whole("max_age", max_age, 1)
    found = np.zeros(len(values))
    if len(rows):
        ages = np.diff(rows, append=len(values) - 1)
        age = np.arange(rows[0] + 1, len(values)) - np.repeat(rows, ages)
        found[rows[0] + 1 :] = np.repeat(values[rows], ages) * (age <= max_age)
    return found
