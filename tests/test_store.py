"""The store: nothing lost, doubled, torn or mixed, whoever writes, in whatever order, until killed.

All on a real SQLite file and in a real PostgreSQL; other processes are real processes.
"""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import ONLY_SQLITE, bars_of, events_of, execute, same_bits, spans, utc
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidations.candles import to_bars
from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE, Bars, Events
from liquidations.reader import Reader, Series
from liquidations.store import Store
from liquidations.writer import Inserted


HOUR = 60 * MINUTE
BTC = ("okx", "BTC/USDT:USDT", "okx")
VENDOR = ("binance", "BTC/USDT:USDT", "coinalyze")
NOWHERE = spans()
DAY_5 = spans(("2024-08-05", "2024-08-06"))
FOREVER = (utc("2020-01-01"), utc("2030-01-01"))

EVENTS = events_of(
    ("2024-08-05 03:00:00.100", "long", 100.0),
    ("2024-08-05 03:00:00.100", "long", 100.0),  # a twin: a second event, not a repetition
    ("2024-08-05 03:00:59.999", "short", 30.0),
    ("2024-08-05 03:01:00.000", "long", 7.0),
    ("2024-08-06 00:00:00.000", "short", 9.0),
)


def only(reader: Reader) -> Series:
    (series,) = reader.series()
    return series


def stored(store: Store) -> tuple[Events, Bars, list]:
    """Return what a store of one series holds."""
    with store.read() as reader:
        series = only(reader)
        events, bars = reader.events(series, *FOREVER), reader.bars(series, *FOREVER)
        return events, bars, reader.coverage(series).tolist()


def insert(store: Store, rows: Events | Bars, coverage=NOWHERE, names=BTC, **options) -> Inserted:
    with store.write() as writer:
        return writer.insert(*names, rows, coverage, **options)


@pytest.fixture
def db_url(any_url: str) -> str:
    return any_url


@pytest.fixture
def store(db_url: str) -> Iterator[Store]:
    with Store(db_url, create=True) as opened:
        yield opened


def path_of(db_url: str) -> Path:
    return Path(db_url.removeprefix("sqlite:///"))


@contextmanager
def unchanged(db_url: str) -> Iterator[None]:
    """Assert that a store tells the same afterwards."""
    with Store(db_url) as store:
        before = store.fingerprint(), counts(store)
    yield
    with Store(db_url) as store:
        assert (store.fingerprint(), counts(store)) == before


def counts(store: Store) -> dict:
    with store.read() as reader:
        return reader.counts()


# --- inserting ----------------------------------------------------------------------------------


def test_events_and_their_bars_come_back(store):
    assert insert(store, EVENTS, DAY_5) == Inserted(new=5, known=0)
    events, bars, coverage = stored(store)
    order = np.lexsort((EVENTS.key, EVENTS.timestamp))
    same_bits(events, EVENTS.take(order))
    #  minute           long           short
    #  08-05 03:00      100 + 100      30
    #  08-05 03:01      7              –
    #  08-06 00:00      –              9
    minutes = [utc("2024-08-05 03:00"), utc("2024-08-05 03:01"), utc("2024-08-06 00:00")]
    assert bars.timestamp.tolist() == minutes
    assert bars.long.tolist() == [200.0, 7.0, 0.0]
    assert bars.short.tolist() == [30.0, 0.0, 9.0]
    assert bars.long_count.tolist() == [2.0, 1.0, 0.0]
    assert bars.short_count.tolist() == [1.0, 0.0, 1.0]
    assert bars.long_squares.tolist() == [20_000.0, 49.0, 0.0]
    assert coverage == DAY_5.tolist()


def test_inserting_twice_changes_nothing(store):
    insert(store, EVENTS, DAY_5)
    before, mark = stored(store), store.fingerprint()
    assert insert(store, EVENTS, DAY_5) == Inserted(new=0, known=5)
    after = stored(store)
    same_bits(after[0], before[0])
    same_bits(after[1], before[1])
    assert after[2] == before[2]
    assert store.fingerprint() == mark


