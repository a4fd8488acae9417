"""The sources of history on 127.0.0.1, as their documents describe them, with levers for faults.

    with http_loopback() as vendors:
        config["liquidations"]["sources"] = vendors.sources()
        vendors.fault("/coinalyze", status(429, retry_after="1"))
        ...
        vendors.asked("/coinalyze")

The market is invented, and simple enough to know every answer by hand: each contract has one
liquidation an hour, ``11 + 15 × (hour % 4)`` minutes after it, of ``100 × (1 + hour % 3)`` USD at a
price of 50,000; the hours are counted since 1970, in even ones a long is hit, in odd ones a short.
Answers are written as the vendors write them, not as our modules read them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np


MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
PRICE = 50_000

#: What is accepted, by source.
KEYS = {"coinalyze": "ca-8f2e-secret", "coinglass": "cg-77aa-secret", "tardis": "TD.x9-secret"}

#: Coinalyze's symbol → its market.
COINALYZE = {
    "BTCUSDT_PERP.A": ("A", "BTC", "USDT", "STABLE"),
    "ETHUSDT_PERP.A": ("A", "ETH", "USDT", "STABLE"),
    "BTCUSD_PERP.A": ("A", "BTC", "USD", "COIN"),
    "BTCUSDT.6": ("6", "BTC", "USDT", "STABLE"),
    "BTCUSDT_PERP.3": ("3", "BTC", "USDT", "STABLE"),
    "BTC.H": ("H", "BTC", "USD", "STABLE"),
}
INTERVALS = {"1min": 1, "5min": 5, "15min": 15, "30min": 30, "1hour": 60, "4hour": 240}
INTERVALS |= {"2hour": 120, "6hour": 360, "12hour": 720, "daily": 1440}
COINGLASS = {"1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "6h": 360}
COINGLASS |= {"8h": 480, "12h": 720, "1d": 1440}

#: Contracts of OKX: what one holds, in base units or (of -USD) USD.
OKX = {"BTC-USDT-SWAP": "0.01", "BTC-USD-SWAP": "100", "ETH-USDT-SWAP": "0.1"}


def usd_of(hour: int) -> int:
    """Return the value of the liquidation of an hour since 1970."""
    return 100 * (1 + hour % 3)


def orders(start: int, end: int) -> list[tuple[int, str, int]]:
    """List the liquidations of any contract in ``[start, end)`` ms: (time, position, USD)."""
    hours = range(start // HOUR, end // HOUR + 1)
    found = [(h * HOUR + (11 + h % 4 * 15) * MINUTE, ("long", "short")[h % 2], h) for h in hours]
    return [(at, side, usd_of(h)) for at, side, h in found if start <= at < end]


@dataclass(frozen=True)
class Reply:
    """Hold an answer; ``length`` is what it claims, ``wait`` (s) how long it takes."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    wait: float = 0.0
    reset: bool = False


#: Spoils an answer.
Fault = Callable[[Reply], Reply]


