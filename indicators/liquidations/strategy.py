"""The door of a strategy: liquidation columns in its candles, in every run mode. Floor 4.

How Freqtrade calls a strategy decides the shape of this module:

- Plain functions, no mixin, and nothing kept on the strategy: ``hyperopt -j 2`` pickles it.
- ``lookahead-analysis`` compares a full frame with cut ones; it is blind to data from outside
  unless they are clamped to the close of the last candle given: so they always are.
- A bot's frame is short and is made anew for each candle: what looks far back comes from the store.
- The backtest cache knows neither data nor imported packages: see :func:`prepare_liquidations`.
- Dates are in ms in backtests and in µs in dry-run; only ``runmode`` tells bots from history.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pandas as pd
from freqtrade.configuration import config_secrets
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException

from liquidations.candles import (
    Candles,
    candle_closes,
    candle_opens,
    columns,
    format_time,
    longest_ms,
)
from liquidations.errors import LiquidationsError, require_whole
from liquidations.event import DAY, SIMULATED, Floats, Ints
from liquidations.pairs import base_of
from liquidations.provider import CORRECTED, MARKET, all_series, explain_nothing, provider_of
from liquidations.series import column
from liquidations.settings import (
    FINGERPRINT,
    SECTION,
    Settings,
    read_exchanges,
    read_settings,
    secret_keys,
)
from liquidations.thresholds import past_thresholds


if TYPE_CHECKING:
    from freqtrade.strategy import IStrategy

logger = logging.getLogger(__name__)

LIVE = (RunMode.DRY_RUN, RunMode.LIVE)

#: Between FreqAI's identifier and the fingerprint: a folder in the identifier's own.
_FREQAI = "/liquidations-"

# A backtest's archive holds the configuration as it was before any strategy was loaded, less what
# Freqtrade knows to be secret: so it is told. A test guards this internal name.
config_secrets._SENSITIVE_KEYS += [
    key for key in secret_keys() if key not in config_secrets._SENSITIVE_KEYS
]

_warned: set[str] = set()
_lock = threading.Lock()


def prepare_liquidations(config: dict[str, Any]) -> None:
    """Check the config section and let Freqtrade's backtest cache notice new liquidation data.

    Call it in the strategy's ``__init__``. Freqtrade reuses the result of an earlier backtest if
    the configuration and the strategy's file are the same, whatever happened to the data. This
    writes a fingerprint of the stored liquidations into the configuration, so that new data make a
    new backtest. FreqAI reuses its predictions by their identifier alone, so that gets it too.

    :param config: Freqtrade's configuration; ``config["liquidations"]["fingerprint"]`` is set
    :raises OperationalException: on a mistake in the section ``liquidations``.
    """
    try:
        settings = read_settings(config)
    except LiquidationsError as error:
        raise OperationalException(str(error)) from error
    if config.get("runmode") in LIVE:
        _collect(config, settings)
        return
    try:
        data = provider_of(settings.db_url).store.fingerprint()
    except LiquidationsError:
        # add_liquidations will say it, at a place where Freqtrade ends in one clean line.
        data = "no store"
    section = config.setdefault(SECTION, {})
    section[FINGERPRINT] = f"{version('freqtrade-liquidations')} {data}"
    freqai = config.get("freqai")
    if freqai and "identifier" in freqai and not config.get("freqai_backtest_live_models"):
        own, *_ = freqai["identifier"].partition(_FREQAI)
        freqai["identifier"] = f"{own}{_FREQAI}{crc32(section[FINGERPRINT].encode()):08x}"


def _collect(config: Mapping[str, Any], settings: Settings, pair: str | None = None) -> None:
    """Let this bot collect, if it is to."""
    from liquidations import live  # a backtest does without the collector

    live.start(config, settings, pair)


def add_liquidations(
    strategy: IStrategy,
    dataframe: pd.DataFrame,
    metadata: Mapping[str, Any],
    timeframe: str | None = None,
    *,
    informative: str | None = None,
    pair: str | None = None,
    suffix: str | None = None,
    exchanges: str | Iterable[str] | None = None,
    per_exchange: bool = False,
    n_eff: bool = False,
) -> pd.DataFrame:
    """Add the liquidation columns to a strategy's candles, the same in every run mode.

    Columns (all float64): ``liq_long``, ``liq_short``, ``liq_total`` in USD (0.0 = observed and
    none, NaN = not observed), ``liq_long_count``, ``liq_short_count`` (NaN where the source gives
    none), ``liq_imbalance`` = long / total in [0, 1] (NaN where the total is 0 or unknown),
    ``liq_coverage`` (share of the candle that was observed, mean over the exchanges). A candle's
    values depend on nothing after its close.

    :param strategy: the strategy, for its configuration
    :param dataframe: candles with the column ``date``
    :param metadata: as Freqtrade passes it to ``populate_indicators``
    :param timeframe: of the candles in ``dataframe``; default: the metadata's, then the strategy's
    :param informative: a higher timeframe, for example ``"4h"``, whose columns are added instead:
        each candle gets those of the last one that has closed; no candles of it are needed
    :param pair: read another pair's liquidations, for example ``"BTC/USDT:USDT"``, or those of the
        whole ``"market"``: all pairs that the store holds of the exchanges. Its coverage is their
        mean, and it is NaN where fewer than half of them were observed
    :param suffix: ends the columns' names; defaults to the base of ``pair`` and the ``informative``
        timeframe: ``liq_long_btc``, ``liq_long_4h``, ``liq_long_btc_4h``
    :param exchanges: ``"all"`` or some of them; default: the config's
    :param per_exchange: also add ``liq_long_binance`` and so on
    :param n_eff: also add ``liq_n_eff``, the effective number of liquidations, total² / Σ value²
    :return: the candles with the columns, as a new frame: assign it
    :raises OperationalException: in backtests, hyperopt, plots and analyses, if nothing is stored
        of the pair and time; in dry-run and live the columns are NaN then, and the log says so.
    """
    try:
        request = _Request(strategy, dataframe, metadata, timeframe, pair, exchanges)
        if per_exchange and request.pair == MARKET:
            raise LiquidationsError("the market is not told by exchange: leave out per_exchange")
        options = {"per_exchange": per_exchange, "squares": n_eff}
        if informative is None:
            table = request.columns(request.opens, request.timeframe, **options)
        else:
            higher, rows = _informative(request, informative)
            table = request.columns(higher, informative, past=True, **options)
            table = {name: array[rows] for name, array in table.items()}
    except LiquidationsError as error:
        raise OperationalException(str(error)) from error
    if suffix is None:
        suffix = "_".join(filter(None, (request.label, informative)))
    return join(dataframe, table, suffix)


def add_thresholds(
    strategy: IStrategy,
    dataframe: pd.DataFrame,
    metadata: Mapping[str, Any],
    timeframe: str | None = None,
    *,
    days: int = 30,
    low: float = 0.1,
    high: float = 0.9,
    volume: float = 0.8,
    pair: str | None = None,
    suffix: str | None = None,
    exchanges: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """Add thresholds that adapt to the pair: quantiles of its own past, read from the store.

    Columns: ``liq_imbalance_low`` and ``liq_imbalance_high``, beyond which lay at least a share of
    ``low`` and ``1 - high`` of the past ratios; ``liq_total_high``, which the total reached in at
    least ``1 - volume`` of the past candles; ``liq_base`` and ``liq_base_count``, the longs' share
    of all USD and of all liquidations (NaN where the source does not count). They change at 0:00
    UTC and know the ``days`` before it, so never the current candle, and are the same in a bot,
    whose frame is short, and in a backtest.
    NaN where less than half of those days was observed, or too few candles had a ratio (20).

    Give them to a reading: ``extreme(dataframe["liq_imbalance"], dataframe["liq_imbalance_high"],
    dataframe["liq_imbalance_low"])``.

    :param days: how far the past reaches; the store must hold them before the first candle
    :param low, high: quantiles of the ratio, from 0 to 1; they need not be symmetric
    :param volume: quantile of the total
    :param strategy, dataframe, metadata, timeframe, pair, suffix, exchanges: as in
        :func:`add_liquidations`
    :return: the candles with the columns, as a new frame: assign it
    :raises OperationalException: as :func:`add_liquidations` does, and on arguments out of range.
    """
    try:
        request = _Request(strategy, dataframe, metadata, timeframe, pair, exchanges)
        require_whole("days", days, 1)
        first, last = (request.opens[[0, -1]] // DAY) if len(request.opens) else (0, 0)
        start = (first - days) * DAY - longest_ms(request.timeframe)
        opens = candle_opens(start, last * DAY, request.timeframe)
        past = request.columns(opens, request.timeframe, past=True)
        table = past_thresholds(
            past,
            candle_closes(opens, request.timeframe),
            request.opens // DAY,
            days=days,
            low=low,
            high=high,
            volume=volume,
        )
    except LiquidationsError as error:
        raise OperationalException(str(error)) from error
    return join(dataframe, table, request.label if suffix is None else suffix)


def add_corrected(
    strategy: IStrategy,
    dataframe: pd.DataFrame,
    metadata: Mapping[str, Any],
    timeframe: str | None = None,
    *,
    pair: str | None = None,
    suffix: str | None = None,
    exchanges: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """Add each exchange's ratio, corrected for what a feed of one order a second hides.

    Columns, ending in ``_binance`` and so on: ``liq_imbalance_corrected``; ``liq_imbalance_lower``
    and ``liq_imbalance_upper``, its bounds; ``liq_saturation``, the share of occupied seconds in
    the fullest minute. ``liquidations.sampling.unsample`` says how, how well, and when it lies. It
    reads single orders, of the exchange's contract that stands for the pair: NaN where there are
    only bars, or less than ``min_coverage`` was observed. The bounds are NaN where nothing can be
    said, as of OKX, whose feed is partial; an exchange that publishes everything has its ratio.

    :param strategy, dataframe, metadata, timeframe, pair, suffix, exchanges: as in
        :func:`add_liquidations`
    :return: the candles with the columns, as a new frame: assign it
    :raises OperationalException: as :func:`add_liquidations` does.
    """
    try:
        request = _Request(strategy, dataframe, metadata, timeframe, pair, exchanges)
        table = request.corrected()
    except LiquidationsError as error:
        raise OperationalException(str(error)) from error
    return join(dataframe, table, request.label if suffix is None else suffix)


class _Request:
    """Work out what a call asks for: which candles, of which pair and exchanges."""

    def __init__(
        self,
        strategy: IStrategy,
        dataframe: pd.DataFrame,
        metadata: Mapping[str, Any],
        timeframe: str | None,
        pair: str | None,
        exchanges: str | Iterable[str] | None,
    ) -> None:
        config = strategy.config
        self.live = config.get("runmode") in LIVE
        self.pair = pair or metadata["pair"]
        self.label = "" if pair is None else MARKET if pair == MARKET else base_of(pair).lower()
        self.timeframe = frame_of(strategy, metadata, timeframe)
        self.settings = read_settings(config)
        if exchanges is not None:
            several = isinstance(exchanges, Iterable) and not isinstance(exchanges, str)
            chosen = list(exchanges) if several else exchanges
            self.settings = _with_exchanges(self.settings, read_exchanges(chosen, config))
        if self.live:
            _collect(config, self.settings, self.pair)
        self.opens = opens_of(dataframe, self.timeframe)
        if config.get("runmode") == RunMode.BACKTEST and FINGERPRINT not in config.get(SECTION, {}):
            warn_once(_NOT_PREPARED)

    def columns(
        self, opens: Ints, timeframe: str, *, past: bool = False, **options: bool
    ) -> dict[str, Floats]:
        """Read the columns; where nothing is stored, they are NaN in a bot and an error elsewhere.

        Candles of the ``past`` may lie before all that is stored of the pair.
        """
        try:
            return self._stored(opens, timeframe, past, options)
        except LiquidationsError as error:
            if not self.live:
                raise
            message = f"no liquidations for {self.pair}, the columns are NaN: {error}"
            warn_once(message, key=f"no liquidations for {self.pair}")
            return self._unobserved(len(opens), options)

    def corrected(self) -> dict[str, Floats]:
        """Read the corrected ratios; NaN where nothing is stored, which is an error as above."""
        nothing = np.full(len(self.opens), np.nan)
        unknown = {
            f"{name}_{exchange}": nothing
            for exchange in self.settings.exchanges
            for name in CORRECTED
        }
        if self.pair == MARKET:
            raise LiquidationsError("the market's feeds can't be corrected, only those of a pair")
        known = self.columns(self.opens, self.timeframe)
        if not len(self.opens) or np.isnan(known["liq_total"]).all():
            return unknown
        return provider_of(self.settings.db_url).corrected(
            self.pair, self.opens, self.timeframe, self.settings
        )

    def _stored(
        self, opens: Ints, timeframe: str, past: bool, options: dict[str, bool]
    ) -> dict[str, Floats]:
        if not len(opens):
            return self._unobserved(0, options)
        table, matched = provider_of(self.settings.db_url).columns(
            self.pair, opens, timeframe, self.settings, live=self.live, **options
        )
        if any(one.source == SIMULATED for one in all_series(matched)):
            warn_once("SIMULATED: the liquidations in this store are invented")
            if self.live and opens is self.opens:
                self._show(table)
        if np.all(np.isnan(table["liq_total"])):
            coverage = table["liq_coverage"]
            key = f"no {timeframe} candle of {self.pair}"
            try:
                message = explain_nothing(
                    self.pair, opens, timeframe, self.settings, matched, coverage
                )
            except LiquidationsError as error:
                if not past or not all_series(matched):
                    raise
                message = f"the columns of {timeframe} are NaN: {error}"
            warn_once(message, key)
        return table

    def _show(self, table: Mapping[str, Floats]) -> None:
        """Log the newest candle of a simulated market, so that one sees the columns fill."""
        values = {name: table[name][-1] for name in ("liq_long", "liq_short")}
        told = ", ".join(f"{name} {value:,.0f} USD" for name, value in values.items())
        shares = (f"{name} {table[name][-1]:.2f}" for name in ("liq_imbalance", "liq_coverage"))
        logger.info(
            f"SIMULATED {self.pair} {format_time(self.opens[-1])}: {told}, {', '.join(shares)}"
        )

    def _unobserved(self, size: int, options: dict[str, bool]) -> dict[str, Floats]:
        nothing = Candles.unobserved(size, squares=options.get("squares", False))
        exchanges = dict.fromkeys(self.settings.exchanges, nothing)
        return columns(exchanges, per_exchange=options.get("per_exchange", False))


def _informative(request: _Request, timeframe: str) -> tuple[Ints, Ints]:
    """Return the opens of the higher candles, and which one has closed last before each close."""
    if not len(request.opens):
        return request.opens, request.opens
    closes = candle_closes(request.opens, request.timeframe)
    length = longest_ms(timeframe)
    if length < longest_ms(request.timeframe):
        raise LiquidationsError(
            f"informative must be a higher timeframe than {request.timeframe}, got {timeframe}"
        )
    # Two candles back, so that one has closed before the first close.
    opens = candle_opens(request.opens[0] - 2 * length, closes[-1], timeframe)
    opens = opens[candle_closes(opens, timeframe) <= closes[-1]]
    return opens, np.searchsorted(candle_closes(opens, timeframe), closes, side="right") - 1


def frame_of(strategy: IStrategy, metadata: Mapping[str, Any], timeframe: str | None) -> str:
    """Tell the timeframe of the candles that Freqtrade gives."""
    return timeframe or metadata.get("timeframe") or metadata.get("tf") or strategy.timeframe


def opens_of(dataframe: pd.DataFrame, timeframe: str) -> Ints:
    """Return the candles' opens in int64 ms, and refuse a timeframe that would reach past them."""
    # Backtests give dates in ms, dry-run in µs; naive datetime64 is UTC here.
    opens = column(dataframe, "date").to_numpy(dtype="datetime64[ms]").view(np.int64)
    closes = candle_closes(opens, timeframe)
    if np.any(opens[1:] < closes[:-1]):
        raise LiquidationsError(
            f"the candles are closer together than {timeframe}: their liquidations would come from "
            "the future; give the timeframe of the candles in the dataframe"
        )
    return opens


