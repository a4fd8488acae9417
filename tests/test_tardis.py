"""Tardis' files: cut by arrival, large, of one symbol or of all, sometimes of trades.

What a whole file of each venue is read as stands in ``answers/tardis*``, see ``test_archives.py``.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import same_bits, utc
from hypothesis import given
from hypothesis import strategies as st

from liquidations.archives import LIQUIDATIONS, Options, Part, Wanted, tardis
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import DAY, MINUTE, Events, make_events
from liquidations.exchanges.okx import contracts
from liquidations.store import Store


ANSWERS = Path(__file__).parent / "answers"
HEADER = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"
T = utc("2024-08-05")
OKX = Options(contracts=lambda: contracts(json.loads(INSTRUMENTS.read_text())["data"]))
INSTRUMENTS = ANSWERS / "okx-instruments.json"


def line(
    time: int,
    side: str = "sell",
    *,
    lag: int = 200,
    price: float = 50_000.0,
    amount: float = 1.0,
    symbol: str = "BTCUSDT",
    venue: str = "bybit",
) -> str:
    """Write a row of an order at ``time`` (ms) that came ``lag`` ms later."""
    return f"{venue},{symbol},{time}000,{time + lag}000,,{side},{price},{amount}"


def text_of(*lines: str) -> bytes:
    return "".join(f"{one}\n" for one in (HEADER, *lines)).encode()


def read(*lines: str, options: Options | None = None, name: str = "") -> list[Part]:
    return tardis.read(gzip.compress(text_of(*lines)), options or Options(name=name))


def one(*lines: str, **more) -> Part:
    (part,) = read(*lines, **more)
    return part


# --- the day ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "bybit_liquidations_2024-08-05_BTCUSDT.csv.gz",
        "bybit/liquidations/2024/08/05/BTCUSDT.csv.gz",
        "BTCUSDT.csv.gz",
        "",
    ],
)
def test_the_day_of_the_name_or_else_of_the_rows_is_covered(name):
    part = one(line(T), line(T + DAY - 201), name=name)
    assert part.coverage.tolist() == [[T, T + DAY]]


@pytest.mark.parametrize("day", ["2024-08-04", "2024-08-06"])
def test_rows_of_another_day_than_the_name_says_are_refused(day):
    with pytest.raises(LiquidationsError, match=rf"row 2: its local_timestamp is not of {day} UTC"):
        read(line(T + MINUTE), name=f"bybit_liquidations_{day}_BTCUSDT.csv.gz")


def test_rows_of_two_days_are_no_day():
    with pytest.raises(LiquidationsError, match="row 3: its local_timestamp is not of 2024-08-05"):
        read(line(T), line(T + DAY))


def test_an_order_that_came_after_midnight_is_kept_but_its_day_not_claimed():
    # Files are cut by arrival: what happened at 23:59:59.900 came at 00:00:00.100.
    part = one(line(T - 100), line(T + 5))
    assert part.rows.timestamp.tolist() == [T - 100, T + 5]
    assert part.coverage.tolist() == [[T, T + DAY]]


def test_two_days_hold_every_order_once(db_url):
    first = one(line(T - DAY), line(T - 300))
    second = one(line(T - 100), line(T + 5))
    with Store(db_url, create=True) as store, store.write() as writer:
        done = [
            writer.insert(part.exchange, part.pair, part.source, part.rows, part.coverage)
            for part in (first, second, second, first)
        ]
        assert [(one.new, one.known) for one in done] == [(2, 0), (2, 0), (0, 2), (0, 2)]
        # The first day's file lacks an order of that day, which is seen when it is read again.
        assert [one.conflicts for one in done] == [0, 0, 0, 1]
        (series,) = writer.series()
        events = writer.events(series, 0, 2**62)
        assert events.timestamp.tolist() == [T - DAY, T - 300, T - 100, T + 5]
        assert writer.coverage(series).tolist() == [[T - DAY, T + DAY]]


def test_received_is_when_tardis_heard_of_it():
    part = one(line(T, lag=250), line(T + 1, lag=100))
    assert part.rows.received.tolist() == [T + 250, T + 101]


def test_an_order_may_be_a_bit_ahead_of_the_clock_of_tardis_but_no_more():
    assert len(one(line(T + 59_000, lag=-59_000)).rows) == 1
    with pytest.raises(LiquidationsError, match="row 2: its timestamp is after its local"):
        read(line(T + 7_200_000, lag=-7_200_000))


# --- what is counted once ------------------------------------------------------------------------


def test_equal_orders_are_as_many_as_there_are():
    part = one(line(T), line(T), line(T, "buy"), line(T, lag=10_200), line(T + 1))
    assert len(part.rows) == 5
    assert len(set(zip(part.rows.timestamp.tolist(), part.rows.key.tolist(), strict=True))) == 5
    assert not part.note


def test_an_order_that_is_told_again_after_a_while_is_one():
    part = one(line(T), line(T + 1), line(T), line(T, lag=10_201), line(T, lag=3_600_000))
    assert part.rows.timestamp.tolist() == [T, T, T + 1]
    assert part.rows.received.tolist() == [T + 200, T + 200, T + 201]
    assert part.note == "2 rows of 2024-08-05 tell an order again"


order = st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(1, 2), st.integers(1, 2))


@given(st.lists(order, min_size=1, max_size=40), st.integers(0, 2**32))
def test_any_rows_are_the_events_that_they_say(drawn, seed):
    """Whatever the order of rows and the size of blocks: as one by one from their columns."""
    lags = np.random.default_rng(seed).integers(0, 10_000, len(drawn)).tolist()
    lines = [
        line(T + ms, ("sell", "buy")[side], price=float(price), amount=float(n), lag=lag)
        for (ms, side, price, n), lag in zip(drawn, lags, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tardis, "_BLOCK", seed % 400 + len(HEADER) + 100)
        patch.setattr(tardis, "_ROOM", 1)
        part = one(*lines)
    time, side, price, n = (np.array(column) for column in zip(*drawn, strict=True))
    price, n = price.astype(float), n.astype(float)
    expected = make_events(T + time, side, price, n, n * price)
    order = np.lexsort((expected.key, expected.timestamp))
    names = [name for name in Events.names() if name != "received"]
    same_bits(part.rows, expected.take(order), *names)
    # Which of several equal orders came when is a matter of their numbers only.
    arrivals = sorted(zip((T + time).tolist(), ((T + time) + lags).tolist(), strict=True))
    found = zip(part.rows.timestamp.tolist(), part.rows.received.tolist(), strict=True)
    assert sorted(found) == arrivals


def test_events_are_in_order_of_time_and_key():
    rows = one(*[line(T + n % 3, price=float(n + 1)) for n in range(50)]).rows
    order = np.lexsort((rows.key, rows.timestamp))
    assert order.tolist() == list(range(50))


# --- several symbols -----------------------------------------------------------------------------


def test_a_file_of_all_symbols_has_a_part_for_each_perpetual():
    names = ["BTCUSDT", "ETHUSDT", "BTCUSDT", "BTCUSDT-27DEC24", "SOLPERP", "ETHUSD", "ETHUSDZ24"]
    parts = read(*[line(T + n, symbol=name) for n, name in enumerate(names)])
    found = {part.pair: (part.rows.timestamp - T).tolist() for part in parts}
    assert found == {
        "BTC/USDT:USDT": [0, 2],
        "ETH/USDT:USDT": [1],
        "SOL/USDC:USDC": [4],
        "ETH/USD:ETH": [5],
    }
    assert all(part.coverage.tolist() == [[T, T + DAY]] for part in parts)


def okx(n: int, symbol: str) -> str:
    return line(T + n, symbol=symbol, venue="okex-swap")


def test_contracts_of_okx_whose_size_nobody_knows_are_told():
    lines = [okx(0, "GONE-USDT-SWAP"), okx(1, "BTC-USDT-SWAP"), okx(2, "BTC-USDT-260327")]
    part = one(*lines, options=OKX)
    assert part.pair == "BTC/USDT:USDT"
    assert part.note == "the sizes of these contracts are not known: GONE-USDT-SWAP"
    with pytest.raises(LiquidationsError, match=r"not known: GONE-USDT-SWAP.*--markets"):
        read(lines[0], options=OKX)


def test_a_file_without_perpetuals_has_no_part():
    assert read(line(T, symbol="BTCUSDZ24"), line(T, symbol="ETHUSDZ24")) == []


def test_no_file_has_endless_symbols(monkeypatch):
    monkeypatch.setattr(tardis, "MOST_SERIES", 2)
    with pytest.raises(LiquidationsError, match="more than 2 symbols"):
        read(*[line(T, symbol=f"{name}USDT") for name in "ABC"])


# --- what is no such file ------------------------------------------------------------------------


def test_trades_are_told_apart_by_their_ids():
    trades = line(T).replace(",,", ",5f1a,")
    with pytest.raises(OtherAnswer, match="row 3 has an id, so these are trades"):
        read(line(T), trades)


def test_other_files_of_tardis_are_told_apart():
    quotes = b"exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price\nbybit,B,1,1,1,1\n"
    with pytest.raises(OtherAnswer, match="another file of Tardis"):
        tardis.read(gzip.compress(quotes), Options())


def test_an_empty_file_says_nothing():
    assert tardis.read(gzip.compress(b""), Options()) == []
    assert read() == []


def test_a_file_that_was_unpacked_is_read_too():
    text = text_of(line(T), line(T + 1, "buy"))
    (part,) = tardis.read(text, Options())
    same_bits(part.rows, one(line(T), line(T + 1, "buy")).rows)
    with pytest.raises(LiquidationsError, match="cut off"):
        tardis.read(text[:-1], Options())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (line(T).replace("sell", "SELL"), "row 4: side must be buy or sell, got SELL"),
        (line(T // 1000), "row 4: a time must be in microseconds UTC"),
        (line(T * 1000), "row 4: a time must be in microseconds UTC"),
        (line(T, price=0), "row 4: price and amount must be positive"),
        (line(T, price=float("nan")), "row 4: price and amount must be positive"),
        (line(T, amount=float("inf")), "row 4: price and amount must be positive"),
        (line(T, amount=-1), r"row 4: price and amount must be positive numbers, got -1\.0"),
        (line(T, venue="binance-futures"), "row 4: expected one exchange of"),
        ("bybit,BTCUSDT,1", "row 4: Expected 8 columns, got 3: bybit,BTCUSDT,1"),
        (line(T).replace(",50000.0", ","), "row 4: .*invalid value ''"),
        (line(T).replace("bybit", '"bybit'), "row 4: expected one exchange of"),
    ],
)
@pytest.mark.parametrize("block", [2**23, 200])
def test_a_row_that_can_not_be_is_named_in_any_block(monkeypatch, row, message, block):
    monkeypatch.setattr(tardis, "_BLOCK", block)
    with pytest.raises(LiquidationsError, match=message):
        read(line(T), line(T), row, line(T))


def test_an_exchange_of_which_nothing_is_known_is_refused():
    with pytest.raises(LiquidationsError, match="row 2: expected one exchange of binance-futures"):
        read(line(T, venue="deribit"))


@pytest.mark.parametrize("block", [100, 2**23])
def test_what_unpacks_to_too_much_is_refused(monkeypatch, block):
    monkeypatch.setattr(tardis, "MOST_BYTES", 300)
    monkeypatch.setattr(tardis, "_BLOCK", block)
    with pytest.raises(LiquidationsError, match="unpacks to more than"):
        read(*[line(T + n) for n in range(100)])


def test_more_rows_than_a_file_of_its_size_has_are_refused(monkeypatch):
    monkeypatch.setattr(tardis, "_FEW_ROWS", 10)
    monkeypatch.setattr(tardis, "_BLOCK", 1_000)
    data = gzip.compress(text_of(*[line(T)] * 5_000))
    assert 10 < len(data) // 2 < 5_000
    with pytest.raises(LiquidationsError, match=f"more than {len(data) // 2:,} rows"):
        tardis.read(data, Options())
    monkeypatch.setattr(tardis, "MOST_ROWS", 9)
    with pytest.raises(LiquidationsError, match="more than 9 rows"):
        read(*[line(T + n, price=float(n + 1)) for n in range(10)])
    assert len(one(*[line(T + n, price=float(n + 1)) for n in range(9)]).rows) == 9


def test_a_line_without_end_is_not_held(monkeypatch):
    monkeypatch.setattr(tardis, "_BLOCK", 2**16)
    for bomb in (b"0" * 2**24, text_of(line(T)) + b"0" * 2**24):
        with pytest.raises(LiquidationsError, match="has no lines, or was cut off"):
            tardis.read(gzip.compress(bomb), Options())


def test_a_damaged_file_is_refused():
    data = bytearray(gzip.compress(text_of(*[line(T + n, "buy") for n in range(200)])))
    data[-5] ^= 255  # of the checksum
    with pytest.raises(LiquidationsError, match="cut off"):
        tardis.read(bytes(data), Options())


# --- what is asked for ---------------------------------------------------------------------------


def asks(
    start: str,
    end: str,
    now: str = "2026-01-01",
    contract: tuple[str, str, str] = ("bybit", "BTC/USDT:USDT", "BTCUSDT"),
):
    exchange, pair, symbol = contract
    times = {"start": utc(start), "end": utc(end), "now": utc(now), "period": MINUTE}
    return list(tardis.asks(Wanted(LIQUIDATIONS, exchange, pair, symbol, **times)))


@pytest.mark.parametrize(
    ("contract", "folder", "first"),
    [
        (("binance", "BTC/USDT:USDT", "BTCUSDT"), "binance-futures", "2019-11-17"),
        (("binance", "BTC/USD:BTC", "BTCUSD_PERP"), "binance-delivery", "2020-06-16"),
        (("bybit", "BTC/USDT:USDT", "BTCUSDT"), "bybit", "2020-12-18"),
        (("bybit", "BTC/USD:BTC", "BTCUSD"), "bybit", "2020-12-18"),
        (("okx", "BTC/USDT:USDT", "BTC-USDT-SWAP"), "okex-swap", "2020-12-18"),
    ],
)
def test_each_venue_has_its_folder_and_its_first_day(contract, folder, first):
    ask = asks("2010-01-01", "2021-01-01", contract=contract)[0]
    assert ask.path == f"/{folder}/liquidations/{first.replace('-', '/')}/{contract[2]}.csv.gz"
    assert ask.label == first


def test_the_first_of_each_month_needs_no_key():
    found = asks("2024-07-31 10:00", "2024-08-02 10:00")
    assert [(ask.label, ask.keyless) for ask in found] == [
        ("2024-07-31", False),
        ("2024-08-01", True),
        ("2024-08-02", False),
    ]


def test_a_day_is_asked_for_when_it_was_made():
    days = ("2024-08-04", "2024-08-06")
    assert [ask.label for ask in asks(*days, "2024-08-06 05:59")] == ["2024-08-04"]
    assert len(asks(*days, "2024-08-06 06:00")) == 2


def test_names_are_written_as_urls_want_them():
    coin = ("binance", "币/USDT:USDT", "币USDT")
    assert asks("2024-08-05", "2024-08-06", contract=coin)[0].path.endswith("/%E5%B8%81USDT.csv.gz")


def test_exchanges_without_liquidations_are_not_asked_for():
    assert asks("2024-08-05", "2024-08-06", contract=("hyperliquid", "BTC/USDC:USDC", "BTC")) == []
