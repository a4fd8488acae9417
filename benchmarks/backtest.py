"""What liquidation columns cost a backtest, beside Freqtrade's own time for the same trades.

Freqtrade's Backtesting runs in this process, in turns, with a strategy of two averages and with
the same one that also adds all columns; it trades on a simulated market, whose exchange answers on
127.0.0.1. Both load candles, compute indicators, trade and print their tables. Each round opens
the store anew and reads all of it. By itself: python benchmarks/backtest.py
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import freqtrade
import numpy as np
from freqtrade.enums import CandleType, MarginMode, RunMode, TradingMode
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.resolvers import ExchangeResolver
from freqtrade.system import gc_set_threshold
from goals import ROUNDS, Found, in_turns, main
from market import Market, make_market, quiet

import liquidations
from liquidations import provider
from liquidations.sandbox_server import freqtrade_overrides, running


GOAL = 1.05
ALONE, ADDED, OWN = "Freqtrade alone", "with all columns", "our functions"
OURS = ("add_liquidations", "prepare_liquidations")
LEAST = 40
TIERS = Path(freqtrade.__file__).parent / "exchange" / "binance_leverage_tiers.json"

#: Pairs and days of what the goal is of, and of what shows how it grows.
FULL = (20, 91)
GROWTH = ((5, 91), (10, 91), (20, 183))

#: Candles of a day.
DAY = 288


@dataclass
class Bench:
    """Run backtests of one market."""

    market: Market
    config: dict[str, Any]
    exchange: Any

    def backtest(self, name: str, pairs: int, days: int) -> list[tuple]:
        """Backtest a strategy on the first pairs and days, and return its trades."""
        config = deepcopy(self.config)
        config["strategy"], config["timerange"] = name, f"20240101-{_day(days)}"
        config["exchange"]["pair_whitelist"] = self.market.pairs[:pairs]
        provider.provider_of(self.market.db_url).close()
        self.exchange._config = config  # one exchange for all: loading its markets is not measured
        backtesting = Backtesting(config, self.exchange)
        with redirect_stdout(StringIO()):
            backtesting.start()
        trades = backtesting.results["strategy"][name]["trades"]
        keys = ("pair", "open_timestamp", "close_timestamp", "profit_abs")
        return [tuple(trade[key] for key in keys) for trade in trades]


def _day(days: int) -> str:
    return str(np.datetime64("2024-01-01") + days).replace("-", "")


@contextmanager
def prepared(pairs: int, days: int) -> Iterator[Bench]:
    """Make a market, and an exchange that trades it."""
    # Freqtrade knows how much may be borrowed of real contracts only.
    names = [name.partition("/")[0] for name in json.loads(TIERS.read_text()) if "/USDT:" in name]
    names = [name for name in names if name.isascii() and name.isalnum()][:pairs]
    with tempfile.TemporaryDirectory() as folder:
        market = make_market(Path(folder), days, names)
        with running(market.datadir) as port:
            config = _config(market, port)
            exchange = ExchangeResolver.load_exchange(config, load_leverage_tiers=True)
            yield Bench(market, config, exchange)
            exchange.close()


def _config(market: Market, port: int) -> dict[str, Any]:
    served = freqtrade_overrides(port)
    return {
        "runmode": RunMode.BACKTEST,
        "dry_run": True,
        "dry_run_wallet": 100_000,
        "max_open_trades": 10,
        "stake_currency": "USDT",
        "stake_amount": 100,
        "trading_mode": TradingMode.FUTURES,
        "margin_mode": MarginMode.ISOLATED,
        "candle_type_def": CandleType.FUTURES,
        "dataformat_ohlcv": "feather",
        "dataformat_trades": "feather",
        "timeframe": "5m",
        "fee": 0.0005,
        "export": "none",
        "backtest_cache": "none",
        "progressbar": False,
        "user_data_dir": market.datadir.parent,
        "datadir": market.datadir,
        "exportdirectory": market.datadir,
        "strategy_path": str(Path(__file__).parent / "strategies"),
        "pairlists": [{"method": "StaticPairList"}],
        "entry_pricing": {"price_side": "other", "use_order_book": True, "order_book_top": 1},
        "exit_pricing": {"price_side": "other", "use_order_book": True, "order_book_top": 1},
        "internals": {},
        "original_config": {},
        "liquidations": {"db_url": market.db_url},
        **served,
        "exchange": {**served["exchange"], "pair_whitelist": market.pairs, "pair_blacklist": []},
    }


@contextmanager
def clocked() -> Iterator[list[float]]:
    """Collect the seconds that our own functions take of backtests."""
    spent: list[float] = []

    def timed(function: Callable) -> Callable:
        def run(*args: Any, **options: Any) -> Any:
            begin = time.process_time()
            try:
                return function(*args, **options)
            finally:
                spent.append(time.process_time() - begin)

        return run

    # Freqtrade imports the strategy anew for each backtest.
    originals = {name: getattr(liquidations, name) for name in OURS}
    vars(liquidations).update({name: timed(one) for name, one in originals.items()})
    try:
        yield spent
    finally:
        vars(liquidations).update(originals)


def measure(bench: Bench, pairs: int, days: int) -> tuple[dict, float]:
    """Backtest in turns; return the processor seconds of both, and those of our own functions.

    Processor time, as some percent of so long a run would drown in what else the machine does.
    """
    spent: dict[str, list[float]] = {ALONE: [], ADDED: []}
    trades: dict[str, list] = {}

    def one(label: str, name: str) -> None:
        begin = time.process_time()
        trades[label] = bench.backtest(name, pairs, days)
        spent[label].append(time.process_time() - begin)

    with clocked() as own:
        in_turns(
            {ALONE: lambda: one(ALONE, "BenchWithout"), ADDED: lambda: one(ADDED, "BenchWith")}
        )
    assert trades[ALONE] == trades[ADDED], "the columns changed the trades"
    assert len(trades[ALONE]) >= LEAST, "too few trades"
    return {label: row[1:] for label, row in spent.items()}, sum(own) / (ROUNDS + 1)


def grown(bench: Bench, pairs: int, days: int) -> tuple[float, float]:
    """Backtest once with the columns; return the processor seconds of the rest, and our own."""
    with clocked() as own:
        begin = time.process_time()
        bench.backtest("BenchWith", pairs, days)
        return time.process_time() - begin - sum(own), sum(own)


def run(quick: bool) -> Found:
    """Run the backtests in turns; there is no short form, as Freqtrade takes a second to start."""
    found = Found()
    if quick:
        found.absent["backtests"] = "they take minutes; run the full form"
        return found
    gc_set_threshold()  # as Freqtrade's own command line does
    provider.CACHE_BYTES = 0  # each round reads the store
    pairs, days = FULL
    most = [max(one) for one in zip(FULL, *GROWTH, strict=True)]
    with quiet(), prepared(*most) as bench:
        times, own = measure(bench, pairs, days)
        title = f"backtest of {pairs} pairs, {days} days of 5m"
        found.show(f"{title} (processor time)", {**times, OWN: [own]})
        found.ratio(f"{title}, with all columns to without", times, ADDED, ALONE, GOAL)
        rows = [(pairs, pairs * days * DAY, statistics.median(times[ALONE]), own)]
        for pairs, days in GROWTH:
            alone, own = grown(bench, pairs, days)
            title = f"backtest of {pairs} pairs, {days} days of 5m, once (processor time)"
            found.show(title, {ALONE: [alone], OWN: [own]})
            rows.append((pairs, pairs * days * DAY, alone, own))
    extrapolate(found, np.array(rows))
    return found


def extrapolate(found: Found, measured: np.ndarray) -> None:
    """Add what 80 pairs and a year would take, by a line through what was measured.

    A backtest takes so much for each pair, and so much for each candle.
    """
    known, (alone, own) = measured[:, :2], measured[:, 2:].T
    theirs, ours = (np.linalg.lstsq(known, seconds, rcond=None)[0] for seconds in (alone, own))
    far = np.array((80, 80 * 366 * DAY))
    found.times["backtest of 80 pairs, 366 days of 5m, by a line through the above"] = {
        ALONE: 1e3 * float(theirs @ far),
        OWN: 1e3 * float(ours @ far),
        f"{OWN}, for each pair": 1e3 * float(ours[0]),
        f"{OWN}, for each 1,000 candles": 1e6 * float(ours[1]),
    }


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
