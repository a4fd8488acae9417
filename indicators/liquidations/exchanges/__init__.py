"""One module per exchange: raw message or row → events. Pure, no socket, clock or file. Floor 1."""

from __future__ import annotations

from importlib import import_module
from typing import cast

import numpy as np

from liquidations.errors import LiquidationsError
from liquidations.event import Ints
from liquidations.exchanges.frames import Adapter


#: The exchanges whose liquidations can be stored and read, by their ccxt ids.
EXCHANGES = ("binance", "bybit", "okx", "hyperliquid")

#: What of its liquidations an exchange publishes: all; of each second the latest order (or one that
#: does not depend on the sizes), or the largest; or less than all by no rule that could be undone.
KINDS = {
    "complete": "all orders",
    "latest": "one order per symbol and second",
    "largest": "the largest order per symbol and second",
    "partial": "a part, by no known rule",
}


def _day(date: str) -> int:
    return int(np.datetime64(date, "ms").astype(np.int64))


#: From when (ms UTC) an exchange published what, in order of time; the first holds from the start.
#: Only the days are known, not the hours. An archive of another origin may say more or less.
REGIMES: dict[str, tuple[tuple[int, str], ...]] = {
    "binance": (
        (0, "complete"),
        # Binance, April 2021: once a second "to optimize user data flow". Its documents, until
        # 2026: "only the latest one liquidation order within 1000ms will be pushed".
        (_day("2021-04-27"), "latest"),
        # The same page since: "only the largest one liquidation order within 1000ms".
        (_day("2026-04-14"), "largest"),
    ),
    "bybit": (
        (0, "complete"),
        # Bybit, September 2021 (the day is not known): "at most one order per second per symbol".
        # Which one is not documented; so nothing may be read from its size.
        (_day("2021-09-01"), "latest"),
        # The topic allLiquidation: "push all liquidations that occur on Bybit".
        (_day("2025-02-26"), "complete"),
    ),
    # OKX, channel liquidation-orders: its data "doesn't represent the total number".
    "okx": ((0, "partial"),),
    # There is no public feed; the vaults' fills are those in which they took part. The full node's
    # files are complete.
    "hyperliquid": ((0, "partial"),),
}


def regime(exchange: str, time: Ints) -> np.ndarray:
    """Tell what an exchange published at given times.

    :param exchange: ccxt id
    :param time: int64 ms UTC, of any shape
    :return: array of that shape of one of ``KINDS``: see ``REGIMES``, which names the sources
    :raises LiquidationsError: if the exchange is not known

    >>> regime("bybit", np.array([1_740_527_999_999, 1_740_528_000_000])).tolist()
    ['latest', 'complete']
    """
    if exchange not in REGIMES:
        raise LiquidationsError(f"unknown exchange {exchange!r}; known: {', '.join(REGIMES)}")
    starts, kinds = zip(*REGIMES[exchange], strict=True)
    return np.array(kinds)[np.maximum(np.searchsorted(starts, time, side="right") - 1, 0)]


def regimes_within(exchange: str, start: int, end: int) -> list[tuple[int, int, str]]:
    """List what an exchange published from ``start`` to ``end`` (ms UTC): (from, to, kind).

    >>> regimes_within("bybit", 1_740_000_000_000, 1_741_000_000_000)[1]
    (1740528000000, 1741000000000, 'complete')
    """
    starts, kinds = zip(*REGIMES[exchange], strict=True)
    parts = zip(starts, (*starts[1:], end), kinds, strict=True)
    cut = [(max(first, start), min(last, end), kind) for first, last, kind in parts]
    return [(first, last, kind) for first, last, kind in cut if first < last]


def adapter(exchange: str) -> Adapter:
    """Return the module that reads an exchange's live feed.

    :param exchange: ccxt id
    :raises LiquidationsError: if the exchange is not known
    """
    if exchange not in EXCHANGES:
        raise LiquidationsError(f"unknown exchange {exchange!r}; known: {', '.join(EXCHANGES)}")
    return cast(Adapter, import_module(f"liquidations.exchanges.{exchange}"))
