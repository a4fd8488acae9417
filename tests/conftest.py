"""What several tests share: the recorded data, a fresh store, and events and bars drawn by hand."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import postgres
import pytest
import sqlalchemy as sa
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
def sqlite_url(tmp_path: Path) -> str:
    """Return the URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'liquidations.sqlite'}"


@pytest.fixture
def db_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a store that does not exist yet: of a SQLite file, or see ``ON_BOTH``.

    A module all of whose tests run on both databases overrides it and returns ``any_url``.
    """
    return request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url")


#: Above a test that runs on both databases, in a module whose other tests do not.
ON_BOTH = pytest.mark.parametrize("db_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """Run a real PostgreSQL server for all tests of a process."""
    try:
        # What these tests kill are programs, never the machine: it need not wait for the disk.
        made = postgres.Server(settings={"fsync": "off"})
    except postgres.NoServerError as error:
        pytest.skip(str(error))
    with made:
        yield made.start()


@pytest.fixture
def postgresql_url(server: postgres.Server) -> Iterator[str]:
    """Return the URL of an empty PostgreSQL database."""
    with postgres.a_database(server) as url:
        yield url


#: Above a test that is about SQLite's file, in a module whose ``db_url`` is ``any_url``.
ONLY_SQLITE = pytest.mark.parametrize("any_url", ["sqlite"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a store that does not exist yet, on one database after the other."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def fresh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], str]]:
    """Return a function that names one place after the other where there is no store yet."""
    numbers = itertools.count()
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("stores")
        yield lambda: f"sqlite:///{folder / f'{next(numbers)}.sqlite'}"
        shutil.rmtree(folder)
        return
    server = request.getfixturevalue("server")
    with postgres.a_database(server) as url:

        def make() -> str:
            # A schema of its own costs less than a database.
            name = f"s{next(numbers)}"
            server.sql(f"CREATE SCHEMA {name}", url.rpartition("/")[2])
            return f"{url}?options=-csearch_path%3D{name}"

        yield make


def execute(db_url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Do what another program does to a database; return the rows of the last statement."""
    with sa.create_engine(db_url, poolclass=sa.NullPool).begin() as connection:
        *_, last = [connection.execute(sa.text(statement)) for statement in statements]
        return [tuple(row) for row in last] if last.returns_rows else []


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
