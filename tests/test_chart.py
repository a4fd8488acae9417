"""Charts: what is drawn is what was given, gaps and sides included; merged candles by hand."""

import numpy as np
import pandas as pd
import pytest
from conftest import utc
from hypothesis import given
from hypothesis import strategies as st

from liquidations import liquidation_levels
from liquidations.chart import (
    MOST,
    READINGS,
    add_readings,
    figure,
    levels_heat,
    marked,
    merge,
    pyramid,
)
from liquidations.errors import LiquidationsError
from liquidations.simulate import resample, simulate


NAN = float("nan")
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
FIRST = "2024-08-05 00:00"


def candles(long, short, start=FIRST, step="5min", **more):
    """Build candles that rise by 1 from 100, and what was liquidated in them."""
    size = len(long)
    date = pd.date_range(start, periods=size, freq=step, tz="UTC").as_unit("ms")
    frame = pd.DataFrame({"date": date, "open": 100.0 + np.arange(size)})
    frame["high"], frame["low"] = frame["open"] + 2, frame["open"] - 1
    frame["close"], frame["volume"] = frame["open"] + 1, 10.0
    frame["liq_long"], frame["liq_short"] = np.array(long, float), np.array(short, float)
    frame["liq_total"] = frame["liq_long"] + frame["liq_short"]
    total = frame["liq_total"]
    frame["liq_imbalance"] = frame["liq_long"] / total.where(total > 0)
    frame["liq_coverage"] = np.where(total.isna(), 0.0, 1.0)
    return frame.assign(**more)


def traces(drawn, **wanted):
    """List the traces with these properties."""
    return [
        one
        for one in drawn.data
        if all(getattr(one, name, None) == v for name, v in wanted.items())
    ]


def times(x):
    return np.asarray(x, "datetime64[ms]").astype(np.int64).tolist()


