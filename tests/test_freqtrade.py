"""The unmodified freqtrade command line on the sample strategy, offline against the sandbox."""

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, events_of

from liquidations.cli import run as liquidations
from liquidations.event import SIMULATED
from liquidations.sandbox_server import environment, running
from liquidations.store import Store


PAIRS = ["BTC/USDT:USDT", "SOL/USDT:USDT"]
TIMERANGE = "20240105-20240129"


@dataclass
class Market:
    """A user folder with a simulated month, and a sandbox that serves its candles."""

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

    def trades(self) -> list[dict]:
        """Return the trades of the newest backtest."""
        newest = max((self.userdir / "backtest_results").glob("*.zip"), key=os.path.getmtime)
        with zipfile.ZipFile(newest) as archive:
            result = json.loads(archive.read(f"{newest.stem}.json"))
        return next(iter(result["strategy"].values()))["trades"]


def make_userdir(folder: Path) -> Path:
    (folder / "strategies").mkdir(parents=True)
    for name in ("data", "backtest_results", "hyperopt_results", "hyperopts", "plot", "logs"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    userdir = make_userdir(tmp_path_factory.mktemp("user") / "user_data")
    code = liquidations(
        ["simulate", "--userdir", str(userdir), "--timerange", "20240101-20240201"]
        + ["-t", "1h", "-p", *PAIRS]
    )
    assert code == 0
    datadir = userdir / "simulated" / "data"
    db_url = f"sqlite:///{userdir}/simulated/liquidations.sqlite"
    with running(datadir) as port:
        env = os.environ | environment(port)
        env["FREQTRADE__LIQUIDATIONS__DB_URL"] = db_url
        env["FREQTRADE__EXCHANGE__PAIR_WHITELIST"] = json.dumps(PAIRS)
        env["FREQTRADE__STRATEGY_PATH"] = str(REPOSITORY / "strategies")
        env["COLUMNS"] = "200"
        yield Market(userdir, datadir, db_url, env)


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
    assert "liquidations import-data" in lines[0]


def test_a_typo_in_the_config_section_stops_the_backtest(market):
    printed = market.freqtrade(
        "backtesting", "--timerange", TIMERANGE, code=2, FREQTRADE__LIQUIDATIONS__MIN_COVERAG="0.5"
    )
    lines = [line for line in printed.splitlines() if "ERROR" in line]
    assert len(lines) == 1
    assert 'did you mean "min_coverage"?' in lines[0]


def test_hyperopt_in_two_processes(market):
    printed = market.freqtrade(
        "hyperopt", "--timerange", TIMERANGE, "-j", "2", "-e", "4", "--spaces", "buy",
        "--hyperopt-loss", "SharpeHyperOptLoss", "--random-state", "1", "--min-trades", "1",
        "--disable-param-export",
    )  # fmt: skip
    assert "4/4" in printed
    assert "Best result" in printed


def lookahead(
    market: Market, strategy: str, folder: Path, timerange: str = TIMERANGE, **env: str
) -> dict[str, str]:
    """Run lookahead-analysis and return the row that it writes of the strategy."""
    table = folder / "lookahead.csv"
    market.freqtrade(
        "lookahead-analysis", "--strategy", strategy, "--timerange", timerange,
        "--minimum-trade-amount", "5", "--targeted-trade-amount", "10",
        "--lookahead-analysis-exportfilename", str(table), **env,
    )  # fmt: skip
    with table.open() as file:
        (row,) = csv.DictReader(file)
    return row


def test_lookahead_analysis_finds_nothing(market, tmp_path):
    row = lookahead(market, "LiquidationReversal", tmp_path)
    assert row["has_bias"] == "False"
    assert int(row["total_signals"]) >= 5


def test_lookahead_analysis_catches_a_loader_that_peeks(market, tmp_path):
    path = str(Path(__file__).parent / "strategies")
    row = lookahead(market, "BiasedLoader", tmp_path, FREQTRADE__STRATEGY_PATH=path)
    assert row["has_bias"] == "True"
    assert "liq_imbalance" in row["biased_indicators"]


def test_recursive_analysis_finds_no_variance_and_no_lookahead(market):
    printed = market.freqtrade(
        "recursive-analysis", "--timerange", TIMERANGE, "--startup-candle", "80", "100", "150",
        "-p", PAIRS[0],
    )  # fmt: skip
    assert "No variance on indicator(s) found" in printed
    assert "No lookahead bias on indicators found" in printed


def test_plot_shows_the_imbalance_below_the_candles(market):
    market.freqtrade("plot-dataframe", "--timerange", TIMERANGE, "-p", PAIRS[0])
    page = (market.userdir / "plot" / "freqtrade-plot-BTC_USDT_USDT-1h.html").read_text()
    names = set(re.findall(r'"name":"(\w+)"', page))
    assert {"liq_imbalance", "midpoint", "extreme_long", "extreme_short", "liq_long"} <= names


def test_recorded_months_trade_both_ways(market, recorded, tmp_path):
    """BTC 2024-08-05 and all around it: real hours, the real strategy, the real command."""
    userdir = make_userdir(tmp_path / "user_data")
    datadir = recorded / "data" / "candles"
    db_url = f"sqlite:///{userdir}/liquidations.sqlite"
    answers = sorted(map(str, (recorded / "data" / "coinalyze").glob("*liquidation*.json")))
    arguments = ["--datadir", str(datadir), "--db-url", db_url, *answers]
    assert liquidations(["import-data", "--source", "coinalyze", "--unit", "base", *arguments]) == 0
    pairs = ["BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"]
    with running(datadir) as port:
        env = market.env | environment(port)
        env["FREQTRADE__LIQUIDATIONS__DB_URL"] = db_url
        env["FREQTRADE__EXCHANGE__PAIR_WHITELIST"] = json.dumps(pairs)
        recording = Market(userdir, datadir, db_url, env)
        recording.freqtrade("backtesting", "--timerange", "20240620-20240819")
        trades = recording.trades()
        row = lookahead(recording, "LiquidationReversal", tmp_path, timerange="20240701-20240720")
    assert {trade["pair"] for trade in trades} == set(pairs)
    for pair in pairs:
        sides = {trade["is_short"] for trade in trades if trade["pair"] == pair}
        assert sides == {True, False}, pair
    assert row["has_bias"] == "False"
