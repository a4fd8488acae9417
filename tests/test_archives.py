"""Archives and their import: no side inverted, no unit misread, no file half taken.

Each archive reads an answer of ``answers/``, worked by hand row by row in ``answers/<case>.csv``,
and its recorded answers. One more archive is one more line in ``CASES`` and its two files.
"""

import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import same_bits, spans, utc
from hypothesis import given
from hypothesis import strategies as st

from liquidations.archives import (
    ARCHIVES,
    FUNDING_RATE,
    LIQUIDATIONS,
    OPEN_INTEREST,
    Context,
    Options,
    Part,
    archive,
    service,
)
from liquidations.archives.coinalyze import contract, period_of
from liquidations.candles import Source, candle_closes, candle_opens, columns, source_candles
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import SIDES, USD_QUANTUM, Bars, Events, merge_intervals
from liquidations.exchanges import EXCHANGES
from liquidations.exchanges.okx import contracts
from liquidations.importer import find_files, read_files, write_parts
from liquidations.pairs import base_of
from liquidations.store import Store


ANSWERS = Path(__file__).parent / "answers"
HOUR = 3_600_000


def okx_options(instruments: Path = ANSWERS / "okx-instruments.json") -> Options:
    return Options(contracts=lambda: contracts(json.loads(instruments.read_text())["data"]))


def plain_options() -> Options:
    return Options(span=(utc("2024-08-05 03:00"), utc("2024-08-05 04:00")))


# Reviewed text → the bytes of a file. ``gzip.compress`` is one more of these.


def zipped(text: bytes, name: str = "answer.csv") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr(name, text)
    return file.getvalue()


def lz4(text: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(text)
    return sink.getvalue().to_pybytes()


def parquet(text: bytes) -> bytes:
    """Store CSV as Parquet: a column whose fields are all numbers becomes one of numbers."""
    names, *rows = csv.reader(io.StringIO(text.decode()))
    fields = {
        name: [dict(zip(names, row, strict=False)).get(name) for row in rows] for name in names
    }

    def typed(column):
        for kind in (int, float):
            try:
                return pa.array([kind(field) for field in column])
            except (OverflowError, TypeError, ValueError):
                continue
        return pa.array(column)

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: typed(column) for name, column in fields.items()}), sink)
    return sink.getvalue().to_pybytes()


@dataclass(frozen=True)
class Case:
    """Say how the answer of a source is read, and which of the recorded ones are.

    ``answer`` is a file of ``answers/`` that people can read (.json, .jsonl or .csv), ``encode``
    makes of it what the source gives. ``whole`` tells that a file which was cut off can be told
    from a whole one; lines of text without a frame around them can't.
    """

    options: Callable[[], Options]
    answer: str
    encode: Callable[[bytes], bytes] = bytes
    whole: bool = True
    files: str = ""
    recorded: Callable[[Path], Options] = lambda _: Options()
    others: tuple[str, ...] = ()


def snapshot(symbol: str) -> Callable[[bytes], bytes]:
    """Make Binance's file of a symbol's liquidations."""
    return partial(zipped, name=f"{symbol}-liquidationSnapshot-2024-08-05.csv")


def tardis_file(text: bytes) -> bytes:
    return gzip.compress(text + b"\n")


#: A case is named by its source, and if that gives several formats by one more word after a dash:
#: ``plain-parquet``. What is expected of it stands in ``answers/<case>.csv``.
CASES = {
    "coinalyze": Case(
        lambda: Options(unit="usd"),
        "coinalyze.json",
        files="data/coinalyze/*-liquidation-history-*.json",
        recorded=lambda _: Options(unit="base"),
        others=("data/coinalyze/*-open-interest-*.json",),
    ),
    "coinglass": Case(lambda: Options(name="OKX_BTC-USD-SWAP_1h.json"), "coinglass.json"),
    "okx": Case(
        okx_options,
        "okx.json",
        files="data/okx/*-liquidation-orders.json",
        recorded=lambda folder: okx_options(folder / "data/okx/instruments.json"),
        others=("data/okx/instruments.json",),
    ),
    "binance_vision": Case(Options, "binance_vision-rows.csv", snapshot("BTCUSD_PERP")),
    "binance_vision-eth": Case(Options, "binance_vision-eth-rows.csv", snapshot("ETHUSD_PERP")),
    "tardis": Case(Options, "tardis-rows.csv", tardis_file),
    "tardis-binance": Case(Options, "tardis-binance-rows.csv", tardis_file),
    "tardis-delivery": Case(Options, "tardis-delivery-rows.csv", tardis_file),
    "tardis-okx": Case(okx_options, "tardis-okx-rows.csv", tardis_file),
    "node_fills": Case(
        Options,
        "node_fills.jsonl",
        lz4,
        files="frames/hyperliquid_node_fills_by_block_*.jsonl",
    ),
    "plain": Case(plain_options, "plain-rows.csv", lambda text: text + b"\n", whole=False),
    "plain-parquet": Case(plain_options, "plain-rows.csv", parquet),
}

