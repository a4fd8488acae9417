"""The command ``download-data``: each source end to end, and what it says when something fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY, utc
from http_loopback import (
    DAY,
    HOUR,
    KEYS,
    Vendors,
    http_loopback,
    orders,
    slow,
    status,
)
from loopback import loopback

from liquidations import http
from liquidations.archives import service
from liquidations.cli import run
from liquidations.commands import download_data
from liquidations.errors import LiquidationsError
from liquidations.event import SIDES
from liquidations.store import Store


LINEAR, INVERSE = "BTC/USDT:USDT", "BTC/USD:BTC"
DAYS = ("--timerange", "20240901-20240904")
START, END = utc("2024-09-01"), utc("2024-09-04")
SERVICES = ("coinalyze", "coinglass", "okx", "binance_vision", "tardis")


@pytest.fixture
def vendors(monkeypatch):
    """Serve all sources, which may be asked without pauses."""
    monkeypatch.setattr(http, "PAUSE", 0.001)
    for name in SERVICES:
        module = service(name)
        monkeypatch.setattr(module, "ABOUT", replace(module.ABOUT, per_minute=None))
        monkeypatch.delenv(module.ABOUT.key or "NO_KEY", raising=False)
    with http_loopback() as server:
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in an empty folder with the repository's config, as a new user would."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "config.json", tmp_path)
    (tmp_path / "user_data").mkdir()
    return tmp_path


def configure(folder, vendors: Vendors, *, keys=True, **more) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["liquidations"] |= {
        "sources": vendors.sources(keys=keys),
        "ccxt_config": {"okx": vendors.okx_ccxt()},
        **more,
    }
    (folder / "config.json").write_text(json.dumps(config))


def download(capsys, *arguments, code=0) -> tuple[str, str]:
    assert run(["download-data", *arguments]) == code
    printed = capsys.readouterr()
    return printed.out, " ".join(printed.err.split())


def store() -> Store:
    return Store("sqlite:///user_data/liquidations.sqlite")


def held(exchange: str, pair: str, source: str) -> tuple[list[tuple[int, str, float]], list]:
    """Return what is stored of one series as (time, side, USD), and its coverage."""
    with store() as opened, opened.read() as reader:
        names = exchange, pair, source
        (one,) = [s for s in reader.series() if (s.exchange, s.pair, s.source) == names]
        coverage = reader.coverage(one).tolist()
        if one.period == 60_000:
            events = reader.events(one, 0, 2**62)
            columns = (events.timestamp.tolist(), events.side.tolist(), events.value_usd.tolist())
            rows = [(at, SIDES[side], usd) for at, side, usd in zip(*columns, strict=True)]
            return rows, coverage
        bars = reader.bars(one, 0, 2**62)
        rows = [
            (at, side, usd)
            for side, volume in (("long", bars.long), ("short", bars.short))
            for at, usd in zip(bars.timestamp.tolist(), volume.tolist(), strict=True)
            if usd
        ]
        return sorted(rows), coverage


def hourly(start: int, end: int) -> list[tuple[int, str, float]]:
    """Return the market's sums by hour: each has one order."""
    return [(at // HOUR * HOUR, side, float(usd)) for at, side, usd in orders(start, end)]


def within(rows: list, start: int, end: int) -> list:
    return [row for row in rows if start <= row[0] < end]


# --- each source --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "pair"),
    [
        ("binance", LINEAR),
        ("binance", INVERSE),
        ("bybit", LINEAR),
        ("okx", LINEAR),
        ("hyperliquid", "BTC/USDC:USDC"),
    ],
)
def test_coinalyze(folder, vendors, capsys, exchange, pair):
    configure(folder, vendors)
    asked = LINEAR if pair != INVERSE else INVERSE  # what stands for it there is taken
    flags = ("--exchange", exchange, "--source", "coinalyze", "-p", asked, "-t", "1h", *DAYS)
    out, _ = download(capsys, *flags)
    rows, coverage = held(exchange, pair, "coinalyze")
    assert within(rows, START, END) == hourly(START, END)
    assert coverage[0][0] <= START
    assert coverage[-1][1] >= END
    assert "1h bars" in out
    assert "100.0%" in out


def test_coinalyze_leaves_out_the_hour_that_is_not_over(folder, vendors, capsys):
    configure(folder, vendors)
    download(capsys, "--source", "coinalyze", "-p", LINEAR, "-t", "1h", "--days", "2")
    rows, coverage = held("binance", LINEAR, "coinalyze")
    now = int(time.time() * 1000)
    assert coverage[-1][1] <= now // HOUR * HOUR
    assert rows[-1][0] < now // HOUR * HOUR
    # Once more: nothing is new but what is over since.
    download(capsys, "--source", "coinalyze", "-p", LINEAR, "-t", "1h", "--days", "2")
    assert within(rows, 0, coverage[-1][1]) == rows


def test_coinglass(folder, vendors, capsys):
    configure(folder, vendors)
    download(capsys, "--source", "coinglass", "-p", LINEAR, "-t", "1h", *DAYS)
    assert held("binance", LINEAR, "coinglass") == (hourly(START, END), [[START, END]])


def test_coinglass_pages(folder, vendors, capsys):
    configure(folder, vendors)
    long = ("--timerange", "20240101-20240501")  # 2,904 hours, 1,000 a page
    download(capsys, "--source", "coinglass", "-p", LINEAR, "-t", "1h", *long)
    start, end = utc("2024-01-01"), utc("2024-05-01")
    assert held("binance", LINEAR, "coinglass") == (hourly(start, end), [[start, end]])
    assert len(vendors.asked("liquidation/history")) == 3


def test_binance_vision(folder, vendors, capsys):
    configure(folder, vendors)
    vendors.absent.add("2024-09-02")
    out, err = download(capsys, "--source", "binance_vision", "-p", INVERSE, *DAYS)
    second, third = utc("2024-09-02"), utc("2024-09-03")
    expected = orders(START, second) + orders(third, END)
    assert held("binance", INVERSE, "binance_vision") == (
        [(at, side, float(usd)) for at, side, usd in expected],
        [[START, second], [third, END]],
    )
    assert "1 day that binance_vision does not have: 2024-09-02" in err
    assert f"No source has {INVERSE} binance from 2024-09-02 00:00 to 2024-09-03 00:00" in err
    assert "66.7%" in out


@pytest.mark.parametrize(
    ("exchange", "pair"),
    [("binance", LINEAR), ("binance", INVERSE), ("bybit", LINEAR), ("okx", LINEAR)],
)
def test_tardis(folder, vendors, capsys, exchange, pair):
    configure(folder, vendors)
    download(capsys, "--exchange", exchange, "--source", "tardis", "-p", pair, *DAYS)
    rows, coverage = held(exchange, pair, "tardis")
    assert [(at, side) for at, side, _ in rows] == [(a, s) for a, s, _ in orders(START, END)]
    expected = [usd for _, _, usd in orders(START, END)]
    np.testing.assert_allclose([usd for _, _, usd in rows], expected, rtol=1e-9)
    assert coverage == [[START, END]]


def test_tardis_without_a_key_has_the_first_of_the_month(folder, vendors, capsys):
    configure(folder, vendors, keys=False)
    _, err = download(capsys, "--source", "tardis", "-p", LINEAR, *DAYS)
    assert held("binance", LINEAR, "tardis")[1] == [[START, START + DAY]]
    assert "tardis: 2 files need a key: get one (sold at https://tardis.dev), then set the" in err


def test_okx_pages_back_a_day(folder, vendors, capsys, monkeypatch):
    configure(folder, vendors)
    monkeypatch.setattr(service("okx"), "PAGE", 10)
    download(capsys, "--exchange", "okx", "--source", "okx", "-p", LINEAR, "--days", "1")
    rows, coverage = held("okx", LINEAR, "okx")
    assert len(vendors.asked("liquidation-orders")) == 3
    (start, end), *rest = coverage
    assert rest == []
    now = int(time.time() * 1000)
    assert now - DAY <= start <= now - DAY + 2 * HOUR
    assert now - 60_000 <= end <= now
    assert [(at, side) for at, side, _ in rows] == [(a, s) for a, s, _ in orders(start, end)]
    assert {round(usd) for _, _, usd in rows} == {100, 200, 300}


def test_open_interest_goes_into_freqtrades_own_data(folder, vendors, capsys):
    pd = pytest.importorskip("pandas")
    configure(folder, vendors)
    flags = ("--source", "binance_vision", "-p", LINEAR, "--candle-types", "open_interest")
    out, _ = download(capsys, *flags, *DAYS)
    (file,) = (folder / "user_data").rglob("*-1h-open_interest.feather")
    frame = pd.read_feather(file).set_index("date")["open_interest_amount"]
    # The invented open interest is the hour since 1970, modulo 100.
    assert frame[pd.Timestamp("2024-09-02 05:00", tz="UTC")] == (479_208 + 24 + 5) % 100
    assert "open_interest" in out


# --- what a user expects ------------------------------------------------------------------------


def test_all_sources_at_once_and_those_without_a_key_are_named(folder, vendors, capsys):
    configure(folder, vendors, keys=False, exchanges="all", inverse=True)
    _, err = download(capsys, "-p", LINEAR, "-t", "1h", *DAYS)
    with store() as opened, opened.read() as reader:
        found = {(one.exchange, one.pair, one.source) for one in reader.series()}
    assert found == {
        ("binance", INVERSE, "binance_vision"),
        ("binance", LINEAR, "tardis"),
        ("binance", INVERSE, "tardis"),
        ("bybit", LINEAR, "tardis"),
        ("bybit", INVERSE, "tardis"),
        ("okx", LINEAR, "tardis"),
        ("okx", INVERSE, "tardis"),
    }
    assert "Not asked: the source coinalyze needs a key: get one (free, at https:" in err
    assert "Not asked: the source coinglass needs a key" in err
    assert "Nothing is asked of hyperliquid: no source serves it, or the key" in err


def test_the_configs_pairs_and_timeframe_are_the_default(folder, vendors, capsys):
    configure(folder, vendors)
    config = json.loads((folder / "config.json").read_text())
    config["timeframe"] = "2h"
    config["exchange"]["pair_whitelist"] = [LINEAR, "ETH/USDT:USDT"]
    (folder / "config.json").write_text(json.dumps(config))
    download(capsys, "--source", "coinalyze", *DAYS)
    with store() as opened, opened.read() as reader:
        found = [(one.pair, one.period) for one in reader.series()]
    assert found == [(LINEAR, 2 * HOUR), ("ETH/USDT:USDT", 2 * HOUR)]


def test_without_a_timeframe_the_bars_reach_back_far_enough(folder, vendors, capsys):
    configure(folder, vendors)
    _, err = download(capsys, "--source", "coinalyze", "-p", LINEAR)
    with store() as opened, opened.read() as reader:
        assert [one.period for one in reader.series()] == [HOUR // 2]  # 30 days and today
    assert "coinalyze: 30m bars, the finest that reach back so far" in err
    assert "-t names those of your strategy" in err


def test_several_timeframes(folder, vendors, capsys):
    configure(folder, vendors)
    download(capsys, "--source", "coinalyze,coinglass", "-p", LINEAR, "-t", "5m", "8h", *DAYS)
    with store() as opened, opened.read() as reader:
        found = {(one.source, one.period) for one in reader.series()}
    # Coinalyze has no 8h, but 4h, which fit.
    assert found == {
        ("coinalyze", 300_000),
        ("coinalyze", 4 * HOUR),
        ("coinglass", 300_000),
        ("coinglass", 8 * HOUR),
    }


def test_patterns_are_matched_with_the_exchanges_markets(folder, vendors, capsys):
    with loopback() as exchange:
        own = {"binance": exchange.ccxt_config("binance"), "okx": vendors.okx_ccxt()}
        configure(folder, vendors, ccxt_config=own)
        flags = ("--source", "coinalyze", "-p", "(BTC|ETH)/USDT:.*", "-t", "1h", *DAYS)
        download(capsys, *flags)
        with store() as opened, opened.read() as reader:
            assert [one.pair for one in reader.series()] == [LINEAR, "ETH/USDT:USDT"]
        _, err = download(capsys, "--source", "coinalyze", "-p", "DOGGE.*", *DAYS, code=2)
        assert "DOGGE.*: it matches no perpetual of binance" in err


def test_a_wrong_pair_stops_no_other(folder, vendors, capsys):
    configure(folder, vendors)
    flags = ("--source", "coinalyze", "-t", "1h", *DAYS)
    _, err = download(capsys, "-p", LINEAR, "BTC/USDT", "BTC/EURC:EURC", *flags, code=1)
    assert "FAILED: BTC/USDT: it is not a perpetual; write it as BTC/USDT:USDT" in err
    assert "FAILED: BTC/EURC:EURC: no source has it on binance; there is BTC/USD:BTC, BTC/USDT" in (
        err
    )
    held("binance", LINEAR, "coinalyze")


def test_what_stands_for_a_pair_elsewhere_is_said(folder, vendors, capsys):
    configure(folder, vendors)
    flags = ("--exchange", "binance,bybit", "--source", "coinalyze", "-t", "1h", *DAYS)
    _, err = download(capsys, "-p", "BTC/USDC:USDC", *flags)
    assert "BTC/USDC:USDC on bybit: BTC/USDT:USDT is taken" in err
    held("bybit", LINEAR, "coinalyze")


def test_appending_prepending_and_erasing(folder, vendors, capsys):
    configure(folder, vendors)
    flags = ("--source", "binance_vision", "-p", INVERSE, "--timerange")
    download(capsys, *flags, "20240902-20240903")
    _, err = download(capsys, *flags, "20240901-20240904")
    second = utc("2024-09-02")
    assert held("binance", INVERSE, "binance_vision")[1] == [[second, END]]
    assert (
        f"Left out: {INVERSE} binance binance_vision from 2024-09-01 00:00 to 2024-09-02 00:00 "
        "is before what is stored; --prepend gets it" in err
    )
    download(capsys, *flags, "20240901-20240904", "--prepend")
    assert held("binance", INVERSE, "binance_vision")[1] == [[START, END]]
    count = len(vendors.asked())
    _, err = download(capsys, *flags, "20240901-20240904")
    assert len(vendors.asked()) == count
    assert "Nothing to download" in err
    assert "what the sources have of the asked time is stored" in err
    assert "Left out" not in err
    # What is erased is replaced, day by day; what is not there any more stays.
    vendors.quiet.add("2024-09-02")
    vendors.absent.add("2024-09-03")
    download(capsys, *flags, "20240902-20240904", "--erase")
    rows, coverage = held("binance", INVERSE, "binance_vision")
    assert coverage == [[START, END]]
    assert [at for at, *_ in rows] == [
        at for at, *_ in orders(START, second) + orders(second + DAY, END)
    ]


def test_nothing_false_is_said_of_time_that_nobody_was_asked_about(folder, vendors, capsys):
    configure(folder, vendors)
    flags = ("--source", "coinglass", "-p", LINEAR, "-t", "1h", "--timerange")
    download(capsys, *flags, "20240910-20240911")
    for asked in ("20240901-20240903", "20240901-20240911"):
        _, err = download(capsys, *flags, asked)
        assert "No source has" not in err
        assert "is stored; --prepend" not in err  # it is kept for 62 days only
        end = {"20240901-20240903": "03", "20240901-20240911": "10"}[asked]
        assert (
            f"Left out: {LINEAR} binance coinglass from 2024-09-01 00:00 to 2024-09-{end} 00:00 is "
            "before what is stored; coinglass keeps bars of 1h for less long, -t takes longer"
            in err
        )
        assert "Nothing to download: nothing follows what is stored" in err
    began = int(time.time() * 1000)
    today = began // DAY * DAY
    recent = ("--source", "coinalyze", "-p", LINEAR, "-t", "1h", "--timerange")
    download(capsys, *recent, f"{(today - 2 * DAY) // 1000}-")
    _, err = download(capsys, *recent, f"{(today - 80 * DAY) // 1000}-")
    assert "No source has" not in err
    # Of 80 days the last 62.5 are there: 1,500 bars.
    assert "is before what is stored; --prepend gets it" in err
    now = int(time.time() * 1000)
    kept = {np.datetime64(at - 1_500 * HOUR, "ms").astype("datetime64[D]") for at in (began, now)}
    assert any(f"Left out: {LINEAR} binance coinalyze from {day}" in err for day in kept)


def test_no_day_of_today_is_over(folder, vendors, capsys):
    configure(folder, vendors)
    today = int(time.time()) // 86_400 * 86_400
    flags = ("--source", "coinalyze", "-p", LINEAR, "-t", "1d", "--timerange", f"{today}-")
    _, err = download(capsys, *flags)
    assert "Nothing to download: no period of 1d of the asked time is over" in err
    assert "No source has" not in err


def test_what_failed_is_still_missing_and_no_source_lacks_it(folder, vendors, capsys):
    configure(folder, vendors)
    vendors.fault("2024-09-02.zip", status(400), times=9)
    _, err = download(capsys, "--source", "binance_vision", "-p", INVERSE, *DAYS, code=1)
    assert f"Still missing: {INVERSE} binance from 2024-09-02 00:00 to 2024-09-03 00:00" in err
    assert "No source has" not in err


def test_open_interest_goes_on_where_it_was(folder, vendors, capsys):
    pd = pytest.importorskip("pandas")
    configure(folder, vendors)
    flags = ("--source", "binance_vision", "-p", LINEAR, "--candle-types", "open_interest")
    download(capsys, *flags, "--timerange", "20240902-20240904")
    before = len(vendors.asked("metrics"))
    download(capsys, *flags, "--timerange", "20240902-20240904")
    assert len(vendors.asked("metrics")) == before
    download(capsys, *flags, "--timerange", "20240901-20240906")
    days = {
        one.path[-14:-4] for one in vendors.asked("metrics")[before:] if ".zip" in one.path[-4:]
    }
    assert days == {"2024-08-31", "2024-09-01", "2024-09-03", "2024-09-04", "2024-09-05"}
    (file,) = (folder / "user_data").rglob("*-5m-open_interest.feather")
    dates = pd.read_feather(file)["date"]
    assert dates.is_unique
    assert dates.diff().dropna().unique().tolist() == [pd.Timedelta("5min")]
    assert len(dates) >= 5 * 288


def test_a_folder_that_cannot_be_written_is_a_line_among_others(folder, vendors, capsys):
    configure(folder, vendors)
    vendors.fault("2024-09-02.zip", status(400), times=9)
    (folder / "user_data" / "data" / "binance").mkdir(parents=True)
    (folder / "user_data" / "data" / "binance" / "futures").write_text("a file")
    flags = ("--source", "binance_vision", "coinalyze", "-t", "1h", "-p", LINEAR, INVERSE)
    out, err = download(capsys, *flags, "--candle-types", "open_interest", *DAYS, code=1)
    assert "FAILED: coinalyze BTC/USDT:USDT: " in err
    assert "open_interest.feather can't be written (" in err
    assert "FAILED: binance_vision BTC/USD:BTC: 2024-09-02: it answers with status 400" in err
    assert "coinalyze" in out
    held("binance", LINEAR, "coinalyze")


def test_what_failed_is_said_before_candles_that_cannot_be_read(folder, vendors, capsys):
    configure(folder, vendors)
    futures = folder / "user_data" / "data" / "binance" / "futures"
    futures.mkdir(parents=True)
    (futures / "BTC_USDT_USDT-1h-futures.feather").write_bytes(b"garbage")
    vendors.fault("ETHUSDT", status(400), times=9)
    flags = ("--source", "coinalyze", "-t", "1h", "-p", LINEAR, "ETH/USDT:USDT")
    out, err = download(capsys, *flags, *DAYS, code=1)
    first, second = err.split("FAILED: ")[1:]
    assert first.startswith("coinalyze ETH/USDT:USDT: it answers with status 400")
    assert second.startswith(f"freqtrade {LINEAR}: ")
    assert "BTC_USDT_USDT-1h-futures.feather can't be read" in second
    # Of the other pair Freqtrade's data are named, and the store.
    assert "-p ETH/USDT:USDT" in err
    assert "Store: sqlite" in second
    assert "coinalyze" in out
    # Open interest that can't be read is a fault of its pair, and stays as it is.
    broken = futures / "BTC_USDT_USDT-1h-open_interest.feather"
    broken.write_bytes(b"garbage")
    _, err = download(capsys, *flags, "--candle-types", "open_interest", *DAYS, code=1)
    assert f"FAILED: coinalyze {LINEAR}: " in err
    assert broken.read_bytes() == b"garbage"


def test_pairs_that_okx_does_not_list_are_wrong_pairs(folder, vendors, capsys):
    configure(folder, vendors)
    flags = ("--exchange", "okx", "--source", "okx", "--days", "1", "-p", "AAA/USDT:USDT", LINEAR)
    _, err = download(capsys, *flags, code=1)
    assert "FAILED: AAA/USDT:USDT: no source has it on okx; is it written right?" in err
    assert "--markets" not in err
    held("okx", LINEAR, "okx")


def test_sizes_that_okx_does_not_tell_name_no_flag_of_other_commands(
    folder, vendors, capsys, monkeypatch
):
    configure(folder, vendors)

    def unreachable(*_):
        raise LiquidationsError("try again, or give them with --markets FILE")

    monkeypatch.setattr("liquidations.markets.okx_contracts", unreachable)
    flags = ("--exchange", "okx", "--source", "okx", "--days", "1", "-p", LINEAR)
    _, err = download(capsys, *flags, code=1)
    assert f"FAILED: okx {LINEAR}: OKX can't be asked for its contract sizes; try again" in err
    assert "--markets" not in err


def test_revisions_are_told(folder, vendors, capsys):
    configure(folder, vendors)
    flags = ("--source", "coinglass", "-p", LINEAR, "-t", "1h", *DAYS)
    download(capsys, *flags)
    vendors.revision = 3
    _, err = download(capsys, *flags, "--again")
    assert "Revised: the source gives other values now" in err
    assert held("binance", LINEAR, "coinglass")[0] == hourly(START, END)  # the first vintage


def test_what_freqtrade_lacks_is_said_and_can_be_had(folder, vendors, capsys, monkeypatch):
    from liquidations import freqtrade_data

    configure(folder, vendors)
    flags = ("--source", "coinglass", "-p", LINEAR, "-t", "1h", *DAYS)
    _, err = download(capsys, *flags)
    assert "Freqtrade's own data are missing; get them with: freqtrade download-data" in err
    ran = []
    monkeypatch.setattr(freqtrade_data, "download", lambda lines: [len(ran.extend(lines) or "x")])
    _, err = download(capsys, *flags, "--with-candles", code=1)
    assert ran[0].startswith("freqtrade download-data")
    assert "FAILED: freqtrade: it ended with exit code 1; run it yourself" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--days", "3", *DAYS), "--days and --timerange exclude each other"),
        (("--timerange", "20990101-"), "nothing of it is over yet"),
        (("--timerange", "20240902-20240901"), "Start date is after stop date"),
        (("--timerange", "tomorrow"), "Incorrect syntax for timerange"),
        (("--source", "coinalize"), "unknown source 'coinalize'"),
        (("--source", "node_fills"), "its files can be imported"),
        (("--exchange", "okx", "--source", "binance_vision"), "Choose an exchange"),
        (("--exchange", "bitmex"), "unknown exchange 'bitmex'"),
        (("-t", "7x"), "7x"),
        (("-p", "BTC/USDT"), "it is not a perpetual; write it as BTC/USDT:USDT"),
        (("-p", "*/USDT"), "for all pairs write .*/USDT:USDT"),
        (("--source", "coinglass"), "the source coinglass needs a key"),
    ],
)
def test_bad_input_is_one_line(folder, vendors, capsys, arguments, message, monkeypatch):
    configure(folder, vendors, keys=False)
    monkeypatch.setattr("liquidations.planner.list_perpetuals", lambda *_: [LINEAR])
    assert run(["download-data", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not vendors.asked()


def test_failures_are_a_line_each_and_the_exit_code(folder, vendors, capsys):
    configure(folder, vendors)
    vendors.fault("ETHUSDT", status(400, b'{"message": "symbol is not allowed"}'), times=9)
    vendors.fault("/coinglass", status(429, retry_after="7200"), times=9)
    pairs = ("-p", LINEAR, "ETH/USDT:USDT", "-t", "1h")
    _, err = download(capsys, "--source", "coinalyze,coinglass", *pairs, *DAYS, code=1)
    expected = "FAILED: coinalyze ETH/USDT:USDT: it answers with status 400: symbol is not allowed"
    assert expected in err
    assert "FAILED: coinglass: it wants to be left alone until" in err
    assert "Run it again for what failed" in err
    assert held("binance", LINEAR, "coinalyze")[0]


def test_keys_are_nowhere(folder, vendors, capsys, caplog):
    caplog.set_level("DEBUG")
    configure(folder, vendors)
    for name, secret in KEYS.items():  # an answer may well repeat the question
        part = "/futures/liquidation" if name == "coinglass" else f"{name}/"
        vendors.fault(part, status(200), status(400, f'{{"message": "key {secret}"}}'.encode()))
    sources = "coinalyze,coinglass,tardis"
    # The chatter of all libraries, too.
    flags = ("-vvv", "--source", sources, "-p", LINEAR, "-t", "1h", *DAYS)
    assert run(["download-data", *flags]) == 1
    printed = capsys.readouterr()
    written = [printed.out, printed.err, caplog.text]
    assert printed.err.count("status 400: key ***") == 3
    assert "GET /coinalyze/future-markets" in caplog.text
    files = [one for one in (folder / "user_data").rglob("*") if one.is_file()]
    assert any("sqlite" in one.name for one in files)
    for secret in KEYS.values():
        assert [one for one in written if secret in one] == []
        assert [one for one in files if secret.encode() in one.read_bytes()] == []


def test_progress_is_told_in_lines_without_a_terminal(folder, vendors, capsys, monkeypatch):
    configure(folder, vendors)
    monkeypatch.setattr(download_data, "EVERY", 0.0)
    vendors.fault("2024-09-03", slow(0.3))
    _, err = download(capsys, "--source", "binance_vision", "-p", INVERSE, *DAYS)
    assert "binance_vision: 2/3, " in err
    assert "rows/s" in err


def test_an_interrupt_ends_at_once_and_keeps_what_was_finished(folder, vendors):
    configure(folder, vendors)
    vendors.fault("2024-09-03", slow(30))
    command = ["download-data", "--source", "binance_vision", "-p", INVERSE, *DAYS]
    process = subprocess.Popen(
        [sys.executable, "-m", "liquidations", *command],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        deadline = time.monotonic() + 30
        while len(vendors.asked()) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert time.monotonic() - began < 2
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted; the store holds only what was finished." in err
    assert held("binance", INVERSE, "binance_vision")[1] == [[START, utc("2024-09-03")]]


def test_a_failed_beginning_names_the_flag_that_gets_it(folder, vendors, capsys):
    configure(folder, vendors)
    vendors.fault("2024-09-01.zip.CHECKSUM", status(404))
    flags = ("--source", "binance_vision", "-p", INVERSE, *DAYS)
    _, err = download(capsys, *flags, code=1)
    assert "FAILED: binance_vision BTC/USD:BTC: 2024-09-01: the file with its checksum is" in err
    assert "Run it again for what failed, with --prepend for the beginning" in err
    download(capsys, *flags, "--prepend")
    assert held("binance", INVERSE, "binance_vision")[1] == [[START, END]]