def test_overlapping_pages_lose_and_double_nothing(store):
    first, second = EVENTS.take(slice(0, 4)), EVENTS.take(slice(2, 5))
    assert insert(store, second) == Inserted(new=3)
    assert insert(store, first) == Inserted(new=2, known=2)
    events, bars, _ = stored(store)
    assert len(events) == 5
    assert (bars.long.sum(), bars.short.sum()) == (207.0, 39.0)


def test_one_batch_that_holds_a_row_twice_by_overlap_counts_it_once(store):
    both = Events.concat([EVENTS.take(slice(0, 4)), EVENTS.take(slice(2, 5))])
    assert insert(store, both) == Inserted(new=5, known=2)
    assert stored(store)[1].long.sum() == 207.0


def test_a_repetition_that_was_received_later_leaves_the_first_alone(store):
    one = events_of(("2024-08-05 03:00", "long", 5.0))
    again = Events(**{**one.arrays(), "received": one.received + 9})
    insert(store, one)
    assert insert(store, again) == Inserted(known=1)
    assert stored(store)[0].received.tolist() == one.received.tolist()


def test_the_same_moment_on_another_exchange_or_pair_is_another_event(store):
    one = events_of(("2024-08-05 03:00", "long", 5.0))
    for names in (BTC, ("bybit", *BTC[1:]), ("okx", "BTC/USD:BTC", "okx")):
        assert insert(store, one, names=names) == Inserted(new=1)
    with store.read() as reader:
        assert [reader.bars(one, *FOREVER).long.tolist() for one in reader.series()] == [[5.0]] * 3


def test_series_are_found_by_base_whatever_the_multiplier(store):
    one = events_of(("2024-08-05 03:00", "long", 5.0))
    for pair in ("1000SHIB/USDT:USDT", "kSHIB/USDC:USDC", "BTC/USDT:USDT"):
        insert(store, one, names=("okx", pair, "okx"))
    with store.read() as reader:
        found = [series.pair for series in reader.series(base="SHIB")]
    assert found == ["1000SHIB/USDT:USDT", "kSHIB/USDC:USDC"]


def test_nothing_inserted_is_nothing_stored(store):
    assert insert(store, Events.concat([])) == Inserted()
    assert insert(store, bars_of(), names=VENDOR, period=HOUR) == Inserted()
    assert counts(store) == {}


# --- a vendor's bars ----------------------------------------------------------------------------


def test_a_vendors_revision_is_counted_and_the_first_value_kept(store):
    first = bars_of(("2024-08-05 03:00", 1.0, 2.0), ("2024-08-05 04:00", 3.0, 4.0))
    later = bars_of(
        ("2024-08-05 03:00", 1.0, 2.0),  # the same
        ("2024-08-05 04:00", 3.0, 4.5),  # revised
        ("2024-08-05 05:00", 5.0, 6.0),  # new
    )
    assert insert(store, first, names=VENDOR, period=HOUR) == Inserted(new=2)
    mark = store.fingerprint()
    assert insert(store, later.take(slice(0, 2)), names=VENDOR, period=HOUR) == Inserted(
        known=1, revised=1
    )
    assert store.fingerprint() != mark  # who reads the last vintage sees another value
    assert insert(store, later, names=VENDOR, period=HOUR) == Inserted(1, 2)
    bars = stored(store)[1]
    assert bars.long.tolist() == [1.0, 3.0, 5.0]
    assert bars.short.tolist() == [2.0, 4.0, 6.0]
    assert np.isnan(bars.long_count).all()


def test_bars_of_another_period_are_another_series(store):
    insert(store, bars_of(("2024-08-05 04:00", 1.0, 2.0)), names=VENDOR, period=HOUR)
    insert(store, bars_of(("2024-08-05 04:00", 3.0, 8.0)), names=VENDOR, period=4 * HOUR)
    with store.read() as reader:
        found = {one.period: reader.bars(one, *FOREVER).long.tolist() for one in reader.series()}
    assert found == {HOUR: [1.0], 4 * HOUR: [3.0]}


