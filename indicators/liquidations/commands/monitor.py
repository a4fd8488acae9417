"""``liquidations monitor``: the live feeds in a terminal, as a collector or a bot stores them."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.candles import format_time, parse_timeframe
from liquidations.commands.common import (
    add_timeframe,
    console,
    format_length,
    load_config,
    load_settings,
    say,
    short_kind,
)
from liquidations.errors import LiquidationsError
from liquidations.event import DAY
from liquidations.monitor import LAG, Figures, Happened, Health, Monitor, Pair, Snapshot
from liquidations.pairs import is_pair
from liquidations.settings import SECTION


if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    from liquidations.cli import LiquidationArguments


EPILOG = (
    "It reads the store that `liquidations collect` or a bot writes, and writes nothing itself. "
    "Without a terminal it prints a plain snapshot each --interval. Ctrl+C ends it, exit code 0. "
    "A store that is locked, gone or replaced is said so, and tried again; with --once it is an "
    "error, exit code 2."
)

#: Between two looks (s): on a terminal, and where snapshots are printed one below the other.
LOOK, PRINT = 1.0, 60.0

#: So long (ms) after it was due a look that has not ended is said to be missing.
SLOW = 2_000

#: Rows of the last events: at most, and what remains of them on a terminal of little height.
EVENTS, FEW = 10, 3

#: From so many columns on there is room for the bar, and for what was observed.
WIDE = 100
BAR = 16

#: Beyond these the imbalance is drawn in the colour of the side that is hit.
EXTREME = (0.2, 0.8)

LONG_STYLE, SHORT_STYLE = "red", "green"


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    arguments.options(parser, "pairs", "exchange")
    add_timeframe(parser, "Of the candles (default: the config's, else 5m).")
    parser.add_argument(
        "--interval",
        type=_seconds,
        metavar="SECONDS",
        help=f"Between two looks. Default: {LOOK:g} on a terminal, else {PRINT:g}.",
    )
    parser.add_argument("--once", action="store_true", help="Print one snapshot and end.")
    parser.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        help="json: one line for each snapshot, unknown is null. Default: table.",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86_400:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 86400")
    return seconds


def run(args: dict[str, Any]) -> int:
    """Show the feeds until interrupted, or once."""
    monitor = _monitor(args)
    if args["once"]:
        try:
            _print(monitor.look(_now()), args["format"])
        finally:
            monitor.close()
        return 0
    terminal = console()
    drawn = terminal.is_terminal and args["format"] == "table"
    watch = Watch(monitor, args["interval"] or (LOOK if drawn else PRINT))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with watch.looking():
            if drawn:
                _draw(watch, terminal)
            else:
                _print_all(watch, args["format"])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _monitor(args: dict[str, Any]) -> Monitor:
    """Make what looks, from flags and configuration."""
    config = load_config({**args, "pairs": None})
    section = config.get(SECTION, {})
    if not config.get("exchange", {}).get("name") and not (
        isinstance(section, dict) and "exchanges" in section
    ):  # no bot whose exchange it could be
        args = {**args, "exchange": args.get("exchange") or "all"}
    settings = load_settings(args, config)
    timeframe = args.get("timeframe") or config.get("timeframe") or "5m"
    parse_timeframe(timeframe)
    pairs = args.get("pairs") or []
    for pair in pairs:
        if not is_pair(pair):
            raise LiquidationsError(
                f"{pair!r} is not a perpetual; write it as Freqtrade does, for example "
                "BTC/USDT:USDT"
            )
    whitelist = config.get("exchange", {}).get("pair_whitelist", ())
    return Monitor(settings, timeframe, pairs or [pair for pair in whitelist if is_pair(pair)])


def _now() -> int:
    return time.time_ns() // 1_000_000


class Watch:
    """Look again and again in a thread of its own: a store that does not answer stops no clock."""

    def __init__(self, monitor: Monitor, interval: float) -> None:
        self.monitor, self.interval = monitor, interval
        #: What was seen last, and why nothing was seen since.
        self.snapshot: Snapshot | None = None
        self.problem = ""
        #: Set when a look has ended.
        self.looked = threading.Event()
        self._stop = threading.Event()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look for as long as the context lasts."""
        thread = threading.Thread(target=self._run, name="liquidations", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(0.2)  # one that waits for a lock is left behind
            if not thread.is_alive():
                self.monitor.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.look()
            self.looked.set()
            self._stop.wait(max(0.0, began + self.interval - time.monotonic()))

    def look(self) -> None:
        """Look once; what goes wrong is kept to be shown."""
        try:
            self.snapshot, self.problem = self.monitor.look(_now()), ""
        except LiquidationsError as error:
            self.problem = " ".join(str(error).split())

    def wait(self, longest: float) -> bool:
        """Wait for the end of a look, for so many seconds at most; tell whether there was one."""
        ended = self.looked.wait(longest)
        self.looked.clear()
        return ended

    def trouble(self, now: int) -> str:
        """Say what is wrong now (ms UTC), and how old the figures are; nothing if nothing is."""
        seen = self.snapshot
        slow = seen is not None and now - seen.time > 1000 * self.interval + SLOW
        if not self.problem and not slow:
            return ""
        what = self.problem or "the store does not answer"
        figures = f"; the figures are those of {_clock(seen.time)}" if seen else ""
        return f"{what}. Trying again{figures}"


def _draw(watch: Watch, terminal: Console) -> None:
    """Keep the board on a terminal until interrupted."""
    from rich.live import Live

    with Live(console=terminal, screen=True, auto_refresh=False) as live:
        while True:
            now, size = _now(), terminal.size
            drawn = board(watch.snapshot, now, size.width, size.height, watch.trouble(now))
            live.update(drawn, refresh=True)
            watch.wait(max(LOOK, watch.interval) + 0.1)


def _print_all(watch: Watch, form: str) -> None:
    """Print a snapshot after each look until interrupted; say what is wrong when it changes."""
    said = ""
    while True:
        if not watch.wait(LOOK):
            continue
        problem, snapshot = watch.problem, watch.snapshot
        if problem and problem != said:
            say(f"{_clock(_now())} {problem}. Trying again")
        elif not problem and snapshot is not None:
            _print(snapshot, form)
        said = problem


def _print(snapshot: Snapshot, form: str) -> None:
    if form == "json":
        sys.stdout.write(json.dumps(snapshot.as_dict(), allow_nan=False) + "\n")
    else:
        plain = console()
        plain.print(board(snapshot, snapshot.time, plain.width, None))
    sys.stdout.flush()


# --- what is drawn --------------------------------------------------------------------------------


def board(
    snapshot: Snapshot | None, now: int, width: int, height: int | None, problem: str = ""
) -> Group:
    """Draw a snapshot for a width and height in characters.

    :param height: None draws all there is; else the pairs with most USD are shown, and the last
        events, as far as there is room
    :param problem: is shown above it
    """
    from rich.console import Group
    from rich.text import Text

    head: list[Any] = [_title(snapshot, now)]
    if problem:
        head.append(Text(problem, style="bold red"))
    if snapshot is None:
        return Group(*head, Text("" if problem else "reading the store"))
    pairs, events = list(snapshot.pairs), list(snapshot.events[:EVENTS])
    listed = True
    if height is not None:
        # The title and what is wrong, two lines of headings and a note, the feeds, two foot lines.
        room = height - 1 - -(-len(problem) // width) - 3 - (2 + len(snapshot.feeds)) - 2
        most = max(FEW, room - 2 - len(pairs))
        listed = room - 2 - most >= min(len(pairs), FEW)
        events = events[:most]
        pairs = _most(pairs, max(1, room - (2 + max(1, len(events)) if listed else 0)))
    parts: list[Any] = [*head, _pairs(snapshot, pairs, width)]
    if len(pairs) < len(snapshot.pairs):
        note = f"{len(pairs)} of {len(snapshot.pairs)} pairs: those with most USD in both candles"
        parts.append(Text(note, style="dim"))
    if listed:
        parts.append(_events(events, now))
    parts += [_feeds(snapshot, now, width), _foot(snapshot)]
    return Group(*parts)


def _most(pairs: list[Pair], number: int) -> list[Pair]:
    """Take the pairs with most USD, in the order in which they stand; unknown is least."""
    if len(pairs) <= number:
        return pairs
    usd = np.nan_to_num([[one.running.total, one.closed.total] for one in pairs]).sum(axis=1)
    return [pairs[at] for at in sorted(np.argsort(-usd, kind="stable")[:number].tolist())]


def _title(snapshot: Snapshot | None, now: int) -> Text:
    from rich.text import Text

    title = Text("Liquidations", style="bold")
    if snapshot is None:
        return title.append(f"  {_clock(now)} UTC")
    if snapshot.simulated:
        title.append("  SIMULATED", style="bold yellow")
    title.append(f"  {snapshot.timeframe}  {_clock(now)} UTC")
    if snapshot.pairs:
        one = snapshot.pairs[0]
        open_ = "" if snapshot.sealed else ", not complete yet"
        title.append(f"  running {_span(one.running)}, closed {_span(one.closed)}{open_}")
    return title


def _pairs(snapshot: Snapshot, pairs: list[Pair], width: int) -> Table:
    """Draw the pairs; what belongs to the running candle is marked so."""
    table = _table()
    wide = width >= WIDE
    table.add_column("\nPair", no_wrap=True, overflow="ellipsis")
    if wide:
        table.add_column("RUNNING\nlongs, shorts", width=BAR, no_wrap=True, style="italic")
    for first, second, style in (("RUNNING", "so far", "italic"), ("CLOSED", "", "")):
        for name in (f"{first}\nimbalance", f"{second}\nUSD", f"{second}\nnormal"):
            table.add_column(name, justify="right", style=style, no_wrap=True)
    if wide:
        table.add_column("\nobserved", justify="right", no_wrap=True)
    for pair in pairs:
        bar = [_bar(pair.running)] if wide else []
        observed = [_number(pair.closed.coverage, "{:.0%}")] if wide else []
        running, closed = (_cells(one, pair.sampled) for one in (pair.running, pair.closed))
        table.add_row(pair.name, *bar, *running, *closed, *observed)
    return table


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")


def _cells(figures: Figures, sampled: Sequence[str]) -> list[Text]:
    usd = _number(figures.total, "≥{:,.0f}" if sampled else "{:,.0f}")
    low, high = EXTREME
    style = (
        LONG_STYLE if figures.imbalance > high else SHORT_STYLE if figures.imbalance < low else ""
    )
    imbalance = _number(figures.imbalance, "{:.3f}", style)
    return [imbalance, usd, _number(figures.times_normal, "{:.1f}×")]


def _number(value: float, form: str, style: str = "") -> Text:
    from rich.text import Text

    return Text("-", style="dim") if np.isnan(value) else Text(form.format(value), style=style)


def _bar(figures: Figures) -> Text:
    """Draw the longs' share in one colour, the shorts' in another."""
    from rich.text import Text

    if np.isnan(figures.imbalance):
        return Text("·" * BAR, style="dim")
    longs = round(figures.imbalance * BAR)
    return Text("█" * longs, style=LONG_STYLE).append("▒" * (BAR - longs), style=SHORT_STYLE)


def _events(events: list[Happened], now: int) -> Table:
    from rich.text import Text

    table = _table()
    table.add_column("\nLast events", no_wrap=True)
    for name in ("Exchange", "Pair", "Side"):
        table.add_column(f"\n{name}", no_wrap=True, overflow="ellipsis")
    table.add_column("\nUSD", justify="right", no_wrap=True)
    table.add_column("\nago", justify="right", no_wrap=True)
    for one in events:
        table.add_row(
            _clock(one.timestamp),
            one.exchange,
            Text(one.pair),
            Text(one.side, style=LONG_STYLE if one.side == "long" else SHORT_STYLE),
            f"{one.value_usd:,.0f}",
            format_length(max(0, now - one.timestamp)),
        )
    if not events:
        table.add_row("none in the last hour")
    return table


def _feeds(snapshot: Snapshot, now: int, width: int) -> Table:
    from rich.text import Text

    table = _table()
    for name in ("Feed", "Shows", "Collector"):
        table.add_column(f"\n{name}", no_wrap=True, overflow="ellipsis")
    for name in ("told until", "sealed until", "gaps 1 h", "missing"):
        table.add_column(f"\n{name}" if width >= WIDE else f"\n{name.split()[0]}", no_wrap=True)
    table.add_column("\nlast reason" if width >= WIDE else "\nreason", overflow="ellipsis")
    for one in snapshot.feeds:
        late = one.mark is not None and now - one.mark > LAG
        table.add_row(
            Text(f"{one.exchange} {one.channel}".strip()),
            "SIMULATED" if one.simulated else short_kind(one.kind),
            _collector(one, now),
            Text(
                "-" if one.mark is None else _since(one.mark, now),
                style="bold yellow" if late else "",
            ),
            "-" if one.sealed is None else _time(one.sealed, now),
            str(one.gaps) if one.channel else "-",
            format_length(one.missing) if one.channel else "-",
            Text(one.reason or "-"),
        )
    return table


def _collector(one: Health, now: int) -> Text:
    from rich.text import Text

    if one.collector == "running":
        return Text("running", style="green")
    since = f" {format_length(now - one.updated)}" if one.updated else ""
    return Text(f"{one.collector}{since}", style="bold red" if one.channel else "dim")


def _foot(snapshot: Snapshot) -> Text:
    from rich.text import Text

    text = "- unknown; imbalance: longs / all; normal: times the usual USD of a candle"
    names = sorted({name for pair in snapshot.pairs for name in pair.sampled})
    if names:
        text += f"\n≥ a lower bound, not all is published: {', '.join(names)}"
    return Text(text, style="dim")


def _clock(time_ms: int) -> str:
    return str(np.datetime64(time_ms, "ms").astype("datetime64[s]"))[11:]


def _time(time_ms: int, now: int) -> str:
    """Write a time, with its date if it was not in the last day."""
    text = format_time(time_ms)
    return text[11:] if now - time_ms < DAY else text


def _since(time_ms: int, now: int) -> str:
    return f"{_clock(time_ms)}" if now - time_ms < LAG else f"{format_length(now - time_ms)} ago"


def _span(figures: Figures) -> str:
    """Write when a candle begins, and ends if it is short."""
    text = format_time(figures.open)
    return (
        text[:10]
        if figures.close - figures.open >= DAY
        else f"{text[11:]}-{format_time(figures.close)[11:]}"
    )
