"""Segments: what was packed comes back to the bit, also what is worked out anew when it is read."""

import base64
import math
import struct
import tracemalloc
import zlib
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


# What the two older formats were written as, deflated.
OLDER_EVENTS = (
    "eNq9lL9rFEEUx7+zu3fZJFusEFEhxBNExEhygkW6rLWWFnbxSBZdzCXn/QgKaQOClZ1KitQBIUUEBQv/gD2w0VSChY"
    "XNwfX+GN/MvDnGyV3rg7dv3rzPvvdmZmellPKHAFIomUGCKiqIaUQiIvJBXkzPiJ/QdpfeuSkUA5Rk9kkfkq4wc/xH"
    "SgoGKu95nlNSJd1uFw+KLeBAMxCK+e7wcw4fkj7Kn6JkNqNHKjUbKnbeYadJdxqbvXyt19mg8aHmAmQO7/fSaG73tr"
    "rAF2Y3J+SukLbaxXpOb8WkVT0bYF+OX6eynWIjV+Nn0vSu9q10eDe/irXz9bzYyVXr+CCd9dKOqJpT+jRSPiuT47K3"
    "/m7RzDvdRrOlcyakUzq3zUVp5VCYPVaSUNfmxBOdHWGk+7onMJIEC1QzGjF1Yeq667U7qupVuV6KyXKNbd2br3vx+1"
    "7c+mfZPvHi1r/B9siLW/86229e3PpLbFPxb9z6V9hf8eLWv+DMxaf26f/7NbZX3y7/rtX69FFi+PniC+q20hInehCg"
    "9vzM3uwkfpr5hcfj+Mjlo0swfwY/jzC7k94ZZNb2y7L8dXuQvX6l5P3q2H6/Ai+N/2kVQ2biLMBitNSKTvMD4J0p0M"
    "8+mvwmPJ8JLM6c8/k3dLln6dv+KXk6C+8GCAXs3TFcfAt87UcizT3FX7DFoQw="
)
OLDER_TWINS = (
    "eNqVUb1OwzAQvsSJa5CHDB2CVAEDA0x0YCdjX4GxgkhkCFQ0SH0NRpgYGRhYGJBYeAMWeA5eAJnvLg5NLTrwSefPZ9"
    "93P7ZzzuURUUaMTbKkKSWDHRAl8AmewZr4tbVH2DnsyPsN8kCgOE/uzxgaNq0vry8aok+Jiem+Fzvqxaaw2VV1WkJl"
    "YFpOY3pv4+MwN/O8Oit5/yoxFHGPGQ1FP5DuMz9bq9/r6Te476ou5820nsmcFjaQOVlQYEFaN8b7DL3GooP2haxkJ5"
    "XIDA+0hKVt1Ex+Y558Xe5dUR9a6mlfz9B6HHgeB+ed3/U3Ce4ngX4R3C+C++5dVRD3Xz/3vP98+L2bv2H39bFzEy05"
    "7fxVvcSrLXmPv/MIToqO724ZL8dr6wpMscojz/K/zD8Uyksx"
)
OLDER_BARS = (
    "eNpjZmBgYFHylUhwaIoCMicAcfxfwUonBkYGA5+3DuwMjgw/WR05GIwYfthzMLAyMTApgEhhLgEGYQEOBukPBgyqP+"
    "q1GZiYGJg1GFgkGISZBBhYmEAsILlAzIEBDH7Ug0gA3TUP/A=="
)


