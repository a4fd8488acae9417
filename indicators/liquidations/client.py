"""A ccxt.pro client that hands over raw messages. Floor 3.

ccxt dials, subscribes, pings and backs off. What it makes of liquidations is not usable (it loses
bursts, drops sizes and passes sides on raw), and a frame that is no JSON ends its loop without a
word, so each message is taken where ccxt has not decoded it yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ccxt.pro


#: What each exchange's market call is narrowed to; it saves most of the start.
_MARKETS: dict[str, dict[str, Any]] = {
    "binance": {"fetchMarkets": {"types": ["linear"]}},
    "bybit": {"fetchMarkets": {"types": ["linear", "inverse"]}},
    "okx": {"fetchMarkets": {"types": ["swap"]}},
    "hyperliquid": {"fetchMarkets": {"types": ["swap"]}},
}

#: Takes the URL of the connection and the raw message.
OnText = Callable[[Any, str | bytes], None]


class _Raw:
    """Replace what ccxt does with a message; mixed into its class of an exchange."""

    on_text: OnText

    def client(self, url: str) -> Any:
        """Return ccxt's connection to a URL, hooked."""
        made = super().client(url)  # type: ignore[misc]
        made.handle_text_or_binary_message = partial(self._received, made)
        return made

    def _received(self, connection: Any, data: str | bytes) -> None:
        # Whatever arrives shows that the peer is alive.
        connection.lastPong = self.milliseconds()  # type: ignore[attr-defined]
        self.on_text(connection, data)


def raw_client(
    exchange: str, config: Mapping[str, Any], on_text: OnText, *, inverse: bool = False
) -> Any:
    """Make a client of an exchange that gives each raw message to ``on_text``.

    :param exchange: ccxt id
    :param config: for ccxt, such as a proxy; see ``settings.read_ccxt_config``
    :param on_text: is given ccxt's connection and the text (or bytes); it must not raise
    :param inverse: also load the markets of inverse contracts
    """
    kind = type(f"Raw{exchange}", (_Raw, getattr(ccxt.pro, exchange)), {})
    markets = _MARKETS[exchange]
    if inverse and exchange == "binance":
        markets = {"fetchMarkets": {"types": ["linear", "inverse"]}}
    options = {"options": {**markets, "fetchCurrencies": False}, "enableRateLimit": True}
    client = kind(ccxt.Exchange.deep_extend(options, dict(config)))
    client.has["fetchCurrencies"] = False  # a call for each coin, of no use here
    client.on_text = on_text
    return client
