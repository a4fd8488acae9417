"""``liquidations collect``: the live feeds of the exchanges into the store, as a service."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from liquidations.commands.common import (
    format_length,
    load_config,
    load_settings,
    short_kind,
)
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, SIDES, SIMULATED
from liquidations.exchanges import adapter, regime
from liquidations.exchanges.frames import order_events
from liquidations.pairs import is_pair


if TYPE_CHECKING:
    from rich.table import Table

    from liquidations.cli import LiquidationArguments
    from liquidations.collector import Collector, Plan
    from liquidations.feed import LiveFeed
    from liquidations.settings import Settings

logger = logging.getLogger(__name__)


EPILOG = (
    "Ctrl+C, SIGINT or SIGTERM: what has come is written, and the exit code is 0; a second one "
    "ends at once. Errors of the configuration, or a store that can't be opened: one line, exit "
    "code 2. Afterwards nothing ends it: what is out of reach is tried again."
)

#: Between two looks at the feeds, and between two lines of the status (s).
LOOK, STATUS = 1.0, 60.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    arguments.options(parser, "pairs")
    parser.add_argument(
        "--exchange",
        metavar="NAME[,NAME]",
        help='Exchanges to collect, or "all". Default: "exchanges" of the config\'s section, else '
        "the bot's exchange.",
    )
    parser.add_argument(
        "--market",
        action="store_true",
        help="Collect all contracts of the exchanges. Default: one contract of each exchange for "
        "each base asset of -p, else of the config's pair_whitelist.",
    )


def run(args: dict[str, Any]) -> int:
    """Collect until a signal comes."""
    # Freqtrade's console, on which its log lines are printed: they pass above a table on it.
    from freqtrade.loggers import error_console
    from freqtrade.system import gc_set_threshold

    from liquidations.collector import Collector

    config = load_config({**args, "pairs": None})
    logging.disable(logging.NOTSET)  # what follows is what a service has to say
    plan = _plan(args, config, load_settings(args, config))
    collector = Collector(plan)
    try:
        _claim(collector)
    except LiquidationsError:
        collector.store.close()
        raise
    gc_set_threshold()  # as a bot does: no liquidation waits while Python looks for garbage
    # Lines for a file or a journal are not to be wrapped.
    error_console.soft_wrap = not error_console.is_interactive
    before = [(each, signal.getsignal(each)) for each in _SIGNALS]
    try:
        asyncio.run(_collect(collector, error_console))
    finally:
        for each, handler in before:
            signal.signal(each, handler)
    return 0


def _plan(args: dict[str, Any], config: dict[str, Any], settings: Settings) -> Plan:
    """Plan what flags and configuration ask for; whether a bot collects is another matter."""
    from liquidations.live import plan_of

    pairs = args.get("pairs") or []
    if args["market"] and pairs:
        raise LiquidationsError("-p and --market exclude each other: --market takes all contracts")
    for pair in pairs:
        if not is_pair(pair):
            raise LiquidationsError(
                f"{pair!r} is not a perpetual; write it as Freqtrade does, for example "
                "BTC/USDT:USDT, or take all contracts with --market"
            )
    settings = replace(settings, market=args["market"] or (settings.market and not pairs))
    exchange = config.get("exchange", {})
    if pairs:
        config = {**config, "exchange": {**exchange, "pair_whitelist": pairs}}
    elif not settings.market:
        for pair in exchange.get("pair_whitelist", ()):
            if not is_pair(pair):
                logger.warning(f"{pair} of the pair_whitelist names no perpetual and is left out")
    plan = plan_of(config, settings)
    if plan.bases is not None and not plan.bases:
        raise LiquidationsError(
            "no pair to collect; name some with -p BTC/USDT:USDT or in the config's "
            "pair_whitelist (no patterns), or take all contracts with --market"
        )
    return plan


def _claim(collector: Collector) -> None:
    """Find out now whether the store takes what is to be collected."""
    settings = collector.plan.settings
    with collector.store.write() as writer:
        for name in settings.exchanges:
            for channel, inverse in adapter(name).CHANNELS.items():
                if settings.inverse or not inverse:
                    feed = writer.feed(name, channel, SIMULATED if settings.simulated else name)
                    writer.seal(feed, feed.sealed, feed.updated)  # a feed that is there is no proof


async def _collect(collector: Collector, terminal: Any) -> None:
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(collector.run())
    await asyncio.sleep(0)  # it has begun, so that it can be asked to stop

    def end_now(number: int, _: Any) -> None:
        terminal.show_cursor()
        os._exit(128 + number)

    def stop() -> None:
        logger.info("stopping; what has come is written first")
        collector.stop()
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, end_now)

    for each in _SIGNALS:
        loop.add_signal_handler(each, stop)
    board = Board(collector)
    shown = board.on_terminal(terminal) if terminal.is_interactive else board.in_log()
    with shown:
        await running
    logger.info(f"stopped; {board.totals()}")


class Board:
    """Show how the feeds of a collector are, once a second in a table or once a minute in the log.

    It runs beside the collector in its loop. What it tells of a feed is since this start.
    """

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self._states: dict[str, tuple[tuple[str, int], float]] = {}
        self._searched = False

    @contextmanager
    def on_terminal(self, terminal: Any) -> Iterator[None]:
        """Keep a table at the foot of a terminal; log lines pass above it."""
        from rich.live import Live

        with (
            Live(self.table(), console=terminal, auto_refresh=False) as live,
            self._repeated(self._show(live)),
        ):
            yield

    @contextmanager
    def in_log(self) -> Iterator[None]:
        """Log the status."""
        with self._repeated(self._log()):
            yield

    @contextmanager
    def _repeated(self, work: Any) -> Iterator[None]:
        task = asyncio.create_task(work)
        try:
            yield
        finally:
            task.cancel()

    async def _show(self, live: Any) -> None:
        while True:
            self.look()
            live.update(self.table(), refresh=True)
            await asyncio.sleep(LOOK)

    async def _log(self) -> None:
        said = time.monotonic()
        while True:
            self.look()
            if time.monotonic() - said >= STATUS:
                said += STATUS
                for line in self.lines(await asyncio.to_thread(self._missing)):
                    logger.info(line)
            await asyncio.sleep(LOOK)

    def look(self) -> None:
        """Note since when each feed is as it is, and say which base assets no exchange has."""
        feeds = self.collector.feeds
        for feed in feeds:
            is_now = feed.state, feed.counts["lost"]
            if feed.name not in self._states or self._states[feed.name][0] != is_now:
                self._states[feed.name] = is_now, time.monotonic()
        chosen = self.collector.plan.settings.exchanges
        if not self._searched and {feed.exchange for feed in feeds} == set(chosen):
            self._searched = True
            self._search(feeds)

    def _search(self, feeds: list[LiveFeed]) -> None:
        from liquidations.collector import bases_of

        found = bases_of(pair for feed in feeds for pair in feed.pairs)
        plan = self.collector.plan
        if missing := (plan.bases or frozenset()) - found:
            where = ", ".join(plan.settings.exchanges)
            logger.warning(f"no contract of {', '.join(sorted(missing))} on {where}")

    def totals(self) -> str:
        """Write what was stored so far, and where."""
        one = self.collector
        return (
            f"{one.written:,} liquidations written, {one.late:,} late, {one.repeated:,} repeated; "
            f"store: {one.store.shown}"
        )

    def lines(self, missing: dict[str, int]) -> list[str]:
        """Write the status, one line for each feed and one for all.

        :param missing: by feed, how long (ms) nobody listened today
        """
        lines = []
        for feed in self._feeds():
            kind, state, since, contracts, events, _, _, problems, lost = self._cells(feed)
            lines.append(
                f"{feed.name} ({kind}): {state} for {since}, {contracts} contracts, "
                f"{events} liquidations, {format_length(missing.get(feed.name, 0))} missing today, "
                f"{problems} problems, {lost} reconnects"
            )
        lines += [f"{name}: its markets are being loaded" for name in self._loading()]
        return [*lines, self.totals()]

    def table(self) -> Table:
        """Draw the status."""
        from rich.table import Table
        from rich.text import Text

        told = Text(self.totals() + "\nCtrl+C stops.")
        if self.collector.plan.settings.simulated:
            told = Text("SIMULATED: these liquidations are invented\n") + told
        table = Table(caption=told, caption_justify="left")
        for name in ("Feed", "Shows", "State", "Since", "Contracts", "Events", "Last event"):
            table.add_column(name, no_wrap=name != "Last event")
        for name in ("Delay", "Problems", "Reconnects"):
            table.add_column(name)
        for feed in self._feeds():
            table.add_row(*map(Text, (feed.name, *self._cells(feed))))
        for name in self._loading():
            table.add_row(name, "", "loading")
        return table

    def _feeds(self) -> list[LiveFeed]:
        """List the feeds that were looked at, in a fixed order."""
        order = self.collector.plan.settings.exchanges
        feeds = [feed for feed in self.collector.feeds if feed.name in self._states]
        return sorted(feeds, key=lambda feed: (order.index(feed.exchange), feed.name))

    def _loading(self) -> list[str]:
        have = {feed.exchange for feed in self.collector.feeds}
        return [name for name in self.collector.plan.settings.exchanges if name not in have]

    def _cells(self, feed: LiveFeed) -> tuple[str, ...]:
        now, mark = feed.clock(), feed.watermark
        (state, lost), since = self._states[feed.name]
        return (
            short_kind(str(regime(feed.exchange, np.array([now]))[0])),
            state,
            format_length(1000 * (time.monotonic() - since)),
            f"{len(feed.chosen):,}",
            f"{feed.counts['events']:,}",
            _last_event(feed, now),
            "-" if mark is None else format_length(max(0, now - mark)),
            f"{feed.problems.total():,}",
            f"{lost:,}",
        )

    def _missing(self) -> dict[str, int]:
        from liquidations.inventory import live_inventory

        try:
            entries = live_inventory(self.collector.store)
        except LiquidationsError:  # the collector says so itself, and goes on
            return {}
        today = time.time_ns() // 1_000_000 // DAY * DAY
        return {
            f"{one.feed.exchange} {one.feed.channel}": sum(
                missing
                for (_, end, _), missing in zip(one.gaps, one.missing, strict=True)
                if end > today
            )
            for one in entries
        }


def _last_event(feed: LiveFeed, now: int) -> str:
    """Write the last order for people: pair, side, USD, how long ago it happened."""
    order = feed.last_order
    if order is None:
        return "-"
    try:
        ((pair, events),) = order_events([order], feed.contracts).items()
    except LiquidationsError:  # an order that no liquidation can be; it is counted as a problem
        return "-"
    ago = format_length(max(0, now - order.timestamp))
    return f"{pair} {SIDES[order.side]} {events.value_usd[0]:,.0f} USD, {ago} ago"
