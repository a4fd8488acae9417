"""Trade against forced orders: buy when longs were flushed, sell when shorts were.

A candle in which nearly all liquidations hit one side, on high volume, has spent the forced orders
of that side. No edge is promised: measure it on your data before you trade it.
"""

from freqtrade.strategy import DecimalParameter, IntParameter, IStrategy
from pandas import DataFrame

from liquidations import add_liquidations, extreme, high_volume, prepare_liquidations


class LiquidationReversal(IStrategy):
    """Enter after an extreme imbalance on high volume; exit at balance or the opposite extreme."""

    INTERFACE_VERSION = 3
    timeframe = "1h"
    can_short = True
    startup_candle_count = 80
    minimal_roi = {"0": 0.1}
    stoploss = -0.05

    extreme = DecimalParameter(0.7, 0.95, default=0.8, decimals=2, space="buy")
    quantile = DecimalParameter(0.5, 0.95, default=0.8, decimals=2, space="buy")
    window = IntParameter(24, 72, default=48, space="buy", optimize=False)
    balance = DecimalParameter(0.02, 0.2, default=0.05, decimals=2, space="sell")

    plot_config = {
        "subplots": {
            "Imbalance": {
                "liq_imbalance": {"color": "#2962ff"},
                "midpoint": {"color": "#9e9e9e"},
                "extreme_long": {"color": "#d32f2f"},
                "extreme_short": {"color": "#388e3c"},
            },
            "Liquidated USD": {
                "liq_long": {"color": "#d32f2f", "type": "bar"},
                "liq_short": {"color": "#388e3c", "type": "bar"},
            },
        }
    }

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        prepare_liquidations(config)

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = add_liquidations(self, dataframe, metadata)
        dataframe["midpoint"], dataframe["extreme_long"], dataframe["extreme_short"] = 0.5, 0.8, 0.2
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        high = high_volume(dataframe["liq_total"], self.window.value, self.quantile.value)
        side = extreme(dataframe["liq_imbalance"], self.extreme.value)
        dataframe.loc[high & (side > 0), "enter_long"] = 1
        dataframe.loc[high & (side < 0), "enter_short"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        side = extreme(dataframe["liq_imbalance"], self.extreme.value)
        balanced = (dataframe["liq_imbalance"] - 0.5).abs() <= self.balance.value
        dataframe.loc[balanced | (side < 0), "exit_long"] = 1
        dataframe.loc[balanced | (side > 0), "exit_short"] = 1
        return dataframe
