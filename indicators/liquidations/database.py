"""How a database is opened, and what its errors mean. Floor 2.

What differs between SQLite and PostgreSQL is here; the store above it is one code path.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine

from liquidations.errors import LiquidationsError


def open_engine(url: sa.URL, shown: str, create: bool) -> Engine:
    """Return an engine for a store that is there, or that may be made.

    :param shown: the URL without its password, for messages
    :raises LiquidationsError: if the database is of another kind, or not where the URL says.
    """
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        _check_file(url, shown, create)
    elif url.drivername != "postgresql+psycopg":
        raise LiquidationsError(
            f"db_url must begin with sqlite:/// or postgresql+psycopg://, got {shown}"
        )
    elif importlib.util.find_spec("psycopg") is None:
        raise LiquidationsError(
            "PostgreSQL needs a driver. Run: pip install 'freqtrade-liquidations[postgresql]'"
        )
    engine = sa.create_engine(url)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _sqlite_connect)
        sa.event.listen(engine, "begin", _sqlite_begin)
    return engine


def file_of(url: sa.URL) -> tuple[int, int] | None:
    """Identify the file behind a SQLite URL by device and inode; None if there is none."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return None
    try:
        found = os.stat(url.database)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _check_file(url: sa.URL, shown: str, create: bool) -> None:
    if url.host or not url.database or ":memory:" in url.database:
        raise LiquidationsError(
            f"{shown} names no file; write sqlite:///folder/file.sqlite, with three slashes, or "
            "four before an absolute path"
        )
    if url.database.startswith("file:"):
        return
    path = Path(url.database)
    if not create and not path.is_file():
        raise LiquidationsError(no_store(shown))
    if create and not path.parent.is_dir():
        raise LiquidationsError(
            f"the folder {path.parent} does not exist; make it with: "
            f"freqtrade create-userdir --userdir {path.parent}"
        )


def _sqlite_connect(connection: Any, _: Any) -> None:
    # The driver must not begin transactions by itself: it would do so too late to read and write
    # one state.
    connection.isolation_level = None
    connection.execute("PRAGMA page_size = 16384")


def _sqlite_begin(connection: Connection) -> None:
    execute = connection.connection.cursor().execute
    if connection.get_execution_options().get("liquidations_write"):
        # Readers go on while a writer works, and what was committed survives a power cut. SQLite
        # does not wait for a lock here: whoever holds it turns the log on, or the next writer.
        with suppress(sqlite3.OperationalError):
            execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("BEGIN IMMEDIATE")
    else:
        execute("BEGIN")


def insert_new(connection: Connection, table: sa.Table, *, add: tuple[str, ...] = ()) -> Any:
    """Return a statement that inserts rows whose primary key is new, and leaves the others alone.

    :param add: columns that are added to those of the row that is there
    """
    return _insert_new(connection.dialect.name, table, add)


@lru_cache(maxsize=32)
def _insert_new(dialect: str, table: sa.Table, add: tuple[str, ...]) -> Any:
    insert: Any = {"sqlite": sqlite, "postgresql": postgresql}[dialect].insert(table)
    if not add:
        return insert.on_conflict_do_nothing()
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + insert.excluded[name] for name in add},
    )


def no_store(shown: str) -> str:
    """Say that there is no store, and how to get one."""
    return (
        f"there is no liquidation store at {shown}. Make one with: liquidations download-data, "
        'collect or import-data, or name another with --db-url or "db_url" in the config\'s '
        '"liquidations" section'
    )


def explain(error: BaseException | None, shown: str) -> str:
    """Say what a database error means and what to do, in one line."""
    cause = str(error).strip().splitlines()[0]
    for sign, cure in {
        "locked": "another process is writing to it; wait until it is done, then try again",
        "readonly": "it can't be written; check the permissions of the file and its folder",
        "unable to open": "check the path and the permissions of the file and its folder",
        "not a database": "this file is something else; name another with --db-url",
        "malformed": "the file is damaged; restore a copy, or delete it and import again",
        "disk is full": "make room, then try again; nothing was half written",
    }.items():
        if sign in cause:
            return f"the store {shown}: {cause}; {cure}"
    return f"the store {shown}: {cause}"
