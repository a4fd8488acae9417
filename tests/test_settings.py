"""The config section: a typo or a wrong type must not pass silently into a backtest."""

import pytest

from liquidations.errors import LiquidationsError
from liquidations.settings import Settings, read_ccxt_config, read_settings


def config(**section) -> dict:
    return {"exchange": {"name": "okx"}, "user_data_dir": "user_data", "liquidations": section}


def test_defaults():
    expected = Settings("sqlite:///user_data/liquidations.sqlite", ("okx",), False, 0.9, 1)
    assert read_settings(config()) == expected
    assert read_settings({"exchange": {"name": "okx"}}) == expected
    assert (expected.collect, expected.market, expected.settle) == (True, False, 1.5)
    assert (expected.as_of, expected.simulated) == (True, False)


def test_everything_can_be_set():
    section = {
        "db_url": "postgresql+psycopg://bot@db/liquidations",
        "exchanges": ["bybit", "okx"],
        "inverse": True,
        "min_coverage": 0,
        "min_exchanges": 2,
        "collect": False,
        "settle": 3,
        "as_of": False,
        "simulated": True,
        "ccxt_config": {"okx": {"httpsProxy": "http://proxy:8080"}},
    }
    expected = Settings(
        section["db_url"],
        ("bybit", "okx"),
        True,
        0.0,
        2,
        collect=False,
        settle=3.0,
        as_of=False,
        simulated=True,
    )
    assert read_settings(config(**section)) == expected


@pytest.mark.parametrize(
    ("value", "collect", "market"),
    [(True, True, False), ("market", True, True), (False, False, False)],
)
def test_a_bot_collects_its_pairs_the_market_or_nothing(value, collect, market):
    found = read_settings(config(collect=value))
    assert (found.collect, found.market) == (collect, market)


@pytest.mark.parametrize("settle", [0.5, 1, 30])
def test_how_long_to_wait_for_the_exchanges(settle):
    assert read_settings(config(settle=settle)).settle == settle


def test_a_client_gets_the_bots_own_settings_and_those_of_the_section():
    given = config(
        ccxt_config={
            "okx": {"options": {"a": 2}, "secret": "s"},
            "bybit": {"httpsProxy": "http://b"},
        }
    )
    given["exchange"] |= {
        "ccxt_config": {"httpsProxy": "http://o", "options": {"a": 1, "b": 1}, "apiKey": "k"},
        "ccxt_async_config": {"timeout": 5, "options": {"c": 1}, "password": "p"},
    }
    before = repr(given)
    # The section wins, and keys of any kind stay where they are.
    expected = {"httpsProxy": "http://o", "timeout": 5, "options": {"a": 2, "b": 1, "c": 1}}
    assert read_ccxt_config(given, "okx") == expected
    assert read_ccxt_config(given, "bybit") == {"httpsProxy": "http://b"}  # another exchange's
    assert read_ccxt_config(given, "binance") == {}
    assert repr(given) == before
    assert read_ccxt_config({"exchange": {"name": "okx", "ccxt_config": None}}, "okx") == {}


def test_all_exchanges_or_one_by_name():
    everyone = ("binance", "bybit", "okx", "hyperliquid")
    assert read_settings(config(exchanges="all", min_exchanges=4)).exchanges == everyone
    assert read_settings(config(exchanges="bybit")).exchanges == ("bybit",)


def test_the_fingerprint_of_the_program_is_no_mistake():
    assert read_settings(config(fingerprint="0.1.0 abc")).exchanges == ("okx",)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("min_covrage", "min_coverage"), ("exchange", "exchanges"), ("dburl", "db_url")],
)
def test_an_unknown_key_is_named_with_what_was_meant(key, meant):
    with pytest.raises(LiquidationsError) as caught:
        read_settings(config(**{key: 1}))
    assert f'unknown key "{key}"' in str(caught.value)
    assert f'did you mean "{meant}"?' in str(caught.value)


def test_an_unknown_key_that_resembles_nothing_is_named_with_what_is_allowed():
    with pytest.raises(LiquidationsError) as caught:
        read_settings(config(zzz=1))
    assert "did you mean" not in str(caught.value)
    assert "db_url, exchanges, inverse, min_coverage, min_exchanges, collect" in str(caught.value)
    assert "fingerprint" not in str(caught.value)


