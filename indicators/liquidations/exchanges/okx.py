"""OKX swaps: what a liquidation order says.

Channel ``liquidation-orders`` with ``instType: SWAP`` at ``/ws/v5/public``, one subscription for
the whole exchange, and REST ``/api/v5/public/liquidation-orders`` (about the last 24 h, 100 rows a
page) give the same fields:

- ``side`` is the side of the ORDER that closed the position: ``sell`` closed a LONG. ``posSide``
  says ``net`` for accounts in net mode and is absent from the REST rows, so it is not read.
- ``sz`` is in contracts: linear amount = sz × ctVal × ctMult in base units; for an inverse swap
  the same product is in USD.
- ``bkPx`` is the bankruptcy price, in quote per base.
- ``ts`` is in ms.

The channel's frames don't say when they were sent, and orders are not in order of time: the first
one after subscribing is an old one. So only the companion tells the time: Bitcoin's mark price,
each 200 ms when it changes and each 10 s when it does not (OKX's documentation of the channel
``mark-price``).

Completeness: "doesn't represent the total number of liquidations" (OKX's documentation of the
channel), so what is stored is a lower bound. Contract sizes: ``/api/v5/public/instruments``.
Keep-alive: the text ``ping`` within 30 s, which ccxt sends; the answer is the text ``pong``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from liquidations.errors import LiquidationsError
from liquidations.event import LONG, SHORT, Events
from liquidations.exchanges.frames import (
    ALIVE,
    MALFORMED,
    Contract,
    Frame,
    Order,
    Request,
    bad,
    is_dollar,
    moment,
    name,
    order_events,
    positive,
    read_order,
    read_orders,
    reason,
    token,
)


CHANNELS: Mapping[str, bool] = {"swap": False}

#: Not documented; an assumption.
DELAY = 1_000
#: The mark price, when it does not change.
TICK = 10_000
#: One subscription is the whole market.
NAMES = ""

_SIDE = {"sell": LONG, "buy": SHORT}

_ORDER = "a liquidation order of OKX: ts, side (buy or sell), bkPx, sz"
_EXPECTED = (
    "channel liquidation-orders (data: instId, details: ts, side buy or sell, bkPx, sz) or "
    "mark-price (data: ts), an event subscribe, error or notice, or pong"
)


def address(urls: Any, channel: str) -> str:
    """Return the URL to dial, from ccxt's ``urls["api"]["ws"]``.

    >>> address("wss://ws.okx.com:8443/ws/v5", "swap")
    'wss://ws.okx.com:8443/ws/v5/public'
    """
    return f"{urls}/public"


def contracts(markets: Iterable[Mapping[str, Any]]) -> dict[str, Contract]:
    """Map ``instId`` to the swaps that are quoted in dollars.

    :param markets: ccxt's, or the rows of the exchange's instruments answer
    :raises LiquidationsError: if the row of a swap, that can be traded, lacks what the size of a
        contract is made of.
    """
    found = {}
    for market in markets:
        row = market.get("info", market)
        if row.get("instType") != "SWAP":
            continue
        try:
            base, quote = row["uly"].split("-")
            settle, own = str(row["settleCcy"]), str(row["instId"])
            inverse = {"linear": False, "inverse": True}[row["ctType"]]
            size = positive(row["ctVal"]) * positive(row["ctMult"])
            if not (base and quote and settle and own and 0 < size < float("inf")):
                raise ValueError("a field is empty or zero")
        except MALFORMED as error:
            if row.get("state", "live") != "live":
                continue  # announced: OKX gives such a row before it is complete
            raise LiquidationsError(
                f"the instrument {row.get('instId')!r} lacks a readable instId, uly, settleCcy, "
                "ctType, ctVal or ctMult; give the data of OKX's "
                "/api/v5/public/instruments?instType=SWAP"
            ) from error
        if is_dollar(quote):
            pair = market.get("symbol", f"{base}/{quote}:{settle}")
            found[own] = Contract(pair, size, inverse)
    return found


def requests(channel: str, names: Sequence[str] = ()) -> list[Request]:
    """List what to send: the channel is the whole exchange's, whatever the names."""
    wanted = (
        {"channel": "mark-price", "instId": "BTC-USDT-SWAP"},
        {"channel": "liquidation-orders", "instType": "SWAP"},
    )
    return [
        Request({"id": _own(one), "op": "subscribe", "args": [one]}, _own(one)) for one in wanted
    ]


def _own(argument: Mapping[str, Any]) -> str:
    """Name a request: letters and digits only, as OKX wants it."""
    return str(argument["channel"]).replace("-", "")


def read(message: Any) -> Frame:
    """Read one decoded message, or the text ``pong``.

    :raises BadFrame: if it is none of OKX's, or not one of those that were asked for.
    """
    try:
        if type(message) is str and message == "pong":
            return ALIVE
        event = message.get("event")
        if event is not None:
            return _answer(message, event)
        channel = message["arg"]["channel"]
        if channel == "liquidation-orders":
            return read_orders(message["data"], _group, _EXPECTED)
        if channel == "mark-price":
            return Frame((), moment(message["data"][0]["ts"]), tick=True)
    except MALFORMED as error:
        raise bad(message, _EXPECTED) from error
    raise bad(message, _EXPECTED)


def orders(details: Sequence[Mapping[str, Any]], contract: Contract) -> Events:
    """Read liquidation orders of one contract into events in order of time.

    :raises LiquidationsError: on a row that is no liquidation order.
    """
    found = read_orders(list(details), partial(_order, "one"), _ORDER).orders
    return order_events(found, {"one": contract}).get(contract.pair, Events.concat([]))


def _group(row: Any) -> Sequence[Order]:
    symbol, details = row["instId"], row["details"]
    if type(details) is list:
        try:
            return [
                read_order(symbol, one["ts"], _SIDE[one["side"]], one["bkPx"], one["sz"])
                for one in details
            ]
        except MALFORMED:
            pass  # one by one it is told what is wrong, and the others are kept
    return read_orders(details, partial(_order, name(symbol)), _ORDER).orders


def _order(symbol: str, row: Any) -> tuple[Order]:
    return (read_order(symbol, row["ts"], _SIDE[row["side"]], row["bkPx"], row["sz"]),)


def _answer(message: Any, event: Any) -> Frame:
    if event == "notice":
        # A server will be upgraded and hangs up within a minute (code 64008). Until then it
        # publishes, and connecting anew now would lose no less than connecting anew then.
        return ALIVE
    own = token(message.get("id"))
    if event == "subscribe":
        return Frame((), None, own or _own(message["arg"]))
    if event == "error":
        return Frame((), None, own, reason(message["msg"], message.get("code")))
    raise ValueError("an answer to a question that nobody asked")
