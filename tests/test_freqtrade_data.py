"""Freqtrade's own files: read and written by its own handlers, its lines by its own parser."""

import errno
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from copy import deepcopy
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, utc
from freqtrade.commands.arguments import Arguments
from freqtrade.configuration import TimeRange
from freqtrade.data.history import get_datahandler, load_pair_history
from freqtrade.enums import CandleType, RunMode
from freqtrade.optimize.optimize_reports import store_backtest_results
from freqtrade.resolvers import StrategyResolver
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidations import freqtrade_data
from liquidations.archives import ARCHIVES, FUNDING_RATE, OPEN_INTEREST, Context
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE
from liquidations.freqtrade_data import (
    Missing,
    Stored,
    commands,
    download,
    known_times,
    missing,
    store_context,
)
from liquidations.sandbox_server import environment, running


PAIR = "BTC/USDT:USDT"
HOUR = 60 * MINUTE
AMOUNT, VALUE = "open_interest_amount", "open_interest_value"
FORMATS = ["feather", "parquet", "json", "jsongz"]
NAN = np.nan


def config_of(datadir: Path, exchange: str = "binance", data_format: str = "feather") -> dict:
    return {"exchange": {"name": exchange}, "datadir": datadir, "dataformat_ohlcv": data_format}


def load(config: dict, kind: str, timeframe: str = "1h", pair: str = PAIR) -> pd.DataFrame:
    """Load a file as Freqtrade does."""
    return load_pair_history(
        pair, timeframe, config["datadir"], fill_up_missing=False,
        data_format=config["dataformat_ohlcv"], candle_type=CandleType(kind),
    )  # fmt: skip


def save(config: dict, kind: str, frame: pd.DataFrame, timeframe: str = "1h") -> None:
    handler = get_datahandler(Path(config["datadir"]), config["dataformat_ohlcv"])
    handler.ohlcv_store(PAIR, timeframe, frame, CandleType(kind))


def dated(times: list[str] | list[int], **columns: list[float]) -> pd.DataFrame:
    ms = [utc(at) if isinstance(at, str) else at for at in times]
    dates = pd.to_datetime(np.array(ms, np.int64), unit="ms", utc=True)
    return pd.DataFrame({"date": dates.as_unit("ms"), **columns})


def context(
    frame: pd.DataFrame,
    *columns: str,
    period: int = HOUR,
    source: str = "coinalyze",
    exchange: str = "binance",
) -> Context:
    """Make what a source's module gives of a frame of Freqtrade's: all of its columns, or some."""
    columns = columns or tuple(name for name in frame if name not in ("date", "open"))
    kind = FUNDING_RATE if FUNDING_RATE in columns else OPEN_INTEREST
    time = frame["date"].to_numpy(dtype="datetime64[ms]").astype(np.int64)
    values = {name: frame[name].to_numpy(np.float64) for name in columns}
    return Context(kind, exchange, PAIR, source, period, time, values)


@pytest.fixture
def candles(recorded, tmp_path) -> dict:
    """Copy the recorded candles, open interest and funding, and return their configuration."""
    shutil.copytree(recorded / "data" / "candles", tmp_path / "data", copy_function=shutil.copyfile)
    (tmp_path / "data").chmod(0o755)
    (tmp_path / "data" / "futures").chmod(0o755)
    return config_of(tmp_path / "data")


# --- what a source adds --------------------------------------------------------------------------


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("kind", [OPEN_INTEREST, FUNDING_RATE])
def test_a_source_puts_back_what_was_taken_out(candles, tmp_path, kind, data_format):
    whole = load(candles, kind)
    config = config_of(tmp_path / "other", data_format=data_format)
    (tmp_path / "other" / "futures").mkdir(parents=True)
    save(config, kind, pd.concat([whole[40:90], whole[100:200]]))
    (done,) = store_context(config, [context(whole)])
    missed = len(whole) - 150
    assert done == Stored(kind, "binance", PAIR, "1h", new=missed)
    pd.testing.assert_frame_equal(load(config, kind), whole, rtol=1e-9)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["futures"]
    (written,) = (tmp_path / "other" / "futures").iterdir()
    before = written.read_bytes(), written.stat().st_mtime_ns
    # Once more: all is known, and the file stays untouched.
    assert store_context(config, [context(whole)]) == [Stored(kind, "binance", PAIR, "1h")]
    assert (written.read_bytes(), written.stat().st_mtime_ns) == before


