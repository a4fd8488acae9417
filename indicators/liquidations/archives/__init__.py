"""One module per source of history: file or answer → events or bars. Pure. Floor 1.

A module has ``read(data, options)``, which turns the bytes of one file into parts. One more source
is one more module and one line in :data:`ARCHIVES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Bars, Events, Ints
from liquidations.exchanges.frames import Contract


#: Name of ``--source`` → its module.
ARCHIVES = {
    "coinalyze": "liquidations.archives.coinalyze",
    "okx": "liquidations.archives.okx",
}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Hold what one file says of one contract, ready for the store.

    ``rows`` are events, or bars of ``period`` ms whose volumes are in ``unit`` (base or usd);
    ``coverage`` says where the file would have shown a liquidation. ``note`` is for the user.
    """

    exchange: str
    pair: str
    source: str
    rows: Events | Bars
    coverage: Ints
    period: int = MINUTE
    unit: str = "usd"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """Hold what a file does not say itself.

    :param unit: of the volumes, ``base`` or ``usd``
    :param period: of the rows in ms; None lets the module find it
    :param contracts: asks for the sizes of an exchange's contracts, by the exchange's symbol
    """

    unit: str | None = None
    period: int | None = None
    contracts: Callable[[], Mapping[str, Contract]] = dict


class Archive(Protocol):
    """Describe a module of this package."""

    def read(self, data: bytes, options: Options) -> list[Part]:
        """Read the bytes of one file."""


def archive(source: str) -> Archive:
    """Return the module of a source.

    :raises LiquidationsError: if there is none.
    """
    if source not in ARCHIVES:
        raise LiquidationsError(f"unknown source {source!r}; known: {', '.join(ARCHIVES)}")
    return cast(Archive, import_module(ARCHIVES[source]))


def parse_json(data: bytes) -> Any:
    """Parse JSON.

    :raises LiquidationsError: if it is none, for example because it was cut off.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise LiquidationsError(
            f"this is not JSON, or it was cut off ({error}); get the file again"
        ) from error
