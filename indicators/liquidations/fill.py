"""What an exchange's REST interface still has of the time before a feed began. Floor 3.

Only OKX answers such a question without a key: about the last 24 hours, 100 orders a page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from liquidations.archives.okx import BEHIND, PATH, next_after, query, read_page
from liquidations.errors import LiquidationsError
from liquidations.event import Events
from liquidations.exchanges import okx
from liquidations.exchanges.frames import Contract


__all__ = ["BEHIND", "FILLED", "MOST_PAGES", "REACH", "fill"]

#: The exchanges that can be asked.
FILLED = ("okx",)

#: So far back (ms) an answer surely goes; "about a day" was seen.
REACH = 20 * 3_600_000

#: Pages that are asked for at most for one contract; a day of a crash has some hundred.
MOST_PAGES = 400


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
    after: int | None = None
    pages: list[Events] = []
    for _ in range(MOST_PAGES):
        # ccxt has no method for this path, and drops the query if "public" is not a list.
        answer = await client.request(PATH, ["public"], "GET", query(symbol, after))
        page = read_page(answer, symbol, after)
        pages.append(okx.orders(page.rows, contract))
        after = next_after(page, since, after)
        if after is None:
            break
    else:
        raise LiquidationsError(f"OKX has more than {MOST_PAGES} pages of {symbol}; not filled in")
    whole = Events.concat(pages)
    whole = whole.take(np.lexsort((whole.key, whole.timestamp)))
    same = np.zeros(len(whole), dtype=bool)
    same[1:] = (np.diff(whole.timestamp) == 0) & (np.diff(whole.key) == 0)
    return whole.take(~same)
