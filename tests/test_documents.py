"""Every command and example of the documents is run, and their tables match the code."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, utc
from freqtrade.commands.arguments import Arguments

from liquidations.archives import ARCHIVES
from liquidations.cli import COMMANDS, LiquidationArguments
from liquidations.commands.common import load_config
from liquidations.sandbox_server import environment, running
from liquidations.settings import FINGERPRINT, KEYS, read_settings


DOCUMENTS = [
    REPOSITORY / name
    for name in (
        "README.md",
        "docs/readings.md",
        "docs/service.md",
        "docs/history.md",
        "docs/study.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
    )
]
README = DOCUMENTS[0].read_text()

#: Their commands need a server, or take long: tests/test_postgresql.py and tests/test_faults.py.
OTHERS = [REPOSITORY / name for name in ("docs/postgresql.md", "docs/faults.md", "SECURITY.md")]

# What can't be run inside the tests, and what runs it instead.
ELSEWHERE = {
    "make test": "this is it",
    "pip install .": "tests/test_package.py",
    **dict.fromkeys(
        (
            "liquidations collect -c config.json",
            "liquidations collect -p BTC/USDT:USDT ETH/USDT:USDT --exchange binance,bybit",
            "liquidations collect --exchange all --market",
        ),
        "tests/test_collect.py, beside exchanges that answer",
    ),
    **dict.fromkeys(
        (
            "liquidations download-data -p BTC/USDT:USDT ETH/USDT:USDT --days 30",
            "liquidations download-data -c config.json --days 30",
            "liquidations download-data -p BTC/USDT:USDT --timerange 20240801-20240901 -t 1h",
            "liquidations download-data -p '.*/USDT:USDT' --exchange all --source coinalyze",
        ),
        "tests/test_download_data.py, beside sources that answer",
    ),
    **dict.fromkeys(
        (
            "sudo cp docs/service/liquidations.service /etc/systemd/system/",
            "sudo systemctl daemon-reload",
            "sudo systemctl enable --now liquidations",
            "journalctl -u liquidations -f",
            "docker compose -f docs/service/compose.yaml up -d --build",
            "docker compose -f docs/service/compose.yaml logs -f collector",
        ),
        "a host; the files themselves are tested below",
    ),
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    """Return the commands of all documents in their order, without their comments."""
    lines = [
        shlex.join(shlex.split(line, comments=True)) if "'" not in line else line
        for document in DOCUMENTS
        for block in blocks(document.read_text(), "sh")
        for line in block.splitlines()
    ]
    return [line for line in dict.fromkeys(lines) if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder as the README's reader has one: a config, candles, answers of the vendors."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(REPOSITORY / "config.json", folder)
    shutil.copytree(REPOSITORY / "strategies", folder / "strategies")
    (folder / "user_data").mkdir()
    run("liquidations simulate -t 1h --timerange 20240715-20240817", folder, os.environ)
    shutil.copytree(folder / "user_data/simulated/data", folder / "user_data/data/binance")
    shutil.rmtree(folder / "user_data/simulated")
    random = np.random.default_rng(8)
    hours = range(utc("2024-07-15") // 1000, utc("2024-08-17") // 1000, 3600)
    answer = [
        {
            "symbol": f"{base}USDT_PERP.A",
            "history": [
                {"t": hour, "l": float(long), "s": float(short)}
                for hour, long, short in zip(hours, *random.pareto(1, (2, len(hours))), strict=True)
            ],
        }
        for base in ("BTC", "ETH", "SOL")
    ]
    (folder / "BTCUSDT_PERP.A-1hour.json").write_text(json.dumps(answer))
    answers = Path(__file__).parent / "answers"
    instrument = {"instId": "BTC-USDT-SWAP", "instType": "SWAP", "uly": "BTC-USDT"}
    instrument |= {"ctType": "linear", "ctVal": "0.01", "ctMult": "1", "settleCcy": "USDT"}
    (folder / "instruments.json").write_text(json.dumps({"code": "0", "data": [instrument]}))
    order = {"bkPx": "60000", "side": "sell", "sz": "2", "ts": "1722826800000"}
    page = {"code": "0", "data": [{"instId": "BTC-USDT-SWAP", "details": [order]}]}
    (folder / "liquidation-orders.json").write_text(json.dumps(page))
    assert answers.is_dir()
    history = (REPOSITORY / "docs/history.md").read_text()
    (folder / "my-events.csv").write_text(blocks(history, "csv")[0])
    run("liquidations import-data --source coinalyze --unit usd *.A-1hour.json", folder, os.environ)
    return folder


def run(command: str, folder: Path, env, allowed=(0,)) -> str:
    """Run a line of a document as it stands, with this Python's scripts in the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**env, "PATH": path}, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode in allowed, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_make_commands(recorded, tmp_path):
    env = os.environ | {"COLUMNS": "200"}
    printed = run("make demo", REPOSITORY, env)
    assert "Result for strategy LiquidationReversal" in printed
    assert "SIMULATED" in printed
    chart = (REPOSITORY / "user_data/simulated/chart.html").read_text()
    assert "SIMULATED BTC" in chart
    printed = run(f"make recorded RECORDED={recorded}", REPOSITORY, env)
    long, short = re.search(r"Long / Short trades\s+│\s+(\d+) / (\d+)", printed).groups()
    assert int(long) > 0
    assert int(short) > 0
    # The goals depend on the machine's mood; that all was measured does not.
    printed = run("make bench-quick", REPOSITORY, env, allowed=(0, 2))
    assert re.search(r"bench: \d+ of 2\d goals met", printed)


