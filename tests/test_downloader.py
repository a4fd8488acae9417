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
from conftest import events_of, same_bits, spans, utc
from http_loopback import (
    DAY,
    HOUR,
    KEYS,
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

from liquidations import http
from liquidations.archives import ARCHIVES, About, Ask, service
from liquidations.downloader import run, uncovered
from liquidations.errors import LiquidationsError
from liquidations.event import merge_intervals
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
        ("nan", None),
        ("inf", None),
        ("later", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, seconds):
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
    (utc("2024-09-01 00:10"), "long", 100.0),
    (utc("2024-09-01 01:15"), "short", 200.0),
    (utc("2024-09-01 02:20"), "long", 300.0),
    (utc("2024-09-01 03:25"), "short", 100.0),
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
        assert uncovered(store, [report.outcomes[0].job]) == {
            ("binance", INVERSE): [(second, third)]
        }


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


def test_erasing_removes_only_what_is_asked_for_again(db_url, vendors):
    download(db_url, vendors, "binance_vision", request=request_of(start=utc("2024-08-30")))
    download(db_url, vendors, "coinglass", request=request_of(LINEAR))
    told: list[str] = []
    config = {"liquidations": {"sources": vendors.sources()}}
    clients, _ = find_clients(config, request_of(), ["binance_vision"])
    with Store(db_url) as store:
        planned = plan(store, request_of(), clients, erase=told.append)
        run(planned, store, clients)
    assert told == [f"Erased: {INVERSE} binance binance_vision"]
    assert rows_of(db_url, "binance_vision") == orders(START, END)
    assert ("binance", LINEAR, "coinglass", HOUR) in stored(db_url)


def test_what_was_collected_live_is_not_erased(db_url, vendors):
    """OKX's own source has the same name as its feed, and only the last day of it."""
    request = replace(request_of(LINEAR), pairs={"okx": [Asked((LINEAR,))]})
    config = {"liquidations": {"sources": vendors.sources()}}
    told: list[str] = []
    with Store(db_url, create=True) as store:
        with store.write() as writer:
            feed = writer.feed("okx", "swap", "okx")
            writer.join(feed, [LINEAR], START)
            writer.append(feed, {LINEAR: events_of((START + HOUR, "long", 5.0))}, START + DAY)
        clients, _ = find_clients(config, request, ["okx"])
        plan(store, request, clients, erase=told.append)
    assert told == [f"Not erased: {LINEAR} okx okx: it was collected, no source has it"]
    assert len(stored(db_url)["okx", LINEAR, "okx", 60_000][0]) == 1


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
