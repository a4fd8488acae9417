"""Cut, delay, half-open connections and packet loss: all goes on by itself, and the gap is told.

    python tests/faults/network.py            all of them, faults of 20 s
    python tests/faults/network.py --short    some of them, and shorter faults, for CI
    python tests/faults/network.py bot-cut    one of them

Between the collector and the exchange, the collector and PostgreSQL, and a bot and PostgreSQL
stands a proxy that has each fault. Packets are lost on a network device of our own, where TCP
itself has to send them again; that needs Linux with user namespaces.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import common
from common import (
    Collecting,
    Exchange,
    History,
    Report,
    Trading,
    bot_figures,
    ending,
    folder,
    judge,
    messages,
    now_ms,
    uncovered,
    until,
)
from postgres import NoServerError, Server, a_database


#: It must go on within so long (s) after the end of a fault.
GOAL = 30.0

#: Orders a second.
RATE = 500

#: How much later (s) everything arrives in a delay.
DELAY = 3.0

#: The share of packets that are lost, in both directions, by the fault's name.
LOSSES = {"loss": 0.2, "dark": 1.0}


# --- the proxy ------------------------------------------------------------------------------------


class Proxy:
    """Stand before a TCP server and have faults.

    - ``cut``: connections break, new ones are refused
    - ``delay``: what is said arrives later
    - ``half-open``: connections stay, or are made, and nothing arrives any more, in neither
      direction; those that are open then never hear from each other again
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self._to, self._host, self.fault, self.port = port, host, "", 0
        self._lines: list[asyncio.Transport] = []
        ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(ready),), daemon=True)
        self._thread.start()
        ready.wait(5)

    async def _main(self, ready: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, self._host, 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._end.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(5)

    def set(self, fault: str) -> None:
        self.fault = fault
        if fault == "cut":
            self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for line in self._lines:
            line.abort()
        self._lines.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.append(writer.transport)
        if self.fault == "cut":
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._lines.append(back.transport)
        dead = {"is": False}
        both = self._pass(reader, back, dead), self._pass(there, writer, dead)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*both)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dead: dict[str, bool]
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    writer.close()
                    return
                writer.write(data)

        writing = asyncio.create_task(write())
        try:
            while True:
                data = await reader.read(65_536)
                dead["is"] |= self.fault == "half-open"
                if dead["is"]:
                    if not data:  # the other side is not told
                        return
                    continue
                late = DELAY if self.fault == "delay" else 0.0
                queue.put_nowait((time.monotonic() + late, data))
                if not data:
                    await writing
                    return
        except OSError:
            writer.transport.abort()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


# --- a network device that loses packets ----------------------------------------------------------

#: What is sent to ``THERE`` comes back to ``HERE`` as if it came from ``THERE``.
HERE, THERE = "10.99.0.1", "10.99.0.2"
_TUN, _SET = 0x0001 | 0x1000, 0x400454CA


#: Runs a program in a network of its own, as the user that we are.
NAMESPACE = ["unshare", "--net"]
if os.geteuid() != 0:
    NAMESPACE += ["--map-current-user", "--keep-caps"]


class Wire:
    """Make a network device in this network namespace whose packets pass through this process.

    It swaps the addresses of each packet, so that a server which listens here is found at
    ``THERE``; the sums of the headers stay right. TCP is the kernel's own.
    """

    def __init__(self) -> None:
        self.loss, self._pick = 0.0, random.Random(3)
        #: Packets that passed, and that were lost.
        self.passed = self.lost = 0
        self._file = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self._file, _SET, struct.pack("16sH", b"wire", _TUN))
        for words in ("link set lo up", f"addr add {HERE}/24 dev wire", "link set wire up"):
            subprocess.run(["ip", *words.split()], check=True)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            packet = os.read(self._file, 65_536)
            if packet[0] >> 4 != 4:
                continue
            if self._pick.random() < self.loss:
                self.lost += 1
                continue
            self.passed += 1
            os.write(self._file, packet[:12] + packet[16:20] + packet[12:16] + packet[20:])


