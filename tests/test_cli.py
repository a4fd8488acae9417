"""The console script: what it prints, and what it says when something is wrong."""

import argparse
import csv
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, bars_of, events_of, same_bits, spans, utc

from liquidations.cli import COMMANDS, LiquidationArguments, run
from liquidations.store import Store
from liquidations.tables import SCHEMA_VERSION


PAIR = "BTC/USDT:USDT"
HEADER = (
    "date,liq_long,liq_short,liq_total,liq_long_count,liq_short_count,liq_imbalance,liq_coverage"
)
# Two hours of Coinalyze, and a third that may be partial.
ANSWER = [
    {
        "symbol": "BTCUSDT_PERP.A",
        "history": [
            {"t": 1704067200, "l": 100.0, "s": 300.0},
            {"t": 1704070800, "l": 50.0, "s": 0.0},
            {"t": 1704074400, "l": 1.0, "s": 1.0},
        ],
    }
]
PAGE = {
    "code": "0",
    "data": [
        {
            "instId": "BTC-USDT-SWAP",
            "details": [{"bkPx": "40000", "side": "sell", "sz": "2", "ts": "1704067200000"}],
        }
    ],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in an empty folder with the repository's config, as a new user would."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "config.json", tmp_path)
    (tmp_path / "user_data").mkdir()
    (tmp_path / "answer.json").write_text(json.dumps(ANSWER))
    return tmp_path


@pytest.fixture
def stored(folder):
    db_url = f"sqlite:///{folder}/user_data/liquidations.sqlite"
    with Store(db_url, create=True) as store, store.write() as writer:
        rows = events_of(
            ("2024-01-01 01:10", "long", 0.1 + 0.2), ("2024-01-01 01:20", "short", 4.0)
        )
        span = spans(("2024-01-01 01:00", "2024-01-01 02:30"), ("2024-01-01 05:00", "2024-01-02"))
        writer.insert("binance", PAIR, "feed", rows, span)
        writer.insert("okx", "BTC/USDC:USDC", "feed", rows, span)
        vendor = bars_of(("2024-03-01", 10.0, 30.0))
        hours = spans(("2024-03-01", "2024-03-02"))
        writer.insert("bybit", PAIR, "vendor", vendor, hours, period=3_600_000)
    return db_url


def show(capsys, *arguments, code=0):
    assert run(["show", "--format", "csv", *arguments]) == code
    printed = capsys.readouterr()
    return printed.out.splitlines(), printed.err


def test_show_prints_one_row_for_each_candle(stored, capsys):
    lines, err = show(capsys, "-p", PAIR, "-t", "1h", "--timerange", "20240101T0000-20240101T0400")
    # 0.1 + 0.2 USD, rounded to a multiple of 2**-24 USD.
    value = round((0.1 + 0.2) * 2**24) / 2**24
    assert lines == [
        HEADER,
        "2024-01-01T00:00:00+00:00,,,,,,,0.0",
        f"2024-01-01T01:00:00+00:00,{value},4.0,{value + 4},1.0,1.0,{value / (value + 4)},1.0",
        "2024-01-01T02:00:00+00:00,,,,,,,0.5",
        "2024-01-01T03:00:00+00:00,,,,,,,0.0",
    ]
    assert err == ""


def test_show_min_coverage_keeps_the_unobserved_unknown(stored, capsys):
    lines, _ = show(
        capsys, "-p", PAIR, "-t", "1h", "--timerange", "20240101T0200-20240101T0400",
        "--min-coverage", "0",
    )  # fmt: skip
    assert lines[1:] == [
        "2024-01-01T02:00:00+00:00,0.0,0.0,0.0,0.0,0.0,,0.5",
        "2024-01-01T03:00:00+00:00,,,,,,,0.0",
    ]


def test_show_other_exchanges_and_formats(stored, capsys):
    lines, _ = show(
        capsys, "-p", PAIR, "--exchange", "okx", "-t", "1d", "--min-coverage", "0",
    )  # fmt: skip
    assert lines[1].startswith("2024-01-01T00:00:00+00:00,")
    assert len(lines) == 2
    lines, _ = show(capsys, "-p", PAIR, "--exchange", "all", "-t", "1d", "--per-exchange")
    assert {"liq_long_binance", "liq_coverage_hyperliquid"} <= set(lines[0].split(","))
    assert (
        run(
            ["show", "-p", PAIR, "-t", "1h", "--timerange", "20240101-20240102", "--format", "json"]
        )
        == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] | {"date": ""} == dict.fromkeys(HEADER.split(",")) | {
        "date": "",
        "liq_coverage": 0,
    }
    assert run(["show", "-p", PAIR, "-t", "1h"]) == 0
    assert "imbalance" in capsys.readouterr().out


def test_show_coarser_bars_are_unknown_and_the_period_needed_is_named(stored, capsys):
    lines, err = show(
        capsys, "-p", PAIR, "--exchange", "bybit", "-t", "5m", "--timerange", "20240301-20240302",
    )  # fmt: skip
    assert len(lines) == 1 + 288
    assert lines[1] == "2024-03-01T00:00:00+00:00,,,,,,,0.0"
    assert "stored in bars of 1h" in err


def test_show_recorded_facts(recorded, folder, capsys):
    """The figures of the project's own description, from the recorded answers themselves."""
    data = recorded / "data"
    assert run(
        ["import-data", "--source", "coinalyze", "--unit", "base", str(data / "coinalyze")]
        + ["--datadir", str(data / "candles")]
    ) == 0  # fmt: skip
    markets = str(data / "okx" / "instruments.json")
    okx = ["import-data", "--source", "okx", "--markets", markets, str(data / "okx")]
    for _ in range(2):
        assert run(okx) == 0
        capsys.readouterr()
        lines, _ = show(capsys, "-p", PAIR, "-t", "1h", "--timerange", "20240805-20240806")
        hours = {row["date"][11:13]: row for row in csv.DictReader(lines)}
        assert round(float(hours["03"]["liq_imbalance"]), 6) == 0.914495
        assert round(float(hours["05"]["liq_imbalance"]), 6) == 0.850547
        assert round(float(hours["07"]["liq_imbalance"]), 6) == 0.456287
        for pair, longs, shorts, long, short in (
            (PAIR, 611, 1000, 3_365_455.57, 5_812_640.86),
            ("ETH/USDT:USDT", 522, 1110, 4_448_202.33, 4_912_096.59),
            ("SOL/USDT:USDT", 200, 852, 769_328.01, 3_142_500.55),
        ):
            lines, _ = show(
                capsys, "-p", pair, "--exchange", "okx", "-t", "1h", "--min-coverage", "0",
                "--timerange", "20260304-20260306",
            )  # fmt: skip
            rows = list(csv.DictReader(lines))
            assert len(rows) == 48
            sums = {
                name: sum(float(row[name] or 0) for row in rows) for name in HEADER.split(",")[1:5]
            }
            assert round(sums["liq_long"], 2) == long
            assert round(sums["liq_short"], 2) == short
            counts = [
                sum(float(row[f"liq_{side}_count"] or 0) for row in rows)
                for side in ("long", "short")
            ]
            assert counts == [longs, shorts]
    lines, _ = show(
        capsys, "-p", PAIR, "--exchange", "okx", "-t", "1h",
        "--timerange", "20260304T2200-20260305T1200",
    )  # fmt: skip
    rows = list(csv.DictReader(lines))
    assert [row["date"][11:13] for row in rows if row["liq_total"] == ""] == ["22", "11"]
    (ten,) = [row for row in rows if row["date"][11:13] == "10"]
    assert (float(ten["liq_long"]), round(float(ten["liq_short"]), 2)) == (0.0, 2_419_124.75)
    assert float(ten["liq_short_count"]) == 336
    lines, _ = show(capsys, "-p", PAIR, "-t", "1h", "--timerange", "20240619-20240819")
    rows = list(csv.DictReader(lines))
    assert [row["date"][:13] for row in rows if not row["liq_total"]] == [
        f"2024-06-19T{hour:02}" for hour in range(21)
    ]
    absent = [row for row in rows if row["liq_total"] == "0.0"]
    assert len(absent) == 19
    assert absent[0]["date"] == "2024-06-22T10:00:00+00:00"
    told = ("liq_imbalance", "liq_coverage", "liq_long_count", "liq_short_count")
    assert {tuple(row[name] for name in told) for row in absent} == {("", "1.0", "", "")}


def test_import_reports_new_and_known_rows(folder, capsys):
    words = ["import-data", "--source", "coinalyze", "--unit", "usd", "answer.json"]
    assert run(words) == 0
    printed = capsys.readouterr()
    assert "1h bars" in printed.out
    assert "2024-01-01 02:00 UTC, may be partial and was left out" in printed.err
    assert run(words) == 0
    capsys.readouterr()
    lines, _ = show(capsys, "-p", PAIR, "--timerange", "20240101T0000-20240101T0300", "-t", "1h")
    assert [line.split(",")[3] for line in lines[1:4]] == ["400.0", "50.0", ""]


def test_list_data_names_holes_and_matches(stored, capsys):
    assert run(["list-data", "-p", PAIR]) == 0
    printed = capsys.readouterr()
    assert "BTC/USDC:USDC" in printed.out
    assert "Hole: BTC/USDT:USDT binance feed 2024-01-01 02:30 ... 2024-01-01 05:00" in printed.err
    assert "BTC/USDT:USDT reads on binance: BTC/USDT:USDT" in printed.err
    assert "binance shows one order per symbol and second (2024-01-01 " in printed.err
    assert "volumes are a lower bound" in printed.err
    assert run(["list-data", "-p", PAIR, "--exchange", "all"]) == 0
    printed = capsys.readouterr()
    assert "BTC/USDT:USDT reads on okx: BTC/USDC:USDC" in printed.err
    assert "BTC/USDT:USDT reads on hyperliquid: nothing" in printed.err


def test_list_data_shows_live_feeds_and_their_gaps(stored, folder, capsys):
    now = int(time.time() * 1000)
    with Store(stored) as store, store.write() as writer:
        for channel, updated in (("linear", now - 10_000), ("inverse", now - 20_000)):
            feed = writer.feed("binance", channel, "binance")
            feed = writer.cover(feed, utc("2026-09-01 10:00:00"), utc("2026-09-01 10:07:30"))
            feed = writer.cover(feed, utc("2026-09-01 10:08:00"), utc("2026-09-01 12:00:00"))
            writer.gap(feed, utc("2026-09-01 10:07:30"), utc("2026-09-01 10:08:00"), "silence")
            # Another collector listened to three seconds of these four.
            writer.gap(feed, utc("2026-09-01 11:59:57"), utc("2026-09-01 12:00:01"), "start")
            writer.gap(feed, utc("2026-09-01 11:00:00"), utc("2026-09-01 11:00:09"), "reconnect")
            writer.seal(feed, utc("2026-09-01 11:59:00"), updated)
        writer.seal(writer.feed("okx", "swap", "okx"), 0, 0)
    assert run(["list-data"]) == 0
    printed = capsys.readouterr()
    found = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in printed.out.partition("Live feeds")[2].splitlines()
        if line.startswith("│")
    ]
    times = ["2026-09-01 10:00", "2026-09-01 12:00", "2026-09-01 11:59"]
    assert found == [
        ["binance", "inverse", "gone", *times, "2", "31.0 s"],
        ["binance", "linear", "running", *times, "2", "31.0 s"],
        ["okx", "swap", "stopped", "-", "-", "-", "0", "0.0 s"],
    ]
    assert "Gap" not in printed.err
    for words in (["--gaps"], ["-p", PAIR]):
        assert run(["list-data", *words, "--exchange", "binance"]) == 0
        printed = capsys.readouterr()
        assert "okx" not in printed.out
        gaps = [line for line in printed.err.splitlines() if "binance linear" in line]
        assert gaps == [
            f"Gap: binance linear 2026-09-01 {gap}"
            for gap in (
                "10:07:30 ... 2026-09-01 10:08:00 (silence, 30.0 s)",
                "11:00:00 ... 2026-09-01 11:00:09 (reconnect, 9.0 s, 0.0 s still missing)",
                "11:59:57 ... 2026-09-01 12:00:01 (start, 4.0 s, 1.0 s still missing)",
            )
        ]


