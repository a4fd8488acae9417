"""The unmodified freqtrade command line on the sample strategies, offline against the sandbox."""

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, events_of, utc
from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import load_pair_history
from freqtrade.enums import CandleType, RunMode
from freqtrade.resolvers import ExchangeResolver, StrategyResolver

from liquidations.candles import timeframe_ms
from liquidations.cli import run as liquidations
from liquidations.event import SIMULATED
from liquidations.sandbox_server import environment, freqtrade_overrides, running
from liquidations.store import Store


PAIRS = ["BTC/USDT:USDT", "SOL/USDT:USDT"]
TIMERANGE = "20240105-20240129"
RECORDED = ["BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"]
#: The samples, and the column that each one reads in populate_indicators.
READINGS = {
    "LiquidationReversal": "capitulation",
    "LiquidationFlip": "flip",
    "LiquidationFragility": "fragile",
}
SIGNALS = ["enter_long", "enter_short", "exit_long", "exit_short"]
BIASED = str(Path(__file__).parent / "strategies")


@dataclass
class Market:
    """A user folder, stored liquidations, and a sandbox that serves the candles beside them."""

    userdir: Path
    datadir: Path
    db_url: str
    env: dict[str, str]

    def freqtrade(self, command: str, *arguments: str, code: int = 0, **env: str) -> str:
        """Run a command of Freqtrade as a user would, and return what it printed."""
        words = [sys.executable, "-m", "freqtrade", command, "--no-color"]
        words += ["-c", str(REPOSITORY / "config.json"), "--userdir", str(self.userdir)]
        words += ["--datadir", str(self.datadir), *arguments]
        done = subprocess.run(
            words,
            env=self.env | env,
            cwd=self.userdir,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == code, printed[-6000:]
        assert "Traceback" not in printed, printed[-6000:]
        return printed

    def trades(self, strategy: str | None = None) -> list[dict]:
        """Return the trades of the newest backtest, of one of its strategies."""
        newest = max((self.userdir / "backtest_results").glob("*.zip"), key=os.path.getmtime)
        with zipfile.ZipFile(newest) as archive:
            result = json.loads(archive.read(f"{newest.stem}.json"))
        return result["strategy"][strategy or next(iter(result["strategy"]))]["trades"]


def make_userdir(folder: Path) -> Path:
    (folder / "strategies").mkdir(parents=True)
    for name in ("data", "backtest_results", "hyperopt_results", "hyperopts", "plot", "logs"):
        (folder / name).mkdir()
    return folder


@dataclass
class Place:
    """Say where and when the samples are analysed, and in candles of which timeframe.

    ``signals`` names a candle of BTC in which each sample's reading speaks, and needs more than two
    candles of history for it.
    """

    market: Market
    timeframe: str
    timerange: str
    signals: dict[str, str]


@contextmanager
def serving(userdir: Path, datadir: Path, db_url: str, pairs: list[str]) -> Iterator[Market]:
    with running(datadir) as port:
        env = os.environ | environment(port)
        env["FREQTRADE__LIQUIDATIONS__DB_URL"] = db_url
        env["FREQTRADE__EXCHANGE__PAIR_WHITELIST"] = json.dumps(pairs)
        env["FREQTRADE__STRATEGY_PATH"] = str(REPOSITORY / "strategies")
        env["COLUMNS"] = "200"
        yield Market(userdir, datadir, db_url, env)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Simulate a month in candles of 5m and 1h, open interest and funding."""
    userdir = make_userdir(tmp_path_factory.mktemp("user") / "user_data")
    code = liquidations(
        ["simulate", "--userdir", str(userdir), "--timerange", "20240101-20240201"]
        + ["-t", "5m", "1h", "-p", *PAIRS]
    )
    assert code == 0
    datadir = userdir / "simulated" / "data"
    db_url = f"sqlite:///{userdir}/simulated/liquidations.sqlite"
    with serving(userdir, datadir, db_url, PAIRS) as served:
        yield served


@pytest.fixture(scope="module")
def recording(recorded, tmp_path_factory):
    """Import the recorded hours of BTC, ETH and SOL, 2024-08-05 among them."""
    userdir = make_userdir(tmp_path_factory.mktemp("recorded") / "user_data")
    datadir = recorded / "data" / "candles"
    db_url = f"sqlite:///{userdir}/liquidations.sqlite"
    answers = sorted(map(str, (recorded / "data" / "coinalyze").glob("*liquidation*.json")))
    arguments = ["--userdir", str(userdir), "--datadir", str(datadir), "--db-url", db_url, *answers]
    assert liquidations(["import-data", "--source", "coinalyze", "--unit", "base", *arguments]) == 0
    with serving(userdir, datadir, db_url, RECORDED) as served:
        yield served


@pytest.fixture(params=["simulated 5m", "recorded 1h"])
def place(request):
    if request.param == "recorded 1h":
        signals = ["2024-07-23 05:00", "2024-07-30 03:00", "2024-07-22 06:00"]
        name, timeframe, timerange = "recording", "1h", "20240628-20240819"
    else:
        signals = ["2024-01-08 05:40", "2024-01-08 13:15", "2024-01-08 14:05"]
        name, timeframe, timerange = "market", "5m", "20240105-20240115"
    named = dict(zip(READINGS, signals, strict=True))
    return Place(request.getfixturevalue(name), timeframe, timerange, named)


def config_of(market: Market, strategy: str, timeframe: str = "1h") -> dict:
    """Return what the commands work out of the configuration file and their arguments."""
    config = json.loads((REPOSITORY / "config.json").read_text())
    return config | {
        "runmode": RunMode.BACKTEST,
        "candle_type_def": CandleType.FUTURES,
        "dataformat_ohlcv": "feather",
        "user_data_dir": market.userdir,
        "datadir": market.datadir,
        "strategy": strategy,
        "strategy_path": str(REPOSITORY / "strategies"),
        "timeframe": timeframe,
        "liquidations": {"db_url": market.db_url},
    }


each_sample = pytest.mark.parametrize("strategy", READINGS)


def test_backtest_trades_both_ways_and_new_liquidations_make_a_new_result(market):
    def backtest() -> tuple[bool, list[dict]]:
        printed = market.freqtrade("backtesting", "--timerange", TIMERANGE)
        return "Reusing result of previous backtest" in printed, market.trades()

    reused, first = backtest()
    assert not reused
    assert {trade["is_short"] for trade in first} == {True, False}
    reused, again = backtest()
    assert reused
    assert again == first
    # One short liquidation of a billion, in a quiet hour, is an extreme on high volume: a trade.
    with Store(market.db_url) as store, store.write() as writer:
        events = events_of(("2024-01-20 10:30", "short", 1e9), ("2024-01-20 13:30", "short", 1e9))
        writer.insert("binance", PAIRS[0], SIMULATED, events, np.empty((0, 2), np.int64))
    reused, changed = backtest()
    assert not reused
    assert changed != first


def test_backtest_without_liquidations_of_a_pair_ends_in_one_line(market):
    printed = market.freqtrade(
        "backtesting",
        "--timerange",
        TIMERANGE,
        code=2,
        FREQTRADE__LIQUIDATIONS__EXCHANGES='["okx"]',
    )
    lines = [line for line in printed.splitlines() if "ERROR" in line]
    assert len(lines) == 1
    assert "no liquidations of" in lines[0]
    assert "liquidations download-data" in lines[0]


def test_a_typo_in_the_config_section_stops_the_backtest(market):
    printed = market.freqtrade(
        "backtesting", "--timerange", TIMERANGE, code=2, FREQTRADE__LIQUIDATIONS__MIN_COVERAG="0.5"
    )
    lines = [line for line in printed.splitlines() if "ERROR" in line]
    assert len(lines) == 1
    assert 'did you mean "min_coverage"?' in lines[0]


@each_sample
def test_hyperopt_in_two_processes(market, strategy):
    printed = market.freqtrade(
        "hyperopt", "--strategy", strategy, "--timerange", "20240115-20240125", "-j", "2",
        "-e", "4", "--spaces", "buy", "sell", "--hyperopt-loss", "SharpeHyperOptLoss",
        "--random-state", "1", "--min-trades", "1", "--disable-param-export",
    )  # fmt: skip
    assert "4/4" in printed
    assert "Best result" in printed


@each_sample
def test_plot_shows_what_the_strategy_configures(market, strategy):
    # Without trades: those of the newest backtest may be another strategy's, an error.
    market.freqtrade(
        "plot-dataframe", "--strategy", strategy, "--timerange", TIMERANGE, "-p", PAIRS[0],
        "--no-trades",
    )  # fmt: skip
    page = (market.userdir / "plot" / "freqtrade-plot-BTC_USDT_USDT-1h.html").read_text()
    names = set(re.findall(r'"name":"(\w+)"', page))
    plotted = StrategyResolver.load_strategy(config_of(market, strategy)).plot_config["subplots"]
    # Freqtrade passes over a column that is not there.
    assert {column for panel in plotted.values() for column in panel} <= names
    assert {"liq_imbalance", READINGS[strategy]} <= names


def test_each_sample_trades_each_recorded_pair_both_ways(recording):
    # A list of strategies wants the timeframe named.
    recording.freqtrade(
        "backtesting", "--timerange", "20240628-20240819", "-i", "1h", "--cache", "none",
        "--strategy-list", *READINGS,
    )  # fmt: skip
    for strategy in READINGS:
        ways = {(trade["pair"], trade["is_short"]) for trade in recording.trades(strategy)}
        assert ways == {(pair, short) for pair in RECORDED for short in (True, False)}, strategy


# --- nothing from the future, and nothing that hangs on where the history begins ----------------


def lookahead(
    market: Market,
    strategy: str,
    folder: Path,
    timerange: str = TIMERANGE,
    *,
    timeframe: str = "1h",
    **env: str,
) -> dict[str, str]:
    """Run lookahead-analysis and return the row that it writes of the strategy.

    Of one strategy: with --strategy-list it analyses the first one again and again (2026.9).
    """
    table = folder / "lookahead.csv"
    market.freqtrade(
        "lookahead-analysis", "--strategy", strategy, "-i", timeframe, "--timerange", timerange,
        "--minimum-trade-amount", "5", "--targeted-trade-amount", "10",
        "--lookahead-analysis-exportfilename", str(table), **env,
    )  # fmt: skip
    with table.open() as file:
        (row,) = csv.DictReader(file)
    assert row["strategy"] == strategy
    return row


@each_sample
def test_lookahead_analysis_finds_nothing(place, strategy, tmp_path):
    row = lookahead(place.market, strategy, tmp_path, place.timerange, timeframe=place.timeframe)
    assert row["has_bias"] == "False"
    assert int(row["total_signals"]) > 5


def test_lookahead_analysis_catches_a_loader_that_peeks(market, tmp_path):
    row = lookahead(market, "BiasedLoader", tmp_path, FREQTRADE__STRATEGY_PATH=BIASED)
    assert row["has_bias"] == "True"
    assert "liq_imbalance" in row["biased_indicators"]


def test_lookahead_analysis_catches_open_interest_and_funding_before_their_time(market, tmp_path):
    """Show that the analysis sees these columns, so that its silence on a sample says something.

    It sees as much as the newest candle of a cut frame shows: the cut takes rows of later dates
    away, and no more. A row of 10:00 is there at 10:05, though a bot gets it at 11:00: in candles
    of five minutes the analysis is blind to that hour, which test_context.py looks at.
    """
    days = "20240110-20240129"  # in which the funding rate changes
    row = lookahead(market, "BiasedContext", tmp_path, days, FREQTRADE__STRATEGY_PATH=BIASED)
    assert row["has_bias"] == "True"
    found = set(row["biased_indicators"].split(","))
    assert found == {"liq_open_interest_amount", "liq_funding_rate"}


@each_sample
def test_recursive_analysis_finds_variance_only_where_history_is_too_short(place, strategy):
    # Only the last candle is compared, so it is one in which the reading speaks. After the first
    # count without variance no greater one is looked at, so the strategy's own count, which
    # Freqtrade adds, is only reached if the one before it has some.
    own = StrategyResolver.load_strategy(config_of(place.market, strategy)).startup_candle_count
    length = timeframe_ms(place.timeframe)
    end = utc(place.signals[strategy])
    printed = place.market.freqtrade(
        "recursive-analysis", "--strategy", strategy, "-i", place.timeframe, "-p", PAIRS[0],
        "--timerange", f"{(end - 240 * length) // 1000}-{end // 1000}",
        "--startup-candle", "1",
    )  # fmt: skip
    rows = {
        name: [cell.strip() for cell in cells.split("│")]
        for name, cells in re.findall(r"│ +(\w+) │(.+)│", printed)
    }
    assert f"{own} (from strategy)" in printed
    assert READINGS[strategy] in rows
    for name, (too_short, enough) in rows.items():
        assert too_short != "-", name
        assert enough == "-", name
    assert "No variance on indicator(s) found" in printed
    assert "No lookahead bias on indicators found" in printed


@each_sample
def test_signals_are_the_same_with_no_more_history_than_the_startup_candles(place, strategy):
    """The analyses compare indicators and trades; the signals of a bot's frame are compared here.

    For a bot's newest candle, and for the first one of a backtest, there may be no more than the
    startup candles before it.
    """
    with running(place.market.datadir) as port:
        config = config_of(place.market, strategy, place.timeframe)
        config |= freqtrade_overrides(port)
        made = StrategyResolver.load_strategy(config)
        exchange = ExchangeResolver.load_exchange(config, validate=False)
        exchange.close()
    made.dp = DataProvider(config, exchange)
    candles = load_pair_history(
        PAIRS[0], place.timeframe, place.market.datadir, data_format="feather",
        candle_type=CandleType.FUTURES, timerange=TimeRange.parse_timerange(place.timerange),
        fill_up_missing=False,
    )  # fmt: skip

    def signals(frame: pd.DataFrame) -> np.ndarray:
        for populate in (made.advise_indicators, made.advise_entry, made.advise_exit):
            frame = populate(frame.copy(), {"pair": PAIRS[0]})
        return frame.reindex(columns=SIGNALS).to_numpy(np.float64) == 1

    whole, history = signals(candles), made.startup_candle_count
    rows = np.flatnonzero(whole.any(axis=1))
    quiet = np.flatnonzero(~whole.any(axis=1))
    rows = np.concatenate([some[:: len(some) // 80 + 1] for some in (rows, quiet)])
    rows = rows[rows >= history]
    assert whole[rows].any(axis=0).all(), "no signal of a kind to compare"
    for row in rows:
        frame = candles.iloc[row - history : row + 1].reset_index(drop=True)
        assert signals(frame)[-1].tolist() == whole[row].tolist(), candles["date"][row]
