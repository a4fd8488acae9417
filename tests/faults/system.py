"""Disks, files, locks and clocks: a clear message, nothing acknowledged lost, and it goes on.

    python tests/faults/system.py              all of them, faults of 20 s
    python tests/faults/system.py --short      some of them, and shorter faults, for CI
    python tests/faults/system.py disk-full    one of them

A collector and a bot share a store; an exchange publishes all the time. Root may do everything, so
they give up that right. The full disk is a small one of our own in memory, which needs Linux with
user namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import numpy as np
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
    until,
)
from postgres import NoServerError, Server, a_database

from liquidations.event import MINUTE
from liquidations.store import Store


PROGRAM = Path(__file__).resolve()

#: It must go on within so long (s) after the end of a fault.
GOAL = 30.0

RATE = 500

#: What the small disk has (MB), and how much of it is left when it is nearly full.
DISK, LEFT = 48, 1

HOUR = 3_600_000


@dataclass
class Bench:
    """Hold a collector and a bot on one store, and what is done to them."""

    processes: Any
    report: Report
    seconds: float
    faults: list[str] = field(default_factory=list)
    rows: list[tuple[str, Any]] = field(default_factory=list)

    def run(
        self,
        name: str,
        db_url: str,
        hit: Callable[[], object],
        mend: Callable[[], object],
        *,
        clocks: tuple[Any, Any] = (0, 0),
        exchange_ahead: int = 0,
        history_begin: int | None = None,
        check: Callable[[Exchange, Collecting], None] | None = None,
        lost: int = 0,
    ) -> None:
        """Let both meet a fault, and print what they did.

        :param clocks: by how much (ms) those of the collector and the bot are ahead
        :param check: looks at the store afterwards
        :param lost: acknowledged orders that may be missing
        """
        self.faults, self.rows = [], []
        with folder() as place:
            history = History(db_url, history_begin)
            exchange = Exchange(RATE)
            exchange.server.clock_offset_ms = exchange_ahead
            one = Collecting(self.processes, db_url, exchange, place, clocks[0])
            bot = Trading(self.processes, db_url, history, place, clocks[1])
            exchange.start()
            with ending(one.process), ending(bot.process):
                one.wait()
                bot.wait()
                time.sleep(1)
                said = len(messages(one.log))
                start = now_ms()
                hit()
                time.sleep(self.seconds)
                mend()
                end, last = now_ms(), exchange.sent
                took = until(lambda: one.has(last), 2 * GOAL)
                asked = until(lambda: bot.well_since(end), 2 * GOAL)
                time.sleep(1)
                self._alive("the collector", one.process, took)
                self._alive("the bot", bot.process, asked)
                exchange.pause()
                time.sleep(2)
                one.stop()
                history.close()
            found = judge(db_url, exchange, one.numbers())
            if found.missing <= lost:
                self.rows.append(("acknowledged, but lost", found.missing))
                found.missing = 0
            self.faults += found.faults()
            if check is not None:
                check(exchange, one)
            rows, faults = bot_figures(bot.asked(), start, end, bot.said())
            during = messages(one.log)[said:]
            if len(during) > 6:
                self.faults.append(f"the collector says {len(during)} things")
            self.rows += [
                ("seconds of the fault", (end - start) / 1000),
                ("seconds until the collector writes", took),
                ("seconds until the bot knows", asked),
                *found.rows(),
                *(("the collector said", text) for text in map(common.kind_of, during)),
                *((f"bot: {label}", value) for label, value in rows),
            ]
            self.report.part(name, self.rows, self.faults + faults)
            exchange.close()

    def _alive(self, who: str, process: Any, took: float | None) -> None:
        if not process.is_alive():
            self.faults.append(f"{who} has ended")
        if took is None or took > GOAL:
            self.faults.append(f"{who} did not go on within {GOAL:.0f} s")


def nothing() -> None:
    """Do nothing."""


# --- locks ----------------------------------------------------------------------------------------


def locked_sqlite(bench: Bench) -> None:
    """Let another process hold the lock of writing."""
    with folder() as place:
        file = place / "l.sqlite"
        locks: list[sqlite3.Connection] = []

        def lock() -> None:
            connection = sqlite3.connect(file, isolation_level=None, timeout=10)
            connection.execute("BEGIN IMMEDIATE")
            locks.append(connection)

        bench.run("locked database, SQLite", f"sqlite:///{file}", lock, lambda: locks[0].close())


def locked_postgresql(bench: Bench, server: Server) -> None:
    """Let another connection hold a lock of the table of events."""
    import psycopg

    with a_database(server) as db_url:
        held: list[Any] = []

        def lock() -> None:
            connection = psycopg.connect(db_url.replace("+psycopg", ""))
            connection.execute("LOCK TABLE liq_event IN ACCESS EXCLUSIVE MODE")
            held.append(connection)

        bench.run("locked table, PostgreSQL", db_url, lock, lambda: held[0].close())


def standby(bench: Bench, server: Server) -> None:
    """Let the server refuse to write, as one does that is a replica now."""
    with a_database(server) as db_url:
        name = db_url.rpartition("/")[2]

        def read_only(on: str) -> None:
            server.sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {on}')
            server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            )

        bench.run(
            "server that only reads, PostgreSQL", db_url,
            lambda: read_only("on"), lambda: read_only("off"),
        )  # fmt: skip


# --- clocks ---------------------------------------------------------------------------------------


def jump(bench: Bench, ahead: int) -> None:
    """Let the clock of the collector and the bot jump, and back again."""
    clocks = tuple(bench.processes.Value("q", 0) for _ in range(2))

    def step(to: int) -> None:
        for clock in clocks:
            clock.value = to

    with folder() as place:
        db_url = f"sqlite:///{place}/l.sqlite"

        def check(exchange: Exchange, one: Collecting) -> None:
            with Store(db_url) as store, store.read() as reader:
                reasons = {gap[2] for feed in reader.feeds() for gap in reader.gaps(feed)}
            bench.rows.append(("reasons of gaps", ", ".join(sorted(reasons))))
            if "clock" not in reasons:
                bench.faults.append("no gap says that the clock jumped")

        bench.run(
            f"clock jumps by {ahead / HOUR:+.0f} h, and back", db_url,
            lambda: step(ahead), lambda: step(0), clocks=clocks, check=check,
        )  # fmt: skip


#: So long (s) before the change it begins, with the time that a start may take.
BEFORE_CHANGE = 15

#: When Europe/Berlin turns its clocks (UTC): to winter, where an hour comes twice, and to summer.
CHANGES = {"winter": "2026-10-25T01:00", "summer": "2026-03-29T01:00"}


def summer_time(bench: Bench, season: str) -> None:
    """Let local time change by an hour while both run; nothing may notice.

    The collector's clock passes the change, and so do the candles that the bot asks for.
    """
    change = int(np.datetime64(CHANGES[season], "ms").astype(np.int64))
    ahead = change - time.time_ns() // 1_000_000 - BEFORE_CHANGE * 1_000

    def wait() -> None:
        time.sleep(max(0.0, (change - ahead) / 1000 - time.time() - bench.seconds / 2))

    def check(exchange: Exchange, one: Collecting) -> None:
        times = exchange.times[: exchange.sent]
        before, after = int((times < change).sum()), int((times >= change).sum())
        bench.rows.append(("orders before and after the change", f"{before:,}, {after:,}"))
        if not before or not after:
            bench.faults.append("the change was not met")
        with Store(db_url) as store, store.read() as reader:
            series = next(one for one in reader.series() if one.base == common.BASES[0])
            minutes = reader.bars(series, 0, 2**62).timestamp
            spans = reader.coverage(series)
        if not {change - MINUTE, change} <= set(minutes.tolist()):
            bench.faults.append(f"the minutes around the change are not there: {minutes}")
        if not any(start < change - 1_000 and end > change for start, end in spans.tolist()):
            bench.faults.append(f"the change is not covered: {spans.tolist()}")

    with folder() as place:
        db_url = f"sqlite:///{place}/l.sqlite"
        zone = time.strftime("%H:%M", time.localtime(change / 1000))
        bench.run(
            f"local clocks turn to {season} time, {zone} from now on", db_url, wait, nothing,
            clocks=(ahead, 0), exchange_ahead=ahead, check=check,
            history_begin=change - 400 * MINUTE,
        )  # fmt: skip


# --- files ----------------------------------------------------------------------------------------


def damaged_file(bench: Bench, *, replaced: bool) -> None:
    """Damage the file of a store that is in use, and put a copy back as a user does.

    :param replaced: something else is put in its place, as by a copy that went wrong
    """
    with folder() as place:
        file = place / "l.sqlite"

        def damage() -> None:
            backup = sqlite3.connect(place / "backup.sqlite")
            with closing(sqlite3.connect(file)) as source, closing(backup):
                source.backup(backup)
            if replaced:
                drop_log()
                (place / "other").write_bytes(os.urandom(65_536))
                (place / "other").rename(file)
                return
            with file.open("r+b") as raw:
                raw.write(os.urandom(65_536))

        def drop_log() -> None:  # else it would be played back into whatever file is there
            for end in ("-wal", "-shm"):
                file.with_name(file.name + end).unlink(missing_ok=True)

        def put_back() -> None:
            drop_log()
            (place / "backup.sqlite").rename(file)

        name = f"file is {'replaced' if replaced else 'damaged'}, and a copy put back"
        bench.run(name, f"sqlite:///{file}", damage, put_back, lost=10**9)


def closed_file(bench: Bench) -> None:
    """Take away and give back the rights to the file and its folder while both run."""
    with folder() as place:
        file = place / "l.sqlite"

        def rights(own: int, folders: int) -> None:
            place.chmod(stat.S_IRWXU)
            for one in place.glob("l.sqlite*"):
                one.chmod(own)
            place.chmod(folders)

        bench.run(
            "no rights to the file and its folder", f"sqlite:///{file}",
            lambda: rights(0, 0o500), lambda: rights(0o600, 0o700),
        )  # fmt: skip


def read_only_file(bench: Bench) -> None:
    """Start a collector on a file that it must not write, and give it the right."""
    with folder() as place:
        file, db_url = place / "l.sqlite", f"sqlite:///{place}/l.sqlite"
        History(db_url).close()
        exchange = Exchange(RATE)
        file.chmod(0o400)
        one = Collecting(bench.processes, db_url, exchange, place)
        exchange.start()
        with ending(one.process):
            time.sleep(bench.seconds)
            said, early = messages(one.log), len(one.numbers())
            for each in place.glob("l.sqlite*"):  # its log has got the same rights
                each.chmod(0o600)
            took = until(lambda: one.has(0), 2 * GOAL)
            exchange.pause()
            time.sleep(2)
            alive = one.process.is_alive()
            one.stop()
        found = judge(db_url, exchange, one.numbers())
        faults = found.faults() + ["it wrote what it must not"] * (early > 0)
        faults += ["it says nothing of it"] * (not any("readonly" in text for text in said))
        faults += ["the collector has ended"] * (not alive)
        if took is None or took > GOAL:
            faults.append(f"it did not go on within {GOAL:.0f} s: {took}")
        rows = [("seconds until the collector writes", took), *found.rows()]
        rows += [("said", common.kind_of(text)) for text in dict.fromkeys(said)]
        bench.report.part("read-only file, SQLite", rows, faults)
        exchange.close()


def starts(report: Report) -> None:
    """Start on what can't work, as a user does: one line, and exit code 2."""
    with folder() as place:
        good = place / "good.sqlite"
        history = History(f"sqlite:///{good}")
        history.close()
        with closing(sqlite3.connect(good)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        data = good.read_bytes()
        (place / "user_data").mkdir()
        config = json.loads((PROGRAM.parents[2] / "config.json").read_text())
        # Nobody listens there: whatever happens, no real exchange is dialled.
        nowhere = Exchange(1)
        config["liquidations"] = {"ccxt_config": {"binance": nowhere.config()}}
        nowhere.close()
        (place / "config.json").write_text(json.dumps(config))
        cases: dict[str, Callable[[Path], object]] = {
            "header overwritten": lambda file: file.write_bytes(b"\0" * 100 + data[100:]),
            "another kind of file": lambda file: file.write_bytes(b"date,side\n" * 5_000),
            "cut in half": lambda file: file.write_bytes(data[: len(data) // 2]),
            "pages overwritten": lambda file: file.write_bytes(
                data[:16_384] + os.urandom(len(data) - 16_384)
            ),
            "read-only": lambda file: (file.write_bytes(data), file.chmod(0o400)),
            "not readable": lambda file: (file.write_bytes(data), file.chmod(0)),
            "folder read-only": lambda file: file.parent.chmod(0o500),
            "folder missing": lambda file: file.parent.rmdir(),
        }
        for name, make in cases.items():
            there = place / name.replace(" ", "-")
            there.mkdir()
            file = there / "l.sqlite"
            make(file)
            for command in ("collect", "list-data"):
                code, said = run_command(command, f"sqlite:///{file}", place)
                line = said.strip().splitlines()[-1:] or [""]
                rows = [("exit code", code), ("said", common.kind_of(line[0]))]
                reads = command == "list-data" and name in ("read-only",)
                faults = []
                if "Traceback" in said or ("database disk image" in said and ";" not in line[0]):
                    faults.append(f"no clear message: {said[-500:]}")
                if code not in ((0, 1) if reads else (2,)):
                    faults.append(f"exit code {code}")
                report.part(f"{command}: {name}", rows, faults)
            if there.exists():
                there.chmod(0o700)


def run_command(command: str, db_url: str, place: Path) -> tuple[int, str]:
    """Run a command of the program; return its exit code and what it said on stderr."""
    words = [sys.executable, "-m", "liquidations", command, "-c", "config.json"]
    words += ["--db-url", db_url]
    if command == "collect":
        words += ["-p", "BTC/USDT:USDT", "--exchange", "binance"]
    env = {**os.environ, "HOME": str(place), "COLUMNS": "300"}
    try:
        done = subprocess.run(
            words, env=env, cwd=place, capture_output=True, text=True, timeout=40, check=False,
            preexec_fn=common.drop_rights,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return -1, (late.stderr or b"").decode()
    return done.returncode, done.stderr


# --- full disks -----------------------------------------------------------------------------------


#: Runs a program with mounts of its own, as the user that we are.
NAMESPACE = ["unshare", "--mount"]
if os.geteuid() != 0:
    NAMESPACE += ["--map-current-user", "--keep-caps"]


def no_disk() -> str | None:
    """Say why this system has no small disk for us; None if it has."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "it needs Linux and the program unshare"
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [*NAMESPACE, "mount", "-t", "tmpfs", "none", place],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    return None if done.returncode == 0 else f"no mount: {done.stderr.strip()[:120]}"


class SmallDisk:
    """Mount a small disk in memory, which can be filled."""

    def __init__(self, place: Path) -> None:
        self.place = place
        size = f"size={DISK}m,mode=0777"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(place)], check=True)

    def fill(self) -> None:
        free = shutil.disk_usage(self.place).free
        (self.place / "ballast").write_bytes(b"\1" * max(0, free - LEFT * 2**20))

    def empty(self) -> None:
        (self.place / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)


def full_disk_sqlite(bench: Bench) -> None:
    """Fill the disk with the store, and make room again."""
    with folder() as place:
        disk = SmallDisk(place)
        bench.run(
            "full disk, SQLite", f"sqlite:///{place}/l.sqlite", disk.fill, disk.empty,
        )  # fmt: skip
        disk.close()


def full_disk_postgresql(bench: Bench, server: Server) -> None:
    """Fill the disk with PostgreSQL's tables, and make room again."""
    with folder() as place:
        disk = SmallDisk(place)
        (place / "tables").mkdir(mode=0o700)
        owner = server.data.stat()
        os.chown(place / "tables", owner.st_uid, owner.st_gid)
        server.sql(f"CREATE TABLESPACE small LOCATION '{place / 'tables'}'")
        server.sql("CREATE DATABASE small TABLESPACE small TEMPLATE template0")
        bench.run("full disk, PostgreSQL", server.url("small"), disk.fill, disk.empty)
        server.stop("immediate")
        disk.close()


# --- the program ----------------------------------------------------------------------------------

SQLITE: Mapping[str, Callable[[Bench], None]] = {
    "locked": locked_sqlite,
    "clock-forward": lambda bench: jump(bench, HOUR),
    "clock-back": lambda bench: jump(bench, -HOUR),
    "winter-time": lambda bench: summer_time(bench, "winter"),
    "summer-time": lambda bench: summer_time(bench, "summer"),
    "file-damaged": lambda bench: damaged_file(bench, replaced=False),
    "file-replaced": lambda bench: damaged_file(bench, replaced=True),
    "file-closed": closed_file,
    "file-read-only": read_only_file,
    "disk-full": full_disk_sqlite,
}
POSTGRESQL: Mapping[str, Callable[[Bench, Server], None]] = {
    "locked-postgresql": locked_postgresql,
    "standby-postgresql": standby,
    "disk-full-postgresql": full_disk_postgresql,
}
PARTS = (*SQLITE, *POSTGRESQL, "starts")

#: What CI runs.
SHORT = ("locked", "clock-forward", "winter-time", "file-replaced", "disk-full")


def run(report: Report, part: str, seconds: float) -> None:
    """Run one part."""
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    if part == "starts":
        starts(report)
        return
    bench = Bench(common.forks(), report, seconds)
    if part in SQLITE:
        SQLITE[part](bench)
        return
    try:
        with Server() as server:
            server.start()
            POSTGRESQL[part](bench, server)
    except NoServerError as error:
        report.skip(part, str(error))


def inside(part: str) -> list[str]:
    """Return what puts a part into a namespace of its own, if it needs one."""
    return NAMESPACE if part.startswith("disk") else []


def main() -> int:
    """Run the program."""
    return common.program("system", __file__, __doc__, PARTS, SHORT, run, inside, no_disk)


if __name__ == "__main__":
    sys.exit(main())
