"""``liquidations plot``: candles, imbalance, liquidations and readings, as a page or a picture."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from liquidations.candles import parse_timeframe, timeframe_ms
from liquidations.chart import MOST, READINGS, SHOWN, add_readings, figure, levels_heat, pyramid
from liquidations.commands.common import add_timeframe, load_config, load_settings, say
from liquidations.commands.simulate import MARKER
from liquidations.errors import LiquidationsError, require_whole
from liquidations.event import DAY
from liquidations.levels import HOUR


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.frame import Frame


#: Hours before the time range that the readings and levels look back.
BEFORE = 200


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "timerange", "exchange")
    add_timeframe(parser, "Of the candles (default: the config's, else 1h).")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="A page (.html) or a picture (.png, which needs Chromium or Chrome). Default: "
        "user_data/plot/liquidations-PAIR-TIMEFRAME.html.",
    )
    parser.add_argument("--width", type=int, default=1400, help="Of a PNG. Default: 1400.")
    parser.add_argument("--height", type=int, default=900, help="Of a PNG. Default: 900.")
    parser.add_argument(
        "--histogram", action="store_true", help="Draw the imbalance as bars from 0.5."
    )
    parser.add_argument(
        "--per-exchange", action="store_true", help="Stack the USD of each exchange."
    )
    parser.add_argument(
        "--readings",
        nargs="*",
        choices=READINGS,
        default=SHOWN,
        metavar="READING",
        help="Those that are marked from the beginning; all of them are in the page's legend. "
        f"Default: {' '.join(SHOWN)}. Known: {', '.join(READINGS)}.",
    )
    parser.add_argument(
        "--no-levels", action="store_true", help="Leave out the estimated liquidation levels."
    )


def run(args: dict[str, Any]) -> int:
    """Write the page or the picture of one pair."""
    from freqtrade.configuration import TimeRange

    from liquidations.frame import name_exchange, read_frame, tell_bounds
    from liquidations.page import find_browser, page, photograph

    config = load_config(args)
    settings = load_settings(args, config)
    config = name_exchange(config, args)
    pairs = args.get("pairs") or []
    if len(pairs) != 1:
        raise LiquidationsError(f"name one pair with -p, for example BTC/USDT:USDT; got {pairs}")
    timeframe = args.get("timeframe") or config.get("timeframe") or "1h"
    parse_timeframe(timeframe)
    for flag in ("width", "height"):
        require_whole(f"--{flag}", args[flag], 300, 10_000)
    output = _output(args, config, pairs[0], timeframe)
    if output.suffix == ".png":
        find_browser()  # before all the work
    asked = TimeRange.parse_timerange(args.get("timerange"))
    read = read_frame(
        config,
        settings,
        pairs[0],
        timeframe,
        asked.startts * 1000,
        asked.stopts * 1000,
        before=BEFORE * HOUR,
        per_exchange=args["per_exchange"],
        args=args,
    )
    whole = read.frame
    context = ["liq_open_interest", "liq_open_interest_amount", "liq_funding_rate"]
    whole = add_readings(whole.drop(columns=[name for name in context if whole[name].isna().all()]))
    short = (timeframe_ms(timeframe) or DAY) <= HOUR
    levels = short and "liq_open_interest_amount" in whole and not args["no_levels"]
    heat = levels_heat(whole) if levels else None
    asked_for = whole["date"] >= pd.Timestamp(read.start, unit="ms", tz="UTC")
    frame = whole[asked_for].reset_index(drop=True)
    resolutions = pyramid(frame, timeframe, settings.min_coverage)
    if output.suffix == ".png":
        fitting = [one for one in resolutions.items() if len(one[1]) <= max(MOST, args["width"])]
        resolutions = dict(fitting[:1] or list(resolutions.items())[-1:])
    invented = read.simulated or (Path(config["datadir"]) / MARKER).exists()
    figures = {
        name: figure(
            merged,
            name,
            title=f"{'SIMULATED ' if invented else ''}{pairs[0]}, {', '.join(settings.exchanges)}",
            notes=tell_bounds(read.bounds),
            exchanges=settings.exchanges if args["per_exchange"] else (),
            histogram=args["histogram"],
            lower_bound=list(read.bounds) if args["per_exchange"] else bool(read.bounds),
            shown=args["readings"],
            heat=heat,
        )
        for name, merged in resolutions.items()
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".png":
        size = args["width"], args["height"]
        photograph(page(figures, size), output, *size)
    else:
        output.write_text(page(figures), encoding="utf-8")
    _tell(read, output, invented)
    return 0


def _output(args: dict[str, Any], config: dict[str, Any], pair: str, timeframe: str) -> Path:
    from freqtrade.misc import pair_to_filename

    if not args["output"]:
        name = f"liquidations-{pair_to_filename(pair)}-{timeframe}.html"
        return Path(config["user_data_dir"]) / "plot" / name
    output = Path(args["output"])
    if output.suffix not in (".html", ".png"):
        raise LiquidationsError(f"--output ends in .html or .png, got {args['output']}")
    return output


def _tell(read: Frame, output: Path, invented: bool) -> None:
    from liquidations.frame import tell_bounds

    print(output)
    for line in read.lacking:
        say(f"Open interest or funding is missing; get it with: {line}")
    for line in tell_bounds(read.bounds):
        say(f"Lower bound: {line}")
    if invented:
        say("SIMULATED: this market is invented")