def test_the_file_is_the_one_that_freqtrade_writes(candles, tmp_path):
    whole = load(candles, OPEN_INTEREST)
    config = config_of(tmp_path / "other")
    store_context(config, [context(whole, VALUE), context(whole, AMOUNT)])
    name = "futures/BTC_USDT_USDT-1h-open_interest.feather"
    assert (tmp_path / "other" / name).exists()
    mine, own = (pd.read_feather(Path(one["datadir"]) / name) for one in (config, candles))
    pd.testing.assert_frame_equal(mine, own, check_exact=True)


def test_freqtrades_rows_stay_and_what_they_lack_is_filled(tmp_path):
    config = config_of(tmp_path, "bybit")
    (tmp_path / "futures").mkdir()
    hours = ["2024-08-05 02:00", "2024-08-05 03:00", "2024-08-05 05:00"]
    # As Bybit's: the amount only.
    save(config, OPEN_INTEREST, dated(hours, **{AMOUNT: [10.0, 11.0, 13.0], VALUE: [NAN] * 3}))
    hours = ["2024-08-05 03:00", "2024-08-05 04:00", "2024-08-05 05:00", "2024-08-05 06:00"]
    told = dated(hours, **{AMOUNT: [99.0, 12.0, 98.0, NAN], VALUE: [5.0, 6.0, NAN, NAN]})
    (done,) = store_context(config, [context(told, exchange="bybit")])
    assert done == Stored(OPEN_INTEREST, "bybit", PAIR, "1h", new=1, filled=1)
    got = load(config, OPEN_INTEREST)
    assert got[AMOUNT].tolist() == [10, 11, 12, 13]
    assert got[VALUE].fillna(-1).tolist() == [-1, 5, 6, -1]
    assert got["date"].dt.hour.tolist() == [2, 3, 4, 5]


def test_rows_of_five_minutes_serve_the_hour_with_their_value_on_the_hour(tmp_path):
    config = config_of(tmp_path)
    times = list(range(utc("2024-08-05 00:50"), utc("2024-08-05 02:10"), 5 * MINUTE))
    rows = dated(times, **{AMOUNT: np.arange(16.0), VALUE: np.arange(16.0) * 10})
    fine, hour = store_context(config, [context(rows, period=5 * MINUTE)])
    assert (fine.timeframe, fine.new, hour.timeframe, hour.new) == ("5m", 16, "1h", 2)
    assert not fine.passed
    assert not hour.passed
    # 00:50 is 0, 00:55 is 1, 01:00 is 2 … 02:00 is 14: neither a mean nor what came after.
    got = load(config, OPEN_INTEREST)
    assert got["date"].dt.strftime("%H:%M").tolist() == ["01:00", "02:00"]
    assert got[AMOUNT].tolist() == [2, 14]
    pd.testing.assert_frame_equal(load(config, OPEN_INTEREST, "5m"), rows)


def test_the_coarser_one_of_two_sources_is_taken_and_no_source_twice(tmp_path):
    config = config_of(tmp_path)
    hour = dated(["2024-08-05 01:00"], **{AMOUNT: [7.0], VALUE: [NAN]})
    fine = dated(["2024-08-05 01:00"], **{AMOUNT: [8.0], VALUE: [80.0]})
    named = [
        context(fine, period=5 * MINUTE, source="binance_vision"),
        context(hour, source="coinalyze"),
        context(hour.assign(**{AMOUNT: 9.0}), source="plain"),
    ]
    store_context(config, named)
    assert load(config, OPEN_INTEREST)[[AMOUNT, VALUE]].to_numpy().tolist() == [[7, 80]]


