"""The live loop against loopback exchanges: nothing lost, nothing doubled, nothing passed over.

Real sockets, real clients, a real store and the real collector in a thread. Only waiting times are
shortened, and both clocks set, so that a minute ends when a test needs it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from conftest import utc
from loopback import (
    BUILDERS,
    CHILD,
    VAULT,
    Loopback,
    all_liquidation,
    force_order,
    liquidation_order,
    loopback,
    order_detail,
)

from liquidations import collector as collector_module
from liquidations import feed as feed_module
from liquidations import live, silence
from liquidations.candles import source_candles
from liquidations.collector import Collector, Plan
from liquidations.event import LONG, MINUTE, SHORT, Events
from liquidations.exchanges import adapter
from liquidations.feed import LiveFeed
from liquidations.reader import Reader
from liquidations.settings import Settings, read_settings
from liquidations.store import Store


ALL = ("binance", "bybit", "okx", "hyperliquid")
FOREVER = (utc("2009-01-03"), utc("2099-01-01"))

#: exchange → its channels
CHANNELS = {
    "binance": ("linear", "inverse"),
    "bybit": ("linear", "inverse"),
    "okx": ("swap",),
    "hyperliquid": ("vaults",),
}

#: One contract of each feed: (exchange, channel) → symbol, pair, what one unit of size is worth
#: in USD at a price of 100: base units × price, or of inverse contracts USD.
FEEDS = {
    ("binance", "linear"): ("BTCUSDT", "BTC/USDT:USDT", 100.0),
    ("binance", "inverse"): ("BTCUSD_PERP", "BTC/USD:BTC", 100.0),
    ("bybit", "linear"): ("ICPUSDT", "ICP/USDT:USDT", 100.0),
    ("bybit", "inverse"): ("XRPUSD", "XRP/USD:XRP", 1.0),
    ("okx", "swap"): ("BTC-USDT-SWAP", "BTC/USDT:USDT", 1.0),
    ("hyperliquid", "vaults"): ("WLFI", "WLFI/USDC:USDC", 100.0),
}


@pytest.fixture
def exchange() -> Iterator[Loopback]:
    with loopback() as running:
        running.replayed = []  # tests that are about the replay set it
        running.tick_every = 0.05
        yield running


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exchanges publish within 0.1 s, so that there is soon something that was covered."""
    for name in ALL:
        monkeypatch.setattr(adapter(name), "DELAY", 100)


def plan(
    exchange: Loopback, db_url: str, *names: str, bases=None, standby=False, **options: Any
) -> Plan:
    configs = {name: exchange.ccxt_config(name) for name in names}
    bases = None if bases is None else frozenset(bases)
    return Plan(Settings(db_url, names, **options), bases, configs, standby)


@contextmanager
def running(given: Plan, *, wait: bool = True) -> Iterator[Collector]:
    """Run a collector in a thread, and wait until all its feeds listen."""
    collector = Collector(given)
    thread = threading.Thread(target=lambda: asyncio.run(collector.run()), daemon=True)
    thread.start()
    try:
        if wait:
            until(lambda: listens(collector), 15)
        yield collector
    finally:
        collector.stop()
        thread.join(5)
        assert not thread.is_alive()


def listens(collector: Collector) -> bool:
    settings = collector.plan.settings
    number = sum(len(CHANNELS[name]) if settings.inverse else 1 for name in settings.exchanges)
    return len(collector.feeds) == number and all(feed.live for feed in collector.feeds)


