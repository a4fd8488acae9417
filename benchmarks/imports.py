"""What it costs to bring liquidations into a store, on one core.

    python benchmarks/imports.py            --quick: less of the same, and no whole commands

- into segments: events in memory, by the writer that ``import-data`` uses, until they are committed
- the live path: batches of 80 pairs, of which a tenth repeats; SQLite and PostgreSQL
- ``binance_vision``: the whole command for the 472 days of COIN-M liquidations, made here in the
  form that their source documents, 53,411 events of which each stands twice
- ``tardis``: the same for one day of one contract with 5,000,000 rows
"""

from __future__ import annotations

import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from exchange import pairs
from goals import ROUNDS, Found, Goal, import_path, main, one_core

from liquidations.event import DAY, Events, make_events
from liquidations.store import Store


import_path()

import postgres  # noqa: E402


DAYS, MISSING, EVENTS = 478, (61, 123, 124, 200, 301, 402), 53_411
ROWS = 5_000_000

#: Events of the short form and the full one, into segments and through the live path; and how many
#: of the latter come at once.
SEGMENTS, LIVE, BATCH = (200_000, 2_000_000), (20_000, 100_000), 5_000

#: Seconds, or rows a second; and MB.
GOAL_SECONDS, GOAL_RATE, GOAL_MEMORY = 30, 500_000, 1_000
GOAL_SEGMENTS, GOAL_LIVE = 1_000_000, 60_000
AT = 1_722_816_000_000

_HEADER = (
    "time,side,order_type,time_in_force,original_quantity,price,average_price,order_status,"
    "last_fill_quantity,accumulated_fill_quantity"
)


def utc(day: str) -> int:
    """Return the ms UTC at which a day begins."""
    return int(np.datetime64(day, "ms").astype(np.int64))


def make_snapshots(folder: Path) -> int:
    """Make the daily files of COIN-M, and return the number of their rows."""
    random = np.random.default_rng(1)
    days = [number for number in range(DAYS) if number not in MISSING]
    of_day = np.bincount(random.integers(0, len(days), EVENTS), minlength=len(days))
    start, total = utc("2023-06-25"), 0
    for number, count in zip(days, of_day.tolist(), strict=True):
        day = start + number * DAY
        times = np.sort(day + random.integers(0, DAY, count)).tolist()
        prices = np.round(30_000 + random.normal(0, 500, count), 1).tolist()
        sizes = random.geometric(0.02, count).tolist()
        sides = random.choice(["SELL", "BUY"], count).tolist()
        rows = [
            f"{at},{side},LIMIT,IOC,{size},{price - 50:.1f},{price},FILLED,{size},{size}"
            for at, side, price, size in zip(times, sides, prices, sizes, strict=True)
        ]
        lines = [*([_HEADER] if number % 2 else []), *rows, *rows]
        total += 2 * len(rows)
        name = f"BTCUSD_PERP-liquidationSnapshot-{np.datetime64(day, 'ms').astype('M8[D]')}"
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{name}.csv", "\n".join((*lines, "")))
    return total


