"""What the monitor shows is what the columns say, and it never writes, waits or hides a failure."""

from __future__ import annotations

import fcntl
import io
import json
import math
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
from pathlib import Path

import numpy as np
import pytest
from conftest import events_of, utc
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_collector import (
    exchange,  # noqa: F401  (a fixture)
    plan,
    prompt,  # noqa: F401  (a fixture)
    running,
    send,
    until,
)
from test_rows import sessions, write

from liquidations.cli import run
from liquidations.commands.monitor import Watch, board
from liquidations.event import MINUTE
from liquidations.monitor import LEAST, Figures, Monitor
from liquidations.provider import LiquidationProvider
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.writer import Writer


BTC, ETH, SOL = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"
NOON = utc("2024-08-05 12:00")
#: Two minutes and a half into the candle of noon.
NOW = NOON + 150_000
HOUR = 60 * MINUTE


def tell(writer: Writer, exchange: str, start: int, end: int, **events) -> None:  # noqa: F811
    """Let a feed of BTC and ETH listen from start to end, in time: BTC=[(time, side, USD)]."""
    feed = writer.feed(exchange, "linear", exchange)
    writer.join(feed, [BTC, ETH], start)
    rows = {f"{base}/USDT:USDT": events_of(*own) for base, own in events.items()}
    feed, _ = writer.append(feed, rows, feed.sealed + MINUTE)
    feed = writer.cover(feed, start, end)
    writer.seal(feed, end // MINUTE * MINUTE, end)


def hour(side: str = "long", usd: float = 100.0) -> list[tuple[int, str, float]]:
    """Return one event for each candle of 5m of the hour before noon."""
    return [(NOON - HOUR + k * 5 * MINUTE + 1_000, side, usd) for k in range(12)]


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    """Return a store that two collectors write: Binance's feed publishes a sample, Bybit's too."""
    with Store(db_url, create=True) as one:
        with one.write() as writer:
            noon = [(NOON + 10_000, "long", 30.0), (NOON + 70_000, "short", 10.0)]
            tell(writer, "binance", NOON - HOUR, NOW - 500, BTC=[*hour(), *noon])
            more = [(NOON - 60_000, "short", 300.0), (NOON + 140_000, "short", 60.0)]
            tell(writer, "bybit", NOON - HOUR, NOW - 500, BTC=more)
        yield one


def monitor(db_url: str, *pairs: str, timeframe: str = "5m", **changed) -> Monitor:
    return Monitor(replace(Settings(db_url, ("binance", "bybit")), **changed), timeframe, pairs)


@contextmanager
def looking(db_url: str, *pairs: str, **changed) -> Iterator[Monitor]:
    made = monitor(db_url, *pairs, **changed)
    try:
        yield made
    finally:
        made.close()


def drawn(snapshot, width: int = 120, height: int | None = None, now: int = NOW, **more) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, highlight=False)
    console.print(board(snapshot, now, width, height, **more))
    return out.getvalue()


def numbers(figures: Figures) -> list[float]:
    names = ("long", "short", "total", "imbalance", "coverage")
    return [getattr(figures, name) for name in names]


def from_columns(settings_: Settings, pair: str, open_: int, timeframe: str) -> list[float]:
    """Return the same of the columns that a backtest reads now."""
    provider = LiquidationProvider(settings_.db_url)
    table, _ = provider.columns(pair, np.array([open_]), timeframe, settings_)
    provider.close()
    names = ("long", "short", "total", "imbalance", "coverage")
    return [float(table[f"liq_{name}"][0]) for name in names]


# --- the numbers ----------------------------------------------------------------------------------


