"""All four exchanges on 127.0.0.1, as far as public liquidations go, with a lever for every fault.

    with loopback() as exchange:
        client = ccxt.pro.binance(exchange.ccxt_config("binance"))
        ...
        exchange.send("binance", "linear", force_order("BTCUSDT", "long", 60000, 0.5, time))
        exchange.cut("binance")

The server runs in a thread of its own; its levers may be pulled from any thread and have worked
when they return. Frames are written as the exchanges document them, not as our adapters read
them. Channels: binance and bybit ``linear`` and ``inverse``, okx ``swap``, hyperliquid ``vaults``.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import orjson
from aiohttp import WSMsgType, web


VAULT = "0xdfc24b077bc1425ad1dea75bcb6f8158e10df303"
CHILD = "0x010461c14e146ac35fe42271bdc1134ee31c703a"
TRADER = "0xa59f55114ccb120487c4fb5766cb89b123c13563"

MARK = "60000.1"  # of whatever symbol: a companion's price is nobody's business
STEP = 0.01  # s between the parts of a burst

#: What trades: base → what one contract holds, in base units or USD.
BINANCE: dict[str, dict[str, int]] = {
    "linear": dict.fromkeys(("BTC", "ETH", "ILV", "COTI", "XRP", "1000PEPE"), 1),
    "inverse": {"BTC": 100, "ETH": 10, "XRP": 10},
}
BYBIT = {
    "linear": ("BTC", "ETH", "ICP", "MARSCOIN", "PIPPIN", "1000PEPE"),
    "inverse": ("BTC", "ETH", "XRP"),
}
#: instId without -SWAP → ctVal, in base units or (of -USD) USD; CNPY's and MINA's are invented.
OKX = {
    **{"BTC-USDT": "0.01", "ETH-USDT": "0.1", "CNPY-USDT": "10", "MINA-USDT": "1"},
    **{"BTC-USD": "100", "XRP-USD": "10"},
}
HYPERLIQUID = ("BTC", "ETH", "WLFI", "kPEPE", "MELANIA")


# One line for what belongs together reads better here than one line per field.
# fmt: off

def binance_symbols(channel: str) -> list[dict[str, Any]]:
    """List exchangeInfo's perpetuals, and for COIN-M a dated future, which is none."""
    quote, suffix, status = (
        ("USDT", "", "status") if channel == "linear" else ("USD", "_PERP", "contractStatus")
    )
    rows = [
        {
            "symbol": f"{base}{quote}{suffix}", "pair": f"{base}{quote}", status: "TRADING",
            "baseAsset": base, "quoteAsset": quote,
            "marginAsset": quote if channel == "linear" else base,
            "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
            "onboardDate": 1569398400000, "pricePrecision": 5, "quantityPrecision": 3,
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": "0.00001"},
                {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001"},
            ],
            **({} if channel == "linear" else {"contractSize": size}),
        }
        for base, size in BINANCE[channel].items()
    ]
    dated = {"contractType": "CURRENT_QUARTER", "deliveryDate": 1601020800000}
    return rows if channel == "linear" else [*rows, {**rows[0], "symbol": "BTCUSD_200925", **dated}]


def bybit_symbols(channel: str) -> list[dict[str, Any]]:
    """List instruments-info's perpetuals."""
    quote = {"linear": "USDT", "inverse": "USD"}[channel]
    return [
        {
            "symbol": base + quote, "contractType": f"{channel.title()}Perpetual",
            "status": "Trading", "baseCoin": base, "quoteCoin": quote,
            "settleCoin": quote if channel == "linear" else base,
            "launchTime": "1585526400000", "deliveryTime": "0",
            "priceFilter": {"tickSize": "0.0001", "minPrice": "0.0001", "maxPrice": "1999999"},
            "lotSizeFilter": {"qtyStep": "1", "minOrderQty": "1", "maxOrderQty": "1000000"},
            "leverageFilter": {"minLeverage": "1", "maxLeverage": "100"},
        }
        for base in BYBIT[channel]
    ]


