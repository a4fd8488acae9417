"""``liquidations sandbox``: a loopback exchange, so that Freqtrade runs with no internet."""

from __future__ import annotations

import os
from argparse import REMAINDER, ArgumentParser
from typing import TYPE_CHECKING, Any

from liquidations.commands.common import load_config, store_url
from liquidations.errors import LiquidationsError, mask


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments


DEFAULT_PORT = 8911


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    arguments.options(parser, "pairs")
    parser.add_argument(
        "--port",
        type=int,
        help=f"Default: {DEFAULT_PORT}, and any free one if a COMMAND is given.",
    )
    parser.add_argument(
        "--replay",
        action="store_true",
        help="Play the data as if they happened now, for dry-run; else they keep their dates.",
    )
    parser.add_argument(
        "--play",
        metavar="URL",
        help="Publish the liquidations of this store over the websocket, each at its time; with "
        "--replay shifted as the candles are. Default: none. The store that the COMMAND reads, and "
        "collects into, is another: --db-url.",
    )
    parser.add_argument(
        "--fault",
        action="append",
        metavar="KIND@SECONDS+LENGTH",
        help="Break the websocket on purpose, from that second on, for LENGTH seconds: cut (no "
        "connection), silence (nothing is sent or heard), delay (liquidations come late). Can be "
        "repeated.",
    )
    parser.add_argument(
        "run",
        nargs=REMAINDER,
        metavar="-- COMMAND",
        help="Run this command with Freqtrade pointed at the sandbox, and stop with it.",
    )


def run(args: dict[str, Any]) -> int:
    """Serve until interrupted, or as long as a command runs; return its exit code."""
    from liquidations.sandbox_server import run_command, serve
    from liquidations.sandbox_stream import parse_fault

    config = load_config({**args, "pairs": None})
    command = args["run"][1:] if args["run"][:1] == ["--"] else args["run"]
    options = {
        "replay": args["replay"],
        "pairs": args.get("pairs"),
        "liquidations": args["play"],
        "faults": [parse_fault(text) for text in args["fault"] or ()],
    }
    if args["play"]:
        _refuse_the_same(args["play"], store_url(config))
    if command:
        if args.get("db_url"):
            # Freqtrade reads its configuration from the environment, too.
            os.environ["FREQTRADE__LIQUIDATIONS__DB_URL"] = args["db_url"]
        return run_command(config["datadir"], command, port=args.get("port") or 0, **options)
    port = DEFAULT_PORT if args.get("port") is None else args["port"]
    serve(config["datadir"], port=port, **options)
    return 0


def _refuse_the_same(played: str, own: str) -> None:
    """Keep the bot from reading in its own store what the exchange has yet to publish."""
    from sqlalchemy import make_url

    from liquidations.database import file_of

    file = file_of(make_url(own))
    if own == played or (file is not None and file == file_of(make_url(played))):
        raise LiquidationsError(
            f"--play names the bot's own store, {mask(own)}, in which it would read its future; "
            "name another one for the bot with --db-url (it may be new)"
        )
