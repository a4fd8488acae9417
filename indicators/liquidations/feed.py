"""One live feed: the connection to one channel of an exchange, and what it has to tell. Floor 3.

A feed *covers* time while its subscription is acknowledged, its connection alive and its companion
ticking. The proof is the exchange's own time: everything that happened before the last tick, less
the exchange's delay in publishing, has arrived (the *watermark*). What a feed says goes to the
collector as :class:`Work`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ccxt
import orjson

from liquidations.errors import LiquidationsError, printable
from liquidations.event import DAY, MINUTE, Events
from liquidations.exchanges.frames import JITTER, Adapter, BadFrame, Contract, Frame, Order, Request
from liquidations.rows import BEAT
from liquidations.silence import Activity


logger = logging.getLogger(__name__)

#: Why a feed did not listen.
REASONS = ("start", "reconnect", "silence", "error", "clock")

#: A subscription must be acknowledged within this time (s).
ACKNOWLEDGE = 15.0

#: A peer without data is dead after three of its ticks, but within these bounds (s).
SILENT = (5.0, 25.0)

#: A process that did not look for so long (s) was stopped, or had no processor.
STARVED = 3.0

#: Connections in five minutes before a feed waits longer; Binance allows 300 to an IP.
PATIENCE = 30

#: Clocks that differ by more (ms) are reported, judged by the frames of so long a time (s).
CLOCK_OFF, JUDGE_CLOCK = 1_000, 60.0

#: A clock that steps by more (ms) has jumped; so long (s) after the first a second message says so.
JUMP, CONFIRM = 2_000, 0.5

#: Kinds of problems that are told apart, orders of unknown contracts that are kept.
_KINDS, _KEPT = 200, 1_000

#: Orders among which equal ones are counted; those of one millisecond arrive together.
_TWINS = 10_000


class Lost(Exception):
    """End a session, with one of ``REASONS`` and a text for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(slots=True)
