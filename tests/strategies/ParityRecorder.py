"""The sample strategy, asking for everything that there is, and keeping each frame that it made.

``tests/parity.py`` compares what a bot was given with what a backtest is given afterwards.
"""

import os
import time
from pathlib import Path

from pandas import DataFrame

import liquidations as door
from liquidations.samples.LiquidationReversal import LiquidationReversal


class ParityRecorder(LiquidationReversal):
    timeframe = "1m"

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        frame = super().populate_indicators(dataframe, metadata)
        frame = door.add_liquidations(self, frame, metadata, per_exchange=True, n_eff=True)
        for higher in ("2m", "5m"):
            frame = door.add_liquidations(self, frame, metadata, informative=higher, n_eff=True)
        frame = door.add_liquidations(self, frame, metadata, pair="market", n_eff=True)
        frame = door.add_liquidations(self, frame, metadata, pair="ETH/USDT:USDT")
        frame = door.add_thresholds(self, frame, metadata, days=1)
        frame = door.add_corrected(self, frame, metadata)
        frame["window"] = door.window_imbalance(frame["liq_long"], frame["liq_short"], 12)
        frame["shift"] = door.shift(frame["liq_imbalance"])
        frame["flip"] = door.flip(frame["liq_imbalance"])
        frame["pressure"] = door.pressure(frame["liq_long"], frame["liq_short"], 12)
        frame["gated"] = door.gated_extreme(frame)
        frame["loud"] = door.high_volume(frame["liq_total"], 48)
        keep(frame, metadata["pair"], self.config["runmode"].value)
        return frame


def keep(frame: DataFrame, pair: str, mode: str) -> None:
    """Save a frame under a name of its own, whole or not at all."""
    name = f"{pair.replace('/', '_').replace(':', '_')}-{mode}-{time.time_ns()}.feather"
    folder = Path(os.environ["PARITY_FRAMES"])
    frame.to_feather(folder / f"{name}.part")
    (folder / f"{name}.part").rename(folder / name)
