"""``liquidations download-data``: history of liquidations from the sources that have it."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from liquidations.archives import ARCHIVES, FUNDING_RATE, LIQUIDATIONS, OPEN_INTEREST
from liquidations.candles import format_period, format_time, parse_timeframe, timeframe_ms
from liquidations.commands.common import (
    console,
    format_length,
    load_config,
    load_settings,
    say,
)
from liquidations.errors import LiquidationsError
from liquidations.event import DAY


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.downloader import Outcome, Progress, Report
    from liquidations.exchanges.frames import Contract
    from liquidations.planner import Fault, Job, Plan, Request
    from liquidations.store import Store


EPILOG = (
    "What is stored already is not asked for again, so that the same command goes on where it was "
    "interrupted. Exit codes: 0 if all that was asked for was tried, 1 if something failed, 2 if "
    "it could not begin."
)

#: Days, if neither --days nor --timerange says how many.
DAYS = 30

#: Between two lines about a source, without a terminal (s).
EVERY = 10.0

#: Lines of one kind that are printed; more are counted.
MOST_LINES = 12


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    arguments.options(parser, "pairs", "timerange", "days")
    parser.add_argument(
        "--exchange",
        metavar="NAME[,NAME]",
        help='Exchanges, or "all". Default: "exchanges" of the config\'s section, else the bot\'s '
        "exchange.",
    )
    parser.add_argument(
        "--source",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"Sources, of {', '.join(ARCHIVES)}. Default: all that serve the exchanges and need "
        "no key, or have one.",
    )
    parser.add_argument(
        "-t",
        "-i",
        "--timeframe",
        "--timeframes",
        nargs="+",
        metavar="TIMEFRAME",
        help="Of your candles: of sources that give bars, the longest ones that fit into them are "
        "taken. Default: the config's timeframe, else the finest bars that reach back far enough.",
    )
    parser.add_argument(
        "--prepend",
        dest="prepend_data",
        action="store_true",
        help="Also get time before what is stored; else only what follows its beginning.",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="Also ask for what is stored: what a vendor has revised since is kept beside it.",
    )
    parser.add_argument(
        "--erase",
        action="store_true",
        help="Ask for all of the time, and replace what is stored by what the sources say now; "
        "what they no longer have stays, and so does what was collected.",
    )
    parser.add_argument(
        "--candle-types",
        nargs="+",
        default=[],
        choices=(OPEN_INTEREST, FUNDING_RATE),
        help="Also get these, of sources that have them, into Freqtrade's own data.",
    )
    parser.add_argument(
        "--with-candles",
        action="store_true",
        help="Also run the freqtrade download-data lines that are named at the end.",
    )


def run(args: dict[str, Any]) -> int:
    """Download what is missing, and say what there is now."""
    from liquidations.downloader import run as download
    from liquidations.planner import find_clients, list_perpetuals, plan, resolve
    from liquidations.settings import read_ccxt_config
    from liquidations.store import Store

    config = load_config({**args, "pairs": None, "candle_types": None})
    settings = load_settings(args, config)
    texts = args.get("pairs") or config["exchange"].get("pair_whitelist") or []
    sources = [name for text in args["source"] for name in text.split(",") if name]
    pairs, wrong = resolve(
        texts,
        settings.exchanges,
        lambda exchange: list_perpetuals(exchange, read_ccxt_config(config, exchange)),
        inverse=settings.inverse,
    )
    request = _request(args, config, pairs)
    clients, without = find_clients(config, request, sources)
    stored_context: list[Any] = []
    try:
        with Store(settings.db_url, create=True) as store:
            planned = plan(store, request, clients, held=lambda *names: _held(config, *names))
            planned.faults += wrong
            _announce(planned, request)
            with _shown() as on_progress:
                report = download(
                    planned,
                    store,
                    clients,
                    contracts=lambda: _sizes(config),
                    keep=lambda contexts: stored_context.extend(_keep(config, contexts)),
                    on_progress=on_progress,
                )
            _print(report)
            _print_context(stored_context)
            _say_what_is_left(store, report)
            shown = store.shown
    finally:
        for client in clients.values():
            client.close()
    for fault in report.faults:
        _say_fault(fault)
    for line in without:
        say(f"Not asked: {line}")
    faults = _candles(args, config, request, report)
    for fault in faults:
        _say_fault(fault)
    say(f"Store: {shown}")
    return 1 if report.faults or faults else 0


def _request(args: dict[str, Any], config: Mapping[str, Any], pairs: Any) -> Request:
    from liquidations.planner import Request

    now = time.time_ns() // 1_000_000
    start, end = _span(args.get("timerange"), args.get("days"), now)
    own = config.get("timeframe")
    named = args.get("timeframe") or ([own] if own else [])
    return Request(
        pairs,
        start,
        end,
        now,
        (LIQUIDATIONS, *dict.fromkeys(args["candle_types"])),
        tuple(_length(timeframe) for timeframe in named),
        bool(args["prepend_data"]),
        bool(args["again"]),
        bool(args["erase"]),
    )


def _length(timeframe: str) -> int:
    """Return what bars must fit into, in ms: months and years begin and end with a day."""
    parse_timeframe(timeframe)
    return timeframe_ms(timeframe) or DAY


def _span(timerange: str | None, days: int | None, now: int) -> tuple[int, int]:
    """Return the time that is asked for, in ms; it ends now at the latest."""
    from freqtrade.configuration import TimeRange

    if timerange and days:
        raise LiquidationsError("--days and --timerange exclude each other; give one of them")
    asked = TimeRange.parse_timerange(timerange)
    end = asked.stopts * 1000 if asked.stoptype == "date" else now
    if asked.starttype == "date":
        start = asked.startts * 1000
    else:
        start = (end - (days or DAYS) * DAY) // DAY * DAY
    if start >= min(end, now):
        raise LiquidationsError(
            f"--timerange {timerange}: nothing of it is over yet, or it ends before it begins"
        )
    return start, min(end, now)


def _announce(planned: Plan, request: Request) -> None:
    """Say what was chosen: contracts that stand for others, and the bars where nobody did."""
    _say_some(f"{pair} on {exchange}: {own} is taken" for exchange, pair, own in planned.taken)
    for exchange in request.pairs.keys() - {job.exchange for job in planned.jobs}:
        say(f"Nothing is asked of {exchange}: no source serves it, or the key of one is missing")
    chosen = {(job.source, job.period) for job in planned.jobs if _has_bars(job)}
    if not request.timeframes:
        for source, period in sorted(chosen):
            say(
                f"{source}: {format_period(period)} bars, the finest that reach back so far; they "
                "can't serve shorter candles. -t names those of your strategy"
            )


def _has_bars(job: Job) -> bool:
    from liquidations.archives import archive

    return job.kind == LIQUIDATIONS and bool(archive(job.source).ABOUT.periods)


def _sizes(config: Mapping[str, Any]) -> Mapping[str, Contract]:
    from liquidations.markets import okx_contracts
    from liquidations.settings import read_ccxt_config

    try:
        return okx_contracts(None, read_ccxt_config(config, "okx"))
    except LiquidationsError as error:
        # Its own words name a flag of import-data.
        raise LiquidationsError("OKX can't be asked for its contract sizes; try again") from error


def _held(config: Mapping[str, Any], kind: str, exchange: str, pair: str, period: int) -> Any:
    from liquidations.freqtrade_data import known_times

    return known_times(config, kind, exchange, pair, period)


def _keep(config: Mapping[str, Any], contexts: Any) -> Any:
    from liquidations.freqtrade_data import store_context

    return store_context(config, contexts)


# --- while it runs ------------------------------------------------------------------------------


@contextmanager
def _shown() -> Iterator[Any]:
    """Show the progress: bars on a terminal, else a line now and then."""
    terminal = console(stderr=True)
    if not terminal.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rates]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=terminal) as bars:
        tasks: dict[str, Any] = {}
        began = time.monotonic()

        def show(told: Mapping[str, Progress]) -> None:
            for name, one in told.items():
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=one.total, rates="")
                rates = _rates(one, time.monotonic() - began)
                bars.update(tasks[name], completed=one.done, rates=rates)

        yield show


class _Lines:
    """Tell the progress in lines."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, told: Mapping[str, Progress]) -> None:
        now = time.monotonic()
        if now - self._said < EVERY:
            return
        self._said = now
        for one in told.values():
            if one.done < one.total and not one.ended:
                passed = now - self._began
                left = passed / one.done * (one.total - one.done) * 1000 if one.done else 0
                until = f", {format_length(left)} left" if left else ""
                say(f"{one.source}: {one.done}/{one.total}, {_rates(one, passed)}{until}")


