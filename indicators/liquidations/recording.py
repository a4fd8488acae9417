"""Write what a store holds as files that others can import, and check such folders. Floor 3.

A recording is a folder with one Parquet file (``archives/plain.py`` says what is in it) for each
exchange, pair, source and month, and the sums of all of them:

    binance/BTC_USDT_USDT/binance-2026-11.parquet       events
    binance/BTC_USDT_USDT/coinalyze~1h-2024-08.parquet  a vendor's bars
    SHA256SUMS                                          ``sha256sum -c SHA256SUMS`` checks it too

Names with other letters than these get a short hash, ``$X_USDT_USDT~1b2c3d4e`` for example, so that
no two meet, also where large and small letters are the same.
A month that was observed has a file even if nothing happened in it. Coverage is cut at the months'
edges, so any choice of the files is a recording too. Each event says in whose store it was recorded
first, or who its file named: a number that means nothing, unless a name is given. Nothing else of
the store, its host or its user gets out. Of bars that a vendor revised, the first vintage is
written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from liquidations.archives import Part
from liquidations.archives.plain import check_origin, write
from liquidations.candles import candle_closes, candle_opens, format_period, format_time
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, Bars, Events, Ints, common_intervals
from liquidations.reader import Reader, Series
from liquidations.store import Store
from liquidations.tables import EVENTS


#: The file with the sums of a folder's files.
SUMS = "SHA256SUMS"

_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)").fullmatch
# Of these no two become one where "/" and ":" are written as "_".
_PLAIN_PAIR = re.compile(r"[A-Z0-9/:]+").fullmatch
_PLAIN_EXCHANGE = re.compile(r"[a-z0-9]+").fullmatch
_PLAIN_SOURCE = re.compile(r"[a-z0-9_.-]+").fullmatch
_ALWAYS = (0, 2**62)


@dataclass(frozen=True, slots=True)
class Exported:
    """Say what was written of one series and month: its file, rows and coverage."""

    file: Path
    series: Series
    events: bool
    rows: int
    coverage: Ints


@dataclass(frozen=True, slots=True)
class Month:
    """Name what may become one file: a series, events or bars of it, from when to when (ms)."""

    series: Series
    events: bool
    start: int
    end: int

    @property
    def file(self) -> Path:
        """Return its place in the folder."""
        one = self.series
        period = "" if self.events else f"~{format_period(one.period)}"
        name = f"{_named(one.source, _PLAIN_SOURCE)}{period}-{format_time(self.start)[:7]}.parquet"
        return Path(_named(one.exchange, _PLAIN_EXCHANGE), _named(one.pair, _PLAIN_PAIR), name)


def _named(text: str, plain: Callable[[str], object]) -> str:
    """Write a text as a name of a file that no other text has."""
    safe = re.sub(r"[^\w.-]", "_", text)
    return safe if plain(text) else f"{safe}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def export(
    store: Store,
    folder: Path,
    *,
    chosen: Callable[[Series], bool] = lambda _: True,
    span: tuple[int, int] = _ALWAYS,
    name: str | None = None,
    track: Callable[[list[Month]], Iterable[Month]] = lambda months: months,
) -> list[Exported]:
    """Write a recording, as the store is at one moment.

    :param folder: is made; it may be there, but empty
    :param chosen: tells which series to write
    :param span: from when to when (ms)
    :param name: of the recorder; default the store's, which is a number
    :param track: is given the months to go through, and returns them one by one
    :raises LiquidationsError: if there is nothing to write, or it can't be written.
    """
    if name is not None and not check_origin(name):
        raise LiquidationsError("the name of a recorder must have a letter")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LiquidationsError(f"{folder} is there already and not empty; name a new folder")
    about = {
        "recorder": name or store.name,
        "program": f"freqtrade-liquidations {version('freqtrade-liquidations')}",
        "exported": f"{np.datetime64('now')}Z",
    }
    done: list[Exported] = []
    sums: list[str] = []
    with store.read() as reader:
        months = _months(reader, chosen, span)
        for month in track(months):
            part = _part(reader, month, about["recorder"])
            if not len(part.rows) and not len(part.coverage):
                continue
            data = write(part, about)
            _put(folder / month.file, data)
            sums.append(f"{hashlib.sha256(data).hexdigest()}  {month.file.as_posix()}\n")
            row = (month.series, month.events, len(part.rows), part.coverage)
            done.append(Exported(folder / month.file, *row))
    if not done:
        raise LiquidationsError(
            "nothing of that is stored: liquidations list-data shows what is; choose other -p, "
            "--exchange, --source or --timerange"
        )
    _put(folder / SUMS, "".join(sorted(sums, key=lambda line: line[66:])).encode())
    return done


def check_sums(listing: bytes, digest: Callable[[str], str]) -> list[str]:
    """Compare the files of a folder with the sums that it lists.

    :param listing: as ``sha256sum`` writes it
    :param digest: returns the SHA-256 of a file of the folder, in hexadecimal digits
    :return: the files that it lists
    :raises LiquidationsError: if one is missing or has another sum, or this is no list of sums.
    """
    names = []
    for line in listing.decode(errors="replace").splitlines():
        found = _SUM(line)
        if found is None or not _is_inside(found[2]):
            raise LiquidationsError(f"not a line of a list of sums: {line[:80]!r}")
        try:
            actual = digest(found[2])
        except FileNotFoundError:
            raise LiquidationsError(
                f"it lists {found[2]}, which is missing; get the whole folder again"
            ) from None
        if actual != found[1]:
            raise LiquidationsError(
                f"{found[2]} is not the file that was listed: it was changed, or damaged on its "
                "way; get it again"
            )
        names.append(found[2])
    if not names:
        raise LiquidationsError("it lists nothing: it was cut off; get the whole folder again")
    return names


def _is_inside(name: str) -> bool:
    """Tell whether a name is one of a folder's files, on any system."""
    return name.isprintable() and name[0] not in "/\\" and ".." not in re.split(r"[/\\]", name)


