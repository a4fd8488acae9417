"""One self-contained page of a chart, and a photograph of it by a browser. Floor 4.

The page holds plotly's script, the figure without its numbers, and the numbers of all resolutions:
one block of floats, gzipped. Its own script shows the finest resolution of which at most ``MOST``
candles are in view, and gives plotly those and a few on both sides, not the whole year. It loads
nothing from anywhere, and a policy in the page forbids it to.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.candles import longest_ms
from liquidations.chart import MOST
from liquidations.errors import LiquidationsError


if TYPE_CHECKING:
    import plotly.graph_objects as go

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)

#: What of a trace are numbers of candles.
_ARRAYS = ("x", "y", "z", "open", "high", "low", "close", "width")


def page(figures: Mapping[str, go.Figure], still: tuple[int, int] | None = None) -> str:
    """Write a page that shows the resolution that fits its zoom.

    :param figures: timeframe → figure, the finest first, all with the same traces
    :param still: width and height (pixels) of a photograph: the page has no buttons then
    :return: HTML that needs no network
    """
    from plotly.offline import get_plotlyjs

    block = _Block()
    levels = [
        {
            "name": name,
            "step": longest_ms(name),
            "traces": [block.arrays(one._props) for one in made.data],
        }
        for name, made in figures.items()
    ]
    last = list(figures.values())[-1]
    plain = json.loads(last.to_json())
    for trace in plain["data"]:
        for name in _ARRAYS:
            if not (trace["type"] == "heatmap" and name == "y"):
                trace.pop(name, None)
    if still:
        plain["layout"] |= dict(zip(("width", "height"), still, strict=True))
    else:
        plain["layout"]["xaxis"]["rangeselector"] = _BUTTONS
    config = {
        "displaylogo": False,
        "responsive": not still,
        "scrollZoom": True,
        "displayModeBar": False if still else None,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    }
    told = {"figure": plain, "config": config, "levels": levels, "most": MOST}
    return _PAGE.format(
        title=last.layout.title.text,  # escaped, as plotly wants it too
        plotly=get_plotlyjs(),
        told=json.dumps(told).replace("<", "\\u003c"),
        numbers=block.text(),
        script=_SCRIPT,
    )


class _Block:
    """Collect arrays of floats into one block; equal ones are kept once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._known: dict[bytes, list[int]] = {}

    def arrays(self, trace: Mapping[str, Any]) -> dict[str, list[int]]:
        """Keep the numbers of a trace; return where each lies: first float, rows, columns."""
        found = {}
        for name in _ARRAYS:
            # The edges of prices are those of all resolutions.
            if name in trace and not (trace["type"] == "heatmap" and name == "y"):
                found[name] = self._keep(np.asarray(trace[name]))
        return found

    def _keep(self, values: np.ndarray) -> list[int]:
        if values.dtype.kind in "OM":
            values = values.astype("datetime64[ms]").astype(np.int64)
        data = np.ascontiguousarray(values, "<f8").tobytes()
        if data not in self._known:
            self._known[data] = [self._size, *values.shape]
            self._parts.append(data)
            self._size += values.size
        return self._known[data]

    def text(self) -> str:
        """Return the block, gzipped, in base64."""
        return base64.b64encode(gzip.compress(b"".join(self._parts), 6, mtime=0)).decode()


