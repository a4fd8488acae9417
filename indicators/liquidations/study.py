"""Whether a reading predicts anything: an event study of candles, honest about chance. Floor 1.

A reading speaks at the close of a candle. The trade enters at the open of the NEXT candle and
leaves at the close of the candle ``horizon`` candles later, against the crowd: it buys where longs
were liquidated. No price is used that was not to be had when the reading was known.

**Independent events.** Of the events of a reading and pair, one is taken only when the trade of the
one before is over, as a trader with one position at a time would: windows never overlap. Pairs fall
together, and days differ; so all trades of all pairs that begin in one block, as long as the
horizon and at least a day, are one cluster for intervals and standard errors.

**Interval.** A wild cluster bootstrap: the clusters' deviations from a mean that is tried change
their signs at random, and the interval is of all means that are not refuted. What comes out of that
is simple: the means of random halves of the clusters (J. A. Hartigan, "Using Subsample Values as
Typical Values", Journal of the American Statistical Association 64, 1969). It is exact however
different days are, as long as deviations are as often above as below; with clusters drawn with
replacement 93 instead of 95 % of intervals held the truth, as a few wild days decide. It holds for
one number at a time.

**Null.** The same events, shifted in time around a circle by the same number of candles in all
pairs, keep their clustering, their sides and the series of returns; only that they come before just
these candles is lost. Means are compared in units of their own standard error, because events come
in turbulent times, and a shifted set lands in calm ones.

**Many tests.** The shifts are shared by all readings and horizons. So the largest of all statistics
in a shift tells what the best of so many looks like by chance, and p values are corrected by it
step by step (J. P. Romano, M. Wolf, "Stepwise Multiple Testing as Formalized Data Snooping",
Econometrica 73, 2005), each statistic in units of its own 95 % band.

**Nothing from the future.** For some candles of each reading those after them are cut off, and the
reading is asked again: one that then says something else is refused. Such samples find a mistake,
they prove nothing; the package's own readings have a test of their own for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from liquidations.candles import format_time, timeframe_ms
from liquidations.errors import LiquidationsError, require, require_whole
from liquidations.event import DAY, MINUTE, Floats, Ints
from liquidations.positioning import flush, isolated, open_interest_change
from liquidations.series import array, column, keep, series
from liquidations.signals import (
    capitulation,
    extreme,
    flip,
    fragile,
    high_volume,
    pressure,
    quiet,
    return_to_balance,
    sharp_move,
    shift,
)
from liquidations.significance import gated_extreme


Reading = Callable[[pd.DataFrame], pd.Series]

BP = 10_000

#: What a verdict says of one reading and horizon, from nothing to an edge.
FEW, NONE, SMALL, LESS, FADED, FOLLOW, FADE = (
    "too few events", "no edge", "smaller than costs", "less than at other times", "not lately",
    "follow", "fade",
)  # fmt: skip

#: Of one that pays in the only part of the time that has events; by the part that has none.
ONE_PART = ("too few in the first part", "too few in the last part")

#: What is more than chance, and no edge.
REAL = (SMALL, LESS, FADED, *ONE_PART)

#: Verdicts that say: after costs this paid, here, in both parts of the time.
EDGES = (FADE, FOLLOW)

#: Candles that speak, and candles of the largest volumes that do not: after them the future is cut
#: off. A reading that drops what it knows will lose is seen in the latter.
_CUTS, _SILENT = 5, 15

#: Fewer clusters have no standard error to speak of.
_CLUSTERS = 10

#: Of this many candles in a row, times the longest horizon, the data must consist at least.
_SPANS = 15

#: Numbers that are held at a time while events are shifted.
_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Say how the study is made; costs are shares of the traded value, each paid twice."""

    horizons: tuple[int, ...] = (1, 4, 12, 24, 48)  #: candles from the entry to the exit
    fee: float = 0.0005  #: taker, a side
    slippage: float = 0.0002  #: a side
    split: float = 2 / 3  #: share of the time that is the first part; the last part confirms
    level: float = 0.95  #: of the intervals; 1 - level is what a corrected p must be below
    least: int = 20  #: independent events, or nothing is said
    coverage: float = 0.7  #: share of the candles that must have been observed
    shifts: int = 999
    draws: int = 1999
    seed: int = 0

    def __post_init__(self) -> None:
        for horizon in self.horizons:
            require_whole("each of horizons", horizon, 1, 10_000)
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)):
            raise LiquidationsError(
                f"horizons must increase, such as 1 4 12, got {list(self.horizons)}"
            )
        require("fee", self.fee, 0, 0.1)
        require("slippage", self.slippage, 0, 0.1)
        require("split", self.split, 0.1, 0.9)
        require("level", self.level, 0.5, 0.999)
        require("coverage", self.coverage, 0, 1)
        require_whole("least", self.least, 2)
        require_whole("shifts", self.shifts, 99, 99_999)
        require_whole("draws", self.draws, 99, 99_999)
        require_whole("seed", self.seed, 0, 2**31)

    @property
    def costs(self) -> float:
        """Return fees and slippage of entry and exit in bp of the entry's value."""
        return 2 * (self.fee + self.slippage) * BP


