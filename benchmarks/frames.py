"""What a frame costs: to parse it, beside what others take, and all the way into the store.

    python benchmarks/frames.py            --quick: less of the same

Frames of each exchange, in the form that it documents, are parsed by our adapter and by the
handlers of ccxt and, where it is installed, of cryptofeed. Then an exchange in a process of its
own, on another core, sends more than the collector can take, until all of it is committed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import ccxt.pro
import numpy as np
import orjson
from exchange import PAIRS
from goals import ROUNDS, Found, Goal, in_turns, main, one_core
from live import Exchange, Measured, other_core, stored_events

from liquidations.collector import Plan
from liquidations.exchanges import binance, bybit, okx
from liquidations.exchanges.frames import Contract, Order
from liquidations.feed import LiveFeed
from liquidations.settings import Settings


GOAL_PARSE, GOAL_RATE = 8.0, 50_000
#: Events a second that the exchange sends, and for how long (s) in the short form and the full one.
RATE, SECONDS = 80_000, (1.0, 5.0)
LONGEST = 60.0
#: As many decoded frames fit into the processor's cache.
HOT = 100
URL = "wss://127.0.0.1/"
AT = 1_780_000_000_000

#: An order of the frames: symbol, ms, whether it SELLS (a long was liquidated), price and size.
Row = tuple[str, int, bool, str, str]


def rows(count: int, symbol: str) -> list[Row]:
    """Draw orders of many contracts, whose symbols the format makes of a number."""
    random = np.random.default_rng(11)
    contract, sells = random.integers(0, PAIRS, count), random.integers(0, 2, count)
    price, size = 100 + 900 * random.random(count), 0.001 + 100 * random.random(count)
    columns = (contract.tolist(), sells.tolist(), price.tolist(), size.tolist())
    return [
        (symbol % one, AT + number // 100, bool(sold), f"{cost:.2f}", f"{much:.3f}")
        for number, (one, sold, cost, much) in enumerate(zip(*columns, strict=True))
    ]


def binance_frames(count: int) -> list[str]:
    """Make frames of the stream ``!forceOrder@arr``, which have one order each."""
    return [
        _text({"e": "forceOrder", "E": at + 1_005, "o": {
            "s": symbol, "ps": symbol, "S": "SELL" if sells else "BUY", "o": "LIMIT", "f": "IOC",
            "q": size, "p": price, "ap": price, "X": "FILLED", "l": size, "z": size, "T": at,
        }})
        for symbol, at, sells, price, size in rows(count, "C%02dUSDT")
    ]  # fmt: skip


def bybit_frames(count: int) -> list[str]:
    """Make frames of the topics ``allLiquidation``: three orders of one contract each."""
    frames = []
    drawn = rows(count, "C%02dUSDT")
    for first in range(0, count, 3):
        symbol, at = drawn[first][:2]
        data = [
            {"T": at, "s": symbol, "S": "Buy" if sells else "Sell", "v": size, "p": price}
            for _, at, sells, price, size in drawn[first : first + 3]
        ]
        told = {"topic": f"allLiquidation.{symbol}", "type": "snapshot", "ts": at + 300}
        frames.append(_text({**told, "data": data}))
    return frames


def okx_frames(count: int) -> list[str]:
    """Make frames of the channel ``liquidation-orders``: three contracts with an order each.

    Of several orders of one contract in a frame ccxt reads the first.
    """
    data = [
        {"details": [{
            "bkLoss": "0", "bkPx": price, "ccy": "", "posSide": "net",
            "side": "sell" if sells else "buy", "sz": size, "ts": str(at),
        }], "instFamily": symbol[:8], "instId": symbol, "instType": "SWAP", "uly": symbol[:8]}
        for symbol, at, sells, price, size in rows(count, "C%02d-USDT-SWAP")
    ]  # fmt: skip
    told = {"arg": {"channel": "liquidation-orders", "instType": "SWAP"}}
    return [_text({**told, "data": data[first : first + 3]}) for first in range(0, count, 3)]


def _text(message: dict) -> str:
    return json.dumps(message, separators=(",", ":"))


#: Exchange → our adapter, frames, how it names a contract, what ccxt calls the order of a long.
PLAYED: dict[str, tuple[ModuleType, Callable[[int], list[str]], str, str]] = {
    "binance": (binance, binance_frames, "C%02dUSDT", "sell"),
    "bybit": (bybit, bybit_frames, "C%02dUSDT", "buy"),
    "okx": (okx, okx_frames, "C%02d-USDT-SWAP", "sell"),
}


def parse(found: Found, count: int, rounds: int) -> None:
    """Compare the parsing of frames with the peers, exchange by exchange."""
    feed = _cryptofeed()
    if isinstance(feed, str):
        found.absent["cryptofeed"] = feed
    else:
        found.absent["cryptofeed of bybit and okx"] = "it reads no liquidations of their streams"
    loop = asyncio.new_event_loop()
    for name, (adapter, make, symbol, long) in PLAYED.items():
        frames = make(count)
        peer = loop.run_until_complete(_client(name, symbol))
        connection = peer.clients[URL]
        orders = ours(adapter, frames)
        assert len(orders) == count
        assert orders == [_order(one, symbol, long) for one in theirs(peer, connection, frames)]
        # A frame is parsed as soon as it is decoded, when it is still in the processor's cache.
        decoded = [orjson.loads(text) for text in frames[:HOT]] * (len(frames) // HOT)
        taken = {
            "ours": lambda frames=frames, adapter=adapter: ours(adapter, frames),
            "of it to decode JSON": lambda frames=frames: [orjson.loads(text) for text in frames],
            "ccxt handle_liquidation": lambda frames=frames, peer=peer, connection=connection: (
                theirs(peer, connection, frames)
            ),
            "ours, of decoded frames": lambda decoded=decoded, adapter=adapter: list(
                map(adapter.read, decoded)
            ),
            "ccxt handle_liquidation, of decoded frames": (
                lambda decoded=decoded, peer=peer, connection=connection: handled(
                    peer, connection, decoded
                )
            ),
            "our whole path": lambda frames=frames, name=name, adapter=adapter, symbol=symbol: (
                whole(name, adapter, symbol, frames)
            ),
            "ccxt's whole path": lambda frames=frames, peer=peer, connection=connection: (
                loop.run_until_complete(received(peer, connection, frames))
            ),
        }
        if name == "binance" and not isinstance(feed, str):
            wrapped = [f'{{"stream":"!forceOrder@arr","data":{text}}}' for text in frames]
            assert [one[2:5] for one in orders] == [
                (int(one.side == "buy"), float(one.price), float(one.quantity))
                for one in feed(wrapped)
            ]
            taken["cryptofeed"] = lambda wrapped=wrapped: feed(wrapped)
        times = in_turns(taken, rounds)
        found.show(f"{count:,} liquidations of {name}, from text to orders", times)
        what = f"parse of a frame of {name}: ccxt's handle_liquidation takes"
        for mine, other, text in (
            ("ours, of decoded frames", "ccxt handle_liquidation, of decoded frames", what),
            ("ours", "ccxt handle_liquidation", f"{what}, decoding by orjson in both"),
        ):
            found.ratio(text, times, other, mine, GOAL_PARSE, least=True)
        loop.run_until_complete(peer.close())
    loop.close()


def ours(adapter: ModuleType, frames: Sequence[str]) -> list[Order]:
    """Parse frames as the live loop does."""
    return read(adapter, map(orjson.loads, frames))


def read(adapter: ModuleType, messages: Iterable[Any]) -> list[Order]:
    """Parse decoded frames."""
    found: list[Order] = []
    for message in messages:
        found += adapter.read(message).orders
    return found


def theirs(peer: Any, connection: Any, frames: Sequence[str]) -> list[dict]:
    """Parse frames by ccxt, and return what its cache has at the end."""
    handled(peer, connection, map(orjson.loads, frames))
    return list(peer.liquidations)


def handled(peer: Any, connection: Any, messages: Iterable[Any]) -> None:
    """Let ccxt parse decoded frames into its cache, which is all that its handler does."""
    peer.liquidations = None
    for message in messages:
        peer.handle_liquidation(connection, message)


def _order(one: dict, symbol: str, long: str) -> Order:
    """Return ccxt's liquidation as ours."""
    contract = symbol % int(one["symbol"][1:3])
    side = 0 if one["side"] == long else 1
    return Order(contract, one["timestamp"], side, one["price"], one["contracts"])


