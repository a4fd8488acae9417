"""OKX swaps: what a liquidation order says.

Channel ``liquidation-orders`` and REST ``/api/v5/public/liquidation-orders`` (about the last 24 h,
100 rows a page) give the same fields:

- ``side`` is the side of the ORDER that closed the position: ``sell`` closed a LONG. ``posSide``
  says ``net`` for accounts in net mode and is absent from the REST rows, so it is not read.
- ``sz`` is in contracts: linear amount = sz × ctVal × ctMult in base units; for an inverse swap
  the same product is in USD.
- ``bkPx`` is the bankruptcy price, in quote per base.
- ``ts`` is in ms.

Completeness: "doesn't represent the total number of liquidations" (OKX's documentation of the
channel), so what is stored is a lower bound. Contract sizes: ``/api/v5/public/instruments``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from liquidations.errors import LiquidationsError
from liquidations.event import LONG, SHORT, Events, make_events


_SIDE = {"sell": LONG, "buy": SHORT}


@dataclass(frozen=True, slots=True)
class Contract:
    """Describe a perpetual: its pair, what one contract holds, and whether that is USD."""

    pair: str
    size: float
    inverse: bool


def contracts(instruments: Sequence[Mapping[str, Any]]) -> dict[str, Contract]:
    """Read the rows of the exchange's instruments answer into contracts by ``instId``.

    :raises LiquidationsError: if a swap's row lacks what the size of a contract is made of.
    """
    found = {}
    for row in instruments:
        if row.get("instType") != "SWAP":
            continue
        try:
            base, quote = row["uly"].split("-")
            settle, name = str(row["settleCcy"]), str(row["instId"])
            inverse = {"linear": False, "inverse": True}[row["ctType"]]
            size = float(row["ctVal"]) * float(row["ctMult"])
            if not (base and quote and settle and name and 0 < size < float("inf")):
                raise ValueError("a field is empty or zero")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LiquidationsError(
                f"the instrument {row.get('instId')!r} lacks a readable instId, uly, settleCcy, "
                "ctType, ctVal or ctMult; give the data of OKX's "
                "/api/v5/public/instruments?instType=SWAP"
            ) from error
        found[name] = Contract(f"{base}/{quote}:{settle}", size, inverse)
    return found


def orders(details: Sequence[Mapping[str, Any]], contract: Contract) -> Events:
    """Read liquidation orders of one contract into events in order of time.

    :raises LiquidationsError: on a row that is no liquidation order.
    """
    try:
        time = [int(row["ts"]) for row in details]
        side = [_SIDE[row["side"]] for row in details]
        price = np.array([float(row["bkPx"]) for row in details])
        contracts_ = np.array([float(row["sz"]) for row in details])
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise LiquidationsError(
            f"not a liquidation order of OKX ({error!r}): expected ts, side (buy or sell), bkPx, sz"
        ) from error
    size = contracts_ * contract.size
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # refused just below
        amount, value = (size / price, size) if contract.inverse else (size, size * price)
    return make_events(time, side, price, amount, value)
