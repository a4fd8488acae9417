"""The console script ``liquidations``: Freqtrade's flags and configuration, our commands. Floor 5.

What can go wrong is a :class:`LiquidationsError` of the library, or an exception of Freqtrade: it
becomes one line on stderr, and the exit code is 2.
"""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from freqtrade.commands.arguments import ARGS_COMMON, Arguments
from freqtrade.constants import DEFAULT_CONFIG
from freqtrade.exceptions import FreqtradeException

from liquidations.errors import LiquidationsError, printable


#: Name of the command, which is its module's too → what it does; the order is that of ``--help``.
COMMANDS = {
    "collect": "Collect liquidations live into the store, until stopped; needs no API key, no "
    "strategy.",
    "monitor": "Watch the live feeds: each pair's running and last closed candle, last events, "
    "health.",
    "download-data": "Download the history of liquidations, as far as the sources have it.",
    "import-data": "Import recorded liquidations from files.",
    "export-data": "Export stored liquidations as a folder that others can import.",
    "list-data": "List stored liquidations and live feeds: pairs, sources, spans, counts, "
    "coverage, holes.",
    "check": "Tell whether stored liquidations can be trusted: times, sides, duplicates, gaps, "
    "prices.",
    "db": "Look after the store: migrate, check, compact or copy it.",
    "show": "Show the liquidation columns of candles.",
    "plot": "Draw candles, imbalance, liquidations and readings: a page that needs no network, or "
    "a PNG.",
    "study": "Tell whether a reading predicts anything on your data, after costs and against "
    "chance.",
    "simulate": "Make a SIMULATED market: candles, funding, open interest and liquidations of one "
    "mechanism.",
    "sandbox": "Serve candles from a data folder as Binance's public futures API, on 127.0.0.1 "
    "only.",
    "create-strategies": "Copy the sample strategies into <user_data_dir>/strategies; your own "
    "files are kept.",
}


class _Command(ArgumentParser):
    """Parse one command, whose module is imported only if the command is given.

    All of them together take a second.
    """

    #: Adds the arguments, once.
    complete: Callable[[], None] | None = None

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        """Add the command's arguments, and parse."""
        if self.complete:
            complete, self.complete = self.complete, None
            complete()
        return super().parse_known_args(*args, **options)


class LiquidationArguments(Arguments):
    """Parse our commands with Freqtrade's own options.

    It rests on Freqtrade's ``_build_args``, ``_parse_args``, ``ARGS_COMMON``; a test holds them.
    """

    def common(self, **options: Any) -> _Command:
        """Return the arguments that all commands have, as a parser's parent."""
        common = _Command(add_help=False, **options)
        group = common.add_argument_group("Common arguments")
        self._build_args(
            optionlist=[name for name in ARGS_COMMON if name != "version"], parser=group
        )
        group.add_argument(
            "--db-url",
            metavar="URL",
            help="The liquidation store (default: the config's, else "
            "sqlite:///<user_data_dir>/liquidations.sqlite).",
        )
        return common

    def _build_subcommands(self) -> None:
        common = self.common()
        self.parser = ArgumentParser(
            prog="liquidations", description="Liquidation data for Freqtrade."
        )
        self.parser.add_argument(
            "-V", "--version", action="store_true", help="Show the version and exit."
        )
        subparsers = self.parser.add_subparsers(
            dest="command", metavar="COMMAND", parser_class=_Command
        )
        for name, about in COMMANDS.items():
            parser = subparsers.add_parser(name, help=about, description=about, parents=[common])
            parser.complete = partial(self._complete, name, parser)

    def _complete(self, name: str, parser: ArgumentParser) -> None:
        module = import_module(f"liquidations.commands.{name.replace('-', '_')}")
        module.add_arguments(self, parser)
        parser.set_defaults(func=module.run)

    def options(self, parser: ArgumentParser, *names: str) -> None:
        """Add options of Freqtrade by the names that it gives them."""
        self._build_args(optionlist=list(names), parser=parser)

    def _parse_args(self) -> Namespace:
        parsed = super()._parse_args()
        # Freqtrade insists on a config file for commands that it does not know; ours do without.
        if (
            getattr(parsed, "config", None) == [DEFAULT_CONFIG]
            and not Path(DEFAULT_CONFIG).exists()
        ):
            parsed.config = None
        return parsed


def run(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = LiquidationArguments(argv)
    args: dict[str, Any] = arguments.get_parsed_arg()
    if args.get("version"):
        from importlib.metadata import version

        print(f"liquidations {version('freqtrade-liquidations')}")
        return 0
    if "func" not in args:
        arguments.parser.print_help()
        return 2
    disabled = logging.root.manager.disable
    if not args.get("verbosity"):
        logging.disable(logging.WARNING)  # Freqtrade's remarks on reading a configuration
    try:
        return int(args["func"](args))
    except (LiquidationsError, FreqtradeException) as error:
        print(f"ERROR: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of a pipe, such as head, has seen enough.
        sys.stderr.close()
        return 0
    except OSError as error:
        what = ": ".join(str(one) for one in (error.filename, error.strerror) if one) or str(error)
        hint = "; check who may read it" if isinstance(error, PermissionError) else ""
        print(f"ERROR: {printable(what)}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the store holds only what was finished.", file=sys.stderr)
        return 130
    finally:
        logging.disable(disabled)


def main() -> None:
    """Run the console script."""
    sys.exit(run())
