"""Between the store and the strategy: the columns of a pair's candles, or a market's. Floor 4.

``hyperopt -j 2`` and the analyses pickle strategies: so nothing lives on a strategy; providers live
in a registry of this module, one for each store and process.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from liquidations.archives import ranks
from liquidations.candles import (
    Candles,
    Late,
    Part,
    Source,
    add_contracts,
    add_parts,
    best_source,
    candle_closes,
    candle_opens,
    columns,
    format_period,
    format_time,
    source_candles,
    table,
)
from liquidations.database import PATIENCE
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Events, Floats, Ints, covered_share
from liquidations.exchanges import regime
from liquidations.pairs import base_of, match
from liquidations.reader import Reader, Series
from liquidations.rows import same
from liquidations.sampling import MONTH, peak_saturation, unsample
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.view import LiveView


#: Bytes of bars that a process keeps; the analyses ask for the same stretch again and again.
CACHE_BYTES = 256 * 2**20

#: What :meth:`LiquidationProvider.corrected` tells of each exchange.
CORRECTED = (
    "liq_imbalance_corrected",
    "liq_imbalance_lower",
    "liq_imbalance_upper",
    "liq_saturation",
)

#: Stands for all pairs that the store holds of the chosen exchanges, where a pair is asked for.
MARKET = "market"

#: Of the market's contracts at least this share must have observed a candle.
MARKET_SHARE = 0.5

#: Markets that a process keeps: the candles of all pairs ask for the same one.
_MARKETS = 4


class LiquidationProvider:
    """Read the columns of candles from one store.

    Threads may share a provider. A pickled provider opens its store anew.

    :param patience: how long (s) to wait for an answer of PostgreSQL
    """

    def __init__(self, db_url: str, *, patience: float = PATIENCE) -> None:
        self.db_url, self.patience = db_url, patience
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._cache: OrderedDict[int, tuple[tuple[State, int, int], Source]] = OrderedDict()
        self._view: LiveView | None = None
        self._markets: OrderedDict[tuple, dict[str, Floats]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"db_url": self.db_url, "patience": self.patience}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.db_url, self.patience = state["db_url"], state["patience"]
        self._open()

    @property
    def store(self) -> Store:
        """Return the store, opened when it is first asked for, and again if its file is another."""
        with self._lock:
            if self._store is not None and self._store.replaced():
                self._store.close()
                self._store = None
                self._forget()
            if self._store is None:
                self._store = Store(self.db_url, patience=self.patience)
            return self._store

    def close(self) -> None:
        """Close the store and empty the cache; both come back when they are asked for."""
        with self._lock:
            store, self._store = self._store, None
            self._forget()
        if store is not None:
            store.close()

    def _forget(self) -> None:
        self._view = None
        self._cache.clear()
        self._markets.clear()

    def columns(
        self,
        pair: str,
        opens: Ints,
        timeframe: str,
        settings: Settings,
        *,
        per_exchange: bool = False,
        squares: bool = False,
        live: bool = False,
    ) -> tuple[dict[str, Floats], Matched]:
        """Sum the liquidations of a pair's base, or of the whole market, over candles.

        :param pair: as Freqtrade writes it, on each exchange the contract of the same base is read;
            or ``MARKET``
        :param squares: add ``liq_n_eff``
        :param live: wait until the feeds have told the last candle, at most ``settings.settle``
        :param opens: when the candles open, int64 ms UTC, increasing
        :return: column → float64 array of the length of ``opens``, NaN where unobserved; and what
            was matched
        :raises LiquidationsError: if there is no store, or it can't be read.
        """
        closes = candle_closes(opens, timeframe)
        with self._reading(settings, int(closes[-1]), live) as reads:
            if pair == MARKET:
                return self._market(reads, opens, closes, settings, squares)
            exchanges, matched = by_exchange(reads, pair, opens, closes, settings, squares=squares)
        result = columns(
            exchanges,
            min_coverage=settings.min_coverage,
            min_exchanges=settings.min_exchanges,
            per_exchange=per_exchange,
        )
        return result, matched

    @contextmanager
    def _reading(self, settings: Settings, close: int, live: bool) -> Iterator[Reads]:
        """Give what answers: one state of the store, or of a bot the view of its candles."""
        if not live:
            with self.store.read() as reader:
                yield _Cached(self, reader)
            return
        with self._lock:
            if self._view is None:
                self._view = LiveView(lambda: self.store)
            view = self._view
        view.until(close, settings.exchanges, settings.settle)
        yield view

    def _market(
        self, reads: Reads, opens: Ints, closes: Ints, settings: Settings, squares: bool
    ) -> tuple[dict[str, Floats], Matched]:
        matched = find_market(reads.series(), settings)
        digests = tuple((one.id, one.digest, one.live) for one in all_series(matched))
        key = (opens.tobytes(), closes[-1], settings, squares, digests, reads.version)
        with self._lock:
            known = self._markets.get(key)
        if known is None:
            contracts = [series for names in matched.values() for series in names.values()]
            parts: Iterable[Part] = (
                _contract(reads, series, opens, closes, settings, squares) for series in contracts
            )
            if not contracts:
                parts = [(Candles.unobserved(len(opens), squares=squares), True)]
            known = table(add_parts(parts, settings.min_coverage, MARKET_SHARE))
            with self._lock:
                self._markets[key] = known
                while len(self._markets) > _MARKETS:
                    self._markets.popitem(last=False)
        return {name: array.copy() for name, array in known.items()}, matched

    def corrected(
        self, pair: str, opens: Ints, timeframe: str, settings: Settings
    ) -> dict[str, Floats]:
        """Correct each exchange's ratio for what its feed hides, out of single orders.

        :return: ``liq_imbalance_corrected_binance``, ``liq_imbalance_lower_binance``,
            ``liq_imbalance_upper_binance``, ``liq_saturation_binance`` and so on; NaN where no
            single orders are stored
        """
        past = candle_opens(int(opens[0]) - MONTH, int(opens[0]), timeframe)
        longer = np.concatenate((past, opens))
        result: dict[str, Floats] = {}
        with self.store.read() as reader:
            for exchange, contracts in find(reader, pair, settings).items():
                # One order a second is one of a contract: others can't be told from their sum.
                series = next(iter(contracts.values()), [])
                found = self._corrected(reader, series, longer, timeframe, settings)
                columns = zip(CORRECTED, found, strict=True)
                result |= {f"{name}_{exchange}": values[len(past) :] for name, values in columns}
        return result

    def _corrected(
        self,
        reader: Reader,
        series: Iterable[Series],
        opens: Ints,
        timeframe: str,
        settings: Settings,
    ) -> Iterable[Floats]:
        closes = candle_closes(opens, timeframe)
        counted = [one for one in series if one.counted and one.period == MINUTE]
        sources = _sources(_Cached(self, reader), counted, opens, closes, settings)
        _, taken = _best(sources, opens, closes, settings)
        arrays = [np.full(len(opens), np.nan) for _ in CORRECTED]
        for place, (one, source) in enumerate(zip(counted, sources, strict=True)):
            events = _known(reader.events(one, opens[0], closes[-1]), source.late, opens, closes)
            kinds = regime(one.exchange, opens)
            found = unsample(events, opens, closes, kinds, source.coverage)
            bars = source_candles(source, opens, closes)
            number = np.diff(np.searchsorted(events.timestamp, (opens, closes)), axis=0)[0]
            # Bars may count what is not stored order by order.
            used = (taken == place) & (bars.coverage >= settings.min_coverage)
            used &= bars.long_count + bars.short_count == number
            columns = [found[name].to_numpy() for name in ("imbalance", "lower", "upper")]
            for array, values in zip(
                arrays, (*columns, peak_saturation(source, opens, closes)), strict=True
            ):
                np.copyto(array, values, where=used)
        return arrays

    def chosen(
        self, pair: str, opens: Ints, timeframe: str, settings: Settings
    ) -> dict[str, np.ndarray]:
        """Tell which source each candle was taken from.

        :return: by exchange and contract, such as ``"binance BTC/USDT:USDT"``, an array of texts
            such as ``"coinalyze 1h"``; empty where none observed enough
        """
        closes = candle_closes(opens, timeframe)
        found = {}
        with self.store.read() as reader:
            reads = _Cached(self, reader)
            for exchange, contracts in find(reads, pair, settings).items():
                for name, series in contracts.items():
                    sources = _sources(reads, series, opens, closes, settings)
                    best, taken = _best(sources, opens, closes, settings)
                    used = (best.coverage >= settings.min_coverage) & (best.coverage > 0)
                    taken = np.where(used, taken, -1)
                    names = [f"{one.name} {format_period(one.period)}" for one in sources]
                    found[f"{exchange} {name}"] = np.array([*names, ""], dtype=object)[taken]
        return found

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
        state = series.digest, series.live
        with self._lock:
            known = self._cache.get(series.id)
            if known is not None:
                (held, first, last), source = known
                if held == state and first <= start and end <= last:
                    self._cache.move_to_end(series.id)
                    return source
        source = reader.source(series, start, end)
        with self._lock:
            self._cache[series.id] = ((state, start, end), source)
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


class Reads(Protocol):
    """Answer which series there are, and what they hold."""

    @property
    def version(self) -> int:
        """Change when anything may have changed that the digests of the series do not tell."""

    @property
    def unsealed(self) -> Mapping[str, int]:
        """Name exchanges whose last candles are not final, and until when (ms) they told all."""

    def series(self, *, base: str | None = None) -> list[Series]:
        """List the series, of one base asset if it is named."""

    def source(self, series: Series, start: int, end: int) -> Source:
        """Return what a series holds of ``[start, end)`` ms."""


class _Cached:
    """Read within one transaction, and keep what was read for the next one."""

    def __init__(self, provider: LiquidationProvider, reader: Reader) -> None:
        self._provider, self._reader = provider, reader
        self.series = reader.series
        self.version, self.unsealed = reader.version, reader.unsealed

    def source(self, series: Series, start: int, end: int) -> Source:
        return self._provider._source(self._reader, series, start, end)


def by_exchange(
    reads: Reads,
    pair: str,
    opens: Ints,
    closes: Ints,
    settings: Settings,
    *,
    squares: bool = False,
) -> tuple[dict[str, Candles], Matched]:
    """Sum what stands for a pair over candles, by exchange, before exchanges are added.

    :return: exchange → candles, NaN where unobserved; and what was matched
    """
    matched = find(reads, pair, settings)
    exchanges = {}
    for exchange, contracts in matched.items():
        parts = [
            _contract(reads, series, opens, closes, settings, squares)
            for series in contracts.values()
        ]
        exchanges[exchange] = (
            add_contracts(parts) if parts else Candles.unobserved(len(opens), squares=squares)
        )
    return exchanges, matched


def _contract(
    reads: Reads,
    series: Sequence[Series],
    opens: Ints,
    closes: Ints,
    settings: Settings,
    squares: bool,
) -> Part:
    """Return a contract's candles, and from when it counts: since it was first observed."""
    sources = _sources(reads, series, opens, closes, settings)
    best, _ = _best(sources, opens, closes, settings, squares=squares)
    exchanges = {one.exchange for one in series}
    final = min((reads.unsealed.get(one, closes[-1]) for one in exchanges), default=closes[-1])
    if final < closes[-1]:
        # A backtest will know what a bot would have to guess.
        best = best.without(closes > final)
    known = [source.coverage[0, 0] for source in sources if len(source.coverage)]
    return best, closes > min(known, default=closes[-1])


