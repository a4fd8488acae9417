"""``liquidations plot``: the page, the picture, and what a browser makes of them."""

import base64
import gzip
import json
import re
import shutil
import struct
import sys
import time

import numpy as np
import pandas as pd
import pytest
from browser import Browser, browser_or_skip
from conftest import REPOSITORY, utc
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType
from test_chart import candles

from liquidations import page as page_module
from liquidations.chart import figure, pyramid
from liquidations.cli import run
from liquidations.event import LONG, SHORT, SIMULATED
from liquidations.exchanges import KINDS
from liquidations.frame import name_exchange
from liquidations.page import page
from liquidations.simulate import resample, simulate
from liquidations.store import Store


PAIR = "BTC/USDT:USDT"
DAYS = 12
START = "2025-05-01"
#: Hours of the market in which nobody listened.
UNSEEN = (200, 212)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a config, candles of 5m and 1h, and the liquidations of two sources."""
    folder = tmp_path_factory.mktemp("plot")
    shutil.copy(REPOSITORY / "config.json", folder)
    (folder / "data/futures").mkdir(parents=True)
    (folder / "user_data").mkdir()
    made = simulate(4, utc(START), DAYS * 1440, price=60_000.0)
    handler = get_datahandler(folder / "data", "feather")
    for timeframe, kind, frame in (
        ("5m", CandleType.FUTURES, resample(made.candles, 300_000)),
        ("1h", CandleType.FUTURES, resample(made.candles, 3_600_000)),
        ("1h", CandleType.OPEN_INTEREST, made.open_interest),
        ("1h", CandleType.FUNDING_RATE, made.funding),
    ):
        handler.ohlcv_store(PAIR, timeframe, frame, kind)
    first, last = (utc(START) + 3_600_000 * hour for hour in UNSEEN)
    seen = np.array([[utc(START), first], [last, utc(START) + DAYS * 86_400_000]])
    events = made.events
    times = events.timestamp
    events = events.take(np.flatnonzero((times < first) | (times >= last)))
    columns = {"time": events.timestamp, "side": events.side, "usd": events.value_usd}
    pd.DataFrame(columns).to_feather(folder / "orders.feather")
    for name, source in (("simulated", SIMULATED), ("heard", "feed")):
        url = f"sqlite:///{folder / name}.sqlite"
        with Store(url, create=True) as store, store.write() as writer:
            writer.insert("binance", PAIR, source, events, seen)
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def plot(*words, store="simulated", code=0):
    where = ["--datadir", "data", "--db-url", f"sqlite:///{store}.sqlite", "-p", PAIR]
    assert run(["plot", *where, *words]) == code


def told(html):
    """Return what a page says of its figure, and the floats of all resolutions."""
    text = re.search(r'id="told">(.*?)</script>', html, re.DOTALL).group(1)
    block = re.search(r'id="numbers">(.*?)</script>', html, re.DOTALL).group(1)
    return json.loads(text), np.frombuffer(gzip.decompress(base64.b64decode(block)))


def test_the_page_holds_all_resolutions():
    size = 3_000
    random = np.random.default_rng(1)
    usd = np.where(random.random(size) < 0.1, np.nan, random.pareto(1, size))
    frames = pyramid(candles(usd, usd[::-1]), "5m")
    figures = {name: figure(frame, name, title="BTC") for name, frame in frames.items()}
    facts, block = told(page(figures))
    assert [one["name"] for one in facts["levels"]] == list(frames) == ["5m", "15m", "1h"]
    number = [one["name"] for one in facts["figure"]["data"]].index("shorts")
    assert "y" not in facts["figure"]["data"][number]
    for level, frame in zip(facts["levels"], frames.values(), strict=True):
        first, rows = level["traces"][number]["y"]
        values = block[first : first + rows]
        np.testing.assert_array_equal(-values, frame["liq_short"].to_numpy())
        first, rows = level["traces"][number]["x"]
        opens = frame["date"].dt.as_unit("ms").astype("int64")
        assert block[first : first + rows].tolist() == opens.tolist()


def test_the_page_takes_names_as_texts():
    name = "</title></script><script>alert(1)</script>&"
    drawn = figure(candles([1], [1]), "5m", title=name, notes=[name])
    html = page({"5m": drawn})
    assert "<script>alert" not in html
    title = html.partition("<title>")[2].partition("</title>")[0]
    assert title == "&lt;/title&gt;&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;"


def test_the_command_writes_a_page(folder, capsys):
    plot("-t", "1h", "--timerange", "20250508-20250512")
    printed = capsys.readouterr()
    file = folder / "user_data/plot/liquidations-BTC_USDT_USDT-1h.html"
    assert str(file) in printed.out.replace("\n", "")
    assert "SIMULATED" in printed.err
    facts, block = told(file.read_text())
    assert facts["figure"]["layout"]["title"]["text"] == f"SIMULATED {PAIR}, binance"
    (level,) = facts["levels"]
    number = [one["type"] for one in facts["figure"]["data"]].index("candlestick")
    first, rows = level["traces"][number]["x"]
    assert (rows, block[first]) == (4 * 24, utc("2025-05-08"))
    names = {one["name"] for one in facts["figure"]["data"]}
    assert {"levels (estimated)", "capitulation", "open interest", "funding rate"} <= names
    plot("-t", "1h", "--no-levels", "--histogram", "--readings", "flip", "-o", "other.html")
    facts, _ = told((folder / "other.html").read_text())
    data = {one["name"]: one for one in facts["figure"]["data"]}
    assert "levels (estimated)" not in data
    assert data["imbalance, longs"]["base"] == 0.5
    assert (data["flip"]["visible"], data["capitulation"]["visible"]) == (True, "legendonly")


def test_what_a_feed_does_not_show_is_said(folder, capsys):
    plot("-t", "1h", "-o", "heard.html", "--per-exchange", store="heard")
    err = capsys.readouterr().err
    assert f"binance shows {KINDS['latest']} (2025-05-01 00:00" in err
    assert "SIMULATED" not in err
    layout = told((folder / "heard.html").read_text())[0]["figure"]["layout"]
    assert layout["title"]["text"] == f"{PAIR}, binance"
    assert "lower bound" in layout["title"]["subtitle"]["text"]
    assert "lower bound" in layout["yaxis3"]["title"]["text"]


def test_without_context_the_line_that_gets_it_is_printed(folder, capsys, tmp_path):
    (tmp_path / "futures").mkdir()
    shutil.copy(folder / "data/futures/BTC_USDT_USDT-1h-futures.feather", tmp_path / "futures")
    words = ["-t", "1h", "--datadir", str(tmp_path), "-o", str(tmp_path / "x.html")]
    plot(*words)
    err = capsys.readouterr().err
    assert re.search(r"freqtrade download-data .*open_interest", err)
    names = {one["name"] for one in told((tmp_path / "x.html").read_text())[0]["figure"]["data"]}
    assert not {"open interest", "levels (estimated)", "flush"} & names


def test_without_a_config_the_flag_names_whose_candles_these_are(folder, capsys, tmp_path):
    tmp_path = tmp_path.resolve()
    (tmp_path / "user_data").mkdir()
    words = ["plot", "-p", PAIR, "-t", "1h", "--db-url", f"sqlite:///{folder}/simulated.sqlite"]
    words += ["--exchange", "binance"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert run(words) == 2
        err = capsys.readouterr().err
        assert "user_data/data/binance from 2025-05-01 00:00" in err
        assert "get them with: freqtrade download-data --exchange binance" in err
        shutil.copytree(folder / "data", tmp_path / "user_data/data/binance", dirs_exist_ok=True)
        assert run([*words, "-o", "x.html"]) == 0
        # The folder that is named is taken as it is.
        assert run([*words, "--datadir", str(folder / "data"), "-o", "y.html"]) == 0
    facts, _ = told((tmp_path / "x.html").read_text())
    assert "funding rate" in {one["name"] for one in facts["figure"]["data"]}
    assert (tmp_path / "y.html").exists()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("binance", "binance"),
        ("bybit", "bybit"),
        ("all", None),
        ("binance,okx", None),
        (None, None),
    ],
)
def test_only_one_exchange_names_whose_data_freqtrade_keeps(asked, named):
    config = {"user_data_dir": "u", "datadir": "u/data", "exchange": {"pair_whitelist": []}}
    found = name_exchange(config, {"exchange": asked})
    assert found["exchange"].get("name") == named
    assert str(found["datadir"]) == (f"u/data/{named}" if named else "u/data")
    assert config["exchange"] == {"pair_whitelist": []}
    own = {**config, "exchange": {"name": "okx"}}
    assert name_exchange(own, {"exchange": asked}) == own


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-t", "1h", "-o", "chart.pdf"], "ends in .html or .png, got chart.pdf"),
        (["-t", "1h", "-p", PAIR, "ETH/USDT:USDT"], "name one pair"),
        (["-t", "1h", "-p", "DOGE/USDT:USDT"], "no liquidations of DOGE/USDT:USDT are stored"),
        (["-t", "15m"], "no 15m candles of BTC/USDT:USDT in "),
        (["-t", "1h", "--timerange", "20240101-20240102"], "they go from 2025-05-01 00:00 to"),
        (["-t", "1h", "-o", "x.png", "--width", "3"], "--width must be a whole number"),
    ],
)
def test_mistakes_are_one_line(words, said, capsys):
    plot(*words, code=2)
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_what_is_not_installed_is_named(capsys, monkeypatch):
    monkeypatch.setattr(page_module, "BROWSERS", ("no-such-browser",))
    plot("-t", "1h", "-o", "x.png", code=2)
    assert "apt-get install chromium" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    plot("-t", "1h", code=2)
    assert "pip install 'freqtrade-liquidations[plot]'" in capsys.readouterr().err


# --- in a browser ---------------------------------------------------------------------------------


def test_a_picture_has_its_size(folder):
    browser_or_skip()
    plot("-t", "1h", "-o", "x.png", "--width", "900", "--height", "600", "--timerange", "20250508-")
    data = (folder / "x.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (900, 600)
    assert len(data) > 20_000  # an empty page has 3,000


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser_or_skip()
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def shown(folder, chromium):
    """Show twelve days of 5m candles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plot("-t", "5m", "-o", "shown.html")
    chromium.open(folder / "shown.html")
    return chromium


