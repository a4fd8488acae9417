"""The one exception that users see: what was received, what is allowed, what to do next."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real


class LiquidationsError(Exception):
    """Say in one line what is wrong with the input or the store, and what to do about it.

    The command line prints the message and exits with 2; inside Freqtrade the provider turns it
    into Freqtrade's ``OperationalException``, which ends a backtest in one clean line. A reading's
    own ends in Freqtrade's traceback, as any mistake in a strategy does; its last line says it.
    Its text may quote a file or an answer, so what would steer a terminal or a log is escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class OtherAnswer(LiquidationsError):
    """Say that a file is another kind of answer of the same vendor.

    A file that was named is an error then; one that was found in a folder is passed over.
    """


def printable(text: str) -> str:
    r"""Write a text in one line of printable characters, all others as their escapes.

    >>> print(printable("BTC\x1b[31m\nETH ÷ 2"))
    BTC\x1b[31m ETH ÷ 2
    """
    if text.isprintable():
        return text
    text = re.sub(r"[\n\r\t]", " ", text)
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def mask(url: str) -> str:
    """Hide the passwords in what may be a database URL, however it is mistyped.

    >>> mask("postgresql+psycopg://bot:secret@host:54x/db?sslpassword=secret&sslmode=require")
    'postgresql+psycopg://bot:***@host:54x/db?sslpassword=***&sslmode=require'
    """
    url = re.sub(r"(/[^:/@]*:).*@", r"\1***@", url)
    return re.sub(r"(?i)([^?&=]*(?:pass|secret|token)[^?&=]*=)[^&]*", r"\1***", url)


def require(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse an argument that is no number in ``[least, most]``, naming it; NaN is none."""
    if not isinstance(value, Real) or not least <= value <= most:
        limit = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise LiquidationsError(f"{name} must be {limit}, got {value!r}")


def require_whole(name: str, value: int, least: int, most: int = 100_000) -> None:
    """Refuse an argument that is no whole number in ``[least, most]``, such as a window."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:
        raise LiquidationsError(
            f"{name} must be a whole number from {least} to {most}, got {value!r}"
        )
