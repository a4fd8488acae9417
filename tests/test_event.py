"""Events: nothing doubled or lost by identity, sums free of order, time misread by nobody."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from conftest import events_of, utc
from hypothesis import given
from hypothesis import strategies as st

from liquidations import event
from liquidations.errors import LiquidationsError
from liquidations.event import (
    LONG,
    SHORT,
    Bars,
    Events,
    covered_share,
    identity,
    make_events,
    merge_intervals,
    round_usd,
)


NOW = utc("2024-08-05 03:00")
assert NOW == 1_722_826_800_000  # as `date -u -d '2024-08-05 03:00' +%s` says

# --- intervals, against sets of whole milliseconds ----------------------------------------------

small_spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def inside(rows: list[tuple[int, int]]) -> set[int]:
    return {ms for start, end in rows for ms in range(start, end)}


@given(small_spans)
def test_merged_intervals_hold_the_same_milliseconds_sorted_and_disjoint(rows):
    merged = merge_intervals(np.array(rows, np.int64).reshape(-1, 2)).tolist()
    assert inside(merged) == inside(rows)
    edges = [edge for span in merged for edge in span]
    # Strictly increasing edges: no empty interval, no two that overlap or touch.
    assert all(left < right for left, right in pairwise(edges))


@given(small_spans, st.sets(st.integers(-5, 70), max_size=12), st.booleans())
def test_the_covered_share_is_that_of_the_milliseconds(rows, edges, holes):
    # Increasing questions, as candles are: one after the other, or with holes between them.
    edges = sorted(edges)
    questions = list(pairwise(edges))[:: 2 if holes else 1]
    start, end = np.array(questions, np.int64).reshape(-1, 2).T
    found = covered_share(merge_intervals(np.array(rows, np.int64).reshape(-1, 2)), start, end)
    known = inside(rows)
    assert found.tolist() == [
        len(known & set(range(begin, stop))) / (stop - begin) for begin, stop in questions
    ]


# --- USD ----------------------------------------------------------------------------------------


def test_usd_is_rounded_to_the_nearest_quantum():
    # 2**24 = 16,777,216. 1/3 of it is 5,592,405.33 → 5,592,405; 0.1 of it is 1,677,721.6 → …722.
    # Less than half a quantum (2.98e-8 USD) is 0; whole dollars stay themselves.
    given_ = np.array([1 / 3, 0.1, 2.9e-8, 3.0e-8, 250_000.0])
    quanta = [5_592_405, 1_677_722, 0, 1, 250_000 * 16_777_216]
    assert (round_usd(given_) * 16_777_216).tolist() == quanta


@given(
    st.lists(st.floats(0, 2_000_000, allow_subnormal=False), min_size=1, max_size=200),
    st.randoms(use_true_random=False),
)
def test_sums_are_the_same_to_the_bit_in_any_order_and_batching(values, random):
    rounded = round_usd(np.array(values))
    shuffled = rounded.tolist()
    random.shuffle(shuffled)
    batches: list[list[float]] = [[]]
    for value in shuffled:
        if random.random() < 0.3:
            batches.append([])
        batches[-1].append(value)
    in_order = 0.0
    for value in rounded.tolist():
        in_order += value
    by_batch = 0.0
    for batch in batches:
        by_batch += float(np.bincount(np.zeros(len(batch), np.int64), batch, 1)[0])
    assert in_order.hex() == by_batch.hex() == float(np.sum(shuffled)).hex()


# --- identity -----------------------------------------------------------------------------------

# Few different values, so that equal rows are common.
row = st.tuples(
    st.sampled_from([NOW, NOW + 1]),
    st.sampled_from([LONG, SHORT]),
    st.sampled_from([100.0, 100.5]),
    st.sampled_from([0.25, 3.0]),
)


def page(rows: list[tuple[int, int, float, float]]) -> Events:
    time, side, price, amount = zip(*rows, strict=True) if rows else ((), (), (), ())
    value = [one * other for one, other in zip(price, amount, strict=True)]
    return make_events(time, side, price, amount, value)


def names(events: Events) -> list[tuple[int, int]]:
    return list(zip(events.timestamp.tolist(), events.key.tolist(), strict=True))


def test_twins_of_one_batch_stay_two_and_are_known_again():
    one = (NOW, LONG, 100.0, 0.25)
    single, twins = page([one]), page([one, (NOW, SHORT, 100.0, 0.25), one])
    assert len(set(names(twins))) == 3
    assert set(names(single)) < set(names(twins))
    assert names(page([one, one])) == names(page([one, one]))


@pytest.mark.parametrize(
    "other",
    [
        (NOW, SHORT, 100.0, 0.25),
        (NOW, LONG, 100.5, 0.25),
        (NOW, LONG, 100.0, 0.5),
        (NOW, LONG, 0.25, 100.0),
        (NOW, LONG, np.nextafter(100.0, 101.0), 0.25),
    ],
    ids=["side", "price", "amount", "price and amount exchanged", "last bit of the price"],
)
def test_what_differs_in_anything_is_another_event(other):
    assert page([(NOW, LONG, 100.0, 0.25)]).key[0] != page([other]).key[0]


@given(st.lists(row, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, random):
    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert sorted(names(page(rows))) == sorted(names(page(shuffled)))
    assert len(set(names(page(rows)))) == len(rows)


@given(st.lists(row, max_size=20), st.lists(row, max_size=20))
def test_two_batches_share_exactly_the_rows_that_both_hold(one, other):
    # A multiset: what one batch holds twice and the other three times is three events.
    union = sum((Counter(one) | Counter(other)).values())
    assert len(set(names(page(one))) | set(names(page(other)))) == union


def test_the_time_of_receipt_is_no_part_of_the_identity():
    rows = ([NOW], [LONG], [100.0], [1.0], [100.0])
    late = make_events(*rows, received=NOW + 5_000)
    assert late.key.tolist() == make_events(*rows).key.tolist()
    assert late.received.tolist() == [NOW + 5_000]


def test_keys_are_the_same_in_every_process_and_version():
    # Stored keys are compared with new ones, so they must never change. The finaliser of
    # splitmix64 is worked here in plain whole numbers, from its definition (Steele et al. 2014).
    def mixed(word: int) -> int:
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        return word ^ (word >> 31)

    # A row as 64-bit words: side short = 1; 1.0 = 0x3FF0…; 2.0 = 0x4000…; rank 0.
    total = 0
    for word in (1, 0x3FF0000000000000, 0x4000000000000000, 0):
        total = mixed((total * 0x9E3779B97F4A7C15 + mixed(word)) % 2**64)
    signed = total - 2**64 if total >= 2**63 else total
    found = identity(np.array([NOW]), np.array([SHORT], np.int8), np.array([1.0]), np.array([2.0]))
    assert found.tolist() == [signed]


# --- make_events --------------------------------------------------------------------------------


def test_events_are_sorted_by_time_and_rows_stay_together():
    events = make_events(
        [NOW + 2, NOW, NOW + 1],
        [SHORT, LONG, LONG],
        [30.0, 10.0, 20.0],
        [3.0, 1.0, 2.0],
        [90.0, 10.0, 40.0],
        received=np.array([NOW + 9, NOW + 7, NOW + 8]),
    )
    assert events.timestamp.tolist() == [NOW, NOW + 1, NOW + 2]
    assert events.received.tolist() == [NOW + 7, NOW + 8, NOW + 9]
    assert events.side.tolist() == [LONG, LONG, SHORT]
    assert events.price.tolist() == [10.0, 20.0, 30.0]
    assert events.amount.tolist() == [1.0, 2.0, 3.0]
    assert events.value_usd.tolist() == [10.0, 40.0, 90.0]
    own = page([(NOW + 2, SHORT, 30.0, 3.0)]).key[0]
    assert events.key[2] == own


def test_an_unknown_time_of_receipt_repeats_the_exchanges_time():
    assert events_of((NOW, "long", 1.0)).received.tolist() == [NOW]


def test_no_rows_make_no_events():
    events = make_events([], [], [], [], [])
    assert len(events) == 0
    assert {name: array.dtype for name, array in events.arrays().items()} == Events.dtypes()


@pytest.mark.parametrize(
    "time",
    [NOW // 1000, NOW * 1000, NOW * 1_000_000, 0, -NOW],
    ids=["seconds", "microseconds", "nanoseconds", "zero", "negative"],
)
def test_a_time_that_is_not_in_milliseconds_is_refused(time):
    with pytest.raises(LiquidationsError, match=f"milliseconds.*got {time}"):
        make_events([NOW, time], [LONG] * 2, [1.0] * 2, [1.0] * 2, [1.0] * 2)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("column", ["price", "amount"])
def test_what_no_liquidation_can_have_is_refused(column, value):
    columns = {"price": [2.0, 2.0], "amount": [3.0, 3.0], "value_usd": [6.0, 6.0]}
    columns[column][1] = value
    with pytest.raises(LiquidationsError, match=f"{column} of a liquidation must be a positive"):
        make_events([NOW, NOW], [LONG, SHORT], **columns)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_value_that_no_liquidation_can_have_is_refused(value):
    with pytest.raises(LiquidationsError, match="value_usd"):
        make_events([NOW], [LONG], [2.0], [3.0], [value])


def test_dust_is_an_event_all_the_same():
    assert make_events([NOW], [LONG], [1e-9], [1.0], [1e-9]).value_usd.tolist() == [0.0]


@pytest.mark.parametrize("side", [2, -1])
def test_a_side_that_is_neither_long_nor_short_is_refused(side):
    with pytest.raises(LiquidationsError, match=r"side must be 0 .long. or 1 .short."):
        make_events([NOW], [side], [1.0], [1.0], [1.0])


@pytest.mark.parametrize("kind", [Events, Bars])
def test_nothing_joined_is_empty_with_the_right_types(kind):
    empty = kind.concat([])
    assert len(empty) == 0
    assert {name: array.dtype for name, array in empty.arrays().items()} == kind.dtypes()


rows = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, -0.0, 1.5]), st.integers(0, 2)))


@given(rows)
def test_equal_rows_are_numbered_in_their_order(rows):
    seen: dict[tuple, int] = {}
    expected = []
    for row in rows:
        seen[row] = seen.get(row, -1) + 1
        expected.append(seen[row])
    columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.empty(0)]
    columns = [one.astype(np.int8) if at == 2 else one for at, one in enumerate(columns)]
    assert event.count_equals(*columns).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2))))
def test_rows_are_ordered_by_time_then_key_and_equal_ones_stay_as_they_were(rows):
    expected = sorted(range(len(rows)), key=lambda at: rows[at])
    time, key = (np.array([row[column] for row in rows], np.int64) for column in (0, 1))
    order = event.order_of(time, key)
    assert order.tolist() == expected
    found = event.repeats(time[order], key[order]).tolist()
    ordered = sorted(rows)
    assert found == [at > 0 and ordered[at] == ordered[at - 1] for at in range(len(rows))]


intervals = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=5)


@given(intervals, intervals)
def test_what_two_sets_of_intervals_share_is_each_moment_of_both(one, other):
    def moments(spans):
        return {at for start, end in spans for at in range(start, end)}

    mine, theirs = (merge_intervals(np.array(x, np.int64).reshape(-1, 2)) for x in (one, other))
    common = event.common_intervals(mine, theirs)
    assert merge_intervals(common).tolist() == common.tolist()
    assert moments(common.tolist()) == moments(mine.tolist()) & moments(theirs.tolist())
    inside = event.is_within(mine, np.arange(21))
    assert set(np.flatnonzero(inside)) == moments(mine.tolist())
