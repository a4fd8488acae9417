"""A study as one HTML page that needs no network: plots, verdicts, every number. Floor 4."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.candles import format_time
from liquidations.errors import LiquidationsError
from liquidations.study import EDGES, FEW, REAL, Effect, Study


if TYPE_CHECKING:
    import plotly.graph_objects as go

GREEN, ORANGE, GREY, BLUE, RED = "#388e3c", "#ef6c00", "#90a4ae", "#1565c0", "#c62828"
BAND = "rgba(120, 144, 156, 0.25)"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; color: #222;
  padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
.simulated { background: #c62828; color: white; padding: .5em 1em; font-weight: bold }
.verdict { background: #eceff1; padding: .8em 1em; font-size: 1.1em }
table { border-collapse: collapse; font-size: 12px } td, th { padding: 2px 7px; text-align: right;
  white-space: nowrap }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f5f5f5 }
.few { color: #999 } .edge { color: #388e3c; font-weight: bold } .wide { overflow-x: auto }
"""

_HOW = """
<p>Each trade enters at the open of the candle <i>after</i> the one in which the reading spoke,
against the crowd: it buys where longs were liquidated and sells where shorts were. It leaves after
so many candles. Of a reading's events one is taken only when the trade of the one before is over.
All numbers are basis points (1 bp = 0.01 %) of the entry's value.</p>
<ul>
<li><b>interval</b>: {level:.0%} of such intervals contain the true mean. It is of one number; among
many some lie off by chance.</li>
<li><b>shifted null</b>: the same events at other times. As far from the mean of those as ±null the
mean lies by chance alone, if one looks at one reading and one horizon.</li>
<li><b>corrected p</b>: how often the best of all {tests} tests together looks as good by chance.
Below {alpha:.0%} it is more than chance.</li>
<li><b>first part, last part</b>: the time is cut at {parted}. What holds in the first part only is
nothing to trade on.</li>
<li><b>adverse, favourable</b>: how far the price went against and for half of the trades
meanwhile.</li>
</ul>
<p>What did well here did well here. No edge is promised; the next months decide.</p>
"""