each = pytest.mark.parametrize("name", CASES)
each_source = pytest.mark.parametrize("source", ARCHIVES)


def source_of(name: str) -> str:
    return name.split("-")[0]


def answer_of(name: str) -> bytes:
    return (ANSWERS / CASES[name].answer).read_bytes().strip()


def read(name: str, answer, options: Options | None = None) -> list[Part]:
    """Read a file: bytes as they are, anything else as JSON."""
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return list(archive(source_of(name)).read(data, options or CASES[name].options()))


def read_case(name: str) -> list[Part]:
    return read(name, CASES[name].encode(answer_of(name)))


# --- the contract of every archive --------------------------------------------------------------


def test_every_archive_has_a_case():
    assert {source_of(name) for name in CASES} == set(ARCHIVES)


@each_source
def test_every_archive_says_what_it_gives(source):
    module = archive(source)
    about = module.ABOUT
    assert module.__doc__
    assert module.__doc__.count("\n") > 3
    assert all((about.gives, about.depth, about.complete, about.files))
    assert about.exchanges
    assert set(about.exchanges) <= set(EXCHANGES)
    assert set(about.kinds) <= {LIQUIDATIONS, OPEN_INTEREST, FUNDING_RATE}
    assert list(about.periods) == sorted(set(about.periods))
    assert about.parallel >= 1
    assert about.per_minute is None or about.per_minute >= 1
    assert bool(about.key) == bool(about.header)
    if about.key:
        assert re.fullmatch(r"[A-Z][A-Z0-9_]+", about.key)
        assert re.fullmatch(r"[A-Za-z_-]+: .*\{key\}", about.header)
    if about.url:
        assert re.fullmatch(r"https://[^/]+(/[^/]+)*", about.url)
        assert service(source) is module
        for function in ("symbols", "asks", "answer", "CATALOGUE"):
            assert hasattr(module, function)
    else:
        with pytest.raises(LiquidationsError, match=f"import-data --source {source}"):
            service(source)


def check(parts: list[Part | Context], source: str) -> None:
    """Check what holds for the parts of any file."""
    for part in parts:
        assert part.exchange in EXCHANGES
        assert base_of(part.pair)
        # In files of our own form anybody's data may travel.
        assert part.source == source or source == "plain"
        if isinstance(part, Context):
            check_context(part)
            continue
        assert part.unit in ("base", "usd")
        rows = part.rows
        assert {name: array.dtype for name, array in rows.arrays().items()} == rows.dtypes()
        assert part.coverage.dtype == np.int64
        assert merge_intervals(part.coverage).tolist() == part.coverage.tolist()
        # Each row lies within the coverage, to its end.
        length = part.period if isinstance(rows, Bars) else 1
        for time in (rows.timestamp, rows.timestamp + length - 1):
            position = np.searchsorted(part.coverage[:, 0], time, side="right") - 1
            assert (position >= 0).all()
            assert (time < part.coverage[position, 1]).all()
        if isinstance(rows, Bars):
            assert (np.diff(rows.timestamp) > 0).all()
            assert not (rows.timestamp % part.period).any()
        else:
            assert rows.origin.max(initial=0) <= len(part.origins)


#: Freqtrade's own columns.
CONTEXT_COLUMNS = {
    OPEN_INTEREST: {"open_interest_amount", "open_interest_value"},
    FUNDING_RATE: {"funding_rate"},
}


def check_context(part: Context) -> None:
    assert part.timestamp.dtype == np.int64
    assert (np.diff(part.timestamp) > 0).all()
    assert not (part.timestamp % part.period).any()
    assert set(part.values) == CONTEXT_COLUMNS[part.kind]
    for values in part.values.values():
        assert values.dtype == np.float64
        assert values.shape == part.timestamp.shape
        assert not np.isinf(values).any()


def flat(part: Part | Context) -> list[tuple]:
    """Write a part as (exchange, pair, time, side, price, amount, value); bars leave out zeros.

    Of open interest and funding the column's name stands in the place of the side.
    """
    names = (part.exchange, part.pair)
    if isinstance(part, Context):
        return [
            (*names, time, column, None, None, value)
            for column, values in part.values.items()
            for time, value in zip(part.timestamp.tolist(), values.tolist(), strict=True)
            if value == value
        ]
    rows = part.rows
    if isinstance(rows, Events):
        columns = (rows.timestamp, rows.side, rows.price, rows.amount, rows.value_usd)
        table = zip(*(column.tolist() for column in columns), strict=True)
        return [(*names, time, SIDES[side], *rest) for time, side, *rest in table]
    return [
        (*names, time, side, None, None, value)
        for side, volume in (("long", rows.long), ("short", rows.short))
        for time, value in zip(rows.timestamp.tolist(), volume.tolist(), strict=True)
        if value
    ]


