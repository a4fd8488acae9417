"""Charts of liquidations: frame in, plotly figure out; several resolutions. Floor 4.

A figure has one time axis and panels below each other, so that a zoom and a hover concern all of
them. What has no column has no panel. A candle's values stand at its open, as Freqtrade names it;
a marker stands at the candle whose close told it. What was not observed is shaded, and is never
drawn as zero.

A browser draws some thousand candles fluently, a year of 5m has 105,120. So a chart has several
resolutions (:func:`pyramid`), of which ``page.py`` shows the one that fits the zoom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from liquidations import positioning, signals, significance
from liquidations.candles import candle_closes, candle_opens, timeframe_ms
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, Floats, Ints
from liquidations.imbalance import imbalance
from liquidations.levels import HOUR, liquidation_levels
from liquidations.series import array, column


if TYPE_CHECKING:
    import plotly.graph_objects as go

LONGS, SHORTS, RATIO = "#d32f2f", "#388e3c", "#2962ff"
PURPLE, TEAL = "#6a1b9a", "#00838f"
LIGHT, GREY, INK = "#eeeeee", "#9e9e9e", "#263238"
UNSEEN = "rgba(120, 120, 120, 0.22)"
HEAT = [[0, "rgba(255, 255, 255, 0)"], [0.3, "#fff3c4"], [0.65, "#ffb74d"], [1, "#e64a19"]]
#: Of several exchanges, from the bottom of a stack.
SHADES = {
    "longs": (LONGS, "#f06292", "#ff8a65", "#8e24aa"),
    "shorts": (SHORTS, "#26a69a", "#9ccc65", "#1565c0"),
}

#: Candles that a browser draws fluently.
MOST = 500

#: What candles are merged to, each fitting into the next.
LADDER = ("5m", "15m", "1h", "4h", "1d", "1w")

#: Readings that a chart marks: those with a side that speak of a moment. Where several speak of a
#: candle, what stands first here stands nearest to it.
READINGS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "capitulation": signals.capitulation,
    "flip": lambda frame: signals.flip(column(frame, "liq_imbalance")),
    "fragile": signals.fragile,
    "flush": lambda frame: _news(positioning.flush(frame)),
    "isolated": lambda frame: _news(positioning.isolated(frame)),
    "shift": lambda frame: signals.shift(column(frame, "liq_imbalance")),
    "return_to_balance": lambda frame: signals.return_to_balance(column(frame, "liq_imbalance")),
    "sharp_move": lambda frame: signals.sharp_move(frame["high"], frame["low"], frame["close"]),
    "gated_extreme": significance.gated_extreme,
    "extreme": lambda frame: signals.extreme(column(frame, "liq_imbalance")),
}
#: Those that are seen before anybody clicks into the legend.
SHOWN = ("capitulation",)
#: Readings that need open interest.
_CONTEXT = ("flush", "isolated")

_SYMBOLS = {
    "capitulation": "star",
    "flip": "diamond",
    "fragile": "x",
    "flush": "hourglass",
    "isolated": "pentagon",
    "shift": "triangle-right",
    "return_to_balance": "square",
    "sharp_move": "cross",
    "gated_extreme": "circle",
    "extreme": "circle-open",
}

#: Of the heat map of levels: the distance between two prices at which they are summed, as a share
#: of the close; how many of them there are on each side; the most cells of price.
_REACH, _REACHES, _CELLS = 0.004, 25, 300


def _news(reading: pd.Series) -> pd.Series:
    """Keep the first candle of each stretch in which a reading says the same."""
    return reading.where(reading != reading.shift(), 0.0)


def add_readings(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of each reading: ``flip longs`` and ``flip shorts``, and so on.

    :param frame: candles with the liquidation columns; open interest where there is any
    :return: a new frame with two bool columns for each of ``READINGS`` that can be known
    """
    told = {}
    for name, reading in READINGS.items():
        if name in _CONTEXT and "liq_open_interest_amount" not in frame:
            continue
        says = array(reading(frame))
        told[f"{name} longs"], told[f"{name} shorts"] = says > 0, says < 0
    return pd.concat([frame, pd.DataFrame(told, index=frame.index)], axis=1)