def join(dataframe: pd.DataFrame, table: dict[str, Floats], suffix: str = "") -> pd.DataFrame:
    """Return the candles with the columns, whose names end in the suffix; old ones are replaced."""
    if suffix:
        table = {f"{column}_{suffix}": array for column, array in table.items()}
    names = dataframe.columns.tolist()
    if again := [column for column in names if column in table]:
        dataframe = dataframe.drop(columns=again)
        names = dataframe.columns.tolist()
    # One concat is faster than seven insertions, and leaves no fragmented frame. pandas takes
    # longer to join two lists of names than to copy the numbers, so it is given the joined one.
    # Short columns are copied into one block, which costs pandas less than to handle them singly.
    arrays = list(table.values())
    data = np.stack(arrays).T if len(dataframe) < 10_000 else dict(enumerate(arrays))
    added = pd.DataFrame(data, index=dataframe.index, copy=False)
    joined = pd.concat([dataframe, added], axis=1, ignore_index=True)
    joined.columns = _names((*names, *table)).copy()
    return joined


@lru_cache(maxsize=64)
def _names(columns: tuple[str, ...]) -> pd.Index:
    """Return an index of names; copy it, or who names it names it for all frames."""
    return pd.Index(columns)


def warn_once(message: str, key: str = "") -> None:
    """Log a message once; with a key, once of its kind, whatever the times in its text."""
    with _lock:
        if (key or message) in _warned:
            return
        _warned.add(key or message)
    logger.warning(message)


_NOT_PREPARED = (
    "Freqtrade can't see when liquidation data change and may show the result of an earlier "
    "backtest. Call prepare_liquidations(config) in the strategy's __init__, "
    "or run with --cache none."
)


def _with_exchanges(settings: Settings, exchanges: tuple[str, ...]) -> Settings:
    least = min(settings.min_exchanges, len(exchanges))
    return replace(settings, exchanges=exchanges, min_exchanges=least)
