"""``liquidations export-data``: what is stored, as files that others can import."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.candles import format_period, format_time
from liquidations.commands.common import console, load_config, load_settings, say, store_url
from liquidations.commands.import_data import pair_filter, tracked
from liquidations.errors import LiquidationsError
from liquidations.event import SIMULATED
from liquidations.exchanges import EXCHANGES


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.recording import Exported


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "exchange", "timerange")
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="A new folder, or an empty one; name it before -p, which takes all that follows.",
    )
    parser.add_argument(
        "--source", metavar="SOURCE", help="Only this one, as list-data shows it (default: all)."
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="Of the recorder, for those who import it (default: a number of this store).",
    )


def run(args: dict[str, Any]) -> int:
    """Write the recording, and print what is in it."""
    from freqtrade.configuration import TimeRange

    from liquidations.reader import Series
    from liquidations.recording import SUMS, export
    from liquidations.store import Store

    config = load_config({**args, "pairs": None})
    fits = pair_filter(args.get("pairs"))
    exchanges = load_settings(args, config).exchanges if args.get("exchange") else EXCHANGES
    asked = TimeRange.parse_timerange(args.get("timerange"))
    span = asked.startts * 1000, asked.stopts * 1000 or 2**62
    if span[0] >= span[1]:
        raise LiquidationsError(f"--timerange {args['timerange']} is empty")
    with Store(store_url(config)) as store:

        def chosen(one: Series) -> bool:
            return (
                one.exchange in exchanges
                and fits(one.pair)
                and args.get("source") in (None, one.source)
            )

        done = export(
            store,
            args["folder"],
            chosen=chosen,
            span=span,
            name=args.get("name"),
            track=lambda months: tracked(months, len(months), "Writing"),
        )
        with store.read() as reader:
            dropped = [one for one in reader.series() if chosen(one) and span[0] < one.kept]
    _print(done)
    for one in dropped:
        say(
            f"{one.pair} of {one.exchange}, before {format_time(one.kept)}: left out, as its "
            "single events were dropped (keep_events); liquidations db copy copies all there is"
        )
    if any(one.series.source == SIMULATED for one in done):
        say("SIMULATED: these liquidations are invented")
    size = sum(one.file.stat().st_size for one in done)
    say(
        f"{len(done)} files, {size / 1000:,.0f} kB, in {args['folder']}; {SUMS} lists them. Others "
        f"import the folder with: liquidations import-data {args['folder']}"
    )
    return 0


def _print(done: list[Exported]) -> None:
    """Print a row for each series."""
    from rich.table import Table

    table = Table("Pair", "Exchange", "Source", "Rows are", "From", "To")
    for name in ("Months", "Rows"):
        table.add_column(name, justify="right")
    series: dict[tuple[int, bool], list[Exported]] = defaultdict(list)
    for one in done:
        series[one.series.id, one.events].append(one)
    for ones in series.values():
        what = ones[0].series
        edges = np.concatenate([one.coverage.ravel() for one in ones])
        table.add_row(
            what.pair,
            what.exchange,
            what.source,
            "events" if ones[0].events else f"{format_period(what.period)} bars",
            *([format_time(edges.min()), format_time(edges.max())] if len(edges) else "--"),
            f"{len(ones)}",
            f"{sum(one.rows for one in ones):,}",
        )
    console().print(table)
