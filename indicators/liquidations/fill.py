"""What an exchange's REST interface still has of the time before a feed began. Floor 3.

Only OKX answers such a question without a key: about the last 24 hours, 100 orders a page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from liquidations.errors import LiquidationsError
from liquidations.event import Events
from liquidations.exchanges import okx
from liquidations.exchanges.frames import Contract


#: The exchanges that can be asked.
FILLED = ("okx",)

#: An order is in the answer so long (ms) after its time; not documented.
BEHIND = 30_000

#: So far back (ms) an answer surely goes; "about a day" was seen.
REACH = 20 * 3_600_000

#: Pages that are asked for at most for one contract; a day of a crash has some hundred.
MOST_PAGES = 400

#: Orders of a full page.
PAGE = 100

_PATH = "public/liquidation-orders"


async def fill(
    exchange: str,
    client: Any,
    contracts: Mapping[str, Contract],
    pairs: Collection[str],
    since: int = 0,
) -> dict[str, Events]:
    """Ask for the liquidations that there still are of some pairs, from ``since`` (ms) on.

    :param client: the exchange's ccxt client
    :return: by pair, in order of time; nothing for exchanges that can't be asked, or if no pair
        has any order at all, which is no answer. One is complete from its oldest order on: how far
        it goes back beyond that is not documented
    :raises LiquidationsError: if an answer is not what the exchange gives
    :raises ccxt.BaseError: if the exchange can't be reached
    """
    if exchange not in FILLED:
        return {}
    found = {
        contract.pair: await _okx(client, symbol, contract, since)
        for symbol, contract in contracts.items()
        if contract.pair in pairs
    }
    if not any(len(events) for events in found.values()):
        return {}
    return {pair: events.take(events.timestamp >= since) for pair, events in found.items()}


async def _okx(client: Any, symbol: str, contract: Contract, since: int) -> Events:
    """Page back through the answers, newest first; pages may overlap."""
    family = symbol.removesuffix("-SWAP")
    query = {"instType": "SWAP", "uly": family, "state": "filled", "limit": str(PAGE)}
    pages: list[Events] = []
    for _ in range(MOST_PAGES):
        # ccxt has no method for this path, and drops the query if "public" is not a list.
        rows = _rows(await client.request(_PATH, ["public"], "GET", dict(query)), symbol)
        pages.append(okx.orders(rows, contract))
        oldest = min((int(row["ts"]) for row in rows), default=0)
        # Orders of the same millisecond may be on both sides of the page's edge.
        after = str(oldest + 1)
        if len(rows) < PAGE or oldest < since or after == query.get("after"):
            break
        query["after"] = after
    else:
        raise LiquidationsError(f"OKX has more than {MOST_PAGES} pages of {symbol}; not filled in")
    whole = Events.concat(pages)
    whole = whole.take(np.lexsort((whole.key, whole.timestamp)))
    same = np.zeros(len(whole), dtype=bool)
    same[1:] = (np.diff(whole.timestamp) == 0) & (np.diff(whole.key) == 0)
    return whole.take(~same)


def _rows(answer: Any, symbol: str) -> list[Any]:
    try:
        groups = [group for group in answer["data"] if group.get("instId") == symbol]
        return [row for group in groups for row in group["details"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise LiquidationsError(
            f"OKX answered {str(answer)[:200]!r} to {_PATH}; expected data with details"
        ) from error
