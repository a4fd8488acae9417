"""How long a liquidation takes from the socket to a committed row, and to a bot's columns.

    python benchmarks/live.py                       latency at 10,000 events/s, on one core
    python benchmarks/live.py soak --minutes 60     memory and losses at 1,000 events/s

A second process plays Binance on 127.0.0.1; the collector, with its real ccxt client and a SQLite
file, runs here, together with a bot that asks for the columns of 80 pairs again and again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import resource
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import orjson
from aiohttp import web

from liquidations.collector import Collector, Plan
from liquidations.event import MINUTE
from liquidations.provider import LiquidationProvider
from liquidations.settings import Settings
from liquidations.store import Store


PAIRS = 80
CANDLES = 500
GOAL_MS = 50.0
GOAL_MB = 5.0


def symbols() -> list[str]:
    """Name the contracts that are played."""
    return [f"C{number:02d}USDT" for number in range(PAIRS)]


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


def play(pipe: Connection, rate: int, core: int | None) -> None:
    """Serve one exchange until told to stop; report how much was sent."""
    pin(core)

    async def socket(request: web.Request) -> web.WebSocketResponse:
        peer = web.WebSocketResponse()
        await peer.prepare(request)
        message = await peer.receive_json()
        await peer.send_json({"result": None, "id": message["id"]})
        state["begin"] = time.monotonic()
        task = asyncio.create_task(push(peer))
        async for _ in peer:
            pass
        task.cancel()
        return peer

    state = {"sent": 0, "begin": 0.0, "stop": False}

    async def push(peer: web.WebSocketResponse) -> None:
        names, tick = symbols(), 0.0
        while True:
            await asyncio.sleep(0.002)
            now = time.time_ns() // 1_000_000
            if time.monotonic() > tick:
                tick = time.monotonic() + 1
                price = {"e": "markPriceUpdate", "E": now, "s": "BTCUSDT", "p": "1"}
                await peer.send_str(json.dumps(price))
            if state["stop"]:
                continue
            due = int((time.monotonic() - state["begin"]) * rate)
            while state["sent"] < due:
                number = state["sent"]
                state["sent"] += 1
                # Prices and sizes that do not repeat, so that each order is another.
                order = {
                    "s": names[number * 7919 % PAIRS],
                    "S": "SELL" if number % 3 else "BUY",
                    "o": "LIMIT",
                    "f": "IOC",
                    "q": "1",
                    "p": "100",
                    "ap": f"{100 + number % 9973 / 100:.2f}",
                    "X": "FILLED",
                    "l": "1",
                    "z": f"{1 + number % 10007 / 1000:.3f}",
                    "T": now,
                }
                frame = {"e": "forceOrder", "E": now, "o": order}
                await peer.send_str(orjson.dumps(frame).decode())

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


def pin(core: int | None) -> None:
    """Keep a process on one core, where the system can."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


class Measured(Collector):
    """Note how long each order waited from its receipt to the end of its transaction."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.waits: list[np.ndarray] = []
        self.keep = True

    def _commit(self, works):  # type: ignore[no-untyped-def]
        super()._commit(works)
        now = time.time_ns() / 1e6
        received = [row[1] for _, work in works for row in work.orders]
        if received and self.keep:
            self.waits.append(now - np.array(received))


def memory_mb() -> float:
    """Return what this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def run(rate: int, seconds: float, *, one_core: bool, ask: bool) -> dict:
    """Collect for so long, and measure."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    here, there = mp.Pipe()
    server = mp.get_context("spawn").Process(
        target=play, args=(there, rate, cores[-1] if one_core else None), daemon=True
    )
    server.start()
    port = here.recv()
    if one_core:
        pin(cores[0])
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(f"sqlite:///{folder}/live.sqlite", ("binance",))
        base = f"http://127.0.0.1:{port}"
        urls = {"fapiPublic": f"{base}/fapi/v1", "ws": {"linear": f"ws://127.0.0.1:{port}/ws"}}
        collector = Measured(Plan(settings, None, {"binance": {"urls": {"api": urls}}}))
        collector.keep = ask  # else the measuring itself would grow
        thread = threading.Thread(target=lambda: asyncio.run(collector.run()))
        thread.start()
        while not (collector.feeds and collector.feeds[0].live):
            time.sleep(0.1)
        asked, levels, begun = [], [], time.monotonic()
        provider = LiquidationProvider(settings.db_url)
        while (elapsed := time.monotonic() - begun) < seconds:
            if ask:
                asked.append(refresh(provider, settings))
            levels.append((elapsed, memory_mb()))
            time.sleep(0.5 if ask else 5)
        here.send("stop")
        sent = here.recv()
        time.sleep(0.5)
        collector.stop()
        thread.join()
        with Store(settings.db_url).read() as reader:
            stored = sum(n for (_, period), n in reader.counts().items() if period == 0)
        here.send("end")
    waits = np.concatenate([*collector.waits, np.empty(0)])
    return {"sent": sent, "stored": stored, "waits": waits, "asked": asked, "levels": levels}


_asked = 0


def refresh(provider: LiquidationProvider, settings: Settings) -> float:
    """Time (ms) what a bot does after a close: read what is new, and the columns of all pairs."""
    global _asked
    _asked += 1
    # Closes that lie back are not waited for; each one is another, so that all is read anew.
    close = (time.time_ns() // 1_000_000 // MINUTE - 1) * MINUTE + _asked
    opens = np.arange(close - CANDLES * 5 * MINUTE, close, 5 * MINUTE)
    begin = time.perf_counter()
    for symbol in symbols():
        pair = f"{symbol.removesuffix('USDT')}/USDT:USDT"
        provider.columns(pair, opens, "5m", settings, live=True)
    return (time.perf_counter() - begin) * 1000


def main() -> int:
    """Run the benchmark that was asked for; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="latency", choices=("latency", "soak"))
    parser.add_argument("--rate", type=int)
    parser.add_argument("--minutes", type=float)
    asked = parser.parse_args()
    if asked.what == "latency":
        rate, minutes = asked.rate or 10_000, asked.minutes or 1
        found = run(rate, minutes * 60, one_core=True, ask=True)
        rows = np.quantile(found["waits"], (0.5, 0.99))
        columns = np.quantile(found["asked"][1:], (0.5, 0.99))
        print(f"{found['sent']:,} events at {rate:,}/s on one core, {found['stored']:,} stored")
        print(f"frame to committed row   median {rows[0]:6.1f} ms   p99 {rows[1]:6.1f} ms")
        print(
            f"columns of {PAIRS} pairs      median {columns[0]:6.1f} ms   p99 {columns[1]:6.1f} ms"
        )
        met = rows[1] <= GOAL_MS and columns[1] <= GOAL_MS and found["sent"] == found["stored"]
        print(f"goal p99 {GOAL_MS:.0f} ms each, none lost: {'met' if met else 'MISSED'}")
        return 0 if met else 1
    rate, minutes = asked.rate or 1_000, asked.minutes or 60
    found = run(rate, minutes * 60, one_core=False, ask=False)
    warm = min(5.0, minutes / 2) * 60
    before = max(level for at, level in found["levels"] if at <= warm)
    after = max(level for at, level in found["levels"] if at > warm)
    print(f"{found['sent']:,} events at {rate:,}/s in {minutes:g} min, {found['stored']:,} stored")
    print(f"memory {before:.1f} MB after {warm / 60:g} min, at most {after:.1f} MB later")
    met = after - before <= GOAL_MB and found["sent"] == found["stored"]
    print(f"goal growth {GOAL_MB:g} MB, none lost: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
