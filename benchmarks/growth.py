"""Does a question about one pair take longer in a store that holds twenty times as much?

    python benchmarks/growth.py                        5,000,000 and 100,000,000 events, SQLite
    python benchmarks/growth.py --db postgresql        the same on a real PostgreSQL server
    python benchmarks/growth.py --short                100,000 and 2,000,000 events

Both stores hold the same year of the same pair; the larger one has four times as many other
contracts, each with five times as many events, and twenty times as many live rows of a day.
Contracts but one are copies, which a database can't tell from others.

Each question is asked in turns of both stores, through a connection of its own, and its plan is
looked at: no table that grows may be read from end to end. What does grow is timed once, too, and
what 10,000,000,000 events would take is worked out of the larger store.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from exchange import PAIRS
from load import STEP, database

from liquidations.candles import candle_closes, columns
from liquidations.event import DAY, MINUTE, Events, make_events
from liquidations.integrity import Seen, find_problems
from liquidations.inventory import inventory
from liquidations.provider import LiquidationProvider, by_exchange
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.tables import COVERAGE, EVENTS, SEGMENT, SERIES
from liquidations.view import LiveView


ROOT = Path(__file__).parent.parent

GOAL = 1.5
ROUNDS = 15
FAR = 10**10

#: A year of 366 days, and then a day of which all events are live rows.
BEGIN, DAYS = 1_704_067_200_000, 366
END = BEGIN + DAYS * DAY
NOW = END + DAY

OWN = "OWN/USDT:USDT"
NAMES = "binance", "binance"  # the exchange and the source

#: Tables that grow, and what a plan says that reads one from end to end. Late events are few, and
#: have an index of their own, which each reader scans.
_SCAN = re.compile(r"(SCAN|Seq Scan on) liq_(segment|event|bar)\b(?!.*liq_late)")


def settings_of(url: str) -> Settings:
    """Return the settings of whoever asks."""
    return Settings(url, ("binance",))


def contract(number: int) -> str:
    """Name a contract; those that are played live come first."""
    return OWN if number == 0 else f"C{number:03d}/USDT:USDT"


def events_between(random: np.random.Generator, start: int, end: int, size: int) -> Events:
    """Make events as they come: in bursts of one side, at prices and amounts of decimal steps.

    A burst liquidates longs or shorts: of 412 minutes of OKX's published orders (2026-03-05, BTC,
    DOGE, ETH, HYPE, SOL) with two or more, 12 had both.
    """
    burst = random.integers(start, end - 1_000, size // 5 + 1)
    of = random.integers(0, len(burst), size)
    at = burst[of] + random.integers(0, 1_000, size)
    order = np.argsort(at, kind="stable")
    at, side = at[order], random.integers(0, 2, len(burst))[of[order]]
    price = np.round(55_000 + np.cumsum(random.normal(0, 5, size)), 1)
    amount = np.round(np.exp(random.normal(-2, 1.5, size)), 3) + 0.001
    received = at + random.integers(5, 60, size)
    return make_events(at, side, price, amount, price * amount, received=received)


def make(url: str, total: int, contracts: int, own: int) -> None:
    """Make a store of so many events in so many contracts, ``own`` of them those of one pair."""
    with Store(url, create=True) as store:
        of_each = (total - own) // (contracts - 1)
        for number, size in ((0, own), (1, of_each)):
            random = np.random.default_rng(number)
            with store.write() as writer:
                for month in range(12):
                    span = BEGIN + DAYS * DAY // 12 * month, BEGIN + DAYS * DAY // 12 * (month + 1)
                    events = events_between(random, *span, size // 12)
                    pair = contract(number)
                    writer.insert(NAMES[0], pair, NAMES[1], events, np.array([span]))
        _copy(store, contracts)
        _tell(store, total // DAYS)


def _copy(store: Store, contracts: int) -> None:
    """Copy what the second contract holds to all others, day by day, as it comes."""
    with store.transaction(write=True) as connection:
        row = dict(connection.execute(sa.select(SERIES).filter_by(pair=contract(1))).one()._mapping)
        donor = row.pop("id")
        names = (contract(number) for number in range(2, contracts))
        rows = [{**row, "pair": name, "base": name.partition("/")[0]} for name in names]
        connection.execute(sa.insert(SERIES), rows)
        others = SERIES.c.pair.not_in((contract(0), contract(1)))
        crossed = sa.true()  # each of them gets each segment
        for table in (COVERAGE, SEGMENT):
            of_donor = table.c.series_id == donor
            starts = connection.scalars(sa.select(table.c.start).where(of_donor).distinct())
            taken = [column for column in table.c if column is not table.c.series_id]
            for start in sorted(starts):
                found = (
                    sa.select(SERIES.c.id, *taken)
                    .join_from(table, SERIES, crossed)
                    .where(of_donor, table.c.start == start, others)
                )
                given = ["series_id", *(column.name for column in taken)]
                connection.execute(sa.insert(table).from_select(given, found))


def _tell(store: Store, size: int) -> None:
    """Add a day of live rows of the first contracts; its last five minutes are alike in all."""
    pairs = [contract(number) for number in range(PAIRS)]
    random = np.random.default_rng(3)
    day = events_between(random, END, NOW - STEP, size)
    of = random.integers(1, PAIRS, len(day))  # of the own pair nothing, which is alike as well
    last = np.repeat(np.arange(NOW - STEP, NOW, MINUTE // 2), PAIRS)
    one = np.full(len(last), 1.5)
    late = make_events(last, random.integers(0, 2, len(last)), one, one, one * one, sort=False)
    whose = np.tile(np.arange(PAIRS), len(last) // PAIRS)
    with store.write() as writer:
        feed = writer.claim(NAMES[0], "linear", NAMES[1], "bench", END)
        writer.join(feed, pairs, END)
        feed = writer.cover(feed, END, NOW)
        for events, owner in ((day, of), (late, whose)):
            batch = {pairs[number]: events.take(owner == number) for number in np.unique(owner)}
            feed, _ = writer.append(feed, batch, 0)
        writer.seal(feed, NOW, NOW)


def ask_columns(url: str) -> Callable[[], object]:
    """Ask for a year of 5m candles of the own pair."""

    provider, opens = LiquidationProvider(url), np.arange(BEGIN, END, STEP)
    with provider.store.read() as reader:
        reader.series(base="none")  # what opening costs does not count

    def run() -> object:
        with closing(provider):
            return provider.columns(OWN, opens, "5m", settings_of(url))

    return run


def ask_day(url: str) -> Callable[[], object]:
    """Ask for the single events of a day of the own pair."""

    store = Store(url)

    def run() -> object:
        with store, store.read() as reader:
            (series,) = reader.series(base="OWN")
            return reader.events(series, BEGIN + 200 * DAY, BEGIN + 201 * DAY)

    return run


def ask_live(url: str) -> Callable[[], object]:
    """Refresh a bot's view of 80 pairs, whose last candle was read before."""
    store, settings = Store(url), settings_of(url)
    view = LiveView(lambda: store)
    view.until(NOW - STEP, settings.exchanges, settings.settle)
    opens = np.arange(NOW - 501 * STEP, NOW - STEP, STEP)
    for number in range(PAIRS):
        found, _ = by_exchange(view, contract(number), opens, candle_closes(opens, "5m"), settings)
        columns(found)

    def run() -> object:
        view.until(NOW, settings.exchanges, settings.settle)
        return store.close()

    return run