def _rates(one: Progress, passed: float) -> str:
    calls, rows = (count / max(passed, 0.001) for count in (one.calls, one.rows))
    return f"{calls:.1f} calls/s, {rows:,.0f} rows/s, {one.bytes / 1e6:.1f} MB"


# --- afterwards ---------------------------------------------------------------------------------


def _print(report: Report) -> None:
    from rich.table import Table

    table = Table()
    for name in ("Pair", "Exchange", "Source", "Rows are"):
        table.add_column(name, overflow="fold")
    for name in ("New", "Known", "Revised"):
        table.add_column(name, justify="right", overflow="fold")
    for name in ("Covered from", "to"):
        table.add_column(name, overflow="fold")
    for name in ("Of what was asked", "Absent"):
        table.add_column(name, justify="right")
    for one in report.outcomes:
        job = one.job
        spans = one.coverage
        if job.kind != LIQUIDATIONS or not (len(spans) or job.questions):
            continue
        share = (spans[:, 1] - spans[:, 0]).sum() / max(job.end - job.start, 1)
        table.add_row(
            job.pair,
            job.exchange,
            job.source,
            f"{format_period(job.period)} bars" if _has_bars(job) else "events",
            *(f"{count:,}" for count in (one.rows.new, one.rows.known, one.rows.revised)),
            *((format_time(spans[0, 0]), format_time(spans[-1, 1])) if len(spans) else ("-", "-")),
            f"{share:.1%}",
            f"{len(one.absent):,}",
        )
    if table.row_count:
        console().print(table)


