"""Judge what a store holds: each series by itself, by Freqtrade's candles, and by others. Floor 4.

The judgements are in ``plausibility.py`` and ``timing.py``. Here stands what they need: the sums of
candles, the single events, and the price. The price may be another exchange's, which moves the same
way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType, TradingMode

from liquidations.candles import (
    Source,
    candle_opens,
    format_period,
    serves,
    source_candles,
    timeframe_ms,
)
from liquidations.event import DAY, MINUTE, Events, Floats, Ints
from liquidations.inventory import live_inventory
from liquidations.pairs import QUOTES, base_of, is_inverse, match
from liquidations.plausibility import (
    CHECKS,
    FEWEST,
    HOUR,
    LOOK,
    OK,
    UNTRIED,
    WRONG,
    Finding,
    Marks,
    judge_duplicates,
    judge_gaps,
    judge_prices,
    judge_repeated_bars,
    judge_shared,
    judge_silence,
    judge_volume,
    marks_of,
)
from liquidations.reader import Reader, Series
from liquidations.simulate import resample
from liquidations.store import Store
from liquidations.tables import EVENTS
from liquidations.timing import flow, judge_one_side, judge_other, judge_time


#: Candles on which events are judged; shorter ones say nothing more.
SHORTEST = 5 * MINUTE

#: Hashes of rows that are kept at a time, to find those that stand in two series.
_MARKS = 4_000_000

#: From good to bad; a check that found several things shows the worst of them.
_ORDER = (OK, UNTRIED, LOOK, WRONG)


@dataclass(frozen=True, slots=True, eq=False)
class Price:
    """Hold Freqtrade's candles of ``step`` ms, and whose they are.

    ``alike`` tells that prices can be compared: the pair has no other multiplier. ``own`` tells
    that they are of the very contract, so its volume bounds its liquidations.
    """

    name: str
    step: int
    frame: pd.DataFrame
    alike: bool
    own: bool


#: Asks for the candles of a series from ``start`` to ``end`` (ms), or for the line that gets them.
Prices = Callable[[Series, int, int], Price | str]


@dataclass(slots=True, eq=False)
class Report:
    """Say what was found in one series from ``start`` to ``end`` (ms), and by which candles."""

    series: Series
    start: int
    end: int
    candles: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdicts(self) -> dict[str, str]:
        """Map each check to the worst verdict of it."""
        return {name: worst(one for one in self.findings if one.check == name) for name in CHECKS}

    @property
    def name(self) -> str:
        """Name the series for people."""
        one = self.series
        return f"{one.pair} {one.exchange} {one.source} {format_period(one.period)}"


def worst(findings: Any) -> str:
    """Return the worst verdict of some findings; without any, not tried."""
    verdicts = [one.verdict for one in findings]
    return max(verdicts, key=_ORDER.index, default=UNTRIED)


def check_store(
    store: Store,
    prices: Prices,
    *,
    chosen: Callable[[Series], bool] = lambda _: True,
    start: int = 0,
    end: int = 0,
) -> list[Report]:
    """Judge the chosen series of a store, by themselves and by all others of their base.

    :param prices: finds candles, see :func:`prices_of`
    :param start, end: in ms UTC; 0 = as far as each series goes
    :return: a report for each series of which something was observed in that time
    """
    reasons = _reasons(store, start, end or 2**62)
    reports: list[Report] = []
    marks: list[Marks] = []
    with store.read() as reader:
        counts = reader.counts()
        everything = reader.series()
        keep = sum(counts.values()) // _MARKS + 1
        for base in sorted({one.base for one in everything if chosen(one)}):
            found = [
                _Held(reader, one, start, end, counts.get((one.id, EVENTS), 0) > 0)
                for one in everything
                if one.base == base
            ]
            held = [one for one in found if len(one.coverage)]
            for one in held:
                if chosen(one.series):
                    report = _report(one, held, prices, reasons)
                    reports.append(report)
                    marks.append(one.marks(report.name, keep))
    if marks:
        for report, shared in zip(reports, judge_shared(marks), strict=True):
            report.findings += [shared] if shared else []
    return reports


def _reasons(store: Store, start: int, end: int) -> dict[tuple[str, str], Counter[str]]:
    """Count why live feeds did not listen, where nobody else did, by exchange and source."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for one in live_inventory(store):
        why = found.setdefault((one.feed.exchange, one.feed.source), Counter())
        for (first, last, reason), missing in zip(one.gaps, one.missing, strict=True):
            if missing > 0 and first < end and last > start:
                why[reason] += 1
    return found