def test_the_running_candle_so_far_and_the_closed_one_by_hand(store, db_url):
    with looking(db_url, BTC, ETH, SOL) as one:
        seen = one.look(NOW)
    btc, eth, sol = seen.pairs
    assert (btc.running.open, btc.running.close) == (NOON, NOON + 5 * MINUTE)
    assert numbers(btc.running) == [30.0, 70.0, 100.0, 0.3, 1.0]
    assert (btc.closed.open, btc.closed.close) == (NOON - 5 * MINUTE, NOON)
    assert numbers(btc.closed) == [100.0, 300.0, 400.0, 0.25, 1.0]
    # Eleven candles before had 100 each.
    assert btc.closed.times_normal == 4.0
    assert btc.running.times_normal == 1.0
    # Observed, and nothing happened: 0, and no ratio. Not observed: nothing at all.
    np.testing.assert_equal(numbers(eth.running), [0.0, 0.0, 0.0, math.nan, 1.0])
    np.testing.assert_equal(numbers(sol.running), [math.nan] * 4 + [0.0])
    np.testing.assert_equal(numbers(sol.closed), [math.nan] * 4 + [0.0])
    assert math.isnan(eth.running.times_normal)
    assert (btc.sampled, eth.sampled, sol.sampled) == (("binance", "bybit"),) * 2 + ((),)
    assert seen.sealed
    assert [(one.timestamp, one.exchange, one.side, one.value_usd) for one in seen.events[:3]] == [
        (NOON + 140_000, "bybit", "short", 60.0),
        (NOON + 70_000, "binance", "short", 10.0),
        (NOON + 10_000, "binance", "long", 30.0),
    ]


@settings(max_examples=10)
@given(sessions(), st.sampled_from(["1m", "5m"]))
def test_the_closed_candle_is_that_of_the_columns_whatever_came_when(
    tmp_path_factory, steps, frame
):
    db_url = f"sqlite:///{tmp_path_factory.mktemp('watched') / 'l.sqlite'}"
    pair = "BTC/USDT:USDT"
    with (
        Store(db_url, create=True) as store,
        looking(db_url, pair, timeframe=frame, exchanges=("okx",), min_coverage=0.1) as one,
    ):
        for step in steps:
            with store.write() as writer:
                write(writer, "swap", pair, [step])
            seen = one.look(step[0])
            closed = seen.pairs[0].closed
            expected = from_columns(one.settings, pair, closed.open, frame)
            np.testing.assert_equal(numbers(closed), expected)
            running_ = seen.pairs[0].running
            # Of the running one the columns know the volume too, where it counts as observed.
            columns = from_columns(
                replace(one.settings, min_coverage=0.0), pair, running_.open, frame
            )
            if not math.isnan(running_.total):
                assert numbers(running_)[:3] == columns[:3]


def test_what_comes_back_unsealed_after_a_long_time_is_seen(store, db_url):
    """A collector was gone for 20 minutes, sealed nothing, and now tells what it had missed."""
    later = NOON + 20 * MINUTE
    with looking(db_url, BTC, timeframe="15m", exchanges=("binance",)) as one:
        assert one.look(NOW).pairs[0].running.total == 40.0
        assert math.isnan(one.look(later).pairs[0].closed.total)
        with store.write() as writer:
            missed = [(NOON + 5 * MINUTE, "long", 7.0)]
            tell(writer, "binance", NOW - 500, later - 100, BTC=missed)
        assert one.look(later).pairs[0].closed.total == 47.0


def test_the_normal_is_unknown_where_too_few_candles_had_anything(store, db_url):
    with looking(db_url, BTC, timeframe="15m") as one:
        pair = one.look(NOW).pairs[0]
    assert LEAST > 3  # candles of 15m before the closed one
    assert math.isnan(pair.closed.normal)
    assert pair.closed.total == 600.0


def test_without_pairs_those_are_shown_that_the_feeds_tell(store, db_url):
    with looking(db_url) as one:
        assert [pair.name for pair in one.look(NOW).pairs] == [BTC, ETH]


# --- how the feeds are ----------------------------------------------------------------------------


