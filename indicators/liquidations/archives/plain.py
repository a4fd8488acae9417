"""Plain CSV and Parquet: this project's own form, for recordings of anybody. Floor 1.

A CSV file (with a header) or a Parquet file has one row for each liquidation:

    exchange   ccxt id: binance, bybit, okx, hyperliquid
    pair       Freqtrade's: BTC/USDT:USDT
    timestamp  the exchange's time: whole ms UTC, or ISO 8601 with a zone (2024-08-05T03:00:00.123Z)
    side       the POSITION that was liquidated: long or short
    price      quote per base
    amount     in base units, after the contract's size
    value_usd  optional, USD; default price × amount
    received   optional, our time, as ``timestamp``; default unknown
    key        optional, int64: tells equal events of one ms apart, as a trade's number does
    source     optional, what the series is called; default plain. Series of one name are merged
    origin     optional, who recorded it; default ``unknown``, which is a name like any other

It gives what its recorder heard, as completely, as far back. No key is needed, nothing is
downloaded.

Traps. ``buy`` and ``sell`` are refused: an order that SOLD closed a LONG, and on Bybit's topic
``Buy`` is a long, so whoever has such a file must know whose side it is. Local times without a zone
are refused, as are seconds. Rows that are equal in pair, source, timestamp, side, price and amount
are one event told twice, unless their ``key`` differs. Nothing else is read from it: the smallest
key of such rows counts as the first event, the next one as the second, which is how live feeds
number them too, so it never joins events that differ, and one's own numbers are as good as any.
Without it two real equal events of one millisecond count once.

Coverage: a list of events does not say when nothing happened, so ``--timerange`` must say from when
to when its recorder listened; a row outside is an error. All files of one import share it.

Files of ``liquidations export-data`` are Parquet and say it themselves, in the metadata of their
schema: under the key ``liquidations`` JSON with ``format`` (1), ``exchange``, ``pair``, ``source``,
``period`` (ms, of bars; else null), ``coverage`` (a list of [start, end) in ms), who exported it,
when, with what, and ``digest``, a hash of all these; without it damage to them goes unnoticed. A
vendor's bars come so too, in the columns of ``event.Bars``. There a row may lie outside of the
coverage: a recorder saw it although it can't prove that it saw all. Their keys are stored as they
are.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from liquidations.archives import MOST_FILE, MOST_SERIES, About, Options, Part
from liquidations.archives.pages import MOST_FOOTER, MOST_PAGE, footer_size, measure
from liquidations.candles import format_time
from liquidations.errors import LiquidationsError
from liquidations.event import (
    EARLIEST,
    LATEST,
    MINUTE,
    SIDES,
    Bars,
    Events,
    Floats,
    Ints,
    identity,
    is_within,
    make_events,
    merge_intervals,
    order_of,
    repeats,
)
from liquidations.exchanges import EXCHANGES
from liquidations.exchanges.frames import MALFORMED
from liquidations.pairs import is_pair


ABOUT = About(
    gives="events that anybody recorded, or bars, as `export-data` writes them",
    exchanges=EXCHANGES,
    depth="as the file",
    complete="what its recorder heard",
    files=("*.parquet", "*.csv"),
    most=MOST_FILE,
)

NEEDED = ("exchange", "pair", "timestamp", "side", "price", "amount")
ALLOWED = (*NEEDED, "value_usd", "received", "key", "source", "origin")

#: The version of what is written; one that changes the meaning of anything gets the next number.
FORMAT = 1

#: Rows of one file: a small file may claim any number, and each row takes some 200 bytes to read.
MOST_ROWS = 10_000_000
# A row of Parquet takes at least so many bytes (with keys it is more than 8), but for a few.
_LEAST_BYTES, _FEW_ROWS = 2, 1_000_000
# Rows and bytes of one step.
_ROWS, _STEP = 2**18, 2**24
# Bytes of a header of CSV, and letters of a word: a name or a time.
_LONGEST_HEAD, _LONGEST_WORD = 1_000, 100
# Bytes of a file once decompressed; as a multiple of its size, or if it is small, at least.
_MOST_RATIO, _ALWAYS_FINE = 200, 2**28

#: The origin of rows whose file names none: nobody knows who recorded them.
UNKNOWN = "unknown"

_METADATA = b"liquidations"
_TEXTS = ("exchange", "pair", "side", "source", "origin")
# A volume of a bar: ten times what all positions of the world are worth.
_MOST_BAR = 1e13

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}").fullmatch
_PARQUET = b"PAR1"
_SHAPE = (
    f"expected CSV with a header or Parquet, with the columns {', '.join(NEEDED)} "
    f"(and {', '.join(ALLOWED[len(NEEDED) :])} if there are such)"
)


@dataclass(frozen=True, slots=True)
class _Told:
    """Hold what a file of ``export-data`` says of itself."""

    exchange: str
    pair: str
    source: str
    period: int | None
    coverage: Ints


def read(data: bytes, options: Options) -> list[Part]:
    """Read a file into one part for each exchange, pair and source.

    :raises LiquidationsError: if it is something else, if a row can't be a liquidation, or if
        nothing tells when its recorder listened.
    """
    if not data:
        raise LiquidationsError("the file is empty: it was cut off; get it again")
    told = None
    if data.startswith(_PARQUET):
        names, batches, told = _parquet(data)
    else:
        names, batches = _csv(data)
    if told is not None and options.span is not None:
        raise LiquidationsError("this file says itself what it covers; leave --timerange away")
    if told is not None and told.period is not None:
        return [_bars(names, batches, told, told.period)]
    _check_names(names, ALLOWED, NEEDED)
    if told is not None:
        return [_of_recording(_events(batches, own=True), told)]
    if options.span is None:
        raise LiquidationsError(
            "a list of events does not say when nothing happened: give --timerange, from when to "
            "when it was recorded"
        )
    parts = _events(batches, own=False)
    coverage = np.array([options.span], dtype=np.int64)
    for part in parts:
        outside = part.rows.timestamp[~is_within(coverage, part.rows.timestamp)]
        if len(outside):
            start, end = (format_time(time) for time in options.span)
            raise LiquidationsError(
                f"{part.pair}: {len(outside)} of its events are not within the time that it was "
                f"recorded in, {start} to {end} UTC; the first is of {format_time(outside[0])}. "
                "Give another --timerange"
            )
    return [replace(part, coverage=coverage) for part in parts]


def write(part: Part, about: Mapping[str, Any]) -> bytes:
    """Write events or bars as Parquet that :func:`read` reads.

    :param part: of events whose ``origins`` name all recorders: 1 in their column is the first
    :param about: what else to tell: the exporter, the program and so on
    """
    rows, period = part.rows, None
    columns: dict[str, Any] = dict(rows.arrays())
    if isinstance(rows, Events):
        columns["side"] = _coded(rows.side, SIDES)
        columns["origin"] = _coded(rows.origin, ("", *part.origins))
        same = np.zeros(len(rows), np.int8)
        names = {name: getattr(part, name) for name in ("exchange", "pair", "source")}
        columns |= {name: _coded(same, (text,)) for name, text in names.items()}
        columns = {name: columns[name] for name in ALLOWED}
    else:
        period = part.period
    told = {
        "format": FORMAT,
        "exchange": part.exchange,
        "pair": part.pair,
        "source": part.source,
        "period": period,
        "coverage": part.coverage.tolist(),
        **about,
    }
    told["digest"] = _digest(told)
    table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(told)})
    sink = pa.BufferOutputStream()
    texts = [name for name in _TEXTS if name in columns]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=texts,
        column_encoding={"timestamp": "DELTA_BINARY_PACKED"},
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


def _digest(told: Mapping[str, Any]) -> str:
    """Hash what a file says of itself, which no checksum of its pages holds."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _coded(codes: np.ndarray, words: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), list(words))