def older(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def test_older_segments_of_events_are_read_for_ever():
    found = unpack_events(older(OLDER_EVENTS))
    first = utc("2024-08-05")
    assert found.timestamp.tolist() == [first, first, first + 5, first + 70_000]
    assert found.received.tolist() == [first + 9, first + 9, first + 30, first + 70_001]
    assert found.side.tolist() == [0, 0, 1, 0]
    assert found.price.tolist() == [60000.5, 60000.5, 59999.9, 0.1]
    assert found.amount.tolist() == [0.25, 0.25, 1.0, 3.0]
    # 59,999.9 is rounded to the next 2**-24: 1,006,631,282,278.4 of them to …,278.
    assert found.value_usd.tolist() == [15000.125, 15000.125, 1006631282278 / 2**24, 7.0]
    assert found.key.tolist() == [11, 12, -5, 2**62]
    assert found.origin.tolist() == [0, 0, 2, 0]
    same_bits(unpack_events(pack_events(found)), found)


def test_what_an_older_segment_does_not_store_is_worked_out_as_it_was():
    found = unpack_events(older(OLDER_TWINS))
    first = utc("2024-08-05")
    assert found.timestamp.tolist() == found.received.tolist() == [first, first, first + 5]
    assert found.price.tolist() == [100.0, 100.0, 0.1]
    # 0.7 USD are 11,744,051.2 quanta.
    assert found.value_usd.tolist() == [300.0, 300.0, 11744051 / 2**24]
    # Twins have keys of their own.
    assert found.key.tolist() == [
        -1531539386778572203,
        6475889609516452901,
        -4376163129153056171,
    ]
    assert found.origin.tolist() == [0, 0, 0]


def test_older_segments_of_bars_are_read_for_ever_also_beside_new_ones():
    first, nan = utc("2024-08-05"), math.nan
    expected = Bars(
        np.array([first, first + 60_000, first + 240_000]),
        np.array([1.5, 0.0, 2.0]),
        np.array([0.0, 3.25, 4.0]),
        np.array([1.0, 0.0, nan]),
        np.array([0.0, 2.0, nan]),
        np.array([2.25, 0.0, nan]),
        np.array([0.0, 5.5, nan]),
    )
    later = bars_of((first + 300_000, 1.0, 2.0))
    found = unpack_bars(older(OLDER_BARS), pack_bars(later))
    same_bits(found, Bars.concat([expected, later]))


ANY_BITS = st.integers(0, 2**64 - 1)
SPECIAL = [math.nan, -math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.7e308, 2.0**63, 0.1]
any_float = st.one_of(
    st.sampled_from(SPECIAL),
    st.floats(),
    ANY_BITS.map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]),
    st.integers(0, 10**6).map(lambda cents: cents / 100),
)
any_int = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([-(2**63), 2**63 - 1]), st.integers(0, 9)
)


