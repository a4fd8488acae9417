"""Whether stored liquidations can be true: duplicates, gaps, silence, prices, volumes. Floor 1.

Each function judges one thing on arrays and says it in words that a trader understands. What it
can't judge, because something is missing or too little, it says too: nothing is silently fine.
Times and sides are in ``timing.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from liquidations.candles import format_period, format_time
from liquidations.event import (
    DAY,
    Bars,
    Events,
    Floats,
    Ints,
    covered_ms,
    hash_rows,
    merge_intervals,
)


OK, LOOK, WRONG, UNTRIED = "ok", "look", "wrong", "not tried"

#: The checks, in the order in which they are shown.
CHECKS = ("time", "sides", "duplicates", "gaps", "silence", "prices", "volume", "sources")

HOUR = 3_600_000

#: Candles with liquidations below which nothing is said about them.
FEWEST = 50

#: Months, holes and so on that are named one by one.
LISTED = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """Say what one check found: the verdict, what was seen, what it means, what to do."""

    check: str
    verdict: str
    seen: str
    means: str = ""
    do: str = ""


def listed(names: Sequence[str]) -> str:
    """Name the first few of many.

    >>> listed(["2024-01", "2024-02"])
    '2024-01, 2024-02'
    """
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


# --- duplicates ----------------------------------------------------------------------------------


#: Equal events come by chance, or by many equal positions of copied trades; up to this share.
EQUAL_LOOK, EQUAL_WRONG = 0.02, 0.2

#: Events with equal side, price and amount so close together (ms) may be one event, told twice.
ECHO = 1000


def judge_duplicates(events: Events) -> Finding:
    """Judge events that stand more than once.

    Equal in time, side, price and amount: of a whole file in which every event stands twice (as in
    Binance Vision's) all groups are even. Equal but for the time, within ``ECHO``: two recorders
    with different clocks, or a file with rounded times.
    """
    if not len(events):
        return Finding("duplicates", UNTRIED, "no event is stored")
    order = np.lexsort((events.timestamp, events.amount, events.price, events.side))
    time = events.timestamp[order]
    like = np.ones(len(order), dtype=bool)
    for column in (events.side[order], events.price[order], events.amount[order]):
        like[1:] &= column[1:] == column[:-1]
    like[:1] = False
    apart = np.diff(time, prepend=time[0])
    repeats = like & (apart == 0)
    sizes = np.diff(np.flatnonzero(np.append(~repeats, True)))
    even = sizes[sizes % 2 == 0].sum() / len(events)
    equal = repeats.mean()
    echo = (like & (apart > 0) & (apart <= ECHO)).mean()
    if even >= 0.9:
        return Finding(
            "duplicates",
            WRONG,
            f"{even:.1%} of the events stand twice, equal in time, side, price and amount",
            "volumes are doubled: the file has each event twice",
            "remove it, and import it again with this program's archive of that source",
        )
    seen = f"{equal:.1%} repeat another event, {echo:.1%} one of the same second"
    worst = max(equal, echo)
    if worst < EQUAL_LOOK:
        return Finding("duplicates", OK, seen)
    return Finding(
        "duplicates",
        WRONG if worst >= EQUAL_WRONG else LOOK,
        f"{seen} (same side, price and amount)",
        "the same liquidations told twice, by files that overlap or clocks that differ; a few are "
        "equal positions liquidated together",
        "list some of them; if their times differ by a constant, import one of the files only",
    )


def judge_repeated_bars(bars: Bars) -> Finding:
    """Judge bars of a vendor that equal the one before, against what chance makes of their values.

    If values fell at random, two neighbours would be equal with the chance Σ c(c - 1) / n(n - 1),
    c of n bars having one value.
    """
    active = bars.take(bars.long + bars.short > 0)
    number = len(active)
    if number < FEWEST:
        return Finding("duplicates", UNTRIED, f"only {number} bars with liquidations are stored")
    values = hash_rows(active.long, active.short)
    repeats = int(np.count_nonzero(values[1:] == values[:-1]))
    _, count = np.unique(values, return_counts=True)
    chance = float((count * (count - 1)).sum() / (number * (number - 1))) * (number - 1)
    excess = repeats - chance
    seen = f"{repeats} of {number:,} bars equal the one before, by chance {chance:.1f} would"
    if repeats < 3 or excess < 5 * math.sqrt(chance) + 0.002 * number:
        return Finding("duplicates", OK, seen)
    return Finding(
        "duplicates",
        WRONG if excess > 0.05 * number else LOOK,
        seen,
        "the source filled holes with what was before, or a longer bar was cut into equal ones",
        "get the period that the source really has, or another source",
    )


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Hold hashes of what one series has, to be found in others; ``name`` is for people."""

    name: str
    market: tuple[str, str]
    hashes: np.ndarray


def marks_of(rows: Events | Bars, keep: int = 1) -> np.ndarray:
    """Hash events, or bars with both sides, by all that they say; sorted, each once.

    :param keep: only one of so many, the same ones in every series, so that all fit into memory
    """
    if isinstance(rows, Events):
        found = hash_rows(rows.timestamp, rows.side.astype(np.int64), rows.price, rows.amount)
    else:
        both = rows.take((rows.long > 0) & (rows.short > 0))
        found = hash_rows(both.timestamp, both.long, both.short)
    return _once(np.sort(found[found % np.uint64(keep) == 0]))


def judge_shared(marks: Sequence[Marks]) -> list[Finding | None]:
    """Judge whether the same liquidations stand in another pair or exchange, too.

    :return: for each one what was found; None if nothing
    """
    everything = np.sort(np.concatenate([one.hashes for one in marks]))
    repeated = _once(everything[1:][everything[1:] == everything[:-1]])
    few = [np.intersect1d(one.hashes, repeated, assume_unique=True) for one in marks]
    return [_shared(one, own, marks, few) for one, own in zip(marks, few, strict=True)]


def _shared(
    one: Marks, own: np.ndarray, marks: Sequence[Marks], few: Sequence[np.ndarray]
) -> Finding | None:
    number, name = 0, ""
    for other, theirs in zip(marks, few, strict=True):
        if other.market != one.market and len(own) and len(theirs):
            same = len(np.intersect1d(own, theirs, assume_unique=True))
            number, name = max((number, name), (same, other.name))
    if number < 3:
        return None
    share = number / len(one.hashes)
    return Finding(
        "duplicates",
        WRONG if number >= 10 and share >= 0.01 else LOOK,
        f"{share:.1%} of its rows stand in {name} too, equal in time and all values",
        "one of the two was imported under the wrong pair or exchange",
        "remove the wrong one",
    )


def _once(ordered: np.ndarray) -> np.ndarray:
    """Drop what equals the one before."""
    return ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]


