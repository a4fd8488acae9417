"""Between the store and Freqtrade: the columns of a pair's candles, in every run mode. Floor 4.

How Freqtrade calls a strategy decides the shape of this module:

- ``hyperopt -j 2`` and the analyses pickle strategies: so nothing lives on the strategy; providers
  live in a registry of this module, one for each store and process.
- ``lookahead-analysis`` compares a full frame with cut ones; it is blind to data from outside
  unless they are clamped to the close of the last candle given: so they always are.
- The backtest cache knows neither data nor imported packages: see :func:`prepare_liquidations`.
- Dates are in ms in backtests and in µs in dry-run; only ``runmode`` tells bots from history.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException

from liquidations.candles import (
    Candles,
    Source,
    add_contracts,
    best_source,
    candle_closes,
    columns,
    format_period,
    format_time,
)
from liquidations.errors import LiquidationsError
from liquidations.event import SIMULATED, Floats, Ints, covered_share
from liquidations.pairs import base_of, match
from liquidations.settings import (
    FINGERPRINT,
    SECTION,
    Settings,
    read_exchanges,
    read_settings,
)
from liquidations.store import Reader, Series, Store


if TYPE_CHECKING:
    from freqtrade.strategy import IStrategy

logger = logging.getLogger(__name__)

#: Bytes of bars that a process keeps; the analyses ask for the same stretch again and again.
CACHE_BYTES = 256 * 2**20

_LIVE = (RunMode.DRY_RUN, RunMode.LIVE)


class LiquidationProvider:
    """Read the columns of candles from one store.

    Threads may share a provider. A pickled provider opens its store anew.
    """

    def __init__(self, db_url: str) -> None:
        self.db_url = db_url
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._cache: OrderedDict[int, tuple[tuple[int, int, int], Source]] = OrderedDict()

    def __getstate__(self) -> dict[str, str]:
        return {"db_url": self.db_url}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.db_url = state["db_url"]
        self._open()

    @property
    def store(self) -> Store:
        """Return the store, opened when it is first asked for, and again if its file is another."""
        with self._lock:
            if self._store is not None and self._store.replaced():
                self._store.close()
                self._store = None
                self._cache.clear()
            if self._store is None:
                self._store = Store(self.db_url)
            return self._store

    def close(self) -> None:
        """Close the store and empty the cache; both come back when they are asked for."""
        with self._lock:
            store, self._store = self._store, None
            self._cache.clear()
        if store is not None:
            store.close()

    def columns(
        self,
        pair: str,
        opens: Ints,
        timeframe: str,
        settings: Settings,
        *,
        per_exchange: bool = False,
    ) -> tuple[dict[str, Floats], Matched]:
        """Sum the liquidations of a pair's base over candles.

        :param pair: as Freqtrade writes it; on each exchange the contract of the same base is read
        :param opens: when the candles open, int64 ms UTC, increasing
        :return: column → float64 array of the length of ``opens``, NaN where unobserved; and what
            was matched
        :raises LiquidationsError: if there is no store, or it can't be read.
        """
        closes = candle_closes(opens, timeframe)
        with self.store.read() as reader:
            matched = find(reader, pair, settings)
            exchanges = {}
            for exchange, contracts in matched.items():
                parts = [
                    best_source(
                        [self._source(reader, one, opens[0], closes[-1]) for one in series],
                        opens,
                        closes,
                        settings.min_coverage,
                    )[0]
                    for series in contracts.values()
                ]
                exchanges[exchange] = (
                    add_contracts(parts) if parts else Candles.unobserved(len(opens))
                )
        table = columns(
            exchanges,
            min_coverage=settings.min_coverage,
            min_exchanges=settings.min_exchanges,
            per_exchange=per_exchange,
        )
        return table, matched

    def span(self, pair: str, settings: Settings) -> tuple[int, int]:
        """Return from when to when (ms) anything was observed of what stands for the pair.

        :raises LiquidationsError: if nothing is stored of it.
        """
        with self.store.read() as reader:
            spans = [reader.coverage(one) for one in all_series(find(reader, pair, settings))]
        known = [span for span in spans if len(span)]
        if not known:
            raise LiquidationsError(_nothing_stored(pair, settings))
        return min(int(span[0, 0]) for span in known), max(int(span[-1, 1]) for span in known)

    def _source(self, reader: Reader, series: Series, start: int, end: int) -> Source:
        """Load what a series holds of ``[start, end)``, or take it from the cache."""
        with self._lock:
            known = self._cache.get(series.id)
            if known is not None:
                (digest, first, last), source = known
                if digest == series.digest and first <= start and end <= last:
                    self._cache.move_to_end(series.id)
                    return source
        held = reader.bars_and_coverage(series, start, end)
        source = Source(series.source, series.period, *held, counted=series.counted)
        with self._lock:
            self._cache[series.id] = ((series.digest, start, end), source)
            self._cache.move_to_end(series.id)
            while self._cache and self._size() > CACHE_BYTES:
                self._cache.popitem(last=False)
        return source

    def _size(self) -> int:
        return sum(
            array.nbytes
            for _, source in self._cache.values()
            for array in source.bars.arrays().values()
        )


#: Exchange → pair of the contract that was matched → its series, one for each source and period.
Matched = dict[str, dict[str, list[Series]]]


def find(reader: Reader, pair: str, settings: Settings) -> Matched:
    """Find which contracts stand for the pair's base on each chosen exchange, and their sources."""
    stored = reader.series(base=base_of(pair))
    matched: Matched = {}
    for exchange in settings.exchanges:
        own = [one for one in stored if one.exchange == exchange]
        names = match(pair, [one.pair for one in own], inverse=settings.inverse)
        matched[exchange] = {name: [one for one in own if one.pair == name] for name in names}
    return matched


