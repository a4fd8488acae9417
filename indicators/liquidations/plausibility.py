"""Whether stored liquidations can be true: times, sides, duplicates, silence, prices. Floor 1.

Each function judges one thing on arrays and says it in words that a trader understands. What it
can't judge, because something is missing or too little, it says too: nothing is silently fine.

Times and sides are judged by the price. A falling price liquidates longs, a rising one shorts, so
the liquidations of a candle go against its return, and against those before it, which is why only
the order of the candles helps: they know nothing of the returns AFTER it. The correlation of
liquidations with returns so many candles later breaks off at 0; where it breaks off elsewhere, the
times are shifted by so much, and where it is positive, the sides are swapped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

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

#: Times are compared with those of up to a day earlier and later.
FARTHEST = DAY

#: A break, in standard errors, that is believed. There are up to 577 places for it in each month.
SURE = 6.0

#: By so many standard errors a break elsewhere must exceed the one at 0.
LEAD = 3.5

#: Candles with liquidations below which nothing is said about times; and about sides.
FEWEST, FEWEST_SIDES = 50, 30

#: Standard errors from which on sides are told by the correlation at 0 alone.
SURE_SIDES = 5.0

#: Parts of months that are judged too, such as a few bad days: their length, and from one to the
#: next (days). What is at least the sum of both long, holds a whole part.
PART, PART_STEP = 10, 5

_AT_ZERO = np.zeros(1, np.int64)
_LIST = 6  # months, holes and so on that are named one by one


@dataclass(frozen=True, slots=True)
class Finding:
    """Say what one check found: the verdict, what was seen, what it means, what to do."""

    check: str
    verdict: str
    seen: str
    means: str = ""
    do: str = ""


def flow(long: Floats, short: Floats) -> Floats:
    """Weigh which side was liquidated: (long - short) / √(long + short).

    Between the difference in USD, which a few candles rule, and the ratio, which one tiny order
    makes extreme. On the recorded hours of BTC, ETH and SOL its rank correlation with the return of
    the candle is -0.69, -0.66 and -0.70, that of the ratio -0.59, -0.59 and -0.65.

    :param long, short: USD per candle; NaN = not observed
    :return: √USD, positive where longs were hit; NaN where nothing was liquidated or observed

    >>> flow(np.array([9.0, 0.0, 0.0]), np.array([0.0, 4.0, 0.0])).tolist()
    [3.0, -2.0, nan]
    """
    total = long + short
    return (long - short) / np.sqrt(np.where(total > 0, total, np.nan))


# --- times and sides -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit:
    """Say where one column fits another best: the row of one is matched ``lag`` rows later.

    ``correlation`` is the one there, ``at_zero`` the one at lag 0; ``score`` and ``lead`` are in
    standard errors: of the break, and by how much it exceeds the one at lag 0. ``number`` counts
    the rows that were compared.
    """

    lag: int
    correlation: float
    at_zero: float
    score: float
    lead: float
    number: int

    @property
    def sure(self) -> bool:
        """Tell whether there is a break at all that chance does not make."""
        return self.score >= SURE

    @property
    def shifted(self) -> bool:
        """Tell whether the break is at another lag than 0, by more than chance."""
        return self.sure and self.lag != 0 and self.lead >= LEAD


def best_fit(
    values: Floats, other: Floats, begin: int, end: int, most: int, *, peak: bool = False
) -> Fit | None:
    """Find the lag at which rank correlations break off, or peak.

    Spearman's correlations r of ``values[i]`` with ``other[i + lag]`` become Fisher's
    z = artanh(r) √(n - 3). A break is |z| of a lag less |z| of the next one, a peak |z| of a lag
    less the mean of its neighbours'. Their standard error is taken from all the other lags (1.4826
    × the median of the absolute values), because returns and liquidations come in clusters; it is
    never below that of independent rows.

    :param values, other: of the same rows; NaN is left out
    :param begin, end: the rows of ``values`` that are meant; ``other`` may lie outside of them
    :param most: the farthest lag, in rows
    :param peak: find a peak
    :return: None if fewer than ``FEWEST`` rows can be compared at lag 0
    """
    first, last = max(begin - most - 1, 0), min(end + most + 1, len(other))
    mine = np.full(last - first, np.nan)
    mine[begin - first : end - first] = values[begin:end]
    theirs = other[first:last]
    if np.count_nonzero(~np.isnan(mine) & ~np.isnan(theirs)) < FEWEST:
        return None
    lags = np.arange(-most - 1, most + 2)
    correlation, number = _rank_correlations(mine, theirs, lags)
    # At the ends of the data there may be too little beyond a lag.
    known = number >= max(number[most + 1] / 2, FEWEST)
    correlation = np.where(known, correlation, np.nan)
    z = np.arctanh(np.clip(correlation, -0.999999, 0.999999)) * np.sqrt(np.maximum(number - 3, 1))
    strength = np.abs(z)
    if peak:
        falls, least = strength[1:-1] - (strength[:-2] + strength[2:]) / 2, math.sqrt(1.5)
    else:
        falls, least = strength[1:-1] - strength[2:], math.sqrt(2)
    size = np.nan_to_num(falls, nan=0.0)
    best = int(size.argmax())
    if np.isnan(falls[most]) or size[best] <= 0:
        return None
    # What is beside the best lag and beside 0 is no noise.
    place = np.arange(len(size))
    far = (np.abs(place - best) > 2) & (np.abs(place - most) > 2) & ~np.isnan(falls)
    error = max(1.4826 * float(np.median(np.abs(falls[far]))) if far.any() else 0.0, least)
    return Fit(
        lag=best - most,
        correlation=float(correlation[best + 1]),
        at_zero=float(correlation[most + 1]),
        score=float(size[best] / error),
        lead=float((size[best] - size[most]) / (error * math.sqrt(2))),
        number=int(number[most + 1]),
    )


def _rank_correlations(mine: Floats, theirs: Floats, lags: Ints) -> tuple[Floats, Ints]:
    """Correlate the ranks of one column with those of another, lag rows later; and count rows."""
    ranks, masks = [], []
    for column in (mine, theirs):
        rank = pd.Series(column).rank(pct=True).to_numpy() - 0.5
        ranks.append(np.nan_to_num(rank))
        masks.append((~np.isnan(rank)).astype(np.float64))
    (x, y), (known, there) = ranks, masks
    # Sums over all rows for all lags at once (the convolution theorem).
    size = 1 << (2 * len(x)).bit_length()
    spectra = {name: np.fft.rfft(v, size) for name, v in _powers(x, known).items()}
    others = {name: np.fft.rfft(v, size) for name, v in _powers(y, there).items()}

    def total(one: str, two: str) -> Floats:
        sums: Floats = np.fft.irfft(np.conj(spectra[one]) * others[two], size)[lags % size]
        return sums

    number = np.rint(total("known", "known"))
    count = np.maximum(number, 1)
    mean_x, mean_y = total("values", "known") / count, total("known", "values") / count
    variance_x = total("squares", "known") / count - mean_x**2
    variance_y = total("known", "squares") / count - mean_y**2
    product = total("values", "values") / count - mean_x * mean_y
    # Ranks differ by 1 / n at least, so what is far less is a residue of the transform.
    varied = np.minimum(variance_x, variance_y) > 1e-9
    scale = np.sqrt(np.where(varied, variance_x * variance_y, np.nan))
    correlation = product / scale
    return correlation, number.astype(np.int64)


def _powers(values: Floats, known: Floats) -> dict[str, Floats]:
    return {"values": values, "squares": values * values, "known": known}


def judge_time(
    opens: Ints, values: Floats, returns: Floats, step: int
) -> tuple[Finding, Finding, dict[str, Fit]]:
    """Judge times and sides by the price: of all candles, of each month, and of parts of months.

    A month apart finds what is wrong in a part only, such as daylight-saving time. Where all seems
    fine, parts of ``PART`` days are judged too, if they have enough; what is shorter than can be
    seen is said.

    :param opens: of candles without a hole, ms UTC
    :param values: :func:`flow` of the candles
    :param returns: of the price within the same candles; NaN where the candle is missing
    :param step: length of a candle in ms
    :return: the findings on times and on sides, and the fit of each month and of ``"all"``
    """
    fits = {name: fit for name, fit in _fits(opens, values, returns, step)}
    told = {name: fit for name, fit in fits.items() if fit.sure}
    if told:
        months = np.unique(
            opens[~np.isnan(values)].astype("datetime64[ms]").astype("datetime64[M]")
        )
        untold = [str(month) for month in months if str(month) not in told]
        time = _judge_lags(told, step)
        if time.verdict == OK:
            time = _judge_parts(time, opens, values, returns, step)
        if len(months) > 1 and untold:
            time = _partly(time, untold)
        return time, _judge_signs(told), fits
    correlation, number = (float(one[0]) for one in _rank_correlations(values, returns, _AT_ZERO))
    seen = f"{number:,.0f} candles with liquidations and a price do not suffice to tell"
    do = "choose a longer --timerange, or get more data"
    if number >= 20 * FEWEST:
        do = "look whether these are the candles of this pair"
    time = Finding("time", UNTRIED, seen, do=do)
    score = math.atanh(min(abs(correlation), 0.999)) * math.sqrt(max(number - 3, 0))
    if number < FEWEST_SIDES or not score >= SURE_SIDES:
        return time, Finding("sides", UNTRIED, seen, do=do), fits
    alone = Fit(0, correlation, correlation, score, 0.0, int(number))
    return time, _judge_signs({"all": alone}), fits


def _fits(opens: Ints, values: Floats, returns: Floats, step: int) -> Sequence[tuple[str, Fit]]:
    most = max(FARTHEST // step, 1)
    months = opens.astype("datetime64[ms]").astype("datetime64[M]")
    names, first = np.unique(months, return_index=True)
    edges = [*first.tolist(), len(opens)]
    windows = {"all": (0, len(opens))}
    if len(names) > 1:
        windows |= {str(name): (a, b) for name, a, b in zip(names, edges, edges[1:], strict=False)}
    found = ((name, best_fit(values, returns, a, b, most)) for name, (a, b) in windows.items())
    return [(name, fit) for name, fit in found if fit is not None]


def _parts(told: Mapping[str, Fit]) -> Mapping[str, Fit]:
    """Return the months; all candles where no month alone could tell."""
    return {name: fit for name, fit in told.items() if name != "all"} or told


def _judge_lags(told: Mapping[str, Fit], step: int) -> Finding:
    parts = _parts(told)
    shifted = {name: fit for name, fit in parts.items() if fit.shifted}
    if not shifted and "all" in told and told["all"].shifted:
        shifted = parts = {"all": told["all"]}
    if shifted:
        lags: dict[int, list[str]] = {}
        for name, fit in shifted.items():
            lags.setdefault(fit.lag, []).append(name)
        whole = "" if len(shifted) < len(parts) else ", all that can be told"
        seen = "; ".join(
            f"{_names(names)}: stamped {format_shift(lag, step)} (correlation with the price "
            f"{_mean(shifted, names, 'correlation'):.2f} there, "
            f"{_mean(shifted, names, 'at_zero'):.2f} as stored, at least "
            f"{min(shifted[name].lead for name in names):.0f} standard errors apart)"
            for lag, names in lags.items()
        )
        early = any(lag > 0 for lag in lags)
        means = (
            "its times are those of another time zone or of daylight-saving time"
            + (", or its bars are named by their close" if -1 in lags else "")
            + ("; a backtest would see liquidations before they happen" if early else "")
        )
        do = "remove it, and import it again with times in UTC"
        return Finding("time", WRONG, seen + whole, means, do)
    doubtful = [name for name, fit in parts.items() if fit.lag]
    if doubtful:
        seen = "; ".join(
            f"{name}: the best fit is stamped {format_shift(parts[name].lag, step)}, "
            f"{parts[name].lead:.1f} standard errors ahead"
            for name in doubtful[:_LIST]
        )
        means = "a shift of a part of it, or chance"
        return Finding("time", LOOK, seen, means, "compare a strong candle with a chart")
    fit = told.get("all") or next(iter(told.values()))
    return Finding("time", OK, f"correlation with the price {fit.at_zero:.2f} as stored")


def _judge_parts(time: Finding, opens: Ints, values: Floats, returns: Floats, step: int) -> Finding:
    """Judge parts of months, of which all seemed fine, and say what could not be seen."""
    most = max(FARTHEST // step, 1)
    known = np.flatnonzero(~np.isnan(values))
    start, end = (int(opens[row]) // DAY * DAY for row in known[[0, -1]])
    told: dict[str, Fit] = {}
    sure = True
    for day in range(start, max(end + DAY - PART * DAY, start) + 1, PART_STEP * DAY):
        begin, stop = np.searchsorted(opens, (day, day + PART * DAY))
        fit = best_fit(values, returns, int(begin), int(stop), most)
        if fit is None or not fit.sure:
            sure = False
        else:
            names = (format_time(edge)[:10] for edge in (day, day + (PART - 1) * DAY))
            told[" to ".join(names)] = fit
    if any(fit.shifted for fit in told.values()):
        return _judge_lags(told, step)
    length = f"about {PART + PART_STEP} days" if sure else "a month"
    return replace(time, seen=f"{time.seen}; a shift of less than {length} may not be seen")


def _partly(finding: Finding, months: Sequence[str]) -> Finding:
    """Add which months could not be told apart from the others."""
    return replace(finding, seen=f"{finding.seen}; too little to tell of {_names(months)} alone")


def _judge_signs(told: Mapping[str, Fit]) -> Finding:
    parts = _parts(told)
    swapped = [name for name, fit in parts.items() if fit.correlation > 0]
    if not swapped:
        fit = told.get("all") or next(iter(told.values()))
        return Finding("sides", OK, f"correlation with the price {fit.correlation:.2f}")
    correlation = _mean(parts, swapped, "correlation")
    return Finding(
        "sides",
        WRONG,
        f"{_names(swapped)}: longs are liquidated when the price rises (correlation "
        f"{correlation:+.2f}, {min(parts[name].score for name in swapped):.0f} standard errors)",
        "long and short are swapped: the side of the order was taken for that of the position, or "
        "the other way round",
        "remove it, and import it again with the sides of the positions",
    )


def format_shift(lag: int, step: int) -> str:
    """Say by how much times are off if rows fit what is ``lag`` rows of ``step`` ms later.

    >>> format_shift(-2, 3_600_000), format_shift(11, 1_800_000)
    ('2 h too late', '5.5 h too early')
    """
    length = abs(lag) * step
    text = f"{length / HOUR:g} h" if length % (HOUR // 2) == 0 else f"{length / 60_000:g} min"
    return f"{text} too {'early' if lag > 0 else 'late'}"


def _mean(fits: Mapping[str, Fit], names: Sequence[str], field: str) -> float:
    return float(np.mean([getattr(fits[name], field) for name in names]))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LIST} more" if len(names) > _LIST else ""
    return ", ".join(names[:_LIST]) + more


#: A side that is hit in so small a part of the candles that it should be, compared with the other
#: one, is missing; and what is so small beside a usual candle is nothing.
_RARER, _NOTHING = 4, 0.01


def judge_one_side(long: Floats, short: Floats, returns: Floats) -> Finding | None:
    """Find out whether one side is missing.

    A market that falls for weeks liquidates longs only. So candles are asked that rose or fell more
    than half of all: of those that fell some share has longs, and of those that rose a quarter of
    that share should have shorts at least; and the other way round. How probable so few are then
    is bounded after Chernoff (for a Poisson number k with mean m: e^(k - m) (m / k)^k).

    :param long, short: USD per candle; NaN = not observed
    :param returns: of the price within the same candles; NaN where the candle is missing
    :return: None if both sides are there, or there is too little to tell
    """
    known = ~np.isnan(long + short + returns)
    total = (long + short)[known]
    if np.count_nonzero(total) < FEWEST:
        return None
    sides = [side[known] >= _NOTHING * np.median(total[total > 0]) for side in (long, short)]
    moved = returns[known]
    large = np.abs(moved) >= np.median(np.abs(moved))
    against = [large & (moved < 0), large & (moved > 0)]
    hit = [int((side & own).sum()) for side, own in zip(sides, against, strict=True)]
    for one, name in enumerate(("longs", "shorts")):
        share = hit[1 - one] / max(int(against[1 - one].sum()), 1)
        number, found = int(against[one].sum()), hit[one]
        mean = share * number / _RARER
        if found >= mean:
            continue
        chance = math.exp(found - mean + (found * math.log(mean / found) if found else 0.0))
        if chance < IMPOSSIBLE:
            other, way = ("shorts", "fell") if one == 0 else ("longs", "rose")
            return Finding(
                "sides",
                WRONG,
                f"{name} were liquidated in {found} of {number:,} candles in which the price "
                f"{way}; {other} in {hit[1 - one]:,} of {int(against[1 - one].sum()):,} in which "
                "it did the opposite",
                f"{name} are missing: a filter, or both sides were read as one",
                "remove it, and import it again with both sides",
            )
    return None


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
        seen += f"; nothing at all of {_names(empty)}"
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


# --- sources against each other ------------------------------------------------------------------


#: Two series whose volumes differ by more, though they go together, are not in the same unit. What
#: feeds leave out is less: Bybit's showed a sixth of what it had in its largest cascade.
FACTOR = 20.0

#: A rank correlation from which on two series go together.
TOGETHER = 0.9


def judge_other(
    name: str, mine: tuple[Floats, Floats], other: tuple[Floats, Floats], step: int, *, same: bool
) -> Finding:
    """Judge a series by another one of the same base: the candles that both observed.

    :param name: of the other one, for people
    :param mine, other: long and short USD per candle, NaN = not observed
    :param step: length of a candle in ms
    :param same: they tell of the same contract of the same exchange
    """
    totals = mine[0] + mine[1], other[0] + other[1]
    both = ~np.isnan(totals[0]) & ~np.isnan(totals[1])
    number = int(both.sum())
    if number < FEWEST or not all(np.ptp(total[both]) > 0 for total in totals):
        return Finding("sources", UNTRIED, f"{name}: too few candles that both observed")
    sums = [total[both].sum() for total in totals]
    correlation = pd.Series(totals[0][both]).corr(pd.Series(totals[1][both]), method="spearman")
    seen = (
        f"{name}: {sums[0] / sums[1]:.2g} times its volume, correlation {correlation:.2f} in "
        f"{number:,} candles"
    )
    most = max(FARTHEST // step, 1)
    fit = best_fit(flow(*mine), flow(*other), 0, len(both), most, peak=True)
    if fit is not None and fit.shifted:
        return Finding(
            "sources",
            WRONG,
            f"{seen}; its times fit if these are stamped {format_shift(fit.lag, step)} "
            f"(correlation {fit.correlation:.2f} there, {fit.at_zero:.2f} as stored)",
            "the times of one of the two are wrong",
            "see which one the check of times calls wrong",
        )
    if fit is not None and fit.sure and fit.correlation < 0:
        means = "one of the two has long and short swapped"
        do = "see which one the check of sides calls wrong"
        seen += f"; the sides are opposite (correlation {fit.correlation:.2f})"
        return Finding("sources", WRONG, seen, means, do)
    if correlation >= TOGETHER and not 1 / FACTOR <= sums[0] / sums[1] <= FACTOR:
        means = "one of the two is in base units or contracts, not in USD, or lacks nearly all"
        do = "see which one the check of volumes calls improbable, and import it with its unit"
        return Finding("sources", LOOK, seen, means, do)
    (long, short), (other_long, other_short) = (
        [float(side[both].sum()) for side in sides] for sides in (mine, other)
    )
    if same and max(long * other_short, other_long * short) > FACTOR * min(
        long * other_short, other_long * short
    ):
        seen += (
            f"; of its volume {long / (long + short):.0%} are longs, of the other's "
            f"{other_long / (other_long + other_short):.0%}"
        )
        means = "one of the two lacks most of a side, or has it in another unit"
        return Finding("sources", LOOK, seen, means, "compare each side with a third source")
    if same and correlation < 0.5:
        means = "they do not tell of the same liquidations, or one has lost a part"
        return Finding("sources", LOOK, seen, means, "compare some candles with a third source")
    return Finding("sources", OK, seen)
