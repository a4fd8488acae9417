"""Trade turning points in the direction of the higher timeframe.

Thesis: in a rise the shorts are hit, candle after candle. When suddenly the longs are hit instead,
while over four hours it is still the shorts, a pullback has shaken out late longs, and the rise may
go on; in a fall it is the other way round. Nothing promises that it does: measure it on your data.
"""

from freqtrade.strategy import DecimalParameter, IntParameter, IStrategy
from pandas import DataFrame

from liquidations import add_liquidations, extreme, flip, prepare_liquidations, shift


# Lets plot-dataframe show a candle whose neighbours have no ratio; FreqUI passes over "plotly".
DOTS = {"mode": "lines+markers", "marker": {"size": 3, "color": "#2962ff"}}


class LiquidationFlip(IStrategy):
    """Enter where the hit side flips against the bias of 4h; exit where it flips back."""

    INTERFACE_VERSION = 3
    timeframe = "1h"
    higher = "4h"
    can_short = True
    # The columns of 4h come from the store and need no candles; flip looks back 12 at most.
    startup_candle_count = 30
    minimal_roi = {"0": 0.08}
    stoploss = -0.04

    threshold = DecimalParameter(0.6, 0.95, default=0.8, decimals=2, space="buy")
    max_age = IntParameter(1, 12, default=6, space="buy")
    bias = DecimalParameter(0.5, 0.8, default=0.5, decimals=2, space="buy")
    hysteresis = DecimalParameter(0.0, 0.3, default=0.1, decimals=2, space="sell")

    plot_config = {
        "main_plot": {},
        "subplots": {
            "Imbalance": {
                "liq_imbalance": {"color": "#2962ff", "plotly": DOTS},
                "liq_imbalance_4h": {"color": "#ff6d00"},
                "midpoint": {"color": "#9e9e9e", "plotly": {"line_dash": "dot"}},
                "extreme_long": {"color": "#d32f2f", "plotly": {"line_dash": "dot"}},
                "extreme_short": {"color": "#388e3c", "plotly": {"line_dash": "dot"}},
            },
            "USD": {
                "liq_long": {"color": "#d32f2f", "type": "bar", "plotly": {"offsetgroup": "usd"}},
                "short_down": {"color": "#388e3c", "type": "bar", "plotly": {"offsetgroup": "usd"}},
            },
            "Signal": {"flip": {"color": "#6a1b9a", "type": "bar"}},
        },
    }

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        prepare_liquidations(config)

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = add_liquidations(self, dataframe, metadata)
        dataframe = add_liquidations(self, dataframe, metadata, informative=self.higher)
        dataframe["midpoint"], dataframe["extreme_long"], dataframe["extreme_short"] = 0.5, 0.8, 0.2
        dataframe["short_down"] = -dataframe["liq_short"]  # drawn below zero
        # Drawn as unknown where nobody listened; the reading itself says 0 there.
        observed = dataframe["liq_total"].notna()
        dataframe["flip"] = flip(dataframe["liq_imbalance"]).where(observed)
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        turn = flip(dataframe["liq_imbalance"], self.threshold.value, self.max_age.value)
        bias = extreme(dataframe[f"liq_imbalance_{self.higher}"], self.bias.value)
        dataframe.loc[(turn > 0) & (bias < 0), "enter_long"] = 1
        dataframe.loc[(turn < 0) & (bias > 0), "enter_short"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        turn = shift(dataframe["liq_imbalance"], self.hysteresis.value)
        bias = extreme(dataframe[f"liq_imbalance_{self.higher}"], self.bias.value)
        dataframe.loc[(turn < 0) & (bias > 0), "exit_long"] = 1
        dataframe.loc[(turn > 0) & (bias < 0), "exit_short"] = 1
        return dataframe
