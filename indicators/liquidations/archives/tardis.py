"""Tardis, ``liquidations`` as CSV: single events of years, recorded from the exchanges' streams.

A file ``/v1/bybit/liquidations/2024/08/05/BTCUSDT.csv.gz`` has the columns ``exchange,symbol,
timestamp,local_timestamp,id,side,price,amount``. Both times are in microseconds UTC: the
exchange's, and that of Tardis when the message came. Files are one UTC day each, cut by the latter.
The first day of each month is free, all others need a key (``TARDIS_API_KEY``); a day can be had
from about 6:00 UTC of the next one. A symbol is named as its exchange does, in capitals;
``PERPETUALS`` in its place is a file of all of them, which is read too. Sources: Tardis'
documentation, "Downloadable CSV files"; its normaliser tardis-node.

- ``binance-futures`` (since 2019-11-17) amounts are base units. Tardis keeps filled orders only.
  Its price is the order's limit in some versions of the normaliser and the average in others; the
  limit can be far from the market, and USD values are as far off as it is.
- ``binance-delivery`` (since 2020-06-16) are contracts of 100 USD (BTC) or 10 USD (all others); the
  price does not enter into USD values.
- ``bybit`` (since 2020-12-18) are base units, of inverse contracts USD. Complete since 2025-02-26.
- ``okex-swap`` (since 2020-12-18) are contracts, whose sizes OKX tells; it tells today's.
- Hyperliquid is recorded without liquidations.

``side`` is that of the ORDER on all of them, also on Bybit: ``sell`` means that a LONG was
liquidated. What an exchange's stream leaves out is missing here too: see ``REGIMES``.

Traps: an empty file says that there is no data, because nothing happened or because Tardis did not
record; so it covers nothing. An order of the last second of a day may stand in the next day's file.
OKX tells an old order again after each subscription: equal rows that came more than 10 s apart are
one order. Tardis' files of trades have the same columns; they have an id in each row, which no
liquidation of these exchanges has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from liquidations.archives import MOST_FILE, MOST_SERIES, About, Answer, Ask, Options, Part, Wanted
from liquidations.archives.binance_vision import (
    check_rows,
    contract_events,
    days,
    format_day,
    perpetual,
    read_csv,
    read_day,
    refuse_page,
    symbol_of,
)
from liquidations.errors import LiquidationsError, OtherAnswer
from liquidations.event import DAY, EARLIEST, LATEST, LONG, SHORT, Events, Floats, Ints, order_of
from liquidations.exchanges.frames import Contract, is_dollar, short
from liquidations.pairs import is_inverse


ABOUT = About(
    gives="single liquidations",
    exchanges=("binance", "bybit", "okx"),
    depth="since 2019-11 (Binance) or 2020-12 (Bybit, OKX); the first of each month without a key",
    complete="what the exchanges' streams gave: samples, Bybit complete since 2025-02-26",
    files=("*.csv.gz", "*.csv"),
    most=MOST_FILE,
    url="https://datasets.tardis.dev/v1",
    key="TARDIS_API_KEY",
    key_from="sold at https://tardis.dev",
    header="Authorization: Bearer {key}",
    key_optional=True,
    parallel=4,
)

#: The names of contracts are a rule.
CATALOGUE: Ask | None = None

#: What a file may unpack to, and its rows; 5,000,000 have some 400 MB, and take 800 MB to read.
MOST_BYTES, MOST_ROWS = 2 * 2**30, 10_000_000
# What a packed file may unpack to, as a multiple of its size (theirs are some 6), or at least.
_MOST_RATIO, _ALWAYS_FINE = 50, 2**28
# A packed row takes some 15 bytes; less than so many are none of Tardis', but for a few.
_LEAST_BYTES, _FEW_ROWS = 2, 1_000_000
#: What is unpacked and read at a time; for so many rows there is room at first.
_BLOCK, _ROOM = 2**23, 2**17

#: Equal rows that came so much later (ms) than the first of them are the same order, told again.
REPEATED = 10_000

#: Tardis' name of an exchange → the exchange, and since when (ms UTC) it has liquidations.
_VENUES = {
    "binance-futures": ("binance", 1_573_948_800_000),
    "binance-delivery": ("binance", 1_592_265_600_000),
    "bybit": ("bybit", 1_608_249_600_000),
    "okex-swap": ("okx", 1_608_249_600_000),
}

#: A day's file is made until about so much (ms) after its end.
_MADE = 6 * 3_600_000

_BYBIT = re.compile(r"(?P<base>[^-_/:\s]+?)(?P<quote>USDT|PERP|USD)")
_DAY = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d)")

_SIDE = {"sell": LONG, "buy": SHORT}

_NAME = pa.dictionary(pa.int32(), pa.string())
_TYPES = {
    "exchange": _NAME,
    "symbol": _NAME,
    "timestamp": pa.int64(),
    "local_timestamp": pa.int64(),
    "id": _NAME,
    "side": _NAME,
    "price": pa.float64(),
    "amount": pa.float64(),
}

#: How far (ms) an exchange's clock may be ahead of Tardis'.
_AHEAD = 60_000
#: No name is longer.
_LONGEST = 64


def venue_of(exchange: str, pair: str) -> str | None:
    """Return Tardis' name of the part of an exchange that lists a pair; None if it has none.

    >>> venue_of("binance", "BTC/USDT:USDT"), venue_of("binance", "BTC/USD:BTC")
    ('binance-futures', 'binance-delivery')
    """
    if exchange == "binance":
        return "binance-delivery" if is_inverse(pair) else "binance-futures"
    return {"bybit": "bybit", "okx": "okex-swap"}.get(exchange)


def bybit_contract(symbol: str) -> Contract | None:
    """Translate Bybit's symbol of a perpetual; None if it is no such.

    >>> bybit_contract("BTCPERP"), bybit_contract("BTCUSD"), bybit_contract("BTCUSDH24")
    (Contract(pair='BTC/USDC:USDC', size=1.0, inverse=False), \
Contract(pair='BTC/USD:BTC', size=1.0, inverse=True), None)
    """
    found = _BYBIT.fullmatch(symbol)
    if found is None:
        return None
    base, inverse = found["base"], found["quote"] == "USD"
    quote_ = {"PERP": "USDC"}.get(found["quote"], found["quote"])
    return Contract(f"{base}/{quote_}:{base if inverse else quote_}", 1.0, inverse)


def _symbol(exchange: str, pair: str) -> str | None:
    if exchange == "binance":
        return symbol_of(pair)
    base, _, rest = pair.partition("/")
    quote_, _, settle = rest.partition(":")
    if exchange == "okx" and is_dollar(quote_) and settle == (base if quote_ == "USD" else quote_):
        return f"{base}-{quote_}-SWAP"
    symbol = f"{base}{'PERP' if quote_ == 'USDC' else quote_}"
    contract = bybit_contract(symbol) if exchange == "bybit" else None
    return symbol if contract is not None and contract.pair == pair else None


def symbols(
    wanted: Collection[tuple[str, str]], catalogue: bytes | None = None
) -> dict[tuple[str, str], str]:
    """Find the exchanges' symbols of pairs; exchanges without liquidations are left out."""
    found = {one: _symbol(*one) for one in wanted}
    return {one: symbol for one, symbol in found.items() if symbol}