def test_times_are_those_of_freqtrade_to_the_minute_and_others_are_left_out(tmp_path):
    config = config_of(tmp_path)
    times = ["2024-08-05 01:00:02.123", "2024-08-05 01:30", "2024-08-05 02:00"]
    (done,) = store_context(config, [context(dated(times, **{AMOUNT: [1.0, 2.0, 3.0]}))])
    assert (done.new, done.passed) == (2, 1)
    assert "start of 1h" in done.reason
    got = load(config, OPEN_INTEREST)
    assert got["date"].dt.strftime("%H:%M:%S").tolist() == ["01:00:00", "02:00:00"]
    assert got[AMOUNT].tolist() == [1, 3]


def test_what_is_of_another_exchange_is_passed_over(tmp_path):
    config = config_of(tmp_path)
    rows = dated(["2024-08-05 01:00"], **{AMOUNT: [1.0]})
    (done,) = store_context(config, [context(rows, exchange="okx")])
    assert (done.exchange, done.new, done.passed) == ("okx", 0, 1)
    assert "data of binance" in done.reason
    assert not list(tmp_path.iterdir())
    with pytest.raises(LiquidationsError, match="name an exchange"):
        store_context({"datadir": tmp_path}, [])


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_file_that_cannot_be_read_is_left_alone(tmp_path, data_format):
    config = config_of(tmp_path, data_format=data_format)
    rows = context(dated(["2024-08-05 01:00"], **{AMOUNT: [1.0]}))
    store_context(config, [rows])
    (path,) = (tmp_path / "futures").iterdir()
    broken = path.read_bytes()[:-9]
    path.write_bytes(broken)
    (done,) = store_context(config, [rows])
    assert (done.new, done.passed) == (0, 1)
    assert str(path) in done.reason
    assert path.read_bytes() == broken
    with pytest.raises(LiquidationsError, match="--erase"):
        missing(config, [PAIR], [], 0, DAY)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    rows = context(dated(["2024-08-05 01:00"], **{AMOUNT: [1.0]}))
    store_context(config, [rows])
    (path,) = (tmp_path / "futures").iterdir()
    before = path.read_bytes()
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(freqtrade_data, "TemporaryDirectory", Mock(side_effect=full))
    other = context(dated(["2024-08-05 02:00"], **{AMOUNT: [1.0]}))
    with pytest.raises(LiquidationsError, match=r"1h-open_interest.*No space left on device"):
        store_context(config, [other])
    assert path.read_bytes() == before
    monkeypatch.undo()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "futures").write_text("a file in place of a folder")
    with pytest.raises(LiquidationsError, match="can't be written"):
        store_context(config_of(tmp_path / "other"), [rows])


@pytest.mark.parametrize("data_format", FORMATS)
def test_what_is_known_is_what_has_all_of_its_columns(tmp_path, data_format):
    config = config_of(tmp_path, data_format=data_format)
    nothing = known_times(config, OPEN_INTEREST, "binance", PAIR, HOUR)
    assert nothing.shape == (0, 2)
    (tmp_path / "futures").mkdir()
    hours = [f"2024-08-05 0{hour}:00" for hour in (1, 2, 3, 5, 6)]
    values = {AMOUNT: [1.0, 2.0, 3.0, 5.0, 6.0], VALUE: [1.0, 2.0, 3.0, NAN, 6.0]}
    save(config, OPEN_INTEREST, dated(hours, **values))
    found = known_times(config, OPEN_INTEREST, "binance", PAIR, HOUR).tolist()
    assert found == [
        [utc("2024-08-05 01:00"), utc("2024-08-05 04:00")],
        [utc("2024-08-05 06:00"), utc("2024-08-05 07:00")],
    ]
    assert len(known_times(config, OPEN_INTEREST, "okx", PAIR, HOUR)) == 0
    # Of an inverse contract not every source tells the amount.
    handler = get_datahandler(tmp_path, data_format)
    frame = dated(hours[:2], **{AMOUNT: [NAN, NAN], VALUE: [1.0, 2.0]})
    handler.ohlcv_store("BTC/USD:BTC", "1h", frame, CandleType(OPEN_INTEREST))
    found = known_times(config, OPEN_INTEREST, "binance", "BTC/USD:BTC", HOUR).tolist()
    assert found == [[utc("2024-08-05 01:00"), utc("2024-08-05 03:00")]]


