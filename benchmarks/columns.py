"""What a pair's stored year costs: 1,000,000 events, as the columns of 105,408 candles of 5m.

Ours is the whole of ``add_liquidations``, read from the store each time. The limit is to read the
same rows of the same SQLite file by the bare driver, to unpack them, and to sum what comes out.
Beside them: Freqtrade's own loading of the same pair's candles, and what else one could keep
liquidations in: rows in SQL, Parquet (read by DuckDB, polars, pandas), Freqtrade's trades.

    python benchmarks/columns.py [--quick]
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from aggregation import EVENTS, trades, year
from freqtrade.configuration import TimeRange
from freqtrade.data.converter import trades_to_ohlcv
from freqtrade.data.history import get_datahandler, load_data
from freqtrade.enums import CandleType, RunMode, TradingMode
from freqtrade.system import gc_set_threshold
from goals import Found, import_path, in_turns, main
from growth import BEGIN, DAYS
from load import STEP

from liquidations import provider
from liquidations.event import DAY, MINUTE, Events
from liquidations.segments import _HEAD, _LZ4
from liquidations.store import Store
from liquidations.strategy import add_liquidations


import_path()

import postgres  # noqa: E402


PAIR = "BTC/USDT:USDT"
ROWS, TRADES = "row table in SQLite, GROUP BY", "Freqtrade trades, trades_to_ohlcv (no sides)"
SLOW = ROWS, TRADES
OTHER = "ours, PostgreSQL"


def strategy(db_url: str) -> SimpleNamespace:
    """Stand for a strategy: what add_liquidations reads of one."""
    config = {
        "runmode": RunMode.HYPEROPT,
        "exchange": {"name": "binance"},
        "liquidations": {"db_url": db_url},
    }
    return SimpleNamespace(timeframe="5m", config=config)


def fill(db_url: str, events: Events, days: int) -> None:
    """Put a year into a store, month by month, as an import does."""
    with Store(db_url, create=True) as store, store.write() as writer:
        span = np.array([[BEGIN, BEGIN + days * DAY]])
        writer.insert("binance", PAIR, "tardis", events, span)


def candles(days: int) -> pd.DataFrame:
    """Make candles of 5m; their prices do not matter, but they do not compress well."""
    opens = np.arange(BEGIN, BEGIN + days * DAY, STEP)
    random = np.random.default_rng(1)
    close = np.round(55_000 + np.cumsum(random.normal(0, 20, len(opens))), 1)
    return pd.DataFrame(
        {
            "date": pd.to_datetime(opens, unit="ms", utc=True).as_unit("ms"),  # as Freqtrade's
            "open": np.roll(close, 1), "high": close + 30, "low": close - 40, "close": close,
            "volume": np.round(np.exp(random.normal(3, 1, len(opens))), 3),
        }
    )  # fmt: skip


def loading(folder: Path, frame: pd.DataFrame, days: int) -> Callable[[], pd.DataFrame]:
    """Return Freqtrade's own loading of the candles."""
    handler = get_datahandler(folder, "feather")
    handler.ohlcv_store(PAIR, "5m", frame, CandleType.FUTURES)
    span = TimeRange("date", "date", BEGIN // 1000, (BEGIN + days * DAY - STEP) // 1000)

    def run() -> pd.DataFrame:
        return load_data(
            folder, "5m", [PAIR], timerange=span, candle_type=CandleType.FUTURES
        )[PAIR]  # fmt: skip

    return run


def limit(path: Path) -> Callable[[], float]:
    """Return what reads the stored bars, unpacks them and sums them once."""
    connection = sqlite3.connect(path)
    question = "SELECT data FROM liq_segment WHERE series_id = 1 AND period = ? ORDER BY start"

    def run() -> float:
        total = 0.0
        for (data,) in connection.execute(question, (MINUTE,)):
            *_, size = _HEAD.unpack_from(data)
            block = _LZ4.decompress(memoryview(data)[_HEAD.size :], size)
            total += np.frombuffer(block, np.int64, size // 8).sum()
        return total

    return run


def peers(folder: Path, events: Events) -> dict[str, Callable[[], Callable[[], object]]]:
    """Return by name what makes each peer's function: stored events → sums of each candle."""
    path = folder / "events.parquet"
    columns = {"time": events.timestamp, "side": events.side, "value": events.value_usd}
    pq.write_table(pa.table(columns), path)
    sums = """sum(value) FILTER (WHERE side = 0), sum(value) FILTER (WHERE side = 1),
        count(*) FILTER (WHERE side = 0), count(*) FILTER (WHERE side = 1)"""

    def rows() -> Callable[[], object]:
        connection = sqlite3.connect(folder / "rows.sqlite")
        connection.execute("CREATE TABLE event (time INTEGER, side INTEGER, value REAL)")
        lists = [column.tolist() for column in columns.values()]
        connection.executemany("INSERT INTO event VALUES (?, ?, ?)", zip(*lists, strict=True))
        connection.commit()
        question = f"SELECT time / {STEP} AS candle, {sums} FROM event GROUP BY candle"
        return lambda: connection.execute(question).fetchall()

    def duckdb_parquet() -> Callable[[], object]:
        import duckdb

        database = duckdb.connect(config={"threads": 1})
        question = f"SELECT time // {STEP} AS candle, {sums} FROM '{path}' GROUP BY 1 ORDER BY 1"
        return lambda: database.execute(question).fetchnumpy()

    def polars_parquet() -> Callable[[], object]:
        import polars as pl

        value, short = pl.col("value"), pl.col("side") == 1
        found = [value.filter(~short).sum().alias("long"), value.filter(short).sum().alias("short")]
        return lambda: (
            pl.scan_parquet(path)
            .group_by(pl.col("time") // STEP)
            .agg(*found, short.sum().alias("short_count"), pl.len())
            .collect()
        )

    def pandas_parquet() -> Callable[[], object]:
        def run() -> pd.DataFrame:
            frame = pd.read_parquet(path)
            groups = frame.groupby([frame["time"] // STEP, "side"])["value"]
            return groups.agg(["sum", "count"]).unstack(fill_value=0)

        return run

    def freqtrade_trades() -> Callable[[], object]:
        handler = get_datahandler(folder, "feather")
        handler.trades_store(PAIR, trades(events).drop(columns="date"), TradingMode.FUTURES)
        return lambda: trades_to_ohlcv(handler.trades_load(PAIR, TradingMode.FUTURES), "5m")

    return {
        ROWS: rows,
        "Parquet, DuckDB": duckdb_parquet,
        "Parquet, polars": polars_parquet,
        "Parquet, pandas groupby": pandas_parquet,
        TRADES: freqtrade_trades,
    }


def _total(result: object) -> float:
    """Add up the USD that a peer found, of both sides."""
    if isinstance(result, list):
        return sum((row[1] or 0.0) + (row[2] or 0.0) for row in result)
    if isinstance(result, dict):
        _, long, short, *_ = result.values()
        return float(np.ma.filled(long, 0.0).sum() + np.ma.filled(short, 0.0).sum())
    if isinstance(result, pd.DataFrame):
        return float(result["sum"].to_numpy().sum())
    return float((result["long"] + result["short"]).sum())


def run(quick: bool) -> Found:
    """Read a stored year in all ways, in turns."""
    found, days = Found(), DAYS
    events, frame = year(EVENTS), candles(days)
    gc_set_threshold()  # as Freqtrade's own command line does
    provider.CACHE_BYTES = 0  # each round reads the store
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/liquidations.sqlite"
        fill(url, events, days)

        def ours(db_url: str) -> Callable[[], pd.DataFrame]:
            one = strategy(db_url)
            return lambda: add_liquidations(one, frame.copy(deep=False), {"pair": PAIR})

        total = ours(url)()["liq_total"].sum()
        functions: dict[str, Callable[[], object]] = {
            "ours, SQLite": ours(url),
            "limit: read, unpack and sum the same bytes": limit(folder / "liquidations.sqlite"),
            "Freqtrade's loading of the candles": loading(folder, frame, days),
        }
        for peer, make in peers(folder, events).items():
            if quick and peer in SLOW:
                found.absent[peer] = "it takes long to fill; run the full form"
                continue
            try:
                functions[peer] = make()
            except ImportError as error:
                found.absent[peer] = f"{error}; pip install '.[bench]'"
                continue
            if peer != TRADES:
                np.testing.assert_allclose(_total(functions[peer]()), total, rtol=1e-9)
        with ExitStack() as stack:
            if quick:
                found.absent[OTHER] = "its server takes long to start; run the full form"
            else:
                server = stack.enter_context(postgres.Server())
                server.start()
                other = server.url(server.create("columns"))
                fill(other, events, days)
                functions[OTHER] = ours(other)
                assert functions[OTHER]()["liq_total"].sum() == total
            rounds = in_turns(functions)
    found.show(f"{len(events):,} stored events → columns of {len(frame):,} candles of 5m", rounds)
    least = "limit: read, unpack and sum the same bytes"
    what = "stored pair-year → columns"
    found.ratio(f"{what}, SQLite, times the limit", rounds, "ours, SQLite", least, 3)
    load = "Freqtrade's loading of the candles"
    found.ratio(f"{what}, SQLite, beside Freqtrade's loading", rounds, "ours, SQLite", load, 0.25)
    if OTHER in rounds:
        found.ratio(f"{what}, PostgreSQL, times the limit", rounds, OTHER, least, 8)
    return found


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
