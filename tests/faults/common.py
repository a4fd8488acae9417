"""What the programs of this folder share: an exchange, a collector and a bot to hit, and a judge.

The exchange plays Binance on 127.0.0.1; each of its orders is another, so that it is recognised in
the store. The collector is the real one; what it has committed it notes in a file before anything
else happens: that is *acknowledged*. The judge compares what was sent, noted and stored.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import logging
import multiprocessing as mp
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.enums import RunMode


sys.path.insert(0, str(Path(__file__).parents[1]))  # for loopback and postgres
import loopback as exchanges

from liquidations import collector as collecting
from liquidations.candles import Source
from liquidations.collector import Collector, Plan
from liquidations.compaction import compact
from liquidations.errors import LiquidationsError
from liquidations.event import (
    DAY,
    LONG,
    MINUTE,
    SHORT,
    Events,
    Ints,
    is_within,
    make_events,
    repeats,
)
from liquidations.reader import Reader, Series
from liquidations.rows import same
from liquidations.settings import Settings
from liquidations.store import Store


PROGRAMS = Path(__file__).parent

#: What a new process has loaded already, so that a start costs 0.1 s and not 2 s.
LOADED = (
    "common",
    "ccxt.pro",
    "liquidations.exchanges.binance",
    "liquidations.strategy",
    "psycopg",
)

#: What is traded: four of five orders are of the few first ones, as on the real markets.
BASES = tuple(f"C{number:02d}" for number in range(80))
_BUSY = 8

#: Of so many reads one is of a busy contract, which has 30,000 orders a minute.
_SELDOM = 50

#: An order's number is told by its price (the last four digits) and its size (the others).
_PRICES = 10_000

#: A minute's bar does not change any more so long (ms) after its close: settle is 1.5 s, the rest
#: is for a collector that can't keep up on a crowded machine, and hears late what time it is.
SEALED = 30_000

#: Orders that a new subscriber gets although they were sent before.
REPLAYED = 200


# --- the exchange ---------------------------------------------------------------------------------


def price_of(number: Any) -> Any:
    """Give an order's price, from 1.00 to 100.99."""
    return 1 + number % _PRICES / 100


def size_of(number: Any) -> Any:
    """Give an order's size in base units."""
    return 1 + number // _PRICES / 1000


def numbers_of(price: np.ndarray, size: np.ndarray) -> Ints:
    """Tell the numbers of orders from what they say."""
    place = np.rint((np.asarray(price) - 1) * 100).astype(np.int64)
    return np.rint((np.asarray(size) - 1) * 1000).astype(np.int64) * _PRICES + place