@dataclass(slots=True, kw_only=True)
class Effect:
    """Tell what followed one reading over one horizon; returns in bp, of trades AGAINST the crowd.

    ``mean``, ``low``, ``high``, ``median`` and ``hit`` (share of trades that gained) are after
    costs, ``gross`` is before them. ``adverse`` and ``favourable`` are medians of how far the price
    went against and for the trade, from the candles' lows and highs. ``shifted`` is the mean of the
    same trades at shifted times, before costs, and ``null`` half the width of the band around it in
    which chance alone leaves ``gross``. ``p`` is that of ``gross`` in that null, two-sided, and
    ``corrected`` the same for all tests together. NaN where there are too few events, or where
    more than ``1 - level`` of the shifted times have too few candles for them.
    """

    reading: str
    horizon: int
    events: int
    independent: int
    clusters: int
    gross: float
    mean: float
    low: float
    high: float
    median: float
    hit: float
    adverse: float
    favourable: float
    shifted: float = np.nan
    null: float = np.nan
    p: float = np.nan
    corrected: float = np.nan
    first: float
    first_events: int
    last: float
    last_events: int
    pairs: dict[str, tuple[int, float]]
    kind: str = FEW
    verdict: str = ""


@dataclass(slots=True, kw_only=True)
class Study:
    """Hold what :func:`study` found; ``verdicts`` has one line a reading, ``verdict`` is of all."""

    timeframe: str
    start: int
    end: int
    candles: dict[str, int]
    coverage: dict[str, float]
    parted: int
    rules: Rules
    effects: list[Effect]
    tests: int
    verdicts: dict[str, str]
    verdict: str

    def of(self, reading: str, horizon: int) -> Effect:
        """Return the effect of one reading over one horizon."""
        for one in self.effects:
            if (one.reading, one.horizon) == (reading, horizon):
                return one
        raise LiquidationsError(f"{reading} over {horizon} candles is not in this study")

    def loudest(self, reading: str) -> Effect:
        """Return the effect of the horizon whose verdict is the reading's."""
        return _best(self.effects, reading)