def test_a_gap_that_is_filled_later_stands_in_order_of_time(store):
    hours = [bars_of((f"2024-08-05 {hour:02}:00", float(hour), 0.0)) for hour in (7, 3, 5)]
    for bars in hours:
        insert(store, bars, names=VENDOR, period=HOUR)
    assert stored(store)[1].long.tolist() == [3.0, 5.0, 7.0]


# --- coverage -----------------------------------------------------------------------------------


def test_coverage_is_merged_where_it_touches(store):
    nothing = Events.concat([])
    for start, end in [(0, 10), (50, 60), (20, 30), (10, 15), (58, 70), (5, 8), (80, 80)]:
        insert(store, nothing, spans((start, end)))
    assert stored(store)[2] == [[0, 15], [20, 30], [50, 70]]
    # One insert of several intervals bridges the rest.
    insert(store, nothing, spans((15, 20), (30, 50), (90, 100)))
    assert stored(store)[2] == [[0, 70], [90, 100]]


# --- reading ------------------------------------------------------------------------------------

LONG_AGO = events_of(*((f"2024-0{1 + n // 2}-15 12:00", "long", 2.0**n) for n in range(0, 17, 2)))


@pytest.mark.parametrize("kind", [int, np.int64, np.int32])
def test_a_range_may_begin_and_end_within_segments(store, kind):
    """The driver binds a numpy integer as bytes, which match nothing: a bug once."""
    if kind is np.int32:
        # 1970: the only times in ms that fit.
        rows = to_bars(LONG_AGO)
        early = Bars(**{**rows.arrays(), "timestamp": np.arange(len(rows)) * HOUR})
        insert(store, early, names=VENDOR, period=HOUR)
        with store.read() as reader:
            bars = reader.bars(only(reader), kind(HOUR), kind(3 * HOUR))
        assert bars.timestamp.tolist() == [HOUR, 2 * HOUR]
        return
    insert(store, LONG_AGO)
    middle = LONG_AGO.timestamp[3:6]
    with store.read() as reader:
        series = only(reader)
        for read in (reader.bars, reader.events):
            whole = read(series, kind(utc("2024-01-01")), kind(utc("2025-01-01")))
            assert whole.timestamp.tolist() == LONG_AGO.timestamp.tolist()
            # From a time itself to just before another one …
            some = read(series, kind(middle[0]), kind(middle[-1]))
            assert some.timestamp.tolist() == middle[:-1].tolist()
            # … from just after it, and including the end.
            some = read(series, kind(middle[0] + 1), kind(middle[-1] + 1))
            assert some.timestamp.tolist() == middle[1:].tolist()
            assert len(read(series, kind(middle[0] + 1), kind(middle[1]))) == 0
            assert len(read(series, kind(utc("2019-01-01")), kind(utc("2019-02-01")))) == 0


def test_numpy_periods_and_coverage_are_stored_as_numbers(store):
    bars = bars_of(("2024-08-05 03:00", 1.0, 2.0))
    insert(store, bars, DAY_5, names=VENDOR, period=np.int64(HOUR))
    with store.read() as reader:
        series = only(reader)
        assert series.period == HOUR
        assert len(reader.bars(series, DAY_5[0, 0], DAY_5[0, 1])) == 1
        assert reader.coverage(series).tolist() == DAY_5.tolist()


def test_one_reader_sees_one_state_while_another_writes(store, db_url):
    insert(store, EVENTS.take(slice(0, 2)), spans((0, 10)))
    with store.read() as reader:
        series = only(reader)
        with Store(db_url) as other:
            insert(other, EVENTS.take(slice(2, 5)), spans((20, 30)))
        assert len(reader.events(series, *FOREVER)) == 2
        assert reader.bars(series, *FOREVER).short.sum() == 0.0
        assert reader.coverage(series).tolist() == [[0, 10]]
        assert reader.counts() == {(series.id, 0): 2, (series.id, MINUTE): 1}
    events, bars, coverage = stored(store)
    assert (len(events), bars.short.sum(), len(coverage)) == (5, 39.0, 2)


