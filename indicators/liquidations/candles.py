"""From bars and coverage to the columns of candles: the one aggregation of the project. Floor 1.

Live and historic columns come from here, so they are equal to the bit. Volumes are summed by
``np.bincount`` in order of time; nothing loops over events or candles.

A candle is ``[open, close)`` and is named by its open. What was not observed is NaN, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from liquidations.errors import LiquidationsError
from liquidations.event import (
    DAY,
    LONG,
    MINUTE,
    SHORT,
    Bars,
    Events,
    Floats,
    Ints,
    covered_ms,
    merge_intervals,
)
from liquidations.imbalance import effective_count, imbalance


_UNITS = {"m": MINUTE, "h": 60 * MINUTE, "d": DAY, "w": 7 * DAY}
# 1970-01-01 was a Thursday; exchanges open their weeks on Monday.
_MONDAY = 4 * DAY


def parse_timeframe(timeframe: str) -> tuple[int, str]:
    """Split a timeframe into its count and unit (m, h, d, w, M or y).

    >>> parse_timeframe("15m"), parse_timeframe("1M")
    ((15, 'm'), (1, 'M'))

    :raises LiquidationsError: if it is no timeframe of one minute or more.
    """
    found = re.fullmatch(r"([1-9]\d*)([mhdwMy])", str(timeframe or ""))
    if found is None:
        raise LiquidationsError(
            f"{timeframe!r} is not a timeframe of one minute or more; "
            "write it as Freqtrade does, for example 5m, 1h, 1d, 1w or 1M"
        )
    return int(found[1]), found[2]


def timeframe_ms(timeframe: str) -> int | None:
    """Return the length of a candle in ms, or None for months and years, which differ in length."""
    count, unit = parse_timeframe(timeframe)
    return count * _UNITS[unit] if unit in _UNITS else None


def longest_ms(timeframe: str) -> int:
    """Return the length of the longest candle of a timeframe in ms: of a month 31 days."""
    count, unit = parse_timeframe(timeframe)
    days = {"M": 31, "y": 366}
    return count * (days[unit] * DAY if unit in days else _UNITS[unit])


def format_period(period: int) -> str:
    """Write a length in ms as a timeframe.

    >>> format_period(60_000), format_period(14_400_000), format_period(604_800_000)
    ('1m', '4h', '1w')
    """
    for unit in ("w", "d", "h", "m"):
        if period % _UNITS[unit] == 0:
            return f"{period // _UNITS[unit]}{unit}"
    return f"{period}ms"


def format_time(time: int) -> str:
    """Write a time in ms as date and minute UTC.

    >>> format_time(1_722_826_800_000)
    '2024-08-05 03:00'
    """
    return str(np.datetime64(int(time), "ms").astype("datetime64[m]")).replace("T", " ")


def _months(time: Ints) -> Ints:
    return time.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)


def _month_starts(months: Ints) -> Ints:
    return months.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)


def candle_opens(start: int, end: int, timeframe: str) -> Ints:
    """List the opens of all candles that open in ``[start, end)``, in ms UTC.

    Weeks open on Monday, months and years are the calendar's, all else counts from 1970.
    """
    count, unit = parse_timeframe(timeframe)
    length = timeframe_ms(timeframe)
    if end <= start:
        return np.empty(0, np.int64)
    if length is None:
        step = count * (12 if unit == "y" else 1)
        first, last = _months(np.array([start - 1, end - 1]))
        months = np.arange(first // step * step, last + 1, step, dtype=np.int64)
        opens = _month_starts(months)
        return opens[(opens >= start) & (opens < end)]
    anchor = _MONDAY if unit == "w" else 0
    return np.arange(start + (anchor - start) % length, end, length, dtype=np.int64)


def candle_closes(opens: Ints, timeframe: str) -> Ints:
    """Return where the candles that open at ``opens`` (ms UTC) end."""
    count, unit = parse_timeframe(timeframe)
    length = timeframe_ms(timeframe)
    if length is not None:
        return opens + length
    return _month_starts(_months(opens) + count * (12 if unit == "y" else 1))


def _add(position: np.ndarray, values: Floats, size: int) -> Floats:
    """Sum values by position, in their order; of no values numpy would make integers."""
    return np.bincount(position, values, size).astype(np.float64, copy=False)


def to_bars(events: Events, period: int = MINUTE) -> Bars:
    """Sum events into bars of ``period`` ms; periods without an event have no bar."""
    if not len(events):
        return Bars.concat([])
    start = events.timestamp // period
    if np.any(start[1:] < start[:-1]):
        order = np.argsort(start, kind="stable")
        events, start = events.take(order), start[order]
    # Two places for each bar, one for each side.
    place = np.zeros(len(start), np.int64)
    np.cumsum(start[1:] != start[:-1], out=place[1:])
    place += place
    size = int(place[-1]) + 2
    place += events.side
    value = events.value_usd
    sums = _add(place, value, size)
    squares = _add(place, value * value, size)
    counts = np.bincount(place, minlength=size)
    long_count, short_count = counts[LONG::2], counts[SHORT::2]
    last = np.cumsum(long_count + short_count) - 1  # of each bar's events
    return Bars(
        start[last] * period,
        sums[LONG::2].copy(),
        sums[SHORT::2].copy(),
        long_count.astype(np.float64),
        short_count.astype(np.float64),
        squares[LONG::2].copy(),
        squares[SHORT::2].copy(),
    )


def add_bars(parts: Sequence[Bars]) -> Bars:
    """Add bars of the same periods up into one bar a period, in order of time."""
    bars = Bars.concat(parts)
    time, position = np.unique(bars.timestamp, return_inverse=True)
    sums: dict[str, np.ndarray] = {
        name: _add(position, array, len(time))
        for name, array in bars.arrays().items()
        if name != "timestamp"
    }
    return Bars(timestamp=time, **sums)


@dataclass(frozen=True, slots=True, eq=False)
class Late:
    """Hold what a live feed told late: events, and intervals of coverage.

    ``known`` is the first minute's close at which an event was known; the rows of ``coverage`` are
    (start, end, known), and it is never before their end. Only candles that close then or later
    contain them: those that bots read before did not. 0 stands for in time.
    """

    events: Events
    known: Ints
    coverage: Ints

    def in_time(self) -> Late:
        """Return the same as if it had come in time: what happened, not what bots saw."""
        coverage = self.coverage * np.array([1, 1, 0])
        return Late(self.events, np.zeros_like(self.known), coverage)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Hold what one source knows of one contract: bars of a period (ms), and its coverage.

    Where the source does not count events, their number is unknown in quiet candles too. ``late``
    is what came too late for the candles of its minute.
    """

    name: str
    period: int
    bars: Bars
    coverage: Ints
    counted: bool = True
    late: Late | None = None
    #: Bars that the vendor has revised since, as it told them last.
    revised: Bars | None = None

    def latest(self) -> Source:
        """Return the same with the last vintage of each bar in place of the first."""
        if self.revised is None:
            return self
        kept = self.bars.take(~np.isin(self.bars.timestamp, self.revised.timestamp))
        bars = Bars.concat([kept, self.revised])
        return replace(self, bars=bars.take(np.argsort(bars.timestamp)), revised=None)


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """Hold sums per candle as arrays of one length; coverage 0…1, the rest NaN if unobserved.

    ``squares``, the sum of the squared values of both sides, costs time: it is there if asked for.
    """

    long: Floats
    short: Floats
    long_count: Floats
    short_count: Floats
    coverage: Floats
    squares: Floats | None = None

    @classmethod
    def unobserved(cls, size: int, *, squares: bool = False) -> Candles:
        """Return candles of which nothing is known."""
        nothing = np.full(size, np.nan)
        volumes = dict.fromkeys(_volumes(squares), nothing)
        return cls(coverage=np.zeros(size), **volumes)

    def without(self, unknown: np.ndarray) -> Candles:
        """Return the same, but unobserved where it is told."""
        nothing = Candles.unobserved(len(unknown), squares=self.squares is not None)
        arrays = {
            name: np.where(unknown, getattr(nothing, name), getattr(self, name))
            for name in ("coverage", *_volumes(self.squares is not None))
        }
        return replace(self, **arrays)