def marked(frame: pd.DataFrame) -> list[str]:
    """List the readings whose columns a frame has, as :func:`add_readings` adds them."""
    return [name for name in READINGS if f"{name} longs" in frame]


# --- resolutions ----------------------------------------------------------------------------------


def pyramid(
    frame: pd.DataFrame, timeframe: str, least: float = 0.9, most: int = MOST
) -> dict[str, pd.DataFrame]:
    """Merge candles to higher timeframes until few enough are left.

    :param frame, least: as for :func:`merge`
    :param timeframe: of the candles
    :param most: of the candles of the last one, if there is a timeframe that reaches it
    :return: timeframe → candles, the given ones first
    """
    found = {timeframe: frame}
    base = timeframe_ms(timeframe)
    for longer in LADDER:
        length = timeframe_ms(longer)
        fits = base and length and length > base and not min(length, DAY) % base
        if len(list(found.values())[-1]) > most and fits:
            found[longer] = merge(frame, timeframe, longer, least)
    return found


def merge(frame: pd.DataFrame, timeframe: str, longer: str, least: float = 0.9) -> pd.DataFrame:
    """Merge candles to those of a higher timeframe.

    Prices to the first open, the highest high, the lowest low and the last close; what was traded,
    liquidated or counted to sums; the imbalance to the ratio of the sums; coverage to its mean; a
    reading speaks where it spoke in any of the candles; all else is the last one's, NaN or not.

    :param frame: candles, with ``date`` and columns of any of these
    :param timeframe: of the candles; it must fit into the longer one
    :param least: the share of a merged candle's time that must be known for its sums, as
        ``min_coverage`` is for a candle: they are NaN below it, and where nothing is known. What is
        missing at both ends of the frame is not missed.
    :return: a new frame with the same columns

    >>> dates = pd.date_range("2024-08-05", periods=3, freq="30min", tz="UTC")
    >>> half = pd.DataFrame({"date": dates, "liq_long": [9.0, 0.0, 2.0], "liq_short": 1.0})
    >>> half["liq_imbalance"] = [0.9, 0.0, 2 / 3]
    >>> merge(half, "30m", "1h")["liq_imbalance"].round(3).tolist()
    [0.818, 0.667]
    """
    opens = _ms(frame)
    if not len(opens):
        return frame
    length = timeframe_ms(longer)
    if length is None:
        raise LiquidationsError(f"candles are not merged to months, got {longer}")
    merged = candle_opens(int(opens[0]) - length + 1, int(opens[-1]) + 1, longer)
    place = np.searchsorted(merged, opens, side="right") - 1
    first = np.flatnonzero(np.diff(place, prepend=-1))
    last = np.append(first[1:], len(opens)) - 1
    merged = merged[place[first]]
    closes = candle_closes(opens, timeframe)
    step = int((closes - opens).min())
    within = np.minimum(merged + length, closes[-1]) - np.maximum(merged, opens[0])
    table: dict[str, Any] = {}
    for name in frame.columns.drop("date"):
        values = frame[name].to_numpy()
        if values.dtype == bool:
            table[name] = np.logical_or.reduceat(values, first)
        elif name == "open":
            table[name] = values[first]
        elif name == "high":
            table[name] = np.maximum.reduceat(values, first)
        elif name == "low":
            table[name] = np.minimum.reduceat(values, first)
        elif name == "volume" or name.startswith(_SUMS):
            known = ~np.isnan(values)
            count = np.add.reduceat(known, first, dtype=np.int64)
            total = np.add.reduceat(np.where(known, values, 0.0), first)
            enough = (count > 0) & (count * step >= least * within)
            table[name] = np.where(enough, total, np.nan)
        elif name.startswith("liq_coverage"):
            table[name] = np.add.reduceat(values, first) / (last - first + 1)
        else:
            table[name] = values[last]
    for name in table:
        long, short = (name.replace("imbalance", side) for side in ("long", "short"))
        if name.startswith("liq_imbalance") and long in table:
            table[name] = imbalance(table[long], table[short])
    date = pd.DatetimeIndex(merged.astype("datetime64[ms]"), tz="UTC")
    return pd.DataFrame({"date": date, **table})


