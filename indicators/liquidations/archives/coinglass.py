"""CoinGlass (API v4): long and short USD per period of one contract of one exchange.

A file is the answer of ``/api/futures/liquidation/history``, ``{"code": "0", "msg": "success",
"data": [{"time", "long_liquidation_usd", "short_liquidation_usd"}]}``: ``time`` is the period's
start in ms UTC, the volumes are USD of long and short POSITIONS liquidated, written as text. The
answer does not say whose it is, so the file's name must: ``Binance_BTCUSDT_1h.json``, that is
CoinGlass's names of the exchange and of the contract and the interval, and if need be a dash and
more: ``OKX_BTC-USDT-SWAP_4h-2024.json``.

Paid key; how far back, how often and down to which interval it answers is the plan's (the cheapest
has 4h and longer, the next 30m). It gives no counts, and sums what the exchanges publish: a lower
bound.

Traps:

- Closed periods are revised later: in one archive of 140 daily downloads 56 % of Bitcoin's 4h
  periods. Which vintage a backtest reads is a setting.
- Nothing says what an absent period means. It is unknown: only periods that have a row are covered.
- The last period may still have been running. It is left out unless the answer is known to have
  been made two minutes after its end.
- Weeks (``1w``) are not read: they begin on Mondays, and days say more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from liquidations.archives import About, Answer, Ask, Options, Part, Wanted, parse_json
from liquidations.archives.vendors import (
    KeyRefused,
    TooMany,
    is_coarser,
    over_until,
    read_table,
    to_bars,
)
from liquidations.candles import format_period, format_time
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import DAY, MINUTE, merge_intervals


#: CoinGlass's names of the exchanges that this project knows.
NAMES = {"binance": "Binance", "bybit": "Bybit", "okx": "OKX", "hyperliquid": "Hyperliquid"}

#: The intervals that the API knows, in ms, without the week.
PERIODS = (
    *(MINUTE * n for n in (1, 3, 5, 15, 30, 60)),
    *(60 * MINUTE * n for n in (4, 6, 8, 12)),
    DAY,
)

ABOUT = About(
    gives="long and short USD per period; no counts",
    exchanges=tuple(NAMES),
    depth="by plan",
    complete="a lower bound: sums of what the exchanges publish",
    files=("*_*_*.json",),
    url="https://open-api-v4.coinglass.com",
    key="COINGLASS_API_KEY",
    key_from="with a paid plan of https://www.coinglass.com",
    header="CG-API-KEY: {key}",
    periods=PERIODS,
    # Of the cheapest plan.
    per_minute=30,
)

#: Periods of one answer at most.
PAGE = 1000

CATALOGUE = Ask("/api/futures/supported-exchange-pairs", label="the contracts")

# A contract without a quote is inverse, except on Hyperliquid, whose quote is left empty.
_CONTRACT = {
    "binance": re.compile(r"(?P<base>[^\W_]+?)(?:(?P<quote>USDT|USDC|BUSD)|USD_PERP)"),
    "bybit": re.compile(r"(?P<base>[^\W_]+?)(?:(?P<quote>USDT|PERP)|USD)"),
    "okx": re.compile(r"(?P<base>[^\W_]+)-(?:(?P<quote>USDT|USDC)|USD)-SWAP"),
    "hyperliquid": re.compile(r"(?P<base>[^\W_]+?)(?:-?USDC?)?(?P<quote>)"),
}
_QUOTE = {"PERP": "USDC", "": "USDC"}

_NAME = re.compile(
    r"(?P<exchange>[A-Za-z]+)_(?P<symbol>.+)_(?P<interval>[0-9]+[mhd])(?:-.*)?\.json"
)

_TOO_MANY = re.compile("too many|too frequent|rate limit", re.IGNORECASE)
_KEY = re.compile("(api|secret)[ _-]?key", re.IGNORECASE)
_PLAN = re.compile("upgrade|plan", re.IGNORECASE)

_FIELDS = ("time", "long_liquidation_usd", "short_liquidation_usd")
_SHAPE = (
    'expected CoinGlass\'s answer {"code": "0", "data": [{"time": …, "long_liquidation_usd": …, '
    '"short_liquidation_usd": …}]}'
)
_PAIRS = (
    'expected CoinGlass\'s pairs {"code": "0", "data": {"Binance": [{"instrument_id": "BTCUSDT", …'
)


def contract(exchange: str, symbol: str) -> str | None:
    """Translate CoinGlass's name of a contract into a pair; None if it is no perpetual in dollars.

    >>> contract("binance", "BTCUSDT"), contract("binance", "BTCUSD_PERP")
    ('BTC/USDT:USDT', 'BTC/USD:BTC')
    >>> contract("okx", "BTC-USDT-SWAP"), contract("hyperliquid", "kSHIB")
    ('BTC/USDT:USDT', 'KSHIB/USDC:USDC')
    >>> contract("binance", "BTCUSDT_260925")
    """
    found = _CONTRACT[exchange].fullmatch(symbol)
    if found is None:
        return None
    base, quote = found["base"], found["quote"]
    if quote is None:
        return f"{base}/USD:{base}"
    if exchange == "hyperliquid":
        base = base.upper()  # ccxt writes kSHIB with a large K
    quote = _QUOTE.get(quote, quote)
    return f"{base}/{quote}:{quote}"


def read(data: bytes, options: Options) -> list[Part]:
    """Read an answer into one part; ``options.name`` says whose it is.

    :raises LiquidationsError: on another shape, an error answer, or a name of another form.
    """
    rows = _data(data, list, _SHAPE)
    found = _NAME.fullmatch(options.name)
    exchange = next((own for own, name in NAMES.items() if found and found[1] == name), None)
    pair = contract(exchange, found["symbol"]) if found and exchange else None
    length = {format_period(period): period for period in PERIODS}
    if found is None or exchange is None or pair is None or found["interval"] not in length:
        raise LiquidationsError(
            f"CoinGlass's answer does not say whose it is, and the file's name {options.name!r} "
            f"neither; call it <exchange>_<contract>_<interval>.json, as Binance_BTCUSDT_1h.json. "
            f"Exchanges: {', '.join(NAMES.values())}; intervals: {', '.join(length)}"
        )
    return _parts(rows, exchange, pair, length[found["interval"]], options.made)


def symbols(
    wanted: Collection[tuple[str, str]], catalogue: bytes | None
) -> dict[tuple[str, str], str]:
    """Find CoinGlass's names of perpetuals by exchange and pair; those it lacks are left out.

    :param catalogue: the answer to ``CATALOGUE``
    :raises LiquidationsError: if that is something else.
    """
    listed = _data(catalogue or b"", dict, _PAIRS)
    known: dict[tuple[str, str], str] = {}
    for exchange, name in NAMES.items():
        markets = listed.get(name, [])
        if not isinstance(markets, list):
            raise LiquidationsError(_PAIRS)
        for market in markets:
            symbol = market.get("instrument_id") if isinstance(market, dict) else None
            if not isinstance(symbol, str):
                raise LiquidationsError(_PAIRS)
            if (pair := contract(exchange, symbol)) is not None:
                known.setdefault((exchange, pair), symbol)
    return {one: known[one] for one in wanted if one in known}


def asks(wanted: Wanted) -> Iterator[Ask]:
    """List what to ask for, ``PAGE`` periods at a time, from the full period on that begins it.

    :raises LiquidationsError: if CoinGlass has no such interval.
    """
    if wanted.period not in PERIODS:
        raise LiquidationsError(
            f"CoinGlass has no periods of {format_period(wanted.period)}; it has "
            f"{', '.join(format_period(period) for period in PERIODS)}"
        )
    step = PAGE * wanted.period
    first = wanted.start // wanted.period * wanted.period
    for start in range(first, wanted.end, step):
        end = min(start + step, wanted.end)
        yield Ask(
            "/api/futures/liquidation/history",
            {
                "exchange": NAMES[wanted.exchange],
                "symbol": wanted.symbol,
                "interval": format_period(wanted.period),
                "limit": str(PAGE),
                "start_time": str(start),
                "end_time": str(end - 1),
            },
            label=f"{format_time(start)} to {format_time(end)}",
        )


def answer(data: bytes, ask: Ask, wanted: Wanted, options: Options) -> Answer:
    """Read the answer to a question; an empty one proves nothing, nor do rows of another time.

    :raises LiquidationsError: if it is no answer to that.
    """
    rows = _data(data, list, _SHAPE)
    asked = int(ask.query["start_time"]), int(ask.query["end_time"])
    return [*_parts(rows, wanted.exchange, wanted.pair, wanted.period, options.made, asked)], None


def _data(data: bytes, kind: type, shape: str) -> Any:
    answer = parse_json(data)
    if not isinstance(answer, dict) or "code" not in answer:
        raise LiquidationsError(shape)
    code, said = str(answer["code"]), str(answer.get("msg"))
    if code != "0":
        # Its codes have changed with its versions; a plan may be too small for one interval only.
        kind = LiquidationsError
        if code == "429" or _TOO_MANY.search(said):
            kind = TooMany
        elif _KEY.search(said) or (code in ("401", "403") and not _PLAN.search(said)):
            kind = KeyRefused
        raise kind(f"CoinGlass answered with the error {code!r}: {said!r}")
    if not isinstance(answer.get("data"), kind):
        raise OtherAnswer(f"this is another answer of CoinGlass; {shape}")
    return answer["data"]


def _parts(
    rows: list[Any],
    exchange: str,
    pair: str,
    period: int,
    made: int | None,
    asked: tuple[int, int] | None = None,
) -> list[Part]:
    if not rows:
        return []
    if isinstance(rows[0], dict) and _FIELDS[0] in rows[0] and _FIELDS[1] not in rows[0]:
        raise OtherAnswer(f"this is another answer of CoinGlass; {_SHAPE}")
    time, (long, short) = read_table(rows, _FIELDS, _SHAPE)
    if np.any(time % period) or is_coarser(time, period, PERIODS):
        raise LiquidationsError(
            f"{pair} on {exchange}: these are no periods of {format_period(period)}; "
            "see that the file is named by its interval"
        )
    over = time + period <= over_until(time, period, made)
    if asked is not None:
        over &= (time >= asked[0]) & (time <= asked[1])
    note = "" if over.all() else "its last period may be partial and was left out"
    bars = to_bars(time, long, short).take(over)
    span = merge_intervals(np.column_stack((bars.timestamp, bars.timestamp + period)))
    return [Part(exchange, pair, "coinglass", bars, span, period, "usd", note)]