def _print_context(done: Sequence[Any]) -> None:
    """Show what went into Freqtrade's own data."""
    if not done:
        return
    from rich.table import Table

    table = Table("Pair", "Exchange", "Kind", "Timeframe", title="Freqtrade's data")
    table.title_justify = "left"
    for name in ("New", "Filled in", "Passed over"):
        table.add_column(name, justify="right")
    table.add_column("Because")
    for one in done:
        counts = (f"{count:,}" for count in (one.new, one.filled, one.passed))
        table.add_row(one.pair, one.exchange, one.kind, one.timeframe, *counts, one.reason)
    console().print(table)


def _say_what_is_left(store: Store, report: Report) -> None:
    from liquidations.archives import archive
    from liquidations.downloader import uncovered
    from liquidations.http import how_to_key

    jobs = [one.job for one in report.outcomes]
    if not any(job.questions for job in jobs) and not report.faults:
        say(f"Nothing to download: {_why_nothing(report)}")
    _say_some(_left_out(job) for job in jobs if job.before)
    locked: dict[str, int] = {}
    for job in jobs:
        if job.locked:
            locked[job.source] = locked.get(job.source, 0) + len(job.locked)
    for source, count in locked.items():
        say(f"{source}: {count:,} files need a key: {how_to_key(source, archive(source).ABOUT)}")
    _say_some(_absent(one) for one in report.outcomes if one.absent)
    _say_some(
        f"{'No source has' if answered else 'Still missing:'} {pair} {exchange} "
        f"{_times(start, end)} ({format_length(end - start)})"
        for (exchange, pair), holes in uncovered(store, report.outcomes).items()
        for start, end, answered in holes
    )
    failed = [one for one in report.outcomes if one.faults and one.job.missing]
    if failed:
        early = any(_begins_late(one) for one in failed)
        say(f"Run it again for what failed{', with --prepend for the beginning' if early else ''}")
    if any(one.rows.revised for one in report.outcomes):
        say(
            "Revised: the source gives other values now than when they were first stored; both are "
            'kept, "vintage" in the config section says which are read'
        )