async def _client(name: str, symbol: str) -> Any:
    """Make ccxt's client with the markets of the frames, and without a network."""
    peer = getattr(ccxt.pro, name)({"options": {"liquidationsLimit": 10**7}})
    common = {
        "quote": "USDT", "settle": "USDT", "type": "swap", "swap": True, "spot": False,
        "contract": True, "linear": True, "inverse": False, "contractSize": 1.0, "active": True,
    }  # fmt: skip
    markets = []
    for number in range(PAIRS):
        base, own = f"C{number:02d}", symbol % number
        names = {"id": own, "lowercaseId": own.lower(), "symbol": f"{base}/USDT:USDT", "base": base}
        markets.append(peer.safe_market_structure({**common, **names}))
    peer.set_markets(markets)
    peer.client(URL)
    return peer


def whole(name: str, adapter: ModuleType, symbol: str, frames: Sequence[str]) -> None:
    """Take frames as they come from the socket, up to the orders that wait to be written."""
    symbols = [symbol % number for number in range(PAIRS)]
    contracts = {own: Contract(own, 1.0, False) for own in symbols}
    client = SimpleNamespace(urls={"api": {"ws": _ADDRESSES[name]}}, implode_hostname=str)
    feed = LiveFeed(
        name, next(iter(adapter.CHANNELS)), adapter, client, contracts, symbols, (),
        SimpleNamespace(now=lambda: AT), lambda: None,
    )  # fmt: skip
    for text in frames:
        feed.receive(None, text)
    assert feed.counts["frames"] == len(frames)
    assert not feed.problems


