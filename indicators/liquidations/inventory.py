"""What a store holds, for people: spans, counts, holes, and what stands for a pair. Floor 4."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from liquidations.event import MINUTE, Ints, covered_ms, merge_intervals
from liquidations.reader import Reader, Revision, Series
from liquidations.rows import GONE, Feed
from liquidations.store import Store
from liquidations.tables import EVENTS


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Describe one series: its counts, and the intervals (ms) in which it was observed or not.

    ``events`` is None for a vendor's bars. ``holes`` lie between the first and the last interval.
    ``revisions`` are what the vendor said otherwise later; ``origins`` whose recordings events came
    in, and how many, if not all are this store's own.
    """

    series: Series
    events: int | None
    bars: int
    coverage: Ints
    revisions: list[Revision]
    origins: dict[str, int]

    @property
    def holes(self) -> Ints:
        """Return the unobserved intervals between observed ones, shape (n, 2)."""
        return np.column_stack((self.coverage[:-1, 1], self.coverage[1:, 0]))

    @property
    def share(self) -> float:
        """Return the observed share of the time from the first to the last interval."""
        if not len(self.coverage):
            return 0.0
        observed = (self.coverage[:, 1] - self.coverage[:, 0]).sum()
        return float(observed / (self.coverage[-1, 1] - self.coverage[0, 0]))


def inventory(store: Store) -> list[Entry]:
    """List all series of a store by pair, exchange, source and period."""
    with store.read() as reader:
        counts = reader.counts()
        names = {0: "this store", **reader.origins()}
        return [
            Entry(
                series,
                counts.get((series.id, EVENTS), 0) if _single(series) else None,
                counts.get((series.id, series.period), 0),
                reader.coverage(series),
                reader.revisions(series),
                _origins(reader, series, names) if len(names) > 1 and _single(series) else {},
            )
            for series in reader.series()
        ]


def _single(series: Series) -> bool:
    """Tell whether a series is made of single events."""
    return series.counted and series.period == MINUTE


def _origins(reader: Reader, series: Series, names: dict[int, str]) -> dict[str, int]:
    """Count a series' events by whose recording they came in; none if all are its own."""
    numbers = np.bincount(reader.events(series, 0, 2**62).origin, minlength=1)
    found = {names[one]: int(count) for one, count in enumerate(numbers) if count}
    return found if set(found) - {names[0]} else {}


@dataclass(frozen=True, slots=True, eq=False)
class LiveEntry:
    """Describe one live feed: when it listened, and the gaps (start, end in ms, reason) in between.

    ``missing`` has for each gap how much of it (ms) nobody listened to: another collector may have
    covered it, or the exchange may have been asked afterwards.
    """

    feed: Feed
    coverage: Ints
    gaps: list[tuple[int, int, str]]
    missing: list[int]

    def writer(self, now: int) -> str:
        """Tell whether a collector writes it: running, stopped (it was asked to), or gone."""
        if not self.feed.updated:
            return "stopped"
        return "running" if now - self.feed.updated <= GONE else "gone"


def live_inventory(store: Store) -> list[LiveEntry]:
    """List all live feeds of a store by exchange and channel."""
    with store.read() as reader:
        return live_entries(reader)


def live_entries(reader: Reader, since: int = 0) -> list[LiveEntry]:
    """List all live feeds, with the gaps that lasted beyond ``since`` (ms)."""
    coverage = reader.listened()
    nothing = np.empty((0, 2), np.int64)
    entries = []
    feeds = reader.feeds()
    for feed in feeds:
        covered = merge_intervals(coverage.get(feed.id, nothing)[:, :2])
        # What another collector of the same channel covered is not missing.
        names = feed.exchange, feed.channel, feed.source
        others = [
            coverage.get(one.id, nothing)[:, :2]
            for one in feeds
            if (one.exchange, one.channel, one.source) == names
        ]
        by_any = merge_intervals(np.concatenate(others))
        gaps = reader.gaps(feed, since)
        missing = [
            end - start - int(covered_ms(by_any, np.array([start]), np.array([end]))[0])
            for start, end, _ in gaps
        ]
        entries.append(LiveEntry(feed, covered, gaps, missing))
    return entries
