"""A loopback exchange: Binance's public USDⓈ-M futures REST API out of a Freqtrade data folder.

Freqtrade's unmodified command line (backtesting, hyperopt, the analyses, plot-dataframe,
download-data, and ``trade`` in dry run) needs an exchange for its markets, candles and prices. The
sandbox is one without internet: whatever pair has candles in the data folder is traded on it.

`Sandbox` turns a request into an answer and knows no socket (that is ``sandbox_server.py``).
Everything depends on `Sandbox.time_ms`, its clock: nothing that opens after it is ever served, and
the candle in which it lies is served as far as it has come. With ``replay`` the recorded dates are
shifted by whole days, so that the end of the data plays in real time.

What differs from Binance, knowingly: the open interest history is not cut after 30 days, the order
book and the market rules are made up from the price, and there are no trades and no account. What
is said over the websocket is in ``sandbox_stream.py``.
Source of paths, limits and error codes: Binance's documentation of the USDⓈ-M futures REST API,
and what ccxt 4.5 calls.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType, TradingMode

from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE, Events, Floats, Ints
from liquidations.reader import Series
from liquidations.sandbox_stream import PUSH_DELAY, Fault, Stream, Tape
from liquidations.store import Store
from liquidations.tables import EVENTS


HOUR = 60 * MINUTE
INTERVALS = {
    **{f"{n}m": n * MINUTE for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * HOUR for n in (1, 2, 4, 6, 8, 12)},
    **{"1d": DAY, "3d": 3 * DAY, "1w": 7 * DAY},
}
OHLCV = ["open", "high", "low", "close", "volume"]
COLUMNS = {
    CandleType.FUTURES: OHLCV,
    CandleType.MARK: OHLCV,
    CandleType.FUNDING_RATE: ["funding_rate"],
    CandleType.OPEN_INTEREST: ["open_interest_amount", "open_interest_value"],
}
# Where the price turns inside a candle, as shares of its time: a rising candle goes open, low,
# high, close, a falling one open, high, low, close.
TURNS = (0.0, 1 / 3, 2 / 3, 1.0)
Query = Mapping[str, str]


class Table(NamedTuple):
    """Rows of one pair, kind and timeframe: opening times (ms, ascending) and their values."""

    times: Ints
    values: Floats


class Refused(Exception):
    """An answer in the shape of Binance's errors: code, message, HTTP status."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.body = status, {"code": code, "msg": message}


def price_decimals(lowest: float) -> int:
    """Choose the decimals of a pair's prices: six digits of its lowest one."""
    return min(max(5 - math.floor(math.log10(max(lowest, 1e-8))), 1), 8)