@each
def test_a_hand_made_answer_is_read_as_worked_by_hand(name):
    parts = read_case(name)
    check(parts, source_of(name))
    with (ANSWERS / f"{name}.csv").open(newline="") as file:
        expected = [
            (
                row["exchange"],
                row["pair"],
                int(row["timestamp"]),
                row["side"],
                *(float(row[name]) if row[name] else None for name in ("price", "amount")),
                float(row["value_usd"]),
            )
            for row in csv.DictReader(file)
        ]
    assert {"long", "short"} <= {row[3] for row in expected}
    found = [row for part in parts for row in flat(part)]
    assert sorted(row[:4] for row in found) == sorted(row[:4] for row in expected)
    for mine, theirs in zip(sorted(found), sorted(expected), strict=True):
        assert mine[4] == theirs[4]
        assert mine[5] == (theirs[5] and pytest.approx(theirs[5], rel=1e-15))
        assert mine[6] == pytest.approx(theirs[6], rel=0, abs=USD_QUANTUM)


@each
def test_reading_again_gives_the_same_rows_and_keys(name):
    for one, other in zip(*(read_case(name) for _ in range(2)), strict=True):
        if isinstance(one, Part):
            same_bits(one.rows, other.rows)


def recorded_answers(name: str, recorded: Path):
    case = CASES[name]
    files = sorted(recorded.glob(case.files)) if case.files else []
    assert bool(files) == bool(case.files)
    for file in files:
        options = replace(case.recorded(recorded), name=file.name)
        yield file, read(name, case.encode(file.read_bytes()), options)


@each
def test_recorded_answers_are_read(name, recorded):
    for _, parts in recorded_answers(name, recorded):
        assert parts
        check(parts, source_of(name))


@pytest.mark.parametrize("name", ["coinalyze", "okx"])
def test_recorded_answers_are_of_the_contract_that_their_file_is_named_by(name, recorded):
    for file, (part,) in recorded_answers(name, recorded):
        assert file.name.startswith(base_of(part.pair))


@each
def test_other_recorded_answers_of_the_vendor_are_told_apart(name, recorded):
    case = CASES[name]
    for pattern in case.others:
        files = list(recorded.glob(pattern))
        assert files
        for file in files:
            with pytest.raises(OtherAnswer, match="expected"):
                read(name, file.read_bytes(), case.recorded(recorded))


@each
def test_an_answer_that_was_cut_off_anywhere_is_refused(name):
    data = CASES[name].encode(answer_of(name))
    for end in range(len(data)):
        if CASES[name].whole:
            with pytest.raises(LiquidationsError, match="cut off"):
                read(name, data[:end])
        else:
            read_or_refuse(name, data[:end])


def read_or_refuse(name: str, data: bytes) -> None:
    try:
        parts = read(name, data)
    except LiquidationsError:
        return
    check(parts, source_of(name))


@each
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"5",
        b'"text"',
        b"[5]",
        b"[[]]",
        b"[null]",
        b'{"data": 5}',
        b'[{"data": 5}]',
        b"date,open\n1,2\n",
        b"\x1f\x8b\x08\x00",
        b"PK\x03\x04",
        b"PAR1",
        b"\x04\x22\x4d\x18",
        b"\xff\xfe\x00",
        b"<html></html>",
        *(
            pytest.param(encode(text), id=f"{encode.__name__}-{text[:9]!r}")
            for encode in (gzip.compress, zipped, lz4)
            for text in (b"<html></html>", b"date,open\n1,2\n", b"{}", b"\xff\xfe\x00")
        ),
        pytest.param(parquet(b"date,open\n1,2\n"), id="parquet"),
    ],
)
def test_what_is_no_answer_is_refused(name, data):
    with pytest.raises(LiquidationsError):
        read(name, data)


def tree_of(name: str):
    """Parse the answer of a case: JSON as it is, lines into a list of JSON or of lists of text."""
    text = answer_of(name).decode()
    if CASES[name].answer.endswith(".csv"):
        return list(csv.reader(io.StringIO(text)))
    if CASES[name].answer.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def text_of(name: str, tree) -> bytes:
    """Write such a tree again."""
    if CASES[name].answer.endswith(".json"):
        return json.dumps(tree).encode()
    lines = tree if isinstance(tree, list) else [tree]
    if CASES[name].answer.endswith(".jsonl"):
        return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    sheet = io.StringIO()
    rows = [line if isinstance(line, list) else [line] for line in lines]
    csv.writer(sheet, lineterminator="\n").writerows(rows)
    return sheet.getvalue().encode()


@each
def test_an_answer_that_is_written_again_is_the_same_answer(name):
    again = read(name, CASES[name].encode(text_of(name, tree_of(name))))
    assert [flat(part) for part in again] == [flat(part) for part in read_case(name)]


def paths(node, path=()):
    """List where the values of a JSON tree stand."""
    yield path
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, child in items:
        yield from paths(child, (*path, key))


def replaced(node, path, value):
    if not path:
        return value
    copy = node.copy()
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


strange = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(["", "x", "nan", "inf", "-1", "1e400", [], {}, [[]], [{}], {"t": 1}, -1, 0]),
    st.sampled_from([float("inf"), float("nan"), 2**63, -(2**70), 1e300, 0.5]),
)