QUESTIONS = {
    "columns of a year of 5m": ask_columns,
    "single events of a day": ask_day,
    f"refresh of {PAIRS} live pairs": ask_live,
}


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Note what is asked of all databases."""
    found: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")) and not many:
            found.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def scans(url: str, asked: list[tuple[str, Any]]) -> list[str]:
    """Return the steps of the statements' plans that read a growing table from end to end."""
    found = []
    with Store(url) as store, store.transaction(write=False) as connection:
        how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"{how} {statement}", parameters)
            found += [str(row[-1]) for row in plan if _SCAN.search(str(row[-1]))]
    return found


def timed(function: Callable[[], object]) -> float:
    """Return how many seconds a function takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def weigh(url: str) -> dict[str, float]:
    """Count segments and bytes, and time what reads or counts all there is."""
    with Store(url) as store:
        with store.transaction(write=False) as connection:
            kinds = sa.select(
                SEGMENT.c.period,
                sa.func.count(),
                sa.func.sum(SEGMENT.c.rows),
                sa.func.sum(sa.func.length(SEGMENT.c.data)),
            ).group_by(SEGMENT.c.period)
            rows = {period: row for period, *row in connection.execute(kinds)}
        with store.read() as reader:
            counts = timed(reader.counts)
        return {
            "events": int(rows[EVENTS][1]),
            "segments": int(rows[EVENTS][0] + rows[MINUTE][0]),
            "bars": int(rows[MINUTE][1]),
            "bytes": store.size(),
            "bytes_of_events": int(rows[EVENTS][2]),
            "bytes_of_bars": int(rows[MINUTE][2]),
            "counts_s": counts,
            "inventory_s": timed(lambda: inventory(store)),
            "fingerprint_s": timed(store.fingerprint),
        }


def check(url: str) -> None:
    """Read all there is, as ``liquidations db check`` does."""
    with Store(url) as store:
        problems = list(find_problems(store, Seen()))
    assert not problems, problems[0]


def measure(urls: dict[int, str]) -> dict[str, dict]:
    """Ask each question of both stores in turns; return the medians (ms), and full scans."""
    found: dict[str, dict] = {}
    for name, question in QUESTIONS.items():
        times: dict[int, list[float]] = {total: [] for total in urls}
        for _ in range(ROUNDS + 1):
            for total, url in urls.items():
                times[total].append(1000 * timed(question(url)))
        # The first round warms the disk's cache.
        few, many = (statistics.median(values[1:]) for values in times.values())
        with statements() as asked:
            question(url)()
        found[name] = {"few_ms": few, "many_ms": many, "ratio": many / few,
                       "scans": sorted(set(scans(url, asked)))}  # fmt: skip
    return found


def project(one: dict[str, float]) -> list[str]:
    """Say what the far goal's events would take, if all grows as it did so far."""
    times = FAR / one["events"]
    found = [
        f"{FAR:,} events like these:",
        f"  {one['bytes'] * times / 1e9:,.0f} GB in {one['segments'] * times:,.0f} segments",
        f"  to count all rows (list-data) {one['inventory_s'] * times:,.0f} s",
    ]
    if "check_s" in one:
        found.append(f"  to check all (db check) {one['check_s'] * times / 3600:,.1f} h")
    return found


