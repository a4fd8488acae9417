"""How long a liquidation takes from the socket to a committed row, and to a bot's columns.

    python benchmarks/live.py                       latency at 10,000 events/s, on one core
    python benchmarks/live.py soak --minutes 60     memory and losses at 1,000 events/s

A second process plays Binance on 127.0.0.1; the collector, with its real ccxt client and a SQLite
file, runs here, together with a bot that asks for the columns of 80 pairs again and again.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing as mp
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from exchange import PAIRS, pairs, pin, play, urls

from liquidations.collector import Collector, Plan
from liquidations.event import MINUTE
from liquidations.provider import LiquidationProvider
from liquidations.settings import Settings
from liquidations.store import Store


CANDLES = 500
GOAL_MS = 50.0
GOAL_MB = 5.0


class Measured(Collector):
    """Count the orders by how long (ms) they waited from their receipt to the end of their commit.

    The last number is that of all that waited for longer.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.waits = np.zeros(100_001, np.int64)

    def _commit(self, works):  # type: ignore[no-untyped-def]
        super()._commit(works)
        now = time.time_ns() // 1_000_000
        received = np.array([row[1] for _, work in works for row in work.orders], np.int64)
        waited = np.clip(now - received, 0, len(self.waits) - 1)
        self.waits += np.bincount(waited, minlength=len(self.waits))


def quantile(waits: np.ndarray, share: float) -> int:
    """Return within how many ms this share of the orders was committed."""
    total = np.cumsum(waits)
    return int(np.searchsorted(total, share * total[-1]))


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
        collector = Measured(Plan(settings, None, {"binance": urls(port)}))
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
    waits = collector.waits
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
    for pair in pairs():
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
        rows = [quantile(found["waits"], share) for share in (0.5, 0.99)]
        columns = np.quantile(found["asked"][1:], (0.5, 0.99))
        print(f"{found['sent']:,} events at {rate:,}/s on one core, {found['stored']:,} stored")
        print(f"frame to committed row   median {rows[0]:6} ms   p99 {rows[1]:6} ms")
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
