"""Take pictures of our pages, docs/plot*.png and docs/study.png, all of a SIMULATED market.

::

    .venv/bin/python docs/screenshots.py

The orders of one market are dealt out to three exchanges; for some hours nobody listened, and for
some OKX alone did not. plotly (``pip install '.[plot]'``) draws, Chromium takes the photographs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType
from pictures import BTC, DAYS, DEALT, PARAMETERS, START

from liquidations.cli import run
from liquidations.event import DAY, MINUTE, SIMULATED
from liquidations.page import photograph
from liquidations.simulate import HOUR, resample, simulate
from liquidations.store import Store


FOLDER = Path(__file__).parent

#: Hours in which nobody listened, and in which OKX alone was not heard.
UNSEEN, WITHOUT_OKX = (17 * 24 + 9, 17 * 24 + 20), (15 * 24 + 3, 15 * 24 + 17)

#: File → what it is told.
SHOTS = {
    "plot.png": ["-t", "1h", "--timerange", "20250514-20250522"],
    "plot-exchanges.png": [
        *("-t", "1h", "--timerange", "20250514-20250522"),
        *("--per-exchange", "--histogram", "--no-levels"),
        *("--readings", "flip", "fragile", "gated_extreme"),
    ],
}


def market(folder: Path) -> list[str]:
    """Store a market, its candles and its liquidations; return the flags that name them."""
    made = simulate(4, START, DAYS * DAY // MINUTE, price=60_000.0, parameters=PARAMETERS)
    (folder / "futures").mkdir()
    handler = get_datahandler(folder, "feather")
    for timeframe, kind, frame in (
        ("1h", CandleType.FUTURES, resample(made.candles, HOUR)),
        ("1h", CandleType.FUNDING_RATE, made.funding),
        ("1h", CandleType.OPEN_INTEREST, made.open_interest),
    ):
        handler.ohlcv_store(BTC, timeframe, frame, kind)
    owner = np.random.default_rng(5).choice(3, len(made.events), p=(0.5, 0.3, 0.2))
    time = made.events.timestamp
    url = f"sqlite:///{folder / 'liquidations.sqlite'}"
    with Store(url, create=True) as store, store.write() as writer:
        for number, exchange in enumerate(DEALT):
            holes = [UNSEEN, WITHOUT_OKX] if exchange == "okx" else [UNSEEN]
            edges = sorted(START + hour * HOUR for hole in holes for hour in hole)
            seen = np.array([START, *edges, START + DAYS * DAY]).reshape(-1, 2)
            heard = ((time >= seen[:, :1]) & (time < seen[:, 1:])).any(axis=0)
            own = made.events.take(np.flatnonzero((owner == number) & heard))
            writer.insert(exchange, BTC, SIMULATED, own, seen)
    return ["--datadir", str(folder), "--db-url", url, "--exchange", ",".join(DEALT)]


def main() -> None:
    """Take all pictures."""
    os.chdir(FOLDER.parent)  # where config.json is
    with TemporaryDirectory() as folder:
        where = market(Path(folder))
        for name, words in SHOTS.items():
            file = FOLDER / name
            if code := run(["plot", "-p", BTC, *where, *words, "-o", str(file)]):
                sys.exit(code)
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
        page, file = Path(folder) / "study.html", FOLDER / "study.png"
        days = ["--timerange", "20250502-20250613", "--coverage", "0.5"]
        if code := run(["study", "-p", BTC, "-t", "1h", *where, *days, "-o", str(page)]):
            sys.exit(code)
        photograph(page.read_text(), file, 1200, 1500)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
