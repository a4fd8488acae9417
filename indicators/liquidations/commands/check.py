"""``liquidations check``: whether stored liquidations can be trusted."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.candles import format_period, format_time
from liquidations.commands.common import console, load_config, load_settings, say, store_url
from liquidations.errors import LiquidationsError
from liquidations.event import SIMULATED
from liquidations.exchanges import EXCHANGES
from liquidations.plausibility import CHECKS, LOOK, OK, UNTRIED, WRONG


if TYPE_CHECKING:
    from liquidations.check import Report
    from liquidations.cli import LiquidationArguments


_STYLES = {OK: "green", LOOK: "yellow", WRONG: "bold red", UNTRIED: "dim"}


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "timerange", "exchange")
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="Default: table."
    )


def run(args: dict[str, Any]) -> int:
    """Print a verdict for each check of each series, and what to do; 1 if something is wrong."""
    from freqtrade.configuration import TimeRange

    from liquidations.check import check_store, prices_of
    from liquidations.pairs import base_of
    from liquidations.store import Store

    config = load_config(args)
    pairs = args.get("pairs") or []
    bases = {base_of(pair) for pair in pairs}
    exchanges = load_settings(args, config).exchanges if args.get("exchange") else EXCHANGES
    asked = TimeRange.parse_timerange(args.get("timerange"))
    with Store(store_url(config)) as store:
        reports = check_store(
            store,
            prices_of(config, args),
            chosen=lambda one: one.exchange in exchanges and (not bases or one.base in bases),
            start=asked.startts * 1000,
            end=asked.stopts * 1000,
        )
    if not reports:
        raise LiquidationsError(
            f"no liquidations of {', '.join(pairs) or 'any pair'} on {', '.join(exchanges)} were "
            "observed in that time; see what is stored with: liquidations list-data"
        )
    if args["format"] == "json":
        json.dump([_plain(one) for one in reports], sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(reports)
    if any(one.series.source == SIMULATED for one in reports):
        say("SIMULATED: these liquidations are invented")
    return int(any(WRONG in one.verdicts.values() for one in reports))


def _plain(report: Report) -> dict[str, Any]:
    one = report.series
    return {
        "pair": one.pair,
        "exchange": one.exchange,
        "source": one.source,
        "period": format_period(one.period),
        "start": _date(report.start),
        "end": _date(report.end),
        "candles": report.candles,
        "verdicts": report.verdicts,
        "findings": [asdict(finding) for finding in report.findings],
    }


def _date(time: int) -> str:
    return f"{np.datetime64(time, 'ms').astype('datetime64[s]')}+00:00"


def _print(reports: list[Report]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Pair", "Exchange", "Source", "Period", "From", "To")
    for name in CHECKS:
        table.add_column(name.capitalize())
    for one in reports:
        series = one.series
        table.add_row(
            series.pair,
            series.exchange,
            series.source,
            format_period(series.period),
            format_time(one.start)[:10],
            format_time(one.end)[:10],
            *(Text(verdict, style=_STYLES[verdict]) for verdict in one.verdicts.values()),
        )
    out = console()
    out.print(table)
    # What several checks say alike, such as that candles are missing, is said once.
    lines: dict[tuple[str, str, str], list[str]] = {}
    for one in reports:
        for finding in one.findings:
            parts = {"": finding.seen, "It means: ": finding.means, "Do: ": finding.do}
            text = " ".join(f"{word}{said}." for word, said in parts.items() if said)
            lines.setdefault((finding.verdict, one.name, text), []).append(finding.check)
    for shown in (WRONG, LOOK, UNTRIED):
        for (verdict, name, text), checks in lines.items():
            if verdict == shown:
                line = f"{verdict}: {name}, {', '.join(checks)}: {text}"
                out.print(line, soft_wrap=True, markup=False)