def test_threads_read_the_same_at_once(store):
    insert(store, LONG_AGO, DAY_5)
    found, errors = [], []

    def read():
        try:
            for _ in range(10):
                events, bars, coverage = stored(store)
                found.append((events.key.tolist(), bars.long.tolist(), coverage))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) == 40
    assert all(one == found[0] for one in found)


# --- any order, any batching --------------------------------------------------------------------

START = utc("2024-08-05")

cents = st.integers(1, 10**8).map(lambda number: number / 100)
# Two days, two minutes of each, a few moments in them: common bars, segments and twins.
moments = st.builds(
    lambda day, minute, ms: START + day * 86_400_000 + minute * MINUTE + ms,
    *(st.integers(0, 1), st.integers(0, 1), st.sampled_from([0, 1, 59_999])),
)
event_rows = st.lists(
    st.tuples(moments, st.sampled_from(["long", "short"]), st.one_of(cents, st.just(0.1))),
    min_size=1,
    max_size=15,
)
interval = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda at: (at[0], sum(at)))


@st.composite
def deliveries(draw, size: int, pieces: int):
    """Cut ``size`` rows and ``pieces`` intervals into batches that overlap and are out of order."""
    count = draw(st.integers(1, 4))
    batches = []
    for _ in range(count):
        rows = draw(st.sets(st.integers(0, size - 1), max_size=size))
        batches.append((rows, draw(st.sets(st.integers(0, max(0, pieces - 1)), max_size=pieces))))
    rows, covers = zip(*batches, strict=True)
    rest = set(range(size)).difference(*rows), set(range(pieces)).difference(*covers)
    batches.insert(draw(st.integers(0, count)), rest)
    return batches


def deliver(db_url: str, rows, coverage, batches, names, **options) -> str:
    """Insert batches into a store and return its fingerprint."""
    with Store(db_url, create=True) as store:
        for chosen, covers in batches:
            part = rows.take(np.array(sorted(chosen), dtype=np.int64))
            insert(store, part, coverage[sorted(covers)], names, **options)
        return store.fingerprint()


def two_ways(fresh, data, rows, coverage, names, **options):
    """Insert at once, and in drawn batches; return what both stores hold."""
    everything = [(set(range(len(rows))), set(range(len(coverage))))]
    batches = data.draw(deliveries(len(rows), len(coverage)))
    urls = fresh(), fresh()
    marks = [
        deliver(url, rows, coverage, parts, names, **options)
        for url, parts in zip(urls, (everything, batches), strict=True)
    ]
    found = []
    for url in urls:
        with Store(url) as store:
            found.append(stored(store))
    assert found[0][2] == found[1][2]
    assert marks[0] == marks[1]
    return found


# What is merged before it is stored needs no second database.
MERGED = pytest.mark.parametrize("fresh", ["sqlite"], indirect=True)


@MERGED
@settings(max_examples=30)
@given(event_rows, st.lists(interval, max_size=5), st.data())
def test_events_in_any_order_and_batching_are_the_same_to_the_bit(fresh, rows, covers, data):
    rows = events_of(*rows)
    one, other = two_ways(fresh, data, rows, spans(*covers), BTC)
    assert len(one[0]) == len(rows)
    same_bits(one[0], other[0])
    same_bits(one[1], other[1], "timestamp", "long", "short", "long_count", "short_count")
    # … and equal to what the events themselves add up to.
    expected = to_bars(rows)
    for name in ("timestamp", "long", "short", "long_count", "short_count"):
        assert getattr(one[1], name).tolist() == getattr(expected, name).tolist(), name


def test_squares_in_any_order_differ_at_most_in_the_last_bit(fresh):
    # 75,412.09² + 79,229.61² + 63,688.87² need more than 53 bits: no rounding to cents helps.
    amounts = (75_412.09, 79_229.61, 63_688.87)
    rows = events_of(*((START + n, "long", usd) for n, usd in enumerate(amounts)))
    found = []
    for order in ((0, 1, 2), (1, 2, 0)):
        with Store(fresh(), create=True) as store:
            for row in order:
                insert(store, rows.take(slice(row, row + 1)))
            found.append(stored(store)[1])
    same_bits(*found, "long")
    np.testing.assert_allclose(
        found[0].long_squares, found[1].long_squares, rtol=2 * np.finfo(float).eps
    )


