"""The adapters of the live feeds: no side inverted, no unit misread, nothing invented, none lost.

Each exchange reads ``frames/<exchange>.json``, written by hand with what they say, and the frames
that were recorded. One more exchange is one more file, one more line in ``SENDS`` and its slow
reader.
"""

import json
import random
import re
from collections import Counter
from copy import deepcopy
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import same_bits
from hypothesis import given
from hypothesis import strategies as st

from liquidations.errors import LiquidationsError
from liquidations.event import SIDES, identity, make_events
from liquidations.exchanges import EXCHANGES, adapter, binance, bybit, hyperliquid, okx
from liquidations.exchanges.frames import (
    ALIVE,
    JITTER,
    BadFrame,
    Contract,
    Frame,
    Order,
    order_events,
    short,
)


FRAMES = Path(__file__).parent / "frames"
AT = 1_780_000_000_000
USER, VAULT = "0x" + "0" * 38 + "aa", "0x2e3d94f0562703b25c83308a05046ddaf9a8dd14"

each = pytest.mark.parametrize("exchange", EXCHANGES)


def written(exchange: str) -> list[dict]:
    return json.loads((FRAMES / f"{exchange}.json").read_text())


CASES = [
    pytest.param(exchange, case, id=f"{exchange}: {case['says']}")
    for exchange in EXCHANGES
    for case in written(exchange)
]


def plain(orders) -> list[tuple]:
    """Leave out a number that is None, as the files do."""
    return [tuple(order[:5] if order.number is None else order) for order in orders]


# --- what was written by hand, and what was recorded --------------------------------------------


@pytest.mark.parametrize(("exchange", "case"), CASES)
def test_a_message_is_read_as_written_by_hand(exchange, case):
    expected = [tuple(order) for order in case.get("orders", ())]
    if case.get("bad"):
        with pytest.raises(BadFrame, match=r"got .*; expected ") as caught:
            adapter(exchange).read(case["message"])
        assert plain(caught.value.orders) == expected
        return
    for _ in range(2):
        frame = adapter(exchange).read(case["message"])
        assert plain(frame.orders) == expected
        assert frame.time == case.get("time")
        assert frame.token == case.get("token")
        assert frame.refused == case.get("refused")
        assert frame.tick is case.get("tick", False)


@each
def test_both_sides_are_among_what_was_written_by_hand(exchange):
    sides = {order[2] for case in written(exchange) for order in case.get("orders", ())}
    assert sides == {0, 1}


#: File, exchange, what one unit holds, inverse; then side, amount, USD, delay. Worked by hand, for
#: example 3 contracts × 100 USD; 3.85642 × 116.5; 6,949 / 0.5149. The sizes of the two alt swaps of
#: OKX are not recorded: 1 stands for them.
RECORDED = [
    ("binance_coinm_20200713", "binance", 100, True, "long", 0.03207629885, 300, 2),
    ("binance_usdm_20200313", "binance", 1, False, "short", 0.014, 65.88456, 5),
    ("binance_usdm_live_20261008", "binance", 1, False, "long", 116.5, 449.27293, 1005),
    ("binance_usdm_testnet_20260918", "binance", 1, False, "short", 288_183, 6_314.665896, 1012),
    ("bybit_all_long_liq_20260918", "bybit", 1, False, "long", 19.7, 50.9245, 313),
    ("bybit_all_short_liq_20260918", "bybit", 1, False, "short", 2_380, 303.0692, 211),
    ("bybit_all_tardis_20250225", "bybit", 1, False, "short", 2_846, 69.89776, 468),
    ("bybit_old_topic_20230404", "bybit", 1, True, "short", 13_495.82443, 6_949, 0),
    ("hyperliquid_user_fill_testnet", "hyperliquid", 1, False, "short", 0.001, 66.653, None),
    ("okx_futures_inverse_20230330", "okx", 10, True, "short", 706.45775, 390, None),
    ("okx_short_liq_20260918", "okx", 1, False, "short", 2_137, 889.4194, None),
    ("okx_short_liq_mina_20260918", "okx", 1, False, "short", 10_975, 1_082.02525, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "exchange", "size", "inverse", "side", "amount", "usd", "delay"), RECORDED
)
def test_a_recorded_message_says_what_it_says(
    recorded, file, exchange, size, inverse, side, amount, usd, delay
):
    message = json.loads((recorded / "frames" / f"{file}.json").read_text())
    frame = adapter(exchange).read(message)
    (order,) = frame.orders
    events = order_events(frame.orders, {order.symbol: Contract("A/B:C", size, inverse)})["A/B:C"]
    assert SIDES[events.side[0]] == side
    assert events.amount[0] == pytest.approx(amount, rel=1e-8)
    assert events.value_usd[0] == pytest.approx(usd, rel=1e-8)
    assert (frame.time is None) is (delay is None)
    if frame.time is not None:
        assert frame.time - order.timestamp == delay <= adapter(exchange).DELAY + JITTER


