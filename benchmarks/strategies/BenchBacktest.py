"""The same strategy without and with liquidation columns, which it does not trade by."""

import talib.abstract as ta
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from liquidations import add_liquidations, prepare_liquidations


class BenchWithout(IStrategy):
    """Trade crossings of two averages both ways."""

    INTERFACE_VERSION = 3
    timeframe = "5m"
    can_short = True
    startup_candle_count = 100
    minimal_roi = {"0": 0.01, "120": 0.0, "360": -1.0}  # noqa: RUF012
    stoploss = -0.01

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["fast"] = ta.EMA(dataframe, timeperiod=20)
        dataframe["slow"] = ta.EMA(dataframe, timeperiod=80)
        dataframe["rsi"] = ta.RSI(dataframe)
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        up = dataframe["fast"] > dataframe["slow"]
        before = up.shift(1, fill_value=False)
        dataframe.loc[up & ~before & (dataframe["rsi"] > 62), "enter_long"] = 1
        dataframe.loc[~up & before & (dataframe["rsi"] < 38), "enter_short"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe.loc[dataframe["rsi"] > 75, "exit_long"] = 1
        dataframe.loc[dataframe["rsi"] < 25, "exit_short"] = 1
        return dataframe


class BenchWith(BenchWithout):
    """Trade the same, and add all columns."""

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        prepare_liquidations(config)

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = super().populate_indicators(dataframe, metadata)
        return add_liquidations(self, dataframe, metadata, n_eff=True)