def zoom(browser, start, end):
    """Zoom to a time, and wait until the page has drawn what fits it."""
    browser.run("performance.clearMeasures()")
    change = json.dumps({"xaxis.range": [start, end]})
    browser.run(f"Plotly.relayout('chart', {change}).then(() => 1)")
    browser.wait("performance.getEntriesByName('show').length")
    return browser.run("document.getElementById('chart').dataset.resolution")


def test_the_page_loads_nothing_from_elsewhere(shown):
    asked = [
        one["params"]["request"]["url"]
        for one in shown.events
        if one["method"] == "Network.requestWillBeSent"
    ]
    assert asked[0].startswith("file://")
    assert all(url.startswith(("data:", "blob:")) for url in asked[1:])
    bad = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert not [one for one in shown.events if one["method"] in bad]
    # The policy holds: even a script of ours could not.
    blocked = "fetch('https://example.org').then(() => 'loaded', () => 'blocked')"
    assert shown.run(blocked) == "blocked"
    shown.events.clear()


def test_all_panels_are_drawn(shown):
    zoom(shown, "2025-05-09", "2025-05-10")
    titles = shown.run(
        "[...document.querySelectorAll('.infolayer text')].map(one => one.textContent).join()"
    )
    for name in ("price, 5m", "imbalance", "USD", "open", "funding"):
        assert name in titles
    counts = shown.run(
        """(() => {
          const count = (what) => document.querySelectorAll(what).length;
          return {
            candles: count(".xy .boxlayer .trace.boxes path.box"),
            heat: count(".xy .heatmaplayer image"),
            ratio: count(".xy2 .scatterlayer .js-line"),
            usd: count(".xy3 .barlayer .point path[d]"),
            interest: count(".xy4 .scatterlayer .js-line"),
            funding: count(".xy5 .scatterlayer .js-line"),
          };
        })()"""
    )
    # A day, and an eighth of it on both sides.
    assert counts["candles"] == pytest.approx(288 * 1.25, abs=2)
    # One way of each stretch is drawn in one piece.
    assert counts["heat"] == counts["interest"] == counts["funding"] == 1
    assert counts["ratio"] > 1
    assert counts["usd"] > 50
    # The panels lie below each other.
    tops = shown.run(
        """["xy", "xy2", "xy3", "xy4", "xy5"].map((name) =>
          document.querySelector(`.plot .${name}, .subplot.${name}`).getBoundingClientRect().top)"""
    )
    assert len(tops) == 5


