"""The tables of the store. Floor 2.

What was imported, or is done with, lies in compressed segments; what arrives one by one, in rows:

- ``liq_meta``: the schema's version, the number of this store by which others know it, and
  ``packed``: the ms before which live events may lie in segments.
- ``liq_series``: one row for each exchange, pair and source. ``digest`` is a hash of what was
  inserted into its segments and coverage that does not depend on the order: equal data, equal
  digest. Events before ``kept`` (ms) were dropped for their age; their bars stay.
- ``liq_segment``: columns packed into compressed bytes (``segments.py``). A row holds a part of one
  stretch of time of its series, ordered, and its parts do not overlap. Period 0 are events, whose
  stretches are days; else bars, in stretches of 131,072 periods.
- ``liq_coverage``: disjoint intervals in which an archive answered for a series.
- ``liq_revision``: what a vendor said later of a bar, and when (ms) that was recorded. The segment
  keeps the first vintage; a bar that it lacks within the coverage was 0.
- ``liq_origin``: whose recordings events came in, by the number in their column ``origin``.
- ``liq_feed``: one row for each live channel of an exchange and each collector that writes it at
  the same time: ``holder`` is whose it is, ``number`` counts them. ``sealed`` is the minute up to
  which its candles are closed (``rows.py``), ``digest`` a hash of all its rows.
- ``liq_member``: since when, and until when, a series is told by a feed.
- ``liq_event``: live liquidations. ``known`` is 0, or, of one that came late, the first minute's
  close at which it was known.
- ``liq_bar``: their sums by minute, without the late ones.
- ``liq_feed_coverage``: intervals in which a feed was subscribed and alive; ``known`` as above.
- ``liq_gap``: intervals in which it was not, and why.
"""

from __future__ import annotations

import sqlalchemy as sa


#: 2 added the rows of live feeds, 3 revisions and origins, 4 how much of them was packed or dropped
#: (``migrations.py``).
SCHEMA_VERSION = 4

#: The row of ``liq_meta`` that a copy has until it is finished (``copying.py``).
COPYING = "copying"

#: The period that stands for single events in ``liq_segment``.
EVENTS = 0

metadata = sa.MetaData()

META = sa.Table(
    "liq_meta",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
SERIES = sa.Table(
    "liq_series",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("base", sa.String(32), nullable=False, index=True),
    sa.Column("exchange", sa.String(32), nullable=False),
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("source", sa.String(32), nullable=False),
    sa.Column("period", sa.BigInteger, nullable=False),
    sa.Column("counted", sa.Boolean, nullable=False),
    sa.Column("digest", sa.BigInteger, nullable=False),
    sa.Column("kept", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("exchange", "pair", "source", "period"),
)
SEGMENT = sa.Table(
    "liq_segment",
    metadata,
    sa.Column("series_id", sa.ForeignKey(SERIES.c.id), primary_key=True),
    sa.Column("period", sa.BigInteger, primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
COVERAGE = sa.Table(
    "liq_coverage",
    metadata,
    sa.Column("series_id", sa.ForeignKey(SERIES.c.id), primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("end", sa.BigInteger, nullable=False),
)
REVISION = sa.Table(
    "liq_revision",
    metadata,
    sa.Column("series_id", sa.ForeignKey(SERIES.c.id), primary_key=True),
    sa.Column("timestamp", sa.BigInteger, primary_key=True),
    sa.Column("recorded", sa.BigInteger, primary_key=True),
    sa.Column("long", sa.Double, nullable=False),
    sa.Column("short", sa.Double, nullable=False),
)
ORIGIN = sa.Table(
    "liq_origin",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
)
FEED = sa.Table(
    "liq_feed",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("exchange", sa.String(32), nullable=False),
    sa.Column("channel", sa.String(32), nullable=False),
    sa.Column("source", sa.String(32), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("holder", sa.String(32), nullable=False),
    sa.Column("sealed", sa.BigInteger, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("exchange", "channel", "source", "number"),
)
MEMBER = sa.Table(
    "liq_member",
    metadata,
    sa.Column("series_id", sa.ForeignKey(SERIES.c.id), primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("feed_id", sa.ForeignKey(FEED.c.id), primary_key=True),
    sa.Column("end", sa.BigInteger, nullable=False),
)
# No foreign keys on what arrives fast: PostgreSQL would look each row's series up. Who writes locks
# the series instead (``rows.insert_events``).
EVENT = sa.Table(
    "liq_event",
    metadata,
    sa.Column("timestamp", sa.BigInteger, primary_key=True),
    sa.Column("series_id", sa.Integer, primary_key=True),
    sa.Column("key", sa.BigInteger, primary_key=True),
    sa.Column("received", sa.BigInteger, nullable=False),
    sa.Column("side", sa.SmallInteger, nullable=False),
    sa.Column("price", sa.Double, nullable=False),
    sa.Column("amount", sa.Double, nullable=False),
    sa.Column("value_usd", sa.Double, nullable=False),
    sa.Column("known", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
# Few events are late, and each reader asks for all of them.
LATE = EVENT.c.known > sa.literal_column("0")
_LATE_KNOWN = sa.Index("liq_late", EVENT.c.known, sqlite_where=LATE)
LATE_OF = sa.Index("liq_late_of", EVENT.c.series_id, EVENT.c.timestamp, sqlite_where=LATE)
BAR = sa.Table(
    "liq_bar",
    metadata,
    sa.Column("series_id", sa.Integer, primary_key=True),
    sa.Column("timestamp", sa.BigInteger, primary_key=True, index=True),
    *(
        sa.Column(name, sa.Double, nullable=False)
        for name in ("long", "short", "long_count", "short_count", "long_squares", "short_squares")
    ),
    sqlite_with_rowid=False,
)
FEED_COVERAGE = sa.Table(
    "liq_feed_coverage",
    metadata,
    sa.Column("feed_id", sa.ForeignKey(FEED.c.id), primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("known", sa.BigInteger, nullable=False),
)
GAP = sa.Table(
    "liq_gap",
    metadata,
    sa.Column("feed_id", sa.ForeignKey(FEED.c.id), primary_key=True),
    sa.Column("start", sa.BigInteger, primary_key=True),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.String(32), nullable=False),
)


def for_postgresql() -> None:
    """Let the indexes of late events hold no others in PostgreSQL, either.

    To say so at once would load what SQLAlchemy has for PostgreSQL, a third of what it takes to
    import us, for those who use SQLite, too.
    """
    for index in (_LATE_KNOWN, LATE_OF):
        index.dialect_options["postgresql"]["where"] = LATE
