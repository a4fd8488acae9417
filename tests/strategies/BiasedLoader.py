"""A loader with a planted bias: each candle gets the liquidations of the next one."""

import numpy as np
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from liquidations.candles import candle_closes
from liquidations.provider import provider_of
from liquidations.settings import read_settings


def add_next_liquidations(strategy, dataframe: DataFrame, metadata: dict) -> DataFrame:
    settings = read_settings(strategy.config)
    opens = dataframe["date"].to_numpy("datetime64[ms]").astype(np.int64)
    closes = candle_closes(opens, strategy.timeframe)
    provider = provider_of(settings.db_url)
    table, _ = provider.columns(metadata["pair"], closes, strategy.timeframe, settings)
    for name, values in table.items():
        # Clamped like the real loader: nothing after the close of the last candle given.
        dataframe[name] = np.where(closes < closes[-1], values, np.nan)
    return dataframe


class BiasedLoader(IStrategy):
    INTERFACE_VERSION = 3
    timeframe = "1h"
    can_short = True
    startup_candle_count = 10
    minimal_roi = {"0": 0.1}
    stoploss = -0.05

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        return add_next_liquidations(self, dataframe, metadata)

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe.loc[dataframe["liq_imbalance"] > 0.8, "enter_short"] = 1
        dataframe.loc[dataframe["liq_imbalance"] < 0.2, "enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe.loc[dataframe["liq_imbalance"] < 0.5, "exit_short"] = 1
        dataframe.loc[dataframe["liq_imbalance"] > 0.5, "exit_long"] = 1
        return dataframe
