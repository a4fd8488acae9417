"""Commands that only ask the store read plain configuration files as Freqtrade does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from freqtrade.configuration import TimeRange
from freqtrade.exceptions import FreqtradeException

from liquidations.cli import LiquidationArguments
from liquidations.commands import common
from liquidations.commands.common import load_config, load_plain_config, parse_timerange
from liquidations.errors import LiquidationsError
from liquidations.settings import read_settings


BASE = {
    "exchange": {"name": "okx", "pair_whitelist": ["BTC/USDT:USDT"]},
    "trading_mode": "futures",
    "margin_mode": "isolated",
    "stake_currency": "USDT",
    "timeframe": "15m",
    "liquidations": {"exchanges": ["bybit", "okx"], "min_coverage": 0.5},
}
COMMENTED = """{
    // a comment
    "exchange": {"name": "binance", /* another */ "pair_whitelist": [],},
    "liquidations": {"min_coverage": 0.25, "db_url": "sqlite:///own.sqlite"},
}"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user_data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "base.json").write_text(json.dumps(BASE))
    (tmp_path / "commented.json").write_text(COMMENTED)
    (tmp_path / "moved.json").write_text(json.dumps({**BASE, "user_data_dir": "elsewhere"}))
    (tmp_path / "names.json").write_text(json.dumps({"add_config_files": ["base.json"]}))
    return tmp_path


def args(*words: str) -> dict:
    return LiquidationArguments(["show", "-p", "BTC/USDT:USDT", *words]).get_parsed_arg()


def used(config: dict) -> tuple:
    settings = read_settings(config)
    return settings, config.get("timeframe"), Path(config["user_data_dir"])


PLAIN = [
    ("-c", "base.json"),
    ("-c", "commented.json"),
    ("-c", "base.json", "-c", "commented.json"),
    ("-c", "commented.json", "-c", "base.json"),
    ("-c", "moved.json"),
    ("-c", "moved.json", "--userdir", "user_data"),
    ("-c", "base.json", "--db-url", "sqlite:///given.sqlite"),
]


@pytest.mark.parametrize("words", PLAIN)
def test_plain_files_are_read_as_freqtrade_reads_them(words, monkeypatch):
    expected = used(load_config(args(*words)))
    monkeypatch.setattr(common, "load_config", lambda _: pytest.fail("left to Freqtrade"))
    assert used(load_plain_config(args(*words))) == expected


def test_what_is_not_plain_is_left_to_freqtrade(monkeypatch):
    assert used(load_plain_config(args("-c", "names.json")))[0].exchanges == ("bybit", "okx")
    monkeypatch.setenv("FREQTRADE__LIQUIDATIONS__MIN_COVERAGE", "0.75")
    assert used(load_plain_config(args("-c", "base.json")))[0].min_coverage == 0.75


@pytest.mark.parametrize(
    "text", ["[1, 2]", "{", '{"exchange": 1}', '{"liquidations": {}, "stake_currency": "USDT"}']
)
def test_mistakes_are_told_by_freqtrade(folder, text, monkeypatch):
    class Told(Exception):
        pass

    def tell(_: object) -> None:
        raise Told

    (folder / "wrong.json").write_text(text)
    monkeypatch.setattr(common, "load_config", tell)
    for words in (
        ("-c", "wrong.json"),
        ("-c", "none.json"),
        ("-c", "base.json", "--userdir", "no"),
    ):
        with pytest.raises(Told):
            load_plain_config(args(*words))


def test_no_exchange_is_our_own_mistake(folder):
    (folder / "user_data" / "config.json").unlink(missing_ok=True)
    with pytest.raises(LiquidationsError, match="exchange"):
        read_settings(load_plain_config(args()))


def test_timeranges_are_freqtrades():
    for text in (
        "20240101-20240102", "20240101-", "-20240102", "", None, "1704067200-1704153600",
        "1704067200000-1704153600000", "20240102-20240102",
    ):  # fmt: skip
        asked = TimeRange.parse_timerange(text)
        assert parse_timerange(text) == (asked.startts * 1000, asked.stopts * 1000), text
    for text in ("20240103-20240102", "20241341-", "yesterday", "-"):
        for parse in (TimeRange.parse_timerange, parse_timerange):
            with pytest.raises(FreqtradeException):
                parse(text)


def test_show_loads_neither_ccxt_nor_talib(tmp_path):
    code = (
        "import sys; from liquidations.cli import run; "
        "run(['show', '-c', 'base.json', '-p', 'BTC/USDT:USDT', '--timerange', '20240101-20240102']"
        "); print('LOADED', *({'ccxt', 'talib'} & set(sys.modules)))"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("FREQTRADE__")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]