def base_of(number: Any) -> Any:
    """Tell the place of an order's base asset among ``BASES``."""
    number = np.asarray(number)
    return np.where(number % 5, number % _BUSY, _BUSY + number // 5 % (len(BASES) - _BUSY))


def side_of(number: Any) -> Any:
    """Tell whose position an order closed: of three in turn two are longs."""
    return np.where(np.asarray(number) % 3, LONG, SHORT)


class Greeting(exchanges.Binance):
    """Give each new subscriber the last orders once more, so that something can be doubled."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def greet(self, exchange: exchanges.Loopback, topic: str) -> list[str]:
        last, now = self._exchange.published, exchange.now()
        numbers = range(max(0, last - REPLAYED), last)
        return [self._exchange.frame(number, now) for number in numbers]


class Exchange:
    """Play Binance: orders at a rate, from ``start`` on until ``pause``."""

    def __init__(self, rate: int, *, most: int = 20_000_000) -> None:
        exchanges.BINANCE["linear"] = dict.fromkeys(("BTC", *BASES), 1)
        self.rate = rate
        #: Orders that were made, and of these those that were certainly published.
        self.sent = self.published = 0
        #: When (ms) each order happened.
        self.times = np.zeros(most, np.int64)
        self._stop = threading.Event()
        self._context = exchanges.loopback()
        self.server = self._context.__enter__()
        self._thread: threading.Thread | None = None
        exchanges.VENUES["binance"] = Greeting(self)

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._push, daemon=True)
        self._thread.start()

    def pause(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        self.pause()
        self._context.__exit__(None, None, None)

    def _push(self) -> None:
        begin, before = time.monotonic(), self.sent
        while not self._stop.wait(0.02):
            due = before + int((time.monotonic() - begin) * self.rate)
            self.times[self.sent : due] = self.server.now()
            frames = [self.frame(number) for number in range(self.sent, due)]
            self.sent = due
            self.server.burst("binance", "linear", frames)
            self.published = due

    def frame(self, number: int, sent: int | None = None) -> str:
        """Write one forceOrder as Binance does; ``sent`` (ms) is now, unless it happened now."""
        at, side = self.times[number], "SELL" if number % 3 else "BUY"
        base = number % _BUSY if number % 5 else _BUSY + number // 5 % (len(BASES) - _BUSY)
        return (
            f'{{"e":"forceOrder","E":{sent or at},"o":{{"s":"{BASES[base]}USDT",'
            f'"S":"{side}","o":"LIMIT","f":"IOC","q":"1","p":"90","ap":"{price_of(number):.2f}",'
            f'"X":"FILLED","l":"1","z":"{size_of(number):.3f}","T":{at}}}}}'
        )

    def config(self, port: int | None = None, host: str = "127.0.0.1") -> dict[str, Any]:
        """Give the ccxt settings with which a client dials here, or a way that leads here."""
        text = json.dumps(self.server.ccxt_config("binance"))
        here = f"127.0.0.1:{self.server.port}"
        return json.loads(text.replace(here, f"{host}:{port or self.server.port}"))


# --- the collector --------------------------------------------------------------------------------


class Noted(Collector):
    """Note what was committed: a line of -time (ms), then the numbers of the orders."""

    def __init__(self, plan: Plan, notes: Path) -> None:
        super().__init__(plan)
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def _commit(self, works):  # type: ignore[no-untyped-def]
        super()._commit(works)
        orders = [row[0] for _, work in works for row in work.orders]
        numbers = numbers_of(
            np.array([order.price for order in orders]), np.array([order.size for order in orders])
        )
        block = np.concatenate(([-(time.monotonic_ns() // 1_000_000)], numbers)).astype(np.int64)
        os.write(self._notes, block.tobytes())


def plan_for(db_url: str, ccxt_config: Mapping[str, Any], **options: Any) -> Plan:
    settings = Settings(db_url, ("binance",), **options)
    return Plan(settings, frozenset(BASES), {"binance": ccxt_config})


def collect(
    db_url: str,
    ccxt_config: Mapping[str, Any],
    notes: str | Path,
    log: str | Path,
    ahead: int | Synchronized[int] = 0,
    options: Mapping[str, Any] | None = None,
    *,
    pack: int = 0,
) -> None:
    """Run a collector in this process until SIGTERM.

    :param ahead: by how much (ms) this process's clock is ahead; may change at any time
    :param options: further settings
    :param pack: an hour is a second: what is so many seconds old is packed, all the time
    """
    log_to(log)
    drop_rights()
    set_clock(ahead)
    if pack:
        collecting.HOUR, collecting.PACK, collecting.PACK_REST = 1_000, 0.5, (0.0, 0.0)
        options = {"compact_after": pack, **(options or {})}
    while True:
        try:
            collector = Noted(plan_for(db_url, ccxt_config, **(options or {})), Path(notes))
            break
        except LiquidationsError as error:  # as systemd, or a bot, starts it again
            logging.getLogger("liquidations.faults").error(f"ERROR: {error}")
            time.sleep(0.5)
    signal.signal(signal.SIGTERM, lambda *_: collector.stop())
    asyncio.run(collector.run())


def drop_rights() -> None:
    """Let the rights of files concern this process even if it is root's (Linux)."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None)
    for one in _PASS_BY:
        libc.prctl(24, one, 0, 0, 0)  # PR_CAPBSET_DROP, so that an exec does not give it back
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for place in range(3):  # what is effective, permitted, inherited
        sets[place] &= ~sum(1 << one for one in _PASS_BY)
    libc.capset(header, sets)


#: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
_PASS_BY = (1, 2)


def log_to(file: str | Path) -> None:
    """Log what the program says, and Python's own warnings, as lines of a file."""
    logging.basicConfig(
        filename=file, level="INFO", format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    logging.captureWarnings(True)


def set_clock(ahead: int | Synchronized[int]) -> None:
    """Let this process's system clock be ahead by so many ms, or by what a shared number says."""
    real_ns, real = time.time_ns, time.time

    def off() -> int:
        return ahead if isinstance(ahead, int) else ahead.value

    time.time_ns = lambda: real_ns() + off() * 1_000_000
    time.time = lambda: real() + off() / 1000


def before_midnight(seconds: float) -> int:
    """Tell by how much (ms) a clock must be ahead to show so many seconds before midnight UTC."""
    return int(-seconds * 1000 - time.time_ns() // 1_000_000) % DAY


def compact_again_and_again(
    db_url: str, ahead: int, old: int, moved: Synchronized[int], log: str
) -> None:
    """Pack what is so many seconds old in small steps until killed.

    :param moved: counts events that were moved
    """
    log_to(log)
    set_clock(ahead)
    store = Store(db_url)
    while True:
        for step in compact(store, time.time_ns() // 1_000_000 - old * 1_000, most=5_000):
            moved.value += step.events
        time.sleep(0.05)


def acknowledged(notes: Iterable[Path]) -> tuple[Ints, Ints]:
    """Read notes: the numbers of all orders that were committed, and when (ms, monotonic)."""
    numbers, times = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for file in notes:
        data = file.read_bytes()
        block = np.frombuffer(data[: len(data) // 8 * 8], np.int64)
        numbers.append(block[block >= 0])
        times.append(-block[block < 0])
    return np.concatenate(numbers), np.concatenate(times)


# --- the judge ------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """Count what was found; all but the first three must be 0."""

    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    doubled: int = 0
    missing: int = 0
    #: Stored, but never sent, or with another time, side, price or contract.
    strange: int = 0
    #: Minutes whose bar is not the sum of their events.
    wrong_bars: int = 0
    #: Sent at a time of which the store says that somebody listened, and not stored.
    uncovered: int = 0
    #: So long (ms) after the begin of a time that is covered.
    where: set[int] = field(default_factory=set)

    def faults(self) -> list[str]:
        names = ("doubled", "missing", "strange", "wrong_bars", "uncovered")
        found = [f"{getattr(self, name):,} {name}" for name in names if getattr(self, name)]
        found += [f"uncovered, {one} ms after it began to listen" for one in sorted(self.where)[:3]]
        return found + ["nothing was acknowledged"] * (not self.acknowledged)

    def rows(self) -> list[tuple[str, str]]:
        names = [one.name for one in fields(self) if one.name != "where"]
        return [(name.replace("_", " "), f"{getattr(self, name):,}") for name in names]


def judge(db_url: str, exchange: Exchange, noted: Ints) -> Verdict:
    """Compare the store with what was sent and acknowledged."""
    found = Verdict(exchange.sent, len(np.unique(noted)))
    stored, bases = np.zeros(exchange.sent, np.int64), base_of(np.arange(exchange.sent))
    with Store(db_url) as store, store.read() as reader:
        for series in reader.series():
            if series.pair == BOT_PAIR:  # the History's
                continue
            base = BASES.index(series.base)
            numbers, right, wrong = _series(reader, series, base, exchange)
            found.wrong_bars += wrong
            found.stored += len(numbers)
            found.strange += int((~right).sum())
            np.add.at(stored, numbers[right], 1)
            own = np.flatnonzero(bases == base)
            own = own[stored[own] == 0]
            # Of the millisecond in which it began an order may have come before.
            spans = reader.coverage(series) + (1, 0)
            own = own[is_within(spans, exchange.times[own])]
            found.uncovered += len(own)
            found.where |= set(since_start(spans[:, 0], exchange.times[own]))
    found.doubled = int((stored > 1).sum())
    found.missing = int((stored[np.unique(noted)] == 0).sum())
    return found


def since_start(starts: Ints, times: Ints) -> list[int]:
    """Tell how long (ms) after the last start before it each time is."""
    return (times - starts[np.searchsorted(starts, times, side="right") - 1]).tolist()


def _series(
    reader: Reader, series: Series, base: int, exchange: Exchange
) -> tuple[Ints, np.ndarray, int]:
    """Return the numbers of what is stored of a series, whether it was sent so, and wrong bars."""
    events = reader.events(series, 0, 2**62)
    numbers = numbers_of(events.price, events.amount)
    known = np.clip(numbers, 0, max(0, exchange.sent - 1))
    right = (numbers >= 0) & (numbers < exchange.sent) & (base_of(numbers) == base)
    right &= (events.timestamp == exchange.times[known]) & (events.side == side_of(numbers))
    right &= np.isclose(events.price, price_of(numbers), rtol=1e-12)
    right &= np.isclose(events.amount, size_of(numbers), rtol=1e-12)
    right &= np.isclose(events.value_usd, price_of(numbers) * size_of(numbers), rtol=1e-7)
    source = reader.source(series, 0, 2**62)
    return numbers, right, len(torn_minutes(source, events))


def torn_minutes(source: Source, events: Events) -> list[int]:
    """List the minutes whose bar is not, to the bit, the sum of their events that came in time."""
    if source.late is not None:
        late = source.late.events
        events = events.take(~same(events, late.timestamp, late.key))
    minutes, place = np.unique(events.timestamp // MINUTE * MINUTE, return_inverse=True)
    bars, wrong = source.bars, set(minutes.tolist()) ^ set(source.bars.timestamp.tolist())
    both = np.isin(bars.timestamp, minutes)
    for side, name in ((LONG, "long"), (SHORT, "short")):
        own = events.side == side
        usd = np.bincount(place[own], events.value_usd[own], len(minutes))
        count = np.bincount(place[own], minlength=len(minutes))
        there = np.isin(minutes, bars.timestamp)
        off = (getattr(bars, name)[both] != usd[there]) | (
            getattr(bars, f"{name}_count")[both] != count[there]
        )
        wrong |= set(minutes[there][off].tolist())
    return sorted(wrong)


# --- the judge, judged ----------------------------------------------------------------------------

#: What is done to a good store, and the word by which the judge must tell it.
BREAKS = {
    "nothing is wrong": "",
    "an acknowledged order is not stored": "missing",
    "an order is stored twice": "doubled",
    "an order is stored that was not sent": "strange",
    "an order has another size": "strange",
    "a bar lacks an order": "wrong_bars",
    "an order of covered time is not stored": "uncovered",
}


def broken(db_url: str, exchange: Exchange, wrong: str) -> Verdict:
    """Store 800 orders as a collector does, break one thing, and return what the judge says."""
    now = exchange.server.now() // MINUTE * MINUTE - 10 * MINUTE
    exchange.sent = 800
    exchange.times[:801] = now + np.arange(801)
    numbers = np.arange(800)
    noted = numbers
    if wrong == "an acknowledged order is not stored":
        noted = np.append(noted, 799)
        numbers = numbers[:-1]
    if wrong == "an order of covered time is not stored":
        numbers, noted = np.delete(numbers, 5), np.delete(noted, 5)
    extra = {"an order is stored twice": 5, "an order is stored that was not sent": 800}.get(wrong)
    if extra is not None:
        numbers = np.append(numbers, extra)
    with Store(db_url, create=True) as store:
        with store.write() as writer:
            for series in writer.series():
                writer.remove(series.exchange, series.pair, series.source)
            feed = writer.feed("binance", "linear", "binance")
            writer.join(feed, [f"{base}/USDT:USDT" for base in BASES], now)
            sizes = size_of(numbers)
            if wrong == "an order has another size":
                sizes[0] *= 1.5
            # What stands twice has a rank of its own, so another key, as a mistake would give it.
            ranks = (np.arange(len(numbers)) >= 800) & (numbers < 800)
            for base in range(len(BASES)):
                own = np.flatnonzero(base_of(numbers) == base)
                price, size = price_of(numbers[own]), sizes[own]
                events = make_events(
                    exchange.times[numbers[own]], side_of(numbers[own]), price, size, price * size,
                    rank=ranks[own].astype(np.int64),
                )  # fmt: skip
                feed, _ = writer.append(feed, {f"{BASES[base]}/USDT:USDT": events}, now + MINUTE)
            feed = writer.cover(feed, now, now + 1_000)
            writer.seal(feed, now, now)
        if wrong == "a bar lacks an order":
            with store._engine.begin() as connection:
                connection.exec_driver_sql(
                    "UPDATE liq_bar SET long_count = long_count - 1 WHERE long_count > 1 "
                    "AND series_id = (SELECT min(series_id) FROM liq_bar WHERE long_count > 1)"
                )
    return judge(db_url, exchange, noted)


def uncovered(db_url: str, start: int, end: int) -> float:
    """Return how many seconds of a time nobody listened, as the store says."""
    with Store(db_url) as store, store.read() as reader:
        series = next(one for one in reader.series() if one.base == BASES[0])
        spans = reader.coverage(series)
    listened = sum(max(0, min(end, stop) - max(start, first)) for first, stop in spans.tolist())
    return (end - start - listened) / 1000


# --- the readers ----------------------------------------------------------------------------------


def read_again_and_again(
    db_url: str, seed: int, ahead: int, stop: Any, counts: Sequence[Synchronized[int]], log: str
) -> None:
    """Read random contracts and minutes, each in one transaction, until told to stop.

    :param counts: reads, torn ones, ones that lack what an earlier one had, and refused ones
    """
    log_to(log)
    set_clock(ahead)
    reads, torn, gone, refused = counts
    pick = random.Random(seed)
    store: Store | None = None
    memory: dict[tuple[int, int], tuple[Events, bytes | None]] = {}
    while not stop.is_set():
        now = time.time_ns() // 1_000_000
        minute = now // MINUTE * MINUTE - pick.choice((0, 0, 1, 2)) * MINUTE
        try:
            store = store or Store(db_url)
            with store.read() as reader:
                known = reader.series()
                if not known:
                    time.sleep(0.05)
                    continue
                busy = not pick.randrange(_SELDOM)
                known = [one for one in known if (one.base in BASES[:_BUSY]) == busy] or known
                series = pick.choice(known)
                source = reader.source(series, minute, minute + MINUTE)
                events = reader.events(series, minute, minute + MINUTE)
        except LiquidationsError as error:
            logging.warning(error)
            with refused.get_lock():
                refused.value += 1
            time.sleep(0.02)
            continue
        wrong = torn_minutes(source, events)
        state = b"".join(column.tobytes() for column in source.bars.arrays().values())
        bad = bool(wrong) or bool(repeats(events.timestamp, events.key).any())
        # Of a minute that was sealed when it was read first the bar must stay as it is.
        old, old_state = memory.get((series.id, minute), (events, None))
        lost = not same(old, events.timestamp, events.key).all()
        lost |= old_state is not None and old_state != state
        sealed = now > minute + MINUTE + SEALED
        memory[series.id, minute] = events, state if sealed else None
        if len(memory) > 400:
            memory.pop(next(iter(memory)))
        for counter, hit in ((reads, True), (torn, bad), (gone, lost)):
            if hit:
                with counter.get_lock():
                    counter.value += 1
        if bad or lost:
            logging.error(f"{series.pair} {minute}: torn {bad}, {wrong}; gone {lost}")


# --- reports --------------------------------------------------------------------------------------


@dataclass
class Report:
    """Gather the figures and faults of a program's parts, and print them."""

    title: str = ""
    failures: list[str] = field(default_factory=list)

    def part(self, name: str, rows: Iterable[tuple[str, Any]], faults: Iterable[str] = ()) -> None:
        """Print the figures of one part."""
        faults = list(faults)
        print(f"\n{name}: {'FAILED' if faults else 'ok'}")
        for label, value in rows:
            shown = f"{value:,.2f}" if isinstance(value, float) else str(value)
            print(f"  {label:<34} {shown}")
        for fault in faults:
            print(f"  ! {fault}")
        sys.stdout.flush()
        self.failures += [f"{name}: {fault}" for fault in faults]

    def skip(self, name: str, why: str) -> None:
        """Say why a part was left out."""
        print(f"\n{name}: skipped: {why}", flush=True)

    def end(self) -> int:
        """Return the exit code: 1 if anything failed; print what, if it is told by parts."""
        if self.title:
            print(f"\n{self.title}: {', '.join(self.failures) or 'all is well'}")
        return 1 if self.failures else 0


def run_parts(
    report: Report,
    program: str,
    parts: Mapping[str, Sequence[str]],
    words: Sequence[str],
    jobs: int,
) -> None:
    """Run each part of a program in a process of its own, and print what it prints.

    :param parts: each with the command that its process is run by, such as ``unshare``
    :param words: for all of them
    :param jobs: so many at a time
    """

    def run(part: str) -> subprocess.CompletedProcess[str]:
        command = [*parts[part], sys.executable, program, part, *words]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )

    with ThreadPoolExecutor(jobs) as pool:
        for part, done in zip(parts, pool.map(run, parts), strict=True):
            print(done.stdout.rstrip(), flush=True)
            if done.returncode:
                report.failures.append(part)


def program(
    title: str,
    file: str,
    doc: str | None,
    parts: Sequence[str],
    short: Sequence[str],
    run: Callable[[Report, str, float], None],
    inside: Callable[[str], list[str]],
    lacking: Callable[[], str | None],
) -> int:
    """Run the parts that were asked for, and return the exit code.

    :param inside: returns what puts a part into a namespace of its own; nothing if it needs none
    :param lacking: tells why there can be none
    """
    parser = argparse.ArgumentParser(description=str(doc).partition("\n")[0])
    parser.add_argument("part", nargs="?", choices=parts, help="Default: all.")
    parser.add_argument("--short", action="store_true", help="Some of them, and shorter faults.")
    parser.add_argument("--seconds", type=float, help="How long a fault lasts.")
    given = parser.parse_args()
    seconds = given.seconds or (6.0 if given.short else 20.0)
    if given.part is not None:
        report = Report()
        run(report, given.part, seconds)
        return report.end()
    report, why = Report(title), lacking()
    chosen: dict[str, list[str]] = {}
    for part in short if given.short else parts:
        if inside(part) and why is not None:
            report.skip(part, why)
        else:
            chosen[part] = inside(part)
    run_parts(report, file, chosen, ["--seconds", str(seconds)], 5 if given.short else 3)
    return report.end()


def until(condition: Callable[[], Any], timeout: float) -> float | None:
    """Wait until something is so; return how long (s) it took, None if it took too long."""
    begin = time.monotonic()
    while time.monotonic() - begin < timeout:
        if condition():
            return time.monotonic() - begin
        time.sleep(0.02)
    return None


def messages(log: Path, *levels: str) -> list[str]:
    """List what a process said at these levels, without the time."""
    lines = log.read_text().splitlines() if log.exists() else []
    rows = [line.split(" ", 3)[2:] for line in lines if line[:2] == "20"]
    return [row[1] for row in rows if len(row) == 2 and row[0] in (levels or ("WARNING", "ERROR"))]


def kind_of(text: str) -> str:
    """Shorten a message to what is the same in all of its kind."""
    text = re.sub(r"/\S+/", "…/", text)
    return re.sub(r"\d+", "N", text)[:160]


def forks() -> Any:
    """Give a maker of processes that have loaded ``LOADED`` when they begin."""
    # The process that is forked does not know where the program lies.
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(PROGRAMS) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PROGRAMS), *filter(None, known)])
    # Who is told to end, as by a time limit, leaves no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    first = context.Process(target=int)  # loads all that, so that what follows starts at once
    first.start()
    first.join()
    return context


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        yield Path(name)


@contextmanager
def ending(process: Any) -> Iterator[Any]:
    """Let a process not outlive a part."""
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join()


# --- the bot --------------------------------------------------------------------------------------

BOT_PAIR = "BTC/USDT:USDT"

#: Candles in a bot's frame, and how many minutes there are for it to walk through.
FRAME, HISTORY = 300, 4_000

#: What it says when a trouble is over.
MENDED = "liquidations can be read again"

#: A minute passes in so many ms, and a bot asks for one that ended so many minutes ago.
CANDLE, BEHIND = 200, 2


def usd_of(minute: Any) -> Any:
    """Give what was liquidated in a minute (ms) of the history, all of it longs."""
    return 100.0 + minute // MINUTE % 50


class History:
    """Write a minute of the past every ``CANDLE`` ms, as a collector writes those of an exchange.

    :param begin: of its minutes (ms UTC); the first ones are written at once
    """

    def __init__(self, db_url: str, begin: int | None = None) -> None:
        self.begin = begin or (time.time_ns() // 1_000_000 // MINUTE - HISTORY - 10) * MINUTE
        self.epoch = now_ms() - (FRAME + 10) * CANDLE
        self.store, self.written = Store(db_url, create=True), 0
        #: Messages of what it could not write at first.
        self.refused: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._write(self.due())
        self._thread.start()

    def due(self) -> int:
        """Count the minutes that have ended by now."""
        return (now_ms() - self.epoch) // CANDLE

    def _run(self) -> None:
        while not self._stop.wait(CANDLE / 1000 / 4):
            due = self.due()
            if due > self.written:
                try:
                    self._write(due)
                except LiquidationsError as error:
                    self.refused.append(str(error))

    def _write(self, due: int) -> None:
        if self.store.replaced():
            self.store.close()
        minutes = self.begin + np.arange(self.written, due) * MINUTE
        usd, end = usd_of(minutes), self.begin + due * MINUTE
        count = len(minutes)
        events = make_events(minutes + 5_000, np.full(count, LONG), np.ones(count), usd, usd)
        with self.store.write() as writer:
            feed = writer.feed("binance", "linear", "binance")
            if not self.written:
                writer.join(feed, [BOT_PAIR], self.begin)
            # As a collector does: what bots may have read of is sealed, whoever was in time.
            sealed = max(feed.sealed, end - MINUTE) if self.written else feed.sealed
            feed, start = replace(feed, sealed=sealed), self.begin + self.written * MINUTE
            feed, _ = writer.append(feed, {BOT_PAIR: events}, sealed + MINUTE)
            feed = writer.cover(feed, start, min(end, sealed), sealed + MINUTE)
            feed = writer.cover(feed, max(start, sealed), end)
            writer.seal(feed, end, time.time_ns() // 1_000_000)
        self.written = due

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.store.close()


class Strategy:
    """Have what ``add_liquidations`` asks of a strategy."""

    timeframe = "1m"

    def __init__(self, db_url: str) -> None:
        own = {"db_url": db_url, "exchanges": ["binance"], "collect": False}
        self.config = {"runmode": RunMode.DRY_RUN, "liquidations": own}


def trade(
    db_url: str, begin: int, epoch: int, asked: str, log: str, ahead: int | Synchronized[int] = 0
) -> None:
    """Ask for the columns of each candle that closes, as a bot does.

    Each ask is a line: when it began and ended (ms, monotonic), how many candles were right, NaN
    and wrong, and whether the newest one was right.

    :param begin, epoch: of the :class:`History`
    """
    from liquidations.strategy import add_liquidations

    log_to(log)
    drop_rights()
    set_clock(ahead)
    strategy, before = Strategy(db_url), 0
    with Path(asked).open("a", buffering=1) as file:
        while True:
            close = (now_ms() - epoch) // CANDLE - BEHIND
            if close == before or close < FRAME:
                time.sleep(0.01)
                continue
            before = close
            opens = begin + (close - FRAME + np.arange(FRAME)) * MINUTE
            frame = pd.DataFrame({"date": pd.to_datetime(opens, unit="ms", utc=True)})
            at = now_ms()
            frame = add_liquidations(strategy, frame, {"pair": BOT_PAIR})  # type: ignore[arg-type]
            done = now_ms()
            told = frame["liq_long"].to_numpy()
            right = told == usd_of(opens)
            unknown = np.isnan(told)
            wrong = int((~right & ~unknown).sum())
            row = (at, done, int(right.sum()), int(unknown.sum()), wrong, int(right[-1]))
            file.write(f"{json.dumps(row)}\n")


@dataclass(frozen=True)
class Asked:
    """Hold what a bot was told at one time; times in ms, monotonic."""

    begin: int
    end: int
    right: int
    unknown: int
    wrong: int
    newest: int


def now_ms() -> int:
    """Return the time (ms, monotonic) that all processes of a machine share."""
    return time.monotonic_ns() // 1_000_000


class Trading:
    """Run a bot, and tell what it was told."""

    def __init__(
        self,
        processes: Any,
        db_url: str,
        history: History,
        folder: Path,
        ahead: int | Synchronized[int] = 0,
    ) -> None:
        self.file, self.log = folder / "asked", folder / "bot.log"
        words = (db_url, history.begin, history.epoch, str(self.file), str(self.log), ahead)
        self.process = processes.Process(target=trade, args=words, daemon=True)
        self.process.start()

    def asked(self) -> list[Asked]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [Asked(*json.loads(line)) for line in lines if line.endswith("]")]

    def wait(self) -> None:
        """Wait until it is told what it asks for."""
        if until(lambda: len(self.asked()) >= 5 and self.asked()[-1].newest, 40) is None:
            raise RuntimeError(f"the bot is not told: {self.log.read_text()[-2000:]}")

    def said(self) -> list[str]:
        """List its warnings and errors, and when they were over."""
        every = messages(self.log, "INFO", "WARNING", "ERROR")
        told = set(messages(self.log))
        return [text for text in every if text in told or text == MENDED]

    def well_since(self, moment: int) -> bool:
        """Tell whether it was told its newest candle since a moment (ms, monotonic)."""
        return any(one.newest and one.begin > moment for one in self.asked()[-5:])


class Collecting:
    """Run a collector, and tell since when what it has committed."""

    def __init__(
        self,
        processes: Any,
        db_url: str,
        exchange: Exchange,
        folder: Path,
        ahead: int | Synchronized[int] = 0,
        **way: Any,
    ) -> None:
        self.exchange, self.db_url = exchange, db_url
        self.notes, self.log = folder / "notes", folder / "collector.log"
        config = exchange.config(**way)
        self.process = processes.Process(
            target=collect, args=(db_url, config, self.notes, self.log, ahead), daemon=True
        )
        self.process.start()

    def numbers(self) -> Any:
        return acknowledged([self.notes] if self.notes.exists() else [])[0]

    def wait(self) -> None:
        """Wait until it stores what is published."""
        if until(lambda: self.has(0), 40) is None:
            raise RuntimeError(f"nothing is stored: {self.log.read_text()[-2000:]}")

    def has(self, number: int) -> bool:
        """Tell whether an order after this one was committed."""
        return bool((self.numbers() > number).any())

    def stop(self) -> None:
        self.process.terminate()
        self.process.join(15)


def bot_figures(
    asked: list[Asked], start: int, end: int, said: list[str]
) -> tuple[list[tuple[str, Any]], list[str]]:
    """Sum what a bot was told before, during and after a fault (ms, monotonic)."""
    during = [one for one in asked if one.end > start and one.begin < end]
    after = [one for one in asked if one.begin >= end]
    wrong = sum(one.wrong for one in asked)
    rows: list[tuple[str, Any]] = [
        ("asks before, during, after", f"{len(asked) - len(during) - len(after)}, "
         f"{len(during)}, {len(after)}"),
        ("longest ask in seconds", max((one.end - one.begin for one in asked), default=0) / 1000),
        ("candles right during it", sum(one.right for one in during)),
        ("candles NaN during it", sum(one.unknown for one in during)),
        ("candles wrong at any time", wrong),
        *(("said", kind_of(text)) for text in said),
    ]  # fmt: skip
    faults = [f"{wrong} candles are wrong"] * bool(wrong)
    seen: set[str] = set()
    for text in said:
        kind = text.partition(":")[0]
        if kind == MENDED:
            seen.clear()
        elif kind in seen:
            faults.append(f"it says again: {kind}")
        seen.add(kind)
    if not during:
        faults.append("the bot was not asked during the fault")
    return rows, faults