_SUMS = ("liq_long", "liq_short", "liq_total")


def _ms(frame: pd.DataFrame) -> Ints:
    return column(frame, "date").to_numpy(dtype="datetime64[ms]").view(np.int64)


def _dates(time: Ints) -> np.ndarray:
    return time.astype("datetime64[ms]")


# --- levels ---------------------------------------------------------------------------------------


def levels_heat(frame: pd.DataFrame, grid: Floats | None = None) -> pd.DataFrame:
    """Spread the estimated USD of liquidation levels over prices, once an hour.

    Longs below the close and shorts above it, up to 10 % away, as ``liquidation_levels`` estimates
    them; its docstring says how little is known of a single level.

    :param frame: candles as ``liquidation_levels`` takes them, of an hour at most
    :param grid: edges of the cells, growing prices; default: 300 at most, each 0.4 % of the mean
        close or more
    :return: USD by lower edge of a cell (index; the last one is the upper edge of all, of 0 USD)
        and by open of the candle whose close told it (columns), the last one of each hour; NaN
        where open interest is unknown
    """
    reaches = _REACH * np.arange(1, _REACHES + 1)
    opens = _ms(frame)
    closing = opens + np.diff(opens).min() if len(opens) > 1 else opens
    rows = np.flatnonzero(np.diff((closing - 1) // HOUR, append=-1))
    parts = [liquidation_levels(frame, reach=reach, bucket=_REACH).iloc[rows] for reach in reaches]
    below, above = (
        np.array([part[f"liq_ahead_{side}"] for part in parts]).T for side in ("below", "above")
    )
    # USD between the close and a price, negative below: its rise over a cell is what lies there.
    sums = np.hstack([-below[:, ::-1], np.zeros((len(rows), 1)), above])
    sums[np.isnan(sums).any(axis=1)] = np.nan
    if grid is None:
        low, high = frame["low"].min() * 0.9, frame["high"].max() * 1.1
        # Of one height, which browsers draw many times faster than others.
        cells = int(min(_CELLS, np.ceil((high - low) / (_REACH * frame["close"].mean()))))
        grid = np.linspace(low, high, cells + 1)
    close = array(frame["close"])[rows][:, None]
    place = np.clip((grid / close - 1) / _REACH + _REACHES, 0, 2 * _REACHES)
    lower = np.minimum(place.astype(np.int64), 2 * _REACHES - 1)
    share = place - lower
    there = np.take_along_axis(sums, lower, 1) * (1 - share)
    there += np.take_along_axis(sums, lower + 1, 1) * share
    dates = pd.DatetimeIndex(frame["date"])[rows]
    return pd.DataFrame(np.vstack([np.diff(there, axis=1).T, 0 * close.T]), grid, dates)


# --- the figure -----------------------------------------------------------------------------------

_SHARES = {"price": 5.0, "imbalance": 1.5, "usd": 2.0, "interest": 1.1, "funding": 1.0}
_GAP = 0.022


def figure(
    frame: pd.DataFrame,
    timeframe: str,
    *,
    title: str,
    notes: Sequence[str] = (),
    exchanges: Sequence[str] = (),
    histogram: bool = False,
    lower_bound: Sequence[str] | bool = (),
    shown: Sequence[str] = SHOWN,
    heat: pd.DataFrame | None = None,
) -> go.Figure:
    """Draw candles, imbalance, liquidated USD, open interest and funding over one time axis.

    :param frame: candles with ``liq_long``, ``liq_short``, ``liq_total``, ``liq_imbalance``; with
        ``liq_open_interest`` and ``liq_funding_rate`` there are panels of them, and with the
        columns of :func:`add_readings` there are markers: below the candle where longs, above it
        where shorts are meant
    :param timeframe: of the candles
    :param title, notes: plain texts, of one line each
    :param exchanges: draw ``liq_long_binance`` and so on, stacked, instead of their sum
    :param histogram: draw the imbalance as bars from 0.5
    :param lower_bound: whose volumes are a lower bound: some of the exchanges, or True for the sum
    :param shown: readings that are seen at once; the others wait in the legend
    :param heat: of :func:`levels_heat`, drawn behind the candles
    :return: the figure; shorts are negative, what is NaN is not drawn
    :raises LiquidationsError: if there is no candle, or no column, or no plotly
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise LiquidationsError(
            "charts need plotly: pip install 'freqtrade-liquidations[plot]'"
        ) from error
    if frame.empty:
        raise LiquidationsError("there is no candle to draw; choose another time")
    drawn = go.Figure()
    axes = {"price": "y", "imbalance": "y2", "usd": "y3"}
    axes |= {"interest": "y4"} if "liq_open_interest" in frame else {}
    axes |= {"funding": "y5"} if "liq_funding_rate" in frame else {}
    drawn.add_traces(_price(frame, timeframe, shown, heat, go))
    drawn.add_traces(_imbalance(frame, axes["imbalance"], histogram, go))
    drawn.add_traces(_unseen(frame, timeframe, (), "y6", go))
    drawn.add_traces(_usd(frame, axes["usd"], exchanges, lower_bound, go))
    drawn.add_traces(_unseen(frame, timeframe, exchanges, "y7", go))
    for panel, name, colour, form in (
        ("interest", "liq_open_interest", TEAL, "$.4s"),
        ("funding", "liq_funding_rate", PURPLE, ".4%"),
    ):
        if panel in axes:
            shown_as = {"interest": "open interest", "funding": "funding rate"}[panel]
            drawn.add_trace(_line(frame, name, axes[panel], colour, shown_as, form, "hv", go))
    _layout(drawn, frame, timeframe, axes, title, notes, bool(lower_bound))
    return drawn


def _line(
    frame: pd.DataFrame,
    name: str,
    axis: str,
    colour: str,
    label: str,
    form: str,
    shape: str,
    go: Any,
) -> Any:
    return go.Scatter(
        x=_dates(_ms(frame)),
        y=array(frame[name]),
        yaxis=axis,
        name=label,
        mode="lines",
        line={"color": colour, "width": 1.4, "shape": shape},
        hovertemplate=f"%{{y:{form}}}",
        showlegend=False,
    )


def _price(
    frame: pd.DataFrame, timeframe: str, shown: Sequence[str], heat: pd.DataFrame | None, go: Any
) -> list[Any]:
    traces = []
    if heat is not None:
        edges, usd = _heat_at(heat, frame, timeframe)
        positive = heat.to_numpy()[heat.to_numpy() > 0]
        traces.append(
            go.Heatmap(
                x=edges,
                y=heat.index.to_numpy(),
                z=usd,
                transpose=True,
                zmin=0,
                # Else the largest one leaves all others white.
                zmax=float(np.quantile(positive, 0.98)) if len(positive) else 1.0,
                colorscale=HEAT,
                opacity=0.75,
                showscale=False,
                hoverinfo="skip",
                name="levels (estimated)",
                showlegend=True,
            )
        )
    line = {"color": INK, "width": 1}
    traces.append(
        go.Candlestick(
            x=_dates(_ms(frame)),
            **{name: array(frame[name]) for name in ("open", "high", "low", "close")},
            increasing={"line": line, "fillcolor": "white"},
            decreasing={"line": line, "fillcolor": INK},
            name="price",
            showlegend=False,
        )
    )
    step = mark_step(frame)
    for side, edge, colour in (("longs", "low", LONGS), ("shorts", "high", SHORTS)):
        place = array(frame[edge]).copy()
        for name in sorted(marked(frame), key=lambda name: name not in shown):
            says = array(frame[f"{name} {side}"])
            place += says * (step if side == "shorts" else -step)
            traces.append(
                go.Scatter(
                    x=_dates(_ms(frame)),
                    y=np.where(says, place, np.nan),
                    name=name,
                    legendgroup=name,
                    showlegend=side == "longs",
                    mode="markers",
                    marker={"color": colour, "symbol": _SYMBOLS[name], "size": 8},
                    meta=side,
                    hovertemplate=side,
                    visible=True if name in shown else "legendonly",
                )
            )
    return traces


def mark_step(frame: pd.DataFrame) -> float:
    """Return how far (in price) a marker stands from the candle, or from the next marker."""
    return float(0.7 * (frame["high"] - frame["low"]).mean())


def _heat_at(
    heat: pd.DataFrame, frame: pd.DataFrame, timeframe: str
) -> tuple[np.ndarray, np.ndarray]:
    """Give each candle the last map that was known at its close; each stands until the next one.

    :return: edges in time, one more than maps; USD, a row for each map
    """
    opens = _ms(frame)
    told = pd.DatetimeIndex(heat.columns).as_unit("ms").asi8
    place = np.searchsorted(opens, told, side="right") - 1
    last = np.flatnonzero(np.diff(place, append=len(opens)))
    last = last[place[last] >= 0]
    half = int(candle_closes(opens[-1:], timeframe)[0] - opens[-1]) // 2
    edges = opens[place[last]] - half
    # Of one width too, if no candle is missing.
    steps = np.diff(edges, append=opens[-1:] + half)
    edges = np.append(edges, edges[-1:] + np.median(steps).astype(np.int64))
    return _dates(edges), heat.to_numpy()[:-1, last].T


def _imbalance(frame: pd.DataFrame, axis: str, histogram: bool, go: Any) -> list[Any]:
    name, form = "liq_imbalance", ".3f"
    if not histogram:
        return [_line(frame, name, axis, RATIO, "imbalance", form, "hvh", go)]
    ratio = array(frame[name])
    return [
        go.Bar(
            x=_dates(_ms(frame)),
            y=np.where(over, ratio - 0.5, np.nan),
            base=0.5,
            yaxis=axis,
            name=f"imbalance, {side}",
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"%{{y:{form}}}",
            showlegend=False,
        )
        for side, colour, over in (("longs", LONGS, ratio >= 0.5), ("shorts", SHORTS, ratio < 0.5))
    ]


def _usd(
    frame: pd.DataFrame,
    axis: str,
    exchanges: Sequence[str],
    lower_bound: Sequence[str] | bool,
    go: Any,
) -> list[Any]:
    traces = []
    for number, exchange in enumerate(exchanges or ("",)):
        least = exchange in lower_bound if isinstance(lower_bound, Sequence) else lower_bound
        for side, column_name, sign in (("longs", "liq_long", 1), ("shorts", "liq_short", -1)):
            suffix = f"_{exchange}" if exchange else ""
            name = f"{exchange} {side}".strip() + (" ≥" if least else "")
            colours = SHADES[side]
            traces.append(
                go.Bar(
                    x=_dates(_ms(frame)),
                    y=sign * array(column(frame, column_name + suffix)),
                    yaxis=axis,
                    name=name,
                    marker={"color": colours[number % len(colours)], "line": {"width": 0}},
                    hovertemplate="%{y:$,.0f}",
                )
            )
    return traces


def _unseen(
    frame: pd.DataFrame, timeframe: str, exchanges: Sequence[str], axis: str, go: Any
) -> list[Any]:
    """Shade where nothing was observed, and in a lane of its own where one exchange was not."""
    opens = _ms(frame)
    half = (candle_closes(opens, timeframe) - opens) / 2
    blind = np.isnan(array(column(frame, "liq_total")))
    shades = [("not observed", blind, 0.0, 1.0)]
    for number, name in enumerate(exchanges):
        unknown = np.isnan(array(column(frame, f"liq_total_{name}"))) & ~blind
        shades.append(
            (f"{name} not observed", unknown, number / len(exchanges), 1 / len(exchanges))
        )
    traces = []
    for label, unknown, base, high in shades:
        turns = np.flatnonzero(np.diff(unknown, prepend=False, append=False))
        first, last = turns[::2], turns[1::2] - 1
        start, end = opens[first] - half[first], opens[last] + half[last]
        middle = ((start + end) / 2).astype(np.int64)
        traces.append(
            go.Bar(
                x=_dates(middle),
                y=np.full(len(first), high),
                base=base,
                width=end - start,
                yaxis=axis,
                name=label,
                marker={"color": UNSEEN, "line": {"width": 0}},
                texttemplate=label,
                textposition="inside",
                insidetextanchor="middle",
                insidetextfont={"color": "#424242"},
                hovertemplate=f"{label}<extra></extra>",
                showlegend=False,
            )
        )
    return traces


def _layout(
    drawn: Any,
    frame: pd.DataFrame,
    timeframe: str,
    axes: Mapping[str, str],
    title: str,
    notes: Sequence[str],
    lower_bound: bool,
) -> None:
    opens = _ms(frame)
    half = int(candle_closes(opens[-1:], timeframe)[0] - opens[-1]) // 2
    bounds = [str(np.datetime64(int(time), "ms")) for time in (opens[0] - half, opens[-1] + half)]
    top = 46 + 15 * len(notes)
    names = {
        "price": f"price, {timeframe}",
        "imbalance": "imbalance",
        "usd": "USD ≥<br>(lower bound)" if lower_bound else "USD",
        "interest": "open<br>interest",
        "funding": "funding",
    }
    form = {"price": ",~f", "imbalance": ".1f", "funding": ".3%"}
    whole = sum(_SHARES[name] for name in axes)
    place, high = {}, 1.0
    for name in axes:
        size = (1 - _GAP * (len(axes) - 1)) * _SHARES[name] / whole
        place[name] = [max(high - size, 0.0), high]
        high -= size + _GAP
    grid = {"gridcolor": LIGHT, "zeroline": False, "linecolor": GREY}
    for name, axis in axes.items():
        drawn.layout[axis.replace("y", "yaxis")] = {
            **grid,
            "domain": place[name],
            "title": {"text": names[name], "standoff": 8},
            "tickformat": form.get(name),
            "exponentformat": "B",
            "fixedrange": True,
            "hoverformat": ",.8~r" if name == "price" else None,
        }
    drawn.update_layout(
        yaxis2={"range": [-0.04, 1.04], "tickvals": [0.2, 0.5, 0.8]},
        yaxis3={"zeroline": True, "zerolinecolor": GREY},
    )
    for axis, over in (("yaxis6", "y2"), ("yaxis7", "y3")):
        drawn.layout[axis] = {"overlaying": over, "range": [0, 1], "visible": False}
        drawn.layout[axis].fixedrange = True
    drawn.update_layout(
        xaxis={
            **grid,
            "type": "date",
            "anchor": list(axes.values())[-1],
            "showline": True,
            "rangeslider": {"visible": False},
            "range": bounds,
            "hoverformat": "%a %-d %b %Y, %H:%M",
            "showspikes": True,
            "spikemode": "across",
            "spikesnap": "hovered data",
            "spikethickness": 1,
            "spikedash": "solid",
            "spikecolor": GREY,
        },
        shapes=[
            {
                "type": "rect",
                "xref": "x domain",
                "yref": "y2",
                "x0": 0,
                "x1": 1,
                "y0": low,
                "y1": high,
                "fillcolor": colour,
                "opacity": 0.07,
                "line": {"width": 0},
                "layer": "below",
            }
            for low, high, colour in ((0.8, 1.04, LONGS), (-0.04, 0.2, SHORTS))
        ],
        title={
            "text": escape(title),
            "subtitle": {"text": "<br>".join(map(escape, notes)), "font": {"size": 11.5}},
            "x": 0.01,
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 12},
            "font": {"size": 16},
        },
        legend={
            "title": {"text": "red: longs were hit<br>green: shorts were hit"},
            "x": 1.005,
            "y": 1,
            "tracegroupgap": 0,
        },
        template="plotly_white",
        font={"family": "sans-serif", "size": 11, "color": "#333333"},
        margin={"l": 10, "r": 10, "t": top, "b": 10},
        barmode="relative",
        bargap=0.1,
        uniformtext={"minsize": 9, "mode": "hide"},
        hovermode="x unified",
        hoversubplots="axis",
        hoverdistance=30,
        spikedistance=-1,
        dragmode="pan",
    )
