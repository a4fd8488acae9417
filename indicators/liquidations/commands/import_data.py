"""``liquidations import-data``: files of an archive into the store."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from liquidations.archives import ARCHIVES, Options, archive
from liquidations.candles import format_period, format_time, timeframe_ms
from liquidations.commands.common import (
    add_timeframe,
    console,
    load_config,
    load_settings,
    progress,
    say,
    store_url,
)
from liquidations.errors import LiquidationsError
from liquidations.event import Events
from liquidations.exchanges import EXCHANGES


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments
    from liquidations.importer import Imported, Parts, Place, Prices


Item = TypeVar("Item")


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs", "exchange")
    parser.add_argument(
        "files",
        nargs="+",
        type=_place,
        metavar="FILE",
        help="Files or folders, or URLs of such (s3://, https:// and so on; with asterisks).",
    )
    parser.add_argument(
        "--source",
        default="plain",
        metavar="SOURCE",
        help=f"One of {', '.join(ARCHIVES)} (default: %(default)s, which are CSV, Parquet and what "
        "export-data wrote).",
    )
    parser.add_argument(
        "--timerange",
        metavar="TIMERANGE",
        help="From when to when the files were recorded (plain), if they do not say so themselves.",
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


def _place(text: str) -> Place:
    """Tell a URL from a path."""
    return text if "://" in text else Path(text)


def run(args: dict[str, Any]) -> int:
    """Read all files, import them, and say what was new."""
    from liquidations.importer import find_files, read_files, shown, write_parts
    from liquidations.markets import okx_contracts
    from liquidations.store import Store

    config = load_config({**args, "pairs": None})
    fits = pair_filter(args.get("pairs"))
    db_url = store_url(config)
    exchange = config["exchange"]
    ccxt_config = exchange.get("ccxt_config", {}) if exchange.get("name") == "okx" else {}
    options = Options(
        args.get("unit"),
        _period(args.get("timeframe")),
        lambda: okx_contracts(args.get("markets"), ccxt_config),
        span=_span(args.get("timerange")),
    )
    if options.span is not None and args["source"] != "plain":
        raise LiquidationsError(
            f"files of the source {args['source']} say themselves what they cover; leave "
            "--timerange away"
        )
    chosen = load_settings(args, config).exchanges if args.get("exchange") else EXCHANGES
    files = find_files(args["files"], archive(args["source"]).ABOUT.files)
    parts, passed = read_files(
        tracked(files, len(files), "Reading"),
        args["source"],
        options,
        _prices(config),
        fits,
        chosen,
    )
    with Store(db_url, create=True) as store:
        done = write_parts(store, parts, lambda files, total: tracked(files, total, "Writing"))
        name = store.shown
    if done:
        _print(done)
    _explain(done)
    _keep_context(config, parts)
    for file in passed:
        say(f"{shown(file)}: another kind of answer, passed over")
    say(f"Store: {name}")
    return 0


def pair_filter(patterns: Sequence[str] | None) -> Callable[[str], bool]:
    """Return what tells whether a pair is one of some, or fits a regular expression of them.

    :param patterns: none means all pairs
    :raises LiquidationsError: if one is no regular expression.
    """
    from freqtrade.plugins.pairlist.pairlist_helpers import expand_pairlist

    if not patterns:
        return lambda _: True
    wanted = list(patterns)

    def fits(pair: str) -> bool:
        return pair in wanted or bool(expand_pairlist(wanted, [pair]))

    try:
        fits("")
    except ValueError as error:
        raise LiquidationsError(str(error)) from error
    return fits


def tracked(items: Iterable[Item], total: int, text: str) -> Iterator[Item]:
    """Go through items, and show in a terminal how many are done, how fast, and the time left."""
    with progress() as bar:
        task = bar.add_task(text, total=total, rate="")
        for item in items:
            yield item
            speed = bar.tasks[0].speed
            bar.update(task, advance=1, rate=f"{speed:.1f}/s" if speed else "")


def _explain(done: list[Imported]) -> None:
    """Say what the table can't."""
    for note in dict.fromkeys(f"{one.part.pair}: {one.part.note}" for one in done if one.part.note):
        say(note)
    if any(one.rows.revised for one in done):
        say(
            "Revised: the source now gives other values than are stored. Both are kept; "
            '"vintage" in the config\'s section says which are read'
        )
    if any(one.rows.conflicts for one in done):
        say(
            "Conflicts: events that one of two recordings lacks although both observed their time. "
            "All are kept; a recorder that lost some, or a feed that shows a choice, does that"
        )
    if any(one.rows.expired for one in done):
        say(
            "Expired: events of a time whose single events were dropped (keep_events). They were "
            "left out, because the one-minute sums that were kept may count them already"
        )


def _keep_context(config: dict[str, Any], parts: Parts) -> None:
    """Store open interest and funding where Freqtrade keeps its own."""
    if not parts.contexts:
        return
    from liquidations.freqtrade_data import store_context

    for one in store_context(config, parts.contexts):
        what = f"{one.pair} {one.kind} {one.timeframe}"
        why = f" ({one.reason})" if one.reason else ""
        say(f"{what}: {one.new} new rows, {one.filled} filled in, {one.passed} passed over{why}")


def _span(timerange: str | None) -> tuple[int, int] | None:
    """Return from when to when the files were recorded (ms), or None if nobody says."""
    from freqtrade.configuration import TimeRange

    if timerange is None:
        return None
    asked = TimeRange.parse_timerange(timerange)
    if not 0 < asked.startts < asked.stopts:
        raise LiquidationsError(
            "--timerange must say from when to when the files were recorded, for example "
            f"20261101-20261108; got {timerange}"
        )
    return asked.startts * 1000, asked.stopts * 1000


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
    """Print a row for each series, whatever the number of its files."""
    from rich.table import Table

    series: dict[tuple[Any, ...], list[Imported]] = defaultdict(list)
    for one in done:
        part = one.part
        kind = "events" if isinstance(part.rows, Events) else f"{format_period(part.period)} bars"
        series[part.pair, part.exchange, part.source, kind].append(one)
    counts = ["new", "known", "revised"]
    seldom = "conflicts", "expired"
    counts += [name for name in seldom if any(getattr(one.rows, name) for one in done)]
    table = Table("Pair", "Exchange", "Source", "Rows are", "From", "To")
    for name in counts:
        table.add_column(name.capitalize(), justify="right")
    for names, ones in series.items():
        edges = np.concatenate([one.part.coverage.ravel() for one in ones])
        times = [format_time(edges.min()), format_time(edges.max())] if len(edges) else "--"
        sums = (sum(getattr(one.rows, name) for one in ones) for name in counts)
        table.add_row(*names, *times, *(f"{count:,}" for count in sums))
    console().print(table)