def main() -> int:
    """Run it, print it, write ``benchmarks/growth.json``; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--db", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--short", action="store_true", help="a 50th of the events")
    asked = parser.parse_args()
    few, many = (100_000, 2_000_000) if asked.short else (5_000_000, 100_000_000)
    with database(asked.db) as (place, _):
        urls = {total: place(f"of_{total}") for total in (few, many)}
        made = timed(lambda: make(urls[few], few, PAIRS, few // PAIRS))
        made += timed(lambda: make(urls[many], many, 4 * PAIRS, few // PAIRS))
        if asked.db == "postgresql":  # as its autovacuum does sooner or later
            for url in urls.values():
                _analyze(url)
        found: dict[str, Any] = {"questions": measure(urls)}
        for total, url in urls.items():
            found[str(total)] = weigh(url)
        if not asked.short:
            # A segment is what costs, so the large store's number counts.
            seconds = timed(lambda: check(urls[few])) / found[str(few)]["segments"]
            found[str(many)]["check_s"] = seconds * found[str(many)]["segments"]
    met = 0
    print(f"{asked.db}: {few:,} and {many:,} events, made in {made:.0f} s")
    for name, one in found["questions"].items():
        good = one["ratio"] <= GOAL and not one["scans"]
        met += good
        print(
            f"{'met   ' if good else 'MISSED'} {name}: {one['few_ms']:.1f} and "
            f"{one['many_ms']:.1f} ms, {one['ratio']:.2f} times (goal {GOAL}), "
            f"{', '.join(one['scans']) or 'no full scan'}"
        )
    for total in (few, many):
        one = found[str(total)]
        print(
            f"{one['events']:,} events, {one['bars']:,} bars, {one['segments']:,} segments: "
            f"{one['bytes'] / 1e6:,.0f} MB; {one['bytes_of_events'] / one['events']:.1f} bytes an "
            f"event, {one['bytes_of_bars'] / one['bars']:.1f} a bar; counts "
            f"{one['counts_s']:.2f} s, list-data {one['inventory_s']:.2f} s, fingerprint "
            f"{one['fingerprint_s']:.2f} s"
        )
    print("\n".join(project(found[str(many)])))
    if not asked.short:
        file = ROOT / "benchmarks" / "growth.json"
        known = json.loads(file.read_text()) if file.is_file() else {}
        known[asked.db] = found
        file.write_text(json.dumps(known, indent=1) + "\n")
    print(f"bench: {met} of {len(QUESTIONS)} goals met")
    return int(met < len(QUESTIONS))


def _analyze(url: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


if __name__ == "__main__":
    sys.exit(main())
