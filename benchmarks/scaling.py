"""Does time grow as the data do? Events from 10,000 to 100,000,000 on log-log lines.

Each size is put into a store, and all its columns are read; up to 1,000,000 events it is a part of
one pair's year, then 10 and 100 pairs with a year each. The slope of a line through the times is 1
where twice the data take twice the time. It also weighs what is stored.

    python benchmarks/scaling.py [--quick]        quick: to 1,000,000
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from aggregation import EVENTS, year
from goals import Found, Goal, main
from growth import BEGIN, DAYS
from load import STEP

from liquidations import provider
from liquidations.candles import to_bars
from liquidations.event import DAY, MINUTE, Events
from liquidations.provider import LiquidationProvider
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.tables import EVENTS as SINGLE
from liquidations.tables import SEGMENT


#: Small sizes are measured so many times, and the least counts: what they take is mostly noise.
TIMES = {10_000: 7, 100_000: 5, 1_000_000: 3}


def store(url: str, events: Events, pairs: int) -> float:
    """Put the same events under so many pairs; return the seconds."""
    days = -(-int(events.timestamp[-1] - BEGIN) // DAY)
    span = np.array([[BEGIN, BEGIN + days * DAY]])
    begin = time.perf_counter()
    with Store(url, create=True) as one:
        for number in range(pairs):
            with one.write() as writer:
                writer.insert("binance", f"P{number}/USDT:USDT", "tardis", events, span)
    return time.perf_counter() - begin


def read(url: str, events: Events, pairs: int) -> float:
    """Read the columns of all pairs; return the seconds."""
    asked = LiquidationProvider(url)
    opens = np.arange(BEGIN, int(events.timestamp[-1]), STEP)
    settings = Settings(url, ("binance",))
    found = 0.0
    begin = time.perf_counter()
    for number in range(pairs):
        columns, _ = asked.columns(f"P{number}/USDT:USDT", opens, "5m", settings)
        found += float(np.nansum(columns["liq_long_count"] + columns["liq_short_count"]))
    seconds = time.perf_counter() - begin
    asked.close()
    assert found == pairs * np.count_nonzero(events.timestamp < opens[-1] + STEP)
    return seconds


def weigh(url: str, path: Path) -> tuple[float, float]:
    """Return how many bytes of the file an event takes, and a minute's bar that is not empty."""
    with Store(url) as one, one.transaction(write=False) as connection:
        size = sa.func.sum(sa.func.length(SEGMENT.c.data))
        question = sa.select(SEGMENT.c.period, sa.func.sum(SEGMENT.c.rows), size)
        found = connection.execute(question.group_by(SEGMENT.c.period)).all()
    rows = {period: (number, total) for period, number, total in found}
    # All else in the file, such as unused parts of pages, is shared out.
    factor = path.stat().st_size / sum(total for _, total in rows.values())
    return tuple(rows[period][1] / rows[period][0] * factor for period in (SINGLE, MINUTE))


def slope(times: dict[int, float]) -> float:
    """Return the slope of the line through the logarithms."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])


def run(quick: bool) -> Found:
    """Store, read and sum each size."""
    found, whole = Found(), year(EVENTS)
    provider.CACHE_BYTES = 0
    times: dict[str, dict[int, float]] = {"storing": {}, "columns": {}, "summing in memory": {}}
    for size in (10_000, 100_000, EVENTS, *(() if quick else (10 * EVENTS, 100 * EVENTS))):
        pairs = -(-size // EVENTS)
        events = whole.take(slice(0, min(size, EVENTS)))
        rounds = []
        for _ in range(TIMES.get(size, 1)):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "store.sqlite"
                url = f"sqlite:///{path}"
                row = [store(url, events, pairs), read(url, events, pairs)]
                begin = time.perf_counter()
                for _ in range(pairs):
                    to_bars(events, STEP)
                rounds.append([*row, time.perf_counter() - begin])
                if size == EVENTS:
                    of_event, of_bar = weigh(url, path)
        for name, seconds in zip(times, np.min(rounds, axis=0).tolist(), strict=True):
            times[name][size] = seconds
    for name, row in times.items():
        found.times[f"{name}, by events"] = {f"{size:,}": 1e3 * one for size, one in row.items()}
        found.goals.append(Goal(f"slope of {name}, log-log", slope(row), 1.1, ""))
    bars = len(to_bars(whole))
    per_minute = f"{len(whole) / bars:.1f} events in a bar, {bars / (DAYS * 1440):.0%} of minutes"
    found.goals.append(Goal("a stored event on the disk", of_event, 16, "bytes"))
    found.goals.append(Goal(f"a minute's bar on the disk ({per_minute})", of_bar, 20, "bytes"))
    return found


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
