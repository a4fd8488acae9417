"""The words of the project as data: events, bars, intervals, and the columns of a candle.

An event is one forced closing of a position. ``side`` is the POSITION that was liquidated; an
exchange's ``buy``/``sell`` never leaves its adapter. Inside the program events of one exchange and
pair travel as columns, drawn here once:

    timestamp  received   side  price    amount  value_usd  key       origin
    int64 ms   int64 ms   int8  float64  float64 float64    int64     int16
    exchange's ours       0/1   quote    base    USD        identity  who recorded it

The key tells the events of one millisecond apart; origin is 0 for this store's own, else the number
of whose recording they came in.

A bar is the sum of the events of one period ``[timestamp, timestamp + period)``:

    timestamp  long  short  long_count  short_count  long_squares  short_squares
    int64 ms   USD   USD    float64     float64      USD²          USD²

Counts and squares are NaN where the source gives none. Intervals of coverage are an int64 array of
shape (n, 2), each ``[start, end)`` in ms, sorted and disjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from liquidations.errors import LiquidationsError


Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SIDES = ("long", "short")
LONG, SHORT = 0, 1

#: The source of invented data, wherever a source is named.
SIMULATED = "simulated"

MINUTE = 60_000
DAY = 86_400_000

#: Table 2, the columns that a strategy sees, in the order in which ``show`` prints them.
CANDLE_COLUMNS = (
    "liq_long",
    "liq_short",
    "liq_total",
    "liq_long_count",
    "liq_short_count",
    "liq_imbalance",
    "liq_coverage",
)

# Sums of floats depend on their order, unless every term is a multiple of one power of two: then
# additions are exact as long as the sum stays below 2**53 quanta, here 537 million USD a bar and
# side. So volumes are equal to the bit however events were batched, reordered or merged. (Sums of
# squares would need more bits than there are; they may differ in the last one.)
USD_QUANTUM = 2.0**-24


def round_usd(value: Floats) -> Floats:
    """Round USD values to the quantum (6e-8 USD) that makes their sums independent of the order."""
    rounded = np.asarray(value, dtype=np.float64) / USD_QUANTUM
    return np.multiply(np.round(rounded, out=rounded), USD_QUANTUM, out=rounded)


class Columns:
    """Give dataclasses of equally long arrays their length, rows and joining."""

    @classmethod
    @cache
    def names(cls) -> tuple[str, ...]:
        """List the columns in their order."""
        return tuple(field.name for field in fields(cls))  # type: ignore[arg-type]

    def arrays(self) -> dict[str, np.ndarray]:
        """Map each column's name to its array."""
        return {name: getattr(self, name) for name in self.names()}

    def __len__(self) -> int:
        return len(self.timestamp)  # type: ignore[attr-defined]

    def take(self, rows: np.ndarray | slice) -> Self:
        """Return the given rows (a mask, positions or a slice) as a new object."""
        return type(self)(*[getattr(self, name)[rows] for name in self.names()])

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Join the parts, in their order; of no parts an empty object."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls(**{name: np.empty(0, dtype) for name, dtype in cls.dtypes().items()})
        return cls(
            **{
                name: np.concatenate([getattr(part, name) for part in parts], dtype=dtype)
                for name, dtype in cls.dtypes().items()
            }
        )

    @classmethod
    def dtypes(cls) -> dict[str, type]:
        """Map each column's name to its type."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Events(Columns):
    """Hold liquidations of one exchange and pair as columns; see the drawing in this module."""

    timestamp: Ints
    received: Ints
    side: NDArray[np.int8]
    price: Floats
    amount: Floats
    value_usd: Floats
    key: Ints
    origin: NDArray[np.int16]

    @classmethod
    def dtypes(cls) -> dict[str, type]:
        """Map each column's name to its type."""
        integers = dict.fromkeys(("timestamp", "received", "key"), np.int64)
        own = {**integers, "side": np.int8, "origin": np.int16}
        return {name: own.get(name, np.float64) for name in cls.names()}


@dataclass(frozen=True, slots=True, eq=False)
class Bars(Columns):
    """Hold sums over equal periods as columns; see the drawing in this module."""

    timestamp: Ints
    long: Floats
    short: Floats
    long_count: Floats
    short_count: Floats
    long_squares: Floats
    short_squares: Floats

    @classmethod
    def dtypes(cls) -> dict[str, type]:
        """Map each column's name to its type."""
        return {name: np.int64 if name == "timestamp" else np.float64 for name in cls.names()}


