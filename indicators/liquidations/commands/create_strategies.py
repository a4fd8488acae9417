"""``liquidations create-strategies``: the sample strategies into Freqtrade's folder."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liquidations.commands.common import console, load_config, say
from liquidations.errors import LiquidationsError


if TYPE_CHECKING:
    from liquidations.cli import LiquidationArguments


EPILOG = (
    "A file that is there already is never changed. If it differs from the sample, yours is kept, "
    "this is said, and the exit code is 0. To get the sample, move yours to another folder and run "
    "this again."
)

NEW, UNCHANGED, KEPT = "new", "unchanged", "kept"


def add_arguments(arguments: LiquidationArguments, parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    arguments.options(parser, "strategy_path")


def run(args: dict[str, Any]) -> int:
    """Copy what is not there yet, and say what was done with each sample."""
    from rich.table import Table

    config = load_config(args)
    # As Freqtrade's new-strategy: the flag counts, strategy_path of the configuration does not.
    folder = Path(args.get("strategy_path") or config["user_data_dir"] / "strategies")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = {name: copy_new(data, folder / name) for name, data in samples().items()}
    except OSError as error:
        raise LiquidationsError(
            f"{folder} can't be written: {error.strerror}; name another folder with "
            "--strategy-path, or see that this one is a folder that you may write to"
        ) from error
    table = Table("File", "Is")
    for name, what in done.items():
        table.add_row(name, what)
    console().print(table)
    say(f"Folder: {folder}")
    for name in (name for name, what in done.items() if what == KEPT):
        say(
            f"Kept: {folder / name} differs from the sample, {_origin() / name}. To get that, "
            "move yours to another folder and run this again"
        )
    return 0


def samples() -> dict[str, bytes]:
    """Read the sample strategies that are installed with this package.

    :return: file name → its bytes, in the order of the names
    """
    found = [one for one in _origin().iterdir() if one.name.endswith(".py")]
    return {
        one.name: one.read_bytes()
        for one in sorted(found, key=lambda one: one.name)
        if one.name != "__init__.py"
    }


def _origin() -> Any:
    return files("liquidations.samples")


def copy_new(data: bytes, target: Path) -> str:
    """Write a file whole or not at all, and never over one that is there.

    :return: ``NEW``, ``UNCHANGED`` or ``KEPT``
    """
    if not os.path.lexists(target):
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            part.write_bytes(data)
            # Unlike a renaming, a hard link fails where another process was faster.
            with suppress(FileExistsError):
                os.link(part, target)
                return NEW
        finally:
            part.unlink(missing_ok=True)
    return UNCHANGED if target.is_file() and target.read_bytes() == data else KEPT
