"""The unmodified Freqtrade trades a simulated market in real time: what it saw, and how it ends.

Minutes pass as they do for a user, so all sessions of this file run side by side.
"""

import fcntl
import json
import math
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import parity
import pytest
from conftest import REPOSITORY


#: A secret that Freqtrade's API server accepts.
SECRET = "not-a-secret-" * 3

#: What a trade may take (s) from ``make dry-run`` on, and the end from Ctrl-C on: 2 s, and more on
#: a busy machine. Where a thread is left behind, it takes 20 s.
TRADE, END = 180, 10


@dataclass
class DryRun:
    """Hold ``make dry-run`` in a terminal of its own."""

    process: subprocess.Popen[bytes]
    terminal: int
    log: Path
    port: int
    began: float = field(default_factory=time.monotonic)
    started: float = field(default_factory=time.time)

    def ask(self, path: str, data: bytes | None = None) -> Any:
        """Ask Freqtrade's API; data make it a POST."""
        word = b64encode(f"user:{SECRET}".encode()).decode()
        request = Request(
            f"http://127.0.0.1:{self.port}/api/v1/{path}",
            data=data,
            headers={"Authorization": f"Basic {word}"},
        )
        with urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def wait(self, right: Callable[[], Any], what: str, seconds: float = TRADE) -> Any:
        """Wait for something until so many seconds after the start."""
        while time.monotonic() < self.began + seconds:
            assert self.process.poll() is None, self.printed()[-3000:]
            with suppress(OSError):  # the API isn't up yet
                if found := right():
                    return found
            time.sleep(0.5)
        pytest.fail(f"not within {seconds} s: {what}\n{self.printed()[-3000:]}")

    def printed(self) -> str:
        return self.log.read_text()

    def alive(self) -> bool:
        """Tell whether any process of the terminal is left."""
        self.process.poll()
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of ended ones
            return False
        return True


