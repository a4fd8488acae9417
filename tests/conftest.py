"""What several tests share: the recorded data, a fresh store, and events and bars drawn by hand."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from liquidations.event import SIDES, Bars, Events, Ints, make_events


# "ci" draws the same examples each time, so that a red run can be repeated; to look further:
# HYPOTHESIS_PROFILE=search pytest
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("search", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).parents[1]


#: Files of few tests that take minutes: they come first, so that no worker waits for another one at
#: the end.
LONG = ("test_parity.py", "test_documents.py", "test_freqtrade.py", "test_package.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; the order within a file stays."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Return the folder of recorded facts, which holds ``data/`` and ``frames/``."""
    folder = Path(os.environ.get("LIQUIDATIONS_RECORDED", REPOSITORY / ".." / "shared"))
    if not (folder / "data").is_dir() or not (folder / "frames").is_dir():
        pytest.skip("no recorded data: name their folder (data/, frames/) in LIQUIDATIONS_RECORDED")
    return folder.resolve()


@pytest.fixture
def db_url(tmp_path: Path) -> str:
    """Return the URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'liquidations.sqlite'}"


def utc(text: str) -> int:
    """Return ms UTC of a time as people write it: ``2024-08-05 03:00`` or shorter or longer."""
    return int(np.datetime64(text, "ms").astype(np.int64))


def events_of(*rows: tuple[str | int, str, float]) -> Events:
    """Build events of 1 USD per base unit from (time, side, USD)."""
    time = [at if isinstance(at, int) else utc(at) for at, _, _ in rows]
    side = [SIDES.index(name) for _, name, _ in rows]
    usd = [value for _, _, value in rows]
    return make_events(time, side, [1.0] * len(rows), usd, usd)


def bars_of(*rows: tuple[str | int, float, float], counts: bool = False) -> Bars:
    """Build bars from (time, long, short), with one event a side or with unknown counts."""
    time = [at if isinstance(at, int) else utc(at) for at, _, _ in rows]
    known = np.full(len(rows), 1.0 if counts else np.nan)
    long, short = (np.array([row[side] for row in rows], dtype=np.float64) for side in (1, 2))
    return Bars(np.array(time, np.int64), long, short, known, known, known, known)


def spans(*rows: tuple[str | int, str | int]) -> Ints:
    """Build intervals of coverage from (start, end)."""
    pairs = [[at if isinstance(at, int) else utc(at) for at in row] for row in rows]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def same_bits(one: Events | Bars, other: Events | Bars, *columns: str) -> None:
    """Assert that all columns, or those named, are equal to the bit, NaN included."""
    assert len(one) == len(other)
    for name in columns or type(one).names():
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype, f"{name}: {mine.dtype} and {theirs.dtype}"
        assert mine.tobytes() == theirs.tobytes(), f"{name}: {mine} and {theirs}"
