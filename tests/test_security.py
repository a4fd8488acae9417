"""What strangers send and what nobody may see: hostile files and answers, secrets, sockets, SQL."""

from __future__ import annotations

import ast
import gzip
import io
import json
import logging
import os
import pickle
import runpy
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, bars_of, events_of, spans, utc
from hypothesis import given
from hypothesis import strategies as st

import liquidations
from liquidations.archives import About, Ask, pages
from liquidations.cli import run
from liquidations.errors import LiquidationsError, printable
from liquidations.http import Client, NoAnswer
from liquidations.recording import export
from liquidations.settings import read_settings
from liquidations.store import Store


PACKAGE = Path(liquidations.__file__).parent
TIME = utc("2024-08-05")
PAIR = "BTC/USDT:USDT"
ESC = "\x1b"
SECRET = "sEcReT-4711"

#: Memory (MB) that all attacks may take at most, over what the program takes by itself.
MOST_MEMORY = 500

# --- hostile files ------------------------------------------------------------------------------

MEMBER = "BTCUSD_PERP-liquidationSnapshot-2024-08-05.csv"
ORDER = f"{TIME},SELL,LIMIT,IOC,1,50000,50000,FILLED,1,1\n".encode()
TARDIS = b"exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
PLAIN = b"exchange,pair,timestamp,side,price,amount\n"
BLOCK = b'{"block_time":"2025-07-27T00:00:00.0","events":[]'
MB = 2**20


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def claiming(data: bytes, size: int) -> bytes:
    """Let the ZIP's directory claim that its only member unpacks to another size."""
    at = data.rindex(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def packed(*pieces: bytes) -> bytes:
    made = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join([*map(made.compress, pieces), made.flush()])


def lz4(*pieces: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as out:
        for piece in pieces:
            out.write(piece)
    return sink.getvalue().to_pybytes()


def parquet(
    rows: int = 1, metadata: dict[bytes, bytes] | None = None, **columns: pa.Array
) -> bytes:
    """Write rows that could be liquidations, but for the columns that are given."""

    def word(text: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [text])

    table = pa.table(
        {
            "exchange": word("binance"),
            "pair": word(PAIR),
            "timestamp": np.full(rows, TIME),
            "side": word("long"),
            "price": np.ones(rows),
            "amount": np.ones(rows),
        }
        | columns
    )
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata), sink, compression="zstd", write_statistics=False
    )
    return sink.getvalue().to_pybytes()


def nested(depth: int) -> bytes:
    """Write a Parquet file, by hand, whose one column lies in groups within groups."""
    group, leaf = b"\x35\x02\x18\x01a\x15\x02\x00", b"\x15\x02\x25\x02\x18\x01a\x00"
    number = depth + 2
    size = bytes([number & 127 | 128, number >> 7 & 127 | 128, number >> 14])
    schema = b"\x19\xfc" + size + b"\x48\x01r\x15\x02\x00" + group * depth + leaf
    footer = b"\x15\x02" + schema + b"\x16\x00\x19\x0c\x00"
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