# --- gaps and silence ----------------------------------------------------------------------------


def judge_gaps(
    coverage: Ints, start: int, end: int, reasons: Mapping[str, int] | None = None
) -> Finding:
    """Judge the holes in what was observed of ``[start, end)`` ms.

    Holes are honest: their candles are NaN. So they are never wrong, only worth a look.

    :param reasons: why live feeds did not listen, and how often
    """
    spans = merge_intervals(np.clip(coverage, start, end))
    edges = np.concatenate(([start], spans.ravel(), [end])).reshape(-1, 2)
    holes = edges[edges[:, 1] > edges[:, 0]]
    lengths = holes[:, 1] - holes[:, 0]
    share = lengths.sum() / max(end - start, 1)
    if not len(holes):
        return Finding("gaps", OK, "observed without a hole")
    months = np.arange(*_month_span(start, end))
    opens, closes = (m.astype("datetime64[ms]").astype(np.int64) for m in (months, months + 1))
    empty = [str(m) for m in months[covered_ms(spans, opens, closes) == 0]]
    longest = int(lengths.argmax())
    seen = (
        f"{len(holes)} hole(s), {share:.1%} of the time, the longest from "
        f"{format_time(holes[longest, 0])} to {format_time(holes[longest, 1])}"
    )
    if empty:
        seen += f"; nothing at all of {listed(empty)}"
    if reasons:
        seen += "; feeds: " + ", ".join(f"{why} {n}" for why, n in sorted(reasons.items()))
    if share < 0.01 and lengths.max() < HOUR:
        return Finding("gaps", OK, seen)
    means = "candles in them are NaN, and say nothing"
    return Finding("gaps", LOOK, seen, means, "fill them from another source, or leave them out")


def _month_span(start: int, end: int) -> tuple[np.datetime64, np.datetime64]:
    first, last = (np.datetime64(time, "ms").astype("datetime64[M]") for time in (start, end - 1))
    return first, last + 1


#: So many silences as long would be expected by chance: below it they are looked at, or wrong.
RARE, IMPOSSIBLE = 1e-2, 1e-6