# --- files → tables -----------------------------------------------------------------------------


# In steps, so that of a large file only the columns that are kept are in memory as a whole.
_Batches: TypeAlias = Iterator[pa.RecordBatch]


def _csv(data: bytes) -> tuple[list[str], _Batches]:
    """Return the columns of a CSV file, and its rows in steps."""
    if data.lstrip()[:1] == b"<":
        raise LiquidationsError(f"this is a web page, not CSV; {_SHAPE}")
    if not data.endswith(b"\n"):
        raise LiquidationsError(
            "the last line has no end: the file was cut off, or it is something else; "
            f"{_SHAPE}, each line ended"
        )
    head = data[: _LONGEST_HEAD + 1].find(b"\n")
    if head < 0:
        raise LiquidationsError(
            f"the first line has more than {_LONGEST_HEAD:,} bytes, so it is no header; {_SHAPE}"
        )
    word = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(_TEXTS, word) | {"key": pa.int64()}
    types |= dict.fromkeys(("price", "amount", "value_usd"), pa.float64())
    wrong = f"this can't be read as CSV; {_SHAPE}"
    with _explained(wrong):
        reader = pa_csv.open_csv(
            pa.BufferReader(data),
            read_options=pa_csv.ReadOptions(block_size=_STEP),
            convert_options=pa_csv.ConvertOptions(column_types=types),
        )
        return reader.schema.names, _all(reader, wrong)


