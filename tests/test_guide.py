"""The users' guide: every reading has its section, every example runs, every picture is drawn."""

import importlib.util
import re
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from test_documents import blocks
from test_provider import strategy_of

import liquidations
from liquidations import strategy as door
from liquidations.cli import run
from liquidations.exchanges import EXCHANGES, REGIMES


GUIDE = REPOSITORY / "docs/readings.md"
TEXT = GUIDE.read_text(encoding="utf-8")
FOLDER = REPOSITORY / "docs/readings"
CODE = blocks(TEXT, "python")

#: What it is a reading of the columns for, if not a reading itself.
NO_READINGS = {
    "add_context", "add_corrected", "add_liquidations", "add_thresholds", "alert",
    "context_pairs", "prepare_liquidations",
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    pytest.importorskip("plotly")
    spec = importlib.util.spec_from_file_location("pictures", REPOSITORY / "docs/pictures.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # A dataclass looks up the names of its annotations there.
        patch.setitem(sys.modules, "pictures", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def market(pictures, tmp_path_factory):
    door._warned.clear()
    return pictures.Simulated(tmp_path_factory.mktemp("market"))


# --- the text -------------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    """Return heading → text of the guide's sections, the headings of both levels."""
    parts = re.split(r"^##+ (.+)$", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_public_name_has_a_section_with_an_example_and_when_it_lies():
    named = {}
    for heading, text in sections().items():
        named |= dict.fromkeys(re.findall(r"`(\w+)`", heading), text)
    assert set(named) == set(liquidations.__all__)
    for name, text in named.items():
        assert re.search(r"\*\*When (it|they) lies?:\*\*", text), name
        assert any(f"{name}(" in code for code in blocks(text, "python")), name


def test_the_table_names_every_reading_once():
    rows = re.findall(r"^\| \[`(\w+)`\]", TEXT, re.MULTILINE)
    assert sorted(rows) == sorted(set(liquidations.__all__) - NO_READINGS)


def test_links_lead_somewhere():
    # As GitHub makes them: small letters, a dash for a blank, nothing else but letters.
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in sections()}
    for file, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", TEXT):
        assert not file or (GUIDE.parent / file).exists(), file
        assert not anchor or anchor in anchors, anchor


def test_regimes_are_those_of_the_code():
    for exchange in EXCHANGES:
        assert exchange in TEXT.lower()
        for start, _ in REGIMES[exchange][1:]:
            date = np.datetime64(start, "ms").astype("datetime64[D]")
            assert f"| {date} |" in TEXT, f"{exchange}: {date}"


def test_pictures_are_there_and_named_as_simulated():
    shown = re.findall(r"!\[(.*?)\]\(readings/(.*?)\)", TEXT)
    assert sorted(file for _, file in shown) == sorted(one.name for one in FOLDER.iterdir())
    for title, file in shown:
        assert title.startswith("SIMULATED")
        head = (FOLDER / file).read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", head[16:24]) == (1000, 500)


# --- the examples ---------------------------------------------------------------------------------


def test_every_example_runs(pictures, market):
    """Run all blocks one after the other, as if they stood in one strategy."""
    dataframe = market.dealt()[["date", "open", "high", "low", "close", "volume"]]
    strategy = strategy_of(market.urls[1], exchanges=list(pictures.DEALT))
    strategy.timeframe = "1h"
    strategy.dp = market
    names = {name: getattr(liquidations, name) for name in liquidations.__all__}
    names |= {"np": np, "self": strategy, "metadata": {"pair": pictures.BTC}}
    names |= {"dataframe": dataframe}
    for code in CODE:
        exec(compile(code, code, "exec"), names)
    frame = names["dataframe"]
    assert len(frame) == len(dataframe)
    made = set(re.findall(r'^dataframe\["([\w%-]+)"\] =', "\n".join(CODE), re.MULTILINE))
    assert len(made) > 30
    # Orders are dealt out to three feeds: none of them is full, and none lacks its counts.
    silent = {"saturated", "stand_in"}
    for column in made:
        values = frame[column].dropna()
        assert len(values) > 500, column
        assert (values != 0).any() == (column not in silent), column
    # The text names no column that is not there; FreqAI's begin with its signs.
    text = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    assert set(re.findall(r"`(liq_\w+)`", text)) <= set(frame) | {"liq_some"}
    assert names["lower"].le(names["upper"]).sum() > 500
    assert names["ten"] == 10


def test_examples_of_methods(market):
    names = {"context_pairs": liquidations.context_pairs}
    (code,) = (code for code in CODE if "def informative_pairs" in code)
    exec(code[code.index("def ") :], names)
    dp = SimpleNamespace(
        current_whitelist=lambda: ["BTC/USDT:USDT"], get_funding_rate_timeframe=lambda: "1h"
    )
    assert names["informative_pairs"](SimpleNamespace(dp=dp)) == [
        ("BTC/USDT:USDT", "1h", "open_interest"),
        ("BTC/USDT:USDT", "1h", "funding_rate"),
    ]


def test_how_often_readings_speak_in_the_recorded_hours(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user_data").mkdir()
    url, data = f"sqlite:///{tmp_path / 'recorded.sqlite'}", recorded / "data/candles"
    words = f"import-data --db-url {url} --source coinalyze --unit base --datadir {data}"
    assert run([*words.split(), str(recorded / "data/coinalyze")]) == 0

    def candles(pair, timeframe="1h", kind="futures"):
        return pd.read_feather(data / "futures" / f"BTC_USDT_USDT-{timeframe}-{kind}.feather")

    strategy, metadata = strategy_of(url), {"pair": "BTC/USDT:USDT"}
    strategy.dp = SimpleNamespace(
        get_pair_dataframe=candles, get_funding_rate_timeframe=lambda: "1h"
    )
    frame = liquidations.add_liquidations(strategy, candles("BTC"), metadata)
    frame = liquidations.add_context(strategy, frame, metadata)
    ratio, total = frame["liq_imbalance"], frame["liq_total"]
    known = total.notna()
    found = {
        "extreme": liquidations.extreme(ratio),
        "pressure": liquidations.pressure(frame["liq_long"], frame["liq_short"]),
        "shift": liquidations.shift(ratio),
        "flip": liquidations.flip(ratio),
        "return_to_balance": liquidations.return_to_balance(ratio),
        "high_volume": liquidations.high_volume(total),
        "sharp_move": liquidations.sharp_move(frame["high"], frame["low"], frame["close"]),
        "capitulation": liquidations.capitulation(frame),
        "quiet": liquidations.quiet(frame, liquidations.capitulation(frame)),
        "fragile": liquidations.fragile(frame),
        "gated_extreme": liquidations.gated_extreme(frame),
        "flush": liquidations.flush(frame, window=3),
        "isolated": liquidations.isolated(frame, window=4, lag=1),
    }
    table = re.findall(r"^\| \[`(\w+)`\].*\| ([\d.]+) \|$", TEXT, re.MULTILINE)
    assert {name for name, _ in table} == set(found)
    assert known.sum() == 1464
    for name, written in table:
        measured = 100 * (found[name] != 0)[known].mean()
        assert abs(measured - float(written)) <= (0.05 if "." in written else 0.5), name
    share = liquidations.intensity(total, frame["volume"] * frame["close"])[known]
    assert (round(share.median(), 4), round(share.max(), 3)) == (0.0004, 0.025)
    amount = frame["liq_open_interest_amount"]
    shown = liquidations.reported_share(total, amount, frame["close"], 24, 1)[known]
    assert round(shown.median(), 2) == 0.14
    bounds = liquidations.add_thresholds(strategy, frame, metadata, days=14)
    high, low = bounds["liq_imbalance_high"], bounds["liq_imbalance_low"]
    assert (round(high.min(), 2), round(high.max(), 2)) == (0.96, 1.0)
    adaptive = liquidations.extreme(ratio, high, low)[high.notna() & known]
    assert round((adaptive != 0).mean(), 2) == 0.24


# --- the pictures ---------------------------------------------------------------------------------


def times(trace) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(trace.x).tz_localize(None)


def markers(figure) -> list:
    return [one for one in figure.data if one.type == "scatter" and one.mode == "markers"]


def test_every_picture_shows_what_it_says(pictures, market):
    assert {f"{name}.png" for name in pictures.PICTURES} == {one.name for one in FOLDER.iterdir()}
    for name, picture in pictures.PICTURES.items():
        figure = picture(market)
        assert figure.layout.title.text.startswith("SIMULATED market: "), name
        kinds = {trace.type for trace in figure.data}
        assert {"candlestick", "scatter"} <= kinds
        assert ("heatmap" in kinds) is (name == "levels")
        rows = {}
        for trace in markers(figure):
            rows[trace.name] = rows.get(trace.name, 0) + len(trace.x)
        for trace in figure.data:
            if trace.type == "bar" or (trace.type == "scatter" and trace.mode == "lines"):
                assert np.isfinite(np.asarray(trace.y, dtype=float)).any(), f"{name}: {trace.name}"
        assert all(rows.values()), f"{name}: {rows}"
        assert set(rows) == {text for axis in figure.select_yaxes() for text in axis.ticktext or ()}


def test_markers_stand_where_the_ratio_is_extreme(pictures, market):
    figure = pictures.PICTURES["extreme"](market)
    (line,) = (one for one in figure.data if one.name == "liq_imbalance")
    ratio = pd.Series(line.y, times(line))
    marked = {one.marker.symbol: list(times(one)) for one in markers(figure)}
    assert marked["triangle-down"] == list(ratio.index[ratio > 0.8])
    assert marked["triangle-up"] == list(ratio.index[ratio < 0.2])
    # Nobody listened from 09:00 to 16:00 of the 21st: a gap, and no marker in it.
    assert list(ratio.index[ratio.isna()].hour) == list(range(9, 16))
    assert set(ratio.index[ratio.isna()].day) == {21}


def test_one_huge_order_of_one_exchange_is_extreme_and_not_robust(pictures, market):
    figure = pictures.PICTURES["exchanges"](market)
    at = pd.Timestamp("2025-05-26 05:00")
    assert {one.name for one in markers(figure) if at in times(one)} == {"extreme"}


def test_a_heat_map_adds_up_what_lies_between_two_prices(pictures):
    date = pd.Series(pd.date_range("2025-05-01", periods=1, tz="UTC"))
    usd, places = np.array([[10.0, 20.0, 5.0, 5.0]]), np.array([[1.0, 2.0, 3.0, 4.0]])
    heat = pictures._heat(places, usd, np.array([1.0, 2.0, 4.0]), date)
    # The largest two per cent are cut off.
    assert heat.index.tolist() == [2.0, 4.0]
    np.testing.assert_allclose(heat.to_numpy().ravel(), [19.8, 10.0])


def test_without_chromium_it_ends_with_one_line(pictures, monkeypatch):
    monkeypatch.setattr("liquidations.page.shutil.which", lambda name: None)
    with pytest.raises(SystemExit, match=r"there is none; install it, for example with: apt-get"):
        pictures.main([])