def judge_silence(opens: Ints, total: Floats, others: Floats | None = None) -> Finding:
    """Judge stretches that were observed, and in which nothing was liquidated for too long.

    Liquidations come in swarms: a Poisson process would call every calm night a fault. So the
    longest silence is judged by the lengths of the others (:func:`silence_chance`). Where other
    series of the same base were observed too, they are asked: if they were as quiet, all is well;
    if they were not, although this one usually says something then, a look is due.

    :param opens: of candles without a hole, ms UTC
    :param total: USD per candle; NaN = not observed
    :param others: the same of other series together; NaN = not observed
    """
    known, quiet = ~np.isnan(total), total == 0
    active = known & ~quiet
    if known.sum() < 48 or active.sum() < 20:
        return Finding("silence", UNTRIED, "fewer than 48 candles, or fewer than 20 of them active")
    edge = np.diff(np.concatenate(([False], quiet, [False])).astype(np.int8))
    begin, end = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    if not len(begin):
        return Finding("silence", OK, "something in every candle")
    length = end - begin
    step = int(opens[1] - opens[0])
    worst = int(length.argmax())
    chance = silence_chance(length)
    meanwhile = ""
    if others is not None:
        by_others = _chance_by_others(begin, end, known, quiet, others)
        if chance >= RARE and by_others.min() < IMPOSSIBLE:
            worst, chance = int(by_others.argmin()), RARE / 2
            meanwhile = ", while other series had something"
        elif RARE <= by_others[worst] < np.inf:
            chance = 1.0
    if chance >= RARE:
        return Finding("silence", OK, f"the longest silence is {length[worst] * step / HOUR:g} h")
    first, last = opens[begin[worst]], opens[end[worst] - 1] + step
    return Finding(
        "silence",
        WRONG if chance < IMPOSSIBLE else LOOK,
        f"nothing for {length[worst] * step / HOUR:g} h from {format_time(first)} to "
        f"{format_time(last)}, though observed{meanwhile}; {active.sum() / known.sum():.0%} of all "
        f"candles of {format_period(step)} have something",
        "a dead feed or a lost part of a file stands there as 0 instead of unknown",
        "get that time again from this or another source, or leave it out",
    )


def silence_chance(lengths: Ints) -> float:
    """Tell how many silences as long as the longest one were to be expected, by the others.

    A silence goes on with a chance that differs from one to the next, as calm and wild times do.
    If the chances have a beta distribution, the lengths are beta-geometric (C. Weinberg and B.
    Gladen, Biometrics 42, 1986). It is fitted on a grid by maximum likelihood to all silences but
    the longest, and to one of 1 and one of 2 candles, so that there is something to fit. In 1,080
    simulated years of events that come at log-normal rates (standard deviation 0.7 to 2.5, half
    forgotten after 6 hours to 10 days) nothing was below ``RARE``; with one chance for all silences
    most years were.

    :param lengths: of all silences, in candles
    :return: from 0 to the number of silences

    >>> silence_chance(np.array([1, 2, 1, 1, 3, 1])) > 0.01
    True
    >>> silence_chance(np.array([1, 2, 1, 1, 60, 1])) > 0.01
    False
    """
    ordered = np.sort(lengths)
    longest = ordered[-1]
    size, count = np.unique(np.append(ordered[:-1], [1, 2]), return_counts=True)
    steps = np.arange(longest - 1)
    best, chance = -np.inf, 0.0
    for spread in np.geomspace(1, 1000, 31):
        stay = np.linspace(0.02, 0.98, 49)[:, None] * spread
        # Of the chances to be at least 1, 2, 3 … candles long.
        logs = np.cumsum(np.log(stay + steps) - np.log(spread + steps), axis=1)
        logs = np.concatenate((np.zeros_like(stay), logs), axis=1)
        ends = np.log(spread - stay) - np.log(spread + size - 1)
        likelihood = (count * (logs[:, size - 1] + ends)).sum(axis=1)
        place = int(likelihood.argmax())
        if likelihood[place] > best:
            best, chance = likelihood[place], len(ordered) * math.exp(logs[place, -1])
    return chance


def _chance_by_others(
    begin: Ints, end: Ints, known: np.ndarray, quiet: np.ndarray, others: Floats
) -> Floats:
    """Tell how often it is so quiet while others are not; infinity where they were not observed."""
    loud = known & (np.nan_to_num(others) > 0)

    def within(mask: np.ndarray) -> Ints:
        sums = np.append(0, np.cumsum(mask))
        return sums[end] - sums[begin]

    # How often the series is quiet while the others are not, without the silence in question.
    inside = within(loud)
    usual = ((loud & quiet).sum() - inside + 1) / (loud.sum() - inside + 2)
    asked = within(~np.isnan(others)) >= 0.9 * (end - begin)
    return np.where(asked, len(begin) * usual**inside, np.inf)


# --- prices, values, volumes ---------------------------------------------------------------------


#: A liquidation's price is the average that was paid, or the bankruptcy price, at which nothing is
#: left of the position: beyond the liquidation price by the maintenance margin, 0.4 % to 5 % but
#: for the largest positions. Of 4,295 recorded ones on OKX a tenth lies 0.3 to 0.6 % outside of
#: its candle, and none 0.7 %.
BEYOND = 0.05
BEYOND_LOOK, BEYOND_WRONG = 0.02, 0.3

#: price × amount and the USD value may differ by so much; and in so many events.
MISVALUED, MISVALUED_SHARE = 0.01, 0.01