def default_readings(timeframe: str, *, open_interest: bool = False) -> dict[str, Reading]:
    """List the readings that are studied, by name: those with a side, with their defaults.

    Those without a side are given one: ``high volume`` that of the larger part. ``sharp move`` is
    of the price alone: what it shows too, the liquidations don't add.

    :param timeframe: of the candles; windows of open interest depend on it, as it comes late
    :param open_interest: candles have ``liq_open_interest_amount``
    """
    readings: dict[str, Reading] = {
        "extreme": lambda f: extreme(column(f, "liq_imbalance")),
        "gated extreme": gated_extreme,
        "high volume": lambda f: _where(_leaning(f), array(high_volume(column(f, "liq_total")))),
        "capitulation": capitulation,
        "quiet after capitulation": lambda f: quiet(f, capitulation(f)),
        "fragile": fragile,
        "shift": lambda f: shift(column(f, "liq_imbalance")),
        "flip": lambda f: flip(column(f, "liq_imbalance")),
        "return to balance": lambda f: return_to_balance(column(f, "liq_imbalance")),
        "pressure": lambda f: pressure(column(f, "liq_long"), column(f, "liq_short")),
        "sharp move": lambda f: sharp_move(column(f, "high"), column(f, "low"), column(f, "close")),
    }
    if open_interest:
        lag = _lag(timeframe)
        window = max(3, lag * 5 // 4)
        readings |= {
            "flush": lambda f: flush(f, window=window),
            "isolated": lambda f: isolated(f, window=2 * lag, lag=lag),
        }
    return readings


def default_bins(timeframe: str, *, open_interest: bool = False) -> dict[str, Reading]:
    """Cut all candles with liquidations into bins: ratio × volume × change of open interest.

    The side is the larger part's. The ratio is extreme (above 0.8, below 0.2) or leaning; the
    volume high or usual against the candles before; open interest fell or did not, as far as it was
    known at the close. Candles whose open interest is unknown are in no bin.

    :param timeframe, open_interest: as for :func:`default_readings`
    """
    window = max(3, _lag(timeframe) * 5 // 4)
    interests = ("fell", "did not fall") if open_interest else ("",)

    def made(ratio: str, volume: str, interest: str) -> Reading:
        def read(frame: pd.DataFrame) -> pd.Series:
            far = array(extreme(column(frame, "liq_imbalance"))) != 0
            high = array(high_volume(column(frame, "liq_total")))
            where = (far == (ratio == "extreme")) & (high == (volume == "high"))
            if interest:
                amount = column(frame, "liq_open_interest_amount")
                change = array(open_interest_change(amount, window))
                where = where & (change < 0 if interest == "fell" else change >= 0)
            return _where(_leaning(frame), where)

        return read

    bins = product(("extreme", "leaning"), ("high", "usual"), interests)
    return {
        f"bin: {ratio}, {volume} volume" + (f", OI {interest}" if interest else ""): made(
            ratio, volume, interest
        )
        for ratio, volume, interest in bins
    }


def _lag(timeframe: str) -> int:
    """Return after how many candles open interest of hours shows what happened in one."""
    return max(2, 120 * MINUTE // _step(timeframe))


def _leaning(frame: pd.DataFrame) -> pd.Series:
    ratio = column(frame, "liq_imbalance")
    return series(np.nan_to_num(np.sign(array(ratio) - 0.5)), ratio)


def _where(side: pd.Series, where: np.ndarray) -> pd.Series:
    return series(keep(array(side), where), side)


def study(
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    rules: Rules | None = None,
    readings: Mapping[str, Reading] | None = None,
    bins: Mapping[str, Reading] | None = None,
    *,
    start: int = 0,
) -> Study:
    """Measure what followed each reading, and say in words whether that is more than chance.

    :param candles: pair → Freqtrade's candles with the columns of ``add_liquidations``, and
        ``liq_open_interest_amount`` where there is open interest; all pairs are studied together
    :param timeframe: of the candles, minutes to weeks
    :param rules: horizons, costs and so on
    :param readings: name → reading, candles in, Series of +1, -1 and 0 (or NaN) out; default:
        :func:`default_readings`
    :param bins: the same; default: :func:`default_bins`. They are tested alike
    :param start: when the first candle opens that is studied (ms UTC); readings see those before it
        too, so that long windows are full. 0 = all
    :return: an effect for each reading and horizon, and the verdicts
    :raises LiquidationsError: if too little was observed, candles are missing or too few, or a
        reading knows what comes after its candle.
    """
    rules = rules or Rules()
    if not candles:
        raise LiquidationsError("there are no candles to study; name a pair")
    known = all(
        "liq_open_interest_amount" in frame and frame["liq_open_interest_amount"].notna().any()
        for frame in candles.values()
    )
    if readings is None:
        readings = default_readings(timeframe, open_interest=known)
    if bins is None:
        bins = default_bins(timeframe, open_interest=known)
    clash = set(readings) & set(bins)
    if clash:
        raise LiquidationsError(f"readings and bins share the names {', '.join(sorted(clash))}")
    market = _Market(candles, timeframe, rules, start)
    effects, tests = [], []
    random = np.random.default_rng(rules.seed)
    shifts = _shifts(market.size, rules, random)
    sides = {name: market.sides(name, read) for name, read in {**readings, **bins}.items()}
    for horizon in rules.horizons:
        forward = market.forward(horizon)
        for name, side in sides.items():
            trades = _Trades(market, forward, side, horizon)
            effect = trades.effect(name, rules, random)
            effects.append(effect)
            if effect.independent >= rules.least and effect.clusters >= _CLUSTERS:
                tests.append((effect, *trades.shifted(shifts)))
    judged = _judge(tests, rules)
    order = {name: place for place, name in enumerate(sides)}
    effects.sort(key=lambda one: (order[one.reading], one.horizon))
    for one in effects:
        _say(one, rules)
    return Study(
        timeframe=timeframe,
        start=market.first,
        end=market.first + market.size * market.step,
        candles={pair: len(one) for pair, one in market.places.items()},
        coverage=dict(zip(market.pairs, market.share.tolist(), strict=True)),
        parted=market.first + market.parted * market.step,
        rules=rules,
        effects=effects,
        tests=judged,
        verdicts={name: _best(effects, name).verdict for name in sides},
        verdict=_verdict(effects, judged, rules),
    )


def forward_returns(
    opens: Floats, highs: Floats, lows: Floats, closes: Floats, horizon: int
) -> tuple[Floats, Floats, Floats]:
    """Return what a candle's close is followed by: the trade of the next ``horizon`` candles.

    :param opens, highs, lows, closes: of candles that follow each other without a hole, shape
        (…, candle); NaN where a candle is missing
    :param horizon: in candles
    :return: close of the last over open of the first candle AFTER this one, minus 1; and so the
        highest high and the lowest low; NaN where one of them is missing or not there yet

    >>> o, c = np.array([100.0, 110, 120, 130]), np.array([110.0, 120, 130, 143])
    >>> [part.round(2).tolist() for part in forward_returns(o, c + 11, o, c, 2)]
    [[0.18, 0.19, nan, nan], [0.28, 0.28, nan, nan], [0.0, 0.0, nan, nan]]
    """
    require_whole("horizon", horizon, 1)
    gain, best, worst = (np.full(opens.shape, np.nan) for _ in range(3))
    size = opens.shape[-1] - horizon
    if size <= 0:
        return gain, best, worst
    # A window that begins after this candle: one place later in each array.
    entry = opens[..., 1 : size + 1]
    high, low = (
        np.lib.stride_tricks.sliding_window_view(values[..., 1:], horizon, axis=-1)
        for values in (highs, lows)
    )
    # The extremes of a window with a hole are NaN, and so is all that is made of it.
    top, bottom = high.max(axis=-1), low.min(axis=-1)
    whole = np.isfinite(top) & np.isfinite(bottom)
    for out, values in zip((gain, best, worst), (closes[..., horizon:], top, bottom), strict=True):
        out[..., :size] = np.where(whole, values / entry - 1, np.nan)
    return gain, best, worst


def independent(rows: Ints, horizon: int) -> np.ndarray:
    """Tell which of the increasing rows are taken: one is when the last one's window is over.

    :return: bool array; the first one is taken, then the next that lies ``horizon`` or more behind

    >>> independent(np.array([0, 2, 3, 5, 6, 20]), 3).tolist()
    [True, False, True, False, True, True]
    """
    taken = np.zeros(len(rows) + 1, bool)
    if not len(rows):
        return taken[:-1]
    # Each row's successor, were it taken; then the successor's, twice as far in each round.
    jump = np.append(np.searchsorted(rows, rows + horizon), len(rows))
    taken[0] = True
    while jump[0] < len(rows):
        taken[jump[taken]] = True
        jump = jump[jump]
    taken[jump[taken]] = True
    return taken[:-1]


def _step(timeframe: str) -> int:
    step = timeframe_ms(timeframe)
    if step is None:
        raise LiquidationsError(f"candles of months can't be studied, got {timeframe}; use days")
    return step


class _Market:
    """Lay the candles of all pairs on one grid of time, (pair, candle); NaN is a hole."""

    def __init__(
        self, candles: Mapping[str, pd.DataFrame], timeframe: str, rules: Rules, start: int
    ) -> None:
        self.frames, self.timeframe, self.rules = candles, timeframe, rules
        self.pairs = list(candles)
        self.step = _step(timeframe)
        # Rows before the start are for the readings only.
        self.skipped: dict[str, int] = {}
        opens = {pair: self._opens(pair, start) for pair in candles}
        self.first = min(int(one[0]) for one in opens.values())
        if any((int(one[0]) - self.first) % self.step for one in opens.values()):
            raise LiquidationsError(f"the pairs' candles of {timeframe} do not open together")
        self.size = (max(int(one[-1]) for one in opens.values()) - self.first) // self.step + 1
        self.places = {pair: (one - self.first) // self.step for pair, one in opens.items()}
        self.prices = {name: self._laid(name) for name in ("open", "high", "low", "close")}
        total = self._laid("liq_total")
        self.observed = ~np.isnan(total)
        self._refuse_little()
        self.parted = round(self.size * rules.split)
        least = _SPANS * max(rules.horizons)
        if self.size < least:
            raise LiquidationsError(
                f"{self.size:,} candles of {timeframe} are too few for a horizon of "
                f"{max(rules.horizons)}: it takes {least:,}; choose a longer --timerange, a "
                "shorter timeframe or shorter --horizons"
            )

    def _opens(self, pair: str, start: int) -> Ints:
        frame = self.frames[pair]
        for name in ("open", "high", "low", "close", "liq_total", "liq_imbalance"):
            column(frame, name)
        opens = column(frame, "date").to_numpy(dtype="datetime64[ms]").view(np.int64)
        if not (opens >= start).any():
            raise LiquidationsError(f"{pair} has no candles; choose another --timerange")
        steps = np.diff(opens)
        if (steps <= 0).any() or (steps % self.step).any():
            raise LiquidationsError(
                f"{pair}: the candles are not those of {self.timeframe} in order of time"
            )
        self.skipped[pair] = int(np.searchsorted(opens, start))
        return opens[self.skipped[pair] :]

    def _laid(self, name: str) -> Floats:
        laid = np.full((len(self.pairs), self.size), np.nan)
        for row, pair in enumerate(self.pairs):
            laid[row, self.places[pair]] = array(self.frames[pair][name])[self.skipped[pair] :]
        return laid

    def _refuse_little(self) -> None:
        self.share = self.observed.mean(axis=1)
        short = [
            # Rounded down: 69.9 % is not the 70 % that it takes.
            f"{pair} {int(share * 100 + 1e-9)}% ({missing:,} of {self.size:,} candles missing)"
            for pair, share, missing in zip(
                self.pairs, self.share, (~self.observed).sum(axis=1), strict=True
            )
            if share < self.rules.coverage
        ]
        if short:
            raise LiquidationsError(
                f"too little was observed from {format_time(self.first)} to "
                f"{format_time(self.first + self.size * self.step)}: {', '.join(short)}; "
                f"{self.rules.coverage * 100:g}% is needed. Get more with: liquidations "
                f"download-data -p {' '.join(self.pairs)} -t {self.timeframe}, or leave out pairs, "
                "or choose a --timerange that was observed: liquidations list-data shows it"
            )

    def sides(self, name: str, read: Reading) -> Floats:
        """Ask a reading; refuse one that says something else when the candles after are cut."""
        laid = np.zeros((len(self.pairs), self.size))
        for row, pair in enumerate(self.pairs):
            frame, skipped = self.frames[pair], self.skipped[pair]
            said = np.nan_to_num(array(read(frame)).astype(np.float64))
            if len(said) != len(frame) or not np.isin(said, (-1.0, 0.0, 1.0)).all():
                raise LiquidationsError(
                    f"the reading {name!r} must give +1, -1, 0 or NaN for each candle"
                )
            for place in self._cuts(pair, said):
                then = np.nan_to_num(array(read(frame.iloc[: place + 1])).astype(np.float64)[-1])
                if then != said[place]:
                    opened = self.first + int(self.places[pair][place - skipped]) * self.step
                    raise LiquidationsError(
                        f"the reading {name!r} looks ahead: in the candle of {format_time(opened)} "
                        f"of {pair} it says {said[place]:g}, but {then:g} without the "
                        "candles after it; let it use no later candle"
                    )
            laid[row, self.places[pair]] = said[skipped:]
        return np.where(self.observed, laid, 0.0)

    def _cuts(self, pair: str, said: Floats) -> Ints:
        """Choose candles after which to cut: some that speak, and the largest that do not."""
        first = self.skipped[pair]
        spoken = first + np.flatnonzero(said[first:-1])
        some = np.unique(np.linspace(0, max(len(spoken) - 1, 0), _CUTS).round().astype(int))
        total = np.nan_to_num(array(self.frames[pair]["liq_total"]))[first:-1]
        silent = first + np.argsort(np.where(said[first:-1] == 0, total, -1.0))[-_SILENT:]
        return np.concatenate((spoken[some] if len(spoken) else spoken, silent))

    def forward(self, horizon: int) -> tuple[Floats, Floats, Floats]:
        """Return forward returns, their highs and lows, (pair, candle), where one was observed."""
        prices = self.prices
        found = forward_returns(
            prices["open"], prices["high"], prices["low"], prices["close"], horizon
        )
        # Events can be only where somebody listened, so chance is looked for there as well.
        gain, top, bottom = (np.where(self.observed, one, np.nan) for one in found)
        return gain, top, bottom


class _Trades:
    """Hold the independent trades of one reading over one horizon, in clusters of time."""

    def __init__(
        self,
        market: _Market,
        forward: tuple[Floats, Floats, Floats],
        side: Floats,
        horizon: int,
    ) -> None:
        self.market, self.horizon = market, horizon
        self.gain, top, bottom = forward
        self.events = int(np.count_nonzero(side))
        there = (side != 0) & ~np.isnan(self.gain)
        rows = [np.flatnonzero(one) for one in there]
        rows = [one[independent(one, horizon)] for one in rows]
        pair = np.repeat(np.arange(len(rows)), [len(one) for one in rows])
        place = np.concatenate(rows)
        order = np.argsort(place, kind="stable")
        self.pair, self.place = pair[order], place[order]
        at = self.pair, self.place
        self.side = side[at]
        self.gross = self.side * self.gain[at] * BP
        with_it, against = np.where(self.side > 0, (top[at], bottom[at]), (-bottom[at], -top[at]))
        self.favourable, self.adverse = with_it * BP, against * BP
        block = self.place // max(horizon, -(-DAY // market.step))
        self.starts = np.flatnonzero(np.diff(block, prepend=-1))

    def effect(self, reading: str, rules: Rules, random: np.random.Generator) -> Effect:
        """Measure the trades, and draw the interval of their mean."""
        market, net = self.market, self.gross - rules.costs
        first = self.place + self.horizon < market.parted
        last = self.place >= market.parted
        low, high = self._interval(rules, random)
        return Effect(
            reading=reading,
            horizon=self.horizon,
            events=self.events,
            independent=len(net),
            clusters=len(self.starts),
            gross=_mean(self.gross),
            mean=_mean(net),
            low=low - rules.costs,
            high=high - rules.costs,
            median=float(np.median(net)) if len(net) else np.nan,
            hit=_mean(net > 0),
            adverse=float(np.median(self.adverse)) if len(net) else np.nan,
            favourable=float(np.median(self.favourable)) if len(net) else np.nan,
            first=_mean(net[first]),
            first_events=int(first.sum()),
            last=_mean(net[last]),
            last_events=int(last.sum()),
            pairs={
                name: (int((self.pair == row).sum()), _mean(net[self.pair == row]))
                for row, name in enumerate(market.pairs)
            },
        )

    def _interval(self, rules: Rules, random: np.random.Generator) -> tuple[float, float]:
        """Draw halves of the clusters, and return the interval that holds most of their means."""
        size = len(self.starts)
        if size < _CLUSTERS or len(self.gross) < rules.least:
            return np.nan, np.nan
        halves = random.integers(0, 2, (rules.draws, size)).astype(np.float64)
        count = halves @ np.add.reduceat(np.ones(len(self.gross)), self.starts)
        means = (halves @ np.add.reduceat(self.gross, self.starts))[count > 0] / count[count > 0]
        tail = (1 - rules.level) / 2
        low, high = np.quantile(means, (tail, 1 - tail))
        return float(low), float(high)

    def shifted(self, shifts: Ints) -> tuple[Floats, Floats, float, float]:
        """Shift the events around the circle: mean and error of each shift, and of no shift."""
        size = self.market.size
        known = ~np.isnan(self.gain)
        gains, there = np.where(known, self.gain * BP, 0.0).ravel(), known.ravel().astype(float)
        base = self.pair * size
        means, errors = [], []
        for part in np.array_split(shifts, max(1, len(shifts) * len(self.place) // _CHUNK)):
            at = base + (self.place + part[:, None]) % size
            total = np.add.reduceat(gains[at] * self.side, self.starts, axis=1)
            count = np.add.reduceat(there[at], self.starts, axis=1)
            mean, error = _mean_error(total, count)
            means.append(mean)
            errors.append(error)
        own = _mean_error(
            np.add.reduceat(self.gross, self.starts)[None],
            np.add.reduceat(np.ones(len(self.gross)), self.starts)[None],
        )
        return np.concatenate(means), np.concatenate(errors), float(own[0][0]), float(own[1][0])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _mean_error(total: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Return the mean over clusters (draw, cluster) of trades, and its cluster-robust error."""
    number = count.sum(axis=1)
    clusters = np.maximum((count > 0).sum(axis=1), 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total.sum(axis=1) / number
        squares = ((total - mean[:, None] * count) ** 2).sum(axis=1)
        return mean, np.sqrt(squares * clusters / (clusters - 1)) / number


def _shifts(size: int, rules: Rules, random: np.random.Generator) -> Ints:
    """Draw by how many candles events are shifted.

    Small shifts belong to it, although their windows overlap with those of the events: what is at
    the events themselves must be one of all places on the circle, as likely as any. Without them
    twice as many studies cried wolf.
    """
    return np.sort(random.choice(size - 1, min(rules.shifts, size - 1), replace=False)) + 1


def _judge(tests: Sequence[tuple[Effect, Floats, Floats, float, float]], rules: Rules) -> int:
    """Compare each effect with its shifts, correct for the number of tests, and return that.

    One whose events meet no candle, or those of one cluster, in many shifts has no band of chance:
    it is too few to be tested, and its p stays NaN.
    """
    effects, shifted, found = [], [], []
    for effect, means, errors, mean, error in tests:
        centre = _mean(means[~np.isnan(means)])
        with np.errstate(divide="ignore", invalid="ignore"):
            null = np.abs(means - centre) / errors
            own = float(np.abs(mean - centre) / np.float64(error))
        own = 0.0 if np.isnan(own) else own
        # A shift that meets no candle proves nothing, so it counts against the reading.
        null = np.where(np.isnan(null), np.inf, null)
        band = float(np.quantile(null, rules.level, method="higher"))
        if not np.isfinite(band):
            continue
        effect.shifted, effect.null = centre, band * error
        effect.p = _p(null, own)
        effects.append(effect)
        shifted.append(null / band)
        found.append(own / band)
    if not effects:
        return 0
    order = np.argsort(found)[::-1]
    null = np.array(shifted)[order]
    # The largest of all tests from this one on, in each shift. One that says nothing there is
    # above none of the others.
    finite = np.where(np.isinf(null), -np.inf, null)
    largest = np.maximum(null, np.maximum.accumulate(finite[::-1], axis=0)[::-1])
    corrected = 0.0
    for place, test in enumerate(order):
        corrected = max(corrected, _p(largest[place], found[test]))
        effects[test].corrected = max(corrected, effects[test].p)
    return len(effects)


def _p(null: Floats, found: float) -> float:
    return float((1 + np.count_nonzero(null >= found)) / (1 + len(null)))


def _say(one: Effect, rules: Rules) -> None:
    """Write the verdict of one effect."""
    if np.isnan(one.p):
        one.kind = FEW
        has = f"{FEW}: {one.independent} independent in {one.clusters} stretches of time"
        if one.independent < rules.least or one.clusters < _CLUSTERS:
            one.verdict = f"{has}, {rules.least} in {_CLUSTERS} are needed"
        else:
            one.verdict = (
                f"{has}, but at too many other times they meet no candles, as in a hole of the data"
            )
        return
    numbers = (
        f"mean {_bp(one.mean)} bp, interval {_bp(one.low)} … {_bp(one.high)}, "
        f"shifted null ±{one.null:.0f}"
    )
    over = f"over {one.horizon} candle{'s' * (one.horizon > 1)}, {one.independent} events"
    if one.corrected >= 1 - rules.level:
        one.kind = NONE
        one.verdict = f"no edge after costs: {numbers} ({over}, corrected p {one.corrected:.2g})"
        return
    way, told = ("fade", "the price turned") if one.gross > 0 else ("follow", "the price went on")
    if way == "fade":
        low, first, last = one.low, one.first, one.last
    else:
        # Who follows the crowd has the same trades the other way round, and the same costs.
        low, first, last = (-net - 2 * rules.costs for net in (one.high, one.first, one.last))
    more = (one.gross > one.shifted) == (way == "fade")
    told += f", {'more' if more else 'less'} than at other times"
    parts = f"first part {_bp(first)}, last part {_bp(last)}"
    if not low > 0:
        one.kind = SMALL
        said = f"no edge after costs: {told}, {_bp(one.gross)} bp before costs, but too little"
    elif not more:
        one.kind = LESS
        said = (
            f"no edge of the reading: {told}, {_bp(one.gross)} bp before costs and "
            f"{_bp(one.shifted)} there"
        )
    elif first <= 0 or last <= 0:
        one.kind = FADED
        said = f"no edge after costs: {told}, but not in both parts of the time ({parts})"
    elif np.isnan(first) or np.isnan(last):
        one.kind = ONE_PART[int(np.isnan(last))]
        said = f"no edge after costs: {told}, but {one.kind} ({parts})"
    else:
        one.kind = FADE if way == "fade" else FOLLOW
        said = f"an edge here, to {way}: {told}, in both parts of the time ({parts})"
    mean = -one.mean - 2 * rules.costs
    if way == "follow":
        said += f"; following it: mean {_bp(mean)} bp after costs"
    one.verdict = f"{said}; fading it: {numbers} ({over}, corrected p {one.corrected:.2g})"


def _bp(value: float) -> str:
    """Write bp with a sign, a true minus.

    >>> _bp(-3.4), _bp(5.2), _bp(0.2)
    ('−3', '+5', '0')
    """
    if np.isnan(value):
        return "unknown"
    if abs(value) < 0.5:
        return "0"
    return f"{value:+,.0f}".replace("-", "−")


def _best(effects: Sequence[Effect], reading: str) -> Effect:
    """Return the horizon of a reading that speaks loudest, which the correction allows for."""
    return min(
        (one for one in effects if one.reading == reading),
        key=lambda one: (one.kind not in EDGES, np.nan_to_num(one.corrected, nan=2.0),
                         np.nan_to_num(one.p, nan=2.0)),
    )  # fmt: skip


def _verdict(effects: Sequence[Effect], tests: int, rules: Rules) -> str:
    """Say in words what all tests together say."""
    if not tests:
        return (
            f"Nothing can be said: no reading has {rules.least} independent events that can be "
            "compared with other times. Study more time, more pairs or a shorter timeframe."
        )
    edges = [one for one in effects if one.kind in EDGES]
    real = [one for one in effects if one.kind in REAL]
    if edges:
        names = ", ".join(dict.fromkeys(f"{one.reading} ({one.kind} it)" for one in edges))
        return (
            f"Of {tests} tests {len(edges)} show an edge after costs, after correction for all of "
            f"them: {names}. It is what was, in this time and of these pairs: no promise. Study "
            "months that you did not look at before you trade it."
        )
    if real:
        names = ", ".join(dict.fromkeys(one.reading for one in real))
        return (
            f"No edge after costs. Of {tests} tests {len(real)} show something that is more than "
            f"chance ({names}), but it does not pay its costs, is less than at other times, or is "
            "not seen in both parts of the time."
        )
    return (
        f"No edge after costs: none of {tests} tests stands out from the same events at shifted "
        "times, after correction for their number."
    )
