"""Whether the study tells the truth: 100 simulated markets with a planted effect, 100 without.

SIMULATED. The liquidations are those of ``liquidations.simulate``. The candles are made anew: each
close moves as far as the simulated one did, up or down by a coin of its own. So turbulent times
stay where the liquidations are, and nothing that came before says anything about the direction. In
one half of the runs a drift is planted after each gated extreme on high volume: against the crowd,
spread over the next candles. What it is worth to each trade is worked out here, trade by trade, not
by the code under test.

Counted are: of the runs with the effect, those whose interval contains it, and those in which it is
found after the correction; of the runs without, those in which any reading or bin at any horizon is
called more than chance (corrected p below 5 %). Run it with: python benchmarks/study.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from liquidations.candles import (
    Source,
    candle_closes,
    columns,
    source_candles,
    timeframe_ms,
    to_bars,
)
from liquidations.event import DAY, MINUTE
from liquidations.series import keep, series
from liquidations.signals import high_volume
from liquidations.significance import gated_extreme
from liquidations.simulate import resample, simulate
from liquidations.study import Rules, default_readings, study


ROOT = Path(__file__).parents[1]
START = 19_700 * DAY
PLANTED = "gated extreme on high volume"


def planted(frame: pd.DataFrame) -> pd.Series:
    """Read what the drift is planted after: liquidations only, no price."""
    side = gated_extreme(frame)
    return series(keep(side.to_numpy(), high_volume(frame["liq_total"]).to_numpy()), side)


def market(seed: int, days: int, timeframe: str, effect: float, spread: int):
    """Make candles with liquidations; return them and the drift of each candle."""
    made = simulate(seed, START, days * DAY // MINUTE)
    step = timeframe_ms(timeframe)
    candles = resample(made.candles, step)
    opens = candles["date"].to_numpy(dtype="datetime64[ms]").view(np.int64)
    closes = candle_closes(opens, timeframe)
    bars = Source(
        "simulated", MINUTE, to_bars(made.events), np.array([[START, START + days * DAY]])
    )
    table = columns({"binance": source_candles(bars, opens, closes)})
    frame = pd.concat([candles, pd.DataFrame(table)], axis=1)
    interest = made.open_interest["open_interest_amount"].to_numpy()
    frame["liq_open_interest_amount"] = interest[
        np.maximum((closes - START - 1) // (60 * MINUTE) - 1, 0)
    ]

    side = planted(frame).to_numpy() if effect else np.zeros(len(frame))
    drift = np.zeros(len(frame))
    for later in range(1, spread + 1):
        drift[later:] += side[:-later] * effect / spread
    random = np.random.default_rng([seed, 77])
    moved = np.abs(frame["close"].to_numpy() / frame["open"].to_numpy() - 1)
    # Up and down by equal shares: the price is worth what it will be worth, but for the drift.
    ratio = 1 + random.choice((-1.0, 1.0), len(frame)) * moved + drift
    close = 50_000 * np.cumprod(ratio)
    opening = np.concatenate(([50_000.0], close[:-1]))
    wick = (frame["high"] / frame[["open", "close"]].max(axis=1)).to_numpy()
    frame["open"], frame["close"] = opening, close
    frame["high"] = np.maximum(opening, close) * wick
    frame["low"] = np.minimum(opening, close) / wick
    return frame, drift


def truth(side: np.ndarray, drift: np.ndarray, horizon: int) -> float:
    """Work out what the drift was worth to the trades, one after the other, in bp."""
    worth, free = [], 0
    for place in np.flatnonzero(side):
        if place >= free and place + horizon < len(side):
            gain = np.prod(1 + drift[place + 1 : place + 1 + horizon]) - 1
            worth.append(side[place] * gain * 1e4)
            free = place + horizon
    return float(np.mean(worth)) if worth else np.nan


def one(job: tuple) -> dict:
    """Study one market."""
    seed, days, timeframe, effect, spread, horizon = job
    frame, drift = market(seed, days, timeframe, effect, spread)
    rules = Rules(seed=seed)
    readings = {PLANTED: planted, **default_readings(timeframe, open_interest=True)}
    found = study({"BTC/USDT:USDT": frame}, timeframe, rules, readings)
    effect_found = found.of(PLANTED, horizon)
    side = planted(frame).to_numpy()
    worth = {one: truth(side, drift, one) for one in rules.horizons}
    inside = {
        one: found.of(PLANTED, one).low <= worth[one] - rules.costs <= found.of(PLANTED, one).high
        for one in rules.horizons
        if not np.isnan(found.of(PLANTED, one).low)
    }
    smallest = min((e.corrected for e in found.effects if not np.isnan(e.corrected)), default=1.0)
    raw = [e.p for e in found.effects if not np.isnan(e.p)]
    return {
        "seed": seed,
        "events": effect_found.independent,
        "truth": worth[horizon],
        "gross": effect_found.gross,
        "inside": bool(inside.get(horizon, False)),
        "inside_all": inside,
        "found": bool(effect_found.corrected < 0.05),
        "kind": effect_found.kind,
        "wolf": bool(smallest < 0.05),
        "smallest": smallest,
        "raw": float(np.mean(np.array(raw) < 0.05)) if raw else 0.0,
        "tests": found.tests,
    }


def main() -> int:
    """Run both halves, print both counts and write ``study.json``; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="The first seed.")
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--timeframe", default="1h")
    parser.add_argument("--effect", type=float, default=40, help="bp, planted after each event.")
    parser.add_argument("--horizon", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    begun = time.perf_counter()
    seeds = range(args.first, args.first + args.seeds)
    halves = [
        [
            (seed, args.days, args.timeframe, effect / 1e4, args.horizon, args.horizon)
            for seed in seeds
        ]
        for effect in (args.effect, 0.0)
    ]
    with ProcessPoolExecutor(args.workers) as pool:
        with_effect, without = (list(pool.map(one, jobs)) for jobs in halves)
    inside, detected = (sum(run[name] for run in with_effect) for name in ("inside", "found"))
    wolves = sum(run["wolf"] for run in without)
    for horizon in Rules().horizons:
        known = [
            run["inside_all"][horizon]
            for run in with_effect + without
            if horizon in run["inside_all"]
        ]
        print(
            f"horizon {horizon:3}: the interval contains the truth in {sum(known)} of {len(known)}"
        )
    print(
        f"effect: {args.effect:g} bp planted, "
        f"{np.mean([r['truth'] for r in with_effect]):.1f} bp a trade "
        f"({np.median([r['events'] for r in with_effect]):.0f} independent events a run); interval "
        f"contains it in {inside} of {args.seeds} (goal 93), found after correction in {detected}"
    )
    print(
        f"no effect: cries wolf in {wolves} of {args.seeds} (goal 7 at most), of some "
        f"{np.median([r['tests'] for r in without]):.0f} tests; p below 5 % without correction in "
        f"{np.mean([r['raw'] for r in without]):.1%} of the tests"
    )
    print(f"{time.perf_counter() - begun:.0f} s")
    result = {"arguments": vars(args), "with_effect": with_effect, "without": without}
    (ROOT / "benchmarks" / "study.json").write_text(json.dumps(result, indent=1) + "\n")
    least, most = 0.93 * args.seeds, 0.07 * args.seeds
    met = (inside >= least) + (wolves <= most)
    print(f"bench: {met} of 2 goals met")
    return int(met < 2)


if __name__ == "__main__":
    sys.exit(main())
