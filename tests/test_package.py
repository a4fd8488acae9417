"""The wheel, installed alone in a bare environment, is a working plugin."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY


STRATEGY = """
from freqtrade.strategy import IStrategy
from liquidations import add_liquidations, high_volume, prepare_liquidations


class Bare(IStrategy):
    timeframe = "1h"
    stoploss = -0.1

    def populate_indicators(self, dataframe, metadata):
        return add_liquidations(self, dataframe, metadata)

    def populate_entry_trend(self, dataframe, metadata):
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe
"""


def run(*words: str | Path, cwd: Path) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["COLUMNS"] = "200"
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from what git tracks, so that nothing left lying about gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, files):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((REPOSITORY / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, cwd=folder / "source")
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_holds_the_package_and_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        text = archive.read(metadata).decode()
    modules = {
        str(path.relative_to(REPOSITORY / "indicators"))
        for path in (REPOSITORY / "indicators" / "liquidations").rglob("*.py")
    }
    assert modules <= names
    assert "liquidations/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"liquidations", metadata.split("/")[0]}
    assert "License-Expression: GPL-3.0-or-later" in text
    assert any(name.endswith("LICENSE") for name in names)


def test_wheel_alone_has_the_script_and_imports_in_a_strategy(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    assert "import-data" in run(scripts / "liquidations", "--help", cwd=tmp_path)
    run(scripts / "freqtrade", "create-userdir", "--userdir", "user_data", cwd=tmp_path)
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "Bare.py").write_text(STRATEGY)
    printed = run(
        scripts / "freqtrade", "list-strategies", "--strategy-path", tmp_path / "strategies",
        "--no-color", cwd=tmp_path,
    )  # fmt: skip
    (line,) = [line for line in printed.splitlines() if "Bare" in line and "│" in line]
    assert "OK" in line
    run(scripts / "liquidations", "create-strategies", "--userdir", "user_data", cwd=tmp_path)
    samples = {path.name for path in (REPOSITORY / "strategies").glob("Liq*.py")}
    assert {path.name for path in (tmp_path / "user_data" / "strategies").glob("Liq*")} == samples
    # The sample that the demo runs, without the plot and test extras.
    run(scripts / "liquidations", "simulate", "--timerange", "20240101-20240105", "-p",
        "BTC/USDT:USDT", "-t", "1h", cwd=tmp_path)  # fmt: skip
    shown = run(
        scripts / "liquidations", "show", "-p", "BTC/USDT:USDT", "-t", "1d", "--exchange",
        "binance", "--db-url", "sqlite:///user_data/simulated/liquidations.sqlite", cwd=tmp_path,
    )  # fmt: skip
    assert "SIMULATED" in shown
