"""What the liquidation columns cost beside Freqtrade's own loading of the same candles.

Both are timed in turns in one process, in rounds, and the ratio of each round is what counts: the
machine may be slow or busy, both meet the same. Run it with: make bench

- ``recorded``: BTC, ETH, SOL, 1h, two months (needs the recordings; LIQUIDATIONS_RECORDED)
- ``simulated``: one pair, 5m, one year, single events rolled up into one-minute bars
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.history import load_data
from freqtrade.enums import CandleType, RunMode
from freqtrade.system import gc_set_threshold

from liquidations import provider
from liquidations.cli import run as liquidations
from liquidations.strategy import add_liquidations


GOAL = 0.10
ROUNDS = 7
ROOT = Path(__file__).parent.parent
RECORDED = Path(os.environ.get("LIQUIDATIONS_RECORDED", ROOT.parent / "shared"))


class Strategy:
    """Stand for a strategy: what add_liquidations reads of one."""

    def __init__(self, db_url: str, timeframe: str) -> None:
        self.timeframe = timeframe
        self.config = {
            "runmode": RunMode.HYPEROPT,
            "exchange": {"name": "binance"},
            "liquidations": {"db_url": db_url},
        }


def measure(datadir: Path, db_url: str, pairs: list[str], timeframe: str, timerange: str) -> dict:
    """Time candles and columns in turns."""
    strategy = Strategy(db_url, timeframe)
    span = TimeRange.parse_timerange(timerange)

    def candles() -> dict[str, pd.DataFrame]:
        return load_data(datadir, timeframe, pairs, timerange=span, candle_type=CandleType.FUTURES)

    def columns(frames: dict[str, pd.DataFrame]) -> list[pd.DataFrame]:
        return [add_liquidations(strategy, frame, {"pair": pair}) for pair, frame in frames.items()]

    rows = []
    for _ in range(ROUNDS + 1):
        loaded, seconds = timed(candles)
        assert set(loaded) == set(pairs), f"candles are missing in {datadir}"
        added, more = timed(lambda frames=loaded: columns(frames))
        assert all(frame["liq_coverage"].gt(0).any() for frame in added)
        rows.append((seconds, more))
    rows = rows[1:]  # the first round warms the disk and the imports
    ratios = [more / seconds for seconds, more in rows]
    return {
        "candles": sum(map(len, loaded.values())),
        "load_ms": statistics.median(seconds for seconds, _ in rows) * 1e3,
        "columns_ms": statistics.median(more for _, more in rows) * 1e3,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def timed(function: Callable) -> tuple:
    """Return a function's result and its seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def main() -> int:
    """Run both cases, print them, write ``benchmarks/columns.json``; 1 if a goal is missed."""
    results = {}
    gc_set_threshold()  # as Freqtrade's own command line does
    provider.CACHE_BYTES = 0  # each round reads the store
    with tempfile.TemporaryDirectory() as folder:
        db_url = f"sqlite:///{folder}/recorded.sqlite"
        if (RECORDED / "data" / "coinalyze").is_dir():
            answers = sorted((RECORDED / "data" / "coinalyze").glob("*liquidation-history*.json"))
            datadir = RECORDED / "data" / "candles"
            arguments = ["--db-url", db_url, "--datadir", str(datadir), *map(str, answers)]
            liquidations(["import-data", "--source", "coinalyze", "--unit", "base", *arguments])
            pairs = ["BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"]
            results["recorded"] = measure(datadir, db_url, pairs, "1h", "20240620-20240819")
        else:
            print(f"recorded: skipped, there are no recordings in {RECORDED}")
        liquidations(
            f"simulate --userdir {folder} -p BTC/USDT:USDT -t 5m "
            "--timerange 20240101-20250101 --events 1000000".split()
        )
        datadir = Path(folder) / "simulated"
        db_url = f"sqlite:///{datadir}/liquidations.sqlite"
        pairs, year = ["BTC/USDT:USDT"], "20240101-20250101"
        results["simulated"] = measure(datadir / "data", db_url, pairs, "5m", year)
    met = 0
    for name, one in results.items():
        met += one["ratio"] <= GOAL
        print(
            f"{name}: columns {one['columns_ms']:.1f} ms beside {one['load_ms']:.1f} ms of "
            f"candles ({one['candles']:,}): {one['ratio']:.1%} "
            f"({one['ratio_low']:.1%} ... {one['ratio_high']:.1%}), goal {GOAL:.0%}"
        )
    (ROOT / "benchmarks" / "columns.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"bench: {met} of {len(results)} goals met")
    return int(met < len(results))


if __name__ == "__main__":
    sys.exit(main())
