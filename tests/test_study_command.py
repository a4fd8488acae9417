"""``liquidations study``: what it prints, the report's page, and what it says when it can't."""

import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, bars_of, spans, utc

import liquidations.study as module
from liquidations.cli import run
from liquidations.commands import study as command
from liquidations.store import Store


PAIR = "BTC/USDT:USDT"
HOURS = 31 * 24
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "config.json", tmp_path)
    (tmp_path / "user_data").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return a folder with a simulated month: candles, open interest, liquidations."""
    folder = tmp_path_factory.mktemp("market")
    made = ["simulate", "--userdir", str(folder), "-p", PAIR, "-t", "1h"]
    assert run([*made, "--timerange", "20240101-20240201"]) == 0
    return folder / "simulated"


def study(capsys, market, *arguments, code=0):
    stored = ["--datadir", f"{market}/data", "--db-url", f"sqlite:///{market}/liquidations.sqlite"]
    assert run(["study", "-p", PAIR, "-t", "1h", *stored, *arguments]) == code
    return capsys.readouterr()


def test_it_prints_a_row_and_a_verdict_for_each_reading(simulated, capsys):
    printed = study(capsys, simulated)
    for name in (
        "capitulation",
        "flip",
        "sharp move",
        "flush",
        "bin: extreme, high volume, OI fell",
    ):
        assert re.search(rf"│ {name} +│", printed.out)
        assert re.search(rf"^{name}: (no edge|an edge|too few)", printed.out, re.MULTILINE)
    assert (
        f"SIMULATED {PAIR} (100% observed), 1h, 2024-01-01 00:00 to 2024-02-01 00:00" in printed.out
    )
    assert printed.out.splitlines()[-1].startswith("SIMULATED ")
    assert "after 14 bp of costs" in printed.out
    assert "SIMULATED: this market is invented" in printed.err


def test_json_has_every_number_and_no_nan(simulated, capsys):
    printed = study(
        capsys, simulated, "--format", "json", "--horizons", "2", "6", "--fee", "0.001",
        "--slippage", "0", "--split", "0.5", "--min-events", "5",
    )  # fmt: skip
    told = json.loads(printed.out, parse_constant=lambda name: pytest.fail(name))
    assert told["simulated"] is True
    assert {one["horizon"] for one in told["effects"]} == {2, 6}
    assert told["rules"]["least"] == 5
    assert told["parted"] == utc("2024-01-16 12:00")
    one = told["effects"][0]
    assert one["gross"] - one["mean"] == pytest.approx(20)
    assert one["pairs"][PAIR]["independent"] == one["independent"]


def test_equal_seeds_print_equal_numbers(simulated, capsys):
    first, second, other = (
        study(capsys, simulated, "--format", "json", "--seed", seed).out for seed in "001"
    )
    assert first == second != other


class Page(HTMLParser):
    """Collect what a page loads from elsewhere, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_report_is_one_page_that_loads_nothing(simulated, capsys, folder):
    printed = study(capsys, simulated, "-o", "report.html")
    assert "Report, to open in a browser: report.html" in printed.err
    text = (folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.links == []
    assert text.count("SIMULATED mean") >= 3
    assert "<title>SIMULATED Liquidations of" in text
    assert "No edge is promised" in text
    verdict = printed.out.splitlines()[-1].removeprefix("SIMULATED ")
    assert verdict in text


def test_a_browser_draws_the_report(simulated, capsys, folder):
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install -y chromium")
    study(capsys, simulated, "-o", "report.html")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={folder}/browser", "--virtual-time-budget=10000",
            (folder / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    figures = re.findall(r'<g class="trace scatter[^>]*>(.*?)</g></g>', done.stdout, re.DOTALL)
    assert done.stdout.count('class="main-svg"') >= 4, done.stderr[-2000:]
    # The reading's points are drawn, not only their axes.
    assert any("<path" in figure for figure in figures)


def test_without_plotly_it_names_the_line_that_installs_it(simulated, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    printed = study(capsys, simulated, "-o", "report.html", code=2)
    assert "pip install 'freqtrade-liquidations[plot]'" in printed.err


def candles(folder, hours: int = HOURS) -> None:
    """Write candles of an hour into Freqtrade's folder."""
    close = 100 * np.cumprod(1 + np.random.default_rng(1).choice((-0.003, 0.003), hours))
    opens = np.concatenate(([100.0], close[:-1]))
    frame = pd.DataFrame({"open": opens, "high": np.maximum(opens, close)})
    frame["low"], frame["close"], frame["volume"] = np.minimum(opens, close), close, 1.0
    date = pd.date_range("2024-01-01", periods=hours, freq="1h", tz="UTC").as_unit("ms")
    frame.insert(0, "date", date)
    futures = folder / "user_data/data/binance/futures"
    futures.mkdir(parents=True)
    frame.to_feather(futures / "BTC_USDT_USDT-1h-futures.feather")


def bars(folder, first: str, last: str) -> None:
    """Store bars of an hour, and that they were observed."""
    times = range(utc(first), utc(last), 3_600_000)
    values = np.random.default_rng(2).pareto(1, (2, len(times))) * 1000
    rows = bars_of(*zip(times, *values.tolist(), strict=True))
    db_url = f"sqlite:///{folder}/user_data/liquidations.sqlite"
    with Store(db_url, create=True) as store, store.write() as writer:
        covered = spans((first, last))
        writer.insert("binance", PAIR, "coinalyze", rows, covered, period=3_600_000)


JANUARY = ("study", "-p", PAIR, "-t", "1h", "--timerange", "20240101-20240201")


def test_real_data_are_called_a_lower_bound_and_missing_open_interest_is_told(folder, capsys):
    candles(folder)
    bars(folder, "2024-01-01", "2024-02-01")
    assert run([*JANUARY]) == 0
    printed = capsys.readouterr()
    assert "SIMULATED" not in printed.out + printed.err
    assert "volumes are a lower bound" in printed.out
    assert "No open interest: flush, isolated and its bins are left out" in printed.out
    assert "Liquidations: binance coinalyze" in printed.out
    assert "bin: extreme, high volume:" in printed.out


def test_what_another_tool_marked_as_invented_is_called_so(folder, capsys):
    """The liquidations are called real, the folder of the candles says that they are not."""
    candles(folder)
    bars(folder, "2024-01-01", "2024-02-01")
    (folder / "user_data/data/binance/SIMULATED.txt").write_text("invented\n")
    assert run([*JANUARY, "-o", "report.html"]) == 0
    printed = capsys.readouterr()
    assert f"SIMULATED {PAIR}" in printed.out
    assert printed.out.splitlines()[-1].startswith("SIMULATED ")
    assert "SIMULATED: this market is invented" in printed.err
    assert "<title>SIMULATED Liquidations of" in (folder / "report.html").read_text()
    assert run([*JANUARY, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["simulated"] is True


def test_without_a_config_the_flag_names_whose_candles_these_are(folder, capsys):
    (folder / "config.json").unlink()
    bars(folder, "2024-01-01", "2024-02-01")
    assert run([*JANUARY, "--exchange", "binance"]) == 2
    printed = capsys.readouterr().err
    assert "there are no 1h candles of BTC/USDT:USDT from 2024-01-01 00:00" in printed
    assert "user_data/data/binance; get them with: freqtrade download-data --exchange bi" in printed
    candles(folder)
    assert run([*JANUARY, "--exchange", "binance"]) == 0
    assert "2024-01-01 00:00 to 2024-02-01 00:00" in capsys.readouterr().out


def test_json_holds_no_infinity():
    plain = {"a": [np.inf, -np.inf, 1.5], "b": (np.nan, 2)}
    assert command._finite(plain) == {"a": [None, None, 1.5], "b": [None, 2]}


def test_readings_see_what_was_before_the_timerange_and_trades_do_not(folder, capsys):
    candles(folder)
    bars(folder, "2024-01-01", "2024-02-01")
    seen = []

    def spy(frames, timeframe, rules, *, start):
        seen.append((frames[PAIR]["date"].iloc[0], start))
        return genuine(frames, timeframe, rules, start=start)

    genuine = module.study
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "study", spy)
        later = [*JANUARY[:5], "--timerange", "20240111-20240201", "--horizons", "1"]
        assert run([*later, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    # 200 hours before the 11th.
    assert seen == [(pd.Timestamp("2024-01-02 16:00", tz="UTC"), utc("2024-01-11"))]
    assert (told["start"], told["end"]) == (utc("2024-01-11"), utc("2024-02-01"))
    assert told["candles"] == {PAIR: 21 * 24}
    assert told["coverage"] == {PAIR: 1.0}


def test_too_little_coverage_is_refused_in_one_line(folder, capsys):
    candles(folder)
    bars(folder, "2024-01-01", "2024-01-11")
    assert run([*JANUARY]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(
        r"ERROR: too little was observed from 2024-01-01 00:00 to 2024-02-01 00:00: "
        r"BTC/USDT:USDT 32% \(504 of 744 candles missing\); 70% is needed\. Get more with: "
        r"liquidations download-data -p BTC/USDT:USDT -t 1h, .*\n",
        printed.err,
    )


def test_without_a_timerange_it_studies_what_was_observed(folder, capsys):
    candles(folder)
    bars(folder, "2024-01-03", "2024-01-11")
    assert run([*JANUARY[:5], "--horizons", "1", "4", "12"]) == 0
    assert "2024-01-03 00:00 to 2024-01-11 00:00" in capsys.readouterr().out


def test_missing_candles_are_named_with_the_line_that_gets_them(folder, capsys):
    bars(folder, "2024-01-01", "2024-02-01")
    assert run([*JANUARY]) == 2
    printed = capsys.readouterr().err
    assert "there are no 1h candles of BTC/USDT:USDT from 2024-01-01 00:00" in printed
    assert "freqtrade download-data" in printed
    assert "--timerange 20240101-20240201" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--horizons", "4", "1"), "horizons must increase"),
        (("--split", "2"), "split must be from 0.1 to 0.9, got 2"),
        (("--fee", "5"), "fee must be from 0 to 0.1"),
        (("-o", "nowhere/report.html"), "nowhere is no folder"),
        (("-o", "config.json"), "--output ends in .html, got config.json"),
        (("-o", "user_data/liquidations.sqlite"), "--output ends in .html, got user_data/liqu"),
        (("-t", "1x"), "1x"),
        (("-t", "5m"), "no 5m candles of BTC/USDT:USDT"),
    ],
)
def test_mistakes_end_in_one_line(folder, capsys, arguments, says):
    candles(folder)
    bars(folder, "2024-01-01", "2024-02-01")
    before = (folder / "config.json").read_bytes()
    assert run([*JANUARY, *arguments]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert (folder / "config.json").read_bytes() == before
    assert run([*JANUARY]) == 0  # the store is what it was


def test_the_recorded_hours_are_studied_in_twenty_seconds(recorded, folder, capsys):
    store = ["--db-url", f"sqlite:///{folder}/recorded.sqlite"]
    datadir = ["--datadir", str(recorded / "data/candles")]
    arguments = ["--source", "coinalyze", "--unit", "base", str(recorded / "data/coinalyze")]
    assert run(["import-data", *store, *datadir, *arguments]) == 0
    capsys.readouterr()
    begun = time.perf_counter()
    pairs = ["-p", *(f"{base}/USDT:USDT" for base in ("BTC", "ETH", "SOL"))]
    timerange = ["--timerange", "20240620-20240819"]
    code = run(["study", *pairs, "-t", "1h", *timerange, *store, *datadir, "-o", "report.html"])
    assert code == 0
    assert time.perf_counter() - begun < 20
    printed = capsys.readouterr().out
    # Nothing in these two months beats what chance and costs leave.
    assert printed.splitlines()[-1].startswith("No edge after costs")
    assert (folder / "report.html").stat().st_size > 1_000_000
