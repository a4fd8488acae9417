"""Kill -9 at random moments: nothing that was acknowledged is lost, doubled or torn.

    python tests/faults/kill.py                     100 kills of each, on both databases
    python tests/faults/kill.py --short             a few of each, for CI
    python tests/faults/kill.py sqlite-collector --kills 20 --rate 5000

``…-collector`` kills the collector, which also packs what is some seconds old; ``…-compaction``
another process that packs too; ``…-server`` the PostgreSQL server with all its processes. An
exchange publishes 5,000 orders a second meanwhile, other processes read all the time, and a day
ends, so that bars are packed, too.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import common
import numpy as np
import sqlalchemy as sa
from common import Exchange, Report, acknowledged, collect, judge, until
from postgres import NoServerError, Server, a_database

from liquidations.store import Store
from liquidations.tables import EVENTS, SEGMENT


#: Processes that read.
READERS = 2

#: After a start the next kill comes within so long (s).
SOONEST, LATEST = 0.05, 3.0


class Session:
    """Hold what one part plays with: exchange, store, collector and readers."""

    def __init__(self, db_url: str, folder: Path, given: argparse.Namespace) -> None:
        self.db_url, self.folder, self.old = db_url, folder, given.old
        self.processes = common.forks()
        self.ahead = common.before_midnight(given.midnight)
        self.exchange = Exchange(given.rate)
        self.exchange.server.clock_offset_ms = self.ahead
        self.counts = [self.processes.Value("q", 0) for _ in range(4)]
        self.stop = self.processes.Event()
        self.readers: list[Any] = []
        self.notes: list[Path] = []
        self.collector: Any = None
        self.packing: Any = None
        self.packed = self.processes.Value("q", 0)
        self.recoveries: list[float] = []

    def start_collector(self) -> None:
        self.notes.append(self.folder / f"notes{len(self.notes):04d}")
        log, config = self.folder / "collector.log", self.exchange.config()
        words = (self.db_url, config, self.notes[-1], log, self.ahead)
        self.collector = self.processes.Process(
            target=collect, args=words, kwargs={"pack": self.old}, daemon=True
        )
        self.collector.start()

    def start_readers(self, number: int) -> None:
        for seed in range(number):
            words = (
                self.db_url,
                seed,
                self.ahead,
                self.stop,
                self.counts,
                str(self.folder / "readers.log"),
            )
            one = self.processes.Process(
                target=common.read_again_and_again, args=words, daemon=True
            )
            one.start()
            self.readers.append(one)

    def start_packing(self) -> None:
        log = str(self.folder / "packing.log")
        words = (self.db_url, self.ahead, self.old, self.packed, log)
        self.packing = self.processes.Process(
            target=common.compact_again_and_again, args=words, daemon=True
        )
        self.packing.start()

    def acknowledged_since(self, moment: int) -> bool:
        """Tell whether anything was committed since a moment (ns since 1970)."""
        notes = self.notes[-1]
        return notes.exists() and notes.stat().st_size > 0 and notes.stat().st_mtime_ns > moment

    def note_recovery(self) -> None:
        """Wait until a commit comes after now, and note how long that took."""
        moment = time.time_ns()
        took = until(lambda: self.acknowledged_since(moment), 60)
        self.recoveries.append(60.0 if took is None else took)

    def end(self) -> None:
        """End all processes; the collector writes what it has."""
        self.stop.set()
        if self.packing is not None:
            self.packing.kill()
            self.packing.join()
        for one in (*self.readers, self.collector):
            if one is not None:
                one.terminate() if one is self.collector else None
                one.join(20)
                if one.is_alive():
                    one.kill()
                    one.join()
        self.exchange.close()


@contextmanager
def session(db_url: str, given: argparse.Namespace) -> Iterator[Session]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        one = Session(db_url, Path(folder), given)
        try:
            Store(db_url, create=True).close()
            one.start_readers(READERS)
            one.start_collector()
            one.exchange.start()
            if until(lambda: one.acknowledged_since(0), 60) is None:
                said = (one.folder / "collector.log").read_text()[-2000:]
                raise RuntimeError(f"nothing was stored within 60 s: {said}")
            yield one
        finally:
            one.end()


def kill_collector(one: Session, pick: random.Random) -> None:
    """Kill the collector and start it again at once."""
    one.collector.kill()
    one.collector.join()
    one.start_collector()
    if pick.random() < 0.2:  # most are killed again before they listen
        one.note_recovery()


def kill_packing(one: Session) -> None:
    """Kill the process that packs, and start it again at once."""
    if one.packing is not None:
        one.packing.kill()
        one.packing.join()
    one.start_packing()


def kill_server(one: Session, pick: random.Random, server: Server) -> None:
    """Kill the database server and start it again, as a service manager does."""
    server.kill()
    time.sleep(pick.uniform(0, 0.5))
    server.start()
    one.note_recovery()


def part(
    report: Report, target: str, db_url: str, server: Server | None, given: argparse.Namespace
) -> None:
    """Kill one thing so many times, read so often, and judge."""
    pick, began = random.Random(7), time.monotonic()
    with session(db_url, given) as one:
        kills = 0
        # Until yesterday's bars are being packed.
        least = given.midnight + given.old + 3
        while (
            kills < given.kills
            or one.counts[0].value < given.reads
            or time.monotonic() - began < least
        ):
            kills += 1
            time.sleep(pick.uniform(SOONEST, LATEST if given.kills > 20 else 1.0))
            if target == "collector":
                kill_collector(one, pick)
            elif target == "compaction":
                kill_packing(one)
            else:
                assert server is not None
                kill_server(one, pick, server)
        one.note_recovery()
        one.exchange.pause()
        quiet = time.monotonic()
        while target == "compaction" and not packed_rows(db_url)["bars"]:
            # Bars come last in each pass, and under full load none gets so far.
            if time.monotonic() - quiet > 30:
                break
            kills += 1
            time.sleep(pick.uniform(SOONEST, LATEST))
            kill_packing(one)
        time.sleep(1.5)
        one.end()
        noted, _ = acknowledged(file for file in one.notes if file.exists())
        found = judge(db_url, one.exchange, noted)
        faults = found.faults() + reading_faults(one, given.reads)
        if not one.recoveries or max(one.recoveries) >= 30:
            faults.append(f"it took {max(one.recoveries):.0f} s to go on")
        packed = packed_rows(db_url)
        needed = packed if given.short and target == "compaction" else ("events",)
        faults += [f"no {name} were packed" for name in needed if not packed[name]]
        rows = [("kills", kills), *found.rows(), *read_rows(one)]
        rows += [
            ("seconds until it writes again", f"median {np.median(one.recoveries):.2f}, "
             f"at most {max(one.recoveries):.2f}"),
            *((f"{name} in segments at the end", f"{n:,}") for name, n in packed.items()),
            ("orders a second", given.rate),
            ("seconds", time.monotonic() - began),
        ]  # fmt: skip
        rows += [("said", text) for text in said(one.folder)]
        report.part(f"kill -9 of the {target}, {db_url.partition(':')[0]}", rows, faults)


def packed_rows(db_url: str) -> dict[str, int]:
    """Count what lies in segments."""
    kinds = {"events": SEGMENT.c.period == EVENTS, "bars": SEGMENT.c.period != EVENTS}
    total = sa.select(sa.func.sum(SEGMENT.c.rows))
    with Store(db_url) as store, store.transaction(write=False) as connection:
        return {
            name: int(connection.scalar(total.where(kind)) or 0) for name, kind in kinds.items()
        }


def read_rows(one: Session) -> list[tuple[str, Any]]:
    names = ("reads", "torn reads", "reads that lack what was there", "reads refused meanwhile")
    return [(name, f"{counter.value:,}") for name, counter in zip(names, one.counts, strict=True)]


def reading_faults(one: Session, wanted: int) -> list[str]:
    reads, torn, gone, _ = (counter.value for counter in one.counts)
    faults = [f"{torn} torn reads"] * bool(torn) + [f"{gone} reads lack rows"] * bool(gone)
    return faults + [f"only {reads:,} reads of {wanted:,}"] * (reads < wanted)


def said(folder: Path) -> list[str]:
    """List the kinds of messages, each once."""
    logs = (folder / f"{name}.log" for name in ("collector", "packing", "readers"))
    texts = [text for log in logs for text in common.messages(log)]
    return list(dict.fromkeys(common.kind_of(text) for text in texts))[:12]


def prove(report: Report) -> None:
    """Show that the judge sees what is wrong: break a good store in each way."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        db_url = f"sqlite:///{folder}/l.sqlite"
        exchange = Exchange(1_000)
        try:
            for wrong, word in common.BREAKS.items():
                verdict = common.broken(db_url, exchange, wrong)
                seen = [text for text in verdict.faults() if word and word in text]
                right = bool(seen) if word else not verdict.faults()
                faults = [] if right else [f"not seen: {verdict}"]
                report.part(f"the judge sees: {wrong}", [("found", verdict.faults())], faults)
        finally:
            exchange.close()


