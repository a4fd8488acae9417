"""Sources that can be downloaded: what they ask for, and what an answer to that proves.

One more service is one more line in ``CASES``.
"""

import asyncio
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import same_bits, utc
from hypothesis import given
from hypothesis import strategies as st

import liquidations.archives.okx as okx_module
from liquidations.archives import (
    ARCHIVES,
    FUNDING_RATE,
    LIQUIDATIONS,
    OPEN_INTEREST,
    Ask,
    Context,
    Options,
    Part,
    Wanted,
    archive,
    service,
)
from liquidations.archives.coinalyze import INTERVALS, JOIN
from liquidations.archives.coinglass import contract as glass_contract
from liquidations.archives.okx import BEHIND
from liquidations.archives.vendors import SETTLED, KeyRefused, TooMany
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE, SIDES, Events, merge_intervals
from liquidations.exchanges.frames import Contract
from liquidations.fill import fill


ANSWERS = Path(__file__).parent / "answers"
HOUR = 60 * MINUTE
T = utc("2024-08-05 03:00")


def text(answer) -> bytes:
    return json.dumps(answer).encode()


#: The day of T.
MIDNIGHT = T // DAY * DAY


def day_asked(ask: Ask) -> tuple[int, int]:
    return utc(ask.label), utc(ask.label) + DAY


