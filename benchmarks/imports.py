"""What it costs to import files: time and memory of the whole command, on one core.

Both are made here, in the form that their sources document. Run it with:
python benchmarks/imports.py

- ``binance_vision``: the 472 days of COIN-M liquidations, 53,411 events of which each stands twice
- ``tardis``: one day of one contract with 5,000,000 rows
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from liquidations.event import DAY
from liquidations.store import Store


ROOT = Path(__file__).parent.parent
DAYS, MISSING, EVENTS = 478, (61, 123, 124, 200, 301, 402), 53_411
ROWS = 5_000_000

#: Seconds, or rows a second; and MB.
GOAL_SECONDS, GOAL_RATE, GOAL_MEMORY = 30, 500_000, 1_000

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


def main() -> int:
    """Run both, print them, write ``benchmarks/imports.json``; 1 if a goal is missed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = {
        "binance_vision": measure("binance_vision", make_snapshots, EVENTS),
        "tardis": measure("tardis", make_tardis, ROWS),
    }
    met = 0
    for name, one in results.items():
        rate = one["rows"] / one["seconds"]
        fast = one["seconds"] <= GOAL_SECONDS if name == "binance_vision" else rate >= GOAL_RATE
        met += fast + (one["memory_mb"] <= GOAL_MEMORY)
        goal = f"{GOAL_SECONDS} s" if name == "binance_vision" else f"{GOAL_RATE:,} rows/s"
        print(
            f"{name}: {one['rows']:,} rows in {one['seconds']:.1f} s "
            f"({one['cpu_seconds']:.1f} s of the core), {rate:,.0f} rows/s, goal {goal}; "
            f"{one['memory_mb']:.0f} MB at the peak, goal {GOAL_MEMORY:,} MB"
        )
    (ROOT / "benchmarks" / "imports.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"bench: {met} of {2 * len(results)} goals met")
    return int(met < 2 * len(results))


if __name__ == "__main__":
    sys.exit(main())
