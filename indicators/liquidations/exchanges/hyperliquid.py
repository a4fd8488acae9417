"""Hyperliquid: what the fills of its vaults say of liquidations.

There is no public channel of everybody's liquidations. Channel ``userFills`` at ``/ws``, one
subscription per user, needs no key; the users are the vaults of HLP, the protocol's own liquidity,
which take over what the market does not (method ``backstop``) and some of what it does
(``market``). Their addresses: info ``vaultDetails`` of :data:`VAULT`, ``childAddresses``.

A fill (Hyperliquid's documentation, "WsFill"; a recorded block of the node's fills):

- ``liquidation`` is there if the fill closed somebody's position by force; ``liquidatedUser`` says
  whose. Both counterparties' fills carry it, so one of them is enough.
- ``side``: A sold, B bought. Of the liquidated user's own fill A means that a LONG was liquidated;
  of the counterparty's fill B does: it bought what the liquidated user had to sell.
- ``sz`` is in units of the coin (of ``kPEPE`` 1,000 PEPE), ``px`` in dollars, ``time`` in ms.
- ``tid`` is the trade's number, the same on both fills: so two equal fills are two, and a fill that
  is received again is known.
- ``dir`` "Auto-Deleveraging" closes the position of somebody who won: no liquidation.

Completeness: a partial sample, see ``REGIMES``; the node's files (pairs of user and fill) have all.
The first message of a subscription repeats old fills (``isSnapshot``). Keep-alive:
``{"method": "ping"}`` within 60 s, which ccxt sends. Limit: 10 users per IP address. Companion:
``activeAssetCtx`` of Bitcoin. No message says when it was sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from liquidations.errors import LiquidationsError
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
    name,
    perpetuals,
    positive,
    read_orders,
    reason,
)


CHANNELS: Mapping[str, bool] = {"vaults": False}

#: Not documented; recorded: a node wrote a block's fills 0.3 s after the block's time.
DELAY = 1_000
#: The context of Bitcoin; not documented, it comes about each second.
TICK = 10_000

#: The vault whose children are the users to subscribe to.
VAULT = "0xdfc24b077bc1425ad1dea75bcb6f8158e10df303"
#: Users that one IP address may subscribe to.
MOST_USERS = 10

#: Users are subscribed to, one by one.
NAMES = "users"

_COMPANION = {"type": "activeAssetCtx", "coin": "BTC"}

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}").fullmatch
_SIGNED = re.compile(r"-?[0-9]+(?:\.[0-9]*)?").fullmatch

_FILL = "a fill: coin, px, sz, side A or B, time, tid, liquidation (liquidatedUser), dir"
_EXPECTED = (
    "channel userFills (data: user, fills), activeAssetCtx, subscriptionResponse, pong or error"
)


def address(urls: Any, channel: str) -> str:
    """Return the URL to dial, from ccxt's ``urls["api"]["ws"]``."""
    return str(urls["public"])


def contracts(markets: Iterable[Mapping[str, Any]]) -> dict[str, Contract]:
    """Map the coins of messages, such as ``BTC`` or ``kPEPE``, to perpetuals of ccxt's markets."""
    return {
        market.get("baseName") or market["info"]["name"]: Contract(market["symbol"], 1.0, False)
        for market, _ in perpetuals(markets)
    }


def requests(channel: str, names: Sequence[str] = ()) -> list[Request]:
    """List what to send: the companion, and the fills of each user.

    :param names: addresses of users, 10 at most
    :raises LiquidationsError: if there are more, or one is no address.
    """
    if len(names) > MOST_USERS:
        raise LiquidationsError(
            f"Hyperliquid allows {MOST_USERS} users per IP address, got {len(names)} vaults"
        )
    if wrong := [user for user in names if not _ADDRESS(user)]:
        raise LiquidationsError(f"not an address of Hyperliquid (0x and 40 digits): {wrong[0]!r}")
    wanted: list[tuple[dict[str, str], tuple[str, ...]]] = [(_COMPANION, ())]
    wanted += [({"type": "userFills", "user": user}, (user,)) for user in names]
    return [
        Request({"method": "subscribe", "subscription": one}, _own(one), own) for one, own in wanted
    ]


def _own(subscription: Mapping[str, Any]) -> str:
    """Name a subscription by what its acknowledgement repeats."""
    subject = subscription["user" if "user" in subscription else "coin"]
    return f"{name(subscription['type'])}:{name(subject).lower()}"


def read(message: Any) -> Frame:
    """Read one decoded message.

    :raises BadFrame: if it is none of Hyperliquid's, or not one of those that were asked for.
    """
    try:
        channel = message["channel"]
        if channel == "pong":
            return ALIVE
        data = message["data"]
        if channel == "activeAssetCtx":
            name(data["coin"])
            return Frame(tick=True)
        if channel == "userFills":
            return read_orders(data["fills"], partial(_orders, _user(data["user"])), _EXPECTED)
        if channel == "user":
            # The older channel does not say whose fills they are.
            return read_orders(data["fills"], partial(_orders, None), _EXPECTED)
        if channel == "subscriptionResponse" and data["method"] == "subscribe":
            return Frame((), None, _own(data["subscription"]))
        if channel == "error":
            # Asking twice is an error of Hyperliquid's, but the subscription is there.
            return ALIVE if "Already subscribed" in data else Frame(refused=reason(data))
    except MALFORMED as error:
        raise bad(message, _EXPECTED) from error
    raise bad(message, _EXPECTED)


def fill_order(user: str | None, fill: Any) -> Order | None:
    """Read one fill.

    :param user: whose fill it is; None if that is not known, then the position tells
    :return: None if it is no liquidation
    :raises BadFrame: if it is no fill, or it can't be told who was liquidated.
    """
    try:
        # In this order: a fill that is no liquidation is told without looking at the rest of it.
        liquidation = fill.get("liquidation")
        if liquidation is None or fill["dir"] == "Auto-Deleveraging":
            return None
        liquidated = _user(liquidation["liquidatedUser"])
        buys = {"A": False, "B": True}[fill["side"]]
        price, size = positive(fill["px"]), positive(fill["sz"])
        own = _user(user) == liquidated if user is not None else _may_be_own(fill, buys, size)
        number = fill["tid"]
        if type(number) is not int or not 0 <= number < 2**63:
            raise ValueError("not the number of a trade")
        side = LONG if buys is not own else SHORT
        return Order(name(fill["coin"]), moment(fill["time"]), side, price, size, number)
    except MALFORMED as error:
        raise bad(fill, _FILL) from error


def _orders(user: str | None, fill: Any) -> tuple[Order, ...]:
    order = fill_order(user, fill)
    return () if order is None else (order,)


def _user(value: Any) -> str:
    if type(value) is str and _ADDRESS(value):
        return value.lower()
    raise ValueError("not an address")


def _may_be_own(fill: Any, buys: bool, size: float) -> bool:
    """Tell a counterparty's fill by its position: who is liquidated has less of it afterwards.

    :raises ValueError: if the position does become smaller: then it may be anybody's.
    """
    position = fill["startPosition"]
    if type(position) is not str or not _SIGNED(position):
        raise ValueError("not a position")
    held = float(position)
    if (held < 0) is buys and held != 0 and size <= abs(held):
        raise ValueError("whose fill it is can't be told")
    return False
