"""Binance Vision, Binance's public files: liquidations of COIN-M, open interest of all futures.

A file is a ZIP of one CSV of one symbol and one UTC day; the CSV's own name tells both. No key.
Beside each lies a ``.CHECKSUM`` that begins with its SHA-256.

``BTCUSD_PERP-liquidationSnapshot-2024-08-05.zip``, from 2023-06-25 to 2024-10-14 with six days
missing: single events with the columns ``time,side,order_type,time_in_force,original_quantity,
price,average_price,order_status,last_fill_quantity,accumulated_fill_quantity``, with or without
this header. ``time`` is in ms. ``side`` is that of the ORDER: SELL closed a LONG. What counts is
``accumulated_fill_quantity`` at ``average_price``; ``price`` is the order's limit. Quantities are
contracts of 100 USD (BTC) or 10 USD (all others). It is what Binance's sampled stream said, at most
one order per symbol and second, so it is a lower bound. Those of USDⓈ-M were removed by Binance;
one that somebody kept is read too.

``BTCUSDT-metrics-2024-08-05.zip``, since 2020-09, about two days late: open interest each five
minutes with the columns ``create_time,symbol,sum_open_interest,sum_open_interest_value,…``. The
first is in base units, the second in USD; of COIN-M they are contracts and base units (Binance's
documentation, "Open Interest Statistics").

Traps: each liquidation stands twice, so each group of equal rows is halved. Dropping duplicates
would lose one of two equal orders of one millisecond, which are four rows. An order of which
nothing was filled is no liquidation. ``create_time`` is one step of five minutes earlier than the
time that the exchange itself gives to the same value, so it is moved: read as it stands, it is a
look into the future.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from liquidations.archives import (
    LIQUIDATIONS,
    OPEN_INTEREST,
    About,
    Answer,
    Ask,
    Context,
    Options,
    Part,
    Wanted,
)
from liquidations.candles import format_time
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import DAY, LONG, MINUTE, SHORT, Events, Floats, Ints, make_events
from liquidations.exchanges.frames import Contract, short


ABOUT = About(
    gives="single liquidations of COIN-M; open interest of all futures, each 5m",
    exchanges=("binance",),
    depth="liquidations 2023-06-25 to 2024-10-14; open interest since 2020-09",
    complete="a sample: at most one order per symbol and second",
    files=("*.zip",),
    most=2**24,
    url="https://data.binance.vision",
    kinds=(LIQUIDATIONS, OPEN_INTEREST),
    step=5 * MINUTE,
    parallel=4,
)

#: The names of contracts are a rule.
CATALOGUE: Ask | None = None

#: Of what is asked for: its name in paths, its first day and the day after its last, in ms UTC.
_KINDS = {
    LIQUIDATIONS: ("liquidationSnapshot", 1_687_651_200_000, 1_728_950_400_000),
    OPEN_INTEREST: ("metrics", 1_598_918_400_000, 2**62),
}

_STEP = 5 * MINUTE

#: What a file may unpack to. A day of one symbol has at most 16 MB: each second two rows.
MOST_BYTES = 64 * 2**20

#: What is larger is no price or quantity.
_MOST = 1e18

#: Bytes of a line with the names of columns.
_LONGEST_HEAD = 1_000

_MEMBER = re.compile(
    r"(?P<symbol>[^-/\\]+)-(?P<kind>liquidationSnapshot|metrics)-(?P<day>\d{4}-\d\d-\d\d)\.csv"
)
_SYMBOL = re.compile(
    r"(?P<inverse>[^_/:\s]+)USD_PERP|(?P<base>[^_/:\s]+?)(?P<quote>USDT|USDC|BUSD)"
)

_ORDERS = {
    "time": pa.int64(),
    "side": pa.string(),
    "order_type": pa.string(),
    "time_in_force": pa.string(),
    "original_quantity": pa.float64(),
    "price": pa.float64(),
    "average_price": pa.float64(),
    "order_status": pa.string(),
    "last_fill_quantity": pa.float64(),
    "accumulated_fill_quantity": pa.float64(),
}
_METRICS = {
    "create_time": pa.timestamp("ms"),
    "symbol": pa.string(),
    "sum_open_interest": pa.float64(),
    "sum_open_interest_value": pa.float64(),
}

#: What zipfile raises on what is none, or not a whole one.
_DAMAGED = (
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def perpetual(symbol: str) -> Contract | None:
    """Translate Binance's symbol of a perpetual that is quoted in dollars; None if it is no such.

    >>> perpetual("BTCUSDT"), perpetual("ETHUSD_PERP"), perpetual("BTCUSD_240628")
    (Contract(pair='BTC/USDT:USDT', size=1.0, inverse=False), \
Contract(pair='ETH/USD:ETH', size=10.0, inverse=True), None)
    """
    found = _SYMBOL.fullmatch(symbol)
    if found is None:
        return None
    base, quote = found["inverse"], found["quote"]
    if base:
        return Contract(f"{base}/USD:{base}", 100.0 if base == "BTC" else 10.0, True)
    return Contract(f"{found['base']}/{quote}:{quote}", 1.0, False)


def symbol_of(pair: str) -> str | None:
    """Return Binance's symbol of a perpetual; None if it has no such.

    >>> symbol_of("BTC/USDT:USDT"), symbol_of("BTC/USD:BTC"), symbol_of("BTC/EUR:EUR")
    ('BTCUSDT', 'BTCUSD_PERP', None)
    """
    name = pair.partition(":")[0].replace("/", "")
    for symbol in (name, f"{name}_PERP"):
        contract = perpetual(symbol)
        if contract is not None and contract.pair == pair:
            return symbol
    return None


def symbols(
    wanted: Collection[tuple[str, str]], catalogue: bytes | None = None
) -> dict[tuple[str, str], str]:
    """Find Binance's symbols of pairs; those of other exchanges are left out."""
    found = {one: symbol_of(one[1]) for one in wanted if one[0] == "binance"}
    return {one: symbol for one, symbol in found.items() if symbol}


