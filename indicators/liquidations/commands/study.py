"""``liquidations study``: whether a reading predicts anything on your data."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from liquidations.candles import candle_closes, format_time, parse_timeframe, timeframe_ms
from liquidations.commands.common import (
    add_timeframe,
    console,
    load_config,
    load_settings,
    say,
    short_kind,
)
from liquidations.commands.plot import BEFORE
from liquidations.commands.simulate import MARKER
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, SIMULATED, Ints
from liquidations.levels import HOUR


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.provider import Matched
    from liquidations.settings import Settings
    from liquidations.study import Effect, Study


#: Of open-interest candles, as Freqtrade and we download them.
_EVERY = "1h"


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    from liquidations.study import Rules

    rules = Rules()
    arguments.options(parser, "pairs", "timerange", "exchange")
    add_timeframe(parser, "Of the candles (default: the config's, else 1h).")
    parser.add_argument(
        "--horizons",
        nargs="+",
        type=int,
        metavar="CANDLES",
        default=list(rules.horizons),
        help="How long trades last, in candles. Default: 1 4 12 24 48.",
    )
    for name, default, text in (
        ("fee", rules.fee, "of a trade's value, paid at entry and at exit"),
        ("slippage", rules.slippage, "of a trade's value, lost at entry and at exit"),
        ("split", rules.split, "of the time, from 0.1 to 0.9, that is the first part"),
        ("coverage", rules.coverage, "of the candles, 0 to 1, that must have been observed"),
    ):
        parser.add_argument(
            f"--{name}",
            type=float,
            metavar="SHARE",
            default=default,
            help=f"Share {text}. Default: {default:.3g}.",
        )
    parser.add_argument(
        "--min-events",
        type=int,
        metavar="N",
        default=rules.least,
        help=f"Independent events; with fewer nothing is said. Default: {rules.least}.",
    )
    parser.add_argument(
        "--seed", type=int, default=rules.seed, help="Equal seeds, equal numbers. Default: 0."
    )
    parser.add_argument(
        "--min-coverage",
        type=float,
        metavar="SHARE",
        help="Share of one candle that must have been observed (default: the config's, else 0.9).",
    )
    parser.add_argument(
        "--all", action="store_true", help="Show each horizon, not the one that says most."
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="Write a report, a page with plots (.html)."
    )
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="Default: table."
    )


def run(args: dict[str, Any]) -> int:
    """Study the pairs together, print a table and the verdict, and write the report."""
    from liquidations.frame import name_exchange
    from liquidations.study import Rules, study

    rules = Rules(
        horizons=tuple(args["horizons"]),
        fee=args["fee"],
        slippage=args["slippage"],
        split=args["split"],
        coverage=args["coverage"],
        least=args["min_events"],
        seed=args["seed"],
    )
    output = Path(args["output"]) if args.get("output") else None
    # Nothing else is overwritten, such as a store or a configuration.
    if output and output.suffix != ".html":
        raise LiquidationsError(f"--output ends in .html, got {output}")
    if output and not output.absolute().parent.is_dir():
        raise LiquidationsError(f"{output.absolute().parent} is no folder; make it first")
    config = load_config(args)
    settings = load_settings(args, config)
    config = name_exchange(config, args)
    timeframe = args.get("timeframe") or config.get("timeframe") or "1h"
    parse_timeframe(timeframe)
    pairs = args.get("pairs") or config.get("exchange", {}).get("pair_whitelist") or []
    if not pairs:
        raise LiquidationsError("name pairs with -p, for example BTC/USDT:USDT")
    found = _Data(config, args, settings, timeframe)
    frames = {pair: found.frame(pair) for pair in dict.fromkeys(pairs)}
    result = study(frames, timeframe, rules, start=found.begun)
    if output:
        from liquidations.study_report import report_page

        output.write_text(
            report_page(result, simulated=found.simulated, notes=found.notes()), encoding="utf-8"
        )
    if args["format"] == "json":
        json.dump(_plain(result, found), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(result, found, every=args["all"])
    if found.simulated:
        say("SIMULATED: this market is invented")
    if output:
        say(f"Report, to open in a browser: {output}")
    return 0


class _Data:
    """Read candles, liquidations and open interest, and keep what the reader must know of them."""

    def __init__(
        self, config: dict[str, Any], args: dict[str, Any], settings: Settings, timeframe: str
    ) -> None:
        from freqtrade.configuration import TimeRange

        from liquidations.provider import provider_of

        self.config, self.args, self.settings, self.timeframe = config, args, settings, timeframe
        self.provider = provider_of(settings.db_url)
        asked = TimeRange.parse_timerange(args.get("timerange"))
        self.start, self.end = asked.startts * 1000, asked.stopts * 1000
        #: When the first candle opens that is studied; those before it are for the readings.
        self.begun = self.start
        self.simulated = (Path(config["datadir"]) / MARKER).exists()
        self.bounds: dict[str, str] = {}
        self.sources: set[str] = set()
        self.interest = True

    # What ``add_context`` asks of a strategy, answered from Freqtrade's files.
    @property
    def dp(self) -> _Data:
        return self

    def get_pair_dataframe(self, pair: str, timeframe: str, candle_type: str) -> pd.DataFrame:
        """Load candles as Freqtrade's data provider would."""
        from freqtrade.data.history import get_datahandler
        from freqtrade.enums import CandleType

        handler = get_datahandler(
            self.config["datadir"], self.config.get("dataformat_ohlcv", "feather")
        )
        return handler.ohlcv_load(
            pair,
            timeframe,
            CandleType.from_string(candle_type),
            fill_missing=False,
            drop_incomplete=False,
            warn_no_data=False,
        )

    def get_funding_rate_timeframe(self) -> str:
        """Name some timeframe: the study does not read funding."""
        return _EVERY

    def frame(self, pair: str) -> pd.DataFrame:
        """Return the candles of a pair with the columns that readings read."""
        from liquidations.context import add_context
        from liquidations.provider import all_series, explain_nothing
        from liquidations.strategy import join

        start, end = self._span(pair)
        frame = self.get_pair_dataframe(pair, self.timeframe, "futures")
        opens = _ms(frame)
        inside = (opens >= start) & (opens < end)
        if not inside.any():
            raise LiquidationsError(self._no_candles(pair, start, end))
        # With an open start there is nothing to see before it.
        before = BEFORE * max(HOUR, timeframe_ms(self.timeframe) or DAY) if self.start else 0
        near = (opens >= start - before) & (opens < end)
        frame, opens = frame[near].reset_index(drop=True), opens[near]
        asked = opens >= start
        table, matched = self.provider.columns(pair, opens, self.timeframe, self.settings)
        if np.isnan(table["liq_total"][asked]).all():
            coverage = table["liq_coverage"][asked]
            raise LiquidationsError(
                explain_nothing(
                    pair, opens[asked], self.timeframe, self.settings, matched, coverage
                )
            )
        self.simulated |= any(one.source == SIMULATED for one in all_series(matched))
        self._note(matched, int(opens[asked][0]), int(candle_closes(opens, self.timeframe)[-1]))
        frame = join(frame, table)
        metadata = {"pair": pair, "timeframe": self.timeframe}
        frame = add_context(self, frame, metadata, every=_EVERY)
        self.interest &= bool(frame["liq_open_interest_amount"][asked].notna().any())
        return frame

    def _span(self, pair: str) -> tuple[int, int]:
        """Return the time asked for; an open end goes as far as liquidations were observed."""
        if self.start and self.end:
            return self.start, self.end
        first, last = self.provider.span(pair, self.settings)
        return self.start or first, self.end or last

    def _no_candles(self, pair: str, start: int, end: int) -> str:
        from liquidations.freqtrade_data import Missing, commands

        lacking = Missing(pair, self.timeframe, "futures", start, end)
        return (
            f"there are no {self.timeframe} candles of {pair} from {format_time(start)} to "
            f"{format_time(end)} in {self.config['datadir']}; get them with: "
            + "; ".join(commands([lacking], self.config, self.args))
        )

    def _note(self, matched: Matched, start: int, end: int) -> None:
        """Keep which exchanges show only a part of their liquidations."""
        from liquidations.archives import outranks
        from liquidations.exchanges import regimes_within

        for exchange, contracts in matched.items():
            series = [one for many in contracts.values() for one in many]
            self.sources |= {f"{exchange} {one.source}" for one in series}
            if series and not all(outranks(one.source) for one in series):
                for *_, kind in regimes_within(exchange, start, end):
                    if kind != "complete" and SIMULATED not in {one.source for one in series}:
                        self.bounds[exchange] = short_kind(kind)

    def notes(self) -> list[str]:
        """Tell where the liquidations come from, and what is missing in them."""
        notes = [f"Liquidations: {', '.join(sorted(self.sources))}"]
        notes += [
            f"{exchange} publishes only a part of its liquidations ({kind}): volumes are a lower "
            "bound, and the ratio is what was published"
            for exchange, kind in sorted(self.bounds.items())
        ]
        if not self.interest:
            notes.append(
                "No open interest: flush, isolated and its bins are left out. Get it with: "
                f"freqtrade download-data --candle-types open_interest -t {_EVERY}"
            )
        return notes


