"""``liquidations list-data``: what is stored, and what stands for a pair."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

from liquidations.candles import format_period, format_time
from liquidations.commands.common import (
    console,
    load_config,
    load_settings,
    say,
    store_url,
)
from liquidations.errors import LiquidationsError
from liquidations.event import SIMULATED
from liquidations.exchanges import EXCHANGES, KINDS, regimes_within


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.inventory import Entry

HELP = "List stored liquidations: pairs, exchanges, sources, spans, counts, coverage, holes."


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "exchange")


def run(args: dict[str, Any]) -> int:
    """Print one line for each series; with ``-p`` also its holes and what stands for the pairs."""
    from liquidations.inventory import inventory
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
        if not entries:
            raise LiquidationsError(
                f"no liquidations are stored of {', '.join(pairs) or 'any pair'} on "
                f"{', '.join(exchanges)}. Get some with: "
                "liquidations import-data --source ... FILES"
            )
        _print(entries)
        if pairs:
            _print_holes(entries)
            _print_matches(store, pairs, args, config)
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
    for name in ("Events", "Bars", "Coverage", "Holes"):
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
        )
    console().print(table)


def _print_holes(entries: list[Entry]) -> None:
    for one in entries:
        for start, end in one.holes:
            say(
                f"Hole: {one.series.pair} {one.series.exchange} {one.series.source} "
                f"{format_time(start)} ... {format_time(end)}"
            )


def _print_matches(
    store: Any, pairs: list[str], args: dict[str, Any], config: dict[str, Any]
) -> None:
    from liquidations.provider import find

    settings = load_settings(args, config)
    with store.read() as reader:
        for pair in pairs:
            for exchange, contracts in find(reader, pair, settings).items():
                say(f"{pair} reads on {exchange}: {', '.join(contracts) or 'nothing'}")
