"""The command ``collect`` as a process beside loopback exchanges: what it stores and says."""

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from conftest import REPOSITORY, events_of, spans
from loopback import BUILDERS, VENUES, Loopback, loopback

from liquidations.cli import run
from liquidations.collector import Collector
from liquidations.commands import collect
from liquidations.commands.common import load_config
from liquidations.event import SIDES
from liquidations.live import plan_of
from liquidations.settings import read_settings
from liquidations.store import Store


PAIR = "BTC/USDT:USDT"
DB_URL = "sqlite:///user_data/liquidations.sqlite"

#: exchange, channel → symbol, size in its unit, pair, amount and USD at a price of 50,000 USD.
ORDERS = {
    ("binance", "linear"): ("BTCUSDT", 0.5, PAIR, 0.5, 25_000.0),
    ("binance", "inverse"): ("BTCUSD_PERP", 5, "BTC/USD:BTC", 0.01, 500.0),
    ("bybit", "linear"): ("BTCUSDT", 0.2, PAIR, 0.2, 10_000.0),
    ("bybit", "inverse"): ("BTCUSD", 1_000, "BTC/USD:BTC", 0.02, 1_000.0),
    ("okx", "swap"): ("BTC-USDT-SWAP", 30, PAIR, 0.3, 15_000.0),
    ("hyperliquid", "vaults"): ("BTC", 0.1, "BTC/USDC:USDC", 0.1, 5_000.0),
}


@pytest.fixture(scope="module")
def exchange() -> Iterator[Loopback]:
    """Run the exchanges, which tick faster here than in the world."""
    with loopback() as exchange:
        exchange.tick_every = 0.2
        exchange.replayed.clear()
        yield exchange


@pytest.fixture
def folder(tmp_path, monkeypatch, exchange):
    """Work in a folder with a bot's config whose exchanges are the loopback ones."""
    monkeypatch.chdir(tmp_path)
    config = json.loads((REPOSITORY / "config.json").read_text())
    config["liquidations"] = {
        "exchanges": "all",
        "inverse": True,
        "collect": False,
        "ccxt_config": {name: exchange.ccxt_config(name) for name in VENUES},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "user_data").mkdir()
    return tmp_path


