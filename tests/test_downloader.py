"""The history loop: asks only what is missing, survives every fault, stores each answer once."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import same_bits, spans, utc
from http_loopback import (
    DAY,
    HOUR,
    KEYS,
    Reply,
    Vendors,
    cut_json,
    elsewhere,
    http_loopback,
    orders,
    other_bytes,
    reset,
    slow,
    status,
    truncated,
    web_page,
)
from hypothesis import given
from hypothesis import strategies as st

from liquidations import downloader, http
from liquidations.archives import ARCHIVES, OPEN_INTEREST, About, Ask, service
from liquidations.downloader import run, uncovered
from liquidations.errors import LiquidationsError
from liquidations.event import merge_intervals
from liquidations.exchanges import okx
from liquidations.exchanges.frames import Contract
from liquidations.http import Absent, Client, NoAnswer, SourceEnds, Throttle, pause, retry_after
from liquidations.planner import (
    Asked,
    Request,
    choose_period,
    find_clients,
    missing,
    plan,
    resolve,
    stand_ins,
    subtract,
)
from liquidations.store import Store


INVERSE, LINEAR = "BTC/USD:BTC", "BTC/USDT:USDT"
START, END = utc("2024-09-01"), utc("2024-09-04")


@pytest.fixture
def vendors(monkeypatch):
    """Serve all sources, which may be asked without pauses."""
    monkeypatch.setattr(http, "PAUSE", 0.001)
    for name in ARCHIVES:
        if ARCHIVES[name] and getattr(service_or_none(name), "ABOUT", None):
            module = service(name)
            monkeypatch.setattr(module, "ABOUT", replace(module.ABOUT, per_minute=None))
    with http_loopback() as server:
        yield server


def service_or_none(name: str):
    try:
        return service(name)
    except LiquidationsError:
        return None


def request_of(pair: str = INVERSE, start: int = START, end: int = END, **more) -> Request:
    more = {"now": int(time.time() * 1000), "timeframes": (HOUR,), **more}
    return Request({"binance": [Asked((pair,))]}, start, end, **more)


def download(db_url, vendors: Vendors, *sources: str, request: Request | None = None, keys=True):
    """Download, and return the report and the plan."""
    config = {"liquidations": {"sources": vendors.sources(keys=keys)}}
    request = request or request_of()
    clients, _ = find_clients(config, request, sources)
    with Store(db_url, create=True) as store:
        planned = plan(store, request, clients)
        return run(planned, store, clients), planned


def stored(db_url: str) -> dict:
    """Return all that a store holds, by series."""
    with Store(db_url) as store, store.read() as reader:
        return {
            (one.exchange, one.pair, one.source, one.period): (
                reader.events(one, 0, 2**62),
                reader.bars(one, 0, 2**62),
                reader.coverage(one),
                one.digest,
            )
            for one in reader.series()
        }


def same_store(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, (events, bars, coverage, digest) in one.items():
        same_bits(events, other[name][0])
        same_bits(bars, other[name][1], "timestamp", "long", "short", "long_count", "short_count")
        assert coverage.tolist() == other[name][2].tolist()
        assert digest == other[name][3]


# --- what is missing ----------------------------------------------------------------------------

times = st.integers(0, 30)
intervals = st.lists(st.tuples(times, times), max_size=5).map(
    lambda rows: merge_intervals(np.array(rows, np.int64).reshape(-1, 2))
)


@given(times, times, intervals, st.booleans())
def test_missing_is_what_no_interval_covers(start, end, coverage, prepend):
    found = missing(start, end, coverage, prepend=prepend)
    covered_at = {at for begin, stop in coverage.tolist() for at in range(begin, stop)}
    expected = {at for at in range(start, end) if at not in covered_at}
    if len(coverage) and not prepend:
        expected = {at for at in expected if at >= coverage[0, 0]}
    assert [at for begin, stop in found for at in range(begin, stop)] == sorted(expected)
    assert all(begin < stop for begin, stop in found)


def test_subtract_takes_away_what_is_covered():
    assert subtract([(0, 10)], spans((2, 4), (6, 20))) == [(0, 2), (4, 6)]
    assert subtract([], spans((2, 4))) == []


def test_bars_fit_into_candles_and_reach_back():
    minutes = [1, 5, 15, 30, 60, 240, 1440]
    periods = [60_000 * one for one in minutes]
    assert choose_period(periods, 5 * 60_000, 0) == 5 * 60_000
    assert choose_period(periods, 3 * 60_000, 0) == 60_000
    assert choose_period(periods, 7 * DAY, 0) == DAY
    assert choose_period(periods[4:], 30 * 60_000, 0) is None
    # 1,500 bars of 5m are 5.2 days, of 30m 31.25, of 4h 250; days are kept for years.
    assert choose_period(periods, None, 5 * DAY) == 5 * 60_000
    assert choose_period(periods, None, 31 * DAY) == 30 * 60_000
    assert choose_period(periods, None, 4_000 * DAY) == DAY


@pytest.mark.parametrize(
    ("pair", "exchange", "names"),
    [
        (LINEAR, "binance", (LINEAR, "1000BTC/USDT:USDT", "BTC/USDC:USDC")),
        ("SHIB/USDT:USDT", "bybit", ("SHIB/USDT:USDT", "1000SHIB/USDT:USDT", "SHIB1000/USDT:USDT")),
        ("PEPE/USDT:USDT", "hyperliquid", ("PEPE/USDC:USDC", "KPEPE/USDC:USDC")),
        (LINEAR, "hyperliquid", ("BTC/USDC:USDC",)),
        (INVERSE, "okx", (INVERSE,)),
        ("1000PEPE/USDT:USDT", "okx", ("PEPE/USDT:USDT", "PEPE/USDC:USDC")),
        ("KPEPE/USDC:USDC", "bybit", ("1000PEPE/USDC:USDC", "PEPE1000/USDC:USDC")),
    ],
)
def test_a_pair_stands_under_other_names_elsewhere(pair, exchange, names):
    assert stand_ins(pair, exchange)[: len(names)] == names


MARKETS = {
    "binance": ["BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USD:BTC", "1000PEPE/USDT:USDT"],
    "hyperliquid": ["BTC/USDC:USDC", "KPEPE/USDC:USDC", "HYPE/USDC:USDC"],
}


def names_of(found) -> dict:
    return {exchange: [one.names for one in several] for exchange, several in found.items()}


def test_patterns_are_matched_with_the_markets_of_each_exchange():
    found, faults = resolve([".*/USDT:USDT"], list(MARKETS), MARKETS.__getitem__)
    assert names_of(found) == {
        "binance": [("BTC/USDT:USDT",), ("ETH/USDT:USDT",), ("1000PEPE/USDT:USDT",)],
        # Nothing is quoted so there; what stands for those that were matched is.
        "hyperliquid": [("BTC/USDC:USDC",), ("KPEPE/USDC:USDC",)],
    }
    assert faults == []


def test_pairs_need_no_markets_and_a_wrong_one_stops_no_other():
    def never(exchange):
        raise AssertionError("a pair needs no market")

    found, faults = resolve([LINEAR, "BTC/USDT"], ["binance"], never, inverse=True)
    assert names_of(found)["binance"][0][0] == LINEAR
    assert names_of(found)["binance"][1] == (INVERSE,)
    assert [(one.pair, one.message) for one in faults] == [
        ("BTC/USDT", "it is not a perpetual; write it as BTC/USDT:USDT")
    ]


def test_a_pattern_that_matches_nothing_names_what_is_near():
    found, faults = resolve(["ETH/USDT:USDX?", LINEAR], ["binance"], MARKETS.__getitem__)
    assert names_of(found)["binance"][0][0] == LINEAR
    assert "near: ETH/USDT:USDT" in faults[0].message
    with pytest.raises(LiquidationsError, match="for all pairs write"):
        resolve(["*/USDT:USDT"], ["binance"], MARKETS.__getitem__)
    with pytest.raises(LiquidationsError, match="no pair is named"):
        resolve([], ["binance"], MARKETS.__getitem__)


# --- waiting ------------------------------------------------------------------------------------


@pytest.fixture
def new_york(monkeypatch):
    """Put this computer's clock into a time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


