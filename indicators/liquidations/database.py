"""How a database is opened, and what its errors mean. Floor 2.

What differs between SQLite and PostgreSQL is here; the store above it is one code path.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from liquidations.errors import LiquidationsError
from liquidations.tables import for_postgresql


#: What a connection to PostgreSQL is given unless the URL says otherwise: a host that is gone is
#: noticed within seconds. ``tcp_user_timeout`` is in ms, the others in s.
_LIBPQ = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "liquidations",
}

#: How long (s) bots and collectors wait for an answer of PostgreSQL before they try again.
PATIENCE = 15.0

#: A connection that was used so lately (s) is not asked first whether it is still there.
_FRESH = 0.5

#: Who holds this lock of PostgreSQL's changes the schema; any number that nobody else takes.
_SCHEMA_LOCK = 0x6C6971


def open_engine(url: sa.URL, shown: str, create: bool, patience: float | None = None) -> Engine:
    """Return an engine for a store that is there, or that may be made.

    :param shown: the URL without its password, for messages
    :param patience: a database that does not answer a statement in so many seconds has failed;
        None waits
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
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, hide_parameters=True)
        sa.event.listen(engine, "connect", _sqlite_connect)
        sa.event.listen(engine, "begin", _sqlite_begin)
        return engine
    return _open_postgresql(url, patience)


def reading(engine: Engine) -> Engine:
    """Return the engine for transactions that read one state of the store."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def lock_schema(connection: Connection) -> None:
    """Let one transaction at a time make or change tables; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))


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


def limit_waiting(connection: Connection, seconds: float) -> None:
    """Let a transaction fail that waits longer for what others of PostgreSQL have locked."""
    if connection.dialect.name == "postgresql":
        limit = f"{seconds * 1000:.0f}ms"
        connection.execute(sa.select(sa.func.set_config("lock_timeout", limit, True)))


def _open_postgresql(url: sa.URL, patience: float | None) -> Engine:
    import psycopg

    for_postgresql()

    class Binary(psycopg.Cursor[Any]):
        """Ask for results as bytes: as text a segment would take twice as long."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.format = psycopg.pq.Format.BINARY

    class Array(psycopg.adapt.Dumper):
        """Send a numpy array as bytes: as a list of numbers it would take thrice as long."""

        format = psycopg.pq.Format.BINARY

        def get_key(self, obj: Any, format: Any) -> Any:
            return type(self), obj.dtype.str

        def upgrade(self, obj: Any, format: Any) -> Array:
            made = Array(np.ndarray)
            made.oid = _OIDS[obj.dtype.str[1:]][1]
            return made

        def dump(self, obj: Any) -> bytes:
            cells = np.empty(len(obj), [("size", ">i4"), ("value", obj.dtype.newbyteorder(">"))])
            cells["size"], cells["value"] = obj.dtype.itemsize, obj
            oid = _OIDS[obj.dtype.str[1:]][0]
            return struct.pack(">5i", 1, 0, oid, len(obj), 1) + cells.tobytes()

    given: dict[str, Any] = {k: value for k, value in _LIBPQ.items() if k not in url.query}
    if isinstance(threshold := url.query.get("prepare_threshold"), str):
        # The driver wants a number or None, and a URL holds texts.
        given["prepare_threshold"] = int(threshold) if threshold.isdigit() else None
        url = url.difference_update_query(["prepare_threshold"])
    engine = sa.create_engine(
        url, hide_parameters=True, connect_args={**given, "cursor_factory": Binary}
    )
    watch = _Watch(patience) if patience is not None else None

    def checkout(connection: Any, record: Any, _: Any) -> None:
        if watch is not None:
            watch.arm(connection)
        if time.monotonic() - record.info.get("used", 0.0) > _FRESH:
            # Below the driver's transactions, which would cost two more round trips.
            answer = connection.pgconn.exec_(b"")
            if answer.status != psycopg.pq.ExecStatus.EMPTY_QUERY:
                text = answer.get_error_message()
                if "used" not in record.info:  # it is new: the next one would do no better
                    raise psycopg.OperationalError(text)
                raise sa.exc.DisconnectionError(text)

    def checkin(connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()
        if watch is not None:
            watch.disarm(connection)

    def connect(connection: Any, _: Any) -> None:
        connection.adapters.register_dumper(np.ndarray, Array)

    sa.event.listen(engine, "connect", connect)
    sa.event.listen(engine, "checkout", checkout)
    sa.event.listen(engine, "checkin", checkin)
    if watch is not None:
        sa.event.listen(engine, "before_cursor_execute", watch.before)
        sa.event.listen(engine, "after_cursor_execute", watch.after)
        sa.event.listen(engine, "commit", watch.end)
        sa.event.listen(engine, "rollback", watch.end)
    return engine


class _Watch:
    """Cut a connection to PostgreSQL whose peer does not answer in time.

    The driver waits for ever for a peer that takes what it is sent and says nothing, such as a
    host behind a proxy that lost it. Cutting the socket ends the wait with an error.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._due: dict[Any, float] = {}
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None

    def arm(self, connection: Any) -> None:
        """Expect an answer on a connection from now on."""
        if self._process != os.getpid():  # a fork has no part in its parent's connections
            self._begin()
        with self._lock:
            self._due[connection] = time.monotonic() + self.patience
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="liquidations database", daemon=True
                )
                self._thread.start()
            self._lock.notify()

    def disarm(self, connection: Any) -> None:
        """Expect nothing any more."""
        with self._lock:
            self._due.pop(connection, None)

    def before(self, connection: Connection, *_: Any) -> None:
        self.arm(connection.connection.dbapi_connection)

    def after(self, connection: Connection, *_: Any) -> None:
        self.disarm(connection.connection.dbapi_connection)

    def end(self, connection: Connection) -> None:
        if connection.invalidated:  # there is nobody to answer
            return
        self.arm(connection.connection.dbapi_connection)

    def _run(self) -> None:
        with self._lock:
            while True:
                now = time.monotonic()
                for connection in [one for one, due in self._due.items() if due <= now]:
                    del self._due[connection]
                    _cut(connection)
                if self._due:
                    self._lock.wait(max(0.05, min(self._due.values()) - time.monotonic()))
                elif not self._lock.wait(60):
                    self._thread = None
                    return