@each
@given(st.data())
def test_one_strange_value_is_refused_or_read_but_never_a_crash(name, data):
    answer = tree_of(name)
    path = data.draw(st.sampled_from(list(paths(answer))))
    wrong = text_of(name, replaced(answer, path, data.draw(strange)))
    read_or_refuse(name, CASES[name].encode(wrong))


def test_an_unknown_source_is_named_with_those_known():
    with pytest.raises(LiquidationsError, match=f"'typo'.*{', '.join(ARCHIVES)}"):
        archive("typo")
    with pytest.raises(LiquidationsError, match="'typo'"):
        service("typo")


# --- Coinalyze ----------------------------------------------------------------------------------


def history(*rows: tuple[int, float, float], symbol: str = "BTCUSDT_PERP.A") -> list:
    return [{"symbol": symbol, "history": [{"t": t, "l": x, "s": y} for t, x, y in rows]}]


T = utc("2024-08-05 03:00") // 1000


def one(answer, **options) -> Part:
    (part,) = read("coinalyze", answer, Options(**{"unit": "usd", **options}))
    return part


def test_the_last_period_is_left_out_and_absent_ones_are_covered():
    part = one(
        answer_of("coinalyze").replace(b"\n", b" ").split(b',  {"symbol": "BTCUSD_')[0] + b"]"
    )
    #  03:00  04:00  05:00   06:00  07:00
    #  row    row    absent  row    the last
    assert part.rows.timestamp.tolist() == [T * 1000 + n * HOUR for n in (0, 1, 3)]
    assert part.coverage.tolist() == spans(("2024-08-05 03:00", "2024-08-05 07:00")).tolist()
    assert part.period == HOUR
    assert "2024-08-05 07:00" in part.note
    assert np.isnan(part.rows.long_count).all()


def test_the_next_answer_brings_the_period_that_was_left_out(db_url):
    first = one(history((T, 1, 1), (T + 3600, 0.5, 0)))
    second = one(history((T, 1, 1), (T + 3600, 2, 0), (T + 7200, 9, 9)))
    with Store(db_url, create=True) as store:
        done = write_parts(store, [(Path("1"), first), (Path("2"), second)])
        assert [(each.rows.new, each.rows.known, each.rows.revised) for each in done] == [
            (1, 0, 0),
            (1, 1, 0),
        ]
        with store.read() as reader:
            (series,) = reader.series()
            assert reader.bars(series, 0, 2**62).long.tolist() == [1.0, 2.0]
            assert reader.coverage(series).tolist() == [[T * 1000, T * 1000 + 2 * HOUR]]


@pytest.mark.parametrize(
    ("minutes", "period"),
    [
        ([0, 1], 1),
        ([0, 5, 10], 5),
        ([0, 60, 180, 240], 60),
        ([0, 7, 21], 1),
        ([0, 45, 90], 15),
        ([0, 1440, 4320], 1440),
        # Weeks between the rows: days are the longest interval of the API.
        ([0, 10_080], 1440),
        # Hours of which only every second one saw a liquidation: the sums are the same.
        ([0, 120, 360], 120),
    ],
)
def test_the_period_is_told_from_the_distances(minutes, period):
    assert period_of([T + 60 * minute for minute in minutes]) == period * 60_000


@pytest.mark.parametrize("seconds", [[T], [], [T, T + 90], [T, T + 1]])
def test_a_period_that_can_not_be_told_is_asked_for(seconds):
    with pytest.raises(LiquidationsError, match="--timeframe"):
        period_of(seconds)


def test_sparse_rows_may_be_given_their_period():
    sparse = history((T - 10_800, 1, 0), (T - 3_600, 2, 0), (T + 3_600, 4, 0))
    # 00:00, 02:00, 04:00 …
    assert one(sparse).period == 2 * HOUR
    hourly = one(sparse, period=HOUR)
    assert hourly.period == HOUR
    opens = candle_opens(utc("2024-08-05 00:00"), utc("2024-08-05 05:00"), "1h")
    source = Source("coinalyze", HOUR, hourly.rows, hourly.coverage)
    found = columns({"binance": source_candles(source, opens, opens + HOUR)})
    np.testing.assert_array_equal(found["liq_long"], [1.0, 0.0, 2.0, 0.0, np.nan])


def test_sparse_rows_off_the_grid_of_their_distance_ask_for_the_period():
    # 01:00, 03:00, 05:00: two hours apart, but no two-hour period begins at 01:00.
    odd = history((T - 7_200, 1, 0), (T, 2, 0), (T + 7_200, 4, 0))
    with pytest.raises(LiquidationsError, match=r"BTC/USDT:USDT on binance.*120 min.*--timeframe"):
        one(odd)
    assert one(odd, period=HOUR).rows.long.tolist() == [1.0, 2.0]


def test_one_row_alone_tells_nothing():
    part = one(history((T, 1, 1)), period=HOUR)
    assert len(part.rows) == 0
    assert merge_intervals(part.coverage).tolist() == []


