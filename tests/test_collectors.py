"""Several collectors of one store, wrong clocks and restarts: each tells what it heard, and when.

Against loopback exchanges as in ``test_collector.py``, whose helpers are used here.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import ON_BOTH
from loopback import BUILDERS, VENUES, Loopback, order_detail
from test_collector import (
    FOREVER,
    bot,  # noqa: F401  (a fixture)
    config,
    coverage,
    exchange,  # noqa: F401  (a fixture)
    feed_of,
    gaps,
    listens,
    number,
    plan,
    prompt,  # noqa: F401  (a fixture)
    reading,
    running,
    send,
    sessions,
    set_clock,
    set_clocks,
    start,
    stored,
    until,
    wait_for,
)

from liquidations import collector as collector_module
from liquidations import feed as feed_module
from liquidations import rows
from liquidations.event import MINUTE
from liquidations.exchanges import adapter
from liquidations.feed import LiveFeed
from liquidations.provider import LiquidationProvider
from liquidations.settings import Settings
from liquidations.store import Store


BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, prompt: None) -> None:  # noqa: F811
    """Look after feeds, and for other collectors, ten times a second."""
    monkeypatch.setattr(collector_module, "LOOK", 0.1)


def has_tables(db_url: str) -> bool:
    """Tell whether a store is there, and no longer being made."""
    if db_url.startswith("sqlite") and not Path(db_url.removeprefix("sqlite:///")).exists():
        return False  # looking would make the file
    engine = sa.create_engine(db_url)
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
    engine.dispose()
    return bool(names)


def told(db_url: str) -> dict[str, list[int]]:
    """Return by pair the numbers of the feeds that tell it now."""
    if not has_tables(db_url):
        return {}
    with reading(db_url) as reader:
        numbers = {feed.id: feed.number for feed in reader.feeds()}
        members = reader.told()
        now = {
            series.pair: sorted(
                numbers[one.feed] for one in members.get(series.id, ()) if one.end == rows.FOREVER
            )
            for series in reader.series()
        }
    return {pair: feeds for pair, feeds in now.items() if feeds}


def publish(exchange: Loopback, name: str, symbol: str, size: float, at: int) -> int:  # noqa: F811
    """Publish a long liquidation at a price of 100; return how many listen to its channel."""
    channel = next(iter(adapter(name).CHANNELS))
    return exchange.send(name, channel, BUILDERS[name](symbol, "long", 100.0, size, at))


def usd(db_url: str, exchange_: str, pair: str) -> list[float]:
    return stored(db_url)[exchange_, pair].value_usd.tolist()


def columns(db_url: str, name: str, pair: str, close: int, *, live: bool = False) -> dict[str, str]:
    """Return the columns of the minute that ends at ``close``, to the last digit."""
    settings = Settings(db_url, (name,), min_coverage=0.001)
    with closing(LiquidationProvider(db_url)) as provider:
        found, _ = provider.columns(pair, np.array([close - MINUTE]), "1m", settings, live=live)
    return {column: repr(float(values[0])) for column, values in found.items()}


# --- several collectors ---------------------------------------------------------------------------


@ON_BOTH
@pytest.mark.parametrize("ends", ["first", "second"])
def test_collectors_with_other_pairs_tell_their_own_ones_only(exchange, db_url, ends):  # noqa: F811
    bases = {"first": "BTC", "second": "ETH"}
    pairs = {"first": BTC, "second": ETH}
    stays = "second" if ends == "first" else "first"
    with ExitStack() as staying, ExitStack() as ending:
        for name, base in bases.items():
            stack = ending if name == ends else staying
            stack.enter_context(running(plan(exchange, db_url, "binance", bases={base})))
            until(lambda name=name: pairs[name] in told(db_url))
        assert told(db_url) == {BTC: [0], ETH: [1]}
        for base in bases.values():
            assert publish(exchange, "binance", f"{base}USDT", 1, exchange.now()) == 2
        until(lambda: number(db_url) == 2)
        time.sleep(0.3)
        ending.close()
        ended = exchange.now()
        time.sleep(0.5)  # nobody listens to what the other one told
        for base in bases.values():
            assert publish(exchange, "binance", f"{base}USDT", 2, exchange.now()) == 1
        until(lambda: number(db_url) == 3)
        until(lambda: coverage(db_url, "binance", pairs[stays])[-1][1] > ended + 300)
    assert usd(db_url, "binance", pairs[stays]) == [100.0, 200.0]
    assert usd(db_url, "binance", pairs[ends]) == [100.0]
    ((_, last),) = coverage(db_url, "binance", pairs[ends])
    assert last <= ended
    assert len(coverage(db_url, "binance", pairs[stays])) == 1


@ON_BOTH
def test_collectors_with_the_same_pair_count_each_order_once(exchange, db_url):  # noqa: F811
    given = plan(exchange, db_url, "binance", bases={"BTC"})
    with running(given) as one:
        with running(given) as other:
            until(lambda: told(db_url) == {BTC: [0, 1]})
            at = exchange.now()
            for size in (1, 2, 2):  # the last two are equal, and two
                assert publish(exchange, "binance", "BTCUSDT", size, at) == 2
            until(lambda: one.written + other.written == 3 == one.repeated + other.repeated)
        assert publish(exchange, "binance", "BTCUSDT", 4, exchange.now()) == 1
        until(lambda: number(db_url) == 4)
    assert sorted(usd(db_url, "binance", BTC)) == [100.0, 200.0, 200.0, 400.0]
    with reading(db_url) as reader:
        (series,) = reader.series()
        assert reader.bars(series, *FOREVER).long.sum() == 900.0
    assert len(coverage(db_url, "binance", BTC)) == 1


@ON_BOTH
@pytest.mark.parametrize(("wanted", "dials"), [({"ETH"}, 2), ({"BTC", "ETH"}, 2), ({"BTC"}, 1)])
def test_who_stands_by_collects_what_the_other_does_not_tell(
    exchange, db_url, caplog, wanted, dials  # noqa: F811
):  # fmt: skip
    with running(plan(exchange, db_url, "binance", bases={"BTC"})):
        until(lambda: told(db_url) == {BTC: [0]})
        standby = plan(exchange, db_url, "binance", bases=wanted, standby=True)
        with running(standby, wait=dials == 2) as other:
            if dials == 1:
                until(lambda: "another collector writes to this store" in caplog.text)
                time.sleep(0.3)
                assert other.feeds == []
                # A strategy asks for one that nobody tells.
                other.want(frozenset({"BTC", "ETH"}), ("binance",))
                until(lambda: listens(other))
            until(lambda: ETH in told(db_url))
            assert publish(exchange, "binance", "ETHUSDT", 3, exchange.now()) == 2
            until(lambda: number(db_url) == 1)
    assert usd(db_url, "binance", ETH) == [300.0]


@ON_BOTH
def test_who_took_over_ends_nothing_of_the_one_that_comes_back(exchange, db_url):  # noqa: F811
    market = plan(exchange, db_url, "binance")
    standby = plan(exchange, db_url, "binance", bases={"BTC"}, standby=True)
    with ExitStack() as stack:
        with running(market):
            until(lambda: len(told(db_url)) == 6)
            other = stack.enter_context(running(standby, wait=False))
            time.sleep(0.3)
            assert other.feeds == []
        until(lambda: listens(other))
        until(lambda: told(db_url) == {BTC: [0]})  # what it does not tell has ended
        with running(market) as back:
            until(lambda: told(db_url).get(ETH) == [1])
            assert told(db_url)[BTC] == [0, 1]
            before = sessions(other)
            other._call(lambda: other.feeds[0]._fail(ConnectionError("it is cut")))
            until(lambda: sessions(other) > before and listens(other))
            time.sleep(0.3)
            assert told(db_url)[ETH] == [1]
            again = exchange.now()
            assert publish(exchange, "binance", "ETHUSDT", 3, again) == 2
            until(lambda: back.written + other.written == 1)
            time.sleep(0.3)
    assert coverage(db_url, "binance", ETH)[-1][1] > again
    assert usd(db_url, "binance", ETH) == [300.0]


@ON_BOTH
def test_who_lost_its_row_goes_on_in_another_one(exchange, db_url, caplog):  # noqa: F811
    with running(plan(exchange, db_url, "binance", bases={"BTC"})):
        time.sleep(0.3)
        assert publish(exchange, "binance", "BTCUSDT", 1, exchange.now()) == 1
        until(lambda: number(db_url) == 1)
        # As if another one had come while this one could not write: it tells ETH, and writes on.
        with Store(db_url) as store, store.write() as writer:
            (row,) = writer.feeds()
            row = replace(row, holder="another", updated=exchange.now() + 60_000)
            writer.join(row, [ETH], exchange.now())
            writer.seal(row, 0, row.updated)
        time.sleep(0.3)
        assert publish(exchange, "binance", "BTCUSDT", 2, exchange.now()) == 1
        until(lambda: number(db_url) == 2)
        assert told(db_url) == {BTC: [1], ETH: [0]}
        assert "another collector took over, both go on" in caplog.text
        stop = exchange.now()
    ((first, last),) = coverage(db_url, "binance", BTC)  # without a hole
    assert first < stop - 500
    assert last > stop - 300
    assert coverage(db_url, "binance", ETH) == []


# --- contracts that are subscribed to by name -----------------------------------------------------


def test_a_symbol_chosen_while_connecting_is_covered_once_it_is_subscribed(
    exchange, db_url, monkeypatch  # noqa: F811
):  # fmt: skip
    asked: list[int] = []
    requests, talk = adapter("bybit").requests, VENUES["bybit"].talk

    def note(exchange: Loopback, line: Any, message: Any) -> list[Any]:
        if "allLiquidation.ETHUSDT" in message.get("args", ()):
            asked.append(exchange.now())
        return talk(exchange, line, message)

    monkeypatch.setattr(VENUES["bybit"], "talk", note)
    with running(plan(exchange, db_url, "bybit", bases={"BTC"})) as collector:
        time.sleep(0.3)

        def choose(channel: str, names: Any) -> Any:
            """Let a strategy ask for one more just when the session's requests are made."""
            monkeypatch.setattr(adapter("bybit"), "requests", requests)
            collector.want(frozenset({"BTC", "ETH"}), ("bybit",))
            return requests(channel, names)

        monkeypatch.setattr(adapter("bybit"), "requests", choose)
        exchange.cut("bybit")
        until(lambda: sessions(collector) == 1)
        until(lambda: "allLiquidation.ETHUSDT" in exchange.subscribed("bybit"))
        assert exchange.dials("bybit", "linear") == 2  # in the same session
        assert publish(exchange, "bybit", "ETHUSDT", 5, exchange.now()) == 1
        until(lambda: number(db_url) == 1)
        time.sleep(0.3)
    ((first, _),) = coverage(db_url, "bybit", ETH)
    assert first >= asked[0] - 10  # two clocks that round to milliseconds
    assert usd(db_url, "bybit", ETH) == [500.0]