def test_every_recorded_frame_is_in_the_table(recorded):
    files = {path.stem for path in (recorded / "frames").glob("*.json")}
    assert files == {row[0] for row in RECORDED}


def test_a_recorded_block_of_fills_holds_one_liquidation(recorded):
    (path,) = (recorded / "frames").glob("*.jsonl")
    pairs = json.loads(path.read_text())["events"]
    found = [order for user, fill in pairs if (order := hyperliquid.fill_order(user, fill))]
    # Both counterparties' fills say the same: 890 WLFI at 0.15327 were bought back.
    assert found == [Order("WLFI", 1761584402387, 1, 0.15327, 890.0, 87867877881544)] * 2
    # Without the users the seller's fill still tells, as its short grew; the buyer's does not.
    told = [(user, fill) for user, fill in pairs if "liquidation" in fill]
    assert hyperliquid.fill_order(None, told[1][1]) == found[0]
    with pytest.raises(BadFrame):
        hyperliquid.fill_order(None, told[0][1])
    events = order_events(found, {"WLFI": Contract("WLFI/USDC:USDC", 1.0, False)})
    keys = events["WLFI/USDC:USDC"].key
    assert keys[0] == keys[1]
    assert events["WLFI/USDC:USDC"].value_usd.tolist() == pytest.approx([136.4103] * 2)


# --- what goes out ------------------------------------------------------------------------------

URLS = {
    "binance": {"linear": "wss://fstream.binance.com/ws", "inverse": "wss://dstream.binance.com/ws"},
    "bybit": {"public": {name: f"wss://stream.{{hostname}}/v5/public/{name}"
                         for name in ("linear", "inverse")}},
    "okx": "wss://ws.okx.com:443/ws/v5",
    "hyperliquid": {"public": "wss://api.hyperliquid.xyz/ws"},
}  # fmt: skip

ADDRESSES = [
    ("binance", "linear", "wss://fstream.binance.com/market/ws"),
    ("binance", "inverse", "wss://dstream.binance.com/ws"),
    ("bybit", "linear", "wss://stream.{hostname}/v5/public/linear"),
    ("bybit", "inverse", "wss://stream.{hostname}/v5/public/inverse"),
    ("okx", "swap", "wss://ws.okx.com:443/ws/v5/public"),
    ("hyperliquid", "vaults", "wss://api.hyperliquid.xyz/ws"),
]

#: Channel and names → the messages, without the companion.
SENDS = {
    "binance": [],
    "bybit": [{"op": "subscribe", "req_id": "A-1", "args": ["allLiquidation.A"]}],
    "okx": [
        {"id": "liquidationorders", "op": "subscribe",
         "args": [{"channel": "liquidation-orders", "instType": "SWAP"}]}],
    "hyperliquid": [
        {"method": "subscribe", "subscription": {"type": "userFills", "user": USER}}],
}  # fmt: skip

COMPANIONS = {
    "binance": {"linear": "btcusdt@markPrice@1s", "inverse": "btcusd_perp@markPrice@1s"},
    "bybit": {"linear": "tickers.BTCUSDT", "inverse": "tickers.BTCUSD"},
    "okx": {"swap": '"mark-price"'},
    "hyperliquid": {"vaults": '{"type": "activeAssetCtx", "coin": "BTC"}'},
}


@pytest.mark.parametrize(("exchange", "channel", "address"), ADDRESSES)
def test_addresses(exchange, channel, address):
    assert adapter(exchange).address(URLS[exchange], channel) == address


@pytest.mark.parametrize(
    "url",
    [
        "ws://localhost:8000/market/ws",
        "ws://localhost:8000/wss",
        "ws://localhost:8000/ws-fapi/v1",
        "ws://bridge/?to=wss://fstream.binance.com/ws",
        "ws://localhost:8000",
    ],
)
def test_an_address_of_ones_own_stays_as_it_is(url):
    assert binance.address({"linear": url, "inverse": url}, "linear") == url
    assert binance.address({"linear": url, "inverse": url}, "inverse") == url


