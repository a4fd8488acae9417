"""A simulated market for the benchmarks: one pair's candles and liquidations, under many names."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from liquidations.cli import run as liquidations
from liquidations.event import SIMULATED
from liquidations.store import Store


ORIGIN = "BTC"


@dataclass(frozen=True)
class Market:
    """Hold where it lies, its pairs, and its days as a timerange."""

    datadir: Path
    db_url: str
    pairs: list[str]
    timerange: str


def make_market(folder: Path, days: int, names: list[str]) -> Market:
    """Simulate so many days of 5m from 2024 on, and let each base in ``names`` have them."""
    end = np.datetime_as_string(np.datetime64("2024-01-01") + days).replace("-", "")
    timerange = f"20240101-{end}"
    pair = f"{ORIGIN}/USDT:USDT"
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        liquidations(
            ["simulate", "--userdir", str(folder), "-p", pair, "-t", "5m", "--timerange", timerange]
        )
    datadir, db_url = (
        folder / "simulated" / "data",
        f"sqlite:///{folder}/simulated/liquidations.sqlite",
    )
    for name in names:
        for file in (datadir / "futures").glob(f"{ORIGIN}_*"):
            if name != ORIGIN:
                shutil.copy(file, file.with_name(name + file.name.removeprefix(ORIGIN)))
    with Store(db_url) as store:
        with store.read() as reader:
            (series,) = (one for one in reader.series() if one.counted)
            coverage = reader.coverage(series)
            events = reader.events(series, int(coverage[0, 0]), int(coverage[-1, 1]))
        with store.write() as writer:
            for name in names:
                if name != ORIGIN:
                    writer.insert("binance", f"{name}/USDT:USDT", SIMULATED, events, coverage)
    return Market(datadir, db_url, [f"{name}/USDT:USDT" for name in names], timerange)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the log of Freqtrade away, and ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