@contextmanager
def dry_run(log: Path) -> Iterator[DryRun]:
    """Type ``make dry-run`` into a terminal, with Freqtrade's API switched on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = {"enabled": "true", "listen_ip_address": "127.0.0.1", "listen_port": str(port)}
    server |= {"username": "user", "password": SECRET, "jwt_secret_key": SECRET, "ws_token": SECRET}
    env = {f"FREQTRADE__API_SERVER__{name.upper()}": value for name, value in server.items()}
    master, slave = os.openpty()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "dry-run"],
            cwd=REPOSITORY,
            env=os.environ | env | {"COLUMNS": "200"},
            stdin=slave,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    try:
        yield DryRun(process, master, log, port)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(slave)
        os.close(master)


@dataclass
class Sessions:
    dry: DryRun
    parities: dict[str, tuple[subprocess.Popen[str], Path]]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> Iterator[Sessions]:
    """Start a session with each fault, and ``make dry-run``."""
    with ExitStack() as opened:
        folder = tmp_path_factory.mktemp("sessions")
        parities = {}
        for fault in parity.SHORT:
            words = [sys.executable, parity.__file__, "--runs", "3", "--fault", fault]
            log = (folder / f"{fault}.log").open("w+")
            opened.enter_context(log)
            child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, text=True)
            opened.callback(end, child)
            parities[fault] = child, folder / f"{fault}.log"
        yield Sessions(opened.enter_context(dry_run(folder / "dry-run.log")), parities)


def end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()  # it kills its bot
    child.wait()


def listened(dry: DryRun) -> list[tuple[int, int]]:
    """Return the intervals (ms) in which the bot listened since the start."""
    file = REPOSITORY / "user_data/dry-run/liquidations.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        rows = connection.execute('SELECT start, "end" FROM liq_feed_coverage').fetchall()
    return sorted(row for row in rows if row[0] > 1000 * dry.started)


def length(spans: list[tuple[int, int]]) -> int:
    return spans[-1][1] - spans[0][0] if spans else 0


def test_dry_run_trades_reloads_and_ends(sessions):
    dry = sessions.dry
    dry.wait(lambda: "listening to 3 contracts" in dry.printed(), "the feed listens")
    dry.wait(lambda: dry.ask("ping"), "the API answers")
    dry.ask("reload_config", data=b"")
    dry.wait(lambda: "config reloaded" in dry.printed(), "the configuration is loaded again")
    (trade, *_) = dry.wait(lambda: dry.ask("status"), "a trade")
    dry.wait(lambda: length(listened(dry)) > 60_000, "a minute that was listened to")
    candles = dry.ask("pair_candles?pair=BTC/USDT:USDT&timeframe=1m&limit=2")
    last = dict(zip(candles["columns"], candles["data"][-1], strict=True))
    os.write(dry.terminal, b"\x03")
    pressed = time.monotonic()
    while dry.alive() and time.monotonic() < pressed + END:
        time.sleep(0.05)
    printed = dry.printed()
    assert not dry.alive(), printed[-3000:]
    print(f"ended {time.monotonic() - pressed:.1f} s after Ctrl-C")

    assert trade["pair"] in ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")
    for column in ("liq_long", "liq_short", "liq_total", "liq_coverage"):
        assert last[column] is not None, column  # the API writes NaN as null
        assert math.isfinite(last[column]), column
    # What a user sees of it: the columns of each pair's new candle.
    assert len(re.findall(r"SIMULATED \w+/USDT:USDT \S+ \S+: liq_long [\d,]+ USD", printed)) >= 3
    assert "signal found: about create a new trade" in printed
    for trouble in ("Traceback", " - ERROR - ", " - CRITICAL - "):
        assert trouble not in printed
    # One connection from the beginning to the end, over the reload.
    assert printed.count("listening to 3 contracts") == 1
    assert "reconnecting" not in printed
    spans = listened(dry)
    assert all(one[1] == other[0] for one, other in pairwise(spans))


@pytest.mark.parametrize("fault", parity.SHORT)
def test_a_backtest_gives_what_the_bot_was_given(sessions, fault):
    child, log = sessions.parities[fault]
    code = child.wait(300)
    printed = log.read_text()
    print(printed)
    assert code == 0, printed[-5000:]
    assert "are equal to the backtest's, to the bit" in printed


# --- the comparison itself ------------------------------------------------------------------------


def column(*values: float) -> pd.Series:
    return pd.Series(values, dtype=np.float64)


def test_the_comparison_sees_one_bit_and_an_unknown_zero():
    one = column(1.0, np.nan, 0.0, 0.1 + 0.2)
    assert not parity.different(one, one.copy()).any()
    other = column(np.nextafter(1.0, 2.0), 0.0, np.nan, 0.3)
    assert parity.different(one, other).all()
    assert parity.different(pd.Series([True, False]), pd.Series([True, True])).tolist() == [0, 1]
    assert parity.different(pd.Series([1, 2]), column(1.0, 2.0)).all()


def session_of(folder: Path, bot: pd.DataFrame, backtest: pd.DataFrame) -> parity.Session:
    session = parity.Session(folder, 0, [])
    session.frames.mkdir()
    bot.to_feather(session.frames / "BTC_USDT_USDT-dry_run-1.feather")
    backtest.to_feather(session.frames / "BTC_USDT_USDT-backtest-2.feather")
    return session


def test_a_difference_is_named_with_column_candle_and_both_values(tmp_path):
    dates = pd.date_range("2024-01-01", periods=300, freq="1min", tz="UTC")
    bot = pd.DataFrame({"date": dates, "liq_total": 1.0, "flip": 0.0})
    later = bot.copy()
    later.loc[10, "flip"] = 1.0  # looks back to before the frame: may differ
    later.loc[298, "liq_total"] = np.nan
    session = session_of(tmp_path, bot, later)
    assert parity.compare(session, "BTC/USDT:USDT") == {parity.opens_of(bot)[-1]: False}
    (problem,) = session.problems
    for part in ("04:58", "liq_total", "1.0", "nan"):
        assert part in problem


def test_a_backtest_without_a_candle_or_column_of_the_bot_is_no_parity(tmp_path):
    dates = pd.date_range("2024-01-01", periods=300, freq="1min", tz="UTC")
    bot = pd.DataFrame({"date": dates, "liq_total": 1.0})
    session = session_of(tmp_path, bot, bot[["date"]].iloc[:-1])
    parity.compare(session, "BTC/USDT:USDT")
    assert any("fewer candles" in problem for problem in session.problems)
    assert any("no column liq_total" in problem for problem in session.problems)