def make_events(
    timestamp: Sequence[int] | np.ndarray,
    side: Sequence[int] | np.ndarray,
    price: Sequence[float] | np.ndarray,
    amount: Sequence[float] | np.ndarray,
    value_usd: Sequence[float] | np.ndarray,
    *,
    received: int | Sequence[int] | np.ndarray | None = None,
    rank: Sequence[int] | np.ndarray | None = None,
    origin: Sequence[int] | np.ndarray | None = None,
    sort: bool = True,
) -> Events:
    """Build checked events of one page, message or file, in order of time and key.

    ``timestamp`` is the exchange's time in int64 ms UTC, ``received`` ours (default: unknown, then
    it repeats the exchange's), ``side`` is 0 for long and 1 for short, ``price`` in quote per base,
    ``amount`` in base units, ``value_usd`` in USD (rounded to a 2**-24th of a dollar). ``rank``
    tells equal events of one millisecond apart, see :func:`identity`. ``origin`` says whose
    recording each came in (default: this store's own). Without ``sort`` they stay in the given
    order.

    :raises LiquidationsError: on a time, price, amount or value that no liquidation can have.
    """
    try:
        time = np.asarray(timestamp, dtype=np.int64)
    except OverflowError as error:
        raise LiquidationsError("a timestamp is far outside of what ms UTC can be") from error
    columns: dict[str, np.ndarray] = {
        "side": np.asarray(side, dtype=np.int8),
        "price": np.asarray(price, dtype=np.float64),
        "amount": np.asarray(amount, dtype=np.float64),
        "value_usd": round_usd(np.asarray(value_usd, dtype=np.float64)),
    }
    _check(time, columns)
    arrival = np.broadcast_to(np.asarray(time if received is None else received), time.shape)
    key = identity(time, columns["side"], columns["price"], columns["amount"], rank)
    order = order_of(time, key) if sort else slice(None)
    return Events(
        timestamp=time[order],
        received=np.ascontiguousarray(arrival[order], dtype=np.int64),
        key=key[order],
        origin=(
            np.zeros(len(time), np.int16) if origin is None else np.asarray(origin, np.int16)[order]
        ),
        **{name: array[order] for name, array in columns.items()},
    )


#: More than all positions of the world: a unit was mistaken.
MOST_USD = 1e12

# 2009-01-03 (the first block of Bitcoin) … 2100: catches seconds, microseconds and nanoseconds.
EARLIEST, LATEST = 1_230_940_800_000, 4_102_444_800_000


def _check(time: Ints, columns: dict[str, np.ndarray]) -> None:
    if not np.isin(columns["side"], (LONG, SHORT)).all():
        raise LiquidationsError(f"side must be 0 (long) or 1 (short), got {set(columns['side'])}")
    bad = np.flatnonzero((time < EARLIEST) | (time > LATEST))
    if bad.size:
        raise LiquidationsError(
            f"timestamp must be in milliseconds UTC between 2009 and 2100, got {time[bad[0]]}"
        )
    for name in ("price", "amount", "value_usd"):
        # Less than half a quantum of USD rounds to 0: dust, but an event all the same.
        least = 0.0 if name == "value_usd" else np.nextafter(0.0, 1.0)
        bad = np.flatnonzero(~((columns[name] >= least) & np.isfinite(columns[name])))
        if bad.size:
            raise LiquidationsError(
                f"{name} of a liquidation must be a positive number, got {columns[name][bad[0]]}"
            )
    if (largest := columns["value_usd"].max(initial=0.0)) > MOST_USD:
        raise LiquidationsError(f"no liquidation is worth {largest:g} USD; check price and size")


def mix(values: np.ndarray) -> NDArray[np.uint64]:
    """Scramble 64-bit words one to one (the finaliser of splitmix64, Steele et al. 2014)."""
    word = np.ascontiguousarray(values).view(np.uint64)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


#: Rows that are hashed at a time: all that is needed of them stays in the processor's cache.
_BLOCK = 2**14


def hash_rows(*columns: np.ndarray) -> NDArray[np.uint64]:
    """Hash equally long columns of 64-bit values row by row."""
    total = np.zeros(len(columns[0]), np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, len(total), _BLOCK):
            part = total[start : start + _BLOCK]
            for column in columns:
                part *= np.uint64(0x9E3779B97F4A7C15)
                part += mix(column[start : start + _BLOCK])
                part[:] = mix(part)
    return total


def digest_of(*columns: np.ndarray) -> int:
    """Hash rows of 64-bit values such that their order does not matter."""
    return int(hash_rows(*columns).sum(dtype=np.uint64))


def count_equals(*columns: np.ndarray) -> Ints:
    """Number the rows that are equal in all columns: 0 for the first of them, 1 for the next.

    >>> count_equals(np.array([7, 5, 7, 7]), np.array([1, 1, 1, 2])).tolist()
    [0, 0, 1, 0]
    """
    # Only rows that share the last column, which is the time as a rule, may be equal.
    order, tie = _ties(columns[-1])
    few = order[tie]
    rank = np.zeros(len(order), np.int64)
    rank[few] = _count_equals([column[few] for column in columns])
    return rank