def _volumes(squares: bool) -> tuple[str, ...]:
    """List the fields of candles that are sums."""
    return ("long", "short", "long_count", "short_count", *(("squares",) if squares else ()))


def serves(period: int, opens: Ints, closes: Ints) -> bool:
    """Tell whether bars of this period add up to these candles without crossing an edge."""
    if _is_grid(opens, closes):
        return not (opens[0] % period or closes[0] % period)
    return not (np.any(opens % period) or np.any(closes % period))


def _is_grid(opens: Ints, closes: Ints) -> bool:
    """Tell whether the candles, of equal length but for months, follow each other without holes."""
    size, length = len(opens), closes[0] - opens[0]
    if length >= 28 * DAY:  # months differ, and may add up to a grid by coincidence
        return False
    return closes[-1] - opens[0] == size * length and closes[-1] - opens[-1] == length


def source_candles(source: Source, opens: Ints, closes: Ints, *, squares: bool = False) -> Candles:
    """Sum one source's bars over candles; a coarser bar never serves a finer candle.

    :param opens, closes: int64 ms, increasing, the candles not overlapping
    :return: 0.0 where something was observed and nothing happened, NaN where nothing was observed
    """
    size = len(opens)
    if not size or not serves(source.period, opens, closes):
        return Candles.unobserved(size, squares=squares)
    covered = covered_ms(source.coverage, opens, closes)
    time = source.bars.timestamp
    rows = slice(*np.searchsorted(time, (opens[0], closes[-1])))
    position = _positions(time[rows], opens, closes)
    # Bars that fall between two candles of a frame with holes go to one bin too many.
    bars = {name: getattr(source.bars, name)[rows] for name in _volumes(False)}
    if squares:
        bars["squares"] = source.bars.long_squares[rows] + source.bars.short_squares[rows]
    sums = {name: _add(position, values, size + 1)[:size] for name, values in bars.items()}
    if source.late is not None:
        covered = covered + _late_coverage(source.late.coverage, opens, closes)
        for name, values in _late_sums(source.late, opens, closes, squares).items():
            sums[name] = sums[name] + values
    coverage = covered / (closes - opens)
    known = coverage > 0
    sums = {name: _keep(values, known) for name, values in sums.items()}
    if not source.counted:
        sums |= {name: np.full(size, np.nan) for name in sums.keys() - {"long", "short"}}
    return Candles(coverage=coverage, **sums)


