"""``liquidations simulate``: an invented market, written as Freqtrade candles and liquidations."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.candles import format_time, parse_timeframe, timeframe_ms
from liquidations.commands.common import console, load_config, say, store_url
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE, SIMULATED


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.simulate import SimulatedMarket

HELP = "Make a SIMULATED market: candles, funding, open interest and liquidations of one mechanism."

#: What the first candle costs, so that the numbers look familiar; any other pair begins at 10.
PRICES = {"BTC": 60_000.0, "ETH": 3_000.0, "SOL": 150.0}

#: Lies in a data folder whose candles are invented.
MARKER = "SIMULATED.txt"


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "timerange")
    parser.add_argument(
        "-t",
        "--timeframes",
        nargs="+",
        default=["5m", "1h"],
        metavar="TIMEFRAME",
        help="Of the candles that are written. Default: 5m 1h.",
    )
    parser.add_argument("--seed", type=int, default=4, help="Default: 4; equal seeds, equal data.")
    parser.add_argument(
        "--events",
        type=int,
        metavar="N",
        help="Cut the forced volume into about this many orders a pair (default: 20,000 USD each).",
    )
    parser.add_argument(
        "--feed",
        choices=("true", "largest-per-second"),
        default="true",
        help="Store all liquidations, or only what a feed limited to the largest order per second "
        "shows. Default: true.",
    )


def run(args: dict[str, Any]) -> int:
    """Simulate each pair, write its candles and store its liquidations."""
    from rich.progress import track

    from liquidations.simulate import largest_per_second, simulate
    from liquidations.store import Store

    userdir = Path(args["user_data_dir"] or "user_data") / "simulated"
    userdir.mkdir(parents=True, exist_ok=True)
    datadir = Path(args.get("datadir") or userdir / "data")
    args = {**args, "datadir": str(datadir)}
    args["db_url"] = args.get("db_url") or f"sqlite:///{userdir / 'liquidations.sqlite'}"
    config = load_config(args)
    pairs = args.get("pairs") or config["exchange"]["pair_whitelist"] or ["BTC/USDT:USDT"]
    lengths = [_length(timeframe) for timeframe in args["timeframes"]]
    start, end = _span(args.get("timerange"))
    _claim(datadir)
    progress = console(stderr=True)
    rows = []
    with Store(store_url(config), create=True) as store:
        for number, pair in enumerate(
            track(pairs, "Simulating", console=progress, disable=not progress.is_terminal)
        ):
            price = PRICES.get(pair.split("/")[0], 10.0)
            market = simulate(
                args["seed"] + 1000 * number,
                start,
                (end - start) // MINUTE,
                price=price,
                events=args["events"],
            )
            seen = market.events
            if args["feed"] != "true":
                seen = largest_per_second(seen)
            # Cut short, a run leaves a pair without liquidations, never candles of one run beside
            # the liquidations of another.
            with store.write() as writer:
                writer.remove("binance", pair, SIMULATED)
            _write_candles(
                datadir, pair, market, dict(zip(args["timeframes"], lengths, strict=True))
            )
            with store.write() as writer:
                writer.insert("binance", pair, SIMULATED, seen, np.array([[start, end]]))
            rows.append(_summary(pair, market, len(seen)))
        shown = store.shown
    _print(rows)
    say(f"SIMULATED from {format_time(start)} to {format_time(end)}, seed {args['seed']}.")
    say(f"Candles: {datadir}")
    say(f"Store: {shown}")
    return 0


def _length(timeframe: str) -> int:
    _, unit = parse_timeframe(timeframe)
    length = timeframe_ms(timeframe)
    if length is None or unit == "w":
        raise LiquidationsError(f"simulated candles are minutes, hours or days, not {timeframe}")
    return length


def _span(timerange: str | None) -> tuple[int, int]:
    from freqtrade.configuration import TimeRange

    asked = TimeRange.parse_timerange(timerange or "20240101-20240301")
    start, end = asked.startts * 1000, asked.stopts * 1000
    if not start or not end or start % DAY or end % DAY or end <= start:
        raise LiquidationsError(
            "--timerange needs a first and a last day here, for example 20240101-20240301; "
            f"got {timerange}"
        )
    return start, end


def _claim(datadir: Path) -> None:
    """Mark the folder as invented, unless somebody else's candles are in it."""
    marker = datadir / MARKER
    if not marker.exists() and any((datadir / "futures").glob("*")):
        raise LiquidationsError(
            f"{datadir} holds candles that were not simulated; name another folder with --datadir"
        )
    datadir.mkdir(parents=True, exist_ok=True)
    marker.write_text("The candles in this folder are SIMULATED by: liquidations simulate\n")


def _write_candles(
    datadir: Path, pair: str, market: SimulatedMarket, timeframes: dict[str, int]
) -> None:
    from freqtrade.data.history import get_datahandler
    from freqtrade.enums import CandleType

    from liquidations.sandbox import price_decimals
    from liquidations.simulate import resample

    (datadir / "futures").mkdir(parents=True, exist_ok=True)
    handler = get_datahandler(datadir, "feather")
    # Freqtrade rounds its orders to the exchange's ticks; between two of them an order at a
    # candle's open could lie outside the candle, and would not be filled.
    decimals = price_decimals(market.candles["low"].min())
    for timeframe, length in timeframes.items():
        candles = resample(market.candles, length)
        prices = ["open", "high", "low", "close"]
        candles[prices] = candles[prices].round(decimals)
        handler.ohlcv_store(pair, timeframe, candles, CandleType.FUTURES)
    for candle_type, candles in (
        (CandleType.MARK, market.mark),
        (CandleType.FUNDING_RATE, market.funding),
        (CandleType.OPEN_INTEREST, market.open_interest),
    ):
        handler.ohlcv_store(pair, "1h", candles, candle_type)


def _summary(pair: str, market: SimulatedMarket, stored: int) -> list[str]:
    events = market.events
    usd = [events.value_usd[events.side == side].sum() / 1e6 for side in (0, 1)]
    close = market.candles["close"]
    return [
        pair,
        f"{close.iloc[0]:,.6g}",
        f"{market.candles['low'].min():,.6g}",
        f"{market.candles['high'].max():,.6g}",
        f"{close.iloc[-1]:,.6g}",
        f"{len(events):,}",
        f"{stored:,}",
        *(f"{million:,.1f}" for million in usd),
    ]


def _print(rows: list[list[str]]) -> None:
    from rich.table import Table

    table = Table("Pair", title="SIMULATED market, no real data", title_justify="left")
    for name in ("First", "Low", "High", "Last", "Liquidations", "Stored", "Long M$", "Short M$"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    console().print(table)