@pytest.mark.parametrize("data_format", FORMATS)
def test_an_empty_file_as_freqtrade_leaves_it_is_filled(tmp_path, data_format):
    config = config_of(tmp_path, data_format=data_format)
    (tmp_path / "futures").mkdir()
    handler = get_datahandler(tmp_path, data_format)
    rows = dated(["2024-08-05 01:00"], **{AMOUNT: [1.0], VALUE: [NAN]})
    handler.ohlcv_store(PAIR, "1h", rows[:0], CandleType.OPEN_INTEREST)
    (done,) = store_context(config, [context(rows)])
    assert done.new == 1
    assert load(config, OPEN_INTEREST)[AMOUNT].tolist() == [1]


def times_of(frame: pd.DataFrame) -> list[str]:
    return frame["date"].dt.strftime("%d %H").tolist()


def test_only_funding_in_step_with_freqtrades_own_is_taken(tmp_path):
    config = config_of(tmp_path)
    (tmp_path / "futures").mkdir()
    # Settled at 00, 08 and 16, but not downloaded from the 3rd to the 4th at 08.
    own = ["2024-08-02 08:00", "2024-08-02 16:00", "2024-08-04 08:00", "2024-08-04 16:00"]
    save(config, FUNDING_RATE, dated(own, funding_rate=[1e-4] * 4))
    hours = list(range(utc("2024-08-02"), utc("2024-08-05 01:00"), HOUR))
    rates = dated(hours, funding_rate=np.arange(73.0))
    (done,) = store_context(config, [context(rates)])
    got = load(config, FUNDING_RATE)
    new = ["02 00", "03 00", "03 08", "03 16", "04 00", "05 00"]
    assert times_of(got) == sorted([*new, "02 08", "02 16", "04 08", "04 16"])
    assert dict(zip(times_of(got), got["funding_rate"], strict=True))["03 08"] == 32
    assert (done.new, done.passed) == (6, 73 - 10)
    assert "settled" in done.reason


def test_funding_whose_rhythm_is_not_known_is_passed_over(tmp_path):
    hours = list(range(utc("2024-08-02"), utc("2024-08-03"), HOUR))
    rates = dated(hours, funding_rate=np.arange(24.0))
    (done,) = store_context(config_of(tmp_path), [context(rates)])
    assert (done.new, done.passed) == (0, 24)
    assert not list(tmp_path.iterdir())
    config = config_of(tmp_path, "hyperliquid")
    (done,) = store_context(config, [context(rates, exchange="hyperliquid")])
    assert (done.new, done.passed) == (24, 0)


def test_a_settlement_that_freqtrade_does_not_know_is_not_invented(tmp_path):
    """A contract that settled every 8 hours and every 4 since: its older days stay as they are."""
    config = config_of(tmp_path)
    (tmp_path / "futures").mkdir()
    slow = list(range(utc("2024-08-01"), utc("2024-08-03"), 8 * HOUR))
    fast = list(range(utc("2024-08-03"), utc("2024-08-06"), 4 * HOUR))
    own = dated(slow + fast, funding_rate=[1e-4] * 24)
    save(config, FUNDING_RATE, own)
    hours = list(range(utc("2024-08-01"), utc("2024-08-06"), HOUR))
    (done,) = store_context(config, [context(dated(hours, funding_rate=[1.0] * 120))])
    assert done.new == 0
    assert times_of(load(config, FUNDING_RATE)) == times_of(own)


rows_of = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([NAN, 1.0]), st.sampled_from([NAN, 1.0])),
    max_size=30,
    unique_by=lambda row: row[0],
)


