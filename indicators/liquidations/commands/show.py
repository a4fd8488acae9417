"""``liquidations show``: the columns of candles, as a strategy sees them."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from liquidations.candles import candle_opens, format_time, parse_timeframe
from liquidations.commands.common import (
    add_timeframe,
    console,
    load_plain_config,
    load_settings,
    parse_timerange,
    say,
)
from liquidations.errors import LiquidationsError
from liquidations.event import SIMULATED


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.provider import LiquidationProvider
    from liquidations.settings import Settings


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "timerange", "exchange")
    add_timeframe(parser, "Of the candles (default: the config's, else 1h).")
    parser.add_argument(
        "--format", choices=("table", "csv", "json"), default="table", help="Default: table."
    )
    parser.add_argument(
        "--min-coverage",
        type=float,
        metavar="SHARE",
        help="Share of a candle, 0 to 1, that must have been observed (default: the config's, "
        "else 0.9).",
    )
    parser.add_argument(
        "--per-exchange", action="store_true", help="Add the columns of each exchange."
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="Add which source each candle was taken from, for each exchange and contract.",
    )


def run(args: dict[str, Any]) -> int:
    """Print one row for each candle of the timerange, observed or not."""
    from liquidations.provider import all_series, explain_nothing, provider_of

    config = load_plain_config(args)
    settings = load_settings(args, config)
    pairs = args.get("pairs") or []
    if len(pairs) != 1:
        raise LiquidationsError(f"name one pair with -p, for example BTC/USDT:USDT; got {pairs}")
    pair = pairs[0]
    timeframe = args.get("timeframe") or config.get("timeframe") or "1h"
    parse_timeframe(timeframe)
    provider = provider_of(settings.db_url)
    opens = _opens(provider, pair, timeframe, settings, args.get("timerange"))
    table, matched = provider.columns(
        pair, opens, timeframe, settings, per_exchange=args["per_exchange"]
    )
    sources = provider.chosen(pair, opens, timeframe, settings) if args["explain"] else {}
    simulated = any(one.source == SIMULATED for one in all_series(matched))
    if any(matched.values()):
        title = f"SIMULATED {pair}" if simulated else pair
        _print(opens, table, sources, args["format"], title)
    if sources:
        _explain(sources, settings)
    if simulated:
        say("SIMULATED: these liquidations are invented")
    if np.all(np.isnan(table["liq_total"])):
        nothing = explain_nothing(pair, opens, timeframe, settings, matched, table["liq_coverage"])
        say(f"WARNING: {nothing}")
    return 0


def _opens(
    provider: LiquidationProvider,
    pair: str,
    timeframe: str,
    settings: Settings,
    timerange: str | None,
) -> np.ndarray:
    """List the candles that open in the timerange; an open end goes as far as the store does."""
    asked, end = parse_timerange(timerange)
    start = asked
    if not (start and end):
        first, last = provider.span(pair, settings)
        start, end = start or first, end or last
        # The candle in which the data begin is shown too.
        before = candle_opens(start - 400 * 86_400_000, start + 1, timeframe)
        if not asked and len(before):
            start = int(before[-1])
    opens = candle_opens(start, end, timeframe)
    if not len(opens):
        raise LiquidationsError(
            f"no {timeframe} candle opens from {format_time(start)} to {format_time(end)}; "
            "choose a longer --timerange"
        )
    return opens


def _explain(sources: dict[str, np.ndarray], settings: Settings) -> None:
    """Say how many candles each source gave, and by which rule."""
    for contract, names in sources.items():
        counts = pd.Series(names).value_counts(sort=False)
        told = ", ".join(f"{name or 'none'} {count:,}" for name, count in counts.items())
        say(f"Source: {contract}, by candles: {told}")
    order = f"{', '.join(settings.prefer)}, then " if settings.prefer else ""
    say(
        f"Rule: of the sources that observed {settings.min_coverage:.0%} of a candle "
        f'{order}the finest one ("prefer" in the config); vintage: {settings.vintage}'
    )


def _print(
    opens: np.ndarray,
    table: dict[str, np.ndarray],
    sources: dict[str, np.ndarray],
    form: str,
    title: str,
) -> None:
    frame = pd.DataFrame(table)
    for contract, names in sources.items():
        frame[f"source {contract}"] = names
    dates = np.datetime_as_string(opens.astype("datetime64[ms]"), unit="s")
    frame.insert(0, "date", [f"{date}+00:00" for date in dates])
    if form == "csv":
        frame.to_csv(sys.stdout, index=False, lineterminator="\n")
    elif form == "json":
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        json.dump(rows, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print_table(frame, title)


def _print_table(frame: pd.DataFrame, title: str) -> None:
    from rich.table import Table

    table = Table(title=f"{title}, USD; - is unknown", title_justify="left")
    for name in frame.columns:
        table.add_column(name.removeprefix("liq_"), justify="left" if name == "date" else "right")
    for row in frame.itertuples(index=False):
        date = str(row[0])[:16].replace("T", " ")
        table.add_row(date, *(_cell(n, v) for n, v in zip(frame.columns[1:], row[1:], strict=True)))
    console().print(table)


def _cell(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value or "-"
    if np.isnan(value):
        return "-"
    share = "imbalance" in name or "coverage" in name
    return f"{value:.3f}" if share else f"{value:,.0f}"