class _Held:
    """Read what a series holds of the time asked for, and sum it over candles."""

    def __init__(self, reader: Reader, series: Series, start: int, end: int, single: bool) -> None:
        self.series = series
        coverage = reader.coverage(series)
        spans = np.clip(coverage, start, end or 2**62)
        self.coverage = spans[spans[:, 1] > spans[:, 0]]
        if not len(self.coverage):
            return
        self.start = start or int(self.coverage[0, 0])
        self.end = end or int(self.coverage[-1, 1])
        source = reader.source(series, self.start, self.end)
        # What happened is judged, however late it was known.
        late = source.late and replace(source.late.in_time(), coverage=np.empty((0, 3), np.int64))
        self.source: Source = replace(source, coverage=self.coverage, late=late)
        self.events = reader.events(series, self.start, self.end) if single else Events.concat([])
        self.single = single

    def opens(self, step: int) -> Ints:
        """List the candles of ``step`` ms that lie within the time."""
        return candle_opens(self.start, self.end - step + 1, format_period(step))

    def sums(self, opens: Ints, step: int) -> tuple[Floats, Floats]:
        """Return USD of longs and shorts in candles; NaN where less than 90 % was observed."""
        candles = source_candles(self.source, opens, opens + step)
        known = candles.coverage >= 0.9
        return np.where(known, candles.long, np.nan), np.where(known, candles.short, np.nan)

    def marks(self, name: str, keep: int) -> Marks:
        """Hash what it holds, to be found in other series."""
        rows = self.events if self.single else self.source.bars
        one = self.series
        return Marks(name, (one.pair, one.exchange), marks_of(rows, keep))


def _report(
    one: _Held,
    held: Collection[_Held],
    prices: Prices,
    reasons: Mapping[tuple[str, str], Counter[str]],
) -> Report:
    series = one.series
    report = Report(series, one.start, one.end)
    price = prices(series, one.start, one.end)
    if isinstance(price, str):
        checks = ["time", "sides", "volume"] + (["prices"] if one.single else [])
        lacking = f"no candles of {series.pair}"
        report.findings += [Finding(name, UNTRIED, lacking, do=price) for name in checks]
        report.candles = "none"
    else:
        report.candles = price.name
        report.findings += _by_price(one, price)
    if one.single:
        report.findings.append(judge_duplicates(one.events))
    else:
        bars = "bars of a vendor have no prices of single events"
        report.findings.append(Finding("prices", UNTRIED, bars))
        report.findings.append(judge_repeated_bars(one.source.bars))
    why = reasons.get((series.exchange, series.source)) if series.live is not None else None
    report.findings.append(judge_gaps(one.coverage, one.start, one.end, why))
    report.findings.append(_silence(one, held))
    report.findings += _others(one, held)
    return report