@MERGED
@settings(max_examples=30)
@given(
    st.dictionaries(st.integers(0, 400_000), st.tuples(cents, cents), min_size=1, max_size=12),
    st.lists(interval, max_size=5),
    st.data(),
)
def test_bars_in_any_order_and_batching_are_the_same_to_the_bit(fresh, drawn, covers, data):
    # 400,000 hours are 45 years: several segments.
    rows = bars_of(*((hour * HOUR, *drawn[hour]) for hour in sorted(drawn)))
    one, other = two_ways(fresh, data, rows, spans(*covers), VENDOR, period=HOUR)
    same_bits(one[1], other[1])


# --- fingerprint --------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_everything_that_columns_depend_on(store):
    marks = [store.fingerprint()]
    event = events_of(("2024-08-05 03:00", "long", 5.0))
    twin = events_of(("2024-08-05 03:00", "long", 5.0), ("2024-08-05 03:00", "long", 5.0))
    hour = bars_of(("2024-08-05 03:00", 1.0, 2.0))
    steps = [
        (event, NOWHERE, BTC, {}),
        (twin, NOWHERE, BTC, {}),
        (events_of(("2024-08-05 03:00", "short", 5.0)), NOWHERE, BTC, {}),
        (event, spans((0, 10)), BTC, {}),
        (event, spans((0, 11)), BTC, {}),
        (event, NOWHERE, ("bybit", *BTC[1:]), {}),
        (event, NOWHERE, ("okx", "ETH/USDT:USDT", "okx"), {}),
        (hour, NOWHERE, VENDOR, {"period": HOUR}),
        (bars_of(("2024-08-05 04:00", 1.0, 2.0)), NOWHERE, VENDOR, {"period": HOUR}),
        (hour, NOWHERE, VENDOR, {"period": 4 * HOUR}),
    ]
    for rows, coverage, names, options in steps:
        insert(store, rows, coverage, names, **options)
        marks.append(store.fingerprint())
        insert(store, rows, coverage, names, **options)
        assert store.fingerprint() == marks[-1]
    assert len(set(marks)) == len(marks)


def test_long_and_short_exchanged_are_another_fingerprint(fresh):
    marks = []
    for sides in ((1.0, 2.0), (2.0, 1.0)):
        with Store(fresh(), create=True) as store:
            insert(store, bars_of(("2024-08-05 03:00", *sides)), names=VENDOR, period=HOUR)
            marks.append(store.fingerprint())
    assert marks[0] != marks[1]


# --- all or nothing -----------------------------------------------------------------------------


def test_an_exception_leaves_all_as_it_was(store, db_url):
    insert(store, EVENTS.take(slice(0, 2)), DAY_5)

    def stop():
        with store.write() as writer:
            writer.insert(*BTC, EVENTS, spans((0, 10)))
            writer.insert(*VENDOR, bars_of((0, 1.0, 2.0)), NOWHERE, period=HOUR)
            raise RuntimeError("stop")

    with unchanged(db_url), pytest.raises(RuntimeError, match="stop"):
        stop()
    assert insert(store, EVENTS) == Inserted(new=3, known=2)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from conftest import events_of, spans
from liquidations.store import Store

store = Store(sys.argv[1])
with store.write() as writer:
    rows = [(1_722_826_800_000 + n, "long", 1.0 + n) for n in range(50_000)]
    writer.insert("okx", "BTC/USDT:USDT", "okx", events_of(*rows), spans((0, 10)))
    print("inserted", flush=True)
    {death}