def okx_instruments() -> list[dict[str, Any]]:
    """List instruments' swaps."""
    return [
        {
            "instType": "SWAP", "instId": f"{family}-SWAP", "uly": family, "instFamily": family,
            "settleCcy": base if quote == "USD" else quote, "ctVal": value, "ctMult": "1",
            "ctValCcy": "USD" if quote == "USD" else base,
            "ctType": "inverse" if quote == "USD" else "linear",
            "state": "live", "lever": "50", "lotSz": "0.01", "minSz": "0.01", "tickSz": "0.0001",
            "listTime": "1611907686000",
        }
        for family, value in OKX.items()
        for base, quote in [family.split("-")]
    ]


# ------------------------------------------- frames of one liquidation, by the POSITION's side

def number(value: float) -> str:
    """Write a number as exchanges do: the fewest digits that tell it, no exponent."""
    return np.format_float_positional(value, trim="-")


def force_order(
    symbol: str, side: str, price: float, size: float, time: int, sent: int | None = None
) -> dict[str, Any]:
    """Build Binance's forceOrder: the ORDER's side, ``z`` contracts or base units, at ``ap``.

    The limit ``p`` and the last fill ``l`` are others, as they are at times.
    """
    sells = side == "long"
    order = {
        "s": symbol, "S": "SELL" if sells else "BUY", "o": "LIMIT", "f": "IOC",
        "q": number(size), "p": number(price * (0.9 if sells else 1.1)), "ap": number(price),
        "X": "FILLED", "l": number(size / 4), "z": number(size), "T": time,
        "ps": symbol.removesuffix("_PERP"),
    }
    return {"e": "forceOrder", "E": time if sent is None else sent, "o": order}


def all_liquidation(
    symbol: str, side: str, price: float, size: float, time: int, sent: int | None = None
) -> dict[str, Any]:
    """Build Bybit's allLiquidation: ``S`` is the POSITION's side, Buy for long."""
    row = {
        "T": time, "s": symbol, "S": "Buy" if side == "long" else "Sell",
        "v": number(size), "p": number(price),
    }
    ts = time if sent is None else sent
    return {"topic": f"allLiquidation.{symbol}", "type": "snapshot", "ts": ts, "data": [row]}


def order_detail(side: str, price: float, size: float, time: int) -> dict[str, Any]:
    """Build one of OKX's orders, the same in the channel and in the REST answer."""
    return {
        "bkLoss": "0", "bkPx": number(price), "ccy": "", "posSide": side,
        "side": "sell" if side == "long" else "buy", "sz": number(size), "ts": str(time),
    }


