"""Hyperliquid's ``node_fills_by_block``: what a full node wrote of all users' fills. Floor 1.

A file is an hour, some 40 MB, LZ4-compressed or not, with a line of JSON for each block:
``{"local_time", "block_time", "block_number", "events": [[user, fill], …]}``; fills as in
``exchanges/hyperliquid.py``. Every liquidation of all users is there, since 2025-07-27. The files
lie in Amazon's S3 (``s3://hl-mainnet-node-data/node_fills_by_block/hourly/20251027/17.lz4``), where
who reads pays for the transfer: ``import-data`` opens such URLs, or copies that lie on disk.

Traps. Both counterparties' fills carry the ``liquidation`` object, with one trade number (``tid``):
they are one liquidation. ``dir`` "Auto-Deleveraging" is none. Spot coins (``@107``, ``PURR/USDC``)
are no perpetuals. Of the markets that others deploy (``xyz:TSLA``, HIP-3) a fill does not say in
what they are settled, so no pair can be told: they are left out, and the note counts them.
``block_time`` is UTC with nanoseconds and no zone; a fill's ``time`` is the same in ms.

Coverage is the same for all perpetuals: from the first block to the last one. Blocks come several
times a second, so where two lines are more than 60 s apart something is missing. A node cuts its
files at full hours of its own clock (one of 14:00 begins with the block of 13:59:59.860), so each
ends somewhat before its hour does, and neighbours would leave a hole of a block's length. Therefore
a file whose first and last block lie within 5 s of two full hours covers all between these. A
perpetual that was traded in any of the files that are imported together is covered by all of them
(``whole_exchange``), whether it was liquidated in them or not; of one that was not, nothing is
known, because it may not have existed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import orjson
import pyarrow as pa

from liquidations.archives import MOST_FILE, MOST_SERIES, About, Options, Part
from liquidations.errors import LiquidationsError
from liquidations.event import Events, Ints, is_within, merge_intervals
from liquidations.exchanges.frames import (
    MALFORMED,
    Contract,
    Order,
    bad,
    moment,
    name,
    order_events,
)
from liquidations.exchanges.hyperliquid import fill_order


ABOUT = About(
    gives="single events",
    exchanges=("hyperliquid",),
    depth="since 2025-07-27",
    complete="every liquidation, of all users",
    outranks=True,
    whole_exchange=True,
    files=("*.lz4", "*.jsonl"),
    most=MOST_FILE,
)

#: Lines that are further apart (ms) leave a hole.
HOLE = 60_000
#: A full hour that is at most so far (ms) from a file's first or last block is its edge.
EDGE = 5_000

_HOUR = 3_600_000
_LZ4 = b"\x04\x22\x4d\x18"
_STEP = 2**22
# A block of the largest crash has some 10 MB of fills; what is longer is no line.
_LONGEST = 2**24
#: Blocks and liquidations of a file: an hour has some 50,000 blocks.
MOST_LINES, MOST_ORDERS = 1_000_000, 2_000_000
# Bytes of a file once decompressed; as a multiple of its size, or if it is small, at least.
_MOST_RATIO, _ALWAYS_FINE = 50, 2**31

_TIME = re.compile(rb'"block_time": ?"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z?"')
_COIN = re.compile(rb'"coin": ?"([^"]{1,40})"')
_PERPETUAL = re.compile(r"[A-Za-z0-9]{1,30}").fullmatch
_SHAPE = (
    'expected lines of JSON {"block_time": …, "events": [[user, fill], …]} as a node of '
    "Hyperliquid writes them (node_fills_by_block)"
)


def read(data: bytes, options: Options) -> list[Part]:
    """Read a file into one part for each perpetual that was traded in it.

    It is decompressed in steps, so that a few lines and the liquidations are all that is in memory.

    :raises LiquidationsError: if it is something else, or a liquidation in it can't be read.
    """
    stretches: list[int] = []  # the first and last block of each stretch without a hole
    orders: dict[Order, None] = {}
    coins: set[bytes] = set()
    last, number = b"", 0
    for lines in _lines(data):
        coins.update(_COIN.findall(lines))
        number += lines.count(b"\n") + 1
        for what, count, most in (
            ("lines", number, MOST_LINES),
            ("coins", len(coins), MOST_SERIES),
            ("liquidations", len(orders), MOST_ORDERS),
        ):
            if count > most:
                raise LiquidationsError(
                    f"it has more than {most:,} {what}, which no hour has; split it by time"
                )
        for line in lines.splitlines():
            if not last or b'"liquidation"' in line:
                orders |= dict.fromkeys(_orders(line))
            time = _time(line)
            if stretches and 0 <= time - stretches[-1] <= HOLE:
                stretches[-1] = time
            else:
                stretches += (time, time)
            last = line
    if not last:
        raise LiquidationsError("the file is empty: it was cut off; get it again")
    _orders(last)  # only to see that it is whole
    coverage = _coverage(stretches)
    names = (coin.decode(errors="replace") for coin in sorted(coins))
    contracts = {name: _contract(name) for name in names if _PERPETUAL(name)}
    events = order_events([one for one in orders if one.symbol in contracts], contracts)
    for pair, found in events.items():
        if not is_within(coverage, found.timestamp).all():
            raise LiquidationsError(f"{pair}: a fill has another time than all blocks; {_SHAPE}")
    nothing = Events.concat([])
    parts = [
        Part("hyperliquid", pair, "node_fills", events.get(pair, nothing), coverage)
        for pair in dict.fromkeys(one.pair for one in contracts.values())
    ]
    left_out = sum(":" in one.symbol for one in orders)
    if left_out and parts:
        note = f"besides, {left_out} liquidations of markets that others deploy were left out"
        parts[0] = replace(parts[0], note=note)
    return parts


def _lines(data: bytes) -> Iterator[bytes]:
    """Decompress a file in steps of whole lines, without blank ones."""
    rest, size, most = b"", 0, max(_ALWAYS_FINE, _MOST_RATIO * len(data))
    try:
        stream = pa.BufferReader(data)
        if data.startswith(_LZ4):
            stream = pa.CompressedInputStream(stream, "lz4")
        while step := stream.read(_STEP):
            size += len(step)
            if size > most:
                raise LiquidationsError(
                    f"it unpacks to more than {most / 2**30:.3g} GB, {_MOST_RATIO} times its size, "
                    "which no node's file does"
                )
            whole, line_break, rest = (rest + step).rpartition(b"\n")
            if len(rest) > _LONGEST:
                raise LiquidationsError(f"a line has more than {_LONGEST >> 20} MB; {_SHAPE}")
            if line_break and whole.strip():
                yield whole.strip()
    except OSError as error:
        raise LiquidationsError(
            f"this is damaged or was cut off ({error}); get the file again"
        ) from error
    if rest.strip():
        yield rest.strip()


def _orders(line: bytes) -> list[Order]:
    """Read the liquidations of a block; both fills of a trade give the same."""
    try:
        block = orjson.loads(line)
    except ValueError as error:
        if line.lstrip()[:1] == b"<":
            raise LiquidationsError(f"this is a web page; {_SHAPE}") from error
        raise LiquidationsError(
            f"a line is not JSON, or it was cut off ({error}); get the file again. {_SHAPE}"
        ) from error
    try:
        events = block["events"]
        found = [fill_order(name(user), fill) for user, fill in events]
    except MALFORMED as error:
        raise bad(block, _SHAPE.removeprefix("expected ")) from error
    return [order for order in found if order is not None]


def _time(line: bytes) -> int:
    """Find a block's time (ms), without parsing its fills."""
    found = _TIME.search(line)
    try:
        if found is None:
            raise ValueError
        whole, fraction = found[1].decode(), (found[2] or b"").decode()
        seconds = int(np.datetime64(whole, "s").astype(np.int64))
        return moment(seconds * 1000 + int(fraction[:3].ljust(3, "0")))
    except ValueError as error:
        raise LiquidationsError(f"a line has no readable block_time; {_SHAPE}") from error


def _coverage(stretches: list[int]) -> Ints:
    """Make intervals of the first and last blocks of stretches."""
    blocks = np.array(stretches, dtype=np.int64).reshape(-1, 2)
    coverage = merge_intervals(blocks + np.array([0, 1]))
    first, last = coverage[0, 0], coverage[-1, 1]
    start, end = (round(edge / _HOUR) * _HOUR for edge in (first, last))
    if start < end and abs(first - start) <= EDGE and abs(last - end) <= EDGE:
        coverage[0, 0], coverage[-1, 1] = min(first, start), max(last, end)
    return coverage


def _contract(coin: str) -> Contract:
    """Name the pair of a coin as ccxt does, which writes all letters large.

    >>> _contract("kPEPE").pair
    'KPEPE/USDC:USDC'
    """
    return Contract(f"{coin.upper()}/USDC:USDC", 1.0, False)