_ADDRESSES: dict[str, Any] = {
    "binance": {"linear": "ws://127.0.0.1/ws"},
    "bybit": {"public": {"linear": "ws://127.0.0.1/"}},
    "okx": "ws://127.0.0.1",
}


async def received(peer: Any, connection: Any, frames: Sequence[str]) -> None:
    """Take frames as ccxt does when they come from the socket, while somebody watches."""
    peer.liquidations = None
    for text in frames:
        connection.future("liquidations")
        connection.handle_text_or_binary_message(text)
    assert peer.liquidations


def _cryptofeed() -> Callable[[Sequence[str]], list[Any]] | str:
    """Return a function that parses Binance's frames by cryptofeed, or why there is none."""
    try:
        from cryptofeed.defines import LIQUIDATIONS
        from cryptofeed.exchanges import BinanceFutures
        from cryptofeed.symbols import Symbols
    except ImportError as error:
        return str(error)
    names = {f"C{number:02d}-USDT-PERP": f"C{number:02d}USDT" for number in range(PAIRS)}
    Symbols.set(BinanceFutures.id, names, {"instrument_type": dict.fromkeys(names, "perpetual")})
    found: list[Any] = []

    async def take(one: Any, receipt: float) -> None:
        found.append(one)

    peer = BinanceFutures(
        symbols=list(names), channels=[LIQUIDATIONS], callbacks={LIQUIDATIONS: take}
    )

    def read(frames: Sequence[str]) -> list[Any]:
        found.clear()
        for text in frames:
            with suppress(StopIteration):  # it waits for nothing
                peer.message_handler(text, None, 0.0).send(None)
        return list(found)

    return read


def end_to_end(found: Found, seconds: float) -> None:
    """Send more than the collector can take, and count what it commits in a second."""
    exchange = Exchange(RATE, other_core())
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(f"sqlite:///{folder}/live.sqlite", ("binance",))
        collector = Timed(Plan(settings, None, exchange.urls))
        thread = threading.Thread(target=lambda: asyncio.run(collector.run()))
        thread.start()
        while not collector.waits.any():
            time.sleep(0.01)
        time.sleep(seconds)
        sent, give_up = exchange.stop(), time.monotonic() + LONGEST
        while collector.waits.sum() < sent and time.monotonic() < give_up:
            time.sleep(0.05)
        took, used = np.subtract(collector.last, collector.first).tolist()
        collector.stop()
        thread.join()
        stored = stored_events(settings)
        exchange.close()
    found.times[f"{sent:,} events from socket to committed rows"] = {
        "elapsed": 1e3 * took, "of it processor time": 1e3 * used,
    }  # fmt: skip
    found.goals.append(Goal("events lost or stored twice", abs(sent - stored), 0, ""))
    what = "events from the socket to committed rows, on one core"
    found.goals.append(Goal(what, sent / took, GOAL_RATE, "/s", least=True))


class Timed(Measured):
    """Note when the first order came, and when the last one was committed."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.first = self.last = (0.0, 0.0)

    def _commit(self, works):  # type: ignore[no-untyped-def]
        came = [row[1] for _, work in works for row in work.orders]
        if came and not self.first[0]:
            self.first = min(came) / 1000, time.process_time()
        super()._commit(works)
        if came:
            self.last = time.time(), time.process_time()


def run(quick: bool) -> Found:
    """Measure both."""
    one_core()
    found = Found()
    parse(found, 300 if quick else 9_000, ROUNDS)
    end_to_end(found, SECONDS[not quick])
    return found


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