def _parquet(data: bytes) -> tuple[list[str], _Batches, _Told | None]:
    """Return the columns of a Parquet file, its rows in steps, and what it says of itself."""
    wrong = "this Parquet file is damaged or was cut off; get it again"
    if not data.endswith(_PARQUET) or len(data) < 12:
        raise LiquidationsError(wrong)
    if footer_size(data) > len(data) - 8:
        raise LiquidationsError(wrong)
    if footer_size(data) > MOST_FOOTER:
        raise LiquidationsError(
            f"what it says of itself has {footer_size(data):,} bytes, more than "
            f"{MOST_FOOTER >> 20} MB; write it with fewer row groups, and less metadata"
        )
    with _explained(wrong):
        about = pq.read_metadata(pa.BufferReader(data))
        schema = about.schema.to_arrow_schema()
        _check_columns(schema)
        told = _told(schema.metadata or {})
        pages, most = measure(data), max(_ALWAYS_FINE, _MOST_RATIO * len(data))
        if pages.total > most or pages.largest > MOST_PAGE:
            raise LiquidationsError(
                f"it unpacks to {pages.total / 1e6:,.0f} MB, a page of it to "
                f"{pages.largest / 1e6:,.0f} MB; allowed are {most / 1e6:,.0f} MB, and "
                f"{MOST_PAGE / 1e6:,.0f} MB a page; split it"
            )
        if about.num_rows > min(MOST_ROWS, max(_FEW_ROWS, len(data) // _LEAST_BYTES)):
            raise _too_many(about.num_rows, len(data))
        # Words are not repeated in memory, however often they stand in the rows.
        words = [one.name for one in schema if _is_text(one.type)]
        file = pq.ParquetFile(
            pa.BufferReader(data), read_dictionary=words, page_checksum_verification=True
        )
        batches = file.iter_batches(batch_size=_ROWS, use_threads=False)
        return schema.names, _all(batches, wrong, about.num_rows), told


def _check_columns(schema: pa.Schema) -> None:
    """Refuse columns that are neither text nor numbers, before any is read."""
    for one in schema:
        kind = one.type.value_type if pa.types.is_dictionary(one.type) else one.type
        numbers = pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal
        fine = _is_text(kind) or pa.types.is_timestamp(kind) or any(is_(kind) for is_ in numbers)
        # A column in which all is missing is one of nulls.
        if not fine and not pa.types.is_null(kind):
            what = "text" if one.name in _TEXTS else "a column of numbers"
            raise LiquidationsError(f"{one.name[:40]} must be {what}, got {str(kind)[:40]}")


def _all(batches: Iterable[pa.RecordBatch], wrong: str, promised: int | None = None) -> _Batches:
    rows = 0
    with _explained(wrong):
        for batch in batches:
            batch.validate(full=True)  # a damaged one may point anywhere
            rows += batch.num_rows
            if rows > MOST_ROWS:
                raise _too_many(rows)
            yield _with_times(batch)
        if promised not in (None, rows):  # where pages are damaged in some ways, it just ends
            raise ValueError(f"{rows} of {promised} rows")


def _with_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Refuse words that are too long, and write out those that are no names but times."""
    for place, one in enumerate(batch.schema):
        column = batch.column(place)
        coded = pa.types.is_dictionary(one.type)
        words = column.dictionary if coded else column
        if not _is_text(words.type):
            continue
        if (pc.max(pc.binary_length(words)).as_py() or 0) > _LONGEST_WORD:
            raise LiquidationsError(f"{one.name} has a word of more than {_LONGEST_WORD} letters")
        if coded and one.name not in _TEXTS:
            batch = batch.set_column(place, one.name, column.cast(words.type))
    return batch


@contextmanager
def _explained(wrong: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise LiquidationsError(f"{wrong} ({reason})") from error


def _told(metadata: Mapping[bytes, bytes]) -> _Told | None:
    """Read what ``export-data`` wrote about the file, or None if it is somebody else's."""
    if _METADATA not in metadata:
        return None
    try:
        found = json.loads(metadata[_METADATA])
        digest = found.pop("digest", None)
        version = found["format"]
        if type(version) is int and version > FORMAT:
            raise LiquidationsError(
                f"this file has format {version}, this program knows {FORMAT}; "
                "run: pip install --upgrade freqtrade-liquidations"
            )
        told = _Told(
            _exchange(found["exchange"]),
            _pair(found["pair"]),
            _source(found["source"]),
            found["period"],
            merge_intervals(np.array(found["coverage"], dtype=np.int64).reshape(-1, 2)),
        )
        edges = told.coverage.ravel()
        right = bool(((edges >= EARLIEST) & (edges <= LATEST)).all())
        right &= version == FORMAT and digest in (None, _digest(found))
        if told.period is not None:
            right &= type(told.period) is int and told.period > 0 and told.period % MINUTE == 0
    except MALFORMED as error:
        raise LiquidationsError(
            f"what this file says of itself can't be read ({error!r}); get it again"
        ) from error
    if not right:
        raise LiquidationsError("what this file says of itself can't be; get it again")
    return told


def _too_many(rows: int, size: int = 0) -> LiquidationsError:
    """Say that a file of ``size`` bytes, if that matters, has too many rows."""
    if rows > MOST_ROWS:
        return LiquidationsError(f"it has more than {MOST_ROWS:,} rows; split it by time or pair")
    return LiquidationsError(
        f"it claims {rows:,} rows in {size:,} bytes, which no recording does; it is damaged, or "
        "made to fill the memory"
    )


def _check_names(names: list[str], allowed: tuple[str, ...], needed: tuple[str, ...]) -> None:
    if lacking := [name for name in needed if name not in names]:
        raise LiquidationsError(f"the column {lacking[0]} is missing; {_SHAPE}")
    if unknown := set(names).difference(allowed):
        raise LiquidationsError(
            f"unknown column {min(unknown)[:40]!r}; rename or remove it. Allowed are: "
            f"{', '.join(allowed)}"
        )
    if len(set(names)) < len(names):
        raise LiquidationsError(f"a column stands twice; {_SHAPE}")


# --- columns ------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """Hold some rows of a file, and how many stand before them."""

    batch: pa.RecordBatch
    before: int

    def whole(self, name: str) -> pa.Array:
        """Return a column in which nothing is missing."""
        column = self.batch[name]
        if column.null_count:
            row = self.before + int(pc.index(pc.is_null(column), True).as_py()) + 1
            raise LiquidationsError(f"row {row} has no {name}, or none that is a value")
        return column


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _texts(rows: _Rows, name: str) -> tuple[Ints, list[str]]:
    """Return a column of text as codes, and what they mean, each once."""
    column = rows.whole(name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not _is_text(kind):
        raise LiquidationsError(f"{name} must be text, got {kind}")
    if column.type == kind:
        column = column.cast(pa.string()).dictionary_encode()
    codes = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    # Dictionaries may hold words that no row has, or one twice.
    used = np.flatnonzero(np.bincount(codes))
    words = column.dictionary.take(pa.array(used)).to_pylist()
    if None in words:
        raise LiquidationsError(f"a row has no {name}")
    place = {word: number for number, word in enumerate(dict.fromkeys(words))}
    code_of = np.zeros(len(column.dictionary), np.int64)
    code_of[used] = [place[word] for word in words]
    return code_of[codes], list(place)


def _numbers(rows: _Rows, name: str, kind: pa.DataType) -> np.ndarray:
    column = rows.whole(name)
    with _explained(f"{name} must be a column of numbers, got {column.type}"):
        return column.cast(kind).to_numpy(zero_copy_only=False)


def _times(rows: _Rows, name: str) -> Ints:
    """Return a column of times in ms UTC."""
    column = rows.whole(name)
    kind = column.type
    rule = f"{name} must be whole ms UTC, or ISO 8601 with a zone as 2024-08-05T03:00:00.123Z"
    if pa.types.is_timestamp(kind) and kind.tz is None:
        raise LiquidationsError(f"{rule}; these times have no zone, so they could be anybody's")
    with _explained(rule):
        if _is_text(kind):
            # The first of them tells what they are meant to be.
            digits = column[0].as_py().isdigit()
            column = column.cast(pa.int64() if digits else pa.timestamp("ns", "UTC"))
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms", "UTC"), safe=False)
        elif not pa.types.is_integer(column.type):
            raise LiquidationsError(f"{rule}; got {kind}")
        time = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((time < EARLIEST) | (time > LATEST))
    if len(wrong):
        got = int(time[wrong[0]])
        units = {"seconds": 1e-3, "microseconds": 1e3, "nanoseconds": 1e6}
        near = [unit for unit, per_ms in units.items() if EARLIEST < got / per_ms < LATEST]
        hint = f"; these seem to be {near[0]}" if near else ""
        raise LiquidationsError(
            f"{rule}, between 2009 and 2100; row {rows.before + wrong[0] + 1} has {got}{hint}"
        )
    return time


# --- words --------------------------------------------------------------------------------------


def _exchange(text: Any) -> str:
    if text not in EXCHANGES:
        raise LiquidationsError(
            f"unknown exchange {_short(text)}; known are, by their ccxt ids: {', '.join(EXCHANGES)}"
        )
    return str(text)


def _pair(text: Any) -> str:
    if type(text) is not str or len(text) > 64 or not is_pair(text) or not text.isprintable():
        raise LiquidationsError(
            f"{_short(text)} is not a perpetual; write it as Freqtrade does, for example "
            "BTC/USDT:USDT"
        )
    return text


def _source(text: Any) -> str:
    if type(text) is not str or not _SOURCE(text):
        raise LiquidationsError(
            f"source must be a name of up to 32 letters, digits, _ - or ., got {_short(text)}"
        )
    return text


def check_origin(text: str) -> str:
    """Return the name of a recorder.

    :raises LiquidationsError: if it is longer than 64 letters, or has some that are none.
    """
    if len(text) > 64 or not text.isprintable():
        raise LiquidationsError(f"origin must be a name of up to 64 letters, got {_short(text)}")
    return text


def _side(text: str) -> int:
    if text not in SIDES:
        hint = (
            ". An order that sold closed a long, but some feeds name the position: look at how "
            "yours is documented, then write the position"
            if text.lower() in ("buy", "sell", "bid", "ask", "b", "s", "a")
            else ""
        )
        raise LiquidationsError(
            f"side must be the POSITION that was liquidated, long or short, got {_short(text)}"
            f"{hint}"
        )
    return SIDES.index(text)


def _short(text: Any) -> str:
    return repr(text)[:80]


# --- rows ---------------------------------------------------------------------------------------


_Names: TypeAlias = tuple[str, str, str]


def _events(batches: _Batches, *, own: bool) -> list[Part]:
    """Read rows into a part for each series, without coverage.

    :param own: ``export-data`` wrote them, so their keys are ours
    """
    found: dict[_Names, list[dict[str, np.ndarray]]] = defaultdict(list)
    origins: dict[str, int] = {}  # from 1
    before = 0
    for batch in batches:
        if batch.num_rows:
            for names, columns in _of_batch(_Rows(batch, before), origins, own):
                found[names].append(columns)
                if len(found) > MOST_SERIES:
                    raise LiquidationsError(
                        f"it has more than {MOST_SERIES:,} series, more than there are contracts; "
                        "split it by pair"
                    )
            before += batch.num_rows
    pa.default_memory_pool().release_unused()
    return [_part(names, steps, list(origins)) for names, steps in found.items()]


def _of_batch(
    rows: _Rows, origins: dict[str, int], own: bool
) -> Iterator[tuple[_Names, dict[str, np.ndarray]]]:
    """Read some rows; ``origins`` numbers the recorders, and new ones are added.

    :return: the columns of events, and ``number`` if the file has one that tells equals apart
    """
    there = rows.batch.schema.names
    exchange, exchanges = _texts(rows, "exchange")
    pair, pairs = _texts(rows, "pair")
    source, sources = _texts(rows, "source") if "source" in there else (0, ["plain"])
    known = [_exchange(text) for text in exchanges], [_pair(text) for text in pairs]
    series = (*known, [_source(text) for text in sources])
    side, sides = _texts(rows, "side")
    time = _times(rows, "timestamp")
    price, amount = (_numbers(rows, name, pa.float64()) for name in ("price", "amount"))
    recorder, recorders = _texts(rows, "origin") if "origin" in there else (0, [""])
    known_as = [check_origin(one) or UNKNOWN for one in recorders]
    numbers = [origins.setdefault(one, len(origins) + 1) for one in known_as]
    if len(origins) > np.iinfo(np.int16).max:
        raise LiquidationsError(f"{len(origins)} recorders are too many to be told apart")
    events = make_events(
        time,
        np.array([_side(text) for text in sides])[side],
        price,
        amount,
        _numbers(rows, "value_usd", pa.float64()) if "value_usd" in there else price * amount,
        received=_times(rows, "received") if "received" in there else None,
        rank=np.zeros(len(time), np.int64),
        origin=np.broadcast_to(np.array(numbers)[recorder], time.shape),
        sort=False,
    )
    columns = events.arrays()
    if "key" in there:
        columns["key" if own else "number"] = _numbers(rows, "key", pa.int64())
    code = (exchange * len(pairs) + pair) * len(sources) + source
    order = np.argsort(code, kind="stable")
    ends = np.flatnonzero(np.diff(code[order], append=-1)) + 1
    for start, end in zip((0, *ends.tolist()), ends.tolist(), strict=False):
        one = int(code[order[start]])
        whose, what = divmod(one // len(sources), len(pairs))
        names = series[0][whose], series[1][what], series[2][one % len(sources)]
        yield names, {name: column[order[start:end]] for name, column in columns.items()}


def _part(names: _Names, steps: list[dict[str, np.ndarray]], origins: list[str]) -> Part:
    """Join the rows of one series, put them in order, and count each event once."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([step.pop(name) for step in steps])  # no column is there twice

    time, key = joined("timestamp"), joined("key")
    number = joined("number") if "number" in steps[0] else None
    # Of equal rows the first of the file comes first, and is kept.
    order = order_of(time, key) if number is None else np.lexsort((number, key, time))
    time, key = time[order], key[order]
    first = ~repeats(time, key)
    kept = first.copy()
    if number is not None:
        number = number[order]
        kept[1:] |= number[1:] != number[:-1]
    doubled = len(kept) - int(kept.sum())
    if doubled:
        order, time, key, first = order[kept], time[kept], key[kept], first[kept]
    columns = {"timestamp": time, "key": key}
    for name in Events.names():
        if name not in columns:
            columns[name] = joined(name)[order]
    # Those of the file who have rows here are numbered anew, from 1.
    used = np.bincount(columns["origin"], minlength=len(origins) + 1)[1:] > 0
    columns["origin"] = np.append(0, np.cumsum(used)).astype(np.int16)[columns["origin"]]
    named = tuple(origins[one] for one in np.flatnonzero(used))
    note = f"rows that repeat others were counted once: {doubled}" if doubled else ""
    nothing = np.empty((0, 2), np.int64)
    return Part(*names, _ranked(Events(**columns), first), nothing, note=note, origins=named)


def _ranked(events: Events, first: np.ndarray) -> Events:
    """Give those that follow the ``first`` of their equals the keys of the next ranks."""
    if first.all():
        return events
    place = np.arange(len(first))
    rank = place - np.maximum.accumulate(np.where(first, place, 0))
    later = rank > 0
    same = events.take(later)
    key = events.key.copy()
    key[later] = identity(same.timestamp, same.side, same.price, same.amount, rank[later])
    return replace(events, key=key).take(order_of(events.timestamp, key))


def _of_recording(parts: list[Part], told: _Told) -> Part:
    """Check that all rows are of the series that the file names, and add its coverage."""
    names = told.exchange, told.pair, told.source
    for part in parts:
        if (found := (part.exchange, part.pair, part.source)) != names:
            raise LiquidationsError(
                f"this file says that it holds {' '.join(names)}, but has rows of "
                f"{' '.join(found)}; get it again"
            )
    empty = Part(*names, Events.concat([]), told.coverage)
    return replace(parts[0], coverage=told.coverage) if parts else empty


def _bars(names: list[str], batches: _Batches, told: _Told, period: int) -> Part:
    _check_names(names, Bars.names(), Bars.names())
    bars = Bars.concat([_bars_of(_Rows(batch, 0)) for batch in batches])
    if np.any(bars.timestamp % period) or np.any(np.diff(bars.timestamp) <= 0):
        raise LiquidationsError("bars must begin on full periods, one after another")
    for name in Bars.names()[1:]:
        values, volume = getattr(bars, name), name in ("long", "short")
        fine = (values >= 0) & (values < (_MOST_BAR if volume else math.inf))
        if not np.all(fine if volume else fine | np.isnan(values)):
            raise LiquidationsError(f"{name} of a bar is negative, no number, or beyond all reason")
    return Part(told.exchange, told.pair, told.source, bars, told.coverage, period)


def _bars_of(rows: _Rows) -> Bars:
    sums: dict[str, Floats] = {
        name: _numbers(rows, name, pa.float64()) for name in Bars.names()[1:]
    }
    return Bars(_times(rows, "timestamp"), **sums)
