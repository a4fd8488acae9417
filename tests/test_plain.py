"""Plain CSV and Parquet: what a row means, what is refused, and what export-data's files say."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import bars_of, events_of, same_bits, spans, utc
from hypothesis import given
from hypothesis import strategies as st

from liquidations.archives import Options, Part, plain
from liquidations.archives.plain import read, write
from liquidations.errors import LiquidationsError
from liquidations.event import SHORT, Events, identity, make_events


HOUR = 3_600_000
T = utc("2024-08-05 03:00")
SPAN = Options(span=(T, T + HOUR))
HEADER = "exchange,pair,timestamp,side,price,amount"
ROW = f"binance,BTC/USDT:USDT,{T},long,50000,0.5"


def csv(*rows: str, header: str = HEADER) -> bytes:
    return "".join(f"{line}\n" for line in (header, *rows)).encode()


def one(data: bytes, options: Options = SPAN) -> Part:
    (part,) = read(data, options)
    return part


# --- rows ---------------------------------------------------------------------------------------


def test_a_row_is_what_it_says():
    part = one(csv(f"bybit,ETH/USD:ETH,{T + 7},short,2500,0.4"))
    assert (part.exchange, part.pair, part.source) == ("bybit", "ETH/USD:ETH", "plain")
    rows = part.rows
    assert (rows.timestamp.tolist(), rows.side.tolist()) == ([T + 7], [SHORT])
    assert (rows.price.tolist(), rows.amount.tolist()) == ([2500.0], [0.4])
    assert rows.value_usd.tolist() == [1000.0]
    assert rows.received.tolist() == [T + 7]
    # Nobody knows who recorded it, so it is not passed on as this store's own.
    assert (rows.origin.tolist(), part.origins) == ([1], ("unknown",))
    assert part.coverage.tolist() == [[T, T + HOUR]]
    assert part.note == ""


def test_optional_columns_are_taken_as_they_are():
    header = f"{HEADER},value_usd,received,key,source,origin"
    part = one(csv(f"{ROW},24999.5,{T + 20},-77,my_feed,Ada", header=header))
    assert part.source == "my_feed"
    assert part.rows.value_usd.tolist() == [24999.5]
    assert part.rows.received.tolist() == [T + 20]
    assert (part.rows.origin.tolist(), part.origins) == ([1], ("Ada",))


@pytest.mark.parametrize(
    "written",
    [
        "2024-08-05T03:00:00.250Z",
        "2024-08-05 03:00:00.250Z",
        "2024-08-05T05:00:00.250+02:00",
        "2024-08-04T22:00:00.250-0500",
        "2024-08-05T03:00:00.250999Z",
        "2024-08-05T03:00:00.250999999Z",
        str(T + 250),
    ],
)
def test_times_are_ms_or_iso_with_a_zone(written):
    assert one(csv(ROW.replace(str(T), written))).rows.timestamp.tolist() == [T + 250]
    both = csv(ROW.replace(str(T), written), ROW.replace(str(T), written).replace("long", "short"))
    assert one(both).rows.timestamp.tolist() == [T + 250] * 2


def test_times_written_in_several_ways_are_read_one_by_one():
    rows = [
        ROW.replace(str(T), text) for text in ("2024-08-05T03:00:01Z", "2024-08-05 04:00+01:00")
    ]
    assert one(csv(*rows)).rows.timestamp.tolist() == [T, T + 1000]


def test_equal_rows_are_one_event_told_twice():
    other = ROW.replace("0.5", "0.25")
    part = one(csv(ROW, other, ROW, ROW, f"{ROW[:-3]}0.50"))
    assert sorted(part.rows.amount.tolist()) == [0.25, 0.5]
    assert part.note == "rows that repeat others were counted once: 3"
    # The key is that of the first of its equals, so a page of an exchange is recognised.
    page = make_events([T, T], [0, 0], [50_000.0] * 2, [0.5, 0.5], [25_000.0] * 2)
    assert set(part.rows.key.tolist()) & set(page.key.tolist()) == {page.key.tolist()[0]}


def test_a_key_tells_equal_rows_apart_and_nothing_else():
    # As a live feed numbers two equal orders of one millisecond.
    page = make_events([T, T], [0, 0], [50_000.0] * 2, [0.5, 0.5], [25_000.0] * 2)
    for keys in ((1, 2, 1), (-7, 7, 7), (2**63 - 1, -(2**63), -(2**63)), (5, 5, 4)):
        part = one(csv(*(f"{ROW},{key}" for key in keys), header=f"{HEADER},key"))
        assert set(part.rows.key.tolist()) == set(page.key.tolist())
        assert part.note.endswith(": 1")
    # The smallest is the first of them, and keeps what it said besides.
    header = f"{HEADER},key,received"
    rows = [f"{ROW},9,{T + 3}", f"{ROW},8,{T + 5}", f"{ROW},8,{T + 4}"]
    found = one(csv(*rows, header=header)).rows
    by_key = dict(zip(found.key.tolist(), (found.received - T).tolist(), strict=True))
    first, second = make_events(
        [T, T], [0, 0], [50_000.0] * 2, [0.5, 0.5], [25_000.0] * 2, rank=[0, 1], sort=False
    ).key.tolist()
    assert by_key == {first: 5, second: 3}
    assert np.all(np.diff(found.timestamp) >= 0)


def test_a_wrong_key_drops_no_event():
    """Numbers that begin anew for each millisecond, side or price, or one for all."""
    rows = [f"binance,BTC/USDT:USDT,{T + n // 4},long,{50_000 + n},0.5" for n in range(8)]
    plain_ones = one(csv(*rows)).rows
    for keys in (range(8), [0] * 8, [n % 4 for n in range(8)]):
        keyed = [f"{row},{key}" for row, key in zip(rows, keys, strict=True)]
        part = one(csv(*keyed, header=f"{HEADER},key"))
        same_bits(part.rows, plain_ones)
        assert part.note == ""


@given(st.lists(st.tuples(*(st.integers(0, 1),) * 4, st.integers(0, 3)), min_size=1, max_size=20))
def test_any_keys_number_equal_rows(drawn):
    """Of equal rows as many count as they have keys, with the keys of the first ranks."""
    rows = [
        f"okx,BTC/USDT:USDT,{T + a},{('long', 'short')[b]},{10 + c},{1 + d},{key}"
        for a, b, c, d, key in drawn
    ]
    part = one(csv(*rows, header=f"{HEADER},key"))
    keys: dict[tuple[int, ...], set[int]] = {}
    for *what, key in drawn:
        keys.setdefault(tuple(what), set()).add(key)
    expected = [(what, rank) for what, own in keys.items() for rank in range(len(own))]
    time, side, price, amount = (np.array(c) for c in zip(*(w for w, _ in expected), strict=True))
    rank = np.array([rank for _, rank in expected])
    key = identity(T + time, side.astype(np.int8), 10.0 + price, 1.0 + amount, rank)
    found = zip(part.rows.timestamp.tolist(), part.rows.key.tolist(), strict=True)
    assert list(found) == sorted(zip((T + time).tolist(), key.tolist(), strict=True))


def test_the_same_row_of_another_pair_exchange_or_source_is_another_event():
    header = f"{HEADER},source"
    rows = [
        f"{ROW},a",
        f"{ROW},b",
        f"{ROW.replace('binance', 'okx')},a",
        f"{ROW.replace('BTC', 'ETH')},a",
    ]
    parts = read(csv(*rows, header=header), SPAN)
    assert {(part.exchange, part.pair, part.source, len(part.rows)) for part in parts} == {
        ("binance", "BTC/USDT:USDT", "a", 1),
        ("binance", "BTC/USDT:USDT", "b", 1),
        ("okx", "BTC/USDT:USDT", "a", 1),
        ("binance", "ETH/USDT:USDT", "a", 1),
    }
    assert all(part.note == "" for part in parts)


def test_origins_are_numbered_within_their_part():
    header = f"{HEADER},origin"
    rows = [
        f"{ROW},Ada",
        f"{ROW.replace('long', 'short')},",
        f"{ROW.replace('BTC', 'ETH')},Bob",
        f"{ROW.replace('0.5', '2')},Bob",
    ]
    for part in read(csv(*rows, header=header), SPAN):
        names = {
            (side, amount): ("", *part.origins)[origin]
            for side, amount, origin in zip(
                part.rows.side, part.rows.amount, part.rows.origin, strict=True
            )
        }
        btc = {(0, 0.5): "Ada", (1, 0.5): "unknown", (0, 2.0): "Bob"}
        assert names == (btc if part.pair.startswith("BTC") else {(0, 0.5): "Bob"})


@given(st.lists(st.tuples(*(st.integers(0, 2) for _ in range(5))), min_size=1, max_size=30))
def test_any_rows_become_the_set_of_their_events(drawn):
    exchanges, pairs = ("binance", "bybit", "okx"), ("BTC/USDT:USDT", "BTC/USD:BTC", "A/USDT:USDT")
    rows = [
        (exchanges[a], pairs[b], T + c, ("long", "short")[d % 2], 10.0 + e, 2.0)
        for a, b, c, d, e in drawn
    ]
    parts = read(csv(*(",".join(map(str, row)) for row in rows)), SPAN)
    found = [
        (part.exchange, part.pair, time, ("long", "short")[side], price, 2.0)
        for part in parts
        for time, side, price in zip(
            part.rows.timestamp.tolist(), part.rows.side, part.rows.price.tolist(), strict=True
        )
    ]
    assert len(found) == len(set(found))
    assert set(found) == set(rows)
    for part in parts:
        assert np.all(np.diff(part.rows.timestamp) >= 0)


# --- what is refused ----------------------------------------------------------------------------

BAD_ROWS = {
    "an order's side": ("long", "sell", "POSITION that was liquidated.*got 'sell'.*closed a long"),
    "an order's side, large": ("long", "BUY", "POSITION that was liquidated.*got 'BUY'"),
    "another side": ("long", "both", "long or short, got 'both'"),
    "no side": ("long", "", "long or short, got ''"),
    "seconds": (str(T), str(T // 1000), "whole ms UTC.*row 1 has.*seem to be seconds"),
    "microseconds": (str(T), str(T * 1000), "seem to be microseconds"),
    "nanoseconds": (str(T), str(T * 10**6), "seem to be nanoseconds"),
    "fractions of a second": (str(T), "1722826800.5", "whole ms UTC"),
    "local time": (str(T), "2024-08-05 03:00:00", "no zone"),
    "a day": (str(T), "2024-08-05", "whole ms UTC"),
    "a month that is none": (str(T), "2024-13-05T00:00:00Z", "whole ms UTC"),
    "no time": (str(T), "", "row 1 has no timestamp"),
    "the past before Bitcoin": (str(T), "2001-08-05T00:00:00Z", "between 2009 and 2100; row"),
    "no price": ("50000", "", "row 1 has no price"),
    "a negative price": ("50000", "-50000", "price of a liquidation must be a positive number"),
    "price 0": ("50000", "0", "price of a liquidation must be a positive number"),
    "an infinite price": ("50000", "inf", "price of a liquidation must be a positive number"),
    "a word as a price": ("50000", "high", "can't be read as CSV.*high"),
    "a decimal comma": ("50000", "50000;5", "can't be read as CSV"),
    "a negative amount": ("0.5", "-0.5", "amount of a liquidation must be a positive number"),
    "contracts for coins": ("0.5", "1e9", "no liquidation is worth"),
    "an unknown exchange": ("binance", "bitmex", "unknown exchange 'bitmex'.*binance, bybit"),
    "an exchange's title": ("binance", "Binance", "unknown exchange 'Binance'"),
    "a symbol": ("BTC/USDT:USDT", "BTCUSDT", "'BTCUSDT' is not a perpetual.*BTC/USDT:USDT"),
    "a spot pair": ("BTC/USDT:USDT", "BTC/USDT", "'BTC/USDT' is not a perpetual"),
    "a future": ("BTC/USDT:USDT", "BTC/USDT:USDT-240927", "is not a perpetual"),
    "too few fields": (",long", "", "can't be read as CSV"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_row_that_can_not_be_is_refused(case):
    old, new, message = BAD_ROWS[case]
    good = ROW.replace("0.5", "0.75")
    with pytest.raises(LiquidationsError, match=message):
        read(csv(ROW.replace(old, new)), SPAN)
    with pytest.raises(LiquidationsError):
        read(csv(good, ROW.replace(old, new), good), SPAN)


@pytest.mark.parametrize("name", HEADER.split(","))
def test_a_missing_column_is_named(name):
    with pytest.raises(LiquidationsError, match=f"the column {name} is missing; expected CSV"):
        read(csv(ROW, header=HEADER.replace(name, f"{name}_")), SPAN)


def test_a_column_that_nobody_knows_is_refused_because_it_may_be_a_misspelled_one():
    with pytest.raises(LiquidationsError, match=r"unknown column 'keys'.*rename or remove.*key"):
        read(csv(f"{ROW},1", header=f"{HEADER},keys"), SPAN)
    with pytest.raises(LiquidationsError, match="stands twice"):
        read(csv(f"{ROW},1", header=f"{HEADER},price"), SPAN)


def test_a_list_of_events_needs_its_timerange():
    with pytest.raises(LiquidationsError, match="when nothing happened: give --timerange"):
        read(csv(ROW), Options())
    # What is wrong with the file itself is said first.
    with pytest.raises(LiquidationsError, match="the column side is missing"):
        read(csv(ROW, header=HEADER.replace("side", "direction")), Options())


@pytest.mark.parametrize("time", [T - 1, T + HOUR])
def test_a_row_outside_of_the_timerange_is_an_error(time):
    rows = csv(ROW, ROW.replace(str(T), str(time)))
    with pytest.raises(LiquidationsError, match=r"1 of its events are not within.*--timerange"):
        read(rows, SPAN)
    assert len(one(csv(ROW, ROW.replace(str(T), str(T + HOUR - 1)))).rows) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (csv(ROW)[:-1], "the last line has no end"),
        (b"<!doctype html>\n", "web page"),
        (csv(ROW, header=f"{HEADER},source") + b"\n", "can't be read as CSV"),
        (csv(f"{ROW},a b", header=f"{HEADER},source"), "source must be a name"),
        (csv(f"{ROW},{'x' * 33}", header=f"{HEADER},source"), "source must be a name"),
        (csv(f"{ROW},{'x' * 65}", header=f"{HEADER},origin"), "origin must be a name"),
        (csv(f"{ROW},1.5", header=f"{HEADER},key"), "can't be read as CSV"),
        (b"PAR1 and nothing else", "cut off"),
        (b"PAR1 and nothing elsePAR1", "damaged or was cut off"),
    ],
)
def test_files_that_are_something_else_are_refused(data, message):
    with pytest.raises(LiquidationsError, match=message):
        read(data, SPAN)


def test_a_header_alone_has_no_events():
    assert read(csv(), SPAN) == []


# --- Parquet of others --------------------------------------------------------------------------


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def frame(**columns) -> pd.DataFrame:
    names = dict(zip(HEADER.split(","), ROW.split(","), strict=True))
    own = {**names, "timestamp": T, "price": 50_000.0, "amount": 0.5} | columns
    return pd.DataFrame({name: [value] for name, value in own.items()})


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"timestamp": pd.Timestamp(T, unit="ms", tz="UTC")},
        {"timestamp": pd.Timestamp(T, unit="ms", tz="UTC").tz_convert("Europe/Berlin")},
        {"timestamp": "2024-08-05T03:00:00Z"},
        {"timestamp": str(T)},
        {"price": 50_000},
        {"price": "50000"},
    ],
)
def test_pandas_writes_what_is_read(columns):
    whole = frame(**columns)
    for one_way in (whole, whole.astype({"pair": "category"}), whole.set_index("timestamp")):
        file = io.BytesIO()
        one_way.to_parquet(file)
        rows = one(file.getvalue()).rows
        assert (rows.timestamp.tolist(), rows.price.tolist()) == ([T], [50_000.0])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"timestamp": pd.Timestamp(T, unit="ms")}, "no zone"),
        ({"timestamp": float(T)}, "whole ms UTC"),
        ({"price": "high"}, "price must be a column of numbers"),
        ({"price": None}, "row 1 has no price"),
        ({"side": 1}, "side must be text"),
        ({"side": None}, "row 1 has no side"),
        ({"pair": [1]}, "pair must be text"),
        ({"price": [1.0]}, "price must be a column of numbers"),
    ],
)
def test_columns_of_another_type_are_refused(columns, message):
    file = io.BytesIO()
    frame(**columns).to_parquet(file)
    with pytest.raises(LiquidationsError, match=message):
        read(file.getvalue(), SPAN)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view()])
def test_text_may_be_of_any_kind(kind):
    table = pa.Table.from_pandas(frame(), preserve_index=False)
    table = table.set_column(1, "pair", table["pair"].cast(kind))
    assert one(parquet(table)).pair == "BTC/USDT:USDT"


def test_a_small_file_that_would_fill_the_memory_is_refused(monkeypatch):
    zeros = np.zeros(3_000_000)
    bomb = pa.table({"price": zeros})
    sink = pa.BufferOutputStream()
    pq.write_table(bomb, sink, compression="zstd", use_dictionary=False)
    data = sink.getvalue().to_pybytes()
    assert zeros.nbytes > 200 * len(data)
    monkeypatch.setattr(plain, "_ALWAYS_FINE", 2**20)
    with pytest.raises(LiquidationsError, match=r"unpacks to .*split it"):
        read(data, SPAN)
    monkeypatch.setattr(plain, "MOST_ROWS", 1)
    with pytest.raises(LiquidationsError, match=r"more than 1 rows; split it by time or pair"):
        read(csv(ROW, ROW), SPAN)


def test_a_small_file_of_many_equal_rows_is_refused_before_it_is_read():
    codes = np.zeros(1_000_001, np.int32)
    words = {"exchange": "binance", "pair": "BTC/USDT:USDT", "side": "long"}
    table = {name: pa.DictionaryArray.from_arrays(codes, [word]) for name, word in words.items()}
    table |= {"timestamp": codes + np.int64(T), "price": codes + 1.0, "amount": codes + 1.0}
    data = parquet(pa.table(table))
    assert len(data) < 200_000
    with pytest.raises(LiquidationsError, match=r"it claims 1,000,001 rows in [\d,]+ bytes"):
        read(data, SPAN)


def test_the_keys_of_a_recording_are_stored_as_they_are():
    part = recording()
    odd = replace(part, rows=replace(part.rows, key=np.array([1, 2, 3])))
    back = one(write(odd, {}), Options())
    assert sorted(back.rows.key.tolist()) == [1, 2, 3]


# --- what export-data writes --------------------------------------------------------------------


def recording() -> Part:
    events = make_events(
        [T + 5, T, T],
        [0, 1, 1],
        [50_000.0, 49_999.5, 49_999.5],
        [0.1, 0.2, 0.2],
        [5_000.0, 9_999.9, 9_999.9],
        received=[T + 30, T + 2, T + 3],
        origin=[1, 2, 1],
    )
    coverage = spans((T, T + HOUR), (T + 2 * HOUR, T + 3 * HOUR))
    return Part("binance", "BTC/USDT:USDT", "binance", events, coverage, origins=("Ada", "Bob"))


def test_events_come_back_to_the_bit():
    part = recording()
    back = one(write(part, {"recorder": "Ada"}), Options())
    order = np.lexsort((part.rows.key, part.rows.timestamp))
    same_bits(back.rows, part.rows.take(order))
    assert back.coverage.tolist() == part.coverage.tolist()
    assert (back.exchange, back.pair, back.source) == ("binance", "BTC/USDT:USDT", "binance")
    assert (back.origins, back.note) == (part.origins, "")


def test_the_file_says_what_it_is_to_any_reader_of_parquet():
    data = write(recording(), {"recorder": "Ada"})
    file = pa.BufferReader(data)
    table = pq.read_table(file)
    assert table.column_names == list(plain.ALLOWED)
    assert table["side"].to_pylist() == ["short", "short", "long"]
    assert sorted(table["origin"].to_pylist()) == ["Ada", "Ada", "Bob"]
    told = json.loads(table.schema.metadata[b"liquidations"])
    assert len(told.pop("digest")) == 64
    assert told == {
        "format": 1,
        "exchange": "binance",
        "pair": "BTC/USDT:USDT",
        "source": "binance",
        "period": None,
        "coverage": [[T, T + HOUR], [T + 2 * HOUR, T + 3 * HOUR]],
        "recorder": "Ada",
    }


def test_a_month_without_events_is_knowledge():
    nothing = Part("okx", "BTC/USDT:USDT", "okx", Events.concat([]), spans((T, T + HOUR)))
    back = one(write(nothing, {}), Options())
    assert (back.exchange, len(back.rows)) == ("okx", 0)
    assert back.coverage.tolist() == [[T, T + HOUR]]


def test_an_event_outside_of_its_coverage_stays():
    events = events_of((T - HOUR, "long", 5.0), (T, "short", 7.0))
    part = Part("okx", "BTC/USDT:USDT", "okx", events, spans((T, T + HOUR)))
    assert one(write(part, {}), Options()).rows.timestamp.tolist() == [T - HOUR, T]


@pytest.mark.parametrize("counts", [False, True])
def test_bars_come_back_to_the_bit(counts):
    bars = bars_of((T, 1.5, 0.0), (T + 2 * HOUR, 0.25, 1e9), counts=counts)
    part = Part("okx", "BTC/USD:BTC", "coinalyze", bars, spans((T, T + 3 * HOUR)), HOUR)
    back = one(write(part, {}), Options())
    same_bits(back.rows, bars)
    assert (back.period, back.unit, back.source) == (HOUR, "usd", "coinalyze")
    assert back.coverage.tolist() == [[T, T + 3 * HOUR]]


def test_a_recording_needs_no_timerange_and_takes_none():
    with pytest.raises(LiquidationsError, match="leave --timerange away"):
        read(write(recording(), {}), SPAN)


def changed(data: bytes, **fields) -> bytes:
    """Write a file again with other metadata."""
    table = pq.read_table(pa.BufferReader(data))
    told = json.loads(table.schema.metadata[b"liquidations"]) | {"digest": None} | fields
    return parquet(table.replace_schema_metadata({b"liquidations": json.dumps(told)}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, r"format 2, this program knows 1.*pip install --upgrade"),
        ({"format": "1"}, "can't be"),
        ({"digest": "0" * 64}, "can't be"),
        ({"coverage": [[T, T, T]]}, "can't be read"),
        ({"coverage": "always"}, "can't be read"),
        ({"coverage": [[0, T]]}, "can't be"),
        ({"coverage": [[T, 2**70]]}, "can't be read"),
        ({"exchange": "bitmex"}, "unknown exchange 'bitmex'"),
        ({"exchange": None}, "unknown exchange None"),
        ({"pair": "BTCUSDT"}, "is not a perpetual"),
        ({"pair": "ETH/USDT:USDT"}, "says that it holds .*ETH.*but has rows of .*BTC"),
        ({"source": "../etc"}, "source must be a name"),
        ({"source": "simulated"}, "says that it holds"),
        ({"period": HOUR}, "the column long is missing"),
        ({"period": -HOUR}, "can't be"),
        ({"period": "1h"}, "can't be"),
    ],
)
def test_metadata_that_can_not_be_are_refused(fields, message):
    with pytest.raises(LiquidationsError, match=message):
        read(changed(write(recording(), {}), **fields), Options())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(T + 1, 1.0, 1.0)], "full periods"),
        ([(T + HOUR, 1.0, 1.0), (T, 1.0, 1.0)], "full periods"),
        ([(T, -1.0, 1.0)], "long of a bar is negative"),
        ([(T, 1.0, float("nan"))], "short of a bar is negative, no number"),
        ([(T, float("inf"), 1.0)], "long of a bar"),
    ],
)
def test_bars_that_can_not_be_are_refused(rows, message):
    part = Part("okx", "BTC/USD:BTC", "coinalyze", bars_of(*rows), spans((T, T + HOUR)), HOUR)
    with pytest.raises(LiquidationsError, match=message):
        read(write(part, {}), Options())


def test_any_changed_byte_is_noticed_or_changes_nothing():
    part = recording()
    data = write(part, {"recorder": "Ada"})
    good = one(data, Options())
    noticed = 0
    for at in range(4, len(data), 3):
        bad = bytearray(data)
        bad[at] ^= 0x10
        try:
            back = one(bytes(bad), Options())
        except LiquidationsError:
            noticed += 1
        else:
            same_bits(back.rows, good.rows)
            assert back.coverage.tolist() == good.coverage.tolist()
    assert noticed > 0.5 * len(range(4, len(data), 3))


def test_the_key_of_a_row_is_the_events_identity():
    part = one(csv(ROW))
    rows = part.rows
    key = identity(rows.timestamp, rows.side, rows.price, rows.amount, np.array([0]))
    assert rows.key.tolist() == key.tolist()