def test_the_unit_must_be_said():
    with pytest.raises(LiquidationsError, match=r"--unit usd.*--unit base"):
        read("coinalyze", answer_of("coinalyze"), Options())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(T * 1000, 1, 1), (T * 1000 + 3_600_000, 1, 1)], "seconds"),
        ([(T, 1, 1), (T, 1, 1), (T + 3600, 1, 1)], "stands twice"),
        ([(T, -1, 1), (T + 3600, 1, 1)], "negative"),
        ([(T, 1, -0.1), (T + 3600, 1, 1)], "negative"),
        ([(T, float("nan"), 1), (T + 3600, 1, 1)], "not a number"),
        ([(T, 1, float("inf")), (T + 3600, 1, 1)], "not a number"),
        ([(T, 1, None), (T + 3600, 1, 1)], "lacks a readable t, l or s"),
        ([(T, "x", 1), (T + 3600, 1, 1)], "lacks a readable t, l or s"),
    ],
)
def test_rows_that_no_answer_has_are_refused(rows, message):
    with pytest.raises(LiquidationsError, match=message):
        one(history(*rows))


def test_the_vendors_own_error_is_shown():
    with pytest.raises(LiquidationsError, match=r"error: 'Invalid API key'"):
        read("coinalyze", {"message": "Invalid API key"})


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("BTCUSDT_PERP.A", ("binance", "BTC/USDT:USDT")),
        ("BTCUSDC_PERP.A", ("binance", "BTC/USDC:USDC")),
        ("ETHUSD_PERP.A", ("binance", "ETH/USD:ETH")),
        ("BTCUSDT.6", ("bybit", "BTC/USDT:USDT")),
        ("BTCUSD.6", ("bybit", "BTC/USD:BTC")),
        ("BTCUSDT_PERP.3", ("okx", "BTC/USDT:USDT")),
        ("BTC.H", ("hyperliquid", "BTC/USDC:USDC")),
        ("kPEPE.H", ("hyperliquid", "KPEPE/USDC:USDC")),
        ("1000SHIBUSDT_PERP.A", ("binance", "1000SHIB/USDT:USDT")),
        ("USDCUSDT_PERP.A", ("binance", "USDC/USDT:USDT")),
    ],
)
def test_symbols(symbol, expected):
    assert contract(symbol) == expected


@pytest.mark.parametrize(
    "symbol",
    [
        "BTCUSD_240628.A",
        "BTCUSDT_240628.A",
        "BTCUSDU24.6",
        "BTC-26JUL24.6",
        "BTCUSDT_PERP.F",
        "BTC.A",
        "BTCUSDT",
        "",
        None,
        5,
    ],
)
def test_what_is_no_perpetual_of_a_known_exchange_is_refused(symbol):
    with pytest.raises(LiquidationsError, match="is not the symbol of a perpetual"):
        contract(symbol)


# --- OKX ----------------------------------------------------------------------------------------

ORDER = {"bkPx": "72731.6", "side": "sell", "sz": "6.17", "ts": "1772708844104"}
OTHER = {"bkPx": "73113.4", "side": "buy", "sz": "0.65", "ts": "1772709475837"}


def page(*details: dict, name: str = "BTC-USDT-SWAP") -> dict:
    return {"code": "0", "msg": "", "data": [{"instId": name, "details": list(details)}]}


def test_overlapping_pages_share_their_rows_and_twins_of_one_page_stay_two(db_url):
    # Three orders: a pair of twins on both pages, and another one on the first.
    (part,) = read("okx", [page(OTHER, ORDER, ORDER), page(ORDER, ORDER)])
    assert len(part.rows) == 5
    with Store(db_url, create=True) as store:
        (done,) = write_parts(store, [(Path("file"), part)])
        assert (done.rows.new, done.rows.known) == (3, 2)
        with store.read() as reader:
            (series,) = reader.series()
            assert reader.bars(series, 0, 2**62).long_count.tolist() == [2.0, 0.0]
    # From the oldest order to just after the newest.
    assert part.coverage.tolist() == [[1_772_708_844_104, 1_772_709_475_838]]


def test_one_page_alone_and_an_empty_one():
    (part,) = read("okx", page(ORDER))
    assert part.coverage.tolist() == [[1_772_708_844_104, 1_772_708_844_105]]
    assert read("okx", page()) == []
    assert read("okx", {"code": "0", "msg": "", "data": []}) == []


@pytest.mark.parametrize("name", ["BTC-USDT-260327", "PEPE-USDT-SWAP", "", None])
def test_a_contract_of_unknown_size_is_refused_and_never_guessed(name):
    with pytest.raises(LiquidationsError, match=r"size of a contract.*BTC-USD-SWAP.*--markets"):
        read("okx", page(ORDER, name=name))