_BUTTONS = {
    "buttons": [
        *(
            {"step": step, "count": count, "stepmode": "backward", "label": label}
            for step, count, label in (
                ("day", 1, "1 day"),
                ("day", 7, "1 week"),
                ("month", 1, "1 month"),
                ("month", 3, "3 months"),
            )
        ),
        {"step": "all", "label": "all"},
    ],
    "x": 1,
    "xanchor": "right",
    "y": 1.0,
    "yanchor": "bottom",
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>html, body, #chart {{ height: 100%; margin: 0; background: white }}</style>
</head>
<body>
<div id="chart"></div>
<script>{plotly}</script>
<script type="application/json" id="told">{told}</script>
<script type="text/plain" id="numbers">{numbers}</script>
<script>{script}</script>
</body>
</html>
"""

_SCRIPT = """
(async () => {
  const chart = document.getElementById("chart");
  const text = (id) => document.getElementById(id).textContent;
  if (!window.DecompressionStream) {
    chart.textContent = "This page needs a browser of 2023 or newer.";
    return;
  }
  const { figure, config, levels, most } = JSON.parse(text("told"));
  const coded = atob(text("numbers"));
  const zipped = new Uint8Array(coded.length);
  for (let i = 0; i < coded.length; i++) zipped[i] = coded.charCodeAt(i);
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const block = await new Response(stream).arrayBuffer();

  // Where an array lies in the block: [first, rows] or [first, rows, columns].
  const numbers = ([first, rows, columns = 1]) =>
    new Float64Array(block, 8 * first, rows * columns);
  const date = (ms) => new Date(ms).toISOString().slice(0, -1);
  const ms = (time) =>
    typeof time === "number" ? time
      : Date.parse(time.includes(":") ? time.replace(" ", "T") + "Z" : time);
  // The number of sorted values below one.
  const below = (values, value) => {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < value) low = middle + 1; else high = middle;
    }
    return low;
  };
  const { data, layout } = figure;
  const price = data.findIndex((one) => one.type === "candlestick");
  const marks = [...data.keys()].filter((number) => data[number].mode === "markers");
  // Where a trace has no value, plotly would tell that of a candle nearby: so the candle's own
  // label tells all.
  data.forEach((trace, number) => {
    if (number === price) return;
    delete trace.hovertemplate;
    trace.hoverinfo = "skip";
  });
  const english = (value, options) => value.toLocaleString("en", options);
  const forms = {
    y2: (value) => value.toFixed(3),
    y3: (value) => "$" + english(Math.abs(value), { maximumFractionDigits: 0 }),
    y4: (value) => "$" + english(value, { notation: "compact", maximumSignificantDigits: 4 }),
    y5: (value) => (100 * value).toFixed(4) + " %",
  };
  const told = data.filter((trace) => trace.yaxis in forms);
  const label = (row) => {
    const lines = told.map((trace) => {
      const value = trace.y[row] + (trace.base || 0);
      if (!isNaN(value)) return `${trace.name}: ${forms[trace.yaxis](value)}`;
      return trace.yaxis === "y3" ? `${trace.name}: not observed` : "";
    });
    for (const number of marks) {
      const { name, meta, visible, y } = data[number];
      if (visible === true && !isNaN(y[row])) lines.push(`<b>${name}</b>: ${meta}`);
    }
    return lines.filter(Boolean).join("<br>");
  };
  for (const level of levels) {
    const candles = level.traces[price];
    level.time = numbers(candles.x);
    level.low = numbers(candles.low);
    level.high = numbers(candles.high);
  }

  // The part of a trace from one time to another.
  const cut = (trace, from, to, dates) => {
    const x = numbers(trace.x);
    let first = below(x, from), last = below(x, to);
    if (trace.width) {
      const width = numbers(trace.width);
      while (first > 0 && x[first - 1] + width[first - 1] / 2 > from) first--;
      while (last < x.length && x[last] - width[last] / 2 < to) last++;
    }
    if (trace.z) {
      first = Math.max(first - 1, 0);
      last = Math.min(last + 1, x.length);
    }
    const key = [trace.x[0], first, last].join();
    if (!dates.has(key)) dates.set(key, Array.from(x.subarray(first, last), date));
    const part = { x: dates.get(key) };
    for (const [name, place] of Object.entries(trace)) {
      const values = numbers(place);
      if (name === "z") {
        const columns = place[2];
        part.z = [];
        for (let row = first; row < last - 1; row++) {
          part.z.push(values.subarray(row * columns, (row + 1) * columns));
        }
      } else if (name !== "x") {
        part[name] = values.subarray(first, last);
      }
    }
    return part;
  };

  const finest = levels[0].time, half = levels.at(-1).step / 2;
  const all = [finest[0] - half, finest.at(-1) + half];
  const show = (from, to) => {
    performance.mark("begin");
    const seen = (level) => [below(level.time, from), below(level.time, to)];
    const count = (level) => { const [first, last] = seen(level); return last - first; };
    const level = levels.find((one) => count(one) <= most) || levels.at(-1);
    const more = (to - from) / 8, dates = new Map();
    data.forEach((trace, number) =>
      Object.assign(trace, cut(level.traces[number], from - more, to + more, dates)));
    const [first, last] = seen(level);
    let low = Infinity, high = -Infinity;
    const on = marks.filter((number) => data[number].visible === true);
    data[price].text = data[price].x.map((_, row) => label(row));
    const drawn = on.map((number) => numbers(level.traces[number].y));
    for (const values of [level.low, level.high, ...drawn]) {
      for (let row = first; row < last; row++) {
        if (values[row] < low) low = values[row];
        if (values[row] > high) high = values[row];
      }
    }
    if (low <= high) {
      const space = (high - low) * 0.05 || high * 0.01;
      layout.yaxis.range = [low - space, high + space];
    }
    layout.yaxis.title.text = "price, " + level.name;
    layout.xaxis.range = [date(from), date(to)];
    layout.datarevision = (layout.datarevision || 0) + 1;
    const done = Plotly.react(chart, data, layout, config);
    chart.dataset.resolution = level.name;
    chart.dataset.candles = last - first;
    return done.then(() => performance.measure("show", "begin"));
  };

  await show(...all);
  chart.dataset.ready = Math.round(performance.now());
  const again = () => show(...chart.layout.xaxis.range.map(ms));
  chart.on("plotly_restyle", again);
  chart.on("plotly_relayout", (event) => {
    if (event["xaxis.autorange"]) show(...all);
    else if (Object.keys(event).some((name) => name.startsWith("xaxis."))) again();
  });
})();
"""


def find_browser() -> str:
    """Find a browser that can take a photograph.

    :raises LiquidationsError: if there is none; it says what to install.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise LiquidationsError(
            "a picture is taken by Chromium or Chrome, and there is none; install it, for example "
            "with: apt-get install chromium"
        )
    return found


def photograph(html: str, file: Path, width: int, height: int) -> None:
    """Let a browser show a page, and keep what it shows as a PNG of so many pixels.

    :raises LiquidationsError: if there is no browser, or it takes no picture.
    """
    browser = find_browser()
    with TemporaryDirectory() as folder:
        source = Path(folder) / "page.html"
        source.write_text(html, encoding="utf-8")
        words = "--headless --no-sandbox --hide-scrollbars --force-device-scale-factor=1"
        command = [browser, *words.split(), f"--user-data-dir={folder}"]
        command += ["--virtual-time-budget=10000", f"--window-size={width},{height}"]
        command += [f"--screenshot={file.resolve()}", source.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode or not file.exists():
            last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise LiquidationsError(f"{browser} took no picture: {last}")
