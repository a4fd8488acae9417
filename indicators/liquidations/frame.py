"""Candles with all columns, outside of a strategy: for charts and studies. Floor 4.

The columns are those of a backtest: what was known when each candle closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType, RunMode

from liquidations.archives import outranks
from liquidations.candles import candle_closes, format_time
from liquidations.context import add_context
from liquidations.errors import LiquidationsError
from liquidations.event import SIMULATED, Ints
from liquidations.exchanges import EXCHANGES, KINDS, regimes_within
from liquidations.freqtrade_data import Missing, commands, funding_timeframe
from liquidations.provider import all_series, explain_nothing, provider_of
from liquidations.settings import Settings
from liquidations.strategy import join, opens_of


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Hold candles with their columns, and what is to be said of them.

    :param frame: candles, the liquidation columns, open interest and funding
    :param start: when the first candle opens that was asked for (ms UTC)
    :param simulated: the liquidations are invented
    :param bounds: exchange → [(from, to, what it shows)] in ms UTC where that is less than all
    :param lacking: lines that get what is missing
    """

    frame: pd.DataFrame
    start: int
    simulated: bool
    bounds: Mapping[str, list[tuple[int, int, str]]]
    lacking: list[str]


def read_frame(
    config: Mapping[str, Any],
    settings: Settings,
    pair: str,
    timeframe: str,
    start: int = 0,
    end: int = 0,
    *,
    before: int = 0,
    per_exchange: bool = False,
    args: Mapping[str, Any] | None = None,
) -> Frame:
    """Read a pair's candles from Freqtrade's files, and add all columns.

    :param config: Freqtrade's configuration: the exchange, ``datadir`` and the data format
    :param start, end: of the candles' opens, ms UTC; 0 = as far as both candles and liquidations go
    :param before: read also the candles of so many ms before, for readings that look back
    :param per_exchange: also add ``liq_long_binance`` and so on
    :param args: of the command line, for the lines that get what is missing
    :raises LiquidationsError: if there are no candles, or no liquidations, of that time.
    """
    provider = provider_of(settings.db_url)
    first, last = provider.span(pair, settings)
    start, end = start or first, end or last
    candles = _load(config, pair, timeframe, CandleType.FUTURES)
    dates = _ms(candles)
    if not ((dates >= start) & (dates < end)).any():
        there = "there are none"
        if len(dates):
            there = f"they go from {format_time(dates[0])} to {format_time(dates[-1])}"
        line = commands([Missing(pair, timeframe, "futures", start, end)], config, args)
        raise LiquidationsError(
            f"no {timeframe} candles of {pair} in {config['datadir']} from {format_time(start)} "
            f"to {format_time(end)}, {there}; get them with: {'; '.join(line)}"
        )
    candles = candles[(dates >= start - before) & (dates < end)].reset_index(drop=True)
    opens = opens_of(candles, timeframe)
    table, matched = provider.columns(pair, opens, timeframe, settings, per_exchange=per_exchange)
    asked = opens >= start
    if np.isnan(table["liq_total"][asked]).all():
        coverage = table["liq_coverage"][asked]
        raise LiquidationsError(
            explain_nothing(pair, opens[asked], timeframe, settings, matched, coverage)
        )
    frame = _with_context(config, join(candles, table), pair, timeframe)
    lacking = [
        Missing(pair, every, kind, int(opens[0]), int(opens[-1]))
        for kind, every, name in (
            ("open_interest", "1h", "liq_open_interest"),
            ("funding_rate", funding_timeframe(config), "liq_funding_rate"),
        )
        if frame[name][asked].isna().all()
    ]
    chosen = provider.chosen(pair, opens[asked], timeframe, settings)
    return Frame(
        frame,
        start,
        any(one.source == SIMULATED for one in all_series(matched)),
        _bounds(chosen, opens[asked], timeframe),
        commands(lacking, config, args),
    )


def name_exchange(config: Mapping[str, Any], args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Let ``--exchange`` name whose data Freqtrade keeps where the configuration names none.

    The flag may name several exchanges or all; then nothing is known of it. Freqtrade's own folder
    of an exchange's data takes the place of the folder of all, unless ``--datadir`` was given.

    :param args: of the command line
    :return: the configuration, or a copy with the name
    """
    args, exchange = args or {}, dict(config.get("exchange") or {})
    asked = args.get("exchange") or ""
    if exchange.get("name") or asked not in EXCHANGES:
        return dict(config)
    named = {**config, "exchange": {**exchange, "name": asked}}
    folder, users = config.get("datadir"), config.get("user_data_dir")
    if folder and users and not args.get("datadir") and Path(folder) == Path(users) / "data":
        named["datadir"] = Path(folder) / asked
    return named


def _load(config: Mapping[str, Any], pair: str, timeframe: str, kind: str) -> pd.DataFrame:
    folder = Path(config["datadir"])
    handler = get_datahandler(folder, config.get("dataformat_ohlcv", "feather"))
    return handler.ohlcv_load(
        pair,
        timeframe,
        CandleType.from_string(kind),
        fill_missing=False,
        drop_incomplete=False,
        warn_no_data=False,
    )


def _ms(frame: pd.DataFrame) -> Ints:
    return frame["date"].to_numpy(dtype="datetime64[ms]").view(np.int64)


def _with_context(
    config: Mapping[str, Any], frame: pd.DataFrame, pair: str, timeframe: str
) -> pd.DataFrame:
    data = SimpleNamespace(
        get_pair_dataframe=lambda *asked: _load(config, *asked),
        get_funding_rate_timeframe=lambda: funding_timeframe(config),
    )
    reader = SimpleNamespace(
        config={**config, "runmode": RunMode.PLOT}, dp=data, timeframe=timeframe
    )
    return add_context(cast(Any, reader), frame, {"pair": pair})


def _bounds(
    chosen: Mapping[str, np.ndarray], opens: Ints, timeframe: str
) -> dict[str, list[tuple[int, int, str]]]:
    """Tell where each exchange showed less than was liquidated, by what candles were taken from."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    closes = candle_closes(opens, timeframe)
    for contract, names in chosen.items():
        exchange = contract.partition(" ")[0]
        sources = pd.Series(names).str.rpartition(" ")[0]
        less = [one for one in sources.unique() if one not in ("", SIMULATED) and not outranks(one)]
        rows = np.flatnonzero(sources.isin(less))
        if len(rows):
            for one in regimes_within(exchange, int(opens[rows[0]]), int(closes[rows[-1]])):
                told = found.setdefault(exchange, [])
                if one[2] != "complete" and one not in told:
                    told.append(one)
    return {exchange: told for exchange, told in found.items() if told}


def tell_bounds(bounds: Mapping[str, list[tuple[int, int, str]]]) -> list[str]:
    """Say of each exchange where its volumes are a lower bound."""
    return [
        f"{exchange} shows {KINDS[kind]} ({format_time(first)} ... {format_time(last)}): "
        "volumes are a lower bound (≥)"
        for exchange, told in bounds.items()
        for first, last, kind in told
    ]
