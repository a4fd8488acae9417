"""Pack columns of events or bars into compressed bytes and back. Floor 1, no database.

Events, which are many and seldom read, are an Arrow IPC stream, compressed with Zstandard. What
follows from the rest is not stored: an event's key, its USD value (price × amount), its time of
receipt when it has none of its own, and its origin when that is this store.

Bars, which every backtest reads, are one block of float64, a row for each column, compressed with
LZ4: as small as an Arrow stream of them and read twice as fast. Before it stands the number of bars
in 4 bytes, little-endian; the first row, the times, holds differences, the first one from 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from liquidations.errors import LiquidationsError
from liquidations.event import Bars, Events, identity, round_usd


# Threads cost more than they save on buffers of this size.
_READ = pa.ipc.IpcReadOptions(use_threads=False)


def _write(arrays: dict[str, np.ndarray]) -> memoryview:
    batch = pa.record_batch({name: pa.array(array) for name, array in arrays.items()})
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    pa.default_memory_pool().release_unused()  # it would keep 100 MB for a large segment
    return memoryview(sink.getvalue())


def _read(data: bytes | memoryview) -> dict[str, np.ndarray]:
    with pa.ipc.open_stream(data, options=_READ) as reader:
        batch = reader.read_next_batch()
    return {
        name: column.to_numpy(zero_copy_only=False)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


@contextmanager
def _damage_explained() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, StopIteration) as error:  # what pyarrow and numpy raise on damage
        raise LiquidationsError(
            f"a part of the store is damaged ({error!r}); restore a copy of it, or delete it and "
            "import again"
        ) from error


def pack_bars(bars: Bars) -> bytes:
    """Pack bars that are in order of time."""
    columns = bars.arrays() | {"timestamp": np.diff(bars.timestamp, prepend=0)}
    block = np.stack(list(columns.values()), dtype=np.float64)
    return len(bars).to_bytes(4, "little") + pa.compress(block, "lz4", asbytes=True)


def unpack_bars(*segments: bytes) -> Bars:
    """Return the bars that were packed into the segments, joined in their order."""
    with _damage_explained():
        return Bars.concat([_unpack_bars(data) for data in segments])


def _unpack_bars(data: bytes) -> Bars:
    shape = len(Bars.names()), int.from_bytes(data[:4], "little")
    values = pa.decompress(memoryview(data)[4:], 8 * shape[0] * shape[1], "lz4")
    time, *sums = np.frombuffer(values, np.float64).reshape(shape)
    return Bars(np.cumsum(time).astype(np.int64), *sums)


#: What follows from the other columns, and need not be stored then.
_DERIVED: dict[str, Callable[[Events], np.ndarray]] = {
    "received": lambda events: events.timestamp,
    "value_usd": lambda events: round_usd(events.price * events.amount),
    "key": lambda events: identity(events.timestamp, events.side, events.price, events.amount),
    "origin": lambda events: np.zeros(len(events.timestamp), np.int16),
}


def pack_events(events: Events) -> memoryview:
    """Pack events that are in order of time and key."""
    arrays = events.arrays()
    for name, derive in _DERIVED.items():
        if np.array_equal(arrays[name], derive(events)):
            del arrays[name]
    return _write(arrays)


def unpack_events(data: bytes | memoryview) -> Events:
    """Return the events that were packed, in the same order."""
    with _damage_explained():
        arrays = _read(data)
    missing = [name for name in Events.names() if name not in arrays]
    if missing:
        blank: dict[str, Any] = dict.fromkeys(missing)
        known = Events(**arrays, **blank)
        arrays |= {name: _DERIVED[name](known) for name in missing}
    return Events(**arrays)