def report_page(study: Study, *, simulated: bool = False, notes: Sequence[str] = ()) -> str:
    """Write a study as one self-contained HTML page.

    :param simulated: label it SIMULATED
    :param notes: what else the reader must know, such as that a feed is a lower bound
    :raises LiquidationsError: if plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise LiquidationsError(
            "the report needs plotly: pip install 'freqtrade-liquidations[plot]'"
        ) from error
    pairs, start, end = ", ".join(study.candles), format_time(study.start), format_time(study.end)
    mark = "SIMULATED " if simulated else ""
    title = f"{mark}Liquidations of {pairs}, {study.timeframe}: does a reading predict anything?"
    figures = [
        ("By reading", _forest(study, mark)),
        ("By horizon", _curves(study, mark)),
        ("First part against last part", _parts(study, mark)),
    ]
    if any(_is_bin(one.reading) for one in study.effects):
        figures.insert(2, ("Bins of ratio, volume and open interest", _heat(study, mark)))
    rules = study.rules
    facts = [
        f"{start} to {end} UTC; candles: "
        + ", ".join(
            f"{pair} {number:,} ({study.coverage[pair]:.0%} observed)"
            for pair, number in study.candles.items()
        ),
        f"Costs: {rules.costs:g} bp a trade (fee {rules.fee:.3%} and slippage "
        f"{rules.slippage:.3%}, both at entry and exit)",
        *notes,
    ]
    how = _HOW.format(
        level=rules.level,
        tests=study.tests,
        alpha=1 - rules.level,
        parted=f"{format_time(study.parted)} UTC",
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        '<p class="simulated">SIMULATED: candles or liquidations are invented. This says nothing '
        "about a real market.</p>"
        if simulated
        else "",
        f'<p class="verdict">{escape(study.verdict)}</p>',
        "<ul>" + "".join(f"<li>{escape(fact)}</li>" for fact in facts) + "</ul>",
        "<h2>Verdicts</h2><ul>",
        *(
            f'<li class="{_class(study, name)}"><b>{escape(name)}</b>: {escape(verdict)}</li>'
            for name, verdict in study.verdicts.items()
        ),
        "</ul>",
        *(
            f"<h2>{escape(name)}</h2>"
            + figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"figure{number}")
            for number, (name, figure) in enumerate(figures)
        ),
        "<h2>Every number</h2>",
        _table(study),
        "<h2>How to read it</h2>",
        how,
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head>\n<body>" + "\n".join(body) + "</body></html>\n"
    )


def _is_bin(reading: str) -> bool:
    return reading.startswith("bin: ")


def _class(study: Study, reading: str) -> str:
    kinds = {one.kind for one in study.effects if one.reading == reading}
    return "edge" if kinds & set(EDGES) else "few" if kinds == {FEW} else ""


def _colour(one: Effect) -> str:
    if one.kind in EDGES:
        return GREEN
    return ORANGE if one.kind in REAL else GREY


def _tell(one: Effect) -> str:
    return (
        f"{one.reading}, {one.horizon} candles<br>{one.independent} independent of {one.events} "
        f"events<br>mean {one.mean:.1f}, {one.low:.1f} … {one.high:.1f} bp after costs<br>shifted "
        f"null {one.shifted:.1f} ± {one.null:.1f} before costs<br>p {one.p:.3f}, corrected "
        f"{one.corrected:.3f}<br>{one.kind}"
    )


def _figure(title: str, x: str, y: str, height: int) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        title=title, template="plotly_white", height=height, showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        margin={"l": 10, "r": 10, "t": 110, "b": 40},
    )  # fmt: skip
    figure.update_xaxes(title=x, automargin=True)
    figure.update_yaxes(title=y, automargin=True)
    return figure


def _choose(figure: go.Figure, names: Sequence[str], traces: int) -> go.Figure:
    """Let the reader choose which group of traces is seen."""
    for number, trace in enumerate(figure.data):
        trace.visible = number < traces
    buttons: list[dict[str, Any]] = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"visible": [number // traces == place for number in range(len(figure.data))]}
            ],
        }
        for place, name in enumerate(names)
    ]
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.18, "yanchor": "top"}]
    )
    return figure


def _forest(study: Study, mark: str) -> go.Figure:
    """Draw each reading's mean and interval after costs, and what chance leaves of it."""

    names = list(study.verdicts)[::-1]
    figure = _figure(
        f"{mark}mean after costs", "bp a trade, against the crowd", "", 140 + 26 * len(names)
    )
    costs = study.rules.costs
    for horizon in study.rules.horizons:
        told = [one for one in (study.of(name, horizon) for name in names) if one.p == one.p]
        figure.add_bar(
            y=[one.reading for one in told],
            x=[2 * one.null for one in told],
            base=[one.shifted - one.null - costs for one in told],
            orientation="h", marker_color=BAND, name="shifted null (chance)", hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            y=[one.reading for one in told],
            x=[one.mean for one in told],
            error_x={
                "type": "data", "symmetric": False, "color": "#546e7a",
                "array": [one.high - one.mean for one in told],
                "arrayminus": [one.mean - one.low for one in told],
            },
            mode="markers", marker={"color": [_colour(one) for one in told], "size": 9},
            name="mean and interval", hovertext=[_tell(one) for one in told], hoverinfo="text",
        )  # fmt: skip
    figure.add_vline(x=0, line_color="#222", line_width=1)
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    labels = [f"{horizon} candles" for horizon in study.rules.horizons]
    return _choose(figure, labels, 2)


def _curves(study: Study, mark: str) -> go.Figure:
    """Draw what followed a reading before costs, horizon by horizon, beside chance and costs."""
    figure = _figure(
        f"{mark}mean before costs", "candles after entry", "bp, against the crowd", 480
    )
    names, costs = [], study.rules.costs
    for name in study.verdicts:
        told = [
            one
            for one in (study.of(name, horizon) for horizon in study.rules.horizons)
            if one.p == one.p
        ]
        if not told:
            continue
        names.append(name)
        x = [one.horizon for one in told]
        figure.add_scatter(
            x=x + x[::-1],
            y=[one.shifted + one.null for one in told]
            + [one.shifted - one.null for one in told[::-1]],
            fill="toself", fillcolor=BAND, line_width=0, name="shifted null (chance)",
            hoverinfo="skip", mode="lines",
        )  # fmt: skip
        figure.add_scatter(
            x=x,
            y=[one.gross for one in told],
            error_y={
                "type": "data", "symmetric": False, "color": BLUE,
                "array": [one.high - one.mean for one in told],
                "arrayminus": [one.mean - one.low for one in told],
            },
            mode="lines+markers", line_color=BLUE, name="mean and interval",
            hovertext=[_tell(one) for one in told], hoverinfo="text",
        )  # fmt: skip
    for level, text in ((costs, "costs of fading it"), (-costs, "costs of following it")):
        figure.add_hline(y=level, line_dash="dot", line_color=RED, annotation_text=text)
    figure.add_hline(y=0, line_color="#222", line_width=1)
    return _choose(figure, names, 2)


