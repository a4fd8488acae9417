"""Hyperliquid's files of all fills: what counts once, what not at all, and what a file covers."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from conftest import same_bits, spans, utc
from hypothesis import given
from hypothesis import strategies as st

from liquidations.archives import Options, Part, node_fills
from liquidations.archives.node_fills import read
from liquidations.errors import LiquidationsError
from liquidations.event import LONG, SHORT


T = utc("2025-10-27 17:00")
HOUR = 3_600_000
ADA, BOB, EVE = (f"0x{digit * 40}" for digit in "abe")


def block(time: int, *events: list, nano: int = 0) -> dict:
    text = str(np.datetime64(time, "ms").astype("datetime64[ns]") + np.timedelta64(nano, "ns"))
    return {"local_time": text, "block_time": text, "block_number": 1, "events": list(events)}


def fill(user: str, time: int, side: str, liquidated: str | None = None, **fields) -> list:
    own = {"coin": "BTC", "px": "100000.0", "sz": "0.5", "side": side, "time": time, "tid": 1}
    own |= {"startPosition": "0.0", "dir": "Open Long"}
    if liquidated:
        own["liquidation"] = {"liquidatedUser": liquidated, "markPx": "1", "method": "market"}
    return [user, own | fields]


def lines(*blocks: dict) -> bytes:
    return "".join(f"{json.dumps(one, separators=(',', ':'))}\n" for one in blocks).encode()


def lz4(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def by_pair(data: bytes) -> dict[str, Part]:
    return {part.pair: part for part in read(data, Options())}


def one(*blocks: dict) -> Part:
    return by_pair(lines(*blocks))["BTC/USDC:USDC"]


# --- sides and twins ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "side", "expected"),
    [(ADA, "A", LONG), (ADA, "B", SHORT), (BOB, "B", LONG), (BOB, "A", SHORT)],
)
def test_whose_fill_it_is_tells_the_side(user, side, expected):
    part = one(block(T, fill(user, T, side, ADA)))
    assert part.rows.side.tolist() == [expected]


def test_both_fills_of_a_trade_are_one_liquidation():
    sold, bought = fill(ADA, T, "A", ADA), fill(BOB, T, "B", ADA)
    for events in ([sold], [bought], [sold, bought], [bought, sold]):
        rows = one(block(T, *events)).rows
        assert (rows.side.tolist(), rows.value_usd.tolist()) == ([LONG], [50_000.0])
    # Also where a file was joined from two that overlap.
    assert len(one(block(T, sold), block(T, bought), block(T, sold)).rows) == 1


def test_equal_trades_with_numbers_of_their_own_are_two():
    rows = one(block(T, fill(ADA, T, "A", ADA, tid=1), fill(ADA, T, "A", ADA, tid=2))).rows
    assert len(set(rows.key.tolist())) == 2


def test_the_recorded_block_counts_its_liquidation_once(recorded):
    (file,) = (recorded / "frames").glob("hyperliquid_node_fills_by_block_*.jsonl")
    data = file.read_bytes()
    found = by_pair(data)
    # WLFI: both fills are there. The liquidated user bought, so a short was closed.
    assert {pair: len(part.rows) for pair, part in found.items()} == {
        "MELANIA/USDC:USDC": 0,
        "WLFI/USDC:USDC": 1,
    }
    rows = found["WLFI/USDC:USDC"].rows
    assert (rows.side.tolist(), rows.amount.tolist()) == ([SHORT], [890.0])
    assert rows.value_usd[0] == pytest.approx(136.4103, abs=1e-7)
    again = by_pair(lz4(data))["WLFI/USDC:USDC"]
    same_bits(again.rows, rows)


def test_what_is_no_liquidation_of_a_perpetual_is_left_out_and_said():
    events = [
        fill(ADA, T, "A"),
        fill(ADA, T, "A", ADA, dir="Auto-Deleveraging", tid=2),
        fill(ADA, T, "B", coin="@107", tid=3),
        fill(ADA, T, "B", coin="PURR/USDC", tid=4),
        fill(ADA, T, "A", ADA, coin="xyz:TSLA", tid=5),
        fill(BOB, T, "B", ADA, coin="xyz:TSLA", tid=5),
        fill(EVE, T, "A", EVE, coin="flx:GOLD", tid=6),
        fill(ADA, T, "A", coin="kPEPE", tid=7),
    ]
    found = by_pair(lines(block(T, *events)))
    assert {pair: len(part.rows) for pair, part in found.items()} == {
        "BTC/USDC:USDC": 0,
        "KPEPE/USDC:USDC": 0,
    }
    notes = [part.note for part in found.values() if part.note]
    assert notes == ["besides, 2 liquidations of markets that others deploy were left out"]


# --- coverage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # One block proves its own millisecond.
        ([T + 2_387], [(T + 2_387, T + 2_388)]),
        ([T + 7_000, T + 60_000], [(T + 7_000, T + 60_001)]),
        # Just not a hole, and a hole.
        ([T + 7_000, T + 67_000, T + 90_000], [(T + 7_000, T + 90_001)]),
        ([T + 7_000, T + 67_001], [(T + 7_000, T + 7_001), (T + 67_001, T + 67_002)]),
    ],
)
def test_blocks_prove_the_time_between_them(times, expected):
    part = one(*(block(time, fill(ADA, time, "A")) for time in times))
    assert part.coverage.tolist() == spans(*expected).tolist()


def hour_of(first: int, last: int) -> list[dict]:
    steps = [*range(first, last, 50_000), last]
    return [block(time, fill(ADA, time, "A")) for time in steps]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        # A node cuts its files by its own clock: the first block is of the hour before.
        (T - 140, T + HOUR - 230, (T - 140, T + HOUR)),
        (T + 5_000, T + HOUR - 5_000, (T, T + HOUR)),
        (T + 80, T + 3 * HOUR + 4_000, (T, T + 3 * HOUR + 4_001)),
        # A file that was cut off, or was begun late, is not a whole hour.
        (T + 80, T + HOUR - 5_002, (T + 80, T + HOUR - 5_001)),
        (T + 5_001, T + HOUR - 100, (T + 5_001, T + HOUR - 99)),
    ],
)
def test_a_file_of_a_full_hour_covers_it_to_its_ends(first, last, expected):
    part = one(*hour_of(first, last))
    assert part.coverage.tolist() == [list(expected)]


def test_neighbouring_hours_leave_no_hole():
    parts = [one(*hour_of(T + hour * HOUR - 140, T + (hour + 1) * HOUR - 230)) for hour in range(2)]
    assert parts[0].coverage[-1, 1] >= parts[1].coverage[0, 0]


def test_empty_blocks_count_as_being_there():
    part = one(block(T + 7_000, fill(ADA, T + 7_000, "A")), block(T + 50_000), block(T + 99_000))
    assert part.coverage.tolist() == [[T + 7_000, T + 99_001]]


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=8), st.integers(0, 999_999))
def test_coverage_is_what_a_plain_loop_says(offsets, nano):
    times = sorted(T + 600_000 + offset for offset in offsets)
    part = one(*(block(time, fill(ADA, time, "A"), nano=nano) for time in times))
    covered: set[int] = set()
    for earlier, later in itertools.pairwise(times):
        if later - earlier <= 60_000:
            covered |= set(range(earlier, later + 1))
    covered |= set(times)
    assert covered == {ms for start, end in part.coverage.tolist() for ms in range(start, end)}


# --- files --------------------------------------------------------------------------------------


def test_a_file_may_be_of_several_frames_and_lines_may_lie_across_steps(monkeypatch):
    blocks = [block(T + n, fill(ADA, T + n, "A", ADA, tid=n)) for n in range(50)]
    whole = read(lines(*blocks), Options())
    monkeypatch.setattr(node_fills, "_STEP", 37)
    joined = lz4(lines(*blocks[:9])) + lz4(lines(*blocks[9:]))
    for data in (lines(*blocks), lz4(lines(*blocks)), joined):
        (part,) = read(data, Options())
        same_bits(part.rows, whole[0].rows)
        assert part.coverage.tolist() == whole[0].coverage.tolist()


def test_lines_without_liquidations_are_not_parsed():
    odd = lines(block(T + 1)).replace(b'"events":[]', b'"events":what')
    data = lines(block(T)) + odd + lines(block(T + 2, fill(ADA, T + 2, "A", ADA)))
    assert len(by_pair(data)["BTC/USDC:USDC"].rows) == 1


def test_spaces_in_the_json_are_read_too():
    data = json.dumps(block(T, fill(ADA, T, "A", ADA))).encode()
    assert by_pair(data)["BTC/USDC:USDC"].rows.timestamp.tolist() == [T]


GOOD = fill(ADA, T, "A", ADA)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b"\n\n", "empty"),
        (lines(block(T, GOOD))[:-2], "cut off"),
        (lz4(lines(block(T, GOOD)))[:-1], "cut off"),
        (lz4(lines(block(T, GOOD))) + b"rest", "damaged"),
        (b"<html></html>", "web page"),
        (lines({"block_time": "2025-10-27T17:00:00"}), "node_fills_by_block"),
        (lines({"events": []}), "block_time"),
        (lines({"events": [], "block_time": "2025-13-27T17:00:00"}), "block_time"),
        (lines({"events": [], "block_time": "1925-10-27T17:00:00"}), "block_time"),
        # The older format has a pair of user and fill in each line.
        (lines(fill(ADA, T, "A")), "node_fills_by_block"),  # type: ignore[arg-type]
        (lines(block(T, [ADA])), "node_fills_by_block"),
        (lines(block(T, [1, GOOD[1]])), "node_fills_by_block"),
        (lines(block(T, fill(ADA, T, "X", ADA))), "a fill"),
        (lines(block(T, fill(ADA, T, "A", "ada"))), "a fill"),
        (lines(block(T, fill(ADA, T, "A", ADA, px="-1"))), "a fill"),
        (lines(block(T, fill(ADA, T, "A", ADA, tid="1"))), "a fill"),
        (lines(block(T, fill(ADA, T + 1, "A", ADA))), "another time"),
    ],
)
def test_what_can_not_be_is_refused(data, message):
    with pytest.raises(LiquidationsError, match=message):
        read(data, Options())


def test_a_small_file_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(node_fills, "_LONGEST", 2**16)
    monkeypatch.setattr(node_fills, "_STEP", 2**12)
    bomb = lz4(b" " * 2**20)
    assert len(bomb) < 2**14
    with pytest.raises(LiquidationsError, match="a line has more than"):
        read(lz4(lines(block(T))) + bomb, Options())
    # Many equal lines are one.
    many = lz4(lines(block(T, GOOD)) * 2_000)
    (part,) = read(many, Options())
    assert len(part.rows) == 1