class Opens:
    """Write a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self.file),)


def extension(code: bytes) -> bytes:
    """Write a column of a type that PyArrow once unpickled as soon as it saw it."""
    told = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": code}
    field = pa.field("price", pa.float64(), metadata=told)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([pa.array([1.0])], schema=pa.schema([field])), sink)
    return sink.getvalue().to_pybytes()


#: Name (of a file that is made) → its bytes, and what the one line must say of it.
ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    # A row takes 48 bytes: 80 MB of them are 250 KB of ZIP.
    "bomb.zip": (lambda: zipped((MEMBER, ORDER * (80 * MB // 48))), "more than a day of one"),
    "claims.zip": (lambda: claiming(zipped((MEMBER, ORDER)), 2**32 - 2), "more than a day of one"),
    "lies.zip": (lambda: claiming(zipped((MEMBER, bytes(80 * MB))), 100), "no ZIP, or it was cut"),
    "parents.zip": (lambda: zipped((f"../../{MEMBER}", ORDER)), "the ZIP holds"),
    "absolute.zip": (lambda: zipped((f"/tmp/{MEMBER}", ORDER)), "the ZIP holds"),
    "within.zip": (lambda: zipped(("a.zip", zipped((MEMBER, ORDER)))), "the ZIP holds"),
    "many.zip": (lambda: zipped(*((f"{n}", b"") for n in range(20_000))), "a ZIP of one CSV"),
    "head.zip": (lambda: zipped((MEMBER, b"a" + b"," * (30 * MB))), "first line has 31,457,281"),
    "columns.zip": (lambda: zipped((MEMBER, b"," * (30 * MB))), "Expected 10 columns"),
    "escapes.zip": (lambda: zipped((f"{ESC}[31m.csv", ORDER)), r"\x1b[31m.csv"),
    "symbol.zip": (
        lambda: zipped((f"X{ESC}[2J" + MEMBER.removeprefix("BTC"), ORDER * 2)),
        r"X\x1b[2J/USD",
    ),
    "large.zip": (lambda: bytes(17 * MB), "more than 16 MB"),
    "zeros.csv.gz": (lambda: packed(*[bytes(MB)] * 300), "it has no lines"),
    "blanks.csv.gz": (lambda: packed(TARDIS, *[b"\n" * MB] * 257), "more than 0.25 GB"),
    "names.csv.gz": (
        lambda: packed(
            TARDIS, b"bybit," + b"A" * 7 * MB + f",{TIME}000,{TIME}000,,buy,1,1\n".encode()
        ),
        "a name of more than 64 letters",
    ),
    "escape.csv.gz": (
        lambda: packed(TARDIS, f"bybit,{ESC}[31mUSDT,{TIME}000,{TIME}250,,sell,1,1\n".encode()),
        r"\x1b[31m",
    ),
    "deep.json": (lambda: b"[" * 100_000 + b"]" * 100_000, "nested deeper"),
    "objects.json": (lambda: b'{"a":' * 100_000, "nested deeper"),
    "digits.json": (lambda: b'[{"history":[{"t":' + b"1" * MB + b"}]}]", "is not JSON"),
    "numbers.json": (
        lambda: b'[{"symbol":"BTCUSDT_PERP.A","history":[{"t":1722816000,"l":NaN,"s":1e999}]}]',
        "not a number",
    ),
    "lists.json": (lambda: b"[" + b"[]," * 6_000_000 + b"[]]", "more than 16 MB"),
    "text.json": (
        lambda: json.dumps([{"symbol": f"{ESC}[2J", "history": [1]}]).encode(),
        r"'\x1b[2J' is not the symbol",
    ),
    "endless.lz4": (lambda: lz4(*[b"a" * MB] * 40), "a line has more than 16 MB"),
    "lists.lz4": (lambda: lz4(BLOCK[:-1], *[b"[]," * 2**18] * 40, b"[]]}\n"), "more than 16 MB"),
    "lines.lz4": (lambda: lz4(*[(BLOCK + b"}\n") * 2**16] * 16), "more than 1,000,000 lines"),
    "coins.lz4": (
        lambda: lz4(*(BLOCK + b',"coin":"A%d"}\n' % n for n in range(5_002))),
        "more than 5,000 coins",
    ),
    "deep.jsonl": (lambda: BLOCK[:-2] + b"[" * 100_000 + b"\n", "is not JSON"),
    "columns.csv": (lambda: b"a," * 2**22 + b"b\n1\n", "more than 1,000 bytes"),
    "line.csv": (lambda: PLAIN + b"binance," + b"A" * (40 * MB) + b"\n", "can't be read as CSV"),
    "series.csv": (
        lambda: (
            PLAIN + b"".join(b"okx,A%d/USDT:USDT,%d,long,1,1\n" % (n, TIME) for n in range(5_002))
        ),
        "more than 5,000 series",
    ),
    "escape.csv": (
        lambda: PLAIN + f"binance,B{ESC}[2J/USDT:USDT,{TIME},long,1,1\n".encode(),
        r"\x1b[2J",
    ),
    "numpy.csv": (lambda: b"\x93NUMPY" + bytes(100) + b"\n", "can't be read as CSV"),
    "pickle.csv": (lambda: pickle.dumps(Opens(Path("unpickled"))) + b"\n", "can't be read"),
    "pickle.parquet": (lambda: extension(pickle.dumps(Opens(Path("unpickled")))), "missing"),
    # 80 MB of one letter: an honest footer, and a page that nobody needs.
    "page.parquet": (lambda: parquet(pair=pa.array(["A" * (80 * MB)])), "a page of it to 84 MB"),
    # A word of 8 MB, 900,000 times, in 1 KB; written out it would be 7 TB.
    "word.parquet": (
        lambda: parquet(
            900_000,
            timestamp=pa.DictionaryArray.from_arrays(np.zeros(900_000, np.int32), ["1" * 8 * MB]),
        ),
        "more than 100 letters",
    ),
    "rows.parquet": (lambda: parquet(1_200_000), "claims 1,200,000 rows"),
    "list.parquet": (
        lambda: parquet(price=pa.array([[None] * 3_000_000], pa.list_(pa.float64()))),
        "must be a column of numbers",
    ),
    "footer.parquet": (lambda: parquet(metadata={b"x": bytes(9 * MB)}), "more than 8 MB"),
    "told.parquet": (lambda: parquet(metadata={b"liquidations": b"[" * 100_000}), "can't be read"),
    "schema.parquet": (lambda: nested(100_000), "damaged"),
    "cut.parquet": (lambda: parquet(1000)[:-100], "damaged"),
}

SOURCES = {
    ".zip": ("binance_vision",),
    ".csv.gz": ("tardis",),
    ".json": ("coinalyze", "--unit", "usd"),
    ".lz4": ("node_fills",),
    ".jsonl": ("node_fills",),
    ".csv": ("plain", "--timerange", "20240801-20240901"),
    ".parquet": ("plain", "--timerange", "20240801-20240901"),
}

# Runs commands one after the other within bounds, and tells of each: code, seconds and lines.
CHILD = """
import contextlib, io, json, resource, sys, time
limit, commands = json.load(sys.stdin)
from liquidations.cli import run
import liquidations.importer, liquidations.markets, liquidations.archives.plain
def memory():
    # The other one begins with what the parent had.
    try:
        lines = open("/proc/self/status").read().splitlines()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**20
    return int(next(one for one in lines if one.startswith("VmHWM")).split()[1]) // 1024
