"""Bybit: what its liquidation topics say, of USDT and USDC contracts ("linear") and "inverse" ones.

Topics: ``allLiquidation.{symbol}`` at ``/v5/public/linear`` and ``/v5/public/inverse``, one topic
per symbol, no wildcard; 200 topics fit a request, 805 on one connection were measured. ``data`` is
a list, pushed each 500 ms (Bybit's documentation, "All Liquidation"; recorded frames):

- ``S`` is the side of the POSITION: ``Buy`` means that a LONG was liquidated (documented; measured
  against the order book). That is the opposite of the other exchanges.
- ``v`` is the size: in base units; of inverse contracts in USD, whatever ccxt's contractSize says
  (that is their smallest order).
- ``p`` is the bankruptcy price.
- ``T`` is the order's time; ``ts`` is when the frame was sent, both in ms.

The retired topic ``liquidation.{symbol}``, of old recordings, had one object with ``updatedTime``,
``symbol``, ``side`` (of the position too), ``size`` and ``price``.

Completeness: all liquidations since 2025-02-26, see ``REGIMES``. Keep-alive: a ping each 20 s,
which ccxt sends. Companion: the ticker of Bitcoin, pushed when it changes and at most each 100 ms;
asked for in a request of its own, so that a refused symbol can't take it down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from liquidations.event import LONG, SHORT
from liquidations.exchanges.frames import (
    ALIVE,
    MALFORMED,
    Contract,
    Frame,
    Order,
    Request,
    bad,
    moment,
    perpetuals,
    read_order,
    read_orders,
    reason,
    token,
)


CHANNELS: Mapping[str, bool] = {"linear": False, "inverse": True}

#: Pushed each 500 ms; recorded: ts - T = 211 to 468 ms.
DELAY = 700
#: Bitcoin's ticker changes several times a second; on the inverse market it may rest for some.
TICK = 5_000
#: Symbols are subscribed to, one topic each.
NAMES = "symbols"

#: Topics of one request.
MOST_TOPICS = 200

_COMPANIONS = {"linear": "tickers.BTCUSDT", "inverse": "tickers.BTCUSD"}

_SIDE = {"Buy": LONG, "Sell": SHORT}

_EXPECTED = (
    "a topic allLiquidation (ts; data: T, s, S Buy or Sell, v, p) or tickers (ts), "
    "or the answer to a request (success, ret_msg, req_id)"
)


def address(urls: Any, channel: str) -> str:
    """Return the URL to dial, from ccxt's ``urls["api"]["ws"]``.

    Its ``{hostname}`` is left for ccxt's ``implode_hostname``, which knows the configured one.

    >>> address({"public": {"linear": "wss://stream.{hostname}/v5/public/linear"}}, "linear")
    'wss://stream.{hostname}/v5/public/linear'
    """
    return str(urls["public"][channel])


def contracts(markets: Iterable[Mapping[str, Any]]) -> dict[str, Contract]:
    """Map the symbols of messages to perpetuals, from ccxt's markets."""
    return {
        market["id"]: Contract(market["symbol"], 1.0, inverse)
        for market, inverse in perpetuals(markets)
    }


def requests(channel: str, names: Sequence[str] = ()) -> list[Request]:
    """List what to send: the companion, and the topics of the symbols, 200 a request.

    >>> [one.token for one in requests("linear", ["BTCUSDT", "ETHUSDT"])]
    ['companion', 'BTCUSDT-2']
    """
    found = [_request("companion", [_COMPANIONS[channel]])]
    for first in range(0, len(names), MOST_TOPICS):
        part = tuple(names[first : first + MOST_TOPICS])
        topics = [f"allLiquidation.{symbol}" for symbol in part]
        # Other parts of a list have other tokens: they may be asked for at the same time.
        found.append(_request(f"{part[0]}-{len(part)}", topics, part))
    return found


def _request(own: str, topics: list[str], names: tuple[str, ...] = ()) -> Request:
    return Request({"op": "subscribe", "req_id": own, "args": topics}, own, names)


def read(message: Any) -> Frame:
    """Read one decoded message.

    :raises BadFrame: if it is none of Bybit's, or not one of those that were asked for.
    """
    try:
        topic = message.get("topic")
        if topic is None:
            return _answer(message)
        kind = topic.partition(".")[0]
        if kind == "allLiquidation":
            return read_orders(message["data"], _order, _EXPECTED, message.get("ts"))
        if kind == "tickers":
            return Frame((), moment(message["ts"]), tick=True)
        if kind == "liquidation":
            return read_orders([message["data"]], _old_order, _EXPECTED, message.get("ts"))
    except MALFORMED as error:
        raise bad(message, _EXPECTED) from error
    raise bad(message, _EXPECTED)


def _order(row: Any) -> tuple[Order]:
    return (read_order(row["s"], row["T"], _SIDE[row["S"]], row["p"], row["v"]),)


def _old_order(row: Any) -> tuple[Order]:
    side, at = _SIDE[row["side"]], row["updatedTime"]
    return (read_order(row["symbol"], at, side, row["price"], row["size"]),)


def _answer(message: Any) -> Frame:
    # Bybit answers pings in three ways, by product (ccxt's handle_pong).
    if message.get("op") == "pong" or message.get("ret_msg") == "pong" or "pong" in message:
        return ALIVE
    own = token(message.get("req_id"))
    if message.get("success") is True and message.get("op") == "subscribe":
        return Frame((), None, own)
    if message.get("success") is False:
        return Frame((), None, own, reason(message["ret_msg"]))
    if "code" in message:
        return Frame((), None, own, reason(message["desc"], message["code"]))
    raise ValueError("an answer to a question that nobody asked")