def _by_price(one: _Held, price: Price) -> Iterator[Finding]:
    step = max(price.step, one.series.period, SHORTEST)
    opens = one.opens(step)
    frame = price.frame if price.step == step else resample(price.frame, step)
    if not len(opens) or not serves(one.series.period, opens, opens + step):
        for name in ("time", "sides", "volume"):
            seen = f"bars of {format_period(one.series.period)} don't fit into {price.name}"
            yield Finding(name, UNTRIED, seen, do="get candles of that length or longer")
    else:
        # A day more on both sides, to compare with times before and after.
        around = np.arange(opens[0] - DAY // step * step, opens[-1] + DAY + step, step)
        aligned = _aligned(frame, around)
        returns = np.log(aligned["close"].to_numpy() / aligned["open"].to_numpy())
        sums = one.sums(around, step)
        time, sides, _ = judge_time(around, flow(*sums), returns, step)
        yield time
        yield judge_one_side(*sums, returns) or sides
        middle = (aligned["high"] + aligned["low"] + aligned["close"]) / 3
        traded = (aligned["volume"] * middle).to_numpy()
        yield judge_volume(around, sums[0] + sums[1], traded, own=price.own)
    if one.single:
        if not price.alike:
            seen = f"{price.name} count another number of coins"
            yield Finding("prices", UNTRIED, seen, do="get the candles of the pair itself")
            return
        high, low = (price.frame[name].to_numpy() for name in ("high", "low"))
        quoted = one.series.pair.partition("/")[2].partition(":")[0] in QUOTES
        yield judge_prices(one.events, _ms(price.frame), high, low, price.step, usd=quoted)


def _aligned(frame: pd.DataFrame, opens: Ints) -> pd.DataFrame:
    """Return the candles that open at ``opens``; NaN where one is missing."""
    prices = ["open", "high", "low", "close", "volume"]
    return frame.set_axis(_ms(frame))[prices].reindex(opens)


def _ms(frame: pd.DataFrame) -> Ints:
    return frame["date"].to_numpy(dtype="datetime64[ms]").view(np.int64)


def _silence(one: _Held, held: Collection[_Held]) -> Finding:
    step = max(HOUR, one.series.period)
    opens = one.opens(step)
    if len(opens) < 2:
        return Finding("silence", UNTRIED, f"less than two candles of {format_period(step)}")
    others = [
        np.add(*other.sums(opens, step))
        for other in held
        if other is not one and serves(other.series.period, opens, opens + step)
    ]
    together = None
    if others:
        totals = np.array(others)
        known = ~np.isnan(totals)
        together = np.where(known.any(axis=0), np.nan_to_num(totals).sum(axis=0), np.nan)
    return judge_silence(opens, np.add(*one.sums(opens, step)), together)


def _others(one: _Held, held: Collection[_Held]) -> list[Finding]:
    """Compare with the other series of the base, on candles that both fit into."""
    findings = []
    for other in held:
        series, mine = other.series, one.series
        if other is one:
            continue
        step = int(np.lcm.reduce([HOUR, series.period, mine.period]))
        start, end = max(one.start, other.start), min(one.end, other.end)
        name = f"{series.pair} {series.exchange} {series.source} {format_period(series.period)}"
        if end - start < FEWEST * step:
            findings.append(Finding("sources", UNTRIED, f"{name}: hardly any time in common"))
            continue
        opens = candle_opens(start, end - step + 1, format_period(step))
        same = (series.pair, series.exchange) == (mine.pair, mine.exchange)
        findings.append(
            judge_other(name, one.sums(opens, step), other.sums(opens, step), step, same=same)
        )
    if not findings:
        seen = "nothing else of this base is stored"
        findings.append(Finding("sources", UNTRIED, seen))
    return findings


# --- Freqtrade's candles -------------------------------------------------------------------------


def prices_of(config: Mapping[str, Any], args: Mapping[str, Any] | None = None) -> Prices:
    """Return what finds Freqtrade's candles of a series.

    They are looked for in the folder of the series' exchange, if it lies beside ``datadir``, then
    in ``datadir``; of the pair, else of what stands for it there. Of several timeframes the
    shortest from 5m on is taken that covers nearly as much as any.

    :param config: Freqtrade's configuration
    :param args: of the command line, to be repeated in the line that gets what is missing
    """
    own = str(config.get("exchange", {}).get("name", ""))
    datadir = Path(config["datadir"])
    folders: dict[str, list[Path]] = {}
    available: dict[Path, dict[str, list[str]]] = {}

    def listed(folder: Path) -> dict[str, list[str]]:
        if folder not in available:
            found: dict[str, list[str]] = {}
            handler = _handler(folder, config)
            if (folder / "futures").is_dir():
                for pair, timeframe, kind in handler.ohlcv_get_available_data(
                    folder, TradingMode.FUTURES
                ):
                    if kind == CandleType.FUTURES:
                        found.setdefault(pair, []).append(timeframe)
            available[folder] = found
        return available[folder]

    def find(series: Series, start: int, end: int) -> Price | str:
        beside = datadir.parent / series.exchange
        for folder in folders.setdefault(series.exchange, list(dict.fromkeys((beside, datadir)))):
            there = listed(folder)
            names = [series.pair] if series.pair in there else _linear(series, there)
            for name in names:
                found = _load(folder, config, name, there[name], start, end)
                if found is None:
                    continue
                timeframe, step, frame = found
                of = series.exchange if folder == beside else own
                alike = name.partition("/")[0] == series.pair.partition("/")[0]
                mine = name == series.pair and of == series.exchange
                return Price(f"{timeframe} of {name} ({of})", step, frame, alike, mine)
        return _line(series, start, end, config, args)

    return find


def _linear(series: Series, there: Mapping[str, list[str]]) -> list[str]:
    fitting = [pair for pair in there if ":" in pair and not is_inverse(pair)]
    return match(f"{base_of(series.pair)}/USDT:USDT", fitting)


def _handler(folder: Path, config: Mapping[str, Any]) -> Any:
    return get_datahandler(folder, config.get("dataformat_ohlcv", "feather"))


def _load(
    folder: Path,
    config: Mapping[str, Any],
    pair: str,
    timeframes: Collection[str],
    start: int,
    end: int,
) -> tuple[str, int, pd.DataFrame] | None:
    """Load the best of the timeframes; None if none of them has a candle of that time."""
    handler = _handler(folder, config)
    found = []
    for timeframe in timeframes:
        step = timeframe_ms(timeframe) if timeframe[-1] in "mhd" else None
        if step is None or step > DAY:
            continue
        frame = handler.ohlcv_load(
            pair,
            timeframe,
            CandleType.FUTURES,
            fill_missing=False,
            drop_incomplete=False,
            warn_no_data=False,
        )
        if frame.empty:
            continue
        time = _ms(frame)
        inside = (time > start - step) & (time < end)
        around = (time >= start - 2 * DAY) & (time < end + 2 * DAY)
        if inside.any():
            share = np.count_nonzero(inside) * step
            rank = (step < SHORTEST, step)
            found.append((share, rank, timeframe, step, frame[around].reset_index(drop=True)))
    if not found:
        return None
    most = max(one[0] for one in found)
    _, _, timeframe, step, frame = min(
        (one for one in found if one[0] >= 0.9 * most), key=lambda one: one[1]
    )
    return timeframe, step, frame


def _line(
    series: Series,
    start: int,
    end: int,
    config: Mapping[str, Any],
    args: Mapping[str, Any] | None,
) -> str:
    from liquidations.freqtrade_data import Missing, commands

    timeframe = "1h" if series.period <= HOUR else format_period(series.period)
    lacking = Missing(series.pair, timeframe, "futures", start, end)
    exchange = config.get("exchange", {})
    if series.exchange != exchange.get("name"):
        # One folder holds the candles of one exchange.
        config = {**config, "exchange": {**exchange, "name": series.exchange}}
        if args and args.get("datadir"):
            args = {**args, "datadir": Path(config["datadir"]).parent / series.exchange}
    return "get them with: " + "; ".join(commands([lacking], config, args))
