"""What several commands share: configuration, settings, tables."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liquidations.errors import LiquidationsError, printable
from liquidations.exchanges import EXCHANGES
from liquidations.settings import SECTION, Settings, read_settings


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def add_timeframe(parser: ArgumentParser, help_text: str) -> None:
    """Add ``-t/--timeframe``; ``-i`` is what Freqtrade calls it at times."""
    parser.add_argument("-t", "-i", "--timeframe", metavar="TIMEFRAME", help=help_text)


def load_config(args: dict[str, Any]) -> dict[str, Any]:
    """Load Freqtrade's configuration as its utility commands do; ``--db-url`` is our store's."""
    from freqtrade.configuration import setup_utils_configuration
    from freqtrade.enums import RunMode

    ours = ("db_url", "exchange", "timeframe")
    passed = {name: value for name, value in args.items() if name not in ours}
    try:
        config = setup_utils_configuration(passed, RunMode.UTIL_NO_EXCHANGE)
    except KeyError as error:
        # Freqtrade takes it for granted once there is a configuration file.
        if error.args != ("exchange",):
            raise
        raise LiquidationsError(
            'the configuration has no "exchange"; add "exchange": {"name": "binance"}'
        ) from error
    if args.get("db_url"):
        _override(config, "db_url", args["db_url"])
    return config


def load_plain_config(args: dict[str, Any]) -> dict[str, Any]:
    """Load the configuration for a command that only asks the store.

    Freqtrade imports all exchanges to load one, which takes longer than to answer. So plain files
    are read here, in its way. A mistake, files that name others, variables of the environment and
    options of the log are left to Freqtrade.
    """
    config = _plain_config(args)
    if config is None:
        return load_config(args)
    if args.get("db_url"):
        _override(config, "db_url", args["db_url"])
    return config


def _plain_config(args: dict[str, Any]) -> dict[str, Any] | None:
    """Read what Freqtrade would of our section, the exchange's name and the user folder."""
    import rapidjson
    from freqtrade.constants import ENV_VAR_PREFIX
    from freqtrade.misc import deep_merge_dicts

    if args.get("verbosity") or args.get("logfile"):
        return None
    if any(name.startswith(ENV_VAR_PREFIX) for name in os.environ):
        return None
    config: dict[str, Any] = {}
    mode = rapidjson.PM_COMMENTS | rapidjson.PM_TRAILING_COMMAS
    for name in args.get("config") or []:
        try:
            found = rapidjson.loads(Path(name).read_text(), parse_mode=mode)
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or "add_config_files" in found:
            return None
        config = deep_merge_dicts(found, config)
    if not args.get("config"):
        config = {"exchange": {"name": ""}}
    named = args.get("user_data_dir") or config.get("user_data_dir")
    folder = Path(named) if named else Path.cwd() / "user_data"
    if not isinstance(config.get("exchange"), dict) or not folder.is_dir():
        return None
    return {**config, "user_data_dir": folder}


def parse_timerange(text: str | None) -> tuple[int, int]:
    """Return from when to when (ms UTC) a ``--timerange`` goes; 0 stands for an open end.

    >>> parse_timerange("20240101-20240102"), parse_timerange("-20240102"), parse_timerange(None)
    ((1704067200000, 1704153600000), (0, 1704153600000), (0, 0))
    """
    if not text:
        return 0, 0
    if days := re.fullmatch(r"(?!-$)(\d{8})?-(\d{8})?", text):
        with suppress(ValueError):
            start, end = map(_day_ms, days.groups())
            if not end or start <= end:
                return start, end
    # Other forms, and what is wrong with all others.
    from freqtrade.configuration import TimeRange

    asked = TimeRange.parse_timerange(text)
    return asked.startts * 1000, asked.stopts * 1000


def _day_ms(day: str | None) -> int:
    if not day:
        return 0
    return int(datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp()) * 1000


def _override(config: dict[str, Any], key: str, value: Any) -> None:
    """Let a flag outrank the config's section; what is no section stays, to be refused later."""
    section = config.get(SECTION, {})
    if isinstance(section, dict):
        config[SECTION] = {**section, key: value}


def load_settings(args: dict[str, Any], config: dict[str, Any]) -> Settings:
    """Check our section; the flags ``--exchange`` and ``--min-coverage`` outrank it."""
    config = dict(config)
    if exchange := args.get("exchange"):
        _override(config, "exchanges", "all" if exchange == "all" else exchange.split(","))
        _override(config, "min_exchanges", 1)
    if args.get("min_coverage") is not None:
        _override(config, "min_coverage", args["min_coverage"])
    return read_settings(config)


def store_settings(config: dict[str, Any]) -> Settings:
    """Check our section for commands that need no exchange."""
    named = config.get("exchange", {}).get("name")
    own = named if named in EXCHANGES else EXCHANGES[0]
    return read_settings({**config, "exchange": {"name": own}})


def store_url(config: dict[str, Any]) -> str:
    """Return the store's URL, for commands that need no exchange."""
    return store_settings(config).db_url


def console(*, stderr: bool = False) -> Console:
    """Return a console; in a pipe or a file it is wide enough for our tables."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=stderr)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=200)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show in a terminal how far tasks are, with their own text ``rate``; in a pipe nothing."""
    from rich import progress

    shown = console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=shown, disable=not shown.is_terminal) as bar:
        yield bar


def say(text: str) -> None:
    """Print a line for people to stderr, where it does not get into a table or CSV."""
    console(stderr=True).print(printable(text), soft_wrap=True, markup=False)


def short_kind(kind: str) -> str:
    """Write what an exchange publishes (``exchanges.KINDS``) in the two words that matter.

    >>> short_kind("complete"), short_kind("largest"), short_kind("partial")
    ('all', 'sample', 'lower bound')
    """
    return {"complete": "all", "partial": "lower bound"}.get(kind, "sample")


def format_length(length: float) -> str:
    """Write a length of time in ms in the unit that fits it.

    >>> [format_length(ms) for ms in (450, 8_240, 754_000, 26_100_000, 1_000_000_000)]
    ['0.5 s', '8.2 s', '12.6 min', '7.2 h', '11.6 d']
    """
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if length >= size:
            return f"{length / size:.1f} {unit}"
    return f"{length / 1000:.1f} s"
