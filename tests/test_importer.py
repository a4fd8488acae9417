"""The importer: where files may be, what is kept of them, and that a collector need not wait."""

import hashlib
import sqlite3
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import spans, utc
from test_node_fills import ADA, block, fill, lines, lz4

from liquidations.archives import ARCHIVES, Context, Options, archive
from liquidations.errors import LiquidationsError
from liquidations.importer import find_files, read_files, shown, write_parts
from liquidations.store import Store
from liquidations.writer import Writer


T = utc("2024-08-05 03:00")
HOUR = 3_600_000
PLAIN = ("*.csv", "*.parquet")
SPAN = Options(span=(T, T + 10 * HOUR))


def no_prices(pair: str, timeframe: str):
    raise AssertionError("nobody needs a price")


def csv(*hours: int, pair: str = "BTC/USDT:USDT") -> bytes:
    rows = (f"bybit,{pair},{T + hour * HOUR},long,50000,0.5" for hour in hours)
    return "".join(
        f"{line}\n" for line in ("exchange,pair,timestamp,side,price,amount", *rows)
    ).encode()


def times(store: Store) -> list[int]:
    with store.read() as reader:
        return [
            time
            for series in reader.series()
            for time in reader.events(series, 0, 2**62).timestamp.tolist()
        ]


# --- folders ------------------------------------------------------------------------------------