def test_the_exchanges_own_error_is_shown():
    with pytest.raises(LiquidationsError, match=r"error '50011': 'Too Many Requests'"):
        read("okx", {"code": "50011", "msg": "Too Many Requests", "data": []})
    good = page(ORDER)
    with pytest.raises(LiquidationsError, match="50011"):
        read("okx", [good, {"code": "50011", "msg": "Too Many Requests", "data": []}])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("side", "SELL"),
        ("side", "long"),
        ("side", ""),
        ("bkPx", ""),
        ("bkPx", "0"),
        ("bkPx", "-1"),
        ("sz", "0"),
        ("sz", "-1"),
        ("sz", "nan"),
        ("ts", "1772708844"),
        ("ts", "1772708844104000"),
        ("ts", ""),
    ],
)
def test_an_order_that_can_not_be_is_refused(field, value):
    with pytest.raises(LiquidationsError):
        read("okx", page(OTHER, {**ORDER, field: value}))
    lacking = {key: text for key, text in ORDER.items() if key != field}
    with pytest.raises(LiquidationsError, match=field):
        read("okx", page(OTHER, lacking))


INSTRUMENT = {
    "instId": "BTC-USDT-SWAP",
    "instType": "SWAP",
    "uly": "BTC-USDT",
    "ctType": "linear",
    "ctVal": "0.01",
    "ctMult": "1",
    "settleCcy": "USDT",
}


def test_an_instrument_becomes_a_contract():
    found = contracts([INSTRUMENT, {**INSTRUMENT, "instType": "FUTURES", "ctVal": ""}])
    assert {name: (one.pair, one.size, one.inverse) for name, one in found.items()} == {
        "BTC-USDT-SWAP": ("BTC/USDT:USDT", 0.01, False)
    }


@pytest.mark.parametrize("field", [name for name in INSTRUMENT if name != "instType"])
def test_an_instrument_without_a_field_is_refused(field):
    with pytest.raises(LiquidationsError, match="instrument"):
        contracts([{name: text for name, text in INSTRUMENT.items() if name != field}])


@pytest.mark.parametrize("field", ["uly", "ctType", "ctVal", "ctMult", "settleCcy"])
def test_an_instrument_with_an_empty_field_is_refused(field):
    with pytest.raises(LiquidationsError, match="instrument"):
        contracts([{**INSTRUMENT, field: ""}])


# --- import -------------------------------------------------------------------------------------


def no_prices(pair: str, timeframe: str):
    raise AssertionError("nobody needs a price")


def test_base_amounts_become_usd_at_the_candles_typical_price(tmp_path):
    file = tmp_path / "answer.json"
    # 2 and 0.5 coins at 03:00, none at 04:00 (absent), 3 and 0 at 05:00; 06:00 is left out.
    rows = history((T, 2, 0.5), (T + 7_200, 3, 0), (T + 10_800, 9, 9))
    file.write_text(json.dumps(rows))
    asked = []

    def prices(pair, timeframe):
        asked.append((pair, timeframe))
        # 02:00 … 06:00; (high + low + close) / 3 of 03:00 = (120 + 90 + 96) / 3 = 102,
        # of 05:00 = (84 + 60 + 66) / 3 = 70; those of the other hours are never looked at.
        opens = (T + np.arange(-1, 4) * 3600) * 1000
        return opens, np.array([1e9, 102.0, 1e9, 70.0, 1e9])

    found, passed = read_files([(file, True)], "coinalyze", Options(unit="base"), prices)
    ((_, part),) = found
    assert asked == [("BTC/USDT:USDT", "1h")]
    assert part.unit == "usd"
    assert part.rows.long.tolist() == [204.0, 210.0]
    assert part.rows.short.tolist() == [51.0, 0.0]
    assert passed == []


@pytest.mark.parametrize("there", [[], [0], [1, 2, 3]], ids=["none", "the first", "not the first"])
def test_a_missing_candle_is_an_error_that_names_the_download(tmp_path, there):
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(history(*((T + n * 3600, 1, 1) for n in range(4)))))
    opens = np.array([(T + n * 3600) * 1000 for n in there], dtype=np.int64)
    with pytest.raises(LiquidationsError) as caught:
        read_files(
            [(file, True)],
            "coinalyze",
            Options(unit="base"),
            lambda *_: (opens, np.full(len(opens), 100.0)),
        )
    message = str(caught.value)
    assert str(file) in message
    # Three periods need a price; the fourth is left out.
    missing = sorted({0, 1, 2} - set(there))
    assert f"{len(missing)} of 3 1h candles" in message
    assert f"2024-08-05 0{3 + missing[0]}:00" in message
    assert (
        "freqtrade download-data --exchange binance --trading-mode futures -p BTC/USDT:USDT -t 1h "
        "--timerange 20240805-20240806" in message
    )


def test_usd_needs_no_prices(tmp_path):
    file = tmp_path / "answer.json"
    file.write_bytes(answer_of("coinalyze"))
    found, _ = read_files([(file, True)], "coinalyze", Options(unit="usd"), no_prices)
    assert len(found) == 5


