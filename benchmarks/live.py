"""How long a liquidation takes from the socket to a committed row, and to a bot.

    python benchmarks/live.py                       10,000 events/s, on one core; --quick: 5 s
    python benchmarks/live.py soak --minutes 60     memory and losses at 1,000 events/s

A second process plays Binance on 127.0.0.1; the collector, with its real ccxt client and a SQLite
file, runs here. A third process, on the same core, is a bot that refreshes its view of 80 pairs
again and again.
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
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from exchange import PAIRS, pin, play, urls
from freqtrade.system import gc_set_threshold
from goals import Found, Goal, main, one_core

from liquidations.collector import Collector, Plan
from liquidations.event import MINUTE
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.view import LiveView


CANDLES = 500
RATE = 10_000

#: Seconds in the short form and the full one; between two refreshes.
SECONDS, PAUSE = (3.0, 30.0), 0.2

#: What a refresh of all pairs may take (ms): median and p99; and p99 of rows.
GOAL_REFRESH = {0.5: 1.0, 0.99: 5.0}
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


def other_core() -> int | None:
    """Name a core that this process does not run on, though it may not be allowed to."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    others = os.sched_getaffinity(0) - mine
    os.sched_setaffinity(0, mine)
    return min(others, default=None)


def stored_events(settings: Settings) -> int:
    """Count the events of a store."""
    with Store(settings.db_url) as store, store.read() as reader:
        return sum(n for (_, period), n in reader.counts().items() if period == 0)


class Exchange:
    """Play Binance in a process of its own, on another core if one is named."""

    def __init__(self, rate: int, core: int | None) -> None:
        self._here, there = mp.Pipe()
        self._process = mp.get_context("spawn").Process(
            target=play, args=(there, rate, core), daemon=True
        )
        self._process.start()
        assert self._here.poll(30), "the exchange did not start"
        self.urls = {"binance": urls(self._here.recv())}

    def stop(self) -> int:
        """Send no more, and return how many were sent."""
        self._here.send("stop")
        while not self._here.poll():
            time.sleep(0.01)
        return self._here.recv()

    def close(self) -> None:
        """End the process."""
        self._here.send("end")
        self._process.join(10)


def collect(rate: int, seconds: float, *, core: int | None, ask: bool) -> dict:
    """Collect for so long, and measure."""
    gc_set_threshold()  # as the command and a bot do
    exchange = Exchange(rate, core)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(f"sqlite:///{folder}/live.sqlite", ("binance",))
        collector = Measured(Plan(settings, None, exchange.urls))
        thread = threading.Thread(target=lambda: asyncio.run(collector.run()))
        thread.start()
        while not (collector.feeds and collector.feeds[0].live):
            time.sleep(0.1)
        if ask:
            here, there = mp.Pipe()
            asking = mp.get_context("spawn").Process(
                target=bot, args=(there, settings.db_url, core)
            )
            asking.start()
            assert here.poll(30), "the bot did not start"
            here.recv()
            collector.waits[:] = 0
        levels, begun = [], time.monotonic()
        while (elapsed := time.monotonic() - begun) < seconds:
            levels.append((elapsed, memory_mb()))
            time.sleep(min(5.0, seconds))
        asked = []
        if ask:
            here.send("stop")
            asked = here.recv()
            asking.join()
        sent = exchange.stop()
        time.sleep(0.5)
        collector.stop()
        thread.join()
        stored = stored_events(settings)
        exchange.close()
    waits = collector.waits
    return {"sent": sent, "stored": stored, "waits": waits, "asked": asked, "levels": levels}


def bot(pipe: Connection, url: str, core: int | None) -> None:
    """Refresh a view again and again until told to stop, and report the times."""
    pin(core)
    gc_set_threshold()
    settings, asked = Settings(url, ("binance",)), []
    with Store(url) as store:
        view = LiveView(lambda: store)
        for number in range(2):  # the first ones read all there is
            refresh(view, settings, number)
        pipe.send("ready")
        while not pipe.poll(PAUSE):
            asked.append(refresh(view, settings, 2 + len(asked)))
    pipe.send(asked)


def refresh(view: LiveView, settings: Settings, number: int) -> tuple[float, float]:
    """Time (ms) what a bot does after a close: read what is new; and then ask for each pair.

    What is new to a bot of 1m is the minute that closed and what has come since. The closes lie
    back, so that none is waited for, and each is another, so that the same is read anew.
    """
    close = (time.time_ns() // 1_000_000 // MINUTE - 1) * MINUTE + number
    times = [time.perf_counter()]
    view.until(close, settings.exchanges, settings.settle)
    times.append(time.perf_counter())
    for series in view.series():  # what nobody asks for would not be read again
        view.source(series, close - CANDLES * MINUTE, close)
    times.append(time.perf_counter())
    return tuple(1000 * np.diff(times))


def run(quick: bool) -> Found:
    """Measure the live loop and a bot beside it on one core."""
    one_core()
    result = collect(RATE, SECONDS[not quick], core=other_core(), ask=True)
    refreshed, taken = np.array(result["asked"]).T
    found = Found()
    found.times[f"{result['sent']:,} events at {RATE:,}/s, and a bot, on one core"] = {
        "frame to committed row": quantile(result["waits"], 0.5),
        f"refresh of {PAIRS} pairs, {len(refreshed)} times": float(np.median(refreshed)),
        "taking all of them from the view": float(np.median(taken)),
    }
    for share, goal in GOAL_REFRESH.items():
        what = f"live refresh of {PAIRS} pairs, {'median' if share == 0.5 else 'p99'}"
        value = float(np.quantile(refreshed, share))
        low, high = float(refreshed.min()), float(refreshed.max())
        found.goals.append(Goal(what, value, goal, "ms", low=low, high=high))
    row = quantile(result["waits"], 0.99)
    found.goals += [
        Goal("frame to committed row, p99", row, GOAL_MS, "ms"),
        Goal("events lost", abs(result["sent"] - result["stored"]), 0, "events"),
    ]
    return found


def soak() -> int:
    """Watch memory and losses for long; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("soak",))
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--minutes", type=float, default=60)
    asked = parser.parse_args()
    rate, minutes = asked.rate, asked.minutes
    found = collect(rate, minutes * 60, core=None, ask=False)
    warm = min(5.0, minutes / 2) * 60
    before = max(level for at, level in found["levels"] if at <= warm)
    after = max(level for at, level in found["levels"] if at > warm)
    print(f"{found['sent']:,} events at {rate:,}/s in {minutes:g} min, {found['stored']:,} stored")
    print(f"memory {before:.1f} MB after {warm / 60:g} min, at most {after:.1f} MB later")
    met = after - before <= GOAL_MB and found["sent"] == found["stored"]
    print(f"goal growth {GOAL_MB:g} MB, none lost: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(soak() if "soak" in sys.argv[1:2] else main(run, __doc__))