def _months(reader: Reader, chosen: Callable[[Series], bool], span: tuple[int, int]) -> list[Month]:
    counts = reader.counts()
    months = []
    for series in reader.series():
        if not chosen(series):
            continue
        bars = counts.get((series.id, series.period), 0)
        events = series.counted and (counts.get((series.id, EVENTS), 0) > 0 or not bars)
        edges = [reader.coverage(series).ravel(), reader.bars(series, *span).timestamp]
        # Of what was dropped for its age nothing can be told.
        begin = max(span[0], series.kept) if events else span[0]
        known = np.clip(np.concatenate(edges), begin, span[1])
        if not len(known):
            continue
        first, last = int(known.min()), int(known.max()) + 1
        opens = candle_opens(first - 31 * DAY, last, "1M")
        closes = candle_closes(opens, "1M")
        for start, end in zip(opens.tolist(), closes.tolist(), strict=True):
            if end > first:
                month = Month(series, events, max(start, begin), min(end, span[1]))
                months.append(month)
    return months


def _part(reader: Reader, month: Month, recorder: str) -> Part:
    series, span = month.series, (month.start, month.end)
    names = series.exchange, series.pair, series.source
    if not month.events:
        # Bars that begin in the month, to the end of the last one.
        start, end = (-(-edge // series.period) * series.period for edge in span)
        span = start, end
    coverage = common_intervals(reader.coverage(series), np.array([span], dtype=np.int64))
    rows: Events | Bars
    if not month.events:
        rows = reader.bars(series, *span)
        return Part(*names, rows, coverage, series.period)
    rows = reader.events(series, *span)
    known = {0: recorder, **reader.origins()}
    used, place = np.unique(rows.origin, return_inverse=True)
    origins = tuple(known[number] for number in used.tolist())
    rows = replace(rows, origin=(place + 1).astype(np.int16))
    return Part(*names, rows, coverage, origins=origins)


def _put(file: Path, data: bytes) -> None:
    """Write a file such that it is there as a whole or not at all."""
    beside = file.with_name(f".{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(file)
    except OSError as error:
        raise LiquidationsError(f"{file} can't be written: {error.strerror}") from error