@given(
    st.lists(
        st.tuples(
            any_int, any_int, st.integers(0, 1), any_float, any_float, any_float, any_int,
            st.integers(-(2**15), 2**15 - 1),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_whatever_the_columns_of_events_hold_comes_back(drawn):
    columns = list(zip(*drawn, strict=True)) or [()] * 8
    events = Events(
        *(
            np.array(column, dtype)
            for column, dtype in zip(columns, Events.dtypes().values(), strict=True)
        )
    )
    same_bits(unpack_events(pack_events(events)), events)


@given(st.lists(st.tuples(any_int, *[any_float] * 6), max_size=40))
def test_whatever_the_columns_of_bars_hold_comes_back(drawn):
    columns = list(zip(*drawn, strict=True)) or [()] * 7
    bars = Bars(
        *(
            np.array(column, dtype)
            for column, dtype in zip(columns, Bars.dtypes().values(), strict=True)
        )
    )
    same_bits(unpack_bars(pack_bars(bars)), bars)


def live(size: int, *, twins: int = 0, inverse: bool = False) -> Events:
    """Invent what a live day of a large contract looks like."""
    random = np.random.default_rng(7)
    time = NOW + np.sort(random.integers(0, 86_400_000, size))
    price = np.round(60_000 * np.exp(np.cumsum(random.normal(0, 2e-4, size))), 2)
    amount = np.maximum(np.round(random.lognormal(-3, 1.5, size), 3), 0.001)
    value = price * amount
    if inverse:
        value = np.maximum(np.round(random.lognormal(2, 1.5, size)), 1) * 100.0
        amount = value / price
    side = (np.cumsum(random.normal(0, 1, size)) > 0).astype(np.int8)
    for column in (time, price, amount, value, side):
        column[1 : 2 * twins : 2] = column[: 2 * twins : 2]
    rank = (np.arange(size) % 2) * (np.arange(size) < 2 * twins)
    received = time + random.integers(5, 300, size)
    return make_events(time, side, price, amount, value, received=received, rank=rank)


@pytest.mark.parametrize(
    "events",
    [live(4_000), live(4_000, twins=40), live(4_000, inverse=True)],
    ids=["linear", "one in a hundred has a twin", "inverse"],
)
def test_live_events_take_less_than_nine_bytes_each(events):
    data = pack_events(events)
    same_bits(unpack_events(data), events)
    assert len(data) / len(events) < 9


def test_keys_that_do_not_follow_cost_their_eight_bytes_and_a_bit():
    events = live(4_000)
    random = np.random.default_rng(8)
    numbered = replace(events, key=random.integers(-(2**63), 2**63 - 1, 4_000))
    same_bits(unpack_events(pack_events(numbered)), numbered)
    assert len(pack_events(numbered)) - len(pack_events(events)) < 4_000 * 8.2


def test_a_price_beside_the_step_costs_itself_alone():
    events = live(4_000)
    price = events.price.copy()
    price[1_000] = math.pi
    beside = replace(events, price=price, value_usd=np.round(price * events.amount * 2**24) / 2**24)
    same_bits(unpack_events(pack_events(beside)), beside)
    # A bit a row, its price, its key, and one more plane of the steps.
    assert len(pack_events(beside)) - len(pack_events(events)) < 700


def test_bars_of_one_event_take_less_than_sixteen_bytes_each():
    random = np.random.default_rng(9)
    time = NOW + np.cumsum(random.integers(1, 40, 20_000)) * 60_000
    usd = np.round(random.lognormal(9, 2, 20_000) * 2**24) / 2**24
    on_long = np.cumsum(random.normal(0, 1, 20_000)) > 0
    none = np.zeros(20_000)
    sums = (np.where(on_long, usd, none), np.where(on_long, none, usd))
    counts = [np.where(total > 0, 1.0, 0.0) for total in sums]
    bars = Bars(time, *sums, *counts, *(total * total for total in sums))
    data = pack_bars(bars)
    same_bits(unpack_bars(data), bars)
    assert len(data) / len(bars) < 16


def test_a_segment_that_was_cut_off_or_spoilt_is_never_read_as_less():
    events = pack_events(events_of(*((NOW + n, "long", 1.0 + n) for n in range(100))))
    bars = pack_bars(bars_of(*((NOW + n * 60_000, 1.0 + n, 2.0) for n in range(100))))
    for data, unpack in ((events, unpack_events), (bars, unpack_bars)):
        spoilt = [data[:end] for end in range(len(data))] + [b"x" * len(data), data + b"x"]
        for piece in spoilt:
            with pytest.raises(LiquidationsError, match=r"damaged.*delete it and import again"):
                unpack(piece)


@pytest.mark.parametrize("bit", [1, 128, 255])
def test_no_byte_can_change_without_being_noticed(bit):
    rows = [(NOW + n * 60_000, 1.0 + n, 2.0) for n in range(40)]
    kinds = [(pack_events(live(40)), unpack_events), (pack_bars(bars_of(*rows)), unpack_bars)]
    for data, unpack in kinds:
        for at in range(len(data)):
            spoilt = bytearray(data)
            spoilt[at] ^= bit
            with pytest.raises(LiquidationsError, match="damaged"):
                unpack(bytes(spoilt))


def test_pages_of_a_large_segment_that_were_exchanged_are_noticed():
    data = pack_events(live(8_000))
    assert len(data) > 4 * 4_096
    mixed = data[:4_096] + data[8_192:12_288] + data[4_096:8_192] + data[12_288:]
    with pytest.raises(LiquidationsError, match="checksum"):
        unpack_events(mixed)


def signed(kind: bytes, rows: int, size: int, rest: bytes) -> bytes:
    """Make a segment whose checksum is right, as an attacker would."""
    summed = struct.pack("<IQ", rows, size) + rest
    sums = bytes(509 * 8)  # of no row of words
    return kind + struct.pack("<I", zlib.crc32(summed, zlib.crc32(sums))) + summed


def arrow_bomb() -> bytes:
    """Make a small segment of the older format that unpacks to 64 MB."""
    batch = pa.record_batch({"timestamp": pa.array(np.zeros(2**23, np.int64))})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("unpack", "data"),
    [
        (unpack_events, signed(b"LQE1", 2**31, 2**36, bytes(20))),
        (unpack_events, signed(b"LQE1", 0, 2**40, bytes(20))),
        (unpack_bars, signed(b"LQB1", 2**31, 2**36, bytes(20))),
        (unpack_bars, signed(b"LQB1", 2**31, 200, bytes(20))),
        (unpack_bars, (2**31).to_bytes(4, "little") + bytes(36)),
        (unpack_events, arrow_bomb()),
    ],
)
def test_few_bytes_that_claim_to_be_many_rows_take_no_memory(unpack, data):
    tracemalloc.start()
    with pytest.raises(LiquidationsError, match="damaged"):
        unpack(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
