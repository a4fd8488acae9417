"""Revised bars: no vendor changes the past silently, and both vintages can be read."""

from contextlib import closing

import numpy as np
import pytest
from conftest import bars_of, events_of, same_bits, spans, utc
from hypothesis import example, given
from hypothesis import strategies as st

from liquidations.candles import candle_opens
from liquidations.errors import LiquidationsError
from liquidations.event import Bars, merge_intervals, without_intervals
from liquidations.provider import LiquidationProvider
from liquidations.settings import Settings, read_settings
from liquidations.store import Store
from liquidations.writer import Inserted


HOUR = 3_600_000
PAIR = "BTC/USDT:USDT"
T = utc("2024-08-05 03:00")
OPENS = candle_opens(T, T + 4 * HOUR, "1h")


def told(store: Store, rows: dict[int, tuple[float, float]], hours: int, when: int) -> Inserted:
    """Let a vendor tell the first hours from T: (hour → long, short), all others being 0."""
    bars = bars_of(*((T + at * HOUR, *volumes) for at, volumes in sorted(rows.items())))
    coverage = spans((T, T + hours * HOUR))
    with store.write() as writer:
        return writer.insert(
            "binance", PAIR, "coinalyze", bars, coverage, period=HOUR, recorded=when
        )


def long_of(store: Store, vintage: str) -> list[float]:
    settings = Settings(store.db_url, ("binance",), vintage=vintage)
    with closing(LiquidationProvider(store.db_url)) as provider:
        table, _ = provider.columns(PAIR, OPENS, "1h", settings)
    return table["liq_long"].tolist()


def revisions_of(store: Store) -> list[tuple]:
    with store.read() as reader:
        (series,) = reader.series()
        return [tuple(one) for one in reader.revisions(series)]


@pytest.fixture
def store(any_url: str):
    with Store(any_url, create=True) as opened:
        yield opened


def test_a_revision_is_kept_beside_the_first_vintage_with_old_new_and_when(store):
    assert told(store, {0: (1, 2), 1: (3, 4), 3: (9, 9)}, 4, 100) == Inserted(new=3)
    before = store.fingerprint()
    assert told(store, {0: (1, 2), 1: (5, 4), 3: (9, 9)}, 4, 200) == Inserted(known=2, revised=1)
    assert store.fingerprint() != before
    assert revisions_of(store) == [(T + HOUR, 200, (3.0, 4.0), (5.0, 4.0))]
    assert long_of(store, "first") == [1.0, 3.0, 0.0, 9.0]
    assert long_of(store, "last") == [1.0, 5.0, 0.0, 9.0]


def test_a_bar_that_appears_where_nothing_was_told_is_a_revision_of_0(store):
    told(store, {0: (1, 2), 3: (9, 9)}, 4, 100)
    assert told(store, {0: (1, 2), 2: (7, 0), 3: (9, 9)}, 4, 200) == Inserted(known=2, revised=1)
    assert revisions_of(store) == [(T + 2 * HOUR, 200, (0.0, 0.0), (7.0, 0.0))]
    assert long_of(store, "first") == [1.0, 0.0, 0.0, 9.0]
    assert long_of(store, "last") == [1.0, 0.0, 7.0, 9.0]


def test_a_bar_that_the_vendor_drops_is_a_revision_to_0(store):
    told(store, {0: (1, 2), 1: (3, 4), 3: (9, 9)}, 4, 100)
    assert told(store, {0: (1, 2), 3: (9, 9)}, 4, 200) == Inserted(known=2, revised=1)
    assert revisions_of(store) == [(T + HOUR, 200, (3.0, 4.0), (0.0, 0.0))]
    assert long_of(store, "first") == [1.0, 3.0, 0.0, 9.0]
    assert long_of(store, "last") == [1.0, 0.0, 0.0, 9.0]


def test_a_bar_beyond_what_was_told_is_new_and_no_revision(store):
    told(store, {0: (1, 2)}, 2, 100)
    assert told(store, {0: (1, 2), 2: (5, 5)}, 3, 200) == Inserted(new=1, known=1)
    assert revisions_of(store) == []
    assert np.array_equal(long_of(store, "first"), [1.0, 0.0, 5.0, np.nan], equal_nan=True)


def test_the_last_of_many_vintages_is_read_and_repeating_it_is_none(store):
    told(store, {0: (1, 0)}, 1, 100)
    for when, volume in ((200, 2.0), (300, 2.0), (300, 3.0), (300, 1.0), (400, 1.0)):
        told(store, {0: (volume, 0)}, 1, when)
    rows = [(old[0], new[0]) for _, _, old, new in revisions_of(store)]
    assert rows == [(1.0, 2.0), (2.0, 3.0), (3.0, 1.0)]
    recorded = [row[1] for row in revisions_of(store)]
    assert recorded == sorted(set(recorded))
    assert long_of(store, "last")[0] == 1.0


def test_a_provider_that_is_open_sees_a_revision(store):
    settings = Settings(store.db_url, ("binance",), vintage="last")
    with closing(LiquidationProvider(store.db_url)) as provider:
        told(store, {0: (1, 0)}, 4, 100)
        assert provider.columns(PAIR, OPENS, "1h", settings)[0]["liq_long"][0] == 1.0
        told(store, {0: (8, 0)}, 4, 200)
        assert provider.columns(PAIR, OPENS, "1h", settings)[0]["liq_long"][0] == 8.0