def test_list_data_of_a_store_whose_collector_has_just_begun(folder, capsys):
    with Store("sqlite:///new.sqlite", create=True) as store, store.write() as writer:
        writer.feed("bybit", "linear", "bybit")
    assert run(["list-data", "--db-url", "sqlite:///new.sqlite"]) == 0
    assert "Live feeds" in capsys.readouterr().out
    assert run(["list-data", "--db-url", "sqlite:///new.sqlite", "-p", PAIR]) == 2


def test_simulated_data_are_labelled_and_kept_apart(folder, stored, capsys):
    simulate = ["simulate", "-p", PAIR, "-t", "1h", "--timerange", "20240101-20240103"]
    assert run(simulate) == 0
    printed = capsys.readouterr()
    assert "SIMULATED" in printed.out
    assert "SIMULATED" in (folder / "user_data/simulated/data/SIMULATED.txt").read_text()
    db_url = "sqlite:///user_data/simulated/liquidations.sqlite"
    show(capsys, "-p", PAIR, "-t", "1h", "--db-url", db_url)
    assert run(["list-data", "--db-url", db_url]) == 0
    assert "SIMULATED" in capsys.readouterr().err
    words = ["import-data", "--source", "coinalyze", "--unit", "usd", "answer.json"]
    assert run([*words, "--db-url", db_url]) == 2
    assert "must never mix" in capsys.readouterr().err
    assert run([*simulate, "--db-url", stored]) == 2
    assert "must never mix" in capsys.readouterr().err
    (folder / "real" / "futures").mkdir(parents=True)
    (folder / "real" / "futures" / "BTC_USDT_USDT-1h-futures.feather").write_bytes(b"candles")
    assert run([*simulate, "--datadir", "real"]) == 2
    assert "were not simulated" in capsys.readouterr().err