def test_a_symbol_that_is_refused_is_never_told(exchange, db_url):  # noqa: F811
    exchange.unknown = {"PIPPINUSDT"}
    with running(plan(exchange, db_url, "bybit", bases={"BTC"})) as collector:
        feed = feed_of(collector, "bybit", "linear")
        collector.want(frozenset({"BTC", "ETH", "PIPPIN"}), ("bybit",))
        until(lambda: feed.ignored == {"PIPPINUSDT"})
        until(lambda: sorted(told(db_url)) == [BTC, ETH])
        exchange.cut("bybit")
        until(lambda: sessions(collector) == 1 and listens(collector))
        assert publish(exchange, "bybit", "ETHUSDT", 1, exchange.now()) == 1
        until(lambda: number(db_url) == 1)
        time.sleep(0.3)
    with reading(db_url) as reader:
        assert [series.pair for series in reader.series()] == [BTC, ETH]
    assert exchange.dials("bybit") == 2


# --- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [30_000, -30_000])
def test_coverage_is_told_in_the_exchange_s_time(exchange, db_url, ahead):  # noqa: F811
    exchange.clock_offset_ms = ahead
    begun = exchange.now()
    with running(plan(exchange, db_url, "binance", bases={"BTC"})) as collector:
        listening = exchange.now()
        time.sleep(0.35)
        exchange.refuse("binance")
        cut = exchange.now()
        exchange.cut("binance")
        time.sleep(0.35)
        exchange.refuse("binance", False)
        back = exchange.now()
        until(lambda: listens(collector))
        again = exchange.now()
        time.sleep(0.35)
        send(exchange, "binance", "linear", "long", 1, exchange.now())
        until(lambda: number(db_url) == 1)
    before, after = coverage(db_url, "binance", BTC)
    assert begun <= before[0] <= listening
    assert cut - 300 < before[1] <= cut  # ticks come each 50 ms, orders within 100 ms
    assert back <= after[0] <= again
    assert again < after[1] <= exchange.now()
    assert gaps(db_url, "binance", "linear") == [(before[1], after[0], "reconnect")]


