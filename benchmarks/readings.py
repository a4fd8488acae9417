"""What all readings cost beside Freqtrade's loading of the same candles: 80 pairs, a year of 5m.

Two markets are simulated and stand under 80 names, so that 80 files are read. In each round every
pair's candles are loaded, then every reading is made of them, once, with its defaults; both are
timed in one process, pair by pair in turns. Run it with: make bench

``--pairs 8`` makes it short.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from columns import ROOT, Strategy
from freqtrade.configuration import TimeRange
from freqtrade.data.history import load_data
from freqtrade.enums import CandleType
from freqtrade.system import gc_set_threshold

import liquidations as door
from liquidations.cli import run as liquidations
from liquidations.strategy import add_liquidations, add_thresholds


YEAR = "20240101-20250101"
MARKETS = ("BTC/USDT:USDT", "ETH/USDT:USDT")

#: What is timed; a reading takes candles with all columns. Those of 5m take their defaults.
READINGS: dict[str, Callable[[pd.DataFrame], object]] = {
    "extreme": lambda f: door.extreme(f["liq_imbalance"]),
    "shift": lambda f: door.shift(f["liq_imbalance"]),
    "flip": lambda f: door.flip(f["liq_imbalance"]),
    "return_to_balance": lambda f: door.return_to_balance(f["liq_imbalance"]),
    "high_volume": lambda f: door.high_volume(f["liq_total"]),
    "sharp_move": lambda f: door.sharp_move(f["high"], f["low"], f["close"]),
    "capitulation": door.capitulation,
    "volatility_regime": lambda f: door.volatility_regime(f["close"]),
    "quiet": lambda f: door.quiet(f, f["capitulation"]),
    "fragile": door.fragile,
    "pressure": lambda f: door.pressure(f["liq_long"], f["liq_short"]),
    "window_imbalance": lambda f: door.window_imbalance(f["liq_long"], f["liq_short"], 48),
    "consistency": lambda f: door.consistency(f["liq_imbalance"]),
    "open_interest_change": lambda f: door.open_interest_change(f["liq_open_interest_amount"], 12),
    "flush": door.flush,
    "isolated": door.isolated,
    "reported_share": lambda f: door.reported_share(
        f["liq_total"], f["liq_open_interest_amount"], f["close"]
    ),
    "intensity": lambda f: door.intensity(f["liq_total"], f["volume"] * f["close"]),
    "liquidation_levels": door.liquidation_levels,
    "significant": lambda f: door.significant(f["liq_imbalance"], f["liq_n_eff"]),
    "significant_by_count": lambda f: door.significant_by_count(
        f["liq_imbalance"], f["liq_long_count"], f["liq_short_count"]
    ),
    "shrunk_imbalance": lambda f: door.shrunk_imbalance(f["liq_long"], f["liq_short"]),
    "gated_extreme": door.gated_extreme,
    "gated_by_volume": door.gated_by_volume,
    "exchange_imbalance": door.exchange_imbalance,
    "leave_one_out": door.leave_one_out,
    "robust_extreme": door.robust_extreme,
    "saturation": lambda f: door.saturation(f["liq_long_count"] + f["liq_short_count"], 300),
    "saturated": lambda f: door.saturated(f["liq_long_count"] + f["liq_short_count"], 300),
    "corrected_imbalance": lambda f: door.corrected_imbalance(
        f["liq_long"], f["liq_short"], f["liq_long_count"] + f["liq_short_count"], 300, 12
    ),
}


def markets(folder: Path, pairs: int) -> tuple[Path, str, list[str]]:
    """Simulate the markets and give their candles the names of so many pairs."""
    liquidations(
        ["simulate", "--userdir", str(folder), "-p", *MARKETS, "-t", "5m", "--timerange", YEAR]
    )
    datadir = folder / "simulated" / "data"
    names = []
    for number in range(pairs):
        origin = MARKETS[number % len(MARKETS)].split("/")[0]
        source = datadir / "futures" / f"{origin}_USDT_USDT-5m-futures.feather"
        shutil.copy(source, source.with_name(f"P{number}_USDT_USDT-5m-futures.feather"))
        names.append(f"P{number}/USDT:USDT")
    return datadir, f"sqlite:///{folder}/simulated/liquidations.sqlite", names


def with_columns(
    strategy: Strategy, candles: pd.DataFrame, interest: pd.DataFrame, pair: str
) -> pd.DataFrame:
    """Add what the readings read; the second exchange of the ratios is the first one again."""
    frame = add_liquidations(strategy, candles, {"pair": pair}, n_eff=True, per_exchange=True)
    published = interest["open_interest_amount"].set_axis(interest["date"] + pd.Timedelta("1h"))
    known = frame["date"] + pd.Timedelta("5min") - pd.Timedelta("1ms")
    amount = published.reindex(known, method="ffill").to_numpy()
    frame["liq_open_interest_amount"] = amount
    for column in ("liq_imbalance", "liq_total"):
        frame[f"{column}_okx"] = frame[column]
    frame["capitulation"] = door.capitulation(frame)
    return frame


def timed(function: Callable) -> tuple:
    """Return a function's result and its seconds."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def main() -> int:
    """Run it, print the table, write ``benchmarks/readings.json``; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=80)
    pairs = parser.parse_args().pairs
    missing = set(door.__all__) - set(READINGS) - {
        "add_context", "add_corrected", "add_liquidations", "add_thresholds", "alert",
        "context_pairs", "effective_count", "prepare_liquidations", "wilson",
    }  # fmt: skip
    assert not missing, f"not measured: {missing}"
    gc_set_threshold()  # as Freqtrade's own command line does
    with tempfile.TemporaryDirectory() as folder:
        datadir, db_url, names = markets(Path(folder), pairs)
        strategy = Strategy(db_url, "5m")
        span = TimeRange.parse_timerange(YEAR)
        frames = {}
        for pair in MARKETS:
            candles, interest = (
                load_data(datadir, frame, [pair], timerange=span, candle_type=kind)[pair]
                for frame, kind in (("5m", CandleType.FUTURES), ("1h", CandleType.OPEN_INTEREST))
            )
            frames[pair] = with_columns(strategy, candles, interest, pair)
        loading, reading = [], {name: [] for name in (*READINGS, "add_thresholds")}
        for number in range(-2, len(names)):  # the first ones warm disk, imports and memory
            pair, market = names[max(number, 0)], MARKETS[number % len(MARKETS)]
            loaded, seconds = timed(
                lambda pair=pair: load_data(
                    datadir, "5m", [pair], timerange=span, candle_type=CandleType.FUTURES
                )
            )
            frame = frames[market]
            assert len(loaded[pair]) == len(frame)
            results = {
                name: timed(lambda read=read, frame=frame: read(frame))[1]
                for name, read in READINGS.items()
            }
            results["add_thresholds"] = timed(
                lambda frame=frame, market=market: add_thresholds(strategy, frame, {"pair": market})
            )[1]
            if number >= 0:
                loading.append(seconds)
                for name, one in results.items():
                    reading[name].append(one)
    medians = {name: statistics.median(times) for name, times in reading.items()}
    for name, median in sorted(medians.items(), key=lambda item: -item[1]):
        print(f"{name:22}{median * 1e3:8.2f} ms")
    total = sum(map(sum, reading.values()))
    ratios = [
        sum(times[place] for times in reading.values()) / seconds
        for place, seconds in enumerate(loading)
    ]
    low, middle, high = (statistics.quantiles(ratios, n=20)[place] for place in (0, 9, 18))
    result = {
        "pairs": pairs,
        "candles": len(frame),
        "load_s": sum(loading),
        "readings_s": total,
        "ratio": total / sum(loading),
        "readings_ms": {name: median * 1e3 for name, median in medians.items()},
    }
    print(
        f"{len(medians)} readings of {pairs} pairs ({len(frame):,} candles each): {total:.2f} s "
        f"beside {sum(loading):.2f} s of loading: {result['ratio']:.2f} "
        f"(pair by pair {low:.2f} ... {middle:.2f} ... {high:.2f}), goal 1.00"
    )
    (ROOT / "benchmarks" / "readings.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"bench: {int(result['ratio'] <= 1)} of 1 goals met")
    return int(result["ratio"] > 1)


if __name__ == "__main__":
    sys.exit(main())