def _late_sums(late: Late, opens: Ints, closes: Ints, squares: bool) -> dict[str, Floats]:
    """Sum the late events over those candles at whose close they were known."""
    size = len(opens)
    time = late.events.timestamp
    inside = (time >= opens[0]) & (time < closes[-1])
    events, known = late.events.take(inside), late.known[inside]
    position = _positions(events.timestamp, opens, closes)
    there = np.append(closes, 0)[position] >= known
    where = np.where(there, position, size)
    sums = {}
    for name, side in (("long", LONG), ("short", SHORT)):
        rows = events.side == side
        sums[name] = _add(where[rows], events.value_usd[rows], size + 1)[:size]
        sums[f"{name}_count"] = _add(where[rows], np.ones(rows.sum()), size + 1)[:size]
    if squares:
        sums["squares"] = _add(where, events.value_usd**2, size + 1)[:size]
    return sums


def _late_coverage(rows: Ints, opens: Ints, closes: Ints) -> Ints:
    """Measure the ms of each candle that were observed, as was known late, but by its close."""
    in_time = rows[:, 2] == 0
    covered = covered_ms(merge_intervals(rows[in_time, :2]), opens, closes)
    # Of the others, an interval is known at its end at the earliest, so earlier candles than the
    # one that holds its end had closed by then.
    rows = rows[~in_time & (rows[:, 1] > opens[0]) & (rows[:, 1] <= closes[-1])]
    start, end, known = rows.T
    position = np.searchsorted(opens, end - 1, side="right") - 1
    inside = (end <= closes[position]) & (closes[position] >= known)
    length = end - np.maximum(start, opens[position])
    np.add.at(covered, position[inside], length[inside])
    return covered


