"""docs/postgresql.md: every block of it is run on real servers, and the store used through it."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import postgres
import pytest
from conftest import REPOSITORY, bars_of, events_of, execute, spans, utc
from numpy.testing import assert_equal

from liquidations.errors import LiquidationsError
from liquidations.event import MINUTE
from liquidations.provider import LiquidationProvider
from liquidations.settings import Settings, read_settings
from liquidations.store import Store
from liquidations.view import LiveView


DOCUMENT = REPOSITORY / "docs" / "postgresql.md"
HOUR = 60 * MINUTE
PAIR = "BTC/USDT:USDT"
PASSWORDS = {"liq_owner": "change-me-1", "liq_collector": "change-me-2", "liq_bot": "change-me-3"}

# Two events at the edges of June 2024, and one in each month beside it.
EVENTS = events_of(
    ("2024-05-31 23:59:59.999", "long", 1.0),
    ("2024-06-01 00:00", "short", 2.0),
    ("2024-06-30 23:59:59.999", "long", 4.0),
    ("2024-07-01 00:00", "long", 8.0),
)
OBSERVED = spans(("2024-05-31", "2024-07-02"))
VENDOR = bars_of(("2024-06-15 03:00", 16.0, 32.0), ("2024-07-01 05:00", 64.0, 0.0))


def sections() -> dict[str, list[tuple[str, str]]]:
    """Return the (language, text) of all blocks by the title of their section."""
    parts = re.split(r"^## (.+)$", DOCUMENT.read_text(), flags=re.MULTILINE)
    found = {
        title: re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {title: blocks for title, blocks in found.items() if blocks}


class Site:
    """Be the host of the document: a server, its folders and what stands for them in the text."""

    def __init__(self, server: postgres.Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.tls = server.sql("SHOW ssl_library") != ""
        self.names = {
            "db.example.org:5432": f"localhost:{server.port}",
            "host=db.example.org port=5432": f"host=localhost port={server.port}",
            "-h db.example.org -p 5432": f"-h localhost -p {server.port}",
            "db.example.org": "localhost",
            "10.0.0.0/8": "127.0.0.1/32",
        }

    def block(self, title: str, number: int) -> tuple[str, str]:
        """Return a block with this machine's names in place of the document's."""
        language, text = sections()[title][number]
        for theirs, ours in self.names.items():
            text = text.replace(theirs, ours)
        return language, text

    def run(self, title: str, number: int, user: str = "postgres", inside: bool = False) -> str:
        """Run a block: SQL as a user of the database, a shell's in our folder or as the server."""
        language, text = self.block(title, number)
        scripts = Path(sys.executable).parent
        env = self.server.environment
        env |= {"PATH": f"{scripts}{os.pathsep}{env['PATH']}", "PGUSER": user, "COLUMNS": "300"}
        env |= {"PGHOST": "localhost", "PGPASSWORD": PASSWORDS.get(user, "")}
        if language == "sql":
            database = "postgres" if "\\connect" in text else "liquidations"
            words = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]
        else:
            assert language == "sh"
            del env["PGPASSWORD"]
            words = ["bash", "-euo", "pipefail"]
        done = subprocess.run(
            words, input=text, cwd="/" if inside else self.folder, env=env, text=True,
            capture_output=True, timeout=60, check=False,
            **(postgres.unprivileged() if inside else {}),
        )  # fmt: skip
        assert done.returncode == 0, f"{title}, {number}: {done.stdout}{done.stderr}"
        return (done.stdout + done.stderr).strip()

    def url(self, role: str, query: str = "", host: str = "localhost") -> str:
        end = f"?{query}" if query else ""
        place = f"{host}:{self.server.port}/liquidations"
        return f"postgresql+psycopg://{role}:{PASSWORDS[role]}@{place}{end}"

    def let_in(self) -> None:
        """Take the document's rules of who may connect; without TLS where there is none."""
        _, rules = self.block("TLS", 2)
        self.server.accounts(rules.replace("hostssl", "host"))

    def sql(self, text: str) -> str:
        return self.server.sql(text, "liquidations")


