"""A simulated perpetual-futures market: demo data, ground truth for tests, load for benchmarks.

SIMULATED: nothing here was traded, and no result on it says anything about a real market. One
mechanism produces every table. An outside flow with stochastic volatility and fat tails moves the
price in steps of 15 seconds; traders open positions at several leverages, each of which rests in
the bucket of log price at which it is liquidated; a price that enters the bucket turns the
positions in it into forced orders, which push the price on, perhaps into the next bucket (a
cascade); later a part of that push reverts. Open interest, funding, volume and mark price follow
from the same state.

All randomness is drawn in blocks of one day that depend on the seed and the day alone. So the same
arguments give the same bytes, and a shorter run is a prefix of a longer one.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from liquidations.errors import LiquidationsError
from liquidations.event import (
    DAY,
    EARLIEST,
    LATEST,
    LONG,
    MINUTE,
    SHORT,
    Events,
    Floats,
    Ints,
    make_events,
)


STEPS = 4  # of a minute
STEP = MINUTE // STEPS
HOUR = 60 * MINUTE
MINUTES_A_DAY = DAY // MINUTE
MINUTES_A_YEAR = 365 * MINUTES_A_DAY
SNAPSHOT_BUCKET, SNAPSHOT_BUCKETS = 0.002, 250  # logarithms: a band of ±0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Set the simulated market; the defaults resemble one large exchange's BTC perpetual.

    Half-lives are in minutes, moves are natural logarithms, ``open_interest_usd`` is the level to
    which open interest returns, at the first price. Measured at the defaults over 60 days, seeds
    0 to 23, as lowest, median and highest: volatility a year 34, 56 and 84 %; liquidations a day
    1650, 2880 and 5380; hours without any 25, 36 and 53 %; of the others, hours with an imbalance
    above 0.8 or below 0.2: 96, 97 and 99 %; worst hour -1.9, -3.6 and -7.6 %; largest loss of open
    interest in an hour 3, 12 and 41 %.
    """

    leverages: tuple[float, ...] = (5.0, 10.0, 20.0, 50.0, 100.0)
    #: shares of the opened contracts at each leverage; the rest is never liquidated
    shares: tuple[float, ...] = (0.18, 0.15, 0.08, 0.018, 0.004)
    maintenance: float = 0.004  #: maintenance margin rate
    open_interest_usd: float = 2e9
    holding: float = 3 * 1440.0  #: half-life of positions that are closed voluntarily
    volatility: float = 0.55  #: of the outside flow, a year
    volatility_spread: float = 0.5  #: standard deviation of log volatility
    impact: float = 0.2  #: move per forced volume, in units of the open interest's usual level
    reversion: float = 0.6  #: share of that move which is temporary
    recovery: float = 20.0  #: half-life of the temporary part
    optimism: float = 0.3  #: mean mood; above 0 longs use more leverage than shorts
    turnover: float = 4.0  #: volume a day without forced orders, in units of open interest
    order_usd: float = 20_000.0  #: mean size of a forced order
    bucket: float = 0.0005  #: width of a bucket of log price
    warmup_days: int = 8  #: simulated before the start to fill the book

    def __post_init__(self) -> None:
        if len(self.leverages) != len(self.shares) or min(self.shares) < 0 or sum(self.shares) > 1:
            raise LiquidationsError(
                f"shares must name one share for each of {len(self.leverages)} leverages, from 0 "
                f"and together at most 1, got {self.shares}; change shares or leverages"
            )
        for name in ("open_interest_usd", "holding", "recovery", "order_usd", "bucket"):
            _require(name, getattr(self, name), above=0)
        for name in ("volatility", "volatility_spread", "impact", "turnover", "maintenance"):
            _require(name, getattr(self, name), least=0)
        _require("reversion", self.reversion, least=0, most=1)
        _require("warmup_days", self.warmup_days, least=0)
        highest = 1 / (self.maintenance + 2 * self.bucket)  # leaves two buckets to the entry
        for leverage in self.leverages:
            _require("each of leverages", leverage, above=1, most=highest)


