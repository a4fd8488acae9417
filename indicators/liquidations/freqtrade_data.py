"""Freqtrade's own data: what of them is missing, and what a source of ours adds to them. Floor 4.

Candles, open interest and funding stay in Freqtrade's files, and Freqtrade downloads them. It does
so in one direction: from a file's last row on, or with ``--prepend`` up to its first one. A hole
within stays one, so fetch what Freqtrade can get before a source fills in what it can't.

A row of open interest at T is the state at T, so a row of 5m on the full hour is the row of 1h, and
no later one is needed for it. Which row a candle sees is ruled by ``context.py``.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ccxt
import freqtrade.exchange
import numpy as np
import pandas as pd
import pyarrow as pa
from freqtrade.candle_columns import get_candle_columns
from freqtrade.data.history import get_datahandler
from freqtrade.data.history.datahandlers.idatahandler import IDataHandler
from freqtrade.enums import CandleType
from freqtrade.exchange.common import MAP_EXCHANGE_CHILDCLASS
from pyarrow import dataset

from liquidations.archives import FUNDING_RATE, OPEN_INTEREST, Context
from liquidations.candles import format_period, longest_ms
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE, Ints, merge_intervals
from liquidations.pairs import is_inverse


_HOUR = 60 * MINUTE
_FUTURES = str(CandleType.FUTURES)

#: How far back an exchange gives open interest, by the period of its rows; the others do all of it.
_DEPTH: dict[str, Callable[[int], int]] = {
    "binance": lambda period: 30 * DAY,
    "okx": lambda period: 1_440 * period,
}

#: Who settles funding in one rhythm only (ms); elsewhere it is the contract's own.
_RHYTHM = {"hyperliquid": _HOUR}

#: The longest time (ms) from one settlement to the next.
_SETTLED = 8 * _HOUR

#: How long (s) an interrupted download may take to end by itself.
_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class Stored:
    """Say what became of open interest or funding of one contract and timeframe.

    ``new`` rows were added, ``filled`` values that Freqtrade did not know were filled in,
    ``passed`` rows were passed over, for the ``reason``.
    """

    kind: str
    exchange: str
    pair: str
    timeframe: str
    new: int = 0
    filled: int = 0
    passed: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """Say from when to when (ms UTC) candles of one type are missing.

    ``prepend`` tells that they lie before those that are there. ``why`` says why Freqtrade can't
    get them; it is empty where it can.
    """

    pair: str
    timeframe: str
    candle_type: str
    start: int
    end: int
    prepend: bool = False
    why: str = ""


def store_context(config: Mapping[str, Any], contexts: Iterable[Context]) -> list[Stored]:
    """Merge open interest and funding into Freqtrade's files; what is in them stays as it is.

    Rows are added, and values that are NaN in Freqtrade's own are filled in. Of several contexts
    with the same row the coarsest one is taken, of these the first by name of its source. Open
    interest finer than 1h goes into the file of 1h too, by its rows on the full hour. A file is
    replaced as a whole: a process that is killed leaves the old one. Each call reads and writes
    whole files, so give it many contexts at once.

    Backtests charge funding at each row of the file, so only settled rates may be in there, but
    sources have rates of any hour. Freqtrade's own rows show how often a contract settles: before,
    after and in holes of them the rows in step with them are taken. Where there are none all are
    passed over, except on Hyperliquid, which settles every hour. This errs where a contract has
    settled more or less often before.

    :param config: Freqtrade's configuration: the exchange, ``datadir`` and the data format
    :param contexts: in any order; those of another exchange than the config's are passed over
    :return: an entry for each file, and for each context of another exchange
    :raises LiquidationsError: if the configuration names no exchange, or a file can't be written.
    """
    own = _exchange(config)
    settled = funding_timeframe(config)
    done: list[Stored] = []
    files: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    for one in sorted(contexts, key=lambda one: (-one.period, one.source)):
        timeframe = settled if one.kind == FUNDING_RATE else format_period(one.period)
        if one.exchange != own:
            why = f"{config['datadir']} is for data of {own}"
            passed = len(one.timestamp)
            done.append(
                Stored(one.kind, one.exchange, one.pair, timeframe, passed=passed, reason=why)
            )
            continue
        rows = _rows(one)
        files.setdefault((one.kind, one.pair, timeframe), []).append(rows)
        if one.kind == OPEN_INTEREST and one.period < _HOUR:
            hourly = rows[_ms(rows) % _HOUR == 0]
            files.setdefault((one.kind, one.pair, "1h"), []).append(hourly)
    return done + [_merge(config, *name, pd.concat(rows)) for name, rows in files.items()]


def known_times(
    config: Mapping[str, Any], kind: str, exchange: str, pair: str, period: int
) -> Ints:
    """Tell what Freqtrade's file has of open interest, as intervals: each row is ``period`` long.

    A row counts if it has all that there is to know: the value, and of linear contracts the amount.

    :param period: of the rows (ms)
    :return: sorted disjoint intervals (ms UTC); none of another exchange than the config's
    :raises LiquidationsError: if the file can't be read, or the configuration names no exchange.
    """
    nothing = np.empty((0, 2), np.int64)
    path = _file(config, pair, format_period(period), kind)
    if exchange != _exchange(config) or not len(_dates(path)):
        return nothing
    handler = get_datahandler(Path(config["datadir"]), config.get("dataformat_ohlcv"))
    rows = _load(handler, pair, format_period(period), kind)
    columns = get_candle_columns(kind)[1:]
    if kind == OPEN_INTEREST and is_inverse(pair):
        columns = ["open_interest_value"]
    times = _ms(rows[rows[columns].notna().all(axis=1)])
    return merge_intervals(np.column_stack((times, times + period)))


def missing(
    config: Mapping[str, Any],
    pairs: Iterable[str],
    timeframes: Iterable[str],
    start: int,
    end: int,
    *,
    every: str | None = "1h",
    now: int | None = None,
) -> list[Missing]:
    """Find what Freqtrade lacks of its own data: all, or the beginning or the end of the time.

    Besides the candles it wants the mark candles and funding of a backtest, and open interest.
    Holes within are not looked for, as Freqtrade can't fill them. A contract that is younger than
    ``start`` lacks its beginning for good.

    :param pairs: of the config's exchange
    :param timeframes: of candles: the strategy's, and the period of bars whose volumes are in base
        units, which need prices
    :param start, end: in ms UTC; what has not closed by now is not missing
    :param every: timeframe of the open interest; None if it is not wanted
    :param now: in ms UTC; default: our clock
    :raises LiquidationsError: if a file can't be read, or no exchange is named.
    """
    options = _options(config)
    now = time.time_ns() // 1_000_000 if now is None else now
    wanted = [(timeframe, _FUTURES) for timeframe in timeframes]
    wanted.append((options["mark_ohlcv_timeframe"], str(options["mark_ohlcv_price"])))
    wanted.append((options["funding_fee_timeframe"], FUNDING_RATE))
    if every is not None:
        wanted.append((every, OPEN_INTEREST))
    found: list[Missing] = []
    for pair in pairs:
        for timeframe, kind in dict.fromkeys(wanted):
            dates = _dates(_file(config, pair, timeframe, kind))
            period = _SETTLED if kind == FUNDING_RATE else longest_ms(timeframe)
            for one in _gaps(dates, period, start, min(end, now)):
                lack = Missing(pair, timeframe, kind, *one)
                found += _attainable(lack, config, options, now)
    return found


def commands(
    lacking: Iterable[Missing], config: Mapping[str, Any], args: Mapping[str, Any] | None = None
) -> list[str]:
    """Write the lines that get what is missing, as few as possible, for a shell.

    Some of them get a little more than is missing, such as whole days, or the mark candles that
    belong to candles. What Freqtrade can't get is left out.

    :param args: the flags ``config``, ``user_data_dir`` and ``datadir`` of the command line, which
        the lines repeat
    """
    name = _exchange(config)
    words = ["freqtrade", "download-data"]
    for path in (args or {}).get("config") or ():
        words += ["-c", str(path)]
    for flag, key in (("--userdir", "user_data_dir"), ("--datadir", "datadir")):
        if value := (args or {}).get(key):
            words += [flag, str(value)]
    words += ["--exchange", name, "--trading-mode", "futures"]
    # Open interest of a limited depth must not be asked for from where the candles begin.
    groups: dict[tuple[bool, bool], list[Missing]] = {}
    for one in lacking:
        if not one.why:
            limited = one.candle_type == OPEN_INTEREST and name in _DEPTH
            groups.setdefault((one.prepend, limited), []).append(one)
    lines = []
    for (prepend, _), group in sorted(groups.items()):
        first, last = min(one.start for one in group), max(one.end for one in group)
        pairs = list(dict.fromkeys(one.pair for one in group))
        for timeframes, kinds in _downloads(group):
            line = [*words, "-p", *pairs, "-t", *timeframes]
            line += ["--timerange", f"{_day(first // DAY)}-{_day(-(-last // DAY))}"]
            line += ["--candle-types", *kinds] if kinds else []
            line += ["--prepend"] if prepend else []
            lines.append(shlex.join(line))
    return lines


def download(lines: Iterable[str]) -> list[int]:
    """Run lines of :func:`commands`, one after the other, and return their exit codes.

    What Freqtrade prints goes where ours does. It ends with 0 on some errors too, and where it got
    nothing: look for what is :func:`missing` again. An interrupt (Ctrl+C or SIGINT) ends the
    running one, and is raised again.
    """
    codes = []
    for line in lines:
        sys.stdout.flush()
        # Our own Python's Freqtrade, whatever is first in the path.
        with subprocess.Popen([sys.executable, "-m", *shlex.split(line)]) as process:
            try:
                codes.append(process.wait())
            except KeyboardInterrupt:
                # From a terminal it got the signal as we did, and is about to end.
                try:
                    process.wait(_GRACE)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGINT)
                raise
    return codes


def funding_timeframe(config: Mapping[str, Any]) -> str:
    """Return the timeframe under which Freqtrade keeps the funding rates of the config's exchange.

    :raises LiquidationsError: if the configuration names no exchange.
    """
    return str(_options(config)["funding_fee_timeframe"])


def _exchange(config: Mapping[str, Any]) -> str:
    name = config.get("exchange", {}).get("name")
    if not name:
        raise LiquidationsError(
            "whose data Freqtrade keeps is not known: name an exchange in the configuration"
        )
    return str(name)


def _options(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what Freqtrade knows of the config's exchange, without making a client of it."""
    name = _exchange(config)
    title = MAP_EXCHANGE_CHILDCLASS.get(name, name).title()
    kind = getattr(freqtrade.exchange, title, freqtrade.exchange.Exchange)
    return {
        **kind.combine_ft_has(include_futures=True),
        **config["exchange"].get("_ft_has_params", {}),
    }


