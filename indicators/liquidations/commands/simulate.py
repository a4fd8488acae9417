"""``liquidations simulate``: an invented market, written as Freqtrade candles and liquidations."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from liquidations.candles import format_time, parse_timeframe, timeframe_ms
from liquidations.commands.common import console, load_config, say, store_url
from liquidations.errors import LiquidationsError, require_whole
from liquidations.event import DAY, MINUTE, SIMULATED


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.simulate import SimulatedMarket


#: What the first candle costs, so that the numbers look familiar; any other pair begins at 10.
PRICES = {"BTC": 60_000.0, "ETH": 3_000.0, "SOL": 150.0}

HOUR = 60 * MINUTE

#: What ``--now`` takes when it isn't told: full days of the past, hours of the future.
DEFAULTS = {"days": 2, "ahead": 12}

#: Lies in a data folder whose candles are invented.
MARKER = "SIMULATED.txt"

#: With ``--now``: the log return of a planted shock, within one minute. It is a capitulation by the
#: sample strategy's defaults on 1m in 45 of 45 simulated minutes each way (2 %: 44 of 45).
SHOCK = 0.03

#: The first shock comes in the first full minute that begins so long (ms) after now: a bot and its
#: collector must be up by then. Each further pair has its own so much later.
SHOCK_AFTER, SHOCK_EVERY = 45_000, 2 * MINUTE


class Plan(NamedTuple):
    """Hold what is made when: ms UTC, and ``now`` if it goes on into the future."""

    start: int
    end: int
    now: int | None

    def shock(self, number: int) -> dict[int, float]:
        """Plant the shock of a pair, by its minute: the first falls, the next rises."""
        if self.now is None:
            return {}
        first = -(-(self.now + SHOCK_AFTER) // MINUTE) * MINUTE + number * SHOCK_EVERY
        return {(first - self.start) // MINUTE: SHOCK if number % 2 else -SHOCK}


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "timerange")
    parser.add_argument(
        "-t",
        "--timeframes",
        nargs="+",
        metavar="TIMEFRAME",
        help="Of the candles that are written. Default: 5m 1h, and 1m with --now.",
    )
    parser.add_argument(
        "--now",
        action="store_true",
        help="Make a market that goes on into the future, for `liquidations sandbox --play`: the "
        "store of the bot ends now, exchange.sqlite beside it has it all. A crash or a squeeze of "
        "each pair is planted in the next minutes.",
    )
    parser.add_argument(
        "--days", type=int, metavar="N", help="Full days of the past, with --now. Default: 2."
    )
    parser.add_argument(
        "--ahead", type=int, metavar="HOURS", help="Of the future, with --now. Default: 12."
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

    plan = _plan(args)
    userdir = Path(args["user_data_dir"] or "user_data") / ("dry-run" if plan.now else "simulated")
    userdir.mkdir(parents=True, exist_ok=True)
    datadir = Path(args.get("datadir") or userdir / "data")
    args = {**args, "datadir": str(datadir)}
    args["db_url"] = args.get("db_url") or f"sqlite:///{userdir / 'liquidations.sqlite'}"
    config = load_config(args)
    pairs = args.get("pairs") or config["exchange"]["pair_whitelist"] or ["BTC/USDT:USDT"]
    timeframes = args["timeframes"] or (["1m"] if plan.now else []) + ["5m", "1h"]
    lengths = {timeframe: _length(timeframe) for timeframe in timeframes}
    _claim(datadir)
    # Each store and its end: of the bot, and of the exchange that knows what will happen.
    ends = {store_url(config): plan.now or plan.end}
    if plan.now:
        ends[f"sqlite:///{userdir / 'exchange.sqlite'}"] = plan.end
    progress = console(stderr=True)
    rows, planted = [], []
    with ExitStack() as opened:
        stores = [(opened.enter_context(Store(url, create=True)), end) for url, end in ends.items()]
        for number, pair in enumerate(
            track(pairs, "Simulating", console=progress, disable=not progress.is_terminal)
        ):
            price, shock = PRICES.get(pair.split("/")[0], 10.0), plan.shock(number)
            market = simulate(
                args["seed"] + 1000 * number,
                plan.start,
                (plan.end - plan.start) // MINUTE,
                price=price,
                events=args["events"],
                shocks=shock,
            )
            seen = market.events
            if args["feed"] != "true":
                seen = largest_per_second(seen)
            # Cut short, a run leaves a pair without liquidations, never candles of one run beside
            # the liquidations of another.
            for store, _ in stores:
                with store.write() as writer:
                    writer.remove("binance", pair, SIMULATED)
            _write_candles(datadir, pair, market, lengths)
            for store, end in stores:
                told = seen.take(seen.timestamp < end)
                with store.write() as writer:
                    writer.insert("binance", pair, SIMULATED, told, np.array([[plan.start, end]]))
            rows.append(_summary(pair, market, len(seen)))
            planted += [(pair, plan.start + minute * MINUTE, by) for minute, by in shock.items()]
    _print(rows)
    say(
        f"SIMULATED from {format_time(plan.start)} to {format_time(plan.end)}, seed {args['seed']}."
    )
    say(f"Candles: {datadir}")
    for (store, end), name in zip(stores, ("Store", "The exchange's store"), strict=False):
        say(f"{name}: {store.shown}" + (f", to {format_time(end)}" if plan.now else ""))
    for pair, at, by in planted:
        say(f"Planted: {pair} is pushed by {by:+.0%} at {format_time(at)} UTC")
    return 0


def _plan(args: dict[str, Any]) -> Plan:
    if not args["now"]:
        if args["days"] is not None or args["ahead"] is not None:
            raise LiquidationsError("--days and --ahead belong to --now; without it: --timerange")
        return Plan(*_span(args.get("timerange")), None)
    if args.get("timerange"):
        raise LiquidationsError("--timerange and --now exclude each other: --now takes --days")
    days, ahead = (
        default if args[name] is None else args[name] for name, default in DEFAULTS.items()
    )
    require_whole("--days", days, 1, 400)
    require_whole("--ahead", ahead, 1, 24 * 30)
    now = int(time.time() * 1000)
    # Full days and hours, so that no candle of the history is partial.
    end = -(-(now + ahead * HOUR) // HOUR) * HOUR
    return Plan(now // DAY * DAY - days * DAY, end, now)


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
