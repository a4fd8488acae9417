"""Many bots read while liquidations pour in and old ones are packed: is anything lost, or slow?

    python benchmarks/load.py                        10 minutes on SQLite
    python benchmarks/load.py --db postgresql        the same on a real PostgreSQL server
    python benchmarks/load.py --short                20 s and a tenth of the load

Each is a process of its own: Binance on 127.0.0.1, a collector with its real ccxt client, which
also packs what is older than seven minutes, and the bots. A bot's candle closes every 5 seconds:
then it refreshes its view of 80 pairs, which is what new data cost, and computes their columns,
which is its own work. Its candles lie five minutes back, so that it never waits for one to be
complete and always reads the bars of five minutes, as in a timeframe of 5m.

Last, two candles of 5m are refreshed in turns, one with 50 times the events of the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
from exchange import CONTRACTS, PAIRS, numbers, pairs, play, urls
from freqtrade.system import gc_set_threshold
from live import CANDLES, Measured, quantile

from liquidations.candles import candle_closes, columns
from liquidations.collector import PACK_SHARE, Plan
from liquidations.compaction import Moved, compact
from liquidations.database import PATIENCE
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, make_events
from liquidations.provider import by_exchange
from liquidations.reader import Reader, Series
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.view import LiveView


ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import postgres  # noqa: E402


#: ms that the refresh of 80 pairs may take, p99; how many times as long with 50 times the events;
#: bytes that an event may take once it is packed.
GOAL_MS = {"sqlite": 5.0, "postgresql": 15.0}
GOAL_RATIO = 1.5
GOAL_BYTES = 16.0

STEP = 5 * MINUTE
#: Rows of this age (ms) are packed; bots, whose candles lie five minutes back, still read them.
OLD = 7 * MINUTE
ROUNDS = 15

#: When the candle of the last part opens.
OPEN = 1_722_862_800_000


class Packing(threading.Thread):
    """Pack what is older than a while, in a collector's process, as that does with older rows."""

    def __init__(self, store: Store) -> None:
        super().__init__(daemon=True)
        self.store, self.end = store, threading.Event()
        self.packed = Moved()
        #: How often the database had no room for it; it is tried again.
        self.refused = 0

    def run(self) -> None:
        """Take turns of packing and of rest until the end."""
        while not self.end.wait(1.0):
            steps = compact(self.store, time.time_ns() // 1_000_000 - OLD)
            moved: Moved | None = Moved()
            while moved is not None and not self.end.is_set():
                since = time.monotonic()
                try:
                    moved = next(steps, None)
                except LiquidationsError:  # it waited for others for too long
                    self.refused, moved = self.refused + 1, None
                self.packed += moved or Moved()
                self.end.wait((time.monotonic() - since) * (1 / PACK_SHARE - 1))


def settings_of(url: str) -> Settings:
    """Return the settings of a collector or a bot."""
    return Settings(url, ("binance",))


def collect(pipe: Connection, url: str, port: int) -> None:
    """Collect until told to stop, and until nothing more comes; report what was measured."""
    collector = Measured(Plan(settings_of(url), None, {"binance": urls(port)}))

    packing = Packing(collector.store)

    def watch() -> None:
        while not (collector.feeds and collector.feeds[0].live):
            time.sleep(0.05)
        packing.start()
        pipe.send("live")
        pipe.recv()
        packing.end.set()
        packing.join()
        before = -1
        while collector.written > before:
            before = collector.written
            time.sleep(2.0)
        collector.stop()

    threading.Thread(target=watch, daemon=True).start()
    asyncio.run(collector.run())
    found = {name: getattr(collector, name) for name in ("waits", "late", "repeated")}
    pipe.send({**found, "packed": packing.packed.events, "refused": packing.refused})


def ask(view: LiveView, close: int, settings: Settings) -> tuple[float, ...]:
    """Refresh a view and compute the columns of all pairs; return ms and processor ms of both."""
    times = [(time.perf_counter(), time.thread_time())]
    view.until(close, settings.exchanges, settings.settle)
    times.append((time.perf_counter(), time.thread_time()))
    opens = np.arange(close - CANDLES * STEP, close, STEP)
    closes = candle_closes(opens, "5m")
    for pair in pairs():
        found, _ = by_exchange(view, pair, opens, closes, settings)
        columns(found, min_coverage=settings.min_coverage, min_exchanges=settings.min_exchanges)
    times.append((time.perf_counter(), time.thread_time()))
    return tuple(1000 * np.diff(times, axis=0).ravel())


def read(pipe: Connection, url: str, share: float, candle: float) -> None:
    """Be a bot whose candle closes every so many seconds; report its times when told to stop."""
    settings, found = settings_of(url), []
    with Store(url, patience=PATIENCE) as store:
        view = LiveView(lambda: store)
        at = time.monotonic() + share * candle
        while not pipe.poll(max(0.0, at - time.monotonic())):
            close = (time.time_ns() // 1_000_000 // MINUTE - 5) * MINUTE + len(found)
            found.append(ask(view, close, settings))
            at = max(at + candle, time.monotonic())
    pipe.send(np.array(found[2:]))  # the first reads all, the second prepares statements


def processor_seconds(processes: dict[str, list[int]]) -> dict[str, float]:
    """Return what each kind of process, with its children, has used of the processors so far."""
    used = {}
    for kind, pids in processes.items():
        known = [psutil.Process(pid) for pid in pids]
        known += [child for one in known for child in one.children(recursive=True)]
        times = [one.cpu_times() for one in known]
        used[kind] = sum(one.user + one.system for one in times)
    machine = psutil.cpu_times()
    used["machine"] = sum(machine[:7]) - machine.idle - machine.iowait
    return used


class Child:
    """Start a function in a process of its own, with a pipe to it."""

    def __init__(self, function: Callable[..., None], *arguments: object) -> None:
        self.pipe, there = mp.Pipe()
        # Forked: twenty bots would import for a minute.
        self.process = mp.get_context("fork").Process(
            target=function, args=(there, *arguments), daemon=True
        )
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid


def load(url: str, server: list[int], asked: argparse.Namespace) -> dict:
    """Put the load on a store, and measure."""
    # As the command and a bot do. What is forked inherits it, and with it all that was imported: to
    # look through that for garbage takes 170 ms of a process that a user starts otherwise.
    gc_set_threshold()
    exchange = Child(play, asked.rate, None, asked.burst, asked.every)
    collector = Child(collect, url, exchange.pipe.recv())
    assert collector.pipe.recv() == "live"
    time.sleep(2.0)
    bots = [Child(read, url, number / asked.bots, asked.candle) for number in range(asked.bots)]
    pids = {
        "exchange": [exchange.pid],
        "collector": [collector.pid],
        "bots": [bot.pid for bot in bots],
        "database": server,
    }
    before, begun = processor_seconds(pids), time.monotonic()
    memory, queue = [], []
    while time.monotonic() - begun < asked.minutes * 60:
        time.sleep(1.0)
        assert collector.process.is_alive(), "the collector ended"
        memory.append(psutil.Process(collector.pid).memory_info().rss / 2**20)
        queue.append(os.getloadavg()[0])
    seconds = time.monotonic() - begun
    used = {
        kind: (after - before[kind]) / seconds for kind, after in processor_seconds(pids).items()
    }
    for bot in bots:
        bot.pipe.send("stop")
    times = np.concatenate([bot.pipe.recv() for bot in bots])
    exchange.pipe.send("stop")
    sent = exchange.pipe.recv()
    collector.pipe.send("stop")
    found = collector.pipe.recv()
    exchange.pipe.send("end")
    for child in (exchange, collector, *bots):
        child.process.join(10)
    used["others"] = used.pop("machine") - sum(used.values())
    third = len(memory) // 3
    return {
        "sent": sent,
        "refreshes": len(times),
        **{
            name: summary(column)
            for name, column in zip(("refresh", "refresh_cpu", "columns", "columns_cpu"),
                                    times[:, (0, 1, 2, 3)].T, strict=True)
        },
        "row": {str(share): quantile(found["waits"], share) for share in (0.5, 0.99, 1.0)},
        "late": found["late"],
        "repeated": found["repeated"],
        "packed": found["packed"],
        "refused": found["refused"],
        "memory": [max(memory[: third + 1]), max(memory[third:])],
        "processors": used,
        "queue": float(np.mean(queue)),
        "stored": verify(url, sent),
    }  # fmt: skip


def summary(values: np.ndarray) -> dict[str, float]:
    """Return median, 99th percentile and greatest."""
    return {
        str(share): float(value)
        for share, value in zip(
            (0.5, 0.99, 1.0), np.quantile(values, (0.5, 0.99, 1.0)), strict=True
        )
    }


def verify(url: str, sent: int) -> dict:
    """Count what is wrong with the store, by each order's number; then pack all, and weigh it."""
    with Store(url) as store:
        with store.read() as reader:
            seen, result = np.zeros(sent, np.int64), {"lost": 0, "twice": 0, "wrong": 0, "bars": 0}
            delays, read = [], 0
            for series in reader.series():
                mine, delay = _of_series(reader, series, sent, result)
                seen += np.bincount(mine[mine < sent], minlength=sent)
                read += len(mine)
                delays.append(delay)
            rows = sum(n for (_, period), n in reader.counts().items() if period == 0)
            gaps = sum(len(reader.gaps(feed)) for feed in reader.feeds())
        # Events are joined by their keys when they are read; rows that stand twice count more.
        result["twice"] = int((seen > 1).sum()) + rows - read
        result["lost"] = int((seen == 0).sum())
        delay = np.concatenate(delays)
        moved = sum(one.events for one in compact(store, 2**62, most=200_000))
        packed = _packed_bytes(store)
    return {
        **result,
        "events": rows,
        "gaps": gaps,
        "delay": {str(share): float(np.quantile(delay, share)) for share in (0.5, 0.99, 1.0)},
        "moved_last": moved,
        "bytes": packed / max(1, rows),
    }


def _of_series(
    reader: Reader, series: Series, sent: int, result: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a series' orders, and how late each was received (ms)."""
    events = reader.events(series, 0, 2**62)
    mine = numbers(events.price, events.amount)
    at = pairs().index(series.pair)
    result["wrong"] += int(np.count_nonzero(mine >= sent))
    result["wrong"] += int(np.count_nonzero(CONTRACTS[mine % len(CONTRACTS)] != at))
    result["wrong"] += int(np.count_nonzero((mine % 3 == 0) != (events.side == 1)))
    # Sums of what came in time and late; they are exact, so that no order of adding matters.
    packed, _, rows, (late, _), _ = reader.parts(series, 0, 2**62)
    time_ = np.concatenate((packed.timestamp, rows.timestamp, late.timestamp // MINUTE * MINUTE))
    for side, name in enumerate(("long", "short")):
        sums = [getattr(packed, name), getattr(rows, name), late.value_usd * (late.side == side)]
        own = events.side == side
        one = _by_minute(time_, np.concatenate(sums))
        two = _by_minute(events.timestamp[own] // MINUTE * MINUTE, events.value_usd[own])
        result["bars"] += len(set(one.items()) ^ set(two.items()))
    return mine, events.received - events.timestamp


def _by_minute(minute: np.ndarray, value: np.ndarray) -> dict[int, float]:
    found, code = np.unique(minute, return_inverse=True)
    sums = np.bincount(code, value, len(found))
    return {one: total for one, total in zip(found.tolist(), sums.tolist(), strict=True) if total}


def _packed_bytes(store: Store) -> int:
    with store.transaction(write=False) as connection:
        question = "SELECT sum(length(data)) FROM liq_segment WHERE period = 0"
        return int(connection.exec_driver_sql(question).scalar() or 0)


def fill_candle(url: str, events: int, contracts: int) -> None:
    """Make a store with one candle of so many live events, in the first so many contracts."""
    random = np.random.default_rng(events + contracts)
    with Store(url, create=True) as store:
        with store.write() as writer:
            feed = writer.claim("binance", "linear", "binance", "bench", OPEN)
            writer.join(feed, pairs(), OPEN - CANDLES * STEP)
            feed = writer.cover(feed, OPEN - CANDLES * STEP, OPEN + STEP)
            writer.seal(feed, 0, OPEN)
        for first in range(0, events, 10_000):
            size = min(10_000, events - first)
            time_ = OPEN + np.sort(random.integers(0, STEP, size))
            price = np.round(100 + random.random(size) * 10, 2)
            amount = np.round(0.001 + random.random(size) * 10, 3)
            of = random.integers(0, contracts, size)
            side = random.integers(0, 2, size)
            batch = {}
            for number in range(contracts):
                own = of == number
                columns_ = (array[own] for array in (time_, side, price, amount, price * amount))
                batch[pairs()[number]] = make_events(*columns_)
            with store.write() as writer:
                feed = writer.feed("binance", "linear", "binance")
                feed, _ = writer.append(feed, batch, 0)
                writer.seal(feed, OPEN + STEP if first + size == events else 0, OPEN)


def candle(place: Callable[[str], str], few: int, many: int) -> dict:
    """Time the refresh of a candle with few and many events, in turns."""
    stores = {}
    for contracts in (PAIRS, 1):
        for events in (few, many):
            url = place(f"candle_{contracts}_{events}")
            fill_candle(url, events, contracts)
            stores[contracts, events] = Store(url)
    times: dict[tuple[int, int], list[tuple[float, ...]]] = {key: [] for key in stores}
    for _ in range(ROUNDS):
        for key, store in stores.items():
            view = LiveView(lambda store=store: store)  # type: ignore[misc]
            ask(view, OPEN, settings_of(store.db_url))
            times[key].append(ask(view, OPEN + STEP, settings_of(store.db_url)))
    for store in stores.values():
        store.close()
    middle = {key: np.median(np.array(rows), axis=0) for key, rows in times.items()}
    return {
        f"{contracts} pairs" if contracts > 1 else "one pair": {
            "few_ms": float(middle[contracts, few][0]),
            "many_ms": float(middle[contracts, many][0]),
            "ratio": float(middle[contracts, many][0] / middle[contracts, few][0]),
            "ratio_columns": float(middle[contracts, many][2] / middle[contracts, few][2]),
        }
        for contracts in (PAIRS, 1)
    }


@contextmanager
def database(kind: str) -> Iterator[tuple[Callable[[str], str], list[int]]]:
    """Yield a function that makes the URL of a new store, and the server's process if there is one.

    The server waits for the disk, as a user's does.
    """
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield lambda name: f"sqlite:///{folder}/{name}.sqlite", []
        return
    with postgres.Server() as server:
        server.start()
        yield lambda name: server.url(server.create(name)), [server.process.pid]


def goals(kind: str, found: dict) -> list[tuple[str, str, bool]]:
    """Say what was found beside each goal, and whether it was met."""
    stored, most = found["stored"], GOAL_MS[kind]
    right = not any(stored[name] for name in ("lost", "twice", "wrong", "bars"))
    rows = [
        (
            f"{found['sent']:,} sent, {stored['events']:,} stored, {stored['lost']} lost, "
            f"{stored['twice']} twice, {stored['wrong']} wrong, {stored['bars']} bars differ",
            "all, once",
            right and stored["events"] == found["sent"],
        ),
        (
            f"refresh of {PAIRS} pairs, p99 {found['refresh']['0.99']:.1f} ms",
            f"{most:g} ms",
            found["refresh"]["0.99"] <= most,
        ),
        (f"{stored['bytes']:.1f} bytes a packed event", "16", stored["bytes"] <= GOAL_BYTES),
    ]
    for name, one in found["candle"].items():
        text = f"50 times the events in {name}: {one['few_ms']:.2f} and {one['many_ms']:.2f} ms"
        rows.append((f"{text}, {one['ratio']:.2f} times", "1.5", one["ratio"] <= GOAL_RATIO))
    return rows


def show(found: dict) -> None:
    """Print what was measured besides the goals."""
    for name, text in (
        ("refresh", f"refresh of {PAIRS} pairs"),
        ("refresh_cpu", "  of it the bot's processor time"),
        ("columns", f"columns of {PAIRS} pairs"),
        ("columns_cpu", "  of it processor time"),
        ("row", "frame to committed row"),
    ):
        middle, high, most = found[name].values()
        print(f"{text:34} median {middle:7.1f}   p99 {high:7.1f}   max {most:8.1f} ms")
    middle, high, most = found["stored"]["delay"].values()
    print(f"{'sent to received':34} median {middle:7.1f}   p99 {high:7.1f}   max {most:8.1f} ms")
    print(
        f"{found['refreshes']:,} refreshes; {found['late']:,} events came after their minute was "
        f"sealed; {found['stored']['gaps']} gaps; {found['packed']:,} packed meanwhile, "
        f"{found['refused']} times not"
    )
    first, last = found["memory"]
    print(
        f"memory of the collector: {first:.0f} MB in the first third, {last:.0f} MB at most later"
    )
    shares = ", ".join(f"{kind} {share:.2f}" for kind, share in found["processors"].items())
    print(
        f"processors in use, of {os.cpu_count()}: {shares}; "
        f"on average {found['queue']:.1f} processes ran or waited to"
    )


def main() -> int:
    """Run it, print it, write ``benchmarks/load.json``; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--db", choices=list(GOAL_MS), default="sqlite")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--rate", type=int, help="events a second")
    parser.add_argument("--burst", type=int, help="events within a second on top of them")
    parser.add_argument("--every", type=float, help="seconds between two bursts")
    parser.add_argument("--bots", type=int)
    parser.add_argument("--candle", type=float, help="seconds between two refreshes of a bot")
    parser.add_argument("--short", action="store_true", help="20 s and a tenth of the load")
    asked = parser.parse_args()
    short = {
        "minutes": 1 / 3,
        "rate": 1_000,
        "burst": 5_000,
        "every": 8.0,
        "bots": 4,
        "candle": 1.0,
    }
    full = {
        "minutes": 10.0,
        "rate": 10_000,
        "burst": 50_000,
        "every": 30.0,
        "bots": 20,
        "candle": 5.0,
    }
    for name, value in (short if asked.short else full).items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    few, many = (650, 32_500) if asked.short else (6_500, 350_000)
    with database(asked.db) as (place, server):
        found = load(place("load"), server, asked)
        found["candle"] = candle(place, few, many)
    print(
        f"{asked.db}: {asked.rate:,} events/s for {asked.minutes:.3g} min, and {asked.burst:,} in "
        f"one second every {asked.every:g} s; {asked.bots} bots"
    )
    show(found)
    rows = goals(asked.db, found)
    for text, goal, met in rows:
        print(f"{'met   ' if met else 'MISSED'} {text} (goal {goal})")
    if not asked.short:
        file = ROOT / "benchmarks" / "load.json"
        known = json.loads(file.read_text()) if file.is_file() else {}
        known[asked.db] = {**vars(asked), **found}
        file.write_text(json.dumps(known, indent=1) + "\n")
    met = sum(row[2] for row in rows)
    print(f"bench: {met} of {len(rows)} goals met")
    return int(met < len(rows))


if __name__ == "__main__":
    sys.exit(main())
