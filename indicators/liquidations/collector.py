"""The live loop: all feeds, one writer, one transaction for whatever has come meanwhile. Floor 3.

The only part of the program with websockets. Messages are read in the loop's thread as they come;
a second thread writes, so that a slow disk or a lost database keeps no connection waiting. While
it writes, the next batch gathers: batches are as large as the load asks for.

Minutes are sealed when every event before their end must have arrived, at the latest ``settle``
after it: see ``rows.py``.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

import ccxt
import numpy as np

from liquidations.client import raw_client
from liquidations.compaction import Moved, compact
from liquidations.database import PATIENCE
from liquidations.errors import LiquidationsError
from liquidations.event import DAY, MINUTE, SIMULATED, Events
from liquidations.exchanges import adapter
from liquidations.exchanges.frames import Adapter, Contract, Order, order_events
from liquidations.feed import JUMP, Clock, LiveFeed, Work
from liquidations.fill import BEHIND, FILLED, REACH, fill
from liquidations.markets import hyperliquid_vaults
from liquidations.pairs import base_of, match
from liquidations.rows import GONE, Feed
from liquidations.settings import Settings
from liquidations.silence import MEMORY, why_dead
from liquidations.store import Store
from liquidations.writer import Writer


logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A minute is sealed so long (ms) before the settle time is over, and written so long before.
SEAL_EARLY, WRITE_EARLY = 200, 50

#: Orders that wait for a database that can't be written; more are lost, and their time with them.
MOST_WAITING = 2_000_000

HOUR = 3_600_000

#: Orders of a feed that one transaction writes; what says that they are complete comes last.
MOST_AT_ONCE = 50_000

#: Between two transactions (s): what comes within shares one.
GATHER = 0.01

#: So long (s) the end waits for what is still to be written.
LAST = 1.2

#: How often (s) feeds are looked after, and (s) markets are loaded again for a contract not known.
LOOK, RELOAD = 1.0, 600.0

#: How often (s) old rows are packed, the share of time that this may take, and the seconds around a
#: minute's end in which it rests, because bots wait then for what is written.
PACK, PACK_SHARE, PACK_REST = 3600.0, 0.5, (-1.0, 4.0)

#: How often (s) markets are loaded where a new contract does not tell of itself.
REFRESH = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Say what to collect.

    ``bases`` are base assets, which one contract of each exchange stands for, or None for the whole
    market. ``ccxt_config`` is what each exchange's client is given. On ``standby`` an exchange is
    left to another collector of the same store, as long as that one writes.
    """

    settings: Settings
    bases: frozenset[str] | None
    ccxt_config: Mapping[str, Mapping[str, Any]]
    standby: bool = False