def test_pauses_double_within_bounds():
    for tries in range(1, 30):
        least, most = pause(tries, 0.0), pause(tries, 1.0)
        assert least == most / 2
        assert most == min(2 ** (tries - 1), 60)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0),
        ("0.25", 0.25),
        ("-5", 0.0),
        ("Sun, 01 Sep 2024 00:01:40 GMT", 100.0),
        ("Sun, 01 Sep 2023 00:00:00 GMT", 0.0),
        ("Sun, 01 Sep 2024 00:01:40", 100.0),
        ("Sun, 01 Sep 2024 02:01:40 +0200", 100.0),
        ("nan", None),
        ("inf", None),
        ("later", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, seconds, new_york):
    assert retry_after(text, START / 1000) == seconds


def test_calls_are_spaced_whoever_makes_them():
    now = [100.0]
    throttle = Throttle(1.5, lambda: now[0])
    assert [throttle.reserve() for _ in range(4)] == [0.0, 1.5, 3.0, 4.5]
    now[0] = 103.0
    assert throttle.reserve() == 3.0  # 4.5 is taken
    throttle.hold(20.0)
    assert throttle.reserve() == 20.0
    now[0] = 200.0
    assert throttle.reserve() == 0.0


def test_a_source_is_asked_as_often_as_it_allows(vendors):
    about = About("", ("binance",), "", "", url=vendors.url("elsewhere"), per_minute=1200)
    client = Client("own", about)
    threads = [threading.Thread(target=client.get, args=(Ask("/x"),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    at = sorted(one.at for one in vendors.asked("elsewhere"))
    assert len(at) == 6
    assert at[-1] - at[0] >= 5 * 0.05 - 0.03
    assert client.calls == 6


# --- one question -------------------------------------------------------------------------------


def client_of(vendors: Vendors, **more) -> Client:
    about = About("", ("binance",), "", "", key="OWN_KEY", header="X-Key: {key}")
    return Client("own", about, url=vendors.url("elsewhere"), key="s3cret-key", **more)


@pytest.mark.parametrize(
    "fault",
    [
        truncated,
        reset,
        status(500),
        status(502, b"<html>"),
        status(503, retry_after="0"),
        status(429, retry_after="0.02"),
        status(418, retry_after="Thu, 01 Jan 1970 00:00:00 GMT"),
        status(429),
    ],
)
def test_what_passes_is_asked_again(vendors, fault):
    vendors.fault("/elsewhere", fault, times=2)
    assert client_of(vendors).get(Ask("/x")).data == b"[]"
    assert len(vendors.asked("/elsewhere")) == 3


def test_retry_after_is_obeyed(vendors):
    vendors.fault("/elsewhere", status(429, retry_after="0.3"))
    client_of(vendors).get(Ask("/x"))
    first, second = vendors.asked("/elsewhere")
    assert second.at - first.at >= 0.3


@pytest.mark.parametrize("header", ["0", "-3", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_source_that_says_to_come_back_at_once_is_not_stormed(vendors, monkeypatch, header):
    monkeypatch.setattr(http, "PAUSE", 0.05)
    vendors.fault("/elsewhere", status(429, retry_after=header), times=4)
    client_of(vendors).get(Ask("/x"))
    first, *_, last = vendors.asked("/elsewhere")
    # 50, 100, 200 and 400 ms, or half of it.
    assert last.at - first.at >= 0.375


def test_a_source_that_wants_peace_for_long_is_left_alone(vendors):
    vendors.fault("/elsewhere", status(429, retry_after="3600"))
    with pytest.raises(SourceEnds, match=r"left alone until \d{4}-\d\d-\d\d \d\d:\d\d UTC"):
        client_of(vendors).get(Ask("/x"))
    assert len(vendors.asked("/elsewhere")) == 1


def test_what_does_not_pass_ends_in_one_line(vendors, monkeypatch):
    vendors.fault("/elsewhere", status(500), times=99)
    with pytest.raises(NoAnswer, match=r"status 500, 6 times; try again later") as caught:
        client_of(vendors).get(Ask("/x"))
    assert caught.value.broken
    monkeypatch.setattr(http, "TIMEOUT", (0.05, 0.05))
    vendors._faults.clear()
    vendors.fault("/elsewhere", slow(0.3), times=99)
    with pytest.raises(NoAnswer, match="does not answer in time"):
        client_of(vendors).get(Ask("/x"))
    with pytest.raises(NoAnswer, match="can't be reached"):
        Client("own", About("", (), "", ""), url="http://127.0.0.1:9").get(Ask("/x"))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (status(404), Absent, None),
        (status(401, b'{"message": "bad key s3cret-key"}'), SourceEnds, r"bad key \*\*\*"),
        (status(403), SourceEnds, "the key is refused"),
        (status(400, b'{"msg": "no such\\u001b[2J symbol"}'), NoAnswer, r"400: no such \[2J symb"),
        (status(451, b"<html>"), NoAnswer, "451, with a web page"),
    ],
)
def test_what_will_not_pass_is_not_asked_again(vendors, fault, error, message):
    vendors.fault("/elsewhere", fault)
    with pytest.raises(error, match=message):
        client_of(vendors).get(Ask("/x"))
    assert len(vendors.asked("/elsewhere")) == 1


@pytest.mark.parametrize(
    "written",
    ["Sk/9+Ab&d=1-Secret", "sk/9+ab&d=1-secret", "Sk%2F9%2BAb%26d%3D1-Secret",
     "sk%2f9%2bab%26d%3d1-secret", "Sk/9%2BAb%26d%3D1-Secret", "Sk\\/9+Ab&d=1-Secret",
     "Sk/9+Ab&amp;d=1-Secret"],
)  # fmt: skip
def test_a_key_is_hidden_however_it_is_written(written):
    client = Client("own", About("", (), "", "", url="https://x"), key="Sk/9+Ab&d=1-Secret")
    assert client.masked(f"no such key: {written}!") == "no such key: ***!"


def test_the_key_stays_with_its_host(vendors):
    other = f"http://localhost:{vendors.port}/elsewhere/y"
    vendors.fault("/elsewhere/x", elsewhere(other))
    assert client_of(vendors).get(Ask("/x")).data == b"[]"
    first, second = vendors.asked("/elsewhere")
    assert first.headers["x-key"] == "s3cret-key"
    assert second.path == "/elsewhere/y"
    assert "x-key" not in second.headers
    # On the same host it stays.
    vendors.fault("/elsewhere/x", elsewhere("/elsewhere/z"))
    client_of(vendors).get(Ask("/x"))
    assert vendors.asked("/elsewhere/z")[0].headers["x-key"] == "s3cret-key"
    client_of(vendors).get(Ask("/free", keyless=True))
    assert "x-key" not in vendors.asked("/elsewhere/free")[0].headers


def test_redirects_end(vendors):
    vendors.fault("/elsewhere", elsewhere("/elsewhere/x"), times=99)
    with pytest.raises(NoAnswer, match="in a circle"):
        client_of(vendors).get(Ask("/x"))
    vendors._faults.clear()
    vendors.fault("/elsewhere", elsewhere("file:///etc/passwd"), times=99)
    with pytest.raises(NoAnswer):
        client_of(vendors).get(Ask("/x"))


def test_what_is_too_long_is_refused(vendors, monkeypatch):
    monkeypatch.setattr(http, "MOST_BYTES", 100_000)
    vendors.fault("/elsewhere", status(200, b"0" * 100_001))
    with pytest.raises(NoAnswer, match="longer than"):
        client_of(vendors).get(Ask("/x"))
    # Packed on the way, too.
    bomb = __import__("gzip").compress(b"0" * 50_000_000)
    vendors.fault("/elsewhere", status(200, bomb, content_encoding="gzip"))
    with pytest.raises(NoAnswer, match="longer than"):
        client_of(vendors).get(Ask("/x"))


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_what_can_be_no_key_is_refused_and_not_shown(key):
    with pytest.raises(LiquidationsError, match="copy it again") as caught:
        Client("own", About("", (), "", "", url="https://x"), key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["example.com", "file:///etc/passwd", "https://", "http://[x"])
def test_what_can_be_no_url_is_refused(url):
    with pytest.raises(LiquidationsError, match="must begin with https://"):
        Client("own", About("", (), "", ""), url=url)


def test_a_netrc_is_not_sent(vendors, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hidden\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert requests.utils.get_netrc_auth(vendors.root) == ("me", "hidden")
    client_of(vendors).get(Ask("/x"))
    assert "authorization" not in vendors.asked("/elsewhere")[0].headers


# --- the loop -----------------------------------------------------------------------------------


def rows_of(db_url: str, source: str) -> list[tuple[int, str, float]]:
    (events, _, _, _) = next(v for name, v in stored(db_url).items() if name[2] == source)
    sides = [("long", "short")[side] for side in events.side]
    return list(zip(events.timestamp.tolist(), sides, events.value_usd.tolist(), strict=True))


#: The market's first hours, worked by hand: 2024-09-01 begins 479,208 hours after 1970, which is
#: divisible by 3 and 4.
HAND = [
    (utc("2024-09-01 00:11"), "long", 100.0),
    (utc("2024-09-01 01:26"), "short", 200.0),
    (utc("2024-09-01 02:41"), "long", 300.0),
    (utc("2024-09-01 03:56"), "short", 100.0),
]


def test_the_loopback_is_as_worked_by_hand():
    assert START // HOUR == 479_208
    assert orders(START, START + 4 * HOUR) == HAND


def test_files_are_downloaded_and_asked_for_once(db_url, vendors):
    report, planned = download(db_url, vendors, "binance_vision")
    assert report.faults == []
    assert [len(job.questions) for job in planned.jobs] == [3]
    assert report.outcomes[0].rows.new == 72
    rows = rows_of(db_url, "binance_vision")
    assert rows[:4] == HAND
    assert rows == orders(START, END)
    assert stored(db_url)["binance", INVERSE, "binance_vision", 60_000][2].tolist() == [
        [START, END]
    ]
    assert len(vendors.asked()) == 6  # each file and its checksum
    again, planned = download(db_url, vendors, "binance_vision")
    assert planned.jobs[0].missing == ()
    assert again.outcomes[0].rows.new == 0
    assert len(vendors.asked()) == 6


def test_a_day_that_is_not_there_is_no_fault_and_one_that_is_empty_is_known(db_url, vendors):
    vendors.absent.add("2024-09-02")
    vendors.quiet.add("2024-09-03")
    report, _ = download(db_url, vendors, "binance_vision")
    assert report.faults == []
    assert report.outcomes[0].absent == ["2024-09-02"]
    second, third = utc("2024-09-02"), utc("2024-09-03")
    assert report.outcomes[0].coverage.tolist() == [[START, second], [third, END]]
    with Store(db_url) as store:
        assert uncovered(store, report.outcomes) == {("binance", INVERSE): [(second, third, True)]}


def test_a_wrong_checksum_is_fetched_again_then_refused(db_url, vendors):
    vendors.fault("2024-09-01.zip", other_bytes)
    report, _ = download(db_url, vendors, "binance_vision")
    assert report.faults == []
    assert report.outcomes[0].rows.new == 72
    other = db_url.replace("liquidations.sqlite", "other.sqlite")
    vendors.fault("2024-09-02.zip.CHECKSUM", status(200, b"0" * 64), times=99)
    report, _ = download(other, vendors, "binance_vision")
    assert [one.pair for one in report.faults] == [INVERSE]
    assert "2024-09-02: its checksum is wrong" in report.faults[0].message
    assert report.outcomes[0].rows.new == 48


@pytest.mark.parametrize("fault", [truncated, reset, status(500), web_page, cut_json])
def test_a_fault_in_between_changes_nothing(db_url, vendors, fault):
    download(db_url, vendors, "coinglass", "coinalyze", request=request_of(LINEAR))
    other = db_url.replace("liquidations.sqlite", "other.sqlite")
    for part in ("supported", "liquidation/history", "future-markets", "liquidation-history"):
        vendors.fault(part, fault)
    report, _ = download(other, vendors, "coinglass", "coinalyze", request=request_of(LINEAR))
    assert report.faults == []
    same_store(stored(db_url), stored(other))


def test_a_web_page_that_stays_is_reported_and_others_go_on(db_url, vendors):
    vendors.fault("/coinalyze/liquidation-history", web_page, times=99)
    report, _ = download(db_url, vendors, "coinglass", "coinalyze", request=request_of(LINEAR))
    assert [(one.source, one.pair) for one in report.faults] == [("coinalyze", LINEAR)]
    assert "web page" in report.faults[0].message
    assert {name[2] for name in stored(db_url)} == {"coinglass"}


def test_a_source_that_is_down_ends_after_some_questions(db_url, vendors, monkeypatch):
    monkeypatch.setattr(http, "TRIES", 2)
    vendors.fault("/binance_vision", status(500), times=999)
    request = request_of(end=START + 40 * DAY)
    report, _ = download(db_url, vendors, "binance_vision", request=request)
    ended = report.faults[-1].message
    assert "in a row had no answer" in ended
    assert "of 40 questions were not asked" in ended
    assert len(vendors.asked()) < 30


def test_a_refused_key_ends_its_source_in_one_line(db_url, vendors):
    config = {"liquidations": {"sources": vendors.sources()}}
    config["liquidations"]["sources"]["coinalyze"]["key"] = "wrong-key"
    request = request_of(LINEAR)
    clients, _ = find_clients(config, request, ("coinalyze", "coinglass"))
    with Store(db_url, create=True) as store:
        report = run(plan(store, request, clients), store, clients)
    assert [(one.source, one.pair) for one in report.faults] == [("coinalyze", "")]
    assert "the key is refused (status 401: Invalid/Missing API key)" in report.faults[0].message
    assert {name[2] for name in stored(db_url)} == {"coinglass"}


def test_files_that_need_a_key_are_not_asked_for_without(db_url, vendors):
    report, planned = download(db_url, vendors, "tardis", request=request_of(LINEAR), keys=False)
    assert report.faults == []
    assert planned.jobs[0].locked == ("2024-09-02", "2024-09-03")
    assert [one.path.split("/")[-2] for one in vendors.asked()] == ["01"]
    report, _ = download(db_url, vendors, "tardis", request=request_of(LINEAR))
    assert report.outcomes[0].rows.new == 48
    assert rows_of(db_url, "tardis") == orders(START, END)


def test_sources_are_chosen_by_their_keys(vendors, monkeypatch):
    monkeypatch.delenv("COINALYZE_API_KEY", raising=False)
    config = {"liquidations": {"sources": vendors.sources(keys=False)}}
    clients, without = find_clients(config, request_of())
    assert {"binance_vision", "tardis"} <= set(clients)
    assert not {"coinalyze", "coinglass", "okx"} & set(clients)
    assert any("then set the environment variable COINALYZE_API_KEY" in one for one in without)
    monkeypatch.setenv("COINALYZE_API_KEY", KEYS["coinalyze"])
    clients, _ = find_clients(config, request_of())
    assert clients["coinalyze"].has_key
    with pytest.raises(LiquidationsError, match="coinglass needs a key"):
        find_clients(config, request_of(), ["coinglass"])
    with pytest.raises(LiquidationsError, match="gives liquidations of okx"):
        find_clients(config, request_of(), ["okx"])
    with pytest.raises(LiquidationsError, match="unknown source 'coinglas'"):
        find_clients(config, request_of(), ["coinglas"])


def test_appending_prepending_and_holes(db_url, vendors):
    middle = request_of(start=utc("2024-09-02"), end=utc("2024-09-03"))
    download(db_url, vendors, "binance_vision", request=middle)
    longer = request_of(end=utc("2024-09-05"))
    _, planned = download(db_url, vendors, "binance_vision", request=longer)
    assert planned.jobs[0].missing == ((utc("2024-09-03"), utc("2024-09-05")),)
    assert planned.jobs[0].before == (START, utc("2024-09-02"))
    _, planned = download(db_url, vendors, "binance_vision", request=replace(longer, prepend=True))
    assert planned.jobs[0].missing == ((START, utc("2024-09-02")),)
    assert rows_of(db_url, "binance_vision") == orders(START, utc("2024-09-05"))
    # A hole is filled without a word.
    far = request_of(start=utc("2024-09-08"), end=utc("2024-09-09"))
    download(db_url, vendors, "binance_vision", request=far)
    whole = request_of(end=utc("2024-09-09"))
    _, planned = download(db_url, vendors, "binance_vision", request=whole)
    assert planned.jobs[0].missing == ((utc("2024-09-05"), utc("2024-09-08")),)


def test_asking_again_records_what_was_revised(db_url, vendors):
    request = request_of(LINEAR)
    download(db_url, vendors, "coinglass", request=request)
    vendors.revision = 2
    report, _ = download(db_url, vendors, "coinglass", request=request)
    assert report.outcomes[0].rows.revised == 0  # it was not asked
    report, _ = download(db_url, vendors, "coinglass", request=replace(request, again=True))
    assert (report.outcomes[0].rows.new, report.outcomes[0].rows.revised) == (0, 72)
    with Store(db_url) as store, store.read() as reader:
        first = reader.revisions(reader.series()[0])[0]
    assert (first.old, first.new) == ((100.0, 0.0), (200.0, 0.0))


def replacing(request: Request) -> Request:
    return replace(request, erase=True)


def test_erasing_replaces_what_an_answer_covers_and_nothing_else(db_url, vendors):
    """Four days are stored; of three, one is not there any more and one can't be had now."""
    download(db_url, vendors, "binance_vision", request=request_of(start=utc("2024-08-31")))
    download(db_url, vendors, "coinglass", request=request_of(LINEAR))
    before = stored(db_url)
    vendors.absent.add("2024-09-02")
    vendors.quiet.add("2024-09-01")
    vendors.fault("2024-09-03.zip", status(400), times=9)
    report, planned = download(db_url, vendors, "binance_vision", request=replacing(request_of()))
    assert planned.jobs[0].missing == ((START, END),)
    assert [one.pair for one in report.faults] == [INVERSE]
    # The first day is empty now; the second is not there, the third failed: both stay.
    assert rows_of(db_url, "binance_vision") == [
        *orders(utc("2024-08-31"), START), *orders(START + DAY, END)
    ]  # fmt: skip
    after = stored(db_url)
    same_bits(before["binance", LINEAR, "coinglass", HOUR][1],
              after["binance", LINEAR, "coinglass", HOUR][1], "timestamp", "long")  # fmt: skip
    name = ("binance", INVERSE, "binance_vision", 60_000)
    assert after[name][2].tolist() == before[name][2].tolist()
    # What a download that never failed stores is the same, to the digest.
    other = db_url.replace("liquidations.sqlite", "other.sqlite")
    vendors.absent.clear()
    vendors._faults.clear()
    download(other, vendors, "binance_vision", request=request_of(start=utc("2024-08-31")))
    download(db_url, vendors, "binance_vision", request=replacing(request_of()))
    same_store({name: stored(other)[name]}, {name: stored(db_url)[name]})


def test_erasing_bars_forgets_their_vintages_and_leaves_other_periods(db_url, vendors):
    week = request_of(LINEAR, end=START + 7 * DAY, timeframes=(HOUR, 300_000))
    download(db_url, vendors, "coinglass", request=week)
    vendors.revision = 2
    download(db_url, vendors, "coinglass", request=replace(week, again=True))
    vendors.revision = 3
    download(db_url, vendors, "coinglass", request=replacing(request_of(LINEAR)))
    with Store(db_url) as store, store.read() as reader:
        fine, hourly = reader.series()
        assert (fine.period, hourly.period) == (300_000, HOUR)
        assert reader.bars(fine, 0, END).long.sum() * 3 == reader.bars(hourly, 0, END).long.sum()
        assert len(reader.revisions(fine)) == 7 * 24
        assert reader.coverage(hourly).tolist() == [[START, START + 7 * DAY]]
        # Of the four days that were not asked for, the revision is there still.
        assert len(reader.revisions(hourly)) == 4 * 24
        assert min(one.timestamp for one in reader.revisions(hourly)) == END


def okx_request(length: int = DAY, *pairs: str, **more) -> Request:
    now = int(time.time() * 1000)
    asked = [Asked((pair,)) for pair in pairs or (LINEAR,)]
    return Request({"okx": asked}, now - length, now, now, **more)


def okx_sizes():
    return {
        "BTC-USDT-SWAP": Contract(LINEAR, 0.01, False),
        "ETH-USDT-SWAP": Contract("ETH/USDT:USDT", 0.1, False),
    }


def download_okx(db_url: str, vendors: Vendors, request: Request, contracts=okx_sizes):
    clients, _ = find_clients({"liquidations": {"sources": vendors.sources()}}, request, ["okx"])
    with Store(db_url, create=True) as store:
        planned = plan(store, request, clients)
        return run(planned, store, clients, contracts=contracts), planned


def collect(db_url: str, start: int, end: int) -> None:
    """Store what OKX's feed would have told of a time."""
    rows = [
        {"bkPx": "50000", "side": "sell" if side == "long" else "buy",
         "sz": repr(usd * (1 / (0.01 * 50_000))), "ts": str(at)}
        for at, side, usd in orders(start, end)
    ]  # fmt: skip
    told = okx.orders(rows, okx_sizes()["BTC-USDT-SWAP"])
    with Store(db_url, create=True) as store, store.write() as writer:
        feed = writer.feed("okx", "swap", "okx")
        writer.join(feed, [LINEAR], start)
        feed, _ = writer.append(feed, {LINEAR: told}, end)
        feed = writer.cover(feed, start, end)
        writer.seal(feed, end, end)


@pytest.mark.parametrize("erase", [False, True])
def test_what_okx_has_before_and_after_its_feed_is_asked_for(db_url, vendors, erase):
    """A collector ran from five to two hours ago: the day around it is not left out."""
    now = int(time.time() * 1000)
    begun, ended = now // HOUR * HOUR - 5 * HOUR, now // HOUR * HOUR - 2 * HOUR
    collect(db_url, begun, ended)
    report, planned = download_okx(db_url, vendors, okx_request(erase=erase))
    assert report.faults == []
    assert planned.jobs[0].before is None
    assert planned.jobs[0].missing[0][0] < begun
    rows, (coverage,) = rows_of(db_url, "okx"), report.outcomes[0].coverage.tolist()
    assert coverage[0] < now - 20 * HOUR
    # Nothing is doubled, and nothing that was collected is lost.
    assert [at for at, *_ in rows] == [at for at, *_ in orders(*coverage)]


def test_swaps_that_okx_does_not_list_are_named_and_others_are_had(db_url, vendors):
    pairs = [f"{name}/USDT:USDT" for name in ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF", "BTC")]
    report, _ = download_okx(db_url, vendors, okx_request(DAY, *pairs))
    assert [one.pair for one in report.faults] == pairs[:-1]
    assert {one.message for one in report.faults} == {
        "no source has it on okx; is it written right?"
    }
    assert len(rows_of(db_url, "okx")) > 20
    assert [one.query["uly"] for one in vendors.asked("liquidation-orders")] == ["BTC-USDT"]


def test_answers_about_single_contracts_that_cannot_be_read_end_no_source(db_url, vendors):
    periods = tuple(60_000 * n for n in (1, 5, 15, 30))
    vendors.fault("BTCUSDT_PERP.A", status(200, b'{"message": "no such symbol"}'), times=99)
    request = replace(request_of(LINEAR), timeframes=(*periods, HOUR))
    request.pairs["binance"].append(Asked(("ETH/USDT:USDT",)))
    report, _ = download(db_url, vendors, "coinalyze", request=request)
    assert [one.pair for one in report.faults] == [LINEAR] * 5
    assert {name[1] for name in stored(db_url)} == {"ETH/USDT:USDT"}


def test_contract_sizes_that_cannot_be_had_are_asked_for_once(db_url, vendors):
    asked = []

    def unreachable():
        asked.append(1)
        raise LiquidationsError("OKX can't be asked for its contract sizes; try again")

    report, _ = download_okx(db_url, vendors, okx_request(), unreachable)
    assert [one.message for one in report.faults] == [
        "OKX can't be asked for its contract sizes; try again"
    ]
    assert len(asked) == len(vendors.asked("liquidation-orders")) == 1


def test_pages_that_came_before_a_source_ended_are_stored(db_url, vendors, monkeypatch):
    monkeypatch.setattr(service("okx"), "PAGE", 5)
    late = [lambda reply: reply] * 2 + [status(429, retry_after="900")]
    vendors.fault("liquidation-orders", *late)
    report, _ = download_okx(db_url, vendors, okx_request())
    assert len(report.faults) == 1
    assert "left alone until" in report.faults[0].message
    (start, end), *rest = report.outcomes[0].coverage.tolist()
    assert rest == []
    assert rows_of(db_url, "okx")[-1][0] < end
    assert len(rows_of(db_url, "okx")) >= 7
    # The next run asks for what is older only.
    _, planned = download_okx(db_url, vendors, okx_request())
    assert planned.jobs[0].missing[0][1] == start


@pytest.mark.parametrize("source", ["okx", "coinalyze", "coinglass"])
def test_a_service_that_answers_404_has_failed(db_url, vendors, source):
    part = {"okx": "liquidation-orders", "coinalyze": "liquidation-history",
            "coinglass": "liquidation/history"}[source]  # fmt: skip
    vendors.fault(part, status(404), times=99)
    if source == "okx":
        report, _ = download_okx(db_url, vendors, okx_request())
    else:
        report, _ = download(db_url, vendors, source, request=request_of(LINEAR))
    assert [one.message for one in report.faults] == [
        "it answers with status 404; see that its URL is right"
    ]
    assert report.outcomes[0].absent == []


def test_files_of_which_none_is_there_are_a_failure(db_url, vendors):
    vendors.absent.add("2024-09")
    report, _ = download(db_url, vendors, "binance_vision")
    assert [(one.source, one.pair) for one in report.faults] == [("binance_vision", INVERSE)]
    assert "none of the 3 files that were asked for (status 404)" in report.faults[0].message
    # Where there is something of it, a day that is not there yet is none.
    download(db_url, vendors, "binance_vision", request=request_of(start=utc("2024-08-31")))
    report, _ = download(db_url, vendors, "binance_vision")
    assert report.faults == []
    assert len(report.outcomes[0].absent) == 3


@pytest.mark.parametrize(
    ("covered", "ended"),
    [
        # The plan begins with the sixth day: what is asked for before is refused, one by one.
        ("2024-09-06", False),
        # It covers nothing: after four days and the newest one nothing is asked that needs a key.
        ("2024-12-01", True),
    ],
)
def test_a_plan_that_covers_some_files_only(db_url, vendors, monkeypatch, covered, ended):
    module = service("tardis")
    monkeypatch.setattr(module, "ABOUT", replace(module.ABOUT, parallel=1))
    original = vendors._tardis

    def by_plan(path, query, headers):
        _, _, _, year, month, day, _ = path.split("/")
        own = f"{year}-{month}-{day}" >= covered or day == "01"
        return original(path, query, headers) if own else Reply(401, b'{"message": "your plan"}')

    monkeypatch.setattr(vendors, "_tardis", by_plan)
    # The first of the next month needs no key.
    request = request_of(LINEAR, START + DAY, utc("2024-10-02"))
    report, _ = download(db_url, vendors, "tardis", request=request)
    days = [one.path.split("/")[-2] for one in vendors.asked("tardis")]
    assert days[-1] == "01"
    (_, _, coverage, _) = stored(db_url)["binance", LINEAR, "tardis", 60_000]
    assert coverage[-1].tolist() == [utc("2024-10-01") if ended else utc(covered),
                                     utc("2024-10-02")]  # fmt: skip
    refused = report.faults[0]
    assert "it is refused (status 401: your plan); check the key, and what its plan" in (
        refused.message
    )
    assert refused.count == 4  # from the second to the fifth
    assert bool(len(report.faults) == 2) == ended
    if ended:
        assert days == ["02", "03", "04", "05", "30", "01"]
        assert "25 of 30 questions were not asked" in report.faults[1].message


@pytest.mark.parametrize(
    ("body", "message", "asked"),
    [
        (b'{"code": "50001", "msg": "Too Many Requests"}', None, 2),
        (b'{"code": "40001", "msg": "API key cg-77aa-secret expired"}', "the key is refused", 1),
        (b'{"code": "401", "msg": "Upgrade plan"}', "Upgrade plan", 3),
    ],
)
def test_errors_in_the_body_of_an_answer(db_url, vendors, body, message, asked):
    times = 1 if message is None else 99
    vendors.fault("liquidation/history", status(200, body), times=times)
    report, _ = download(db_url, vendors, "coinglass", request=request_of(LINEAR))
    assert len(vendors.asked("liquidation/history")) == asked
    if message is None:
        assert report.faults == []
        assert report.outcomes[0].rows.new == 72
    else:
        assert message in report.faults[0].message
        assert KEYS["coinglass"] not in report.faults[0].message


def test_open_interest_is_handed_on_after_some_answers(db_url, vendors, monkeypatch):
    """So a kill loses little; and what can't be stored is a fault, and ends nothing."""
    monkeypatch.setattr(downloader, "MOST_CONTEXTS", 2)
    request = request_of(LINEAR, START, START + 5 * DAY - HOUR, kinds=(OPEN_INTEREST,))
    config = {"liquidations": {"sources": vendors.sources()}}
    clients, _ = find_clients(config, request, ["binance_vision"])
    kept: list[int] = []

    def keep(contexts):
        kept.append(len(contexts))
        raise LiquidationsError("the disk is full")

    with Store(db_url, create=True) as store:
        report = run(plan(store, request, clients), store, clients, keep=keep)
    # The day before the first one has its first value.
    assert kept == [2, 2, 2]
    assert [(one.pair, one.message, one.count) for one in report.faults] == [
        (LINEAR, "the disk is full", 3)
    ]


@pytest.mark.parametrize(
    ("there", "days"),
    [
        ([], ["08-31", "09-01", "09-02", "09-03"]),
        # A row at 23:55 may stand in the file of that day, one at 0:05 in that of the day before.
        ([("2024-08-01", "2024-09-03")], ["09-02", "09-03"]),
        ([("2024-09-02", "2024-10-01")], ["08-31", "09-01"]),
        ([("2024-08-01", "2024-10-01")], []),
    ],
)
def test_of_open_interest_only_what_is_missing_is_asked_for(db_url, vendors, there, days):
    request = request_of(LINEAR, kinds=(OPEN_INTEREST,))
    config = {"liquidations": {"sources": vendors.sources()}}
    clients, _ = find_clients(config, request, ["binance_vision"])
    asked = []

    def held(*names):
        asked.append(names)
        return spans(*((utc(start), utc(end)) for start, end in there))

    with Store(db_url, create=True) as store:
        (job,) = plan(store, request, clients, held=held).jobs
        (again,) = plan(store, replace(request, again=True), clients, held=held).jobs
    assert asked[0] == (OPEN_INTEREST, "binance", LINEAR, 300_000)
    assert [ask.label for ask, _ in job.questions] == [f"2024-{day}" for day in days]
    assert len(again.questions) == 4


def test_a_pair_that_no_list_has_names_what_there_is(db_url, vendors):
    pairs = {"binance": [Asked(("BTC/BUSD:BUSD",)), Asked((LINEAR,))]}
    request = replace(request_of(), pairs=pairs)
    report, _ = download(db_url, vendors, "coinalyze", request=request)
    assert [one.pair for one in report.faults] == ["BTC/BUSD:BUSD"]
    assert "no source has it on binance; there is BTC/USD:BTC, BTC/USDT:USDT" in (
        report.faults[0].message
    )
    assert ("binance", LINEAR, "coinalyze", HOUR) in stored(db_url)


def test_answers_are_stored_in_the_order_of_time(db_url, vendors):
    """The oldest answer is late; nothing that follows is stored before it."""
    vendors.fault("2024-09-01.zip", slow(0.4))
    firsts = []
    config = {"liquidations": {"sources": vendors.sources()}}
    request = request_of(end=START + 12 * DAY)
    clients, _ = find_clients(config, request, ["binance_vision"])
    with Store(db_url, create=True) as store:
        job = plan(store, request, clients)

        def look(_):
            with store.read() as reader:
                firsts.extend(int(reader.coverage(one)[0, 0]) for one in reader.series())

        run(job, store, clients, on_progress=look)
    assert set(firsts) == {START}
    assert rows_of(db_url, "binance_vision") == orders(START, START + 12 * DAY)


@pytest.mark.parametrize("source", ["coinalyze", "coinglass"])
@pytest.mark.parametrize(("after", "over"), [(1_000, 2), (119_999, 2), (120_000, 3)])
def test_a_period_is_asked_for_when_it_is_added_up(db_url, vendors, source, after, over):
    """Just after the hour its bar is left out of answers; to want it was called a gap."""
    request = request_of(LINEAR, START, START + 3 * HOUR + after, now=START + 3 * HOUR + after)
    config = {"liquidations": {"sources": vendors.sources()}}
    clients, _ = find_clients(config, request, [source])
    with Store(db_url, create=True) as store:
        (job,) = plan(store, request, clients).jobs
    assert (job.start, job.end) == (START, START + over * HOUR)
    assert job.missing == ((START, START + over * HOUR),)


def test_a_mistake_of_ours_is_not_hidden(db_url, vendors, monkeypatch):
    module = service("binance_vision")
    monkeypatch.setattr(module, "answer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        download(db_url, vendors, "binance_vision")


# --- killed -------------------------------------------------------------------------------------

# What is slow, the imports, is done once: each download is a fork of this process.
RUNNER = """
    import os, sys, time
    from dataclasses import replace
    from liquidations import http
    from liquidations.archives import service
    from liquidations.downloader import run
    from liquidations.planner import Asked, Request, find_clients, plan
    from liquidations.store import Store

    assert not {"freqtrade", "ccxt"} & set(sys.modules)
    http.PAUSE = 0.01
    db_url, sources, start, end = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    names = ("coinalyze", "coinglass", "binance_vision", "tardis")
    for name in names:
        module = service(name)
        module.ABOUT = replace(module.ABOUT, per_minute=None)
    pairs = {"binance": [Asked(("BTC/USD:BTC",))], "bybit": [Asked(("BTC/USDT:USDT",))]}
    request = Request(pairs, start, end, int(time.time() * 1000), timeframes=(3_600_000, 300_000))
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            clients, _ = find_clients({"liquidations": {"sources": sources}}, request, names)
            with Store(db_url, create=True) as store:
                report = run(plan(store, request, clients), store, clients)
            print(*report.faults, file=sys.stderr)
            os._exit(len(report.faults))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_twenty_times_it_ends_as_if_undisturbed(tmp_path, vendors):
    end = START + 24 * DAY
    urls = [f"sqlite:///{tmp_path / name}.sqlite" for name in ("undisturbed", "killed")]
    chance = random.Random(7)
    killed = 0

    def runner(url):
        arguments = [url, repr(vendors.sources()), str(START), str(end)]
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUNNER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(process) -> int:
        process.stdin.write("run\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    with runner(urls[0]) as process:
        begin(process)
        assert process.stdout.readline() == "0\n"
        process.stdin.close()
    whole = len(vendors.asked())
    with runner(urls[1]) as process:
        while killed < 20:
            before, more = len(vendors.asked()), chance.randint(1, whole // 12)
            child = begin(process)
            deadline = time.monotonic() + 5
            while len(vendors.asked()) < before + more and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.02)
            os.kill(child, signal.SIGKILL)
            code = int(process.stdout.readline())
            killed += code == -signal.SIGKILL
            if code == 0:  # it was over: the rest of the kills begin anew
                same_store(stored(urls[0]), stored(urls[1]))
                Path(tmp_path / "killed.sqlite").unlink()
        begin(process)
        assert process.stdout.readline() == "0\n"
        process.stdin.close()
    same_store(stored(urls[0]), stored(urls[1]))
    events = stored(urls[1])["binance", INVERSE, "binance_vision", 60_000][0]
    assert events.timestamp.tolist() == [at for at, _, _ in orders(START, end)]