def _file(config: Mapping[str, Any], pair: str, timeframe: str, kind: str) -> Path:
    folder = Path(config["datadir"])
    handler = get_datahandler(folder, config.get("dataformat_ohlcv"))
    return handler._pair_data_filename(folder, pair, timeframe, CandleType(kind))


def _dates(path: Path) -> Ints:
    """Read the dates (ms) of one of Freqtrade's files, and no other column where that can be."""
    if not path.exists():
        return np.empty(0, np.int64)
    try:
        if path.suffix in (".json", ".gz"):
            rows = pd.read_json(path, orient="values")
            return rows[0].to_numpy(np.int64) if len(rows) else np.empty(0, np.int64)
        table = dataset.dataset(path, format=path.suffix[1:]).to_table(columns=["date"])
        dates = table["date"].cast(pa.timestamp("ms", "UTC"), safe=False)
    except (pa.ArrowException, EOFError, KeyError, OSError, ValueError, zlib.error) as error:
        raise LiquidationsError(
            f"{path} can't be read ({error}); move it away, or let freqtrade download-data --erase "
            "fetch it again"
        ) from error
    return dates.cast(pa.int64()).to_numpy()


def _ms(frame: pd.DataFrame) -> Ints:
    """Return the dates of a frame in ms."""
    return frame["date"].to_numpy(dtype="datetime64[ms]").view(np.int64)


