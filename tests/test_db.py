"""The store itself: migrated, checked, compacted and copied, on both databases and between them."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import REPOSITORY, bars_of, events_of, same_bits, spans, utc

from liquidations import copying
from liquidations.cli import run
from liquidations.compaction import compact
from liquidations.copying import copy_store
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE, Bars, Events, make_events
from liquidations.integrity import Seen, find_problems
from liquidations.segments import pack_bars, pack_events, unpack_bars, unpack_events
from liquidations.store import Store
from liquidations.tables import (
    BAR,
    COVERAGE,
    EVENT,
    FEED_COVERAGE,
    META,
    SCHEMA_VERSION,
    SEGMENT,
    SERIES,
    metadata,
)


PAIR = "BTC/USDT:USDT"
START = utc("2024-08-05")
FOREVER = (utc("2020-01-01"), utc("2030-01-01"))
HOUR = 60 * MINUTE

IMPORTED = events_of(
    ("2024-08-01 03:00:00.100", "long", 100.0),
    ("2024-08-01 03:00:30", "short", 25.0),
    ("2024-08-01 07:10", "long", 7.0),
    ("2024-08-02 00:00", "short", 9.0),
)
LIVE = events_of(
    ("2024-08-05 03:00:10", "long", 50.0),
    ("2024-08-05 03:00:20", "long", 3.0),
    ("2024-08-06 11:11", "short", 4.0),
)
LATE = events_of(("2024-08-05 03:00:30", "long", 1000.0))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with the repository's config, as a new user would."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "config.json", tmp_path)
    (tmp_path / "user_data").mkdir()
    return tmp_path


def live(store: Store, events: Events, *, pair: str = PAIR, sealed: int = START) -> None:
    """Let a feed tell a pair, and bring events; of those before ``sealed`` it tells too late."""
    with store.write() as writer:
        feed = writer.feed("okx", "liquidations", "okx")
        writer.join(feed, [PAIR, "ETH/USDT:USDT"], START)
        feed = replace(feed, sealed=max(feed.sealed, sealed))
        feed, _ = writer.append(feed, {pair: events}, feed.sealed + MINUTE)
        feed = writer.cover(feed, START, feed.sealed)
        writer.gap(feed, START - HOUR, START, "start")
        writer.seal(feed, feed.sealed, feed.sealed)


def fill(url: str) -> str:
    """Make a store that has rows in every table."""
    with Store(url, create=True) as store:
        with store.write() as writer:
            days = spans(("2024-08-01", "2024-08-03"))
            writer.insert("okx", PAIR, "archive", IMPORTED, days)
            events = replace(LIVE, origin=np.ones(len(LIVE), np.int16))
            writer.insert("bybit", PAIR, "bybit", events, days, origins=["somebody"])
            hours = bars_of(("2024-08-01", 10.0, 30.0), ("2024-08-01 02:00", 5.0, 0.0))
            vendor = ("binance", PAIR, "coinalyze")
            covered = spans(("2024-08-01", "2024-08-01 04:00"))
            writer.insert(*vendor, hours, covered, period=HOUR, recorded=START)
            revised = bars_of(("2024-08-01", 11.0, 30.0), ("2024-08-01 02:00", 5.0, 0.0))
            writer.insert(*vendor, revised, covered, period=HOUR, recorded=START + 1)
        live(store, LIVE)
        live(store, LATE, sealed=utc("2024-08-05 03:05"))
    return url


def rows(url: str) -> dict[str, list[tuple]]:
    """Return all rows of all tables in the order of their keys, without a database's own notes."""
    found = {}
    with Store(url) as store, store.transaction(write=False) as connection:
        for table in metadata.sorted_tables:
            ordered = sa.select(table).order_by(*table.primary_key.columns)
            found[table.name] = [tuple(row) for row in connection.execute(ordered)]
    found["liq_meta"] = [row for row in found["liq_meta"] if row[0] != "copied"]
    return found


def problems(url: str) -> list[str]:
    with Store(url) as store:
        return [str(one) for one in find_problems(store, Seen())]