def test_a_sampled_feed_shows_less_than_the_truth(folder, capsys):
    span = ["-p", PAIR, "-t", "1h", "--timerange", "20240101-20240111", "--events", "50000"]
    totals = {}
    for feed in ("true", "largest-per-second"):
        url = f"sqlite:///{feed}.sqlite"
        assert run(["simulate", *span, "--feed", feed, "--db-url", url]) == 0
        capsys.readouterr()
        lines, _ = show(capsys, "-p", PAIR, "-t", "1d", "--db-url", url)
        rows = list(csv.DictReader(lines))
        totals[feed] = [float(row["liq_total"]) for row in rows]
    assert len(totals["true"]) == 10
    pairs = list(zip(totals["largest-per-second"], totals["true"], strict=True))
    assert all(sampled <= true for sampled, true in pairs)
    assert sum(totals["largest-per-second"]) < 0.9 * sum(totals["true"])


def test_another_simulation_replaces_the_first(folder, capsys):
    """Candles and liquidations are always of one run."""
    span = ["-p", PAIR, "-t", "1h", "--timerange", "20240101-20240104"]
    found = {}
    for name, seeds in (("alone", [5]), ("after", [4, 5])):
        for seed in seeds:
            url = f"sqlite:///{name}.sqlite"
            assert run(["simulate", *span, "--seed", str(seed), "--db-url", url]) == 0
        capsys.readouterr()
        found[name], _ = show(capsys, "-p", PAIR, "-t", "1h", "--db-url", url)
    assert found["after"] == found["alone"]
    assert len(found["alone"]) == 1 + 72


