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
    from liquidations.context import add_context, alert, context_pairs
    from liquidations.imbalance import (
        effective_count,
        exchange_imbalance,
        leave_one_out,
        window_imbalance,
    )
    from liquidations.levels import liquidation_levels
    from liquidations.positioning import (
        flush,
        intensity,
        isolated,
        open_interest_change,
        reported_share,
    )
    from liquidations.sampling import corrected_imbalance, saturated, saturation
    from liquidations.signals import (
        capitulation,
        consistency,
        extreme,
        flip,
        fragile,
        high_volume,
        pressure,
        quiet,
        return_to_balance,
        sharp_move,
        shift,
        volatility_regime,
    )
    from liquidations.significance import (
        gated_by_volume,
        gated_extreme,
        robust_extreme,
        shrunk_imbalance,
        significant,
        significant_by_count,
        wilson,
    )
    from liquidations.strategy import (
        add_corrected,
        add_liquidations,
        add_thresholds,
        prepare_liquidations,
    )

__all__ = [
    "add_context",
    "add_corrected",
    "add_liquidations",
    "add_thresholds",
    "alert",
    "capitulation",
    "consistency",
    "context_pairs",
    "corrected_imbalance",
    "effective_count",
    "exchange_imbalance",
    "extreme",
    "flip",
    "flush",
    "fragile",
    "gated_by_volume",
    "gated_extreme",
    "high_volume",
    "intensity",
    "isolated",
    "leave_one_out",
    "liquidation_levels",
    "open_interest_change",
    "prepare_liquidations",
    "pressure",
    "quiet",
    "reported_share",
    "return_to_balance",
    "robust_extreme",
    "saturated",
    "saturation",
    "sharp_move",
    "shift",
    "shrunk_imbalance",
    "significant",
    "significant_by_count",
    "volatility_regime",
    "wilson",
    "window_imbalance",
]

_HOMES = {
    "strategy": ("add_corrected", "add_liquidations", "add_thresholds", "prepare_liquidations"),
    "context": ("add_context", "alert", "context_pairs"),
    "imbalance": ("effective_count", "exchange_imbalance", "leave_one_out", "window_imbalance"),
    "signals": (
        "capitulation",
        "consistency",
        "extreme",
        "flip",
        "fragile",
        "high_volume",
        "pressure",
        "quiet",
        "return_to_balance",
        "sharp_move",
        "shift",
        "volatility_regime",
    ),
    "significance": (
        "gated_by_volume",
        "gated_extreme",
        "robust_extreme",
        "shrunk_imbalance",
        "significant",
        "significant_by_count",
        "wilson",
    ),
    "positioning": ("flush", "intensity", "isolated", "open_interest_change", "reported_share"),
    "levels": ("liquidation_levels",),
    "sampling": ("corrected_imbalance", "saturated", "saturation"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