def test_a_folder_means_the_files_below_it_that_fit(tmp_path):
    for name in ("b.csv", "deep/er/a.csv", "a.parquet", "a.json", ".hidden.csv", "a.csv.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    found = find_files([tmp_path, tmp_path / "a.json"], PLAIN)
    assert found == [
        (tmp_path / "a.parquet", False),
        (tmp_path / "b.csv", False),
        (tmp_path / "deep/er/a.csv", False),
        (tmp_path / "a.json", True),
    ]
    with pytest.raises(LiquidationsError, match=r"has no \.lz4 or \.jsonl file"):
        find_files([tmp_path], archive("node_fills").ABOUT.files)


@pytest.mark.parametrize("source", ARCHIVES)
def test_the_patterns_of_every_source_can_be_told_to_people(source, tmp_path):
    with pytest.raises(LiquidationsError, match=r"has no \.\w+"):
        find_files([tmp_path], archive(source).ABOUT.files)


def test_sums_lie_in_any_folder_below(tmp_path):
    inner = tmp_path / "one"
    inner.mkdir()
    (inner / "a.csv").write_bytes(csv(0))
    listing = inner / "SHA256SUMS"
    listing.write_text(f"{hashlib.sha256(csv(0)).hexdigest()} *a.csv\n")
    assert len(find_files([tmp_path], PLAIN)) == 1
    listing.write_text(f"{hashlib.sha256(csv(1)).hexdigest()} *a.csv\n")
    with pytest.raises(LiquidationsError, match=r"one/SHA256SUMS: a\.csv is not the file"):
        find_files([tmp_path], PLAIN)


def test_a_file_that_no_list_names_is_refused(tmp_path):
    inner = tmp_path / "one"
    inner.mkdir()
    (inner / "a.csv").write_bytes(csv(0))
    listing = inner / "SHA256SUMS"
    line = f"{hashlib.sha256(csv(0)).hexdigest()}  ./a.csv\n"
    listing.write_text(line)
    (inner / "other.txt").write_bytes(b"x")  # is not imported
    (tmp_path / "beside.csv").write_bytes(csv(1))  # is in no folder with a list
    assert len(find_files([tmp_path], PLAIN)) == 2
    (inner / "added.csv").write_bytes(csv(1))
    for given in (tmp_path, inner):
        with pytest.raises(LiquidationsError, match=r"added\.csv does not stand in the SHA256SUMS"):
            find_files([given], PLAIN)
    # A recording in a folder of recordings has a list of its own.
    (inner / "added.csv").unlink()
    (inner / "two").mkdir()
    (inner / "two/b.csv").write_bytes(csv(2))
    digest = hashlib.sha256(csv(2)).hexdigest()
    (inner / "two/SHA256SUMS").write_text(f"{digest}  b.csv\n")
    assert len(find_files([tmp_path], PLAIN)) == 3
    listing.write_text("")
    with pytest.raises(LiquidationsError, match="it lists nothing"):
        find_files([tmp_path], PLAIN)


def test_large_letters_are_letters(tmp_path):
    (tmp_path / "B.CSV").write_bytes(csv(0))
    assert find_files([tmp_path], PLAIN) == [(tmp_path / "B.CSV", False)]


# --- elsewhere ----------------------------------------------------------------------------------


@pytest.fixture
def elsewhere():
    """Return a file system that is not on this disk, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def test_urls_of_files_folders_and_patterns(elsewhere, tmp_path, db_url):
    for hour, name in enumerate(("a.csv", "in/b.csv", "in/deeper/c.csv", "in/d.txt")):
        elsewhere.pipe(f"/box/{name}", csv(hour))
    expected = {
        "memory://box/a.csv": ["memory://box/a.csv"],
        "memory://box/in": ["memory:///box/in/b.csv", "memory:///box/in/deeper/c.csv"],
        "memory://box/*.csv": ["memory:///box/a.csv"],
        "memory://box/**/*.csv": ["memory:///box/in/b.csv", "memory:///box/in/deeper/c.csv"],
    }
    for url, files in expected.items():
        found = [place for place, _ in find_files([url], PLAIN)]
        assert {one.replace(":///", "://") for one in found} >= {
            one.replace(":///", "://") for one in files
        }
    local = tmp_path / "local.csv"
    local.write_bytes(csv(5))
    files = find_files(["memory://box/in", local], PLAIN)
    with Store(db_url, create=True) as store:
        write_parts(store, read_files(files, "plain", SPAN, no_prices)[0])
        assert times(store) == [T + HOUR, T + 2 * HOUR, T + 5 * HOUR]


def test_sums_are_compared_elsewhere_too(elsewhere):
    elsewhere.pipe("/box/a.csv", csv(0))
    digest = hashlib.sha256(csv(0)).hexdigest()
    elsewhere.pipe("/box/SHA256SUMS", f"{digest}  a.csv\n".encode())
    assert len(find_files(["memory://box"], PLAIN)) == 1
    elsewhere.pipe("/box/c.csv", csv(0))
    with pytest.raises(LiquidationsError, match=r"c\.csv does not stand in the SHA256SUMS"):
        find_files(["memory://box"], PLAIN)
    elsewhere.rm("/box/c.csv")
    elsewhere.pipe("/box/SHA256SUMS", f"{digest}  b.csv\n".encode())
    with pytest.raises(LiquidationsError, match=r"SHA256SUMS: it lists b\.csv, which is missing"):
        find_files(["memory://box"], PLAIN)


@pytest.mark.parametrize("url", ["memory://box/none.csv", "memory://none/*.csv"])
def test_what_is_not_elsewhere_is_an_error(elsewhere, url):
    with pytest.raises(LiquidationsError, match=r"there is no file|has no \.csv"):
        find_files([url], PLAIN)


def test_a_missing_package_names_the_line_that_gets_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(LiquidationsError) as caught:
        find_files(["s3://box/a.csv"], PLAIN)
    assert "pip install 'freqtrade-liquidations[remote]'" in str(caught.value)


def test_who_reads_from_s3_pays(monkeypatch):
    asked = []

    def url_to_fs(url, **options):
        asked.append((url, options))
        raise FileNotFoundError

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    for url in ("s3://box/a.csv", "https://box/a.csv"):
        with pytest.raises(LiquidationsError, match="there is no file"):
            find_files([url], PLAIN)
    assert asked == [("s3://box/a.csv", {"requester_pays": True}), ("https://box/a.csv", {})]


def test_no_key_in_a_url_gets_into_an_error(monkeypatch):
    def url_to_fs(url, **_):
        raise RuntimeError(f"403 of {url}")

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    with pytest.raises(LiquidationsError) as caught:
        find_files(["https://ada:SECRET@box/a.csv?signature=SECRET"], PLAIN)
    assert str(caught.value) == "https://ada:***@box/a.csv can't be read: RuntimeError"
    assert caught.value.__suppress_context__
    assert shown(Path("a?b")) == "a?b"


def test_a_reader_is_told_the_name_of_a_file_without_keys(elsewhere, monkeypatch):
    asked = []
    monkeypatch.setattr(
        archive("plain"), "read", lambda data, options: [asked.append(options.name)][:0]
    )
    monkeypatch.setattr("liquidations.importer.load", lambda place, most: b"")
    with pytest.raises(LiquidationsError, match="no liquidations"):
        read_files([("https://box/a.csv?key=SECRET", True)], "plain", SPAN, no_prices)
    assert asked == ["a.csv"]


# --- reading before writing ---------------------------------------------------------------------


def many(folder: Path) -> list[tuple[Path, bool]]:
    for hour in range(4):
        (folder / f"{hour}.csv").write_bytes(csv(hour))
    return find_files([folder], PLAIN)


@pytest.mark.parametrize(("keep", "again"), [(10**9, 0), (0, 3), (2 * 2060, 1)])
def test_what_is_too_large_to_keep_is_read_again(tmp_path, db_url, monkeypatch, keep, again):
    """A part takes 2,000 bytes and 51 an event; the last one is kept, whatever its size."""
    module, read = archive("plain"), archive("plain").read
    asked = []

    def counted(data, options):
        asked.append(options.name)
        return read(data, options)

    monkeypatch.setattr(module, "read", counted)
    parts, _ = read_files(many(tmp_path), "plain", SPAN, no_prices, keep=keep)
    assert asked == [f"{hour}.csv" for hour in range(4)]
    assert len(parts) == 4
    with Store(db_url, create=True) as store:
        done = write_parts(store, parts)
        assert [one.rows.new for one in done] == [1] * 4
        assert all(len(one.part.rows) == 0 for one in done)
        assert times(store) == [T + hour * HOUR for hour in range(4)]
    assert len(asked) == 4 + again


def test_a_bad_file_that_would_not_be_kept_stops_all(tmp_path, db_url):
    files = many(tmp_path)
    (tmp_path / "3.csv").write_bytes(csv(3).replace(b"long", b"sell"))
    with Store(db_url, create=True) as store:
        with pytest.raises(LiquidationsError, match=r"3\.csv: side must be the POSITION"):
            write_parts(store, read_files(files, "plain", SPAN, no_prices, keep=0)[0])
        assert times(store) == []


def test_a_collector_can_write_while_files_are_read(tmp_path, db_url, monkeypatch):
    files = many(tmp_path)
    module, read = archive("plain"), archive("plain").read
    with Store(db_url, create=True) as store:

        def slow(data, options):
            # Fails if the importer holds the lock.
            with sqlite3.connect(db_url.removeprefix("sqlite:///"), timeout=0) as other:
                other.execute("BEGIN IMMEDIATE")
            other.close()
            return read(data, options)

        monkeypatch.setattr(module, "read", slow)
        parts, _ = read_files(files, "plain", SPAN, no_prices, keep=0)
        seen = []
        write_parts(store, parts, lambda files, total: (seen.append(total), files)[1])
        assert seen == [4]
        assert len(times(store)) == 4


def test_a_very_large_file_is_stored_in_steps(tmp_path, db_url, monkeypatch):
    hours = [*range(0, 200, 7), 48, 49, 49, 72]
    (tmp_path / "a.csv").write_bytes(csv(*hours))
    files = find_files([tmp_path], PLAIN)
    options = Options(span=(T, T + 300 * HOUR))
    marks = set()
    for step in (1, 3, 10**6):
        monkeypatch.setattr("liquidations.importer.STEP", step)
        with Store(db_url, create=True) as store:
            for new in (31, 0):
                (done,) = write_parts(store, read_files(files, "plain", options, no_prices)[0])
                assert (done.rows.new, done.rows.known, done.rows.conflicts) == (new, 31 - new, 0)
            with store.read() as reader:
                (series,) = reader.series()
                assert reader.coverage(series).tolist() == [[T, T + 300 * HOUR]]
            assert times(store) == sorted({T + hour * HOUR for hour in hours})
            marks.add(store.fingerprint())
        Path(db_url.removeprefix("sqlite:///")).unlink()
    assert len(marks) == 1


def test_pairs_and_exchanges_are_chosen(tmp_path):
    (tmp_path / "a.csv").write_bytes(csv(0) + csv(1, pair="ETH/USDT:USDT").partition(b"\n")[2])
    files = find_files([tmp_path], PLAIN)
    parts, _ = read_files(files, "plain", SPAN, no_prices, "ETH/USDT:USDT".__eq__)
    assert [part.pair for _, part in parts] == ["ETH/USDT:USDT"]
    with pytest.raises(LiquidationsError, match="no liquidations of any chosen pair on okx"):
        read_files(files, "plain", SPAN, no_prices, exchanges=["okx"])


def test_open_interest_is_handed_on(tmp_path, monkeypatch):
    context = Context("open_interest", "bybit", "BTC/USDT:USDT", "plain", HOUR, np.array([T]), {})
    monkeypatch.setattr(archive("plain"), "read", lambda data, options: [context])
    (tmp_path / "a.csv").write_bytes(b"x")
    parts, _ = read_files(find_files([tmp_path], PLAIN), "plain", SPAN, no_prices)
    assert (list(parts), parts.contexts) == ([], [context])


def test_files_of_one_timerange_are_one_recording(tmp_path, db_url):
    files = many(tmp_path)
    (tmp_path / "4.csv").write_bytes(csv(9, pair="ETH/USDT:USDT"))
    files = find_files([tmp_path], PLAIN)
    with Store(db_url, create=True) as store:
        for _ in range(2):
            parts, _ = read_files(files, "plain", SPAN, no_prices)
            done = write_parts(store, parts)
            # None of them says that nothing happened while the others tell something.
            assert [one.rows.conflicts for one in done] == [0] * 5
            assert done[0].part.coverage.tolist() == [list(SPAN.span)]
            with store.read() as reader:
                for series in reader.series():
                    assert reader.coverage(series).tolist() == [list(SPAN.span)]


def files_of(folder: Path, name: str, *files: tuple[int, ...]) -> list[tuple[Path, bool]]:
    """Write files of some hours; hours from 100 on are other events of the same hours."""
    found = []
    for number, hours in enumerate(files):
        rows = csv(*(hour % 100 for hour in hours if hour < 100))
        other = csv(*(hour - 100 for hour in hours if hour >= 100)).replace(b"long", b"short")
        file = folder / f"{name}{number}.csv"
        file.write_bytes(rows + other.partition(b"\n")[2])
        found.append((file, True))
    return found


@pytest.mark.parametrize(
    ("mine", "theirs", "conflicts"),
    [
        # Both files have what the other recorder lacks, and lack what it has.
        ([(0,), (1,)], [(100,), (101,)], 4),
        ([(0, 1)], [(100,), (101,)], 4),
        ([(0,), (1,)], [(100, 101)], 4),
        ([(0,), (1,)], [(0,), (1, 2)], 1),
        ([(0, 1), (1, 2)], [(2,), (0,)], 1),
        ([(0,), (1,)], [(0, 3), (3,)], 2),
        ([(0,), (1,)], [(1,), (0,)], 0),
    ],
)
def test_conflicts_are_counted_however_a_recording_is_cut(
    tmp_path, db_url, mine, theirs, conflicts
):
    with Store(db_url, create=True) as store:
        for name, files, expected in (("mine", mine, 0), ("theirs", theirs, conflicts)):
            read = read_files(files_of(tmp_path, name, *files), "plain", SPAN, no_prices)[0]
            done = write_parts(store, read)
            assert sum(one.rows.conflicts for one in done) == expected
        events = {hour for hours in (*mine, *theirs) for hour in hours}
        assert len(times(store)) == len(events)


def test_only_time_that_both_observed_has_conflicts(tmp_path, db_url):
    early, late = (Options(span=(T + a * HOUR, T + b * HOUR)) for a, b in ((0, 5), (3, 9)))
    with Store(db_url, create=True) as store:
        for name, files, span in (("a", [(0,), (4,)], early), ("b", [(103,), (3,), (106,)], late)):
            done = write_parts(
                store, read_files(files_of(tmp_path, name, *files), "plain", span, no_prices)[0]
            )
        # At 4:00 theirs lack one, at 3:00 mine lacks two; 0:00 and 6:00 are of one of them.
        assert sum(one.rows.conflicts for one in done) == 3


# --- files that tell of a whole exchange --------------------------------------------------------


def test_a_pair_of_any_file_is_covered_by_all(tmp_path, db_url):
    """BTC is traded in both hours, ETH in the first one, SOL in the second, and is liquidated."""
    start = utc("2025-10-27 17:00")
    for hour, coins in enumerate((("BTC", "ETH"), ("BTC", "SOL"))):
        first, last = start + hour * HOUR + 10, start + (hour + 1) * HOUR - 90
        steps = (*range(first, last, 50_000), last)
        blocks = [
            block(at, *(fill(ADA, at, "A", coin=coin) for coin in coins))
            for at in steps
        ]  # fmt: skip
        blocks[5]["events"] += [fill(ADA, steps[5], "A", ADA, coin=coins[1], tid=9)]
        (tmp_path / f"{17 + hour}.lz4").write_bytes(lz4(lines(*blocks)))
    files = find_files([tmp_path], archive("node_fills").ABOUT.files)
    whole = spans((start, start + 2 * HOUR)).tolist()
    names = ("BTC/USDC:USDC", "ETH/USDC:USDC", "SOL/USDC:USDC")
    for keep, pairs in ((10**9, ()), (0, ()), (10**9, ("ETH/USDC:USDC",))):
        chosen = (pairs or names).__contains__
        parts, _ = read_files(files, "node_fills", Options(), no_prices, chosen, keep=keep)
        with Store(db_url, create=True) as store:
            done = write_parts(store, parts)
            assert len(parts) == len(done) == (2 if pairs else 6)
            with store.read() as reader:
                found = {one.pair: reader.coverage(one).tolist() for one in reader.series()}
            assert len(times(store)) == (1 if pairs else 2)
        # ETH was not traded in the second hour, but could have been liquidated in it.
        assert found == dict.fromkeys(pairs or names, whole)
        Path(db_url.removeprefix("sqlite:///")).unlink()


def test_files_of_a_whole_exchange_are_written_at_once(tmp_path, db_url, monkeypatch):
    start = utc("2025-10-27 17:00")
    coins = [f"C{number}" for number in range(6)]
    for hour in range(4):
        first, last = start + hour * HOUR + 10, start + (hour + 1) * HOUR - 90
        steps = (*range(first, last, 50_000), last)
        blocks = [block(at, *(fill(ADA, at, "A", coin=coin) for coin in coins)) for at in steps]
        blocks[5]["events"] += [fill(ADA, steps[5], "A", ADA, coin=coins[hour], tid=9)]
        (tmp_path / f"{17 + hour}.jsonl").write_bytes(lines(*blocks))
    files = find_files([tmp_path], archive("node_fills").ABOUT.files)
    parts, _ = read_files(files, "node_fills", Options(), no_prices)
    asked = []
    insert = Writer.insert

    def counted(writer, exchange, pair, *rest, **options):
        asked.append(pair)
        return insert(writer, exchange, pair, *rest, **options)

    monkeypatch.setattr(Writer, "insert", counted)
    with Store(db_url, create=True) as store:
        done = write_parts(store, parts)
        assert len(done) == 4 * len(coins)
        assert sum(one.rows.new for one in done) == len(times(store)) == 4
        assert len(asked) == len(coins)
        with store.read() as reader:
            for one in reader.series():
                assert reader.coverage(one).tolist() == [[start, start + 4 * HOUR]]
        # What they say of a time with a liquidation of somebody else is a conflict.
        for hour in (1, 2):
            (tmp_path / f"{17 + hour}.jsonl").unlink()
        files = find_files([tmp_path], archive("node_fills").ABOUT.files)
        for file, _ in files:
            text = file.read_bytes().replace(b'"liquidation"', b'"no"')
            file.write_bytes(text)
        done = write_parts(store, read_files(files, "node_fills", Options(), no_prices)[0])
        assert sum(one.rows.conflicts for one in done) == 2


def test_parts_without_rows_take_room_too(tmp_path):
    start = utc("2025-10-27 17:00")
    for hour in range(3):
        at = start + hour * HOUR
        coins = [fill(ADA, at, "A", coin=f"C{number}") for number in range(50)]
        (tmp_path / f"{hour}.jsonl").write_bytes(lines(block(at, *coins)))
    files = find_files([tmp_path], archive("node_fills").ABOUT.files)
    parts, _ = read_files(files, "node_fills", Options(), no_prices, keep=150_000)
    assert [file.parts is None for file in parts.files] == [False, True, False]