def test_every_other_command_of_the_documents_runs(folder):
    made = [line for line in commands() if line.startswith("make ")]
    # Those of real time, dry-run and parity, are run by tests/test_parity.py; tests/test_faults.py
    # and tests/test_benchmarks.py run short forms of faults and bench-load, .ci/run runs audit.
    targets = {"demo", "dry-run", "test", "recorded", "bench", "bench-quick", "parity"}
    targets |= {"faults", "bench-load", "audit"}
    assert {line.split()[1] for line in made} == targets
    with running(folder / "user_data/data/binance") as port:
        for command in commands():
            if command not in made and command not in ELSEWHERE:
                env = os.environ | {"COLUMNS": "200"}
                if command.startswith("freqtrade"):
                    env |= environment(port)
                printed = run(command, folder, env)
                assert "Traceback" not in printed
    assert "2024-08-05 03:00" in run(
        "liquidations show -p BTC/USDT:USDT -t 1h --timerange 20240805-20240806", folder, os.environ
    )


def test_the_readmes_strategy_runs_as_it_stands(folder):
    code, readings = blocks(README, "python")
    call = "return add_liquidations(self, dataframe, metadata)"
    assert call in code
    # The second example stands inside populate_indicators.
    first, *lines = readings.strip().splitlines()
    body = "\n        ".join(["dataframe = add_liquidations(self, dataframe, metadata)", *lines])
    code = f"{first}\n{code.replace(call, body + chr(10) + '        return dataframe')}"
    (folder / "strategies" / "MyStrategy.py").write_text(code)
    words = "freqtrade backtesting -c config.json --strategy MyStrategy"
    run("liquidations import-data --source coinalyze --unit usd *.A-1hour.json", folder, os.environ)
    with running(folder / "user_data/data/binance") as port:
        env = os.environ | environment(port) | {"COLUMNS": "200"}
        printed = run(f"{words} --timerange 20240725-20240815", folder, env)
    assert "Result for strategy MyStrategy" in printed
    assert "reload" not in printed


def test_the_readmes_tables_match_the_code():
    section = json.loads("{" + blocks(README, "json")[0] + "}")
    keys = set(KEYS) - {FINGERPRINT}
    assert set(section["liquidations"]) <= keys
    first_cells = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert keys | set(ARCHIVES) <= first_cells


def test_commands_named_in_a_text_exist():
    for document in [*DOCUMENTS, REPOSITORY / "CHANGELOG.md"]:
        for word in re.findall(r"`liquidations ([\w-]+)", document.read_text()):
            assert word in COMMANDS, f"{document.name}: liquidations {word}"
    for command in COMMANDS:
        assert command in README


def test_the_tables_of_sources_are_those_of_the_modules():
    run(f"{sys.executable} docs/sources.py --check", REPOSITORY, os.environ)


def test_links_and_pictures_of_the_documents_exist():
    for document in [*DOCUMENTS, *OTHERS]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_commands_that_run_elsewhere_are_still_documented():
    assert set(ELSEWHERE) <= set(commands())


# --- the service's files ------------------------------------------------------------------------

SERVICE = REPOSITORY / "docs" / "service"


def parsed(command: str) -> dict[str, Any]:
    """Parse a line as our console script does, or as Freqtrade's; unknown flags end the test."""
    program, *words = command.split()
    kind = {"liquidations": LiquidationArguments, "freqtrade": Arguments}[program]
    return kind(words).get_parsed_arg()


def test_the_service_document_shows_the_files():
    text = (REPOSITORY / "docs/service.md").read_text()
    for language, name in (
        ("ini", "liquidations.service"), ("dockerfile", "Dockerfile"), ("yaml", "compose.yaml"),
    ):  # fmt: skip
        assert blocks(text, language) == [(SERVICE / name).read_text()]
    for line in "".join(blocks(text, "sh")).splitlines():
        if line.startswith("liquidations "):
            assert parsed(line)["command"] == line.split()[1]


def test_the_systemd_unit_is_sound(tmp_path):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    text = (SERVICE / "liquidations.service").read_text()
    unit.read_string(text)
    service = unit["Service"]
    program, _, words = service["ExecStart"].partition(" ")
    assert Path(program).name == "liquidations"
    assert parsed(f"liquidations {words}")["command"] == "collect"
    assert service["User"] not in ("", "root")
    assert service["Restart"] == "on-failure"
    if not (analyze := shutil.which("systemd-analyze")):
        return
    (tmp_path / "liquidations.service").write_text(text.replace(program, sys.executable))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "liquidations.service")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "liquidations.service:" not in done.stderr


def test_the_containers_are_sound():
    lines = (SERVICE / "Dockerfile").read_text().splitlines()
    for line in (line for line in lines if line.startswith("COPY")):
        for source in line.split()[2:-1]:
            assert (REPOSITORY / source).exists(), source
    assert not any(line.startswith("USER") for line in lines)  # that of Freqtrade's image stays
    services = yaml.safe_load((SERVICE / "compose.yaml").read_text())["services"]
    collector, bot = services["collector"], services["bot"]
    build = collector["build"]
    assert (SERVICE / build["context"] / build["dockerfile"]).samefile(SERVICE / "Dockerfile")
    assert collector["volumes"] == bot["volumes"]
    assert collector["image"] == bot["image"]
    assert parsed(f"{collector['entrypoint']} {collector['command']}")["command"] == "collect"
    assert parsed(f"freqtrade {bot['command']}")["command"] == "trade"
    assert bot["environment"] == {"FREQTRADE__LIQUIDATIONS__COLLECT": "false"}


def test_the_containers_environment_switches_the_bots_own_collector_off(folder, monkeypatch):
    monkeypatch.setenv("FREQTRADE__LIQUIDATIONS__COLLECT", "false")
    monkeypatch.chdir(folder)
    config = load_config({"config": ["config.json"]})
    assert not read_settings(config).collect
