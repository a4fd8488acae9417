"""Binance: what its liquidation stream says, USDⓈ-M ("linear") and COIN-M ("inverse").

Channel: ``!forceOrder@arr``, one subscription for a whole market, at ``…/market/ws`` of USDⓈ-M
(the old ``/ws`` still acknowledges, but stays silent since 2026-04-23; ccxt's ``get_ws_url`` does
the same) and ``…/ws`` of COIN-M. Orders of COIN-M can show up on USDⓈ-M's: the symbol decides.

An order ``o`` of an event ``forceOrder`` (Binance's documentation, "All Market Liquidation Order
Streams"; recorded frames of 2020 to 2026):

- ``S`` is the side of the ORDER that closed the position: ``SELL`` closed a LONG.
- ``z`` is what was filled in total, ``l`` only by the last fill (recorded: 116.5 and 25.2). In
  base units; of COIN-M in contracts of 100 USD (BTC) or 10 USD.
- ``ap`` is the average price; ``p`` is the order's limit, at times far away, and not read.
- ``X`` is the order's status. What counts is what was filled: an expired order that was filled in
  part did liquidate, an order with nothing filled did not.
- ``T`` is the order's time, ``E`` of the event when the message was sent, both in ms.

Completeness: a SAMPLE, at most one order per symbol and second, see ``REGIMES``. An order has no
number: if its parts come in two messages, they count as two orders. Keep-alive: the server pings;
a connection lives 24 h. Companion: the mark price of Bitcoin, each second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from liquidations.event import EARLIEST, LATEST, LONG, SHORT
from liquidations.exchanges.frames import (
    MALFORMED,
    Contract,
    Frame,
    Order,
    Request,
    bad,
    moment,
    perpetuals,
    positive,
    reason,
    token,
)


CHANNELS: Mapping[str, bool] = {"linear": False, "inverse": True}

#: One message per symbol and second, sent at the second's end; recorded: E - T = 1,005, 1,012 ms.
DELAY = 1_000
#: The mark price, each second.
TICK = 1_000
#: One subscription is the whole market.
NAMES = ""

_COMPANIONS = {"linear": "btcusdt@markPrice@1s", "inverse": "btcusd_perp@markPrice@1s"}

_SIDE = {"SELL": LONG, "BUY": SHORT}

#: Status → whether something may have been filled (Binance's documentation, "Order Status").
_STATUS = {
    "FILLED": True,
    "PARTIALLY_FILLED": True,
    "CANCELED": True,
    "EXPIRED": True,
    "EXPIRED_IN_MATCH": True,
    "NEW": False,
    "REJECTED": False,
}

_new = tuple.__new__

_EXPECTED = (
    "an event forceOrder (E; o: s, S BUY or SELL, X, z, ap, T) or markPriceUpdate (E), "
    "or the answer to a request (id; result or error)"
)


def address(urls: Any, channel: str) -> str:
    """Return the URL to dial, from ccxt's ``urls["api"]["ws"]``; one of your own stays as it is.

    >>> address({"linear": "wss://fstream.binance.com/ws"}, "linear")
    'wss://fstream.binance.com/market/ws'
    """
    url = str(urls[channel])
    # As ccxt's get_ws_url: only what ends in /ws, and no URL that contains another one.
    if channel == "linear" and url.endswith("/ws") and url.count("://") < 2:
        if url.endswith("/market/ws"):
            return url
        return f"{url.removesuffix('/ws')}/market/ws"
    return url


def contracts(markets: Iterable[Mapping[str, Any]]) -> dict[str, Contract]:
    """Map the symbols of messages to perpetuals, from ccxt's markets."""
    return {
        market["id"]: Contract(
            market["symbol"], float(market["contractSize"]) if inverse else 1.0, inverse
        )
        for market, inverse in perpetuals(markets)
    }


def requests(channel: str, names: Sequence[str] = ()) -> list[Request]:
    """List the one message to send: the stream is the whole market's, whatever the names."""
    params = ["!forceOrder@arr", _COMPANIONS[channel]]
    return [Request({"method": "SUBSCRIBE", "params": params, "id": 1}, "1")]


def read(message: Any) -> Frame:
    """Read one decoded message, bare or wrapped in its stream's name.

    :raises BadFrame: if it is none of Binance's, or not one of those that were asked for.
    """
    try:
        data = message["data"] if "stream" in message else message
        if "e" not in data:
            return _answer(data)
        kind = data["e"]
        if kind == "forceOrder":
            order = data["o"]
            symbol, time, filled, average = order["s"], order["T"], order["z"], order["ap"]
            side, counts = _SIDE[order["S"]], _STATUS[order["X"]]
            if (filled + average).strip("0123456789."):
                size, price = positive(filled), positive(average)
            else:
                size, price = float(filled), float(average)
            if (
                type(symbol) is str
                and symbol
                and type(time) is int
                and EARLIEST <= time <= LATEST
                and 0.0 < size < 1e18
                and 0.0 < price < 1e18
            ):
                orders = (_new(Order, (symbol, time, side, price, size, None)),) if counts else ()
                # What name() and moment() and the tuples' own making would do, in half the time:
                # this is what arrives by the thousand in a crash.
                sent = data.get("E")
                if type(sent) is int and EARLIEST <= sent <= LATEST:
                    return _new(Frame, (orders, sent, None, None, False))
                raise bad(message, _EXPECTED, orders)
            if size == 0.0:
                return Frame((), moment(data["E"]))
        elif kind == "markPriceUpdate":
            return Frame((), moment(data["E"]), tick=True)
    except MALFORMED as error:
        raise bad(message, _EXPECTED) from error
    raise bad(message, _EXPECTED)


def _answer(data: Any) -> Frame:
    error = data.get("error", data if "code" in data else None)
    if error is not None:
        return Frame((), None, token(data.get("id")), reason(error["msg"], error["code"]))
    if data["result"] is not None:
        raise ValueError("an answer to a question that nobody asked")
    return Frame((), None, token(data["id"]))
