"""What Freqtrade knows beside the candles: open interest and funding; and its messages. Floor 4.

Freqtrade downloads and keeps these itself. A bot sees an open-interest row only once its hour is
over, because Freqtrade drops the row of the running one, and for a moment longer if the exchange is
slow with the next. So here a row counts for candles that close after its date plus its timeframe,
not for the one that closes just then; in backtests too, and both see the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from freqtrade.exceptions import OperationalException

from liquidations.candles import candle_closes, format_time, timeframe_ms
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, Floats, Ints
from liquidations.pairs import base_of
from liquidations.series import column
from liquidations.strategy import LIVE, frame_of, join, opens_of, warn_once


if TYPE_CHECKING:
    from freqtrade.strategy import IStrategy

#: How many of its own periods an open-interest row stands for the present.
_STALE = 3

#: Funding is settled every 1, 4 or 8 hours; a rate older than this is no longer known.
_STALE_FUNDING = DAY


def context_pairs(
    strategy: IStrategy, timeframe: str = "1h", *, pair: str | None = None
) -> list[tuple[str, str, str]]:
    """List the open-interest and funding candles that a bot must fetch for :func:`add_context`.

    Return it from the strategy's ``informative_pairs``; backtests read the files and need no list.

    :param timeframe: of the open interest
    :param pair: another pair, for example ``"BTC/USDT:USDT"``; default: the whole whitelist
    :return: (pair, timeframe, candle type) as Freqtrade wants them
    """
    pairs = [pair] if pair else strategy.dp.current_whitelist()
    return [
        (name, *kind)
        for name in pairs
        for kind in ((timeframe, "open_interest"), (_funding(strategy), "funding_rate"))
    ]


def add_context(
    strategy: IStrategy,
    dataframe: pd.DataFrame,
    metadata: Mapping[str, Any],
    timeframe: str | None = None,
    *,
    every: str = "1h",
    pair: str | None = None,
    suffix: str | None = None,
) -> pd.DataFrame:
    """Add open interest and funding rate to a strategy's candles, as far as they were known.

    Columns (all float64): ``liq_open_interest`` in USD and ``liq_open_interest_amount`` in base
    units, the state more than one period before the candle's close; ``liq_funding_rate``, the last
    rate settled by then. NaN where there is none, or none that is recent (three periods of open
    interest, a day of funding). Where an exchange tells the amount only, as Bybit does, the USD are
    amount × close, and the other way round.

    :param every: timeframe of the open-interest candles: ``freqtrade download-data
        --candle-types open_interest -t 1h`` gets them, ``liquidations download-data`` older ones;
        a bot needs :func:`context_pairs`
    :param strategy, dataframe, metadata, timeframe, pair, suffix: as in ``add_liquidations``
    :return: the candles with the columns, as a new frame: assign it
    :raises OperationalException: on a timeframe that is none; missing data are NaN, and the log
        names the command that gets them.
    """
    name = pair or metadata["pair"]
    try:
        frame = frame_of(strategy, metadata, timeframe)
        opens = opens_of(dataframe, frame)
        closes = candle_closes(opens, frame) if len(opens) else opens
        period = timeframe_ms(every)
        if period is None:
            raise LiquidationsError(f"open interest has no timeframe of months, got {every}")
        if suffix is None:
            suffix = base_of(pair).lower() if pair else ""
    except LiquidationsError as error:
        raise OperationalException(str(error)) from error
    interest = _load(strategy, name, every, "open_interest")
    rows = _latest(interest, closes, period, _STALE * period)
    amount = _take(interest, "open_interest_amount", rows)
    usd = _take(interest, "open_interest_value", rows)
    # Another pair's price is not in this frame.
    price = np.nan if pair and pair != metadata["pair"] else dataframe["close"].to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        table = {
            "liq_open_interest": np.where(np.isnan(usd), amount * price, usd),
            "liq_open_interest_amount": np.where(np.isnan(amount), usd / price, amount),
        }
    settled = _funding(strategy)
    funding = _load(strategy, name, settled, "funding_rate")
    rows = _latest(funding, closes, timeframe_ms(settled) or DAY, _STALE_FUNDING)
    table["liq_funding_rate"] = _take(funding, "funding_rate", rows)
    return join(dataframe, table, suffix)


def alert(
    strategy: IStrategy,
    dataframe: pd.DataFrame,
    metadata: Mapping[str, Any],
    signal: pd.Series,
    name: str = "capitulation",
) -> None:
    """Send a message through Freqtrade when a reading says something in the candle that closed.

    It goes where the bot's own messages go (Telegram, webhook, Discord; ``allow_custom_messages``
    must be on), once for each candle, in dry-run and live only; elsewhere nothing happens.

    :param dataframe: candles with ``liq_total`` and ``liq_imbalance``
    :param signal: a reading of the same candles; +1 speaks of longs, -1 of shorts, True of either;
        0, False and NaN say nothing
    :param name: what the message calls it
    """
    if strategy.config.get("runmode") not in LIVE or not len(signal):
        return
    says, last = signal.iloc[-1], dataframe.iloc[-1]
    if pd.isna(says) or not says:
        return
    side = "" if signal.dtype == bool else " of longs" if says > 0 else " of shorts"
    total, ratio = column(dataframe, "liq_total"), column(dataframe, "liq_imbalance")
    opened = format_time(last["date"].to_datetime64().astype("datetime64[ms]").astype(np.int64))
    strategy.dp.send_msg(
        f"{metadata['pair']}: {name}{side}, {total.iloc[-1]:,.0f} USD liquidated, "
        f"imbalance {ratio.iloc[-1]:.2f}, candle of {opened} UTC"
    )


def _funding(strategy: IStrategy) -> str:
    """Return the timeframe under which Freqtrade keeps funding rates."""
    return strategy.dp.get_funding_rate_timeframe()


def _load(strategy: IStrategy, pair: str, timeframe: str, candle_type: str) -> pd.DataFrame:
    frame = strategy.dp.get_pair_dataframe(pair, timeframe, candle_type)
    if frame.empty:
        live = strategy.config.get("runmode") in LIVE
        cure = (
            "let the strategy's informative_pairs return context_pairs(self)"
            if live
            else f"get them with: freqtrade download-data --trading-mode futures -p {pair} "
            f"-t {timeframe} --candle-types {candle_type}"
        )
        warn_once(f"{pair}: no {candle_type} candles of {timeframe}, its column is NaN; {cure}")
    return frame


def _latest(frame: pd.DataFrame, closes: Ints, period: int, stale: int) -> Ints:
    """Find the last row that was published by each close; -1 if none, or too old."""
    if frame.empty:
        return np.full(len(closes), -1)
    dates = frame["date"].to_numpy(dtype="datetime64[ms]").view(np.int64)
    # Settled funding is stamped some ms late at times; in a bot Freqtrade rounds that down.
    known = dates // period * period + period
    rows = np.searchsorted(known, closes, side="left") - 1
    return np.where((rows >= 0) & (closes - known[rows] <= stale), rows, -1)


def _take(frame: pd.DataFrame, column: str, rows: Ints) -> Floats:
    if frame.empty or column not in frame:
        return np.full(len(rows), np.nan)
    values = frame[column].to_numpy(dtype=np.float64)
    return np.where(rows >= 0, values[rows], np.nan)
