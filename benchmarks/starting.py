"""What a user waits for at the start, and what a bot holds: imports, commands, memory.

Each is a fresh process, timed from its start to its end. By itself: python benchmarks/starting.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goals import ROUNDS, Found, Goal, in_turns, main
from growth import NOW, OWN, contract, make


PAIRS = 80
HERE = Path(__file__).parent
PROGRAM = str(Path(sys.executable).parent / "liquidations")

#: Most of each: ms of an import and of two commands, MB of a bot.
IMPORT, HELP, SHOW, MEMORY = 50, 300, 1000, 30

CONFIG = {
    "trading_mode": "futures",
    "margin_mode": "isolated",
    "stake_currency": "USDT",
    "exchange": {"name": "binance", "pair_whitelist": [OWN], "pair_blacklist": []},
}


def call(folder: Path, *command: str) -> str:
    """Run a process in a user's folder, and return what it printed."""
    # As users have it: modules are compiled once, and nobody measures how long that takes.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=env, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def fresh(folder: Path, *arguments: str) -> Any:
    """Ask a fresh process that has Freqtrade loaded."""
    return json.loads(call(folder, sys.executable, str(HERE / "fresh.py"), *arguments))


def goal(found: Found, what: str, values: Sequence[float], most: float, unit: str) -> None:
    """Add a goal of the median."""
    middle = statistics.median(values)
    found.goals.append(Goal(what, middle, most, unit, low=min(values), high=max(values)))


def commands(found: Found, folder: Path, quick: bool) -> None:
    """Time the commands, and in the full form beside them what they can't do without."""
    show = ["show", "-p", OWN, "-t", "1h", "--timerange", "20240601-20240602"]
    printed = call(folder, PROGRAM, *show)
    assert printed.count("2024-06-01") == 24, printed
    own = "import numpy, pandas, sqlalchemy, rich.table"
    freqtrade = "from freqtrade.configuration import setup_utils_configuration"
    asked = {
        "liquidations --help": (PROGRAM, "--help"),
        "liquidations show, a day": (PROGRAM, *show),
    }
    if not quick:
        asked |= {
            "python, and nothing": (sys.executable, "-c", "pass"),
            "python, importing numpy, pandas, SQLAlchemy, rich": (sys.executable, "-c", own),
            "python, importing Freqtrade's configuration": (sys.executable, "-c", freqtrade),
        }
    runs = {name: lambda words=words: call(folder, *words) for name, words in asked.items()}
    rounds = in_turns(runs)
    found.show("fresh processes", rounds)
    for name, most in (("liquidations --help", HELP), ("liquidations show, a day", SHOW)):
        goal(found, name, [1e3 * seconds for seconds in rounds[name]], most, "ms")


def run(quick: bool) -> Found:
    """Time fresh processes, and weigh a bot."""
    found = Found()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "user_data").mkdir()
        url = f"sqlite:///{folder}/user_data/liquidations.sqlite"
        (folder / "config.json").write_text(json.dumps(CONFIG))
        make(url, PAIRS * (2_000 if quick else 20_000), PAIRS, 2_000 if quick else 20_000)
        commands(found, folder, quick)
        if quick:
            found.absent["import, memory of a bot"] = "Freqtrade takes long to start; run all"
            return found
        adds = [fresh(folder, "import") for _ in range(ROUNDS + 1)][1:]
        goal(found, "import liquidations, with Freqtrade imported", adds, IMPORT, "ms")
        if not Path("/proc/self/statm").exists():
            found.absent["memory of a bot"] = "there is no /proc"
            return found
        pairs = [contract(number) for number in range(PAIRS)]
        held = fresh(folder, "memory", url, str(NOW), *pairs, str(ROUNDS))
        more = [ours - without for without, ours in held]
        goal(found, f"memory of a bot with {PAIRS} pairs, beyond its own", more, MEMORY, "MB")
    return found


if __name__ == "__main__":
    sys.exit(main(run, __doc__))