def all_series(matched: Matched) -> list[Series]:
    """List the series of what was matched."""
    return [
        one for contracts in matched.values() for series in contracts.values() for one in series
    ]


_providers: dict[tuple[int, str], LiquidationProvider] = {}
_warned: set[str] = set()
_registry = threading.Lock()


def provider_of(db_url: str) -> LiquidationProvider:
    """Return this process's provider for a store; a forked process gets its own."""
    with _registry:
        key = os.getpid(), db_url
        if key not in _providers:
            _providers[key] = LiquidationProvider(db_url)
        return _providers[key]


def _warn_once(message: str, key: str = "") -> None:
    """Log a message once; with a key, once of its kind, whatever the times in its text."""
    with _registry:
        if (key or message) in _warned:
            return
        _warned.add(key or message)
    logger.warning(message)


def prepare_liquidations(config: dict[str, Any]) -> None:
    """Check the config section and let Freqtrade's backtest cache notice new liquidation data.

    Call it in the strategy's ``__init__``. Freqtrade reuses the result of an earlier backtest if
    the configuration and the strategy's file are the same, whatever happened to the data. This
    writes a fingerprint of the stored liquidations into the configuration, so that new data make a
    new backtest.

    :param config: Freqtrade's configuration; ``config["liquidations"]["fingerprint"]`` is set
    :raises OperationalException: on a mistake in the section ``liquidations``.
    """
    try:
        settings = read_settings(config)
    except LiquidationsError as error:
        raise OperationalException(str(error)) from error
    if config.get("runmode") in _LIVE:
        return
    try:
        data = provider_of(settings.db_url).store.fingerprint()
    except LiquidationsError:
        # add_liquidations will say it, at a place where Freqtrade ends in one clean line.
        data = "no store"
    section = config.setdefault(SECTION, {})
    section[FINGERPRINT] = f"{version('freqtrade-liquidations')} {data}"


