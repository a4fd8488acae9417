"""What it takes to sum single events in memory: a pair's year, 1,000,000 events, candles of 5m.

All give the same: for each candle and side the sum, the number and the sum of squares of what was
liquidated (Freqtrade's own functions give less, see below). The limit is numpy's sum of the three
columns that must be read, which is a single pass over their bytes.

    python benchmarks/aggregation.py [--quick]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from freqtrade.data.converter import trades_to_ohlcv
from goals import Found, in_turns, main
from growth import BEGIN, DAYS, events_between
from load import STEP

from liquidations.candles import to_bars
from liquidations.event import DAY, Bars, Events


EVENTS = 1_000_000
#: What part of the events Freqtrade's order flow gets.
PART = 1_000
SUMS = ("long", "short", "long_count", "short_count", "long_squares", "short_squares")


def year(events: int, days: int = DAYS) -> Events:
    """Make so many events of a pair, in bursts."""
    return events_between(np.random.default_rng(0), BEGIN, BEGIN + days * DAY, events)


def ours(events: Events) -> Callable[[], Bars]:
    """Return what sums the events as the store and the bots do."""
    return lambda: to_bars(events, STEP)


def limit(events: Events) -> Callable[[], object]:
    """Return a single pass over what must be read."""
    columns = events.timestamp, events.side, events.value_usd
    return lambda: [column.sum() for column in columns]


def _pandas(events: Events) -> pd.DataFrame:
    value = events.value_usd
    frame = pd.DataFrame({"time": events.timestamp, "side": events.side, "value": value})
    return frame.assign(square=lambda one: one["value"] ** 2)


def pandas_groupby(events: Events) -> Callable[[], pd.DataFrame]:
    """Group by candle and side."""
    frame = _pandas(events)

    def run() -> pd.DataFrame:
        candle = (frame["time"] // STEP).rename("candle")
        groups = frame.groupby([candle, "side"])
        found = groups.agg(sum=("value", "sum"), n=("value", "size"), sq=("square", "sum"))
        return found.unstack(fill_value=0)

    return run


def pandas_resample(events: Events) -> Callable[[], pd.DataFrame]:
    """Resample two columns, one for each side, by their date."""
    frame = _pandas(events)
    for name, side in (("long", 0), ("short", 1)):
        own = frame["side"] == side
        frame[name] = frame["value"].where(own, 0.0)
        frame[f"{name}_count"] = own.astype(float)
        frame[f"{name}_squares"] = frame["square"].where(own, 0.0)
    frame = frame.set_index(pd.to_datetime(frame["time"], unit="ms"))
    return lambda: frame[list(SUMS)].resample("5min").sum()


def polars_groups(events: Events) -> Callable[[], object]:
    """Group by candle, each side by a condition; polars' fastest way that was found."""
    import polars as pl

    frame = pl.DataFrame({"time": events.timestamp, "side": events.side, "value": events.value_usd})
    short = pl.col("side") == 1
    value = pl.col("value")
    sides = [
        pl.when(short).then(0.0).otherwise(value).alias("long"),
        pl.when(short).then(value).otherwise(0.0).alias("short"),
    ]
    sums = [pl.col("long", "short").sum(), pl.col("side").cast(pl.Int64).sum().alias("short_count")]
    squares = [(pl.col(name) ** 2).sum().alias(f"{name}_squares") for name in ("long", "short")]

    def run() -> pl.DataFrame:
        return (
            frame.lazy()
            .select((pl.col("time") // STEP).set_sorted().alias("candle"), "side", *sides)
            .group_by("candle", maintain_order=True)
            .agg(*sums, *squares, pl.len().alias("count"))
            .collect()
        )

    return run


def duckdb_groups(events: Events) -> Callable[[], object]:
    """Group by candle in SQL, over the arrays in memory."""
    import duckdb

    database = duckdb.connect(config={"threads": 1})
    frame = _pandas(events)[["time", "side", "value"]]
    database.register("events", frame)
    database.execute("CREATE TABLE event AS SELECT * FROM events")
    question = f"""SELECT time // {STEP} AS candle,
        sum(value) FILTER (side = 0), sum(value) FILTER (side = 1),
        count(*) FILTER (side = 0), count(*) FILTER (side = 1),
        sum(value * value) FILTER (side = 0), sum(value * value) FILTER (side = 1)
        FROM event GROUP BY candle ORDER BY candle"""
    return lambda: database.execute(question).fetchnumpy()


def trades(events: Events) -> pd.DataFrame:
    """Return the events as Freqtrade keeps trades: a long that is liquidated sells."""
    return pd.DataFrame(
        {
            "timestamp": events.timestamp,
            "id": pd.Series(np.arange(len(events))).astype(str),
            "type": None,
            "side": np.where(events.side == 0, "sell", "buy"),
            "price": events.price,
            "amount": events.amount,
            "cost": events.value_usd,
            "date": pd.to_datetime(events.timestamp, unit="ms", utc=True),
        }
    )


def freqtrade_ohlcv(events: Events) -> Callable[[], pd.DataFrame]:
    """Make Freqtrade's candles of trades: prices and volume, not the sides."""
    frame = trades(events)
    return lambda: trades_to_ohlcv(frame, "5m")


def freqtrade_orderflow(events: Events) -> Callable[[], object]:
    """Sum bids and asks by price and candle, Freqtrade's way to the sides; candle by candle."""
    from freqtrade.data.converter.orderflow import populate_dataframe_with_trades

    frame = trades(events)
    candles = trades_to_ohlcv(frame, "5m")
    config = {
        "timeframe": "5m",
        "runmode": "backtest",
        "exchange": {"use_public_trades": True},
        "orderflow": {
            "cache_size": 1, "max_candles": 1_000_000, "scale": 1, "stacked_imbalance_range": 3,
            "imbalance_volume": 1, "imbalance_ratio": 3,
        },
    }  # fmt: skip
    return lambda: populate_dataframe_with_trades(None, config, candles.copy(), frame)


#: Peers that give what we give.
EQUAL = {
    "pandas groupby": pandas_groupby,
    "pandas resample": pandas_resample,
    "polars": polars_groups,
    "duckdb": duckdb_groups,
}


def _by_candle(peer: str, result: object) -> dict[str, np.ndarray]:
    """Return a peer's columns under our names, only of candles with events."""
    if peer == "pandas groupby":
        names = [("sum", 0), ("sum", 1), ("n", 0), ("n", 1), ("sq", 0), ("sq", 1)]
        return {ours: result[name].to_numpy() for ours, name in zip(SUMS, names, strict=True)}
    if peer == "pandas resample":
        some = (result["long_count"] + result["short_count"]) > 0
        return {name: result.loc[some, name].to_numpy() for name in SUMS}
    if peer == "polars":
        long_count = (result["count"].cast(int) - result["short_count"]).to_numpy()
        return {n: long_count if n == "long_count" else result[n].to_numpy() for n in SUMS}
    names = [name for name in result if name != "candle"]
    return {ours: np.ma.filled(result[name], 0.0) for ours, name in zip(SUMS, names, strict=True)}


def run(quick: bool) -> Found:
    """Sum the events in all ways, in turns."""
    found = Found()
    events = year(EVENTS // 5 if quick else EVENTS, DAYS // 5 if quick else DAYS)
    functions = {"ours": ours(events), "limit: one pass over the bytes": limit(events)}
    bars = to_bars(events, STEP)
    for name, make in EQUAL.items():
        try:
            functions[name] = make(events)
        except ImportError as error:
            found.absent[name] = f"{error}; pip install '.[bench]'"
            continue
        for column, values in _by_candle(name, functions[name]()).items():
            np.testing.assert_allclose(values, getattr(bars, column), rtol=1e-9, err_msg=name)
    functions["Freqtrade trades_to_ohlcv"] = freqtrade_ohlcv(events)
    rounds = in_turns(functions)
    # Freqtrade's order flow takes many minutes, candle by candle: a part is enough.
    part = events.take(slice(0, len(events) // PART))
    few = in_turns({"orderflow": freqtrade_orderflow(part)}, 1 if quick else 3)["orderflow"]
    rounds[f"Freqtrade orderflow ({PART} times a part)"] = [PART * one for one in few]
    found.show(f"{len(events):,} events in memory → 5m", rounds)
    what = "events in memory → candles of 5m, times"
    found.ratio(f"{what} the limit", rounds, "ours", "limit: one pass over the bytes", 8)
    for name, least in (
        ("Freqtrade trades_to_ohlcv", 4), ("pandas groupby", 15), ("polars", 3)
    ):  # fmt: skip
        if name in rounds:
            found.ratio(f"{what[:-7]}, faster than {name}", rounds, name, "ours", least, least=True)
    return found


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
