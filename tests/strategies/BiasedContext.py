"""Open interest and funding with a planted bias: a row counts from its date, not from its end."""

import pandas as pd
from BiasedLoader import BiasedLoader
from pandas import DataFrame

from liquidations import add_liquidations


def add_unpublished_context(strategy, dataframe: DataFrame, metadata: dict) -> DataFrame:
    closes = (dataframe["date"] + pd.Timedelta(strategy.timeframe)).dt.as_unit("ms")
    for kind, column in (
        ("open_interest", "open_interest_amount"),
        ("funding_rate", "funding_rate"),
    ):
        rows = strategy.dp.get_pair_dataframe(metadata["pair"], "1h", kind)[["date", column]]
        dataframe[f"liq_{column}"] = pd.merge_asof(closes, rows, on="date")[column]
    return dataframe


class BiasedContext(BiasedLoader):
    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = add_liquidations(self, dataframe, metadata)
        return add_unpublished_context(self, dataframe, metadata)