def asks(wanted: Wanted) -> Iterator[Ask]:
    """List the files of the days that were made; the first of each month needs no key."""
    venue = venue_of(wanted.exchange, wanted.pair)
    first = _VENUES[venue][1] if venue else wanted.end
    for time in days(max(wanted.start, first), min(wanted.end, wanted.now - DAY - _MADE + 1)):
        day = format_day(time)
        name = quote(wanted.symbol.upper(), safe="")
        path = f"/{venue}/liquidations/{day.replace('-', '/')}/{name}.csv.gz"
        yield Ask(path, label=day, keyless=day.endswith("-01"))


def answer(data: bytes, ask: Ask, wanted: Wanted, options: Options) -> Answer:
    """Read the file that was asked for; an empty one brings nothing and covers nothing.

    :raises LiquidationsError: if it is none, or of another contract or day.
    """
    parts = _read(data, options, read_day(ask.label))
    found = {(part.exchange, part.pair) for part in parts}
    if found - {(wanted.exchange, wanted.pair)}:
        raise LiquidationsError(f"asked for {ask.path}, got {', '.join(map(' '.join, found))}")
    return list(parts), None


def read(data: bytes, options: Options) -> list[Part]:
    """Read a file of one or several symbols into one part per contract.

    ``options.name`` tells its day, as in Tardis' own names; without it the rows do.

    :raises LiquidationsError: if it is none, was cut off, or has rows of another day.
    """
    named = _DAY.search(options.name)
    return _read(data, options, read_day("-".join(named.groups())) if named else None)


