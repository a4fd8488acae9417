"""Everything that has a goal of speed, memory or size, beside what a user would take instead.

    python benchmarks/bench.py                all of it, some minutes; writes bench.json
    python benchmarks/bench.py --quick        smaller data, under a minute; bench-quick.json
    python benchmarks/bench.py --picture      draws docs/bench.png of the bench.json that is there

All runs on one core, one part after the other, and what is compared runs in turns in one process.
The last line says how many goals were met; the exit code is 1 if one was missed.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Callable

import aggregation
import backtest
import columns
import frames
import imports
import live
import readings
import scaling
import starting
from goals import ROOT, Found, one_core, report, save, written
from plotly.subplots import make_subplots

from liquidations.chart import GREY, TEAL
from liquidations.page import photograph


#: The imports come first, while this process is small: it counts to the memory of what it starts.
PARTS: dict[str, Callable[[bool], Found]] = {
    part.__name__: part.run
    for part in (
        imports, aggregation, columns, readings, frames, live, scaling, starting, backtest
    )
}  # fmt: skip

#: What takes long to start, however short it runs; and what has no short form.
LONG = {"live", "backtest"}

PICTURE = ROOT / "docs" / "bench.png"
LIMIT = "#9fa8da"
#: How the names begin of what nobody can do without.
BOUNDS = ("limit", "of it")


def draw(results: dict) -> None:
    """Draw how many times as long as ours each peer takes."""
    groups = {
        name: times
        for part in results["parts"].values()
        for name, times in part["times_ms"].items()
        if any(one.startswith("ours") for one in times) and len(times) > 2
    }
    heights = [len(times) for times in groups.values()]
    figure = make_subplots(
        len(groups), 1, subplot_titles=list(groups), row_heights=heights, vertical_spacing=0.07
    )
    for row, times in enumerate(groups.values(), 1):
        ours = next(one for name, one in times.items() if name.startswith("ours"))
        slowest = sorted(times.items(), key=lambda item: item[1], reverse=True)
        colours = [
            TEAL if name.startswith("our") else LIMIT if name.startswith(BOUNDS) else GREY
            for name, _ in slowest
        ]
        texts = [f" {_time(one)}   × {_times(one / ours)}" for _, one in slowest]
        figure.add_bar(
            x=[one for _, one in slowest], y=[name for name, _ in slowest], orientation="h",
            marker_color=colours, text=texts, textposition="outside", cliponaxis=False,
            row=row, col=1,
        )  # fmt: skip
        figure.update_xaxes(type="log", showticklabels=False, showgrid=False, row=row, col=1)
    figure.update_layout(
        template="plotly_white", showlegend=False, font_size=13, bargap=0.25,
        margin={"l": 330, "r": 170, "t": 60, "b": 10},
        title="One core, medians of rounds in turns; logarithmic, × ours",
    )  # fmt: skip
    height = 130 + 33 * sum(heights) + 60 * len(groups)
    html = figure.to_html(include_plotlyjs=True, config={"staticPlot": True})
    photograph(html, PICTURE, 1000, height)


def _time(milliseconds: float) -> str:
    for unit, most in (("µs", 1.0), ("ms", 1000.0)):
        if milliseconds < most:
            return f"{milliseconds * (1000 if unit == 'µs' else 1):.3g} {unit}"
    return f"{milliseconds / 1000:.3g} s"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 1000 else f"{ratio:.3g}"


def main() -> int:
    """Run all parts, or those that are named."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="Default: all.")
    parser.add_argument("--quick", action="store_true", help="Smaller data.")
    parser.add_argument("--picture", action="store_true", help="Draw what was measured before.")
    asked = parser.parse_args()
    if asked.picture:
        draw(json.loads((ROOT / "benchmarks" / "bench.json").read_text()))
        return 0
    logging.disable(logging.INFO)
    one_core()
    goals, results = [], {}
    for name in asked.parts or PARTS:
        begin = time.perf_counter()
        print(f"--- {name}", flush=True)
        if asked.quick and not asked.parts and name in LONG:
            print("not measured: it takes long; run the full form")
            continue
        found = PARTS[name](asked.quick)
        report(found)
        print(f"    ({time.perf_counter() - begin:.0f} s)")
        goals += found.goals
        results[name] = written(found)
    if not asked.parts:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        save("bench-quick" if asked.quick else "bench", {"machine": machine, "parts": results})
    met = sum(goal.met for goal in goals)
    for goal in goals:
        if not goal.met:
            print(goal.line())
    print(f"bench: {met} of {len(goals)} goals met")
    return int(met < len(goals))


if __name__ == "__main__":
    sys.exit(main())