def _ties(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the stable order by time, and which of the ordered rows share theirs with another."""
    in_time = not np.any(time[1:] < time[:-1])
    order = np.arange(len(time)) if in_time else np.argsort(time, kind="stable")
    ordered = time if in_time else time[order]
    tie = np.zeros(len(order) + 1, dtype=bool)
    tie[1:-1] = ordered[1:] == ordered[:-1]
    return order, tie[1:] | tie[:-1]


def _count_equals(columns: Sequence[np.ndarray]) -> Ints:
    order = np.lexsort(columns)
    same = np.ones(len(order), dtype=bool)
    for column in columns:
        ordered = column[order]
        same[1:] &= ordered[1:] == ordered[:-1]
    same[:1] = False
    position = np.arange(len(order))
    rank = np.empty(len(order), np.int64)
    rank[order] = position - np.maximum.accumulate(np.where(same, 0, position))
    return rank


def order_of(time: Ints, key: Ints) -> np.ndarray:
    """Return the stable order of rows by time, then key; fast where they are in order of time.

    >>> order_of(np.array([5, 3, 5, 5]), np.array([9, 1, 2, 9])).tolist()
    [1, 2, 0, 3]
    """
    order, tie = _ties(time)
    rows = order[tie]
    order[tie] = rows[np.lexsort((key[rows], time[rows]))]
    return order


def repeats(time: Ints, key: Ints) -> np.ndarray:
    """Tell which rows, in order of time and key, equal the one before."""
    found = np.zeros(len(time), dtype=bool)
    found[1:] = (time[1:] == time[:-1]) & (key[1:] == key[:-1])
    return found


def identity(
    time: Ints,
    side: np.ndarray,
    price: Floats,
    amount: Floats,
    rank: Sequence[int] | np.ndarray | None = None,
) -> Ints:
    """Give each event of one batch a key that it gets again whenever it is received again.

    Hardly a venue numbers its liquidations, so the key is a hash of side, price and amount, and of
    the event's rank among its exact equals of the same millisecond: two real events stay two, and a
    page that is fetched twice is recognised.

    :param rank: of each row; default: its place among its equals in this batch
    """
    if rank is None:
        rank = count_equals(amount, price, side, time)
    columns = [side.astype(np.int64), price, amount]
    return hash_rows(*columns, np.asarray(rank, dtype=np.int64)).view(np.int64)


def merge_intervals(intervals: np.ndarray) -> Ints:
    """Merge ``[start, end)`` intervals into sorted disjoint ones; touching ones become one.

    >>> merge_intervals(np.array([[5, 9], [1, 3], [3, 4], [8, 12], [7, 7]])).tolist()
    [[1, 4], [5, 12]]
    """
    spans = np.asarray(intervals, dtype=np.int64).reshape(-1, 2)
    spans = spans[spans[:, 1] > spans[:, 0]]
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    if not len(spans):
        return spans
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate(([True], spans[1:, 0] > reach[:-1]))
    return np.column_stack((spans[first, 0], reach[np.append(first[1:], True)]))


def common_intervals(one: Ints, other: Ints) -> Ints:
    """Return what two sets of sorted disjoint intervals have in common.

    >>> common_intervals(np.array([[1, 5], [7, 9]]), np.array([[3, 8]])).tolist()
    [[3, 5], [7, 8]]
    """
    return _pieces(one, other, both=True)


def without_intervals(one: Ints, other: Ints) -> Ints:
    """Return what of sorted disjoint intervals does not lie in others.

    >>> without_intervals(np.array([[1, 5], [7, 9]]), np.array([[3, 8]])).tolist()
    [[1, 3], [8, 9]]
    """
    return _pieces(one, other, both=False)


def _pieces(one: Ints, other: Ints, *, both: bool) -> Ints:
    edges = np.unique(np.concatenate((one.ravel(), other.ravel())))
    inside = is_within(one, edges[:-1]) & (is_within(other, edges[:-1]) == both)
    return merge_intervals(np.column_stack((edges[:-1], edges[1:]))[inside])


def is_within(intervals: Ints, time: Ints) -> np.ndarray:
    """Tell which times lie within sorted disjoint intervals.

    >>> is_within(np.array([[1, 5], [7, 9]]), np.array([0, 1, 5, 8])).tolist()
    [False, True, False, True]
    """
    at = np.searchsorted(intervals[:, 0], time, side="right") - 1
    return (at >= 0) & (time < np.append(intervals[:, 1], 0)[at])


def covered_share(intervals: Ints, start: Ints, end: Ints) -> Floats:
    """Measure which share, 0 to 1, of each ``[start, end)`` the intervals cover.

    ``intervals`` are sorted and disjoint; ``start`` and ``end`` increasing arrays of one length.
    """
    return covered_ms(intervals, start, end) / (end - start)


def covered_ms(intervals: Ints, start: Ints, end: Ints) -> Ints:
    """Measure how many ms of each ``[start, end)`` the intervals cover, as above."""
    if not len(start) or not len(intervals):
        return np.zeros(len(start), np.int64)
    begin, stop = intervals[:, 0], intervals[:, 1]
    around = np.searchsorted(begin, start[0], side="right") - 1
    if around >= 0 and stop[around] >= end[-1]:
        return end - start  # the common case: one interval covers all
    length = stop - begin
    before = np.concatenate(([0], np.cumsum(length)))

    def until(time: Ints) -> Ints:
        last = np.searchsorted(begin, time, side="right") - 1
        inside = np.clip(time - begin[last], 0, length[last])
        return np.where(last < 0, 0, before[last] + inside)

    return until(end) - until(start)