@each
def test_every_channel_has_its_requests_with_a_companion(exchange):
    module = adapter(exchange)
    assert set(module.CHANNELS) == set(COMPANIONS[exchange])
    assert module.DELAY > 0
    assert module.TICK > 0
    for channel, companion in COMPANIONS[exchange].items():
        names = {"bybit": ["A"], "hyperliquid": [USER]}.get(exchange, [])
        found = module.requests(channel, names)
        texts = [json.dumps(one.message) for one in found]
        assert sum(companion in text for text in texts) == 1
        for message in SENDS[exchange]:
            assert message in [one.message for one in found]
        assert len({one.token for one in found}) == len(found)
        assert Counter(name for one in found for name in one.names) == Counter(names)


def test_binance_asks_once_for_all():
    (one,) = binance.requests("inverse", ["BTCUSD_PERP"])
    assert one.message == {
        "method": "SUBSCRIBE",
        "params": ["!forceOrder@arr", "btcusd_perp@markPrice@1s"],
        "id": 1,
    }
    assert one.token == "1"
    assert one.names == ()


@given(st.lists(st.integers(0, 10_000), unique=True, max_size=900))
def test_bybit_asks_for_all_names_once_in_parts_that_fit(numbers):
    names = [f"A{number}USDT" for number in numbers]
    first, *rest = bybit.requests("linear", names)
    assert first.names == ()
    assert [name for one in rest for name in one.names] == names
    for one in rest:
        assert 1 <= len(one.message["args"]) <= 200
        assert one.message["args"] == [f"allLiquidation.{name}" for name in one.names]
        assert one.message["req_id"] == one.token
    # A part that was refused is asked for again in halves, each with a token of its own.
    for one in rest:
        half = len(one.names) // 2
        parts = [
            bybit.requests("linear", part)[1:] for part in (one.names[:half], one.names[half:])
        ]
        tokens = [again.token for part in parts for again in part]
        assert len(set(tokens)) == len(tokens)


def test_hyperliquid_knows_its_limit_and_its_addresses():
    users = [f"0x{number:040x}" for number in range(11)]
    assert len(hyperliquid.requests("vaults", users[:10])) == 11
    with pytest.raises(LiquidationsError, match="10 users"):
        hyperliquid.requests("vaults", users)
    with pytest.raises(LiquidationsError, match="not an address"):
        hyperliquid.requests("vaults", ["0x12"])
    assert re.fullmatch("0x[0-9a-f]{40}", hyperliquid.VAULT)


@each
def test_acknowledgements_name_the_requests_that_were_sent(exchange):
    def answer(message):
        if exchange == "binance":
            return {"result": None, "id": message["id"]}
        if exchange == "bybit":
            return {"success": True, "ret_msg": "", "req_id": message["req_id"], "op": "subscribe"}
        if exchange == "okx":
            return {"id": message["id"], "event": "subscribe", "arg": message["args"][0]}
        data = {"method": "subscribe", "subscription": message["subscription"]}
        return {"channel": "subscriptionResponse", "data": data}

    names = {"bybit": ["BTCUSDT"], "hyperliquid": [USER.upper().replace("X", "x")]}
    for channel in adapter(exchange).CHANNELS:
        for one in adapter(exchange).requests(channel, names.get(exchange, [])):
            assert adapter(exchange).read(answer(one.message)) == Frame(token=one.token)


def test_an_unknown_exchange_is_named_with_those_known():
    with pytest.raises(LiquidationsError, match=r"'kraken'.*binance, bybit, okx, hyperliquid"):
        adapter("kraken")


# --- contracts, as ccxt makes them of the exchanges' rows ---------------------------------------


def flat(contracts: dict[str, Contract]) -> dict[str, tuple]:
    return {name: (one.pair, one.size, one.inverse) for name, one in contracts.items()}


def test_contracts_of_binance():
    import ccxt

    def row(symbol, base, quote, settle, kind="PERPETUAL", **more):
        return {"symbol": symbol, "baseAsset": base, "quoteAsset": quote, "marginAsset": settle,
                "contractType": kind, "deliveryDate": 4133404800000 if kind == "PERPETUAL" else
                1_798_704_000_000, "status": "TRADING", "filters": [], **more}  # fmt: skip

    rows = [
        row("BTCUSDT", "BTC", "USDT", "USDT"),
        row("1000SHIBUSDC", "1000SHIB", "USDC", "USDC"),
        row("BTCUSD_PERP", "BTC", "USD", "BTC", contractSize=100),
        row("ETHUSD_PERP", "ETH", "USD", "ETH", contractSize=10),
        # Quoted in BTC, so price × amount is not USD; a future; a spot market.
        row("ETHBTC", "ETH", "BTC", "BTC"),
        row("BTCUSD_261225", "BTC", "USD", "BTC", "CURRENT_QUARTER", contractSize=100),
    ]
    markets = [ccxt.binance().parse_market(one) for one in rows]
    markets.append({"id": "BTCUSDT", "symbol": "BTC/USDT", "quote": "USDT", "swap": False})
    assert flat(binance.contracts(markets)) == {
        "BTCUSDT": ("BTC/USDT:USDT", 1.0, False),
        "1000SHIBUSDC": ("1000SHIB/USDC:USDC", 1.0, False),
        "BTCUSD_PERP": ("BTC/USD:BTC", 100.0, True),
        "ETHUSD_PERP": ("ETH/USD:ETH", 10.0, True),
    }


