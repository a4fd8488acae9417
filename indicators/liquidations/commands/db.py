"""``liquidations db``: the store itself: its schema, its soundness, its size, its place."""

from __future__ import annotations

import time
from argparse import SUPPRESS, ArgumentParser
from typing import TYPE_CHECKING, Any

from liquidations.commands.common import (
    console,
    load_config,
    progress,
    say,
    store_settings,
    store_url,
)
from liquidations.errors import LiquidationsError, printable
from liquidations.event import DAY, MINUTE
from liquidations.settings import SECTION


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.copying import Copied


_MIGRATE = (
    "Bring a store of an older version to this one's schema; any command does that if it may."
)
_CHECK = (
    "Read all that is stored, and tell whether it is sound: nothing damaged, torn or doubled. "
    "Exit code 0: it is; 1: it is not; 2: it can't be read. Whether it can be true is another "
    "question: liquidations check."
)
_COMPACT = (
    "Move old events and bars, which came live, into compressed segments. The collector does so by "
    "itself; bots may read and collectors write meanwhile."
)
_COPY = (
    "Copy a store, also from SQLite to PostgreSQL or back. The source may be written to meanwhile, "
    "and is copied as it was at the beginning. One that was ended early goes on when it is run "
    "again; one that is run again later adds what is new. Nobody may use the destination before it "
    "is done."
)


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    made = {}
    for name, (about, act) in _ACTIONS.items():
        # What stands before the action's name holds unless it is said again.
        parents = [arguments.common(argument_default=SUPPRESS)]
        made[name] = actions.add_parser(name, help=about, description=about, parents=parents)
        made[name].set_defaults(act=act)
    made["compact"].add_argument(
        "--older-than",
        dest="compact_after",
        type=float,
        metavar="HOURS",
        help="Move what is older than this (default: the config's compact_after, else 24).",
    )
    made["compact"].add_argument(
        "--keep-events",
        type=float,
        metavar="DAYS",
        help="Drop single events that are older, not their bars (default: the config's "
        "keep_events, else keep all).",
    )
    made["compact"].add_argument(
        "--vacuum",
        action="store_true",
        help="Give the room back to the disk (SQLite): nobody can write to the file meanwhile, and "
        "it needs as much room again. Without it, what comes later fills the room.",
    )
    made["copy"].add_argument(
        "--from",
        dest="source",
        metavar="URL",
        help="The store to copy (default: that of --db-url, or the config's).",
    )
    made["copy"].add_argument(
        "--to",
        required=True,
        metavar="URL",
        help="Where to: a database without a store, or a file that does not exist; or an earlier "
        "copy of the same store that nobody has written to. The password of PostgreSQL need not "
        "stand in the URL: it may be in ~/.pgpass or PGPASSWORD.",
    )


def run(args: dict[str, Any]) -> int:
    """Do what the action says."""
    return int(args["act"](args, load_config(args)))


def _migrate(args: dict[str, Any], config: dict[str, Any]) -> int:
    from liquidations.store import Store
    from liquidations.tables import SCHEMA_VERSION

    db_url = store_url(config)
    # A file of a mistyped name is soon made; a database was made by somebody who meant it.
    with Store(db_url, create=not db_url.startswith("sqlite")) as store:
        before = store.found_version
        done = "already" if before == SCHEMA_VERSION else f"→ {SCHEMA_VERSION}"
        say(f"{store.shown}: " + (f"schema version {before} {done}" if before else "made"))
    return 0


def _check(args: dict[str, Any], config: dict[str, Any]) -> int:
    from liquidations.integrity import Seen, find_problems
    from liquidations.store import Store

    seen, number = Seen(), 0
    with Store(store_url(config)) as store, progress() as bar:
        task = bar.add_task("", total=None, rate="")

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"Reading {what}", completed=done, total=total)

        for problem in find_problems(store, seen, tell):
            number += 1
            console().print(printable(str(problem)), soft_wrap=True, markup=False)
    for note in seen.notes:
        say(note)
    say(
        f"{seen.series:,} series, {seen.segments:,} segments of {seen.packed:,} rows and "
        f"{seen.rows:,} live rows: {f'{number:,} problems' if number else 'sound'}"
    )
    return int(number > 0)


def _compact(args: dict[str, Any], config: dict[str, Any]) -> int:
    from liquidations.compaction import Moved, compact
    from liquidations.store import Store

    given = {
        name: args[name] for name in ("compact_after", "keep_events") if args[name] is not None
    }
    section = config.get(SECTION, {})
    if isinstance(section, dict):
        config = {**config, SECTION: {**section, **given}}
    settings = store_settings(config)
    now = time.time_ns() // 1_000_000
    keep = settings.keep_events
    total = Moved()
    if args["vacuum"] and not settings.db_url.startswith("sqlite"):
        raise LiquidationsError(
            "--vacuum is for SQLite files; PostgreSQL's autovacuum does that by itself"
        )
    with Store(settings.db_url) as store:
        size = store.size()
        steps = compact(
            store,
            now - int(settings.compact_after * 60 * MINUTE),
            keep=None if keep is None else now - int(keep * DAY),
        )
        with progress() as bar:
            task = bar.add_task("Moving", total=None, rate="")
            for step in steps:
                total += step
                bar.update(task, completed=total.events + total.bars)
        say(
            f"{total.events:,} events and {total.bars:,} bars were moved, {total.dropped:,} events "
            f"dropped; {size / 1e6:,.1f} MB in use before, {store.size() / 1e6:,.1f} MB now"
        )
        if args["vacuum"]:
            store.vacuum()
    return 0


def _copy(args: dict[str, Any], config: dict[str, Any]) -> int:
    from liquidations.copying import copy_store

    begin = time.monotonic()
    with progress() as bar:
        tasks: dict[str, Any] = {}

        def tell(one: Copied) -> None:
            if one.table not in tasks:
                tasks[one.table] = bar.add_task(one.table, total=one.total, rate="")
            speed = bar.tasks[-1].speed
            rate = f"{speed:,.0f} rows/s" if speed else ""
            bar.update(tasks[one.table], completed=one.done, rate=rate)

        done = copy_store(args.get("source") or store_url(config), args["to"], tell)
    _print(done)
    took = time.monotonic() - begin
    say(f"{sum(one.done for one in done):,} rows compared in {took:.1f} s; the copy is complete")
    return 0


def _print(done: list[Copied]) -> None:
    from rich.table import Table

    table = Table("Table")
    for name in ("Rows", "New", "Changed", "Removed", "MB"):
        table.add_column(name, justify="right")
    for one in done:
        numbers = one.done, one.inserted, one.updated, one.deleted
        table.add_row(one.table, *(f"{number:,}" for number in numbers), f"{one.size / 1e6:.1f}")
    console().print(table)


_ACTIONS = {
    "migrate": (_MIGRATE, _migrate),
    "check": (_CHECK, _check),
    "compact": (_COMPACT, _compact),
    "copy": (_COPY, _copy),
}
