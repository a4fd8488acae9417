"""The benchmarks of load and growth: their short forms run, and what they check is really checked.

Whether a time is met depends on the machine, so it is not asked here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, execute

from liquidations.event import make_events
from liquidations.store import Store


BENCHMARKS = REPOSITORY / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import exchange  # noqa: E402
import growth  # noqa: E402
import load  # noqa: E402


#: A minute's begin, ms.
TIME = 1_722_862_800_000


def run(*words: str) -> str:
    """Run a benchmark and return what it printed; 1 only says that it was too slow."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / words[0], *words[1:]],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    return done.stdout


# --- what is sent ---------------------------------------------------------------------------------


def test_orders_are_due_by_rate_and_bursts() -> None:
    """A burst of 500 begins at 15 s, takes one, and comes again 30 s later."""
    sent = [exchange.due(at, 10, 500) for at in (0.5, 14.9, 15.5, 16.0, 20.0, 45.0, 46.0)]
    assert sent == [5, 149, 155 + 250, 160 + 500, 200 + 500, 450 + 500, 460 + 1000]


def test_an_order_is_known_by_its_price_and_amount() -> None:
    """Across both rounds of steps, and beyond a hundred thousand."""
    sent = [0, 1, 9_972, 9_973, 10_006, 10_007, 7_000_000]
    found = []
    for number in sent:
        frame = exchange.order(number, TIME, exchange.symbols())
        assert int.from_bytes(frame[2:4], "big") == len(frame) - 4
        found.append(json.loads(frame[4:])["o"])
    assert {row["T"] for row in found} == {TIME}
    price, amount = (np.array([float(row[name]) for row in found]) for name in ("ap", "z"))
    assert exchange.numbers(price, amount).tolist() == sent
    assert len({row["s"] for row in found}) > 3


# --- what is checked ------------------------------------------------------------------------------


@pytest.fixture
def filled(sqlite_url: str) -> str:
    """Return a store with the first 200 orders as rows, of which 100 are packed."""
    with Store(sqlite_url, create=True) as store:
        rows: dict[str, list[tuple[int, int, float, float]]] = {}
        for number in range(200):
            text = exchange.order(number, TIME, exchange.symbols())[4:]
            order = json.loads(text)["o"]
            pair = exchange.pairs()[exchange.symbols().index(order["s"])]
            side = int(order["S"] == "BUY")
            at = TIME + number * 1_000
            rows.setdefault(pair, []).append((at, side, float(order["ap"]), float(order["z"])))
        with store.write() as writer:
            feed = writer.claim("binance", "linear", "binance", "test", TIME)
            writer.join(feed, rows, TIME)
            batch = {}
            for pair, own in rows.items():
                at_, side_, price, amount = (np.array(column) for column in zip(*own, strict=True))
                batch[pair] = make_events(at_, side_, price, amount, price * amount)
            feed, _ = writer.append(feed, batch, 0)
            writer.seal(feed, TIME, TIME)
        assert sum(one.events for one in load.compact(store, TIME + 100_000)) == 100
    return sqlite_url


WRONG = ("lost", "twice", "wrong", "bars")


def test_a_whole_store_has_nothing_wrong(filled: str) -> None:
    """Half of it lies in rows, half in segments."""
    found = load.verify(filled, 200)
    assert [found[name] for name in WRONG] == [0, 0, 0, 0]
    assert (found["events"], found["moved_last"], found["gaps"]) == (200, 100, 0)


def test_what_was_sent_and_is_not_there_is_lost(filled: str) -> None:
    """A row that is gone, and five orders that never came; its minute's bar counts too much."""
    execute(filled, f"DELETE FROM liq_event WHERE timestamp = {TIME + 150_000}")
    found = load.verify(filled, 205)
    assert [found[name] for name in WRONG] == [6, 0, 0, 1]


def test_what_stands_in_a_row_and_in_a_segment_is_there_twice(filled: str) -> None:
    """As if a step had packed events and had not deleted them."""
    with Store(filled) as store, store.read() as reader:
        (series,) = [one for one in reader.series() if len(reader.events(one, TIME, TIME + 1))]
        (one,) = reader.events(series, TIME, TIME + 1).key.tolist()
    execute(
        filled,
        "INSERT INTO liq_event (timestamp, series_id, key, received, side, price, amount, "
        f"value_usd, known) VALUES ({TIME}, {series.id}, {one}, 0, 1, 100, 1, 100, 0)",
    )
    found = load.verify(filled, 200)
    assert [found[name] for name in WRONG] == [0, 1, 0, 0]


def test_an_order_of_the_other_side_is_wrong(filled: str) -> None:
    """And both sums of its minute differ."""
    execute(filled, f"UPDATE liq_event SET side = 1 - side WHERE timestamp = {TIME + 150_000}")
    found = load.verify(filled, 200)
    assert [found[name] for name in WRONG] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("statement", "scanned"),
    [
        ("SELECT count(*) FROM liq_event WHERE amount > 1", 1),
        ("SELECT * FROM liq_segment WHERE start > 5", 1),
        (f"SELECT * FROM liq_event WHERE timestamp > {TIME}", 0),
        ("SELECT series_id FROM liq_event WHERE known > 0 AND known >= 5", 0),
    ],
)
def test_reading_a_growing_table_from_end_to_end_is_noticed(
    filled: str, statement: str, scanned: int
) -> None:
    """The last one has an index of its own."""
    assert len(growth.scans(filled, [(statement, ())])) == scanned


# --- the short forms ------------------------------------------------------------------------------


def test_load_loses_nothing() -> None:
    """Six seconds with a burst, four bots, and a collector that packs."""
    found = run("load.py", "--short", "--minutes", "0.1", "--every", "4")
    sent = re.search(r"^met +([\d,]+) sent, \1 stored, 0 lost, 0 twice, 0 wrong, 0 bars", found,
                     re.MULTILINE)  # fmt: skip
    assert sent is not None, found
    # 1,000 a second, and 5,000 in the first burst at least.
    assert int(sent[1].replace(",", "")) >= 11_000
    refreshes = re.search(r"([\d,]+) refreshes; ", found)
    assert refreshes is not None
    assert int(refreshes[1]) >= 4


def test_growth_reads_no_table_from_end_to_end() -> None:
    """2,000,000 events beside 100,000; each question says so."""
    found = run("growth.py", "--short")
    assert found.count("no full scan") == 3, found
    # 12 months of 104 orders of one contract, and of 522 of 319; some are equal by chance.
    assert re.search(r"^1,999,\d{3} events, ", found, re.MULTILINE), found


def test_the_live_loop_loses_nothing() -> None:
    """The short form of ``make bench`` leaves it out, as its processes take long to start."""
    found = run("live.py", "--quick")
    sent = re.search(r"([\d,]+) events at 10,000/s", found)
    assert sent is not None
    assert int(sent[1].replace(",", "")) > 20_000
    assert "events lost: 0 events" in found
    assert re.search(r"bench: \d of 4 goals met", found)
