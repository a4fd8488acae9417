"""Bring files of the archives into the store. Floor 3.

Everything is read before anything is written, so that a bad file among good ones changes nothing.
What was read is kept until it is written, as long as it is small; of more only what follows from it
is kept, and those files are read a second time. Files are written one after another, each as a
whole: a live collector that writes to the same store need not wait for more than that, and an
import that was killed is completed by running it again. What files only cover, and what several
files cover together, is written after all of them.

Files lie on disk, or wherever fsspec (the extra ``remote``) gets them: S3, HTTP and so on.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import import_module
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from posixpath import normpath
from typing import Any, TypeAlias

import numpy as np

from liquidations.archives import MOST_FILE, Context, Options, Part, archive
from liquidations.candles import format_period, format_time
from liquidations.errors import LiquidationsError, OtherAnswer, mask
from liquidations.event import (
    DAY,
    SIMULATED,
    Bars,
    Events,
    Floats,
    Ints,
    common_intervals,
    is_within,
    merge_intervals,
    order_of,
    repeats,
    without_intervals,
)
from liquidations.exchanges import EXCHANGES
from liquidations.pairs import base_of
from liquidations.reader import Reader
from liquidations.recording import SUMS, check_sums
from liquidations.store import Store
from liquidations.writer import Inserted, Writer


#: Asks for the candles of (pair, timeframe): their opens in ms, and their typical prices.
Prices = Callable[[str, str], tuple[Ints, Floats]]

#: Where a file is: on disk, or a URL that fsspec opens.
Place: TypeAlias = Path | str

#: A file, and what was read of it.
Read: TypeAlias = tuple[Place, list[Part]]

#: Bytes of a list of sums: it has some 100 for each file.
MOST_LISTING = 2**24

#: Bytes of rows that are kept between reading and writing.
KEEP = 100_000_000

#: Bytes that a part takes besides its rows.
PART = 2_000

#: Events that are inserted at once.
STEP = 500_000
FOREVER = 2**62

# The store has room for so many letters.
_LONGEST_PAIR = 64


@dataclass(frozen=True, slots=True)
class Imported:
    """Say what one part of a file brought; the part is without its rows."""

    file: Place
    part: Part
    rows: Inserted


@dataclass(slots=True)
class _File:
    """Hold what is known of a file that was read.

    ``parts`` is None if they were too large to keep; ``like`` is what the file says of contracts
    of which it has no part.
    """

    place: Place
    names: list[tuple[str, str]]
    parts: list[Part] | None
    like: Part | None


@dataclass(slots=True)
class Parts:
    """List the parts of files that were read; those that were not kept are read again.

    :param again: reads a file a second time
    :param keep: bytes of rows that may still be kept
    :param span: parts that cover just this time (start and end in ms) do so together
    """

    again: Callable[[Place], list[Part]]
    keep: int = KEEP
    span: tuple[int, int] | None = None
    contexts: list[Context] = field(default_factory=list)
    files: list[_File] = field(default_factory=list)
    _simulated: bool | None = None
    _weighed: int = 0

    def add(self, place: Place, parts: list[Part], like: Part | None = None) -> None:
        """Add what was read of a file.

        :param like: a part without rows of a file that tells of all contracts of its exchange: it
            stands for each contract of which another such file has a part and this one has none
        :raises LiquidationsError: if the store would refuse it.
        """
        for part in parts:
            base_of(part.pair)
            simulated = part.source == SIMULATED
            if self._simulated not in (None, simulated):
                raise LiquidationsError(
                    "simulated and real liquidations must never mix; import them one by one, into "
                    "stores of their own (--db-url)"
                )
            self._simulated = simulated
        names = [(part.exchange, part.pair) for part in parts]
        self.files.append(_File(place, names, parts, like))

    def make_room(self) -> None:
        """Let go of the rows of the last file, if they are too many to be kept beside others."""
        for file in self.files[self._weighed :]:
            parts = file.parts or ()
            size = len(parts) * PART
            size += sum(array.nbytes for part in parts for array in part.rows.arrays().values())
            if size > self.keep:
                file.parts = None
            else:
                self.keep -= size
        self._weighed = len(self.files)

    def by_file(self) -> Iterator[Read]:
        """List the files and their parts."""
        known = self._known()
        for file in self.files:
            parts = self.again(file.place) if file.parts is None else file.parts
            if file.like is not None:
                like = replace(file.like, note="")
                silent = sorted(known.difference(file.names))
                parts = parts + [replace(like, exchange=one, pair=pair) for one, pair in silent]
            yield file.place, parts

    def _known(self) -> set[tuple[str, str]]:
        return {name for file in self.files if file.like for name in file.names}

    def __iter__(self) -> Iterator[tuple[Place, Part]]:
        return ((place, part) for place, parts in self.by_file() for part in parts)

    def __len__(self) -> int:
        known = self._known()
        silent = (known.difference(file.names) for file in self.files if file.like)
        return sum(len(file.names) for file in self.files) + sum(map(len, silent))


# --- where files are ----------------------------------------------------------------------------


def find_files(
    paths: Iterable[Place], patterns: Collection[str] = ("*.json",)
) -> list[tuple[Place, bool]]:
    """List the files meant by paths, and whether each was named itself.

    A folder means the files in it, and in folders in it, whose names fit a pattern, in large or
    small letters. What its ``SHA256SUMS`` list is compared with them, and must be all of them. So
    does a URL, and one with an asterisk means all that fit it.

    :param patterns: see ``About.files``
    :raises LiquidationsError: if a path does not exist, a folder has no such file, or one has
        another sum or none.
    """
    files: list[tuple[Place, bool]] = []
    for path in paths:
        with _explained(path):
            inside = _inside(path) if isinstance(path, Path) else _inside_url(path)
        if inside is None:
            files.append((path, True))
            continue
        names = {one: _name(one).lower() for one in inside}
        fitting = [one for one in inside if any(fnmatchcase(names[one], p) for p in patterns)]
        _compare_all([one for one in inside if _name(one) == SUMS], fitting)
        if not fitting:
            kinds = " or ".join(dict.fromkeys(pattern.split("*")[-1] for pattern in patterns))
            raise LiquidationsError(f"the folder {shown(path)} has no {kinds} file")
        files += [(one, False) for one in fitting]
    return files


def shown(place: Place) -> str:
    """Write a place for people, without what may be a key in its URL."""
    return str(place) if isinstance(place, Path) else mask(place.partition("?")[0])


def _name(place: Place) -> str:
    return shown(place).rpartition("/")[2]


def _inside(path: Path) -> list[Place] | None:
    """List the files in a folder; None if it is none."""
    if not path.is_dir():
        path.stat()
        return None
    return [one for one in sorted(path.rglob("*")) if one.is_file() and one.name[0] != "."]


def _inside_url(url: str) -> list[Place] | None:
    system, path = _open(url)
    if "*" in path:
        found = system.glob(path)
    elif system.isdir(path) if not url.startswith("http") else path.endswith("/"):
        found = system.find(path)
    elif system.exists(path):
        return None
    else:
        raise FileNotFoundError
    return [system.unstrip_protocol(one) for one in sorted(found)]


def _open(url: str) -> tuple[Any, str]:
    """Return what opens a URL, and its path there."""
    # In such buckets who reads pays for the transfer; in others it is ignored.
    options = {"requester_pays": True} if url.startswith(("s3:", "s3a:")) else {}
    system, path = import_module("fsspec.core").url_to_fs(url, **options)
    return system, path


def load(place: Place, most: int = MOST_FILE) -> bytes:
    """Read a file as a whole, if it has at most so many bytes.

    :raises LiquidationsError: if it has more, or is no file but a pipe or a device.
    :raises OSError: if it can't be read (so do fsspec's own errors).
    """
    if isinstance(place, Path):
        with _open_file(place) as file:
            return _at_most(file, os.fstat(file.fileno()).st_size, most)
    system, path = _open(place)
    # What a server says of its size need not be so.
    with system.open(path, "rb") as file:
        return _at_most(file, getattr(file, "size", None) or 0, most)


def _open_file(path: Path) -> BufferedReader:
    """Open a file, but nothing that may never end."""
    # A pipe that nobody writes to would wait for ever already here.
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise LiquidationsError("this is no file but a pipe or a device; write it to a file first")


def _at_most(file: Any, size: int, most: int) -> bytes:
    data = b"" if size > most else file.read(most + 1)
    if max(size, len(data)) > most:
        raise LiquidationsError(
            f"it has more than {most >> 20:,} MB, which is more than is read at once; split it"
        )
    return bytes(data)


def _compare_all(listings: Iterable[Place], files: Iterable[Place]) -> None:
    """Compare folders with their lists of sums; a file below one must stand in some list."""
    folders: list[str] = []
    listed: set[str] = set()
    for listing in listings:
        with _explained(listing):
            text = listing.as_posix() if isinstance(listing, Path) else listing
            folders.append(text.removesuffix(SUMS))
            listed |= {folders[-1] + normpath(name) for name in _compare(listing)}
    for file in files:
        place = file.as_posix() if isinstance(file, Path) else file
        if place not in listed and any(place.startswith(folder) for folder in folders):
            raise LiquidationsError(
                f"{shown(file)} does not stand in the {SUMS} of its folder: it was added since; "
                "move it elsewhere, and import it by itself if it is yours"
            )


def _compare(listing: Place) -> list[str]:
    """Compare the sums of a folder with its files, and return which it lists."""

    def digest(name: str) -> str:
        folder = str(listing).removesuffix(SUMS)
        if isinstance(listing, Path):
            with _open_file(Path(folder, name)) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(load(folder + name)).hexdigest()

    return check_sums(load(listing, MOST_LISTING), digest)


@contextmanager
def _explained(place: Place) -> Iterator[None]:
    """Say in one line what is wrong with a place or what is in it."""
    try:
        yield
    except FileNotFoundError:
        raise LiquidationsError(f"there is no file {shown(place)}") from None
    except ImportError as error:
        raise LiquidationsError(
            f"{shown(place)} is not on this disk, and {error.name or 'a package'} is needed to get "
            "it: pip install 'freqtrade-liquidations[remote]'"
        ) from None
    except LiquidationsError as error:
        raise type(error)(f"{shown(place)}: {error}") from error
    except MemoryError as error:
        raise LiquidationsError(
            f"{shown(place)}: there is not enough memory to read it; split it, or give more"
        ) from error
    except Exception as error:
        # What fsspec and those below it raise may name the whole URL.
        known = isinstance(error, OSError) and error.strerror
        if isinstance(place, Path) and not known:
            raise
        raise LiquidationsError(
            f"{shown(place)} can't be read: {known or type(error).__name__}"
        ) from None


# --- reading and writing ------------------------------------------------------------------------


def read_files(
    files: Iterable[tuple[Place, bool]],
    source: str,
    options: Options,
    prices: Prices,
    chosen: Callable[[str], bool] = lambda _: True,
    exchanges: Collection[str] = EXCHANGES,
    *,
    keep: int = KEEP,
) -> tuple[Parts, list[Place]]:
    """Read files of one source, with all volumes in USD.

    :param chosen: tells which pairs to read
    :param exchanges: read only these
    :param keep: bytes of rows to keep until they are written; what is more is read again then
    :return: the parts in the order of the files, and the files of a folder that were passed over
        because they are another answer of the same vendor
    :raises LiquidationsError: on the first file that is not what the source gives.
    """
    module = archive(source)
    whole = module.ABOUT.whole_exchange

    def read(place: Place) -> Collection[Part | Context]:
        with _explained(place):
            data = load(place, module.ABOUT.most)
            found = module.read(data, replace(options, name=_name(place)))
            for one in found:
                _check_pair(one.pair)
            return found

    def wanted(one: Part | Context) -> bool:
        return one.exchange in exchanges and chosen(one.pair)

    def parts_of(place: Place, found: Collection[Part | Context]) -> list[Part]:
        with _explained(place):
            own = (one for one in found if isinstance(one, Part) and wanted(one))
            return [_in_usd(part, prices) for part in own]

    parts = Parts(lambda place: parts_of(place, read(place)), keep, options.span)
    passed: list[Place] = []
    for place, named in files:
        parts.make_room()
        try:
            found = read(place)
        except OtherAnswer as error:
            if named:
                raise LiquidationsError(str(error)) from error
            passed.append(place)
            continue
        own = parts_of(place, found)
        told = (_without_rows(one) for one in found if whole and isinstance(one, Part))
        with _explained(place):
            parts.add(place, own, next(told, None))
        parts.contexts += [one for one in found if isinstance(one, Context) and wanted(one)]
    if not parts and not parts.contexts:
        raise LiquidationsError(
            f"no liquidations of any chosen pair on {', '.join(exchanges)} from the source "
            f"{source} in these files"
        )
    return parts, passed


def write_parts(
    store: Store,
    parts: Parts | Iterable[tuple[Place, Part]],
    track: Callable[[Iterator[Read], int], Iterable[Read]] = lambda files, _: files,
) -> list[Imported]:
    """Write parts, the rows of each file in one transaction, and count what was new.

    :param track: is given the files to go through and their number, and returns them one by one
    :raises LiquidationsError: if the store refuses one; of that file nothing was written then.
    """
    if not isinstance(parts, Parts):
        given: dict[Place, list[Part]] = {}
        for place, part in parts:
            given.setdefault(place, []).append(part)
        parts = Parts(given.__getitem__)
        for place, own in given.items():
            parts.add(place, own)
    done = []
    after: dict[tuple[str, str, str], _After] = {}
    several = len(parts.files) > 1
    # Such files have a few rows of each of hundreds of contracts.
    whole = any(file.like is not None for file in parts.files)

    def finish() -> None:
        if after:
            with store.write() as writer:
                for one in after.values():
                    one.finish(writer)
            after.clear()

    for place, own in track(parts.by_file(), len(parts.files)):
        with store.write() as writer:
            for part in own:
                name = part.exchange, part.pair, part.source
                together = part.coverage.tolist() == [list(parts.span or ())]
                silent = isinstance(part.rows, Events) and not len(part.rows)
                if several and together and name not in after:
                    after[name] = _After(*_observed(writer, part))
                elif several and (silent or whole) and name not in after:
                    after[name] = _After()
                if several and (together or silent or whole):
                    rows = after[name].add(None if whole else writer, part)
                else:
                    rows = _insert(writer, part)
                done.append(Imported(place, _without_rows(part), rows))
        if whole and sum(len(rows) for one in after.values() for rows in one.rows) > STEP:
            finish()
    finish()
    return done


@dataclass(slots=True)
class _After:
    """Hold what is written of a series after all files: when they observed it, and small rows.

    Files that cover the same time together would contradict each other else; and of many files that
    say that little or nothing happened, one insert does it all.

    :param both: what is covered together, of which the store had observed this before; if nothing
        is covered together, None
    :param held: events that were stored of that time before
    """

    both: Ints | None = None
    held: int = 0
    silent: list[Part] = field(default_factory=list)
    told: list[Events] = field(default_factory=list)
    rows: list[Events] = field(default_factory=list)
    last: Inserted = field(default_factory=Inserted)

    def add(self, writer: Writer | None, part: Part) -> Inserted:
        """Write the rows of a part, and keep its coverage for later; without a writer its rows too.

        :return: what was done; it is completed later
        """
        self.silent.append(_without_rows(part))
        self.last = Inserted()
        if writer is None and isinstance(part.rows, Events):
            self.rows.append(part.rows)
        elif writer is not None and len(part.rows):
            self.last = _insert(writer, replace(part, coverage=part.coverage[:0]))
        if self.both is not None and len(self.both) and isinstance(part.rows, Events):
            self.told.append(part.rows.take(is_within(self.both, part.rows.timestamp)))
        return self.last

    def finish(self, writer: Writer) -> None:
        """Write the rest, and count what either side lacks of the time that both observed."""
        spans = merge_intervals(np.concatenate([part.coverage for part in self.silent]))
        rows = Events.concat(self.rows)
        done = _insert(writer, replace(self.silent[0], rows=rows, coverage=spans))
        conflicts = done.conflicts
        if self.both is not None:
            # All that is stored of that time was counted, so it is of the one, the other or both.
            told = Events.concat(self.told)
            order = order_of(told.timestamp, told.key)
            twice = int(repeats(told.timestamp[order], told.key[order]).sum())
            conflicts = 2 * conflicts - self.held - (len(told) - twice)
        self.last.conflicts += conflicts
        self.last.new += done.new
        self.last.known += done.known
        self.last.expired += done.expired


def _observed(reader: Reader, part: Part) -> tuple[Ints, int]:
    """Return which of a part's time the store observed, and how many events it has of that."""
    name = part.exchange, part.pair, part.source, part.period
    for one in reader.series(base=base_of(part.pair)):
        if (one.exchange, one.pair, one.source, one.period) == name:
            both = common_intervals(reader.coverage(one), part.coverage)
            both = without_intervals(both, np.array([[0, one.kept]]))
            if len(both):
                time = reader.events(one, both[0, 0], both[-1, 1]).timestamp
                return both, int(is_within(both, time).sum())
    return part.coverage[:0], 0


