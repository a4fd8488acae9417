"""Draw docs/monitor.svg: what `liquidations monitor` shows of a SIMULATED market's feeds.

python docs/monitor.py
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from liquidations.commands.monitor import board
from liquidations.event import MINUTE, SIMULATED
from liquidations.monitor import Monitor
from liquidations.settings import Settings
from liquidations.simulate import simulate
from liquidations.store import Store


HERE = Path(__file__).parent

#: Two minutes and 40 s into a candle; the day before it is invented.
NOW = int(np.datetime64("2024-08-05T12:02:40", "ms").astype(np.int64))
MINUTES = 1440 + 10
#: pair → price, seed, and shocks (log returns) so many minutes before the end
PAIRS = {
    "BTC/USDT:USDT": (60_000.0, 1, {7: 0.012, 3: -0.02, 1: 0.014}),
    "ETH/USDT:USDT": (3_000.0, 2, {5: 0.03}),
    "SOL/USDT:USDT": (150.0, 3, {6: -0.008, 2: 0.02}),
    "XRP/USDT:USDT": (0.6, 4, {8: -0.02}),
}
#: Each exchange gets every third liquidation; one was cut for four minutes.
EXCHANGES = ("binance", "bybit", "okx")
CUT = ("okx", NOW - 31 * MINUTE, NOW - 27 * MINUTE)
WIDTH = 112


def tell(store: Store) -> None:
    """Write the market as collectors would have."""
    start = NOW // MINUTE * MINUTE - (MINUTES - 1) * MINUTE
    mark = NOW - 600
    told = {}
    for pair, (price, seed, shocks) in PAIRS.items():
        planted = {MINUTES - before: move for before, move in shocks.items()}
        events = simulate(seed, start, MINUTES, price=price, shocks=planted).events
        told[pair] = events.take(events.timestamp < mark)
    with store.write() as writer:
        for number, exchange in enumerate(EXCHANGES):
            feed = writer.feed(exchange, "swap" if exchange == "okx" else "linear", SIMULATED)
            own = [pair for pair in PAIRS if exchange != "okx" or pair != "XRP/USDT:USDT"]
            writer.join(feed, own, start)
            rows = {}
            for pair in own:
                events = told[pair].take(slice(number, None, 3))
                cut, first, last = CUT
                lost = (events.timestamp >= first) & (events.timestamp < last) & (exchange == cut)
                rows[pair] = events.take(~lost)
            feed, _ = writer.append(feed, rows, 0)
            feed = writer.cover(feed, start, mark)
            if exchange == CUT[0]:
                feed = writer.revoke(feed, *CUT[1:])
                writer.gap(feed, *CUT[1:], "lost")
            writer.seal(feed, NOW // MINUTE * MINUTE, NOW)


def main() -> None:
    """Draw it."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/simulated.sqlite"
        with Store(url, create=True) as store:
            tell(store)
        monitor = Monitor(Settings(url, EXCHANGES), "5m", [*PAIRS, "DOGE/USDT:USDT"])
        snapshot = monitor.look(NOW)
        monitor.close()
    out = io.StringIO()
    console = Console(record=True, width=WIDTH, file=out, force_terminal=True, highlight=False)
    console.print(board(snapshot, NOW, WIDTH, 30))
    # A fixed id: the file changes only if the picture does.
    console.save_svg(str(HERE / "monitor.svg"), title="liquidations monitor", unique_id="monitor")


if __name__ == "__main__":
    main()