def _keep(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Replace what is not known by NaN."""
    return values if known.all() else np.where(known, values, np.nan)


def _positions(time: Ints, opens: Ints, closes: Ints) -> Ints:
    """Find each bar's candle; ``len(opens)`` if it lies in none."""
    size = len(opens)
    if _is_grid(opens, closes):
        return (time - opens[0]) // (closes[0] - opens[0])
    position = np.searchsorted(opens, time, side="right") - 1
    return np.where(time < closes[position], position, size)


def _stack(parts: Sequence[Candles], name: str) -> Floats:
    return np.stack([getattr(part, name) for part in parts])


def best_source(
    sources: Sequence[Source],
    opens: Ints,
    closes: Ints,
    min_coverage: float,
    *,
    squares: bool = False,
    ranks: Sequence[int] | None = None,
) -> tuple[Candles, Ints]:
    """Take each candle from one source: two sources of one contract are never added.

    Of the sources that observed at least ``min_coverage`` of the candle the one of the lowest rank
    wins, then the one of the finest period, then the better covered one, then the first in the
    alphabet; where none observed enough, the best covered one stands.

    :param ranks: of the sources, see ``archives.ranks``; default: all the same
    :return: the candles, and for each the position of its source in ``sources`` (-1 = none)
    """
    if not sources:
        return Candles.unobserved(len(opens), squares=squares), np.full(len(opens), -1)
    order = sorted(range(len(sources)), key=lambda i: sources[i].name)
    parts = [source_candles(sources[i], opens, closes, squares=squares) for i in order]
    if len(parts) == 1:
        return parts[0], (parts[0].coverage > 0) - 1
    coverage = _stack(parts, "coverage")
    keys = [(-ranks[i] if ranks else 0, -sources[i].period) for i in order]
    standing = np.array([sorted(keys).index(key) for key in keys])
    enough = (coverage >= min_coverage) & (coverage > 0)
    best = np.argmax(coverage + np.where(enough, 2.0 * (1 + standing[:, None]), 0.0), axis=0)
    columns = np.arange(len(opens))
    names = (*_volumes(squares), "coverage")
    taken = Candles(**{name: _stack(parts, name)[best, columns] for name in names})
    return taken, np.where(taken.coverage > 0, np.array(order)[best], -1)


#: Candles, and where they count: a contract does from when it was first observed. One that is
#: recorded from today on must not make the past unknown.
Part: TypeAlias = tuple[Candles, np.ndarray | bool]


def add_contracts(contracts: Sequence[Part]) -> Candles:
    """Add the contracts of one exchange; it was observed only as far as each of them was."""
    parts, begun = zip(*contracts, strict=True)
    if len(parts) == 1:
        return parts[0]
    counts, some = np.stack(begun), np.any(begun, axis=0)
    coverage = np.where(counts, _stack(parts, "coverage"), 1.0).min(axis=0)
    names = _volumes(parts[0].squares is not None)
    sums = {name: _keep(_stack(parts, name).sum(axis=0, where=counts), some) for name in names}
    return Candles(coverage=np.where(some, coverage, 0.0), **sums)


def add_parts(parts: Iterable[Part], min_coverage: float, least: int | float) -> Candles:
    """Add exchanges, or pairs, leaving those out of a candle that observed too little of it.

    Takes one part after the other, so that a whole market needs the memory of one pair.

    :param least: how many parts, or below 1 which share of them, must have observed a candle at
        ``min_coverage``; where fewer did, it is NaN
    :return: their sums; coverage is the mean over all parts that count all the same
    """
    total: dict[str, Floats] = {}
    number: Any = 0
    for part, counts in parts:
        number = number + counts
        used = (part.coverage >= min_coverage) & (part.coverage > 0)
        if not total:
            names = _volumes(part.squares is not None)
            total = {name: np.zeros(len(used)) for name in (*names, "coverage", "used")}
        for name in names:
            np.add(total[name], getattr(part, name), out=total[name], where=used)
        total["coverage"] += part.coverage
        total["used"] += used
    enough = total["used"] >= (least if least >= 1 else np.maximum(least * number, 1))
    sums = {name: _keep(total[name], enough) for name in names}
    return Candles(coverage=total["coverage"] / np.maximum(number, 1), **sums)


def columns(
    exchanges: dict[str, Candles],
    *,
    min_coverage: float = 0.9,
    min_exchanges: int = 1,
    per_exchange: bool = False,
) -> dict[str, Floats]:
    """Add the exchanges into the columns that a strategy sees (table 2).

    An exchange that observed less than ``min_coverage`` of a candle, or nothing of it, is left out
    of it; where fewer than ``min_exchanges`` remain, the candle is NaN. ``liq_coverage`` is the
    mean over all exchanges all the same, so that a strategy can see that one is missing.

    :param exchanges: exchange id → its candles, all of one length
    :param per_exchange: also return ``liq_long_binance`` and so on
    :return: column → float64 array; ``liq_n_eff`` is among them if the candles have squares
    """
    result = table(_enough(list(exchanges.values()), min_coverage, min_exchanges))
    if per_exchange:
        for exchange, part in exchanges.items():
            own = table(add_parts([(part, True)], min_coverage, 1))
            result |= {f"{name}_{exchange}": array for name, array in own.items()}
    return result


def _enough(parts: Sequence[Candles], min_coverage: float, min_exchanges: int) -> Candles:
    """Add the exchanges; one alone needs no sums."""
    if len(parts) > 1:
        return add_parts([(part, True) for part in parts], min_coverage, min_exchanges)
    one = parts[0]
    used = (one.coverage >= min_coverage) & (one.coverage > 0)
    names = _volumes(one.squares is not None)
    return Candles(
        coverage=one.coverage, **{name: _keep(getattr(one, name), used) for name in names}
    )


def table(candles: Candles) -> dict[str, Floats]:
    """Name the sums of candles as the columns that a strategy sees."""
    long, short = candles.long, candles.short
    total = long + short
    named = {
        "liq_long": long,
        "liq_short": short,
        "liq_total": total,
        "liq_long_count": candles.long_count,
        "liq_short_count": candles.short_count,
        "liq_imbalance": imbalance(long, short),
        "liq_coverage": candles.coverage,
    }
    if candles.squares is not None:
        named["liq_n_eff"] = effective_count(total, candles.squares)
    return named
