"""The sandbox against its real customers: ccxt, and Freqtrade's own command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import aiohttp
import ccxt
import ccxt.pro
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import events_of, spans
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType
from hypothesis import given
from hypothesis import strategies as st

from liquidations import sandbox, sandbox_server
from liquidations.errors import LiquidationsError
from liquidations.event import Events, make_events
from liquidations.sandbox_stream import Fault, Stream, Tape, parse_fault
from liquidations.store import Store


BTC, SHIB = "BTC/USDT:USDT", "1000SHIB/USDT:USDT"
DAY, HOUR, MINUTE = 86_400_000, 3_600_000, 60_000
START = 1_722_470_400_000  # 2024-08-01 00:00 UTC
DAYS = 4
STRATEGY = """
import logging
from freqtrade.strategy import IStrategy


class Tiny(IStrategy):
    timeframe = "5m"
    minimal_roi = {"0": 0.01}
    stoploss = -0.1
    startup_candle_count = 20
    # A limit order would wait as long as the replayed price runs away from it.
    order_types = {"entry": "market", "exit": "market", "stoploss": "market",
                   "stoploss_on_exchange": False}

    def populate_indicators(self, dataframe, metadata):
        last = dataframe["date"].iloc[-1].timestamp() * 1000
        logging.getLogger("tiny").info(f"ANALYSED {metadata['pair']} {len(dataframe)} {last:.0f}")
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        dataframe["enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe
"""
CONFIG = {
    "max_open_trades": 2,
    "stake_currency": "USDT",
    "stake_amount": 100,
    "dry_run": False,  # the sandbox must overrule it
    "dry_run_wallet": 1000,
    "trading_mode": "futures",
    "margin_mode": "isolated",
    "initial_state": "running",
    "exchange": {"name": "binance", "pair_whitelist": [BTC, SHIB], "key": "k", "secret": "s"},
    "pairlists": [{"method": "StaticPairList"}],
    "entry_pricing": {"price_side": "other", "use_order_book": True, "order_book_top": 1},
    "exit_pricing": {"price_side": "other", "use_order_book": True, "order_book_top": 1},
    "internals": {"process_throttle_secs": 1},
}


def candles(price: float, step: int, days: float = DAYS) -> pd.DataFrame:
    """Make candles with a swing of 2 % per day; every value differs from its neighbours."""
    times = START + np.arange(0, round(days * DAY), step)
    path = price * (1 + 0.02 * np.sin(np.append(times, times[-1] + step) / DAY * 6.3))
    opened, closed = path[:-1], path[1:]
    return pd.DataFrame(
        {
            "date": pd.to_datetime(times, unit="ms", utc=True),
            "open": opened,
            "high": np.maximum(opened, closed) * 1.001,
            "low": np.minimum(opened, closed) * 0.999,
            "close": closed,
            "volume": 10.0 + np.arange(len(times)) % 7,
        }
    )


@pytest.fixture(scope="module")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a data folder as Freqtrade does: two pairs, one of them without mark and the like."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "futures").mkdir()
    handler = get_datahandler(folder, "feather")
    handler.ohlcv_store(BTC, "5m", candles(60_000, 5 * MINUTE), CandleType.FUTURES)
    handler.ohlcv_store(BTC, "1h", candles(60_000, HOUR), CandleType.FUTURES)
    handler.ohlcv_store(BTC, "1h", candles(61_000, HOUR), CandleType.MARK)
    handler.ohlcv_store(SHIB, "5m", candles(0.0173, 5 * MINUTE), CandleType.FUTURES)
    dates = pd.date_range("2024-08-01", periods=3 * DAYS, freq="8h", tz="UTC").as_unit("ms")
    funding = pd.DataFrame({"date": dates, "funding_rate": np.arange(len(dates)) / 1e5})
    handler.ohlcv_store(BTC, "1h", funding, CandleType.FUNDING_RATE)
    dates = pd.date_range("2024-08-01", periods=24 * DAYS, freq="1h", tz="UTC").as_unit("ms")
    held = pd.DataFrame({"date": dates, "open_interest_amount": 1000.0 + np.arange(len(dates))})
    held["open_interest_value"] = held["open_interest_amount"] * 60_000
    handler.ohlcv_store(BTC, "1h", held, CandleType.OPEN_INTEREST)
    return folder


def rows(frame: pd.DataFrame) -> list[list[float]]:
    """Give a frame in the shape in which ccxt gives candles."""
    times = frame["date"].dt.as_unit("ms").astype("int64")
    return [
        [t, *values] for t, values in zip(times, frame.iloc[:, 1:].values.tolist(), strict=True)
    ]


def client(port: int, library: Any = ccxt) -> Any:
    """Make ccxt's Binance as Freqtrade would from the overrides."""
    config = sandbox_server.freqtrade_overrides(port)["exchange"]["ccxt_config"]
    options = {**config["options"], "defaultType": "swap"}
    return library.binance({**config, "options": options, "enableRateLimit": False})


@pytest.fixture(scope="module")
def binance(datadir: Path) -> Iterator[Any]:
    """Connect ccxt to a running sandbox."""
    with sandbox_server.running(datadir) as port:
        exchange = client(port)
        exchange.load_markets()
        yield exchange
        exchange.session.close()


def freqtrade(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "freqtrade", *map(str, arguments)]


@contextmanager
def background(
    datadir: Path, command: list[str], log: Path, **settings: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `run_command` in a process of its own, as the command line does."""
    code = (
        "import json, sys; from pathlib import Path\n"
        "from liquidations.sandbox_server import run_command\n"
        "d, command, settings = json.loads(sys.argv[1])\n"
        "sys.exit(run_command(Path(d), command, **settings))"
    )
    package = str(Path(sandbox.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    arguments = json.dumps([str(datadir), command, settings])
    with (
        log.open("w") as out,
        subprocess.Popen(
            [sys.executable, "-c", code, arguments],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()  # a failed test must not wait for a bot that trades on


def wait_for(log: Path, text: str, process: Any, seconds: float = 60) -> None:
    """Wait until a log says something; fail with the log when it never does."""
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


# ---- what ccxt sees ----


def test_markets_carry_rules_that_fit_their_prices(binance: Any) -> None:
    assert set(binance.markets) == {BTC, SHIB}
    market, cheap = binance.market(BTC), binance.market(SHIB)
    assert market["swap"]
    assert market["linear"]
    assert market["active"]
    assert market["precision"]["price"] == 0.1
    assert market["precision"]["amount"] == 0.001
    assert cheap["precision"]["price"] == 1e-7
    assert cheap["precision"]["amount"] == 1
    assert market["limits"]["cost"]["min"] == 5


@pytest.mark.parametrize(("pair", "price"), [(BTC, 60_000), (SHIB, 0.0173)])
def test_pages_of_candles_are_exactly_the_written_ones(
    binance: Any, pair: str, price: float
) -> None:
    got: list[list[float]] = []
    while page := binance.fetch_ohlcv(
        pair, "5m", since=got[-1][0] + 1 if got else START, limit=499
    ):
        got += page
    assert got == rows(candles(price, 5 * MINUTE))


def test_start_end_and_limit_choose_as_on_binance(binance: Any) -> None:
    def times(**query: Any) -> list[int]:
        got = binance.fapiPublicGetKlines({"symbol": "BTCUSDT", "interval": "1h", **query})
        return [(int(row[0]) - START) // HOUR for row in got]

    last = DAYS * 24
    assert times(limit=3) == [last - 3, last - 2, last - 1]
    assert times(startTime=START + 1, limit=3) == [1, 2, 3]
    assert times(endTime=START + 9 * HOUR, limit=3) == [7, 8, 9]
    assert times(startTime=START, endTime=START + 2 * HOUR, limit=9) == [0, 1, 2]
    assert times(startTime=START, endTime=START + 20 * HOUR, limit=2) == [0, 1]
    assert times(startTime=START + 99 * DAY) == []
    assert times(startTime=0, limit=2) == [0, 1]


def test_mark_candles_are_their_own_where_there_are_any(binance: Any) -> None:
    mark = {"price": "mark"}
    stored = binance.fetch_ohlcv(BTC, "1h", since=START, limit=1000, params=mark)
    assert stored == rows(candles(61_000, HOUR))
    # 5m can't be made out of 1h marks, and SHIB has none: the last price stands in
    assert binance.fetch_ohlcv(BTC, "5m", START, 5, mark) == binance.fetch_ohlcv(
        BTC, "5m", START, 5
    )
    assert binance.fetch_ohlcv(SHIB, "1h", START, 5, mark) == binance.fetch_ohlcv(
        SHIB, "1h", START, 5
    )


def test_funding_and_open_interest_are_the_written_ones(binance: Any) -> None:
    rates = binance.fetch_funding_rate_history(BTC, since=START, limit=1000)
    assert [(r["timestamp"], r["fundingRate"]) for r in rates] == [
        (START + n * 8 * HOUR, n / 1e5) for n in range(3 * DAYS)
    ]
    held = binance.fetch_open_interest_history(BTC, "1h", since=START + HOUR, limit=3)
    assert [(h["timestamp"], h["openInterestAmount"], h["openInterestValue"]) for h in held] == [
        (START + n * HOUR, 1000.0 + n, (1000.0 + n) * 60_000) for n in (1, 2, 3)
    ]
    held = binance.fetch_open_interest_history(BTC, "4h", since=START, limit=3)
    assert [h["openInterestAmount"] for h in held] == [1000, 1004, 1008]  # at the start, no sums
    assert binance.fetch_funding_rate_history(SHIB, since=START) == []


def test_present_prices_agree_with_the_last_candle(binance: Any) -> None:
    last = rows(candles(60_000, 5 * MINUTE))[-288:]
    ticker, book = binance.fetch_tickers()[BTC], binance.fetch_order_book(BTC, limit=20)
    assert ticker["last"] == pytest.approx(last[-1][4], abs=0.1)
    assert ticker["high"] == pytest.approx(max(row[2] for row in last), abs=0.1)
    assert ticker["baseVolume"] == pytest.approx(sum(row[5] for row in last))
    assert len(book["bids"]) == len(book["asks"]) == 20
    assert book["bids"][0][0] < book["asks"][0][0] <= book["bids"][0][0] + 0.2
    assert abs(book["bids"][0][0] - ticker["last"]) <= 0.1
    assert binance.fetch_bids_asks([BTC])[BTC]["bid"] == book["bids"][0][0]
    assert binance.fetch_funding_rate(BTC)["markPrice"] == ticker["last"]
    assert abs(binance.fetch_time() - time.time() * 1000) < 5000


def test_refusals_have_binances_shape(binance: Any) -> None:
    klines = binance.fapiPublicGetKlines
    with pytest.raises(ccxt.BadSymbol):
        binance.fetch_ohlcv("NOPE/USDT:USDT", "5m")
    with pytest.raises(ccxt.BadSymbol, match="-1121"):
        klines({"symbol": "NOPEUSDT", "interval": "5m"})
    with pytest.raises(ccxt.BadRequest, match="-1120"):
        klines({"symbol": "BTCUSDT", "interval": "1m"})  # finer than anything on disk
    with pytest.raises(ccxt.BadRequest, match="-1120"):
        klines({"symbol": "BTCUSDT", "interval": "7m"})
    with pytest.raises(ccxt.BadRequest, match="-1102"):
        klines({"interval": "5m"})
    with pytest.raises(ccxt.BadRequest, match="-1130"):
        klines({"symbol": "BTCUSDT", "interval": "5m", "limit": 1501})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(binance.urls["api"]["fapiPrivate"] + "/order")
    with caught.value as answer:
        assert answer.status == 404
        assert json.load(answer)["code"] == -1


# ---- candles that are made ----


def test_coarser_candles_are_made_of_whole_ones_only(tmp_path: Path) -> None:
    hand = pd.DataFrame(
        [  # from 00:05: the first quarter lacks a candle, the last one too
            [5, 10.0, 11.0, 9.0, 10.5, 1.0],
            [10, 10.5, 12.0, 10.0, 11.0, 2.0],
            [15, 11.0, 11.5, 10.8, 11.2, 3.0],
            [20, 11.2, 15.0, 11.1, 14.0, 4.0],
            [25, 14.0, 14.1, 8.0, 9.0, 5.0],
            [30, 9.0, 9.5, 8.5, 9.1, 6.0],
        ],
        columns=["date", "open", "high", "low", "close", "volume"],
    )
    hand["date"] = pd.to_datetime(START + hand["date"] * MINUTE, unit="ms", utc=True)
    (tmp_path / "futures").mkdir()
    get_datahandler(tmp_path, "feather").ohlcv_store(BTC, "5m", hand, CandleType.FUTURES)
    query = {"symbol": "BTCUSDT", "interval": "15m"}
    _, got = sandbox.Sandbox(tmp_path).answer("/fapi/v1/klines", query)
    assert [[row[0], *map(float, row[1:6])] for row in got] == [
        [START + 15 * MINUTE, 11.0, 15.0, 8.0, 9.0, 12.0]
    ]


def test_weeks_begin_on_monday() -> None:
    monday = 1_722_816_000_000  # 2024-08-05
    assert sandbox.opening(np.array([monday - 1, monday, monday + 6 * DAY]), "1w").tolist() == [
        monday - 7 * DAY, monday, monday,
    ]  # fmt: skip


def test_hours_made_of_recorded_five_minutes_are_the_recorded_hours(recorded: Path) -> None:
    handler = get_datahandler(recorded / "data" / "candles", "feather")
    fine, hours = (
        handler.ohlcv_load(BTC, timeframe, CandleType.FUTURES, fill_missing=False)
        for timeframe in ("5m", "1h")
    )
    table = sandbox.Table(
        fine["date"].dt.as_unit("ms").astype("int64").to_numpy(),
        fine[sandbox.OHLCV].to_numpy(),
    )
    made = sandbox.resample(table, "5m", "1h")
    np.testing.assert_array_equal(made.times, hours["date"].dt.as_unit("ms").astype("int64"))
    np.testing.assert_allclose(made.values, hours[sandbox.OHLCV], rtol=1e-9)


# ---- the clock ----


@pytest.mark.parametrize("ahead", [12.0, 30.0])
def test_replay_shows_nothing_of_the_future_and_forming_candles_only_grow(
    datadir: Path, ahead: float
) -> None:
    now = (START + 700 * DAY + 17 * HOUR + 3) / 1000
    exchange = sandbox.Sandbox(datadir, replay=True, ahead_hours=ahead, clock=lambda: now)
    begun, end = now, START + DAYS * DAY + exchange.offset
    assert exchange.offset % DAY == 0
    assert ahead * HOUR <= end - exchange.time_ms() < ahead * HOUR + DAY
    finished = rows(candles(60_000, 5 * MINUTE))
    seen: dict[tuple[str, int], list[float]] = {}
    while now < begun + 4 * 3600:
        for timeframe in ("5m", "15m", "1h", "1d"):
            query = {"symbol": "BTCUSDT", "interval": timeframe, "limit": "3"}
            status, got = exchange.answer("/fapi/v1/klines", query)
            assert status == 200
            opened = [row[0] for row in got]
            length = sandbox.INTERVALS[timeframe]
            assert opened[-1] <= exchange.time_ms() < opened[-1] + length  # the forming candle
            assert np.diff(opened).tolist() == [length] * (len(got) - 1)
            o, h, low, close, volume = map(float, got[-1][1:6])
            before = seen.get((timeframe, opened[-1]), [o, h, low, close, volume])
            assert o == before[0]
            assert h >= before[1]
            assert low <= before[2]
            assert volume >= before[4]
            assert low <= close <= h
            seen[timeframe, opened[-1]] = [o, h, low, close, volume]
            # what the forming one has shown, the closed one still contains
            for row in got[:-1]:
                if shown := seen.get((timeframe, row[0])):
                    assert float(row[2]) >= shown[1]
                    assert float(row[3]) <= shown[2]
            if timeframe == "5m":
                whole = [[row[0] - exchange.offset, *map(float, row[1:6])] for row in got[:-1]]
                at = (whole[0][0] - START) // (5 * MINUTE)
                assert whole == finished[at : at + 2]
        for path, stamp in (
            ("/fapi/v1/fundingRate", "fundingTime"),
            ("/futures/data/openInterestHist", "timestamp"),
        ):
            _, got = exchange.answer(path, {"symbol": "BTCUSDT", "period": "1h"})
            assert got
            assert got[-1][stamp] <= exchange.time_ms()
        now += 67.3


def test_price_goes_through_the_candles_extremes() -> None:
    rising = np.array([10.0, 14.0, 8.0, 12.0, 30.0])
    assert sandbox.partial(rising, 0.0).tolist() == [10, 10, 10, 10, 0]
    assert sandbox.partial(rising, 1 / 3).tolist() == [10, 10, 8, 8, 10]
    np.testing.assert_allclose(sandbox.partial(rising, 0.5), [10, 11, 8, 11, 15])
    assert sandbox.partial(rising, 1.0).tolist() == rising.tolist()
    falling = np.array([12.0, 14.0, 8.0, 10.0, 30.0])
    assert sandbox.partial(falling, 1 / 3).tolist() == [12, 14, 12, 14, 10]


def test_replay_of_too_little_says_so(datadir: Path) -> None:
    with pytest.raises(LiquidationsError, match="Replay fewer hours"):
        sandbox.Sandbox(datadir, replay=True, ahead_hours=24 * DAYS)


# ---- the server and its commands ----


def test_only_loopback_is_bound_and_only_while_it_runs(datadir: Path) -> None:
    with sandbox_server.running(datadir) as port:
        bound = {
            connection.laddr.ip
            for connection in psutil.Process().net_connections("inet")
            if connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
        }
        assert bound == {"127.0.0.1"}
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
        pass


def test_port_in_use(datadir: Path) -> None:
    with (
        sandbox_server.running(datadir) as port,
        pytest.raises(LiquidationsError, match=rf"port {port} .* in use.*--port"),
        sandbox_server.running(datadir, port=port),
    ):
        pass


def test_nothing_to_serve(tmp_path: Path, datadir: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", datadir / "futures"):
        with pytest.raises(LiquidationsError, match="liquidations simulate"):
            sandbox.Sandbox(folder)
    with pytest.raises(
        LiquidationsError, match=r"DOGE/USDT:USDT .* it has 1000SHIB/USDT:USDT, BTC"
    ):
        sandbox.Sandbox(datadir, pairs=["DOGE/USDT:USDT", BTC])
    assert sandbox.Sandbox(datadir, pairs=[BTC]).pairs == [BTC]
    (tmp_path / "futures").mkdir()
    (tmp_path / "futures" / "BTC_USDT_USDT-5m-liquidations.feather").touch()
    with pytest.raises(LiquidationsError, match="move it away"):
        sandbox.Sandbox(tmp_path)


def test_commands_exit_codes_pass_through(datadir: Path, tmp_path: Path) -> None:
    for command in (["no-such-command", "x"], []):
        with pytest.raises(LiquidationsError, match="no such command"):
            sandbox_server.run_command(datadir, command)
    assert sandbox_server.run_command(datadir, [sys.executable, "-c", "raise SystemExit(7)"]) == 7
    log = tmp_path / "log"
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    with background(datadir, sleeper, log) as process:
        wait_for(log, "up", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


def test_environment_says_what_the_overrides_say(monkeypatch: pytest.MonkeyPatch) -> None:
    from freqtrade.configuration.environment_vars import environment_vars_to_dict

    for played in (False, True):
        for name, value in sandbox_server.environment(8911, played=played).items():
            monkeypatch.setenv(name, value)
        read = environment_vars_to_dict()
        assert read == sandbox_server.freqtrade_overrides(8911, played=played)
        # Only what is played is invented; a backtest of a recorded store is not.
        assert ("liquidations" in read) == played
    assert read["liquidations"] == {"simulated": True}


# ---- what it says over the websocket: planned ----


def due(events: Events, *faults: Fault) -> list[tuple[int, int]]:
    """Tell what a tape publishes, as seconds since START: (own time, due)."""
    tape = Tape({"BTCUSDT": events}, START, delay=0, faults=faults)
    pairs = zip(tape.events.timestamp.tolist(), tape.due.tolist(), strict=True)
    return [((at - START) // 1000, (when - START) // 1000) for at, when in pairs]


def each_second(count: int) -> Events:
    return events_of(*((START + 1000 * second, "long", 1.0) for second in range(count)))


def test_faults_by_hand() -> None:
    six = each_second(6)
    on_time = [(n, n) for n in range(6)]
    assert due(six) == on_time
    assert due(six, Fault("cut", 1, 2)) == on_time  # what is lost depends on who is connected
    assert due(six, Fault("silence", 1, 2)) == [(0, 0), (3, 3), (4, 4), (5, 5)]
    assert due(six, Fault("delay", 1, 2)) == [(0, 0), (1, 3), (2, 3), (3, 3), (4, 4), (5, 5)]
    # 1970 + START seconds; held back from 1 to 3, and those again, to 4
    chained = [Fault("delay", 2.5, 1.5), Fault("delay", START / 1000 + 1, 2)]
    assert due(six, *chained) == [(0, 0), (1, 4), (2, 4), (3, 4), (4, 4), (5, 5)]
    tape = Tape({}, START, faults=[Fault("cut", 1, 2), Fault("silence", 4, 1)])
    seconds = range(6)
    assert [tape.cut(START + 1000 * n, START + 1000 * n) for n in seconds] == [
        False, True, True, False, False, False
    ]  # fmt: skip
    assert tape.cut(START, START + 5000)  # over before anybody looked
    assert not tape.cut(START + 3000, START + 5000)
    assert [tape.silent(START + 1000 * n) for n in seconds] == [n == 4 for n in seconds]


@given(
    times=st.lists(st.integers(0, 40), max_size=20),
    faults=st.lists(
        st.tuples(st.sampled_from(["silence", "delay"]), st.integers(0, 40), st.integers(0, 20)),
        max_size=4,
    ),
)
def test_what_is_due_when_against_a_loop(
    times: list[int], faults: list[tuple[str, int, int]]
) -> None:
    expected = []
    for at in sorted(times):
        when = at
        for kind, begin, length in sorted(faults, key=lambda one: (one[1], one[1] + one[2])):
            if kind == "delay" and begin <= when < begin + length:
                when = begin + length
        if not any(k == "silence" and b <= when < b + n for k, b, n in faults):
            expected.append((at, when))
    events = events_of(*((START + 1000 * at, "short", 1.0) for at in times))
    got = due(events, *(Fault(*fault) for fault in faults))
    assert got == expected
    assert [when for _, when in got] == sorted(when for _, when in got)


def test_faults_as_they_are_typed() -> None:
    assert parse_fault("silence@90+30") == ("silence", 90, 30)
    for text in ("crash@1+2", "cut@1", "cut@-1+2", "cut@1+2s", "cut 1 2", ""):
        with pytest.raises(LiquidationsError, match=r"KIND@SECONDS\+LENGTH"):
            parse_fault(text)


def stream_of(events: dict[str, Events], *names: str, tail: str = "") -> Stream:
    tape = Tape(events, START, delay=0)
    stream = Stream(tape, lambda symbol, now: {"s": symbol, "E": now}, [*events], tail, START)
    if names:
        request = {"method": "SUBSCRIBE", "params": names, "id": 1}
        assert stream.answer(json.dumps(request)) == '{"result": null, "id": 1}'
    return stream


def test_requests_are_answered_as_by_binance() -> None:
    stream = stream_of({"BTCUSDT": each_second(1)}, tail="btcusdt@markPrice")

    def ask(method: str, **more: Any) -> Any:
        return json.loads(stream.answer(json.dumps({"method": method, "id": 7, **more})))

    assert ask("LIST_SUBSCRIPTIONS") == {"result": ["btcusdt@markPrice"], "id": 7}
    names = ["!forceOrder@arr", "btcusdt@forceOrder", "btcusdt@markPrice@1s"]
    assert ask("SUBSCRIBE", params=names) == {"result": None, "id": 7}
    assert ask("UNSUBSCRIBE", params=["btcusdt@markPrice", names[1]])["result"] is None
    assert ask("UNSUBSCRIBE", params=["btcusdt@markPrice"])["result"] is None
    assert ask("LIST_SUBSCRIPTIONS")["result"] == [names[0], names[2]]
    for answer in (
        ask("SUBSCRIBE", params=[names[1], "ethusdt@forceOrder"]),
        ask("SUBSCRIBE", params=["BTCUSDT@forceOrder"]),
        ask("SUBSCRIBE", params=names[0]),
        ask("SUBSCRIBE", params=[]),
        ask("SUBSCRIBE", params=[3]),
        ask("SUBSCRIBE"),
        ask("LOGIN"),
    ):
        assert answer["error"]["code"] == 2
        assert answer["error"]["msg"].startswith("Invalid request: ")
        assert answer["id"] == 7
    for text in ("no JSON", "[]", "3", '{"method": "SUBSCRIBE"}'):
        assert json.loads(stream.answer(text))["id"] is None
    assert ask("LIST_SUBSCRIPTIONS")["result"] == [names[0], names[2]]  # a refusal changes nothing


def test_orders_come_when_due_and_before_the_price_of_their_second() -> None:
    events = {
        "BTCUSDT": events_of((START, "long", 3.0), (START + 1500, "short", 4.0)),
        "SHIBUSDT": events_of((START + 500, "short", 5.0)),
    }
    btc = stream_of(events, "btcusdt@forceOrder", "shibusdt@markPrice@1s", "btcusdt@markPrice")
    whole = stream_of(events, "!forceOrder@arr", "btcusdt@forceOrder")

    def said(stream: Stream, offset: int) -> list[Any]:
        got = [json.loads(text) for text in stream.due(START + offset)]
        assert all(frame["E"] == START + offset for frame in got)
        return [(o["s"], o["S"], o["z"]) if (o := f.get("o")) else f["s"] for f in got]

    assert said(btc, 0) == [("BTCUSDT", "SELL", "3.0")]  # a long's closing sells
    assert said(btc, 999) == []
    assert said(btc, 1600) == [("BTCUSDT", "BUY", "4.0"), "SHIBUSDT"]
    assert said(btc, 1700) == []
    # A price is never made up for; of START, every third second is one of the slow stream.
    assert START % 3000 == 0
    assert said(btc, 9100) == ["SHIBUSDT", "BTCUSDT"]
    # Both streams name the order, and it comes once.
    assert said(whole, 2000) == [
        ("BTCUSDT", "SELL", "3.0"), ("SHIBUSDT", "BUY", "5.0"), ("BTCUSDT", "BUY", "4.0")
    ]  # fmt: skip


# ---- what it says over the websocket: real sockets ----


def stored(db_url: str, rows: dict[str, Events], source: str = "simulated") -> str:
    """Store events of binance, beside what must not be played."""
    everything = spans((0, START * 2))
    with Store(db_url, create=True) as store, store.write() as writer:
        for pair, events in rows.items():
            writer.insert("binance", pair, source, events, everything)
            writer.insert("okx", pair, source, events, everything)
        writer.insert("binance", "XRP/USDT:USDT", source, rows[BTC], everything)
    return db_url


def made(begin: int, count: int, step: int, seed: int) -> Events:
    """Make events with ragged prices and amounts, of both sides, some in one millisecond."""
    random = np.random.default_rng(seed)
    price, amount = random.lognormal(10, 0.1, count), random.lognormal(-3, 2, count)
    time = begin + np.arange(count) // 3 * 3 * step
    return make_events(time, random.integers(0, 2, count), price, amount, price * amount)


def orders_of(frames: list[Any]) -> dict[str, Events]:
    """Read frames by the documented fields alone."""
    found: dict[str, list[Any]] = {}
    for frame in frames:
        o = frame["o"]
        found.setdefault(o["s"], []).append(
            (o["T"], {"SELL": 0, "BUY": 1}[o["S"]], float(o["ap"]), float(o["z"]))
        )
    return {
        name: make_events(t, side, p, z, np.array(p) * np.array(z))
        for name, rows in found.items()
        for t, side, p, z in [zip(*rows, strict=True)]
    }


def same(got: Events, expected: Events) -> None:
    """Assert equality to the bit; the order within a millisecond is the store's own."""
    expected, got = (one.take(np.lexsort((one.key, one.timestamp))) for one in (expected, got))
    for name in ("timestamp", "side", "price", "amount", "value_usd", "key"):
        assert getattr(got, name).tobytes() == getattr(expected, name).tobytes(), name


async def watch(
    port: int, pairs: list[str], seconds: float, frames: list[tuple[float, Any]]
) -> None:
    """Listen with ccxt.pro, and keep what it received before it is parsed."""
    exchange = client(port, ccxt.pro)
    exchange.handle_liquidation = lambda _, frame: frames.append((time.time() * 1000, frame))
    await exchange.load_markets()
    waiting = asyncio.create_task(exchange.watch_liquidations_for_symbols(pairs))
    await asyncio.sleep(seconds)
    waiting.cancel()
    await exchange.close()
    await asyncio.gather(waiting, return_exceptions=True)


def test_ccxt_gets_every_order_once_in_order_and_at_its_time(datadir: Path, db_url: str) -> None:
    begin = int(time.time() * 1000) + 1200
    rows = {BTC: made(begin, 900, 2, seed=1), SHIB: made(begin + 1, 300, 6, seed=2)}
    played = {"BTCUSDT": rows[BTC], "1000SHIBUSDT": rows[SHIB]}
    everything: list[tuple[float, Any]] = []
    one_pair: list[tuple[float, Any]] = []
    leaves: list[tuple[float, Any]] = []

    async def session(port: int) -> None:
        await asyncio.gather(
            watch(port, [], 3, everything),
            watch(port, [SHIB], 3, one_pair),
            watch(port, [], 1.5, leaves),
        )

    exchange = sandbox.Sandbox(datadir, liquidations=stored(db_url, rows))
    with sandbox_server.serving(exchange) as port:
        asyncio.run(session(port))
    got = orders_of([frame for _, frame in everything])
    assert got.keys() == played.keys()
    for name, events in played.items():
        same(got[name], events)
    same(orders_of([frame for _, frame in one_pair])["1000SHIBUSDT"], rows[SHIB])
    assert len(everything) == 1200
    assert len(one_pair) == 300
    assert 0 < len(leaves) < 1200
    first = [frame["o"] for _, frame in everything[: len(leaves)]]
    assert [frame["o"] for _, frame in leaves] == first
    assert len(everything) + len(one_pair) + len(leaves) <= exchange.tape.sent
    times = [frame["o"]["T"] for _, frame in everything]
    assert times == sorted(times)
    late = np.array([at - frame["o"]["T"] for at, frame in everything])
    assert late.min() >= 20  # the push delay; and never before its time
    assert np.median(late) < 500


def test_what_was_before_is_never_said_and_a_replay_shifts(datadir: Path, db_url: str) -> None:
    now = (START + 700 * DAY + 17 * HOUR) / 1000
    rows = {BTC: made(START, 4 * 1440, MINUTE, seed=3)}
    stored(db_url, rows)
    exchange = sandbox.Sandbox(datadir, replay=True, clock=lambda: now, liquidations=db_url)
    past = exchange.time_ms() - exchange.offset
    first = rows[BTC].take(rows[BTC].timestamp >= past)
    assert 0 < len(first) < len(rows[BTC])
    stream = exchange.connect("!forceOrder@arr")
    assert list(stream.due(exchange.time_ms())) == []
    now += 3 * 3600
    frames = [json.loads(text) for text in stream.due(exchange.time_ms())]
    (got,) = orders_of(frames).values()
    expected = first.take(first.timestamp + 20 <= past + 3 * HOUR)
    assert got.timestamp.tolist() == (expected.timestamp + exchange.offset).tolist()
    assert sorted(got.key.tolist()) == sorted(expected.key.tolist())
    assert exchange.tape.sent == len(expected)


def test_of_two_sources_one_is_played(datadir: Path, db_url: str) -> None:
    rows = made(START, 30, 1000, seed=4)
    stored(db_url, {BTC: rows.take(slice(0, 9))}, "feed")
    stored(db_url, {BTC: rows}, "archive")
    exchange = sandbox.Sandbox(datadir, clock=lambda: START / 1000 - 1, liquidations=db_url)
    same(exchange.tape.events, rows)


def test_nothing_to_play(datadir: Path, db_url: str) -> None:
    with pytest.raises(LiquidationsError, match="there is no liquidation store"):
        sandbox.Sandbox(datadir, liquidations=db_url)
    stored(db_url, {BTC: each_second(3)})
    assert sandbox.Sandbox(datadir, liquidations=db_url, pairs=[BTC]).tape.symbols == ["BTCUSDT"]
    with pytest.raises(LiquidationsError, match=r"no single .* 1000SHIB/USDT:USDT.*--play"):
        sandbox.Sandbox(datadir, liquidations=db_url, pairs=[SHIB])


class Listener:
    """A client with its own eyes: what came when, and whether pings were answered."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, Any]] = []
        self.pongs: list[float] = []
        self.refused: list[float] = []
        self.gone: list[float] = []

    async def listen(self, port: int, until: float, path: str = "/market/ws/0") -> None:
        """Connect until it works, again and again; ping all the time."""
        async with aiohttp.ClientSession() as session:
            while time.time() < until:
                try:
                    connection = await session.ws_connect(
                        f"ws://127.0.0.1:{port}{path}", autoping=False
                    )
                except aiohttp.ClientError:
                    self.refused.append(time.time())
                    await asyncio.sleep(0.05)
                    continue
                names = ["!forceOrder@arr", "btcusdt@markPrice@1s"]
                await connection.send_json({"method": "SUBSCRIBE", "params": names, "id": 5})
                await self._talk(connection, until)

    async def _talk(self, connection: Any, until: float) -> None:
        while (left := until - time.time()) > 0:
            try:
                await connection.ping()
                message = await connection.receive(timeout=min(left, 0.1))
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if message.type == aiohttp.WSMsgType.TEXT:
                self.frames.append((time.time(), json.loads(message.data)))
            elif message.type == aiohttp.WSMsgType.PONG:
                self.pongs.append(time.time())
            else:
                break
        if left > 0:
            self.gone.append(time.time())
        await connection.close()


def within(times: list[float], begin: float, end: float) -> list[float]:
    return [at for at in times if begin <= at < end]


def test_faults_happen_as_planned(datadir: Path, db_url: str) -> None:
    # Seconds: an order every 0.1 s; delay from 0.6 to 1.4, silence 1.6 to 2.4, cut 2.8 to 3.4.
    zero = float(np.ceil(time.time() + 0.5))
    offsets = np.arange(44) * 100
    rows = events_of(*((int(zero * 1000) + n, "long", 1.0 + n) for n in offsets.tolist()))
    stored(db_url, {BTC: rows})
    faults = [
        Fault("delay", zero + 0.6, 0.8),
        Fault("silence", zero + 1.6, 0.8),
        Fault("cut", zero + 2.8, 0.6),
    ]
    ear = Listener()
    with sandbox_server.running(datadir, liquidations=db_url, push_delay=0, faults=faults) as port:
        asyncio.run(ear.listen(port, zero + 5))
    acknowledged = [at - zero for at, frame in ear.frames if "result" in frame]
    prices = [at - zero for at, frame in ear.frames if frame.get("e") == "markPriceUpdate"]
    orders = [
        (frame["o"]["T"] / 1000 - zero, at - zero)
        for at, frame in ear.frames
        if frame.get("e") == "forceOrder"
    ]
    came = {round(own, 3): at for own, at in orders}
    assert len(came) == len(orders)
    slack = 0.5  # a busy machine must not fail this
    for own in (offsets / 1000).round(3).tolist():
        if 1.6 <= own < 2.4:
            assert own not in came  # lost in the silence
        elif 0.6 <= own < 1.4:
            assert 1.4 <= came[own] < 1.4 + slack  # late
        elif own < 2.55 or own >= 3.4 + slack:
            assert own <= came[own] < own + slack
        elif 2.8 <= own < 3.4:
            assert own not in came  # nobody was connected
    assert within(prices, 1, 1 + slack)  # a price while orders are held back
    assert not within(prices, 1.8, 2.4)
    assert within(prices, 4, 4 + slack)
    pongs = [at - zero for at in ear.pongs]
    assert not within(pongs, 1.8, 2.4)
    assert within(pongs, 2.4, 2.8)
    refused = [at - zero for at in ear.refused]
    assert len(within(refused, 2.8, 3.4)) == len(refused) > 3
    (gone,) = (at - zero for at in ear.gone)
    assert 2.8 <= gone < 2.8 + slack
    assert len(acknowledged) == 2
    assert 3.4 <= acknowledged[1] < 3.4 + slack


@pytest.mark.parametrize(("silence", "code"), [(0.0, 1000), (9.0, 1006)])
def test_in_a_silence_not_even_a_closing_is_answered(
    datadir: Path, db_url: str, silence: float, code: int
) -> None:
    async def closing(port: int) -> int | None:
        patience = aiohttp.ClientWSTimeout(ws_close=0.3)
        async with aiohttp.ClientSession() as session:
            url = f"ws://127.0.0.1:{port}/ws"
            connection = await session.ws_connect(url, timeout=patience)
            await connection.close()
            return connection.close_code

    play = stored(db_url, {BTC: each_second(3)})
    faults = [Fault("silence", 0, silence)]
    with sandbox_server.running(datadir, liquidations=play, faults=faults) as port:
        assert asyncio.run(closing(port)) == code
        begun = time.monotonic()
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("path", ["/ws", "/market/ws/btcusdt@markPrice"])
def test_the_server_stops_at_once_whoever_listens(datadir: Path, path: str, db_url: str) -> None:
    async def deaf(port: int) -> tuple[Any, float]:
        async with aiohttp.ClientSession() as session:
            connection = await session.ws_connect(f"ws://127.0.0.1:{port}{path}")
            await connection.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
            answer = await connection.receive_json()
            running.set()
            await asyncio.sleep(0.6)  # it does not even hear the closing
            await connection.close()
            return answer, time.monotonic()

    with ThreadPoolExecutor() as pool:
        running = Event()
        play = stored(db_url, {BTC: each_second(3)})
        with sandbox_server.running(datadir, liquidations=play) as port:
            client = pool.submit(asyncio.run, deaf(port))
            assert running.wait(5)
            begun = time.monotonic()
        assert time.monotonic() - begun < 1
        answer, _ = client.result(5)
        named = [path[11:]] if "@" in path else []
        assert answer == {"result": named, "id": 1}


def test_no_websocket_unless_liquidations_are_played(datadir: Path, db_url: str) -> None:
    """A collector must never take it for an exchange on which nothing happens."""
    stored(db_url, {BTC: each_second(3)})
    handshake = {
        "Connection": "Upgrade", "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    for played, headers in ((None, handshake), (db_url, {})):
        with sandbox_server.running(datadir, liquidations=played) as port:
            for path in ("ws", "market/ws/0"):
                request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers=headers)
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(request)
                caught.value.close()
                assert caught.value.status == 404


# ---- what Freqtrade sees ----


@pytest.fixture
def bot(tmp_path: Path) -> Path:
    """Set up a user folder with a strategy and a config."""
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "tiny.py").write_text(STRATEGY)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_download_data_brings_home_the_same_candles(datadir: Path, bot: Path) -> None:
    arguments = ["-c", bot / "config.json", "--userdir", bot, "-d", bot / "got"]
    arguments += ["-t", "5m", "1h", "--timerange", "20240802-20240803"]
    code = sandbox_server.run_command(datadir, freqtrade("download-data", *arguments))
    assert code == 0
    source, got = get_datahandler(datadir, "feather"), get_datahandler(bot / "got", "feather")
    for pair, timeframe, kind in [
        (BTC, "5m", CandleType.FUTURES),
        (BTC, "1h", CandleType.MARK),
        (BTC, "1h", CandleType.FUNDING_RATE),
        (SHIB, "5m", CandleType.FUTURES),
    ]:
        fetched = got.ohlcv_load(pair, timeframe, kind, fill_missing=False)
        fetched = fetched[fetched["date"] < "2024-08-03"]
        written = source.ohlcv_load(pair, timeframe, kind, fill_missing=False)
        written = written[written["date"].between("2024-08-02", "2024-08-02 23:59")]
        pd.testing.assert_frame_equal(
            fetched.reset_index(drop=True), written.reset_index(drop=True), check_dtype=False
        )


def test_dry_run_trades_in_replay(datadir: Path, bot: Path) -> None:
    log = bot / "log"
    arguments = ["-c", bot / "config.json", "--userdir", bot, "-s", "Tiny", "--db-url", "sqlite://"]
    command = freqtrade("trade", *arguments)
    with background(datadir, command, log, replay=True) as process:
        wait_for(log, f"ANALYSED {SHIB}", process)
        wait_for(log, "'type': entry_fill", process)
        time.sleep(2)  # in the midst of its own transaction, Freqtrade would end with an error
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130  # Freqtrade's own code for SIGINT
    said = log.read_text()
    assert "ERROR" not in said, said
    assert "Traceback" not in said, said
    assert "Dry run is enabled" in said
    last = next(line for line in said.splitlines() if "ANALYSED" in line).split()[-1]
    assert -2 * 5 * MINUTE - 60_000 < int(last) - time.time() * 1000 < -5 * MINUTE