def test_a_folder_passes_over_other_answers_but_a_named_file_does_not(tmp_path):
    for name in ("okx", "okx-instruments"):
        (tmp_path / f"{name}.json").write_bytes((ANSWERS / f"{name}.json").read_bytes())
    (tmp_path / "notes.txt").write_text("not an answer")
    found, passed = read_files(find_files([tmp_path]), "okx", okx_options(), no_prices)
    assert [part.pair for _, part in found] == ["BTC/USDT:USDT", "BTC/USD:BTC", "SOL/USDT:USDT"]
    assert passed == [tmp_path / "okx-instruments.json"]
    named = find_files([tmp_path / "okx-instruments.json"])
    with pytest.raises(LiquidationsError, match=r"okx-instruments\.json: this is another answer"):
        read_files(named, "okx", okx_options(), no_prices)


@pytest.mark.parametrize("bad", ["{", "[5]", json.dumps(page({**ORDER, "side": "?"}))])
def test_a_bad_file_among_good_ones_leaves_the_store_as_it_was(tmp_path, db_url, bad):
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    first.write_bytes(answer_of("okx"))
    with Store(db_url, create=True) as store:
        before = store.fingerprint()
        second.write_text(bad)
        # As the command does it: nothing is written before everything was read.
        with pytest.raises(LiquidationsError, match=r"2\.json: "):
            write_parts(
                store, read_files(find_files([tmp_path]), "okx", okx_options(), no_prices)[0]
            )
        assert store.fingerprint() == before


def test_one_bad_part_takes_the_good_ones_with_it(db_url):
    good, *_ = read("okx", answer_of("okx"))
    bad = replace(good, pair="no pair")
    with Store(db_url, create=True) as store:
        before = store.fingerprint()
        with pytest.raises(LiquidationsError, match="not a perpetual"):
            write_parts(store, [(Path("1"), good), (Path("2"), bad)])
        assert store.fingerprint() == before


def test_files_that_are_not_there_or_hold_nothing_are_errors(tmp_path):
    with pytest.raises(LiquidationsError, match="there is no file"):
        find_files([tmp_path / "typo.json"])
    with pytest.raises(LiquidationsError, match=r"has no \.json file"):
        find_files([tmp_path])
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(
        LiquidationsError, match=r"no liquidations of any chosen pair .* from the source coinalyze"
    ):
        read_files(find_files([tmp_path]), "coinalyze", Options(unit="usd"), no_prices)


# --- recorded facts -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(recorded, tmp_path_factory):
    """Import the recorded answers of both archives into one store."""
    candles = recorded / "data/candles/futures"

    def prices(pair, timeframe):
        name = pair.replace("/", "_").replace(":", "_")
        frame = pd.read_feather(candles / f"{name}-{timeframe}-futures.feather")
        opens = frame["date"].to_numpy("datetime64[ms]").astype(np.int64)
        return opens, ((frame["high"] + frame["low"] + frame["close"]) / 3).to_numpy()

    url = f"sqlite:///{tmp_path_factory.mktemp('recorded') / 'liquidations.sqlite'}"
    with Store(url, create=True) as store:
        for source in ("coinalyze", "okx"):
            case = CASES[source]
            files = find_files([(recorded / case.files).parent])
            parts, passed = read_files(files, source, case.recorded(recorded), prices)
            assert len(passed) == {"coinalyze": 3, "okx": 1}[source]
            write_parts(store, parts)
            mark = store.fingerprint()
            again = write_parts(store, parts)
            assert all(done.rows.new == done.rows.revised == 0 for done in again)
            assert store.fingerprint() == mark
        yield store


def candles(
    store: Store, exchange: str, pair: str, start: str, end: str, timeframe: str, **options
):
    opens = candle_opens(utc(start), utc(end), timeframe)
    closes = candle_closes(opens, timeframe)
    with store.read() as reader:
        (series,) = (one for one in reader.series() if (one.exchange, one.pair) == (exchange, pair))
        bars = reader.bars(series, opens[0], closes[-1])
        source = Source(series.source, series.period, bars, reader.coverage(series))
    found = columns({exchange: source_candles(source, opens, closes)}, **options)
    return pd.DataFrame(found, index=pd.to_datetime(opens, unit="ms"))


#: Issue 2. BTC: events and USD of longs, of shorts, and so on.
OKX_FACTS = {
    "BTC": (611, 1_000, 3_365_455.57, 5_812_640.86),
    "ETH": (522, 1_110, 4_448_202.33, 4_912_096.59),
    "SOL": (200, 852, 769_328.01, 3_142_500.55),
}


@pytest.mark.parametrize("base", OKX_FACTS)
def test_recorded_okx_orders_add_up(filled, base):
    pair = f"{base}/USDT:USDT"
    found = candles(filled, "okx", pair, "2026-03-04", "2026-03-06", "1h", min_coverage=0).sum()
    longs, shorts, long, short = OKX_FACTS[base]
    assert (found.liq_long_count, found.liq_short_count) == (longs, shorts)
    assert (round(found.liq_long, 2), round(found.liq_short, 2)) == (long, short)
    if base == "BTC":
        assert round(found.liq_long / found.liq_total, 6) == 0.366683


