"""Segments: what was packed comes back to the bit, also what is worked out anew when it is read."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from conftest import bars_of, events_of, same_bits, utc
from hypothesis import given
from hypothesis import strategies as st

from liquidations.errors import LiquidationsError
from liquidations.event import Bars, Events, make_events
from liquidations.segments import pack_bars, pack_events, unpack_bars, unpack_events


NOW = utc("2024-08-05 03:00")

positive = st.floats(1e-9, 1e6)
# Few times and some equal rows, so that there are twins.
rows = st.lists(
    st.tuples(
        st.integers(NOW, NOW + 3),
        st.sampled_from([0, 1]),
        st.one_of(st.sampled_from([100.0, 0.1]), positive),
        st.one_of(st.sampled_from([3.0, 0.7]), positive),
    ),
    max_size=30,
)


def ordered(events: Events) -> Events:
    """Return the events in order of time and key, as the store keeps them."""
    return events.take(np.lexsort((events.key, events.timestamp)))


def events_from(drawn) -> Events:
    time, side, price, amount = zip(*drawn, strict=True) if drawn else ((), (), (), ())
    value = [one * other for one, other in zip(price, amount, strict=True)]
    return ordered(make_events(time, side, price, amount, value))


@given(rows)
def test_events_come_back_to_the_bit(drawn):
    events = events_from(drawn)
    same_bits(unpack_events(pack_events(events)), events)


@given(rows.filter(bool), st.data())
def test_what_does_not_follow_from_the_rest_comes_back_too(drawn, data):
    events = events_from(drawn)
    size = len(events)

    def anything(strategy):
        return np.array(data.draw(st.lists(strategy, min_size=size, max_size=size)))

    own = {
        "received": events.timestamp + anything(st.integers(-5, 5)),
        "value_usd": anything(st.floats(0, 1e9)),
        "key": anything(st.integers(-(2**63), 2**63 - 1)).astype(np.int64),
    }
    chosen = data.draw(st.sets(st.sampled_from(sorted(own))))
    events = replace(events, **{name: own[name] for name in chosen})
    same_bits(unpack_events(pack_events(events)), events)


@given(rows.filter(bool), st.data())
def test_some_of_a_batch_keep_the_keys_that_they_had_in_it(drawn, data):
    # Of two twins the second alone: its key can't be worked out from what is left.
    events = events_from(drawn)
    kept = data.draw(st.sets(st.integers(0, len(events) - 1), min_size=1))
    some = events.take(np.array(sorted(kept)))
    same_bits(unpack_events(pack_events(some)), some)


unknown = st.just(float("nan"))
usd = st.one_of(unknown, st.floats(0, 1e12), st.just(5e-324))
count = st.one_of(unknown, st.integers(0, 2**31 - 1).map(float))
one_bar = st.tuples(usd, usd, count, count, usd, usd)


@given(st.dictionaries(st.integers(0, 10**6), one_bar, min_size=1))
def test_bars_come_back_to_the_bit(drawn):
    time = np.array(sorted(drawn), np.int64) * 60_000
    values = np.array([drawn[key] for key in sorted(drawn)], np.float64)
    bars = Bars(time, *values.T.copy())
    same_bits(unpack_bars(pack_bars(bars)), bars)


def test_nothing_comes_back_as_nothing():
    same_bits(unpack_events(pack_events(Events.concat([]))), Events.concat([]))
    same_bits(unpack_bars(pack_bars(Bars.concat([]))), Bars.concat([]))


def test_any_arrow_reader_can_open_a_segment_of_events():
    events = events_of((NOW, "short", 7.0), (NOW + 1, "long", 5.0))
    with pa.ipc.open_stream(pack_events(events)) as reader:
        found = reader.read_all()
    assert found.column("timestamp").to_pylist() == [NOW, NOW + 1]
    assert found.column("side").to_pylist() == [1, 0]
    assert found.column("amount").to_pylist() == [7.0, 5.0]


def test_a_segment_that_was_cut_off_or_spoilt_is_never_read_as_less():
    events = pack_events(events_of(*((NOW + n, "long", 1.0 + n) for n in range(100))))
    bars = pack_bars(bars_of(*((NOW + n * 60_000, 1.0 + n, 2.0) for n in range(100))))
    for data, unpack in ((events, unpack_events), (bars, unpack_bars)):
        spoilt = [data[:end] for end in range(0, len(data) - 16, 97)] + [b"", b"x" * len(data)]
        for piece in spoilt:
            with pytest.raises(LiquidationsError, match=r"damaged.*delete it and import again"):
                unpack(piece)