def snapshot(
    symbol: str = "BTCUSD_PERP", day: str = "2024-08-05", kind: str = "liquidationSnapshot"
) -> bytes:
    """Make Binance's file of a day: two orders, each of them twice."""
    rows = (
        f"{T + HOUR},SELL,LIMIT,IOC,50,49000,50000,FILLED,50,50",
        f"{T + 2 * HOUR},BUY,LIMIT,IOC,3,61000,60000,FILLED,3,3",
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr(f"{symbol}-{kind}-{day}.csv", "".join(f"{row}\n" * 2 for row in rows))
    return file.getvalue()


def tardis_file(
    one: int, other: int, contract: str = "binance-futures,BTCUSDT", number: str = ""
) -> bytes:
    """Make Tardis' file of a day with two orders; only trades have a number."""
    lines = [
        "exchange,symbol,timestamp,local_timestamp,id,side,price,amount",
        f"{contract},{one}000,{one + 7}123,{number},sell,50000,0.5",
        f"{contract},{other}000,{other + 7}123,{number},buy,60000,0.25",
    ]
    return gzip.compress("".join(f"{line}\n" for line in lines).encode())


@dataclass(frozen=True)
class Case:
    """Say what a service is asked, what it answers, and what that proves.

    ``body`` is the answer to the first question for ``wanted``, made at ``made``. ``rows`` are
    (time, side, USD) worked by hand, of which ``coverage`` is proven. ``wrong`` are answers to
    something else. ``asked`` tells the time that a question is for; it may reach ``beyond`` (ms)
    what is wanted, on either side. ``contracts`` are pairs and the service's names of them.
    """

    wanted: Wanted
    body: bytes
    made: int
    rows: list[tuple[int, str, float]]
    coverage: list[list[int]]
    wrong: tuple[bytes, ...]
    asked: Callable[[Ask], tuple[int, int]]
    contracts: dict[tuple[str, str], str]
    absent: tuple[tuple[str, str], ...]
    catalogue: str = ""
    beyond: int = 0
    options: Options = field(default_factory=Options)


def seconds_asked(ask: Ask) -> tuple[int, int]:
    return int(ask.query["from"]) * 1000, (int(ask.query["to"]) + 1) * 1000


def ms_asked(ask: Ask) -> tuple[int, int]:
    return int(ask.query["start_time"]), int(ask.query["end_time"]) + 1


def page_asked(ask: Ask) -> tuple[int, int]:
    # How far back a page goes is seen when it is there.
    end = int(ask.query["after"]) if "after" in ask.query else OKX_NOW
    return end, end


def coinalyze_answer(*rows: tuple[int, float, float], symbol: str = "BTCUSDT_PERP.A") -> bytes:
    history = [{"t": t // 1000, "l": long, "s": short} for t, long, short in rows]
    return text([{"symbol": symbol, "history": history}])


def coinglass_answer(*rows: tuple[int, float, float]) -> bytes:
    names = ("time", "long_liquidation_usd", "short_liquidation_usd")
    data = [dict(zip(names, (t, str(x), str(y)), strict=True)) for t, x, y in rows]
    return text({"code": "0", "msg": "success", "data": data})


def order(time: int, side: str = "sell", size: float = 1.0) -> dict[str, str]:
    return {"bkPx": "100", "side": side, "sz": str(size), "ts": str(time)}


def page(*details: dict[str, str], symbol: str = "BTC-USDT-SWAP") -> bytes:
    family = symbol.removesuffix("-SWAP")
    group = {"instId": symbol, "uly": family, "instType": "SWAP", "details": list(details)}
    return text({"code": "0", "msg": "", "data": [group] if details else []})


#: A contract is 0.01 BTC.
OKX_CONTRACTS = {"BTC-USDT-SWAP": Contract("BTC/USDT:USDT", 0.01, False)}
OKX_NOW = T + 10 * HOUR

BTC = ("binance", "BTC/USDT:USDT")
INVERSE = ("binance", "BTC/USD:BTC")

CASES = {
    "coinalyze": Case(
        wanted=Wanted(
            LIQUIDATIONS, *BTC, "BTCUSDT_PERP.A", T, T + 4 * HOUR, HOUR, T + 4 * HOUR + 1
        ),
        #   03:00  04:00   05:00  06:00
        #   row    absent  row    row, over for one ms
        body=coinalyze_answer((T, 5, 6), (T + 2 * HOUR, 0, 7.5), (T + 3 * HOUR, 9, 9)),
        made=T + 4 * HOUR + 1,
        rows=[(T, "long", 5.0), (T, "short", 6.0), (T + 2 * HOUR, "short", 7.5)],
        coverage=[[T, T + 3 * HOUR]],
        wrong=(
            text({"message": "Invalid API key"}),
            coinalyze_answer((T, 5, 6), symbol="ETHUSDT_PERP.A"),
            text([{"symbol": "BTCUSDT_PERP.A", "history": [{"t": 1, "o": 1, "c": 1}]}]),
            coinalyze_answer((T + 5 * MINUTE, 5, 6)),
            text([{"symbol": "BTCUSDT_PERP.A"}]),
        ),
        asked=seconds_asked,
        contracts={
            BTC: "BTCUSDT_PERP.A",
            INVERSE: "BTCUSD_PERP.A",
            ("binance", "1000SHIB/USDT:USDT"): "1000SHIBUSDT_PERP.A",
            ("bybit", "BTC/USDT:USDT"): "BTCUSDT.6",
            ("bybit", "BTC/USDC:USDC"): "BTCPERP.6",
            ("bybit", "SHIB1000/USDT:USDT"): "SHIB1000USDT.6",
            ("okx", "BTC/USDT:USDT"): "BTCUSDT_PERP.3",
            ("hyperliquid", "BTC/USDC:USDC"): "BTC.H",
            ("hyperliquid", "KSHIB/USDC:USDC"): "kSHIB.H",
        },
        absent=(
            ("binance", "TYPO/USDT:USDT"),
            ("bybit", "ETH/USDT:USDT"),
            ("bitmex", "BTC/USD:BTC"),
        ),
        catalogue="coinalyze-markets.json",
        beyond=JOIN * HOUR,
    ),
    "coinglass": Case(
        wanted=Wanted(LIQUIDATIONS, *BTC, "BTCUSDT", T, T + 4 * HOUR, HOUR, T + 4 * HOUR + 1),
        #   03:00  04:00   05:00  06:00
        #   row    absent  row    row, over for one ms
        body=coinglass_answer((T, 5, 6), (T + 2 * HOUR, 0, 7.5), (T + 3 * HOUR, 9, 9)),
        made=T + 4 * HOUR + 1,
        rows=[(T, "long", 5.0), (T, "short", 6.0), (T + 2 * HOUR, "short", 7.5)],
        coverage=[[T, T + HOUR], [T + 2 * HOUR, T + 3 * HOUR]],
        wrong=(
            text({"code": "401", "msg": "API key missing"}),
            text({"code": "0", "data": {"Binance": []}}),
            text({"code": "0", "data": [{"time": T, "open": "1", "close": "2"}]}),
            coinglass_answer((T + 5 * MINUTE, 5, 6)),
            coinglass_answer((T // 1000, 5, 6)),
            coinglass_answer((T, -5, 6)),
            coinglass_answer((T, 5, 6), (T, 5, 6)),
            # Ten rows of 4h are no periods of 1h.
            coinglass_answer(*((T // DAY * DAY + n * 4 * HOUR, 1, 1) for n in range(10))),
        ),
        asked=ms_asked,
        contracts={
            BTC: "BTCUSDT",
            INVERSE: "BTCUSD_PERP",
            ("binance", "1000SHIB/USDT:USDT"): "1000SHIBUSDT",
            ("bybit", "BTC/USDC:USDC"): "BTCPERP",
            ("bybit", "SHIB1000/USDT:USDT"): "SHIB1000USDT",
            ("okx", "BTC/USDT:USDT"): "BTC-USDT-SWAP",
            ("okx", "BTC/USD:BTC"): "BTC-USD-SWAP",
            ("hyperliquid", "BTC/USDC:USDC"): "BTC",
            ("hyperliquid", "KSHIB/USDC:USDC"): "kSHIB",
        },
        absent=(
            ("binance", "TYPO/USDT:USDT"),
            ("bybit", "ETH/USDT:USDT"),
            ("bitget", "BTC/USDT:USDT"),
        ),
        catalogue="coinglass-pairs.json",
    ),
    "okx": Case(
        wanted=Wanted(
            LIQUIDATIONS, "okx", BTC[1], "BTC-USDT-SWAP", T, T + 10 * HOUR, MINUTE, OKX_NOW
        ),
        # The newest is too young to be sure that all of its time are there.
        body=page(
            order(OKX_NOW - 5, size=9), order(T + 7 * HOUR, "buy", 3), order(T + HOUR, "sell", 2)
        ),
        made=OKX_NOW,
        rows=[(T + HOUR, "long", 2.0), (T + 7 * HOUR, "short", 3.0)],
        coverage=[[T + HOUR, OKX_NOW - BEHIND]],
        wrong=(
            text({"code": "50011", "msg": "Too Many Requests", "data": []}),
            text({"code": "0", "data": [{"instId": "BTC-USDT-SWAP", "uly": "BTC-USDT"}]}),
            page(order(T), symbol="ETH-USDT-SWAP"),
            page({**order(T), "side": "?"}),
            page({"bkPx": "1", "side": "buy", "sz": "1"}),
        ),
        asked=page_asked,
        contracts={
            ("okx", "BTC/USDT:USDT"): "BTC-USDT-SWAP",
            ("okx", "BTC/USD:BTC"): "BTC-USD-SWAP",
            ("okx", "SOL/USDT:USDT"): "SOL-USDT-SWAP",
        },
        # What follows the rule, but is not listed, is left out too.
        absent=(BTC, ("okx", "BTC/USDC:USDC"), ("okx", "SHIB/USDT:USDT"), ("okx", "BTC")),
        catalogue="okx-instruments.json",
        options=Options(contracts=lambda: OKX_CONTRACTS),
    ),
}

CASES |= {
    "binance_vision": Case(
        # 03:00 to 05:00 lie in one day's file, which proves all of that day.
        wanted=Wanted(LIQUIDATIONS, *INVERSE, "BTCUSD_PERP", T, T + 2 * HOUR, MINUTE, T + 3 * DAY),
        body=snapshot(),
        made=T + 3 * DAY,
        rows=[(T + HOUR, "long", 5000.0), (T + 2 * HOUR, "short", 300.0)],
        coverage=[[MIDNIGHT, MIDNIGHT + DAY]],
        wrong=(
            snapshot(symbol="ETHUSD_PERP"),
            snapshot(day="2024-08-06"),
            snapshot(kind="metrics"),
            snapshot(symbol="BTCUSD_240927"),
        ),
        asked=day_asked,
        contracts={
            BTC: "BTCUSDT",
            INVERSE: "BTCUSD_PERP",
            ("binance", "1000SHIB/USDC:USDC"): "1000SHIBUSDC",
        },
        absent=(("bybit", BTC[1]), ("binance", "BTC/EUR:EUR"), ("binance", "BTC/USD:USDC")),
        beyond=DAY,
    ),
    "tardis": Case(
        wanted=Wanted(LIQUIDATIONS, *BTC, "BTCUSDT", T, T + 2 * HOUR, MINUTE, T + 3 * DAY),
        body=tardis_file(T + HOUR, T + 2 * HOUR),
        made=T + 3 * DAY,
        rows=[(T + HOUR, "long", 25_000.0), (T + 2 * HOUR, "short", 15_000.0)],
        coverage=[[MIDNIGHT, MIDNIGHT + DAY]],
        wrong=(
            tardis_file(T + HOUR, T + DAY),
            tardis_file(T + HOUR, T + 2 * HOUR, "binance-futures,ETHUSDT"),
            tardis_file(T + HOUR, T + 2 * HOUR, "bybit,BTCUSDT"),
            tardis_file(T + HOUR, T + 2 * HOUR, "deribit,BTCUSDT"),
            tardis_file(T + HOUR, T + 2 * HOUR, number="7"),
        ),
        asked=day_asked,
        contracts={
            BTC: "BTCUSDT",
            INVERSE: "BTCUSD_PERP",
            ("bybit", "BTC/USDT:USDT"): "BTCUSDT",
            ("bybit", "BTC/USDC:USDC"): "BTCPERP",
            ("bybit", "BTC/USD:BTC"): "BTCUSD",
            ("okx", "BTC/USDT:USDT"): "BTC-USDT-SWAP",
            ("okx", "BTC/USD:BTC"): "BTC-USD-SWAP",
        },
        absent=(
            ("hyperliquid", "BTC/USDC:USDC"),
            ("binance", "BTC/EUR:EUR"),
            ("okx", "BTC/USDT:BTC"),
            ("bybit", "BTC"),
        ),
        beyond=DAY,
    ),
}

SERVICES = [source for source in ARCHIVES if archive(source).ABOUT.url]

each = pytest.mark.parametrize("source", CASES)


def first_ask(source: str) -> Ask:
    return next(iter(service(source).asks(CASES[source].wanted)))


def answer(source: str, body: bytes | None = None, **changes):
    """Answer the first question of a case; ``changes`` are of its options."""
    case = CASES[source]
    options = replace(case.options, **{"made": case.made, **changes})
    body = case.body if body is None else body
    return service(source).answer(body, first_ask(source), case.wanted, options)


def flat(part: Part) -> list[tuple[int, str, float]]:
    rows = part.rows
    if isinstance(rows, Events):
        columns = (rows.timestamp, rows.side, rows.value_usd)
        return [
            (time, SIDES[side], value)
            for time, side, value in zip(*(column.tolist() for column in columns), strict=True)
        ]
    return sorted(
        (time, side, value)
        for side, volume in (("long", rows.long), ("short", rows.short))
        for time, value in zip(rows.timestamp.tolist(), volume.tolist(), strict=True)
        if value
    )


# --- the contract of every service --------------------------------------------------------------


def test_every_service_has_a_case():
    assert set(CASES) == set(SERVICES)


def check_ask(source: str, ask: Ask) -> None:
    assert ask.path.startswith("/")
    assert "//" not in ask.path
    assert "?" not in ask.path
    assert ask.label
    assert all(type(value) is str for pair in ask.query.items() for value in pair)
    assert not {"key", "token", "secret", "api_key", "apikey"} & {
        name.lower() for name in ask.query
    }
    assert not ask.keyless or service(source).ABOUT.key_optional


@each
def test_questions_are_for_what_is_wanted(source):
    case = CASES[source]
    asks = list(service(source).asks(case.wanted))
    assert asks
    for ask in asks:
        check_ask(source, ask)
        start, end = case.asked(ask)
        assert case.wanted.start - case.beyond <= start <= end <= case.wanted.end + case.beyond
        assert case.wanted.symbol.removesuffix("-SWAP") in "".join((ask.path, *ask.query.values()))
    if catalogue := service(source).CATALOGUE:
        check_ask(source, catalogue)
    assert len({(ask.path, *ask.query.items()) for ask in asks}) == len(asks)


@each
def test_an_answer_is_read_as_worked_by_hand(source):
    case = CASES[source]
    (part,), following = answer(source)
    assert (part.exchange, part.pair) == (case.wanted.exchange, case.wanted.pair)
    assert part.source == source
    assert part.unit == "usd"
    assert flat(part) == case.rows
    assert {side for _, side, _ in case.rows} == set(SIDES)
    assert part.coverage.tolist() == case.coverage
    assert following is None
    (again,), _ = answer(source)
    same_bits(part.rows, again.rows)


@each
def test_nothing_is_proven_for_what_comes_after_the_answer(source):
    made = CASES[source].made
    for back in (0, 1, MINUTE, HOUR - 1, HOUR, 3 * HOUR):
        for part in answer(source, made=made - back)[0]:
            assert part.coverage.max(initial=0) <= made - back


@each
@pytest.mark.parametrize("body", [b"", b"{}", b"5", b"null", b"<html></html>", b"[5]", b"\x1f\x8b"])
def test_what_is_no_answer_is_refused(source, body):
    with pytest.raises(LiquidationsError):
        answer(source, body)


@pytest.mark.parametrize(
    ("source", "body"),
    [
        pytest.param(source, body, id=f"{source}-{n}")
        for source, case in CASES.items()
        for n, body in enumerate(case.wrong)
    ],
)
def test_an_answer_to_something_else_is_refused(source, body):
    with pytest.raises(LiquidationsError):
        answer(source, body)


@each
def test_an_answer_that_was_cut_off_anywhere_is_refused(source):
    body = CASES[source].body
    for end in range(len(body)):
        with pytest.raises(LiquidationsError, match="cut off"):
            answer(source, body[:end])


def catalogue_of(source: str) -> bytes | None:
    name = CASES[source].catalogue
    return (ANSWERS / name).read_bytes() if name else None


@each
def test_contracts_have_the_names_that_the_source_gives_them(source):
    case = CASES[source]
    assert bool(case.catalogue) == (service(source).CATALOGUE is not None)
    wanted = [*case.contracts, *case.absent]
    assert service(source).symbols(wanted, catalogue_of(source)) == case.contracts
    assert len(set(case.contracts.values())) > 2


@pytest.mark.parametrize("source", [name for name, case in CASES.items() if case.catalogue])
@pytest.mark.parametrize(
    "body",
    [b"", b"<html></html>", b"{}", b"5", b"[5]", b"[{}]", b'{"message": "Invalid key"}',
     b'{"code": "401", "msg": "no key"}', b'{"code": "0", "data": []}',
     b'{"code": "0", "data": {"Binance": 5}}', b'{"code": "0", "data": {"Binance": [5]}}'],
)  # fmt: skip
def test_what_is_no_catalogue_is_refused(source, body):
    with pytest.raises(LiquidationsError):
        service(source).symbols([BTC], body)


# --- bars: which periods are over, and what is asked for ------------------------------------------


@pytest.mark.parametrize("source", ["coinalyze", "coinglass"])
@pytest.mark.parametrize(
    ("made", "kept"),
    [
        (None, 2),
        (T + 4 * HOUR, 2),
        (T + 4 * HOUR + SETTLED - 1, 2),
        (T + 4 * HOUR + SETTLED, 3),
        (T + 99 * HOUR, 3),
        # At 06:01 two rows are not over: 05:00 ended a minute ago, 06:00 runs.
        (T + 3 * HOUR + MINUTE, 1),
    ],
)
def test_a_period_is_kept_when_it_was_surely_over(source, made, kept):
    (part,), _ = answer(source, made=made)
    assert len(part.rows) == kept
    assert bool(part.note) == (kept < 3)
    # 03:00, 05:00 and 06:00 have rows. Between them Coinalyze's nothing is zero.
    end = {1: 2 if source == "coinalyze" else 1, 2: 3, 3: 4}[kept]
    assert part.coverage[-1, 1] == T + end * HOUR


def test_empty_periods_before_a_running_one_are_covered_as_far_as_they_were_over():
    # 03:00 has a row, 04:00 to 09:00 none, 10:00 runs: asked at 10:01, 09:00 has not settled.
    body = coinalyze_answer((T, 5, 6), (T + 7 * HOUR, 1, 1))
    wanted = replace(CASES["coinalyze"].wanted, end=T + 8 * HOUR, now=T + 8 * HOUR)
    (ask,) = service("coinalyze").asks(wanted)

    def answered(made: int) -> list[Part]:
        return service("coinalyze").answer(body, ask, wanted, Options(made=made))[0]

    (part,) = answered(T + 7 * HOUR + MINUTE)
    assert part.coverage.tolist() == [[T, T + 6 * HOUR]]
    (part,) = answered(T + 7 * HOUR + SETTLED)
    assert part.coverage.tolist() == [[T, T + 7 * HOUR]]
    assert part.rows.timestamp.tolist() == [T]


@pytest.mark.parametrize(
    ("source", "body"),
    [
        ("coinalyze", b"[]"),
        ("coinalyze", text([{"symbol": "BTCUSDT_PERP.A", "history": []}])),
        ("coinglass", text({"code": "0", "msg": "success", "data": []})),
        ("okx", page()),
    ],
)
def test_an_empty_answer_proves_nothing(source, body):
    assert answer(source, body) == ([], None)


@pytest.mark.parametrize("source", ["coinalyze", "coinglass"])
def test_a_running_period_alone_proves_nothing(source):
    body = {"coinalyze": coinalyze_answer, "coinglass": coinglass_answer}[source]((T, 1, 1))
    (part,), _ = answer(source, body, made=T + MINUTE)
    assert len(part.rows) == 0
    assert part.coverage.tolist() == []


@pytest.mark.parametrize("source", ["coinalyze", "coinglass"])
@given(st.integers(0, 3000 * HOUR), st.integers(1, 5000 * HOUR), st.integers(0, 60 * HOUR))
def test_questions_cover_what_is_wanted(source, start, length, age):
    case = CASES[source]
    start += T
    end = start + length
    wanted = replace(case.wanted, start=start, end=end, now=end + age)
    asked = [case.asked(ask) for ask in service(source).asks(wanted)]
    covered = merge_intervals(np.array(asked))
    assert len(covered) == 1
    # Coinalyze is asked in whole seconds.
    assert covered[0, 0] <= start
    assert end <= covered[0, 1] < min(wanted.now, end + case.beyond) + 1000
    for first, last in asked:
        assert start - max(case.beyond, HOUR) - 1000 < first < last
        if source == "coinglass":
            assert first % HOUR == 0
            assert last - first <= 1000 * HOUR


@pytest.mark.parametrize("source", ["coinalyze", "coinglass"])
def test_every_period_has_a_name_and_others_are_refused(source):
    wanted = CASES[source].wanted
    names = set()
    for period in service(source).ABOUT.periods:
        ask, *_ = service(source).asks(replace(wanted, period=period))
        names.add(ask.query["interval"])
    expected = {
        "coinalyze": set(INTERVALS.values()),
        "coinglass": {"1m", "3m", "5m", "15m", "30m", "1h", "4h", "6h", "8h", "12h", "1d"},
    }
    assert names == expected[source]
    with pytest.raises(LiquidationsError, match="no periods of 7m; it has 1m"):
        list(service(source).asks(replace(wanted, period=7 * MINUTE)))


def test_rows_of_another_time_than_was_asked_for_prove_nothing():
    """Else all between a stray row and the others would have been observed, and be zero."""
    own = ((T, 5, 6), (T + 2 * HOUR, 0, 7.5))
    strays = ((utc("2020-01-01"), 1, 1), (T + 20 * HOUR, 1, 1))
    made = T + 99 * HOUR
    (part,), _ = answer("coinalyze", coinalyze_answer(strays[0], *own, strays[1]), made=made)
    assert part.coverage.tolist() == [[T, T + 3 * HOUR]]
    assert part.rows.timestamp.tolist() == [T, T + 2 * HOUR]
    (part,), _ = answer("coinalyze", coinalyze_answer(*strays), made=made)
    assert part.coverage.tolist() == []
    assert len(part.rows) == 0
    (part,), _ = answer("coinglass", coinglass_answer(strays[0], *own, strays[1]), made=made)
    assert part.coverage.tolist() == [[T, T + HOUR], [T + 2 * HOUR, T + 3 * HOUR]]
    assert part.rows.timestamp.tolist() == [T, T + 2 * HOUR]
    # A day is all that OKX has; what is years older is not the beginning of it.
    body = page(order(OKX_NOW - HOUR), order(OKX_NOW - 20 * HOUR), order(utc("2020-01-01")))
    (part,), following = answer("okx", body)
    assert part.coverage.tolist() == [[OKX_NOW - 20 * HOUR, OKX_NOW - BEHIND]]
    assert len(part.rows) == 2
    assert following is None


@pytest.mark.parametrize("source", ["coinalyze", "coinglass"])
@pytest.mark.parametrize(
    ("hours", "count", "refused"), [(4, 10, True), (24, 5, True), (4, 9, False), (1, 40, False)]
)
def test_rows_of_a_longer_period_are_not_taken_for_the_one_asked_for(source, hours, count, refused):
    """4 to the power of 10 is more than a million: that so many hours are so by chance is less."""
    make = {"coinalyze": coinalyze_answer, "coinglass": coinglass_answer}[source]
    body = make(*((MIDNIGHT - n * hours * HOUR, 1, 2) for n in range(count)))
    if refused:
        with pytest.raises(LiquidationsError, match=r"longer periods than 1h|no periods of 1h"):
            answer(source, body)
    else:
        answer(source, body)


def test_open_interest_of_a_longer_period_or_another_time_is_not_taken():
    module = service("coinalyze")
    wanted = open_interest("BTC/USDT:USDT", "BTCUSDT_PERP.A")
    ask, _ = module.asks(wanted)

    def answered(*times: int) -> list:
        rows = [{"t": time // 1000, "o": 5, "h": 5, "l": 5, "c": 5} for time in times]
        body = text([{"symbol": "BTCUSDT_PERP.A", "history": rows}])
        return module.answer(body, ask, wanted, Options(made=T + 99 * HOUR))[0]

    (part,) = answered(T - HOUR, T, T + HOUR, T + 5 * HOUR)
    assert part.timestamp.tolist() == [T, T + HOUR]
    with pytest.raises(LiquidationsError, match="longer periods than 1h"):
        answered(*(MIDNIGHT + n * DAY for n in range(12)))


@pytest.mark.parametrize(
    ("source", "body", "kind"),
    [
        ("coinglass", {"code": "401", "msg": "API key missing"}, KeyRefused),
        ("coinglass", {"code": "30001", "msg": "API key missing."}, KeyRefused),
        ("coinglass", {"code": "40001", "msg": "Invalid Secret Key"}, KeyRefused),
        ("coinglass", {"code": 401, "msg": None}, KeyRefused),
        ("coinglass", {"code": "401", "msg": "Upgrade plan"}, LiquidationsError),
        ("coinglass", {"code": "400", "msg": "interval"}, LiquidationsError),
        ("coinglass", {"code": "429", "msg": ""}, TooMany),
        ("coinglass", {"code": "50001", "msg": "Too Many Requests"}, TooMany),
        ("okx", {"code": "50011", "msg": "Too Many Requests", "data": []}, TooMany),
        ("okx", {"code": "51001", "msg": "Instrument ID does not exist", "data": []},
         LiquidationsError),
    ],
)  # fmt: skip
def test_errors_in_an_answer_are_told_apart(source, body, kind):
    with pytest.raises(LiquidationsError) as caught:
        answer(source, text(body))
    assert type(caught.value) is kind


# --- Coinalyze ----------------------------------------------------------------------------------


def test_coinalyze_is_asked_in_seconds_and_in_usd():
    assert first_ask("coinalyze") == Ask(
        "/liquidation-history",
        {
            "symbols": "BTCUSDT_PERP.A",
            "interval": "1hour",
            # 200 hours before 2024-08-05 03:00, and to the second that ends with 07:00
            "from": str(utc("2024-07-27 19:00") // 1000),
            "to": str(utc("2024-08-05 07:00") // 1000),
            "convert_to_usd": "true",
        },
        label="2024-08-05 03:00 to 2024-08-05 07:00",
    )


def test_the_assets_tell_the_pair_and_the_symbol_where_they_are_the_coins():
    markets = json.loads((ANSWERS / "coinalyze-markets.json").read_text())
    shib = next(one for one in markets if one["symbol"] == "1000SHIBUSDT_PERP.A")
    shib["base_asset"] = "SHIB"
    module = service("coinalyze")
    wanted = [("binance", "1000SHIB/USDT:USDT"), ("binance", "SHIB/USDT:USDT")]
    assert module.symbols(wanted, text(markets)) == dict.fromkeys(wanted, "1000SHIBUSDT_PERP.A")
    # Assets tell more than a name: here that of another contract.
    other = {**shib, "symbol": "SHIBUSDT_PERP.A", "base_asset": "1000SHIB"}
    assert module.symbols(wanted, text([shib, other])) == {
        wanted[0]: "SHIBUSDT_PERP.A",
        wanted[1]: "1000SHIBUSDT_PERP.A",
    }
    # Without a rule for its name a symbol is known by its assets alone.
    shib["symbol"] = "X~1"
    assert module.symbols(wanted, text(markets)) == {("binance", "SHIB/USDT:USDT"): "X~1"}


def open_interest(pair: str, symbol: str) -> Wanted:
    wanted = CASES["coinalyze"].wanted
    return replace(wanted, kind=OPEN_INTEREST, pair=pair, symbol=symbol)


def test_open_interest_has_the_opening_value_of_each_period():
    module = service("coinalyze")
    wanted = open_interest("BTC/USDT:USDT", "BTCUSDT_PERP.A")
    amount, value = module.asks(wanted)
    for ask in (amount, value):
        check_ask("coinalyze", ask)
        assert ask.path == "/open-interest-history"
        assert seconds_asked(ask) == (wanted.start, wanted.now // 1000 * 1000)
    assert "convert_to_usd" not in amount.query
    assert value.query["convert_to_usd"] == "true"
    rows = [{"t": (T + n * HOUR) // 1000, "o": n + 1.5, "h": 99, "l": 0, "c": 50} for n in range(4)]
    body = text([{"symbol": "BTCUSDT_PERP.A", "history": rows}])
    for ask, name, other in (
        (amount, "open_interest_amount", "open_interest_value"),
        (value, "open_interest_value", "open_interest_amount"),
    ):
        (part,), following = module.answer(body, ask, wanted, Options(made=wanted.now))
        assert isinstance(part, Context)
        assert following is None
        assert (part.kind, part.exchange, part.pair) == (OPEN_INTEREST, *BTC)
        assert (part.source, part.period) == ("coinalyze", HOUR)
        # 06:00 ended a millisecond ago.
        assert part.timestamp.tolist() == [T, T + HOUR, T + 2 * HOUR]
        assert part.values[name].tolist() == [1.5, 2.5, 3.5]
        assert np.isnan(part.values[other]).all()
        for wrong in (
            CASES["coinalyze"].body,
            text([{"symbol": "ETHUSDT_PERP.A", "history": rows}]),
            text([{"symbol": "BTCUSDT_PERP.A", "history": [{**rows[0], "o": -1}]}]),
        ):
            with pytest.raises(LiquidationsError):
                module.answer(wrong, ask, wanted, Options(made=wanted.now))
        assert module.answer(b"[]", ask, wanted, Options()) == ([], None)


def test_of_an_inverse_contract_only_the_value_is_asked_for():
    (ask,) = service("coinalyze").asks(open_interest("BTC/USD:BTC", "BTCUSD_PERP.A"))
    assert ask.query["convert_to_usd"] == "true"


def test_recorded_open_interest_is_freqtrades(recorded):
    pd = pytest.importorskip("pandas")
    body = recorded / "data/coinalyze/BTCUSDT_PERP.A-open-interest-history-1hour.json"
    wanted = open_interest("BTC/USDT:USDT", "BTCUSDT_PERP.A")
    wanted = replace(wanted, start=0, end=utc("2099-01-01"), now=utc("2099-01-01"))
    amount, _ = service("coinalyze").asks(wanted)
    (part,), _ = service("coinalyze").answer(body.read_bytes(), amount, wanted, Options())
    candles = recorded / "data/candles/futures/BTC_USDT_USDT-1h-open_interest.feather"
    stored = pd.read_feather(candles).set_index("date").open_interest_amount
    mine = pd.Series(
        part.values["open_interest_amount"], pd.to_datetime(part.timestamp, unit="ms", utc=True)
    )
    both = pd.concat([mine, stored], axis=1, join="inner")
    assert len(both) > 1_400
    assert (both.iloc[:, 0] == both.iloc[:, 1]).all()


def test_the_funding_rate_is_left_out():
    assert FUNDING_RATE not in service("coinalyze").ABOUT.kinds


# --- CoinGlass ----------------------------------------------------------------------------------


def test_coinglass_is_asked_in_ms_a_thousand_periods_at_a_time():
    wanted = replace(CASES["coinglass"].wanted, start=T + 1, end=T + 1_500 * HOUR + 7)
    first, second = service("coinglass").asks(wanted)
    assert first.path == second.path == "/api/futures/liquidation/history"
    assert first.query == {
        "exchange": "Binance",
        "symbol": "BTCUSDT",
        "interval": "1h",
        "limit": "1000",
        "start_time": str(T),
        "end_time": str(T + 1_000 * HOUR - 1),
    }
    assert ms_asked(second) == (T + 1_000 * HOUR, T + 1_500 * HOUR + 7)


@pytest.mark.parametrize(
    ("name", "exchange", "pair", "period"),
    [
        ("Binance_BTCUSDT_1h.json", "binance", "BTC/USDT:USDT", HOUR),
        ("Binance_BTCUSD_PERP_1h.json", "binance", "BTC/USD:BTC", HOUR),
        ("Bybit_SHIB1000USDT_30m.json", "bybit", "SHIB1000/USDT:USDT", 30 * MINUTE),
        ("OKX_BTC-USDT-SWAP_1h-2024.json", "okx", "BTC/USDT:USDT", HOUR),
        ("Hyperliquid_BTC_1h.json", "hyperliquid", "BTC/USDC:USDC", HOUR),
    ],
)
def test_a_files_name_says_whose_it_is(name, exchange, pair, period):
    (part,) = archive("coinglass").read(CASES["coinglass"].body, Options(name=name))
    assert (part.exchange, part.pair, part.period) == (exchange, pair, period)


@pytest.mark.parametrize(
    "name",
    ["", "answer.json", "Binance_BTCUSDT.json", "binance_BTCUSDT_1h.json", "Bitget_BTCUSDT_1h.json",
     "Binance_BTCUSDT_1w.json", "Binance_BTCUSDT_7m.json", "Binance_BTCUSDT_260925_1h.json",
     "OKX_BTCUSDT_1h.json", "Binance_BTCUSDT_1h.csv"],
)  # fmt: skip
def test_a_file_of_another_name_is_refused(name):
    with pytest.raises(LiquidationsError, match=r"Binance_BTCUSDT_1h\.json"):
        archive("coinglass").read(CASES["coinglass"].body, Options(name=name))


@pytest.mark.parametrize(
    ("exchange", "symbol"),
    [("binance", "BTCUSDT_260925"), ("binance", "ETHBTC"), ("bybit", "BTCUSDH26"),
     ("bybit", "BTC-26JUN26"), ("okx", "BTC-USDT-260925"), ("okx", "BTC-USDT"),
     ("binance", "USDT")],
)  # fmt: skip
def test_what_is_no_perpetual_in_dollars_has_no_pair(exchange, symbol):
    assert glass_contract(exchange, symbol) is None


# --- OKX ----------------------------------------------------------------------------------------


def test_okx_is_asked_for_the_newest_page_first():
    wanted = CASES["okx"].wanted
    (ask,) = service("okx").asks(wanted)
    assert ask == Ask(
        "/api/v5/public/liquidation-orders",
        {"instType": "SWAP", "uly": "BTC-USDT", "state": "filled", "limit": "100"},
        label="newest",
    )
    # What ended long ago is asked for from its end back.
    (ask,) = service("okx").asks(replace(wanted, end=OKX_NOW - BEHIND))
    assert ask.query["after"] == str(OKX_NOW - BEHIND)
    (ask,) = service("okx").asks(replace(wanted, end=OKX_NOW - BEHIND + 1))
    assert "after" not in ask.query


class Server:
    """Answer as OKX does, from a list of orders: newest first, what is older than ``after``."""

    def __init__(self, orders: list[dict[str, str]]) -> None:
        self.orders = sorted(orders, key=lambda one: int(one["ts"]), reverse=True)
        self.asked = 0

    def get(self, query) -> bytes:
        self.asked += 1
        assert query["uly"] == "BTC-USDT"
        older = [one for one in self.orders if int(one["ts"]) < int(query.get("after", 2**60))]
        return page(*older[: int(query["limit"])])

    async def request(self, path, api, method, query):
        return json.loads(self.get(query))


def download(server: Server, wanted: Wanted, made: int) -> list[Part]:
    module = service("okx")
    parts: list[Part] = []
    (ask,) = module.asks(wanted)
    while ask is not None:
        options = Options(contracts=lambda: OKX_CONTRACTS, made=made)
        found, ask = module.answer(server.get(ask.query), ask, wanted, options)
        parts += found
        assert server.asked < 100
    return parts


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(okx_module, "PAGE", 3)


@given(
    times=st.lists(st.integers(0, 12), max_size=20),
    since=st.integers(0, 12),
    until=st.integers(1, 14),
    sides=st.integers(0, 2**20 - 1),
)
def test_pages_prove_what_they_show_and_no_more(times, since, until, sides):
    """Compare with all orders there are: three a page, several of them in one millisecond."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(okx_module, "PAGE", 3)
        names = ["sell" if sides >> n & 1 else "buy" for n in range(len(times))]
        server = Server([order(T + t, side) for t, side in zip(times, names, strict=True)])
        made = T + until + BEHIND
        wanted = replace(CASES["okx"].wanted, start=T + since, end=made, now=made)
        parts = download(server, wanted, made)
    told = {
        (time, SIDES[side], key)
        for part in parts
        for time, side, key in zip(
            part.rows.timestamp.tolist(), part.rows.side.tolist(), part.rows.key.tolist(),
            strict=True,
        )
    }  # fmt: skip
    covered = merge_intervals(
        np.concatenate([part.coverage for part in parts] or [np.empty((0, 2))])
    )
    side_of = {"sell": "long", "buy": "short"}
    truth = [
        (T + t, side_of[name])
        for t, name in zip(times, names, strict=True)
        if any(start <= T + t < end for start, end in covered.tolist())
    ]
    assert sorted(row[:2] for row in told) == sorted(truth)
    assert all(part.coverage.max() <= T + until for part in parts)
    # No hole: one stretch that ends where the newest page was still blind.
    assert len(covered) <= 1
    crowded = any(times.count(t) >= 3 for t in times)
    seen = [t for t in times if t < until]
    if seen and not crowded and since < until:
        assert covered[0, 1] == T + until
        assert covered[0, 0] <= T + max(since, min(times))


def test_full_pages_go_on_until_what_is_wanted_begins(small_pages):
    server = Server([order(T + n * 1000) for n in range(20)])
    wanted = replace(CASES["okx"].wanted, start=T + 11_500)
    parts = download(server, wanted, OKX_NOW)
    # 19…17, 17…15, 15…13, 13…11: a page begins with the millisecond that the last one ended with.
    assert server.asked == 4
    assert [part.coverage.tolist()[0] for part in parts] == [
        [T + 17_001, OKX_NOW - BEHIND],
        [T + 15_001, T + 17_001],
        [T + 13_001, T + 15_001],
        [T + 11_001, T + 13_001],
    ]
    assert sum(len(part.rows) for part in parts) == 8


def test_a_server_that_does_not_page_is_refused(small_pages):
    server = Server([order(T + n) for n in range(9)])
    stuck = Server(server.orders)
    stuck.get = lambda query: server.get({**query, "after": 2**60})  # type: ignore[method-assign]
    with pytest.raises(LiquidationsError, match="older than"):
        download(stuck, CASES["okx"].wanted, OKX_NOW)
    # "After" itself is not older.
    inclusive = Server(server.orders)
    inclusive.get = lambda query: server.get(  # type: ignore[method-assign]
        {**query, "after": int(query.get("after", 2**60)) + 1}
    )
    with pytest.raises(LiquidationsError, match="older than"):
        download(inclusive, CASES["okx"].wanted, OKX_NOW)


def test_other_contracts_of_the_family_fill_pages_too(small_pages):
    rows = [order(T + n * 1000) for n in range(3)]
    groups = [
        {"instId": name, "uly": "BTC-USDT", "details": [row]}
        for name, row in zip(
            ("BTC-USDT-SWAP", "BTC-USDT_UM-SWAP", "BTC-USDT-SWAP"), rows, strict=True
        )
    ]
    (part,), following = answer("okx", text({"code": "0", "data": groups}))
    assert following is not None
    assert following.query["after"] == str(T + 1)
    assert flat(part) == [(T + 2_000, "long", 1.0)]


def test_a_contract_of_unknown_size_is_refused():
    with pytest.raises(LiquidationsError, match="size of a contract") as caught:
        answer("okx", contracts=dict)
    assert "--markets" not in str(caught.value)  # which download-data does not have


def test_the_collector_fills_in_by_the_same_pages(small_pages):
    times = [0, 1, 1, 2, 5, 5, 7, 9]
    server = Server([order(T + t) for t in times])
    found = asyncio.run(fill("okx", server, OKX_CONTRACTS, ["BTC/USDT:USDT"], T + 1))
    # The two of 5 share a page, the two of 1 too.
    assert found["BTC/USDT:USDT"].timestamp.tolist() == [T + t for t in times[1:]]
    assert asyncio.run(fill("okx", Server([]), OKX_CONTRACTS, ["BTC/USDT:USDT"])) == {}
