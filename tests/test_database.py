"""How PostgreSQL's failures are noticed in time, and what they are called."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import events_of, execute, utc
from numpy.testing import assert_equal

from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE
from liquidations.provider import LiquidationProvider
from liquidations.settings import Settings
from liquidations.store import Store


class Line:
    """Pass bytes on between clients and a server on 127.0.0.1, until it is told to hold them."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._passing = threading.Event()
        self._passing.set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Take all bytes and pass none on: who sends them sees no error."""
        self._passing.clear()

    def go_on(self) -> None:
        self._passing.set()

    def close(self) -> None:
        self._socket.close()
        self.go_on()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source, target:
            while data := source.recv(65_536):
                self._passing.wait()
                target.sendall(data)


def through(db_url: str, **other: object) -> str:
    """Return the URL of a database with other parts."""
    return sa.make_url(db_url).set(**other).render_as_string(hide_password=False)


@pytest.fixture
def line(postgresql_url: str) -> Iterator[Line]:
    Store(postgresql_url, create=True).close()
    made = Line(sa.make_url(postgresql_url).port or 5432)
    yield made
    made.close()


def test_a_peer_that_says_nothing_is_noticed_in_time_and_found_again(line, postgresql_url):
    with Store(through(postgresql_url, port=line.port), patience=1.0) as store:
        assert store.fingerprint()
        line.hold()
        begin = time.monotonic()
        with pytest.raises(LiquidationsError, match="did not answer in time; try again"):
            store.fingerprint()
        assert 0.9 < time.monotonic() - begin < 4
        line.go_on()
        assert store.fingerprint()


def test_a_peer_that_says_nothing_at_the_end_of_a_transaction_is_noticed_too(line, postgresql_url):
    def ask_and_hold(opened: Any) -> None:
        with opened() as one:
            one.feeds()
            line.hold()

    with Store(through(postgresql_url, port=line.port), patience=1.0) as store:
        begin = time.monotonic()
        for opened in (store.read, store.write):
            with pytest.raises(LiquidationsError, match="did not answer in time"):
                ask_and_hold(opened)
            line.go_on()
        assert time.monotonic() - begin < 5
        with store.read() as reader:
            assert reader.feeds() == []


def test_a_peer_that_is_slow_is_waited_for(line, postgresql_url):
    with Store(through(postgresql_url, port=line.port)) as store:
        line.hold()
        threading.Timer(2.0, line.go_on).start()
        assert store.fingerprint()
        begin = time.monotonic()
        with store.transaction(write=False) as connection:
            connection.execute(sa.select(sa.func.pg_sleep(1.5)))
        assert time.monotonic() - begin >= 1.5


def test_work_between_two_statements_takes_as_long_as_it_takes(postgresql_url):
    with Store(postgresql_url, create=True, patience=0.5) as store, store.read() as reader:
        reader.series()
        time.sleep(1.2)
        assert reader.series() == []


def test_a_connection_that_was_lost_meanwhile_is_replaced(postgresql_url, server):
    with Store(postgresql_url, create=True) as store:
        assert store.fingerprint()
        name = sa.make_url(postgresql_url).database
        with Store(postgresql_url) as other, other.transaction(write=False) as connection:
            gone = sa.text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = :name AND pid <> pg_backend_pid()"
            )
            assert connection.scalar(gone, {"name": name}) == 1
        time.sleep(0.6)
        assert store.fingerprint()


def test_what_went_wrong_is_said_in_a_line_without_the_password(postgresql_url):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    wrong = {
        through(postgresql_url, port=port, password="hidden"): "is PostgreSQL running there",
        through(postgresql_url, database="nowhere", password="hidden"): "make it first",
        through(postgresql_url, host="nohost.invalid", password="hidden"): "check the host's name",
        postgresql_url: "there is no liquidation store at",
        postgresql_url.replace("@", ":hid@den@"): "write one that belongs to the password as %40",
        postgresql_url.replace("@", ":hid@den/@"): "write one that belongs to the password as %40",
    }
    for db_url, told in wrong.items():
        with pytest.raises(LiquidationsError, match=told) as caught:
            Store(db_url)
        assert "\n" not in str(caught.value)
        assert "hidden" not in str(caught.value)
        assert "den" not in str(caught.value).replace("hidden", "")
        assert "***" in str(caught.value) or db_url == postgresql_url


def test_two_that_make_the_store_at_once_make_one(postgresql_url):
    failed: list[BaseException] = []

    def make() -> None:
        try:
            Store(postgresql_url, create=True).close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with Store(postgresql_url) as store:
        assert store.name.startswith("store-")


def test_a_bot_goes_on_with_what_it_knows_and_says_so_once(line, postgresql_url, caplog):
    pair, names = "BTC/USDT:USDT", ("binance", "linear", "binance")
    first = utc("2024-08-05 10:00")

    def tell(store: Store, minute: int, usd: float) -> None:
        with store.write() as writer:
            feed = writer.feed(*names)
            writer.join(feed, [pair], first)
            events = {pair: events_of((first + minute * MINUTE + 5, "long", usd))}
            feed, _ = writer.append(feed, events, 0)
            feed = writer.cover(feed, first + minute * MINUTE, first + (minute + 1) * MINUTE)
            writer.seal(feed, first + (minute + 1) * MINUTE, 0)

    settings = Settings("", ("binance",))
    bot = LiquidationProvider(through(postgresql_url, port=line.port), patience=1.0)

    def ask(minutes: int) -> list[float]:
        opens = first + np.arange(minutes) * MINUTE
        found, _ = bot.columns(pair, opens, "1m", settings, live=True)
        return found["liq_long"].tolist()

    with Store(postgresql_url) as store, caplog.at_level("INFO"):
        tell(store, 0, 10.0)
        assert ask(1) == [10.0]
        line.hold()
        tell(store, 1, 20.0)
        for _ in range(3):  # as a bot asks for each of its pairs
            assert_equal(ask(2), [10.0, np.nan])
        tell(store, 2, 30.0)
        assert_equal(ask(3), [10.0, np.nan, np.nan])
        line.go_on()
        time.sleep(1.1)
        tell(store, 3, 40.0)
        assert ask(4) == [10.0, 20.0, 30.0, 40.0]
    bot.close()
    told = [record.message for record in caplog.records]
    assert sum("new candles are NaN" in text for text in told) == 1
    assert sum("can be read again" in text for text in told) == 1


def test_the_indexes_of_late_events_hold_no_others(postgresql_url):
    Store(postgresql_url, create=True).close()
    question = "SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE 'liq_late%'"
    found = dict(execute(postgresql_url, question))
    assert found.keys() == {"liq_late", "liq_late_of"}
    assert all(text.endswith("WHERE (known > 0)") for text in found.values())