def until(condition: Callable[[], Any], timeout: float = 8.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"still not true after {timeout} s"
        time.sleep(0.01)


def feed_of(collector: Collector, name: str, channel: str) -> LiveFeed:
    (found,) = (f for f in collector.feeds if (f.exchange, f.channel) == (name, channel))
    return found


@contextmanager
def reading(db_url: str) -> Iterator[Reader]:
    with Store(db_url) as store, store.read() as reader:
        yield reader


def stored(db_url: str) -> dict[tuple[str, str], Events]:
    """Return all events of a store by exchange and pair."""
    with reading(db_url) as reader:
        found = {(s.exchange, s.pair): reader.events(s, *FOREVER) for s in reader.series()}
    return {name: events for name, events in found.items() if len(events)}


def number(db_url: str) -> int:
    return sum(map(len, stored(db_url).values()))


def coverage(db_url: str, exchange: str, pair: str) -> list[list[int]]:
    with reading(db_url) as reader:
        (series,) = (s for s in reader.series() if (s.exchange, s.pair) == (exchange, pair))
        return reader.coverage(series).tolist()


def gaps(db_url: str, exchange: str, channel: str) -> list[tuple[int, int, str]]:
    with reading(db_url) as reader:
        (feed,) = (f for f in reader.feeds() if (f.exchange, f.channel) == (exchange, channel))
        return reader.gaps(feed)


def reasons(db_url: str, exchange: str, channel: str) -> list[str]:
    return [reason for _, _, reason in gaps(db_url, exchange, channel)]


def set_clocks(monkeypatch: pytest.MonkeyPatch, exchange: Loopback, second: float) -> int:
    """Set our clock and the exchanges' to a second of the minute; return when that minute ends."""
    offset = int(second * 1000 - exchange.now()) % MINUTE
    set_clock(monkeypatch, offset)
    exchange.clock_offset_ms = offset
    return (exchange.now() // MINUTE + 1) * MINUTE


def set_clock(monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    """Let our system's clock go so many ms ahead."""
    system = feed_module.Clock._system
    monkeypatch.setattr(feed_module.Clock, "_system", lambda clock: system(clock) + offset)


def wait_for(exchange: Loopback, moment: int) -> None:
    """Wait until the exchanges' clock shows a moment."""
    time.sleep(max(0.0, (moment - exchange.now()) / 1000))


def send(exchange: Loopback, name: str, channel: str, side: str, size: float, at: int) -> None:
    """Publish one liquidation at a price of 100, and see that somebody listens."""
    payload = BUILDERS[name](FEEDS[name, channel][0], side, 100.0, size, at)
    assert exchange.send(name, channel, payload) == 1


# --- what is recorded -----------------------------------------------------------------------------

#: (exchange, channel, file, what is replaced in it; pair, time, side, amount, USD). By hand:
#: 116.5 × 3.85642 = 449.27293; 288,183 × 0.021912 = 6,314.665896; 0.014 × 4,706.04 = 65.88456;
#: 3 contracts of 100 USD; 19.7 × 2.585 = 50.9245; 2,380 × 0.12734 = 303.0692;
#: 2,846 × 0.02456 = 69.89776; 6,949 USD; 2,137 contracts of 10 × 0.4162 = 8,894.194;
#: 10,975 × 0.09859 = 1,082.02525; 39 contracts of 10 USD; 0.001 × 66,653 = 66.653.
RECORDED = [
    ("binance", "linear", "binance_usdm_live_20261008.json", (),
     "ILV/USDT:USDT", 1791391082119, LONG, 116.5, 449.27293),
    ("binance", "linear", "binance_usdm_testnet_20260918.json", (),
     "COTI/USDT:USDT", 1789672235690, SHORT, 288183.0, 6314.665896),
    ("binance", "linear", "binance_usdm_20200313.json", (),
     "BTC/USDT:USDT", 1584059031421, SHORT, 0.014, 65.88456),
    ("binance", "inverse", "binance_coinm_20200713.json", ("BTCUSD_200925", "BTCUSD_PERP"),
     "BTC/USD:BTC", 1594622954021, LONG, 300 / 9352.7, 300.0),
    ("bybit", "linear", "bybit_all_long_liq_20260918.json", (),
     "ICP/USDT:USDT", 1789670094099, LONG, 19.7, 50.9245),
    ("bybit", "linear", "bybit_all_short_liq_20260918.json", (),
     "MARSCOIN/USDT:USDT", 1789670278053, SHORT, 2380.0, 303.0692),
    ("bybit", "linear", "bybit_all_tardis_20250225.json", (),
     "PIPPIN/USDT:USDT", 1740480207110, SHORT, 2846.0, 69.89776),
    ("bybit", "inverse", "bybit_old_topic_20230404.json", (),
     "XRP/USD:XRP", 1680673944093, SHORT, 6949 / 0.5149, 6949.0),
    ("okx", "swap", "okx_short_liq_20260918.json", (),
     "CNPY/USDT:USDT", 1789669898955, SHORT, 21370.0, 8894.194),
    ("okx", "swap", "okx_short_liq_mina_20260918.json", (),
     "MINA/USDT:USDT", 1789678209470, SHORT, 10975.0, 1082.02525),
    ("okx", "swap", "okx_futures_inverse_20230330.json", ("XRP-USD-230929", "XRP-USD-SWAP"),
     "XRP/USD:XRP", 1680173247614, SHORT, 390 / 0.55205, 390.0),
    ("hyperliquid", "vaults", "hyperliquid_user_fill_testnet.json", (),
     "BTC/USDC:USDC", 1781528065899, SHORT, 0.001, 66.653),
]  # fmt: skip

#: The sides that no frame of the channel was recorded of: OKX's is a row of a recorded REST answer,
#: in its channel's frame; Hyperliquid's is the recorded fill of the counterparty, who sold to the
#: short that was liquidated, and the same as if it had bought. 6.17 × 0.01 BTC × 72,731.6 =
#: 4,487.53972; 890 × 0.15327 = 136.4103.
OTHERS = [
    ("okx", "BTC/USDT:USDT", 1772708844104, LONG, 0.0617, 4487.53972),
    ("hyperliquid", "WLFI/USDC:USDC", 1761584402387, SHORT, 890.0, 136.4103),
    ("hyperliquid", "WLFI/USDC:USDC", 1761584402388, LONG, 890.0, 136.4103),
]


def other_frames(folder: Path) -> Iterator[tuple[str, str, Any]]:
    data = orjson.loads((folder / "data/okx/BTC-USDT-SWAP-liquidation-orders.json").read_bytes())
    row = data[0]["data"][0]["details"][1]
    group = {"instId": "BTC-USDT-SWAP", "instType": "SWAP", "uly": "BTC-USDT", "details": [row]}
    yield "okx", "swap", {
        "arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [group]
    }  # fmt: skip
    block = folder / "frames/hyperliquid_node_fills_by_block_20251027.jsonl"
    _, fill = orjson.loads(block.read_bytes())["events"][-1]
    for user, side, time_, trade in ((VAULT, "A", 0, 0), (CHILD, "B", 1, 1)):
        own = {**fill, "side": side, "time": fill["time"] + time_, "tid": fill["tid"] + trade}
        yield "hyperliquid", "vaults", {
            "channel": "userFills", "data": {"user": user, "fills": [own]}
        }  # fmt: skip


def test_recorded_frames_arrive_as_what_they_are(exchange, db_url, recorded, caplog, monkeypatch):
    end = set_clocks(monkeypatch, exchange, 5)
    with running(plan(exchange, db_url, *ALL, inverse=True)) as collector:
        before = exchange.now()
        for name, channel, file, replaced, *_ in RECORDED:
            text = (recorded / "frames" / file).read_text()
            payload = orjson.loads(text.replace(*replaced) if replaced else text)
            assert exchange.send(name, channel, payload) == 1, file
            if replaced:  # and as recorded: contracts with a date, which are no perpetuals
                assert exchange.send(name, channel, orjson.loads(text)) == 1
        for name, channel, payload in other_frames(recorded):
            assert exchange.send(name, channel, payload) == 1
        expected = [(name, *rest) for name, _, _, _, *rest in RECORDED] + OTHERS
        until(lambda: number(db_url) == len(expected))
        until(lambda: "okx swap: the exchange lists no contract 'XRP-USD-230929'" in caplog.text)
        assert collector.late == len(expected)  # all are long past
        found = [
            (name, pair, int(at), int(side), float(amount), float(usd))
            for (name, pair), events in stored(db_url).items()
            for at, side, amount, usd in zip(
                events.timestamp, events.side, events.amount, events.value_usd, strict=True
            )
        ]
        for mine, theirs in zip(sorted(found), sorted(expected), strict=True):
            assert mine[:4] == theirs[:4]
            # Amounts are as exact as a float; USD values are multiples of 2**-24.
            assert mine[4] == pytest.approx(theirs[4], rel=1e-14)
            assert mine[5] == pytest.approx(theirs[5], rel=1e-14, abs=2**-25)
        for events in stored(db_url).values():
            assert (np.abs(events.received - before) < 10_000).all()
        assert "BTCUSD_200925" not in caplog.text  # is listed, and was not asked for
    # Binance's frames say that they were sent years ago: no time to rely on.
    assert "more than a day off ours" in caplog.text
    assert all(end <= exchange.now() for _, end in coverage(db_url, "binance", "BTC/USDT:USDT"))
    # Nobody listened then, but whoever asks gets them, flagged as late.
    with reading(db_url) as reader:
        for series in reader.series():
            if series.base == "ILV" and series.exchange == "binance":
                source = reader.source(series, *FOREVER)
    assert len(source.bars) == 0
    assert source.late.events.timestamp.tolist() == [1791391082119]
    assert source.late.known.tolist() == [end]


def test_a_burst_of_20_000_in_two_seconds_loses_and_doubles_none(exchange, db_url, monkeypatch):
    start = set_clocks(monkeypatch, exchange, 5) - MINUTE
    with running(plan(exchange, db_url, "binance", "bybit")) as collector:
        first = exchange.now()
        singles, lists = [], []
        for i in range(10_000):
            # Ten in the same ms, five a side; sizes repeat, so some of them are twins.
            at, side, size = first + i // 10, ("long", "short")[i % 2], 1 + i % 7
            singles.append(force_order("BTCUSDT", side, 100.0, size, at))
            row = all_liquidation("ICPUSDT", side, 100.0, size, at)
            if i % 50:
                lists[-1]["data"] += row["data"]
            else:
                lists.append(row)
        exchange.burst("binance", "linear", singles, 2.0)
        exchange.burst("bybit", "linear", lists, 2.0)
        until(lambda: collector.written >= 20_000, 15)
        assert exchange.now() < start + MINUTE, "too slow to tell anything"
    # Plain sums: size 1 + i % 7 at 100 USD, evens are longs.
    usd = [sum(100.0 * (1 + i % 7) for i in range(side, 10_000, 2)) for side in (0, 1)]
    for name, pair in (("binance", "BTC/USDT:USDT"), ("bybit", "ICP/USDT:USDT")):
        with reading(db_url) as reader:
            (series,) = (s for s in reader.series() if (s.exchange, s.pair) == (name, pair))
            events, bars = reader.events(series, *FOREVER), reader.bars(series, *FOREVER)
        assert len(events) == 10_000
        assert np.bincount(events.timestamp - first).tolist() == [10] * 1000
        assert bars.timestamp.tolist() == [start]
        assert [bars.long[0], bars.short[0]] == usd
        assert [bars.long_count[0], bars.short_count[0]] == [5000.0, 5000.0]
    assert (collector.written, collector.repeated, collector.late) == (20_000, 0, 0)


# --- lost connections -----------------------------------------------------------------------------


def sessions(collector: Collector) -> int:
    return min(feed.counts["lost"] for feed in collector.feeds)


def tasks(collector: Collector) -> int:
    return len(asyncio.all_tasks(collector._loop))


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_twenty_lost_connections_leave_nothing_behind_and_lose_nothing(exchange, db_url):
    yesterday = exchange.now() - 86_400_000
    exchange.replayed = [liquidation_order("ETH-USDT-SWAP", "long", 2500.5, 4, yesterday)]
    counted: dict[str, list[int]] = {"tasks": [], "files": [], "memory": []}
    twins = exchange.now()
    with running(plan(exchange, db_url, *ALL, inverse=True)) as collector:
        for lost in range(21):
            # One event of its own in each session; twins in the first, one of them again in others.
            for name, channel in FEEDS:
                send(exchange, name, channel, "long", 1 + lost, exchange.now())
                for _ in range(1 if lost else 2):
                    if name != "hyperliquid":  # numbers its trades: another one is another
                        send(exchange, name, channel, "short", 1, twins)
            until(lambda expected=6 * (lost + 1) + 10 + 1: number(db_url) == expected)
            if lost == 10:
                tracemalloc.start()
            if lost in (10, 20):
                gc.collect()
                counted["tasks"].append(tasks(collector))
                counted["files"].append(len(os.listdir("/dev/fd")))
                counted["memory"].append(tracemalloc.get_traced_memory()[0])
            if lost == 20:
                break
            before = sessions(collector)
            for name in ALL:
                exchange.cut(name) if lost % 2 else exchange.close(name)
            until(lambda before=before: sessions(collector) > before)
            until(lambda: listens(collector))
            until(lambda: all(exchange.connections(*feed) == 1 for feed in FEEDS))
        tracemalloc.stop()
        assert all(feed.counts["lost"] == 20 for feed in collector.feeds)
    until(lambda: not any(map(exchange.connections, ALL)))
    # 60 sessions; their caches take 0.3 MB once, a forgotten connection would take more each.
    for name, most in (("tasks", 2), ("files", 2), ("memory", 1_500_000)):
        before, after = counted[name]
        assert after - before <= most, counted
    found = stored(db_url)
    for (name, channel), (_, pair, unit) in FEEDS.items():
        events = found[name, pair]
        longs = events.value_usd[events.side == LONG]
        np.testing.assert_allclose(sorted(longs), [unit * size for size in range(1, 22)])
        assert (events.side == SHORT).sum() == (0 if name == "hyperliquid" else 2)
        # Every moment since the first is either covered or a gap with its reason.
        holes = gaps(db_url, name, channel)
        assert [reason for _, _, reason in holes] == ["reconnect"] * 20
        covered = coverage(db_url, name, pair)
        pieces = sorted([*covered, *([start, end] for start, end, _ in holes)])
        ends = [end for _, end in pieces[:-1]]
        assert [start for start, _ in pieces[1:]] == ends
    # The old order that OKX repeats to each subscriber is one order.
    assert len(found["okx", "ETH/USDT:USDT"]) == 1


def test_half_a_frame_and_no_frame_at_all_cost_a_connection_and_nothing_else(
    exchange, db_url, prompt
):
    with running(plan(exchange, db_url, "binance")) as collector:
        # The head of a text frame of 126 bytes or more, and some of it; then a reserved opcode.
        for bad in (b"\x81\x7e\x01\x00" + b'{"e":"forceOrder","E":17', b"\x83\x02hi"):
            before = sessions(collector)
            for line in list(exchange._feeds["binance", "linear"].lines):
                exchange._do(lambda line=line, bad=bad: line.transport.write(bad))
            if bad[0] == 0x81:
                time.sleep(0.1)
                exchange.cut("binance")
            until(lambda before=before: sessions(collector) > before)
            until(lambda: listens(collector) and exchange.connections("binance"))
        send(exchange, "binance", "linear", "long", 3, exchange.now())
        until(lambda: number(db_url) == 1)
    assert reasons(db_url, "binance", "linear") == ["reconnect", "reconnect"]


def test_garbage_between_good_frames_is_counted_and_logged_once(exchange, db_url, caplog):
    garbage = [
        "{half", "{half a frame}", "", "nonsense", "[]", "{}", "null", b"\xff\xfe\x00",
        "[" * 100_000, '{"e":"forceOrder"}', '{"topic":"allLiquidation.BTCUSDT","data":5}',
        '{"arg":{"channel":"liquidation-orders"},"data":[{}]}', '{"channel":"userFills"}',
        '{"x":"' + "y" * 1_000_000 + '"}',
    ]  # fmt: skip
    with running(plan(exchange, db_url, *ALL, inverse=True)) as collector:
        for round_ in range(3):
            for name, channel in FEEDS:
                for one in garbage:
                    exchange.send(name, channel, one)
                    send(exchange, name, channel, "long", 1, exchange.now() - 60 * MINUTE * round_)
        until(lambda: number(db_url) == 3 * len(FEEDS) * len(garbage), 20)
        assert sessions(collector) == 0
        for feed in collector.feeds:
            assert feed.counts["frames"] >= 2 * 3 * len(garbage)
            # Not told as a problem: pings are answered by text, some with the kind of the others.
            assert feed.problems.total() >= 3 * (len(garbage) - 3), feed.problems
            told = [
                one.message
                for one in caplog.records
                if one.levelno >= logging.WARNING and one.message.startswith(f"{feed.name}: ")
            ]
            assert len(told) == len(feed.problems)
            assert any("received: {half" in text for text in told)
            assert all(len(text) < 1500 for text in told)


def test_frames_with_wrong_bytes_never_stop_the_loop(exchange, db_url):
    random = np.random.default_rng(1)
    old = utc("2026-01-01")
    with running(plan(exchange, db_url, *ALL, inverse=True)) as collector:
        for name, channel in FEEDS:
            good = orjson.dumps(BUILDERS[name](FEEDS[name, channel][0], "long", 123.5, 7, old))
            frames = []
            for _ in range(300):
                frame = bytearray(good)
                for place in random.integers(0, len(good), random.integers(1, 4)):
                    frame[place] = random.integers(0, 256)
                frames.append(bytes(frame[: random.choice([len(good), len(good) // 2])]))
            exchange.burst(name, channel, frames)
            send(exchange, name, channel, "short", 1, exchange.now())
        until(lambda: all(feed.counts["frames"] >= 300 for feed in collector.feeds))
        until(
            lambda: (
                len(stored(db_url)) >= len(FEEDS)
                and all(
                    stored(db_url)[name, pair].side.any()
                    for (name, _), (_, pair, _) in FEEDS.items()
                )
            )
        )
        assert sessions(collector) == 0


def test_one_message_from_the_future_closes_no_minute(exchange, db_url, monkeypatch, prompt):
    end = set_clocks(monkeypatch, exchange, 5)
    with running(plan(exchange, db_url, "bybit")) as collector:
        hour = exchange.now() + 60 * MINUTE
        frame = all_liquidation("ICPUSDT", "long", 100.0, 1, exchange.now(), hour)
        assert exchange.send("bybit", "linear", frame) == 1
        until(lambda: number(db_url) == 1)
        time.sleep(0.3)
        send(exchange, "bybit", "linear", "long", 2, exchange.now())
        until(lambda: number(db_url) == 2)
        assert collector.late == 0
    with reading(db_url) as reader:
        assert [feed.sealed for feed in reader.feeds()] == [end - MINUTE]
    ((_, last),) = coverage(db_url, "bybit", "ICP/USDT:USDT")
    assert last < exchange.now() + 3_000


def test_an_exchange_that_refuses_handshakes_is_asked_until_it_answers(exchange, db_url, caplog):
    exchange.refuse("binance")
    with running(plan(exchange, db_url, "binance", "bybit"), wait=False) as collector:
        until(lambda: exchange.dials("binance") >= 3)
        until(lambda: feed_of(collector, "bybit", "linear").live)  # it costs the others nothing
        exchange.refuse("binance", False)
        until(lambda: listens(collector))
        exchange.refuse("binance", status=0)
        exchange.cut("binance")
        before = exchange.dials("binance")
        until(lambda: exchange.dials("binance") >= before + 2)
        exchange.refuse("binance", False)
        until(lambda: listens(collector))
        send(exchange, "binance", "linear", "short", 1, exchange.now())
        until(lambda: number(db_url) == 1)
    assert reasons(db_url, "binance", "linear") == ["reconnect"]
    assert reasons(db_url, "bybit", "linear") == []
    assert "503" in caplog.text


def test_one_refused_symbol_costs_only_itself(exchange, db_url, caplog):
    exchange.unknown = {"ETHUSDT"}
    with running(plan(exchange, db_url, "bybit")) as collector:
        topics = [name for name in exchange.subscribed("bybit") if "allLiquidation" in name]
        wanted = ["1000PEPE", "BTC", "ICP", "MARSCOIN", "PIPPIN"]
        assert topics == [f"allLiquidation.{base}USDT" for base in wanted]
        assert sum("ETHUSDT can't be subscribed" in text for text in caplog.messages) == 1
        exchange.cut("bybit")
        until(lambda: sessions(collector) == 1)
        until(lambda: listens(collector))
        send(exchange, "bybit", "linear", "long", 1, exchange.now())
        until(lambda: number(db_url) == 1)
        assert sum("can't be subscribed" in text for text in caplog.messages) == 1
    with reading(db_url) as reader:
        assert "ETH/USDT:USDT" not in [s.pair for s in reader.series()]


def test_a_contract_that_is_listed_later_is_learned_with_its_first_order(
    exchange, db_url, monkeypatch
):
    monkeypatch.setattr(collector_module, "LOOK", 0.1)
    exchange.delisted = {"ILVUSDT"}
    with running(plan(exchange, db_url, "binance")):
        exchange.delisted = set()
        order = force_order("ILVUSDT", "long", 4.0, 25, exchange.now())
        assert exchange.send("binance", "linear", order) == 1
        until(lambda: number(db_url) == 1)
    assert stored(db_url)["binance", "ILV/USDT:USDT"].value_usd.tolist() == [100.0]


def test_a_clock_that_jumps_ends_what_was_proven_by_it(
    exchange, db_url, monkeypatch, caplog, prompt
):
    monkeypatch.setattr(collector_module, "LOOK", 0.1)
    with running(plan(exchange, db_url, "okx")) as collector:
        time.sleep(0.3)
        before = exchange.now()
        set_clock(monkeypatch, 30_000)
        until(lambda: sessions(collector) == 1)
        until(lambda: listens(collector))
        send(exchange, "okx", "swap", "long", 1, exchange.now())
        until(lambda: number(db_url) == 1)
    ((start, _, reason),) = gaps(db_url, "okx", "swap")
    assert reason == "clock"
    assert start <= before
    assert "clock jumped by +30.0 s" in caplog.text


# --- silence --------------------------------------------------------------------------------------


def test_a_peer_that_is_dead_without_a_close_is_noticed_and_not_covered(
    exchange, db_url, monkeypatch, prompt
):
    assert feed_module.SILENT[1] + 5 <= 30  # what is shortened here, in seconds
    monkeypatch.setattr(feed_module, "SILENT", (0.5, 1.0))
    monkeypatch.setattr(feed_module, "ACKNOWLEDGE", 0.5)
    with running(plan(exchange, db_url, *ALL, inverse=True)) as collector:
        time.sleep(0.3)  # longer than any delay in publishing: then there is something to cover
        dead = exchange.now()
        for name in ALL:
            exchange.stall(name)
        until(lambda: sessions(collector) >= 1, 5)
        before = sum(map(exchange.dials, ALL))
        until(lambda: sum(map(exchange.dials, ALL)) >= before + len(FEEDS))  # in vain
        back = exchange.now()
        for name in ALL:
            exchange.stall(name, False)
        until(lambda: listens(collector), 10)
        for name, channel in FEEDS:
            send(exchange, name, channel, "long", 1, exchange.now())
        until(lambda: number(db_url) == len(FEEDS))
        time.sleep(0.3)
    for (name, channel), (_, pair, _) in FEEDS.items():
        before, *_, after = coverage(db_url, name, pair)
        assert before[1] <= dead
        assert after[0] >= back
        (hole,) = gaps(db_url, name, channel)
        assert hole == (before[1], after[0], "silence")


def test_a_feed_that_ticks_but_says_nothing_is_noticed_and_its_silence_taken_back(
    exchange, db_url, monkeypatch, caplog, prompt
):
    end = set_clocks(monkeypatch, exchange, 58)
    monkeypatch.setattr(collector_module, "LOOK", 0.1)
    monkeypatch.setattr(silence, "SHORTEST", 4_000)
    with running(plan(exchange, db_url, "binance", "bybit", "okx")) as collector:
        binance, bybit, okx = [
            feed_of(collector, name, CHANNELS[name][0]) for name in ("binance", "bybit", "okx")
        ]
        hours_ago = [end - 5 * 60 * MINUTE + i * MINUTE for i in range(20)]
        for minute in hours_ago:  # Bybit usually has three for each one of the others
            binance.activity.add(minute, 0)
            bybit.activity.add(minute, 30)
            okx.activity.add(minute, 10)
        # Binance has 200 in 4 s at this time of the day; the others have no rate for it.
        for hours in (24, 25):
            binance.activity.add(end - hours * 60 * MINUTE, 3_000)
        exchange.mute("binance")
        exchange.mute("bybit")
        send(exchange, "okx", "swap", "long", 1, exchange.now())
        heard = exchange.now()
        wait_for(exchange, end + 1500)
        # The minute is over, and by now it counts as observed.
        until(lambda: coverage(db_url, "bybit", "ICP/USDT:USDT")[-1][1] > heard)
        assert coverage(db_url, "binance", "BTC/USDT:USDT")[-1][1] > heard
        okx.activity.add(end, 7)
        until(lambda: binance.counts["lost"] and bybit.counts["lost"])
        until(lambda: listens(collector))
        assert okx.counts["lost"] == 0
        exchange.mute("binance", False)
        exchange.mute("bybit", False)
        again = exchange.now()
        monkeypatch.setattr(silence, "SHORTEST", MINUTE)
        for name in ("binance", "bybit"):
            send(exchange, name, "linear", "long", 1, again)
        until(lambda: number(db_url) == 3)
        time.sleep(0.3)
    for name, pair in (("binance", "BTC/USDT:USDT"), ("bybit", "ICP/USDT:USDT")):
        ((start, stop, reason),) = gaps(db_url, name, "linear")
        assert reason == "silence"
        assert start <= heard
        assert end + 1500 < stop <= again
        for begin, finish in coverage(db_url, name, pair):
            assert finish <= start or begin >= stop
    assert gaps(db_url, "okx", "swap") == []
    assert "binance linear: no liquidation for" in caplog.text
    assert "while other exchanges published 7, of which it usually has 21" in caplog.text


# --- clocks and minutes ---------------------------------------------------------------------------


def test_a_clock_that_is_off_is_reported_once(exchange, db_url, monkeypatch, caplog):
    monkeypatch.setattr(feed_module, "JUDGE_CLOCK", 0.3)
    exchange.clock_offset_ms = 5_000
    with running(plan(exchange, db_url, "okx", "bybit")):
        until(lambda: caplog.text.count("our clock is behind that of the exchange by 5.0 s") == 2)
        exchange.clock_offset_ms = -5_000
        until(lambda: caplog.text.count("our clock is ahead of that of the exchange by ") == 2)
        time.sleep(0.7)
    assert caplog.text.count("our clock is") == 4


def test_a_minute_is_closed_and_what_comes_later_is_kept_apart(exchange, db_url, monkeypatch):
    end = set_clocks(monkeypatch, exchange, 57)
    monkeypatch.setattr(feed_module, "SILENT", (25.0, 25.0))
    monkeypatch.setattr(adapter("binance"), "DELAY", 100)
    with running(plan(exchange, db_url, "binance", "okx", inverse=True)) as collector:
        time.sleep(0.5)
        begun = exchange.now()
        send(exchange, "binance", "linear", "long", 1, begun)
        # From now on no tick proves COIN-M's path, until the minute is over and read.
        exchange.mute("binance", channel="inverse", ticks=False)
        send(exchange, "okx", "swap", "long", 1, begun)
        wait_for(exchange, end + 900)
        with reading(db_url) as reader:  # OKX's orders may be a second late
            sealed = {(f.exchange, f.channel): f.sealed for f in reader.feeds()}
        assert sealed["okx", "swap"] == end - MINUTE
        wait_for(exchange, end + 1_500)
        with reading(db_url) as reader:
            assert [feed.sealed for feed in reader.feeds()] == [end] * 3
        exchange.mute("binance", False, channel="inverse")
        send(exchange, "binance", "linear", "short", 2, end - 500)
        send(exchange, "binance", "linear", "short", 4, end)
        until(lambda: number(db_url) == 4)
        assert collector.late == 1
        until(lambda: feed_of(collector, "binance", "inverse").watermark > end)
    with reading(db_url) as reader:
        feeds = {(f.exchange, f.channel): f.id for f in reader.feeds()}
        spans = reader.listened()
        (series,) = (s for s in reader.series() if s.exchange == "binance" and s.base == "BTC"
                     and s.pair == "BTC/USDT:USDT")  # fmt: skip
        source = reader.source(series, *FOREVER)
    assert source.bars.timestamp.tolist() == [end - MINUTE, end]
    assert source.bars.long.tolist() == [100.0, 0.0]
    assert source.bars.short.tolist() == [0.0, 400.0]
    assert source.late.events.timestamp.tolist() == [end - 500]
    assert source.late.known.tolist() == [end + MINUTE]
    # The minute's own candle never learns of it; one of two minutes, that closed afterwards, does.
    for opens, short in (([end - MINUTE], 0.0), ([end - 2 * MINUTE], 0.0)):
        candles = source_candles(source, np.array(opens), np.array([end]))
        assert (candles.long[0], candles.short[0]) == (100.0, short)
    two = source_candles(source, np.array([end - MINUTE]), np.array([end + MINUTE]))
    assert (two.long[0], two.short[0]) == (100.0, 600.0)
    # COIN-M's path was proven afterwards, too late for the candle that was read by then.
    early, late, after = spans[feeds["binance", "inverse"]].tolist()
    assert early[1:] == [late[0], 0]
    assert late[1:] == [end, end + MINUTE]
    assert after[0] == end
    assert after[2] == 0
    # OKX's was proven in time.
    assert all(known == 0 for _, _, known in spans[feeds["okx", "swap"]].tolist())


def test_a_pair_that_is_wanted_later_is_told_from_then_on(exchange, db_url, prompt):
    with running(plan(exchange, db_url, "bybit", "okx", bases={"BTC"})) as collector:
        topics = exchange.subscribed("bybit")
        assert topics == ["allLiquidation.BTCUSDT", "tickers.BTCUSDT"]
        order = BUILDERS["okx"]("ETH-USDT-SWAP", "long", 100.0, 1, exchange.now())
        assert exchange.send("okx", "swap", order) == 1  # nobody wants it yet
        time.sleep(0.3)
        wanted = exchange.now()
        collector.want(frozenset({"BTC", "ETH"}), ("bybit", "okx"))
        until(lambda: "allLiquidation.ETHUSDT" in exchange.subscribed("bybit"))
        assert exchange.dials("bybit", "linear") == 1
        until(lambda: len(series_of(db_url)) == 4)
        for name, symbol in (("bybit", "ETHUSDT"), ("okx", "ETH-USDT-SWAP")):
            channel = CHANNELS[name][0]
            order = BUILDERS[name](symbol, "short", 100.0, 1, exchange.now())
            assert exchange.send(name, channel, order) == 1
        until(lambda: number(db_url) == 2)
        time.sleep(0.3)
        collector.want(None, ("bybit", "okx"))
        until(lambda: len(exchange.subscribed("bybit")) == 7)
        assert exchange.dials("bybit", "linear") == 1
    for name in ("bybit", "okx"):
        ((first, last),) = coverage(db_url, name, "BTC/USDT:USDT")
        assert first < wanted
        ((start, end),) = coverage(db_url, name, "ETH/USDT:USDT")
        assert wanted - 2 < start < wanted + 1000  # clocks are as exact as a ms
        assert end == last


def series_of(db_url: str) -> list[str]:
    with reading(db_url) as reader:
        return [f"{series.exchange} {series.pair}" for series in reader.series()]


# --- stopped, locked, filled in -------------------------------------------------------------------


def test_a_new_start_notes_the_time_between_and_okx_fills_it(exchange, db_url, monkeypatch, prompt):
    monkeypatch.setattr(collector_module, "BEHIND", 0)
    end = set_clocks(monkeypatch, exchange, 55)
    hour = 60 * MINUTE
    old = [order_detail("long", 100.0, size, end - size * hour) for size in (1, 2, 3)]
    exchange.okx_orders = {"BTC-USDT-SWAP": old}
    both = plan(exchange, db_url, "binance", "okx", bases={"BTC"})
    with running(both):
        # What OKX still has of the hours before the start is there before the first candle.
        until(lambda: number(db_url) == 3)
        assert coverage(db_url, "okx", "BTC/USDT:USDT")[0][0] == end - 3 * hour
        time.sleep(0.3)
    stopped = exchange.now()
    with reading(db_url) as reader:
        assert [feed.updated for feed in reader.feeds()] == [0, 0]  # who stands by may begin
    time.sleep(0.3)
    with running(both) as collector:
        started = exchange.now()
        until(lambda: gaps(db_url, "binance", "linear"))
        ((start, stop, reason),) = gaps(db_url, "binance", "linear")
        assert reason == "start"
        assert start < stopped < stop <= started
        assert coverage(db_url, "binance", "BTC/USDT:USDT")[-1][1] == start
        exchange.cut("okx")
        cut = exchange.now()
        until(lambda: sessions_of(collector, "okx") == 1)
        until(lambda: listens(collector))
        # It was liquidated while nobody listened, and once more just before: known already.
        send(exchange, "okx", "swap", "short", 9, cut - 1)
        exchange.okx_orders["BTC-USDT-SWAP"] = [
            *old, order_detail("long", 100.0, 7, cut), order_detail("short", 100.0, 9, cut - 1)
        ]  # fmt: skip
        until(lambda: number(db_url) == 5, 12)
        time.sleep(0.3)
    events = stored(db_url)["okx", "BTC/USDT:USDT"]
    # A contract is 0.01 BTC, so at 100 USD worth one.
    assert sorted(events.value_usd.tolist()) == [1.0, 2.0, 3.0, 7.0, 9.0]
    with reading(db_url) as reader:
        (series,) = (s for s in reader.series() if s.exchange == "okx")
        late = reader.source(series, *FOREVER).late
    # It came by the answer some seconds later, after the minute was closed.
    assert late.events.value_usd.tolist() == [7.0]
    assert late.known.tolist() == [end + MINUTE]
    assert late.coverage[:, 2].tolist() == [end + MINUTE] * len(late.coverage)
    assert len(late.coverage) >= 1


def sessions_of(collector: Collector, name: str) -> int:
    return feed_of(collector, name, CHANNELS[name][0]).counts["lost"]


def test_a_store_that_another_locks_for_three_seconds_costs_nothing(exchange, tmp_path, caplog):
    # One collector waits for it, the other gives up after 0.3 s, and tries again each second.
    urls = [f"sqlite:///{tmp_path / name}" for name in ("waits.sqlite", "tries.sqlite")]
    with (
        running(plan(exchange, urls[0], "binance")) as waits,
        running(plan(exchange, f"{urls[1]}?timeout=0.3", "binance")) as tries,
        closing(sqlite3.connect(tmp_path / "waits.sqlite", isolation_level=None)) as one,
        closing(sqlite3.connect(tmp_path / "tries.sqlite", isolation_level=None)) as other,
    ):
        for locker in (one, other):
            locker.execute("BEGIN IMMEDIATE")
        freed = time.monotonic() + 3
        for size in range(1, 31):
            payload = force_order("BTCUSDT", "long", 100.0, size, exchange.now())
            assert exchange.send("binance", "linear", payload) == 2
            time.sleep(0.1)
        for collector in (waits, tries):  # the loop goes on meanwhile
            assert collector.feeds[0].counts["events"] >= 29
            assert collector.written == 0
        time.sleep(max(0.0, freed - time.monotonic()))
        for locker in (one, other):
            locker.execute("ROLLBACK")
        until(lambda: waits.written == tries.written == 30)
        assert sessions(waits) == sessions(tries) == 0
    for url in urls:
        usd = stored(url)["binance", "BTC/USDT:USDT"].value_usd
        assert sorted(usd.tolist()) == [100.0 * size for size in range(1, 31)]
    warnings = [one.message for one in caplog.records if one.levelno >= logging.WARNING]
    assert ["locked" in text for text in warnings] == [True]  # said once
    assert "tries.sqlite" in caplog.text


def test_what_is_given_up_for_want_of_a_store_is_told_and_not_covered(
    exchange, db_url, monkeypatch, caplog, prompt
):
    monkeypatch.setattr(collector_module, "MOST_WAITING", 10)
    with running(plan(exchange, f"{db_url}?timeout=0.1", "okx")) as collector:
        time.sleep(0.3)
        path = db_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            times = []
            for _ in range(30):
                times.append(max(exchange.now(), (times or [0])[-1] + 1))
                send(exchange, "okx", "swap", "long", 1, times[-1])
            until(lambda: collector.feeds[0].counts["given up"] == 20)
            other.execute("ROLLBACK")
        until(lambda: number(db_url) == 10)
        until(lambda: collector.feeds[0].watermark > times[-1])
    assert stored(db_url)["okx", "BTC/USDT:USDT"].timestamp.tolist() == times[20:]
    ((start, end, reason),) = gaps(db_url, "okx", "swap")
    assert reason == "error"
    assert start <= times[0]
    assert end == times[19] + 1
    ((first, _),) = coverage(db_url, "okx", "BTC/USDT:USDT")
    assert first == end
    assert "20 liquidations were given up" in caplog.text


def test_what_has_gathered_for_long_is_written_piece_by_piece(
    exchange, db_url, monkeypatch, prompt
):
    monkeypatch.setattr(collector_module, "MOST_AT_ONCE", 4)
    sizes, commit = [], Collector._commit

    def noted(self, works):
        commit(self, works)
        sizes.append(sum(len(work.orders) for _, work in works))

    monkeypatch.setattr(Collector, "_commit", noted)
    with running(plan(exchange, f"{db_url}?timeout=0.1", "okx")) as collector:
        time.sleep(0.3)
        path = db_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            times = []
            for _ in range(30):
                times.append(max(exchange.now(), (times or [0])[-1] + 1))
                send(exchange, "okx", "swap", "long", 1, times[-1])
            until(lambda: collector.feeds[0].counts["events"] == 30)
            time.sleep(0.5)
            other.execute("ROLLBACK")
        until(lambda: number(db_url) == 30)
        until(lambda: collector.feeds[0].watermark > times[-1])
    assert stored(db_url)["okx", "BTC/USDT:USDT"].timestamp.tolist() == times
    assert sum(sizes) == 30
    assert max(sizes) <= 4
    ((first, last),) = coverage(db_url, "okx", "BTC/USDT:USDT")
    assert first <= times[0] < times[-1] < last


# --- inside a bot ---------------------------------------------------------------------------------


def config(exchange: Loopback, db_url: str, *names: str, **section: Any) -> dict[str, Any]:
    configs = {name: exchange.ccxt_config(name) for name in names}
    return {
        "exchange": {"name": names[0], "pair_whitelist": ["BTC/USDT:USDT", ".*/USDT:USDT"]},
        "liquidations": {
            "db_url": db_url, "exchanges": list(names), "ccxt_config": configs, **section
        },
    }  # fmt: skip


def start(given: dict[str, Any]) -> Settings:
    settings = read_settings(given)
    live.start(given, settings)
    return settings


@pytest.fixture
def bot() -> Iterator[None]:
    yield
    live.stop_all()


def test_a_bot_that_is_reloaded_keeps_its_connection(exchange, db_url, bot):
    def topics() -> list[str]:
        return [name for name in exchange.subscribed("bybit") if "allLiquidation" in name]

    settings = start(config(exchange, db_url, "bybit"))
    until(lambda: topics() == ["allLiquidation.BTCUSDT"])
    threads = threading.active_count()
    for _ in range(3):
        start(config(exchange, db_url, "bybit"))
    given = config(exchange, db_url, "bybit")
    for pair in ("ETH/USDT:USDT", "BTC/USDT:USDT"):
        live.start(given, settings, pair)
    until(lambda: topics() == ["allLiquidation.BTCUSDT", "allLiquidation.ETHUSDT"])
    assert threading.active_count() == threads
    assert exchange.dials("bybit") == exchange.connections("bybit") == 1
    # Other settings are another collector in its place, and so are others to connect with.
    start(config(exchange, db_url, "bybit", settle=2))
    until(lambda: exchange.dials("bybit") == 2)
    until(lambda: topics() and exchange.connections("bybit") == 1)
    before = time.monotonic()
    live.stop_all()
    assert time.monotonic() - before < 2
    until(lambda: exchange.connections("bybit") == 0, 1)
    start(config(exchange, db_url, "bybit", collect=False))
    time.sleep(0.2)
    assert exchange.dials("bybit") == 2


def test_strategies_that_want_other_exchanges_share_one_collector(exchange, db_url, bot):
    # One after the other, with no moment in between for the first to begin.
    for names in (("bybit",), ("bybit", "okx"), ("bybit", "binance")):
        given = config(exchange, db_url, *names)
        given["liquidations"]["ccxt_config"] = {name: exchange.ccxt_config(name) for name in ALL}
        start(given)
    for name in ("bybit", "okx", "binance"):
        until(lambda name=name: exchange.connections(name) == 1)
    time.sleep(0.3)
    assert [exchange.dials(name) for name in ("bybit", "okx", "binance")] == [1, 1, 1]


def test_a_bot_leaves_an_exchange_to_another_collector_until_that_is_gone(
    exchange, db_url, bot, monkeypatch, caplog, prompt
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(collector_module, "LOOK", 0.1)
    with running(plan(exchange, db_url, "binance")):
        send(exchange, "binance", "linear", "long", 1, exchange.now())
        until(lambda: number(db_url) == 1)
        start(config(exchange, db_url, "binance", "okx"))
        until(lambda: exchange.connections("okx") == 1)  # nobody else collects that
        until(lambda: "binance: another collector writes to this store" in caplog.text)
        time.sleep(0.4)  # then there is something that was covered, for a gap to begin at
        assert exchange.dials("binance") == 1
    until(lambda: exchange.dials("binance") == 2)
    until(lambda: "forceOrder" in str(exchange.subscribed("binance")))
    until(lambda: "binance linear: listening to 1 contract" in caplog.text)
    send(exchange, "binance", "linear", "short", 2, exchange.now())
    until(lambda: number(db_url) == 2)
    until(lambda: reasons(db_url, "binance", "linear") == ["start"])


def test_a_collector_that_died_is_succeeded_when_it_has_not_written_for_a_while(
    exchange, db_url, bot, monkeypatch
):
    monkeypatch.setattr(collector_module, "LOOK", 0.1)
    monkeypatch.setattr(collector_module, "GONE", 1_000)
    with Store(db_url, create=True) as store, store.write() as writer:
        feed = writer.feed("binance", "linear", "binance")
        writer.join(feed, ["BTC/USDT:USDT"], 0)
        writer.seal(feed, 0, exchange.now())
    start(config(exchange, db_url, "binance"))
    time.sleep(0.6)
    assert exchange.dials("binance") == 0
    until(lambda: exchange.connections("binance") == 1)