def add_liquidations(
    strategy: IStrategy,
    dataframe: pd.DataFrame,
    metadata: Mapping[str, Any],
    timeframe: str | None = None,
    *,
    pair: str | None = None,
    suffix: str | None = None,
    exchanges: str | Iterable[str] | None = None,
    per_exchange: bool = False,
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
    :param pair: read another pair's liquidations, for example ``"BTC/USDT:USDT"``
    :param suffix: ends the columns' names; with ``pair`` it defaults to the base: ``liq_long_btc``
    :param exchanges: ``"all"`` or some of them; default: the config's
    :param per_exchange: also add ``liq_long_binance`` and so on
    :return: the candles with the columns, as a new frame: assign it
    :raises OperationalException: in backtests, hyperopt, plots and analyses, if nothing is stored
        of the pair and time; in dry-run and live the columns are NaN then, and the log says so.
    """
    config = strategy.config
    live = config.get("runmode") in _LIVE
    name = pair or metadata["pair"]
    frame = timeframe or metadata.get("timeframe") or metadata.get("tf") or strategy.timeframe
    try:
        if suffix is None:
            suffix = base_of(pair).lower() if pair else ""
        settings = read_settings(config)
        if exchanges is not None:
            chosen = exchanges if isinstance(exchanges, str) else list(exchanges)
            settings = _with_exchanges(settings, read_exchanges(chosen, config))
        opens = _opens(dataframe, frame)
        if config.get("runmode") == RunMode.BACKTEST and FINGERPRINT not in config.get(SECTION, {}):
            _warn_once(_NOT_PREPARED)
        try:
            table = _table(name, opens, frame, settings, per_exchange)
        except LiquidationsError as error:
            if not live:
                raise
            message = f"no liquidations for {name}, the columns are NaN: {error}"
            _warn_once(message, key=f"no liquidations for {name}")
            table = _unobserved(settings, len(opens), per_exchange)
    except LiquidationsError as error:
        raise OperationalException(str(error)) from error
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


_NOT_PREPARED = (
    "Freqtrade can't see when liquidation data change and may show the result of an earlier "
    "backtest. Call prepare_liquidations(config) in the strategy's __init__, "
    "or run with --cache none."
)


def _with_exchanges(settings: Settings, exchanges: tuple[str, ...]) -> Settings:
    least = min(settings.min_exchanges, len(exchanges))
    return Settings(settings.db_url, exchanges, settings.inverse, settings.min_coverage, least)


def _opens(dataframe: pd.DataFrame, timeframe: str) -> Ints:
    """Return the candles' opens in int64 ms, and refuse a timeframe that would reach past them."""
    # Backtests give dates in ms, dry-run in µs; naive datetime64 is UTC here.
    opens = dataframe["date"].to_numpy(dtype="datetime64[ms]").view(np.int64)
    closes = candle_closes(opens, timeframe)
    if np.any(opens[1:] < closes[:-1]):
        raise LiquidationsError(
            f"the candles are closer together than {timeframe}: their liquidations would come from "
            "the future; give the timeframe of the candles in the dataframe"
        )
    return opens


def _unobserved(settings: Settings, size: int, per_exchange: bool) -> dict[str, Floats]:
    return columns(
        {name: Candles.unobserved(size) for name in settings.exchanges},
        per_exchange=per_exchange,
    )


def _table(
    pair: str, opens: Ints, timeframe: str, settings: Settings, per_exchange: bool
) -> dict[str, Floats]:
    if not len(opens):
        return _unobserved(settings, 0, per_exchange)
    table, matched = provider_of(settings.db_url).columns(
        pair, opens, timeframe, settings, per_exchange=per_exchange
    )
    if any(one.source == SIMULATED for one in all_series(matched)):
        _warn_once("SIMULATED: the liquidations in this store are invented")
    if np.all(np.isnan(table["liq_total"])):
        warning = explain_nothing(pair, opens, timeframe, settings, matched, table["liq_coverage"])
        _warn_once(warning)
    return table


def explain_nothing(
    pair: str,
    opens: Ints,
    timeframe: str,
    settings: Settings,
    matched: Matched,
    coverage: Floats,
) -> str:
    """Say why all candles are NaN although something is stored of their time.

    :raises LiquidationsError: if nothing is stored of the pair, or nothing of the time.
    """
    everything = all_series(matched)
    if not everything:
        raise LiquidationsError(_nothing_stored(pair, settings))
    closes = candle_closes(opens, timeframe)
    with provider_of(settings.db_url).store.read() as reader:
        spans = {series: reader.coverage(series) for series in everything}
    known = [span for span in spans.values() if len(span)]
    inside = {
        series: covered_share(span, opens[:1], closes[-1:])[0] > 0 for series, span in spans.items()
    }
    if not any(inside.values()):
        have = "nothing"
        if known:
            first, last = min(span[0, 0] for span in known), max(span[-1, 1] for span in known)
            have = f"only {format_time(first)} to {format_time(last)}"
        start, end = format_time(opens[0]), format_time(closes[-1])
        raise LiquidationsError(
            f"no liquidations of {pair} are stored for {', '.join(settings.exchanges)} from "
            f"{start} to {end}, {have}. Choose a --timerange within, or get more with: "
            "liquidations import-data --source ... FILES"
        )
    if coverage.any():
        return (
            f"{pair}: no {timeframe} candle was observed by {settings.min_exchanges} exchange(s) "
            f"for min_coverage {settings.min_coverage:g} of its time (at best for "
            f"{coverage.max():.2f}): the columns are NaN"
        )
    periods = sorted({one.period for one, there in inside.items() if there})
    have = ", ".join(map(format_period, periods))
    return (
        f"{pair} is stored in bars of {have}, which can't be split into {timeframe} "
        f"candles: the columns are NaN. Import bars of {timeframe} or shorter, or use candles of "
        f"{format_period(periods[0])} or longer"
    )


def _nothing_stored(pair: str, settings: Settings) -> str:
    return (
        f"no liquidations of {pair} are stored for {', '.join(settings.exchanges)}. Get some with: "
        "liquidations import-data --source ... FILES; see what there is with: "
        "liquidations list-data"
    )