@pytest.mark.parametrize("ahead", [30_000, -30_000])
def test_who_is_told_and_what_was_silent_is_told_in_the_exchange_s_time(
    exchange, db_url, ahead  # noqa: F811
):  # fmt: skip
    exchange.clock_offset_ms = ahead
    with running(plan(exchange, db_url, "okx", bases={"BTC"})) as collector:
        time.sleep(0.6)
        wanted = exchange.now()
        collector.want(frozenset({"BTC", "ETH"}), ("okx",))
        time.sleep(0.4)
        send(exchange, "okx", "swap", "long", 1, exchange.now())
        until(lambda: number(db_url) == 1)
        last = exchange.now()
        time.sleep(0.6)
        collector._call(lambda: collector.feeds[0].dead("nothing comes"))
        until(lambda: collector.feeds[0].counts["lost"] == 1)
        until(lambda: listens(collector))
        time.sleep(0.3)
    # Before it was wanted its orders were not kept: that it is covered then would be a zero.
    assert wanted - 200 < coverage(db_url, "okx", "ETH/USDT:USDT")[0][0] < last
    ((start, _, reason),) = gaps(db_url, "okx", "swap")
    assert reason == "silence"
    assert wanted < start < last + 200
    assert coverage(db_url, "okx", BTC)[0][1] == start