def numbers(values):
    """Return a list in which NaN equals NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


# --- merged candles -------------------------------------------------------------------------------


def test_candles_are_merged_by_hand():
    long, short = [10, 0, 30, 5, NAN, 7, 0, 0], [0, 20, 0, 5, 8, 1, 0, 0]
    frame = candles(long, short)
    frame["liq_long_okx"] = [1, 2, 3, NAN, NAN, NAN, 4, 5]
    frame["liq_open_interest"] = [1, 2, NAN, 4, 5, 6, 7, NAN]
    frame["flip longs"] = [False, True, False, False, False, False, False, False]
    merged = merge(frame, "5m", "15m")
    assert times(merged["date"]) == [utc(f"2024-08-05 00:{m}") for m in ("00", "15", "30")]
    assert merged["open"].tolist() == [100, 103, 106]
    assert merged["high"].tolist() == [104, 107, 109]
    assert merged["low"].tolist() == [99, 102, 105]
    assert merged["close"].tolist() == [103, 106, 108]
    assert merged["volume"].tolist() == [30, 30, 20]
    # A third of the second candle was not observed. The third one is cut off by the frame's end.
    assert numbers(merged["liq_long"]) == [40, None, 0]
    assert numbers(merged["liq_short"]) == [20, 14, 0]
    assert numbers(merged["liq_total"]) == [60, None, 0]
    # The mean of the ratios would be 2/3 in the first, too, but by another way: 1, 0, 1.
    assert numbers(merged["liq_imbalance"]) == [40 / 60, None, None]
    assert merged["liq_coverage"].round(6).tolist() == [1, 0.666667, 1]
    assert numbers(merged["liq_long_okx"]) == [6, None, 9]
    assert numbers(merged["liq_open_interest"]) == [None, 6, None]
    assert merged["flip longs"].tolist() == [True, False, False]
    # With half of the time enough, the second one is what was seen of it.
    assert numbers(merge(frame, "5m", "15m", 0.5)["liq_long"]) == [40, 12, 0]


def test_a_hole_in_the_candles_is_not_observed():
    frame = candles([1] * 6, [1] * 6).drop(index=[1]).reset_index(drop=True)
    merged = merge(frame, "5m", "15m")
    assert numbers(merged["liq_long"]) == [None, 3]
    assert merged["close"].tolist() == [103, 106]


def test_weeks_begin_on_monday():
    frame = candles([1] * 9, [0] * 9, start="2024-08-04", step="D")
    merged = merge(frame, "1d", "1w")
    assert times(merged["date"]) == [utc("2024-07-29"), utc("2024-08-05"), utc("2024-08-12")]
    assert merged["liq_long"].tolist() == [1, 7, 1]


amounts = st.lists(
    st.tuples(*[st.one_of(st.just(NAN), st.integers(0, 1000).map(float))] * 2), max_size=40
)


@given(amounts, st.integers(0, 11), st.sampled_from([0.0, 0.4, 0.9, 1.0]))
def test_merged_candles_are_what_a_loop_finds(rows, offset, least):
    long, short = [row[0] for row in rows], [row[1] for row in rows]
    start = pd.Timestamp(FIRST) + pd.Timedelta(minutes=5 * offset)
    frame = candles(long, short, start=start)
    merged = merge(frame, "5m", "1h", least)
    hours = sorted({time // HOUR * HOUR for time in times(frame["date"])})
    assert times(merged["date"]) == hours
    for number, hour in enumerate(hours):
        inside = [place for place, t in enumerate(times(frame["date"])) if t // HOUR * HOUR == hour]
        for name, values in (("liq_long", long), ("liq_short", short)):
            seen = [values[place] for place in inside if not np.isnan(values[place])]
            enough = seen and len(seen) >= least * len(inside)
            told = merged[name].iloc[number]
            assert told == sum(seen) if enough else np.isnan(told)
        assert merged["high"].iloc[number] == max(frame["high"].iloc[inside])
        assert merged["open"].iloc[number] == frame["open"].iloc[inside[0]]


@given(amounts)
def test_steps_lead_to_the_same_candles_as_a_leap(rows):
    frame = candles([row[0] for row in rows], [row[1] for row in rows]).fillna(0.0)
    frame["liq_coverage"] = 1.0
    leap = merge(frame, "5m", "1h")
    steps = merge(merge(frame, "5m", "15m"), "15m", "1h")
    pd.testing.assert_frame_equal(steps, leap)


def test_a_year_of_5m_has_five_resolutions():
    year = candles(np.zeros(105_120), np.zeros(105_120), start="2023-01-01")
    sizes = {name: len(frame) for name, frame in pyramid(year, "5m").items()}
    assert sizes == {"5m": 105_120, "15m": 35_040, "1h": 8_760, "4h": 2_190, "1d": 365}
    assert sizes["1d"] <= MOST
    assert list(pyramid(year[:MOST], "5m")) == ["5m"]
    assert list(pyramid(candles(np.zeros(600), np.zeros(600), step="7min"), "7m")) == ["7m"]
    months = candles(np.zeros(600), np.zeros(600), start="1970-01-01", step="MS")
    assert list(pyramid(months, "1M")) == ["1M"]
    with pytest.raises(LiquidationsError, match="months"):
        merge(year, "5m", "1M")


# --- traces ---------------------------------------------------------------------------------------


def test_the_traces_hold_what_was_given():
    long, short = [10, 0, NAN, 5], [0, 20, NAN, 5]
    frame = candles(long, short, liq_open_interest=[1e9, 2e9, NAN, 3e9], liq_funding_rate=0.0001)
    drawn = figure(frame, "5m", title="BTC")
    opens = times(frame["date"])
    (price,) = traces(drawn, type="candlestick")
    for name in ("open", "high", "low", "close"):
        assert price[name].tolist() == frame[name].tolist()
    assert times(price.x) == opens
    (longs,), (shorts,) = traces(drawn, name="longs"), traces(drawn, name="shorts")
    assert numbers(longs.y) == [10, 0, None, 5]
    assert numbers(shorts.y) == [0, -20, None, -5]
    assert times(longs.x) == times(shorts.x) == opens
    (ratio,) = traces(drawn, name="imbalance")
    assert numbers(ratio.y) == [1, 0, None, 0.5]
    assert not ratio.connectgaps
    assert numbers(traces(drawn, name="open interest")[0].y) == [1e9, 2e9, None, 3e9]
    assert traces(drawn, name="funding rate")[0].y.tolist() == [0.0001] * 4
    # One axis of time, so that a zoom and a hover concern all.
    assert {one.xaxis for one in drawn.data} == {None}
    assert drawn.layout.hoversubplots == "axis"
    bands = [(one.y0, one.y1) for one in drawn.layout.shapes]
    assert bands == [(0.8, 1.04), (-0.04, 0.2)]


def test_without_context_there_are_no_panels_of_it():
    drawn = figure(candles([1], [2]), "5m", title="BTC")
    assert not traces(drawn, name="open interest") + traces(drawn, name="funding rate")
    assert "yaxis4" not in drawn.layout
    assert drawn.layout.xaxis.anchor == "y3"
    with pytest.raises(LiquidationsError, match="no candle"):
        figure(candles([], []), "5m", title="BTC")


def test_a_histogram_stands_on_the_middle():
    drawn = figure(candles([3, 1, 1, NAN], [1, 3, 1, 1]), "5m", title="BTC", histogram=True)
    (over,) = traces(drawn, name="imbalance, longs")
    (under,) = traces(drawn, name="imbalance, shorts")
    assert over.base == under.base == 0.5
    assert numbers(over.y) == [0.25, None, 0.0, None]
    assert numbers(under.y) == [None, -0.25, None, None]


def test_exchanges_are_stacked_and_their_bounds_told():
    frame = candles([3, 1, NAN], [1, 3, NAN])
    for exchange, long in (("okx", [1, NAN, NAN]), ("bybit", [2, 1, NAN])):
        for name in ("long", "short", "total"):
            frame[f"liq_{name}_{exchange}"] = long
    drawn = figure(
        frame, "5m", title="BTC", exchanges=("bybit", "okx"), lower_bound=["okx"], notes=["why"]
    )
    assert drawn.layout.barmode == "relative"
    told = {one.name: numbers(one.y) for one in drawn.data if one.yaxis == "y3"}
    assert told == {
        "bybit longs": [2, 1, None],
        "bybit shorts": [-2, -1, None],
        "okx longs ≥": [1, None, None],
        "okx shorts ≥": [-1, None, None],
    }
    assert "lower bound" in drawn.layout.yaxis3.title.text
    assert "why" in drawn.layout.title.subtitle.text
    # Of OKX alone the second candle is unknown: the upper half, not the whole panel.
    (okx,) = traces(drawn, name="okx not observed")
    assert (times(okx.x), okx.base, okx.y.tolist()) == ([utc("2024-08-05 00:05")], 0.5, [0.5])
    assert not len(traces(drawn, name="bybit not observed")[0].x)
    sum_of_all = figure(frame, "5m", title="BTC", lower_bound=True)
    assert traces(sum_of_all, name="longs ≥")
    assert not traces(sum_of_all, name="longs")


def test_what_was_not_observed_is_shaded_and_labelled():
    drawn = figure(candles([NAN, 1, NAN, NAN, 0], [NAN, 0, NAN, NAN, 0]), "5m", title="BTC")
    shades = traces(drawn, name="not observed")
    assert [one.yaxis for one in shades] == ["y6", "y7"]
    assert drawn.layout.yaxis6.overlaying == "y2"
    assert drawn.layout.yaxis7.overlaying == "y3"
    for one in shades:
        starts = [utc(FIRST) - 150_000, utc("2024-08-05 00:10") - 150_000]
        ends = [utc(FIRST) + 150_000, utc("2024-08-05 00:15") + 150_000]
        middles, widths = np.array(times(one.x)), np.array(one.width)
        assert (middles - widths / 2).tolist() == starts
        assert (middles + widths / 2).tolist() == ends
        assert (one.base, one.y.tolist()) == (0, [1, 1])
        assert one.texttemplate == "not observed"


def test_titles_are_texts_not_markup():
    drawn = figure(candles([1], [1]), "5m", title="<a href='x'>", notes=["<b>"])
    assert drawn.layout.title.text == "&lt;a href=&#x27;x&#x27;&gt;"
    assert drawn.layout.title.subtitle.text == "&lt;b&gt;"


# --- readings -------------------------------------------------------------------------------------


def test_markers_stand_at_their_candles():
    frame = candles([0] * 5, [1] * 5)
    for name in ("capitulation", "flip"):
        frame[f"{name} longs"], frame[f"{name} shorts"] = False, False
    frame.loc[1, "flip longs"] = True
    frame.loc[3, ["flip shorts", "capitulation shorts"]] = True
    assert marked(frame) == ["capitulation", "flip"]
    drawn = figure(frame, "5m", title="BTC", shown=("capitulation",))
    step = 0.7 * 3  # of the mean candle
    places = {}
    for one in traces(drawn, mode="markers"):
        there = np.flatnonzero(~np.isnan(one.y))
        places[one.legendgroup, one.hovertemplate] = [
            (times(one.x)[place], round(one.y[place], 6)) for place in there
        ]
        assert one.visible == (True if one.name == "capitulation" else "legendonly")
    second, fourth = utc("2024-08-05 00:05"), utc("2024-08-05 00:15")
    assert places == {
        ("capitulation", "longs"): [],
        ("flip", "longs"): [(second, 100 - step)],
        ("capitulation", "shorts"): [(fourth, 105 + step)],
        ("flip", "shorts"): [(fourth, 105 + 2 * step)],
    }


@pytest.fixture(scope="module")
def market():
    """Return 20 days of simulated hours with all columns, and of the last day's 5m candles."""
    made = simulate(4, utc("2024-01-01"), 20 * 1440, price=60_000.0)
    events = made.events
    frames = {}
    for step in (5 * MINUTE, HOUR):
        frame = resample(made.candles, step)
        place = (events.timestamp - utc("2024-01-01")) // step
        for side, name in enumerate(("long", "short")):
            own = events.side == side
            sums = np.bincount(place[own], events.value_usd[own], len(frame))
            frame[f"liq_{name}"] = sums
            frame[f"liq_{name}_count"] = np.bincount(place[own], minlength=len(frame)) * 1.0
        total = frame["liq_long"] + frame["liq_short"]
        frame["liq_total"] = total
        frame["liq_imbalance"] = frame["liq_long"] / total.where(total > 0)
        interest = made.open_interest.set_index("date")["open_interest_amount"]
        # As context.py knows it: the row counts once its hour is over.
        known = interest.reindex((frame["date"] - pd.Timedelta(hours=1)).dt.floor("h"))
        frame["liq_open_interest_amount"] = known.to_numpy()
        frames[step] = frame
    return frames