def test_what_is_removed_takes_its_revisions_along(store):
    told(store, {0: (1, 0)}, 4, 100)
    told(store, {0: (8, 0)}, 4, 200)
    with store.write() as writer:
        writer.remove("binance", PAIR, "coinalyze")
    told(store, {0: (2, 0)}, 4, 300)
    assert revisions_of(store) == []
    assert long_of(store, "last")[0] == 2.0


volumes = st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 3.0]))
vintages = st.lists(
    st.tuples(st.dictionaries(st.integers(0, 3), volumes), st.integers(1, 4)),
    min_size=1,
    max_size=5,
)


@given(vintages)
def test_first_and_last_are_what_was_told_first_and_last_of_each_hour(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("revisions") / "store.sqlite"
    first, last = [None] * 4, [None] * 4
    with Store(f"sqlite:///{path}", create=True) as store:
        for when, (rows, hours) in enumerate(answers):
            rows = {at: row for at, row in rows.items() if at < hours}
            told(store, rows, hours, when)
            for at in range(hours):
                last[at] = rows.get(at, (0.0, 0.0))[0]
                first[at] = last[at] if first[at] is None else first[at]
        for vintage, expected in (("first", first), ("last", last)):
            found = [None if np.isnan(x) else x for x in long_of(store, vintage)]
            assert found == expected, (vintage, answers)


@pytest.mark.parametrize("value", ["newest", 1, None, ["first"]])
def test_another_vintage_is_refused(value):
    with pytest.raises(LiquidationsError, match=r'"vintage".*must be "first" or "last"'):
        read_settings({"exchange": {"name": "binance"}, "liquidations": {"vintage": value}})


def test_an_empty_answer_over_what_was_told_revises_it_all(store):
    told(store, {0: (1, 0), 1: (2, 2)}, 4, 100)
    with store.write() as writer:
        done = writer.insert(
            "binance", PAIR, "coinalyze", Bars.concat([]), spans((T, T + 4 * HOUR)), period=HOUR
        )
    assert done == Inserted(revised=2)
    assert long_of(store, "last") == [0.0] * 4


# --- removing what was imported of some time ------------------------------------------------------


def test_what_is_removed_of_some_time_is_unknown_again_and_can_come_back(store):
    told(store, {0: (1, 2), 1: (3, 4), 3: (9, 9)}, 4, 100)
    untouched = store.fingerprint()
    told(store, {0: (1, 2), 1: (5, 4), 3: (9, 9)}, 4, 200)
    with store.write() as writer:
        span = spans((T + HOUR, T + 3 * HOUR))
        writer.remove("binance", PAIR, "coinalyze", period=HOUR, spans=span)
    nan = np.nan
    for vintage in ("first", "last"):
        assert np.array_equal(long_of(store, vintage), [1.0, nan, nan, 9.0], equal_nan=True)
    assert revisions_of(store) == []
    told(store, {0: (1, 2), 1: (3, 4), 3: (9, 9)}, 4, 300)
    assert long_of(store, "first") == [1.0, 3.0, 0.0, 9.0]
    assert store.fingerprint() == untouched  # equal data, equal digest


events = st.lists(
    st.tuples(st.integers(0, 5 * 60_000), st.sampled_from(["long", "short"])), max_size=12
)
times = st.lists(st.tuples(st.integers(0, 5 * 60_000), st.integers(0, 5 * 60_000)), max_size=3)


@given(events, times)
@example([(30_000, "long")], [(0, 100)])  # a minute begins in it, but its event lies outside
def test_events_removed_of_any_time_leave_what_was_never_told(tmp_path_factory, rows, cut):
    folder = tmp_path_factory.mktemp("removed")
    whole = events_of(*((T + at, side, 1.0 + at) for at, side in rows))
    cover = spans((T, T + 5 * 60_000))
    gone = merge_intervals(np.array([[T + a, T + b] for a, b in cut], np.int64).reshape(-1, 2))
    kept = whole.take([not any(a <= t < b for a, b in gone.tolist()) for t in whole.timestamp])
    with (
        Store(f"sqlite:///{folder / 'one.sqlite'}", create=True) as one,
        Store(f"sqlite:///{folder / 'other.sqlite'}", create=True) as other,
    ):
        with one.write() as writer:
            writer.insert("okx", PAIR, "okx", whole, cover)
            writer.remove("okx", PAIR, "okx", spans=gone)
        with other.write() as writer:
            writer.insert("okx", PAIR, "okx", kept, without_intervals(cover, gone))
        found = []
        for store in (one, other):
            with store.read() as reader:
                (series,) = reader.series()
                span = (series, 0, 2**62)
                found.append((reader.events(*span), reader.bars(*span), reader.coverage(series)))
        (mine, bars, covered), (expected, expected_bars, expected_covered) = found
        same_bits(mine, expected)
        same_bits(bars, expected_bars, "timestamp", "long", "short", "long_count", "short_count")
        assert covered.tolist() == expected_covered.tolist()
        assert one.fingerprint() == other.fingerprint()