def test_what_was_not_observed_is_shaded(shown):
    zoom(shown, "2025-05-09", "2025-05-10")
    shades = shown.run(
        """["xy6", "xy7"].map((name) =>
          [...document.querySelectorAll(`.${name} .barlayer .point`)].map((point) => {
            const box = point.querySelector("path").getBoundingClientRect();
            return [box.left, box.right, box.height, point.textContent];
          })).flat()"""
    )
    # Where a time lies on the screen.
    axis = "document.getElementById('chart')._fullLayout.xaxis"
    first, last = (utc(START) + 3_600_000 * hour - 150_000 for hour in UNSEEN)
    left = shown.run("document.querySelector('.nsewdrag').getBoundingClientRect().left")
    edges = [left + shown.run(f"{axis}.l2p({time})") for time in (first, last)]
    assert len(shades) == 2
    for one in shades:
        assert one[:2] == pytest.approx(edges, abs=1)
        assert one[2] > 60
        assert one[3] == "not observed"
    # Nothing is drawn there: no bar of 0 USD, no line.
    inside = f"2025-05-09T{UNSEEN[0] % 24 + 2:02}:30:00"
    drawn = shown.run(
        "document.getElementById('chart').data.filter(one => ['longs', 'shorts', 'imbalance']"
        f".includes(one.name)).map(one => one.y[one.x.indexOf('{inside}.000')])"
    )
    assert drawn == [None, None, None]  # NaN