def test_readings_know_nothing_of_later_candles(market):
    frame = market[HOUR]
    told = add_readings(frame)
    assert marked(told) == list(READINGS)
    assert all(told[f"{name} {side}"].any() for name in marked(told) for side in ("longs", "shorts")
               if name in ("capitulation", "flip", "shift", "extreme", "sharp_move"))  # fmt: skip
    for size in (1, 2, 100, 301, 400):
        part = add_readings(frame[:size])
        pd.testing.assert_frame_equal(part, told[:size])
    less = add_readings(frame.drop(columns="liq_open_interest_amount"))
    assert set(READINGS) - set(marked(less)) == {"flush", "isolated"}


def test_a_persisting_reading_is_marked_once(market):
    told = add_readings(market[HOUR])
    speaks = told["flush longs"].to_numpy()
    assert speaks.any()
    assert not (speaks[1:] & speaks[:-1]).any()


# --- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [5 * MINUTE, HOUR])
def test_the_heat_map_adds_up_to_the_levels(market, step):
    frame = market[step][: 14 * DAY // step]
    heat = levels_heat(frame)
    opens = times(heat.columns)
    assert all((time + step) % HOUR == 0 for time in opens)
    assert len(opens) == 14 * 24
    whole = liquidation_levels(frame, reach=0.1, bucket=0.004)
    rows = np.searchsorted(times(frame["date"]), opens)
    ahead = (whole["liq_ahead_below"] + whole["liq_ahead_above"]).to_numpy()[rows]
    # A range of prices that reaches 10 % beyond holds all of it.
    np.testing.assert_allclose(heat.sum(skipna=False).to_numpy(), ahead, rtol=1e-9)
    assert (ahead > 0).any()
    # Between two prices: the difference of what lies within each.
    last, close = len(frame) - 1, frame["close"].iloc[-1]
    grid = close * (1 + 0.004 * np.arange(-25, 26))
    cells = levels_heat(frame, grid).iloc[:-1, -1].to_numpy()
    near, far = (
        liquidation_levels(frame, reach=reach, bucket=0.004).iloc[last] for reach in (0.02, 0.024)
    )
    assert cells[30] == pytest.approx(far["liq_ahead_above"] - near["liq_ahead_above"])
    assert cells[19] == pytest.approx(far["liq_ahead_below"] - near["liq_ahead_below"])


def test_the_heat_map_knows_nothing_of_later_candles(market):
    frame = market[5 * MINUTE]
    grid = np.linspace(40_000, 80_000, 101)
    size = 10 * 288 + 7
    whole, part = levels_heat(frame, grid), levels_heat(frame[:size], grid)
    # The last candle of an hour that is not over stands for it in the part.
    pd.testing.assert_frame_equal(part.iloc[:, :-1], whole.iloc[:, : part.shape[1] - 1])


def test_the_heat_map_stands_at_the_candles_whose_close_told_it(market):
    frame = market[5 * MINUTE][: 9 * 288]
    heat = levels_heat(frame)
    frame = frame[8 * 288 :].reset_index(drop=True)
    known = np.array(times(heat.columns)) + 5 * MINUTE
    for timeframe, merged in (("5m", frame), ("1h", merge(frame, "5m", "1h")),
                              ("4h", merge(frame, "5m", "4h"))):  # fmt: skip
        (drawn,) = traces(figure(merged, timeframe, title="BTC", heat=heat), type="heatmap")
        edges = times(drawn.x)
        length = {"5m": 5 * MINUTE, "1h": HOUR, "4h": 4 * HOUR}[timeframe]
        assert drawn.z.shape == (len(edges) - 1, len(drawn.y) - 1)
        assert len(set(np.diff(edges))) == 1  # else browsers draw it many times slower
        for number, usd in enumerate(drawn.z):
            opened = edges[number] + length // 2
            # Of the maps told by the close of that candle the last one.
            last = np.flatnonzero(known <= opened + length)[-1]
            np.testing.assert_array_equal(usd, heat.iloc[:-1, last].to_numpy())