def liquidation_order(
    symbol: str, side: str, price: float, size: float, time: int
) -> dict[str, Any]:
    """Build OKX's liquidation-orders of a swap, ``size`` in contracts."""
    family = symbol.removesuffix("-SWAP")
    group = {
        "details": [order_detail(side, price, size, time)],
        "instFamily": family, "instId": symbol, "instType": "SWAP", "uly": family,
    }
    return {"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [group]}


_trades = itertools.count(1)


def user_fills(
    symbol: str, side: str, price: float, size: float, time: int,
    user: str = VAULT, liquidated: str = TRADER,
) -> dict[str, Any]:
    """Build Hyperliquid's userFills of ``user``, who took what ``liquidated`` had to close.

    Give one address twice for the liquidated user's own fill: then A (sold) closed a long.
    """
    own = user == liquidated
    sold = (side == "long") == own
    held = (size if side == "long" else -size) if own else 0.0
    fill = {
        "coin": symbol, "px": number(price), "sz": number(size), "side": "A" if sold else "B",
        "time": time, "startPosition": number(held), "closedPnl": "0.0",
        "dir": f"Close {side.title()}" if own else f"Open {side.title()}",
        "hash": "0x" + "0" * 64, "oid": 214107600128, "crossed": own, "fee": "0.0",
        "tid": next(_trades), "feeToken": "USDC", "twapId": None,
        "liquidation": {"liquidatedUser": liquidated, "markPx": number(price), "method": "market"},
    }
    return {"channel": "userFills", "data": {"user": user, "fills": [fill]}}


#: (symbol, side of the position, price, size in the exchange's unit, time) → frame
BUILDERS: dict[str, Callable[..., dict[str, Any]]] = {
    "binance": force_order, "bybit": all_liquidation,
    "okx": liquidation_order, "hyperliquid": user_fills,
}
# fmt: on


# ------------------------------------------------------------------------------ the connections


def framed(payload: Any) -> bytes:
    """Pack a websocket frame: bytes as a binary one, text as it is, all else as JSON text."""
    if isinstance(payload, bytes):
        return _frame(2, payload)
    return _frame(1, payload.encode() if isinstance(payload, str) else orjson.dumps(payload))


def _frame(kind: int, data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        return bytes((0x80 | kind, size)) + data
    if size < 65536:
        return bytes((0x80 | kind, 126)) + size.to_bytes(2, "big") + data
    return bytes((0x80 | kind, 127)) + size.to_bytes(8, "big") + data


@dataclass(eq=False)
class Feed:
    """Hold one channel of an exchange: its open lines, what was counted, what is broken."""

    word: str  # marks a topic of liquidations
    lines: set[Line] = field(default_factory=set)
    dials: int = 0
    sent: int = 0
    ticking: bool = True
    muted: bool = False
    stalled: bool = False
    refused: int | None = None
    delay: float = 0.0


@dataclass(eq=False)
class Line:
    """Hold one open websocket and the topics that it asked for, in their order."""

    feed: Feed
    channel: str
    transport: asyncio.Transport
    topics: dict[str, None] = field(default_factory=dict)

    def write(self, data: bytes) -> None:
        """Send packed frames, unless the feed is stalled."""
        if data and not self.feed.stalled and not self.transport.is_closing():
            self.transport.write(data)

    def change(self, topics: Iterable[str], add: bool) -> None:
        """Subscribe to topics, or end it."""
        for topic in topics:
            self.topics.pop(topic, None)
            if add:
                self.topics[topic] = None

    def wants(self, topic: str | None) -> bool:
        """Tell whether a liquidation of that topic, or (None) of any, was asked for."""
        return (
            topic in self.topics if topic else any(self.feed.word in name for name in self.topics)
        )


class Venue:
    """Speak as one exchange does; what all have in common is in :class:`Loopback`."""

    SOCKETS: Mapping[str, str]  # path → channel
    WORD: str  # marks a topic of liquidations

    def urls(self, http: str, socket: str) -> dict[str, Any]:
        """Return what to put in the place of ccxt's ``urls["api"]``."""
        raise NotImplementedError

    def rest(self, exchange: Loopback, path: str, query: Mapping[str, Any]) -> Any:
        """Answer a REST request; None if there is no such address."""
        raise NotImplementedError

    def talk(self, exchange: Loopback, line: Line, message: Any) -> list[Any]:
        """Answer a message, and note on the line what it subscribes to."""
        raise NotImplementedError

    def greet(self, exchange: Loopback, topic: str) -> Iterable[Any]:
        """List what a new subscriber of liquidations gets at once."""
        return ()

    def tick(self, topic: str, now: int) -> Any:
        """Return what the companion of that name says now; None if it is no companion."""
        raise NotImplementedError

    def topic(self, payload: Mapping[str, Any]) -> str | None:
        """Name the topic that a liquidation belongs to; None if all subscribers get it."""
        return None


class Binance(Venue):
    """USDⓈ-M below /market/ws, COIN-M below /dstream/ws; the retired /ws only acknowledges."""

    SOCKETS = {"market/ws": "linear", "dstream/ws": "inverse", "ws": "retired"}
    WORD = "forceOrder"

    def urls(self, http: str, socket: str) -> dict[str, Any]:
        futures = {f"{kind}apiPublic": f"{http}/{kind}api/v1" for kind in "fde"}
        sockets = {"linear": f"{socket}/ws", "inverse": f"{socket}/dstream/ws"}
        return {**futures, "public": f"{http}/api/v3", "ws": sockets}

    def rest(self, exchange: Loopback, path: str, query: Mapping[str, Any]) -> Any:
        answer = {"timezone": "UTC", "serverTime": exchange.now()}
        if path.endswith("/exchangeInfo"):
            channel = {"f": "linear", "d": "inverse"}.get(path[0])
            rows = exchange.listed(binance_symbols(channel), "symbol") if channel else []
            return {**answer, "symbols": rows}
        return answer if path.endswith("/time") else None

    def talk(self, exchange: Loopback, line: Line, message: Any) -> list[Any]:
        method, number = message.get("method"), message.get("id")
        if method == "LIST_SUBSCRIPTIONS":
            return [{"result": list(line.topics), "id": number}]
        if method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            text = f"Invalid request: unknown variant `{method}`"
            return [{"error": {"code": 2, "msg": text}, "id": number}]
        line.change(message["params"], method == "SUBSCRIBE")  # whatever it is, as Binance does
        return [{"result": None, "id": number}]

    def tick(self, topic: str, now: int) -> Any:
        symbol, _, stream = topic.partition("@")
        prices = {**dict.fromkeys("piP", MARK), "r": "0.0001", "T": now // 28_800_000 * 28_800_000}
        frame = {"e": "markPriceUpdate", "E": now, "s": symbol.upper(), **prices}
        return frame if stream.startswith("markPrice") else None


class Bybit(Venue):
    """One topic per symbol; a request that names an unknown one is refused as a whole."""

    SOCKETS = {"v5/public/linear": "linear", "v5/public/inverse": "inverse"}
    WORD = "allLiquidation"

    def urls(self, http: str, socket: str) -> dict[str, Any]:
        public = {name: f"{socket}/v5/public/{name}" for name in ("linear", "inverse")}
        return {"public": http, "ws": {"public": public}}

    def rest(self, exchange: Loopback, path: str, query: Mapping[str, Any]) -> Any:
        result: dict[str, Any] = {"timeSecond": str(exchange.now() // 1000)}
        if path == "v5/market/instruments-info":
            category = query["category"]
            known = category in BYBIT and query.get("status") != "PreLaunch"
            rows = exchange.listed(bybit_symbols(category), "symbol") if known else []
            result = {"category": category, "list": rows, "nextPageCursor": ""}
        elif path != "v5/market/time":
            return None
        return {"retCode": 0, "retMsg": "OK", "result": result, "time": exchange.now()}

    def talk(self, exchange: Loopback, line: Line, message: Any) -> list[Any]:
        op, topics = message.get("op"), message.get("args", ())
        rows = exchange.listed(bybit_symbols(line.channel), "symbol")
        known = {row["symbol"] for row in rows} - exchange.unknown
        known = {f"{kind}.{symbol}" for kind in (self.WORD, "tickers") for symbol in known}
        wrong = next((topic for topic in topics if topic not in known), None)
        reason = "pong" if op == "ping" else ""
        if op not in ("ping", "subscribe", "unsubscribe"):
            reason = "error:invalid op"
        elif wrong:
            reason = f"error:handler not found,topic:{wrong}"
        else:
            line.change(topics, op == "subscribe")
        named = {"req_id": message["req_id"]} if "req_id" in message else {}
        answer = {"success": not reason.startswith("error"), "ret_msg": reason, **named, "op": op}
        return [{**answer, "conn_id": "loopback"}]

    def tick(self, topic: str, now: int) -> Any:
        kind, _, symbol = topic.partition(".")
        data = {"symbol": symbol, "lastPrice": MARK, "markPrice": MARK}
        frame = {"topic": topic, "type": "snapshot", "data": data, "cs": now, "ts": now}
        return frame if kind == "tickers" else None

    def topic(self, payload: Mapping[str, Any]) -> str | None:
        name = str(payload.get("topic"))
        return name if name.startswith(self.WORD) else None


class Okx(Venue):
    """One channel for the whole venue, whose first message is an old event; text pings."""

    SOCKETS = {"ws/v5/public": "swap"}
    WORD = "liquidation-orders"

    def urls(self, http: str, socket: str) -> dict[str, Any]:
        return {"rest": http, "ws": f"{socket}/ws/v5"}

    def rest(self, exchange: Loopback, path: str, query: Mapping[str, Any]) -> Any:
        data: list[Any] = [{"ts": str(exchange.now())}]
        if path == "api/v5/public/instruments":
            swaps = okx_instruments() if query.get("instType") == "SWAP" else []
            data = exchange.listed(swaps, "instId")
        elif path == "api/v5/public/liquidation-orders":
            family = query.get("uly")
            if query.get("instType") != "SWAP" or not family:
                return {"code": "50014", "msg": "Parameter uly can not be empty.", "data": []}
            # The names are OKX's: "after" asks for what is older, "before" for what is newer.
            older, newer = int(query.get("after", 2**53)), int(query.get("before", 0))
            rows = exchange.okx_orders.get(f"{family}-SWAP", [])
            rows = [row for row in rows if newer < int(row["ts"]) < older]
            rows = sorted(rows, key=lambda row: int(row["ts"]), reverse=True)
            rows = rows[: min(int(query.get("limit", 100)), 100)]
            group = {"instId": f"{family}-SWAP", "instType": "SWAP", "uly": family}
            data = [{"details": rows, **group}] if rows else []
        elif path != "api/v5/public/time":
            return None
        return {"code": "0", "msg": "", "data": data}

    def talk(self, exchange: Loopback, line: Line, message: Any) -> list[Any]:
        if message == "ping":
            return ["pong"]
        op, answers = message["op"], []
        named = {"id": message["id"]} if "id" in message else {}
        rows = exchange.listed(okx_instruments(), "instId")
        known = {row["instId"] for row in rows} - exchange.unknown
        for arg in message["args"]:
            channel, symbol = arg["channel"], arg.get("instId")
            swaps = channel == self.WORD and arg.get("instType") == "SWAP"
            if swaps or (channel == "mark-price" and symbol in known):
                line.change(
                    [f"{channel}:{arg['instType'] if swaps else symbol}"], op == "subscribe"
                )
                answers.append({**named, "event": op, "arg": arg, "connId": "a4d3ae55"})
            else:
                text = f"Wrong URL or channel:{channel},instId:{symbol} doesn't exist."
                answers.append({**named, "event": "error", "code": "60018", "msg": text})
        return answers

    def greet(self, exchange: Loopback, topic: str) -> Iterable[Any]:
        return exchange.replayed

    def tick(self, topic: str, now: int) -> Any:
        channel, _, symbol = topic.partition(":")
        data = {"instType": "SWAP", "instId": symbol, "markPx": MARK, "ts": str(now)}
        frame = {"arg": {"channel": channel, "instId": symbol}, "data": [data]}
        return frame if channel == "mark-price" else None


class Hyperliquid(Venue):
    """Fills of up to ten users, each subscription answered with a snapshot of old ones."""

    SOCKETS = {"ws": "vaults"}
    WORD = "userFills"

    def urls(self, http: str, socket: str) -> dict[str, Any]:
        return {"public": http, "ws": {"public": f"{socket}/ws"}}

    def rest(self, exchange: Loopback, path: str, query: Mapping[str, Any]) -> Any:
        rows = [{"name": name, "szDecimals": 3, "maxLeverage": 40} for name in HYPERLIQUID]
        meta = {"universe": exchange.listed(rows, "name")}
        token = {"name": "USDC", "szDecimals": 8, "weiDecimals": 8, "index": 0}
        spot = {"tokens": [token], "universe": []}
        relation = {"type": "parent", "data": {"childAddresses": exchange.vaults}}
        answers = {
            "meta": meta,
            "metaAndAssetCtxs": [meta, [_context() for _ in meta["universe"]]],
            "spotMeta": spot,
            "spotMetaAndAssetCtxs": [spot, []],
            "perpDexs": [None],
            "vaultDetails": {"name": "HLP", "vaultAddress": VAULT, "relationship": relation},
        }
        return answers.get(query.get("type", "")) if path == "info" else None

    def talk(self, exchange: Loopback, line: Line, message: Any) -> list[Any]:
        method, wish = message.get("method"), message.get("subscription", {})
        if method == "ping":
            return [{"channel": "pong"}]
        add, topic = (
            method == "subscribe",
            f"{wish.get('type')}:{wish.get('user', wish.get('coin'))}",
        )
        if wish.get("type") not in (self.WORD, "activeAssetCtx"):
            return [{"channel": "error", "data": f"Invalid subscription {json_text(wish)}"}]
        # Counted over all connections of an address, and here there is one address.
        users = {name for each in line.feed.lines for name in each.topics if self.WORD in name}
        if add and self.WORD in topic and len(users | {topic}) > 10:
            return [{"channel": "error", "data": "Cannot track more than 10 total users."}]
        line.change([topic], add)
        answer = {"method": method, "subscription": wish}
        return [{"channel": "subscriptionResponse", "data": answer}]

    def greet(self, exchange: Loopback, topic: str) -> Iterable[Any]:
        user = topic.partition(":")[2]
        data = {"isSnapshot": True, "user": user, "fills": exchange.snapshots.get(user, [])}
        return [{"channel": self.WORD, "data": data}]

    def tick(self, topic: str, now: int) -> Any:
        kind, _, coin = topic.partition(":")
        frame = {"channel": kind, "data": {"coin": coin, "ctx": _context()}}
        return frame if kind == "activeAssetCtx" else None

    def topic(self, payload: Mapping[str, Any]) -> str | None:
        fills = payload.get("channel") == self.WORD
        return f"{self.WORD}:{payload['data']['user']}" if fills else None


def json_text(value: Any) -> str:
    """Write JSON as exchanges do, without spaces."""
    return orjson.dumps(value).decode()


def _context() -> dict[str, Any]:
    names = ("funding", "openInterest", "prevDayPx", "dayNtlVlm", "oraclePx", "markPx", "midPx")
    return dict.fromkeys(names, MARK)


VENUES = {"binance": Binance(), "bybit": Bybit(), "okx": Okx(), "hyperliquid": Hyperliquid()}


# ------------------------------------------------------------------------------- the server


class Loopback:
    """Steer the exchanges; ``channel`` None means all channels of the exchange.

    Attributes to set at any time:

    - ``clock_offset_ms``: the exchanges' clock against ours, in ticks and answers
    - ``tick_every``: seconds between the frames of a companion stream
    - ``delisted``: symbols that neither REST nor subscriptions know any more
    - ``unknown``: symbols that REST lists, but subscriptions don't know
    - ``okx_orders``: instId → rows of :func:`order_detail`, in any order, for the REST answer
    - ``replayed``: frames that OKX sends to each new subscriber; ``snapshots``: user → fills
    - ``vaults``: the child addresses in ``vaultDetails``
    - ``rest_status``: exchange → HTTP status of all its REST answers, if not 200
    - ``calls``: counts REST requests by "exchange path" or "hyperliquid type"
    """

    def __init__(self) -> None:
        self.clock_offset_ms = 0
        self.tick_every = 1.0
        self.delisted: set[str] = set()
        self.unknown: set[str] = set()
        self.okx_orders: dict[str, list[dict[str, Any]]] = {}
        yesterday = self.now() - 86_400_000
        self.replayed: list[Any] = [
            liquidation_order("ETH-USDT-SWAP", "long", 2500.5, 4, yesterday)
        ]
        self.snapshots: dict[str, list[dict[str, Any]]] = {}
        self.vaults = [CHILD]
        self.rest_status: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.port = 0
        self._feeds = {
            (name, channel): Feed(venue.WORD)
            for name, venue in VENUES.items()
            for channel in venue.SOCKETS.values()
        }
        retired = self._feeds["binance", "retired"]
        retired.muted, retired.ticking = True, False

    # What a test asks.

    def ccxt_config(self, name: str) -> dict[str, Any]:
        """Return settings with which ccxt's class of that name dials here."""
        root = f"127.0.0.1:{self.port}/{name}"
        types = ["swap"] if name in ("okx", "hyperliquid") else ["linear", "inverse"]
        return {
            "urls": {"api": VENUES[name].urls(f"http://{root}", f"ws://{root}")},
            "options": {"fetchMarkets": {"types": types}},
        }

    def now(self) -> int:
        """Return the exchanges' time, ms UTC."""
        return time.time_ns() // 1_000_000 + self.clock_offset_ms

    def connections(self, name: str, channel: str | None = None) -> int:
        """Count the websockets that are open now."""
        return sum(len(feed.lines) for feed in self._of(name, channel))

    def dials(self, name: str, channel: str | None = None) -> int:
        """Count the websocket handshakes so far, refused ones too."""
        return sum(feed.dials for feed in self._of(name, channel))

    def sent(self, name: str, channel: str | None = None) -> int:
        """Count the liquidation frames that were written to sockets so far."""
        return sum(feed.sent for feed in self._of(name, channel))

    def subscribed(self, name: str, channel: str | None = None) -> list[str]:
        """List the topics of all open websockets, once per websocket, sorted."""
        lines = [line for feed in self._of(name, channel) for line in list(feed.lines)]
        return sorted(topic for line in lines for topic in list(line.topics))

    def wait(self, condition: Callable[[], Any], timeout: float = 5.0) -> None:
        """Wait until the condition is true; inside an event loop use ``until``."""
        for _ in _polls(condition, timeout):
            time.sleep(0.005)

    async def until(self, condition: Callable[[], Any], timeout: float = 5.0) -> None:
        """Wait until the condition is true, letting the event loop run."""
        for _ in _polls(condition, timeout):
            await asyncio.sleep(0.005)

    # What a test does.

    def send(self, name: str, channel: str, payload: Any) -> int:
        """Send one liquidation frame to its subscribers, and return how many there are.

        A dict goes to those who asked for its topic; text or bytes to whoever asked for
        liquidations at all, whatever it says.
        """
        return self.burst(name, channel, [payload])

    def burst(self, name: str, channel: str, payloads: Iterable[Any], seconds: float = 0.0) -> int:
        """Send many, spread evenly over the seconds; return after the first part."""
        feed = self._feeds[name, channel]
        topic = VENUES[name].topic
        frames = [(topic(p) if isinstance(p, dict) else None, framed(p)) for p in payloads]
        topics = {topic for topic, _ in frames}
        steps = max(1, round(seconds / STEP))
        edges = [len(frames) * step // steps for step in range(steps + 1)]
        parts = [frames[start:end] for start, end in itertools.pairwise(edges)]

        def start() -> int:
            self._publish(feed, parts[0])
            for step, part in enumerate(parts[1:], 1):
                self._loop.call_later(step * STEP, self._publish, feed, part)
            return sum(any(map(line.wants, topics)) for line in feed.lines)

        return self._do(start)

    def tick(self) -> None:
        """Send one frame of every companion stream now."""
        self._do(self._tick)

    def cut(self, name: str, channel: str | None = None) -> None:
        """Abort the TCP connections without a close frame."""

        def abort() -> None:
            for line in self._lines(name, channel):
                line.transport.abort()

        self._do(abort)

    def close(self, name: str, code: int = 1001, channel: str | None = None) -> None:
        """Send a close frame, as for maintenance; the client's answer ends the connection."""

        def say() -> None:
            for line in self._lines(name, channel):
                line.write(_frame(8, code.to_bytes(2, "big")))

        self._do(say)

    def stall(self, name: str, on: bool = True, channel: str | None = None) -> None:
        """Play a dead path: handshakes succeed and connections stay, but nothing is ever sent.

        No pong, no tick, no acknowledgement, no answer to a close frame; what is said meanwhile
        is lost in both directions. REST goes on, see ``rest_status``.
        """
        self._set(name, channel, stalled=on)

    def mute(
        self, name: str, on: bool = True, channel: str | None = None, ticks: bool = True
    ) -> None:
        """Acknowledge and answer pings, but lose all liquidations; ``ticks``: go on or not."""
        self._set(name, channel, muted=on, ticking=ticks or not on)

    def refuse(
        self, name: str, on: bool = True, channel: str | None = None, status: int = 503
    ) -> None:
        """Answer handshakes with that HTTP status, or drop the connection if it is 0."""
        self._set(name, channel, refused=status if on else None)

    def delay(self, name: str, seconds: float, channel: str | None = None) -> None:
        """Send liquidations so much later; ticks go on. A shorter delay lets frames overtake."""
        self._set(name, channel, delay=seconds)

    # How it is done; from here on all runs in the server's thread.

    def listed(self, rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
        """Leave out the rows of delisted symbols."""
        return [row for row in rows if row[name] not in self.delisted]

    def _of(self, name: str, channel: str | None) -> list[Feed]:
        wanted = [channel] if channel else set(VENUES[name].SOCKETS.values()) - {"retired"}
        return [self._feeds[name, each] for each in wanted]

    def _lines(self, name: str, channel: str | None) -> list[Line]:
        return [line for feed in self._of(name, channel) for line in feed.lines]

    def _set(self, name: str, channel: str | None, **faults: Any) -> None:
        self._do(lambda: [vars(feed).update(faults) for feed in self._of(name, channel)])

    def _do(self, work: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(10)

    def _publish(self, feed: Feed, frames: list[tuple[str | None, bytes]]) -> None:
        if feed.delay:
            self._loop.call_later(feed.delay, self._write, feed, frames)
        else:
            self._write(feed, frames)

    def _write(self, feed: Feed, frames: list[tuple[str | None, bytes]]) -> None:
        for line in () if feed.muted or feed.stalled else feed.lines:
            wanted = [data for topic, data in frames if line.wants(topic)]
            feed.sent += len(wanted)
            line.write(b"".join(wanted))

    def _tick(self) -> None:
        for (name, _), feed in self._feeds.items():
            for line in feed.lines:
                self._tell(name, line, line.topics)

    def _tell(self, name: str, line: Line, topics: Iterable[str]) -> None:
        for topic in topics if line.feed.ticking else ():
            if (payload := VENUES[name].tick(topic, self.now())) is not None:
                line.write(framed(payload))

    async def _ticks(self) -> None:
        last = self._loop.time()
        while True:
            await asyncio.sleep(STEP)  # not the whole interval, which may be set meanwhile
            if self._loop.time() - last >= self.tick_every:
                last = self._loop.time()
                self._tick()

    async def _rest(self, request: web.Request) -> web.Response:
        name, _, path = request.path.strip("/").partition("/")
        query: Any = await request.json() if request.method == "POST" else request.query
        self.calls[f"{name} {query['type'] if path == 'info' else path}"] += 1
        answer = VENUES[name].rest(self, path, query) if name in VENUES else None
        status = self.rest_status.get(name, 404 if answer is None else 200)
        return web.Response(
            status=status, body=orjson.dumps(answer), content_type="application/json"
        )

    async def _socket(self, request: web.Request, name: str, channel: str) -> web.StreamResponse:
        feed, transport = self._feeds[name, channel], request.transport
        assert isinstance(transport, asyncio.Transport)
        feed.dials += 1
        if feed.refused is not None:
            if feed.refused == 0:
                transport.abort()
            return web.Response(status=feed.refused or 503)
        # Frames go to the transport as they are, so none may be compressed; pongs and the answer
        # to a close frame are ours, so that a stalled feed sends none.
        socket = web.WebSocketResponse(autoping=False, autoclose=False, compress=False)
        await socket.prepare(request)
        line = Line(feed, channel, transport)
        feed.lines.add(line)
        try:
            async for message in socket:
                if message.type == WSMsgType.PING:
                    line.write(_frame(10, message.data))
                elif message.type == WSMsgType.TEXT and not feed.stalled:
                    self._hear(name, line, message.data)
            while feed.stalled and not transport.is_closing():
                await asyncio.sleep(STEP)
            await socket.close()
        finally:
            feed.lines.discard(line)
        return socket

    def _hear(self, name: str, line: Line, text: str) -> None:
        venue, before = VENUES[name], set(line.topics)
        message = orjson.loads(text) if text.startswith("{") else text
        answers = venue.talk(self, line, message)
        new = [topic for topic in line.topics if topic not in before]
        for topic in new:
            if venue.WORD in topic and not line.feed.muted:
                answers = [*answers, *venue.greet(self, topic)]
        line.write(b"".join(map(framed, answers)))
        self._tell(name, line, new)

    async def serve(self, ready: Future[None]) -> None:
        """Serve until ``stop`` is called; tell when the port is open."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        for name, venue in VENUES.items():
            for path, channel in venue.SOCKETS.items():
                handler = partial(self._socket, name=name, channel=channel)
                app.router.add_get(f"/{name}/{path}", handler)
                app.router.add_get(f"/{name}/{path}/{{stream}}", handler)
        app.router.add_route("*", "/{path:.*}", self._rest)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        ticks = asyncio.create_task(self._ticks())
        ready.set_result(None)
        await self._stop.wait()
        ticks.cancel()
        for feed in self._feeds.values():
            for line in feed.lines:
                line.transport.abort()
        await runner.cleanup()

    def stop(self) -> None:
        """End the server."""
        self._do(self._stop.set)


def _polls(condition: Callable[[], Any], timeout: float) -> Iterator[None]:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"still not true after {timeout} s"
        yield


@contextmanager
def loopback() -> Iterator[Loopback]:
    """Run the exchanges in a daemon thread for as long as the context lasts."""
    exchange, ready = Loopback(), Future[None]()
    thread = threading.Thread(target=lambda: asyncio.run(exchange.serve(ready)), daemon=True)
    thread.start()
    ready.result(10)
    try:
        yield exchange
    finally:
        exchange.stop()
        thread.join(10)
        assert not thread.is_alive(), "the loopback server did not stop"