@dataclass(frozen=True, slots=True)
class Positions:
    """Hold hourly snapshots of the open leveraged notional by the price that liquidates it.

    ``snapshot_time`` (time,) in ms UTC and ``price`` (time,) say when and where the market was;
    ``distance`` (bucket,) is the logarithm of liquidation price over ``price`` at a bucket's
    middle; ``long_usd`` and ``short_usd`` (time, bucket) are float32, quote at that price.
    """

    snapshot_time: Ints
    price: Floats
    distance: Floats
    long_usd: np.ndarray
    short_usd: np.ndarray

    @property
    def bucket_price(self) -> Floats:
        """Return the liquidation price in the middle of each bucket, (time, bucket)."""
        return self.price[:, None] * np.exp(self.distance)


@dataclass(frozen=True, slots=True)
class SimulatedMarket:
    """Hold one simulated pair; every ``date`` is datetime64[ms, UTC], every number float64.

    ========================= ======== ======================================================
    ``candles``               1m       date, open, high, low, close, volume (base)
    ``mark``                  1h       the same of the smoothed price; volume 0.0
    ``funding``               8h       date, funding_rate: from the premium before ``date``
    ``open_interest``         1h       date, open_interest_amount (base), open_interest_value
                                       (quote): the state AT ``date``
    ``flows``                 1m       date, opened, closed, long, short (base): what changed
                                       open interest; long and short were liquidated
    ========================= ======== ======================================================

    ``events`` are all liquidations in order of time, ``positions`` the book on request.
    """

    candles: pd.DataFrame
    mark: pd.DataFrame
    funding: pd.DataFrame
    open_interest: pd.DataFrame
    flows: pd.DataFrame
    events: Events
    positions: Positions | None


class Book:
    """Hold the open contracts by side and by the bucket of log price that liquidates them.

    Prices are logarithms. Shorts are kept mirrored (``-price``), so that both sides are liquidated
    by a falling number. ``open_interest`` counts all contracts of either side (both are equal);
    what is in no bucket is unleveraged. Amounts in buckets are stored divided by ``scale``, so that
    closing a share of every position is one multiplication.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.open_interest = 0.0
        self.per_bucket = 1 / parameters.bucket
        self.held: tuple[dict[int, float], dict[int, float]] = ({}, {})
        self.scale = [1.0, 1.0]
        rate = parameters.maintenance
        self.offsets = (
            [math.log(1 - 1 / leverage + rate) for leverage in parameters.leverages],
            [-math.log(1 + 1 / leverage - rate) for leverage in parameters.leverages],
        )
        #: (step, side, amount, log price of the first order, of the last one)
        self.forced: list[tuple[int, int, float, float, float]] = []

    def enter(self, side: int, price: float, leverage: int, amount: float) -> None:
        """Add a position at the leverage of that position in the list to one side."""
        mirrored = -price if side else price
        bucket = math.floor((mirrored + self.offsets[side][leverage]) * self.per_bucket)
        held = self.held[side]
        held[bucket] = held.get(bucket, 0.0) + amount / self.scale[side]

    def close(self, share: float) -> float:
        """Close a share of all positions voluntarily and return the contracts closed."""
        self._shrink(LONG, 1 - share)
        self._shrink(SHORT, 1 - share)
        amount = self.open_interest * share
        self.open_interest -= amount
        return amount

    def move(self, step: int, price: float, target: float, impact: float) -> float:
        """Move the price to the target, liquidating on the way; return where it comes to rest."""
        if target < price:
            return self._fall(LONG, step, price, target, impact)
        return -self._fall(SHORT, step, -price, -target, impact)

    def _fall(self, side: int, step: int, price: float, target: float, impact: float) -> float:
        per_bucket = self.per_bucket
        bucket = math.floor(price * per_bucket) - 1
        held = self.held[side]
        reached = price
        while bucket >= math.floor(target * per_bucket):
            stored = held.pop(bucket, 0.0)
            if stored:
                amount = min(stored * self.scale[side], self.open_interest)
                # A forced order trades against somebody: the other side closes in proportion.
                self._shrink(1 - side, 1 - amount / self.open_interest)
                self.open_interest -= amount
                begin = min(reached, (bucket + 1) / per_bucket)
                reached = begin - impact * amount
                target -= impact * amount
                sign = -1 if side else 1
                self.forced.append((step, side, amount, sign * begin, sign * reached))
            bucket -= 1
        return target

    def _shrink(self, side: int, factor: float) -> None:
        self.scale[side] *= factor
        if self.scale[side] < 1e-9:
            scale, held = self.scale[side], self.held[side]
            kept = {bucket: stored * scale for bucket, stored in held.items()}
            floor = 1e-12 * self.open_interest  # such dust counts as unleveraged from now on
            held.clear()
            held.update((bucket, amount) for bucket, amount in kept.items() if amount > floor)
            self.scale[side] = 1.0

    def levels(self, side: int) -> tuple[Floats, Floats]:
        """Return the log prices that liquidate a side's positions, and their contracts."""
        held = self.held[side]
        bucket = np.fromiter(held.keys(), np.float64, len(held))
        amount = np.fromiter(held.values(), np.float64, len(held)) * self.scale[side]
        return (-1 if side else 1) * (bucket + 0.5) / self.per_bucket, amount