def test_a_simulation_cut_short_leaves_no_liquidations_of_another(folder, capsys):
    words = ["simulate", "-p", PAIR, "-t", "1h", "--timerange", "20240101-20240103"]
    assert run(words) == 0
    candles = folder / "user_data/simulated/data/futures/BTC_USDT_USDT-1h-futures.feather"
    candles.unlink()
    candles.mkdir()  # writing the candles fails
    capsys.readouterr()
    assert run([*words, "--seed", "5"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ERROR: ")
    assert last.endswith("1h-futures.feather: Is a directory")
    assert run(["list-data", "--db-url", "sqlite:///user_data/simulated/liquidations.sqlite"]) == 2
    assert "no liquidations are stored" in capsys.readouterr().err


def test_a_simulation_goes_on_after_now(folder, capsys, monkeypatch):
    now = 1_790_000_030_000  # 2026-09-21 14:13:50 UTC
    monkeypatch.setattr("time.time", lambda: now / 1000)
    other = "ETH/USDT:USDT"
    assert run(["simulate", "--now", "-p", PAIR, other, "--days", "1", "--ahead", "2"]) == 0
    said = capsys.readouterr().err
    made = folder / "user_data/dry-run"
    assert {path.name for path in (made / "data/futures").glob("BTC*-futures.feather")} == {
        f"BTC_USDT_USDT-{timeframe}-futures.feather" for timeframe in ("1m", "5m", "1h")
    }
    # The past begins with yesterday, the future ends with the hour; 14:14:35 is within 14:14.
    start, end = utc("2026-09-20"), utc("2026-09-21 17:00")
    first = utc("2026-09-21 14:15")
    assert f"{PAIR} is pushed by -3% at 2026-09-21 14:15 UTC" in said
    assert f"{other} is pushed by +3% at 2026-09-21 14:17 UTC" in said
    with Store(f"sqlite:///{made}/exchange.sqlite") as store, store.read() as reader:
        everything = {one.pair: reader.events(one, 0, 2**62) for one in reader.series()}
        assert [reader.coverage(one).tolist() for one in reader.series()] == [[[start, end]]] * 2
    with Store(f"sqlite:///{made}/liquidations.sqlite") as store, store.read() as reader:
        for one in reader.series():
            assert one.source == "simulated"
            assert reader.coverage(one).tolist() == [[start, now]]
            past = everything[one.pair].take(everything[one.pair].timestamp < now)
            assert len(past) > 0
            same_bits(reader.events(one, 0, 2**62), past)
    for pair, begin, side in ((PAIR, first, 0), (other, first + 120_000, 1)):
        events = everything[pair]
        assert events.timestamp[-1] > now
        shock = events.take((events.timestamp >= begin) & (events.timestamp < begin + 60_000))
        own = shock.value_usd[shock.side == side].sum()
        assert own > 0.9 * shock.value_usd.sum()
        minute = events.value_usd[(events.timestamp >= now) & (events.timestamp < begin)].sum()
        assert own > 10 * minute / 3


def test_the_bots_store_is_not_the_one_that_is_played(folder, capsys):
    assert run(["simulate", "--now", "-p", PAIR, "--days", "1", "--ahead", "1"]) == 0
    made = ["--datadir", "user_data/dry-run/data", "--play"]
    play = "sqlite:///user_data/dry-run/exchange.sqlite"
    capsys.readouterr()
    for own in (play, f"sqlite:///{folder}/user_data/dry-run/exchange.sqlite"):
        assert run(["sandbox", *made, play, "--db-url", own, "--", "true"]) == 2
        assert "it would read its future" in capsys.readouterr().err
    show = "import os; print(os.environ.get('FREQTRADE__LIQUIDATIONS__SIMULATED'))"
    script = folder / "show.py"
    script.write_text(f"{show}; print(os.environ['FREQTRADE__LIQUIDATIONS__DB_URL'])")
    own = "sqlite:///user_data/dry-run/liquidations.sqlite"
    words = [sys.executable, "-m", "liquidations", "sandbox", "--db-url", own]
    run_it = ["--", sys.executable, str(script)]
    for played, label in ((["--play", play, "--fault", "cut@9+1"], "true"), ([], "None")):
        done = subprocess.run(
            [*words, *made[:2], *played, *run_it],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.split() == [label, own]


def _lock(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "user_data/liquidations.sqlite", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


BAD = {
    "pair without data": (
        ["show", "-p", "DOGE/USDT:USDT"],
        "no liquidations of DOGE/USDT:USDT are stored for binance. Get some with: liquidations",
    ),
    "pair of the spot market": (["show", "-p", "BTC/USDT"], "write it as Freqtrade does"),
    "no pair": (["show"], "name one pair with -p"),
    "time without coverage": (
        ["show", "-p", PAIR, "--timerange", "20200101-20200102"],
        "only 2024-01-01 01:00 to 2024-01-02 00:00. Choose a --timerange within",
    ),
    "empty timerange": (
        ["show", "-p", PAIR, "-t", "1h", "--timerange", "20240101T0010-20240101T0020"],
        "choose a longer --timerange",
    ),
    "unknown exchange": (["show", "-p", PAIR, "--exchange", "binanc"], 'did you mean "binance"?'),
    "unknown timeframe": (["show", "-p", PAIR, "-t", "1x"], "write it as Freqtrade does"),
    "seconds": (["show", "-p", PAIR, "-t", "30s"], "not a timeframe of one minute or more"),
    "share above 1": (["show", "-p", PAIR, "--min-coverage", "90"], "must be a number from 0 to 1"),
    "months as a period": (
        ["import-data", "--source", "coinalyze", "--unit", "usd", "-t", "1M", "answer.json"],
        "minutes, hours or days, not 1M",
    ),
    "unknown source": (
        ["import-data", "--source", "coinglas", "answer.json"],
        "unknown source 'coinglas'; known: coinalyze",
    ),
    "no unit": (["import-data", "--source", "coinalyze", "answer.json"], "--unit usd"),
    "missing file": (
        ["import-data", "--source", "okx", "nowhere.json"],
        "there is no file nowhere.json",
    ),
    "truncated file": (
        ["import-data", "--source", "okx", "--markets", "markets.json", "cut.json"],
        "cut.json: this is not JSON, or it was cut off",
    ),
    "wrong file": (
        ["import-data", "--source", "okx", "--markets", "markets.json", "answer.json"],
        "answer.json: expected OKX's answer",
    ),
    "wrong markets": (
        ["import-data", "--source", "okx", "--markets", "answer.json", "page.json"],
        "answer.json: expected the exchange's instruments answer",
    ),
    "unknown contract": (
        ["import-data", "--source", "okx", "--markets", "markets.json", "page.json"],
        "the size of a contract of 'BTC-USDT-SWAP' is unknown",
    ),
    "missing candles": (
        ["import-data", "--source", "coinalyze", "--unit", "base", "answer.json"],
        "freqtrade download-data --exchange binance --trading-mode futures -p BTC/USDT:USDT -t 1h "
        "--timerange 20240101-20240102",
    ),
    "no store": (
        ["list-data", "--db-url", "sqlite:///user_data/none.sqlite"],
        "there is no liquidation store at sqlite:///user_data/none.sqlite",
    ),
    "another file as a store": (
        ["list-data", "--db-url", "sqlite:///answer.json"],
        "this file is something else",
    ),
    "not a database URL": (["list-data", "--db-url", "liquidations.sqlite"], "a database URL"),
    "another database": (
        ["list-data", "--db-url", "mysql://host/db"],
        "must begin with sqlite:/// or postgresql+psycopg://",
    ),
    "two slashes": (
        ["import-data", "--source", "coinalyze", "--unit", "usd", "answer.json"]
        + ["--db-url", "sqlite://user_data/x.sqlite"],
        "with three slashes",
    ),
    "a store in memory": (
        ["import-data", "--source", "coinalyze", "--unit", "usd", "answer.json"]
        + ["--db-url", "sqlite:///:memory:"],
        "names no file",
    ),
    "a port that is none": (
        ["list-data", "--db-url", "postgresql+psycopg://user@host:port/db"],
        "is not a database URL",
    ),
    "missing folder": (
        ["import-data", "--source", "coinalyze", "--unit", "usd", "answer.json"]
        + ["--db-url", "sqlite:///none/l.sqlite"],
        "the folder none does not exist",
    ),
    "locked store": (
        ["import-data", "--source", "coinalyze", "--unit", "usd", "answer.json"]
        + ["--db-url", "sqlite:///user_data/liquidations.sqlite?timeout=0.1"],
        "database is locked; another process is writing to it; wait until it is done",
    ),
    "read-only store": (
        ["import-data", "--source", "coinalyze", "--unit", "usd", "answer.json"]
        + ["--db-url", "sqlite:///file:user_data/liquidations.sqlite?mode=ro&uri=true"],
        "readonly database; it can't be written; check the permissions",
    ),
    "bad timerange": (["show", "-p", PAIR, "--timerange", "yesterday"], "Incorrect syntax"),
    "days of a simulation": (["simulate", "--timerange", "20240101-"], "a first and a last day"),
    "days without now": (["simulate", "--days", "3"], "belong to --now"),
    "now and a timerange": (["simulate", "--now", "--timerange", "20240101-20240102"], "--days"),
    "no day": (["simulate", "--now", "--days", "0"], "--days must be a whole number from 1"),
    "unknown fault": (["sandbox", "--fault", "crash@1+1"], "KIND@SECONDS+LENGTH"),
    "nothing to play": (
        ["sandbox", "--play", "sqlite:///nowhere.sqlite", "--", "true"],
        "no candles of linear futures",
    ),
    "sandbox without candles": (["sandbox", "--", "true"], "liquidations simulate"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_an_exit_code_and_an_unchanged_store(case, folder, stored, capsys):
    (folder / "cut.json").write_text(json.dumps([PAGE])[:-9])
    (folder / "page.json").write_text(json.dumps(PAGE))
    markets = {"data": [{"instType": "SWAP", "instId": "ETH-USDT-SWAP", "uly": "ETH-USDT"}]}
    markets["data"][0] |= {"ctType": "linear", "ctVal": "0.1", "ctMult": "1", "settleCcy": "USDT"}
    (folder / "markets.json").write_text(json.dumps(markets))
    with Store(stored) as store:
        before = store.fingerprint()
    arguments, message = BAD[case]
    lock = _lock(folder) if case == "locked store" else None
    try:
        code = run(arguments)
    finally:
        if lock is not None:
            lock.close()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ERROR")]
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
    with Store(stored) as store:
        assert store.fingerprint() == before
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"min_coverag": 1}, 'unknown key "min_coverag"; did you mean "min_coverage"?'),
        ({"exchanges": 3}, '"all" or a list of'),
        ([], "must be an object"),
    ],
)
def test_a_mistake_in_the_section_stops_every_command(section, message, folder, stored, capsys):
    config = json.loads((folder / "config.json").read_text())
    config["liquidations"] = section
    (folder / "config.json").write_text(json.dumps(config))
    for words in (
        ["show", "-p", PAIR],
        ["list-data"],
        ["import-data", "--source", "coinalyze", "--unit", "usd", "answer.json"],
    ):
        assert run(words) == 2
        assert message in capsys.readouterr().err


def test_a_newer_store_names_the_upgrade(stored, folder, capsys):
    with sqlite3.connect(folder / "user_data/liquidations.sqlite") as connection:
        connection.execute("UPDATE liq_meta SET value = ?", (SCHEMA_VERSION + 1,))
    connection.close()
    assert run(["list-data"]) == 2
    assert "pip install --upgrade freqtrade-liquidations" in capsys.readouterr().err


def test_without_a_config_file_an_exchange_must_be_named(stored, folder, capsys):
    (folder / "config.json").unlink()
    assert run(["list-data"]) == 0
    assert run(["show", "-p", PAIR, "-t", "1h"]) == 2
    assert "--exchange" in capsys.readouterr().err
    lines, _ = show(capsys, "-p", PAIR, "-t", "1h", "--exchange", "binance")
    assert lines[0] == HEADER


def test_every_command_has_help(capsys):
    assert run([]) == 2
    overview = capsys.readouterr().out
    for command in COMMANDS:
        assert command in overview
        with pytest.raises(SystemExit, match="0"):
            run([command, "--help"])
        text = capsys.readouterr().out
        assert "--db-url" in text
        assert "--userdir" in text
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("liquidations ")


def test_freqtrades_parser_is_what_we_rest_on():
    """Names with an underscore that a new Freqtrade may change; see LiquidationArguments."""
    arguments = LiquidationArguments(["show", "-p", PAIR, "--timerange", "20240101-", "-v"])
    args = arguments.get_parsed_arg()
    assert args["pairs"] == [PAIR]
    assert args["timerange"] == "20240101-"
    assert args["verbosity"] == 1
    assert isinstance(arguments.parser, argparse.ArgumentParser)
    assert "config" in args
    assert "user_data_dir" in args
    assert "datadir" in args


def test_output_into_a_closed_pipe_is_no_error(stored):
    words = f"{sys.executable} -m liquidations show --format csv -p {PAIR} -t 1m | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words}"], capture_output=True, text=True, check=False
    )
    assert done.stdout == HEADER + "\n"
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_csv_parses_as_csv(stored, capsys):
    lines, _ = show(capsys, "-p", PAIR, "-t", "1h")
    rows = list(csv.reader(io.StringIO("\n".join(lines))))
    assert {len(row) for row in rows} == {8}