def test_contracts_of_bybit():
    linear = {"id": "BTCUSDT", "symbol": "BTC/USDT:USDT", "quote": "USDT", "swap": True,
              "linear": True, "inverse": False, "contractSize": 1.0}  # fmt: skip
    # ccxt says the smallest order, which may be any number.
    inverse = {"id": "BTCUSD", "symbol": "BTC/USD:BTC", "quote": "USD", "swap": True,
               "linear": False, "inverse": True, "contractSize": 10.0}  # fmt: skip
    future = linear | {"id": "BTC-25DEC26", "symbol": "BTC/USDC:USDC-261225", "swap": False}
    spot = {"id": "BTCUSDT", "symbol": "BTC/USDT", "quote": "USDT", "swap": False,
            "linear": None, "inverse": None}  # fmt: skip
    assert flat(bybit.contracts([linear, inverse, future, spot])) == {
        "BTCUSDT": ("BTC/USDT:USDT", 1.0, False),
        "BTCUSD": ("BTC/USD:BTC", 1.0, True),
    }


def test_contracts_of_okx():
    import ccxt

    def row(name, size, times, kind="linear", settle="USDT", **more):
        return {"instId": f"{name}-SWAP", "instType": "SWAP", "uly": name, "ctVal": size,
                "ctMult": times, "ctType": kind, "settleCcy": settle,
                "state": "live", **more}  # fmt: skip

    rows = [
        row("BTC-USDT", "0.01", "1"),
        # ccxt leaves ctMult out of its contractSize.
        row("PEPE-USDT", "10", "1000000"),
        row("BTC-USD", "100", "1", "inverse", "BTC"),
        {"instId": "BTC-USDT", "instType": "SPOT", "baseCcy": "BTC", "quoteCcy": "USDT"},
        # Announced; only these fields are there (ccxt's comment).
        {"instId": "ETH-USD_UM-SWAP", "instType": "SWAP", "state": "preopen"},
    ]
    expected = {
        "BTC-USDT-SWAP": ("BTC/USDT:USDT", 0.01, False),
        "PEPE-USDT-SWAP": ("PEPE/USDT:USDT", 1e7, False),
        "BTC-USD-SWAP": ("BTC/USD:BTC", 100.0, True),
    }
    markets = map(ccxt.okx().parse_market, rows)
    assert flat(okx.contracts(market for market in markets if market)) == expected
    assert flat(okx.contracts(rows)) == expected


def test_contracts_of_hyperliquid():
    import ccxt

    def row(name, number, **more):
        return {"name": name, "baseId": number, "szDecimals": 2, "markPx": "1.5", **more}

    rows = [row("BTC", 0), row("kPEPE", 1), row("flx:TSLA", 2, collateralTokenName="USDH")]
    exchange = ccxt.hyperliquid()
    markets = [exchange.parse_market(one) for one in rows]
    markets.append({"id": "@107", "symbol": "HYPE/USDC", "quote": "USDC", "swap": False})
    assert flat(hyperliquid.contracts(markets)) == {
        "BTC": ("BTC/USDC:USDC", 1.0, False),
        "kPEPE": ("KPEPE/USDC:USDC", 1.0, False),
        "flx:TSLA": ("FLX-TSLA/USDH:USDH", 1.0, False),
    }


# --- orders become events -----------------------------------------------------------------------

KNOWN = {
    "L": Contract("A/USDT:USDT", 0.01, False),
    "I": Contract("A/USD:A", 100.0, True),
    "L2": Contract("A/USDT:USDT", 1.0, False),
}