def test_a_gap_makes_the_candle_unknown_and_is_told(store, db_url):
    with store.write() as writer:
        feed = writer.feed("bybit", "linear", "bybit")
        feed = writer.revoke(feed, NOON - 4 * MINUTE, NOON + 30_000)
        writer.gap(feed, NOON - 4 * MINUTE, NOON + 30_000, "silence")
        writer.seal(feed, feed.sealed, NOW)
    with looking(db_url, BTC, min_exchanges=2) as one:
        seen = one.look(NOW)
    assert math.isnan(seen.pairs[0].closed.total)
    assert math.isnan(seen.pairs[0].running.total)
    assert seen.pairs[0].closed.coverage == pytest.approx((1 + 0.2) / 2)
    bybit = seen.feeds[1]
    assert (bybit.gaps, bybit.missing, bybit.reason) == (1, 270_000, "silence")
    text = drawn(seen)
    assert re.search(r"bybit linear +all|bybit linear +sample", text)
    assert re.search(r"running .* 1 +4\.5 min +silence", text)
    assert re.search(r"BTC/USDT:USDT +·+ +- +- +- +- +- +- +60%", text)


def test_a_collector_that_is_gone_or_stopped_says_so_and_its_candle_becomes_unknown(store, db_url):
    with store.write() as writer:
        feed = writer.feed("bybit", "linear", "bybit")
        writer.seal(feed, feed.sealed, 0)
    with looking(db_url, BTC, exchanges=("binance", "bybit", "okx")) as one:
        soon, later = one.look(NOW + 10_000), one.look(NOW + 45_000)
    assert [feed.collector for feed in soon.feeds] == ["running", "stopped", "none"]
    assert [feed.collector for feed in later.feeds] == ["gone", "stopped", "none"]
    assert soon.pairs[0].running.total == 100.0
    # 150 of 195 s were told, and 15 s may still come: less than 90 %.
    assert math.isnan(later.pairs[0].running.total)
    text = drawn(later, now=NOW + 45_000)
    assert re.search(r"binance linear +\S+ +gone 45\.5 s +45\.5 s ago", text)
    assert re.search(r"okx +lower bound +none +- ", text)


def test_a_minute_that_is_not_sealed_yet_is_marked(store, db_url):
    close = NOON + 5 * MINUTE
    with store.write() as writer:
        tell(writer, "binance", NOW - 500, close - 10)
        tell(writer, "bybit", NOW - 500, close - 10)
    with looking(db_url, BTC) as one:
        early = one.look(close + 200)
        assert not early.sealed
        assert "closed 12:00-12:05, not complete yet" in drawn(early)
        with store.write() as writer:
            for name in ("binance", "bybit"):
                tell(writer, name, close - 10, close + 900)
        assert one.look(close + 1_000).sealed


def test_invented_liquidations_are_labelled_and_no_lower_bound(db_url):
    with Store(db_url, create=True) as store, store.write() as writer:
        feed = writer.feed("binance", "linear", "simulated")
        writer.join(feed, [BTC], NOON)
        feed, _ = writer.append(feed, {BTC: events_of((NOON + 1, "long", 5.0))}, 0)
        feed = writer.cover(feed, NOON, NOW)
        writer.seal(feed, NOON, NOW)
    with looking(db_url) as one:
        seen = one.look(NOW)
    text = drawn(seen)
    assert "SIMULATED" in text.splitlines()[0]
    assert "≥" not in text
    assert seen.as_dict()["simulated"] is True


# --- looking never writes, and goes on ------------------------------------------------------------


def test_looking_changes_nothing_in_the_store(store, db_url):
    path = db_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as other, looking(db_url, BTC, ETH) as one:
        version = other.execute("PRAGMA data_version").fetchone()
        for later in range(0, 600_000, 60_000):  # candles close, and nobody has sealed them
            one.look(NOW + later)
        assert other.execute("PRAGMA data_version").fetchone() == version


def test_a_locked_store_is_said_and_the_last_figures_stay(store, db_url):
    path = db_url.removeprefix("sqlite:///")
    with store.write() as writer, closing(sqlite3.connect(path)) as other:
        assert writer is not None
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")  # in which a writer locks readers out
        watch = Watch(monitor(f"{db_url}?timeout=0.1", BTC), 1.0)
        watch.look()
        assert watch.snapshot is not None
        before = watch.snapshot
        other.execute("BEGIN EXCLUSIVE")
        watch.look()
        assert watch.snapshot is before
        text = " ".join(drawn(before, problem=watch.trouble(before.time)).split())
        assert "database is locked; another process is writing to it" in text
        assert "the figures are those of" in text
        other.execute("ROLLBACK")
        watch.look()
        assert watch.problem == ""
        assert watch.snapshot is not before
        # One that does not even say that it is locked is missed after a while.
        assert watch.trouble(watch.snapshot.time + 2_900) == ""
        assert "does not answer" in watch.trouble(watch.snapshot.time + 3_100)
        watch.monitor.close()