def simulate(
    seed: int,
    start: int,
    minutes: int,
    *,
    price: float = 50_000.0,
    parameters: Parameters | None = None,
    events: int | None = None,
    shocks: Mapping[int, float] | None = None,
    open_interest_minutes: int = 60,
    positions: bool = False,
) -> SimulatedMarket:
    """Simulate one perpetual market from ``start`` (ms UTC, a full minute) for so many minutes.

    ``price`` is the first open. ``shocks`` maps a minute, counted from the start, to a log return
    that the outside flow adds in it. Rows of the hourly tables lie on full hours UTC; the first and
    last mark candle may be partial. ``events`` sets about how many liquidations there are by
    scaling the mean size of an order, at least one for each crossed bucket; as that size depends
    on the length of the run, only the other tables of a shorter run are then a prefix of those of
    a longer one. ``positions`` adds the hourly snapshots of the book.

    :raises LiquidationsError: on an argument that is out of range.
    """
    parameters = parameters or Parameters()
    _require("seed", seed, least=0)
    _require("minutes", minutes, least=1)
    _require("price", price, above=0)
    _require("events", 1 if events is None else events, least=1)
    _require("open_interest_minutes", open_interest_minutes, least=1)
    for minute, shock in (shocks or {}).items():
        _require("a minute of shocks", minute, least=0)
        _require("a return of shocks", shock, least=-2, most=2)
    if start % MINUTE or not EARLIEST <= start <= LATEST - minutes * MINUTE:
        raise LiquidationsError(
            "start must be ms UTC, a multiple of 60000, and the run lie between 2009 and 2100, "
            f"got {start}; round it down to a full minute"
        )
    path = _Path(parameters, seed, start, minutes, price)
    origin = path.run(dict(shocks or {}), positions)
    *logs, opened, closed, amount, premium, volume = np.array(path.rows).T
    *ohlc, mark = price * np.exp(np.array(logs) - origin)
    candles = dict(zip(("open", "high", "low", "close"), ohlc, strict=True))
    date = start + MINUTE * np.arange(minutes)
    forced = np.array([row for row in path.book.forced if row[0] >= 0]).reshape(-1, 5)
    forced[:, 3:] -= origin
    flows = {"opened": opened, "closed": closed}
    for side, name in enumerate(("long", "short")):
        own = forced[forced[:, 1] == side]
        minute = own[:, 0].astype(np.int64) // STEPS
        # bincount of nothing gives integers
        flows[name] = np.bincount(minute, own[:, 2], minutes).astype(np.float64)
    candles["volume"] = volume + 2 * (flows["long"] + flows["short"])

    order_usd = parameters.order_usd
    if events is not None:
        order_usd = (forced[:, 2] * price * np.exp(forced[:, 4])).sum() / events
    before = np.concatenate(([price], mark[:-1]))
    high, low = np.maximum(before, mark), np.minimum(before, mark)
    marks = dict(open=before, high=high, low=low, close=mark, volume=np.zeros(minutes))
    at = np.flatnonzero(date % (open_interest_minutes * MINUTE) == 0)
    interest = {
        "open_interest_amount": amount[at],
        "open_interest_value": amount[at] * candles["open"][at],
    }
    return SimulatedMarket(
        candles=_frame(date, candles),
        mark=resample(_frame(date, marks), HOUR),
        funding=_funding(date, premium),
        open_interest=_frame(date[at], interest),
        flows=_frame(date, flows),
        events=_orders(path, order_usd, forced, candles),
        positions=_positions(path) if positions else None,
    )


