"""Ask an exchange for its contract sizes or vaults, through ccxt, or read a file. Floor 3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from liquidations.archives import MOST_JSON, parse_json
from liquidations.errors import LiquidationsError
from liquidations.exchanges.frames import Contract
from liquidations.exchanges.hyperliquid import MOST_USERS, VAULT
from liquidations.exchanges.okx import contracts
from liquidations.importer import load


def okx_contracts(
    file: Path | None, ccxt_config: Mapping[str, Any] | None = None
) -> dict[str, Contract]:
    """Return OKX's swaps by ``instId``.

    :param file: the exchange's answer to ``/api/v5/public/instruments?instType=SWAP``; None asks
        the exchange
    :param ccxt_config: for the client that asks, for example a proxy
    :raises LiquidationsError: if the file is something else, or the exchange can't be reached.
    """
    if file is not None:
        return _from_file(file)
    import ccxt

    swaps = {"options": {"fetchMarkets": {"types": ["swap"]}}}
    exchange = ccxt.okx(ccxt.Exchange.deep_extend(ccxt_config or {}, swaps))
    try:
        markets = exchange.fetch_markets()
    except ccxt.BaseError as error:
        raise LiquidationsError(
            f"OKX can't be asked for its contract sizes ({type(error).__name__}); try again, or "
            "give them with --markets FILE"
        ) from error
    return contracts([market["info"] for market in markets])


def _from_file(file: Path) -> dict[str, Contract]:
    try:
        answer = parse_json(load(file, MOST_JSON))
    except OSError as error:
        raise LiquidationsError(f"{file} can't be read: {error.strerror}") from error
    except LiquidationsError as error:
        raise LiquidationsError(f"{file}: {error}") from error
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LiquidationsError(
            f'{file}: expected the exchange\'s instruments answer {{"data": [{{"instId": …}}]}}'
        )
    found = contracts(rows)
    if not found:
        raise LiquidationsError(f"{file}: no row with instType SWAP")
    return found


async def hyperliquid_vaults(client: Any) -> list[str]:
    """Ask Hyperliquid which vaults take over liquidated positions.

    :param client: its ccxt client
    :raises LiquidationsError: if the answer is something else.
    :raises ccxt.BaseError: if it can't be reached.
    """
    answer = await client.publicPostInfo({"type": "vaultDetails", "vaultAddress": VAULT})
    try:
        children = [str(address) for address in answer["relationship"]["data"]["childAddresses"]]
    except (KeyError, TypeError) as error:
        raise LiquidationsError(
            f"Hyperliquid's vaultDetails have no childAddresses: {str(answer)[:200]}"
        ) from error
    return [VAULT, *children][:MOST_USERS]
