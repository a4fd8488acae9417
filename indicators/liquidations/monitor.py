"""What the live feeds tell now, read from the store that a collector or a bot writes. Floor 4.

Who watches collects nothing and writes nothing, not even the seal of a minute. What is told of the
closed candle are the columns that a backtest reads at the same moment; what is told of the running
one are the sums of what is stored of it so far, by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from liquidations.candles import Candles, candle_closes, candle_opens, columns, longest_ms
from liquidations.event import DAY, SIDES, SIMULATED, Floats, Ints
from liquidations.exchanges import regime
from liquidations.inventory import LiveEntry, live_entries
from liquidations.provider import LiquidationProvider, all_series, by_exchange
from liquidations.reader import Reader, Series
from liquidations.rows import GONE
from liquidations.settings import Settings
from liquidations.store import Store
from liquidations.view import LiveView


#: The normal volume of a candle is the median of so many candles before it, or of those of a day,
#: in which anything was liquidated; it takes ``LEAST`` such candles to know it.
CANDLES, LEAST = 24, 8

#: So far back (ms) gaps and events are shown.
PAST = 3_600_000

#: So many of the last events are read.
EVENTS = 50

#: What the feeds have not told of the last moments (ms) does not make a running candle unknown.
LAG = GONE


@dataclass(frozen=True, slots=True)
class Figures:
    """Hold the columns of one candle, from ``open`` to ``close`` (ms UTC).

    ``normal`` is the pair's usual total in USD. NaN is unknown.
    """

    open: int
    close: int
    long: float
    short: float
    total: float
    imbalance: float
    coverage: float
    normal: float

    @property
    def times_normal(self) -> float:
        """Return the total in multiples of the normal one; NaN where either is unknown."""
        return self.total / self.normal


@dataclass(frozen=True, slots=True)
class Pair:
    """Hold what is known of a pair: its running candle so far, and the last one that closed.

    ``sampled`` names the exchanges among its sources that publish less than all liquidations.
    """

    name: str
    running: Figures
    closed: Figures
    sampled: tuple[str, ...]
    simulated: bool


@dataclass(frozen=True, slots=True)
class Happened:
    """Hold one liquidation: time in ms UTC, side long or short."""

    timestamp: int
    exchange: str
    pair: str
    side: str
    value_usd: float


@dataclass(frozen=True, slots=True)
class Health:
    """Hold how one feed is. ``channel`` is empty where nobody collects an exchange.

    ``kind`` is what the exchange publishes (``exchanges.KINDS``), ``collector`` running, stopped or
    gone, ``mark`` until when (ms UTC) it has told all; ``gaps`` and ``missing`` (ms) are those of
    the last hour, ``reason`` that of the last one.
    """

    exchange: str
    channel: str
    kind: str
    simulated: bool
    collector: str
    updated: int | None = None
    mark: int | None = None
    sealed: int | None = None
    gaps: int = 0
    missing: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hold all that is shown at ``time`` (ms UTC).

    ``sealed`` tells whether the closed candle is complete: every feed that is running has told it.
    """

    time: int
    timeframe: str
    sealed: bool
    pairs: tuple[Pair, ...]
    events: tuple[Happened, ...]
    feeds: tuple[Health, ...]

    @property
    def simulated(self) -> bool:
        """Tell whether anything in it is invented."""
        return any(pair.simulated for pair in self.pairs) or any(
            feed.simulated for feed in self.feeds
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain objects for JSON, unknown numbers as None."""
        pairs = [
            {
                "pair": pair.name,
                "running": _plain(pair.running),
                "closed": _plain(pair.closed),
                "lower_bound": list(pair.sampled),
                "simulated": pair.simulated,
            }
            for pair in self.pairs
        ]
        return {
            "time": self.time,
            "timeframe": self.timeframe,
            "closed_candle_sealed": self.sealed,
            "simulated": self.simulated,
            "pairs": pairs,
            "events": [_fields(event) for event in self.events],
            "feeds": [_fields(feed) for feed in self.feeds],
        }


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


def _plain(figures: Figures) -> dict[str, Any]:
    numbers = _fields(figures) | {"times_normal": figures.times_normal}
    return {name: None if np.isnan(value) else value for name, value in numbers.items()}


class Monitor:
    """Look at a store again and again; what has not changed since is not read again.

    :param settings: which store, and which exchanges
    :param pairs: as Freqtrade writes them; none = those that the feeds tell now
    """

    def __init__(self, settings: Settings, timeframe: str, pairs: Sequence[str] = ()) -> None:
        self.settings, self.timeframe = settings, timeframe
        self._asked = tuple(pairs)
        self._provider = LiquidationProvider(settings.db_url)
        self._store: Store | None = None
        self._view: LiveView | None = None

    def close(self) -> None:
        """Close the store."""
        self._provider.close()

    def look(self, now: int) -> Snapshot:
        """Read what is known now (ms UTC).

        :raises LiquidationsError: if there is no store, or it can't be read now; the next look may
            succeed, also at another file in its place.
        """
        store = self._provider.store
        if self._view is None or store is not self._store:
            self._store, self._view = store, LiveView(lambda: store)
        view = self._view
        view.look(now)
        opens = self._opens(now)
        closes = candle_closes(opens, self.timeframe)
        with store.read() as reader:
            entries = [
                one
                for one in live_entries(reader, now - PAST)
                if one.feed.exchange in self.settings.exchanges
            ]
            names = self._asked or self._told(view, entries)
            found = [self._pair(view, name, opens, closes, now) for name in names]
            shown = {one.id: one for _, series in found for one in series}
            events = _events(reader, shown, now - PAST)
        close = int(closes[-2])
        open_ = [e for e in entries if e.writer(now) == "running" and e.feed.sealed < close]
        return Snapshot(
            time=now,
            timeframe=self.timeframe,
            sealed=not open_,
            pairs=tuple(pair for pair, _ in found),
            events=events,
            feeds=self._health(entries, now),
        )

    def _opens(self, now: int) -> Ints:
        """List the candles that are looked at, the last of which is running."""
        longest = longest_ms(self.timeframe)
        past = max(DAY, CANDLES * longest) + 2 * longest
        return candle_opens(now - past, now + 1, self.timeframe)

    def _told(self, view: LiveView, entries: list[LiveEntry]) -> list[str]:
        """List one pair for each base asset that the feeds tell."""
        sources = {(one.feed.exchange, one.feed.source) for one in entries}
        order = {name: rank for rank, name in enumerate(self.settings.exchanges)}
        pairs: dict[str, tuple[int, str]] = {}
        for one in view.series():
            if (one.exchange, one.source) in sources:
                mine = order[one.exchange], one.pair
                pairs[one.base] = min(mine, pairs.get(one.base, mine))
        return [name for _, (_, name) in sorted(pairs.items())]

    def _pair(
        self, view: LiveView, name: str, opens: Ints, closes: Ints, now: int
    ) -> tuple[Pair, list[Series]]:
        parts, matched = by_exchange(view, name, opens, closes, self.settings)
        least = self.settings.min_coverage, self.settings.min_exchanges
        whole = _columns(parts, *least)
        length, elapsed = int(closes[-1] - opens[-1]), now - int(opens[-1])
        running_parts = {
            exchange: _so_far(part, length, elapsed) for exchange, part in parts.items()
        }
        so_far = _columns(running_parts, *least)
        before = whole["liq_total"][:-2]
        usual = before[before > 0]  # NaN is not
        normal = float(np.median(usual)) if len(usual) >= LEAST else np.nan
        series = all_series(matched)
        simulated = any(one.source == SIMULATED for one in series)
        sampled = () if simulated else _sampled(parts, now)
        running = _figures(so_far, 0, int(opens[-1]), int(closes[-1]), normal)
        closed = _figures(whole, -2, int(opens[-2]), int(closes[-2]), normal)
        return Pair(name, running, closed, sampled, simulated), series

    def _health(self, entries: list[LiveEntry], now: int) -> tuple[Health, ...]:
        running = {
            (one.feed.exchange, one.feed.channel) for one in entries if one.writer(now) == "running"
        }
        found = []
        for exchange in self.settings.exchanges:
            kind = str(regime(exchange, np.array([now]))[0])
            own = [one for one in entries if one.feed.exchange == exchange]
            for one in own:
                # Of a channel that is collected now, who has ended says nothing.
                if one.writer(now) == "running" or (exchange, one.feed.channel) not in running:
                    found.append(_health(one, kind, now))
            if not own:
                found.append(Health(exchange, "", kind, False, "none"))
        return tuple(found)


def _columns(
    parts: dict[str, Candles], min_coverage: float, min_exchanges: int
) -> dict[str, Floats]:
    return columns(parts, min_coverage=min_coverage, min_exchanges=min_exchanges)


def _so_far(part: Candles, length: int, elapsed: int) -> Candles:
    """Return the last candle alone, as if it ended now: its coverage is that of the time so far."""
    names = ("long", "short", "long_count", "short_count")
    covered = part.coverage[-1:] * length
    share = np.minimum(covered / max(elapsed - LAG, 1), 1.0)
    return replace(part, coverage=share, **{name: getattr(part, name)[-1:] for name in names})


def _figures(table: dict[str, Floats], row: int, open_: int, close: int, normal: float) -> Figures:
    names = ("long", "short", "total", "imbalance", "coverage")
    values = {name: float(table[f"liq_{name}"][row]) for name in names}
    return Figures(open_, close, normal=normal, **values)


def _sampled(parts: dict[str, Candles], now: int) -> tuple[str, ...]:
    """Name the exchanges that have told something, and publish less than all."""
    return tuple(
        exchange
        for exchange, part in parts.items()
        if part.coverage[-2:].any() and regime(exchange, np.array([now]))[0] != "complete"
    )


def _events(reader: Reader, shown: dict[int, Series], since: int) -> tuple[Happened, ...]:
    rows = reader.last_events(shown, since, EVENTS)
    return tuple(
        Happened(at, shown[one].exchange, shown[one].pair, SIDES[side], usd)
        for one, at, side, usd in rows
    )


def _health(one: LiveEntry, kind: str, now: int) -> Health:
    feed = one.feed
    return Health(
        exchange=feed.exchange,
        channel=feed.channel,
        kind=kind,
        simulated=feed.source == SIMULATED,
        collector=one.writer(now),
        updated=feed.updated or None,
        mark=int(one.coverage[-1, 1]) if len(one.coverage) else None,
        sealed=feed.sealed or None,
        gaps=len(one.gaps),
        missing=sum(one.missing),
        reason=one.gaps[-1][2] if one.gaps else "",
    )