def _heat(study: Study, mark: str) -> go.Figure:
    """Draw the mean of each bin and horizon before costs."""
    names = [name for name in study.verdicts if _is_bin(name)][::-1]
    figure = _figure(f"{mark}mean before costs, bp", "candles", "", 140 + 44 * len(names))
    rows = [[study.of(name, horizon) for horizon in study.rules.horizons] for name in names]
    means = np.array([[one.gross if one.p == one.p else np.nan for one in row] for row in rows])
    known = np.abs(means[~np.isnan(means)])
    most = max(float(known.max()), 1.0) if len(known) else 1.0
    figure.add_heatmap(
        z=[[None if one != one else one for one in row] for row in means.tolist()],
        x=[f"{horizon}" for horizon in study.rules.horizons],
        y=[name.removeprefix("bin: ") for name in names],
        zmin=-most, zmax=most, colorscale="RdBu", xgap=2, ygap=2,
        text=[
            [
                f"{one.gross:+.0f} ({one.independent})" if one.p == one.p
                else f"too few ({one.independent})"
                for one in row
            ]
            for row in rows
        ],
        texttemplate="%{text}", hovertext=[[_tell(one) for one in row] for row in rows],
        hoverinfo="text", colorbar_title="bp",
    )  # fmt: skip
    figure.update_xaxes(type="category")
    figure.update_layout(margin_t=60)
    return figure


def _parts(study: Study, mark: str) -> go.Figure:
    """Draw the last part of the time against the first; what holds lies on the diagonal."""
    told = [one for one in study.effects if one.p == one.p and one.first_events and one.last_events]
    figure = _figure(
        f"{mark}mean after costs", "first part, bp a trade", "last part, bp a trade", 520
    )
    figure.add_scatter(
        x=[one.first for one in told],
        y=[one.last for one in told],
        mode="markers", name="a reading over a horizon", hoverinfo="text",
        marker={
            "color": [_colour(one) for one in told],
            "size": [5 + min(12.0, np.sqrt(one.independent) / 2) for one in told],
        },
        hovertext=[
            f"{_tell(one)}<br>first part {one.first:.1f} ({one.first_events}), last part "
            f"{one.last:.1f} bp ({one.last_events})"
            for one in told
        ],
    )  # fmt: skip
    ends = [value for one in told for value in (one.first, one.last)] or [0.0]
    figure.add_scatter(
        x=[min(ends), max(ends)], y=[min(ends), max(ends)], mode="lines", name="the same in both",
        line={"color": GREY, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    figure.add_hline(y=0, line_color="#222", line_width=1)
    figure.add_vline(x=0, line_color="#222", line_width=1)
    return figure


_HEADS = (
    "reading", "candles", "events", "independent", "stretches", "before costs", "mean", "interval",
    "median", "hit", "adverse", "favourable", "shifted null", "p", "corrected", "first part",
    "last part", "verdict",
)  # fmt: skip


def _table(study: Study) -> str:
    heads = "".join(f"<th>{name}</th>" for name in _HEADS)
    rows = "".join(
        f'<tr class="{"few" if one.kind == FEW else "edge" if one.kind in EDGES else ""}">'
        + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(one))
        + "</tr>"
        for one in study.effects
    )
    return f'<div class="wide"><table><tr>{heads}</tr>{rows}</table></div>'


def _cells(one: Effect) -> list[str]:
    def number(value: float, form: str = ".1f") -> str:
        return "-" if np.isnan(value) else f"{value:{form}}"

    return [
        one.reading, str(one.horizon), f"{one.events:,}", f"{one.independent:,}", str(one.clusters),
        number(one.gross), number(one.mean), f"{number(one.low)} … {number(one.high)}",
        number(one.median), number(one.hit, ".0%"), number(one.adverse), number(one.favourable),
        f"{number(one.shifted)} ± {number(one.null)}", number(one.p, ".3f"),
        number(one.corrected, ".3f"), f"{number(one.first)} ({one.first_events})",
        f"{number(one.last)} ({one.last_events})", one.kind,
    ]  # fmt: skip
