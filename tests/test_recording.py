"""Recordings: what is written, and that any number of them merge to the union of what was seen."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, bars_of, events_of, same_bits, spans, utc
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidations.archives import Options, Part
from liquidations.archives.plain import ABOUT, read, write
from liquidations.candles import candle_opens, columns, source_candles
from liquidations.cli import run
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Events, Ints, make_events
from liquidations.importer import Imported, find_files, read_files, write_parts
from liquidations.recording import SUMS, check_sums, export
from liquidations.store import Store
from liquidations.writer import Inserted


T = utc("2026-11-30 23:50")
HOUR = 3_600_000
PAIR = "BTC/USDT:USDT"
BOTH = ("binance", PAIR)


def no_prices(pair: str, timeframe: str):
    raise AssertionError("nobody needs a price")


def import_all(store: Store, *folders: Path) -> list[Imported]:
    files = find_files(folders, ABOUT.files)
    return write_parts(store, read_files(files, "plain", Options(), no_prices)[0])


def stored(store: Store, pair: str = PAIR, source: str = "binance") -> tuple[Events, Ints]:
    with store.read() as reader:
        (series,) = (one for one in reader.series() if (one.pair, one.source) == (pair, source))
        return reader.events(series, 0, 2**62), reader.coverage(series)


def put(store: Store, events: Events, coverage: Ints, source: str = "binance", **options) -> None:
    with store.write() as writer:
        writer.insert(*BOTH, source, events, coverage, **options)


@pytest.fixture
def store(db_url) -> Iterator[Store]:
    with Store(db_url, create=True) as one:
        yield one


@pytest.fixture
def other(tmp_path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'other.sqlite'}", create=True) as one:
        yield one


# --- three recordings of one session ------------------------------------------------------------

SESSION = 4 * MINUTE


@st.composite
def sessions(draw):
    """Draw what happened, and what three recorders noted of it.

    :return: (time, side, price, amount) of each event, and by recorder its gaps as (start, length),
        how far off its clock is, and which of its rows stand twice
    """
    moment = st.tuples(
        st.one_of(st.integers(0, SESSION - 1), st.sampled_from([MINUTE, MINUTE, 2 * MINUTE - 1])),
        st.sampled_from([0, 1]),
        st.sampled_from([50_000.0, 50_000.5]),
        st.sampled_from([0.1, 0.1, 3.7]),
    )
    truth = draw(st.lists(moment, min_size=1, max_size=25))
    gap = st.tuples(st.integers(0, SESSION), st.integers(1, MINUTE))
    recorder = st.tuples(
        st.lists(gap, max_size=3), st.integers(-40, 900), st.sets(st.integers(0, 24))
    )
    return truth, draw(st.lists(recorder, min_size=3, max_size=3)), draw(st.permutations(range(3)))


def observed(gaps: list[tuple[int, int]]) -> np.ndarray:
    """Tell of each ms of the session whether somebody with these gaps observed it."""
    seen = np.ones(SESSION, dtype=bool)
    for start, length in gaps:
        seen[start : start + length] = False
    return seen


def runs(seen: np.ndarray) -> list[list[int]]:
    """List where a mask is true, as [start, end) of the session's time."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], seen, [False])).astype(int)))
    return (T + edges.reshape(-1, 2)).tolist()


def merge(folder: Path, order: tuple[int, ...]) -> tuple[Store, list[Imported]]:
    store = Store(f"sqlite:///{folder / 'merged.sqlite'}", create=True)
    return store, import_all(store, *(folder / f"recorder {number}" for number in order))


