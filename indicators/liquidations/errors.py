"""The one exception that users see: what was received, what is allowed, what to do next."""

from __future__ import annotations

import math


class LiquidationsError(Exception):
    """Say in one line what is wrong with the input or the store, and what to do about it.

    The command line prints the message and exits with 2; inside Freqtrade the provider turns it
    into Freqtrade's ``OperationalException``, which ends a backtest in one clean line.
    """


class OtherAnswer(LiquidationsError):
    """Say that a file is another kind of answer of the same vendor.

    A file that was named is an error then; one that was found in a folder is passed over.
    """


def require(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse an argument outside ``[least, most]``, naming it; NaN is always outside."""
    if not least <= value <= most:
        limit = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise LiquidationsError(f"{name} must be {limit}, got {value!r}")