def no_wire() -> str | None:
    """Say why this system has no such device; None if it has."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    for program in ("unshare", "ip"):
        if shutil.which(program) is None:
            return f"the program {program} is not installed"
    words = [*NAMESPACE, *["ip", "tuntap", "add", "dev", "t", "mode", "tun"]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no device: {done.stderr.strip()[:120]}"


class Way(NamedTuple):
    """Hold where a server is found on a way that can have a fault."""

    host: str
    port: int
    hit: Callable[[], None]
    mend: Callable[[], None]

    def leads(self, db_url: str, server: Server) -> str:
        return db_url.replace(f"127.0.0.1:{server.port}/", f"{self.host}:{self.port}/")


@contextmanager
def way_to(port: int, fault: str, wire: Wire | None) -> Iterator[Way]:
    """Make a way to a port of 127.0.0.1."""
    if wire is not None:
        proxy = Proxy(port, host=HERE)
        lose = partial(setattr, wire, "loss")
        yield Way(THERE, proxy.port, partial(lose, LOSSES[fault]), partial(lose, 0.0))
        print(f"\npackets that passed: {wire.passed:,}, that were lost: {wire.lost:,}")
    else:
        proxy = Proxy(port)
        yield Way("127.0.0.1", proxy.port, partial(proxy.set, fault), partial(proxy.set, ""))
    proxy.close()


# --- who is on the way ----------------------------------------------------------------------------


def exchange_part(bench: Bench, fault: str) -> None:
    """Between the collector and the exchange."""
    with folder() as place:
        db_url = f"sqlite:///{place}/l.sqlite"
        exchange = Exchange(RATE)
        with way_to(exchange.server.port, fault, bench.wire) as way:
            config = {"host": way.host, "port": way.port}
            one = Collecting(bench.processes, db_url, exchange, place, **config)
            bench.collector(one, exchange, way, db_url, breaks=fault not in ("delay", "loss"))


def database_part(bench: Bench, fault: str, server: Server) -> None:
    """Between the collector and PostgreSQL: what comes meanwhile waits, and nothing is lost."""
    with (
        a_database(server) as db_url,
        folder() as place,
        way_to(server.port, fault, bench.wire) as way,
    ):
        exchange = Exchange(RATE)
        one = Collecting(bench.processes, way.leads(db_url, server), exchange, place)
        bench.collector(one, exchange, way, db_url, breaks=False)


def bot_part(bench: Bench, fault: str, server: Server) -> None:
    """Between a bot and PostgreSQL."""
    with (
        a_database(server) as db_url,
        folder() as place,
        way_to(server.port, fault, bench.wire) as way,
    ):
        history = History(db_url)
        bot = Trading(bench.processes, way.leads(db_url, server), history, place)
        bench.bot(bot, way)
        history.close()


@dataclass
class Bench:
    """Hold what all parts need; a fault lasts so many seconds."""

    name: str
    processes: Any
    report: Report
    seconds: float
    wire: Wire | None

    def collector(
        self, one: Collecting, exchange: Exchange, way: Way, db_url: str, *, breaks: bool
    ) -> None:
        """Let a collector meet a fault.

        :param breaks: nothing comes through, so the time must not count as observed
        """
        exchange.start()
        with ending(one.process):
            one.wait()
            time.sleep(2)
            said, begin = len(messages(one.log)), exchange.server.now()
            way.hit()
            time.sleep(self.seconds)
            way.mend()
            end, last = exchange.server.now(), exchange.sent
            took = until(lambda: one.has(last), 2 * GOAL)
            time.sleep(4)
            exchange.pause()
            time.sleep(2)
            one.stop()
        during, found = messages(one.log)[said:], judge(db_url, exchange, one.numbers())
        faults, gap = found.faults(), uncovered(db_url, begin, end)
        if took is None or took > GOAL:
            faults.append(f"it did not go on within {GOAL:.0f} s: {took}")
        if breaks and gap < 1:
            faults.append("a time in which nothing could come counts as observed")
        if len(during) > 6:
            faults.append(f"it says {len(during)} things")
        rows: list[tuple[str, Any]] = [("seconds of the fault", self.seconds)]
        rows += [("seconds until it goes on", took), ("seconds of the fault not covered", gap)]
        rows += [*found.rows(), *(("said", common.kind_of(text)) for text in during)]
        self.report.part(self.name, rows, faults)
        exchange.close()

    def bot(self, bot: Trading, way: Way) -> None:
        """Let a bot meet a fault."""
        with ending(bot.process):
            bot.wait()
            start = now_ms()
            way.hit()
            time.sleep(self.seconds)
            way.mend()
            end = now_ms()
            took = until(lambda: bot.well_since(end), 2 * GOAL)
            time.sleep(1)
            alive = bot.process.is_alive()
        rows, faults = bot_figures(bot.asked(), start, end, bot.said())
        if took is None or took > GOAL:
            faults.append(f"it did not go on within {GOAL:.0f} s: {took}")
        if not alive:
            faults.append("the bot has ended")
        own = [("seconds of the fault", self.seconds), ("seconds until it goes on", took)]
        self.report.part(self.name, [*own, *rows], faults)


# --- the program ----------------------------------------------------------------------------------

#: Who is on the way, and what happens there.
PARTS = tuple(
    f"{who}-{fault}"
    for who in ("exchange", "database", "bot")
    for fault in ("cut", "delay", "half-open", *LOSSES)
)

#: What CI runs.
SHORT = ("exchange-half-open", "database-cut", "bot-half-open", "exchange-loss", "bot-dark")


def run(report: Report, part: str, seconds: float) -> None:
    """Run one part."""
    who, _, fault = part.partition("-")
    wire = Wire() if fault in LOSSES else None  # before all else: it makes the network work
    bench = Bench(part, common.forks(), report, seconds, wire)
    if who == "exchange":
        exchange_part(bench, fault)
        return
    try:
        with Server() as server:
            server.start()
            (database_part if who == "database" else bot_part)(bench, fault, server)
    except NoServerError as error:
        report.skip(part, str(error))


def inside(part: str) -> list[str]:
    """Return what puts a part into a namespace of its own, if it needs one."""
    return NAMESPACE if part.partition("-")[2] in LOSSES else []


def main() -> int:
    """Run the program."""
    return common.program("network", __file__, __doc__, PARTS, SHORT, run, inside, no_wire)


if __name__ == "__main__":
    sys.exit(main())