@settings(max_examples=25)
@given(rows_of, rows_of, st.lists(st.integers(0, 3), min_size=80, max_size=80), st.randoms())
def test_any_split_and_order_gives_the_same_file(tmp_path_factory, own, told, parts, random):
    """Compare with the definition, cell by cell: Freqtrade's value, else the source's."""
    config = config_of(tmp_path_factory.mktemp("data"))
    (config["datadir"] / "futures").mkdir()
    start = utc("2024-08-05")

    def frame(rows: list, scale: float) -> pd.DataFrame:
        rows = sorted(rows)
        times = [start + row[0] * HOUR for row in rows]
        amounts, values = ([row[k] * (scale + row[0]) for row in rows] for k in (1, 2))
        return dated(times, **{AMOUNT: amounts, VALUE: values})

    known = {}
    if own:
        save(config, OPEN_INTEREST, frame(own, 100))
    for hour, *cells in own:
        known[hour] = [cell * (100 + hour) for cell in cells]
    for hour, *cells in told:
        if not np.isnan(cells).all():
            row = known.setdefault(hour, [NAN, NAN])
            both = zip(row, cells, strict=True)
            known[hour] = [mine if mine == mine else cell * (500 + hour) for mine, cell in both]
    pieces = []
    if told:
        whole = frame(told, 500)
        for k, column in enumerate((AMOUNT, VALUE)):
            chosen = np.array(parts[40 * k : 40 * k + len(whole)])
            pieces += [context(whole[chosen == n], column) for n in range(4) if n in chosen]
    random.shuffle(pieces)
    together = random.randrange(len(pieces) + 1)
    store_context(config, pieces[:together])
    for piece in pieces[together:]:
        store_context(config, [piece])
    if not known:
        assert load(config, OPEN_INTEREST).empty
        return
    got = load(config, OPEN_INTEREST)
    hours = [start + hour * HOUR for hour in sorted(known)]
    expected = np.array([known[hour] for hour in sorted(known)])
    assert got["date"].astype("int64").tolist() == hours
    np.testing.assert_array_equal(got[[AMOUNT, VALUE]].to_numpy(), expected)


@settings(max_examples=12)
@given(st.integers(1, 6), st.lists(st.integers(0, 3), min_size=121, max_size=121), st.randoms())
def test_funding_in_any_split_and_order_gives_the_same_file(tmp_path_factory, first, parts, random):
    config = config_of(tmp_path_factory.mktemp("data"))
    (config["datadir"] / "futures").mkdir()
    start = utc("2024-08-05")
    settled = [start + k * 8 * HOUR for k in range(16)]
    # Freqtrade has two rows in a row, and one further on.
    own = [settled[first], settled[first + 1], settled[first + 5]]
    save(config, FUNDING_RATE, dated(own, funding_rate=[1.0] * 3))
    rates = dated([start + k * HOUR for k in range(121)], funding_rate=[2.0] * 121)
    chosen = np.array(parts)
    pieces = [context(rates[chosen == n]) for n in range(4) if n in chosen]
    random.shuffle(pieces)
    for piece in pieces:
        store_context(config, [piece])
    got = load(config, FUNDING_RATE)
    assert got["date"].astype("int64").tolist() == settled
    assert got["funding_rate"].tolist() == [1.0 if at in own else 2.0 for at in settled]


