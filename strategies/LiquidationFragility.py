"""Trade against positions that break although the price makes no new extreme.

Thesis: longs that are forced out above the latest low were too large, not wrong. When open interest
falls with them and longs no longer pay to be there, the crowd has left, and what it pushed down may
come back; for shorts it is the other way round. Nothing promises that it does: measure it.
"""

from freqtrade.strategy import DecimalParameter, IntParameter, IStrategy
from pandas import DataFrame

from liquidations import (
    add_context,
    add_liquidations,
    context_pairs,
    fragile,
    open_interest_change,
    prepare_liquidations,
)


# Lets plot-dataframe show a candle whose neighbours have no ratio; FreqUI passes over "plotly".
DOTS = {"mode": "lines+markers", "marker": {"size": 3, "color": "#2962ff"}}


class LiquidationFragility(IStrategy):
    """Enter against an extreme without a price extreme; exit at the opposite, or a new crowd."""

    INTERFACE_VERSION = 3
    timeframe = "1h"
    can_short = True
    startup_candle_count = 100
    minimal_roi = {"0": 0.08}
    stoploss = -0.04

    threshold = DecimalParameter(0.7, 0.95, default=0.8, decimals=2, space="buy")
    window = IntParameter(12, 72, default=48, space="buy")
    drop = DecimalParameter(0.0, 0.03, default=0.005, decimals=3, space="buy")
    funding = DecimalParameter(0.0, 0.0005, default=0.0001, decimals=5, space="buy")
    crowd = DecimalParameter(0.005, 0.05, default=0.02, decimals=3, space="sell")

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
            "Open interest": {"liq_open_interest": {"color": "#00838f"}},
            "Funding": {"liq_funding_rate": {"color": "#ef6c00"}},
            "Signal": {"fragile": {"color": "#6a1b9a", "type": "bar"}},
        },
    }

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        prepare_liquidations(config)

    def informative_pairs(self) -> list:
        return context_pairs(self)

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = add_liquidations(self, dataframe, metadata)
        dataframe = add_context(self, dataframe, metadata)
        dataframe["midpoint"], dataframe["extreme_long"], dataframe["extreme_short"] = 0.5, 0.8, 0.2
        dataframe["short_down"] = -dataframe["liq_short"]  # drawn below zero
        # Drawn as unknown where nobody listened; the reading itself says 0 there.
        dataframe["fragile"] = fragile(dataframe).where(dataframe["liq_total"].notna())
        # Rows come once an hour, an hour late: a day of hours, or two hours of five minutes.
        dataframe["interest"] = open_interest_change(dataframe["liq_open_interest_amount"], 24)
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        side = fragile(dataframe, self.threshold.value, self.window.value)
        left = dataframe["interest"] <= -self.drop.value
        rate = dataframe["liq_funding_rate"]
        cheap = (rate <= self.funding.value) & left
        dear = (rate >= -self.funding.value) & left
        dataframe.loc[(side > 0) & cheap, "enter_long"] = 1
        dataframe.loc[(side < 0) & dear, "enter_short"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        side = fragile(dataframe, self.threshold.value, self.window.value)
        back = dataframe["interest"] >= self.crowd.value
        dataframe.loc[(side < 0) | back, "exit_long"] = 1
        dataframe.loc[(side > 0) | back, "exit_short"] = 1
        return dataframe