def test_orders_become_events_by_pair_in_order_of_time():
    orders = [
        Order("L", AT + 5, 0, 200.0, 3.0),
        Order("I", AT + 1, 1, 50.0, 2.0),
        Order("L", AT, 1, 100.0, 5.0),
        Order("L2", AT + 2, 0, 10.0, 7.0),
    ]
    found = order_events(orders, KNOWN, received=[AT + 9, AT + 8, AT + 7, AT + 6])
    assert list(found) == ["A/USDT:USDT", "A/USD:A"]
    linear, inverse = found.values()
    # 5 × 0.01 at 100; 7 × 1 at 10; 3 × 0.01 at 200.
    assert linear.timestamp.tolist() == [AT, AT + 2, AT + 5]
    assert linear.received.tolist() == [AT + 7, AT + 6, AT + 9]
    assert linear.side.tolist() == [1, 0, 0]
    assert linear.amount.tolist() == [0.05, 7.0, 0.03]
    assert linear.value_usd.tolist() == [5.0, 70.0, 6.0]
    # 2 × 100 USD, which at 50 are 4 coins.
    assert inverse.amount.tolist() == [4.0]
    assert inverse.value_usd.tolist() == [200.0]
    assert inverse.received.tolist() == [AT + 8]
    assert order_events([], KNOWN) == {}
    assert order_events(orders, KNOWN)["A/USD:A"].received.tolist() == [AT + 1]
    assert order_events(orders, KNOWN, AT + 3)["A/USD:A"].received.tolist() == [AT + 3]


def test_equal_orders_are_told_apart_by_number_by_rank_or_by_counting():
    one = Order("L", AT, 0, 100.0, 5.0)

    def keys(orders, ranks=None):
        return order_events(orders, KNOWN, ranks=ranks)["A/USDT:USDT"].key.tolist()

    first, second = keys([one, one])
    assert first != second
    assert keys([one]) == [first]
    # One by one, as a feed brings them, with ranks that somebody else has counted.
    assert keys([one], [0]) == [first]
    assert keys([one], [1]) == [second]
    assert keys([one, one], [1, 0]) == [second, first]
    # Numbers count, whatever the rank and the company.
    numbered = [one._replace(number=77), one._replace(number=78)]
    assert keys(numbered, [5, 5]) == keys(numbered)
    assert keys(numbered[1:]) == keys(numbered)[1:]
    assert len({*keys(numbered), first, second}) == 4


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1, 2)), max_size=12))
def test_ranks_that_were_counted_give_the_keys_of_counting(rows):
    time = np.array([AT + late for late, _, _ in rows], np.int64)
    side = np.array([side for _, side, _ in rows], np.int8)
    price = np.array([float(price) for _, _, price in rows])
    seen: Counter = Counter()
    ranks = []
    for row in rows:
        ranks.append(seen[row])
        seen[row] += 1
    assert (
        identity(time, side, price, price, ranks).tolist()
        == identity(time, side, price, price).tolist()
    )
    one, other = (make_events(time, side, price, price, price, rank=r) for r in (ranks, None))
    same_bits(one, other)


@pytest.mark.parametrize(
    "change",
    [
        {"price": 0.0},
        {"size": 1e18},
        {"price": float("nan")},
        {"timestamp": 1_780_000_000},
        {"side": 2},
        {"symbol": "?"},
    ],
)
def test_orders_that_can_not_be_are_refused(change):
    with pytest.raises(LiquidationsError):
        order_events([Order("L", AT, 0, 1.0, 1.0)._replace(**change)], KNOWN)


@given(st.lists(st.tuples(st.sampled_from(list(KNOWN)), st.integers(0, 9), st.integers(0, 1),
                          st.integers(1, 9), st.integers(1, 9)), max_size=30))  # fmt: skip
def test_events_are_those_of_the_formula_row_by_row(rows):
    orders = [Order(name, AT + late, side, float(p), float(s)) for name, late, side, p, s in rows]
    expected: dict[str, list] = {}
    for order in orders:
        contract = KNOWN[order.symbol]
        held = order.size * contract.size
        amount = held / order.price if contract.inverse else held
        usd = held if contract.inverse else held * order.price
        expected.setdefault(contract.pair, []).append((order.timestamp, order.side, amount, usd))
    found = order_events(orders, KNOWN)
    assert set(found) == set(expected)
    for pair, events in found.items():
        columns = (events.timestamp, events.side, events.amount, events.value_usd.round(6))
        table = list(zip(*(column.tolist() for column in columns), strict=True))
        sorted_ = sorted(expected[pair], key=lambda row: row[0])
        assert table == [(*row[:3], round(row[3], 6)) for row in sorted_]


# --- anything else is a BadFrame ----------------------------------------------------------------

DEEP: list = []
for _ in range(5_000):
    DEEP = [DEEP]

