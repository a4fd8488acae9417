"""``liquidations list-data``: what is stored, and what stands for a pair."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.archives import outranks, ranks
from liquidations.candles import format_period, format_time
from liquidations.commands.common import (
    console,
    format_length,
    load_config,
    load_settings,
    say,
    store_settings,
    store_url,
)
from liquidations.errors import LiquidationsError
from liquidations.event import SIMULATED
from liquidations.exchanges import EXCHANGES, KINDS, regimes_within


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.inventory import Entry, LiveEntry
    from liquidations.settings import Settings


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "exchange")
    parser.add_argument(
        "--gaps",
        action="store_true",
        help="Also list when live feeds did not listen, and why; -p does so too.",
    )
    parser.add_argument(
        "--revisions",
        action="store_true",
        help="Also list what vendors have revised: the bar, old and new values, and when.",
    )


def run(args: dict[str, Any]) -> int:
    """Print one line for each series, and one for each live feed.

    With ``-p`` also the holes of the series and the gaps of the feeds, and what stands for the
    pairs.
    """
    from liquidations.inventory import inventory, live_inventory
    from liquidations.pairs import base_of
    from liquidations.store import Store

    config = load_config(args)
    pairs = args.get("pairs") or []
    bases = {base_of(pair) for pair in pairs}
    exchanges = load_settings(args, config).exchanges if args.get("exchange") else EXCHANGES
    with Store(store_url(config)) as store:
        entries = [
            one
            for one in inventory(store)
            if one.series.exchange in exchanges and (not bases or one.series.base in bases)
        ]
        feeds = [one for one in live_inventory(store) if one.feed.exchange in exchanges]
        if not entries and (bases or not feeds):
            raise LiquidationsError(
                f"no liquidations are stored of {', '.join(pairs) or 'any pair'} on "
                f"{', '.join(exchanges)}. Get some with: "
                "liquidations download-data, collect, or import-data"
            )
        if entries:
            _print(entries)
        if feeds:
            _print_feeds(feeds)
        if pairs:
            _print_holes(entries)
        if pairs or args["gaps"]:
            _print_gaps(feeds)
        if args["revisions"]:
            _print_revisions(entries)
        if pairs:
            _print_matches(store, pairs, args, config)
        _print_rule(entries, store_settings(config))
        shown = store.shown
    say(f"Store: {shown}")
    if any(one.series.source == SIMULATED for one in entries):
        say("SIMULATED: these liquidations are invented")
    else:
        _print_regimes(entries)
    return 0


def _print_regimes(entries: list[Entry]) -> None:
    """Say where what is stored is less than what was liquidated."""
    spans: dict[str, list[int]] = {}
    for one in entries:
        if outranks(one.series.source):  # it has more than the exchange publishes
            continue
        spans.setdefault(one.series.exchange, []).extend(one.coverage.ravel().tolist())
    for exchange, times in sorted(spans.items()):
        for start, end, kind in regimes_within(
            exchange, min(times, default=0), max(times, default=0)
        ):
            if kind != "complete":
                say(
                    f"{exchange} shows {KINDS[kind]} ({format_time(start)} ... "
                    f"{format_time(end)}): volumes are a lower bound"
                )


def _print(entries: list[Entry]) -> None:
    from rich.table import Table

    table = Table("Pair", "Exchange", "Source", "Period", "First", "Last")
    revised = any(one.revisions for one in entries)
    for name in ("Events", "Bars", "Coverage", "Holes", *(["Revised"] if revised else [])):
        table.add_column(name, justify="right")
    for one in entries:
        spans = one.coverage
        table.add_row(
            one.series.pair,
            one.series.exchange,
            one.series.source,
            format_period(one.series.period),
            *((format_time(spans[0, 0]), format_time(spans[-1, 1])) if len(spans) else ("-", "-")),
            "-" if one.events is None else f"{one.events:,}",
            f"{one.bars:,}",
            f"{one.share:.1%}",
            f"{len(one.holes):,}",
            *([f"{len(one.revisions):,}"] if revised else []),
        )
    console().print(table)
    for one in entries:
        if one.origins:
            counts = ", ".join(f"{name} {count:,}" for name, count in one.origins.items())
            say(f"Origins: {_name(one)}: {counts}")


def _name(one: Entry) -> str:
    return f"{one.series.pair} {one.series.exchange} {one.series.source}"


def _print_rule(entries: list[Entry], settings: Settings) -> None:
    """Say which source wins where several tell a candle of one contract."""
    several: dict[tuple[str, str], list[Entry]] = {}
    for one in entries:
        several.setdefault((one.series.exchange, one.series.pair), []).append(one)
    for (exchange, pair), found in several.items():
        if len(found) < 2:
            continue
        order = ranks([one.series.source for one in found], settings.prefer)
        standing = sorted(zip(order, found, strict=True), key=lambda p: (p[0], p[1].series.period))
        names = " > ".join(
            f"{one.series.source} {format_period(one.series.period)}" for _, one in standing
        )
        say(
            f"Several sources: {pair} {exchange}: {names}. Each candle is taken from the first "
            f"that observed {settings.min_coverage:.0%} of it"
        )
    if any(one.revisions for one in entries):
        say(
            f'Vintage: columns show the {settings.vintage} one of revised bars ("vintage" in the '
            "config); --revisions lists them"
        )


def _print_revisions(entries: list[Entry]) -> None:
    for one in entries:
        for bar, recorded, old, new in one.revisions:
            say(
                f"Revised: {_name(one)} {format_time(bar)}: long {old[0]:,.2f} -> {new[0]:,.2f}, "
                f"short {old[1]:,.2f} -> {new[1]:,.2f}, told {format_time(recorded)}"
            )


def _print_feeds(feeds: list[LiveEntry]) -> None:
    """Show until when each feed listened, and whether a collector writes it now."""
    from rich.table import Table

    now = time.time_ns() // 1_000_000
    table = Table("Exchange", "Channel", "Collector", "First", "Last", "Sealed until")
    table.title, table.title_justify = "Live feeds", "left"
    for name in ("Gaps", "Missing"):
        table.add_column(name, justify="right")
    for one in feeds:
        spans = one.coverage
        table.add_row(
            one.feed.exchange,
            one.feed.channel,
            one.writer(now),
            *((format_time(spans[0, 0]), format_time(spans[-1, 1])) if len(spans) else ("-", "-")),
            format_time(one.feed.sealed) if one.feed.sealed else "-",
            f"{sum(missing > 0 for missing in one.missing):,}",
            format_length(sum(one.missing)),
        )
    console().print(table)


def _print_gaps(feeds: list[LiveEntry]) -> None:
    for one in feeds:
        for (start, end, reason), missing in zip(one.gaps, one.missing, strict=True):
            whole = format_length(end - start)
            note = "" if missing == end - start else f", {format_length(missing)} still missing"
            say(
                f"Gap: {one.feed.exchange} {one.feed.channel} {_second(start)} ... {_second(end)} "
                f"({reason}, {whole}{note})"
            )


def _second(time_ms: int) -> str:
    return str(np.datetime64(time_ms, "ms").astype("datetime64[s]")).replace("T", " ")


def _print_holes(entries: list[Entry]) -> None:
    for one in entries:
        for start, end in one.holes:
            say(f"Hole: {_name(one)} {format_time(start)} ... {format_time(end)}")


def _print_matches(
    store: Any, pairs: list[str], args: dict[str, Any], config: dict[str, Any]
) -> None:
    from liquidations.provider import find

    settings = load_settings(args, config)
    with store.read() as reader:
        for pair in pairs:
            for exchange, contracts in find(reader, pair, settings).items():
                say(f"{pair} reads on {exchange}: {', '.join(contracts) or 'nothing'}")
