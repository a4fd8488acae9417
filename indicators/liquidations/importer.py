"""Bring files of the archives into the store: all of them, or none. Floor 3."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from liquidations.archives import Options, Part, archive
from liquidations.candles import format_period, format_time
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import Bars, Floats, Ints
from liquidations.exchanges import EXCHANGES
from liquidations.store import Inserted, Store


#: Asks for the candles of (pair, timeframe): their opens in ms, and their typical prices.
Prices = Callable[[str, str], tuple[Ints, Floats]]


@dataclass(frozen=True, slots=True)
class Imported:
    """Say what one part of a file brought."""

    file: Path
    part: Part
    rows: Inserted


def find_files(paths: Iterable[Path]) -> list[tuple[Path, bool]]:
    """List the files meant by paths, and whether each was named itself.

    A folder means its ``*.json`` files.

    :raises LiquidationsError: if a path does not exist, or a folder has no such file.
    """
    files: list[tuple[Path, bool]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("*.json"))
            if not inside:
                raise LiquidationsError(f"the folder {path} has no .json file")
            files += [(file, False) for file in inside]
        elif path.exists():
            files.append((path, True))
        else:
            raise LiquidationsError(f"there is no file {path}")
    return files


def read_files(
    files: Iterable[tuple[Path, bool]],
    source: str,
    options: Options,
    prices: Prices,
    pairs: Collection[str] = (),
    exchanges: Collection[str] = EXCHANGES,
) -> tuple[list[tuple[Path, Part]], list[Path]]:
    """Read files of one source, with all volumes in USD.

    :param pairs: read only these; none means all
    :param exchanges: read only these
    :return: the parts in the order of the files, and the files of a folder that were passed over
        because they are another answer of the same vendor
    :raises LiquidationsError: on the first file that is not what the source gives.
    """
    module = archive(source)
    parts: list[tuple[Path, Part]] = []
    passed: list[Path] = []
    for file, named in files:
        try:
            parts += [
                (file, _in_usd(part, prices))
                for part in module.read(file.read_bytes(), options)
                if part.exchange in exchanges and (not pairs or part.pair in pairs)
            ]
        except OSError as error:
            raise LiquidationsError(f"{file} can't be read: {error.strerror}") from error
        except OtherAnswer as error:
            if named:
                raise LiquidationsError(f"{file}: {error}") from error
            passed.append(file)
        except LiquidationsError as error:
            raise LiquidationsError(f"{file}: {error}") from error
    if not parts:
        raise LiquidationsError(
            f"no liquidations of {', '.join(pairs) or 'any pair'} on {', '.join(exchanges)} from "
            f"the source {source} in these files"
        )
    return parts, passed


def write_parts(store: Store, parts: Iterable[tuple[Path, Part]]) -> list[Imported]:
    """Write parts in one transaction, and count what was new."""
    with store.write() as writer:
        return [
            Imported(
                file,
                part,
                writer.insert(
                    part.exchange,
                    part.pair,
                    part.source,
                    part.rows,
                    part.coverage,
                    period=part.period,
                ),
            )
            for file, part in parts
        ]


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