@settings(max_examples=25)
@given(sessions())
def test_recordings_of_one_session_merge_to_the_union_in_any_order(tmp_path_factory, session):
    truth, recorders, order = session
    folder = tmp_path_factory.mktemp("session")
    union = np.zeros(SESSION, dtype=bool)
    for number, (gaps, clock, twice) in enumerate(recorders):
        seen = observed(gaps)
        union |= seen
        heard = [row for row in truth if seen[row[0]]]
        time, side, price, amount = (np.array([row[k] for row in heard]) for k in range(4))
        time = time.astype(np.int64) + T
        events = make_events(
            time, side, price, amount, price * amount, received=time + clock,
            origin=np.ones(len(heard)), sort=False,
        )  # fmt: skip
        rows = [*range(len(heard)), *(row for row in twice if row < len(heard))]
        part = Part(
            *BOTH,
            "binance",
            events.take(np.array(rows, dtype=np.int64)),
            np.array(runs(seen), dtype=np.int64).reshape(-1, 2),
            origins=(f"recorder {number}",),
        )
        file = folder / f"recorder {number}" / "any.parquet"
        file.parent.mkdir()
        file.write_bytes(write(part, {}))
    expected = sorted((T + time, *rest) for time, *rest in truth if union[time])

    results = []
    for attempt in ((0, 1, 2), order):
        store, done = merge(folder, attempt)
        with store:
            assert all(one.rows.conflicts == 0 for one in done)
            assert sum(one.rows.new for one in done) == len(expected)
            events, coverage = stored(store)
            found = zip(
                *(getattr(events, name).tolist() for name in ("timestamp", "side", "price")),
                events.amount.tolist(),
                strict=True,
            )
            assert sorted(found) == expected
            assert len({*zip(events.timestamp, events.key, strict=True)}) == len(expected)
            assert coverage.tolist() == runs(union)
            with store.read() as reader:
                names = reader.origins()
                (series,) = reader.series()
                source = reader.source(series, T, T + SESSION)
        for time, origin, received in zip(
            events.timestamp.tolist(), events.origin.tolist(), events.received.tolist(), strict=True
        ):
            # Each is told by the first of the imported recordings that has it, at its time.
            first = next(n for n in attempt if observed(recorders[n][0])[time - T])
            assert names[origin] == f"recorder {first}"
            assert received == time + recorders[first][1]
        opens = candle_opens(T, T + SESSION, "1m")
        table = columns({"binance": source_candles(source, opens, opens + MINUTE)})
        results.append(table)
        (folder / "merged.sqlite").unlink()
    for name in results[0]:
        assert results[0][name].tobytes() == results[1][name].tobytes()
    for minute in range(SESSION // MINUTE):
        share = union[minute * MINUTE : (minute + 1) * MINUTE].mean()
        assert results[0]["liq_coverage"][minute] == pytest.approx(share, abs=1e-12)
        inside = [row for row in expected if (row[0] - T) // MINUTE == minute]
        for side, name in enumerate(("liq_long", "liq_short")):
            usd = sum(price * amount for _, own, price, amount in inside if own == side)
            value = results[0][name][minute]
            assert value == pytest.approx(usd, abs=1e-5) if share >= 0.9 else np.isnan(value)


# --- export, and back ---------------------------------------------------------------------------


def fill(store: Store) -> None:
    """Store two months of events, an hour of a vendor's bars, and another pair."""
    events = events_of((T, "long", 5.0), (T + 1, "short", 7.5), (T + 15 * MINUTE, "long", 2.0))
    put(store, events, spans((T - MINUTE, T + 20 * MINUTE)))
    # October was observed too, and nothing happened.
    put(store, Events.concat([]), spans(("2026-10-01", "2026-10-02")))
    bars = bars_of((T + 10 * MINUTE, 4.0, 0.0), (T + 70 * MINUTE, 0.0, 3.0))
    cover = spans((T + 10 * MINUTE, T + 190 * MINUTE))
    put(store, bars, cover, "coinalyze", period=HOUR)
    with store.write() as writer:
        writer.insert("okx", "BTC/USD:BTC", "okx", events_of((T, "long", 1.0)), spans((T, T + 9)))


FILES = [
    "binance/BTC_USDT_USDT/binance-2026-10.parquet",
    "binance/BTC_USDT_USDT/binance-2026-11.parquet",
    "binance/BTC_USDT_USDT/binance-2026-12.parquet",
    "binance/BTC_USDT_USDT/coinalyze~1h-2026-12.parquet",
    "okx/BTC_USD_BTC/okx-2026-11.parquet",
]


def test_each_month_is_a_file_with_its_coverage(store, tmp_path):
    fill(store)
    done = export(store, tmp_path / "out")
    found = {one.file.relative_to(tmp_path / "out").as_posix(): one for one in done}
    assert sorted(found) == FILES
    parts = [read((tmp_path / "out" / name).read_bytes(), Options())[0] for name in FILES]
    december = utc("2026-12-01")
    assert [part.coverage.tolist() for part in parts] == [
        [[utc("2026-10-01"), utc("2026-10-02")]],
        [[T - MINUTE, december]],
        [[december, T + 20 * MINUTE]],
        [[december, december + 3 * HOUR]],
        [[T, T + 9]],
    ]
    assert [len(part.rows) for part in parts] == [0, 2, 1, 2, 1]
    assert [one.rows for one in (found[name] for name in FILES)] == [0, 2, 1, 2, 1]
    assert parts[3].period == HOUR
    assert {origin for part in parts for origin in part.origins} == {store.name}
    assert not [path for path in (tmp_path / "out").rglob(".*")]


def test_what_is_exported_comes_back_equal(store, other, tmp_path):
    fill(store)
    export(store, tmp_path / "out")
    import_all(other, tmp_path / "out")
    assert other.fingerprint() == store.fingerprint()
    for pair, source in ((PAIR, "binance"), ("BTC/USD:BTC", "okx")):
        mine, theirs = stored(store, pair, source), stored(other, pair, source)
        same_bits(mine[0], theirs[0], *(set(Events.names()) - {"origin"}))
        assert mine[1].tolist() == theirs[1].tolist()
    with store.read() as mine, other.read() as theirs:
        names = [one for one in mine.series() if one.source == "coinalyze"]
        again = [one for one in theirs.series() if one.source == "coinalyze"]
        same_bits(mine.bars(names[0], 0, 2**62), theirs.bars(again[0], 0, 2**62))
        assert theirs.origins() == {1: store.name}
    # Once more, and from one's own store: nothing is new, nobody is somebody else.
    for one in (other, store):
        done = import_all(one, tmp_path / "out")
        assert {(row.rows.new, row.rows.revised, row.rows.conflicts) for row in done} == {(0, 0, 0)}
    with store.read() as reader:
        assert reader.origins() == {}


def test_origins_survive_being_passed_on(store, other, tmp_path):
    put(store, events_of((T, "long", 1.0)), spans((T, T + HOUR)))
    export(store, tmp_path / "first", name="Ada")
    put(other, events_of((T + 5, "long", 2.0)), spans((T + HOUR, T + 2 * HOUR)))
    import_all(other, tmp_path / "first")
    export(other, tmp_path / "second")
    with Store(f"sqlite:///{tmp_path / 'third.sqlite'}", create=True) as third:
        import_all(third, tmp_path / "second")
        events, _ = stored(third)
        with third.read() as reader:
            names = reader.origins()
    assert [names[one] for one in events.origin.tolist()] == ["Ada", other.name]


def test_a_live_feed_and_its_late_events_are_exported_too(store, other, tmp_path):
    with store.write() as writer:
        feed = writer.feed("binance", "linear", "binance")
        writer.join(feed, [PAIR], T)
        feed, _ = writer.append(feed, {PAIR: events_of((T + 5, "long", 1.0))}, 0)
        feed = writer.cover(feed, T, T + 3 * MINUTE)
        feed = writer.seal(feed, T + 2 * MINUTE, T + 2 * MINUTE)
        # One that came late, and one of a time that nobody can prove.
        rows = events_of((T + 9, "short", 2.0), (T + 5 * MINUTE, "short", 4.0))
        feed, _ = writer.append(feed, {PAIR: rows}, T + 3 * MINUTE)
        writer.seal(feed, T + 2 * MINUTE, T + 3 * MINUTE)
    export(store, tmp_path / "out")
    import_all(other, tmp_path / "out")
    events, coverage = stored(other)
    assert events.timestamp.tolist() == [T + 5, T + 9, T + 5 * MINUTE]
    assert coverage.tolist() == [[T, T + 3 * MINUTE]]
    assert events.received.tolist() == stored(store)[0].received.tolist()


def test_a_timerange_cuts_events_bars_and_coverage(store, tmp_path):
    fill(store)
    span = (T + 1, T + 100 * MINUTE)  # to 01:30, within a bar of an hour
    done = export(store, tmp_path / "out", span=span, chosen=lambda one: one.pair == PAIR)
    parts = {one.file.name: read(one.file.read_bytes(), Options())[0] for one in done}
    december = utc("2026-12-01")
    assert {name: part.coverage.tolist() for name, part in parts.items()} == {
        "binance-2026-11.parquet": [[T + 1, december]],
        "binance-2026-12.parquet": [[december, T + 20 * MINUTE]],
        # A bar is whole or it is not there.
        "coinalyze~1h-2026-12.parquet": [[december, december + 2 * HOUR]],
    }
    assert [len(parts[name].rows) for name in sorted(parts)] == [1, 1, 2]


def test_nothing_is_written_over_and_nothing_is_no_recording(store, tmp_path):
    fill(store)
    with pytest.raises(LiquidationsError, match="nothing of that is stored"):
        export(store, tmp_path / "out", chosen=lambda one: one.pair == "DOGE/USDT:USDT")
    with pytest.raises(LiquidationsError, match="nothing of that is stored"):
        export(store, tmp_path / "out", span=(T + 9 * HOUR, 2**62))
    with pytest.raises(LiquidationsError, match="name of a recorder"):
        export(store, tmp_path / "out", name="")
    with pytest.raises(LiquidationsError, match="origin must be a name"):
        export(store, tmp_path / "out", name="x" * 65)
    (tmp_path / "out").mkdir()
    export(store, tmp_path / "out")
    before = sums(tmp_path / "out")
    for taken in (tmp_path / "out", tmp_path / "out" / SUMS):
        with pytest.raises(LiquidationsError, match="is there already"):
            export(store, taken)
    assert sums(tmp_path / "out") == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(LiquidationsError, match="can't be written"):
        export(store, tmp_path / "file" / "out")


def sums(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and file.name != SUMS
    }


def test_no_two_series_share_a_file(store, other, tmp_path):
    hourly = bars_of((utc("2026-12-01"), 1.0, 2.0))
    cover = spans(("2026-12-01", "2026-12-02"))
    names = ["$A/USDT:USDT", "€A/USDT:USDT", "a/USDT:USDT", "A/USDT:USDT", "币/USDT:USDT"]
    event = events_of((utc("2026-12-01 12:00"), "long", 5.0))
    with store.write() as writer:
        for pair in names:
            writer.insert("binance", pair, "binance", event, cover)
        for source in ("rec-1h", "rec~1h", "a..b", "REC", "Rec"):
            writer.insert("binance", PAIR, source, event, cover)
        for source in ("rec", "REC"):
            writer.insert("okx", PAIR, source, hourly, cover, period=HOUR)
        writer.insert("binance", PAIR, "rec", hourly, cover, period=HOUR)
    done = export(store, tmp_path / "out")
    files = [one.file.relative_to(tmp_path / "out").as_posix() for one in done]
    # Also where large and small letters are the same.
    assert len({name.lower() for name in files}) == len(files) == 13
    assert "binance/A_USDT_USDT/binance-2026-12.parquet" in files
    assert "binance/BTC_USDT_USDT/rec-1h-2026-12.parquet" in files
    assert "binance/BTC_USDT_USDT/rec~1h-2026-12.parquet" in files
    assert "binance/BTC_USDT_USDT/a..b-2026-12.parquet" in files


def test_a_source_with_dots_comes_back(store, other, tmp_path):
    put(store, events_of((T, "long", 1.0)), spans((T, T + HOUR)), "a..b")
    export(store, tmp_path / "out")
    import_all(other, tmp_path / "out")
    assert stored(other, source="a..b")[0].timestamp.tolist() == [T]


# --- damage -------------------------------------------------------------------------------------


@pytest.fixture
def folder(store, tmp_path) -> Path:
    """Return a recording."""
    fill(store)
    export(store, tmp_path / "out")
    return tmp_path / "out"


def test_the_sums_are_those_of_the_files(folder):
    lines = (folder / SUMS).read_text().splitlines()
    assert lines == [f"{digest}  {name}" for name, digest in sorted(sums(folder).items())]
    if tool := shutil.which("sha256sum"):
        subprocess.run([tool, "-c", "--quiet", SUMS], cwd=folder, check=True)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_stops_the_import(folder, other, name):
    before = other.fingerprint()
    file = folder / name
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"recorder": "', b'"recorder":"X'))
    assert len(file.read_bytes()) == len(data) != 0
    with pytest.raises(LiquidationsError, match=rf"{SUMS}: {name} is not the file that was listed"):
        import_all(other, folder)
    file.unlink()
    with pytest.raises(LiquidationsError, match=rf"{SUMS}: it lists {name}, which is missing"):
        import_all(other, folder)
    assert other.fingerprint() == before


def test_without_the_list_pages_tell_damage(folder, other):
    (folder / SUMS).unlink()
    file = folder / FILES[1]
    about = pq.read_metadata(file).row_group(0)
    price = next(
        about.column(at)
        for at in range(about.num_columns)
        if about.column(at).path_in_schema == "price"
    )
    data = bytearray(file.read_bytes())
    data[price.data_page_offset + price.total_compressed_size - 1] ^= 1
    file.write_bytes(bytes(data))
    before = other.fingerprint()
    with pytest.raises(LiquidationsError, match=rf"{file.name}: this Parquet file is damaged"):
        import_all(other, folder)
    assert other.fingerprint() == before


@pytest.mark.parametrize(
    "listing",
    [
        b"nonsense",
        b"\xff",
        b"0  x",
        *(b"0" * 64 + b"  " + name for name in (b"../a", b"a/../../b", b"/etc/passwd", b"a/..")),
        *(b"0" * 64 + b"  " + name for name in (b"..\\a", b"\\a", b"a\0b", b"a\tb")),
    ],
)
def test_a_list_that_is_none_is_refused(listing):
    def digest(name: str) -> str:
        raise AssertionError("nothing outside of the folder is read")

    with pytest.raises(LiquidationsError, match="not a line of a list of sums"):
        check_sums(listing, digest)


def test_an_empty_list_and_files_that_are_not_listed_are_refused(folder, other):
    before = other.fingerprint()
    shutil.copy(folder / FILES[0], folder / "more.parquet")
    with pytest.raises(LiquidationsError, match=rf"more\.parquet does not stand in the {SUMS}"):
        import_all(other, folder)
    (folder / "more.parquet").unlink()
    (folder / SUMS).write_text("")
    with pytest.raises(LiquidationsError, match=rf"{SUMS}: it lists nothing"):
        import_all(other, folder)
    assert other.fingerprint() == before


# --- conflicts ----------------------------------------------------------------------------------


def test_what_one_of_two_lacks_is_a_conflict_and_stays(store, other, tmp_path):
    mine = events_of((T, "long", 1.0), (T + 5, "long", 2.0), (T + HOUR, "short", 4.0))
    theirs = events_of((T, "long", 1.0), (T + 7, "short", 3.0), (T + HOUR, "short", 4.0))
    put(store, mine, spans((T, T + HOUR)))
    put(other, theirs, spans((T, T + HOUR)))
    export(other, tmp_path / "out")
    done = import_all(store, tmp_path / "out")
    assert sum((one.rows for one in done), Inserted()).conflicts == 2
    assert stored(store)[0].timestamp.tolist() == [T, T + 5, T + 7, T + HOUR]
    # The second time only what they lack is left of it.
    done = import_all(store, tmp_path / "out")
    assert sum((one.rows for one in done), Inserted()).conflicts == 1


# --- the commands -------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Work in a folder with the repository's config, and a store with some liquidations."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "config.json", tmp_path)
    (tmp_path / "user_data").mkdir()
    with Store("sqlite:///user_data/liquidations.sqlite", create=True) as store:
        fill(store)
    return tmp_path


def words(text: str) -> list[str]:
    return " ".join(text.split()).split()


def test_export_and_import_by_command(home, capsys):
    assert run(["export-data", "out", "--name", "Ada"]) == 0
    printed = capsys.readouterr()
    assert "1h bars" in printed.out
    assert "liquidations import-data out" in printed.err
    assert sorted(sums(home / "out")) == FILES
    to = ["--db-url", "sqlite:///user_data/other.sqlite"]
    assert run(["import-data", "out", *to]) == 0
    printed = capsys.readouterr()
    (line,) = (line for line in printed.out.splitlines() if "2026-10-01" in line)
    # A row for each series: from the first to the last month.
    assert words(line.replace("│", " "))[-7:-3] == ["2026-10-01", "00:00", "2026-12-01", "00:10"]
    assert words(line.replace("│", " "))[-3:] == ["3", "0", "0"]
    assert "Conflicts" not in printed.out + printed.err
    with Store(to[1]) as store:
        assert stored(store)[0].timestamp.tolist() == [T, T + 1, T + 15 * MINUTE]


def test_export_chooses(home, capsys):
    chosen = {
        ("-p", "BTC/.*:BTC"): FILES[4:],
        ("-p", PAIR, "--source", "coinalyze"): FILES[3:4],
        ("--exchange", "okx"): FILES[4:],
        ("--timerange", "20261201-"): FILES[2:4],
        ("--timerange=-20261101",): FILES[:1],
    }
    for number, (flags, files) in enumerate(chosen.items()):
        assert run(["export-data", f"out{number}", *flags]) == 0
        assert sorted(sums(home / f"out{number}")) == files
    for flags in (["-p", "DOGE/.*"], ["--source", "tardis"], ["--timerange", "20261202-20261203"]):
        assert run(["export-data", "none", *flags]) == 2
        assert "nothing of that is stored" in capsys.readouterr().err
    assert run(["export-data", "out0"]) == 2
    assert "name a new folder" in capsys.readouterr().err
    assert run(["export-data", "none", "-p", "BTC/("]) == 2
    assert "ERROR: Wildcard error" in capsys.readouterr().err
    assert run(["export-data", "--timerange", "20261202-20261201", "none"]) == 2
    assert not (home / "none").exists()


def test_conflicts_are_shown_and_explained(home, capsys):
    assert run(["export-data", "out"]) == 0
    with Store("sqlite:///user_data/other.sqlite", create=True) as store:
        put(store, events_of((T + 3, "long", 1.0)), spans((T, T + MINUTE)))
    capsys.readouterr()
    assert run(["import-data", "out", "--db-url", "sqlite:///user_data/other.sqlite"]) == 0
    printed = capsys.readouterr()
    assert "Conflicts" in printed.out
    assert "one of two recordings lacks" in printed.err


def test_simulated_recordings_stay_labelled(home, capsys):
    invented = ["--db-url", "sqlite:///user_data/invented.sqlite"]
    with Store(invented[1], create=True) as store:
        put(store, events_of((T, "long", 1.0)), spans((T, T + MINUTE)), "simulated")
    assert run(["export-data", "invented", *invented]) == 0
    assert "SIMULATED" in capsys.readouterr().err
    assert run(["import-data", "invented"]) == 2
    assert "must never mix" in capsys.readouterr().err
    assert run(["export-data", "real"]) == 0
    with Store("sqlite:///user_data/empty.sqlite", create=True) as store:
        before = store.fingerprint()
    both = ["import-data", "invented", "real", "--db-url", "sqlite:///user_data/empty.sqlite"]
    for order in (both, [both[0], both[2], both[1], *both[3:]]):
        capsys.readouterr()
        assert run(order) == 2
        assert "must never mix" in capsys.readouterr().err
        with Store("sqlite:///user_data/empty.sqlite") as store:
            assert store.fingerprint() == before


def test_a_csv_needs_its_timerange(home, capsys):
    text = f"exchange,pair,timestamp,side,price,amount\nbybit,{PAIR},{T},long,50000,0.5\n"
    (home / "mine.csv").write_text(text)
    assert run(["import-data", "mine.csv"]) == 2
    assert "mine.csv: a list of events does not say" in capsys.readouterr().err
    assert run(["import-data", "mine.csv", "--timerange", "20261130-"]) == 2
    assert "--timerange must say from when to when" in capsys.readouterr().err
    assert run(["import-data", "mine.csv", "--timerange", "20261130-20261201"]) == 0
    assert "2026-11-30 00:00" in capsys.readouterr().out
    assert run(["import-data", "mine.csv", "out", "--timerange", "20261130-20261201"]) == 2
    span = ["--timerange", "20261130-20261201"]
    capsys.readouterr()
    assert run(["import-data", "--source", "tardis", "mine.csv", *span]) == 2
    assert "say themselves what they cover" in capsys.readouterr().err


def test_pairs_of_an_import_are_patterns_too(home, capsys):
    assert run(["export-data", "out"]) == 0
    for number, (pattern, pairs) in enumerate(
        {"BTC/.*:USDT": {PAIR}, "btc/usd:.*": {"BTC/USD:BTC"}, PAIR: {PAIR}}.items()
    ):
        url = f"sqlite:///user_data/{number}.sqlite"
        assert run(["import-data", "out", "-p", pattern, "--db-url", url]) == 0
        with Store(url) as store, store.read() as reader:
            assert {one.pair for one in reader.series()} == pairs
    capsys.readouterr()
    assert run(["import-data", "out", "-p", "DOGE/.*"]) == 2
    assert "no liquidations of any chosen pair" in capsys.readouterr().err
    assert run(["import-data", "out", "-p", "BTC/("]) == 2
    assert "ERROR: Wildcard error" in capsys.readouterr().err


def test_what_a_file_does_not_say_is_not_passed_on_as_ones_own(home, capsys):
    text = f"exchange,pair,timestamp,side,price,amount\nbybit,{PAIR},{T},long,50000,0.5\n"
    (home / "mine.csv").write_text(text)
    assert run(["import-data", "mine.csv", "--timerange", "20261130-20261201"]) == 0
    assert run(["export-data", "out", "--name", "Ada", "--exchange", "bybit"]) == 0
    (file,) = (home / "out").rglob("*.parquet")
    (part,) = read(file.read_bytes(), Options())
    assert part.origins == ("unknown",)