before = memory()
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for command in commands:
    begun, out, err = time.monotonic(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(command)
    taken = time.monotonic() - begun
    print(json.dumps([code, taken, out.getvalue(), err.getvalue(), memory() - before]), flush=True)
"""


def files_in(folder: Path) -> list[Path]:
    return sorted(one for one in folder.rglob("*") if not one.is_dir())


def attacked(folder: Path, commands: list[list[str]]) -> list[list]:
    """Run commands in one process that may have 4 GB of addresses; it takes 1.5 GB by itself."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([4 * 2**30, commands]),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Work in a folder with an empty user folder and a store that holds one event."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user_data" / "data").mkdir(parents=True)
    url = "sqlite:///user_data/liquidations.sqlite"
    with Store(url, create=True) as store, store.write() as writer:
        events = events_of((TIME, "long", 5.0))
        writer.insert("binance", PAIR, "plain", events, spans((TIME, TIME + 60_000)))
    return tmp_path


def test_hostile_files_end_in_one_line_within_bounds(folder):
    """Each file costs one line and the exit code 2; nothing is stored, written or run."""
    hostile = folder / "hostile"
    hostile.mkdir()
    commands = []
    for name, (make, _) in ATTACKS.items():
        (hostile / name).write_bytes(make())
        kind = next(kind for kind in SOURCES if name.endswith(kind))
        commands.append(["import-data", f"hostile/{name}", "--source", *SOURCES[kind]])
    # 100 GB that take no room, and what never ends.
    with (hostile / "sparse.csv").open("wb") as file:
        file.truncate(100 * 2**30)
    os.mkfifo(hostile / "pipe.csv")
    for path in ("hostile/sparse.csv", "hostile/pipe.csv", "/dev/zero"):
        commands.append(["import-data", path, "--source", *SOURCES[".csv"]])
    commands.append(
        ["import-data", "hostile/text.json", "--source", "okx", "--markets", "/dev/zero"]
    )
    (hostile / f"a{ESC}[2J\udcff\n.json").write_bytes(b"{")
    commands.append(["import-data", f"hostile/a{ESC}[2J\udcff\n.json", "--source", "okx"])
    said = [text for _, text in ATTACKS.values()]
    said += [
        "more than 2,048 MB",
        "a pipe or a device",
        "a pipe or a device",
        "/dev/zero: this is no file",
    ]
    said += [r"hostile/a\x1b[2J\udcff .json: "]
    store = folder / "user_data" / "liquidations.sqlite"
    before, there = store.read_bytes(), files_in(folder)
    results = attacked(folder, commands)
    for command, text, result in zip(commands, said, results, strict=True):
        code, seconds, out, err, memory = result
        told = f"{command[1]}: {result}"
        assert (code, out) == (2, ""), told
        assert err.startswith("ERROR: "), told
        assert err[:-1].isprintable(), told
        assert text in err, told
        assert seconds < 60, told
        assert memory < MOST_MEMORY, told
    assert store.read_bytes() == before
    assert files_in(folder) == there  # Freqtrade makes empty folders
    assert not (folder / "unpickled").exists()


def test_the_pickle_is_one_that_would_run(tmp_path):
    pickle.loads(pickle.dumps(Opens(tmp_path / "unpickled")))
    assert (tmp_path / "unpickled").is_dir()


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
def test_folders_hold_files_only(folder, capsys):
    """Pipes and devices among files are passed over, and a link that leads in a circle."""
    good = folder / "good"
    good.mkdir()
    (good / "a.csv").write_bytes(PLAIN + f"okx,{PAIR},{TIME},long,1,1\n".encode())
    os.mkfifo(good / "b.csv")
    (good / "c.csv").symlink_to("/dev/zero")
    (good / "d.csv").symlink_to("d.csv")
    (good / "e").symlink_to(good)
    command = ["import-data", "good", "--timerange", "20240801-20240901"]
    assert run(command) == 0
    # A list of sums that names what never ends.
    (good / "SHA256SUMS").write_text(f"{'0' * 64}  b.csv\n")
    assert run(command) == 2
    assert "SHA256SUMS: this is no file but a pipe or a device" in capsys.readouterr().err
    for name in ("../a.csv", "/etc/passwd", "a/../../b", "..\\a.csv", f"{ESC}.csv"):
        (good / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
        assert run(command) == 2
        assert "not a line of a list of sums" in capsys.readouterr().err


def test_an_export_writes_below_its_folder_only(folder):
    """A store that somebody else made may name an exchange like a path."""
    with Store("sqlite:///user_data/evil.sqlite", create=True) as store, store.write() as writer:
        bars = bars_of((TIME, 1.0, 2.0))
        for name in ("../../escaped", f"{folder}/escaped", ".."):
            writer.insert(name, PAIR, "plain", bars, spans((TIME, TIME + 60_000)), period=60_000)
    with Store("sqlite:///user_data/evil.sqlite") as store:
        assert len(export(store, folder / "out")) == 3
    assert not list(folder.rglob("escaped*"))
    assert not list(folder.parent.glob("escaped*"))
    assert len(list((folder / "out").rglob("*.parquet"))) == 3
    assert not list(folder.glob("*/*.parquet"))


# --- what a Parquet file unpacks to --------------------------------------------------------------


def test_pages_are_measured_as_they_are():
    # 1,000 int64 that do not repeat, not packed: a page of 8,000 bytes and some for its levels.
    table = pa.table({"a": np.arange(1000), "b": pa.array(["x" * 100] * 1000)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=["b"])
    found = pages.measure(sink.getvalue().to_pybytes())
    assert found.number == 3  # of b a dictionary of one word, and a page
    assert 8_000 <= found.largest < 8_020
    assert 8_104 <= found.total < 8_200


def test_a_footer_that_lies_does_not_help():
    """Say in the footer that 40 MB are 40 bytes; the pages tell the truth."""
    table = pa.table({"price": np.zeros(5 * MB)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, data_page_size=2**30)
    data = sink.getvalue().to_pybytes()
    about = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(0)
    size = about.total_uncompressed_size

    def varint(number: int, length: int = 0) -> bytes:
        number, out = number << 1, b""
        while number > 127 or len(out) < length - 1:
            out += bytes([number & 127 | 128])
            number >>= 7
        return out + bytes([number])

    own = varint(size)
    lying = data.replace(own, varint(40, len(own)))
    assert lying != data
    told = pq.read_metadata(pa.BufferReader(lying)).row_group(0)
    assert told.column(0).total_uncompressed_size == 40
    assert pages.measure(lying) == pages.measure(data)
    assert sum(pages.measure(lying)[1:2]) >= 8 * 5 * MB // 2


@given(st.data())
def test_damage_to_a_parquet_file_never_ends_the_process(data):
    """PyArrow's own access to a damaged footer can; whatever comes is an error of ours or rows."""
    file = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(4, len(file) - 5))] = data.draw(st.integers(0, 255))
    with suppress(LiquidationsError, ValueError):
        pages.measure(bytes(file))


WHOLE = parquet(50)


def test_a_file_of_very_many_pages_is_refused(monkeypatch):
    monkeypatch.setattr(pages, "MOST_PAGES", 8)
    with pytest.raises(LiquidationsError, match="more than 8 pages; write it with fewer row group"):
        pages.measure(parquet(5))


# --- hostile answers ----------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Callable[[bytes, bytes], str]]:
    """Serve bytes, some of them again and again until the client has enough."""
    listener = socket.create_server(("127.0.0.1", 0))
    answers: dict[str, tuple[bytes, bytes]] = {}

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                asked = peer.recv(65_536).split(b" ")[1].decode()
                once, again = answers[asked]
                try:
                    peer.sendall(once)
                    while again:
                        peer.sendall(again)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def add(once: bytes, again: bytes = b"") -> str:
        path = f"/{len(answers)}"
        answers[path] = once, again
        return path

    add.port = listener.getsockname()[1]  # type: ignore[attr-defined]
    yield add
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode()


def ask(server: Callable[..., str], once: bytes, again: bytes = b"") -> None:
    about = About("", (), "", "")
    client = Client("own", about, url=f"http://127.0.0.1:{server.port}")  # type: ignore[attr-defined]
    try:
        client.get(Ask(server(once, again)))
    finally:
        client.close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("liquidations.http.PAUSE", 0.001)


@pytest.mark.usefixtures("quick")
def test_hostile_answers_are_refused_within_bounds(server):
    process = psutil.Process()
    before = process.memory_info().rss
    bomb = gzip.compress(bytes(400 * MB), 1)
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match="longer than 17 MB"):
        ask(server, head("Connection: close"), b"x" * MB)
    with pytest.raises(NoAnswer, match="longer than 17 MB"):
        ask(server, head("Content-Encoding: gzip", f"Content-Length: {len(bomb)}") + bomb)
    twice = gzip.compress(bomb, 1)
    with pytest.raises(NoAnswer, match="packed several times"):
        ask(server, head("Content-Encoding: gzip, gzip", f"Content-Length: {len(twice)}") + twice)
    for header in ("X: " + "y" * 10**6, *["\r\n".join(f"X{n}: y" for n in range(10**4))]):
        with pytest.raises(NoAnswer, match="6 times; try again later"):
            ask(server, head(header))
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:9/", "data:,[]"):
        moved = f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()
        with pytest.raises(NoAnswer, match="redirects to what is no web page"):
            ask(server, moved)
    assert time.monotonic() - begun < 30
    assert process.memory_info().rss - before < MOST_MEMORY * MB


# --- what is printed and logged -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain ÷ 寶 text", "plain ÷ 寶 text"),
        ("a\x1b]0;title\x07b", r"a\x1b]0;title\x07b"),
        ("one\r\nERROR: two\tthree", "one  ERROR: two three"),
        ("file\udcff \u202egpj.exe", r"file\udcff \u202egpj.exe"),
        ("\x9b31m\x00", r"\x9b31m\x00"),
    ],
)
def test_texts_of_strangers_are_written_in_one_printable_line(text, written):
    assert printable(text) == written
    assert str(LiquidationsError(text)) == written