def make_tardis(folder: Path) -> int:
    """Make one day of one contract, in order of arrival, and return the number of its rows."""
    random = np.random.default_rng(2)
    # As they were sent: in bursts, so that several share a millisecond.
    burst = np.sort(random.integers(0, DAY - 2_000, ROWS // 5))
    at = np.sort(burst[random.integers(0, len(burst), ROWS)] + random.integers(0, 20, ROWS))
    at = (utc("2024-08-05") + at) * 1000
    arrival = at + random.integers(20_000, 900_000, ROWS)
    order = np.argsort(arrival, kind="stable")
    price = np.round(55_000 + np.cumsum(random.normal(0, 0.5, ROWS)), 1)
    amount = np.round(np.exp(random.normal(-2, 1.5, ROWS)), 3) + 0.001
    table = pa.table(
        {
            "exchange": pa.repeat("bybit", ROWS),
            "symbol": pa.repeat("BTCUSDT", ROWS),
            "timestamp": at[order],
            "local_timestamp": arrival[order],
            "id": pa.repeat("", ROWS),
            "side": pa.array(["sell", "buy"]).take(pa.array(random.integers(0, 2, ROWS))),
            "price": price[order],
            "amount": np.round(amount, 3)[order],
        }
    )
    with gzip.open(folder / "bybit_liquidations_2024-08-05_BTCUSDT.csv.gz", "wb", 1) as file:
        file.write(f"{','.join(table.column_names)}\n".encode())
        options = pa_csv.WriteOptions(include_header=False, quoting_style="none")
        pa_csv.write_csv(table, file, options)
    return ROWS


def measure(source: str, make: Callable[[Path], int], events: int) -> dict[str, float]:
    """Import what ``make`` makes by the command, and return rows, seconds and MB at the peak."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = folder / "files"
        files.mkdir()
        rows = make(files)
        url = f"sqlite:///{folder}/liquidations.sqlite"
        command = ["import-data", "--userdir", name, "--source", source, "--db-url", url]
        begin = time.perf_counter()
        # In a process of its own, whose memory is that of the import alone.
        process = subprocess.Popen(
            [sys.executable, "-m", "liquidations", *command, str(files)],
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"the import of {source} failed"
        with Store(url) as store, store.read() as reader:
            stored = {period: count for (_, period), count in reader.counts().items()}
        assert stored[0] == events, f"{stored[0]:,} events of {events:,} were stored"
    return {
        "rows": rows,
        "seconds": seconds,
        # What is less than the seconds was spent waiting for the disk, or for others on this core.
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "memory_mb": usage.ru_maxrss / 1024,
    }


def draw(rows: int, span: int, contracts: int) -> tuple[np.ndarray, ...]:
    """Draw events: contract, and the columns of ``make_events``, in order of time."""
    random = np.random.default_rng(rows)
    time_ = AT + np.sort(random.integers(0, span, rows))
    price = np.round(100 + 10 * random.random(rows), 2)
    amount = np.round(0.001 + 10 * random.random(rows), 3)
    side, of = random.integers(0, 2, rows), random.integers(0, contracts, rows)
    return of, time_, side, price, amount, price * amount


def segments(rows: int) -> Callable[[str], float]:
    """Return what imports events of one contract, 2,000,000 a year, and tells the seconds."""
    span = 365 * DAY * rows // SEGMENTS[-1]
    events = make_events(*draw(rows, span, 1)[1:])
    covered = np.array([[AT, AT + span]])

    def work(url: str) -> float:
        with Store(url, create=True) as store:
            begin = time.perf_counter()
            with store.write() as writer:
                done = writer.insert("bybit", "BTC/USDT:USDT", "bench", events, covered)
            seconds = time.perf_counter() - begin
        assert done.new == len(events)
        return seconds

    return work


def live(rows: int) -> Callable[[str], float]:
    """Return what appends batches of many contracts, and tells the seconds.

    They come at 10,000 a second; nine tenths are new, and the others are of the batch before.
    """
    columns = draw(rows * 9 // 10, rows // 10, len(pairs()))
    new, again = BATCH * 9 // 10, BATCH // 10
    batches: list[dict[str, Events]] = []
    for first in range(0, len(columns[0]), new):
        of, *rest = (one[max(0, first - again) : first + new] for one in columns)
        parts = {pair: of == number for number, pair in enumerate(pairs())}
        batches.append({
            pair: make_events(*(one[own] for one in rest)) for pair, own in parts.items()
        })  # fmt: skip
    total = sum(len(own) for batch in batches for own in batch.values())

    def work(url: str) -> float:
        found = 0
        with Store(url, create=True) as store:
            with store.write() as writer:
                feed = writer.claim("binance", "linear", "binance", "bench", AT)
                writer.join(feed, pairs(), AT)
            begin = time.perf_counter()
            for batch in batches:
                with store.write() as writer:
                    feed = writer.feed("binance", "linear", "binance")
                    feed, done = writer.append(feed, batch, 0)
                    writer.seal(feed, 0, AT)
                found += done.new
            seconds = time.perf_counter() - begin
        assert found == len(columns[0]), f"{found:,} of {len(columns[0]):,}"
        return seconds * rows / total

    return work


@contextmanager
def databases(found: Found, quick: bool) -> Iterator[dict[str, Callable[[str], str]]]:
    """Yield what makes the URL of a new store, by the kind of its database."""
    with tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, Callable[[str], str]] = {
            "SQLite": lambda name: f"sqlite:///{folder}/{name}.sqlite"
        }
        if quick:
            found.absent["PostgreSQL"] = "its server takes long to start; run the full form"
            yield kinds
            return
        try:
            server = postgres.Server()
        except Exception as error:  # its programs are not there, or may not run here
            found.absent["PostgreSQL"] = f"{type(error).__name__}: {error}"
            yield kinds
            return
        with server:
            server.start()
            yield {**kinds, "PostgreSQL": lambda name: server.url(server.create(name))}


def rates(found: Found, quick: bool) -> None:
    """Measure the rows a second that a store takes, in turns."""
    one, other = SEGMENTS[not quick], LIVE[not quick]
    into, through = segments(one), live(other)
    with databases(found, quick) as kinds:
        works = {("events into segments", "SQLite"): (one, GOAL_SEGMENTS, into)}
        for kind in kinds:
            works["rows through the live path", kind] = other, GOAL_LIVE, through
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in works}
        for number in range(ROUNDS + 1):
            for place, (key, (_, _, work)) in enumerate(works.items()):
                seconds[key].append(work(kinds[key[1]](f"store_{number}_{place}")))
    for key, (rows, goal, _) in works.items():
        each = [rows / one for one in seconds[key][1:]]  # the first one warms up
        found.times.setdefault(f"{rows:,} {key[0]}", {})[key[1]] = 1e3 * statistics.median(
            seconds[key][1:]
        )
        what = f"{key[0]}, {key[1]}"
        middle, low, high = statistics.median(each), min(each), max(each)
        found.goals.append(Goal(what, middle, goal, "/s", True, low, high))


def commands(found: Found) -> None:
    """Measure both whole commands."""
    coin = measure("binance_vision", make_snapshots, EVENTS)
    day = measure("tardis", make_tardis, ROWS)
    for name, one in (("binance_vision", coin), ("tardis", day)):
        found.times[f"import-data of {one['rows']:,} rows of {name}"] = {
            "elapsed": 1e3 * one["seconds"],
            "of it processor time": 1e3 * one["cpu_seconds"],
        }
        what = f"memory of import-data of {name}"
        found.goals.append(Goal(what, one["memory_mb"], GOAL_MEMORY, "MB"))
    what = "import-data of 472 archives of binance_vision"
    found.goals.append(Goal(what, coin["seconds"], GOAL_SECONDS, "s"))
    rate = day["rows"] / day["seconds"]
    found.goals.append(Goal("import-data of tardis", rate, GOAL_RATE, "rows/s", least=True))


def run(quick: bool) -> Found:
    """Measure all of it; of the whole commands only in full."""
    one_core()
    found = Found()
    # First, while this process is small: what it holds when a command starts counts as its memory.
    if quick:
        found.absent["the whole commands"] = "they take most of a minute; run the full form"
    else:
        commands(found)
    rates(found, quick)
    return found


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