def test_a_store_that_is_missing_or_replaced_is_read_as_soon_as_it_is_there(
    store, db_url, tmp_path
):
    path = Path(db_url.removeprefix("sqlite:///"))
    store.close()
    with looking(db_url, BTC) as one:
        watch = Watch(one, 1.0)
        assert one.look(NOW).pairs[0].closed.total == 400.0
        away = path.rename(tmp_path / "away.sqlite")
        watch.look()
        assert "there is no liquidation store" in watch.trouble(NOW)
        with Store(db_url, create=True) as other, other.write() as writer:
            tell(writer, "binance", NOON - HOUR, NOW, BTC=[(NOON - 1, "long", 9.0)])
        assert one.look(NOW).pairs[0].closed.total == 9.0
        away.rename(path)
        assert one.look(NOW).pairs[0].closed.total == 400.0


# --- what is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 16), (100, 30), (200, 60)])
def test_it_fits_the_terminal_and_shows_the_most_active_pairs(db_url, width, height):
    names = [f"C{number:02d}" for number in range(30)]
    with Store(db_url, create=True) as store, store.write() as writer:
        feed = writer.feed("binance", "linear", "binance")
        writer.join(feed, [f"{name}/USDT:USDT" for name in names], NOON - HOUR)
        rows = {
            f"{name}/USDT:USDT": events_of((NOON - 1_000, "long", 1_000_000.0 + at))
            for at, name in enumerate(names)
        }
        feed, _ = writer.append(feed, rows, 0)
        feed = writer.cover(feed, NOON - HOUR, NOW)
        writer.seal(feed, NOON, NOW)
    with looking(db_url, exchanges=("binance",)) as one:
        seen = one.look(NOW)
    lines = drawn(seen, width, height, problem="x" * 100).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    shown = [line[:3] for line in lines if re.match(r"C\d\d/", line)]
    assert shown == names[-len(shown) :]
    assert shown
    if len(shown) < 30:
        assert f"{len(shown)} of 30 pairs" in "\n".join(lines)
    if height >= 24:
        assert any("≥1,000,029" in line and "1.000" in line for line in lines)
        assert any("binance linear" in line for line in lines)


def test_before_the_first_look_it_says_what_it_does():
    assert "reading the store" in drawn(None)
    assert "no store" in drawn(None, problem="there is no store")


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user_data").mkdir()
    return tmp_path