def _rows(context: Context) -> pd.DataFrame:
    """Return the rows that say something, as Freqtrade makes them: dates of whole minutes."""
    stamps = context.timestamp // MINUTE * MINUTE
    unknown = np.full(len(stamps), np.nan)
    columns = get_candle_columns(context.kind)[1:]
    values = {name: context.values.get(name, unknown) for name in columns}
    dates = pd.to_datetime(stamps, unit="ms", utc=True).as_unit("ms")
    return pd.DataFrame({"date": dates, **values}).dropna(how="all", subset=columns)


def _load(handler: IDataHandler, pair: str, timeframe: str, kind: str) -> pd.DataFrame:
    return handler.ohlcv_load(
        pair,
        timeframe,
        CandleType(kind),
        fill_missing=False,
        drop_incomplete=False,
        warn_no_data=False,
    )


def _merge(
    config: Mapping[str, Any], kind: str, pair: str, timeframe: str, rows: pd.DataFrame
) -> Stored:
    name, path = _exchange(config), _file(config, pair, timeframe, kind)
    handler = get_datahandler(Path(config["datadir"]), config.get("dataformat_ohlcv"))
    try:
        known = _dates(path)
    except LiquidationsError as error:
        return Stored(kind, name, pair, timeframe, passed=len(rows), reason=str(error))
    own = _load(handler, pair, timeframe, kind)
    if own.empty and len(known):
        reason = f"Freqtrade can't read {path}; move it away"
        return Stored(kind, name, pair, timeframe, passed=len(rows), reason=reason)
    own = own[get_candle_columns(kind)]
    if kind == FUNDING_RATE:
        fitting = _settlements(_ms(rows), np.unique(known // MINUTE * MINUTE), _RHYTHM.get(name))
        reason = "Freqtrade's own rows don't show that funding was settled then"
    else:
        fitting = _ms(rows) % longest_ms(timeframe) == 0
        reason = f"their time is not at the start of {timeframe}"
    passed = int((~fitting).sum())
    # The first known value of each row and column; Freqtrade's own come first.
    parts = [part for part in (own, rows[fitting]) if len(part)]
    merged = pd.concat(parts).groupby("date", as_index=False, sort=True).first() if parts else own
    values = merged[merged["date"].isin(own["date"])].notna().to_numpy().sum()
    filled = int(values - own.notna().to_numpy().sum())
    new = len(merged) - len(own)
    if new or filled:
        _write(config, pair, timeframe, kind, merged)
    return Stored(kind, name, pair, timeframe, new, filled, passed, reason if passed else "")


def _write(
    config: Mapping[str, Any], pair: str, timeframe: str, kind: str, rows: pd.DataFrame
) -> None:
    """Let Freqtrade write a file beside its data, and put it in place at once."""
    path = _file(config, pair, timeframe, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".liquidations-", dir=config["datadir"]) as folder:
            beside = {**config, "datadir": folder}
            handler = get_datahandler(Path(folder), config.get("dataformat_ohlcv"))
            handler.ohlcv_store(pair, timeframe, rows, CandleType(kind))
            _file(beside, pair, timeframe, kind).replace(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise LiquidationsError(
            f"{path} can't be written ({why}); what was in it is there still. See whether the disk "
            "is full, and who may write there"
        ) from error


def _settlements(times: Ints, own: Ints, rhythm: int | None) -> np.ndarray:
    """Tell which times are settlements: known ones, and those in step with them in their holes."""
    if rhythm is not None:
        return times % rhythm == 0
    distances = np.diff(own)
    lengths, counts = np.unique(distances[distances <= _SETTLED], return_counts=True)
    if not len(lengths):
        return np.isin(times, own)
    step = lengths[counts.argmax()]
    in_step = (times - own[np.flatnonzero(distances == step)[-1]]) % step == 0
    # Between two rows that are no further apart than settlements there was none.
    row = np.searchsorted(own, times)
    inside = (row > 0) & (row < len(own))
    row = np.clip(row, 1, len(own) - 1)
    hole = ~inside | (distances[row - 1] > _SETTLED)
    return np.isin(times, own) | (in_step & hole)


def _gaps(dates: Ints, period: int, start: int, end: int) -> list[tuple[int, int, bool]]:
    """List what is missing of a time: (start, end, whether it is before what is there)."""
    if not len(dates):
        return [(start, end, False)] if start + period <= end else []
    first, last = int(dates.min()), int(dates.max())
    gaps = []
    if first - period >= start:
        gaps.append((start, min(first, end), True))
    if last + 2 * period <= end:
        gaps.append((max(last + period, start), end, False))
    return gaps


def _attainable(
    lack: Missing, config: Mapping[str, Any], options: Mapping[str, Any], now: int
) -> list[Missing]:
    """Split what is missing into what Freqtrade can get, and what it can't, with the reason."""
    name, start, end = _exchange(config), lack.start, lack.end

    def part(start: int, end: int, why: str = "") -> Missing:
        return Missing(lack.pair, lack.timeframe, lack.candle_type, start, end, lack.prepend, why)

    if not options.get("ohlcv_has_history", True):
        return [part(start, end, f"Freqtrade downloads no candles of {name}")]
    if lack.candle_type != OPEN_INTEREST:
        return [lack]
    if not (hasattr(ccxt, name) and getattr(ccxt, name)().has.get("fetchOpenInterestHistory")):
        return [part(start, end, f"Freqtrade gets no open interest of {name}")]
    if name not in _DEPTH:
        return [lack]
    depth = _DEPTH[name](longest_ms(lack.timeframe))
    why = f"of open interest {name} gives the last {depth // DAY} days only"
    # On a full day, as the commands name days.
    oldest = -(-(now - depth) // DAY) * DAY
    split = min(max(start, oldest), end)
    parts = (part(start, split, why), part(split, end))
    return [one for one in parts if one.start < one.end]


def _downloads(group: Iterable[Missing]) -> list[tuple[list[str], list[str]]]:
    """Split what is missing into downloads: timeframes and candle types, none for the usual ones.

    A download gets each type in each timeframe, but funding in its own one only. The usual ones are
    candles, and with them mark candles and funding, in their own timeframe.
    """
    wanted: dict[str, list[str]] = {}
    for one in group:
        timeframes = wanted.setdefault(one.candle_type, [])
        if one.timeframe not in timeframes:
            timeframes.append(one.timeframe)
    named = _by_timeframes(wanted)
    if _FUTURES not in wanted:
        return named
    rest = {kind: wanted[kind] for kind in wanted if kind == OPEN_INTEREST}
    usual = [(wanted[_FUTURES], []), *_by_timeframes(rest)]
    return usual if len(usual) <= len(named) else named


def _by_timeframes(wanted: Mapping[str, list[str]]) -> list[tuple[list[str], list[str]]]:
    downloads: dict[tuple[str, ...], list[str]] = {}
    for kind, timeframes in wanted.items():
        if kind != FUNDING_RATE:
            downloads.setdefault(tuple(timeframes), []).append(kind)
    if FUNDING_RATE in wanted:
        if not downloads:
            downloads[tuple(wanted[FUNDING_RATE])] = []
        next(iter(downloads.values())).append(FUNDING_RATE)
    return [(list(timeframes), kinds) for timeframes, kinds in downloads.items()]


def _day(number: int) -> str:
    return str(np.datetime64(number, "D")).replace("-", "")