class Sandbox:
    """Answer requests to Binance's futures API from the candles in a Freqtrade data folder.

    :param datadir: Freqtrade's data folder of one exchange, the one that holds ``futures/``.
    :param pairs: serve only these (Freqtrade's names); default all that have candles.
    :param replay: shift the dates so that the data go on for `ahead_hours` after the start.
    :param ahead_hours: how much of the data lies in the future at the start of a replay (at least;
        at most a day more, because the shift is a whole number of days).
    :param data_format: Freqtrade's ``dataformat_ohlcv``.
    :param clock: seconds since the epoch; replace it to move the sandbox through time.
    :param liquidations: URL of the store whose single events of Binance are published over the
        websocket, shifted as the candles are, from the start on.
    :param push_delay: how long (ms) after its own time an event is published.
    :param faults: of the websocket, see `Fault`.
    :raises LiquidationsError: when there is nothing to serve, or nothing to publish.
    """

    def __init__(
        self,
        datadir: Path,
        *,
        pairs: list[str] | None = None,
        replay: bool = False,
        ahead_hours: float = 12.0,
        data_format: str = "feather",
        clock: Callable[[], float] = time.time,
        liquidations: str | None = None,
        push_delay: int = PUSH_DELAY,
        faults: Sequence[Fault] = (),
    ) -> None:
        self._clock = clock
        self._data = get_datahandler(datadir, data_format)
        self._tables: dict[tuple[str, CandleType, str], Table] = {}
        self._stored = self._find(datadir, pairs, longest=DAY if replay else 7 * DAY)
        self._symbols = {symbol(pair): pair for pair in self._stored}
        self.offset = 0
        if replay:
            self.offset = self._replay_offset(round(ahead_hours * HOUR))
            self._tables.clear()  # they were read unshifted
        # Reads one file per pair, so that an unreadable one shows now and not during the run.
        self._decimals = {pair: self._choose_decimals(pair) for pair in self._stored}
        now = self.time_ms()
        events = self._read_events(liquidations, now) if liquidations else {}
        #: What is published over the websocket.
        self.tape = Tape(events, now, delay=push_delay, faults=faults)

    @property
    def pairs(self) -> list[str]:
        """Name the pairs that are served."""
        return sorted(self._stored)

    def time_ms(self) -> int:
        """Tell the time of the exchange; nothing that opens later is served."""
        return int(self._clock() * 1000)

    def connect(self, tail: str = "") -> Stream:
        """Begin a conversation over the websocket, on a path that ends in `tail`."""
        return Stream(self.tape, self.mark_price, list(self._symbols), tail, self.time_ms())

    def answer(self, path: str, query: Query) -> tuple[int, Any]:
        """Answer a GET request: HTTP status, and what goes out as JSON."""
        try:
            if path not in ROUTES:
                raise Refused(-1, f"The sandbox has no {path}.", status=404)
            return 200, ROUTES[path](self, query)
        except Refused as refusal:
            return refusal.status, refusal.body

    # ---- the data folder ----

    def _find(
        self, datadir: Path, pairs: list[str] | None, longest: int
    ) -> dict[str, dict[CandleType, list[str]]]:
        """List the timeframes on disk per pair and kind, the finest first."""
        try:
            available = self._data.ohlcv_get_available_data(datadir, TradingMode.FUTURES)
        except ValueError as e:  # a file whose name ends in no candle type
            raise LiquidationsError(
                f"{datadir}/futures holds a file that Freqtrade cannot place ({e}): move it away"
            ) from e
        stored: dict[str, dict[CandleType, list[str]]] = {}
        for pair, timeframe, kind in available:
            quote, _, settle = pair.partition("/")[2].partition(":")
            served = kind in COLUMNS and INTERVALS.get(timeframe, math.inf) <= longest
            if served and quote == settle:  # linear; a dated future settles in "USDT-250926"
                stored.setdefault(pair, {}).setdefault(kind, []).append(timeframe)
        for kinds in stored.values():
            for timeframes in kinds.values():
                timeframes.sort(key=INTERVALS.__getitem__)
        tradable = {pair: kinds for pair, kinds in stored.items() if CandleType.FUTURES in kinds}
        if not tradable:
            raise LiquidationsError(
                f"no candles of linear futures in {datadir}: expected files like "
                f"{datadir / 'futures' / 'BTC_USDT_USDT-5m-futures.feather'}. Get some with "
                "`freqtrade download-data --trading-mode futures`, make some with "
                "`liquidations simulate`, or name another folder with --datadir"
            )
        if missing := sorted(set(pairs or []) - set(tradable)):
            raise LiquidationsError(
                f"no candles of {', '.join(missing)} in {datadir}: it has "
                f"{', '.join(sorted(tradable))}. Name those with --pairs, or get the others with "
                "`freqtrade download-data --trading-mode futures`"
            )
        return {pair: tradable[pair] for pair in pairs or tradable}

    def _table(self, pair: str, kind: CandleType, timeframe: str) -> Table:
        """Read one file, once; its times are shifted to those that are served."""
        key = (pair, kind, timeframe)
        if key not in self._tables:
            frame = self._data.ohlcv_load(pair, timeframe, kind, fill_missing=False)
            if frame.empty:
                raise LiquidationsError(
                    f"the {timeframe} {kind} file of {pair} is empty or unreadable: delete it, or "
                    "get it again with `freqtrade download-data --erase`"
                )
            times = frame["date"].dt.as_unit("ms").astype("int64").to_numpy() + self.offset
            values = frame.reindex(columns=COLUMNS[kind], fill_value=0.0).to_numpy(np.float64)
            self._tables[key] = Table(times, values)
        return self._tables[key]

    def _read_events(self, db_url: str, now: int) -> dict[str, Events]:
        """Read the events after now by symbol, their times shifted to those that are published."""
        found: dict[str, Events] = {}
        with Store(db_url) as store, store.read() as reader:
            counts = reader.counts()
            sources: dict[str, list[tuple[int, Series]]] = {pair: [] for pair in self._stored}
            for series in reader.series():
                if series.exchange == "binance" and series.pair in sources:
                    sources[series.pair].append((counts.get((series.id, EVENTS), 0), series))
            for pair, told in sources.items():
                # Two sources tell the same orders: the one that tells more is played.
                if told and (chosen := max(told, key=itemgetter(0)))[0]:
                    events = reader.events(chosen[1], now - self.offset, 2**62)
                    moved = events.timestamp + self.offset
                    found[symbol(pair)] = replace(events, timestamp=moved)
            shown = store.shown
        if not found:
            raise LiquidationsError(
                f"the store {shown} has no single liquidations on binance of "
                f"{', '.join(self.pairs)}: bars cannot be played. Name a store of events with "
                "--play, for example the exchange.sqlite that `liquidations simulate --now` makes"
            )
        return found

    def _replay_offset(self, ahead: int) -> int:
        """Choose the whole days by which the dates move, so that `ahead` ms lie after now."""
        finest = {pair: kinds[CandleType.FUTURES][0] for pair, kinds in self._stored.items()}
        tables = {p: self._table(p, CandleType.FUTURES, tf) for p, tf in finest.items()}
        ends = {p: int(t.times[-1]) + INTERVALS[finest[p]] for p, t in tables.items()}
        now, end = self.time_ms(), min(ends.values())
        offset = math.ceil((now + ahead - end) / DAY) * DAY
        start = min(int(t.times[0]) for t in tables.values()) + offset
        if start >= now:
            raise LiquidationsError(
                f"too few candles to replay {ahead / HOUR:g} hours of them (up to a day more, for "
                "the dates move by whole days) and to have some before now: "
                f"{min(ends, key=ends.__getitem__)} is the first pair to end. Replay fewer hours, "
                "choose --pairs with longer data, or get more with `freqtrade download-data`"
            )
        return offset

    def _source(self, pair: str, kind: CandleType, timeframe: str) -> tuple[CandleType, str]:
        """Say which file a timeframe comes from: its own, or the finest that divides it."""
        length = INTERVALS.get(timeframe, 0)
        # No mark candles (Freqtrade survives without them too): the last price stands in.
        kinds = (kind, CandleType.FUTURES) if kind == CandleType.MARK else (kind,)
        for stored_kind in kinds:
            stored = self._stored[pair].get(stored_kind, [])
            for fine in [timeframe, *stored]:
                if fine in stored and length and length % INTERVALS[fine] == 0:
                    return stored_kind, fine
        raise Refused(-1120, "Invalid interval.")

    def _candles(self, pair: str, kind: CandleType, timeframe: str) -> Table:
        """Give all candles of a timeframe as they will be when closed."""
        kind, fine = self._source(pair, kind, timeframe)
        if fine == timeframe:
            return self._table(pair, kind, timeframe)
        key = (pair, kind, timeframe)
        if key not in self._tables:
            self._tables[key] = resample(self._table(pair, kind, fine), fine, timeframe)
        return self._tables[key]

    def _opened_since(self, pair: str, kind: CandleType, since: int, longest: int) -> Floats:
        """Give the finest candles opened from `since` to now, the last as far as it has come."""
        now = self.time_ms()
        for timeframe in self._stored[pair][kind]:
            length = INTERVALS[timeframe]
            times, values = self._table(pair, kind, timeframe)
            first, last = np.searchsorted(times, (since, now + 1))
            if first < last and length <= longest:
                part = values[first:last].copy()
                part[-1] = partial(part[-1], (now - int(times[last - 1])) / length)
                return part
        return np.empty((0, len(OHLCV)))

    def _day(self, pair: str) -> Floats:
        """Give the candles of the last 24 hours; the last close is the present price."""
        now, kind = self.time_ms(), CandleType.FUTURES
        tables = {tf: self._table(pair, kind, tf) for tf in self._stored[pair][kind]}
        end = max(int(t.times[-1]) + INTERVALS[tf] for tf, t in tables.items())
        day = self._opened_since(pair, kind, min(now, end) - DAY, DAY)
        if not len(day):  # before the first candle, or in a hole of the data
            timeframe, (times, values) = next(iter(tables.items()))
            closed = int(np.searchsorted(times, now - INTERVALS[timeframe], side="right"))
            price = values[closed - 1, 3] if closed else values[0, 0]
            day = np.array([[price, price, price, price, 0.0]])
        return day

    # ---- markets ----

    def _pair(self, query: Query) -> str:
        if "symbol" not in query:
            raise Refused(-1102, "Mandatory parameter 'symbol' was not sent.")
        if query["symbol"] not in self._symbols:
            raise Refused(-1121, "Invalid symbol.")
        return self._symbols[query["symbol"]]

    def _choose_decimals(self, pair: str) -> tuple[int, int]:
        """Make up the decimals of price and amount: six digits of price, steps worth a few USD."""
        coarsest = self._stored[pair][CandleType.FUTURES][-1]
        low, high = self._table(pair, CandleType.FUTURES, coarsest).values[:, [2, 1]].T
        amount = math.floor(math.log10(max(high.max(), 1e-8)))
        return price_decimals(low.min()), min(max(amount, 0), 3)

    def _price(self, pair: str, price: float) -> str:
        return f"{price:.{self._decimals[pair][0]}f}"

    def _market(self, pair: str) -> dict[str, Any]:
        base, quote = pair.split(":")[0].split("/")
        price_digits, amount_digits = self._decimals[pair]
        tick, step = f"{10.0**-price_digits:.{price_digits}f}", f"{10.0**-amount_digits:g}"
        lot = {"stepSize": step, "minQty": step, "maxQty": "10000000"}
        return {
            "symbol": symbol(pair),
            "pair": symbol(pair),
            "contractType": "PERPETUAL",
            "status": "TRADING",
            "onboardDate": 1569398400000,
            "deliveryDate": 4133404800000,
            "baseAsset": base,
            "quoteAsset": quote,
            "marginAsset": quote,
            "pricePrecision": price_digits,
            "quantityPrecision": amount_digits,
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "filters": [
                {
                    "filterType": "PRICE_FILTER",
                    "tickSize": tick,
                    "minPrice": tick,
                    "maxPrice": "10000000",
                },
                {"filterType": "LOT_SIZE", **lot},
                {"filterType": "MARKET_LOT_SIZE", **lot},
                {"filterType": "MIN_NOTIONAL", "notional": "5"},
            ],
            "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        }

    # ---- the routes ----

    def exchange_info(self, query: Query) -> dict[str, Any]:
        """List the markets."""
        return {
            "timezone": "UTC",
            "serverTime": self.time_ms(),
            "futuresType": "U_MARGINED",
            "rateLimits": [],
            "exchangeFilters": [],
            "assets": [],
            "symbols": [self._market(pair) for pair in self._stored],
        }

    def klines(self, query: Query, kind: CandleType = CandleType.FUTURES) -> list[list[Any]]:
        """Give candles, the forming one as the last."""
        pair, timeframe = self._pair(query), query.get("interval", "")
        kind, _ = self._source(pair, kind, timeframe)
        length, opened = INTERVALS[timeframe], opening(self.time_ms(), timeframe)
        times, values = self._candles(pair, kind, timeframe)
        closed = int(np.searchsorted(times, opened))
        times, values = times[:closed], values[:closed]
        forming = self._opened_since(pair, kind, opened, length)
        if len(forming):
            times = np.append(times, opened)
        chosen = select(times, query, default=500, most=1500)
        rows = values[chosen]
        if chosen.start <= closed < chosen.stop:
            rows = np.vstack([rows, summarise(forming)])
        return [
            [
                t,
                repr(o),
                repr(h),
                repr(low),
                repr(c),
                repr(v),
                t + length - 1,
                repr(v * c),
                1,
                repr(v / 2),
                repr(v * c / 2),
                "0",
            ]
            for t, (o, h, low, c, v) in lines(times[chosen], rows)
        ]

    def mark_klines(self, query: Query) -> list[list[Any]]:
        """Give candles of the mark price."""
        return self.klines(query, CandleType.MARK)

    def _funding(self, pair: str) -> Table:
        """Give the funding rates up to now."""
        stored = self._stored[pair].get(CandleType.FUNDING_RATE)
        if not stored:
            return Table(np.empty(0, np.int64), np.empty((0, 1)))
        times, values = self._table(pair, CandleType.FUNDING_RATE, stored[0])
        past = int(np.searchsorted(times, self.time_ms(), side="right"))
        return Table(times[:past], values[:past])

    def funding_rate(self, query: Query) -> list[dict[str, Any]]:
        """Give the history of funding."""
        times, values = self._funding(self._pair(query))
        chosen = select(times, query, default=100, most=1000)
        return [
            {"symbol": query["symbol"], "fundingTime": t, "fundingRate": repr(rate)}
            for t, (rate,) in lines(times[chosen], values[chosen])
        ]

    def open_interest(self, query: Query) -> list[dict[str, Any]]:
        """Give the history of open interest: the values at the start of each period."""
        pair, period = self._pair(query), query.get("period", "")
        kind, fine = self._source(pair, CandleType.OPEN_INTEREST, period)
        times, values = self._table(pair, kind, fine)
        given = (times <= self.time_ms()) & (opening(times, period) == times)
        times, values = times[given], values[given]
        chosen = select(times, query, default=30, most=500)
        return [
            {
                "symbol": query["symbol"],
                "timestamp": t,
                "sumOpenInterest": repr(amount),
                "sumOpenInterestValue": repr(value),
            }
            for t, (amount, value) in lines(times[chosen], values[chosen])
        ]

    def premium_index(self, pair: str) -> dict[str, Any]:
        """Give mark price and funding rate of the present."""
        now, price = self.time_ms(), self._price(pair, self._day(pair)[-1, 3])
        rates = self._funding(pair).values
        return {
            "symbol": symbol(pair),
            "time": now,
            "markPrice": price,
            "indexPrice": price,
            "estimatedSettlePrice": price,
            "interestRate": "0.0001",
            "lastFundingRate": repr(float(rates[-1, 0])) if len(rates) else "0",
            "nextFundingTime": opening(now, "8h") + INTERVALS["8h"],
        }

    def mark_price(self, name: str, now: int) -> dict[str, Any]:
        """Give mark price and funding rate of the present as the websocket does."""
        index = self.premium_index(self._symbols[name])
        return {
            "e": "markPriceUpdate",
            "E": now,
            "s": name,
            "p": index["markPrice"],
            "i": index["indexPrice"],
            "P": index["estimatedSettlePrice"],
            "r": index["lastFundingRate"],
            "T": index["nextFundingTime"],
        }

    def ticker_24h(self, pair: str) -> dict[str, Any]:
        """Give the statistics of the last 24 hours."""
        now, day = self.time_ms(), self._day(pair)
        first, high, low, last, volume = summarise(day)[0].tolist()
        return {
            "symbol": symbol(pair),
            "openTime": now - DAY,
            "closeTime": now,
            "count": len(day),
            "priceChange": self._price(pair, last - first),
            "priceChangePercent": f"{(last / first - 1) * 100:.3f}",
            "openPrice": self._price(pair, first),
            "highPrice": self._price(pair, high),
            "lowPrice": self._price(pair, low),
            "lastPrice": self._price(pair, last),
            "volume": repr(volume),
            "quoteVolume": repr(float(day[:, 3] @ day[:, 4])),
        }

    def _book(self, pair: str, levels: int) -> tuple[list[list[str]], list[list[str]]]:
        """Make up bids and asks one tick apart, 10,000 USD on each level."""
        price_digits, amount_digits = self._decimals[pair]
        price, tick = float(self._day(pair)[-1, 3]), 10.0**-price_digits
        amount = f"{10_000 / price:.{amount_digits}f}"
        bids = [[self._price(pair, price - tick * n), amount] for n in range(levels)]
        asks = [[self._price(pair, price + tick * (n + 1)), amount] for n in range(levels)]
        return [bid for bid in bids if float(bid[0]) > 0], asks

    def book_ticker(self, pair: str) -> dict[str, Any]:
        """Give the best bid and ask."""
        ((bid, amount),), ((ask, _),) = self._book(pair, 1)
        return {
            "symbol": symbol(pair),
            "time": self.time_ms(),
            "bidPrice": bid,
            "bidQty": amount,
            "askPrice": ask,
            "askQty": amount,
        }

    def depth(self, query: Query) -> dict[str, Any]:
        """Give the order book."""
        now = self.time_ms()
        bids, asks = self._book(self._pair(query), whole(query, "limit", 500, 1000))
        return {"lastUpdateId": now, "E": now, "T": now, "bids": bids, "asks": asks}

    def each(self, query: Query, route: Callable[[Sandbox, str], Any]) -> Any:
        """Give one answer for the symbol that was named, a list of all when none was."""
        if "symbol" in query:
            return route(self, self._pair(query))
        return [route(self, pair) for pair in self._stored]


ROUTES: dict[str, Callable[[Sandbox, Query], Any]] = {
    "/fapi/v1/ping": lambda sandbox, query: {},
    "/fapi/v1/time": lambda sandbox, query: {"serverTime": sandbox.time_ms()},
    "/fapi/v1/exchangeInfo": Sandbox.exchange_info,
    "/fapi/v1/klines": Sandbox.klines,
    "/fapi/v1/markPriceKlines": Sandbox.mark_klines,
    "/fapi/v1/fundingRate": Sandbox.funding_rate,
    "/fapi/v1/fundingInfo": lambda sandbox, query: [],  # names unusual symbols only
    "/fapi/v1/premiumIndex": lambda sandbox, query: sandbox.each(query, Sandbox.premium_index),
    "/fapi/v1/ticker/24hr": lambda sandbox, query: sandbox.each(query, Sandbox.ticker_24h),
    "/fapi/v1/ticker/bookTicker": lambda sandbox, query: sandbox.each(query, Sandbox.book_ticker),
    "/fapi/v1/depth": Sandbox.depth,
    "/futures/data/openInterestHist": Sandbox.open_interest,
}


# ---- arithmetic ----


def symbol(pair: str) -> str:
    """Name a linear pair as Binance does: ``BTC/USDT:USDT`` is ``BTCUSDT``."""
    return pair.split(":")[0].replace("/", "")


def opening(times: Any, timeframe: str) -> Any:
    """Give the opening time of the candle in which a time (or each of an array) lies."""
    length, shift = INTERVALS[timeframe], 4 * DAY if timeframe == "1w" else 0  # weeks: Mondays
    return (times - shift) // length * length + shift


def summarise(values: Floats, at: Sequence[int] | Ints = (0,)) -> Floats:
    """Make one candle of each run of candles that begins at one of the rows `at`."""
    starts = np.asarray(at)
    ends = np.append(starts[1:], len(values)) - 1
    return np.column_stack(
        [
            values[starts, 0],
            np.maximum.reduceat(values[:, 1], starts),
            np.minimum.reduceat(values[:, 2], starts),
            values[ends, 3],
            np.add.reduceat(values[:, 4], starts),
        ]
    )


def resample(table: Table, fine: str, timeframe: str) -> Table:
    """Make coarser candles; those that the data cover at neither or only one end are left out."""
    times, values = table
    opened = opening(times, timeframe)
    starts = np.flatnonzero(np.diff(opened, prepend=-1))
    first = 0 if times[0] == opened[0] else 1
    whole_last = times[-1] + INTERVALS[fine] == opened[-1] + INTERVALS[timeframe]
    kept = slice(first, len(starts) if whole_last else len(starts) - 1)
    return Table(opened[starts][kept], summarise(values, starts)[kept])


def partial(candle: Floats, elapsed: float) -> Floats:
    """Give a candle as it stood after a share of its time; it only grows towards the whole."""
    opened, high, low, close, volume = candle
    path = [opened, low, high, close] if close >= opened else [opened, high, low, close]
    price = np.interp(elapsed, TURNS, path)
    seen = [*path[: bisect_right(TURNS, elapsed)], price]
    return np.array([opened, max(seen), min(seen), price, volume * min(elapsed, 1.0)])


def whole(query: Query, name: str, default: int, most: int = 2**62) -> int:
    """Read a whole number from a query."""
    try:
        number = int(query.get(name, default))
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise Refused(-1130, f"Data sent for parameter '{name}' is not valid.")
    return number


def select(times: Ints, query: Query, *, default: int, most: int) -> slice:
    """Apply ``startTime``, ``endTime`` (both inclusive) and ``limit``.

    With a start the first rows are given, without one the last, as Binance does.
    """
    limit = whole(query, "limit", default, most)
    last = int(np.searchsorted(times, whole(query, "endTime", 2**62), side="right"))
    if "startTime" not in query:
        return slice(max(last - limit, 0), last)
    first = int(np.searchsorted(times, whole(query, "startTime", 0)))
    return slice(first, max(min(first + limit, last), first))


def lines(times: Ints, values: Floats) -> Iterator[tuple[int, list[float]]]:
    """Pair times and rows as Python's own numbers, whose repr loses nothing."""
    return zip(times.tolist(), values.tolist(), strict=True)
