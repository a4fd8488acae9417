"""Liquidation data for Freqtrade: the strategy's door.

::

    from liquidations import add_liquidations, prepare_liquidations

What is behind a name is imported when it is first used, so that a notebook that only wants the
arithmetic does not load Freqtrade.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from liquidations.imbalance import window_imbalance
    from liquidations.provider import add_liquidations, prepare_liquidations
    from liquidations.signals import (
        capitulation,
        consistency,
        extreme,
        flip,
        fragile,
        high_volume,
        pressure,
        return_to_balance,
        sharp_move,
        shift,
    )

__all__ = [
    "add_liquidations",
    "capitulation",
    "consistency",
    "extreme",
    "flip",
    "fragile",
    "high_volume",
    "prepare_liquidations",
    "pressure",
    "return_to_balance",
    "sharp_move",
    "shift",
    "window_imbalance",
]

_HOME = {
    "add_liquidations": "provider",
    "prepare_liquidations": "provider",
    "window_imbalance": "imbalance",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME.get(name, 'signals')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
