"""Pack columns of events or bars into compressed bytes and back. Floor 1, no database.

A segment is four letters that name what it holds and the version of the format, a checksum of all
that follows, its number of rows, the side of each event in a bit, and a block of LZ4, before which
stands how many bytes it unpacks to. All is little-endian.

In the block a column of whole numbers is less its least one and lies in planes: the lowest bytes of
all rows, then the next ones, as many as the largest needs. So noise and what repeats lie apart.
Prices and amounts are whole numbers of a decimal step, if dividing by it gives them back to the
bit. Of what nearly follows from other columns only the exceptions are stored, behind a bit for each
row that tells which: an event's key and USD value (of an inverse contract its amount), and a price
that is no whole number of steps.

Bars, which every backtest reads, keep their sums as they are: nothing is read faster. Of their sums
of squares the block holds by which bits they differ from the squares of the sums, by none in bars
of one event.

Two older formats are read for ever: an Arrow IPC stream of events, with Zstandard, and bars as one
block of float64 with LZ4, behind their number in 4 bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from liquidations.errors import LiquidationsError
from liquidations.event import Bars, Events, Floats, Ints, identity, round_usd


# An older segment of events begins with bytes 255, one of bars with a number of rows below 2**24.
_EVENTS, _BARS = b"LQE1", b"LQB1"
_HEAD = struct.Struct("<4sIIQ")  # kind, checksum, rows, bytes of the block
_SUMMED = 8  # the checksum is of what comes after it
_PLANES = struct.Struct("<qB")  # the least number, how many bytes the others need

#: By the number of bytes, from which to which byte a plane goes: in long numbers, which are floats
#: as a rule, the lower half is noise.
_CUTS = [
    [(byte, byte + 1) for byte in range(width)]
    if width <= 4
    else [(0, 4), *((byte, byte + 1) for byte in range(4, width))]
    for width in range(9)
]

#: The steps of prices and amounts are 1 / 10**0 … 1 / 10**12.
_PER_ONE = 10.0 ** np.arange(13)
_NO_STEP = 255

#: The most that LZ4 makes of one byte.
_LZ4_RATIO = 255
_LZ4 = pa.Codec("lz4_raw")

# Threads cost more than they save on buffers of this size.
_READ = pa.ipc.IpcReadOptions(use_threads=False)


# What pyarrow, numpy and struct raise on damage.
_DAMAGE = (OSError, ValueError, IndexError, TypeError, StopIteration, MemoryError, struct.error)


@contextmanager
def _damage_explained() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise LiquidationsError(
            f"a part of the store is damaged ({error!r}); "
            "liquidations db check says where. Restore a copy, or delete it and import again"
        ) from error


# A prime, so that pages that were mixed up do not meet in the same sums.
_WORDS = 509


def _checksum(data: memoryview) -> int:
    """Compute the CRC-32 of the sums of 509 columns of words, and of the rest, which is faster."""
    words = np.frombuffer(data, np.uint64, len(data) // (8 * _WORDS) * _WORDS)
    sums = words.reshape(-1, _WORDS).sum(axis=0)
    return zlib.crc32(data[words.nbytes :], zlib.crc32(sums))


def _bits(values: np.ndarray) -> Ints:
    return np.ascontiguousarray(values).view(np.int64)


def _zeros(size: int) -> Ints:
    return np.broadcast_to(np.int64(0), size)


def _most(found: np.ndarray) -> bool:
    return bool(np.count_nonzero(found) >= 0.9 * len(found))


class _Writer:
    """Gather the columns of a segment."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def octets(self, *arrays: np.ndarray) -> None:
        self._parts += [array.tobytes() for array in arrays]

    def whole(self, values: Ints) -> None:
        least = int(values.min()) if len(values) else 0
        above = values.view(np.uint64) - np.uint64(least % 2**64)
        width = (int(above.max(initial=0)).bit_length() + 7) // 8
        self._parts.append(_PLANES.pack(least, width))
        octets = above.view(np.uint8).reshape(-1, 8)
        self.octets(*(octets[:, first:last] for first, last in _CUTS[width]))

    def steps(self, values: Ints, unit: int = 1) -> None:
        first = values[:1]
        self.octets(first)
        self.whole(np.diff(values, prepend=first) // unit)

    def exceptions(self, values: np.ndarray, expected: np.ndarray) -> None:
        other = _bits(values) != _bits(expected)
        self._parts.append(bytes([bool(other.any())]))
        if other.any():
            self.octets(np.packbits(other), values[other])

    def floats(self, values: Floats, put: Callable[[Ints], None]) -> None:
        number = _step_of(values)
        self._parts.append(bytes([number]))
        if number == _NO_STEP:
            self.whole(_bits(values))
            return
        whole, fit = _fit(values, _PER_ONE[number])
        whole[~fit] = 0
        put(whole)
        self.exceptions(values, whole / _PER_ONE[number])

    def segment(self, kind: bytes, rows: int, flags: bytes = b"") -> bytes:
        block = b"".join(self._parts)
        packed = flags + _LZ4.compress(block, asbytes=True)
        summed = _HEAD.pack(kind, 0, rows, len(block))[_SUMMED:] + packed
        return kind + _checksum(memoryview(summed)).to_bytes(4, "little") + summed


def _step_of(values: Floats) -> int:
    """Find the step that nearly all of a sample are multiples of."""
    some = values[:: len(values) // 100 + 1]
    fits = (number for number, per_one in enumerate(_PER_ONE) if _most(_fit(some, per_one)[1]))
    return next(fits, _NO_STEP)


def _fit(values: Floats, per_one: float) -> tuple[Ints, np.ndarray]:
    """Return floats as numbers of steps, and which of them these give back to the bit."""
    with np.errstate(invalid="ignore", over="ignore"):
        whole = np.rint(values * per_one).astype(np.int64)
    return whole, _bits(whole / per_one) == _bits(values)


class _Reader:
    """Read the columns of a segment in the order in which they were written."""

    def __init__(self, data: bytes | memoryview, *, flags: bool) -> None:
        segment = memoryview(data)
        _, checksum, self.rows, size = _HEAD.unpack_from(segment)
        if _checksum(segment[_SUMMED:]) != checksum:
            raise ValueError("its checksum is wrong")
        # A row takes a bit at least, that of the side, or its sums, so that no few bytes can claim
        # to be many rows.
        bits = (self.rows + 7) // 8 if flags else 0
        self.flags = np.frombuffer(segment, np.uint8, bits, _HEAD.size)
        block = segment[_HEAD.size + bits :]
        if size > _LZ4_RATIO * len(block):
            raise ValueError(f"{len(block)} bytes can't hold {size}")
        self._block = memoryview(_LZ4.decompress(block, size)).cast("B")
        self._at = 0

    def octet(self) -> int:
        self._at += 1
        return self._block[self._at - 1]

    def octets(self, dtype: Any, size: int) -> np.ndarray:
        found = np.frombuffer(self._block, dtype, size, self._at)
        self._at += found.nbytes
        return found

    def whole(self, size: int) -> np.ndarray:
        """Return whole numbers: bytes where these do, else int64."""
        least, width = _PLANES.unpack_from(self._block, self._at)
        self._at += _PLANES.size
        if not width:
            return np.full(size, least)
        if width == 1 and not least:
            return self.octets(np.uint8, size)
        found = np.zeros(size, np.int64)
        for first, end in _CUTS[width]:
            dtype = np.uint8 if end - first == 1 else np.uint32
            every = 8 // (end - first)
            found.view(dtype)[first // (end - first) :: every] = self.octets(dtype, size)
        if least:
            found += least
        return found

    def steps(self, size: int, unit: int = 1) -> Ints:
        first = self.octets(np.int64, min(size, 1))
        found = self.whole(size) * np.int64(unit)
        found[:1] = first
        return np.cumsum(found, out=found)

    def exceptions(self, expected: np.ndarray) -> np.ndarray:
        if self.octet():
            other = self.mask(len(expected))
            expected[other] = self.octets(expected.dtype, int(np.count_nonzero(other)))
        return expected

    def mask(self, size: int) -> np.ndarray:
        return _unpacked(self.octets(np.uint8, (size + 7) // 8), size)

    def floats(self, size: int, get: Callable[[int], np.ndarray]) -> Floats:
        number = self.octet()
        if number == _NO_STEP:
            return self.whole(size).astype(np.int64, copy=False).view(np.float64)
        return self.exceptions(get(size) / _PER_ONE[number])


def _unpacked(octets: np.ndarray, size: int) -> np.ndarray:
    return np.unpackbits(octets, count=size).view(bool)


def pack_bars(bars: Bars) -> bytes:
    """Pack bars that are in order of time."""
    sums = np.concatenate((bars.long, bars.short))
    counts = np.concatenate((bars.long_count, bars.short_count))
    squares = np.concatenate((bars.long_squares, bars.short_squares))
    with np.errstate(all="ignore"):
        expected = sums * sums
    # Not if the source gives none, nor if reading them would overflow.
    follow = np.any(squares == expected) and np.isfinite(expected).all()
    unit = int(np.gcd.reduce(np.diff(bars.timestamp), initial=0)) or 1
    writer = _Writer()
    # First what is read in place, and has to begin at a multiple of its size.
    writer.octets(sums, _bits(squares) ^ _bits(expected) if follow else squares)
    writer.octets(np.array([follow, unit]))
    writer.steps(bars.timestamp, unit)
    writer.floats(counts, writer.whole)
    return writer.segment(_BARS, len(bars))


def unpack_bars(*segments: bytes) -> Bars:
    """Return the bars that were packed into the segments, joined in their order."""
    with _damage_explained():
        if all(data[:4] == _BARS for data in segments):
            return _unpack_bars(segments)
        return Bars.concat(
            [
                _unpack_bars([data]) if data[:4] == _BARS else _unpack_older_bars(data)
                for data in segments
            ]
        )


def _unpack_bars(segments: Sequence[bytes]) -> Bars:
    readers = [_Reader(data, flags=False) for data in segments]
    ends = np.cumsum([reader.rows for reader in readers], dtype=np.int64).tolist()
    size = ends[-1] if ends else 0
    time, values = np.empty(size, np.int64), np.empty((6, size))
    sums, counts, squares = values[:2], values[2:4], values[4:]
    for reader, end in zip(readers, ends, strict=True):
        own = slice(end - reader.rows, end)
        pairs = (2, reader.rows)
        sums[:, own] = read = reader.octets(np.float64, 2 * reader.rows).reshape(pairs)
        other = reader.octets(np.int64, 2 * reader.rows).reshape(pairs)
        follow, unit = reader.octets(np.int64, 2).tolist()
        if follow:
            np.multiply(read, read, out=squares[:, own])
            squares[:, own].view(np.int64)[...] ^= other
        else:
            squares[:, own].view(np.int64)[...] = other
        time[own] = reader.steps(reader.rows, unit)
        counts[:, own] = reader.floats(2 * reader.rows, reader.whole).reshape(pairs)
    return Bars(time, *values)


def pack_events(events: Events) -> bytes:
    """Pack events that are in order of time and key."""
    writer = _Writer()
    writer.steps(events.timestamp)
    writer.whole(events.received - events.timestamp)
    writer.floats(events.price, writer.steps)
    amount, value = events.amount, events.value_usd
    expected = _amount(value, events.price)
    inverse = _step_of(amount) == _NO_STEP and _most(_bits(amount) == _bits(expected))
    writer.octets(np.array([inverse]))
    if inverse:
        writer.floats(value, writer.whole)
        writer.exceptions(amount, expected)
    else:
        writer.floats(amount, writer.whole)
        writer.exceptions(value, _value(events.price, amount))
    writer.exceptions(events.key, _key(events.side, events.price, events.amount))
    writer.whole(events.origin.astype(np.int64))
    return writer.segment(_EVENTS, len(events), np.packbits(events.side).tobytes())


def unpack_events(data: bytes | memoryview) -> Events:
    """Return the events that were packed, in the same order."""
    with _damage_explained():
        data = memoryview(data)  # a text would be taken for the name of a file
        return _unpack_events(data) if data[:4] == _EVENTS else _unpack_older_events(data)


def _unpack_events(data: bytes | memoryview) -> Events:
    reader = _Reader(data, flags=True)
    rows = reader.rows
    side = _unpacked(reader.flags, rows).view(np.int8)
    time = reader.steps(rows)
    received = time + reader.whole(rows)
    price = reader.floats(rows, reader.steps)
    if reader.octet():  # the contract is inverse
        value = reader.floats(rows, reader.whole)
        amount = reader.exceptions(_amount(value, price))
    else:
        amount = reader.floats(rows, reader.whole)
        value = reader.exceptions(_value(price, amount))
    key = reader.exceptions(_key(side, price, amount))
    return Events(
        time, received, side, price, amount, value, key, reader.whole(rows).astype(np.int16)
    )


def _value(price: Floats, amount: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return round_usd(price * amount)


def _amount(value: Floats, price: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return value / price


def _key(side: np.ndarray, price: Floats, amount: Floats) -> Ints:
    """Return the keys of events that have no equal before them."""
    return identity(_zeros(len(side)), side, price, amount, _zeros(len(side)))


def _unpack_older_bars(data: bytes) -> Bars:
    shape = len(Bars.names()), int.from_bytes(data[:4], "little")
    block, size = memoryview(data)[4:], 8 * shape[0] * shape[1]
    if size > _LZ4_RATIO * len(block):
        raise ValueError(f"{len(block)} bytes can't hold {shape[1]} bars")
    values = pa.decompress(block, size, "lz4")
    time, *sums = np.frombuffer(values, np.float64).reshape(shape)
    return Bars(np.cumsum(time).astype(np.int64), *sums)


#: What an older segment of events does not store, if it follows from the other columns.
_DERIVED: dict[str, Callable[[Events], np.ndarray]] = {
    "received": lambda events: events.timestamp,
    "value_usd": lambda events: round_usd(events.price * events.amount),
    "key": lambda events: identity(events.timestamp, events.side, events.price, events.amount),
    "origin": lambda events: np.zeros(len(events.timestamp), np.int16),
}


#: Zstandard makes up to 32,768 bytes of one; no real segment is that dull, beyond its first 16 MB.
_ARROW_MOST, _ARROW_RATIO = 2**24, 1_000


def _arrow_size(data: bytes | memoryview) -> int:
    """Add up what the buffers of an Arrow stream's first batch claim to unpack to.

    Arrow believes them. How its messages are laid out stands in its format's Message.fbs.
    """
    messages = pa.ipc.MessageReader.open_stream(data)
    kinds = messages.read_next_message().type, (batch := messages.read_next_message()).type
    if kinds != ("schema", "record batch"):
        raise ValueError(f"it holds {kinds}")
    layout = memoryview(batch.metadata)

    def target(place: int) -> int:
        return int(place + struct.unpack_from("<I", layout, place)[0])

    def field(table: int, number: int) -> int:
        (back,) = struct.unpack_from("<i", layout, table)
        return target(table + struct.unpack_from("<H", layout, table - back + 4 + 2 * number)[0])

    buffers = field(field(target(0), 2), 2)
    (count,) = struct.unpack_from("<I", layout, buffers)
    places = np.frombuffer(layout, "<i8", 2 * count, buffers + 4).reshape(-1, 2)
    return sum(
        max(struct.unpack_from("<q", batch.body, start)[0], 0) for start, length in places if length
    )


def _unpack_older_events(data: bytes | memoryview) -> Events:
    if (size := _arrow_size(data)) > _ARROW_MOST + _ARROW_RATIO * len(data):
        raise ValueError(f"{len(data)} bytes can't hold {size}")
    with pa.ipc.open_stream(data, options=_READ) as reader:
        batch = reader.read_next_batch()
    arrays = {
        name: column.to_numpy(zero_copy_only=False)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    missing = [name for name in Events.names() if name not in arrays]
    if missing:
        blank: dict[str, Any] = dict.fromkeys(missing)
        known = Events(**arrays, **blank)
        arrays |= {name: _DERIVED[name](known) for name in missing}
    return Events(**arrays)