class Process:
    """Run the command, and gather what it prints."""

    def __init__(self, *words: str, terminal: bool = False) -> None:
        # Freqtrade leaves the logging alone where it sees pytest; the terminal tells its own size.
        without = ("PYTEST_VERSION", "COLUMNS", "LINES")
        env = {name: text for name, text in os.environ.items() if name not in without}
        self._bytes = b""
        self._began, self._first = time.monotonic(), 0.0
        ours, theirs = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 180, 0, 0))
        self.running = subprocess.Popen(
            [sys.executable, "-m", "liquidations", "collect", *words],
            env=env | {"TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._thread = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._thread.start()

    def _read(self, source: int) -> None:
        with os.fdopen(source, "rb", buffering=0) as file:
            try:
                while data := file.read(65_536):
                    self._first = self._first or time.monotonic()
                    self._bytes += data
            except OSError:  # so ends a terminal that nobody writes to any more
                return

    @property
    def said(self) -> str:
        return self._bytes.decode()

    def end(self, number: int, within: float = 2.0) -> int:
        """Send a signal and return the exit code; on a crowded machine it may take longer."""
        crowded = max(1.0, (self._first - self._began) / 3.0)
        began = time.monotonic()
        self.running.send_signal(number)
        code = self.running.wait(10)
        assert time.monotonic() - began < within * crowded
        self._thread.join(5)
        return code


@contextmanager
def collecting(*words: str, terminal: bool = False) -> Iterator[Process]:
    process = Process(*words, terminal=terminal)
    try:
        yield process
    finally:
        process.running.kill()
        process.running.wait()


def stored() -> dict[tuple[str, str], list]:
    """Return (side, amount, USD, time) of all events by exchange and pair."""
    with Store(DB_URL) as store, store.read() as reader:
        found = {}
        for series in reader.series():
            events = reader.events(series, 0, 2**62)
            rows = zip(
                (SIDES[side] for side in events.side), events.amount, events.value_usd,
                events.timestamp, strict=True,
            )  # fmt: skip
            found[series.exchange, series.pair] = list(rows)
        return found


def wait_live(process: Process, exchange: Loopback, number: int) -> None:
    exchange.wait(lambda: process.said.count("listening to") == number, 15)


def test_a_service_stores_both_sides_of_each_exchange_until_it_is_stopped(exchange, folder, capsys):
    with collecting("-c", "config.json", "-p", PAIR, "ETH/USDT:USDT", "NOTACOIN/USDT:USDT") as one:
        wait_live(one, exchange, 6)
        assert exchange.subscribed("bybit", "linear") == [
            "allLiquidation.BTCUSDT", "allLiquidation.ETHUSDT", "tickers.BTCUSDT",
        ]  # fmt: skip
        now = exchange.now()
        for (name, channel), (symbol, size, *_) in ORDERS.items():
            for side in SIDES:
                assert exchange.send(name, channel, BUILDERS[name](symbol, side, 50_000, size, now))
        wanted = {
            (name, pair): [(side, amount, usd, now) for side in SIDES]
            for (name, _), (_, _, pair, amount, usd) in ORDERS.items()
        }
        exchange.wait(lambda: sum(map(len, stored().values())) == 12)
        assert {key: sorted(rows) for key, rows in stored().items() if rows} == {
            key: [
                (side, pytest.approx(amount), pytest.approx(usd), at)
                for side, amount, usd, at in rows
            ]
            for key, rows in wanted.items()
        }
        assert run(["list-data"]) == 0
        listed = capsys.readouterr().out
        assert len(re.findall(r"│ (\w+) +│ \w+ +│ running", listed)) == 6
        # The second collector of a store is no harm, and no event is there twice.
        with collecting("-c", "config.json", "-p", PAIR, "--exchange", "okx") as other:
            wait_live(other, exchange, 1)
            frame = BUILDERS["okx"]("BTC-USDT-SWAP", "long", 50_000, 7, now + 1)
            assert exchange.send("okx", "swap", frame) == 2
            exchange.wait(lambda: len(stored()["okx", PAIR]) == 3)
            assert other.end(signal.SIGTERM) == 0
        assert "1 liquidations written" in other.said or "1 repeated" in other.said
        assert one.end(signal.SIGTERM) == 0
    assert len(stored()["okx", PAIR]) == 3
    assert "no contract of NOTACOIN on binance, bybit, okx, hyperliquid" in one.said
    assert re.search(r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - liquidations", one.said, re.M)
    assert "\x1b" not in one.said
    assert "Traceback" not in one.said
    assert run(["list-data"]) == 0
    # The second collector had a row of its own.
    assert len(re.findall(r"│ (\w+) +│ \w+ +│ stopped", capsys.readouterr().out)) == 7


def test_after_a_kill_it_goes_on_and_the_gap_has_a_reason(exchange, folder, capsys):
    words = ("-c", "config.json", "--exchange", "binance")
    symbol, size, *_ = ORDERS["binance", "linear"]
    send = lambda side, at: exchange.send(  # noqa: E731
        "binance", "linear", BUILDERS["binance"](symbol, side, 50_000, size, at)
    )
    end = exchange.now() - 300_000
    with Store(DB_URL, create=True) as store, store.write() as writer:
        feed = writer.feed("binance", "linear", "binance")
        writer.cover(feed, end - 60_000, end)
    with collecting(*words) as one:
        wait_live(one, exchange, 2)
        assert send("long", exchange.now()) == 1
        exchange.wait(lambda: stored().get(("binance", PAIR)))
        assert one.end(signal.SIGKILL) == -signal.SIGKILL
    with collecting(*words, terminal=True) as one:
        exchange.wait(lambda: send("short", exchange.now()), 15)
        exchange.wait(lambda: re.search("short 25,000 USD, .* s ago", one.said), 15)
        assert one.end(signal.SIGINT) == 0
    sides = [side for side, *_ in stored()["binance", PAIR]]
    assert sides[0] == "long"
    assert set(sides[1:]) == {"short"}
    assert "no JSON" not in one.said
    # The table was drawn, log lines above it, and the terminal shows its cursor again.
    for word in ("Last event", "binance linear", "sample", "live", "Ctrl+C stops", "stopped; "):
        assert word in one.said
    assert one.said.rfind("\x1b[?25h") > one.said.rfind("\x1b[?25l")
    with Store(DB_URL) as store, store.read() as reader:
        (start, _, reason), *_ = reader.gaps(feed)
        assert (start, reason) == (end, "start")
    assert run(["list-data", "--gaps"]) == 0
    printed = capsys.readouterr()
    assert "Live feeds" in printed.out
    assert re.search(r"Gap: binance linear 20.* \.\.\. 20.* \(start, 5\.\d min\)", printed.err)


def test_a_second_signal_ends_it_at_once(exchange, folder):
    """While it waits for a locked store, which is what can make its end take long."""
    with collecting("-c", "config.json", "--exchange", "binance") as one:
        wait_live(one, exchange, 2)
        with closing(sqlite3.connect("user_data/liquidations.sqlite")) as lock:
            lock.execute("BEGIN IMMEDIATE")
            symbol, size, *_ = ORDERS["binance", "linear"]
            frame = BUILDERS["binance"](symbol, "long", 50_000, size, exchange.now())
            assert exchange.send("binance", "linear", frame) == 1
            time.sleep(0.3)
            one.running.send_signal(signal.SIGTERM)
            exchange.wait(lambda: "what has come is written first" in one.said)
            assert one.end(signal.SIGINT, within=0.5) == 130


def test_without_a_terminal_the_status_is_logged(exchange, folder, caplog, monkeypatch):
    monkeypatch.setattr(collect, "STATUS", 0.5)
    monkeypatch.setattr(collect, "LOOK", 0.1)
    caplog.set_level("INFO", logger="liquidations")
    config = load_config({"config": ["config.json"]})
    settings = replace(read_settings(config), exchanges=("bybit",))
    collector = Collector(plan_of(config, settings))
    said = lambda: caplog.text  # noqa: E731

    async def session() -> None:
        running = asyncio.create_task(collector.run())
        with collect.Board(collector).in_log():
            await exchange.until(lambda: "bybit linear (all): live for" in said(), 10)
            frame = BUILDERS["bybit"]("BTCUSDT", "long", 50_000, 1, exchange.now())
            assert exchange.send("bybit", "linear", frame) == 1
            await exchange.until(lambda: "2 contracts, 1 liquidations, " in said())
            await exchange.until(lambda: "1 liquidations written, 0 late, 0 rep" in said())
            exchange.cut("bybit", "linear")
            await exchange.until(
                lambda: re.search("missing today, . problems, 1 reconnects", said())
            )
        collector.stop()
        await running

    asyncio.run(session())


BAD = {
    "wrong pair": (["-p", "BTC/USDT"], "'BTC/USDT' is not a perpetual"),
    "pattern": (["-p", ".*/USDT:USDT"], "take all contracts with --market"),
    "unknown exchange": (["--exchange", "binnance"], 'did you mean "binance"?'),
    "exclusive": (["--market", "-p", PAIR], "exclude each other"),
    "no database URL": (["--db-url", "liquidations.sqlite"], "a database URL"),
    "no folder": (["--db-url", "sqlite:///none/l.sqlite"], "the folder none does not exist"),
    "another file": (["--db-url", "sqlite:///config.json"], "this file is something else"),
    "simulated": (["--db-url", "sqlite:///simulated.sqlite"], "must never mix"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_not_begin_is_one_line_and_exit_code_2(case, folder, capsys):
    with Store("sqlite:///simulated.sqlite", create=True) as store, store.write() as writer:
        rows = events_of(("2024-01-01 01:10", "long", 1.0))
        writer.insert("binance", PAIR, "simulated", rows, spans(("2024-01-01", "2024-01-02")))
    words, message = BAD[case]
    assert run(["collect", "-c", "config.json", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ")
    assert message in line


def test_patterns_are_no_pairs(folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    config["exchange"]["pair_whitelist"] = [".*/USDT:USDT"]
    (folder / "config.json").write_text(json.dumps(config))
    assert run(["collect"]) == 2
    assert "no pair to collect; name some with -p" in capsys.readouterr().err