def _ms(frame: pd.DataFrame) -> Ints:
    if frame.empty:
        return np.empty(0, np.int64)
    return frame["date"].to_numpy(dtype="datetime64[ms]").view(np.int64)


def _plain(result: Study, found: _Data) -> dict[str, Any]:
    """Return what JSON can hold: NaN and infinity are null."""
    plain = asdict(result)
    for effect in plain["effects"]:
        effect["pairs"] = {
            pair: {"independent": number, "mean": mean}
            for pair, (number, mean) in effect["pairs"].items()
        }
    plain |= {"simulated": found.simulated, "notes": found.notes()}
    known: dict[str, Any] = _finite(plain)
    return known


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _print(result: Study, found: _Data, *, every: bool) -> None:
    from rich.table import Table

    mark = "SIMULATED " if found.simulated else ""
    pairs = ", ".join(f"{pair} ({share:.0%} observed)" for pair, share in result.coverage.items())
    table = Table(
        title=f"{mark}{pairs}, {result.timeframe}, {format_time(result.start)} to "
        f"{format_time(result.end)}\nbp a trade against the crowd, after {result.rules.costs:g} bp "
        "of costs; - is unknown",
        title_justify="left",
    )
    for name in (
        "reading", "candles", "independent\nof events", "mean", "interval", "median", "hit",
        "adverse", "favourable", "shifted\nnull", "p", "corrected\np", "first\npart", "last\npart",
    ):  # fmt: skip
        table.add_column(name, justify="left" if name == "reading" else "right", no_wrap=True)
    shown = result.effects if every else [result.loudest(name) for name in result.verdicts]
    for one in shown:
        table.add_row(*_cells(one))
    out = console()
    out.print(table)
    for name, verdict in result.verdicts.items():
        out.print(f"{name}: {verdict}", soft_wrap=True, markup=False)
    for note in found.notes():
        out.print(note, soft_wrap=True, markup=False)
    out.print(f"\n{mark}{result.verdict}", soft_wrap=True, markup=False, style="bold")


def _cells(one: Effect) -> list[str]:
    def number(value: float, form: str = ".0f") -> str:
        return "-" if np.isnan(value) else f"{value:{form}}"

    interval = "-" if np.isnan(one.low) else f"{one.low:.0f} … {one.high:.0f}"
    return [
        one.reading,
        str(one.horizon),
        f"{one.independent:,} of {one.events:,}",
        number(one.mean),
        interval,
        number(one.median),
        number(one.hit, ".0%"),
        number(one.adverse),
        number(one.favourable),
        f"±{number(one.null)}",
        number(one.p, ".3f"),
        number(one.corrected, ".2f"),
        f"{number(one.first)} ({one.first_events})",
        f"{number(one.last)} ({one.last_events})",
    ]
