"""Trade against forced orders: buy when longs capitulate, sell when shorts do.

Thesis: forced orders do not look at the price. When nearly all liquidations hit one side, far more
than usual, in a sharp move against that side, its forced orders may be spent, and the price may
come back. Nothing promises that it does: measure it on your data before you trade it.
"""

from freqtrade.strategy import DecimalParameter, IntParameter, IStrategy
from pandas import DataFrame

from liquidations import (
    add_liquidations,
    alert,
    capitulation,
    extreme,
    prepare_liquidations,
    return_to_balance,
)


# Lets plot-dataframe show a candle whose neighbours have no ratio; FreqUI passes over "plotly".
DOTS = {"mode": "lines+markers", "marker": {"size": 3, "color": "#2962ff"}}


class LiquidationReversal(IStrategy):
    """Enter against a capitulation; exit at balance, or at an extreme of the other side."""

    INTERFACE_VERSION = 3
    timeframe = "1h"
    can_short = True
    # The longest window is 72; TA-Lib's ATR forgets slowly.
    startup_candle_count = 200
    minimal_roi = {"0": 0.1}
    stoploss = -0.05

    threshold = DecimalParameter(0.7, 0.95, default=0.8, decimals=2, space="buy")
    volume = DecimalParameter(0.5, 0.95, default=0.8, decimals=2, space="buy")
    move = DecimalParameter(0.5, 2.5, default=0.8, decimals=1, space="buy")
    window = IntParameter(24, 72, default=48, space="buy", optimize=False)
    band = DecimalParameter(0.05, 0.25, default=0.15, decimals=2, space="sell")

    plot_config = {
        "main_plot": {},
        "subplots": {
            "Imbalance": {
                "liq_imbalance": {"color": "#2962ff", "plotly": DOTS},
                "midpoint": {"color": "#9e9e9e", "plotly": {"line_dash": "dot"}},
                "extreme_long": {"color": "#d32f2f", "plotly": {"line_dash": "dot"}},
                "extreme_short": {"color": "#388e3c", "plotly": {"line_dash": "dot"}},
            },
            "USD": {
                "liq_long": {"color": "#d32f2f", "type": "bar", "plotly": {"offsetgroup": "usd"}},
                "short_down": {"color": "#388e3c", "type": "bar", "plotly": {"offsetgroup": "usd"}},
            },
            "Signal": {"capitulation": {"color": "#6a1b9a", "type": "bar"}},
        },
    }

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        prepare_liquidations(config)

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = add_liquidations(self, dataframe, metadata)
        dataframe["midpoint"], dataframe["extreme_long"], dataframe["extreme_short"] = 0.5, 0.8, 0.2
        dataframe["short_down"] = -dataframe["liq_short"]  # drawn below zero
        # Drawn as unknown where nobody listened; the reading itself says 0 there.
        observed = dataframe["liq_total"].notna()
        dataframe["capitulation"] = self.capitulation(dataframe).where(observed)
        alert(self, dataframe, metadata, dataframe["capitulation"])
        return dataframe

    def capitulation(self, dataframe: DataFrame):
        return capitulation(
            dataframe,
            threshold=self.threshold.value,
            volume_window=self.window.value,
            volume_threshold=self.volume.value,
            move_threshold=self.move.value,
        )

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        side = self.capitulation(dataframe)
        dataframe.loc[side > 0, "enter_long"] = 1
        dataframe.loc[side < 0, "enter_short"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        imbalance = dataframe["liq_imbalance"]
        side = extreme(imbalance, self.threshold.value)
        back = return_to_balance(imbalance, self.threshold.value, self.band.value)
        dataframe.loc[(back > 0) | (side < 0), "exit_long"] = 1
        dataframe.loc[(back < 0) | (side > 0), "exit_short"] = 1
        return dataframe
