"""What several commands share: configuration, settings, tables."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from rich.console import Console

    from liquidations.settings import Settings


def add_timeframe(parser: ArgumentParser, help_text: str) -> None:
    """Add ``-t/--timeframe``; ``-i`` is what Freqtrade calls it at times."""
    parser.add_argument("-t", "-i", "--timeframe", metavar="TIMEFRAME", help=help_text)


def load_config(args: dict[str, Any]) -> dict[str, Any]:
    """Load Freqtrade's configuration as its utility commands do; ``--db-url`` is our store's."""
    from freqtrade.configuration import setup_utils_configuration
    from freqtrade.enums import RunMode

    if not args.get("verbosity"):
        logging.disable(logging.INFO)
    ours = ("db_url", "exchange", "timeframe")
    passed = {name: value for name, value in args.items() if name not in ours}
    config = setup_utils_configuration(passed, RunMode.UTIL_NO_EXCHANGE)
    if args.get("db_url"):
        config["liquidations"] = {**config.get("liquidations", {}), "db_url": args["db_url"]}
    return config


def load_settings(args: dict[str, Any], config: dict[str, Any]) -> Settings:
    """Check our section; the flags ``--exchange`` and ``--min-coverage`` outrank it."""
    from liquidations.settings import SECTION, read_settings

    section = dict(config.get(SECTION, {}))
    if args.get("exchange"):
        section["exchanges"] = args["exchange"].split(",") if args["exchange"] != "all" else "all"
        section.pop("min_exchanges", None)
    if args.get("min_coverage") is not None:
        section["min_coverage"] = args["min_coverage"]
    return read_settings({**config, SECTION: section})


def store_url(config: dict[str, Any]) -> str:
    """Return the store's URL, for commands that need no exchange; the section is checked too."""
    from liquidations.exchanges import EXCHANGES
    from liquidations.settings import read_settings

    named = config.get("exchange", {}).get("name")
    own = named if named in EXCHANGES else EXCHANGES[0]
    return read_settings({**config, "exchange": {"name": own}}).db_url


def console(*, stderr: bool = False) -> Console:
    """Return a console; in a pipe or a file it is wide enough for our tables."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=stderr)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=200)


def say(text: str) -> None:
    """Print a line for people to stderr, where it does not get into a table or CSV."""
    console(stderr=True).print(text, soft_wrap=True, markup=False)