GARBAGE = [
    None, True, False, 0, 5, -1, 1.5, float("nan"), float("inf"), 10**5_000, "", "x", "ping",
    "stream", "{", "\ud800", b"pong", [], [[]], [{}], ["stream"], {}, {"stream": 1}, {"e": []},
    {"stream": None, "data": None}, {"data": []}, {"topic": 5}, {"topic": "allLiquidation.A"},
    {"topic": "allLiquidation.A", "data": {}}, {"arg": []}, {"arg": {"channel": {}}}, {"event": 1},
    {"event": []}, {"channel": []}, {"channel": "userFills"}, {"channel": "userFills", "data": []},
    {"id": 1}, {"id": {}, "result": None}, {"error": 5}, {"success": 1}, {"success": "true"}, DEEP,
    {"e": "forceOrder"}, {"e": "forceOrder", "o": DEEP}, {"topic": DEEP}, {"data": DEEP},
    {"channel": "error", "data": DEEP}, {"event": DEEP}, {1: 2}, object(),
]  # fmt: skip


@each
@pytest.mark.parametrize("number", range(len(GARBAGE)))
def test_garbage_is_a_bad_frame(exchange, number):
    with pytest.raises(BadFrame, match=r"got [\s\S]*; expected ") as caught:
        adapter(exchange).read(GARBAGE[number])
    assert caught.value.orders == ()
    assert len(str(caught.value)) < 700


@each
def test_half_a_message_is_a_bad_frame(exchange):
    for case in written(exchange):
        text = json.dumps(case["message"])
        for end in range(1, len(text) - 1):
            if text[:end] != "pong":
                with pytest.raises(BadFrame):
                    adapter(exchange).read(text[:end])


#: Where the numbers of an order stand, and the time.
FIELDS = {
    "binance": (("ap", "z"), "T"),
    "bybit": (("p", "v"), "T"),
    "okx": (("bkPx", "sz"), "ts"),
    "hyperliquid": (("px", "sz"), "time"),
}

NO_NUMBERS = [
    None, True, False, -1, 0, "-1", "-0", "+1", "1_000", " 1", "1 ", "1\n", "", ".", "1.2.3", "e5",
    "nan", "inf", "Infinity", "1e400", "1e-400", "9" * 5_000, "0x10", "1,5", "٣", "１", "²",
    float("nan"), float("inf"), 10**400, [], ["1"], {}, "1e", "1e5_0", "0.0", "1\x00",
]  # fmt: skip

NO_TIMES = [
    None, True, 0, -AT, AT / 1_000, float(AT), AT // 1_000, AT * 1_000, 10**5_000, str(AT // 1_000),
    f"{AT}0", f" {AT}"[:13], "1_80000000000", "１" * 13, "", 1_230_940_799_999, 4_102_444_800_001,
    [AT], {}, "now",
]  # fmt: skip


def one_order(exchange: str) -> dict:
    """Return the first message written by hand that holds an order, fresh."""
    return next(case["message"] for case in written(exchange) if case.get("orders"))


def order_dicts(node, key: str) -> list[dict]:
    found = [node] if isinstance(node, dict) and key in node and "price" not in node else []
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return found + [inner for child in children for inner in order_dicts(child, key)]


@each
def test_no_number_and_no_time_is_guessed(exchange):
    names, time = FIELDS[exchange]
    wrong = [(name, value) for name in names for value in NO_NUMBERS]
    # An order of Binance with nothing filled is a message without an order, see its file.
    if exchange == "binance":
        wrong = [pair for pair in wrong if pair not in (("z", "0.0"),)]
    wrong += [(time, value) for value in NO_TIMES]
    for name, value in wrong:
        message = one_order(exchange)
        before = plain(adapter(exchange).read(message).orders)
        order_dicts(message, names[0])[0][name] = value
        with pytest.raises(BadFrame) as caught:
            adapter(exchange).read(message)
        # The others of the message are kept.
        assert plain(caught.value.orders) == before[1:], (name, value)


def test_whatever_was_received_is_named_in_short():
    for value in (10**5_000, DEEP, "x" * 10_000, {"a": DEEP}, b"x" * 10_000):
        assert 0 < len(short(value)) <= 300


def test_alive_says_nothing():
    assert tuple(ALIVE) == ((), None, None, None, False)


# --- fuzz: valid messages, mutated, against slow readers ----------------------------------------
#
# The slow readers are written from the table of fields alone, one order at a time, with decimals.

NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def slow_number(value):
    text = isinstance(value, str) and NUMBER.fullmatch(value)
    if not text and (isinstance(value, bool) or not isinstance(value, int | float)):
        return None
    number = Decimal(value)
    if not number.is_finite() or not Decimal("1e-300") < number < Decimal("1e18"):
        return None
    return float(number)


def slow_time(value):
    if isinstance(value, str) and re.fullmatch("[0-9]{13}", value):
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 1_230_940_800_000 <= value <= 4_102_444_800_000 else None


def slow_order(row, sides, names):
    """Read (symbol, time, side, price, size) of the named fields; None if one is wrong."""
    if not isinstance(row, dict) or any(name not in row for name in names):
        return None
    symbol, time, side, price, size = (row[name] for name in names)
    good = (
        isinstance(symbol, str)
        and symbol != ""
        and isinstance(side, str)
        and side in sides
        and slow_time(time) is not None
        and slow_number(price) is not None
        and slow_number(size) is not None
    )
    if not good:
        return None
    return (symbol, slow_time(time), sides.index(side), slow_number(price), slow_number(size))


def listed(value) -> list:
    return value if isinstance(value, list) else []


def at(value, key):
    return value.get(key) if isinstance(value, dict) else None


def slow_binance(message):
    data = at(message, "data") if isinstance(message, dict) and "stream" in message else message
    order = at(data, "o")
    done = ("FILLED", "PARTIALLY_FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH")
    if at(data, "e") != "forceOrder" or at(order, "X") not in done:
        return []
    # All of Binance's numbers are text, its times are not.
    if not (isinstance(at(order, "ap"), str) and isinstance(at(order, "z"), str)):
        return []
    if isinstance(at(order, "T"), str):
        return []
    return [slow_order(order, ("SELL", "BUY"), ("s", "T", "S", "ap", "z"))]


def slow_bybit(message):
    topic, data = at(message, "topic"), at(message, "data")
    kind = topic.split(".")[0] if isinstance(topic, str) else None
    if kind == "liquidation":
        names = ("symbol", "updatedTime", "side", "price", "size")
        return [slow_order(data, ("Buy", "Sell"), names)]
    if kind != "allLiquidation":
        return []
    return [slow_order(row, ("Buy", "Sell"), ("s", "T", "S", "p", "v")) for row in listed(data)]


def slow_okx(message):
    if at(message, "event") is not None:
        return []
    if at(at(message, "arg"), "channel") != "liquidation-orders":
        return []
    return [
        slow_order(row | {"instId": group["instId"]}, ("sell", "buy"),
                   ("instId", "ts", "side", "bkPx", "sz"))
        for group in listed(at(message, "data"))
        if "instId" in (group if isinstance(group, dict) else ())
        for row in listed(at(group, "details"))
        if isinstance(row, dict)
    ]  # fmt: skip


def slow_address(value):
    return isinstance(value, str) and re.fullmatch("0x[0-9a-fA-F]{40}", value) is not None


def slow_hyperliquid(message):
    channel, data = at(message, "channel"), at(message, "data")
    user = at(data, "user")
    if channel not in ("userFills", "user") or (channel == "userFills" and not slow_address(user)):
        return []
    return [
        slow_fill(user if channel == "userFills" else None, fill)
        for fill in listed(at(data, "fills"))
    ]


def slow_fill(user, fill):
    order = slow_order(fill, ("B", "A"), ("coin", "time", "side", "px", "sz"))
    liquidated, number = at(at(fill, "liquidation"), "liquidatedUser"), at(fill, "tid")
    if order is None or not slow_address(liquidated) or at(fill, "dir") == "Auto-Deleveraging":
        return None
    if "dir" not in fill or isinstance(number, bool) or not isinstance(number, int):
        return None
    if not 0 <= number < 2**63:
        return None
    # B is the first of the sides: the counterparty bought from a long.
    symbol, time, side, price, size = order
    if user is None:
        start = fill.get("startPosition")
        if not isinstance(start, str) or not re.fullmatch(r"-?\d+(\.\d*)?", start, re.ASCII):
            return None
        change = Fraction(Decimal(fill["sz"])) * (1 if side == 0 else -1)
        before = Fraction(Decimal(start))
        after = before + change
        if abs(after) < abs(before) and after * before >= 0:
            return None
    elif user.lower() == liquidated.lower():
        side = 1 - side
    return (symbol, time, side, price, size, number)


SLOW = {
    "binance": slow_binance,
    "bybit": slow_bybit,
    "okx": slow_okx,
    "hyperliquid": slow_hyperliquid,
}