def test_orders_without_a_tick_keep_no_session(exchange, db_url, monkeypatch):  # noqa: F811
    monkeypatch.setattr(feed_module, "SILENT", (0.5, 0.5))
    with running(plan(exchange, db_url, "okx", bases={"BTC"})) as collector:
        exchange._set("okx", None, ticking=False)  # OKX's orders tell no time of their own
        for size in range(1, 31):
            if collector.feeds[0].counts["lost"]:
                break
            send(exchange, "okx", "swap", "long", size, exchange.now())
            time.sleep(0.1)
        exchange._set("okx", None, ticking=True)
        assert collector.feeds[0].counts["lost"] >= 1
        until(lambda: listens(collector))


def test_hyperliquid_s_clock_is_that_of_its_answers(exchange, db_url, monkeypatch):  # noqa: F811
    monkeypatch.setattr(adapter("hyperliquid"), "DELAY", 1_000)  # its own
    set_clock(monkeypatch, 60_000)
    begun = exchange.now()
    with running(plan(exchange, db_url, "hyperliquid", bases={"BTC"})) as collector:
        time.sleep(1.3)
        assert publish(exchange, "hyperliquid", "BTC", 1, exchange.now()) == 1
        until(lambda: collector.written == 1)
    ((first, last),) = coverage(db_url, "hyperliquid", "BTC/USDC:USDC")
    # HTTP tells whole seconds, so half a second is left.
    assert begun - 700 < first < begun + 2_000
    assert first < last <= exchange.now()
    with reading(db_url) as reader:
        assert [feed.sealed <= exchange.now() for feed in reader.feeds()] == [True]


def test_a_step_of_our_clock_closes_no_minute_to_come(
    exchange, db_url, monkeypatch, caplog  # noqa: F811
):  # fmt: skip
    end = set_clocks(monkeypatch, exchange, 5)
    with running(plan(exchange, db_url, "binance", bases={"BTC"})) as collector:
        time.sleep(0.3)
        for step in (3_600_000, -3_600_000):
            before = sessions(collector)
            set_clock(monkeypatch, step)
            time.sleep(0.8)  # the exchange goes on meanwhile
            until(lambda before=before: sessions(collector) > before)
            until(lambda: listens(collector))
            send(exchange, "binance", "linear", "long", 1 + before, exchange.now())
            until(lambda before=before: number(db_url) == before + 1)
        time.sleep(0.3)
        assert collector.late == 0
    assert caplog.text.count("clock jumped by") == 2
    with reading(db_url) as reader:
        assert [feed.sealed for feed in reader.feeds()] == [end - MINUTE]
    assert coverage(db_url, "binance", BTC)[-1][1] <= exchange.now()
    assert {reason for _, _, reason in gaps(db_url, "binance", "linear")} == {"clock"}