def _sources(
    reads: Reads, series: Iterable[Series], opens: Ints, closes: Ints, settings: Settings
) -> list[Source]:
    found = [reads.source(one, opens[0], closes[-1]) for one in series]
    if settings.vintage == "last":
        found = [one.latest() for one in found]
    if settings.as_of:
        return found
    return [one if one.late is None else replace(one, late=one.late.in_time()) for one in found]


def _best(
    sources: list[Source], opens: Ints, closes: Ints, settings: Settings, *, squares: bool = False
) -> tuple[Candles, Ints]:
    """Take each candle from one source, by the settings' rule."""
    order = ranks([one.name for one in sources], settings.prefer) if len(sources) > 1 else None
    return best_source(sources, opens, closes, settings.min_coverage, squares=squares, ranks=order)


def _known(events: Events, late: Late | None, opens: Ints, closes: Ints) -> Events:
    """Leave out the events that were not known when their candles closed."""
    if late is None:
        return events
    close = closes[np.searchsorted(opens, late.events.timestamp, side="right") - 1]
    unknown = late.events.take(late.known > close)
    return events.take(~same(events, unknown.timestamp, unknown.key))


#: Digests of what a series holds: imported, and live.
State = tuple[int, int | None]

#: Exchange → pair of the contract that was matched → its series, one for each source and period.
Matched = dict[str, dict[str, list[Series]]]


