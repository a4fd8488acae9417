"""Short forms of the programs in ``tests/faults``: what is killed, cut or full loses nothing.

``make faults`` runs the full forms: 100 kills of each, faults of 20 s.
"""

import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import REPOSITORY


#: Program → parts that it must have run, unless the system does not let it run all.
PARTS = {
    "kill": ("kill -9 of the collector, sqlite", "kill -9 of the compaction, sqlite"),
    "network": ("exchange-half-open", "exchange-loss", "database-cut", "bot-half-open"),
    "system": ("locked database, SQLite", "clock jumps by +1 h, and back", "full disk, SQLite"),
}


def run(words: list[str]) -> tuple[int, str]:
    """Run a program, which with all its processes ends their servers if it takes too long."""
    child = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = child.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGTERM)
        said, _ = child.communicate(timeout=30)
    return child.returncode, said


@pytest.mark.parametrize("program", PARTS)
def test_nothing_is_lost(program):
    words = [sys.executable, str(REPOSITORY / "tests" / "faults" / f"{program}.py"), "--short"]
    code, said = run(words)
    print(said[-20_000:])  # shown if it fails
    assert code == 0
    assert "FAILED" not in said
    ran = dict(re.findall(r"^(.+): (ok|skipped)", said, re.M))
    if all(state == "ok" for state in ran.values()):
        assert set(PARTS[program]) <= ran.keys()
    # Each part with a collector has stored something.
    numbers = re.findall(r"acknowledged +([\d,]+)$", said, re.M)
    stored = [int(number.replace(",", "")) for number in numbers]
    assert stored
    assert min(stored) > 0