"""


@pytest.mark.parametrize(
    "death",
    [
        "os._exit(9)",
        pytest.param(
            "os.kill(os.getpid(), signal.SIGKILL)",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL"),
        ),
    ],
)
def test_a_writer_that_is_killed_leaves_all_as_it_was(store, db_url, death):
    insert(store, EVENTS, DAY_5)
    with unchanged(db_url):
        script = KILLED.format(death=death)
        command = [sys.executable, "-c", script, db_url, str(Path(__file__).parent)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "inserted\n", done.stderr
        assert done.returncode != 0
    assert insert(store, EVENTS.take(slice(0, 1))) == Inserted(known=1)
    assert insert(store, LONG_AGO) == Inserted(new=len(LONG_AGO))


# --- several writers ----------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import events_of, spans
from liquidations.store import Store

first, barrier = int(sys.argv[3]), Path(sys.argv[4])
numbers = range(first, first + 300)
rows = events_of(*((1_722_826_800_000 + n * 1_000, "long", 1.0 + n) for n in numbers))
barrier.with_suffix(f".{first}").touch()
while len(list(barrier.parent.glob(barrier.name + ".*"))) < 2:
    time.sleep(0.001)
with Store(sys.argv[1], create=True) as store:
    for start in range(0, 300, 30):
        with store.write() as writer:
            part = rows.take(slice(start, start + 30))
            writer.insert("okx", "BTC/USDT:USDT", "okx", part, spans((first, first + start + 1)))
"""


def union_is_stored_once(store: Store) -> None:
    """Check that 0…449 are there once: two writers wrote 0…299 and 150…449."""
    events, bars, coverage = stored(store)
    assert sorted(events.value_usd.tolist()) == [1.0 + n for n in range(450)]
    # 1 + … + 450 = 450 × 451 / 2
    assert bars.long.sum() == 101_475.0
    assert bars.long_count.sum() == 450.0
    assert coverage == [[0, 421]]


@pytest.mark.parametrize("made", [True, False], ids=["there is a store", "both make it"])
def test_two_processes_that_write_at_once_lose_and_double_nothing(db_url, tmp_path, made):
    if made:
        Store(db_url, create=True).close()
    here = str(Path(__file__).parent)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, db_url, here, first, str(tmp_path / "ready")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in ("0", "150")
    ]
    errors = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    with Store(db_url) as store:
        union_is_stored_once(store)