def find(reads: Reads, pair: str, settings: Settings) -> Matched:
    """Find which contracts stand for the pair's base on each chosen exchange, and their sources."""
    if pair == MARKET:
        return find_market(reads.series(), settings)
    return _match(pair, reads.series(base=base_of(pair)), settings)


def find_market(stored: Iterable[Series], settings: Settings) -> Matched:
    """Find what stands for each base that is stored, on each chosen exchange."""
    bases: dict[str, list[Series]] = {}
    for one in stored:
        bases.setdefault(one.base, []).append(one)
    matched: Matched = {exchange: {} for exchange in settings.exchanges}
    for base, series in bases.items():
        for exchange, contracts in _match(f"{base}/USDT:USDT", series, settings).items():
            matched[exchange] |= contracts
    return matched


def _match(pair: str, stored: list[Series], settings: Settings) -> Matched:
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
_registry = threading.Lock()


def provider_of(db_url: str) -> LiquidationProvider:
    """Return this process's provider for a store; a forked process gets its own."""
    with _registry:
        key = os.getpid(), db_url
        if key not in _providers:
            _providers[key] = LiquidationProvider(db_url)
        return _providers[key]


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
            "liquidations download-data or liquidations import-data"
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
        "liquidations download-data, collect or import-data; see what there is with: "
        "liquidations list-data"
    )