# --- restarts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True], ids=["listened", "was cut off"])
def test_a_bot_that_starts_again_changes_no_candle_that_was_read(
    exchange, db_url, monkeypatch, lost  # noqa: F811
):  # fmt: skip
    monkeypatch.setattr(collector_module, "BEHIND", 0)
    end = set_clocks(monkeypatch, exchange, 59)
    swap = "BTC-USDT-SWAP"
    given = plan(exchange, db_url, "okx", bases={"BTC"}, standby=True)
    with running(given) as collector:
        time.sleep(0.3)
        send(exchange, "okx", "swap", "long", 3, exchange.now())
        until(lambda: number(db_url) == 1)
        if lost:
            exchange.refuse("okx")
            exchange.cut("okx")
            until(lambda: sessions(collector) >= 1)
        # The answer knows of one that the channel did not publish.
        exchange.okx_orders[swap] = [order_detail("long", 100.0, 50, exchange.now())]
        wait_for(exchange, end + 1_500)
        monkeypatch.setattr("liquidations.view.time", Shifted(exchange))
        read = columns(db_url, "okx", BTC, end, live=True)
        assert read["liq_long"] == "3.0"
    stopped = exchange.now()
    time.sleep(0.3)
    exchange.refuse("okx", False)
    exchange.okx_orders[swap].append(order_detail("long", 100.0, 70, stopped))
    with running(given):
        until(lambda: number(db_url) >= 2)
        time.sleep(0.3)
    assert columns(db_url, "okx", BTC, end) == read
    # What nobody had read by then is filled in.
    assert 70.0 in usd(db_url, "okx", BTC)
    assert coverage(db_url, "okx", BTC)[-1][1] > stopped


class Shifted:
    """Stand for the module ``time`` with the exchanges' clock."""

    def __init__(self, exchange: Loopback) -> None:  # noqa: F811
        self._exchange = exchange

    def time_ns(self) -> int:
        return self._exchange.now() * 1_000_000

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def test_a_store_that_is_deleted_under_a_collector_is_made_anew(
    exchange, db_url, caplog  # noqa: F811
):  # fmt: skip
    path = Path(db_url.removeprefix("sqlite:///"))
    with running(plan(exchange, db_url, "binance", bases={"BTC"})) as collector:
        send(exchange, "binance", "linear", "long", 1, exchange.now())
        until(lambda: collector.written == 1)
        for file in path.parent.glob(path.name + "*"):
            file.unlink()
        deleted = exchange.now()
        until(lambda: "is gone or another; it is made anew" in caplog.text)
        until(lambda: told(db_url) == {BTC: [0]})
        send(exchange, "binance", "linear", "long", 2, exchange.now())
        until(lambda: number(db_url) == 1)
        time.sleep(0.3)
        assert sessions(collector) == 0
    assert usd(db_url, "binance", BTC) == [200.0]
    ((first, last),) = coverage(db_url, "binance", BTC)
    assert deleted - 1_000 < first < last


def test_a_feed_that_failed_two_thousand_times_waits_half_a_minute():
    feed = object.__new__(LiveFeed)
    feed._dials = deque()
    assert [feed._pause(failures) for failures in (1, 3, 2_000)] == [0.4, 1.6, 30.0]


def test_a_reload_may_end_the_collection_or_move_it(exchange, db_url, tmp_path, bot):  # noqa: F811
    other = f"sqlite:///{tmp_path / 'other.sqlite'}"
    start(config(exchange, db_url, "binance"))
    until(lambda: exchange.connections("binance") == 1)
    start(config(exchange, db_url, "binance", collect=False))
    until(lambda: exchange.connections("binance") == 0, 3)
    start(config(exchange, db_url, "binance"))
    until(lambda: exchange.connections("binance") == 1)
    start(config(exchange, other, "binance"))
    until(lambda: told(other) == {BTC: [0]})
    until(lambda: exchange.connections("binance") == 1, 3)
    assert exchange.dials("binance") == 3
    until(lambda: updated(db_url) == [0])  # who stands by may begin


def updated(db_url: str) -> list[int]:
    with reading(db_url) as reader:
        return [feed.updated for feed in reader.feeds()]