def status(code: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer with a status; ``retry_after="1"`` is the header Retry-After."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return lambda _: Reply(code, body, named)


def truncated(reply: Reply) -> Reply:
    """Break off before the end."""
    return replace(reply, body=reply.body[: len(reply.body) // 2], length=len(reply.body))


def reset(reply: Reply) -> Reply:
    """Reset the connection."""
    return replace(reply, reset=True)


def web_page(_: Reply) -> Reply:
    """Answer with HTML, and status 200, as a gateway does."""
    return Reply(200, b"<!DOCTYPE html><html><body>Just a moment...</body></html>")


def cut_json(reply: Reply) -> Reply:
    """Send half, and say that it is all."""
    return replace(reply, body=reply.body[: len(reply.body) // 2])


def other_bytes(reply: Reply) -> Reply:
    """Send other bytes than the checksum is of."""
    return replace(reply, body=reply.body + b"\0")


def slow(seconds: float) -> Fault:
    """Take so long."""
    return lambda reply: replace(reply, wait=seconds)


def elsewhere(url: str) -> Fault:
    """Redirect."""
    return lambda _: Reply(302, b"", {"Location": url})


@dataclass(frozen=True)
class Seen:
    """Hold a request: when (s, monotonic) it came, and what it said."""

    at: float
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Vendors:
    """All sources behind one port, each below its name."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen: list[Seen] = []
        #: What the sources do not have, as parts of paths.
        self.absent: set[str] = set()
        #: Multiplies the volumes of vendors' bars: a revision.
        self.revision = 1
        #: Files whose day had no liquidation, as parts of paths.
        self.quiet: set[str] = set()
        self._faults: list[tuple[str, list[Fault]]] = []
        self._lock = threading.Lock()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, source: str) -> str:
        return f"{self.root}/{source}/v1" if source == "tardis" else f"{self.root}/{source}"

    def sources(self, *, keys: bool = True) -> dict[str, dict[str, str]]:
        """Return the section "sources" of a configuration that asks here."""
        names = ("coinalyze", "coinglass", "okx", "binance_vision", "tardis")
        with_keys = KEYS if keys else {}
        return {
            name: {"url": self.url(name), **({"key": with_keys[name]} if name in with_keys else {})}
            for name in names
        }

    def okx_ccxt(self) -> dict[str, Any]:
        """Return what ccxt's class of OKX needs to ask here."""
        return {"urls": {"api": {"rest": f"{self.root}/okx"}}}

    def fault(self, part: str, *faults: Fault, times: int = 1) -> None:
        """Spoil the next answers to requests whose path and query contain ``part``."""
        with self._lock:
            self._faults.append((part, list(faults) * times))

    def asked(self, part: str = "") -> list[Seen]:
        """List the requests whose path contains ``part``, in their order."""
        with self._lock:
            return [one for one in self.seen if part in one.path]

    def reply(self, target: str, headers: dict[str, str]) -> Reply:
        """Answer a request."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        with self._lock:
            self.seen.append(Seen(time.monotonic(), parts.path, query, headers))
            fault = next((f for part, f in self._faults if f and part in target), None)
            spoil = fault.pop(0) if fault else None
        _, source, path = parts.path.split("/", 2)
        answered = getattr(self, f"_{source}")(path, query, headers)
        return spoil(answered) if spoil else answered

    # --- the sources ---

    def _elsewhere(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        return _json([])

    def _coinalyze(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        if headers.get("api_key") != KEYS["coinalyze"]:
            return _json({"message": "Invalid/Missing API key"}, 401)
        if path == "future-markets":
            return _json(
                [
                    {
                        "symbol": symbol,
                        "exchange": code,
                        "symbol_on_exchange": base + quote,
                        "base_asset": base,
                        "quote_asset": quote,
                        "expire_at": None,
                        "has_buy_sell_data": True,
                        "is_perpetual": True,
                        "margined": margined,
                        "oi_lq_vol_denominated_in": "BASE_ASSET",
                        "has_long_short_ratio_data": True,
                        "has_ohlcv_data": True,
                    }
                    for symbol, (code, base, quote, margined) in COINALYZE.items()
                ]
            )
        symbol, period = query["symbols"], INTERVALS[query["interval"]] * MINUTE
        if symbol not in COINALYZE:
            return _json([])
        start, end = int(query["from"]) * 1000, int(query["to"]) * 1000
        if path == "open-interest-history":
            times = range(-(-start // period) * period, end + 1, period)
            scale = PRICE if query.get("convert_to_usd") == "true" else 1
            rows = [
                {"t": t // 1000, **dict.fromkeys("ohlc", t // HOUR % 100 * scale)} for t in times
            ]
            return _json([{"symbol": symbol, "history": rows}])
        history = [
            {"t": time // 1000, "l": long, "s": short}
            for time, long, short in self._bars(start, end, period)
        ]
        return _json([{"symbol": symbol, "history": history}] if history else [])

    def _bars(self, start: int, end: int, period: int) -> list[tuple[int, int, int]]:
        """Sum up the periods that begin in ``[start, end]`` ms; those without any are absent."""
        first = -(-start // period) * period
        last = min(end // period * period + period, time.time_ns() // 1_000_000)
        bars: dict[int, list[int]] = {}
        for at, side, usd in orders(first, last):
            bar = bars.setdefault(at // period * period, [0, 0])
            bar[side == "short"] += usd * self.revision
        return [(at, *sums) for at, sums in sorted(bars.items())]

    def _coinglass(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        if headers.get("cg-api-key") != KEYS["coinglass"]:
            return _json({"code": "401", "msg": "API key missing."})
        if path == "api/futures/supported-exchange-pairs":
            names = {
                "Binance": ("BTCUSDT", "ETHUSDT", "BTCUSD_PERP"),
                "Bybit": ("BTCUSDT",),
                "OKX": ("BTC-USDT-SWAP",),
            }
            return _glass({n: [{"instrument_id": s} for s in some] for n, some in names.items()})
        period = COINGLASS[query["interval"]] * MINUTE
        found = self._bars(int(query["start_time"]), int(query["end_time"]), period)
        rows = [
            {"time": at, "long_liquidation_usd": str(long), "short_liquidation_usd": str(short)}
            for at, long, short in found
        ]
        return _glass(rows[: int(query["limit"])])

    def _okx(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        if path == "api/v5/public/instruments":
            return _json({"code": "0", "msg": "", "data": _instruments()})
        if path != "api/v5/public/liquidation-orders":
            return _json({"code": "0", "msg": "", "data": []})
        now = time.time_ns() // 1_000_000
        symbol = f"{query['uly']}-SWAP"
        size = float(OKX[symbol])
        per_usd = 1 / size if symbol.endswith("USD-SWAP") else 1 / (size * PRICE)
        before = int(query.get("after", now))
        page = [
            {
                "bkLoss": "0",
                "bkPx": str(PRICE),
                "ccy": "",
                "posSide": "net",
                "side": "sell" if side == "long" else "buy",
                "sz": repr(usd * per_usd),
                "time": str(at),
                "ts": str(at),
            }
            for at, side, usd in reversed(orders(now - DAY, before))
        ][: int(query["limit"])]
        family = {"instFamily": query["uly"], "instId": symbol, "instType": "SWAP"}
        data = [{**family, "details": page, "totalLoss": "0", "uly": query["uly"]}] if page else []
        return _json({"code": "0", "msg": "", "data": data})

    def _binance_vision(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        wants_checksum = path.endswith(".CHECKSUM")
        name = path.removesuffix(".CHECKSUM").rsplit("/", 1)[-1]
        symbol, kind, day = name.removesuffix(".zip").split("-", 2)
        if any(part in path for part in self.absent):
            return Reply(404, b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>")
        start = _day(day)
        quiet = any(part in path for part in self.quiet)
        lines = _metrics(symbol, start) if kind == "metrics" else _snapshot(start, quiet)
        data = _zip(name.replace(".zip", ".csv"), lines)
        if wants_checksum:
            return Reply(200, f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode())
        return Reply(200, data, {"Content-Type": "application/zip"})

    def _tardis(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Reply:
        _, venue, _, year, month, day, file = path.split("/")
        keyed = headers.get("authorization") == f"Bearer {KEYS['tardis']}"
        if not keyed and day != "01":
            return _json({"message": "Unauthorized", "code": 401}, 401)
        if any(part in path for part in self.absent):
            return _json({"message": "There is no data for that day"}, 404)
        symbol, start = file.removesuffix(".csv.gz"), _day(f"{year}-{month}-{day}")
        per_usd = {"binance-futures": 1 / PRICE, "binance-delivery": 1 / 100}.get(venue)
        if venue == "okex-swap":
            per_usd = 1 / (float(OKX[symbol]) * PRICE)
        if venue == "bybit":
            per_usd = 1.0 if symbol == "BTCUSD" else 1 / PRICE
        rows = [
            f"{venue},{symbol},{at}000,{at}250,,{'sell' if side == 'long' else 'buy'},{PRICE},"
            f"{usd * per_usd!r}\n"
            for at, side, usd in orders(start, start + DAY)
        ]
        header = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
        data = gzip.compress("".join([header, *rows]).encode(), mtime=0)
        return Reply(200, data, {"Content-Type": "text/csv", "Content-Encoding": "gzip"})


def _day(text: str) -> int:
    return int(np.datetime64(text, "ms").astype(np.int64))


def _json(found: Any, code: int = 200) -> Reply:
    return Reply(code, json.dumps(found).encode(), {"Content-Type": "application/json"})


def _glass(found: Any) -> Reply:
    return _json({"code": "0", "msg": "success", "data": found})


def _instruments() -> list[dict[str, Any]]:
    return [
        {
            "instType": "SWAP",
            "instId": name,
            "uly": name.removesuffix("-SWAP"),
            "instFamily": name.removesuffix("-SWAP"),
            "settleCcy": name.split("-")[0 if "-USD-" in name else 1],
            "ctVal": size,
            "ctMult": "1",
            "ctValCcy": "USD" if "-USD-" in name else name.split("-")[0],
            "ctType": "inverse" if "-USD-" in name else "linear",
            "state": "live",
            "lever": "50",
            "lotSz": "0.01",
            "minSz": "0.01",
            "tickSz": "0.1",
            "listTime": "1611907686000",
        }
        for name, size in OKX.items()
    ]


def _snapshot(start: int, quiet: bool) -> list[str]:
    """Write a day of liquidationSnapshot: COIN-M's BTC contract is of 100 USD; rows stand twice."""
    header = (
        "time,side,order_type,time_in_force,original_quantity,price,average_price,order_status,"
        "last_fill_quantity,accumulated_fill_quantity"
    )
    rows = []
    for at, side, usd in [] if quiet else orders(start, start + DAY):
        sells, size = side == "long", usd // 100
        limit = PRICE * 0.99 if sells else PRICE * 1.01
        what = f"{'SELL' if sells else 'BUY'},LIMIT,IOC"
        rows += [f"{at},{what},{size},{limit:g},{PRICE},FILLED,{size},{size}"] * 2
    return [header, *rows]


def _metrics(symbol: str, start: int) -> list[str]:
    header = (
        "create_time,symbol,sum_open_interest,sum_open_interest_value,"
        "count_toptrader_long_short_ratio,sum_toptrader_long_short_ratio,count_long_short_ratio,"
        "sum_taker_long_short_vol_ratio"
    )
    rows = [header]
    for at in range(start, start + DAY, 5 * MINUTE):
        stamp = str(np.datetime64(at, "ms").astype("datetime64[s]")).replace("T", " ")
        # What holds at the stamp that the exchange itself gives, five minutes later.
        amount = (at + 5 * MINUTE) // HOUR % 100
        rows.append(f"{stamp},{symbol},{amount},{amount * PRICE},1.0,1.0,1.0,1.0")
    return rows


def _zip(name: str, lines: list[str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), "\n".join(lines) + "\n")
    return out.getvalue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vendors: Vendors

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.vendors.reply(self.path, headers)
        time.sleep(reply.wait)
        if reply.reset:
            # Zero seconds to linger: the peer gets a RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        try:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            length = len(reply.body) if reply.length is None else reply.length
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(reply.body)
        except OSError:
            self.close_connection = True  # the other side was killed
        if reply.length is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that were killed."""


@contextmanager
def http_loopback() -> Iterator[Vendors]:
    """Run the server."""
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    handler.vendors = vendors = Vendors(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield vendors
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
