"""Whether liquidations have the times and sides that the price says they have. Floor 1.

A falling price liquidates longs, a rising one shorts, so the liquidations of a candle go against
its return, and against those before it, which is why only the order of the candles helps: they know
nothing of the returns AFTER it. The correlation of liquidations with returns so many candles later
breaks off at 0; where it breaks off elsewhere, the times are shifted by so much, and where it is
positive, the sides are swapped. Two sources of the same market are compared likewise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from liquidations.candles import format_time
from liquidations.event import DAY, Floats, Ints
from liquidations.plausibility import (
    FEWEST,
    HOUR,
    IMPOSSIBLE,
    LISTED,
    LOOK,
    OK,
    UNTRIED,
    WRONG,
    Finding,
    listed,
)


#: Times are compared with those of up to a day earlier and later.
FARTHEST = DAY

#: A break, in standard errors, that is believed. There are up to 577 places for it in each month.
SURE = 6.0

#: By so many standard errors a break elsewhere must exceed the one at 0.
LEAD = 3.5

#: Candles with liquidations below which nothing is said about sides.
FEWEST_SIDES = 30

#: Standard errors from which on sides are told by the correlation at 0 alone.
SURE_SIDES = 5.0

#: Parts of months that are judged too, such as a few bad days: their length, and from one to the
#: next (days). What is at least the sum of both long, holds a whole part.
PART, PART_STEP = 10, 5

_AT_ZERO = np.zeros(1, np.int64)


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
            f"{listed(names)}: stamped {format_shift(lag, step)} (correlation with the price "
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
            for name in doubtful[:LISTED]
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
    return replace(finding, seen=f"{finding.seen}; too little to tell of {listed(months)} alone")


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
        f"{listed(swapped)}: longs are liquidated when the price rises (correlation "
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