Made = Callable[..., Site]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Return a function that sets up a server as the document says."""
    with ExitStack() as stack:

        def make(tables: bool = True) -> Site:
            try:
                server = postgres.Server(settings={"fsync": "off"})
            except postgres.NoServerError as error:
                pytest.skip(str(error))
            site = Site(stack.enter_context(server).start(), tmp_path)
            site.run("Roles", 0)
            site.let_in()
            if tables:  # as the document's commands do, which take longer
                Store(site.url("liq_owner"), create=True).close()
            return site

        yield make


def fill(db_url: str) -> None:
    with Store(db_url) as store, store.write() as writer:
        writer.insert("okx", PAIR, "okx", EVENTS, OBSERVED)
        writer.insert("binance", PAIR, "coinalyze", VENDOR, OBSERVED, period=HOUR)


def columns(db_url: str) -> dict[str, bytes]:
    """Return the columns of all hours, to the bit."""
    opens = np.arange(OBSERVED[0, 0], OBSERVED[0, 1], HOUR)
    with closing(LiquidationProvider(db_url)) as provider:
        settings = Settings(db_url, ("okx", "binance"))
        table, _ = provider.columns(PAIR, opens, "1h", settings)
    return {name: values.tobytes() for name, values in table.items()}


def events_in(db_url: str) -> list[float]:
    with Store(db_url) as store, store.read() as reader:
        (series,) = (one for one in reader.series() if one.exchange == "okx")
        return reader.events(series, utc("2020-01-01"), 2**62).value_usd.tolist()


def feed_at(store: Store, now: int, sealed: int, *usd: float) -> None:
    """Let a collector write events of the last second, and seal."""
    with store.write() as writer:
        feed = writer.feed("okx", "swap", "okx")
        writer.join(feed, [PAIR], now - HOUR)
        rows = events_of(*((now - 1_000 + n, "long", value) for n, value in enumerate(usd)))
        feed, _ = writer.append(feed, {PAIR: rows}, feed.sealed + MINUTE)
        writer.seal(feed, sealed, now)


def tell_minute(store: Store, end: int, usd: float) -> None:
    """Let a collector write an event of a minute, which it observed as all of the hour before."""
    with store.write() as writer:
        feed = writer.feed("okx", "swap", "okx")
        writer.join(feed, [PAIR], end - HOUR)
        feed, _ = writer.append(feed, {PAIR: events_of((end - 1_000, "long", usd))}, 0)
        feed = writer.cover(feed, max(end - HOUR, writer.covered_until(feed) or 0), end)
        writer.seal(feed, end, now_ms())


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# --- the document ---------------------------------------------------------------------------------


def test_each_section_with_blocks_is_run_here():
    source = inspect.getsource(sys.modules[__name__])
    for title, blocks in sections().items():
        for number in range(len(blocks)):
            assert re.search(rf'"{title}", {number}\b', source), f"{title}, block {number}"


def test_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", DOCUMENT.read_text()):
        assert "://" in target or (DOCUMENT.parent / target).exists(), target


# --- roles ----------------------------------------------------------------------------------------


def test_a_collector_writes_and_a_bot_reads_and_neither_may_do_more(
    made, sqlite_url, tmp_path, caplog
):  # fmt: skip
    site = made(tables=False)
    (tmp_path / "user_data").mkdir()
    assert site.run("Roles", 1).endswith("made")
    collector, bot = site.url("liq_collector"), site.url("liq_bot")
    fill(collector)
    with Store(sqlite_url, create=True):
        fill(sqlite_url)
    assert columns(bot) == columns(sqlite_url)
    with pytest.raises(LiquidationsError, match="permission denied for table"):
        fill(bot)
    for url in (collector, bot):
        with pytest.raises(Exception, match=r"must be owner of|permission denied"):
            execute(url, "DROP TABLE liq_event")
        with pytest.raises(Exception, match="permission denied for schema"):
            execute(url, "CREATE TABLE mine (id integer)")
    with pytest.raises(LiquidationsError, match="password authentication failed") as refused:
        Store(bot.replace("change-me-3", "not-it-at-all"))
    assert "not-it-at-all" not in str(refused.value)
    # A bot that may only read can't close a minute, says so once, and goes on …
    now = now_ms()
    with Store(collector) as writes, Store(bot) as reads:
        feed_at(writes, now, now - MINUTE, 5.0)
        for _ in range(2):
            view = LiveView(lambda: reads)
            view.until(now, ("okx",), 0.3)
            (series,) = (one for one in view.series() if one.exchange == "okx")
            assert view.source(series, now - HOUR, now).bars.long.sum() == 5.0
        assert caplog.text.count("permission denied for table liq_feed") == 2  # one a view
        # … until it is given this one right.
        site.run("Roles", 2, "liq_owner")
        LiveView(lambda: reads).until(now, ("okx",), 0.3)
        with reads.read() as reader:
            assert [feed.sealed for feed in reader.feeds()] == [now]


# --- TLS ------------------------------------------------------------------------------------------


def test_a_connection_is_encrypted_and_the_server_known(made, tmp_path):
    site = made()
    if not site.tls:
        pytest.skip("this PostgreSQL was built without TLS: apt install postgresql")
    site.run("TLS", 0)
    keys = tmp_path / "tls"
    keys.mkdir()
    for name in ("server.crt", "server.key"):
        shutil.copy(tmp_path / name, site.server.home / name)
        if user := postgres.unprivileged():
            os.chown(site.server.home / name, user["user"], user["group"])
    site.names["/etc/postgresql/tls"] = str(site.server.home)
    site.names["/etc/ssl/liquidations"] = str(tmp_path)
    site.run("TLS", 1)
    site.server.accounts(site.block("TLS", 2)[1])
    _, text = site.block("TLS", 3)
    config = {"exchange": {"name": "okx"}, **json.loads("{" + text + "}")}
    settings = read_settings(config)
    assert settings.db_url.startswith(site.url("liq_bot"))
    assert not settings.collect
    authority = tmp_path / "ca.crt"
    trusted = f"sslmode=verify-full&sslrootcert={authority}"
    end = time.monotonic() + 10
    while site.server.sql("SHOW ssl") != "on":
        assert time.monotonic() < end
    fill(site.url("liq_collector", trusted))
    assert sum(events_in(settings.db_url)) == 15.0
    (row,) = execute(
        settings.db_url, "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    )
    assert row[0] is True
    assert row[1] >= "TLSv1.2"
    # Not encrypted; a server of another authority; one of another name.
    with pytest.raises(LiquidationsError, match="no encryption"):
        Store(site.url("liq_bot", "sslmode=disable"))
    (tmp_path / "other").mkdir()
    other = Site(site.server, tmp_path / "other")
    other.run("TLS", 0)
    unknown = f"sslmode=verify-full&sslrootcert={tmp_path / 'other' / 'ca.crt'}"
    with pytest.raises(LiquidationsError, match="certificate verify failed"):
        Store(site.url("liq_bot", unknown))
    with pytest.raises(LiquidationsError, match="does not match host name"):
        Store(site.url("liq_bot", trusted, host="127.0.0.1"))


# --- replicas and failover ------------------------------------------------------------------------


def test_bots_read_from_a_replica_and_collectors_survive_the_primary(made, tmp_path, caplog):
    site = made()
    primary = site.server
    fill(site.url("liq_collector"))
    site.run("Replicas", 0)
    home = postgres.new_folder()
    site.names["/var/lib/postgresql/replica"] = str(home / "data")
    site.run("Replicas", 1, inside=True)
    follower = postgres.Server(
        folder=home, settings={"fsync": "off", "hot_standby_feedback": "on"}
    )  # fmt: skip
    with follower:
        follower.start()
        primary.wait_for(follower)
        sent = "SELECT application_name, slot_name FROM pg_stat_replication, pg_replication_slots"
        assert primary.sql(sent) == "replica1|replica1"
        site.names = {"replica.example.org:5432": f"localhost:{follower.port}"} | site.names
        bot = site.block("Replicas", 2)[1].strip()
        collector = site.block("Failover", 0)[1].strip()
        assert execute(bot, "SELECT pg_is_in_recovery()") == [(True,)]
        assert execute(collector, "SELECT pg_is_in_recovery()") == [(False,)]
        assert columns(bot) == columns(site.url("liq_bot"))
        site_of_replica = Site(follower, tmp_path)

        # What lag means: nothing is sent for a while.
        with Store(collector) as writes:
            now = now_ms() // MINUTE * MINUTE
            tell_minute(writes, now - MINUTE, 3.0)
            primary.wait_for(follower)
            assert site_of_replica.run("Replicas", 3).startswith("00:00:0")
            follower.sql("SELECT pg_wal_replay_pause()")
            tell_minute(writes, now, 6.0)
            provider, asked = LiquidationProvider(bot), Settings(bot, ("okx",), settle=0.5)
            minutes = np.arange(now - HOUR, now, MINUTE)
            found, _ = provider.columns(PAIR, minutes, "1m", asked, live=True)
            assert_equal(found["liq_long"][-3:], [0.0, 3.0, np.nan])
            # Not 3, of which a backtest will know more.
            found, _ = provider.columns(PAIR, minutes[:1], "1h", asked, live=True)
            assert_equal(found["liq_long"], [np.nan])
            assert caplog.text.count("a candle that is not complete can't be closed") == 1
            assert re.search("read-only transaction|during recovery", caplog.text)
            follower.sql("SELECT pg_wal_replay_resume()")
            primary.wait_for(follower)
            found, _ = provider.columns(PAIR, minutes + MINUTE, "1m", asked, live=True)
            assert_equal(found["liq_long"][-4:], [0.0, 3.0, 6.0, np.nan])
            provider.close()
            assert sum(events_in(bot)) == 15.0 + 9.0

            # The primary is gone, and the replica takes its place.
            primary.wait_for(follower)
            primary.kill()
            with pytest.raises(LiquidationsError, match=re.escape(writes.shown)):
                feed_at(writes, now, now, 3.0, 6.0, 12.0)
            site_of_replica.run("Failover", 1)
            feed_at(writes, now, now, 3.0, 6.0, 12.0)
            assert sum(events_in(bot)) == 15.0 + 9.0 + 21.0

        # A commit that waits for a replica that is not there is given up, not waited for.
        site_of_replica.run("Failover", 2)
        assert follower.sql("SHOW synchronous_standby_names") == "ANY 1 (replica1, replica2)"
        with Store(collector, patience=1.0) as hurried:
            before = time.monotonic()
            with pytest.raises(LiquidationsError):
                feed_at(hurried, now, now, 24.0)
            assert time.monotonic() - before < 10


# --- partitions -----------------------------------------------------------------------------------


def partitions_of(site: Site) -> dict[str, int]:
    """Return the rows of each partition that has some."""
    rows = site.sql(
        "SELECT tableoid::regclass, count(*) FROM liq_segment GROUP BY 1 ORDER BY 1"
    ).splitlines()
    return {name: int(count) for name, count in (row.split("|") for row in rows)}


def test_a_partitioned_store_holds_the_rows_by_month_and_gives_the_same_columns(made, sqlite_url):
    site = made()
    collector, bot = site.url("liq_collector"), site.url("liq_bot")
    with Store(sqlite_url, create=True):
        fill(sqlite_url)
    fill(collector)
    with Store(collector) as store:
        mark = store.fingerprint()
    site.run("Partitions by month", 0, "liq_owner")
    # Days of events: 31 May, 1 June, 30 June, 1 July. Bars: of minutes and of hours.
    assert partitions_of(site) == {
        "liq_segment_2024_05": 1,
        "liq_segment_2024_06": 2,
        "liq_segment_2024_07": 1,
        "liq_segment_bars": 2,
    }
    with Store(bot) as store:
        assert store.fingerprint() == mark
    assert columns(bot) == columns(sqlite_url)
    # Roles keep their rights, and writing goes on: what is known, new days, and removal.
    with Store(collector) as store, store.write() as writer:
        assert writer.insert("okx", PAIR, "okx", EVENTS, OBSERVED).known == 4
        more = events_of(("2024-06-10", "short", 9.0), ("2019-06-10", "long", 1.0))
        assert writer.insert("okx", PAIR, "okx", more, spans()).new == 2
    with Store(sqlite_url) as store, store.write() as writer:
        writer.insert("okx", PAIR, "okx", more, spans())
    assert columns(bot) == columns(sqlite_url)
    assert partitions_of(site)["liq_segment_2024_06"] == 3
    assert partitions_of(site)["liq_segment_rest"] == 1
    with pytest.raises(LiquidationsError, match="permission denied"):
        fill(bot)
    # A question of some days touches their month only.
    asked = (
        "EXPLAIN (COSTS off) SELECT data FROM liq_segment WHERE series_id = 1 AND period = 0 "
        f"AND start > {utc('2024-06-05')} AND start < {utc('2024-06-20')}"
    )
    assert set(re.findall(r"liq_segment\w+", site.sql(asked))) <= {
        "liq_segment_2024_06", "liq_segment_2024_06_pkey",
    }  # fmt: skip
    # Months ahead: the year after the next one comes when it is time.
    newest = "SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhrelid::regclass::text"
    newest += " LIKE 'liq_segment_2%'"
    last = site.sql(newest)
    site.sql(f"DROP TABLE {last}")
    site.run("Partitions by month", 1)
    assert site.sql(newest) == last
    with Store(collector) as store, store.write() as writer:
        writer.remove("okx", PAIR, "okx")


# --- months on another server ---------------------------------------------------------------------


def test_a_month_on_another_server_is_read_as_before_and_never_written(made, sqlite_url):
    site = made()
    if (
        site.server.sql("SELECT count(*) FROM pg_available_extensions WHERE name='postgres_fdw'")
        != "1"
    ):
        pytest.skip("this PostgreSQL has no postgres_fdw: apt install postgresql")
    collector, bot = site.url("liq_collector"), site.url("liq_bot")
    with Store(sqlite_url, create=True):
        fill(sqlite_url)
    fill(collector)
    site.run("Partitions by month", 0, "liq_owner")
    with postgres.Server(settings={"fsync": "off"}) as second:
        second.start().create("liquidations")
        archive = Site(second, site.folder)
        archive.run("Months on another server", 0)
        second.accounts("host liquidations liq_archive 127.0.0.1/32 scram-sha-256")
        site.names = {
            "host=archive.example.org port=5432": f"host=localhost port={second.port}",
            "host 'archive.example.org', port '5432'": f"host 'localhost', port '{second.port}'",
        } | site.names
        # Without a copy nothing happens.
        with pytest.raises(AssertionError, match="the copy of the month differs"):
            site.run("Months on another server", 2)
        assert columns(bot) == columns(sqlite_url)
        site.sql("DROP SERVER archive CASCADE")
        site.run("Months on another server", 1)
        site.run("Months on another server", 2)
        site.sql("DROP TABLE liq_segment_2024_06_moved")
        assert second.sql("SELECT count(*) FROM liq_segment_2024_06", "liquidations") == "2"
        assert columns(bot) == columns(sqlite_url)
        july = events_of(("2024-07-03 03:00", "long", 1.0))
        for url in (collector, sqlite_url):
            with Store(url) as store, store.write() as writer:
                assert writer.insert("okx", PAIR, "okx", EVENTS, OBSERVED).known == 4
                assert writer.insert("okx", PAIR, "okx", july, spans()).new == 1
        assert events_in(bot) == events_in(sqlite_url)
        june = events_of(("2024-06-30 03:00", "long", 1.0))
        refused = pytest.raises(LiquidationsError, match="permission denied for table liq_segment")
        with Store(collector) as store, refused, store.write() as writer:
            writer.insert("okx", PAIR, "okx", june, spans())
        assert second.sql("SELECT count(*) FROM liq_segment_2024_06", "liquidations") == "2"
        # The second server is away: old months fail, new ones do not.
        second.stop()
        with Store(bot) as store, store.read() as reader:
            (series,) = (one for one in reader.series() if one.exchange == "okx")
            young = reader.events(series, utc("2024-07-03"), utc("2024-07-04"))
            assert young.value_usd.tolist() == [1.0]
        with pytest.raises(LiquidationsError, match='could not connect to server "archive"'):
            events_in(bot)
        assert columns(bot) == columns(sqlite_url)


# --- backups --------------------------------------------------------------------------------------


def test_a_dump_and_a_base_backup_come_back(made, tmp_path):
    site = made()
    fill(site.url("liq_collector"))
    expected = columns(site.url("liq_bot"))
    site.run("Backups", 0)
    site.run("Backups", 1)
    assert columns(site.server.url("restored")) == expected
    backups = postgres.new_folder()
    try:
        site.names["/var/backups/wal"] = str(backups)
        site.run("Backups", 2)
        site.server.restart()
        home = postgres.new_folder()
        site.names["/var/backups/base"] = str(home / "data")
        site.run("Backups", 3, inside=True)
        with Store(site.url("liq_collector")) as store:
            now = now_ms()
            feed_at(store, now, now, 7.0)
        last = site.sql("SELECT pg_walfile_name(pg_switch_wal())")
        end = time.monotonic() + 20
        while not (backups / last).exists():
            assert time.monotonic() < end, "the log is not archived"
            time.sleep(0.02)
        restore = {"restore_command": f"cp {backups}/%f %p", "archive_mode": "off"}
        (home / "data" / "recovery.signal").touch()
        with postgres.Server(folder=home, settings={"fsync": "off", **restore}) as again:
            again.start()
            found = Site(again, tmp_path)
            end = time.monotonic() + 20
            while again.sql("SELECT pg_is_in_recovery()") != "f":
                assert time.monotonic() < end
                time.sleep(0.02)
            assert sum(events_in(found.url("liq_bot"))) == 15.0 + 7.0
    finally:
        shutil.rmtree(backups)


# --- poolers and sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_works_as_the_document_says(made, tmp_path, mode):
    site = made()
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("there is no pgbouncer: apt install pgbouncer")
    port = postgres.free_port()
    folder = postgres.new_folder()
    users = "".join(f'"{name}" "{word}"\n' for name, word in PASSWORDS.items())
    (folder / "users").write_text(users)
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\nliquidations = host=127.0.0.1 port={site.server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"pool_mode = {mode}\nauth_type = scram-sha-256\nauth_file = {folder}/users\n"
    )
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        log = stack.enter_context((tmp_path / "pgbouncer.log").open("w"))
        pooler = subprocess.Popen(
            [program, folder / "pgbouncer.ini"], cwd="/", stdout=log, stderr=log,
            **postgres.unprivileged(),
        )  # fmt: skip
        stack.callback(pooler.wait, 10)
        stack.callback(pooler.terminate)
        through = site.url("liq_collector").replace(f":{site.server.port}/", f":{port}/")
        end = time.monotonic() + 10
        while "process up" not in (tmp_path / "pgbouncer.log").read_text():
            assert time.monotonic() < end
            time.sleep(0.02)
        if mode == "transaction":
            through += "?prepare_threshold=none"
        fill(through)
        # The driver prepares what it asks for the sixth time, each on its own connection.
        with Store(through) as one, Store(through) as other:
            for _ in range(20):
                assert one.fingerprint() == other.fingerprint()
                assert sum(events_in(through)) == 15.0


def test_sizes_can_be_set_and_a_bot_takes_as_many_connections_as_it_says(made):
    site = made()
    fill(site.url("liq_collector"))
    site.run("Sizes", 0, "liq_owner")
    now = now_ms()
    asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'liq_bot'"
    with Store(site.url("liq_collector")) as writes, Store(site.url("liq_bot")) as reads:
        feed_at(writes, now, now, 5.0)
        view = LiveView(lambda: reads)
        view.until(now, ("okx",), 0.3)
        for series in view.series():
            view.source(series, now - HOUR, now)
        assert 1 <= int(site.server.sql(asked)) <= 2