def judge_prices(
    events: Events, opens: Ints, high: Floats, low: Floats, step: int, *, usd: bool = True
) -> Finding:
    """Judge the events' prices by their candles, and their USD values by price × amount.

    :param opens, high, low: of the candles of ``step`` ms that are there
    :param usd: the quote currency is worth a dollar
    """
    if not len(events):
        return Finding("prices", UNTRIED, "no event is stored")
    worth = events.value_usd > 1  # less is dust, and rounded
    ratio = events.value_usd[worth] / (events.price[worth] * events.amount[worth])
    off = np.abs(np.log(ratio)) > MISVALUED
    if usd and off.any() and off.mean() >= MISVALUED_SHARE:
        return Finding(
            "prices",
            WRONG,
            f"{off.mean():.1%} of the values are not price × amount (in the middle "
            f"{np.exp(np.median(np.log(ratio[off]))):.4g} times it)",
            "contracts were taken for base units, or the value is in another currency",
            "remove it, and import it again with the contract's size",
        )
    row = np.searchsorted(opens, events.timestamp, side="right") - 1
    there = (row >= 0) & (events.timestamp < opens[row] + step) if len(opens) else row >= 0
    if there.sum() < 10:
        return Finding("prices", UNTRIED, "there is no candle of the events' time")
    row, price = row[there], events.price[there]
    middle = np.median(np.log(price / np.sqrt(high[row] * low[row])))
    if abs(middle) > math.log(1.5):
        return Finding(
            "prices",
            WRONG,
            f"prices are {math.exp(middle):.4g} times those of the candles",
            "another unit of the price, another contract (1000SHIB is not SHIB), or the limit of "
            "an order in place of its average price",
            "remove it, and import it again under the right pair and with the right unit",
        )
    outside = np.maximum(np.log(low[row] / price), np.log(price / high[row]))
    share = float((outside > math.log1p(BEYOND)).mean())
    seen = (
        f"{share:.1%} lie more than {BEYOND:.0%} outside of their candle, the farthest "
        f"{math.expm1(max(outside.max(), 0.0)):.1%}"
    )
    if share < BEYOND_LOOK:
        return Finding("prices", OK, seen)
    return Finding(
        "prices",
        WRONG if share >= BEYOND_WRONG else LOOK,
        seen,
        "prices are limits of orders or bankruptcy prices of low leverage, or times or pair are "
        "wrong; values in USD are off by as much",
        "compare some of them with the exchange",
    )


#: Liquidated on a day, as a share of what was traded. Recorded on Binance: at most 0.3 %; what
#: the simulated market has is up to 6 %.
TRADED_LOOK = 0.2

#: The least, over all days. Recorded: 0.09 % (BTC), 0.13 % (ETH) and 0.15 % (SOL); base units taken
#: for USD make of these 1.5e-8, 4.5e-7 and 1.0e-5. Simulated, and sampled one a second: 0.12 %. So
#: coins below some 50 USD can't be told. A feed of another exchange may show far less.
TRADED_LEAST, TRADED_LEAST_ELSEWHERE = 3e-5, 1e-7


def judge_volume(opens: Ints, liquidated: Floats, traded: Floats, *, own: bool = True) -> Finding:
    """Judge a day's liquidations by its trades: a liquidation is a trade, so there are no more.

    :param opens: of candles, ms UTC
    :param liquidated: USD per candle; NaN = not observed
    :param traded: USD per candle; NaN = there is no candle
    :param own: the trades are of the same exchange; those of another one bound it less
    """
    both = ~np.isnan(liquidated) & ~np.isnan(traded)
    if both.sum() < 24 or not traded[both].sum() > 0:
        return Finding("volume", UNTRIED, "fewer than 24 candles with a volume")
    day = opens[both] // DAY
    day -= day[0]
    forced, trades = np.bincount(day, liquidated[both]), np.bincount(day, traded[both])
    share = np.divide(forced, trades, out=np.zeros_like(forced), where=trades > 0)
    worst = int(share.argmax())
    mean = forced.sum() / trades.sum()
    seen = f"{mean:.2g} of what was traded, at most {share[worst]:.2g} on a day"
    when = format_time((opens[both][0] // DAY + worst) * DAY)[:10]
    if share[worst] >= TRADED_LOOK:
        return Finding(
            "volume",
            WRONG if share[worst] > 1 and own else LOOK,
            f"{seen}, on {when}",
            "liquidations are trades, so they can't be more: base units or contracts were taken "
            "for USD, or events are doubled",
            "remove it, and import it again with the right --unit",
        )
    if 0 < mean < (TRADED_LEAST if own else TRADED_LEAST_ELSEWHERE):
        means = "base units may have been taken for USD, or the feed shows next to nothing"
        return Finding("volume", LOOK, seen, means, "compare a day's sum with another source")
    return Finding("volume", OK, seen)
