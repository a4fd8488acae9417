"""What the benchmarks share: rounds in turns, goals, and how both are printed and written.

Machines are slow or busy by the minute. So whatever is compared runs in turns, round by round, and
the ratio of each round is what counts: both met the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


ROOT = Path(__file__).parent.parent
ROUNDS = 7


@dataclass(frozen=True)
class Goal:
    """Put a figure beside the most (or, with ``least``, the least) that it may be.

    ``low`` and ``high`` are the lowest and the highest of the rounds whose median is ``value``.
    """

    what: str
    value: float
    goal: float
    unit: str
    least: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def met(self) -> bool:
        """Tell whether the goal was met."""
        return self.value >= self.goal if self.least else self.value <= self.goal

    def line(self) -> str:
        """Return the goal as it is printed."""
        spread = "" if self.low is None else f" ({_number(self.low)} … {_number(self.high)})"
        return (
            f"{'met   ' if self.met else 'MISSED'}  {self.what}: {_number(self.value)}{spread} "
            f"{self.unit}, goal {'≥' if self.least else '≤'} {_number(self.goal)}"
        )


@dataclass
class Found:
    """Collect what a benchmark found: goals, and times (ms, medians) of ours and of the peers.

    ``absent`` says which peers were not measured, and why.
    """

    goals: list[Goal] = field(default_factory=list)
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def ratio(
        self, what: str, rounds: Mapping[str, Sequence[float]], one: str, other: str,
        goal: float, *, least: bool = False,
    ) -> None:  # fmt: skip
        """Add the goal that ``one`` takes so many times as long as ``other``, round by round."""
        ratios = [a / b for a, b in zip(rounds[one], rounds[other], strict=True)]
        middle = statistics.median(ratios)
        self.goals.append(Goal(what, middle, goal, "×", least, min(ratios), max(ratios)))

    def show(self, group: str, rounds: Mapping[str, Sequence[float]]) -> None:
        """Add the medians of rounds (s) to the times that are printed and drawn."""
        self.times[group] = {name: 1e3 * statistics.median(row) for name, row in rounds.items()}


def in_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Time functions in turns, and return the seconds of each in each round.

    The first round warms caches and imports, and is not counted. Garbage is collected between the
    rounds, as ``timeit`` does, so that nobody pays for that of another.
    """
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        gc.collect()
        gc.disable()
        try:
            for name, function in functions.items():
                begin = time.perf_counter()
                function()
                found[name].append(time.perf_counter() - begin)
        finally:
            gc.enable()
    return {name: seconds[1:] for name, seconds in found.items()}


def one_core() -> None:
    """Let this process, and what it starts, run on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def report(found: Found) -> None:
    """Print what was found."""
    for group, times in found.times.items():
        print(f"{group}:")
        for name, one in times.items():
            print(f"    {name:44}{one:12,.2f} ms")
    for name, why in found.absent.items():
        print(f"not measured: {name}: {why}")
    for goal in found.goals:
        print(goal.line(), flush=True)


def written(found: Found) -> dict:
    """Return what was found as it goes into a JSON file."""
    goals = [{**asdict(goal), "met": goal.met} for goal in found.goals]
    return {"goals": goals, "times_ms": found.times, "absent": found.absent}


def main(run: Callable[[bool], Found], doc: str | None) -> int:
    """Run one benchmark by itself; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=str(doc).partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="Less of the same.")
    one_core()
    found = run(parser.parse_args().quick)
    report(found)
    met = sum(goal.met for goal in found.goals)
    print(f"bench: {met} of {len(found.goals)} goals met")
    return int(met < len(found.goals))


def save(name: str, result: object) -> None:
    """Write a JSON file beside the benchmarks."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    (ROOT / "benchmarks" / f"{name}.json").write_text(f"{text}\n")


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def import_path() -> None:
    """Let the helpers of the tests be imported: a real PostgreSQL server, loopback exchanges."""
    sys.path.insert(0, str(ROOT / "tests"))
