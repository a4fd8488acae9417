"""Coinalyze ``/v1/liquidation-history``: long and short volume per period, by symbol.

A file is the answer ``[{"symbol": "BTCUSDT_PERP.A", "history": [{"t", "l", "s"}]}]``: ``t`` is the
period's start in seconds UTC, ``l`` and ``s`` the volume of long and short POSITIONS liquidated, in
USD where the question had ``convert_to_usd=true``, else in the base asset. Free key, 40 calls a
minute; intraday only the last 1,500 to 2,000 periods, daily for years. It gives no counts. What it
knows of Binance comes from Binance's sampled stream, so it is a lower bound.

Traps: a period without liquidations is absent: 0 between the first and the last period of the
answer, unknown outside. The last period of an answer may still have been running when it was
asked for, and nothing in the answer tells, so it is left out; the next answer brings it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from liquidations.archives import Options, Part, parse_json
from liquidations.candles import format_time
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import EARLIEST, LATEST, MINUTE, Bars


#: Coinalyze's codes of the exchanges that this project knows (``/v1/exchanges``).
EXCHANGE_OF = {"A": "binance", "6": "bybit", "3": "okx", "H": "hyperliquid"}

#: The intervals that the API knows, in ms.
PERIODS = tuple(MINUTE * n for n in (1, 5, 15, 30, 60, 120, 240, 360, 720, 1440))

_SYMBOL = re.compile(r"(?P<base>[A-Za-z0-9]+?)(?P<quote>USDT|USDC|USD)?(?:_PERP)?\.(?P<code>\w)")
# Coins of the cheapest perpetuals are counted in 10**15.
_MOST = 1e24

_SHAPE = 'expected Coinalyze\'s answer [{"symbol": …, "history": [{"t": …, "l": …, "s": …}]}]'


def contract(symbol: str) -> tuple[str, str]:
    """Translate a symbol into exchange and pair.

    >>> contract("BTCUSDT_PERP.A"), contract("BTCUSDT.6"), contract("BTCUSD_PERP.A")
    (('binance', 'BTC/USDT:USDT'), ('bybit', 'BTC/USDT:USDT'), ('binance', 'BTC/USD:BTC'))
    >>> contract("BTC.H")
    ('hyperliquid', 'BTC/USDC:USDC')

    :raises LiquidationsError: on a dated future, another exchange, or what is no symbol.
    """
    found = _SYMBOL.fullmatch(symbol) if isinstance(symbol, str) else None
    exchange = EXCHANGE_OF.get(found["code"]) if found else None
    if found is None or exchange is None or not (found["quote"] or exchange == "hyperliquid"):
        raise LiquidationsError(
            f"{symbol!r} is not the symbol of a perpetual of {', '.join(EXCHANGE_OF.values())}; "
            "expected for example BTCUSDT_PERP.A"
        )
    base, quote = found["base"], found["quote"] or "USDC"
    return exchange, f"{base}/{quote}:{base if quote == 'USD' else quote}"


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


def _columns(history: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first = history[0]
    if isinstance(first, dict) and {"t", "o", "c"} <= first.keys():
        raise OtherAnswer(f"this is another answer of Coinalyze (open, close); {_SHAPE}")
    try:
        time = np.array([int(row["t"]) for row in history], dtype=np.int64)
        long = np.array([float(row["l"]) for row in history])
        short = np.array([float(row["s"]) for row in history])
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise LiquidationsError(
            f"a row lacks a readable t, l or s ({error!r}); the first is {first!r}. {_SHAPE}"
        ) from error
    ms = time * 1000
    if np.any((ms < EARLIEST) | (ms > LATEST)):
        raise LiquidationsError(f"t must be in seconds UTC between 2009 and 2100, got {time[0]}")
    if not np.all((long >= 0) & (short >= 0) & (long + short < _MOST)):
        raise LiquidationsError("a volume (l or s) is negative, not a number, or beyond all reason")
    order = np.argsort(time, kind="stable")
    if np.any(np.diff(time[order]) == 0):
        raise LiquidationsError("a period stands twice in one history; fetch the answer again")
    return ms[order], long[order], short[order]


def read(data: bytes, options: Options) -> list[Part]:
    """Read an answer into one part per symbol; ``options`` say its unit, and if need be its period.

    :raises LiquidationsError: on another shape or an error answer, or without a unit.
    """
    answer = parse_json(data)
    if isinstance(answer, dict) and "message" in answer:
        raise LiquidationsError(f"Coinalyze answered with an error: {answer['message']!r}")
    if not isinstance(answer, list) or not all(
        isinstance(part, dict) and isinstance(part.get("history"), list) for part in answer
    ):
        raise LiquidationsError(_SHAPE)
    if options.unit not in ("base", "usd"):
        raise LiquidationsError(
            "say the unit of the volumes: --unit usd if the answer was asked for with "
            "convert_to_usd=true, else --unit base"
        )
    return [
        _part(part.get("symbol"), part["history"], options.unit, options.period)
        for part in answer
        if part["history"]
    ]


def _part(symbol: Any, history: Sequence[Any], unit: str, period: int | None) -> Part:
    exchange, pair = contract(symbol)
    time, long, short = _columns(history)
    period = period or period_of((time // 1000).tolist())
    if np.any(time % period):
        raise LiquidationsError(
            f"{symbol}: rows do not start on full periods of {period // MINUTE} minutes; "
            "give the period that was asked for with --timeframe"
        )
    unknown = np.full(len(time), np.nan)
    bars = Bars(time, long, short, unknown, unknown, unknown, unknown).take(slice(None, -1))
    span = np.array([[time[0], time[-1]]])
    note = f"its last period, {format_time(time[-1])} UTC, may be partial and was left out"
    return Part(exchange, pair, "coinalyze", bars, span, period, unit, note)
