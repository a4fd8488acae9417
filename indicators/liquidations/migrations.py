"""How a store of an older program becomes one of this program. Floor 2.

One transaction; each step works on SQLite and PostgreSQL alike, and may be repeated.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from liquidations.database import insert_new
from liquidations.tables import BAR, EVENT, LATE_OF, META, SCHEMA_VERSION, SERIES, metadata


def migrate(connection: Connection, version: int) -> None:
    """Bring the tables of a version (0 = none) to today's; data stay as they are."""
    # Versions 2 and 3 added tables only.
    metadata.create_all(connection)
    named = insert_new(connection, META).values(name="store", value=secrets.randbits(32))
    connection.execute(named)
    if 0 < version < 4:
        _add_kept(connection)
        _drop_foreign_keys(connection)
        connection.execute(sa.schema.CreateIndex(LATE_OF, if_not_exists=True))
    set_version = sa.update(META).where(META.c.name == "schema").values(value=SCHEMA_VERSION)
    if not connection.execute(set_version).rowcount:
        connection.execute(sa.insert(META).values(name="schema", value=SCHEMA_VERSION))


def _add_kept(connection: Connection) -> None:
    columns = {column["name"] for column in sa.inspect(connection).get_columns(SERIES.name)}
    if SERIES.c.kept.name not in columns:
        kept = sa.schema.CreateColumn(SERIES.c.kept).compile(connection)
        connection.execute(sa.DDL(f"ALTER TABLE {SERIES.name} ADD COLUMN {kept}"))


def _drop_foreign_keys(connection: Connection) -> None:
    """Drop what slows live rows down; SQLite never looked at it."""
    if connection.dialect.name == "sqlite":
        return
    for table in (EVENT, BAR):
        for key in sa.inspect(connection).get_foreign_keys(table.name):
            connection.execute(sa.DDL(f"ALTER TABLE {table.name} DROP CONSTRAINT {key['name']}"))