def _cut(connection: Any) -> None:
    import psycopg

    with (
        suppress(psycopg.Error, OSError),  # it has just been closed
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


def _sqlite_connect(connection: Any, _: Any) -> None:
    # The driver must not begin transactions by itself: it would do so too late to read and write
    # one state.
    connection.isolation_level = None
    connection.execute("PRAGMA page_size = 8192")


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
    # What SQLAlchemy has for PostgreSQL takes as long to import as all of ours.
    insert = importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert
    return _on_conflict(insert(table), table, add)


def _on_conflict(insert: Any, table: sa.Table, add: tuple[str, ...]) -> Any:
    if not add:
        return insert.on_conflict_do_nothing()
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + insert.excluded[name] for name in add},
    )


#: PostgreSQL's numbers of a type and of its arrays by numpy's name, and that of a column's type.
_OIDS = {"i2": (21, 1005), "i4": (23, 1007), "i8": (20, 1016), "f8": (701, 1022)}
_TYPES = {sa.SmallInteger: "i2", sa.Integer: "i4", sa.BigInteger: "i8", sa.Double: "f8"}


def insert_arrays(
    connection: Connection,
    table: sa.Table,
    arrays: Mapping[str, np.ndarray],
    *,
    add: tuple[str, ...] = (),
) -> sa.CursorResult[Any]:
    """Insert rows given by columns, as :func:`insert_new` does.

    :return: its ``rowcount`` is how many were new; of PostgreSQL it also gives their primary keys
    """
    if connection.dialect.name == "postgresql":
        kinds = {name: _TYPES.get(type(table.c[name].type)) for name in arrays}
        lists = {
            name: array.astype(kind) if (kind := kinds[name]) else array.tolist()
            for name, array in arrays.items()
        }
        return connection.execute(_insert_arrays(table, tuple(arrays), add), lists)
    # By the driver itself: SQLAlchemy would take longer over the rows than SQLite does.
    statement, names = _insert_rows(table, tuple(arrays), add)
    columns = [arrays[name].tolist() for name in names]
    return connection.exec_driver_sql(statement, list(zip(*columns, strict=True)))


@lru_cache(maxsize=32)
def _insert_rows(
    table: sa.Table, names: tuple[str, ...], add: tuple[str, ...]
) -> tuple[str, list[str]]:
    from sqlalchemy.dialects import sqlite

    insert = _insert_new("sqlite", table, add).compile(dialect=sqlite.dialect(), column_keys=names)
    return str(insert), insert.positiontup


