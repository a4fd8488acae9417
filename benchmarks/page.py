"""Time the page of `liquidations plot` in headless Chromium: a simulated year of 5m candles.

::

    .venv/bin/python benchmarks/page.py

CPU seconds are those of the page's main thread, whatever else the machine does.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from liquidations.cli import run


REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from browser import Browser  # noqa: E402


PAIR = "BTC/USDT:USDT"
VIEWS = {
    "3 months": ("2024-03-01", "2024-06-01"),
    "82 days": ("2024-03-05", "2024-05-26"),
    "19 days": ("2024-03-01", "2024-03-20"),
    "5 days": ("2024-03-01", "2024-03-06"),
    "1 day": ("2024-03-01", "2024-03-02"),
    "the next day": ("2024-03-02", "2024-03-03"),
}
ZOOM = """(async () => {
  const chart = document.getElementById("chart"), begin = performance.now();
  performance.clearMeasures();
  await Plotly.relayout(chart, { "xaxis.range": ["%s", "%s"] });
  while (!performance.getEntriesByName("show").length) await new Promise((r) => setTimeout(r, 5));
  await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
  return [chart.dataset.resolution, chart.dataset.candles, Math.round(performance.now() - begin)];
})()"""


def cpu(browser: Browser) -> float:
    found = browser.call("Performance.getMetrics")["metrics"]
    return next(one["value"] for one in found if one["name"] == "TaskDuration")


def main() -> None:
    os.chdir(REPOSITORY)
    with TemporaryDirectory() as folder:
        page = Path(folder) / "year.html"
        where = ["--datadir", f"{folder}/data", "--db-url", f"sqlite:///{folder}/store.sqlite"]
        span = ["--timerange", "20240101-20250101"]
        if run(["simulate", *where, *span, "-p", PAIR, "-t", "5m"]):
            sys.exit(2)
        begin = time.perf_counter(), time.process_time()
        if run(["plot", *where, "-p", PAIR, "-t", "5m", "-o", str(page)]):
            sys.exit(2)
        wall, used = time.perf_counter() - begin[0], time.process_time() - begin[1]
        print(f"written in {wall:.1f} s ({used:.1f} s CPU), {page.stat().st_size / 1e6:.1f} MB")
        browser = Browser(Path(folder) / "browser")
        try:
            browser.call("Performance.enable", timeDomain="threadTicks")
            browser.open(page)
            ready = int(browser.run("document.getElementById('chart').dataset.ready"))
            print(f"first paint after {ready} ms ({1000 * cpu(browser):.0f} ms CPU)")
            for name, view in VIEWS.items():
                before = cpu(browser)
                timeframe, candles, took = browser.run(ZOOM % view)
                used = 1000 * (cpu(browser) - before)
                print(f"zoom to {name}: {candles} of {timeframe}, {took} ms ({used:.0f} ms CPU)")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
