"""Coinalyze: long and short volume per period and symbol, and open interest.

A file is the answer of ``/v1/liquidation-history``, ``[{"symbol": "BTCUSDT_PERP.A", "history":
[{"t", "l", "s"}]}]``: ``t`` is the period's start in seconds UTC, ``l`` and ``s`` the volume of
long and short POSITIONS liquidated, in USD where the question had ``convert_to_usd=true``, else in
the base asset. It gives no counts. What it knows of Binance comes from Binance's sampled stream,
so it is a lower bound.

Free key, 40 calls a minute, of which each symbol counts as one. Days reach back for years;
of shorter periods only the last 1,500 to 2,000 are kept: a week of 5 minutes. What is older is
simply not in an answer.

Traps:

- A period without liquidations is absent: 0 between the first and the last period of an answer,
  unknown outside. So that a download joins what is stored, it asks for ``JOIN`` periods more on
  either side. Where a contract saw no liquidation in so many periods, a hole remains, because
  nothing proves that the vendor was listening; longer periods have less of them.
- The last period may still have been running. It is left out unless the answer is known to have
  been made two minutes after its end.
- Closed periods are revised now and then.
- Open interest ``t, o, h, l, c``: ``o`` is the value at ``t``, which is what Freqtrade's stamp
  means; ``c`` under that stamp would be the future. The amount is in the base asset for linear
  contracts; of inverse ones it would be in USD, so only the value is asked for.
- The funding rate is left out. Public programs that compared it found percent where exchanges
  give fractions, but nothing tells whether the rate that was paid at 08:00 stands under 08:00;
  ``freqtrade download-data`` gets it from the exchanges, for years.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from liquidations.archives import (
    LIQUIDATIONS,
    OPEN_INTEREST,
    About,
    Answer,
    Ask,
    Context,
    Options,
    Part,
    Wanted,
    parse_json,
)
from liquidations.archives.vendors import is_coarser, over_until, read_table, to_bars
from liquidations.candles import format_period, format_time
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import MINUTE, Ints, merge_intervals
from liquidations.pairs import is_inverse


#: Coinalyze's codes of the exchanges that this project knows (``/v1/exchanges``).
EXCHANGE_OF = {"A": "binance", "6": "bybit", "3": "okx", "H": "hyperliquid"}

#: The intervals that the API knows, in ms, and its names of them.
INTERVALS = {
    MINUTE: "1min",
    5 * MINUTE: "5min",
    15 * MINUTE: "15min",
    30 * MINUTE: "30min",
    60 * MINUTE: "1hour",
    120 * MINUTE: "2hour",
    240 * MINUTE: "4hour",
    360 * MINUTE: "6hour",
    720 * MINUTE: "12hour",
    1440 * MINUTE: "daily",
}
PERIODS = tuple(INTERVALS)

ABOUT = About(
    gives="long and short USD per period, open interest; no counts",
    exchanges=tuple(EXCHANGE_OF.values()),
    depth="days for years; shorter periods the last 1,500 to 2,000",
    complete="a lower bound: sums of what the exchanges publish",
    url="https://api.coinalyze.net/v1",
    key="COINALYZE_API_KEY",
    key_from="free, at https://coinalyze.net",
    header="api_key: {key}",
    kinds=(LIQUIDATIONS, OPEN_INTEREST),
    periods=PERIODS,
    per_minute=40,
)

#: So many periods more are asked for on either side, to join what is stored.
JOIN = 200

CATALOGUE = Ask("/future-markets", label="the contracts")

_LIQUIDATIONS, _OPEN_INTEREST = "/liquidation-history", "/open-interest-history"

_SYMBOL = re.compile(r"(?P<base>[A-Za-z0-9]+?)(?P<quote>USDT|USDC|USD)?(?:_PERP)?\.(?P<code>\w)")

_SHAPE = 'expected Coinalyze\'s answer [{"symbol": …, "history": [{"t": …, "l": …, "s": …}]}]'
_MARKETS = (
    'expected Coinalyze\'s markets [{"symbol": …, "exchange": …, "base_asset": …, '
    '"quote_asset": …, "is_perpetual": …, "margined": …}]'
)


def contract(symbol: str) -> tuple[str, str]:
    """Translate a symbol into exchange and pair.

    >>> contract("BTCUSDT_PERP.A"), contract("BTCUSDT.6"), contract("BTCUSD_PERP.A")
    (('binance', 'BTC/USDT:USDT'), ('bybit', 'BTC/USDT:USDT'), ('binance', 'BTC/USD:BTC'))
    >>> contract("BTC.H"), contract("kSHIB.H")
    (('hyperliquid', 'BTC/USDC:USDC'), ('hyperliquid', 'KSHIB/USDC:USDC'))

    :raises LiquidationsError: on a dated future, another exchange, or what is no symbol.
    """
    found = _SYMBOL.fullmatch(symbol) if isinstance(symbol, str) else None
    exchange = EXCHANGE_OF.get(found["code"]) if found else None
    if found is None or exchange is None or not (found["quote"] or exchange == "hyperliquid"):
        raise LiquidationsError(
            f"{symbol!r} is not the symbol of a perpetual of {', '.join(EXCHANGE_OF.values())}; "
            "expected for example BTCUSDT_PERP.A"
        )
    return exchange, _pair(exchange, found["base"], found["quote"], found["quote"] == "USD")


def _pair(exchange: str, base: str, quote: str | None, inverse: bool) -> str:
    if exchange == "hyperliquid":
        return f"{base.upper()}/USDC:USDC"  # ccxt writes kSHIB with a large K
    return f"{base}/{quote}:{base if inverse else quote}"


def period_of(times: Sequence[int]) -> int:
    """Find the period (ms) of the answer from the distances of its rows (s).

    It is the greatest interval of the API that divides them all. Where the rows are so sparse that
    this is longer than the interval asked for, the import's table shows it, and ``--timeframe``
    says better; sums over candles of that length or more are the same.

    :raises LiquidationsError: if there are fewer than two rows, or no interval divides them.
    """
    step = int(np.gcd.reduce(np.diff(times))) * 1000 if len(times) > 1 else 0
    fitting = [period for period in PERIODS if step and step % period == 0]
    if not fitting:
        raise LiquidationsError(
            "the period can't be told from the distance of the rows; give it with --timeframe"
        )
    return max(fitting)


def read(data: bytes, options: Options) -> list[Part]:
    """Read an answer into one part per symbol; ``options`` say its unit, and if need be its period.

    :raises LiquidationsError: on another shape or an error answer, or without a unit.
    """
    histories = _histories(data)
    if options.unit not in ("base", "usd"):
        raise LiquidationsError(
            "say the unit of the volumes: --unit usd if the answer was asked for with "
            "convert_to_usd=true, else --unit base"
        )
    return [
        _part(*contract(symbol), history, options.unit, options.period, options.made)
        for symbol, history in histories
        if history
    ]


def symbols(
    wanted: Collection[tuple[str, str]], catalogue: bytes | None
) -> dict[tuple[str, str], str]:
    """Find Coinalyze's symbols of perpetuals by exchange and pair; those it lacks are left out.

    :param catalogue: the answer to ``CATALOGUE``
    :raises LiquidationsError: if that is something else.
    """
    markets = _list(catalogue or b"", _MARKETS)
    names = ("symbol", "exchange", "base_asset", "quote_asset")
    known: dict[tuple[str, str], str] = {}
    written: dict[tuple[str, str], str] = {}
    for market in markets:
        if not all(isinstance(market.get(name), str) for name in names):
            raise LiquidationsError(_MARKETS)
        symbol, code, base, quote = (market[name] for name in names)
        exchange = EXCHANGE_OF.get(code)
        if exchange is None or market.get("is_perpetual") is not True:
            continue
        inverse = market.get("margined") == "COIN"
        known.setdefault((exchange, _pair(exchange, base, quote, inverse)), symbol)
        # The assets may be those of the coin (SHIB) where the contract holds 1,000 of them.
        with suppress(LiquidationsError):
            written.setdefault(contract(symbol), symbol)
    both = {**written, **known}
    return {one: both[one] for one in wanted if one in both}


def asks(wanted: Wanted) -> Iterator[Ask]:
    """List what to ask for; liquidations from ``JOIN`` periods before to as many after.

    :raises LiquidationsError: if Coinalyze has no such interval.
    """
    if wanted.period not in INTERVALS:
        raise LiquidationsError(
            f"Coinalyze has no periods of {format_period(wanted.period)}; it has "
            f"{', '.join(format_period(period) for period in PERIODS)}"
        )
    more = JOIN * wanted.period if wanted.kind == LIQUIDATIONS else 0
    # Both ends are inclusive; a period that begins at the end is none that is wanted.
    span = {
        "symbols": wanted.symbol,
        "interval": INTERVALS[wanted.period],
        "from": str((wanted.start - more) // 1000),
        "to": str((min(wanted.end + more, wanted.now) - 1) // 1000),
    }
    usd = {**span, "convert_to_usd": "true"}
    label = f"{format_time(wanted.start)} to {format_time(wanted.end)}"
    if wanted.kind == LIQUIDATIONS:
        yield Ask(_LIQUIDATIONS, usd, label=label)
        return
    if not is_inverse(wanted.pair):
        yield Ask(_OPEN_INTEREST, span, label=f"{label}, amount")
    yield Ask(_OPEN_INTEREST, usd, label=f"{label}, value")


def answer(data: bytes, ask: Ask, wanted: Wanted, options: Options) -> Answer:
    """Read the answer to a question; an empty one proves nothing, nor do rows of another time.

    :raises LiquidationsError: if it is no answer to that.
    """
    parts: list[Part | Context] = []
    for symbol, history in _histories(data):
        if symbol != wanted.symbol:
            raise LiquidationsError(f"asked for {wanted.symbol}, Coinalyze answered of {symbol!r}")
        if not history:
            continue
        exchange, pair, period = wanted.exchange, wanted.pair, wanted.period
        if ask.path == _LIQUIDATIONS:
            parts.append(_part(exchange, pair, history, "usd", period, options.made, ask))
        else:
            parts.append(_context(ask, wanted, history, options.made))
    return parts, None


def _list(data: bytes, shape: str) -> list[dict[str, Any]]:
    answer = parse_json(data)
    if isinstance(answer, dict) and "message" in answer:
        raise LiquidationsError(f"Coinalyze answered with an error: {answer['message']!r}")
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise LiquidationsError(shape)
    return answer


def _histories(data: bytes) -> list[tuple[Any, list[Any]]]:
    rows = _list(data, _SHAPE)
    if not all(isinstance(row.get("history"), list) for row in rows):
        raise LiquidationsError(_SHAPE)
    return [(row.get("symbol"), row["history"]) for row in rows]


def _asked(ask: Ask, time: Ints) -> np.ndarray:
    """Tell which rows are of the time that was asked for: between others nothing is known."""
    start, end = int(ask.query["from"]) * 1000, int(ask.query["to"]) * 1000
    return (time >= start) & (time <= end)


def _is_open_close(row: Any) -> bool:
    return isinstance(row, dict) and {"t", "o", "c"} <= row.keys()


def _part(
    exchange: str,
    pair: str,
    history: Sequence[Any],
    unit: str,
    period: int | None,
    made: int | None,
    ask: Ask | None = None,
) -> Part:
    if _is_open_close(history[0]):
        raise OtherAnswer(f"this is another answer of Coinalyze (open, close); {_SHAPE}")
    time, (long, short) = read_table(history, ("t", "l", "s"), _SHAPE, seconds=True)
    period = period or period_of((time // 1000).tolist())
    _check(f"{pair} on {exchange}", time, period)
    bars = to_bars(time, long, short)
    if ask is not None and not (asked := _asked(ask, time)).all():
        bars = bars.take(asked)
        time = bars.timestamp
        if not len(time):
            note = "all of its rows are of another time than was asked for"
            nothing = np.empty((0, 2), np.int64)
            return Part(exchange, pair, "coinalyze", bars, nothing, period, unit, note)
    end = min(int(time[-1]) + period, over_until(time, period, made))
    span = merge_intervals(np.array([[time[0], end]]))
    left = time[time + period > end]
    note = (
        f"its last period, {format_time(left[0])} UTC, may be partial and was left out"
        if len(left)
        else ""
    )
    bars = bars.take(time + period <= end)
    return Part(exchange, pair, "coinalyze", bars, span, period, unit, note)


def _context(ask: Ask, wanted: Wanted, history: Sequence[Any], made: int | None) -> Context:
    shape = 'expected Coinalyze\'s answer [{"symbol": …, "history": [{"t": …, "o": …, …}]}]'
    if not _is_open_close(history[0]):
        raise LiquidationsError(f"this is another answer of Coinalyze; {shape}")
    time, (value,) = read_table(history, ("t", "o"), shape, seconds=True)
    _check(wanted.symbol, time, wanted.period)
    # The opening value of a running period does not change, but it may not have settled yet.
    known = time + wanted.period <= over_until(time, wanted.period, made)
    known &= _asked(ask, time)
    time, value = time[known], value[known]
    columns = {
        "open_interest_amount": np.full(len(time), np.nan),
        "open_interest_value": np.full(len(time), np.nan),
    }
    usd = "convert_to_usd" in ask.query
    columns["open_interest_value" if usd else "open_interest_amount"] = value
    return Context(
        OPEN_INTEREST, wanted.exchange, wanted.pair, "coinalyze", wanted.period, time, columns
    )


def _check(name: str, time: np.ndarray, period: int) -> None:
    if np.any(time % period):
        raise LiquidationsError(
            f"{name}: rows do not start on full periods of {period // MINUTE} minutes; "
            "give the period that was asked for with --timeframe"
        )
    if is_coarser(time, period, PERIODS):
        raise LiquidationsError(
            f"{name}: all rows start on longer periods than {format_period(period)}, so they are "
            "no rows of that period"
        )
