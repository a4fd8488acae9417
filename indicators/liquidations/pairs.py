"""Tell which contracts stand for the same base asset. Floor 0, no I/O.

A strategy on ``BTC/USDT:USDT`` reads Bybit's and OKX's linear contracts and Hyperliquid's
``BTC/USDC:USDC``, and where asked the inverse ``BTC/USD:BTC``: over exchanges a pair stands for
its base. ``1000SHIB``, ``kSHIB`` and ``SHIB`` are one base; USD values make the multiplier
irrelevant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from liquidations.errors import LiquidationsError


_PAIR = re.compile(r"(?P<base>[^/:\s]+)/(?P<quote>[^/:\s]+):(?P<settle>[^/:\s-]+)")
# Before the name, or after it as Bybit does with SHIB1000.
_MULTIPLIER = re.compile(r"^(?:10{3,}|1M|k)(?=[A-Z])|(?<=[A-Z])10{3,}$")

# Hyperliquid's contracts of 1,000 coins, whose small k ccxt writes large: a K alone says nothing.
_KILO = {f"K{name}" for name in ("BONK", "DOGS", "FLOKI", "LUNC", "NEIRO", "PEPE", "SHIB")}

#: Among several linear contracts of one exchange the first of these quotes stands for the base.
QUOTES = ("USDT", "USDC", "USD")


def _parts(pair: str) -> re.Match[str]:
    match = _PAIR.fullmatch(pair)
    if match is None:
        raise LiquidationsError(
            f"{pair!r} is not a perpetual; write it as Freqtrade does, for example BTC/USDT:USDT"
        )
    return match


def is_pair(text: str) -> bool:
    """Tell whether a text is a perpetual's name, and no pattern of names.

    >>> is_pair("BTC/USDT:USDT"), is_pair(".*/USDT:USDT")
    (True, False)
    """
    return _PAIR.fullmatch(text) is not None and not set(text) & set("*+?[](){}|^$\\.")


def base_of(pair: str) -> str:
    """Return the base asset of a pair without its multiplier.

    >>> base_of("BTC/USDT:USDT"), base_of("1000SHIB/USDT:USDT"), base_of("KPEPE/USDC:USDC")
    ('BTC', 'SHIB', 'PEPE')

    :raises LiquidationsError: if the pair is not written as a perpetual.
    """
    base = _parts(pair)["base"]
    return base[1:] if base in _KILO else _MULTIPLIER.sub("", base)


def is_inverse(pair: str) -> bool:
    """Tell whether a contract is settled in its base asset.

    >>> is_inverse("BTC/USD:BTC"), is_inverse("BTC/USDT:USDT")
    (True, False)
    """
    parts = _parts(pair)
    return parts["base"] == parts["settle"]


def match(pair: str, stored: Iterable[str], *, inverse: bool = False) -> list[str]:
    """Choose the contracts of one exchange that stand for the pair's base.

    ``stored`` are that exchange's pairs in the store. The pair itself is taken if it is there,
    else the linear contract of the same base that is quoted in USDT, USDC or USD, in this order;
    with ``inverse`` also its inverse contracts.

    >>> match("BTC/USDT:USDT", ["BTC/USD:BTC", "BTC/USDC:USDC", "ETH/USDT:USDT"])
    ['BTC/USDC:USDC']
    """
    base = base_of(pair)
    same = sorted(name for name in set(stored) if base_of(name) == base)
    linear = [name for name in same if not is_inverse(name)]
    ranks = {quote: rank for rank, quote in enumerate(QUOTES)}
    linear.sort(key=lambda name: (name != pair, ranks.get(_parts(name)["quote"], len(ranks))))
    chosen = linear[:1]
    if inverse or is_inverse(pair):
        chosen += [name for name in same if is_inverse(name)]
    return [pair] if is_inverse(pair) and pair in chosen and not inverse else chosen