def test_once_prints_a_snapshot_for_people_or_programs(store, db_url, folder, capsys):
    words = ["monitor", "--db-url", db_url, "--once", "-p", BTC, SOL, "--exchange", "binance,bybit"]
    assert run(words) == 0
    assert re.search(r"BTC/USDT:USDT .* - +- +- ", capsys.readouterr().out)
    assert run([*words, "--format", "json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert [pair["pair"] for pair in told["pairs"]] == [BTC, SOL]
    assert told["pairs"][1]["closed"]["total"] is None
    assert told["pairs"][1]["closed"]["coverage"] == 0.0
    assert {feed["collector"] for feed in told["feeds"]} == {"gone"}
    # Nobody named an exchange: all of them.
    assert run(["monitor", "--db-url", db_url, "--once", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["feeds"]) == 4


BAD = {
    "no store": (["--db-url", "sqlite:///none.sqlite"], "there is no liquidation store"),
    "wrong pair": (["-p", "BTC/USDT"], "'BTC/USDT' is not a perpetual"),
    "unknown exchange": (["--exchange", "binnance"], 'did you mean "binance"?'),
    "timeframe": (["-t", "30s"], "'30s' is not a timeframe"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_not_be_shown_once_is_one_line_and_exit_code_2(case, folder, capsys):
    words, message = BAD[case]
    assert run(["monitor", "--once", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ")
    assert message in line


def test_an_interval_of_nothing_is_refused(folder, capsys):
    with pytest.raises(SystemExit):
        run(["monitor", "--interval", "0"])
    assert "is not a number of seconds from 0.1 to 86400" in capsys.readouterr().err


class Process:
    """Run the command on a terminal of a size, or in a pipe, and gather what it prints."""

    def __init__(self, *words: str, size: tuple[int, int] | None = None) -> None:
        without = ("PYTEST_VERSION", "COLUMNS", "LINES")
        env = {name: text for name, text in os.environ.items() if name not in without}
        ours, self.theirs = pty.openpty() if size else os.pipe()
        if size:
            self.resize(*size)
        self._bytes = b""
        self.running = subprocess.Popen(
            [sys.executable, "-m", "liquidations", "monitor", *words],
            # The loopback feed has just begun, so it has observed little of its candle.
            env=env | {"TERM": "xterm", "FREQTRADE__LIQUIDATIONS__MIN_COVERAGE": "0.0001"},
            stdin=subprocess.DEVNULL,
            stdout=self.theirs,
            stderr=self.theirs,
        )
        threading.Thread(target=self._read, args=(ours,), daemon=True).start()

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self, source: int) -> None:
        with os.fdopen(source, "rb", buffering=0) as file:
            try:
                while data := file.read(65_536):
                    self._bytes += data
            except OSError:
                return

    @property
    def said(self) -> str:
        return self._bytes.decode(errors="replace")

    def screen(self) -> list[str]:
        """Return the lines of the last frame, without colours."""
        last = self.said.rsplit("\x1b[H", 1)[-1]
        return [line.rstrip("\r") for line in re.sub(r"\x1b\[[\d;?]*\w", "", last).split("\n")]


@contextmanager
def process(*words: str, size: tuple[int, int] | None = None) -> Iterator[Process]:
    made = Process(*words, size=size)
    try:
        yield made
    finally:
        made.running.kill()
        made.running.wait()
        os.close(made.theirs)


def test_it_shows_what_a_collector_stores_until_interrupted(
    exchange,  # noqa: F811
    prompt,  # noqa: F811
    db_url,
    folder,
):
    words = ["--db-url", db_url, "--exchange", "binance", "-p", BTC, "-t", "1h"]
    words += ["--interval", "0.3"]
    with (
        process(*words, size=(40, 120)) as shown,
        process(*words, "--format", "json") as printed,
    ):
        until(lambda: "there is no liquidation store" in shown.said, 60)
        until(lambda: "there is no liquidation store" in printed.said, 60)
        with running(plan(exchange, db_url, "binance", bases={"BTC"})):
            until(lambda: "binance linear" in shown.said, 10)
            send(exchange, "binance", "linear", "long", 50.0, exchange.now())
            until(lambda: any("BTC/USDT:USDT  long" in line for line in shown.screen()), 10)
            until(lambda: any(re.match("BTC.* ≥5,000 ", line) for line in shown.screen()), 10)
            until(lambda: '"value_usd": 5000.0' in printed.said, 10)
            shown.resize(24, 80)
            until(lambda: "bserved" not in "".join(shown.screen()), 10)
            until(lambda: max(map(len, shown.screen())) == 80, 10)
        for number, one in ((signal.SIGINT, shown), (signal.SIGTERM, printed)):
            began = time.monotonic()
            one.running.send_signal(number)
            assert one.running.wait(10) == 0
            assert time.monotonic() - began < 5
    # The terminal is as it was: the other screen is left, the cursor shown.
    until(lambda: "\x1b[?1049l" in shown.said)
    assert shown.said.rfind("\x1b[?25h") > shown.said.rfind("\x1b[?25l")
    for one in (shown, printed):
        assert "Traceback" not in one.said
    line = [line for line in printed.said.splitlines() if line.startswith("{")][-1]
    pair = json.loads(line)["pairs"][0]
    assert 5000.0 in (pair["running"]["long"], pair["closed"]["long"])  # an hour may have ended