def _insert(writer: Writer, part: Part) -> Inserted:
    """Insert a part, a very large one in steps, because the store needs its size several times."""
    done = Inserted()
    for start, end in _days(part.rows):
        within = slice(*np.searchsorted(part.rows.timestamp, (start, end)))
        whole = end - start == FOREVER
        done += writer.insert(
            part.exchange,
            part.pair,
            part.source,
            part.rows if whole else part.rows.take(within),
            part.coverage if whole else common_intervals(part.coverage, np.array([[start, end]])),
            period=part.period,
            origins=part.origins,
        )
    return done


def _days(rows: Events | Bars) -> list[tuple[int, int]]:
    """Divide all time at the starts of days, such that about ``STEP`` events lie in each part."""
    time = rows.timestamp
    if isinstance(rows, Bars) or len(time) <= STEP or np.any(time[1:] < time[:-1]):
        return [(0, FOREVER)]
    cuts = np.unique(time[STEP::STEP] // DAY * DAY).tolist()
    return list(pairwise([0, *cuts, FOREVER]))


def _check_pair(pair: str) -> None:
    """Refuse names that come out of a file and would steer a terminal, or are none."""
    if len(pair) > _LONGEST_PAIR or not pair.isprintable() or " " in pair:
        raise LiquidationsError(
            f"{pair[:_LONGEST_PAIR]!r} is no name of a contract: the file is damaged, or made up"
        )


def _without_rows(part: Part) -> Part:
    return replace(part, rows=type(part.rows).concat([]))


def _in_usd(part: Part, prices: Prices) -> Part:
    """Convert base amounts at the typical price of the pair's own candles of that period."""
    if part.unit == "usd" or not isinstance(part.rows, Bars):
        return part
    timeframe = format_period(part.period)
    opens, typical = prices(part.pair, timeframe)
    bars = part.rows
    position = np.searchsorted(opens, bars.timestamp)
    there = np.append(opens, -1)[position] == bars.timestamp
    if not there.all():
        first, last = (format_time(time)[:10] for time in part.coverage[0])
        missing = format_time(bars.timestamp[~there][0])
        raise LiquidationsError(
            f"{part.pair}: {int((~there).sum())} of {len(bars)} {timeframe} candles that tell the "
            f"price are missing, the first is {missing} UTC. Get them with: freqtrade "
            f"download-data --exchange {part.exchange} --trading-mode futures -p {part.pair} "
            f"-t {timeframe} --timerange {_shift(first, 0)}-{_shift(last, 1)}"
        )
    price = typical[position]
    return replace(
        part, rows=replace(bars, long=bars.long * price, short=bars.short * price), unit="usd"
    )


def _shift(day: str, days: int) -> str:
    return str(np.datetime64(day) + np.timedelta64(days, "D")).replace("-", "")