class Work:
    """Hold what a feed has to write: orders as (order, received, rank), intervals in ms."""

    orders: list[tuple[Order, int, int]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    revoked: list[tuple[int, int]] = field(default_factory=list)
    gaps: list[tuple[int, int, str]] = field(default_factory=list)
    members: list[tuple[frozenset[str], int]] = field(default_factory=list)
    #: Events by pair that were asked for afterwards, and the interval in which they are complete.
    filled: list[tuple[dict[str, Events], tuple[int, int]]] = field(default_factory=list)
    seal: int | None = None
    #: Nothing, but the feed is alive.
    beat: bool = False

    def __bool__(self) -> bool:
        return any(bool(getattr(self, name)) for name in self.__slots__)

    def before(self, later: Work) -> Work:
        """Join with what came later."""
        lists = [name for name in self.__slots__ if name not in ("seal", "beat")]
        both = {name: getattr(self, name) + getattr(later, name) for name in lists}
        return Work(**both, seal=later.seal or self.seal, beat=True)


class Clock:
    """Tell our time in ms UTC; a jump of the system's clock does not reach it unseen."""

    def __init__(self) -> None:
        self._ahead = self._system()

    def _system(self) -> int:
        return time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000

    def now(self) -> int:
        """Return the time."""
        return time.monotonic_ns() // 1_000_000 + self._ahead

    def follow(self) -> int:
        """Follow the system's clock, and return by how much (ms) it has jumped, or 0."""
        ahead = self._system()
        step, self._ahead = ahead - self._ahead, ahead
        return step if abs(step) > JUMP else 0


class LiveFeed:
    """Keep one subscription alive, and gather what it says.

    :param exchange: ccxt id
    :param channel: one of the adapter's
    :param client: the exchange's ``client.raw_client``, with its markets loaded
    :param contracts: all perpetuals of the channel by symbol
    :param chosen: the symbols to collect
    :param names: what to subscribe to by name; empty where the channel is the whole market
    :param clock: tells our time
    :param wake: is called when there is something to write
    """

    def __init__(
        self,
        exchange: str,
        channel: str,
        adapter: Adapter,
        client: Any,
        contracts: Mapping[str, Contract],
        chosen: Iterable[str],
        names: Iterable[str] | None,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self.exchange, self.channel, self.adapter, self.client = exchange, channel, adapter, client
        self.contracts = dict(contracts)
        self.chosen = set(chosen)
        #: None: the names are the chosen symbols.
        self.names = None if names is None else tuple(names)
        self.url = client.implode_hostname(adapter.address(client.urls["api"]["ws"], channel))
        self._now, self._wake = clock.now, wake
        #: The minute that was sealed last; none before the first tick.
        self.sealed = 0
        #: Until when bots may have read the exchange's candles before this feed began.
        self.read = 0
        #: The row of the store that this feed writes.
        self.row: int | None = None
        #: By how much (ms) the exchange's clock is ahead of ours, where its messages tell no time.
        self.offset = 0
        self.activity = Activity()
        self.work = Work()
        self.problems: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.last_order: Order | None = None
        self.state = "starting"
        #: Since when its store is the one that it writes now; what an earlier one had is not there.
        self.anew = 0
        #: Until when coverage was handed over; None before the first.
        self.covered: int | None = None
        #: Symbols whose contract is not known, with their orders.
        self.unknown: dict[str, list[tuple[Order, int, int]]] = {}
        self.ignored: set[str] = set()
        self.closed = False
        self._reason = "start"
        self._connection: Any = None
        self._asked: dict[str, Request] = {}
        #: Names whose subscription was acknowledged in this session.
        self._told: set[str] = set()
        self._waiting = 0
        self._acknowledged_all = False
        #: The exchange's time and ours (monotonic) when it was told last, and one that is doubted.
        self._synced: tuple[int, float] | None = None
        self._doubted: tuple[int, float] | None = None
        #: The exchange's time and ours when they were compared last.
        self._noted = 0, 0
        self._live, self._proven = False, True
        self._tick: tuple[int, float] | None = None
        self._heard = self._began = self._written = self._quiet = time.monotonic()
        self._looked = self._heard
        self._ranks: tuple[dict[Order, int], dict[Order, int]] = {}, {}
        self._minute_events = 0
        #: Since when frames are judged, and how far the least delayed one was ahead of our clock.
        self._skew: tuple[float, int] | None = None
        self._dials: deque[float] = deque()
        self._resumed: deque[tuple[int, int]] = deque(maxlen=100)

    @property
    def name(self) -> str:
        """Name the feed for people."""
        return f"{self.exchange} {self.channel}"

    @property
    def pairs(self) -> frozenset[str]:
        """Name the pairs that are told: chosen, and if they are subscribed to, acknowledged."""
        told = self.chosen & self._told if self.names is None else self.chosen
        return frozenset(self.contracts[symbol].pair for symbol in told)

    def close(self) -> None:
        """Say with the last work that the feed has ended."""
        self.closed = self.work.beat = True

    def lose(self, number: int) -> None:
        """Give up the oldest orders that wait, and say so; their time is not covered then."""
        last = max(order.timestamp for order, _, _ in self.work.orders[:number]) + 1
        last = min(last, self._now())
        self.work.orders = self.work.orders[number:]
        self.counts["given up"] += number
        if self.covered is not None and last > self.covered:
            self.work.spans.append((self.covered, last))
            self.covered = last
        since = min((start for start, _ in self.work.spans), default=last)
        self.work.spans = [(max(start, last), max(end, last)) for start, end in self.work.spans]
        self.work.gaps.append((since, last, "error"))
        self.problem(f"{number} liquidations were given up, the store can't be written")

    @property
    def live(self) -> bool:
        """Tell whether the subscription stands."""
        return self._live

    # --- what arrives: called for each message, and never raises ---

    def receive(self, connection: Any, data: str | bytes) -> None:
        """Take one raw message."""
        if connection is not self._connection:
            return
        now = self._now()
        try:
            self._read(data, now)
        except Exception as error:  # whatever it is, the next message must be read
            self.problem(f"{type(error).__name__}: {error}", data)

    def _read(self, data: str | bytes, now: int) -> None:
        self.counts["frames"] += 1
        try:
            frame = self.adapter.read(_decode(data))
        except BadFrame as bad:
            self.problem(str(bad), data)
            frame = Frame(orders=bad.orders)
        if frame.orders:
            self._take(frame.orders, now)
        if frame.time is not None or frame.tick:
            # In a burst many frames are sent and read in one millisecond, and say it all again.
            told = frame.time or 0, now
            if frame.tick or told != self._noted:
                self._noted = told
                self._note_time(frame.time, now)
        if frame.refused is not None:
            self._refused(frame.token, frame.refused, data)
        elif frame.token is not None:
            self._acknowledged(frame.token)

    def problem(self, text: str, data: str | bytes = "") -> None:
        """Count a problem, and log it if it is the first of its kind."""
        kind = re.sub(r"'[^']*'|\"[^\"]*\"|[-+.\d]+", "…", text)[:120]
        if kind not in self.problems and len(self.problems) >= _KINDS:
            kind = "others"
        self.problems[kind] += 1
        if self.problems[kind] == 1:
            raw = data if isinstance(data, str) else data.decode(errors="replace")
            more = f"; received: {raw[:500]}" if raw else ""
            logger.warning(f"{self.name}: {printable(text + more)}")

    def _take(self, orders: Iterable[Order], now: int) -> None:
        taken, latest = self.work.orders, now + DAY  # no clock is so far off
        before = len(taken)
        for order in orders:
            if order.timestamp > latest:
                self.problem(f"an order of {order.timestamp} comes at {now}, before its time")
                continue
            rank = self._rank(order)
            if order.symbol in self.chosen:
                taken.append((order, now, rank))
                self.last_order = order
            elif order.symbol not in self.contracts and order.symbol not in self.ignored:
                self._waiting += 1
                if self._waiting <= _KEPT:
                    self.unknown.setdefault(order.symbol, []).append((order, now, rank))
        if new := len(taken) - before:
            self.counts["events"] += new
            self._minute_events += new
            self._quiet = time.monotonic()
        self._wake()

    def _rank(self, order: Order) -> int:
        """Tell equal orders of a session apart; what another one repeats is numbered anew."""
        if order.number is not None:
            return order.number
        young, old = self._ranks
        seen = young.get(order, 0)
        rank = seen + old.get(order, 0)
        young[order] = seen + 1
        if len(young) > _TWINS:
            self._ranks = {}, young
        return rank

    def _note_time(self, sent: int | None, now: int) -> None:
        # A companion without a time proves the path all the same: then it is our clock that counts.
        moment, at = now + self.offset if sent is None else sent, time.monotonic()
        if abs(moment - now) > DAY:
            self.problem(f"the exchange's time {moment} is more than a day off ours")
            return
        expected = self.exchange_time()
        ahead = moment - (now if expected is None else expected)
        # Later ones may be delayed; but one wrong message must not close the minutes to come.
        wrong = abs(ahead) > JUMP if expected is None else ahead > JUMP
        if wrong and not self._confirmed(moment, at):
            self.problem(f"a message is dated {moment}, {ahead} ms off what was expected")
            return
        if expected is None or moment >= expected:
            self._synced = moment, at
        # Only what proves the path keeps a session: orders alone would not move the watermark.
        self._tick, self._heard = (max(moment, self._tick[0] if self._tick else 0), at), at
        if sent is not None:
            self._note_skew(sent - now)
        if self._acknowledged_all and not self._live:
            self._go_live()

    def _confirmed(self, moment: int, at: float) -> bool:
        """Tell whether an earlier message was ahead of the others in the same way."""
        doubted = self._doubted
        if doubted is not None and at - doubted[1] >= CONFIRM:
            elapsed = int((at - doubted[1]) * 1000)
            if abs(moment - doubted[0] - elapsed) <= JUMP:
                return True
            self._doubted = None
        self._doubted = self._doubted or (moment, at)
        return False

    def _note_skew(self, skew: int) -> None:
        """Report a clock that is off; of many frames the least delayed one tells."""
        at = time.monotonic()
        since, best = self._skew or (at, skew)
        self._skew = since, max(best, skew)
        if at - since < JUDGE_CLOCK:
            return
        self._skew = None
        if abs(best) > CLOCK_OFF:
            way = "behind" if best > 0 else "ahead of"
            self.problem(
                f"our clock is {way} that of the exchange by {abs(best) / 1000:.1f} s, so candles "
                "close at the wrong moment; set it by NTP"
            )

    def exchange_time(self) -> int | None:
        """Estimate the exchange's time now; None before it told any."""
        if self._synced is None:
            return None
        sent, at = self._synced
        return sent + int((time.monotonic() - at) * 1000)

    def moment(self) -> int:
        """Return the exchange's time, by which is told who is covered when, or else ours."""
        theirs = self.exchange_time()
        return self._now() if theirs is None else theirs

    def clock(self) -> int:
        """Return our time, unless it runs far ahead of the exchange's: then that one's."""
        theirs = self.exchange_time()
        return self._now() if theirs is None else min(self._now(), theirs + CLOCK_OFF)

    @property
    def watermark(self) -> int | None:
        """Return until when (ms, the exchange's time) everything has arrived."""
        return None if self._tick is None else self._tick[0] - self.adapter.DELAY

    # --- subscribing ---

    def _acknowledged(self, token: str) -> None:
        request = self._asked.pop(token, None)
        if request is None:
            return
        self._told |= set(request.names)
        if self._live:
            self.work.members.append((self.pairs, self.moment()))
        else:
            self._ask_or_go()
        self._wake()

    def _ask_or_go(self) -> None:
        """Go live when all is acknowledged and the exchange has told its time."""
        self._acknowledged_all = not self._asked
        if self._acknowledged_all and self._tick is not None:
            self._go_live()

    def _go_live(self) -> None:
        start = max(self.moment(), self.covered or 0)
        if self.covered is not None:
            self.work.gaps.append((self.covered, start, self._reason))
        self._resumed.append((self.covered or 0, start))
        self.covered, self._live, self.state = start, True, "live"
        self._quiet = time.monotonic()
        self.work.members.append((self.pairs, start))
        number = len(self.chosen)
        logger.info(f"{self.name}: listening to {number} contract{'s' * (number != 1)}")
        if self.names is None and (missing := self.chosen - self._told):
            self._ask(self._named(sorted(missing)))  # chosen while it was subscribing

    def _refused(self, token: str | None, why: str, data: str | bytes) -> None:
        request = self._asked.pop(token, None) if token else None
        if request is None or not request.names:
            self.problem(f"the exchange reports: {why}", data)
            if request is not None:
                self._fail(Lost("error", f"the subscription was refused: {why}"))
        elif len(request.names) == 1:
            # One contract that can't be subscribed must not cost the others.
            self.problem(f"{request.names[0]} can't be subscribed: {why}", data)
            self.chosen -= set(request.names)
            self.ignored |= set(request.names)
            if not self._live:
                self._ask_or_go()
        else:
            half = len(request.names) // 2
            for names in (request.names[:half], request.names[half:]):
                self._ask(self._named(names))

    def _named(self, names: Iterable[str]) -> list[Request]:
        return [one for one in self.adapter.requests(self.channel, tuple(names)) if one.names]

    def _ask(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._asked[request.token] = request
            task = asyncio.ensure_future(self._send(self._connection, request))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, connection: Any, request: Request) -> None:
        try:
            await connection.send(request.message)
        except Exception as error:
            self._fail(Lost("reconnect", f"sending failed: {error}"))

    def _fail(self, lost: Lost) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(lost)

    def choose(self, symbols: Iterable[str]) -> None:
        """Collect these symbols too, from now on."""
        new = set(symbols) - self.chosen - self.ignored
        if not new:
            return
        self.chosen |= new
        if not self._live:
            return
        if self.names is None:
            self._ask(self._named(sorted(new)))
        else:
            self.work.members.append((self.pairs, self.moment()))
            self._wake()

    # --- the session ---

    _failure: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Hold the subscription until cancelled."""
        failures = 0
        while True:
            try:
                await self._session()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    self._hand_over()
                    self._live = False
                    raise
                lost = Lost("reconnect", "the connection was closed")  # ccxt cancels its futures
            except Lost as error:
                lost = error
            except (TimeoutError, ccxt.BaseError, OSError, LiquidationsError) as error:
                lost = Lost("reconnect", f"{type(error).__name__}: {error}")
            failures = 0 if self._live else failures + 1
            self._end(lost)
            await asyncio.sleep(self._pause(failures))

    def _pause(self, failures: int) -> float:
        now = time.monotonic()
        while self._dials and now - self._dials[0] > 300:
            self._dials.popleft()
        busy = 10.0 if len(self._dials) > PATIENCE else 0.2
        return min(30.0, max(busy, 0.2 * 2 ** min(failures, 8) if failures else busy))

    async def _session(self) -> None:
        self._dials.append(time.monotonic())
        self._ranks, self._tick, self._noted = ({}, {}), None, (0, 0)
        self._live, self._proven, self._acknowledged_all = False, True, False
        self._told = set()
        self._sending: set[asyncio.Future[None]] = set()
        names = sorted(self.chosen) if self.names is None else self.names
        requests = self.adapter.requests(self.channel, names)
        self._asked = {request.token: request for request in requests}
        self._failure = asyncio.get_running_loop().create_future()
        self.state = "connecting"
        lost = self.client.watch_multiple(
            self.url, [self.channel], requests[0].message, [self.channel]
        )
        connection = self._connection = self.client.client(self.url)
        try:
            # A dial that fails ends ccxt's other futures, but not this one.
            done, _ = await asyncio.wait(
                (lost, connection.connected),
                timeout=ACKNOWLEDGE,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for one in done:
                one.result()
            if not done:
                raise Lost("reconnect", f"no connection within {ACKNOWLEDGE:.0f} s")
            self._began = self._heard = self._looked = time.monotonic()
            for request in requests[1:]:
                await connection.send(request.message)
            while True:
                done, _ = await asyncio.wait(
                    (lost, self._failure), timeout=1.0, return_when=asyncio.FIRST_COMPLETED
                )
                for one in done:
                    one.result()
                if done:
                    raise Lost("reconnect", "the connection was closed")
                self._check()
        finally:
            for task in self._sending:
                task.cancel()
            for waiting in (lost, self._failure):
                if waiting.done() and not waiting.cancelled():
                    waiting.exception()
                waiting.cancel()
            self.client.clients.pop(self.url, None)
            try:
                # A dead peer does not answer the closing; ccxt would wait for it.
                await asyncio.wait_for(connection.close(), 1.0)
            except (TimeoutError, ccxt.BaseError, OSError) as error:
                logger.debug(f"{self.name}: closing: {error!r}")

    def _check(self) -> None:
        now = time.monotonic()
        if not self._live and now - self._began > ACKNOWLEDGE:
            left = len(self._asked)
            why = f"{left} subscriptions were not acknowledged" if left else "its time did not come"
            raise Lost("error", why)
        limit = min(max(3 * self.adapter.TICK / 1000, SILENT[0]), SILENT[1])
        if now - self._looked > STARVED:
            # We did not run, so we can't know what came: it may still wait in the socket.
            self._heard = now
        self._looked = now
        if now - self._heard > limit:
            raise Lost("silence", f"nothing came for {now - self._heard:.0f} s")

    def dead(self, why: str) -> None:
        """End a session through which no liquidation comes; its silence does not count."""
        since = self._silent_since()
        if self.covered is not None and self.covered > since:
            self.work.revoked.append((since, self.covered))
            self.covered = since
        self._proven = False
        self.activity.forget(since)
        self._fail(Lost("silence", why))

    def jumped(self, step: int) -> None:
        """End the session because our clock jumped, by ``step`` ms."""
        self._proven = False
        self.offset -= step
        self._fail(Lost("clock", f"this machine's clock jumped by {step / 1000:+.1f} s"))

    def silent_since(self) -> int | None:
        """Return since when (ms, the exchange's time) no order came; None if it is not live."""
        return self._silent_since() if self._live else None

    def _silent_since(self) -> int:
        return self.moment() - int((time.monotonic() - self._quiet) * 1000)

    def _end(self, lost: Lost) -> None:
        if self._live:
            self._reason = lost.reason
            self._hand_over()
            logger.warning(f"{self.name}: {lost}; reconnecting")
        else:
            self.problem(f"{lost}; trying again")
        self._live, self.state, self._tick, self._connection = False, "lost", None, None
        self.counts["lost"] += 1
        self._wake()

    async def resumed(self, hole: int) -> tuple[int, int]:
        """Wait until the feed listens again after a hole that began at ``hole`` (ms) or later.

        :return: from when to when it did not listen
        """
        while True:
            while self._resumed and self._resumed[0][1] <= hole:
                self._resumed.popleft()
            if self._resumed:
                start, end = self._resumed.popleft()
                return max(start, hole), end
            await asyncio.sleep(1.0)

    def fill(self, events: dict[str, Events], start: int, end: int) -> None:
        """Hand over what was asked for afterwards of a gap."""
        self.work.filled.append((events, (start, end)))
        self._wake()

    # --- what is to be written ---

    def _hand_over(self) -> None:
        """Hand over the coverage that is proven by now."""
        mark = self.watermark
        if not (self._live and self._proven) or mark is None or self.covered is None:
            return
        if mark > self.covered:
            self.work.spans.append((self.covered, mark))
            self.covered = mark

    def take(self, settle: int) -> Work:
        """Take what is to be written now; minutes are sealed when they are due.

        :param settle: ms after its close at which a minute is sealed at the latest
        """
        mark = self.watermark if self._live else None
        due = max(self.clock() - settle, (mark or 0) - JITTER) // MINUTE * MINUTE
        # Without the exchange's time nothing is sealed: ours may be off, and bots do it themselves.
        if self._tick is not None and due > self.sealed:
            if self._live and due - self.sealed == MINUTE and self.covered is not None:
                self.activity.add(self.sealed, self._minute_events)
            self._minute_events = 0
            self.work.seal = self.sealed = due
        if self.work or time.monotonic() - self._written > BEAT / 1000:
            self._hand_over()
        if not self.work and time.monotonic() - self._written > BEAT / 1000:
            self.work.beat = True
        if self.work:
            self._written = time.monotonic()
        work, self.work = self.work, Work()
        return work

    def give_back(self, work: Work) -> None:
        """Take back what could not be written, to be written before all else."""
        self.work = work.before(self.work)

    def learn(
        self, contracts: Mapping[str, Contract], chosen: Iterable[str], listed: Iterable[str]
    ) -> None:
        """Take over new contracts, and read the orders that waited for them.

        :param chosen: the symbols to collect
        :param listed: all symbols of the exchange, those that are no perpetuals included
        """
        self.contracts.update(contracts)
        self.choose(chosen)
        waiting, self.unknown, self._waiting = self.unknown, {}, 0
        for symbol in waiting:
            if symbol not in self.contracts:
                self.ignored.add(symbol)
                if symbol not in listed:
                    self.problem(f"the exchange lists no contract {symbol!r}")
        for rows in waiting.values():
            self.work.orders += [row for row in rows if row[0].symbol in self.chosen]


def _decode(data: str | bytes) -> Any:
    """Decode a message: JSON, or the text of a pong.

    :raises BadFrame: if it begins as JSON and is none.
    """
    if isinstance(data, bytes):
        try:
            data = data.decode()
        except UnicodeDecodeError as error:
            raise BadFrame(f"a message is no text: {error.reason}") from error
    if data.lstrip()[:1] not in ("{", "["):
        return data
    try:
        return orjson.loads(data)
    except ValueError as error:
        raise BadFrame(f"a message is no JSON: {error}") from error