@pytest.mark.parametrize(
    ("exchanges", "message"),
    [
        (["binanec"], "unknown exchange 'binanec'; did you mean \"binance\"?"),
        ("kraken", "unknown exchange 'kraken'"),
        (["okx", "All"], "unknown exchange 'All'"),
        ([5], "unknown exchange 5"),
    ],
)
def test_an_unknown_exchange_is_named_with_those_known(exchanges, message):
    with pytest.raises(LiquidationsError) as caught:
        read_settings(config(exchanges=exchanges))
    assert message in str(caught.value)
    assert "binance, bybit, okx, hyperliquid" in str(caught.value)


def test_a_bot_on_an_exchange_without_a_feed_is_told_what_to_set():
    with pytest.raises(LiquidationsError, match=r"'kraken' has no known feed.*\"exchanges\""):
        read_settings({"exchange": {"name": "kraken"}})
    with pytest.raises(LiquidationsError, match="no exchange is named"):
        read_settings({})
    chosen = {"exchange": {"name": "kraken"}, "liquidations": {"exchanges": ["bybit"]}}
    assert read_settings(chosen).exchanges == ("bybit",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("db_url", 5),
        ("db_url", "liquidations.sqlite"),
        ("db_url", None),
        ("inverse", 1),
        ("inverse", "true"),
        ("exchanges", []),
        ("exchanges", 5),
        ("exchanges", {"okx": True}),
        ("exchanges", ["okx", "okx"]),
        ("min_coverage", "0.9"),
        ("min_coverage", True),
        ("min_coverage", None),
        ("min_coverage", -0.01),
        ("min_coverage", 1.01),
        ("min_coverage", 90),
        ("min_coverage", float("nan")),
        ("min_exchanges", 1.0),
        ("min_exchanges", True),
        ("min_exchanges", 0),
        ("min_exchanges", "1"),
        ("collect", "pairs"),
        ("collect", None),
        ("collect", 1),
        ("settle", 0.4),
        ("settle", 31),
        ("settle", True),
        ("settle", "2"),
        ("settle", float("nan")),
        ("as_of", 0),
        ("as_of", "false"),
        ("simulated", None),
    ],
)
def test_a_wrong_type_or_value_is_named_with_its_key(key, value):
    with pytest.raises(LiquidationsError) as caught:
        read_settings(config(**{key: value}))
    assert f'"liquidations", "{key}": got {value!r}, must be' in str(caught.value)


def test_more_exchanges_can_not_be_demanded_than_are_chosen():
    with pytest.raises(LiquidationsError, match=r"min_exchanges.*got 3.*from 1 to 2"):
        read_settings(config(exchanges=["okx", "bybit"], min_exchanges=3))


@pytest.mark.parametrize("section", [[], "okx", 5, None])
def test_a_section_that_is_no_object_is_refused(section):
    with pytest.raises(LiquidationsError, match=r'"liquidations": got .* must be an object'):
        read_settings({"exchange": {"name": "okx"}, "liquidations": section})


def test_the_configuration_is_not_changed():
    given = config(exchanges=["okx"], min_coverage=0.5)
    read_settings(given)
    assert given == config(exchanges=["okx"], min_coverage=0.5)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([], "'list'"),
        ({"kraken": {}}, "'kraken'"),
        ({"okx": "proxy"}, "'okx'"),
        ({"apiKey": "SECRET"}, "'apiKey'"),
        ({"binnance": {"apiKey": "SECRET"}}, "'binnance'"),
    ],
)
def test_a_wrong_ccxt_config_is_named_and_its_content_is_not(value, named):
    with pytest.raises(LiquidationsError, match=f'"ccxt_config": got {named}, must be') as caught:
        read_settings(config(ccxt_config=value))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg:/u:SECRET@host/db", "x:/u:SE:CR@ET@host"])
def test_a_wrong_url_does_not_tell_its_password(url):
    with pytest.raises(LiquidationsError, match=r"u:\*\*\*@host") as caught:
        read_settings(config(db_url=url))
    assert "ET" not in str(caught.value)
