"""What is asked of a fresh process, for starting.py: it has Freqtrade loaded, and not yet us.

    python fresh.py import                   ms that `import liquidations` adds
    python fresh.py memory sqlite:///… 7     MB of a bot without and with us, 7 times

For memory Freqtrade is loaded once; then each measurement is a fork, which pays for what it loads
itself. Nothing of this project may be imported at the top.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import freqtrade.data.history
import freqtrade.optimize.backtesting
import freqtrade.resolvers
import freqtrade.strategy
import freqtrade.worker  # noqa: F401
import numpy as np
import pandas as pd


MINUTE = 60_000
CANDLES, STEP, REFRESHES = 1_000, 5 * MINUTE, 5


def forked(function: Callable[[], float]) -> float:
    """Return what a function finds in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = file.read()
    os.waitpid(child, 0)
    return json.loads(told)


def import_ms() -> float:
    """Time the names that strategies import."""
    begin = time.perf_counter()
    from liquidations import (  # noqa: F401
        add_liquidations,
        add_thresholds,
        capitulation,
        extreme,
        liquidation_levels,
        prepare_liquidations,
        significant,
    )

    return 1e3 * (time.perf_counter() - begin)


def memory_mb() -> float:
    """Return what this process holds now, garbage aside."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def bot_mb(add: Callable[[pd.DataFrame, str], pd.DataFrame], pairs: list[str], now: int) -> float:
    """Hold the candles of all pairs, as a bot does after some closes, and return the memory."""
    random = np.random.default_rng(1)
    names = ["open", "high", "low", "close", "volume"]
    data = {pair: random.random((CANDLES, len(names))) for pair in pairs}
    held: dict[str, pd.DataFrame] = {}
    for close in range(now - (REFRESHES - 1) * STEP, now + 1, STEP):
        opens = pd.to_datetime(np.arange(close - CANDLES * STEP, close, STEP), unit="ms", utc=True)
        for pair, values in data.items():
            candles = pd.DataFrame(values, columns=names)
            candles.insert(0, "date", opens)
            held[pair] = add(candles, pair)
    return memory_mb()


def with_columns(url: str) -> Callable[[pd.DataFrame, str], pd.DataFrame]:
    """Return what adds the columns to a bot's candles; a collector elsewhere fills the store."""
    from liquidations.provider import provider_of
    from liquidations.settings import Settings
    from liquidations.strategy import join, opens_of

    provider, settings = provider_of(url), Settings(url, ("binance",))

    def add(candles: pd.DataFrame, pair: str) -> pd.DataFrame:
        opens = opens_of(candles, "5m")
        table, _ = provider.columns(pair, opens, "5m", settings, live=True, squares=True)
        joined = join(candles, table)
        assert joined["liq_coverage"].iloc[-1] > 0.9, f"{pair} is not observed"
        return joined

    return add


def main() -> None:
    """Print what was asked for as JSON, one number or two for each round."""
    what, *more = sys.argv[1:]
    if what == "import":
        print(json.dumps(import_ms()))
        return
    url, now, *pairs, number = more
    rounds = range(int(number) + 1)  # the first one warms the files
    found = [
        (
            forked(lambda: bot_mb(lambda candles, pair: candles, pairs, int(now))),
            forked(lambda: bot_mb(with_columns(url), pairs, int(now))),
        )
        for _ in rounds
    ]
    print(json.dumps(found[1:]))


if __name__ == "__main__":
    main()