def _read(data: bytes, options: Options, day: int | None) -> list[Part]:
    rows = _Rows(day, min(MOST_ROWS, max(_FEW_ROWS, len(data) // _LEAST_BYTES)))
    for text in _blocks(data):
        rows.add(text)
    pa.default_memory_pool().release_unused()
    if rows.day is None or rows.venue is None:
        return []
    contract_of = _contracts(rows.venue, options)
    parts, unknown = [], []
    for symbol, columns in rows.by_symbol():
        try:
            contract = contract_of(symbol)
        except KeyError:
            unknown.append(symbol)
            continue
        if contract is not None:
            parts.append(_part(_VENUES[rows.venue][0], contract, rows.day, columns))
    if unknown:
        note = f"the sizes of these contracts are not known: {short(', '.join(unknown))}"
        if not parts:
            raise LiquidationsError(
                f"{note}. OKX tells those that it lists; import-data takes others by --markets FILE"
            )
        parts[0] = replace(parts[0], note="; ".join(filter(None, (parts[0].note, note))))
    return parts


def _contracts(venue: str, options: Options) -> Callable[[str], Contract | None]:
    """Return what finds a contract; None if it is no perpetual quoted in dollars.

    What it returns raises KeyError if the size is not known.
    """
    if venue != "okex-swap":
        return bybit_contract if venue == "bybit" else perpetual
    sizes = options.contracts()

    def of_okx(symbol: str) -> Contract | None:
        _, quote_, kind = (*symbol.split("-"), "", "")[:3]
        return sizes[symbol] if kind == "SWAP" and is_dollar(quote_) else None

    return of_okx


def _part(exchange: str, contract: Contract, day: int, columns: list[np.ndarray]) -> Part:
    """Build the part of one contract; the list is emptied, because its arrays may be large."""
    if np.any(columns[0][1:] < columns[0][:-1]):
        order = np.argsort(columns[0], kind="stable")
        columns[:] = (columns.pop(0)[order] for _ in range(len(columns)))
    rank, again = _count_equals(*columns)
    if len(again):
        rank = np.delete(rank, again)
        columns[:] = (np.delete(columns.pop(0), again) for _ in range(len(columns)))
    time, arrival, *rest = columns
    events = contract_events(contract, time, *rest, received=arrival, rank=rank, sort=False)
    del time, arrival, rest[:], columns[:]
    # In order of key too, as the store wants them: else it would hold both while it orders them.
    order = order_of(events.timestamp, events.key)
    if np.any(order[1:] < order[:-1]):
        arrays = events.arrays()
        del events
        events = Events(*(arrays.pop(name)[order] for name in Events.names()))
    note = f"{len(again)} rows of {format_day(day)} tell an order again" if len(again) else ""
    return Part(exchange, contract.pair, "tardis", events, np.array([[day, day + DAY]]), note=note)


def _count_equals(
    time: Ints, arrival: Ints, side: np.ndarray, price: Floats, size: Floats
) -> tuple[Ints, Ints]:
    """Number equal rows of one millisecond as ``event.count_equals`` does, in order of arrival.

    It sorts only those that share their millisecond, which are few.

    :param time: in order
    :return: the number of each row, and the positions of those that came ``REPEATED`` after the
        first of their equals
    """
    rank = np.zeros(len(time), np.int64)
    near = time[1:] == time[:-1]
    rows = np.flatnonzero(np.append(near, False) | np.append(False, near))
    rows = rows[
        np.lexsort((arrival[rows], *(column[rows] for column in (size, price, side, time))))
    ]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = np.any([np.diff(column[rows]) != 0 for column in (size, price, side, time)], axis=0)
    position = np.arange(len(rows))
    start = np.maximum.accumulate(np.where(first, position, 0))
    rank[rows] = position - start
    return rank, rows[arrival[rows] - arrival[rows[start]] > REPEATED]


class _Rows:
    """Collect the rows of a file, block by block, as small columns."""

    def __init__(self, day: int | None, most: int) -> None:
        self.day = day
        self._most = most
        self.venue: str | None = None
        self._symbols: dict[str, int] = {}
        self._rows = 0
        # Symbol, time, arrival, side, price and size. Their ends are not written yet, and so take
        # no memory: many small arrays would take twice as much of it.
        types = (np.int32, np.int64, np.int64, np.int8, np.float64, np.float64)
        self._columns = [np.empty(0, one) for one in types]

    def add(self, text: bytes) -> None:
        """Read the lines of a block."""
        table, first = read_csv(text, _TYPES, list(_TYPES), self._rows + 2)
        if not len(table):
            return
        own, names = _codes(table["id"], {"": 0})
        if len(names) > 1:
            row = first + int(np.flatnonzero(own)[0])
            raise OtherAnswer(f"row {row} has an id, so these are trades; expected liquidations")
        venue, names = _codes(table["exchange"], {self.venue: 0} if self.venue else {})
        of_venue = f"expected one exchange of {', '.join(_VENUES)}"
        check_rows((venue == 0) & (names[0] in _VENUES), first, table["exchange"], of_venue)
        self.venue = names[0]
        symbol, _ = _codes(table["symbol"], self._symbols)
        if len(self._symbols) > MOST_SERIES:
            raise LiquidationsError(f"it has more than {MOST_SERIES:,} symbols")
        side, _ = _codes(table["side"], dict(_SIDE))
        check_rows(side < len(_SIDE), first, table["side"], "side must be buy or sell")
        time, arrival, price, size = (
            table[name].to_numpy() for name in ("timestamp", "local_timestamp", "price", "amount")
        )
        for times in (time, arrival):
            good = (times >= EARLIEST * 1_000) & (times <= LATEST * 1_000)
            check_rows(good, first, times, "a time must be in microseconds UTC")
        for values in (price, size):
            good = (values > 0) & (values < 1e18)
            check_rows(good, first, values, "price and amount must be positive numbers")
        time, arrival = time // 1_000, arrival // 1_000
        if self.day is None:
            self.day = int(arrival[0]) // DAY * DAY
        good = (arrival >= self.day) & (arrival < self.day + DAY)
        what = f"its local_timestamp is not of {format_day(self.day)} UTC, the day of this file"
        check_rows(good, first, arrival, what)
        what = "its timestamp is after its local_timestamp"
        check_rows(time < arrival + _AHEAD, first, time, what)
        self._append(symbol, time, arrival, side, price, size)

    def _append(self, *values: np.ndarray) -> None:
        end = self._rows + len(values[0])
        if end > self._most:
            raise LiquidationsError(
                f"it has more than {self._most:,} rows, which no file of Tardis of its size has; "
                "they would fill the memory"
            )
        room = max(len(self._columns[0]), _ROOM)
        while room < end:
            room *= 2
        for place, column in enumerate(self._columns):
            if len(column) < room:
                self._columns[place] = np.empty(room, column.dtype)
                self._columns[place][: self._rows] = column[: self._rows]
            self._columns[place][self._rows : end] = values[place]
        self._rows = end

    def by_symbol(self) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Give the columns time, arrival, side, price and size of each symbol, and forget them."""
        symbol, *columns = (self._columns.pop(0)[: self._rows] for _ in range(6))
        if len(self._symbols) == 1:
            yield next(iter(self._symbols)), columns
            return
        order = np.argsort(symbol, kind="stable")
        ends = np.cumsum(np.bincount(symbol, minlength=len(self._symbols)))
        for name, rows in zip(self._symbols, np.split(order, ends[:-1]), strict=True):
            yield name, [column[rows] for column in columns]


def _codes(column: pa.ChunkedArray, known: dict[str, int]) -> tuple[np.ndarray, list[str]]:
    """Return the number of each row's name in ``known``, to which new ones are added."""
    array = column.combine_chunks()
    names = array.dictionary.to_pylist()
    if max(map(len, names), default=0) > _LONGEST:
        raise LiquidationsError(f"it has a name of more than {_LONGEST} letters")
    codes = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int32)
    return codes[array.indices.to_numpy()], list(known)


def _blocks(data: bytes) -> Iterator[bytes]:
    """Cut what a file unpacks to into blocks of whole lines, without the first one.

    :raises LiquidationsError: if it is no such file, or was cut off.
    """
    refuse_page(data)
    rest, size = b"", 0
    most = min(MOST_BYTES, max(_ALWAYS_FINE, _MOST_RATIO * len(data)))
    for piece in _unpack(data):
        end = piece.rfind(b"\n") + 1
        if not end:
            raise LiquidationsError("it has no lines, or was cut off; get the file again")
        text, rest = rest + piece[:end], piece[end:]
        if not size:
            header, _, text = text.partition(b"\n")
            _check_header(header.decode(errors="replace").strip())
        size += len(piece)
        if size > most:
            raise LiquidationsError(
                f"it unpacks to more than {most / 2**30:.3g} GB, which no file of Tardis of its "
                "size does"
            )
        yield text
    if rest:
        raise LiquidationsError("its last line has no end: it was cut off; get the file again")


def _check_header(header: str) -> None:
    if header == ",".join(_TYPES):
        return
    message = f"the first line is {short(header)!r}; expected {','.join(_TYPES)!r}"
    if header.startswith("exchange,symbol,timestamp,"):
        raise OtherAnswer(f"this is another file of Tardis: {message}")
    raise LiquidationsError(f"{message}. It is another file, or was cut off")


def _unpack(data: bytes) -> Iterator[bytes]:
    """Unpack a file in pieces; one that is not packed is given as it is."""
    if data[:2] != b"\x1f\x8b":
        if not data:
            raise LiquidationsError("the file has no content: it was cut off, get it again")
        yield from (data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK))
        return
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), "gzip") as file:
            while piece := file.read(_BLOCK):
                yield piece
    except (OSError, pa.ArrowException) as error:
        raise LiquidationsError(
            f"it can't be unpacked, or was cut off ({short(str(error))}); get the file again"
        ) from error