def asks(wanted: Wanted) -> Iterator[Ask]:
    """List the files of the days that are over; of USDⓈ-M there are none of liquidations."""
    kind, first, end = _KINDS[wanted.kind]
    inverse = wanted.symbol.endswith("USD_PERP")
    if wanted.kind == LIQUIDATIONS and not inverse:
        return
    # The stamp of a day's first value is that of the last row of the day before.
    start = wanted.start - 2 * _STEP if wanted.kind == OPEN_INTEREST else wanted.start
    for time in days(max(start, first), min(wanted.end, end, wanted.now - DAY + 1)):
        day = format_day(time)
        folder = f"/data/futures/{'cm' if inverse else 'um'}/daily/{kind}/{wanted.symbol}"
        path = f"{folder}/{wanted.symbol}-{kind}-{day}.zip"
        yield Ask(path, checksum=f"{path}.CHECKSUM", label=day)


def days(start: int, end: int) -> Iterator[int]:
    """List the UTC days, by their beginnings, that have a part in ``[start, end)`` ms."""
    yield from range(start // DAY * DAY, end, DAY)


def format_day(time: int) -> str:
    """Write the UTC day of a time in ms as ``2024-08-05``."""
    return format_time(time)[:10]


def read_day(text: str) -> int:
    """Read a day, as ``2024-08-05``, as the ms UTC at which it begins.

    :raises LiquidationsError: if there is no such day.
    """
    try:
        return int(np.datetime64(text, "ms").astype(np.int64))
    except ValueError as error:
        raise LiquidationsError(f"there is no day {text!r}") from error


def answer(data: bytes, ask: Ask, wanted: Wanted, options: Options) -> Answer:
    """Read the file that was asked for.

    :raises LiquidationsError: if it is none, or of another contract, day or kind.
    """
    symbol, kind, day, text = _unpack(data)
    if (symbol, kind, format_day(day)) != (wanted.symbol, _KINDS[wanted.kind][0], ask.label):
        raise LiquidationsError(
            f"asked for {ask.path}, got {symbol}-{kind}-{format_day(day)}; try again later"
        )
    return [_part(symbol, kind, day, text)], None


def read(data: bytes, options: Options) -> list[Part | Context]:
    """Read a file of liquidations into one part, or one of open interest.

    :raises LiquidationsError: if it is none, was cut off, or has rows of another day.
    """
    return [_part(*_unpack(data))]


def _unpack(data: bytes) -> tuple[str, str, int, bytes]:
    """Return symbol, kind, day (ms) and text of the one CSV in a ZIP, without touching the disk."""
    refuse_page(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            first = members[0] if len(members) == 1 else None
            # Other methods can't be unpacked in bounded steps; the lowest bit means a password.
            if (
                first is None
                or first.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                or first.flag_bits & 1
            ):
                raise LiquidationsError(
                    "expected a ZIP of one CSV, deflated and without a password"
                )
            if first.file_size > MOST_BYTES:
                raise LiquidationsError(
                    f"it unpacks to {first.file_size:,} bytes, more than a day of one symbol has"
                )
            found = _MEMBER.fullmatch(first.filename)
            if found is None:
                raise OtherAnswer(
                    f"the ZIP holds {short(first.filename)!r}; expected a name such as "
                    "BTCUSD_PERP-liquidationSnapshot-2024-08-05.csv or "
                    "BTCUSDT-metrics-2024-08-05.csv"
                )
            with archive.open(first) as file:
                text = file.read(first.file_size)  # and no more, whatever it unpacks to
    except _DAMAGED as error:
        raise LiquidationsError(
            f"this is no ZIP, or it was cut off ({short(str(error))}); get the file again"
        ) from error
    if not text:
        raise LiquidationsError(f"{first.filename} is empty; get the file again")
    return found["symbol"], found["kind"], read_day(found["day"]), text


def _part(symbol: str, kind: str, day: int, text: bytes) -> Part | Context:
    contract = perpetual(symbol)
    if contract is None:
        raise LiquidationsError(
            f"{symbol!r} is no perpetual that is quoted in dollars, such as BTCUSD_PERP; "
            "futures with a date are not read"
        )
    if kind == "metrics":
        return _open_interest(symbol, contract, day, text)
    return _orders(contract, day, text)


def _orders(contract: Contract, day: int, text: bytes) -> Part:
    names = None if text[:1].isalpha() else list(_ORDERS)
    table, first = read_csv(text, _ORDERS, names)
    time, price, size = (
        table[name].to_numpy() for name in ("time", "average_price", "accumulated_fill_quantity")
    )
    check_rows((time >= 10**12) & (time < 10**13), first, time, "time must be 13 digits, ms UTC")
    _check_day(time, day, DAY - 1, first)
    sides = table["side"].to_pandas()
    check_rows(sides.isin(["SELL", "BUY"]).to_numpy(), first, sides, "side must be SELL or BUY")
    check_rows((size >= 0) & (size < _MOST), first, size, "no accumulated_fill_quantity")
    filled = size > 0
    check_rows(~filled | ((price > 0) & (price < _MOST)), first, price, "no average_price")
    equal = table.filter(pa.array(filled)).group_by(table.column_names, use_threads=False)
    groups = equal.aggregate([([], "count_all")])
    count = groups["count_all"].to_numpy()
    twice = np.repeat(np.arange(len(count)), (count + 1) // 2)
    time, price, size = (
        groups[name].to_numpy()[twice]
        for name in ("time", "average_price", "accumulated_fill_quantity")
    )
    side = np.where(groups["side"].to_pandas().to_numpy()[twice] == "SELL", LONG, SHORT)
    odd = int((count % 2).sum())
    note = f"{odd} orders of {format_day(day)} do not stand twice, but an odd number of times"
    return Part(
        "binance",
        contract.pair,
        "binance_vision",
        contract_events(contract, time, side, price, size),
        np.array([[day, day + DAY]]),
        note=note if odd else "",
    )


def _open_interest(symbol: str, contract: Contract, day: int, text: bytes) -> Context:
    table, first = read_csv(text, _METRICS, empty=[""])
    named = table["symbol"].to_pandas()
    check_rows((named == symbol).to_numpy(), first, named, f"it is not of {symbol}")
    time = table["create_time"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    # The files of some years begin at 0:00, those of others at 0:05 and end at 0:00.
    _check_day(time, day, DAY, first)
    one, other = (
        table[name].to_numpy() for name in ("sum_open_interest", "sum_open_interest_value")
    )
    known = (one >= 0) & (one < np.inf) & (other >= 0) & (other < np.inf)
    check_rows(known | np.isnan(one) | np.isnan(other), first, one, "no sum_open_interest")
    # A value that was stamped between two steps counts from the next one on, never earlier.
    stamp = -(-time[known] // _STEP) * _STEP + _STEP
    # Where a time stands twice, the last row counts.
    stamp, last = np.unique(stamp[::-1], return_index=True)
    one, other = (column[known][::-1][last] for column in (one, other))
    amount, value = (other, one * contract.size) if contract.inverse else (one, other)
    values = {"open_interest_amount": amount, "open_interest_value": value}
    pair = contract.pair
    return Context(OPEN_INTEREST, "binance", pair, "binance_vision", _STEP, stamp, values)


def _check_day(time: Ints, day: int, length: int, first: int) -> None:
    check_rows(
        (time >= day) & (time <= day + length),
        first,
        time,
        f"it is not of {format_day(day)} UTC: the file is misnamed, or of another time zone",
    )


# --- what files of CSV are read with ------------------------------------------------------------


def refuse_page(data: bytes) -> None:
    """Refuse a web page, which is what some answer in place of a file.

    :raises LiquidationsError: if it is one.
    """
    if data[:64].lstrip()[:1] == b"<":
        raise LiquidationsError(
            "this is a web page, not a file; look at it in a browser, it may say why"
        )


def read_csv(
    text: bytes,
    types: Mapping[str, pa.DataType],
    names: Sequence[str] | None = None,
    first: int = 1,
    empty: Sequence[str] = (),
) -> tuple[pa.Table, int]:
    """Read the columns of CSV that ``types`` names.

    :param names: of its columns; without them they stand in its first line
    :param first: the number of its first line, for messages
    :param empty: how a number is written that is not known; without it each must be one
    :return: the columns, and the number of the line of their first row
    :raises LiquidationsError: if a column is not there, or a row can't be read, naming it.
    """
    if names is None:
        head, _, text = text.partition(b"\n")
        if len(head) > _LONGEST_HEAD:
            raise LiquidationsError(f"its first line has {len(head):,} bytes; get the file again")
        names = head.decode(errors="replace").strip().split(",")
        first += 1
    if missing := [name for name in types if names.count(name) != 1]:
        raise LiquidationsError(
            f"there is no column {', '.join(missing)}; the first line is {short(','.join(names))!r}"
        )
    if not text:
        return pa.table({name: pa.array([], kind) for name, kind in types.items()}), first
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(text),
            # A single block: then each column is a single array, and rows are counted.
            pa_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(text)),
            pa_csv.ParseOptions(quote_char=False),
            pa_csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=list(empty)
            ),
        )
    except pa.ArrowInvalid as error:
        line = re.search(r"Row #(\d+): (.*)", str(error), re.DOTALL)
        what = f"row {int(line[1]) + first - 1}: {line[2]}" if line else str(error)
        raise LiquidationsError(
            f"{short(what)}; get the file again, it may have been cut off"
        ) from error
    return table, first


def check_rows(good: np.ndarray, first: int, values: Any, what: str) -> None:
    """Refuse rows that are not good, naming the first of them.

    :param first: the number of the line of the first row
    """
    bad = np.flatnonzero(~good)
    if bad.size:
        raise LiquidationsError(f"row {first + bad[0]}: {what}, got {short(str(values[bad[0]]))}")


def contract_events(
    contract: Contract,
    time: Ints,
    side: np.ndarray,
    price: Floats,
    size: Floats,
    **more: Any,
) -> Events:
    """Build the events of one contract, as ``frames.order_events`` does of single orders.

    :param more: as ``make_events`` has it
    """
    held = size if contract.size == 1.0 else size * contract.size
    amount, value = (held / price, held) if contract.inverse else (held, held * price)
    return make_events(time, side, price, amount, value, **more)