def test_a_zoom_swaps_the_resolution(shown):
    frames = pyramid(pd.DataFrame({"date": []}), "5m")
    assert list(frames) == ["5m"]
    assert zoom(shown, "2025-05-01", "2025-05-13") == "1h"
    assert shown.run("document.getElementById('chart').dataset.candles") == str(12 * 24)
    # 5 days are 480 candles of 15m, 6 days 576: too many.
    assert zoom(shown, "2025-05-02", "2025-05-07") == "15m"
    assert zoom(shown, "2025-05-02", "2025-05-08") == "1h"
    assert zoom(shown, "2025-05-02", "2025-05-03") == "5m"
    assert shown.run("document.getElementById('chart').dataset.candles") == "288"
    assert shown.run("document.getElementById('chart').data.every(one => one.x.length < 700)")
    # What is seen of the price fills its panel.
    low, high = shown.run("document.getElementById('chart').layout.yaxis.range")
    frame = pd.read_feather("data/futures/BTC_USDT_USDT-5m-futures.feather")
    day = frame[(frame["date"] >= "2025-05-02") & (frame["date"] < "2025-05-03")]
    assert low < day["low"].min() < day["high"].max() < high
    assert high - low < 1.6 * (day["high"].max() - day["low"].min())


def test_the_wheel_zooms(shown):
    zoom(shown, "2025-05-02", "2025-05-08")
    shown.run("performance.clearMeasures()")
    for _ in range(6):
        shown.mouse("mouseWheel", 600, 200, deltaX=0, deltaY=-300)
        time.sleep(0.1)
    shown.wait("document.getElementById('chart').dataset.resolution != '1h'")
    time.sleep(0.5)  # until the wheel rests


def hover(browser, when):
    """Move the mouse to a time, over the panel of USD, and return what the label says."""
    left = browser.run("document.querySelector('.nsewdrag').getBoundingClientRect().left")
    axis = "document.getElementById('chart')._fullLayout.xaxis"
    place = left + browser.run(f"{axis}.l2p(Date.parse('{when}Z'))")
    browser.mouse("mouseMoved", place - 60, 500)
    time.sleep(0.2)
    browser.mouse("mouseMoved", place, 500)
    date = f"{int(when[8:10])} May 2025, {when[11:]}"
    label = "[...document.querySelectorAll('.hoverlayer text')].map(one => one.textContent)"
    return browser.wait(f"{label}.some(one => one.includes('{date}')) && {label}.join(' | ')")


def test_one_hover_tells_all_values_of_its_candle(shown):
    zoom(shown, "2025-05-05T10:00", "2025-05-05T14:00")
    frame = pd.read_feather("data/futures/BTC_USDT_USDT-5m-futures.feather")
    close = frame.set_index("date")["close"]
    orders = pd.read_feather("orders.feather")
    spoke = shown.run(
        """document.getElementById("chart").data.filter((one) => one.name === "capitulation")
          .flatMap((one) => one.x.filter((_, row) => !isNaN(one.y[row])))
          .filter((one) => one.startsWith("2025-05-05T1"))"""
    )
    assert "2025-05-05T12:05:00.000" in spoke
    for when in ("2025-05-05T12:00", "2025-05-05T12:05", "2025-05-05T12:10"):
        text = hover(shown, when)
        assert f"close: {close[pd.Timestamp(when, tz='UTC')]:,.2f}"[:-3] in text
        assert "open interest: $1." in text
        assert "funding rate: 0.0" in text
        # What is not there is not told by its neighbour.
        inside = orders[(orders["time"] >= utc(when)) & (orders["time"] < utc(when) + 300_000)]
        long, short = (inside["usd"][inside["side"] == side].sum() for side in (LONG, SHORT))
        assert f"longs: ${long:,.0f}" in text
        assert f"shorts: ${short:,.0f}" in text
        assert ("imbalance: " in text) == (long + short > 0)
        assert ("capitulation: longs" in text) == (f"{when}:00.000" in spoke)
    zoom(shown, "2025-05-09T08:00", "2025-05-09T14:00")
    text = hover(shown, "2025-05-09T12:00")
    assert "longs: not observed" in text
    assert "imbalance" not in text


def test_a_click_in_the_legend_shows_a_reading(shown):
    zoom(shown, "2025-05-05", "2025-05-06")
    count = "document.querySelectorAll('.xy .scatterlayer .point').length"
    before = shown.run(count)
    shown.run(
        """(() => {
          const c = document.getElementById("chart");
          const places = [...c.data.keys()].filter((place) => c.data[place].name === "extreme");
          return Plotly.restyle(c, { visible: true }, places).then(() => 1);
        })()"""
    )
    assert shown.run(count) > before