def test_recorded_okx_hours(filled):
    hours = candles(filled, "okx", "BTC/USDT:USDT", "2026-03-04", "2026-03-06", "1h")
    ten = hours.loc["2026-03-05 10:00"]
    assert (ten.liq_long, round(ten.liq_short, 2), ten.liq_short_count) == (0.0, 2_419_124.75, 336)
    assert ten.liq_imbalance == 0.0
    # The oldest order is of 22:45:43, the newest of 11:17:55: those hours are partly observed.
    partly = hours.loc[["2026-03-04 22:00", "2026-03-05 11:00"]]
    assert partly.liq_total.isna().all()
    assert ((partly.liq_coverage > 0) & (partly.liq_coverage < 0.9)).all()
    known = hours.liq_total.notna()
    assert (
        hours.index[known].tolist()
        == pd.date_range("2026-03-04 23:00", "2026-03-05 10:00", freq="h").tolist()
    )


def coinalyze(store: Store, base: str, timeframe: str, **options) -> pd.DataFrame:
    pair = f"{base}/USDT:USDT"
    return candles(store, "binance", pair, "2024-06-19", "2024-08-20", timeframe, **options)


def test_recorded_coinalyze_hours(filled):
    hours = coinalyze(filled, "BTC", "1h")
    crash = hours.liq_imbalance.loc["2024-08-05"]
    assert [round(crash.iloc[hour], 6) for hour in (3, 5, 7)] == [0.914495, 0.850547, 0.456287]
    before = hours.loc[:"2024-06-19 20:00"]
    assert len(before) == 21
    assert before.liq_total.isna().all()
    assert (before.liq_coverage == 0).all()
    # The last period, 2024-08-19 21:00, may be partial.
    assert hours.index[hours.liq_total.notna()][-1] == pd.Timestamp("2024-08-19 20:00")


@pytest.mark.parametrize(
    ("base", "absent", "first"),
    [("BTC", 19, "2024-06-22 10:00"), ("ETH", 32, None), ("SOL", 22, None)],
)
def test_recorded_absent_hours_are_observed_and_zero(filled, recorded, base, absent, first):
    hours = coinalyze(filled, base, "1h")
    file = recorded / f"data/coinalyze/{base}USDT_PERP.A-liquidation-history-1hour.json"
    told = pd.to_datetime(
        [row["t"] for row in json.loads(file.read_text())[0]["history"]], unit="s"
    )
    known = hours[hours.liq_coverage > 0]
    # 1,465 hours from 06-19 21:00 to 08-19 21:00, of which the last is left out
    assert len(known) == 1_464
    quiet = known[~known.index.isin(told)]
    assert len(quiet) == absent
    assert (quiet.liq_coverage == 1).all()
    assert (quiet.liq_total == 0).all()
    assert quiet.liq_imbalance.isna().all()
    if first:
        assert quiet.index[0] == pd.Timestamp(first)


def test_recorded_base_amounts_are_in_usd_at_the_typical_price(filled, recorded):
    file = recorded / "data/coinalyze/BTCUSDT_PERP.A-liquidation-history-1hour.json"
    (row,) = (row for row in json.loads(file.read_text())[0]["history"] if row["t"] == T)
    frame = pd.read_feather(recorded / "data/candles/futures/BTC_USDT_USDT-1h-futures.feather")
    candle = frame.set_index("date").loc["2024-08-05 03:00+00:00"]
    typical = (candle.high + candle.low + candle.close) / 3
    found = coinalyze(filled, "BTC", "1h").loc["2024-08-05 03:00"]
    assert found.liq_long == pytest.approx(row["l"] * typical, rel=1e-12)
    assert found.liq_short == pytest.approx(row["s"] * typical, rel=1e-12)


@pytest.mark.parametrize("timeframe", ["4h", "1d"])
def test_recorded_hours_give_the_ratio_of_sums_in_longer_candles(filled, timeframe):
    hours, longer = coinalyze(filled, "BTC", "1h"), coinalyze(filled, "BTC", timeframe)
    sums = hours[["liq_long", "liq_short"]].resample(timeframe.replace("d", "D")).sum()
    whole = longer.liq_coverage == 1
    expected = sums.liq_long / (sums.liq_long + sums.liq_short)
    np.testing.assert_allclose(longer.liq_imbalance[whole], expected[whole], rtol=1e-12)
    # 06-19 has 3 hours of 24 (4h: 3 of 4 from 20:00), 08-19 has 21 of 24 (4h: 1 of 4 from 20:00).
    partly = longer[(longer.liq_coverage > 0) & ~whole]
    shares = {"4h": [0.75, 0.25], "1d": [0.125, 0.875]}[timeframe]
    assert partly.liq_coverage.tolist() == shares
    assert partly.liq_total.isna().all()


def test_recorded_hours_never_serve_five_minutes(filled):
    assert coinalyze(filled, "BTC", "5m", min_coverage=0).liq_total.isna().all()