def _why_nothing(report: Report) -> str:
    jobs = [one.job for one in report.outcomes]
    if any(job.before for job in jobs):
        return "nothing follows what is stored"
    if any(job.known and job.start < job.end and not job.missing for job in jobs):
        return "what the sources have of the asked time is stored"
    if jobs and all(job.start >= job.end for job in jobs):
        shown = ", ".join(dict.fromkeys(format_period(job.period) for job in jobs))
        return f"no period of {shown} of the asked time is over"
    return "no source could be asked for that time"


def _left_out(job: Job) -> str:
    """Say what was left out because it is before what is stored, and whether it can be had."""
    assert job.before is not None
    start, end = job.before
    name = f"Left out: {job.pair} {job.exchange} {job.source}"
    if job.kept_from >= end:
        return (
            f"{name} {_times(start, end)} is before what is stored; {job.source} keeps bars of "
            f"{format_period(job.period)} for less long, -t takes longer ones"
        )
    kept = max(start, job.kept_from)
    return f"{name} {_times(kept, end)} is before what is stored; --prepend gets it"


def _begins_late(one: Outcome) -> bool:
    return len(one.coverage) > 0 and bool(one.coverage[0, 0] > one.job.missing[0][0])


def _absent(one: Outcome) -> str:
    job, few = one.job, one.absent[:6]
    more = f" and {len(one.absent) - len(few):,} more" if len(one.absent) > len(few) else ""
    what = "day" if len(one.absent) == 1 else "days"
    return (
        f"{job.pair} {job.exchange}: {len(one.absent):,} {what} that {job.source} does not have: "
        f"{', '.join(few)}{more}"
    )


def _say_some(lines: Any) -> None:
    found = list(lines)
    for line in found[:MOST_LINES]:
        say(line)
    if len(found) > MOST_LINES:
        say(f"... and {len(found) - MOST_LINES:,} more lines like the last one")


def _say_fault(fault: Fault) -> None:
    who = " ".join(name for name in (fault.source, fault.pair) if name)
    times = f" ({fault.count:,} times)" if fault.count > 1 else ""
    say(f"FAILED: {who}: {fault.message}{times}")


def _times(start: int, end: int) -> str:
    return f"from {format_time(start)} to {format_time(end)}"


def _candles(
    args: Mapping[str, Any], config: Mapping[str, Any], request: Request, report: Report
) -> list[Fault]:
    """Say which of Freqtrade's own data are missing, or let it download them."""
    own = config["exchange"].get("name")
    pairs = sorted({one.job.pair for one in report.outcomes if one.job.exchange == own})
    timeframes = args.get("timeframe") or [config.get("timeframe") or "1h"]
    from liquidations.freqtrade_data import commands, download, missing
    from liquidations.planner import Fault

    every = "1h" if OPEN_INTEREST in request.kinds else None
    lacking, faults = [], []
    for pair in pairs:
        try:
            lacking += missing(config, [pair], timeframes, request.start, request.end, every=every)
        except LiquidationsError as error:
            faults.append(Fault("freqtrade", pair, str(error)))
    lines = commands(lacking, config, args) if lacking else []
    if not args["with_candles"]:
        for line in lines:
            say(f"Freqtrade's own data are missing; get them with: {line}")
        return faults
    for line, code in zip(lines, download(lines), strict=True):
        if code:
            what = f"it ended with exit code {code}; run it yourself: {line}"
            faults.append(Fault("freqtrade", "", what))
    return faults