def change(url: str, *statements: sa.Executable) -> None:
    with Store(url) as store, store.transaction(write=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def other_url(any_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return an empty place on the other database than ``any_url``."""
    if any_url.startswith("sqlite"):
        return request.getfixturevalue("postgresql_url")
    return request.getfixturevalue("sqlite_url")


# --- copy -----------------------------------------------------------------------------------------


def test_a_copy_is_equal_row_by_row(any_url, other_url):
    before = rows(fill(any_url))
    # By hand: of what was filled in, each table has so many rows.
    sizes = {"liq_event": 4, "liq_bar": 2, "liq_series": 5, "liq_segment": 5 + 2, "liq_feed": 1}
    sizes |= {"liq_origin": 1, "liq_revision": 1, "liq_member": 2, "liq_gap": 1}
    assert {name: len(before[name]) for name in sizes} == sizes
    done = copy_store(any_url, other_url)
    assert rows(other_url) == before
    assert {one.table: (one.total, one.done, one.inserted) for one in done} == {
        name: (len(held),) * 3 for name, held in before.items() if name != "liq_meta"
    }
    assert problems(other_url) == []


def test_a_copy_goes_on_by_itself(any_url, other_url):
    """PostgreSQL counts only those numbers that it gave; a copy brings its own."""
    copy_store(fill(any_url), other_url)
    with Store(other_url) as store, store.write() as writer:
        writer.insert("okx", "SOL/USDT:USDT", "archive", IMPORTED, spans())
        writer.feed("bybit", "all", "bybit")
        named = replace(LIVE, origin=np.ones(len(LIVE), np.int16))
        writer.insert("okx", "XRP/USDT:USDT", "archive", named, spans(), origins=["another"])
    copied, made = rows(any_url), rows(other_url)
    for name in ("liq_series", "liq_feed", "liq_origin"):
        assert set(copied[name]) < set(made[name])
    numbers = [row[0] for row in made["liq_series"]]
    assert numbers == sorted(set(numbers))


def test_copying_again_brings_what_is_new_and_takes_what_is_gone(any_url, other_url):
    copy_store(fill(any_url), other_url)
    with Store(any_url) as store:
        live(store, events_of(("2024-08-07", "long", 5.0)), pair="ETH/USDT:USDT")
        for _ in compact(store, utc("2024-08-06")):
            pass
        with store.write() as writer:
            writer.remove("binance", PAIR, "coinalyze")
            # On SQLite the next series gets the highest number again, with another name.
            writer.remove("bybit", PAIR, "bybit")
            writer.insert("okx", "SOL/USDT:USDT", "archive", IMPORTED, spans())
    before = rows(any_url)
    done = {one.table: one for one in copy_store(any_url, other_url)}
    assert rows(other_url) == before
    assert done["liq_event"].inserted == 1
    assert done["liq_event"].deleted == 2  # packed; the late one stays a row
    again = copy_store(any_url, other_url)
    assert sum(one.inserted + one.updated + one.deleted for one in again) == 0


def test_small_batches_make_the_same_copy(any_url, other_url, monkeypatch):
    fill(any_url)
    monkeypatch.setattr(copying, "BATCH_ROWS", 2)
    monkeypatch.setattr(copying, "BATCH_BYTES", 1)
    copy_store(any_url, other_url)
    assert rows(other_url) == rows(any_url)
    with Store(any_url) as store:
        list(compact(store, utc("2024-08-07")))
    copy_store(any_url, other_url)
    assert rows(other_url) == rows(any_url)


def test_a_copy_does_not_delete_what_it_does_not_know(any_url, other_url, tmp_path):
    copy_store(fill(any_url), other_url)
    before = rows(other_url)
    another = f"sqlite:///{tmp_path / 'another.sqlite'}"
    fill(another)
    with pytest.raises(LiquidationsError, match="holds another store"):
        copy_store(another, other_url)
    with pytest.raises(LiquidationsError, match="are one store"):
        copy_store(any_url, any_url)
    with pytest.raises(LiquidationsError, match="copied from"):
        copy_store(other_url, any_url)
    assert rows(other_url) == before
    with Store(other_url) as store:
        live(store, events_of(("2024-08-09", "long", 1.0)))
    with pytest.raises(LiquidationsError, match="written to since it was copied"):
        copy_store(any_url, other_url)
    assert len(rows(other_url)["liq_event"]) == 5


def test_one_file_has_two_names(tmp_path):
    fill(f"sqlite:///{tmp_path / 'one.sqlite'}")
    (tmp_path / "two.sqlite").symlink_to(tmp_path / "one.sqlite")
    with pytest.raises(LiquidationsError, match="are one store"):
        copy_store(f"sqlite:///{tmp_path / 'one.sqlite'}", f"sqlite:///{tmp_path / 'two.sqlite'}")


def test_a_newer_store_is_not_copied(sqlite_url, tmp_path, capsys):
    newer = sa.update(META).where(META.c.name == "schema").values(value=SCHEMA_VERSION + 1)
    change(fill(sqlite_url), newer)
    assert run(["db", "copy", "--from", sqlite_url, "--to", f"sqlite:///{tmp_path}/b.sqlite"]) == 2
    assert "newer freqtrade-liquidations" in capsys.readouterr().err


def many(url: str, number: int) -> str:
    """Make a store of so many live events."""
    with Store(url, create=True) as store:
        at = START + np.arange(number) * 10
        price = np.linspace(1.0, 2.0, number)
        ones = np.ones(number)
        live(store, make_events(at, np.arange(number) % 2, price, ones, price))
    return url


@pytest.mark.parametrize("any_url", ["postgresql", "sqlite"], indirect=True)
def test_a_copy_that_is_killed_goes_on(any_url, tmp_path):
    source = many(f"sqlite:///{tmp_path / 'source.sqlite'}", 60_000)
    words = ["liquidations", "db", "copy", "--from", source, "--to", any_url]
    killed = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE)
    engine = sa.create_engine(any_url)
    count = sa.select(sa.func.count()).select_from(EVENT)
    try:
        held = 0
        while not held and killed.poll() is None:
            time.sleep(0.01)
            with engine.connect() as connection:
                if sa.inspect(connection).has_table(EVENT.name):
                    held = connection.scalar(count)
    finally:
        killed.send_signal(signal.SIGKILL)
        _, said = killed.communicate(timeout=30)
    with engine.connect() as connection:
        held = connection.scalar(count)
    engine.dispose()
    assert killed.returncode == -signal.SIGKILL, said
    assert 0 < held < 60_000
    with pytest.raises(LiquidationsError, match="not finished"):
        Store(any_url)
    with pytest.raises(LiquidationsError, match="not finished"):
        copy_store(any_url, f"sqlite:///{tmp_path / 'third.sqlite'}")
    done = {one.table: one for one in copy_store(source, any_url)}
    assert done["liq_event"].inserted == 60_000 - held
    assert rows(any_url) == rows(source)


def test_the_source_is_copied_as_it_was_at_one_moment(any_url, other_url):
    """Somebody writes while it is copied: the copy is a state that there was."""
    fill(any_url)
    with Store(any_url) as store:
        before = rows(any_url)

        def write(_: copying.Copied) -> None:
            at = START + 4 * DAY + next(numbers)
            live(store, events_of((at, "long", 1.0)))

        numbers = iter(range(100))
        copy_store(any_url, other_url, write)
    assert rows(other_url) == before
    assert len(rows(any_url)["liq_event"]) > len(before["liq_event"])
    copy_store(any_url, other_url)
    assert rows(other_url) == rows(any_url)


def test_the_command_copies_the_configs_store(folder, capsys):
    source = fill(f"sqlite:///{folder}/user_data/liquidations.sqlite")
    assert run(["db", "copy", "--to", f"sqlite:///{folder}/copy.sqlite"]) == 0
    printed = capsys.readouterr()
    assert "liq_segment" in printed.out
    assert "the copy is complete" in printed.err
    assert rows(f"sqlite:///{folder}/copy.sqlite") == rows(source)


# --- migrate --------------------------------------------------------------------------------------


def as_version_3(url: str) -> str:
    """Take from a store what version 4 added."""
    old = sa.update(META).where(META.c.name == "schema").values(value=3)
    change(url, old, sa.text("ALTER TABLE liq_series DROP COLUMN kept"))
    return url


def test_migrating(any_url, capsys):
    as_version_3(fill(any_url))
    assert run(["db", "migrate", "--db-url", any_url]) == 0
    assert f"schema version 3 → {SCHEMA_VERSION}\n" in capsys.readouterr().err
    assert run(["db", "--db-url", any_url, "migrate"]) == 0
    assert f"schema version {SCHEMA_VERSION} already\n" in capsys.readouterr().err
    assert problems(any_url) == []


def test_migrating_as_somebody_who_may_not(postgresql_url, server, capsys):
    as_version_3(fill(postgresql_url))
    database = postgresql_url.rpartition("/")[2]
    server.sql(f"CREATE ROLE bot_{database} LOGIN", database)
    try:
        server.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO bot_{database}", database)
        url = postgresql_url.replace("//postgres@", f"//bot_{database}@")
        assert run(["db", "migrate", "--db-url", url]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "schema version 3" in line
        assert "Run as its owner: liquidations db migrate" in line
    finally:
        server.sql(f"DROP OWNED BY bot_{database}; DROP ROLE bot_{database}", database)


def test_migrating_what_is_not_there(capsys):
    assert run(["db", "migrate", "--db-url", "sqlite:///nothing.sqlite"]) == 2
    assert "there is no liquidation store" in capsys.readouterr().err
    assert not Path("nothing.sqlite").exists()


# --- check ----------------------------------------------------------------------------------------


def test_a_sound_store_passes(any_url, capsys):
    fill(any_url)
    with Store(any_url) as store:
        live(store, events_of((START + 4 * DAY, "long", 1.0)), pair="ETH/USDT:USDT")
    assert run(["db", "check", "--db-url", any_url]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    # Days of events: two of the archive's, two of bybit's; their bars, and the vendor's hours.
    assert "5 series, 7 segments of" in printed.err
    assert "live rows: sound" in printed.err


def packed(series: str, period: int, start: str | None = None) -> sa.ColumnElement[bool]:
    """Name the segments of the series of one source."""
    one = sa.select(SERIES.c.id).where(SERIES.c.source == series).scalar_subquery()
    named = (SEGMENT.c.series_id == one) & (SEGMENT.c.period == period)
    return named if start is None else named & (SEGMENT.c.start == utc(start))


def repack(url: str, where: sa.ColumnElement[bool], turn) -> None:
    """Put something else into a segment, well packed."""
    with Store(url) as store, store.transaction(write=True) as connection:
        found = connection.execute(sa.select(SEGMENT).where(where)).one()
        pack, unpack = (pack_bars, unpack_bars) if found.period else (pack_events, unpack_events)
        data = bytes(pack(turn(unpack(found.data))))
        connection.execute(sa.update(SEGMENT).where(where).values(data=data))


def doubled(bars: Bars) -> Bars:
    long = bars.long.copy()
    long[-1] += 0.5
    return replace(bars, long=long)


DAMAGE = {
    "a damaged segment": (
        lambda url: change(
            url,
            sa.update(SEGMENT)
            .where(packed("archive", 0, "2024-08-01"))
            .values(data=b"nothing that was packed"),
        ),
        ["okx BTC/USDT:USDT (archive, 1m), 2024-08-01: a part of the store is damaged"],
    ),
    "a cut segment": (
        lambda url: change(
            url,
            sa.update(SEGMENT)
            .where(packed("archive", MINUTE))
            .values(data=sa.func.substr(SEGMENT.c.data, 1, 20)),
        ),
        ["okx BTC/USDT:USDT (archive, 1m), 20"],
    ),
    "a row too few": (
        lambda url: repack(url, packed("coinalyze", HOUR), lambda bars: bars.take(slice(0, 1))),
        ["a segment should hold 2 rows, and holds 1"],
    ),
    "events out of order": (
        lambda url: repack(
            url,
            packed("archive", 0, "2024-08-01"),
            lambda events: events.take(np.array([1, 0, 2])),
        ),
        ["2024-08-01: a segment is not in order"],
    ),
    "an event twice": (
        lambda url: (
            repack(
                url,
                packed("archive", 0, "2024-08-01"),
                lambda events: events.take(np.array([0, 0, 1, 2])),
            ),
            change(
                url, sa.update(SEGMENT).where(packed("archive", 0, "2024-08-01")).values(rows=4)
            ),
        ),
        [
            "2024-08-01: a segment is not in order, or holds a row twice",
            "2024-08-01: 1 one-minute bars are not the sums of their events, the first that of "
            "03:00",
        ],
    ),
    "another day's events": (
        lambda url: change(
            url,
            sa.update(SEGMENT)
            .where(packed("archive", 0, "2024-08-02"))
            .values(start=utc("2024-08-03")),
        ),
        ["2024-08-03: a segment holds rows of another time than its own"],
    ),
    "segments that overlap": (
        lambda url: change(
            url,
            sa.insert(SEGMENT).from_select(
                ["series_id", "period", "start", "rows", "data"],
                sa.select(
                    SEGMENT.c.series_id, SEGMENT.c.period, SEGMENT.c.start + HOUR, SEGMENT.c.rows,
                    SEGMENT.c.data,
                ).where(packed("archive", 0, "2024-08-01")),
            ),
        ),
        ["2024-08-01: two segments overlap", "2024-08-01: 2 one-minute bars"],
    ),
    "a changed bar": (
        lambda url: repack(url, packed("archive", MINUTE), doubled),
        [
            "okx BTC/USDT:USDT (archive, 1m), 2024-08-02: 1 one-minute bars are not the sums of "
            "their events, the first that of 00:00"
        ],
    ),
    "a changed bar of a vendor": (
        lambda url: repack(url, packed("coinalyze", HOUR), doubled),
        ["binance BTC/USDT:USDT (coinalyze, 1h): it does not hold what was written"],
    ),
    "bars off their grid": (
        lambda url: repack(
            url,
            packed("coinalyze", HOUR),
            lambda bars: replace(bars, timestamp=bars.timestamp + 1),
        ),
        ["bars do not begin where their periods do"],
    ),
    "a lost live event": (
        lambda url: change(url, sa.delete(EVENT).where(EVENT.c.value_usd == 3.0)),
        [
            "okx BTC/USDT:USDT (okx, 1m), 2024-08-05: 1 one-minute bars are not the sums of their "
            "events, the first that of 03:00"
        ],
    ),
    "a lost live bar": (
        lambda url: change(url, sa.delete(BAR).where(BAR.c.timestamp > utc("2024-08-06"))),
        ["okx BTC/USDT:USDT (okx, 1m), 2024-08-06: 1 one-minute bars", "that of 11:11"],
    ),
    "late within a minute": (
        lambda url: change(url, sa.update(EVENT).where(EVENT.c.known > 0).values(known=30_001)),
        ["BTC/USDT:USDT, 2024-08-05: late events are not known at a minute's close"],
    ),
    "overlapping coverage": (
        lambda url: change(
            url,
            sa.insert(COVERAGE).from_select(
                ["series_id", "start", "end"],
                sa.select(COVERAGE.c.series_id, COVERAGE.c.start + 1, COVERAGE.c.end)
                .join(SERIES)
                .where(SERIES.c.source == "archive"),
            ),
        ),
        ["okx BTC/USDT:USDT (archive, 1m): its intervals of coverage overlap"],
    ),
    "turned coverage": (
        lambda url: change(url, sa.update(FEED_COVERAGE).values(end=FEED_COVERAGE.c.start)),
        ["liq_feed_coverage: 1 intervals end before they begin"],
    ),
    "rows of nobody": (
        lambda url: change(url, sa.update(EVENT).values(series_id=77)),
        ["liq_event: 4 rows belong to no row of liq_series", "2024-08-05: 1", "2024-08-06: 1"],
    ),
    "a lost table": (
        lambda url: change(url, sa.text("DROP TABLE liq_gap")),
        ["the store: it lacks the tables liq_gap"],
    ),
}  # fmt: skip


#: What is found by a statement, which each database may take in its own way.
BY_SQL = {
    "a cut segment", "a lost live event", "late within a minute", "overlapping coverage",
    "rows of nobody", "turned coverage", "a lost table",
}  # fmt: skip


@pytest.mark.parametrize(
    ("any_url", "damage"),
    [("sqlite", one) for one in DAMAGE] + [("postgresql", one) for one in DAMAGE if one in BY_SQL],
    indirect=["any_url"],
)
def test_what_is_wrong_is_found(any_url, damage, capsys):
    do, expected = DAMAGE[damage]
    do(fill(any_url))
    assert run(["db", "check", "--db-url", any_url]) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    for text in expected:
        assert any(text in line for line in lines), f"{text} is not in {lines}"
    assert all(". Do: " in line for line in lines)
    assert f"{len(lines):,} problems" in printed.err


def test_events_in_rows_and_in_segments_alike_are_found(any_url):
    """As a move that was torn would leave them: all sums fit."""
    fill(any_url)
    with Store(any_url) as store:
        with store.transaction(write=False) as connection:
            held = [dict(row) for row in connection.execute(sa.select(EVENT)).mappings()]
            sums = [dict(row) for row in connection.execute(sa.select(BAR)).mappings()]
        list(compact(store, utc("2024-08-06")))
    held = [row for row in held if row["timestamp"] < utc("2024-08-06") and not row["known"]]
    sums = [row for row in sums if row["timestamp"] < utc("2024-08-06")]
    change(any_url, sa.insert(EVENT).values(held), sa.insert(BAR).values(sums))
    (line,) = problems(any_url)
    assert "2024-08-05: 2 events are there twice" in line


def test_dropped_events_are_not_missed(any_url):
    fill(any_url)
    with Store(any_url) as store:
        list(compact(store, utc("2024-08-07"), keep=utc("2024-08-06")))
        assert problems(any_url) == []
    left = rows(any_url)
    assert {row[-1] for row in left["liq_series"]} == {0, utc("2024-08-06")}


def test_a_store_that_is_being_written_and_compacted_is_sound(any_url):
    """Each comparison sees one moment."""
    with Store(any_url, create=True) as store:
        live(store, LIVE)
    ended = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            with Store(any_url) as store:
                for number in range(100_000):
                    at = utc("2024-08-05 12:00") + 20 * MINUTE * number
                    live(store, events_of((at, "long", 1.0), (at + 5, "short", 2.0)))
                    if number % 10 == 9:
                        list(compact(store, at - HOUR))
                    if ended.is_set():
                        return
        except BaseException as error:
            failed.append(error)
            raise

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until = time.monotonic() + 1.5
        looked = 0
        while time.monotonic() < until:
            assert problems(any_url) == []
            looked += 1
    finally:
        ended.set()
        writer.join(30)
    assert not failed
    assert looked > 1


def test_a_damaged_file(sqlite_url, tmp_path, capsys):
    many(sqlite_url, 20_000)
    file = tmp_path / "liquidations.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    data = bytearray(file.read_bytes())
    # In the middle there is nothing but events.
    middle = len(data) // size // 2 * size
    data[middle + size // 2 : middle + size] = bytes(size // 2)
    file.write_bytes(data)
    assert run(["db", "check", "--db-url", sqlite_url]) == 1
    printed = capsys.readouterr()
    assert "the file: SQLite says: " in printed.out
    assert "the rest was not read" in printed.err
    file.write_bytes(b"x" * 100_000)
    assert run(["db", "check", "--db-url", sqlite_url]) == 2
    assert "this file is something else" in capsys.readouterr().err


# --- compact --------------------------------------------------------------------------------------


def columns(url: str) -> Iterator[tuple[Bars, Events]]:
    with Store(url) as store, store.read() as reader:
        for series in reader.series():
            yield reader.bars(series, *FOREVER), reader.events(series, *FOREVER)


def test_compacting_changes_nothing_that_is_read(any_url, capsys):
    fill(any_url)
    before = list(columns(any_url))
    assert run(["db", "compact", "--db-url", any_url]) == 0
    assert "3 events and 2 bars were moved, 0 events dropped" in capsys.readouterr().err
    left = rows(any_url)
    assert [row[-1] > 0 for row in left["liq_event"]] == [True]  # the late one
    assert left["liq_bar"] == []
    for (bars, events), (old_bars, old_events) in zip(columns(any_url), before, strict=True):
        same_bits(bars, old_bars)
        same_bits(events, old_events)
    assert run(["db", "compact", "--db-url", any_url, "--keep-events", "30"]) == 0
    # All that is packed is years old: 4 of the archive, 3 of the recording, 3 live ones.
    assert "0 events and 0 bars were moved, 10 events dropped" in capsys.readouterr().err
    assert problems(any_url) == []


def test_the_room_comes_back(sqlite_url, tmp_path):
    many(sqlite_url, 30_000)
    size = (tmp_path / "liquidations.sqlite").stat().st_size
    assert run(["db", "compact", "--db-url", sqlite_url, "--vacuum"]) == 0
    assert (tmp_path / "liquidations.sqlite").stat().st_size < size / 3
    assert problems(sqlite_url) == []


def test_what_may_not_be_asked(postgresql_url, capsys):
    fill(postgresql_url)
    assert run(["db", "compact", "--db-url", postgresql_url, "--older-than", "0.5"]) == 2
    assert '"compact_after": got 0.5, must be a number of hours' in capsys.readouterr().err
    assert run(["db", "compact", "--db-url", postgresql_url, "--vacuum"]) == 2
    assert "autovacuum" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(["db"])


@pytest.mark.parametrize("action", ["migrate", "check", "compact", "copy"])
def test_each_action_has_help(action, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(["db", action, "--help"])
    text = capsys.readouterr().out
    assert "--db-url" in text
    assert "--userdir" in text
