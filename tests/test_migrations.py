"""Stores that older programs wrote, as they wrote them, read and go on with today's program.

``answers/stores`` holds them: what ``import-data`` and ``collect`` of each version of the schema
left in a SQLite file, as SQL. In PostgreSQL the same tables and rows are made of it.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import events_of, execute, same_bits, spans, utc

from liquidations.event import DAY, MINUTE
from liquidations.reader import Revision
from liquidations.rows import Told
from liquidations.store import Store
from liquidations.tables import SCHEMA_VERSION
from liquidations.writer import Inserted


STORES = Path(__file__).parent / "answers" / "stores"
VERSIONS = range(1, SCHEMA_VERSION)
BEGIN = utc("2024-08-05")
FOREVER = utc("2020-01-01"), utc("2030-01-01")
IMPORTED = events_of(
    (BEGIN + 100, "long", 100.0),
    (BEGIN + 100, "long", 100.0),
    (BEGIN + 59_999, "short", 30.0),
    (BEGIN + DAY, "short", 9.0),
)
LATE = BEGIN + 2 * MINUTE


def test_there_is_a_store_of_each_version():
    assert sorted(STORES.iterdir()) == [STORES / f"version_{one}.sql" for one in VERSIONS]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def old_store(any_url: str, version: int) -> str:
    """Return the URL of a store that a program of that version left."""
    text = (STORES / f"version_{version}.sql").read_text()
    with closing(sqlite3.connect(":memory:")) as memory:
        memory.executescript(text)
        if any_url.startswith("sqlite"):
            with closing(sqlite3.connect(any_url.removeprefix("sqlite:///"))) as file:
                memory.backup(file)
            return any_url
        _to_postgresql(memory, any_url)
    return any_url


def _to_postgresql(memory: sqlite3.Connection, db_url: str) -> None:
    made = memory.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY type DESC")
    tables = [
        re.sub(r"\bDOUBLE\b", "DOUBLE PRECISION", sql)
        .replace("BLOB", "BYTEA")
        .replace("WITHOUT ROWID", "")
        .replace("id INTEGER NOT NULL, \n\texchange", "id SERIAL, \n\texchange")
        .replace("id INTEGER NOT NULL, \n\tbase", "id SERIAL, \n\tbase")
        for (sql,) in made
    ]
    # What others refer to comes first.
    tables.sort(key=lambda sql: (sql.startswith("CREATE INDEX"), "REFERENCES" in sql))
    execute(db_url, *tables)
    engine = sa.create_engine(db_url)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            rows = memory.execute(f"SELECT * FROM {table.name}")
            names = [column[0] for column in rows.description]
            found = [dict(zip(names, row, strict=True)) for row in rows]
            for row in found:
                if "counted" in row:
                    row["counted"] = bool(row["counted"])
            if found:
                connection.execute(sa.insert(table), found)
            if "id" in table.c and table.name != "liq_origin":
                last = max((row["id"] for row in found), default=1)
                number = sa.text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last)")
                connection.execute(number, {"table": table.name, "last": last})
    engine.dispose()


@pytest.mark.parametrize("create", [True, False], ids=["collector", "reader"])
def test_an_old_store_is_opened_as_it_was_and_goes_on(old_store: str, version: int, create: bool):
    with Store(old_store, create=create) as store:
        assert execute(old_store, "SELECT value FROM liq_meta WHERE name = 'schema'") == [
            (SCHEMA_VERSION,)
        ]
        with store.read() as reader:
            series = {(one.exchange, one.pair): one for one in reader.series()}
            okx, vendor = series["okx", "BTC/USDT:USDT"], series["binance", "BTC/USDT:USDT"]
            same_bits(reader.events(okx, *FOREVER), IMPORTED)
            assert reader.bars(okx, *FOREVER).long.tolist() == [200.0, 0.0]
            assert reader.coverage(okx).tolist() == spans((BEGIN, BEGIN + 2 * DAY)).tolist()
            assert reader.bars(vendor, *FOREVER).long.tolist() == [5.0, 6.0]
            assert okx.kept == 0
            if version >= 2:
                live = reader.source(series["binance", "ETH/USDT:USDT"], *FOREVER)
                assert live.bars.long.tolist() == [50.0, 0.0]
                assert live.bars.short.tolist() == [0.0, 7.0]
                assert live.coverage.tolist() == [[BEGIN, BEGIN + 5 * MINUTE]]
                assert live.late is not None
                assert live.late.events.timestamp.tolist() == [LATE]
                assert live.late.known.tolist() == [BEGIN + 6 * MINUTE]
                (feed,) = reader.feeds()
                assert reader.told() == {
                    series["binance", "ETH/USDT:USDT"].id: [Told(feed.id, BEGIN, 2**62)]
                }
                assert reader.gaps(feed) == [(BEGIN + 5 * MINUTE, BEGIN + 7 * MINUTE, "reconnect")]
            if version >= 3:
                assert reader.revisions(vendor) == [
                    Revision(BEGIN, BEGIN + 10, (5.0, 1.0), (5.5, 1.0))
                ]
        with store.write() as writer:
            done = writer.insert("okx", "BTC/USDT:USDT", "okx", IMPORTED, spans())
            assert done == Inserted(new=0, known=4)
            new = events_of((BEGIN + 1, "long", 1.0))
            assert writer.insert("bybit", "BTC/USDT:USDT", "bybit", new, spans()).new == 1
            feed = writer.feed("okx", "swap", "okx")
            writer.join(feed, ["BTC/USDT:USDT"], BEGIN)
            assert writer.append(feed, {"BTC/USDT:USDT": IMPORTED}, 0)[1] == Inserted(known=4)
        assert store.name.startswith("store-")


def test_an_old_store_reads_the_same_as_one_that_is_written_now(old_store: str, tmp_path):
    with Store(f"sqlite:///{tmp_path / 'new.sqlite'}", create=True) as new, new.write() as writer:
        day = spans((BEGIN, BEGIN + 2 * DAY))
        writer.insert("okx", "BTC/USDT:USDT", "okx", IMPORTED, day)
    with Store(old_store) as old, Store(new.db_url) as new, old.read() as one, new.read() as other:
        (okx,) = (each for each in one.series() if each.exchange == "okx")
        (mine,) = other.series()
        assert okx.digest == mine.digest
        same_bits(one.source(okx, *FOREVER).bars, other.source(mine, *FOREVER).bars)
