"""Learn from liquidations with FreqAI: windows of them as features, the next hours' move as target.

What FreqAI needs is installed with ``pip install 'freqtrade[freqai]'``; its section of the
configuration stands in the repository's ``config_freqai.json``, given as a second ``-c``.

Unknown never becomes a number here. FreqAI drops a row that has a NaN when it trains, but when it
predicts it takes zeros for NaN, and says do_predict = 1 all the same (2026.9). So:

- observed, and something was liquidated in the window: the ratio of the window's sums
- observed, and nothing was: 0.5, and ``liq_some`` = 0 beside it, so that a model can tell
- not observed in full: NaN; the row is not learned from, and ``%%-known`` = 0 keeps trades away
- nothing stored of the pair and time: a backtest ends with an error before it trains; a bot does
  not trade, and FreqAI tries to train again each second, with an error in the log

No edge is promised: measure it on your data before you trade it.
"""

from importlib.util import find_spec

import numpy as np
from freqtrade.exceptions import OperationalException
from freqtrade.strategy import DecimalParameter, IStrategy
from pandas import DataFrame

from liquidations import add_liquidations, prepare_liquidations, window_imbalance


# Lets plot-dataframe show a candle whose neighbours have no ratio; FreqUI passes over "plotly".
DOTS = {"mode": "lines+markers", "marker": {"size": 3, "color": "#2962ff"}}


class LiquidationFreqAI(IStrategy):
    """Enter where a move is predicted that is large against those learned; exit where it turns."""

    INTERFACE_VERSION = 3
    timeframe = "1h"
    can_short = True
    startup_candle_count = 40  # covers indicator_periods_candles, and the shifted candles
    minimal_roi = {"0": 0.1}
    stoploss = -0.05

    strength = DecimalParameter(0.1, 1.5, default=0.5, decimals=2, space="buy")

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
            "Predicted move": {"move": {"color": "#6a1b9a"}, "least": {"color": "#9e9e9e"}},
            "Known": {"%%-known": {"color": "#9e9e9e", "type": "bar"}},
        },
    }

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        if any(find_spec(name) is None for name in ("datasieve", "xgboost")):
            raise OperationalException("FreqAI needs packages: pip install 'freqtrade[freqai]'")
        prepare_liquidations(config)

    def feature_engineering_expand_all(self, dataframe, period, metadata, **kwargs) -> DataFrame:
        # A frame of populate_indicators has the columns already, one of the training thread not.
        there = "liq_total" in dataframe
        liq = dataframe if there else add_liquidations(self, dataframe, metadata)
        ratio = window_imbalance(liq["liq_long"], liq["liq_short"], period)
        most = liq["liq_total"].rolling(period).max()
        dataframe["%-liq_imbalance-period"] = ratio.mask(most.eq(0), 0.5)
        dataframe["%-liq_some-period"] = np.sign(most)
        dataframe["%-liq_most-period"] = np.log1p(most)
        dataframe["%-move-period"] = dataframe["close"].pct_change(period)
        return dataframe

    def feature_engineering_standard(self, dataframe, metadata, **kwargs) -> DataFrame:
        # Two percent signs: FreqAI hands it back with the predictions.
        dataframe["%%-known"] = dataframe.filter(regex="^%-").notna().all(axis=1).astype(float)
        return dataframe

    def set_freqai_targets(self, dataframe, metadata, **kwargs) -> DataFrame:
        ahead = self.freqai_info["feature_parameters"]["label_period_candles"]
        dataframe["&-move"] = dataframe["close"].shift(-ahead) / dataframe["close"] - 1
        return dataframe

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = add_liquidations(self, dataframe, metadata)
        dataframe["midpoint"], dataframe["extreme_long"], dataframe["extreme_short"] = 0.5, 0.8, 0.2
        dataframe["short_down"] = -dataframe["liq_short"]  # drawn below zero
        dataframe = self.freqai.start(dataframe, metadata, self)
        trusted = dataframe["do_predict"].eq(1) & dataframe["%%-known"].eq(1)
        least = self.strength.value * dataframe["&-move_std"]
        return dataframe.assign(move=dataframe["&-move"].where(trusted), least=least.where(trusted))

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe.loc[dataframe["move"] > dataframe["least"], "enter_long"] = 1
        dataframe.loc[dataframe["move"] < -dataframe["least"], "enter_short"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe.loc[dataframe["move"] < 0, "exit_long"] = 1
        dataframe.loc[dataframe["move"] > 0, "exit_short"] = 1
        return dataframe
