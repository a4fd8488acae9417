"""Binance on 127.0.0.1, for the benchmarks: a process of its own that sends orders without end.

It costs little, so that what is measured gets the machine: frames are made by hand, and those of
two milliseconds are written at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from multiprocessing.connection import Connection

import numpy as np
from aiohttp import web


PAIRS = 80

#: Prices, amounts and contracts go round in three primes of steps, each in an order drawn once:
#: price and amount tell an order's number, and nothing repeats that would compress too well.
_random = np.random.default_rng(7)
PRICES, AMOUNTS = _random.permutation(9_973), _random.permutation(10_007)
CONTRACTS = _random.integers(0, PAIRS, 7_993)
_PRICES, _AMOUNTS, _CONTRACTS = PRICES.tolist(), AMOUNTS.tolist(), CONTRACTS.tolist()

_FRAME = (
    '{"e":"forceOrder","E":%d,"o":{"s":"%s","S":"%s","o":"LIMIT","f":"IOC","q":"1","p":"100",'
    '"ap":"%.2f","X":"FILLED","l":"1","z":"%.3f","T":%d}}'
)


def symbols() -> list[str]:
    """Name the contracts that are played."""
    return [f"C{number:02d}USDT" for number in range(PAIRS)]


def pairs() -> list[str]:
    """Name them as Freqtrade does."""
    return [f"{symbol.removesuffix('USDT')}/USDT:USDT" for symbol in symbols()]


def exchange_info() -> dict:
    """Answer what ccxt's Binance asks for its markets."""
    filters = [
        {"filterType": "PRICE_FILTER", "tickSize": "0.01", "minPrice": "0.01", "maxPrice": "1e6"},
        {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "1e6"},
    ]
    rows = [
        {
            "symbol": symbol,
            "pair": symbol,
            "contractType": "PERPETUAL",
            "status": "TRADING",
            "baseAsset": symbol.removesuffix("USDT"),
            "quoteAsset": "USDT",
            "marginAsset": "USDT",
            "deliveryDate": 4133404800000,
            "filters": filters,
        }
        for symbol in symbols()
    ]
    return {"timezone": "UTC", "serverTime": time.time_ns() // 1_000_000, "symbols": rows}


def order(number: int, now: int, names: list[str]) -> bytes:
    """Return the websocket frame of an order; no two are equal."""
    symbol, side = names[_CONTRACTS[number % len(_CONTRACTS)]], "SELL" if number % 3 else "BUY"
    price = 100 + _PRICES[number % len(_PRICES)] / 100
    amount = 1 + _AMOUNTS[number % len(_AMOUNTS)] / 1000
    text = (_FRAME % (now, symbol, side, price, amount, now)).encode()
    return b"\x81\x7e" + len(text).to_bytes(2, "big") + text


def numbers(price: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Return the numbers of orders, the first of which is 0, by their prices and amounts."""
    first = np.argsort(PRICES)[np.rint((price - 100) * 100).astype(np.int64)]
    second = np.argsort(AMOUNTS)[np.rint((amount - 1) * 1000).astype(np.int64)]
    again = pow(len(PRICES), -1, len(AMOUNTS))
    return first + len(PRICES) * ((second - first) * again % len(AMOUNTS))


def due(seconds: float, rate: int, burst: int = 0, every: float = 30.0) -> int:
    """Return how many orders are sent within so many seconds.

    :param burst: orders that come within a second on top of them, ``every`` so many seconds
    """
    bursts, into = divmod(seconds - every / 2, every) if seconds >= every / 2 else (0, 0.0)
    return int(seconds * rate + burst * (bursts + min(1.0, into)))


def play(
    pipe: Connection, rate: int, core: int | None, burst: int = 0, every: float = 30.0
) -> None:
    """Serve one exchange until told to stop; report how much was sent."""
    pin(core)
    state = {"sent": 0, "stop": False}
    begin: list[float] = []  # when the first one connected; who comes again is told the rest

    async def socket(request: web.Request) -> web.WebSocketResponse:
        peer = web.WebSocketResponse()
        await peer.prepare(request)
        message = await peer.receive_json()
        await peer.send_json({"result": None, "id": message["id"]})
        task = asyncio.create_task(push(request, peer))
        async for _ in peer:
            pass
        task.cancel()
        return peer

    async def push(request: web.Request, peer: web.WebSocketResponse) -> None:
        names, tick = symbols(), 0.0
        begin.append(time.monotonic())
        while True:
            await asyncio.sleep(0.002)
            now = time.time_ns() // 1_000_000
            if time.monotonic() > tick:
                tick = time.monotonic() + 1
                price = {"e": "markPriceUpdate", "E": now, "s": "BTCUSDT", "p": "1"}
                await peer.send_str(json.dumps(price))
            if state["stop"]:
                continue
            first, last = state["sent"], due(time.monotonic() - begin[0], rate, burst, every)
            if last > first and request.transport is not None:
                frames = [order(number, now, names) for number in range(first, last)]
                request.transport.write(b"".join(frames))  # type: ignore[attr-defined]
                state["sent"] = last

    async def rest(request: web.Request) -> web.Response:
        return web.json_response(exchange_info())

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/market/ws", socket)
        app.router.add_get("/{path:.*}", rest)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(site._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]
        while not pipe.poll():
            await asyncio.sleep(0.05)
        state["stop"] = True
        pipe.recv()
        await asyncio.sleep(1.0)
        pipe.send(state["sent"])
        while not pipe.poll():
            await asyncio.sleep(0.05)
        await runner.cleanup()

    asyncio.run(main())


def urls(port: int) -> dict:
    """Return what ccxt's client is given to speak with it."""
    base = f"http://127.0.0.1:{port}"
    addresses = {"fapiPublic": f"{base}/fapi/v1", "ws": {"linear": f"ws://127.0.0.1:{port}/ws"}}
    return {"urls": {"api": addresses}}


def pin(core: int | None) -> None:
    """Keep a process on one core, where the system can."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
