"""What all readings of one pair cost: a year of 5m, each reading once, with its defaults.

The market is simulated. Each round makes every reading, and loads the candles as Freqtrade does,
for comparison. By itself: python benchmarks/readings.py
"""

from __future__ import annotations

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
from goals import Found, Goal, in_turns, main
from market import Market, make_market, quiet

import liquidations as door
from liquidations.strategy import add_liquidations, add_thresholds


#: ms for a year.
GOAL, DAYS = 100, 366
ALL, LOADING = "all of them", "Freqtrade's loading of the candles"

#: What is no reading of columns.
OTHERS = {
    "add_context", "add_corrected", "add_liquidations", "add_thresholds", "alert",
    "context_pairs", "effective_count", "prepare_liquidations", "wilson",
}  # fmt: skip

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


class Strategy:
    """Stand for a strategy: what add_liquidations reads of one."""

    timeframe = "5m"

    def __init__(self, db_url: str) -> None:
        self.config = {
            "runmode": RunMode.HYPEROPT,
            "exchange": {"name": "binance"},
            "liquidations": {"db_url": db_url},
        }


def load(market: Market, timeframe: str = "5m", kind: str = CandleType.FUTURES) -> pd.DataFrame:
    """Load candles as a backtest does."""
    span = TimeRange.parse_timerange(market.timerange)
    (pair,) = market.pairs
    return load_data(market.datadir, timeframe, [pair], timerange=span, candle_type=kind)[pair]


def with_columns(strategy: Strategy, market: Market) -> pd.DataFrame:
    """Add what the readings read; the second exchange of the ratios is the first one again."""
    (pair,) = market.pairs
    candles = load(market)
    frame = add_liquidations(strategy, candles, {"pair": pair}, n_eff=True, per_exchange=True)
    interest = load(market, "1h", CandleType.OPEN_INTEREST)
    published = interest["open_interest_amount"].set_axis(interest["date"] + pd.Timedelta("1h"))
    known = frame["date"] + pd.Timedelta("5min") - pd.Timedelta("1ms")
    amount = published.reindex(known, method="ffill").to_numpy()
    frame["liq_open_interest_amount"] = amount
    for column in ("liq_imbalance", "liq_total"):
        frame[f"{column}_okx"] = frame[column]
    frame["capitulation"] = door.capitulation(frame)
    return frame


def run(quick: bool) -> Found:
    """Time the readings, and the loading of the candles; the short form is the same."""
    missing = set(door.__all__) - set(READINGS) - OTHERS
    assert not missing, f"not measured: {missing}"
    found = Found()
    gc_set_threshold()  # as Freqtrade's own command line does
    with quiet(), tempfile.TemporaryDirectory() as folder:
        market = make_market(Path(folder), DAYS, ["BTC"])
        strategy = Strategy(market.db_url)
        frame = with_columns(strategy, market)
        pair = {"pair": market.pairs[0]}
        functions = {**READINGS, "add_thresholds": lambda f: add_thresholds(strategy, f, pair)}
        each: dict[str, list[float]] = {name: [] for name in functions}

        def read() -> None:
            for name, function in functions.items():
                begin = time.perf_counter()
                function(frame)
                each[name].append(time.perf_counter() - begin)

        rounds = in_turns({ALL: read, LOADING: lambda: load(market)})
    slowest = sorted(each, key=lambda name: -statistics.median(each[name][1:]))
    title = f"all {len(each)} readings of {len(frame):,} candles of a pair"
    found.show(title, {**rounds, **{name: each[name][1:] for name in slowest}})
    low, middle, high = (1e3 * of(rounds[ALL]) for of in (min, statistics.median, max))
    found.goals.append(Goal(title, middle, GOAL, "ms", low=low, high=high))
    return found


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
