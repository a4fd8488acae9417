"""What the answers of vendors have in common, above all of those who sum over periods. Floor 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from liquidations.errors import LiquidationsError
from liquidations.event import EARLIEST, LATEST, Bars, Floats, Ints
from liquidations.exchanges.frames import MALFORMED


#: A period counts as over so long (ms) after its end: our clock may be ahead of the vendor's, and
#: the vendor takes some time to add up what the exchanges publish.
SETTLED = 120_000

#: What happens by chance once in so many answers does not happen by chance.
_CHANCE = 1e6

# Coins of the cheapest perpetuals are counted in 10**15.
_MOST = 1e24


class TooMany(LiquidationsError):
    """Say that a vendor answered, with status 200, that it was asked too often."""


class KeyRefused(LiquidationsError):
    """Say that a vendor answered, with status 200, that the user's key is no good."""


def read_table(
    rows: Sequence[Any], names: Sequence[str], expected: str, *, seconds: bool = False
) -> tuple[Ints, list[Floats]]:
    """Read rows of a time and some volumes into columns, in order of time.

    :param rows: at least one
    :param names: of the fields: the time's, then those of the volumes, numbers or text
    :param expected: what the answer should be, for the error
    :param seconds: the times are in seconds, not in ms
    :return: ms UTC, and the volumes, none of them negative
    :raises LiquidationsError: on a field that can't be read, or a time that stands twice.
    """
    own, *others = names
    try:
        time = np.array([int(row[own]) for row in rows], dtype=np.int64)
        volumes = [np.array([float(row[name]) for row in rows]) for name in others]
    except MALFORMED as error:
        raise LiquidationsError(
            f"a row lacks a readable {', '.join(names[:-1])} or {names[-1]} ({error!r}); "
            f"the first is {rows[0]!r}. {expected}"
        ) from error
    scale = 1000 if seconds else 1
    if np.any((time < EARLIEST // scale) | (time > LATEST // scale)):
        unit = "seconds" if seconds else "milliseconds"
        raise LiquidationsError(f"{own} must be in {unit} UTC between 2009 and 2100, got {time[0]}")
    if not all(np.all((volume >= 0) & (volume < _MOST)) for volume in volumes):
        raise LiquidationsError(
            f"a volume ({' or '.join(others)}) is negative, not a number, or beyond all reason"
        )
    order = np.argsort(time, kind="stable")
    time = time[order] * scale
    if np.any(np.diff(time) == 0):
        raise LiquidationsError("a period stands twice in one history; fetch the answer again")
    return time, [volume[order] for volume in volumes]


def is_coarser(time: Ints, period: int, periods: Sequence[int]) -> bool:
    """Tell whether rows are of a longer period than that which was asked for.

    They are if all stand on it, and are too many for chance: ten of 4h, or twenty of 2h, where 1h
    was asked for.

    :param time: of the rows, on full periods
    :param periods: that the vendor has

    >>> hours = np.arange(12) * 3_600_000
    >>> is_coarser(hours * 24, 3_600_000, [86_400_000]), is_coarser(hours, 3_600_000, [86_400_000])
    (True, False)
    """
    return any(
        longer % period == 0
        and float(longer // period) ** min(len(time), 50) > _CHANCE
        and not np.any(time % longer)
        for longer in periods
    )


def over_until(time: Ints, period: int, made: int | None) -> int:
    """Tell up to when (ms) all periods were over when the answer was made.

    Where nobody knows when that was, the last period of the answer may have been running.
    """
    return int(time[-1]) if made is None else (made - SETTLED) // period * period


def to_bars(time: Ints, long: Floats, short: Floats) -> Bars:
    """Make bars of a vendor who tells neither counts nor squares."""
    unknown = np.full(len(time), np.nan)
    return Bars(time, long, short, unknown, unknown, unknown, unknown)
