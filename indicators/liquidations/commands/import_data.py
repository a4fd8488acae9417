"""``liquidations import-data``: files of an archive into the store."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.archives import ARCHIVES, Options
from liquidations.candles import format_period, format_time, timeframe_ms
from liquidations.commands.common import (
    add_timeframe,
    console,
    load_config,
    load_settings,
    say,
    store_url,
)
from liquidations.errors import LiquidationsError
from liquidations.event import Events
from liquidations.exchanges import EXCHANGES


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.importer import Imported, Prices

HELP = "Import recorded liquidations from files."


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "exchange")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="Files or folders.")
    parser.add_argument(
        "--source", required=True, metavar="SOURCE", help=f"One of {', '.join(ARCHIVES)}."
    )
    parser.add_argument(
        "--unit", choices=("base", "usd"), help="Of the volumes (coinalyze): base amounts or USD."
    )
    parser.add_argument(
        "--markets",
        type=Path,
        metavar="FILE",
        help="Contract sizes (okx) as the exchange's instruments answer; without it the exchange "
        "is asked.",
    )
    add_timeframe(parser, "Period of the rows (coinalyze), if it can't be told from them.")


def run(args: dict[str, Any]) -> int:
    """Import all files or none, and say what was new."""
    from rich.progress import track

    from liquidations.importer import find_files, read_files, write_parts
    from liquidations.markets import okx_contracts
    from liquidations.store import Store

    config = load_config({**args, "pairs": None})
    db_url = store_url(config)
    period = _period(args.get("timeframe"))
    exchange = config["exchange"]
    ccxt_config = exchange.get("ccxt_config", {}) if exchange.get("name") == "okx" else {}
    options = Options(
        args.get("unit"), period, lambda: okx_contracts(args.get("markets"), ccxt_config)
    )
    chosen = load_settings(args, config).exchanges if args.get("exchange") else EXCHANGES
    progress = console(stderr=True)
    files = track(
        find_files(args["files"]), "Reading", console=progress, disable=not progress.is_terminal
    )
    parts, passed = read_files(
        files, args["source"], options, _prices(config), args.get("pairs") or (), chosen
    )
    with Store(db_url, create=True) as store:
        done = write_parts(store, parts)
        shown = store.shown
    _print(done)
    for note in dict.fromkeys(f"{one.part.pair}: {one.part.note}" for one in done if one.part.note):
        say(note)
    if any(one.rows.revised for one in done):
        say("Revised: the source now gives other values than are stored; the stored ones were kept")
    for file in passed:
        say(f"{file}: another kind of answer, passed over")
    say(f"Store: {shown}")
    return 0


def _period(timeframe: str | None) -> int | None:
    """Return the length of a period in ms, or None to find it in the rows."""
    if timeframe is None:
        return None
    length = timeframe_ms(timeframe)
    if length is None:
        raise LiquidationsError(f"a period of rows is minutes, hours or days, not {timeframe}")
    return length


def _prices(config: dict[str, Any]) -> Prices:
    """Return what reads the opens and typical prices of a pair from Freqtrade's candles."""

    def read(pair: str, timeframe: str) -> tuple[np.ndarray, np.ndarray]:
        from freqtrade.data.history import load_pair_history
        from freqtrade.enums import CandleType

        candles = load_pair_history(
            pair,
            timeframe,
            config["datadir"],
            fill_up_missing=False,
            data_format=config.get("dataformat_ohlcv", "feather"),
            candle_type=CandleType.FUTURES,
        )
        if candles.empty:
            return np.empty(0, np.int64), np.empty(0)
        typical = (candles["high"] + candles["low"] + candles["close"]) / 3
        return candles["date"].dt.as_unit("ms").astype("int64").to_numpy(), typical.to_numpy()

    return read


def _print(done: list[Imported]) -> None:
    from rich.table import Table

    table = Table("Pair", "Exchange", "Source", "Rows are", "From", "To")
    for name in ("New", "Known", "Revised"):
        table.add_column(name, justify="right")
    for one in done:
        part = one.part
        events = isinstance(part.rows, Events)
        table.add_row(
            part.pair,
            part.exchange,
            part.source,
            "events" if events else f"{format_period(part.period)} bars",
            format_time(part.coverage[0, 0]),
            format_time(part.coverage[-1, 1]),
            *(f"{count:,}" for count in (one.rows.new, one.rows.known, one.rows.revised)),
        )
    console().print(table)