def run(report: Report, name: str, given: argparse.Namespace) -> None:
    """Run one part."""
    database, _, target = name.partition("-")
    with ExitStack() as stack:
        if name == "prove":
            prove(report)
        elif database == "sqlite":
            place = stack.enter_context(common.folder())
            part(report, target, f"sqlite:///{place}/liquidations.sqlite", None, given)
        else:
            try:
                server = stack.enter_context(Server()).start()
            except NoServerError as error:
                report.skip(name, str(error))
                return
            part(report, target, stack.enter_context(a_database(server)), server, given)


#: Database and what is killed; ``prove`` shows that the judge sees what is wrong.
PARTS = (
    "prove",
    "sqlite-collector",
    "sqlite-compaction",
    "postgresql-collector",
    "postgresql-compaction",
    "postgresql-server",
)

#: What CI runs.
SHORT = ("prove", "sqlite-collector", "sqlite-compaction", "postgresql-server")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("part", nargs="?", choices=PARTS, help="Default: all.")
    parser.add_argument("--short", action="store_true", help="A few kills of some.")
    parser.add_argument("--kills", type=int, help="At least so many.")
    parser.add_argument("--reads", type=int, help="At least so many in each part.")
    parser.add_argument("--rate", type=int, help="Orders a second.")
    given = parser.parse_args(arguments)
    given.kills = given.kills or (4 if given.short else 100)
    given.reads = given.reads or (200 if given.short else 10_000)
    given.old, given.midnight = (3, 5.0) if given.short else (10, 60.0)
    given.rate = given.rate or (1_000 if given.short else 5_000)
    if given.part is not None:
        report = Report()
        run(report, given.part, given)
        return report.end()
    report = Report("kill")
    words = ["--kills", str(given.kills), "--reads", str(given.reads), "--rate", str(given.rate)]
    parts: dict[str, list[str]] = {name: [] for name in (SHORT if given.short else PARTS)}
    short = ["--short"] * given.short
    common.run_parts(report, __file__, parts, words + short, 4 if given.short else 1)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
