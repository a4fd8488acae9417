"""Which contracts are one asset: a wrong match adds strangers, a missed one loses data."""

import pytest

from liquidations.errors import LiquidationsError
from liquidations.pairs import base_of, is_inverse, match


@pytest.mark.parametrize(
    ("pair", "base"),
    [
        ("BTC/USDT:USDT", "BTC"),
        ("BTC/USD:BTC", "BTC"),
        ("1000SHIB/USDT:USDT", "SHIB"),
        ("10000SATS/USDT:USDT", "SATS"),
        ("1000000MOG/USDT:USDT", "MOG"),
        ("1MBABYDOGE/USDT:USDT", "BABYDOGE"),
        ("kSHIB/USDC:USDC", "SHIB"),
        # Names that only look like a multiplier.
        ("1INCH/USDT:USDT", "1INCH"),
        ("KAVA/USDT:USDT", "KAVA"),
        ("100X/USDT:USDT", "100X"),
    ],
)
def test_base(pair, base):
    assert base_of(pair) == base


@pytest.mark.parametrize(
    "pair", ["BTC/USDT", "BTCUSDT", "BTC/USDT:USDT-240628", "BTC/USD:BTC-240927", "", "BTC/USDT:"]
)
def test_what_is_no_perpetual_is_refused_with_an_example(pair):
    with pytest.raises(LiquidationsError, match=r"is not a perpetual.*BTC/USDT:USDT"):
        base_of(pair)


def test_inverse_contracts_are_settled_in_their_base():
    assert [is_inverse(f"ETH/{rest}") for rest in ("USD:ETH", "USDC:USDC")] == [True, False]


LINEAR, USDC, INVERSE = "BTC/USDT:USDT", "BTC/USDC:USDC", "BTC/USD:BTC"
OTHERS = ["BTCDOM/USDT:USDT", "ETH/USDT:USDT", "WBTC/USDT:USDT"]


@pytest.mark.parametrize(
    ("pair", "stored", "inverse", "expected"),
    [
        (LINEAR, [USDC, LINEAR, INVERSE, *OTHERS], False, [LINEAR]),
        (LINEAR, [INVERSE, USDC, *OTHERS], False, [USDC]),
        (USDC, [LINEAR, USDC], False, [USDC]),
        ("BTC/FDUSD:FDUSD", [USDC, LINEAR], False, [LINEAR]),
        (LINEAR, ["BTC/USDE:USDE"], False, ["BTC/USDE:USDE"]),
        (LINEAR, [INVERSE], False, []),
        (LINEAR, OTHERS, False, []),
        (LINEAR, [], True, []),
        (LINEAR, [INVERSE, USDC, LINEAR], True, [LINEAR, INVERSE]),
        (LINEAR, [INVERSE], True, [INVERSE]),
        # Who trades the inverse contract reads it.
        (INVERSE, [LINEAR, INVERSE], False, [INVERSE]),
        (INVERSE, [LINEAR, INVERSE], True, [LINEAR, INVERSE]),
        (INVERSE, [LINEAR], False, [LINEAR]),
        ("SHIB/USDT:USDT", ["1000SHIB/USDT:USDT"], False, ["1000SHIB/USDT:USDT"]),
        ("1000SHIB/USDT:USDT", ["kSHIB/USDC:USDC"], False, ["kSHIB/USDC:USDC"]),
    ],
)
def test_match(pair, stored, inverse, expected):
    assert match(pair, stored, inverse=inverse) == expected
    # The order in which a store lists them does not matter.
    assert match(pair, stored[::-1], inverse=inverse) == expected


def test_a_multiplier_behind_the_name_is_one_too():
    # Bybit's SHIB1000USDT; a digit that belongs to the name stays.
    assert base_of("SHIB1000/USDT:USDT") == "SHIB"
    assert base_of("1INCH/USDT:USDT") == "1INCH"
    assert base_of("C98/USDT:USDT") == "C98"