class Collector:
    """Collect what a plan says into a store, until stopped.

    Run it in a loop of its own: ``asyncio.run(collector.run())``. :meth:`stop` and :meth:`want` may
    be called from any thread.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.feeds: list[LiveFeed] = []
        self.store = Store(plan.settings.db_url, create=True, patience=PATIENCE)
        self._bases, self._exchanges = plan.bases, plan.settings.exchanges
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._something: asyncio.Event | None = None
        self._holding: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, dict[str, Contract]] = {}
        self._offsets: dict[str, int] = {}
        self._said: set[str] = set()
        self._clock = Clock()
        self._holder = uuid.uuid4().hex
        self._ready = threading.Event()
        #: Events written, late, and known before.
        self.written = self.late = self.repeated = 0

    def stop(self) -> None:
        """Ask the loop to write what it has and to end."""
        self._ready.wait(5)
        if self._stopping is not None:
            self._call(self._stopping.set)

    def want(self, bases: frozenset[str] | None, exchanges: Iterable[str]) -> None:
        """Collect these base assets (None = every contract) of these exchanges from now on."""
        self._bases, self._exchanges = bases, tuple(exchanges)
        self._call(self._extend)  # if the loop has not begun yet, it does so itself

    def _extend(self) -> None:
        for name in self._exchanges:
            if name not in self._holding:
                self._holding[name] = asyncio.create_task(self._keep(name))
        self._choose_all()

    def _call(self, function: Callable[[], object]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    async def run(self) -> None:
        """Collect until stopped or cancelled; what was received is written before the end."""
        self._loop = asyncio.get_running_loop()
        self._stopping, self._something = asyncio.Event(), asyncio.Event()
        self._ready.set()
        writer, self._aside, packer = (_Thread(name) for name in ("writer", "aside", "packer"))
        self._extend()
        looking = asyncio.create_task(self._look_after())
        packing = asyncio.create_task(self._keep_packing(packer))
        writing = asyncio.create_task(self._write(writer))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            # The others end by a mistake of ours only, which whoever runs this must see.
            done, _ = await asyncio.wait(
                (stopping, writing, looking, packing), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopping}:
                task.result()
        finally:
            self._stopping.set()
            tasks = [looking, packing, stopping, *self._holding.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for feed in self.feeds:
                feed.close()
            self._something.set()
            await asyncio.wait([writing], timeout=LAST)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            if left := sum(len(feed.work.orders) for feed in self.feeds):
                logger.error(f"{left} liquidations could not be written before the end")
            for thread in (writer, self._aside, packer):
                thread.close()
            self.store.close()

    # --- the exchanges ---

    async def _keep(self, name: str) -> None:
        """Hold an exchange's feeds, whatever happens to them."""
        while True:
            try:
                await self._exchange(name)
            except Exception as error:  # must not pass unseen, nor cost the other feeds
                text = f"{name}: its feeds failed, starting them again: {_brief(error)}"
                if text not in self._said:
                    logger.exception(text)
                self._said.add(text)
            gone = [feed for feed in self.feeds if feed.exchange == name]
            for feed in gone:
                feed.close()
            await asyncio.sleep(10 * LOOK)  # meanwhile what they had to say is written
            self.feeds = [feed for feed in self.feeds if feed not in gone]

    async def _exchange(self, name: str) -> None:
        """Load an exchange's markets, and hold its feeds."""
        read = adapter(name)
        feeds: dict[str, LiveFeed] = {}

        def on_text(connection: Any, data: str | bytes) -> None:
            if (feed := feeds.get(connection.url)) is not None:
                feed.receive(connection, data)

        settings = self.plan.settings
        client = raw_client(
            name, self.plan.ccxt_config.get(name, {}), on_text, inverse=settings.inverse
        )
        try:
            await self._load_markets(name, client, read)
            if self.plan.standby:
                await self._until_needed(name, read)
            names = await self._names(name, client, read)
            held = []
            for channel in self._channels(read):
                feed = LiveFeed(
                    name,
                    channel,
                    read,
                    client,
                    self._known[name],
                    self._chosen(name, channel, read),
                    names,
                    self._clock,
                    self._something.set,  # type: ignore[union-attr]
                )
                feed.offset = self._offsets[name]
                feeds[feed.url] = feed
                held.append(feed)
            await self._recall(held)
            self.feeds += held
            running = [asyncio.create_task(feed.run()) for feed in held]
            running += [
                asyncio.create_task(self._fill(name, client, feed, feed.covered)) for feed in held
            ]
            running.append(asyncio.create_task(self._relearn(name, client, read, held)))
            try:
                await asyncio.gather(*running)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        finally:
            await client.close()

    async def _until_needed(self, name: str, read: Adapter) -> None:
        """Wait while other collectors tell all contracts that are to be collected here."""

        def told() -> set[str]:
            now = self._clock.now()
            with self.store.read() as reader:
                members = reader.told()
                alive = {
                    feed.id
                    for feed in reader.feeds()
                    if feed.exchange == name and now - feed.updated < GONE
                }
                return {
                    one.pair
                    for one in reader.series()
                    if any(m.feed in alive and m.end > now for m in members.get(one.id, ()))
                }

        while True:
            symbols = set().union(*(self._chosen(name, one, read) for one in self._channels(read)))
            pairs = {self._known[name][symbol].pair for symbol in symbols}
            try:
                if not pairs <= await self._aside.do(told):
                    return
            except LiquidationsError as error:
                self._say(str(error))
            else:
                if pairs:  # else a strategy has not asked for any yet
                    text = "another collector writes to this store, it is read from there"
                    self._say(f"{name}: {text}")
            await asyncio.sleep(LOOK)

    def _channels(self, read: Adapter) -> list[str]:
        inverse = self.plan.settings.inverse
        return [channel for channel, inverted in read.CHANNELS.items() if inverse or not inverted]

    async def _load_markets(self, name: str, client: Any, read: Adapter) -> None:
        async def load() -> dict[str, Contract]:
            await client.load_markets(True)
            self._offsets[name] = self._offset(client)
            return read.contracts(client.markets.values())

        self._known[name] = await self._answered(f"{name}: its markets can't be loaded", load)

    def _offset(self, client: Any) -> int:
        """Measure by how much (ms) the exchange's clock is ahead of ours, from its last answer.

        HTTP tells it to the second, so what is less than ``JUMP`` may be nothing.
        """
        told = (client.last_response_headers or {}).get("Date")
        if told is None:
            return 0
        ahead = int(parsedate_to_datetime(told).timestamp() * 1000) + 500 - self._clock.now()
        return ahead if abs(ahead) > JUMP else 0

    async def _answered(self, trouble: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask an exchange until it answers."""
        pause = 1.0
        while True:
            try:
                return await ask()
            except (ccxt.BaseError, LiquidationsError) as error:
                self._say(f"{trouble}, trying again: {_brief(error)}")
                await asyncio.sleep(pause)
                pause = min(20.0, 2 * pause)

    async def _names(self, name: str, client: Any, read: Adapter) -> Sequence[str] | None:
        """Return what is subscribed to by name: None = symbols, nothing = the whole market."""
        if read.NAMES == "users":
            return await self._answered(
                f"{name}: its vaults are not known", lambda: hyperliquid_vaults(client)
            )
        return None if read.NAMES == "symbols" else ()

    def _chosen(self, name: str, channel: str, read: Adapter) -> set[str]:
        """Choose the symbols of a channel: as in a strategy, one linear contract for each base."""
        inverse = self.plan.settings.inverse
        several = len(read.CHANNELS) > 1
        mine = {
            symbol: contract.pair
            for symbol, contract in self._known[name].items()
            if (contract.inverse == read.CHANNELS[channel] if several else True)
            and (inverse or not contract.inverse)
        }
        if self._bases is None:
            return set(mine)
        by_base: dict[str, list[str]] = {}
        for pair in mine.values():
            by_base.setdefault(base_of(pair), []).append(pair)
        pairs = {
            pair
            for base in self._bases
            for pair in match(f"{base}/USDT:USDT", by_base.get(base, ()), inverse=inverse)
        }
        return {symbol for symbol, pair in mine.items() if pair in pairs}

    def _choose_all(self) -> None:
        for feed in self.feeds:
            feed.choose(self._chosen(feed.exchange, feed.channel, feed.adapter))

    async def _relearn(
        self, name: str, client: Any, read: Adapter, feeds: Sequence[LiveFeed]
    ) -> None:
        """Load the markets again when an order of a contract came that is not known.

        Where each contract is subscribed to by name, none comes: there it is done now and then.
        """
        loaded = time.monotonic()
        while True:
            await asyncio.sleep(LOOK)
            due = read.NAMES == "symbols" and time.monotonic() - loaded > REFRESH
            if due or any(feed.unknown for feed in feeds):
                loaded = time.monotonic()
                await self._load_markets(name, client, read)
                for feed in feeds:
                    chosen = self._chosen(name, feed.channel, read)
                    feed.learn(self._known[name], chosen, client.markets_by_id)
                await asyncio.sleep(RELOAD)

    async def _recall(self, feeds: Sequence[LiveFeed]) -> None:
        """Tell new feeds until when the store says they listened, and how busy they usually are."""

        def read() -> None:
            with self.store.write() as writer:
                rows = [self._row(writer, feed) for feed in feeds]
            with self.store.read() as reader:
                for feed, row in zip(feeds, rows, strict=True):
                    feed.covered = reader.listened_until(row)
                    others = [one for one in reader.feeds() if one.exchange == feed.exchange]
                    feed.read = max(other.sealed for other in others)
                    for minute, events in reader.minutes(row, self._clock.now() - MEMORY):
                        feed.activity.add(minute, events)

        while True:
            try:
                return await self._aside.do(read)
            except LiquidationsError as error:
                self._say(str(error))
                await asyncio.sleep(LOOK)

    def _row(self, writer: Writer, feed: LiveFeed) -> Feed:
        """Return the row of a feed: its own one, or one that nobody else writes."""
        names = feed.exchange, feed.channel, self._source(feed.exchange)
        row = writer.claim(*names, self._holder, self._clock.now())
        if feed.row is not None and row.id != feed.row:
            # Another collector took it over, because this one could not write for too long.
            logger.warning(f"{feed.name}: another collector took over, both go on")
            # What the row told before ends where that ended, and gets nothing of ours.
            writer.join(row, feed.pairs, writer.covered_until(row) or 0)
        feed.row = row.id
        return row

    async def _fill(self, name: str, client: Any, feed: LiveFeed, before: int | None) -> None:
        """Bring what the exchange still has: of the time before, and then of each gap.

        :param before: until when the feed was told by an earlier collector
        """
        if name not in FILLED:
            return
        hole = self._clock.now()
        if before is not None and (not self.plan.standby or before < feed.read):
            hole = before  # a gap like any other: bots may have read its candles
        else:
            since = max(before or 0, feed.read) or None
            since = None if since is None else max(since, hole - REACH)
            if parts := await self._ask_for(client, feed, since or 0):
                hole -= BEHIND
                await self._aside.do(partial(self._insert, name, parts, since, hole))
        while True:
            start, end = await feed.resumed(hole)
            await asyncio.sleep(BEHIND / 1000 + 5)
            start = max(start, self._clock.now() - REACH)
            if start < end and (parts := await self._ask_for(client, feed, start)):
                feed.fill(parts, start, end)
            hole = end

    async def _ask_for(self, client: Any, feed: LiveFeed, since: int) -> dict[str, Events]:
        try:
            return await fill(feed.exchange, client, feed.contracts, feed.pairs, since)
        except (ccxt.BaseError, LiquidationsError) as error:
            self._say(f"{feed.name}: the time before could not be filled: {_brief(error)}")
            return {}

    def _insert(
        self, name: str, parts: Mapping[str, Events], since: int | None, until: int
    ) -> None:
        """Store what happened while nobody listened, and so no bot was running here.

        :param since: from when it is complete; None: from the oldest order
        """
        new = 0
        try:
            with self.store.write() as writer:
                for pair, events in parts.items():
                    start = events.timestamp[0] if since is None and len(events) else since
                    span = np.array([[until if start is None else min(start, until), until]])
                    done = writer.insert(name, pair, self._source(name), events, span)
                    new += done.new
            logger.info(f"{name}: {new} liquidations of the time before filled in")
        except LiquidationsError as error:
            self._say(str(error))

    def _source(self, exchange: str) -> str:
        return SIMULATED if self.plan.settings.simulated else exchange

    # --- looking after the feeds ---

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            if step := self._clock.follow():
                for feed in self.feeds:
                    feed.jumped(step)
            if await self._aside.do(self.store.replaced):
                await self._make_anew()
            for feed in self.feeds:
                since, now = feed.silent_since(), feed.moment()
                if since is None:
                    continue
                others = [
                    other for other in self.feeds if other.live and other.exchange != feed.exchange
                ]
                published = sum(other.activity.between(since, now) for other in others)
                activities = [other.activity for other in others]
                why = why_dead(feed.activity, activities, since, now, published)
                if why is not None:
                    feed.dead(why)

    async def _make_anew(self) -> None:
        """Make a store in the place of one whose file is gone; as long as that fails, try again."""
        self._say(f"the store {self.store.shown} is gone or another; it is made anew")
        try:
            made = await self._aside.do(
                partial(Store, self.plan.settings.db_url, create=True, patience=PATIENCE)
            )
        except LiquidationsError as error:
            self._say(str(error))
            return
        self._said.clear()
        old, self.store = self.store, made
        old.close()
        for feed in self.feeds:
            feed.row, feed.anew = None, feed.moment()
            feed.work.members.append((feed.pairs, feed.moment()))

    async def _keep_packing(self, packer: _Thread) -> None:
        """Pack what is old, now and then, while the feeds go on."""
        settings = self.plan.settings
        while True:
            await asyncio.sleep(PACK / 60)  # a start has other things to do
            done, failed = Moved(), False
            now = self._clock.now()
            keep = settings.keep_events
            steps = compact(
                self.store,
                int(now - settings.compact_after * HOUR) // HOUR * HOUR,
                keep=None if keep is None else int(now - keep * DAY),
            )
            try:
                while self.feeds and (moved := await self._step(packer, steps)) is not None:
                    done += moved
            except LiquidationsError as error:
                failed = True
                self._say(f"old liquidations are not packed now, it is tried again: {error}")
            if done != Moved():
                dropped = f", dropped {done.dropped:,} old ones" if done.dropped else ""
                logger.info(f"packed {done.events:,} liquidations{dropped}")
            await asyncio.sleep(0 if failed else PACK - PACK / 60)

    async def _step(self, packer: _Thread, steps: Iterator[Moved]) -> Moved | None:
        """Do one step when nobody waits for the database; None at the end."""
        begin, end = PACK_REST
        into = self._clock.now() % MINUTE / 1000
        if into < end or into > MINUTE / 1000 + begin:
            await asyncio.sleep(end - begin)
        since = time.monotonic()
        moved = await packer.do(lambda: next(steps, None))
        await asyncio.sleep((time.monotonic() - since) * (1 / PACK_SHARE - 1))
        return moved

    # --- writing ---

    async def _write(self, writer: _Thread) -> None:
        assert self._stopping is not None
        assert self._something is not None
        settle = int(self.plan.settings.settle * 1000) - SEAL_EARLY
        while True:
            last = self._stopping.is_set() and all(feed.closed for feed in self.feeds)
            works = [(feed, feed.take(settle)) for feed in self.feeds]
            works = [(feed, work) for feed, work in works if work]
            if works:
                try:
                    for feed, work in works:
                        # After an hour without the database it must not be asked for all at once.
                        while len(work.orders) > MOST_AT_ONCE:
                            part = Work(orders=work.orders[:MOST_AT_ONCE])
                            await writer.do(partial(self._commit, [(feed, part)]))
                            del work.orders[:MOST_AT_ONCE]
                    await writer.do(partial(self._commit, works))
                except asyncio.CancelledError:
                    for feed, work in works:
                        feed.give_back(work)
                    raise
                except LiquidationsError as error:
                    self._say(str(error))
                    for feed, work in works:
                        feed.give_back(work)
                    self._bound()
                    await asyncio.sleep(1.0)
                    continue
            if last:
                return
            self._something.clear()
            if not works:
                try:
                    await asyncio.wait_for(self._something.wait(), 0.05)
                except TimeoutError:
                    continue
            await asyncio.sleep(GATHER)

    def _bound(self) -> None:
        """Give up the oldest orders of a feed whose database is gone for too long."""
        for feed in self.feeds:
            if len(feed.work.orders) > MOST_WAITING:
                feed.lose(len(feed.work.orders) - MOST_WAITING)

    def _commit(self, works: Sequence[tuple[LiveFeed, Work]]) -> None:
        """Write in one transaction; runs in the writer's thread."""
        done, late, repeated = 0, 0, 0
        with self.store.write() as writer:
            # Always in one order, so that two collectors do not wait for each other.
            for feed, work in sorted(works, key=lambda one: one[0].name):
                row = self._row(writer, feed)
                # A minute whose bots have read it by now is sealed, whether we were in time or not.
                if feed.exchange_time() is not None:
                    read = int(self.plan.settings.settle * 1000) - WRITE_EARLY
                    due = (feed.clock() - read) // MINUTE * MINUTE
                    row = replace(row, sealed=max(row.sealed, due))
                known = row.sealed + MINUTE
                for pairs, start in work.members:
                    writer.join(row, pairs, start)
                batches = [self._events(feed, work.orders)] if work.orders else []
                for events in (*batches, *(part for part, _ in work.filled)):
                    late += sum(int((own.timestamp < row.sealed).sum()) for own in events.values())
                    row, new = writer.append(row, events, known)
                    done, repeated = done + new.new, repeated + new.known
                spans = [(max(start, feed.anew), end) for start, end in work.spans]
                for start, end in (*spans, *(span for _, span in work.filled)):
                    row = writer.cover(row, start, min(end, row.sealed), known)
                    row = writer.cover(row, max(start, row.sealed), end)
                for start, end in work.revoked:
                    row = writer.revoke(row, start, end)
                for start, end, reason in work.gaps:
                    writer.gap(row, start, end, reason)
                writer.seal(row, work.seal or row.sealed, 0 if feed.closed else self._clock.now())
        self.written, self.late, self.repeated = (
            self.written + done,
            self.late + late,
            self.repeated + repeated,
        )

    def _events(self, feed: LiveFeed, rows: Sequence[tuple[Order, int, int]]) -> dict[str, Events]:
        orders, received, ranks = zip(*rows, strict=True)
        try:
            return order_events(orders, feed.contracts, received, ranks)
        except LiquidationsError as error:
            # One order that no liquidation can be must not cost the others.
            if len(rows) == 1:
                feed.problem(str(error), repr(orders[0]))
                return {}
            half = len(rows) // 2
            parts = [self._events(feed, part) for part in (rows[:half], rows[half:])]
            return {
                pair: Events.concat([part[pair] for part in parts if pair in part])
                for pair in parts[0].keys() | parts[1].keys()
            }

    def _say(self, text: str) -> None:
        """Log a trouble once."""
        if text not in self._said:
            self._said.add(text)
            logger.warning(text)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _Thread:
    """Run functions one after the other in a daemon thread.

    An executor would do, but the interpreter joins its threads before our own end can be told.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]
        self._queue = queue.SimpleQueue()
        threading.Thread(target=self._run, name=f"liquidations {name}", daemon=True).start()

    async def do(self, function: Callable[[], T]) -> T:
        """Run a function in the thread and wait for what it returns."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((function, future))
        return await future

    def close(self) -> None:
        """End the thread after what it does now."""
        self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            function, future = item
            result, error = None, None
            try:
                result = function()
            except Exception as caught:  # handed to who waits for it
                error = caught
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def bases_of(pairs: Iterable[str]) -> frozenset[str]:
    """Return the base assets of pairs."""
    return frozenset(base_of(pair) for pair in pairs)