class _Path:
    """Walk through the minutes; the only part that can't be vectorised."""

    def __init__(self, p: Parameters, seed: int, start: int, minutes: int, price: float) -> None:
        self.p, self.seed, self.start, self.minutes, self.price = p, seed, start, minutes, price
        self.book = Book(p)
        self.book.open_interest = p.open_interest_usd / price
        #: open, high, low, close, mark, opened, closed, open interest, premium, volume
        self.rows: list[tuple[float, ...]] = []
        self.snapshot_times: list[tuple[int, float]] = []
        self.snapshots: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def run(self, shocks: dict[int, float], positions: bool) -> float:
        """Fill rows, forced orders and snapshots; return the log price at the start."""
        p, book, usual = self.p, self.book, self.book.open_interest
        move, enter = book.move, book.enter
        exp, tanh = math.exp, math.tanh
        step_deviation = p.volatility / math.sqrt(MINUTES_A_YEAR * STEPS)
        closing = 1 - 0.5 ** (1 / p.holding)
        recovering = 1 - 0.5 ** (1 / p.recovery / STEPS)
        slow_keep, fast_keep, mood_keep = (0.5 ** (1 / m) for m in (4 * 1440, 120, 3 * 1440))
        spread = p.volatility_spread / math.sqrt(2)
        slow_kick, fast_kick = (spread * math.sqrt(1 - k * k) for k in (slow_keep, fast_keep))
        mood_kick = 0.4 * math.sqrt(1 - mood_keep * mood_keep)
        trend_share, homing = 1 - 0.5 ** (1 / 1440), 1 - 0.5 ** (1 / MINUTES_A_YEAR)
        ladder = np.cumsum(p.shares).tolist()
        classes = len(ladder)
        # What is closed on average comes back; 0.4 + 0.6 level has about that mean.
        lots = closing * usual / STEPS / (0.4 + 0.6 * exp(-(p.volatility_spread**2) / 2))

        x = pushed = slow = fast = mood = trend = mark = origin = 0.0
        first = -p.warmup_days * MINUTES_A_DAY
        for minute in range(first, self.minutes):
            index = (minute - first) % MINUTES_A_DAY
            if index == 0:
                flow, kicks, noises = self._draw((minute - first) // MINUTES_A_DAY)
            if minute == 0:
                origin = mark = x
            if positions and minute >= 0 and (self.start + minute * MINUTE) % HOUR == 0:
                self._snapshot(minute, x, self.price * exp(x - origin))
            kick = kicks[index]
            slow = slow * slow_keep + slow_kick * kick[0]
            fast = fast * fast_keep + fast_kick * kick[1]
            mood = mood * mood_keep + mood_kick * kick[2]
            level = exp(slow + fast - p.volatility_spread**2)  # its mean square is one
            deviation = step_deviation * level
            impact = p.impact / usual * math.sqrt(level)  # depth thins out when it is turbulent
            push = shocks.get(minute, 0.0) / STEPS - homing * x / STEPS

            high = low = opening = x
            before = book.open_interest
            step = minute * STEPS
            trend += trend_share * (x - trend)
            feeling = tanh(p.optimism + mood + 8 * (x - trend))
            long_lure, short_lure = 1 + 0.5 * feeling, 1 - 0.5 * feeling
            activity = lots * (0.4 + 0.6 * level)
            closed = book.close(closing)
            opened = 0.0
            for shake, size, long_draw, short_draw in flow[index]:
                back = pushed * recovering
                target = x + deviation * shake + push - back
                x = move(step, x, target, impact)
                pushed += p.reversion * (x - target) - back
                if x > high:
                    high = x
                elif x < low:
                    low = x
                mark += 0.1 * (x - mark)
                step += 1
                lot = activity * size
                leverage = bisect(ladder, long_draw / long_lure)
                if leverage < classes:
                    enter(LONG, x, leverage, lot)
                leverage = bisect(ladder, short_draw / short_lure)
                if leverage < classes:
                    enter(SHORT, x, leverage, lot)
                book.open_interest += lot
                opened += lot
            if minute >= 0:
                premium = 0.0012 * feeling + 0.1 * pushed
                moved = (high - low) / (deviation + 1e-12)
                volume = usual * p.turnover / MINUTES_A_DAY * level * (0.4 + 0.2 * moved)
                volume *= noises[index]
                self.rows.append(
                    (opening, high, low, x, mark, opened, closed, before, premium, volume)
                )
        return origin

    def _draw(self, day: int) -> tuple[list, ...]:
        random = np.random.default_rng([self.seed, 0, day])
        flow = np.empty((MINUTES_A_DAY, STEPS, 4))  # return, lot, leverage of the long, the short
        flow[..., 0] = random.standard_t(4, flow.shape[:2]) / math.sqrt(2)
        flow[..., 1] = random.lognormal(-0.5, 1, flow.shape[:2])
        flow[..., 2:] = random.random((MINUTES_A_DAY, STEPS, 2))
        kicks = random.standard_normal((MINUTES_A_DAY, 3))
        noises = random.lognormal(-0.08, 0.4, MINUTES_A_DAY)
        return flow.tolist(), kicks.tolist(), noises.tolist()

    def _snapshot(self, minute: int, x: float, price: float) -> None:
        for side, rows in enumerate(self.snapshots):
            level, amount = self.book.levels(side)
            bucket = np.floor((level - x) / SNAPSHOT_BUCKET + SNAPSHOT_BUCKETS / 2)
            inside = (bucket >= 0) & (bucket < SNAPSHOT_BUCKETS)
            usd = np.bincount(bucket[inside].astype(int), price * amount[inside], SNAPSHOT_BUCKETS)
            rows.append(usd.astype(np.float32))
        self.snapshot_times.append((self.start + minute * MINUTE, price))


def _orders(path: _Path, order_usd: float, forced: Floats, candles: dict[str, Floats]) -> Events:
    """Split forced volume into single orders, log-normal in size, in order along the move."""
    price = path.price
    step = forced[:, 0].astype(np.int64)
    day = step // (STEPS * MINUTES_A_DAY)
    parts = []
    for number in np.unique(day).tolist():
        rows = forced[slice(*np.searchsorted(day, (number, number + 1)))]
        # One generator for each quantity: a day that is cut short stays a prefix.
        counts, weights, clock = (np.random.default_rng([path.seed, k, number]) for k in (1, 2, 3))
        expected = rows[:, 2] * price * np.exp(rows[:, 4]) / order_usd
        count = 1 + counts.poisson(np.maximum(expected - 1, 0))
        weight = weights.lognormal(0, 1.2, count.sum())
        first = np.cumsum(count) - count
        total = np.add.reduceat(weight, first)
        done = np.cumsum(weight)
        middle = done - weight / 2 - np.repeat(done[first] - weight[first], count)
        fraction = middle / np.repeat(total, count)
        begin, end = np.repeat(rows[:, 3], count), np.repeat(rows[:, 4], count)
        amount = weight * np.repeat(rows[:, 2] / total, count)
        within = np.repeat(rows[:, 0].astype(np.int64), count)
        # Sorting leaves every time in its step, where the orders already are in sequence.
        time = np.sort(within + clock.random(len(within))) * STEP
        time = np.minimum(time.astype(np.int64), (within + 1) * STEP - 1)
        minute = within // STEPS
        # exp() may leave the candle by a last bit.
        paid = price * np.exp(begin + (end - begin) * fraction)
        paid = np.clip(paid, candles["low"][minute], candles["high"][minute])
        side = np.repeat(rows[:, 1].astype(np.int8), count)
        parts.append(make_events(path.start + time, side, paid, amount, amount * paid))
    return Events.concat(parts)


def _positions(path: _Path) -> Positions:
    shape = (len(path.snapshot_times), SNAPSHOT_BUCKETS)
    long, short = (np.array(rows, np.float32).reshape(shape) for rows in path.snapshots)
    return Positions(
        snapshot_time=np.array([time for time, _ in path.snapshot_times], np.int64),
        price=np.array([price for _, price in path.snapshot_times]),
        distance=(np.arange(0.5, SNAPSHOT_BUCKETS) - SNAPSHOT_BUCKETS / 2) * SNAPSHOT_BUCKET,
        long_usd=long,
        short_usd=short,
    )


def _funding(date: Ints, premium: Floats) -> pd.DataFrame:
    """Return rate = premium + clamp(0.01 % - premium, ±0.05 %), the premium a mean over 8 h.

    Source: Binance, "Introduction to Binance Futures Funding Rates". The mean is over the minutes
    before the row's date (without any: 0); rates have 8 decimals.
    """
    at = np.flatnonzero(date % (8 * HOUR) == 0)
    total = np.concatenate(([0.0], np.cumsum(premium)))
    since = np.maximum(at - 8 * 60, 0)
    mean = (total[at] - total[since]) / np.maximum(at - since, 1)
    rate = mean + np.clip(0.0001 - mean, -0.0005, 0.0005)
    return _frame(date[at], {"funding_rate": np.round(rate, 8)})


def _frame(date: Ints, columns: dict[str, Floats]) -> pd.DataFrame:
    dates = pd.DatetimeIndex(date.astype("datetime64[ms]")).tz_localize("UTC")
    return pd.DataFrame({"date": dates, **columns})


def resample(candles: pd.DataFrame, timeframe_ms: int) -> pd.DataFrame:
    """Merge candles into longer ones of ``timeframe_ms``, aligned to 1970-01-01 UTC.

    Takes and returns date, open, high, low, close, volume in order of time; the first and last
    candle hold whatever part of their period is given, a period without candles has no row.
    """
    _require("timeframe_ms", timeframe_ms, least=1)
    period = pd.DatetimeIndex(candles["date"]).as_unit("ms").asi8 // timeframe_ms
    first = np.flatnonzero(np.diff(period, prepend=-1))
    if not len(first):
        return candles.copy()
    last = np.append(first[1:], len(period)) - 1
    values = {name: candles[name].to_numpy() for name in candles.columns if name != "date"}
    return _frame(
        period[first] * timeframe_ms,
        {
            "open": values["open"][first],
            "high": np.maximum.reduceat(values["high"], first),
            "low": np.minimum.reduceat(values["low"], first),
            "close": values["close"][last],
            "volume": np.add.reduceat(values["volume"], first),
        },
    )


def largest_per_second(events: Events) -> Events:
    """Return the event of the largest ``value_usd`` of each calendar second, in order of time.

    This is what a feed shows that is limited to one order a second, such as Binance's (the largest
    since 2026-04-14, the latest before; when its seconds begin is not documented). Of equals the
    first one is kept. Takes the events of one pair; both sides compete.
    """
    if len(events) == 0:
        return events
    if (np.diff(events.timestamp) < 0).any():
        events = events.take(np.argsort(events.timestamp, kind="stable"))
    second, value = events.timestamp // 1000, events.value_usd
    first = np.flatnonzero(np.diff(second, prepend=second[0] - 1))
    peak = np.repeat(np.maximum.reduceat(value, first), np.diff(first, append=len(second)))
    rows = np.flatnonzero(value == peak)
    return events.take(rows[np.diff(second[rows], prepend=second[0] - 1) != 0])


def _require(
    name: str, value: float, *, above: float | None = None, least: float = 0, most: float = math.inf
) -> None:
    low = value >= least if above is None else value > above
    if not (low and value <= most and math.isfinite(value)):
        limit = f"at least {least:g}" if above is None else f"above {above:g}"
        limit += f" and at most {most:g}" if most < math.inf else ""
        raise LiquidationsError(f"{name} must be {limit}, got {value}; change that argument")