KILLED = """
import sys
import numpy as np
from liquidations.archives import Context
from liquidations.freqtrade_data import store_context

config = {"exchange": {"name": "binance"}, "datadir": sys.argv[1]}
for rows in range(1, 10_000):
    time = np.arange(rows * 500) * 3_600_000
    amount = {"open_interest_amount": np.ones(rows * 500)}
    store_context(config, [Context(
        "open_interest", "binance", "BTC/USDT:USDT", "plain", 3_600_000, time, amount
    )])
    print(rows, flush=True)
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "20\n":
                process.kill()
                break
    got = load(config_of(tmp_path), OPEN_INTEREST)
    assert len(got) >= 20 * 500
    assert len(got) % 500 == 0


# --- what is missing ----------------------------------------------------------------------------

NOW = utc("2024-08-25")


def lacks(config: dict, start: str, end: str, timeframes=("1h",), **more) -> list[tuple]:
    """List what is missing as (timeframe, type, from, to, prepend)."""
    found = missing(config, [PAIR], timeframes, utc(start), utc(end), **{"now": NOW} | more)
    assert {one.pair for one in found} <= {PAIR}

    def day(time: int) -> str:
        return str(np.datetime64(time, "ms").astype("datetime64[m]"))[5:].removesuffix("T00:00")

    return [
        (one.timeframe, one.candle_type, day(one.start), day(one.end), one.prepend) for one in found
    ]


def test_of_the_recorded_time_only_mark_candles_are_missing(candles):
    assert lacks(candles, "2024-07-01", "2024-08-01", ("1h", "5m")) == [
        ("1h", "mark", "07-01", "08-01", False)
    ]
    assert lacks(candles, "2024-07-01", "2024-08-01", ("15m",)) == [
        ("15m", "futures", "07-01", "08-01", False),
        ("1h", "mark", "07-01", "08-01", False),
    ]


def test_beginning_and_end_of_what_is_there(candles):
    # The recorded hours reach from 06-15 to 08-24 24:00, open interest from 06-19 21:00 to
    # 08-19 21:00, whose own hour is over at 22:00.
    found = lacks(candles, "2024-06-14", "2024-09-01", now=utc("2024-08-25 01:00"))
    assert (
        found
        == [
            ("1h", "futures", "06-14", "06-15", True),
            ("1h", "futures", "08-25", "08-25T01:00", False),
            ("1h", "mark", "06-14", "08-25T01:00", False),
            ("1h", "funding_rate", "06-14", "06-15", True),
            ("1h", "funding_rate", "08-25", "08-25T01:00", False),
            ("1h", "open_interest", "06-14", "06-19T21:00", True),
            ("1h", "open_interest", "08-19T22:00", "08-25T01:00", False),
        ]
        or found[4][1] != "funding_rate"
    )


def test_a_candle_that_has_not_closed_is_not_missing(candles):
    kinds = [one[1] for one in lacks(candles, "2024-08-01", "2024-08-30", now=utc("2024-08-25"))]
    assert kinds == ["mark", "open_interest"]
    kinds = [
        one[1] for one in lacks(candles, "2024-08-01", "2024-08-30", now=utc("2024-08-25 00:59"))
    ]
    assert kinds == ["mark", "open_interest"]
    assert lacks(candles, "2024-08-01", "2024-08-30", now=utc("2024-08-25 01:00"))[0] == (
        "1h", "futures", "08-25", "08-25T01:00", False,
    )  # fmt: skip


def test_a_time_before_or_after_all_that_is_there(candles):
    assert lacks(candles, "2024-06-01", "2024-06-03", every=None)[0] == (
        "1h", "futures", "06-01", "06-03", True,
    )  # fmt: skip
    late = lacks(candles, "2024-09-01", "2024-09-03", every=None, now=utc("2024-10-01"))
    assert late[0] == ("1h", "futures", "09-01", "09-03", False)


def test_open_interest_that_freqtrade_cannot_get_is_named(tmp_path):
    start, end = utc("2024-06-01"), utc("2024-08-25")
    found = missing(config_of(tmp_path), [PAIR], [], start, end, now=NOW + 1)
    old, new = (one for one in found if one.candle_type == OPEN_INTEREST)
    assert (old.start, old.end, new.start, new.end) == (
        start, utc("2024-07-27"), utc("2024-07-27"), end,
    )  # fmt: skip
    assert "last 30 days" in old.why
    assert not new.why
    # 1,440 rows of 5m are five days.
    found = missing(config_of(tmp_path, "okx"), [PAIR], [], start, end, every="5m", now=NOW)
    assert [one.start for one in found if one.candle_type == OPEN_INTEREST] == [
        start, utc("2024-08-20"),
    ]  # fmt: skip
    found = missing(config_of(tmp_path, "bybit"), [PAIR], [], start, end, now=NOW)
    assert [(one.start, one.why) for one in found if one.candle_type == OPEN_INTEREST] == [
        (start, "")
    ]
    found = missing(config_of(tmp_path, "hyperliquid"), [PAIR], ["1h"], start, end, now=NOW)
    # There the candles are the mark candles.
    assert [one.candle_type for one in found] == ["futures", "funding_rate", "open_interest"]
    assert all("hyperliquid" in one.why for one in found)
    assert not commands(found, config_of(tmp_path, "hyperliquid"))


# --- the lines ----------------------------------------------------------------------------------


def parsed(line: str) -> dict:
    """Parse a line as Freqtrade does; a word that it does not know ends the test."""
    program, *words = shlex.split(line)
    assert program == "freqtrade"
    return Arguments(words).get_parsed_arg()


def test_one_line_gets_all_that_a_new_user_needs(tmp_path):
    config = config_of(tmp_path)
    pairs = [PAIR, "ETH/USDT:USDT"]
    start, end = utc("2024-08-01 05:00"), utc("2024-08-20 07:00")
    found = missing(config, pairs, ["1h"], start, end, every=None, now=NOW)
    (line,) = commands(found, config)
    assert line == (
        "freqtrade download-data --exchange binance --trading-mode futures "
        "-p BTC/USDT:USDT ETH/USDT:USDT -t 1h --timerange 20240801-20240821"
    )
    flags = parsed(line)
    assert flags["pairs"] == pairs
    assert flags["timeframes"] == ["1h"]
    assert flags["exchange"] == "binance"
    assert flags["trading_mode"] == "futures"
    assert flags["candle_types"] is None
    assert not flags["prepend_data"]
    wanted = TimeRange.parse_timerange(flags["timerange"])
    assert wanted.startts * 1000 <= start
    assert wanted.stopts * 1000 >= end


def test_the_lines_repeat_the_flags_of_the_user(tmp_path):
    config = config_of(tmp_path, "bybit")
    found = missing(config, [PAIR], ["1h"], utc("2024-08-01"), utc("2024-08-20"), now=NOW)
    args = {"config": ["my config.json", "keys.json"], "user_data_dir": "a b", "datadir": None}
    (line,) = commands(found, config, args)
    flags = parsed(line)
    assert flags["config"] == ["my config.json", "keys.json"]
    assert flags["user_data_dir"] == "a b"
    assert flags["datadir"] is None
    assert flags["timeframes"] == ["1h"]
    assert flags["candle_types"] == ["futures", "mark", "open_interest", "funding_rate"]


def lines_of(*found: tuple[str, str], exchange: str = "bybit", **more) -> list[tuple]:
    """Return (timeframes, types, timerange, prepend) of each line for (timeframe, type)."""
    day = utc("2024-08-05")
    lack = [Missing(PAIR, timeframe, kind, day, day + DAY, **more) for timeframe, kind in found]
    flags = [parsed(line) for line in commands(lack, config_of(Path("data"), exchange))]
    return [(f["timeframes"], f["candle_types"], f["timerange"], f["prepend_data"]) for f in flags]


def test_as_few_lines_as_possible_and_no_more_than_is_missing():
    days = "20240805-20240806"
    assert lines_of(("1h", "mark")) == [(["1h"], ["mark"], days, False)]
    assert lines_of(("1h", "funding_rate")) == [(["1h"], ["funding_rate"], days, False)]
    assert lines_of(("1h", "mark"), ("1h", "funding_rate"), ("1h", "open_interest")) == [
        (["1h"], ["mark", "open_interest", "funding_rate"], days, False)
    ]
    usual = (["5m", "1h"], None, days, False)
    trade = [("5m", "futures"), ("1h", "futures"), ("1h", "mark"), ("1h", "funding_rate")]
    assert lines_of(*trade) == [usual]
    assert lines_of(*trade, ("1h", "open_interest")) == [
        usual, (["1h"], ["open_interest"], days, False),
    ]  # fmt: skip
    assert lines_of(("5m", "futures"), ("1h", "open_interest"), prepend=True) == [
        (["5m"], None, days, True), (["1h"], ["open_interest"], days, True),
    ]  # fmt: skip
    assert lines_of(("5m", "futures"), why="no") == []


def test_beginning_and_end_are_two_lines(candles):
    found = missing(
        candles, [PAIR], ["1h"], utc("2024-06-01"), utc("2024-09-03"), every=None,
        now=utc("2024-10-01"),
    )  # fmt: skip
    later, earlier = map(parsed, commands(found, candles))
    # The mark candles are missing as a whole, which the first line takes along.
    assert (later["timerange"], later["prepend_data"]) == ("20240601-20240903", False)
    assert (earlier["timerange"], earlier["prepend_data"]) == ("20240601-20240615", True)


def test_open_interest_is_asked_for_as_far_back_as_there_is(tmp_path):
    config = config_of(tmp_path)
    found = missing(config, [PAIR], ["1h"], utc("2024-06-01"), NOW, now=NOW)
    usual, interest = map(parsed, commands(found, config))
    assert (usual["timerange"], usual["candle_types"]) == ("20240601-20240825", None)
    assert interest["timerange"] == "20240726-20240825"
    assert interest["candle_types"] == ["open_interest"]


def test_freqtrade_downloads_what_was_missing(candles, tmp_path, capfd, monkeypatch):
    with running(candles["datadir"]) as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        config = config_of(tmp_path / "new")
        args = {
            "config": [str(REPOSITORY / "config.json")],
            "user_data_dir": str(tmp_path / "user"),
            "datadir": str(tmp_path / "new"),
        }
        (tmp_path / "user").mkdir()
        wanted = [PAIR], ["1h"], utc("2024-08-01"), utc("2024-08-10")
        lines = commands(missing(config, *wanted, every=None), config, args)
        assert len(lines) == 1
        assert download(lines) == [0]
    assert f"Downloading {PAIR}" in "".join(capfd.readouterr())
    assert missing(config, *wanted, every=None) == []
    got, whole = (load(one, "futures") for one in (config, candles))
    days = got[got["date"].between("2024-08-01", "2024-08-09 23:00", inclusive="both")]
    assert len(days) == 9 * 24
    same = whole[whole["date"].isin(days["date"])]
    np.testing.assert_allclose(days["close"], same["close"])


def test_an_interrupt_reaches_the_running_download(tmp_path):
    """Let Freqtrade wait for an exchange that does not answer; only we get the signal."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        env = os.environ | environment(server.getsockname()[1])
        line = f"freqtrade download-data -c {REPOSITORY / 'config.json'} --userdir {tmp_path}"
        line += f" -p {PAIR} -t 1h --timerange 20240801-20240802"
        code = f"from liquidations.freqtrade_data import download; download([{line!r}])"
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        server.settimeout(60)
        asking, _ = server.accept()
        begun = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        # Its output is at an end when Freqtrade has ended too, which waits 10 s for an answer.
        printed, _ = process.communicate(timeout=60)
        assert time.monotonic() - begun < 8
        asking.close()
    assert process.returncode != 0
    assert printed.count("KeyboardInterrupt") == 1


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [False, True], ids=["one strategy", "strategy list"])
def test_keys_do_not_get_into_a_backtests_result(tmp_path, copied):
    """Load a strategy and write a result as Freqtrade does, which adds its configuration."""
    config = json.loads((REPOSITORY / "config.json").read_text())
    config["liquidations"] |= {
        "db_url": f"sqlite:///{tmp_path / 'liquidations.sqlite'}",
        "sources": {name: {"key": f"secret-{name}"} for name in ARCHIVES},
    }
    config |= {
        "runmode": RunMode.BACKTEST,
        "user_data_dir": tmp_path,
        "exportdirectory": tmp_path,
        "strategy": "LiquidationFlip",
        "strategy_path": str(REPOSITORY / "strategies"),
    }
    config["original_config"] = deepcopy(json.loads(json.dumps(config, default=str)))
    password = "postgresql+psycopg://bot:secret-password@host/db"
    config["original_config"]["liquidations"]["db_url"] = password
    # With a list of strategies Freqtrade gives each of them a copy.
    StrategyResolver.load_strategy(deepcopy(config) if copied else config)
    stats = {"metadata": {}, "strategy": {}, "strategy_comparison": []}
    store_backtest_results(config, stats, "2024-08-05_00-00-00")
    (written,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(written) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    told = next(json.loads(text) for name, text in files.items() if name.endswith("_config.json"))
    assert told["liquidations"]["min_coverage"] == 0.9
    for name, content in files.items():
        assert b"secret-" not in content, name
