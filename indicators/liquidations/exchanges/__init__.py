"""One module per exchange: raw message or row → events. Pure, no socket, clock or file. Floor 1."""

#: The exchanges whose liquidations can be stored and read, by their ccxt ids.
EXCHANGES = ("binance", "bybit", "okx", "hyperliquid")

#: Why what an exchange publishes is less than what it liquidated; the sources stand in
#: the exchanges' own documents. Bybit publishes everything since 2025-02-26.
LOWER_BOUND = {
    "binance": "a sample, one order per symbol and second since 2021-04-27",
    "bybit": "a sample, one order per symbol and second, until 2025-02-25",
    "okx": "not the total, as its own documentation says",
    "hyperliquid": "only what its vaults took part in, unless it comes from the full node's files",
}