def rows_of(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return rows that are given by columns."""
    columns = [array.tolist() for array in arrays.values()]
    return [dict(zip(arrays, row, strict=True)) for row in zip(*columns, strict=True)]


@lru_cache(maxsize=32)
def _insert_arrays(table: sa.Table, names: tuple[str, ...], add: tuple[str, ...]) -> Any:
    from sqlalchemy.dialects import postgresql

    # One statement with an array for each column: five times faster than a row at a time.
    types = [table.c[name].type for name in names]
    arrays = [
        sa.bindparam(name, type_=None if type(kind) in _TYPES else postgresql.ARRAY(kind))
        for name, kind in zip(names, types, strict=True)
    ]
    columns = [sa.column(name, table.c[name].type) for name in names]
    rows = sa.func.unnest(*arrays).table_valued(*columns).render_derived(name="new")
    insert = postgresql.insert(table).from_select(list(names), sa.select(rows))
    return _on_conflict(insert, table, add).returning(*table.primary_key.columns)


def used_bytes(connection: Connection, metadata: sa.MetaData) -> int:
    """Return how many bytes tables take on the disk, with their indexes, without what is free."""
    if connection.dialect.name == "sqlite":
        pages, free, size = (
            connection.scalar(sa.text(f"PRAGMA {name}")) or 0
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size
    sizes = [sa.func.pg_total_relation_size(table.name) for table in metadata.sorted_tables]
    return int(connection.scalar(sa.select(sum(sizes[1:], sizes[0]))) or 0)


def no_store(shown: str) -> str:
    """Say that there is no store, and how to get one."""
    return (
        f"there is no liquidation store at {shown}. Make one with: liquidations download-data, "
        'collect or import-data, or name another with --db-url or "db_url" in the config\'s '
        '"liquidations" section'
    )


#: What to do about what a database says, by a part of it.
_CURES = {
    "locked": "another process is writing to it; wait until it is done, then try again",
    "readonly": "it can't be written; check the permissions of the file and its folder",
    "unable to open": "check the path and the permissions of the file and its folder",
    "not a database": "this file is something else; name another with --db-url",
    "malformed": "the file is damaged; restore a copy, or delete it and import again",
    "disk is full": "make room, then try again; nothing was half written",
    "No space left": "make room on its server, then try again; nothing was half written",
    "Connection refused": "is PostgreSQL running there? Check host and port",
    "timeout expired": "no answer; check host, port and network",
    "translate host name": "check the host's name",
    "resolve host": "check the host's name",
    "authentication failed": "check user and password",
    "no password supplied": "give the password in the URL, or in the environment variable "
    "PGPASSWORD",
    "permission denied for sequence": "copy as the owner of the tables",
    "permission denied": "the user may not do that; docs/postgresql.md has the roles",
    "read-only transaction": "this is a replica, or a user that may only read",
    "certificate": "check sslmode and sslrootcert in the URL",
    "too many clients": "raise max_connections, or close what is not used",
    "connection slots": "raise max_connections, or close what is not used",
    "conflict with recovery": "the replica could not wait for this reader; try again",
    "deadlock": "two writers met; try again",
    "lock timeout": "another program is writing to the same contracts; try again",
    "QueuePool": "too many threads use one store; give each bot a process of its own",
    "invalid transaction": "PostgreSQL went away, or did not answer in time; try again",
    "does not exist": "make it first; docs/postgresql.md says how",
    "the connection is closed": "PostgreSQL went away, or did not answer in time; try again",
    "closed the connection": "PostgreSQL went away, or did not answer in time; try again",
    "consuming input failed": "PostgreSQL went away, or did not answer in time; try again",
    "sending query failed": "PostgreSQL went away, or did not answer in time; try again",
    "terminating connection": "PostgreSQL was stopped; try again when it runs",
    "starting up": "PostgreSQL is starting; try again",
    "shutting down": "PostgreSQL is being stopped; try again when it runs",
}


def explain(error: BaseException | None, shown: str) -> str:
    """Say what a database error means and what to do, in one line."""
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for sign, cure in _CURES.items():
        if sign in cause:
            return f"the store {shown}: {cause}; {cure}"
    return f"the store {shown}: {cause}"