# --- secrets ------------------------------------------------------------------------------------

URLS = [
    f"postgresql+psycopg://bot:{SECRET}@127.0.0.1:9/db",
    f"postgresql+psycopg://bot:p%2Fw{SECRET}@127.0.0.1:9/db",
    f"postgresql+psycopg://bot@127.0.0.1:9/db?password={SECRET}",
    f"postgresql+psycopg://bot@127.0.0.1:9/db?sslmode=require&sslpassword={SECRET}",
    f"postgresql+psycopg://bot:{SECRET}@127.0.0.1:9/db?passwrd={SECRET}",
    f"postgresql+psycopg://bot:{SECRET}@127.0.0.1:54x/db",
    f"postgresql+psycopg://bot:12:{SECRET}@127.0.0.1:9/db",
    f"mysql://bot:{SECRET}@127.0.0.1/db",
    f"postgres:/bot:{SECRET}@127.0.0.1/db",
]


@pytest.mark.parametrize("url", URLS)
def test_passwords_of_a_url_are_in_no_error_and_no_traceback(url):
    with pytest.raises(LiquidationsError) as caught:
        Store(read_settings({"liquidations": {"db_url": url, "exchanges": ["okx"]}}).db_url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_passwords_of_a_url_are_not_printed_by_commands(folder, capsys, caplog, monkeypatch):
    caplog.set_level("DEBUG")
    # What the sandbox sets for its command is gone after the test.
    monkeypatch.setenv("FREQTRADE__LIQUIDATIONS__DB_URL", "")
    monkeypatch.delenv("FREQTRADE__LIQUIDATIONS__DB_URL")
    (folder / "a.csv").write_bytes(PLAIN)
    commands = (
        ["list-data"],
        ["show", "-p", PAIR],
        ["import-data", "a.csv", "--timerange", "20240801-20240901"],
        ["export-data", "out"],
        ["check"],
        ["monitor", "--once"],
        ["sandbox", "--play", URLS[0], "--", "true"],
    )
    for url in URLS[:3]:
        for command in commands:
            code = run([command[0], "--db-url", url, "-vvv", *command[1:]])
            assert code == 2, command
    printed = capsys.readouterr()
    assert printed.err.count("ERROR: ") == 3 * len(commands)
    for text in (printed.out, printed.err, caplog.text):
        assert SECRET not in text


def test_settings_do_not_show_the_url():
    config = {"liquidations": {"db_url": URLS[0], "exchanges": ["okx"]}}
    assert SECRET not in repr(read_settings(config))


@pytest.mark.parametrize(
    "section",
    [
        SECRET,
        {"sources": SECRET},
        {"sources": {"coinalyze": SECRET}},
        {"sources": {"coinalyze": {"key": [SECRET]}}},
        {"ccxt_config": SECRET},
        {"ccxt_config": {"okx": SECRET}},
    ],
    ids=range(6),
)
def test_a_secret_in_the_wrong_place_is_not_told(section):
    with pytest.raises(LiquidationsError) as caught:
        read_settings({"liquidations": section, "exchange": {"name": "okx"}})
    assert SECRET not in str(caught.value)


def test_secrets_are_in_nothing_that_is_written(folder, capsys, caplog, monkeypatch):
    """Give each secret its place, use the store in all ways, and search all that came of it."""
    caplog.set_level(logging.DEBUG)
    proxy = f"http://me:{SECRET}@127.0.0.1:9"
    monkeypatch.setenv("COINGLASS_API_KEY", SECRET)
    config = json.loads((REPOSITORY / "config.json").read_text())
    config["exchange"] |= {"key": SECRET, "secret": SECRET, "password": SECRET}
    config["exchange"]["ccxt_config"] = {"httpsProxy": proxy}
    config["liquidations"] = {
        "sources": {"coinalyze": {"key": SECRET, "url": f"http://me:{SECRET}@127.0.0.1:9"}},
        "ccxt_config": {"okx": {"httpsProxy": proxy, "apiKey": SECRET}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    data = PLAIN + f"binance,{PAIR},{TIME + 1},short,50000,1\n".encode()
    (folder / "a.csv").write_bytes(data)
    span = "20240805-20240806"
    asked = "-p", PAIR, "--timerange", span
    commands = (
        (0, ["import-data", "a.csv", "--timerange", span]),
        (1, ["download-data", "--source", "coinalyze", *asked, "-t", "1h"]),
        (2, ["import-data", "a.csv", "--source", "okx"]),
        (0, ["list-data"]),
        (0, ["show", *asked, "-t", "1h", "--format", "csv"]),
        (0, ["export-data", "out"]),
        (0, ["check"]),
    )
    monkeypatch.setattr("liquidations.http.PAUSE", 0.001)
    codes = [run([command[0], "-vvv", *command[1:]]) for _, command in commands]
    printed = capsys.readouterr()
    assert codes == [code for code, _ in commands], printed.err
    for text in (printed.out, printed.err, caplog.text):
        assert SECRET not in text
    files = [one for one in folder.rglob("*") if one.is_file() and one.name != "config.json"]
    assert {one.suffix for one in files} >= {".sqlite", ".parquet", ".csv"}
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file


# --- sockets ------------------------------------------------------------------------------------


def test_the_sandbox_listens_on_loopback_only(folder):
    from freqtrade.data.history import get_datahandler
    from freqtrade.enums import CandleType
    from test_sandbox import START, candles

    (folder / "user_data" / "data" / "futures").mkdir()
    handler = get_datahandler(folder / "user_data" / "data", "feather")
    handler.ohlcv_store(PAIR, "1h", candles(60_000, 3_600_000), CandleType.FUTURES)
    assert START
    program = Path(sys.executable).parent / "liquidations"
    command = [program, "sandbox", "--port", "0", "--datadir", "user_data/data", "-p", PAIR]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("Sandbox on http://127.0.0.1:")
            family = psutil.Process(process.pid)
            found = [one for p in (family, *family.children(True)) for one in p.net_connections()]
            listening = {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}
            assert listening == {"127.0.0.1"}
        finally:
            process.terminate()
            process.wait(20)


# --- the package's own text ---------------------------------------------------------------------

TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """List the calls of functions or methods of a name, and the modules that they are in."""
    found = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else None
                called = node.func.id if isinstance(node.func, ast.Name) else called
                if called == name:
                    found.append((module, node))
    return found


def test_only_one_module_opens_a_server():
    binds = ("create_server", "start_server", "bind", "TCPSite", "run_app", "HTTPServer")
    found = {(name, module) for name in binds for module, _ in calls(name)}
    assert found == {("create_server", "sandbox_server.py")}
    ((_, call),) = calls("create_server")
    assert ast.unparse(call.args[0]) == "(HOST, port)"


def test_sql_is_made_by_sqlalchemy():
    """No statement is a text that is put together; those that are texts are constant."""
    texts = set()
    for name in ("execute", "executemany", "executescript", "exec_driver_sql", "text", "scalar"):
        for module, call in calls(name):
            if not call.args:
                continue
            first = call.args[0]
            if ast.unparse(first) == "f'PRAGMA {name}'":  # one of two words that stand beside it
                continue
            assert not isinstance(first, ast.JoinedStr | ast.BinOp), (
                f"{module}: {ast.unparse(call)}"
            )
            made = isinstance(first, ast.Call) and ast.unparse(first.func).endswith("format")
            assert not made, f"{module}: {ast.unparse(call)}"
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                texts.add((module, first.value.split(" ")[0]))
    # What SQLAlchemy has no words for: how SQLite keeps its file, and when a transaction begins.
    assert {word for _, word in texts} <= {"PRAGMA", "BEGIN", "VACUUM", ""}, texts
    assert {module for module, _ in texts} <= {"database.py", "store.py", "integrity.py"}, texts


def test_nothing_is_unpickled_or_evaluated():
    for name in ("loads", "load", "eval", "exec", "compile", "system", "Popen", "run"):
        for module, call in calls(name):
            what = ast.unparse(call)
            assert not what.startswith(("pickle.", "eval(", "exec(", "os.system", "yaml.")), module
            assert "shell=True" not in what, module
            assert "allow_pickle=True" not in what, module
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, module


# --- known vulnerabilities ----------------------------------------------------------------------


def test_an_audit_stops_at_what_we_chose_ourselves():
    judge = runpy.run_path(str(REPOSITORY / ".ci" / "audit.py"))["judge"]
    fine = {"name": "numpy", "version": "2.0", "vulns": []}
    bad = {"version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
    skipped = {"name": "ours", "skip_reason": "not found"}
    direct, none = {"sqlalchemy"}, "1 packages, none known to be vulnerable"
    assert judge({"dependencies": [fine, skipped]}, direct) == (0, [none])
    code, lines = judge({"dependencies": [fine, {"name": "SQLAlchemy", **bad}]}, direct)
    assert (code, lines[0]) == (1, "SQLAlchemy 1.0: PYSEC-1, fixed in 1.1 (ours)")
    code, lines = judge({"dependencies": [fine, {"name": "jinja2", **bad}]}, direct)
    assert (code, lines[0]) == (0, "jinja2 1.0: PYSEC-1, fixed in 1.1 (of another package)")
    code, lines = judge({"dependencies": [skipped]}, direct)
    assert (code, lines) == (0, ["nothing was audited: no package is known there"])