def test_two_threads_that_write_at_once_lose_and_double_nothing(store):
    errors = []

    def fill(first: int) -> None:
        try:
            numbers = range(first, first + 300)
            rows = events_of(*((START + n * 1_000, "long", 1.0 + n) for n in numbers))
            for start in range(0, 300, 30):
                part = rows.take(slice(start, start + 30))
                insert(store, part, spans((first, first + start + 1)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fill, args=(first,)) for first in (0, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    union_is_stored_once(store)


def test_several_that_make_a_store_at_once_all_get_it(fresh):
    # A collector, an import and a bot that are started together: 30 times four of them.
    errors = []

    def make(db_url: str, barrier: threading.Barrier) -> None:
        barrier.wait()
        try:
            Store(db_url, create=True).close()
        except LiquidationsError as error:
            errors.append(error)

    for _ in range(30):
        start = fresh(), threading.Barrier(4)
        threads = [threading.Thread(target=make, args=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


# --- what must not mix --------------------------------------------------------------------------


@pytest.mark.parametrize("sources", [("okx", "simulated"), ("simulated", "okx")])
def test_simulated_and_real_never_mix(store, db_url, sources):
    first, second = (("okx", "BTC/USDT:USDT", source) for source in sources)
    insert(store, EVENTS, DAY_5, first)

    def mix():
        with store.write() as writer:
            # What alone would be fine does not stay either.
            writer.insert("okx", "ETH/USDT:USDT", sources[0], EVENTS, DAY_5)
            writer.insert(*second, EVENTS, DAY_5)

    with unchanged(db_url), pytest.raises(LiquidationsError, match=r"must never mix.*--db-url"):
        mix()
    insert(store, LONG_AGO, DAY_5, first)


# --- a store that can't be used -----------------------------------------------------------------


def test_a_reader_never_makes_a_store(db_url):
    for _ in range(2):
        with pytest.raises(LiquidationsError, match=r"no liquidation store at.*import-data"):
            Store(db_url)
    if db_url.startswith("sqlite"):
        assert not path_of(db_url).exists()


def test_a_store_is_not_made_in_a_folder_that_is_missing(tmp_path):
    with pytest.raises(LiquidationsError, match=r"folder .* does not exist.*create-userdir"):
        Store(f"sqlite:///{tmp_path / 'typo' / 'liquidations.sqlite'}", create=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [True, False])
def test_a_store_of_a_newer_program_is_left_alone(store, db_url, create):
    insert(store, EVENTS)
    store.close()
    execute(db_url, "UPDATE liq_meta SET value = value + 1 WHERE name = 'schema'")
    with pytest.raises(LiquidationsError, match=r"newer.*pip install --upgrade"):
        Store(db_url, create=create)
    rows = execute(db_url, "SELECT sum(rows) FROM liq_segment WHERE period = 0")
    assert [int(count) for (count,) in rows] == [5]


@ONLY_SQLITE
@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_left_alone(db_url, create):
    text = b"date,open,high,low,close\n" * 100
    path_of(db_url).write_bytes(text)
    with pytest.raises(LiquidationsError, match=r"not a database.*--db-url"):
        Store(db_url, create=create)
    assert path_of(db_url).read_bytes() == text


def test_another_programs_database_is_no_store_to_a_reader(db_url):
    execute(db_url, "CREATE TABLE trades (id INTEGER)")
    with pytest.raises(LiquidationsError, match=r"no liquidation store at.*import-data"):
        Store(db_url)
    engine = sa.create_engine(db_url)
    assert sa.inspect(engine).get_table_names() == ["trades"]
    engine.dispose()


def test_a_store_may_live_in_another_programs_database(db_url):
    execute(db_url, "CREATE TABLE trades (id INTEGER)", "INSERT INTO trades VALUES (7)")
    with Store(db_url, create=True) as store:
        insert(store, EVENTS)
        assert len(stored(store)[0]) == 5
    assert execute(db_url, "SELECT id FROM trades") == [(7,)]


@ONLY_SQLITE
def test_a_damaged_file_is_an_error_that_says_what_to_do(store, db_url):
    insert(store, events_of(*((START + n * 60_000, "long", 1.0 + n) for n in range(9_000))))
    store.close()
    whole = path_of(db_url).read_bytes()
    path_of(db_url).write_bytes(whole[: len(whole) // 3])
    with (
        pytest.raises(LiquidationsError, match=r"malformed.*import again"),
        Store(db_url) as damaged,
    ):
        stored(damaged)


@pytest.mark.parametrize(
    ("db_url", "message"),
    [
        ("liquidations.sqlite", r"not a database URL.*sqlite:///"),
        ("mysql://localhost/liquidations", "must begin with sqlite:/// or postgresql"),
    ],
)
def test_a_url_of_something_else_is_refused(db_url, message):
    with pytest.raises(LiquidationsError, match=message):
        Store(db_url)


def test_a_password_is_never_shown():
    with pytest.raises(LiquidationsError) as caught:
        Store("mysql://bot:secret@localhost/liquidations")
    assert "secret" not in str(caught.value)


@ONLY_SQLITE
def test_a_read_only_store_can_be_read_but_not_written(store, db_url):
    insert(store, EVENTS, DAY_5)
    store.close()
    read_only = f"sqlite:///file:{path_of(db_url)}?mode=ro&uri=true"
    with unchanged(db_url), Store(read_only) as locked:
        assert len(stored(locked)[0]) == 5
        with pytest.raises(LiquidationsError, match=r"can't be written.*permissions"):
            insert(locked, LONG_AGO, DAY_5)


@ONLY_SQLITE
def test_a_locked_store_can_be_read_and_says_to_wait(store, db_url):
    insert(store, EVENTS, DAY_5)
    impatient = f"{db_url}?timeout=0.2"
    with closing(sqlite3.connect(path_of(db_url), isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        with unchanged(db_url), Store(impatient) as other:
            with pytest.raises(LiquidationsError, match=r"locked.*wait"):
                insert(other, LONG_AGO, DAY_5)
            Store(impatient, create=True).close()  # there is nothing to make
            assert len(stored(other)[0]) == 5
        raw.execute("ROLLBACK")
        with Store(impatient) as other:
            assert insert(other, LONG_AGO) == Inserted(new=len(LONG_AGO))