STRANGE = [
    None, True, False, 0, 1, -1, 1.5, "", "x", "0", "1", "-1", "1e5", "1e400", "nan", "1_0", " 1",
    "٣", "Buy", "SELL", "sell", "A", "B", "FILLED", "NEW", [], {}, [[]], [{}], AT, str(AT),
    2**63, 10**400, 1e300, float("inf"), float("nan"), DEEP, USER, VAULT, "forceOrder",
    "allLiquidation.", "liquidation.", "liquidation-orders", "userFills", "user", "liquidation",
]  # fmt: skip


def nodes(tree) -> list[tuple]:
    """List all (container, key) of a tree."""
    found, todo = [], [tree]
    while todo:
        node = todo.pop()
        keys = (
            node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        )
        for key in list(keys):
            found.append((node, key))
            if node[key] is not DEEP:
                todo.append(node[key])
    return found


def strange(draw: random.Random):
    """Return something strange, fresh where a later mutation could change it."""
    value = draw.choice(STRANGE)
    return value if value is DEEP else deepcopy(value)


def mutate(draw: random.Random, tree: dict) -> None:
    """Change one thing somewhere in a tree."""
    places = nodes(tree)
    if not places:
        return
    node, key = draw.choice(places)
    value = node[key]
    match draw.randrange(10):
        case 0:
            del node[key]
        case 1 | 2:
            node[key] = strange(draw)
        case 3:  # another type of the same
            node[key] = str(value) if isinstance(value, int | float) else text_changed(draw, value)
        case 4:
            node[key] = draw.choice(([value], {"data": value}, [value, value], {str(key): value}))
        case 5 if isinstance(node, list):
            node.insert(draw.randrange(len(node) + 1), value)
        case 6:
            other, there = draw.choice(places)
            if isinstance(other, dict) or there < len(other):
                node[key] = other[there] if not isinstance(other[there], dict | list) else value
        case 7 if isinstance(node, dict):
            node[draw.choice([str(there) for _, there in places])] = value
        case 8 if isinstance(node, dict):
            node[text_changed(draw, key)] = node.pop(key)
        case _ if isinstance(value, str):
            node[key] = text_changed(draw, value)
        case _ if isinstance(value, int):
            node[key] = draw.choice((value + 1, -value, value * 1_000, value * 10**20, value % 7))


def text_changed(draw: random.Random, text):
    if not isinstance(text, str):
        return strange(draw)
    if text == "":
        return "x"
    spot = draw.randrange(len(text))
    return draw.choice(
        (
            text[:spot],
            text[spot:],
            text.swapcase(),
            text[:spot] + draw.choice("0.9_ e-+٣１\n'xSB") + text[spot:],
            text * 2,
            text.translate({ord("1"): "١"}),
            "9" * 400,
        )
    )


def text_mutated(draw: random.Random, text: str) -> dict | None:
    """Cut or change the text of a message; None if it is JSON no more."""
    spot = draw.randrange(len(text))
    end = min(len(text), spot + draw.randrange(30))
    text = draw.choice((text[:spot], text[:spot] + text[end:], text[:end] + text[spot:]))
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_or_bad(read, message) -> Frame | BadFrame:
    try:
        return read(message)
    except BadFrame as error:
        return error


ROUNDS = 250  # of each of 100 examples: 25,000 messages an exchange


@each
def test_mutated_messages_are_read_as_slow_readers_do(exchange):
    texts = [json.dumps(case["message"]) for case in written(exchange)]
    # Those that hold orders are most of them.
    texts += [json.dumps(case["message"]) for case in written(exchange) if case.get("orders")] * 4
    read, slow = adapter(exchange).read, SLOW[exchange]
    met: Counter = Counter()

    @given(st.integers(0, 2**64))
    def check(seed):
        draw = random.Random(seed)
        for _ in range(ROUNDS):
            text = draw.choice(texts)
            message = text_mutated(draw, text) if draw.random() < 0.1 else None
            if message is None:
                message = json.loads(text)
            if isinstance(message, dict):
                for _ in range(draw.choice((1, 1, 1, 2, 3))):
                    mutate(draw, message)
            found = read_or_bad(read, message)
            met["bad" if isinstance(found, BadFrame) else "read"] += 1
            expected = [order for order in slow(message) if order is not None]
            met["orders"] += len(expected)
            assert plain(found.orders) == expected, message
            if expected:  # and again the same
                assert plain(read_or_bad(read, message).orders) == expected

    check()
    assert met["read"] + met["bad"] >= 25_000
    assert min(met["read"], met["bad"], met["orders"]) > 2_500
