"""Binance's public files: each order stands twice, open interest is stamped too early, ZIPs lie.

What a whole file is read as stands in ``answers/binance_vision*``, see ``test_archives.py``.
"""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import same_bits, utc
from hypothesis import given
from hypothesis import strategies as st

from liquidations.archives import LIQUIDATIONS, OPEN_INTEREST, Context, Options, Wanted
from liquidations.archives import binance_vision as vision
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import DAY, LONG, MINUTE, Events, make_events


ANSWER = (Path(__file__).parent / "answers" / "binance_vision-rows.csv").read_text()
HEADER = ANSWER.partition("\n")[0]
METRICS = "create_time,symbol,sum_open_interest,sum_open_interest_value,count_long_short_ratio"
T = utc("2024-08-05")
NAME = "BTCUSD_PERP-liquidationSnapshot-2024-08-05.csv"


def zipped(text: str, name: str = NAME, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as members:
        members.writestr(name, text)
    return file.getvalue()


def row(time: int, side: str = "SELL", size: str = "1", price: str = "50000") -> str:
    return f"{time},{side},LIMIT,IOC,{size},49000,{price},FILLED,{size},{size}"


def orders(*rows: str, header: str = HEADER, name: str = NAME):
    text = "".join(f"{line}\n" for line in (*([header] if header else []), *rows))
    (part,) = vision.read(zipped(text, name), Options())
    return part


def refused(data: bytes, message: str) -> None:
    with pytest.raises(LiquidationsError, match=message):
        vision.read(data, Options())


# --- liquidations -------------------------------------------------------------------------------


def ordered(events: Events) -> Events:
    return events.take(np.lexsort((events.key, events.timestamp)))


one_order = st.tuples(
    st.integers(0, 3), st.sampled_from(["SELL", "BUY"]), st.integers(1, 3), st.sampled_from([1, 2])
)


@given(st.lists(one_order, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_any_orders_that_stand_twice_in_any_order_are_those_orders(drawn, random):
    lines = [row(T + ms, side, str(n), str(40_000 * p)) for ms, side, n, p in drawn] * 2
    random.shuffle(lines)
    part = orders(*lines)
    time, side, contracts, price = (np.array(column) for column in zip(*drawn, strict=True))
    usd, price = 100.0 * contracts, 40_000.0 * price
    same_bits(
        ordered(part.rows), ordered(make_events(T + time, side == "BUY", price, usd / price, usd))
    )
    assert not part.note


def test_an_order_that_stands_an_odd_number_of_times_is_told():
    note = orders(*[row(T)] * 3, *[row(T + 1)] * 2, row(T + 2)).note
    assert note.startswith("2 orders of 2024-08-05 do not stand twice")


def test_rows_that_differ_in_a_column_that_is_not_read_are_other_rows():
    # Two orders, not one that stands four times: their limits differ.
    other = row(T).replace("49000", "48000")
    assert len(orders(row(T), other, row(T), other).rows) == 2


def test_a_file_without_a_header_is_read_as_one_with_it():
    lines = ANSWER.splitlines()[1:]
    one, other = orders(*lines), orders(*lines, header="")
    same_bits(one.rows, other.rows)


def test_a_header_with_its_columns_in_another_order_is_followed():
    names = HEADER.split(",")[::-1]
    lines = [",".join(line.split(",")[::-1]) for line in ANSWER.splitlines()[1:]]
    same_bits(orders(*lines, header=",".join(names)).rows, orders(*ANSWER.splitlines()[1:]).rows)


def test_a_day_without_liquidations_is_covered():
    part = orders()
    assert len(part.rows) == 0
    assert part.coverage.tolist() == [[T, T + DAY]]
    assert part.pair == "BTC/USD:BTC"


def test_a_kept_file_of_usd_margined_futures_is_in_base_units():
    part = orders(*[row(T, size="0.5")] * 2, name=NAME.replace("BTCUSD_PERP", "BTCUSDT"))
    assert (part.pair, part.rows.amount.tolist()) == ("BTC/USDT:USDT", [0.5])
    assert part.rows.value_usd.tolist() == [25_000.0]
    assert part.rows.side.tolist() == [LONG]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row(T // 1000), r"row 3: time must be 13 digits.*got 1722816000"),
        (row(T * 1000), "row 3: time must be 13 digits"),
        (row(T - 1), r"row 3: it is not of 2024-08-05 UTC.*time zone"),
        (row(T + DAY), "row 3: it is not of 2024-08-05 UTC"),
        (row(T, side="sell"), "row 3: side must be SELL or BUY, got sell"),
        (row(T, size="-1"), "row 3: no accumulated_fill_quantity"),
        (row(T, size="nan"), "row 3: no accumulated_fill_quantity"),
        (row(T, size="inf"), "row 3: no accumulated_fill_quantity"),
        (row(T, size=""), "row 3: .*invalid value ''"),
        (row(T, price="0"), "row 3: no average_price"),
        (row(T, price="nan"), "row 3: no average_price"),
        (f"{T},SELL,LIMIT", "row 3: Expected 10 columns, got 3"),
        (row(T).replace("FILLED", '"FILLED'), None),
    ],
)
def test_a_row_that_can_not_be_is_named(line, message):
    if message is None:  # a quote is a letter like others, and does not swallow lines
        assert len(orders(line, line).rows) == 1
        return
    with pytest.raises(LiquidationsError, match=message):
        orders(row(T), line)


def test_a_shifted_time_zone_is_noticed():
    # A day of orders, by a clock of UTC+2: those of the evening are of the day after.
    hours = [row(T + hour * 60 * MINUTE + 2 * 60 * MINUTE) for hour in range(24)]
    with pytest.raises(LiquidationsError, match=r"row 24: it is not of 2024-08-05.*time zone"):
        orders(*hours)


@pytest.mark.parametrize("symbol", ["BTCUSD_240927", "BTCUSDT_240927", "ETHBTC", "BTCEUR"])
def test_what_is_no_perpetual_in_dollars_is_refused(symbol):
    refused(zipped(ANSWER, NAME.replace("BTCUSD_PERP", symbol)), f"'{symbol}' is no perpetual")


# --- open interest ------------------------------------------------------------------------------


def interest(*rows: str, symbol: str = "BTCUSDT") -> Context:
    text = "".join(f"{line}\n" for line in (METRICS, *rows))
    (context,) = vision.read(zipped(text, f"{symbol}-metrics-2024-08-05.csv"), Options())
    assert context.kind == OPEN_INTEREST
    assert context.period == 5 * MINUTE
    return context


def at(*clocks: str) -> list[int]:
    return [utc(f"2024-08-05 {clock}") for clock in clocks]


def test_open_interest_counts_five_minutes_later_than_its_file_says():
    found = interest(
        "2024-08-05 00:00:00,BTCUSDT,80000.5,4000000000.25,1.1",
        "2024-08-05 00:05:00,BTCUSDT,80001,4000000001,1.1",
    )
    assert found.pair == "BTC/USDT:USDT"
    assert found.timestamp.tolist() == at("00:05", "00:10")
    assert found.values["open_interest_amount"].tolist() == [80_000.5, 80_001.0]
    assert found.values["open_interest_value"].tolist() == [4_000_000_000.25, 4_000_000_001.0]


def test_open_interest_of_coin_margined_futures_is_in_contracts_and_base_units():
    found = interest("2024-08-05 00:05:00,ETHUSD_PERP,3000000,12000,1.1", symbol="ETHUSD_PERP")
    assert found.pair == "ETH/USD:ETH"
    assert found.values["open_interest_amount"].tolist() == [12_000.0]
    assert found.values["open_interest_value"].tolist() == [30_000_000.0]


def test_open_interest_may_end_at_midnight_stand_twice_out_of_order_or_be_unknown():
    found = interest(
        "2024-08-06 00:00:00,BTCUSDT,5,50,",
        "2024-08-05 00:10:03,BTCUSDT,3,30,1.1",
        "2024-08-05 00:05:00,BTCUSDT,1,10,1.1",
        "2024-08-05 00:05:00,BTCUSDT,2,20,1.1",
        "2024-08-05 00:20:00,BTCUSDT,,,1.1",
    )
    # 00:10:03 was stamped after its step, so it counts from the next step's stamp on.
    assert found.timestamp.tolist() == [*at("00:10", "00:20"), utc("2024-08-06 00:05")]
    assert found.values["open_interest_amount"].tolist() == [2.0, 3.0, 5.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2024-08-06 00:05:00,BTCUSDT,1,1,1", "row 2: it is not of 2024-08-05 UTC"),
        ("2024-08-04 23:55:00,BTCUSDT,1,1,1", "row 2: it is not of 2024-08-05 UTC"),
        ("2024-08-05 00:05:00,ETHUSDT,1,1,1", "row 2: it is not of BTCUSDT, got ETHUSDT"),
        ("2024-08-05 00:05:00,BTCUSDT,-1,1,1", "row 2: no sum_open_interest"),
        ("2024-08-05 00:05:00,BTCUSDT,inf,1,1", "row 2: no sum_open_interest"),
        ("yesterday,BTCUSDT,1,1,1", "row 2: .*invalid value 'yesterday'"),
        (",BTCUSDT,1,1,1", "row 2: it is not of 2024-08-05"),
    ],
)
def test_open_interest_that_can_not_be_is_named(line, message):
    with pytest.raises(LiquidationsError, match=message):
        interest(line)


# --- ZIPs that harm ------------------------------------------------------------------------------


def test_another_file_of_binance_is_told_apart():
    with pytest.raises(OtherAnswer, match=r"BTCUSDT-1m-2024-08-05\.csv.*expected"):
        vision.read(zipped("1,2\n", "BTCUSDT-1m-2024-08-05.csv"), Options())


@pytest.mark.parametrize("name", [f"../{NAME}", f"/tmp/{NAME}", f"a\\{NAME}", "inner.zip", "x/"])
def test_a_member_with_an_odd_name_is_refused(name):
    refused(zipped(ANSWER, name), "expected")


def test_two_members_are_refused():
    file = io.BytesIO(zipped(ANSWER))
    with zipfile.ZipFile(file, "a") as members:
        members.writestr(NAME.replace("05", "06"), ANSWER)
    refused(file.getvalue(), "expected a ZIP of one CSV")


def test_a_zip_without_members_is_refused():
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    refused(file.getvalue(), "expected a ZIP of one CSV")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bounds_are_refused(method):
    refused(zipped(ANSWER, method=method), "deflated")


def altered(data: bytes, mark: bytes, offset: int, form: str, value: int) -> bytes:
    """Change a field of the local header (PK34) or of the directory (PK12)."""
    changed = bytearray(data)
    struct.pack_into(form, changed, data.index(mark) + offset, value)
    return bytes(changed)


def test_a_password_is_not_asked_for():
    refused(altered(zipped(ANSWER), b"PK\x01\x02", 8, "<H", 1), "without a password")


def test_what_unpacks_to_too_much_is_refused_unread(monkeypatch):
    monkeypatch.setattr(vision, "MOST_BYTES", len(ANSWER) - 1)
    refused(zipped(ANSWER), "more than a day of one symbol has")


def test_what_unpacks_to_more_than_it_says_is_not_unpacked(monkeypatch):
    # 64 MB of zeros that claim to be 100 bytes: not more than those are made.
    bomb = zipped("0" * 2**26)
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        bomb = altered(bomb, mark, offset, "<L", 100)
    sizes = []
    read = zipfile.ZipExtFile.read

    def watched(file, n=-1):
        sizes.append(n)
        return read(file, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", watched)
    refused(bomb, "cut off")
    assert sizes == [100]


def test_a_damaged_file_is_refused():
    data = zipped(ANSWER)
    middle = data.index(b"PK\x01\x02") // 2
    refused(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :], "cut off")


def test_an_empty_csv_proves_nothing():
    refused(zipped(""), "is empty")


def test_no_day_of_that_name():
    refused(zipped(ANSWER, NAME.replace("08-05", "13-45")), "there is no day '2024-13-45'")


# --- what is asked for ---------------------------------------------------------------------------


def asks(start: str, end: str, now: str = "2026-01-01", kind: str = LIQUIDATIONS, **changes):
    names = {"pair": "BTC/USD:BTC", "symbol": "BTCUSD_PERP", **changes}
    wanted = Wanted(
        kind, "binance", start=utc(start), end=utc(end), period=MINUTE, now=utc(now), **names
    )
    return list(vision.asks(wanted))


def test_a_day_is_asked_for_with_its_checksum():
    (ask,) = asks("2024-08-05 13:00", "2024-08-05 14:00")
    folder = "/data/futures/cm/daily/liquidationSnapshot/BTCUSD_PERP"
    assert ask.path == f"{folder}/BTCUSD_PERP-liquidationSnapshot-2024-08-05.zip"
    assert ask.checksum == f"{ask.path}.CHECKSUM"
    assert ask.label == "2024-08-05"
    assert not ask.query


def test_only_days_that_there_may_be_are_asked_for():
    labels = [ask.label for ask in asks("2020-01-01", "2026-01-01")]
    # 2023-06-25 to 2024-10-14 are 478 days, six of which Binance lacks.
    assert (labels[0], labels[-1], len(labels)) == ("2023-06-25", "2024-10-14", 478)
    assert asks("2024-10-15", "2025-01-01") == []
    assert asks("2023-01-01", "2023-06-25") == []


def test_a_day_that_is_not_over_is_not_asked_for():
    around = ("2024-08-04 12:00", "2024-08-06 12:00")
    assert [ask.label for ask in asks(*around, "2024-08-05 23:59")] == ["2024-08-04"]
    assert [ask.label for ask in asks(*around, "2024-08-06")] == ["2024-08-04", "2024-08-05"]


def test_of_usd_margined_futures_there_is_open_interest_only():
    linear = {"pair": "BTC/USDT:USDT", "symbol": "BTCUSDT"}
    assert asks("2024-08-05", "2024-08-06", **linear) == []
    found = asks("2024-08-05", "2024-08-06", kind=OPEN_INTEREST, **linear)
    # The stamps of 0:00 and 0:05 may stand at the end of the day before.
    assert [ask.label for ask in found] == ["2024-08-04", "2024-08-05"]
    assert found[0].path == "/data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-08-04.zip"
    assert asks("2020-01-01", "2020-09-02", kind=OPEN_INTEREST, **linear)[0].label == "2020-09-01"


def test_open_interest_is_answered():
    wanted = Wanted(
        OPEN_INTEREST, "binance", "BTC/USDT:USDT", "BTCUSDT", T, T + DAY, MINUTE, T + 3 * DAY
    )
    ask = list(vision.asks(wanted))[1]
    text = f"{METRICS}\n2024-08-05 00:05:00,BTCUSDT,1,10,1\n"
    data = zipped(text, "BTCUSDT-metrics-2024-08-05.csv")
    (found,), following = vision.answer(data, ask, wanted, Options())
    assert found.timestamp.tolist() == at("00:10")
    assert following is None
    with pytest.raises(LiquidationsError, match=r"asked for .*2024-08-04"):
        vision.answer(data, next(vision.asks(wanted)), wanted, Options())


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_no_symbol_is_a_crash(text):
    for name in (text, f"{text}USDT", f"{text}USD_PERP"):
        contract = vision.perpetual(name)
        assert contract is None or vision.symbol_of(contract.pair) == name
