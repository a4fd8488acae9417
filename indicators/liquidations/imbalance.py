"""The ratio itself. Floor 1: numpy and pandas only, usable in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import pandas as pd

from liquidations.errors import LiquidationsError, require
from liquidations.event import Floats
from liquidations.exchanges import EXCHANGES
from liquidations.windows import count_known, past_mean, window_sums


Values = TypeVar("Values", Floats, pd.Series)

#: How much each exchange counts: a rule's name, or a number or a Series for each exchange.
Weights: TypeAlias = str | Mapping[str, float | pd.Series]


def imbalance(long: Floats, short: Floats) -> Floats:
    """Divide the long liquidations by all liquidations.

    :param long: USD of long positions liquidated; NaN = not observed
    :param short: the same of short positions, of the same shape
    :return: long / (long + short) in [0, 1]; 0.5 is balance, above, longs are being punished;
        NaN where nothing was liquidated (0/0 is not 0.5) or nothing was observed
    """
    total = long + short
    total[~(total > 0)] = np.nan  # np.where takes four times as long
    return long / total


def effective_count(total: Values, squares: Values) -> Values:
    """Count how many equal liquidations would be as much evidence as these.

    (sum of v)² / sum of v², L. Kish's effective sample size (Survey Sampling, 1965). One that is
    worth as much as a thousand small ones leaves hardly more than one.

    :param total: USD liquidated, arrays or Series of one length
    :param squares: the sum of the squares of the single values, USD²
    :return: from 1 to the number of liquidations; NaN where nothing was liquidated, or the single
        values are unknown

    >>> effective_count(np.array([4.0, 4.0, 0.0]), np.array([4.0, 10.0, 0.0])).tolist()
    [4.0, 1.6, nan]
    """
    return total * total / np.where(squares > 0, squares, np.nan)


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


def exchange_imbalance(
    dataframe: pd.DataFrame,
    weights: Weights = "equal",
    exchanges: Sequence[str] | None = None,
    window: int = 48,
) -> pd.Series:
    """Average the exchanges' own ratios, for exchanges whose volumes can't be added.

    One exchange publishes a sample, the other everything: the sum of their USD is mostly the
    latter. Each ratio is taken first, then their weighted mean over the exchanges that have one in
    the candle. What is left out hands its weight to the others, so the mean may move although no
    exchange did; and with equal weights an exchange's single order of 10 USD is a full vote.

    :param dataframe: candles with ``liq_imbalance_binance`` and so on, as
        ``add_liquidations(…, per_exchange=True)`` adds them
    :param weights: ``"equal"``; ``"observed"``: each exchange's own mean of ``liq_total_binance``
        over the observed candles of its past window, so that the candle itself does not set its
        weight (weighted by the candle's own USD it would be the plain ratio again); or a number or
        a Series for each exchange, such as its open interest, not negative
    :param exchanges: which to use; default all that the frame has
    :param window: of ``"observed"``, in candles; the current one is not part of it
    :return: Series in [0, 1]; an exchange without a ratio, or whose weight is 0 or unknown (NaN, or
        half of its window not observed), is left out of the candle; NaN where none is left
    :raises LiquidationsError: on an exchange without columns or without a weight

    >>> frame = pd.DataFrame({"liq_imbalance_okx": [0.9, 0.8], "liq_imbalance_bybit": [0.4, None]})
    >>> exchange_imbalance(frame).round(2).tolist()
    [0.65, 0.8]
    >>> exchange_imbalance(frame, {"okx": 1.0, "bybit": 4.0}).round(2).tolist()
    [0.5, 0.8]
    """
    chosen = _exchanges(dataframe, exchanges)
    parts = [_weighted(dataframe, exchange, weights, window) for exchange in chosen]
    return pd.Series(_mean(parts), index=dataframe.index)


def leave_one_out(
    dataframe: pd.DataFrame,
    weights: Weights = "equal",
    exchanges: Sequence[str] | None = None,
    window: int = 48,
) -> pd.DataFrame:
    """Repeat :func:`exchange_imbalance` with one exchange left out at a time.

    If an extreme is gone without one exchange, that exchange was the extreme. Where all of them
    agree no single feed, and no single mistake in one, made it: see ``robust_extreme``.

    :param dataframe, weights, exchanges, window: of :func:`exchange_imbalance`
    :return: a column ``liq_imbalance_without_binance`` for each exchange, in [0, 1]; NaN where no
        other exchange has a ratio and a weight

    >>> frame = pd.DataFrame({"liq_imbalance_okx": [0.9, 0.8], "liq_imbalance_bybit": [0.4, None]})
    >>> leave_one_out(frame)["liq_imbalance_without_okx"].tolist()
    [0.4, nan]
    """
    chosen = _exchanges(dataframe, exchanges)
    parts = [_weighted(dataframe, exchange, weights, window) for exchange in chosen]
    columns = {
        f"liq_imbalance_without_{exchange}": _mean(parts[:place] + parts[place + 1 :])
        for place, exchange in enumerate(chosen)
    }
    return pd.DataFrame(columns, index=dataframe.index)


def _exchanges(dataframe: pd.DataFrame, exchanges: Sequence[str] | None) -> Sequence[str]:
    """Return the exchanges to use, all of which have a ratio in the frame."""
    there = [name for name in EXCHANGES if f"liq_imbalance_{name}" in dataframe.columns]
    chosen = (
        there if exchanges is None else [exchanges] if isinstance(exchanges, str) else exchanges
    )
    for name in chosen:
        _column(dataframe, "liq_imbalance", name)
    if not chosen:
        raise LiquidationsError(
            "no exchange was chosen, or the candles have no columns of single exchanges; "
            "add them with add_liquidations(…, per_exchange=True)"
        )
    return chosen


def _column(dataframe: pd.DataFrame, name: str, exchange: str) -> Floats:
    """Return an exchange's column, or say which exchanges the frame has."""
    column = f"{name}_{exchange}"
    if column not in dataframe.columns:
        there = ", ".join(one for one in EXCHANGES if f"{name}_{one}" in dataframe.columns)
        raise LiquidationsError(
            f"the candles have no {column!r}; there are exchanges: {there or 'none'}; "
            "add them with add_liquidations(…, per_exchange=True)"
        )
    return dataframe[column].to_numpy(dtype=np.float64)


def _weighted(
    dataframe: pd.DataFrame, exchange: str, weights: Weights, window: int
) -> tuple[Floats, Floats]:
    """Return an exchange's ratio times its weight, and the weight; both 0 where it is left out."""
    ratio = _column(dataframe, "liq_imbalance", exchange)
    weight = _weight(dataframe, exchange, weights, window)
    used = ~np.isnan(ratio) & (weight > 0)
    return np.where(used, ratio * weight, 0.0), np.where(used, weight, 0.0)


def _weight(
    dataframe: pd.DataFrame, exchange: str, weights: Weights, window: int
) -> float | Floats:
    if isinstance(weights, str):
        if weights == "equal":
            return 1.0
        if weights == "observed":
            total = _column(dataframe, "liq_total", exchange)
            enough = count_known(total, window) >= (window + 1) // 2
            return np.where(enough, past_mean(total, window), np.nan)
        raise LiquidationsError(
            f"weights must be 'equal', 'observed' or a weight for each exchange, got {weights!r}"
        )
    if exchange not in weights:
        raise LiquidationsError(
            f"weights has none for {exchange!r}, only for {', '.join(weights) or 'no exchange'}; "
            "give one for each exchange, or choose with exchanges=[…]"
        )
    weight = weights[exchange]
    if not isinstance(weight, pd.Series):
        require(f"weights[{exchange!r}]", weight, 0)
        return float(weight)
    if not weight.index.equals(dataframe.index):
        raise LiquidationsError(
            f"weights[{exchange!r}] must have the index of the candles; take it from the same frame"
        )
    return weight.to_numpy(dtype=np.float64)


def _mean(parts: Sequence[tuple[Floats, Floats]]) -> Floats | float:
    """Divide the sum of the weighted ratios by that of the weights; of no exchange NaN."""
    if not parts:
        return np.nan
    total, weight = (sum(arrays[1:], arrays[0]) for arrays in zip(*parts, strict=True))
    return total / np.where(weight > 0, weight, np.nan)
