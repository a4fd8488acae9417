"""The store: events, bars and coverage in SQLite or PostgreSQL, through SQLAlchemy Core. Floor 2.

The tables are in ``tables.py``, what is read and written within a transaction in ``reader.py`` and
``writer.py``.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations.database import (
    explain,
    file_of,
    lock_schema,
    no_store,
    open_engine,
    reading,
    used_bytes,
)
from liquidations.errors import LiquidationsError, mask
from liquidations.migrations import migrate
from liquidations.reader import Reader
from liquidations.tables import COPYING, META, SCHEMA_VERSION
from liquidations.writer import Writer


class Store:
    """Open the store behind a database URL.

    :param db_url: as SQLAlchemy writes it; ``sqlite:///user_data/liquidations.sqlite``
    :param create: make the store if there is none; else that is an error, because a reader that
        creates an empty store would hide a wrong path
    :param patience: PostgreSQL that does not answer a statement in so many seconds has failed;
        default: wait
    :param unfinished: open what ``liquidations db copy`` has not finished, too
    :raises LiquidationsError: no store there, not a store, or one of a newer program
    """

    def __init__(
        self,
        db_url: str,
        *,
        create: bool = False,
        patience: float | None = None,
        unfinished: bool = False,
    ) -> None:
        self.db_url = db_url
        try:
            url = sa.make_url(db_url)
        except (sa.exc.ArgumentError, ValueError):
            raise LiquidationsError(
                f"{mask(db_url)!r} is not a database URL; "
                "write for example sqlite:///user_data/liquidations.sqlite"
            ) from None  # it may quote what stands in the URL
        #: The URL without its password, for messages.
        self.shown = mask(url.render_as_string(hide_password=True))
        if url.get_backend_name() == "postgresql" and "@" in f"{url.host}{url.database}":
            # A part of the password would be taken for the host, and shown.
            raise LiquidationsError(
                f"{mask(db_url)} has more than one @; write one that belongs to the password as "
                "%40, and a / as %2F"
            )
        self._engine = open_engine(url, self.shown, create, patience)
        self._reading = reading(self._engine)
        try:
            self._open(create)
            if not unfinished:
                self._refuse_unfinished()
        except BaseException:
            self.close()
            raise
        self._file = file_of(url)

    def _open(self, create: bool) -> None:
        #: The version of the schema that it had when it was opened; 0: none.
        self.found_version = version = self._version(create)
        if version < SCHEMA_VERSION:
            try:
                with self.transaction(write=True) as connection:
                    lock_schema(connection)
                    if (again := _version(connection)) < SCHEMA_VERSION:  # else another was faster
                        migrate(connection, again)
            except LiquidationsError as error:
                if not version:
                    raise
                raise LiquidationsError(
                    f"the store {self.shown} has schema version {version} and must be brought to "
                    f"{SCHEMA_VERSION}, which failed here ({error}). "
                    "Run as its owner: liquidations db migrate"
                ) from error
        elif version > SCHEMA_VERSION:
            raise LiquidationsError(
                f"the store {self.shown} has schema version {version}, this program knows "
                f"{SCHEMA_VERSION}: it was written by a newer freqtrade-liquidations. "
                "Run: pip install --upgrade freqtrade-liquidations"
            )

    def _version(self, create: bool) -> int:
        """Return the version of the schema; 0 if there is none, and one is to be made."""
        with self.transaction(write=False) as connection:
            version = _version(connection)
        if version or create:
            return version
        raise LiquidationsError(no_store(self.shown))

    def _refuse_unfinished(self) -> None:
        with self.transaction(write=False) as connection:
            unfinished = connection.scalar(sa.select(META.c.value).where(META.c.name == COPYING))
        if unfinished is not None:
            raise LiquidationsError(
                f"the store {self.shown} is a copy that is not finished. Run the same command "
                "again, which goes on where it ended: liquidations db copy"
            )

    @property
    def name(self) -> str:
        """Return what this store is called in its recordings, such as store-5f3a9c21."""
        with self.transaction(write=False) as connection:
            number = connection.scalar(sa.select(META.c.value).where(META.c.name == "store"))
        return f"store-{number:08x}"

    def replaced(self) -> bool:
        """Tell whether the file was deleted or made anew since it was opened."""
        return self._file is not None and file_of(self._engine.url) != self._file

    def size(self) -> int:
        """Return how many bytes the store takes on the disk, without the free room in it."""
        with self.transaction(write=False) as connection:
            return used_bytes(connection, META.metadata)

    def vacuum(self) -> None:
        """Give the free room in a SQLite file back to the disk; nobody can write meanwhile.

        :raises LiquidationsError: if the store is no file, somebody else uses it, or room is short.
        """
        if self._engine.dialect.name != "sqlite":
            raise LiquidationsError(
                f"{self.shown} is no SQLite file; PostgreSQL's autovacuum does that by itself"
            )
        try:
            with closing(self._engine.raw_connection()) as connection:  # outside of a transaction
                cursor = connection.cursor()
                cursor.execute("VACUUM")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise LiquidationsError(explain(error, self.shown)) from error

    def close(self) -> None:
        """Close all connections; the store opens them again when it is used."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[Connection]:
        """Open a transaction for those who know the tables; others :meth:`read` and :meth:`write`.

        One that reads sees one state of the store; one that writes is undone by an exception.
        """
        try:
            with (self._engine if write else self._reading).connect() as connection:
                if write:
                    connection.execution_options(liquidations_write=True)
                # The first statement begins; closing rolls back what was not committed.
                yield connection
                if write:
                    connection.commit()
        except (sa.exc.TimeoutError, sa.exc.PendingRollbackError) as error:
            raise LiquidationsError(explain(error, self.shown)) from error
        except sa.exc.DBAPIError as error:
            if "readonly" in str(error.orig):  # a connection stays so, whatever its file becomes
                self.close()
            raise LiquidationsError(explain(error.orig, self.shown)) from error
        except sqlite3.Error as error:
            raise LiquidationsError(explain(error, self.shown)) from error

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """Open a transaction that writes; an exception leaves the store as it was."""
        with self.transaction(write=True) as connection:
            yield Writer(connection)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Open a transaction that reads one consistent state of the store."""
        with self.transaction(write=False) as connection:
            yield Reader(connection)

    def fingerprint(self) -> str:
        """Return a text that changes when anything in the store changes."""
        with self.read() as reader:
            digests = [
                (one.exchange, one.pair, one.source, one.period, one.digest, one.live)
                for one in reader.series()
            ]
        return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]


def _version(connection: Connection) -> int:
    if not sa.inspect(connection).has_table(META.name):
        return 0
    return connection.scalar(sa.select(META.c.value).where(META.c.name == "schema")) or 0
